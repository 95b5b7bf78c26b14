/* SPDX-License-Identifier: Apache-2.0
 *
 * Namespaces in a lane: slots, generations, shares, the live policy switch.
 *
 *   ns_of[id] -> slot (present generation)      CONDEMNED slots: nobody finds
 *                                               their blocks any more
 *   FREE --store_ns_set--> PRESENT --new generation--> CONDEMNED --last entry
 *    ^                                                              went --+
 *    +---------------------------------------------------------------------+
 *
 * The share of a namespace is its weight among those that have blocks in the
 * same pool, times what this lane could use of it (what it holds and what is
 * free). It is the capacity its policy works with and the yardstick for whose
 * block goes first.
 *
 * Invariants: 1. entries = catalog entries that name the slot. 2. A slot is in
 * active exactly while entries > 0. 3. share_bytes of the slots of a pool sum
 * up to at most its capacity. Failure: LIMIT, NO_MEMORY; nothing changed. */
#include "store/store_impl.h"

#include "base/fault.h"
#include "base/mem.h"

static uint64_t host_hash(void *arg, uint32_t id)
{
    const struct store *s = arg;

    return entry_at(s, hot_at(s, id)->entry)->hash.lo;
}

/* ---- shares */

static uint64_t capacity_now(const struct store *s, const struct store_pool *p)
{
    uint64_t units = unit_pool_free(p->units);

    units += unit_pool_held(p->units, s->cfg.lane);
    return min_u64(units, p->units->units) * UNIT_BYTES;
}

/* Namespaces with COLD blocks only take no share of the memory. */
static bool in_memory(const struct store_ns *n)
{
    return !n->condemned && n->entries > n->cold_n;
}

void ns_shares(struct store *s, uint32_t pool)
{
    struct store_pool *p = &s->pools[pool];
    uint64_t sum = 0;

    if (s->adopting)
        return; /* once, at its end */
    p->capacity = capacity_now(s, p);
    for (uint32_t i = 0; i < s->active_n; i++) {
        const struct store_ns *n = &s->nss[s->active[i]];

        if (n->cfg.pool == pool && in_memory(n))
            sum += n->cfg.share;
    }
    for (uint32_t i = 0; i < s->active_n; i++) {
        struct store_ns *n = &s->nss[s->active[i]];

        uint64_t pages;

        if (n->cfg.pool != pool || n->condemned)
            continue;
        n->share_bytes = 0;
        if (!in_memory(n))
            continue;
        pages = p->capacity / PAGE_BYTES * n->cfg.share / sum;
        n->share_bytes = pages * PAGE_BYTES;
        pages = max_u64(pages, 1);
        if (n->evict.capacity_pages != pages)
            evict_resize(&n->evict, pages);
    }
}

void ns_shares_refresh(struct store *s)
{
    for (uint32_t i = 0; i < STORE_POOLS; i++)
        if (s->pools[i].ready &&
            s->pools[i].capacity != capacity_now(s, &s->pools[i]))
            ns_shares(s, i);
}

/* ---- slots */

static void slot_free(struct store *s, struct store_ns *n)
{
    mem_release(n->evict.state, n->state_bytes);
    s->condemned_n--;
    *n = (struct store_ns){0};
}

void ns_entry_added(struct store *s, uint32_t slot)
{
    struct store_ns *n = &s->nss[slot];

    if (n->entries++) {
        if (n->entries == n->cold_n + 1)
            ns_shares(s, n->cfg.pool);
        return;
    }
    s->active[s->active_n++] = (uint16_t)slot;
    n->active_at = (uint16_t)s->active_n;
    ns_shares(s, n->cfg.pool);
}

void ns_entry_removed(struct store *s, uint32_t slot)
{
    struct store_ns *n = &s->nss[slot];
    uint32_t pool = n->cfg.pool, last;

    MUST(n->entries > 0);
    if (--n->entries) {
        if (n->entries == n->cold_n)
            ns_shares(s, pool);
        return;
    }
    last = s->active[--s->active_n];
    s->active[n->active_at - 1] = (uint16_t)last;
    s->nss[last].active_at = n->active_at;
    n->active_at = 0;
    n->share_bytes = 0;
    if (n->condemned)
        slot_free(s, n);
    ns_shares(s, pool);
}

/* The share changes with the first and the last that is not COLD. */
void ns_cold_changed(struct store *s, uint32_t slot, int by)
{
    struct store_ns *n = &s->nss[slot];

    n->cold_n += (uint64_t)(int64_t)by;
    if (n->entries == n->cold_n + (by < 0))
        ns_shares(s, n->cfg.pool);
}

static uint32_t slot_find_free(const struct store *s)
{
    for (uint32_t i = 1; i < s->ns_cap; i++)
        if (!s->nss[i].cfg.id)
            return i;
    return 0;
}

static uint32_t slot_get(struct store *s)
{
    uint32_t slot = slot_find_free(s);

    /* Old generations in all of them: finish what can be finished. */
    for (uint32_t i = 1; !slot && i < s->ns_cap; i++) {
        while (s->nss[i].condemned && evict_from_ns(s, i))
            ;
        if (s->nss[i].condemned && s->nss[i].cold_n)
            cold_sweep_slot(s, i);
        slot = s->nss[i].cfg.id ? 0 : i;
    }
    return slot;
}

/* ---- policies */

static enum err policy_make(struct store *s, const struct store_ns_cfg *cfg,
                            struct evict *out, size_t *bytes_out)
{
    uint64_t pages =
        (uint64_t)s->pools[cfg->pool].units->units * (UNIT_BYTES / PAGE_BYTES);
    struct evict_host host = {.nodes = &s->cat.hots[0].node,
                              .stride = sizeof(struct hot),
                              .ids_max = s->cat.hot_cap + 1,
                              .pages_max = pages,
                              .hash = host_hash,
                              .arg = s,
                              .env = s->env};
    size_t bytes = cfg->policy->state_bytes(pages);
    void *state;

    if (bytes == 0)
        bytes = 1;
    state = mem_reserve(bytes);
    if (!state)
        return ERR_NO_MEMORY;
    evict_init(out, cfg->policy, &host, state, pages);
    *bytes_out = bytes;
    return OK;
}

static enum err policy_switch(struct store *s, struct store_ns *n,
                              const struct store_ns_cfg *cfg)
{
    struct evict to;
    size_t bytes = 0;
    enum err e;

    if (n->cfg.policy == cfg->policy)
        return OK;
    e = policy_make(s, cfg, &to, &bytes);
    if (e)
        return e;
    evict_resize(&to, n->evict.capacity_pages);
    evict_switch(&n->evict, &to);
    mem_release(n->evict.state, n->state_bytes);
    n->evict = to;
    n->state_bytes = bytes;
    return OK;
}

/* ---- the contract */

static void exact_classes(struct store *s, const struct store_ns_cfg *cfg)
{
    for (uint32_t g = 0; g < STORE_GROUPS; g++)
        slab_exact(&s->pools[cfg->pool].mem.slab, cfg->block_bytes[g]);
}

static void cfg_take(struct store *s, struct store_ns *n,
                     const struct store_ns_cfg *cfg)
{
    n->cfg = *cfg;
    if (!n->cfg.share)
        n->cfg.share = 1;
    exact_classes(s, cfg);
    ns_shares(s, cfg->pool);
}

/* Its blocks are dropped as members of its policy, or swept away where they are
 * COLD, so only those that have some are work for store_tick; an empty slot is
 * free at once. */
static void condemn(struct store *s, struct store_ns *n)
{
    n->condemned = true;
    s->condemned_cold += n->cold_n;
    n->share_bytes = 0;
    s->condemned_n++;
    if (!n->entries)
        slot_free(s, n);
    else
        ns_shares(s, n->cfg.pool);
}

/* A loan pool may get its memory after the store was made. */
static enum err pool_ready(struct store *s, uint32_t pool)
{
    struct store_pool *p;
    enum err e;

    if (pool >= STORE_POOLS || !s->pools[pool].units ||
        !s->pools[pool].units->units)
        return ERR_LIMIT;
    p = &s->pools[pool];
    if (p->ready)
        return OK;
    e = tier_mem_init(&p->mem, p->units, s->cfg.lane);
    if (e)
        tier_mem_fini(&p->mem);
    else if (s->cfg.ssd_blocks_max)
        slab_whole_pages(&p->mem.slab);
    p->ready = !e;
    return e;
}

enum err store_ns_set(struct store *s, const struct store_ns_cfg *cfg)
{
    struct store_ns *old, *n;
    uint32_t slot;
    enum err e;

    if (!cfg->id || cfg->id > s->cfg.namespaces_max)
        return ERR_LIMIT;
    e = pool_ready(s, cfg->pool);
    if (e)
        return e;
    old = s->ns_of[cfg->id] ? &s->nss[s->ns_of[cfg->id]] : NULL;
    if (old && old->cfg.generation == cfg->generation &&
        old->cfg.pool == cfg->pool) {
        e = policy_switch(s, old, cfg);
        if (!e)
            cfg_take(s, old, cfg);
        return e;
    }
    slot = slot_get(s);
    if (!slot)
        return ERR_BUSY;
    n = &s->nss[slot];
    e = policy_make(s, cfg, &n->evict, &n->state_bytes);
    if (e)
        return e;
    hash_secret_make(&n->secret, cfg->salt, cfg->generation);
    s->ns_of[cfg->id] = slot;
    cfg_take(s, n, cfg);
    if (old) {
        condemn(s, old);
        event_cleared(s, cfg->id, cfg->generation);
    }
    return OK;
}

enum err store_ns_check(const struct store *s, uint32_t ns, uint64_t generation)
{
    uint32_t slot = ns <= s->cfg.namespaces_max ? s->ns_of[ns] : 0;

    if (!slot)
        return ERR_NO_NAMESPACE;
    if (generation && s->nss[slot].cfg.generation != generation)
        return ERR_STALE_GENERATION;
    return OK;
}

void store_ns_usage(const struct store *s, uint32_t ns, uint64_t *blocks_out,
                    uint64_t *bytes_out, uint64_t *share_bytes_out)
{
    uint32_t slot = ns <= s->cfg.namespaces_max ? s->ns_of[ns] : 0;
    const struct store_ns *n = &s->nss[slot];

    *blocks_out = n->blocks;
    *bytes_out = n->bytes;
    *share_bytes_out = n->share_bytes;
}

void store_ns_ssd_usage(const struct store *s, uint32_t ns,
                        uint64_t *blocks_out, uint64_t *bytes_out)
{
    uint32_t slot = ns <= s->cfg.namespaces_max ? s->ns_of[ns] : 0;

    *blocks_out = s->nss[slot].ssd_blocks;
    *bytes_out = s->nss[slot].ssd_bytes;
}
