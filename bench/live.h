/* SPDX-License-Identifier: Apache-2.0
 *
 * What a run tells while it goes on through losses: a line of JSON on stdout a
 * few times a second, for a program to read (bench/demo_cluster.py).
 *
 *     {"s": 1.25, "requests": 80, "refs": 2011, "could": 830, "hits": 812,
 *      "wrong": 0, "bytes": 32948224, "slowest_ms": 3.1, "redirects": 4,
 *      "failovers": 0, "open": 0, "errors": {"RETRY": 2}}
 *
 * Counts are since the beginning; slowest_ms is the longest call since the last
 * line. could: hits of a cache that loses nothing. errors are items whose
 * answer was neither theirs nor a miss: a run that lives with losses takes them
 * as misses. open: nodes that are not asked now.
 *
 * A run of this kind ends on SIGTERM or SIGINT, when what is under way is done.
 * One thread. */
#ifndef BENCH_LIVE_H
#define BENCH_LIVE_H

#include "bench/bench.h"
#include "client/pikv.h"

enum { LIVE_ERRORS = 64 };

struct live {
    uint64_t errors[LIVE_ERRORS]; /* by -status */
    uint64_t begun_ns, told_ns, slowest_ns;
};

struct live_counts {
    uint64_t requests, refs, could, hits, wrong, bytes;
};

/* watched: SIGTERM and SIGINT are taken as said above. */
void live_begin(struct live *l, bool watched);
/* It was told to end. */
bool live_ended(void);
/* One item's answer: counted if it is an error. */
void live_item(struct live *l, int status);
void live_call(struct live *l, uint64_t ns);
/* Prints a line if it is time, or at once. */
void live_tell(struct live *l, struct pikv *kv, const struct live_counts *c,
               bool at_once);

#endif
