/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes for peers and for the disk: a buffer that grows, and checked readers of
 * what came from there. Little-endian, no padding.
 *
 *   write   struct bytes b = {0}; bytes_put_x(&b, ...); bytes_seal(&b, 0);
 *   read    struct slice s; bytes_unseal(&s, p, n); bytes_get_x(&s);
 *           bytes_end(&s)
 *
 * Both ends are checked once, at the end: after the first failure a buffer is
 * bad and takes nothing more (no memory), a slice is bad and yields zeros (too
 * short, or a text without its bounds). A count that sizes an allocation is
 * compared with the bytes that are left before it is believed.
 *
 * Threads: whoever has the struct. Growing is a fault point. */
#ifndef CLUSTER_BYTES_H
#define CLUSTER_BYTES_H

#include "base/base.h"
#include "base/err.h"
#include "base/slice.h"

struct bytes { /* grows; free() .p, or bytes_fini */
    uint8_t *p;
    size_t len, cap;
    bool bad; /* no memory: len is what fitted */
};

/* Frees; b is empty and good again. Accepts zeros. */
void bytes_fini(struct bytes *b);
/* Room for n more bytes, which count at once; NULL: no memory, b is bad. */
void *bytes_grow(struct bytes *b, size_t n);
void bytes_put(struct bytes *b, const void *p, size_t n);
void bytes_put_u8(struct bytes *b, uint8_t v);
void bytes_put_u16(struct bytes *b, uint16_t v);
void bytes_put_u32(struct bytes *b, uint32_t v);
void bytes_put_u64(struct bytes *b, uint64_t v);
/* A byte of length, then the text without its NUL: at most 255. */
void bytes_put_text(struct bytes *b, const char *text);
/* crc32c of everything from byte at on. */
void bytes_seal(struct bytes *b, size_t at);

uint8_t bytes_get_u8(struct slice *s);
uint16_t bytes_get_u16(struct slice *s);
uint32_t bytes_get_u32(struct slice *s);
uint64_t bytes_get_u64(struct slice *s);
/* to is filled to cap bytes, zeros behind the text. Bad: longer than cap - 1,
 * or a NUL within. */
void bytes_get_text(struct slice *s, char *to, size_t cap);
/* Checks the crc at the end of p, n and gives what is before it; false: s is
 * bad. */
bool bytes_unseal(struct slice *s, const void *p, size_t n);
/* Was everything read, and nothing missing? */
static inline bool bytes_end(const struct slice *s)
{
    return !s->bad && s->len == 0;
}

#endif
