/* SPDX-License-Identifier: Apache-2.0
 *
 * pikv-bench replay: a conversation trace through libpikv, as an inference
 * server would use it. Closed loop with a few requests at a time; each is
 *
 *   LOOKUP its blocks -> GET the longest prefix -> PUT the rest
 *
 * and every byte that comes back is compared with what its block id makes. A
 * block that went between LOOKUP and GET ends the prefix there.
 *
 * --from and --limit play a piece of the trace, so that a daemon can be killed
 * between two pieces; --rows tells the hit ratio over time to a program, --plan
 * only what would be asked of the daemon.
 *
 * --live plays it again and again until SIGTERM, through losses: what a node
 * that went away did not answer is a miss, counted by its error, and a line of
 * JSON says where it is (live.h). A wrong byte is one all the same. */
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/replay.h"

const char *const phase_names[PHASES] = {"LOOKUP", "GET", "PUT"};

static uint32_t block_of(const struct replay *r, const struct replay_worker *w,
                         uint32_t i)
{
    return r->trace.ids[w->req->first + i];
}

static void submit_failed(int code)
{
    if (code)
        bench_die("submit: %s: %s", pikv_error_name(code),
                  pikv_error_text(code));
}

static void start_lookup(struct replay *r, struct replay_worker *w)
{
    struct pikv_call call = {.user = w, .deadline_us = 1000000};
    uint64_t id;

    for (uint32_t i = 0; i < w->req->n; i++) {
        int n = snprintf(w->keys[i], KEY_BYTES, "conv:%llu",
                         (unsigned long long)r->trace.names[block_of(r, w, i)]);

        w->lookup[i] = (struct pikv_key){.key = {w->keys[i], (size_t)n}};
    }
    submit_failed(pikv_lookup(r->kv, r->ns, w->lookup, w->req->n, NULL, 1, NULL,
                              &call, w->results, &id));
}

static void start_get(struct replay *r, struct replay_worker *w)
{
    struct pikv_call call = {.user = w, .deadline_us = 5000000};
    uint64_t id;

    for (uint32_t i = 0; i < w->batch; i++)
        w->gets[i] = (struct pikv_get){
            .key = w->lookup[w->done + i],
            .data = {w->data + i * r->opt.block_bytes, r->opt.block_bytes}};
    submit_failed(
        pikv_get(r->kv, r->ns, w->gets, w->batch, &call, w->results, &id));
}

/* The SSD is not to be outrun: a prefill takes longer than its PUT. Whoever
 * sleeps here sleeps for all. */
static void keep_rate(struct replay *r, uint64_t bytes)
{
    uint64_t now = bench_now_ns(), due;

    r->put_bytes += bytes;
    if (!r->opt.put_rate)
        return;
    due = r->begun_ns +
          (uint64_t)((double)r->put_bytes / (double)r->opt.put_rate * 1e9);
    if (due > now)
        usleep((useconds_t)((due - now) / 1000));
}

static void start_put(struct replay *r, struct replay_worker *w)
{
    struct pikv_call call = {.user = w, .deadline_us = 5000000};
    uint64_t id;

    for (uint32_t i = 0; i < w->batch; i++) {
        uint32_t at = w->done + i;
        uint8_t *p = w->data + i * r->opt.block_bytes;

        bench_fill(block_of(r, w, at), p, r->opt.block_bytes);
        w->puts[i] = (struct pikv_put){.key = w->lookup[at],
                                       .data = {p, r->opt.block_bytes},
                                       .page = at,
                                       .token_end = (at + 1) * TOKENS_PER_BLOCK,
                                       .token_n = TOKENS_PER_BLOCK};
        if (at)
            w->puts[i].parent = w->lookup[at - 1].key;
    }
    keep_rate(r, w->batch * r->opt.block_bytes);
    w->begun_ns = bench_now_ns(); /* making the bytes is not the store's time */
    submit_failed(
        pikv_put(r->kv, r->ns, w->puts, w->batch, &call, w->results, &id));
}

static struct replay_part *part_of(struct replay *r,
                                   const struct replay_worker *w)
{
    uint64_t i = (uint64_t)(w->req - r->trace.requests) - r->opt.from;

    return &r->parts[i * r->opt.parts / (r->end - r->opt.from)];
}

/* How far a cache that loses nothing would have got. */
static uint32_t could_hit(const struct replay *r, const struct replay_worker *w)
{
    uint32_t n = 0;

    while (r->opt.live && n < w->req->n && r->seen[block_of(r, w, n)])
        n++;
    return n;
}

static void ended(struct replay *r, const struct replay_worker *w)
{
    r->ended_refs += w->req->n;
    r->could += w->could;
    for (uint32_t i = 0; r->opt.live && i < w->req->n; i++)
        r->seen[block_of(r, w, i)] = true;
}

/* The next call of this worker: same phase, next phase or next request. */
static void worker_go(struct replay *r, struct replay_worker *w)
{
    uint32_t end = w->phase == GET ? w->prefix : w->req->n;

    if (w->phase != LOOKUP && w->done == end && w->phase == GET) {
        w->phase = PUT;
        end = w->req->n;
    }
    w->begun_ns = bench_now_ns();
    if (w->phase == LOOKUP) {
        start_lookup(r, w);
        return;
    }
    w->batch = end - w->done < BATCH ? end - w->done : BATCH;
    if (w->batch == 0) {
        r->requests++;
        r->hits += w->prefix;
        ended(r, w);
        part_of(r, w)->hits += w->prefix;
        r->active--;
        w->req = NULL;
    } else if (w->phase == GET) {
        start_get(r, w);
    } else {
        start_put(r, w);
    }
}

/* Is it time for another request, as far as the pace says? */
static bool pace_due(const struct replay *r)
{
    if (!r->opt.pace)
        return true;
    return bench_now_ns() - r->begun_ns >=
           r->started * UINT64_C(1000000000) / r->opt.pace;
}

static bool worker_next(struct replay *r, struct replay_worker *w)
{
    if (r->opt.live && live_ended())
        r->end = r->next;
    else if (r->opt.live && r->next == r->end)
        r->next = (uint32_t)r->opt.from;
    if (r->next == r->end || !pace_due(r))
        return false;
    r->started++;
    w->req = &r->trace.requests[r->next++];
    w->phase = LOOKUP;
    w->done = w->prefix = 0;
    w->could = could_hit(r, w);
    r->active++;
    r->refs += w->req->n;
    part_of(r, w)->refs += w->req->n;
    worker_go(r, w);
    return true;
}

static void got(struct replay *r, struct replay_worker *w)
{
    for (uint32_t i = 0; i < w->batch; i++) {
        const struct pikv_result *res = &w->results[i];

        live_item(&r->live, res->status);
        if (res->status != PIKV_OK) { /* the prefix ends here */
            r->evicted_between += res->status == PIKV_MISS;
            r->failed[GET] += res->status != PIKV_MISS;
            w->prefix = w->done += i;
            w->phase = PUT;
            return;
        }
        r->bytes[GET] += res->moved;
        if (res->moved != r->opt.block_bytes ||
            !bench_verify(block_of(r, w, w->done + i), w->gets[i].data.p,
                          res->moved))
            r->verify_errors++;
    }
    w->done += w->batch;
}

static void stored(struct replay *r, struct replay_worker *w)
{
    for (uint32_t i = 0; i < w->batch; i++) {
        int s = w->results[i].status;

        live_item(&r->live, s);
        r->stored += s == PIKV_OK;
        r->bytes[PUT] += s == PIKV_OK ? r->opt.block_bytes : 0;
        /* Another request of this replay may be storing the same block. */
        if (s != PIKV_OK && s != PIKV_EXISTS && s != PIKV_PENDING)
            r->failed[PUT]++;
    }
    w->done += w->batch;
}

static void completed(struct replay *r, const struct pikv_completion *c)
{
    struct replay_worker *w = c->user;

    r->calls[w->phase]++;
    bench_lat_add(&r->lat[w->phase], bench_now_ns() - w->begun_ns);
    live_call(&r->live, bench_now_ns() - w->begun_ns);
    if (c->status && !r->opt.live)
        bench_die("%s: %s: %s", phase_names[w->phase],
                  pikv_error_name(c->status), pikv_error_text(c->status));
    if (w->phase == LOOKUP) {
        for (uint32_t i = 0; i < w->req->n; i++)
            live_item(&r->live, w->results[i].status);
        w->prefix = c->prefix;
        for (uint32_t i = 0; i < w->prefix; i++)
            part_of(r, w)->ssd_hits += w->results[i].tier == 1;
        w->phase = GET;
    } else if (w->phase == GET) {
        got(r, w);
    } else {
        stored(r, w);
    }
    worker_go(r, w);
    if (!w->req)
        (void)worker_next(r, w);
}

static void progress(struct replay *r)
{
    uint64_t now = bench_now_ns();

    if (r->opt.quiet || now - r->shown_ns < 500000000u)
        return;
    r->shown_ns = now;
    fprintf(stderr,
            "\rreplay: %llu of %llu requests, prefix hits %.1f %%, %.2f GB/s ",
            (unsigned long long)r->requests,
            (unsigned long long)(r->end - r->opt.from),
            r->refs ? 100.0 * (double)r->hits / (double)r->refs : 0,
            (double)(r->bytes[GET] + r->bytes[PUT]) /
                (double)(now - r->begun_ns));
}

static void run(struct replay *r, struct replay_worker *workers)
{
    struct pollfd fd = {.fd = pikv_event_fd(r->kv), .events = POLLIN};
    struct pikv_completion done[16];

    live_begin(&r->live, r->opt.live);
    r->begun_ns = bench_now_ns();
    r->cpu_s = bench_cpu_s(r->opt.pid);
    for (uint32_t i = 0; i < r->opt.depth; i++)
        (void)worker_next(r, &workers[i]);
    while (r->active || (r->opt.live && !live_ended())) {
        int n = pikv_poll(r->kv, done, 16);

        if (n < 0)
            bench_die("poll: %s", pikv_error_name(n));
        for (int i = 0; i < n; i++)
            completed(r, &done[i]);
        if (n == 0)
            (void)poll(&fd, 1, r->opt.pace ? 2 : 10);
        for (uint32_t i = 0; i < r->opt.depth; i++)
            if (!workers[i].req)
                (void)worker_next(r, &workers[i]);
        if (r->opt.live)
            replay_tell(r, false);
        progress(r);
    }
    if (r->opt.live)
        replay_tell(r, true);
    r->cpu_s = bench_cpu_s(r->opt.pid) - r->cpu_s;
    if (!r->opt.quiet)
        fprintf(stderr, "\r%79s\r", "");
}

static void usage(void)
{
    puts("usage: pikv-bench replay --trace FILE [OPTIONS]\n"
         "  --address A       shm:PATH or ucx:HOST:PORT; several with commas\n"
         "  --block SIZE      bytes that stand for a block (64KiB)\n"
         "  --from N          begin with request N (0)\n"
         "  --limit N         only N requests\n"
         "  --depth N         requests at a time (4)\n"
         "  --put-rate SIZE   bytes of PUT per second at most (as it goes)\n"
         "  --policy NAME     eviction policy of the namespace\n"
         "  --prefill-rate N  tokens per second for `prefill saved` (10000)\n"
         "  --pid N           the daemon's, to tell its CPU\n"
         "  --json FILE       the numbers for a program\n"
         "  --parts N         parts in time, for --rows (10)\n"
         "  --rows FILE       of each part: blocks asked, hit, hit on SSD\n"
         "  --plan            print requests, blocks asked and distinct; no "
         "more\n"
         "  --pace N          requests a second at most (as it goes)\n"
         "  --live            again and again until SIGTERM, failed calls are\n"
         "                    misses; lines of JSON while it runs\n"
         "  --quiet           no progress");
}

/* Options with a number. false: not one of them. */
static bool parse_number(struct replay_options *o, int c)
{
    switch (c) {
    case 'b':
        o->block_bytes = bench_bytes("--block", optarg);
        return true;
    case 'u':
        o->put_rate = bench_bytes("--put-rate", optarg);
        return true;
    case 'f':
        o->from = strtoull(optarg, NULL, 0);
        return true;
    case 'l':
        o->limit = strtoull(optarg, NULL, 0);
        return true;
    case 'd':
        o->depth = (uint32_t)strtoul(optarg, NULL, 0);
        return true;
    case 'n':
        o->parts = (uint32_t)strtoul(optarg, NULL, 0);
        return true;
    case 'c':
        o->pace = (uint32_t)strtoul(optarg, NULL, 0);
        return true;
    case 'r':
        o->prefill_rate = strtod(optarg, NULL);
        return true;
    case 'P':
        o->pid = (int)strtoul(optarg, NULL, 10);
        return true;
    default:
        return false;
    }
}

static void parse_one(struct replay_options *o, int c)
{
    switch (c) {
    case 'a':
        o->address = optarg;
        break;
    case 't':
        o->trace = optarg;
        break;
    case 'p':
        o->policy = optarg;
        break;
    case 'j':
        o->json = optarg;
        break;
    case 'R':
        o->rows = optarg;
        break;
    case 'q':
        o->quiet = true;
        break;
    case 'V':
        o->live = true;
        o->quiet = true;
        break;
    case 'L':
        o->plan = true;
        break;
    default:
        usage();
        exit(c == 'h' ? 0 : 2);
    }
}

static void parse(struct replay_options *o, int argc, char **argv)
{
    static const struct option longs[] = {{"address", 1, 0, 'a'},
                                          {"trace", 1, 0, 't'},
                                          {"block", 1, 0, 'b'},
                                          {"from", 1, 0, 'f'},
                                          {"limit", 1, 0, 'l'},
                                          {"depth", 1, 0, 'd'},
                                          {"policy", 1, 0, 'p'},
                                          {"put-rate", 1, 0, 'u'},
                                          {"prefill-rate", 1, 0, 'r'},
                                          {"pid", 1, 0, 'P'},
                                          {"json", 1, 0, 'j'},
                                          {"parts", 1, 0, 'n'},
                                          {"rows", 1, 0, 'R'},
                                          {"plan", 0, 0, 'L'},
                                          {"quiet", 0, 0, 'q'},
                                          {"help", 0, 0, 'h'},
                                          {"pace", 1, 0, 'c'},
                                          {"live", 0, 0, 'V'},
                                          {0, 0, 0, 0}};
    int c;

    *o = (struct replay_options){.block_bytes = 65536,
                                 .depth = 4,
                                 .parts = 10,
                                 .prefill_rate = 10000,
                                 .limit = UINT64_MAX};
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1)
        if (!parse_number(o, c))
            parse_one(o, c);
    if (!o->trace)
        bench_die("replay: --trace FILE is needed");
    if (o->depth < 1 || o->depth > 64 || o->prefill_rate <= 0 ||
        o->block_bytes % 8 || o->parts < 1 || o->parts > PARTS_MAX ||
        o->limit < 1)
        bench_die("replay: --depth is 1 to 64, --prefill-rate is above 0, "
                  "--block a multiple of 8, --parts 1 to 100, --limit above 0");
}

static void open_store(struct replay *r)
{
    struct pikv_options opt = {.address = r->opt.address,
                               .engine = "pikv-bench replay"};
    struct pikv_group group = {.kind = "attention",
                               .tokens_per_block = TOKENS_PER_BLOCK,
                               .block_bytes = r->opt.block_bytes};
    struct pikv_namespace ns = {.name = "replay",
                                .model = "trace",
                                .groups = &group,
                                .group_n = 1,
                                .create = true,
                                .policy = r->opt.policy};
    int e = pikv_open(&opt, &r->kv);

    if (!e)
        e = pikv_namespace_open(r->kv, &ns, &r->ns, NULL);
    if (e)
        bench_die("%s: %s (%s)", r->opt.address ? r->opt.address : "pikvd",
                  pikv_error_text(e), pikv_last_error());
}

static void open_worker(struct replay *r, struct replay_worker *w,
                        uint32_t blocks)
{
    void *data;

    if (pikv_mem_alloc(r->kv, BATCH * r->opt.block_bytes, &data))
        bench_die("no shared memory for %u blocks", BATCH);
    w->data = data;
    w->keys = calloc(blocks, sizeof *w->keys);
    w->lookup = calloc(blocks, sizeof *w->lookup);
    w->results = calloc(blocks > BATCH ? blocks : BATCH, sizeof *w->results);
    if (!w->keys || !w->lookup || !w->results)
        bench_die("out of memory");
}

static void take_piece(struct replay *r)
{
    uint64_t there = r->trace.requests_n;

    if (r->opt.from >= there)
        bench_die("--from %llu: the trace has %llu requests",
                  (unsigned long long)r->opt.from, (unsigned long long)there);
    r->next = (uint32_t)r->opt.from;
    r->end = r->opt.limit < there - r->opt.from
                 ? (uint32_t)(r->opt.from + r->opt.limit)
                 : (uint32_t)there;
}

int bench_replay(int argc, char **argv)
{
    struct replay *r = calloc(1, sizeof *r);
    struct replay_worker *workers;
    struct errmsg m = {""};
    uint32_t longest = 1;
    double wall_s;

    if (!r)
        bench_die("out of memory");
    parse(&r->opt, argc, argv);
    if (bench_trace_load(r->opt.trace, &r->trace, &m))
        bench_die("%s", m.text);
    take_piece(r);
    if (r->opt.plan) {
        replay_print_plan(r);
        bench_trace_free(&r->trace);
        return 0;
    }
    for (uint32_t i = 0; i < r->trace.requests_n; i++)
        if (r->trace.requests[i].n > longest)
            longest = r->trace.requests[i].n;
    open_store(r);
    workers = calloc(r->opt.depth, sizeof *workers);
    r->seen = calloc(r->trace.blocks, sizeof *r->seen);
    if (!workers || !r->seen)
        bench_die("out of memory");
    for (uint32_t i = 0; i < r->opt.depth; i++)
        open_worker(r, &workers[i], longest);
    run(r, workers);
    wall_s = (double)(bench_now_ns() - r->begun_ns) / 1e9;
    if (!r->opt.live)
        replay_print_table(r, wall_s);
    if (r->opt.json)
        replay_print_json(r, wall_s);
    if (r->opt.rows)
        replay_print_rows(r);
    pikv_close(r->kv);
    bench_trace_free(&r->trace);
    return r->verify_errors != 0;
}
