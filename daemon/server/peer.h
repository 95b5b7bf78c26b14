/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection as the server sees it: who it is, what it may have in flight
 * (credits), and what it holds (ops, pins, loans). It lives from the
 * transport's opened() until closed() came and its last op ended:
 *
 *     opened --> NEW --HELLO--> GREETED --closed()--> GONE --last op--> freed
 *                 |  handshake timer, bad frame          ^
 *                 +--------------------------------------+
 *
 * What it held is given back at closed(): pins and loans end with the
 * connection, half-done PUTs are aborted by their ops. Thread: the lane. */
#ifndef SERVER_PEER_H
#define SERVER_PEER_H

#include "base/log.h"
#include "server/op.h"

enum { PEER_MAGIC = 0x50454552, PEER_NAME = 64 };

/* Feature bits this version understands; HELLO answers the common ones. */
enum { PEER_FEATURES = FEATURE_PARTS | FEATURE_LAYOUT | FEATURE_VIEW };

enum peer_state { PEER_NEW, PEER_GREETED, PEER_GONE };

struct peer {
    uint32_t magic;
    enum peer_state state;
    struct lane *lane;
    struct tp_peer *tp;
    struct list node; /* lane->peer_list */
    struct list ops, pins, loans, layouts;
    uint32_t op_n, pin_n, refusal_n;
    uint32_t layout_n, layout_ids;
    uint32_t open_n; /* open blocks that it is a member of (opens.h) */
    uint64_t op_bytes; /* block bytes of requests in flight */
    uint64_t pinned_bytes, loan_bytes;
    uint64_t loan_ids;    /* last loan id given */
    uint64_t loans_ended; /* loans up to this id are over */
    uint32_t unread_n;    /* replies handed out and not taken yet */
    struct timer timer;   /* handshake, then slow reader */

    char engine[PEER_NAME], model[PEER_NAME];
    uint64_t client; /* id of the handle: its connections share it */
    uint32_t pid, memories;
    uint64_t features;
    uint64_t connected_ns, op_total, bytes_in, bytes_out;
};

/* HELLO was accepted: NEW -> GREETED. */
void peer_greeted(struct peer *p);
/* Ends the connection, at once; closed() follows from the transport. */
void peer_close(struct peer *p);
/* Called by op.c around every reply: the slow reader watch. */
void peer_reply_begin(struct peer *p);
void peer_reply_done(struct peer *p);
/* Fills in what `clients` shows, but for the strings. */
void peer_describe(const struct peer *p, Pikv__ClientInfo *c);
/* Frees a GONE peer whose last op ended; else does nothing. */
void peer_reap(struct peer *p);

static inline struct peer *peer_of(struct tp_peer *tp)
{
    struct peer *p = tp->session;

    MUST(p && p->magic == PEER_MAGIC);
    return p;
}

#endif
