/* SPDX-License-Identifier: Apache-2.0
 *
 * Questions that libpikv answers only to who waits: SCAN, DBSIZE, TTL, INFO. A
 * thread of libuv's pool waits, for one question at a time; connections wait
 * in order. The worker has all it needs in struct ask, and the connection may
 * go meanwhile.
 *
 * A cursor of SCAN is 0 at the begin and at the end; else the lane and the
 * place in it: (lane + 1) << 48 | place. As with Redis a page may be empty, and
 * a key that is there all the time is told of. Keys of other clients that a
 * GET of the door cannot name (a group or a scope) are left out. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "door/impl.h"
#include "pikv.pb-c.h"

enum {
    ASK_DEADLINE_US = 2000000,
    SCAN_PAGES = 8,
    SCAN_COUNT = 10,
    SCAN_COUNT_MAX = 1000,
    PAGE_MAX = 256,
    PLACE_BITS = 48,
};
static const uint64_t PLACE_MASK = (UINT64_C(1) << PLACE_BITS) - 1;

/* ---- On the worker ---- */

static void *ask_lane(struct ask *a, const char *op, int lane,
                      const ProtobufCMessage *m,
                      const ProtobufCMessageDescriptor *reply)
{
    struct pikv_call call = {.deadline_us = ASK_DEADLINE_US};
    size_t len = protobuf_c_message_get_packed_size(m), got_len;
    uint8_t text[2048];
    void *got = NULL, *out;

    if (len > sizeof(text)) {
        a->status = PIKV_LIMIT;
        return NULL;
    }
    protobuf_c_message_pack(m, text);
    a->status =
        pikv_admin(a->door->kv, op, lane, text, len, &got, &got_len, &call);
    if (a->status)
        return NULL;
    out = protobuf_c_message_unpack(reply, NULL, got_len, got);
    pikv_reply_free(got);
    if (!out)
        a->status = PIKV_NO_MEMORY;
    return out;
}

static Pikv__InspectReply *ask_inspect(struct ask *a, int lane,
                                       Pikv__InspectRequest *m)
{
    void *r = NULL;

    for (int i = 0; i < 2 && !r;
         i++) { /* the namespace may have been flushed */
        if (i && a->status != PIKV_STALE_GENERATION)
            break;
        if (i && door_open_namespace(a->door))
            break;
        a->status =
            pikv_namespace_id(a->door->kv, a->door->ns, &m->ns, &m->generation);
        if (!a->status)
            r = ask_lane(a, "inspect", lane, &m->base,
                         &pikv__inspect_reply__descriptor);
    }
    return r;
}

static void keep_key(struct ask *a, const ProtobufCBinaryData *key)
{
    if (key->len > DOOR_KEY_MAX || a->keys_cap - a->keys_len < key->len + 2 ||
        !resp_match(a->text, a->text_len, key->data, key->len))
        return;
    a->keys[a->keys_len] = (uint8_t)(key->len >> 8);
    a->keys[a->keys_len + 1] = (uint8_t)key->len;
    memcpy(a->keys + a->keys_len + 2, key->data, key->len);
    a->keys_len += (uint32_t)key->len + 2;
    a->key_n++;
}

/* One page of a lane; how many keys it looked at. */
static uint64_t scan_page(struct ask *a, uint32_t lane, uint64_t *place,
                          uint64_t limit)
{
    Pikv__InspectRequest m = PIKV__INSPECT_REQUEST__INIT;
    Pikv__InspectReply *r;
    uint64_t n;

    m.what = PIKV__INSPECT_REQUEST__WHAT__KEYS;
    m.cursor = *place;
    m.limit = (uint32_t)min_u64(limit, PAGE_MAX);
    r = ask_inspect(a, (int)lane, &m);
    if (!r)
        return 0;
    n = r->n_blocks;
    for (size_t i = 0; i < n; i++)
        if (r->blocks[i]->group == 0 && r->blocks[i]->scope.len == 0)
            keep_key(a, &r->blocks[i]->key);
    *place = r->next_cursor;
    pikv__inspect_reply__free_unpacked(r, NULL);
    return n;
}

static void work_scan(struct ask *a)
{
    uint64_t lane = a->cursor >> PLACE_BITS, place = a->cursor & PLACE_MASK;
    uint64_t seen = 0;

    lane -= lane > 0;
    for (int i = 0; i < SCAN_PAGES && seen < a->count && lane < a->lanes; i++) {
        seen += scan_page(a, (uint32_t)lane, &place, a->count - seen);
        if (a->status)
            return;
        lane += place == 0;
    }
    a->cursor = lane < a->lanes ? (lane + 1) << PLACE_BITS | place : 0;
}

static void work_size(struct ask *a)
{
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    Pikv__NamespaceReply *r;

    m.name = a->door->cfg.listen.resp.namespace;
    r = ask_lane(a, "namespace", -1, &m.base,
                 &pikv__namespace_reply__descriptor);
    if (!r)
        return;
    if (r->n_namespaces == 1) {
        a->blocks = r->namespaces[0]->blocks;
        a->bytes = r->namespaces[0]->bytes;
    }
    pikv__namespace_reply__free_unpacked(r, NULL);
}

/* The key is on one of the lanes. */
static void work_ttl(struct ask *a)
{
    for (uint32_t lane = 0; lane < a->lanes && !a->found; lane++) {
        Pikv__InspectRequest m = PIKV__INSPECT_REQUEST__INIT;
        Pikv__InspectReply *r;

        m.what = PIKV__INSPECT_REQUEST__WHAT__KEY;
        m.key = (ProtobufCBinaryData){a->text_len, a->text};
        r = ask_inspect(a, (int)lane, &m);
        if (a->status == PIKV_MISS || a->status == PIKV_PENDING) {
            a->status = PIKV_OK;
            continue;
        }
        if (!r)
            return;
        a->found = r->n_blocks > 0;
        a->ttl_ms = a->found ? r->blocks[0]->ttl_left_ms : 0;
        pikv__inspect_reply__free_unpacked(r, NULL);
    }
}

static void on_work(uv_work_t *w)
{
    struct ask *a = w->data;

    switch (a->kind) {
    case ASK_SCAN:
        work_scan(a);
        break;
    case ASK_SIZE:
    case ASK_INFO:
        work_size(a);
        break;
    case ASK_TTL:
        work_ttl(a);
        break;
    }
}

/* ---- Answers ---- */

static void say_scan(struct conn *c, const struct ask *a)
{
    char text[24];
    const uint8_t *p = a->keys;

    out_raw(c, "*2\r\n", 4);
    out_bulk(c, text,
             (uint64_t)snprintf(text, sizeof(text), "%" PRIu64, a->cursor));
    out_head(c, '*', a->key_n);
    for (uint32_t i = 0; i < a->key_n; i++) {
        uint32_t len = (uint32_t)(p[0] << 8 | p[1]);

        out_bulk(c, p + 2, len);
        p += 2 + len;
    }
}

static void say_info(struct conn *c, const struct ask *a)
{
    const struct door *d = c->door;
    const struct metrics *m = d->metrics;
    char text[1024];
    int n = snprintf(
        text, sizeof(text),
        "# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\n"
        "server_name:%s\r\nprocess_id:%d\r\ntcp_port:%" PRIu64 "\r\n"
        "# Clients\r\nconnected_clients:%u\r\nmaxclients:%" PRIu64 "\r\n"
        "# Memory\r\nused_memory:%" PRIu64 "\r\nmaxmemory:0\r\n"
        "maxmemory_policy:allkeys-lru\r\n"
        "# Persistence\r\nloading:0\r\n"
        "# Stats\r\ntotal_commands_processed:%" PRIu64
        "\r\ntotal_net_input_bytes:%" PRIu64
        "\r\ntotal_net_output_bytes:%" PRIu64 "\r\n"
        "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n"
        "# Keyspace\r\n",
        d->info.server, (int)uv_os_getpid(), d->cfg.listen.resp.port, d->conn_n,
        d->cfg.listen.resp.clients, a->bytes, metric_get(&m->resp_commands),
        metric_get(&m->resp_bytes_in), metric_get(&m->resp_bytes_out));

    MUST(n > 0 && (size_t)n + 64 < sizeof(text));
    if (a->blocks)
        n +=
            snprintf(text + n, sizeof(text) - (size_t)n,
                     "db0:keys=%" PRIu64 ",expires=0,avg_ttl=0\r\n", a->blocks);
    out_bulk(c, text, (uint64_t)n);
}

static void say_ttl(struct conn *c, const struct ask *a)
{
    if (!a->found)
        out_int(c, -2);
    else if (!a->ttl_ms)
        out_int(c, -1);
    else
        out_int(c, (int64_t)(a->millis ? a->ttl_ms : (a->ttl_ms + 500) / 1000));
}

static void ask_say(struct conn *c, const struct ask *a)
{
    if (a->status) {
        out_code(c, a->status);
        return;
    }
    switch (a->kind) {
    case ASK_SCAN:
        say_scan(c, a);
        break;
    case ASK_SIZE:
        out_int(c, (int64_t)a->blocks);
        break;
    case ASK_TTL:
        say_ttl(c, a);
        break;
    case ASK_INFO:
        say_info(c, a);
        break;
    }
}

/* ---- One after the other ---- */

/* Who is woken asks again; one whose words are wrong is answered at once. */
static void ask_next(struct door *d)
{
    struct list *n;

    while (!d->ask.busy && (n = list_pop(&d->askers))) {
        struct conn *c = container_of(n, struct conn, wait_node);

        c->wait = WAIT_NOTHING;
        conn_run(c);
    }
}

static void on_work_done(uv_work_t *w, int status)
{
    struct ask *a = w->data;
    struct door *d = container_of(a, struct door, ask);
    struct conn *c = a->conn;

    a->busy = false;
    a->conn = NULL;
    if (status)
        a->status = PIKV_CANCELED;
    if (c) {
        c->wait = WAIT_NOTHING;
        ask_say(c, a);
        conn_consume(c);
        c->run = NULL;
        conn_run(c);
    }
    ask_next(d);
    door_settle(d);
}

/* false: it waits, for its turn or for the answer. */
static bool ask_begin(struct conn *c, enum ask_kind kind)
{
    struct door *d = c->door;
    struct ask *a = &d->ask;

    if (a->busy)
        return conn_wait(c, WAIT_ASK);
    a->busy = true;
    a->conn = c;
    a->kind = kind;
    a->door = d;
    a->lanes = d->info.lanes;
    a->status = PIKV_OK;
    a->found = false;
    a->key_n = a->keys_len = 0;
    a->blocks = a->bytes = a->ttl_ms = 0;
    a->work.data = a;
    c->wait = WAIT_ASK; /* in no queue */
    MUST(uv_queue_work(&d->uv, &a->work, on_work, on_work_done) == 0);
    return false;
}

void ask_fini(struct ask *a)
{
    free(a->keys);
    a->keys = NULL;
}

/* ---- The commands ---- */

bool ask_size(struct conn *c)
{
    return ask_begin(c, ASK_SIZE);
}

bool ask_info(struct conn *c)
{
    return ask_begin(c, ASK_INFO);
}

static bool ask_ttl_of(struct conn *c, bool millis)
{
    struct ask *a = &c->door->ask;
    struct pikv_bytes key = conn_arg(c, 1);

    if (!data_key_ok(c, key)) {
        conn_consume(c);
        return true;
    }
    if (a->busy)
        return conn_wait(c, WAIT_ASK);
    memcpy(a->text, key.p, key.len);
    a->text_len = (uint32_t)key.len;
    a->millis = millis;
    return ask_begin(c, ASK_TTL);
}

bool ask_ttl(struct conn *c)
{
    return ask_ttl_of(c, false);
}

bool ask_pttl(struct conn *c)
{
    return ask_ttl_of(c, true);
}

/* What is wrong with a SCAN, or NULL: a is filled. */
static const char *scan_read(struct conn *c, struct ask *a)
{
    struct pikv_bytes w = conn_arg(c, 1);

    if (!resp_u64(w.p, w.len, &a->cursor))
        return "ERR invalid cursor";
    a->count = SCAN_COUNT;
    a->text[0] = '*';
    a->text_len = 1;
    for (uint32_t i = 2; i < c->resp.n; i += 2) {
        if (i + 1 == c->resp.n)
            return "ERR syntax error";
        w = conn_arg(c, i + 1);
        if (conn_arg_is(c, i, "count")) {
            if (!resp_u64(w.p, w.len, &a->count))
                return "ERR value is not an integer or out of range";
            if (!a->count)
                return "ERR syntax error";
            a->count = min_u64(a->count, SCAN_COUNT_MAX);
        } else if (conn_arg_is(c, i, "match") && w.len <= sizeof(a->text)) {
            memcpy(a->text, w.p, w.len);
            a->text_len = (uint32_t)w.len;
        } else {
            return "ERR syntax error: pikvd knows MATCH and COUNT of SCAN";
        }
    }
    return NULL;
}

bool ask_scan(struct conn *c)
{
    struct ask *a = &c->door->ask;
    const char *why;

    if (a->busy)
        return conn_wait(c, WAIT_ASK);
    why = scan_read(c, a);
    if (!why && !a->keys) {
        a->keys_cap = SCAN_COUNT_MAX * (DOOR_KEY_MAX + 2);
        a->keys = fault_here("door_scan") ? NULL : malloc(a->keys_cap);
        why = a->keys ? NULL : "ERR out of memory";
    }
    if (!why)
        return ask_begin(c, ASK_SCAN);
    out_error(c, "%s", why);
    conn_consume(c);
    return true;
}
