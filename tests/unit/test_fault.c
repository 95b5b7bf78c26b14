/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/fault.h"

#include <check.h>
#include <pthread.h>

START_TEST(nothing_fails_unless_armed)
{
    for (int i = 0; i < 100; i++)
        ck_assert(!fault_here("leaf"));
    ck_assert(!fault_hit());
    ck_assert_str_eq(fault_point(), "");
}
END_TEST

START_TEST(only_the_nth_call_fails)
{
    for (uint32_t n = 1; n < 5; n++) {
        fault_arm(n);
        for (uint32_t i = 1; i < 10; i++)
            ck_assert_int_eq(fault_here(i == n ? "this" : "that"), i == n);
        ck_assert(fault_hit());
        ck_assert_str_eq(fault_point(), "this");
    }
}
END_TEST

START_TEST(armed_forever_fails_from_the_nth_call_on)
{
    fault_arm_forever(3);
    ck_assert(!fault_here("a"));
    ck_assert(!fault_here("b"));
    ck_assert(fault_here("c"));
    ck_assert(fault_here("d"));
    ck_assert_str_eq(fault_point(), "c");
    fault_arm(0);
    ck_assert(!fault_here("e"));
    ck_assert(!fault_hit());
}
END_TEST

static void *other_thread(void *arg)
{
    *(bool *)arg = fault_here("other");
    return NULL;
}

START_TEST(another_thread_is_not_armed)
{
    bool failed = true;
    pthread_t t;

    fault_arm(1);
    ck_assert_int_eq(pthread_create(&t, NULL, other_thread, &failed), 0);
    ck_assert_int_eq(pthread_join(t, NULL), 0);
    ck_assert(!failed);
    ck_assert(fault_here("mine"));
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("fault");
    TCase *t = tcase_create("fault");

    tcase_add_test(t, nothing_fails_unless_armed);
    tcase_add_test(t, only_the_nth_call_fails);
    tcase_add_test(t, armed_forever_fails_from_the_nth_call_on);
    tcase_add_test(t, another_thread_is_not_armed);
    suite_add_tcase(s, t);
    return s;
}
