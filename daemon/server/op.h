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
#include "rpc/transport.h"
#include "server/lane.h"

struct peer;
struct op;

typedef void op_tick_fn(struct op *op);

enum { OP_MAGIC = 0x4f50 };

struct op {
    uint32_t magic;
    uint16_t id; /* enum op_id */
    uint8_t state;
    bool late, gone, replied;
    struct lane *lane;
    struct peer *peer;
    struct list node;      /* peer's ops */
    struct list wait;      /* lane->mem_waiters, or alone */
    struct timer deadline, soft;
    uint64_t begin_ns, deadline_ns;
    op_tick_fn *tick;
    struct arena arena;
    struct message msg;    /* borrows the arena */
    int fd;                /* came with the request, or -1 */
    uint32_t pending;      /* async calls not completed yet */
    enum err status;
    struct tp_send send;   /* the reply */
    void *body;            /* the operation's own state, in the arena */
};

/* One row per op of ops.tbl that is NOW: where dispatch finds the tick. */
struct op_kind {
    const char *name;
    op_tick_fn *tick;       /* NULL: UNSUPPORTED */
    uint32_t deadline_us, per_mib_us;
    bool batch;
};
extern const struct op_kind op_kinds[OP_N];

/* lane_events.message: finds room, copies the request, starts the deadline,
 * runs the first tick. BUSY (pool, credit), UNSUPPORTED, DENIED (before HELLO)
 * are answered here. */
void op_begin(struct peer *p, const struct message *m, int fd);
/* Checks the edge against the machine's table, counts and traces it. */
void op_goto(struct op *op, uint8_t state);
/* Sends the reply: status for the whole request; records = wire_batch and
 * results (batch ops) or env (MSG ops), both in the op's arena. The op ends
 * when the transport is done with it. */
void op_reply(struct op *op, enum err status);
void op_reply_records(struct op *op, const void *records, uint32_t record_n,
                      const void *keys, uint32_t keys_len);
void op_reply_msg(struct op *op, const void *protobuf_message);
/* Pauses until memory is freed: op->tick runs again. */
void op_wait_memory(struct op *op);

static inline struct op *op_of_deadline(struct timer *t)
{
    struct op *op = container_of(t, struct op, deadline);

    MUST(op->magic == OP_MAGIC);
    return op;
}

#endif
