/* SPDX-License-Identifier: Apache-2.0
 *
 * Words of the command line as keys, salts, numbers, and keys as words again.
 *
 * A key is any bytes. As a word it is itself, or "hex:" and two digits per
 * byte. Printing takes the first form when the bytes are plain text that does
 * not start with "hex:", so what is printed can be given back. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "client/ctl/ctl.h"

enum { SCOPE_BYTES = 16, ROUTE_BYTES = 32, KEY_BYTES = 1024 };

/* What is kept hangs together, so that a leak checker sees its owner. */
struct kept {
    struct kept *next;
    max_align_t bytes[];
};

void *ctl_keep(size_t bytes)
{
    static struct kept *all;
    struct kept *k = calloc(1, sizeof(*k) + bytes);

    if (!k)
        return NULL;
    k->next = all;
    all = k;
    return k->bytes;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* n bytes from 2 x n digits. */
static bool hex_parse(const char *text, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int hi = hex_digit(text[2 * i]);
        int lo = hi < 0 ? -1 : hex_digit(text[2 * i + 1]);

        if (lo < 0)
            return false;
        out[i] = (uint8_t)(hi << 4 | lo);
    }
    return text[2 * n] == '\0';
}

static void hex_print(char *out, const uint8_t *p, size_t n)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < n; i++) {
        *out++ = digits[p[i] >> 4];
        *out++ = digits[p[i] & 15];
    }
    *out = '\0';
}

int key_parse(const char *text, struct pikv_bytes *out)
{
    size_t n = strlen(text);
    uint8_t *p;

    if (strncmp(text, "hex:", 4) == 0) {
        n = (n - 4) / 2;
        p = ctl_keep(n + 1);
        if (!p || !hex_parse(text + 4, p, n))
            return ctl_fail(CTL_USAGE,
                            "key %.40s: not hex digits in pairs; give text, "
                            "or hex: and digits",
                            text);
        *out = (struct pikv_bytes){p, n};
    } else {
        *out = (struct pikv_bytes){text, n};
    }
    if (n == 0 || n > KEY_BYTES)
        return ctl_fail(CTL_USAGE, "key %.40s: %zu bytes; 1 to %d are possible",
                        text, n, KEY_BYTES);
    return CTL_OK;
}

static bool is_plain(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] <= ' ' || p[i] > '~')
            return false;
    return n < 4 || memcmp(p, "hex:", 4) != 0;
}

json_t *hex_json(const void *p, size_t n)
{
    char *text = malloc(2 * n + 1);
    json_t *j;

    if (!text)
        return json_null();
    hex_print(text, p, n);
    j = json_string(text);
    free(text);
    return j;
}

json_t *key_json(const void *p, size_t n)
{
    char *text;
    json_t *j;

    if (is_plain(p, n))
        return json_stringn(p, n);
    text = malloc(2 * n + 5);
    if (!text)
        return json_null();
    memcpy(text, "hex:", 4);
    hex_print(text + 4, p, n);
    j = json_string(text);
    free(text);
    return j;
}

/* ---- numbers ---- */

int parse_number(const char *what, const char *text, uint64_t max,
                 uint64_t *out)
{
    char *end;
    unsigned long long n;

    errno = 0;
    n = strtoull(text, &end, 0);
    if (!isdigit((unsigned char)text[0]) || *end || errno || n > max)
        return ctl_fail(CTL_USAGE, "%s %s: not a number from 0 to %llu", what,
                        text, (unsigned long long)max);
    *out = n;
    return CTL_OK;
}

int parse_bytes(const char *what, const char *text, uint64_t *out)
{
    if (units_bytes(text, out) == OK)
        return CTL_OK;
    if (text[0] && text[strspn(text, "0123456789")] == '\0')
        return parse_number(what, text, UINT64_MAX, out);
    return ctl_fail(CTL_USAGE, "%s %s: not a size; write 4096 or 64KiB", what,
                    text);
}

int parse_us(const char *what, const char *text, uint64_t *out)
{
    if (units_us(text, out) == OK)
        return CTL_OK;
    return ctl_fail(CTL_USAGE, "%s %s: not a time; write 250ms or 2s", what,
                    text);
}

static const char *opt_name(enum ctl_opt opt, char *buf, size_t n)
{
    snprintf(buf, n, "--%s", ctl_options[opt].name);
    return buf;
}

int opt_number(const struct ctl *c, enum ctl_opt opt, uint64_t dflt,
               uint64_t max, uint64_t *out)
{
    char name[32];

    *out = dflt;
    return c->opt[opt] ? parse_number(opt_name(opt, name, sizeof(name)),
                                      c->opt[opt], max, out)
                       : CTL_OK;
}

int opt_us(const struct ctl *c, enum ctl_opt opt, uint64_t dflt, uint64_t *out)
{
    char name[32];

    *out = dflt;
    return c->opt[opt]
               ? parse_us(opt_name(opt, name, sizeof(name)), c->opt[opt], out)
               : CTL_OK;
}

int opt_bytes(const struct ctl *c, enum ctl_opt opt, uint64_t dflt,
              uint64_t *out)
{
    char name[32];

    *out = dflt;
    return c->opt[opt] ? parse_bytes(opt_name(opt, name, sizeof(name)),
                                     c->opt[opt], out)
                       : CTL_OK;
}

/* ---- a whole key ---- */

int opt_scope(const struct ctl *c, const uint8_t **scope_out)
{
    static uint8_t scope[SCOPE_BYTES];
    const char *text = c->opt[OPT_SCOPE];

    *scope_out = NULL;
    if (!text)
        return CTL_OK;
    if (!hex_parse(text, scope, SCOPE_BYTES))
        return ctl_fail(CTL_USAGE, "--scope %.40s: not 32 hex digits", text);
    *scope_out = scope;
    return CTL_OK;
}

/* Written as a key is, so that what inspect prints can be given back. */
static int route_parse(const char *text, struct pikv_bytes *out)
{
    int s = text[0] ? key_parse(text, out) : CTL_OK;

    if (s)
        return s;
    if (!text[0] || out->len > ROUTE_BYTES)
        return ctl_fail(CTL_USAGE, "--route %.40s: 1 to %d bytes are possible",
                        text, ROUTE_BYTES);
    return CTL_OK;
}

int key_of_args(const struct ctl *c, const char *text, struct pikv_key *out)
{
    const char *route = c->opt[OPT_ROUTE];
    uint64_t group;
    int s;

    *out = (struct pikv_key){0};
    s = key_parse(text, &out->key);
    s = s ? s : opt_scope(c, &out->scope);
    s = s ? s : opt_number(c, OPT_GROUP, 0, 15, &group);
    if (s)
        return s;
    out->group = (uint16_t)group;
    return route ? route_parse(route, &out->route) : CTL_OK;
}
