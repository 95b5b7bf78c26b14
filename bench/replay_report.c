/* SPDX-License-Identifier: Apache-2.0
 *
 * What pikv-bench replay says: a table for people, JSON and rows for programs,
 * and lines while it runs (live.h). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/replay.h"

void replay_print_table(struct replay *r, double wall_s)
{
    double gib = (double)(r->bytes[GET] + r->bytes[PUT]) / (1 << 30);
    double tokens = (double)r->hits * TOKENS_PER_BLOCK;

    printf("requests             %llu (%llu block references)\n",
           (unsigned long long)r->requests, (unsigned long long)r->refs);
    printf("prefix-hit ratio     %.4f in blocks, %.4f in bytes\n",
           (double)r->hits / (double)r->refs,
           (double)r->bytes[GET] /
               ((double)r->refs * (double)r->opt.block_bytes));
    printf("moved                %.2f GiB read, %.2f GiB written in %.1f s: "
           "%.2f GB/s\n",
           (double)r->bytes[GET] / (1 << 30), (double)r->bytes[PUT] / (1 << 30),
           wall_s, gib * 1.073741824 / wall_s);
    for (int p = 0; p < PHASES; p++)
        printf("%-6s p50 / p99     %.0f / %.0f us (%llu calls, %llu keys "
               "failed)\n",
               phase_names[p], bench_lat_us(&r->lat[p], 0.5),
               bench_lat_us(&r->lat[p], 0.99), (unsigned long long)r->calls[p],
               (unsigned long long)r->failed[p]);
    printf("prefill saved        %.0f s of GPU time, at %.0f tokens/s\n",
           tokens / r->opt.prefill_rate, r->opt.prefill_rate);
    if (r->opt.pid)
        printf("daemon CPU           %.3f s per GiB moved\n",
               gib > 0 ? r->cpu_s / gib : 0);
    printf("evicted in between   %llu blocks\n",
           (unsigned long long)r->evicted_between);
    printf("verify errors        %llu\n", (unsigned long long)r->verify_errors);
}

void replay_print_json(struct replay *r, double wall_s)
{
    FILE *f = fopen(r->opt.json, "w");

    if (!f)
        bench_die("--json %s: %s", r->opt.json, strerror(errno));
    fprintf(f,
            "{\"requests\": %llu, \"refs\": %llu, \"hits\": %llu, "
            "\"bytes_get\": %llu, \"bytes_put\": %llu, \"wall_s\": %.3f, "
            "\"cpu_s\": %.3f, \"verify_errors\": %llu",
            (unsigned long long)r->requests, (unsigned long long)r->refs,
            (unsigned long long)r->hits, (unsigned long long)r->bytes[GET],
            (unsigned long long)r->bytes[PUT], wall_s, r->cpu_s,
            (unsigned long long)r->verify_errors);
    for (int p = 0; p < PHASES; p++)
        fprintf(f, ", \"%s_p50_us\": %.1f, \"%s_p99_us\": %.1f", phase_names[p],
                bench_lat_us(&r->lat[p], 0.5), phase_names[p],
                bench_lat_us(&r->lat[p], 0.99));
    fprintf(f, "}\n");
    if (fclose(f))
        bench_die("--json %s: %s", r->opt.json, strerror(errno));
}

/* refs, hits and hits on SSD of each part, a line each. */
void replay_print_rows(const struct replay *r)
{
    FILE *f = fopen(r->opt.rows, "w");

    if (!f)
        bench_die("--rows %s: %s", r->opt.rows, strerror(errno));
    for (uint32_t i = 0; i < r->opt.parts; i++)
        fprintf(f, "%llu %llu %llu\n", (unsigned long long)r->parts[i].refs,
                (unsigned long long)r->parts[i].hits,
                (unsigned long long)r->parts[i].ssd_hits);
    if (fclose(f))
        bench_die("--rows %s: %s", r->opt.rows, strerror(errno));
}

/* What a daemon is asked to keep: requests, references, distinct blocks. */
void replay_print_plan(const struct replay *r)
{
    const struct bench_trace *t = &r->trace;
    bool *seen = calloc(t->blocks, sizeof *seen);
    uint64_t refs = 0, distinct = 0;

    if (!seen)
        bench_die("out of memory");
    for (uint32_t i = r->next; i < r->end; i++) {
        const struct bench_request *q = &t->requests[i];

        refs += q->n;
        for (uint32_t k = q->first; k < q->first + q->n; k++) {
            distinct += !seen[t->ids[k]];
            seen[t->ids[k]] = true;
        }
    }
    free(seen);
    printf("%u %llu %llu\n", r->end - r->next, (unsigned long long)refs,
           (unsigned long long)distinct);
}

void replay_tell(struct replay *r, bool at_once)
{
    struct live_counts c = {r->requests,      r->ended_refs,
                            r->could,         r->hits,
                            r->verify_errors, r->bytes[GET] + r->bytes[PUT]};

    live_tell(&r->live, r->kv, &c, at_once);
}
