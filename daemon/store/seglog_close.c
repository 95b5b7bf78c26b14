/* SPDX-License-Identifier: Apache-2.0
 *
 * Closing a segment log in order, so that the next open need not scan.
 *
 *   DRAIN --idle--> FILL --all entries written--> FLUSH --> SUPER --> ENDED
 *     |              | no free segment left                  (CLEAN)     ^
 *     |              v                                                   |
 *     +--no checkpoint, READ_ONLY, FAILED, RETIRED ----------------------+
 *
 * The checkpoint goes to FREE segments, oldest first, with generations that
 * follow each other; they need not be neighbours. Its superblock is written
 * after a flush: a CLEAN superblock on the device means that the checkpoint and
 * all it speaks of are there too. Without one the device's superblock stays
 * what it was since the open, not CLEAN, and the next open scans.
 *
 * Invariants: 1. Nothing is written by anyone else from FILL on. 2. Only blocks
 * in FULL segments are listed: one that was being emptied has lost its head
 * page and is free at the next open.
 *
 * Called from seglog_tick on the owner lane. The lanes must go on answering
 * host.reclaim until host.closed. A log that hangs (FAILED) ends at once, with
 * ios in flight: then it must not be freed. */
#include "store/seglog_open.h"

#include <string.h>

void seglog_close(struct seglog *g, bool checkpoint)
{
    struct log_open *o = g->open;

    MUST(!g->closing);
    g->closing = true;
    g->kick = true;
    o->checkpoint = checkpoint;
    o->close = CLOSE_DRAIN;
    o->waiting = false;
    o->err = OK;
    o->free_n = 0;
}

static void end(struct seglog *g, enum err e)
{
    g->open->err = e;
    g->open->close = CLOSE_ENDED;
    g->kick = true;
}

static void tell(struct seglog *g)
{
    g->open->close = CLOSE_NONE;
    g->closing = false;
    g->reclaim.step = RECLAIM_IDLE;
    if (g->state != SEGLOG_FAILED)
        seglog_state_set(g, SEGLOG_CLOSED, "");
    g->host.closed(g->host.arg, g->open->err);
}

/* ---- superblock */

static void super_written(struct seglog *g, enum err e)
{
    if (g->open->close == CLOSE_SUPER)
        end(g, e == OK ? OK : ERR_IO);
}

static void super_begin(struct seglog *g)
{
    struct log_open *o = g->open;

    o->close = CLOSE_SUPER;
    g->super.flags = SEG_CLEAN;
    g->super.check_segment = o->free[0];
    g->super.check_generation = g->segs[o->free[0]].generation;
    g->super.check_segments = o->free_n;
    g->super.check_records = o->check_n;
    g->super.check_lanes = g->cfg.lanes;
    seglog_super_write(g, super_written);
}

/* ---- checkpoint */

static void io_done(struct log_io *io)
{
    struct seglog *g = io->g;
    struct log_open *o = g->open;

    o->waiting = false;
    g->kick = true;
    if (o->close != CLOSE_FILL && o->close != CLOSE_FLUSH)
        return;
    if (io->io.err != OK)
        end(g, ERR_IO);
    else if (o->close == CLOSE_FLUSH)
        super_begin(g);
}

static void io_begin(struct seglog *g, enum disk_what what, uint32_t page,
                     uint32_t n)
{
    struct log_open *o = g->open;

    o->waiting = true;
    seglog_io_init(g, &o->close_io, io_done, o);
    seglog_io(&o->close_io, what, (uint64_t)page * SEG_PAGE, n ? o->buf : NULL,
              (uint64_t)n * SEG_PAGE);
}

/* The next entry that can be found again. */
static bool entry_next(struct seglog *g, struct seg_check *c)
{
    while (g->host.check_next(g->host.arg, c))
        if (g->segs[seg_map_segment(g->map, c->page)].state == SEG_FULL)
            return true;
    return false;
}

static void page_fill(struct seglog *g, uint8_t *page, uint64_t generation,
                      uint32_t at)
{
    struct log_open *o = g->open;
    struct seg_check c;
    uint32_t n = 0;

    memset(page, 0, SEG_PAGE);
    while (n < SEG_CHECK_RECORDS && (o->more = entry_next(g, &c))) {
        c.knows = SEG_CHECK_ROUTE;
        memcpy(page + sizeof(struct seg_check_page) + n * sizeof(c), &c,
               sizeof(c));
        n++;
    }
    o->check_n += n;
    seg_check_seal(page, generation, at, n);
}

/* Takes the next segment; its head page becomes the first of buf. */
static bool segment_begin(struct seglog *g)
{
    struct log_open *o = g->open;
    uint32_t i = seglog_free_oldest(g);
    struct seg_head h = {.segment = i, .kind = SEG_CHECKPOINT};

    if (i == SEG_NONE) {
        end(g, OK); /* not CLEAN: the next open scans */
        return false;
    }
    h.generation = seglog_generation(g);
    if (h.generation == 0)
        return false;
    memcpy(h.uuid, g->super.uuid, sizeof(h.uuid));
    seg_head_seal(&h, o->buf);
    seglog_seg_set(g, i, SEG_FULL);
    g->segs[i].generation = h.generation;
    g->segs[i].kind = SEG_CHECKPOINT;
    g->segs[i].used = 1;
    o->free[o->free_n++] = i;
    o->fill_at = seg_first_page(g, i);
    return true;
}

/* One write: a head page if a segment begins, then pages of entries. */
static void fill(struct seglog *g)
{
    struct log_open *o = g->open;
    uint32_t segment = o->free_n ? o->free[o->free_n - 1] : 0;
    uint32_t n = 0, end_page;

    if (o->free_n == 0 ||
        o->fill_at == seg_first_page(g, segment) + g->segment_pages) {
        if (!segment_begin(g))
            return;
        segment = o->free[o->free_n - 1];
        n = 1;
    }
    end_page = seg_first_page(g, segment) + g->segment_pages;
    while (o->more && n < OPEN_BUF / SEG_PAGE && o->fill_at + n < end_page) {
        page_fill(g, o->buf + (size_t)n * SEG_PAGE, g->segs[segment].generation,
                  o->fill_at + n);
        n++;
    }
    g->segs[segment].used = o->fill_at + n - seg_first_page(g, segment);
    o->fill_at += n;
    io_begin(g, DISK_WRITE, o->fill_at - n, n);
}

/* ---- steps */

static bool drained(struct seglog *g)
{
    return !g->opening && g->reclaim.step != RECLAIM_SHOWN && seglog_idle(g) &&
           !g->super_busy && seglog_head_end(g);
}

static void drain(struct seglog *g)
{
    struct log_open *o = g->open;

    if (g->state == SEGLOG_CLOSED || g->state == SEGLOG_RETIRED ||
        g->state == SEGLOG_READ_ONLY) {
        if (seglog_idle(g) && g->reclaim.step != RECLAIM_SHOWN)
            end(g, g->state == SEGLOG_READ_ONLY ? ERR_IO : OK);
    } else if (drained(g)) {
        o->close = CLOSE_FILL;
        o->more = true;
        o->check_n = 0;
        if (!o->checkpoint || g->state != SEGLOG_OPEN)
            end(g, OK);
        g->kick = true;
    }
}

bool seglog_close_tick(struct seglog *g)
{
    struct log_open *o = g->open;

    if (g->state == SEGLOG_FAILED && !g->opening && o->close != CLOSE_ENDED)
        end(g, ERR_IO);
    if (o->waiting && o->close != CLOSE_ENDED)
        return false;
    switch (o->close) {
    case CLOSE_NONE:
    case CLOSE_SUPER:
        return false;
    case CLOSE_DRAIN:
        drain(g);
        /* With no io in flight nobody else would call again. */
        return list_empty(&g->flying);
    case CLOSE_FILL:
        if (g->state != SEGLOG_OPEN) {
            end(g, ERR_IO);
        } else if (o->more) {
            fill(g);
        } else {
            o->close = CLOSE_FLUSH;
            io_begin(g, DISK_FLUSH, 0, 0);
        }
        return false;
    case CLOSE_FLUSH:
        return false;
    case CLOSE_ENDED:
        tell(g);
        return false;
    }
    return false;
}
