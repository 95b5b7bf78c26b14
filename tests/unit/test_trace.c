/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/trace.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct trace t;

static void trace_make(void)
{
    memset(&t, 0, sizeof(t));
}

static void add(uint64_t ns, uint64_t a)
{
    trace_add(&t, ns, TRACE_COMMIT, 1, a, 2);
}

START_TEST(events_have_the_names_of_the_table)
{
    ck_assert_str_eq(trace_name(TRACE_NONE), "NONE");
    ck_assert_str_eq(trace_name(TRACE_COMMIT), "COMMIT");
    ck_assert_str_eq(trace_name(TRACE_IDS), "UNKNOWN");
    ck_assert_str_eq(trace_name(UINT32_MAX), "UNKNOWN");
}
END_TEST

/* The dump in a string that the caller frees. */
static char *dump(void)
{
    FILE *f = tmpfile();
    char *text;
    long n;

    ck_assert_ptr_nonnull(f);
    trace_dump(&t, fileno(f));
    fseek(f, 0, SEEK_END);
    n = ftell(f);
    rewind(f);
    text = calloc(1, (size_t)n + 1);
    ck_assert_uint_eq(fread(text, 1, (size_t)n, f), (size_t)n);
    fclose(f);
    return text;
}

START_TEST(dump_is_one_line_per_event_oldest_first)
{
    char *text;

    trace_add(&t, 5, TRACE_OP_BEGIN, 0, 0xab, 3);
    trace_add(&t, UINT64_MAX, TRACE_FRAME_BAD, UINT32_MAX, UINT64_MAX, 0);
    text = dump();
    ck_assert_str_eq(text, "5 OP_BEGIN op=0 a=00000000000000ab "
                           "b=0000000000000003\n"
                           "18446744073709551615 FRAME_BAD op=4294967295 "
                           "a=ffffffffffffffff b=0000000000000000\n");
    free(text);
}
END_TEST

START_TEST(the_ring_keeps_the_last_events)
{
    char *text;

    for (uint64_t i = 0; i < TRACE_N + 3; i++)
        add(i, i);
    text = dump();
    ck_assert(strncmp(text, "3 COMMIT ", 9) == 0);
    free(text);
}
END_TEST

START_TEST(an_empty_ring_dumps_nothing)
{
    char *text = dump();

    ck_assert_str_eq(text, "");
    free(text);
}
END_TEST

static uint64_t hash_of(uint64_t ns, uint64_t a, uint64_t b)
{
    trace_make();
    t.hashing = true;
    add(ns, a);
    add(ns, b);
    return t.hash;
}

START_TEST(the_hash_sees_events_and_order_but_not_time)
{
    ck_assert_uint_eq(hash_of(1, 10, 20), hash_of(999, 10, 20));
    ck_assert_uint_ne(hash_of(1, 10, 20), hash_of(1, 20, 10));
    ck_assert_uint_ne(hash_of(1, 10, 20), hash_of(1, 10, 21));
}
END_TEST

START_TEST(nothing_is_hashed_unless_asked)
{
    add(1, 2);
    ck_assert_uint_eq(t.hash, 0);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("trace");
    TCase *c = tcase_create("trace");

    tcase_add_checked_fixture(c, trace_make, NULL);
    tcase_add_test(c, events_have_the_names_of_the_table);
    tcase_add_test(c, dump_is_one_line_per_event_oldest_first);
    tcase_add_test(c, the_ring_keeps_the_last_events);
    tcase_add_test(c, an_empty_ring_dumps_nothing);
    tcase_add_test(c, the_hash_sees_events_and_order_but_not_time);
    tcase_add_test(c, nothing_is_hashed_unless_asked);
    suite_add_tcase(s, c);
    return s;
}
