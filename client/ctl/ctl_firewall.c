/* SPDX-License-Identifier: Apache-2.0
 *
 * firewall: rules for exactly the ports that a configuration opens to other
 * machines, to be read, completed with one's networks and loaded with nft -f.
 * Nothing is changed here. What listens on loopback gets no rule.
 *
 *   links between daemons   cluster.port          from nodes
 *   ucx                     one port a lane, and the range of UCX's data
 *                           connections           from clients and nodes
 *   admin, resp             if they are open to others */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/ctl/ctl_doctor.h"

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 ||
           strcmp(host, "localhost") == 0;
}

static bool is_ipv4(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (text[i] != '.' && (text[i] < '0' || text[i] > '9'))
            return false;
    return n > 0;
}

/* Is the host at `host` also an earlier one of the list? A set has it once. */
static bool host_before(const char *list, const char *host, size_t n)
{
    for (const char *p = list; p + n < host; p++)
        if (p[0] == '=' && strncmp(p + 1, host, n) == 0 && p[n + 1] == ':')
            return true;
    return false;
}

/* The addresses of a list NAME=HOST:PORT..., as elements of a set. */
static uint32_t print_hosts(const char *list)
{
    const char *all = list;
    uint32_t n = 0;

    while (*list) {
        size_t len = strcspn(list, ",");
        const char *equal = memchr(list, '=', len);
        const char *host = equal ? equal + 1 : list;
        size_t host_n = strcspn(host, ":,/");

        if (equal && is_ipv4(host, host_n) && !host_before(all, host, host_n))
            printf("%s%.*s", n++ ? ", " : "", (int)host_n, host);
        list += len + (list[len] == ',');
    }
    return n;
}

static void print_set(const char *name, const char *voters, const char *nodes)
{
    printf("  set %s { # add the addresses of %s\n    type ipv4_addr; "
           "flags interval\n    elements = { ",
           name, name);
    if (print_hosts(*voters ? voters : nodes) == 0)
        fputs("127.0.0.1", stdout);
    puts(" }\n  }");
}

static void print_rule(const char *ports, const char *from, const char *what)
{
    printf("    tcp dport %s ip saddr != %s drop # %s\n", ports, from, what);
    printf("    tcp dport %s meta nfproto ipv6 drop\n", ports);
}

static void print_rules(const struct doctor *d)
{
    uint64_t ucx = doctor_number(d, "listen.ucx.port", 7430);
    uint32_t lanes = doctor_lanes(d);
    char ports[96];

    if (doctor_bool(d, "cluster.enabled", false) &&
        !is_loopback(doctor_text(d, "cluster.host", "127.0.0.1"))) {
        snprintf(ports, sizeof(ports), "%" PRIu64,
                 doctor_number(d, "cluster.port", 7441));
        print_rule(ports, "@pikvd_nodes", "links between daemons");
    }
    if (doctor_bool(d, "listen.ucx.enabled", false) &&
        !is_loopback(doctor_text(d, "listen.ucx.host", "127.0.0.1"))) {
        int n = lanes == 1
                    ? snprintf(ports, sizeof(ports), "{ %" PRIu64, ucx)
                    : snprintf(ports, sizeof(ports),
                               "{ %" PRIu64 "-%" PRIu64, ucx, ucx + lanes - 1);

        snprintf(ports + n, sizeof(ports) - (size_t)n, ", %s }",
                 doctor_text(d, "listen.ucx.port_range", "7500-7999"));
        print_rule(ports, "@pikvd_clients",
                   "UCX: whoever reaches it controls the daemon");
    }
    if (doctor_bool(d, "listen.admin.enabled", true) &&
        !is_loopback(doctor_text(d, "listen.admin.host", "127.0.0.1"))) {
        snprintf(ports, sizeof(ports), "%" PRIu64,
                 doctor_number(d, "listen.admin.port", 7421));
        print_rule(ports, "@pikvd_operators", "HTTP for operators");
    }
    if (doctor_bool(d, "listen.resp.enabled", false) &&
        !is_loopback(doctor_text(d, "listen.resp.host", "127.0.0.1"))) {
        snprintf(ports, sizeof(ports), "%" PRIu64,
                 doctor_number(d, "listen.resp.port", 7425));
        print_rule(ports, "@pikvd_clients", "Redis clients");
    }
}

int verb_firewall(struct ctl *c)
{
    const char *form = c->opt[OPT_FORMAT] ? c->opt[OPT_FORMAT] : "nft";
    struct doctor d = {.c = c};
    const char *voters, *nodes;
    int s;

    if (strcmp(form, "nft") != 0)
        return ctl_fail(CTL_USAGE, "firewall: --format %s; nft is known",
                        form);
    s = doctor_settings(&d);
    if (s)
        return s;
    voters = doctor_text(&d, "cluster.voters", "");
    nodes = doctor_text(&d, "cluster.nodes", "");
    printf("# Rules for the ports of pikvd; complete the sets, then nft -f.\n"
           "# From %s.\n"
           "table inet pikvd\ndelete table inet pikvd\ntable inet pikvd {\n",
           d.config ? d.config : "the built-in settings");
    print_set("pikvd_nodes", voters, nodes);
    print_set("pikvd_clients", voters, nodes);
    print_set("pikvd_operators", "", "");
    puts("  chain input {\n    type filter hook input priority filter; policy "
         "accept;\n    iif \"lo\" accept");
    print_rules(&d);
    puts("  }\n}");
    json_decref(d.settings);
    return CTL_OK;
}
