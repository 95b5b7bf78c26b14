/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages of planned parts (build.c), each written once, straight into the
 * ring where there is room:
 *
 *     frame | wire_batch, columns, wire_key (+ wire_attr) ... | keys
 *
 * and the changes to one that waited: the region it names, loans it may not
 * ask for. */
#include <string.h>

#include "base/slice.h"
#include "client/call.h"
#include "client/nodes.h"

/* What is left of it, if the part goes out later than the submit. */
static uint32_t write_soft(const struct pikv *kv, const struct part *p,
                           uint32_t soft_us)
{
    uint64_t gone =
        p->call->spreads ? (kv->now_ns - p->call->begin_ns) / NS_PER_US : 0;

    return gone < soft_us ? soft_us - (uint32_t)gone : 1;
}

static void write_head(const struct pikv *kv, const struct request *r,
                       const struct part *p, struct slice_out *o)
{
    const struct pikv_call *call = r->call;
    struct wire_batch *b = slice_grow(o, sizeof(*b));
    bool tells = p->call->tells && (p->conn->features & FEATURE_PARTS);
    const struct ns_at *at = ns_at(r->space, p->conn);

    *b = (struct wire_batch){
        .ns = at ? at->id : 0,
        .generation = at ? at->generation : 0,
        .key_n = p->n + r->extra_n,
        .select = (uint8_t)r->select,
        .cols = p->cols,
        .count = p->cap_mib,
        .layout = p->layout,
        .epoch = kv->many ? kv->nodes->view.epoch : 0,
    };
    if (!call)
        return;
    b->soft_us = call->soft_us ? write_soft(kv, p, call->soft_us) : 0;
    b->pin_ttl_ms = call->pin_ttl_ms;
    b->flags = (call->promote ? BATCH_PROMOTE : 0) | (tells ? BATCH_PARTS : 0);
    if (r->op == OP_PUT_BEGIN)
        b->pin_ttl_ms = call->open_ms;
    if (r->op == OP_EVICT && call->demote)
        b->flags |= BATCH_DEMOTE;
    if (call->here)
        b->flags |= BATCH_HERE;
    b->accept = call->accept_lossy;
    memcpy(&b->max_err, &call->max_err, sizeof(b->max_err));
    b->trace = call->trace;
}

/* A matrix that was split over lanes is one column that asks for everything;
 * the rules are applied to the merged cells (reply.c). */
static void write_columns(const struct request *r, const struct part *p,
                          struct slice_out *o)
{
    for (uint32_t i = 0; i < p->cols; i++) {
        struct wire_column *c = slice_grow(o, sizeof(*c));

        memset(c, 0, sizeof(*c));
        if (p->n != r->n) {
            c->rule = RULE_OPTIONAL;
        } else if (r->columns) {
            c->rule = r->columns[i].rule;
            c->trailing = r->columns[i].trailing;
        }
    }
}

static void write_attr(const struct pikv_put *put, struct slice_out *o)
{
    struct wire_attr *a = slice_grow(o, sizeof(*a));

    *a = (struct wire_attr){
        .page = put->page,
        .token_end = put->token_end,
        .token_n = put->token_n,
        .ttl_ms = put->ttl_ms,
        .affinity = put->affinity,
        .pin_ttl_ms = put->pin_ttl_ms,
        .priority = put->priority,
        .replicas = put->replicas,
        .flags = (uint8_t)((put->durable ? ATTR_DURABLE : 0) |
                           (put->client_keeps_copy ? ATTR_CLIENT_COPY : 0)),
        .label0 = put->labels[0],
        .label1 = put->labels[1],
        .label2 = put->labels[2],
        .label3 = put->labels[3],
    };
}

static void write_seg(struct slice_out *keys, uint32_t mem, uint64_t off,
                      uint64_t len)
{
    struct wire_seg s = {.mem = mem, .off = off, .len = len};

    slice_put(keys, &s, sizeof(s));
}

static void write_segs(struct pikv *kv, const struct request *r,
                       const struct part *p, uint32_t i, struct slice_out *keys)
{
    const struct dest *d = &p->dests[i];
    uint32_t line = p->conn->line;

    if (d->segs == 0)
        return;
    if (d->staged != DIRECT) {
        if (p->own)
            write_seg(keys, 0, d->staged, d->len);
        else
            write_seg(keys, kv->staging.region->ids[line] - 1,
                      (uint64_t)p->stage.first * STAGE_UNIT + d->staged,
                      d->len);
        return;
    }
    if (p->layout) {
        write_seg(keys, 0, lay_block(r, part_item(p, i)), d->len);
        return;
    }
    for (uint32_t k = 0; k < d->segs; k++) {
        struct pikv_buf b = dest_run(p, d, k);
        const struct region *g = region_find(kv, line, b.p, b.len);

        if (g) /* else unregistered since the plan: the daemon says NO_MEM */
            write_seg(keys, g->ids[line] - 1,
                      (uint64_t)((const uint8_t *)b.p - g->addr), b.len);
        else
            write_seg(keys, 0, 0, b.len);
    }
}

static void write_bytes(struct slice_out *keys, const struct pikv_bytes *b)
{
    slice_put(keys, b->p, b->len);
}

static void write_crc(const uint32_t *crc, struct wire_key *w)
{
    if (!crc)
        return;
    w->flags |= KEY_CRC;
    w->crc = *crc;
}

/* What the operation wants of item `at`. */
static void write_what(const struct request *r, const struct part *p,
                       uint32_t at, struct wire_key *w)
{
    switch (r->op) {
    case OP_PUT:
        write_crc(r->puts[at].crc32c, w);
        break;
    case OP_GET:
        w->off = r->gets[at].off;
        w->version = r->gets[at].if_version;
        w->flags |= r->gets[at].loan && !p->no_loans ? KEY_LOAN : 0;
        break;
    case OP_PUT_BEGIN:
        w->len = r->begins[at].len;
        w->off = r->begins[at].writers;
        break;
    case OP_PUT_WRITE:
        w->token = r->writes[at].token;
        w->off = r->writes[at].off;
        write_crc(r->writes[at].crc32c, w);
        break;
    case OP_PUT_COMMIT:
    case OP_PUT_ABORT:
        w->token = r->finishes[at].token;
        w->off = r->finishes[at].writer;
        break;
    }
}

static void write_item(struct pikv *kv, const struct request *r,
                       const struct part *p, uint32_t i, struct slice_out *o,
                       struct slice_out *keys)
{
    uint32_t at = part_item(p, i);
    const struct pikv_key *k = request_key(r, at);
    const struct pikv_put *put = build_item_put(r, at);
    struct wire_key *w = slice_grow(o, sizeof(*w));

    *w = (struct wire_key){
        .key_len = (uint16_t)k->key.len,
        .route_len = (uint8_t)k->route.len,
        .cls = k->cls,
        .group = k->group,
    };
    if (k->scope)
        memcpy(w->scope, k->scope, sizeof(w->scope));
    write_bytes(keys, &k->key);
    write_bytes(keys, &k->route);
    write_what(r, p, at, w);
    if (put) {
        w->parent_len = (uint16_t)put->parent.len;
        write_bytes(keys, &put->parent);
    }
    if (put && build_item_has_attr(put)) {
        w->flags |= KEY_HAS_ATTR;
        write_attr(put, o);
    }
    if (op_moves(r->op)) {
        w->len = p->dests[i].len;
        w->seg_n = (uint16_t)p->dests[i].segs;
        write_segs(kv, r, p, i, keys);
    }
}

/* EVICT by label or scope: one record without a key says which; by pattern: the
 * pattern is its key. */
static void write_selector(const struct request *r, struct slice_out *o,
                           struct slice_out *keys)
{
    const struct pikv_key *k = r->items;
    struct wire_key *w = slice_grow(o, sizeof(*w));

    *w = (struct wire_key){0};
    if (k && k->scope)
        memcpy(w->scope, k->scope, sizeof(w->scope));
    if (r->select == PIKV_PATTERN) {
        w->key_len = (uint16_t)k->key.len;
        w->group = k->group;
        write_bytes(keys, &k->key);
    }
    if (r->label) {
        struct wire_attr *a = slice_grow(o, sizeof(*a));

        w->flags = KEY_HAS_ATTR;
        *a = (struct wire_attr){.label0 = r->label};
    }
}

static void write_inline(const struct part *p, uint8_t *to)
{
    for (uint32_t i = 0; i < p->n; i++) {
        const struct dest *d = &p->dests[i];

        if (d->iov_n == 0) {
            if (d->len)
                memcpy(to, d->p, d->len);
            to += d->len;
        }
        for (uint32_t k = 0; k < d->iov_n; k++) {
            const struct pikv_buf *b = &p->iov[d->iov_first + k];

            memcpy(to, b->p, b->len);
            to += b->len;
        }
    }
}

void build_message(struct pikv *kv, const struct request *r, struct part *p,
                   uint8_t *msg)
{
    size_t records = (size_t)p->record_n * WIRE_RECORD;
    uint8_t *body = msg + sizeof(struct wire_frame);
    struct slice_out o = {body, 0, records, false};
    struct slice_out keys = {body + records, 0, p->keys_len, false};

    *(struct wire_frame *)(void *)msg = (struct wire_frame){
        .kind = WIRE_REQUEST,
        .op = r->op,
        .record_n = p->record_n,
        .keys_len = p->keys_len,
        .data_len = p->inline_bytes,
    };
    write_head(kv, r, p, &o);
    if (r->op == OP_LOOKUP)
        write_columns(r, p, &o);
    for (uint32_t i = 0; i < r->extra_n; i++)
        write_selector(r, &o, &keys);
    for (uint32_t i = 0; i < p->n; i++)
        write_item(kv, r, p, i, &o, &keys);
    if (p->inline_bytes)
        write_inline(p, body + records + p->keys_len);
}

/* ---- messages that waited ---- */

/* Walks the wire_key records of a message that build_message wrote. */
struct key_walk {
    uint8_t *record, *keys;
    uint32_t left;
};

static struct key_walk walk_of(struct part *p)
{
    const struct wire_frame *f = (const struct wire_frame *)(void *)p->msg;
    uint8_t *body = p->msg + sizeof(*f);

    return (struct key_walk){body + WIRE_RECORD,
                             body + (size_t)f->record_n * WIRE_RECORD, p->n};
}

static struct wire_key *walk_next(struct key_walk *w, uint8_t **segs_out)
{
    struct wire_key *k = (struct wire_key *)(void *)w->record;

    if (w->left == 0)
        return NULL;
    w->left--;
    w->record += k->flags & KEY_HAS_ATTR ? 2 * WIRE_RECORD : WIRE_RECORD;
    *segs_out = w->keys + k->key_len + k->route_len + k->parent_len;
    w->keys = *segs_out + k->seg_n * sizeof(struct wire_seg);
    return k;
}

void build_patch(struct part *p, uint32_t mem)
{
    struct key_walk w = walk_of(p);
    uint8_t *segs;

    for (uint32_t i = 0; i < p->n && walk_next(&w, &segs); i++)
        if (p->dests[i].staged != DIRECT)
            memcpy(segs + offsetof(struct wire_seg, mem), &mem, sizeof(mem));
}

void build_no_loans(struct part *p)
{
    struct key_walk w = walk_of(p);
    struct wire_key *k;
    uint8_t *segs;

    while ((k = walk_next(&w, &segs)))
        k->flags &= (uint16_t)~KEY_LOAN;
}
