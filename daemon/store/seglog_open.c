/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening a segment log.
 *
 *   SUPERS --blank--> BLANK --all zero--> format: SUPER (A, then B) --> ENDED
 *     |                 |                                                ^
 *     | newer, foreign, | not a store                                    |
 *     v damaged: refuse v                                                |
 *   ENDED             ENDED                                              |
 *     | ours                                                             |
 *     v                                                                  |
 *   HEADS --CLEAN, checkpoint fits--> CHECK --ok-------------> SUPER ----+
 *     |                                 | a page is not as written  ^
 *     +---------------------------------+--> SCAN --> WIPE ---------+
 *
 * Which superblock counts: the valid one with the greater seq. One that a newer
 * pikvd wrote is refused even if the other is ours: it may know things that we
 * would destroy.
 *
 * What is relied on (seglog.h, seglog_reclaim.c):
 *  1. The device's superblock promises generations before they are used
 *     (generation_end): next_generation of a superblock is above all there are.
 *     Of two superblocks the older one's is LOG_GENERATIONS less at most.
 *  2. A header of a segment is written after the one before it, so what is
 *     found of a segment by a scan is a prefix of what was written (and without
 *     damage a header that is missing was the last).
 *  3. A segment that is emptied loses its head page, durably, before the first
 *     block loses its place: a drop of a block without a place needs no tomb,
 *     because no scan will find it.
 *
 * Invariants
 *  1. Nothing is written before the store is known to be ours, or blank, or
 *     its loss was ordered (SEGLOG_FORMAT).
 *  2. After a scan no segment is written where an earlier life ended: behind
 *     its last group may lie a header that was under way at the crash and that
 *     would be the next of this generation; so all LOG segments are FULL.
 *  3. opened(OK) comes after a superblock without CLEAN is durable: whatever
 *     happens next, the checkpoint is not used again.
 *
 * The host gets records and tombs in any order (segments are read side by
 * side) and may get a record twice: a re-insertion, or a checkpoint that
 * turned out to be bad half-way.
 *
 * A RETIRED store is opened as RETIRED, empty; only SEGLOG_FORMAT (ssd
 * replace) makes it a store again. Owner lane; everything ends in
 * host.opened from a tick. */
#include "store/seglog_open.h"

#include <string.h>

#include "base/units.h"

/* ---- the end */

static void end(struct seglog *g, enum err e)
{
    g->open->err = e;
    g->open->step = OPEN_ENDED;
    g->kick = true;
}

#define REFUSE(g, e, ...) end(g, errmsg_set(&(g)->open->msg, e, __VA_ARGS__))

static void tell(struct seglog *g)
{
    struct log_open *o = g->open;
    enum seglog_state to = SEGLOG_OPEN;

    o->step = OPEN_IDLE;
    g->opening = false;
    if (o->err == OK) {
        g->recovered_ms = (env_fresh_ns(g->env) - o->began_ns) / NS_PER_MS;
        if (g->super.flags & SEG_RETIRED)
            to = SEGLOG_RETIRED;
        seglog_state_set(g, to, "");
    } else if (o->err == ERR_IO) {
        seglog_fail(g, SEGLOG_FAILED, "could not be opened");
    } else {
        seglog_state_set(g, SEGLOG_CLOSED, "");
    }
    g->host.opened(g->host.arg, o->err, &o->msg);
}

/* ---- the superblock of this life */

/* What was written after the superblock that counts is known by segments: those
 * of generations that it promised. What has been overwritten since was full. */
static void written_guess(struct seglog *g)
{
    uint64_t promised = g->super.next_generation, first = g->open->generation;
    uint64_t last = 0, n = 0, pages = 0;

    for (uint32_t i = 0; i < g->segments; i++) {
        const struct log_seg *s = &g->segs[i];

        if (s->generation < first || s->generation >= promised)
            continue;
        last = max_u64(last, s->generation);
        pages += max_u64(s->used, 1);
        n++;
    }
    if (n)
        pages += (last + 1 - first - n) * g->segment_pages;
    g->super.written_bytes += pages * SEG_PAGE;
}

static void super_written(struct seglog *g, enum err e)
{
    struct log_open *o = g->open;

    if (!g->opening)
        return;
    if (e != OK) {
        REFUSE(g, ERR_IO, "a superblock could not be written");
    } else if (o->how == SEGLOG_FORMAT && !o->second) {
        o->second = true; /* both are there from the beginning */
        seglog_super_write(g, super_written);
    } else {
        end(g, OK);
    }
}

static void super_begin(struct seglog *g)
{
    g->super.flags = 0;
    g->super.minor = SEG_MINOR;
    g->super.check_generation = 0;
    g->super.check_segment = g->super.check_segments = 0;
    g->super.check_records = 0;
    g->super.check_lanes = 0;
    memset(g->super.writer, 0, sizeof(g->super.writer));
    memcpy(g->super.writer, g->cfg.writer,
           min_u64(strlen(g->cfg.writer), sizeof(g->super.writer) - 1));
    seglog_super_write(g, super_written);
}

/* ---- format */

static void format(struct seglog *g)
{
    struct log_open *o = g->open;
    uint64_t bytes = min_u64(g->cfg.bytes, g->disk->dev_bytes[g->cfg.dev]);

    o->how = SEGLOG_FORMAT;
    o->step = OPEN_SUPER;
    if (seglog_geometry(g, bytes, g->cfg.segment_bytes) != OK) {
        REFUSE(g, ERR_LIMIT,
               "%llu bytes do not make from %u to %u segments of %llu bytes; "
               "fix: another ssd capacity or segment size",
               (unsigned long long)bytes, LOG_SEGMENTS_MIN, g->segs_cap,
               (unsigned long long)g->cfg.segment_bytes);
        return;
    }
    g->super = (struct seg_super){
        .major = SEG_MAJOR,
        .bytes = bytes,
        .segment_bytes = g->segment_bytes,
        .segments = g->segments,
        .formatted_s = g->env->wall_s,
    };
    memcpy(g->super.uuid, o->uuid, sizeof(g->super.uuid));
    g->super_slot = 0;
    /* Checkpoint pages name a generation but no store: another start keeps
     * those of an earlier store on this device apart. */
    g->next_generation = 1 + (g->env->wall_s << 20);
    super_begin(g);
}

/* ---- is there anything? */

static void blank_read(struct log_io *io);

static void blank_step(struct seglog *g)
{
    struct log_open *o = g->open;
    uint64_t left = SEG_DATA - o->off;

    if (left == 0)
        format(g);
    else
        seglog_io(&o->scan[0].io, DISK_READ, o->off, o->buf,
                  min_u64(left, OPEN_PIECE));
}

static void blank_read(struct log_io *io)
{
    struct seglog *g = io->g;
    struct log_open *o = g->open;

    if (!g->opening)
        return;
    if (io->io.err != OK) {
        REFUSE(g, ERR_IO, "its first 2 MiB cannot be read");
        return;
    }
    for (uint64_t i = 0; i < io->io.len; i++)
        if (o->buf[i] != 0) {
            REFUSE(g, ERR_CONFIG,
                   "not a pikvd store, and not blank: byte %llu is %u; fix: "
                   "choose another path, or give it to pikvd with `pikvctl "
                   "ssd replace`, or wipe its first 2 MiB",
                   (unsigned long long)(o->off + i), o->buf[i]);
            return;
        }
    o->off += io->io.len;
    blank_step(g);
}

static void blank_begin(struct seglog *g)
{
    struct log_open *o = g->open;

    o->step = OPEN_BLANK;
    o->off = 0;
    seglog_io_init(g, &o->scan[0].io, blank_read, o);
    blank_step(g);
}

/* ---- the superblocks that are there */

static void refuse_newer(struct seglog *g, const struct seg_super *s)
{
    REFUSE(g, ERR_UNSUPPORTED,
           "written by %s with format %u.%u%s, this pikvd reads up to %u.x; "
           "fix: start that version or a newer one, or `pikvctl ssd replace` "
           "to lose what is stored",
           s->writer, s->major, s->minor,
           s->major == SEG_MAJOR ? " and options unknown here" : "", SEG_MAJOR);
}

/* The store keeps the size it was formatted with: a larger device or capacity
 * changes nothing, a smaller one cuts off what is stored. */
static bool fits(struct seglog *g, const struct seg_super *s)
{
    uint64_t device = g->disk->dev_bytes[g->cfg.dev];
    uint64_t have = min_u64(device, g->cfg.bytes);
    char a[32], b[32];

    if (s->bytes <= have)
        return true;
    REFUSE(g, ERR_CONFIG,
           "the store was formatted with %s, now %s is %s; fix: give it its "
           "size back, or `pikvctl ssd replace` to lose what is stored",
           units_print_bytes(s->bytes, a),
           device < s->bytes ? "the device" : "the ssd capacity",
           units_print_bytes(have, b));
    return false;
}

static void recover(struct seglog *g, const struct seg_super *s)
{
    struct log_open *o = g->open;

    if (!fits(g, s))
        return;
    if (seglog_geometry(g, s->bytes, s->segment_bytes) != OK ||
        g->segments != s->segments) {
        REFUSE(g, ERR_LIMIT,
               "the store has %u segments of %llu bytes, from %u to %u fit; "
               "fix: `pikvctl ssd replace` to lose what is stored",
               s->segments, (unsigned long long)s->segment_bytes,
               LOG_SEGMENTS_MIN, g->segs_cap);
        return;
    }
    g->super = *s;
    g->next_generation = s->next_generation;
    if (s->flags & SEG_RETIRED) {
        end(g, OK);
        return;
    }
    o->step = OPEN_HEADS;
    seglog_scan_heads(g);
}

static void supers_decide(struct seglog *g)
{
    struct log_open *o = g->open;
    struct seg_super s[2] = {{0}};
    enum err e[2];

    for (int i = 0; i < 2; i++) {
        e[i] = o->scan[i].io.io.err;
        if (e[i] == OK)
            e[i] = seg_super_read(o->scan[i].page, &s[i]);
    }
    for (int i = 0; i < 2; i++)
        if (e[i] == ERR_UNSUPPORTED) {
            refuse_newer(g, &s[i]);
            return;
        }
    if (e[0] == OK || e[1] == OK) {
        uint32_t newer = e[0] != OK || (e[1] == OK && s[1].seq > s[0].seq);

        g->super_slot = !newer;
        o->generation = s[newer].next_generation -
                        min_u64(s[newer].next_generation, LOG_GENERATIONS);
        /* The damaged one may have been the newer: what it promised was used.
         * A head page that is gone would not tell. */
        if (e[!newer] != OK)
            s[newer].next_generation += LOG_GENERATIONS;
        recover(g, &s[newer]);
    } else if (e[0] == ERR_CORRUPT || e[1] == ERR_CORRUPT) {
        metric_add(&g->metrics->ssd_corrupt, 1);
        REFUSE(g, ERR_CORRUPT,
               "a pikvd store whose superblocks are both damaged; fix: "
               "`pikvctl ssd replace` to lose what is stored");
    } else if (e[0] == ERR_MISS && e[1] == ERR_MISS) {
        blank_begin(g);
    } else {
        REFUSE(g, ERR_IO, "its superblocks cannot be read");
    }
}

static void super_read(struct log_io *io)
{
    if (io->g->opening && --io->g->open->busy == 0)
        supers_decide(io->g);
}

void seglog_open(struct seglog *g, enum seglog_open_how how,
                 const uint8_t uuid[16])
{
    struct log_open *o = g->open;

    MUST(g->state == SEGLOG_CLOSED && o->step == OPEN_IDLE);
    memcpy(o->uuid, uuid, sizeof(o->uuid));
    o->how = how;
    o->second = o->check_bad = false;
    o->busy = o->free_n = 0;
    o->err = OK;
    o->msg.text[0] = 0;
    o->began_ns = env_fresh_ns(g->env);
    g->recovered_records = 0;
    g->from_checkpoint = false;
    g->opening = true;
    seglog_state_set(g, SEGLOG_OPENING, "");
    if (how == SEGLOG_FORMAT) {
        format(g);
        return;
    }
    o->step = OPEN_SUPERS;
    o->busy = 2;
    for (uint32_t i = 0; i < 2; i++) {
        seglog_io_init(g, &o->scan[i].io, super_read, o);
        seglog_io(&o->scan[i].io, DISK_READ, i ? SEG_SUPER_B : 0,
                  o->scan[i].page, SEG_PAGE);
    }
}

/* Reads that have to wait for others to end are begun here; the rest goes on
 * from completion to completion. */
bool seglog_open_tick(struct seglog *g)
{
    struct log_open *o = g->open;

    if (g->state == SEGLOG_FAILED && o->step != OPEN_ENDED) {
        /* What is in flight may never complete; when it does, it finds that
         * the opening is over. */
        REFUSE(g, ERR_IO, "%s", g->why);
        o->busy = 0;
    }
    if (o->busy > 0)
        return false;
    switch (o->step) {
    case OPEN_IDLE:
    case OPEN_SUPERS:
    case OPEN_BLANK:
    case OPEN_SUPER:
        return false;
    case OPEN_HEADS:
        if (seglog_scan_has_check(g)) {
            o->step = OPEN_CHECK;
            seglog_scan_check(g);
        } else {
            o->step = OPEN_SCAN;
            seglog_scan_groups(g);
        }
        return true;
    case OPEN_CHECK:
        g->from_checkpoint = !o->check_bad;
        o->step = o->check_bad ? OPEN_SCAN : OPEN_SUPER;
        if (o->check_bad) {
            seglog_scan_groups(g);
        } else {
            seglog_scan_none(g);
            super_begin(g);
        }
        return true;
    case OPEN_SCAN:
        written_guess(g);
        o->step = OPEN_WIPE;
        seglog_scan_wipe(g);
        return true;
    case OPEN_WIPE:
        o->step = OPEN_SUPER;
        super_begin(g);
        return true;
    case OPEN_ENDED:
        tell(g);
        return true;
    }
    return false;
}

/* ---- memory */

enum err seglog_open_new(struct seglog *g)
{
    struct log_open *o = mem_reserve(sizeof(*o));

    if (!o)
        return ERR_NO_MEMORY;
    g->open = o;
    o->g = g;
    o->buf = mem_reserve(OPEN_BUF);
    o->free = mem_reserve(g->segs_cap * sizeof(*o->free));
    if (!o->buf || !o->free) {
        seglog_open_free(g);
        return ERR_NO_MEMORY;
    }
    for (uint32_t i = 0; i < OPEN_SCANNERS; i++)
        o->scan[i].page = o->buf + (size_t)i * SEG_PAGE;
    return OK;
}

void seglog_open_free(struct seglog *g)
{
    struct log_open *o = g->open;

    if (!o)
        return;
    mem_release(o->buf, OPEN_BUF);
    mem_release(o->free, g->segs_cap * sizeof(*o->free));
    mem_release(o, sizeof(*o));
    g->open = NULL;
}
