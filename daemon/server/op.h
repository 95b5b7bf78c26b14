/* SPDX-License-Identifier: Apache-2.0
 *
 * One request in flight. An op is a pooled struct with an arena that holds a
 * copy of the request, its records and its reply; it belongs to its lane and
 * its peer. Each operation is one tick function in one file (op_put.c,
 * op_get.c, ...), read top to bottom: a switch over its states, each case does
 * its work and either goes on or returns to sleep. Every completion is three
 * lines that record the result and call the tick again.
 *
 *     op_begin ---> tick ... tick ---> op_reply ---> (sent) ---> op_end
 *                    ^        |
 *                    +--------+  transport, timer, mail, memory freed
 *
 * Rules: move state first, then start the async call, then return. The deadline
 * timer calls the op's tick with op->late set, once. A peer that goes away sets
 * op->gone and calls the tick; the op ends when what it started has completed.
 * An op replies exactly once, unless its peer is gone. */
#ifndef SERVER_OP_H
#define SERVER_OP_H

#include "base/mem.h"
#include "base/timer.h"
#include "rpc/msg.h"
#include "rpc/transport.h"
#include "server/lane.h"

struct peer;
struct op;
struct held_layout;

typedef void op_tick_fn(struct op *op);

enum { OP_MAGIC = 0x4f50, OP_STATES_MAX = 8 };

/* What the arena of every op has room for, beside the message, the results and
 * a packed reply (lane_op_arena). */
enum {
    OP_KEY_BYTES = 384,         /* a batch operation's own state per key */
    OP_UNPACK_BYTES = 64 << 10, /* an envelope unpacked; more is refused */
    OP_MSG_BYTES = 576 << 10,   /* own state of a MSG operation, its answer */
};

/* The states of an operation: name and allowed successors, a bit per state.
 * State 0 is where every op starts; the last one is where it ends. */
struct op_state {
    const char *name;
    uint32_t next;
};

struct op_machine {
    op_tick_fn *tick;
    struct op_state states[OP_STATES_MAX];
};

#define NEXT(state) (1u << (state))

struct op {
    uint32_t magic;
    uint16_t id; /* enum op_id */
    uint8_t state;
    bool late;    /* the deadline passed */
    bool gone;    /* the peer went away: do not reply */
    bool replied; /* the reply is the transport's */
    struct lane *lane;
    struct peer *peer;
    struct list node; /* peer->ops */
    struct list wait; /* lane->mem_waiters, or alone */
    struct timer deadline, again;
    uint64_t begin_ns;
    uint64_t bytes; /* block bytes that count against the peer's credit */
    struct arena arena;
    struct message msg;  /* borrows the arena */
    int fd;              /* came with the request, or -1 */
    uint32_t pending;    /* async calls that have not completed */
    struct tp_send send; /* the reply */
    void *body;          /* the operation's own state, in the arena */
    struct held_layout *layout; /* of a batch that names one (layouts.h) */
};

/* An answer for a request that got no op (lane->refusals). */
struct refusal {
    struct tp_send send;
    struct peer *peer;
};

/* One row per op of ops.tbl; machine NULL: laid out, not served yet. */
struct op_kind {
    const char *name;
    const struct op_machine *machine;
    uint32_t deadline_us, per_mib_us;
    bool batch;
};
extern const struct op_kind op_kinds[OP_N];

static inline const struct op_machine *op_machine_of(const struct op *op)
{
    return op_kinds[op->id].machine;
}

/* A message arrived: finds room, copies it, starts the deadline, runs the
 * first tick. What cannot start is refused here: BUSY (pool, credit),
 * UNSUPPORTED, DENIED (before HELLO), DRAINING. Takes fd over. */
void op_begin(struct peer *p, const struct message *m, int fd);
/* Answers a request that gets no op. Of the frame, req and op are read. */
void op_refuse(struct peer *p, const struct wire_frame *f, enum err e);
/* Moves the state: the edge must be in the machine's table. */
void op_goto(struct op *op, uint8_t state);
/* Runs the tick at once, calls that are out or not: late or gone was set. */
void op_tell(struct op *op);
/* Runs the tick once more, unless a call is still out (op->pending). Every
 * completion ends with this. */
void op_wake(struct op *op);
/* One async call completed; the tick runs when it was the last. */
void op_done_one(struct op *op);
/* Runs the tick again in the next turn (long walks), or after a delay. */
void op_again(struct op *op, uint64_t delay_ns);
/* Sleeps until memory is freed somewhere; the tick runs again. */
void op_wait_memory(struct op *op);

/* The one end of every op: sends the reply (none if the peer is gone) and
 * gives the op back when the transport is done with it. */
void op_reply(struct op *op, enum err status);
/* Batch ops: head and one result per key. Both in the op's arena. */
struct op_results {
    struct wire_batch head;
    struct wire_result results[];
};
struct op_results *op_results_new(struct op *op, const struct wire_batch *head,
                                  uint32_t n);
void op_reply_batch(struct op *op, struct op_results *r, const void *keys,
                    uint32_t keys_len);
/* MSG ops: a protobuf-c message. */
void op_reply_msg(struct op *op, enum err status, const void *message);

/* What opens a namespace like this one elsewhere, in the op's arena: at most
 * OP_OPEN_BYTES (op_namespace.c). */
enum { OP_OPEN_BYTES = 12 << 10 };
Pikv__Open *op_open_msg(struct op *op, const struct registry_ns *ns);

/* One node of the cluster's view; NULL: the arena is full (op_view.c). */
Pikv__ViewNode *view_node_msg(struct arena *a, const struct node *n,
                              uint32_t index);

/* May this client act for the daemon's user (RELOAD, SSD)? */
bool op_operator(const struct op *op);

/* The request's envelope unpacked into the op's arena; NULL if malformed or
 * made to take more than OP_UNPACK_BYTES. */
void *op_unpack(struct op *op, const void *descriptor);

static inline struct op *op_of_deadline(struct timer *t)
{
    struct op *op = container_of(t, struct op, deadline);

    MUST(op->magic == OP_MAGIC);
    return op;
}

#endif
