/* SPDX-License-Identifier: Apache-2.0
 *
 * Making room: whose block goes, how a length that has no place gets one, and
 * the upkeep of store_tick.
 *
 * Victim: first blocks of old generations; then the namespace that is most over
 * its share of the pool, and in it what its policy names.
 *
 * The ladder of evict_place, for the rest of a block that does not fit:
 *
 *   1 fit      a slot of its class, or a fresh unit
 *   2 evict    by policy until as many bytes went as the next extent needs;
 *              skipped while over an eighth of the memory lies in free slots
 *   3 neat     a few free slots of other classes, if little is wasted
 *   4 empty    the coldest unit that can be emptied
 *   5 scatter  any free slots
 *   6 evict on by policy, twice as much each time, and again from 1
 *
 * It ends with BUSY only when there is nothing left to evict. With blocks of
 * one class 1 and 2 alone are used, and exactly one block goes for one that
 * comes.
 *
 * A unit is emptied only if nothing in it is in use or pinned and no block in
 * it has a child elsewhere: leaves before roots holds there too.
 *
 * A block with a place on the SSD is not evicted but unloaded: it becomes COLD,
 * which costs no io and needs no regard for its children. So DRAM eviction
 * never waits for the SSD. With an SSD a pool may have no victim although
 * nothing is in use, when all are parents of COLD blocks and have no place
 * themselves: then one of them goes, and stays as a TOMB. */
#include "store/store_impl.h"

#include "base/fault.h"

/* ---- victims */

static bool ns_in(const struct store_ns *n, uint32_t pool)
{
    return pool == STORE_POOLS || n->cfg.pool == pool;
}

static struct store_ns *ns_victim(struct store *s, uint32_t pool)
{
    struct store_ns *best = NULL;
    int64_t best_over = 0;

    for (uint32_t i = 0; i < s->active_n; i++) {
        struct store_ns *n = &s->nss[s->active[i]];
        int64_t over = (int64_t)n->extent_bytes - (int64_t)n->share_bytes;

        if (!ns_in(n, pool) || !n->evict.members)
            continue;
        if (n->condemned)
            return n;
        if (!best || over > best_over) {
            best = n;
            best_over = over;
        }
    }
    return best;
}

/* Why a block that leaves memory is nowhere. */
static enum store_found lost_why(const struct hot *h)
{
    if (hot_is(h, HOT_QUEUED))
        return FOUND_MISS_LATE;
    if (hot_is(h, HOT_DEFERRED) && !hot_is(h, HOT_RECORDED))
        return FOUND_MISS_NOT_ADMITTED;
    return FOUND_MISS_EVICTED;
}

/* Evicts one block: its ghost is remembered unless its generation is old.
 * Returns at least 1, also for a block without extents. */
static uint64_t evict_block(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);
    bool condemned = ns_at(s, e)->condemned;
    struct metrics *m = s->metrics;
    uint64_t idle_ms = now_ms(s) - hot_of(s, block)->used_ms;
    enum store_found why = lost_why(hot_of(s, block));

    if (condemned) {
        metric_add(&m->dropped_blocks, 1);
        trace_block(s, TRACE_DROP, e, e->len);
        return max_u64(block_gone(s, block, EVICT_GONE), 1);
    }
    metric_set(&m->eviction_age_seconds, idle_ms / 1000);
    if (block_placed(s, e))
        return max_u64(block_unload(s, block, EVICT_PRESSURE), 1);
    metric_add(&m->evicted_blocks, 1);
    metric_add(&m->evicted_bytes, e->len);
    metric_add(&m->ssd_lost_blocks, why == FOUND_MISS_LATE);
    trace_block(s, TRACE_EVICT, e, e->len);
    ghost_put(s, e->hash, why);
    return max_u64(block_gone(s, block, EVICT_PRESSURE), 1);
}

static uint64_t evict_victim_of(struct store *s, struct store_ns *n)
{
    uint32_t id = n ? evict_victim(&n->evict) : EVICT_NONE;

    return id == EVICT_NONE ? 0 : evict_block(s, hot_at(s, id)->entry);
}

/* Held by its children alone? Not while it is written: that is a ref. */
static bool only_parent(void *arg, uint32_t id)
{
    const struct hot *h = hot_at(arg, id);

    return !h->refs && !h->pins;
}

/* The release valve: there is no victim, so a parent goes. */
static uint64_t evict_parent_of(struct store *s, struct store_ns *n)
{
    uint32_t id = EVICT_NONE;

    if (n->cold_n)
        id = evict_held_victim(&n->evict, only_parent, s);
    return id == EVICT_NONE ? 0 : evict_block(s, hot_at(s, id)->entry);
}

static uint64_t evict_parent(struct store *s, uint32_t pool)
{
    uint64_t n = 0;

    for (uint32_t i = 0; s->cold_n && !n && i < s->active_n; i++)
        if (ns_in(&s->nss[s->active[i]], pool))
            n = evict_parent_of(s, &s->nss[s->active[i]]);
    return n;
}

uint64_t evict_from_pool(struct store *s, uint32_t pool)
{
    uint64_t n = evict_victim_of(s, ns_victim(s, pool));

    return n ? n : evict_parent(s, pool);
}

uint64_t evict_from_ns(struct store *s, uint32_t slot)
{
    uint64_t n = evict_victim_of(s, &s->nss[slot]);

    return n ? n : evict_parent_of(s, &s->nss[slot]);
}

/* ---- emptying units */

/* Is the block of this hot record in the unit with its first extent? Others
 * of its extents may lie anywhere. */
static bool starts_in(const struct store *s, uint32_t hot, uint32_t unit)
{
    return hot && slab_unit_of(hot_at(s, hot)->head) == unit;
}

/* The children that a block must outlive in memory. */
static uint32_t held_by(const struct entry *e, const struct hot *h)
{
    return e->ssd ? 0 : h->children;
}

/* Is it a child, to be evicted for good, of such a parent in the unit? */
static bool frees_parent(const struct store *s, const struct entry *e,
                         uint32_t unit)
{
    const struct entry *up = e->parent ? entry_at(s, e->parent) : NULL;

    return up && !e->ssd && !up->ssd && starts_in(s, entry_hot(up), unit);
}

/* May all its owners go, leaves first? Also says when the last was used. */
static bool unit_droppable(const struct store *s, uint32_t unit,
                           const uint32_t *owners, uint32_t n,
                           uint32_t *newest_out)
{
    uint64_t children = 0, inside = 0;
    uint32_t newest = hot_at(s, owners[0])->used_seq;

    for (uint32_t i = 0; i < n; i++) {
        const struct hot *h = hot_at(s, owners[i]);
        const struct entry *e = entry_at(s, h->entry);

        if (e->state != BLOCK_LIVE || h->refs || h->pins)
            return false;
        if ((int32_t)(h->used_seq - newest) > 0)
            newest = h->used_seq;
        if (!starts_in(s, owners[i], unit)) {
            if (held_by(e, h))
                return false;
            continue;
        }
        if (i && owners[i] == owners[i - 1])
            continue;
        children += held_by(e, h);
        inside += frees_parent(s, e, unit);
    }
    *newest_out = newest;
    return children == inside;
}

/* Drops the blocks of a unit, the later slots first: blocks of a chain were
 * mostly placed in its order. */
static bool unit_drop(struct store *s, struct slab *sl, uint32_t unit,
                      const uint32_t *owners, uint32_t n)
{
    bool moved = true;

    while (moved && sl->units[unit].cls) {
        moved = false;
        for (uint32_t i = n; i-- > 0;) {
            struct hot *h = hot_at(s, owners[i]);

            if (!h->entry || held_by(entry_at(s, h->entry), h))
                continue;
            evict_block(s, h->entry);
            moved = true;
        }
    }
    return !sl->units[unit].cls;
}

/* A unit's stamp may be older than its blocks' last use, which is learnt only
 * here: then it is corrected and the next candidate has its chance. */
static bool unit_empty(struct store *s, uint32_t pool, uint32_t not_cls)
{
    struct slab *sl = &s->pools[pool].mem.slab;
    uint32_t owners[SLAB_SLOTS], newest = 0;

    for (int tries = 0; tries < COLD_TRIES; tries++) {
        uint32_t unit = slab_cold(sl, not_cls, s->seq), cls, n;

        if (unit == UNIT_NONE || fault_here("unit_empty"))
            return false;
        n = slab_owners(sl, unit, owners);
        if (!unit_droppable(s, unit, owners, n, &newest)) {
            sl->units[unit].stamp = s->seq;
            continue;
        }
        if (sl->units[unit].stamp != newest && tries + 1 < COLD_TRIES) {
            sl->units[unit].stamp = newest;
            sl->hand = unit;
            continue;
        }
        cls = sl->units[unit].cls;
        if (!unit_drop(s, sl, unit, owners, n))
            continue;
        metric_add(&s->metrics->units_emptied, 1);
        if (s->trace)
            trace_add(s->trace, s->env->now_ns, TRACE_UNIT, 0, unit, cls);
        return true;
    }
    return false;
}

/* ---- the ladder */

static bool holey(const struct slab *sl)
{
    return sl->free_bytes > (uint64_t)sl->held * UNIT_BYTES / 8;
}

/* Wishes for the whole block, not for what it still lacks: an attempt in vain
 * gives back what it got. */
static void starve(struct store *s, struct store_pool *p, uint64_t len)
{
    if (s->cfg.lanes < 2 || unit_pool_free(p->units))
        return;
    p->starved_ns = s->env->now_ns;
    unit_pool_wish(p->units, s->cfg.lane,
                   (uint32_t)((len + UNIT_BYTES - 1) / UNIT_BYTES) + 1);
}

static enum err place_odd(struct store *s, struct store_pool *p,
                          struct tier_place *pl, uint64_t len, uint32_t owner,
                          enum tier_how how)
{
    struct tier *t = &p->mem.tier;
    enum err e = t->ops->reserve(t, pl, len, owner, how);

    if (!e)
        metric_add(&s->metrics->scattered_blocks, 1);
    return e;
}

enum err evict_place(struct store *s, uint32_t pool, struct tier_place *pl,
                     uint64_t len, uint32_t owner)
{
    struct store_pool *p = &s->pools[pool];
    struct slab *sl = &p->mem.slab;
    struct tier *t = &p->mem.tier;
    uint64_t evicted = 0, patience = 0, had = 0, n;

    p->mem.stamp = s->seq;
    while (t->ops->reserve(t, pl, len, owner, TIER_FIT)) {
        uint64_t need = slab_next_bytes(sl, len - pl->bytes);

        if (pl->bytes > had) {
            had = pl->bytes;
            evicted = 0;
        }
        starve(s, p, len);
        if (evicted < (holey(sl) ? patience : max_u64(need, patience))) {
            n = evict_from_pool(s, pool);
            evicted += n;
            if (n)
                continue;
        }
        if (!place_odd(s, p, pl, len, owner, TIER_NEAT))
            return OK;
        if (unit_empty(s, pool, slab_next_class(sl, len - pl->bytes)))
            continue;
        if (!place_odd(s, p, pl, len, owner, TIER_SCATTER))
            return OK;
        if (!evict_from_pool(s, pool))
            return ERR_BUSY;
        patience = max_u64(2 * patience, UNIT_BYTES);
        evicted = 0;
    }
    return OK;
}

/* ---- upkeep */

static uint64_t pool_free_bytes(const struct store_pool *p)
{
    return (uint64_t)unit_pool_free(p->units) * UNIT_BYTES +
           p->mem.slab.free_bytes;
}

/* Evicts down to the high water mark, some blocks at a time. */
static bool tick_water(struct store *s, uint32_t pool, uint32_t *left)
{
    struct store_pool *p = &s->pools[pool];
    uint64_t cap = p->capacity / 100;

    if (pool_free_bytes(p) < cap * s->cfg.low_water_pct)
        p->draining = true;
    while (p->draining) {
        if (pool_free_bytes(p) >= cap * s->cfg.high_water_pct) {
            p->draining = false;
        } else if (!*left) {
            return true;
        } else if (!evict_from_pool(s, pool)) {
            p->draining = false;
        } else {
            (*left)--;
        }
    }
    return false;
}

static bool tick_condemned(struct store *s, uint32_t *left)
{
    /* From the end: a slot that becomes empty is replaced by the last. */
    for (uint32_t i = s->active_n; s->condemned_n && i-- > 0;) {
        uint32_t slot = s->active[i];

        while (s->nss[slot].condemned && s->nss[slot].evict.members) {
            if (!*left)
                return true;
            (*left)--;
            evict_from_ns(s, slot);
        }
    }
    return false;
}

static bool tick_ttl(struct store *s)
{
    bool found = false;

    if (!s->ttl_n)
        return false;
    for (uint32_t i = 0; i < TICK_SWEEP; i++) {
        struct hot *h;

        if (s->sweep >= s->cat.hot_hi)
            s->sweep = 1;
        h = hot_at(s, s->sweep++);
        if (h->entry && hot_expired(s, h) &&
            entry_at(s, h->entry)->state == BLOCK_LIVE) {
            block_expire(s, h->entry);
            found = true;
        }
    }
    return found;
}

/* Gives units back to lanes that starve; when none can be emptied, makes one
 * by policy. Also ends this lane's own wish when it was not short lately: other
 * lanes need some time to wake up and see it. */
static bool tick_lanes(struct store *s, uint32_t pool, uint32_t *left)
{
    struct store_pool *p = &s->pools[pool];
    uint32_t given = 0;

    if (p->starved_ns &&
        s->env->now_ns - p->starved_ns >= STARVED_MS * NS_PER_MS) {
        p->starved_ns = 0;
        unit_pool_wish(p->units, s->cfg.lane, 0);
    }
    while (unit_pool_wanted(p->units, s->cfg.lane)) {
        if (given++ == TICK_UNITS || !*left)
            return true;
        if (unit_empty(s, pool, 0))
            continue;
        if (!evict_from_pool(s, pool))
            return false;
        given--;
        (*left)--;
    }
    return false;
}

bool store_tick(struct store *s)
{
    uint32_t left = TICK_BLOCKS;
    bool more = tick_condemned(s, &left);
    uint64_t capacity = 0, held = 0;

    more |= tick_ttl(s);
    more |= cold_tick(s);
    more |= session_tick(s);
    ns_shares_refresh(s);
    for (uint32_t i = 0; i < STORE_POOLS; i++) {
        struct store_pool *p = &s->pools[i];

        if (!p->ready)
            continue;
        more |= tick_lanes(s, i, &left);
        more |= tick_water(s, i, &left);
        capacity += p->units->units;
        held += p->mem.slab.held;
    }
    /* Gauges of all lanes are summed: the pools are counted by one. */
    if (s->cfg.lane == 0)
        metric_set(&s->metrics->dram_capacity_bytes, capacity * UNIT_BYTES);
    metric_set(&s->metrics->dram_unit_bytes, held * UNIT_BYTES);
    return mover_tick(s) || more;
}
