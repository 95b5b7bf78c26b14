/* SPDX-License-Identifier: Apache-2.0
 *
 * Plays the simulated cluster (lib/csim.h) with seeds.
 *
 *     sim_cluster [SEED=n] [SEEDS=n] [STEPS=ms] [VOTERS=n] [NODES=n]
 *                 [VERBOSE=1]
 *         5 voters, 20 nodes and 8 clients. Each seed: 2 s to come up, STEPS ms
 *         of faults, then all must be in order within 10 s, and nothing that
 *         was acknowledged may be lost. Every tenth seed has no faults, and
 *         must lose no block either; every tenth has only the fast changes of
 *         leaders of the Raft paper's figure 8. One of 16 begins with nothing,
 *         the others with the disks of a cluster that was stopped. The first
 *         ten run twice and must give the same hash.
 *
 *     sim_cluster NODES=1000 MINUTES=10 [SEED=n]
 *         One large cluster without clients: sim_scale.
 *
 * The last line is "N passed, N failed". A seed that fails prints how to see it
 * again. Equal seeds give equal hashes in all builds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/csim.h"
#include "lib/csim_scale.h"

enum { UP_MS = 2500, HEAL_MS = 10000, LINE_SEEDS = 50, TWICE = 10 };

struct play {
    uint64_t seed, seeds, steps_ms, minutes;
    uint32_t voters, nodes;
    bool verbose;
};

static const char *playing = "";

static void play_failed(void)
{
    fprintf(stderr, "sim_cluster failed; again with: sim_cluster %s\n",
            playing);
}

static struct csim_cfg play_cfg(const struct play *p, uint64_t seed,
                                const struct csim_past *past)
{
    return (struct csim_cfg){
        .seed = seed,
        .voters = p->voters,
        .nodes = p->nodes,
        .clients = 8,
        .latency_us = seed % 3 ? 500 : 5000,
        .faults = seed % 10 != 0,
        .fig8 = seed % 10 == 1,
        .commands = true,
        .drains = seed % 4 == 2,
        .removed_ms = seed % 7 == 3 ? 6000 : 0,
        .past = seed % 16 ? past : NULL,
        .verbose = p->verbose,
    };
}

/* In order for a second, within the time; then nothing is lost. */
static const char *play_end(struct csim *s, uint64_t end_ms)
{
    const char *why = "";
    uint32_t settled = 0;

    for (uint64_t t = 500; settled < 3 && t <= HEAL_MS; t += 500) {
        csim_run(s, end_ms + t);
        why = csim_unsettled(s);
        settled = why ? 0 : settled + 1;
        if (t % 1000 == 0)
            csim_mark(s);
    }
    if (why)
        return why;
    why = csim_wrong(s);
    if (!why && !s->cfg.faults && s->stats.lost)
        why = "a block was lost without a fault";
    /* A run in which nothing happens proves nothing. */
    if (!why && (!s->stats.hits || !s->stats.acked))
        why = "nothing was done";
    return why;
}

static void add(struct csim_stats *to, const struct csim_stats *from)
{
    uint64_t *a = (uint64_t *)(void *)to;
    const uint64_t *b = (const uint64_t *)(const void *)from;

    for (size_t i = 0; i < sizeof(*to) / sizeof(*a); i++)
        a[i] += b[i];
}

static bool play_seed(const struct play *p, uint64_t seed,
                      const struct csim_past *past, struct csim_stats *sum,
                      uint64_t *hash_out)
{
    struct csim *s = calloc(1, sizeof(*s));
    struct csim_cfg cfg = play_cfg(p, seed, past);
    uint64_t end_ms = UP_MS + p->steps_ms;
    char again[128];
    const char *why;

    MUST(s);
    snprintf(again, sizeof(again), "SEED=%llu SEEDS=1 STEPS=%llu VERBOSE=1",
             (unsigned long long)seed, (unsigned long long)p->steps_ms);
    playing = again;
    csim_init(s, &cfg);
    csim_run(s, end_ms);
    csim_heal(s);
    why = play_end(s, end_ms);
    if (why)
        printf("seed %llu: %s, at %.1f s; again with: sim_cluster %s\n",
               (unsigned long long)seed, why, (double)s->now_us / 1e6, again);
    add(sum, &s->stats);
    *hash_out = s->hash;
    csim_fini(s);
    free(s);
    return !why;
}

static void play_line(uint64_t first, uint64_t last, uint64_t hash,
                      const struct csim_stats *t)
{
#define U(x) (unsigned long long)(x)
    printf("seeds %llu-%llu: %llu reads, %llu hits, %llu redirects, %llu "
           "pulls; %llu slots moved; %llu/%llu commands acknowledged; %llu "
           "crashes, %llu cuts, %llu pauses, %llu refused, hash %016llx\n",
           U(first), U(last), U(t->reads), U(t->hits), U(t->redirects),
           U(t->pulls), U(t->moves), U(t->acked), U(t->commands),
           U(t->crashes), U(t->cuts), U(t->pauses), U(t->refused), U(hash));
#undef U
    fflush(stdout);
}

static uint64_t play_all(const struct play *p)
{
    struct csim_cfg cfg = play_cfg(p, 1, NULL);
    struct csim_stats sum = {0};
    struct csim_past past;
    uint64_t failed = 0, mix = 0, first = p->seed, hash, again;

    csim_past_make(&past, &cfg);
    for (uint64_t i = 0; i < p->seeds; i++) {
        uint64_t seed = p->seed + i;
        bool ok = play_seed(p, seed, &past, &sum, &hash);

        if (ok && i < TWICE && !p->verbose) {
            struct csim_stats other = {0};

            ok = play_seed(p, seed, &past, &other, &again) && again == hash;
            if (again != hash)
                printf("seed %llu: hash %016llx, then %016llx\n",
                       (unsigned long long)seed, (unsigned long long)hash,
                       (unsigned long long)again);
        }
        failed += !ok;
        mix = mix * 31 + hash;
        if ((i + 1) % LINE_SEEDS && i + 1 < p->seeds)
            continue;
        play_line(first, seed, mix, &sum);
        first = seed + 1;
        sum = (struct csim_stats){0};
    }
    csim_past_free(&past);
    return failed;
}

static bool arg(const char *text, const char *name, uint64_t *to)
{
    size_t n = strlen(name);

    if (strncmp(text, name, n) != 0 || text[n] != '=')
        return false;
    *to = (uint64_t)strtod(text + n + 1, NULL);
    return true;
}

int main(int argc, char **argv)
{
    struct play p = {.seed = 1, .seeds = 200, .steps_ms = 7500};
    uint64_t voters = 5, nodes = 20, verbose = 0, failed;

    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];

        if (!arg(a, "SEED", &p.seed) && !arg(a, "SEEDS", &p.seeds) &&
            !arg(a, "STEPS", &p.steps_ms) && !arg(a, "VOTERS", &voters) &&
            !arg(a, "NODES", &nodes) && !arg(a, "MINUTES", &p.minutes) &&
            !arg(a, "VERBOSE", &verbose))
            return fprintf(stderr, "usage: sim_cluster [SEED=n] [SEEDS=n] "
                                   "[STEPS=ms] [VOTERS=n] [NODES=n] "
                                   "[MINUTES=n] [VERBOSE=1]\n"),
                   2;
    }
    p.voters = (uint32_t)voters;
    p.nodes = (uint32_t)nodes;
    p.verbose = verbose != 0;
    must_hook_set(play_failed);
    if (p.minutes)
        return csim_scale(p.seed, p.voters, p.nodes, p.minutes, p.verbose);
    failed = play_all(&p);
    printf("%llu passed, %llu failed\n",
           (unsigned long long)(p.seeds - failed), (unsigned long long)failed);
    return failed != 0;
}
