/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes to a layout's registration: what layout_init accepts lies within the
 * memory, every piece of every block, and the pieces add up to the block. */
#include <string.h>

#include "base/base.h"
#include "base/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TABLE = 8, WALKS = 64 };

/* The next n bytes, 0 where there are none left. */
static uint64_t take(const uint8_t **p, const uint8_t *end, size_t n)
{
    uint64_t v = 0;

    for (size_t i = 0; i < n && *p < end; i++)
        v |= (uint64_t) * (*p)++ << (8 * i);
    return v;
}

/* Mostly small, so that something is accepted. */
static uint64_t number(const uint8_t **p, const uint8_t *end)
{
    uint64_t how = take(p, end, 1);

    return take(p, end, how < 128 ? 1 : how < 224 ? 2 : how < 240 ? 4 : 8);
}

static void walk(const struct layout *l, uint32_t block, uint64_t mem_bytes)
{
    uint64_t base = layout_base(l, block), pos = 0, off;

    for (uint32_t i = 0; pos < l->bytes; i++) {
        uint64_t n = layout_piece(l, base, pos, &off);

        MUST(i < LAYOUT_PIECES && n > 0 && n <= l->bytes - pos);
        MUST(off <= mem_bytes && n <= mem_bytes - off);
        MUST(layout_piece(l, base, pos + n - 1, &off) == 1);
        pos += n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *p = data, *end = data + size;
    struct layout_run runs[LAYOUT_RUNS + 1];
    uint64_t table[TABLE], mem_bytes = number(&p, end) * 64;
    uint64_t pool_off = number(&p, end), stride = number(&p, end);
    uint32_t run_n = (uint32_t)take(&p, end, 1) % (LAYOUT_RUNS + 2);
    uint32_t block_n = (uint32_t)number(&p, end);
    bool tabled = take(&p, end, 1) & 1;
    struct layout l;

    for (uint32_t i = 0; i < LAYOUT_RUNS + 1; i++)
        runs[i] = (struct layout_run){number(&p, end), number(&p, end),
                                      number(&p, end), number(&p, end), 0};
    for (uint32_t i = 0; i < TABLE; i++)
        table[i] = number(&p, end);
    if (tabled)
        block_n %= TABLE + 1;
    if (layout_init(&l, runs, run_n, pool_off, stride, tabled ? table : NULL,
                    block_n, mem_bytes))
        return 0;
    for (uint32_t i = 0; i < WALKS && i < block_n; i++) {
        walk(&l, i, mem_bytes);
        walk(&l, block_n - 1 - i, mem_bytes);
    }
    return 0;
}
