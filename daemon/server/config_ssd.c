/* SPDX-License-Identifier: Apache-2.0
 *
 * The settings of group ssd that are more than a number: the list of paths, the
 * write budget, and what must hold between them. Looks at texts only; files and
 * devices are looked at by files_ssd.c.
 *
 *   budget   off | NUMBER DWPD | NUMBER UNIT / (s | h | day)
 *   UNIT     B KiB MiB GiB TiB, KB MB GB TB PB (of 1000, as drives are sold)
 *
 * A budget is rounded down to whole bytes per second, but not to 0, which would
 * mean none. */
#include "server/config.h"

#include <inttypes.h>
#include <string.h>

#include "base/units.h"

enum {
    DAY_S = 86400,
    FRACTION_DIGITS = 6,
    SEGMENTS_MIN = 8,
};

#define SSD_HEAD_BYTES MIB(2) /* of a path, before its first segment */

/* ---- paths */

static void path_trim(const char **from, size_t *len)
{
    while (*len > 0 && **from == ' ') {
        (*from)++;
        (*len)--;
    }
    while (*len > 0 && (*from)[*len - 1] == ' ')
        (*len)--;
}

bool config_ssd_paths(const char *list, struct config_ssd_paths *out)
{
    struct config_ssd_paths paths = {0};

    while (*list) {
        size_t len = strcspn(list, ","), rest = len;
        const char *from = list;

        path_trim(&from, &len);
        if (paths.n == CONFIG_SSDS || len >= CONFIG_STRING || len == 0 ||
            from[0] != '/')
            return false;
        memcpy(paths.path[paths.n++], from, len);
        list += rest;
        if (*list == ',' && *++list == '\0')
            return false;
    }
    *out = paths;
    return true;
}

static bool paths_differ(const struct config_ssd_paths *p)
{
    for (uint32_t i = 0; i < p->n; i++) {
        for (uint32_t j = 0; j < i; j++) {
            if (strcmp(p->path[i], p->path[j]) == 0)
                return false;
        }
    }
    return true;
}

/* ---- budget */

/* Digits with at most six behind a point, as millionths. */
static bool millionths(const char **text, uint64_t *n_out)
{
    const char *s = *text, *point = NULL;
    uint64_t n = 0;
    uint32_t digits = 0, behind = 0;

    for (; (*s >= '0' && *s <= '9') || (*s == '.' && !point); s++) {
        if (*s == '.') {
            point = s;
            continue;
        }
        digits++;
        behind += point != NULL;
        if (__builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(*s - '0'), &n))
            return false;
    }
    if (digits == 0 || behind > FRACTION_DIGITS || (point && behind == 0))
        return false;
    for (; behind < FRACTION_DIGITS; behind++) {
        if (__builtin_mul_overflow(n, 10, &n))
            return false;
    }
    *text = s;
    *n_out = n;
    return true;
}

struct budget_unit {
    const char *name;
    uint64_t factor;
};

static const struct budget_unit budget_bytes[] = {
    {"B", 1},
    {"KiB", KIB(1)},
    {"MiB", MIB(1)},
    {"GiB", GIB(1)},
    {"TiB", GIB(1024)},
    {"KB", 1000},
    {"MB", 1000000},
    {"GB", 1000000000},
    {"TB", UINT64_C(1000000000000)},
    {"PB", UINT64_C(1000000000000000)},
};
static const struct budget_unit budget_times[] = {
    {"s", 1}, {"h", 3600}, {"day", DAY_S}};

static uint64_t unit_find(const struct budget_unit *units, size_t n,
                          const char *name, size_t len)
{
    for (size_t i = 0; i < n; i++) {
        if (strlen(units[i].name) == len &&
            memcmp(units[i].name, name, len) == 0)
            return units[i].factor;
    }
    return 0;
}

/* What text says behind the number: so many bytes (of so many seconds). */
static bool budget_unit(const char *text, uint64_t bytes, uint64_t *factor_out,
                        uint64_t *seconds_out)
{
    const char *slash = strchr(text, '/');

    if (strcmp(text, "DWPD") == 0) {
        *factor_out = bytes;
        *seconds_out = DAY_S;
        return true;
    }
    if (!slash)
        return false;
    *factor_out = unit_find(budget_bytes, countof(budget_bytes), text,
                            (size_t)(slash - text));
    *seconds_out = unit_find(budget_times, countof(budget_times), slash + 1,
                             strlen(slash + 1));
    return *factor_out != 0 && *seconds_out != 0;
}

bool config_ssd_budget(const char *text, uint64_t bytes, uint64_t *rate_out)
{
    uint64_t n, factor, seconds;
    unsigned __int128 rate;

    if (strcmp(text, "off") == 0) {
        *rate_out = 0;
        return true;
    }
    if (!millionths(&text, &n) || n == 0 ||
        !budget_unit(text, bytes, &factor, &seconds))
        return false;
    rate = (unsigned __int128)n * factor / 1000000 / seconds;
    if (rate > UINT64_MAX)
        return false;
    *rate_out = max_u64((uint64_t)rate, 1);
    return true;
}

/* ---- together */

static const char *check_ssd_paths(const struct config *c, struct errmsg *why)
{
    struct config_ssd_paths paths;

    if (!config_ssd_paths(c->ssd.paths, &paths)) {
        errmsg_set(why, ERR_CONFIG,
                   "\"%.100s\" is not a list; allowed: absolute paths "
                   "separated by commas, at most %d",
                   c->ssd.paths, CONFIG_SSDS);
        return "ssd.paths";
    }
    if (!paths_differ(&paths)) {
        errmsg_set(why, ERR_CONFIG,
                   "a path stands there twice; allowed: each SSD once");
        return "ssd.paths";
    }
    if (paths.n > 0 && c->node.state_dir[0] == '\0') {
        errmsg_set(why, ERR_CONFIG,
                   "blocks on an SSD outlive the daemon, but without "
                   "node.state_dir their namespaces do not; allowed: \"\", or "
                   "set node.state_dir");
        return "ssd.paths";
    }
    if (paths.n == 0 && c->namespaces.dram == TIERING_WRITE_BUFFER) {
        errmsg_set(why, ERR_CONFIG,
                   "write_buffer needs an SSD tier; allowed: cache, or set "
                   "ssd.paths");
        return "namespaces.dram";
    }
    return NULL;
}

const char *config_ssd_check(const struct config *c, struct errmsg *why)
{
    uint64_t segment = c->ssd.segment_bytes, rate;
    uint64_t least = SSD_HEAD_BYTES + SEGMENTS_MIN * segment;
    const char *path = check_ssd_paths(c, why);
    char text[32];

    if (path)
        return path;
    if ((segment & (segment - 1)) != 0) {
        errmsg_set(why, ERR_CONFIG,
                   "not a power of two; allowed: 1MiB, 2MiB, ... 1GiB");
        return "ssd.segment";
    }
    if (c->ssd.capacity_bytes != 0 && c->ssd.capacity_bytes < least) {
        errmsg_set(why, ERR_CONFIG,
                   "too small for %d segments of ssd.segment; allowed: at "
                   "least %s, or a smaller ssd.segment",
                   SEGMENTS_MIN, units_print_bytes(least, text));
        return "ssd.capacity";
    }
    if (!config_ssd_budget(c->ssd.write_budget, MIB(1), &rate)) {
        errmsg_set(why, ERR_CONFIG,
                   "\"%s\" is not a budget; allowed: off, 1.5DWPD, "
                   "500GB/day, 80MiB/s and the like",
                   c->ssd.write_budget);
        return "ssd.write_budget";
    }
    return NULL;
}
