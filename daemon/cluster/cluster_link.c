/* SPDX-License-Identifier: Apache-2.0
 *
 * Links of the node core: who is behind each, and dials. The shell numbers them
 * upwards and never reuses a number, so the array is sorted by arrival.
 *
 * Two nodes may have two links (both dialed, or one is half-open and only one
 * end knows): what was heard last is used.
 * A peer that says a larger incarnation on a new link has lost its old ones. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"
#include "cluster/cluster_impl.h"

static uint32_t link_at(const struct cluster *c, uint64_t id)
{
    uint32_t lo = 0, hi = c->link_n;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (c->links[mid].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct cl_link *cl_link_get(struct cluster *c, uint64_t id)
{
    uint32_t i = link_at(c, id);

    return i < c->link_n && c->links[i].id == id ? &c->links[i] : NULL;
}

/* Of two links with a node: the one on which it was heard last; the other may
 * be half-open. */
static struct cl_link *better(struct cl_link *a, struct cl_link *b)
{
    return a && a->heard_ms >= b->heard_ms ? a : b;
}

struct cl_link *cl_link_named(struct cluster *c, const char *name)
{
    struct cl_link *best = NULL;

    for (uint32_t i = c->link_n; i-- > 0;)
        if (strcmp(c->links[i].name, name) == 0)
            best = better(best, &c->links[i]);
    return best;
}

struct cl_link *cl_link_node(struct cluster *c, uint16_t node)
{
    struct cl_link *best = NULL;

    for (uint32_t i = c->link_n; i-- > 0 && node != NODE_NONE;)
        if (c->links[i].node == node)
            best = better(best, &c->links[i]);
    return best;
}

static uint16_t link_index(const struct cluster *c, const struct cl_link *l)
{
    const struct view *v = cl_view(c);
    uint16_t i = view_find(v, l->name);

    if (i == NODE_NONE || (v->nodes[i].uuid && v->nodes[i].uuid != l->uuid))
        return NODE_NONE;
    return i;
}

static void link_name(struct cluster *c, uint16_t i)
{
    const struct node *n = &cl_view(c)->nodes[i];

    for (uint32_t k = 0; k < c->link_n; k++) {
        struct cl_link *l = &c->links[k];

        if (l->node == NODE_NONE && n->uuid == l->uuid &&
            strcmp(n->name, l->name) == 0)
            l->node = i;
    }
}

void cl_link_names(struct cluster *c, const struct view *old)
{
    const struct view *v = cl_view(c);

    for (uint32_t i = 0; i < c->link_n; i++) {
        struct cl_link *l = &c->links[i];

        if (l->node < v->node_n && v->nodes[l->node].state == NODE_REMOVED)
            l->node = NODE_NONE;
    }
    for (uint32_t i = old->node_n; i < v->node_n; i++)
        link_name(c, (uint16_t)i);
}

static bool link_room(struct cluster *c)
{
    uint32_t cap = c->link_cap ? 2 * c->link_cap : 16;
    struct cl_link *p;

    if (c->link_n < c->link_cap)
        return true;
    p = fault_here("cl_link") ? NULL : realloc(c->links, cap * sizeof(*p));
    if (!p)
        return false;
    c->links = p;
    c->link_cap = cap;
    return true;
}

/* Links of an earlier life of that node are dead, even if TCP does not know
 * yet. */
static void link_ghosts(struct cluster *c, const struct cl_link *l)
{
    for (uint32_t i = 0; i < c->link_n; i++) {
        struct cl_link *old = &c->links[i];

        if (old->id == l->id || strcmp(old->name, l->name) != 0)
            continue;
        old->old = true;
        if (old->incarnation < l->incarnation)
            cl_act_hang_up(c, old->id, "the node was started anew");
    }
}

void cl_link_up(struct cluster *c, const struct cluster_event *ev)
{
    struct cl_link l = {.id = ev->link, .heard_ms = c->now_ms};
    uint32_t generation = cl_view(c)->generation;
    struct node who = {0};
    struct cl_link *at;

    if (ev->p && !cl_hello_of(ev->p, ev->n, &who, &generation))
        return;
    if (!ev->p && ev->hello)
        who = *ev->hello;
    if (!link_room(c)) {
        cl_act_hang_up(c, ev->link, "out of memory");
        return;
    }
    memcpy(l.name, who.name, sizeof(l.name));
    snprintf(l.dialed, sizeof(l.dialed), "%s", ev->peer);
    l.uuid = who.uuid;
    l.incarnation = who.incarnation;
    l.generation = generation;
    l.node = link_index(c, &l);
    MUST(c->link_n == 0 || c->links[c->link_n - 1].id < l.id);
    at = &c->links[c->link_n++];
    *at = l;
    link_ghosts(c, at);
    if (generation > cl_view(c)->generation)
        cl_voter_fence(c, generation);
    cl_seek_link_up(c, at);
    cl_view_link_up(c, at);
}

void cl_link_drop(struct cluster *c, uint64_t id)
{
    uint32_t i = link_at(c, id);
    char name[NODE_NAME_MAX];
    struct cl_link *left;

    if (i == c->link_n || c->links[i].id != id)
        return;
    memcpy(name, c->links[i].name, sizeof(name));
    memmove(&c->links[i], &c->links[i + 1],
            (c->link_n - i - 1) * sizeof(*c->links));
    c->link_n--;
    left = cl_link_named(c, name);
    if (left)
        left->old = false;
    else
        cl_seek_link_down(c, name);
}

void cl_link_down(struct cluster *c, const struct cluster_event *ev)
{
    cl_link_drop(c, ev->link);
}

void cl_link_dial(struct cluster *c, const char *peer)
{
    uint64_t hash = hash_64(1, peer, strlen(peer));
    struct cl_dial *d = &c->dials[hash % CL_DIALS];

    if (!peer[0] || (d->hash == hash && c->now_ms < d->at_ms))
        return;
    d->hash = hash;
    d->at_ms = c->now_ms + CL_DIAL_AGAIN_MS + cl_random(c) % 256;
    cl_act_dial(c, peer);
}
