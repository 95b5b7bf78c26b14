/* SPDX-License-Identifier: Apache-2.0
 *
 * The leader's slots: what placement and balancing want becomes CMD_SLOTS, one
 * under way at a time, planned on the voters' state.
 *
 *     a beat says that a slot has arrived --> hand-over, or end of the move
 *     else: place_next, until it wants nothing of this epoch
 *     else, every 3 s: balance_tick
 *
 * The first placement waits for the voters: until as many have joined as are
 * configured or 2 s after the first join, and until nobody joined for 300 ms
 * (3 s at most): what joins later costs moves.
 *
 * "Arrived" counts only if the beat was made with a view in which the slot's
 * row is the present one: an old beat must not end a move of today. */
#include <string.h>

#include "cluster/cluster_impl.h"

uint32_t cl_moves_under_way(const struct view *v)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        n += v->slots[i].to != NODE_NONE || v->slots[i].from != NODE_NONE;
    return n;
}

static bool ready_is_new(const struct cl_lead *d, uint32_t slot)
{
    for (uint32_t i = 0; i < d->ready_n; i++)
        if (d->ready[i].slot == slot)
            return false;
    return d->ready_n < CL_READY_MAX;
}

void cl_moves_ready(struct cluster *c, uint16_t node, uint32_t slot,
                    uint64_t epoch)
{
    struct cl_lead *d = c->lead;
    const struct slot *s;

    if (slot >= WIRE_SLOTS)
        return;
    s = &c->state->view.slots[slot];
    if ((s->to != node && (s->owner[0] != node || s->from == NODE_NONE)) ||
        epoch < c->state->slot_epoch[slot] || !ready_is_new(d, slot))
        return;
    d->ready[d->ready_n++] =
        (struct cl_ready){(uint16_t)slot, node, epoch};
}

/* Rows for what has arrived. */
static uint32_t moves_arrived(struct cluster *c)
{
    struct cl_lead *d = c->lead;
    const struct view *v = &c->state->view;
    uint32_t n = 0;

    for (uint32_t i = 0; i < d->ready_n && n < CMD_SLOTS_MAX; i++) {
        const struct cl_ready *r = &d->ready[i];
        const struct slot *s = &v->slots[r->slot];

        if (r->epoch < c->state->slot_epoch[r->slot])
            continue;
        if (s->to == r->node)
            n += place_hand_over(v, r->slot, &d->rows[n]);
        else if (s->owner[0] == r->node && s->from != NODE_NONE)
            n += place_release(v, r->slot, &d->rows[n]);
    }
    d->ready_n = 0;
    return n;
}

static bool voters_joined(const struct cluster *c)
{
    const struct view *v = &c->state->view;
    uint32_t n = 0;

    for (uint32_t i = 0; i < v->node_n; i++)
        n += v->nodes[i].voter && v->nodes[i].state == NODE_UP;
    return n >= c->cfg.voter_n;
}

/* May the first placement be made? */
static bool moves_first(struct cluster *c)
{
    struct cl_lead *d = c->lead;
    const struct view *v = &c->state->view;

    if (v->slots[0].owner[0] != NODE_NONE)
        return true;
    if (v->node_n == 0)
        return false;
    if (!d->first_ms)
        d->first_ms = c->now_ms;
    if (d->joined_n != v->node_n) {
        d->joined_n = v->node_n;
        d->joined_ms = c->now_ms;
    }
    if (c->now_ms - d->joined_ms < CL_QUIET_MS &&
        c->now_ms - d->first_ms < CL_FIRST_MS + 1000)
        return false;
    return voters_joined(c) || c->now_ms - d->first_ms >= CL_FIRST_MS;
}

/* Nothing new goes to a node under suspicion. */
static uint32_t moves_unmarked(struct cluster *c, uint32_t n)
{
    struct cl_lead *d = c->lead;
    const struct view *v = &c->state->view;
    uint32_t kept = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint16_t to = d->rows[i].to.to;

        if (to != NODE_NONE && to != v->slots[d->rows[i].slot].to &&
            detect_marked(&d->detect, to, c->now_ms))
            continue;
        d->rows[kept++] = d->rows[i];
    }
    return kept;
}

static uint32_t moves_placed(struct cluster *c)
{
    struct cl_lead *d = c->lead;
    const struct view *v = &c->state->view;
    struct place_cfg cfg = {.under_way = c->cfg.move_slots};
    uint32_t n = 0, kept;

    if (c->now_ms < d->place_ms ||
        (d->slots_epoch == v->epoch && c->now_ms < d->again_ms))
        return 0;
    if (place_next(v, &cfg, d->rows, CMD_SLOTS_MAX, &n) != OK)
        return 0;
    if (n < CMD_SLOTS_MAX)
        d->place_ms = c->now_ms + CL_PLACE_MS;
    kept = moves_unmarked(c, n);
    if (!kept) {
        d->slots_epoch = v->epoch;
        d->again_ms = n ? c->now_ms + 1000 : UINT64_MAX;
    }
    return kept;
}

static uint32_t moves_balanced(struct cluster *c)
{
    struct cl_lead *d = c->lead;
    struct balance_slot hot[countof(c->load.hot)];
    uint32_t n = 0;

    if (c->cfg.no_balance || c->now_ms < d->balance_ms)
        return 0;
    d->balance_ms = c->now_ms + CL_BALANCE_MS;
    if (c->load_known && c->self != NODE_NONE) {
        for (uint32_t i = 0; i < c->load.hot_n; i++)
            hot[i] = (struct balance_slot){c->load.hot[i].slot,
                                           c->load.hot[i].ops,
                                           c->load.hot[i].bytes};
        if (balance_feed(&d->balance, c->self, c->load.ops, c->load.bytes,
                         c->load.misses, hot, c->load.hot_n) != OK)
            return 0;
    }
    if (balance_tick(&d->balance, &c->state->view, c->now_ms, d->rows,
                     CMD_SLOTS_MAX, &n) != OK)
        return 0;
    return moves_unmarked(c, n);
}

/* Slots that came to the leader itself. */
static void moves_own(struct cluster *c)
{
    const struct view *v = cl_view(c);

    for (uint32_t i = 0; i < c->moved_n; i++)
        if (c->moved[i].told)
            cl_moves_ready(c, c->self, c->moved[i].slot, v->epoch);
}

void cl_moves_tick(struct cluster *c)
{
    struct cl_lead *d = c->lead;
    struct cmd cmd = {.kind = CMD_SLOTS, .base_epoch = c->state->view.epoch};
    uint32_t n;

    if (d->slots_busy || c->now_ms < d->moves_ms || !moves_first(c))
        return;
    d->moves_ms = c->now_ms + CL_MOVES_MS;
    moves_own(c);
    n = moves_arrived(c);
    if (!n)
        n = moves_placed(c);
    if (!n)
        n = moves_balanced(c);
    if (!n)
        return;
    if (n == CMD_SLOTS_MAX)
        d->moves_ms = c->now_ms; /* the first placement: go on at once */
    cmd.rows = d->rows;
    cmd.row_n = n;
    d->slots_busy = cl_ask_duty(c, &cmd) == OK;
}
