/* SPDX-License-Identifier: Apache-2.0
 *
 * The steps of placement (place.h), each one look at all slots:
 *
 *     mend homes -> mend owners -> drain -> level (place_level.c)
 *                                        -> copies (place_copies.c)
 *
 * A step stops when the rows are full; the caller asks again when what it got
 * has been agreed on. Steps 3 and 4 also stop at the limit of slots under way.
 * The order matters twice: what is mended counts before anything moves, and
 * nothing is levelled while a node drains, as its slots fill who is low. */
#include "cluster/place.h"

#include <stdlib.h>
#include <string.h>

#include "cluster/place_plan.h"

enum { UNDER_WAY = 64, COPIES = 256 };

/* ---- rows ---- */

static uint32_t row_owners(const struct slot *t)
{
    uint32_t n = 0;

    while (n < VIEW_COPIES && t->owner[n] != NODE_NONE)
        n++;
    return n;
}

static void row_clamp_heat(struct slot *t)
{
    uint32_t n = row_owners(t);

    if (t->heat + 1u > n)
        t->heat = (uint8_t)(n ? n - 1 : 0);
}

void plan_row(struct plan *p, uint32_t slot, struct slot t)
{
    row_clamp_heat(&t);
    work_count(&p->w, &p->v->slots[slot], -1);
    work_count(&p->w, &t, 1);
    p->touched[slot / 64] |= UINT64_C(1) << slot % 64;
    if (p->slots)
        p->slots[slot] = t;
    else
        p->rows[p->n++] = (struct slot_row){.slot = (uint16_t)slot, .to = t};
}

bool plan_quiet(const struct plan *p, uint32_t slot)
{
    const struct slot *t = &p->v->slots[slot];

    return t->to == NODE_NONE && t->from == NODE_NONE && t->heat == 0 &&
           !plan_touched(p, slot);
}

static bool slot_member(const struct view *v, uint16_t node)
{
    return node < v->node_n && v->nodes[node].state != NODE_REMOVED &&
           v->nodes[node].state != NODE_JOINING;
}

/* Owners from the second on that are members and not the home move up. */
static void row_close_up(const struct view *v, struct slot *t)
{
    uint32_t n = 1;

    for (uint32_t k = 1; k < VIEW_COPIES; k++) {
        uint16_t o = t->owner[k];

        t->owner[k] = NODE_NONE;
        if (o != t->owner[0] && slot_member(v, o))
            t->owner[n++] = o;
    }
    row_clamp_heat(t);
}

/* The place of `to` among the owners is taken by the old home, which has all
 * the blocks, if it stays. */
struct slot place_after(const struct view *v, const struct slot *t, uint16_t to)
{
    struct slot out = *t;
    uint16_t old = t->owner[0];
    bool stays = old < v->node_n && node_places(&v->nodes[old]);

    out.owner[0] = to;
    for (uint32_t k = 1; k < VIEW_COPIES; k++) {
        if (t->owner[k] == to && stays)
            out.owner[k] = old;
    }
    row_close_up(v, &out);
    out.from = slot_member(v, old) ? old : NODE_NONE;
    out.to = NODE_NONE;
    return out;
}

bool place_hand_over(const struct view *v, uint32_t slot,
                     struct slot_row *row_out)
{
    const struct slot *t = &v->slots[slot];

    if (t->to >= v->node_n || t->to == t->owner[0] ||
        !node_places(&v->nodes[t->to]))
        return false;
    row_out->slot = (uint16_t)slot;
    row_out->to = place_after(v, t, t->to);
    return true;
}

bool place_release(const struct view *v, uint32_t slot,
                   struct slot_row *row_out)
{
    struct slot t = v->slots[slot];

    if (t.from == NODE_NONE || !slot_member(v, t.owner[0]))
        return false;
    t.from = NODE_NONE;
    if (!slot_member(v, t.to))
        t.to = NODE_NONE;
    row_close_up(v, &t);
    *row_out = (struct slot_row){.slot = (uint16_t)slot, .to = t};
    return true;
}

/* ---- 1 and 2: mend ---- */

static void mend_ends(const struct plan *p, struct slot *t)
{
    if (t->to == t->owner[0] || !work_places(&p->w, t->to))
        t->to = NODE_NONE;
    if (t->from == t->owner[0] || !work_member(&p->w, t->from))
        t->from = NODE_NONE;
}

static uint16_t mend_next_home(struct plan *p, uint32_t slot,
                               const struct slot *t)
{
    uint16_t pick;

    for (uint32_t k = 1; k < VIEW_COPIES; k++) {
        if (work_serves(&p->w, t->owner[k]))
            return t->owner[k];
    }
    if (work_places(&p->w, t->to)) /* it has a part of the blocks */
        return t->to;
    pick = work_pick(&p->w, slot, NULL, 0, PLACE_HOME);
    for (uint32_t k = 1; k < VIEW_COPIES && pick == NODE_NONE; k++) {
        if (work_member(&p->w, t->owner[k]))
            pick = t->owner[k];
    }
    return pick == NODE_NONE && work_member(&p->w, t->from) ? t->from : pick;
}

static void mend_home(struct plan *p, uint32_t slot, struct slot *t)
{
    uint16_t home;

    if (work_member(&p->w, t->owner[0]))
        return;
    home = mend_next_home(p, slot, t);
    t->owner[0] = home;
    for (uint32_t k = 1; k < VIEW_COPIES; k++) {
        if (t->owner[k] == home)
            t->owner[k] = NODE_NONE;
    }
}

static bool row_has(const struct slot *t, uint32_t n, uint16_t node)
{
    for (uint32_t k = 0; k < n; k++) {
        if (t->owner[k] == node)
            return true;
    }
    return false;
}

static bool row_answers(const struct place_work *w, const struct slot *t)
{
    for (uint32_t k = 0; k < VIEW_COPIES; k++) {
        if (work_serves(w, t->owner[k]))
            return true;
    }
    return false;
}

/* Where there was no owner 2 before, as in a cluster of two, the new one may be
 * owner 1 by its score: else who joins would stand in for nobody. */
static void mend_order(struct plan *p, uint32_t slot, struct slot *t)
{
    const struct slot *old = &p->v->slots[slot];
    const struct place_work *w = &p->w;
    uint16_t first = t->owner[1], second = t->owner[2];

    if (old->owner[1] != first || old->owner[2] != NODE_NONE || old->heat ||
        !work_places(w, first) || w->scored != slot + 1 ||
        w->scores[second] >= w->scores[first] ||
        work_apart(w, t->owner[0], second) < work_apart(w, t->owner[0], first))
        return;
    t->owner[1] = second;
    t->owner[2] = first;
}

/* Owners 1 and 2 that stay move up, new ones fill. When none of all answers,
 * the last gives way to one that does. */
static void mend_tail(struct plan *p, uint32_t slot, struct slot *t)
{
    uint32_t n = 1, k;
    uint16_t pick;

    for (k = 1; k < VIEW_COPIES; k++) {
        uint16_t o = t->owner[k];

        t->owner[k] = NODE_NONE;
        if (work_holds(&p->w, o) && !row_has(t, n, o))
            t->owner[n++] = o;
    }
    if (t->owner[0] == NODE_NONE)
        return;
    while (n < VIEW_COPIES) {
        pick = work_pick(&p->w, slot, t->owner, n, PLACE_COPY);
        if (pick == NODE_NONE)
            return;
        t->owner[n++] = pick;
    }
    mend_order(p, slot, t);
    if (row_answers(&p->w, t))
        return;
    pick = work_pick(&p->w, slot, t->owner, n - 1, PLACE_COPY);
    if (pick != NODE_NONE)
        t->owner[n - 1] = pick;
}

static void mend_row(struct plan *p, uint32_t slot)
{
    const struct slot *old = &p->v->slots[slot];
    struct slot t = *old;

    mend_ends(p, &t);
    mend_home(p, slot, &t);
    mend_ends(p, &t);
    mend_tail(p, slot, &t);
    if (memcmp(&t, old, sizeof(t)) != 0)
        plan_row(p, slot, t);
}

/* Nothing to mend: what nearly all slots are. */
static bool row_sound(const struct plan *p, const struct slot *t)
{
    const struct place_work *w = &p->w;
    uint32_t up = work_places(w, t->owner[0]);

    if (!work_member(w, t->owner[0]) ||
        (t->to != NODE_NONE && !work_places(w, t->to)) ||
        (t->from != NODE_NONE && !work_member(w, t->from)))
        return false;
    for (uint32_t k = 1; k < VIEW_COPIES; k++) {
        if (t->owner[k] == NODE_NONE)
            return up == p->up_n;
        if (!work_holds(w, t->owner[k]))
            return false;
        up += work_places(w, t->owner[k]);
    }
    return row_answers(w, t) || p->up_n == 0;
}

static void plan_mend(struct plan *p, bool homes_only)
{
    for (uint32_t s = 0; s < WIRE_SLOTS && !plan_full(p); s++) {
        const struct slot *t = &p->v->slots[s];

        if (plan_touched(p, s) || row_sound(p, t) ||
            (homes_only && work_member(&p->w, t->owner[0])))
            continue;
        mend_row(p, s);
    }
}

/* ---- 3: drain ---- */

/* To the owner that stands in next, which may have copies, if it has room. */
static uint16_t drain_target(struct plan *p, uint32_t slot,
                             const struct slot *t)
{
    uint16_t next = t->owner[1];

    if (work_places(&p->w, next) && work_has_room(&p->w, next, PLACE_HOME))
        return next;
    return work_pick(&p->w, slot, t->owner, 1, PLACE_HOME);
}

/* True: a node still has slots to give away. */
static bool plan_drain(struct plan *p)
{
    bool drains = false;

    for (uint32_t s = 0; s < WIRE_SLOTS; s++) {
        struct slot t = p->v->slots[s];

        if (!work_serves(&p->w, t.owner[0]) || work_holds(&p->w, t.owner[0]) ||
            t.to != NODE_NONE)
            continue;
        drains = true;
        if (p->moves == 0 || plan_full(p))
            break;
        if (plan_touched(p, s) || t.from != NODE_NONE)
            continue;
        t.to = drain_target(p, s, &t);
        if (t.to == NODE_NONE)
            break;
        p->moves--;
        plan_row(p, s, t);
    }
    return drains;
}

/* ---- the two calls ---- */

static enum err plan_open(struct plan *p, const struct view *v)
{
    enum err e = work_init(&p->w, v);

    p->v = v;
    for (uint32_t i = 0; i < v->node_n && e == OK; i++)
        p->up_n += node_places(&v->nodes[i]);
    return e;
}

static void plan_close(struct plan *p)
{
    work_fini(&p->w);
    free(p->list);
    free(p->first);
    free(p->at);
}

enum err place_next(const struct view *v, const struct place_cfg *cfg,
                    struct slot_row *rows, uint32_t max, uint32_t *n_out)
{
    struct plan p = {.rows = rows, .max = max};
    uint32_t under_way = cfg->under_way ? cfg->under_way : UNDER_WAY;
    enum err e = plan_open(&p, v);

    if (e != OK)
        return e;
    p.moves = under_way > p.w.under_way ? under_way - p.w.under_way : 0;
    p.copies = cfg->copies ? cfg->copies : COPIES;
    plan_mend(&p, true);
    plan_mend(&p, false);
    if (!plan_drain(&p))
        e = plan_level(&p);
    if (e == OK) {
        plan_copies(&p);
        *n_out = p.n;
    }
    plan_close(&p);
    return e;
}

enum err place_compute(const struct view *v, struct slot *out)
{
    struct view anew = *v;
    struct plan p = {.slots = out, .moves = UINT32_MAX, .copies = UINT32_MAX};
    enum err e;

    for (uint32_t s = 0; s < WIRE_SLOTS; s++) {
        out[s] = (struct slot){.from = NODE_NONE, .to = NODE_NONE};
        for (uint32_t k = 0; k < VIEW_COPIES; k++)
            out[s].owner[k] = NODE_NONE;
    }
    anew.slots = out;
    e = plan_open(&p, &anew);
    if (e != OK)
        return e;
    for (uint32_t s = 0; s < WIRE_SLOTS; s++) {
        struct slot t = out[s];

        mend_home(&p, s, &t);
        work_count(&p.w, &t, 1);
        out[s] = t;
    }
    e = plan_level(&p);
    memset(p.touched, 0, sizeof(p.touched));
    plan_mend(&p, false);
    memset(p.touched, 0, sizeof(p.touched));
    plan_copies(&p);
    plan_close(&p);
    return e;
}
