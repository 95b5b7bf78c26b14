/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of settings as data, and single values: text to member and back.
 * A value always comes as text, whatever it was in its source (a JSON number is
 * printed first), so that there is one parser and one set of messages.
 *
 *   text --parse--> number or word --bounds--> member + origin
 *
 * Nothing is stored unless it parses and lies within its row's bounds. */
#include "server/config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"

static const char *const words_hugepages[] = {
    [HUGEPAGES_AUTO] = "auto", [HUGEPAGES_ON] = "on", [HUGEPAGES_OFF] = "off"};
static const char *const words_loans[] = {
    [LOANS_OFF] = "off", [LOANS_ON] = "on", [LOANS_ANY] = "any"};
static const char *const words_promote[] = {
    [PROMOTE_DEMAND] = "demand", [PROMOTE_SECOND_TOUCH] = "second_touch"};
static const char *const words_engine[] = {
    [ENGINE_AUTO] = "auto", [ENGINE_URING] = "uring", [ENGINE_SYNC] = "sync"};
static const char *const words_tiering[] = {
    [TIERING_CACHE] = "cache", [TIERING_WRITE_BUFFER] = "write_buffer"};
static const char *const words_provider[] = {[PROVIDER_STATIC] = "static",
                                             [PROVIDER_RAFT] = "raft"};
static const char *const words_security[] = {[SECURITY_TLS] = "tls",
                                             [SECURITY_PSK] = "psk",
                                             [SECURITY_PLAIN] = "plain"};
static const char *const words_level[] = {
    [LOG_ERROR] = "error", [LOG_WARN] = "warn",   [LOG_NOTICE] = "notice",
    [LOG_INFO] = "info",   [LOG_DEBUG] = "debug",
};
static const char *const words_format[] = {[LOG_FORMAT_AUTO] = "auto",
                                           [LOG_FORMAT_TEXT] = "text",
                                           [LOG_FORMAT_JOURNAL] = "journal",
                                           [LOG_FORMAT_JSON] = "json"};
static const char *const words_policy[] = {
#define POLICY(name, ops, doc) #name,
#include "store/evict.tbl"
};

/* clang-format off */
static const struct config_row rows[] = {
#define GROUP(member, at, text)                                                \
    {.kind = CONFIG_ROW_GROUP, .path = #at, .name = #member, .doc = text},
#define END(member) {.kind = CONFIG_ROW_END, .path = "", .name = #member},
#define KEY(t, group, leaf, d, lo, hi, cls, text)                              \
    {.kind = CONFIG_ROW_KEY, .path = #group "." #leaf, .name = #leaf,          \
     .doc = text, .type = CONFIG_TYPE_##t, .class = CONFIG_##cls, .def = d,    \
     .min = lo, .max = hi,                                                     \
     .off = offsetof(struct config, group.CONFIG_MEMBER_##t(leaf))},
#define CHOICE(list, group, leaf, d, cls, text)                                \
    {.kind = CONFIG_ROW_KEY, .path = #group "." #leaf, .name = #leaf,          \
     .doc = text, .type = CONFIG_TYPE_CHOICE, .class = CONFIG_##cls, .def = d, \
     .off = offsetof(struct config, group.leaf), .words = words_##list,        \
     .word_n = countof(words_##list)},
#include "server/config.tbl"
};
/* clang-format on */
static_assert(countof(rows) == CONFIG_ROWS, "config.h counts the same rows");

const struct config_row *config_row(uint32_t idx)
{
    return idx < countof(rows) ? &rows[idx] : NULL;
}

const struct config_row *config_find(const char *path)
{
    for (uint32_t i = 0; i < countof(rows); i++) {
        if (rows[i].kind != CONFIG_ROW_END && strcmp(rows[i].path, path) == 0)
            return &rows[i];
    }
    return NULL;
}

const char *config_origin(const struct config *c, const struct config_row *key)
{
    return c->origin[key - rows];
}

const char *config_class_name(enum config_class class)
{
    switch (class) {
    case CONFIG_LIVE:
        return "live";
    case CONFIG_DRAIN:
        return "drain";
    case CONFIG_RESTART:
        return "restart";
    }
    return "";
}

/* "abc" is not <this>. */
const char *config_type_name(enum config_type type)
{
    switch (type) {
    case CONFIG_TYPE_BYTES:
    case CONFIG_TYPE_BYTES_AUTO:
        return "a size";
    case CONFIG_TYPE_TIME:
        return "a time";
    case CONFIG_TYPE_UINT:
    case CONFIG_TYPE_UINT_AUTO:
        return "a whole number";
    case CONFIG_TYPE_PERCENT:
        return "a percentage";
    case CONFIG_TYPE_MODE:
        return "an octal file mode";
    case CONFIG_TYPE_BOOL:
        return "true or false";
    case CONFIG_TYPE_STRING:
        return "a string";
    case CONFIG_TYPE_CHOICE:
        return "one of the words";
    }
    return "";
}

/* ---- numbers to text */

static void number_print(enum config_type type, uint64_t n, char *buf)
{
    bool is_auto =
        type == CONFIG_TYPE_BYTES_AUTO || type == CONFIG_TYPE_UINT_AUTO;

    if (n == 0 && is_auto) {
        snprintf(buf, CONFIG_VALUE_TEXT, "auto");
        return;
    }
    switch (type) {
    case CONFIG_TYPE_BYTES:
    case CONFIG_TYPE_BYTES_AUTO:
        units_print_bytes(n, buf);
        return;
    case CONFIG_TYPE_TIME:
        units_print_us(n, buf);
        return;
    case CONFIG_TYPE_PERCENT:
        snprintf(buf, CONFIG_VALUE_TEXT, "%" PRIu64 "%%", n);
        return;
    case CONFIG_TYPE_MODE:
        snprintf(buf, CONFIG_VALUE_TEXT, "%04" PRIo64, n);
        return;
    case CONFIG_TYPE_UINT:
    case CONFIG_TYPE_UINT_AUTO:
    case CONFIG_TYPE_BOOL:
    case CONFIG_TYPE_STRING:
    case CONFIG_TYPE_CHOICE:
        snprintf(buf, CONFIG_VALUE_TEXT, "%" PRIu64, n);
        return;
    }
}

static void allowed_words(const struct config_row *key, char *buf)
{
    size_t used = 0;

    buf[0] = '\0';
    for (uint32_t i = 0; i < key->word_n; i++) {
        if (!key->words[i])
            continue;
        used += (size_t)snprintf(buf + used, CONFIG_VALUE_TEXT - used, "%s%s",
                                 used ? ", " : "", key->words[i]);
        MUST(used < CONFIG_VALUE_TEXT);
    }
}

char *config_allowed(const struct config_row *key, char buf[CONFIG_VALUE_TEXT])
{
    char lo[CONFIG_VALUE_TEXT], hi[CONFIG_VALUE_TEXT];
    const char *also = "";

    if (key->type == CONFIG_TYPE_CHOICE) {
        allowed_words(key, buf);
        return buf;
    }
    if (key->type == CONFIG_TYPE_BOOL) {
        snprintf(buf, CONFIG_VALUE_TEXT, "true, false");
        return buf;
    }
    number_print(key->type, key->min, lo);
    number_print(key->type, key->max, hi);
    if (key->type == CONFIG_TYPE_BYTES_AUTO ||
        key->type == CONFIG_TYPE_UINT_AUTO)
        also = ", auto";
    if (key->type == CONFIG_TYPE_STRING)
        also = " printable ASCII characters";
    snprintf(buf, CONFIG_VALUE_TEXT, "%.100s to %.100s%s", lo, hi, also);
    return buf;
}

/* ---- members */

static void *member(struct config *c, const struct config_row *key)
{
    return (char *)c + key->off;
}

static const void *member_of(const struct config *c,
                             const struct config_row *key)
{
    return (const char *)c + key->off;
}

static size_t member_bytes(const struct config_row *key)
{
    switch (key->type) {
    case CONFIG_TYPE_STRING:
        return CONFIG_STRING;
    case CONFIG_TYPE_BOOL:
        return sizeof(bool);
    case CONFIG_TYPE_CHOICE:
        return sizeof(uint32_t);
    case CONFIG_TYPE_BYTES:
    case CONFIG_TYPE_BYTES_AUTO:
    case CONFIG_TYPE_TIME:
    case CONFIG_TYPE_UINT:
    case CONFIG_TYPE_UINT_AUTO:
    case CONFIG_TYPE_PERCENT:
    case CONFIG_TYPE_MODE:
        break;
    }
    return sizeof(uint64_t);
}

char *config_value(const struct config *c, const struct config_row *key,
                   char buf[CONFIG_VALUE_TEXT])
{
    uint64_t n;
    uint32_t word;
    bool yes;

    if (key->type == CONFIG_TYPE_STRING) {
        snprintf(buf, CONFIG_VALUE_TEXT, "%s", (const char *)member_of(c, key));
    } else if (key->type == CONFIG_TYPE_BOOL) {
        memcpy(&yes, member_of(c, key), sizeof(yes));
        snprintf(buf, CONFIG_VALUE_TEXT, "%s", yes ? "true" : "false");
    } else if (key->type == CONFIG_TYPE_CHOICE) {
        memcpy(&word, member_of(c, key), sizeof(word));
        MUST(word < key->word_n);
        snprintf(buf, CONFIG_VALUE_TEXT, "%s", key->words[word]);
    } else {
        memcpy(&n, member_of(c, key), sizeof(n));
        number_print(key->type, n, buf);
    }
    return buf;
}

/* The tail says more than the head of a long path. */
static void origin_set(struct config *c, const struct config_row *key,
                       const char *origin)
{
    size_t len = strlen(origin);
    const char *dots = "";

    if (len >= CONFIG_ORIGIN) {
        origin += len - (CONFIG_ORIGIN - 4);
        dots = "...";
    }
    snprintf(c->origin[key - rows], CONFIG_ORIGIN, "%s%s", dots, origin);
}

/* ---- text to numbers */

/* Digits of a base and nothing else. */
static bool digits(const char *text, unsigned base, uint64_t *n_out)
{
    uint64_t n = 0;

    if (!*text)
        return false;
    for (; *text; text++) {
        unsigned d = (unsigned)(unsigned char)*text - '0';

        if (d >= base || __builtin_mul_overflow(n, base, &n) ||
            __builtin_add_overflow(n, d, &n))
            return false;
    }
    *n_out = n;
    return true;
}

static bool percent(const char *text, uint64_t *n_out)
{
    char buf[24];
    size_t len = strlen(text);

    if (len == 0 || len >= sizeof(buf))
        return false;
    memcpy(buf, text, len + 1);
    if (buf[len - 1] == '%')
        buf[len - 1] = '\0';
    return digits(buf, 10, n_out);
}

static bool number_parse(enum config_type type, const char *text,
                         uint64_t *n_out)
{
    switch (type) {
    case CONFIG_TYPE_BYTES:
    case CONFIG_TYPE_BYTES_AUTO:
        return digits(text, 10, n_out) || units_bytes(text, n_out) == OK;
    case CONFIG_TYPE_TIME:
        /* Zero needs no unit; any other bare number would be a guess. */
        return (digits(text, 10, n_out) && *n_out == 0) ||
               units_us(text, n_out) == OK;
    case CONFIG_TYPE_UINT:
    case CONFIG_TYPE_UINT_AUTO:
        return digits(text, 10, n_out);
    case CONFIG_TYPE_PERCENT:
        return percent(text, n_out);
    case CONFIG_TYPE_MODE:
        return digits(text, 8, n_out);
    case CONFIG_TYPE_BOOL:
    case CONFIG_TYPE_STRING:
    case CONFIG_TYPE_CHOICE:
        break;
    }
    return false;
}

static enum err put_number(struct config *c, const struct config_row *key,
                           const char *text, struct errmsg *why)
{
    char allowed[CONFIG_VALUE_TEXT], bound[CONFIG_VALUE_TEXT];
    bool is_auto = key->type == CONFIG_TYPE_BYTES_AUTO ||
                   key->type == CONFIG_TYPE_UINT_AUTO;
    uint64_t n;

    config_allowed(key, allowed);
    if (is_auto && strcmp(text, "auto") == 0)
        n = 0;
    else if (!number_parse(key->type, text, &n))
        return errmsg_set(why, ERR_CONFIG, "\"%.60s\" is not %s; allowed: %s",
                          text, config_type_name(key->type), allowed);
    if (!(is_auto && n == 0) && (n < key->min || n > key->max)) {
        number_print(key->type, n < key->min ? key->min : key->max, bound);
        return errmsg_set(why, ERR_CONFIG, "%.60s is %s %s; allowed: %s", text,
                          n < key->min ? "below" : "above", bound, allowed);
    }
    memcpy(member(c, key), &n, sizeof(n));
    return OK;
}

static enum err put_string(struct config *c, const struct config_row *key,
                           const char *text, struct errmsg *why)
{
    char allowed[CONFIG_VALUE_TEXT];
    size_t len = strlen(text);

    config_allowed(key, allowed);
    if (len < key->min || len > key->max)
        return errmsg_set(why, ERR_CONFIG,
                          "%zu characters are too %s; allowed: %s", len,
                          len < key->min ? "few" : "many", allowed);
    for (size_t i = 0; i < len; i++) {
        if (text[i] < ' ' || text[i] > '~')
            return errmsg_set(why, ERR_CONFIG,
                              "byte %zu (0x%02x) is not printable; allowed: %s",
                              i + 1, (unsigned char)text[i], allowed);
    }
    /* Equal values must be equal bytes: config_diff compares them whole. */
    memset(member(c, key), 0, CONFIG_STRING);
    memcpy(member(c, key), text, len);
    return OK;
}

static enum err put_word(struct config *c, const struct config_row *key,
                         const char *text, struct errmsg *why)
{
    char allowed[CONFIG_VALUE_TEXT];

    for (uint32_t i = 0; i < key->word_n; i++) {
        if (key->words[i] && strcmp(text, key->words[i]) == 0) {
            memcpy(member(c, key), &i, sizeof(i));
            return OK;
        }
    }
    return errmsg_set(why, ERR_CONFIG, "\"%.60s\" is not known; allowed: %s",
                      text, config_allowed(key, allowed));
}

static enum err put_bool(struct config *c, const struct config_row *key,
                         const char *text, struct errmsg *why)
{
    bool yes = strcmp(text, "true") == 0;

    if (!yes && strcmp(text, "false") != 0)
        return errmsg_set(why, ERR_CONFIG, "\"%.60s\" is not true or false",
                          text);
    memcpy(member(c, key), &yes, sizeof(yes));
    return OK;
}

enum err config_put(struct config *c, const struct config_row *key,
                    const char *text, const char *origin, struct errmsg *why)
{
    enum err e;

    if (key->type == CONFIG_TYPE_STRING)
        e = put_string(c, key, text, why);
    else if (key->type == CONFIG_TYPE_CHOICE)
        e = put_word(c, key, text, why);
    else if (key->type == CONFIG_TYPE_BOOL)
        e = put_bool(c, key, text, why);
    else
        e = put_number(c, key, text, why);
    if (e == OK)
        origin_set(c, key, origin);
    return e;
}

/* ---- whole structs */

void config_reset(struct config *c, const struct config_row *row)
{
    uint32_t depth = 0;

    MUST(row->kind != CONFIG_ROW_END);
    do {
        if (row->kind == CONFIG_ROW_GROUP)
            depth++;
        else if (row->kind == CONFIG_ROW_END)
            depth--;
        else
            MUST(config_put(c, row, row->def, "default", NULL) == OK);
        row++;
    } while (depth > 0);
}

void config_defaults(struct config *c)
{
    memset(c, 0, sizeof(*c));
    for (uint32_t i = 0; i < countof(rows); i++) {
        if (rows[i].kind == CONFIG_ROW_KEY)
            config_reset(c, &rows[i]);
    }
}

uint32_t config_diff(const struct config *a, const struct config *b,
                     const struct config_row *keys_out[CONFIG_ROWS])
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < countof(rows); i++) {
        const struct config_row *k = &rows[i];

        if (k->kind == CONFIG_ROW_KEY &&
            memcmp(member_of(a, k), member_of(b, k), member_bytes(k)) != 0)
            keys_out[n++] = k;
    }
    return n;
}

void config_take(struct config *to, const struct config *from,
                 enum config_class class)
{
    for (uint32_t i = 0; i < countof(rows); i++) {
        const struct config_row *k = &rows[i];

        if (k->kind != CONFIG_ROW_KEY || k->class != class)
            continue;
        memcpy(member(to, k), member_of(from, k), member_bytes(k));
        memcpy(to->origin[i], from->origin[i], CONFIG_ORIGIN);
    }
}
