/* SPDX-License-Identifier: Apache-2.0
 *
 * The registry as text: a JSON object that a person can read and a restart
 * reads back.
 *
 *   {"format": 1, "next_generation": n, "namespaces": [
 *     {"name": "...", "id": 1, "generation": n, "salt": hex, "slot_seed": hex,
 *      "fingerprint": {...}, "settings": {...}, "groups": [{...}],
 *      "flushes": n}]}
 *
 * flushes is there in clusters only.
 *
 * The file holds the salts, so it is the daemon's alone (mode 0600, files.c).
 * Everything read is checked as if a client had sent it: a damaged file is an
 * error that names the field, never a namespace that is a little different.
 * A newer format is refused; an unknown member is too, since dropping it at the
 * next save would lose what a newer version wrote. */
#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/registry.h"

/* ---- Writing: texts are printable ASCII without quotes and backslashes ----
 */

static void text_hex(struct textbuf *out, const uint8_t *p, size_t n)
{
    textbuf_add(out, "\"");
    for (size_t i = 0; i < n; i++)
        textbuf_add(out, "%02x", p[i]);
    textbuf_add(out, "\"");
}

static void text_group(struct textbuf *out, const struct registry_group *g)
{
    textbuf_add(out,
                "{\"id\": %u, \"kind\": \"%s\", \"layers\": %u, "
                "\"kv_heads\": %u, \"head_dim\": %u, \"dtype\": \"%s\", "
                "\"order\": \"%s\", \"tokens_per_block\": %u, "
                "\"block_bytes\": %" PRIu64 "}",
                g->id, g->kind, g->layers, g->kv_heads, g->head_dim, g->dtype,
                g->order, g->tokens_per_block, g->block_bytes);
}

static void text_settings(struct textbuf *out,
                          const struct registry_settings *s)
{
    textbuf_add(out,
                "{\"policy\": \"%s\", \"share\": %u, \"loans\": \"%s\", "
                "\"ttl_ms\": %u, \"quota_bytes\": %" PRIu64
                ", \"dram\": \"%s\"}",
                s->policy->name, s->share, registry_loans_name(s->loans),
                s->ttl_ms, s->quota_bytes, registry_dram_name(s->dram));
}

static void text_ns(struct textbuf *out, const struct registry_ns *ns)
{
    const struct registry_fp_field *f;
    const char *comma = "";

    textbuf_add(out,
                "  {\"name\": \"%s\", \"id\": %u, \"generation\": %" PRIu64
                ",\n   \"salt\": ",
                ns->name, ns->id, ns->generation);
    text_hex(out, ns->salt, sizeof(ns->salt));
    textbuf_add(out, ",\n   \"slot_seed\": \"%016" PRIx64 "\",\n",
                ns->slot_seed);
    textbuf_add(out, "   \"fingerprint\": {");
    for (f = registry_fp_fields; f->name; f++, comma = ", ")
        textbuf_add(out, "%s\"%s\": \"%s\"", comma, f->name,
                    registry_fp_text(&ns->fingerprint, f));
    textbuf_add(out, "},\n   \"settings\": ");
    text_settings(out, &ns->settings);
    textbuf_add(out, ",\n   \"groups\": [");
    for (uint32_t i = 0; i < ns->group_n; i++) {
        textbuf_add(out, "%s", i ? ", " : "");
        text_group(out, &ns->groups[i]);
    }
    textbuf_add(out, "]");
    if (ns->flushes)
        textbuf_add(out, ",\n   \"flushes\": %" PRIu64, ns->flushes);
    textbuf_add(out, "}");
}

void registry_text(const struct registry *r, const struct registry_ns *draft,
                   struct textbuf *out)
{
    uint32_t n = draft && draft->id > r->n ? draft->id : r->n;
    uint64_t next = r->next_generation;

    if (draft && draft->generation == next)
        next++;
    textbuf_add(out,
                "{\"format\": %d, \"next_generation\": %" PRIu64
                ", \"namespaces\": [",
                REGISTRY_FORMAT, next);
    for (uint32_t id = 1; id <= n; id++) {
        textbuf_add(out, "%s\n", id > 1 ? "," : "");
        text_ns(out, draft && draft->id == id ? draft : &r->ns[id - 1]);
    }
    textbuf_add(out, "]}\n");
}

/* ---- Reading: a member is taken once, then none may be left ---- */

static enum err read_u64(json_t *o, const char *key, uint64_t max,
                         uint64_t *out, struct errmsg *m)
{
    json_t *v = json_object_get(o, key);
    json_int_t n = json_integer_value(v);

    if (!json_is_integer(v) || n < 0 || (uint64_t)n > max)
        return errmsg_set(m, ERR_CONFIG, "%s: not a number from 0 to %" PRIu64,
                          key, max);
    *out = (uint64_t)n;
    json_object_del(o, key);
    return OK;
}

static enum err read_u32(json_t *o, const char *key, uint32_t max,
                         uint32_t *out, struct errmsg *m)
{
    uint64_t v;
    enum err e = read_u64(o, key, max, &v, m);

    if (!e)
        *out = (uint32_t)v;
    return e;
}

static enum err read_text(json_t *o, const char *key, char *to, size_t cap,
                          struct errmsg *m)
{
    const char *s = json_string_value(json_object_get(o, key));
    size_t n = s ? json_string_length(json_object_get(o, key)) : cap;

    if (n >= cap)
        return errmsg_set(m, ERR_CONFIG, "%s: not a text below %zu bytes", key,
                          cap);
    for (size_t i = 0; i < n; i++)
        if (s[i] < ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\')
            return errmsg_set(m, ERR_CONFIG, "%s: not plain ASCII", key);
    memset(to, 0, cap);
    memcpy(to, s, n);
    json_object_del(o, key);
    return OK;
}

static enum err read_hex(json_t *o, const char *key, uint8_t *to, size_t n,
                         struct errmsg *m)
{
    json_t *v = json_object_get(o, key);
    const char *s = json_string_value(v);
    unsigned byte;

    if (!s || json_string_length(v) != 2 * n ||
        strspn(s, "0123456789abcdef") != 2 * n)
        return errmsg_set(m, ERR_CONFIG, "%s: not %zu hexadecimal digits", key,
                          2 * n);
    for (size_t i = 0; i < n; i++) {
        MUST(sscanf(s + 2 * i, "%2x", &byte) == 1);
        to[i] = (uint8_t)byte;
    }
    json_object_del(o, key);
    return OK;
}

static enum err read_end(json_t *o, struct errmsg *m)
{
    void *left = json_object_iter(o);

    if (!left)
        return OK;
    return errmsg_set(m, ERR_CONFIG, "%.40s: not known to this version",
                      json_object_iter_key(left));
}

/* Borrowed; read_end of the parent wants it gone, so it is taken with a ref. */
static enum err read_part(json_t *o, const char *key, bool array, json_t **out,
                          struct errmsg *m)
{
    json_t *v = json_object_get(o, key);

    if (array ? !json_is_array(v) : !json_is_object(v))
        return errmsg_set(m, ERR_CONFIG, "%s: not an %s", key,
                          array ? "array" : "object");
    *out = json_incref(v);
    json_object_del(o, key);
    return OK;
}

static enum err read_fingerprint(json_t *o, struct registry_fingerprint *f,
                                 struct errmsg *m)
{
    const struct registry_fp_field *x;
    enum err e;

    for (x = registry_fp_fields; x->name; x++) {
        e = read_text(o, x->name, (char *)f + x->off, REGISTRY_TEXT, m);
        if (e)
            return e;
    }
    return read_end(o, m);
}

static enum err read_loans(const char *name, enum config_loans *out,
                           struct errmsg *m)
{
    for (enum config_loans l = LOANS_OFF; l <= LOANS_ANY; l++) {
        if (strcmp(name, registry_loans_name(l)) == 0) {
            *out = l;
            return OK;
        }
    }
    return errmsg_set(m, ERR_CONFIG, "loans: not off, on or any");
}

/* A text from before there was an SSD tier does not have it. */
static enum err read_dram(json_t *o, enum config_tiering *out, struct errmsg *m)
{
    char name[REGISTRY_WORD] = "";
    enum err e;

    *out = TIERING_CACHE;
    if (!json_object_get(o, "dram"))
        return OK;
    e = read_text(o, "dram", name, sizeof(name), m);
    if (e)
        return e;
    for (enum config_tiering t = TIERING_CACHE; t <= TIERING_WRITE_BUFFER;
         t++) {
        if (strcmp(name, registry_dram_name(t)) == 0) {
            *out = t;
            return OK;
        }
    }
    return errmsg_set(m, ERR_CONFIG, "dram: not cache or write_buffer");
}

static enum err read_settings(json_t *o, struct registry_settings *s,
                              struct errmsg *m)
{
    char policy[REGISTRY_WORD] = "", loans[REGISTRY_WORD] = "";
    enum err e;

    e = read_text(o, "policy", policy, sizeof(policy), m);
    if (!e)
        e = read_text(o, "loans", loans, sizeof(loans), m);
    if (!e)
        e = read_u32(o, "share", REGISTRY_SHARE_MAX, &s->share, m);
    if (!e)
        e = read_u32(o, "ttl_ms", UINT32_MAX, &s->ttl_ms, m);
    if (!e)
        e = read_u64(o, "quota_bytes", GIB(65536), &s->quota_bytes, m);
    if (!e)
        e = read_loans(loans, &s->loans, m);
    if (!e)
        e = read_dram(o, &s->dram, m);
    if (!e)
        e = read_end(o, m);
    if (e)
        return e;
    s->policy = evict_by_name(policy);
    if (!s->policy)
        return errmsg_set(m, ERR_CONFIG, "policy: %s is not known", policy);
    if (s->share == 0)
        return errmsg_set(m, ERR_CONFIG, "share: 0 is below 1");
    return OK;
}

static enum err read_group(json_t *o, struct registry_group *g,
                           struct errmsg *m)
{
    enum err e;

    e = read_u32(o, "id", STORE_GROUPS - 1, &g->id, m);
    if (!e)
        e = read_text(o, "kind", g->kind, sizeof(g->kind), m);
    if (!e)
        e = read_u32(o, "layers", UINT32_MAX, &g->layers, m);
    if (!e)
        e = read_u32(o, "kv_heads", UINT32_MAX, &g->kv_heads, m);
    if (!e)
        e = read_u32(o, "head_dim", UINT32_MAX, &g->head_dim, m);
    if (!e)
        e = read_text(o, "dtype", g->dtype, sizeof(g->dtype), m);
    if (!e)
        e = read_text(o, "order", g->order, sizeof(g->order), m);
    if (!e)
        e = read_u32(o, "tokens_per_block", UINT32_MAX, &g->tokens_per_block,
                     m);
    if (!e)
        e = read_u64(o, "block_bytes", GIB(1), &g->block_bytes, m);
    return e ? e : read_end(o, m);
}

static enum err read_groups(json_t *a, struct registry_ns *ns, struct errmsg *m)
{
    size_t n = json_array_size(a);

    if (n > STORE_GROUPS)
        return errmsg_set(m, ERR_CONFIG, "groups: more than %d", STORE_GROUPS);
    for (uint32_t i = 0; i < n; i++) {
        enum err e = read_group(json_array_get(a, i), &ns->groups[i], m);

        if (e)
            return errmsg_wrap(m, e, "groups[%u]", i);
    }
    ns->group_n = (uint32_t)n;
    return OK;
}

static enum err read_ns_plain(json_t *o, struct registry_ns *ns,
                              struct errmsg *m)
{
    uint8_t seed[8];
    enum err e;

    e = read_text(o, "name", ns->name, sizeof(ns->name), m);
    if (!e)
        e = read_u32(o, "id", UINT32_MAX, &ns->id, m);
    if (!e)
        e = read_u64(o, "generation", INT64_MAX, &ns->generation, m);
    if (!e)
        e = read_hex(o, "salt", ns->salt, sizeof(ns->salt), m);
    if (!e)
        e = read_hex(o, "slot_seed", seed, sizeof(seed), m);
    if (!e && json_object_get(o, "flushes"))
        e = read_u64(o, "flushes", INT64_MAX, &ns->flushes, m);
    if (e)
        return e;
    for (size_t i = 0; i < sizeof(seed); i++)
        ns->slot_seed = ns->slot_seed << 8 | seed[i];
    return OK;
}

static enum err read_ns(json_t *o, struct registry_ns *ns, struct errmsg *m)
{
    json_t *fingerprint = NULL, *settings = NULL, *groups = NULL;
    enum err e = read_ns_plain(o, ns, m);

    if (!e)
        e = read_part(o, "fingerprint", false, &fingerprint, m);
    if (!e)
        e = read_part(o, "settings", false, &settings, m);
    if (!e)
        e = read_part(o, "groups", true, &groups, m);
    if (!e)
        e = read_end(o, m);
    if (!e)
        e = read_fingerprint(fingerprint, &ns->fingerprint, m);
    if (!e)
        e = read_settings(settings, &ns->settings, m);
    if (!e)
        e = read_groups(groups, ns, m);
    json_decref(fingerprint);
    json_decref(settings);
    json_decref(groups);
    return e;
}

/* A namespace fits behind those already read (invariants 1 to 4). */
static enum err load_check(const struct registry *r,
                           const struct registry_ns *ns, uint64_t next,
                           struct errmsg *m)
{
    if (ns->id != r->n + 1)
        return errmsg_set(m, ERR_CONFIG, "id: %u, not %u", ns->id, r->n + 1);
    if (r->n == r->max)
        return errmsg_set(m, ERR_CONFIG,
                          "there are more namespaces than namespaces.max (%u) "
                          "allows",
                          r->max);
    if (ns->generation == 0 || ns->generation >= next)
        return errmsg_set(m, ERR_CONFIG,
                          "generation: %" PRIu64 ", not below next_generation",
                          ns->generation);
    if (!*ns->name || strchr(ns->name, ' '))
        return errmsg_set(m, ERR_CONFIG, "name: not a name");
    if (registry_find(r, ns->name))
        return errmsg_set(m, ERR_CONFIG, "name: %s is there twice", ns->name);
    return OK;
}

static enum err load_namespaces(struct registry *r, json_t *a, uint64_t next,
                                struct errmsg *m)
{
    uint32_t pools = 0;

    for (uint32_t i = 0; i < json_array_size(a); i++) {
        struct registry_ns ns = {0};
        enum err e = read_ns(json_array_get(a, i), &ns, m);

        if (!e)
            e = load_check(r, &ns, next, m);
        if (e)
            return errmsg_wrap(m, e, "namespaces[%u]", i);
        if (ns.settings.loans != LOANS_OFF && pools < r->loan_pools)
            ns.pool = ++pools;
        r->ns[r->n++] = ns;
    }
    return OK;
}

static enum err load_root(struct registry *r, json_t *root, struct errmsg *m)
{
    json_t *list = NULL;
    uint64_t format, next = 0;
    enum err e = read_u64(root, "format", INT64_MAX, &format, m);

    if (!e && format != REGISTRY_FORMAT)
        e = errmsg_set(m, ERR_CONFIG,
                       "format: %" PRIu64 "; this version reads %d", format,
                       REGISTRY_FORMAT);
    if (!e)
        e = read_u64(root, "next_generation", INT64_MAX, &next, m);
    if (!e)
        e = read_part(root, "namespaces", true, &list, m);
    if (!e)
        e = read_end(root, m);
    if (!e)
        e = load_namespaces(r, list, next, m);
    json_decref(list);
    if (e)
        r->n = 0;
    else
        r->next_generation = max_u64(r->next_generation, next);
    return e;
}

enum err registry_load(struct registry *r, const char *text, size_t len,
                       struct errmsg *m)
{
    json_error_t where;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
    enum err e;

    MUST(r->n == 0);
    if (!root)
        return errmsg_set(m, ERR_CONFIG, "line %d column %d: %s", where.line,
                          where.column, where.text);
    e = load_root(r, root, m);
    json_decref(root);
    return e;
}
