/* SPDX-License-Identifier: Apache-2.0
 *
 * evict: by keys, chains of keys, a label, a scope, or everything. Exactly one
 * of these must be said, so that a forgotten word never drops a namespace.
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
    bool scope = c->opt[OPT_SCOPE] && c->arg_n == 0;

    e->n = c->arg_n;
    if ((c->arg_n > 0) + label + all + scope != 1)
        return ctl_fail(CTL_USAGE, "evict: say exactly one of KEY..., --label, "
                                   "--scope or --all");
    if (c->opt[OPT_CHAIN] && !c->arg_n)
        return ctl_fail(CTL_USAGE, "evict: --chain needs a KEY");
    if (c->label_n > 1)
        return ctl_fail(CTL_USAGE, "evict: one label at a time");
    if (c->arg_n)
        e->select = c->opt[OPT_CHAIN] ? PIKV_CHAIN : PIKV_KEYS;
    else if (label)
        e->select = PIKV_LABEL;
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
    return s ? s : e->n ? CTL_OK : opt_scope(c, &e->keys[0].scope);
}

/* ---- what it would do ---- */

struct dry_block {
    struct pikv_bytes key, parent;
    bool drops;
};

struct dry_run {
    const struct ctl *c;
    const struct evict *e;
    uint64_t blocks, bytes;
    /* CHAIN: the blocks of the keys' group and scope. */
    struct dry_block *all;
    uint64_t *lens;
    size_t n, cap;
    bool no_memory;
};

static bool same_bytes(struct pikv_bytes a, const uint8_t *p, size_t n)
{
    return a.len == n && (n == 0 || memcmp(a.p, p, n) == 0);
}

static bool same_scope(const uint8_t *scope, ProtobufCBinaryData have)
{
    static const uint8_t none[16];

    return memcmp(scope ? scope : none, have.len == 16 ? have.data : none,
                  16) == 0;
}

static struct pikv_bytes copy_bytes(ProtobufCBinaryData from)
{
    uint8_t *p = malloc(from.len + 1);

    if (p && from.len)
        memcpy(p, from.data, from.len);
    return (struct pikv_bytes){p, from.len};
}

static bool dry_keep(struct dry_run *d, const Pikv__BlockInfo *b)
{
    struct dry_block *all;
    uint64_t *lens;

    if (d->n == d->cap) {
        d->cap = d->cap ? 2 * d->cap : 1024;
        all = realloc(d->all, d->cap * sizeof(*all));
        d->all = all ? all : d->all;
        lens = realloc(d->lens, d->cap * sizeof(*lens));
        d->lens = lens ? lens : d->lens;
        if (!all || !lens)
            return false;
    }
    d->lens[d->n] = b->len;
    d->all[d->n] = (struct dry_block){.key = copy_bytes(b->key),
                                      .parent = copy_bytes(b->parent)};
    for (uint32_t i = 0; i < d->e->n; i++)
        d->all[d->n].drops |=
            same_bytes(d->e->keys[i].key, b->key.data, b->key.len);
    d->n++;
    return d->all[d->n - 1].key.p && d->all[d->n - 1].parent.p;
}

static bool dry_visit(const Pikv__BlockInfo *b, void *arg)
{
    struct dry_run *d = arg;
    const struct evict *e = d->e;
    bool drops = e->select == PIKV_NAMESPACE;

    if (e->select == PIKV_KEYS || e->select == PIKV_CHAIN) {
        if (b->group != e->keys[0].group ||
            !same_scope(e->keys[0].scope, b->scope))
            return true;
        d->no_memory = !dry_keep(d, b);
        return !d->no_memory;
    }
    if (e->select == PIKV_SCOPE)
        drops = same_scope(e->keys[0].scope, b->scope);
    for (size_t i = 0; e->select == PIKV_LABEL && i < b->n_labels; i++)
        drops |= b->labels[i] == d->c->labels[0];
    d->blocks += drops;
    d->bytes += drops ? b->len : 0;
    return true;
}

/* Marks children of marked blocks until nothing changes. */
static void dry_chain(struct dry_run *d)
{
    bool changed = d->e->select == PIKV_CHAIN;

    while (changed) {
        changed = false;
        for (size_t i = 0; i < d->n; i++)
            for (size_t k = 0; k < d->n && !d->all[i].drops; k++)
                if (d->all[k].drops && d->all[i].parent.len &&
                    same_bytes(d->all[i].parent, d->all[k].key.p,
                               d->all[k].key.len))
                    changed = d->all[i].drops = true;
    }
    for (size_t i = 0; i < d->n; i++) {
        d->blocks += d->all[i].drops;
        d->bytes += d->all[i].drops ? d->lens[i] : 0;
    }
}

static int evict_dry_run(struct ctl *c, const struct evict *e)
{
    struct dry_run d = {.c = c, .e = e};
    int s = link_blocks(c, dry_visit, &d);

    if (!s && d.no_memory)
        s = ctl_fail_code(PIKV_NO_MEMORY, "evict --dry-run");
    if (s)
        return s;
    dry_chain(&d);
    printf("would drop %llu blocks of %llu bytes in namespace %s\n",
           (unsigned long long)d.blocks, (unsigned long long)d.bytes,
           link_namespace_name(c));
    return CTL_OK;
}

/* ---- what it does ---- */

static int evict_do(struct ctl *c, const struct evict *e)
{
    struct pikv_completion done = {0};
    uint64_t id;
    int s = CTL_OK;
    int code = pikv_evict(c->kv, c->ns, e->select, e->keys, e->n,
                          c->labels[0], &c->call, e->results, &id);
    json_t *o;

    if (!code)
        code = pikv_wait(c->kv, id, &done);
    if (code)
        return ctl_fail_code(code, "evict");
    for (uint32_t i = 0; i < e->n; i++)
        if (e->results[i].status)
            s = ctl_fail_code(e->results[i].status, "evict %s", c->args[i]);
    o = json_object();
    json_object_set_new(o, "dropped", out_u64(done.count));
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
