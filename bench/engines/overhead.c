/* SPDX-License-Identifier: Apache-2.0
 *
 * The C half of overhead.py: batches of GET with libpikv as a user has it,
 * submit and pikv_wait, from one thread; prints the microseconds of each.
 *
 *     overhead ADDRESS BATCHES ITEMS BYTES REGISTERED */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/pikv.h"

enum { ITEMS_MAX = 1024, KEY = 16 };

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static unsigned number(const char *text)
{
    return (unsigned)strtoul(text, NULL, 10);
}

static void must(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "overhead: %s: %s\n", what, pikv_last_error());
    exit(1);
}

int main(int argc, char **argv)
{
    static char keys[ITEMS_MAX][KEY];
    static struct pikv_get items[ITEMS_MAX];
    static struct pikv_result results[ITEMS_MAX];
    struct pikv_options o = {.address = argv[1], .connect_ms = 5000};
    struct pikv_namespace d = {.name = "overhead", .create = true};
    struct pikv_call call = {.deadline_us = 5000 * 1000};
    struct pikv *kv;
    void *memory;
    unsigned batches, n, bytes;
    uint32_t ns;

    must(argc == 6, "arguments");
    batches = number(argv[2]);
    n = number(argv[3]);
    bytes = number(argv[4]);
    must(n <= ITEMS_MAX && pikv_open(&o, &kv) == 0, "open");
    must(pikv_namespace_open(kv, &d, &ns, NULL) == 0, "namespace");
    if (number(argv[5]))
        must(pikv_mem_alloc(kv, (size_t)n * bytes, &memory) == 0, "memory");
    else
        memory = malloc((size_t)n * bytes);
    for (unsigned i = 0; i < n; i++) {
        snprintf(keys[i], KEY, "key-%u", i);
        items[i] = (struct pikv_get){
            .key = {.key = {keys[i], strlen(keys[i])}},
            .data = {(char *)memory + (size_t)i * bytes, bytes}};
    }
    for (unsigned b = 0; b < batches; b++) {
        double start = now_us();

        must(pikv_get_sync(kv, ns, items, n, &call, results) == 0, "get");
        printf("%.2f\n", now_us() - start);
        must(results[n - 1].status == 0, "get of the last");
    }
    pikv_close(kv);
    return 0;
}
