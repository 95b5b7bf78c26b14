/* SPDX-License-Identifier: Apache-2.0
 *
 * What leaves over UCX: replies (send) and the bytes of GETs (push).
 *
 * A push walks its spans and hands UCX one message at a time:
 *
 *   the run of bytes at hand        goes as
 *   >= TP_RNDV_MIN                  one rendezvous for the run
 *   >= TP_PIECE_BYTES               a piece of TP_PIECE_BYTES, eager
 *   less, and it is the last        one piece, eager
 *   less, and runs follow           gathered into a stage, eager: a client does
 *                                   not pay one message per small extent
 *
 * Eager pieces of this size fit one segment of UCX's tcp, so neither side
 * assembles or allocates. Every part has its own header in its ucx_out, since
 * 1.13 keeps the pointer until the send completes. Runs are sent one by one
 * instead of as a scatter list: on the sender's side that is three times faster
 * (UCX.md), and each run keeps its zero-copy path.
 *
 * Bounds: UCX_PUSH_WINDOW parts of one push, UCX_PEER_WINDOW of one peer, and
 * the pool of ucx_outs for all. Who finds a pool empty is on t->starved and
 * tried again when something comes back.
 *
 * Eager sends cannot be taken back from UCX 1.13: cancel() of a push with parts
 * in flight costs the connection. */
#include <string.h>

#include "base/copy.h"
#include "base/fault.h"
#include "rpc/transport_ucx_int.h"

/* ---- ucx_out: one message in UCX's hands --------------------------------- */

static struct ucx_out *out_get(struct ucx_peer *p, bool stage)
{
    struct transport_ucx *t = ucx_of(&p->tp);
    struct ucx_out *o = pool_get(&t->outs);

    if (o) {
        *o = (struct ucx_out){.peer = p};
        list_init(&o->node);
        o->stage = stage ? pool_get(&t->stages) : NULL;
        if (!stage || o->stage)
            return o;
        pool_put(&t->outs, o);
    }
    list_del(&p->due);
    list_add_tail(&t->starved, &p->due);
    return NULL;
}

/* One peer that found no room tries again. */
static void starved_retry(struct transport_ucx *t)
{
    struct list *n = list_pop(&t->starved);

    if (n)
        ucx_peer_due(container_of(n, struct ucx_peer, due));
}

static void out_put(struct ucx_out *o)
{
    struct transport_ucx *t = ucx_of(&o->peer->tp);

    if (o->stage)
        pool_put(&t->stages, o->stage);
    pool_put(&t->outs, o);
    starved_retry(t);
}

/* UCX is done with the message; it may be inside any call to UCX. */
static void out_done(void *request, ucs_status_t s, void *arg)
{
    struct ucx_out *o = arg;
    struct transport_ucx *t = ucx_of(&o->peer->tp);

    if (request)
        ucp_request_free(request);
    MUST(o->peer->ucx_n > 0);
    o->peer->ucx_n--;
    o->err = ucx_err(s);
    list_add_tail(&t->acked, &o->node);
}

static void out_start(struct ucx_out *o, const struct wire_frame *header,
                      const void *p, uint64_t len, unsigned mode)
{
    ucp_request_param_t q = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                        UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS |
                        UCP_OP_ATTR_FIELD_MEMORY_TYPE,
        .flags = mode,
        .cb.send = out_done,
        .memory_type = UCS_MEMORY_TYPE_HOST,
        .user_data = o,
    };
    ucs_status_ptr_t r;

    o->peer->ucx_n++;
    o->len = len;
    r = fault_here("ucx_send")
            ? UCS_STATUS_PTR(UCS_ERR_NO_MEMORY)
            : ucp_am_send_nbx(o->peer->ep, UCX_AM_REPLY, header,
                              sizeof(*header), p, len, &q);
    if (!UCS_PTR_IS_PTR(r))
        out_done(NULL, UCS_PTR_STATUS(r), o);
}

/* ---- Replies ------------------------------------------------------------- */

/* Body and inline data one behind the other. */
static uint64_t send_gather(const struct tp_send *s, uint8_t *to)
{
    uint64_t n = frame_body_len(&s->frame);

    if (n)
        memcpy(to, s->body, n);
    for (uint32_t i = 0; i < s->data_n; i++) {
        memcpy(to + n, s->data[i].p, s->data[i].len);
        n += s->data[i].len;
    }
    return n;
}

static bool send_start(struct ucx_peer *p, struct tp_send *s)
{
    struct ucx_out *o = out_get(p, s->data_n > 0);
    const void *from = s->body;
    uint64_t len = frame_body_len(&s->frame);

    if (!o)
        return false;
    o->send = s;
    if (o->stage) {
        len = send_gather(s, o->stage);
        from = o->stage;
    }
    out_start(o, &s->frame, from, len, UCP_AM_SEND_FLAG_EAGER);
    return true;
}

void ucx_out_send(struct tp_peer *tp, struct tp_send *s)
{
    struct ucx_peer *p = ucx_peer_of(tp);
    struct transport_ucx *t = ucx_of(tp);

    MUST(frame_body_len(&s->frame) + s->frame.data_len <= t->stage_bytes);
    p->calls_n++;
    s->tp = p;
    if (!ucx_peer_serves(p))
        list_add_tail(&t->unsent, &s->node);
    else if (!list_empty(&p->waiting) || !send_start(p, s))
        list_add_tail(&p->waiting, &s->node);
}

static void sends_start(struct ucx_peer *p)
{
    while (!list_empty(&p->waiting)) {
        struct tp_send *s = container_of(p->waiting.next, struct tp_send, node);

        if (!send_start(p, s))
            return;
        list_del(&s->node);
    }
}

/* ---- Pushes -------------------------------------------------------------- */

static void push_forward(struct ucx_push *q, uint64_t n)
{
    const struct tp_xfer *x = q->x;

    q->off += n;
    while (n > 0) {
        uint64_t run = min_u64(n, x->spans[q->span].len - q->span_off);

        n -= run;
        q->span_off += run;
        if (q->span_off == x->spans[q->span].len) {
            q->span++;
            q->span_off = 0;
        }
    }
    while (q->span < x->span_n && x->spans[q->span].len == 0)
        q->span++;
}

/* Copies the next runs, TP_PIECE_BYTES at most; returns how much. */
static uint64_t push_gather(const struct ucx_push *q, uint8_t *to)
{
    uint64_t n = 0, off = q->span_off;

    for (uint32_t i = q->span; i < q->x->span_n && n < TP_PIECE_BYTES; i++) {
        uint64_t run = min_u64(q->x->spans[i].len - off, TP_PIECE_BYTES - n);

        memcpy(to + n, q->x->spans[i].p + off, run);
        n += run;
        off = 0;
    }
    return n;
}

/* Hands the next part to UCX. false: no room now. */
static bool push_part(struct ucx_push *q)
{
    const struct tp_xfer *x = q->x;
    uint64_t run = x->spans[q->span].len - q->span_off;
    bool rndv = run >= TP_RNDV_MIN;
    bool gather = run < TP_PIECE_BYTES && q->off + run < x->len;
    struct ucx_out *o = out_get(q->peer, gather);
    const uint8_t *from = x->spans[q->span].p + q->span_off;

    if (!o)
        return false;
    if (gather) {
        run = push_gather(q, o->stage);
        from = o->stage;
    } else if (!rndv) {
        run = min_u64(run, TP_PIECE_BYTES);
    }
    o->push = q;
    o->frame = (struct wire_frame){
        .kind = WIRE_DATA,
        .op = OP_GET,
        .req = x->req,
        .data_len = run,
        .data_off = q->off,
        .data_idx = x->idx,
    };
    frame_seal(&o->frame, NULL, 0);
    push_forward(q, run);
    q->parts_n++;
    q->peer->parts_n++;
    out_start(o, &o->frame, from, run,
              rndv ? UCP_AM_SEND_FLAG_RNDV : UCP_AM_SEND_FLAG_EAGER);
    return true;
}

/* Ends the push when nothing of it is in flight or left to hand over. */
static void push_settle(struct ucx_push *q)
{
    struct transport_ucx *t = ucx_of(&q->peer->tp);

    if (q->parts_n > 0 || (q->off < q->x->len && !q->err))
        return;
    list_del(&q->node);
    ucx_xfer_end(t, q->x, q->canceled ? ERR_CANCELED : q->err);
    pool_put(&t->pushes, q);
}

/* false: the peer has no room for more. */
static bool push_run(struct ucx_push *q)
{
    while (q->off < q->x->len && !q->err) {
        if (q->parts_n == UCX_PUSH_WINDOW)
            return true;
        if (q->peer->parts_n == UCX_PEER_WINDOW || !push_part(q))
            return false;
    }
    list_del(&q->node);
    return true;
}

void ucx_out_push(struct tp_peer *tp, struct tp_xfer *x)
{
    struct ucx_peer *p = ucx_peer_of(tp);
    struct transport_ucx *t = ucx_of(tp);
    struct ucx_push *q;

    p->calls_n++;
    x->moved = 0;
    list_init(&x->node);
    q = ucx_peer_serves(p) && x->len > 0 ? pool_get(&t->pushes) : NULL;
    if (!q) {
        ucx_xfer_end(t, x,
                     !ucx_peer_serves(p) ? ERR_PEER_GONE
                     : x->len == 0       ? OK
                                         : ERR_BUSY);
        return;
    }
    *q = (struct ucx_push){.peer = p, .x = x};
    push_forward(q, 0);
    x->tp = q;
    list_add_tail(&p->pushes, &q->node);
    ucx_peer_due(p);
}

void ucx_out_cancel(struct tp_xfer *x)
{
    struct ucx_push *q = x->tp;

    q->canceled = true;
    q->err = ERR_CANCELED;
    if (q->parts_n > 0)
        ucx_peer_kill(q->peer);
    else
        push_settle(q);
}

/* ---- The turn ------------------------------------------------------------ */

static void part_acked(struct ucx_out *o)
{
    struct ucx_push *q = o->push;

    MUST(q->parts_n > 0 && q->peer->parts_n > 0);
    q->parts_n--;
    q->peer->parts_n--;
    if (!o->err)
        q->x->moved += o->len;
    else if (!q->err)
        q->err = o->err;
    ucx_peer_due(q->peer);
    push_settle(q);
}

static void send_acked(struct ucx_out *o)
{
    struct ucx_peer *p = o->peer;
    struct tp_send *s = o->send;
    enum err e = o->err;

    out_put(o);
    p->calls_n--;
    if (p->state != UCX_OPEN)
        ucx_peer_due(p);
    s->done(s, e);
}

bool ucx_out_run(struct transport_ucx *t)
{
    struct list *n;
    bool any = false;
    uint32_t left = pool_used(&t->outs);

    while (left-- > 0 && (n = list_pop(&t->acked))) {
        struct ucx_out *o = container_of(n, struct ucx_out, node);

        any = true;
        if (o->send) {
            send_acked(o);
        } else {
            part_acked(o);
            out_put(o);
        }
    }
    if (pool_used(&t->outs) == 0)
        starved_retry(t); /* nothing will come back to wake it */
    return any;
}

void ucx_out_peer(struct ucx_peer *p)
{
    sends_start(p);
    LIST_FOREACH_SAFE(n, &p->pushes)
    {
        struct ucx_push *q = container_of(n, struct ucx_push, node);

        if (!push_run(q))
            return;
    }
}

void ucx_out_drop(struct ucx_peer *p)
{
    struct transport_ucx *t = ucx_of(&p->tp);
    struct list *n;

    while ((n = list_pop(&p->waiting)))
        list_add_tail(&t->unsent, n);
    while ((n = list_pop(&p->pushes))) {
        struct ucx_push *q = container_of(n, struct ucx_push, node);

        if (!q->err)
            q->err = ERR_PEER_GONE;
        push_settle(q);
    }
}
