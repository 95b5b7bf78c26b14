/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: cluster base */
#include "cluster/bytes.h"

#include <check.h>

#include "base/fault.h"

START_TEST(what_is_put_is_got)
{
    struct bytes b = {0};
    struct slice s;
    char text[8];

    bytes_put_u8(&b, 0xfe);
    bytes_put_u16(&b, 0xfedc);
    bytes_put_u32(&b, 0xfedcba98);
    bytes_put_u64(&b, UINT64_C(0xfedcba9876543210));
    bytes_put_text(&b, "pikv");
    bytes_put_text(&b, "");
    bytes_seal(&b, 0);
    ck_assert(!b.bad);
    ck_assert(bytes_unseal(&s, b.p, b.len));
    ck_assert_uint_eq(bytes_get_u8(&s), 0xfe);
    ck_assert_uint_eq(bytes_get_u16(&s), 0xfedc);
    ck_assert_uint_eq(bytes_get_u32(&s), 0xfedcba98);
    ck_assert_uint_eq(bytes_get_u64(&s), UINT64_C(0xfedcba9876543210));
    ck_assert(!bytes_end(&s));
    bytes_get_text(&s, text, sizeof(text));
    ck_assert_str_eq(text, "pikv");
    bytes_get_text(&s, text, sizeof(text));
    ck_assert_str_eq(text, "");
    ck_assert(bytes_end(&s));
    bytes_fini(&b);
}
END_TEST

START_TEST(integers_are_little_endian)
{
    struct bytes b = {0};

    bytes_put_u32(&b, 0x01020304);
    ck_assert_uint_eq(b.len, 4);
    ck_assert_mem_eq(b.p, "\4\3\2\1", 4);
    bytes_fini(&b);
}
END_TEST

START_TEST(it_grows_and_keeps_what_it_had)
{
    struct bytes b = {0};

    for (uint32_t i = 0; i < 10000; i++)
        bytes_put_u32(&b, i);
    ck_assert_uint_eq(b.len, 40000);
    ck_assert_uint_le(b.cap, 80000);
    for (uint32_t i = 0; i < 10000; i++)
        ck_assert_mem_eq(b.p + 4 * i, &i, 4);
    bytes_fini(&b);
    ck_assert_ptr_null(b.p);
}
END_TEST

START_TEST(without_memory_it_is_bad_and_stays_so)
{
    struct bytes b = {0};

    bytes_put_u64(&b, 1);
    fault_arm(1);
    ck_assert_ptr_null(bytes_grow(&b, 4096));
    ck_assert(fault_hit());
    ck_assert(b.bad);
    bytes_put_u8(&b, 1);
    bytes_seal(&b, 0);
    ck_assert_uint_eq(b.len, 8);
    bytes_fini(&b);
    ck_assert(!b.bad);
    ck_assert_ptr_null(bytes_grow(&b, SIZE_MAX - 2));
    ck_assert(b.bad);
}
END_TEST

START_TEST(reading_beyond_the_end_is_bad_and_yields_zeros)
{
    struct slice s = slice_of("\1\2\3", 3);

    ck_assert_uint_eq(bytes_get_u16(&s), 0x0201);
    ck_assert_uint_eq(bytes_get_u16(&s), 0);
    ck_assert(s.bad);
    ck_assert_uint_eq(bytes_get_u8(&s), 0);
    ck_assert(!bytes_end(&s));
}
END_TEST

START_TEST(a_text_out_of_its_bounds_is_bad)
{
    struct slice longer = slice_of("\4pikv", 5);
    struct slice cut = slice_of("\4pik", 4);
    struct slice nul = slice_of("\4p\0kv", 5);
    char text[8] = "before", four[4];

    bytes_get_text(&longer, four, sizeof(four));
    ck_assert(longer.bad);
    bytes_get_text(&cut, text, sizeof(text));
    ck_assert(cut.bad);
    bytes_get_text(&nul, text, sizeof(text));
    ck_assert(nul.bad);
    for (size_t i = 0; i < sizeof(text); i++)
        ck_assert_int_eq(text[i], 0);
}
END_TEST

START_TEST(a_changed_or_missing_byte_breaks_the_seal)
{
    struct bytes b = {0};
    struct slice s;

    bytes_put_u8(&b, 9); /* is not under the seal */
    bytes_put_text(&b, "a view");
    bytes_seal(&b, 1);
    ck_assert(bytes_unseal(&s, b.p + 1, b.len - 1));
    ck_assert_uint_eq(s.len, 7);
    for (size_t i = 1; i < b.len; i++) {
        b.p[i] ^= 0x10;
        ck_assert(!bytes_unseal(&s, b.p + 1, b.len - 1));
        ck_assert(s.bad);
        b.p[i] ^= 0x10;
        ck_assert(!bytes_unseal(&s, b.p + 1, i - 1));
    }
    bytes_fini(&b);
}
END_TEST

START_TEST(nothing_with_a_seal_is_nothing)
{
    struct bytes b = {0};
    struct slice s;

    bytes_put(&b, NULL, 0);
    bytes_seal(&b, 0);
    ck_assert(bytes_unseal(&s, b.p, b.len));
    ck_assert(bytes_end(&s));
    bytes_fini(&b);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("bytes");
    TCase *t = tcase_create("bytes");

    tcase_add_test(t, what_is_put_is_got);
    tcase_add_test(t, integers_are_little_endian);
    tcase_add_test(t, it_grows_and_keeps_what_it_had);
    tcase_add_test(t, without_memory_it_is_bad_and_stays_so);
    tcase_add_test(t, reading_beyond_the_end_is_bad_and_yields_zeros);
    tcase_add_test(t, a_text_out_of_its_bounds_is_bad);
    tcase_add_test(t, a_changed_or_missing_byte_breaks_the_seal);
    tcase_add_test(t, nothing_with_a_seal_is_nothing);
    suite_add_tcase(s, t);
    return s;
}
