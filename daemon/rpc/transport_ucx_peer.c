/* SPDX-License-Identifier: Apache-2.0
 *
 * Connections of the UCX transport, from the request to the end.
 *
 *   ASKS ----> OPEN ----> LEAVING ----> DYING ----> CUT ----> (free)
 *     |          |  close   | all done,   | endpoint  | UCX gave back all,
 *     |          |          | flushed     | closed by | the lane was told all:
 *     |          |          |             | force     | closed()
 *     |          +----------+-- death ----+
 *     +--> refused by the lane: rejected, free
 *
 * A peer with something to do is on t->due; visits come from the turn and are
 * the only place where states move on, so nothing here runs inside UCX. A
 * peer's death may be told by UCX's error handler, found by a limit, or wished
 * by the lane: all of them only mark it DYING.
 *
 * Closing by force ends every request of the endpoint. Descriptors held for the
 * peer are released after that: the endpoint's id is gone by then, so UCX sends
 * no answer for them (before, it would tell a live client that its bytes had
 * been taken).
 *
 * Orderly: UCX cannot close an endpoint by force once it was asked to close it
 * gently, and a gentle close waits for a peer that may be stuck. So LEAVING
 * flushes first, and then closes by force as well; close(at_once) may come at
 * any time. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "rpc/transport_ucx_int.h"

static struct list *ep_bucket(struct transport_ucx *t, ucp_ep_h ep)
{
    uint64_t h = (uint64_t)(uintptr_t)ep * UINT64_C(0x9e3779b97f4a7c15);

    return &t->eps[(h >> 32) & (t->eps_n - 1)];
}

struct ucx_peer *ucx_peer_find(struct transport_ucx *t, ucp_ep_h ep)
{
    struct list *b = ep_bucket(t, ep);

    LIST_FOREACH(n, b)
    {
        struct ucx_peer *p = container_of(n, struct ucx_peer, by_ep);

        if (p->ep == ep)
            return p;
    }
    return NULL;
}

void ucx_peer_due(struct ucx_peer *p)
{
    list_del(&p->due);
    list_add_tail(&ucx_of(&p->tp)->due, &p->due);
}

void ucx_peer_kill(struct ucx_peer *p)
{
    if (p->state == UCX_DYING || p->state == UCX_CUT)
        return;
    MUST(p->state != UCX_ASKS); /* the lane does not close what it refuses */
    p->state = UCX_DYING;
    ucx_peer_due(p);
}

/* UCX found the peer dead. It may tell any code; all mean the same. */
static void peer_failed(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    struct ucx_peer *p = arg;

    (void)ep, (void)status;
    MUST(p->magic == UCX_PEER_MAGIC);
    ucx_peer_kill(p);
}

/* ---- Birth --------------------------------------------------------------- */

static void peer_address(ucp_conn_request_h ask, char *to, size_t cap)
{
    ucp_conn_request_attr_t a = {
        .field_mask = UCP_CONN_REQUEST_ATTR_FIELD_CLIENT_ADDR,
    };
    const void *addr = &a.client_address;
    const struct sockaddr_in *v4 = addr;
    const struct sockaddr_in6 *v6 = addr;
    char ip[INET6_ADDRSTRLEN] = "?";
    unsigned port = 0;

    if (ucp_conn_request_query(ask, &a) != UCS_OK) {
        snprintf(to, cap, "?");
        return;
    }
    if (a.client_address.ss_family == AF_INET) {
        inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof(ip));
        port = ntohs(v4->sin_port);
    } else if (a.client_address.ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof(ip));
        port = ntohs(v6->sin6_port);
    }
    snprintf(to, cap, strchr(ip, ':') ? "[%s]:%u" : "%s:%u", ip, port);
}

/* The listener's handler, inside UCX: the lane is asked on the next visit. */
void ucx_peer_asks(ucp_conn_request_h ask, void *arg)
{
    struct transport_ucx *t = arg;
    struct ucx_peer *p = pool_get(&t->peers);

    if (!p) {
        LOG(LOG_WARN, "ucx_peers_full", "peers=%u", t->cfg.peers_max);
        ucp_listener_reject(t->listener, ask);
        return;
    }
    memset(p, 0, sizeof(*p));
    p->magic = UCX_PEER_MAGIC;
    p->state = UCX_ASKS;
    p->ask = ask;
    p->tp.t = &t->base;
    p->tp.inline_max = t->cfg.inline_max;
    peer_address(ask, p->tp.cred.addr, sizeof(p->tp.cred.addr));
    list_init(&p->by_ep);
    list_init(&p->due);
    list_init(&p->mails);
    list_init(&p->slots);
    list_init(&p->waiting);
    list_init(&p->pushes);
    list_add_tail(&t->all, &p->all);
    ucx_peer_due(p);
}

static void peer_free(struct ucx_peer *p)
{
    struct transport_ucx *t = ucx_of(&p->tp);

    MUST(list_empty(&p->mails) && list_empty(&p->slots));
    MUST(list_empty(&p->waiting) && list_empty(&p->pushes));
    list_del(&p->all);
    list_del(&p->due);
    list_del(&p->by_ep);
    p->magic = 0;
    pool_put(&t->peers, p);
}

static void peer_reject(struct ucx_peer *p)
{
    ucp_listener_reject(ucx_of(&p->tp)->listener, p->ask);
    peer_free(p);
}

static void peer_accept(struct ucx_peer *p)
{
    struct transport_ucx *t = ucx_of(&p->tp);
    ucp_ep_params_t e = {
        .field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER |
                      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
        .conn_request = p->ask,
        .err_handler = {peer_failed, p},
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
    };
    ucs_status_t s;

    if (t->base.events->opened(t->base.lane, &p->tp) != OK) {
        peer_reject(p);
        return;
    }
    if (fault_here("ucx_accept")) {
        ucp_listener_reject(t->listener, p->ask);
        s = UCS_ERR_NO_MEMORY;
    } else {
        s = ucp_ep_create(t->worker, &e, &p->ep);
    }
    p->ask = NULL;
    if (s != UCS_OK) {
        LOG(LOG_WARN, "ucx_accept", "from=%s error=%s",
            LOG_STR(p->tp.cred.addr), LOG_STR(ucs_status_string(s)));
        p->ep = NULL;
        p->state = UCX_CUT;
        ucx_peer_due(p);
        return;
    }
    p->state = UCX_OPEN;
    list_add_tail(ep_bucket(t, p->ep), &p->by_ep);
}

/* ---- End ----------------------------------------------------------------- */

void ucx_peer_close(struct tp_peer *tp, bool at_once)
{
    struct ucx_peer *p = ucx_peer_of(tp);

    if (at_once) {
        ucx_peer_kill(p);
    } else if (p->state == UCX_OPEN) {
        p->state = UCX_LEAVING;
        ucx_peer_due(p);
    }
}

static void peer_ucx_done(void *request, ucs_status_t s, void *arg)
{
    struct ucx_peer *p = arg;

    (void)s;
    MUST(p->magic == UCX_PEER_MAGIC && p->ucx_n > 0);
    p->ucx_n--;
    ucp_request_free(request);
    if (p->state == UCX_LEAVING)
        p->state = UCX_DYING;
    ucx_peer_due(p);
}

static void peer_flush(struct ucx_peer *p)
{
    ucp_request_param_t q = {
        .op_attr_mask =
            UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.send = peer_ucx_done,
        .user_data = p,
    };
    ucs_status_ptr_t r;

    p->flushing = true;
    r = ucp_ep_flush_nbx(p->ep, &q);
    if (UCS_PTR_IS_PTR(r))
        p->ucx_n++;
    else
        ucx_peer_kill(p);
}

static void peer_cut(struct ucx_peer *p)
{
    ucp_request_param_t q = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS | UCP_OP_ATTR_FIELD_CALLBACK |
                        UCP_OP_ATTR_FIELD_USER_DATA,
        .flags = UCP_EP_CLOSE_FLAG_FORCE,
        .cb.send = peer_ucx_done,
        .user_data = p,
    };
    ucs_status_ptr_t r;

    p->state = UCX_CUT;
    list_del(&p->by_ep);
    r = ucp_ep_close_nbx(p->ep, &q);
    p->ep = NULL;
    if (UCS_PTR_IS_PTR(r))
        p->ucx_n++;
    ucx_in_drop(p);
    ucx_out_drop(p);
    ucx_peer_due(p);
}

static void peer_end(struct ucx_peer *p)
{
    struct transport_ucx *t = ucx_of(&p->tp);

    if (p->calls_n > 0 || p->ucx_n > 0)
        return; /* whoever counts down makes it due again */
    t->base.events->closed(t->base.lane, &p->tp);
    MUST(p->calls_n == 0);
    peer_free(p);
}

void ucx_peers_kill(struct transport_ucx *t)
{
    LIST_FOREACH_SAFE(n, &t->all)
    {
        struct ucx_peer *p = container_of(n, struct ucx_peer, all);

        if (p->state == UCX_ASKS)
            peer_reject(p);
        else
            ucx_peer_kill(p);
    }
}

/* ---- Visits -------------------------------------------------------------- */

static void peer_visit(struct ucx_peer *p)
{
    switch (p->state) {
    case UCX_ASKS:
        peer_accept(p);
        return;
    case UCX_OPEN:
        ucx_out_peer(p);
        ucx_in_mails(p);
        return;
    case UCX_LEAVING:
        ucx_in_drop_mails(p);
        ucx_out_peer(p);
        if (p->calls_n == 0 && !p->flushing)
            peer_flush(p);
        return;
    case UCX_DYING:
        peer_cut(p);
        return;
    case UCX_CUT:
        peer_end(p);
        return;
    }
}

/* Each peer that is due now is visited once. */
bool ucx_peers_visit(struct transport_ucx *t)
{
    struct list *n;
    bool any = false;
    uint32_t left = pool_used(&t->peers);

    while (left-- > 0 && (n = list_pop(&t->due))) {
        any = true;
        peer_visit(container_of(n, struct ucx_peer, due));
    }
    return any;
}
