/* SPDX-License-Identifier: Apache-2.0
 *
 * Who leads, and being a member.
 *
 *     nobody known --beat to the next voter--> "it is X, at ..." --dial,
 *     beat--> X answers that it leads: SETTLED --no answer for `suspect`-->
 *     nobody known
 *
 * While settled a beat goes to the leader every `beat` ms. Otherwise, every 200
 * ms, one goes to whoever is said to lead and one to the next voter: a leader
 * that hangs, or that others still believe in, keeps nobody from finding the
 * new one. A voter also believes its own coord.
 *
 * Joining: the leader answers, and the view does not have this node with its
 * incarnation: CMD_JOIN, until it does. A refusal (another machine has the
 * name, the disk was rolled back) is said once, and asked again in 30 s.
 *
 * REMOVED while in touch: the operator did it, EXPELLED until a restart. After
 * having been cut off for long: it was the 10 minutes, join again. */
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "cluster/cluster_impl.h"

static uint32_t times_seek(const struct cluster *c)
{
    return (uint32_t)min_u64(CL_SEEK_MS, c->cfg.times.beat);
}

static bool seek_settled(const struct cluster *c)
{
    return c->leader[0] && c->leader_heard_ms &&
           c->now_ms - c->leader_heard_ms < c->cfg.times.suspect;
}

static bool is_self(const struct cluster *c, const char *name)
{
    return strcmp(name, c->cfg.self.name) == 0;
}

struct cl_link *cl_seek_leader(struct cluster *c)
{
    return c->leader[0] ? cl_link_named(c, c->leader) : NULL;
}

/* ---- Whom to believe ---- */

static void seek_set(struct cluster *c, const char *name, const char *at,
                     uint64_t term)
{
    if (strcmp(c->leader, name) != 0) {
        snprintf(c->leader, sizeof(c->leader), "%s", name);
        c->leader_heard_ms = 0;
    }
    snprintf(c->leader_at, sizeof(c->leader_at), "%s", at);
    c->leader_known_ms = c->now_ms;
    if (term > c->leader_term)
        c->leader_term = term;
}

/* The leader itself was heard. */
static void seek_heard(struct cluster *c)
{
    bool was = seek_settled(c);

    c->leader_heard_ms = c->now_ms;
    if (!was)
        cl_ask_again(c);
}

static const struct coord_voter *seek_voter(const struct cluster *c,
                                            uint64_t id)
{
    for (uint32_t i = 0; i < c->cfg.voter_n; i++)
        if (c->cfg.voters[i].id == id)
            return &c->cfg.voters[i];
    return NULL;
}

/* A voter's coord knows first. */
static void seek_by_coord(struct cluster *c)
{
    struct coord_status *s;
    const struct coord_voter *v;
    uint64_t id;

    if (cl_leads(c)) {
        seek_set(c, c->cfg.self.name, c->cfg.self.peer, c->lead->term);
        seek_heard(c);
        return;
    }
    id = c->coord ? coord_leader(c->coord) : 0;
    if (!id || id == c->raft_id) {
        if (is_self(c, c->leader))
            c->leader[0] = '\0';
        return;
    }
    v = seek_voter(c, id);
    if (!v) { /* added since it was configured: rare, and large */
        s = &c->status;
        coord_status(c->coord, s);
        for (uint32_t i = 0; i < s->voter_n && !v; i++)
            v = s->voters[i].id == id ? &s->voters[i] : NULL;
    }
    if (!v || strcmp(v->name, c->leader) == 0)
        return;
    seek_set(c, v->name, v->peer, 0);
    c->beat_ms = 0;
}

/* ---- Beats ---- */

static void load_pack(struct cluster *c, Peer__Load *m, Peer__SlotLoad *slots,
                      Peer__SlotLoad **at)
{
    const struct cluster_load *l = &c->load;

    m->ops = l->ops;
    m->bytes = l->bytes;
    m->misses = l->misses;
    m->used_mib = l->used_mib;
    m->free_mib = l->free_mib;
    m->get_p95_us = l->get_p95_us;
    for (uint32_t i = 0; i < l->hot_n; i++) {
        peer__slot_load__init(&slots[i]);
        slots[i].slot = l->hot[i].slot;
        slots[i].ops = l->hot[i].ops;
        slots[i].bytes = l->hot[i].bytes;
        at[i] = &slots[i];
    }
    m->n_slots = l->hot_n;
    m->slots = at;
}

static uint32_t moved_pack(const struct cluster *c, uint32_t *out)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->moved_n && n < PEER_MOVED_MAX; i++)
        if (c->moved[i].told)
            out[n++] = c->moved[i].slot;
    return n;
}

void cl_seek_beat(struct cluster *c, struct cl_link *l)
{
    Peer__Beat m = PEER__BEAT__INIT;
    Peer__Load load = PEER__LOAD__INIT;
    Peer__SlotLoad slots[countof(c->load.hot)], *at[countof(c->load.hot)];
    uint32_t moved[PEER_MOVED_MAX], unreachable[countof(c->unreachable)];

    m.seq = ++c->seq;
    m.incarnation = c->cfg.self.incarnation;
    m.epoch = cl_view(c)->epoch;
    m.generation = cl_view(c)->generation;
    m.now_us = c->now_ms * 1000;
    if (c->load_known) {
        load_pack(c, &load, slots, at);
        m.load = &load;
    }
    cl_experts_pack(c, &load);
    m.moved_in = moved;
    m.n_moved_in = moved_pack(c, moved);
    for (uint32_t i = 0; i < c->unreachable_n; i++)
        unreachable[i] = c->unreachable[i];
    m.unreachable = unreachable;
    m.n_unreachable = c->unreachable_n;
    cl_act_pack(c, l->id, PEER_BEAT, &m);
    cl_experts_sent(c, &load, strcmp(l->name, c->leader) == 0);
}

/* A beat to that address's node, or a dial. */
static void seek_reach(struct cluster *c, const char *name, const char *at)
{
    struct cl_link *l = cl_link_named(c, name);

    if (is_self(c, name))
        return;
    if (l)
        cl_seek_beat(c, l);
    else
        cl_link_dial(c, at);
}

static void seek_next_voter(struct cluster *c)
{
    for (uint32_t i = 0; i < c->cfg.voter_n; i++) {
        const struct coord_voter *v =
            &c->cfg.voters[c->voter_next++ % c->cfg.voter_n];

        if (is_self(c, v->name) || strcmp(v->name, c->leader) == 0)
            continue;
        seek_reach(c, v->name, v->peer);
        return;
    }
}

/* A link whose peer says nothing is of no use: a new one may be. */
static void seek_silent_link(struct cluster *c)
{
    struct cl_link *l = cl_seek_leader(c);

    if (l && c->leader_heard_ms < c->now_ms &&
        c->now_ms - l->heard_ms >= c->cfg.times.suspect) {
        uint64_t id = l->id;

        cl_act_hang_up(c, id, "no answer to beats");
        cl_link_drop(c, id);
    }
}

static void seek_beats(struct cluster *c)
{
    uint32_t every;

    if (c->now_ms < c->beat_ms || cl_leads(c))
        return;
    every = seek_settled(c) ? c->cfg.times.beat : times_seek(c);
    c->beat_ms = c->now_ms + every - every / 10 + cl_random(c) % (every / 5);
    if (!seek_settled(c))
        seek_silent_link(c);
    if (c->leader[0])
        seek_reach(c, c->leader, c->leader_at);
    if (!seek_settled(c)) {
        if (c->now_ms - max_u64(c->leader_known_ms, c->leader_heard_ms) >=
            c->cfg.times.suspect)
            c->leader[0] = '\0';
        seek_next_voter(c);
    } else {
        c->unreachable_n = 0;
    }
}

void cl_seek_answer_beat(struct cluster *c, struct cl_link *l,
                         const Peer__Beat *b)
{
    Peer__BeatReply m = PEER__BEAT_REPLY__INIT;

    m.seq = b->seq;
    m.echo_us = b->now_us;
    m.epoch = cl_view(c)->epoch;
    m.generation = cl_view(c)->generation;
    m.term = c->lead ? c->lead->term : c->leader_term;
    if (cl_leads(c) || !is_self(c, c->leader)) {
        m.leader = c->leader;
        m.leader_at = c->leader_at;
    }
    m.index = l->node;
    cl_act_pack(c, l->id, PEER_BEAT_REPLY, &m);
}

/* Somebody has a newer view: it is probably on its way down the tree. */
static void seek_newer(struct cluster *c, struct cl_link *l)
{
    if (c->newer_ms)
        return;
    c->newer_ms = c->now_ms;
    c->newer_link = l->id;
}

static void seek_pull(struct cluster *c)
{
    struct cl_link *l;

    if (!c->newer_ms || c->now_ms - c->newer_ms < CL_PULL_LATE_MS)
        return;
    c->newer_ms = 0;
    l = cl_link_get(c, c->newer_link);
    if (l)
        cl_view_ask(c, l);
}

void cl_seek_reply(struct cluster *c, struct cl_link *l,
                   const Peer__BeatReply *m)
{
    const struct view *v = cl_view(c);

    if (m->generation > v->generation ||
        (m->generation == v->generation && m->epoch > v->epoch))
        seek_newer(c, l);
    if (!m->leader[0] || m->generation < v->generation || cl_leads(c))
        return;
    if (strcmp(m->leader, l->name) == 0) {
        if (m->term < c->leader_term && seek_settled(c))
            return;
        seek_set(c, m->leader, m->leader_at, m->term);
        seek_heard(c);
        return;
    }
    if (seek_settled(c) || is_self(c, m->leader) ||
        strcmp(m->leader, c->leader) == 0)
        return;
    seek_set(c, m->leader, m->leader_at, 0);
    seek_reach(c, c->leader, c->leader_at);
}

void cl_seek_link_up(struct cluster *c, struct cl_link *l)
{
    if (c->is_static || cl_leads(c))
        return;
    if (!seek_settled(c) || strcmp(l->name, c->leader) == 0)
        cl_seek_beat(c, l);
}

void cl_seek_link_down(struct cluster *c, const char *name)
{
    if (!c->leader[0] || strcmp(name, c->leader) != 0)
        return;
    c->leader[0] = '\0';
    c->beat_ms = 0;
}

/* ---- Membership ---- */

static bool long_cut(const struct cluster *c)
{
    return c->now_ms - c->leader_heard_ms >= c->cfg.times.removed / 2 ||
           c->phase == CLUSTER_CUT;
}

void cl_seek_view(struct cluster *c)
{
    const struct view *v = cl_view(c);
    const struct node *me = &c->cfg.self;
    uint16_t i = c->self;

    if (i >= v->node_n || v->nodes[i].uuid != me->uuid ||
        v->nodes[i].state == NODE_REMOVED)
        i = view_find(v, me->name);
    if (i != NODE_NONE && v->nodes[i].uuid == me->uuid) {
        c->self = i;
        c->joined = v->nodes[i].incarnation == me->incarnation;
        return;
    }
    if (c->self != NODE_NONE && c->joined && !long_cut(c) && !c->expelled) {
        c->expelled = true;
        cl_act_say(c, LOG_ERROR, "this node was removed from the cluster by "
                                 "the operator; it serves what it has and "
                                 "takes nothing new until it is restarted");
    }
    c->self = NODE_NONE;
    c->joined = false;
}

void cl_seek_refused(struct cluster *c, const struct answer *a)
{
    c->refused_ms = c->now_ms;
    if (strcmp(c->refused, a->msg.text) == 0)
        return;
    snprintf(c->refused, sizeof(c->refused), "%s", a->msg.text);
    cl_act_say(c, LOG_ERROR, "the cluster refuses this node: %s", a->msg.text);
}

static void seek_join(struct cluster *c)
{
    if (c->joined || c->expelled || !seek_settled(c) ||
        cl_ask_joining(c))
        return;
    if (c->refused_ms && c->now_ms - c->refused_ms < CL_REFUSED_MS)
        return;
    cl_ask_join(c);
}

static enum cluster_phase seek_phase(const struct cluster *c)
{
    if (c->expelled)
        return CLUSTER_EXPELLED;
    if (c->joined)
        return c->now_ms - c->leader_heard_ms < c->cfg.times.down
                   ? CLUSTER_MEMBER
                   : CLUSTER_CUT;
    return seek_settled(c) ? CLUSTER_JOINING : CLUSTER_SEEKING;
}

static void seek_phases(struct cluster *c)
{
    enum cluster_phase was = c->phase, now = seek_phase(c);

    if (now == was)
        return;
    c->phase = now;
    switch (now) {
    case CLUSTER_MEMBER:
        cl_act_say(c, LOG_NOTICE, "member %u of the cluster, led by %s",
                   c->self, c->leader);
        break;
    case CLUSTER_CUT:
        cl_act_say(c, LOG_WARN, "no leader answers for %u ms: this node goes "
                                "on serving with the view of epoch %llu",
                   c->cfg.times.down,
                   (unsigned long long)cl_view(c)->epoch);
        break;
    case CLUSTER_JOINING:
        cl_act_say(c, LOG_INFO, "%s leads; joining", c->leader);
        break;
    case CLUSTER_SEEKING:
    case CLUSTER_EXPELLED:
        break;
    }
}

void cl_seek_tick(struct cluster *c)
{
    seek_by_coord(c);
    seek_pull(c);
    seek_beats(c);
    seek_join(c);
    seek_phases(c);
}
