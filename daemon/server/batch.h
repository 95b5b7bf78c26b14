/* SPDX-License-Identifier: Apache-2.0
 *
 * What every batch operation does first: check the whole batch, so that a
 * malformed last key does not leave the first ones done; find the namespace;
 * then walk the keys as the store wants them. */
#ifndef SERVER_BATCH_H
#define SERVER_BATCH_H

#include "server/op.h"

/* A batch being walked. */
struct walk {
    struct batch batch;
    const struct registry_ns *ns; /* valid within a turn: see walk_resume */
    uint32_t idx;                 /* of the key last taken */
    bool bad;                     /* it ended at a malformed key */
    struct key_ref ref;
    struct store_key key; /* borrows the message only: may be kept */
};

/* Checks everything that needs no store. The error is the whole request's. */
must_check enum err walk_begin(struct op *op, struct walk *w);
/* Without the check of all keys, for an operation that takes them all before
 * it acts: after the last walk_next, w->bad says if one was malformed. */
must_check enum err walk_begin_unchecked(struct op *op, struct walk *w);
/* The namespace again, after a sleep: it may have been flushed meanwhile. */
must_check enum err walk_resume(struct op *op, struct walk *w);
/* Takes the next key into ref, key and idx; false at the end. *e_out is the
 * key's own error (WRONG_NODE: another lane's) or OK. */
bool walk_next(struct op *op, struct walk *w, enum err *e_out);

/* The bytes announced with a PUT or PUT_WRITE that nobody will pull, from key
 * number `from` on: without this the transport would keep them (transport.h,
 * skip). */
void batch_skip(struct tp_peer *tp, const struct message *m,
                const struct frame_limits *lim, uint32_t from);

/* Fills a result from a block that is there; of one that is not in memory the
 * crc is left out. */
void result_of_block(struct op *op, uint32_t block, struct wire_result *r);
/* Begins to bring a block that is not in memory there; nothing, if there is no
 * room now. Nobody waits for it. */
void promote_block(struct op *op, uint32_t block, const struct store_key *k);
/* Counts a miss by its reason and returns ERR_MISS or ERR_PENDING. */
enum err miss_of(struct op *op, enum store_found why);

#endif
