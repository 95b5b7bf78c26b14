/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
#include "store/store.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "tests/lib/sfix.h"

static struct sfix f;

static uint64_t rnd(uint64_t n)
{
    return env_random(&f.env) % n;
}

/* 4 KiB to 64 MiB, each doubling as likely as the others. */
static uint64_t random_len(void)
{
    uint64_t top = KIB(4) << rnd(14);

    return top + rnd(top);
}

static void fill(uint64_t from, uint64_t n, uint64_t len)
{
    for (uint64_t i = from; i < from + n; i++)
        ck_assert_int_eq(sfix_put_num(&f, 1, i, len), OK);
}

static uint32_t blocks_left(uint64_t from, uint64_t n)
{
    uint32_t left = 0;

    for (uint64_t i = from; i < from + n; i++)
        left += sfix_find_num(&f, 1, i) != 0;
    return left;
}

START_TEST(one_class_evicts_exactly_one_for_one)
{
    const struct evict_ops *p = evict_by_idx((uint32_t)_i);

    sfix_open(&f, 8, p);
    fill(0, 8 * 32, KIB(64));
    ck_assert_uint_eq(f.metrics.evicted_blocks, 0);
    fill(1000, 500, KIB(64));
    ck_assert_uint_eq(f.metrics.evicted_blocks, 500);
    ck_assert_uint_eq(f.metrics.units_emptied, 0);
    ck_assert_uint_eq(f.metrics.scattered_blocks, 0);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(small_blocks_make_way_for_large_ones)
{
    const struct evict_ops *p = evict_by_idx((uint32_t)_i);

    sfix_open(&f, 64, p);
    fill(0, 64 * 512, 4096);
    for (uint64_t i = 0; i < 3000; i++) /* so that the order is not the place */
        store_use(f.s, sfix_find_num(&f, 1, rnd(64 * 512)));
    ck_assert_int_eq(sfix_put(&f, 1, "2m", NULL, MIB(2)), OK);
    store_check(f.s);
    ck_assert_uint_ge(blocks_left(0, 64 * 512), 64 * 512 - 3 * 512);
    ck_assert_int_eq(sfix_put(&f, 1, "64m", NULL, MIB(64)), OK);
    store_check(f.s);
    ck_assert_uint_ge(blocks_left(0, 64 * 512), 10 * 512);
    ck_assert_int_eq(sfix_put(&f, 1, "128m", NULL, MIB(128)), OK);
    ck_assert(sfix_same(&f, sfix_find(&f, 1, "128m"),
                        sfix_key(&f, 1, "128m").hash.lo));
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(large_blocks_make_way_for_small_ones)
{
    sfix_open(&f, 16, NULL);
    fill(0, 16 * 32, KIB(64));
    fill(1000, 512, 4096);
    /* One unit's worth of blocks, and what policy took before it. */
    ck_assert_uint_ge(blocks_left(0, 16 * 32), 16 * 32 - 64);
    store_check(f.s);
    fill(2000, 16 * 512, 4096);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

/* Every unit has one small pinned block in its middle. */
START_TEST(one_pin_in_every_unit_does_not_stop_a_large_block)
{
    uint64_t pinned = 0;
    struct store_info i;
    char buf[32];
    uint32_t b;

    sfix_open(&f, 64, NULL);
    fill(0, 64 * 512, 4096);
    for (uint64_t n = 200; n < 64 * 512; n += 512) {
        b = sfix_find_num(&f, 1, n);
        ck_assert_int_eq(store_pin(f.s, b), OK);
        pinned++;
    }
    ck_assert_uint_eq(pinned, 64);
    ck_assert_int_eq(sfix_put(&f, 1, "2m", NULL, MIB(2)), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "64m", NULL, MIB(64)), OK);
    b = sfix_find(&f, 1, "64m");
    store_info(f.s, b, &i);
    ck_assert_uint_le(i.extents, STORE_SPANS_MAX);
    ck_assert(sfix_same(&f, b, sfix_key(&f, 1, "64m").hash.lo));
    ck_assert_int_eq(sfix_put(&f, 1, "127m", NULL, MIB(127)), OK);
    store_check(f.s);
    for (uint64_t n = 200; n < 64 * 512; n += 512)
        ck_assert(sfix_same(&f, sfix_find_num(&f, 1, n),
                            sfix_num(&f, 1, n, buf).hash.lo));
    sfix_close(&f);
}
END_TEST

/* Every second slot pinned: a 2 MiB block needs 512 extents of 4 KiB. */
START_TEST(every_second_slot_pinned_still_leaves_room_for_scatter)
{
    struct store_info i;
    char buf[32];

    sfix_open(&f, 8, NULL);
    fill(0, 8 * 512, 4096);
    for (uint64_t n = 0; n < 8 * 512; n += 2)
        ck_assert_int_eq(store_pin(f.s, sfix_find_num(&f, 1, n)), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "2m", NULL, MIB(2)), OK);
    store_info(f.s, sfix_find(&f, 1, "2m"), &i);
    ck_assert_uint_ge(i.extents, 512);
    ck_assert_uint_gt(f.metrics.scattered_blocks, 0);
    ck_assert_int_eq(sfix_put(&f, 1, "4m", NULL, MIB(4)), OK);
    ck_assert_int_eq(sfix_put(&f, 1, "9m", NULL, MIB(9)), ERR_BUSY);
    store_check(f.s);
    for (uint64_t n = 0; n < 8 * 512; n += 2) {
        uint32_t b = sfix_find_num(&f, 1, n);

        ck_assert(sfix_same(&f, b, sfix_num(&f, 1, n, buf).hash.lo));
        store_unpin(f.s, b);
    }
    ck_assert_int_eq(sfix_put(&f, 1, "9m", NULL, MIB(9)), OK);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(chains_give_way_leaves_first_to_a_large_block)
{
    const struct evict_ops *p = evict_by_idx((uint32_t)_i);
    char name[32], up[32];

    sfix_open(&f, 16, p);
    for (int c = 0; c < 16; c++)
        for (int i = 0; i < 32; i++) {
            snprintf(name, sizeof name, "%d/%d", i, (c * 7 + i) % 16);
            snprintf(up, sizeof up, "%d/%d", i - 1, (c * 7 + i - 1) % 16);
            ck_assert_int_eq(sfix_put(&f, 1, name, i ? up : NULL, KIB(64)), OK);
        }
    ck_assert_int_eq(sfix_put(&f, 1, "large", NULL, MIB(12)), OK);
    store_check(f.s);
    for (int c = 0; c < 16; c++) {
        bool gone = false;

        for (int i = 0; i < 32; i++) {
            snprintf(name, sizeof name, "%d/%d", i, (c * 7 + i) % 16);
            if (!sfix_find(&f, 1, name))
                gone = true;
            else
                ck_assert(!gone);
        }
    }
    sfix_close(&f);
}
END_TEST

/* A unit that holds a whole chain is emptied although only its leaf is
 * evictable at first; a chain that goes on elsewhere is not broken. */
START_TEST(a_chain_inside_one_unit_does_not_keep_it)
{
    char name[32], up[32];

    sfix_open(&f, 4, NULL);
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 32; i++) {
            snprintf(name, sizeof name, "%d/%d", c, i);
            snprintf(up, sizeof up, "%d/%d", c, i - 1);
            ck_assert_int_eq(sfix_put(&f, 1, name, i ? up : NULL, KIB(64)), OK);
        }
    fill(0, 100, 4096);
    ck_assert_uint_eq(f.metrics.units_emptied, 1);
    ck_assert_uint_le(f.metrics.evicted_blocks, 33);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

/* Unit 0 holds parents of pinned blocks in unit 1, and others between them:
 * taking the others would not free the unit. */
START_TEST(a_unit_that_cannot_be_emptied_is_not_stripped)
{
    char name[32], up[32];

    sfix_open(&f, 2, NULL);
    for (int i = 0; i < 16; i++) {
        snprintf(name, sizeof name, "root%d", i);
        ck_assert_int_eq(sfix_put(&f, 1, name, NULL, KIB(64)), OK);
        ck_assert_int_eq(sfix_put_num(&f, 1, (uint64_t)i, KIB(64)), OK);
    }
    for (int i = 0; i < 32; i++) {
        snprintf(name, sizeof name, "leaf%d", i);
        snprintf(up, sizeof up, "root%d", i / 2);
        ck_assert_int_eq(sfix_put(&f, 1, name, up, KIB(64)), OK);
        ck_assert_int_eq(store_pin(f.s, sfix_find(&f, 1, name)), OK);
    }
    ck_assert_int_eq(sfix_put(&f, 1, "small", NULL, 4096), OK);
    ck_assert_uint_eq(f.metrics.evicted_blocks, 1);
    ck_assert_uint_eq(f.metrics.scattered_blocks, 1);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

/* ---- a dictionary knows what was stored */

enum { KEYS = 3000, HELD = 12 };

struct model {
    uint64_t len[KEYS]; /* 0: not stored, or dropped */
    uint32_t held[HELD];
    uint64_t held_key[HELD];
    uint64_t held_bytes;
    uint32_t held_n;
    uint64_t puts, busy;
};

static struct model m;

static void model_hold(uint64_t key, uint32_t b)
{
    uint64_t len = store_len(f.s, b);

    if (m.held_n == HELD ||
        m.held_bytes + len > (uint64_t)f.pool.units * UNIT_BYTES / 8)
        return;
    if (rnd(2))
        store_ref(f.s, b);
    else if (store_pin(f.s, b) == OK)
        b |= 1u << 31;
    m.held[m.held_n] = b;
    m.held_key[m.held_n++] = key;
    m.held_bytes += len;
}

static void model_release(void)
{
    uint32_t i = (uint32_t)rnd(HELD), b;
    char buf[32];

    if (i >= m.held_n)
        return;
    b = m.held[i] & ~(1u << 31);
    m.held_bytes -= store_len(f.s, b);
    ck_assert(sfix_same(&f, b, sfix_num(&f, 1, m.held_key[i], buf).hash.lo));
    if (m.held[i] >> 31)
        store_unpin(f.s, b);
    else
        store_unref(f.s, b);
    m.held[i] = m.held[--m.held_n];
    m.held_key[i] = m.held_key[m.held_n];
}

static void model_get(uint64_t key)
{
    uint32_t b = sfix_find_num(&f, 1, key);
    char buf[32];

    if (!b)
        return;
    ck_assert_uint_eq(store_len(f.s, b), m.len[key]);
    ck_assert(sfix_same(&f, b, sfix_num(&f, 1, key, buf).hash.lo));
    store_use(f.s, b);
    if (rnd(4) == 0)
        model_hold(key, b);
}

/* What is in use is at most an eighth of the pool, the block at most a fifth:
 * eviction can always serve it. */
static void model_put(uint64_t key)
{
    uint64_t cap = (uint64_t)f.pool.units * UNIT_BYTES / 5;
    uint64_t len = min_u64(random_len(), cap);
    char buf[32], up[32];
    struct store_key k = sfix_num(&f, 1, key, buf);
    uint32_t b = 0;
    int n = 0;
    enum err e;

    if (rnd(2))
        n = snprintf(up, sizeof up, "key-%d", (int)rnd(KEYS));
    e = store_reserve(f.s, &k, NULL, (const uint8_t *)up, (uint16_t)n, len, &b);
    ck_assert_msg(e == OK || e == ERR_EXISTS, "%s for %llu bytes", err_name(e),
                  (unsigned long long)len);
    if (e)
        return;
    sfix_write(&f, b, k.hash.lo);
    if (rnd(20) == 0) {
        store_abort(f.s, b);
        m.len[key] = 0;
        return;
    }
    store_commit(f.s, b, 0);
    store_unref(f.s, b);
    m.len[key] = len;
    m.puts++;
}

static void model_step(uint64_t i)
{
    uint64_t key = rnd(rnd(2) ? KEYS : KEYS / 10), what = rnd(20);
    uint32_t b;

    f.env.now_ns += NS_PER_MS;
    if (what < 8) {
        model_put(key);
    } else if (what < 16) {
        model_get(key);
    } else if (what < 17) {
        b = sfix_find_num(&f, 1, key);
        if (b)
            store_drop(f.s, b);
    } else if (what < 19) {
        model_release();
    } else {
        store_tick(f.s);
    }
    if (i % 1024 == 0)
        store_check(f.s);
}

START_TEST(random_sizes_never_fail_while_eviction_can_serve)
{
    const struct evict_ops *p = evict_by_idx((uint32_t)_i);
    struct store_ns_cfg ns;

    memset(&m, 0, sizeof m);
    sfix_init(&f, 192);
    f.cfg.low_water_pct = 2;
    f.cfg.high_water_pct = 4;
    ck_assert_int_eq(sfix_start(&f), OK);
    ns = sfix_ns(1, 1, p);
    ns.block_bytes[0] = 163840;
    ns.block_bytes[1] = 5000000;
    ck_assert_int_eq(store_ns_set(f.s, &ns), OK);
    for (uint64_t i = 0; i < 100000; i++)
        model_step(i);
    ck_assert_uint_gt(m.puts, 5000);
    ck_assert_uint_gt(f.metrics.evicted_blocks, 1000);
    while (m.held_n)
        model_release();
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

/* What was just stored is read soon: neither the watermark nor a policy that
 * has learnt that all older blocks were used again takes it before that. */
START_TEST(a_block_read_soon_after_its_put_is_still_there)
{
    const struct evict_ops *p = evict_by_idx((uint32_t)_i);
    const uint64_t all = 2400, soon = 64; /* of 1024 that fit */
    uint32_t b, missed = 0;

    sfix_init(&f, 32);
    f.cfg.low_water_pct = 2;
    f.cfg.high_water_pct = 5;
    ck_assert_int_eq(sfix_start(&f), OK);
    struct store_ns_cfg ns = sfix_ns(1, 1, p);
    ck_assert_int_eq(store_ns_set(f.s, &ns), OK);
    for (uint64_t i = 0; i < all; i++) {
        ck_assert_int_eq(sfix_put_num(&f, 1, i, KIB(64)), OK);
        sfix_settle(&f);
        if (i < soon)
            continue;
        b = sfix_find_num(&f, 1, i - soon);
        missed += b == 0;
        if (b)
            store_use(f.s, b);
    }
    /* LHD draws lots; the lists must not miss any. */
    ck_assert_uint_le(missed, p->score ? all / 20 : 0);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

/* ---- two lanes over one pool */

static enum err lane_put(struct sfix *g, uint64_t n)
{
    char buf[32];
    struct store_key k = sfix_num(g, 1, n, buf);
    uint32_t b;
    enum err e = store_reserve(g->s, &k, NULL, NULL, 0, MIB(2), &b);

    if (e)
        return e;
    store_commit(g->s, b, 0);
    store_unref(g->s, b);
    return OK;
}

/* Lane 0 has every unit; lane 1 starts with BUSY, and ends with its half. */
START_TEST(a_lane_that_has_all_gives_back_what_another_wishes)
{
    static struct sfix g;
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);
    struct unit_pool *pools[STORE_POOLS] = {&f.pool};
    uint64_t freed;

    sfix_init(&f, 16);
    unit_pool_fini(&f.pool);
    ck_assert_int_eq(unit_pool_init(&f.pool, f.mem, MIB(32), 2), OK);
    f.cfg.lanes = 2;
    ck_assert_int_eq(sfix_start(&f), OK);
    g.env = f.env;
    g.cfg = f.cfg;
    g.cfg.lane = 1;
    ck_assert_int_eq(
        store_new(&g.s, &g.cfg, pools, &g.env, &g.metrics, &g.trace), OK);
    ck_assert_int_eq(store_ns_set(f.s, &ns), OK);
    ck_assert_int_eq(store_ns_set(g.s, &ns), OK);
    fill(0, 16 * 32, KIB(64));
    ck_assert_uint_eq(unit_pool_free(&f.pool), 0);
    freed = store_freed(g.s);
    ck_assert_int_eq(lane_put(&g, 0), ERR_BUSY);
    ck_assert_uint_eq(store_freed(g.s), freed);
    sfix_settle(&f);
    ck_assert_uint_ne(store_freed(g.s), freed);
    for (uint64_t i = 0; i < 40; i++) {
        ck_assert_int_eq(lane_put(&g, i), OK);
        sfix_settle(&f);
    }
    store_check(f.s);
    store_check(g.s);
    ck_assert_uint_eq(unit_pool_held(&f.pool, 1), 8);
    ck_assert_uint_ge(unit_pool_held(&f.pool, 0), 7);
    g.env.now_ns += NS_PER_S; /* its wish ends with its need */
    sfix_settle(&g);
    ck_assert_uint_eq(unit_pool_wanted(&f.pool, 0), 0);
    store_free(g.s);
    sfix_close(&f);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("store_pressure");
    TCase *t = tcase_create("pressure");
    int n = 0;

    while (evict_by_idx((uint32_t)n))
        n++;
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, one_class_evicts_exactly_one_for_one, 0, n);
    tcase_add_loop_test(t, small_blocks_make_way_for_large_ones, 0, n);
    tcase_add_test(t, large_blocks_make_way_for_small_ones);
    tcase_add_test(t, one_pin_in_every_unit_does_not_stop_a_large_block);
    tcase_add_test(t, every_second_slot_pinned_still_leaves_room_for_scatter);
    tcase_add_loop_test(t, chains_give_way_leaves_first_to_a_large_block, 0, n);
    tcase_add_test(t, a_chain_inside_one_unit_does_not_keep_it);
    tcase_add_test(t, a_unit_that_cannot_be_emptied_is_not_stripped);
    tcase_add_loop_test(t, random_sizes_never_fail_while_eviction_can_serve, 0,
                        n);
    tcase_add_loop_test(t, a_block_read_soon_after_its_put_is_still_there, 0,
                        n);
    tcase_add_test(t, a_lane_that_has_all_gives_back_what_another_wishes);
    suite_add_tcase(s, t);
    return s;
}
