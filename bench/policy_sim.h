/* SPDX-License-Identifier: Apache-2.0
 *
 * A cache of one or two tiers played through a trace by the daemon's own
 * eviction policies; what `pikv-bench policy` runs. See policy_sim.c. */
#ifndef BENCH_POLICY_SIM_H
#define BENCH_POLICY_SIM_H

#include "bench/trace.h"
#include "store/evict.h"

/* Who belongs to which conversation: see sessions_make. */
struct policy_sessions {
    uint32_t *session; /* of each request */
    bool *last;        /* no later request of the trace is of its session */
    uint32_t n;
};

struct policy_cfg {
    const struct bench_trace *t;
    const struct evict_ops *ops;
    const struct policy_sessions *hints; /* NULL: none are given */
    bool idle; /* hints tell idle sessions too, not only closed ones */
    uint64_t dram_blocks, ssd_blocks; /* no SSD: 0 */
    uint32_t again_pct;               /* of a segment re-inserted at most */
    uint32_t budget_pct; /* of the blocks stored written at most; 100: all */
};

struct policy_result {
    uint64_t dram_hits, ssd_hits; /* blocks, prefix hits */
    uint64_t stored;              /* blocks put */
    uint64_t writes, again;       /* blocks written to SSD, re-inserted */
    double ns_per_op;
};

/* Tells sessions from the trace alone; false when out of memory. */
bool sessions_make(const struct bench_trace *t, struct policy_sessions *out);
void sessions_free(struct policy_sessions *s); /* accepts zeros */

/* False when out of memory. */
bool policy_run(const struct policy_cfg *cfg, struct policy_result *out);
/* Prefix hits of the bound of policy_belady.c; false when out of memory. */
bool belady_run(const struct bench_trace *t, uint64_t blocks,
                uint64_t *hits_out);

#endif
