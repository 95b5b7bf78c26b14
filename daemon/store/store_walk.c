/* SPDX-License-Identifier: Apache-2.0
 *
 * Walking all blocks by entry index, following parents, and store_check, which
 * recounts every number that the store keeps and MUSTs that it is right. */
#include "store/store_impl.h"

static bool is_found(const struct entry *e)
{
    return e->state == BLOCK_LIVE || e->state == BLOCK_COLD ||
           e->state == BLOCK_LOADING;
}

uint64_t store_walk(struct store *s, uint64_t cursor, uint32_t budget,
                    store_visit_fn *fn, void *arg)
{
    uint32_t b = cursor ? (uint32_t)cursor : 1;

    for (; budget && b < s->cat.entry_hi; budget--, b++) {
        const struct entry *e = entry_at(s, b);

        if (is_found(e) && !ns_at(s, e)->condemned)
            fn(s, b, arg);
    }
    return b < s->cat.entry_hi ? b : 0;
}

uint32_t store_route(const struct store *s, uint32_t block)
{
    return s->cat.routes[block];
}

uint64_t store_walk_routes(struct store *s, uint64_t cursor, uint32_t budget,
                           const uint64_t *slots, store_route_fn *fn, void *arg)
{
    uint32_t b = cursor ? (uint32_t)cursor : 1;

    for (; budget && b < s->cat.entry_hi; budget--, b++) {
        uint32_t slot = s->cat.routes[b];

        if (!(slots[slot / 64] >> slot % 64 & 1))
            continue;
        if (is_found(entry_at(s, b)) &&
            !ns_at(s, entry_at(s, b))->condemned && !fn(s, b, arg))
            return b;
    }
    return b < s->cat.entry_hi ? b : 0;
}

bool store_attr_known(const struct store *s, uint32_t block)
{
    const struct entry *e = entry_at(s, block);

    return e->state != BLOCK_COLD || !e->rich;
}

bool store_descends(const struct store *s, uint32_t block,
                    const uint32_t *ancestors, uint32_t n)
{
    for (uint32_t i = 0; block && i < DESCENT_MAX; i++) {
        for (uint32_t a = 0; a < n; a++)
            if (block == ancestors[a])
                return true;
        block = entry_at(s, block)->parent;
    }
    return block != 0; /* too long to tell: rather yes than a ring */
}

/* ---- checks */

struct totals {
    uint64_t entries, blocks, bytes, extent_bytes;
    uint64_t cold, cold_ttl, condemned_cold, ttl, ssd_blocks, ssd_bytes;
};

static uint64_t check_extents(const struct store *s, const struct entry *e,
                              const struct hot *h)
{
    const struct slab *sl = &s->pools[ns_at(s, e)->cfg.pool].mem.slab;
    uint64_t bytes = 0;
    uint32_t at = h->head, n = 0;

    for (; at != TIER_NOWHERE; n++) {
        const struct slab_unit *u = &sl->units[slab_unit_of(at)];
        const struct slab_rec *r = &sl->recs[u->recs + at % SLAB_SLOTS];

        MUST(u->cls);
        MUST(r->owner == e->hot);
        bytes += (uint64_t)r->n * sl->cls[u->cls].slot_bytes;
        at = r->next;
    }
    MUST(n == h->extents);
    MUST(bytes >= e->len);
    return bytes;
}

static void check_hot(const struct store *s, const struct entry *e)
{
    const struct hot *h = hot_at(s, e->hot);
    bool held = h->refs || h->pins || (h->children && !e->ssd);

    if (e->state == BLOCK_LIVE) {
        MUST(h->node.queue != 0);
        MUST(held == (h->node.held != EVICT_MEMBER));
    } else {
        MUST(h->node.queue == 0);
        MUST(h->refs || h->pins);
    }
}

/* Of blocks with one key at most one is found; a COLD one's key is its hash. */
static bool is_end(const struct entry *e)
{
    return e->state == BLOCK_GONE || e->state == BLOCK_TOMB;
}

static void check_twins(const struct store *s, uint32_t b)
{
    const struct entry *e = entry_at(s, b);

    for (uint32_t o = catalog_next(&s->cat, b, e->hash); o;
         o = catalog_next(&s->cat, o, e->hash)) {
        const struct entry *t = entry_at(s, o);
        struct keys_view v;

        if (t->ns != e->ns || is_end(e) || is_end(t))
            continue;
        MUST(e->state != BLOCK_COLD && t->state != BLOCK_COLD);
        keys_view(&s->keys, hot_at(s, e->hot)->key, &v);
        MUST(!keys_same(&s->keys, hot_at(s, t->hot)->key, &v.key));
    }
}

static void check_ssd(const struct store *s, const struct entry *e,
                      struct totals *t)
{
    struct cold c = cold_side(s, e);

    if (e->state == BLOCK_COLD) {
        MUST(e->ssd);
        MUST(e->side == (c.children || c.expires_s));
        t->cold++;
        t->cold_ttl += c.expires_s != 0;
        t->condemned_cold += ns_at(s, e)->condemned;
    } else {
        MUST(!e->side);
        t->ttl += entry_hot(e) && hot_at(s, e->hot)->expires_s;
    }
    if (e->ssd) {
        MUST(is_found(e));
        t->ssd_blocks++;
        t->ssd_bytes += e->len;
    }
}

static void check_block(const struct store *s, uint32_t b, struct totals *all,
                        struct totals *of_ns, uint64_t *pinned)
{
    const struct entry *e = entry_at(s, b);
    const struct hot *h = hot_find(s, b);
    uint64_t bytes;

    MUST(e->ns && ns_at(s, e)->cfg.id);
    MUST((e->state == BLOCK_TOMB || e->state == BLOCK_COLD) == !h);
    all->entries++;
    of_ns->entries++;
    check_twins(s, b);
    check_ssd(s, e, all);
    check_ssd(s, e, of_ns);
    if (!h)
        return;
    check_hot(s, e);
    bytes = check_extents(s, e, h);
    all->extent_bytes += bytes;
    of_ns->extent_bytes += bytes;
    if (h->pins)
        *pinned += e->len;
    if (e->state == BLOCK_GONE)
        return;
    all->blocks++;
    all->bytes += e->len;
    of_ns->blocks++;
    of_ns->bytes += e->len;
}

/* Counts the blocks that name each as parent by taking the number off, and
 * puts it back: no memory is needed for the count. Where it stands depends on
 * the state. */
static uint64_t links_add(const struct store *s, uint32_t b, int by)
{
    struct entry *e = entry_at(s, b);
    uint32_t *n;

    if (e->state == BLOCK_TOMB)
        return e->links += (uint64_t)(int64_t)by;
    if (e->state == BLOCK_COLD) {
        MUST(e->side || !by);
        n = &s->cat.colds[b].children;
        return e->side ? (*n += (uint32_t)by) : 0;
    }
    n = &hot_of(s, b)->children;
    return *n += (uint32_t)by;
}

static void links_walk(const struct store *s, int by)
{
    for (uint32_t b = 1; b < s->cat.entry_hi; b++) {
        uint32_t p = entry_at(s, b)->parent;

        if (!p || entry_at(s, b)->state == BLOCK_FREE)
            continue;
        MUST(entry_at(s, p)->state != BLOCK_FREE);
        MUST(entry_at(s, p)->ns == entry_at(s, b)->ns);
        links_add(s, p, by);
    }
}

static void check_links(const struct store *s)
{
    links_walk(s, -1);
    for (uint32_t b = 1; b < s->cat.entry_hi; b++)
        if (entry_at(s, b)->state != BLOCK_FREE)
            MUST(links_add(s, b, 0) == 0);
    links_walk(s, 1);
}

static void check_ns(const struct store *s, uint32_t slot)
{
    const struct store_ns *n = &s->nss[slot];
    struct totals of_ns = {0}, all = {0};
    uint64_t pinned = 0, live = 0;

    for (uint32_t b = 1; b < s->cat.entry_hi; b++) {
        const struct entry *e = entry_at(s, b);

        if (e->state == BLOCK_FREE || e->ns != slot)
            continue;
        check_block(s, b, &all, &of_ns, &pinned);
        live += e->state == BLOCK_LIVE;
    }
    MUST(of_ns.entries == n->entries);
    MUST(of_ns.blocks == n->blocks);
    MUST(of_ns.bytes == n->bytes);
    MUST(of_ns.extent_bytes == n->extent_bytes);
    MUST(of_ns.cold == n->cold_n);
    MUST(of_ns.ssd_blocks == n->ssd_blocks);
    MUST(of_ns.ssd_bytes == n->ssd_bytes);
    MUST(live == (uint64_t)n->evict.members + n->evict.held);
    MUST((n->entries > 0) == (n->active_at > 0));
    if (n->active_at)
        MUST(s->active[n->active_at - 1] == slot);
}

static void check_totals(const struct store *s)
{
    struct totals all = {0};
    uint64_t pinned = 0, used = 0;

    for (uint32_t b = 1; b < s->cat.entry_hi; b++) {
        struct totals of_ns = {0};

        if (entry_at(s, b)->state != BLOCK_FREE)
            check_block(s, b, &all, &of_ns, &pinned);
    }
    for (uint32_t i = 0; i < STORE_POOLS; i++)
        if (s->pools[i].ready)
            used += s->pools[i].mem.slab.used_bytes;
    MUST(all.entries == s->cat.entry_n);
    MUST(all.blocks == s->blocks);
    MUST(all.bytes == s->bytes);
    MUST(all.extent_bytes == s->extent_bytes);
    MUST(all.extent_bytes == used);
    MUST(pinned == s->pinned_bytes);
    MUST(all.ttl == s->ttl_n);
    MUST(all.cold == s->cold_n);
    MUST(all.cold_ttl == s->cold_ttl_n);
    MUST(all.condemned_cold == s->condemned_cold);
    MUST(all.ssd_blocks == s->ssd_blocks);
    MUST(all.ssd_bytes == s->ssd_bytes);
    mover_check(s);
}

void store_check(const struct store *s)
{
    catalog_check(&s->cat);
    for (uint32_t i = 0; i < STORE_POOLS; i++)
        if (s->pools[i].ready)
            slab_check(&s->pools[i].mem.slab);
    for (uint32_t slot = 1; slot < s->ns_cap; slot++)
        if (s->nss[slot].cfg.id)
            check_ns(s, slot);
    check_totals(s);
    check_links(s);
}
