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
 *
 * Bytes are made from the PUT's number, so nothing is kept but numbers. */
#ifndef TESTS_MODEL_H
#define TESTS_MODEL_H

#include "base/base.h"

enum { MODEL_KEYS = 512, MODEL_PUTS = 64 };

struct model_put {
    uint64_t id; /* makes the bytes; 0 = free */
    uint64_t len, generation, version;
    uint32_t crc;
    bool refused; /* the server said it stored nothing */
};

struct model_key {
    struct model_put puts[MODEL_PUTS]; /* the latest, round robin */
    uint32_t next;
};

struct model {
    struct model_key keys[MODEL_KEYS];
    uint64_t ids;
    uint64_t checked_bytes, checked_gets;
};

/* The bytes [off, off + len) of PUT id. */
void model_fill(uint64_t id, uint64_t off, uint8_t *p, uint64_t len);
/* Notes a PUT before it is sent; returns its id. */
uint64_t model_put_begin(struct model *m, uint32_t key, uint64_t generation,
                         uint64_t len, uint32_t *crc_out);
/* Its answer: committed under a version, or refused. A lost answer is none. */
void model_put_committed(struct model *m, uint32_t key, uint64_t id,
                         uint64_t version);
void model_put_refused(struct model *m, uint32_t key, uint64_t id);
/* Aborts with words if [off, off + n) of a block of length len, crc, version
 * cannot be the answer. p may be NULL: only the description is checked. */
void model_check(struct model *m, uint32_t key, uint64_t generation,
                 uint64_t version, uint64_t len, uint32_t crc, uint64_t off,
                 const uint8_t *p, uint64_t n);

#endif
