/* SPDX-License-Identifier: Apache-2.0
 *
 * Online miss-ratio curve: what share of the accesses would an LRU cache of any
 * size serve? Fixed-size SHARDS (Waldspurger et al., FAST 2015): only blocks
 * whose hash is below a threshold are followed, a bounded number of them; when
 * there are too many, the threshold falls.
 *
 *   access --hash >= threshold--> counted as one of all, nothing else
 *      | below: rate = threshold / 2^32
 *      v
 *   distance = pages of the sampled blocks used since its last use, / rate
 *            = pages an LRU cache needs to have it still
 *   histogram by distance; a sampled access counts 1 / rate
 *
 * Invariants: at most samples_max blocks are followed; memory is taken by
 * mrc_init alone (address space, touched as it is used: 80 bytes a sample); an
 * access that is not sampled costs a compare and an addition, a sampled one
 * O(log samples_max), amortised.
 *
 * The curve is that of one LRU order over all uses, in pages as the policies
 * count them. It answers what twice the memory would give, not what another
 * policy would; leaves before roots is not in it, which costs LRU little. The
 * rate never rises: blocks that lie further back than the largest cache asked
 * about are forgotten first.
 *
 * Thread: one lane. mrc_curve gives counts, which lanes may add up for the same
 * fraction of each. Integers only; deterministic. */
#ifndef STORE_MRC_H
#define STORE_MRC_H

#include "base/err.h"

enum {
    MRC_SAMPLES_MIN = 64,
    MRC_SAMPLES_MAX = 1 << 20,
    MRC_BINS = 34 * 16, /* of distances up to 2^37 pages, 16 to an octave */
};

struct mrc_sample {
    uint32_t high, low; /* of the hash; high is below the threshold */
    uint32_t at;        /* its place in the order of use */
    uint32_t pages;
    uint32_t next; /* in its bucket or among the free, sample + 1 */
};

struct mrc {
    struct mrc_sample *samples;
    uint64_t *sums;    /* Fenwick tree of the pages by place, from 1 */
    uint32_t *order;   /* by place: sample + 1; 0 where it moved on */
    uint32_t *buckets; /* first sample + 1 */
    uint32_t samples_max, samples_n, fresh, free;
    uint32_t bucket_mask, places, used; /* of order: there are, were given */
    uint64_t threshold;                 /* of 2^32 */
    uint64_t pages;                     /* of all samples */
    uint64_t max_pages;
    uint64_t accesses, sampled, hits[MRC_BINS]; /* the latter in 1/256 */
    size_t mem_bytes;
};

/* What a cache of bytes would have given. */
struct mrc_point {
    uint64_t bytes;
    uint64_t hits, accesses;
};

/* max_bytes: the largest cache that will be asked about. ERR_NO_MEMORY. */
must_check enum err mrc_init(struct mrc *m, uint32_t samples_max,
                             uint64_t max_bytes);
void mrc_fini(struct mrc *m); /* accepts zeros */
/* A use or a miss of the block with this hash (catalog's, its low half). */
void mrc_access(struct mrc *m, uint64_t hash, uint32_t pages);
/* Fills hits and accesses for each points[i].bytes. */
void mrc_curve(const struct mrc *m, struct mrc_point *points, uint32_t n);
/* Halves all counts, so that the curve follows what is now. */
void mrc_fade(struct mrc *m);

#endif
