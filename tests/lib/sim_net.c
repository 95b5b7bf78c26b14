/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulated transport (rpc/transport.h) and its faults:
 *
 *   requests  flipped bits, doubled, late
 *   replies   late, doubled, never read (a slow reader)
 *   bytes     held for ever (a rendezvous whose data never comes), cut in the
 *             middle with the connection, late
 *   cancel    sometimes costs the connection, and garbage arrives in the
 *             extents until the completion, as a late rendezvous would
 *   close     by the client at any moment
 *
 * Everything that a transport would tell its lane goes through the inbox and
 * is told by progress(). Messages of one connection keep their order. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "lib/sim.h"

enum sim_what { SIM_MESSAGE, SIM_SENT, SIM_MOVED, SIM_CLOSED };

struct sim_item {
    struct list node;
    enum sim_what what;
    struct sim_peer *peer;
    struct tp_send *send;
    struct tp_xfer *x;
    enum err e;
    size_t len;
    uint8_t bytes[]; /* SIM_MESSAGE: frame, body, data */
};

struct sim_peer {
    struct tp_peer tp; /* first */
    struct list node;
    struct sim_net *net;
    struct sim_client *client; /* NULL: it went away */
    struct list sends, xfers;  /* under way */
    uint32_t owed;             /* completions in the inbox */
    uint64_t in_due, out_due;  /* order of messages each way */
    bool closed;
};

/* What a world event will do to a send or xfer that may be gone by then. */
struct sim_action {
    struct sim_peer *peer;
    struct tp_send *send;
    struct tp_xfer *x;
    bool event_out; /* the world still holds it */
    size_t len;
    uint8_t bytes[]; /* reply: frame, body, data */
};

static struct sim_peer *sim_peer_of(struct tp_peer *tp)
{
    return container_of(tp, struct sim_peer, tp);
}

static uint64_t sim_latency(struct sim *s, uint64_t bytes)
{
    uint64_t ns = 2000 + sim_random(s, 20000) + bytes / 4;

    return sim_fault(s) ? ns + sim_random(s, 200) * NS_PER_MS : ns;
}

static struct sim_item *sim_item_new(struct sim_peer *p, enum sim_what what,
                                     size_t len)
{
    struct sim_item *it = calloc(1, sizeof *it + len);

    MUST(it);
    it->what = what;
    it->peer = p;
    it->len = len;
    list_add_tail(&p->net->inbox, &it->node);
    return it;
}

/* ---- completions --------------------------------------------------------- */

static void sim_action_drop(struct sim_action *a)
{
    if (!a)
        return;
    a->send = NULL;
    a->x = NULL;
    if (!a->event_out)
        free(a);
}

static void sim_send_complete(struct sim_peer *p, struct tp_send *s, enum err e)
{
    struct sim_item *it = sim_item_new(p, SIM_SENT, 0);

    list_del(&s->node);
    sim_action_drop(s->tp);
    it->send = s;
    it->e = e;
    p->owed++;
}

static void sim_xfer_complete(struct sim_peer *p, struct tp_xfer *x, enum err e)
{
    struct sim_item *it = sim_item_new(p, SIM_MOVED, 0);

    list_del(&x->node);
    sim_action_drop(x->tp);
    x->tp = NULL; /* cancel() may still come, or come again */
    it->x = x;
    it->e = e;
    p->owed++;
}

void sim_hangup(struct sim_peer *p)
{
    struct sim_client *c = p->client;

    if (p->closed)
        return;
    p->closed = true;
    p->client = NULL;
    LIST_FOREACH_SAFE(n, &p->xfers)
    sim_xfer_complete(p, container_of(n, struct tp_xfer, node), ERR_PEER_GONE);
    LIST_FOREACH_SAFE(n, &p->sends)
    sim_send_complete(p, container_of(n, struct tp_send, node), ERR_PEER_GONE);
    (void)sim_item_new(p, SIM_CLOSED, 0);
    if (c)
        sim_client_closed(c);
}

void sim_net_hangup_all(struct sim_net *n)
{
    LIST_FOREACH_SAFE(node, &n->peers)
    sim_hangup(container_of(node, struct sim_peer, node));
}

/* ---- the lane's calls
 * ------------------------------------------------------*/

static struct sim_action *sim_action_new(struct sim_peer *p, size_t len)
{
    struct sim_action *a = calloc(1, sizeof *a + len);

    MUST(a);
    a->peer = p;
    a->len = len;
    return a;
}

static void sim_deliver(struct sim_peer *p, const uint8_t *bytes, size_t len)
{
    struct frame_limits lim = {UINT32_MAX, UINT32_MAX, UINT64_MAX, UINT64_MAX};
    uint8_t *copy = malloc(len);
    struct message m;

    MUST(copy);
    memcpy(copy, bytes, len);
    MUST(frame_read(copy, copy + WIRE_RECORD, len - WIRE_RECORD, &lim, &m) ==
         OK);
    if (p->client)
        sim_client_reply(p->client, &m);
    free(copy);
}

static void sim_reply_arrives(struct sim *s, void *arg)
{
    struct sim_action *a = arg;

    if (a->send)
        sim_deliver(a->peer, a->bytes, a->len);
    if (a->send && sim_fault(s))
        sim_deliver(a->peer, a->bytes, a->len);
    a->event_out = false;
    if (a->send) /* else the client hung up on it */
        sim_send_complete(a->peer, a->send, OK);
    else
        free(a);
}

static void sim_tp_send(struct tp_peer *tp, struct tp_send *t)
{
    struct sim_peer *p = sim_peer_of(tp);
    struct sim *s = p->net->sim;
    uint64_t body = frame_body_len(&t->frame);
    struct sim_action *a =
        sim_action_new(p, WIRE_RECORD + body + t->frame.data_len);
    uint8_t *to = a->bytes + WIRE_RECORD + body;

    memcpy(a->bytes, &t->frame, WIRE_RECORD);
    if (body)
        memcpy(a->bytes + WIRE_RECORD, t->body, body);
    for (uint32_t i = 0; i < t->data_n; i++) {
        memcpy(to, t->data[i].p, t->data[i].len);
        to += t->data[i].len;
    }
    t->tp = a;
    a->send = t;
    list_add_tail(&p->sends, &t->node);
    if (p->closed) {
        sim_send_complete(p, t, ERR_PEER_GONE);
        return;
    }
    if (sim_fault(s) && sim_random(s, 8) == 0)
        return; /* never read: the server must close */
    p->out_due = max_u64(p->out_due, s->now_ns + sim_latency(s, a->len));
    a->event_out = true;
    sim_at(s, p->out_due, sim_reply_arrives, a);
}

static void sim_scribble(struct sim *s, struct tp_xfer *x)
{
    for (uint32_t i = 0; i < x->span_n; i++)
        memset(x->spans[i].p, (int)sim_random(s, 256), x->spans[i].len);
}

/* Copies up to n bytes of the xfer; the crc of what was stored. */
static void sim_copy(struct tp_xfer *x, uint8_t *client, uint64_t n)
{
    for (uint32_t i = 0; i < x->span_n && n; i++) {
        uint64_t part = min_u64(n, x->spans[i].len);

        if (x->is_push)
            memcpy(client, x->spans[i].p, part);
        else
            memcpy(x->spans[i].p, client, part);
        if (!x->is_push)
            x->crc = crc32c(x->crc, x->spans[i].p, part);
        client += part;
        n -= part;
    }
}

static void sim_bytes_arrive(struct sim *s, void *arg)
{
    struct sim_action *a = arg;
    struct tp_xfer *x = a->x;
    struct sim_peer *p = a->peer;
    uint64_t room = 0;
    uint8_t *client;

    a->event_out = false;
    if (!x) {
        free(a);
        return;
    }
    client =
        p->client ? sim_client_buffer(p->client, x->req, x->idx, &room) : NULL;
    if (!client || room < x->len) {
        if (x->is_push) /* dropped by request id, as libpikv does */
            sim_xfer_complete(p, x, OK);
        return; /* a pull whose data never comes: held until the deadline */
    }
    if (sim_fault(s) && sim_random(s, 4) == 0) {
        sim_copy(x, client, x->len / 2);
        sim_hangup(p);
        return;
    }
    x->crc = 0;
    sim_copy(x, client, x->len);
    x->moved = x->len;
    sim_xfer_complete(p, x, OK);
}

static void sim_tp_move(struct tp_peer *tp, struct tp_xfer *x)
{
    struct sim_peer *p = sim_peer_of(tp);
    struct sim *s = p->net->sim;
    struct sim_action *a = sim_action_new(p, 0);
    uint64_t sum = 0;

    for (uint32_t i = 0; i < x->span_n; i++)
        sum += x->spans[i].len;
    MUST(sum == x->len);
    a->x = x;
    x->tp = a;
    list_add_tail(&p->xfers, &x->node);
    if (p->closed) {
        sim_xfer_complete(p, x, ERR_PEER_GONE);
        return;
    }
    if (sim_fault(s) && sim_random(s, 4) == 0)
        return; /* held for ever */
    a->event_out = true;
    sim_at(s, s->now_ns + sim_latency(s, x->len), sim_bytes_arrive, a);
}

static void sim_tp_skip(struct tp_peer *tp, uint64_t req, uint32_t idx)
{
    (void)tp;
    (void)req;
    (void)idx;
}

static void sim_tp_cancel(struct tp_xfer *x)
{
    struct sim_peer *p = sim_peer_of(x->peer);
    struct sim *s = p->net->sim;
    struct sim_action *a = x->tp;

    if (!a || a->x != x)
        return; /* its completion is in the inbox already */
    if (!x->is_push)
        sim_scribble(s, x);
    sim_xfer_complete(p, x, ERR_CANCELED);
    if (sim_random(s, 4) == 0)
        sim_hangup(p);
}

static void sim_tp_close(struct tp_peer *tp, bool at_once)
{
    (void)at_once;
    sim_hangup(sim_peer_of(tp));
}

static void sim_tell_message(struct sim_net *n, struct sim_item *it)
{
    struct message m;
    enum err e = frame_read(it->bytes, it->bytes + WIRE_RECORD,
                            it->len - WIRE_RECORD, n->t.limits, &m);

    if (it->peer->closed)
        return;
    if (e)
        n->t.events->bad(n->t.lane, &it->peer->tp, &m, e);
    else
        n->t.events->message(n->t.lane, &it->peer->tp, &m, -1);
}

static void sim_tell(struct sim_net *n, struct sim_item *it)
{
    struct sim_peer *p = it->peer;

    switch (it->what) {
    case SIM_MESSAGE:
        sim_tell_message(n, it);
        break;
    case SIM_SENT:
        p->owed--;
        it->send->done(it->send, it->e);
        break;
    case SIM_MOVED:
        p->owed--;
        it->x->done(it->x, it->e);
        break;
    case SIM_CLOSED:
        if (p->owed) { /* rule: everything else completes first */
            (void)sim_item_new(p, SIM_CLOSED, 0);
            break;
        }
        n->t.events->closed(n->t.lane, &p->tp);
        list_del(&p->node);
        free(p);
        break;
    }
}

static bool sim_tp_progress(struct transport *t)
{
    struct sim_net *n = container_of(t, struct sim_net, t);
    struct list *node;

    for (uint32_t i = 0; i < 32 && (node = list_pop(&n->inbox)); i++) {
        struct sim_item *it = container_of(node, struct sim_item, node);

        sim_tell(n, it);
        free(it);
    }
    return !list_empty(&n->inbox);
}

static const struct tp_ops sim_tp_ops = {
    .name = "sim",
    .send = sim_tp_send,
    .pull = sim_tp_move,
    .push = sim_tp_move,
    .skip = sim_tp_skip,
    .cancel = sim_tp_cancel,
    .close = sim_tp_close,
    .progress = sim_tp_progress,
};

/* ---- the client's side
 * -----------------------------------------------------*/

void sim_net_init(struct sim_net *n, struct sim *s, struct lane *l)
{
    n->sim = s;
    list_init(&n->inbox);
    list_init(&n->peers);
    n->inline_data = sim_random(s, 2);
    n->t = (struct transport){.ops = &sim_tp_ops,
                              .events = &lane_events,
                              .lane = l,
                              .env = &l->env,
                              .metrics = &l->metrics,
                              .trace = &l->trace,
                              .limits = &l->limits};
}

void sim_net_fini(struct sim_net *n)
{
    MUST(list_empty(&n->inbox));
    MUST(list_empty(&n->peers));
}

struct sim_peer *sim_connect(struct sim_net *n, struct sim_client *c)
{
    struct sim_peer *p = calloc(1, sizeof *p);

    MUST(p);
    p->net = n;
    p->client = c;
    p->tp.t = &n->t;
    p->tp.inline_max = n->inline_data ? WIRE_EAGER_MAX : 0;
    list_init(&p->sends);
    list_init(&p->xfers);
    if (n->t.events->opened(n->t.lane, &p->tp)) {
        free(p);
        return NULL;
    }
    list_add_tail(&n->peers, &p->node);
    return p;
}

/* In flight the item is not in the inbox; the peer may go meanwhile, so it is
 * found again by address and id. */
struct sim_letter {
    struct sim_net *net;
    struct sim_peer *peer;
    uint32_t id, life; /* of the node */
    size_t len;
    uint8_t bytes[];
};

/* May a network deliver it twice? Two answers to a PUT no client could tell
 * apart; a second EVICT or bump would take away what came after the first. */
static bool sim_may_double(const struct sim *s, const struct wire_frame *f)
{
    return f->op != OP_PUT && f->op != OP_PUT_WRITE &&
           (!s->media || (f->op != OP_EVICT && f->op != OP_NAMESPACE));
}

/* A request that came twice would be told of twice, from two operations. */
static bool sim_asks_parts(const struct sim_letter *l)
{
    const struct wire_frame *f = (const void *)l->bytes;
    struct wire_batch head;

    if (f->op != OP_GET || f->record_n == 0)
        return false;
    memcpy(&head, l->bytes + WIRE_RECORD, sizeof head);
    return (head.flags & BATCH_PARTS) != 0;
}

static void sim_request_arrives(struct sim *s, void *arg)
{
    struct sim_letter *l = arg;
    const struct wire_frame *f = (const void *)l->bytes;
    bool twice = sim_may_double(s, f) && !sim_asks_parts(l);
    uint32_t copies = twice && sim_fault(s) ? 2 : 1;

    LIST_FOREACH(node, &l->net->peers)
    {
        struct sim_peer *p = container_of(node, struct sim_peer, node);

        if (p != l->peer || p->tp.id != l->id || p->closed ||
            l->life != s->lives)
            continue;
        while (copies--) {
            struct sim_item *it = sim_item_new(p, SIM_MESSAGE, l->len);

            memcpy(it->bytes, l->bytes, l->len);
        }
        break;
    }
    free(l);
}

void sim_send(struct sim_peer *p, const struct wire_frame *f, const void *body,
              size_t body_len, const uint8_t *data)
{
    struct sim *s = p->net->sim;
    size_t data_len = data ? f->data_len : 0;
    size_t len = WIRE_RECORD + body_len + data_len;
    struct sim_letter *l = calloc(1, sizeof *l + len);

    MUST(l);
    l->net = p->net;
    l->peer = p;
    l->id = p->tp.id;
    l->life = s->lives;
    l->len = len;
    memcpy(l->bytes, f, WIRE_RECORD);
    if (body_len)
        memcpy(l->bytes + WIRE_RECORD, body, body_len);
    if (data_len)
        memcpy(l->bytes + WIRE_RECORD + body_len, data, data_len);
    /* Block bytes are protected by their own crc; the rest by the frame's. */
    if (sim_fault(s) && sim_random(s, 4) == 0)
        l->bytes[sim_random(s, WIRE_RECORD + body_len)] ^=
            (uint8_t)(1u << sim_random(s, 8));
    p->in_due = max_u64(p->in_due, s->now_ns + sim_latency(s, len));
    sim_at(s, p->in_due, sim_request_arrives, l);
}
