/* SPDX-License-Identifier: Apache-2.0
 *
 * Where settings come from: JSON texts, variables, --set. Each source is loaded
 * into a copy that replaces the struct only when all of it was good.
 *
 * jansson checks the JSON and gives positions of syntax errors only. For the
 * rest config_where() walks the text again, which is simple because the text is
 * known to be valid by then: a member is named by its place in each object
 * (jansson keeps the order, and duplicates are refused), so that escapes in
 * keys need no decoding. It still never reads past len. */
#include "server/config.h"

#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { LOAD_DEPTH = 4, LOAD_PATH = 128, LOAD_WHERE = 320 };

/* ---- positions */

struct cursor {
    const char *p, *end;
    struct config_pos pos;
};

static int cursor_peek(const struct cursor *c)
{
    return c->p < c->end ? (unsigned char)*c->p : -1;
}

static void cursor_step(struct cursor *c)
{
    int ch = cursor_peek(c);

    if (ch < 0)
        return;
    c->p++;
    /* The bytes of a character after its first one do not move on. */
    if (ch == '\n')
        c->pos = (struct config_pos){c->pos.line + 1, 1};
    else if ((cursor_peek(c) & 0xc0) != 0x80 || cursor_peek(c) < 0)
        c->pos.column++;
}

static void cursor_blank(struct cursor *c)
{
    int ch = cursor_peek(c);

    while (ch == ' ' || ch == '\t' || ch == '\n' || ch == '\r' || ch == ',' ||
           ch == ':') {
        cursor_step(c);
        ch = cursor_peek(c);
    }
}

static void cursor_string(struct cursor *c)
{
    cursor_step(c); /* the opening quote */
    while (cursor_peek(c) >= 0 && cursor_peek(c) != '"') {
        if (cursor_peek(c) == '\\')
            cursor_step(c);
        cursor_step(c);
    }
    cursor_step(c);
}

/* A scalar, or everything up to the bracket that closes this one. */
static void cursor_value(struct cursor *c)
{
    uint32_t depth = 0;

    do {
        int ch = cursor_peek(c);

        if (ch == '"') {
            cursor_string(c);
        } else if (ch == '{' || ch == '[') {
            depth++;
            cursor_step(c);
        } else if (ch == '}' || ch == ']') {
            depth--;
            cursor_step(c);
        } else {
            cursor_step(c);
            while (depth == 0 && cursor_peek(c) >= 0 &&
                   !strchr(" \t\r\n,]}", cursor_peek(c)))
                cursor_step(c);
        }
    } while (depth > 0 && cursor_peek(c) >= 0);
}

/* From before an object to its n-th key; false if it has fewer. */
static bool cursor_member(struct cursor *c, uint32_t n)
{
    cursor_blank(c);
    if (cursor_peek(c) != '{')
        return false;
    cursor_step(c);
    for (uint32_t i = 0;; i++) {
        cursor_blank(c);
        if (cursor_peek(c) != '"')
            return false;
        if (i == n)
            return true;
        cursor_string(c);
        cursor_blank(c);
        cursor_value(c);
    }
}

struct config_pos config_where(const char *text, size_t len,
                               const uint32_t *places, uint32_t depth,
                               bool value)
{
    struct cursor c = {text, text + len, {1, 1}};

    if (depth == 0)
        cursor_blank(&c);
    for (uint32_t i = 0; i < depth; i++) {
        if (!cursor_member(&c, places[i]))
            return (struct config_pos){0, 0};
        if (i + 1 < depth || value) {
            cursor_string(&c);
            cursor_blank(&c);
        }
    }
    return c.pos;
}

/* ---- nearest name */

/* Levenshtein's distance; both are cut to 63 bytes. */
static uint32_t distance(const char *a, const char *b)
{
    uint32_t row[64], n = (uint32_t)strnlen(b, 63);

    for (uint32_t j = 0; j <= n; j++)
        row[j] = j;
    for (uint32_t i = 0; i < 63 && a[i]; i++) {
        uint32_t diagonal = row[0];

        row[0] = i + 1;
        for (uint32_t j = 0; j < n; j++) {
            uint32_t swap = diagonal + (a[i] != b[j]);

            diagonal = row[j + 1];
            row[j + 1] =
                (uint32_t)min_u64(swap, min_u64(row[j], row[j + 1]) + 1);
        }
    }
    return row[n];
}

static const char *last_name(const char *path)
{
    const char *dot = strrchr(path, '.');

    return dot ? dot + 1 : path;
}

const char *config_nearest(const char *path)
{
    const char *best = "";
    uint32_t best_d = UINT32_MAX;
    const struct config_row *r;

    for (uint32_t i = 0; (r = config_row(i)) != NULL; i++) {
        uint32_t d, tail;

        if (r->kind == CONFIG_ROW_END)
            continue;
        d = distance(path, r->path);
        /* The right name in the wrong group counts as close. */
        tail = distance(last_name(path), r->name) + 2;
        d = (uint32_t)min_u64(d, tail);
        if (d < best_d) {
            best_d = d;
            best = r->path;
        }
    }
    return best;
}

/* ---- JSON */

struct load {
    struct config *c;
    const char *name, *text;
    size_t len;
    struct errmsg *m;
    uint32_t places[LOAD_DEPTH]; /* of the member in hand, from the root */
    uint32_t depth;
    char path[LOAD_PATH];   /* of the member in hand */
    char where[LOAD_WHERE]; /* "file:line:column" of it */
};

static void load_where(struct load *l, bool value)
{
    struct config_pos at =
        config_where(l->text, l->len, l->places, l->depth, value);
    size_t len = strlen(l->name);

    /* A very long name loses its head, not the position. */
    snprintf(l->where, sizeof(l->where), "%s:%" PRIu32 ":%" PRIu32,
             l->name + (len > 256 ? len - 256 : 0), at.line, at.column);
}

static enum err load_fail(struct load *l, const char *why)
{
    return errmsg_set(l->m, ERR_CONFIG, "%s: %s: %s", l->where,
                      l->path[0] ? l->path : "(whole file)", why);
}

static const char *json_kind(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "a number";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "";
}

/* May a JSON value of this kind be this setting? */
static bool load_kind_ok(const struct config_row *key, const json_t *v)
{
    bool text = json_is_string(v), number = json_is_integer(v);

    switch (key->type) {
    case CONFIG_TYPE_BYTES:
    case CONFIG_TYPE_BYTES_AUTO:
    case CONFIG_TYPE_PERCENT:
        return text || number;
    case CONFIG_TYPE_UINT_AUTO:
        return number || (text && strcmp(json_string_value(v), "auto") == 0);
    case CONFIG_TYPE_UINT:
        return number;
    case CONFIG_TYPE_TIME:
    case CONFIG_TYPE_MODE:
    case CONFIG_TYPE_STRING:
    case CONFIG_TYPE_CHOICE:
        return text;
    case CONFIG_TYPE_BOOL:
        return json_is_boolean(v);
    }
    return false;
}

static enum err load_key(struct load *l, const struct config_row *key,
                         const json_t *v)
{
    char number[24], allowed[CONFIG_VALUE_TEXT];
    const char *text = json_string_value(v);
    struct errmsg why;

    if (!load_kind_ok(key, v)) {
        errmsg_set(&why, ERR_CONFIG, "%s is not %s; allowed: %s", json_kind(v),
                   config_type_name(key->type), config_allowed(key, allowed));
        return load_fail(l, why.text);
    }
    if (json_is_integer(v)) {
        snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
                 json_integer_value(v));
        text = number;
    } else if (json_is_boolean(v)) {
        text = json_is_true(v) ? "true" : "false";
    }
    if (config_put(l->c, key, text, l->where, &why) != OK)
        return load_fail(l, why.text);
    return OK;
}

static enum err load_comment(struct load *l, const json_t *v)
{
    bool ok = json_is_string(v) || json_is_array(v);

    for (size_t i = 0; i < json_array_size(v); i++)
        ok = ok && json_is_string(json_array_get(v, i));
    return ok ? OK : load_fail(l, "a comment is a string or a list of strings");
}

static enum err load_object(struct load *l, json_t *object);

static enum err load_member(struct load *l, const char *name, json_t *v)
{
    const struct config_row *row = config_find(l->path);
    struct errmsg why;

    load_where(l, row != NULL);
    if (strcmp(name, "$comment") == 0) {
        load_where(l, true);
        return load_comment(l, v);
    }
    if (!row) {
        errmsg_set(&why, ERR_CONFIG, "no such setting; nearest: %s",
                   config_nearest(l->path));
        return load_fail(l, why.text);
    }
    if (json_is_null(v)) {
        config_reset(l->c, row);
        return OK;
    }
    if (row->kind == CONFIG_ROW_KEY)
        return load_key(l, row, v);
    if (json_is_object(v))
        return load_object(l, v);
    errmsg_set(&why, ERR_CONFIG, "%s is not a group; allowed: an object",
               json_kind(v));
    return load_fail(l, why.text);
}

/* The members of the group that l->path names. Recursion ends with the table:
 * only known groups are entered. */
static enum err load_object(struct load *l, json_t *object)
{
    size_t base = strlen(l->path);
    const char *name;
    json_t *v;
    uint32_t place = 0;

    MUST(l->depth < LOAD_DEPTH);
    l->depth++;
    json_object_foreach(object, name, v)
    {
        enum err e;

        l->places[l->depth - 1] = place++;
        snprintf(l->path + base, sizeof(l->path) - base, "%s%.60s",
                 base ? "." : "", name);
        e = load_member(l, name, v);
        if (e != OK)
            return e;
    }
    l->path[base] = '\0';
    l->depth--;
    return OK;
}

/* jansson gives no position where an allocation of its own fails, except in
 * its scanner, where it calls that bad syntax: so bad syntax is looked at
 * twice. */
static enum err load_parse(struct load *l, json_t **root_out)
{
    json_error_t error;

    for (uint32_t i = 0; i < 2; i++) {
        *root_out = json_loadb(l->text, l->len, JSON_REJECT_DUPLICATES, &error);
        if (*root_out)
            return OK;
        if (error.line < 1)
            return errmsg_set(l->m, ERR_NO_MEMORY, "%s: out of memory",
                              l->name);
    }
    return errmsg_set(l->m, ERR_CONFIG, "%s:%d:%d: %s; allowed: strict JSON",
                      l->name, error.line, error.column, error.text);
}

enum err config_load_text(struct config *c, const char *name, const char *text,
                          size_t len, struct errmsg *m)
{
    struct config copy = *c;
    struct load l = {
        .c = &copy, .name = name, .text = text, .len = len, .m = m};
    json_t *root;
    enum err e;

    if (len > CONFIG_TEXT_MAX)
        return errmsg_set(m, ERR_CONFIG,
                          "%s:1:1: %zu bytes are too many; allowed: up to %d",
                          name, len, CONFIG_TEXT_MAX);
    e = load_parse(&l, &root);
    if (e != OK)
        return e;
    if (json_is_object(root)) {
        e = load_object(&l, root);
    } else {
        load_where(&l, true);
        e = load_fail(&l, "not a configuration; allowed: an object");
    }
    json_decref(root);
    if (e == OK)
        *c = copy;
    return e;
}

/* ---- variables and --set */

enum err config_set(struct config *c, const char *path, const char *text,
                    const char *origin, struct errmsg *m)
{
    const struct config_row *row = config_find(path);
    struct errmsg why;

    if (!row)
        return errmsg_set(m, ERR_CONFIG,
                          "%s: %.100s: no such setting; nearest: %s", origin,
                          path, config_nearest(path));
    if (row->kind != CONFIG_ROW_KEY)
        return errmsg_set(m, ERR_CONFIG,
                          "%s: %s: is a group; allowed: one of its settings",
                          origin, path);
    if (config_put(c, row, text, origin, &why) != OK)
        return errmsg_set(m, ERR_CONFIG, "%s: %s: %s", origin, path, why.text);
    return OK;
}

enum err config_set_arg(struct config *c, const char *arg, struct errmsg *m)
{
    const char *eq = strchr(arg, '=');
    char path[LOAD_PATH];

    if (!eq)
        return errmsg_set(m, ERR_CONFIG,
                          "--set: %.100s: no value; allowed: path=value", arg);
    snprintf(path, sizeof(path), "%.*s",
             (int)min_u64((uint64_t)(eq - arg), 100), arg);
    return config_set(c, path, eq + 1, "--set", m);
}

char *config_env_name(const struct config_row *key, char buf[64])
{
    int n = snprintf(buf, 64, "PIKVD_%s", key->path);

    MUST(n < 64);
    for (char *p = buf; *p; p++)
        *p = *p == '.' ? '_' : (char)toupper((unsigned char)*p);
    return buf;
}

static const struct config_row *env_find(const char *name, size_t len)
{
    const struct config_row *r;
    char buf[64];

    for (uint32_t i = 0; (r = config_row(i)) != NULL; i++) {
        if (r->kind == CONFIG_ROW_KEY &&
            strlen(config_env_name(r, buf)) == len &&
            memcmp(buf, name, len) == 0)
            return r;
    }
    return NULL;
}

/* Long names and long lists are cut: it is for a log line. */
static void env_ignored(struct errmsg *list, const char *name, size_t len)
{
    size_t used = strlen(list->text);

    snprintf(list->text + used, sizeof(list->text) - used, "%s%.*s",
             used ? " " : "", (int)min_u64(len, 100), name);
}

enum err config_load_env(struct config *c, char *const *environ_list,
                         struct errmsg *ignored, struct errmsg *m)
{
    struct config copy = *c;
    struct errmsg list = {""};

    for (; *environ_list; environ_list++) {
        const char *name = *environ_list, *eq = strchr(name, '=');
        const struct config_row *key;
        char origin[72];
        enum err e;

        if (!eq || strncmp(name, "PIKVD_", 6) != 0)
            continue;
        key = env_find(name, (size_t)(eq - name));
        if (!key) {
            env_ignored(&list, name, (size_t)(eq - name));
            continue;
        }
        snprintf(origin, sizeof(origin), "env %.*s", (int)(eq - name), name);
        e = config_set(&copy, key->path, eq + 1, origin, m);
        if (e != OK)
            return e;
    }
    *c = copy;
    *ignored = list;
    return OK;
}
