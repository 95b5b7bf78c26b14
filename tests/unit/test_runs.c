/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: store base proto
 *
 * Written ranges of an open block and the crc of what they make together. */
#include <check.h>
#include <stdlib.h>

#include "base/hash.h"
#include "store/runs.h"

enum { LEN = 1 << 16, MODEL = 96 };

static struct runs r;
static uint8_t bytes[LEN];

static void up(void)
{
    runs_init(&r);
    for (uint32_t i = 0; i < LEN; i++)
        bytes[i] = (uint8_t)(i * 31 + (i >> 8));
}

static uint32_t crc_of(uint64_t off, uint64_t len)
{
    return crc32c(0, bytes + off, len);
}

static void write_run(uint64_t off, uint64_t len)
{
    ck_assert_int_eq(runs_claim(&r, off, len), OK);
    runs_done(&r, off, crc_of(off, len));
}

static void assert_whole(uint64_t len)
{
    uint32_t crc = 0;

    ck_assert(runs_whole(&r, len, &crc));
    ck_assert_uint_eq(crc, crc_of(0, len));
}

START_TEST(ranges_in_any_order_give_the_crc_of_the_whole)
{
    write_run(300, 700);
    write_run(0, 100);
    write_run(1000, LEN - 1000);
    ck_assert_uint_eq(r.n, 2);
    write_run(100, 200);
    ck_assert_uint_eq(r.n, 1);
    assert_whole(LEN);
}
END_TEST

START_TEST(one_range_is_the_whole)
{
    write_run(0, LEN);
    assert_whole(LEN);
}
END_TEST

START_TEST(what_is_missing_or_under_way_is_not_whole)
{
    uint32_t crc = 7;

    ck_assert(!runs_whole(&r, LEN, &crc));
    write_run(0, 10);
    ck_assert(!runs_whole(&r, 11, &crc)); /* its end */
    write_run(11, 5);
    ck_assert(!runs_whole(&r, 16, &crc)); /* the middle */
    ck_assert_int_eq(runs_claim(&r, 10, 1), OK);
    ck_assert(!runs_whole(&r, 16, &crc)); /* claimed only */
    ck_assert_uint_eq(crc, 7);
    runs_done(&r, 10, crc_of(10, 1));
    assert_whole(16);
    runs_init(&r);
    write_run(1, 9); /* its beginning */
    ck_assert(!runs_whole(&r, 9, &crc));
    ck_assert(!runs_whole(&r, 10, &crc));
}
END_TEST

START_TEST(a_written_range_exists_and_so_do_its_parts)
{
    write_run(100, 50);
    write_run(150, 50);
    ck_assert_int_eq(runs_claim(&r, 100, 50), ERR_EXISTS);
    ck_assert_int_eq(runs_claim(&r, 120, 60), ERR_EXISTS);
    ck_assert_int_eq(runs_claim(&r, 100, 100), ERR_EXISTS);
}
END_TEST

START_TEST(a_range_under_way_is_pending)
{
    ck_assert_int_eq(runs_claim(&r, 100, 50), OK);
    ck_assert_int_eq(runs_claim(&r, 100, 50), ERR_PENDING);
    ck_assert_int_eq(runs_claim(&r, 149, 1), ERR_PENDING);
    ck_assert_uint_eq(r.pending_n, 1);
    runs_done(&r, 100, crc_of(100, 50));
    ck_assert_int_eq(runs_claim(&r, 100, 50), ERR_EXISTS);
    ck_assert_uint_eq(r.pending_n, 0);
}
END_TEST

START_TEST(a_range_that_overlaps_another_is_refused)
{
    write_run(100, 50);
    ck_assert_int_eq(runs_claim(&r, 99, 50), ERR_BAD_REQUEST);
    ck_assert_int_eq(runs_claim(&r, 99, 2), ERR_BAD_REQUEST);
    ck_assert_int_eq(runs_claim(&r, 149, 2), ERR_BAD_REQUEST);
    ck_assert_int_eq(runs_claim(&r, 0, 1000), ERR_BAD_REQUEST);
    ck_assert_int_eq(runs_claim(&r, 200, 50), OK);
    ck_assert_int_eq(runs_claim(&r, 199, 51), ERR_BAD_REQUEST);
    ck_assert_uint_eq(r.n, 2);
}
END_TEST

START_TEST(a_dropped_range_may_be_claimed_again)
{
    write_run(0, 10);
    ck_assert_int_eq(runs_claim(&r, 10, 10), OK);
    write_run(20, 10);
    runs_drop(&r, 10);
    ck_assert_uint_eq(r.pending_n, 0);
    ck_assert_int_eq(runs_claim(&r, 5, 10), ERR_BAD_REQUEST);
    write_run(10, 10);
    assert_whole(30);
}
END_TEST

START_TEST(a_full_list_says_so)
{
    for (uint32_t i = 0; i < RUNS_MAX; i++)
        write_run(2 * i, 1);
    ck_assert_int_eq(runs_claim(&r, 2 * RUNS_MAX, 1), ERR_LIMIT);
    ck_assert_int_eq(runs_claim(&r, 0, 1), ERR_EXISTS);
    runs_init(&r);
    for (uint32_t i = 0; i < RUNS_MAX; i++)
        ck_assert_int_eq(runs_claim(&r, i, 1), OK);
    ck_assert_int_eq(runs_claim(&r, RUNS_MAX, 1), ERR_BUSY);
    for (uint32_t i = 0; i < RUNS_MAX; i++)
        runs_done(&r, i, crc_of(i, 1));
    assert_whole(RUNS_MAX);
}
END_TEST

/* Else a block in that many pieces could never become whole. */
START_TEST(a_full_list_takes_what_joins_two)
{
    for (uint32_t i = 0; i < RUNS_MAX; i++)
        write_run(2 * i, 1);
    ck_assert_int_eq(runs_claim(&r, 1, 1), OK);
    ck_assert_int_eq(runs_claim(&r, 3, 1), ERR_BUSY); /* one at a time */
    runs_drop(&r, 1);
    ck_assert_int_eq(runs_claim(&r, 2 * RUNS_MAX, 1), ERR_LIMIT);
    for (uint32_t i = 0; i < RUNS_MAX; i++)
        write_run(2 * i + 1, 1);
    assert_whole(2 * RUNS_MAX);
}
END_TEST

/* Against a byte map: random ranges, some under way, some dropped. */
static void model_step(uint8_t *map, uint32_t *open_off, uint32_t *open_len)
{
    uint32_t off = (uint32_t)rand() % MODEL;
    uint32_t room = MODEL - off < 12 ? MODEL - off : 12;
    uint32_t len = 1 + (uint32_t)rand() % room, here = 0;
    enum err e = runs_claim(&r, off, len);

    for (uint32_t i = off; i < off + len; i++)
        here += map[i] != 0;
    ck_assert((e == OK) == (here == 0));
    if (e)
        ck_assert(here == len || e == ERR_BAD_REQUEST);
    for (uint32_t i = off; !e && i < off + len; i++)
        map[i] = 1;
    if (*open_len && rand() % 2) {
        bool good = rand() % 4;

        if (good)
            runs_done(&r, *open_off, crc_of(*open_off, *open_len));
        else
            runs_drop(&r, *open_off);
        for (uint32_t i = *open_off; i < *open_off + *open_len; i++)
            map[i] = good ? 2 : 0;
        *open_len = 0;
    }
    if (!e && *open_len == 0) {
        *open_off = off;
        *open_len = len;
    } else if (!e) {
        runs_done(&r, off, crc_of(off, len));
        for (uint32_t i = off; i < off + len; i++)
            map[i] = 2;
    }
}

START_TEST(the_list_agrees_with_a_byte_map)
{
    uint32_t wholes = 0;

    for (unsigned seed = 0; seed < 100; seed++) {
        uint8_t map[MODEL] = {0};
        uint32_t off = 0, len = 0, crc, done = 0;

        srand(seed);
        runs_init(&r);
        for (uint32_t i = 0; i < 4000; i++)
            model_step(map, &off, &len);
        for (uint32_t i = 0; i < MODEL; i++)
            done += map[i] == 2;
        ck_assert(runs_whole(&r, MODEL, &crc) == (done == MODEL));
        if (done == MODEL)
            assert_whole(MODEL);
        wholes += done == MODEL;
    }
    ck_assert_uint_gt(wholes, 10);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("runs");
    TCase *t = tcase_create("runs");

    tcase_add_checked_fixture(t, up, NULL);
    tcase_add_test(t, ranges_in_any_order_give_the_crc_of_the_whole);
    tcase_add_test(t, one_range_is_the_whole);
    tcase_add_test(t, what_is_missing_or_under_way_is_not_whole);
    tcase_add_test(t, a_written_range_exists_and_so_do_its_parts);
    tcase_add_test(t, a_range_under_way_is_pending);
    tcase_add_test(t, a_range_that_overlaps_another_is_refused);
    tcase_add_test(t, a_dropped_range_may_be_claimed_again);
    tcase_add_test(t, a_full_list_says_so);
    tcase_add_test(t, a_full_list_takes_what_joins_two);
    tcase_add_test(t, the_list_agrees_with_a_byte_map);
    suite_add_tcase(s, t);
    return s;
}
