/* SPDX-License-Identifier: Apache-2.0
 *
 * The segment being written (the head) and the one after it (next), which is
 * prepared when the head is three quarters full, so that no write waits.
 *
 *   next:  NONE --a FREE segment, a generation--> FLUSH --> HEAD --> READY
 *            ^                                                         |
 *            +------------- becomes the head, the old one FULL <-------+
 *
 * Order of reuse. No scan finds the records of a FREE segment: its head page
 * was overwritten and flushed before the first of its blocks lost its place
 * (seglog_reclaim.c), oldest segment first. So when the tombs of a segment are
 * gone, all that they kill has been gone before, durably, and the order in
 * which FREE segments are written again does not matter for that. They are
 * taken oldest life first all the same, so that every part of the device is
 * written as often as the others.
 *
 * Each head page is written after a FLUSH that covers the head page before it:
 * a power cut takes from the log, besides what durable requests had flushed,
 * what was written in the last two segments, and not from the middle.
 *
 * Why reclaim and re-insertion cannot wait for each other. Emptying a segment
 * needs reads, the lanes' answers and the end of its readers; none of these
 * waits for a write of this log, unless a lane answers only after its
 * re-insertions are done. For that case LOG_RESERVE (2) FREE segments are kept
 * from ordinary writes: those stop when fewer are FREE (their requests queue,
 * the log is binding), re-insertions, durable requests and tombs go on.
 * Reclaim works on one segment at a time. What is re-inserted from it is at
 * most again_pct of it, which with headers and the rest left at the end of a
 * segment takes at most one new segment for one emptied; while the first of
 * the two is being filled the emptied one becomes FREE, so at every beginning
 * of a reclaim the reserve is whole again. It always begins: of at least
 * LOG_SEGMENTS_MIN (8) segments at most head, next, one EMPTYING and two FREE
 * are not FULL, so that there is a FULL one to be emptied. Durable requests
 * and tombs may use up the reserve faster than that; then they wait for the
 * reclaim too, which waits for nobody when lanes answer at once, as ours do.
 *
 * Generations are promised by a superblock in blocks (LOG_GENERATIONS); the
 * next block is asked for before the last one is used up. */
#include <string.h>

#include "store/seglog_impl.h"

enum { GENERATIONS_LOW = 16 };

static void generations_promised(struct seglog *g, enum err e)
{
    (void)e; /* A failure has made the log READ_ONLY. */
    g->kick = true;
}

static void promise(struct seglog *g)
{
    if (!g->super_busy && !g->failed)
        seglog_super_write(g, generations_promised);
}

uint64_t seglog_generation(struct seglog *g)
{
    if (g->next_generation < g->generation_end)
        return g->next_generation++;
    promise(g);
    return 0;
}

uint32_t seglog_free_oldest(const struct seglog *g)
{
    uint32_t best = SEG_NONE;

    if (!g->free_n)
        return SEG_NONE;
    for (uint32_t i = 0; i < g->segments; i++) {
        if (g->segs[i].state != SEG_FREE)
            continue;
        if (best == SEG_NONE ||
            g->segs[i].generation < g->segs[best].generation)
            best = i;
    }
    return best;
}

/* Both halves come here: the flush, and then the head page. */
static void next_done(struct log_io *io)
{
    struct seglog *g = io->g;
    struct log_seg *s = &g->segs[g->next_segment];
    struct seg_head h = {.generation = s->generation,
                         .segment = g->next_segment,
                         .kind = SEG_LOG};

    if (io->io.err || g->failed)
        return;
    if (g->next == NEXT_HEAD) {
        g->next = NEXT_READY;
        g->kick = true;
        return;
    }
    g->next = NEXT_HEAD;
    memcpy(h.uuid, g->super.uuid, sizeof(h.uuid));
    seg_head_seal(&h, g->next_page);
    seglog_io(&g->next_io, DISK_WRITE, seg_off(g, g->next_segment),
              g->next_page, SEG_PAGE);
}

void seglog_head_init(struct seglog *g)
{
    seglog_io_init(g, &g->next_io, next_done, NULL);
}

static void next_begin(struct seglog *g, bool reserve)
{
    uint64_t generation;
    uint32_t i;

    if (g->next != NEXT_NONE || g->state != SEGLOG_OPEN ||
        g->free_n < (reserve ? 1 : LOG_RESERVE + 1))
        return;
    generation = seglog_generation(g);
    if (!generation)
        return;
    i = seglog_free_oldest(g);
    g->next_segment = i;
    g->next = NEXT_FLUSH;
    seglog_seg_set(g, i, SEG_HEAD);
    g->segs[i].generation = generation;
    g->segs[i].used = 1;
    g->segs[i].kind = SEG_LOG;
    seglog_io(&g->next_io, DISK_FLUSH, 0, NULL, 0);
}

/* The next segment becomes the head. */
static void head_switch(struct seglog *g)
{
    if (g->head != SEG_NONE)
        seglog_seg_set(g, g->head, SEG_FULL);
    g->head = g->next_segment;
    g->head_seq = 0;
    g->next_segment = SEG_NONE;
    g->next = NEXT_NONE;
}

static uint32_t head_left(const struct seglog *g)
{
    return g->head == SEG_NONE ? 0 : g->segment_pages - g->segs[g->head].used;
}

uint32_t seglog_head_room(struct seglog *g, uint32_t pages, bool reserve)
{
    MUST(pages < g->segment_pages);
    if (!reserve && g->free_n < LOG_RESERVE)
        return 0;
    if (head_left(g) < pages) {
        next_begin(g, reserve);
        if (g->next != NEXT_READY)
            return 0;
        head_switch(g);
    }
    return head_left(g);
}

void seglog_head_tick(struct seglog *g)
{
    if (g->state != SEGLOG_OPEN || g->failed)
        return;
    if (g->generation_end - g->next_generation < GENERATIONS_LOW)
        promise(g);
    if (g->head != SEG_NONE && head_left(g) < g->segment_pages / 4 &&
        !g->closing)
        next_begin(g, false);
}

bool seglog_head_end(struct seglog *g)
{
    if (g->next == NEXT_READY) {
        seglog_seg_set(g, g->next_segment, SEG_FREE);
        g->next_segment = SEG_NONE;
        g->next = NEXT_NONE;
    }
    if (g->head != SEG_NONE && !g->segs[g->head].groups) {
        bool empty = g->segs[g->head].used == 1;

        seglog_seg_set(g, g->head, empty ? SEG_FREE : SEG_FULL);
        g->head = SEG_NONE;
    }
    return g->next == NEXT_NONE && g->head == SEG_NONE;
}
