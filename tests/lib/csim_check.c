/* SPDX-License-Identifier: Apache-2.0
 *
 * What must hold of a simulated cluster after its faults are over. */
#include <stdio.h>
#include <string.h>

#include "lib/csim.h"

/* Is node n a member in the view, in its present life? */
static bool is_member(const struct csim_node *n, const struct view *v)
{
    char name[16];
    uint16_t i;

    snprintf(name, sizeof(name), "n%u", n->at);
    i = view_find(v, name);
    return i != NODE_NONE && v->nodes[i].uuid == n->uuid &&
           v->nodes[i].incarnation == n->incarnation &&
           node_serves(&v->nodes[i]);
}

void csim_mark(struct csim *s)
{
    struct csim_node *lead = csim_leader(s);

    s->mark = lead && lead->view ? lead->view->v.epoch : 0;
}

const char *csim_unsettled(struct csim *s)
{
    struct csim_node *lead = csim_leader(s);
    const struct shared_view *v = lead ? lead->view : NULL;

    if (!lead)
        return "nobody leads";
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        if (!v || v->v.slots[i].owner[0] == NODE_NONE)
            return "not all is placed";
    for (uint32_t i = 0; i < s->node_n; i++) {
        const struct csim_node *n = &s->nodes[i];

        if (n->gone)
            continue;
        if (!n->up)
            return "a node is not up";
        if (!n->view || n->view->v.epoch < s->mark ||
            n->view->v.generation != v->v.generation)
            return "a node has an old view";
        if (!is_member(n, &v->v))
            return "a node is not a member";
    }
    return NULL;
}

static bool has_tenant(const struct state *st, uint64_t id)
{
    for (uint32_t i = 0; i < st->tenant_n; i++)
        if (st->tenants[i].id == id)
            return true;
    return false;
}

static const char *voters_wrong(struct csim *s)
{
    uint64_t digest = 0, applied = 0;

    for (uint32_t i = 0; i < s->cfg.voters; i++) {
        const struct state *st =
            s->nodes[i].up ? cluster_state(s->nodes[i].c) : NULL;

        if (!st)
            continue;
        if (applied && st->applied == applied && state_digest(st) != digest)
            return "two voters' states differ at one index";
        applied = st->applied;
        digest = state_digest(st);
    }
    return NULL;
}

const char *csim_wrong(struct csim *s)
{
    struct csim_node *lead = csim_leader(s);
    const struct state *st = lead ? cluster_state(lead->c) : NULL;

    if (s->broken)
        return s->broken;
    if (!st)
        return "nobody leads";
    for (uint32_t i = 0; i < s->tenant_n; i++)
        if (!has_tenant(st, s->tenants[i]))
            return "an acknowledged command is lost";
    for (uint32_t i = 0; i < CSIM_SPACES; i++) {
        char name[16];

        snprintf(name, sizeof(name), "space%u", i);
        if (view_flushes(&st->view, name) < s->flushed[i])
            return "an acknowledged flush is lost";
    }
    if (view_wrong(&st->view))
        return view_wrong(&st->view);
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        if (view_serving(&st->view, i) == NODE_NONE)
            return "nobody serves a slot";
    if (s->pool.differed)
        return "a pushed view differs from the voters'";
    return voters_wrong(s);
}
