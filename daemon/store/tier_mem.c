/* SPDX-License-Identifier: Apache-2.0
 *
 * DRAM as a tier: every function is one call into the slab. Capacity and used
 * are in bytes of units and slots; what other lanes hold is not used here but
 * cannot be had either. */
#include "store/tier_mem.h"

static struct tier_mem *mem_from(struct tier *t)
{
    return container_of(t, struct tier_mem, tier);
}

static enum err mem_reserve_place(struct tier *t, struct tier_place *p,
                                  uint64_t len, uint32_t owner,
                                  enum tier_how how)
{
    struct tier_mem *m = mem_from(t);

    return slab_grow(&m->slab, p, len, owner, m->stamp, how);
}

static uint64_t mem_release_place(struct tier *t, uint32_t head)
{
    return slab_free(&mem_from(t)->slab, head);
}

/* The contract's object is the first member. */
static const struct tier_mem *mem_const(const struct tier *t)
{
    return (const struct tier_mem *)(const void *)t;
}

static uint32_t mem_spans(const struct tier *t, uint32_t head, uint64_t off,
                          uint64_t len, struct span *spans, uint32_t cap)
{
    return slab_spans(&mem_const(t)->slab, head, off, len, spans, cap);
}

static uint64_t mem_capacity(const struct tier *t)
{
    return (uint64_t)mem_const(t)->slab.pool->units * UNIT_BYTES;
}

static uint64_t mem_used(const struct tier *t)
{
    return mem_const(t)->slab.used_bytes;
}

const struct tier_ops tier_mem_ops = {
    .name = "dram",
    .id = TIER_DRAM,
    .addressable = true,
    .reserve = mem_reserve_place,
    .release = mem_release_place,
    .spans = mem_spans,
    .capacity = mem_capacity,
    .used = mem_used,
};

enum err tier_mem_init(struct tier_mem *t, struct unit_pool *pool,
                       uint32_t lane)
{
    enum err e = slab_init(&t->slab, pool, lane);

    t->tier.ops = &tier_mem_ops;
    t->stamp = 0;
    return e;
}

void tier_mem_fini(struct tier_mem *t)
{
    if (t->slab.pool)
        slab_fini(&t->slab);
    *t = (struct tier_mem){0};
}
