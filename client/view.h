/* SPDX-License-Identifier: Apache-2.0
 *
 * The view as libpikv keeps it: which node a slot is asked of. The rules are
 * those of cluster/view.h, which libpikv may not include; a unit test holds
 * the two against each other over random views.
 *
 *     slot --> owner[0]   the home; owner[1], owner[2] stand in for those that
 *                         do not answer, and hold the replicas
 *              from, to   the slot is moving: its blocks may also be there
 *              heat       so many owners after the home serve reads as well
 *
 * A view comes from VIEW replies in pieces (cview_piece), nodes first, is
 * looked at when all are there (cview_whole), and replaces the one before as a
 * whole: calls in flight hold numbers of nodes, never pointers into a view.
 * Addresses stay in the reply that brought them. What a server sends is
 * checked: indices of unknown nodes read as nodes that do not answer. */
#ifndef CLIENT_VIEW_H
#define CLIENT_VIEW_H

#include "base/base.h"
#include "base/err.h"
#include "pikv.pb-c.h"
#include "proto/wire.h"

enum { NO_NODE = 0xffff, CVIEW_NODES_MAX = 4096, CVIEW_COPIES = 3 };

enum cnode_state {
    CNODE_JOINING,
    CNODE_UP,
    CNODE_DRAINING,
    CNODE_DOWN,
    CNODE_REMOVED,
};

struct cnode {
    uint8_t state; /* enum cnode_state; REMOVED: or never heard of */
    const Pikv__ViewNode *told;
};

struct cslot {
    uint16_t owner[CVIEW_COPIES];
    uint16_t from, to;
    uint8_t heat;
    uint8_t spare;
};
static_assert(sizeof(struct cslot) == 12, "a row of VIEW");

struct cview {
    uint64_t epoch; /* 0: none */
    uint32_t generation;
    uint32_t node_n;
    struct cnode *nodes;
    struct cslot *slots; /* WIRE_SLOTS */
    Pikv__ViewReply **replies;
    uint32_t reply_n;
    uint32_t next_node; /* not 0: nodes are to be asked for from here on */
    uint8_t *code;      /* rows, run-length coded, as they come */
    uint64_t code_n, code_bytes;
};

/* Takes a reply over. OK: a piece, more are wanted: nodes from next_node on, or
 * slots from code_n on; MISS: that was the last one, or there is nothing newer
 * (reply_n 0); else it makes no sense, and the view is to be ended. */
must_check enum err cview_piece(struct cview *v, Pikv__ViewReply *m);
/* Nodes and slots out of the pieces. */
must_check enum err cview_whole(struct cview *v);
void cview_fini(struct cview *v);

static inline bool cview_serves(const struct cview *v, uint16_t node)
{
    return node < v->node_n && (v->nodes[node].state == CNODE_UP ||
                                v->nodes[node].state == CNODE_DRAINING);
}

/* Who serves a slot now; NO_NODE: nobody. */
uint16_t cview_serving(const struct cview *v, uint32_t slot);
/* The copy-th answering owner, or NO_NODE. */
uint16_t cview_replica(const struct cview *v, uint32_t slot, uint32_t copy);
/* Everybody who may have blocks of the slot. */
uint32_t cview_holders(const struct cview *v, uint32_t slot,
                       uint16_t out[CVIEW_COPIES + 2]);

#endif
