/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers with units, read strictly: digits, at most one fraction in decimal
 * digits that gives a whole number of the smallest unit, one unit, nothing
 * else. "1.5GiB" is fine, "1.5B", "1 GiB", "-1s" and "" are not. */
#include "base/units.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct unit {
    const char *name;
    uint64_t factor;
};

/* Largest first: printing takes the first that divides. */
static const struct unit unit_bytes[] = {
    {"TiB", UINT64_C(1) << 40},
    {"GiB", UINT64_C(1) << 30},
    {"MiB", UINT64_C(1) << 20},
    {"KiB", UINT64_C(1) << 10},
    {"B", 1},
};

static const struct unit unit_us[] = {
    {"h", UINT64_C(3600000000)},
    {"m", UINT64_C(60000000)},
    {"s", UINT64_C(1000000)},
    {"ms", UINT64_C(1000)},
    {"us", 1},
};

/* Digits from *text on; false when there is none or they overflow. */
static bool units_digits(const char **text, uint64_t *n_out)
{
    const char *s = *text;
    uint64_t n = 0;

    for (; *s >= '0' && *s <= '9'; s++)
        if (__builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(*s - '0'), &n))
            return false;
    if (s == *text)
        return false;
    *text = s;
    *n_out = n;
    return true;
}

/* The digits behind a point as part / scale. */
static bool units_fraction(const char **text, uint64_t *part_out,
                           uint64_t *scale_out)
{
    const char *s = *text;
    uint64_t scale = 1;

    if (!units_digits(text, part_out))
        return false;
    for (; s < *text; s++)
        if (__builtin_mul_overflow(scale, 10, &scale))
            return false;
    *scale_out = scale;
    return true;
}

static enum err units_parse(const char *text, const struct unit *units,
                            size_t unit_n, uint64_t *out)
{
    uint64_t whole, part = 0, scale = 1, n, rest;

    if (!units_digits(&text, &whole))
        return ERR_CONFIG;
    if (*text == '.') {
        text++;
        if (!units_fraction(&text, &part, &scale))
            return ERR_CONFIG;
    }
    for (size_t i = 0; i < unit_n; i++) {
        if (strcmp(text, units[i].name) != 0)
            continue;
        if (__builtin_mul_overflow(whole, units[i].factor, &n) ||
            __builtin_mul_overflow(part, units[i].factor, &rest) ||
            rest % scale != 0 || __builtin_add_overflow(n, rest / scale, &n))
            return ERR_CONFIG;
        *out = n;
        return OK;
    }
    return ERR_CONFIG;
}

enum err units_bytes(const char *text, uint64_t *bytes_out)
{
    return units_parse(text, unit_bytes, countof(unit_bytes), bytes_out);
}

enum err units_us(const char *text, uint64_t *us_out)
{
    return units_parse(text, unit_us, countof(unit_us), us_out);
}

enum { PRINT_BYTES = 32 };

static char *units_print(uint64_t n, const struct unit *units, size_t unit_n,
                         char *buf)
{
    size_t i = 0;

    if (n == 0)
        i = unit_n - 1;
    while (n % units[i].factor != 0)
        i++;
    snprintf(buf, PRINT_BYTES, "%" PRIu64 "%s", n / units[i].factor,
             units[i].name);
    return buf;
}

char *units_print_bytes(uint64_t bytes, char *buf)
{
    return units_print(bytes, unit_bytes, countof(unit_bytes), buf);
}

char *units_print_us(uint64_t us, char *buf)
{
    return units_print(us, unit_us, countof(unit_us), buf);
}
