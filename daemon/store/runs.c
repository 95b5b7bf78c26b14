/* SPDX-License-Identifier: Apache-2.0
 *
 * A sorted array and binary search (runs.h). Ranges mostly come in order, so
 * most insertions move nothing. */
#include "store/runs.h"

#include <string.h>

#include "base/hash.h"

static uint64_t run_end(const struct run *u)
{
    return (uint64_t)u->off + u->len;
}

void runs_init(struct runs *r)
{
    r->n = r->pending_n = 0;
}

/* The first run that ends behind off; r->n if none does. */
static uint32_t runs_at(const struct runs *r, uint64_t off)
{
    uint32_t lo = 0, hi = r->n;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (run_end(&r->at[mid]) <= off)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static struct run *runs_pending(struct runs *r, uint64_t off)
{
    struct run *u = &r->at[runs_at(r, off)];

    MUST(u < r->at + r->n);
    MUST(u->off == off && u->pending);
    return u;
}

static void runs_remove(struct runs *r, uint32_t i)
{
    r->n--;
    memmove(&r->at[i], &r->at[i + 1], (r->n - i) * sizeof *r->at);
}

/* Makes run i and the one behind it one, if both are written and touch. */
static void runs_merge(struct runs *r, uint32_t i)
{
    struct run *a = &r->at[i], *b = a + 1;

    if (i + 1 >= r->n || a->pending || b->pending || run_end(a) != b->off)
        return;
    a->crc = crc32c_combine(a->crc, b->crc, b->len);
    a->len += b->len;
    runs_remove(r, i + 1);
}

/* Will a range before run i become one with a written run beside it? */
static bool runs_joins(const struct runs *r, uint32_t i, uint64_t off,
                       uint64_t len)
{
    const struct run *u = &r->at[i];

    if (i < r->n && u->off == off + len && !u->pending)
        return true;
    return i > 0 && run_end(u - 1) == off && !u[-1].pending;
}

enum err runs_claim(struct runs *r, uint64_t off, uint64_t len)
{
    uint32_t i = runs_at(r, off);
    const struct run *u = &r->at[i];

    MUST(len > 0 && len <= UINT32_MAX && off <= UINT32_MAX - len);
    if (i < r->n && u->off < off + len) { /* they share bytes */
        if (u->off > off || run_end(u) < off + len)
            return ERR_BAD_REQUEST;
        return u->pending ? ERR_PENDING : ERR_EXISTS;
    }
    if (r->n > RUNS_MAX || (r->n == RUNS_MAX && !runs_joins(r, i, off, len)))
        return r->pending_n ? ERR_BUSY : ERR_LIMIT;
    memmove(&r->at[i + 1], &r->at[i], (r->n - i) * sizeof *r->at);
    r->at[i] = (struct run){(uint32_t)off, (uint32_t)len, 0, true};
    r->n++;
    r->pending_n++;
    return OK;
}

void runs_done(struct runs *r, uint64_t off, uint32_t crc)
{
    struct run *u = runs_pending(r, off);
    uint32_t i = (uint32_t)(u - r->at);

    u->crc = crc;
    u->pending = false;
    r->pending_n--;
    runs_merge(r, i);
    if (i > 0)
        runs_merge(r, i - 1);
}

void runs_drop(struct runs *r, uint64_t off)
{
    struct run *u = runs_pending(r, off);

    r->pending_n--;
    runs_remove(r, (uint32_t)(u - r->at));
}

bool runs_whole(const struct runs *r, uint64_t len, uint32_t *crc_out)
{
    const struct run *u = &r->at[0];

    if (r->n != 1 || u->pending || u->off != 0 || u->len != len)
        return false;
    *crc_out = u->crc;
    return true;
}
