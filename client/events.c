/* SPDX-License-Identifier: Apache-2.0
 *
 * Subscriptions: what happens to a namespace's blocks, from all lanes.
 *
 *      caller: pikv_events_next          background (kv->mu, any thread)
 *
 *      hand out <-- box  <--unpacked--  reply <-- the lane's poll comes back
 *         |                               ^
 *         +--- ask again, from the next --+-- SUBSCRIBE, an internal call
 *              event on
 *
 * One lane has at most one poll under way, one reply that nobody looked at and
 * one that is being handed out; it is asked again when its reply was taken. So
 * a slow caller costs the daemon nothing and this process two messages a lane.
 *
 *  1. The first poll of a lane that is to begin "from now on" does not wait: it
 *     fetches the position, so that no event falls between two polls when an
 *     answer is lost.
 *  2. A poll under way holds the subscription: its end comes even if the caller
 *     has closed it meanwhile, and the last one frees it. A poll that sleeps at
 *     the daemon then is ended by one with the same id that does not wait.
 *  3. Polls take only a part of a connection's credit: other calls go on, and
 *     what ends a poll is not queued behind it.
 *  4. Another boot id: seq starts anew. The caller is told LOST, then all that
 *     the new daemon still has.
 *
 * Only the caller's thread touches a box; the rest of a lane is kv->mu's. */
#include <stdlib.h>
#include <string.h>

#include "client/call.h"
#include "client/nodes.h"
#include "rpc/msg.h"

enum {
    POLL_MS = 10000,
    POLL_SLACK_MS = 5000, /* of the deadline, beyond what the poll waits */
    FIRST_MS = 2000,      /* deadline of a poll that does not wait */
    AGAIN_MS = 10,        /* after a failure, doubled each time */
    AGAIN_MAX_MS = 1000,
    LOOK_MS = 10,   /* whether a lane is there again */
    OPEN_MAX = 16,  /* subscriptions of a handle */
    POLLS_MAX = 24, /* under way to a lane, those of closed ones with them, and
                     * at most half of what the lane allows in all */
};

/* A reply being handed out. */
struct box {
    Pikv__SubscribeReply *reply;
    size_t at;
    bool lost; /* to be told first */
};

struct feed {
    struct pikv_events *ev;
    uint32_t line, node;
    bool asked;    /* a poll is under way */
    uint64_t next; /* seq; 0: from now on */
    uint64_t boot; /* that it counts in */
    bool anew;     /* boot changed: to be told */
    uint64_t ask_ns, pause_ms;
    uint8_t *env; /* a reply that came */
    size_t env_len;
    struct box box;
};

struct pikv_events {
    struct pikv *kv;
    uint32_t ns, first; /* feed to be asked for events first */
    uint64_t id;
    uint32_t holds; /* polls under way, and the caller */
    bool closed, came;
    int status;                    /* for good */
    struct feed *feeds[LINES_MAX]; /* by line; made when first looked at */
};

/* ---- polls, with kv->mu */

static void events_let(struct pikv_events *ev)
{
    if (--ev->holds)
        return;
    for (uint32_t i = 0; i < LINES_MAX; i++) {
        if (ev->feeds[i])
            free(ev->feeds[i]->env);
        free(ev->feeds[i]);
    }
    free(ev);
}

/* NULL: no memory. A line of the first node counts from the boot that
 * pikv_info says; another line's first boot is the one that it has now. */
static struct feed *feed_at(struct pikv_events *ev, uint32_t line)
{
    const struct pikv *kv = ev->kv;
    struct feed *f = ev->feeds[line];

    if (f)
        return f;
    f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    f->ev = ev;
    f->line = line;
    f->boot = line < kv->info.lanes ? kv->info.boot : kv->conns[line]->boot;
    ev->feeds[line] = f;
    return f;
}

static void feed_pause(struct feed *f)
{
    f->pause_ms =
        f->pause_ms ? min_u64(2 * f->pause_ms, AGAIN_MAX_MS) : AGAIN_MS;
    f->ask_ns = now_ns() + f->pause_ms * NS_PER_MS;
}

static void feed_failed(struct feed *f, int status)
{
    if (err_who(status) == WHO_GIVEUP)
        f->ev->status = status;
    else
        feed_pause(f);
}

static void feed_polled(struct pikv *kv, struct call *call, int status,
                        const void *env, size_t env_len, int fd)
{
    struct feed *f = call->arg;
    struct pikv_events *ev = f->ev;

    (void)fd;
    f->asked = false;
    kv->event_polls[f->line]--;
    if (!status && !ev->closed) {
        f->env = malloc(env_len + 1);
        status = f->env ? OK : ERR_NO_MEMORY;
    }
    if (!status && !ev->closed) {
        memcpy(f->env, env, env_len);
        f->env_len = env_len;
        f->pause_ms = 0;
    }
    if (status)
        feed_failed(f, status);
    ev->came = true;
    pthread_cond_broadcast(&kv->cond);
    events_let(ev);
}

static uint32_t polls_max(const struct conn *c)
{
    return (uint32_t)min_u64(POLLS_MAX, c->credit_ops / 2);
}

/* The lane can be asked now; else when to look again. */
static bool feed_ready(struct pikv_events *ev, const struct conn *c,
                       const struct ns *space, uint64_t now, uint64_t *due)
{
    const struct feed *f = ev->feeds[c->line];

    if (f->asked || f->env || f->anew)
        return false;
    if (c->state != CONN_UP || !ns_at(space, c) ||
        ev->kv->event_polls[c->line] >= polls_max(c))
        *due = min_u64(*due, now + LOOK_MS * NS_PER_MS);
    else if (now < f->ask_ns)
        *due = min_u64(*due, f->ask_ns);
    else
        return true;
    return false;
}

static void feed_ask(struct pikv_events *ev, struct conn *c,
                     const struct ns *space, uint64_t now)
{
    struct feed *f = ev->feeds[c->line];
    uint32_t wait_ms = f->next ? POLL_MS : 0;
    uint64_t most_ms = wait_ms ? POLL_MS + POLL_SLACK_MS : FIRST_MS;
    uint8_t env[64];
    Pikv__Subscribe m;

    pikv__subscribe__init(&m);
    m.ns = ns_at(space, c)->id;
    m.from_seq = f->next;
    m.wait_ms = wait_ms;
    m.id = ev->id;
    f->asked = true;
    ev->kv->event_polls[c->line]++;
    ev->holds++;
    /* It may have ended when this returns, if the connection did. */
    if (!call_msg(ev->kv, c, OP_SUBSCRIBE, env, pikv__subscribe__pack(&m, env),
                  -1, now + most_ms * NS_PER_MS, feed_polled, f))
        return;
    f->asked = false;
    ev->kv->event_polls[c->line]--;
    feed_pause(f);
    events_let(ev);
}

/* A lane that counts anew; not while events of the old count are to be told. */
static void feed_anew(struct feed *f, uint64_t boot)
{
    if (f->box.reply)
        return;
    f->boot = boot;
    f->next = 1;
    f->anew = true;
    f->ev->came = true;
}

/* Asks the lanes that can be asked; due_out: when to look again at the latest,
 * if nothing comes before. NO_NAMESPACE: the server does not have it (any
 * more); one that is away may have it. */
static int events_ask(struct pikv_events *ev, uint64_t *due_out)
{
    struct pikv *kv = ev->kv;
    const struct ns *space = ns_find(kv, ev->ns);
    uint64_t now = now_ns();

    *due_out = space ? DEADLINE_NEVER : now + LOOK_MS * NS_PER_MS;
    if (!space && nodes_any(kv)->state == CONN_UP)
        return ERR_NO_NAMESPACE;
    if (space && !kv->closing)
        nodes_reach(kv, &kv->ns[ev->ns]);
    for (uint32_t i = 0; space && !kv->closing && i < kv->line_n; i++) {
        struct conn *c = kv->conns[i];
        struct feed *f;

        if (i >= kv->info.lanes && !c->was_up) { /* no boot to count from */
            if (!c->peer->gone)
                *due_out = min_u64(*due_out, now + LOOK_MS * NS_PER_MS);
            continue;
        }
        f = feed_at(ev, i);
        if (!f)
            return ERR_NO_MEMORY;
        f->node = kv->many ? c->peer->node : 0;
        if (!feed_ready(ev, c, space, now, due_out))
            continue;
        if (c->boot != f->boot)
            feed_anew(f, c->boot);
        else
            feed_ask(ev, c, space, now);
    }
    progress_submitted(kv, now);
    return ev->status;
}

/* The daemon's polls of a subscription that is closed sleep no longer. */
static void events_unask(struct pikv_events *ev)
{
    struct pikv *kv = ev->kv;
    const struct ns *space = ns_find(kv, ev->ns);
    uint64_t now = now_ns();
    uint8_t env[64];
    Pikv__Subscribe m;

    pikv__subscribe__init(&m);
    m.id = ev->id;
    for (uint32_t i = 0; space && !kv->closing && i < kv->line_n; i++) {
        struct conn *c = kv->conns[i];
        const struct ns_at *at = ns_at(space, c);

        m.ns = at ? at->id : 0;
        if (ev->feeds[i] && ev->feeds[i]->asked && c->state == CONN_UP && at)
            (void)call_msg(kv, c, OP_SUBSCRIBE, env,
                           pikv__subscribe__pack(&m, env), -1,
                           now + FIRST_MS * NS_PER_MS, NULL, NULL);
    }
    progress_submitted(kv, now);
}

/* ---- events, in the caller's thread */

static struct pikv_bytes bytes_of(ProtobufCBinaryData d)
{
    return (struct pikv_bytes){d.data, d.len};
}

static void event_fill(const Pikv__Event *m, struct pikv_event *out)
{
    /* A kind of a newer server would be none of ours: the caller lists anew. */
    out->kind = m->kind < PIKV_EVENT_LOST ? (enum pikv_event_kind)m->kind
                                          : PIKV_EVENT_LOST;
    out->seq = m->seq;
    out->key = bytes_of(m->key);
    out->parent = bytes_of(m->parent);
    if (m->hash.len == sizeof(out->hash))
        memcpy(out->hash, m->hash.data, sizeof(out->hash));
    if (m->scope.len == sizeof(out->scope))
        memcpy(out->scope, m->scope.data, sizeof(out->scope));
    out->group = (uint16_t)m->group;
    out->cls = (uint8_t)m->cls;
    out->tier = (uint8_t)m->tier;
    out->len = m->len;
    out->version = m->version;
    out->page = m->page;
    out->token_end = m->token_end;
    out->token_n = m->token_n;
    for (size_t i = 0; i < m->n_labels && i < countof(out->labels); i++)
        out->labels[i] = m->labels[i];
    out->when_ms = m->when_ms;
}

/* The next event of what the lane has told. */
static bool feed_next(struct feed *f, uint32_t lane, struct pikv_event *out)
{
    struct box *b = &f->box;

    *out = (struct pikv_event){.lane = lane, .node = f->node, .boot = f->boot};
    if (f->anew) {
        out->kind = PIKV_EVENT_LOST;
        out->seq = 1;
        f->anew = false;
        return true;
    }
    if (!b->reply)
        return false;
    if (b->lost) {
        out->kind = PIKV_EVENT_LOST;
        out->seq = b->reply->lost_from;
        out->count = b->reply->lost_count;
        b->lost = false;
        return true;
    }
    if (b->at == b->reply->n_events)
        return false;
    event_fill(b->reply->events[b->at++], out);
    return true;
}

/* What was handed out before is not valid any more. */
static void boxes_clear(struct pikv_events *ev)
{
    for (uint32_t i = 0; i < LINES_MAX; i++) {
        struct box *b = ev->feeds[i] ? &ev->feeds[i]->box : NULL;

        if (!b || !b->reply || b->lost || b->at < b->reply->n_events)
            continue;
        pikv__subscribe_reply__free_unpacked(b->reply, NULL);
        b->reply = NULL;
    }
}

/* A reply into the empty box; the lane can be asked again. With kv->mu, which
 * is let go meanwhile: nobody else touches a feed that has a reply. */
static void feed_open(struct pikv_events *ev, struct feed *f)
{
    struct pikv *kv = ev->kv;
    Pikv__SubscribeReply *r;

    pthread_mutex_unlock(&kv->mu);
    r = pikv__subscribe_reply__unpack(NULL, f->env_len, f->env);
    pthread_mutex_lock(&kv->mu);
    free(f->env);
    f->env = NULL;
    if (!r || !r->next_seq) {
        if (r)
            pikv__subscribe_reply__free_unpacked(r, NULL);
        ev->status = ERR_BAD_REQUEST;
        return;
    }
    f->next = r->next_seq;
    f->box = (struct box){.reply = r, .lost = r->lost_from != 0};
}

static int boxes_hand_out(struct pikv_events *ev, struct pikv_event *out,
                          int max)
{
    uint32_t lanes = ev->kv->line_n, first = ev->first++ % lanes;
    int n = 0;

    for (uint32_t i = 0; i < lanes; i++) {
        uint32_t lane = (first + i) % lanes;
        struct feed *f = ev->feeds[lane];

        if (!f)
            continue;
        if (f->env && !f->box.reply)
            feed_open(ev, f);
        while (n < max && feed_next(f, lane, &out[n]))
            n++;
    }
    return n;
}

/* ---- the public functions */

int pikv_events_open(struct pikv *kv, uint32_t ns, const uint64_t *from_seq,
                     struct pikv_events **ev_out)
{
    struct pikv_events *ev;
    uint64_t due;
    bool memory = true;
    int e = handle_check(kv);

    if (e)
        return e;
    ev = calloc(1, sizeof(*ev));
    if (!ev)
        return ERR_NO_MEMORY;
    ev->kv = kv;
    ev->ns = ns;
    ev->holds = 1;
    pthread_mutex_lock(&kv->mu);
    ev->id = ++kv->event_ids;
    for (uint32_t i = 0; from_seq && i < kv->info.lanes; i++) {
        struct feed *f = feed_at(ev, i);

        if (f)
            f->next = max_u64(from_seq[i], 1);
        memory = memory && f;
    }
    e = !memory                         ? ERR_NO_MEMORY
        : !ns_find(kv, ns)              ? ERR_NO_NAMESPACE
        : kv->event_streams >= OPEN_MAX ? ERR_LIMIT
                                        : events_ask(ev, &due);
    ev->closed = e != 0;
    if (e)
        events_let(ev);
    else
        kv->event_streams++;
    pthread_mutex_unlock(&kv->mu);
    if (!e)
        *ev_out = ev;
    return e;
}

int pikv_events_next(struct pikv_events *ev, struct pikv_event *out, int max,
                     uint32_t wait_ms)
{
    struct pikv *kv = ev->kv;
    uint64_t until;
    int n = handle_check(kv);

    if (n)
        return n;
    if (max <= 0)
        return ERR_BAD_REQUEST;
    until = now_ns() + wait_ms * NS_PER_MS;
    pthread_mutex_lock(&kv->mu);
    boxes_clear(ev);
    for (;;) {
        uint64_t due;
        int e;

        ev->came = false;
        n = boxes_hand_out(ev, out, max);
        if (!n)
            boxes_clear(ev);
        e = events_ask(ev, &due);
        if (!n)
            n = e;
        if (n || now_ns() >= until)
            break;
        progress_wait_until(kv, &ev->came, min_u64(due, until));
    }
    pthread_mutex_unlock(&kv->mu);
    return n;
}

void pikv_events_close(struct pikv_events *ev)
{
    struct pikv *kv;

    /* In a forked child everything belongs to the parent. */
    if (!ev || handle_check(ev->kv))
        return;
    kv = ev->kv;
    for (uint32_t i = 0; i < LINES_MAX; i++)
        if (ev->feeds[i] && ev->feeds[i]->box.reply)
            pikv__subscribe_reply__free_unpacked(ev->feeds[i]->box.reply, NULL);
    pthread_mutex_lock(&kv->mu);
    ev->closed = true;
    kv->event_streams--;
    events_unask(ev);
    events_let(ev);
    pthread_mutex_unlock(&kv->mu);
}
