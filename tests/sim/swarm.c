/* SPDX-License-Identifier: Apache-2.0
 *
 * Plays the simulator with seeds. Each seed runs twice and must give the same
 * trace hash, the second time with another copy kind where the CPU has one, so
 * that AVX2 and AVX-512 agree.
 *
 *     sim_swarm [SEED=n] [STEPS=n] [SEEDS=n]
 *
 * The last line is "N passed, N failed". A seed that fails prints how to see it
 * again and aborts, so that a debugger stands where it happened. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/copy.h"
#include "base/log.h"
#include "lib/sim.h"

static const char *now_playing = "";

static void swarm_failed(void)
{
    fprintf(stderr, "sim: failed; again with: make sim %s\n", now_playing);
}

static struct sim_cfg swarm_cfg(uint64_t seed, uint64_t steps)
{
    static const char *const policies[] = {"lru", "s3fifo", "arc", "lhd"};
    static const uint64_t mib[] = {16, 24, 48};
    /* Three of four have SSDs, half of these sound ones. */
    bool ssd = seed / 2 % 4 != 0, sound = seed % 2;

    return (struct sim_cfg){
        .seed = seed,
        .steps = steps,
        .lanes = 1 + (uint32_t)(seed % SIM_LANES_MAX),
        .dram_bytes = MIB(mib[seed % countof(mib)]),
        .fault_pct = seed % 5 == 0 ? 0 : (uint32_t)(seed % 5),
        .policy = policies[seed / 4 % countof(policies)],
        .ssds = ssd ? 1 + (uint32_t)(seed / 3 % 2) : 0,
        .restarts = ssd ? 3 : 0,
        .ssd_bytes = MIB(seed % 3 ? 96 : 48),
        .segment_bytes = MIB(1) << seed % 3,
        .disk_fault =
            sound ? SIM_DISK_SOUND
                  : 1 + (enum sim_disk_fault)(seed / 2 % (SIM_DISK_FAULTS - 1)),
        .second_touch = seed % 5 == 1,
        .write_buffer = seed % 7 == 1,
        .budget = seed % 6 == 5,
    };
}

static void swarm_print(const struct sim *s, uint64_t hash)
{
    const struct sim_cfg *c = &s->cfg;
    const struct model *m = s->model;

    printf("seed %llu lanes %u faults %u%% policy %s: %llu calls, %llu lost, "
           "%llu puts, %llu gets, %llu MiB checked",
           (unsigned long long)c->seed, c->lanes, c->fault_pct, c->policy,
           (unsigned long long)s->calls_done, (unsigned long long)s->calls_lost,
           (unsigned long long)s->puts_ok, (unsigned long long)s->gets_ok,
           (unsigned long long)(m->checked_bytes >> 20));
    printf("; %llu by writers, %llu partial, %llu given up",
           (unsigned long long)s->drafts_ok,
           (unsigned long long)s->drafts_partial,
           (unsigned long long)s->drafts_given_up);
    printf(", %llu parts told", (unsigned long long)s->parts_told);
    if (c->ssds)
        printf("; %u ssd fault %d: %u lives, %llu gets from it, %llu blocks "
               "recovered, %llu durable, %llu dropped",
               c->ssds, (int)c->disk_fault, s->lives,
               (unsigned long long)s->gets_ssd,
               (unsigned long long)s->recovered,
               (unsigned long long)m->checked_durable,
               (unsigned long long)m->dropped);
    printf("; events: %llu stored, %llu removed, %llu moved, %llu cleared, "
           "%llu polled, %llu answers with loss",
           (unsigned long long)s->told[EVENT_STORED],
           (unsigned long long)s->told[EVENT_REMOVED],
           (unsigned long long)s->told[EVENT_MOVED],
           (unsigned long long)s->told[EVENT_CLEARED],
           (unsigned long long)s->polled, (unsigned long long)s->polls_lost);
    printf(", hash %016llx\n", (unsigned long long)hash);
}

static uint64_t swarm_play(const struct sim_cfg *cfg, bool print)
{
    struct sim *s = calloc(1, sizeof *s);
    uint64_t hash;

    MUST(s);
    sim_init(s, cfg);
    hash = sim_run(s);
    if (print)
        swarm_print(s, hash);
    /* A run without faults in which nothing is read proves nothing. */
    MUST(s->puts_ok > 0 && s->gets_ok > 0);
    sim_fini(s);
    free(s);
    return hash;
}

static bool swarm_seed(uint64_t seed, uint64_t steps)
{
    struct sim_cfg cfg = swarm_cfg(seed, steps);
    char playing[64];
    uint64_t a, b;

    snprintf(playing, sizeof playing, "SEED=%llu STEPS=%llu",
             (unsigned long long)seed, (unsigned long long)steps);
    now_playing = playing;
    (void)copy_force("avx512");
    a = swarm_play(&cfg, true);
    (void)copy_force("avx2");
    b = swarm_play(&cfg, false);
    if (a != b)
        printf("seed %llu: hash %016llx the second time\n",
               (unsigned long long)seed, (unsigned long long)b);
    fflush(stdout);
    return a == b;
}

static void swarm_quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, steps = 1500, seeds = 24, passed = 0, failed = 0;

    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "SEED=", 5) == 0)
            seed = strtoull(argv[i] + 5, NULL, 0);
        else if (strncmp(argv[i], "STEPS=", 6) == 0)
            steps = (uint64_t)strtod(argv[i] + 6, NULL);
        else if (strncmp(argv[i], "SEEDS=", 6) == 0)
            seeds = strtoull(argv[i] + 6, NULL, 0);
        else
            return fprintf(stderr, "usage: sim_swarm [SEED=n] [STEPS=n] "
                                   "[SEEDS=n]\n"),
                   2;
    }
    must_hook_set(swarm_failed);
    log_sink_set(swarm_quiet, NULL);
    for (uint64_t i = 0; i < seeds; i++) {
        if (swarm_seed(seed + i, steps))
            passed++;
        else
            failed++;
    }
    printf("%llu passed, %llu failed\n", (unsigned long long)passed,
           (unsigned long long)failed);
    return failed != 0;
}
