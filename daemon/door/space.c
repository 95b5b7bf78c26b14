/* SPDX-License-Identifier: Apache-2.0
 *
 * The bitmap of space.h. First fit: what is used again and again stays in the
 * processor's cache. */
#include "door/space.h"

#include <stdlib.h>

#include "base/fault.h"

enum err space_init(struct space *s, void *p, uint64_t bytes)
{
    uint64_t units = bytes / SPACE_UNIT;

    MUST(units && units < UINT32_MAX);
    *s = (struct space){.p = p, .units = (uint32_t)units};
    s->free = s->units;
    if (!fault_here("space_init"))
        s->used = calloc((units + 63) / 64, sizeof(*s->used));
    return s->used ? OK : ERR_NO_MEMORY;
}

void space_fini(struct space *s)
{
    free(s->used);
    *s = (struct space){0};
}

static bool is_used(const struct space *s, uint32_t i)
{
    return s->used[i / 64] >> (i % 64) & 1;
}

static void mark(struct space *s, uint32_t first, uint32_t n, bool used)
{
    for (uint32_t i = first; i < first + n; i++) {
        uint64_t bit = UINT64_C(1) << (i % 64);

        DEBUG_CHECK(is_used(s, i) != used);
        s->used[i / 64] = used ? s->used[i / 64] | bit : s->used[i / 64] & ~bit;
    }
    s->free = used ? s->free - n : s->free + n;
}

/* The first run of n free units within [from, to), or to. */
static uint32_t find(const struct space *s, uint32_t from, uint32_t to,
                     uint32_t n)
{
    uint32_t run = 0;

    for (uint32_t i = from; i < to; i++) {
        if (i % 64 == 0 && s->used[i / 64] == UINT64_MAX) {
            run = 0;
            i += 63;
            continue;
        }
        run = is_used(s, i) ? 0 : run + 1;
        if (run == n)
            return i + 1 - n;
    }
    return to;
}

bool space_take(struct space *s, uint64_t bytes, struct room *out)
{
    uint64_t n = (bytes + SPACE_UNIT - 1) / SPACE_UNIT;
    uint32_t at;

    MUST(bytes);
    if (n > s->free)
        return false;
    at = find(s, s->low, s->units, (uint32_t)n);
    if (at == s->units)
        return false;
    mark(s, at, (uint32_t)n, true);
    if (at == s->low)
        s->low = at + (uint32_t)n;
    *out = (struct room){at, (uint32_t)n};
    return true;
}

void space_give(struct space *s, struct room *r)
{
    mark(s, r->first, r->n, false);
    if (r->n && r->first < s->low)
        s->low = r->first;
    *r = (struct room){0};
}

void space_trim(struct space *s, struct room *r, uint64_t bytes)
{
    uint32_t n = (uint32_t)((bytes + SPACE_UNIT - 1) / SPACE_UNIT);

    MUST(n && n <= r->n);
    mark(s, r->first + n, r->n - n, false);
    if (n < r->n && r->first + n < s->low)
        s->low = r->first + n;
    r->n = n;
}
