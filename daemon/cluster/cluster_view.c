/* SPDX-License-Identifier: Apache-2.0
 *
 * The view that this node works with, and how it gets about.
 *
 *     leader: state --publish--> push (delta to the last one pushed)
 *                 \-- to its children of the tree, who hand it on (fanout.h)
 *     a push that does not fit (another base): VIEW_PULL from its sender
 *     a BeatReply with a newer epoch, and no push in 150 ms: VIEW_PULL from who
 *     said so
 *     VIEW_PULL: a delta if the base is among the last few, else all of it
 *
 * Invariants
 *  1. What is taken is newer: a larger generation, or the same one and a larger
 *     epoch. Everything else is dropped without an answer.
 *  2. A view of another cluster is never taken, whoever sends it.
 *  3. What was published is immutable; the count of references frees it.
 *
 * Slots that come to this node are told to the leader in beats until the view
 * shows that it knows (struct cl_moved). */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/cluster_impl.h"

static bool view_newer(const struct cluster *c, uint32_t generation,
                       uint64_t epoch)
{
    const struct view *v = cl_view(c);

    return generation > v->generation ||
           (generation == v->generation && epoch > v->epoch);
}

/* ---- Slots that come here ---- */

/* 0: it does not come here, 1: to be taken over, 2: taken over. */
static uint32_t moved_stage(const struct cluster *c, uint32_t slot)
{
    const struct slot *s = &cl_view(c)->slots[slot];

    if (c->self == NODE_NONE)
        return 0;
    if (s->to == c->self)
        return 1;
    return s->owner[0] == c->self && s->from != NODE_NONE ? 2 : 0;
}

/* The view changed: stages that are over are forgotten, and after a hand-over
 * the puller must say it again. */
static void moved_review(struct cluster *c)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < c->moved_n; i++) {
        struct cl_moved m = c->moved[i];
        uint32_t stage = moved_stage(c, m.slot);

        if (stage == 0)
            continue;
        if (m.rest != (stage == 2))
            m = (struct cl_moved){m.slot, stage == 2, false,
                                  cl_view(c)->epoch};
        c->moved[kept++] = m;
    }
    c->moved_n = kept;
}

void cl_view_moved(struct cluster *c, uint32_t slot, uint64_t epoch)
{
    uint32_t stage = slot < WIRE_SLOTS ? moved_stage(c, slot) : 0;
    uint32_t cap = c->moved_cap ? 2 * c->moved_cap : 64;
    struct cl_moved *p = NULL;

    if (!stage)
        return;
    for (uint32_t i = 0; i < c->moved_n; i++) {
        struct cl_moved *m = &c->moved[i];

        if (m->slot != slot)
            continue;
        m->told = m->told || !epoch || epoch >= m->since;
        return;
    }
    if (c->moved_n == c->moved_cap) {
        if (!fault_here("cl_moved"))
            p = realloc(c->moved, cap * sizeof(*p));
        if (!p)
            return;
        c->moved = p;
        c->moved_cap = cap;
    }
    c->moved[c->moved_n++] = (struct cl_moved){(uint16_t)slot, stage == 2, true,
                                               cl_view(c)->epoch};
}

/* ---- Taking ---- */

bool cl_view_take(struct cluster *c, struct shared_view *s)
{
    struct shared_view *old = c->view;

    if (s->v.cluster != c->cluster ||
        !view_newer(c, s->v.generation, s->v.epoch)) {
        shared_view_unref(s);
        return false;
    }
    if (!c->is_static)
        view_pool_add(c->cfg.pool, s);
    c->view = s;
    c->newer_ms = 0;
    c->acts.publish = true;
    if (c->state)
        cl_since_note(c, &old->v, &s->v);
    if (c->cfg.wake)
        c->cfg.wake(c->cfg.wake_arg);
    if (!c->is_static)
        cl_seek_view(c);
    cl_link_names(c, &old->v);
    moved_review(c);
    shared_view_unref(old);
    return true;
}

/* Does what was pushed make the same as what the pool has? Counted for the
 * pool's user. */
static void view_compare(struct cluster *c, struct shared_view *has,
                         struct shared_view *made)
{
    if (!made)
        return;
    c->cfg.pool->compared++;
    c->cfg.pool->differed += view_digest(&has->v) != view_digest(&made->v);
    shared_view_unref(made);
}

void cl_view_from_state(struct cluster *c)
{
    const struct view *v = &c->state->view;
    struct shared_view *s;
    bool compare;

    if (c->now_ms < c->publish_ms)
        return; /* with the next tick */
    c->state_new = false;
    if (!view_newer(c, v->generation, v->epoch))
        return;
    c->publish_ms = c->now_ms + CL_PUBLISH_MS;
    s = view_pool_take(c->cfg.pool, v->generation, v->epoch, &compare);
    if (s && compare)
        view_compare(c, s, shared_view_new(v));
    if (!s)
        s = shared_view_new(v);
    if (s)
        cl_view_take(c, s);
    else
        c->state_new = true; /* no memory: with the next tick */
}

/* ---- Pushing on ---- */

static void push_pack(struct bytes *out, const struct view *to,
                      const struct view *base, const struct bytes *view,
                      uint32_t depth)
{
    Peer__ViewPush m = PEER__VIEW_PUSH__INIT;

    m.generation = to->generation;
    m.epoch = to->epoch;
    m.base_epoch = base ? base->epoch : 0;
    m.view.data = view->p;
    m.view.len = view->len;
    m.depth = depth;
    out->len = 0;
    out->bad = view->bad;
    if (!out->bad && peer_msg_pack(PEER_VIEW_PUSH, &m, out) != OK)
        out->bad = true;
}

/* To everybody below this node in the tree; who has no link is dialed, and
 * gets it when the link is up. */
static void push_on(struct cluster *c, bool root)
{
    uint16_t child[NODES_MAX];
    const struct view *v = cl_view(c);
    uint32_t n = fanout_children(v, c->self, root, c->cfg.fanout, child);

    c->push_epoch = v->epoch;
    c->push_ms = c->now_ms;
    for (uint32_t i = 0; i < n && !c->push.bad; i++) {
        struct cl_link *l = cl_link_node(c, child[i]);

        if (l)
            cl_act_send(c, l->id, PEER_VIEW_PUSH, c->push.p, c->push.len);
        else
            cl_link_dial(c, v->nodes[child[i]].peer);
    }
}

/* A link that is up now may be to one that is owed the last push. */
void cl_view_link_up(struct cluster *c, struct cl_link *l)
{
    uint16_t child[NODES_MAX];
    uint32_t n;

    if (l->node == NODE_NONE || !c->push.len || c->push.bad || c->is_static ||
        c->push_epoch != cl_view(c)->epoch ||
        c->now_ms - c->push_ms > CL_PUSH_FRESH_MS)
        return;
    n = fanout_children(cl_view(c), c->self, cl_leads(c), c->cfg.fanout, child);
    for (uint32_t i = 0; i < n; i++)
        if (child[i] == l->node)
            cl_act_send(c, l->id, PEER_VIEW_PUSH, c->push.p, c->push.len);
}

void cl_view_spread(struct cluster *c)
{
    struct cl_lead *lead = c->lead;
    const struct view *v = cl_view(c), *base = &lead->spread->v;
    struct bytes b = {0};

    if (lead->spread == c->view || c->now_ms < lead->spread_ms)
        return;
    lead->spread_ms = c->now_ms + CL_SPREAD_MS;
    if (base->generation != v->generation || base->epoch == 0)
        base = NULL;
    if (base)
        view_delta(base, v, &b);
    else
        view_encode(v, &b);
    push_pack(&c->push, v, base, &b, 1);
    bytes_fini(&b);
    shared_view_unref(lead->spread);
    lead->spread = shared_view_ref(c->view);
    push_on(c, true);
}

/* ---- Messages ---- */

void cl_view_ask(struct cluster *c, struct cl_link *l)
{
    Peer__ViewPull m = PEER__VIEW_PULL__INIT;

    if (l->pulled_ms && c->now_ms - l->pulled_ms < CL_PULL_AGAIN_MS)
        return;
    l->pulled_ms = c->now_ms;
    m.have_epoch = cl_view(c)->epoch;
    m.generation = cl_view(c)->generation;
    cl_act_pack(c, l->id, PEER_VIEW_PULL, &m);
}

void cl_view_pull(struct cluster *c, struct cl_link *l,
                  const Peer__ViewPull *m)
{
    const struct view *v = cl_view(c);
    const struct cl_answered *a;
    struct bytes out = {0};
    struct view to = {0}, base = {0};

    if (m->generation > v->generation ||
        (m->generation == v->generation && m->have_epoch >= v->epoch))
        return;
    a = cl_since(c, m->generation, m->have_epoch);
    to.generation = a->generation;
    to.epoch = a->epoch;
    base.epoch = a->base;
    push_pack(&out, &to, a->base ? &base : NULL, &a->bytes, 0);
    if (!out.bad)
        cl_act_send(c, l->id, PEER_VIEW_PUSH, out.p, out.len);
    bytes_fini(&out);
}

/* The view that a push makes, or NULL. */
static struct shared_view *push_view(struct cluster *c,
                                     const Peer__ViewPush *m)
{
    const struct view *base = m->base_epoch ? cl_view(c) : NULL;
    struct shared_view *s = shared_view_new(base);
    enum err e;

    if (!s)
        return NULL;
    e = base ? view_apply_delta(&s->v, m->view.data, m->view.len)
             : view_decode(&s->v, m->view.data, m->view.len);
    if (e == OK && s->v.epoch == m->epoch && s->v.generation == m->generation)
        return s;
    shared_view_unref(s);
    return NULL;
}

static struct shared_view *push_made(struct cluster *c, const Peer__ViewPush *m)
{
    bool compare;
    struct shared_view *s =
        view_pool_take(c->cfg.pool, m->generation, m->epoch, &compare);

    if (s && compare)
        view_compare(c, s, push_view(c, m));
    return s ? s : push_view(c, m);
}

void cl_view_push(struct cluster *c, struct cl_link *l,
                  const Peer__ViewPush *m)
{
    const struct view *v = cl_view(c);
    struct bytes view = {m->view.data, m->view.len, 0, false};
    struct view base = {.epoch = m->base_epoch};
    struct shared_view *s;

    if (!view_newer(c, m->generation, m->epoch))
        return;
    if (m->base_epoch &&
        (m->base_epoch != v->epoch || m->generation != v->generation)) {
        cl_view_ask(c, l);
        return;
    }
    s = push_made(c, m);
    if (!s || !cl_view_take(c, s))
        return;
    if (m->generation > l->generation)
        l->generation = m->generation;
    if (!m->depth || m->depth > NODES_MAX)
        return;
    push_pack(&c->push, cl_view(c), m->base_epoch ? &base : NULL, &view,
              m->depth + 1);
    push_on(c, false);
}

void cl_view_fini(struct cluster *c)
{
    cl_since_fini(c);
    shared_view_unref(c->view);
    bytes_fini(&c->push);
    free(c->moved);
}
