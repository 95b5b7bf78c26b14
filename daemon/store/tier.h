/* SPDX-License-Identifier: Apache-2.0
 *
 * The tier contract: a place where the bytes of blocks lie. The store knows
 * tiers by this table only (emptying units apart, which is DRAM's own).
 *
 *            reserve (again until OK)           release
 *   (none) ---------------------------> PLACE -----------> (none)
 *                  spans / start
 *
 * An addressable tier (dram, later hbm through its own copy engine) gives spans
 * and has no start. A tier that is not addressable (ssd) has start: one
 * transfer between the place and memory spans, whose done is called later,
 * never from inside start, exactly once, also on failure.
 *
 * reserve may be called again on a place that is not complete: it goes on
 * where it stopped. ERR_BUSY means "not now, make room": the place keeps what
 * it got, and the caller makes room and calls again, or releases it.
 *
 * Invariants: 1. used + free = capacity. 2. Bytes of one place never overlap
 * those of another. 3. After release of all places used is 0. The same test
 * suite (tests/unit/test_tier.c) runs over every tier.
 *
 * Thread: the lane that owns the tier object. */
#ifndef STORE_TIER_H
#define STORE_TIER_H

#include "store/store.h"

enum tier_id { TIER_DRAM = 0, TIER_SSD = 1, TIER_HBM = 2 }; /* wire_result */

/* How hard reserve tries before it says BUSY. */
enum tier_how {
    TIER_FIT,    /* only extents of the size classes meant for this length */
    TIER_NEAT,   /* a few extents of other classes, little waste */
    TIER_SCATTER /* whatever is free, up to STORE_SPANS_MAX extents */
};

#define TIER_NOWHERE UINT32_MAX

/* Extents of one block in order; the meaning of head and tail is the tier's.
 * head alone names a complete place. */
struct tier_place {
    uint32_t head, tail;
    uint32_t extents;
    uint64_t bytes; /* of the extents, with rounding */
};

enum tier_dir { TIER_READ, TIER_WRITE };

/* One transfer of a tier that is not addressable; owned by the caller until
 * done. */
struct tier_io {
    enum tier_dir dir;
    uint32_t head; /* of the place */
    uint64_t off, len;
    struct span *spans;
    uint32_t span_n;
    enum err result; /* set before done */
    void (*done)(struct tier_io *io);
};

struct tier;

struct tier_ops {
    const char *name;
    enum tier_id id;
    bool addressable;
    /* owner is an id of the caller's, kept with the extents. len <= the sum
     * of what the tier has. */
    enum err (*reserve)(struct tier *t, struct tier_place *p, uint64_t len,
                        uint32_t owner, enum tier_how how);
    /* Returns the bytes freed, with rounding. */
    uint64_t (*release)(struct tier *t, uint32_t head);
    uint32_t (*spans)(const struct tier *t, uint32_t head, uint64_t off,
                      uint64_t len, struct span *spans, uint32_t cap);
    enum err (*start)(struct tier *t, struct tier_io *io);
    uint64_t (*capacity)(const struct tier *t);
    uint64_t (*used)(const struct tier *t);
};

struct tier {
    const struct tier_ops *ops;
};

static inline void tier_place_init(struct tier_place *p)
{
    *p = (struct tier_place){.head = TIER_NOWHERE, .tail = TIER_NOWHERE};
}

#endif
