/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of a request between the transport and its operation: admission,
 * dispatch, deadlines, reply, end. No operation's meaning is in here.
 *
 *   op_begin   admit (credits, pool) -> copy -> first tick
 *   tick ...   the operation, see its file
 *   op_reply   hand the reply to the transport
 *   op_sent    the transport is done with it -> op_end -> pool
 *
 * Invariants
 *  1. An op is in its peer's list from admission to op_end, so a peer that
 *     goes away finds all of its ops.
 *  2. pending counts calls whose completion will come; an op ends only at 0.
 *  3. A request that is not admitted is answered from the lane's refusals; a
 *     client that does not read even those is closed, so nothing is silent. */
#include "server/op.h"

#include <string.h>
#include <unistd.h>

#include "server/batch.h"
#include "server/layouts.h"
#include "server/peer.h"

/* clang-format off */
#define MACHINE_NOW(name) &name##_machine
#define MACHINE_LATER(name) NULL
#define DECLARE_NOW(name) extern const struct op_machine name##_machine;
#define DECLARE_LATER(name)
#define BODY_BATCH true
#define BODY_MSG false

#define OP(id, NAME, name, body, since, us, per_mib, idem, doc) DECLARE_##since(name)
#include "proto/ops.tbl"

const struct op_kind op_kinds[OP_N] = {
#define OP(id, NAME, name, body, since, us, per_mib, idem, doc) \
    [id] = {#name, MACHINE_##since(name), us, per_mib, BODY_##body},
#include "proto/ops.tbl"
};
/* clang-format on */

static void refusal_sent(struct tp_send *s, enum err e)
{
    struct refusal *r = container_of(s, struct refusal, send);
    struct peer *p = r->peer;

    (void)e;
    pool_put(&p->lane->refusals, r);
    p->refusal_n--;
    peer_reply_done(p);
    peer_reap(p);
}

/* No client may have more than half of the lane's: who does not read them must
 * not cost others theirs. */
static struct refusal *refusal_get(struct peer *p)
{
    struct pool *pool = &p->lane->refusals;

    return p->refusal_n < pool->n / 2 ? pool_get(pool) : NULL;
}

void op_refuse(struct peer *p, const struct wire_frame *f, enum err e)
{
    struct lane *l = p->lane;
    struct refusal *r = refusal_get(p);

    if (e == ERR_BUSY)
        metric_add(&l->metrics.busy_refusals, 1);
    metric_add(&l->metrics.requests_failed[f->op < OP_N ? f->op : 0], 1);
    if (!r) {
        peer_close(p);
        return;
    }
    memset(r, 0, sizeof *r);
    r->peer = p;
    r->send.frame.kind = WIRE_REPLY;
    r->send.frame.op = f->op;
    r->send.frame.req = f->req;
    r->send.frame.status = e;
    r->send.fd = -1;
    r->send.done = refusal_sent;
    frame_seal(&r->send.frame, NULL, 0);
    p->refusal_n++;
    peer_reply_begin(p);
    p->tp->t->ops->send(p->tp, &r->send);
}

/* Block bytes that a batch will move, for the credit and the deadline. */
static uint64_t request_bytes(const struct message *m,
                              const struct frame_limits *lim)
{
    struct batch b;
    struct key_ref k;
    uint64_t bytes = 0;

    if (m->frame.op != OP_PUT && m->frame.op != OP_PUT_WRITE &&
        m->frame.op != OP_GET)
        return 0;
    if (batch_read(m, lim, &b))
        return 0;
    while (batch_next(&b, lim, &k) == OK)
        bytes += min_u64(k.rec.len, lim->block_bytes); /* room may be more */
    return bytes;
}

static enum err admit(const struct peer *p, const struct message *m,
                      uint64_t bytes)
{
    const struct lane *l = p->lane;
    uint16_t op = m->frame.op;

    if (m->frame.kind != WIRE_REQUEST)
        return ERR_BAD_REQUEST;
    if (op == 0 || op >= OP_N || !op_kinds[op].name || !op_kinds[op].machine)
        return ERR_UNSUPPORTED;
    if (p->state == PEER_NEW && op != OP_HELLO)
        return ERR_DENIED;
    if (l->draining)
        return ERR_DRAINING;
    if (l->viewless && (op == OP_OPEN || op_kinds[op].batch))
        return ERR_BUSY; /* nobody knows yet whose slots are whose */
    if (p->op_n >= l->cfg->limits.ops_per_client)
        return ERR_BUSY;
    if (p->op_n > 0 &&
        p->op_bytes + bytes > l->cfg->limits.bytes_per_client_bytes)
        return ERR_BUSY;
    return OK;
}

void op_tell(struct op *op)
{
    MUST(op->magic == OP_MAGIC);
    if (!op->replied)
        op_machine_of(op)->tick(op);
}

static void op_late(struct timer *t)
{
    struct op *op = op_of_deadline(t);

    op->late = true;
    op_tell(op);
}

static void op_again_due(struct timer *t)
{
    op_wake(container_of(t, struct op, again));
}

/* Message and results must fit: see lane_op_arena. */
static void op_copy_message(struct op *op, const struct message *m)
{
    uint64_t body = frame_body_len(&m->frame);
    uint8_t *p = arena_alloc(&op->arena, body + m->frame.data_len);
    uint64_t records = (uint64_t)m->frame.record_n * WIRE_RECORD;

    MUST(p);
    op->msg.frame = m->frame;
    op->msg.records = p;
    memcpy(p, m->records, records);
    op->msg.keys = p + records;
    memcpy(p + records, m->keys, m->frame.keys_len);
    op->msg.env = op->msg.keys + m->frame.keys_len;
    memcpy(p + records + m->frame.keys_len, m->env, m->frame.env_len);
    op->msg.data = m->frame.data_len ? p + body : NULL;
    if (m->frame.data_len)
        memcpy(p + body, m->data, m->frame.data_len);
}

static uint64_t op_deadline_ns(const struct op *op)
{
    uint64_t us = op->msg.frame.deadline_us;

    us = min_u64(us, op->lane->cfg->limits.deadline_us);
    return op->begin_ns + us * NS_PER_US;
}

void op_begin(struct peer *p, const struct message *m, int fd)
{
    struct lane *l = p->lane;
    uint64_t bytes = request_bytes(m, &l->limits);
    enum err e = admit(p, m, bytes);
    struct op *op = e ? NULL : pool_get(&l->ops);

    if (!op) {
        if (fd >= 0)
            close(fd);
        batch_skip(p->tp, m, &l->limits, 0);
        op_refuse(p, &m->frame, e ? e : ERR_BUSY);
        return;
    }
    memset(op, 0, sizeof *op);
    op->magic = OP_MAGIC;
    op->id = m->frame.op;
    op->lane = l;
    op->peer = p;
    op->fd = fd;
    op->begin_ns = l->env.now_ns;
    op->bytes = bytes;
    list_init(&op->wait);
    arena_init(&op->arena, op + 1, l->op_arena_bytes);
    op_copy_message(op, m);
    list_add_tail(&p->ops, &op->node);
    p->op_n++;
    p->op_total++;
    p->op_bytes += bytes;
    metric_add(&l->metrics.requests[op->id], 1);
    metric_set(&l->metrics.ops_inflight, pool_used(&l->ops));
    trace_add(&l->trace, l->env.now_ns, TRACE_OP_BEGIN, op->id, m->frame.req,
              p->tp->id);
    timer_start(&l->timers, &op->deadline, op_deadline_ns(op), op_late);
    op_machine_of(op)->tick(op);
}

void op_goto(struct op *op, uint8_t state)
{
    const struct op_machine *m = op_machine_of(op);

    MUST(state < OP_STATES_MAX);
    MUST(m->states[op->state].next & NEXT(state));
    op->state = state;
    trace_add(&op->lane->trace, op->lane->env.now_ns, TRACE_OP_STATE, op->id,
              op->msg.frame.req, state);
}

void op_wake(struct op *op)
{
    MUST(op->magic == OP_MAGIC);
    if (op->pending == 0 && !op->replied)
        op_machine_of(op)->tick(op);
}

void op_done_one(struct op *op)
{
    MUST(op->magic == OP_MAGIC && op->pending > 0);
    op->pending--;
    op_wake(op);
}

void op_again(struct op *op, uint64_t delay_ns)
{
    timer_start(&op->lane->timers, &op->again, op->lane->env.now_ns + delay_ns,
                op_again_due);
}

/* Freed memory wakes some waiters (lane_turn); the others and those that a wake
 * missed look again every millisecond, less often the more there are. */
void op_wait_memory(struct op *op)
{
    struct lane *l = op->lane;

    list_del(&op->wait);
    list_add_tail(&l->mem_waiters, &op->wait);
    op_again(op, NS_PER_MS * (1 + pool_used(&l->ops) / 64));
}

static void op_end(struct op *op)
{
    struct peer *p = op->peer;
    struct lane *l = op->lane;
    uint64_t took = env_fresh_ns(&l->env) - op->begin_ns;

    MUST(op->pending == 0);
    trace_add(&l->trace, l->env.now_ns, TRACE_OP_END, op->id, op->msg.frame.req,
              (uint64_t)(int64_t)op->send.frame.status);
    hist_add(&l->metrics.request_seconds[op->id], took);
    timer_stop(&l->timers, &op->deadline);
    timer_stop(&l->timers, &op->again);
    list_del(&op->wait);
    list_del(&op->node);
    layouts_give(op);
    if (op->fd >= 0)
        close(op->fd);
    p->op_n--;
    p->op_bytes -= op->bytes;
    op->magic = 0;
    pool_put(&l->ops, op);
    metric_set(&l->metrics.ops_inflight, pool_used(&l->ops));
    peer_reap(p);
}

static void op_sent(struct tp_send *s, enum err e)
{
    struct op *op = container_of(s, struct op, send);

    (void)e; /* a peer that cannot be answered is gone: closed() says so */
    peer_reply_done(op->peer);
    op_end(op);
}

void op_reply(struct op *op, enum err status)
{
    struct wire_frame *f = &op->send.frame;

    MUST(!op->replied && op->pending == 0);
    op->replied = true;
    f->kind = WIRE_REPLY;
    f->op = op->id;
    f->req = op->msg.frame.req;
    f->status = status;
    if (status)
        metric_add(&op->lane->metrics.requests_failed[op->id], 1);
    if (op->gone) {
        op_end(op);
        return;
    }
    frame_seal(f, op->send.body, frame_body_len(f));
    if (f->op != OP_LOAN_ATTACH)
        op->send.fd = -1;
    op->send.done = op_sent;
    peer_reply_begin(op->peer);
    op->peer->tp->t->ops->send(op->peer->tp, &op->send);
}

struct op_results *op_results_new(struct op *op, const struct wire_batch *head,
                                  uint32_t n)
{
    struct op_results *r =
        arena_zalloc(&op->arena, sizeof *r + (size_t)n * WIRE_RECORD);

    MUST(r); /* the arena is sized for the largest batch */
    r->head.ns = head->ns;
    r->head.generation = head->generation;
    r->head.epoch = op->lane->epoch;
    r->head.cols = head->cols;
    r->head.key_n = n;
    r->head.trace = head->trace;
    return r;
}

void op_reply_batch(struct op *op, struct op_results *r, const void *keys,
                    uint32_t keys_len)
{
    struct metrics *m = &op->lane->metrics;
    uint32_t n = r->head.key_n;

    metric_add(&m->keys[op->id], n);
    for (uint32_t i = 0; i < n; i++)
        metric_add(&m->results[-r->results[i].status], 1);
    op->send.frame.record_n = n + 1;
    op->send.frame.keys_len = keys_len;
    op->send.body = r;
    /* The keys lie right behind the results (op_lookup.c makes room). */
    MUST(keys_len == 0 || keys == &r->results[n]);
    op_reply(op, OK);
}

void op_reply_msg(struct op *op, enum err status, const void *message)
{
    size_t len;
    const void *env = msg_pack(message, &op->arena, &len);

    if (!env || WIRE_RECORD + len > op->lane->limits.message_bytes) {
        op_reply(op, ERR_LIMIT);
        return;
    }
    op->send.frame.env_len = (uint32_t)len;
    op->send.body = env;
    op_reply(op, status);
}

void *op_unpack(struct op *op, const void *descriptor)
{
    struct arena part = op->arena; /* what answers it has its own room */
    void *m;

    part.cap = min_u64(part.cap, part.used + OP_UNPACK_BYTES);
    m = msg_unpack(descriptor, &part, op->msg.env, op->msg.frame.env_len);
    op->arena.used = part.used;
    return m;
}

/* Only who may act for the daemon's user, by the kernel's word: the socket's
 * mode lets clients in, not operators, and over a network nobody vouches. */
bool op_operator(const struct op *op)
{
    const struct tp_cred *c = &op->peer->tp->cred;

    return c->pid && (c->uid == 0 || c->uid == op->lane->own_uid);
}
