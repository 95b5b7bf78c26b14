/* SPDX-License-Identifier: Apache-2.0
 *
 * The oracle: a dictionary of everything ever PUT. It does not know what the
 * store should keep (a miss is always legal); it knows what the store may
 * answer:
 *
 *  1. Bytes are those of one PUT under that key, sent before the GET ended, in
 *     the generation the GET named.
 *  2. A version names the same bytes for ever.
 *  3. A PUT that was refused or never committed is answered by nobody, unless
 *     its answer was lost (then it may have been committed).
 *  4. What an answered EVICT dropped is in no answer to a call that began
 *     later, restarts or not.
 *
 * And, of a node whose SSDs do not fail, what it must still have: a durable PUT
 * that was answered, until something is sent that may take it away, or so much
 * was put since that its segment may have been reclaimed.
 *
 * Bytes are made from the PUT's number, so nothing is kept but numbers. */
#ifndef TESTS_MODEL_H
#define TESTS_MODEL_H

#include "base/base.h"

enum { MODEL_KEYS = 512 };

struct model_put {
    uint64_t id; /* makes the bytes */
    uint64_t len, generation, version;
    uint32_t crc;
    bool refused;        /* the server said it stored nothing */
    bool durable;        /* must be found, for some time */
    uint64_t put_bytes;  /* durable: of the model, when it was answered */
    uint64_t drop_call;  /* the EVICT under way that will have dropped it */
    uint64_t dropped_ns; /* it was answered then; 0: not dropped */
};

struct model_key {
    struct model_put *puts; /* [put_n]: all that may be answered */
    uint32_t put_n, put_cap;
    uint32_t drops; /* EVICTs of it that were sent and not answered */
};

struct model {
    struct model_key keys[MODEL_KEYS];
    uint64_t ids, put_bytes;
    uint32_t drops; /* calls under way that may take away any block */
    uint64_t checked_bytes, checked_gets, checked_durable, dropped;
};

/* Of a zeroed model, whose memory stays the caller's. */
void model_fini(struct model *m);

/* The bytes [off, off + len) of PUT id. */
void model_fill(uint64_t id, uint64_t off, uint8_t *p, uint64_t len);
/* Notes a PUT before it is sent; returns its id. */
uint64_t model_put_begin(struct model *m, uint32_t key, uint64_t generation,
                         uint64_t len, uint32_t *crc_out);
/* Its answer: committed under a version, or refused. A lost answer is none. */
void model_put_committed(struct model *m, uint32_t key, uint64_t id,
                         uint64_t version);
void model_put_refused(struct model *m, uint32_t key, uint64_t id);
/* It was answered as durable. Counts if nothing is under way that may drop it.
 */
void model_put_durable(struct model *m, uint32_t key, uint64_t id);
/* An EVICT of this key is sent: call is a number of its own. Then it is
 * answered; if it was dropped, what was known to be stored when it was sent is
 * gone. One that is never answered is under way until model_restarted. */
void model_drop_begin(struct model *m, uint32_t key, uint64_t call);
void model_drop_done(struct model *m, uint32_t key, uint64_t call, bool dropped,
                     uint64_t now_ns);
/* Something is sent, then answered, that may take away any block. */
void model_drop_any_begin(struct model *m);
void model_drop_any_done(struct model *m);
/* The node started anew: what was under way is over. */
void model_restarted(struct model *m);
/* The version of the durable PUT that must be found under this key, if no more
 * than far bytes were put since; 0: none must. */
uint64_t model_must_have(struct model *m, uint32_t key, uint64_t far);

/* A block as an answer describes it, and when the call was made. */
struct model_seen {
    uint32_t key, crc;
    bool no_crc; /* crc is not known */
    uint64_t generation, version, len, begun_ns;
};
/* Aborts with words if [off, off + n) of this block cannot be the answer. p may
 * be NULL: only the description is checked. */
void model_check(struct model *m, const struct model_seen *seen, uint64_t off,
                 const uint8_t *p, uint64_t n);

#endif
