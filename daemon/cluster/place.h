/* SPDX-License-Identifier: Apache-2.0
 *
 * Placement: which node owns which slot. The leader asks what to change, the
 * voters agree on it (CMD_SLOTS), everybody follows the view.
 *
 *     view --place_next--> rows --CMD_SLOTS--> view' --place_next--> ... none
 *
 * A slot's life when its home A is to become B:
 *
 *     owner[0]=A  --place_next-->  A, to=B  --pulled, place_hand_over-->
 *     owner[0]=B, from=A  --pulled again, place_release-->  owner[0]=B
 *
 * What a node should have. Nodes that are UP, or DOWN but not drained, have a
 * share of the slots by weight. A node that is told to be over or under is one
 * outside share * (1 -+ eps), eps 3 % to 16 nodes, growing to 8 % at 64 and
 * more, never less than the next whole slot. While a node is outside, slots
 * move from the relatively fullest to the relatively emptiest; no other home
 * ever moves. So a join moves about 1/N of the homes, a loss moves the lost
 * ones.
 *
 * New owners are chosen by weighted rendezvous: the node with the least
 * -log(hash(slot, node)) / weight that has room. Owner 1 is in another zone
 * than the home if there is one with room, else in another rack, else on
 * another machine, else any other node; owner 2 likewise of both. Who is
 * wanted as an owner 1 or 2 more than twice as often as its share is full.
 *
 * Invariants
 *  1. Owners of a row differ, are not REMOVED and not JOINING, NODE_NONE fills
 *     the tail (view.h 1 and 2).
 *  2. A home that answers is never changed without `to` and the hand-over.
 *  3. Pure: the same view and cfg give the same rows in all builds; integers
 *     only. When place_next gives none, it gives none until the view changes.
 *  4. Applying rows and asking again ends: every row mends an owner, or brings
 *     a node nearer to its share.
 *
 * Cost: S = 65,536 slots, N nodes. place_next is O(S + N) and O(N) for each
 * owner chosen and each move (1.5 ms when there is little to do); place_compute
 * is O(S * N), 1.2 s of CPU for 1,000 nodes (`pikv-bench place`). The logarithm
 * is a table of 512 steps, straight between (place_log.c): within 7e-7 of log2.
 *
 * At the very first placement all slots are NODE_NONE and place_next places
 * them on whoever is UP at that moment: the caller waits until its voters have
 * joined, else everything moves again.
 *
 * Control thread. Allocates about 400 KiB while a call lasts. */
#ifndef CLUSTER_PLACE_H
#define CLUSTER_PLACE_H

#include "cluster/state.h"

struct place_cfg {
    uint32_t under_way; /* most slots with `to` or `from` at a time; 0: 64.
                         * Those that wait for a DOWN node do not count */
    uint32_t copies;    /* most rows of a call that change owners 1 and 2 for
                         * balance only; 0: 256 */
};

/* All slots placed anew, whatever v->slots holds: WIRE_SLOTS rows to out.
 * NO_MEMORY. Without an UP node all are NODE_NONE. */
must_check enum err place_compute(const struct view *v, struct slot *out);

/* What to change now, at most max rows (a slot is in at most one), the most
 * urgent first:
 *   1. homes that are REMOVED or none: the next owner that answers, else the
 *      node that it was moving to, else a new one, else (nobody is UP) one of
 *      its owners or its source that may come back. A `to` is kept, so that its
 *      target goes on with the new home; `from` and `to` that are gone are
 *      cleared, a `to` that no longer places too
 *   2. owners 1 and 2 that are REMOVED, DRAINING or missing
 *   3. `to` for the homes of DRAINING nodes
 *   4. `to` for homes of nodes outside their bounds
 *   5. owners 1 and 2 of a node that has far fewer than its share
 * Slots that are hot (heat) are left alone by 4 and 5. NO_MEMORY. */
must_check enum err place_next(const struct view *v,
                               const struct place_cfg *cfg,
                               struct slot_row *rows, uint32_t max,
                               uint32_t *n_out);

/* The row that makes slot.to the home (`from` = the old one), and the row that
 * ends the move. False: there is nothing of the kind to do (an old message). */
bool place_hand_over(const struct view *v, uint32_t slot,
                     struct slot_row *row_out);
bool place_release(const struct view *v, uint32_t slot,
                   struct slot_row *row_out);

/* A node beside its share: for balance.h, `placement show` and metrics. */
struct place_load {
    uint32_t homes;     /* slots whose home it is, or will be (`to`) */
    uint32_t copies;    /* slots of which it is owner 1 or 2 */
    uint32_t leaving;   /* slots it still is the home of and that have a `to` */
    uint32_t low, high; /* bounds of homes; 0 and 0: it has no share */
    uint64_t share_x16; /* sixteenths of a slot */
};
/* For all v->node_n nodes. Returns how many slots are under way and count. */
uint32_t place_loads(const struct view *v, struct place_load *out);

/* 0 the same node, 1 the same machine, 2 rack, 4 zone, 8 else. */
uint32_t place_distance(const struct node *a, const struct node *b);

#endif
