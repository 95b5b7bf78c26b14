/* SPDX-License-Identifier: Apache-2.0
 *
 * EPLB (experts.h), written from its description: pack, replicate, pack. One
 * layer at a time in arrays of the largest size that a shape may have. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/experts.h"

struct pack_item {
    uint32_t i;
    uint64_t weight;
};

struct layer_plan {
    const uint64_t *weight; /* of the layer's experts */
    uint32_t experts, slots, groups, nodes, gpus;
    /* Experts in the order of nodes and groups: logical[k] is at place k. */
    uint32_t logical[EXPERTS_MAX];
    uint32_t replicas[EXPERTS_MAX]; /* of the expert at place k of a node */
    uint32_t expert[EXPERTS_MAX];   /* place of each physical slot of a node */
    uint64_t load[EXPERTS_MAX];     /* of what is packed */
    uint32_t pack[EXPERTS_MAX], rank[EXPERTS_MAX]; /* where each item went */
    struct pack_item order[EXPERTS_MAX];
    uint64_t pack_load[EXPERTS_MAX];
    uint32_t pack_n[EXPERTS_MAX];
};

/* ---- shape ---- */

static bool shape_number(uint32_t n, uint32_t max, const char *name,
                         struct errmsg *m)
{
    if (n >= 1 && n <= max)
        return true;
    errmsg_set(m, ERR_CONFIG, "%s: %u; it must be 1 to %u", name, n, max);
    return false;
}

static bool shape_multiple(uint32_t n, uint32_t of, const char *what,
                           struct errmsg *m)
{
    if (n % of == 0)
        return true;
    errmsg_set(m, ERR_CONFIG, "%s: %u is no multiple of %u", what, n, of);
    return false;
}

enum err experts_shape_check(const struct experts_shape *s, struct errmsg *m)
{
    if (!shape_number(s->layers, EXPERTS_LAYERS_MAX, "layers", m) ||
        !shape_number(s->experts, EXPERTS_MAX, "experts", m) ||
        !shape_number(s->slots, EXPERTS_MAX, "experts with redundant ones",
                      m) ||
        !shape_number(s->groups, s->experts, "groups", m) ||
        !shape_number(s->nodes, s->slots, "nodes", m) ||
        !shape_number(s->gpus, s->slots, "gpus", m) ||
        !shape_multiple(s->experts, s->groups, "experts by groups", m) ||
        !shape_multiple(s->gpus, s->nodes, "gpus by nodes", m) ||
        !shape_multiple(s->slots, s->gpus,
                        "experts with redundant ones by gpus", m))
        return ERR_CONFIG;
    if (s->slots < s->experts)
        return errmsg_set(m, ERR_CONFIG, "%u slots for %u experts", s->slots,
                          s->experts);
    return OK;
}

/* ---- the three steps ---- */

static int pack_order(const void *a, const void *b)
{
    const struct pack_item *x = a, *y = b;

    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return (x->i > y->i) - (x->i < y->i);
}

/* n items of load[] onto packs of n / packs items each. */
static void plan_pack(struct layer_plan *p, uint32_t n, uint32_t packs)
{
    uint32_t each = n / packs;

    for (uint32_t i = 0; i < n; i++)
        p->order[i] = (struct pack_item){i, p->load[i]};
    /* One each: nothing to balance, all stay in order. */
    if (each > 1)
        qsort(p->order, n, sizeof(*p->order), pack_order);
    memset(p->pack_load, 0, packs * sizeof(*p->pack_load));
    memset(p->pack_n, 0, packs * sizeof(*p->pack_n));
    for (uint32_t k = 0; k < n; k++) {
        uint32_t best = packs, i = p->order[k].i;

        for (uint32_t j = 0; j < packs && each > 1; j++) {
            if (p->pack_n[j] < each &&
                (best == packs || p->pack_load[j] < p->pack_load[best]))
                best = j;
        }
        if (each == 1)
            best = i;
        p->pack[i] = best;
        p->rank[i] = p->pack_n[best]++;
        p->pack_load[best] += p->load[i];
    }
}

/* Step 1: which experts are on which node. */
static void plan_groups(struct layer_plan *p)
{
    uint32_t size = p->experts / p->groups, each = p->groups / p->nodes;

    for (uint32_t g = 0; g < p->groups; g++) {
        p->load[g] = 0;
        for (uint32_t i = 0; i < size; i++)
            p->load[g] += p->weight[g * size + i];
    }
    plan_pack(p, p->groups, p->nodes);
    for (uint32_t g = 0; g < p->groups; g++) {
        for (uint32_t i = 0; i < size; i++)
            p->logical[(p->pack[g] * each + p->rank[g]) * size + i] =
                g * size + i;
    }
}

/* Step 2: the replicas of one node's experts. */
static void plan_replicate(struct layer_plan *p, const uint32_t *logical,
                           uint32_t experts, uint32_t slots)
{
    for (uint32_t k = 0; k < experts; k++) {
        p->replicas[k] = 1;
        p->expert[k] = k;
    }
    for (uint32_t s = experts; s < slots; s++) {
        uint32_t best = 0;

        for (uint32_t k = 1; k < experts; k++) {
            if (p->weight[logical[k]] * p->replicas[best] >
                p->weight[logical[best]] * p->replicas[k])
                best = k;
        }
        p->expert[s] = best;
        p->replicas[best]++;
    }
}

/* Step 3 writes the node's part of the map. */
static void plan_node(struct layer_plan *p, uint32_t node, uint16_t *map)
{
    uint32_t experts = p->experts / p->nodes, slots = p->slots / p->nodes;
    uint32_t gpus = p->gpus / p->nodes, each = slots / gpus;
    const uint32_t *logical = p->logical + node * experts;

    plan_replicate(p, logical, experts, slots);
    for (uint32_t s = 0; s < slots; s++)
        p->load[s] = (p->weight[logical[p->expert[s]]] << 16) /
                     p->replicas[p->expert[s]];
    plan_pack(p, slots, gpus);
    for (uint32_t s = 0; s < slots; s++)
        map[p->pack[s] * each + p->rank[s]] = (uint16_t)logical[p->expert[s]];
}

/* Weights that sums and products of 64 bits hold. */
static void plan_scale(uint64_t *to, const uint64_t *from, uint32_t n)
{
    uint64_t most = 1;
    uint32_t shift = 0;

    for (uint32_t i = 0; i < n; i++)
        most = max_u64(most, from[i]);
    while (most >> shift >= UINT64_C(1) << 34)
        shift++;
    for (uint32_t i = 0; i < n; i++)
        to[i] = from[i] >> shift;
}

enum err experts_plan(const struct experts_shape *s, const uint64_t *weight,
                      uint16_t *map_out, struct errmsg *m)
{
    bool global;
    struct layer_plan *p;
    uint64_t *scaled;
    enum err e = experts_shape_check(s, m);

    if (e != OK)
        return e;
    global = s->groups % s->nodes != 0;
    p = fault_here("experts_plan") ? NULL : calloc(1, sizeof(*p));
    scaled = calloc(s->experts, sizeof(*scaled));
    if (!p || !scaled) {
        e = errmsg_set(m, ERR_NO_MEMORY, "no memory for a plan");
        goto done;
    }
    for (uint32_t l = 0; l < s->layers; l++) {
        plan_scale(scaled, weight + (size_t)l * s->experts, s->experts);
        p->weight = scaled;
        p->experts = s->experts;
        p->slots = s->slots;
        p->gpus = s->gpus;
        p->groups = global ? 1 : s->groups;
        p->nodes = global ? 1 : s->nodes;
        plan_groups(p);
        for (uint32_t node = 0; node < p->nodes; node++)
            plan_node(p, node,
                      map_out + (size_t)l * s->slots +
                          node * (s->slots / p->nodes));
    }
done:
    free(p);
    free(scaled);
    return e;
}

/* ---- of a plan ---- */

static uint32_t map_count(const uint16_t *map, uint32_t slots, uint16_t expert)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < slots; i++)
        n += map[i] == expert;
    return n;
}

uint32_t experts_skew(const struct experts_shape *s, const uint64_t *weight,
                      const uint16_t *map, uint32_t layer, bool nodes)
{
    uint32_t parts = nodes ? s->nodes : s->gpus, each = s->slots / parts;
    const uint64_t *w = weight + (size_t)layer * s->experts;
    unsigned __int128 total = 0, most = 0;

    map += (size_t)layer * s->slots;
    for (uint32_t g = 0; g < parts; g++) {
        unsigned __int128 sum = 0;

        for (uint32_t i = g * each; i < (g + 1) * each; i++)
            sum += ((unsigned __int128)w[map[i]] << 16) /
                   map_count(map, s->slots, map[i]);
        total += sum;
        most = sum > most ? sum : most;
    }
    return total ? (uint32_t)(most * 1000 * parts / total) : 1000;
}

/* Is it on this node already, at a slot before i? Else how many nodes before
 * have it is its replica number. */
static bool place_before(const struct experts_shape *s, const uint16_t *map,
                         uint32_t i, uint32_t *replica_out)
{
    uint32_t each = s->slots / s->nodes, last = UINT32_MAX;

    *replica_out = 0;
    for (uint32_t k = 0; k < i; k++) {
        if (map[k] != map[i] || k / each == last)
            continue;
        last = k / each;
        if (last == i / each)
            return true;
        ++*replica_out;
    }
    return false;
}

enum err experts_place(const struct experts_shape *s, const uint16_t *map,
                       uint64_t model, const uint16_t *nodes, uint8_t tier,
                       struct expert_place *out, uint32_t max, uint32_t *n_out)
{
    uint32_t n = 0, replica;

    for (uint32_t l = 0; l < s->layers; l++, map += s->slots) {
        for (uint32_t i = 0; i < s->slots; i++) {
            if (place_before(s, map, i, &replica))
                continue;
            if (n == max || replica > UINT8_MAX)
                return ERR_LIMIT;
            out[n++] = (struct expert_place){
                .model = model,
                .layer = (uint16_t)l,
                .expert = map[i],
                .replica = (uint8_t)replica,
                .tier = tier,
                .node = nodes[i / (s->slots / s->nodes)],
            };
        }
    }
    *n_out = n;
    return OK;
}
