/* SPDX-License-Identifier: Apache-2.0
 *
 * The node core's frame: opening, one event per step, the tick, status. What
 * happens with an event is in the files that cluster_impl.h lists.
 *
 *     event --> links, messages, asks --> coord, state --> roles, view
 *                                                            |
 *     actions <---------------------------------------------+
 *
 * Every step ends by taking over what coord has applied: a change is published
 * in the step in which it came about, unless there was one less than 20 ms ago;
 * then with the next tick. PUBLISH comes before all other
 * actions of a step: who is told of an epoch finds it there.
 *
 * A message that does not unpack, or that this node has no use for, changes
 * nothing. One that is malformed ends its link: TCP does not garble, so the
 * peer is broken or is none of ours. */
#include "cluster/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/fault.h"
#include "base/hash.h"
#include "cluster/cluster_impl.h"

uint64_t cl_random(struct cluster *c)
{
    struct env e = {.rng = {c->rng[0], c->rng[1]}};
    uint64_t r = env_random(&e);

    c->rng[0] = e.rng[0];
    c->rng[1] = e.rng[1];
    return r;
}

/* ---- Opening ---- */

static uint32_t or_else(uint32_t value, uint32_t otherwise)
{
    return value ? value : otherwise;
}

static void open_defaults(struct cluster *c)
{
    struct cluster_cfg *g = &c->cfg;
    struct cluster_times *t = &g->times;

    t->beat = or_else(t->beat, 500);
    t->suspect = or_else(t->suspect, 1500);
    t->down = or_else(t->down, 3000);
    t->removed = or_else(t->removed, 600000);
    g->fanout = or_else(g->fanout, 16);
    if (g->fanout > FANOUT_DEGREE_MAX)
        g->fanout = FANOUT_DEGREE_MAX;
    g->move_slots = or_else(g->move_slots, 1024);
    g->propose_ms = or_else(g->propose_ms, 5000);
    for (uint32_t i = 0; i < g->voter_n; i++)
        g->voters[i].id =
            hash_64(0, g->voters[i].name, strlen(g->voters[i].name));
    c->cluster = hash_64(0, g->id, strlen(g->id));
    c->raft_id = hash_64(0, g->self.name, strlen(g->self.name));
    c->voters_hash = cl_voters_hash(g);
    c->rng[0] = g->seed ^ c->raft_id ^ UINT64_C(0x9e3779b97f4a7c15);
    c->rng[1] = hash_64(g->seed, &c->rng[0], sizeof(c->rng[0])) | 1;
    for (uint32_t i = 0; i < 8; i++)
        cl_random(c);
    if (!c->is_static)
        c->beat_ms = cl_random(c) % 50;
}

static enum err open_memory(struct cluster *c, const struct cluster_cfg *cfg,
                            struct errmsg *m)
{
    uint32_t n = c->is_static ? cfg->member_n : 0;

    if (n && !fault_here("cluster_open")) {
        c->members = calloc(n, sizeof(*c->members));
        c->peers = calloc(n, sizeof(*c->peers));
    }
    if (n && (!c->members || !c->peers))
        return errmsg_set(m, ERR_NO_MEMORY, "cluster: out of memory");
    if (n)
        memcpy(c->members, cfg->members, n * sizeof(*c->members));
    return OK;
}

/* The pool's view of an epoch, or a copy of v, or an empty one. */
static struct shared_view *open_view(struct cluster *c, const struct view *v)
{
    bool compare;
    struct shared_view *s = view_pool_take(c->cfg.pool, v ? v->generation : 1,
                                           v ? v->epoch : 0, &compare);

    if (s)
        return s;
    s = shared_view_new(v);
    if (!s)
        return NULL;
    if (!v) {
        s->v.cluster = c->cluster;
        s->v.generation = 1;
    }
    if (!c->is_static)
        view_pool_add(c->cfg.pool, s);
    return s;
}

/* The view of the last life, from disk. */
static enum err open_last(struct cluster *c, const struct view *last,
                          struct errmsg *m)
{
    bool have = last && last->epoch;

    if (have && last->cluster != c->cluster)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.id: this node's state_dir belongs to "
                          "another cluster than %s; use the old id, or an "
                          "empty state_dir", c->cfg.id);
    c->view = open_view(c, have ? last : NULL);
    if (!c->view)
        return errmsg_set(m, ERR_NO_MEMORY, "cluster: out of memory");
    c->acts.publish = have;
    if (have)
        cl_seek_view(c);
    return OK;
}

static void open_undo(struct cluster *c)
{
    c->closing = true;
    cl_voter_close(c);
}

enum err cluster_open(const struct cluster_cfg *cfg, uint64_t now_ms,
                      struct cluster **out, struct errmsg *m)
{
    enum err e = cl_check_cfg(cfg, m);
    struct cluster *c;

    if (e != OK)
        return e;
    c = fault_here("cluster_open") ? NULL : calloc(1, sizeof(*c));
    if (!c)
        return errmsg_set(m, ERR_NO_MEMORY, "cluster: out of memory");
    c->cfg = *cfg;
    c->cfg.last = NULL;
    c->now_ms = now_ms;
    c->self = NODE_NONE;
    c->is_static = strcmp(cfg->provider, "static") == 0;
    list_init(&c->asks);
    list_init(&c->proposals);
    open_defaults(c);
    c->beat_ms += now_ms;
    c->leader_known_ms = now_ms; /* silence is counted from here */
    e = open_memory(c, cfg, m);
    if (e == OK)
        e = c->is_static ? cl_static_open(c, m) : open_last(c, cfg->last, m);
    if (e == OK && !c->is_static && cfg->voter)
        e = cl_voter_open(c, m);
    if (e != OK) {
        open_undo(c);
        return e;
    }
    cl_voter_tick(c);
    *out = c;
    return OK;
}

void cluster_close(struct cluster *c, void (*closed)(void *arg), void *arg)
{
    c->closing = true;
    c->closed = closed;
    c->closed_arg = arg;
    cl_leader_end(c);
    cl_voter_close(c);
}

/* ---- Events ---- */

/* What a message says of its sender's generation. */
static void saw_generation(struct cluster *c, struct cl_link *l,
                           uint32_t generation)
{
    if (generation > l->generation)
        l->generation = generation;
    if (generation > cl_view(c)->generation)
        cl_voter_fence(c, generation);
}

static void on_beat(struct cluster *c, struct cl_link *l, const Peer__Beat *b)
{
    if (c->is_static) {
        cl_static_beat(c, l);
        return;
    }
    saw_generation(c, l, b->generation);
    if (cl_leads(c))
        cl_leader_beat(c, l, b);
    else
        cl_seek_answer_beat(c, l, b);
}

static void on_message(struct cluster *c, struct cl_link *l, uint16_t msg,
                       void *m)
{
    switch ((enum peer_kind)msg) {
    case PEER_BEAT:
        on_beat(c, l, m);
        break;
    case PEER_BEAT_REPLY:
        if (c->is_static)
            break;
        saw_generation(c, l, ((Peer__BeatReply *)m)->generation);
        cl_seek_reply(c, l, m);
        break;
    case PEER_VIEW_PULL:
        if (!c->is_static)
            cl_view_pull(c, l, m);
        break;
    case PEER_VIEW_PUSH:
        if (!c->is_static)
            cl_view_push(c, l, m);
        break;
    case PEER_PROPOSE:
        cl_ask_propose(c, l, m);
        break;
    case PEER_PROPOSED:
        cl_ask_proposed(c, m);
        break;
    case PEER_HELLO:
    case PEER_BYE:
    case PEER_RAFT:
    case PEER_KINDS:
        break;
    }
}

static void step_message(struct cluster *c, const struct cluster_event *ev)
{
    struct cl_link *l = cl_link_get(c, ev->link);
    void *m;

    if (!l)
        return;
    l->heard_ms = c->now_ms;
    if (ev->msg == PEER_RAFT) { /* coord unpacks its own */
        cl_voter_receive(c, l, ev->p, ev->n);
        return;
    }
    m = peer_msg_unpack(ev->msg, ev->p, ev->n);
    if (!m) {
        cl_act_hang_up(c, ev->link, "malformed message");
        return;
    }
    on_message(c, l, ev->msg, m);
    peer_msg_free(m);
}

static void step_tick(struct cluster *c)
{
    if (c->is_static) {
        cl_static_tick(c);
        return;
    }
    if (c->coord)
        coord_tick(c->coord, c->now_ms);
    cl_voter_tick(c);
    cl_seek_tick(c);
    cl_ask_tick(c);
    if (c->lead)
        cl_leader_tick(c);
}

static void step_load(struct cluster *c, const struct cluster_load *l)
{
    c->load = *l;
    c->load.experts = NULL;
    c->load.expert_n = 0;
    if (c->load.hot_n > countof(c->load.hot))
        c->load.hot_n = countof(c->load.hot);
    c->load_known = true;
    cl_experts_count(c, l);
}

static void step_unreachable(struct cluster *c, uint32_t node)
{
    if (node >= cl_view(c)->node_n || node == c->self ||
        c->unreachable_n == countof(c->unreachable))
        return;
    for (uint32_t i = 0; i < c->unreachable_n; i++)
        if (c->unreachable[i] == node)
            return;
    c->unreachable[c->unreachable_n++] = (uint16_t)node;
    if (c->lead && c->self != NODE_NONE)
        detect_report(&c->lead->detect, c->self, (uint16_t)node, c->now_ms);
}

void cluster_step(struct cluster *c, const struct cluster_event *ev,
                  uint64_t now_ms)
{
    if (now_ms > c->now_ms)
        c->now_ms = now_ms;
    if (c->closing)
        return;
    cl_act_begin(c);
    switch (ev->kind) {
    case CLUSTER_TICK:
        step_tick(c);
        break;
    case CLUSTER_LINK_UP:
        cl_link_up(c, ev);
        break;
    case CLUSTER_LINK_DOWN:
        cl_link_down(c, ev);
        break;
    case CLUSTER_MESSAGE:
        step_message(c, ev);
        break;
    case CLUSTER_LOAD:
        step_load(c, ev->load);
        break;
    case CLUSTER_MOVED:
        cl_view_moved(c, ev->slot, ev->epoch);
        break;
    case CLUSTER_PROPOSE:
        cl_ask_client(c, ev->cmd, ev->ticket);
        break;
    case CLUSTER_UNREACHABLE:
        step_unreachable(c, ev->slot);
        break;
    }
    cl_voter_tick(c);
}

/* ---- What is known ---- */

const struct view *cluster_view(const struct cluster *c)
{
    return cl_view(c);
}

const struct state *cluster_state(const struct cluster *c)
{
    return c->fenced ? NULL : c->state;
}

uint32_t cluster_log_generation(const struct cluster *c)
{
    return c->coord ? c->log_generation : 0;
}

bool cluster_leads(const struct cluster *c, uint64_t *term_out)
{
    *term_out = c->lead ? c->lead->term : 0;
    return c->lead != NULL;
}

void cluster_status(const struct cluster *c, struct cluster_status *out)
{
    uint64_t heard;
    *out = (struct cluster_status){
        .phase = c->phase,
        .self = c->self,
        .voter = c->coord != NULL,
        .leads = cl_leads(c),
        .suspects = c->lead ? c->lead->detect.suspects : 0,
        .moves = cl_moves_under_way(cl_view(c)),
    };
    snprintf(out->leader, sizeof(out->leader), "%s", c->leader);
    heard = max_u64(c->leader_heard_ms, c->leader_known_ms);
    if (!c->is_static && c->now_ms - heard >= c->cfg.times.suspect)
        out->cut_ms = c->now_ms - heard;
    if (c->coord)
        coord_status(c->coord, &out->coord);
}
