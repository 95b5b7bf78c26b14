/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampled scores: the mechanism for every policy that can be written as "the
 * block with the lowest score goes". Such a policy is one struct evict_score,
 * one EVICT_SCORE_OPS and one line in evict.tbl; evict_lhd.c is the example.
 *
 *   state:  the policy's own bytes | spill, count | ids[] dense
 *   victim: draw K ids, park the held ones, score the rest, lowest goes
 *
 * The pool is in no order; node.prev is the block's place in it. K = 32 draws
 * find a block of the worst 10 % with 97 % certainty. Place changes only by
 * insert, remove and parking, so a hold and a release decide nothing. */
#ifndef STORE_EVICT_SCORE_H
#define STORE_EVICT_SCORE_H

#include "store/evict.h"

enum { EVICT_SAMPLES = 32 };

struct evict_score {
    size_t bytes; /* of the policy's own state, zeroed; 0 for none */
    void (*init)(void *state);
    /* Lowest goes. Integers only. priority is added by the mechanism. */
    uint64_t (*score)(const struct evict *e, const void *state,
                      const struct evict_node *n);
    /* Before a hit changes stamp and freq, and before an eviction under
     * pressure; for learning. NULL if there is nothing to learn. */
    void (*used)(struct evict *e, void *state, const struct evict_node *n);
    void (*evicted)(struct evict *e, void *state, const struct evict_node *n);
};

void evict_score_init(struct evict *e);
void evict_score_insert(struct evict *e, uint32_t id);
void evict_score_hit(struct evict *e, uint32_t id);
void evict_score_release(struct evict *e, uint32_t id, bool cold);
void evict_score_remove(struct evict *e, uint32_t id, enum evict_why why);
uint32_t evict_score_victim(struct evict *e);
/* What a policy's state_bytes returns. */
size_t evict_score_bytes(const struct evict_score *s, uint64_t pages_max);

#define EVICT_SCORE_OPS                                                        \
    .init = evict_score_init, .insert = evict_score_insert,                    \
    .hit = evict_score_hit, .release = evict_score_release,                    \
    .remove = evict_score_remove, .victim = evict_score_victim

#endif
