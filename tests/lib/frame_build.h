/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages for the tests of frame.c, put together piece by piece in b. */
#ifndef TESTS_FRAME_BUILD_H
#define TESTS_FRAME_BUILD_H

#include "rpc/frame.h"

/* A message under construction: frame | records | keys | env | data. */
struct build {
    struct wire_frame f;
    _Alignas(8) uint8_t body[64 << 10];
    size_t len; /* of body, data included */
};

extern struct build b;
extern const struct frame_limits limits;

void begin(enum wire_kind kind, uint16_t op);
void append(const void *p, size_t n);
void record(const void *p);
void keys(const void *p, size_t n);
void seal(void);
enum err parse(struct message *m); /* seals, then frame_read */

/* A PUT of two keys: "alpha" with attributes, route "r", parent "pp" and two
 * segments; "beta" plain. */
extern const struct wire_batch head_two;
extern const struct wire_key key_a, key_b;
extern const struct wire_attr attr_a;
extern const struct wire_seg segs_a[2];
void put_two(void);

/* The first error of reading the whole batch, or OK; the keys read. */
enum err walk(uint32_t *n_out);
enum err walk_put(void);

#endif
