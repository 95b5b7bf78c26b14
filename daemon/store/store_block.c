/* SPDX-License-Identifier: Apache-2.0
 *
 * A block's life after its birth: who holds it, whose child it is, its end.
 *
 *   OPEN -> LIVE -> GONE -> (entry freed)     no child names it
 *                        -> TOMB -> (freed)   when its last child left
 *
 * A child leaves its parent when it is GONE (or TOMB) and has no children
 * itself: a parent is held, and its entry kept, as long as anything below it is
 * resident. So leaves go before roots, parent links never dangle, and a chain
 * can be dropped in any order. */
#include "store/store_impl.h"

/* The one place that decides what the policy may name as victim. */
void block_settle(struct store *s, uint32_t block, bool warm)
{
    struct entry *e = entry_at(s, block);
    struct hot *h = hot_of(s, block);
    bool held = h->refs || h->pins || h->children;

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
    if (!hot_of(s, parent)->children++)
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
    struct hot *h = hot_of(s, block);

    MUST(e->state == BLOCK_OPEN || e->state == BLOCK_LIVE);
    policy_forget(s, e, why);
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
    ghost_put(s, e->hash, GHOST_EXPIRED);
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

/* The low two bits of a ghost say why, the others are the hash's. */
static uint64_t *ghost_at(const struct store *s, struct hash128 h)
{
    return &s->ghosts[h.hi >> 32 & s->ghost_mask];
}

void ghost_put(struct store *s, struct hash128 h, enum ghost_why why)
{
    *ghost_at(s, h) = (h.lo & ~UINT64_C(3)) | (uint64_t)why;
}

enum ghost_why ghost_get(const struct store *s, struct hash128 h)
{
    uint64_t g = *ghost_at(s, h);

    if ((g & ~UINT64_C(3)) != (h.lo & ~UINT64_C(3)))
        return GHOST_NONE;
    return (enum ghost_why)(g & 3);
}
