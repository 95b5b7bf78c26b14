/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/copy.h"

#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

static const char *const kinds[] = {"avx512", "avx2", "plain"};

enum { CANARY = 0xee, SLACK = 192, BIG = 1 << 20 };

static uint8_t *from, *to;

static void buffers_make(void)
{
    from = malloc(BIG + SLACK);
    to = malloc(BIG + 2 * SLACK);
    ck_assert(from && to);
    for (size_t i = 0; i < BIG + SLACK; i++)
        from[i] = (uint8_t)(i * 131 + i / 251);
}

static void buffers_free(void)
{
    free(from);
    free(to);
}

static bool all_are(const uint8_t *p, size_t n, uint8_t v)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != v)
            return false;
    return true;
}

/* Copies n bytes between two skews, both ways of copying: right bytes, right
 * crc, and not a byte beside the destination. */
static void copy_one(size_t n, size_t from_skew, size_t to_skew)
{
    const uint8_t *src = from + from_skew;
    uint8_t *dst = to + SLACK + to_skew;
    size_t before = SLACK + to_skew, after = 64;

    memset(to, CANARY, before + n + after);
    copy_stream(dst, src, n);
    ck_assert(memcmp(dst, src, n) == 0);
    ck_assert(all_are(to, before, CANARY));
    ck_assert(all_are(dst + n, after, CANARY));

    memset(to, CANARY, before + n + after);
    ck_assert_uint_eq(copy_crc(dst, src, n, 7), crc32c(7, src, n));
    ck_assert(memcmp(dst, src, n) == 0);
    ck_assert(all_are(to, before, CANARY));
    ck_assert(all_are(dst + n, after, CANARY));
}

START_TEST(small_sizes_at_every_alignment)
{
    if (!copy_force(kinds[_i]))
        return;
    for (size_t n = 0; n < 200; n++)
        for (size_t skew = 0; skew < 64; skew += 7)
            copy_one(n, skew, 63 - skew);
}
END_TEST

START_TEST(sizes_around_the_streaming_limits_at_every_alignment)
{
    if (!copy_force(kinds[_i]))
        return;
    for (size_t limit = 4096; limit <= 65536; limit *= 4)
        for (size_t n = limit - 2; n < limit + 3; n++)
            for (size_t skew = 0; skew < 64; skew++) {
                copy_one(n, skew, 0);
                copy_one(n, 0, skew);
            }
}
END_TEST

START_TEST(large_and_odd_sizes)
{
    const size_t sizes[] = {20000, 65536, 65537, 100003, BIG - 1, BIG};

    if (!copy_force(kinds[_i]))
        return;
    for (size_t i = 0; i < countof(sizes); i++) {
        copy_one(sizes[i], 0, 0);
        copy_one(sizes[i], 3, 0);
        copy_one(sizes[i], 0, 61);
    }
}
END_TEST

START_TEST(crc_continues_over_pieces)
{
    uint32_t crc = 0;

    for (size_t off = 0; off < BIG; off += 70001)
        crc = copy_crc(to, from + off, (size_t)min_u64(70001, BIG - off), crc);
    ck_assert_uint_eq(crc, crc32c(0, from, BIG));
}
END_TEST

/* A race by construction, so not for ThreadSanitizer. */
#ifdef __SANITIZE_THREAD__
enum { RACES = false };
#else
enum { RACES = true };
#endif

static bool stop_scribbling;

/* The flag is what the test is about to set; the bytes race on purpose, one
 * relaxed store each, as another process would write them. */
static void *scribbler(void *arg)
{
    uint8_t *p = arg, v = 0;

    while (!__atomic_load_n(&stop_scribbling, __ATOMIC_RELAXED)) {
        v++;
        for (size_t i = 0; i < 65536; i += 61)
            __atomic_store_n(&p[i], v, __ATOMIC_RELAXED);
    }
    return NULL;
}

START_TEST(crc_is_of_the_stored_bytes_while_the_source_changes)
{
    pthread_t t;

    if (!RACES || !copy_force(kinds[_i]))
        return;
    stop_scribbling = false;
    ck_assert_int_eq(pthread_create(&t, NULL, scribbler, from), 0);
    for (int i = 0; i < 2000; i++) {
        uint32_t crc = copy_crc(to, from, 65536, 0);

        ck_assert_uint_eq(crc, crc32c(0, to, 65536));
    }
    __atomic_store_n(&stop_scribbling, true, __ATOMIC_RELAXED);
    ck_assert_int_eq(pthread_join(t, NULL), 0);
}
END_TEST

START_TEST(force_takes_known_kinds_only)
{
    ck_assert(copy_force("plain"));
    ck_assert_str_eq(copy_kind(), "plain");
    ck_assert(!copy_force("mmx"));
    ck_assert_str_eq(copy_kind(), "plain");
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("copy");
    TCase *t = tcase_create("copy");

    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, buffers_make, buffers_free);
    tcase_add_loop_test(t, small_sizes_at_every_alignment, 0, 3);
    tcase_add_loop_test(t, sizes_around_the_streaming_limits_at_every_alignment,
                        0, 3);
    tcase_add_loop_test(t, large_and_odd_sizes, 0, 3);
    tcase_add_test(t, crc_continues_over_pieces);
    tcase_add_test(t, force_takes_known_kinds_only);
    tcase_add_loop_test(t, crc_is_of_the_stored_bytes_while_the_source_changes,
                        0, 3);
    suite_add_tcase(s, t);
    return s;
}
