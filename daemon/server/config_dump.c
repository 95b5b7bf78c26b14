/* SPDX-License-Identifier: Apache-2.0
 *
 * The settings as JSON for people and programs: values, values with origins or
 * docs in each group's $comment, and the JSON Schema. Both walk the table in
 * its order; GROUP and END rows open and close objects. */
#include "server/config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { DUMP_DEPTH = 12 };

struct dump {
    struct textbuf *out;
    uint32_t depth;
    bool filled[DUMP_DEPTH]; /* the object at this depth has a member */
};

/* Names, values and docs are printable ASCII (config_put, this table). */
static void dump_text(struct dump *d, const char *s)
{
    while (*s) {
        size_t plain = strcspn(s, "\"\\");

        textbuf_add(d->out, "%.*s", (int)plain, s);
        s += plain;
        if (*s)
            textbuf_add(d->out, "\\%c", *s++);
    }
}

static void dump_string(struct dump *d, const char *s)
{
    textbuf_add(d->out, "\"");
    dump_text(d, s);
    textbuf_add(d->out, "\"");
}

static void dump_newline(struct dump *d)
{
    textbuf_add(d->out, "\n%*s", (int)(d->depth * 2), "");
}

/* A comma if one is due, a line, and "name": */
static void dump_name(struct dump *d, const char *name)
{
    if (d->filled[d->depth])
        textbuf_add(d->out, ",");
    d->filled[d->depth] = true;
    dump_newline(d);
    dump_string(d, name);
    textbuf_add(d->out, ": ");
}

static void dump_open(struct dump *d)
{
    textbuf_add(d->out, "{");
    d->depth++;
    MUST(d->depth < DUMP_DEPTH);
    d->filled[d->depth] = false;
}

static void dump_close(struct dump *d)
{
    d->depth--;
    dump_newline(d);
    textbuf_add(d->out, "}");
}

static void dump_member(struct dump *d, const char *name, const char *value)
{
    dump_name(d, name);
    dump_string(d, value);
}

/* ---- values */

/* Is the value written without quotes? */
static bool is_bare(const struct config_row *key, const char *value)
{
    return key->type == CONFIG_TYPE_BOOL || key->type == CONFIG_TYPE_UINT ||
           (key->type == CONFIG_TYPE_UINT_AUTO && strcmp(value, "auto") != 0);
}

static void dump_value(struct dump *d, const struct config_row *key,
                       const char *value)
{
    if (is_bare(key, value))
        textbuf_add(d->out, "%s", value);
    else
        dump_string(d, value);
}

/* The keys directly in the group that starts at place i. */
static void dump_comment(struct dump *d, const struct config *c,
                         enum config_dump_as as, uint32_t i)
{
    const struct config_row *group = config_row(i), *k;
    char allowed[CONFIG_VALUE_TEXT];

    dump_name(d, "$comment");
    textbuf_add(d->out, "[");
    d->depth++;
    dump_newline(d);
    dump_string(d, group->doc);
    for (k = config_row(++i); k->kind == CONFIG_ROW_KEY; k = config_row(++i)) {
        textbuf_add(d->out, ",");
        dump_newline(d);
        textbuf_add(d->out, "\"%s: ", k->name);
        if (as == CONFIG_DUMP_ORIGINS) {
            dump_text(d, config_origin(c, k));
        } else {
            dump_text(d, k->doc);
            dump_text(d, " Allowed: ");
            dump_text(d, config_allowed(k, allowed));
            dump_text(d, ".");
        }
        textbuf_add(d->out, "\"");
    }
    d->depth--;
    dump_newline(d);
    textbuf_add(d->out, "]");
}

void config_dump(const struct config *c, enum config_dump_as as,
                 struct textbuf *out)
{
    struct dump d = {.out = out};
    const struct config_row *r;
    char value[CONFIG_VALUE_TEXT];

    dump_open(&d);
    for (uint32_t i = 0; (r = config_row(i)) != NULL; i++) {
        if (r->kind == CONFIG_ROW_END) {
            dump_close(&d);
            continue;
        }
        dump_name(&d, r->name);
        if (r->kind == CONFIG_ROW_KEY) {
            dump_value(&d, r, config_value(c, r, value));
            continue;
        }
        dump_open(&d);
        if (as != CONFIG_DUMP_PLAIN)
            dump_comment(&d, c, as, i);
    }
    dump_close(&d);
    textbuf_add(out, "\n");
}

/* ---- schema */

static void schema_words(struct dump *d, const struct config_row *key)
{
    const char *comma = "";

    dump_name(d, "enum");
    textbuf_add(d->out, "[");
    for (uint32_t i = 0; i < key->word_n; i++) {
        if (!key->words[i])
            continue;
        textbuf_add(d->out, "%s", comma);
        dump_string(d, key->words[i]);
        comma = ", ";
    }
    textbuf_add(d->out, "]");
}

static void schema_bounds(struct dump *d, const struct config_row *key,
                          const char *low, const char *high)
{
    dump_name(d, low);
    textbuf_add(d->out, "%" PRIu64, key->min);
    dump_name(d, high);
    textbuf_add(d->out, "%" PRIu64, key->max);
}

/* A number within bounds, or a string of this form: bounds of texts with units
 * are beyond a schema, the daemon checks them. */
static void schema_form(struct dump *d, const struct config_row *key,
                        const char *pattern)
{
    dump_name(d, "type");
    textbuf_add(d->out, "[\"string\", \"integer\"]");
    schema_bounds(d, key, "minimum", "maximum");
    dump_member(d, "pattern", pattern);
}

static void schema_type(struct dump *d, const struct config_row *key)
{
    static const char decimal[] = "[0-9]+([.][0-9]+)?";
    char pattern[96];

    switch (key->type) {
    case CONFIG_TYPE_BYTES:
    case CONFIG_TYPE_BYTES_AUTO:
        snprintf(pattern, sizeof(pattern), "^(%s(B|KiB|MiB|GiB|TiB)|[0-9]+%s)$",
                 decimal, key->type == CONFIG_TYPE_BYTES ? "" : "|auto");
        schema_form(d, key, pattern);
        return;
    case CONFIG_TYPE_TIME:
        snprintf(pattern, sizeof(pattern), "^(%s(us|ms|s|m|h)|0+)$", decimal);
        dump_member(d, "type", "string");
        dump_member(d, "pattern", pattern);
        return;
    case CONFIG_TYPE_PERCENT:
        schema_form(d, key, "^[0-9]+%?$");
        return;
    case CONFIG_TYPE_UINT_AUTO:
        schema_form(d, key, "^auto$");
        return;
    case CONFIG_TYPE_UINT:
        dump_member(d, "type", "integer");
        schema_bounds(d, key, "minimum", "maximum");
        return;
    case CONFIG_TYPE_MODE:
        dump_member(d, "type", "string");
        dump_member(d, "pattern", "^[0-7]+$");
        return;
    case CONFIG_TYPE_BOOL:
        dump_member(d, "type", "boolean");
        return;
    case CONFIG_TYPE_STRING:
        dump_member(d, "type", "string");
        schema_bounds(d, key, "minLength", "maxLength");
        return;
    case CONFIG_TYPE_CHOICE:
        schema_words(d, key);
        return;
    }
}

/* null is allowed everywhere: it gives back the default. 0 is auto, also where
 * it is below the bounds. */
static void schema_key(struct dump *d, const struct config_row *key)
{
    bool is_auto = key->type == CONFIG_TYPE_BYTES_AUTO ||
                   key->type == CONFIG_TYPE_UINT_AUTO;

    dump_open(d);
    dump_member(d, "description", key->doc);
    dump_name(d, "default");
    dump_value(d, key, key->def);
    dump_name(d, "anyOf");
    textbuf_add(d->out, "[{\"type\": \"null\"}, %s",
                is_auto ? "{\"const\": 0}, " : "");
    dump_open(d);
    schema_type(d, key);
    dump_close(d);
    textbuf_add(d->out, "]");
    dump_close(d);
}

/* Inside an object: what it says about itself, up to its first property. */
static void schema_group(struct dump *d, const char *types)
{
    dump_name(d, "type");
    textbuf_add(d->out, "%s", types);
    dump_name(d, "additionalProperties");
    textbuf_add(d->out, "false");
    dump_name(d, "properties");
    dump_open(d);
    dump_name(d, "$comment");
    textbuf_add(d->out, "{\"type\": [\"string\", \"array\"], "
                        "\"items\": {\"type\": \"string\"}}");
}

void config_schema(struct textbuf *out)
{
    struct dump d = {.out = out};
    const struct config_row *r;

    dump_open(&d);
    dump_member(&d, "$schema", "https://json-schema.org/draft/2020-12/schema");
    dump_member(&d, "title", "pikvd.json");
    schema_group(&d, "\"object\"");
    for (uint32_t i = 0; (r = config_row(i)) != NULL; i++) {
        if (r->kind == CONFIG_ROW_END) {
            dump_close(&d);
            dump_close(&d);
            continue;
        }
        dump_name(&d, r->name);
        if (r->kind == CONFIG_ROW_KEY) {
            schema_key(&d, r);
            continue;
        }
        dump_open(&d);
        dump_member(&d, "description", r->doc);
        schema_group(&d, "[\"object\", \"null\"]");
    }
    dump_close(&d);
    dump_close(&d);
    textbuf_add(out, "\n");
}
