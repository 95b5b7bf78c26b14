/* SPDX-License-Identifier: Apache-2.0
 *
 * How the view comes (nodes.h): a VIEW to a node, its pieces one after the
 * other, and then all at once in place of the one before.
 *
 *     nodes_want_view --> ask --> piece --> piece ... --> take
 *                          ^                  |
 *                          +-- another node --+  no answer, or nonsense
 *
 *  1. Never a view that is older than the one in force: another generation
 *     only if it is larger, then the epoch.
 *  2. The node that answers says which one it is: so the first one, known by
 *     an address only, gets its number. */
#include <stdlib.h>
#include <string.h>

#include "client/call.h"
#include "client/nodes_view.h"

enum { VIEW_MS = 500, LOOK_MS = 1000 };

static bool view_ask(struct pikv *kv, struct conn *c);

bool nodes_asking(const struct pikv *kv)
{
    return kv->nodes && kv->nodes->asked;
}

/* The next node that is up, or NULL when all were asked. */
static struct conn *view_next(struct pikv *kv)
{
    struct nodes *ns = kv->nodes;

    while (ns->tries++ < kv->peer_n) {
        const struct peer *p = kv->peers[ns->turn++ % kv->peer_n];
        struct conn *c = peer_conn(kv, p, 0);

        if (!p->gone && p->breaker == BREAKER_CLOSED && c->state == CONN_UP)
            return c;
    }
    return NULL;
}

static void view_ended(struct pikv *kv)
{
    struct nodes *ns = kv->nodes;

    cview_fini(&ns->next);
    ns->asked = false;
    ns->fetches++;
    nodes_stir(kv);
}

static void view_failed(struct pikv *kv)
{
    struct conn *c;

    cview_fini(&kv->nodes->next);
    while ((c = view_next(kv)))
        if (view_ask(kv, c))
            return;
    view_ended(kv);
}

static bool view_newer(const struct cview *a, const struct cview *b)
{
    if (a->generation != b->generation)
        return a->generation > b->generation;
    return a->epoch > b->epoch;
}

static bool view_room(struct nodes *ns)
{
    uint32_t n = ns->next.node_n;

    if (n <= ns->peer_of_n)
        return true;
    if (!lines_grow((void **)&ns->peer_of, ns->peer_of_n, n,
                    sizeof(*ns->peer_of)))
        return false;
    ns->peer_of_n = n;
    return true;
}

/* The one that told it is this node. */
static void view_self(struct pikv *kv, struct conn *c, uint32_t self)
{
    struct nodes *ns = kv->nodes;

    if (self >= ns->view.node_n)
        return;
    if (!c->ops->inlines && ns->view.nodes[self].told)
        ns->host = ns->view.nodes[self].told->host;
    if (c->peer->node == NO_NODE && !ns->peer_of[self]) {
        c->peer->node = (uint16_t)self;
        ns->peer_of[self] = c->peer->index + 1;
    }
}

static void view_take(struct pikv *kv, struct conn *c, uint32_t self)
{
    struct nodes *ns = kv->nodes;
    struct cview before = ns->view;

    ns->view = ns->next;
    ns->next = (struct cview){0};
    kv->many = true;
    view_self(kv, c, self);
    nodes_follow(kv, &before);
    cview_fini(&before);
    view_ended(kv);
}

/* All pieces are there, or there is nothing newer. */
static void view_came(struct pikv *kv, struct conn *c, uint32_t self)
{
    struct nodes *ns = kv->nodes;

    if (!ns->next.reply_n) {
        view_ended(kv);
    } else if (cview_whole(&ns->next) || !view_room(ns)) {
        view_failed(kv);
    } else if (!view_newer(&ns->next, &ns->view)) {
        view_ended(kv);
    } else {
        view_take(kv, c, self);
    }
}

static void view_told(struct pikv *kv, struct call *call, int status,
                      const void *env, size_t env_len, int fd)
{
    struct conn *c = call->arg;
    Pikv__ViewReply *m = NULL;
    uint32_t self = 0;

    (void)fd;
    if (!status) {
        m = pikv__view_reply__unpack(NULL, env_len, env);
        status = m ? OK : ERR_BAD_REQUEST;
    }
    if (m) {
        self = m->self;
        status = cview_piece(&kv->nodes->next, m);
    }
    if (status == ERR_MISS)
        view_came(kv, c, self);
    else if (status || !view_ask(kv, c))
        view_failed(kv);
}

static bool view_ask(struct pikv *kv, struct conn *c)
{
    struct nodes *ns = kv->nodes;
    const struct cview *next = &ns->next;
    const struct cview *have = next->reply_n ? next : &ns->view;
    Pikv__ViewRequest m = PIKV__VIEW_REQUEST__INIT;
    uint8_t env[64];

    m.have_epoch = have->epoch;
    m.have_generation = have->generation;
    m.offset = next->code_n;
    /* Beyond the last one: all nodes are told, no byte of the slots is. */
    if (next->reply_n)
        m.first_node = next->next_node ? next->next_node
                       : next->code_n  ? 0
                                       : UINT32_MAX;
    ns->asked = true;
    return call_msg(kv, c, OP_VIEW, env, pikv__view_request__pack(&m, env), -1,
                    now_ns() + VIEW_MS * NS_PER_MS, view_told, c) == OK;
}

void nodes_want_view(struct pikv *kv, struct conn *c)
{
    struct nodes *ns = kv->nodes;

    if (!ns) {
        ns = kv->nodes = calloc(1, sizeof(*ns));
        if (!ns)
            return;
        ns->dice = kv->client | 1;
        ns->due_ns = DEADLINE_NEVER;
    }
    ns->look_ns = now_ns() + LOOK_MS * NS_PER_MS;
    if (ns->asked || kv->closing)
        return;
    ns->tries = 0;
    if (c && c->lane)
        c = peer_conn(kv, c->peer, 0);
    if (!c || c->state != CONN_UP)
        c = view_next(kv);
    if (c && !view_ask(kv, c))
        view_failed(kv);
    if (!c)
        view_ended(kv);
}
