/* SPDX-License-Identifier: Apache-2.0
 *
 * The view in memory: who serves a slot, the invariants, the digest.
 *
 *   nodes    grown by doubling; what is behind node_n is zero
 *   slots    one array, hashed and compared as memory: struct slot has no
 *            padding and the host is little-endian (proto/wire.h)
 *
 * The look-ups run on lanes too, over a published view that nobody changes.
 * They believe no index: one beyond node_n is nobody. */
#include "cluster/view.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"
#include "cluster/view_impl.h"

static const struct slot no_slot = {
    .owner = {NODE_NONE, NODE_NONE, NODE_NONE},
    .from = NODE_NONE,
    .to = NODE_NONE,
};

const char *node_state_name(enum node_state s)
{
    switch (s) {
    case NODE_JOINING:
        return "JOINING";
    case NODE_UP:
        return "UP";
    case NODE_DRAINING:
        return "DRAINING";
    case NODE_DOWN:
        return "DOWN";
    case NODE_REMOVED:
        return "REMOVED";
    }
    return "UNKNOWN";
}

/* ---- Memory ---- */

enum err view_init(struct view *v)
{
    *v = (struct view){0};
    if (!fault_here("view_slots"))
        v->slots = malloc(WIRE_SLOTS * sizeof(*v->slots));
    if (!v->slots)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        v->slots[i] = no_slot;
    return OK;
}

void view_fini(struct view *v)
{
    free(v->nodes);
    free(v->slots);
    free(v->flushes);
    *v = (struct view){0};
}

/* An array of at least n items of which the first used are kept and the others
 * zero; NULL: no memory, and the old one stays. */
static void *grow(void *old, uint32_t used, uint32_t n, uint32_t *cap,
                  size_t item)
{
    uint32_t want = *cap ? *cap : 8;
    uint8_t *p;

    while (want < n)
        want *= 2;
    p = fault_here("view_room") ? NULL : calloc(want, item);
    if (!p)
        return NULL;
    if (used)
        memcpy(p, old, used * item);
    free(old);
    *cap = want;
    return p;
}

enum err view_room(struct view *v, uint32_t n)
{
    struct node *p;

    if (n > NODES_MAX)
        return ERR_LIMIT;
    if (n <= v->node_cap)
        return OK;
    p = grow(v->nodes, v->node_n, n, &v->node_cap, sizeof(*p));
    if (!p)
        return ERR_NO_MEMORY;
    v->nodes = p;
    return OK;
}

enum err view_flush_room(struct view *v, uint32_t n)
{
    struct view_flush *p;

    if (n > VIEW_FLUSHES_MAX)
        return ERR_LIMIT;
    if (n <= v->flush_cap)
        return OK;
    p = grow(v->flushes, v->flush_n, n, &v->flush_cap, sizeof(*p));
    if (!p)
        return ERR_NO_MEMORY;
    v->flushes = p;
    return OK;
}

/* Copies n items and clears those of the old ones that were behind. */
static void replace(void *to, uint32_t to_n, const void *from, uint32_t n,
                    size_t item)
{
    if (n)
        memcpy(to, from, n * item);
    if (to_n > n)
        memset((uint8_t *)to + n * item, 0, (to_n - n) * item);
}

enum err view_copy(struct view *to, const struct view *from)
{
    enum err e = view_room(to, from->node_n);

    if (e == OK)
        e = view_flush_room(to, from->flush_n);
    if (e != OK)
        return e;
    to->cluster = from->cluster;
    to->generation = from->generation;
    to->epoch = from->epoch;
    replace(to->nodes, to->node_n, from->nodes, from->node_n,
            sizeof(*to->nodes));
    to->node_n = from->node_n;
    replace(to->flushes, to->flush_n, from->flushes, from->flush_n,
            sizeof(*to->flushes));
    to->flush_n = from->flush_n;
    memcpy(to->slots, from->slots, WIRE_SLOTS * sizeof(*to->slots));
    return OK;
}

/* ---- Who ---- */

uint16_t view_find(const struct view *v, const char *name)
{
    for (uint32_t i = 0; i < v->node_n; i++)
        if (v->nodes[i].state != NODE_REMOVED &&
            strcmp(v->nodes[i].name, name) == 0)
            return (uint16_t)i;
    return NODE_NONE;
}

static bool answers(const struct view *v, uint16_t i)
{
    return i < v->node_n && node_serves(&v->nodes[i]);
}

uint16_t view_serving(const struct view *v, uint32_t slot)
{
    return view_replica(v, slot, 0);
}

uint16_t view_replica(const struct view *v, uint32_t slot, uint32_t copy)
{
    const struct slot *s = &v->slots[slot];

    for (uint32_t i = 0; i < VIEW_COPIES; i++)
        if (answers(v, s->owner[i]) && copy-- == 0)
            return s->owner[i];
    return NODE_NONE;
}

static void add_holder(const struct view *v, uint16_t node, uint16_t *out,
                       uint32_t *n)
{
    if (node >= v->node_n || v->nodes[node].state == NODE_REMOVED)
        return;
    for (uint32_t i = 0; i < *n; i++)
        if (out[i] == node)
            return;
    out[(*n)++] = node;
}

uint32_t view_holders(const struct view *v, uint32_t slot,
                      uint16_t out[VIEW_COPIES + 2])
{
    const struct slot *s = &v->slots[slot];
    uint32_t n = 0;

    for (uint32_t i = 0; i < VIEW_COPIES; i++)
        add_holder(v, s->owner[i], out, &n);
    add_holder(v, s->from, out, &n);
    add_holder(v, s->to, out, &n);
    return n;
}

bool view_owns(const struct view *v, uint32_t slot, uint16_t node)
{
    const struct slot *s = &v->slots[slot];

    for (uint32_t i = 0; i < VIEW_COPIES; i++)
        if (s->owner[i] == node)
            return answers(v, node);
    return false;
}

uint64_t view_flushes(const struct view *v, const char *ns)
{
    uint64_t name = hash_64(0, ns, strlen(ns));

    for (uint32_t i = 0; i < v->flush_n; i++)
        if (v->flushes[i].name == name)
            return v->flushes[i].count;
    return 0;
}

/* ---- What must hold ---- */

const char *view_node_wrong(const struct node *n)
{
    if (!n->name[0])
        return "a node has a name";
    if (n->state > NODE_REMOVED)
        return "a node's state is one of five";
    if (n->lane_n < 1 || n->lane_n > NODE_LANES_MAX)
        return "a node has 1 to 64 lanes";
    if (n->weight < 1)
        return "a node's weight is at least 1 MiB";
    return NULL;
}

static bool can_hold(const uint8_t *states, uint32_t node_n, uint16_t i)
{
    return i < node_n && states[i] != NODE_REMOVED && states[i] != NODE_JOINING;
}

const char *view_slot_wrong(const struct slot *s, const uint8_t *states,
                            uint32_t node_n)
{
    const uint16_t *o = s->owner;

    for (uint32_t i = 0; i < VIEW_COPIES; i++) {
        if (o[i] == NODE_NONE)
            continue;
        if (!can_hold(states, node_n, o[i]))
            return "an owner is not a member that may hold blocks";
        if (i && o[i - 1] == NODE_NONE)
            return "an owner stands behind a gap";
    }
    if (o[0] != NODE_NONE && (o[0] == o[1] || o[0] == o[2]))
        return "a node owns it twice";
    if (o[1] != NODE_NONE && o[1] == o[2])
        return "a node owns it twice";
    if (s->from != NODE_NONE &&
        (!can_hold(states, node_n, s->from) || s->from == o[0]))
        return "`from` is not another member that may hold blocks";
    if (s->to != NODE_NONE &&
        (!can_hold(states, node_n, s->to) || s->to == o[0]))
        return "`to` is not another member that may hold blocks";
    if (o[0] == NODE_NONE && (s->from != NODE_NONE || s->to != NODE_NONE))
        return "it moves but has no owner";
    if (s->spare)
        return "its spare byte is not 0";
    return NULL;
}

/* Open addressing over a table of twice the nodes: n compares, not n * n. */
bool names_differ(const struct node *const *at, uint32_t n)
{
    uint16_t table[2 * NODES_MAX];

    memset(table, 0xff, sizeof(table));
    for (uint32_t i = 0; i < n; i++) {
        const char *name = at[i]->name;
        uint32_t h = (uint32_t)hash_64(0, name, strlen(name));

        if (at[i]->state == NODE_REMOVED)
            continue;
        for (;; h++) {
            uint16_t *t = &table[h % countof(table)];

            if (*t == NODE_NONE) {
                *t = (uint16_t)i;
                break;
            }
            if (strcmp(at[*t]->name, name) == 0)
                return false;
        }
    }
    return true;
}

const char *view_wrong(const struct view *v)
{
    const struct node *at[NODES_MAX];
    uint8_t states[NODES_MAX];
    const char *why = NULL;

    for (uint32_t i = 0; i < v->node_n; i++) {
        at[i] = &v->nodes[i];
        states[i] = v->nodes[i].state;
        why = view_node_wrong(at[i]);
        if (why)
            return why;
    }
    if (!names_differ(at, v->node_n))
        return "two members have one name";
    for (uint32_t i = 0; i < WIRE_SLOTS && !why; i++)
        why = view_slot_wrong(&v->slots[i], states, v->node_n);
    return why;
}

/* ---- Digest ---- */

uint64_t view_digest(const struct view *v)
{
    const uint64_t head[] = {v->cluster, v->generation, v->epoch, v->node_n,
                             v->flush_n};
    uint64_t h = hash_64(0, head, sizeof(head));
    uint8_t buf[NODE_BYTES_MAX];

    for (uint32_t i = 0; i < v->node_n; i++)
        h = hash_64(h, buf, node_pack(&v->nodes[i], buf));
    if (v->flush_n)
        h = hash_64(h, v->flushes, v->flush_n * sizeof(*v->flushes));
    return hash_64(h, v->slots, WIRE_SLOTS * sizeof(*v->slots));
}
