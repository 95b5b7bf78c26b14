/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server cluster rpc store base proto */
#include "server/heat.h"

#include <check.h>

#include "base/fault.h"

static struct heat h[2];
static struct heat_sum sum;

static void up(void)
{
    for (uint32_t i = 0; i < 2; i++)
        ck_assert_int_eq(heat_init(&h[i], i, 2), OK);
    ck_assert_int_eq(heat_sum_init(&sum), OK);
}

static void down(void)
{
    for (uint32_t i = 0; i < 2; i++)
        heat_fini(&h[i]);
    heat_sum_fini(&sum);
}

START_TEST(one_batch_in_sixteen_counts_at_odd_distances)
{
    uint32_t due = 0, run = 0, shortest = UINT32_MAX, longest = 0;

    for (uint32_t i = 0; i < 16000; i++, run++) {
        if (!heat_due(&h[0]))
            continue;
        due++;
        if (due > 1 && run < shortest)
            shortest = run;
        if (run > longest)
            longest = run;
        run = 0;
        heat_again(&h[0]);
    }
    ck_assert_uint_gt(due, 900);
    ck_assert_uint_lt(due, 1100);
    ck_assert_uint_lt(shortest, 4);
    ck_assert_uint_gt(longest, 20);
}
END_TEST

START_TEST(without_a_cluster_nothing_counts)
{
    struct heat off = {0};

    for (uint32_t i = 0; i < 100; i++)
        ck_assert(!heat_due(&off));
    heat_sum_add(&sum, &off, 500);
    heat_fini(&off);
}
END_TEST

START_TEST(the_hottest_slots_of_all_lanes_come_first)
{
    struct heat_slot top[3];

    for (uint32_t slot = 0; slot < 10; slot++)
        for (uint32_t i = 0; i <= slot; i++)
            heat_add(&h[slot % 2], slot, 1500);
    for (uint32_t i = 0; i < 2; i++)
        heat_sum_add(&sum, &h[i], 1000);
    ck_assert_uint_eq(heat_sum_top(&sum, top, 3), 3);
    for (uint32_t i = 0; i < 3; i++) {
        ck_assert_uint_eq(top[i].slot, 9 - i);
        ck_assert_uint_eq(top[i].ops, (10 - i) * HEAT_EVERY / 4);
        ck_assert_uint_eq(top[i].bytes, (10 - i) * 2 * HEAT_EVERY / 4 * 1024);
    }
}
END_TEST

START_TEST(a_slot_of_another_lane_is_not_counted)
{
    struct heat_slot top[1];

    heat_add(&h[0], 1, 100);
    heat_sum_add(&sum, &h[0], 1000);
    heat_sum_add(&sum, &h[1], 1000);
    ck_assert_uint_eq(heat_sum_top(&sum, top, 1), 0);
}
END_TEST

START_TEST(heat_fades_to_nothing)
{
    struct heat_slot top[1];
    uint32_t looks = 0;

    for (uint32_t i = 0; i < 100; i++)
        heat_add(&h[0], 2, 100);
    heat_sum_add(&sum, &h[0], 500);
    while (heat_sum_top(&sum, top, 1)) {
        heat_sum_add(&sum, &h[0], 500);
        ck_assert_uint_lt(++looks, 100);
    }
    ck_assert_uint_gt(looks, 3);
}
END_TEST

START_TEST(the_last_slot_has_a_counter_whatever_the_lanes)
{
    for (uint32_t lanes = 1; lanes <= 64; lanes++) {
        struct heat x;
        uint32_t slot = WIRE_SLOTS - 1;

        ck_assert_int_eq(heat_init(&x, slot % lanes, lanes), OK);
        heat_add(&x, slot, UINT32_MAX);
        ck_assert_uint_eq(x.ops[slot / lanes], 1);
        heat_fini(&x);
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("heat");
    TCase *t = tcase_create("heat");

    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t, one_batch_in_sixteen_counts_at_odd_distances);
    tcase_add_test(t, without_a_cluster_nothing_counts);
    tcase_add_test(t, the_hottest_slots_of_all_lanes_come_first);
    tcase_add_test(t, a_slot_of_another_lane_is_not_counted);
    tcase_add_test(t, heat_fades_to_nothing);
    tcase_add_test(t, the_last_slot_has_a_counter_whatever_the_lanes);
    suite_add_tcase(s, t);
    return s;
}
