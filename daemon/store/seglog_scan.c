/* SPDX-License-Identifier: Apache-2.0
 *
 * What lies in the segments of a store that is being opened: the head page of
 * each, then either the checkpoint or every group header.
 *
 *   heads    OPEN_SCANNERS pages in flight, any order
 *   check    pieces of OPEN_PIECE, as many as the buffer holds, any order
 *   groups   OPEN_SCANNERS segments side by side; in a segment each header
 *            says where the next one is
 *
 *            header --MISS--> end of the segment
 *              |  ^
 *      damaged |  | a later header of this life
 *              v  |
 *             seek: every page, OPEN_SEEK at once
 *
 * A header that cannot be read, or is not as it was written (counted in
 * ssd_corrupt), costs the blocks of its group: the seek looks for the next one.
 * What it accepts has this life's generation, which was never used elsewhere,
 * names the page where it lies and has a greater seq: it was written here, so
 * its records count. That no payload poses as a header is up to the crc, the
 * store's uuid and the generation; a forged one would need the hash of a
 * foreign key too, which takes the node's secret.
 *
 * A head page that cannot be read or believed: the segment may have been FREE,
 * unless the page still names the generation that its headers have. Its records
 * are lost then, or an old life's; its tombs are always true and are delivered,
 * else a drop would be undone by the damage. Its generation is learned from its
 * headers, and its head page written again, of kind LOG or TOMBS: nothing
 * changes any more if the old page can be read another time. In whichever order
 * these pages get to the device, no tomb is lost; a crash before finds what
 * this open found.
 *
 * Every step: begin() starts reads; a completion takes what was read and starts
 * the next read of its scanner; the last one sets g->kick for seglog_open_tick.
 * Nothing here writes but the wipes. */
#include "store/seglog_open.h"

#include <string.h>

static void scanner_done(struct seglog *g)
{
    g->open->busy--;
    g->kick = true;
}

static void pages_read(struct open_scanner *s, uint32_t page, uint32_t n)
{
    s->at = page;
    s->n = n;
    seglog_io(&s->io, DISK_READ, (uint64_t)page * SEG_PAGE, s->page,
              (uint64_t)n * SEG_PAGE);
}

static void page_read(struct open_scanner *s, uint32_t page)
{
    pages_read(s, page, 1);
}

static void scanners_init(struct seglog *g, void (*done)(struct log_io *io),
                          uint32_t n, uint32_t bytes)
{
    struct log_open *o = g->open;

    o->next = 0;
    for (uint32_t i = 0; i < n; i++) {
        seglog_io_init(g, &o->scan[i].io, done, &o->scan[i]);
        o->scan[i].page = o->buf + (size_t)i * bytes;
    }
}

/* ---- heads */

static void head_take(struct seglog *g, uint32_t i, const struct seg_head *h)
{
    struct log_seg *seg = &g->segs[i];

    seg->generation = h->generation;
    seg->kind = (uint8_t)h->kind;
    g->next_generation = max_u64(g->next_generation, h->generation + 1);
    if (h->kind != SEG_CHECKPOINT) {
        seg->used = 1;
        seglog_seg_set(g, i, SEG_FULL);
    }
}

static void head_next(struct open_scanner *s, struct seglog *g)
{
    struct log_open *o = g->open;

    if (o->next == g->segments) {
        scanner_done(g);
        return;
    }
    s->segment = o->next++;
    page_read(s, seg_first_page(g, s->segment));
}

static void head_read(struct log_io *io)
{
    struct open_scanner *s = io->arg;
    struct seglog *g = io->g;
    struct seg_head h;
    enum err e = io->io.err;

    if (!g->opening)
        return;
    if (e == OK)
        e = seg_head_read(s->page, g->super.uuid, s->segment, &h);
    if (e == OK) {
        head_take(g, s->segment, &h);
    } else if (e != ERR_MISS) {
        metric_add(&g->metrics->ssd_corrupt, e == ERR_CORRUPT);
        g->segs[s->segment].kind = SEG_TOMBS;
        /* What it claims to be, to be compared with its headers. */
        g->segs[s->segment].generation = e == ERR_CORRUPT ? h.generation : 0;
        g->open->free[g->open->free_n++] = s->segment;
    }
    head_next(s, g);
}

void seglog_scan_heads(struct seglog *g)
{
    struct log_open *o = g->open;

    scanners_init(g, head_read, OPEN_SCANNERS, SEG_PAGE);
    o->busy = (uint32_t)min_u64(OPEN_SCANNERS, g->segments);
    for (uint32_t i = 0, n = o->busy; i < n; i++)
        head_next(&o->scan[i], g);
}

/* ---- checkpoint */

static uint64_t check_pages(const struct seglog *g)
{
    return max_u64(1, (g->super.check_records + SEG_CHECK_RECORDS - 1) /
                          SEG_CHECK_RECORDS);
}

/* Its segments, in order of their generations, into o->free. */
static bool check_list(struct seglog *g)
{
    const struct seg_super *s = &g->super;
    struct log_open *o = g->open;
    uint32_t found = 0;

    for (uint32_t i = 0; i < g->segments; i++) {
        uint64_t k = g->segs[i].generation - s->check_generation;

        if (g->segs[i].generation < s->check_generation)
            continue;
        /* One that was made later: this is not the last word. */
        if (g->segs[i].kind != SEG_CHECKPOINT || k >= s->check_segments)
            return false;
        o->free[k] = i;
        found++;
    }
    return found == s->check_segments && o->free[0] == s->check_segment;
}

bool seglog_scan_has_check(struct seglog *g)
{
    const struct seg_super *s = &g->super;

    /* Heads that could not be read are in o->free: then there is none. */
    return (s->flags & SEG_CLEAN) && s->check_generation > 0 &&
           s->check_segments > 0 && s->check_lanes == g->cfg.lanes &&
           s->check_records / SEG_CHECK_RECORDS <
               (uint64_t)g->segments * g->segment_pages &&
           check_pages(g) <=
               (uint64_t)s->check_segments * (g->segment_pages - 1) &&
           g->open->free_n == 0 && check_list(g);
}

/* Does the entry name a place where a payload can be? */
static bool check_sane(const struct seglog *g, const struct seg_check *c)
{
    uint32_t first = seg_first_page(g, 0);
    uint32_t i = (c->page - first) / g->segment_pages;

    if (c->page < first || i >= g->segments || c->len == 0 ||
        c->lane >= g->super.check_lanes || g->segs[i].state != SEG_FULL ||
        g->segs[i].kind != SEG_LOG)
        return false;
    return (c->page - first) % g->segment_pages >= 2 &&
           (c->page - first) % g->segment_pages + (uint64_t)seg_pages(c->len) <=
               g->segment_pages;
}

static void check_take(struct seglog *g, const uint8_t *page, uint32_t n)
{
    struct seg_check c;

    for (uint32_t i = 0; i < n; i++) {
        memcpy(&c, page + sizeof(struct seg_check_page) + i * sizeof(c),
               sizeof(c));
        g->open->check_bad |= !(c.knows & SEG_CHECK_ROUTE);
        if (g->open->check_bad || !check_sane(g, &c))
            continue;
        /* Devices may have been listed in another order then. */
        c.tag = seg_tag(g->cfg.dev, seg_idx(c.tag));
        g->host.check(g->host.arg, &c);
        g->recovered_records++;
    }
    g->open->check_n += n;
}

static void check_next(struct open_scanner *s, struct seglog *g)
{
    struct log_open *o = g->open;
    uint32_t in_segment = g->segment_pages - 1;
    uint64_t left = check_pages(g) - o->off;
    uint32_t at = (uint32_t)(o->off % in_segment);

    if (left == 0 || o->check_bad) {
        scanner_done(g);
        if (o->busy == 0 && o->check_n != g->super.check_records)
            o->check_bad = true;
        return;
    }
    s->n = (uint32_t)min_u64(min_u64(left, in_segment - at),
                             OPEN_PIECE / SEG_PAGE);
    s->segment = o->free[o->off / in_segment];
    s->at = seg_first_page(g, s->segment) + 1 + at;
    o->off += s->n;
    seglog_io(&s->io, DISK_READ, (uint64_t)s->at * SEG_PAGE, s->page,
              (uint64_t)s->n * SEG_PAGE);
}

static void check_read(struct log_io *io)
{
    struct open_scanner *s = io->arg;
    struct seglog *g = io->g;
    uint32_t n;

    if (!g->opening)
        return;
    if (io->io.err != OK)
        g->open->check_bad = true;
    for (uint32_t i = 0; i < s->n && !g->open->check_bad; i++) {
        const uint8_t *page = s->page + (size_t)i * SEG_PAGE;

        if (seg_check_read(page, g->segs[s->segment].generation, s->at + i,
                           &n) == OK) {
            check_take(g, page, n);
        } else {
            metric_add(&g->metrics->ssd_corrupt, 1);
            g->open->check_bad = true;
        }
    }
    check_next(s, g);
}

void seglog_scan_check(struct seglog *g)
{
    struct log_open *o = g->open;
    uint32_t n = OPEN_BUF / OPEN_PIECE;

    scanners_init(g, check_read, n, OPEN_PIECE);
    o->off = o->check_n = 0;
    o->busy = n;
    for (uint32_t i = 0; i < n; i++)
        check_next(&o->scan[i], g);
}

/* ---- groups */

static uint32_t segment_end(const struct seglog *g, uint32_t segment)
{
    return seg_first_page(g, segment) + g->segment_pages;
}

static void group_take(struct seglog *g, const struct open_scanner *s,
                       const struct seg_group *h)
{
    uint32_t cursor = 0;
    struct seg_meta m;
    struct seg_tomb t;

    if (h->kind == SEG_GROUP_TOMBS) {
        for (uint32_t i = 0; i < h->record_n; i++) {
            seg_group_next_tomb(s->page, &cursor, &t);
            g->host.tomb(g->host.arg, &t);
        }
        return;
    }
    if (g->segs[s->segment].kind != SEG_LOG)
        return;
    for (uint32_t i = 0; i < h->record_n; i++) {
        struct seg_place p = {.page = s->at + 1 + i * h->record_pages,
                              .tag = seg_tag(g->cfg.dev, i)};

        seg_group_next(s->page, &cursor, &m);
        g->host.record(g->host.arg, &m, p);
    }
    g->recovered_records += h->record_n;
}

/* Is there something in it to be walked through? */
static bool is_walked(const struct log_seg *s)
{
    return s->state == SEG_FULL || s->kind == SEG_TOMBS;
}

static void group_segment(struct open_scanner *s, struct seglog *g)
{
    struct log_open *o = g->open;
    struct log_seg *seg;

    while (o->next < g->segments && !is_walked(&g->segs[o->next]))
        o->next++;
    if (o->next == g->segments) {
        scanner_done(g);
        return;
    }
    s->segment = o->next++;
    s->seq = 0;
    s->seek = false;
    seg = &g->segs[s->segment];
    s->generation = seg->state == SEG_FULL ? seg->generation : 0;
    s->claim = seg->generation;
    seg->generation = s->generation;
    page_read(s, seg_first_page(g, s->segment) + 1);
}

/* Is page i of what was read a header of this walk? Not the seq that was to
 * come: damage, but of those that are missing. */
static enum err group_look(const struct seglog *g, const struct open_scanner *s,
                           uint32_t i, struct seg_group *h)
{
    enum err e;

    if (s->io.io.err)
        return s->io.io.err;
    e = seg_group_read(s->page + (size_t)i * SEG_PAGE, g->super.uuid,
                       s->generation, s->at + i, UINT32_MAX, h);
    if (e == OK &&
        (h->pages > segment_end(g, s->segment) - s->at - i ||
         (s->seek || !s->generation ? h->seq < s->seq : h->seq != s->seq)))
        e = ERR_CORRUPT;
    return e;
}

/* The header h is the first page of the buffer and lies at s->at. */
static void group_found(struct open_scanner *s, struct seglog *g,
                        const struct seg_group *h)
{
    struct log_seg *seg = &g->segs[s->segment];

    if (!s->generation && s->claim == h->generation) {
        seg->kind = SEG_LOG;
        s->generation = s->claim;
    }
    group_take(g, s, h);
    s->seek = false;
    s->seq = h->seq + 1;
    s->at += h->pages;
    seg->used = s->at - seg_first_page(g, s->segment);
    seg->generation = max_u64(seg->generation, h->generation);
    g->next_generation = max_u64(g->next_generation, h->generation + 1);
}

/* The first header among the pages read while seeking; else goes on behind. */
static void seek_step(struct open_scanner *s, struct seglog *g)
{
    struct seg_group h;

    for (uint32_t i = 0; i < s->n; i++) {
        if (group_look(g, s, i, &h) != OK)
            continue;
        memmove(s->page, s->page + (size_t)i * SEG_PAGE, SEG_PAGE);
        s->at += i;
        group_found(s, g, &h);
        return;
    }
    s->at += s->n;
}

/* Takes what was read; false: the walk of this segment is over. */
static bool group_step(struct open_scanner *s, struct seglog *g)
{
    bool learned = g->segs[s->segment].generation > 0;
    struct seg_group h;
    enum err e;

    if (s->seek) {
        seek_step(s, g);
    } else {
        e = group_look(g, s, 0, &h);
        if (e == ERR_CORRUPT)
            metric_add(&g->metrics->ssd_corrupt, 1);
        if (e == ERR_MISS && learned)
            return false;
        s->seek = e != OK;
        if (e == OK)
            group_found(s, g, &h);
        else
            s->at++;
    }
    return s->at < segment_end(g, s->segment);
}

static void group_read(struct log_io *io)
{
    struct open_scanner *s = io->arg;
    struct seglog *g = io->g;

    if (!g->opening)
        return;
    if (!group_step(s, g))
        group_segment(s, g);
    else if (s->seek)
        pages_read(
            s, s->at,
            (uint32_t)min_u64(OPEN_SEEK, segment_end(g, s->segment) - s->at));
    else
        page_read(s, s->at);
}

void seglog_scan_groups(struct seglog *g)
{
    struct log_open *o = g->open;

    scanners_init(g, group_read, OPEN_SCANNERS, OPEN_SEEK * SEG_PAGE);
    o->busy = OPEN_SCANNERS;
    for (uint32_t i = 0; i < OPEN_SCANNERS; i++)
        group_segment(&o->scan[i], g);
}

/* How far a segment is written is not known without a walk: maybe to its end.
 */
void seglog_scan_none(struct seglog *g)
{
    for (uint32_t i = 0; i < g->segments; i++)
        if (g->segs[i].state == SEG_FULL)
            g->segs[i].used = g->segment_pages;
}

/* ---- heads that could not be believed */

static void wipe_next(struct seglog *g);

static void wiped(struct log_io *io)
{
    /* It is written again before it is used, and then an error counts. */
    if (io->g->opening)
        wipe_next(io->g);
}

/* As its headers are, or blank if nothing of ours is behind it. */
static void wipe_next(struct seglog *g)
{
    struct log_open *o = g->open;
    struct open_scanner *s = &o->scan[0];
    struct seg_head h = {0};

    if (o->free_n == 0) {
        scanner_done(g);
        return;
    }
    s->segment = o->free[--o->free_n];
    h.segment = s->segment;
    h.kind = g->segs[s->segment].kind;
    h.generation = g->segs[s->segment].generation;
    memcpy(h.uuid, g->super.uuid, sizeof(h.uuid));
    memset(s->page, 0, SEG_PAGE);
    if (h.generation)
        seg_head_seal(&h, s->page);
    seglog_io(&s->io, DISK_WRITE, seg_off(g, s->segment), s->page, SEG_PAGE);
}

/* The flush of the superblock makes it durable. Segments with nothing in them
 * are as good as new. */
void seglog_scan_wipe(struct seglog *g)
{
    struct log_open *o = g->open;

    for (uint32_t i = 0; i < g->segments; i++) {
        struct log_seg *s = &g->segs[i];

        if (s->state == SEG_FREE && s->used > 1)
            seglog_seg_set(g, i, SEG_FULL);
        else if (s->state == SEG_FULL && s->used == 1)
            seglog_seg_set(g, i, SEG_FREE);
    }
    scanners_init(g, wiped, 1, SEG_PAGE);
    o->busy = 1;
    wipe_next(g);
}
