/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/mem.h"

#include <check.h>
#include <signal.h>
#include <string.h>

#include "base/fault.h"

START_TEST(reserve_is_zero_filled_and_costs_nothing_untouched)
{
    uint8_t *p = mem_reserve(GIB(64)); /* far more than this machine has */

    ck_assert_ptr_nonnull(p);
    ck_assert_uint_eq((uintptr_t)p % 4096, 0);
    ck_assert_uint_eq(p[GIB(63)], 0);
    p[GIB(63)] = 1;
    mem_release(p, GIB(64));
    mem_release(NULL, 4096);
}
END_TEST

START_TEST(reserve_of_nothing_or_too_much_is_refused)
{
    ck_assert_ptr_null(mem_reserve(0));
    ck_assert_ptr_null(mem_reserve(SIZE_MAX / 2));
}
END_TEST

START_TEST(arena_is_aligned_whatever_the_buffer)
{
    uint8_t buf[256];

    for (size_t skew = 0; skew < 16; skew++) {
        struct arena a;

        arena_init(&a, buf + skew, sizeof(buf) - skew);
        for (size_t n = 1; n < 5; n++) {
            uint8_t *p = arena_alloc(&a, n);

            ck_assert_ptr_nonnull(p);
            ck_assert_uint_eq((uintptr_t)p % 16, 0);
            ck_assert(p >= buf + skew && p + n <= buf + sizeof(buf));
        }
    }
}
END_TEST

START_TEST(arena_full_answers_null_and_stays_usable)
{
    _Alignas(16) uint8_t buf[64];
    struct arena a;

    arena_init(&a, buf, sizeof(buf));
    ck_assert_ptr_null(arena_alloc(&a, 65));
    ck_assert_ptr_null(arena_alloc(&a, SIZE_MAX));
    ck_assert_ptr_eq(arena_alloc(&a, 64), buf);
    ck_assert_ptr_null(arena_alloc(&a, 1));
}
END_TEST

START_TEST(arena_zalloc_zeroes)
{
    _Alignas(16) uint8_t buf[64];
    struct arena a;
    uint8_t *p;

    memset(buf, 0xff, sizeof(buf));
    arena_init(&a, buf, sizeof(buf));
    p = arena_zalloc(&a, 20);
    for (int i = 0; i < 20; i++)
        ck_assert_uint_eq(p[i], 0);
    ck_assert_uint_eq(buf[20], 0xff);
}
END_TEST

enum { POOL_N = 7, ITEM = 40 };

static void pool_make(struct pool *p)
{
    ck_assert_int_eq(pool_init(p, POOL_N, ITEM), OK);
}

START_TEST(pool_hands_out_each_item_once_then_null)
{
    void *items[POOL_N];
    struct pool p;

    pool_make(&p);
    for (uint32_t i = 0; i < POOL_N; i++) {
        items[i] = pool_get(&p);
        ck_assert_ptr_nonnull(items[i]);
        ck_assert_uint_eq((uintptr_t)items[i] % 16, 0);
        memset(items[i], (int)i, ITEM);
        ck_assert_uint_eq(pool_used(&p), i + 1);
        ck_assert_ptr_eq(pool_at(&p, pool_idx(&p, items[i])), items[i]);
    }
    ck_assert_ptr_null(pool_get(&p));
    for (uint32_t i = 0; i < POOL_N; i++)
        for (uint32_t k = 0; k < ITEM; k++)
            ck_assert_uint_eq(((uint8_t *)items[i])[k], i);
    for (uint32_t i = 0; i < POOL_N; i++)
        pool_put(&p, items[i]);
    pool_fini(&p);
}
END_TEST

START_TEST(pool_gives_the_last_put_first)
{
    struct pool p;
    void *a, *b;

    pool_make(&p);
    a = pool_get(&p);
    b = pool_get(&p);
    pool_put(&p, b);
    pool_put(&p, a);
    ck_assert_ptr_eq(pool_get(&p), a);
    ck_assert_ptr_eq(pool_get(&p), b);
    pool_put(&p, a);
    pool_put(&p, b);
    pool_fini(&p);
}
END_TEST

START_TEST(pool_fini_accepts_zeros)
{
    struct pool p = {0};

    pool_fini(&p);
}
END_TEST

START_TEST(pool_fini_with_an_item_out_aborts)
{
    struct pool p;

    pool_make(&p);
    pool_get(&p);
    pool_fini(&p);
}
END_TEST

START_TEST(pool_put_twice_aborts)
{
    struct pool p;
    void *a;

    pool_make(&p);
    a = pool_get(&p);
    pool_put(&p, a);
    pool_put(&p, a);
}
END_TEST

START_TEST(pool_put_of_a_stranger_aborts)
{
    struct pool p;
    char stranger[ITEM];

    pool_make(&p);
    pool_get(&p);
    pool_put(&p, stranger);
}
END_TEST

START_TEST(pool_put_inside_an_item_aborts)
{
    struct pool p;
    uint8_t *a;

    pool_make(&p);
    a = pool_get(&p);
    pool_put(&p, a + 16);
}
END_TEST

START_TEST(each_call_has_a_fault_point)
{
    struct pool p;

    fault_arm(1);
    ck_assert_int_eq(pool_init(&p, POOL_N, ITEM), ERR_NO_MEMORY);
    ck_assert_str_eq(fault_point(), "mem_reserve");
    pool_make(&p);
    fault_arm(1);
    ck_assert_ptr_null(pool_get(&p));
    ck_assert_str_eq(fault_point(), "pool_get");
    ck_assert_uint_eq(pool_used(&p), 0);
    pool_fini(&p);
}
END_TEST

static void must_hook_says(void)
{
    raise(SIGUSR1);
}

START_TEST(must_runs_the_hook_before_it_aborts)
{
    must_hook_set(must_hook_says);
    MUST(1 + 1 == 3);
}
END_TEST

START_TEST(must_that_holds_does_nothing)
{
    must_hook_set(must_hook_says);
    MUST(1 + 1 == 2);
    must_hook_set(NULL);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("mem");
    TCase *t = tcase_create("mem");

    tcase_add_test(t, reserve_is_zero_filled_and_costs_nothing_untouched);
    tcase_add_test(t, reserve_of_nothing_or_too_much_is_refused);
    tcase_add_test(t, arena_is_aligned_whatever_the_buffer);
    tcase_add_test(t, arena_full_answers_null_and_stays_usable);
    tcase_add_test(t, arena_zalloc_zeroes);
    tcase_add_test(t, pool_hands_out_each_item_once_then_null);
    tcase_add_test(t, pool_gives_the_last_put_first);
    tcase_add_test(t, pool_fini_accepts_zeros);
    tcase_add_test_raise_signal(t, pool_fini_with_an_item_out_aborts, SIGABRT);
    tcase_add_test_raise_signal(t, pool_put_twice_aborts, SIGABRT);
    tcase_add_test_raise_signal(t, pool_put_of_a_stranger_aborts, SIGABRT);
    tcase_add_test_raise_signal(t, pool_put_inside_an_item_aborts, SIGABRT);
    tcase_add_test(t, each_call_has_a_fault_point);
    tcase_add_test_raise_signal(t, must_runs_the_hook_before_it_aborts,
                                SIGUSR1);
    tcase_add_test(t, must_that_holds_does_nothing);
    suite_add_tcase(s, t);
    return s;
}
