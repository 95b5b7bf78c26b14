/* SPDX-License-Identifier: Apache-2.0
 *
 * The state of pikv-bench replay, for the part that plays (replay.c) and the
 * part that tells (replay_report.c). */
#ifndef BENCH_REPLAY_H
#define BENCH_REPLAY_H

#include "bench/bench.h"
#include "bench/live.h"
#include "client/pikv.h"
#include "bench/trace.h"

enum { BATCH = 32, TOKENS_PER_BLOCK = 512, KEY_BYTES = 24, PARTS_MAX = 100 };

enum phase { LOOKUP, GET, PUT, PHASES };
extern const char *const phase_names[PHASES];

struct replay_options {
    const char *address, *trace, *json, *policy, *rows;
    uint64_t block_bytes, from, limit;
    uint64_t put_rate; /* bytes per second; 0: as fast as it goes */
    uint32_t depth, parts;
    int pid;
    double prefill_rate; /* tokens per second */
    uint32_t pace;       /* requests a second at most; 0: as fast as it goes */
    bool quiet, plan, live;
};

/* What came of the requests of one part of the piece, in order of time. */
struct replay_part {
    uint64_t refs, hits, ssd_hits;
};

struct replay_worker {
    const struct bench_request *req;
    enum phase phase;
    uint32_t done, batch, prefix; /* blocks; of this phase, in flight, hit */
    uint32_t could;               /* live: blocks that were asked for before */
    uint64_t begun_ns;
    uint8_t *data; /* BATCH blocks of registered memory */
    char (*keys)[KEY_BYTES];
    struct pikv_key *lookup;
    struct pikv_get gets[BATCH];
    struct pikv_put puts[BATCH];
    struct pikv_result *results;
};

struct replay {
    struct replay_options opt;
    struct bench_trace trace;
    struct pikv *kv;
    uint32_t ns, next, end, active; /* requests [next, end) are to come */
    struct bench_lat lat[PHASES];
    uint64_t calls[PHASES], bytes[PHASES], failed[PHASES];
    uint64_t requests, refs, hits, evicted_between, verify_errors, stored;
    struct replay_part parts[PARTS_MAX];
    uint64_t begun_ns, shown_ns, put_bytes;
    struct live live;
    bool *seen; /* live: by block, asked for by a request that ended */
    uint64_t could, ended_refs;
    uint64_t started; /* requests, over all rounds */
    double cpu_s;
};

void replay_print_table(struct replay *r, double wall_s);
void replay_print_json(struct replay *r, double wall_s);
void replay_print_rows(const struct replay *r);
void replay_print_plan(const struct replay *r);
/* A line for who watches, now and then or at once (live.h). */
void replay_tell(struct replay *r, bool at_once);

#endif
