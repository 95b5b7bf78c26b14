/* SPDX-License-Identifier: Apache-2.0
 *
 * size: what more memory or SSD would bring.
 *
 *     every lane --SIZE--> its curve, bytes of its part -+
 *                                                        +--> hit ratio at
 *     trace --ctl_size_trace.c--> one curve -------------+    1/2, 1, 2, 4
 * times
 *
 * Lanes share the keys evenly, and so the bytes: the whole with B bytes is its
 * lanes with B / lanes each, their hit ratios weighted by their accesses. A
 * curve speaks of LRU and all accesses, so it is a guide, not a promise. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl_size.h"

enum { LANES_MAX = 64, BLOCK_KIB = 64 };

struct size {
    struct size_curve lanes[LANES_MAX];
    uint32_t lane_n;
    uint64_t dram_bytes, ssd_bytes;
};

static const struct {
    const char *name;
    double times;
} factors[] = {{"x1/2", 0.5}, {"now", 1}, {"x2", 2}, {"x4", 4}};

void size_curve_free(struct size_curve *v)
{
    free(v->points);
    v->points = NULL;
}

/* ---- curves ---- */

static double curve_at(const struct size_curve *v, double bytes)
{
    struct size_point a = {0, 0};

    for (size_t i = 0; i < v->n; i++) {
        struct size_point b = v->points[i];

        if (b.bytes >= bytes && b.bytes > a.bytes)
            return a.hit_ratio + (b.hit_ratio - a.hit_ratio) *
                                     (bytes - a.bytes) / (b.bytes - a.bytes);
        a = b;
    }
    return a.hit_ratio;
}

static uint64_t size_accesses(const struct size *z)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < z->lane_n; i++)
        sum += z->lanes[i].accesses;
    return sum;
}

static double size_at(const struct size *z, double bytes)
{
    double hits = 0, all = (double)size_accesses(z);

    for (uint32_t i = 0; i < z->lane_n; i++)
        hits += (double)z->lanes[i].accesses *
                curve_at(&z->lanes[i], bytes / z->lane_n);
    return all > 0 ? hits / all : 0;
}

/* ---- from the daemon ---- */

static int compare_points(const void *a, const void *b)
{
    const struct size_point *x = a, *y = b;

    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static bool curve_take(const Pikv__SizeReply *r, struct size_curve *out)
{
    out->points = calloc(r->n_points + 1, sizeof(*out->points));
    if (!out->points)
        return false;
    out->n = r->n_points;
    out->accesses = r->accesses;
    out->sampled = r->sampled;
    for (size_t i = 0; i < out->n; i++)
        out->points[i] = (struct size_point){(double)r->points[i]->bytes,
                                             r->points[i]->hit_ratio};
    if (out->n)
        qsort(out->points, out->n, sizeof(*out->points), compare_points);
    return true;
}

static int size_ask_namespace(struct ctl *c, Pikv__SizeRequest *m)
{
    uint64_t generation;
    int code, s;

    if (!c->opt[OPT_NAMESPACE])
        return CTL_OK;
    s = link_namespace(c, false);
    if (s)
        return s;
    code = pikv_namespace_id(c->kv, c->ns, &m->ns, &generation);
    return code ? ctl_fail_code(code, "size") : CTL_OK;
}

/* Sizes of the tiers; with curves also those. */
static int size_ask(struct ctl *c, struct size *z, bool curves)
{
    Pikv__SizeRequest m;
    int s = link_open(c);

    pikv__size_request__init(&m);
    s = s ? s : size_ask_namespace(c, &m);
    if (s)
        return s;
    z->lane_n = curves ? c->info.lanes : z->lane_n;
    if (c->info.lanes > LANES_MAX)
        return ctl_fail_code(PIKV_LIMIT, "size");
    for (uint32_t lane = 0; lane < c->info.lanes && !s; lane++) {
        Pikv__SizeReply *r = link_get(c, "size", lane, &m.base,
                                      &pikv__size_reply__descriptor, &s);

        if (!r)
            return s;
        z->dram_bytes = r->dram_bytes;
        z->ssd_bytes = r->ssd_bytes;
        if (curves && !curve_take(r, &z->lanes[lane]))
            s = ctl_fail_code(PIKV_NO_MEMORY, "size");
        link_free(r);
        if (!curves)
            break;
    }
    return s;
}

/* --dram and --ssd say how much there is; with --dram alone there is no SSD. */
static int size_now(struct ctl *c, struct size *z)
{
    int s = CTL_OK;

    if (!c->opt[OPT_DRAM] && c->opt[OPT_TRACE])
        s = size_ask(c, z, false);
    else if (c->opt[OPT_DRAM])
        z->ssd_bytes = 0;
    s = s ? s : opt_bytes(c, OPT_DRAM, z->dram_bytes, &z->dram_bytes);
    return s ? s : opt_bytes(c, OPT_SSD, z->ssd_bytes, &z->ssd_bytes);
}

/* ---- print ---- */

static void add_rows(const struct size *z, const char *tiers, uint64_t bytes,
                     json_t *rows)
{
    bool known = size_accesses(z) > 0;

    for (size_t i = 0; i < countof(factors); i++) {
        double at = factors[i].times * (double)bytes;
        json_t *o = json_object();

        json_object_set_new(o, "tiers", json_string(tiers));
        json_object_set_new(o, "size", json_string(factors[i].name));
        json_object_set_new(o, "bytes", out_u64((uint64_t)at));
        json_object_set_new(o, "hit_ratio",
                            known ? json_real(size_at(z, at)) : json_null());
        json_array_append_new(rows, o);
    }
}

/* "twice the DRAM would raise the hit ratio from 41.2% to 55.0%" */
static json_t *advice(const struct size *z, const char *what, uint64_t bytes)
{
    if (size_accesses(z) == 0)
        return json_string("no accesses were seen yet");
    return json_sprintf("twice the %s would raise the hit ratio from %.1f%% "
                        "to %.1f%%",
                        what, 100 * size_at(z, (double)bytes),
                        100 * size_at(z, 2 * (double)bytes));
}

static uint64_t size_sampled(const struct size *z)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < z->lane_n; i++)
        sum += z->lanes[i].sampled;
    return sum;
}

static int size_print(const struct ctl *c, const struct size *z)
{
    static const struct column columns[] = {{"tiers", false},
                                            {"size", false},
                                            {"bytes", true},
                                            {"hit_ratio", true}};
    json_t *rows = json_array(), *words = json_array(), *o, *word;
    char cell[200];
    size_t i;
    int s;

    add_rows(z, "dram", z->dram_bytes, rows);
    json_array_append_new(words, advice(z, "DRAM", z->dram_bytes));
    if (z->ssd_bytes) {
        uint64_t both = z->dram_bytes + z->ssd_bytes;

        add_rows(z, "dram+ssd", both, rows);
        if (size_accesses(z))
            json_array_append_new(words, advice(z, "DRAM and SSD", both));
    }
    if (c->json) {
        o = json_object();
        json_object_set_new(o, "accesses", out_u64(size_accesses(z)));
        json_object_set_new(o, "sampled", out_u64(size_sampled(z)));
        json_object_set_new(o, "sizes", rows);
        json_object_set_new(o, "advice", words);
        return out_object(c, o);
    }
    s = out_rows(c, columns, countof(columns), rows);
    json_array_foreach(words, i, word) puts(out_cell(word, cell, sizeof(cell)));
    json_decref(words);
    return s;
}

static int size_check(const struct ctl *c)
{
    if (c->opt[OPT_TRACE] && c->opt[OPT_NAMESPACE])
        return ctl_fail(CTL_USAGE, "size: a trace has no namespaces; leave out "
                                   "--namespace");
    if (c->opt[OPT_BLOCK] && !c->opt[OPT_TRACE])
        return ctl_fail(CTL_USAGE, "size: --block is for a trace; add --trace");
    return CTL_OK;
}

int verb_size(struct ctl *c)
{
    struct size z = {0};
    uint64_t block;
    int s = size_check(c);

    s = s ? s : opt_bytes(c, OPT_BLOCK, KIB(BLOCK_KIB), &block);
    if (!s && block == 0)
        s = ctl_fail(CTL_USAGE, "--block 0: 1 byte or more is possible");
    if (!s && c->opt[OPT_TRACE]) {
        z.lane_n = 1;
        s = size_trace(c->opt[OPT_TRACE], block, &z.lanes[0]);
    } else if (!s) {
        s = size_ask(c, &z, true);
    }
    s = s ? s : size_now(c, &z);
    s = s ? s : size_print(c, &z);
    for (uint32_t i = 0; i < LANES_MAX; i++)
        size_curve_free(&z.lanes[i]);
    return s;
}
