/* SPDX-License-Identifier: Apache-2.0
 *
 * The test's transport and request builder (node.h). */
#include "lib/node.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

struct node_done {
    struct list node;
    struct tp_send *send;
    struct tp_xfer *x;
    struct node_peer *closed;
    enum err e;
};

static struct node_done *done_new(struct test_node *n)
{
    struct node_done *d = calloc(1, sizeof *d);

    MUST(d);
    list_add_tail(&n->done, &d->node);
    return d;
}

static struct node_peer *peer_at(struct tp_peer *tp)
{
    return container_of(tp, struct node_peer, tp);
}

static void reply_take(struct test_node *n, const struct tp_send *s)
{
    struct node_reply *r = &n->reply;
    uint64_t body = frame_body_len(&s->frame);
    uint8_t *to = r->bytes + body;

    memset(r, 0, offsetof(struct node_reply, keys));
    MUST(body + s->frame.data_len <= sizeof r->bytes);
    r->frame = s->frame;
    if (body)
        memcpy(r->bytes, s->body, body);
    for (uint32_t i = 0; i < s->data_n; i++) {
        memcpy(to, s->data[i].p, s->data[i].len);
        to += s->data[i].len;
    }
    if (s->frame.record_n) {
        MUST(s->frame.record_n <= NODE_KEYS + 1);
        memcpy(&r->head, r->bytes, sizeof r->head);
        memcpy(r->r, r->bytes + WIRE_RECORD,
               (s->frame.record_n - 1) * sizeof *r->r);
    }
    r->keys = r->bytes + s->frame.record_n * WIRE_RECORD;
    r->env = r->keys + s->frame.keys_len;
    r->data = r->bytes + body;
    r->there = true;
    n->replies++;
}

static void event_take(struct test_node *n, const struct tp_send *s)
{
    struct node_events *v = &n->events;
    const struct wire_frame *f = &s->frame;
    struct frame_limits lim = n->lane.limits;
    struct message m;

    if (frame_read(f, s->body, frame_body_len(f), &lim, &m) ||
        f->data_idx != v->told || f->record_n == 0 || n->reply.there ||
        v->told + f->record_n > NODE_KEYS) {
        v->bad = true;
        return;
    }
    memcpy(&v->r[v->told], m.records, f->record_n * sizeof *v->r);
    v->told += f->record_n;
    v->n++;
}

static void tp_send(struct tp_peer *tp, struct tp_send *s)
{
    struct node_peer *p = peer_at(tp);
    struct test_node *n = p->node;

    if (n->hold_sends && !p->closed) {
        list_add_tail(&p->unread, &s->node); /* never read */
        return;
    }
    list_init(&s->node);
    if (!p->closed && s->frame.kind == WIRE_EVENT)
        event_take(n, s);
    else if (!p->closed)
        reply_take(n, s);
    struct node_done *d = done_new(n);
    d->send = s;
    d->e = p->closed ? ERR_PEER_GONE : OK;
}

/* One span between the block and the layout's pieces. */
static void xfer_copy_laid(struct node_peer *p, struct tp_xfer *x,
                           const struct span *s, uint64_t pos)
{
    for (uint64_t at = 0; at < s->len;) {
        uint64_t off, n = layout_piece(x->layout, x->layout_base,
                                       x->layout_pos + pos + at, &off);

        n = min_u64(n, s->len - at);
        MUST(off + n <= p->memory_bytes);
        if (x->is_push)
            memcpy(p->memory + off, s->p + at, n);
        else
            memcpy(s->p + at, p->memory + off, n);
        at += n;
    }
}

static void xfer_copy(struct node_peer *p, struct tp_xfer *x)
{
    uint8_t *client = p->bytes[x->idx];

    uint64_t pos = 0;

    MUST(x->layout || (client && x->len <= NODE_BUF));
    x->crc = 0;
    for (uint32_t i = 0; i < x->span_n; i++) {
        const struct span *s = &x->spans[i];

        if (x->layout)
            xfer_copy_laid(p, x, s, pos);
        else if (x->is_push)
            memcpy(client, s->p, s->len);
        else
            memcpy(s->p, client, s->len);
        if (!x->is_push)
            x->crc = crc32c(x->crc, s->p, s->len);
        client += x->layout ? 0 : s->len;
        pos += s->len;
    }
    x->moved = x->len;
}

static void xfer_end(struct node_peer *p, struct tp_xfer *x, enum err e)
{
    struct node_done *d = done_new(p->node);

    if (!e)
        xfer_copy(p, x);
    d->x = x;
    d->e = e;
}

static void tp_move(struct tp_peer *tp, struct tp_xfer *x)
{
    struct node_peer *p = peer_at(tp);

    list_init(&x->node);
    if (p->node->hold && !p->closed)
        list_add_tail(&p->xfers, &x->node);
    else
        xfer_end(p, x, p->closed ? ERR_PEER_GONE : OK);
}

static void tp_skip(struct tp_peer *tp, uint64_t req, uint32_t idx)
{
    (void)req;
    (void)idx;
    peer_at(tp)->node->skips++;
}

static void tp_cancel(struct tp_xfer *x)
{
    if (list_empty(&x->node))
        return;
    list_del(&x->node);
    xfer_end(peer_at(x->peer), x, ERR_CANCELED);
}

void node_let_one(struct node_peer *p, uint32_t idx)
{
    LIST_FOREACH_SAFE(l, &p->xfers)
    {
        struct tp_xfer *x = container_of(l, struct tp_xfer, node);

        if (x->idx != idx)
            continue;
        list_del(l);
        xfer_end(p, x, OK);
    }
    node_settle(p->node);
}

static enum err tp_mem_bytes(struct tp_peer *tp, uint32_t id, uint64_t *out)
{
    const struct node_peer *p = peer_at(tp);

    if (id != 1 || !p->memory)
        return ERR_NO_MEM;
    *out = p->memory_bytes;
    return OK;
}

void node_let(struct node_peer *p)
{
    struct list *l;

    while ((l = list_pop(&p->xfers)))
        xfer_end(p, container_of(l, struct tp_xfer, node), OK);
    node_settle(p->node);
}

static void tp_close(struct tp_peer *tp, bool at_once)
{
    struct node_peer *p = peer_at(tp);
    struct list *l;

    (void)at_once;
    if (p->closed)
        return;
    p->closed = true;
    while ((l = list_pop(&p->xfers))) {
        struct node_done *d = done_new(p->node);

        d->e = ERR_PEER_GONE;
        d->x = container_of(l, struct tp_xfer, node);
    }
    while ((l = list_pop(&p->unread))) {
        struct node_done *d = done_new(p->node);

        d->e = ERR_PEER_GONE;
        d->send = container_of(l, struct tp_send, node);
    }
    done_new(p->node)->closed = p;
}

static bool tp_progress(struct transport *t)
{
    struct test_node *n = container_of(t, struct test_node, t);
    struct list *l = list_pop(&n->done);
    struct node_done *d;

    if (!l)
        return false;
    d = container_of(l, struct node_done, node);
    if (d->closed) {
        t->events->closed(t->lane, &d->closed->tp);
        d->closed->told = true;
    }
    if (d->send)
        d->send->done(d->send, d->e);
    if (d->x)
        d->x->done(d->x, d->e);
    free(d);
    return true;
}

static const struct tp_ops node_tp = {
    .name = "test",
    .send = tp_send,
    .pull = tp_move,
    .push = tp_move,
    .skip = tp_skip,
    .cancel = tp_cancel,
    .mem_bytes = tp_mem_bytes,
    .close = tp_close,
    .progress = tp_progress,
};

static uint64_t node_random(void *arg)
{
    struct test_node *n = arg;

    return env_random(&n->lane.env);
}

static enum err node_save(void *arg, const char *text, size_t len)
{
    struct test_node *n = arg;

    free(n->registry);
    n->registry = malloc(len + 1);
    MUST(n->registry);
    memcpy(n->registry, text, len);
    n->registry[len] = '\0';
    return OK;
}

void node_again(struct test_node *n, struct mem_media *media)
{
    char *registry = n->registry;
    uint64_t lives = n->lives + 1;

    node_config(n, n->dram_bytes);
    n->registry = registry;
    n->lives = lives;
    n->media = media;
}

void node_forget(struct test_node *n)
{
    free(n->registry);
    n->registry = NULL;
}

void node_config(struct test_node *n, uint64_t dram_bytes)
{
    memset(n, 0, sizeof *n);
    config_defaults(&n->cfg);
    n->cfg.ssd.segment_bytes = MIB(1);
    n->cfg.ssd.scrub_bytes = 0;
    n->dram_bytes = dram_bytes;
    n->cfg.dram.low_water_pct = 0; /* no eviction but for a PUT */
    n->cfg.dram.high_water_pct = 0;
    n->cfg.limits.ops_per_lane = 32;
    n->cfg.limits.clients = 8;
    n->cfg.limits.pins_per_client = 16;
    n->cfg.limits.batch_keys = NODE_KEYS;
}

/* As ssd_boot.c, over disks in memory. */
static void node_start_ssd(struct test_node *n)
{
    static const uint8_t uuid[16] = {1};
    struct errmsg m = {""};

    n->ssd =
        (struct ssd_node){.n = n->media->dev_n, .lanes = n->lanes, .lane_n = 1};
    for (uint32_t d = 0; d < n->ssd.n; d++) {
        n->ssd.devs[d].engine = "memory";
        n->ssd.devs[d].why = "";
        n->ssd.devs[d].bytes = n->media->bytes;
        snprintf(n->ssd.devs[d].path, CONFIG_STRING, "/ssd%u", d);
    }
    n->disk_cfg.env = &n->lane.env;
    disk_mem_init(&n->disk, n->media, &n->disk_cfg);
    MUST(!control_tell_lanes(&n->control));
    MUST(!ssd_link_init(&n->lane.link, &n->lane, &n->ssd, &n->disk.disk));
    for (uint32_t d = 0; d < n->ssd.n; d++)
        MUST(!ssd_link_open(&n->lane.link, d, SEGLOG_OPEN_OR_FORMAT, uuid, &m));
    for (uint32_t d = 0; d < n->ssd.n; d++) {
        while (!n->lane.link.logs[d].opened)
            node_sleep(n, NS_PER_MS);
        MUST(n->lane.link.logs[d].err == OK);
    }
    store_adopted(n->lane.store);
}

static void node_stop_ssd(struct test_node *n)
{
    n->lane.closing = true;
    ssd_link_close(&n->lane.link, n->cfg.ssd.checkpoint);
    while (!ssd_link_closed(&n->lane.link) || !ssd_link_quiet(&n->lane.link))
        node_sleep(n, NS_PER_MS);
}

void node_start(struct test_node *n)
{
    struct control_shell shell = {.save = node_save,
                                  .random = node_random,
                                  .arg = n,
                                  .wall_us = 1700000000};
    struct errmsg m;
    struct unit_pool *pools[STORE_POOLS] = {&n->pool};

    n->lanes[0] = &n->lane;
    list_init(&n->done);
    n->memory = mem_reserve(n->dram_bytes);
    MUST(n->memory);
    MUST(!unit_pool_init(&n->pool, n->memory, n->dram_bytes, 1));
    n->lane.env =
        (struct env){.now_ns = NS_PER_S,
                     .boot_us = 1700000000000000 + n->lives * 1000000000,
                     .wall_s = 1700000001,
                     .rng = {1, 2}};
    if (n->media) {
        snprintf(n->cfg.ssd.paths, sizeof n->cfg.ssd.paths, "/ssd0");
        n->lane.ssd_bytes = n->media->bytes * n->media->dev_n;
    }
    MUST(!control_init(&n->control, &n->cfg, n->lanes, 1, &shell));
    if (n->registry)
        MUST(!registry_load(&n->control.registry, n->registry,
                            strlen(n->registry), &m));
    MUST(!lane_init(&n->lane, &n->cfg, 0, 1, pools, &n->control));
    n->t = (struct transport){.ops = &node_tp,
                              .events = &lane_events,
                              .lane = &n->lane,
                              .env = &n->lane.env,
                              .metrics = &n->lane.metrics,
                              .trace = &n->lane.trace,
                              .limits = &n->lane.limits};
    n->lane.transports[0] = &n->t;
    n->lane.transport_n = 1;
    if (n->media)
        node_start_ssd(n);
}

static uint64_t node_next_ns(const struct test_node *n)
{
    return min_u64(lane_next_ns(&n->lane),
                   n->media ? disk_mem_next_ns(&n->disk) : DEADLINE_NEVER);
}

void node_settle(struct test_node *n)
{
    bool more = true;

    while (more) {
        more = control_turn(&n->control);
        more |= lane_turn(&n->lane);
        more |= n->lane.mailbox.n > 0 || !list_empty(&n->done);
        more |= n->media && disk_mem_next_ns(&n->disk) <= n->lane.env.now_ns;
    }
}

void node_sleep(struct test_node *n, uint64_t ns)
{
    uint64_t until = n->lane.env.now_ns + ns;

    node_settle(n);
    while (node_next_ns(n) <= until) {
        n->lane.env.now_ns = max_u64(n->lane.env.now_ns, node_next_ns(n));
        node_settle(n);
    }
    n->lane.env.now_ns = until;
    n->lane.env.wall_s = 1700000000 + until / NS_PER_S;
    node_settle(n);
}

void node_stop(struct test_node *n)
{
    LIST_FOREACH_SAFE(l, &n->lane.peer_list)
    {
        struct peer *p = container_of(l, struct peer, node);

        if (p->tp)
            node_hangup(peer_at(p->tp));
    }
    node_sleep(n, 10 * NS_PER_S);
    MUST(pool_used(&n->lane.ops) == 0);
    MUST(pool_used(&n->lane.peers) == 0);
    MUST(pool_used(&n->lane.pins) == 0);
    MUST(pool_used(&n->lane.refusals) == 0);
    MUST(pool_used(&n->lane.spans) == 0);
    MUST(n->lane.opens.live_n == 0 && n->lane.opens.bytes == 0);
    store_check(n->lane.store);
    if (n->media)
        node_stop_ssd(n);
    lane_fini(&n->lane);
    control_fini(&n->control);
    unit_pool_fini(&n->pool);
    mem_release(n->memory, n->dram_bytes);
    if (n->media)
        disk_mem_fini(&n->disk);
}

struct node_peer *node_connect(struct test_node *n, bool hello)
{
    struct node_peer *p = calloc(1, sizeof *p);
    Pikv__Hello m = PIKV__HELLO__INIT;

    MUST(p);
    p->node = n;
    p->tp.t = &n->t;
    list_init(&p->xfers);
    list_init(&p->unread);
    if (n->t.events->opened(n->t.lane, &p->tp)) {
        free(p);
        return NULL;
    }
    m.features = PEER_FEATURES;
    m.version = WIRE_VERSION;
    if (hello)
        node_msg(p, OP_HELLO, &m);
    return p;
}

void node_hangup(struct node_peer *p)
{
    tp_close(&p->tp, true);
    node_settle(p->node);
}

void node_free_peer(struct node_peer *p)
{
    MUST(p->told);
    free(p);
}

void node_open(struct test_node *n, struct node_peer *p, const char *policy)
{
    Pikv__Open m = PIKV__OPEN__INIT;
    Pikv__Settings set = PIKV__SETTINGS__INIT;
    char name[] = "test", text[16] = "";
    uint8_t buf[8192];
    struct arena a;
    const Pikv__OpenReply *rep;

    strncpy(text, policy, sizeof text - 1);
    set.policy = text;
    m.name = name;
    m.settings = &set;
    m.create = true;
    node_msg(p, OP_OPEN, &m);
    if (!n->reply.there || n->reply.frame.status)
        return;
    arena_init(&a, buf, sizeof buf);
    rep = msg_unpack(&pikv__open_reply__descriptor, &a, n->reply.env,
                     n->reply.frame.env_len);
    MUST(rep);
    n->ns = rep->id;
    n->generation = rep->generation;
}

/* ---- requests --------------------------------------------------------------
 */

void batch_new(struct node_batch *b, struct test_node *n, enum op_id op)
{
    memset(b, 0, offsetof(struct node_batch, rec));
    b->frame = (struct wire_frame){.kind = WIRE_REQUEST,
                                   .op = (uint16_t)op,
                                   .req = n->replies + 1000,
                                   .deadline_us = 50000};
    b->head = (struct wire_batch){.ns = n->ns, .generation = n->generation};
    b->records = (struct slice_out){b->rec, 0, sizeof b->rec, false};
    b->keys = (struct slice_out){b->key, 0, sizeof b->key, false};
    (void)slice_grow(&b->records, WIRE_RECORD);
}

void batch_column(struct node_batch *b, uint8_t rule, uint16_t trailing)
{
    struct wire_column c = {.rule = rule, .trailing = trailing};

    (void)slice_put(&b->records, &c, sizeof c);
    b->head.cols++;
}

void batch_key(struct node_batch *b, const char *key, struct wire_key rec,
               const char *parent, const struct wire_attr *attr)
{
    rec.key_len = (uint16_t)strlen(key);
    rec.parent_len = (uint16_t)(parent ? strlen(parent) : 0);
    if (attr)
        rec.flags |= KEY_HAS_ATTR;
    (void)slice_put(&b->records, &rec, sizeof rec);
    if (attr)
        (void)slice_put(&b->records, attr, sizeof *attr);
    (void)slice_put(&b->keys, key, rec.key_len);
    if (parent)
        (void)slice_put(&b->keys, parent, rec.parent_len);
    b->head.key_n++;
}

void batch_seg(struct node_batch *b, uint32_t mem, uint64_t off, uint64_t len)
{
    struct wire_seg s = {.mem = mem, .off = off, .len = len};

    (void)slice_put(&b->keys, &s, sizeof s);
}

static void node_deliver(struct node_peer *p, struct wire_frame *f,
                         const void *body, size_t len, const uint8_t *data)
{
    struct test_node *n = p->node;
    size_t all = len + (data ? f->data_len : 0);
    uint8_t *copy = malloc(all + 1);
    struct message m;

    MUST(copy);
    if (len)
        memcpy(copy, body, len);
    if (data)
        memcpy(copy + len, data, f->data_len);
    frame_seal(f, copy, len);
    n->reply.there = false;
    memset(&n->events, 0, sizeof n->events);
    MUST(!frame_read(f, copy, all, &n->lane.limits, &m));
    n->t.events->message(n->t.lane, &p->tp, &m, -1);
    free(copy);
    node_settle(n);
}

void batch_send(struct node_batch *b, struct node_peer *p, const uint8_t *data,
                uint64_t data_len)
{
    MUST(!b->records.bad && !b->keys.bad);
    memcpy(b->rec, &b->head, sizeof b->head);
    b->frame.record_n = (uint32_t)(b->records.len / WIRE_RECORD);
    b->frame.keys_len = (uint32_t)b->keys.len;
    b->frame.data_len = data_len;
    /* records and keys lie apart: join them */
    memcpy(b->rec + b->records.len, b->key, b->keys.len);
    node_deliver(p, &b->frame, b->rec, b->records.len + b->keys.len, data);
}

void node_msg(struct node_peer *p, enum op_id op, const void *msg)
{
    struct wire_frame f = {.kind = WIRE_REQUEST,
                           .op = (uint16_t)op,
                           .req = p->node->replies + 1000,
                           .deadline_us = 1000000};
    uint8_t buf[16384];
    struct arena a;
    size_t len;
    const void *env;

    arena_init(&a, buf, sizeof buf);
    env = msg_pack(msg, &a, &len);
    MUST(env);
    f.env_len = (uint32_t)len;
    node_deliver(p, &f, env, len, NULL);
}

static int one_status(const struct test_node *n)
{
    if (!n->reply.there)
        return 1; /* no answer yet */
    return n->reply.frame.status ? n->reply.frame.status : n->reply.r[0].status;
}

int node_put(struct node_peer *p, const char *key, uint64_t len)
{
    struct node_batch b;

    batch_new(&b, p->node, OP_PUT);
    batch_key(&b, key, (struct wire_key){.len = len}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    return one_status(p->node);
}

int node_get(struct node_peer *p, const char *key, uint64_t room)
{
    struct node_batch b;

    batch_new(&b, p->node, OP_GET);
    batch_key(&b, key, (struct wire_key){.len = room}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    return one_status(p->node);
}
