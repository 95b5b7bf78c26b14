/* SPDX-License-Identifier: Apache-2.0
 *
 * SUBSCRIBE: a long poll of this lane's events (store/events.h) of a namespace.
 *
 *   START --> SCAN --something, or it is over--> REPLY
 *             |  ^                                 ^
 *             |  +-- an event of the namespace     |
 *             +----> SLEEP --late, wait over,------+
 *                            gone, drain, superseded
 *
 * SCAN looks from the position on for events of the namespace, a bounded number
 * in a turn; what has been overwritten before it was looked at is told as lost.
 * SLEEP is a list per namespace, woken at the end of the turn that brought an
 * event, never inside the store: lane_wake_events reads the namespace of each
 * new event once, whoever waits. It gives the op the event's seq as its new
 * position, so that one that slept long does not look at, nor lose, what
 * happened elsewhere meanwhile.
 *
 * A reader holds nothing but its op: the ring goes on without it. So as not to
 * take the ops of others either, only part of the lane's may sleep here (BUSY),
 * and a poll with the id of a sleeping one of its connection ends that one. */
#include <string.h>

#include "server/control.h"
#include "server/peer.h"
#include "store/events.h"

enum { START, SCAN, SLEEP, REPLY };

enum {
    EVENTS_MAX = 512,  /* in a reply */
    SCAN_MAX = 4096,   /* looked at in a turn */
    EVENT_FIXED = 200, /* packed bytes of one without keys, at most */
    REPLY_FIXED = 256, /* of a reply without events, and its frame */
    SLEEPERS_PART = 4, /* of the lane's ops may sleep here: a fourth */
    HASH_BYTES = sizeof(struct hash128),
    SCOPE_BYTES = 16,
};
/* Each event has its message and its copy, keys are borrowed from the ring. */
static_assert(EVENTS_MAX * (sizeof(Pikv__Event) + sizeof(struct event) + 16) <
                  OP_MSG_BYTES,
              "they fit the arena");

struct subscribe {
    const Pikv__Subscribe *m;
    uint32_t ns;
    uint64_t at; /* next to look at */
    uint64_t until_ns;
    uint64_t bytes; /* packed, of the events, at most */
    Pikv__SubscribeReply rep;
    Pikv__Event *events[EVENTS_MAX];
};

/* ---- the answer */

/* Packing only reads; protobuf-c has no const. */
static ProtobufCBinaryData borrowed(const void *p, size_t n)
{
    return (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)p};
}

static void event_msg(const struct event *e, uint64_t *labels, Pikv__Event *m)
{
    pikv__event__init(m);
    m->seq = e->seq;
    m->kind = (uint32_t)e->kind;
    m->when_ms = e->when_ms;
    m->version = e->version;
    if (e->kind == EVENT_CLEARED)
        return;
    m->key = borrowed(e->key, e->key_len);
    m->parent = borrowed(e->parent, e->parent_len);
    m->hash = borrowed(&e->hash, HASH_BYTES);
    if (e->scope)
        m->scope = borrowed(e->scope, SCOPE_BYTES);
    m->group = e->group;
    m->cls = e->cls;
    m->tier = e->tier;
    m->len = e->len;
    m->page = e->page;
    m->token_end = e->token_end;
    m->token_n = e->token_n;
    m->labels = labels;
    for (uint32_t i = 0; i < EVENT_LABELS; i++)
        if (e->labels[i])
            m->labels[m->n_labels++] = e->labels[i];
}

/* False: it does not fit any more. */
static bool event_take(struct op *op, struct subscribe *sub, uint64_t seq)
{
    struct {
        struct event e;
        Pikv__Event m;
    } * room;
    uint64_t most = op->lane->limits.message_bytes - REPLY_FIXED;
    uint64_t need;

    if (sub->rep.n_events == EVENTS_MAX ||
        (sub->m->max && sub->rep.n_events == sub->m->max))
        return false;
    room = arena_alloc(&op->arena, sizeof *room);
    MUST(room); /* as many as there are events at most */
    store_event(op->lane->store, seq, &room->e);
    need = (uint64_t)EVENT_FIXED + room->e.key_len + room->e.parent_len;
    if (sub->bytes + need > most)
        return false;
    event_msg(&room->e, room->e.labels, &room->m);
    sub->bytes += need;
    sub->events[sub->rep.n_events++] = &room->m;
    return true;
}

/* ---- looking */

/* The position must be one that the ring has, or that comes next. */
static void scan_lost(struct op *op, struct subscribe *sub)
{
    const struct store *s = op->lane->store;
    uint64_t first = store_events_first(s);

    if (sub->at >= first && sub->at <= store_events_next(s))
        return;
    if (!sub->rep.lost_from)
        sub->rep.lost_from = sub->at;
    if (sub->at < first)
        sub->rep.lost_count += first - sub->at;
    metric_add(&op->lane->metrics.events_lost,
               sub->at < first ? first - sub->at : 0);
    sub->at = first;
}

/* True: there is something to say. */
static bool scan(struct op *op, struct subscribe *sub)
{
    const struct store *s = op->lane->store;
    uint64_t end;

    scan_lost(op, sub);
    end = min_u64(store_events_next(s), sub->at + SCAN_MAX);
    for (; sub->at < end; sub->at++)
        if (store_event_ns(s, sub->at) == sub->ns &&
            !event_take(op, sub, sub->at))
            break;
    return sub->rep.n_events || sub->rep.lost_from;
}

/* ---- sleeping */

static struct op *op_of_wait(struct list *n)
{
    struct op *op = container_of(n, struct op, wait);

    MUST(op->magic == OP_MAGIC && op->id == OP_SUBSCRIBE);
    return op;
}

/* What is not there yet is not waited for (any more). */
static bool is_over(const struct op *op, const struct subscribe *sub)
{
    const struct lane *l = op->lane;

    return op->late || op->gone || l->draining ||
           l->env.now_ns >= sub->until_ns;
}

static bool sleep_begin(struct op *op, struct subscribe *sub)
{
    struct lane *l = op->lane;

    if (l->event_sleepers >= max_u64(1, l->ops.n / SLEEPERS_PART))
        return false;
    list_add_tail(&l->event_waits[sub->ns], &op->wait);
    metric_set(&l->metrics.subscribers, ++l->event_sleepers);
    op_again(op, sub->until_ns - l->env.now_ns);
    return true;
}

static void sleep_end(struct op *op, struct subscribe *sub)
{
    struct lane *l = op->lane;

    list_del(&op->wait);
    timer_stop(&l->timers, &op->again);
    metric_set(&l->metrics.subscribers, --l->event_sleepers);
    sub->at = max_u64(sub->at, l->events_told);
}

/* Those that wait for events of this namespace and have not seen seq. */
static void wake_list(struct list *waits, uint64_t seq)
{
    LIST_FOREACH_SAFE(n, waits)
    {
        struct op *op = op_of_wait(n);
        struct subscribe *sub = op->body;

        if (sub->at > seq)
            continue;
        sub->at = seq;
        op_wake(op);
    }
}

/* Those whose position is before this one, of whatever namespace: none of them
 * sleeps again. */
static void wake_before(struct lane *l, uint64_t seq)
{
    for (uint32_t i = 0; i <= l->ns_max && l->event_sleepers; i++) {
        LIST_FOREACH_SAFE(n, &l->event_waits[i])
        {
            struct op *op = op_of_wait(n);
            const struct subscribe *sub = op->body;

            if (sub->at < seq)
                op_wake(op);
        }
    }
}

void lane_wake_events(struct lane *l)
{
    uint64_t next = store_events_next(l->store), seq = l->events_told;
    uint64_t first = store_events_first(l->store);

    if (l->draining)
        wake_before(l, UINT64_MAX);
    else if (seq < first) /* one turn brought more than the ring holds */
        wake_before(l, first);
    seq = max_u64(seq, first);
    for (; l->event_sleepers && seq < next; seq++) {
        struct list *waits = &l->event_waits[store_event_ns(l->store, seq)];

        if (!list_empty(waits))
            wake_list(waits, seq);
    }
    l->events_told = next;
}

/* A poll of the same subscription that sleeps on this connection: its client
 * has another one in its place, or does not want it any more. */
static void supersede(struct op *op, struct subscribe *sub)
{
    LIST_FOREACH_SAFE(n, &op->lane->event_waits[sub->ns])
    {
        struct op *old = op_of_wait(n);
        struct subscribe *its = old->body;

        if (old->peer == op->peer && its->m->id == sub->m->id) {
            its->until_ns = 0;
            op_again(old, 0);
        }
    }
}

/* ---- the operation */

static enum err subscribe_start(struct op *op)
{
    const Pikv__Subscribe *m = op_unpack(op, &pikv__subscribe__descriptor);
    struct subscribe *sub = arena_zalloc(&op->arena, sizeof *sub);
    const struct lane *l = op->lane;
    const struct registry_ns *ns;
    enum err e;

    if (!m)
        return ERR_BAD_REQUEST;
    MUST(sub);
    e = lane_ns_find(l, m->ns, m->generation, &ns);
    if (!e && !store_events_on(l->store))
        e = ERR_UNSUPPORTED;
    if (e)
        return e;
    op->body = sub;
    sub->m = m;
    sub->ns = ns->id;
    sub->at = m->from_seq ? m->from_seq : store_events_next(l->store);
    sub->until_ns = op->begin_ns + m->wait_ms * NS_PER_MS;
    pikv__subscribe_reply__init(&sub->rep);
    sub->rep.events = sub->events;
    sub->rep.boot = l->control->boot;
    if (m->id)
        supersede(op, sub);
    return OK;
}

static void subscribe_tick(struct op *op)
{
    struct subscribe *sub = op->body;
    enum err e;

    for (;;) {
        switch (op->state) {
        case START:
            e = subscribe_start(op);
            if (e) {
                op_reply(op, e);
                return;
            }
            sub = op->body;
            op_goto(op, SCAN);
            break;
        case SCAN:
            if (scan(op, sub) || is_over(op, sub)) {
                op_goto(op, REPLY);
            } else if (sub->at < store_events_next(op->lane->store)) {
                op_again(op, 0);
                return;
            } else if (sleep_begin(op, sub)) {
                op_goto(op, SLEEP);
                return;
            } else {
                op_reply(op, ERR_BUSY);
                return;
            }
            break;
        case SLEEP:
            sleep_end(op, sub);
            op_goto(op, SCAN);
            break;
        case REPLY:
            sub->rep.next_seq = sub->at;
            op_reply_msg(op, OK, &sub->rep);
            return;
        }
    }
}

const struct op_machine subscribe_machine = {
    .tick = subscribe_tick,
    .states =
        {
            [START] = {"START", NEXT(SCAN)},
            [SCAN] = {"SCAN", NEXT(SLEEP) | NEXT(REPLY)},
            [SLEEP] = {"SLEEP", NEXT(SCAN)},
            [REPLY] = {"REPLY", 0},
        },
};
