/* SPDX-License-Identifier: Apache-2.0
 *
 * The half of a connection that shm and ucx share: its states (conn.h), HELLO
 * and SETUP, request slots, credits, the backlog, and where replies go.
 *
 *  1. A request is sent only while the connection has a slot, an operation
 *     credit and byte credit (one request may always go alone); the others
 *     wait in the backlog in order, up to the handle's limit of calls.
 *  2. A reply is matched by slot and full id: late, doubled and invented ones
 *     are dropped. A reply that cannot be parsed ends the connection.
 *  3. Trying again: 10 ms after the end, doubling to 1 s, in progress. */
#include "client/conn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/call.h"
#include "client/hedge.h"
#include "pikv.pb-c.h"

enum {
    BACKOFF_MS = 10,
    BACKOFF_MAX_MS = 1000,
    SETUP_MS = 3000,
    CREDIT_OPS_MIN = 4,
    MARGIN_US_MAX = 1000, /* the daemon's deadline lies before ours */
};

/* The line was reserved by peer_new or peer_lanes; they are made in order. */
struct conn *conn_new(struct pikv *kv, struct peer *peer, uint32_t lane,
                      const char *addr)
{
    struct conn *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->kv = kv;
    c->ops = strncmp(addr, "ucx:", 4) == 0 ? &conn_ucx : &conn_shm;
    c->peer = peer;
    c->lane = lane;
    c->line = peer->first + lane;
    c->status = ERR_NO_SERVER;
    c->backoff_ns = BACKOFF_MS * NS_PER_MS;
    snprintf(c->addr, sizeof(c->addr), "%s", addr);
    list_init(&c->backlog);
    for (uint16_t i = 0; i < CONN_SLOTS; i++)
        c->slot_free[i] = i;
    c->slot_free_n = CONN_SLOTS;
    kv->conns[c->line] = c;
    kv->line_n = (uint32_t)max_u64(kv->line_n, c->line + 1);
    return c;
}

void conn_free(struct conn *c)
{
    if (!c)
        return;
    free(c->tp);
    free(c);
}

void conn_dial(struct conn *c, uint64_t now)
{
    enum err e;

    c->incarnation++;
    c->state = CONN_DIALING;
    c->setup_due_ns = now + SETUP_MS * NS_PER_MS;
    c->setup_pending = 0;
    c->credit_ops = CREDIT_OPS_MIN;
    c->credit_bytes = 0;
    c->limits.batch_keys = WIRE_SLOTS;
    c->limits.inline_bytes = c->ops->inlines ? MIB(1) : 0;
    c->limits.block_bytes = GIB(64);
    e = c->ops->dial(c);
    if (e)
        conn_down(c, e);
}

/* ---- HELLO and SETUP ---- */

static void conn_up(struct conn *c)
{
    c->state = CONN_UP;
    c->kv->reconnects += c->was_up;
    c->status = OK;
    c->fails = 0;
    c->backoff_ns = BACKOFF_MS * NS_PER_MS;
    nodes_line_up(c);
    c->was_up = true;
    conn_run_backlog(c);
    pthread_cond_broadcast(&c->kv->cond);
}

void conn_setup_done(struct conn *c)
{
    if (c->state == CONN_SETUP && --c->setup_pending == 0)
        conn_up(c);
}

static void conn_setup(struct conn *c)
{
    struct pikv *kv = c->kv;

    c->state = CONN_SETUP;
    c->setup_pending = 1;
    LIST_FOREACH(l, &kv->regions)
    {
        struct region *r = container_of(l, struct region, node);

        if (c->ops->registers && (r->callers || r == kv->staging.region)) {
            c->setup_pending++;
            region_tell(kv, r, c, true);
        }
    }
    if (c->lane == 0)
        ns_reopen_all(kv, c);
    conn_setup_done(c);
}

/* "ucx:0.0.0.0:7000" says a port, and the host is the one we reached. */
static void conn_lane_addr(const struct conn *c, const char *given, char *out)
{
    const char *port = strrchr(given, ':'), *mine = strrchr(c->addr, ':');

    if (c->ops == &conn_ucx && port && mine &&
        (strncmp(given, "ucx:0.0.0.0:", 12) == 0 ||
         strncmp(given, "ucx::", 5) == 0 ||
         strncmp(given, "ucx:[::]:", 9) == 0))
        snprintf(out, ADDR_MAX, "%.*s%s", (int)(mine - c->addr), c->addr, port);
    else
        snprintf(out, ADDR_MAX, "%s", given);
}

static int conn_lanes(struct conn *c, const Pikv__HelloReply *m)
{
    struct pikv *kv = c->kv;
    struct peer *p = c->peer;
    uint32_t n = m->n_lanes ? (uint32_t)m->n_lanes : 1;
    int e;

    if (c->lane != 0)
        return m->lane == c->lane && n == p->lane_n ? OK : ERR_NO_SERVER;
    if (m->n_lanes > LANES_MAX || (p->lane_n > 1 && p->lane_n != n))
        return ERR_UNSUPPORTED;
    if (m->lane != 0)
        return ERR_UNSUPPORTED;
    e = peer_lanes(kv, p, n);
    for (uint32_t i = 1; i < n && !e; i++) {
        const char *given =
            c->ops == &conn_ucx ? m->lanes[i]->ucx : m->lanes[i]->shm;
        struct conn *lane = peer_conn(kv, p, i);
        char addr[ADDR_MAX];

        conn_lane_addr(c, given, addr);
        if (!lane && !conn_new(kv, p, i, addr))
            e = ERR_NO_MEMORY;
        else if (lane && lane->ops == c->ops)
            snprintf(lane->addr, ADDR_MAX, "%s", addr);
    }
    if (!e)
        p->lane_n = n;
    return e;
}

static void conn_take_limits(struct conn *c, const Pikv__HelloReply *m)
{
    struct pikv_info *info = &c->kv->info;

    c->boot = m->boot;
    c->features = m->features;
    c->epoch = m->features & FEATURE_VIEW ? m->epoch : 0;
    c->credit_ops =
        m->credit_ops > CREDIT_OPS_MIN ? m->credit_ops : CREDIT_OPS_MIN;
    c->credit_bytes = m->credit_bytes ? m->credit_bytes : UINT64_MAX;
    if (m->message_bytes_max && m->message_bytes_max < c->limits.message_bytes)
        c->limits.message_bytes = m->message_bytes_max;
    if (m->batch_keys_max)
        c->limits.batch_keys = m->batch_keys_max;
    if (m->block_bytes_max)
        c->limits.block_bytes = m->block_bytes_max;
    if (c->line)
        return;
    snprintf(info->server, sizeof(info->server), "%s", m->server);
    snprintf(info->transport, sizeof(info->transport), "%s", c->ops->name);
    info->lanes = c->peer->lane_n;
    info->batch_keys_max = c->limits.batch_keys;
    info->block_bytes_max = c->limits.block_bytes;
    info->pin_ttl_ms_max = m->pin_ttl_ms_max;
    info->boot = m->boot;
}

static void conn_greeted(struct pikv *kv, struct call *call, int status,
                         const void *env, size_t env_len, int fd)
{
    struct conn *c = call->arg;
    Pikv__HelloReply *m = NULL;

    (void)kv;
    (void)fd;
    if (c->state != CONN_HELLO)
        return;
    if (!status) {
        m = pikv__hello_reply__unpack(NULL, env_len, env);
        status = m ? conn_lanes(c, m) : ERR_BAD_REQUEST;
    }
    if (!status)
        conn_take_limits(c, m);
    if (m)
        pikv__hello_reply__free_unpacked(m, NULL);
    if (status)
        conn_down(c, status);
    else
        conn_setup(c);
}

void conn_connected(struct conn *c)
{
    struct pikv *kv = c->kv;
    Pikv__Hello m;
    char empty[1] = "";
    uint8_t env[512];

    pikv__hello__init(&m);
    m.version = WIRE_VERSION;
    m.engine = kv->engine;
    m.model = kv->model;
    m.gpu_uuid = empty;
    m.dp_rank = kv->dp_rank;
    m.tp_rank = kv->tp_rank;
    m.pp_rank = kv->pp_rank;
    m.numa_node = -1;
    m.pid = (uint32_t)getpid();
    m.client = kv->client;
    m.features = FEATURE_PARTS | FEATURE_LAYOUT | FEATURE_VIEW;
    c->state = CONN_HELLO;
    if (call_msg(kv, c, OP_HELLO, env, pikv__hello__pack(&m, env), -1,
                 c->setup_due_ns, conn_greeted, c))
        conn_down(c, ERR_NO_MEMORY);
}

/* ---- the end ---- */

static void conn_forget_ids(struct conn *c)
{
    struct pikv *kv = c->kv;

    LIST_FOREACH(l, &kv->regions)
    container_of(l, struct region, node)->ids[c->line] = 0;
    lay_conn_gone(kv, c->line);
    for (uint32_t i = 0; i < NAMESPACES_MAX; i++)
        loan_unmap(&kv->ns[i], c->line);
}

void conn_part_ends(struct conn *c, struct part *p, int status)
{
    if (p->call)
        call_fail_items(p, status);
    call_part_ended(c->kv, p, status);
}

/* Ends it for all. A part that ucx still uses ends when ucx has let it go. */
void conn_down(struct conn *c, int status)
{
    struct pikv *kv = c->kv;
    int ends = c->state == CONN_UP ? ERR_RETRY : status;
    struct list *l;

    if (c->state == CONN_DOWN)
        return;
    c->state = CONN_DOWN;
    c->status = status;
    c->fails++;
    c->retry_ns = now_ns() + c->backoff_ns;
    if (c->backoff_ns < BACKOFF_MAX_MS * NS_PER_MS)
        c->backoff_ns *= 2;
    c->ops->hang_up(c);
    conn_forget_ids(c);
    while ((l = list_pop(&c->backlog)))
        conn_part_ends(c, container_of(l, struct part, node), ends);
    for (uint32_t i = 0; i < CONN_SLOTS; i++) {
        struct part *p = c->slots[i];

        if (!p)
            continue;
        if (!p->status)
            p->status = ends;
        p->replied = true;
        p->lost = true;
        if (!p->tp_pending && !p->busy)
            conn_part_ends(c, p, p->status);
    }
    nodes_line_down(c);
    pthread_cond_broadcast(&kv->cond);
}

void conn_tick(struct conn *c, uint64_t now)
{
    if (c->state == CONN_DOWN) {
        if (now >= c->retry_ns && !c->kv->closing && c->ops->quiet(c))
            conn_dial(c, now);
    } else if (c->state != CONN_UP && now >= c->setup_due_ns) {
        conn_down(c, ERR_TIMEOUT);
    }
}

/* ---- sending ---- */

void conn_take_slot(struct conn *c, struct part *p)
{
    p->slot = c->slot_free[--c->slot_free_n];
    p->req =
        (uint64_t)c->line << LINE_SHIFT | (++c->serial * CONN_SLOTS) | p->slot;
    c->slots[p->slot] = p;
    c->ops_used++;
    c->bytes_used += p->bytes;
    p->sent_ns = c->kv->now_ns;
    p->state = PART_SENT;
}

void conn_give_slot(struct conn *c, struct part *p)
{
    c->slots[p->slot] = NULL;
    c->slot_free[c->slot_free_n++] = (uint16_t)p->slot;
    c->ops_used--;
    c->bytes_used -= p->bytes;
    p->req = 0;
}

static bool conn_has_credit(const struct conn *c, const struct part *p)
{
    if (c->slot_free_n == 0)
        return false;
    if (c->ops_used == 0)
        return true;
    return c->ops_used < c->credit_ops && p->bytes <= c->credit_bytes &&
           c->bytes_used <= c->credit_bytes - p->bytes;
}

/* Calls of the caller wait for UP; HELLO and SETUP are how it gets there. */
static bool conn_takes(const struct conn *c, const struct part *p)
{
    return c->state == CONN_UP ||
           (p->call && !p->call->id &&
            (c->state == CONN_HELLO || c->state == CONN_SETUP));
}

bool conn_may_send(struct conn *c, const struct part *p)
{
    return c->state == CONN_UP && list_empty(&c->backlog) &&
           p->gate == GATE_NONE && conn_has_credit(c, p);
}

void conn_seal(struct conn *c, struct part *p, uint8_t *msg, uint64_t now)
{
    struct wire_frame *f = (struct wire_frame *)(void *)msg;
    uint64_t left_us = 1, due = p->call->deadline_ns;

    if (due > now)
        left_us = (due - now) / NS_PER_US;
    left_us -= min_u64(left_us / 8, MARGIN_US_MAX);
    f->req = p->req;
    f->flags = c->kv->callers_poll ? FRAME_SPINS : 0;
    f->deadline_us = (uint32_t)min_u64(max_u64(left_us, 1), UINT32_MAX);
    f->crc = 0;
    frame_seal(f, msg + sizeof(*f), (size_t)frame_body_len(f));
}

/* OK, ERR_BUSY (stays in the backlog), or it ended. */
static bool conn_send_now(struct conn *c, struct part *p)
{
    enum err e;

    if (!conn_takes(c, p) || !conn_has_credit(c, p))
        return false;
    if (p->gate == GATE_REGION) {
        if (!p->own->ids[c->line] && p->own->asked)
            return false;
        if (!p->own->ids[c->line]) {
            list_del(&p->node);
            conn_part_ends(c, p, p->own->status ? p->own->status : ERR_RETRY);
            return true;
        }
        build_patch(p, p->own->ids[c->line] - 1);
        p->gate = GATE_NONE;
    } else if (p->gate == GATE_LOANS) {
        return false; /* loan.c opens the gate */
    }
    conn_take_slot(c, p);
    conn_seal(c, p, p->msg, now_ns());
    list_del(&p->node);
    e = c->ops->send(c, p);
    if (!e)
        return true;
    if (e == ERR_BUSY) {
        conn_give_slot(c, p);
        p->state = PART_QUEUED;
        list_add_head(&c->backlog, &p->node);
        return false;
    }
    conn_down(c, e);
    return false;
}

/* Gated parts do not stop those behind them; a full ring or no credit does. */
void conn_run_backlog(struct conn *c)
{
    bool more = true;

    while (more) {
        more = false;
        LIST_FOREACH(l, &c->backlog)
        {
            struct part *p = container_of(l, struct part, node);

            if (conn_send_now(c, p)) {
                more = true;
                break;
            }
            if (c->state == CONN_DOWN)
                return;
            if (p->gate == GATE_NONE && conn_takes(c, p))
                return;
        }
    }
}

/* Internal requests go first: others may wait for them. */
void conn_send(struct conn *c, struct part *p)
{
    if (c->state == CONN_DOWN) {
        conn_part_ends(c, p, c->status);
        return;
    }
    p->state = PART_QUEUED;
    if (p->call->id)
        list_add_tail(&c->backlog, &p->node);
    else
        list_add_head(&c->backlog, &p->node);
    conn_run_backlog(c);
}

/* ---- replies ---- */

static void conn_reply_msg(struct conn *c, struct part *p,
                           const struct message *m, int fd)
{
    struct call *call = p->call;
    call_done_fn *done = call->on_done;

    call->on_done = NULL;
    conn_give_slot(c, p);
    if (done)
        done(c->kv, call, m->frame.status, m->env, m->frame.env_len, fd);
    call_part_ended(c->kv, p, m->frame.status);
}

/* Staged bytes are copied to the caller by progress, small ones here. */
void conn_finish(struct conn *c, struct part *p)
{
    struct pikv *kv = c->kv;
    uint64_t bytes = 0;

    if (p->busy)
        return; /* again when it no longer is */
    if (p->kind == LEG_HEDGE && p->call) {
        hedge_came(kv, p);
        return;
    }
    conn_give_slot(c, p);
    list_del(&p->node);
    for (uint32_t i = p->landed; reply_lands(p) && i < p->n; i++)
        bytes += reply_land_bytes(p, i);
    if (bytes > LAND_INLINE) {
        p->state = PART_LANDING;
        list_add_tail(&kv->landing, &p->node);
        return;
    }
    for (uint32_t i = p->landed; bytes && i < p->n; i++)
        reply_land(kv, p, i);
    call_part_ended(kv, p, p->status);
}

static void conn_reply_batch(struct conn *c, struct part *p,
                             const struct message *m)
{
    if (!reply_batch(c->kv, p, m)) {
        conn_down(c, ERR_BAD_REQUEST);
        return;
    }
    p->status = m->frame.status;
    p->replied = true;
    if (p->call->tells && m->frame.record_n)
        p->announced = p->n;
    if (c->ops->complete(c, p))
        conn_finish(c, p);
}

static void conn_event(struct conn *c, struct part *p, const struct message *m)
{
    if (p->op != m->frame.op || !parts_event(c->kv, p, m))
        conn_down(c, ERR_BAD_REQUEST);
}

void conn_message(struct conn *c, const void *frame, const void *body,
                  size_t body_len, int fd)
{
    struct message m;
    struct part *p;

    if (frame_read(frame, body, body_len, &c->limits, &m)) {
        conn_down(c, ERR_BAD_REQUEST);
    } else if (m.frame.kind == WIRE_REPLY || m.frame.kind == WIRE_EVENT) {
        p = c->slots[m.frame.req % CONN_SLOTS];
        c->heard_ns = c->kv->now_ns;
        if (p && p->req == m.frame.req && !p->replied) {
            if (m.frame.kind == WIRE_EVENT)
                conn_event(c, p, &m);
            else if (!p->call)
                call_part_ended(c->kv, p, OK);
            else if (p->op != m.frame.op)
                conn_down(c, ERR_BAD_REQUEST);
            else if (p->call->id)
                conn_reply_batch(c, p, &m);
            else
                conn_reply_msg(c, p, &m, fd);
        }
    }
    if (fd >= 0)
        close(fd);
}
