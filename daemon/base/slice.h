/* SPDX-License-Identifier: Apache-2.0
 *
 * Bounds-checked reader and writer: the only pointer arithmetic on input.
 * After the first overrun a slice is bad and yields nothing, so a parser may
 * check once at the end. */
#ifndef BASE_SLICE_H
#define BASE_SLICE_H

#include <string.h>

#include "base/base.h"

struct slice {
    const uint8_t *p;
    size_t len; /* bytes left */
    bool bad;
};

static inline struct slice slice_of(const void *p, size_t len)
{
    return (struct slice){p, len, false};
}

/* The next n bytes, borrowed, or NULL. n = 0 gives a non-NULL pointer unless
 * the slice is bad or was made from NULL. */
static inline const void *slice_take(struct slice *s, size_t n)
{
    const uint8_t *p = s->p;

    if (s->bad || n > s->len) {
        s->bad = true;
        return NULL;
    }
    s->p += n;
    s->len -= n;
    return p;
}

/* Copies the next n bytes; false and nothing written on overrun. */
static inline bool slice_copy(struct slice *s, void *to, size_t n)
{
    const void *p = slice_take(s, n);

    if (!p)
        return false;
    memcpy(to, p, n);
    return true;
}

struct slice_out {
    uint8_t *p;
    size_t len; /* bytes used */
    size_t cap;
    bool bad;
};

/* Room for n more bytes, or NULL. */
static inline void *slice_grow(struct slice_out *o, size_t n)
{
    uint8_t *p = o->p + o->len;

    if (o->bad || n > o->cap - o->len) {
        o->bad = true;
        return NULL;
    }
    o->len += n;
    return p;
}

static inline bool slice_put(struct slice_out *o, const void *from, size_t n)
{
    void *p = slice_grow(o, n);

    if (!p)
        return false;
    if (n)
        memcpy(p, from, n);
    return true;
}

#endif
