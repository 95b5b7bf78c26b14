/* SPDX-License-Identifier: Apache-2.0
 *
 * The curve of a trace (JSON lines in the format of Mooncake's traces: member
 * hash_ids has the blocks of a request in order), exactly, after Mattson: an
 * LRU cache of n blocks hits an access if less than n other blocks were used
 * since the block's last use.
 *
 *     line -> ids -> numbers 0, 1, ... by first appearance -> uses in order
 *     uses -> a mark at each block's last use; marks behind it are counted in a
 *             Fenwick tree -> distance -> histogram -> curve
 *
 * What is not the format is an error that names the line. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl_size.h"

#define NONE UINT32_MAX

struct trace {
    uint32_t *uses; /* block of each access */
    size_t use_n, use_cap;
    struct seen {
        uint64_t id;
        uint32_t block;
    } * table; /* open addressing; block NONE: free */
    size_t table_n;
    uint32_t blocks;
};

/* ---- read ---- */

static size_t id_slot(uint64_t id, size_t n)
{
    return (size_t)((id * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & (n - 1);
}

static void seen_put(struct seen *table, size_t n, struct seen s)
{
    size_t at = id_slot(s.id, n);

    while (table[at].block != NONE)
        at = (at + 1) & (n - 1);
    table[at] = s;
}

static bool seen_grow(struct trace *t)
{
    size_t n = t->table_n ? 2 * t->table_n : 4096;
    struct seen *table = malloc(n * sizeof(*table));

    if (!table)
        return false;
    memset(table, 0xff, n * sizeof(*table));
    for (size_t i = 0; i < t->table_n; i++)
        if (t->table[i].block != NONE)
            seen_put(table, n, t->table[i]);
    free(t->table);
    t->table = table;
    t->table_n = n;
    return true;
}

/* The block of an id; NONE: out of memory. */
static uint32_t trace_block(struct trace *t, uint64_t id)
{
    size_t at;

    if (2 * (size_t)t->blocks >= t->table_n && !seen_grow(t))
        return NONE;
    for (at = id_slot(id, t->table_n); t->table[at].block != NONE;
         at = (at + 1) & (t->table_n - 1))
        if (t->table[at].id == id)
            return t->table[at].block;
    t->table[at] = (struct seen){id, t->blocks};
    return t->blocks++;
}

static bool trace_use(struct trace *t, uint64_t id)
{
    uint32_t block = trace_block(t, id), *uses;

    if (block == NONE || t->use_n >= NONE - 1)
        return false;
    if (t->use_n == t->use_cap) {
        t->use_cap = t->use_cap ? 2 * t->use_cap : 4096;
        uses = realloc(t->uses, t->use_cap * sizeof(*uses));
        if (!uses)
            return false;
        t->uses = uses;
    }
    t->uses[t->use_n++] = block;
    return true;
}

static int trace_line(struct trace *t, const char *line, const char *file,
                      size_t line_n)
{
    json_t *o = json_loads(line, 0, NULL), *id;
    const json_t *ids = json_object_get(o, "hash_ids");
    int s = CTL_OK;
    size_t i;

    if (!json_is_array(ids))
        s = ctl_fail(CTL_ERROR,
                     "%s:%zu: not an object with hash_ids; JSON "
                     "lines as in bench/traces are read",
                     file, line_n);
    json_array_foreach(ids, i, id)
    {
        if (s)
            break;
        if (!json_is_integer(id))
            s = ctl_fail(CTL_ERROR, "%s:%zu: an id is not a number", file,
                         line_n);
        else if (!trace_use(t, (uint64_t)json_integer_value(id)))
            s = ctl_fail_code(PIKV_NO_MEMORY, "%s", file);
    }
    json_decref(o);
    return s;
}

static bool is_gzip(const char *line)
{
    return (unsigned char)line[0] == 0x1f && (unsigned char)line[1] == 0x8b;
}

static int trace_read(struct trace *t, const char *file)
{
    bool standard = strcmp(file, "-") == 0;
    FILE *f = standard ? stdin : fopen(file, "re");
    char *line = NULL;
    size_t cap = 0, line_n = 0;
    int s = CTL_OK;

    if (!f)
        return ctl_fail(CTL_ERROR, "%s: %s", file, strerror(errno));
    errno = 0;
    while (!s && getline(&line, &cap, f) > 0) {
        if (line_n++ == 0 && is_gzip(line))
            s = ctl_fail(CTL_ERROR,
                         "%s: compressed; gzip -dc %s | pikvctl "
                         "size --trace -",
                         file, file);
        else if (line[strspn(line, " \t\r\n")])
            s = trace_line(t, line, file, line_n);
    }
    if (!s && ferror(f))
        s = ctl_fail(CTL_ERROR, "%s: %s", file, strerror(errno));
    if (!s && t->use_n == 0)
        s = ctl_fail(CTL_ERROR, "%s: no block in it", file);
    free(line);
    if (!standard)
        fclose(f);
    return s;
}

/* ---- distances ---- */

static void tree_add(uint32_t *tree, size_t n, size_t at, uint32_t d)
{
    for (at++; at <= n; at += at & -at)
        tree[at] += d; /* wraps for -1: sums are right again */
}

/* Marks at places below at. */
static uint32_t tree_sum(const uint32_t *tree, size_t at)
{
    uint32_t sum = 0;

    for (; at; at -= at & -at)
        sum += tree[at];
    return sum;
}

/* hist[d]: accesses with d other blocks in between. */
static void distances(const struct trace *t, uint32_t *tree, uint32_t *last,
                      uint64_t *hist)
{
    uint32_t marks = 0;

    memset(last, 0xff, t->blocks * sizeof(*last));
    for (size_t i = 0; i < t->use_n; i++) {
        uint32_t b = t->uses[i];

        if (last[b] == NONE) {
            marks++;
        } else {
            hist[marks - tree_sum(tree, last[b] + 1)]++;
            tree_add(tree, t->use_n, last[b], UINT32_MAX);
        }
        tree_add(tree, t->use_n, i, 1);
        last[b] = (uint32_t)i;
    }
}

static void curve_of(const struct trace *t, const uint64_t *hist,
                     uint64_t block_bytes, struct size_curve *out)
{
    uint64_t hits = 0;

    for (uint32_t n = 0; n < t->blocks; n++) {
        hits += hist[n];
        out->points[n] =
            (struct size_point){(double)(n + 1) * (double)block_bytes,
                                (double)hits / (double)t->use_n};
    }
    out->n = t->blocks;
    out->accesses = out->sampled = t->use_n;
}

static int trace_curve(const struct trace *t, uint64_t block_bytes,
                       struct size_curve *out)
{
    uint32_t *tree = calloc(t->use_n + 1, sizeof(*tree));
    uint32_t *last = malloc((size_t)t->blocks * sizeof(*last));
    uint64_t *hist = calloc(t->blocks, sizeof(*hist));
    int s = CTL_OK;

    out->points = calloc(t->blocks, sizeof(*out->points));
    if (tree && last && hist && out->points) {
        distances(t, tree, last, hist);
        curve_of(t, hist, block_bytes, out);
    } else {
        s = ctl_fail_code(PIKV_NO_MEMORY, "size");
    }
    free(tree);
    free(last);
    free(hist);
    return s;
}

int size_trace(const char *file, uint64_t block_bytes, struct size_curve *out)
{
    struct trace t = {0};
    int s = trace_read(&t, file);

    s = s ? s : trace_curve(&t, block_bytes, out);
    free(t.uses);
    free(t.table);
    return s;
}
