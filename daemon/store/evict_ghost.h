/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory of what was evicted: a set of 64-bit hashes with weights in the order
 * of eviction, oldest forgotten first. 16 bytes an entry, in memory that the
 * caller gives (zeroed); touched only as far as it is used.
 *
 *   entries  ring, oldest at first       | tag 46 bits | pages 18 bits |
 *   next     chain of a bucket, by ring place + 1
 *   buckets  first of each chain; a power of two, at most one per entry
 *
 * A taken entry leaves a hole (0) that the ring passes when it is the oldest,
 * so a ring of n places holds at most n entries and sometimes fewer.
 * Two hashes that agree in their upper 46 bits are one; the price is a block
 * that is taken for known, never wrong data. */
#ifndef STORE_EVICT_GHOST_H
#define STORE_EVICT_GHOST_H

#include "base/base.h"

enum {
    EVICT_GHOST_ENTRIES_MIN = 64,
    EVICT_GHOST_ENTRIES_MAX = 1 << 24,
    EVICT_GHOST_WEIGHT_MAX = (1 << 18) - 1, /* heavier ones count as this */
};

struct evict_ghost {
    uint64_t *entries;
    uint32_t *next, *buckets;
    uint32_t cap, bucket_mask;
    uint32_t first, used; /* ring places in use, holes too */
    uint32_t n;           /* entries */
    uint64_t pages;       /* sum of their weights */
};

/* Entries for a tier of pages_max pages: one for each 64 KiB, so that a ghost
 * list reaches as far as the cache for blocks of at least that; smaller blocks
 * are remembered for a shorter time. */
uint32_t evict_ghost_entries(uint64_t pages_max);
size_t evict_ghost_bytes(uint32_t entries);
/* mem is 8-byte aligned, zeroed, evict_ghost_bytes(entries) long. */
void evict_ghost_init(struct evict_ghost *g, void *mem, uint32_t entries);

/* Remembers; forgets the oldest if the ring is full. Known: moves to newest. */
void evict_ghost_add(struct evict_ghost *g, uint64_t hash, uint32_t weight);
/* Forgets; returns its weight, 0 if it was not known. */
uint32_t evict_ghost_take(struct evict_ghost *g, uint64_t hash);
bool evict_ghost_has(const struct evict_ghost *g, uint64_t hash);
/* Forgets oldest ones until at most pages are left. */
void evict_ghost_trim(struct evict_ghost *g, uint64_t pages);

#endif
