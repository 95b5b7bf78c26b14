/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
/* What the store tells, for each way in which a block comes, moves and goes.
 * Whoever believes the events has what the catalog has (follow.h). */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "store/store_impl.h"
#include "tests/lib/follow.h"
#include "tests/lib/ssd_fake.h"

static struct fake_ssd x;
static struct follow f;

static void begin_with(uint64_t events_bytes)
{
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);

    fssd_init(&x, 8, 2);
    x.f.cfg.events_bytes = events_bytes;
    MUST(fssd_start(&x) == OK);
    MUST(store_ns_set(x.f.s, &ns) == OK);
    store_adopted(x.f.s);
    follow_init(&f);
}

static void begin(void)
{
    begin_with(MIB(1));
}

static void check(void)
{
    follow_take(&f, x.f.s);
    follow_check(&f, x.f.s);
}

static void end(void)
{
    check();
    store_check(x.f.s);
    follow_fini(&f);
    fssd_close(&x);
}

/* The last event, which must be of this kind. */
static struct event last(enum event_kind kind)
{
    struct event e;

    ck_assert_uint_gt(store_events_next(x.f.s), 1);
    store_event(x.f.s, store_events_next(x.f.s) - 1, &e);
    ck_assert_int_eq(e.kind, kind);
    return e;
}

static uint32_t find(const char *name)
{
    return sfix_find(&x.f, 1, name);
}

static bool named(const struct event *e, const char *name)
{
    return e->key_len == strlen(name) && !memcmp(e->key, name, e->key_len);
}

START_TEST(a_commit_tells_all_that_was_said_at_put)
{
    static const uint8_t scope[16] = {1, 2, 3};
    struct wire_attr attr = {.page = 3,
                             .token_end = 64,
                             .token_n = 16,
                             .label0 = 5,
                             .label3 = UINT64_MAX};
    struct store_key k = {.ns = 1,
                          .group = 7,
                          .cls = 2,
                          .key = (const uint8_t *)"child",
                          .key_len = 5,
                          .scope = scope};
    struct event e;
    uint32_t b;

    begin();
    x.f.env.wall_s = 1700000000;
    x.f.env.wall_ms = 321;
    store_key_hash(x.f.s, &k);
    ck_assert_int_eq(
        store_reserve(x.f.s, &k, &attr, (const uint8_t *)"root", 4, 5000, &b),
        OK);
    ck_assert_uint_eq(store_events_next(x.f.s), 1); /* nobody finds it yet */
    store_commit(x.f.s, b, 0);
    e = last(EVENT_STORED);
    ck_assert_uint_eq(e.seq, 1);
    ck_assert_uint_eq(e.ns, 1);
    ck_assert(named(&e, "child"));
    ck_assert_uint_eq(e.parent_len, 4);
    ck_assert_mem_eq(e.parent, "root", 4);
    ck_assert_mem_eq(e.scope, scope, 16);
    ck_assert_uint_eq(e.group, 7);
    ck_assert_uint_eq(e.cls, 2);
    ck_assert_uint_eq(e.tier, TIER_DRAM);
    ck_assert_uint_eq(e.len, 5000);
    ck_assert_uint_eq(e.version, store_version(x.f.s, b));
    ck_assert_uint_eq(e.hash.lo, k.hash.lo);
    ck_assert_uint_eq(e.page, 3);
    ck_assert_uint_eq(e.token_end, 64);
    ck_assert_uint_eq(e.token_n, 16);
    ck_assert_uint_eq(e.labels[0], 5);
    ck_assert_uint_eq(e.labels[3], UINT64_MAX);
    ck_assert_uint_eq(e.when_ms, UINT64_C(1700000000321));
    ck_assert_uint_eq(x.f.metrics.events, 1);
    store_unref(x.f.s, b);
    end();
}
END_TEST

START_TEST(an_aborted_block_is_not_told)
{
    struct store_key k;
    uint32_t b;

    begin();
    k = sfix_key(&x.f, 1, "a");
    ck_assert_int_eq(store_reserve(x.f.s, &k, NULL, NULL, 0, 5000, &b), OK);
    store_abort(x.f.s, b);
    ck_assert_uint_eq(store_events_next(x.f.s), 1);
    end();
}
END_TEST

START_TEST(a_drop_tells_once_also_while_the_block_is_used)
{
    struct event e;
    uint32_t b;

    begin();
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    b = find("a");
    store_ref(x.f.s, b);
    store_drop(x.f.s, b);
    e = last(EVENT_REMOVED);
    ck_assert(named(&e, "a"));
    ck_assert_uint_eq(e.tier, TIER_DRAM);
    ck_assert_uint_eq(e.seq, 2);
    store_unref(x.f.s, b);
    ck_assert_uint_eq(store_events_next(x.f.s), 3);
    end();
}
END_TEST

START_TEST(an_eviction_for_good_is_told)
{
    begin();
    x.hold = true; /* nothing reaches the SSD */
    for (uint32_t i = 0; i < 30; i++) {
        char name[16];

        snprintf(name, sizeof name, "n%u", i);
        ck_assert_int_eq(fssd_put(&x, name, NULL, NULL, MIB(1)), OK);
        check();
    }
    ck_assert_uint_ge(f.told[EVENT_REMOVED], 14);
    ck_assert_uint_eq(f.told[EVENT_MOVED], 0);
    x.hold = false;
    fssd_run(&x);
    end();
}
END_TEST

START_TEST(to_the_ssd_and_back_are_moves)
{
    struct event e;

    begin();
    fssd_put_cold(&x, "a", NULL, 5000);
    e = last(EVENT_MOVED);
    ck_assert_uint_eq(e.tier, TIER_SSD);
    ck_assert(named(&e, "a")); /* known one last time */
    check();
    ck_assert_int_eq(fssd_get(&x, "a"), OK);
    e = last(EVENT_MOVED);
    ck_assert_uint_eq(e.tier, TIER_DRAM);
    ck_assert(named(&e, "a"));
    ck_assert_uint_eq(e.version, store_version(x.f.s, find("a")));
    end();
}
END_TEST

START_TEST(a_load_that_is_given_up_is_no_move)
{
    struct store_wait w = {.done = fssd_done};

    begin();
    fssd_put_cold(&x, "a", NULL, 5000);
    ck_assert_int_eq(fssd_load(&x, "a", &w), OK);
    store_wait_cancel(x.f.s, &w);
    ck_assert_int_eq(store_where(x.f.s, find("a")), WHERE_SSD);
    ck_assert_uint_eq(store_events_next(x.f.s), 3);
    end();
}
END_TEST

START_TEST(a_cold_block_that_goes_has_a_hash_and_no_key)
{
    struct event e;
    struct store_key k;

    begin();
    k = sfix_key(&x.f, 1, "a");
    fssd_put_cold(&x, "a", NULL, 5000);
    store_drop(x.f.s, find("a"));
    e = last(EVENT_REMOVED);
    ck_assert_uint_eq(e.tier, TIER_SSD);
    ck_assert_uint_eq(e.key_len, 0);
    ck_assert_uint_eq(e.hash.lo, k.hash.lo);
    ck_assert_uint_eq(e.hash.hi, k.hash.hi);
    ck_assert_uint_eq(e.len, 5000);
    end();
}
END_TEST

START_TEST(a_block_that_goes_while_it_is_read_was_on_the_ssd)
{
    struct store_wait w = {.done = fssd_done};
    struct event e;

    begin();
    fssd_put_cold(&x, "a", NULL, 5000);
    ck_assert_int_eq(fssd_load(&x, "a", &w), OK);
    store_drop(x.f.s, find("a"));
    e = last(EVENT_REMOVED);
    ck_assert_uint_eq(e.tier, TIER_SSD);
    ck_assert(named(&e, "a"));
    fssd_run(&x);
    ck_assert_uint_eq(store_events_next(x.f.s), 4);
    end();
}
END_TEST

START_TEST(an_expired_block_is_told_by_whoever_finds_it)
{
    struct wire_attr attr = {.ttl_ms = 5000};

    begin();
    ck_assert_int_eq(fssd_put(&x, "hot", NULL, &attr, 5000), OK);
    ck_assert_int_eq(fssd_put(&x, "asked", NULL, &attr, 5000), OK);
    ck_assert_int_eq(fssd_put(&x, "cold", NULL, &attr, 5000), OK);
    fssd_run(&x);
    store_demote(x.f.s, find("cold"));
    x.f.env.wall_s += 6;
    ck_assert_uint_eq(find("asked"), 0);
    (void)last(EVENT_REMOVED);
    x.f.env.now_ns += COLD_PACE_MS * NS_PER_MS;
    fssd_run(&x);
    check();
    ck_assert_uint_eq(f.told[EVENT_REMOVED], 3);
    ck_assert_uint_eq(f.n, 0);
    end();
}
END_TEST

START_TEST(what_a_lost_device_had_is_told)
{
    begin();
    fssd_put_cold(&x, "a", NULL, 5000);
    fssd_put_cold(&x, "b", NULL, 5000);
    for (uint32_t d = 0; d < 2; d++) {
        x.maps[d].state = SEGLOG_FAILED;
        store_ssd_lost(x.f.s, d);
    }
    fssd_run(&x);
    check();
    ck_assert_uint_eq(f.told[EVENT_REMOVED], 2);
    end();
}
END_TEST

START_TEST(what_cannot_be_read_as_it_was_written_is_told)
{
    uint32_t b;

    begin();
    b = fssd_put_cold(&x, "a", NULL, 5000);
    fssd_payload(&x, b)[100] ^= 1;
    ck_assert_int_eq(fssd_get(&x, "a"), ERR_MISS);
    (void)last(EVENT_REMOVED);
    end();
}
END_TEST

START_TEST(what_reclaim_gives_up_is_told)
{
    uint32_t b;

    begin();
    b = fssd_put_cold(&x, "a", NULL, 5000);
    (void)fssd_reclaim(&x, seg_dev(entry_at(x.f.s, b)->tag),
                       fssd_segment_of(&x, b), 0);
    fssd_run(&x);
    (void)last(EVENT_REMOVED);
    end();
}
END_TEST

START_TEST(a_bump_is_one_event_and_what_was_before_is_told_no_more)
{
    struct store_ns_cfg ns = sfix_ns(1, 2, NULL), other = sfix_ns(2, 1, NULL);
    struct store_key k;
    struct event e;
    uint32_t open;

    begin();
    ck_assert_int_eq(store_ns_set(x.f.s, &other), OK);
    ck_assert_uint_eq(store_events_next(x.f.s), 1); /* a new one is no flush */
    ck_assert_int_eq(sfix_put(&x.f, 2, "stays", NULL, 5000), OK);
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    fssd_put_cold(&x, "b", NULL, 5000);
    k = sfix_key(&x.f, 1, "open");
    ck_assert_int_eq(store_reserve(x.f.s, &k, NULL, NULL, 0, 5000, &open), OK);
    ck_assert_int_eq(store_ns_set(x.f.s, &ns), OK);
    e = last(EVENT_CLEARED);
    ck_assert_uint_eq(e.ns, 1);
    ck_assert_uint_eq(e.version, 2);
    store_commit(x.f.s, open, 0); /* into the old generation */
    store_unref(x.f.s, open);
    fssd_run(&x);
    ck_assert_uint_eq(store_events_next(x.f.s), e.seq + 1);
    check();
    ck_assert_uint_eq(f.n, 1);
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    (void)last(EVENT_STORED);
    ns.policy = evict_by_name("s3fifo"); /* a change is no flush */
    ck_assert_int_eq(store_ns_set(x.f.s, &ns), OK);
    (void)last(EVENT_STORED);
    end();
}
END_TEST

START_TEST(recovery_is_not_told)
{
    begin();
    fssd_put_cold(&x, "a", NULL, 5000);
    fssd_restart(&x);
    fssd_adopt(&x);
    ck_assert_uint_ne(find("a"), 0);
    ck_assert_uint_eq(store_events_next(x.f.s), 1);
    follow_list(&f, x.f.s);
    store_drop(x.f.s, find("a"));
    check();
    ck_assert_uint_eq(f.n, 0);
    end();
}
END_TEST

START_TEST(without_a_ring_nothing_is_told)
{
    begin_with(0);
    ck_assert(!store_events_on(x.f.s));
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    ck_assert_uint_eq(store_events_next(x.f.s), 1);
    ck_assert_uint_eq(x.f.metrics.events, 0);
    follow_fini(&f);
    fssd_close(&x);
}
END_TEST

START_TEST(a_ring_that_is_overrun_says_from_where_it_knows)
{
    begin_with(EVENTS_BYTES_MIN);
    for (uint32_t i = 0; i < 3000; i++) {
        ck_assert_int_eq(sfix_put_num(&x.f, 1, i, 100), OK);
        store_drop(x.f.s, sfix_find_num(&x.f, 1, i));
    }
    ck_assert_uint_eq(store_events_next(x.f.s), 6001);
    ck_assert_uint_gt(store_events_first(x.f.s), 5000);
    check();
    ck_assert_uint_eq(f.lost, 1);
    end();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("store_events");
    TCase *t = tcase_create("told");

    tcase_add_test(t, a_commit_tells_all_that_was_said_at_put);
    tcase_add_test(t, an_aborted_block_is_not_told);
    tcase_add_test(t, a_drop_tells_once_also_while_the_block_is_used);
    tcase_add_test(t, an_eviction_for_good_is_told);
    tcase_add_test(t, to_the_ssd_and_back_are_moves);
    tcase_add_test(t, a_load_that_is_given_up_is_no_move);
    tcase_add_test(t, a_cold_block_that_goes_has_a_hash_and_no_key);
    tcase_add_test(t, a_block_that_goes_while_it_is_read_was_on_the_ssd);
    tcase_add_test(t, an_expired_block_is_told_by_whoever_finds_it);
    tcase_add_test(t, what_a_lost_device_had_is_told);
    tcase_add_test(t, what_cannot_be_read_as_it_was_written_is_told);
    tcase_add_test(t, what_reclaim_gives_up_is_told);
    tcase_add_test(t, a_bump_is_one_event_and_what_was_before_is_told_no_more);
    tcase_add_test(t, recovery_is_not_told);
    tcase_add_test(t, without_a_ring_nothing_is_told);
    tcase_add_test(t, a_ring_that_is_overrun_says_from_where_it_knows);
    suite_add_tcase(s, t);
    return s;
}
