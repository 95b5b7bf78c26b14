/* SPDX-License-Identifier: Apache-2.0
 *
 * Shared parts of pikv-bench (bench.h). */
#include "bench/bench.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/units.h"

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

__attribute__((optimize("O3"))) void bench_fill(uint64_t id, void *p,
                                                size_t len)
{
    uint64_t base = mix(id + 1), step = mix(~id) | 1;
    uint64_t *w = p;

    for (size_t i = 0; i < len / 8; i++)
        w[i] = base + i * step;
}

__attribute__((optimize("O3"))) bool bench_verify(uint64_t id, const void *p,
                                                  size_t len)
{
    uint64_t base = mix(id + 1), step = mix(~id) | 1, bad = 0;
    const uint64_t *w = p;

    for (size_t i = 0; i < len / 8; i++)
        bad |= w[i] ^ (base + i * step);
    return bad == 0;
}

enum { LAT_CAP = 1 << 20 };

void bench_lat_add(struct bench_lat *l, uint64_t ns)
{
    uint64_t v = ns * 16 / 1000;

    if (!l->us_x16) {
        l->us_x16 = malloc(LAT_CAP * sizeof *l->us_x16);
        l->cap = LAT_CAP;
        l->stride = 1;
        if (!l->us_x16)
            bench_die("out of memory");
    }
    if (l->count++ % l->stride)
        return;
    if (l->n == l->cap) { /* thin out: keep every other one from now on */
        for (size_t i = 0; i < l->n / 2; i++)
            l->us_x16[i] = l->us_x16[2 * i];
        l->n /= 2;
        l->stride *= 2;
    }
    l->us_x16[l->n++] = v < UINT32_MAX ? (uint32_t)v : UINT32_MAX;
}

static int lat_order(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

void bench_lat_join(struct bench_lat *l, const struct bench_lat *from)
{
    for (size_t i = 0; i < from->n; i++)
        bench_lat_add(l, (uint64_t)from->us_x16[i] * 1000 / 16);
}

double bench_lat_us(struct bench_lat *l, double quantile)
{
    size_t at;

    if (l->n == 0)
        return 0;
    qsort(l->us_x16, l->n, sizeof *l->us_x16, lat_order);
    at = (size_t)((double)l->n * quantile);
    return l->us_x16[at < l->n ? at : l->n - 1] / 16.0;
}

void bench_lat_free(struct bench_lat *l)
{
    free(l->us_x16);
    memset(l, 0, sizeof *l);
}

uint64_t bench_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double bench_cpu_s(int pid)
{
    char path[64], line[1024], *p;
    unsigned long user = 0, sys = 0;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    f = fopen(path, "r");
    if (!f)
        return 0;
    p = fgets(line, sizeof line, f) ? strrchr(line, ')') : NULL;
    fclose(f);
    if (!p || sscanf(p + 2,
                     "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                     &user, &sys) != 2)
        return 0;
    return (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
}

uint64_t bench_bytes(const char *option, const char *text)
{
    uint64_t bytes;

    if (units_bytes(text, &bytes) || bytes == 0)
        bench_die("%s %s: not a size; for example 64KiB, 16MiB", option, text);
    return bytes;
}

void bench_die(const char *fmt, ...)
{
    va_list ap;

    fputs("pikv-bench: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}
