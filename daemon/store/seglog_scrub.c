/* SPDX-License-Identifier: Apache-2.0
 *
 * The scrub: reads what is stored again, slowly, and compares it with its
 * checksums, so that a device that forgets is noticed before it is needed.
 *
 *   segment --> header --> payload, in pieces --> next payload --> next header
 *      ^                                                              |
 *      +--- next FULL segment <--- not the next header of this life --+
 *
 * One read is in flight at most; scrub_rate bytes per second, each read paid
 * before the next. A segment is held against reuse only while a read of it is
 * in flight; when it was taken away between two reads (its generation or state
 * changed) the scrub goes on with the next one.
 *
 * A payload or header that differs counts in ssd_corrupt and is traced, no
 * more: whoever reads the block finds the same and drops it. It may have been
 * dropped long ago. Behind a damaged header the scrub goes on with the next
 * segment. The end of a segment's headers is not an error.
 *
 * Demand reads are not asked: one read in flight at this rate takes from them
 * what one more client with depth 1 would, and less. Owner lane. */
#include "store/seglog_impl.h"

enum {
    SCRUB_BYTES = 256 << 10, /* of one read */
    SCRUB_IDLE_MS = 1000,    /* nothing to read: look again */
};

struct log_scrub {
    struct log_io io;
    uint8_t *header, *buf;       /* a page; SCRUB_BYTES */
    uint64_t next_ns;            /* before that nothing is read */
    uint64_t generation;         /* of the segment; 0: none is being read */
    uint32_t segment, page, seq; /* page: of the header */
    bool flying, in_group;
    struct seg_group group;
    struct seg_meta meta; /* of the payload */
    uint32_t cursor, idx, crc;
    uint64_t done; /* bytes of the payload */
};

static bool same_life(const struct seglog *g)
{
    const struct log_scrub *s = g->scrub;
    const struct log_seg *seg = &g->segs[s->segment];

    return s->segment < g->segments && seg->state == SEG_FULL &&
           seg->generation == s->generation;
}

/* The next FULL segment of the log; false: there is none. */
static bool segment_next(struct seglog *g)
{
    struct log_scrub *s = g->scrub;

    for (uint32_t n = 0; n < g->segments; n++) {
        const struct log_seg *seg;

        s->segment = s->segment + 1 < g->segments ? s->segment + 1 : 0;
        seg = &g->segs[s->segment];
        if (seg->state != SEG_FULL || seg->kind != SEG_LOG)
            continue;
        s->generation = seg->generation;
        s->page = seg_first_page(g, s->segment) + 1;
        s->seq = 0;
        s->in_group = false;
        return true;
    }
    return false;
}

static uint32_t payload_page(const struct log_scrub *s)
{
    return s->page + 1 + s->idx * s->group.record_pages;
}

static void payload_next(struct log_scrub *s)
{
    if (s->idx == s->group.record_n) {
        s->in_group = false;
        s->page += s->group.pages;
        s->seq++;
        return;
    }
    seg_group_next(s->header, &s->cursor, &s->meta);
    s->crc = 0;
    s->done = 0;
}

static void differs(struct seglog *g, uint32_t page)
{
    metric_add(&g->metrics->ssd_corrupt, 1);
    trace_add(g->trace, g->env->now_ns, TRACE_SSD_CORRUPT, 0, g->cfg.dev, page);
}

static void header_take(struct seglog *g)
{
    struct log_scrub *s = g->scrub;
    uint32_t end = seg_first_page(g, s->segment) + g->segment_pages;
    enum err e;

    e = seg_group_read(s->header, g->super.uuid, s->generation, s->page, s->seq,
                       &s->group);
    if (e == OK && s->group.pages > end - s->page)
        e = ERR_CORRUPT;
    if (e == ERR_CORRUPT)
        differs(g, s->page);
    if (e != OK) {
        s->generation = 0;
        return;
    }
    s->in_group = true;
    s->idx = s->group.kind == SEG_GROUP_RECORDS ? 0 : s->group.record_n;
    s->cursor = 0;
    payload_next(s);
}

static void payload_take(struct seglog *g, uint64_t bytes)
{
    struct log_scrub *s = g->scrub;

    bytes = min_u64(bytes, s->meta.len - s->done);
    s->crc = crc32c(s->crc, s->buf, bytes);
    s->done += bytes;
    if (s->done < s->meta.len)
        return;
    if (s->crc != s->meta.crc)
        differs(g, payload_page(s));
    s->idx++;
    payload_next(s);
}

static void scrub_read(struct log_io *io)
{
    struct seglog *g = io->g;
    struct log_scrub *s = g->scrub;

    s->flying = false;
    g->kick = true;
    seg_read_end(g->map, (uint32_t)(io->io.off / SEG_PAGE));
    metric_add(&g->metrics->ssd_scrubbed_bytes, io->io.len);
    if (s->generation == 0)
        return;
    if (io->io.err != OK)
        s->generation = 0; /* counted as a read error */
    else if (s->in_group)
        payload_take(g, io->io.len);
    else
        header_take(g);
    if (s->generation && !s->in_group &&
        s->page >= seg_first_page(g, s->segment) + g->segment_pages)
        s->generation = 0;
}

static void read_begin(struct seglog *g)
{
    struct log_scrub *s = g->scrub;
    uint32_t page = s->page;
    uint64_t len = SEG_PAGE;

    if (s->in_group) {
        page = payload_page(s) + (uint32_t)(s->done / SEG_PAGE);
        len = align_up(min_u64(SCRUB_BYTES, s->meta.len - s->done), SEG_PAGE);
    }
    s->next_ns = max_u64(s->next_ns, g->env->now_ns) +
                 len * NS_PER_S / g->cfg.scrub_rate;
    s->flying = true;
    seg_read_begin(g->map, page);
    seglog_io(&s->io, DISK_READ, (uint64_t)page * SEG_PAGE,
              s->in_group ? s->buf : s->header, len);
}

static bool at_work(const struct seglog *g)
{
    return g->scrub && g->cfg.scrub_rate > 0 && !g->scrub->flying &&
           (g->state == SEGLOG_OPEN || g->state == SEGLOG_READ_ONLY);
}

bool seglog_scrub_tick(struct seglog *g)
{
    struct log_scrub *s = g->scrub;

    if (!at_work(g) || g->env->now_ns < s->next_ns)
        return false;
    if (s->generation && !same_life(g))
        s->generation = 0;
    if (!s->generation && !segment_next(g)) {
        s->next_ns = g->env->now_ns + SCRUB_IDLE_MS * NS_PER_MS;
        return false;
    }
    read_begin(g);
    return false;
}

uint64_t seglog_scrub_next_ns(const struct seglog *g)
{
    return at_work(g) ? g->scrub->next_ns : DEADLINE_NEVER;
}

enum err seglog_scrub_new(struct seglog *g)
{
    struct log_scrub *s;

    if (g->cfg.scrub_rate == 0)
        return OK;
    s = mem_reserve(sizeof(*s));
    if (!s)
        return ERR_NO_MEMORY;
    g->scrub = s;
    s->header = mem_reserve(SEG_PAGE);
    s->buf = mem_reserve(SCRUB_BYTES);
    if (!s->header || !s->buf) {
        seglog_scrub_free(g);
        return ERR_NO_MEMORY;
    }
    s->segment = UINT32_MAX;
    seglog_io_init(g, &s->io, scrub_read, NULL);
    return OK;
}

void seglog_scrub_free(struct seglog *g)
{
    struct log_scrub *s = g->scrub;

    if (!s)
        return;
    mem_release(s->header, SEG_PAGE);
    mem_release(s->buf, SCRUB_BYTES);
    mem_release(s, sizeof(*s));
    g->scrub = NULL;
}
