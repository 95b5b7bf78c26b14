/* SPDX-License-Identifier: Apache-2.0
 *
 * Connection over UCX active messages (rpc/transport.h, "ucx"; UCX.md 7). One
 * context and worker per handle, one endpoint per lane.
 *
 *     PUT up to WIRE_EAGER_MAX in all   inline in the request
 *         more                        a WIRE_DATA message per key behind it,
 *                                     eager or rendezvous, from the caller's
 *                                     memory
 *     GET                             inline in the reply, or WIRE_DATA before
 *                                     it: eager pieces are copied, rendezvous
 *                                     received, counted per key against
 *                                     result.moved
 *
 *  1. Callbacks run inside ucp_worker_progress, with kv->mu. They never close
 *     an endpoint: hang_up sets a flag, ucx_progress closes.
 *  2. tp_pending counts UCX requests that use a part (its message, the caller's
 *     memory). It ends when they are all back: the caller's memory is never in
 *     UCX's hands after the completion.
 *  3. At a deadline a part with bytes in flight from or into the caller's
 *     memory costs the endpoint: closed by force, all its requests come back
 *     with an error, this call ends with TIMEOUT, the connection's others with
 *     RETRY; the connection is made again in the background.
 *  4. Late pieces are dropped by request id, which names lane and slot.
 *  5. The environment is read by UCX (UCX_TLS, UCX_NET_DEVICES, ...) and never
 *     changed. Where it does not say, settings are given through
 *     ucp_config_modify: every transport but shared memory (not crash-safe in
 *     1.13), one rail. UCX's own threads are made with all signals blocked.
 *  6. Unless UCX_ZCOPY_THRESH is set, UCX copies what it sends: in its tcp
 *     (1.13.1) a send that fails because the server died, before a read has
 *     told so, aborts the process if it is zero-copy (ruled out by the setting)
 *     or a rendezvous by PUT (by a list in place of a run); README.md.
 *
 * conn_ucx_open.c makes the worker and the endpoints. */
#include <stdlib.h>
#include <string.h>

#include "client/call.h"
#include "client/conn_ucx.h"

enum { PROGRESS_MAX = 64 };

/* A rendezvous into a scattered destination lands here first. */
struct ucx_landing {
    struct part *p;
    uint64_t off, len;
    uint32_t idx;
    uint8_t *temp; /* NULL: received in place */
};

/* ---- the ends of parts ---- */

static bool ucx_complete(struct conn *c, struct part *p)
{
    (void)c;
    if (p->tp_pending)
        return false;
    for (uint32_t i = 0; p->op == OP_GET && p->call && i < p->n; i++)
        if (p->dests[i].got < part_result(p, i)->moved)
            return false;
    return true;
}

/* Something of the part has come or has been given back. */
static void part_settle(struct part *p)
{
    struct conn *c = p->conn;

    if (p->announced > p->landed)
        parts_land(c->kv, p);
    if (p->tp_pending || p->busy)
        return;
    if (p->zombie)
        part_give(c->kv, p);
    else if (c->state == CONN_DOWN)
        conn_part_ends(c, p, p->status);
    else if (p->replied && !p->call)
        part_give(c->kv, p);
    else if (p->replied && ucx_complete(c, p))
        conn_finish(c, p);
}

static void part_released(void *request, struct part *p)
{
    struct ucx *x = p->conn->kv->ucx;

    if (request)
        x->api.ucp_request_free(request);
    p->tp_pending--;
    ucx_conn_of(p->conn)->pending--;
    part_settle(p);
}

/* ---- sending ---- */

static void sent(void *request, ucs_status_t status, void *arg)
{
    (void)status; /* an error comes to the endpoint's handler as well */
    part_released(request, arg);
}

static enum err ucx_post(struct conn *c, struct part *p, const void *header,
                         const void *body, size_t n, bool is_iov, uint32_t flag)
{
    struct ucx *x = c->kv->ucx;
    struct ucx_conn *u = ucx_conn_of(c);
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                        UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS |
                        UCP_OP_ATTR_FIELD_DATATYPE,
        .flags = UCP_AM_SEND_FLAG_REPLY | flag,
        .cb.send = sent,
        .user_data = p,
        .datatype = is_iov ? ucp_dt_make_iov() : ucp_dt_make_contig(1),
    };
    ucs_status_ptr_t r;

    r = x->api.ucp_am_send_nbx(u->ep, AM_REQUEST, header,
                               sizeof(struct wire_frame), body, n, &param);
    if (UCS_PTR_IS_ERR(r))
        return ERR_NO_SERVER;
    if (r) {
        p->tp_pending++;
        u->pending++;
    }
    return OK;
}

/* The bytes of each key, behind the request. */
static enum err ucx_send_data(struct conn *c, struct part *p)
{
    static_assert(sizeof(ucp_dt_iov_t) == sizeof(struct pikv_buf) &&
                      offsetof(ucp_dt_iov_t, length) ==
                          offsetof(struct pikv_buf, len),
                  "one list for both");
    static_assert(offsetof(struct dest, len) - offsetof(struct dest, p) ==
                      offsetof(ucp_dt_iov_t, length),
                  "a dest begins with a list of one");
    const struct ucx *x = c->kv->ucx;
    struct wire_frame *frames;
    enum err e = OK;

    if (!part_room((void **)&p->frames, &p->frames_cap, p->n, sizeof(*frames)))
        return ERR_NO_MEMORY;
    frames = p->frames;
    for (uint32_t i = 0; i < p->n && !e; i++) {
        const struct dest *d = &p->dests[i];
        uint32_t flag = d->len <= WIRE_EAGER_MAX ? UCP_AM_SEND_FLAG_EAGER
                                                 : UCP_AM_SEND_FLAG_RNDV;

        if (d->len == 0)
            continue;
        frames[i] = (struct wire_frame){.kind = WIRE_DATA,
                                        .op = p->op,
                                        .req = p->req,
                                        .data_len = d->len,
                                        .data_idx = i};
        frame_seal(&frames[i], NULL, 0);
        if (d->iov_n)
            e = ucx_post(c, p, &frames[i], p->iov + d->iov_first, d->iov_n,
                         true, flag);
        else if (x->copies)
            e = ucx_post(c, p, &frames[i], &d->p, 1, true, flag);
        else
            e = ucx_post(c, p, &frames[i], d->p, d->len, false, flag);
    }
    return e;
}

static enum err ucx_send(struct conn *c, struct part *p)
{
    enum err e;

    if (p->fd >= 0)
        return ERR_BAD_REQUEST;
    e = ucx_post(c, p, p->msg, p->msg + sizeof(struct wire_frame),
                 p->msg_len - sizeof(struct wire_frame), false,
                 UCP_AM_SEND_FLAG_EAGER);
    if (!e && op_sends(p->op) && p->bytes > p->inline_bytes)
        e = ucx_send_data(c, p);
    return e;
}

static void *ucx_grant(struct conn *c, uint32_t len)
{
    (void)c;
    (void)len;
    return NULL;
}

static void ucx_push(struct conn *c, uint32_t len)
{
    (void)c;
    (void)len;
}

/* ---- receiving ---- */

static void landed(void *request, ucs_status_t status, size_t len, void *arg)
{
    struct ucx_landing *l = arg;
    struct part *p = l->p;
    struct dest *d = &p->dests[l->idx];

    p->rndv--;
    if (status == UCS_OK && len == l->len) {
        if (l->temp && p->call)
            reply_bytes(p, d, l->off, l->temp, l->len);
        else
            d->got += l->len;
    } else {
        ucx_conn_of(p->conn)->failed = true;
    }
    free(l->temp);
    free(l);
    part_released(request, p);
}

/* UCS_OK drops it; after the receive UCX owns the descriptor. */
static ucs_status_t data_rndv(struct part *p, const struct wire_frame *f,
                              void *desc)
{
    struct ucx *x = p->conn->kv->ucx;
    struct dest *d = &p->dests[f->data_idx];
    struct ucx_landing *l = malloc(sizeof(*l));
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                        UCP_OP_ATTR_FIELD_USER_DATA |
                        UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
        .cb.recv_am = landed,
        .user_data = l,
    };
    ucs_status_ptr_t r;

    if (!l)
        return UCS_ERR_NO_MEMORY;
    *l = (struct ucx_landing){p, f->data_off, f->data_len, f->data_idx, NULL};
    if (d->iov_n && !p->aside)
        l->temp = malloc(f->data_len);
    if (d->iov_n && !p->aside && !l->temp) {
        free(l);
        return UCS_ERR_NO_MEMORY;
    }
    p->tp_pending++;
    p->rndv++;
    ucx_conn_of(p->conn)->pending++;
    r = x->api.ucp_am_recv_data_nbx(x->worker, desc,
                                    l->temp ? l->temp
                                    : p->aside
                                        ? p->aside + d->staged + f->data_off
                                        : d->p + f->data_off,
                                    f->data_len, &param);
    if (UCS_PTR_IS_ERR(r))
        landed(NULL, UCS_PTR_STATUS(r), 0, l);
    return UCS_INPROGRESS;
}

/* A piece of what a GET asked for; what nobody waits for is dropped. */
static ucs_status_t data_arrives(struct conn *c, const struct message *m,
                                 void *data, size_t len, bool rndv)
{
    const struct wire_frame *f = &m->frame;
    struct part *p = c->slots[f->req % CONN_SLOTS];
    struct dest *d;

    if (!p || p->req != f->req || !p->call || p->op != OP_GET ||
        f->data_idx >= p->n || f->data_len != len)
        return UCS_OK;
    d = &p->dests[f->data_idx];
    if (f->data_off > d->len || len > d->len - f->data_off)
        return UCS_OK;
    if (f->data_idx < p->announced && parts_came(p, f->data_idx))
        return UCS_OK; /* the caller may be reading it */
    if (rndv)
        return data_rndv(p, f, data);
    reply_bytes(p, d, f->data_off, data, len);
    part_settle(p);
    return UCS_OK;
}

ucs_status_t ucx_arrives(void *arg, const void *header, size_t header_len,
                         void *data, size_t len,
                         const ucp_am_recv_param_t *param)
{
    struct pikv *kv = arg;
    bool rndv = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
    struct wire_frame f;
    struct message m;
    struct conn *c;

    if (header_len != sizeof(f))
        return UCS_OK;
    memcpy(&f, header, sizeof(f));
    c = f.req >> LINE_SHIFT < kv->line_n ? kv->conns[f.req >> LINE_SHIFT]
                                         : NULL;
    if (!c || c->state <= CONN_DIALING)
        return UCS_OK;
    if (f.kind == WIRE_DATA) {
        if (frame_read(&f, data, rndv ? 0 : len, &c->limits, &m))
            return UCS_OK;
        return data_arrives(c, &m, data, len, rndv);
    }
    if (!rndv)
        conn_message(c, &f, data, len, -1);
    return UCS_OK;
}

/* ---- the rest of the table ---- */

static bool ucx_give_up(struct conn *c, struct part *p, bool last)
{
    (void)last;
    if (p->tp_pending == 0 || p->aside)
        return true;
    if (c->state != CONN_DOWN) {
        p->status = ERR_TIMEOUT;
        p->replied = true;
        conn_down(c, ERR_NO_SERVER);
    }
    return false;
}

static bool ucx_leave(struct conn *c, struct part *p)
{
    (void)c;
    return p->tp_pending == 0;
}

static bool ucx_progress(struct conn *c, bool look)
{
    struct ucx *x = c->kv->ucx;
    struct ucx_conn *u = ucx_conn_of(c);
    int n = 0;

    (void)look;
    if (!u)
        return false;
    if (c->state == CONN_DIALING)
        conn_connected(c);
    while (n < PROGRESS_MAX && x->api.ucp_worker_progress(x->worker))
        n++;
    if (u->failed && c->state != CONN_DOWN)
        conn_down(c, ERR_NO_SERVER);
    if (u->hang && u->ep)
        ucx_close_ep(c);
    return n == PROGRESS_MAX;
}

static uint64_t ucx_loan_epoch(struct conn *c)
{
    (void)c;
    return UINT64_MAX;
}

static bool ucx_arm(struct conn *c)
{
    struct ucx *x = c->kv->ucx;

    return x->head != c || x->api.ucp_worker_arm(x->worker) == UCS_OK;
}

static void ucx_awake(struct conn *c)
{
    (void)c;
}

static int ucx_fds(struct conn *c, struct pollfd *out)
{
    const struct ucx *x = c->kv->ucx;

    if (x->head != c)
        return 0;
    out[0] = (struct pollfd){.fd = x->efd, .events = POLLIN};
    return 1;
}

const struct conn_ops conn_ucx = {
    .name = "ucx",
    .inlines = true,
    .dial = ucx_dial,
    .grant = ucx_grant,
    .push = ucx_push,
    .send = ucx_send,
    .give_up = ucx_give_up,
    .leave = ucx_leave,
    .complete = ucx_complete,
    .progress = ucx_progress,
    .loan_epoch = ucx_loan_epoch,
    .arm = ucx_arm,
    .awake = ucx_awake,
    .fds = ucx_fds,
    .hang_up = ucx_hang_up,
    .quiet = ucx_quiet,
};
