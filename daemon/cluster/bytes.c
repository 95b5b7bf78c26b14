/* SPDX-License-Identifier: Apache-2.0
 *
 * A growing buffer doubles; the host is little-endian (proto/wire.h refuses
 * others), so that an integer is copied as it is. */
#include "cluster/bytes.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"
#include "proto/wire.h"

enum { BYTES_FIRST = 64 };

void bytes_fini(struct bytes *b)
{
    free(b->p);
    *b = (struct bytes){0};
}

void *bytes_grow(struct bytes *b, size_t n)
{
    size_t cap = b->cap ? b->cap : BYTES_FIRST;
    uint8_t *p;

    if (b->bad || n > SIZE_MAX / 4 - b->len) {
        b->bad = true;
        return NULL;
    }
    while (cap < b->len + n)
        cap *= 2;
    if (!b->p || cap > b->cap) {
        p = fault_here("bytes_grow") ? NULL : realloc(b->p, cap);
        if (!p) {
            b->bad = true;
            return NULL;
        }
        b->p = p;
        b->cap = cap;
    }
    p = b->p + b->len;
    b->len += n;
    return p;
}

void bytes_put(struct bytes *b, const void *p, size_t n)
{
    void *to = bytes_grow(b, n);

    if (to && n)
        memcpy(to, p, n);
}

void bytes_put_u8(struct bytes *b, uint8_t v)
{
    bytes_put(b, &v, sizeof(v));
}

void bytes_put_u16(struct bytes *b, uint16_t v)
{
    bytes_put(b, &v, sizeof(v));
}

void bytes_put_u32(struct bytes *b, uint32_t v)
{
    bytes_put(b, &v, sizeof(v));
}

void bytes_put_u64(struct bytes *b, uint64_t v)
{
    bytes_put(b, &v, sizeof(v));
}

void bytes_put_text(struct bytes *b, const char *text)
{
    size_t n = strlen(text);

    MUST(n <= UINT8_MAX);
    bytes_put_u8(b, (uint8_t)n);
    bytes_put(b, text, n);
}

void bytes_seal(struct bytes *b, size_t at)
{
    if (!b->bad)
        bytes_put_u32(b, crc32c(0, b->p + at, b->len - at));
}

uint8_t bytes_get_u8(struct slice *s)
{
    uint8_t v = 0;

    slice_copy(s, &v, sizeof(v));
    return v;
}

uint16_t bytes_get_u16(struct slice *s)
{
    uint16_t v = 0;

    slice_copy(s, &v, sizeof(v));
    return v;
}

uint32_t bytes_get_u32(struct slice *s)
{
    uint32_t v = 0;

    slice_copy(s, &v, sizeof(v));
    return v;
}

uint64_t bytes_get_u64(struct slice *s)
{
    uint64_t v = 0;

    slice_copy(s, &v, sizeof(v));
    return v;
}

void bytes_get_text(struct slice *s, char *to, size_t cap)
{
    size_t n = bytes_get_u8(s);
    const char *p = n < cap ? slice_take(s, n) : NULL;

    memset(to, 0, cap);
    if (!p || memchr(p, 0, n))
        s->bad = true;
    else
        memcpy(to, p, n);
}

bool bytes_unseal(struct slice *s, const void *p, size_t n)
{
    uint32_t crc = 0;

    *s = slice_of(p, n);
    if (n < sizeof(crc)) {
        s->bad = true;
        return false;
    }
    s->len -= sizeof(crc);
    memcpy(&crc, s->p + s->len, sizeof(crc));
    s->bad = crc32c(0, s->p, s->len) != crc;
    return !s->bad;
}
