/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client rpc base proto */
/* Part completions in libpikv, over a daemon that tells them well, late, not at
 * all, or nonsense. */
#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "client/pikv.h"
#include "tests/lib/fake_parts.h"
#include "tests/lib/fake_pikvd.h"

enum { N = 24, MAX_LEN = 300000 };

static struct fake *fake;
static struct pikv *kv;
static uint32_t ns;

static void begin(uint32_t lanes, enum fake_tells how)
{
    struct pikv_namespace d = {.name = "test", .create = true};
    struct pikv_options o = {0};

    fake = fake_start(lanes);
    fake_set_tells(fake, how);
    o.address = fake_address(fake);
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), PIKV_OK);
}

static void end(void)
{
    pikv_close(kv);
    fake_stop(fake);
}

/* N blocks, their GETs, and what was told of them. */
struct got {
    char names[N][8];
    struct pikv_get items[N];
    struct pikv_result r[N];
    uint8_t *to;
    size_t len;
    uint64_t id;
    uint32_t told;
    int status;
};

static uint8_t byte_of(uint32_t i, size_t k)
{
    return (uint8_t)(i * 37 + k * 11 + (k >> 9));
}

static void put_all(struct got *g, size_t len)
{
    struct pikv_call patient = {.deadline_us = 20000000};
    uint8_t *p = malloc(len);

    memset(g, 0, sizeof(*g));
    g->len = len;
    for (uint32_t i = 0; i < N; i++) {
        struct pikv_put put = {.data = {p, len}};

        snprintf(g->names[i], sizeof(g->names[i]), "k%u", i);
        put.key.key = (struct pikv_bytes){g->names[i], strlen(g->names[i])};
        for (size_t k = 0; k < len; k++)
            p[k] = byte_of(i, k);
        while (pikv_put_sync(kv, ns, &put, 1, &patient, g->r))
            usleep(1000); /* the server is on its way back */
        ck_assert(g->r[0].status == PIKV_OK || g->r[0].status == PIKV_EXISTS);
    }
    free(p);
}

static void submit(struct got *g, uint8_t *to, uint32_t deadline_us)
{
    struct pikv_call call = {
        .deadline_us = deadline_us, .parts = true, .verify = true, .user = g};

    g->to = to;
    g->told = 0;
    g->status = 1;
    for (uint32_t i = 0; i < N; i++)
        g->items[i] =
            (struct pikv_get){.key.key = {g->names[i], strlen(g->names[i])},
                              .data = {to + i * g->len, g->len}};
    ck_assert_int_eq(pikv_get(kv, ns, g->items, N, &call, g->r, &g->id),
                     PIKV_OK);
}

/* Byte by byte, but in one memcmp: under TSan a loop costs most of the test. */
static bool bytes_are(const struct got *g, uint32_t i)
{
    static uint8_t want[N][MAX_LEN];
    static size_t have[N];

    for (; have[i] < g->len; have[i]++)
        want[i][have[i]] = byte_of(i, have[i]);
    return memcmp(g->to + i * g->len, want[i], g->len) == 0;
}

static void take(const struct pikv_completion *c)
{
    struct got *g = c->user;

    ck_assert_uint_eq(c->id, g->id);
    ck_assert_uint_eq(c->n, N);
    ck_assert_ptr_eq(c->results, g->r);
    ck_assert_int_eq(g->status, 1); /* nothing after the end */
    if (!c->part) {
        g->status = c->status;
        return;
    }
    ck_assert_uint_eq(c->item, g->told);
    ck_assert_int_eq(c->status, g->r[c->item].status);
    if (c->status == PIKV_OK)
        ck_assert(bytes_are(g, c->item));
    /* It is the caller's now: nobody may write there again. */
    memset(g->to + c->item * g->len, 0xee, g->len);
    g->told++;
}

/* Takes what comes until g has its end. */
static void drain(struct got *g, int max)
{
    struct pikv_completion c[8];

    while (g->status == 1) {
        struct pollfd p = {.fd = pikv_event_fd(kv), .events = POLLIN};
        int n;

        ck_assert_int_eq(poll(&p, 1, 20000), 1);
        n = pikv_drain(kv, c, max);
        ck_assert_int_ge(n, 0);
        for (int i = 0; i < n; i++)
            take(&c[i]);
    }
}

static void untouched(const struct got *g)
{
    size_t n = g->told * g->len;

    ck_assert(n == 0 || (g->to[0] == 0xee &&
                         memcmp(g->to, g->to + 1, n - 1) == 0));
}

static const struct {
    enum fake_tells how;
    uint32_t lanes, len;
    bool registered;
} ways[] = {
    {TELLS_NOT, 1, 500, false},     {TELLS_NOT, 3, 500, true},
    {TELLS_EACH, 1, 500, false},    {TELLS_EACH, 3, 500, true},
    {TELLS_EACH, 1, 90000, false},  {TELLS_EACH, 1, 90000, true},
    {TELLS_EACH, 3, 300000, false}, {TELLS_EACH, 4, 300000, true},
    {TELLS_ALL, 2, 30000, false},   {TELLS_ALL, 1, 300000, false},
    {TELLS_HALF, 1, 500, false},    {TELLS_HALF, 2, 300000, false},
    {TELLS_LATE, 1, 500, false},    {TELLS_LATE, 3, 90000, true},
};

START_TEST(all_items_are_told_in_order_and_then_the_call)
{
    static struct got g;
    void *mem;

    begin(ways[_i].lanes, ways[_i].how);
    put_all(&g, ways[_i].len);
    ck_assert_int_eq(pikv_mem_alloc(kv, N * g.len, &mem), PIKV_OK);
    if (!ways[_i].registered)
        g.to = malloc(N * g.len);
    for (int max = 1; max < 9; max += 7) {
        submit(&g, ways[_i].registered ? mem : g.to, 20000000);
        drain(&g, max);
        ck_assert_int_eq(g.status, PIKV_OK);
        ck_assert_uint_eq(g.told, N);
        untouched(&g);
    }
    if (!ways[_i].registered)
        free(g.to);
    end();
}
END_TEST

START_TEST(misses_and_errors_are_told_in_their_turn)
{
    static struct got g;
    static uint8_t to[N * 500];

    begin(3, _i ? TELLS_EACH : TELLS_NOT);
    put_all(&g, 500);
    g.names[0][0] = g.names[7][0] = g.names[N - 1][0] = 'x';
    submit(&g, to, 20000000);
    drain(&g, 8);
    ck_assert_int_eq(g.status, PIKV_OK);
    ck_assert_uint_eq(g.told, N);
    for (uint32_t i = 0; i < N; i++)
        ck_assert_int_eq(g.r[i].status,
                         i == 0 || i == 7 || i == N - 1 ? PIKV_MISS : PIKV_OK);
    end();
}
END_TEST

START_TEST(a_server_that_dies_leaves_what_was_told)
{
    static struct got g;
    static uint8_t to[N * 500];

    begin(1, TELLS_DIES);
    put_all(&g, 500);
    submit(&g, to, 20000000);
    drain(&g, 8);
    ck_assert_int_eq(g.status, PIKV_RETRY);
    ck_assert_uint_le(g.told, N / 2);
    for (uint32_t i = 0; i < N; i++)
        ck_assert(g.r[i].status == PIKV_RETRY ||
                  (i < N / 2 && g.r[i].status == PIKV_OK));
    untouched(&g);
    end();
}
END_TEST

START_TEST(at_a_deadline_only_the_end_follows)
{
    static struct got g;
    uint32_t len = _i ? 200000 : 500;
    uint8_t *to = malloc(N * len);

    begin(1, TELLS_HOLDS);
    put_all(&g, len);
    submit(&g, to, 200000);
    drain(&g, 8);
    ck_assert_int_eq(g.status, PIKV_TIMEOUT);
    for (uint32_t i = 0; i < N; i++)
        ck_assert_int_eq(g.r[i].status, i < g.told ? PIKV_OK : PIKV_TIMEOUT);
    untouched(&g);
    end();
    free(to);
}
END_TEST

/* The connection ends, as by any nonsense; what was told before it counts. */
START_TEST(nonsense_ends_the_connection)
{
    static struct got g;
    static uint8_t to[N * 500];

    begin(1, (enum fake_tells)_i);
    put_all(&g, 500);
    submit(&g, to, 20000000);
    drain(&g, 8);
    ck_assert_int_eq(g.status, PIKV_RETRY);
    untouched(&g);
    end();
}
END_TEST

START_TEST(one_lane_that_dies_stops_the_order_there)
{
    static struct got g;
    static uint8_t to[N * 500];

    begin(3, TELLS_EACH);
    put_all(&g, 500);
    fake_set_lane_mode(fake, 1, FAKE_DIES);
    submit(&g, to, 20000000);
    drain(&g, 8);
    ck_assert_int_eq(g.status, PIKV_RETRY);
    ck_assert_uint_lt(g.told, N);
    ck_assert_int_eq(g.r[g.told].status, PIKV_RETRY);
    end();
}
END_TEST

START_TEST(wait_takes_the_call_with_all_its_parts)
{
    static struct got g;
    static uint8_t to[N * 500];
    struct pikv_completion c;

    begin(2, _i ? TELLS_EACH : TELLS_NOT);
    put_all(&g, 500);
    submit(&g, to, 20000000);
    ck_assert_int_eq(pikv_wait(kv, g.id, &c), PIKV_OK);
    ck_assert(!c.part);
    for (uint32_t i = 0; i < N; i++)
        ck_assert(bytes_are(&g, i));
    ck_assert_int_eq(pikv_drain(kv, &c, 1), 0);
    end();
}
END_TEST

START_TEST(a_handle_may_be_closed_over_parts_not_taken)
{
    static struct got g;
    static uint8_t to[N * 500];
    struct pollfd p = {.events = POLLIN};

    begin(2, TELLS_EACH);
    put_all(&g, 500);
    submit(&g, to, 20000000);
    p.fd = pikv_event_fd(kv);
    ck_assert_int_eq(poll(&p, 1, 20000), 1);
    end();
}
END_TEST

START_TEST(two_calls_keep_their_own_order)
{
    static struct got g, h;
    static uint8_t to[2][N * 500];

    begin(2, TELLS_EACH);
    put_all(&g, 500);
    h = g;
    submit(&g, to[0], 20000000);
    submit(&h, to[1], 20000000);
    while (g.status == 1)
        drain(&g, 3);
    if (h.status == 1)
        drain(&h, 3);
    ck_assert_uint_eq(g.told, N);
    ck_assert_uint_eq(h.told, N);
    end();
}
END_TEST

/* ---- many threads: landing without the lock, deadlines, a server that goes */

static uint32_t stop;

static void *spinner(void *arg)
{
    uint8_t *to = arg;
    char name[] = "k0";
    struct pikv_get item = {.key.key = {name, 2}, .data = {to, 90000}};
    struct pikv_call call = {.deadline_us = 300};
    struct pikv_result r;

    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        call.parts = !call.parts;
        (void)pikv_get_sync(kv, ns, &item, 1, &call, &r);
        usleep(200); /* or the others never run where there is one core */
    }
    return NULL;
}

START_TEST(landing_meets_deadlines_and_restarts_of_others)
{
    static struct got g;
    static uint8_t mine[2][90000];
    pthread_t threads[2];
    uint8_t *to;

    begin(2, TELLS_EACH);
    put_all(&g, 90000);
    to = malloc(N * g.len);
    stop = 0;
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, spinner, mine[i]),
                         0);
    for (uint32_t i = 0; i < 12; i++) {
        struct pikv_completion c;

        /* Some end before, within and after the landing. */
        submit(&g, to, i % 3 == 2 ? 20000000 : 100 + 700 * i);
        if (i % 4 == 3) {
            fake_restart(fake);
            (void)pikv_wait(kv, g.id, &c);
            put_all(&g, 90000);
            continue;
        }
        drain(&g, 8);
        untouched(&g);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    free(to);
    end();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("pikv_parts");
    TCase *t = tcase_create("parts");

    tcase_set_timeout(t, 600);
    tcase_add_loop_test(t, all_items_are_told_in_order_and_then_the_call, 0,
                        (int)countof(ways));
    tcase_add_loop_test(t, misses_and_errors_are_told_in_their_turn, 0, 2);
    tcase_add_test(t, a_server_that_dies_leaves_what_was_told);
    tcase_add_loop_test(t, at_a_deadline_only_the_end_follows, 0, 2);
    tcase_add_loop_test(t, nonsense_ends_the_connection, TELLS_TWICE, TELLS_N);
    tcase_add_test(t, one_lane_that_dies_stops_the_order_there);
    tcase_add_loop_test(t, wait_takes_the_call_with_all_its_parts, 0, 2);
    tcase_add_test(t, a_handle_may_be_closed_over_parts_not_taken);
    tcase_add_test(t, two_calls_keep_their_own_order);
    tcase_add_test(t, landing_meets_deadlines_and_restarts_of_others);
    suite_add_tcase(s, t);
    return s;
}
