/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/units.h"

#include <check.h>

#include "base/env.h"

static const struct {
    const char *text;
    uint64_t n;
} good_bytes[] = {
    {"0B", 0},
    {"1B", 1},
    {"64KiB", KIB(64)},
    {"24GiB", GIB(24)},
    {"2MiB", MIB(2)},
    {"1TiB", GIB(1024)},
    {"1.5GiB", MIB(1536)},
    {"0.5KiB", 512},
    {"007MiB", MIB(7)},
    {"18446744073709551615B", UINT64_MAX},
};

static const struct {
    const char *text;
    uint64_t n;
} good_us[] = {
    {"0us", 0},         {"20us", 20},       {"250ms", 250000}, {"2s", 2000000},
    {"10m", 600000000}, {"1h", 3600000000}, {"1.5s", 1500000}, {"0.25ms", 250},
};

static const char *const bad[] = {
    "",
    " ",
    "B",
    "GiB",
    "-1B",
    "+1B",
    "1",
    "1 GiB",
    "1GB",
    "1gib",
    "1GiBx",
    " 1GiB",
    "1GiB ",
    "1.GiB",
    ".5GiB",
    "1.5B",
    "1e3KiB",
    "0x1KiB",
    "1,5GiB",
    "1.5.5GiB",
    "18446744073709551616B",
    "16777216TiB",
    "1.00000000000000000000000001GiB",
    "0.3KiB",
    "1sm",
    "1.5us",
    "-1s",
    "1 s",
    "5124095577h",
    "ms",
};

START_TEST(good_texts_are_read)
{
    uint64_t n;

    for (size_t i = 0; i < countof(good_bytes); i++) {
        ck_assert_int_eq(units_bytes(good_bytes[i].text, &n), OK);
        ck_assert_uint_eq(n, good_bytes[i].n);
    }
    for (size_t i = 0; i < countof(good_us); i++) {
        ck_assert_int_eq(units_us(good_us[i].text, &n), OK);
        ck_assert_uint_eq(n, good_us[i].n);
    }
}
END_TEST

START_TEST(bad_texts_are_refused_and_nothing_is_written)
{
    uint64_t n = 4711;

    for (size_t i = 0; i < countof(bad); i++) {
        ck_assert_int_eq(units_bytes(bad[i], &n), ERR_CONFIG);
        ck_assert_int_eq(units_us(bad[i], &n), ERR_CONFIG);
    }
    ck_assert_int_eq(units_us("1B", &n), ERR_CONFIG);
    ck_assert_int_eq(units_bytes("1s", &n), ERR_CONFIG);
    ck_assert_uint_eq(n, 4711);
}
END_TEST

START_TEST(printing_takes_the_shortest_exact_form)
{
    char buf[32];

    ck_assert_str_eq(units_print_bytes(0, buf), "0B");
    ck_assert_str_eq(units_print_bytes(1023, buf), "1023B");
    ck_assert_str_eq(units_print_bytes(KIB(1), buf), "1KiB");
    ck_assert_str_eq(units_print_bytes(MIB(1536), buf), "1536MiB");
    ck_assert_str_eq(units_print_bytes(GIB(24), buf), "24GiB");
    ck_assert_str_eq(units_print_us(0, buf), "0us");
    ck_assert_str_eq(units_print_us(250000, buf), "250ms");
    ck_assert_str_eq(units_print_us(3600000000, buf), "1h");
    ck_assert_str_eq(units_print_us(90000000, buf), "90s");
}
END_TEST

START_TEST(what_is_printed_reads_back)
{
    struct env e = {.rng = {3, 4}};
    uint64_t n, back;
    char buf[32];

    for (int i = 0; i < 10000; i++) {
        n = env_random(&e) >> (i % 64);
        ck_assert_int_eq(units_bytes(units_print_bytes(n, buf), &back), OK);
        ck_assert_uint_eq(n, back);
        ck_assert_int_eq(units_us(units_print_us(n, buf), &back), OK);
        ck_assert_uint_eq(n, back);
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("units");
    TCase *t = tcase_create("units");

    tcase_add_test(t, good_texts_are_read);
    tcase_add_test(t, bad_texts_are_refused_and_nothing_is_written);
    tcase_add_test(t, printing_takes_the_shortest_exact_form);
    tcase_add_test(t, what_is_printed_reads_back);
    suite_add_tcase(s, t);
    return s;
}
