/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages of peers, walked before they are unpacked (peer_msg.h).
 *
 *   bytes --walk: wire types, lengths, counts, by the descriptor--> protobuf-c
 *         --> an allocator that gives PEER_MSG_MEMORY bytes and then NULL
 *
 * The walk reads the wire format by itself and is the stricter of the two: what
 * it lets through protobuf-c may still refuse, never the other way round in a
 * way that costs anything. The recursion is as deep as the descriptors nest,
 * which do not recurse (test_peer_msg looks).
 *
 * A text, byte string or list without a row in `limits` may not be there at
 * all: a new field of peer.proto needs its row. */
#include "cluster/peer_msg.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"

enum {
    FIELDS_MAX = 32,  /* of a message type */
    UNKNOWN_MAX = 32, /* unknown fields of a message, all depths */
    WIRE_VARINT = 0,
    WIRE_64 = 1,
    WIRE_LEN = 2,
    WIRE_32 = 5,
};

static const struct {
    const ProtobufCMessageDescriptor *d;
    size_t max;
} kinds[PEER_KINDS] = {
    [PEER_HELLO] = {&peer__hello__descriptor, 4096},
    [PEER_BYE] = {&peer__bye__descriptor, 1024},
    [PEER_BEAT] = {&peer__beat__descriptor, PEER_MSG_BYTES},
    [PEER_BEAT_REPLY] = {&peer__beat_reply__descriptor, 1024},
    [PEER_VIEW_PULL] = {&peer__view_pull__descriptor, 256},
    [PEER_VIEW_PUSH] = {&peer__view_push__descriptor, PEER_MSG_BYTES},
    [PEER_PROPOSE] = {&peer__propose__descriptor, CMD_BYTES_MAX + 64},
    [PEER_PROPOSED] = {&peer__proposed__descriptor, 1024},
    [PEER_RAFT] = {&peer__raft__descriptor, PEER_MSG_BYTES},
};

static const struct limit {
    const ProtobufCMessageDescriptor *d;
    uint32_t field;
    uint32_t max; /* bytes of a text or byte string, rows of a list */
} limits[] = {
    {&peer__address__descriptor, 1, NODE_ADDR_MAX - 1},
    {&peer__address__descriptor, 2, NODE_ADDR_MAX - 1},
    {&peer__address__descriptor, 3, NODE_ADDR_MAX - 1},
    {&peer__hello__descriptor, 5, NODE_NAME_MAX - 1},
    {&peer__hello__descriptor, 8, NODE_NAME_MAX - 1},
    {&peer__hello__descriptor, 9, NODE_NAME_MAX - 1},
    {&peer__bye__descriptor, 2, sizeof(struct errmsg) - 1},
    {&peer__beat__descriptor, 6, PEER_MOVED_MAX},
    {&peer__beat__descriptor, 7, PEER_UNREACHABLE_MAX},
    {&peer__beat_reply__descriptor, 5, NODE_NAME_MAX - 1},
    {&peer__beat_reply__descriptor, 6, NODE_ADDR_MAX - 1},
    {&peer__load__descriptor, 7, PEER_LOAD_SLOTS_MAX},
    {&peer__load__descriptor, 8, PEER_LOAD_EXPERTS_MAX},
    {&peer__expert_count__descriptor, 3, PEER_EXPERT_COUNTS_MAX},
    {&peer__view_push__descriptor, 4, PEER_MSG_BYTES},
    {&peer__propose__descriptor, 2, CMD_BYTES_MAX},
    {&peer__proposed__descriptor, 4, sizeof(struct errmsg) - 1},
    {&peer__raft_entry__descriptor, 3, PEER_MSG_BYTES},
    {&peer__raft__descriptor, 10, PEER_RAFT_ENTRIES_MAX},
    {&peer__raft__descriptor, 11, 65536},
    {&peer__raft__descriptor, 12, PEER_MSG_BYTES},
};

static uint32_t limit_of(const ProtobufCMessageDescriptor *d, uint32_t field)
{
    for (size_t i = 0; i < countof(limits); i++)
        if (limits[i].d == d && limits[i].field == field)
            return limits[i].max;
    return 0;
}

/* ---- The walk ---- */

/* A varint of at most max bytes; bad beyond. */
static uint64_t varint_take(struct slice *s, uint32_t max)
{
    uint64_t v = 0;

    for (uint32_t i = 0; i < max; i++) {
        const uint8_t *b = slice_take(s, 1);

        if (!b)
            return 0;
        v |= (uint64_t)(*b & 0x7f) << (7 * i);
        if (!(*b & 0x80))
            return v;
    }
    s->bad = true;
    return 0;
}

/* How many numbers a packed list has. */
static uint64_t packed_n(const ProtobufCFieldDescriptor *f, struct slice s)
{
    uint64_t n = 0;

    if (f->type != PROTOBUF_C_TYPE_UINT32 && f->type != PROTOBUF_C_TYPE_UINT64)
        return s.len; /* too many is the safe side; there are none now */
    for (size_t i = 0; i < s.len; i++)
        n += !(s.p[i] & 0x80);
    return n;
}

static bool walk(const ProtobufCMessageDescriptor *d, struct slice s,
                 uint32_t *unknown);

/* A field with a length: is what it has within its limits? */
static bool walk_long(const ProtobufCMessageDescriptor *d,
                      const ProtobufCFieldDescriptor *f, struct slice s,
                      uint64_t *count, uint32_t *unknown)
{
    (*count)++;
    switch ((int)f->type) {
    case PROTOBUF_C_TYPE_MESSAGE:
        return walk(f->descriptor, s, unknown);
    case PROTOBUF_C_TYPE_STRING:
        return s.len <= limit_of(d, f->id) && !memchr(s.p, 0, s.len);
    case PROTOBUF_C_TYPE_BYTES:
        return s.len <= limit_of(d, f->id);
    default: /* the rest of protobuf-c's types are numbers */
        *count += packed_n(f, s) - 1;
        return f->label == PROTOBUF_C_LABEL_REPEATED;
    }
}

static bool walk_count(const ProtobufCMessageDescriptor *d,
                       const ProtobufCFieldDescriptor *f, uint64_t count)
{
    return count <=
           (f->label == PROTOBUF_C_LABEL_REPEATED ? limit_of(d, f->id) : 1);
}

static bool has_length(const ProtobufCFieldDescriptor *f)
{
    return f->type == PROTOBUF_C_TYPE_MESSAGE ||
           f->type == PROTOBUF_C_TYPE_STRING ||
           f->type == PROTOBUF_C_TYPE_BYTES;
}

/* Takes the value of a field; value_out is it, of one that has a length. */
static void value_take(struct slice *s, uint32_t wire, struct slice *value_out)
{
    uint64_t n;

    switch (wire) {
    case WIRE_VARINT:
        varint_take(s, 10);
        break;
    case WIRE_64:
        slice_take(s, 8);
        break;
    case WIRE_32:
        slice_take(s, 4);
        break;
    case WIRE_LEN:
        n = varint_take(s, 5);
        *value_out = slice_of(s->p, n);
        slice_take(s, n);
        break;
    default:
        s->bad = true; /* groups are gone, the rest never was */
    }
}

static bool walk(const ProtobufCMessageDescriptor *d, struct slice s,
                 uint32_t *unknown)
{
    uint64_t counts[FIELDS_MAX] = {0};

    MUST(d->n_fields <= FIELDS_MAX);
    while (s.len) {
        uint64_t tag = varint_take(&s, 5);
        uint32_t wire = tag & 7;
        struct slice value = {0};
        const ProtobufCFieldDescriptor *f;
        uint64_t *count;

        value_take(&s, wire, &value);
        if (s.bad || tag >> 3 == 0 || tag >> 32)
            return false;
        f = protobuf_c_message_descriptor_get_field(d, (unsigned)(tag >> 3));
        if (!f) {
            if (++*unknown > UNKNOWN_MAX)
                return false;
            continue;
        }
        count = &counts[f - d->fields];
        if (wire != WIRE_LEN) {
            (*count)++;
            if (has_length(f))
                return false;
        } else if (!walk_long(d, f, value, count, unknown)) {
            return false;
        }
        if (!walk_count(d, f, *count))
            return false;
    }
    return !s.bad;
}

/* ---- Memory ---- */

struct block { /* before each piece, so that free can give back */
    size_t n;
    max_align_t p[];
};

static void *limited_alloc(void *left, size_t n)
{
    size_t *bytes = left, all = sizeof(struct block) + n;
    struct block *b;

    if (n > *bytes || all > *bytes || fault_here("peer_msg_alloc"))
        return NULL;
    b = malloc(all);
    if (!b)
        return NULL;
    *bytes -= all;
    b->n = all;
    return b->p;
}

static void limited_free(void *left, void *p)
{
    struct block *b;

    if (!p)
        return;
    b = container_of(p, struct block, p);
    if (left)
        *(size_t *)left += b->n;
    free(b);
}

/* ---- In and out ---- */

size_t peer_msg_max(uint16_t kind)
{
    return kind < PEER_KINDS ? kinds[kind].max : 0;
}

void *peer_msg_unpack(uint16_t kind, const uint8_t *p, size_t n)
{
    size_t left = PEER_MSG_MEMORY;
    ProtobufCAllocator alloc = {limited_alloc, limited_free, &left};
    uint32_t unknown = 0;
    ProtobufCMessage *msg;

    if (n > peer_msg_max(kind) || !peer_msg_max(kind) ||
        !walk(kinds[kind].d, slice_of(p, n), &unknown))
        return NULL;
    msg = protobuf_c_message_unpack(kinds[kind].d, &alloc, n, p);
    return msg;
}

void peer_msg_free(void *msg)
{
    ProtobufCAllocator alloc = {limited_alloc, limited_free, NULL};

    if (msg)
        protobuf_c_message_free_unpacked(msg, &alloc);
}

enum err peer_msg_pack(uint16_t kind, const void *msg, struct bytes *out)
{
    size_t n = protobuf_c_message_get_packed_size(msg), at = out->len;
    uint32_t unknown = 0;
    uint8_t *to;

    MUST(peer_msg_max(kind) &&
         ((const ProtobufCMessage *)msg)->descriptor == kinds[kind].d);
    if (n > peer_msg_max(kind))
        return ERR_LIMIT;
    to = bytes_grow(out, n);
    if (!to)
        return ERR_NO_MEMORY;
    protobuf_c_message_pack(msg, to);
    if (walk(kinds[kind].d, slice_of(to, n), &unknown))
        return OK;
    out->len = at;
    return ERR_LIMIT;
}
