/* SPDX-License-Identifier: Apache-2.0
 *
 * The JSON at the start of an exported file: which namespace it was, with
 * fingerprint, groups and settings, so that import can make it again or see
 * that another one is not the same. Members that are not known are skipped;
 * one that is known must have its type. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "client/ctl/block_file.h"

/* A member of a struct: text, or a number of 32 or 64 bits. */
struct member {
    const char *name;
    size_t off;
    enum { TEXT, U32, U64 } type;
};

#define OF(type, name) offsetof(struct type, name)
static const struct member fingerprint[] = {
    {"model", OF(pikv_namespace, model), TEXT},
    {"weights_version", OF(pikv_namespace, weights_version), TEXT},
    {"tokenizer_hash", OF(pikv_namespace, tokenizer_hash), TEXT},
    {"hash_seed", OF(pikv_namespace, hash_seed), TEXT},
    {"dtype", OF(pikv_namespace, dtype), TEXT},
    {"scale_format", OF(pikv_namespace, scale_format), TEXT},
    {"parallel_layout", OF(pikv_namespace, parallel_layout), TEXT},
};
static const struct member settings[] = {
    {"policy", OF(pikv_namespace, policy), TEXT},
    {"loans", OF(pikv_namespace, loans), TEXT},
    {"dram", OF(pikv_namespace, dram), TEXT},
    {"share", OF(pikv_namespace, share), U32},
    {"ttl_ms", OF(pikv_namespace, ttl_ms), U32},
    {"quota_bytes", OF(pikv_namespace, quota_bytes), U64},
};
static const struct member group[] = {
    {"id", OF(pikv_group, id), U32},
    {"kind", OF(pikv_group, kind), TEXT},
    {"layers", OF(pikv_group, layers), U32},
    {"kv_heads", OF(pikv_group, kv_heads), U32},
    {"head_dim", OF(pikv_group, head_dim), U32},
    {"tokens_per_block", OF(pikv_group, tokens_per_block), U32},
    {"dtype", OF(pikv_group, dtype), TEXT},
    {"order", OF(pikv_group, order), TEXT},
    {"block_bytes", OF(pikv_group, block_bytes), U64},
};

static const char *text_at(const void *from, const struct member *m)
{
    const char *text;

    memcpy(&text, (const char *)from + m->off, sizeof(text));
    return text ? text : "";
}

/* ---- making ---- */

static json_t *number_json(const void *from, const struct member *m)
{
    uint64_t n = 0;

    /* Little-endian hosts only (proto/wire.h). */
    memcpy(&n, (const char *)from + m->off, m->type == U32 ? 4 : 8);
    return json_integer((json_int_t)min_u64(n, INT64_MAX));
}

static json_t *members_json(const void *from, const struct member *m, size_t n)
{
    json_t *o = json_object();

    for (size_t i = 0; i < n; i++)
        if (json_object_set_new(o, m[i].name,
                                m[i].type == TEXT
                                    ? json_string(text_at(from, &m[i]))
                                    : number_json(from, &m[i])) != 0) {
            json_decref(o);
            return NULL;
        }
    return o;
}

json_t *bf_space_json(const struct pikv_namespace *d, const char *server)
{
    json_t *groups = json_array(), *o;

    for (uint32_t i = 0; i < d->group_n; i++)
        if (json_array_append_new(groups, members_json(&d->groups[i], group,
                                                       countof(group))) != 0) {
            json_decref(groups);
            return NULL;
        }
    /* Takes them all, whether it works or not. */
    o = json_pack("{s:s, s:s, s:o, s:o, s:o}", "server", server, "namespace",
                  d->name, "fingerprint",
                  members_json(d, fingerprint, countof(fingerprint)),
                  "settings", members_json(d, settings, countof(settings)),
                  "groups", groups);
    return o;
}

/* ---- reading ---- */

static bool member_read(const json_t *value, const struct member *m, void *to)
{
    uint64_t most = m->type == U32 ? UINT32_MAX : INT64_MAX, n;
    const char *text = json_string_value(value);

    if (m->type == TEXT) {
        memcpy((char *)to + m->off, &text, sizeof(text));
        return text != NULL;
    }
    n = (uint64_t)json_integer_value(value);
    if (!json_is_integer(value) || json_integer_value(value) < 0 || n > most)
        return false;
    memcpy((char *)to + m->off, &n, m->type == U32 ? 4 : 8);
    return true;
}

static bool members_read(const json_t *o, const struct member *m, size_t n,
                         const char *what, void *to, char why[BF_WHY])
{
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_object_get(o, m[i].name);

        if (value && !member_read(value, &m[i], to)) {
            snprintf(why, BF_WHY, "its head: %s.%s is not %s", what, m[i].name,
                     m[i].type == TEXT ? "text" : "a number that fits");
            return false;
        }
    }
    return true;
}

static bool groups_read(const json_t *list, struct bf_space *s,
                        char why[BF_WHY])
{
    size_t n = json_array_size(list); /* 0 of what is no list */

    if (n > BF_GROUPS) {
        snprintf(why, BF_WHY, "its head: %zu groups, at most %d", n, BF_GROUPS);
        return false;
    }
    for (size_t i = 0; i < n; i++)
        if (!members_read(json_array_get(list, i), group, countof(group),
                          "groups", &s->groups[i], why))
            return false;
    s->d.group_n = (uint32_t)n;
    return true;
}

bool bf_space_read(struct bf_space *s, json_t *json, char why[BF_WHY])
{
    const json_t *name = json_object_get(json, "namespace");

    *s = (struct bf_space){.json = json};
    s->d.name = json_string_value(name);
    if (!s->d.name || !s->d.name[0]) {
        snprintf(why, BF_WHY, "its head names no namespace");
        bf_space_fini(s);
        return false;
    }
    if (!members_read(json_object_get(json, "fingerprint"), fingerprint,
                      countof(fingerprint), "fingerprint", &s->d, why) ||
        !members_read(json_object_get(json, "settings"), settings,
                      countof(settings), "settings", &s->d, why) ||
        !groups_read(json_object_get(json, "groups"), s, why)) {
        bf_space_fini(s);
        return false;
    }
    return true;
}

void bf_space_fini(struct bf_space *s)
{
    json_decref(s->json);
    *s = (struct bf_space){0};
}

const char *bf_space_differs(const struct pikv_namespace *a,
                             const struct pikv_namespace *b, const char **a_out,
                             const char **b_out)
{
    for (size_t i = 0; i < countof(fingerprint); i++) {
        const struct member *m = &fingerprint[i];

        *a_out = text_at(a, m);
        *b_out = text_at(b, m);
        if (strcmp(*a_out, *b_out) != 0)
            return m->name;
    }
    return NULL;
}
