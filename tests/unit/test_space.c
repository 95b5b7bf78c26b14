/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: door base */
#include "door/space.h"

#include <check.h>

#include "base/env.h"
#include "base/fault.h"
#include "lib/sure.h"

enum { UNITS = 130, ROOMS = 64 };

static uint8_t memory[UNITS * SPACE_UNIT];
static struct space space;

static void setup(void)
{
    ck_assert_int_eq(space_init(&space, memory, sizeof(memory)), OK);
}

static void teardown(void)
{
    space_fini(&space);
}

START_TEST(all_of_it_can_be_had_and_no_more)
{
    struct room all, more;

    ck_assert(space_take(&space, sizeof(memory), &all));
    ck_assert_uint_eq(room_bytes(&all), sizeof(memory));
    ck_assert_ptr_eq(space_at(&space, &all), memory);
    ck_assert(!space_take(&space, 1, &more));
    space_give(&space, &all);
    ck_assert_uint_eq(all.n, 0);
    ck_assert(!space_take(&space, sizeof(memory) + 1, &more));
    ck_assert(space_take(&space, 1, &more));
    space_give(&space, &more);
}
END_TEST

START_TEST(what_is_in_pieces_is_no_run)
{
    struct room r[UNITS], two;

    for (int i = 0; i < UNITS; i++)
        ck_assert(space_take(&space, SPACE_UNIT, &r[i]));
    for (int i = 0; i < UNITS; i += 2)
        space_give(&space, &r[i]);
    ck_assert(!space_take(&space, SPACE_UNIT + 1, &two));
    space_give(&space, &r[65]);
    ck_assert(space_take(&space, 2 * SPACE_UNIT, &two));
    ck_assert_uint_eq(two.first, 64);
    space_give(&space, &two);
    for (int i = 1; i < UNITS; i += 2)
        if (i != 65)
            space_give(&space, &r[i]);
    ck_assert_uint_eq(space.free, UNITS);
}
END_TEST

START_TEST(the_rest_of_a_run_can_go_back)
{
    struct room a, b;

    ck_assert(space_take(&space, sizeof(memory), &a));
    space_trim(&space, &a, SPACE_UNIT + 1);
    ck_assert_uint_eq(a.n, 2);
    ck_assert(space_take(&space, (UNITS - 2) * SPACE_UNIT, &b));
    ck_assert_uint_eq(b.first, 2);
    space_trim(&space, &b, room_bytes(&b));
    space_give(&space, &a);
    space_give(&space, &b);
    ck_assert_uint_eq(space.free, UNITS);
}
END_TEST

/* A model: who has which unit. */
START_TEST(runs_never_overlap_whatever_the_order)
{
    struct env e = {.rng = {3, 4}};
    struct room r[ROOMS] = {{0}};
    uint8_t owner[UNITS] = {0};
    uint32_t used = 0;

    for (int turn = 0; turn < 100000; turn++) {
        struct room *one = &r[env_random(&e) % ROOMS];
        uint64_t bytes = 1 + env_random(&e) % (20 * SPACE_UNIT);

        if (one->n) {
            for (uint32_t i = 0; i < one->n; i++)
                owner[one->first + i] = 0;
            used -= one->n;
            space_give(&space, one);
        } else if (space_take(&space, bytes, one)) {
            SURE(room_bytes(one) >= bytes && one->first + one->n <= UNITS);
            for (uint32_t i = 0; i < one->n; i++)
                SURE(owner[one->first + i]++ == 0);
            used += one->n;
        }
        SURE(space.free == UNITS - used);
    }
}
END_TEST

START_TEST(without_memory_there_is_no_space)
{
    struct space s;

    fault_arm(1);
    ck_assert_int_eq(space_init(&s, memory, sizeof(memory)), ERR_NO_MEMORY);
    fault_arm(0);
    space_fini(&s);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("space");
    TCase *t = tcase_create("space");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, all_of_it_can_be_had_and_no_more);
    tcase_add_test(t, what_is_in_pieces_is_no_run);
    tcase_add_test(t, the_rest_of_a_run_can_go_back);
    tcase_add_test(t, runs_never_overlap_whatever_the_order);
    tcase_add_test(t, without_memory_there_is_no_space);
    suite_add_tcase(s, t);
    return s;
}
