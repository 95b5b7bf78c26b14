/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
#include "store/unit_pool.h"

#include <check.h>
#include <pthread.h>
#include <signal.h>

#include "base/fault.h"

enum { UNITS = 64 };

static struct unit_pool p;

static void open_pool(uint32_t units, uint32_t lanes)
{
    enum err e =
        unit_pool_init(&p, NULL, (uint64_t)units * UNIT_BYTES + 5, lanes);

    ck_assert_int_eq(e, OK);
}

START_TEST(units_come_in_order_and_each_once)
{
    open_pool(UNITS, 1);
    ck_assert_uint_eq(p.units, UNITS);
    for (uint32_t i = 0; i < UNITS; i++)
        ck_assert_uint_eq(unit_pool_get(&p, 0), i);
    ck_assert_uint_eq(unit_pool_get(&p, 0), UNIT_NONE);
    ck_assert_uint_eq(unit_pool_free(&p), 0);
    ck_assert_uint_eq(unit_pool_held(&p, 0), UNITS);
    unit_pool_put(&p, 0, 17);
    unit_pool_put(&p, 0, 40);
    ck_assert_uint_eq(unit_pool_get(&p, 0), 40); /* the warm one first */
    ck_assert_uint_eq(unit_pool_get(&p, 0), 17);
    unit_pool_fini(&p);
}
END_TEST

START_TEST(less_than_a_unit_or_too_many_are_refused)
{
    struct unit_pool z = {0};
    uint64_t most = (uint64_t)(UNIT_POOL_MAX + 1) * UNIT_BYTES;

    ck_assert_int_eq(unit_pool_init(&z, NULL, UNIT_BYTES - 1, 1), ERR_LIMIT);
    ck_assert_int_eq(unit_pool_init(&z, NULL, most, 1), ERR_LIMIT);
    unit_pool_fini(&z);
}
END_TEST

START_TEST(a_lane_over_its_share_is_asked_for_what_others_wish)
{
    open_pool(8, 2);
    for (int i = 0; i < 7; i++)
        unit_pool_get(&p, 0);
    ck_assert_uint_eq(unit_pool_wanted(&p, 0), 0);
    unit_pool_get(&p, 1);
    unit_pool_wish(&p, 1, 2);
    ck_assert_uint_eq(unit_pool_wanted(&p, 0), 2);
    ck_assert_uint_eq(unit_pool_wanted(&p, 1), 0);
    unit_pool_put(&p, 0, 3);
    ck_assert_uint_eq(unit_pool_wanted(&p, 0), 1); /* one is free now */
    ck_assert_uint_eq(unit_pool_get(&p, 1), 3);
    ck_assert_uint_eq(p.wish[1], 1); /* a wish fulfilled */
    unit_pool_wish(&p, 1, 5);        /* no more than the fair share */
    ck_assert_uint_eq(unit_pool_wanted(&p, 0), 2);
    unit_pool_wish(&p, 1, 7); /* but for one block that needs six */
    ck_assert_uint_eq(unit_pool_wanted(&p, 0), 4);
    unit_pool_wish(&p, 1, 100); /* or all */
    ck_assert_uint_eq(unit_pool_wanted(&p, 0), 6);
    unit_pool_wish(&p, 1, 0);
    ck_assert_uint_eq(unit_pool_wanted(&p, 0), 0);
    unit_pool_fini(&p);
}
END_TEST

START_TEST(a_unit_put_twice_by_a_lane_without_units_aborts)
{
    open_pool(2, 1);
    unit_pool_put(&p, 0, unit_pool_get(&p, 0));
    unit_pool_put(&p, 0, 0);
}
END_TEST

#ifdef PIKV_FAULTS
START_TEST(no_memory_for_the_links_is_an_error)
{
    struct unit_pool z = {0};

    fault_arm(1);
    ck_assert_int_eq(unit_pool_init(&z, NULL, MIB(8), 1), ERR_NO_MEMORY);
    unit_pool_fini(&z);
}
END_TEST
#endif

/* ---- all lanes at once */

static uint32_t owner[UNITS]; /* lane + 1; 0 = in the pool */

static void *lane_main(void *arg)
{
    uint32_t lane = *(uint32_t *)arg, mine[UNITS], n = 0;

    for (uint32_t i = 0; i < 100000; i++) {
        if (i % 3 != 2) {
            uint32_t u = unit_pool_get(&p, lane);

            if (u == UNIT_NONE)
                continue;
            MUST(__atomic_exchange_n(&owner[u], lane + 1, __ATOMIC_RELAXED) ==
                 0);
            mine[n++] = u;
        }
        while (n && (i % 3 == 2 || n > UNITS / 3)) {
            uint32_t u = mine[--n];

            MUST(__atomic_exchange_n(&owner[u], 0, __ATOMIC_RELAXED) ==
                 lane + 1);
            unit_pool_put(&p, lane, u);
        }
    }
    while (n) {
        __atomic_store_n(&owner[mine[n - 1]], 0, __ATOMIC_RELAXED);
        unit_pool_put(&p, lane, mine[--n]);
    }
    return NULL;
}

START_TEST(lanes_never_get_the_same_unit)
{
    pthread_t threads[4];
    uint32_t ids[4] = {0, 1, 2, 3};

    open_pool(UNITS, 4);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, lane_main, &ids[i]),
                         0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    ck_assert_uint_eq(unit_pool_free(&p), UNITS);
    for (uint32_t i = 0; i < UNITS; i++)
        ck_assert_uint_ne(unit_pool_get(&p, 0), UNIT_NONE);
    ck_assert_uint_eq(unit_pool_get(&p, 0), UNIT_NONE);
    unit_pool_fini(&p);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("unit_pool");
    TCase *t = tcase_create("unit_pool");

    tcase_set_timeout(t, 120);
    tcase_add_test(t, units_come_in_order_and_each_once);
    tcase_add_test(t, less_than_a_unit_or_too_many_are_refused);
    tcase_add_test(t, a_lane_over_its_share_is_asked_for_what_others_wish);
    tcase_add_test_raise_signal(
        t, a_unit_put_twice_by_a_lane_without_units_aborts, SIGABRT);
#ifdef PIKV_FAULTS
    tcase_add_test(t, no_memory_for_the_links_is_an_error);
#endif
    tcase_add_test(t, lanes_never_get_the_same_unit);
    suite_add_tcase(s, t);
    return s;
}
