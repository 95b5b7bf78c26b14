/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of GET, for op_get.c and op_get_want.c only. */
#ifndef SERVER_OP_GET_H
#define SERVER_OP_GET_H

#include "server/batch.h"
#include "server/parts.h"
#include "server/wants.h"
#include "server/xfer.h"

struct get_key {
    struct xfer x; /* first: the push's completion leads here */
    union {        /* one at a time; their completions lead here too */
        struct store_wait load;
        struct want_wait want;
    };
    struct store_key key; /* to find it again; bytes in the message */
    struct list node;     /* get->cold, loading, ready or wanted */
    uint32_t idx;
    uint32_t seg_n;
    const uint8_t *segs;
    uint64_t off, len, at; /* what of the block; where in the gathered bytes */
    uint64_t version;      /* found: another one later is a miss */
    bool loan;
    bool waited; /* it was not in memory when it was found */
    bool cold;   /* its bytes came from the SSD */
    bool tried;  /* one load failed */
    bool asked;  /* it was not here: off, len and version are as asked */
};

static_assert(sizeof(struct get_key) + sizeof(bool) <= OP_KEY_BYTES,
              "fits the arena");

struct get {
    struct op *op;
    struct walk walk;
    struct op_results *r;
    struct parts *parts;  /* NULL: not asked for */
    struct get_key *keys; /* found and with something to do: n of them */
    uint32_t n;
    struct list cold, loading, ready, wanted;
    uint32_t held;  /* keys in loading, or in ready from there */
    bool starved;   /* the last load found no memory */
    uint64_t bytes; /* of all of them; then: delivered */
    uint64_t soft_ns, push_ns;
    uint8_t *inline_at; /* gathered bytes, NULL: pushed */
    struct span inline_span;
};

static inline struct wire_result *get_result(const struct get *get,
                                             const struct get_key *k)
{
    return &get->r->results[k->idx];
}

void get_tick(struct op *op);
void get_key_init(struct get *get, struct get_key *k);
/* What the request asks of the block that was found, as far as it is known
 * without its bytes. */
enum err get_fits(struct get *get, struct get_key *k, uint32_t block,
                  uint64_t room);
/* Its status and end; nothing of it is under way. */
void get_end_key(struct get *get, struct get_key *k, enum err e);

/* op_get_want.c: the key at hand is not here. Its status, or OK: it is asked
 * for elsewhere and is in get->wanted. */
enum err get_want_key(struct op *op, struct get *get, enum store_found why);
/* A block that was asked for elsewhere is here now. false: the key has ended.
 */
bool get_came(struct get *get, struct get_key *k, uint32_t block);

#endif
