/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
#include "store/store.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "tests/lib/sfix.h"

static struct sfix f;

static uint32_t open_block(const char *name, const char *parent, uint64_t len)
{
    struct store_key k = sfix_key(&f, 1, name);
    uint32_t b = 0;
    enum err e =
        store_reserve(f.s, &k, NULL, (const uint8_t *)parent,
                      (uint16_t)(parent ? strlen(parent) : 0), len, &b);

    ck_assert_int_eq(e, OK);
    return b;
}

static bool is_below(uint32_t block, uint32_t ancestor)
{
    return store_descends(f.s, block, &ancestor, 1);
}

START_TEST(a_block_is_pending_until_commit_and_then_a_hit)
{
    uint64_t version;
    uint32_t b;

    sfix_open(&f, 4, NULL);
    ck_assert_int_eq(sfix_why(&f, 1, "a"), FOUND_MISS_NEVER);
    b = open_block("a", NULL, 100000);
    ck_assert_int_eq(sfix_why(&f, 1, "a"), FOUND_PENDING);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 5000), ERR_PENDING);
    version = store_commit(f.s, b, 0x1234);
    ck_assert_int_eq(sfix_why(&f, 1, "a"), FOUND_HIT);
    ck_assert_uint_eq(sfix_find(&f, 1, "a"), b);
    ck_assert_uint_eq(store_len(f.s, b), 100000);
    ck_assert_uint_eq(store_version(f.s, b), version);
    ck_assert_uint_eq(store_crc(f.s, b), 0x1234);
    store_unref(f.s, b);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 5000), ERR_EXISTS);
    ck_assert_uint_eq(f.metrics.put_stored, 1);
    ck_assert_uint_eq(f.metrics.put_exists, 1);
    ck_assert_uint_eq(f.metrics.put_pending, 1);
    ck_assert_uint_eq(f.metrics.blocks, 1);
    ck_assert_uint_eq(f.metrics.block_bytes, 100000);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(an_abort_leaves_nothing)
{
    uint32_t b;

    sfix_open(&f, 4, NULL);
    b = open_block("a", NULL, 3 << 20);
    store_check(f.s);
    store_abort(f.s, b);
    ck_assert_int_eq(sfix_why(&f, 1, "a"), FOUND_MISS_NEVER);
    ck_assert_uint_eq(unit_pool_free(&f.pool), 4);
    ck_assert_uint_eq(f.metrics.blocks, 0);
    ck_assert_uint_eq(f.metrics.put_aborted, 1);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(a_dropped_block_keeps_its_bytes_while_it_is_in_use)
{
    struct store_info info;
    uint32_t b, again;

    sfix_open(&f, 4, NULL);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 9000), OK);
    b = sfix_find(&f, 1, "a");
    store_ref(f.s, b);
    sfix_write(&f, b, 77);
    store_drop(f.s, b);
    ck_assert_uint_eq(sfix_find(&f, 1, "a"), 0);
    store_info(f.s, b, &info);
    ck_assert_int_ne(info.found, FOUND_HIT);
    store_check(f.s);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 9000), OK);
    again = sfix_find(&f, 1, "a");
    ck_assert_uint_ne(again, b);
    ck_assert_uint_gt(store_version(f.s, again), store_version(f.s, b));
    ck_assert(sfix_same(&f, b, 77));
    store_unref(f.s, b);
    store_check(f.s);
    ck_assert_uint_eq(f.metrics.blocks, 1);
    sfix_close(&f);
}
END_TEST

START_TEST(keys_with_equal_hashes_are_told_apart_by_their_bytes)
{
    struct store_key a, b;
    uint32_t block;
    enum store_found why;

    sfix_open(&f, 4, NULL);
    a = sfix_key(&f, 1, "one");
    b = sfix_key(&f, 1, "two");
    b.hash = a.hash;
    ck_assert_int_eq(store_reserve(f.s, &a, NULL, NULL, 0, 8, &block), OK);
    store_commit(f.s, block, 0);
    store_unref(f.s, block);
    ck_assert_uint_eq(store_find(f.s, &b, &why), 0);
    ck_assert_int_eq(store_reserve(f.s, &b, NULL, NULL, 0, 8, &block), OK);
    store_commit(f.s, block, 0);
    store_unref(f.s, block);
    ck_assert_uint_eq(store_find(f.s, &b, &why), block);
    ck_assert_uint_ne(store_find(f.s, &a, &why), block);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(scope_group_and_namespace_separate_equal_bytes)
{
    static const uint8_t scope[16] = {9};
    struct store_ns_cfg two = sfix_ns(2, 1, NULL);
    struct store_key k;
    enum store_found why;

    sfix_open(&f, 4, NULL);
    ck_assert_int_eq(store_ns_set(f.s, &two), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 10), OK);
    k = sfix_key(&f, 1, "a");
    k.scope = scope;
    store_key_hash(f.s, &k);
    ck_assert_uint_eq(store_find(f.s, &k, &why), 0);
    k = sfix_key(&f, 1, "a");
    k.group = 3;
    store_key_hash(f.s, &k);
    ck_assert_uint_eq(store_find(f.s, &k, &why), 0);
    ck_assert_uint_eq(sfix_find(&f, 2, "a"), 0);
    ck_assert_uint_ne(sfix_find(&f, 1, "a"), 0);
    sfix_close(&f);
}
END_TEST

START_TEST(inspect_gives_back_what_put_said)
{
    static const uint8_t scope[16] = {1, 2, 3};
    struct wire_attr attr = {.page = 7, .token_n = 16, .label1 = 99};
    struct store_info i;
    struct store_key k;
    uint32_t b;

    sfix_open(&f, 4, NULL);
    k = sfix_key(&f, 1, "the key");
    k.scope = scope;
    k.cls = CLASS_EXPERT;
    k.group = 5;
    k.route = (const uint8_t *)"route";
    k.route_len = 5;
    store_key_hash(f.s, &k);
    ck_assert_int_eq(
        store_reserve(f.s, &k, &attr, (const uint8_t *)"dad", 3, 12345, &b),
        OK);
    store_commit(f.s, b, 5);
    f.env.now_ns += 2 * NS_PER_S;
    store_use(f.s, b);
    f.env.now_ns += NS_PER_S;
    store_info(f.s, b, &i);
    ck_assert_uint_eq(i.len, 12345);
    ck_assert_uint_eq(i.refs, 1);
    ck_assert_uint_eq(i.hits, 1);
    ck_assert_uint_eq(i.extents, 1);
    ck_assert_uint_eq(i.age_ms, 3000);
    ck_assert_uint_eq(i.idle_ms, 1000);
    ck_assert_uint_eq(i.attr.page, 7);
    ck_assert_uint_eq(i.attr.label1, 99);
    ck_assert_uint_eq(i.key.ns, 1);
    ck_assert_uint_eq(i.key.group, 5);
    ck_assert_uint_eq(i.key.cls, CLASS_EXPERT);
    ck_assert_mem_eq(i.key.scope, scope, 16);
    ck_assert_mem_eq(i.key.key, "the key", 7);
    ck_assert_mem_eq(i.key.route, "route", 5);
    ck_assert_uint_eq(i.parent_len, 3);
    ck_assert_mem_eq(i.parent, "dad", 3);
    store_unref(f.s, b);
    sfix_close(&f);
}
END_TEST

START_TEST(what_was_evicted_and_what_expired_are_told_from_never_seen)
{
    struct wire_attr attr = {.ttl_ms = 1500};
    struct store_key k;
    uint32_t b;

    sfix_open(&f, 1, NULL);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 2 << 20), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "b", NULL, 2 << 20), OK);
    ck_assert_int_eq(sfix_why(&f, 1, "a"), FOUND_MISS_EVICTED);
    ck_assert_int_eq(sfix_why(&f, 1, "c"), FOUND_MISS_NEVER);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 2 << 20), OK);
    ck_assert_int_eq(sfix_why(&f, 1, "a"), FOUND_HIT);
    store_drop(f.s, sfix_find(&f, 1, "a"));
    ck_assert_int_eq(sfix_why(&f, 1, "a"), FOUND_MISS_DROPPED);
    k = sfix_key(&f, 1, "t");
    ck_assert_int_eq(store_reserve(f.s, &k, &attr, NULL, 0, 100, &b), OK);
    store_commit(f.s, b, 0);
    store_unref(f.s, b);
    f.env.wall_s += 1;
    ck_assert_int_eq(sfix_why(&f, 1, "t"), FOUND_HIT);
    f.env.wall_s += 1;
    ck_assert_int_eq(sfix_why(&f, 1, "t"), FOUND_MISS_EXPIRED);
    ck_assert_uint_eq(f.metrics.blocks, 0);
    sfix_close(&f);
}
END_TEST

START_TEST(the_tick_reclaims_expired_blocks_nobody_asks_for)
{
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);

    sfix_open(&f, 8, NULL);
    ns.ttl_ms = 1000;
    ck_assert_int_eq(store_ns_set(f.s, &ns), OK);
    for (uint64_t i = 0; i < 1000; i++)
        ck_assert_int_eq(sfix_put_num(&f, 1, i, 4096), OK);
    f.env.wall_s += 1;
    for (int i = 0; i < 10; i++)
        store_tick(f.s);
    ck_assert_uint_eq(f.metrics.blocks, 0);
    ck_assert_uint_eq(unit_pool_free(&f.pool), 8);
    ck_assert_int_eq(sfix_put_num(&f, 1, 1, 4096), OK);
    f.env.wall_s += 1;
    ck_assert_int_eq(sfix_put_num(&f, 1, 1, 4096), OK); /* not EXISTS */
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(pins_hold_and_are_capped)
{
    uint32_t a, b;

    sfix_init(&f, 4);
    f.cfg.pinned_bytes_max = 3 << 20;
    ck_assert_int_eq(sfix_start(&f), OK);
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);
    ck_assert_int_eq(store_ns_set(f.s, &ns), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 2 << 20), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "b", NULL, 2 << 20), OK);
    a = sfix_find(&f, 1, "a");
    b = sfix_find(&f, 1, "b");
    ck_assert_int_eq(store_pin(f.s, a), OK);
    ck_assert_int_eq(store_pin(f.s, a), OK);
    ck_assert_int_eq(store_pin(f.s, b), ERR_PIN_LIMIT);
    ck_assert_uint_eq(store_pinned_bytes(f.s), 2 << 20);
    for (uint64_t i = 0; i < 20; i++)
        ck_assert_int_eq(sfix_put_num(&f, 1, i, 2 << 20), OK);
    ck_assert_uint_eq(sfix_find(&f, 1, "a"), a);
    ck_assert_uint_eq(sfix_find(&f, 1, "b"), 0);
    store_drop(f.s, a); /* a pinned block that is dropped keeps its bytes */
    store_check(f.s);
    store_unpin(f.s, a);
    ck_assert_uint_eq(store_pinned_bytes(f.s), 2 << 20);
    store_unpin(f.s, a);
    ck_assert_uint_eq(store_pinned_bytes(f.s), 0);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

/* 16 blocks of 128 KiB fill a unit; the pool has 4. */
START_TEST(leaves_go_before_roots_under_every_policy)
{
    const struct evict_ops *p = evict_by_idx((uint32_t)_i);
    char name[32], up[32];

    sfix_open(&f, 4, p);
    for (int i = 0; i < 32; i++) {
        snprintf(name, sizeof name, "c%d", i);
        snprintf(up, sizeof up, "c%d", i - 1);
        ck_assert_int_eq(sfix_put(&f, 1, name, i ? up : NULL, KIB(128)), OK);
    }
    for (uint64_t n = 0; n < 200; n++) {
        bool gone = false;

        ck_assert_int_eq(sfix_put_num(&f, 1, n, KIB(128)), OK);
        for (int i = 0; i < 32; i++) {
            snprintf(name, sizeof name, "c%d", i);
            if (!sfix_find(&f, 1, name))
                gone = true;
            else
                ck_assert_msg(!gone, "%s: c%d without its parent", p->name, i);
        }
        store_check(f.s);
    }
    sfix_close(&f);
}
END_TEST

START_TEST(a_chain_can_be_dropped_in_any_order_and_put_again)
{
    uint32_t root, mid, leaf;

    sfix_open(&f, 4, NULL);
    ck_assert_int_eq(sfix_put(&f, 1, "root", NULL, 5000), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "mid", "root", 5000), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "leaf", "mid", 5000), OK);
    root = sfix_find(&f, 1, "root");
    mid = sfix_find(&f, 1, "mid");
    leaf = sfix_find(&f, 1, "leaf");
    ck_assert(is_below(leaf, root));
    ck_assert(!is_below(root, leaf));
    store_drop(f.s, mid);
    store_check(f.s);
    ck_assert_uint_eq(sfix_find(&f, 1, "mid"), 0);
    ck_assert(is_below(leaf, root));
    store_drop(f.s, root);
    store_check(f.s);
    /* The key comes back and its children are its again. */
    ck_assert_int_eq(sfix_put(&f, 1, "mid", NULL, 7000), OK);
    store_check(f.s);
    ck_assert(is_below(leaf, sfix_find(&f, 1, "mid")));
    store_drop(f.s, leaf);
    store_drop(f.s, sfix_find(&f, 1, "mid"));
    store_check(f.s);
    ck_assert_uint_eq(unit_pool_free(&f.pool), 4);
    ck_assert_uint_eq(f.metrics.blocks, 0);
    sfix_close(&f);
}
END_TEST

START_TEST(a_parent_that_would_close_a_circle_is_not_linked)
{
    sfix_open(&f, 4, NULL);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 5000), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "b", "a", 5000), OK);
    store_drop(f.s, sfix_find(&f, 1, "a"));
    ck_assert_int_eq(sfix_put(&f, 1, "a", "b", 5000), OK);
    store_check(f.s);
    ck_assert(!is_below(sfix_find(&f, 1, "a"), sfix_find(&f, 1, "b")));
    ck_assert_int_eq(sfix_put(&f, 1, "self", "self", 5000), OK);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(a_child_of_an_aborted_parent_lives_on)
{
    uint32_t up;

    sfix_open(&f, 4, NULL);
    up = open_block("up", NULL, 5000);
    ck_assert_int_eq(sfix_put(&f, 1, "down", "up", 5000), OK);
    store_abort(f.s, up);
    store_check(f.s);
    ck_assert_uint_ne(sfix_find(&f, 1, "down"), 0);
    ck_assert_int_eq(sfix_put(&f, 1, "up", NULL, 5000), OK);
    ck_assert(is_below(sfix_find(&f, 1, "down"), sfix_find(&f, 1, "up")));
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

struct walked {
    uint32_t n;
    bool drop;
};

static void walk_one(struct store *s, uint32_t block, void *arg)
{
    struct walked *w = arg;

    w->n++;
    if (w->drop)
        store_drop(s, block);
}

START_TEST(a_walk_meets_every_live_block_once_and_may_drop_it)
{
    struct walked w = {0};
    uint64_t cursor = 0;

    sfix_open(&f, 8, NULL);
    for (uint64_t i = 0; i < 1000; i++)
        ck_assert_int_eq(sfix_put_num(&f, 1, i, 4096), OK);
    open_block("open", NULL, 4096);
    do
        cursor = store_walk(f.s, cursor, 37, walk_one, &w);
    while (cursor);
    ck_assert_uint_eq(w.n, 1000);
    w = (struct walked){.drop = true};
    do
        cursor = store_walk(f.s, cursor, 37, walk_one, &w);
    while (cursor);
    ck_assert_uint_eq(w.n, 1000);
    ck_assert_uint_eq(f.metrics.blocks, 1);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(limits_are_typed)
{
    sfix_init(&f, 4);
    f.cfg.block_bytes_max = 1 << 20;
    ck_assert_int_eq(sfix_start(&f), OK);
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);
    ck_assert_int_eq(store_ns_set(f.s, &ns), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, (1 << 20) + 1), ERR_LIMIT);
    ns.id = 9;
    ck_assert_int_eq(store_ns_set(f.s, &ns), ERR_LIMIT);
    ns.id = 2;
    ns.pool = 3;
    ck_assert_int_eq(store_ns_set(f.s, &ns), ERR_LIMIT);
    sfix_close(&f);
    sfix_open(&f, 4, NULL);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 9 << 20), ERR_NO_SPACE);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 8 << 20), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "z", NULL, 0), OK);
    ck_assert_uint_eq(store_pool_off(f.s, sfix_find(&f, 1, "z")), UINT64_MAX);
    sfix_close(&f);
}
END_TEST

START_TEST(a_catalog_that_is_full_evicts)
{
    sfix_init(&f, 4);
    f.cfg.blocks_max = 100;
    ck_assert_int_eq(sfix_start(&f), OK);
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);
    ck_assert_int_eq(store_ns_set(f.s, &ns), OK);
    for (uint64_t i = 0; i < 1000; i++)
        ck_assert_int_eq(sfix_put_num(&f, 1, i, 4096), OK);
    ck_assert_uint_eq(f.metrics.blocks, 100);
    ck_assert_uint_ne(sfix_find_num(&f, 1, 999), 0);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(a_fresh_large_block_is_one_run_of_the_pool)
{
    struct span spans[4];
    uint32_t b;

    sfix_open(&f, 8, NULL);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 5 << 20), OK);
    b = sfix_find(&f, 1, "a");
    ck_assert_uint_eq(store_pool_off(f.s, b), 0);
    ck_assert_uint_eq(store_spans(f.s, b, 3000000, 100, spans, 4), 1);
    ck_assert_ptr_eq(spans[0].p, f.mem + 3000000);
    ck_assert_uint_eq(spans[0].len, 100);
    sfix_close(&f);
}
END_TEST

START_TEST(watermarks_keep_room_free)
{
    sfix_init(&f, 100);
    f.cfg.low_water_pct = 5;
    f.cfg.high_water_pct = 10;
    ck_assert_int_eq(sfix_start(&f), OK);
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);
    ck_assert_int_eq(store_ns_set(f.s, &ns), OK);
    for (uint64_t i = 0; i < 95; i++)
        ck_assert_int_eq(sfix_put_num(&f, 1, i, 2 << 20), OK);
    sfix_settle(&f);
    ck_assert_uint_eq(f.metrics.evicted_blocks, 0);
    ck_assert_int_eq(sfix_put_num(&f, 1, 95, 2 << 20), OK);
    sfix_settle(&f);
    ck_assert_uint_eq(f.metrics.evicted_blocks, 6);
    ck_assert_uint_eq(unit_pool_free(&f.pool), 10);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(a_vain_reserve_does_not_wake_itself)
{
    uint64_t freed;

    sfix_open(&f, 2, NULL);
    ck_assert_int_eq(sfix_put(&f, 1, "a", NULL, 2 << 20), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "b", NULL, 1 << 20), OK);
    store_ref(f.s, sfix_find(&f, 1, "a"));
    freed = store_freed(f.s);
    ck_assert_int_eq(sfix_put(&f, 1, "c", NULL, 4 << 20), ERR_BUSY);
    ck_assert_uint_eq(store_freed(f.s), freed);
    ck_assert_int_eq(sfix_put(&f, 1, "c", NULL, 4 << 20), ERR_BUSY);
    ck_assert_uint_eq(store_freed(f.s), freed);
    store_unref(f.s, sfix_find(&f, 1, "a"));
    ck_assert_uint_ne(store_freed(f.s), freed);
    ck_assert_int_eq(sfix_put(&f, 1, "c", NULL, 4 << 20), OK);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("store");
    TCase *t = tcase_create("store");
    int policies = 0;

    while (evict_by_idx((uint32_t)policies))
        policies++;
    tcase_set_timeout(t, 120);
    tcase_add_test(t, a_block_is_pending_until_commit_and_then_a_hit);
    tcase_add_test(t, an_abort_leaves_nothing);
    tcase_add_test(t, a_dropped_block_keeps_its_bytes_while_it_is_in_use);
    tcase_add_test(t, keys_with_equal_hashes_are_told_apart_by_their_bytes);
    tcase_add_test(t, scope_group_and_namespace_separate_equal_bytes);
    tcase_add_test(t, inspect_gives_back_what_put_said);
    tcase_add_test(t,
                   what_was_evicted_and_what_expired_are_told_from_never_seen);
    tcase_add_test(t, the_tick_reclaims_expired_blocks_nobody_asks_for);
    tcase_add_test(t, pins_hold_and_are_capped);
    tcase_add_loop_test(t, leaves_go_before_roots_under_every_policy, 0,
                        policies);
    tcase_add_test(t, a_chain_can_be_dropped_in_any_order_and_put_again);
    tcase_add_test(t, a_parent_that_would_close_a_circle_is_not_linked);
    tcase_add_test(t, a_child_of_an_aborted_parent_lives_on);
    tcase_add_test(t, a_walk_meets_every_live_block_once_and_may_drop_it);
    tcase_add_test(t, limits_are_typed);
    tcase_add_test(t, a_catalog_that_is_full_evicts);
    tcase_add_test(t, a_fresh_large_block_is_one_run_of_the_pool);
    tcase_add_test(t, watermarks_keep_room_free);
    tcase_add_test(t, a_vain_reserve_does_not_wake_itself);
    suite_add_tcase(s, t);
    return s;
}
