/* SPDX-License-Identifier: Apache-2.0
 *
 * Bulk copies. copy_stream writes past the caches: right where the destination
 * is not read soon or is larger than a cache share (COPY_STREAM_MIN). Below
 * that memcpy leaves the bytes where their reader finds them. SIMD is chosen
 * once at run time (AVX-512, AVX2, plain); all give the same bytes and the same
 * crc. */
#ifndef BASE_COPY_H
#define BASE_COPY_H

#include "base/base.h"

enum { COPY_STREAM_MIN = 1 << 20 };

/* to and from do not overlap. Ordered before the return (sfence done). */
void copy_stream(void *to, const void *from, size_t n);
/* copy_stream, and the crc32c of the bytes continued from crc, in one pass:
 * each 4 KiB is checksummed and stored while it is in L1, so that what is
 * stored is what was checksummed only if the source does not change meanwhile;
 * so the crc is taken of the copied bytes held in registers or L1, never
 * re-read from a source another process can write: see copy.c. */
uint32_t copy_crc(void *to, const void *from, size_t n, uint32_t crc);
/* "avx512", "avx2" or "plain": for STAT and logs. */
const char *copy_kind(void);
/* Tests and the simulator: force a kind; false if the CPU lacks it. */
bool copy_force(const char *kind);

#endif
