/* SPDX-License-Identifier: Apache-2.0
 *
 * Plays the simulated cluster (lib/csim.h) with seeds.
 *
 *     sim_cluster [SEED=n] [SEEDS=n] [MS=n] [VOTERS=n] [NODES=n] [VERBOSE=1]
 *
 * The last line is "N passed, N failed". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/csim.h"

static struct csim_cfg play_cfg(uint64_t seed, uint32_t voters, uint32_t nodes)
{
    return (struct csim_cfg){
        .seed = seed,
        .voters = voters,
        .nodes = nodes,
        .clients = 8,
        .latency_us = 500,
        .faults = seed % 10 != 0,
        .fig8 = seed % 10 == 1,
        .commands = true,
    };
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, seeds = 10, ms = 15000;
    uint32_t voters = 5, nodes = 20, failed = 0;
    bool verbose = false;

    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "SEED=", 5) == 0)
            seed = strtoull(argv[i] + 5, NULL, 0);
        else if (strncmp(argv[i], "SEEDS=", 6) == 0)
            seeds = strtoull(argv[i] + 6, NULL, 0);
        else if (strncmp(argv[i], "MS=", 3) == 0)
            ms = strtoull(argv[i] + 3, NULL, 0);
        else if (strncmp(argv[i], "VOTERS=", 7) == 0)
            voters = (uint32_t)strtoul(argv[i] + 7, NULL, 0);
        else if (strncmp(argv[i], "NODES=", 6) == 0)
            nodes = (uint32_t)strtoul(argv[i] + 6, NULL, 0);
        else if (strncmp(argv[i], "VERBOSE=", 8) == 0)
            verbose = argv[i][8] == '1';
    }
    for (uint64_t k = 0; k < seeds; k++) {
        struct csim *s = calloc(1, sizeof(*s));
        struct csim_cfg cfg = play_cfg(seed + k, voters, nodes);
        const char *why;

        cfg.verbose = verbose;
        csim_init(s, &cfg);
        csim_run(s, ms);
        csim_heal(s);
        for (uint32_t i = 0; i < 40; i++) {
            csim_run(s, ms + 500 * (i + 1));
            why = csim_unsettled(s);
            if (!why && i >= 4)
                break;
        }
        if (!why)
            why = csim_wrong(s);
        printf("seed %llu: %s at %.1f s; %llu reads %llu hits %llu lost, %llu redirects, %llu pulls, %llu moves, %llu epochs, %llu/%llu acked, %llu msgs, %llu MB, %llu views, crashes %llu, hash %016llx\n",
               (unsigned long long)(seed + k), why ? why : "ok",
               (double)s->now_us / 1e6, (unsigned long long)s->stats.reads,
               (unsigned long long)s->stats.hits,
               (unsigned long long)s->stats.lost,
               (unsigned long long)s->stats.redirects,
               (unsigned long long)s->stats.pulls,
               (unsigned long long)s->stats.moves,
               (unsigned long long)s->stats.epochs,
               (unsigned long long)s->stats.acked,
               (unsigned long long)s->stats.commands,
               (unsigned long long)s->stats.messages,
               (unsigned long long)s->stats.bytes >> 20,
               (unsigned long long)s->stats.views_sent,
               (unsigned long long)s->stats.crashes,
               (unsigned long long)s->hash);
        failed += why != NULL;
        csim_fini(s);
        free(s);
    }
    printf("%llu passed, %u failed\n", (unsigned long long)(seeds - failed), failed);
    return failed != 0;
}
