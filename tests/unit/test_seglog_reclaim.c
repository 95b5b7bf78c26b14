/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/logfix.h"
#include "tests/lib/sure.h"

static struct logfix f;

static void open_log(uint32_t segments, uint64_t segment_bytes)
{
    logfix_init(&f, segments, segment_bytes, true);
    logfix_open(&f, SEGLOG_OPEN_OR_FORMAT);
    ck_assert_int_eq(f.opened_err, OK);
}

static void close_log(void)
{
    logfix_settle(&f);
    logfix_close(&f);
}

static void ended(const struct logreq *q, enum err e)
{
    ck_assert_uint_eq(q->dones, 1);
    ck_assert_int_eq(q->r.err, e);
}

static void stored(const struct logreq *q)
{
    ended(q, OK);
    ck_assert(logfix_is_there(&f, q));
}

/* ---- reclaim */

/* Writes blocks of 128 KiB (7 in a segment of 1 MiB) until so many segments
 * are reclaimed or being reclaimed. */
static void fill_segments(uint32_t blocks)
{
    static uint64_t n = 1 << 20;

    for (uint32_t i = 0; i < blocks; i++) {
        logfix_put(&f, n++, 128 << 10);
        logfix_run(&f, f.env.now_ns + 6 * NS_PER_MS);
    }
}

START_TEST(segments_are_reclaimed_in_the_order_they_were_written)
{
    uint64_t last = 0;

    open_log(8, MIB(1));
    fill_segments(200);
    ck_assert_uint_gt(f.metrics.ssd_reclaimed_segments, 15);
    ck_assert_uint_gt(f.shown_n, 7 * 15);
    /* Each header once, page after page; a new segment each 7th. */
    for (uint32_t i = 0; i < f.shown_n / 7 * 7; i++) {
        if (i % 7)
            ck_assert_uint_eq(f.shown_segment[i], f.shown_segment[i - 1]);
        if (i % 7)
            ck_assert_uint_eq(f.shown_page[i], f.shown_page[i - 1] + 33);
    }
    for (uint32_t i = 0; i < f.g->segments; i++)
        last = max_u64(last, f.g->segs[i].generation);
    ck_assert_uint_eq(last, f.g->next_generation - 1);
    close_log();
}
END_TEST

START_TEST(free_segments_are_reused_in_the_order_of_their_lives)
{
    open_log(12, MIB(1));
    fill_segments(7 * 40);
    for (uint32_t i = 0; i < f.g->segments; i++)
        ck_assert_uint_ge(f.g->segs[i].generation + 12, f.g->next_generation);
    close_log();
}
END_TEST

START_TEST(a_segment_is_not_free_while_somebody_reads_it)
{
    uint32_t page;
    uint64_t n;

    open_log(8, MIB(1));
    f.hold = true;
    while (!f.held)
        fill_segments(1);
    page = f.held->first_page;
    seg_read_begin(&f.map, page);
    f.hold = false;
    f.held = NULL;
    seglog_reclaimed(f.g);
    n = f.metrics.ssd_reclaimed_segments;
    logfix_run(&f, f.env.now_ns + NS_PER_S);
    ck_assert_uint_eq(f.metrics.ssd_reclaimed_segments, n);
    ck_assert_uint_eq(f.g->segs[seg_map_segment(&f.map, page)].state,
                      SEG_EMPTYING);
    seg_read_end(&f.map, page);
    logfix_run(&f, f.env.now_ns + NS_PER_MS);
    ck_assert_uint_gt(f.metrics.ssd_reclaimed_segments, n);
    close_log();
}
END_TEST

START_TEST(without_answers_ordinary_writes_leave_the_reserve)
{
    struct logreq *q, *again, *t, *d;

    open_log(8, MIB(1));
    f.hold = true;
    fill_segments(60);
    ck_assert_ptr_nonnull(f.held);
    q = logfix_put(&f, 1, 900 << 10);
    logfix_run(&f, f.env.now_ns + NS_PER_S);
    ck_assert_uint_eq(q->dones, 0);
    ck_assert_uint_eq(f.g->free_n, LOG_RESERVE);
    ck_assert_uint_eq(f.map.binding, 1);
    again = logfix_make(&f, SEG_REQ_PUT, 2, 1, 900 << 10);
    again->r.again = true;
    logfix_submit(&f, again);
    t = logfix_tomb(&f, 3);
    d = logfix_durable(&f, 4, 8192);
    logfix_run(&f, f.env.now_ns + NS_PER_S);
    stored(again);
    ended(t, OK);
    stored(d);
    ck_assert_uint_eq(q->dones, 0);
    ck_assert_uint_eq(f.metrics.ssd_again_bytes, 900 << 10);
    f.hold = false;
    f.held = NULL;
    seglog_reclaimed(f.g);
    logfix_run(&f, f.env.now_ns + NS_PER_S);
    stored(q);
    close_log();
}
END_TEST

START_TEST(no_segment_is_written_again_beyond_its_part)
{
    uint64_t sum = 0, most = 0;

    logfix_init(&f, 8, MIB(1), true);
    f.take_pct = 100;
    logfix_open(&f, SEGLOG_FORMAT);
    fill_segments(100);
    for (uint32_t i = 0; i < f.shown_n; i++) {
        sum = i && f.shown_segment[i] == f.shown_segment[i - 1] ? sum : 0;
        sum += f.shown_again[i];
        most = max_u64(most, sum);
        ck_assert_uint_gt(f.shown_again[i], 0);
    }
    ck_assert_uint_le(most, MIB(1) / 10);
    ck_assert_uint_ge(most, MIB(1) / 10 - MIB(1) / 50);
    close_log();
}
END_TEST

START_TEST(what_is_not_taken_is_there_for_the_next_header)
{
    open_log(8, MIB(1));
    fill_segments(60);
    ck_assert_uint_gt(f.shown_n, 7);
    for (uint32_t i = 1; i < 7; i++)
        ck_assert_uint_gt(f.shown_again[i], f.shown_again[i - 1]);
    ck_assert_uint_lt(f.shown_again[7], f.shown_again[6]);
    close_log();
}
END_TEST

/* The third header of the oldest segment gets a bit flipped (0), or is what an
 * io error hides (1), or is blank (2): then nobody knows that it was one. */
START_TEST(a_damaged_header_costs_its_group_and_not_the_segment)
{
    static const uint32_t groups[] = {6, 6, 2};
    uint32_t oldest = 0, shown = 0;
    uint8_t *header;

    open_log(8, MIB(1));
    fill_segments(20);
    SURE(f.shown_n == 0);
    for (uint32_t i = 0; i < f.g->segments; i++)
        if (f.g->segs[i].generation == 1)
            oldest = i;
    header = f.media->image[0] + seg_off(f.g, oldest) + (1 + 2 * 33) * 4096;
    if (_i == 0)
        header[300] ^= 1;
    else if (_i == 1)
        f.d.fault = (struct disk_mem_fault){.mask = MEM_READS, .nth = 3};
    else
        memset(header, 0, SEG_PAGE);
    while (f.metrics.ssd_reclaimed_segments < 1)
        fill_segments(1);
    while (shown < f.shown_n && f.shown_segment[shown] == oldest)
        shown++;
    ck_assert_uint_eq(shown, groups[_i]);
    if (_i < 2)
        ck_assert_uint_eq(f.shown_page[2] - f.shown_page[1], 66);
    ck_assert_uint_eq(f.metrics.ssd_corrupt, _i == 0);
    ck_assert_uint_eq(f.metrics.ssd_read_errors, _i == 1);
    ck_assert_int_eq(f.g->state, SEGLOG_OPEN);
    close_log();
}
END_TEST

START_TEST(discard_comes_after_a_flush_and_before_reuse)
{
    logfix_init(&f, 8, MIB(1), true);
    f.cfg.discard = true;
    logfix_open(&f, SEGLOG_FORMAT);
    fill_segments(150);
    ck_assert_uint_gt(f.media->discards, 10);
    for (uint32_t i = 0, last = 0; i < f.media->event_n; i++) {
        const struct mem_event *e = &f.media->events[i];

        if (e->what != DISK_DISCARD)
            continue;
        ck_assert(mem_media_flushed(
            f.media, last ? f.media->events[last].done : 0, e->began));
        ck_assert_uint_eq(e->len, MIB(1));
        last = i;
    }
    close_log();
}
END_TEST

START_TEST(a_device_that_cannot_discard_is_used_without)
{
    logfix_init(&f, 8, MIB(1), true);
    f.cfg.discard = true;
    f.d.fault = (struct disk_mem_fault){
        .mask = MEM_DISCARDS, .nth = 1, .forever = true};
    logfix_open(&f, SEGLOG_FORMAT);
    fill_segments(100);
    ck_assert_uint_eq(f.d.fault.hits, 1);
    ck_assert_uint_gt(f.metrics.ssd_reclaimed_segments, 5);
    ck_assert_uint_eq(f.metrics.ssd_write_errors, 0);
    close_log();
}
END_TEST

START_TEST(groups_shrink_to_what_is_left_of_a_segment)
{
    logfix_init(&f, 16, MIB(8), true);
    f.cfg.group_bytes = MIB(3);
    logfix_open(&f, SEGLOG_FORMAT);
    for (uint32_t i = 0; i < 60; i++)
        logfix_put(&f, i, 1 << 20);
    logfix_settle(&f);
    /* 7 of 1 MiB and the headers: a group of 3, one of 3, one of 1. */
    for (uint32_t i = 0; i < f.g->segments; i++)
        if (f.g->segs[i].state == SEG_FULL)
            ck_assert_uint_eq(f.g->segs[i].used, 1 + 3 + 7 * 256);
    close_log();
}
END_TEST

/* ---- generations */

static uint64_t promised(const struct mem_media *m)
{
    uint64_t best = 0;

    for (uint32_t i = 0; i < 2; i++) {
        struct seg_super s;

        if (seg_super_read(m->stable[0] + i * SEG_SUPER_B, &s) == OK)
            best = max_u64(best, s.next_generation);
    }
    return best;
}

START_TEST(no_generation_is_used_before_it_is_promised)
{
    struct logreq *q;

    open_log(8, MIB(1));
    f.g->next_generation = f.g->generation_end;
    q = logfix_durable(&f, 1, 4096);
    while (!q->dones) {
        logfix_run(&f, f.env.now_ns + 10 * NS_PER_US);
        ck_assert_uint_ge(promised(f.media), f.g->next_generation);
    }
    stored(q);
    close_log();
}
END_TEST

START_TEST(generations_are_promised_on_the_device_before_their_use)
{
    uint64_t n = 0;

    logfix_init(&f, 16, MIB(1), true);
    logfix_open(&f, SEGLOG_FORMAT);
    f.check = false;
    while (f.g->next_generation < LOG_GENERATIONS * 2 + 100) {
        struct logreq *q = logfix_put(&f, n++, 1000 << 10);

        while (!q->dones) {
            logfix_run(&f, f.env.now_ns + 100 * NS_PER_US);
            ck_assert_uint_ge(promised(f.media), f.g->next_generation);
        }
        ck_assert_int_eq(q->r.err, OK);
        logfix_forget(q);
        mem_media_forget(f.media);
    }
    ck_assert_uint_gt(promised(f.media), LOG_GENERATIONS * 2);
    close_log();
}
END_TEST

/* ---- retiring, states */

START_TEST(retiring_shows_everything_and_ends_in_an_empty_store)
{
    struct logreq *q, *late;
    struct seg_super s;

    open_log(8, MIB(1));
    fill_segments(20);
    q = logfix_put(&f, 1, 4096);
    f.shown_n = 0;
    seglog_retire(f.g);
    ck_assert_uint_eq(f.told_n, 0); /* never inside */
    ck_assert(seg_map_readable(&f.map));
    late = logfix_durable(&f, 2, 4096);
    logfix_settle(&f);
    ended(q, ERR_BUSY);
    ended(late, ERR_BUSY);
    ck_assert_uint_eq(f.shown_n, 20);
    for (uint32_t i = 0; i < f.shown_n; i++)
        ck_assert_uint_eq(f.shown_again[i], 0);
    ck_assert_uint_eq(f.told_n, 2);
    ck_assert_int_eq(f.told[0], SEGLOG_RETIRING);
    ck_assert_int_eq(f.told[1], SEGLOG_RETIRED);
    ck_assert(!seg_map_readable(&f.map));
    ck_assert_uint_eq(f.g->free_n, f.g->segments);
    ck_assert_int_eq(
        seg_super_read(f.media->stable[0] + (f.g->super_slot ? 0 : SEG_SUPER_B),
                       &s),
        OK);
    ck_assert_uint_eq(s.flags, SEG_RETIRED);
    close_log();
}
END_TEST

START_TEST(retiring_waits_for_groups_in_flight)
{
    struct logreq *q;

    open_log(8, MIB(1));
    q = logfix_durable(&f, 1, 512 << 10);
    while (!f.d.disk.in_flight || f.g->head == SEG_NONE)
        logfix_run(&f, f.env.now_ns + 10 * NS_PER_US);
    ck_assert_uint_eq(f.g->queued_bytes, 0);
    seglog_retire(f.g);
    logfix_settle(&f);
    ended(q, OK);
    ck_assert_uint_eq(f.shown_n, 1);
    ck_assert_int_eq(f.g->state, SEGLOG_RETIRED);
    close_log();
}
END_TEST

START_TEST(a_log_that_is_not_open_refuses_in_a_later_tick)
{
    struct logreq *q;
    struct seglog_info info;

    logfix_init(&f, 8, MIB(1), true);
    logfix_open(&f, SEGLOG_FORMAT);
    seglog_retire(f.g);
    logfix_settle(&f);
    q = logfix_tomb(&f, 1);
    ck_assert_uint_eq(q->dones, 0);
    ck_assert_uint_eq(seglog_next_ns(f.g), 0);
    logfix_settle(&f);
    ended(q, ERR_BUSY);
    seglog_info(f.g, &info);
    ck_assert_int_eq(info.state, SEGLOG_RETIRED);
    ck_assert_uint_eq(f.metrics.ssd_devices_down, 1);
    close_log();
    ck_assert_uint_eq(f.metrics.ssd_devices_down, 0);
    ck_assert_uint_eq(f.metrics.ssd_capacity_bytes, 0);
    ck_assert_uint_eq(f.metrics.ssd_free_bytes, 0);
}
END_TEST

START_TEST(info_and_gauges_agree)
{
    struct seglog_info info;

    open_log(16, MIB(1));
    logfix_put(&f, 1, 100000);
    logfix_turn(&f);
    seglog_info(f.g, &info);
    ck_assert_uint_eq(info.queued, 25 * 4096);
    ck_assert_uint_eq(f.metrics.ssd_queued_bytes, info.queued);
    logfix_settle(&f);
    seglog_info(f.g, &info);
    ck_assert_uint_eq(info.segments, 16);
    ck_assert_uint_eq(info.free_segments, 15);
    ck_assert_uint_eq(info.bytes, MIB(16));
    ck_assert_uint_eq(info.payload_bytes, 100000);
    ck_assert_uint_eq(info.written_bytes, f.media->written_bytes[0]);
    ck_assert_uint_eq(f.metrics.ssd_capacity_bytes, MIB(16));
    ck_assert_uint_eq(f.metrics.ssd_free_bytes, MIB(15));
    ck_assert_uint_eq(f.metrics.ssd_write_seconds.n, 1);
    close_log();
}
END_TEST

START_TEST(a_device_too_small_is_refused)
{
    struct seglog *g;
    struct seglog_host h = {0};

    logfix_init(&f, 8, MIB(1), false);
    f.cfg.bytes -= 4096;
    ck_assert_int_eq(seglog_new(&g, &f.cfg, &f.d.disk, &f.env, &f.metrics,
                                &f.trace, &f.map, &h),
                     ERR_LIMIT);
    f.cfg.bytes += 4096;
    f.cfg.segment_bytes = KIB(512);
    ck_assert_int_eq(seglog_new(&g, &f.cfg, &f.d.disk, &f.env, &f.metrics,
                                &f.trace, &f.map, &h),
                     ERR_LIMIT);
    logfix_close(&f);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *su = suite_create("seglog_reclaim");
    TCase *t = tcase_create("seglog_reclaim");

    tcase_set_timeout(t, 240);
    tcase_add_test(t, segments_are_reclaimed_in_the_order_they_were_written);
    tcase_add_test(t, free_segments_are_reused_in_the_order_of_their_lives);
    tcase_add_test(t, a_segment_is_not_free_while_somebody_reads_it);
    tcase_add_test(t, without_answers_ordinary_writes_leave_the_reserve);
    tcase_add_test(t, no_segment_is_written_again_beyond_its_part);
    tcase_add_test(t, what_is_not_taken_is_there_for_the_next_header);
    tcase_add_loop_test(t, a_damaged_header_costs_its_group_and_not_the_segment,
                        0, 3);
    tcase_add_test(t, discard_comes_after_a_flush_and_before_reuse);
    tcase_add_test(t, a_device_that_cannot_discard_is_used_without);
    tcase_add_test(t, groups_shrink_to_what_is_left_of_a_segment);
    tcase_add_test(t, no_generation_is_used_before_it_is_promised);
    tcase_add_test(t, generations_are_promised_on_the_device_before_their_use);
    tcase_add_test(t, retiring_shows_everything_and_ends_in_an_empty_store);
    tcase_add_test(t, retiring_waits_for_groups_in_flight);
    tcase_add_test(t, a_log_that_is_not_open_refuses_in_a_later_tick);
    tcase_add_test(t, info_and_gauges_agree);
    tcase_add_test(t, a_device_too_small_is_refused);
    suite_add_tcase(su, t);
    return su;
}
