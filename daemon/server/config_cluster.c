/* SPDX-License-Identifier: Apache-2.0
 *
 * The settings of group cluster that are more than a number: the lists of
 * voters and nodes, and what must hold between settings. Texts only: whether a
 * file or an address is there is found out by those who open it.
 *
 *   voters   NAME=HOST:PORT,NAME=HOST:PORT,...
 *   nodes    NAME=HOST:PORT/lanes:N/shm:PATH/ucx:HOST:PORT,...
 *            lanes, shm and ucx in any order; lanes is 1 if not given
 *
 * A shm path may hold slashes: a part ends where "/lanes:", "/shm:" or "/ucx:"
 * begins, or the node does. */
#include "server/config.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- Lists --------------------------------------------------------------- */

bool config_node_name(const char *name)
{
    size_t n = strlen(name);

    if (n == 0 || n >= CONFIG_NODE_NAME)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr(".-_", name[i]))
            return false;
    return true;
}

/* HOST:PORT; the host of IPv6 in brackets. */
static bool address_ok(const char *text)
{
    const char *colon = strrchr(text, ':');
    char *end;
    unsigned long port;

    if (!colon || colon == text || colon[1] < '0' || colon[1] > '9')
        return false;
    port = strtoul(colon + 1, &end, 10);
    if (*end || port == 0 || port > 65535)
        return false;
    if (text[0] == '[')
        return colon[-1] == ']' && colon - text > 2;
    return !memchr(text, ':', (size_t)(colon - text)) &&
           !memchr(text, '/', (size_t)(colon - text));
}

/* Takes text up to any of the bytes in ends, without blanks around it; false:
 * longer than cap - 1. */
static bool take(const char **at, size_t len, char *to, size_t cap)
{
    const char *from = *at, *end = from + len;

    *at = end;
    while (from < end && *from == ' ')
        from++;
    while (end > from && end[-1] == ' ')
        end--;
    if ((size_t)(end - from) >= cap)
        return false;
    memset(to, 0, cap);
    memcpy(to, from, (size_t)(end - from));
    return true;
}

/* Bytes up to the next part of a node, its end, or limit. */
static size_t part_len(const char *at, const char *limit)
{
    static const char *const starts[] = {"/lanes:", "/shm:", "/ucx:"};

    for (const char *p = at; p < limit; p++)
        for (uint32_t i = 0; i < countof(starts); i++)
            if (strncmp(p, starts[i], strlen(starts[i])) == 0)
                return (size_t)(p - at);
    return (size_t)(limit - at);
}

static bool take_lanes(const char *text, uint32_t *out)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);

    if (*text < '0' || *text > '9' || *end || n == 0 || n > 64)
        return false;
    *out = (uint32_t)n;
    return true;
}

static enum err take_part(struct config_node *to, const char **at,
                          const char *limit, struct errmsg *why)
{
    char part[CONFIG_ADDRESS + 8];

    ++*at; /* the slash */
    if (!take(at, part_len(*at, limit), part, sizeof(part)))
        return errmsg_set(why, ERR_CONFIG, "\"%s\": a part is too long",
                          to->name);
    if (strncmp(part, "lanes:", 6) == 0 && take_lanes(part + 6, &to->lanes))
        return OK;
    if (strncmp(part, "shm:/", 5) == 0 && strlen(part) < sizeof(to->shm)) {
        memcpy(to->shm, part, strlen(part) + 1);
        return OK;
    }
    if (strncmp(part, "ucx:", 4) == 0 && address_ok(part + 4) &&
        strlen(part) < sizeof(to->ucx)) {
        memcpy(to->ucx, part, strlen(part) + 1);
        return OK;
    }
    return errmsg_set(why, ERR_CONFIG,
                      "\"%s\": \"%s\"; allowed: lanes:1 to lanes:64, "
                      "shm:/PATH, ucx:HOST:PORT",
                      to->name, part);
}

static enum err take_node(struct config_node *to, const char *at,
                          const char *limit, bool whole, struct errmsg *why)
{
    const char *equal = memchr(at, '=', (size_t)(limit - at));
    enum err e = OK;

    *to = (struct config_node){.lanes = 1};
    if (!equal || !take(&at, (size_t)(equal - at), to->name, sizeof(to->name)))
        return errmsg_set(why, ERR_CONFIG,
                          "\"%.*s\" is not NAME=HOST:PORT; allowed: "
                          "a=10.0.0.1:7441,b=10.0.0.2:7441,...",
                          (int)(limit - at), at);
    if (!config_node_name(to->name))
        return errmsg_set(why, ERR_CONFIG,
                          "\"%s\" is no name of a node; allowed: letters, "
                          "digits, dots, dashes, underscores",
                          to->name);
    at++;
    if (!take(&at, whole ? part_len(at, limit) : (size_t)(limit - at), to->peer,
              sizeof(to->peer)) ||
        !address_ok(to->peer))
        return errmsg_set(why, ERR_CONFIG,
                          "\"%s\": \"%s\" is no address; allowed: HOST:PORT, "
                          "[IPV6]:PORT",
                          to->name, to->peer);
    while (whole && at < limit && !e)
        e = take_part(to, &at, limit, why);
    return e;
}

/* One node said twice, or one address for two. */
static enum err twice(const struct config_nodes *l, struct errmsg *why)
{
    const struct config_node *last = &l->node[l->n - 1];

    for (const struct config_node *n = l->node; n < last; n++) {
        if (strcmp(n->name, last->name) == 0)
            return errmsg_set(why, ERR_CONFIG,
                              "\"%s\" is listed twice; allowed: once",
                              n->name);
        if (strcmp(n->peer, last->peer) == 0)
            return errmsg_set(why, ERR_CONFIG,
                              "\"%s\" and \"%s\" have the same address %s; "
                              "allowed: one each",
                              n->name, last->name, n->peer);
    }
    return OK;
}

enum err config_nodes(const char *list, bool whole, struct config_nodes *out,
                      struct errmsg *why)
{
    struct config_nodes l = {0};
    enum err e = OK;

    while (*list && !e) {
        const char *end = list + strcspn(list, ",");

        if (l.n == CONFIG_NODES)
            return errmsg_set(why, ERR_CONFIG, "more than %d; allowed: fewer",
                              CONFIG_NODES);
        e = take_node(&l.node[l.n++], list, end, whole, why);
        e = e ? e : twice(&l, why);
        list = end;
        if (!e && *list == ',' && *++list == '\0')
            e = errmsg_set(why, ERR_CONFIG,
                           "ends with a comma; allowed: nothing behind the "
                           "last");
    }
    if (!e)
        *out = l;
    return e;
}

/* ---- What must hold between settings ------------------------------------- */

static bool any_address(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}

static bool loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strcmp(host, "localhost") == 0;
}

/* A path to give up with, and why. */
static const char *no(struct errmsg *why, const char *path, const char *text)
{
    errmsg_set(why, ERR_CONFIG, "%s", text);
    return path;
}

static const char *check_voters(const struct config *c, struct errmsg *why)
{
    struct config_nodes l;

    if (config_nodes(c->cluster.voters, false, &l, why))
        return "cluster.voters";
    if (l.n > 7)
        return no(why, "cluster.voters",
                  "more than 7; allowed: 1, 3, 5 or 7, the other nodes watch");
    if (l.n && l.n % 2 == 0) {
        errmsg_set(why, ERR_CONFIG,
                   "%u voters stand no more failures than %u; allowed: 1, 3, 5 "
                   "or 7",
                   l.n, l.n - 1);
        return "cluster.voters";
    }
    if (c->cluster.enabled && c->cluster.provider == PROVIDER_RAFT && !l.n)
        return no(why, "cluster.voters",
                  "empty; allowed: NAME=HOST:PORT of 1, 3, 5 or 7 nodes");
    return NULL;
}

static const char *check_nodes(const struct config *c, struct errmsg *why)
{
    struct config_nodes l;

    if (config_nodes(c->cluster.nodes, true, &l, why))
        return "cluster.nodes";
    if (!c->cluster.enabled || c->cluster.provider != PROVIDER_STATIC)
        return NULL;
    for (uint32_t i = 0; i < l.n; i++)
        if (!c->node.name[0] || strcmp(l.node[i].name, c->node.name) == 0)
            return NULL;
    errmsg_set(why, ERR_CONFIG,
               "node.name \"%s\" is not among them; allowed: NAME=HOST:PORT of "
               "all nodes, this one too",
               c->node.name);
    return "cluster.nodes";
}

static const char *check_who(const struct config *c, struct errmsg *why)
{
    if (!c->cluster.id[0])
        return no(why, "cluster.id",
                  "empty; allowed: a name that all nodes of the cluster share "
                  "and no other cluster has");
    if (!config_node_name(c->cluster.id))
        return no(why, "cluster.id",
                  "allowed: letters, digits, dots, dashes, underscores");
    if (!c->node.state_dir[0])
        return no(why, "node.state_dir",
                  "empty, and a node of a cluster keeps its identity there; "
                  "allowed: an absolute path, or cluster.enabled false");
    if (c->node.name[0] && !config_node_name(c->node.name))
        return no(why, "node.name",
                  "a node of a cluster; allowed: up to 63 letters, digits, "
                  "dots, dashes, underscores");
    return NULL;
}

static const char *check_addresses(const struct config *c, struct errmsg *why)
{
    const char *peer = c->cluster.advertise.peer;

    if (peer[0] && !address_ok(peer))
        return no(why, "cluster.advertise.peer",
                  "no address; allowed: HOST:PORT, [IPV6]:PORT");
    if (c->cluster.port == c->listen.admin.port && c->listen.admin.enabled)
        return no(why, "cluster.port",
                  "it is also listen.admin.port; allowed: another one");
    if (c->cluster.port == c->listen.resp.port && c->listen.resp.enabled)
        return no(why, "cluster.port",
                  "it is also listen.resp.port; allowed: another one");
    if (c->listen.ucx.enabled && c->cluster.port >= c->listen.ucx.port &&
        c->cluster.port <
            c->listen.ucx.port + (c->node.lanes ? c->node.lanes : 4))
        return no(why, "cluster.port",
                  "it belongs to the lanes of listen.ucx; allowed: another "
                  "one");
    if (c->listen.ucx.enabled && any_address(c->listen.ucx.host) &&
        !c->cluster.advertise.ucx[0])
        return no(why, "cluster.advertise.ucx",
                  "empty, and listen.ucx.host is no address that others can "
                  "connect to; allowed: this host's name or address");
    return NULL;
}

static const char *check_trust(const struct config *c, struct errmsg *why)
{
    const char *paths[] = {c->cluster.tls.ca, c->cluster.tls.cert,
                           c->cluster.tls.key, c->cluster.tls.psk_file};
    static const char *const names[] = {"cluster.tls.ca", "cluster.tls.cert",
                                        "cluster.tls.key",
                                        "cluster.tls.psk_file"};
    uint32_t first = c->cluster.security == SECURITY_TLS   ? 0
                     : c->cluster.security == SECURITY_PSK ? 3
                                                           : 4;
    uint32_t end = c->cluster.security == SECURITY_TLS ? 3 : 4;

    if (c->cluster.security == SECURITY_PLAIN && !loopback(c->cluster.host))
        return no(why, "cluster.security",
                  "plain, and cluster.host can be reached by others; allowed: "
                  "tls, psk, or a cluster.host of this machine alone");
    for (uint32_t i = first; i < end; i++)
        if (paths[i][0] != '/')
            return no(why, names[i],
                      "empty or relative; allowed: an absolute path, or "
                      "another cluster.security");
    return NULL;
}

static const char *check_times(const struct config *c, struct errmsg *why)
{
    if (c->cluster.suspect_us < 2 * c->cluster.beat_us)
        return no(why, "cluster.suspect",
                  "one lost beat would do; allowed: at least twice "
                  "cluster.beat");
    if (c->cluster.down_us <= c->cluster.suspect_us)
        return no(why, "cluster.down", "allowed: longer than cluster.suspect");
    if (c->cluster.removed_us <= c->cluster.down_us)
        return no(why, "cluster.removed", "allowed: longer than cluster.down");
    if (c->cluster.election_us < 5 * c->cluster.heartbeat_us)
        return no(why, "cluster.election",
                  "allowed: at least five times cluster.heartbeat");
    return NULL;
}

const char *config_cluster_check(const struct config *c, struct errmsg *why)
{
    const char *path = check_voters(c, why);

    path = path ? path : check_nodes(c, why);
    if (path || !c->cluster.enabled)
        return path;
    path = check_who(c, why);
    path = path ? path : check_addresses(c, why);
    path = path ? path : check_trust(c, why);
    return path ? path : check_times(c, why);
}
