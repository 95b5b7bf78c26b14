/* SPDX-License-Identifier: Apache-2.0
 *
 * What changed since an epoch: deltas for who was away for a while. Voters
 * keep, beside the state's epoch of each slot, the epoch of each node's and
 * each flush's last change. So a node that comes back after an hour is sent
 * what it missed, not a megabyte.
 *
 *     base := the present view, but different in all that changed since E
 *     view_delta(base, present) = all that changed since E
 *
 * The epochs kept are those of the views in which a change was first seen here,
 * which may be later than the change: then it is sent once too often. Before
 * the first view of this process nothing is known: the whole view is sent.
 *
 * The last answer is kept for a moment: after a restart of everybody all ask
 * the same, while the epoch goes up with every join. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/cluster_impl.h"

void cl_since_note(struct cluster *c, const struct view *old,
                   const struct view *v)
{
    struct cl_since *s = c->since;

    if (!s && !fault_here("cl_since"))
        s = c->since = calloc(1, sizeof(*s));
    if (!s)
        return;
    if (!s->first || old->generation != v->generation) {
        s->first = v->epoch;
        return;
    }
    for (uint32_t i = 0; i < v->node_n; i++) {
        if (i >= old->node_n)
            s->born[i] = v->epoch;
        if (i >= old->node_n ||
            memcmp(&old->nodes[i], &v->nodes[i], sizeof(v->nodes[i])) != 0)
            s->nodes[i] = v->epoch;
    }
    for (uint32_t i = 0; i < v->flush_n; i++) {
        if (i >= old->flush_n)
            s->flush_born[i] = v->epoch;
        if (i >= old->flush_n || old->flushes[i].count != v->flushes[i].count)
            s->flushes[i] = v->epoch;
    }
}

/* Makes b the present view, different in what changed since. */
static void since_base(const struct cluster *c, uint64_t since, struct view *b)
{
    const struct cl_since *s = c->since;

    b->epoch = since;
    while (b->node_n && s->born[b->node_n - 1] > since)
        memset(&b->nodes[--b->node_n], 0, sizeof(b->nodes[0]));
    for (uint32_t i = 0; i < b->node_n; i++)
        if (s->nodes[i] > since)
            b->nodes[i].incarnation ^= 1;
    while (b->flush_n && s->flush_born[b->flush_n - 1] > since)
        b->flush_n--;
    for (uint32_t i = 0; i < b->flush_n; i++)
        if (s->flushes[i] > since)
            b->flushes[i].count ^= 1;
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        if (c->state->slot_epoch[i] > since)
            b->slots[i].heat ^= 1;
}

static void since_make(struct cluster *c, uint64_t since, bool delta,
                       struct bytes *out)
{
    const struct view *v = cl_view(c);
    struct shared_view *base = delta ? shared_view_new(v) : NULL;

    if (base) {
        since_base(c, since, &base->v);
        view_delta(&base->v, v, out);
    } else {
        view_encode(v, out);
    }
    shared_view_unref(base);
}

const struct cl_answered *cl_since(struct cluster *c, uint32_t generation,
                                   uint64_t since)
{
    const struct view *v = cl_view(c);
    struct cl_answered *a = &c->answered;
    bool delta = c->since && c->since->first && since >= c->since->first &&
                 generation == v->generation && c->state &&
                 c->state->view.epoch == v->epoch;
    uint64_t base = delta ? since : 0;

    if (a->generation == v->generation && a->base == base &&
        a->epoch > since &&
        (a->epoch == v->epoch || c->now_ms - a->at_ms < CL_ANSWER_MS))
        return a;
    a->bytes.len = 0;
    a->bytes.bad = false;
    since_make(c, since, delta, &a->bytes);
    a->epoch = v->epoch;
    a->generation = a->bytes.bad ? 0 : v->generation;
    a->base = base;
    a->at_ms = c->now_ms;
    return a;
}

void cl_since_fini(struct cluster *c)
{
    free(c->since);
    bytes_fini(&c->answered.bytes);
}
