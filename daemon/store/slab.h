/* SPDX-License-Identifier: Apache-2.0
 *
 * One lane's extents over one unit pool: 2 MiB units cut into equal slots.
 * Works on offsets only, the bytes are never touched.
 *
 *   unit   |slot|slot|slot|slot|..|   all of one class
 *   run    a few neighbouring slots of one unit = one extent of a block
 *   chain  the runs of a block in order (struct tier_place)
 *
 *   class sizes: 4 KiB to 32 KiB by 4 KiB, then what divides a unit well,
 *   about 4 steps per doubling; and one exact class for each block size that a
 *   group registered. A block takes one slot if that wastes no more than an
 *   eighth, otherwise whole units and slots, largest first, and a tail.
 *
 * Each slot has a 12-byte record: the owner's id and the chain link. The
 * records of a unit are a run of a power of two, so that a unit of large slots
 * costs tens of bytes. All arrays are reserved at boot for the whole pool and
 * cost memory only where touched.
 *
 * Invariants: 1. a unit with no used slot goes back to the pool at once.
 * 2. free_bytes + used_bytes + lost_bytes = held units in bytes, where lost is
 * what the classes leave at the ends of units. 3. A unit is in its class's list
 * exactly while it has free slots. slab_check verifies all.
 *
 * Failure: BUSY from slab_grow; the caller evicts, asks for a cold unit to
 * empty (slab_cold), or lets it scatter. Thread: the lane. */
#ifndef STORE_SLAB_H
#define STORE_SLAB_H

#include "store/tier.h"

enum {
    SLAB_SLOTS = 512,               /* of a unit at most: slots of 4 KiB */
    SLAB_SLOT_MIN = 4096,           /* bytes */
    SLAB_EXACT = 64,                /* exact classes at most */
    SLAB_CLASSES = 28 + SLAB_EXACT, /* class 0 is "not held" */
    SLAB_NEAT_EXTENTS = 16,
};

struct slab_class {
    uint32_t slot_bytes, slots; /* of a unit */
    uint32_t first;             /* unit with free slots, or UNIT_NONE */
    uint32_t units;
};

struct slab_unit {
    uint64_t free[SLAB_SLOTS / 64]; /* bit set: slot is free */
    uint32_t prev, next;            /* units of the class with free slots */
    uint32_t recs;                  /* record of slot 0 */
    uint32_t stamp; /* no younger than the last use of what is in it */
    uint16_t free_n;
    uint8_t cls;
};

/* Of the first slot of a run; other slots' are not used. */
struct slab_rec {
    uint32_t owner;
    uint32_t next; /* unit * SLAB_SLOTS + slot of the next run */
    uint16_t n;    /* slots; 0: none starts here */
};

struct slab {
    struct unit_pool *pool;
    uint32_t lane;
    uint32_t grain; /* exact classes are multiples of it */
    struct slab_unit *units;
    struct slab_rec *recs;
    uint32_t rec_hi;       /* records never used start here */
    uint32_t rec_free[10]; /* free runs of 2^i records */
    struct slab_class cls[SLAB_CLASSES];
    uint8_t order[SLAB_CLASSES]; /* classes by slot size, ascending */
    uint32_t cls_n, exact_n;
    uint32_t held;                   /* units */
    uint64_t free_bytes, used_bytes; /* in slots */
    uint32_t hand;                   /* where slab_cold looks next */
    uint64_t scattered; /* chains that took runs of other classes */
};

must_check enum err slab_init(struct slab *s, struct unit_pool *pool,
                              uint32_t lane);
void slab_fini(struct slab *s); /* units go back, whatever is in them */

/* Every extent of an exact class made from now on is whole pages of 4 KiB, as
 * those of the common classes are: what an SSD reads and writes. */
void slab_whole_pages(struct slab *s);
/* Adds the exact class for blocks of this many bytes. Sizes below 4 KiB or
 * beyond the 64th are served by the common classes: nothing to report. */
void slab_exact(struct slab *s, uint64_t block_bytes);

/* Appends extents until the chain holds len bytes. OK, or BUSY with what it
 * got still in the chain. NEAT and SCATTER are all or nothing. stamp: the age
 * given to a fresh unit. */
must_check enum err slab_grow(struct slab *s, struct tier_place *p,
                              uint64_t len, uint32_t owner, uint32_t stamp,
                              enum tier_how how);
uint64_t slab_free(struct slab *s, uint32_t head); /* bytes, with rounding */
uint32_t slab_spans(const struct slab *s, uint32_t head, uint64_t off,
                    uint64_t len, struct span *spans, uint32_t cap);

/* The slot size of the next extent for a rest of so many bytes, and its
 * class. */
uint32_t slab_next_class(const struct slab *s, uint64_t rest);
static inline uint64_t slab_next_bytes(const struct slab *s, uint64_t rest)
{
    return s->cls[slab_next_class(s, rest)].slot_bytes;
}

/* A unit worth emptying, not of class not_cls (0: any): of the next few units
 * after the hand the emptiest, then the coldest. UNIT_NONE if there is none in
 * reach. now: the newest stamp. The caller learns the true age with slab_owners
 * and may correct it. */
uint32_t slab_cold(struct slab *s, uint32_t not_cls, uint32_t now);
/* Ids of the owners of the runs of a unit, in slot order; returns their
 * number. An owner of several runs comes several times. */
uint32_t slab_owners(const struct slab *s, uint32_t unit,
                     uint32_t owners[SLAB_SLOTS]);
static inline uint32_t slab_unit_of(uint32_t place)
{
    return place / SLAB_SLOTS;
}

void slab_check(const struct slab *s);

#endif
