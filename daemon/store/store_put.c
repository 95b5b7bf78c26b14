/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing: reserve (a place and an entry, found as PENDING), commit (found as
 * HIT), abort, drop.
 *
 *   reserve:  known already? -> fits at all? -> entry, hot record, key cell
 *             -> parent link -> quota -> extents
 *
 * Each step that finds no room evicts and tries again (entries: COLD blocks go
 * first, they have nothing else to give); the parent is held from the start and
 * the new block is not in a policy yet, so neither is ever taken for room. What
 * fails after the entry was made is undone as an abort. */
#include "store/store_impl.h"

#include "base/fault.h"

/* ---- what is there already */

/* OK if the key may be stored; tomb: the entry of the same key that waits for
 * its children, or 0. */
static enum err known(struct store *s, const struct store_key *k, uint32_t slot,
                      uint32_t *tomb)
{
    uint32_t b = catalog_first(&s->cat, k->hash), next;

    *tomb = 0;
    for (; b; b = next) {
        struct entry *e = entry_at(s, b);

        next = catalog_next(&s->cat, b, k->hash);
        if (e->ns != slot || e->state == BLOCK_GONE)
            continue;
        if (e->state == BLOCK_TOMB) {
            *tomb = b;
            continue;
        }
        if (e->state == BLOCK_COLD) {
            if (cold_holds(s, b))
                return ERR_EXISTS;
            return known(s, k, slot, tomb);
        }
        if (!keys_same(&s->keys, hot_of(s, b)->key, k))
            continue;
        if (e->state == BLOCK_OPEN)
            return ERR_PENDING;
        if (!hot_expired(s, hot_of(s, b)))
            return ERR_EXISTS;
        /* It may become the tomb, or free an entry that was seen as one. */
        block_expire(s, b);
        return known(s, k, slot, tomb);
    }
    return OK;
}

static uint32_t parent_find(struct store *s, const struct store_key *k,
                            uint32_t slot, const uint8_t *parent,
                            uint16_t parent_len)
{
    struct store_key p = {.ns = k->ns,
                          .group = k->group,
                          .key_len = parent_len,
                          .scope = k->scope,
                          .key = parent};
    uint32_t b;

    if (!parent_len)
        return 0;
    store_key_hash(s, &p);
    for (b = catalog_first(&s->cat, p.hash); b;
         b = catalog_next(&s->cat, b, p.hash)) {
        struct entry *e = entry_at(s, b);

        if (e->ns != slot || e->state == BLOCK_GONE || e->state == BLOCK_TOMB)
            continue;
        if (e->state == BLOCK_COLD ||
            keys_same(&s->keys, hot_of(s, b)->key, &p))
            return b;
    }
    return 0;
}

/* Keeps the parent while room is made: by a ref, or a COLD one, which has none,
 * by counting the child that it is about to get. */
static void parent_hold(struct store *s, uint32_t up)
{
    if (entry_at(s, up)->state == BLOCK_COLD)
        cold_children(s, up, 1);
    else
        store_ref(s, up);
}

static void parent_let(struct store *s, uint32_t up)
{
    if (entry_at(s, up)->state == BLOCK_COLD)
        cold_children(s, up, -1);
    else
        store_unref(s, up);
}

/* ---- the entry */

static uint32_t entry_make(struct store *s, const struct store_key *k,
                           uint32_t slot)
{
    uint32_t b;

    while (!(b = catalog_new(&s->cat, k->hash)))
        if (!cold_evict(s) && !evict_from_pool(s, STORE_POOLS))
            return 0;
    entry_at(s, b)->ns = (uint16_t)slot;
    entry_at(s, b)->state = BLOCK_GONE; /* until it is whole: not found */
    ns_entry_added(s, slot);
    return b;
}

static bool hot_make(struct store *s, uint32_t b)
{
    while (!catalog_hot_new(&s->cat, b))
        if (!evict_from_pool(s, STORE_POOLS))
            return false;
    return true;
}

/* Makes the TOMB of this key the new block: those below it keep their parent,
 * its own parent is found anew. One link more keeps it while others go. */
static bool tomb_take(struct store *s, uint32_t b)
{
    struct entry *e = entry_at(s, b);
    uint64_t links;

    e->links++;
    if (!hot_make(s, b)) {
        if (!--e->links)
            block_detach(s, b);
        return false;
    }
    links = e->links - 1;
    e->version = 0;
    e->state = BLOCK_GONE;
    hot_of(s, b)->children = (uint32_t)links;
    block_detach(s, b);
    return true;
}

static uint32_t fresh_make(struct store *s, const struct store_key *k,
                           uint32_t slot)
{
    uint32_t b = entry_make(s, k, slot);

    if (!b || hot_make(s, b))
        return b;
    entry_at(s, b)->state = BLOCK_TOMB;
    block_detach(s, b);
    return 0;
}

uint32_t key_make(struct store *s, const struct store_key *k,
                  const struct wire_attr *attr, const uint8_t *parent,
                  uint16_t parent_len)
{
    uint32_t ref;

    while (!(ref = keys_new(&s->keys, k, attr, parent, parent_len)))
        if (!evict_from_pool(s, STORE_POOLS))
            return 0;
    return ref;
}

/* Undoes entry_make or tomb_take when there was no room for the key's bytes. */
static void entry_unmake(struct store *s, uint32_t b)
{
    struct entry *e = entry_at(s, b);

    e->links = hot_of(s, b)->children;
    catalog_hot_del(&s->cat, e->hot);
    e->state = BLOCK_TOMB;
    if (!e->links)
        block_detach(s, b);
}

uint32_t page_weight(uint64_t len)
{
    return (uint32_t)max_u64((len + PAGE_BYTES - 1) / PAGE_BYTES, 1);
}

/* Seconds, rounded up; never 0 for a ttl. */
static uint32_t expires_s(const struct store *s, const struct store_ns *n,
                          const struct wire_attr *attr)
{
    uint32_t ttl = attr && attr->ttl_ms ? attr->ttl_ms : n->cfg.ttl_ms;

    if (!ttl)
        return 0;
    return (uint32_t)min_u64(s->env->wall_s + (ttl + UINT64_C(999)) / 1000,
                             UINT32_MAX);
}

/* GONE -> OPEN: everything but its place and its parent. */
static void block_open(struct store *s, uint32_t b,
                       const struct wire_attr *attr, uint64_t len)
{
    struct entry *e = entry_at(s, b);
    struct store_ns *n = ns_at(s, e);
    struct hot *h = hot_of(s, b);

    e->state = BLOCK_OPEN;
    e->len = (uint32_t)len;
    h->node.weight = page_weight(len);
    h->node.priority = attr ? attr->priority : 0;
    h->head = TIER_NOWHERE;
    h->refs = 1;
    h->born_ms = h->used_ms = now_ms(s);
    h->expires_s = expires_s(s, n, attr);
    s->ttl_n += h->expires_s != 0;
    n->blocks++;
    n->bytes += len;
    s->blocks++;
    s->bytes += len;
}

/* ---- room */

static enum err quota_room(struct store *s, uint32_t slot)
{
    struct store_ns *n = &s->nss[slot];

    while (n->cfg.quota_bytes && n->bytes > n->cfg.quota_bytes)
        if (!evict_from_ns(s, slot))
            return ERR_BUSY;
    return OK;
}

static enum err place_make(struct store *s, uint32_t b)
{
    struct entry *e = entry_at(s, b);
    struct store_ns *n = ns_at(s, e);
    struct hot *h = hot_of(s, b);
    struct tier_place p;
    enum err err;

    tier_place_init(&p);
    err = evict_place(s, n->cfg.pool, &p, e->len, e->hot);
    /* What was got belongs to the block either way: its end gives it back. */
    h->head = p.head;
    h->extents = (uint16_t)p.extents;
    n->extent_bytes += p.bytes;
    s->extent_bytes += p.bytes;
    return err;
}

enum err block_room(struct store *s, uint32_t block)
{
    enum err e = quota_room(s, entry_at(s, block)->ns);

    return e ? e : place_make(s, block);
}

static enum err limits(const struct store *s, const struct store_ns *n,
                       uint64_t len)
{
    uint64_t most = (uint64_t)STORE_SPANS_MAX / 2 * UNIT_BYTES;

    if (len > s->cfg.block_bytes_max || len > most)
        return ERR_LIMIT;
    if (n->cfg.quota_bytes && len > n->cfg.quota_bytes)
        return ERR_NO_SPACE;
    if (len > (uint64_t)s->pools[n->cfg.pool].units->units * UNIT_BYTES)
        return ERR_NO_SPACE;
    return OK;
}

/* An entry with hot record and key bytes, or 0. The parent's ref keeps it
 * while others are evicted for room. */
static uint32_t body_make(struct store *s, const struct store_key *k,
                          uint32_t slot, uint32_t tomb,
                          const struct wire_attr *attr, const uint8_t *parent,
                          uint16_t parent_len)
{
    uint32_t b = tomb, key;

    if (tomb ? !tomb_take(s, tomb) : !(b = fresh_make(s, k, slot)))
        return 0;
    key = key_make(s, k, attr, parent, parent_len);
    hot_of(s, b)->key = key;
    s->cat.routes[b] = key_route(&s->nss[slot], k);
    if (key)
        return b;
    entry_unmake(s, b);
    return 0;
}

/* ---- the contract */

static enum err reserve(struct store *s, const struct store_key *k,
                        uint32_t slot, const struct wire_attr *attr,
                        const uint8_t *parent, uint16_t parent_len,
                        uint64_t len, uint32_t *block_out)
{
    uint32_t tomb, up, b;
    enum err e = known(s, k, slot, &tomb);

    if (!e)
        e = limits(s, &s->nss[slot], len);
    if (!e && fault_here("store_reserve"))
        e = ERR_BUSY;
    if (e)
        return e;
    up = parent_find(s, k, slot, parent, parent_len);
    if (up)
        parent_hold(s, up);
    b = body_make(s, k, slot, tomb, attr, parent, parent_len);
    if (b) {
        block_open(s, b, attr, len);
        if (up && !(tomb && store_descends(s, up, &b, 1)))
            block_link(s, b, up);
    }
    if (up)
        parent_let(s, up);
    if (!b)
        return ERR_BUSY;
    e = block_room(s, b);
    if (e) {
        hot_of(s, b)->refs = 0;
        block_gone(s, b, EVICT_GONE);
        return e;
    }
    *block_out = b;
    return OK;
}

enum err store_reserve(struct store *s, const struct store_key *k,
                       const struct wire_attr *attr, const uint8_t *parent,
                       uint16_t parent_len, uint64_t len, uint32_t *block_out)
{
    uint32_t slot = k->ns <= s->cfg.namespaces_max ? s->ns_of[k->ns] : 0;
    uint64_t freed = store_freed(s);
    enum err e;

    if (!slot)
        return ERR_NO_NAMESPACE;
    e = reserve(s, k, slot, attr, parent, parent_len, len, block_out);
    if (e == ERR_EXISTS)
        metric_add(&s->metrics->put_exists, 1);
    if (e == ERR_PENDING)
        metric_add(&s->metrics->put_pending, 1);
    /* What a vain attempt freed itself must not wake it again. */
    if (e == ERR_BUSY)
        s->freed -= store_freed(s) - freed;
    if (!e) {
        trace_block(s, TRACE_RESERVE, entry_at(s, *block_out), len);
        block_gauges(s);
    }
    return e;
}

/* Was it here and would have been used again? */
static bool wanted(enum store_found ghost)
{
    return ghost == FOUND_MISS_EVICTED || ghost == FOUND_MISS_LATE ||
           ghost == FOUND_MISS_NOT_ADMITTED || ghost == FOUND_MISS_CORRUPT;
}

uint64_t store_commit(struct store *s, uint32_t block, uint32_t crc)
{
    struct entry *e = entry_at(s, block);
    struct hot *h = hot_of(s, block);

    MUST(e->state == BLOCK_OPEN && h->refs > 0);
    e->state = BLOCK_LIVE;
    e->version = ++s->version;
    h->crc = crc;
    h->used_ms = now_ms(s);
    h->used_seq = ++s->seq;
    evict_insert(&ns_at(s, e)->evict, e->hot);
    block_settle(s, block, false);
    if (wanted(ghost_get(s, e->hash)))
        hot_set(h, HOT_WANTED);
    ghost_put(s, e->hash, FOUND_MISS_NEVER);
    metric_add(&s->metrics->put_stored, 1);
    trace_block(s, TRACE_COMMIT, e, e->version);
    event_stored(s, block);
    mover_queue(s, block);
    return e->version;
}

void store_abort(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);
    struct hot *h = hot_of(s, block);

    MUST(e->state == BLOCK_OPEN && h->refs > 0);
    metric_add(&s->metrics->put_aborted, 1);
    trace_block(s, TRACE_ABORT, e, e->len);
    h->refs--;
    block_gone(s, block, EVICT_GONE);
}

static void drop(struct store *s, uint32_t block, enum store_found why)
{
    struct entry *e = entry_at(s, block);

    MUST(e->state == BLOCK_LIVE || e->state == BLOCK_LOADING ||
         e->state == BLOCK_COLD);
    trace_block(s, TRACE_DROP, e, e->len);
    ghost_put(s, e->hash, why);
    block_gone(s, block, EVICT_GONE);
}

void store_drop(struct store *s, uint32_t block)
{
    metric_add(&s->metrics->dropped_blocks, 1);
    drop(s, block, FOUND_MISS_DROPPED);
}

void store_drop_moved(struct store *s, uint32_t block)
{
    metric_add(&s->metrics->moved_blocks, 1);
    drop(s, block, FOUND_MISS_MOVED);
}
