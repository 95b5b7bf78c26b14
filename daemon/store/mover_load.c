/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads: a COLD block comes to memory, once for all who want it.
 *
 *   COLD --load_new--> LOADING, FRESH --reads_flush--> LOADING, flying
 *     ^                   | cancelled                    | last io ended
 *     +-------------------+                              v
 *     +---- another key, no room for what its header says
 *                                                  good: LIVE, waiters hold it
 *                                                  bad:  GONE, CORRUPT
 *
 * Memory is reserved before anything is read (BUSY if there is none), the load
 * holds a ref on its block throughout, and the bytes become visible only after
 * their crc32c was compared with what PUT said. Where the record is rich its
 * header page comes along and tells attributes and parent; its key bytes are
 * compared with those that the block was asked for by.
 *
 * A block dropped while it is loaded is GONE and keeps its memory until the io
 * has ended. Nothing is retried here: a miss is a legal answer.
 *
 * Invariants: 1. hot.load of a LOADING block is its load. 2. load_bytes is the
 * pages of all loads. Thread: the lane. */
#include "store/mover_impl.h"

#include <string.h>

#include "base/fault.h"

/* ---- service times */

static uint32_t size_of(uint32_t pages)
{
    uint32_t i = 31 - (uint32_t)__builtin_clz(pages);

    return i < ETA_SIZES ? i : ETA_SIZES - 1;
}

static void mix(uint64_t *avg, uint64_t x)
{
    *avg = *avg ? (7 * *avg + x) / 8 : x;
}

static void measured(struct load *l)
{
    struct mover *m = l->m;
    struct store *s = m->s;
    uint64_t ns = env_fresh_ns(s->env) - l->began_ns;

    hist_add(&s->metrics->ssd_read_seconds, ns);
    mix(&m->eta_ns[size_of(l->pages)], max_u64(ns, 1));
    mix(&m->page_ns, max_u64(ns / l->pages, 1));
}

/* Before anything was measured: an ordinary NVMe drive. */
enum { GUESS_NS = 100000, GUESS_PAGE_NS = 2000 };

uint32_t store_eta_us(const struct store *s, uint32_t block)
{
    const struct mover *m = s->mover;
    const struct entry *e = entry_at(s, block);
    uint64_t page_ns, ns;
    uint32_t pages = seg_pages(e->len);

    if (e->state != BLOCK_COLD && e->state != BLOCK_LOADING)
        return 0;
    page_ns = m->page_ns ? m->page_ns : GUESS_PAGE_NS;
    ns = pages ? m->eta_ns[size_of(pages)] : 0;
    if (!ns)
        ns = GUESS_NS + pages * page_ns;
    ns += m->fresh_bytes / SEG_PAGE * min_u64(page_ns, GUESS_PAGE_NS);
    if (e->state == BLOCK_LOADING)
        ns -= min_u64(ns, env_fresh_ns(s->env) -
                              load_of(s, hot_of(s, block))->began_ns);
    return (uint32_t)min_u64(max_u64(ns / NS_PER_US, 1), UINT32_MAX);
}

/* ---- begin and end */

static uint64_t load_bytes(const struct load *l)
{
    return (uint64_t)l->pages * SEG_PAGE;
}

static bool window_has(const struct mover *m, enum store_load_class cls,
                       uint64_t bytes)
{
    uint64_t window = m->ssd->load_window;

    if (cls != LOAD_DEMAND)
        window /= 2;
    return !m->load_bytes || m->load_bytes + bytes <= window;
}

/* The load's part of the state; the block's is the caller's. */
static void load_free(struct load *l)
{
    struct mover *m = l->m;

    MUST(!l->ios || !l->flying);
    list_del(&l->node);
    list_del(&l->head_node);
    m->load_bytes -= load_bytes(l);
    if (!l->flying)
        m->fresh_bytes -= load_bytes(l);
    seg_read_end(m->ssd->maps[seg_dev(l->place.tag)], l->place.page);
    if (l->head)
        head_put(l->head);
    pool_put(&m->load_pool, l);
}

/* LOADING -> COLD, or GONE if its place went meanwhile. */
static void load_back(struct store *s, uint32_t block)
{
    if (entry_at(s, block)->ssd) {
        block_chill(s, block, EVICT_GONE);
        return;
    }
    ghost_put(s, entry_at(s, block)->hash, FOUND_MISS_EVICTED);
    metric_add(&s->metrics->ssd_evicted_blocks, 1);
    block_gone(s, block, EVICT_GONE);
    store_unref(s, block);
}

/* A hot record, key bytes and extents for the block; BUSY: it is COLD again. */
static enum err body_make(struct store *s, uint32_t block,
                          const struct store_key *k,
                          const struct wire_attr *attr, const uint8_t *parent,
                          uint16_t parent_len)
{
    enum err e = block_warm(s, block);
    uint32_t key;

    if (e)
        return e;
    key = key_make(s, k, attr, parent, parent_len);
    hot_of(s, block)->key = key;
    e = key ? block_room(s, block) : ERR_BUSY;
    if (e)
        load_back(s, block);
    return e;
}

static void load_init(struct mover *m, struct load *l, uint32_t block,
                      struct head *head, enum store_load_class cls)
{
    struct store *s = m->s;
    const struct entry *e = entry_at(s, block);

    *l = (struct load){.m = m,
                       .block = block,
                       .place = {e->ssd, e->tag},
                       .pages = seg_pages(e->len),
                       .cls = cls,
                       .head = head,
                       .ios = 1 + (head != NULL), /* 1: until it flies */
                       .began_ns = env_fresh_ns(s->env)};
    list_init(&l->waits);
    list_init(&l->head_node);
    list_add_tail(&m->fresh[cls], &l->node);
    if (head)
        list_add_tail(&head->loads, &l->head_node);
    m->load_bytes += load_bytes(l);
    m->fresh_bytes += load_bytes(l);
    seg_read_begin(m->ssd->maps[seg_dev(e->tag)], e->ssd);
    hot_of(s, block)->load = pool_idx(&m->load_pool, l);
    trace_block(s, TRACE_LOAD, e, e->ssd);
}

enum err load_new(struct store *s, uint32_t block, const struct store_key *k,
                  const struct wire_attr *attr, const uint8_t *parent,
                  uint16_t parent_len, bool described,
                  enum store_load_class cls)
{
    struct mover *m = s->mover;
    const struct entry *e = entry_at(s, block);
    struct seg_place place = {e->ssd, e->tag};
    struct head *head = NULL;
    struct load *l;

    if (!window_has(m, cls, (uint64_t)seg_pages(e->len) * SEG_PAGE))
        return ERR_BUSY;
    l = fault_here("load_new") ? NULL : pool_get(&m->load_pool);
    if (!l)
        return ERR_BUSY;
    if (e->rich && !described) {
        head = head_get(m, seg_dev(place.tag), seg_header_page(place, e->len));
        if (!head) {
            pool_put(&m->load_pool, l);
            return ERR_BUSY;
        }
    }
    if (body_make(s, block, k, attr, parent, parent_len)) {
        if (head)
            head_put(head);
        pool_put(&m->load_pool, l);
        return ERR_BUSY;
    }
    if (attr)
        hot_of(s, block)->node.priority = attr->priority;
    load_init(m, l, block, head, cls);
    return OK;
}

/* ---- are these the bytes? */

bool head_record(const struct head *h, uint32_t idx, struct hash128 hash,
                 uint64_t version, struct seg_meta *out)
{
    struct seg_group g;
    uint32_t cursor = 0;

    /* Whose segment it is says the record: its hash is keyed. */
    memcpy(&g, h->buf, sizeof g);
    if (h->err ||
        seg_group_read(h->buf, g.uuid, g.generation, h->page, UINT32_MAX, &g) ||
        g.kind != SEG_GROUP_RECORDS || idx >= g.record_n)
        return false;
    for (uint32_t i = 0; i <= idx; i++)
        seg_group_next(h->buf, &cursor, out);
    return out->key.hash.lo == hash.lo && out->key.hash.hi == hash.hi &&
           out->version == version;
}

/* What the header says becomes the block's key bytes, attributes, parent.
 * CORRUPT, MISS (another key with this hash), BUSY (no room for them). */
static enum err header_take(struct store *s, const struct load *l)
{
    const struct entry *e = entry_at(s, l->block);
    struct hot *h = hot_of(s, l->block);
    struct seg_meta m;
    uint32_t key;

    if (!head_record(l->head, seg_idx(l->place.tag), e->hash, e->version, &m) ||
        m.len != e->len || m.crc != h->crc)
        return ERR_CORRUPT;
    if (!keys_same(&s->keys, h->key, &m.key))
        return ERR_MISS;
    key = key_make(s, &m.key, m.attr, m.parent, m.parent_len);
    if (!key)
        return ERR_BUSY;
    keys_del(&s->keys, h->key);
    h->key = key;
    h->node.priority = m.attr ? m.attr->priority : 0;
    return OK;
}

static bool crc_right(const struct store *s, uint32_t block)
{
    struct span *spans = s->mover->spans;
    uint32_t n = store_spans(s, block, 0, entry_at(s, block)->len, spans,
                             STORE_SPANS_MAX);
    uint32_t crc = 0;

    for (uint32_t i = 0; i < n; i++)
        crc = crc32c(crc, spans[i].p, spans[i].len);
    return crc == hot_of(s, block)->crc;
}

static enum err load_verify(struct store *s, const struct load *l)
{
    if (l->err)
        return l->err;
    if (fault_here("load_verify") || !crc_right(s, l->block))
        return ERR_CORRUPT;
    return l->head ? header_take(s, l) : OK;
}

/* ---- the end */

/* Does it stay in memory? Not in a namespace whose memory is for writing; not
 * after its first read if the second touch decides; not if it is only taken
 * along to another segment. */
static bool leaves(const struct store *s, const struct load *l, bool wanted)
{
    const struct entry *e = entry_at(s, l->block);

    if (ns_at(s, e)->cfg.write_buffer)
        return true;
    if (l->cls == LOAD_AGAIN)
        return !wanted;
    return l->m->ssd->second_touch && !l->prefetch && e->heat <= 1;
}

static void live(struct store *s, struct load *l, bool wanted)
{
    struct entry *e = entry_at(s, l->block);
    struct hot *h = hot_of(s, l->block);

    e->state = BLOCK_LIVE;
    event_moved(s, l->block, h->tier);
    h->used_ms = now_ms(s);
    h->used_seq = ++s->seq;
    h->hits = e->heat;
    evict_insert(&ns_at(s, e)->evict, e->hot);
    block_settle(s, l->block, false);
    if (leaves(s, l, wanted))
        hot_set(h, HOT_LEAVE);
    if (!e->ssd)
        mover_queue(s, l->block);
    metric_add(&s->metrics->ssd_loads, 1);
    metric_add(&s->metrics->ssd_load_bytes, e->len);
    if (l->prefetch && l->cls != LOAD_AGAIN)
        metric_add(&s->metrics->prefetched_blocks, 1);
}

/* What could not be read as it was written does not come back. */
static void unreadable(struct store *s, struct load *l, enum err why)
{
    struct entry *e = entry_at(s, l->block);

    metric_add(&s->metrics->ssd_corrupt, why == ERR_CORRUPT);
    ghost_put(s, e->hash, FOUND_MISS_CORRUPT);
    if (mover_readable(s, seg_dev(l->place.tag))) {
        e->tag = l->place.tag;
        tomb_quietly(s, e);
    }
    block_gone(s, l->block, EVICT_GONE);
}

/* LOADING ends; false: the block is COLD again, the load's ref went with it. */
static bool settle(struct store *s, struct load *l)
{
    struct entry *e = entry_at(s, l->block);
    bool wanted = !list_empty(&l->waits);
    enum err err;

    if (e->state != BLOCK_LOADING)
        return true;
    if (ns_at(s, e)->condemned) {
        block_gone(s, l->block, EVICT_GONE);
        return true;
    }
    err = load_verify(s, l);
    trace_block(s, TRACE_LOADED, e, (uint64_t)(int64_t)err);
    if (err == ERR_MISS || err == ERR_BUSY) {
        load_back(s, l->block);
        return false;
    }
    if (err)
        unreadable(s, l, err);
    else
        live(s, l, wanted);
    if (e->state == BLOCK_LIVE && hot_expired(s, hot_of(s, l->block)))
        block_expire(s, l->block);
    return true;
}

static void tell(struct store *s, uint32_t block, struct list *waits)
{
    struct list *n;

    while ((n = list_pop(waits))) {
        struct store_wait *w = container_of(n, struct store_wait, node);
        bool good = entry_at(s, block)->state == BLOCK_LIVE;

        if (good)
            store_ref(s, block);
        wait_end(w, good ? OK : ERR_MISS);
    }
}

static void load_end(struct load *l)
{
    struct mover *m = l->m;
    struct store *s = m->s;
    uint32_t block = l->block;
    struct list waits;
    bool held;

    if (!l->err)
        measured(l);
    held = settle(s, l);
    list_move(&waits, &l->waits);
    load_free(l);
    s->freed++;
    if (held) {
        tell(s, block, &waits);
        store_unref(s, block);
        return;
    }
    while (!list_empty(&waits))
        wait_end(container_of(list_pop(&waits), struct store_wait, node),
                 ERR_MISS);
}

void load_io_done(struct load *l, enum err e)
{
    if (e && !l->err)
        l->err = e == ERR_BUSY ? e : ERR_IO;
    MUST(l->ios > 0);
    if (--l->ios == 0)
        load_end(l);
}

/* ---- devices that went */

static struct load *dead_in(struct list *loads, uint32_t dev)
{
    LIST_FOREACH(n, loads)
    {
        struct load *l = container_of(n, struct load, node);

        if (!l->dead && seg_dev(l->place.tag) == dev)
            return l;
    }
    return NULL;
}

static struct load *dead_find(struct mover *m, uint32_t dev)
{
    struct load *l = dead_in(&m->loading, dev);

    for (uint32_t c = 0; !l && c < LOAD_CLASSES; c++)
        l = dead_in(&m->fresh[c], dev);
    return l;
}

/* Its memory stays until the disk has given it back; nobody waits for that. */
static void load_dead(struct mover *m, struct load *l)
{
    struct store *s = m->s;
    uint32_t block = l->block;
    struct list waits;

    l->dead = true;
    l->err = ERR_IO;
    if (entry_at(s, block)->state == BLOCK_LOADING)
        unreadable(s, l, ERR_IO);
    list_move(&waits, &l->waits);
    if (!l->flying) {
        load_free(l);
        tell(s, block, &waits);
        store_unref(s, block);
        return;
    }
    tell(s, block, &waits);
}

/* One at a time: whoever is told may end other loads. */
void loads_dead(struct mover *m, uint32_t dev)
{
    struct load *l;

    while ((l = dead_find(m, dev)))
        load_dead(m, l);
}

/* ---- the contract */

static void join(struct mover *m, struct load *l, enum store_load_class cls,
                 struct store_wait *w)
{
    if (w) {
        list_add_tail(&l->waits, &w->node);
        metric_add(&m->s->metrics->ssd_loads_joined, 1);
    }
    if (cls >= l->cls)
        return;
    l->cls = cls;
    if (l->flying)
        return;
    list_del(&l->node);
    list_add_tail(&m->fresh[cls], &l->node);
}

enum err store_load(struct store *s, uint32_t block, const struct store_key *k,
                    enum store_load_class cls, struct store_wait *w)
{
    struct mover *m = s->mover;
    const struct entry *e = entry_at(s, block);
    uint64_t freed = store_freed(s);

    MUST(e->state == BLOCK_LOADING || e->state == BLOCK_COLD);
    if (e->state == BLOCK_LOADING) {
        join(m, load_of(s, hot_of(s, block)), cls, w);
    } else if (!mover_readable(s, seg_dev(e->tag))) {
        if (w)
            list_add_tail(&m->missed, &w->node);
    } else if (load_new(s, block, k, NULL, NULL, 0, false, cls)) {
        /* What a vain attempt freed itself must not wake it again. */
        s->freed -= store_freed(s) - freed;
        return ERR_BUSY;
    } else {
        struct load *l = load_of(s, hot_of(s, block));

        l->prefetch = !w;
        if (w)
            list_add_tail(&l->waits, &w->node);
    }
    if (w) {
        w->pending = 1;
        w->block = block;
        w->err = OK;
    }
    return OK;
}

void load_forget(struct mover *m, struct store_wait *w)
{
    struct store *s = m->s;
    struct load *l;

    list_del(&w->node);
    if (entry_at(s, w->block)->state != BLOCK_LOADING)
        return;
    l = load_of(s, hot_of(s, w->block));
    if (l->flying || l->prefetch || l->cls != LOAD_DEMAND ||
        !list_empty(&l->waits))
        return;
    load_free(l);
    load_back(s, w->block);
}
