/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs of bytes out of one registered memory: what values pass through. A bit
 * per SPACE_UNIT, first fit. Pure; the door's thread. */
#ifndef DOOR_SPACE_H
#define DOOR_SPACE_H

#include "base/err.h"

enum { SPACE_UNIT = 4096 };

struct space {
    uint8_t *p; /* of the caller */
    uint64_t *used;
    uint32_t units, low, free; /* low: no unit below is free */
};

/* Bytes of it; n 0: none. Whoever has it gives it back. */
struct room {
    uint32_t first, n;
};

must_check enum err space_init(struct space *s, void *p, uint64_t bytes);
void space_fini(struct space *s); /* accepts zeros */
/* false: no run is long enough now. bytes is at least 1. */
bool space_take(struct space *s, uint64_t bytes, struct room *out);
void space_give(struct space *s, struct room *r); /* leaves none */
/* Gives back what is behind the first bytes of it, at least 1. */
void space_trim(struct space *s, struct room *r, uint64_t bytes);

static inline uint8_t *space_at(const struct space *s, const struct room *r)
{
    return s->p + (uint64_t)r->first * SPACE_UNIT;
}

static inline uint64_t room_bytes(const struct room *r)
{
    return (uint64_t)r->n * SPACE_UNIT;
}

#endif
