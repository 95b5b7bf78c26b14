/* SPDX-License-Identifier: Apache-2.0
 *
 * A block's life after its birth: who holds it, whose child it is, its end.
 *
 *   OPEN -> LIVE -> GONE -> (entry freed)     no child names it
 *           COLD         -> TOMB -> (freed)   when its last child left
 *
 * A child leaves its parent when it is GONE (or TOMB) and has no children
 * itself: a parent's entry is kept as long as anything below it is here, in
 * memory or COLD. So leaves go before roots, parent links never dangle, and a
 * chain can be dropped in any order. A parent with a place on the SSD is not
 * held in memory: it becomes COLD and stays above its children. */
#include "store/store_impl.h"

/* The one place that decides what the policy may name as victim. */
void block_settle(struct store *s, uint32_t block, bool warm)
{
    struct entry *e = entry_at(s, block);
    struct hot *h = hot_of(s, block);
    bool held = h->refs || h->pins || (h->children && !e->ssd);

    if (e->state != BLOCK_LIVE)
        return;
    if (held && h->node.held == EVICT_MEMBER)
        evict_hold(&ns_at(s, e)->evict, e->hot);
    else if (!held && h->node.held != EVICT_MEMBER)
        evict_release(&ns_at(s, e)->evict, e->hot, !warm);
}

/* ---- parents */

void block_link(struct store *s, uint32_t block, uint32_t parent)
{
    entry_at(s, block)->parent = parent;
    if (entry_at(s, parent)->state == BLOCK_COLD)
        cold_children(s, parent, 1);
    else if (!hot_of(s, parent)->children++)
        block_settle(s, parent, false);
}

static void entry_free(struct store *s, uint32_t block)
{
    uint32_t slot = entry_at(s, block)->ns;

    catalog_del(&s->cat, block);
    ns_entry_removed(s, slot);
}

/* Takes one child off p; true if p has none left and is not resident, so that
 * it leaves its own parent too. */
static bool child_left(struct store *s, uint32_t p)
{
    struct entry *e = entry_at(s, p);
    struct hot *h;

    if (e->state == BLOCK_TOMB)
        return --e->links == 0;
    if (e->state == BLOCK_COLD) {
        cold_children(s, p, -1);
        return false;
    }
    h = hot_of(s, p);
    MUST(h->children > 0);
    if (--h->children)
        return false;
    block_settle(s, p, false);
    return e->state == BLOCK_GONE;
}

void block_detach(struct store *s, uint32_t block)
{
    for (;;) {
        struct entry *e = entry_at(s, block);
        uint32_t parent = e->parent;

        e->parent = 0;
        if (e->state == BLOCK_TOMB)
            entry_free(s, block);
        if (!parent || !child_left(s, parent))
            return;
        block = parent;
    }
}

/* ---- the end */

static void policy_forget(struct store *s, struct entry *e, enum evict_why why)
{
    if (e->state == BLOCK_LIVE)
        evict_remove(&ns_at(s, e)->evict, e->hot, why);
}

uint64_t block_gone(struct store *s, uint32_t block, enum evict_why why)
{
    struct entry *e = entry_at(s, block);
    struct store_ns *n = ns_at(s, e);
    struct hot *h;

    event_removed(s, block);
    if (e->state == BLOCK_COLD) {
        cold_gone(s, block);
        return 0;
    }
    h = hot_of(s, block);
    MUST(e->state == BLOCK_OPEN || e->state == BLOCK_LIVE ||
         e->state == BLOCK_LOADING);
    policy_forget(s, e, why);
    place_clear(s, block);
    e->state = BLOCK_GONE;
    n->blocks--;
    n->bytes -= e->len;
    s->blocks--;
    s->bytes -= e->len;
    s->freed++;
    if (h->expires_s)
        s->ttl_n--;
    h->expires_s = 0;
    if (h->refs || h->pins) {
        if (!h->children)
            block_detach(s, block);
        return 0;
    }
    return block_end(s, block);
}

uint64_t block_end(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);
    struct store_ns *n = ns_at(s, e);
    struct hot *h = hot_of(s, block);
    uint32_t children = h->children;
    struct tier *t;
    uint64_t bytes;

    MUST(e->state == BLOCK_GONE);
    if (h->refs || h->pins)
        return 0;
    t = &pool_of(s, e)->mem.tier;
    bytes = t->ops->release(t, h->head);
    n->extent_bytes -= bytes;
    s->extent_bytes -= bytes;
    keys_del(&s->keys, h->key);
    catalog_hot_del(&s->cat, e->hot);
    /* As a TOMB without links the entry frees itself and leaves its parent. */
    e->state = BLOCK_TOMB;
    e->links = children;
    if (!children)
        block_detach(s, block);
    block_gauges(s);
    return bytes;
}

void block_expire(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);

    trace_block(s, TRACE_DROP, e, e->len);
    ghost_put(s, e->hash, FOUND_MISS_EXPIRED);
    metric_add(&s->metrics->dropped_blocks, 1);
    block_gone(s, block, EVICT_GONE);
}

void block_gauges(struct store *s)
{
    struct metrics *m = s->metrics;

    metric_set(&m->blocks, s->blocks);
    metric_set(&m->block_bytes, s->bytes);
    metric_set(&m->extent_bytes, s->extent_bytes);
    metric_set(&m->pinned_bytes, s->pinned_bytes);
}

/* ---- what was here not long ago */

/* | hash 37 | seconds since the daemon began 24, wraps | why 3 |; the rest of
 * the hash chooses the place. All zeros: none. */
enum { GHOST_WHY_BITS = 3, GHOST_S_BITS = 24 };
#define GHOST_HASH (~UINT64_C(0) << (GHOST_WHY_BITS + GHOST_S_BITS))
#define GHOST_S_MASK ((UINT64_C(1) << GHOST_S_BITS) - 1)
static_assert(FOUND_MISS_MOVED - FOUND_MISS_NEVER < 1 << GHOST_WHY_BITS,
              "why fits");

static uint64_t *ghost_at(const struct store *s, struct hash128 h)
{
    return &s->ghosts[h.hi >> 32 & s->ghost_mask];
}

static uint64_t ghost_now_s(const struct store *s)
{
    return s->env->now_ns / NS_PER_S & GHOST_S_MASK;
}

void ghost_put(struct store *s, struct hash128 h, enum store_found why)
{
    uint64_t *g = ghost_at(s, h), bits = (uint64_t)why - FOUND_MISS_NEVER;

    if (why != FOUND_MISS_NEVER)
        *g = (h.lo & GHOST_HASH) | ghost_now_s(s) << GHOST_WHY_BITS | bits;
    else if (ghost_get(s, h) != FOUND_MISS_NEVER)
        *g = 0;
}

enum store_found ghost_get(const struct store *s, struct hash128 h)
{
    uint64_t g = *ghost_at(s, h);

    if (!g || (g & GHOST_HASH) != (h.lo & GHOST_HASH))
        return FOUND_MISS_NEVER;
    return (enum store_found)((g & ((1 << GHOST_WHY_BITS) - 1)) +
                              FOUND_MISS_NEVER);
}

enum store_found store_ghost(const struct store *s, const struct store_key *k,
                             uint64_t *ago_ms_out)
{
    enum store_found why = ghost_get(s, k->hash);
    uint64_t then = *ghost_at(s, k->hash) >> GHOST_WHY_BITS & GHOST_S_MASK;

    *ago_ms_out = 0;
    if (why != FOUND_MISS_NEVER)
        *ago_ms_out = ((ghost_now_s(s) - then) & GHOST_S_MASK) * 1000;
    return why;
}
