/* SPDX-License-Identifier: Apache-2.0
 *
 * What the rows of config.tbl cannot say alone: forms of strings and one value
 * against another. Each rule names the setting to change, who set it, what is
 * wrong and what is allowed. A rule looks at values only: whether a port is
 * free or a directory writable is found out by the shell that uses it. */
#include "server/config.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { RING_RECORD_MAX = 64 }; /* what a ring adds to a message, at most */

static enum err check_fail(const struct config *c, struct errmsg *m,
                           const char *path, const char *fmt, ...)
    printf_like(4, 5);

static enum err check_fail(const struct config *c, struct errmsg *m,
                           const char *path, const char *fmt, ...)
{
    const struct config_row *key = config_find(path);
    char why[300];
    va_list ap;

    MUST(key);
    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    return errmsg_set(m, ERR_CONFIG, "%s: %s: %s", config_origin(c, key), path,
                      why);
}

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strcmp(host, "localhost") == 0;
}

static bool is_absolute_or_empty(const char *path)
{
    return path[0] == '\0' || path[0] == '/';
}

static enum err check_paths(const struct config *c, struct errmsg *m)
{
    const char *backing = c->dram.backing;
    bool tlb = strncmp(backing, "hugetlbfs:/", 11) == 0;

    if (!is_absolute_or_empty(c->node.state_dir))
        return check_fail(c, m, "node.state_dir",
                          "\"%s\" is relative; allowed: an absolute path or "
                          "\"\"",
                          c->node.state_dir);
    if (!is_absolute_or_empty(c->listen.shm.path))
        return check_fail(c, m, "listen.shm.path",
                          "\"%s\" is relative; allowed: an absolute path",
                          c->listen.shm.path);
    if (strcmp(backing, "memfd") != 0 && !tlb &&
        strncmp(backing, "tmpfs:/", 7) != 0)
        return check_fail(c, m, "dram.backing",
                          "\"%s\" is not known; allowed: memfd, "
                          "hugetlbfs:/DIRECTORY, tmpfs:/DIRECTORY",
                          backing);
    if (tlb && c->dram.hugepages == HUGEPAGES_OFF)
        return check_fail(c, m, "dram.hugepages",
                          "off contradicts dram.backing \"%s\"; allowed: auto, "
                          "on",
                          backing);
    return OK;
}

/* "first-last", first below or equal last, both 1024 to 65535. */
static bool port_range(const char *text, unsigned *first, unsigned *last)
{
    int end = 0;

    for (const char *p = text; *p; p++) {
        if (*p != '-' && (*p < '0' || *p > '9'))
            return false;
    }
    return sscanf(text, "%5u-%5u%n", first, last, &end) == 2 &&
           text[end] == '\0' && *first >= 1024 && *first <= *last &&
           *last <= 65535;
}

static enum err check_ucx(const struct config *c, struct errmsg *m)
{
    uint64_t lanes = c->node.lanes ? c->node.lanes : 4;
    uint64_t first_port = c->listen.ucx.port,
             last_port = first_port + lanes - 1;
    unsigned first, last;

    if (!port_range(c->listen.ucx.port_range, &first, &last))
        return check_fail(c, m, "listen.ucx.port_range",
                          "\"%s\" is not a range; allowed: FIRST-LAST within "
                          "1024-65535",
                          c->listen.ucx.port_range);
    if (last_port > 65535)
        return check_fail(c, m, "listen.ucx.port",
                          "%" PRIu64 " leaves no ports for %" PRIu64
                          " lanes; allowed: up to %" PRIu64,
                          first_port, lanes, 65536 - lanes);
    if (last_port >= first && first_port <= last)
        return check_fail(c, m, "listen.ucx.port_range",
                          "%s holds ports %" PRIu64 " to %" PRIu64
                          " of the lanes; allowed: a range without them",
                          c->listen.ucx.port_range, first_port, last_port);
    if (!c->listen.admin.enabled)
        return OK;
    if (c->listen.admin.port >= first_port && c->listen.admin.port <= last_port)
        return check_fail(c, m, "listen.admin.port",
                          "%" PRIu64 " belongs to the lanes (%" PRIu64
                          " to %" PRIu64 "); allowed: another one",
                          c->listen.admin.port, first_port, last_port);
    return OK;
}

static enum err check_listen(const struct config *c, struct errmsg *m)
{
    if (!c->listen.shm.enabled && !c->listen.ucx.enabled)
        return check_fail(c, m, "listen.shm.enabled",
                          "no listener is enabled; allowed: true here or in "
                          "listen.ucx.enabled");
    if (c->listen.admin.enabled && !c->listen.admin.insecure &&
        !is_loopback(c->listen.admin.host))
        return check_fail(c, m, "listen.admin.host",
                          "\"%s\" can be reached by others and has no "
                          "authentication; allowed: 127.0.0.1, ::1, localhost, "
                          "or listen.admin.insecure true",
                          c->listen.admin.host);
    return c->listen.ucx.enabled ? check_ucx(c, m) : OK;
}

static enum err check_resp(const struct config *c, struct errmsg *m)
{
    const char *file = c->listen.resp.password_file;
    uint64_t value = c->listen.resp.value_bytes;

    if (!is_absolute_or_empty(file))
        return check_fail(c, m, "listen.resp.password_file",
                          "\"%s\" is relative; allowed: an absolute path or "
                          "\"\"",
                          file);
    if (!c->listen.resp.enabled)
        return OK;
    if (!c->listen.shm.enabled)
        return check_fail(c, m, "listen.resp.enabled",
                          "it needs listen.shm, through which it reaches the "
                          "lanes; allowed: listen.shm.enabled true");
    if (!c->listen.resp.insecure && !file[0] &&
        !is_loopback(c->listen.resp.host))
        return check_fail(c, m, "listen.resp.host",
                          "\"%s\" can be reached by others and has no "
                          "password; allowed: 127.0.0.1, ::1, localhost, or a "
                          "listen.resp.password_file, or listen.resp.insecure "
                          "true",
                          c->listen.resp.host);
    if (value > c->limits.block_bytes)
        return check_fail(c, m, "listen.resp.value",
                          "longer than limits.block; allowed: up to %" PRIu64,
                          c->limits.block_bytes);
    if (2 * value > c->listen.resp.memory_bytes)
        return check_fail(c, m, "listen.resp.memory",
                          "less than twice listen.resp.value; allowed: at "
                          "least %" PRIu64,
                          2 * value);
    if (c->listen.resp.memory_bytes > c->limits.registered_per_client_bytes)
        return check_fail(c, m, "listen.resp.memory",
                          "more than limits.registered_per_client; allowed: "
                          "up to %" PRIu64,
                          c->limits.registered_per_client_bytes);
    return OK;
}

static enum err check_dram(const struct config *c, struct errmsg *m)
{
    if (c->dram.low_water_pct >= c->dram.high_water_pct)
        return check_fail(c, m, "dram.low_water",
                          "%" PRIu64 "%% is not below dram.high_water; "
                          "allowed: less than %" PRIu64 "%%",
                          c->dram.low_water_pct, c->dram.high_water_pct);
    if (c->dram.high_water_pct + c->dram.pin_limit_pct > 100)
        return check_fail(c, m, "dram.pin_limit",
                          "%" PRIu64 "%% and dram.high_water are more than the "
                          "tier; allowed: up to %" PRIu64 "%%",
                          c->dram.pin_limit_pct, 100 - c->dram.high_water_pct);
    if (c->dram.loan_capacity_bytes != 0 &&
        c->dram.loan_capacity_bytes < MIB(2))
        return check_fail(c, m, "dram.loan_capacity",
                          "less than one unit of memory; allowed: 0, or 2MiB "
                          "and more");
    if (c->namespaces.loans != LOANS_OFF && c->dram.loan_capacity_bytes == 0)
        return check_fail(c, m, "namespaces.loans",
                          "there is no loan memory; allowed: off, or a "
                          "dram.loan_capacity above 0");
    if (c->namespaces.loans != LOANS_OFF && !c->listen.shm.enabled)
        return check_fail(c, m, "namespaces.loans",
                          "loans need shared memory; allowed: off, or "
                          "listen.shm.enabled true");
    if (c->dram.loan_capacity_bytes != 0 &&
        c->dram.loan_namespaces > c->namespaces.max)
        return check_fail(c, m, "dram.loan_namespaces",
                          "more than namespaces.max; allowed: up to %" PRIu64,
                          c->namespaces.max);
    return OK;
}

static enum err check_limits(const struct config *c, struct errmsg *m)
{
    /* A reply holds a frame, the batch record and one record per key. */
    uint64_t reply = (2 + c->limits.batch_keys) * 64;
    uint64_t ring = c->listen.shm.ring_bytes;

    if ((ring & (ring - 1)) != 0)
        return check_fail(c, m, "listen.shm.ring",
                          "not a power of two; allowed: 64KiB, 128KiB, ... "
                          "16MiB");
    /* A record never wraps: only half a ring is sure to be in one piece. */
    if (c->limits.message_bytes + RING_RECORD_MAX > ring / 2)
        return check_fail(c, m, "listen.shm.ring",
                          "too small for limits.message; allowed: more than "
                          "twice %" PRIu64 " bytes",
                          c->limits.message_bytes);
    if (reply > c->limits.message_bytes)
        return check_fail(c, m, "limits.batch_keys",
                          "the reply does not fit limits.message; allowed: up "
                          "to %" PRIu64,
                          c->limits.message_bytes / 64 - 2);
    if (c->limits.ops_per_client > c->limits.ops_per_lane)
        return check_fail(c, m, "limits.ops_per_client",
                          "more than limits.ops_per_lane; allowed: up to "
                          "%" PRIu64,
                          c->limits.ops_per_lane);
    if (c->limits.unauthenticated > c->limits.clients)
        return check_fail(c, m, "limits.unauthenticated",
                          "more than limits.clients; allowed: up to %" PRIu64,
                          c->limits.clients);
    if (c->limits.bytes_per_client_bytes < c->limits.block_bytes)
        return check_fail(c, m, "limits.bytes_per_client",
                          "smaller than limits.block: such a block could "
                          "never be sent; allowed: at least %" PRIu64,
                          c->limits.block_bytes);
    return OK;
}

static enum err check_ssd(const struct config *c, struct errmsg *m)
{
    struct errmsg why;
    const char *path = config_ssd_check(c, &why);

    return path ? check_fail(c, m, path, "%s", why.text) : OK;
}

static enum err check_cluster(const struct config *c, struct errmsg *m)
{
    struct errmsg why;
    const char *path = config_cluster_check(c, &why);

    return path ? check_fail(c, m, path, "%s", why.text) : OK;
}

enum err config_check(const struct config *c, struct errmsg *m)
{
    enum err e = check_paths(c, m);

    if (e == OK)
        e = check_listen(c, m);
    if (e == OK)
        e = check_resp(c, m);
    if (e == OK)
        e = check_dram(c, m);
    if (e == OK)
        e = check_limits(c, m);
    if (e == OK)
        e = check_ssd(c, m);
    if (e == OK)
        e = check_cluster(c, m);
    return e;
}
