/* SPDX-License-Identifier: Apache-2.0
 *
 * A reuse trace: requests, each with the ids of its prompt blocks in order.
 * Reads the Mooncake format (bench/traces/README.md), one JSON object a line,
 * plain or gzipped. An id stands for a block with its whole prefix, so a block
 * has one parent: the block before it in any request.
 *
 * Ids are renumbered 0, 1, ... by first appearance; names[] has the file's. */
#ifndef BENCH_TRACE_H
#define BENCH_TRACE_H

#include "base/err.h"

#define BENCH_TRACE_NONE UINT32_MAX

enum { BENCH_TRACE_BYTES_MAX = 1 << 30 };

struct bench_request {
    uint64_t at_ms;
    uint32_t input_tokens, output_tokens;
    uint32_t first, n; /* its blocks: ids[first .. first + n) */
};

struct bench_trace {
    struct bench_request *requests;
    uint32_t requests_n;
    uint32_t *ids;
    uint32_t ids_n;
    uint64_t *names;  /* of block 0 .. blocks - 1, as in the file */
    uint32_t *parent; /* of each block; BENCH_TRACE_NONE for a first one */
    uint32_t blocks;
};

/* ERR_IO: cannot be read; ERR_CONFIG: not this format (line named), or no block
 * in it; ERR_LIMIT: larger than BENCH_TRACE_BYTES_MAX; ERR_NO_MEMORY. */
must_check enum err bench_trace_load(const char *path, struct bench_trace *out,
                                     struct errmsg *m);
void bench_trace_free(struct bench_trace *t); /* accepts zeros */

#endif
