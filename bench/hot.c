/* SPDX-License-Identifier: Apache-2.0
 *
 * pikv-bench hot: one prefix and a few experts that everybody wants. Synthetic:
 * no trace says this; it is what a balancer must cope with.
 *
 *   prefix    16 blocks that all sequences begin with, routed by its first
 *             block (router prefix, depth 1), so that they lie in one slot
 *   experts   one block each, routed by its expert (router affinity), wanted
 *             by Zipf(1.2), eight at a time, of one layer; their counts are
 *             reported once a second as EXPERT_LOAD
 *
 * At --rate calls a second, every other one for the prefix. What is not there
 * is put, and every byte that comes back is compared. It is always watched
 * (live.h): lines of JSON until SIGTERM, errors are misses. */
#include <getopt.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/live.h"
#include "pikv.pb-c.h"

enum {
    HOT_PREFIX = 16,
    HOT_TOP = 8,
    HOT_DEPTH = 4,
    HOT_EXPERTS_MAX = 1024,
    HOT_KEY = 24,
    HOT_FEEDBACK = 8192, /* bytes of a report */
};

static const double hot_zipf = 1.2;
static const uint64_t hot_second = 1000000000;

struct hot_worker {
    uint32_t n;
    bool busy, putting;
    uint64_t begun_ns;
    uint8_t *data;
    uint64_t ids[HOT_PREFIX]; /* an expert's number, or from HOT_EXPERTS_MAX */
    char keys[HOT_PREFIX][HOT_KEY];
    uint8_t routes[HOT_PREFIX][PIKV_ROUTE_MAX];
    struct pikv_get gets[HOT_PREFIX];
    struct pikv_put puts[HOT_PREFIX];
    struct pikv_result results[HOT_PREFIX];
};

struct hot {
    const char *address;
    uint64_t block_bytes, seed, begun_ns, reported_ns, calls;
    uint32_t rate, experts, ns, active;
    struct pikv *kv;
    struct live live;
    struct live_counts counts;
    struct hot_worker workers[HOT_DEPTH];
    double cumulated[HOT_EXPERTS_MAX]; /* Zipf, up to 1 */
    uint64_t wanted[HOT_EXPERTS_MAX];  /* since the last report */
    bool stored[HOT_EXPERTS_MAX + HOT_PREFIX];
};

/* ---- what is asked for ---- */

static double draw(struct hot *h)
{
    h->seed ^= h->seed << 13;
    h->seed ^= h->seed >> 7;
    h->seed ^= h->seed << 17;
    return (double)(h->seed >> 11) / 9007199254740992.0;
}

static void zipf_init(struct hot *h)
{
    double sum = 0;

    for (uint32_t i = 0; i < h->experts; i++)
        h->cumulated[i] = sum += pow(i + 1, -hot_zipf);
    for (uint32_t i = 0; i < h->experts; i++)
        h->cumulated[i] /= sum;
}

static uint32_t zipf_draw(struct hot *h)
{
    double x = draw(h);
    uint32_t i = 0;

    while (i + 1 < h->experts && h->cumulated[i] < x)
        i++;
    return i;
}

static struct pikv_key key_of(struct hot_worker *w, uint32_t i)
{
    struct pikv_bytes first = {"hot:prefix:0", 12};
    struct pikv_route by = {.chain = &first, .chain_n = 1, .depth = 1};
    struct pikv_key key = {.key = {w->keys[i], 0}, .route = {w->routes[i], 0}};
    bool prefix = w->ids[i] >= HOT_EXPERTS_MAX;
    int n;

    by.affinity = w->ids[i];
    n = snprintf(w->keys[i], HOT_KEY, "hot:%s:%llu",
                 prefix ? "prefix" : "expert",
                 (unsigned long long)(w->ids[i] % HOT_EXPERTS_MAX));
    key.key.len = (size_t)n;
    n = prefix ? pikv_route_prefix(&by, w->routes[i])
               : pikv_route_affinity(&by, w->routes[i]);
    key.route.len = (size_t)n;
    key.cls = prefix ? 0 : 1;
    return key;
}

static void choose_experts(struct hot *h, struct hot_worker *w)
{
    w->n = 0;
    for (uint32_t tries = 0; w->n < HOT_TOP && tries < 100; tries++) {
        uint32_t x = zipf_draw(h);
        bool seen = false;

        for (uint32_t i = 0; i < w->n; i++)
            seen |= w->ids[i] == x;
        if (!seen) {
            w->ids[w->n++] = x;
            h->wanted[x]++;
        }
    }
}

static void choose(struct hot *h, struct hot_worker *w)
{
    if (h->calls++ % 2) {
        choose_experts(h, w);
    } else {
        w->n = HOT_PREFIX;
        for (uint32_t i = 0; i < HOT_PREFIX; i++)
            w->ids[i] = HOT_EXPERTS_MAX + i;
    }
    for (uint32_t i = 0; i < w->n; i++)
        w->gets[i] = (struct pikv_get){
            .key = key_of(w, i),
            .data = {w->data + i * h->block_bytes, h->block_bytes}};
}

/* ---- calls ---- */

static void submitted(struct hot *h, struct hot_worker *w, int code)
{
    if (code)
        bench_die("submit: %s: %s", pikv_error_name(code),
                  pikv_error_text(code));
    w->busy = true;
    w->begun_ns = bench_now_ns();
    h->active++;
}

static void start_get(struct hot *h, struct hot_worker *w)
{
    struct pikv_call call = {.user = w, .deadline_us = 1000000};
    uint64_t id;

    choose(h, w);
    w->putting = false;
    submitted(h, w,
              pikv_get(h->kv, h->ns, w->gets, w->n, &call, w->results, &id));
}

static void start_put(struct hot *h, struct hot_worker *w)
{
    struct pikv_call call = {.user = w, .deadline_us = 5000000};
    uint64_t id;

    for (uint32_t i = 0; i < w->n; i++) {
        uint8_t *p = w->data + i * h->block_bytes;

        bench_fill(w->ids[i], p, h->block_bytes);
        w->puts[i] = (struct pikv_put){.key = w->gets[i].key,
                                       .data = {p, h->block_bytes}};
    }
    w->putting = true;
    submitted(h, w,
              pikv_put(h->kv, h->ns, w->puts, w->n, &call, w->results, &id));
}

/* Whether all of them were there. */
static bool got(struct hot *h, struct hot_worker *w)
{
    bool all = true;

    for (uint32_t i = 0; i < w->n; i++) {
        const struct pikv_result *res = &w->results[i];

        live_item(&h->live, res->status);
        h->counts.refs++;
        h->counts.could += h->stored[w->ids[i]];
        if (res->status != PIKV_OK) {
            all = false;
            continue;
        }
        h->counts.hits++;
        h->counts.bytes += res->moved;
        if (res->moved != h->block_bytes ||
            !bench_verify(w->ids[i], w->gets[i].data.p, res->moved))
            h->counts.wrong++;
    }
    return all;
}

static void completed(struct hot *h, const struct pikv_completion *c)
{
    struct hot_worker *w = c->user;

    live_call(&h->live, bench_now_ns() - w->begun_ns);
    h->active--;
    w->busy = false;
    h->counts.requests++;
    if (w->putting) {
        for (uint32_t i = 0; i < w->n; i++) {
            live_item(&h->live, w->results[i].status);
            h->stored[w->ids[i]] |= w->results[i].status == PIKV_OK;
        }
    } else if (!got(h, w)) {
        start_put(h, w);
    }
}

/* ---- EXPERT_LOAD ---- */

/* Nobody waits for placement: a report that does not arrive is left out. */
static void report(struct hot *h)
{
    Pikv__ExpertLoad layer, *layers = &layer;
    Pikv__Feedback m;
    uint8_t out[HOT_FEEDBACK];
    uint64_t generation;
    void *reply = NULL;
    size_t len;

    pikv__expert_load__init(&layer);
    layer.n_counts = h->experts;
    layer.counts = h->wanted;
    pikv__feedback__init(&m);
    m.n_experts = 1;
    m.experts = &layers;
    if (pikv_namespace_id(h->kv, h->ns, &m.ns, &generation) ||
        pikv__feedback__get_packed_size(&m) > sizeof out)
        return;
    if (pikv_admin(h->kv, "feedback", -1, out, pikv__feedback__pack(&m, out),
                   &reply, &len, NULL) == PIKV_OK)
        pikv_reply_free(reply);
    memset(h->wanted, 0, sizeof h->wanted);
}

/* ---- the run ---- */

static void start_due(struct hot *h)
{
    uint64_t since = bench_now_ns() - h->begun_ns;

    for (uint32_t i = 0; i < HOT_DEPTH; i++)
        if (!h->workers[i].busy && since >= h->calls * hot_second / h->rate)
            start_get(h, &h->workers[i]);
    /* After a wait it goes on at its pace, not faster. */
    if (since > (h->calls + h->rate) * hot_second / h->rate)
        h->begun_ns += since - h->calls * hot_second / h->rate;
}

static void run(struct hot *h)
{
    struct pollfd fd = {.fd = pikv_event_fd(h->kv), .events = POLLIN};
    struct pikv_completion done[HOT_DEPTH];

    live_begin(&h->live, true);
    h->begun_ns = h->reported_ns = bench_now_ns();
    while (h->active || !live_ended()) {
        int n = pikv_poll(h->kv, done, HOT_DEPTH);

        if (n < 0)
            bench_die("poll: %s", pikv_error_name(n));
        for (int i = 0; i < n; i++)
            completed(h, &done[i]);
        if (n == 0)
            (void)poll(&fd, 1, 1);
        if (!live_ended())
            start_due(h);
        if (bench_now_ns() - h->reported_ns > hot_second) {
            h->reported_ns = bench_now_ns();
            report(h);
        }
        live_tell(&h->live, h->kv, &h->counts, false);
    }
    live_tell(&h->live, h->kv, &h->counts, true);
}

static void open_store(struct hot *h)
{
    struct pikv_options opt = {.address = h->address,
                               .engine = "pikv-bench hot"};
    struct pikv_group group = {.kind = "opaque", .block_bytes = h->block_bytes};
    struct pikv_namespace ns = {.name = "hot",
                                .model = "hot",
                                .groups = &group,
                                .group_n = 1,
                                .create = true};
    int e = pikv_open(&opt, &h->kv);
    void *p;

    if (!e)
        e = pikv_namespace_open(h->kv, &ns, &h->ns, NULL);
    for (uint32_t i = 0; !e && i < HOT_DEPTH; i++) {
        e = pikv_mem_alloc(h->kv, HOT_PREFIX * h->block_bytes, &p);
        h->workers[i].data = p;
    }
    if (e)
        bench_die("%s: %s (%s)", h->address ? h->address : "pikvd",
                  pikv_error_text(e), pikv_last_error());
}

static void hot_usage(void)
{
    puts("usage: pikv-bench hot [OPTIONS]   until SIGTERM; JSON lines\n"
         "  --address A   shm:PATH or ucx:HOST:PORT; several with commas\n"
         "  --block SIZE  bytes of a block (16KiB)\n"
         "  --rate N      GET calls a second (500)\n"
         "  --experts N   of the layer (64)");
}

static uint32_t hot_number(const char *option, const char *text, uint32_t max)
{
    char *end;
    unsigned long v = strtoul(text, &end, 10);

    if (*end || v == 0 || v > max)
        bench_die("hot: %s is 1 to %u", option, max);
    return (uint32_t)v;
}

static void hot_parse(struct hot *h, int argc, char **argv)
{
    static const struct option longs[] = {
        {"address", 1, 0, 'a'}, {"block", 1, 0, 'b'}, {"rate", 1, 0, 'r'},
        {"experts", 1, 0, 'e'}, {"help", 0, 0, 'h'},  {0, 0, 0, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'a':
            h->address = optarg;
            break;
        case 'b':
            h->block_bytes = bench_bytes("--block", optarg);
            break;
        case 'r':
            h->rate = hot_number("--rate", optarg, 1000000);
            break;
        case 'e':
            h->experts = hot_number("--experts", optarg, HOT_EXPERTS_MAX);
            break;
        default:
            hot_usage();
            exit(c == 'h' ? 0 : 2);
        }
    }
    if (h->block_bytes % 8 || h->experts < HOT_TOP)
        bench_die("hot: --block is a multiple of 8, --experts at least 8");
}

int bench_hot(int argc, char **argv)
{
    struct hot *h = calloc(1, sizeof *h);
    uint64_t wrong;

    if (!h)
        bench_die("out of memory");
    h->block_bytes = 16384;
    h->rate = 500;
    h->experts = 64;
    h->seed = 88172645463325252u;
    hot_parse(h, argc, argv);
    zipf_init(h);
    open_store(h);
    run(h);
    wrong = h->counts.wrong;
    pikv_close(h->kv);
    free(h);
    return wrong != 0;
}
