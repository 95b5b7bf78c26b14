/* SPDX-License-Identifier: Apache-2.0
 *
 * The nodes of a handle: the view in force, how a newer one comes, and which
 * line of which node may be asked now.
 *
 *     NONE --HELLO says epoch > 0--> ASKED --VIEW, all pieces--> a view
 *                                      ^                           |
 *            a reply or redirect with a newer epoch, a node's end, |
 *            every second while a node does not answer ------------+
 *
 * One VIEW is under way at a time; a node that does not answer it is followed
 * by the next. Nothing waits for it but items that a node has sent away.
 *
 *     line:  READY   up, and its node knows the namespace
 *            WAIT    connected or greeted for the first time, or the namespace
 *                    is being opened there: who needs it waits
 *            NONE    it was there and is not, or the node's breaker is open:
 *                    nobody waits (peer.h)
 *
 * A line is connected when it is first needed. Over shm if the node says that
 * it is on our host (the host of a node that was reached over shm) and its
 * socket is there, else over ucx. With kv->mu. */
#ifndef CLIENT_NODES_H
#define CLIENT_NODES_H

#include "client/peer.h"
#include "client/view.h"

enum { TOKENS_KEPT = 512, HEDGE_SAMPLES = 256 };

struct nodes {
    struct cview view; /* epoch 0: none yet */
    struct cview next; /* its pieces come */
    bool asked;        /* a VIEW is under way */
    uint32_t tries;    /* nodes that were asked for this one */
    uint32_t fetches;  /* ended, well or not */
    uint32_t turn;     /* peer to be asked next */
    uint64_t due_ns;   /* nodes_tick has something to do */
    uint64_t look_ns;  /* not asked again by itself before */
    uint64_t host;     /* ours; 0 not known */
    uint64_t dice;
    bool no_ucx;       /* it cannot be loaded */
    uint32_t *peer_of; /* node -> peer + 1 */
    uint32_t peer_of_n;
    struct token {
        uint64_t token;
        uint16_t node;
    } tokens[TOKENS_KEPT]; /* by token */
    uint32_t took_us[HEDGE_SAMPLES], took_n, p95_us, hedge_credit; /* hedge.c */
};

enum line_use { LINE_READY, LINE_WAIT, LINE_NONE };

/* Lane 0 of a node that is up: the first one's if it is. */
struct conn *nodes_any(const struct pikv *kv);
/* Somebody may go on who waited for a line or the view. */
void nodes_stir(struct pikv *kv);
/* A node has a newer view than we: asks it, or another. */
void nodes_want_view(struct pikv *kv, struct conn *c);
/* Is it worth while to wait for the view? */
bool nodes_asking(const struct pikv *kv);
/* The peer of a node of the view, made if need be. NULL: it cannot be reached
 * at all. */
struct peer *nodes_peer(struct pikv *kv, uint16_t node);
struct conn *nodes_line(const struct pikv *kv, const struct peer *p,
                        uint32_t slot);
/* What is with a line; connects it, opens the namespace. *why: of NONE. */
enum line_use nodes_use(struct pikv *kv, struct conn *c, struct ns *space,
                        int *why);
/* Would an item be sent there, as far as is known? */
bool nodes_answers(struct pikv *kv, uint16_t node, uint32_t slot);
/* Its part of what could be read there, of 256. */
uint32_t nodes_share(const struct pikv *kv, uint16_t node, uint64_t now);
/* Has it come lately? */
bool nodes_is_new(const struct pikv *kv, uint16_t node, uint64_t now);
uint64_t nodes_random(struct pikv *kv);

/* Most items of one call, in batches of one lane. */
uint64_t nodes_lanes(const struct pikv *kv);
/* The node that gave a token of an open block, if this handle has it from
 * there and not too many since; else NO_NODE: by the key then. */
uint16_t nodes_token_at(const struct pikv *kv, uint64_t token);
void nodes_token_keep(struct pikv *kv, uint64_t token, uint16_t node);
void nodes_info(const struct pikv *kv, struct pikv_info *out);
/* Connects every lane of every node that answers, for what concerns all. */
void nodes_reach(struct pikv *kv, struct ns *space);

/* conn.c tells. */
void nodes_line_up(struct conn *c);
void nodes_line_down(struct conn *c);
void nodes_heard(struct conn *c); /* a reply came */
/* A deadline passed over a part that was sent, or over the connecting. */
void nodes_timed_out(struct pikv *kv, struct conn *c, uint64_t since_ns);

void nodes_tick(struct pikv *kv, uint64_t now);
void nodes_fini(struct pikv *kv);

/* Runs fn at lane 0 of every node that is not REMOVED but done's, one after the
 * other; waits for connections. NOT_DURABLE: one could not be reached. */
int nodes_each(struct pikv *kv, struct ns *s, const struct conn *done,
               uint64_t deadline_ns,
               int (*fn)(struct pikv *kv, struct ns *s, struct conn *c,
                         uint64_t deadline_ns, bool *out));
/* Waits until a line is READY. */
int nodes_wait_line(struct pikv *kv, struct conn *c, struct ns *s,
                    uint64_t deadline_ns);

#endif
