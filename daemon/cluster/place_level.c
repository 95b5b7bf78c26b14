/* SPDX-License-Identifier: Apache-2.0
 *
 * Step 4 of placement: homes of nodes outside their bounds.
 *
 * While the fullest node is above its high bound or the emptiest below its low
 * one, a slot goes from the fullest to the emptiest, if that makes the sum of
 * homes^2 / weight smaller: so it ends, and never goes back and forth. Of some
 * slots of the giver the one is taken whose owners are spread best with the
 * taker as home. A giver must be UP, as it streams what it gives. */
#include <stdlib.h>

#include "cluster/place_plan.h"

enum {
    PROBES = 16,     /* slots looked at for one move */
    SHUFFLE = 40503, /* odd: i * SHUFFLE mod slots meets each slot once */
    SLOT_NONE = UINT32_MAX,
};

static enum err level_lists(struct plan *p)
{
    uint32_t n = p->w.n;

    p->list = calloc(WIRE_SLOTS, sizeof(*p->list));
    p->first = calloc(n + 2, sizeof(*p->first));
    p->at = calloc(n + 1, sizeof(*p->at));
    if (!p->list || !p->first || !p->at)
        return ERR_NO_MEMORY;
    for (uint32_t s = 0; s < WIRE_SLOTS; s++) {
        if (p->v->slots[s].owner[0] < n)
            p->first[p->v->slots[s].owner[0] + 1]++;
    }
    for (uint32_t i = 0; i < n; i++) {
        p->first[i + 1] += p->first[i];
        p->at[i] = p->first[i];
    }
    for (uint32_t i = 0; i < WIRE_SLOTS; i++) {
        uint16_t s = (uint16_t)(i * SHUFFLE % WIRE_SLOTS);
        uint16_t home = p->v->slots[s].owner[0];

        if (home < n)
            p->list[p->at[home]++] = s;
    }
    for (uint32_t i = 0; i < n; i++)
        p->at[i] = p->first[i];
    return OK;
}

/* The fullest that has something to give and the emptiest. */
static bool level_ends(const struct plan *p, uint16_t *from_out,
                       uint16_t *to_out)
{
    const struct place_site *s = p->w.sites;
    const struct place_load *l = p->w.load;
    uint16_t from = NODE_NONE, to = NODE_NONE;

    for (uint16_t i = 0; i < p->w.n; i++) {
        if (!work_places(&p->w, i))
            continue;
        if (p->at[i] < p->first[i + 1] &&
            (from == NODE_NONE || work_fuller(l[i].homes, s[i].weight,
                                              l[from].homes, s[from].weight)))
            from = i;
        if (to == NODE_NONE ||
            work_fuller(l[to].homes, s[to].weight, l[i].homes, s[i].weight))
            to = i;
    }
    *from_out = from;
    *to_out = to;
    return from != NODE_NONE && from != to;
}

static bool level_wanted(const struct plan *p, uint16_t from, uint16_t to)
{
    const struct place_load *f = &p->w.load[from], *t = &p->w.load[to];

    if (f->homes <= f->high && t->homes >= t->low)
        return false;
    return f->homes > 0 &&
           work_fuller(f->homes * UINT64_C(2) - 1, p->w.sites[from].weight,
                       t->homes * UINT64_C(2) + 1, p->w.sites[to].weight);
}

/* SLOT_NONE: all were looked at. */
static uint32_t level_slot(struct plan *p, uint16_t from, uint16_t to)
{
    uint32_t best = SLOT_NONE, best_spread = 0, probes = 0;

    while (p->at[from] < p->first[from + 1] &&
           !plan_quiet(p, p->list[p->at[from]]))
        p->at[from]++;
    for (uint32_t i = p->at[from]; i < p->first[from + 1] && probes < PROBES;
         i++) {
        uint32_t s = p->list[i], spread;
        struct slot t;

        if (!plan_quiet(p, s))
            continue;
        t = place_after(p->v, &p->v->slots[s], to);
        spread = work_spread(&p->w, &t);
        if (best == SLOT_NONE || spread > best_spread) {
            best = s;
            best_spread = spread;
        }
        probes++;
    }
    return best;
}

enum err plan_level(struct plan *p)
{
    uint16_t from, to;
    enum err e;

    if (p->moves == 0 || plan_full(p))
        return OK;
    e = level_lists(p);
    while (e == OK && p->moves && !plan_full(p) && level_ends(p, &from, &to) &&
           level_wanted(p, from, to)) {
        uint32_t s = level_slot(p, from, to);
        struct slot t;

        if (s == SLOT_NONE)
            continue;
        t = p->v->slots[s];
        if (p->slots)
            t.owner[0] = to;
        else
            t.to = to;
        p->moves--;
        plan_row(p, s, t);
    }
    return e;
}
