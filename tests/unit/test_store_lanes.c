/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto
 *
 * Two lanes' stores over one pool: a PUT that finds the pool empty gets what
 * the other lane's eviction can give, however the turns of the two fall. */
#include "store/store.h"

#include <check.h>
#include <string.h>

#include "base/mem.h"
#include "tests/lib/sfix.h"

enum { UNITS = 16, BLOCKS = UNITS * 32 };

static struct sfix f[2]; /* f[0].pool is both's */

static void up(void)
{
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);
    struct unit_pool *pools[STORE_POOLS] = {&f[0].pool};

    sfix_init(&f[0], UNITS);
    unit_pool_fini(&f[0].pool);
    ck_assert_int_eq(
        unit_pool_init(&f[0].pool, f[0].mem, (uint64_t)UNITS * UNIT_BYTES, 2),
        OK);
    f[0].cfg.lanes = 2;
    memset(&f[1], 0, sizeof f[1]);
    f[1].env = f[0].env;
    f[1].cfg = f[0].cfg;
    f[1].cfg.lane = 1;
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(store_new(&f[i].s, &f[i].cfg, pools, &f[i].env,
                                   &f[i].metrics, &f[i].trace),
                         OK);
        ck_assert_int_eq(store_ns_set(f[i].s, &ns), OK);
    }
}

static void down(void)
{
    for (int i = 0; i < 2; i++) {
        store_check(f[i].s);
        store_free(f[i].s);
    }
    unit_pool_fini(&f[0].pool);
    mem_release(f[0].mem, (uint64_t)UNITS * UNIT_BYTES);
}

static void fill(int lane)
{
    for (uint64_t i = 0; i < BLOCKS; i++)
        ck_assert_int_eq(sfix_put_num(&f[lane], 1, i, KIB(64)), OK);
    ck_assert_uint_eq(unit_pool_free(&f[0].pool), 0);
}

static void pass(uint64_t ns)
{
    f[0].env.now_ns += ns;
    f[1].env.now_ns += ns;
}

/* A waiting PUT tries every millisecond; the other lane, woken by its nudge,
 * has one turn in between. */
static int rounds_until_put(uint64_t n, uint64_t len)
{
    for (int i = 1; i <= 64; i++) {
        if (!sfix_put_num(&f[0], 1, n, len))
            return i;
        (void)store_tick(f[0].s);
        (void)store_tick(f[1].s);
        pass(NS_PER_MS);
    }
    return 0;
}

/* The lane that waits goes on turning while the other one wakes up. */
START_TEST(a_wish_outlives_the_turns_that_follow_it)
{
    fill(1);
    ck_assert_int_eq(sfix_put_num(&f[0], 1, 0, KIB(64)), ERR_BUSY);
    for (int i = 0; i < 50; i++) {
        (void)store_tick(f[0].s);
        pass(NS_PER_US);
    }
    sfix_settle(&f[1]);
    ck_assert_int_eq(sfix_put_num(&f[0], 1, 0, KIB(64)), OK);
}
END_TEST

START_TEST(a_wish_ends_when_its_lane_is_not_short_any_more)
{
    fill(1);
    ck_assert_int_eq(sfix_put_num(&f[0], 1, 0, KIB(64)), ERR_BUSY);
    pass(NS_PER_S);
    (void)store_tick(f[0].s);
    sfix_settle(&f[1]);
    ck_assert_uint_eq(unit_pool_free(&f[0].pool), 0);
}
END_TEST

/* What a vain attempt gives back is not what others gave. */
START_TEST(a_block_of_many_units_gets_them_in_parts)
{
    fill(1);
    ck_assert_int_gt(rounds_until_put(0, MIB(16)), 0);
}
END_TEST

START_TEST(a_block_larger_than_a_fair_part_is_served)
{
    fill(1);
    ck_assert_int_gt(rounds_until_put(0, MIB(26)), 0);
    ck_assert_int_gt(rounds_until_put(1, UNITS * MIB(2)), 0);
}
END_TEST

/* Whoever comes first in the order of lanes; then the other. */
START_TEST(two_lanes_with_large_blocks_do_not_starve_each_other)
{
    bool done[2] = {false, false};

    for (uint64_t i = 0; i < BLOCKS / 2; i++)
        for (int l = 0; l < 2; l++)
            ck_assert_int_eq(sfix_put_num(&f[l], 1, i, KIB(64)), OK);
    for (int i = 0; i < 200 && !(done[0] && done[1]); i++) {
        for (int l = 0; l < 2; l++)
            if (!done[l])
                done[l] = !sfix_put_num(&f[l], 1, 9999, MIB(20));
        for (int l = 0; l < 2; l++)
            (void)store_tick(f[l].s);
        pass(NS_PER_MS);
    }
    ck_assert(done[0] && done[1]);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("store_lanes");
    TCase *t = tcase_create("lanes");

    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t, a_wish_outlives_the_turns_that_follow_it);
    tcase_add_test(t, a_wish_ends_when_its_lane_is_not_short_any_more);
    tcase_add_test(t, a_block_of_many_units_gets_them_in_parts);
    tcase_add_test(t, a_block_larger_than_a_fair_part_is_served);
    tcase_add_test(t, two_lanes_with_large_blocks_do_not_starve_each_other);
    suite_add_tcase(s, t);
    return s;
}
