/* SPDX-License-Identifier: Apache-2.0
 *
 * Which bytes of an open block are written, and their crc32c: for a block that
 * comes in ranges from several writers. No bytes are in here, only numbers.
 *
 *              claim              done: checksum known
 *   (nothing) ------> PENDING ------------------------> DONE, one with the DONE
 *       ^                |                                    runs beside it
 *       +----------------+ drop: its bytes did not come
 *
 * Invariants
 *  1. Runs are in order, not empty, and do not overlap; no two DONE runs touch.
 *  2. The crc of a DONE run is that of its bytes; merging two computes that of
 *     both from theirs (crc32c_combine), so that nobody reads bytes again.
 *
 * A block written in order is one run, whatever its length. At most RUNS_MAX
 * are kept: enough for the pieces of eighty layers from eight ranks that come
 * in the worst order. One more is kept on its way if it will join a written
 * one, so that a full list can become whole. */
#ifndef STORE_RUNS_H
#define STORE_RUNS_H

#include "base/err.h"

enum { RUNS_MAX = 1024 };

struct run {
    uint32_t off, len, crc;
    bool pending;
};

struct runs {
    uint32_t n, pending_n;
    struct run at[RUNS_MAX + 1];
};

void runs_init(struct runs *r);
/* Takes [off, off + len), len > 0, at most 4 GiB in all, for a writer that will
 * say done or drop. EXISTS: all of it is written; PENDING: all of it is within
 * a range under way; BAD_REQUEST: it overlaps another range; LIMIT: too many
 * runs that do not touch; BUSY: too many, of which some are under way. */
must_check enum err runs_claim(struct runs *r, uint64_t off, uint64_t len);
/* The claimed range that begins at off. */
void runs_done(struct runs *r, uint64_t off, uint32_t crc);
void runs_drop(struct runs *r, uint64_t off);
/* Are all of len bytes written? Then their crc. */
bool runs_whole(const struct runs *r, uint64_t len, uint32_t *crc_out);

#endif
