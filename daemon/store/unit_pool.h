/* SPDX-License-Identifier: Apache-2.0
 *
 * DRAM as 2 MiB units, shared by all lanes of the daemon: one lane may use all
 * of it. The memory (a memfd mapped by the shell, or a plain reservation in
 * tests) is the caller's; nothing here touches its bytes.
 *
 * The free units are a lock-free LIFO of indices (ABA-tagged), the per-lane
 * counts are atomics: get, put and the wish counters may be used by any lane at
 * any time. A lane that finds the pool empty wishes for the units of the block
 * that it has no room for, and one more, so that it grows to its part; a lane
 * that holds more than units / lanes sees it in unit_pool_wanted() and gives
 * units back from its next store_tick. */
#ifndef STORE_UNIT_POOL_H
#define STORE_UNIT_POOL_H

#include "base/err.h"

enum {
    UNIT_BYTES = 2 << 20,
    UNIT_LANES_MAX = 64,
    UNIT_POOL_MAX = (1 << 22) - 1 /* units: 8 TiB */
};
#define UNIT_NONE UINT32_MAX

struct unit_pool {
    uint8_t *base; /* units * UNIT_BYTES, 2 MiB aligned if it can be */
    uint32_t units, lanes;
    uint32_t *next;     /* free list links */
    uint64_t head;      /* tag << 32 | index */
    uint32_t free_n;    /* about */
    uint32_t held[UNIT_LANES_MAX];
    uint32_t wish[UNIT_LANES_MAX];
};

/* bytes is rounded down to units. */
must_check enum err unit_pool_init(struct unit_pool *p, void *base,
                                   uint64_t bytes, uint32_t lanes);
void unit_pool_fini(struct unit_pool *p);
uint32_t unit_pool_get(struct unit_pool *p, uint32_t lane); /* UNIT_NONE */
void unit_pool_put(struct unit_pool *p, uint32_t lane, uint32_t unit);
/* How many units this lane should give back for others; 0 mostly. */
uint32_t unit_pool_wanted(struct unit_pool *p, uint32_t lane);
void unit_pool_wish(struct unit_pool *p, uint32_t lane, uint32_t units);

static inline uint32_t unit_pool_free(const struct unit_pool *p)
{
    return __atomic_load_n(&p->free_n, __ATOMIC_RELAXED);
}

static inline uint32_t unit_pool_held(const struct unit_pool *p, uint32_t lane)
{
    return __atomic_load_n(&p->held[lane], __ATOMIC_RELAXED);
}

/* Moves on with every put by any lane. */
static inline uint32_t unit_pool_puts(const struct unit_pool *p)
{
    return (uint32_t)(__atomic_load_n(&p->head, __ATOMIC_RELAXED) >> 32);
}

static inline uint8_t *unit_ptr(const struct unit_pool *p, uint32_t unit)
{
    return p->base + (uint64_t)unit * UNIT_BYTES;
}

#endif
