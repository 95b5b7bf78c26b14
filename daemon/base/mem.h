/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory is taken at boot. Three shapes:
 *
 *   mem_reserve  address space that costs nothing until touched; for arrays
 *                whose worst case is known but rarely reached (catalog, ops)
 *   arena        a bump allocator over a caller's buffer; freed as a whole
 *                (per op: request, records, protobuf-c messages)
 *   pool         equal items over a reserved array, LIFO so that the hot ones
 *                stay in cache; empty pool = ERR_BUSY, not an abort
 *
 * None is thread-safe: the owner is one lane. mem_reserve and pool_get are
 * fault points (fault.h); an arena is not: its owner sized it for the worst
 * case, so it is full only where the input decides how much is taken. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include "base/err.h"

/* Zero-filled, page-aligned, MAP_NORESERVE. NULL when the kernel refuses. */
void *mem_reserve(size_t bytes);
void mem_release(void *p, size_t bytes); /* p may be NULL */

struct arena {
    uint8_t *p;
    size_t used, cap;
};

static inline void arena_init(struct arena *a, void *buf, size_t cap)
{
    *a = (struct arena){buf, 0, cap};
}

/* 16-byte aligned, not zeroed; NULL when full. */
void *arena_alloc(struct arena *a, size_t n);
void *arena_zalloc(struct arena *a, size_t n);

struct pool {
    uint8_t *items;
    uint32_t *free; /* stack of indices */
    uint32_t n, free_n, item_bytes;
    uint32_t fresh; /* items never handed out yet start here */
};

/* item_bytes is rounded up to 16. */
must_check enum err pool_init(struct pool *p, uint32_t n, size_t item_bytes);
void pool_fini(struct pool *p); /* accepts zeros; MUSTs that all are back */
void *pool_get(struct pool *p); /* not zeroed; NULL when empty */
void pool_put(struct pool *p, void *item);
uint32_t pool_idx(const struct pool *p, const void *item);
void *pool_at(const struct pool *p, uint32_t idx);
static inline uint32_t pool_used(const struct pool *p)
{
    return p->n - p->free_n;
}

#endif
