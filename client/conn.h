/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection to one lane, and the table behind which shm and ucx differ.
 *
 *     DOWN --retry_ns--> DIALING --connected--> HELLO --reply--> SETUP --> UP
 *       ^                   |                     |                |        |
 *       +-------------------+---------------------+----------------+--------+
 *          refused, ended, deadline, bytes that make no sense: conn_down
 *
 * SETUP registers the handle's memory and, on lane 0 after a restart of the
 * server, opens its namespaces again. Only an UP connection takes calls; while
 * it is not, they end at once with NO_SERVER (a dead server costs a client one
 * deadline, then nothing). conn_down ends what was sent or queued with RETRY.
 * A connection whose retry_ns is never waits to be needed (nodes.h).
 *
 * The common half (conn.c) owns slots, credits and the backlog. All with
 * kv->mu held. Nothing here calls back into a caller. */
#ifndef CLIENT_CONN_H
#define CLIENT_CONN_H

#include <poll.h>

#include "client/handle.h"
#include "rpc/frame.h"
#include "rpc/ring.h"

/* Request id: line, a count, slot. */
enum { CONN_SLOTS = RING_CANCELS, LINE_SHIFT = 48, CONN_FDS = 2 };

enum conn_state { CONN_DOWN, CONN_DIALING, CONN_HELLO, CONN_SETUP, CONN_UP };

struct conn_ops {
    const char *name;
    bool registers; /* memory is registered with the daemon */
    bool inlines;   /* block bytes may travel in messages */
    enum err (*dial)(struct conn *c);
    /* Room to build a message of len bytes in place; NULL: not now. */
    void *(*grant)(struct conn *c, uint32_t len);
    void (*push)(struct conn *c, uint32_t len);
    /* Sends p->msg (sealed); ERR_BUSY: later. */
    enum err (*send)(struct conn *c, struct part *p);
    /* The deadline of p passed. True: nothing of the caller's can be touched
     * any more, abandon it now; false: ask again in GRACE_MS. With last the
     * grace is over. May call conn_down. */
    bool (*give_up)(struct conn *c, struct part *p, bool last);
    /* May p be left now: nothing of the caller's is touched for it any more?
     * false: not yet; it was asked to end soon. */
    bool (*leave)(struct conn *c, struct part *p);
    /* Have all bytes of a replied part arrived, and no request of the
     * transport uses it? Else the transport calls conn_finish later. */
    bool (*complete)(struct conn *c, struct part *p);
    bool (*progress)(struct conn *c, bool look_at_socket);
    uint64_t (*loan_epoch)(struct conn *c); /* loans up to it are over */
    bool (*arm)(struct conn *c);
    void (*awake)(struct conn *c);
    int (*fds)(struct conn *c, struct pollfd *out);
    void (*hang_up)(struct conn *c);
    bool (*quiet)(struct conn *c); /* hang_up has ended; else poll on */
};

struct conn {
    struct pikv *kv;
    const struct conn_ops *ops;
    void *tp; /* the transport's */
    struct peer *peer;
    uint32_t line, lane; /* of the handle, of the node */
    uint32_t incarnation;
    char addr[ADDR_MAX];
    enum conn_state state;
    int status; /* why it is down */
    uint64_t retry_ns, backoff_ns, setup_due_ns;
    uint32_t setup_pending;
    uint64_t boot, features;
    bool was_up;       /* at some time: the next one is a reconnect */
    uint32_t fails;    /* ends since it was up, or since ever */
    uint64_t epoch;    /* of the view that its HELLO spoke of; 0 none */
    uint64_t heard_ns; /* a message came last */

    uint64_t serial;
    struct part *slots[CONN_SLOTS];
    uint16_t slot_free[CONN_SLOTS];
    uint32_t slot_free_n;
    struct list backlog;
    struct part *filling[2]; /* by spread.c, of the call that it plans */
    uint32_t ops_used, credit_ops;
    uint64_t bytes_used, credit_bytes;
    struct frame_limits limits;
};

extern const struct conn_ops conn_shm, conn_ucx;

struct conn *conn_new(struct pikv *kv, struct peer *peer, uint32_t lane,
                      const char *addr);
void conn_free(struct conn *c);
void conn_dial(struct conn *c, uint64_t now);
void conn_connected(struct conn *c); /* the transport: says HELLO */
void conn_down(struct conn *c, int status);
void conn_tick(struct conn *c, uint64_t now);
/* One thing less that SETUP waits for. */
void conn_setup_done(struct conn *c);

/* A built part: sends it or queues it. in_place: the message is in the grant
 * that conn_begin gave. */
bool conn_may_send(struct conn *c, const struct part *p);
void conn_send(struct conn *c, struct part *p);
void conn_take_slot(struct conn *c, struct part *p);
void conn_give_slot(struct conn *c, struct part *p);
void conn_run_backlog(struct conn *c);
/* Fills request id, deadline, spin flag and seals; body behind the frame. */
void conn_seal(struct conn *c, struct part *p, uint8_t *msg, uint64_t now);
/* A whole message came. fd -1 or one to take over. */
void conn_message(struct conn *c, const void *frame, const void *body,
                  size_t body_len, int fd);
/* A replied part is complete: lands, and ends. */
void conn_finish(struct conn *c, struct part *p);
/* A part that got no reply ends. */
void conn_part_ends(struct conn *c, struct part *p, int status);

#endif
