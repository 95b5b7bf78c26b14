/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads a reuse trace whole: read (zlib takes plain files too), split into
 * lines, each line through jansson, ids renumbered by a hash table. Loading
 * is not timed by any benchmark, so it is written to be read.
 *
 * Bad input is an error that names the line; nothing is skipped silently.
 * Fields that are not known are ignored, as the format's owner may add some. */
#include "bench/trace.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

struct loader {
    struct bench_trace t;
    uint32_t requests_cap, ids_cap, blocks_cap;
    uint32_t *slots; /* block + 1 by name; open addressing */
    uint32_t slots_n;
};

/* Makes room for need items of size bytes in the array whose pointer is at
 * array (of any type, hence the copies); doubles. */
static bool load_grow(void *array, uint32_t *cap, uint64_t need, size_t size)
{
    uint64_t want = max_u64(need, *cap * UINT64_C(2));
    void *p;

    if (need <= *cap)
        return true;
    want = max_u64(want, 1024);
    memcpy(&p, array, sizeof(p));
    p = want <= UINT32_MAX ? realloc(p, (size_t)want * size) : NULL;
    if (!p)
        return false;
    memcpy(array, &p, sizeof(p));
    *cap = (uint32_t)want;
    return true;
}

static enum err load_read(const char *path, char **text_out, size_t *len_out,
                          struct errmsg *m)
{
    gzFile f = gzopen(path, "rb");
    char *text = NULL;
    uint32_t cap = 0, len = 0;
    enum err e = OK;
    int n = 0;

    if (!f)
        return errmsg_set(m, ERR_IO, "%s: cannot be opened", path);
    do {
        len += (uint32_t)n;
        if (len >= BENCH_TRACE_BYTES_MAX)
            e = errmsg_set(m, ERR_LIMIT, "%s: longer than 1 GiB", path);
        else if (!load_grow(&text, &cap, len + KIB(64), 1))
            e = errmsg_set(m, ERR_NO_MEMORY, "%s: out of memory", path);
    } while (e == OK && (n = gzread(f, text + len, 1 << 16)) > 0);
    /* gzclose tells of a compressed file that ends too early. */
    if (gzclose(f) != Z_OK || n < 0)
        e = errmsg_set(m, ERR_IO, "%s: cannot be read, or is cut short", path);
    if (e != OK) {
        free(text);
        return e;
    }
    *text_out = text;
    *len_out = len;
    return OK;
}

static uint32_t load_slot(const struct loader *l, uint64_t name)
{
    uint64_t mix = name * UINT64_C(0x9e3779b97f4a7c15);
    uint32_t at = (uint32_t)(mix >> 32) & (l->slots_n - 1);

    while (l->slots[at] && l->t.names[l->slots[at] - 1] != name)
        at = (at + 1) & (l->slots_n - 1);
    return at;
}

static bool load_slots_grow(struct loader *l)
{
    if (l->t.blocks * UINT64_C(2) < l->slots_n)
        return true;
    free(l->slots);
    l->slots_n = l->slots_n ? l->slots_n * 2 : 1 << 16;
    l->slots = calloc(l->slots_n, sizeof(*l->slots));
    if (!l->slots)
        return false;
    for (uint32_t b = 0; b < l->t.blocks; b++)
        l->slots[load_slot(l, l->t.names[b])] = b + 1;
    return true;
}

static enum err load_block(struct loader *l, uint64_t name, uint32_t parent,
                           uint32_t *block_out)
{
    uint32_t cap = l->blocks_cap, at;
    struct bench_trace *t = &l->t;

    if (!load_slots_grow(l) ||
        !load_grow(&t->names, &cap, t->blocks + UINT64_C(1),
                   sizeof(*t->names)) ||
        !load_grow(&t->parent, &l->blocks_cap, t->blocks + UINT64_C(1),
                   sizeof(*t->parent)))
        return ERR_NO_MEMORY;
    at = load_slot(l, name);
    if (!l->slots[at]) {
        t->names[t->blocks] = name;
        t->parent[t->blocks] = parent;
        l->slots[at] = ++t->blocks;
    }
    *block_out = l->slots[at] - 1;
    return t->parent[*block_out] == parent ? OK : ERR_CONFIG;
}

static enum err load_ids(struct loader *l, const json_t *ids)
{
    struct bench_request *r = &l->t.requests[l->t.requests_n];
    uint32_t parent = BENCH_TRACE_NONE;

    r->first = l->t.ids_n;
    r->n = (uint32_t)json_array_size(ids);
    if (!load_grow(&l->t.ids, &l->ids_cap, (uint64_t)l->t.ids_n + r->n,
                   sizeof(*l->t.ids)))
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < r->n; i++) {
        const json_t *id = json_array_get(ids, i);
        enum err e;

        if (!json_is_integer(id))
            return ERR_CONFIG;
        e = load_block(l, (uint64_t)json_integer_value(id), parent, &parent);
        if (e != OK)
            return e;
        l->t.ids[l->t.ids_n++] = parent;
    }
    return OK;
}

/* Tokens and times: at most 2^32 - 1. */
static bool load_number(const json_t *line, const char *key, uint32_t *out)
{
    const json_t *v = json_object_get(line, key);
    json_int_t n = json_integer_value(v);

    if (!json_is_integer(v) || n < 0 || n > UINT32_MAX)
        return false;
    *out = (uint32_t)n;
    return true;
}

static enum err load_line(struct loader *l, const char *text, size_t len)
{
    json_t *line = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
    const json_t *ids = json_object_get(line, "hash_ids");
    struct bench_request *r;
    enum err e = ERR_CONFIG;
    uint32_t at_ms;

    if (!load_grow(&l->t.requests, &l->requests_cap,
                   l->t.requests_n + UINT64_C(1), sizeof(*r))) {
        e = ERR_NO_MEMORY;
        goto free_line;
    }
    r = &l->t.requests[l->t.requests_n];
    if (!load_number(line, "timestamp", &at_ms) ||
        !load_number(line, "input_length", &r->input_tokens) ||
        !load_number(line, "output_length", &r->output_tokens) ||
        !json_is_array(ids))
        goto free_line;
    r->at_ms = at_ms;
    e = load_ids(l, ids);
    if (e == OK)
        l->t.requests_n++;
free_line:
    json_decref(line);
    return e;
}

static enum err load_lines(struct loader *l, const char *path, const char *text,
                           size_t len, struct errmsg *m)
{
    const char *end = text + len;
    uint32_t number = 1;

    for (; text < end; number++) {
        const char *nl = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((nl ? nl : end) - text);
        enum err e = n ? load_line(l, text, n) : OK;

        if (e != OK)
            return errmsg_set(m, e, "%s:%u: %s", path, number,
                              e == ERR_CONFIG ? "not a request of this format,"
                                                " or a block has two parents"
                                              : err_text(e));
        text += n + 1;
    }
    return OK;
}

enum err bench_trace_load(const char *path, struct bench_trace *out,
                          struct errmsg *m)
{
    struct loader l = {.requests_cap = 0};
    char *text = NULL;
    size_t len = 0;
    enum err e;

    e = load_read(path, &text, &len, m);
    if (e != OK)
        return e;
    e = load_lines(&l, path, text, len, m);
    free(text);
    free(l.slots);
    if (e == OK && l.t.ids_n == 0)
        e = errmsg_set(m, ERR_CONFIG, "%s: no block in it", path);
    if (e != OK)
        bench_trace_free(&l.t);
    else
        *out = l.t;
    return e;
}

void bench_trace_free(struct bench_trace *t)
{
    free(t->requests);
    free(t->ids);
    free(t->names);
    free(t->parent);
    *t = (struct bench_trace){.requests = NULL};
}
