/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: store base
 *
 * The online miss-ratio curve against exact stack distances, computed here by
 * moving blocks through an LRU stack: the same without sampling, within two
 * points with it, for blocks of one size and of many; memory stays bounded. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "store/mrc.h"

enum { BLOCKS = 20000, ACCESSES = 200000, POINTS = 8, PAGE = 4096 };

/* A ck_assert that costs nothing when it holds, for loops. */
#define EXPECT(cond)                                                           \
    do {                                                                       \
        if (!(cond))                                                           \
            ck_abort_msg("%s", #cond);                                         \
    } while (0)

/* An LRU stack with exact distances: a Fenwick tree over all accesses. */
struct exact {
    uint64_t tree[ACCESSES + 2];
    uint32_t last[BLOCKS]; /* access + 1 */
    uint32_t now;
    uint64_t total, accesses;
    uint64_t need_pages[ACCESSES]; /* of each reuse */
    uint32_t reuses;
};

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static void tree_add(struct exact *x, uint32_t i, uint64_t by)
{
    for (; i <= ACCESSES; i += i & -i)
        x->tree[i] += by;
}

static void exact_access(struct exact *x, uint32_t id, uint32_t pages)
{
    uint64_t older = 0;

    x->now++;
    x->accesses++;
    if (x->last[id]) {
        for (uint32_t i = x->last[id]; i; i &= i - 1)
            older += x->tree[i];
        x->need_pages[x->reuses++] = x->total - older + pages;
        tree_add(x, x->last[id], -(uint64_t)pages);
        x->total -= pages;
    }
    x->last[id] = x->now;
    tree_add(x, x->now, pages);
    x->total += pages;
}

static double exact_ratio(const struct exact *x, uint64_t pages)
{
    uint64_t hits = 0;

    for (uint32_t i = 0; i < x->reuses; i++)
        hits += x->need_pages[i] <= pages;
    return (double)hits / (double)x->accesses;
}

/* Zipf of exponent about 1 over BLOCKS: a uniform draw in the logarithm. */
static uint32_t zipf(uint64_t *rng)
{
    uint64_t r;

    *rng = *rng * UINT64_C(6364136223846793005) + 1442695040888963407;
    r = mix(*rng);
    return (uint32_t)((r >> 32) % (1 + (r & UINT32_MAX) % BLOCKS));
}

static uint32_t pages_of(uint32_t id, bool many)
{
    return many ? 1 + (uint32_t)(mix(id) % 64) : 16;
}

static double curve_ratio(const struct mrc *m, uint64_t pages)
{
    struct mrc_point p = {.bytes = pages * PAGE};

    mrc_curve(m, &p, 1);
    return (double)p.hits / (double)p.accesses;
}

/* The largest difference of the curves at eight sizes. */
static double worst_error(uint32_t samples_max, bool many)
{
    struct exact *x = calloc(1, sizeof(*x));
    struct mrc m;
    uint64_t rng = 5;
    double worst = 0;

    ck_assert_ptr_nonnull(x);
    ck_assert_int_eq(mrc_init(&m, samples_max, BLOCKS * UINT64_C(64) * PAGE),
                     OK);
    for (uint32_t i = 0; i < ACCESSES; i++) {
        uint32_t id = zipf(&rng);

        exact_access(x, id, pages_of(id, many));
        mrc_access(&m, mix(id), pages_of(id, many));
        EXPECT(m.samples_n <= samples_max);
    }
    for (uint32_t i = 0; i < POINTS; i++) {
        uint64_t pages = (BLOCKS * UINT64_C(32)) >> i;
        double diff = curve_ratio(&m, pages) - exact_ratio(x, pages);

        diff = diff < 0 ? -diff : diff;
        worst = diff > worst ? diff : worst;
    }
    ck_assert(m.accesses == ACCESSES);
    mrc_fini(&m);
    free(x);
    return worst;
}

START_TEST(without_sampling_the_curve_is_exact_but_for_its_bins)
{
    ck_assert_double_le(worst_error(BLOCKS, false), 0.004);
    ck_assert_double_le(worst_error(BLOCKS, true), 0.004);
}
END_TEST

START_TEST(a_bounded_sample_is_within_two_points)
{
    ck_assert_double_le(worst_error(8192, _i), 0.02);
    ck_assert_double_le(worst_error(2048, _i), 0.03);
}
END_TEST

START_TEST(a_cyclic_scan_hits_only_where_all_of_it_fits)
{
    struct mrc m;

    ck_assert_int_eq(mrc_init(&m, 1000, 4000 * PAGE), OK);
    for (uint32_t i = 0; i < 100000; i++)
        mrc_access(&m, mix(i % 500), 2);
    ck_assert_double_le(curve_ratio(&m, 900), 0);
    ck_assert_double_ge(curve_ratio(&m, 1100), 0.99);
    ck_assert_double_le(curve_ratio(&m, 0), 0);
    mrc_fini(&m);
}
END_TEST

/* New blocks for ever: the old ones are forgotten before the rate falls. */
START_TEST(the_rate_stays_while_old_blocks_lie_beyond_the_largest_size)
{
    struct mrc m;
    uint64_t settled;

    ck_assert_int_eq(mrc_init(&m, 1000, 2000 * PAGE), OK);
    for (uint32_t i = 0; i < 20000; i++)
        mrc_access(&m, mix(i), 1);
    settled = m.threshold;
    for (uint32_t i = 20000; i < 400000; i++)
        mrc_access(&m, mix(i), 1);
    ck_assert_uint_eq(m.threshold, settled);
    ck_assert_uint_gt(settled, UINT64_C(1) << 30);
    ck_assert_double_le(curve_ratio(&m, 2000), 0.02);
    mrc_fini(&m);
}
END_TEST

START_TEST(a_faded_curve_follows_what_is_now)
{
    struct mrc m;

    ck_assert_int_eq(mrc_init(&m, 1000, 4000 * PAGE), OK);
    for (uint32_t i = 0; i < 10000; i++)
        mrc_access(&m, mix(i), 1);
    for (uint32_t i = 0; i < 10; i++)
        mrc_fade(&m);
    for (uint32_t i = 0; i < 10000; i++)
        mrc_access(&m, mix(i % 10), 1);
    ck_assert_double_ge(curve_ratio(&m, 100), 0.97);
    mrc_fini(&m);
}
END_TEST

START_TEST(no_memory_is_an_error_and_fini_accepts_zeros)
{
    struct mrc m;

    fault_arm(1);
    ck_assert_int_eq(mrc_init(&m, 1000, PAGE), ERR_NO_MEMORY);
    fault_arm(0);
    mrc_fini(&m);
    mrc_fini(&m);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("mrc");
    TCase *tc = tcase_create("curve");

    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, without_sampling_the_curve_is_exact_but_for_its_bins);
    tcase_add_loop_test(tc, a_bounded_sample_is_within_two_points, 0, 2);
    tcase_add_test(tc, a_cyclic_scan_hits_only_where_all_of_it_fits);
    tcase_add_test(tc,
                   the_rate_stays_while_old_blocks_lie_beyond_the_largest_size);
    tcase_add_test(tc, a_faded_curve_follows_what_is_now);
    tcase_add_test(tc, no_memory_is_an_error_and_fini_accepts_zeros);
    suite_add_tcase(s, tc);
    return s;
}
