/* SPDX-License-Identifier: Apache-2.0
 *
 * `pikv-bench size`: what would twice the memory give, on a trace? Feeds every
 * block reference to the daemon's online miss-ratio curve (daemon/store/mrc.c,
 * the one behind `pikvctl size`), and prints it beside what an LRU cache of
 * that size gives when the trace is played through it (policy_sim.c).
 *
 * The curve counts each reference by itself; the played column only prefix
 * hits, by a cache that evicts leaves before roots. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/policy_sim.h"
#include "store/mrc.h"

enum { SIZES = 7, PAGES = 16, BLOCK_BYTES = PAGES * 4096 };

static const uint32_t percents[SIZES] = {1, 2, 5, 10, 20, 50, 100};

struct size {
    uint64_t blocks;
    double now, twice, played;
};

/* As catalog hashes are: independent of the numbering. */
static uint64_t size_hash(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static double size_at(const struct mrc *m, uint64_t blocks)
{
    struct mrc_point p = {.bytes = blocks * BLOCK_BYTES};

    mrc_curve(m, &p, 1);
    return (double)p.hits / (double)p.accesses;
}

static bool size_run(const struct bench_trace *t, uint32_t samples,
                     struct size *sizes, double *ns_out)
{
    struct policy_result played;
    struct policy_cfg cfg = {.t = t, .ops = &evict_lru};
    struct mrc m;
    uint64_t start_ns;

    if (mrc_init(&m, samples, (uint64_t)t->blocks * 2 * BLOCK_BYTES) != OK)
        return false;
    start_ns = bench_now_ns();
    for (uint32_t i = 0; i < t->ids_n; i++)
        mrc_access(&m, size_hash(t->names[t->ids[i]]), PAGES);
    *ns_out = (double)(bench_now_ns() - start_ns) / t->ids_n;
    for (uint32_t i = 0; i < SIZES; i++) {
        struct size *x = &sizes[i];

        x->blocks = max_u64((uint64_t)t->blocks * percents[i] / 100, 1);
        x->now = size_at(&m, x->blocks);
        x->twice = size_at(&m, 2 * x->blocks);
        cfg.dram_blocks = x->blocks;
        if (!policy_run(&cfg, &played)) {
            mrc_fini(&m);
            return false;
        }
        x->played = (double)played.dram_hits / t->ids_n;
    }
    mrc_fini(&m);
    return true;
}

static void size_print(const struct bench_trace *t, const struct size *sizes,
                       uint32_t samples, double ns)
{
    printf("LRU hit ratio by memory, %" PRIu32 " references to %" PRIu32
           " blocks; a sample of at most %" PRIu32
           ", %.0f ns an access\n\n%-10s %8s %9s %9s %9s %9s\n",
           t->ids_n, t->blocks, samples, ns, "cache", "blocks", "sampled",
           "played", "twice", "gain");
    for (uint32_t i = 0; i < SIZES; i++)
        printf("%8" PRIu32 " %% %8" PRIu64 " %9.4f %9.4f %9.4f %+9.4f\n",
               percents[i], sizes[i].blocks, sizes[i].now, sizes[i].played,
               sizes[i].twice, sizes[i].twice - sizes[i].now);
}

static void size_json(const struct bench_trace *t, const struct size *sizes,
                      uint32_t samples, double ns)
{
    json_t *rows = json_array(), *top;

    for (uint32_t i = 0; i < SIZES; i++)
        json_array_append_new(
            rows,
            json_pack("{s:i, s:I, s:f, s:f, s:f}", "percent", (int)percents[i],
                      "blocks", (json_int_t)sizes[i].blocks, "hit_ratio",
                      sizes[i].now, "hit_ratio_twice", sizes[i].twice,
                      "hit_ratio_played", sizes[i].played));
    top = json_pack("{s:i, s:i, s:i, s:f, s:o}", "references", (int)t->ids_n,
                    "distinct", (int)t->blocks, "samples", (int)samples,
                    "ns_per_access", ns, "rows", rows);
    json_dumpf(top, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(top);
}

static int size_usage(const char *what)
{
    fprintf(stderr,
            "pikv-bench size: unknown, or not a value of it: %s\n"
            "usage: pikv-bench size [--trace FILE] [--samples N] [--json]\n"
            "  FILE: jsonl or jsonl.gz in the Mooncake format (default "
            "bench/traces/conversation_trace.jsonl.gz)\n"
            "  N: blocks followed at most, %d to %d (default 8192)\n",
            what, MRC_SAMPLES_MIN, MRC_SAMPLES_MAX);
    return 2;
}

static bool size_samples(const char *text, uint32_t *out)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    if (end == text || *end || n < MRC_SAMPLES_MIN || n > MRC_SAMPLES_MAX)
        return false;
    *out = (uint32_t)n;
    return true;
}

int bench_size(int argc, char **argv)
{
    const char *path = "bench/traces/conversation_trace.jsonl.gz";
    struct size sizes[SIZES];
    struct bench_trace t;
    struct errmsg m;
    uint32_t samples = 8192;
    bool json = false, ok;
    double ns;

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (strcmp(argv[i], "--json") == 0)
            json = true;
        else if (strcmp(argv[i], "--trace") == 0 && value)
            path = argv[++i];
        else if (strcmp(argv[i], "--samples") == 0 && value &&
                 size_samples(value, &samples))
            i++;
        else
            return size_usage(argv[i]);
    }
    if (bench_trace_load(path, &t, &m) != OK) {
        fprintf(stderr, "pikv-bench size: %s\n", m.text);
        return 1;
    }
    ok = size_run(&t, samples, sizes, &ns);
    if (!ok)
        fprintf(stderr, "pikv-bench size: out of memory\n");
    else if (json)
        size_json(&t, sizes, samples, ns);
    else
        size_print(&t, sizes, samples, ns);
    bench_trace_free(&t);
    return ok ? 0 : 1;
}
