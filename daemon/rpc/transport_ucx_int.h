/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared by the files of the UCX transport and included by nobody else.
 *
 *   transport_ucx.c       the essay, set-up, the turn, the ops table
 *   transport_ucx_peer.c  connections from request to end
 *   transport_ucx_in.c    what arrives: messages, PUT data, pulls
 *   transport_ucx_out.c   what leaves: replies, GET data, pushes
 *   transport_ucx_sock.c  a way around two defects of UCX's tcp */
#ifndef RPC_TRANSPORT_UCX_INT_H
#define RPC_TRANSPORT_UCX_INT_H

#include <ucp/api/ucp.h>

#include "base/mem.h"
#include "rpc/transport_ucx.h"

enum {
    UCX_MAGIC = 0x55435854,
    UCX_PEER_MAGIC = 0x55435850,
    UCX_PUSH_WINDOW = 16, /* messages of one push in flight */
    UCX_PEER_WINDOW = 64, /* messages of all pushes of a peer in flight */
};

struct transport_ucx {
    struct transport base;
    uint32_t magic;
    struct transport_ucx_cfg cfg; /* its strings are not kept */
    ucp_context_h context;
    ucp_worker_h worker;
    ucp_listener_h listener;
    uint16_t port;
    int efd;
    struct pool peers;  /* struct ucx_peer */
    struct pool outs;   /* struct ucx_out */
    struct pool pushes; /* struct ucx_push */
    struct pool slots;  /* struct ucx_slot */
    struct pool mails;  /* struct ucx_mail */
    struct pool stages; /* buffers that gather scattered bytes */
    size_t stage_bytes;
    struct list *eps;   /* hash: endpoint -> struct ucx_peer.by_ep */
    struct list *wants; /* hash: (peer, req, idx) -> struct ucx_slot.by_key */
    uint32_t eps_n, wants_n; /* powers of two */
    struct list all;         /* struct ucx_peer.all */
    struct list due;         /* peers to visit */
    struct list starved;     /* peers that found a pool of the out side empty */
    struct list ready;       /* slots whose data and pull have met */
    struct list landed;      /* slots whose rendezvous ended */
    struct list acked;       /* ucx_outs that UCX is done with */
    struct list ended;       /* xfers to report, error in tp_pos */
    struct list unsent;      /* sends to report as ERR_PEER_GONE */
    uint64_t budget;         /* bytes left to copy in this turn */
};

enum ucx_peer_state {
    UCX_ASKS,    /* a connection request, not shown to the lane yet */
    UCX_OPEN,    /* serving */
    UCX_LEAVING, /* closed in order: what was begun goes on */
    UCX_DYING,   /* to be cut */
    UCX_CUT,     /* endpoint closed; waits for its last completions */
};

struct ucx_peer {
    struct tp_peer tp;
    uint32_t magic;
    enum ucx_peer_state state;
    bool flushing;
    ucp_ep_h ep;
    ucp_conn_request_h ask;
    struct list all, by_ep, due;
    struct list mails;   /* struct ucx_mail, in order of arrival */
    struct list slots;   /* struct ucx_slot.node */
    struct list waiting; /* struct tp_send.node: no ucx_out free yet */
    struct list pushes;  /* struct ucx_push.node with bytes left to hand over */
    uint32_t held_n;     /* mails + slots HELD or SKIP */
    uint64_t held_bytes;
    uint32_t calls_n; /* sends, pulls, pushes not reported yet */
    uint32_t ucx_n;   /* requests that UCX holds */
    uint32_t parts_n; /* of them parts of pushes */
};

/* A message that waits to be shown to the lane. */
struct ucx_mail {
    struct list node;
    struct wire_frame frame;
    void *data; /* UCX's descriptor, or NULL */
    size_t len;
    bool bad; /* refuse it: header or kind is wrong */
};

enum ucx_slot_state {
    UCX_WANTED, /* pulled, no data yet */
    UCX_HELD,   /* data, not pulled yet */
    UCX_SKIP,   /* no data yet, and not wanted when it comes */
    UCX_READY,  /* data and pull: on t->ready */
    UCX_MOVING, /* rendezvous in flight: UCX writes into the spans */
    UCX_LANDED, /* rendezvous over: on t->landed, checksum under way */
};

/* The bytes of one key of a PUT, from the first of pull and data on. */
struct ucx_slot {
    struct list by_key, node, queue;
    struct ucx_peer *peer;
    uint64_t req;
    uint32_t idx;
    enum ucx_slot_state state;
    struct tp_xfer *x;
    void *data; /* UCX's descriptor while held */
    uint64_t len;
    bool rndv, canceled;
    enum err err;       /* of the rendezvous */
    uint32_t span, crc; /* checksum: where it is */
    uint64_t span_off;
};

/* One active message on its way out: a reply or a part of a push. */
struct ucx_out {
    struct list node;
    struct ucx_peer *peer;
    struct tp_send *send;    /* or */
    struct ucx_push *push;   /* one of the two */
    struct wire_frame frame; /* header of a part: 1.13 keeps the pointer */
    void *stage;
    uint64_t len;
    enum err err;
};

struct ucx_push {
    struct list node;
    struct ucx_peer *peer;
    struct tp_xfer *x;
    uint32_t parts_n; /* in flight */
    uint32_t span;
    uint64_t span_off, off; /* next byte to hand over */
    bool canceled;
    enum err err; /* first */
};

static inline struct transport_ucx *ucx_of(const struct tp_peer *p)
{
    return container_of(p->t, struct transport_ucx, base);
}

static inline struct ucx_peer *ucx_peer_of(struct tp_peer *p)
{
    struct ucx_peer *u = container_of(p, struct ucx_peer, tp);

    MUST(u->magic == UCX_PEER_MAGIC);
    return u;
}

/* transport_ucx.c */
enum err ucx_err(ucs_status_t s);
/* Queues the report of a pull or push. */
void ucx_xfer_end(struct transport_ucx *t, struct tp_xfer *x, enum err e);

/* transport_ucx_sock.c */
bool ucx_sock_check(void);

/* transport_ucx_peer.c */
void ucx_peer_asks(ucp_conn_request_h ask, void *arg);
struct ucx_peer *ucx_peer_find(struct transport_ucx *t, ucp_ep_h ep);
void ucx_peer_due(struct ucx_peer *p);
void ucx_peer_kill(struct ucx_peer *p);
void ucx_peers_kill(struct transport_ucx *t); /* and rejects who asks */
void ucx_peer_close(struct tp_peer *p, bool at_once);
bool ucx_peers_visit(struct transport_ucx *t);
static inline bool ucx_peer_serves(const struct ucx_peer *p)
{
    return p->state == UCX_OPEN || p->state == UCX_LEAVING;
}

/* transport_ucx_in.c */
enum err ucx_in_listen(struct transport_ucx *t);
void ucx_in_pull(struct tp_peer *p, struct tp_xfer *x);
void ucx_in_skip(struct tp_peer *p, uint64_t req, uint32_t idx);
void ucx_in_cancel(struct tp_xfer *x);
bool ucx_in_run(struct transport_ucx *t); /* ready and landed slots */
void ucx_in_mails(struct ucx_peer *p);    /* shows some to the lane */
void ucx_in_drop_mails(struct ucx_peer *p);
void ucx_in_drop(struct ucx_peer *p); /* all but what UCX holds */

/* transport_ucx_out.c */
void ucx_out_send(struct tp_peer *p, struct tp_send *s);
void ucx_out_push(struct tp_peer *p, struct tp_xfer *x);
void ucx_out_cancel(struct tp_xfer *x);
bool ucx_out_run(struct transport_ucx *t); /* reports what is acked */
void ucx_out_peer(struct ucx_peer *p);     /* hands over what waits */
void ucx_out_drop(struct ucx_peer *p);     /* all but what UCX holds */

#endif
