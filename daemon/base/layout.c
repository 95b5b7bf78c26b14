/* SPDX-License-Identifier: Apache-2.0
 *
 * Layouts checked once and walked often (layout.h). Runs whose pieces touch are
 * one piece from the start. */
#include "base/layout.h"

#include "base/base.h"

/* Fills in run r from what was given; reach is how far from a base any run goes
 * so far. */
static enum err run_init(struct layout *l, struct layout_run *r,
                         uint64_t *reach)
{
    uint64_t end, last, bytes;

    if (r->n == 0 || r->len == 0 || (r->n > 1 && r->stride < r->len))
        return ERR_BAD_REQUEST;
    if (r->n > 1 && r->stride == r->len) {
        if (__builtin_mul_overflow(r->len, r->n, &r->len))
            return ERR_BAD_REQUEST;
        r->n = 1;
    }
    if (r->n > LAYOUT_PIECES - l->pieces)
        return ERR_LIMIT;
    l->pieces += (uint32_t)r->n;
    r->stride = r->n > 1 ? r->stride : 0;
    if (__builtin_mul_overflow(r->stride, r->n - 1, &last) ||
        __builtin_add_overflow(last, r->off, &end) ||
        __builtin_add_overflow(end, r->len, &end) ||
        __builtin_mul_overflow(r->len, r->n, &bytes) ||
        __builtin_add_overflow(bytes, l->bytes, &bytes))
        return ERR_BAD_REQUEST;
    r->at = l->bytes;
    l->bytes = bytes;
    *reach = max_u64(*reach, end);
    return OK;
}

/* The base that lies farthest back. */
static enum err base_max(const struct layout *l, uint64_t *out)
{
    uint64_t far = 0;

    for (uint32_t b = 0; l->table && b < l->block_n; b++)
        far = max_u64(far, l->table[b]);
    if (!l->table &&
        __builtin_mul_overflow(l->block_stride, l->block_n - UINT64_C(1), &far))
        return ERR_BAD_REQUEST;
    *out = far;
    return OK;
}

enum err layout_init(struct layout *l, const struct layout_run *runs,
                     uint32_t run_n, uint64_t pool_off, uint64_t block_stride,
                     const uint64_t *table, uint32_t block_n,
                     uint64_t mem_bytes)
{
    uint64_t reach = 0, end;
    enum err e = OK;

    if (run_n == 0 || block_n == 0)
        return ERR_BAD_REQUEST;
    if (run_n > LAYOUT_RUNS)
        return ERR_LIMIT;
    l->run_n = run_n;
    l->block_n = block_n;
    l->pool_off = pool_off;
    l->block_stride = block_stride;
    l->table = table;
    l->bytes = l->pieces = 0;
    for (uint32_t i = 0; i < run_n && !e; i++) {
        l->runs[i] = runs[i];
        e = run_init(l, &l->runs[i], &reach);
    }
    if (!e)
        e = base_max(l, &end);
    if (e)
        return e;
    if (__builtin_add_overflow(end, pool_off, &end) ||
        __builtin_add_overflow(end, reach, &end) || end > mem_bytes)
        return ERR_BAD_REQUEST;
    return OK;
}

uint64_t layout_piece(const struct layout *l, uint64_t base, uint64_t pos,
                      uint64_t *off_out)
{
    const struct layout_run *r = l->runs;
    uint64_t i = 0, in;

    while (r + 1 < l->runs + l->run_n && pos >= r[1].at)
        r++;
    in = pos - r->at;
    if (r->n > 1) {
        i = in / r->len;
        in -= i * r->len;
    }
    *off_out = base + r->off + i * r->stride + in;
    return r->len - in;
}
