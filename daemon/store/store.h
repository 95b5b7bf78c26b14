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
 *              unload: its bytes are on the SSD too
 *       LIVE -----------------------------------------> COLD <-- recovered
 *         ^  <---- ok ---- LOADING <---- load -------- /  | drop, reclaim
 *                             | cannot be read            v
 *                             +-----> GONE              (absent)
 *
 *   OPEN     bytes are arriving; found as PENDING; never evicted
 *   LIVE     immutable, in memory (and on the SSD, once written); found as HIT
 *   COLD     on the SSD only: an entry without hot record; found as HIT
 *   LOADING  bytes are arriving from the SSD; found as HIT
 *   GONE     not found any more; its extents are freed when the last ref ends
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
 *  4. Of blocks with one key at most one is OPEN, LIVE, LOADING or COLD.
 *  5. evictable() = LIVE, no refs, no pins, and a place on the SSD or no
 *     child. A block held by children alone goes when nothing else can.
 *
 * Owner and thread: the lane. Nothing here allocates after store_init; the
 * catalog grows by touching reserved address space. */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "base/env.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/list.h"
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
    uint64_t blocks_max;     /* blocks in memory at most, all lanes' tiers */
    uint64_t ssd_blocks_max; /* and on the SSDs, beside them */
    uint32_t ghosts;         /* recent-eviction memory, entries */
    uint64_t events_bytes;   /* of the ring of events; 0: none are kept */
};

/* What a lane's store knows of a namespace: an immutable copy, given again
 * whole on every change. */
struct store_ns_cfg {
    uint32_t id; /* 1..namespaces_max */
    uint64_t generation;
    uint8_t salt[32];
    uint64_t slot_seed; /* another one needs another generation */
    const struct evict_ops *policy;
    uint32_t share;                     /* weight */
    uint64_t quota_bytes;               /* 0 none; per lane: total / lanes */
    uint32_t pool;                      /* index of its unit pool */
    uint32_t ttl_ms;                    /* default for blocks; 0 none */
    uint64_t block_bytes[STORE_GROUPS]; /* exact size classes; 0 = not given */
    bool write_buffer; /* its blocks leave memory once they are on the SSD */
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

/* A miss names what became of the block, as far as the ghost memory knows. */
enum store_found {
    FOUND_HIT, /* store_where says where */
    FOUND_PENDING,
    FOUND_MISS_NEVER,        /* not known here */
    FOUND_MISS_EVICTED,      /* evicted from the last tier it was in */
    FOUND_MISS_NOT_ADMITTED, /* evicted from memory; the SSD did not take it */
    FOUND_MISS_LATE,         /* evicted from memory before it was written */
    FOUND_MISS_EXPIRED,      /* its ttl passed */
    FOUND_MISS_DROPPED,      /* EVICT */
    FOUND_MISS_CORRUPT,      /* could not be read back as it was written */
    FOUND_MISS_MOVED,        /* its slot lives on another node now */
};

/* What is known of a block: a copy for replies and INSPECT. */
struct store_info {
    uint64_t len, version;
    uint32_t crc;
    uint32_t pins, refs, children, hits, extents;
    uint64_t age_ms, idle_ms;
    uint32_t ttl_left_ms;   /* 0 none */
    enum store_found found; /* HIT: store_find gives it; else PENDING */
    uint8_t tier;
    struct wire_attr attr;
    struct store_key key; /* borrowed from the catalog until the turn ends; of a
                             COLD block only ns and hash (store_peek) */
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
/* Of it with a place on an SSD; what is in memory too is counted in both. */
void store_ns_ssd_usage(const struct store *s, uint32_t ns,
                        uint64_t *blocks_out, uint64_t *bytes_out);

/* Fills k->hash. The namespace must be known. */
void store_key_hash(const struct store *s, struct store_key *k);

/* ---- reading */
/* The block of this key (key bytes compared, of a COLD one the hash), or 0 and
 * why. Counts nothing; store_use does. An expired block is dropped here. */
uint32_t store_find(struct store *s, const struct store_key *k,
                    enum store_found *why_out);
/* The OPEN block of this key, for which store_find says PENDING; 0: none. */
uint32_t store_find_open(const struct store *s, const struct store_key *k);
/* Why store_find does not give this key, and how long ago that came about (0:
 * not known). */
enum store_found store_ghost(const struct store *s, const struct store_key *k,
                             uint64_t *ago_ms_out);
/* A hit: policy, counters; of a COLD or LOADING block its heat. Once for each
 * request that found the block, before a load. */
void store_use(struct store *s, uint32_t block);
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
/* LIVE, COLD or LOADING -> GONE. A restart may bring it back from the SSD. */
void store_drop(struct store *s, uint32_t block);
/* The same, because another node has it now (store_ghost says so). */
void store_drop_moved(struct store *s, uint32_t block);
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
/* The slot of the block's route (hash_slot with the namespace's seed). */
uint32_t store_route(const struct store *s, uint32_t block);
/* As store_walk, of those blocks whose slot is set in slots: WIRE_SLOTS bits,
 * slot i is bit i % 64 of word i / 64. A place costs 2 bytes looked at. A
 * visitor that says false ends the walk: the cursor is that block's place. */
typedef bool store_route_fn(struct store *s, uint32_t block, void *arg);
uint64_t store_walk_routes(struct store *s, uint64_t cursor, uint32_t budget,
                           const uint64_t *slots, store_route_fn *fn,
                           void *arg);
/* As far as is known without its record: false for a COLD block that has one
 * with more than its key in it. */
bool store_attr_known(const struct store *s, uint32_t block);
/* Is one of n blocks the block itself or above it by parent links? */
bool store_descends(const struct store *s, uint32_t block,
                    const uint32_t *ancestors, uint32_t n);

/* ---- the SSD (all of this does nothing without one)
 *
 * A struct store_wait counts things that have not happened yet; its owner gets
 * one done(), from a tick or a completion, never from inside the call that
 * made it wait. */
struct store_wait {
    uint32_t pending; /* 0: nothing is waited for */
    uint32_t block;   /* store_load: whose bytes */
    enum err err;     /* the first failure */
    void (*done)(struct store_wait *w);
    struct list node; /* the store's: waiters of a load */
};

struct ssd; /* mover.h */
/* Once, after store_new and before the first block; ssd is kept. Blocks that
 * an SSD is to take need cfg.ssd_blocks_max > 0 (whole pages). NO_MEMORY. */
must_check enum err store_ssd_set(struct store *s, struct ssd *ssd);

enum store_where { WHERE_MEMORY, WHERE_LOADING, WHERE_SSD };
/* Of a block that store_find gave. Only blocks in MEMORY have spans, crc and
 * may be given to store_ref by others than a load. */
enum store_where store_where(const struct store *s, uint32_t block);
/* Has it a place on the SSD? */
bool store_on_ssd(const struct store *s, uint32_t block);

enum store_load_class { LOAD_DEMAND, LOAD_PREFETCH, LOAD_PROMOTE, LOAD_AGAIN };
/* Brings a COLD or LOADING block to memory. OK: w->done comes; then w->err is
 * OK and the caller holds a ref on w->block, or MISS (dropped meanwhile,
 * unreadable, device gone) and it holds none. BUSY: no memory or too many
 * loads; nothing is waited for; try when store_freed moved on. w NULL: nobody
 * waits (prefetch); then only BUSY or OK. k: the key it was found with; its
 * bytes are copied. */
must_check enum err store_load(struct store *s, uint32_t block,
                               const struct store_key *k,
                               enum store_load_class cls, struct store_wait *w);
/* Microseconds a load of this block would take now, from measured service
 * times and what is queued; 0 in memory. */
uint32_t store_eta_us(const struct store *s, uint32_t block);

/* Writes a LIVE block to the SSD now and flushes. OK: w->pending went up, done
 * comes with OK or NOT_DURABLE. UNSUPPORTED: no SSD; BUSY: try again when
 * store_freed moved on. The caller holds a ref until done. */
must_check enum err store_persist(struct store *s, uint32_t block,
                                  struct store_wait *w);
/* LIVE, COLD or LOADING -> GONE, durably: where the block is on the SSD, or on
 * its way there, w->pending goes up until a tomb is durable. BUSY: nothing was
 * done, too many tombs are under way. w may be NULL: not waited for. */
must_check enum err store_drop_durable(struct store *s, uint32_t block,
                                       struct store_wait *w);
/* Whatever w still waits for (load, persist, drop_durable) goes on without it:
 * done will not come, w->pending is 0. Nothing if it is 0 already. A ref that
 * the caller gave it for is the caller's again: what is under way has its own.
 * A load that nobody waits for any more and that was not begun is not read. */
void store_wait_cancel(struct store *s, struct store_wait *w);
/* Takes a block out of memory: COLD if it is on the SSD (at once if nobody
 * uses it, else when the last ref ends), else queued to be written first. */
void store_demote(struct store *s, uint32_t block);

/* What a COLD block's record says: OK: done comes and p->info is valid in it
 * (err OK) or not (MISS). At most a few at a time: BUSY. In memory: use
 * store_info. */
struct store_peek {
    uint32_t block;
    enum err err;
    struct store_info info;
    void (*done)(struct store_peek *p);
    void *io; /* the store's */
};
must_check enum err store_peek(struct store *s, uint32_t block,
                               struct store_peek *p);
/* Of one that store_peek took and whose done has not come: it will not. */
void store_peek_cancel(struct store *s, struct store_peek *p);

/* Recovery, before the first turn. Finds its namespace by id and generation;
 * false: not known (any more), nothing was done. Of several with one key the
 * highest version stays. */
struct seg_meta;
struct seg_place;
struct seg_check;
struct seg_tomb;
struct seg_reclaim;
bool store_adopt(struct store *s, const struct seg_meta *m,
                 const struct seg_place *p);
bool store_adopt_check(struct store *s, const struct seg_check *c);
void store_adopt_tomb(struct store *s, const struct seg_tomb *t);
/* Parents of what was adopted are linked; call once at the end. */
void store_adopted(struct store *s);
/* The next COLD or LIVE block with a place on this device, from cursor
 * (0 starts); false at the end. For the checkpoint. */
bool store_check_next(const struct store *s, uint32_t dev, uint64_t *cursor,
                      struct seg_check *out);
/* A segment is to be emptied: lets go of what this header says is there, or
 * takes it along (again). */
void store_reclaim(struct store *s, const struct seg_reclaim *r);
/* A device is gone for good: everything on it is forgotten. */
void store_ssd_lost(struct store *s, uint32_t dev);
/* Nothing of this store is under way on any SSD. */
bool store_ssd_idle(const struct store *s);

/* A session's state changed (FEEDBACK): blocks with this label are worth more
 * or less from now on. */
enum store_session { SESSION_OPEN, SESSION_IDLE, SESSION_CLOSED };
void store_session(struct store *s, uint32_t ns, uint64_t label,
                   enum store_session state);

/* ---- events: what came, went and moved (events.h; filled by the store)
 *
 * Told in the order in which store_find would see it. Blocks that recovery
 * finds are not told: they were here before the first event, which has seq 1.
 * Neither is what becomes of the blocks of an old generation after CLEARED. */
bool store_events_on(const struct store *s);
uint64_t store_events_first(const struct store *s); /* the oldest kept */
uint64_t store_events_next(const struct store *s);  /* the next to come */
/* first <= seq < next. Borrowed until the turn ends. */
struct event;
void store_event(const struct store *s, uint64_t seq, struct event *out);
uint32_t store_event_ns(const struct store *s, uint64_t seq);

/* Upkeep: watermark eviction, ttl, blocks of old generations, units other
 * lanes starve for. Does a bounded amount; true if there is more to do. */
bool store_tick(struct store *s);
/* When store_tick must run at the latest, or DEADLINE_NEVER: a read from an SSD
 * would hang then. To be asked after a tick, before the lane sleeps. */
uint64_t store_next_ns(const struct store *s);
/* The offset of a block's first byte in its pool's memory (loans: one extent
 * only), or UINT64_MAX if the block is scattered. */
uint64_t store_pool_off(const struct store *s, uint32_t block);

/* MUSTs every invariant above: O(blocks), tests and the simulator. */
void store_check(const struct store *s);

#endif
