/* SPDX-License-Identifier: Apache-2.0
 *
 * A peer is a node as the handle uses it: a run of lines, one per lane, and
 * whether to ask it at all. Peers are made when a node is used for the first
 * time and stay until the handle is closed.
 *
 *     CLOSED --a deadline passed in silence, or so many in a row--> OPEN
 *       ^                                                            | pause,
 *       |                                                            v jittered
 *       +------ answered, or a line of it has come up ---------- PROBING
 *                                     no answer: OPEN, twice the pause
 *
 * OPEN and PROBING: nobody waits for it, its items go to the next owner or end
 * with NO_SERVER at once; the probe is a PING of the library's own, so that no
 * call pays for it. The breaker is looked at only where there is a view
 * (nodes.c); without one a peer is its connections. With kv->mu. */
#ifndef CLIENT_PEER_H
#define CLIENT_PEER_H

#include "client/conn.h"

enum breaker { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_PROBING };

struct peer {
    uint32_t index;         /* in kv->peers */
    uint16_t node;          /* in the view; NO_NODE */
    uint32_t first, lane_n; /* its lines */
    bool gone;              /* has other lines now, or left the cluster */
    enum breaker breaker;
    uint32_t timeouts;   /* in a row */
    uint32_t probe_line; /* that was silent */
    uint64_t pause_ns, again_ns;
    uint64_t came_ns; /* is given its share of reads slowly; 0: all of it */
};

/* With lane_n lines; their connections are made by conn_new. NULL: no memory,
 * or more than LINES_MAX lines. */
struct peer *peer_new(struct pikv *kv, uint32_t lane_n);
/* Room for so many lines of the last peer, which had one until its HELLO was
 * answered; they count when their connections are made. */
int peer_lanes(struct pikv *kv, struct peer *p, uint32_t lane_n);
void peers_free(struct pikv *kv);
/* Lines of one array: n of them, the new ones zero. */
bool lines_grow(void **array, uint32_t from, uint32_t to, size_t item);

/* What the node behind a connection calls a namespace; NULL: it has not said so
 * in this run of its. */
static inline const struct ns_at *ns_at(const struct ns *s,
                                        const struct conn *c)
{
    const struct ns_at *at = &s->at[c->peer->index];

    return at->known && at->boot == c->boot && !at->refused ? at : NULL;
}

static inline struct conn *peer_conn(const struct pikv *kv,
                                     const struct peer *p, uint32_t lane)
{
    return kv->conns[p->first + lane];
}

#endif
