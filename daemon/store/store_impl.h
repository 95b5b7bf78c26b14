/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of struct store, for store*.c only.
 *
 *   store.c        set-up, finding, refs, pins, facts about a block
 *   store_ns.c     namespaces: slots, generations, shares, policy switch
 *   store_block.c  a block's life after its birth: holds, parents, its end
 *   store_put.c    reserve, commit, abort, drop
 *   runs.c         which bytes of a block by several writers are there
 *   store_evict.c  victims, making room, emptying units, upkeep
 *   store_walk.c   walking and store_check
 *   store_cold.c   blocks on the SSD: places, COLD and LOADING, their sweep
 *   store_adopt.c  what recovery found, and the checkpoint
 *   store_session.c  what clients say of their sessions
 *   store_events.c what of all this is told as an event
 *   mover*.c       writes to and reads from the SSD (mover_impl.h)
 *
 * A namespace generation has a slot in nss; blocks name the slot, so a bump is
 * a new slot and a mark on the old one (CONDEMNED), which is freed when its
 * last entry went. */
#ifndef STORE_STORE_IMPL_H
#define STORE_STORE_IMPL_H

#include "store/catalog.h"
#include "store/events.h"
#include "store/keys.h"
#include "store/store.h"
#include "store/tier_mem.h"

enum {
    TICK_BLOCKS = 64,      /* evicted or dropped in one tick at most */
    TICK_SWEEP = 256,      /* hot records looked at for their ttl */
    TICK_UNITS = 4,        /* units given to other lanes */
    COLD_TRIES = 8,        /* units examined before giving up */
    NS_SPARE = 64,         /* slots for old generations being reclaimed */
    DESCENT_MAX = 1 << 16, /* parents followed at most */
    PAGE_BYTES = 4096,     /* unit of policy weights */
    STARVED_MS = 20,       /* a wish not repeated for so long is over */
    TICK_COLD = 1024,      /* entries looked at for COLD ones that must go */
    COLD_PACE_MS = 1,      /* between two such looks for a ttl alone */
    COLD_HAND = 4096,      /* entries looked at for one to make room */
    SESSIONS = 64,         /* session changes being applied at most */
};

struct store_ns {
    struct store_ns_cfg cfg; /* id 0: slot is free */
    struct hash_secret secret;
    struct evict evict;
    size_t state_bytes; /* of evict.state */
    uint64_t entries;   /* in any state */
    uint64_t blocks;    /* in memory: OPEN, LIVE and LOADING */
    uint64_t bytes, extent_bytes;
    uint64_t cold_n;                /* entries that are COLD */
    uint64_t ssd_blocks, ssd_bytes; /* with a place on an SSD */
    uint64_t share_bytes;
    bool condemned;
    uint16_t active_at; /* place in store.active + 1; 0 = not there */
};

struct store_pool {
    struct unit_pool *units;
    struct tier_mem mem; /* set up when units has any */
    bool ready;
    bool draining;       /* between low and high water */
    uint64_t starved_ns; /* when a reserve last found the pool empty; 0: none */
    uint64_t capacity;   /* that shares were last computed with */
};

/* A change told by store_session, applied to a part of the blocks per tick. */
struct session_change {
    uint32_t slot;
    enum store_session state;
    uint64_t label;
    uint32_t left; /* hot records that it has still to see */
};

struct mover;
struct adopt;

struct store {
    struct store_cfg cfg;
    struct env *env;
    struct metrics *metrics;
    struct trace *trace;
    struct catalog cat;
    struct keys keys;
    struct store_pool pools[STORE_POOLS];
    struct store_ns *nss; /* slots 1 .. ns_cap - 1 */
    uint32_t ns_cap;
    uint32_t *ns_of;  /* by id: slot of the present generation, or 0 */
    uint16_t *active; /* slots that have entries */
    uint32_t active_n;
    uint32_t condemned_n;
    uint64_t *ghosts; /* direct-mapped */
    uint32_t ghost_mask;
    uint64_t version; /* last given */
    uint64_t freed;
    uint64_t pinned_bytes, blocks, bytes, extent_bytes;
    uint32_t seq;   /* uses counted, for used_seq and unit stamps */
    uint32_t ttl_n; /* hot records with a ttl */
    uint32_t sweep; /* next hot record to look at */
    /* ---- the SSD */
    struct mover *mover;         /* NULL: there is none */
    struct adopt *adopt;         /* until store_adopted */
    bool adopting;               /* something was adopted since */
    uint64_t cold_n, cold_ttl_n; /* COLD; those of them with a ttl */
    uint64_t condemned_cold;     /* those of old generations */
    uint64_t ssd_blocks, ssd_bytes;
    uint32_t cold_sweep;  /* next entry to look at */
    uint64_t cold_due_ns; /* and when, for a ttl alone */
    uint32_t cold_hand;   /* next entry to give up for a new one */
    uint32_t lost;        /* devices whose places are being forgotten, bits */
    uint32_t lost_left;   /* entries to be looked at until that is done */
    struct session_change sessions[SESSIONS];
    uint32_t session_n;
    uint32_t session_hand; /* next hot record to look at */
    struct events events;  /* .bytes 0: none are kept */
};

static inline struct entry *entry_at(const struct store *s, uint32_t block)
{
    return &s->cat.entries[block];
}

static inline struct hot *hot_at(const struct store *s, uint32_t hot)
{
    return &s->cat.hots[hot];
}

/* Of a block that must have one. */
static inline struct hot *hot_of(const struct store *s, uint32_t block)
{
    MUST(block && block < s->cat.entry_hi && entry_hot(entry_at(s, block)));
    return hot_at(s, entry_at(s, block)->hot);
}

/* Of a block that may be COLD: NULL then. */
static inline struct hot *hot_find(const struct store *s, uint32_t block)
{
    uint32_t hot = entry_hot(entry_at(s, block));

    return hot ? hot_at(s, hot) : NULL;
}

static inline bool hot_is(const struct hot *h, uint32_t flags)
{
    return (h->flags & flags) != 0;
}

static inline void hot_set(struct hot *h, uint32_t flags)
{
    h->flags = (uint8_t)(h->flags | flags);
}

static inline void hot_unset(struct hot *h, uint32_t flags)
{
    h->flags = (uint8_t)(h->flags & ~flags);
}

static inline struct store_ns *ns_at(const struct store *s,
                                     const struct entry *e)
{
    return &s->nss[e->ns];
}

static inline struct store_pool *pool_of(struct store *s, const struct entry *e)
{
    return &s->pools[s->nss[e->ns].cfg.pool];
}

static inline bool hot_expired(const struct store *s, const struct hot *h)
{
    return h->expires_s && s->env->wall_s >= h->expires_s;
}

static inline uint64_t now_ms(const struct store *s)
{
    return s->env->now_ns / NS_PER_MS;
}

static inline void trace_block(struct store *s, enum trace_id id,
                               const struct entry *e, uint64_t b)
{
    if (s->trace)
        trace_add(s->trace, s->env->now_ns, id, 0, e->hash.lo, b);
}

/* ---- store_ns.c */
void ns_entry_added(struct store *s, uint32_t slot);
void ns_entry_removed(struct store *s, uint32_t slot);
void ns_cold_changed(struct store *s, uint32_t slot, int by);
/* Shares of all namespaces in the pool, from its capacity now. */
void ns_shares(struct store *s, uint32_t pool);
void ns_shares_refresh(struct store *s); /* where capacity changed */

/* ---- store_block.c */
/* Tells the policy whether the block may be evicted; warm: as if used now. */
void block_settle(struct store *s, uint32_t block, bool warm);
void block_link(struct store *s, uint32_t block, uint32_t parent);
void block_detach(struct store *s, uint32_t block);
/* Any state in which it is found -> GONE and, if nothing uses it, its end.
 * Returns the bytes of extents freed now. */
uint64_t block_gone(struct store *s, uint32_t block, enum evict_why why);
/* Ends a GONE block that nothing uses any more. */
uint64_t block_end(struct store *s, uint32_t block);
void block_gauges(struct store *s);

/* What became of blocks that are not here: one of FOUND_MISS_x, NEVER if it is
 * not known (any more). */
void ghost_put(struct store *s, struct hash128 h, enum store_found why);
enum store_found ghost_get(const struct store *s, struct hash128 h);
void block_expire(struct store *s, uint32_t block);

/* ---- store_evict.c */
/* Evicts the best victim of a pool (STORE_POOLS: of any) or of a namespace
 * slot. Bytes of extents freed, 0 if there was no victim. */
uint64_t evict_from_pool(struct store *s, uint32_t pool);
uint64_t evict_from_ns(struct store *s, uint32_t slot);
/* Completes the place of an OPEN block, evicting as needed. OK or BUSY. */
must_check enum err evict_place(struct store *s, uint32_t pool,
                                struct tier_place *p, uint64_t len,
                                uint32_t owner);

static inline uint16_t key_route(const struct store_ns *n,
                                 const struct store_key *k)
{
    return (uint16_t)hash_slot(n->cfg.slot_seed,
                               k->route_len ? k->route : k->key,
                               k->route_len ? k->route_len : k->key_len);
}

/* ---- store_put.c */
/* Room for the bytes of an OPEN or LOADING block, within the quota. What was
 * got is the block's also if it was not enough (BUSY). */
must_check enum err block_room(struct store *s, uint32_t block);
/* A key cell, evicting as needed; 0 if there is no room for one. */
uint32_t key_make(struct store *s, const struct store_key *k,
                  const struct wire_attr *attr, const uint8_t *parent,
                  uint16_t parent_len);
uint32_t page_weight(uint64_t len);

/* ---- store_cold.c */
/* Has it a place that can be read? Only then may its memory be given up. */
bool block_placed(const struct store *s, const struct entry *e);
void place_set(struct store *s, uint32_t block, uint32_t page, uint8_t tag);
void place_clear(struct store *s, uint32_t block); /* may be none */
/* LIVE or LOADING with a place -> COLD; nothing but the caller's ref, which
 * ends, may hold it. Returns the bytes of extents freed. */
uint64_t block_chill(struct store *s, uint32_t block, enum evict_why why);
/* Its memory is given up for others' sake or on request: counted, traced. */
uint64_t block_unload(struct store *s, uint32_t block, enum evict_why why);
/* If it is to leave memory and may: unloads it. False: it stays. */
bool block_leave(struct store *s, uint32_t block);
/* COLD -> LOADING with a hot record and one ref; BUSY, and nothing changed. */
must_check enum err block_warm(struct store *s, uint32_t block);
/* Makes an entry with a place, without hot record, COLD. */
void cold_new(struct store *s, uint32_t block, uint32_t crc, struct cold c);
/* The end of a COLD block; a TOMB stays if it has children. */
void cold_gone(struct store *s, uint32_t block);
void cold_children(struct store *s, uint32_t block, int by);
void cold_expires(struct store *s, uint32_t block, uint32_t expires_s);
struct cold cold_side(const struct store *s, const struct entry *e);
/* A COLD block found by its hash: drops it if it expired or its device is
 * lost; false then. */
bool cold_holds(struct store *s, uint32_t block);
/* The SSD does not have it any more. */
void cold_forget(struct store *s, uint32_t block);
/* Gives up one COLD block, of the least used seen, for a new entry. */
bool cold_evict(struct store *s);
/* Forgets the COLD blocks of a condemned slot at once. */
void cold_sweep_slot(struct store *s, uint32_t slot);
bool cold_tick(struct store *s);

/* ---- store_adopt.c */
must_check enum err adopt_new(struct store *s);
void adopt_free(struct store *s);

/* ---- store_session.c */
bool session_tick(struct store *s);

/* ---- store_events.c */
/* A block is found from now on (STORED), not any more (REMOVED, before it is
 * GONE), or is in another tier now (MOVED). */
void event_stored(struct store *s, uint32_t block);
void event_removed(struct store *s, uint32_t block);
void event_moved(struct store *s, uint32_t block, uint8_t tier);
/* The namespace has a new generation, and of the old one nothing is found. */
void event_cleared(struct store *s, uint32_t ns, uint64_t generation);

/* ---- mover.c */
void mover_free(struct store *s);
bool mover_tick(struct store *s);
void mover_check(const struct store *s);
/* Can this device be read from now? */
bool mover_readable(const struct store *s, uint32_t dev);
/* A LIVE block without place is to be written. */
void mover_queue(struct store *s, uint32_t block);

#endif
