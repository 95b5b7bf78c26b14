/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/logfix.h"

static struct logfix f;

/* 21 blocks of 128 KiB in three full segments, one in the head. */
static void scrubbed(uint64_t rate)
{
    logfix_init(&f, 16, MIB(1), true);
    f.cfg.scrub_rate = rate;
    logfix_open(&f, SEGLOG_FORMAT);
    for (uint32_t i = 0; i < 22; i++) {
        logfix_put(&f, i, 128 << 10);
        logfix_run(&f, f.env.now_ns + 6 * NS_PER_MS);
    }
}

START_TEST(scrub_reads_all_that_is_full_at_its_rate)
{
    uint64_t from, bytes;

    scrubbed(MIB(1));
    logfix_run(&f, f.env.now_ns + 4 * NS_PER_S);
    from = f.env.now_ns;
    bytes = f.metrics.ssd_scrubbed_bytes;
    logfix_run(&f, from + 20 * NS_PER_S);
    bytes = f.metrics.ssd_scrubbed_bytes - bytes;
    ck_assert_uint_le(bytes, 20 * MIB(1) + KIB(256));
    ck_assert_uint_ge(bytes, 19 * MIB(1));
    ck_assert_uint_eq(f.metrics.ssd_corrupt, 0);
    ck_assert_uint_eq(f.map.readers[0] + f.map.readers[1], 0);
    logfix_kill(&f);
    mem_media_free(f.media);
}
END_TEST

/* A byte of a payload, or of a header, in the second segment. */
START_TEST(scrub_finds_what_was_not_read_by_anyone)
{
    uint64_t off, pages = _i ? 1 + 33 : 1 + 33 + 5;

    scrubbed(MIB(16));
    logfix_run(&f, f.env.now_ns + NS_PER_S);
    ck_assert_uint_eq(f.metrics.ssd_corrupt, 0);
    off = seg_off(f.g, 1) + pages * SEG_PAGE;
    f.media->image[0][off + 100] ^= 1;
    logfix_run(&f, f.env.now_ns + NS_PER_S);
    ck_assert_uint_ge(f.metrics.ssd_corrupt, 1);
    ck_assert_uint_le(f.metrics.ssd_corrupt, 8); /* once in each pass */
    ck_assert_int_eq(f.g->state, SEGLOG_OPEN);
    logfix_kill(&f);
    mem_media_free(f.media);
}
END_TEST

START_TEST(scrub_holds_no_segment_and_survives_reclaim_and_errors)
{
    scrubbed(MIB(64));
    f.d.fault =
        (struct disk_mem_fault){.mask = MEM_READS, .nth = 5, .forever = true};
    logfix_run(&f, f.env.now_ns + NS_PER_S);
    ck_assert_uint_gt(f.metrics.ssd_read_errors, 1);
    f.d.fault = (struct disk_mem_fault){0};
    for (uint32_t i = 100; i < 400; i++) {
        logfix_put(&f, i, 128 << 10);
        logfix_run(&f, f.env.now_ns + 6 * NS_PER_MS);
    }
    ck_assert_uint_gt(f.metrics.ssd_reclaimed_segments, 20);
    ck_assert_uint_gt(f.metrics.ssd_scrubbed_bytes, MIB(20));
    ck_assert_uint_eq(f.metrics.ssd_corrupt, 0);
    logfix_kill(&f);
    mem_media_free(f.media);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *su = suite_create("seglog_scrub");
    TCase *t = tcase_create("seglog_scrub");

    tcase_set_timeout(t, 240);
    tcase_add_test(t, scrub_reads_all_that_is_full_at_its_rate);
    tcase_add_loop_test(t, scrub_finds_what_was_not_read_by_anyone, 0, 2);
    tcase_add_test(t, scrub_holds_no_segment_and_survives_reclaim_and_errors);
    suite_add_tcase(su, t);
    return su;
}
