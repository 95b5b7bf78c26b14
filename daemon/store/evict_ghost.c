/* SPDX-License-Identifier: Apache-2.0
 *
 * Ghost lists: see evict_ghost.h for the layout.
 *
 * Invariants: n is the number of non-zero entries in the used part of the
 * ring and pages the sum of their weights; each of them is in the chain of the
 * bucket that its tag names; a tag is there once.
 *
 * Called by policies on the lane. Nothing fails: full means forget. */
#include "store/evict_ghost.h"

enum { WEIGHT_BITS = 18 };

uint32_t evict_ghost_entries(uint64_t pages_max)
{
    uint64_t n = pages_max / 16;

    n = max_u64(n, EVICT_GHOST_ENTRIES_MIN);
    return (uint32_t)min_u64(n, EVICT_GHOST_ENTRIES_MAX);
}

static uint32_t ghost_buckets(uint32_t entries)
{
    return UINT32_C(1) << (31 - __builtin_clz(entries));
}

size_t evict_ghost_bytes(uint32_t entries)
{
    size_t bytes = entries * (sizeof(uint64_t) + sizeof(uint32_t)) +
                   ghost_buckets(entries) * sizeof(uint32_t);

    return align_up(bytes, sizeof(uint64_t));
}

void evict_ghost_init(struct evict_ghost *g, void *mem, uint32_t entries)
{
    *g = (struct evict_ghost){
        .entries = mem,
        .cap = entries,
        .bucket_mask = ghost_buckets(entries) - 1,
    };
    g->next = (uint32_t *)(g->entries + entries);
    g->buckets = g->next + entries;
}

static uint64_t ghost_tag(uint64_t entry_or_hash)
{
    return entry_or_hash >> WEIGHT_BITS;
}

static uint32_t *ghost_bucket(const struct evict_ghost *g, uint64_t tag)
{
    return &g->buckets[tag & g->bucket_mask];
}

/* The link that leads to the entry of this tag, or the 0 at a chain's end. */
static uint32_t *ghost_link(const struct evict_ghost *g, uint64_t tag)
{
    uint32_t *link = ghost_bucket(g, tag);

    while (*link && ghost_tag(g->entries[*link - 1]) != tag)
        link = &g->next[*link - 1];
    return link;
}

static uint32_t ghost_unlink(struct evict_ghost *g, uint32_t *link)
{
    uint32_t at = *link - 1;
    uint32_t weight = (uint32_t)(g->entries[at] & EVICT_GHOST_WEIGHT_MAX);

    *link = g->next[at];
    g->entries[at] = 0;
    g->n--;
    g->pages -= weight;
    return weight;
}

/* Gives the oldest ring place back, be it an entry or a hole. */
static void ghost_pop(struct evict_ghost *g)
{
    uint64_t entry = g->entries[g->first];

    if (entry)
        ghost_unlink(g, ghost_link(g, ghost_tag(entry)));
    g->first = g->first + 1 == g->cap ? 0 : g->first + 1;
    g->used--;
}

void evict_ghost_add(struct evict_ghost *g, uint64_t hash, uint32_t weight)
{
    uint64_t tag = ghost_tag(hash);
    uint64_t pages = min_u64(max_u64(weight, 1), EVICT_GHOST_WEIGHT_MAX);
    uint32_t *bucket = ghost_bucket(g, tag);
    uint32_t at;

    evict_ghost_take(g, hash);
    if (g->used == g->cap)
        ghost_pop(g);
    at = (uint32_t)(((uint64_t)g->first + g->used) % g->cap);
    g->entries[at] = tag << WEIGHT_BITS | pages;
    g->next[at] = *bucket;
    *bucket = at + 1;
    g->used++;
    g->n++;
    g->pages += pages;
}

uint32_t evict_ghost_take(struct evict_ghost *g, uint64_t hash)
{
    uint32_t *link = ghost_link(g, ghost_tag(hash));

    return *link ? ghost_unlink(g, link) : 0;
}

bool evict_ghost_has(const struct evict_ghost *g, uint64_t hash)
{
    return *ghost_link(g, ghost_tag(hash)) != 0;
}

void evict_ghost_trim(struct evict_ghost *g, uint64_t pages)
{
    while (g->pages > pages)
        ghost_pop(g);
}
