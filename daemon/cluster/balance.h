/* SPDX-License-Identifier: Apache-2.0
 *
 * Load: what the leader knows of it, and what it does about hot slots. Kept
 * beside the view, never replicated: a new leader learns it from the beats
 * within seconds.
 *
 *     beats --balance_feed--> decayed load of nodes and of their hottest slots
 *                                  |  balance_tick
 *                                  v
 *        rows: hot slots get read replicas (heat), others another home (`to`)
 *
 * Cost of a report = operations + bytes / 64 KiB + misses, a second; decayed
 * by 1/16 a report. A slot's load is the sum of what its owners report of it;
 * a node's is what it reports beyond its tracked slots plus, for each tracked
 * slot that the view gives it (or will), the slot's load through 1 + heat. So a
 * move counts at once, not when averages have followed.
 *
 * A node's fair share is the total by weight, as placement's. Nodes should
 * report at one pace: what decays at different paces is not comparable. Acting
 * begins when CV of (load / fair) is 0.15 or more, and ends when it is below
 * 0.08 and no node is above 1.10. While acting, within the move budget:
 *   1. a slot whose load for each replica is above half a fair share gets one
 *      more read replica (heat + 1, at most VIEW_COPIES - 1), on the emptiest
 *      node
 *   2. from the fullest node to the emptiest goes the slot that leaves the
 *      fuller of the two as empty as can be (LPT), if that gains at least a
 *      quarter of what moves. Of nodes that are equally empty (within 1/32 of
 *      a fair share) the one with the least topology cost
 * Always, and free: heat - 1 when one replica fewer would carry less than a
 * quarter of a fair share each.
 *
 * Loads are averages from the first report on (what is missing of the weight is
 * scaled up). Nothing at all is done before each UP node has reported five
 * times: a new leader, or one that a node has just joined, does not guess.
 *
 * Invariants
 *  1. In any 60 s at most cfg.per_mille / 1000 of the slots get a `to` or a new
 *     replica from here.
 *  2. No node gets more homes than placement allows it (place_load.high), none
 *     is left with fewer than .low: place_next does not undo what is done here.
 *  3. Slots under way are left alone.
 *
 * More than VIEW_COPIES nodes cannot share one slot: a slot above three fair
 * shares stays uneven; a deeper prefix router is the cure (client/pikv.h).
 *
 * Integers only, pure: no clock but now_ms. Control thread. */
#ifndef CLUSTER_BALANCE_H
#define CLUSTER_BALANCE_H

#include "cluster/place.h"

enum {
    BALANCE_TRACKED = 128, /* slots of a node whose load is kept */
    BALANCE_BUCKETS = 8,   /* of 10 s: the move budget */
};

struct balance_cfg {
    uint32_t per_mille; /* of all slots, moved in a minute; 0: 20 */
    uint32_t under_way; /* as place_cfg; 0: 64 */
    uint32_t idle_cost; /* total cost a second and node below which nothing is
                         * done; 0: 50 */
};

struct balance_slot { /* what one node says of one slot; a second */
    uint32_t slot;
    uint64_t ops, bytes;
};

struct balance_tracked {
    uint32_t slot;
    uint64_t load; /* Q16 */
};

struct balance_node {
    uint64_t load;   /* Q16, all of it, as far as weight says */
    uint32_t weight; /* Q16: how much of an average the reports are by now */
    uint32_t tracked_n;
    struct balance_tracked *tracked; /* BALANCE_TRACKED, or NULL */
};

/* How often two slots were wanted in one batch: topology cost. */
struct balance_pair {
    uint32_t a, b;
    uint64_t count;
};

struct balance {
    struct balance_cfg cfg;
    struct balance_node *nodes;       /* NODES_MAX */
    const struct balance_pair *pairs; /* borrowed, may be NULL */
    uint32_t pair_n;
    bool acting;
    uint32_t cv_permille, max_permille; /* at the last tick; max of load/fair */
    uint64_t bucket_of;                 /* now_ms / 10,000 of the newest */
    uint32_t used[BALANCE_BUCKETS];
    uint64_t moves, heats, cools; /* ever */
};

must_check enum err balance_init(struct balance *b,
                                 const struct balance_cfg *cfg);
void balance_fini(struct balance *b);

/* A beat's figures: totals a second and the hottest slots. NO_MEMORY: as if
 * the beat was lost. */
must_check enum err balance_feed(struct balance *b, uint16_t node, uint64_t ops,
                                 uint64_t bytes, uint64_t misses,
                                 const struct balance_slot *hot, uint32_t n);
/* It is gone, or was started anew: its figures count no more. */
void balance_forget(struct balance *b, uint16_t node);

/* At most max rows, for CMD_SLOTS; every few seconds (a row that the voters
 * did not take is made again). NO_MEMORY. */
must_check enum err balance_tick(struct balance *b, const struct view *v,
                                 uint64_t now_ms, struct slot_row *rows,
                                 uint32_t max, uint32_t *n_out);

/* A node's load and fair share in Q16, as the last tick saw them: computed
 * anew. out has v->node_n. NO_MEMORY. */
struct balance_load {
    uint64_t load, fair;
};
must_check enum err balance_loads(const struct balance *b, const struct view *v,
                                  struct balance_load *out);

/* ---- topology: homes by co-access ----
 *
 * Items (slots, experts) on places (nodes, GPUs) with a matrix of distances
 * dist[from * places + to]. */
/* Sum of count * distance between the homes of the pairs. */
uint64_t balance_cost(const struct balance_pair *pairs, uint32_t pair_n,
                      const uint16_t *home, const uint32_t *dist,
                      uint32_t places);
/* Homes by which that sum is small: the item with the most co-access first,
 * each to the place nearest to its partners that has room, at most cap items a
 * place; then swaps while one lowers the sum. NO_MEMORY; LIMIT: cap * places <
 * items; BAD_REQUEST: a pair of an item that is none. */
must_check enum err balance_homes(const struct balance_pair *pairs,
                                  uint32_t pair_n, uint32_t items,
                                  const uint32_t *dist, uint32_t places,
                                  uint32_t cap, uint16_t *home_out);

#endif
