/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/slice.h"

#include <check.h>

START_TEST(take_hands_out_the_bytes_in_order)
{
    struct slice s = slice_of("abcdef", 6);
    const char *p = slice_take(&s, 2);

    ck_assert(memcmp(p, "ab", 2) == 0);
    ck_assert_ptr_eq(slice_take(&s, 0), p + 2);
    ck_assert(memcmp(slice_take(&s, 4), "cdef", 4) == 0);
    ck_assert_uint_eq(s.len, 0);
    ck_assert_ptr_nonnull(slice_take(&s, 0));
    ck_assert(!s.bad);
}
END_TEST

START_TEST(after_an_overrun_nothing_comes)
{
    struct slice s = slice_of("abcdef", 6);

    ck_assert_ptr_null(slice_take(&s, 7));
    ck_assert(s.bad);
    ck_assert_ptr_null(slice_take(&s, 1));
    ck_assert_ptr_null(slice_take(&s, 0));
    s = slice_of("abcdef", 6);
    ck_assert_ptr_null(slice_take(&s, SIZE_MAX));
}
END_TEST

START_TEST(copy_writes_all_or_nothing)
{
    struct slice s = slice_of("abc", 3);
    char to[4] = "xyz";

    ck_assert(!slice_copy(&s, to, 4));
    ck_assert_str_eq(to, "xyz");
    s = slice_of("abc", 3);
    ck_assert(slice_copy(&s, to, 3));
    ck_assert_str_eq(to, "abc");
}
END_TEST

START_TEST(an_empty_slice_gives_nothing_but_nothing)
{
    struct slice s = slice_of("", 0);

    ck_assert_ptr_nonnull(slice_take(&s, 0));
    ck_assert_ptr_null(slice_take(&s, 1));
}
END_TEST

START_TEST(out_fills_up_to_cap_and_then_is_bad)
{
    uint8_t buf[4] = {0, 0, 0, 0x5a};
    struct slice_out o = {.p = buf, .cap = 3};

    ck_assert(slice_put(&o, "ab", 2));
    ck_assert(slice_put(&o, NULL, 0));
    ck_assert(!slice_put(&o, "cd", 2));
    ck_assert(o.bad);
    ck_assert(!slice_put(&o, "c", 1));
    ck_assert_ptr_null(slice_grow(&o, 0));
    ck_assert_uint_eq(o.len, 2);
    ck_assert(memcmp(buf, "ab\0\x5a", 4) == 0);
}
END_TEST

START_TEST(grow_refuses_a_length_that_would_wrap)
{
    uint8_t buf[4];
    struct slice_out o = {.p = buf, .cap = 4};

    ck_assert_ptr_eq(slice_grow(&o, 1), buf);
    ck_assert_ptr_null(slice_grow(&o, SIZE_MAX));
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("slice");
    TCase *t = tcase_create("slice");

    tcase_add_test(t, take_hands_out_the_bytes_in_order);
    tcase_add_test(t, after_an_overrun_nothing_comes);
    tcase_add_test(t, copy_writes_all_or_nothing);
    tcase_add_test(t, an_empty_slice_gives_nothing_but_nothing);
    tcase_add_test(t, out_fills_up_to_cap_and_then_is_bad);
    tcase_add_test(t, grow_refuses_a_length_that_would_wrap);
    suite_add_tcase(s, t);
    return s;
}
