/* SPDX-License-Identifier: Apache-2.0
 *
 * Which lines there are and which may be used (nodes.h), and the breaker of
 * each node (peer.h). How the view comes is nodes_view.c's. With kv->mu. */
#include "client/nodes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "client/call.h"
#include "client/nodes_view.h"

enum {
    PROBE_MS = 200, /* deadline of a PING */
    PAUSE_MS = 20,  /* before the first probe */
    PAUSE_MAX_MS = 5000,
    SILENT_MS = 2,    /* shorter deadlines say nothing of a node */
    LOST_MS = 2000,   /* a ucx connection so silent is made anew */
    TIMEOUTS_MAX = 5, /* in a row, of a node that answers others */
    RAMP_MS = 10000,  /* slow start */
    SHARE_ALL = 256,
    SHARE_MIN = 8,
};

struct conn *nodes_any(const struct pikv *kv)
{
    for (uint32_t i = 0; kv->many && i < kv->peer_n; i++) {
        const struct peer *p = kv->peers[i];

        if (!p->gone && p->breaker == BREAKER_CLOSED &&
            peer_conn(kv, p, 0)->state == CONN_UP)
            return peer_conn(kv, p, 0);
    }
    return kv->conns[0];
}

void nodes_stir(struct pikv *kv)
{
    kv->stirred = kv->many;
    pthread_cond_broadcast(&kv->cond);
}

uint64_t nodes_random(struct pikv *kv)
{
    uint64_t x = kv->nodes->dice;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return kv->nodes->dice = x;
}

/* ---- addresses ---- */

/* "" if the lane cannot be reached from here. */
static const char *lane_addr(struct pikv *kv, const Pikv__ViewNode *n,
                             const Pikv__Lane *lane)
{
    struct nodes *ns = kv->nodes;
    struct stat st;

    if (!kv->is_ucx && n->host && n->host == ns->host &&
        strncmp(lane->shm, "shm:", 4) == 0 && stat(lane->shm + 4, &st) == 0 &&
        S_ISSOCK(st.st_mode))
        return lane->shm;
    if (strncmp(lane->ucx, "ucx:", 4) != 0 || ns->no_ucx)
        return "";
    if (!kv->ucx) {
        ns->no_ucx = ucx_open(kv) != OK;
        if (ns->no_ucx)
            ucx_close(kv);
    }
    return ns->no_ucx ? "" : lane->ucx;
}

static struct peer *peer_make(struct pikv *kv, uint16_t node)
{
    const Pikv__ViewNode *n = kv->nodes->view.nodes[node].told;
    struct peer *p;
    bool ok = true;

    for (size_t i = 0; i < n->n_lanes; i++)
        if (!lane_addr(kv, n, n->lanes[i])[0])
            return NULL;
    p = n->n_lanes ? peer_new(kv, (uint32_t)n->n_lanes) : NULL;
    for (uint32_t i = 0; p && ok && i < p->lane_n; i++) {
        struct conn *c = conn_new(kv, p, i, lane_addr(kv, n, n->lanes[i]));

        ok = c != NULL;
        if (ok)
            c->retry_ns = DEADLINE_NEVER;
    }
    if (!p)
        return NULL;
    p->node = node;
    p->gone = !ok;
    return ok ? p : NULL;
}

/* Does the view still say what the peer's connections were made of? Lanes that
 * moved to another address of the same kind are told of it. */
static bool peer_same(struct pikv *kv, struct peer *p, const Pikv__ViewNode *n)
{
    if (n->n_lanes != p->lane_n)
        return false;
    for (uint32_t i = 0; i < p->lane_n; i++) {
        struct conn *c = peer_conn(kv, p, i);
        const char *now =
            c->ops == &conn_ucx ? n->lanes[i]->ucx : n->lanes[i]->shm;

        if (!now[0])
            return false;
        if (p->index) /* the first is where the caller said that it is */
            snprintf(c->addr, sizeof(c->addr), "%s", now);
    }
    return true;
}

static void peer_leave(struct pikv *kv, struct peer *p)
{
    p->gone = true;
    for (uint32_t i = 0; i < p->lane_n; i++) {
        struct conn *c = peer_conn(kv, p, i);

        conn_down(c, ERR_NO_SERVER);
        c->retry_ns = DEADLINE_NEVER;
    }
}

void nodes_follow(struct pikv *kv, const struct cview *before)
{
    struct nodes *ns = kv->nodes;

    for (uint32_t i = 0; i < kv->peer_n; i++) {
        struct peer *p = kv->peers[i];
        const struct cnode *n =
            p->node < ns->view.node_n ? &ns->view.nodes[p->node] : NULL;

        if (p->gone || p->node == NO_NODE)
            continue;
        if (!n || !n->told || n->state == CNODE_REMOVED ||
            !peer_same(kv, p, n->told)) {
            ns->peer_of[p->node] = 0;
            peer_leave(kv, p);
        } else if (before->epoch && cview_serves(&ns->view, p->node) &&
                   !cview_serves(before, p->node)) {
            p->came_ns = kv->now_ns;
        }
    }
}

struct peer *nodes_peer(struct pikv *kv, uint16_t node)
{
    struct nodes *ns = kv->nodes;
    struct peer *p;

    if (node >= ns->view.node_n || !ns->view.nodes[node].told ||
        node >= ns->peer_of_n)
        return NULL;
    if (ns->peer_of[node])
        return kv->peers[ns->peer_of[node] - 1];
    p = peer_make(kv, node);
    if (p)
        ns->peer_of[node] = p->index + 1;
    return p;
}

/* ---- lines ---- */

struct conn *nodes_line(const struct pikv *kv, const struct peer *p,
                        uint32_t slot)
{
    return peer_conn(kv, p, slot % p->lane_n);
}

static void line_dial(struct pikv *kv, struct conn *c)
{
    if (c->state == CONN_DOWN && c->retry_ns == DEADLINE_NEVER && !c->fails &&
        !c->peer->gone && !kv->closing) {
        conn_dial(c, now_ns());
        progress_kick(kv); /* a descriptor more to sleep on */
    }
}

enum line_use nodes_use(struct pikv *kv, struct conn *c, struct ns *space,
                        int *why)
{
    struct conn *first = peer_conn(kv, c->peer, 0);

    *why = ERR_NO_SERVER;
    if (c->peer->gone || c->peer->breaker != BREAKER_CLOSED)
        return LINE_NONE;
    line_dial(kv, first);
    line_dial(kv, c);
    if (c->state == CONN_UP && ns_at(space, c))
        return LINE_READY;
    if (c->fails || first->fails || c->state == CONN_DOWN)
        return LINE_NONE;
    if (c->state == CONN_UP && first->state == CONN_UP) {
        const struct ns_at *at = &space->at[c->peer->index];

        if (at->refused && at->boot == c->boot) {
            *why = at->refused;
            return LINE_NONE;
        }
        ns_want(kv, space, first);
    }
    return LINE_WAIT;
}

bool nodes_answers(struct pikv *kv, uint16_t node, uint32_t slot)
{
    const struct peer *p = nodes_peer(kv, node);

    return p && !p->gone && p->breaker == BREAKER_CLOSED &&
           !nodes_line(kv, p, slot)->fails && !peer_conn(kv, p, 0)->fails;
}

uint32_t nodes_share(const struct pikv *kv, uint16_t node, uint64_t now)
{
    const struct nodes *ns = kv->nodes;
    uint32_t at = node < ns->peer_of_n ? ns->peer_of[node] : 0;
    uint64_t since = at ? kv->peers[at - 1]->came_ns : 0;
    uint64_t share = SHARE_ALL;

    if (since && now - since < RAMP_MS * NS_PER_MS)
        share = SHARE_ALL * (now - since) / (RAMP_MS * NS_PER_MS);
    return (uint32_t)max_u64(share, SHARE_MIN);
}

bool nodes_is_new(const struct pikv *kv, uint16_t node, uint64_t now)
{
    return nodes_share(kv, node, now) < SHARE_ALL;
}

/* ---- the breaker ---- */

static void breaker_open(struct pikv *kv, struct peer *p, uint32_t line)
{
    uint64_t pause =
        p->breaker == BREAKER_CLOSED ? PAUSE_MS * NS_PER_MS : 2 * p->pause_ns;

    p->breaker = BREAKER_OPEN;
    p->probe_line = line;
    p->pause_ns = min_u64(pause, PAUSE_MAX_MS * NS_PER_MS);
    p->again_ns = now_ns() + p->pause_ns - nodes_random(kv) % (p->pause_ns / 2);
    kv->nodes->due_ns = min_u64(kv->nodes->due_ns, p->again_ns);
    nodes_want_view(kv, NULL);
    nodes_stir(kv);
}

static void breaker_close(struct pikv *kv, struct peer *p)
{
    p->timeouts = 0;
    if (p->breaker == BREAKER_CLOSED)
        return;
    p->breaker = BREAKER_CLOSED;
    p->came_ns = kv->now_ns;
    nodes_stir(kv);
}

static void breaker_probed(struct pikv *kv, struct call *call, int status,
                           const void *env, size_t env_len, int fd)
{
    struct conn *c = call->arg;

    (void)env;
    (void)env_len;
    (void)fd;
    if (c->peer->breaker != BREAKER_PROBING)
        return;
    if (status == OK)
        breaker_close(kv, c->peer);
    else
        breaker_open(kv, c->peer, c->line);
}

/* A network that was cut and is mended is used again only when TCP sends again,
 * which it does after pauses as long as the silence was before; a connection
 * that is made anew works at once. */
static void breaker_drop(struct pikv *kv, struct peer *p, uint64_t now)
{
    for (uint32_t k = 0; k < p->lane_n; k++) {
        struct conn *c = peer_conn(kv, p, k);

        if (c->ops == &conn_ucx && c->state == CONN_UP &&
            now > c->heard_ns + LOST_MS * NS_PER_MS)
            conn_down(c, ERR_TIMEOUT);
    }
}

/* A line that is down is probed by its dialing, nodes_line_up tells. */
static void breaker_probe(struct pikv *kv, struct peer *p, uint64_t now)
{
    struct conn *c = kv->conns[p->probe_line];

    p->again_ns = now + p->pause_ns;
    breaker_drop(kv, p, now);
    if (c->state != CONN_UP)
        return;
    p->breaker = BREAKER_PROBING;
    if (call_msg(kv, c, OP_PING, NULL, 0, -1, now + PROBE_MS * NS_PER_MS,
                 breaker_probed, c))
        p->breaker = BREAKER_OPEN;
}

void nodes_timed_out(struct pikv *kv, struct conn *c, uint64_t since_ns)
{
    struct peer *p = c->peer;
    bool silent = c->heard_ns <= since_ns &&
                  kv->now_ns - since_ns >= SILENT_MS * NS_PER_MS;

    if (!kv->many || p->breaker != BREAKER_CLOSED || p->gone)
        return;
    if (silent || ++p->timeouts >= TIMEOUTS_MAX)
        breaker_open(kv, p, c->line);
}

void nodes_heard(struct conn *c)
{
    c->peer->timeouts = 0;
}

void nodes_line_up(struct conn *c)
{
    struct pikv *kv = c->kv;
    struct peer *p = c->peer;

    if (c->lane == 0 && c->epoch && !kv->no_view &&
        (!kv->many || c->epoch > kv->nodes->view.epoch))
        nodes_want_view(kv, c);
    if (!kv->many)
        return;
    if (c->was_up)
        p->came_ns = kv->now_ns;
    if (p->breaker != BREAKER_CLOSED && p->probe_line == c->line)
        breaker_close(kv, p);
    nodes_stir(kv);
}

void nodes_line_down(struct conn *c)
{
    struct pikv *kv = c->kv;

    if (!kv->many || kv->closing)
        return;
    kv->nodes->due_ns = min_u64(kv->nodes->due_ns, kv->nodes->look_ns);
    nodes_stir(kv);
}

/* ---- small things ---- */

uint64_t nodes_lanes(const struct pikv *kv)
{
    return kv->info.lanes * (uint64_t)(kv->many ? kv->nodes->view.node_n : 1);
}

uint16_t nodes_token_at(const struct pikv *kv, uint64_t token)
{
    const struct token *t = &kv->nodes->tokens[token % TOKENS_KEPT];

    return token && t->token == token ? t->node : NO_NODE;
}

void nodes_token_keep(struct pikv *kv, uint64_t token, uint16_t node)
{
    kv->nodes->tokens[token % TOKENS_KEPT] = (struct token){token, node};
}

void nodes_info(const struct pikv *kv, struct pikv_info *out)
{
    if (!kv->many)
        return;
    out->epoch = kv->nodes->view.epoch;
    out->nodes = 0;
    for (uint32_t i = 0; i < kv->nodes->view.node_n; i++)
        out->nodes += kv->nodes->view.nodes[i].state != CNODE_REMOVED;
}

void nodes_reach(struct pikv *kv, struct ns *space)
{
    for (uint32_t i = 0; kv->many && i < kv->nodes->view.node_n; i++) {
        struct peer *p = cview_serves(&kv->nodes->view, (uint16_t)i)
                             ? nodes_peer(kv, (uint16_t)i)
                             : NULL;
        int why;

        for (uint32_t k = 0; p && k < p->lane_n; k++)
            (void)nodes_use(kv, peer_conn(kv, p, k), space, &why);
    }
}

static void node_fill(const struct pikv *kv, uint32_t index,
                      struct pikv_node *out)
{
    static const char *const states[] = {
        [CNODE_JOINING] = "joining",   [CNODE_UP] = "up",
        [CNODE_DRAINING] = "draining", [CNODE_DOWN] = "down",
        [CNODE_REMOVED] = "removed",
    };
    const struct nodes *ns = kv->nodes;
    const struct cnode *n = &ns->view.nodes[index];
    uint32_t at = index < ns->peer_of_n ? ns->peer_of[index] : 0;
    const struct peer *p = at ? kv->peers[at - 1] : NULL;

    *out =
        (struct pikv_node){.index = index, .lanes = (uint32_t)n->told->n_lanes};
    snprintf(out->name, sizeof(out->name), "%s", n->told->name);
    snprintf(out->state, sizeof(out->state), "%s", states[n->state]);
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        out->slots += ns->view.slots[i].owner[0] == index;
    if (!p)
        return;
    out->broken = p->breaker != BREAKER_CLOSED;
    snprintf(out->transport, sizeof(out->transport), "%s",
             peer_conn(kv, p, 0)->ops->name);
    for (uint32_t i = 0; i < p->lane_n; i++)
        out->lanes_up += peer_conn(kv, p, i)->state == CONN_UP;
}

int pikv_nodes(struct pikv *kv, struct pikv_node *out, uint32_t max)
{
    uint32_t n = 0;
    int e = handle_check(kv);

    if (e)
        return e;
    pthread_mutex_lock(&kv->mu);
    for (uint32_t i = 0; kv->many && i < kv->nodes->view.node_n; i++) {
        if (!kv->nodes->view.nodes[i].told)
            continue;
        if (n < max)
            node_fill(kv, i, &out[n]);
        n++;
    }
    pthread_mutex_unlock(&kv->mu);
    return (int)n;
}

/* ---- by itself ---- */

/* A node that does not answer: the view may soon say another. */
static bool nodes_missing(const struct pikv *kv)
{
    const struct cview *v = &kv->nodes->view;

    for (uint32_t i = 0; i < kv->peer_n; i++) {
        const struct peer *p = kv->peers[i];

        for (uint32_t k = 0; !p->gone && k < p->lane_n; k++)
            if (peer_conn(kv, p, k)->fails)
                return true;
        if (!p->gone && p->breaker != BREAKER_CLOSED)
            return true;
    }
    for (uint32_t i = 0; i < v->node_n; i++)
        if (v->nodes[i].state == CNODE_DOWN ||
            v->nodes[i].state == CNODE_JOINING)
            return true;
    return false;
}

void nodes_tick(struct pikv *kv, uint64_t now)
{
    struct nodes *ns = kv->nodes;

    ns->due_ns = DEADLINE_NEVER;
    if (!kv->many || kv->closing)
        return;
    for (uint32_t i = 0; i < kv->peer_n; i++) {
        struct peer *p = kv->peers[i];

        if (p->gone || p->breaker != BREAKER_OPEN)
            continue;
        if (now >= p->again_ns)
            breaker_probe(kv, p, now);
        ns->due_ns = min_u64(ns->due_ns, p->again_ns);
    }
    if (!nodes_missing(kv))
        return;
    if (now >= ns->look_ns)
        nodes_want_view(kv, NULL);
    ns->due_ns = min_u64(ns->due_ns, max_u64(ns->look_ns, now + NS_PER_MS));
}

void nodes_fini(struct pikv *kv)
{
    struct nodes *ns = kv->nodes;

    if (!ns)
        return;
    cview_fini(&ns->view);
    cview_fini(&ns->next);
    free(ns->peer_of);
    free(ns);
    kv->nodes = NULL;
}

/* ---- for calls that wait in the caller's thread ---- */

int nodes_wait_line(struct pikv *kv, struct conn *c, struct ns *s,
                    uint64_t deadline_ns)
{
    static const bool never;

    for (;;) {
        uint64_t now = now_ns();
        int why;

        switch (nodes_use(kv, c, s, &why)) {
        case LINE_READY:
            return OK;
        case LINE_NONE:
            return why;
        case LINE_WAIT:
            break;
        }
        if (now >= deadline_ns)
            return ERR_TIMEOUT;
        progress_submitted(kv, now);
        progress_wait_until(kv, &never, min_u64(deadline_ns, now + NS_PER_MS));
    }
}

int nodes_each(struct pikv *kv, struct ns *s, const struct conn *done,
               uint64_t deadline_ns,
               int (*fn)(struct pikv *kv, struct ns *s, struct conn *c,
                         uint64_t deadline_ns, bool *out))
{
    int status = OK;

    /* The view may change while a node is waited for. */
    for (uint32_t i = 0; i < kv->nodes->view.node_n; i++) {
        const struct cnode *n = &kv->nodes->view.nodes[i];
        struct peer *p;
        int e = ERR_NO_SERVER;
        bool out;

        if (n->state == CNODE_REMOVED || n->state == CNODE_JOINING)
            continue;
        p = n->state == CNODE_DOWN ? NULL : nodes_peer(kv, (uint16_t)i);
        if (p && p == done->peer)
            continue;
        if (p)
            e = nodes_wait_line(kv, peer_conn(kv, p, 0), s, deadline_ns);
        if (!e)
            e = fn(kv, s, peer_conn(kv, p, 0), deadline_ns, &out);
        if (e)
            status = ERR_NOT_DURABLE;
    }
    return status;
}
