/* SPDX-License-Identifier: Apache-2.0
 *
 * `pikv-bench layers`: what layer-wise loading gains. Against a running pikvd:
 *
 *   parts     GET of one block in ranges: when the first range can be used, and
 *             when all can, with and without call.parts
 *   layouts   GET and PUT of a batch of blocks that lie in pieces, named by a
 *             layout or piece by piece; bytes of the request as the wire has
 *             them (records.tbl)
 *
 * Each figure is a median; every byte is checked once. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "client/pikv.h"

enum {
    RUNS = 40,
    RANGES = 64,
    BLOCKS = 32,
    LAYERS = 80,
    PIECES = 2 * LAYERS, /* K and V */
    KEY_BYTES = 8,
    FRAME = 64,
    RECORD = 64,
    SEG = 24,
};

static struct pikv *kv;
static uint32_t ns;
static const struct pikv_call patient = {.deadline_us = 20000000};

static void must(int e, const char *what)
{
    if (e)
        bench_die("%s: %s", what, pikv_error_text(e));
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return v[n / 2];
}

static struct pikv_key key_of(const char *name)
{
    return (struct pikv_key){.key = {name, KEY_BYTES}};
}

/* ---- parts ---- */

/* One GET of the block in ranges; when the first part and the end came. */
static void parts_once(const char *name, uint8_t *to, size_t range, bool parts,
                       double *first_us, double *all_us)
{
    struct pikv_call call = patient;
    struct pikv_get items[RANGES];
    struct pikv_result r[RANGES];
    struct pikv_completion c;
    uint64_t id, start;
    bool done = false;

    call.parts = parts;
    for (uint32_t i = 0; i < RANGES; i++)
        items[i] = (struct pikv_get){.key = key_of(name),
                                     .data = {to + i * range, range},
                                     .off = i * range};
    *first_us = 0;
    start = bench_now_ns();
    must(pikv_get(kv, ns, items, RANGES, &call, r, &id), "get");
    while (!done) {
        if (pikv_poll(kv, &c, 1) != 1)
            continue;
        *all_us = (double)(bench_now_ns() - start) / 1e3;
        if (*first_us == 0)
            *first_us = *all_us;
        must(c.status, "get");
        done = !c.part;
    }
    for (uint32_t i = 0; i < RANGES; i++)
        must(r[i].status, "range");
}

static void parts_row(const char *what, const char *name, uint8_t *to,
                      size_t range, bool parts)
{
    double first[RUNS], all[RUNS];

    for (uint32_t i = 0; i < RUNS; i++)
        parts_once(name, to, range, parts, &first[i], &all[i]);
    printf("  %-10s %-8s %10.0f %10.0f\n", what, parts ? "parts" : "whole",
           median(first, RUNS), median(all, RUNS));
}

static void parts_run(size_t bytes)
{
    size_t range = bytes / RANGES;
    struct pikv_put put = {.key = key_of("parts..."), .data = {NULL, bytes}};
    struct pikv_result r;
    uint8_t *heap = malloc(bytes);
    void *mem;

    must(pikv_mem_alloc(kv, bytes, &mem), "memory");
    bench_fill(1, mem, bytes);
    put.data.p = mem;
    must(pikv_put_sync(kv, ns, &put, 1, &patient, &r), "put");
    printf("GET of %zu KiB in %d ranges, us:\n  %-10s %-8s %10s %10s\n",
           bytes >> 10, RANGES, "memory", "call", "first", "all");
    for (int p = 0; p < 2; p++) {
        parts_row("registered", "parts...", mem, range, p);
        parts_row("other", "parts...", heap, range, p);
    }
    if (!bench_verify(1, mem, bytes) || !bench_verify(1, heap, bytes))
        bench_die("other bytes than were put");
    pikv_mem_free(kv, mem);
    free(heap);
}

/* ---- layouts ---- */

struct pool {
    uint8_t *mem;
    size_t piece, bytes;
    char names[BLOCKS][KEY_BYTES];
    struct pikv_buf iov[BLOCKS][PIECES];
    uint32_t layout;
};

/* Layer-first: piece k of block b is at k * BLOCKS + b. */
static void pool_init(struct pool *p, size_t piece)
{
    struct pikv_run run = {0, piece, BLOCKS * piece, PIECES};
    struct pikv_layout d = {
        .runs = &run, .run_n = 1, .block_stride = piece, .block_n = BLOCKS};
    void *mem;

    p->piece = piece;
    p->bytes = piece * PIECES * BLOCKS;
    must(pikv_mem_alloc(kv, p->bytes, &mem), "memory");
    p->mem = d.addr = mem;
    must(pikv_layout_register(kv, &d, &p->layout), "layout");
    for (uint32_t b = 0; b < BLOCKS; b++)
        for (uint32_t k = 0; k < PIECES; k++)
            p->iov[b][k] =
                (struct pikv_buf){p->mem + (k * BLOCKS + b) * piece, piece};
}

/* One batch, GET or PUT, by layout or by runs; us. */
static double pool_once(struct pool *p, bool put, bool laid)
{
    static struct pikv_put puts[BLOCKS];
    static struct pikv_get gets[BLOCKS];
    struct pikv_result r[BLOCKS];
    struct pikv_call call = patient;
    uint64_t start;

    call.layout = laid ? p->layout : 0;
    for (uint32_t b = 0; b < BLOCKS; b++) {
        struct pikv_key k = key_of(p->names[b]);

        puts[b] = (struct pikv_put){.key = k, .block = b};
        gets[b] = (struct pikv_get){.key = k, .block = b};
        if (laid)
            continue;
        puts[b].iov = (const struct pikv_bytes *)(const void *)p->iov[b];
        gets[b].iov = p->iov[b];
        puts[b].iov_n = gets[b].iov_n = PIECES;
    }
    start = bench_now_ns();
    must(put ? pikv_put_sync(kv, ns, puts, BLOCKS, &call, r)
             : pikv_get_sync(kv, ns, gets, BLOCKS, &call, r),
         "batch");
    for (uint32_t b = 0; b < BLOCKS; b++)
        must(r[b].status, "block");
    return (double)(bench_now_ns() - start) / 1e3;
}

static void pool_row(struct pool *p, bool laid)
{
    double put[RUNS], get[RUNS];
    size_t segs = laid ? 1 : PIECES;
    uint64_t id;

    for (uint32_t i = 0; i < RUNS; i++) {
        for (uint32_t b = 0; b < BLOCKS; b++)
            snprintf(p->names[b], KEY_BYTES, "%c%02u%03u", laid ? 'l' : 'r', b,
                     i);
        bench_fill(i, p->mem, p->bytes);
        put[i] = pool_once(p, true, laid);
        memset(p->mem, 0, p->bytes);
        get[i] = pool_once(p, false, laid);
        if (!bench_verify(i, p->mem, p->bytes))
            bench_die("other bytes than were put");
        must(
            pikv_evict(kv, ns, PIKV_NAMESPACE, NULL, 0, 0, &patient, NULL, &id),
            "evict");
        must(pikv_wait(kv, id, NULL), "evict");
    }
    printf("  %-8s %10zu %10.0f %10.0f\n", laid ? "layout" : "runs",
           FRAME + RECORD + BLOCKS * (RECORD + KEY_BYTES + segs * SEG),
           median(put, RUNS), median(get, RUNS));
}

static void layouts_run(size_t piece)
{
    struct pool *p = calloc(1, sizeof *p);

    if (!p)
        bench_die("out of memory");
    pool_init(p, piece);
    printf("batch of %d blocks of %d pieces of %zu bytes:\n"
           "  %-8s %10s %10s %10s\n",
           BLOCKS, PIECES, piece, "named by", "bytes", "PUT us", "GET us");
    pool_row(p, false);
    pool_row(p, true);
    must(pikv_layout_unregister(kv, p->layout), "layout");
    pikv_mem_free(kv, p->mem);
    free(p);
}

int bench_layers(int argc, char **argv)
{
    static const struct option options[] = {
        {"address", required_argument, NULL, 'a'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    struct pikv_namespace d = {.name = "bench-layers", .create = true};
    struct pikv_options o = {.staging_bytes = UINT64_C(128) << 20};
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (c == 'a')
            o.address = optarg;
        else {
            puts("usage: pikv-bench layers [--address ADDRESS]\n"
                 "  a pikvd with dram.capacity of 512MiB or more");
            return c == 'h' ? 0 : 2;
        }
    }
    must(pikv_open(&o, &kv), pikv_last_error());
    must(pikv_namespace_open(kv, &d, &ns, NULL), pikv_last_error());
    parts_run((size_t)64 << 20);
    layouts_run(512);
    layouts_run(4096);
    pikv_close(kv);
    return 0;
}
