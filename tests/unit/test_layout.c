/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base proto */
/* Layouts: every byte of every block where the words of layout.h say, and
 * nothing that is no layout accepted. */
#include <check.h>
#include <stdlib.h>

#include "base/base.h"
#include "base/layout.h"

enum { MEM = 1 << 16 };

static uint32_t seed;

static uint32_t chance(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % n;
}

/* As the header says it, one byte after the other. */
static uint64_t byte_at(const struct layout_run *runs, uint32_t run_n,
                        uint64_t base, uint64_t k)
{
    for (uint32_t i = 0; i < run_n; i++) {
        uint64_t bytes = runs[i].n * runs[i].len;

        if (k < bytes)
            return base + runs[i].off + k / runs[i].len * runs[i].stride +
                   k % runs[i].len;
        k -= bytes;
    }
    ck_abort_msg("no such byte");
}

static uint64_t reach_of(const struct layout_run *runs, uint32_t n)
{
    uint64_t far = 0;

    for (uint32_t i = 0; i < n; i++)
        far = max_u64(far, runs[i].off + (runs[i].n - 1) * runs[i].stride +
                               runs[i].len);
    return far;
}

static void walk(const struct layout *l, const struct layout_run *runs,
                 uint32_t run_n, uint64_t base)
{
    uint64_t pos = 0, off, n;
    bool same = true; /* asserting each byte would take long */

    while (pos < l->bytes) {
        n = layout_piece(l, base, pos, &off);
        ck_assert_uint_gt(n, 0);
        ck_assert_uint_le(n, l->bytes - pos);
        for (uint64_t k = 0; k < n; k++)
            same &= off + k == byte_at(runs, run_n, base, pos + k);
        /* From inside a piece the rest of it. */
        if (n > 1) {
            ck_assert_uint_eq(layout_piece(l, base, pos + n - 1, &off), 1);
            ck_assert_uint_eq(off, byte_at(runs, run_n, base, pos + n - 1));
        }
        pos += n;
    }
    ck_assert(same);
    ck_assert_uint_eq(pos, l->bytes);
}

START_TEST(random_layouts_mean_what_the_words_say)
{
    struct layout_run runs[LAYOUT_RUNS];
    uint64_t table[8];
    struct layout l;

    seed = (uint32_t)_i + 1;
    for (int round = 0; round < 50; round++) {
        uint32_t run_n = 1 + chance(LAYOUT_RUNS), block_n = 1 + chance(8);
        uint64_t pool_off = chance(100), stride, reach;
        bool tabled = chance(2);

        for (uint32_t i = 0; i < run_n; i++) {
            uint64_t len = 1 + chance(60);

            runs[i] = (struct layout_run){chance(500), len, len + chance(40),
                                          1 + chance(20), 0};
        }
        reach = reach_of(runs, run_n);
        stride = (MEM - pool_off - reach) / block_n;
        for (uint32_t b = 0; b < block_n; b++)
            table[b] = chance((uint32_t)(MEM - pool_off - reach));
        ck_assert_int_eq(layout_init(&l, runs, run_n, pool_off, stride,
                                     tabled ? table : NULL, block_n, MEM),
                         OK);
        for (uint32_t b = 0; b < block_n; b++) {
            uint64_t base = pool_off + (tabled ? table[b] : b * stride);

            ck_assert_uint_eq(layout_base(&l, b), base);
            ck_assert_uint_le(base + reach, MEM);
            walk(&l, runs, run_n, base);
        }
        /* One byte less of memory than the farthest block needs. */
        reach += pool_off;
        for (uint32_t b = 0, far = 0; b < block_n; b++) {
            far = (uint32_t)max_u64(far, tabled ? table[b] : b * stride);
            if (b + 1 < block_n)
                continue;
            ck_assert_int_eq(layout_init(&l, runs, run_n, pool_off, stride,
                                         tabled ? table : NULL, block_n,
                                         reach + far),
                             OK);
            ck_assert_int_eq(layout_init(&l, runs, run_n, pool_off, stride,
                                         tabled ? table : NULL, block_n,
                                         reach + far - 1),
                             ERR_BAD_REQUEST);
        }
    }
}
END_TEST

#define TOP UINT64_MAX

static const struct {
    struct layout_run run;
    uint32_t run_n, block_n;
    uint64_t pool_off, stride, mem;
    enum err want;
} bad[] = {
    {{0, 8, 8, 1, 0}, 0, 1, 0, 0, MEM, ERR_BAD_REQUEST},
    {{0, 8, 8, 1, 0}, 1, 0, 0, 0, MEM, ERR_BAD_REQUEST},
    {{0, 8, 8, 1, 0}, LAYOUT_RUNS + 1, 1, 0, 0, MEM, ERR_LIMIT},
    {{0, 8, 9, LAYOUT_PIECES + 1, 0}, 1, 1, 0, 0, MEM, ERR_LIMIT},
    {{0, 8, 9, TOP, 0}, 1, 1, 0, 0, MEM, ERR_LIMIT},
    {{0, 8, 9, 1000, 0}, 2, 1, 0, 0, MEM, ERR_LIMIT},
    {{0, 0, 8, 1, 0}, 1, 1, 0, 0, MEM, ERR_BAD_REQUEST},
    {{0, 8, 8, 0, 0}, 1, 1, 0, 0, MEM, ERR_BAD_REQUEST},
    {{0, 8, 7, 2, 0}, 1, 1, 0, 0, MEM, ERR_BAD_REQUEST},
    {{0, 8, 0, 2, 0}, 1, 1, 0, 0, MEM, ERR_BAD_REQUEST},
    {{0, 8, 8, TOP, 0}, 1, 1, 0, 0, TOP, ERR_BAD_REQUEST},
    {{TOP, 8, 8, 1, 0}, 1, 1, 0, 0, TOP, ERR_BAD_REQUEST},
    {{0, TOP, TOP, 2, 0}, 1, 1, 0, 0, TOP, ERR_BAD_REQUEST},
    {{1, TOP, 0, 1, 0}, 1, 1, 0, 0, TOP, ERR_BAD_REQUEST},
    {{0, TOP, 0, 1, 0}, 2, 1, 0, 0, TOP, ERR_BAD_REQUEST},
    {{0, 1, TOP, 3, 0}, 1, 1, 0, 0, TOP, ERR_BAD_REQUEST},
    {{0, TOP / 2, TOP / 2 + 1, 3, 0}, 1, 1, 0, 0, TOP, ERR_BAD_REQUEST},
    {{0, 8, 8, 1, 0}, 1, 1, TOP, 0, TOP, ERR_BAD_REQUEST},
    {{0, 8, 8, 1, 0}, 1, 3, 0, TOP / 2 + 1, TOP, ERR_BAD_REQUEST},
    {{0, 8, 8, 1, 0},
     1,
     UINT32_MAX,
     0,
     UINT64_C(1) << 33,
     TOP,
     ERR_BAD_REQUEST},
    {{0, 8, 8, 1, 0}, 1, UINT32_MAX, 0, 1, MEM, ERR_BAD_REQUEST},
    {{MEM - 7, 8, 8, 1, 0}, 1, 1, 0, 0, MEM, ERR_BAD_REQUEST},
};

START_TEST(what_does_not_fit_or_overflows_is_refused)
{
    struct layout_run runs[LAYOUT_RUNS + 1];
    struct layout l;

    for (uint32_t i = 0; i <= LAYOUT_RUNS; i++)
        runs[i] = bad[_i].run;
    ck_assert_int_eq(layout_init(&l, runs, bad[_i].run_n, bad[_i].pool_off,
                                 bad[_i].stride, NULL, bad[_i].block_n,
                                 bad[_i].mem),
                     bad[_i].want);
}
END_TEST

START_TEST(a_table_is_checked_entry_by_entry)
{
    struct layout_run run = {0, 8, 0, 1, 0};
    uint64_t table[3] = {0, MEM - 8, 5};
    struct layout l;

    ck_assert_int_eq(layout_init(&l, &run, 1, 0, 0, table, 3, MEM), OK);
    ck_assert_int_eq(layout_init(&l, &run, 1, 1, 0, table, 3, MEM),
                     ERR_BAD_REQUEST);
    table[2] = TOP;
    ck_assert_int_eq(layout_init(&l, &run, 1, 0, 0, table, 3, MEM),
                     ERR_BAD_REQUEST);
    ck_assert_int_eq(layout_init(&l, &run, 1, 0, 0, table, 2, MEM), OK);
}
END_TEST

START_TEST(blocks_that_lie_on_each_other_need_no_room)
{
    struct layout_run run = {0, 8, 0, 1, 0};
    struct layout l;

    ck_assert_int_eq(layout_init(&l, &run, 1, 0, 0, NULL, UINT32_MAX, 8), OK);
    ck_assert_uint_eq(layout_base(&l, UINT32_MAX - 1), 0);
}
END_TEST

START_TEST(pieces_that_touch_are_one)
{
    struct layout_run run = {4, 8, 8, 1024, 0};
    struct layout l;
    uint64_t off;

    ck_assert_int_eq(layout_init(&l, &run, 1, 0, 0, NULL, 1, MEM), OK);
    ck_assert_uint_eq(l.pieces, 1);
    ck_assert_uint_eq(layout_piece(&l, 0, 100, &off), 8 * 1024 - 100);
    ck_assert_uint_eq(off, 104);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("layout");
    TCase *t = tcase_create("layout");

    tcase_add_loop_test(t, random_layouts_mean_what_the_words_say, 0, 20);
    tcase_add_loop_test(t, what_does_not_fit_or_overflows_is_refused, 0,
                        (int)countof(bad));
    tcase_add_test(t, a_table_is_checked_entry_by_entry);
    tcase_add_test(t, blocks_that_lie_on_each_other_need_no_room);
    tcase_add_test(t, pieces_that_touch_are_one);
    suite_add_tcase(s, t);
    return s;
}
