/* SPDX-License-Identifier: Apache-2.0
 *
 * The staging area: one sealed memfd through which bytes of memory that is not
 * registered pass. Runs of STAGE_UNIT bytes, found next-fit in a bitmap; a
 * request takes one run for all its items and gives it back when its part is
 * freed, never earlier (handle.h, invariant 3). Pages cost nothing until first
 * used. With kv->mu. */
#include <stdlib.h>
#include <string.h>

#include "client/handle.h"

int staging_init(struct pikv *kv, uint64_t bytes)
{
    struct staging *s = &kv->staging;
    void *addr;
    int fd, e;

    bytes = align_up(bytes, (uint64_t)STAGE_UNIT * 64);
    s->units = (uint32_t)(bytes / STAGE_UNIT);
    s->used = calloc(s->units / 64, sizeof(uint64_t));
    if (!s->used)
        return ERR_NO_MEMORY;
    e = region_memfd(bytes, &addr, &fd);
    if (e)
        return e;
    s->region = region_new(kv, fd, 0, bytes, addr, true, false);
    return s->region ? OK : ERR_NO_MEMORY;
}

/* The region goes with all others. */
void staging_fini(struct pikv *kv)
{
    free(kv->staging.used);
    kv->staging.used = NULL;
}

static bool staging_is_used(const struct staging *s, uint32_t i)
{
    return s->used[i / 64] >> (i % 64) & 1;
}

/* First run of n free units in from..to, or to. */
static uint32_t staging_scan(const struct staging *s, uint32_t from,
                             uint32_t to, uint32_t n)
{
    uint32_t run = 0;

    for (uint32_t i = from; i < to; i++) {
        if (i % 64 == 0 && s->used[i / 64] == UINT64_MAX) {
            run = 0;
            i += 63;
            continue;
        }
        run = staging_is_used(s, i) ? 0 : run + 1;
        if (run == n)
            return i + 1 - n;
    }
    return to;
}

static void staging_mark(struct staging *s, uint32_t first, uint32_t n)
{
    for (uint32_t i = first; i < first + n; i++)
        s->used[i / 64] ^= UINT64_C(1) << (i % 64);
}

bool staging_take(struct staging *s, uint64_t bytes, struct stage *out)
{
    uint64_t n = (bytes + STAGE_UNIT - 1) / STAGE_UNIT;
    uint32_t first;

    if (n == 0 || n > s->units)
        return false;
    first = staging_scan(s, s->next, s->units, (uint32_t)n);
    if (first == s->units) {
        first = staging_scan(s, 0, s->units, (uint32_t)n);
        if (first == s->units)
            return false;
    }
    staging_mark(s, first, (uint32_t)n);
    s->used_n += (uint32_t)n;
    *out = (struct stage){first, (uint32_t)n};
    s->next = first + (uint32_t)n;
    if (s->next >= s->units)
        s->next = 0;
    return true;
}

void staging_give(struct staging *s, struct stage *st)
{
    if (!st->n)
        return;
    staging_mark(s, st->first, st->n);
    s->used_n -= st->n;
    *st = (struct stage){0, 0};
}
