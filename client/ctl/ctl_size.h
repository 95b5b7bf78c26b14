/* SPDX-License-Identifier: Apache-2.0
 *
 * What `size` knows: how often accesses hit with so many bytes. */
#ifndef CTL_CTL_SIZE_H
#define CTL_CTL_SIZE_H

#include "client/ctl/ctl.h"

struct size_point {
    double bytes, hit_ratio;
};

/* points: of growing bytes. Begins at 0 bytes with no hits; goes on as it is
 * after its last point. */
struct size_curve {
    struct size_point *points;
    size_t n;
    uint64_t accesses, sampled;
};

void size_curve_free(struct size_curve *v);
/* ctl_size_trace.c: the exact curve of an LRU cache for the accesses of a
 * trace; file "-" is standard input. */
int size_trace(const char *file, uint64_t block_bytes, struct size_curve *out);

#endif
