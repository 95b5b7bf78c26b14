/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of calls and parts: taken from free lists (nothing is allocated on
 * the way of a call once its arrays have grown), begun, ended, expired.
 *
 *     call_take -> parts -> call_begin -> call_part_ended x parts -> done
 *
 *  1. call->open_parts counts the parts that the call still waits for. The one
 *     that brings it to zero finishes the call.
 *  2. At the deadline a queued part ends; a sent one is given up. Where the
 *     daemon could still touch the caller's memory (give_up says false) the
 *     call waits up to GRACE_MS for the reply, which normally is on its way.
 *  3. An abandoned part keeps its slot, credit and staging until its reply is
 *     dropped or its connection has ended.
 *  4. A part that ucx still uses when it is given becomes a zombie, which the
 *     last completion gives again.
 *  5. on_done of an internal call runs once, whatever happens. */
#include "client/hedge.h"

#include <stdlib.h>
#include <string.h>

static const uint32_t op_deadline_us[OP_N] = {
#define OP(id, NAME, name, body, since, us, per_mib, idem, doc) [id] = us,
#include "proto/ops.tbl"
};

static const uint32_t op_per_mib_us[OP_N] = {
#define OP(id, NAME, name, body, since, us, per_mib, idem, doc) [id] = per_mib,
#include "proto/ops.tbl"
};

uint64_t call_deadline_ns(uint16_t op, uint64_t deadline_us, uint64_t bytes,
                          uint64_t now)
{
    if (deadline_us == 0)
        deadline_us = op_deadline_us[op] +
                      op_per_mib_us[op] * ((bytes + MIB(1) - 1) >> 20);
    return now + deadline_us * NS_PER_US;
}

bool part_room(void **array, uint32_t *cap, uint32_t n, size_t item)
{
    uint32_t want = *cap ? *cap : 16;
    void *p;

    if (n <= *cap)
        return true;
    while (want < n)
        want *= 2;
    p = realloc(*array, want * item);
    if (!p)
        return false;
    *array = p;
    *cap = want;
    return true;
}

struct call *call_take(struct pikv *kv, bool internal)
{
    struct list *l;
    struct call *c;

    if (!internal && kv->call_free_n == 0)
        return NULL;
    l = list_pop(&kv->free_calls);
    c = l ? container_of(l, struct call, node) : calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    list_init(&c->node);
    list_init(&c->tell_node);
    list_init(&c->parts);
    c->id = 0;
    c->slot = UINT32_MAX;
    c->user = c->arg = NULL;
    c->open_parts = c->n = c->prefix = c->count = c->cols = 0;
    c->late = c->waited = c->done = c->verify = c->everywhere = c->tells =
        false;
    c->ready_n = c->told_n = 0;
    c->spreads = false;
    c->status = 0;
    c->results = NULL;
    c->stops = NULL;
    c->on_done = NULL;
    if (!internal) {
        c->slot = kv->call_free[--kv->call_free_n];
        c->id = (++kv->call_serial << 16) | c->slot;
        kv->calls[c->slot] = c;
    }
    return c;
}

void call_give(struct pikv *kv, struct call *c)
{
    list_del(&c->node);
    list_del(&c->tell_node);
    spread_end(c);
    if (c->id) {
        kv->calls[c->slot] = NULL;
        kv->call_free[kv->call_free_n++] = c->slot;
    }
    list_add_head(&kv->free_calls, &c->node);
}

struct part *part_take(struct pikv *kv, struct call *c, struct conn *conn)
{
    struct list *l = list_pop(&kv->free_parts);
    struct part *p =
        l ? container_of(l, struct part, node) : calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    list_init(&p->node);
    p->call = c;
    p->conn = conn;
    p->state = PART_PLANNED;
    p->gate = GATE_NONE;
    p->op = c->op;
    p->direct = p->replied = p->zombie = p->has_idx = false;
    p->fd = -1;
    p->req = p->bytes = p->staged_bytes = p->inline_bytes = 0;
    p->n = p->first = p->cap_mib = p->iov_n = p->record_n = p->keys_len =
        p->msg_len = 0;
    p->ns = 0;
    p->stage = (struct stage){0, 0};
    p->own = NULL;
    p->status = 0;
    p->tp_pending = p->rndv = 0;
    p->asked = 0;
    p->no_loans = p->busy = p->lost = p->sided = false;
    p->kind = LEG_ITEM;
    p->twin = NULL;
    p->hedged = p->came = false;
    p->announced = p->landed = p->layout = 0;
    list_add_tail(&c->parts, &p->call_node);
    c->open_parts++;
    return p;
}

void part_give(struct pikv *kv, struct part *p)
{
    list_del(&p->node);
    if (p->req)
        conn_give_slot(p->conn, p);
    p->zombie = p->tp_pending > 0;
    if (p->zombie)
        return;
    staging_give(&kv->staging, &p->stage);
    if (p->own)
        region_drop(kv, p->own);
    p->own = NULL;
    free(p->aside);
    p->aside = NULL;
    p->call = NULL;
    p->state = PART_FREE;
    list_add_head(&kv->free_parts, &p->node);
}

void call_fail_items(struct part *p, int status)
{
    const struct call *c = p->call;

    if (c->spreads && c->everywhere)
        return; /* another line's answer may be there */
    for (uint32_t i = p->landed; c->results && i < p->n; i++)
        *part_result(p, i) = (struct pikv_result){.status = status};
}

static void call_finish(struct pikv *kv, struct call *c)
{
    call_done_fn *on_done = c->on_done;

    list_del(&c->node);
    c->done = true;
    if (!c->id) {
        c->on_done = NULL;
        if (on_done)
            on_done(kv, c, c->status, NULL, 0, -1);
        call_give(kv, c);
        return;
    }
    if (c->spreads) {
        spread_finish(c);
        hedge_took(kv, c);
    }
    if (c->op == OP_LOOKUP)
        reply_lookup(c);
    stats_count(kv, c);
    parts_finish(kv, c);
    if (c->waited)
        pthread_cond_broadcast(&kv->cond);
    else
        list_add_tail(&kv->done, &c->node);
}

void call_begin(struct pikv *kv, struct call *c)
{
    c->due_ns = c->deadline_ns;
    list_add_tail(&kv->inflight, &c->node);
    if (c->due_ns < kv->due_ns)
        kv->due_ns = c->due_ns;
}

void call_unhold(struct pikv *kv, struct call *c)
{
    if (--c->open_parts == 0)
        call_finish(kv, c);
}

/* The call goes on without the part. */
static void call_leave(struct pikv *kv, struct part *p, int status)
{
    struct call *c = p->call;
    int ends = c->spreads ? spread_part_left(kv, p, status) : status;

    if (ends && !c->status)
        c->status = ends;
    if (!status)
        parts_ended(kv, p);
    list_del(&p->call_node);
    if (p->state == PART_SENT)
        list_del(&p->node); /* of what waits to land */
    p->call = NULL;
    call_unhold(kv, c);
}

void call_part_ended(struct pikv *kv, struct part *p, int status)
{
    if (p->call)
        call_leave(kv, p, status);
    part_give(kv, p);
}

static void expire_part(struct pikv *kv, struct part *p, bool last)
{
    if (p->busy)
        return; /* parts.c asks again */
    if (p->state == PART_QUEUED) {
        call_fail_items(p, ERR_TIMEOUT);
        call_part_ended(kv, p, ERR_TIMEOUT);
    } else if (p->state == PART_SENT) {
        if (p->conn->ops->give_up(p->conn, p, last) && p->call) {
            call_fail_items(p, ERR_TIMEOUT);
            call_leave(kv, p, ERR_TIMEOUT);
        }
    }
}

/* The next part of c that has not been asked in this round. */
static struct part *expire_next(struct call *c, uint8_t round)
{
    LIST_FOREACH(l, &c->parts)
    {
        struct part *p = container_of(l, struct part, call_node);

        if (p->asked < round) {
            p->asked = round;
            return p;
        }
    }
    return NULL;
}

/* Ends what of c can be ended. Ending one part may end others, with their
 * connection: so c is kept open by one count, and parts are looked up anew. */
static void expire_call(struct pikv *kv, struct call *c, uint64_t now)
{
    bool last = c->late;
    struct part *p;

    c->late = true;
    c->due_ns = last ? DEADLINE_NEVER : now + GRACE_MS * NS_PER_MS;
    c->open_parts++;
    if (c->spreads && !last)
        spread_expire(kv, c);
    while ((p = expire_next(c, last ? 2 : 1)))
        expire_part(kv, p, last);
    call_unhold(kv, c);
}

uint64_t call_expire(struct pikv *kv, uint64_t now)
{
    while (now >= kv->due_ns) {
        struct call *due = NULL;
        uint64_t next = DEADLINE_NEVER;

        LIST_FOREACH(l, &kv->inflight)
        {
            struct call *c = container_of(l, struct call, node);

            if (c->due_ns <= now && !due)
                due = c;
            else if (c->due_ns < next)
                next = c->due_ns;
        }
        if (!due) {
            kv->due_ns = next;
            break;
        }
        if (due->spreads && now < due->deadline_ns)
            hedge_due(kv, due, now);
        else
            expire_call(kv, due, now);
    }
    return kv->due_ns;
}

/* One part with the message given; records and keys, or an envelope. */
static int call_internal(struct pikv *kv, struct conn *conn,
                         const struct wire_frame *f, const void *body, int fd,
                         uint64_t deadline_ns, call_done_fn *done, void *arg)
{
    size_t len = (size_t)f->record_n * WIRE_RECORD + f->keys_len + f->env_len;
    struct call *c = call_take(kv, true);
    struct part *p;

    if (!c)
        return ERR_NO_MEMORY;
    c->op = f->op;
    c->deadline_ns = deadline_ns;
    p = part_take(kv, c, conn);
    if (!p || !part_room((void **)&p->msg, &p->msg_cap,
                         (uint32_t)(sizeof(*f) + len), 1)) {
        if (p)
            call_part_ended(kv, p, ERR_NO_MEMORY);
        else
            call_give(kv, c);
        return ERR_NO_MEMORY;
    }
    c->on_done = done;
    c->arg = arg;
    memcpy(p->msg, f, sizeof(*f));
    if (len)
        memcpy(p->msg + sizeof(*f), body, len);
    p->msg_len = (uint32_t)(sizeof(*f) + len);
    p->fd = fd;
    call_begin(kv, c);
    conn_send(conn, p);
    return OK;
}

int call_msg(struct pikv *kv, struct conn *conn, uint16_t op, const void *env,
             size_t env_len, int fd, uint64_t deadline_ns, call_done_fn *done,
             void *arg)
{
    struct wire_frame f = {
        .kind = WIRE_REQUEST, .op = op, .env_len = (uint32_t)env_len};

    return call_internal(kv, conn, &f, env, fd, deadline_ns, done, arg);
}

int call_records(struct pikv *kv, struct conn *conn, uint16_t op,
                 const void *body, uint32_t record_n, uint32_t keys_len,
                 uint64_t deadline_ns)
{
    struct wire_frame f = {.kind = WIRE_REQUEST,
                           .op = op,
                           .record_n = record_n,
                           .keys_len = keys_len};

    return call_internal(kv, conn, &f, body, -1, deadline_ns, NULL, NULL);
}

struct msg_wait {
    bool done;
    int status;
    bool want;
    void *reply;
    size_t len;
};

static void msg_wait_done(struct pikv *kv, struct call *c, int status,
                          const void *env, size_t env_len, int fd)
{
    struct msg_wait *w = c->arg;

    (void)fd;
    w->status = status;
    w->done = true;
    if (w->want && env_len) {
        w->reply = malloc(env_len);
        if (w->reply) {
            memcpy(w->reply, env, env_len);
            w->len = env_len;
        } else if (!status) {
            w->status = ERR_NO_MEMORY;
        }
    }
    pthread_cond_broadcast(&kv->cond);
}

int call_msg_wait(struct pikv *kv, struct conn *conn, uint16_t op,
                  const void *env, size_t env_len, int fd, uint64_t deadline_ns,
                  void **reply_out, size_t *len_out)
{
    struct msg_wait w = {.want = reply_out != NULL};
    int e;

    if (conn->state != CONN_UP)
        return ERR_NO_SERVER;
    if (env_len > conn->limits.message_bytes - sizeof(struct wire_frame))
        return ERR_LIMIT;
    e = call_msg(kv, conn, op, env, env_len, fd, deadline_ns, msg_wait_done,
                 &w);
    if (e)
        return e;
    progress_submitted(kv, now_ns());
    progress_wait(kv, &w.done);
    if (reply_out) {
        *reply_out = w.reply;
        *len_out = w.len;
    }
    return w.status;
}
