/* SPDX-License-Identifier: Apache-2.0
 *
 * Inside of place*.c: the rows of one call as they come. Steps of place_next
 * add rows with plan_row, at most one for a slot; loads follow at once, so that
 * each choice sees those before it. place_compute takes the same steps, but
 * writes the slots themselves, without limit. */
#ifndef CLUSTER_PLACE_PLAN_H
#define CLUSTER_PLACE_PLAN_H

#include "cluster/place_work.h"

struct plan {
    struct place_work w;
    const struct view *v;
    struct slot *slots; /* place_compute: v->slots; else NULL: rows */
    struct slot_row *rows;
    uint32_t n, max;
    uint32_t moves, copies; /* that may still be made */
    uint32_t up_n;
    uint64_t touched[WIRE_SLOTS / 64];
    /* Slots by home, in an order that looks like chance: of node i they are
     * list[at[i] .. first[i + 1]), those before at[i] were looked at. */
    uint16_t *list;
    uint32_t *first, *at;
};

static inline bool plan_touched(const struct plan *p, uint32_t slot)
{
    return p->touched[slot / 64] >> slot % 64 & 1;
}

static inline bool plan_full(const struct plan *p)
{
    return !p->slots && p->n == p->max;
}

void plan_row(struct plan *p, uint32_t slot, struct slot t);
/* All that may leave alone: no move begun, not hot, no row yet. */
bool plan_quiet(const struct plan *p, uint32_t slot);

/* The row of a slot when `to` has become its home. */
struct slot place_after(const struct view *v, const struct slot *t,
                        uint16_t to);

/* Step 4 (place_level.c). NO_MEMORY. */
must_check enum err plan_level(struct plan *p);
/* Step 5 (place_copies.c). */
void plan_copies(struct plan *p);

#endif
