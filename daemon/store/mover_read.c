/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads. What was asked for in a turn is gathered in the tick at its end: the
 * payloads of FRESH loads of one class, and the header pages that they want,
 * sorted by where they lie. Neighbours become one read (the blocks of a batch
 * were written side by side); a block longer than an io becomes several.
 *
 *   load --payload--> part --+
 *   head --page-----> part --+-- sorted, neighbours --> read --> disk
 *
 * A merged read that fails is done again part by part, so that one bad page
 * costs one block. A header page is read once for all who want it meanwhile.
 *
 * Invariants: 1. between seg_read_begin and _end of a load or head its segment
 * is not used again. 2. A load is handed to reads whole, in one tick, or not at
 * all. Failure: without a free read loads wait for a later tick; a part that
 * finds none when it is repeated is BUSY: its block stays on the SSD. */
#include "store/mover_impl.h"

#include <string.h>

#include "base/fault.h"

/* ---- header pages */

static struct list *head_bucket(struct mover *m, uint32_t dev, uint32_t page)
{
    return &m->heads[(page ^ dev) % HEAD_BUCKETS];
}

struct head *head_get(struct mover *m, uint32_t dev, uint32_t page)
{
    struct list *bucket = head_bucket(m, dev, page);
    struct head *h;

    LIST_FOREACH(n, bucket)
    {
        h = container_of(n, struct head, node);
        if (h->dev == dev && h->page == page) {
            h->refs++;
            return h;
        }
    }
    h = fault_here("head_get") ? NULL : pool_get(&m->head_pool);
    if (!h)
        return NULL;
    *h = (struct head){.m = m, .dev = dev, .page = page, .refs = 1};
    h->buf = m->head_pages + (size_t)pool_idx(&m->head_pool, h) * SEG_PAGE;
    list_init(&h->loads);
    list_init(&h->peeks);
    list_add_tail(bucket, &h->node);
    seg_read_begin(m->ssd->maps[dev], page);
    return h;
}

void head_put(struct head *h)
{
    if (--h->refs)
        return;
    if (h->state == HEAD_FRESH) {
        seg_read_end(h->m->ssd->maps[h->dev], h->page);
        list_del(&h->node);
    }
    MUST(h->state != HEAD_READING);
    pool_put(&h->m->head_pool, h);
}

/* From here on nobody finds it; those who wanted it are told. A ref of its own
 * keeps it meanwhile. */
static void head_done(struct head *h, enum err e)
{
    struct list *n;

    h->state = HEAD_DONE;
    h->err = e;
    seg_read_end(h->m->ssd->maps[h->dev], h->page);
    list_del(&h->node);
    while ((n = list_pop(&h->loads)))
        load_io_done(container_of(n, struct load, head_node), e);
    peeks_done(h);
    head_put(h);
}

/* ---- completions */

static void read_done(struct disk_io *io);

static void part_done(const struct part *p, enum err e)
{
    if (p->load)
        load_io_done(p->load, e);
    else
        head_done(p->head, e);
}

static void read_submit(struct read *r)
{
    const struct part *first = &r->parts[0];
    struct mover *m = r->m;

    r->io = (struct disk_io){.what = DISK_READ,
                             .dev = first->dev,
                             .off = (uint64_t)first->page * SEG_PAGE,
                             .spans = r->spans,
                             .span_n = r->io.span_n,
                             .done = read_done};
    for (uint32_t i = 0; i < r->io.span_n; i++)
        r->io.len += r->spans[i].len;
    metric_add(&m->s->metrics->ssd_reads, 1);
    list_add_tail(&m->reads[first->dev], &r->node);
    disk_submit(m->ssd->disk, &r->io);
}

/* Spans of a part, behind those that the read has; false if too many. */
static bool read_add(struct read *r, const struct part *p)
{
    const struct store *s = r->m->s;
    struct span *at = &r->spans[r->io.span_n];
    uint32_t room = DISK_IO_SPANS - r->io.span_n, n = 1;

    if (p->load) {
        const struct entry *e = entry_at(s, p->load->block);
        const struct hot *h = hot_of(s, p->load->block);
        const struct tier *t = &s->pools[ns_at(s, e)->cfg.pool].mem.tier;

        if (r->part_n && min_u64(h->extents, p->pages) > room)
            return false;
        n = t->ops->spans(t, h->head,
                          (uint64_t)(p->page - p->load->place.page) * SEG_PAGE,
                          (uint64_t)p->pages * SEG_PAGE, at, room);
    } else if (!room) {
        return false;
    } else {
        *at = (struct span){p->head->buf, SEG_PAGE};
    }
    r->io.span_n += n;
    r->parts[r->part_n++] = *p;
    return true;
}

static struct read *read_new(struct mover *m)
{
    struct read *r = pool_get(&m->read_pool);

    if (!r)
        return NULL;
    r->m = m;
    r->part_n = 0;
    r->io.span_n = 0;
    return r;
}

/* One part in a read of its own; false: none is free. */
static bool read_alone(struct mover *m, const struct part *p)
{
    struct read *r = read_new(m);

    if (!r)
        return false;
    MUST(read_add(r, p));
    read_submit(r);
    return true;
}

static void read_done(struct disk_io *io)
{
    struct read *r = container_of(io, struct read, io);
    struct mover *m = r->m;
    struct part parts[READ_PARTS];
    uint32_t n = r->part_n;
    enum err e = io->err;

    memcpy(parts, r->parts, n * sizeof *parts);
    list_del(&r->node);
    pool_put(&m->read_pool, r);
    if (e)
        metric_add(&m->s->metrics->ssd_read_errors, 1);
    for (uint32_t i = 0; i < n; i++)
        if (!e || n == 1 || !mover_readable(m->s, parts[i].dev))
            part_done(&parts[i], e);
        else if (!read_alone(m, &parts[i]))
            part_done(&parts[i], ERR_BUSY);
}

bool head_send(struct head *h)
{
    struct part p = {.head = h, .dev = h->dev, .page = h->page, .pages = 1};

    if (h->state != HEAD_FRESH)
        return true;
    if (!read_alone(h->m, &p))
        return false;
    h->state = HEAD_READING;
    h->refs++;
    return true;
}

/* ---- reads that hang */

/* When the oldest read of the device is too old; NEVER if that is known. */
static uint64_t hang_at(const struct mover *m, uint32_t dev)
{
    const struct seg_map *map = m->ssd->maps[dev];
    const struct read *r;

    if (list_empty(&m->reads[dev]) || !map->hang_ns ||
        !mover_readable(m->s, dev) ||
        __atomic_load_n(&map->suspect, __ATOMIC_RELAXED))
        return DEADLINE_NEVER;
    r = container_of(m->reads[dev].next, struct read, node);
    return r->io.began_ns + map->hang_ns;
}

void reads_watch(struct mover *m)
{
    for (uint32_t i = 0; i < m->ssd->n; i++)
        if (m->s->env->now_ns >= hang_at(m, i))
            order_suspect(m, i);
}

uint64_t store_next_ns(const struct store *s)
{
    uint64_t next = DEADLINE_NEVER;

    for (uint32_t i = 0; s->mover && i < s->mover->ssd->n; i++)
        next = min_u64(next, hang_at(s->mover, i));
    return next;
}

/* ---- gathering */

/* Pages of the load from page on that one io can take. */
static uint32_t chunk(struct mover *m, const struct load *l, uint32_t page)
{
    const struct store *s = m->s;
    const struct entry *e = entry_at(s, l->block);
    const struct hot *h = hot_of(s, l->block);
    const struct tier *t = &s->pools[ns_at(s, e)->cfg.pool].mem.tier;
    uint64_t off = (uint64_t)page * SEG_PAGE, bytes = 0;
    uint64_t rest = (uint64_t)l->pages * SEG_PAGE - off;
    uint32_t n;

    if (rest <= DISK_IO_BYTES && h->extents <= DISK_IO_SPANS)
        return (uint32_t)(rest / SEG_PAGE);
    n = t->ops->spans(t, h->head, off, rest, m->spans, STORE_SPANS_MAX);
    for (uint32_t i = 0; i < n && i < DISK_IO_SPANS; i++)
        bytes += m->spans[i].len;
    return (uint32_t)(min_u64(bytes, DISK_IO_BYTES) / SEG_PAGE);
}

/* Its parts behind n others; 0 if there is no room for all of them. */
static uint32_t load_parts(struct mover *m, struct load *l, struct part *parts,
                           uint32_t room)
{
    uint32_t n = 0, page = 0;

    if (l->head && l->head->state == HEAD_FRESH && n < room)
        parts[n++] = (struct part){.head = l->head,
                                   .dev = l->head->dev,
                                   .page = l->head->page,
                                   .pages = 1};
    while (page < l->pages) {
        uint32_t pages = chunk(m, l, page);

        if (n == room)
            return 0;
        parts[n++] = (struct part){.load = l,
                                   .dev = seg_dev(l->place.tag),
                                   .page = l->place.page + page,
                                   .pages = pages};
        page += pages;
    }
    return n;
}

static void load_fly(struct mover *m, struct load *l, const struct part *parts,
                     uint32_t n)
{
    list_del(&l->node);
    list_add_tail(&m->loading, &l->node);
    m->fresh_bytes -= (uint64_t)l->pages * SEG_PAGE;
    l->flying = true;
    l->ios--;
    for (uint32_t i = 0; i < n; i++) {
        if (parts[i].load) {
            l->ios++;
        } else {
            l->head->state = HEAD_READING;
            l->head->refs++;
        }
    }
}

/* Parts of FRESH loads of the class; each could need a read of its own. */
static uint32_t gather(struct mover *m, struct list *fresh)
{
    uint32_t room = m->read_pool.n - pool_used(&m->read_pool), n = 0;

    if (room > FLUSH_PARTS)
        room = FLUSH_PARTS;
    while (!list_empty(fresh)) {
        struct load *l = container_of(fresh->next, struct load, node);
        uint32_t got = load_parts(m, l, &m->parts[n], room - n);

        if (!got)
            break;
        load_fly(m, l, &m->parts[n], got);
        n += got;
    }
    return n;
}

static bool before(const struct part *a, const struct part *b)
{
    return a->dev != b->dev ? a->dev < b->dev : a->page < b->page;
}

/* They come nearly sorted: batches ask in the order in which they put. */
static void sort(struct part *p, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++) {
        struct part x = p[i];
        uint32_t k = i;

        for (; k > 0 && before(&x, &p[k - 1]); k--)
            p[k] = p[k - 1];
        p[k] = x;
    }
}

static bool joins(const struct read *r, uint64_t bytes, const struct part *p)
{
    const struct part *last = &r->parts[r->part_n - 1];

    return r->part_n < READ_PARTS && p->dev == last->dev &&
           p->page == last->page + last->pages &&
           bytes + (uint64_t)p->pages * SEG_PAGE <= READ_MERGE;
}

static void send(struct mover *m, uint32_t n)
{
    struct read *r = NULL;
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < n; i++) {
        const struct part *p = &m->parts[i];

        if (!r || !joins(r, bytes, p) || !read_add(r, p)) {
            if (r)
                read_submit(r);
            r = read_new(m);
            bytes = 0;
            if (!r) {
                part_done(p, ERR_BUSY);
                continue;
            }
            MUST(read_add(r, p));
        }
        bytes += (uint64_t)p->pages * SEG_PAGE;
    }
    if (r)
        read_submit(r);
}

bool reads_flush(struct mover *m)
{
    for (uint32_t c = 0; c < LOAD_CLASSES; c++)
        while (!list_empty(&m->fresh[c])) {
            uint32_t n = gather(m, &m->fresh[c]);

            if (!n)
                return false; /* goes on when a read has ended */
            sort(m->parts, n);
            send(m, n);
        }
    return false;
}
