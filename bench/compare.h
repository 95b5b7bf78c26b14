/* SPDX-License-Identifier: Apache-2.0
 *
 * What a comparison measured: one cell for each question and variant, one
 * value a round. Ratios are taken round by round, because rounds of all
 * variants of a question are interleaved and noise comes in stretches. */
#ifndef BENCH_COMPARE_H
#define BENCH_COMPARE_H

#include <stdio.h>

#include "bench/rivals.h"

enum { COMPARE_ROUNDS = 15, COMPARE_CELLS = 1024, COMPARE_SIZES = 6 };
enum { COMPARE_CLIENTS = 4, COMPARE_CLIENT_DEPTH = 8, COMPARE_LOOKUP = 128 };

enum variant {
    V_SHM,
    V_LOAN,
    V_UCX,
    V_REDIS_UNIX,
    V_REDIS_TCP,
    V_MC_UNIX,
    V_MC_TCP,
    V_PLAIN_UNIX,
    V_PLAIN_TCP,
    V_MEMCPY,
    V_NT,
    V_CRC,
    VARIANTS,
};
extern const char *const compare_names[VARIANTS];

enum metric { M_GBPS, M_P50, M_P99, M_PER_S, METRICS };

struct cell {
    struct load_shape shape;
    enum variant variant;
    uint32_t clients, rounds;
    double value[METRICS][COMPARE_ROUNDS];
    double server_cpu_s, client_cpu_s;
    uint64_t items, bytes, failed, wrong;
};

struct memory {
    uint64_t size, blocks, beyond, tiers;
};

struct results {
    struct cell cells[COMPARE_CELLS];
    uint32_t n;
    uint64_t sizes[COMPARE_SIZES];
    uint32_t size_n;
    struct memory memory[COMPARE_SIZES];
    uint32_t memory_n;
    uint64_t arena;
    uint32_t rounds;
    double seconds_each; /* of one run */
    bool quick, own_network;
    uint64_t failed, wrong;
    double others[COMPARE_CELLS]; /* CPU of others, cores, each run in turn */
    uint32_t others_n;
    double others_worst, steal_s, wall_s;
    char absent[256]; /* variants that could not run, and why */
};

enum server { S_PIKVD, S_REDIS, S_MC_UNIX, S_MC_TCP, S_PLAIN, SERVERS };

#define COMPARE_ALL ((1u << VARIANTS) - 1)

/* A comparison under way. */
struct compare {
    struct results res;
    const char *dir, *pikvd, *markdown;
    struct rival servers[SERVERS];
    uint8_t *arena;
    struct load_target targets[VARIANTS];
    char addresses[VARIANTS][128];
    char spaces[2][32];
    struct load_conn *conns[VARIANTS];
    uint32_t usable; /* variants */
    struct load_result scratch;
};

/* Everything about one block size, into c->res. */
void compare_size(struct compare *c, uint64_t size);

/* The cell of a question, or NULL. */
struct cell *results_find(struct results *r, const struct load_shape *s,
                          uint32_t clients, enum variant v);
double cell_median(const struct cell *c, enum metric m);
/* Median over the rounds of a / b. */
double cell_ratio(const struct cell *a, const struct cell *b, enum metric m);

/* All tables, as Markdown. */
void compare_report(struct results *r, FILE *out);

#endif
