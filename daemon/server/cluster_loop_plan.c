/* SPDX-License-Identifier: Apache-2.0
 *
 * `placement plan` and `placement apply`: what the leader's rules (place.h)
 * would still do about this view, played to the end on a copy; and its first
 * part as one command, beyond cluster.move_slots. The leader goes on with the
 * rest by itself either way.
 *
 *     copy of the view --place_next--> rows --into the copy--> again until none
 *
 * Reading a plan costs the control thread some ten milliseconds, which is less
 * than a heartbeat. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/place.h"
#include "server/cluster_loop_impl.h"

enum { PLAN_ROUNDS = 256, PLAN_PAIRS = 64, PLAN_TEXT = 16 << 10 };

struct pair {
    uint16_t from, to;
    uint32_t slots;
};

struct plan {
    struct view v; /* a copy, as it will be */
    struct slot_row *rows;
    struct pair pairs[PLAN_PAIRS]; /* the first ones met */
    uint32_t pair_n, more;         /* moves of other pairs */
    uint32_t moves, owners;        /* homes that move; rows of copies only */
};

static void plan_pair(struct plan *p, uint16_t from, uint16_t to)
{
    uint32_t i = 0;

    p->moves++;
    while (i < p->pair_n &&
           (p->pairs[i].from != from || p->pairs[i].to != to))
        i++;
    if (i == PLAN_PAIRS) {
        p->more++;
        return;
    }
    if (i == p->pair_n)
        p->pairs[p->pair_n++] = (struct pair){from, to, 0};
    p->pairs[i].slots++;
}

static void plan_row(struct plan *p, const struct slot_row *r)
{
    struct slot *s = &p->v.slots[r->slot];

    if (r->to.to != NODE_NONE && r->to.to != s->to)
        plan_pair(p, s->owner[0], r->to.to);
    else if (r->to.owner[0] != s->owner[0])
        plan_pair(p, s->owner[0], r->to.owner[0]);
    else
        p->owners++;
    *s = r->to;
}

static enum err plan_play(struct plan *p)
{
    struct place_cfg cfg = {.under_way = WIRE_SLOTS, .copies = CMD_SLOTS_MAX};

    for (uint32_t round = 0; round < PLAN_ROUNDS; round++) {
        uint32_t n;
        enum err e = place_next(&p->v, &cfg, p->rows, CMD_SLOTS_MAX, &n);

        if (e || n == 0)
            return e;
        for (uint32_t i = 0; i < n; i++)
            plan_row(p, &p->rows[i]);
    }
    return OK;
}

static const char *plan_name(const struct plan *p, uint16_t node)
{
    return node < p->v.node_n ? p->v.nodes[node].name : "nobody";
}

static void plan_say(const struct plan *p, char *to, size_t cap)
{
    size_t n = (size_t)snprintf(to, cap, "%u slots get another home, %u other "
                                         "copies\n",
                                p->moves, p->owners);

    for (uint32_t i = 0; i < p->pair_n && n < cap; i++)
        n += (size_t)snprintf(to + n, cap - n, "%s -> %s: %u\n",
                              plan_name(p, p->pairs[i].from),
                              plan_name(p, p->pairs[i].to), p->pairs[i].slots);
    if (p->more && n < cap)
        snprintf(to + n, cap - n, "others: %u\n", p->more);
}

static void plan_answer(struct plan *p, struct ctl_call *call)
{
    Pikv__ClusterReply rep;
    char *text = malloc(PLAN_TEXT);
    enum err e = text ? plan_play(p) : ERR_NO_MEMORY;

    if (e) {
        free(text);
        control_answer(call, e);
        return;
    }
    plan_say(p, text, PLAN_TEXT);
    pikv__cluster_reply__init(&rep);
    rep.epoch = p->v.epoch;
    rep.generation = p->v.generation;
    rep.moves = p->moves;
    rep.text = text;
    cluster_reply(call, &rep);
    free(text);
}

static void plan_apply(struct cluster_loop *cl, struct plan *p,
                       struct ctl_call *call)
{
    struct place_cfg cfg = {.under_way = WIRE_SLOTS, .copies = CMD_SLOTS_MAX};
    struct cmd cmd = {.kind = CMD_SLOTS, .rows = p->rows};
    struct answer none = {.value = p->v.epoch};
    enum err e = place_next(&p->v, &cfg, p->rows, CMD_SLOTS_MAX, &cmd.row_n);

    if (e) {
        control_answer(call, e);
        return;
    }
    cmd.base_epoch = p->v.epoch;
    if (cmd.row_n)
        cluster_loop_propose(cl, call, &cmd);
    else
        cluster_answered(cl, call, &none); /* all is where it belongs */
}

void cluster_plan(struct cluster_loop *cl, struct ctl_call *call, bool apply)
{
    struct plan *p = calloc(1, sizeof(*p));
    enum err e = p ? view_init(&p->v) : ERR_NO_MEMORY;

    if (!e)
        e = view_copy(&p->v, cluster_view(cl->cluster));
    if (!e) {
        p->rows = calloc(CMD_SLOTS_MAX, sizeof(*p->rows));
        e = p->rows ? OK : ERR_NO_MEMORY;
    }
    if (e)
        control_answer(call, e);
    else if (apply)
        plan_apply(cl, p, call);
    else
        plan_answer(p, call);
    if (p) {
        view_fini(&p->v);
        free(p->rows);
    }
    free(p);
}
