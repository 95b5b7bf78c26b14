/* SPDX-License-Identifier: Apache-2.0
 *
 * The rules of view.h, and how a view is put together from VIEW replies. */
#include "client/view.h"

#include <stdlib.h>
#include <string.h>

enum { RUN_BYTES = 2 + sizeof(struct cslot), REPLIES_MAX = 4096 };

/* The longest code: every row differs from the one before. */
#define CODE_MAX ((uint64_t)WIRE_SLOTS * RUN_BYTES)

uint16_t cview_serving(const struct cview *v, uint32_t slot)
{
    return cview_replica(v, slot, 0);
}

uint16_t cview_replica(const struct cview *v, uint32_t slot, uint32_t copy)
{
    const struct cslot *s = &v->slots[slot];

    for (uint32_t i = 0; i < CVIEW_COPIES; i++)
        if (cview_serves(v, s->owner[i]) && copy-- == 0)
            return s->owner[i];
    return NO_NODE;
}

uint32_t cview_holders(const struct cview *v, uint32_t slot,
                       uint16_t out[CVIEW_COPIES + 2])
{
    const struct cslot *s = &v->slots[slot];
    const uint16_t all[] = {s->owner[0], s->owner[1], s->owner[2], s->from,
                            s->to};
    uint32_t n = 0;

    for (uint32_t i = 0; i < countof(all); i++) {
        bool had = false;

        for (uint32_t k = 0; k < n; k++)
            had |= out[k] == all[i];
        if (!had && all[i] < v->node_n &&
            v->nodes[all[i]].state != CNODE_REMOVED)
            out[n++] = all[i];
    }
    return n;
}

/* ---- from replies ---- */

static enum err piece_code(struct cview *v, const Pikv__ViewReply *m)
{
    if (v->code || !m->slots_bytes)
        return OK;
    if (m->slots_bytes > CODE_MAX)
        return ERR_LIMIT;
    v->code_bytes = m->slots_bytes;
    v->code = malloc(v->code_bytes);
    return v->code ? OK : ERR_NO_MEMORY;
}

static enum err piece_take(struct cview *v, Pikv__ViewReply *m)
{
    Pikv__ViewReply **list;

    if (m->epoch != v->epoch || m->generation != v->generation ||
        (m->slots.len && (m->offset != v->code_n ||
                          m->slots.len > v->code_bytes - v->code_n)) ||
        v->reply_n == REPLIES_MAX)
        return ERR_BAD_REQUEST;
    list = realloc(v->replies, (v->reply_n + 1) * sizeof(*list));
    if (!list)
        return ERR_NO_MEMORY;
    v->replies = list;
    if (m->slots.len)
        memcpy(v->code + v->code_n, m->slots.data, m->slots.len);
    v->code_n += m->slots.len;
    v->next_node = m->next_node;
    list[v->reply_n++] = m;
    return v->code && v->code_n == v->code_bytes && !v->next_node ? ERR_MISS
                                                                  : OK;
}

enum err cview_piece(struct cview *v, Pikv__ViewReply *m)
{
    enum err e = v->reply_n ? ERR_BAD_REQUEST : ERR_MISS; /* an empty one */

    if (m->slots.len || m->n_nodes) {
        /* A server whose view moved on meanwhile begins anew. */
        if (v->reply_n && m->epoch != v->epoch)
            cview_fini(v);
        if (!v->reply_n) {
            v->epoch = m->epoch;
            v->generation = m->generation;
        }
        e = piece_code(v, m);
        if (!e)
            e = piece_take(v, m);
        if (!e || e == ERR_MISS)
            return e;
    }
    pikv__view_reply__free_unpacked(m, NULL);
    return e;
}

static uint8_t node_state(const char *word)
{
    static const char *const words[] = {
        [CNODE_JOINING] = "joining",
        [CNODE_UP] = "up",
        [CNODE_DRAINING] = "draining",
        [CNODE_DOWN] = "down",
    };

    for (uint8_t i = 0; i < countof(words); i++)
        if (strcmp(words[i], word) == 0)
            return i;
    return CNODE_REMOVED;
}

static enum err whole_nodes(struct cview *v)
{
    for (uint32_t i = 0; i < v->reply_n; i++)
        for (size_t k = 0; k < v->replies[i]->n_nodes; k++) {
            uint32_t index = v->replies[i]->nodes[k]->index;

            if (index >= CVIEW_NODES_MAX)
                return ERR_LIMIT;
            v->node_n = (uint32_t)max_u64(v->node_n, index + 1);
        }
    v->nodes = calloc(v->node_n + 1, sizeof(*v->nodes));
    if (!v->nodes)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < v->node_n; i++)
        v->nodes[i].state = CNODE_REMOVED;
    for (uint32_t i = 0; i < v->reply_n; i++)
        for (size_t k = 0; k < v->replies[i]->n_nodes; k++) {
            const Pikv__ViewNode *n = v->replies[i]->nodes[k];

            v->nodes[n->index] =
                (struct cnode){.state = node_state(n->state), .told = n};
        }
    return OK;
}

static enum err whole_slots(struct cview *v)
{
    const uint8_t *at = v->code;
    uint64_t left = v->code_n;
    uint32_t slot = 0;

    v->slots = malloc(WIRE_SLOTS * sizeof(*v->slots));
    if (!v->slots)
        return ERR_NO_MEMORY;
    while (left >= RUN_BYTES) {
        struct cslot row;
        uint16_t more;

        memcpy(&more, at, sizeof(more));
        memcpy(&row, at + sizeof(more), sizeof(row));
        at += RUN_BYTES;
        left -= RUN_BYTES;
        if (more >= WIRE_SLOTS - slot)
            return ERR_BAD_REQUEST;
        for (uint32_t i = 0; i <= more; i++)
            v->slots[slot++] = row;
    }
    return left || slot != WIRE_SLOTS ? ERR_BAD_REQUEST : OK;
}

enum err cview_whole(struct cview *v)
{
    enum err e = v->epoch && v->code && v->code_n == v->code_bytes
                     ? OK
                     : ERR_BAD_REQUEST;

    if (!e)
        e = whole_nodes(v);
    if (!e)
        e = whole_slots(v);
    free(v->code);
    v->code = NULL;
    return e;
}

void cview_fini(struct cview *v)
{
    for (uint32_t i = 0; i < v->reply_n; i++)
        pikv__view_reply__free_unpacked(v->replies[i], NULL);
    free(v->replies);
    free(v->nodes);
    free(v->slots);
    free(v->code);
    *v = (struct cview){0};
}
