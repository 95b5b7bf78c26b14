/* SPDX-License-Identifier: Apache-2.0
 *
 * `pikv-bench policy`: what hit ratio would each eviction policy give on a
 * trace? Runs the daemon's own policy code (daemon/store/evict*.c) over the
 * requests, with a cache of 1 to 50 % of the trace's distinct blocks, and says
 * what a policy operation costs.
 *
 *   request:  | hit hit hit | miss miss ... |     one request at a time
 *               evict_hit     link to parent (hold it), evict until there is
 *                             room (release the victim's parent), insert
 *
 * This is what one lane of the daemon does with blocks of one size: the hit run
 * from the left is read, the rest is stored; a block with a resident child is
 * HELD, so leaves go before roots. A hit counts only if all earlier blocks of
 * the request hit (prefix-block hit ratio). 64 KiB stand for each block.
 *
 * The last column is Belady's bound: a cache of blocks that knows each block's
 * next use and is free to refuse one. No policy of the daemon can pass it.
 *
 * Times include the simulator's own work, so they bound the policy's cost from
 * above. Runs in one process without a daemon; its only output is the table,
 * or JSON with --json. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/bench.h"
#include "bench/trace.h"
#include "store/evict.h"

enum { BLOCK_PAGES = 16, POLICIES_MAX = 16 };

static const uint32_t percents[] = {1, 2, 5, 10, 20, 50};

enum { PERCENTS = countof(percents) };

struct result {
    double hit_ratio[PERCENTS];
    double ns_per_op[PERCENTS];
};

/* ---- one policy, one size */

struct sim {
    const struct bench_trace *t;
    struct evict e;
    struct evict_node *nodes;
    uint32_t *children; /* resident ones, by block */
    bool *resident;
    uint64_t used_pages, hits, ops;
};

static uint64_t sim_hash(void *arg, uint32_t id)
{
    uint64_t x = id + UINT64_C(0x9e3779b97f4a7c15);

    (void)arg;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static void sim_link(struct sim *s, uint32_t parent)
{
    if (parent == BENCH_TRACE_NONE || s->children[parent]++ > 0)
        return;
    evict_hold(&s->e, parent);
    s->ops++;
}

static void sim_unlink(struct sim *s, uint32_t parent)
{
    if (parent == BENCH_TRACE_NONE || --s->children[parent] > 0)
        return;
    evict_release(&s->e, parent, true);
    s->ops++;
}

static bool sim_make_room(struct sim *s)
{
    while (s->used_pages + BLOCK_PAGES > s->e.capacity_pages) {
        uint32_t id = evict_victim(&s->e);

        if (id == EVICT_NONE)
            return false;
        evict_remove(&s->e, id, EVICT_PRESSURE);
        s->resident[id] = false;
        s->used_pages -= BLOCK_PAGES;
        s->ops += 2;
        sim_unlink(s, s->t->parent[id]);
    }
    return true;
}

/* False if everything is held by this very chain: the rest does not fit. */
static bool sim_store(struct sim *s, uint32_t id)
{
    sim_link(s, s->t->parent[id]);
    if (!sim_make_room(s)) {
        sim_unlink(s, s->t->parent[id]);
        return false;
    }
    s->nodes[id].weight = BLOCK_PAGES;
    evict_insert(&s->e, id);
    s->resident[id] = true;
    s->used_pages += BLOCK_PAGES;
    s->ops++;
    return true;
}

static void sim_request(struct sim *s, const struct bench_request *r)
{
    const uint32_t *ids = s->t->ids + r->first;
    uint32_t i = 0;

    for (; i < r->n && s->resident[ids[i]]; i++)
        evict_hit(&s->e, ids[i]);
    s->hits += i;
    s->ops += i;
    while (i < r->n && sim_store(s, ids[i]))
        i++;
}

static uint64_t sim_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static bool sim_run(const struct bench_trace *t, const struct evict_ops *ops,
                    uint64_t blocks, double *hit_ratio_out,
                    double *ns_per_op_out)
{
    struct env env = {.rng = {1, 2}};
    struct sim s = {.t = t};
    struct evict_host host = {
        .stride = sizeof(*s.nodes),
        .ids_max = t->blocks,
        .pages_max = blocks * BLOCK_PAGES,
        .hash = sim_hash,
        .env = &env,
    };
    void *state = calloc(1, ops->state_bytes(host.pages_max));
    bool ok = false;
    uint64_t start_ns;

    host.nodes = s.nodes = calloc(t->blocks, sizeof(*s.nodes));
    s.children = calloc(t->blocks, sizeof(*s.children));
    s.resident = calloc(t->blocks, sizeof(*s.resident));
    if (state && s.nodes && s.children && s.resident) {
        evict_init(&s.e, ops, &host, state, host.pages_max);
        start_ns = sim_now_ns();
        for (uint32_t i = 0; i < t->requests_n; i++)
            sim_request(&s, &t->requests[i]);
        *ns_per_op_out = (double)(sim_now_ns() - start_ns) / (double)s.ops;
        *hit_ratio_out = (double)s.hits / t->ids_n;
        ok = true;
    }
    free(s.resident);
    free(s.children);
    free(s.nodes);
    free(state);
    return ok;
}

/* ---- Belady */

/* The resident blocks by next use, the latest first: a heap with stale entries
 * (a used block is pushed again), recognised by next[] having moved on. Of
 * blocks used again by the same request the deepest is the latest, as in a
 * chain evicted leaf first. */
struct later {
    uint64_t when; /* request << 32 | place in it */
    uint32_t id;
};

struct belady {
    const struct bench_trace *t;
    uint64_t *after; /* of each reference: when its block comes again */
    uint64_t *next;  /* of each block: the same, now */
    bool *resident;
    struct later *heap; /* at most one entry for each reference */
    uint32_t heap_n;
};

static void later_push(struct belady *b, struct later x)
{
    uint32_t i = b->heap_n++;

    while (i > 0 && b->heap[(i - 1) / 2].when < x.when) {
        b->heap[i] = b->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    b->heap[i] = x;
}

static struct later later_pop(struct belady *b)
{
    struct later top = b->heap[0], last = b->heap[--b->heap_n];
    uint32_t i = 0, c;

    while ((c = 2 * i + 1) < b->heap_n) {
        if (c + 1 < b->heap_n && b->heap[c + 1].when > b->heap[c].when)
            c++;
        if (b->heap[c].when <= last.when)
            break;
        b->heap[i] = b->heap[c];
        i = c;
    }
    b->heap[i] = last;
    return top;
}

static void belady_prepare(struct belady *b)
{
    const struct bench_trace *t = b->t;

    for (uint32_t id = 0; id < t->blocks; id++)
        b->next[id] = UINT64_MAX;
    for (uint32_t r = t->requests_n; r-- > 0;) {
        const struct bench_request *q = &t->requests[r];

        for (uint32_t i = 0; i < q->n; i++) {
            uint32_t id = t->ids[q->first + i];

            b->after[q->first + i] = b->next[id];
            b->next[id] = (uint64_t)r << 32 | i;
        }
    }
}

static uint64_t belady_hits(struct belady *b, uint64_t capacity)
{
    const struct bench_trace *t = b->t;
    uint64_t hits = 0, used = 0;

    for (uint32_t r = 0; r < t->requests_n; r++) {
        const struct bench_request *q = &t->requests[r];
        uint32_t n = 0;

        while (n < q->n && b->resident[t->ids[q->first + n]])
            n++;
        hits += n;
        for (uint32_t i = 0; i < q->n; i++) {
            uint32_t id = t->ids[q->first + i];

            used += !b->resident[id];
            b->resident[id] = true;
            b->next[id] = b->after[q->first + i];
            later_push(b, (struct later){b->next[id], id});
        }
        while (used > capacity) {
            struct later x = later_pop(b);

            if (!b->resident[x.id] || b->next[x.id] != x.when)
                continue;
            b->resident[x.id] = false;
            used--;
        }
    }
    return hits;
}

static bool belady_run(const struct bench_trace *t, uint64_t capacity,
                       double *hit_ratio_out)
{
    struct belady b = {.t = t};
    bool ok = false;

    b.after = calloc(t->ids_n, sizeof(*b.after));
    b.heap = calloc(t->ids_n, sizeof(*b.heap));
    b.next = calloc(t->blocks, sizeof(*b.next));
    b.resident = calloc(t->blocks, sizeof(*b.resident));
    if (b.after && b.heap && b.next && b.resident) {
        belady_prepare(&b);
        *hit_ratio_out = (double)belady_hits(&b, capacity) / t->ids_n;
        ok = true;
    }
    free(b.after);
    free(b.heap);
    free(b.next);
    free(b.resident);
    return ok;
}

/* ---- the command */

struct options {
    const char *path;
    const struct evict_ops *only; /* NULL: all of the table */
    bool json;
};

struct report {
    const struct bench_trace *t;
    const struct evict_ops *ops[POLICIES_MAX];
    struct result results[POLICIES_MAX];
    uint32_t n;
    double belady[PERCENTS];
};

static uint64_t report_blocks(const struct report *r, uint32_t i)
{
    return max_u64((uint64_t)r->t->blocks * percents[i] / 100, 1);
}

static bool report_run(struct report *r, const struct options *o)
{
    const struct evict_ops *ops;

    for (uint32_t p = 0; (ops = evict_by_idx(p)) && p < POLICIES_MAX; p++) {
        if (!o->only || o->only == ops)
            r->ops[r->n++] = ops;
    }
    for (uint32_t i = 0; i < PERCENTS; i++) {
        uint64_t blocks = report_blocks(r, i);

        if (!belady_run(r->t, blocks, &r->belady[i]))
            return false;
        for (uint32_t p = 0; p < r->n; p++) {
            struct result *x = &r->results[p];

            if (!sim_run(r->t, r->ops[p], blocks, &x->hit_ratio[i],
                         &x->ns_per_op[i]))
                return false;
        }
    }
    return true;
}

static void report_print(const struct report *r)
{
    printf("prefix-block hit ratio, %" PRIu32 " requests, %" PRIu32
           " block references, %" PRIu32 " distinct\n\n%-10s %8s",
           r->t->requests_n, r->t->ids_n, r->t->blocks, "cache", "blocks");
    for (uint32_t p = 0; p < r->n; p++)
        printf(" %8s", r->ops[p]->name);
    printf(" %8s\n", "belady");
    for (uint32_t i = 0; i < PERCENTS; i++) {
        printf("%8" PRIu32 " %% %8" PRIu64, percents[i], report_blocks(r, i));
        for (uint32_t p = 0; p < r->n; p++)
            printf(" %8.4f", r->results[p].hit_ratio[i]);
        printf(" %8.4f\n", r->belady[i]);
    }
    printf("\nns per policy operation, simulator included\n");
    for (uint32_t i = 0; i < PERCENTS; i++) {
        printf("%8" PRIu32 " %% %8" PRIu64, percents[i], report_blocks(r, i));
        for (uint32_t p = 0; p < r->n; p++)
            printf(" %8.0f", r->results[p].ns_per_op[i]);
        printf("\n");
    }
}

static json_t *report_row(const char *policy, uint32_t percent, uint64_t blocks,
                          double hit_ratio)
{
    return json_pack("{s:s, s:i, s:I, s:f}", "policy", policy, "percent",
                     (int)percent, "blocks", (json_int_t)blocks, "hit_ratio",
                     hit_ratio);
}

static void report_json(const struct report *r)
{
    json_t *rows = json_array(), *top;

    for (uint32_t i = 0; i < PERCENTS; i++) {
        uint64_t blocks = report_blocks(r, i);

        for (uint32_t p = 0; p < r->n; p++) {
            const struct result *x = &r->results[p];
            json_t *row = report_row(r->ops[p]->name, percents[i], blocks,
                                     x->hit_ratio[i]);

            json_object_set_new(row, "ns_per_op", json_real(x->ns_per_op[i]));
            json_array_append_new(rows, row);
        }
        json_array_append_new(
            rows, report_row("belady", percents[i], blocks, r->belady[i]));
    }
    top = json_pack("{s:i, s:i, s:i, s:o}", "requests", (int)r->t->requests_n,
                    "references", (int)r->t->ids_n, "distinct",
                    (int)r->t->blocks, "rows", rows);
    json_dumpf(top, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
    printf("\n");
    json_decref(top);
}

static int policy_usage(const char *why, const char *what)
{
    fprintf(stderr,
            "pikv-bench policy: %s%s\n"
            "usage: pikv-bench policy [--trace FILE] [--policy NAME] "
            "[--json]\n"
            "  FILE: jsonl or jsonl.gz in the Mooncake format (default "
            "bench/traces/conversation_trace.jsonl.gz)\n"
            "  NAME:",
            why, what);
    for (uint32_t i = 0; evict_by_idx(i); i++)
        fprintf(stderr, " %s", evict_by_idx(i)->name);
    fprintf(stderr, "\n");
    return 2;
}

static int policy_options(int argc, char **argv, struct options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (strcmp(argv[i], "--json") == 0) {
            o->json = true;
            continue;
        }
        if (strcmp(argv[i], "--trace") != 0 && strcmp(argv[i], "--policy") != 0)
            return policy_usage("unknown option ", argv[i]);
        if (!value)
            return policy_usage("a value is missing after ", argv[i]);
        if (strcmp(argv[i++], "--trace") == 0)
            o->path = value;
        else if (!(o->only = evict_by_name(value)))
            return policy_usage("no such policy: ", value);
    }
    return 0;
}

int bench_policy(int argc, char **argv)
{
    struct options o = {
        .path = "bench/traces/conversation_trace.jsonl.gz",
    };
    struct bench_trace t;
    struct report r = {.t = &t};
    struct errmsg m;
    int rc = policy_options(argc, argv, &o);

    if (rc != 0)
        return rc;
    if (bench_trace_load(o.path, &t, &m) != OK) {
        fprintf(stderr, "pikv-bench policy: %s\n", m.text);
        return 1;
    }
    if (!report_run(&r, &o)) {
        fprintf(stderr, "pikv-bench policy: out of memory\n");
        rc = 1;
    } else if (o.json) {
        report_json(&r);
    } else {
        report_print(&r);
    }
    bench_trace_free(&t);
    return rc;
}
