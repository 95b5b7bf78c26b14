/* SPDX-License-Identifier: Apache-2.0
 *
 * Emptying segments, the oldest first, one at a time.
 *
 *   IDLE --few are FREE--> WIPE --flush--> WIPED --+
 *                           +----------------------+
 *                           v
 *                          NEXT <------------------------------+
 *                           | read the header at page          |
 *                          READ --tombs: go on-----------------+
 *                           | records: host.reclaim            |
 *                         SHOWN --seglog_reclaimed: go on------+
 *                           (end of the segment, or nothing of this life)
 *                         DRAIN --no reader--> [FLUSH --> DISCARD] --> FREE
 *
 * Its head page is overwritten with zeros and flushed before the first block
 * loses its place. From then on no scan finds the segment, so that a block that
 * is in memory but has no place any more needs no tomb when it is dropped: it
 * could come back after a crash otherwise.
 *
 * A segment ends where the table says, or at the first page where none of this
 * life was written. Behind a header that cannot be read or believed the next
 * one is looked for (as seglog_scan.c does, RECLAIM_SEEK pages at once); the
 * blocks of the damaged one keep their places and are found out when they are
 * read (their crc). Tombs are not shown: all that they kill lies in segments
 * that were emptied before.
 *
 * Re-insertion: of each header again_pct of its bytes; what the lanes did not
 * take of it is added to the next one's, so that a whole segment gives at most
 * again_pct of itself.
 *
 * The FLUSH before a DISCARD keeps that order for other kinds of segments too,
 * which are not wiped: they lose their contents in the order of their lives.
 *
 * Retiring empties all segments with nothing re-inserted, after the groups in
 * flight have been written; then a superblock says RETIRED.
 *
 * A failure stops all this where it is: an EMPTYING segment stays so. */
#include <string.h>

#include "store/seglog_impl.h"

static_assert(RECLAIM_SEEK * SEG_PAGE <= DISK_IO_BYTES, "one io");

static bool is_wanted(const struct seglog *g)
{
    if (g->failed || g->closing)
        return false;
    if (g->state == SEGLOG_RETIRING)
        return true;
    return g->state == SEGLOG_OPEN &&
           g->free_n < max_u64(LOG_RESERVE + 1, g->segments / 32);
}

/* The oldest FULL segment, or SEG_NONE; also if groups are in flight in it. */
static uint32_t oldest_full(const struct seglog *g)
{
    uint32_t best = SEG_NONE;

    for (uint32_t i = 0; i < g->segments; i++) {
        if (g->segs[i].state != SEG_FULL)
            continue;
        if (best == SEG_NONE ||
            g->segs[i].generation < g->segs[best].generation)
            best = i;
    }
    if (best == SEG_NONE || g->segs[best].groups)
        return SEG_NONE;
    return best;
}

static void retired(struct seglog *g, enum err e)
{
    if (e == OK && g->state == SEGLOG_RETIRING)
        seglog_state_set(g, SEGLOG_RETIRED, "retired by the operator");
}

static void retire_end(struct seglog *g)
{
    if (g->super_busy)
        return;
    if (g->free_n < g->segments || !seglog_write_idle(g) ||
        g->super.flags & SEG_RETIRED)
        return;
    g->super.flags = SEG_RETIRED;
    g->super.check_generation = 0;
    g->super.check_segments = 0;
    g->super.check_records = 0;
    seglog_super_write(g, retired);
}

static bool begin(struct seglog *g)
{
    struct log_reclaim *c = &g->reclaim;
    uint32_t i;

    if (!is_wanted(g))
        return false;
    if (g->state == SEGLOG_RETIRING && !seglog_head_end(g))
        return false;
    i = oldest_full(g);
    if (i == SEG_NONE) {
        if (g->state == SEGLOG_RETIRING)
            retire_end(g);
        return false;
    }
    seglog_seg_set(g, i, SEG_EMPTYING);
    c->segment = i;
    c->page = 1;
    c->seq = 0;
    c->allowed = c->taken = 0;
    c->seek = false;
    /* Of the other kinds no block has a place in them. */
    if (g->segs[i].kind != SEG_LOG) {
        c->step = RECLAIM_DRAIN;
        return true;
    }
    memset(c->buf, 0, SEG_PAGE);
    c->step = RECLAIM_WIPE;
    seglog_io(&c->io, DISK_WRITE, seg_off(g, i), c->buf, SEG_PAGE);
    return false;
}

/* ---- headers */

static bool read_next(struct seglog *g)
{
    struct log_reclaim *c = &g->reclaim;
    uint32_t used = g->segs[c->segment].used;

    if (g->failed || g->closing)
        return false;
    if (c->page >= used) {
        c->step = RECLAIM_DRAIN;
        return true;
    }
    c->step = RECLAIM_READ;
    c->pages = c->seek ? (uint32_t)min_u64(RECLAIM_SEEK, used - c->page) : 1;
    seglog_io(&c->io, DISK_READ,
              seg_off(g, c->segment) + (uint64_t)c->page * SEG_PAGE, c->buf,
              (uint64_t)c->pages * SEG_PAGE);
    return false;
}

static void show(struct seglog *g)
{
    struct log_reclaim *c = &g->reclaim;

    if (g->state == SEGLOG_OPEN)
        c->allowed +=
            (uint64_t)c->group.pages * SEG_PAGE * g->cfg.again_pct / 100;
    c->again_left = c->allowed > c->taken ? c->allowed - c->taken : 0;
    c->shown = (struct seg_reclaim){
        .dev = g->cfg.dev,
        .segment = c->segment,
        .page = c->buf,
        .first_page = c->group.page + 1,
        .again_bytes = c->again_left,
        .again_left = &c->again_left,
    };
    c->step = RECLAIM_SHOWN;
    g->host.reclaim(g->host.arg, &c->shown);
}

static void next_header(struct seglog *g)
{
    struct log_reclaim *c = &g->reclaim;

    c->page += c->group.pages;
    c->seq++;
    c->step = RECLAIM_NEXT;
    g->kick = true;
}

void seglog_reclaimed(struct seglog *g)
{
    struct log_reclaim *c = &g->reclaim;

    if (g->state == SEGLOG_CLOSED) /* It was closed meanwhile. */
        return;
    MUST(c->step == RECLAIM_SHOWN);
    MUST(c->again_left <= c->shown.again_bytes);
    c->taken += c->shown.again_bytes - c->again_left;
    next_header(g);
}

/* Is page i of what was read a header of this life? */
static enum err look(const struct seglog *g, uint32_t i, struct seg_group *h)
{
    const struct log_reclaim *c = &g->reclaim;
    uint32_t at = c->page + i;
    enum err e;

    if (c->io.io.err)
        return c->io.io.err;
    e = seg_group_read(c->buf + (size_t)i * SEG_PAGE, g->super.uuid,
                       g->segs[c->segment].generation,
                       seg_first_page(g, c->segment) + at, UINT32_MAX, h);
    if (e == OK && (h->pages > g->segment_pages - at ||
                    (c->seek ? h->seq < c->seq : h->seq != c->seq)))
        e = ERR_CORRUPT;
    return e;
}

/* The header is the first page of the buffer and lies at c->page. */
static void header_take(struct seglog *g)
{
    struct log_reclaim *c = &g->reclaim;

    c->seek = false;
    c->seq = c->group.seq;
    if (c->group.kind == SEG_GROUP_TOMBS)
        next_header(g);
    else
        show(g);
}

static void seek(struct seglog *g)
{
    struct log_reclaim *c = &g->reclaim;

    for (uint32_t i = 0; i < c->pages; i++) {
        if (look(g, i, &c->group) != OK)
            continue;
        memmove(c->buf, c->buf + (size_t)i * SEG_PAGE, SEG_PAGE);
        c->page += i;
        header_take(g);
        return;
    }
    c->page += c->pages;
    c->step = RECLAIM_NEXT;
}

static void header_read(struct seglog *g)
{
    struct log_reclaim *c = &g->reclaim;
    enum err e;

    g->kick = true;
    if (c->seek) {
        seek(g);
        return;
    }
    e = look(g, 0, &c->group);
    if (e == OK) {
        header_take(g);
        return;
    }
    if (e == ERR_CORRUPT)
        metric_add(&g->metrics->ssd_corrupt, 1);
    c->seek = true;
    c->page++;
    c->step = e == ERR_MISS ? RECLAIM_DRAIN : RECLAIM_NEXT;
}

/* ---- the end of a segment */

static void set_free(struct seglog *g)
{
    g->reclaim.step = RECLAIM_IDLE;
    seglog_seg_set(g, g->reclaim.segment, SEG_FREE);
    metric_add(&g->metrics->ssd_reclaimed_segments, 1);
    g->kick = true;
}

/* After the write of the head page, and after its flush. A failure of either
 * has ended the log's writing. */
static void wiped(struct seglog *g)
{
    struct log_reclaim *c = &g->reclaim;
    bool flush = c->step == RECLAIM_WIPE;

    if (g->failed)
        return;
    c->step = flush ? RECLAIM_WIPED : RECLAIM_NEXT;
    if (flush)
        seglog_io(&c->io, DISK_FLUSH, 0, NULL, 0);
}

static bool drain(struct seglog *g)
{
    struct log_reclaim *c = &g->reclaim;
    const uint32_t *readers = &g->map->readers[c->segment];

    if (g->failed)
        return false;
    if (__atomic_load_n(readers, __ATOMIC_ACQUIRE)) {
        c->poll_ns = g->env->now_ns + LOG_POLL_US * NS_PER_US;
        return false;
    }
    if (!g->cfg.discard) {
        set_free(g);
        return true;
    }
    c->step = RECLAIM_FLUSH;
    seglog_io(&c->io, DISK_FLUSH, 0, NULL, 0);
    return false;
}

static void flushed(struct seglog *g)
{
    struct log_reclaim *c = &g->reclaim;

    if (g->failed)
        return;
    c->step = RECLAIM_DISCARD;
    seglog_io(&c->io, DISK_DISCARD, seg_off(g, c->segment), NULL,
              g->segment_bytes);
}

/* A device that cannot discard is no worse a device. */
static void discarded(struct seglog *g, enum err e)
{
    if (e)
        g->cfg.discard = false;
    set_free(g);
}

/* ---- the machine */

static void reclaim_done(struct log_io *io)
{
    struct seglog *g = io->g;

    switch (g->reclaim.step) {
    case RECLAIM_WIPE:
    case RECLAIM_WIPED:
        wiped(g);
        break;
    case RECLAIM_READ:
        header_read(g);
        break;
    case RECLAIM_FLUSH:
        flushed(g);
        break;
    case RECLAIM_DISCARD:
        discarded(g, io->io.err);
        break;
    case RECLAIM_IDLE:
    case RECLAIM_SHOWN:
    case RECLAIM_NEXT:
    case RECLAIM_DRAIN:
        MUST(!"an io of reclaim in a step without one");
    }
    seglog_reclaim_tick(g);
}

void seglog_reclaim_init(struct seglog *g)
{
    seglog_io_init(g, &g->reclaim.io, reclaim_done, NULL);
}

/* One edge; false: it waits. */
static bool move(struct seglog *g)
{
    switch (g->reclaim.step) {
    case RECLAIM_IDLE:
        return begin(g);
    case RECLAIM_NEXT:
        return read_next(g);
    case RECLAIM_DRAIN:
        return drain(g);
    case RECLAIM_WIPE:
    case RECLAIM_WIPED:
    case RECLAIM_READ:
    case RECLAIM_SHOWN:
    case RECLAIM_FLUSH:
    case RECLAIM_DISCARD:
        break;
    }
    return false;
}

bool seglog_reclaim_tick(struct seglog *g)
{
    if (g->opening)
        return false;
    while (move(g))
        ;
    return false;
}

uint64_t seglog_reclaim_next_ns(const struct seglog *g)
{
    if (g->reclaim.step != RECLAIM_DRAIN || g->failed || g->closing)
        return DEADLINE_NEVER;
    return g->reclaim.poll_ns;
}

void seglog_retire(struct seglog *g)
{
    if (g->state != SEGLOG_OPEN || g->closing)
        return;
    seglog_state_set(g, SEGLOG_RETIRING, "");
    seglog_write_refuse(g, ERR_BUSY);
}
