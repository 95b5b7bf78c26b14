/* SPDX-License-Identifier: Apache-2.0
 *
 * Towards the SSD: blocks, tombs, flushes.
 *
 *   commit, use of a deferred block, reclaim
 *        |
 *        v      admitted?            window?
 *      ring ---------------> (block) --------> PUT request --done--> place
 *        |  no: DEFERRED, its next use brings it back
 *        +- stale, gone, nowhere to write: forgotten
 *
 * A block's device follows from its hash, so that all that was ever written of
 * a key is on one device as long as the same devices can be written, and a tomb
 * on it kills all of it. A block is written as it lies in memory: whole pages,
 * the rest of the last one zeroed first.
 *
 * A request holds a ref on its block, so memory under it stays put; what the
 * windows leave in the ring holds nothing and may be evicted (LATE).
 *
 * A drop is durable when its tomb is. Whether a block needs one is known from
 * its place, from a request under way, and from HOT_RECORDED: a record that the
 * store has let go of may still lie in a segment that was not used again. Once
 * a tomb was lost to a failing device nobody knows what an older block of a key
 * left behind: from then on no drop is told to be durable.
 *
 * Failure: a request that fails leaves the block in memory, DEFERRED; persists
 * and drops are told NOT_DURABLE. Thread: the lane. */
#include "store/mover_impl.h"

#include <string.h>

#include "base/fault.h"

#define DEV_NONE UINT32_MAX

/* ---- where to */

static bool fits(const struct mover *m, uint32_t dev, uint32_t pages)
{
    return pages && pages + 2 <= m->ssd->maps[dev]->segment_pages;
}

static uint32_t dev_for(const struct mover *m, const struct entry *e,
                        const struct hot *h)
{
    uint32_t first = (uint32_t)(e->hash.hi % m->ssd->n);

    if (hot_is(h, HOT_RECORDED) && seg_dev(e->tag) < m->ssd->n)
        first = seg_dev(e->tag);
    for (uint32_t i = 0; i < m->ssd->n; i++) {
        uint32_t dev = (first + i) % m->ssd->n;

        if (dev_writable(m, dev))
            return fits(m, dev, seg_pages(e->len)) ? dev : DEV_NONE;
    }
    return DEV_NONE;
}

/* ---- tombs and flushes */

static struct order *order_new(struct mover *m, struct store_wait *w)
{
    struct order *o = fault_here("order_new") ? NULL : pool_get(&m->order_pool);

    if (!o)
        return NULL;
    memset(o, 0, sizeof *o);
    o->m = m;
    o->wait = w;
    list_add_tail(&m->orders, &o->all);
    return o;
}

static void order_free(struct order *o)
{
    list_del(&o->all);
    pool_put(&o->m->order_pool, o);
}

static void order_end(struct order *o, enum err e)
{
    struct mover *m = o->m;
    struct store_wait *w = o->wait;

    order_free(o);
    m->s->freed++;
    wait_end(w, e);
}

static void order_done(struct seg_req *r)
{
    struct order *o = container_of(r, struct order, req);
    bool tomb = r->what == SEG_REQ_TOMB;

    if (tomb && r->err)
        o->m->tomb_lost = true;
    order_end(o, r->err || (tomb && o->m->tomb_lost) ? ERR_NOT_DURABLE : OK);
}

static void order_send(struct order *o, enum seg_req_what what, uint32_t dev)
{
    struct ssd *ssd = o->m->ssd;

    o->req.what = what;
    o->req.dev = dev;
    o->req.lane = ssd->lane;
    o->req.durable = true;
    o->req.done = order_done;
    ssd->submit(ssd, &o->req);
}

void orders_ended(struct mover *m)
{
    struct list now, *n;

    list_move(&now, &m->ended);
    while ((n = list_pop(&now)))
        order_end(container_of(n, struct order, node), ERR_NOT_DURABLE);
}

static struct order *dead_find(const struct mover *m, uint32_t dev)
{
    LIST_FOREACH(n, &m->orders)
    {
        struct order *o = container_of(n, struct order, all);

        if (o->wait && o->req.dev == dev)
            return o;
    }
    return NULL;
}

/* The requests themselves end when the log gives them back. */
void orders_dead(struct mover *m, uint32_t dev)
{
    struct order *o;

    while ((o = dead_find(m, dev))) {
        struct store_wait *w = o->wait;

        o->wait = NULL;
        if (o->req.what == SEG_REQ_TOMB)
            m->tomb_lost = true;
        wait_end(w, ERR_NOT_DURABLE);
    }
}

bool orders_forget(struct mover *m, const struct store_wait *w)
{
    bool found = false;

    LIST_FOREACH(n, &m->orders)
    {
        struct order *o = container_of(n, struct order, all);

        if (o->wait != w)
            continue;
        o->wait = NULL;
        found = true;
    }
    return found;
}

void order_suspect(struct mover *m, uint32_t dev)
{
    struct order *o = order_new(m, NULL);

    if (!o)
        return; /* the next tick tries again */
    __atomic_store_n(&m->ssd->maps[dev]->suspect, 1, __ATOMIC_RELEASE);
    order_send(o, SEG_REQ_FLUSH, dev);
}

static struct seg_tomb tomb_of(const struct store *s, const struct entry *e)
{
    return (struct seg_tomb){.hash = e->hash,
                             .version = e->version,
                             .ns_generation = ns_at(s, e)->cfg.generation,
                             .ns = ns_at(s, e)->cfg.id};
}

void tomb_quietly(struct store *s, const struct entry *e)
{
    struct order *o;

    if (!dev_writable(s->mover, seg_dev(e->tag)) ||
        !(o = order_new(s->mover, NULL)))
        return;
    o->req.tomb = tomb_of(s, e);
    order_send(o, SEG_REQ_TOMB, seg_dev(e->tag));
}

/* ---- writing a block */

static struct write *write_find(const struct mover *m, uint32_t block)
{
    LIST_FOREACH(n, &m->writes)
    if (container_of(n, struct write, node)->block == block)
        return container_of(n, struct write, node);
    MUST(!"HOT_WRITING says that there is one");
    return NULL;
}

/* It is on the device as the request said: the entry has a place. */
static void written(struct store *s, uint32_t block, struct seg_place p)
{
    struct entry *e = entry_at(s, block);
    struct hot *h = hot_of(s, block);

    trace_block(s, TRACE_WRITTEN, e, p.page);
    place_set(s, block, p.page, p.tag);
    hot_unset(h, HOT_DEFERRED | HOT_AGAIN);
    if (ns_at(s, e)->cfg.write_buffer)
        hot_set(h, HOT_LEAVE);
}

/* Something of it may be on the device all the same. */
static void unwritten(struct store *s, uint32_t block, uint32_t dev)
{
    entry_at(s, block)->tag = seg_tag(dev, 0);
    hot_unset(hot_of(s, block), HOT_AGAIN);
    hot_set(hot_of(s, block), HOT_DEFERRED | HOT_RECORDED);
}

static void write_done(struct seg_req *r)
{
    struct write *w = container_of(r, struct write, req);
    struct mover *m = w->m;
    struct store *s = m->s;
    uint32_t block = w->block, dev = r->dev;
    bool stored = !r->err && mover_readable(s, dev), durable = r->durable;
    struct seg_place place = r->place;
    struct list flushes, *n;

    list_del(&w->node);
    list_move(&flushes, &w->flushes);
    m->write_bytes -= w->bytes;
    pool_put(&m->write_pool, w);
    hot_unset(hot_of(s, block), HOT_WRITING);
    if (entry_at(s, block)->state == BLOCK_LIVE) {
        if (stored)
            written(s, block, place);
        else
            unwritten(s, block, dev);
    }
    s->freed++;
    store_unref(s, block);
    while ((n = list_pop(&flushes))) {
        struct order *o = container_of(n, struct order, node);

        if (stored && !durable)
            order_send(o, SEG_REQ_FLUSH, dev);
        else
            order_end(o, stored ? OK : ERR_NOT_DURABLE);
    }
}

static void meta_fill(const struct store *s, uint32_t block, struct seg_meta *m)
{
    const struct entry *e = entry_at(s, block);
    const struct hot *h = hot_of(s, block);
    uint64_t age_s = (now_ms(s) - h->born_ms) / 1000;
    struct keys_view v;

    keys_view(&s->keys, h->key, &v);
    *m = (struct seg_meta){
        .key = v.key,
        .version = e->version,
        .ns_generation = ns_at(s, e)->cfg.generation,
        .len = e->len,
        .crc = h->crc,
        .born_s = (uint32_t)(s->env->wall_s - min_u64(age_s, s->env->wall_s)),
        .expires_s = h->expires_s,
        .attr_copy = v.attr,
        .parent = v.parent,
        .parent_len = v.parent_len,
    };
    m->attr = &m->attr_copy;
    m->key.ns = ns_at(s, e)->cfg.id;
    m->key.hash = e->hash;
}

/* Whole pages; what lies behind the block's last byte is zeroed. */
static uint32_t spans_fill(const struct store *s, uint32_t block,
                           struct span *spans)
{
    const struct entry *e = entry_at(s, block);
    const struct tier *t = &s->pools[ns_at(s, e)->cfg.pool].mem.tier;
    uint32_t head = hot_of(s, block)->head, n;
    uint64_t bytes = (uint64_t)seg_pages(e->len) * SEG_PAGE;

    n = t->ops->spans(t, head, e->len, bytes - e->len, spans, STORE_SPANS_MAX);
    for (uint32_t i = 0; i < n; i++)
        memset(spans[i].p, 0, spans[i].len);
    return t->ops->spans(t, head, 0, bytes, spans, STORE_SPANS_MAX);
}

/* NULL: not now, the pool or the window is full. */
static struct write *write_start(struct mover *m, uint32_t block, uint32_t dev,
                                 bool durable)
{
    struct store *s = m->s;
    struct hot *h = hot_of(s, block);
    uint64_t bytes = (uint64_t)seg_pages(entry_at(s, block)->len) * SEG_PAGE;
    struct write *w;

    if (m->write_bytes && m->write_bytes + bytes > m->ssd->write_window)
        return NULL;
    w = fault_here("write_start") ? NULL : pool_get(&m->write_pool);
    if (!w)
        return NULL;
    memset(&w->req, 0, sizeof w->req);
    w->m = m;
    w->block = block;
    w->bytes = bytes;
    list_init(&w->flushes);
    list_add_tail(&m->writes, &w->node);
    m->write_bytes += bytes;
    w->req.what = SEG_REQ_PUT;
    w->req.dev = dev;
    w->req.lane = m->ssd->lane;
    w->req.durable = durable;
    w->req.again = hot_is(h, HOT_AGAIN);
    w->req.done = write_done;
    meta_fill(s, block, &w->req.meta);
    entry_at(s, block)->rich = seg_meta_rich(&w->req.meta);
    w->req.spans = w->spans;
    w->req.span_n = spans_fill(s, block, w->spans);
    hot_unset(h, HOT_QUEUED);
    hot_set(h, HOT_WRITING);
    store_ref(s, block);
    m->ssd->submit(m->ssd, &w->req);
    return w;
}

/* ---- write-behind */

void mover_queue(struct store *s, uint32_t block)
{
    struct mover *m = s->mover;
    const struct entry *e = entry_at(s, block);
    struct hot *h = hot_of(s, block);

    if (!m || e->ssd || !e->len || hot_is(h, HOT_QUEUED | HOT_WRITING))
        return;
    hot_set(h, HOT_DEFERRED);
    if (m->ring_n == m->ring_cap || ns_at(s, e)->condemned)
        return;
    hot_unset(h, HOT_DEFERRED);
    hot_set(h, HOT_QUEUED);
    m->ring[(m->ring_from + m->ring_n++) & (m->ring_cap - 1)] =
        (struct queued){block, (uint32_t)e->version};
}

static bool still_queued(const struct store *s, struct queued q)
{
    const struct entry *e = entry_at(s, q.block);

    return e->state == BLOCK_LIVE && (uint32_t)e->version == q.version &&
           hot_is(hot_of(s, q.block), HOT_QUEUED);
}

/* A block is of use only as far as those above it are there: a child whose
 * parent is not on the SSD, nor on its way there, would be found no more when
 * the parent has left memory, and would keep it there as long as it can. */
static bool parent_stays(const struct store *s, const struct entry *e)
{
    const struct entry *up = e->parent ? entry_at(s, e->parent) : NULL;

    return !up || block_placed(s, up) ||
           (entry_hot(up) && hot_is(hot_at(s, up->hot), HOT_WRITING));
}

/* While the budget binds only what will be used again is worth its bytes. */
static bool admitted(const struct mover *m, uint32_t block, uint32_t dev)
{
    const struct entry *e = entry_at(m->s, block);
    const struct hot *h = hot_of(m->s, block);

    if (!__atomic_load_n(&m->ssd->maps[dev]->binding, __ATOMIC_RELAXED) ||
        hot_is(h, HOT_AGAIN | HOT_LEAVE))
        return true;
    return (h->hits || h->pins || hot_is(h, HOT_WANTED)) &&
           parent_stays(m->s, e);
}

/* False: it must wait, and all behind it. */
static bool take(struct mover *m, struct queued q)
{
    struct store *s = m->s;
    struct hot *h;
    uint32_t dev;

    if (!still_queued(s, q))
        return true;
    h = hot_of(s, q.block);
    dev = dev_for(m, entry_at(s, q.block), h);
    if (dev != DEV_NONE && admitted(m, q.block, dev))
        return write_start(m, q.block, dev, false) != NULL;
    metric_add(&s->metrics->ssd_deferred_blocks, dev != DEV_NONE);
    hot_unset(h, HOT_QUEUED);
    hot_set(h, HOT_DEFERRED);
    return true;
}

bool writes_pump(struct mover *m)
{
    for (uint32_t i = 0; m->ring_n && i < TICK_WRITES; i++) {
        if (!take(m, m->ring[m->ring_from]))
            return false; /* goes on when a request has ended */
        m->ring_from = (m->ring_from + 1) & (m->ring_cap - 1);
        m->ring_n--;
    }
    return m->ring_n > 0;
}

/* ---- the contract */

static void flush_after(struct write *w, struct order *o)
{
    o->req.dev = w->req.dev;
    list_add_tail(&w->flushes, &o->node);
}

enum err store_persist(struct store *s, uint32_t block, struct store_wait *w)
{
    struct mover *m = s->mover;
    const struct entry *e = entry_at(s, block);
    struct hot *h = hot_of(s, block);
    struct write *wr = NULL;
    struct order *o;
    uint32_t dev;

    if (!m)
        return ERR_UNSUPPORTED;
    MUST(h->refs > 0);
    o = order_new(m, w);
    if (!o)
        return ERR_BUSY;
    dev = e->state == BLOCK_LIVE ? dev_for(m, e, h) : DEV_NONE;
    if (e->state == BLOCK_LIVE && block_placed(s, e)) {
        order_send(o, SEG_REQ_FLUSH, seg_dev(e->tag));
    } else if (hot_is(h, HOT_WRITING)) {
        flush_after(write_find(m, block), o);
    } else if (dev == DEV_NONE || e->ssd) {
        list_add_tail(&m->ended, &o->node);
    } else if ((wr = write_start(m, block, dev, true))) {
        flush_after(wr, o);
    } else {
        order_free(o);
        return ERR_BUSY;
    }
    w->pending++;
    return OK;
}

static uint32_t recorded_dev(const struct store *s, uint32_t block)
{
    const struct entry *e = entry_at(s, block);
    const struct hot *h = hot_find(s, block);

    if (h && hot_is(h, HOT_WRITING))
        return write_find(s->mover, block)->req.dev;
    if (e->ssd || (h && hot_is(h, HOT_RECORDED)))
        return seg_dev(e->tag);
    LIST_FOREACH(n, &s->mover->orders)
    {
        const struct order *o = container_of(n, struct order, all);

        if (o->req.what == SEG_REQ_TOMB && o->req.tomb.hash.lo == e->hash.lo &&
            o->req.tomb.hash.hi == e->hash.hi)
            return o->req.dev;
    }
    return DEV_NONE;
}

enum err store_drop_durable(struct store *s, uint32_t block,
                            struct store_wait *w)
{
    uint32_t dev = s->mover ? recorded_dev(s, block) : DEV_NONE;
    bool doubtful = dev == DEV_NONE && w && s->mover && s->mover->tomb_lost;
    struct order *o = NULL;

    if (dev != DEV_NONE || doubtful) {
        o = order_new(s->mover, w);
        if (!o)
            return ERR_BUSY;
        o->req.tomb = tomb_of(s, entry_at(s, block));
    }
    store_drop(s, block);
    if (!o)
        return OK;
    if (w)
        w->pending++;
    if (doubtful)
        list_add_tail(&s->mover->ended, &o->node);
    else
        order_send(o, SEG_REQ_TOMB, dev);
    return OK;
}

void store_demote(struct store *s, uint32_t block)
{
    const struct entry *e = entry_at(s, block);

    if (!s->mover || (e->state != BLOCK_LIVE && e->state != BLOCK_LOADING))
        return;
    hot_set(hot_of(s, block), HOT_LEAVE);
    if (e->state == BLOCK_LOADING || block_leave(s, block))
        return;
    mover_queue(s, block);
}
