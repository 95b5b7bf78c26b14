/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks on the SSD: their places, the two states that only an SSD brings, and
 * the sweep that finds those of them that must go.
 *
 *   LIVE with a place --block_chill--> COLD --block_warm--> LOADING
 *     ^                                 ^                     |    |
 *     +--------- mover: bytes are good -|---------------------+    |
 *                                       +--- block_chill ----------+
 *
 * A COLD block is a bare entry: its crc stands where the hot index was, its ttl
 * and its children, if any, in colds[]. Nothing of it is known to a policy.
 *
 * A place is what seg_place says: a page and a tag. place_set and place_clear
 * keep the counts; whoever clears the place of a LIVE block settles it, for it
 * may be held by its children from then on.
 *
 * The sweep is one cursor over all entries, moved on by a part in every tick
 * while there is something to find: COLD blocks of old generations, COLD blocks
 * whose ttl passed (these at a slower pace, for there may always be some with a
 * ttl), places on a device that is gone. Each of them is also found
 * by whoever asks for the block, so nothing depends on how fast the sweep is.
 *
 * Invariants: 1. cold_n, ssd_blocks and the others are what store_check counts.
 * 2. entry.side says that colds[] has something for the entry. Thread: the
 * lane. Nothing here waits or fails but block_warm, for want of a hot record.
 */
#include "store/store_impl.h"

#include "base/fault.h"
#include "store/seg_format.h"

/* ---- places */

bool block_placed(const struct store *s, const struct entry *e)
{
    return e->ssd && mover_readable(s, seg_dev(e->tag));
}

static void ssd_gauges(struct store *s)
{
    struct metrics *m = s->metrics;

    metric_set(&m->cold_blocks, s->cold_n);
    metric_set(&m->ssd_blocks, s->ssd_blocks);
    metric_set(&m->ssd_block_bytes, s->ssd_bytes);
}

static void place_count(struct store *s, const struct entry *e, int by)
{
    struct store_ns *n = ns_at(s, e);
    uint64_t blocks = (uint64_t)(int64_t)by, bytes = blocks * e->len;

    s->ssd_blocks += blocks;
    s->ssd_bytes += bytes;
    n->ssd_blocks += blocks;
    n->ssd_bytes += bytes;
    ssd_gauges(s);
}

void place_set(struct store *s, uint32_t block, uint32_t page, uint8_t tag)
{
    struct entry *e = entry_at(s, block);

    MUST(page && !e->ssd);
    e->ssd = page;
    e->tag = tag;
    place_count(s, e, 1);
}

void place_clear(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);

    if (!e->ssd)
        return;
    if (entry_hot(e))
        hot_set(hot_of(s, block), HOT_RECORDED);
    place_count(s, e, -1);
    e->ssd = 0;
}

bool store_on_ssd(const struct store *s, uint32_t block)
{
    return block_placed(s, entry_at(s, block));
}

enum store_where store_where(const struct store *s, uint32_t block)
{
    const struct entry *e = entry_at(s, block);

    if (e->state == BLOCK_COLD)
        return WHERE_SSD;
    return e->state == BLOCK_LOADING ? WHERE_LOADING : WHERE_MEMORY;
}

/* ---- what an entry without hot record keeps beside it */

struct cold cold_side(const struct store *s, const struct entry *e)
{
    return e->side ? s->cat.colds[e - s->cat.entries] : (struct cold){0};
}

static void side_set(struct store *s, uint32_t block, struct cold c)
{
    struct entry *e = entry_at(s, block);

    s->cold_ttl_n -= cold_side(s, e).expires_s != 0;
    s->cold_ttl_n += c.expires_s != 0;
    e->side = c.children || c.expires_s;
    if (e->side) /* else its memory is not touched */
        s->cat.colds[block] = c;
}

void cold_children(struct store *s, uint32_t block, int by)
{
    struct cold c = cold_side(s, entry_at(s, block));

    MUST(by > 0 || c.children > 0);
    c.children += (uint32_t)by;
    side_set(s, block, c);
}

void cold_expires(struct store *s, uint32_t block, uint32_t expires_s)
{
    struct cold c = cold_side(s, entry_at(s, block));

    c.expires_s = expires_s;
    side_set(s, block, c);
}

static void cold_count(struct store *s, struct entry *e, int by)
{
    s->cold_n += (uint64_t)(int64_t)by;
    if (ns_at(s, e)->condemned)
        s->condemned_cold += (uint64_t)(int64_t)by;
    ns_cold_changed(s, e->ns, by);
    ssd_gauges(s);
}

void cold_new(struct store *s, uint32_t block, uint32_t crc, struct cold c)
{
    struct entry *e = entry_at(s, block);

    e->state = BLOCK_COLD;
    e->crc = crc;
    cold_count(s, e, 1);
    side_set(s, block, c);
}

/* Not COLD any more; the state is the caller's to set. */
static struct cold cold_end(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);
    struct cold c = cold_side(s, e);

    MUST(e->state == BLOCK_COLD);
    side_set(s, block, (struct cold){0});
    cold_count(s, e, -1);
    return c;
}

/* ---- out of memory and into it */

static void memory_count(struct store *s, const struct entry *e, int by)
{
    struct store_ns *n = ns_at(s, e);
    uint64_t blocks = (uint64_t)(int64_t)by, bytes = blocks * e->len;

    s->blocks += blocks;
    s->bytes += bytes;
    n->blocks += blocks;
    n->bytes += bytes;
}

uint64_t block_chill(struct store *s, uint32_t block, enum evict_why why)
{
    struct entry *e = entry_at(s, block);
    struct hot *h = hot_of(s, block);
    struct cold c = {.children = h->children, .expires_s = h->expires_s};
    struct tier *t = &pool_of(s, e)->mem.tier;
    uint32_t crc = h->crc;
    uint64_t bytes;

    MUST(e->ssd && !h->pins);
    MUST(h->refs == (e->state == BLOCK_LOADING));
    if (e->state == BLOCK_LIVE) {
        event_moved(s, block, TIER_SSD);
        evict_remove(&ns_at(s, e)->evict, e->hot, why);
    }
    bytes = t->ops->release(t, h->head);
    ns_at(s, e)->extent_bytes -= bytes;
    s->extent_bytes -= bytes;
    s->ttl_n -= h->expires_s != 0;
    memory_count(s, e, -1);
    if (h->key)
        keys_del(&s->keys, h->key);
    catalog_hot_del(&s->cat, e->hot);
    cold_new(s, block, crc, c);
    s->freed++;
    block_gauges(s);
    return bytes;
}

/* Only what is used while it is COLD counts for the next life on the SSD; a
 * block that is passing through memory keeps what it was used. */
uint64_t block_unload(struct store *s, uint32_t block, enum evict_why why)
{
    struct entry *e = entry_at(s, block);

    if (!hot_is(hot_of(s, block), HOT_LEAVE))
        e->heat = 0;
    metric_add(&s->metrics->unloaded_blocks, 1);
    trace_block(s, TRACE_UNLOAD, e, e->len);
    return block_chill(s, block, why);
}

bool block_leave(struct store *s, uint32_t block)
{
    const struct entry *e = entry_at(s, block);
    const struct hot *h = hot_of(s, block);

    if (!hot_is(h, HOT_LEAVE) || e->state != BLOCK_LIVE || h->refs || h->pins ||
        !block_placed(s, e))
        return false;
    block_unload(s, block, EVICT_GONE);
    return true;
}

enum err block_warm(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);
    uint32_t crc = e->crc;
    struct cold c;
    struct hot *h;

    if (fault_here("block_warm"))
        return ERR_BUSY;
    while (!catalog_hot_new(&s->cat, block))
        if (!evict_from_pool(s, STORE_POOLS))
            return ERR_BUSY;
    c = cold_end(s, block);
    e->state = BLOCK_LOADING;
    h = hot_of(s, block);
    h->node.weight = page_weight(e->len);
    h->head = TIER_NOWHERE;
    h->born_ms = h->used_ms = now_ms(s);
    h->crc = crc;
    h->refs = 1;
    h->children = c.children;
    h->expires_s = c.expires_s;
    s->ttl_n += c.expires_s != 0;
    memory_count(s, e, 1);
    return OK;
}

/* ---- the end */

void cold_gone(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);
    struct cold c = cold_end(s, block);

    place_clear(s, block);
    e->state = BLOCK_TOMB;
    e->hot = 0;
    e->heat = e->rich = 0;
    e->links = c.children;
    if (!c.children)
        block_detach(s, block);
}

static bool dev_lost(const struct store *s, const struct entry *e)
{
    return e->ssd && (s->lost >> seg_dev(e->tag) & 1);
}

static bool cold_expired(const struct store *s, const struct entry *e)
{
    uint32_t expires_s = cold_side(s, e).expires_s;

    return expires_s && s->env->wall_s >= expires_s;
}

static void cold_drop(struct store *s, uint32_t block, enum store_found why)
{
    struct entry *e = entry_at(s, block);

    ghost_put(s, e->hash, why);
    metric_add(&s->metrics->ssd_evicted_blocks, 1);
    trace_block(s, TRACE_EVICT, e, e->len);
    block_gone(s, block, EVICT_GONE);
}

bool cold_holds(struct store *s, uint32_t block)
{
    const struct entry *e = entry_at(s, block);

    if (cold_expired(s, e))
        block_expire(s, block);
    else if (dev_lost(s, e))
        cold_drop(s, block, FOUND_MISS_CORRUPT);
    else
        return true;
    return false;
}

void cold_forget(struct store *s, uint32_t block)
{
    cold_drop(s, block, FOUND_MISS_EVICTED);
}

/* A clock over the entries: a use while COLD is a second chance. */
bool cold_evict(struct store *s)
{
    uint32_t last = 0;

    if (!s->cold_n)
        return false;
    for (uint32_t i = 0; i < COLD_HAND; i++) {
        struct entry *e;

        if (s->cold_hand >= s->cat.entry_hi)
            s->cold_hand = 1;
        e = entry_at(s, s->cold_hand++);
        if (e->state != BLOCK_COLD || cold_side(s, e).children)
            continue;
        last = (uint32_t)(e - s->cat.entries);
        if (!e->heat)
            break;
        e->heat--;
    }
    if (last)
        cold_forget(s, last);
    return last != 0;
}

/* ---- the sweep */

static void condemned_drop(struct store *s, uint32_t block)
{
    struct entry *e = entry_at(s, block);

    metric_add(&s->metrics->dropped_blocks, 1);
    trace_block(s, TRACE_DROP, e, e->len);
    block_gone(s, block, EVICT_GONE);
}

/* A LIVE block whose device is gone may have a place on another. */
static void place_lost(struct store *s, uint32_t block)
{
    place_clear(s, block);
    if (entry_at(s, block)->state != BLOCK_LIVE)
        return;
    block_settle(s, block, false);
    mover_queue(s, block);
}

/* True if there was something to do. */
static bool sweep_one(struct store *s, uint32_t block)
{
    const struct entry *e = entry_at(s, block);

    if (e->state == BLOCK_COLD) {
        if (!ns_at(s, e)->condemned)
            return !cold_holds(s, block);
        condemned_drop(s, block);
        return true;
    }
    if ((e->state == BLOCK_LIVE || e->state == BLOCK_LOADING) &&
        dev_lost(s, e)) {
        place_lost(s, block);
        return true;
    }
    return false;
}

bool cold_tick(struct store *s)
{
    uint64_t n = min_u64(TICK_COLD, s->cat.entry_hi - 1);
    bool found = false;

    if (!s->condemned_cold && !s->lost &&
        (!s->cold_ttl_n || s->env->now_ns < s->cold_due_ns))
        return false;
    s->cold_due_ns = s->env->now_ns + COLD_PACE_MS * NS_PER_MS;
    for (uint64_t i = 0; i < n; i++) {
        if (s->cold_sweep >= s->cat.entry_hi)
            s->cold_sweep = 1;
        found |= sweep_one(s, s->cold_sweep++);
        if (s->lost && --s->lost_left == 0)
            s->lost = 0;
    }
    if (!n)
        s->lost = 0;
    return found || s->condemned_cold || s->lost;
}

void cold_sweep_slot(struct store *s, uint32_t slot)
{
    for (uint32_t b = 1; s->nss[slot].cold_n && b < s->cat.entry_hi; b++)
        if (entry_at(s, b)->state == BLOCK_COLD && entry_at(s, b)->ns == slot)
            condemned_drop(s, b);
}

/* Entries made from now on have no place on it (mover_readable), so one round
 * from here meets all that have. */
void store_ssd_lost(struct store *s, uint32_t dev)
{
    if (!s->mover)
        return;
    s->lost |= 1u << dev;
    s->lost_left = s->cat.entry_hi;
}
