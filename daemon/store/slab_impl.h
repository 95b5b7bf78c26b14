/* SPDX-License-Identifier: Apache-2.0
 *
 * What slab.c and slab_scatter.c share and nobody else may know. */
#ifndef STORE_SLAB_IMPL_H
#define STORE_SLAB_IMPL_H

#include "store/slab.h"

/* Appends the n slots from slot on of a unit to the chain. */
void slab_take(struct slab *s, struct tier_place *p, uint32_t unit,
               uint32_t slot, uint32_t n, uint32_t owner);
void slab_shrink(struct slab *s, struct tier_place *p,
                 const struct tier_place *before);
enum err slab_neat(struct slab *s, struct tier_place *p, uint64_t len,
                   uint32_t owner);
enum err slab_scatter(struct slab *s, struct tier_place *p, uint64_t len,
                      uint32_t owner);

static inline struct slab_rec *slab_rec_at(const struct slab *s, uint32_t at)
{
    return &s->recs[s->units[at / SLAB_SLOTS].recs + at % SLAB_SLOTS];
}

static inline uint64_t slab_run_bytes(const struct slab *s, uint32_t at)
{
    return (uint64_t)slab_rec_at(s, at)->n *
           s->cls[s->units[at / SLAB_SLOTS].cls].slot_bytes;
}

/* Of its first byte in the pool's memory. */
static inline uint64_t slab_run_off(const struct slab *s, uint32_t at)
{
    uint32_t unit = at / SLAB_SLOTS;

    return (uint64_t)unit * UNIT_BYTES +
           (uint64_t)(at % SLAB_SLOTS) * s->cls[s->units[unit].cls].slot_bytes;
}

#endif
