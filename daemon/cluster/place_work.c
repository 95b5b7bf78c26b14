/* SPDX-License-Identifier: Apache-2.0
 *
 * What placement knows of the nodes of a view: their shares and bounds, what
 * they have, how far apart they are; and the choice of an owner.
 *
 *     share = slots * weight / sum of weights, over the nodes that hold one
 *     low, high = share -+ eps, at least to the next whole slot
 *
 * Slots of a node that is DOWN and was DRAINING are out of reach until it is
 * back or REMOVED: the others' shares are of the rest. */
#include "cluster/place_work.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"

enum {
    EPS_FEW = 30,  /* thousandths, to FEW nodes */
    EPS_MANY = 80, /* from MANY on; straight between, so that the loss of one
                    * node does not tighten the bounds of all */
    FEW = 16,
    MANY = 64,
    INVERSE_BITS = 20,
};

static uint8_t node_kind(const struct node *n)
{
    switch ((enum node_state)n->state) {
    case NODE_UP:
        return PLACE_MEMBER | PLACE_SERVES | PLACE_PLACES | PLACE_HOLDS;
    case NODE_DRAINING:
        return PLACE_MEMBER | PLACE_SERVES;
    case NODE_DOWN:
        return n->drained ? PLACE_MEMBER : PLACE_MEMBER | PLACE_HOLDS;
    case NODE_JOINING:
    case NODE_REMOVED:
        break;
    }
    return 0;
}

static uint64_t node_weight(const struct node *n)
{
    return n->weight ? n->weight : 1;
}

static void work_kinds(struct place_work *w)
{
    for (uint32_t i = 0; i < w->n; i++)
        w->kind[i] = node_kind(&w->v->nodes[i]);
}

/* ---- loads ---- */

void work_count(struct place_work *w, const struct slot *t, int sign)
{
    bool going = work_member(w, t->to);
    uint16_t home = going ? t->to : t->owner[0];

    if (work_member(w, home))
        w->load[home].homes += (uint32_t)sign;
    if (going && work_member(w, t->owner[0]))
        w->load[t->owner[0]].leaving += (uint32_t)sign;
    for (uint32_t k = 1; k < VIEW_COPIES; k++) {
        if (work_member(w, t->owner[k]))
            w->load[t->owner[k]].copies += (uint32_t)sign;
    }
}

/* Both ends of a move answer: one that waits for a DOWN node holds up nobody
 * else's. */
static bool row_under_way(const struct place_work *w, const struct slot *t)
{
    uint16_t other = t->to != NODE_NONE ? t->to : t->from;

    return other != NODE_NONE && work_serves(w, other) &&
           work_serves(w, t->owner[0]);
}

static uint64_t load_eps(uint64_t nodes)
{
    if (nodes <= FEW)
        return EPS_FEW;
    if (nodes >= MANY)
        return EPS_MANY;
    return EPS_FEW + (EPS_MANY - EPS_FEW) * (nodes - FEW) / (MANY - FEW);
}

static void load_bounds(struct place_work *w, uint64_t slots)
{
    uint64_t weights = 0, eps, share, n = 0;

    for (uint16_t i = 0; i < w->n; i++) {
        weights += work_holds(w, i) ? node_weight(&w->v->nodes[i]) : 0;
        n += work_holds(w, i);
    }
    eps = load_eps(n);
    for (uint16_t i = 0; i < w->n; i++) {
        if (!work_holds(w, i))
            continue;
        share = slots * 16 * node_weight(&w->v->nodes[i]) / weights;
        w->load[i].share_x16 = share;
        w->load[i].high =
            (uint32_t)max_u64((share + 15) / 16, share * (1000 + eps) / 16000);
        w->load[i].low = (uint32_t)min_u64(
            share / 16, (share * (1000 - eps) + 15999) / 16000);
    }
}

static void work_loads(struct place_work *w)
{
    uint64_t slots = WIRE_SLOTS;

    if (w->n)
        memset(w->load, 0, w->n * sizeof(*w->load));
    for (uint32_t s = 0; s < WIRE_SLOTS; s++) {
        work_count(w, &w->v->slots[s], 1);
        w->under_way += row_under_way(w, &w->v->slots[s]);
    }
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->kind[i] == PLACE_MEMBER)
            slots -= w->load[i].homes;
    }
    load_bounds(w, slots);
}

uint32_t place_loads(const struct view *v, struct place_load *out)
{
    struct place_work w = {.v = v, .n = v->node_n, .load = out};

    work_kinds(&w);
    work_loads(&w);
    return w.under_way;
}

/* ---- sites ---- */

static void site_make(struct place_site *s, const struct view *v,
                      const struct node *n, uint64_t weight_max)
{
    uint64_t weight = node_weight(n);

    s->weight = (uint32_t)weight;
    s->inverse = min_u64((weight_max << INVERSE_BITS) / weight,
                         UINT64_C(1) << 2 * INVERSE_BITS);
    s->hash = hash_64(v->cluster, n->name, strlen(n->name));
    s->zone = hash_64(0, n->zone, strlen(n->zone));
    s->rack = hash_64(s->zone, n->rack, strlen(n->rack));
    s->host = n->host;
}

static void work_zones(struct place_work *w)
{
    const struct place_site *first = NULL;

    for (uint16_t i = 0; i < w->n; i++) {
        if (!work_places(w, i))
            continue;
        w->zones |= first && first->zone != w->sites[i].zone;
        first = &w->sites[i];
    }
}

enum err work_init(struct place_work *w, const struct view *v)
{
    uint64_t weight_max = 1;
    size_t n = v->node_n ? v->node_n : 1;

    *w = (struct place_work){.v = v, .n = v->node_n};
    if (fault_here("place_work"))
        return ERR_NO_MEMORY;
    w->sites = calloc(n, sizeof(*w->sites));
    w->load = calloc(n, sizeof(*w->load));
    w->scores = calloc(n, sizeof(*w->scores));
    if (!w->sites || !w->load || !w->scores) {
        work_fini(w);
        return ERR_NO_MEMORY;
    }
    work_kinds(w);
    for (uint32_t i = 0; i < v->node_n; i++) {
        if (w->kind[i] & PLACE_HOLDS)
            weight_max = max_u64(weight_max, node_weight(&v->nodes[i]));
    }
    for (uint32_t i = 0; i < v->node_n; i++)
        site_make(&w->sites[i], v, &v->nodes[i], weight_max);
    work_zones(w);
    work_loads(w);
    return OK;
}

void work_fini(struct place_work *w)
{
    free(w->sites);
    free(w->load);
    free(w->scores);
    *w = (struct place_work){.v = NULL};
}

/* ---- spread ---- */

uint32_t work_apart(const struct place_work *w, uint16_t a, uint16_t b)
{
    const struct place_site *x = &w->sites[a], *y = &w->sites[b];

    if (x->zone != y->zone)
        return 3;
    if (x->rack != y->rack)
        return 2;
    return a != b && (!x->host || x->host != y->host);
}

/* Of each owner the least distance to those before it, the first counts most;
 * an owner is better than none. */
uint32_t work_spread(const struct place_work *w, const struct slot *t)
{
    uint32_t sum = 0, least;

    for (uint32_t k = 1; k < VIEW_COPIES; k++) {
        least = 4;
        if (!work_member(w, t->owner[k]))
            least = 0;
        for (uint32_t j = 0; j < k && least; j++) {
            if (work_member(w, t->owner[j]))
                least = (uint32_t)min_u64(
                    least, 1 + work_apart(w, t->owner[j], t->owner[k]));
        }
        sum = sum * 8 + least;
    }
    return sum;
}

uint32_t place_distance(const struct node *a, const struct node *b)
{
    if (a == b || strcmp(a->name, b->name) == 0)
        return 0;
    if (strcmp(a->zone, b->zone) != 0)
        return 8;
    if (strcmp(a->rack, b->rack) != 0)
        return 4;
    return a->host && a->host == b->host ? 1 : 2;
}

/* ---- the choice ---- */

/* As a copy a node may be wanted twice as often as by its share, where zones
 * and racks of unlike size want that; a slot has two copies. */
bool work_has_room(const struct place_work *w, uint16_t node,
                   enum place_role role)
{
    const struct place_load *l = &w->load[node];

    if (role == PLACE_HOME)
        return l->homes < l->high;
    return l->copies * UINT64_C(16) <= l->share_x16 * 2 * (VIEW_COPIES - 1);
}

/* Into its place among the best, if it belongs there. */
static void score_top(struct place_work *w, uint16_t node)
{
    uint32_t at = w->top_n < PLACE_TOP ? w->top_n++ : PLACE_TOP - 1;

    for (; at > 0 && w->scores[node] < w->scores[w->top[at - 1]]; at--)
        w->top[at] = w->top[at - 1];
    w->top[at] = node;
}

static void work_score(struct place_work *w, uint32_t slot)
{
    if (w->scored == slot + 1)
        return;
    w->top_n = 0;
    for (uint16_t i = 0; i < w->n; i++) {
        const struct place_site *s = &w->sites[i];

        if (!work_places(w, i))
            continue;
        w->scores[i] = place_score(s->hash, s->inverse, slot);
        if (w->top_n < PLACE_TOP ||
            w->scores[i] < w->scores[w->top[PLACE_TOP - 1]])
            score_top(w, i);
    }
    w->scored = slot + 1;
}

static uint32_t pick_apart(const struct place_work *w, uint16_t node,
                           const uint16_t *taken, uint32_t n)
{
    uint32_t least = 4;

    for (uint32_t i = 0; i < n; i++) {
        if (taken[i] == node)
            return 0;
        least = (uint32_t)min_u64(least, 1 + work_apart(w, node, taken[i]));
    }
    return least;
}

static uint16_t pick_of(const struct place_work *w, const uint16_t *taken,
                        uint32_t taken_n, enum place_role role, bool full_too)
{
    uint32_t best_apart = 0, apart;
    uint16_t best = NODE_NONE;

    for (uint16_t i = 0; i < w->n; i++) {
        if (!work_places(w, i) || (!full_too && !work_has_room(w, i, role)))
            continue;
        apart = pick_apart(w, i, taken, taken_n);
        if (role == PLACE_HOME) /* the copies keep away from it, not it */
            apart = apart > 0;
        if (apart == 0 || apart < best_apart ||
            (apart == best_apart && w->scores[best] <= w->scores[i]))
            continue;
        best_apart = apart;
        best = i;
    }
    return best;
}

/* The first of the best that is as far away as can be: nobody beats it. */
static uint16_t pick_top(const struct place_work *w, const uint16_t *taken,
                         uint32_t taken_n, enum place_role role)
{
    uint32_t want = role == PLACE_HOME || taken_n == 0 ? 1 : 4;

    for (uint32_t k = 0; k < w->top_n && (want == 1 || w->zones); k++) {
        if (work_has_room(w, w->top[k], role) &&
            pick_apart(w, w->top[k], taken, taken_n) >= want)
            return w->top[k];
    }
    return NODE_NONE;
}

uint16_t work_pick(struct place_work *w, uint32_t slot, const uint16_t *taken,
                   uint32_t taken_n, enum place_role role)
{
    uint16_t node;

    work_score(w, slot);
    node = pick_top(w, taken, taken_n, role);
    if (node == NODE_NONE)
        node = pick_of(w, taken, taken_n, role, false);
    if (node == NODE_NONE)
        node = pick_of(w, taken, taken_n, role, true);
    return node;
}
