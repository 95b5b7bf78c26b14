/* SPDX-License-Identifier: Apache-2.0
 *
 * evict: by keys, chains of keys, a label, a scope, a pattern, or everything.
 * Exactly one of these must be said, so that a forgotten word never drops a
 * namespace. --demote takes the same blocks out of memory instead.
 * With --dry-run the blocks are listed with INSPECT and counted here by the
 * same rules; what it names may have changed by the time of the real call. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl.h"

struct evict {
    enum pikv_select select;
    struct pikv_key *keys;
    struct pikv_result *results;
    uint32_t n; /* keys of the command line */
};

static int evict_select(const struct ctl *c, struct evict *e)
{
    bool label = c->label_n > 0, all = c->opt[OPT_ALL] != NULL;
    bool pattern = c->opt[OPT_PATTERN] != NULL;
    bool scope = c->opt[OPT_SCOPE] && c->arg_n == 0;

    e->n = c->arg_n;
    if ((c->arg_n > 0) + label + all + scope + pattern != 1)
        return ctl_fail(CTL_USAGE, "evict: say exactly one of KEY..., --label, "
                                   "--scope, --pattern or --all");
    if (c->opt[OPT_CHAIN] && !c->arg_n)
        return ctl_fail(CTL_USAGE, "evict: --chain needs a KEY");
    if (c->label_n > 1)
        return ctl_fail(CTL_USAGE, "evict: one label at a time");
    if (c->arg_n)
        e->select = c->opt[OPT_CHAIN] ? PIKV_CHAIN : PIKV_KEYS;
    else if (label)
        e->select = PIKV_LABEL;
    else if (pattern)
        e->select = PIKV_PATTERN;
    else
        e->select = scope ? PIKV_SCOPE : PIKV_NAMESPACE;
    return CTL_OK;
}

static int evict_keys(const struct ctl *c, struct evict *e)
{
    int s = CTL_OK;

    e->keys = calloc((size_t)e->n + 1, sizeof(*e->keys));
    e->results = calloc((size_t)e->n + 1, sizeof(*e->results));
    if (!e->keys || !e->results)
        return ctl_fail_code(PIKV_NO_MEMORY, "evict");
    for (uint32_t i = 0; i < e->n && !s; i++)
        s = key_of_args(c, c->args[i], &e->keys[i]);
    if (!s && e->select == PIKV_PATTERN)
        return key_parse(c->opt[OPT_PATTERN], &e->keys[0].key);
    return s ? s : e->n ? CTL_OK : opt_scope(c, &e->keys[0].scope);
}

/* ---- what it would do ---- */

struct dry_block {
    struct pikv_bytes key, parent;
    uint64_t len;
    bool moves;
    uint32_t lane; /* chains are followed within a lane, as by the daemon */
    size_t up;     /* index of the parent, or NO_PARENT */
    enum { DRY_UNKNOWN, DRY_STAYS, DRY_DROPS } state;
};

#define NO_PARENT SIZE_MAX

struct dry_run {
    const struct ctl *c;
    const struct evict *e;
    uint64_t blocks, bytes;
    struct dry_block *all; /* CHAIN: the blocks of the keys' group and scope */
    size_t n, cap;
    bool no_memory;
};

static int compare_bytes(struct pikv_bytes a, struct pikv_bytes b)
{
    int c = memcmp(a.p, b.p, min_u64(a.len, b.len));

    return c ? c : (a.len > b.len) - (a.len < b.len);
}

static int compare_blocks(const void *a, const void *b)
{
    const struct dry_block *x = a, *y = b;

    if (x->lane != y->lane)
        return x->lane > y->lane ? 1 : -1;
    return compare_bytes(x->key, y->key);
}

static bool same_scope(const uint8_t *scope, ProtobufCBinaryData have)
{
    static const uint8_t none[16];

    return memcmp(scope ? scope : none, have.len == 16 ? have.data : none,
                  16) == 0;
}

static struct pikv_bytes copy_bytes(ProtobufCBinaryData from)
{
    uint8_t *p = ctl_keep(from.len + 1);

    if (p && from.len)
        memcpy(p, from.data, from.len);
    return (struct pikv_bytes){p, from.len};
}

/* With --demote only blocks in memory count. */
static bool dry_moves(const struct ctl *c, const char *tier)
{
    return !c->opt[OPT_DEMOTE] || strcmp(tier, "dram") == 0;
}

static bool dry_keep(struct dry_run *d, const Pikv__BlockInfo *b)
{
    struct dry_block *all, *o;

    if (d->n == d->cap) {
        d->cap = d->cap ? 2 * d->cap : 1024;
        all = realloc(d->all, d->cap * sizeof(*all));
        if (!all)
            return false;
        d->all = all;
    }
    o = &d->all[d->n];
    *o = (struct dry_block){.key = copy_bytes(b->key),
                            .parent = copy_bytes(b->parent),
                            .len = b->len,
                            .lane = b->lane,
                            .moves = dry_moves(d->c, b->tier)};
    if (!o->key.p || !o->parent.p)
        return false;
    for (uint32_t i = 0; i < d->e->n; i++)
        if (compare_bytes(d->e->keys[i].key, o->key) == 0)
            o->state = DRY_DROPS;
    d->n++;
    return true;
}

/* * is any bytes, ? any one, as for the daemon. */
static bool matches(struct pikv_bytes pattern, ProtobufCBinaryData text)
{
    const uint8_t *p = pattern.p;
    size_t at = 0, i = 0, star = SIZE_MAX, from = 0;

    while (i < text.len) {
        if (at < pattern.len && p[at] == '*') {
            star = at++;
            from = i;
        } else if (at < pattern.len &&
                   (p[at] == '?' || p[at] == text.data[i])) {
            at++;
            i++;
        } else if (star != SIZE_MAX) {
            at = star + 1;
            i = ++from;
        } else {
            return false;
        }
    }
    while (at < pattern.len && p[at] == '*')
        at++;
    return at == pattern.len;
}

static bool dry_visit(const Pikv__BlockInfo *b, void *arg)
{
    struct dry_run *d = arg;
    const struct evict *e = d->e;
    bool drops = e->select == PIKV_NAMESPACE;

    if (e->select == PIKV_CHAIN) {
        if (b->group == e->keys[0].group &&
            same_scope(e->keys[0].scope, b->scope))
            d->no_memory = !dry_keep(d, b);
        return !d->no_memory;
    }
    if (e->select == PIKV_SCOPE)
        drops = same_scope(e->keys[0].scope, b->scope);
    if (e->select == PIKV_PATTERN)
        drops = matches(e->keys[0].key, b->key);
    for (size_t i = 0; e->select == PIKV_LABEL && i < b->n_labels; i++)
        drops |= b->labels[i] == d->c->labels[0];
    drops &= dry_moves(d->c, b->tier);
    d->blocks += drops;
    d->bytes += drops ? b->len : 0;
    return true;
}

static void dry_find_parents(struct dry_run *d)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct dry_block want = {.key = d->all[i].parent,
                                       .lane = d->all[i].lane};
        const struct dry_block *up =
            want.key.len
                ? bsearch(&want, d->all, d->n, sizeof(want), compare_blocks)
                : NULL;

        d->all[i].up = up ? (size_t)(up - d->all) : NO_PARENT;
    }
}

/* Climbs to the first block whose fate is known; those below share it. The
 * step count ends a climb in a circle, which no sane client makes. */
static void dry_settle(struct dry_run *d, size_t i)
{
    size_t at = i, steps = 0;
    bool drops;

    while (d->all[at].state == DRY_UNKNOWN && d->all[at].up != NO_PARENT &&
           steps++ < d->n)
        at = d->all[at].up;
    drops = d->all[at].state == DRY_DROPS;
    for (at = i; at != NO_PARENT && d->all[at].state == DRY_UNKNOWN;
         at = d->all[at].up)
        d->all[at].state = drops ? DRY_DROPS : DRY_STAYS;
}

static void dry_chain(struct dry_run *d)
{
    if (d->n)
        qsort(d->all, d->n, sizeof(*d->all), compare_blocks);
    dry_find_parents(d);
    for (size_t i = 0; i < d->n; i++) {
        dry_settle(d, i);
        if (d->all[i].state == DRY_DROPS && d->all[i].moves) {
            d->blocks++;
            d->bytes += d->all[i].len;
        }
    }
}

static int dry_keys(struct ctl *c, struct dry_run *d)
{
    const struct evict *e = d->e;
    uint64_t id;
    int code = pikv_lookup(c->kv, c->ns, e->keys, e->n, NULL, 1, NULL, &c->call,
                           e->results, &id);

    if (!code)
        code = pikv_wait(c->kv, id, NULL);
    if (code)
        return ctl_fail_code(code, "evict --dry-run");
    for (uint32_t i = 0; i < e->n; i++)
        if (e->results[i].state == 2 &&
            dry_moves(c, ctl_tier(e->results[i].tier))) {
            d->blocks++;
            d->bytes += e->results[i].len;
        }
    return CTL_OK;
}

static int evict_dry_run(struct ctl *c, const struct evict *e)
{
    struct dry_run d = {.c = c, .e = e};
    int s = e->select == PIKV_KEYS ? dry_keys(c, &d)
                                   : link_blocks(c, dry_visit, &d);

    if (!s && d.no_memory)
        s = ctl_fail_code(PIKV_NO_MEMORY, "evict --dry-run");
    if (!s)
        dry_chain(&d);
    free(d.all);
    if (s)
        return s;
    return out_would(c, "%s %llu blocks of %llu bytes in namespace %s",
                     c->opt[OPT_DEMOTE] ? "demote" : "drop",
                     (unsigned long long)d.blocks, (unsigned long long)d.bytes,
                     link_namespace_name(c));
}

/* ---- what it does ---- */

static int evict_do(struct ctl *c, const struct evict *e)
{
    struct pikv_completion done = {0};
    uint64_t id;
    int code, s = CTL_OK;
    json_t *o;

    c->call.demote = c->opt[OPT_DEMOTE] != NULL;
    code = pikv_evict(c->kv, c->ns, e->select, e->keys, e->n, c->labels[0],
                      &c->call, e->results, &id);
    if (!code)
        code = pikv_wait(c->kv, id, &done);
    if (code)
        return ctl_fail_code(code, "evict");
    for (uint32_t i = 0; i < e->n; i++)
        if (e->results[i].status)
            s = ctl_fail_code(e->results[i].status, "evict %s", c->args[i]);
    o = json_object();
    json_object_set_new(o, c->opt[OPT_DEMOTE] ? "demoted" : "dropped",
                        out_u64(done.count));
    return out_object(c, o) ? CTL_ERROR : s;
}

int verb_evict(struct ctl *c)
{
    struct evict e = {0};
    int s = evict_select(c, &e);

    s = s ? s : evict_keys(c, &e);
    s = s ? s : link_namespace(c, false);
    if (!s)
        s = c->opt[OPT_DRY_RUN] ? evict_dry_run(c, &e) : evict_do(c, &e);
    free(e.keys);
    free(e.results);
    return s;
}
