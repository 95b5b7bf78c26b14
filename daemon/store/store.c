/* SPDX-License-Identifier: Apache-2.0
 *
 * The store's set-up and what only reads or counts: finding a key, refs, pins,
 * facts about a block. See store.h for the contract and store_impl.h for the
 * map of the files. */
#include "store/store_impl.h"

#include <string.h>

#include "base/mem.h"

/* ---- set-up */

static size_t nss_bytes(const struct store *s)
{
    return s->ns_cap * sizeof *s->nss;
}

static size_t ns_of_bytes(const struct store *s)
{
    return (s->cfg.namespaces_max + 1) * sizeof *s->ns_of;
}

static size_t ghosts_bytes(const struct store *s)
{
    return ((size_t)s->ghost_mask + 1) * sizeof *s->ghosts;
}

static enum err tables_init(struct store *s)
{
    uint32_t ghosts = 1;
    enum err e;

    while (ghosts < s->cfg.ghosts)
        ghosts *= 2;
    s->ghost_mask = ghosts - 1;
    s->ns_cap = 2 * s->cfg.namespaces_max + NS_SPARE;
    MUST(s->ns_cap <= UINT16_MAX);
    s->nss = mem_reserve(nss_bytes(s));
    s->ns_of = mem_reserve(ns_of_bytes(s));
    s->active = mem_reserve(s->ns_cap * sizeof *s->active);
    s->ghosts = mem_reserve(ghosts_bytes(s));
    if (!s->nss || !s->ns_of || !s->active || !s->ghosts)
        return ERR_NO_MEMORY;
    e = catalog_init(
        &s->cat,
        (uint32_t)min_u64(s->cfg.blocks_max + s->cfg.ssd_blocks_max,
                          UINT32_MAX - 2),
        (uint32_t)s->cfg.blocks_max);
    return e ? e : keys_init(&s->keys, (uint32_t)s->cfg.blocks_max);
}

static enum err pools_init(struct store *s,
                           struct unit_pool *const pools[STORE_POOLS])
{
    for (uint32_t i = 0; i < STORE_POOLS; i++) {
        struct store_pool *p = &s->pools[i];
        enum err e;

        p->units = pools[i];
        if (!p->units || !p->units->units)
            continue;
        e = tier_mem_init(&p->mem, p->units, s->cfg.lane);
        if (e)
            return e;
        if (s->cfg.ssd_blocks_max)
            slab_whole_pages(&p->mem.slab);
        p->ready = true;
    }
    return OK;
}

/* Versions start from the wall clock, so that a version seen before a restart
 * of the daemon is not given to other bytes after it (up to 16 million PUTs
 * per second of uptime), and grow by one, so that neither is one seen before a
 * bump. */
enum err store_new(struct store **out, const struct store_cfg *cfg,
                   struct unit_pool *const pools[STORE_POOLS], struct env *env,
                   struct metrics *metrics, struct trace *trace)
{
    struct store *s = mem_reserve(sizeof *s);
    enum err e;

    if (!s)
        return ERR_NO_MEMORY;
    MUST(cfg->blocks_max > 0 && cfg->blocks_max < UINT32_MAX - 1);
    s->cfg = *cfg;
    s->env = env;
    s->metrics = metrics;
    s->trace = trace;
    s->version = env->boot_us << 4;
    s->sweep = s->cold_sweep = s->cold_hand = s->session_hand = 1;
    e = tables_init(s);
    if (!e)
        e = events_init(&s->events, cfg->events_bytes);
    if (!e)
        e = pools_init(s, pools);
    if (e) {
        store_free(s);
        return e;
    }
    block_gauges(s);
    *out = s;
    return OK;
}

void store_free(struct store *s)
{
    if (!s)
        return;
    adopt_free(s);
    mover_free(s);
    for (uint32_t i = 0; i < STORE_POOLS; i++)
        tier_mem_fini(&s->pools[i].mem);
    for (uint32_t i = 0; s->nss && i < s->ns_cap; i++)
        mem_release(s->nss[i].evict.state, s->nss[i].state_bytes);
    events_fini(&s->events);
    keys_fini(&s->keys);
    catalog_fini(&s->cat);
    mem_release(s->ghosts, ghosts_bytes(s));
    mem_release(s->active, s->ns_cap * sizeof *s->active);
    mem_release(s->ns_of, ns_of_bytes(s));
    mem_release(s->nss, nss_bytes(s));
    mem_release(s, sizeof *s);
}

/* ---- finding */

static uint32_t ns_slot(const struct store *s, uint32_t ns)
{
    return ns <= s->cfg.namespaces_max ? s->ns_of[ns] : 0;
}

void store_key_hash(const struct store *s, struct store_key *k)
{
    static const uint8_t no_scope[16];
    uint32_t slot = ns_slot(s, k->ns);

    MUST(slot);
    k->hash = hash_key(&s->nss[slot].secret, k->group,
                       k->scope ? k->scope : no_scope, k->key, k->key_len);
}

/* A block in memory is the one with the same key bytes; a COLD one, whose key
 * bytes are on the SSD, that with the same 128-bit keyed hash. */
static bool is_block(const struct store *s, const struct entry *e,
                     const struct store_key *k)
{
    switch ((enum block_state)e->state) {
    case BLOCK_OPEN:
    case BLOCK_LIVE:
    case BLOCK_LOADING:
        return keys_same(&s->keys, hot_at(s, e->hot)->key, k);
    case BLOCK_COLD:
        return true;
    case BLOCK_FREE:
    case BLOCK_GONE:
    case BLOCK_TOMB:
        break;
    }
    return false;
}

/* Drops it if it may not be given any more. */
static bool still_good(struct store *s, uint32_t b, const struct entry *e)
{
    if (e->state == BLOCK_COLD)
        return cold_holds(s, b);
    if (!hot_expired(s, hot_at(s, e->hot)))
        return true;
    block_expire(s, b);
    return false;
}

uint32_t store_find(struct store *s, const struct store_key *k,
                    enum store_found *why_out)
{
    uint32_t slot = ns_slot(s, k->ns);
    uint32_t b = slot ? catalog_first(&s->cat, k->hash) : 0;

    for (; b; b = catalog_next(&s->cat, b, k->hash)) {
        const struct entry *e = entry_at(s, b);

        if (e->ns != slot || !is_block(s, e, k))
            continue;
        if (e->state == BLOCK_OPEN) {
            *why_out = FOUND_PENDING;
            return 0;
        }
        if (!still_good(s, b, e))
            break;
        *why_out = FOUND_HIT;
        return b;
    }
    *why_out = ghost_get(s, k->hash);
    return 0;
}

uint32_t store_find_open(const struct store *s, const struct store_key *k)
{
    uint32_t slot = ns_slot(s, k->ns);
    uint32_t b = slot ? catalog_first(&s->cat, k->hash) : 0;

    for (; b; b = catalog_next(&s->cat, b, k->hash)) {
        const struct entry *e = entry_at(s, b);

        if (e->ns == slot && e->state == BLOCK_OPEN && is_block(s, e, k))
            return b;
    }
    return 0;
}

/* ---- use, refs, pins */

/* A use takes back a demotion, but not of what is only passing through. */
static void hit_live(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);
    struct hot *h = hot_of(s, block);

    h->used_ms = now_ms(s);
    h->used_seq = ++s->seq;
    if (h->hits < UINT32_MAX)
        h->hits++;
    evict_hit(&ns_at(s, e)->evict, e->hot);
    if (!hot_is(h, HOT_DEFERRED | HOT_LEAVE))
        return;
    if (hot_is(h, HOT_DEFERRED))
        mover_queue(s, block);
    if (!ns_at(s, e)->cfg.write_buffer)
        hot_unset(h, HOT_LEAVE);
}

void store_use(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);

    if (e->state == BLOCK_LIVE)
        hit_live(s, block);
    else if ((e->state == BLOCK_COLD || e->state == BLOCK_LOADING) &&
             e->heat < HEAT_MAX)
        e->heat++;
}

void store_ref(struct store *s, uint32_t block)
{
    struct hot *h = hot_of(s, block);

    MUST(h->refs < UINT32_MAX);
    if (!h->refs++)
        block_settle(s, block, false);
}

void store_unref(struct store *s, uint32_t block)
{
    struct hot *h = hot_of(s, block);

    MUST(h->refs > 0);
    if (--h->refs)
        return;
    if (entry_at(s, block)->state == BLOCK_GONE)
        block_end(s, block);
    else if (!hot_is(h, HOT_LEAVE) || !block_leave(s, block))
        block_settle(s, block, false);
    s->freed++;
}

enum err store_pin(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);
    struct hot *h = hot_of(s, block);

    MUST(e->state == BLOCK_LIVE || e->state == BLOCK_OPEN);
    if (!h->pins) {
        if (s->pinned_bytes + e->len > s->cfg.pinned_bytes_max)
            return ERR_PIN_LIMIT;
        s->pinned_bytes += e->len;
    }
    MUST(h->pins < UINT32_MAX);
    if (!h->pins++)
        block_settle(s, block, false);
    trace_block(s, TRACE_PIN, e, h->pins);
    block_gauges(s);
    return OK;
}

void store_unpin(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);
    struct hot *h = hot_of(s, block);

    MUST(h->pins > 0);
    h->pins--;
    trace_block(s, TRACE_UNPIN, e, h->pins);
    if (h->pins)
        return;
    s->pinned_bytes -= e->len;
    if (e->state == BLOCK_GONE)
        block_end(s, block);
    else if (!block_leave(s, block))
        block_settle(s, block, true);
    s->freed++;
    block_gauges(s);
}

uint64_t store_pinned_bytes(const struct store *s)
{
    return s->pinned_bytes;
}

/* Other lanes' frees count by the tag of the pools they share. */
uint64_t store_freed(const struct store *s)
{
    uint64_t n = s->freed;

    for (uint32_t i = 0; i < STORE_POOLS; i++)
        if (s->pools[i].ready)
            n += unit_pool_puts(s->pools[i].units);
    return n;
}

/* ---- facts */

uint64_t store_len(const struct store *s, uint32_t block)
{
    return entry_at(s, block)->len;
}

uint64_t store_version(const struct store *s, uint32_t block)
{
    return entry_at(s, block)->version;
}

uint32_t store_crc(const struct store *s, uint32_t block)
{
    const struct entry *e = entry_at(s, block);

    return e->state == BLOCK_COLD ? e->crc : hot_of(s, block)->crc;
}

static uint32_t ttl_left_ms(const struct store *s, uint32_t expires_s)
{
    uint64_t left = 0;

    if (expires_s > s->env->wall_s)
        left = (expires_s - s->env->wall_s) * 1000;
    return (uint32_t)min_u64(left, UINT32_MAX);
}

static void info_cold(const struct store *s, const struct entry *e,
                      struct store_info *out)
{
    struct cold c = cold_side(s, e);

    *out = (struct store_info){
        .len = e->len,
        .version = e->version,
        .crc = e->crc,
        .children = c.children,
        .hits = e->heat,
        .ttl_left_ms = ttl_left_ms(s, c.expires_s),
        .found = FOUND_HIT,
        .tier = TIER_SSD,
        .key = {.ns = ns_at(s, e)->cfg.id, .hash = e->hash},
    };
}

void store_info(const struct store *s, uint32_t block, struct store_info *out)
{
    const struct entry *e = entry_at(s, block);
    const struct hot *h = hot_find(s, block);
    struct keys_view v;

    if (!h) {
        info_cold(s, e, out);
        return;
    }
    keys_view(&s->keys, h->key, &v);
    v.key.ns = ns_at(s, e)->cfg.id;
    v.key.hash = e->hash;
    *out = (struct store_info){
        .len = e->len,
        .version = e->version,
        .crc = h->crc,
        .pins = h->pins,
        .refs = h->refs,
        .children = h->children,
        .hits = h->hits,
        .extents = h->extents,
        .age_ms = now_ms(s) - h->born_ms,
        .idle_ms = now_ms(s) - h->used_ms,
        .ttl_left_ms = ttl_left_ms(s, h->expires_s),
        .found = e->state == BLOCK_LIVE || e->state == BLOCK_LOADING
                     ? FOUND_HIT
                     : FOUND_PENDING,
        .tier = e->state == BLOCK_LOADING ? TIER_SSD : h->tier,
        .attr = v.attr,
        .key = v.key,
        .parent_len = v.parent_len,
        .parent = v.parent,
    };
}

uint32_t store_span_count(const struct store *s, uint32_t block)
{
    return hot_of(s, block)->extents;
}

/* Entries and hot records may lie across two lines. */
static void prefetch_both(const void *at, size_t bytes)
{
    __builtin_prefetch(at);
    __builtin_prefetch((const char *)at + bytes - 1);
}

/* A COLD entry has hot record 0, which is nobody's: no branch to mispredict. */
void store_prefetch(const struct store *s, const struct store_key *k,
                    uint32_t step)
{
    const struct catalog *c = &s->cat;
    const uint32_t *bucket = &c->buckets[catalog_bucket(c, k->hash.lo)];
    const struct entry *e;
    const struct hot *h;

    if (step == 0) {
        __builtin_prefetch(bucket);
        return;
    }
    if (*bucket == 0) {
        __builtin_prefetch(&s->ghosts[k->hash.hi >> 32 & s->ghost_mask]);
        return;
    }
    e = &c->entries[*bucket];
    if (step == 1) {
        prefetch_both(e, sizeof *e);
        return;
    }
    h = &c->hots[entry_hot(e)];
    if (step == 2)
        prefetch_both(h, sizeof *h);
    else
        __builtin_prefetch(s->keys.space + (uint64_t)h->key * KEYS_GRAIN);
}

uint32_t store_spans(const struct store *s, uint32_t block, uint64_t off,
                     uint64_t len, struct span *spans, uint32_t cap)
{
    const struct entry *e = entry_at(s, block);
    const struct hot *h = hot_of(s, block);
    const struct tier *t = &s->pools[ns_at(s, e)->cfg.pool].mem.tier;

    MUST(off <= e->len && len <= e->len - off);
    return t->ops->spans(t, h->head, off, len, spans, cap);
}

uint64_t store_pool_off(const struct store *s, uint32_t block)
{
    const struct entry *e = entry_at(s, block);
    const struct store_pool *p = &s->pools[s->nss[e->ns].cfg.pool];
    struct span spans[STORE_SPANS_MAX];

    if (!e->len ||
        store_spans(s, block, 0, e->len, spans, STORE_SPANS_MAX) != 1)
        return UINT64_MAX;
    return (uint64_t)(spans[0].p - p->units->base);
}
