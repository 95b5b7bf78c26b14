/* SPDX-License-Identifier: Apache-2.0
 *
 * Step 5 of placement: owners 1 and 2, who stand in for a home and hold the
 * replicas.
 *
 *   spread   an owner 1 that is nearer to the home than it must be gives way
 *            to one in another zone (or rack): a zone that joined later
 *   fill     a node that is owner 1 or 2 of far fewer slots than its share, as
 *            one that joined is, takes the place of those who are relatively
 *            fuller, where that leaves the row spread as well as it was
 *
 * Each row makes the sum of spreads larger, or leaves it and makes the sum of
 * copies^2 / weight smaller: so it ends. Homes do not change here. */

#include "cluster/place_plan.h"

enum { TAKERS = 4, SHUFFLE = 25173, FEW = 16 };

/* Zones, or racks, that have room for copies: which, and is there another. */
struct domain {
    uint64_t one;
    bool any, more;
};

static uint64_t domain_of(const struct place_site *s, uint32_t apart)
{
    return apart == 3 ? s->zone : s->rack;
}

static struct domain domain_find(const struct plan *p, uint32_t apart)
{
    struct domain d = {.any = false};

    for (uint16_t i = 0; i < p->w.n && !d.more; i++) {
        uint64_t id = domain_of(&p->w.sites[i], apart);

        if (!work_places(&p->w, i) || !work_has_room(&p->w, i, PLACE_COPY))
            continue;
        d.more = d.any && id != d.one;
        if (!d.any)
            d.one = id;
        d.any = true;
    }
    return d;
}

static bool domain_other(const struct domain *d, uint64_t id)
{
    return d->any && (d->more || d->one != id);
}

/* ---- spread ---- */

/* Of the old owners 1 and 2 the one stays as owner 2 that is spread better. */
static struct slot spread_row(const struct plan *p, const struct slot *old,
                              uint16_t first)
{
    struct slot a = *old, b = *old;

    a.owner[1] = b.owner[1] = first;
    a.owner[2] = old->owner[1];
    if (b.owner[2] == first)
        b.owner[2] = NODE_NONE;
    return work_spread(&p->w, &b) > work_spread(&p->w, &a) ? b : a;
}

static bool spread_slot(struct plan *p, uint32_t s)
{
    const struct slot *t = &p->v->slots[s];
    uint32_t apart = work_apart(&p->w, t->owner[0], t->owner[1]);
    uint16_t pick = work_pick(&p->w, s, t->owner, 1, PLACE_COPY);

    if (pick == NODE_NONE || !work_has_room(&p->w, pick, PLACE_COPY) ||
        work_apart(&p->w, t->owner[0], pick) <= apart)
        return false;
    plan_row(p, s, spread_row(p, t, pick));
    return true;
}

static void copies_spread(struct plan *p)
{
    struct domain zones = domain_find(p, 3), racks = domain_find(p, 2);

    for (uint32_t s = 0; s < WIRE_SLOTS && p->copies && !plan_full(p); s++) {
        const struct slot *t = &p->v->slots[s];
        const struct place_site *home;
        uint32_t apart;

        if (!work_member(&p->w, t->owner[0]) ||
            !work_member(&p->w, t->owner[1]) || !plan_quiet(p, s))
            continue;
        home = &p->w.sites[t->owner[0]];
        apart = work_apart(&p->w, t->owner[0], t->owner[1]);
        if (!(apart < 3 && domain_other(&zones, home->zone)) &&
            !(apart < 2 && domain_other(&racks, home->rack)))
            continue;
        if (!spread_slot(p, s))
            continue;
        p->copies--;
        zones = domain_find(p, 3);
        racks = domain_find(p, 2);
    }
}

/* ---- fill ---- */

static uint64_t copies_total(const struct plan *p, uint64_t *weight_out)
{
    uint64_t total = 0;

    *weight_out = 0;
    for (uint32_t i = 0; i < p->w.n; i++) {
        total += p->w.load[i].copies;
        *weight_out +=
            work_holds(&p->w, (uint16_t)i) ? p->w.sites[i].weight : 0;
    }
    return total;
}

/* The UP node, not yet tried, with the fewest copies for its weight. */
static uint16_t fill_taker(const struct plan *p, const uint16_t *tried,
                           uint32_t tried_n)
{
    const struct place_site *s = p->w.sites;
    uint16_t best = NODE_NONE;

    for (uint16_t i = 0; i < p->w.n; i++) {
        bool again = !work_places(&p->w, i);

        for (uint32_t k = 0; k < tried_n; k++)
            again |= tried[k] == i;
        if (!again && (best == NODE_NONE ||
                       work_fuller(p->w.load[best].copies, s[best].weight,
                                   p->w.load[i].copies, s[i].weight)))
            best = i;
    }
    return best;
}

static bool fill_slot(struct plan *p, uint32_t s, uint16_t taker)
{
    const struct slot *old = &p->v->slots[s];
    const struct place_work *w = &p->w;

    if (!plan_quiet(p, s) || old->owner[0] == taker || old->owner[1] == taker ||
        old->owner[2] == taker)
        return false;
    for (uint32_t i = 0; i < VIEW_COPIES - 1; i++) {
        uint32_t k = 1 + ((s >> 3 & 1) ^ i);
        struct slot t = *old;
        uint16_t giver = old->owner[k];

        if (!work_places(w, giver) ||
            !work_fuller(w->load[giver].copies, w->sites[giver].weight,
                         w->load[taker].copies + UINT64_C(1),
                         w->sites[taker].weight))
            continue;
        t.owner[k] = taker;
        if (work_spread(w, &t) < work_spread(w, old))
            continue;
        plan_row(p, s, t);
        return true;
    }
    return false;
}

/* Far fewer: below 7/8 of its share in a small cluster, 3/4 in a large one,
 * where chance alone makes more difference. */
static void copies_fill(struct plan *p)
{
    uint64_t weight, total = copies_total(p, &weight);
    uint32_t part = p->up_n <= FEW ? 7 : 6;
    uint16_t tried[TAKERS];

    for (uint32_t i = 0; i < TAKERS && p->copies && !plan_full(p); i++) {
        uint16_t taker = fill_taker(p, tried, i);
        uint64_t enough, start;

        if (taker == NODE_NONE)
            return;
        tried[i] = taker;
        enough = total * p->w.sites[taker].weight / weight * part / 8;
        start = p->w.sites[taker].hash;
        for (uint32_t j = 0; j < WIRE_SLOTS && p->copies && !plan_full(p) &&
                             p->w.load[taker].copies < enough;
             j++)
            p->copies -= fill_slot(
                p, (uint32_t)(start + (uint64_t)j * SHUFFLE) % WIRE_SLOTS,
                taker);
    }
}

void plan_copies(struct plan *p)
{
    copies_spread(p);
    copies_fill(p);
}
