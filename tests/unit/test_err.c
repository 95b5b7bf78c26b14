/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/err.h"

#include <check.h>
#include <limits.h>
#include <string.h>

START_TEST(every_row_of_the_table_has_a_name_text_and_actor)
{
#define ERR(name, code, who, text)                                             \
    ck_assert_str_eq(err_name(ERR_##name), #name);                             \
    ck_assert_str_eq(err_text(code), text);                                    \
    ck_assert_int_eq((int)err_who(code), (int)WHO_##who);
#include "proto/errors.tbl"
    ck_assert_str_eq(err_name(OK), "OK");
    ck_assert_int_eq((int)err_who(OK), (int)WHO_NOBODY);
}
END_TEST

START_TEST(codes_outside_the_table_are_answered)
{
    const int codes[] = {1, -999, INT_MAX, INT_MIN};

    for (size_t i = 0; i < countof(codes); i++) {
        ck_assert_str_eq(err_name(codes[i]), "UNKNOWN");
        ck_assert_ptr_nonnull(err_text(codes[i]));
        ck_assert_int_eq((int)err_who(codes[i]), (int)WHO_GIVEUP);
    }
}
END_TEST

START_TEST(every_actor_has_words)
{
    const enum err_who all[] = {WHO_NOBODY, WHO_RETRY, WHO_OTHER, WHO_GIVEUP};

    for (size_t i = 0; i < countof(all); i++)
        ck_assert_str_ne(err_who_text(all[i]), "unknown");
}
END_TEST

START_TEST(errmsg_set_writes_and_passes_the_code_on)
{
    struct errmsg m;

    ck_assert_int_eq(errmsg_set(&m, ERR_CONFIG, "lanes=%d", 5), ERR_CONFIG);
    ck_assert_str_eq(m.text, "lanes=5");
    ck_assert_int_eq(errmsg_set(NULL, ERR_IO, "nobody listens"), ERR_IO);
}
END_TEST

START_TEST(errmsg_wrap_puts_the_prefix_in_front)
{
    struct errmsg m;

    errmsg_set(&m, ERR_IO, "no such file");
    ck_assert_int_eq(errmsg_wrap(&m, ERR_IO, "open %s", "x.json"), ERR_IO);
    ck_assert_str_eq(m.text, "open x.json: no such file");
    ck_assert_int_eq(errmsg_wrap(NULL, ERR_IO, "open"), ERR_IO);
}
END_TEST

START_TEST(errmsg_wrap_cuts_the_tail_and_never_overruns)
{
    struct {
        struct errmsg m;
        uint8_t canary;
    } s = {.canary = 0x5a};
    char long_text[600];

    memset(long_text, 'x', sizeof(long_text) - 1);
    long_text[sizeof(long_text) - 1] = '\0';
    for (size_t len = 500; len < sizeof(long_text); len++) {
        errmsg_set(&s.m, ERR_IO, "tail");
        errmsg_wrap(&s.m, ERR_IO, "%.*s", (int)len, long_text);
        ck_assert_uint_lt(strlen(s.m.text), sizeof(s.m.text));
        ck_assert_uint_eq(s.canary, 0x5a);
        errmsg_set(&s.m, ERR_IO, "%.*s", (int)len, long_text);
        errmsg_wrap(&s.m, ERR_IO, "head");
        ck_assert(strncmp(s.m.text, "head: xxx", 9) == 0);
        ck_assert_uint_eq(s.canary, 0x5a);
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("err");
    TCase *t = tcase_create("err");

    tcase_add_test(t, every_row_of_the_table_has_a_name_text_and_actor);
    tcase_add_test(t, codes_outside_the_table_are_answered);
    tcase_add_test(t, every_actor_has_words);
    tcase_add_test(t, errmsg_set_writes_and_passes_the_code_on);
    tcase_add_test(t, errmsg_wrap_puts_the_prefix_in_front);
    tcase_add_test(t, errmsg_wrap_cuts_the_tail_and_never_overruns);
    suite_add_tcase(s, t);
    return s;
}
