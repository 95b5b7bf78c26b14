/* SPDX-License-Identifier: Apache-2.0
 *
 * Experts of mixture models: how much each is used, and where replicas of them
 * should be. Expert means the feed-forward expert of a layer; engines report
 * how many tokens each got (EXPERT_LOAD).
 *
 *     counts --experts_feed--> decayed load by (model, layer, expert)
 *                                  |  experts_weights
 *                                  v
 *     weight[layer][expert] --experts_plan--> physical_to_logical[layer][slot]
 *                                  |  experts_place
 *                                  v
 *                      rows of struct expert_place (CMD_EXPERTS)
 *
 * The plan is EPLB's (DeepSeek, "Expert Parallelism Load Balancer"), a layer at
 * a time:
 *   1. groups of experts are packed onto nodes, equally many on each: heaviest
 *      first, each to the lightest node that has room
 *   2. within a node, as long as there are physical slots left, the expert
 *      with the most load for each replica gets one more
 *   3. the replicas are packed onto the node's GPUs as the groups were
 * If groups cannot be dealt out equally to nodes, all is one group on one node
 * (EPLB's "global" policy). Equal weights: the lower number first. Integers
 * only; a replica's load is weight / replicas in Q16.
 *
 * The map has the layout that SGLang's --init-expert-location reads as
 * {"physical_to_logical_map": [[...], ...]}: slot i of a layer is on GPU
 * i / (slots / gpus).
 *
 * Control thread. Pure. */
#ifndef CLUSTER_EXPERTS_H
#define CLUSTER_EXPERTS_H

#include "cluster/state.h"

enum {
    EXPERTS_LAYERS_MAX = 512,
    EXPERTS_MAX = 4096,          /* of a layer, and physical slots of a layer */
    EXPERTS_KNOWN_MAX = 1 << 18, /* (model, layer, expert) with a load */
};
#define EXPERTS_WEIGHT_MAX (UINT64_C(1) << 44) /* more counts as this */

struct expert_load {
    uint64_t model;
    uint64_t load; /* Q16: counts in a decay interval, decayed */
    uint16_t layer, expert;
};

struct experts {
    struct expert_load *table; /* open addressing; load 0: free or faded */
    uint32_t n, cap;           /* used (faded included), a power of two */
};

/* Accepts a zeroed object: there is no init. */
void experts_fini(struct experts *x);
/* LIMIT: a new one beyond EXPERTS_KNOWN_MAX; NO_MEMORY; BAD_REQUEST: model 0,
 * or a layer or expert beyond the bounds above. The counts are lost then. */
must_check enum err experts_feed(struct experts *x, uint64_t model,
                                 uint16_t layer, uint16_t expert,
                                 uint64_t count);
/* An interval has passed (the caller's: a beat, a minute): all loads lose 1/16;
 * what has faded to nothing is forgotten. */
void experts_decay(struct experts *x);
/* Loads of a model (0: of all), by model, layer, expert; at most max, returns
 * how many there are. */
uint32_t experts_list(const struct experts *x, uint64_t model,
                      struct expert_load *out, uint32_t max);
/* The model's largest layer and expert seen, plus one; 0: no such model. */
void experts_size(const struct experts *x, uint64_t model, uint32_t *layers_out,
                  uint32_t *experts_out);
/* weight[layers][experts] of a model; 0 where nothing was reported. */
void experts_weights(const struct experts *x, uint64_t model, uint32_t layers,
                     uint32_t experts, uint64_t *weight_out);

struct experts_shape {
    uint32_t layers, experts;
    uint32_t slots; /* physical, of a layer: experts + redundant ones */
    uint32_t groups, nodes, gpus;
};
/* CONFIG: a shape that cannot be (m names the field). OK: all that the other
 * functions need holds. */
must_check enum err experts_shape_check(const struct experts_shape *s,
                                        struct errmsg *m);
/* map_out[layers][slots]: the logical expert of each physical slot. CONFIG,
 * NO_MEMORY. */
must_check enum err experts_plan(const struct experts_shape *s,
                                 const uint64_t *weight, uint16_t *map_out,
                                 struct errmsg *m);
/* max / mean of the load of the GPUs (nodes: false) or nodes of one layer, in
 * thousandths; 1000 if there is no load. */
uint32_t experts_skew(const struct experts_shape *s, const uint64_t *weight,
                      const uint16_t *map, uint32_t layer, bool nodes);

/* The plan as placements: nodes[i] is the member that node i of the plan is.
 * An expert is once on a node, whatever GPUs of it want it. At most max rows;
 * LIMIT: there are more. */
must_check enum err experts_place(const struct experts_shape *s,
                                  const uint16_t *map, uint64_t model,
                                  const uint16_t *nodes, uint8_t tier,
                                  struct expert_place *out, uint32_t max,
                                  uint32_t *n_out);

#endif
