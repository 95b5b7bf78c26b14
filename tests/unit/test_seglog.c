/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/logfix.h"

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

/* ---- what is written */

START_TEST(a_block_lies_where_its_place_says)
{
    static const uint32_t lens[] = {1,      4096,    4097,         65536,
                                    100000, 1 << 20, (3 << 20) + 5};
    struct logreq *q[countof(lens)];

    open_log(16, MIB(8));
    for (uint32_t i = 0; i < countof(lens); i++)
        q[i] = logfix_put(&f, i, lens[i]);
    logfix_settle(&f);
    for (uint32_t i = 0; i < countof(lens); i++)
        stored(q[i]);
    ck_assert_uint_eq(f.metrics.ssd_groups, countof(lens) - 1);
    close_log();
}
END_TEST

START_TEST(blocks_of_one_size_share_a_header)
{
    struct logreq *q[SEG_RECORDS];
    uint32_t header;

    open_log(16, MIB(4));
    for (uint32_t i = 0; i < SEG_RECORDS; i++)
        q[i] = logfix_put(&f, i, 65536 - i);
    logfix_run(&f, f.env.now_ns + 2 * NS_PER_MS); /* full: no linger */
    header = seg_header_page(q[0]->r.place, 65536);
    for (uint32_t i = 0; i < SEG_RECORDS; i++) {
        stored(q[i]);
        ck_assert_uint_eq(seg_idx(q[i]->r.place.tag), i);
        ck_assert_uint_eq(seg_header_page(q[i]->r.place, 65536 - i), header);
    }
    ck_assert_uint_eq(f.metrics.ssd_groups, 1);
    close_log();
}
END_TEST

START_TEST(sizes_that_alternate_still_make_full_groups)
{
    open_log(16, MIB(8));
    for (uint32_t i = 0; i < 2 * SEG_RECORDS; i++)
        logfix_put(&f, i, i % 2 ? 8192 : 16384);
    logfix_settle(&f);
    ck_assert_uint_eq(f.metrics.ssd_groups, 2);
    close_log();
}
END_TEST

START_TEST(a_group_has_group_bytes_at_most)
{
    logfix_init(&f, 16, MIB(8), true);
    f.cfg.group_bytes = KIB(256);
    logfix_open(&f, SEGLOG_FORMAT);
    for (uint32_t i = 0; i < 8; i++)
        logfix_put(&f, i, 65536);
    logfix_put(&f, 8, 1 << 20); /* larger than a group: alone */
    logfix_settle(&f);
    ck_assert_uint_eq(f.metrics.ssd_groups, 3);
    close_log();
}
END_TEST

START_TEST(a_lone_block_waits_for_company_as_long_as_it_may)
{
    struct logreq *q;
    uint64_t t;

    open_log(16, MIB(4));
    t = f.env.now_ns;
    q = logfix_put(&f, 1, 4096);
    logfix_run(&f, t + 4 * NS_PER_MS);
    ck_assert_uint_eq(q->dones, 0);
    ck_assert_uint_eq(seglog_next_ns(f.g), t + 5 * NS_PER_MS);
    logfix_run(&f, t + 6 * NS_PER_MS);
    stored(q);
    close_log();
}
END_TEST

START_TEST(ios_are_large_and_several_are_in_flight)
{
    uint32_t most = 0, mib = 0;

    open_log(16, MIB(32));
    logfix_put(&f, 1, 12 << 20);
    for (uint32_t i = 0; i < 1000; i++) {
        logfix_turn(&f);
        most = (uint32_t)max_u64(most, f.d.disk.in_flight);
        f.env.now_ns += 10 * NS_PER_US;
    }
    for (uint32_t i = 0; i < f.media->event_n; i++)
        mib += f.media->events[i].len == MIB(1);
    ck_assert_uint_eq(mib, 12);
    ck_assert_uint_eq(most, LOG_IOS);
    close_log();
}
END_TEST

START_TEST(what_is_larger_than_a_segment_is_refused)
{
    struct logreq *q;

    open_log(16, MIB(1));
    q = logfix_put(&f, 1, (1 << 20) - 4096);
    ck_assert_uint_eq(q->dones, 0);
    logfix_settle(&f);
    ended(q, ERR_LIMIT);
    q = logfix_put(&f, 3, (1 << 20) - 8192);
    logfix_settle(&f);
    stored(q);
    close_log();
}
END_TEST

START_TEST(a_header_holds_as_many_records_as_fit)
{
    static uint8_t parent[1024];
    struct logreq *q[SEG_RECORDS];

    open_log(16, MIB(4));
    for (uint32_t i = 0; i < SEG_RECORDS; i++) {
        q[i] = logfix_make(&f, SEG_REQ_PUT, i, 1, 65536);
        q[i]->r.meta.parent = parent;
        q[i]->r.meta.parent_len = sizeof(parent);
        logfix_submit(&f, q[i]);
    }
    logfix_settle(&f);
    for (uint32_t i = 0; i < SEG_RECORDS; i++)
        stored(q[i]);
    ck_assert_uint_eq(f.metrics.ssd_groups, (SEG_RECORDS + 2) / 3);
    close_log();
}
END_TEST

/* ---- order on the device */

static const struct mem_event *write_at(uint64_t off, uint64_t len)
{
    for (uint32_t i = f.media->event_n; i-- > 0;) {
        const struct mem_event *e = &f.media->events[i];

        if (e->what == DISK_WRITE && e->off == off && (!len || e->len == len))
            return e;
    }
    ck_abort_msg("no write at %llu", (unsigned long long)off);
    return NULL;
}

/* Every write within the payload had completed before the header began. */
static void payload_precedes(const struct seg_group *h,
                             const struct mem_event *header)
{
    uint64_t from = (uint64_t)(h->page + 1) * SEG_PAGE;
    uint64_t to = (uint64_t)(h->page + h->pages) * SEG_PAGE, sum = 0;

    for (uint32_t i = 0; i < f.media->event_n; i++) {
        const struct mem_event *e = &f.media->events[i];

        if (e->what != DISK_WRITE || e->off < from || e->off >= to)
            continue;
        ck_assert_uint_lt(e->done, header->began);
        sum += e->len;
    }
    ck_assert_uint_eq(sum, to - from);
}

/* Walks the segment on the device; returns the number of its groups. */
static uint32_t walk(uint32_t segment)
{
    const uint8_t *image = f.media->image[0];
    uint64_t off = seg_off(f.g, segment), prior;
    uint32_t at = (uint32_t)(off / SEG_PAGE) + 1, n = 0;
    struct seg_group h;

    prior = write_at(off, SEG_PAGE)->done;
    while (n < 1000 &&
           !seg_group_read(image + (uint64_t)at * SEG_PAGE, f.g->super.uuid,
                           f.g->segs[segment].generation, at, n, &h)) {
        const struct mem_event *e = write_at((uint64_t)at * SEG_PAGE, SEG_PAGE);

        ck_assert_uint_gt(e->began, prior);
        payload_precedes(&h, e);
        prior = e->done;
        at += h.pages;
        n++;
    }
    return n;
}

START_TEST(headers_follow_their_payloads_and_each_other)
{
    uint32_t groups = 0;
    uint64_t last = 0;

    logfix_init(&f, 16, MIB(1), true);
    f.d.cfg.spread_ns = 3 * NS_PER_MS;
    f.d.cfg.shuffle = true;
    f.d.cfg.seed = (uint64_t)_i;
    logfix_open(&f, SEGLOG_FORMAT);
    for (uint32_t i = 0; i < 120; i++) {
        struct logreq *q = logfix_make(&f, SEG_REQ_PUT, i, 1, 4096u << i % 6);

        q->r.durable = _i % 2 && i % 7 == 0;
        logfix_submit(&f, q);
        if (_i % 2 && i % 5 == 0)
            logfix_tomb(&f, 1000 + i);
        logfix_run(&f, f.env.now_ns + NS_PER_MS * (i % 4));
    }
    logfix_settle(&f);
    for (uint32_t i = 0; i < f.g->segments; i++)
        if (f.g->segs[i].generation)
            groups += walk(i);
    ck_assert_uint_eq(groups, f.metrics.ssd_groups);
    for (uint64_t gen = 1; gen < f.g->next_generation; gen++)
        for (uint32_t i = 0; i < f.g->segments; i++)
            if (f.g->segs[i].generation == gen) {
                const struct mem_event *e = write_at(seg_off(f.g, i), SEG_PAGE);

                /* The head before is durable when this one is overwritten. */
                ck_assert(!last || mem_media_flushed(f.media, last, e->began));
                last = e->done;
            }
    close_log();
}
END_TEST

START_TEST(durable_requests_end_after_a_flush_of_their_header)
{
    struct logreq *q, *t, *plain;

    open_log(16, MIB(4));
    plain = logfix_put(&f, 1, 4096);
    q = logfix_durable(&f, 2, 8192);
    t = logfix_tomb(&f, 3);
    logfix_run(&f, f.env.now_ns + 2 * NS_PER_MS); /* no linger */
    stored(q);
    ended(t, OK);
    ck_assert_uint_eq(plain->dones, 0);
    ck_assert(mem_media_flushed(
        f.media,
        write_at((uint64_t)seg_header_page(q->r.place, 8192) * SEG_PAGE,
                 SEG_PAGE)
            ->done,
        q->ended_tick));
    ck_assert(
        mem_media_flushed(f.media, walk(f.g->head) ? 0 : 1, t->ended_tick));
    logfix_settle(&f);
    stored(plain);
    ck_assert_uint_eq(f.metrics.ssd_tombs, 1);
    close_log();
}
END_TEST

START_TEST(one_flush_serves_all_that_wait)
{
    struct logreq *q[SEG_RECORDS * 3];
    uint64_t before;

    open_log(16, MIB(8));
    logfix_durable(&f, 1000, 4096);
    logfix_settle(&f);
    before = f.metrics.ssd_flushes;
    for (uint32_t i = 0; i < countof(q); i++)
        q[i] = logfix_durable(&f, i, 4096);
    logfix_settle(&f);
    for (uint32_t i = 0; i < countof(q); i++)
        stored(q[i]);
    ck_assert_uint_le(f.metrics.ssd_flushes - before, 3);
    close_log();
}
END_TEST

START_TEST(a_flush_request_makes_durable_what_was_done)
{
    struct logreq *q, *flush;
    struct mem_media *crash;

    open_log(16, MIB(4));
    q = logfix_put(&f, 1, 10000);
    logfix_settle(&f);
    crash = mem_media_crash(f.media, MEM_CRASH_POWER, 0, 1);
    ck_assert_int_ne(memcmp(crash->image[0] + q->r.place.page * (uint64_t)4096,
                            q->mem, q->mem_bytes),
                     0);
    mem_media_free(crash);
    flush = logfix_make(&f, SEG_REQ_FLUSH, 0, 0, 0);
    logfix_submit(&f, flush);
    logfix_settle(&f);
    ended(flush, OK);
    crash = mem_media_crash(f.media, MEM_CRASH_POWER, 0, 1);
    ck_assert_int_eq(memcmp(crash->image[0] + q->r.place.page * (uint64_t)4096,
                            q->mem, q->mem_bytes),
                     0);
    mem_media_free(crash);
    close_log();
}
END_TEST

START_TEST(a_tomb_overtakes_no_record_that_it_kills)
{
    struct logreq *q, *newer, *other, *t;

    open_log(16, MIB(4));
    q = logfix_put(&f, 1, 4096);
    newer = logfix_make(&f, SEG_REQ_PUT, 1, 2, 4096);
    other = logfix_put(&f, 2, 4096);
    t = logfix_tomb(&f, 1);
    logfix_submit(&f, newer);
    ck_assert_uint_eq(q->dones, 0); /* never inside */
    logfix_settle(&f);
    ended(q, ERR_MISS);
    ended(t, OK);
    stored(newer);
    stored(other);
    close_log();
}
END_TEST

/* ---- budget */

enum { FEED = 64 };

/* Keeps FEED blocks of 64 KiB queued. */
static uint64_t fed;
static void feed_ended(struct logfix *x, struct logreq *q)
{
    (void)x;
    ck_assert_int_eq(q->r.err, OK);
}

static void feed(void)
{
    uint32_t busy = 0;

    LIST_FOREACH_SAFE(n, &f.reqs)
    {
        struct logreq *q = container_of(n, struct logreq, node);

        if (q->busy)
            busy++;
        else
            logfix_forget(q);
    }
    for (; busy < FEED; busy++)
        logfix_put(&f, fed++, 65536);
}

START_TEST(an_hour_at_the_budget_stays_within_it)
{
    const uint64_t rate = 768 << 10, burst = MIB(4), s = 3600;
    uint64_t begin, written;

    logfix_init(&f, 32, MIB(4), false);
    f.cfg.write_rate = rate;
    f.cfg.write_burst = burst;
    f.check = false;
    f.ended = feed_ended;
    logfix_open(&f, SEGLOG_FORMAT);
    begin = f.env.now_ns;
    while (f.env.now_ns < begin + s * NS_PER_S) {
        feed();
        logfix_run(&f, f.env.now_ns + NS_PER_S);
        ck_assert_uint_le(
            f.g->super.written_bytes,
            (burst + rate * ((f.env.now_ns - begin) / NS_PER_S + 1)) * 102 /
                100);
    }
    written = f.g->super.written_bytes;
    ck_assert_uint_eq(written, f.media->written_bytes[0]);
    ck_assert_uint_eq(written, f.metrics.ssd_written_bytes);
    ck_assert_uint_le(written, rate * s * 102 / 100);
    ck_assert_uint_ge(written, rate * s * 98 / 100); /* and is used */
    /* Write amplification of 64 KiB blocks. */
    ck_assert_uint_le(written * 100, f.metrics.ssd_payload_bytes * 102);
    ck_assert_uint_gt(f.metrics.ssd_reclaimed_segments, 100);
    seglog_check(f.g);
    logfix_kill(&f);
    mem_media_free(f.media);
}
END_TEST

START_TEST(binding_says_that_the_budget_holds_writes_back)
{
    struct logreq *q;

    logfix_init(&f, 16, MIB(4), true);
    f.cfg.write_rate = MIB(1);
    f.cfg.write_burst = MIB(2);
    logfix_open(&f, SEGLOG_FORMAT);
    logfix_put(&f, 1, 1 << 20);
    logfix_run(&f, f.env.now_ns + 10 * NS_PER_MS);
    ck_assert_uint_eq(f.map.binding, 0);
    q = logfix_put(&f, 2, (2 << 20) - 65536);
    logfix_run(&f, f.env.now_ns + 20 * NS_PER_MS);
    ck_assert_uint_eq(f.map.binding, 1);
    ck_assert_uint_eq(f.metrics.ssd_binding, 1);
    ck_assert_uint_eq(q->dones, 0);
    logfix_run(&f, f.env.now_ns + NS_PER_S);
    stored(q);
    ck_assert_uint_eq(f.map.binding, 1); /* the bucket is empty still */
    logfix_run(&f, f.env.now_ns + NS_PER_S);
    logfix_turn(&f);
    ck_assert_uint_eq(f.map.binding, 0);
    close_log();
}
END_TEST

START_TEST(binding_says_that_the_device_is_slow)
{
    logfix_init(&f, 16, MIB(8), true);
    f.d.cfg.ns_per_mib = NS_PER_S / 10;
    logfix_open(&f, SEGLOG_FORMAT);
    for (uint32_t i = 0; i < 40; i++)
        logfix_put(&f, i, 1 << 20);
    logfix_run(&f, f.env.now_ns + 100 * NS_PER_MS);
    ck_assert_uint_eq(f.map.binding, 0);
    logfix_run(&f, f.env.now_ns + 300 * NS_PER_MS);
    logfix_turn(&f);
    ck_assert_uint_eq(f.map.binding, 1);
    logfix_settle(&f);
    logfix_turn(&f);
    ck_assert_uint_eq(f.map.binding, 0);
    close_log();
}
END_TEST

START_TEST(durable_requests_and_tombs_do_not_wait_for_tokens)
{
    struct logreq *q, *t, *plain;

    logfix_init(&f, 16, MIB(4), true);
    f.cfg.write_rate = KIB(64);
    f.cfg.write_burst = KIB(64);
    logfix_open(&f, SEGLOG_FORMAT);
    q = logfix_durable(&f, 1, 1 << 20);
    t = logfix_tomb(&f, 9);
    plain = logfix_put(&f, 2, 4096);
    logfix_run(&f, f.env.now_ns + 100 * NS_PER_MS);
    stored(q);
    ended(t, OK);
    ck_assert_uint_eq(plain->dones, 0); /* it pays the debt: 16 s */
    logfix_run(&f, f.env.now_ns + 14 * NS_PER_S);
    ck_assert_uint_eq(plain->dones, 0);
    logfix_run(&f, f.env.now_ns + 4 * NS_PER_S);
    stored(plain);
    close_log();
}
END_TEST

START_TEST(a_store_keeps_the_segments_it_was_formatted_with)
{
    struct mem_media *m;
    struct logreq *q;

    open_log(16, MIB(1));
    q = logfix_put(&f, 1, 100000);
    logfix_settle(&f);
    stored(q);
    m = f.media;
    logfix_kill(&f);
    logfix_on(&f, m, MIB(2));
    logfix_open(&f, SEGLOG_OPEN_OR_FORMAT);
    ck_assert_int_eq(f.opened_err, OK);
    ck_assert_uint_eq(f.g->segment_bytes, MIB(1));
    ck_assert_uint_eq(f.g->segments, 16);
    ck_assert_uint_eq(f.g->recovered_records, 1);
    q = logfix_put(&f, 2, MIB(1) + 4096);
    logfix_settle(&f);
    ended(q, ERR_LIMIT);
    close_log();
}
END_TEST

/* ---- reads of others */

START_TEST(a_lane_whose_read_hangs_ends_the_device)
{
    struct logreq *q;

    open_log(16, MIB(1));
    ck_assert_uint_eq(f.map.hang_ns, f.cfg.hang_ns);
    q = logfix_put(&f, 1, 4096);
    __atomic_store_n(&f.map.suspect, 1, __ATOMIC_RELEASE);
    logfix_settle(&f);
    ended(q, ERR_IO);
    ck_assert_int_eq(f.g->state, SEGLOG_FAILED);
    ck_assert_int_eq(f.told[0], SEGLOG_FAILED);
    ck_assert_str_eq(f.g->why, "a read did not complete in time");
    close_log();
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *su = suite_create("seglog");
    TCase *t = tcase_create("seglog");

    tcase_set_timeout(t, 240);
    tcase_add_test(t, a_block_lies_where_its_place_says);
    tcase_add_test(t, blocks_of_one_size_share_a_header);
    tcase_add_test(t, sizes_that_alternate_still_make_full_groups);
    tcase_add_test(t, a_group_has_group_bytes_at_most);
    tcase_add_test(t, a_lone_block_waits_for_company_as_long_as_it_may);
    tcase_add_test(t, ios_are_large_and_several_are_in_flight);
    tcase_add_test(t, what_is_larger_than_a_segment_is_refused);
    tcase_add_test(t, a_header_holds_as_many_records_as_fit);
    tcase_add_loop_test(t, headers_follow_their_payloads_and_each_other, 0, 8);
    tcase_add_test(t, durable_requests_end_after_a_flush_of_their_header);
    tcase_add_test(t, one_flush_serves_all_that_wait);
    tcase_add_test(t, a_flush_request_makes_durable_what_was_done);
    tcase_add_test(t, a_tomb_overtakes_no_record_that_it_kills);
    tcase_add_test(t, an_hour_at_the_budget_stays_within_it);
    tcase_add_test(t, binding_says_that_the_budget_holds_writes_back);
    tcase_add_test(t, binding_says_that_the_device_is_slow);
    tcase_add_test(t, durable_requests_and_tombs_do_not_wait_for_tokens);
    tcase_add_test(t, a_store_keeps_the_segments_it_was_formatted_with);
    tcase_add_test(t, a_lane_whose_read_hangs_ends_the_device);
    suite_add_tcase(su, t);
    return su;
}
