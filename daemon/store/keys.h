/* SPDX-License-Identifier: Apache-2.0
 *
 * The key heap: what a client said about a block. One cell per block:
 *
 *   | header 10 | scope 16? | attr 64? | key | route | parent key |
 *
 * scope only if it is not all zeros, attr only if it was given. Cells are
 * multiples of 16 bytes in classes (16-byte steps to 256, then 64), each with a
 * free list; new ones come off the end of a reserved space, so that memory is
 * touched only as far as it was ever needed. When the space is used up a cell
 * of a larger class serves.
 *
 * Invariants: 1. a cell never moves. 2. A cell in use is in no free list.
 * Failure: 0 from keys_new; the caller evicts a block and tries again.
 * Thread: the lane. */
#ifndef STORE_KEYS_H
#define STORE_KEYS_H

#include "store/store.h"

enum { KEYS_GRAIN = 16, KEYS_CLASSES = 49, KEYS_CELL_MAX = 2304 };

struct keys {
    uint8_t *space;
    uint64_t bytes, hi; /* reserved, ever used */
    uint32_t free[KEYS_CLASSES];
    uint64_t used; /* bytes of cells in use */
};

/* What a cell says, borrowed from it. */
struct keys_view {
    struct store_key key; /* ns and hash are not set */
    const uint8_t *parent;
    uint16_t parent_len;
    struct wire_attr attr; /* zeros if none was given */
};

must_check enum err keys_init(struct keys *k, uint32_t cells);
void keys_fini(struct keys *k);
/* A reference, never 0 on success. */
uint32_t keys_new(struct keys *k, const struct store_key *key,
                  const struct wire_attr *attr, const uint8_t *parent,
                  uint16_t parent_len);
void keys_del(struct keys *k, uint32_t ref);
/* Same group, scope and bytes? */
bool keys_same(const struct keys *k, uint32_t ref, const struct store_key *key);
void keys_view(const struct keys *k, uint32_t ref, struct keys_view *out);

#endif
