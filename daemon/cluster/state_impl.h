/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the state share: one command at work, and the kinds that
 * have files of their own. */
#ifndef CLUSTER_STATE_IMPL_H
#define CLUSTER_STATE_IMPL_H

#include "cluster/state.h"

/* A function of a kind either refuses, by an err and words in m, before it
 * touches the state; or does everything and returns OK. */
struct work {
    struct state *s;
    const struct cmd *c;
    uint64_t index;
    struct errmsg *m;
    bool changed;   /* the view is another one now */
    uint64_t value; /* of the answer, where it is not the epoch */
};

/* state_member.c */
/* Bytes of all nodes but one (NODE_NONE: of all) in a snapshot. */
size_t state_node_bytes(const struct view *v, uint16_t but);
enum err state_join(struct work *w);
enum err state_set_state(struct work *w);
enum err state_voter(struct work *w);
enum err state_generation(struct work *w);

/* state_experts.c */
enum err state_experts(struct work *w);
void state_experts_drop(struct state *s, uint16_t node);
int state_expert_order(const void *a, const void *b);

/* The answer to a command that was applied before, and how it is kept. */
bool state_seen(const struct state *s, uint64_t id, struct answer *a);
void state_see(struct state *s, uint64_t id, const struct answer *a);

#endif
