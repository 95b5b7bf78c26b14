/* SPDX-License-Identifier: Apache-2.0
 *
 * What metrics.tbl becomes besides the struct: sums, names, Prometheus text.
 * Cold paths, on the control thread, except hist_add(). */
#include "base/metrics.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Histograms ----
 * Upper bounds 10 us x 10^(i/4), rounded to ns: 10 us to 10 s. */

static const uint64_t hist_bounds_ns[HIST_BUCKETS - 1] = {
    10000,      17783,      31623,      56234,      100000,
    177828,     316228,     562341,     1000000,    1778279,
    3162278,    5623413,    10000000,   17782794,   31622777,
    56234133,   100000000,  177827941,  316227766,  562341325,
    1000000000, 1778279410, 3162277660, 5623413252, 10000000000,
};

uint64_t hist_bound_ns(uint32_t bucket)
{
    MUST(bucket < HIST_BUCKETS);
    return bucket < HIST_BUCKETS - 1 ? hist_bounds_ns[bucket] : UINT64_MAX;
}

void hist_add(struct hist *h, uint64_t ns)
{
    uint32_t lo = 0, hi = HIST_BUCKETS - 1; /* first bound >= ns */

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (hist_bounds_ns[mid] < ns)
            lo = mid + 1;
        else
            hi = mid;
    }
    metric_add(&h->bucket[lo], 1);
    metric_add(&h->sum_ns, ns);
    metric_add(&h->n, 1);
}

/* Every member is made of u64, so a sum need not know the table. */
void metrics_sum(struct metrics *to, const struct metrics *from)
{
    uint64_t *t = (uint64_t *)(void *)to;
    const uint64_t *f = (const uint64_t *)(const void *)from;

    for (size_t i = 0; i < sizeof(*to) / sizeof(*t); i++)
        t[i] += metric_get(&f[i]);
    /* An age is not a sum: the oldest lane's. */
    to->eviction_age_seconds -= metric_get(&from->eviction_age_seconds);
    to->eviction_age_seconds = max_u64(
        to->eviction_age_seconds, metric_get(&from->eviction_age_seconds));
}

/* ---- Labels ---- */

static const char *const op_names[OP_N] = {
#define OP(id, NAME, name, body, since, us, per_mib, idem, doc) [id] = #name,
#include "proto/ops.tbl"
};

static const char *err_label(uint32_t i)
{
    return err_name(-(int)i);
}

static bool err_known(uint32_t i)
{
    return strcmp(err_label(i), "UNKNOWN") != 0;
}

/* ---- STAT names ---- */

struct walk {
    metrics_walk_fn *fn;
    void *arg;
};

static void walk_value(const struct walk *w, const char *name,
                       const char *label, const char *part, uint64_t value)
{
    char full[96];

    snprintf(full, sizeof(full), "%s%s%s%s%s", name, label ? "." : "",
             label ? label : "", part ? "." : "", part ? part : "");
    w->fn(full, value, w->arg);
}

static void walk_hist(const struct walk *w, const char *name, const char *label,
                      const struct hist *h)
{
    walk_value(w, name, label, "count", metric_get(&h->n));
    walk_value(w, name, label, "sum_ns", metric_get(&h->sum_ns));
}

static void walk_ops(const struct walk *w, const char *name,
                     const uint64_t values[OP_N])
{
    for (uint32_t i = 0; i < OP_N; i++)
        if (op_names[i])
            walk_value(w, name, op_names[i], NULL, metric_get(&values[i]));
}

static void walk_op_hists(const struct walk *w, const char *name,
                          const struct hist hists[OP_N])
{
    for (uint32_t i = 0; i < OP_N; i++)
        if (op_names[i])
            walk_hist(w, name, op_names[i], &hists[i]);
}

static void walk_errs(const struct walk *w, const char *name,
                      const uint64_t values[METRIC_ERRS])
{
    for (uint32_t i = 0; i < METRIC_ERRS; i++)
        if (err_known(i))
            walk_value(w, name, err_label(i), NULL, metric_get(&values[i]));
}

void metrics_walk(const struct metrics *m, metrics_walk_fn *fn, void *arg)
{
    struct walk walk = {fn, arg};
    const struct walk *w = &walk;

#define COUNTER(name, doc)                                                     \
    walk_value(w, #name, NULL, NULL, metric_get(&m->name));
#define GAUGE(name, doc) walk_value(w, #name, NULL, NULL, metric_get(&m->name));
#define OP_COUNTER(name, doc) walk_ops(w, #name, m->name);
#define OP_HIST(name, doc) walk_op_hists(w, #name, m->name);
#define STAGE_HIST(name, doc) walk_hist(w, #name, NULL, &m->name);
#define ERR_COUNTER(name, doc) walk_errs(w, #name, m->name);
#include "base/metrics.tbl"
}

/* ---- Text ---- */

static bool textbuf_room(struct textbuf *t, size_t n)
{
    size_t cap = t->cap ? t->cap : 4096;
    char *text;

    if (n < t->cap - t->len)
        return true;
    while (cap - t->len <= n)
        cap *= 2;
    text = realloc(t->text, cap);
    if (!text) {
        free(t->text);
        *t = (struct textbuf){.bad = true};
        return false;
    }
    t->text = text;
    t->cap = cap;
    return true;
}

void textbuf_add(struct textbuf *t, const char *fmt, ...)
{
    va_list ap, again;
    int n;

    if (t->bad)
        return;
    va_start(ap, fmt);
    va_copy(again, ap);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n >= 0 && textbuf_room(t, (size_t)n)) {
        vsnprintf(t->text + t->len, t->cap - t->len, fmt, again);
        t->len += (size_t)n;
    }
    va_end(again);
}

/* ---- Prometheus ----
 * OpenMetrics names a counter's family without _total. */

struct prom {
    struct textbuf *out;
    bool openmetrics;
};

static void prom_family(const struct prom *p, const char *name,
                        const char *type, const char *doc)
{
    const char *total =
        strcmp(type, "counter") == 0 && !p->openmetrics ? "_total" : "";

    textbuf_add(p->out, "# HELP pikvd_%s%s ", name, total);
    for (; *doc; doc++) {
        if (*doc == '\\' || (*doc == '"' && p->openmetrics))
            textbuf_add(p->out, "\\");
        textbuf_add(p->out, "%c", *doc);
    }
    textbuf_add(p->out, "\n# TYPE pikvd_%s%s %s\n", name, total, type);
}

static void prom_counter(const struct prom *p, const char *name,
                         const char *doc, const uint64_t *v)
{
    prom_family(p, name, "counter", doc);
    textbuf_add(p->out, "pikvd_%s_total %" PRIu64 "\n", name, metric_get(v));
}

static void prom_gauge(const struct prom *p, const char *name, const char *doc,
                       const uint64_t *v)
{
    prom_family(p, name, "gauge", doc);
    textbuf_add(p->out, "pikvd_%s %" PRIu64 "\n", name, metric_get(v));
}

static void prom_ops(const struct prom *p, const char *name, const char *doc,
                     const uint64_t values[OP_N])
{
    prom_family(p, name, "counter", doc);
    for (uint32_t i = 0; i < OP_N; i++)
        if (op_names[i])
            textbuf_add(p->out, "pikvd_%s_total{op=\"%s\"} %" PRIu64 "\n", name,
                        op_names[i], metric_get(&values[i]));
}

static void prom_errs(const struct prom *p, const char *name, const char *doc,
                      const uint64_t values[METRIC_ERRS])
{
    prom_family(p, name, "counter", doc);
    for (uint32_t i = 0; i < METRIC_ERRS; i++)
        if (err_known(i))
            textbuf_add(p->out, "pikvd_%s_total{code=\"%s\"} %" PRIu64 "\n",
                        name, err_label(i), metric_get(&values[i]));
}

/* ns as seconds without floating point: exact, and no locale. */
static void prom_seconds(struct textbuf *out, uint64_t ns)
{
    textbuf_add(out, "%" PRIu64 ".%09" PRIu64, ns / NS_PER_S, ns % NS_PER_S);
}

static void prom_hist(const struct prom *p, const char *name, const char *op,
                      const struct hist *h)
{
    char label[48] = "", only[50] = "";
    uint64_t n = 0;

    if (op) {
        snprintf(label, sizeof(label), "op=\"%s\",", op);
        snprintf(only, sizeof(only), "{op=\"%s\"}", op);
    }
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        n += metric_get(&h->bucket[i]);
        textbuf_add(p->out, "pikvd_%s_bucket{%sle=\"", name, label);
        if (i < HIST_BUCKETS - 1)
            prom_seconds(p->out, hist_bounds_ns[i]);
        else
            textbuf_add(p->out, "+Inf");
        textbuf_add(p->out, "\"} %" PRIu64 "\n", n);
    }
    textbuf_add(p->out, "pikvd_%s_sum%s ", name, only);
    prom_seconds(p->out, metric_get(&h->sum_ns));
    /* The buckets' sum, not h->n: the owner may be between the two stores. */
    textbuf_add(p->out, "\npikvd_%s_count%s %" PRIu64 "\n", name, only, n);
}

static void prom_stage(const struct prom *p, const char *name, const char *doc,
                       const struct hist *h)
{
    prom_family(p, name, "histogram", doc);
    prom_hist(p, name, NULL, h);
}

static void prom_op_hists(const struct prom *p, const char *name,
                          const char *doc, const struct hist hists[OP_N])
{
    prom_family(p, name, "histogram", doc);
    for (uint32_t i = 0; i < OP_N; i++)
        if (op_names[i])
            prom_hist(p, name, op_names[i], &hists[i]);
}

void metrics_prometheus(const struct metrics *m, bool openmetrics,
                        struct textbuf *out)
{
    struct prom prom = {out, openmetrics};
    const struct prom *p = &prom;

#define COUNTER(name, doc) prom_counter(p, #name, doc, &m->name);
#define GAUGE(name, doc) prom_gauge(p, #name, doc, &m->name);
#define OP_COUNTER(name, doc) prom_ops(p, #name, doc, m->name);
#define OP_HIST(name, doc) prom_op_hists(p, #name, doc, m->name);
#define STAGE_HIST(name, doc) prom_stage(p, #name, doc, &m->name);
#define ERR_COUNTER(name, doc) prom_errs(p, #name, doc, m->name);
#include "base/metrics.tbl"
}
