/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/timer.h"

#include <check.h>
#include <signal.h>

#include "base/env.h"
#include "base/fault.h"

enum { N = 64 };

static struct timers ts;
static struct timer timers[N];
static uint32_t fired[4 * N], fired_n;

static void timers_make(void)
{
    fired_n = 0;
    for (int i = 0; i < N; i++)
        timers[i] = (struct timer){0};
    ck_assert_int_eq(timers_init(&ts, N), OK);
}

static void timers_end(void)
{
    timers_fini(&ts);
}

static void note(struct timer *t)
{
    ck_assert_uint_eq(t->idx, 0);
    fired[fired_n++] = (uint32_t)(t - timers);
}

START_TEST(fire_in_order_of_due_time)
{
    timer_start(&ts, &timers[0], 30, note);
    timer_start(&ts, &timers[1], 10, note);
    timer_start(&ts, &timers[2], 20, note);
    ck_assert_uint_eq(timers_next(&ts), 10);
    ck_assert_uint_eq(timers_run(&ts, 9), 0);
    ck_assert_uint_eq(timers_run(&ts, 20), 2);
    ck_assert_uint_eq(fired[0], 1);
    ck_assert_uint_eq(fired[1], 2);
    ck_assert_uint_eq(timers_next(&ts), 30);
    ck_assert_uint_eq(timers_run(&ts, 1000), 1);
    ck_assert_uint_eq(timers_next(&ts), DEADLINE_NEVER);
}
END_TEST

START_TEST(equal_deadlines_fire_in_order_of_start)
{
    for (uint32_t i = 0; i < N; i++)
        timer_start(&ts, &timers[i], 5, note);
    timer_start(&ts, &timers[3], 5, note); /* a restart goes to the end */
    ck_assert_uint_eq(timers_run(&ts, 5), N);
    for (uint32_t i = 0; i < N - 1; i++)
        ck_assert_uint_eq(fired[i], i < 3 ? i : i + 1);
    ck_assert_uint_eq(fired[N - 1], 3);
}
END_TEST

START_TEST(stop_is_idempotent_and_final)
{
    timer_stop(&ts, &timers[0]);
    timer_start(&ts, &timers[0], 1, note);
    timer_start(&ts, &timers[1], 2, note);
    timer_stop(&ts, &timers[0]);
    timer_stop(&ts, &timers[0]);
    ck_assert_uint_eq(timers_run(&ts, 10), 1);
    ck_assert_uint_eq(fired[0], 1);
}
END_TEST

START_TEST(restart_moves_the_deadline)
{
    timer_start(&ts, &timers[0], 1, note);
    timer_start(&ts, &timers[0], 100, note);
    ck_assert_uint_eq(timers_run(&ts, 99), 0);
    ck_assert_uint_eq(timers_run(&ts, 100), 1);
}
END_TEST

static void again_at_once(struct timer *t)
{
    note(t);
    timer_start(&ts, t, 0, again_at_once);
}

START_TEST(fn_may_restart_its_timer_and_the_run_still_ends)
{
    timer_start(&ts, &timers[0], 1, again_at_once);
    ck_assert_uint_eq(timers_run(&ts, 1), 1);
    ck_assert_uint_eq(timers_run(&ts, 1), 1);
    timer_stop(&ts, &timers[0]);
}
END_TEST

static void stop_the_next(struct timer *t)
{
    note(t);
    timer_stop(&ts, t + 1);
}

START_TEST(fn_may_stop_a_timer_that_is_due_too)
{
    timer_start(&ts, &timers[0], 1, stop_the_next);
    timer_start(&ts, &timers[1], 1, note);
    ck_assert_uint_eq(timers_run(&ts, 1), 1);
}
END_TEST

/* Against a plain scan for the least (due, order of start). */
START_TEST(random_starts_and_stops_agree_with_a_scan)
{
    struct env e = {.rng = {1, 2}};
    uint64_t order[N] = {0}, n = 0;

    for (int round = 0; round < 20000; round++) {
        uint64_t r = env_random(&e);
        uint32_t i = (uint32_t)(r >> 32) % N, best = N;

        if (r % 3) {
            timer_start(&ts, &timers[i], (r >> 40) % 50, note);
            order[i] = ++n;
        } else {
            timer_stop(&ts, &timers[i]);
            order[i] = 0;
        }
        for (uint32_t k = 0; k < N; k++) {
            if (order[k] == 0)
                continue;
            if (best == N || timers[k].due_ns < timers[best].due_ns ||
                (timers[k].due_ns == timers[best].due_ns &&
                 order[k] < order[best]))
                best = k;
        }
        if (best == N)
            ck_assert_uint_eq(timers_next(&ts), DEADLINE_NEVER);
        else
            ck_assert_ptr_eq(ts.heap[0], &timers[best]);
        for (uint32_t k = 0; k < ts.n; k++)
            ck_assert_uint_eq(ts.heap[k]->idx, k + 1);
    }
}
END_TEST

START_TEST(one_more_than_cap_aborts)
{
    struct timer extra = {0};

    for (int i = 0; i < N; i++)
        timer_start(&ts, &timers[i], 1, note);
    timer_start(&ts, &extra, 1, note);
}
END_TEST

START_TEST(init_without_memory_says_so)
{
    struct timers t = {0};

    fault_arm(1);
    ck_assert_int_eq(timers_init(&t, N), ERR_NO_MEMORY);
    ck_assert(fault_hit());
    timers_fini(&t);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("timer");
    TCase *t = tcase_create("timer");

    tcase_add_checked_fixture(t, timers_make, timers_end);
    tcase_add_test(t, fire_in_order_of_due_time);
    tcase_add_test(t, equal_deadlines_fire_in_order_of_start);
    tcase_add_test(t, stop_is_idempotent_and_final);
    tcase_add_test(t, restart_moves_the_deadline);
    tcase_add_test(t, fn_may_restart_its_timer_and_the_run_still_ends);
    tcase_add_test(t, fn_may_stop_a_timer_that_is_due_too);
    tcase_add_test(t, random_starts_and_stops_agree_with_a_scan);
    tcase_add_test_raise_signal(t, one_more_than_cap_aborts, SIGABRT);
    tcase_add_test(t, init_without_memory_says_so);
    suite_add_tcase(s, t);
    return s;
}
