/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base */
#include <check.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "tests/lib/logfix.h"
#include "tests/lib/sure.h"

static struct logfix f;

/* A little of everything: sizes, classes, reclaim, a switch of segments. */
static void scenario(void)
{
    for (uint32_t i = 0; i < 130; i++) {
        struct logreq *q = logfix_make(
            &f, i % 9 == 8 ? SEG_REQ_FLUSH : SEG_REQ_PUT, i, 1, 4096u << i % 7);

        q->r.durable = i % 5 == 0;
        q->r.again = i % 6 == 0;
        logfix_submit(&f, q);
        if (i % 4 == 0)
            logfix_tomb(&f, 500 + i);
        logfix_run(&f, f.env.now_ns + 2 * NS_PER_MS);
    }
    logfix_run(&f, f.env.now_ns + NS_PER_S);
}

/* Which io is to fail next: all of the first ones, every fifth or sixth of
 * those that do the same again; EVERY=1 in the environment: all. */
static uint32_t after(uint32_t nth)
{
    return nth + (nth < 40 || getenv("EVERY") ? 1 : 5 + nth % 2);
}

static void open_for_faults(void)
{
    logfix_init(&f, 8, MIB(1), true);
    f.cfg.hang_ns = 100 * NS_PER_MS;
    f.cfg.discard = true;
    f.d.cfg.spread_ns = NS_PER_MS;
    f.d.cfg.shuffle = true;
    logfix_open(&f, SEGLOG_FORMAT);
    SURE(f.opened_err == OK);
}

static uint32_t count_reqs(bool busy, enum err e)
{
    uint32_t n = 0;

    LIST_FOREACH(p, &f.reqs)
    {
        const struct logreq *q = container_of(p, struct logreq, node);

        n += busy ? q->busy : !q->busy && q->r.err == e;
    }
    return n;
}

static uint32_t all_reqs(void)
{
    uint32_t n = 0;

    LIST_FOREACH(p, &f.reqs)
    n++;
    return n;
}

/* All that said OK is where it was put; nothing is written after a failure. */
static void after_failure(uint64_t writes)
{
    SURE(count_reqs(true, OK) == 0);
    SURE(count_reqs(false, OK) + count_reqs(false, ERR_IO) +
             count_reqs(false, ERR_BUSY) ==
         all_reqs());
    logfix_put(&f, 9999, 4096);
    logfix_durable(&f, 9998, 4096);
    logfix_tomb(&f, 9997);
    logfix_run(&f, f.env.now_ns + NS_PER_S);
    SURE(count_reqs(true, OK) == 0);
    SURE((f.media->writes + f.media->flushes) == writes);
    LIST_FOREACH(p, &f.reqs)
    {
        const struct logreq *q = container_of(p, struct logreq, node);
        uint32_t seg;

        if (q->r.what != SEG_REQ_PUT || q->r.err != OK)
            continue;
        seg = seg_map_segment(&f.map, q->r.place.page);
        if (f.g->segs[seg].generation == q->generation &&
            (f.g->segs[seg].state == SEG_FULL ||
             f.g->segs[seg].state == SEG_HEAD))
            SURE(logfix_is_there(&f, q));
    }
    seglog_check(f.g);
    SURE(seglog_idle(f.g));
}

static const struct {
    uint32_t mask;
    enum err err;
    bool partial, forever;
} kinds[] = {
    {MEM_WRITES, ERR_IO, true, false},
    {MEM_WRITES, ERR_NO_SPACE, false, true},
    {MEM_FLUSHES, ERR_IO, false, false},
};

START_TEST(the_first_failed_write_or_flush_is_the_last)
{
    for (uint32_t nth = 1;; nth = after(nth)) {
        open_for_faults();
        f.d.fault = (struct disk_mem_fault){
            .mask = kinds[_i].mask,
            .nth = nth,
            .err = kinds[_i].err,
            .partial = kinds[_i].partial,
            .forever = kinds[_i].forever,
        };
        scenario();
        if (!f.d.fault.hits)
            break;
        SURE(f.g->state == SEGLOG_READ_ONLY);
        SURE(seg_map_readable(&f.map));
        SURE(!seg_map_writable(&f.map));
        SURE(f.told_n == 1);
        SURE(f.told[0] == SEGLOG_READ_ONLY);
        SURE(f.metrics.ssd_write_errors >= 1);
        ck_assert_str_ne(f.g->why, "");
        after_failure(f.media->writes + f.media->flushes);
        logfix_close(&f);
    }
    SURE(count_reqs(false, OK) == all_reqs());
    logfix_close(&f);
}
END_TEST

START_TEST(a_failed_read_ends_a_segment_and_nothing_else)
{
    for (uint32_t nth = 1;; nth = after(nth)) {
        open_for_faults();
        f.d.fault = (struct disk_mem_fault){.mask = MEM_READS, .nth = nth};
        scenario();
        SURE(f.g->state == SEGLOG_OPEN);
        SURE(f.metrics.ssd_read_errors == f.d.fault.hits);
        SURE(count_reqs(false, OK) == all_reqs());
        if (!f.d.fault.hits)
            break;
        logfix_close(&f);
    }
    SURE(f.media->reads > 3);
    logfix_close(&f);
}
END_TEST

/* Requests whose memory an io in flight holds. */
static uint32_t held_by_disk(void)
{
    uint32_t n = 0;

    LIST_FOREACH(p, &f.d.queue)
    {
        const struct disk_io *io = container_of(p, struct disk_io, node);

        for (uint32_t i = 0; i < io->span_n; i++)
            LIST_FOREACH(o, &f.reqs)
            {
                const struct logreq *q = container_of(o, struct logreq, node);

                if (io->spans[i].p < q->mem ||
                    io->spans[i].p >= q->mem + q->mem_bytes)
                    continue;
                SURE(q->busy);
                n++;
            }
    }
    return n;
}

START_TEST(an_io_that_hangs_makes_the_log_fail)
{
    uint32_t held = 0;

    for (uint32_t nth = 1;; nth = after(nth)) {
        uint64_t writes;

        open_for_faults();
        f.d.fault =
            (struct disk_mem_fault){.mask = MEM_ALL, .nth = nth, .hang = true};
        scenario();
        if (!f.d.fault.hits)
            break;
        SURE(f.g->state == SEGLOG_FAILED);
        SURE(!seg_map_readable(&f.map));
        SURE(f.told_n == 1);
        SURE(f.told[0] == SEGLOG_FAILED);
        SURE(!seglog_idle(f.g));
        held += held_by_disk();
        if (!held_by_disk())
            SURE(count_reqs(true, OK) == 0);
        writes = f.media->writes + f.media->flushes;
        for (uint32_t i = 0; f.d.fault.hits && i < 1; i++)
            writes +=
                disk_mem_next_ns(&f.d) == DEADLINE_NEVER &&
                f.d.disk.in_flight &&
                container_of(f.d.queue.next, struct disk_io, node)->what !=
                    DISK_READ &&
                container_of(f.d.queue.next, struct disk_io, node)->what !=
                    DISK_DISCARD;
        disk_mem_unhang(&f.d);
        logfix_run(&f, f.env.now_ns + NS_PER_S);
        after_failure(writes);
        logfix_close(&f);
    }
    SURE(held > 0);
    logfix_close(&f);
}
END_TEST

START_TEST(a_failure_while_retiring_is_read_only)
{
    for (uint32_t nth = 1;; nth = after(nth)) {
        open_for_faults();
        f.cfg.discard = false;
        scenario();
        f.d.fault = (struct disk_mem_fault){.mask = MEM_WRITES | MEM_FLUSHES,
                                            .nth = nth};
        seglog_retire(f.g);
        logfix_run(&f, f.env.now_ns + NS_PER_S);
        SURE(f.told_n == 2);
        if (!f.d.fault.hits)
            break;
        SURE(f.told[1] == SEGLOG_READ_ONLY);
        logfix_close(&f);
    }
    SURE(f.told[1] == SEGLOG_RETIRED);
    logfix_close(&f);
}
END_TEST

#ifdef PIKV_FAULTS
START_TEST(new_gives_back_everything_when_memory_is_short)
{
    struct seglog_host h = {0};

    logfix_init(&f, 8, MIB(1), true);
    for (uint32_t i = 1;; i++) {
        enum err e;

        fault_arm(i);
        e = seglog_new(&f.g, &f.cfg, &f.d.disk, &f.env, &f.metrics, &f.trace,
                       &f.map, &h);
        if (!fault_hit()) {
            SURE(e == OK);
            break;
        }
        SURE(e == ERR_NO_MEMORY);
        SURE(!f.map.readers);
    }
    fault_arm(0);
    logfix_close(&f);
}
END_TEST
#endif

/* ---- crashes: what was promised is found, what was dropped is not */

enum { KEYS = 40, VERSIONS = 64 };

static struct {
    uint64_t version;       /* given out last */
    uint64_t durable;       /* newest version known to be durable */
    uint64_t dropped;       /* newest version whose tomb is durable */
    struct seg_place place; /* of the durable one */
    uint64_t generation;
} model[KEYS];

static uint64_t found[KEYS], killed[KEYS];

static void crash_ended(struct logfix *x, struct logreq *q)
{
    uint64_t n = q->n, v = q->r.meta.version;

    (void)x;
    if (q->r.err)
        return;
    if (q->r.what == SEG_REQ_TOMB) {
        model[n].dropped = max_u64(model[n].dropped, q->r.tomb.version);
    } else if (q->r.durable && v > model[n].durable) {
        model[n].durable = v;
        model[n].place = q->r.place;
        model[n].generation = q->generation;
    }
}

static void crash_record(struct logfix *x, const struct seg_meta *m,
                         struct seg_place p)
{
    uint64_t n = (m->key.hash.lo - 1) / 77;
    const uint8_t *at = x->media->image[0] + (uint64_t)p.page * SEG_PAGE;

    if (m->version > killed[n] && crc32c(0, at, m->len) == m->crc)
        found[n] = max_u64(found[n], m->version);
}

static void crash_tomb(struct logfix *x, const struct seg_tomb *t)
{
    uint64_t n = (t->hash.lo - 1) / 77;

    (void)x;
    killed[n] = max_u64(killed[n], t->version);
    if (found[n] <= t->version)
        found[n] = 0;
}

static void crash_step(uint64_t r)
{
    uint64_t n = r % KEYS;
    enum seg_req_what what = r >> 8 & 3 ? SEG_REQ_PUT : SEG_REQ_TOMB;
    struct logreq *q;

    if (what == SEG_REQ_TOMB && !model[n].version)
        return;
    if (what == SEG_REQ_PUT)
        model[n].version++;
    q = logfix_make(&f, what, n, model[n].version,
                    (uint32_t)(4096 + (r >> 16) % 150000));
    q->r.durable = r >> 10 & 1;
    logfix_submit(&f, q);
    logfix_run(&f, f.env.now_ns + (r >> 40) % (4 * NS_PER_MS));
}

/* The oldest segment that recovery kept. It may give up older ones, so that
 * there are FREE ones to go on with, as a reclaim would have. */
static uint64_t oldest_kept(void)
{
    uint64_t oldest = UINT64_MAX;

    for (uint32_t i = 0; i < f.g->segments; i++)
        if (f.g->segs[i].state == SEG_FULL)
            oldest = min_u64(oldest, f.g->segs[i].generation);
    return oldest;
}

/* A durable block is gone only when its segment was reclaimed, or dropped. */
static void check_survivors(const struct logfix *before,
                            const struct log_seg *segs)
{
    uint64_t oldest = oldest_kept();

    for (uint32_t n = 0; n < KEYS; n++) {
        uint32_t s;

        if (model[n].dropped)
            SURE_MSG(found[n] == 0 || found[n] > model[n].dropped,
                     "key %u: version %llu, dropped up to %llu", n,
                     (unsigned long long)found[n],
                     (unsigned long long)model[n].dropped);
        if (!model[n].durable || killed[n] >= model[n].durable)
            continue;
        s = seg_map_segment(&before->map, model[n].place.page);
        if (segs[s].generation == model[n].generation &&
            model[n].generation >= oldest &&
            (segs[s].state == SEG_FULL || segs[s].state == SEG_HEAD))
            SURE(found[n] >= model[n].durable);
    }
}

START_TEST(after_a_crash_the_durable_is_there_and_the_dropped_is_not)
{
    enum mem_crash how = _i % 2 ? MEM_CRASH_KILL : MEM_CRASH_POWER;
    struct env rng = {.rng = {(uint64_t)_i * 77 + 1, 5}};
    struct log_seg segs[16];
    struct mem_media *crash;
    struct logfix before;

    memset(model, 0, sizeof(model));
    memset(found, 0, sizeof(found));
    memset(killed, 0, sizeof(killed));
    logfix_init(&f, 10, MIB(1), true);
    f.d.cfg.spread_ns = 4 * NS_PER_MS;
    f.d.cfg.shuffle = true;
    f.d.cfg.seed = (uint64_t)_i;
    f.cfg.discard = _i % 3 == 0;
    f.ended = crash_ended;
    logfix_open(&f, SEGLOG_FORMAT);
    for (uint32_t i = 0; i < 150 + (uint32_t)_i * 5; i++)
        crash_step(env_random(&rng));
    crash =
        mem_media_crash(f.media, how, (uint32_t)_i % 4 * 30, env_random(&rng));
    memcpy(segs, f.g->segs, f.g->segments * sizeof(*segs));
    before.map = f.map;
    logfix_kill(&f);
    mem_media_free(f.media);
    logfix_on(&f, crash, MIB(1));
    f.record = crash_record;
    f.tomb = crash_tomb;
    logfix_open(&f, SEGLOG_OPEN_OR_FORMAT);
    SURE(f.opened_err == OK);
    check_survivors(&before, segs);
    scenario(); /* and it goes on */
    SURE(count_reqs(false, OK) == all_reqs());
    logfix_close(&f);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *su = suite_create("seglog_faults");
    TCase *t = tcase_create("seglog_faults");

    /* Memory that was touched once is used again: these tests make and free
     * the same blocks thousands of times. */
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    tcase_set_timeout(t, 240);
    tcase_add_loop_test(t, the_first_failed_write_or_flush_is_the_last, 0,
                        countof(kinds));
    tcase_add_test(t, a_failed_read_ends_a_segment_and_nothing_else);
    tcase_add_test(t, an_io_that_hangs_makes_the_log_fail);
    tcase_add_test(t, a_failure_while_retiring_is_read_only);
#ifdef PIKV_FAULTS
    tcase_add_test(t, new_gives_back_everything_when_memory_is_short);
#endif
    tcase_add_loop_test(
        t, after_a_crash_the_durable_is_there_and_the_dropped_is_not, 0, 60);
    suite_add_tcase(su, t);
    return su;
}
