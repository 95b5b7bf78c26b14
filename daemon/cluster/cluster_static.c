/* SPDX-License-Identifier: Apache-2.0
 *
 * The provider `static`: the list of members is in everybody's configuration
 * and never changes, nobody leads, nothing is agreed on.
 *
 *     cluster.members --sorted by name, all UP, place_compute--> epoch 1, the
 *     same bytes on every node
 *     beats to everybody, every `beat` ms --> UP or DOWN, as this node finds
 *
 * What a node finds is its own: it skips who is DOWN (view_serving), slots do
 * not move. Its epoch goes up by one with each such finding, so that its lanes
 * and its clients take the newer one; epochs of two nodes say nothing about
 * each other, and views are not exchanged. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/cluster_impl.h"

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct node *)a)->name,
                  ((const struct node *)b)->name);
}

static enum err static_view(struct cluster *c, struct view *v)
{
    struct slot *slots;
    enum err e = view_room(v, c->cfg.member_n);

    if (e != OK)
        return e;
    memcpy(v->nodes, c->members, c->cfg.member_n * sizeof(*v->nodes));
    v->node_n = c->cfg.member_n;
    v->cluster = c->cluster;
    v->generation = 1;
    v->epoch = 1;
    for (uint32_t i = 0; i < v->node_n; i++) {
        v->nodes[i].state = NODE_UP;
        v->nodes[i].uuid = 0;
        v->nodes[i].incarnation = 0;
    }
    slots = fault_here("static_view") ? NULL
                                      : malloc(WIRE_SLOTS * sizeof(*slots));
    if (!slots)
        return ERR_NO_MEMORY;
    e = place_compute(v, slots);
    if (e == OK)
        memcpy(v->slots, slots, WIRE_SLOTS * sizeof(*slots));
    free(slots);
    return e;
}

enum err cl_static_open(struct cluster *c, struct errmsg *m)
{
    struct shared_view *s = shared_view_new(NULL);
    const char *wrong;
    enum err e;

    if (!s)
        return errmsg_set(m, ERR_NO_MEMORY, "cluster: out of memory");
    qsort(c->members, c->cfg.member_n, sizeof(*c->members), by_name);
    e = static_view(c, &s->v);
    if (e != OK) {
        shared_view_unref(s);
        return errmsg_set(m, e, "cluster: out of memory");
    }
    wrong = view_wrong(&s->v);
    if (wrong) {
        shared_view_unref(s);
        return errmsg_set(m, ERR_CONFIG, "cluster.members: %s", wrong);
    }
    c->view = s;
    c->acts.publish = true;
    c->self = view_find(&s->v, c->cfg.self.name);
    c->joined = true;
    c->phase = CLUSTER_MEMBER;
    for (uint32_t i = 0; i < c->cfg.member_n; i++)
        c->peers[i].heard_ms = c->now_ms;
    return OK;
}

void cl_static_beat(struct cluster *c, struct cl_link *l)
{
    if (l->node < c->cfg.member_n) {
        c->peers[l->node].heard_ms = c->now_ms;
        c->peers[l->node].heard = true;
    }
}

/* What this node finds of the others now: a new view if it is new. */
static void static_find(struct cluster *c)
{
    struct shared_view *s = NULL;

    for (uint32_t i = 0; i < c->cfg.member_n; i++) {
        uint64_t silent = c->now_ms - c->peers[i].heard_ms;
        uint8_t state = i == c->self || silent < c->cfg.times.down ? NODE_UP
                                                                   : NODE_DOWN;

        if (cl_view(c)->nodes[i].state == state)
            continue;
        if (!s)
            s = shared_view_new(cl_view(c));
        if (!s)
            return; /* with the next tick */
        s->v.nodes[i].state = state;
        cl_act_say(c, LOG_NOTICE, "%s is %s", s->v.nodes[i].name,
                   node_state_name((enum node_state)state));
    }
    if (!s)
        return;
    s->v.epoch++;
    cl_view_take(c, s);
}

void cl_static_tick(struct cluster *c)
{
    uint32_t every = c->cfg.times.beat;
    const struct view *v;

    static_find(c);
    if (c->now_ms < c->beat_ms)
        return;
    c->beat_ms = c->now_ms + every - every / 10 + cl_random(c) % (every / 5);
    v = cl_view(c);
    for (uint32_t i = 0; i < v->node_n; i++) {
        struct cl_link *l = cl_link_node(c, (uint16_t)i);

        if (i == c->self)
            continue;
        if (l)
            cl_seek_beat(c, l);
        else
            cl_link_dial(c, v->nodes[i].peer);
    }
}

void cl_static_fini(struct cluster *c)
{
    free(c->peers);
    free(c->members);
}
