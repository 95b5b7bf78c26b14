/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalog: an entry for every block known, a hot record more while its
 * bytes are in DRAM (or HBM), or on their way there. A block on the SSD only
 * (COLD) has no hot record: its crc takes the place of the index.
 *
 *   buckets[]  --> entry --next--> entry        by hash, linear hashing
 *                    | hot                      (one bucket split per growth)
 *                    v
 *                  hots[]   the eviction node first: policy id = hot index
 *
 *   colds[]    beside entries[]: ttl and children of those COLD entries that
 *              have any (entry.side); 8 bytes, touched only for them
 *   routes[]   beside entries[]: the slot that the route of each falls in, 2
 *              bytes. Kept, for the route of a COLD block is on its SSD, and
 *              who moves or drops the blocks of some slots looks at all
 *              entries: so at 2 bytes of each, and at no key
 *
 * Linear hashing (Litwin 1980): buckets 0 .. n-1; when entries outnumber them
 * the next bucket in order is split in two, so an insert never costs more than
 * one short chain and there is no rehash stall. Arrays lie in reserved address
 * space and are touched only as far as they were ever used. Indices start at 1;
 * 0 is none.
 *
 * A TOMB is a block that is gone while blocks that name it as parent are not:
 * it has no hot record and no key bytes, keeps their links valid, and is taken
 * over when the same key is stored again.
 *
 * Invariants: 1. every entry not FREE is in the chain of its hash. 2. hot of
 * entry and entry of hot point at each other. 3. Of entries with equal hash,
 * namespace and key at most one is OPEN, LIVE, LOADING or COLD. 4. Whoever
 * wants the hot record of an entry that may be COLD asks entry_hot.
 *
 * Failure: 0 when there are as many entries or hot records as may be. Thread:
 * the lane. */
#ifndef STORE_CATALOG_H
#define STORE_CATALOG_H

#include "base/hash.h"
#include "store/evict.h"

/* Of three bits. OPEN, LIVE, LOADING and GONE have a hot record. */
enum block_state {
    BLOCK_FREE,
    BLOCK_OPEN,
    BLOCK_LIVE,
    BLOCK_GONE,
    BLOCK_TOMB,
    BLOCK_COLD,
    BLOCK_LOADING,
};

enum { HEAT_MAX = 3 };

struct entry {
    struct hash128 hash;
    union {
        uint64_t version; /* LIVE, LOADING, COLD */
        uint64_t links;   /* TOMB: blocks that have it as parent */
    };
    uint32_t len;
    uint32_t next;   /* of the chain or of the free list */
    uint32_t parent; /* entry, or 0 */
    union {
        uint32_t hot; /* or 0 */
        uint32_t crc; /* COLD */
    };
    uint32_t ssd;      /* page of its payload on the SSD, or 0 */
    uint16_t ns;       /* slot of the namespace table */
    uint8_t state : 3; /* enum block_state */
    uint8_t rich : 1;  /* its record says more than key, version and bytes */
    uint8_t heat : 2;  /* uses while it was COLD, saturating */
    uint8_t side : 1;  /* COLD: colds[] says more */
    uint8_t tag; /* of seg_place; the device stays when the place has gone */
};
static_assert(sizeof(struct entry) == 48, "the design promises 48");

struct hot {
    struct evict_node node; /* first: see evict_host */
    uint32_t entry;         /* 0 while free */
    uint64_t born_ms, used_ms;
    uint32_t key;  /* cell of the key heap */
    uint32_t head; /* place in the tier */
    uint32_t crc;
    uint32_t refs, pins;
    uint32_t children; /* entries that have it as parent */
    uint32_t hits;
    union {
        uint32_t used_seq; /* the store's count of uses, for "before" */
        uint32_t load;     /* LOADING: the mover's */
    };
    uint32_t expires_s; /* wall clock; 0 never */
    uint16_t extents;
    uint8_t tier;
    uint8_t flags; /* enum hot_flag */
};
static_assert(sizeof(struct hot) == 80, "the design promises 80");
static_assert(offsetof(struct hot, node) == 0, "policy ids are hot indices");

enum hot_flag {
    HOT_QUEUED = 1,    /* waits to be written to the SSD */
    HOT_WRITING = 2,   /* a request to write it is under way */
    HOT_DEFERRED = 4,  /* not taken by the SSD; its next use queues it again */
    HOT_WANTED = 8,    /* was missed before it came: reuse is predicted */
    HOT_LEAVE = 16,    /* leaves memory when nobody uses it and it may */
    HOT_AGAIN = 32,    /* to be written again: its segment was reclaimed */
    HOT_RECORDED = 64, /* a record of it is, or was, on the device of its tag */
};

struct cold {
    uint32_t children, expires_s;
};

struct catalog {
    struct entry *entries;
    struct hot *hots;
    struct cold *colds;
    uint16_t *routes;
    uint32_t *buckets;
    uint32_t cap, hot_cap;      /* entries; hot records */
    uint32_t entry_n, entry_hi; /* in use; ever used + 1 */
    uint32_t hot_n, hot_hi;
    uint32_t entry_free, hot_free;
    uint32_t bucket_n, bucket_cap;
};

must_check enum err catalog_init(struct catalog *c, uint32_t cap,
                                 uint32_t hot_cap);
void catalog_fini(struct catalog *c);

/* A zeroed entry in the chain of the hash; its state is the caller's to set. */
uint32_t catalog_new(struct catalog *c, struct hash128 hash);
void catalog_del(struct catalog *c, uint32_t entry);
/* A zeroed hot record tied to the entry; what stood in its place (crc) is the
 * caller's to save, also the state to set. */
uint32_t catalog_hot_new(struct catalog *c, uint32_t entry);
void catalog_hot_del(struct catalog *c, uint32_t hot);

static inline uint32_t entry_hot(const struct entry *e)
{
    return e->state == BLOCK_COLD ? 0 : e->hot;
}

static inline uint32_t catalog_bucket(const struct catalog *c, uint64_t h)
{
    uint32_t top = 31 - (uint32_t)__builtin_clz(c->bucket_n);
    uint32_t b = (uint32_t)(h & ((UINT64_C(2) << top) - 1));

    return b < c->bucket_n ? b : b & ((1u << top) - 1);
}

/* The first entry of the chain from at on with this hash, or 0. */
static inline uint32_t catalog_seek(const struct catalog *c, uint32_t at,
                                    struct hash128 h)
{
    while (at &&
           (c->entries[at].hash.lo != h.lo || c->entries[at].hash.hi != h.hi))
        at = c->entries[at].next;
    return at;
}

static inline uint32_t catalog_first(const struct catalog *c, struct hash128 h)
{
    return catalog_seek(c, c->buckets[catalog_bucket(c, h.lo)], h);
}

static inline uint32_t catalog_next(const struct catalog *c, uint32_t at,
                                    struct hash128 h)
{
    return catalog_seek(c, c->entries[at].next, h);
}

uint64_t catalog_bytes(const struct catalog *c); /* touched so far */
void catalog_check(const struct catalog *c);

#endif
