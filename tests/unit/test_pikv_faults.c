/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client rpc base proto */
/* libpikv against a daemon that is late, wrong, gone or stopped. */
#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "client/conn.h"
#include "tests/lib/fake_pikvd.h"

static struct fake *fake;
static struct pikv *kv;
static uint32_t ns;

static void begin(uint32_t lanes)
{
    struct pikv_namespace d = {.name = "test", .create = true};
    struct pikv_options o = {0};

    fake = fake_start(lanes);
    o.address = fake_address(fake);
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), PIKV_OK);
}

static void end(void)
{
    pikv_close(kv);
    fake_stop(fake);
}

static struct pikv_key key_of(const char *s)
{
    return (struct pikv_key){.key = {s, strlen(s)}};
}

static int put_call(const char *key, const void *p, size_t n,
                    const struct pikv_call *call)
{
    struct pikv_put item = {.key = key_of(key), .data = {p, n}};
    struct pikv_result r;
    int e = pikv_put_sync(kv, ns, &item, 1, call, &r);

    return e ? e : r.status;
}

static int put(const char *key, const void *p, size_t n)
{
    return put_call(key, p, n, NULL);
}

static int get_call(const char *key, void *p, size_t n,
                    const struct pikv_call *call)
{
    struct pikv_get item = {.key = key_of(key), .data = {p, n}};
    struct pikv_result r;
    int e = pikv_get_sync(kv, ns, &item, 1, call, &r);

    if (e)
        ck_assert_int_eq(r.status, e);
    return e ? e : r.status;
}

static int get(const char *key, void *p, size_t n)
{
    return get_call(key, p, n, NULL);
}

/* Until the background connection is there again. */
static void await_server(void)
{
    char c;

    for (int i = 0; i < 5000; i++) {
        int e = get("anything", &c, 1);

        if (e == PIKV_OK || e == PIKV_MISS)
            return;
        usleep(1000);
    }
    ck_abort_msg("no connection came back");
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

START_TEST(a_server_that_never_answers_costs_one_deadline)
{
    struct pikv_call call = {.deadline_us = 30000};
    char buf[100];
    uint64_t start;

    begin(1 + (uint32_t)_i);
    fake_set_mode(fake, FAKE_HOLDS);
    start = now_ms();
    ck_assert_int_eq(get_call("k", buf, sizeof(buf), &call), PIKV_TIMEOUT);
    ck_assert_uint_ge(now_ms() - start, 30);
    ck_assert_uint_lt(now_ms() - start, 3000);
    fake_set_mode(fake, FAKE_SERVES);
    await_server();
    end();
}
END_TEST

START_TEST(late_bytes_never_reach_unregistered_memory)
{
    struct pikv_call call = {.deadline_us = 10000};
    char buf[100];

    begin(1);
    ck_assert_int_eq(put("k", "good", 4), PIKV_OK);
    fake_set_mode(fake, FAKE_HOLDS);
    memset(buf, 7, sizeof(buf));
    ck_assert_int_eq(get_call("k", buf, sizeof(buf), &call), PIKV_TIMEOUT);
    ck_assert_uint_eq(fake_held(fake), 1);
    fake_set_mode(fake, FAKE_SERVES);
    await_server();
    await_server();
    for (size_t i = 0; i < sizeof(buf); i++)
        ck_assert_int_eq(buf[i], 7);
    ck_assert_int_eq(get("k", buf, sizeof(buf)), PIKV_OK);
    ck_assert_mem_eq(buf, "good", 4);
    end();
}
END_TEST

START_TEST(a_given_up_get_is_not_copied_into_registered_memory)
{
    struct pikv_call call = {.deadline_us = 10000};
    void *mem;
    char *buf;

    begin(1);
    ck_assert_int_eq(pikv_mem_alloc(kv, 4096, &mem), PIKV_OK);
    buf = mem;
    ck_assert_int_eq(put("k", "good", 4), PIKV_OK);
    fake_set_mode(fake, FAKE_HOLDS);
    memset(buf, 7, 4096);
    ck_assert_int_eq(get_call("k", buf, 4096, &call), PIKV_TIMEOUT);
    fake_set_mode(fake, FAKE_SERVES);
    await_server();
    for (size_t i = 0; i < 4096; i++)
        ck_assert_int_eq(buf[i], 7);
    ck_assert_int_eq(get("k", buf, 4096), PIKV_OK);
    ck_assert_mem_eq(buf, "good", 4);
    end();
}
END_TEST

START_TEST(a_given_up_put_of_registered_memory_is_not_stored_later)
{
    struct pikv_call call = {.deadline_us = 10000};
    void *mem;
    char *buf, out[4];

    begin(1);
    ck_assert_int_eq(pikv_mem_alloc(kv, 4096, &mem), PIKV_OK);
    buf = mem;
    memcpy(buf, "old!", 4);
    fake_set_mode(fake, FAKE_HOLDS);
    ck_assert_int_eq(put_call("k", buf, 4, &call), PIKV_TIMEOUT);
    memcpy(buf, "new!", 4); /* the caller's again */
    fake_set_mode(fake, FAKE_SERVES);
    await_server();
    ck_assert_int_eq(get("k", out, 4), PIKV_MISS);
    end();
}
END_TEST

START_TEST(a_given_up_put_through_staging_has_its_own_bytes)
{
    struct pikv_call call = {.deadline_us = 10000};
    char buf[4] = "old", out[4] = "";
    int e;

    begin(1);
    fake_set_mode(fake, FAKE_HOLDS);
    ck_assert_int_eq(put_call("k", buf, 4, &call), PIKV_TIMEOUT);
    memcpy(buf, "new", 4);
    /* The staging bytes of a late request are not used by others. */
    ck_assert_int_eq(put_call("l", buf, 4, &call), PIKV_TIMEOUT);
    fake_set_mode(fake, FAKE_SERVES);
    await_server();
    do
        e = get("k", out, 4);
    while (e == PIKV_MISS); /* the late request is being served */
    ck_assert_int_eq(e, PIKV_OK);
    ck_assert_str_eq(out, "old");
    end();
}
END_TEST

START_TEST(doubled_and_invented_replies_are_dropped)
{
    char buf[10];

    begin(2);
    fake_set_mode(fake, FAKE_DOUBLES);
    ck_assert_int_eq(put("k", "good", 4), PIKV_OK);
    for (int i = 0; i < 50; i++)
        ck_assert_int_eq(get("k", buf, sizeof(buf)), PIKV_OK);
    ck_assert_mem_eq(buf, "good", 4);
    ck_assert_uint_eq(fake_hellos(fake), 2);
    end();
}
END_TEST

static const struct {
    enum fake_mode mode;
    int status;
} ends[] = {
    {FAKE_CUTS, PIKV_RETRY},
    {FAKE_GARBLES, PIKV_RETRY},
    {FAKE_DIES, PIKV_RETRY},
    {FAKE_LIES, PIKV_RETRY},
};

START_TEST(a_connection_that_ends_answers_retry_and_comes_back)
{
    char buf[10];

    begin(1);
    ck_assert_int_eq(put("k", "good", 4), PIKV_OK);
    fake_set_mode(fake, ends[_i].mode);
    ck_assert_int_eq(get("k", buf, sizeof(buf)), ends[_i].status);
    fake_set_mode(fake, FAKE_SERVES);
    await_server();
    ck_assert_int_eq(get("k", buf, sizeof(buf)), PIKV_OK);
    ck_assert_mem_eq(buf, "good", 4);
    end();
}
END_TEST

START_TEST(a_dead_lane_ends_only_its_own_items)
{
    enum { N = 40 };
    struct pikv_key keys[N];
    struct pikv_result r[N];
    struct pikv_call call = {.deadline_us = 20000};
    uint32_t late = 0, served = 0;
    char s[N][8];
    uint64_t id;

    begin(2);
    for (uint32_t i = 0; i < N; i++) {
        snprintf(s[i], sizeof(s[i]), "k%u", i);
        keys[i] = key_of(s[i]);
        ck_assert_int_eq(put(s[i], "x", 1), PIKV_OK);
    }
    fake_set_lane_mode(fake, 1, FAKE_HOLDS);
    ck_assert_int_eq(pikv_lookup(kv, ns, keys, N, NULL, 1, NULL, &call, r, &id),
                     PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_TIMEOUT);
    for (uint32_t i = 0; i < N; i++) {
        late += r[i].status == PIKV_TIMEOUT;
        served += r[i].status == PIKV_OK && r[i].state == 2;
    }
    ck_assert_uint_eq(late + served, N);
    ck_assert_uint_gt(late, 0);
    ck_assert_uint_gt(served, 0);
    end();
}
END_TEST

START_TEST(a_refusal_is_the_status_of_call_and_items)
{
    char buf[10];

    begin(1);
    fake_set_mode(fake, FAKE_REFUSES);
    ck_assert_int_eq(get("k", buf, sizeof(buf)), PIKV_BUSY);
    end();
}
END_TEST

START_TEST(verify_finds_a_flipped_bit)
{
    struct pikv_call call = {.verify = true};
    void *mem;
    char buf[10];

    begin(1);
    ck_assert_int_eq(pikv_mem_alloc(kv, 4096, &mem), PIKV_OK);
    ck_assert_int_eq(put("k", "good", 4), PIKV_OK);
    ck_assert_int_eq(get_call("k", buf, sizeof(buf), &call), PIKV_OK);
    ck_assert_int_eq(get_call("k", mem, 10, &call), PIKV_OK);
    fake_set_mode(fake, FAKE_FLIPS);
    ck_assert_int_eq(get_call("k", buf, sizeof(buf), &call), PIKV_CORRUPT);
    /* Flipped again: right again. */
    ck_assert_int_eq(get_call("k", mem, 10, &call), PIKV_OK);
    ck_assert_int_eq(get_call("k", mem, 10, &call), PIKV_CORRUPT);
    end();
}
END_TEST

START_TEST(a_loan_that_was_not_asked_for_copies_nothing)
{
    char buf[10];

    begin(1);
    ck_assert_int_eq(put("k", "good", 4), PIKV_OK);
    fake_set_mode(fake, FAKE_LENDS);
    ck_assert_int_eq(get("k", buf, sizeof(buf)), PIKV_RETRY);
    end();
}
END_TEST

/* A write to it would kill the host by SIGPIPE. */
START_TEST(a_pipe_in_place_of_the_eventfd_is_refused)
{
    struct pikv_options o = {0};

    fake = fake_start(1);
    fake_set_pipe(fake);
    o.address = fake_address(fake);
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_NO_SERVER);
    fake_stop(fake);
}
END_TEST

START_TEST(requests_of_an_ended_connection_are_given_up)
{
    void *mem;

    begin(1);
    ck_assert_int_eq(pikv_mem_alloc(kv, 4096, &mem), PIKV_OK);
    fake_set_mode(fake, FAKE_GARBLES);
    ck_assert_int_eq(put("k", mem, 4096), PIKV_RETRY);
    for (int i = 0; fake_given_up(fake) == 0; i++) {
        ck_assert_int_lt(i, 5000);
        usleep(1000);
    }
    end();
}
END_TEST

/* Its descriptor must not be that of something else by then. */
START_TEST(memory_dropped_before_it_was_told_costs_no_connection)
{
    enum { N = 4, BIG = 1 << 20 };
    struct pikv_options o = {.staging_bytes = 256 << 10};
    struct pikv_call call = {.deadline_us = 20000};
    struct pikv_namespace d = {.name = "test"};
    struct pikv_get items[N] = {0};
    struct pikv_result r[N];
    char *big = calloc(1, BIG), small[10];
    uint64_t id[N];

    fake = fake_start(1);
    fake_set_credits(fake, N, MIB(256));
    o.address = fake_address(fake);
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), PIKV_OK);
    fake_set_mode(fake, FAKE_HOLDS);
    for (int i = 0; i < N; i++) { /* all credits */
        items[i].key = key_of("k");
        items[i].data = (struct pikv_buf){small, sizeof(small)};
        ck_assert_int_eq(pikv_get(kv, ns, &items[i], 1,
                                  &(struct pikv_call){.deadline_us = 10000000},
                                  &r[i], &id[i]),
                         PIKV_OK);
    }
    ck_assert_int_eq(put_call("big", big, BIG, &call), PIKV_TIMEOUT);
    fake_set_mode(fake, FAKE_SERVES);
    for (int i = 0; i < N; i++)
        ck_assert_int_eq(pikv_wait(kv, id[i], NULL), PIKV_OK);
    ck_assert_int_eq(put("small", small, sizeof(small)), PIKV_OK);
    ck_assert_uint_eq(fake_hellos(fake), 1);
    end();
    free(big);
}
END_TEST

static bool can_be_read(int fd, int wait_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, wait_ms) == 1;
}

/* Else a daemon that has rung once rings no more, and the sleeper sleeps. */
START_TEST(who_polls_leaves_the_ring_to_the_thread_that_sleeps)
{
    struct pikv_options o = {.no_progress_thread = true};
    struct pikv_get item = {.key = key_of("k")};
    struct pikv_namespace d = {.name = "test"};
    struct pollfd fds[CONN_FDS];
    struct pikv_result r;
    struct conn *c;
    char buf[10];
    uint64_t id;

    fake = fake_start(1);
    o.address = fake_address(fake);
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), PIKV_OK);
    c = kv->conns[0];
    ck_assert_int_eq(c->ops->fds(c, fds), 2);
    fake_set_mode(fake, FAKE_HOLDS);
    item.data = (struct pikv_buf){buf, sizeof(buf)};
    ck_assert_int_eq(pikv_get(kv, ns, &item, 1,
                              &(struct pikv_call){.deadline_us = 10000000}, &r,
                              &id),
                     PIKV_OK);
    ck_assert(c->ops->arm(c)); /* as the thread does before it sleeps */
    fake_set_mode(fake, FAKE_SERVES);
    ck_assert(can_be_read(fds[1].fd, 10000));
    (void)c->ops->progress(c, true);
    ck_assert(can_be_read(fds[1].fd, 0));
    c->ops->awake(c);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_OK);
    end();
}
END_TEST

START_TEST(a_restarted_server_is_found_with_memory_and_namespaces)
{
    void *mem;
    char *buf;

    begin(3);
    ck_assert_int_eq(pikv_mem_alloc(kv, 4096, &mem), PIKV_OK);
    buf = mem;
    memcpy(buf, "good", 4);
    ck_assert_int_eq(put("k", buf, 4), PIKV_OK);
    fake_restart(fake);
    await_server();
    ck_assert_int_eq(get("k", buf + 100, 4), PIKV_MISS);
    while (put("k", buf, 4) == PIKV_NO_SERVER)
        usleep(1000);
    ck_assert_int_eq(get("k", buf + 100, 4), PIKV_OK);
    ck_assert_mem_eq(buf + 100, "good", 4);
    end();
}
END_TEST

START_TEST(a_gone_server_answers_at_once)
{
    char path[200], buf[10];
    uint64_t start;

    begin(1);
    strcpy(path, fake_address(fake));
    fake_stop(fake);
    while (get("k", buf, sizeof(buf)) != PIKV_NO_SERVER)
        usleep(1000);
    start = now_ms();
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(get("k", buf, sizeof(buf)), PIKV_NO_SERVER);
    ck_assert_uint_lt(now_ms() - start, 2000);
    pikv_close(kv);
}
END_TEST

START_TEST(open_says_why_it_failed)
{
    struct pikv_options o = {.address = "shm:/nonexistent/pikvd.sock"};
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char dir[] = "/tmp/pikv_open.XXXXXX", addr[128];
    int s;

    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_NO_SERVER);
    ck_assert_ptr_nonnull(strstr(pikv_last_error(), "/nonexistent"));
    o.address = "http://x";
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_BAD_REQUEST);
    /* Somebody listens and never says welcome. */
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(at.sun_path, sizeof(at.sun_path), "%s/s", dir);
    s = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    ck_assert_int_eq(bind(s, (struct sockaddr *)&at, sizeof(at)), 0);
    ck_assert_int_eq(listen(s, 8), 0);
    snprintf(addr, sizeof(addr), "shm:%s", at.sun_path);
    o.address = addr;
    o.connect_ms = 50;
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_TIMEOUT);
    close(s);
    unlink(at.sun_path);
    rmdir(dir);
}
END_TEST

START_TEST(close_with_calls_in_flight_touches_their_buffers_no_more)
{
    enum { N = 30 };
    static char buf[N][1 << 16];
    struct pikv_get items[N] = {0};
    struct pikv_result r[N];
    uint64_t id;
    void *mem;

    begin(2);
    ck_assert_int_eq(pikv_mem_alloc(kv, 1 << 16, &mem), PIKV_OK);
    ck_assert_int_eq(put("k", buf[0], sizeof(buf[0])), PIKV_OK);
    fake_set_mode(fake, FAKE_HOLDS);
    for (int i = 0; i < N; i++) {
        memset(buf[i], 9, sizeof(buf[i]));
        items[i].key = key_of("k");
        items[i].data.p = i % 3 ? (void *)buf[i] : mem;
        items[i].data.len = sizeof(buf[i]);
        ck_assert_int_eq(pikv_get(kv, ns, &items[i], 1, NULL, &r[i], &id),
                         PIKV_OK);
    }
    pikv_close(kv);
    fake_set_mode(fake, FAKE_SERVES);
    fake_stop(fake);
    for (int i = 0; i < N; i++)
        ck_assert_int_eq(buf[i][100], 9);
}
END_TEST

START_TEST(staging_held_by_late_requests_is_busy_not_shared)
{
    struct pikv_call call = {.deadline_us = 5000};
    struct pikv_options o = {.staging_bytes = 256 << 10};
    struct pikv_namespace d = {.name = "test"};
    char *buf = calloc(1, 100 << 10);
    int e;

    fake = fake_start(1);
    o.address = fake_address(fake);
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), PIKV_OK);
    fake_set_mode(fake, FAKE_HOLDS);
    ck_assert_int_eq(put_call("a", buf, 100 << 10, &call), PIKV_TIMEOUT);
    ck_assert_int_eq(put_call("b", buf, 100 << 10, &call), PIKV_TIMEOUT);
    ck_assert_int_eq(put_call("c", buf, 100 << 10, &call), PIKV_BUSY);
    fake_set_mode(fake, FAKE_SERVES);
    /* Free again when the late replies have come. */
    do
        e = put("c", buf, 100 << 10);
    while (e == PIKV_BUSY);
    ck_assert_int_eq(e, PIKV_OK);
    end();
    free(buf);
}
END_TEST

/* ---- hints ---- */

static int prefetch(uint32_t *count_out)
{
    struct pikv_key keys[2] = {key_of("cold1"), key_of("cold2")};
    struct pikv_result r[2];
    struct pikv_completion done;
    uint64_t id;
    int e = pikv_prefetch(kv, ns, keys, 2, 0, NULL, r, &id);

    ck_assert_int_eq(e, PIKV_OK);
    e = pikv_wait(kv, id, &done);
    *count_out = done.count;
    if (e)
        ck_assert_int_eq(r[0].status, e);
    return e;
}

static const struct {
    enum fake_mode mode;
    int status;
} prefetches[] = {
    {FAKE_CUTS, PIKV_RETRY},    {FAKE_GARBLES, PIKV_RETRY},
    {FAKE_DIES, PIKV_RETRY},    {FAKE_BOASTS, PIKV_RETRY},
    {FAKE_HOLDS, PIKV_TIMEOUT}, {FAKE_REFUSES, PIKV_BUSY},
};

START_TEST(a_prefetch_that_goes_wrong_ends_with_its_reason)
{
    uint32_t count;

    begin(1);
    ck_assert_int_eq(put("cold1", "x", 1), PIKV_OK);
    fake_set_mode(fake, prefetches[_i].mode);
    ck_assert_int_eq(prefetch(&count), prefetches[_i].status);
    ck_assert_uint_eq(count, 0);
    fake_set_mode(fake, FAKE_SERVES);
    await_server();
    while (prefetch(&count) == PIKV_TIMEOUT) /* sanitizers are slow */
        ;
    ck_assert_uint_eq(count, 1);
    end();
}
END_TEST

START_TEST(a_dead_lane_leaves_the_others_prefetching)
{
    enum { N = 40 };
    struct pikv_call call = {.deadline_us = 20000};
    struct pikv_completion done;
    struct pikv_key keys[N];
    struct pikv_result r[N];
    uint32_t late = 0, begun = 0;
    char s[N][8];
    uint64_t id;

    begin(2);
    for (uint32_t i = 0; i < N; i++) {
        snprintf(s[i], sizeof(s[i]), "cold%u", i);
        keys[i] = key_of(s[i]);
        ck_assert_int_eq(put(s[i], "x", 1), PIKV_OK);
    }
    fake_set_lane_mode(fake, 1, FAKE_HOLDS);
    ck_assert_int_eq(pikv_prefetch(kv, ns, keys, N, 0, &call, r, &id), PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, &done), PIKV_TIMEOUT);
    for (uint32_t i = 0; i < N; i++) {
        late += r[i].status == PIKV_TIMEOUT;
        begun += r[i].status == PIKV_OK;
    }
    ck_assert_uint_gt(late, 0);
    ck_assert_uint_eq(late + begun, N);
    ck_assert_uint_eq(done.count, begun);
    end();
}
END_TEST

static int explain(struct pikv_explanation *x)
{
    struct pikv_key k = key_of("k");
    struct pikv_call call = {.deadline_us = 100000};

    memset(x, 0xee, sizeof(*x));
    return pikv_explain(kv, ns, &k, &call, x);
}

/* FLIPS: bytes that are no message. CUTS: no reason in it. */
static const struct {
    enum fake_mode mode;
    int status;
} explains[] = {
    {FAKE_FLIPS, PIKV_BAD_REQUEST}, {FAKE_CUTS, PIKV_BAD_REQUEST},
    {FAKE_GARBLES, PIKV_RETRY},     {FAKE_DIES, PIKV_RETRY},
    {FAKE_HOLDS, PIKV_TIMEOUT},     {FAKE_REFUSES, PIKV_BUSY},
};

START_TEST(an_explanation_that_makes_no_sense_is_none)
{
    struct pikv_explanation x;
    int e;

    begin(1);
    fake_set_mode(fake, explains[_i].mode);
    ck_assert_int_eq(explain(&x), explains[_i].status);
    ck_assert_uint_eq((uint8_t)x.reason[0], 0xee); /* written only on OK */
    fake_set_mode(fake, FAKE_SERVES);
    await_server();
    while ((e = explain(&x)) == PIKV_TIMEOUT)
        ;
    ck_assert_int_eq(e, PIKV_OK);
    ck_assert_str_eq(x.reason, "late");
    end();
}
END_TEST

START_TEST(words_of_an_explanation_that_are_too_long_are_cut)
{
    struct pikv_explanation x;

    begin(1);
    fake_set_mode(fake, FAKE_BOASTS);
    ck_assert_int_eq(explain(&x), PIKV_OK);
    ck_assert_uint_eq(strlen(x.advice), sizeof(x.advice) - 1);
    end();
}
END_TEST

START_TEST(hints_to_a_gone_server_answer_at_once)
{
    struct pikv_explanation x;
    char buf[10];

    begin(2);
    fake_stop(fake);
    while (get("k", buf, sizeof(buf)) != PIKV_NO_SERVER)
        usleep(1000);
    while (pikv_session(kv, ns, 5, PIKV_SESSION_IDLE, NULL) != PIKV_NO_SERVER)
        usleep(1000);
    while (explain(&x) != PIKV_NO_SERVER)
        usleep(1000);
    pikv_close(kv);
}
END_TEST

/* What is said while the connection ends is lost, as said in pikv.h. */
START_TEST(a_session_said_again_after_a_restart_arrives)
{
    struct pikv_call call = {.deadline_us = 1000000};
    struct fake_seen seen = {0};

    begin(2);
    fake_restart(fake);
    await_server();
    for (int i = 0; i < 5000 && seen.session != 9; i++) {
        (void)pikv_session(kv, ns, 9, PIKV_SESSION_CLOSED, &call);
        usleep(1000);
        fake_seen(fake, 1, &seen);
    }
    ck_assert_uint_eq(seen.session, 9);
    ck_assert_str_eq(seen.session_state, "closed");
    end();
}
END_TEST

Suite *suite(void);

Suite *suite(void)
{
    Suite *s = suite_create("pikv_faults");
    TCase *t = tcase_create("faults");

    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, a_server_that_never_answers_costs_one_deadline, 0,
                        2);
    tcase_add_test(t, late_bytes_never_reach_unregistered_memory);
    tcase_add_test(t, a_given_up_get_is_not_copied_into_registered_memory);
    tcase_add_test(t, a_given_up_put_of_registered_memory_is_not_stored_later);
    tcase_add_test(t, a_given_up_put_through_staging_has_its_own_bytes);
    tcase_add_test(t, doubled_and_invented_replies_are_dropped);
    tcase_add_loop_test(t, a_connection_that_ends_answers_retry_and_comes_back,
                        0, (int)countof(ends));
    tcase_add_test(t, a_dead_lane_ends_only_its_own_items);
    tcase_add_test(t, a_refusal_is_the_status_of_call_and_items);
    tcase_add_test(t, verify_finds_a_flipped_bit);
    tcase_add_test(t, a_loan_that_was_not_asked_for_copies_nothing);
    tcase_add_test(t, a_pipe_in_place_of_the_eventfd_is_refused);
    tcase_add_test(t, requests_of_an_ended_connection_are_given_up);
    tcase_add_test(t, memory_dropped_before_it_was_told_costs_no_connection);
    tcase_add_test(t, who_polls_leaves_the_ring_to_the_thread_that_sleeps);
    tcase_add_test(t, a_restarted_server_is_found_with_memory_and_namespaces);
    tcase_add_test(t, a_gone_server_answers_at_once);
    tcase_add_test(t, open_says_why_it_failed);
    tcase_add_test(t, close_with_calls_in_flight_touches_their_buffers_no_more);
    tcase_add_test(t, staging_held_by_late_requests_is_busy_not_shared);
    tcase_add_loop_test(t, a_prefetch_that_goes_wrong_ends_with_its_reason, 0,
                        (int)countof(prefetches));
    tcase_add_test(t, a_dead_lane_leaves_the_others_prefetching);
    tcase_add_loop_test(t, an_explanation_that_makes_no_sense_is_none, 0,
                        (int)countof(explains));
    tcase_add_test(t, words_of_an_explanation_that_are_too_long_are_cut);
    tcase_add_test(t, hints_to_a_gone_server_answer_at_once);
    tcase_add_test(t, a_session_said_again_after_a_restart_arrives);
    suite_add_tcase(s, t);
    return s;
}
