/* SPDX-License-Identifier: Apache-2.0
 *
 * namespace list, show, create, set, bump. Fields are written NAME=VALUE; one
 * table says which there are, where they go and how they are read. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl.h"

/* ---- list, show ---- */

static json_t *fingerprint_json(const Pikv__Fingerprint *f)
{
    json_t *o = json_object();

    if (!f)
        return o;
    json_object_set_new(o, "model", out_text(f->model));
    json_object_set_new(o, "weights_version", out_text(f->weights_version));
    json_object_set_new(o, "tokenizer_hash", out_text(f->tokenizer_hash));
    json_object_set_new(o, "hash_seed", out_text(f->hash_seed));
    json_object_set_new(o, "dtype", out_text(f->dtype));
    json_object_set_new(o, "scale_format", out_text(f->scale_format));
    json_object_set_new(o, "parallel_layout", out_text(f->parallel_layout));
    return o;
}

static json_t *groups_json(const Pikv__NamespaceInfo *i)
{
    json_t *list = json_array();

    for (size_t n = 0; n < i->n_groups; n++) {
        const Pikv__Group *g = i->groups[n];
        json_t *o = json_object();

        json_object_set_new(o, "id", out_u64(g->id));
        json_object_set_new(o, "kind", out_text(g->kind));
        json_object_set_new(o, "layers", out_u64(g->layers));
        json_object_set_new(o, "kv_heads", out_u64(g->kv_heads));
        json_object_set_new(o, "head_dim", out_u64(g->head_dim));
        json_object_set_new(o, "dtype", out_text(g->dtype));
        json_object_set_new(o, "order", out_text(g->order));
        json_object_set_new(o, "tokens_per_block",
                            out_u64(g->tokens_per_block));
        json_object_set_new(o, "block_bytes", out_u64(g->block_bytes));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *namespace_json(const Pikv__NamespaceInfo *i)
{
    const Pikv__Settings *s = i->settings;
    json_t *o = json_object();

    json_object_set_new(o, "name", out_text(i->name));
    json_object_set_new(o, "id", out_u64(i->id));
    json_object_set_new(o, "generation", out_u64(i->generation));
    json_object_set_new(o, "blocks", out_u64(i->blocks));
    json_object_set_new(o, "bytes", out_u64(i->bytes));
    json_object_set_new(o, "share_bytes", out_u64(i->share_bytes));
    json_object_set_new(o, "policy", out_text(s ? s->policy : ""));
    json_object_set_new(o, "share", out_u64(s ? s->share : 0));
    json_object_set_new(o, "quota_bytes", out_u64(s ? s->quota_bytes : 0));
    json_object_set_new(o, "loans", out_text(s ? s->loans : ""));
    json_object_set_new(o, "dram", out_text(s ? s->dram : ""));
    json_object_set_new(o, "ttl_ms", out_u64(s ? s->ttl_ms : 0));
    json_object_set_new(o, "fingerprint", fingerprint_json(i->fingerprint));
    json_object_set_new(o, "groups", groups_json(i));
    return o;
}

int verb_ns_list(struct ctl *c)
{
    static const struct column columns[] = {
        {"name", false},   {"id", true},     {"generation", true},
        {"blocks", true},  {"bytes", true},  {"share_bytes", true},
        {"policy", false}, {"share", true},  {"quota_bytes", true},
        {"ttl_ms", true},  {"loans", false}, {"dram", false}};
    Pikv__NamespaceReply *m;
    json_t *rows;
    int s = link_describe(c, "", &m);

    if (s)
        return s;
    rows = json_array();
    for (size_t i = 0; i < m->n_namespaces; i++)
        json_array_append_new(rows, namespace_json(m->namespaces[i]));
    link_free(m);
    return out_rows(c, columns, countof(columns), rows);
}

static int show(struct ctl *c, const Pikv__NamespaceReply *m)
{
    return m->n_namespaces
               ? out_object(c, namespace_json(m->namespaces[0]))
               : ctl_fail_code(PIKV_NO_NAMESPACE, "namespace %s", c->args[0]);
}

int verb_ns_show(struct ctl *c)
{
    Pikv__NamespaceReply *m;
    int s = link_describe(c, c->args[0], &m);

    if (s)
        return s;
    s = show(c, m);
    link_free(m);
    return s;
}

/* ---- fields ---- */

enum field_kind { FIELD_TEXT, FIELD_SHARE, FIELD_BYTES, FIELD_MS };

static const struct field {
    const char *name;
    enum field_kind kind;
    size_t create; /* offset in struct pikv_namespace; 0: not there */
    size_t set;    /* offset in Pikv__Settings; 0: of the fingerprint */
} fields[] = {
#define MADE(name) offsetof(struct pikv_namespace, name)
#define SET(name) offsetof(Pikv__Settings, name)
    {"model", FIELD_TEXT, MADE(model), 0},
    {"weights_version", FIELD_TEXT, MADE(weights_version), 0},
    {"tokenizer_hash", FIELD_TEXT, MADE(tokenizer_hash), 0},
    {"hash_seed", FIELD_TEXT, MADE(hash_seed), 0},
    {"dtype", FIELD_TEXT, MADE(dtype), 0},
    {"scale_format", FIELD_TEXT, MADE(scale_format), 0},
    {"parallel_layout", FIELD_TEXT, MADE(parallel_layout), 0},
    {"policy", FIELD_TEXT, MADE(policy), SET(policy)},
    {"loans", FIELD_TEXT, MADE(loans), SET(loans)},
    {"dram", FIELD_TEXT, 0, SET(dram)},
    {"codec", FIELD_TEXT, 0, SET(codec)},
    {"share", FIELD_SHARE, MADE(share), SET(share)},
    {"quota", FIELD_BYTES, MADE(quota_bytes), SET(quota_bytes)},
    {"ttl", FIELD_MS, MADE(ttl_ms), SET(ttl_ms)},
};

static size_t field_off(const struct field *f, bool create)
{
    return create ? f->create : f->set;
}

static int field_unknown(const char *arg, bool create)
{
    char list[256] = "";

    for (size_t i = 0; i < countof(fields); i++)
        if (field_off(&fields[i], create)) {
            size_t at = strlen(list);

            snprintf(list + at, sizeof(list) - at, " %s", fields[i].name);
        }
    return ctl_fail(CTL_USAGE, "%.60s: no such field; NAME=VALUE of%s", arg,
                    list);
}

/* share, quota and ttl; 0 means to the daemon "as it is", so none is written as
 * the largest number when a namespace is changed. */
static int field_number(const struct field *f, const char *text, bool create,
                        void *to)
{
    bool none = strcmp(text, "none") == 0 && f->kind != FIELD_SHARE;
    uint64_t n = 0, max = f->kind == FIELD_BYTES ? UINT64_MAX : UINT32_MAX;
    uint32_t n32;
    int s = CTL_OK;

    if (!none && f->kind == FIELD_SHARE)
        s = parse_number(f->name, text, UINT32_MAX, &n);
    else if (!none && f->kind == FIELD_BYTES)
        s = parse_bytes(f->name, text, &n);
    else if (!none)
        s = parse_us(f->name, text, &n);
    n = f->kind == FIELD_MS ? (n + 999) / 1000 : n;
    if (s)
        return s;
    if (n > max || (n == 0 && f->kind == FIELD_SHARE))
        return ctl_fail(CTL_USAGE, "%s=%s: out of range", f->name, text);
    n = n == 0 && !create ? max : n;
    if (f->kind == FIELD_BYTES) {
        memcpy(to, &n, sizeof(n));
    } else {
        n32 = (uint32_t)n;
        memcpy(to, &n32, sizeof(n32));
    }
    return CTL_OK;
}

/* Reads NAME=VALUE into a struct pikv_namespace or a Pikv__Settings. */
static int field_read(char *arg, bool create, void *to)
{
    char *value = strchr(arg, '=');

    for (size_t i = 0; value && i < countof(fields); i++) {
        const struct field *f = &fields[i];
        size_t off = field_off(f, create), n = (size_t)(value - arg);

        if (strlen(f->name) != n || strncmp(f->name, arg, n) != 0 || !off)
            continue;
        if (f->kind != FIELD_TEXT)
            return field_number(f, value + 1, create, (char *)to + off);
        if (!value[1])
            return ctl_fail(CTL_USAGE, "%s: a value is missing", arg);
        value++;
        memcpy((char *)to + off, &value, sizeof(value));
        return CTL_OK;
    }
    return field_unknown(arg, create);
}

static int fields_read(const struct ctl *c, bool create, void *to)
{
    int s = CTL_OK;

    for (uint32_t i = 1; i < c->arg_n && !s; i++)
        s = field_read(c->args[i], create, to);
    return s;
}

static int would(const struct ctl *c, const char *what)
{
    char text[1024] = "";

    for (uint32_t i = 1; i < c->arg_n; i++) {
        size_t at = strlen(text);

        snprintf(text + at, sizeof(text) - at, "%s%s", i == 1 ? ": " : " ",
                 c->args[i]);
    }
    return out_would(c, "%s namespace %s%s", what, c->args[0], text);
}

/* ---- create, set, bump ---- */

int verb_ns_create(struct ctl *c)
{
    struct pikv_namespace d = {.create = true};
    const char *why;
    int code, s = fields_read(c, true, &d);

    d.name = c->args[0];
    s = s ? s : link_open(c);
    if (s)
        return s;
    if (c->opt[OPT_DRY_RUN])
        return would(c, "create");
    code = pikv_namespace_open(c->kv, &d, &c->ns, &c->call);
    why = pikv_last_error();
    if (code)
        return why[0] ? ctl_fail(ctl_status(code), "%s", why)
                      : ctl_fail_code(code, "namespace %s", d.name);
    return verb_ns_show(c);
}

/* One change; an error's words come from the daemon. */
static int change(struct ctl *c, const Pikv__NamespaceRequest *m)
{
    Pikv__NamespaceReply *r;
    int code, s = link_open(c);

    if (s)
        return s;
    r = link_ask(c, "namespace", 0, &m->base,
                 &pikv__namespace_reply__descriptor, &code);
    if (code && code != PIKV_NO_NAMESPACE && r && r->error[0])
        s = ctl_fail(ctl_status(code), "namespace %s: %s", m->name, r->error);
    else
        s = code ? ctl_fail_code(code, "namespace %s", m->name) : show(c, r);
    link_free(r);
    return s;
}

/* A dry run still wants the namespace to be there. */
static int dry(struct ctl *c, const char *what)
{
    Pikv__NamespaceReply *m;
    int s = link_describe(c, c->args[0], &m);

    if (s)
        return s;
    link_free(m);
    return would(c, what);
}

int verb_ns_set(struct ctl *c)
{
    Pikv__NamespaceRequest m;
    Pikv__Settings settings;
    int s;

    pikv__namespace_request__init(&m);
    pikv__settings__init(&settings);
    s = fields_read(c, false, &settings);
    if (s)
        return s;
    if (c->opt[OPT_DRY_RUN])
        return dry(c, "change");
    m.name = c->args[0];
    m.change = &settings;
    return change(c, &m);
}

int verb_ns_bump(struct ctl *c)
{
    Pikv__NamespaceRequest m;
    int s;

    pikv__namespace_request__init(&m);
    if (c->opt[OPT_DRY_RUN])
        return dry(c, "flush");
    s = ctl_confirm(c, "drop all blocks of namespace", "namespace bump");
    m.name = c->args[0];
    m.bump = true;
    return s ? s : change(c, &m);
}
