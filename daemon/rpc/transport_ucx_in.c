/* SPDX-License-Identifier: Apache-2.0
 *
 * What arrives over UCX: messages, and the bytes of PUTs.
 *
 * UCX keeps every payload in a descriptor until it is released; the handler
 * only checks the header and queues. A message becomes a ucx_mail and is shown
 * to the lane by the next visit of its peer. Data becomes part of a slot, named
 * by (peer, request, index of the key):
 *
 *              pull                        data
 *   WANTED <--------- (none) ---------> HELD
 *     |  \               | skip           | pull      | skip: released
 *     |   \ cancel       v                |
 *     |    ----------> SKIP --data--> released
 *     | data                              |
 *     +------------> READY <--------------+
 *                      | eager: copied into the spans, ended
 *                      | rendezvous
 *                      v
 *                   MOVING --UCX--> LANDED --checksum--> ended
 *
 * HELD and SKIP are bytes and promises of the peer that nobody waits for: they
 * are counted, with the mails, against held_max and held_bytes, and beyond them
 * the peer is cut. A rendezvous that is held costs its descriptor only; one
 * that is released unread is answered by UCX, so the sender's send completes.
 *
 * A SKIP ends with its data. So skip() and cancel() are said once per key, and
 * not after the pull has completed.
 *
 * Several spans: UCX receives a rendezvous into a scatter list (its datatype
 * IOV), which costs it the direct write that one span gets, never a copy of
 * ours. The checksum is taken of the extent afterwards, in slices of the turn's
 * budget. */
#include <string.h>

#include "base/copy.h"
#include "base/fault.h"
#include "base/hash.h"
#include "rpc/transport_ucx_int.h"

enum { UCX_MAILS = 16 }; /* messages of one peer per visit */

/* A span is what UCX calls an IOV entry. */
static_assert(sizeof(struct span) == sizeof(ucp_dt_iov_t), "size");
static_assert(offsetof(struct span, p) == offsetof(ucp_dt_iov_t, buffer),
              "pointer");
static_assert(offsetof(struct span, len) == offsetof(ucp_dt_iov_t, length),
              "length");

/* ---- Slots --------------------------------------------------------------- */

static struct list *slot_bucket(struct transport_ucx *t,
                                const struct ucx_peer *p, uint64_t req,
                                uint32_t idx)
{
    uint64_t h = (uint64_t)(uintptr_t)p ^ (req * UINT64_C(0xff51afd7ed558ccd));

    h = (h ^ (h >> 29) ^ idx) * UINT64_C(0x9e3779b97f4a7c15);
    return &t->wants[(h >> 32) & (t->wants_n - 1)];
}

static struct ucx_slot *slot_find(struct ucx_peer *p, uint64_t req,
                                  uint32_t idx)
{
    struct list *b = slot_bucket(ucx_of(&p->tp), p, req, idx);

    LIST_FOREACH(n, b)
    {
        struct ucx_slot *s = container_of(n, struct ucx_slot, by_key);

        if (s->peer == p && s->req == req && s->idx == idx)
            return s;
    }
    return NULL;
}

static struct ucx_slot *slot_new(struct ucx_peer *p, uint64_t req, uint32_t idx,
                                 enum ucx_slot_state state)
{
    struct transport_ucx *t = ucx_of(&p->tp);
    struct ucx_slot *s = pool_get(&t->slots);

    if (!s)
        return NULL;
    *s = (struct ucx_slot){.peer = p, .req = req, .idx = idx, .state = state};
    list_add_tail(slot_bucket(t, p, req, idx), &s->by_key);
    list_add_tail(&p->slots, &s->node);
    list_init(&s->queue);
    return s;
}

static void slot_free(struct ucx_slot *s)
{
    struct transport_ucx *t = ucx_of(&s->peer->tp);

    MUST(s->state != UCX_MOVING && !s->data);
    list_del(&s->by_key);
    list_del(&s->node);
    list_del(&s->queue);
    pool_put(&t->slots, s);
}

static void slot_release(struct ucx_slot *s)
{
    if (s->data)
        ucp_am_data_release(ucx_of(&s->peer->tp)->worker, s->data);
    s->data = NULL;
}

/* Ends the pull of a slot, and the slot. */
static void slot_end(struct ucx_slot *s, enum err e)
{
    struct transport_ucx *t = ucx_of(&s->peer->tp);
    struct tp_xfer *x = s->x;

    slot_release(s);
    x->crc = s->crc;
    x->moved = e ? 0 : s->len;
    ucx_xfer_end(t, x, e);
    slot_free(s);
}

static void slot_ready(struct ucx_slot *s)
{
    s->state = UCX_READY;
    list_add_tail(&ucx_of(&s->peer->tp)->ready, &s->queue);
}

/* ---- What a peer may leave lying here ------------------------------------ */

/* Counts one more thing held; false: the peer is over its limits. */
static bool hold_more(struct ucx_peer *p, uint64_t bytes)
{
    const struct transport_ucx_cfg *c = &ucx_of(&p->tp)->cfg;

    if (p->held_n >= c->held_max || bytes > c->held_bytes - p->held_bytes)
        return false;
    p->held_n++;
    p->held_bytes += bytes;
    return true;
}

static void hold_less(struct ucx_peer *p, uint64_t bytes)
{
    MUST(p->held_n > 0 && p->held_bytes >= bytes);
    p->held_n--;
    p->held_bytes -= bytes;
}

/* A rendezvous that waits costs nothing but its descriptor. */
static uint64_t slot_cost(const struct ucx_slot *s)
{
    return s->rndv ? 0 : s->len;
}

/* ---- Arrival: inside UCX ------------------------------------------------- */

/* Queues a message; NULL data: only to say that the peer sent nonsense. Returns
 * what the handler returns to UCX. */
static ucs_status_t mail_arrives(struct ucx_peer *p, const struct wire_frame *f,
                                 void *data, size_t len)
{
    struct transport_ucx *t = ucx_of(&p->tp);
    struct ucx_mail *m;

    if (p->state != UCX_OPEN)
        return UCS_OK;
    if (!hold_more(p, len)) {
        ucx_peer_kill(p);
        return UCS_OK;
    }
    m = pool_get(&t->mails);
    if (!m) {
        hold_less(p, len);
        ucx_peer_kill(p);
        return UCS_OK;
    }
    *m = (struct ucx_mail){.data = data, .len = len, .bad = !data};
    if (f)
        m->frame = *f;
    list_add_tail(&p->mails, &m->node);
    ucx_peer_due(p);
    return data ? UCS_INPROGRESS : UCS_OK;
}

static bool data_frame_ok(struct transport_ucx *t, const struct wire_frame *f,
                          size_t len)
{
    struct message m;

    return frame_read(f, NULL, 0, t->base.limits, &m) == OK &&
           f->data_len == len && f->data_off == 0;
}

/* NULL: the peer is over its limits. */
static struct ucx_slot *slot_held_new(struct ucx_peer *p,
                                      const struct wire_frame *f, uint64_t cost)
{
    struct ucx_slot *s;

    if (!hold_more(p, cost))
        return NULL;
    s = slot_new(p, f->req, f->data_idx, UCX_HELD);
    if (!s)
        hold_less(p, cost);
    return s;
}

static ucs_status_t data_arrives(struct ucx_peer *p, const struct wire_frame *f,
                                 void *data, size_t len, bool rndv)
{
    struct ucx_slot *s;

    if (!ucx_peer_serves(p))
        return UCS_OK;
    if (!data_frame_ok(ucx_of(&p->tp), f, len))
        return mail_arrives(p, f, NULL, 0);
    s = slot_find(p, f->req, f->data_idx);
    if (s && s->state == UCX_SKIP) {
        hold_less(p, 0);
        slot_free(s);
        return UCS_OK;
    }
    if (s && s->state != UCX_WANTED)
        return mail_arrives(p, f, NULL, 0); /* the same bytes twice */
    if (!s)
        s = slot_held_new(p, f, rndv ? 0 : len);
    if (!s) {
        ucx_peer_kill(p);
        return UCS_OK;
    }
    s->data = data;
    s->len = len;
    s->rndv = rndv;
    if (s->state == UCX_WANTED)
        slot_ready(s);
    return UCS_INPROGRESS;
}

/* UCX's handler of everything that clients send. */
static ucs_status_t am_arrives(void *arg, const void *header, size_t header_len,
                               void *data, size_t len,
                               const ucp_am_recv_param_t *param)
{
    struct transport_ucx *t = arg;
    struct ucx_peer *p = NULL;
    bool rndv = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
    struct wire_frame f;

    if (param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP)
        p = ucx_peer_find(t, param->reply_ep);
    if (!p) { /* no way to tell from whom; or its peer has just been cut */
        metric_add(&t->base.metrics->frames_bad, 1);
        return UCS_OK;
    }
    if (header_len != sizeof(f))
        return mail_arrives(p, NULL, NULL, 0);
    memcpy(&f, header, sizeof(f));
    if (f.magic == WIRE_MAGIC && f.kind == WIRE_DATA)
        return data_arrives(p, &f, data, len, rndv);
    if (rndv || f.kind != WIRE_REQUEST)
        return mail_arrives(p, &f, NULL, 0);
    return mail_arrives(p, &f, data, len);
}

enum err ucx_in_listen(struct transport_ucx *t)
{
    ucp_am_handler_param_t a = {
        .field_mask =
            UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
            UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = UCX_AM_REQUEST,
        .flags = UCP_AM_FLAG_PERSISTENT_DATA, /* payloads may be kept */
        .cb = am_arrives,
        .arg = t,
    };

    return ucx_err(ucp_worker_set_am_recv_handler(t->worker, &a));
}

/* ---- Messages to the lane ------------------------------------------------ */

static void mail_free(struct ucx_peer *p, struct ucx_mail *m)
{
    struct transport_ucx *t = ucx_of(&p->tp);

    if (m->data)
        ucp_am_data_release(t->worker, m->data);
    hold_less(p, m->len);
    pool_put(&t->mails, m);
}

static void mail_show(struct ucx_peer *p, const struct ucx_mail *m)
{
    const struct transport *t = &ucx_of(&p->tp)->base;
    struct message msg = {0};
    enum err e = frame_read(&m->frame, m->data, m->len, t->limits, &msg);

    if (!e && m->bad)
        e = ERR_BAD_REQUEST;
    if (!e) {
        t->events->message(t->lane, &p->tp, &msg, -1);
        return;
    }
    t->events->bad(t->lane, &p->tp, &msg, e);
    if (msg.frame.req == 0 && p->state == UCX_OPEN)
        ucx_peer_close(&p->tp, false);
}

void ucx_in_mails(struct ucx_peer *p)
{
    uint32_t left = UCX_MAILS;
    struct list *n;

    while (left > 0 && p->state == UCX_OPEN && (n = list_pop(&p->mails))) {
        struct ucx_mail *m = container_of(n, struct ucx_mail, node);

        left--;
        mail_show(p, m);
        mail_free(p, m);
    }
    if (left == 0)
        ucx_peer_due(p);
}

void ucx_in_drop_mails(struct ucx_peer *p)
{
    struct list *n;

    while ((n = list_pop(&p->mails)))
        mail_free(p, container_of(n, struct ucx_mail, node));
}

/* ---- The lane's calls ---------------------------------------------------- */

void ucx_in_pull(struct tp_peer *tp, struct tp_xfer *x)
{
    struct ucx_peer *p = ucx_peer_of(tp);
    struct transport_ucx *t = ucx_of(tp);
    struct ucx_slot *s;

    p->calls_n++;
    x->moved = 0;
    x->crc = 0;
    list_init(&x->node);
    if (!ucx_peer_serves(p)) {
        ucx_xfer_end(t, x, ERR_PEER_GONE);
        return;
    }
    s = slot_find(p, x->req, x->idx);
    if (!s)
        s = slot_new(p, x->req, x->idx, UCX_WANTED);
    else if (s->state != UCX_HELD)
        s = NULL; /* the client uses a request id twice */
    if (!s) {
        ucx_xfer_end(t, x, ERR_BUSY);
        return;
    }
    s->x = x;
    x->tp = s;
    if (s->state == UCX_HELD) {
        hold_less(p, slot_cost(s));
        slot_ready(s);
    }
}

/* The bytes of this key are not wanted when they come. */
static void slot_expect_none(struct ucx_peer *p, uint64_t req, uint32_t idx)
{
    if (!hold_more(p, 0)) {
        ucx_peer_kill(p);
        return;
    }
    if (!slot_new(p, req, idx, UCX_SKIP)) {
        hold_less(p, 0);
        ucx_peer_kill(p);
    }
}

void ucx_in_skip(struct tp_peer *tp, uint64_t req, uint32_t idx)
{
    struct ucx_peer *p = ucx_peer_of(tp);
    struct ucx_slot *s;

    if (!ucx_peer_serves(p))
        return;
    s = slot_find(p, req, idx);
    if (!s) {
        slot_expect_none(p, req, idx);
    } else if (s->state == UCX_HELD) {
        hold_less(p, slot_cost(s));
        slot_release(s);
        slot_free(s);
    }
}

void ucx_in_cancel(struct tp_xfer *x)
{
    struct ucx_slot *s = x->tp;
    struct ucx_peer *p = s->peer;
    bool awaited = s->state == UCX_WANTED;

    if (s->state == UCX_MOVING) {
        s->canceled = true;
        ucx_peer_kill(p);
        return;
    }
    slot_end(s, ERR_CANCELED);
    if (awaited && ucx_peer_serves(p))
        slot_expect_none(p, x->req, x->idx);
}

/* ---- The turn ------------------------------------------------------------ */

static void spend(struct transport_ucx *t, uint64_t bytes)
{
    t->budget -= min_u64(t->budget, bytes);
}

static void slot_copy(struct ucx_slot *s)
{
    const struct tp_xfer *x = s->x;
    const uint8_t *from = s->data;

    for (uint32_t i = 0; i < x->span_n; i++) {
        const struct span *sp = &x->spans[i];

        if (x->want_crc)
            s->crc = copy_crc(sp->p, from, sp->len, s->crc);
        else
            memcpy(sp->p, from, sp->len);
        from += sp->len;
    }
    spend(ucx_of(&s->peer->tp), s->len);
    slot_end(s, OK);
}

/* UCX has given the spans back. It may be inside ucp_am_recv_data_nbx. */
static void slot_landed(void *request, ucs_status_t status, size_t len,
                        void *arg)
{
    struct ucx_slot *s = arg;

    (void)len; /* 1.13 tells the buffer's, not the message's */
    MUST(s->state == UCX_MOVING && s->peer->ucx_n > 0);
    s->peer->ucx_n--;
    s->err = ucx_err(status);
    s->state = UCX_LANDED;
    list_add_tail(&ucx_of(&s->peer->tp)->landed, &s->queue);
    ucp_request_free(request);
}

static void slot_receive(struct ucx_slot *s)
{
    const struct tp_xfer *x = s->x;
    bool one = x->span_n == 1;
    ucp_request_param_t q = {
        .op_attr_mask =
            UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA |
            UCP_OP_ATTR_FIELD_DATATYPE | UCP_OP_ATTR_FIELD_MEMORY_TYPE |
            UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
        .cb.recv_am = slot_landed,
        .datatype = one ? ucp_dt_make_contig(1) : UCP_DATATYPE_IOV,
        .memory_type = UCS_MEMORY_TYPE_HOST,
        .user_data = s,
    };
    void *data = s->data;
    /* UCX takes the list as void *, and only reads it. */
    void *to = one ? (void *)x->spans[0].p : (void *)(uintptr_t)x->spans;
    size_t n = one ? (size_t)x->len : x->span_n;
    ucs_status_ptr_t r;

    s->state = UCX_MOVING;
    s->data = NULL;
    s->peer->ucx_n++;
    r = ucp_am_recv_data_nbx(ucx_of(&s->peer->tp)->worker, data, to, n, &q);
    if (UCS_PTR_IS_PTR(r))
        return;
    /* Out of memory inside UCX: the descriptor is lost to it. */
    s->peer->ucx_n--;
    s->state = UCX_READY;
    ucx_peer_kill(s->peer);
    slot_end(s, UCS_PTR_IS_ERR(r) ? ucx_err(UCS_PTR_STATUS(r)) : ERR_INTERNAL);
}

static void slot_run(struct ucx_slot *s)
{
    list_del(&s->queue);
    if (!ucx_peer_serves(s->peer))
        return; /* ucx_in_drop will end it */
    if (s->len != s->x->len)
        slot_end(s, ERR_BAD_REQUEST);
    else if (s->rndv)
        slot_receive(s);
    else
        slot_copy(s);
}

/* Checksums the next bytes of what landed; false: some are left. */
static bool slot_check(struct ucx_slot *s)
{
    struct transport_ucx *t = ucx_of(&s->peer->tp);
    const struct tp_xfer *x = s->x;

    while (s->span < x->span_n) {
        const struct span *sp = &x->spans[s->span];
        uint64_t n = min_u64(sp->len - s->span_off, t->budget);

        if (n == 0 && sp->len > s->span_off)
            return false;
        s->crc = crc32c(s->crc, sp->p + s->span_off, n);
        s->span_off += n;
        spend(t, n);
        if (s->span_off == sp->len) {
            s->span++;
            s->span_off = 0;
        }
    }
    return true;
}

static void slot_settle(struct ucx_slot *s)
{
    struct ucx_peer *p = s->peer;
    enum err e = s->canceled ? ERR_CANCELED : s->err;

    if (!e && s->x->want_crc && !slot_check(s))
        return;
    slot_end(s, e);
    if (e && p->state == UCX_OPEN)
        ucx_peer_kill(p); /* a rendezvous fails only with its endpoint */
}

bool ucx_in_run(struct transport_ucx *t)
{
    bool any = !list_empty(&t->landed) || !list_empty(&t->ready);

    while (t->budget > 0 && !list_empty(&t->landed))
        slot_settle(container_of(t->landed.next, struct ucx_slot, queue));
    while (t->budget > 0 && !list_empty(&t->ready))
        slot_run(container_of(t->ready.next, struct ucx_slot, queue));
    return any;
}

/* The endpoint is closed. What moved is LANDED by now or will be soon. */
void ucx_in_drop(struct ucx_peer *p)
{
    ucx_in_drop_mails(p);
    LIST_FOREACH_SAFE(n, &p->slots)
    {
        struct ucx_slot *s = container_of(n, struct ucx_slot, node);

        switch (s->state) {
        case UCX_WANTED:
        case UCX_READY:
            slot_end(s, ERR_PEER_GONE);
            break;
        case UCX_HELD:
        case UCX_SKIP:
            hold_less(p, s->state == UCX_HELD ? slot_cost(s) : 0);
            slot_release(s);
            slot_free(s);
            break;
        case UCX_MOVING:
        case UCX_LANDED:
            break;
        }
    }
}
