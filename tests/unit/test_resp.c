/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: door base */
#include "door/resp.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/resp_feed.h"

static struct resp_feed feed;

static const char *all_at_once(const void *p, size_t n)
{
    resp_feed_init(&feed);
    resp_feed(&feed, p, n);
    return feed.log;
}

static const char *text(const char *s)
{
    return all_at_once(s, strlen(s));
}

#define LONG30 "123456789012345678901234567890"

static const struct {
    const char *in, *out;
} cases[] = {
    /* multibulk */
    {"*1\r\n$4\r\nPING\r\n", "[|PING]"},
    {"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "[|GET|k]"},
    {"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", "[|GET|]"},
    {"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n\r\n\r\n", "[|SET|k|\r\n]"},
    {"*0\r\n*-1\r\n*1\r\n$1\r\nx\r\n", "[][][|x]"},
    {"*1\n$1\nx\r\n", "[|x]"},
    {"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPI",
     "[|PING][|PING]"},
    /* values outside */
    {"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$30\r\n" LONG30 "\r\n",
     "[|SET|k|{" LONG30 "}]"},
    {"*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$30\r\n" LONG30
     "\r\n$2\r\nEX\r\n$0\r\n\r\n*1\r\n$1\r\nx\r\n",
     "[|SET|k|{" LONG30 "}|EX|][|x]"},
    {"*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$17\r\n12345678901234567\r\n$0\r\n\r\n",
     "[|SET|k|{12345678901234567}|]"},
    {"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$16\r\n1234567890123456\r\n",
     "[|SET|k|1234567890123456]"},
    /* inline */
    {"PING\r\n", "[|PING]"},
    {"  get   k \r\nset k v\n", "[|get|k][|set|k|v]"},
    {"\r\n\r\nPING\r\n", "[][][|PING]"},
    {"set k \"a b\\n\\x41\\\"\\\\\" 'c d\\'e' ''\r\n",
     "[|set|k|a b\nA\"\\|c d'e|]"},
    {"set \"a\\q\\xzz\"\r\n", "[|set|aqxzz]"},
    /* bad */
    {"*65\r\n", "!Protocol error: invalid multibulk length"},
    {"*a\r\n", "!Protocol error: invalid multibulk length"},
    {"*\r\n", "!Protocol error: invalid multibulk length"},
    {"*99999999999999999999999\r\n",
     "!Protocol error: invalid multibulk length"},
    {"*1\r\nPING\r\n", "!Protocol error: expected '$', got 'P'"},
    {"*1\r\n\x01PING\r\n", "!Protocol error: expected '$', got '?'"},
    {"*1\r\n\r\n", "!Protocol error: expected '$', got ' '"},
    {"*1\r\n$-1\r\n", "!Protocol error: invalid bulk length"},
    {"*1\r\n$\r\n", "!Protocol error: invalid bulk length"},
    {"*1\r\n$18446744073709551616\r\n", "!Protocol error: invalid bulk length"},
    {"*1\r\n$18446744073709551615\r\n", "!too long"},
    {"*1\r\n$4097\r\n", "!too long"},
    {"*1\r\n$4\r\nPINGxx", "!Protocol error: expected a line end after bulk"},
    {"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$30\r\n" LONG30 "xx",
     "!Protocol error: expected a line end after bulk"},
    {"*3\r\n$30\r\n" LONG30 "\r\n$30\r\n" LONG30 "\r\n$1\r\nx\r\n",
     "[|{" LONG30 "}|" LONG30 "|x]"},
    {"*111111111111111111111111111111111111111111111111111111111111111111",
     "!Protocol error: too big mbulk count string"},
    {"*1\r\n$11111111111111111111111111111111111111111111111111111111111111111",
     "!Protocol error: too big bulk count string"},
    {"set \"a\r\n", "!Protocol error: unbalanced quotes in request"},
    {"set \"a\"b\r\n", "!Protocol error: unbalanced quotes in request"},
    {"set 'a\\'\r\n", "!Protocol error: unbalanced quotes in request"},
    {"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
     "!Protocol error: too big inline request"},
    {"x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x\r\n",
     "!Protocol error: too big inline request"},
};

START_TEST(commands_are_what_redis_says)
{
    for (size_t i = 0; i < countof(cases); i++)
        ck_assert_str_eq(text(cases[i].in), cases[i].out);
}
END_TEST

START_TEST(cut_anywhere_the_commands_are_the_same)
{
    for (size_t i = 0; i < countof(cases); i++) {
        size_t n = strlen(cases[i].in);

        for (size_t at = 1; at < n; at++) {
            resp_feed_init(&feed);
            resp_feed(&feed, cases[i].in, at);
            resp_feed(&feed, cases[i].in + at, n - at);
            ck_assert_msg(strcmp(feed.log, cases[i].out) == 0,
                          "%s cut at %zu: %s", cases[i].in, at, feed.log);
        }
    }
}
END_TEST

START_TEST(byte_by_byte_the_commands_are_the_same)
{
    for (size_t i = 0; i < countof(cases); i++) {
        resp_feed_init(&feed);
        for (const char *p = cases[i].in; *p; p++)
            resp_feed(&feed, p, 1);
        ck_assert_str_eq(feed.log, cases[i].out);
    }
}
END_TEST

START_TEST(bytes_of_a_value_are_any_bytes)
{
    uint8_t in[600];
    size_t n = (size_t)snprintf((char *)in, sizeof(in),
                                "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n"
                                "$256\r\n");

    for (int i = 0; i < 256; i++)
        in[n++] = (uint8_t)i;
    in[n++] = '\r';
    in[n++] = '\n';
    all_at_once(in, n);
    ck_assert_uint_eq(feed.commands, 1);
    for (int i = 0; i < 256; i++)
        ck_assert_uint_eq(feed.value[i], (uint8_t)i);
}
END_TEST

START_TEST(a_pipeline_is_as_many_commands)
{
    static char in[10000 * 24 + 1];
    size_t n = 0;

    for (int i = 0; i < 10000; i++)
        n += (size_t)snprintf(in + n, sizeof(in) - n,
                              "*2\r\n$3\r\nGET\r\n$1\r\n%c\r\n", 'a' + i % 26);
    all_at_once(in, n);
    ck_assert_uint_eq(feed.commands, 10000);
    ck_assert(!feed.ended);
}
END_TEST

START_TEST(arguments_to_the_limit_and_one_more)
{
    static char in[FEED_ARGS * 16];
    size_t n = (size_t)snprintf(in, sizeof(in), "*%d\r\n", FEED_ARGS);

    for (int i = 0; i < FEED_ARGS; i++)
        n += (size_t)snprintf(in + n, sizeof(in) - n, "$1\r\nx\r\n");
    all_at_once(in, n);
    ck_assert_uint_eq(feed.commands, 1);
    snprintf(in, sizeof(in), "*%d\r\n", FEED_ARGS + 1);
    ck_assert_str_eq(text(in), "!Protocol error: invalid multibulk length");
}
END_TEST

START_TEST(words_of_an_inline_command_are_counted)
{
    resp_feed_init(&feed);
    feed.limits.args_max = 3;
    resp_feed(&feed, "a b c\r\na b c d\r\n", 16);
    ck_assert_str_eq(feed.log, "[|a|b|c]!Protocol error: too many words");
}
END_TEST

START_TEST(nothing_is_parsed_behind_what_is_bad)
{
    text("*1\r\n$-1\r\n*1\r\n$4\r\nPING\r\n");
    ck_assert_uint_eq(feed.commands, 0);
    resp_feed(&feed, "*1\r\n$4\r\nPING\r\n", 14);
    ck_assert_uint_eq(feed.commands, 0);
    ck_assert_int_eq(resp_next(&feed.resp, feed.buf, feed.len), RESP_BAD);
}
END_TEST

/* ---- Words ---- */

START_TEST(numbers_are_whole_and_in_range)
{
    static const struct {
        const char *in;
        bool ok;
        int64_t v;
    } n[] = {
        {"0", true, 0},
        {"-1", true, -1},
        {"9223372036854775807", true, INT64_MAX},
        {"-9223372036854775807", true, -INT64_MAX},
        {"9223372036854775808", false, 0},
        {"", false, 0},
        {"-", false, 0},
        {"+1", false, 0},
        {"1 ", false, 0},
        {"0x1", false, 0},
        {"000000000000000000001", false, 0},
    };
    uint64_t u;

    for (size_t i = 0; i < countof(n); i++) {
        int64_t v = 77;

        ck_assert_int_eq(resp_int(n[i].in, strlen(n[i].in), &v), n[i].ok);
        ck_assert_int_eq(v, n[i].ok ? n[i].v : 77);
    }
    ck_assert(resp_u64("18446744073709551615", 20, &u) && u == UINT64_MAX);
    ck_assert(!resp_u64("18446744073709551616", 20, &u));
}
END_TEST

START_TEST(words_are_the_same_in_any_case)
{
    ck_assert(resp_is("GeT", 3, "get"));
    ck_assert(!resp_is("GeT", 2, "get"));
    ck_assert(!resp_is("gett", 4, "get"));
    ck_assert(!resp_is("", 0, "get"));
}
END_TEST

static const struct {
    const char *pat, *s;
    bool is;
} globs[] = {
    {"*", "", true},
    {"*", "abc", true},
    {"", "", true},
    {"", "a", false},
    {"a*c", "abbbc", true},
    {"a*c", "abbb", false},
    {"a?c", "abc", true},
    {"a?c", "ac", false},
    {"[abc]x", "bx", true},
    {"[a-c]x", "bx", true},
    {"[c-a]x", "bx", true},
    {"[^a-c]x", "bx", false},
    {"[^a-c]x", "zx", true},
    {"\\*", "*", true},
    {"\\*", "a", false},
    {"[\\]]", "]", true},
    {"[", "[", false},
    {"[]", "a", false},
    {"a\\", "a\\", true},
    {"**a**", "xxaxx", true},
    {"*a*b", "aaab", true},
    {"*ab", "aab", true},
    {"h*llo", "heeello", true},
    {"[^]x", "ax", true},
};

START_TEST(patterns_match_as_redis_does)
{
    for (size_t i = 0; i < countof(globs); i++)
        ck_assert_msg(resp_match((const uint8_t *)globs[i].pat,
                                 strlen(globs[i].pat),
                                 (const uint8_t *)globs[i].s,
                                 strlen(globs[i].s)) == globs[i].is,
                      "%s %s", globs[i].pat, globs[i].s);
}
END_TEST

/* Many stars must not take exponential time: this ends, or the test times out.
 */
START_TEST(patterns_of_stars_end)
{
    uint8_t pat[1024], s[1024];

    memset(s, 'a', sizeof(s));
    for (size_t i = 0; i < sizeof(pat); i++)
        pat[i] = i % 2 ? 'a' : '*';
    pat[sizeof(pat) - 1] = 'b';
    ck_assert(!resp_match(pat, sizeof(pat), s, sizeof(s)));
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("resp");
    TCase *t = tcase_create("parser");

    tcase_add_test(t, commands_are_what_redis_says);
    tcase_add_test(t, cut_anywhere_the_commands_are_the_same);
    tcase_add_test(t, byte_by_byte_the_commands_are_the_same);
    tcase_add_test(t, bytes_of_a_value_are_any_bytes);
    tcase_add_test(t, a_pipeline_is_as_many_commands);
    tcase_add_test(t, arguments_to_the_limit_and_one_more);
    tcase_add_test(t, words_of_an_inline_command_are_counted);
    tcase_add_test(t, nothing_is_parsed_behind_what_is_bad);
    suite_add_tcase(s, t);
    t = tcase_create("words");
    tcase_add_test(t, numbers_are_whole_and_in_range);
    tcase_add_test(t, words_are_the_same_in_any_case);
    tcase_add_test(t, patterns_match_as_redis_does);
    tcase_add_test(t, patterns_of_stars_end);
    suite_add_tcase(s, t);
    return s;
}
