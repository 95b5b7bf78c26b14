/* SPDX-License-Identifier: Apache-2.0
 *
 * Connections: opened, watched, closed, reaped (diagram in peer.h). These are
 * the handlers of the transports' events; messages go straight to op.c.
 *
 * One timer per peer: until HELLO it is the handshake's, afterwards it watches
 * that replies are read. A reply that waits longer than limits.slow_reader ends
 * the connection, so that a stopped client cannot hold ops and refs for ever.
 */
#include "server/peer.h"

#include <string.h>
#include <unistd.h>

#include "server/layouts.h"
#include "server/opens.h"
#include "server/pins.h"

static void peer_handshake_late(struct timer *t)
{
    peer_close(container_of(t, struct peer, timer));
}

static void peer_slow(struct timer *t)
{
    struct peer *p = container_of(t, struct peer, timer);
    struct lane *l = p->lane;

    metric_add(&l->metrics.peers_closed_slow, 1);
    LOG(LOG_WARN, "peer_slow", "peer=%u pid=%u engine=\"%s\"", p->tp->id,
        p->pid, p->engine);
    peer_close(p);
}

static enum err peer_opened(void *lane, struct tp_peer *tp)
{
    struct lane *l = lane;
    struct peer *p;

    if (l->draining)
        return ERR_DRAINING;
    if (l->peers_unauthenticated >= l->cfg->limits.unauthenticated)
        return ERR_BUSY;
    p = pool_get(&l->peers);
    if (!p)
        return ERR_BUSY;
    memset(p, 0, sizeof *p);
    p->magic = PEER_MAGIC;
    p->lane = l;
    p->tp = tp;
    list_init(&p->ops);
    list_init(&p->pins);
    list_init(&p->loans);
    list_init(&p->layouts);
    list_add_tail(&l->peer_list, &p->node);
    p->connected_ns = l->env.now_ns;
    tp->session = p;
    tp->id = ++l->peer_ids;
    l->peers_unauthenticated++;
    metric_set(&l->metrics.peers, ++l->peer_n);
    trace_add(&l->trace, l->env.now_ns, TRACE_PEER_OPEN, 0, tp->id, 0);
    timer_start(&l->timers, &p->timer,
                l->env.now_ns + l->cfg->limits.handshake_us * NS_PER_US,
                peer_handshake_late);
    return OK;
}

static void peer_message(void *lane, struct tp_peer *tp,
                         const struct message *m, int fd)
{
    (void)lane;
    op_begin(peer_of(tp), m, fd);
}

/* A frame that does not parse. If at least its crc was right it has an id to
 * answer, and an operation or limit of a newer client must not cost it the
 * connection. */
static void peer_bad(void *lane, struct tp_peer *tp, const struct message *m,
                     enum err e)
{
    struct lane *l = lane;

    metric_add(&l->metrics.frames_bad, 1);
    trace_add(&l->trace, l->env.now_ns, TRACE_FRAME_BAD, 0, tp->id,
              (uint64_t)-e);
    LOG(LOG_WARN, "frame_bad", "peer=%u pid=%u error=%s", tp->id, tp->cred.pid,
        err_name(e));
    if (m->frame.req)
        op_refuse(peer_of(tp), &m->frame, e);
    else
        peer_close(peer_of(tp));
}

/* The transport has completed everything of this peer; what still runs waits
 * for memory, mail or its next turn. */
static void peer_closed(void *lane, struct tp_peer *tp)
{
    struct peer *p = peer_of(tp);
    struct lane *l = lane;

    trace_add(&l->trace, l->env.now_ns, TRACE_PEER_CLOSE, 0, tp->id, 0);
    if (p->state == PEER_NEW)
        l->peers_unauthenticated--;
    timer_stop(&l->timers, &p->timer);
    pins_drop_peer(p);
    loans_drop_peer(p);
    layouts_drop_peer(p);
    opens_peer_gone(p);
    metric_set(&l->metrics.peers, --l->peer_n);
    tp->session = NULL;
    p->tp = NULL;
    /* Waking an op may end it and others may start nothing new: gone first. */
    LIST_FOREACH(n, &p->ops)
    container_of(n, struct op, node)->gone = true;
    LIST_FOREACH_SAFE(n, &p->ops)
    op_tell(container_of(n, struct op, node));
    p->state = PEER_GONE; /* only now may the last op's end free the peer */
    peer_reap(p);
}

const struct tp_events lane_events = {
    .opened = peer_opened,
    .message = peer_message,
    .bad = peer_bad,
    .closed = peer_closed,
};

void peer_close(struct peer *p)
{
    if (p->tp)
        p->tp->t->ops->close(p->tp, true);
}

static void peer_watch(struct peer *p)
{
    const struct lane *l = p->lane;

    timer_start(&p->lane->timers, &p->timer,
                l->env.now_ns + l->cfg->limits.slow_reader_us * NS_PER_US,
                peer_slow);
}

/* Replies out are counted in unread_n; the watch runs while there are some and
 * starts anew with each one that is read. */
void peer_reply_begin(struct peer *p)
{
    if (p->unread_n++ == 0 && p->state == PEER_GREETED)
        peer_watch(p);
}

void peer_reply_done(struct peer *p)
{
    MUST(p->unread_n > 0);
    p->unread_n--;
    if (p->state != PEER_GREETED)
        return;
    if (p->unread_n == 0)
        timer_stop(&p->lane->timers, &p->timer);
    else
        peer_watch(p);
}

void peer_greeted(struct peer *p)
{
    if (p->state != PEER_NEW)
        return;
    p->state = PEER_GREETED;
    p->lane->peers_unauthenticated--;
    timer_stop(&p->lane->timers, &p->timer);
    if (p->unread_n) /* refusals sent before */
        peer_watch(p);
}

void peer_reap(struct peer *p)
{
    if (p->state != PEER_GONE || p->op_n || p->refusal_n)
        return;
    MUST(p->open_n == 0);
    list_del(&p->node);
    p->magic = 0;
    pool_put(&p->lane->peers, p);
}
