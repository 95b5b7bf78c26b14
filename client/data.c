/* SPDX-License-Identifier: Apache-2.0
 *
 * The public calls that move or name blocks, pikv_put to pikv_prefetch: check
 * the items, then one way for all:
 *
 *     data_submit   call from the pool, plan (build.c), staging copied
 *       data_start  the message straight into the ring, or queued
 *
 * Nothing here waits for the server. A part whose connection is down ends at
 * once with NO_SERVER; its items say so and the call completes. */
#include <string.h>

#include "client/hedge.h"

enum {
    STAGE_INLINE = 16 << 10, /* copied without letting kv->mu go */
    WRITERS_MAX = 64,
};

/* ---- checks ---- */

int data_check_key(const struct pikv_key *k)
{
    if (k->key.len == 0 || !k->key.p || (k->route.len && !k->route.p) ||
        k->cls > CLASS_BLOB)
        return ERR_BAD_REQUEST;
    if (k->key.len > WIRE_KEY_MAX || k->route.len > WIRE_ROUTE_MAX)
        return ERR_LIMIT;
    return OK;
}

static int check_put(const struct pikv_put *p)
{
    if ((p->iov_n && !p->iov) || (p->data.len && !p->data.p))
        return ERR_BAD_REQUEST;
    return p->parent.len > WIRE_KEY_MAX ? ERR_LIMIT : OK;
}

static int check_get(const struct pikv_get *g)
{
    if ((g->iov_n && !g->iov) || (g->data.len && !g->data.p))
        return ERR_BAD_REQUEST;
    return OK;
}

static int check_begin(const struct pikv_begin *b)
{
    if (b->len == 0)
        return ERR_BAD_REQUEST;
    if (b->writers > WRITERS_MAX)
        return ERR_LIMIT;
    return check_put(&b->block);
}

static int check_write(const struct request *r, uint32_t i)
{
    const struct pikv_write *w = &r->writes[i];
    uint64_t end;

    if ((w->iov_n && !w->iov) || (w->data.len && !w->data.p))
        return ERR_BAD_REQUEST;
    if (__builtin_add_overflow(w->off, build_item_bytes(r, i), &end))
        return ERR_LIMIT;
    return end == w->off ? ERR_BAD_REQUEST : OK; /* no bytes */
}

static int check_finish(const struct pikv_finish *f)
{
    return f->writer < WRITERS_MAX ? OK : ERR_BAD_REQUEST;
}

/* With a layout nobody looks at data and iov. */
static int check_item(const struct request *r, uint32_t i)
{
    bool laid = request_has_layout(r);

    if (laid && r->puts)
        return r->puts[i].parent.len > WIRE_KEY_MAX ? ERR_LIMIT : OK;
    if (laid)
        return r->gets && r->gets[i].loan ? ERR_BAD_REQUEST : OK;
    if (r->puts)
        return check_put(&r->puts[i]);
    if (r->gets)
        return check_get(&r->gets[i]);
    if (r->begins)
        return check_begin(&r->begins[i]);
    if (r->writes)
        return check_write(r, i);
    return r->finishes ? check_finish(&r->finishes[i]) : OK;
}

static int check_columns(const struct request *r)
{
    if (r->op != OP_LOOKUP)
        return OK;
    if (r->cols == 0 || r->cols > COLS_MAX || (r->cols > 1 && !r->columns))
        return ERR_BAD_REQUEST;
    for (uint32_t i = 0; r->columns && i < r->cols; i++)
        if (r->columns[i].rule > RULE_OPTIONAL)
            return ERR_BAD_REQUEST;
    return OK;
}

static int check_request(const struct request *r)
{
    int e = check_columns(r);

    if (r->n == 0 && !r->extra_n && r->op != OP_EVICT)
        return ERR_BAD_REQUEST;
    if (r->n && (!r->items || !r->results))
        return ERR_BAD_REQUEST;
    for (uint32_t i = 0; i < r->n && !e; i++) {
        e = data_check_key(request_key(r, i));
        if (!e)
            e = check_item(r, i);
    }
    return e;
}

/* ---- submit ---- */

/* The columns outlive the submit: the rules are applied to the answer. */
static int submit_columns(const struct request *r, struct call *c)
{
    c->cols = r->cols;
    c->stops = r->stops;
    if (!r->cols)
        return OK;
    if (!part_room((void **)&c->columns, &c->columns_cap, r->cols,
                   sizeof(*c->columns)))
        return ERR_NO_MEMORY;
    if (r->columns)
        memcpy(c->columns, r->columns, r->cols * sizeof(*c->columns));
    else
        c->columns[0] = (struct pikv_column){0};
    return OK;
}

static struct call *submit_call(struct pikv *kv, const struct request *r,
                                uint64_t now)
{
    struct call *c = call_take(kv, false);
    uint64_t bytes = 0;

    if (!c)
        return NULL;
    c->op = r->op;
    c->begin_ns = kv->now_ns = now;
    c->n = r->n;
    c->results = r->results;
    c->everywhere = r->everywhere;
    if (r->call) {
        c->user = r->call->user;
        c->verify = r->call->verify;
    }
    if (r->op == OP_GET && r->call && r->call->parts && !r->waits &&
        !parts_begin(c)) {
        call_give(kv, c);
        return NULL;
    }
    for (uint32_t i = 0; i < r->n; i++) {
        if (op_moves(r->op))
            bytes += build_item_bytes(r, i);
        if (r->results)
            r->results[i] = (struct pikv_result){.status = ERR_MISS};
    }
    c->deadline_ns =
        call_deadline_ns(r->op, r->call ? r->call->deadline_us : 0, bytes, now);
    return c;
}

/* Nothing was sent: all of it goes back. */
static void submit_undo(struct pikv *kv, struct call *c)
{
    LIST_FOREACH_SAFE(l, &c->parts)
    {
        struct part *p = container_of(l, struct part, call_node);

        list_del(&p->call_node);
        part_give(kv, p);
    }
    call_give(kv, c);
}

/* Bytes of unregistered memory into the staging area; many of them without
 * the lock, because nobody else can reach these parts yet. */
static void submit_stage(struct pikv *kv, const struct request *r,
                         struct call *c)
{
    uint64_t bytes = 0;

    if (!op_sends(r->op))
        return;
    LIST_FOREACH(l, &c->parts)
    bytes += container_of(l, struct part, call_node)->staged_bytes;
    if (bytes > STAGE_INLINE)
        pthread_mutex_unlock(&kv->mu);
    LIST_FOREACH(l, &c->parts)
    {
        struct part *p = container_of(l, struct part, call_node);

        if (p->stage.n || p->own)
            build_stage(kv, p);
    }
    if (bytes > STAGE_INLINE)
        pthread_mutex_lock(&kv->mu);
}

void data_start(struct pikv *kv, const struct request *r, struct part *p,
                uint64_t now)
{
    struct conn *c = p->conn;
    uint8_t *msg;

    if (c->state != CONN_UP || p->incarnation != c->incarnation ||
        !ns_at(r->space, c) ||
        (p->staged_bytes && !p->stage.n && !p->own && !p->aside)) {
        conn_part_ends(c, p, c->state == CONN_UP ? ERR_RETRY : ERR_NO_SERVER);
        return;
    }
    if (r->cap_mib && !p->cap_mib) {
        call_fail_items(p, ERR_PARTIAL);
        call_part_ended(kv, p, OK);
        return;
    }
    if (r->op == OP_GET)
        loan_want(kv, p);
    if (conn_may_send(c, p)) {
        msg = c->ops->grant(c, p->msg_len);
        if (msg) {
            build_message(kv, r, p, msg);
            conn_take_slot(c, p);
            conn_seal(c, p, msg, now);
            c->ops->push(c, p->msg_len);
            return;
        }
    }
    if (!part_room((void **)&p->msg, &p->msg_cap, p->msg_len, 1)) {
        conn_part_ends(c, p, ERR_NO_MEMORY);
        return;
    }
    build_message(kv, r, p, p->msg);
    conn_send(c, p);
}

/* Parts may end, and the call with them, while they are started: one count is
 * kept until all are. */
static void submit_start(struct pikv *kv, const struct request *r,
                         struct call *c, uint64_t now)
{
    call_begin(kv, c);
    c->open_parts++;
    if (c->spreads) {
        spread_started(kv, c);
        hedge_arm(kv, c);
    }
    LIST_FOREACH_SAFE(l, &c->parts)
    {
        struct part *p = container_of(l, struct part, call_node);

        if (p->state == PART_PLANNED)
            data_start(kv, r, p, now);
    }
    call_unhold(kv, c);
}

static int submit_locked(struct pikv *kv, struct request *r,
                         struct call **call_out)
{
    uint64_t now = now_ns();
    struct call *c;
    int e;

    if (kv->closing)
        return ERR_CLOSED;
    r->space = ns_find(kv, r->ns);
    if (!r->space)
        return ERR_NO_NAMESPACE;
    if (r->n >
        kv->info.batch_keys_max * (kv->many ? nodes_lanes(kv) : kv->info.lanes))
        return ERR_LIMIT;
    e = lay_bind(kv, r);
    if (e)
        return e;
    c = submit_call(kv, r, now);
    if (!c)
        return ERR_BUSY;
    e = submit_columns(r, c);
    if (!e && kv->many && !(r->call && r->call->here))
        e = spread_begin(&r, c);
    if (!e)
        e = c->spreads ? spread_plan(kv, c) : build_plan(kv, r, c);
    if (e) {
        submit_undo(kv, c);
        return e;
    }
    submit_stage(kv, r, c);
    *call_out = c;
    submit_start(kv, r, c, now);
    if (kv->many)
        spread_run(kv);
    progress_submitted(kv, now);
    return OK;
}

int data_submit(struct pikv *kv, struct request *r, bool wait, uint64_t *id_out)
{
    int e = handle_check(kv);
    struct call *c = NULL;

    if (!e)
        e = check_request(r);
    if (e)
        return e;
    r->waits = wait;
    pthread_mutex_lock(&kv->mu);
    e = submit_locked(kv, r, &c);
    if (!e && id_out)
        *id_out = c->id;
    if (!e && wait)
        e = progress_wait_call(kv, c, NULL);
    progress_event(kv);
    pthread_mutex_unlock(&kv->mu);
    return e;
}

/* ---- public ---- */

static struct request put_request(uint32_t ns, const struct pikv_put *items,
                                  uint32_t n, const struct pikv_call *call,
                                  struct pikv_result *results)
{
    return (struct request){.op = OP_PUT,
                            .ns = ns,
                            .n = n,
                            .items = items,
                            .stride = sizeof(*items),
                            .puts = items,
                            .call = call,
                            .results = results};
}

static struct request get_request(uint32_t ns, const struct pikv_get *items,
                                  uint32_t n, const struct pikv_call *call,
                                  struct pikv_result *results)
{
    return (struct request){.op = OP_GET,
                            .ns = ns,
                            .n = n,
                            .items = items,
                            .stride = sizeof(*items),
                            .gets = items,
                            .call = call,
                            .results = results};
}

int pikv_put(struct pikv *kv, uint32_t ns, const struct pikv_put *items,
             uint32_t n, const struct pikv_call *call,
             struct pikv_result *results, uint64_t *id_out)
{
    struct request r = put_request(ns, items, n, call, results);

    return data_submit(kv, &r, false, id_out);
}

int pikv_put_sync(struct pikv *kv, uint32_t ns, const struct pikv_put *items,
                  uint32_t n, const struct pikv_call *call,
                  struct pikv_result *results)
{
    struct request r = put_request(ns, items, n, call, results);

    return data_submit(kv, &r, true, NULL);
}

int pikv_get(struct pikv *kv, uint32_t ns, const struct pikv_get *items,
             uint32_t n, const struct pikv_call *call,
             struct pikv_result *results, uint64_t *id_out)
{
    struct request r = get_request(ns, items, n, call, results);

    return data_submit(kv, &r, false, id_out);
}

int pikv_get_sync(struct pikv *kv, uint32_t ns, const struct pikv_get *items,
                  uint32_t n, const struct pikv_call *call,
                  struct pikv_result *results)
{
    struct request r = get_request(ns, items, n, call, results);

    return data_submit(kv, &r, true, NULL);
}

static int keys_submit(struct pikv *kv, uint16_t op, uint32_t ns,
                       const struct pikv_key *keys, uint32_t n,
                       const struct pikv_call *call,
                       struct pikv_result *results, uint64_t *id_out)
{
    struct request r = {.op = op,
                        .ns = ns,
                        .n = n,
                        .items = keys,
                        .stride = sizeof(*keys),
                        .call = call,
                        .results = results};

    return data_submit(kv, &r, false, id_out);
}

int pikv_lookup(struct pikv *kv, uint32_t ns, const struct pikv_key *keys,
                uint32_t positions, const struct pikv_column *columns,
                uint32_t cols, uint8_t *stops, const struct pikv_call *call,
                struct pikv_result *results, uint64_t *id_out)
{
    struct request r = {.op = OP_LOOKUP,
                        .ns = ns,
                        .items = keys,
                        .stride = sizeof(*keys),
                        .columns = columns,
                        .cols = cols,
                        .stops = stops,
                        .call = call,
                        .results = results};

    if (__builtin_mul_overflow(positions, cols, &r.n))
        return ERR_LIMIT;
    return data_submit(kv, &r, false, id_out);
}

int pikv_evict(struct pikv *kv, uint32_t ns, enum pikv_select select,
               const struct pikv_key *keys, uint32_t n, uint64_t label,
               const struct pikv_call *call, struct pikv_result *results,
               uint64_t *id_out)
{
    struct request r = {.op = OP_EVICT,
                        .ns = ns,
                        .items = keys,
                        .stride = sizeof(*keys),
                        .select = select,
                        .call = call};

    switch (select) {
    case PIKV_KEYS:
    case PIKV_CHAIN:
        r.n = n;
        r.results = results;
        r.everywhere = select == PIKV_CHAIN;
        if (n == 0)
            return ERR_BAD_REQUEST;
        break;
    case PIKV_LABEL:
        if (label == 0)
            return ERR_BAD_REQUEST;
        r.label = label;
        r.extra_n = 1;
        break;
    case PIKV_SCOPE:
        if (!keys || !keys->scope)
            return ERR_BAD_REQUEST;
        r.extra_n = 1;
        break;
    case PIKV_PATTERN:
        if (!keys || !keys->key.p || keys->key.len == 0)
            return ERR_BAD_REQUEST;
        if (keys->key.len > WIRE_KEY_MAX)
            return ERR_LIMIT;
        r.extra_n = 1;
        break;
    case PIKV_NAMESPACE:
        break;
    }
    r.everywhere |= r.n == 0;
    return data_submit(kv, &r, false, id_out);
}

int pikv_pin(struct pikv *kv, uint32_t ns, const struct pikv_key *keys,
             uint32_t n, const struct pikv_call *call,
             struct pikv_result *results, uint64_t *id_out)
{
    return keys_submit(kv, OP_PIN, ns, keys, n, call, results, id_out);
}

int pikv_unpin(struct pikv *kv, uint32_t ns, const struct pikv_key *keys,
               uint32_t n, const struct pikv_call *call,
               struct pikv_result *results, uint64_t *id_out)
{
    return keys_submit(kv, OP_UNPIN, ns, keys, n, call, results, id_out);
}

int pikv_touch(struct pikv *kv, uint32_t ns, const struct pikv_key *keys,
               uint32_t n, const struct pikv_call *call,
               struct pikv_result *results, uint64_t *id_out)
{
    return keys_submit(kv, OP_TOUCH, ns, keys, n, call, results, id_out);
}

int pikv_prefetch(struct pikv *kv, uint32_t ns, const struct pikv_key *keys,
                  uint32_t n, uint32_t cap_mib, const struct pikv_call *call,
                  struct pikv_result *results, uint64_t *id_out)
{
    struct request r = {.op = OP_PREFETCH,
                        .ns = ns,
                        .n = n,
                        .items = keys,
                        .stride = sizeof(*keys),
                        .cap_mib = cap_mib,
                        .call = call,
                        .results = results};

    return data_submit(kv, &r, false, id_out);
}
