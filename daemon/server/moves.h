/* SPDX-License-Identifier: Apache-2.0
 *
 * What the lanes must know of moving slots: words that the puller writes and
 * lanes read; and what lanes do about it.
 *
 *   brings   slots of which blocks may be brought here now: drops of their
 *            keys are remembered (drops.h)
 *   leaves   slots of which this node is no holder any more, for a while: their
 *            blocks are dropped (EXPLAIN says moved)
 *   cools    slots that were copied here because they were hot and are not any
 *            more: of their blocks only those that were put with copies stay
 *
 *     puller: leaves, cools change --> sweep + 1
 *     lane:   sweep moved on --> its catalog is walked once, a bounded part a
 *             turn, by the slot of each entry; what the lane's own view says by
 *             then is asked again for each block
 *
 * The view decides alone; a slot whose bit is wrong for a moment costs misses
 * at most. NULL in lane.moves: there is no cluster, and nothing of all this is
 * looked at. */
#ifndef SERVER_MOVES_H
#define SERVER_MOVES_H

#include "base/mem.h"
#include "cluster/view.h"
#include "server/drops.h"

struct lane;
struct op;
struct puller_want;
struct registry_ns;

enum { MOVES_WORDS = WIRE_SLOTS / 64 };

struct moves {
    /* Atomic words; one writer, the puller. */
    uint64_t brings[MOVES_WORDS], leaves[MOVES_WORDS], cools[MOVES_WORDS];
    uint64_t sweep;
    /* Takes a want over; any lane's thread (puller_want). */
    void (*want)(void *arg, struct puller_want *w);
    void *arg;
};

static inline bool moves_bit(const uint64_t *words, uint32_t slot)
{
    return __atomic_load_n(&words[slot / 64], __ATOMIC_ACQUIRE) >> slot % 64 &
           1;
}
void moves_set(uint64_t *words, uint32_t slot, bool on);

/* ---- the view's rules, for one node ---- */

/* Whose blocks of a slot this node needs. */
enum moves_why {
    MOVES_NOTHING,
    MOVES_IN,   /* it will be the home: from the home of now */
    MOVES_REST, /* it is the home: from the last one */
    MOVES_COPY, /* it holds copies: from the home, those with copies >= min */
};
struct moves_need {
    enum moves_why why;
    uint16_t source;    /* who has them; answers */
    uint8_t copies_min; /* 1: all */
};
struct moves_need moves_need(const struct view *v, uint32_t slot,
                             uint16_t self);
/* Is this node one that may have blocks of the slot: an owner, from, to? */
bool moves_holds(const struct view *v, uint32_t slot, uint16_t self);
/* Its number among the owners; VIEW_COPIES: none. */
uint32_t moves_rank(const struct view *v, uint32_t slot, uint16_t self);

/* ---- a lane's part ---- */

struct lane_moves {
    struct drops drops;
    uint64_t seen; /* moves.sweep that was taken up */
    uint64_t cursor;
    uint64_t slots[MOVES_WORDS]; /* of the sweep under way */
    bool sweeping;
};

struct wants { /* wants.h */
    struct pool pool;
    struct list live;
};

must_check enum err moves_lane_init(struct lane *l);
void moves_lane_fini(struct lane *l);
/* A part of a sweep, if one is due; true: there is more to do now. */
bool moves_turn(struct lane *l);
/* An EVICT: of a key, or of all that its selector says (drops.h). */
void moves_dropped(struct lane *l, const struct wire_batch *head,
                   const struct store_key *k);
void moves_dropped_by(struct lane *l, const struct wire_batch *head,
                      const uint64_t *labels, const uint8_t *scope);
/* Of a batch with BATCH_HERE: may this block be stored? */
must_check enum err moves_check(struct lane *l, const struct store_key *k,
                                const struct wire_attr *attr);
/* A client that drops a key and knows an older view than this node asks fewer
 * than hold it, or others: it has to ask again. */
bool moves_stale(const struct lane *l, const struct wire_batch *head,
                 const struct store_key *k);

#endif
