/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/log.h"

#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char lines[64][1100];
static uint32_t line_n;
static uint64_t wall_us;

static uint64_t clock_fake(void)
{
    return wall_us;
}

static void sink(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)arg;
    snprintf(lines[line_n % 64], sizeof(lines[0]), "%s", line);
    line_n++;
}

static void log_make(void)
{
    line_n = 0;
    log_setup(LOG_INFO, LOG_FORMAT_TEXT);
    log_sink_set(sink, NULL);
    log_clock_set(NULL);
}

static void log_end(void)
{
    log_sink_set(NULL, NULL);
    log_clock_set(NULL);
}

START_TEST(a_line_is_the_event_and_its_pairs)
{
    LOG(LOG_INFO, "peer_open", "peer=%d transport=%s", 3, "shm");
    LOG(LOG_WARN, "alone", "%s", "");
    ck_assert_str_eq(lines[0], "peer_open peer=3 transport=shm");
    ck_assert_str_eq(lines[1], "alone");
}
END_TEST

START_TEST(levels_below_the_set_one_are_silent)
{
    LOG(LOG_DEBUG, "no", "a=1");
    log_level_set(LOG_DEBUG);
    LOG(LOG_DEBUG, "yes", "a=1");
    log_level_set(LOG_ERROR);
    LOG(LOG_WARN, "no", "a=1");
    ck_assert_uint_eq(line_n, 1);
    ck_assert_str_eq(lines[0], "yes a=1");
}
END_TEST

static void flood(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        LOG(LOG_WARN, "flood", "i=%u", i);
}

START_TEST(a_site_says_ten_lines_a_second_then_a_count)
{
    log_clock_set(clock_fake);
    wall_us = 5000000;
    flood(100);
    ck_assert_uint_eq(line_n, 10);
    wall_us += 1000000;
    flood(1);
    ck_assert_uint_eq(line_n, 11);
    ck_assert_str_eq(lines[10], "flood i=0 dropped=90");
    flood(1);
    ck_assert_str_eq(lines[11], "flood i=0");
}
END_TEST

START_TEST(a_value_cannot_forge_a_line)
{
    LOG(LOG_INFO, "hello", "engine=%s", "x\n<0>forged a=1");
    ck_assert_ptr_null(strchr(lines[0], '\n'));
    LOG(LOG_INFO, "hello", "engine=%s", LOG_STR("x\n\"y\" \\z"));
    ck_assert_str_eq(lines[1], "hello engine=\"x\\\\x0a\\\"y\\\" \\\\z\"");
}
END_TEST

START_TEST(quoting_cuts_at_the_buffer)
{
    char buf[16], text[64];

    for (size_t n = 0; n < sizeof(text) - 1; n++) {
        memset(text, n % 2 ? '\n' : '"', n);
        text[n] = '\0';
        log_quote(buf, sizeof(buf), text);
        ck_assert_uint_lt(strlen(buf), sizeof(buf));
        ck_assert_int_eq(buf[strlen(buf) - 1], '"');
    }
}
END_TEST

START_TEST(json_lines_carry_stamp_level_event_and_pairs)
{
    log_setup(LOG_INFO, LOG_FORMAT_JSON);
    log_clock_set(clock_fake);
    wall_us = UINT64_C(1767225600000042);
    LOG(LOG_ERROR, "config", "path=%s line=3", LOG_STR("a \"b\""));
    ck_assert_str_eq(lines[0], "{\"ts\":\"2026-01-01T00:00:00.000042Z\","
                               "\"level\":\"error\",\"event\":\"config\","
                               "\"path\":\"a \\\"b\\\"\",\"line\":\"3\"}");
}
END_TEST

START_TEST(json_of_any_length_is_closed)
{
    char text[1200];

    log_setup(LOG_INFO, LOG_FORMAT_JSON);
    for (size_t n = 900; n < sizeof(text) - 1; n++) {
        memset(text, n % 3 ? '"' : '\\', n);
        text[n] = '\0';
        LOG(LOG_INFO, "e", "k=%s l=1", text);
        ck_assert(strcmp(lines[(line_n - 1) % 64] +
                             strlen(lines[(line_n - 1) % 64]) - 2,
                         "\"}") == 0);
    }
}
END_TEST

/* stderr of a child of this test is a pipe: what the journal would get. */
static void capture(enum log_format format, char *out, size_t cap)
{
    int fds[2], keep = dup(STDERR_FILENO);
    ssize_t n;

    ck_assert_int_eq(pipe(fds), 0);
    dup2(fds[1], STDERR_FILENO);
    log_sink_set(NULL, NULL);
    log_setup(LOG_INFO, format);
    log_clock_set(clock_fake);
    wall_us = UINT64_C(1767225600000000);
    LOG(LOG_WARN, "pool_full", "peer=3");
    dup2(keep, STDERR_FILENO);
    n = read(fds[0], out, cap - 1);
    ck_assert_int_gt(n, 0);
    out[n] = '\0';
    close(fds[0]);
    close(fds[1]);
    close(keep);
}

START_TEST(stderr_gets_a_stamp_or_a_priority)
{
    char out[256];

    capture(LOG_FORMAT_TEXT, out, sizeof(out));
    ck_assert_str_eq(out, "2026-01-01T00:00:00.000000Z warn pool_full "
                          "peer=3\n");
    capture(LOG_FORMAT_JOURNAL, out, sizeof(out));
    ck_assert_str_eq(out, "<4>pool_full peer=3\n");
    setenv("JOURNAL_STREAM", "1:1", 1); /* somebody else's */
    capture(LOG_FORMAT_AUTO, out, sizeof(out));
    ck_assert_str_eq(out, "2026-01-01T00:00:00.000000Z warn pool_full "
                          "peer=3\n");
}
END_TEST

static void *log_many(void *arg)
{
    (void)arg;
    for (int i = 0; i < 500; i++)
        LOG(LOG_INFO, "thread", "i=%d", i);
    return NULL;
}

START_TEST(threads_log_through_one_site)
{
    pthread_t t[4];

    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, log_many, NULL), 0);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_join(t[i], NULL), 0);
    ck_assert_uint_eq(line_n, 2000);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("log");
    TCase *t = tcase_create("log");

    tcase_add_checked_fixture(t, log_make, log_end);
    tcase_add_test(t, a_line_is_the_event_and_its_pairs);
    tcase_add_test(t, levels_below_the_set_one_are_silent);
    tcase_add_test(t, a_site_says_ten_lines_a_second_then_a_count);
    tcase_add_test(t, a_value_cannot_forge_a_line);
    tcase_add_test(t, quoting_cuts_at_the_buffer);
    tcase_add_test(t, json_lines_carry_stamp_level_event_and_pairs);
    tcase_add_test(t, json_of_any_length_is_closed);
    tcase_add_test(t, stderr_gets_a_stamp_or_a_priority);
    tcase_add_test(t, threads_log_through_one_site);
    suite_add_tcase(s, t);
    return s;
}
