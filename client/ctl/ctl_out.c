/* SPDX-License-Identifier: Apache-2.0
 *
 * What is printed, in both forms, and errors. Verbs build JSON; a table is
 * another look at the same rows, so the forms cannot tell different things.
 *
 *   table   a header line in capitals, columns two spaces apart; "-" where
 *           there is nothing. Bytes from elsewhere that a terminal would obey
 *           are printed as "?".
 *   json    one document, indented by two */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/ctl.h"

enum { CELL = 2200, COLUMNS_MAX = 16 };

/* ---- errors ---- */

int ctl_fail(int status, const char *fmt, ...)
{
    va_list ap;

    bar_end();
    fflush(stdout);
    fputs("pikvctl: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return status;
}

int ctl_status(int code)
{
    switch (code) {
    case PIKV_OK:
        return CTL_OK;
    case PIKV_MISS:
    case PIKV_NO_NAMESPACE:
        return CTL_MISS;
    case PIKV_NO_SERVER:
    case PIKV_PEER_GONE:
        return CTL_NO_SERVER;
    default: /* any other code is an error */
        return CTL_ERROR;
    }
}

static const char *code_fix(int code)
{
    switch (code) {
    case PIKV_MISS:
        return NULL;
    case PIKV_NO_NAMESPACE:
        return "pikvctl namespace list shows those there are";
    case PIKV_NO_SERVER:
    case PIKV_PEER_GONE:
        return "is pikvd running? systemctl start pikvd, or give --address";
    case PIKV_DENIED:
        return "run as the daemon's user or root";
    case PIKV_TIMEOUT:
        return "give it more with --deadline";
    default: /* by who has to act */
        break;
    }
    return pikv_error_who(code) == PIKV_WHO_RETRY ? "try again" : NULL;
}

int ctl_fail_code(int code, const char *fmt, ...)
{
    const char *fix = code_fix(code);
    va_list ap;

    bar_end();
    fflush(stdout);
    fputs("pikvctl: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, ": %s%s%s\n", pikv_error_text(code), fix ? "; " : "",
            fix ? fix : "");
    return ctl_status(code);
}

int out_would(const struct ctl *c, const char *fmt, ...)
{
    char text[CELL];
    va_list ap;
    json_t *o;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (!c->json)
        return printf("would %s\n", text) < 0 ? CTL_ERROR : CTL_OK;
    o = json_object();
    json_object_set_new(o, "would", out_text(text));
    return out_object(c, o);
}

const char *ctl_tier(uint8_t tier)
{
    static const char *const names[] = {"dram", "ssd", "hbm"};

    return tier < countof(names) ? names[tier] : "unknown";
}

int ctl_confirm(const struct ctl *c, const char *question, const char *verb)
{
    char answer[16] = "";

    if (c->opt[OPT_YES])
        return CTL_OK;
    if (!isatty(STDIN_FILENO))
        return ctl_fail(CTL_USAGE, "%s %s: would %s; say --yes", verb,
                        c->args[0], question);
    fprintf(stderr, "%s %s? [y/N] ", question, c->args[0]);
    if (!fgets(answer, sizeof(answer), stdin) || answer[0] != 'y')
        return ctl_fail(CTL_ERROR, "%s %s: not done", verb, c->args[0]);
    return CTL_OK;
}

int out_flush(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    if (errno == EPIPE)
        return status;
    return ctl_fail(CTL_ERROR, "standard output: %s", strerror(errno));
}

/* ---- values ---- */

json_t *out_text(const char *text)
{
    json_t *j = json_string(text ? text : "");

    return j ? j : hex_json(text, strlen(text));
}

json_t *out_u64(uint64_t n)
{
    return json_integer((json_int_t)min_u64(n, INT64_MAX));
}

json_t *out_hex64(uint64_t n)
{
    char buf[24];

    snprintf(buf, sizeof(buf), "0x%" PRIx64, n);
    return json_string(buf);
}

static void cell_tame(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            *s = '?';
}

static void cell_list(const json_t *list, char *buf, size_t n)
{
    size_t at = 0, i;
    char one[128];
    json_t *item;

    snprintf(buf, n, "%s", json_array_size(list) ? "" : "-");
    json_array_foreach(list, i, item)
    {
        snprintf(buf + at, n - at, "%s%s", i ? "," : "",
                 out_cell(item, one, sizeof(one)));
        at = strlen(buf);
    }
}

const char *out_cell(const json_t *value, char *buf, size_t n)
{
    if (json_is_integer(value))
        snprintf(buf, n, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        snprintf(buf, n, "%.3f", json_real_value(value));
    else if (json_is_string(value) && json_string_length(value))
        snprintf(buf, n, "%s", json_string_value(value));
    else if (json_is_boolean(value))
        snprintf(buf, n, "%s", json_is_true(value) ? "yes" : "no");
    else if (json_is_array(value))
        cell_list(value, buf, n);
    else
        snprintf(buf, n, "-");
    cell_tame(buf);
    return buf;
}

/* ---- documents ---- */

static int out_json(json_t *doc)
{
    int s = doc && json_dumpf(doc, stdout, JSON_INDENT(2)) == 0 ? CTL_OK
                                                                : CTL_ERROR;

    putchar('\n');
    json_decref(doc);
    return s;
}

static void pad(const char *text, size_t width, bool right, bool last)
{
    int gap = (int)(width - strlen(text));

    if (right)
        printf("%*s%s", gap, "", text);
    else
        printf("%s%*s", text, last ? 0 : gap, "");
    fputs(last ? "\n" : "  ", stdout);
}

static void row_header(const struct column *columns, size_t n,
                       const size_t *width)
{
    char name[64];

    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "%s", columns[i].name);
        for (char *s = name; *s; s++)
            *s = (char)toupper((unsigned char)*s);
        pad(name, width[i], columns[i].right, i + 1 == n);
    }
}

static void row_widths(const struct column *columns, size_t n,
                       const json_t *rows, size_t *width)
{
    char cell[CELL];
    size_t r;
    json_t *row;

    for (size_t i = 0; i < n; i++)
        width[i] = strlen(columns[i].name);
    json_array_foreach(rows, r, row)
    {
        for (size_t i = 0; i < n; i++)
            width[i] = max_u64(
                width[i], strlen(out_cell(json_object_get(row, columns[i].name),
                                          cell, sizeof(cell))));
    }
}

int out_rows(const struct ctl *c, const struct column *columns, size_t n,
             json_t *rows)
{
    size_t width[COLUMNS_MAX], r;
    char cell[CELL];
    json_t *row;

    MUST(n <= COLUMNS_MAX);
    if (c->json)
        return out_json(rows);
    row_widths(columns, n, rows, width);
    row_header(columns, n, width);
    json_array_foreach(rows, r, row)
    {
        for (size_t i = 0; i < n; i++)
            pad(out_cell(json_object_get(row, columns[i].name), cell,
                         sizeof(cell)),
                width[i], columns[i].right, i + 1 == n);
    }
    json_decref(rows);
    return CTL_OK;
}

/* Members of objects within the object are named parent.member. */
static void object_lines(json_t *object, const char *prefix)
{
    char name[128], cell[CELL];
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value)
    {
        snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", key);
        if (json_is_object(value))
            object_lines(value, name);
        else if (!json_is_array(value) ||
                 !json_is_object(json_array_get(value, 0)))
            printf("%-28s %s\n", name, out_cell(value, cell, sizeof(cell)));
        else
            for (size_t i = 0; i < json_array_size(value); i++) {
                size_t at = strlen(name);

                snprintf(name + at, sizeof(name) - at, "[%zu]", i);
                object_lines(json_array_get(value, i), name);
                name[at] = '\0';
            }
    }
}

int out_object(const struct ctl *c, json_t *object)
{
    if (c->json)
        return out_json(object);
    object_lines(object, "");
    json_decref(object);
    return CTL_OK;
}
