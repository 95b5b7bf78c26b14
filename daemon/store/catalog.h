/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalog: an entry for every block known, a hot record more while its
 * bytes are in DRAM (or HBM). An SSD tier later lets an entry outlive its hot
 * record; nothing here assumes otherwise.
 *
 *   buckets[]  --> entry --next--> entry        by hash, linear hashing
 *                    | hot                      (one bucket split per growth)
 *                    v
 *                  hots[]   the eviction node first: policy id = hot index
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
 * namespace and key at most one is OPEN or LIVE.
 *
 * Failure: 0 when blocks_max is reached. Thread: the lane. */
#ifndef STORE_CATALOG_H
#define STORE_CATALOG_H

#include "base/hash.h"
#include "store/evict.h"

enum block_state { BLOCK_FREE, BLOCK_OPEN, BLOCK_LIVE, BLOCK_GONE, BLOCK_TOMB };

struct entry {
    struct hash128 hash;
    union {
        uint64_t version; /* LIVE */
        uint64_t links;   /* TOMB: blocks that have it as parent */
    };
    uint32_t len;
    uint32_t next;   /* of the chain or of the free list */
    uint32_t parent; /* entry, or 0 */
    uint32_t hot;    /* or 0 */
    uint32_t ssd;    /* place on the SSD in 4 KiB, or 0 */
    uint16_t ns;     /* slot of the namespace table */
    uint8_t state;   /* enum block_state */
    uint8_t flags;
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
    uint32_t used_seq;  /* the store's count of uses, for "before" */
    uint32_t expires_s; /* wall clock; 0 never */
    uint16_t extents;
    uint8_t tier;
    uint8_t flags;
};
static_assert(sizeof(struct hot) == 80, "the design promises 80");
static_assert(offsetof(struct hot, node) == 0, "policy ids are hot indices");

struct catalog {
    struct entry *entries;
    struct hot *hots;
    uint32_t *buckets;
    uint32_t cap;               /* entries; hot records */
    uint32_t entry_n, entry_hi; /* in use; ever used + 1 */
    uint32_t hot_n, hot_hi;
    uint32_t entry_free, hot_free;
    uint32_t bucket_n, bucket_cap;
};

must_check enum err catalog_init(struct catalog *c, uint32_t cap);
void catalog_fini(struct catalog *c);

/* A zeroed entry in the chain of the hash; its state is the caller's to set. */
uint32_t catalog_new(struct catalog *c, struct hash128 hash);
void catalog_del(struct catalog *c, uint32_t entry);
/* A zeroed hot record tied to the entry. */
uint32_t catalog_hot_new(struct catalog *c, uint32_t entry);
void catalog_hot_del(struct catalog *c, uint32_t hot);

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
