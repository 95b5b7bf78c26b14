/* SPDX-License-Identifier: Apache-2.0
 *
 * Counters of one lane, made from metrics.tbl. The owner writes with
 * metric_add (a relaxed store, no lock prefix), anyone reads with metric_get.
 * Histograms: 25 buckets, 10 us to 10 s, four per decade, plus +Inf. */
#ifndef BASE_METRICS_H
#define BASE_METRICS_H

#include "base/err.h"
#include "proto/wire.h"

enum { HIST_BUCKETS = 26, METRIC_ERRS = 48 };

struct hist {
    uint64_t bucket[HIST_BUCKETS]; /* not cumulative; last is +Inf */
    uint64_t sum_ns, n;
};

struct metrics {
#define COUNTER(name, doc) uint64_t name;
#define GAUGE(name, doc) uint64_t name;
#define OP_COUNTER(name, doc) uint64_t name[OP_N];
#define OP_HIST(name, doc) struct hist name[OP_N];
#define STAGE_HIST(name, doc) struct hist name;
#define ERR_COUNTER(name, doc) uint64_t name[METRIC_ERRS]; /* [-code] */
#include "base/metrics.tbl"
};

static inline void metric_add(uint64_t *m, uint64_t n)
{
    __atomic_store_n(m, *m + n, __ATOMIC_RELAXED);
}

static inline void metric_set(uint64_t *m, uint64_t v)
{
    __atomic_store_n(m, v, __ATOMIC_RELAXED);
}

static inline uint64_t metric_get(const uint64_t *m)
{
    return __atomic_load_n(m, __ATOMIC_RELAXED);
}

void hist_add(struct hist *h, uint64_t ns);
/* Upper bound of a bucket in ns; UINT64_MAX for the last. */
uint64_t hist_bound_ns(uint32_t bucket);
/* Adds every field of from to to (to is private to the caller). */
void metrics_sum(struct metrics *to, const struct metrics *from);

/* Walks all scalar values with their STAT names ("put_stored",
 * "requests.get", "request_seconds.get.count", "results.MISS", ...). */
typedef void metrics_walk_fn(const char *name, uint64_t value, void *arg);
void metrics_walk(const struct metrics *m, metrics_walk_fn *fn, void *arg);

/* Prometheus text 0.0.4 or OpenMetrics 1.0. Appends to a growing buffer.
 * free() text. NULL text on out of memory. */
struct textbuf {
    char *text;
    size_t len, cap;
    bool bad;
};
void textbuf_add(struct textbuf *t, const char *fmt, ...) printf_like(2, 3);
void metrics_prometheus(const struct metrics *m, bool openmetrics,
                        struct textbuf *out);

#endif
