/* SPDX-License-Identifier: Apache-2.0
 *
 * The parser of frame.h, in two passes: frame_read looks at the frame and the
 * sizes, batch_read and batch_next at the records. Both read through slices or
 * after a checked sum of sizes, copy records out (a message need not be
 * aligned) and decide in this order:
 *
 *   frame   magic, sizes against the bytes at hand, crc; from here on the
 *           request can be answered: version, kind, op, limits, fields
 *   batch   counts, head fields, columns; per key: lengths, class, range,
 *           segments, attributes; at the end: everything used up
 *
 * Unknown flag bits and reserved bytes are ignored: a later version may give
 * them a meaning. Values of enumerations that are not known are refused.
 * Nothing here is a programmer error, so nothing here aborts. */
#include "rpc/frame.h"

#include "base/hash.h"

enum { BODY_NONE, BODY_MSG, BODY_BATCH };

/* What an op's body is; BODY_NONE for ids that do not exist. */
static const uint8_t op_body[OP_N] = {
#define OP(id, NAME, name, body, since, us, per_mib, idem, doc)                \
    [id] = BODY_##body,
#include "proto/ops.tbl"
};

static uint32_t frame_crc(const struct wire_frame *f, const void *body,
                          size_t body_len)
{
    uint32_t crc = crc32c(0, f, offsetof(struct wire_frame, crc));

    return body_len ? crc32c(crc, body, body_len) : crc;
}

void frame_seal(struct wire_frame *f, const void *body, size_t body_len)
{
    DEBUG_CHECK(body_len == frame_body_len(f));
    f->magic = WIRE_MAGIC;
    f->version = WIRE_VERSION;
    f->crc = frame_crc(f, body, body_len);
}

/* Do the lengths that the frame states add up to the bytes at hand? The bytes
 * of a DATA message may come apart from it (rendezvous). */
static bool frame_sizes_ok(const struct wire_frame *f, size_t body_len)
{
    uint64_t used = frame_body_len(f);

    if (used > body_len)
        return false;
    if (f->kind == WIRE_DATA && body_len == used)
        return true;
    return f->data_len == body_len - used;
}

static enum err frame_check_data(const struct wire_frame *f,
                                 const struct frame_limits *lim)
{
    if (frame_body_len(f) > 0)
        return ERR_BAD_REQUEST;
    if (f->data_len > lim->block_bytes ||
        f->data_off > lim->block_bytes - f->data_len ||
        f->data_idx >= lim->batch_keys)
        return ERR_LIMIT;
    return OK;
}

/* The fields of a frame whose crc is right. */
static enum err frame_check(const struct wire_frame *f,
                            const struct frame_limits *lim)
{
    if (f->kind < WIRE_REQUEST || f->kind > WIRE_EVENT || f->op == 0)
        return ERR_BAD_REQUEST;
    if (f->op >= OP_N || op_body[f->op] == BODY_NONE)
        return ERR_UNSUPPORTED;
    if (f->req == 0 && f->kind != WIRE_EVENT)
        return ERR_BAD_REQUEST;
    if (f->kind == WIRE_REQUEST && f->deadline_us == 0)
        return ERR_BAD_REQUEST;
    if (f->kind == WIRE_REPLY && f->status > 0)
        return ERR_BAD_REQUEST;
    if (f->kind == WIRE_DATA)
        return frame_check_data(f, lim);
    if (op_body[f->op] == BODY_MSG && (f->record_n || f->keys_len))
        return ERR_BAD_REQUEST;
    if (sizeof(*f) + frame_body_len(f) > lim->message_bytes ||
        f->data_len > lim->inline_bytes)
        return ERR_LIMIT;
    return OK;
}

enum err frame_read(const void *frame, const void *body, size_t body_len,
                    const struct frame_limits *lim, struct message *out)
{
    static const uint8_t none[1]; /* so that sections are never NULL */
    struct wire_frame f;
    bool whole;
    enum err e;

    *out = (struct message){0};
    memcpy(&f, frame, sizeof(f));
    if (f.magic != WIRE_MAGIC)
        return ERR_BAD_REQUEST;
    whole = frame_sizes_ok(&f, body_len) &&
            f.crc == frame_crc(&f, body, frame_body_len(&f));
    if (whole) {
        out->frame.req = f.req;
        out->frame.op = f.op;
    }
    if (f.version != WIRE_VERSION)
        return ERR_BAD_VERSION;
    e = whole ? frame_check(&f, lim) : ERR_BAD_REQUEST;
    if (e)
        return e;
    out->frame = f;
    out->records = body_len ? body : none;
    out->keys = out->records + (size_t)f.record_n * WIRE_RECORD;
    out->env = out->keys + f.keys_len;
    if (body_len > frame_body_len(&f))
        out->data = out->env + f.env_len;
    return OK;
}

/* May the keys of this batch be empty? The selection is elsewhere then. */
static bool batch_keyless(uint16_t op, const struct wire_batch *h)
{
    return op == OP_EVICT &&
           (h->select == SELECT_LABEL || h->select == SELECT_SCOPE ||
            h->select == SELECT_NAMESPACE);
}

static bool batch_columns_ok(const uint8_t *columns, uint32_t n)
{
    struct wire_column c;

    for (uint32_t i = 0; i < n; i++) {
        memcpy(&c, columns + (size_t)i * WIRE_RECORD, sizeof(c));
        if (c.rule > RULE_OPTIONAL)
            return false;
    }
    return true;
}

/* Counts of a request's head: columns, and keys with or without attributes. */
static enum err batch_check_counts(uint16_t op, const struct wire_batch *h,
                                   uint64_t record_n)
{
    uint64_t fixed = 1 + (op == OP_LOOKUP ? h->cols : 0);

    if (h->key_n == 0 && !batch_keyless(op, h))
        return ERR_BAD_REQUEST;
    if (op == OP_LOOKUP && (h->cols == 0 || h->key_n % h->cols != 0))
        return ERR_BAD_REQUEST;
    if (op != OP_LOOKUP && h->cols > 1)
        return ERR_BAD_REQUEST;
    if (record_n < fixed + h->key_n ||
        record_n > fixed + 2 * (uint64_t)h->key_n)
        return ERR_BAD_REQUEST;
    return OK;
}

static enum err batch_check_head(const struct message *m,
                                 const struct wire_batch *h,
                                 const struct frame_limits *lim)
{
    if (h->key_n > lim->batch_keys)
        return ERR_LIMIT;
    if (m->frame.kind == WIRE_REPLY)
        return m->frame.record_n == 1 + (uint64_t)h->key_n ? OK
                                                           : ERR_BAD_REQUEST;
    if (h->accept > ACCEPT_MAX_ERR || h->select > SELECT_PATTERN)
        return ERR_BAD_REQUEST;
    return batch_check_counts(m->frame.op, h, m->frame.record_n);
}

enum err batch_read(const struct message *m, const struct frame_limits *lim,
                    struct batch *out)
{
    const struct wire_frame *f = &m->frame;
    struct slice records =
        slice_of(m->records, (size_t)f->record_n * WIRE_RECORD);
    const uint8_t *columns = NULL;
    struct wire_batch h;
    enum err e;

    if (!slice_copy(&records, &h, sizeof(h)))
        return ERR_BAD_REQUEST;
    e = batch_check_head(m, &h, lim);
    if (e)
        return e;
    if (f->op == OP_LOOKUP && f->kind == WIRE_REQUEST) {
        columns = slice_take(&records, (size_t)h.cols * WIRE_RECORD);
        if (!columns || !batch_columns_ok(columns, h.cols))
            return ERR_BAD_REQUEST;
    }
    *out = (struct batch){
        .head = h,
        .columns = columns,
        .records = records,
        .keys = slice_of(m->keys, f->keys_len),
        .left = h.key_n,
        .op = f->op,
    };
    return OK;
}

static bool batch_op_stores(uint16_t op)
{
    return op == OP_PUT || op == OP_PUT_BEGIN || op == OP_PUT_WRITE;
}

/* The numbers of one key record, before its bytes are taken. */
static enum err batch_check_key(const struct batch *b, const struct wire_key *k,
                                const struct frame_limits *lim)
{
    uint64_t end;

    if (k->key_len == 0 && !batch_keyless(b->op, &b->head))
        return ERR_BAD_REQUEST;
    if (k->key_len > WIRE_KEY_MAX || k->route_len > WIRE_ROUTE_MAX ||
        k->parent_len > WIRE_KEY_MAX)
        return ERR_LIMIT;
    if (k->cls > CLASS_BLOB || __builtin_add_overflow(k->off, k->len, &end))
        return ERR_BAD_REQUEST;
    if (b->op == OP_PUT_BEGIN)
        end = k->len; /* off is the number of writers */
    if (batch_op_stores(b->op) && end > lim->block_bytes)
        return ERR_LIMIT;
    if (batch_op_stores(b->op) && k->len == 0)
        return ERR_BAD_REQUEST; /* a block, and a range of one, has bytes */
    return OK;
}

struct wire_seg seg_at(const struct key_ref *k, uint32_t i)
{
    struct wire_seg s;

    memcpy(&s, k->segs + (size_t)i * sizeof(s), sizeof(s));
    return s;
}

/* Segments, where given, must have room for the bytes of the key. */
static bool batch_segs_ok(const struct key_ref *k)
{
    uint64_t sum = 0, end;

    for (uint32_t i = 0; i < k->rec.seg_n; i++) {
        struct wire_seg s = seg_at(k, i);

        if (__builtin_add_overflow(s.off, s.len, &end) ||
            __builtin_add_overflow(sum, s.len, &sum))
            return false;
    }
    return k->rec.seg_n == 0 || sum >= k->rec.len;
}

/* Takes what lies behind the record: its attributes and its bytes. */
static bool batch_take_key(struct batch *b, struct key_ref *k)
{
    const struct wire_key *r = &k->rec;

    k->has_attr = (r->flags & KEY_HAS_ATTR) != 0;
    if (k->has_attr && !slice_copy(&b->records, &k->attr, sizeof(k->attr)))
        return false;
    k->key = slice_take(&b->keys, r->key_len);
    k->route = slice_take(&b->keys, r->route_len);
    k->route_len = r->route_len;
    k->parent = slice_take(&b->keys, r->parent_len);
    k->segs = slice_take(&b->keys, r->seg_n * sizeof(struct wire_seg));
    if (b->keys.bad)
        return false;
    if (r->route_len == 0) {
        k->route = k->key;
        k->route_len = r->key_len;
    }
    if (r->parent_len == 0)
        k->parent = NULL;
    return !k->has_attr || k->attr.place <= 2;
}

enum err batch_next(struct batch *b, const struct frame_limits *lim,
                    struct key_ref *out)
{
    struct key_ref k;
    enum err e;

    if (b->left == 0)
        return b->records.len || b->keys.len ? ERR_BAD_REQUEST : ERR_MISS;
    if (!slice_copy(&b->records, &k.rec, sizeof(k.rec)))
        return ERR_BAD_REQUEST;
    e = batch_check_key(b, &k.rec, lim);
    if (e)
        return e;
    if (!batch_take_key(b, &k) || !batch_segs_ok(&k))
        return ERR_BAD_REQUEST;
    b->left--;
    if (!k.has_attr)
        k.attr = (struct wire_attr){0};
    *out = k;
    return OK;
}

enum err batch_next_result(struct batch *b, struct wire_result *out)
{
    if (b->left == 0)
        return ERR_MISS;
    if (!slice_copy(&b->records, out, sizeof(*out)))
        return ERR_BAD_REQUEST;
    b->left--;
    return OK;
}
