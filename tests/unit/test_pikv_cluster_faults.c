/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client rpc base proto */
/* libpikv and several nodes of which some are silent, slow or gone: what a
 * caller waits for, the breaker, hedges, and the ends of a handle. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/lib/fake_cluster.h"

enum { SHORT_US = 60000 };

static const struct pikv_options plain;
static uint8_t buf[64];
static char key[16], other[16];
static uint32_t at;
static struct pikv_result r;

static struct pikv_stats stats(void)
{
    struct pikv_stats s;

    ck_assert_int_eq(pikv_stats(kv, &s), 0);
    return s;
}

static bool breaker_is_open(void)
{
    return stats().breaker_open == 1;
}

static bool breaker_is_closed(void)
{
    return stats().breaker_open == 0;
}

/* Slots have one owner, so that nobody stands in. */
static void alone(void)
{
    for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++)
        view.rows[slot].owner[1] = view.rows[slot].owner[2] = FAKE_NONE;
    view.epoch++;
    cluster_tell_all();
}

static void open_alone(uint32_t n)
{
    struct pikv_namespace d = {.name = "test", .create = true};
    struct pikv_options o = {.connect_ms = 20000};

    cluster_fakes(n, 1);
    alone();
    o.address = fake_address(fakes[0]);
    ck_assert_int_eq(pikv_open(&o, &kv), 0);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), 0);
}

/* ---- the breaker ---- */

START_TEST(a_silent_node_costs_one_deadline_and_then_nothing)
{
    uint64_t t;

    open_alone(3);
    key_at(1, key, &at);
    ck_assert_int_eq(fakes_put(key, "value", 6), PIKV_OK);
    fake_set_mode(fakes[1], FAKE_DEAF);
    ck_assert_int_eq(get_within(key, buf, 64, SHORT_US, &r), PIKV_TIMEOUT);
    ck_assert(breaker_is_open());
    t = clock_ms();
    for (uint32_t i = 0; i < 50; i++)
        ck_assert_int_eq(fakes_get(key, buf, 64, &r), PIKV_NO_SERVER);
    ck_assert_uint_lt(clock_ms() - t, 10000); /* one would take 20 s */
    ck_assert_int_eq(fakes_get(key_at(2, other, &at), buf, 64, &r), PIKV_MISS);
    cluster_end();
}
END_TEST

START_TEST(a_probe_finds_a_node_that_answers_again)
{
    open_alone(2);
    key_at(1, key, &at);
    ck_assert_int_eq(fakes_put(key, "value", 6), PIKV_OK);
    fake_set_mode(fakes[1], FAKE_DEAF);
    ck_assert_int_eq(get_within(key, buf, 64, SHORT_US, &r), PIKV_TIMEOUT);
    ck_assert(comes(breaker_is_open));
    fake_set_mode(fakes[1], FAKE_SERVES);
    ck_assert(comes(breaker_is_closed));
    ck_assert_uint_ge(fake_pings(fakes[1]), 1);
    ck_assert_int_eq(fakes_get(key, buf, 64, &r), PIKV_OK);
    cluster_end();
}
END_TEST

START_TEST(a_node_that_is_not_reached_for_its_first_connection_is_given_up)
{
    open_alone(2);
    fake_set_mode(fakes[1], FAKE_DEAF); /* HELLO is not answered */
    key_at(1, key, &at);
    ck_assert_int_eq(get_within(key, buf, 64, SHORT_US, &r), PIKV_TIMEOUT);
    ck_assert(breaker_is_open());
    ck_assert_int_eq(fakes_get(key, buf, 64, &r), PIKV_NO_SERVER);
    fake_set_mode(fakes[1], FAKE_SERVES);
    fake_set_down(fakes[1], true); /* its HELLO is lost */
    fake_set_down(fakes[1], false);
    ck_assert(comes(breaker_is_closed));
    ck_assert_int_eq(fakes_get(key, buf, 64, &r), PIKV_MISS);
    cluster_end();
}
END_TEST

START_TEST(a_slow_answer_of_a_node_that_talks_does_not_break_it)
{
    struct pikv_get item = {.data = {buf, 64}};
    uint64_t id;

    open_alone(2);
    key_at(1, key, &at);
    ck_assert_int_eq(fakes_put(key, "value", 6), PIKV_OK);
    fake_set_mode(fakes[1], FAKE_HOLDS); /* PING and OPEN are answered */
    item.key = key_of(key);
    for (uint32_t i = 0; i < 2; i++) {
        struct pikv_call call = {.deadline_us = SHORT_US};
        struct pikv_namespace d = {.name = "again", .create = true};
        struct pikv_result one;
        uint32_t n2;

        ck_assert_int_eq(pikv_get(kv, ns, &item, 1, &call, &one, &id), 0);
        ck_assert_int_eq(pikv_namespace_open(kv, &d, &n2, &patient), 0);
        (void)pikv_session(kv, ns, 5, PIKV_SESSION_OPEN, NULL);
        usleep(20000); /* the node's answer to that has come by then, or not:
                        * then the breaker opens, and closes again */
        ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_TIMEOUT);
    }
    fake_set_mode(fakes[1], FAKE_SERVES);
    ck_assert(comes(breaker_is_closed));
    ck_assert_int_eq(fakes_get(key, buf, 64, &r), PIKV_OK);
    cluster_end();
}
END_TEST

START_TEST(writes_go_to_the_next_owner_while_the_breaker_is_open)
{
    fakes_open(3, 1, plain);
    key_at(1, key, &at);
    ck_assert_int_eq(fakes_put(key, "value", 6), PIKV_OK);
    fake_set_mode(fakes[1], FAKE_DEAF);
    ck_assert_int_eq(get_within(key, buf, 64, SHORT_US, &r), PIKV_TIMEOUT);
    key_at(1, key, &at);
    ck_assert_int_eq(fakes_put(key, "value", 6), PIKV_OK);
    ck_assert_uint_eq(fake_stored(fakes[2]), 1);
    ck_assert_uint_ge(stats().failovers, 1);
    cluster_end();
}
END_TEST

/* ---- deadlines ---- */

START_TEST(no_call_lasts_beyond_its_deadline_whatever_the_nodes_do)
{
    static const enum fake_mode modes[] = {FAKE_DEAF, FAKE_HOLDS, FAKE_DIES,
                                           FAKE_GARBLES};
    enum { N = 60 };
    struct pikv_get gets[N] = {0};
    struct pikv_result res[N];
    struct pikv_call call = {.deadline_us = SHORT_US};
    char names[N][16];
    uint64_t t;

    fakes_open(3, 2, plain);
    for (uint32_t i = 0; i < N; i++) {
        snprintf(names[i], sizeof(names[i]), "d%u", i);
        gets[i] = (struct pikv_get){.key = key_of(names[i]), .data = {buf, 1}};
    }
    fake_set_mode(fakes[1], modes[_i]);
    fake_set_mode(fakes[2], modes[(_i + 1) % 4]);
    for (uint32_t i = 0; i < 10; i++) {
        t = clock_ms();
        (void)pikv_get_sync(kv, ns, gets, N, &call, res);
        /* Far more than a deadline, for machines under load. */
        ck_assert_uint_lt(clock_ms() - t, 5000);
        for (uint32_t k = 0; k < N; k++)
            ck_assert(
                res[k].status == PIKV_MISS || res[k].status == PIKV_TIMEOUT ||
                res[k].status == PIKV_NO_SERVER || res[k].status == PIKV_RETRY);
    }
    cluster_end();
}
END_TEST

/* ---- hedges ---- */

/* The handle knows how long GETs take. */
static void learn(uint32_t node)
{
    key_at(node, other, &at);
    ck_assert_int_eq(fakes_put(other, "x", 2), PIKV_OK);
    for (uint32_t i = 0; i < 160; i++)
        ck_assert_int_eq(fakes_get(other, buf, 64, &r), PIKV_OK);
}

static uint64_t hedged_before, won_before;

static uint64_t hedged(void)
{
    return stats().hedges - hedged_before;
}

static uint64_t won(void)
{
    return stats().hedges_won - won_before;
}

static bool is_hedged(void)
{
    return hedged() > 0;
}

static bool staging_is_free(void)
{
    return stats().staging_bytes == 0;
}

/* A key of node 1 that is on node 2 as well. On a slow machine a GET may have
 * been hedged before. */
static void hedge_open(enum pikv_hedge hedge)
{
    fakes_open(3, 1, (struct pikv_options){.hedge = hedge});
    key_at(1, key, &at);
    ck_assert_int_eq(put_copies(key, "value", 6, 2), PIKV_OK);
    learn(0);
    ck_assert(comes(staging_is_free));
    hedged_before = stats().hedges;
    won_before = stats().hedges_won;
}

START_TEST(a_hedge_wins_when_the_first_is_silent)
{
    hedge_open(PIKV_HEDGE_ALWAYS);
    fake_set_mode(fakes[1], FAKE_HOLDS);
    memset(buf, 0, sizeof(buf));
    ck_assert_int_eq(fakes_get(key, buf, 64, &r), PIKV_OK);
    ck_assert_str_eq((char *)buf, "value");
    ck_assert_uint_eq(r.moved, 6);
    ck_assert_uint_eq(hedged(), 1);
    ck_assert_uint_eq(won(), 1);
    /* The loser answers late, into nothing of the caller's. */
    memset(buf, 7, sizeof(buf));
    fake_set_mode(fakes[1], FAKE_SERVES);
    ck_assert_int_eq(fakes_get(other, other, 1, &r), PIKV_OK);
    usleep(50000);
    for (uint32_t i = 0; i < sizeof(buf); i++)
        ck_assert_uint_eq(buf[i], 7);
    cluster_end();
}
END_TEST

START_TEST(a_hedge_that_loses_leaves_nothing)
{
    struct pikv_get item = {.data = {buf, 64}};
    uint64_t id;

    hedge_open(PIKV_HEDGE_ALWAYS);
    item.key = key_of(key);
    fake_set_mode(fakes[1], FAKE_HOLDS);
    fake_set_mode(fakes[2], FAKE_HOLDS);
    ck_assert_int_eq(pikv_get(kv, ns, &item, 1, &patient, &r, &id), 0);
    ck_assert(comes(is_hedged));
    ck_assert_uint_eq(hedged(), 1);
    fake_set_mode(fakes[1], FAKE_SERVES);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_OK);
    ck_assert_int_eq(r.status, PIKV_OK);
    ck_assert_str_eq((char *)buf, "value");
    ck_assert_uint_eq(won(), 0);
    memset(buf, 7, sizeof(buf));
    fake_set_mode(fakes[2], FAKE_SERVES);
    usleep(50000);
    for (uint32_t i = 0; i < sizeof(buf); i++)
        ck_assert_uint_eq(buf[i], 7);
    ck_assert_int_eq(fakes_get(key, buf, 64, &r), PIKV_OK);
    ck_assert(comes(staging_is_free));
    cluster_end();
}
END_TEST

/* The first may write registered memory: it must be known to have stopped. */
START_TEST(a_hedge_into_registered_memory_waits_for_the_first_to_stop)
{
    struct pikv_get item;
    uint64_t id;
    void *p;

    hedge_open(PIKV_HEDGE_ALWAYS);
    ck_assert_int_eq(pikv_mem_alloc(kv, 4096, &p), 0);
    memset(p, 0, 64);
    item = (struct pikv_get){.key = key_of(key), .data = {p, 64}};
    fake_set_mode(fakes[1], FAKE_HOLDS);
    ck_assert_int_eq(pikv_get(kv, ns, &item, 1, &patient, &r, &id), 0);
    ck_assert(comes(is_hedged));
    usleep(100000); /* the twin is there long since */
    ck_assert_uint_eq(won(), 0);
    ck_assert_uint_eq(*(uint8_t *)p, 0);
    fake_set_mode(fakes[1], FAKE_SERVES); /* finds that it was given up */
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_OK);
    ck_assert_int_eq(r.status, PIKV_OK);
    ck_assert_str_eq(p, "value");
    ck_assert_uint_eq(won(), 1);
    cluster_end();
}
END_TEST

START_TEST(a_hedge_goes_on_when_the_first_dies)
{
    struct pikv_get item = {.data = {buf, 64}};
    uint64_t id;

    hedge_open(PIKV_HEDGE_ALWAYS);
    item.key = key_of(key);
    fake_set_mode(fakes[1], FAKE_HOLDS);
    fake_set_mode(fakes[2], FAKE_HOLDS);
    ck_assert_int_eq(pikv_get(kv, ns, &item, 1, &patient, &r, &id), 0);
    ck_assert(comes(is_hedged));
    fake_set_down(fakes[1], true);
    usleep(50000);
    fake_set_mode(fakes[2], FAKE_SERVES);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_OK);
    ck_assert_int_eq(r.status, PIKV_OK);
    ck_assert_str_eq((char *)buf, "value");
    ck_assert_uint_eq(stats().failovers, 0);
    cluster_end();
}
END_TEST

START_TEST(a_hedge_that_dies_or_misses_changes_nothing)
{
    struct pikv_get item = {.data = {buf, 64}};
    uint64_t id;

    hedge_open(PIKV_HEDGE_ALWAYS);
    if (_i)
        ck_assert_int_eq(fakes_put(key_at(1, key, &at), "value", 6), PIKV_OK);
    item.key = key_of(key);
    fake_set_mode(fakes[1], FAKE_HOLDS);
    if (_i == 0)
        fake_set_mode(fakes[2], FAKE_DIES);
    ck_assert_int_eq(pikv_get(kv, ns, &item, 1, &patient, &r, &id), 0);
    ck_assert(comes(is_hedged));
    usleep(100000);
    fake_set_mode(fakes[1], FAKE_SERVES);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), PIKV_OK);
    ck_assert_int_eq(r.status, PIKV_OK);
    ck_assert_str_eq((char *)buf, "value");
    ck_assert_uint_eq(won(), 0);
    cluster_end();
}
END_TEST

START_TEST(without_a_replica_nothing_is_hedged_by_default)
{
    hedge_open(_i ? PIKV_HEDGE_NEVER : PIKV_HEDGE_REPLICAS);
    fake_set_mode(fakes[1], FAKE_HOLDS);
    ck_assert_int_eq(get_within(key, buf, 64, SHORT_US, &r), PIKV_TIMEOUT);
    ck_assert_uint_eq(hedged(), 0);
    cluster_end();
}
END_TEST

START_TEST(hedges_keep_to_their_budget)
{
    hedge_open(PIKV_HEDGE_ALWAYS);
    fake_set_mode(fakes[1], FAKE_HOLDS);
    for (uint32_t i = 0; i < 30; i++)
        (void)get_within(key, buf, 64, 4 * SHORT_US, &r);
    fake_set_mode(fakes[1], FAKE_SERVES);
    ck_assert_uint_ge(hedged(), 1);
    ck_assert_uint_le(hedged(), 14);
    cluster_end();
}
END_TEST

/* ---- the ends of a handle ---- */

START_TEST(a_handle_is_closed_with_everything_under_way)
{
    enum { N = 40 };
    static uint8_t out[N][64];
    struct pikv_get gets[N] = {0};
    struct pikv_put puts[N] = {0};
    struct pikv_result a[N], b[N];
    char names[N][16];
    uint64_t id;

    fakes_open(4, 2, (struct pikv_options){.hedge = PIKV_HEDGE_ALWAYS});
    for (uint32_t i = 0; i < N; i++) {
        snprintf(names[i], sizeof(names[i]), "e%u", i);
        gets[i] =
            (struct pikv_get){.key = key_of(names[i]), .data = {out[i], 64}};
        puts[i] = (struct pikv_put){
            .key = key_of(names[i]), .data = {out[i], 64}, .replicas = 2};
    }
    if (_i) /* connected before */
        ck_assert_int_eq(pikv_get_sync(kv, ns, gets, N, &patient, a), 0);
    for (uint32_t i = 1; i < 4; i++)
        fake_set_mode(fakes[i], i == 1 ? FAKE_DEAF : FAKE_HOLDS);
    ck_assert_int_eq(pikv_get(kv, ns, gets, N, &patient, a, &id), 0);
    ck_assert_int_eq(pikv_put(kv, ns, puts, N, &patient, b, &id), 0);
    ck_assert_int_eq(
        pikv_evict(kv, ns, PIKV_NAMESPACE, NULL, 0, 0, &patient, NULL, &id), 0);
    cluster_end();
}
END_TEST

START_TEST(a_forked_child_touches_nothing)
{
    int status = -1;
    pid_t child;

    fakes_open(3, 1, plain);
    ck_assert_int_eq(fakes_put(key_at(1, key, &at), "value", 6), PIKV_OK);
    child = fork();
    if (child == 0) {
        struct pikv_node n;
        bool ok = fakes_get(key, buf, 64, &r) == PIKV_FORKED &&
                  pikv_nodes(kv, &n, 1) == PIKV_FORKED;

        pikv_close(kv);
        _exit(ok ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(fakes_get(key, buf, 64, &r), PIKV_OK);
    cluster_end();
}
END_TEST

static bool stop;

static void *churn(void *arg)
{
    uint32_t n = 0;

    (void)arg;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        fake_set_down(fakes[1 + n % 2], true);
        usleep(5000);
        fake_set_down(fakes[1 + n % 2], false);
        view.epoch++;
        for (uint32_t slot = n % 7; slot < WIRE_SLOTS; slot += 7) {
            uint16_t first = view.rows[slot].owner[0];

            view.rows[slot].owner[0] = view.rows[slot].owner[1];
            view.rows[slot].owner[1] = first;
        }
        cluster_tell_all();
        usleep(20000);
        n++;
    }
    return NULL;
}

/* Whatever comes back is what was put. */
START_TEST(bytes_are_whole_while_nodes_come_and_go_and_slots_move)
{
    enum { N = 64, ROUNDS = 60, LEN = 5000 };
    static uint8_t in[N][LEN], out[N][LEN];
    struct pikv_put puts[N] = {0};
    struct pikv_get gets[N] = {0};
    struct pikv_result res[N];
    struct pikv_call call = {.deadline_us = 2000000};
    char names[N][16];
    uint32_t hits = 0;
    pthread_t t;

    fakes_open(3, 2, (struct pikv_options){.hedge = PIKV_HEDGE_ALWAYS});
    for (uint32_t i = 0; i < N; i++) {
        snprintf(names[i], sizeof(names[i]), "w%u", i);
        memset(in[i], (int)i + 1, LEN);
        puts[i] = (struct pikv_put){.key = key_of(names[i]),
                                    .data = {in[i], LEN},
                                    .replicas = (uint8_t)(1 + i % 3)};
        gets[i] =
            (struct pikv_get){.key = key_of(names[i]), .data = {out[i], LEN}};
    }
    stop = false;
    ck_assert_int_eq(pthread_create(&t, NULL, churn, NULL), 0);
    for (uint32_t k = 0; k < ROUNDS; k++) {
        (void)pikv_put_sync(kv, ns, puts, N, &call, res);
        memset(out, 0, sizeof(out));
        (void)pikv_get_sync(kv, ns, gets, N, &call, res);
        for (uint32_t i = 0; i < N; i++) {
            if (res[i].status)
                continue;
            hits++;
            ck_assert_mem_eq(in[i], out[i], LEN);
        }
    }
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    pthread_join(t, NULL);
    ck_assert_uint_gt(hits, N);
    cluster_end();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("pikv_cluster_faults");
    TCase *t = tcase_create("faults");

    tcase_set_timeout(t, 180);
    tcase_add_test(t, a_silent_node_costs_one_deadline_and_then_nothing);
    tcase_add_test(t, a_probe_finds_a_node_that_answers_again);
    tcase_add_test(
        t, a_node_that_is_not_reached_for_its_first_connection_is_given_up);
    tcase_add_test(t, a_slow_answer_of_a_node_that_talks_does_not_break_it);
    tcase_add_test(t, writes_go_to_the_next_owner_while_the_breaker_is_open);
    tcase_add_loop_test(
        t, no_call_lasts_beyond_its_deadline_whatever_the_nodes_do, 0, 4);
    tcase_add_test(t, a_hedge_wins_when_the_first_is_silent);
    tcase_add_test(t, a_hedge_that_loses_leaves_nothing);
    tcase_add_test(t,
                   a_hedge_into_registered_memory_waits_for_the_first_to_stop);
    tcase_add_test(t, a_hedge_goes_on_when_the_first_dies);
    tcase_add_loop_test(t, a_hedge_that_dies_or_misses_changes_nothing, 0, 2);
    tcase_add_loop_test(t, without_a_replica_nothing_is_hedged_by_default, 0,
                        2);
    tcase_add_test(t, hedges_keep_to_their_budget);
    tcase_add_loop_test(t, a_handle_is_closed_with_everything_under_way, 0, 2);
    tcase_add_test(t, a_forked_child_touches_nothing);
    tcase_add_test(t, bytes_are_whole_while_nodes_come_and_go_and_slots_move);
    suite_add_tcase(s, t);
    return s;
}
