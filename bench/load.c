/* SPDX-License-Identifier: Apache-2.0
 *
 * pikv-bench load: requests at a depth against a running pikvd, and what they
 * took. Fills the arena first, unless told that it is filled. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/load.h"

struct load_options {
    struct load_target target;
    struct load_shape shape;
    uint32_t clients;
    uint64_t arena;
    const char *json;
    int pid;
    bool filled;
};

static const char *const op_names[] = {"get", "put", "lookup", "mixed"};

static void load_usage(void)
{
    puts("usage: pikv-bench load [OPTIONS]\n"
         "  --address A     shm:PATH or ucx:HOST:PORT\n"
         "  --op OP         get, put, lookup or mixed (get); mixed is half\n"
         "                  puts, the latencies are those of gets\n"
         "  --size SIZE     of a block (64KiB)\n"
         "  --depth N       calls in flight for each client (16)\n"
         "  --batch N       blocks of a call (1; lookup 128)\n"
         "  --clients N     connections, a thread each (1)\n"
         "  --arena SIZE    bytes of all blocks, read at random (1GiB), or\n"
         "  --keys N        their number\n"
         "  --filled        the arena was filled by an earlier run\n"
         "  --seconds S     length of the run (5), or\n"
         "  --count N       blocks of the run, per client\n"
         "  --miss          lookup of keys that are nowhere\n"
         "  --durable       PUTs wait until the block is on the SSD\n"
         "  --staged        ordinary memory (default: --registered memory)\n"
         "  --loan          get lends the block instead of copying it\n"
         "  --touch         read every cache line of what came\n"
         "  --spin          poll without sleeping; --wait: sleep in\n"
         "                  pikv_wait (default: sleep on the eventfd)\n"
         "  --verify        make and check every byte\n"
         "  --pid N         the daemon's, to tell its CPU\n"
         "  --json FILE     the numbers for a program");
}

static uint64_t number(const char *option, const char *text, uint64_t max)
{
    char *end;
    uint64_t v;

    errno = 0;
    v = strtoull(text, &end, 0);
    if (errno || *end || end == text || v == 0 || v > max)
        bench_die("load: %s %s: not a number from 1 to %llu", option, text,
                  (unsigned long long)max);
    return v;
}

static enum load_op op_named(const char *name)
{
    for (uint32_t i = 0; i < sizeof op_names / sizeof *op_names; i++)
        if (strcmp(name, op_names[i]) == 0)
            return (enum load_op)i;
    bench_die("load: --op %s: get, put, lookup or mixed", name);
}

static void set_flag(struct load_options *o, int c)
{
    switch (c) {
    case 'F':
        o->filled = true;
        break;
    case 'm':
        o->shape.miss = true;
        break;
    case 'T':
        o->shape.touch = true;
        break;
    case 'v':
        o->shape.verify = true;
        break;
    case 'R':
    case 'S':
        o->target.staged = c == 'S';
        break;
    case 'l':
        o->target.loan = true;
        break;
    case 'D':
        o->target.durable = true;
        break;
    case 'p':
    case 'w':
        o->target.idle = c == 'p' ? LOAD_SPIN : LOAD_WAIT;
        break;
    default:
        load_usage();
        exit(c == 'h' ? 0 : 2);
    }
}

static void set(struct load_options *o, int c, const char *arg)
{
    struct load_shape *s = &o->shape;

    switch (c) {
    case 'a':
        o->target.address = arg;
        break;
    case 'o':
        s->op = op_named(arg);
        break;
    case 's':
        s->size = bench_bytes("--size", arg);
        break;
    case 'd':
        s->depth = (uint32_t)number("--depth", arg, LOAD_DEPTH_MAX);
        break;
    case 'b':
        s->batch = (uint32_t)number("--batch", arg, LOAD_BATCH_MAX);
        break;
    case 'c':
        o->clients = (uint32_t)number("--clients", arg, LOAD_CLIENTS_MAX);
        break;
    case 'A':
        o->arena = bench_bytes("--arena", arg);
        break;
    case 'k':
        s->keys = number("--keys", arg, UINT64_C(1) << 36);
        break;
    case 't':
        s->seconds = strtod(arg, NULL);
        break;
    case 'n':
        s->count = number("--count", arg, UINT64_MAX);
        break;
    case 'P':
        o->pid = (int)number("--pid", arg, INT32_MAX);
        break;
    case 'j':
        o->json = arg;
        break;
    default:
        set_flag(o, c);
    }
}

static void load_parse(struct load_options *o, int argc, char **argv)
{
    static const struct option longs[] = {{"address", 1, 0, 'a'},
                                          {"op", 1, 0, 'o'},
                                          {"size", 1, 0, 's'},
                                          {"depth", 1, 0, 'd'},
                                          {"batch", 1, 0, 'b'},
                                          {"clients", 1, 0, 'c'},
                                          {"arena", 1, 0, 'A'},
                                          {"keys", 1, 0, 'k'},
                                          {"filled", 0, 0, 'F'},
                                          {"seconds", 1, 0, 't'},
                                          {"count", 1, 0, 'n'},
                                          {"miss", 0, 0, 'm'},
                                          {"registered", 0, 0, 'R'},
                                          {"durable", 0, 0, 'D'},
                                          {"staged", 0, 0, 'S'},
                                          {"loan", 0, 0, 'l'},
                                          {"touch", 0, 0, 'T'},
                                          {"spin", 0, 0, 'p'},
                                          {"wait", 0, 0, 'w'},
                                          {"verify", 0, 0, 'v'},
                                          {"pid", 1, 0, 'P'},
                                          {"json", 1, 0, 'j'},
                                          {"help", 0, 0, 'h'},
                                          {0, 0, 0, 0}};
    static char space[40]; /* its block size is part of a namespace */
    struct load_shape *s = &o->shape;
    int c;

    *o = (struct load_options){
        .target = {.driver = &load_pikv, .space = space},
        .shape = {.size = 65536, .depth = 16, .seconds = 5},
        .clients = 1,
        .arena = UINT64_C(1) << 30};
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1)
        set(o, c, optarg);
    if (s->size % 8)
        bench_die("load: --size must be a multiple of 8");
    if (s->batch == 0)
        s->batch = s->op == LOAD_LOOKUP ? 128 : 1;
    if (s->keys == 0)
        s->keys = o->arena / s->size ? o->arena / s->size : 1;
    snprintf(space, sizeof space, "bench-load-%llu",
             (unsigned long long)s->size);
    o->target.size = s->size;
    o->target.data_bytes = s->depth * s->batch * s->size;
    if (s->op == LOAD_LOOKUP || o->target.data_bytes < 16 * s->size)
        o->target.data_bytes = 16 * s->size;
}

static void fill(const struct load_options *o, struct load_conn *c)
{
    struct load_shape s = {.op = LOAD_PUT,
                           .size = o->shape.size,
                           .depth = 8,
                           .batch = 1,
                           .keys = o->shape.keys,
                           .count = o->shape.keys,
                           .in_order = true,
                           .verify = true};
    struct load_result r = {0};

    load_run(c, &s, &r); /* EXISTS counts as failed: stored by an earlier run */
    fprintf(stderr, "load: %llu blocks filled in %.1f s, %.2f GB/s\n",
            (unsigned long long)(r.items - r.failed), r.seconds,
            (double)r.bytes / r.seconds / 1e9);
    bench_lat_free(&r.lat);
}

static void print_text(const struct load_options *o, struct load_result *r,
                       double cpu_s)
{
    double gib = (double)r->bytes / (1 << 30), n = (double)r->items;

    printf("%s %llu bytes, depth %u, batch %u, %u client%s: %.1f s\n",
           op_names[o->shape.op], (unsigned long long)o->shape.size,
           o->shape.depth, o->shape.batch, o->clients,
           o->clients > 1 ? "s" : "", r->seconds);
    printf("latency of a call   p50 %.1f  p99 %.1f  p999 %.1f us\n",
           bench_lat_us(&r->lat, 0.5), bench_lat_us(&r->lat, 0.99),
           bench_lat_us(&r->lat, 0.999));
    printf("blocks              %.0f /s, %.3f GB/s\n", n / r->seconds,
           (double)r->bytes / r->seconds / 1e9);
    printf("client CPU          %.2f us per block", r->cpu_s / n * 1e6);
    if (gib > 0)
        printf(", %.3f s per GiB", r->cpu_s / gib);
    if (o->pid)
        printf("\ndaemon CPU          %.2f us per block", cpu_s / n * 1e6);
    if (o->pid && gib > 0)
        printf(", %.3f s per GiB", cpu_s / gib);
    printf("\nnot served          %llu\nwrong bytes         %llu\n",
           (unsigned long long)r->failed, (unsigned long long)r->wrong);
}

static void print_object(const struct load_options *o, struct load_result *r,
                         double cpu_s)
{
    FILE *f = fopen(o->json, "w");

    if (!f)
        bench_die("--json %s: %s", o->json, strerror(errno));
    fprintf(f,
            "{\"op\": \"%s\", \"size\": %llu, \"depth\": %u, \"batch\": %u, "
            "\"clients\": %u, \"seconds\": %.3f, \"blocks\": %llu, "
            "\"bytes\": %llu, \"p50_us\": %.2f, \"p99_us\": %.2f, "
            "\"p999_us\": %.2f, \"client_cpu_s\": %.4f, "
            "\"daemon_cpu_s\": %.4f, \"failed\": %llu, \"wrong\": %llu}\n",
            op_names[o->shape.op], (unsigned long long)o->shape.size,
            o->shape.depth, o->shape.batch, o->clients, r->seconds,
            (unsigned long long)r->items, (unsigned long long)r->bytes,
            bench_lat_us(&r->lat, 0.5), bench_lat_us(&r->lat, 0.99),
            bench_lat_us(&r->lat, 0.999), r->cpu_s, cpu_s,
            (unsigned long long)r->failed, (unsigned long long)r->wrong);
    if (fclose(f))
        bench_die("--json %s: %s", o->json, strerror(errno));
}

int bench_load(int argc, char **argv)
{
    struct load_conn *conns[LOAD_CLIENTS_MAX];
    struct load_options o;
    struct load_result r = {0};
    double cpu_s;

    load_parse(&o, argc, argv);
    for (uint32_t i = 0; i < o.clients; i++) {
        conns[i] = load_open(&o.target, i);
        if (!conns[i])
            bench_die("%s: this build has no such transport", o.target.address);
    }
    if (!o.filled)
        fill(&o, conns[0]);
    cpu_s = load_cpu_s(o.pid);
    load_run_many(conns, o.clients, &o.shape, &r);
    cpu_s = load_cpu_s(o.pid) - cpu_s;
    print_text(&o, &r, cpu_s);
    if (o.json)
        print_object(&o, &r, cpu_s);
    for (uint32_t i = 0; i < o.clients; i++)
        load_close(conns[i]);
    bench_lat_free(&r.lat);
    return r.wrong != 0;
}
