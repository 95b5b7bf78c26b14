/* SPDX-License-Identifier: Apache-2.0
 *
 * Reclaim, and what a record says of a COLD block.
 *
 * A segment that is to be emptied shows its headers. What this store has there
 * it takes along, as far as the log allows bytes for it, or lets go:
 *
 *   LIVE     used while in memory: written again; else only its place goes
 *   LOADING  it is wanted: written again when it has come
 *   COLD     used while COLD, or a parent: loaded, then written again and out
 *            of memory; else evicted
 *
 * The place is cleared at once in every case: no read begins there any more,
 * those under way keep the segment (seg_read_begin). A parent goes after its
 * children, for its record is older than theirs: only re-insertion keeps it.
 *
 * A peek reads the header page of a COLD block and copies nothing: what it
 * tells is borrowed from the page for the time of the call. Thread: the lane.
 * Failure: what there is no memory to take along is evicted; a peek is BUSY. */
#include "store/mover_impl.h"

#include <string.h>

#include "base/fault.h"

/* ---- reclaim */

/* The entry that has this place. */
static uint32_t placed_at(const struct store *s, struct hash128 hash,
                          struct seg_place p)
{
    uint32_t b = catalog_first(&s->cat, hash);

    for (; b; b = catalog_next(&s->cat, b, hash)) {
        const struct entry *e = entry_at(s, b);

        if (e->ssd == p.page && e->tag == p.tag)
            return b;
    }
    return 0;
}

/* In memory, or on its way there. */
static void again_hot(struct store *s, uint32_t b, const struct seg_reclaim *r)
{
    struct entry *e = entry_at(s, b);
    struct hot *h = hot_of(s, b);
    bool used = e->state == BLOCK_LOADING || h->hits;
    bool again = used && seg_again_take(r, e->len);

    place_clear(s, b);
    if (again)
        hot_set(h, HOT_AGAIN);
    else
        hot_set(h, HOT_DEFERRED); /* its next use brings it back */
    if (e->state != BLOCK_LIVE)
        return;
    block_settle(s, b, false);
    if (again)
        mover_queue(s, b);
}

static void again_cold(struct store *s, uint32_t b, const struct seg_reclaim *r,
                       const struct seg_meta *m)
{
    struct entry *e = entry_at(s, b);
    bool wanted = e->heat || cold_side(s, e).children;

    if (ns_at(s, e)->condemned) {
        block_gone(s, b, EVICT_GONE);
        return;
    }
    if (!wanted || !seg_again_take(r, e->len) ||
        load_new(s, b, &m->key, m->attr, m->parent, m->parent_len, true,
                 LOAD_AGAIN)) {
        cold_forget(s, b);
        return;
    }
    e->heat = 0;
    place_clear(s, b);
    hot_set(hot_of(s, b), HOT_AGAIN);
}

void store_reclaim(struct store *s, const struct seg_reclaim *r)
{
    uint32_t cursor = 0, n = seg_group_count(r->page);
    struct seg_group g;

    memcpy(&g, r->page, sizeof g);
    for (uint32_t i = 0; i < n; i++) {
        struct seg_place p = {r->first_page + i * g.record_pages,
                              seg_tag(r->dev, i)};
        struct seg_meta m;
        uint32_t b;

        seg_group_next(r->page, &cursor, &m);
        b = placed_at(s, m.key.hash, p);
        if (!b)
            continue;
        if (entry_at(s, b)->state == BLOCK_COLD)
            again_cold(s, b, r, &m);
        else
            again_hot(s, b, r);
    }
}

/* ---- peek */

/* The record's bytes are borrowed from the page, which lives until done. */
static void peek_info(const struct peek *k, const struct store *s,
                      const struct seg_meta *m, struct store_info *out)
{
    *out = (struct store_info){
        .len = k->len,
        .version = k->version,
        .crc = k->crc,
        .children = k->children,
        .found = FOUND_HIT,
        .tier = TIER_SSD,
        .key = m->key,
        .parent_len = m->parent_len,
        .parent = m->parent,
    };
    out->key.ns = k->ns;
    if (m->attr)
        out->attr = *m->attr;
    if (m->born_s < s->env->wall_s)
        out->age_ms = (s->env->wall_s - m->born_s) * 1000;
    if (k->expires_s > s->env->wall_s)
        out->ttl_left_ms = (uint32_t)min_u64(
            (k->expires_s - s->env->wall_s) * 1000, UINT32_MAX);
}

/* What was asked about may be gone, and its id another block's by now. */
static bool peek_stands(const struct peek *k)
{
    const struct store *s = k->head->m->s;
    const struct entry *e = entry_at(s, k->block);

    return (e->state == BLOCK_COLD || e->state == BLOCK_LOADING ||
            e->state == BLOCK_LIVE) &&
           e->version == k->version && e->hash.lo == k->hash.lo &&
           e->hash.hi == k->hash.hi && !ns_at(s, e)->condemned;
}

static void peek_free(struct peek *k)
{
    struct mover *m = k->head->m;

    list_del(&k->node);
    k->p->io = NULL;
    head_put(k->head);
    pool_put(&m->peek_pool, k);
    m->s->freed++;
}

static void peek_end(struct peek *k)
{
    struct store_peek *p = k->p;
    struct head *h = k->head;
    struct seg_meta meta;

    p->err = ERR_MISS;
    if (h->state == HEAD_DONE && peek_stands(k) &&
        head_record(h, k->idx, k->hash, k->version, &meta)) {
        p->err = OK;
        peek_info(k, h->m->s, &meta, &p->info);
    }
    h->refs++; /* what it borrows is good until done has returned */
    peek_free(k);
    p->done(p);
    head_put(h);
}

void peeks_done(struct head *h)
{
    while (!list_empty(&h->peeks))
        peek_end(container_of(h->peeks.next, struct peek, node));
}

static struct peek *dead_in(struct list *heads, uint32_t dev)
{
    LIST_FOREACH(n, heads)
    {
        struct head *h = container_of(n, struct head, node);

        if (h->dev == dev && !list_empty(&h->peeks))
            return container_of(h->peeks.next, struct peek, node);
    }
    return NULL;
}

/* The page stays the disk's. */
void peeks_dead(struct mover *m, uint32_t dev)
{
    struct peek *k;

    for (uint32_t i = 0; i < HEAD_BUCKETS; i++)
        while ((k = dead_in(&m->heads[i], dev)))
            peek_end(k);
}

void store_peek_cancel(struct store *s, struct store_peek *p)
{
    (void)s;
    if (p->io)
        peek_free(p->io);
}

enum err store_peek(struct store *s, uint32_t block, struct store_peek *p)
{
    struct mover *m = s->mover;
    const struct entry *e = entry_at(s, block);
    struct seg_place place = {e->ssd, e->tag};
    struct cold c = cold_side(s, e);
    struct peek *k;
    struct head *h;

    MUST(e->state == BLOCK_COLD || e->state == BLOCK_LOADING);
    if (!block_placed(s, e) || fault_here("store_peek"))
        return ERR_BUSY;
    k = pool_get(&m->peek_pool);
    if (!k)
        return ERR_BUSY;
    h = head_get(m, seg_dev(place.tag), seg_header_page(place, e->len));
    if (!h || !head_send(h)) {
        if (h)
            head_put(h);
        pool_put(&m->peek_pool, k);
        return ERR_BUSY;
    }
    *k = (struct peek){.p = p,
                       .head = h,
                       .block = block,
                       .hash = e->hash,
                       .version = e->version,
                       .idx = seg_idx(place.tag),
                       .len = e->len,
                       .crc = store_crc(s, block),
                       .children = c.children,
                       .expires_s = c.expires_s,
                       .ns = ns_at(s, e)->cfg.id};
    list_add_tail(&h->peeks, &k->node);
    p->block = block;
    p->io = k;
    return OK;
}
