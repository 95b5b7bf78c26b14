/* SPDX-License-Identifier: Apache-2.0
 *
 * `pikv-bench policy`: what hit ratio would each eviction policy give on a
 * trace? Runs the daemon's own policy code (daemon/store/evict*.c) through the
 * cache of policy_sim.c, and says what a policy operation costs.
 *
 *   default      a cache of 1, 2, 5, 10, 20 and 50 % of the trace's blocks
 *   --dram P     of one size
 *   --ssd P      and an SSD of P % behind it: hits by tier, blocks written
 *   --hints W    the same with what a client could say of its sessions: which
 *                are closed, or also which are idle
 *
 * The last column or line is Belady's bound (policy_belady.c).
 *
 * Times include the simulator's own work, so they bound the policy's cost from
 * above. Runs in one process without a daemon; its only output is the table,
 * or JSON with --json. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "bench/policy_sim.h"

enum { POLICIES_MAX = 16, SIZES_MAX = 6, PERCENT_MAX = 400, AGAIN_MAX = 50 };

static const uint32_t percents[SIZES_MAX] = {1, 2, 5, 10, 20, 50};

struct options {
    const char *path;
    const struct evict_ops *only; /* NULL: all of the table */
    uint32_t dram, ssd;           /* percent; dram 0: the six sizes */
    uint32_t again, budget;
    bool json, closed, idle;
};

struct report {
    const struct bench_trace *t;
    const struct options *o;
    struct policy_sessions sessions;
    const struct evict_ops *ops[POLICIES_MAX];
    struct policy_result results[POLICIES_MAX][SIZES_MAX];
    uint64_t belady[SIZES_MAX];
    uint32_t sizes[SIZES_MAX]; /* percent of DRAM */
    uint32_t n, sizes_n;
};

static uint64_t report_blocks(const struct report *r, uint32_t percent)
{
    return max_u64((uint64_t)r->t->blocks * percent / 100, percent > 0);
}

static double report_ratio(const struct report *r, uint64_t hits)
{
    return (double)hits / r->t->ids_n;
}

static double report_write_amp(const struct policy_result *x)
{
    return x->writes ? (double)(x->writes + x->again) / (double)x->writes : 1;
}

static bool report_run(struct report *r)
{
    const struct options *o = r->o;
    const struct evict_ops *ops;

    for (uint32_t p = 0; (ops = evict_by_idx(p)) && r->n < POLICIES_MAX; p++) {
        if (!o->only || o->only == ops)
            r->ops[r->n++] = ops;
    }
    r->sizes_n = o->dram ? 1 : SIZES_MAX;
    for (uint32_t i = 0; i < r->sizes_n; i++)
        r->sizes[i] = o->dram ? o->dram : percents[i];
    if (o->closed && !sessions_make(r->t, &r->sessions))
        return false;
    for (uint32_t i = 0; i < r->sizes_n; i++) {
        struct policy_cfg cfg = {
            .t = r->t,
            .hints = o->closed ? &r->sessions : NULL,
            .idle = o->idle,
            .dram_blocks = report_blocks(r, r->sizes[i]),
            .ssd_blocks = report_blocks(r, o->ssd),
            .again_pct = o->again,
            .budget_pct = o->budget,
        };

        if (!belady_run(r->t, cfg.dram_blocks + cfg.ssd_blocks, &r->belady[i]))
            return false;
        for (uint32_t p = 0; p < r->n; p++) {
            cfg.ops = r->ops[p];
            if (!policy_run(&cfg, &r->results[p][i]))
                return false;
        }
    }
    return true;
}

/* ---- tables */

static void print_head(const struct report *r)
{
    const struct policy_sessions *s = &r->sessions;

    printf("prefix-block hit ratio, %" PRIu32 " requests, %" PRIu32
           " block references, %" PRIu32 " distinct\n",
           r->t->requests_n, r->t->ids_n, r->t->blocks);
    if (r->o->closed)
        printf("hints: after a session's last request its blocks are dead%s; "
               "%" PRIu32 " sessions\n",
               r->o->idle ? ", after the others idle" : "", s->n);
}

static void print_sizes(const struct report *r)
{
    printf("\n%-10s %8s", "cache", "blocks");
    for (uint32_t p = 0; p < r->n; p++)
        printf(" %8s", r->ops[p]->name);
    printf(" %8s\n", "belady");
    for (uint32_t i = 0; i < r->sizes_n; i++) {
        printf("%8" PRIu32 " %% %8" PRIu64, r->sizes[i],
               report_blocks(r, r->sizes[i]));
        for (uint32_t p = 0; p < r->n; p++)
            printf(" %8.4f", report_ratio(r, r->results[p][i].dram_hits));
        printf(" %8.4f\n", report_ratio(r, r->belady[i]));
    }
    printf("\nns per policy operation, simulator included\n");
    for (uint32_t i = 0; i < r->sizes_n; i++) {
        printf("%8" PRIu32 " %% %8" PRIu64, r->sizes[i],
               report_blocks(r, r->sizes[i]));
        for (uint32_t p = 0; p < r->n; p++)
            printf(" %8.0f", r->results[p][i].ns_per_op);
        printf("\n");
    }
}

static void print_tiers(const struct report *r)
{
    for (uint32_t i = 0; i < r->sizes_n; i++) {
        printf("\nDRAM %" PRIu32 " %%, %" PRIu64 " blocks; SSD %" PRIu32
               " %%, %" PRIu64 " blocks\n",
               r->sizes[i], report_blocks(r, r->sizes[i]), r->o->ssd,
               report_blocks(r, r->o->ssd));
        printf("%-10s %8s %8s %8s %9s %9s %9s %9s\n", "policy", "dram", "ssd",
               "total", "stored", "written", "again", "write amp");
        for (uint32_t p = 0; p < r->n; p++) {
            const struct policy_result *x = &r->results[p][i];

            printf("%-10s %8.4f %8.4f %8.4f %9" PRIu64 " %9" PRIu64 " %9" PRIu64
                   " %9.3f\n",
                   r->ops[p]->name, report_ratio(r, x->dram_hits),
                   report_ratio(r, x->ssd_hits),
                   report_ratio(r, x->dram_hits + x->ssd_hits), x->stored,
                   x->writes, x->again, report_write_amp(x));
        }
        printf("%-10s %8s %8s %8.4f\n", "belady", "", "",
               report_ratio(r, r->belady[i]));
    }
}

/* ---- JSON */

static json_t *report_row(const struct report *r, uint32_t i,
                          const char *policy, uint64_t hits)
{
    return json_pack("{s:s, s:i, s:I, s:f}", "policy", policy, "percent",
                     (int)r->sizes[i], "blocks",
                     (json_int_t)report_blocks(r, r->sizes[i]), "hit_ratio",
                     report_ratio(r, hits));
}

static void report_row_tiers(const struct report *r, json_t *row,
                             const struct policy_result *x)
{
    json_t *more = json_pack(
        "{s:i, s:f, s:f, s:I, s:I, s:I, s:f}", "ssd_percent", (int)r->o->ssd,
        "dram_hit_ratio", report_ratio(r, x->dram_hits), "ssd_hit_ratio",
        report_ratio(r, x->ssd_hits), "stored", (json_int_t)x->stored,
        "written", (json_int_t)x->writes, "written_again", (json_int_t)x->again,
        "write_amplification", report_write_amp(x));

    json_object_update(row, more);
    json_decref(more);
}

static void report_json(const struct report *r)
{
    json_t *rows = json_array(), *top;

    for (uint32_t i = 0; i < r->sizes_n; i++) {
        for (uint32_t p = 0; p < r->n; p++) {
            const struct policy_result *x = &r->results[p][i];
            json_t *row =
                report_row(r, i, r->ops[p]->name, x->dram_hits + x->ssd_hits);

            json_object_set_new(row, "ns_per_op", json_real(x->ns_per_op));
            if (r->o->ssd)
                report_row_tiers(r, row, x);
            json_array_append_new(rows, row);
        }
        json_array_append_new(rows, report_row(r, i, "belady", r->belady[i]));
    }
    top = json_pack("{s:i, s:i, s:i, s:s, s:i, s:o}", "requests",
                    (int)r->t->requests_n, "references", (int)r->t->ids_n,
                    "distinct", (int)r->t->blocks, "hints",
                    r->o->idle     ? "all"
                    : r->o->closed ? "closed"
                                   : "none",
                    "sessions", (int)r->sessions.n, "rows", rows);
    json_dumpf(top, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(top);
}

/* ---- the command */

static int policy_usage(const char *why, const char *what)
{
    fprintf(stderr,
            "pikv-bench policy: %s%s\n"
            "usage: pikv-bench policy [--trace FILE] [--policy NAME] [--json]\n"
            "         [--hints closed|all] [--dram P] [--ssd P [--budget P] "
            "[--again P]]\n"
            "  FILE: jsonl or jsonl.gz in the Mooncake format (default "
            "bench/traces/conversation_trace.jsonl.gz)\n"
            "  P: percent; of the trace's blocks (dram, ssd: up to %d), of the "
            "blocks stored\n"
            "     (budget, default 100), of a segment (again, up to %d, "
            "default 10)\n"
            "  NAME:",
            why, what, PERCENT_MAX, AGAIN_MAX);
    for (uint32_t i = 0; evict_by_idx(i); i++)
        fprintf(stderr, " %s", evict_by_idx(i)->name);
    fprintf(stderr, "\n");
    return 2;
}

static bool option_percent(const char *text, uint32_t max, uint32_t *out)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    if (end == text || *end || n > max)
        return false;
    *out = (uint32_t)n;
    return true;
}

/* An option with a value; false if it is not known or the value is bad. */
static bool option_set(struct options *o, const char *name, const char *value)
{
    if (strcmp(name, "--trace") == 0) {
        o->path = value;
        return true;
    }
    if (strcmp(name, "--policy") == 0)
        return (o->only = evict_by_name(value)) != NULL;
    if (strcmp(name, "--dram") == 0)
        return option_percent(value, PERCENT_MAX, &o->dram) && o->dram > 0;
    if (strcmp(name, "--ssd") == 0)
        return option_percent(value, PERCENT_MAX, &o->ssd);
    if (strcmp(name, "--budget") == 0)
        return option_percent(value, 100, &o->budget);
    if (strcmp(name, "--again") == 0)
        return option_percent(value, AGAIN_MAX, &o->again);
    if (strcmp(name, "--hints") == 0) {
        o->idle = strcmp(value, "all") == 0;
        o->closed = o->idle || strcmp(value, "closed") == 0;
        return o->closed;
    }
    return false;
}

static int policy_options(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (i + 1 == argc)
            return policy_usage("unknown, or a value is missing: ", argv[i]);
        else if (!option_set(o, argv[i], argv[i + 1]))
            return policy_usage("unknown, or not a value of it: ", argv[i]);
        else
            i++;
    }
    return 0;
}

int bench_policy(int argc, char **argv)
{
    struct options o = {
        .path = "bench/traces/conversation_trace.jsonl.gz",
        .again = 10,
        .budget = 100,
    };
    struct bench_trace t;
    struct report r = {.t = &t, .o = &o};
    struct errmsg m;
    int rc = policy_options(argc, argv, &o);

    if (rc != 0)
        return rc;
    if (bench_trace_load(o.path, &t, &m) != OK) {
        fprintf(stderr, "pikv-bench policy: %s\n", m.text);
        return 1;
    }
    if (!report_run(&r)) {
        fprintf(stderr, "pikv-bench policy: out of memory\n");
        rc = 1;
    } else if (o.json) {
        report_json(&r);
    } else {
        print_head(&r);
        if (o.ssd)
            print_tiers(&r);
        else
            print_sizes(&r);
    }
    sessions_free(&r.sessions);
    bench_trace_free(&t);
    return rc;
}
