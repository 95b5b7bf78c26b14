/* SPDX-License-Identifier: Apache-2.0
 *
 * Peers, and the arrays by line and by peer that grow with them: connections,
 * ids of memory and layouts, loans and ids of namespaces. A handle with one
 * node never has them grown: they begin with room for as many lanes as a node
 * may have. With kv->mu. */
#include "client/peer.h"

#include <stdlib.h>
#include <string.h>

#include "client/view.h"

enum { PEERS_FIRST = 4 };

bool lines_grow(void **array, uint32_t from, uint32_t to, size_t item)
{
    uint8_t *p = realloc(*array, to * item);

    if (!p)
        return false;
    memset(p + from * item, 0, (to - from) * item);
    *array = p;
    return true;
}

/* All or nothing: what has grown in vain is only larger than it says. */
static bool lines_room(struct pikv *kv, uint32_t n)
{
    uint32_t from = kv->line_cap, to = from ? from : LANES_MAX;
    bool ok;

    if (n <= from)
        return true;
    while (to < n)
        to *= 2;
    if (to > LINES_MAX)
        return false;
    ok = lines_grow((void **)&kv->conns, from, to, sizeof(*kv->conns)) &&
         lines_grow((void **)&kv->event_polls, from, to,
                    sizeof(*kv->event_polls));
    LIST_FOREACH(l, &kv->regions)
    {
        struct region *r = container_of(l, struct region, node);

        ok = ok && lines_grow((void **)&r->ids, from, to, sizeof(*r->ids));
    }
    for (uint32_t i = 0; i < LAYOUTS_MAX; i++) {
        struct lay *a = kv->layouts[i];

        ok = ok &&
             (!a || lines_grow((void **)&a->ids, from, to, sizeof(*a->ids)));
    }
    for (uint32_t i = 0; i < NAMESPACES_MAX; i++) {
        struct ns *s = &kv->ns[i];

        ok = ok && (!s->loans || lines_grow((void **)&s->loans, from, to,
                                            sizeof(*s->loans)));
    }
    if (ok)
        kv->line_cap = to;
    return ok;
}

static bool peers_room(struct pikv *kv)
{
    uint32_t from = kv->peer_cap, to = from ? 2 * from : PEERS_FIRST;
    bool ok;

    if (kv->peer_n < from)
        return true;
    ok = lines_grow((void **)&kv->peers, from, to, sizeof(struct peer *));
    for (uint32_t i = 0; i < NAMESPACES_MAX; i++) {
        struct ns *s = &kv->ns[i];

        ok = ok &&
             (!s->at || lines_grow((void **)&s->at, from, to, sizeof(*s->at)));
    }
    if (ok)
        kv->peer_cap = to;
    return ok;
}

struct peer *peer_new(struct pikv *kv, uint32_t lane_n)
{
    struct peer *p;

    if (lane_n > LANES_MAX || kv->line_n + lane_n > LINES_MAX ||
        !lines_room(kv, kv->line_n + lane_n) || !peers_room(kv))
        return NULL;
    p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->index = kv->peer_n;
    p->node = NO_NODE;
    p->first = kv->line_n;
    p->lane_n = lane_n;
    kv->peers[kv->peer_n++] = p;
    return p;
}

int peer_lanes(struct pikv *kv, struct peer *p, uint32_t lane_n)
{
    if (lane_n == p->lane_n)
        return OK;
    if (lane_n > LANES_MAX || p->lane_n != 1 || p->index + 1 != kv->peer_n)
        return ERR_UNSUPPORTED;
    return lines_room(kv, p->first + lane_n) ? OK : ERR_NO_MEMORY;
}

void peers_free(struct pikv *kv)
{
    for (uint32_t i = 0; i < kv->line_n; i++)
        conn_free(kv->conns[i]);
    for (uint32_t i = 0; i < kv->peer_n; i++)
        free(kv->peers[i]);
    free(kv->conns);
    free(kv->peers);
    free(kv->event_polls);
}
