/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client rpc base proto */
/* libpikv against a scripted daemon that behaves: what goes where and what
 * comes back. */
#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "client/pikv.h"
#include "tests/lib/fake_pikvd.h"

static struct fake *fake;
static struct pikv *kv;
static uint32_t ns;

static void open_with(uint32_t lanes, struct pikv_options o)
{
    struct pikv_namespace d = {.name = "test", .create = true};

    fake = fake_start(lanes);
    o.address = fake_address(fake);
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), PIKV_OK);
}

static void open_lanes(uint32_t lanes)
{
    open_with(lanes, (struct pikv_options){0});
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

/* None of these tests is about deadlines; sanitizers are slow. */
static const struct pikv_call patient = {.deadline_us = 20000000};

static int put(const char *key, const void *p, size_t n)
{
    struct pikv_put item = {.key = key_of(key), .data = {p, n}};
    struct pikv_result r;
    int e = pikv_put_sync(kv, ns, &item, 1, &patient, &r);

    return e ? e : r.status;
}

static int get(const char *key, void *p, size_t n, struct pikv_result *r)
{
    struct pikv_get item = {.key = key_of(key), .data = {p, n}};
    int e = pikv_get_sync(kv, ns, &item, 1, &patient, r);

    return e ? e : r->status;
}

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 31 + seed + (i >> 8));
}

START_TEST(the_settings_of_a_new_namespace_are_asked_for)
{
    struct pikv_namespace d = {.name = "n",
                               .create = true,
                               .policy = "s3fifo",
                               .dram = "write_buffer"};
    struct fake_seen seen;

    open_lanes(1);
    fake_seen(fake, 0, &seen);
    ck_assert_str_eq(seen.policy, ""); /* of a server's default */
    ck_assert_str_eq(seen.dram, "");
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), PIKV_OK);
    fake_seen(fake, 0, &seen);
    ck_assert_str_eq(seen.policy, "s3fifo");
    ck_assert_str_eq(seen.dram, "write_buffer");
    end();
}
END_TEST

START_TEST(a_block_comes_back_as_it_was_put)
{
    uint8_t in[5000], out[6000];
    struct pikv_result r;

    open_lanes(1);
    fill(in, sizeof(in), 1);
    ck_assert_int_eq(put("k", in, sizeof(in)), PIKV_OK);
    ck_assert_int_eq(put("k", in, sizeof(in)), PIKV_EXISTS);
    ck_assert_int_eq(get("k", out, sizeof(out), &r), PIKV_OK);
    ck_assert_uint_eq(r.len, sizeof(in));
    ck_assert_uint_eq(r.moved, sizeof(in));
    ck_assert_mem_eq(in, out, sizeof(in));
    ck_assert_int_eq(get("other", out, sizeof(out), &r), PIKV_MISS);
    end();
}
END_TEST

START_TEST(info_says_what_hello_answered)
{
    struct pikv_info info;

    open_lanes(3);
    ck_assert_int_eq(pikv_info(kv, &info), PIKV_OK);
    ck_assert_str_eq(info.server, "fake 1");
    ck_assert_str_eq(info.transport, "shm");
    ck_assert_uint_eq(info.lanes, 3);
    ck_assert_uint_eq(info.batch_keys_max, 1024);
    ck_assert_uint_eq(fake_hellos(fake), 3);
    end();
}
END_TEST

/* Names key0, key1, ... in one buffer. */
static char (*names(uint32_t n))[16]
{
    char(*s)[16] = calloc(n, sizeof(*s));

    for (uint32_t i = 0; i < n; i++)
        snprintf(s[i], sizeof(*s), "key%u", i);
    return s;
}

START_TEST(a_batch_is_split_over_the_lanes_and_merged_in_order)
{
    enum { N = 200, LEN = 300 };
    static uint8_t in[N][LEN], out[N][LEN];
    struct pikv_put puts[N] = {0};
    struct pikv_get gets[N] = {0};
    struct pikv_result r[N];
    char(*s)[16] = names(N);
    uint32_t lanes = 2 + (uint32_t)_i;

    open_lanes(lanes);
    for (uint32_t i = 0; i < N; i++) {
        fill(in[i], LEN, i);
        puts[i] = (struct pikv_put){.key = key_of(s[i]), .data = {in[i], LEN}};
        gets[i] = (struct pikv_get){.key = key_of(s[i]), .data = {out[i], LEN}};
    }
    ck_assert_int_eq(pikv_put_sync(kv, ns, puts, N, NULL, r), PIKV_OK);
    for (uint32_t i = 0; i < lanes; i++)
        ck_assert_uint_eq(fake_requests(fake, i), 1);
    gets[7].key = key_of("nobody");
    ck_assert_int_eq(pikv_get_sync(kv, ns, gets, N, NULL, r), PIKV_OK);
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_int_eq(r[i].status, i == 7 ? PIKV_MISS : PIKV_OK);
        if (i != 7)
            ck_assert_mem_eq(in[i], out[i], LEN);
    }
    end();
    free(s);
}
END_TEST

START_TEST(a_route_keeps_keys_together)
{
    enum { N = 50 };
    struct pikv_put puts[N];
    struct pikv_result r[N];
    char(*s)[16] = names(N);

    open_lanes(4);
    for (uint32_t i = 0; i < N; i++) {
        puts[i] = (struct pikv_put){.key = key_of(s[i]), .data = {"x", 1}};
        puts[i].key.route = (struct pikv_bytes){"seq", 3};
    }
    ck_assert_int_eq(pikv_put_sync(kv, ns, puts, N, NULL, r), PIKV_OK);
    ck_assert_uint_eq(fake_requests(fake, 0) + fake_requests(fake, 1) +
                          fake_requests(fake, 2) + fake_requests(fake, 3),
                      1);
    end();
    free(s);
}
END_TEST

START_TEST(registered_memory_is_named_and_other_memory_staged)
{
    uint8_t *mem, *other = malloc(100000);
    struct pikv_result r;
    void *p;

    open_lanes(2);
    ck_assert_int_eq(pikv_mem_alloc(kv, 1 << 20, &p), PIKV_OK);
    mem = p;
    fill(mem, 100000, 5);
    ck_assert_int_eq(put("reg", mem, 100000), PIKV_OK);
    ck_assert_int_eq(get("reg", mem + 500000, 100000, &r), PIKV_OK);
    ck_assert_mem_eq(mem, mem + 500000, 100000);
    ck_assert_int_eq(get("reg", other, 100000, &r), PIKV_OK);
    ck_assert_mem_eq(mem, other, 100000);
    ck_assert_int_eq(put("other", other, 100000), PIKV_OK);
    ck_assert_int_eq(get("other", mem, 1 << 20, &r), PIKV_OK);
    ck_assert_uint_eq(r.moved, 100000);
    ck_assert_uint_eq(fake_segs(fake), 5);
    pikv_mem_free(kv, p);
    ck_assert_int_eq(pikv_mem_unregister(kv, p), PIKV_NO_MEM);
    end();
    free(other);
}
END_TEST

START_TEST(a_caller_may_register_his_own_memfd_at_an_offset)
{
    int fd = memfd_create("mine", 0);
    struct pikv_result r;
    uint8_t *p, out[4096];

    ck_assert_int_eq(ftruncate(fd, 3 * 4096), 0);
    p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
    open_lanes(1);
    ck_assert_int_eq(pikv_mem_register_fd(kv, fd, 4096, 8192, p), PIKV_OK);
    fill(p, 8192, 9);
    ck_assert_int_eq(put("m", p + 4096, 4096), PIKV_OK);
    ck_assert_int_eq(get("m", out, 4096, &r), PIKV_OK);
    ck_assert_mem_eq(p + 4096, out, 4096);
    ck_assert_int_eq(pikv_mem_unregister(kv, p), PIKV_OK);
    p[0] = 1; /* still mapped: only the registration went */
    end();
    munmap(p, 8192);
    close(fd);
}
END_TEST

/* Three runs, the middle one in registered memory if that is asked for. */
static void scatter(bool registered)
{
    uint8_t a[100], b[5000], c[33], whole[5133];
    uint8_t ra[1000], rb[4000], rc[200];
    struct pikv_bytes from[3];
    struct pikv_buf to[3];
    struct pikv_put put_item = {.key = key_of("s"), .iov = from, .iov_n = 3};
    struct pikv_get get_item = {.key = key_of("s"), .iov = to, .iov_n = 3};
    struct pikv_result r;
    void *mem;
    uint8_t *p;

    ck_assert_int_eq(pikv_mem_alloc(kv, 1 << 16, &mem), PIKV_OK);
    p = mem;
    fill(whole, sizeof(whole), 3);
    memcpy(a, whole, sizeof(a));
    memcpy(b, whole + 100, sizeof(b));
    memcpy(c, whole + 5100, sizeof(c));
    memcpy(p, b, sizeof(b));
    from[0] = (struct pikv_bytes){a, sizeof(a)};
    from[1] = (struct pikv_bytes){registered ? p : b, sizeof(b)};
    from[2] = (struct pikv_bytes){c, sizeof(c)};
    if (registered)
        for (int i = 0; i < 3; i++) {
            memcpy(p + 8192 * (i + 1), from[i].p, from[i].len);
            from[i].p = p + 8192 * (i + 1);
        }
    ck_assert_int_eq(pikv_put_sync(kv, ns, &put_item, 1, NULL, &r), PIKV_OK);
    ck_assert_int_eq(r.status, PIKV_OK);
    to[0] = (struct pikv_buf){registered ? p + 40000 : ra, sizeof(ra)};
    to[1] = (struct pikv_buf){registered ? p + 50000 : rb, sizeof(rb)};
    to[2] = (struct pikv_buf){registered ? p + 60000 : rc, sizeof(rc)};
    ck_assert_int_eq(pikv_get_sync(kv, ns, &get_item, 1, NULL, &r), PIKV_OK);
    ck_assert_uint_eq(r.moved, sizeof(whole));
    ck_assert_mem_eq(to[0].p, whole, 1000);
    ck_assert_mem_eq(to[1].p, whole + 1000, 4000);
    ck_assert_mem_eq(to[2].p, whole + 5000, 133);
}

START_TEST(lists_are_gathered_and_scattered)
{
    open_lanes(1);
    scatter(_i == 1);
    ck_assert_uint_eq(fake_segs(fake), _i == 1 ? 6 : 2);
    end();
}
END_TEST

START_TEST(a_range_of_a_block_is_read)
{
    uint8_t in[1000], out[100];
    struct pikv_get item = {.key = key_of("k"), .data = {out, 100}, .off = 950};
    struct pikv_result r;

    open_lanes(1);
    fill(in, sizeof(in), 4);
    ck_assert_int_eq(put("k", in, sizeof(in)), PIKV_OK);
    ck_assert_int_eq(pikv_get_sync(kv, ns, &item, 1, NULL, &r), PIKV_OK);
    ck_assert_uint_eq(r.moved, 50);
    ck_assert_mem_eq(out, in + 950, 50);
    end();
}
END_TEST

START_TEST(a_call_larger_than_the_staging_area_goes_through_its_own)
{
    enum { LEN = 3 << 20 };
    uint8_t *in = malloc(LEN), *out = malloc(LEN);
    struct pikv_result r;

    open_with(1, (struct pikv_options){.staging_bytes = 1 << 20});
    fill(in, LEN, 8);
    ck_assert_int_eq(put("big", in, LEN), PIKV_OK);
    ck_assert_int_eq(get("big", out, LEN, &r), PIKV_OK);
    ck_assert_mem_eq(in, out, LEN);
    end();
    free(in);
    free(out);
}
END_TEST

START_TEST(lookup_merges_lanes_and_finds_prefix_and_stops)
{
    enum { POS = 10, COLS = 2 };
    struct pikv_key keys[POS * COLS];
    struct pikv_result r[POS * COLS];
    /* Column 0 must be whole; column 1 needs the last two. */
    struct pikv_column cols[COLS] = {{.rule = 0}, {.rule = 1, .trailing = 2}};
    char(*s)[16] = names(POS * COLS);
    uint8_t stops[2];
    struct pikv_completion done;
    uint64_t id;

    open_lanes(1 + (uint32_t)_i);
    for (uint32_t i = 0; i < POS * COLS; i++) {
        keys[i] = key_of(s[i]);
        /* Missing: column 0 from position 8; column 1 at 0, 3 and 7. */
        if (!(i % 2 == 0 && i / 2 >= 8) && i != 1 && i != 7 && i != 15)
            ck_assert_int_eq(put(s[i], "x", 1), PIKV_OK);
    }
    ck_assert_int_eq(
        pikv_lookup(kv, ns, keys, POS, cols, COLS, stops, NULL, r, &id),
        PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, &done), PIKV_OK);
    ck_assert_uint_eq(done.prefix, 7);
    /* 0: column 1 misses; 1: its trailing 2 include 0; 2 ok; 3, 4 no; 5, 6. */
    ck_assert_uint_eq(stops[0], 1 << 2 | 1 << 5 | 1 << 6);
    ck_assert_uint_eq(stops[1], 0);
    ck_assert_uint_eq(r[0].state, 2);
    ck_assert_uint_eq(r[1].state, 0);
    end();
    free(s);
}
END_TEST

START_TEST(evict_by_selection_asks_every_lane)
{
    static const uint8_t scope[16] = {1};
    struct pikv_key k = {.scope = scope};
    struct pikv_completion done;
    uint64_t id;

    open_lanes(3);
    ck_assert_int_eq(
        pikv_evict(kv, ns, PIKV_NAMESPACE, NULL, 0, 0, NULL, NULL, &id),
        PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, &done), PIKV_OK);
    ck_assert_uint_eq(done.count, 3 * 5);
    ck_assert_int_eq(
        pikv_evict(kv, ns, PIKV_LABEL, NULL, 0, 77, NULL, NULL, &id), PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, &done), PIKV_OK);
    ck_assert_uint_eq(done.count, 3 * 3);
    ck_assert_int_eq(pikv_evict(kv, ns, PIKV_SCOPE, &k, 1, 0, NULL, NULL, &id),
                     PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, &done), PIKV_OK);
    ck_assert_uint_eq(done.count, 3 * 4);
    end();
}
END_TEST

START_TEST(evict_of_chains_takes_the_best_answer_of_a_key)
{
    struct pikv_key keys[2] = {key_of("a"), key_of("gone")};
    struct pikv_result r[2];
    struct pikv_completion done;
    uint64_t id;

    open_lanes(4);
    ck_assert_int_eq(put("a", "x", 1), PIKV_OK);
    ck_assert_int_eq(pikv_evict(kv, ns, PIKV_CHAIN, keys, 2, 0, NULL, r, &id),
                     PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, &done), PIKV_OK);
    ck_assert_int_eq(r[0].status, PIKV_OK);
    ck_assert_int_eq(r[1].status, PIKV_MISS);
    ck_assert_uint_eq(done.count, 4 * 2);
    end();
}
END_TEST

static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

START_TEST(the_eventfd_is_readable_while_completions_wait)
{
    struct pikv_key k = key_of("a");
    struct pikv_result r[2];
    struct pikv_completion done[3];
    struct pollfd p;
    uint64_t a, b;
    int user;
    struct pikv_call call = {.user = &user};

    open_lanes(1);
    p = (struct pollfd){.fd = pikv_event_fd(kv), .events = POLLIN};
    ck_assert(!readable(p.fd));
    ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, &call, &r[0], &a), PIKV_OK);
    ck_assert_int_eq(pikv_pin(kv, ns, &k, 1, &call, &r[1], &b), PIKV_OK);
    ck_assert_int_eq(poll(&p, 1, 5000), 1);
    while (fake_requests(fake, 0) < 2)
        usleep(100);
    ck_assert_int_eq(pikv_drain(kv, done, 1), 1);
    ck_assert_ptr_eq(done[0].user, &user);
    ck_assert_uint_eq(done[0].id, a);
    ck_assert_ptr_eq(done[0].results, &r[0]);
    ck_assert_int_eq(poll(&p, 1, 5000), 1);
    ck_assert_int_eq(pikv_drain(kv, done, 3), 1);
    ck_assert_uint_eq(done[0].id, b);
    ck_assert(!readable(p.fd));
    ck_assert_int_eq(pikv_drain(kv, done, 3), 0);
    end();
}
END_TEST

START_TEST(wait_takes_its_own_call_and_leaves_the_others)
{
    struct pikv_key k = key_of("a");
    struct pikv_result r[2];
    struct pikv_completion done[3];
    uint64_t a, b;

    open_lanes(1);
    ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, NULL, &r[0], &a), PIKV_OK);
    ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, NULL, &r[1], &b), PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, b, done), PIKV_OK);
    ck_assert_uint_eq(done[0].id, b);
    ck_assert_int_eq(pikv_wait(kv, b, done), PIKV_BAD_REQUEST);
    ck_assert_int_eq(pikv_wait(kv, a, NULL), PIKV_OK);
    ck_assert(!readable(pikv_event_fd(kv)));
    end();
}
END_TEST

START_TEST(poll_alone_drives_a_handle_without_thread)
{
    struct pikv_key k = key_of("a");
    struct pikv_result r;
    struct pikv_completion done;
    uint64_t id;

    open_with(2, (struct pikv_options){.no_progress_thread = true});
    ck_assert_int_eq(put("a", "x", 1), PIKV_OK);
    ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, NULL, &r, &id), PIKV_OK);
    while (pikv_poll(kv, &done, 1) == 0)
        ;
    ck_assert_uint_eq(done.id, id);
    ck_assert(fake_spins_seen(fake));
    end();
}
END_TEST

START_TEST(polling_takes_over_and_gives_back)
{
    struct pikv_key k = key_of("a");
    struct pikv_result r;
    struct pikv_completion done;
    struct pollfd p;
    uint64_t id;

    open_lanes(1);
    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, NULL, &r, &id), PIKV_OK);
        while (pikv_poll(kv, &done, 1) == 0)
            ;
    }
    ck_assert(fake_spins_seen(fake));
    ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, NULL, &r, &id), PIKV_OK);
    p = (struct pollfd){.fd = pikv_event_fd(kv), .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, 5000), 1);
    ck_assert_int_eq(pikv_drain(kv, &done, 1), 1);
    end();
}
END_TEST

START_TEST(bad_items_are_refused_at_submit)
{
    char long_key[1100] = {1};
    struct pikv_key k = {.key = {long_key, 1025}};
    struct pikv_result r;
    uint64_t id;

    open_lanes(1);
    ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, NULL, &r, &id), PIKV_LIMIT);
    k.key.len = 0;
    ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, NULL, &r, &id),
                     PIKV_BAD_REQUEST);
    k = (struct pikv_key){.key = {long_key, 5}, .route = {long_key, 33}};
    ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, NULL, &r, &id), PIKV_LIMIT);
    k = key_of("ok");
    k.cls = 3;
    ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, NULL, &r, &id),
                     PIKV_BAD_REQUEST);
    k.cls = 0;
    ck_assert_int_eq(pikv_touch(kv, ns + 1, &k, 1, NULL, &r, &id),
                     PIKV_NO_NAMESPACE);
    ck_assert_int_eq(pikv_touch(kv, ns, &k, 0, NULL, &r, &id),
                     PIKV_BAD_REQUEST);
    ck_assert_int_eq(
        pikv_evict(kv, ns, PIKV_LABEL, NULL, 0, 0, NULL, NULL, &id),
        PIKV_BAD_REQUEST);
    ck_assert_int_eq(pikv_lookup(kv, ns, &k, 1, NULL, 2, NULL, NULL, &r, &id),
                     PIKV_BAD_REQUEST);
    end();
}
END_TEST

START_TEST(a_mismatch_names_the_field)
{
    struct pikv_namespace d = {.name = "other"};
    uint32_t n;

    open_lanes(1);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &n, NULL), PIKV_MISMATCH);
    ck_assert_ptr_nonnull(strstr(pikv_last_error(), "dtype"));
    ck_assert_ptr_nonnull(strstr(pikv_last_error(), "fp16"));
    end();
}
END_TEST

START_TEST(a_name_opened_again_is_the_same_number_and_bump_moves_it)
{
    struct pikv_namespace d = {.name = "test"};
    uint64_t before, after;
    uint32_t n, id;

    open_lanes(2);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &n, NULL), PIKV_OK);
    ck_assert_uint_eq(n, ns);
    ck_assert_int_eq(pikv_namespace_id(kv, ns, &id, &before), PIKV_OK);
    ck_assert_uint_eq(id, 7);
    ck_assert_int_eq(pikv_namespace_bump(kv, ns, NULL), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_id(kv, ns, &id, &after), PIKV_OK);
    ck_assert_uint_eq(after, before + 1);
    end();
}
END_TEST

START_TEST(credits_queue_calls_inside_up_to_the_limit)
{
    enum { N = 20 };
    struct pikv_key k = key_of("a");
    struct pikv_result r[N];
    struct pikv_call call = {.deadline_us = 10000000};
    struct pikv_completion done[N];
    uint64_t id;
    int n = 0;

    fake = fake_start(1);
    fake_set_credits(fake, 5, 0);
    ck_assert_int_eq(
        pikv_open(&(struct pikv_options){.address = fake_address(fake),
                                         .inflight_max = N},
                  &kv),
        PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(
                         kv, &(struct pikv_namespace){.name = "t"}, &ns, NULL),
                     PIKV_OK);
    fake_set_mode(fake, FAKE_HOLDS);
    for (uint32_t i = 0; i < N; i++)
        ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, &call, &r[i], &id), PIKV_OK);
    ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, &call, &r[0], &id), PIKV_BUSY);
    while (fake_held(fake) < 5)
        usleep(100);
    fake_set_mode(fake, FAKE_SERVES);
    while (n < N) {
        struct pollfd p = {.fd = pikv_event_fd(kv), .events = POLLIN};

        ck_assert_int_eq(poll(&p, 1, 5000), 1);
        n += pikv_drain(kv, done, N);
    }
    ck_assert_uint_eq(fake_in_flight_max(fake), 5);
    ck_assert_int_eq(pikv_touch(kv, ns, &k, 1, &call, &r[0], &id), PIKV_OK);
    end();
}
END_TEST

START_TEST(more_messages_than_the_ring_holds_go_through_in_time)
{
    enum { N = 64, KEYS = 1000 };
    struct pikv_key *keys = calloc(KEYS, sizeof(*keys));
    struct pikv_result *r = calloc((size_t)N * KEYS, sizeof(*r));
    char(*s)[16] = names(KEYS);
    uint64_t id[N];

    open_lanes(1);
    for (uint32_t i = 0; i < KEYS; i++)
        keys[i] = key_of(s[i]);
    ck_assert_int_eq(put(s[5], "x", 1), PIKV_OK);
    for (uint32_t i = 0; i < N; i++)
        ck_assert_int_eq(
            pikv_lookup(kv, ns, keys, KEYS, NULL, 1, NULL,
                        &(struct pikv_call){.deadline_us = 20000000},
                        r + (size_t)i * KEYS, &id[i]),
            PIKV_OK);
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_int_eq(pikv_wait(kv, id[i], NULL), PIKV_OK);
        ck_assert_uint_eq(r[i * KEYS + 5].state, 2);
        ck_assert_uint_eq(r[i * KEYS + 6].state, 0);
    }
    end();
    free(keys);
    free(r);
    free(s);
}
END_TEST

START_TEST(a_loan_is_read_in_place_and_released)
{
    struct pikv_get item = {.key = key_of("k"), .loan = true};
    struct pikv_call call = {.verify = true};
    uint8_t in[3000];
    struct pikv_result r;

    open_lanes(1 + (uint32_t)_i);
    fill(in, sizeof(in), 2);
    ck_assert_int_eq(put("k", in, sizeof(in)), PIKV_OK);
    ck_assert_int_eq(pikv_get_sync(kv, ns, &item, 1, &call, &r), PIKV_OK);
    ck_assert_int_eq(r.status, PIKV_OK);
    ck_assert_ptr_nonnull(r.loan);
    ck_assert_uint_eq(r.len, sizeof(in));
    ck_assert_mem_eq(r.loan, in, sizeof(in));
    ck_assert_int_eq(pikv_loan_release(kv, ns, &r), PIKV_OK);
    end();
}
END_TEST

START_TEST(a_loan_taken_back_is_stale_at_release)
{
    struct pikv_get item = {.key = key_of("k"), .loan = true};
    struct pikv_result r, second;

    open_lanes(1);
    ck_assert_int_eq(put("k", "bytes", 5), PIKV_OK);
    ck_assert_int_eq(pikv_get_sync(kv, ns, &item, 1, NULL, &r), PIKV_OK);
    fake_loans_end(fake);
    /* A round trip, so that the lane has seen it. */
    ck_assert_int_eq(put("q", "bytes", 5), PIKV_OK);
    ck_assert_int_eq(put("p", "bytes", 5), PIKV_OK);
    ck_assert_int_eq(pikv_loan_release(kv, ns, &r), PIKV_STALE);
    fake_restart(fake);
    do
        usleep(1000);
    while (put("k", "bytes", 5) != PIKV_OK);
    /* The pointer stays readable after the connection has ended. */
    ck_assert_uint_eq(((const uint8_t *)r.loan)[0], 0);
    ck_assert_int_eq(pikv_get_sync(kv, ns, &item, 1, NULL, &second), PIKV_OK);
    ck_assert_mem_eq(second.loan, "bytes", 5);
    ck_assert_int_eq(pikv_loan_release(kv, ns, &r), PIKV_STALE);
    end();
}
END_TEST

/* ---- the SSD ---- */

static int put_durable(const char *key, struct pikv_result *r)
{
    struct pikv_put item = {
        .key = key_of(key), .data = {"bytes", 5}, .durable = true};
    int e = pikv_put_sync(kv, ns, &item, 1, &patient, r);

    return e ? e : r->status;
}

START_TEST(a_durable_put_says_what_became_of_it)
{
    struct pikv_result r;
    char out[5];

    open_lanes(1);
    ck_assert_int_eq(put_durable("none", &r), PIKV_UNSUPPORTED);
    ck_assert_int_eq(get("none", out, 5, &r), PIKV_MISS);
    fake_set_durable(fake, PIKV_OK);
    ck_assert_int_eq(put_durable("safe", &r), PIKV_OK);
    fake_set_durable(fake, PIKV_NOT_DURABLE);
    ck_assert_int_eq(put_durable("memory", &r), PIKV_NOT_DURABLE);
    ck_assert_uint_eq(r.len, 5);
    ck_assert_uint_ne(r.version, 0);
    ck_assert_int_eq(get("memory", out, 5, &r), PIKV_OK);
    ck_assert_int_eq(pikv_error_who(PIKV_NOT_DURABLE), PIKV_WHO_RETRY);
    end();
}
END_TEST

START_TEST(lookup_says_tier_and_eta_of_each_key)
{
    struct pikv_key keys[3] = {key_of("cold"), key_of("warm"), key_of("none")};
    struct pikv_result r[3];
    uint64_t id;

    open_lanes(1 + (uint32_t)_i);
    ck_assert_int_eq(put("cold", "x", 1), PIKV_OK);
    ck_assert_int_eq(put("warm", "x", 1), PIKV_OK);
    ck_assert_int_eq(
        pikv_lookup(kv, ns, keys, 3, NULL, 1, NULL, &patient, r, &id), PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_OK);
    ck_assert_uint_eq(r[0].tier, 1);
    ck_assert_uint_eq(r[0].eta_us, 250);
    ck_assert_uint_eq(r[1].tier, 0);
    ck_assert_uint_eq(r[1].eta_us, 0);
    ck_assert_uint_eq(r[2].state, 0);
    end();
}
END_TEST

/* Half of the keys are on the SSD, one is nowhere. */
static uint32_t prefetch_fill(struct pikv_key *keys, uint32_t n, char (*s)[16])
{
    for (uint32_t i = 0; i < n; i++) {
        snprintf(s[i], sizeof(s[i]), i % 2 ? "cold%u" : "warm%u", i);
        keys[i] = key_of(s[i]);
        if (i != 4)
            ck_assert_int_eq(put(s[i], "x", 1), PIKV_OK);
    }
    return n / 2;
}

START_TEST(prefetch_is_split_over_lanes_and_the_counts_add_up)
{
    enum { N = 100 };
    struct pikv_call call = {.deadline_us = 20000000, .soft_us = 7000};
    struct pikv_key keys[N];
    struct pikv_result r[N];
    struct pikv_completion done;
    uint32_t lanes = 1 + (uint32_t)_i, cold, asked = 0;
    char s[N][16];
    uint64_t id;

    open_lanes(lanes);
    cold = prefetch_fill(keys, N, s);
    ck_assert_int_eq(pikv_prefetch(kv, ns, keys, N, 0, &call, r, &id), PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, &done), PIKV_OK);
    ck_assert_uint_eq(done.count, cold);
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_int_eq(r[i].status, i == 4 ? PIKV_MISS : PIKV_OK);
        ck_assert_uint_eq(r[i].tier, i % 2);
        ck_assert_uint_eq(r[i].eta_us, i % 2 ? 250 : 0);
    }
    for (uint32_t i = 0; i < lanes; i++) {
        struct fake_seen seen;

        fake_seen(fake, i, &seen);
        asked += seen.prefetches;
        ck_assert_uint_eq(seen.cap_mib, 0);
        ck_assert_uint_eq(seen.soft_us, 7000);
    }
    ck_assert_uint_eq(asked, lanes);
    end();
}
END_TEST

START_TEST(a_prefetch_cap_is_shared_out_and_never_exceeded)
{
    enum { N = 100, LANES = 4 };
    static const uint32_t caps[] = {1, 2, 3, 4, 5, 99, 100, 1000, UINT32_MAX};
    struct pikv_key keys[N];
    struct pikv_result r[N];
    char s[N][16];

    open_lanes(LANES);
    prefetch_fill(keys, N, s);
    for (size_t k = 0; k < countof(caps); k++) {
        struct fake_seen seen[LANES], before[LANES];
        uint32_t partial = 0, asked = 0;
        uint64_t id, sum = 0;

        for (uint32_t i = 0; i < LANES; i++)
            fake_seen(fake, i, &before[i]);
        ck_assert_int_eq(
            pikv_prefetch(kv, ns, keys, N, caps[k], &patient, r, &id), PIKV_OK);
        ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_OK);
        for (uint32_t i = 0; i < N; i++)
            partial += r[i].status == PIKV_PARTIAL;
        for (uint32_t i = 0; i < LANES; i++) {
            fake_seen(fake, i, &seen[i]);
            if (seen[i].prefetches == before[i].prefetches)
                continue;
            asked++;
            ck_assert_uint_gt(seen[i].cap_mib, 0);
            sum += seen[i].cap_mib;
        }
        ck_assert_uint_eq(sum, caps[k]);
        ck_assert_int_eq(partial > 0, asked < LANES);
    }
    end();
}
END_TEST

START_TEST(explain_asks_the_lane_of_the_key)
{
    struct pikv_key k = key_of("cold1"), gone = key_of("gone");
    struct pikv_explanation x;
    struct fake_seen seen;
    uint32_t lanes = 3, asked = 0;

    open_lanes(lanes);
    ck_assert_int_eq(put("cold1", "x", 1), PIKV_OK);
    ck_assert_int_eq(pikv_explain(kv, ns, &k, &patient, &x), PIKV_OK);
    ck_assert_str_eq(x.reason, "here");
    ck_assert_str_eq(x.tier, "ssd");
    ck_assert_uint_eq(x.eta_us, 250);
    ck_assert_str_eq(x.advice, "aaaaa");
    for (uint32_t i = 0; i < lanes; i++) {
        fake_seen(fake, i, &seen);
        asked += seen.explains;
    }
    ck_assert_uint_eq(asked, 1);
    ck_assert_int_eq(pikv_explain(kv, ns, &gone, &patient, &x), PIKV_OK);
    ck_assert_str_eq(x.reason, "late");
    ck_assert_str_eq(x.tier, "");
    ck_assert_uint_eq(x.when_ms, 1234);
    k.key.len = 0;
    ck_assert_int_eq(pikv_explain(kv, ns, &k, &patient, &x), PIKV_BAD_REQUEST);
    ck_assert_int_eq(pikv_explain(kv, ns + 1, &gone, &patient, &x),
                     PIKV_NO_NAMESPACE);
    end();
}
END_TEST

START_TEST(a_session_is_told_to_every_lane)
{
    static const char *const words[] = {"open", "idle", "closed"};
    uint32_t lanes = 3;
    struct fake_seen seen;

    open_lanes(lanes);
    for (uint32_t state = 0; state < countof(words); state++) {
        ck_assert_int_eq(pikv_session(kv, ns, UINT64_MAX - state,
                                      (enum pikv_session_state)state, &patient),
                         PIKV_OK);
        for (uint32_t i = 0; i < lanes; i++) {
            do
                fake_seen(fake, i, &seen);
            while (seen.feedbacks <= state);
            ck_assert_uint_eq(seen.session, UINT64_MAX - state);
            ck_assert_str_eq(seen.session_state, words[state]);
        }
    }
    ck_assert_int_eq(pikv_session(kv, ns, 0, PIKV_SESSION_OPEN, NULL),
                     PIKV_BAD_REQUEST);
    ck_assert_int_eq(pikv_session(kv, ns, 1, (enum pikv_session_state)3, NULL),
                     PIKV_BAD_REQUEST);
    ck_assert_int_eq(pikv_session(kv, ns + 1, 1, PIKV_SESSION_OPEN, NULL),
                     PIKV_NO_NAMESPACE);
    end();
}
END_TEST

START_TEST(evict_by_pattern_and_demote_say_so_to_every_lane)
{
    struct pikv_key k = key_of("user?/*");
    struct pikv_call call = {.deadline_us = 20000000, .demote = _i == 1};
    struct pikv_completion done;
    struct fake_seen seen;
    uint64_t id;

    open_lanes(3);
    ck_assert_int_eq(
        pikv_evict(kv, ns, PIKV_PATTERN, &k, 1, 0, &call, NULL, &id), PIKV_OK);
    ck_assert_int_eq(pikv_wait(kv, id, &done), PIKV_OK);
    ck_assert_uint_eq(done.count, 3 * 6);
    for (uint32_t i = 0; i < 3; i++) {
        fake_seen(fake, i, &seen);
        ck_assert_str_eq(seen.pattern, "user?/*");
        ck_assert_uint_eq(seen.select, PIKV_PATTERN);
        ck_assert_uint_eq(seen.batch_flags, _i == 1 ? 4 : 0);
    }
    ck_assert_int_eq(
        pikv_evict(kv, ns, PIKV_PATTERN, NULL, 0, 0, &call, NULL, &id),
        PIKV_BAD_REQUEST);
    k.key.len = 1025;
    ck_assert_int_eq(
        pikv_evict(kv, ns, PIKV_PATTERN, &k, 1, 0, &call, NULL, &id),
        PIKV_LIMIT);
    end();
}
END_TEST

Suite *suite(void);

Suite *suite(void)
{
    Suite *s = suite_create("pikv_calls");
    TCase *t = tcase_create("calls");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, the_settings_of_a_new_namespace_are_asked_for);
    tcase_add_test(t, a_block_comes_back_as_it_was_put);
    tcase_add_test(t, info_says_what_hello_answered);
    tcase_add_loop_test(t, a_batch_is_split_over_the_lanes_and_merged_in_order,
                        0, 3);
    tcase_add_test(t, a_route_keeps_keys_together);
    tcase_add_test(t, registered_memory_is_named_and_other_memory_staged);
    tcase_add_test(t, a_caller_may_register_his_own_memfd_at_an_offset);
    tcase_add_loop_test(t, lists_are_gathered_and_scattered, 0, 2);
    tcase_add_test(t, a_range_of_a_block_is_read);
    tcase_add_test(t, a_call_larger_than_the_staging_area_goes_through_its_own);
    tcase_add_loop_test(t, lookup_merges_lanes_and_finds_prefix_and_stops, 0,
                        4);
    tcase_add_test(t, evict_by_selection_asks_every_lane);
    tcase_add_test(t, evict_of_chains_takes_the_best_answer_of_a_key);
    tcase_add_test(t, the_eventfd_is_readable_while_completions_wait);
    tcase_add_test(t, wait_takes_its_own_call_and_leaves_the_others);
    tcase_add_test(t, poll_alone_drives_a_handle_without_thread);
    tcase_add_test(t, polling_takes_over_and_gives_back);
    tcase_add_test(t, bad_items_are_refused_at_submit);
    tcase_add_test(t, a_mismatch_names_the_field);
    tcase_add_test(t, a_name_opened_again_is_the_same_number_and_bump_moves_it);
    tcase_add_test(t, credits_queue_calls_inside_up_to_the_limit);
    tcase_add_test(t, more_messages_than_the_ring_holds_go_through_in_time);
    tcase_add_loop_test(t, a_loan_is_read_in_place_and_released, 0, 2);
    tcase_add_test(t, a_loan_taken_back_is_stale_at_release);
    tcase_add_test(t, a_durable_put_says_what_became_of_it);
    tcase_add_loop_test(t, lookup_says_tier_and_eta_of_each_key, 0, 3);
    tcase_add_loop_test(t, prefetch_is_split_over_lanes_and_the_counts_add_up,
                        0, 4);
    tcase_add_test(t, a_prefetch_cap_is_shared_out_and_never_exceeded);
    tcase_add_test(t, explain_asks_the_lane_of_the_key);
    tcase_add_test(t, a_session_is_told_to_every_lane);
    tcase_add_loop_test(t, evict_by_pattern_and_demote_say_so_to_every_lane, 0,
                        2);
    suite_add_tcase(s, t);
    return s;
}
