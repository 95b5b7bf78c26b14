/* SPDX-License-Identifier: Apache-2.0
 *
 * Wire version 1 as C structs, made from records.tbl. Both ends are
 * little-endian machines; a big-endian build is refused below. The structs
 * have no padding: each offset in the table is asserted. */
#ifndef PROTO_WIRE_H
#define PROTO_WIRE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "the wire is little-endian and so must be the host");

/* clang-format off */
#define RECORD(rec, bytes, doc)          struct wire_##rec {
#define FIELD(rec, off, type, name, doc) type name;
#define BYTES(rec, off, name, n, doc)    uint8_t name[n];
#define END(rec)                         };
#include "proto/records.tbl"

#define RECORD(rec, bytes, doc) static_assert(sizeof(struct wire_##rec) == (bytes), #rec);
#define FIELD(rec, off, type, name, doc) static_assert(offsetof(struct wire_##rec, name) == (off), #rec "." #name);
#define BYTES(rec, off, name, n, doc) static_assert(offsetof(struct wire_##rec, name) == (off), #rec "." #name);
#define END(rec)
#include "proto/records.tbl"
/* clang-format on */

enum {
    WIRE_MAGIC = 0x564b4950,
    WIRE_VERSION = 1,
    WIRE_RECORD = 64,       /* bytes of every record but seg */
    WIRE_KEY_MAX = 1024,    /* bytes of a key */
    WIRE_ROUTE_MAX = 32,    /* bytes of a route */
    WIRE_SLOTS = 65536,     /* slot = hash(namespace, route) mod this */
    WIRE_HEADER_MAX = 4096, /* UCX 1.13 aborts the sender above 8,140 */
    /* ucx: block bytes that travel inside a request or reply, and the largest
     * DATA message of a PUT that is eager. Both ends must agree (UCX.md 7). */
    WIRE_EAGER_MAX = 56 << 10,
};

enum wire_kind {
    WIRE_REQUEST = 1,
    WIRE_REPLY = 2,
    WIRE_DATA = 3,
    WIRE_EVENT = 4,
};

enum { /* wire_frame.flags */
    FRAME_SPINS = 0x1,
};

/* Exchanged at HELLO: what both ends know of may be used. */
enum wire_feature {
    FEATURE_PARTS = 0x1,  /* events for the keys of a GET (BATCH_PARTS) */
    FEATURE_LAYOUT = 0x2, /* LAYOUT, and batches that name one */
    FEATURE_VIEW = 0x4,   /* VIEW; WRONG_NODE says who */
};

enum { /* wire_batch.flags */
    BATCH_PROMOTE = 0x1, /* LOOKUP: bring the hits to DRAM */
    BATCH_PARTS = 0x2,   /* GET: part-completion events in the order asked */
    BATCH_DEMOTE = 0x4,  /* EVICT: to the next tier instead of dropping */
    BATCH_HERE = 0x8,    /* of a daemon that moves slots, or an operator: the
                          * view is not looked at, only what is here counts */
};

enum { /* wire_key.flags */
    KEY_HAS_ATTR = 0x1, /* a wire_attr follows this record */
    KEY_CRC = 0x2,      /* .crc of the bytes sent is set: refuse others */
    KEY_LOAN = 0x4,     /* GET: answer with a loan instead of bytes */
};

enum { /* wire_attr.flags */
    ATTR_DURABLE = 0x1,
    ATTR_CLIENT_COPY = 0x2,
};

enum { /* wire_result.flags */
    RESULT_LOSSY = 0x1,
    RESULT_PINNED = 0x2,
    RESULT_LOAN = 0x4,
};

enum wire_state { STATE_MISS = 0, STATE_PENDING = 1, STATE_HIT = 2 };
enum wire_rule { RULE_ALL = 0, RULE_TRAILING = 1, RULE_OPTIONAL = 2 };
enum wire_class { CLASS_KV = 0, CLASS_EXPERT = 1, CLASS_BLOB = 2 };
enum wire_accept { ACCEPT_EXACT = 0, ACCEPT_MAX_ERR = 1 };

enum wire_select {
    SELECT_KEYS = 0,
    SELECT_CHAIN = 1,
    SELECT_LABEL = 2,
    SELECT_SCOPE = 3,
    SELECT_NAMESPACE = 4,
    SELECT_PATTERN = 5,
};

enum op_id {
#define OP(id, NAME, name, body, since, us, per_mib, idem, doc) OP_##NAME = id,
#include "proto/ops.tbl"
    OP_N = 38
};

#endif
