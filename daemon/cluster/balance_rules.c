/* SPDX-License-Identifier: Apache-2.0
 *
 * What balancing does (balance.h): replicate what is hotter than half a node,
 * pack the rest, cool down what is hot no more. Each change is counted in the
 * loads at once, so that the next one sees it.
 *
 *     heat   owner[1 .. heat] serve reads beside the home: a new replica is put
 *            right behind them, the last owner falls off
 *     move   a home goes by `to`; a replica is replaced at once, since its
 *            blocks come from the home anyway */
#include <stdlib.h>

#include "cluster/balance_impl.h"

enum {
    HOT_PART = 2,  /* replicate above fair / 2 for each replica */
    COLD_PART = 4, /* give up below fair / 4 with one replica fewer */
    FULL = BALANCE_ONE * 105 / 100, /* below this nobody gives */
    ALIKE = BALANCE_ONE / 32,
    WORTH_PART = 512, /* of a fair share: less is not moved */
    GAIN_PART = 4,    /* of its load: a move that gains less is not made */
};

/* ---- who takes ---- */

static bool row_serves(const struct balance_work *w, const struct slot *t,
                       uint16_t node)
{
    uint16_t nodes[VIEW_COPIES];
    uint32_t n = balance_replicas(w, t, nodes);

    for (uint32_t i = 0; i < n; i++) {
        if (nodes[i] == node)
            return true;
    }
    return false;
}

/* The other end of each pair that the slot is in, by distance. Without such
 * knowledge: the distance that the blocks have to go. */
static uint64_t take_cost(const struct balance_work *w, uint32_t slot,
                          uint16_t from, uint16_t node)
{
    const struct node *nodes = w->v->nodes;
    uint64_t cost = 0;

    for (uint32_t i = 0; i < w->b->pair_n; i++) {
        const struct balance_pair *p = &w->b->pairs[i];
        uint32_t other = p->a == slot ? p->b : p->a;
        uint16_t home;

        if ((p->a != slot && p->b != slot) || other == slot ||
            other >= WIRE_SLOTS)
            continue;
        home = w->v->slots[other].owner[0];
        if (home < w->place.n)
            cost += p->count * place_distance(&nodes[node], &nodes[home]);
    }
    return cost * 16 + place_distance(&nodes[from], &nodes[node]);
}

/* The emptiest node that may take the slot; of those as empty, the nearest.
 * home: it must have room for one more. */
static uint16_t take_find(const struct balance_work *w, uint32_t slot,
                          const struct slot *t, uint16_t from, bool home)
{
    uint64_t least = UINT64_MAX, best_cost = UINT64_MAX;
    uint16_t best = NODE_NONE;

    for (int pass = 0; pass < 2; pass++) {
        for (uint16_t i = 0; i < w->place.n; i++) {
            uint64_t x, cost;

            if (!work_places(&w->place, i) || row_serves(w, t, i) ||
                (home && !work_has_room(&w->place, i, PLACE_HOME)))
                continue;
            x = balance_relative(w, i, w->load[i]);
            if (pass == 0) {
                least = min_u64(least, x);
                continue;
            }
            if (x > least + ALIKE)
                continue;
            cost = take_cost(w, slot, from, i);
            if (cost < best_cost) {
                best_cost = cost;
                best = i;
            }
        }
    }
    return best;
}

/* ---- heat ---- */

/* node becomes owner k, those behind it move back, the last falls off. */
static void row_insert(struct slot *t, uint32_t k, uint16_t node)
{
    uint32_t at = k;

    while (at < VIEW_COPIES - 1 && t->owner[at] != node)
        at++;
    for (; at > k; at--)
        t->owner[at] = t->owner[at - 1];
    t->owner[k] = node;
}

static uint64_t replica_load(const struct balance_work *w, const struct slot *t,
                             uint64_t load)
{
    uint16_t nodes[VIEW_COPIES];
    uint32_t n = balance_replicas(w, t, nodes);

    return n ? load / n : 0;
}

static bool may_change(const struct balance_work *w)
{
    return w->n < w->max && w->budget > 0;
}

/* One replica more; the others follow at the next tick, if still wanted. */
static void heat_slot(struct balance_work *w, struct balance_hot *h)
{
    struct slot t = w->v->slots[h->slot];
    uint16_t node = take_find(w, h->slot, &t, t.owner[0], false);

    if (node == NODE_NONE)
        return;
    t.heat++;
    row_insert(&t, t.heat, node);
    w->budget--;
    w->b->heats++;
    balance_row(w, h, &t);
}

void balance_heat(struct balance_work *w)
{
    for (uint32_t i = 0; i < w->hot_n && may_change(w); i++) {
        struct balance_hot *h = &w->hot[i];
        const struct slot *t = &w->v->slots[h->slot];

        if (!h->touched && t->heat + 1 < VIEW_COPIES &&
            work_serves(&w->place, t->owner[0]) &&
            replica_load(w, t, h->load) > w->fair_mean / HOT_PART)
            heat_slot(w, h);
    }
}

/* ---- cool ---- */

static struct balance_hot *hot_find(const struct balance_work *w, uint32_t slot)
{
    uint32_t low = 0, high = w->hot_n;

    while (low < high) {
        uint32_t mid = (low + high) / 2;

        if (w->hot[mid].slot < slot)
            low = mid + 1;
        else
            high = mid;
    }
    return low < w->hot_n && w->hot[low].slot == slot ? &w->hot[low] : NULL;
}

void balance_cool(struct balance_work *w)
{
    uint64_t cold =
        max_u64(w->fair_mean, (uint64_t)w->b->cfg.idle_cost << 16) / COLD_PART;

    for (uint32_t s = 0; s < WIRE_SLOTS && w->n < w->max; s++) {
        struct slot t = w->v->slots[s];
        struct balance_hot *h, none = {.slot = s};

        if (t.heat == 0 || !balance_quiet(w, &t))
            continue;
        h = hot_find(w, s);
        if (h && h->load / t.heat >= cold)
            continue;
        t.heat--;
        w->b->cools++;
        balance_row(w, h ? h : &none, &t);
    }
}

/* ---- move ---- */

static uint16_t move_giver(const struct balance_work *w)
{
    uint64_t most = FULL, x;
    uint16_t best = NODE_NONE;

    for (uint16_t i = 0; i < w->place.n; i++) {
        if (!work_places(&w->place, i) || w->spent[i])
            continue;
        x = balance_relative(w, i, w->load[i]);
        if (x > most) {
            most = x;
            best = i;
        }
    }
    return best;
}

/* What the move makes of the fuller of the two; UINT64_MAX: may not be. */
static uint64_t move_result(const struct balance_work *w, uint16_t from,
                            uint16_t to, uint64_t load)
{
    uint64_t gave = w->load[from] > load ? w->load[from] - load : 0;

    return max_u64(balance_relative(w, from, gave),
                   balance_relative(w, to, w->load[to] + load));
}

/* May the giver let go of its part in the slot? */
static bool move_allowed(const struct balance_work *w, const struct slot *t,
                         uint16_t from)
{
    const struct place_load *l = &w->place.load[from];

    if (t->owner[0] == from)
        return w->moves > 0 && l->homes > l->low;
    return row_serves(w, t, from);
}

struct move {
    struct balance_hot *hot;
    uint16_t to;
    uint64_t result;
};

/* The slot that leaves the fuller of the two as empty as can be. It must be
 * emptier than the giver was by a part of what moves, else a large slot would
 * wander for small differences. */
static struct move move_find(const struct balance_work *w, uint16_t from)
{
    uint64_t was = balance_relative(w, from, w->load[from]);
    struct move best = {.to = NODE_NONE, .result = was};
    const struct slot nothing = {
        {NODE_NONE, NODE_NONE, NODE_NONE}, NODE_NONE, NODE_NONE, 0, 0};
    uint16_t home_to = take_find(w, UINT32_MAX, &nothing, from, true);
    uint16_t copy_to = take_find(w, UINT32_MAX, &nothing, from, false);

    for (uint32_t i = 0; i < w->hot_n; i++) {
        struct balance_hot *h = &w->hot[i];
        const struct slot *t = &w->v->slots[h->slot];
        uint16_t to = t->owner[0] == from ? home_to : copy_to;
        uint64_t load = replica_load(w, t, h->load), result;

        if (h->touched || to == NODE_NONE || to == from ||
            load < w->fair_mean / WORTH_PART || !move_allowed(w, t, from) ||
            row_serves(w, t, to))
            continue;
        result = move_result(w, from, to, load);
        if (result < best.result &&
            was - result >= balance_relative(w, from, load) / GAIN_PART)
            best = (struct move){h, to, result};
    }
    return best;
}

/* from's place among the replicas is to's. */
static void row_replace(struct slot *t, uint16_t from, uint16_t to)
{
    uint32_t at = 1;

    while (at < VIEW_COPIES - 1 && t->owner[at] != from)
        at++;
    for (uint32_t k = at + 1; k < VIEW_COPIES; k++) {
        if (t->owner[k] == to)
            t->owner[k] = from;
    }
    t->owner[at] = to;
}

/* To the nearest of the emptiest, if that is as good. */
static uint16_t move_target(const struct balance_work *w, const struct move *m,
                            const struct slot *t, uint16_t from)
{
    uint16_t to = take_find(w, m->hot->slot, t, from, t->owner[0] == from);
    uint64_t was = balance_relative(w, from, w->load[from]);

    if (to == NODE_NONE ||
        move_result(w, from, to, replica_load(w, t, m->hot->load)) >= was)
        return m->to;
    return to;
}

static void move_make(struct balance_work *w, uint16_t from,
                      const struct move *m)
{
    struct slot t = w->v->slots[m->hot->slot];
    uint16_t to = move_target(w, m, &t, from);

    if (t.owner[0] == from) {
        t.to = to;
        w->moves--;
    } else {
        row_replace(&t, from, to);
    }
    w->budget--;
    w->b->moves++;
    balance_row(w, m->hot, &t);
}

void balance_move(struct balance_work *w)
{
    uint16_t from;

    while (may_change(w) && (from = move_giver(w)) != NODE_NONE) {
        struct move m = move_find(w, from);

        if (m.to == NODE_NONE)
            w->spent[from] = true;
        else
            move_make(w, from, &m);
    }
}
