/* SPDX-License-Identifier: Apache-2.0
 *
 * The blocks by several writers of fake_pikvd: as little of them as a client
 * can tell. Overlap is not looked at, and all that is committed is whole. */
#ifndef TESTS_FAKE_OPEN_H
#define TESTS_FAKE_OPEN_H

#include "rpc/frame.h"

enum { FAKE_OPENS = 64 };

struct fake_open {
    uint64_t token; /* 0: free */
    uint64_t len, committed;
    uint32_t lane, writers, key_len;
    uint8_t key[WIRE_KEY_MAX];
    uint8_t *bytes;
};

struct fake_opens {
    struct fake_open all[FAKE_OPENS];
    uint64_t tokens;
};

/* PUT_BEGIN of a key that is not stored. */
void fake_open_begin(struct fake_opens *t, uint32_t lane,
                     const struct key_ref *k, struct wire_result *r);
/* Where the bytes of a PUT_WRITE go; NULL: MISS. */
uint8_t *fake_open_at(struct fake_opens *t, uint32_t lane,
                      const struct key_ref *k, struct wire_result *r);
/* They are there. */
void fake_open_written(const struct key_ref *k, const uint8_t *at,
                       struct wire_result *r);
/* PUT_COMMIT. Of the last one the bytes, malloc'ed and the caller's. */
uint8_t *fake_open_commit(struct fake_opens *t, uint32_t lane,
                          const struct key_ref *k, struct wire_result *r,
                          uint64_t *len_out);
void fake_open_abort(struct fake_opens *t, uint32_t lane,
                     const struct key_ref *k, struct wire_result *r);
void fake_open_drop_all(struct fake_opens *t);

#endif
