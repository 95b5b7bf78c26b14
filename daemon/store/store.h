/* SPDX-License-Identifier: Apache-2.0
 *
 * One lane's blocks: which keys are stored, where their bytes are, who may not
 * be evicted. No sockets, no clock, no threads: time is in env, bytes are
 * copied by others into the spans given here.
 *
 *                 reserve            commit
 *      (absent) ----------> OPEN --------------> LIVE
 *         ^                  |                    | evict, drop, ttl, bump
 *         |                  | abort              v
 *         +------------------+---- refs = 0 --- GONE
 *
 *   OPEN  bytes are arriving; found as PENDING; never evicted
 *   LIVE  immutable; found as HIT
 *   GONE  not found any more; its extents are freed when the last ref ends
 *
 * A block is named by its id, valid while the caller holds a ref (or, within
 * one lane turn, from the call that returned it). 0 is no block.
 *
 *  ref   held by an op while bytes move: neither moved nor evicted
 *  pin   a client's promise with a ttl: the same, capped in bytes
 *  both  make the block HELD in its policy (evict.h), as does a resident child
 *
 * Invariants (store_check verifies all; docs/DESIGN.md numbers them):
 *  1. used + free = capacity in every pool, in units and in slots.
 *  2. A LIVE block's bytes, length, crc and version never change.
 *  3. An extent belongs to one block; blocks with refs or pins keep theirs.
 *  4. Of blocks with one key at most one is OPEN or LIVE.
 *  5. evictable() = LIVE, no refs, no pins, no resident child.
 *
 * Owner and thread: the lane. Nothing here allocates after store_init; the
 * catalog grows by touching reserved address space. */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "base/env.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/metrics.h"
#include "base/span.h"
#include "base/trace.h"
#include "proto/wire.h"
#include "store/evict.h"
#include "store/unit_pool.h"

enum {
    STORE_POOLS = 16,      /* pool 0 is shared, others: one loan namespace */
    STORE_GROUPS = 16,     /* groups of a namespace */
    STORE_SPANS_MAX = 1024 /* extents of one block at most */
};

struct store_cfg {
    uint32_t lane, lanes;
    uint32_t namespaces_max;
    uint32_t low_water_pct;  /* start evicting when less than this is free */
    uint32_t high_water_pct; /* and stop when this much is free */
    uint64_t pinned_bytes_max;
    uint64_t block_bytes_max;
    uint64_t blocks_max; /* catalog entries at most, all lanes' tiers */
    uint32_t ghosts;     /* recent-eviction memory, entries */
};

/* What a lane's store knows of a namespace: an immutable copy, given again
 * whole on every change. */
struct store_ns_cfg {
    uint32_t id; /* 1..namespaces_max */
    uint64_t generation;
    uint8_t salt[32];
    const struct evict_ops *policy;
    uint32_t share;                     /* weight */
    uint64_t quota_bytes;               /* 0 none; per lane: total / lanes */
    uint32_t pool;                      /* index of its unit pool */
    uint32_t ttl_ms;                    /* default for blocks; 0 none */
    uint64_t block_bytes[STORE_GROUPS]; /* exact size classes; 0 = not given */
};

/* A key as the store wants it; bytes borrowed for the call. */
struct store_key {
    uint32_t ns;
    uint16_t group;
    uint8_t cls;
    uint8_t route_len;
    uint16_t key_len;
    const uint8_t *scope; /* 16 bytes */
    const uint8_t *key;
    const uint8_t *route;
    struct hash128 hash; /* set by store_key_hash */
};

enum store_found {
    FOUND_HIT,
    FOUND_PENDING,
    FOUND_MISS_NEVER,   /* not known here */
    FOUND_MISS_EVICTED, /* evicted not long ago (ghost memory) */
    FOUND_MISS_EXPIRED, /* its ttl passed */
};

/* What is known of a block: a copy for replies and INSPECT. */
struct store_info {
    uint64_t len, version;
    uint32_t crc;
    uint32_t pins, refs, children, hits, extents;
    uint64_t age_ms, idle_ms;
    uint32_t ttl_left_ms; /* 0 none */
    enum store_found found;
    uint8_t tier;
    struct wire_attr attr;
    struct store_key key; /* borrowed from the catalog until the turn ends */
    uint16_t parent_len;  /* parent's key bytes, as given at PUT */
    const uint8_t *parent;
};

struct store; /* opaque; about 1 KiB + reserved address space */

must_check enum err store_new(struct store **out, const struct store_cfg *cfg,
                              struct unit_pool *const pools[STORE_POOLS],
                              struct env *env, struct metrics *metrics,
                              struct trace *trace);
void store_free(struct store *s); /* NULL ok; extents go back to the pools */

/* Opens a namespace or applies a changed copy (policy switch without a flush,
 * share, quota). A new generation leaves the old one's blocks unreachable at
 * once (O(1)); they are reclaimed first under pressure and by store_tick.
 * ERR_LIMIT: namespaces_max or an empty pool; ERR_NO_MEMORY: policy state;
 * ERR_BUSY: too many old generations are still in use. */
must_check enum err store_ns_set(struct store *s,
                                 const struct store_ns_cfg *cfg);
/* Does the lane know this namespace at this generation? OK, NO_NAMESPACE or
 * STALE_GENERATION. generation 0 accepts any. */
must_check enum err store_ns_check(const struct store *s, uint32_t ns,
                                   uint64_t generation);
void store_ns_usage(const struct store *s, uint32_t ns, uint64_t *blocks_out,
                    uint64_t *bytes_out, uint64_t *share_bytes_out);

/* Fills k->hash. The namespace must be known. */
void store_key_hash(const struct store *s, struct store_key *k);

/* ---- reading */
/* The LIVE block of this key (key bytes compared), or 0 and why. Counts
 * nothing; store_use does. An expired block is dropped here. */
uint32_t store_find(struct store *s, const struct store_key *k,
                    enum store_found *why_out);
void store_use(struct store *s, uint32_t block); /* a hit: policy, counters */
void store_ref(struct store *s, uint32_t block);
void store_unref(struct store *s, uint32_t block);
void store_info(const struct store *s, uint32_t block, struct store_info *out);
uint64_t store_len(const struct store *s, uint32_t block);
uint64_t store_version(const struct store *s, uint32_t block);
uint32_t store_crc(const struct store *s, uint32_t block);
/* Extents of the block: the most spans store_spans can give for it. */
uint32_t store_span_count(const struct store *s, uint32_t block);
/* Brings what store_find will touch for this key nearer to the CPU, one step
 * of its pointer chase at a time: a batch runs step 0 for all its keys, then 1
 * for all, ..., and then the finds. */
enum { STORE_PREFETCH_STEPS = 4 };
void store_prefetch(const struct store *s, const struct store_key *k,
                    uint32_t step);
/* Spans covering [off, off + len) of the block; returns their number, at most
 * STORE_SPANS_MAX. The caller holds a ref and off + len <= length. */
uint32_t store_spans(const struct store *s, uint32_t block, uint64_t off,
                     uint64_t len, struct span *spans, uint32_t cap);

/* ---- writing */
/* Makes an OPEN block with extents, evicting as needed; the caller gets one
 * ref. parent: key bytes of the parent in the same group and scope, linked if
 * it is resident in this lane. attr may be NULL. EXISTS, PENDING (another
 * OPEN), NO_SPACE (longer than the tier or the quota), BUSY (what could be
 * evicted is in use; try when store_freed moved on), LIMIT (block_bytes_max).
 */
must_check enum err store_reserve(struct store *s, const struct store_key *k,
                                  const struct wire_attr *attr,
                                  const uint8_t *parent, uint16_t parent_len,
                                  uint64_t len, uint32_t *block_out);
/* OPEN -> LIVE, visible at once. The ref stays. Returns the version. */
uint64_t store_commit(struct store *s, uint32_t block, uint32_t crc);
/* OPEN -> GONE; ends the caller's ref. */
void store_abort(struct store *s, uint32_t block);
/* LIVE -> GONE. */
void store_drop(struct store *s, uint32_t block);
/* Moves on whenever memory was freed that a BUSY reserve may get. */
uint64_t store_freed(const struct store *s);

/* ---- pins */
/* PIN_LIMIT when pinned_bytes_max would be passed. */
must_check enum err store_pin(struct store *s, uint32_t block);
void store_unpin(struct store *s, uint32_t block);
uint64_t store_pinned_bytes(const struct store *s);

/* ---- walking (INSPECT keys, EVICT by chain, label, scope, namespace) */
/* Visits at most budget catalog places from cursor (0 starts); returns the
 * next cursor, 0 at the end. The visitor may drop the block it is given. */
typedef void store_visit_fn(struct store *s, uint32_t block, void *arg);
uint64_t store_walk(struct store *s, uint64_t cursor, uint32_t budget,
                    store_visit_fn *fn, void *arg);
/* Is one of n blocks the block itself or above it by parent links? */
bool store_descends(const struct store *s, uint32_t block,
                    const uint32_t *ancestors, uint32_t n);

/* Upkeep: watermark eviction, ttl, blocks of old generations, units other
 * lanes starve for. Does a bounded amount; true if there is more to do. */
bool store_tick(struct store *s);
/* The offset of a block's first byte in its pool's memory (loans: one extent
 * only), or UINT64_MAX if the block is scattered. */
uint64_t store_pool_off(const struct store *s, uint32_t block);

/* MUSTs every invariant above: O(blocks), tests and the simulator. */
void store_check(const struct store *s);
/* Bytes of bookkeeping touched so far: catalog, hot records, key bytes. */
uint64_t store_overhead_bytes(const struct store *s);

#endif
