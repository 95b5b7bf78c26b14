/* SPDX-License-Identifier: Apache-2.0
 *
 * Events for keys that have ended (parts.h). Results of ended keys do not
 * change any more, so an event borrows them where they lie. */
#include "server/parts.h"

#include "server/peer.h"

struct parts *parts_new(struct op *op, const struct op_results *r, uint32_t n)
{
    struct parts *p = arena_zalloc(&op->arena, sizeof *p + n);

    MUST(p);
    p->op = op;
    p->r = r;
    p->n = n;
    p->live = (bool *)(p + 1);
    return p;
}

static void parts_sent(struct tp_send *s, enum err e)
{
    struct parts *p = container_of(s, struct parts, send);

    (void)e; /* a peer that cannot be told is gone: closed() says so */
    p->out = false;
    peer_reply_done(p->op->peer);
    op_tell(p->op);
}

void parts_tell(struct parts *p)
{
    struct op *op = p ? p->op : NULL;
    uint32_t first;

    if (!p || p->out || op->gone)
        return;
    first = p->told;
    while (p->told < p->n && !p->live[p->told])
        p->told++;
    if (p->told == first)
        return;
    p->send = (struct tp_send){
        .body = &p->r->results[first], .fd = -1, .done = parts_sent};
    p->send.frame.kind = WIRE_EVENT;
    p->send.frame.op = op->id;
    p->send.frame.req = op->msg.frame.req;
    p->send.frame.record_n = p->told - first;
    p->send.frame.data_idx = first;
    frame_seal(&p->send.frame, p->send.body, frame_body_len(&p->send.frame));
    p->out = true;
    peer_reply_begin(op->peer);
    op->peer->tp->t->ops->send(op->peer->tp, &p->send);
}
