/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks that are no single run of memory: where their bytes lie.
 *
 *     block b    base = table[b], or b * block_stride
 *     a run      n pieces of len bytes, off + i * stride from the base
 *     block      the pieces of its runs in order: byte k of the block is byte k
 *                of them
 *
 * Offsets are from pool_off in one memory. What layout_init has accepted lies
 * within it, whole and without overflow, so that a piece needs no check. Used
 * by both ends: the daemon expands what a request names, libpikv does where the
 * daemon cannot. No state, no allocation. */
#ifndef BASE_LAYOUT_H
#define BASE_LAYOUT_H

#include "base/err.h"

enum { LAYOUT_RUNS = 16, LAYOUT_PIECES = 1024 };

struct layout_run {
    uint64_t off, len, stride, n;
    uint64_t at; /* where in the block its first byte is; filled in */
};

struct layout {
    uint32_t mem; /* the owner's name of the memory */
    uint32_t run_n, block_n;
    uint32_t pieces; /* of a block */
    uint64_t pool_off, block_stride;
    uint64_t bytes;        /* of a block */
    const uint64_t *table; /* borrowed: block_n bases; or NULL */
    struct layout_run runs[LAYOUT_RUNS];
};

/* Checks and fills l but mem. BAD_REQUEST: nothing in it, overlapping pieces, a
 * block that is not within mem_bytes; LIMIT: too many runs or pieces. */
must_check enum err layout_init(struct layout *l, const struct layout_run *runs,
                                uint32_t run_n, uint64_t pool_off,
                                uint64_t block_stride, const uint64_t *table,
                                uint32_t block_n, uint64_t mem_bytes);

/* Where block b < block_n begins. */
static inline uint64_t layout_base(const struct layout *l, uint32_t b)
{
    return l->pool_off + (l->table ? l->table[b] : b * l->block_stride);
}

/* Byte pos < bytes of the block at base: its offset in the memory, and how many
 * bytes of the block follow there in a row, itself included. */
uint64_t layout_piece(const struct layout *l, uint64_t base, uint64_t pos,
                      uint64_t *off_out);

#endif
