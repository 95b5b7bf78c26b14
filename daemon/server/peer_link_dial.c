/* SPDX-License-Identifier: Apache-2.0
 *
 * From "HOST:PORT" to a connected socket.
 *
 *   numeric --------------------> addresses --connect--> conn_begin
 *   a name --> libuv's threads -->    ^          |
 *                                     +- closed -+ refused, or dial_ms over
 *
 * Up to DIAL_TRIES addresses of a name, one after the other, each for dial_ms.
 * A socket that failed is closed before the next is made (its handle lies in
 * the same struct). With cluster.security plain only loopback addresses are
 * tried. The words of the last failure are those of the dial. */
#include "server/peer_link_impl.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"

bool address_is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)a)
                         ->sin_addr.s_addr) >>
                   24 ==
               IN_LOOPBACKNET;
    return a->sa_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(
               &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

uint16_t address_port(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)(const void *)a)->sin_port);
    return ntohs(((const struct sockaddr_in6 *)(const void *)a)->sin6_port);
}

void address_text(const struct sockaddr *a, char *to, size_t cap)
{
    int rc = -1;

    if (a->sa_family == AF_INET)
        rc = uv_ip4_name((const struct sockaddr_in *)(const void *)a, to, cap);
    else if (a->sa_family == AF_INET6)
        rc = uv_ip6_name((const struct sockaddr_in6 *)(const void *)a, to, cap);
    if (rc != 0)
        snprintf(to, cap, "?");
}

/* This address is no good; on_closed asks for the next. */
static void dial_failed(struct conn *c, enum err e, const char *why)
{
    c->why = e;
    snprintf(c->words, sizeof(c->words), "%.100s: %s", c->dialed, why);
    peer_conn_close(c);
}

void conn_dial_late(struct conn *c)
{
    char why[64];

    snprintf(why, sizeof(why), "no answer in %u ms", c->links->cfg.dial_ms);
    if (c->state == CONN_RESOLVING)
        conn_end(c, false, ERR_TIMEOUT,
                 "%.100s: its name is not resolved in "
                 "%u ms",
                 c->dialed, c->links->cfg.dial_ms);
    else if (c->open)
        dial_failed(c, ERR_TIMEOUT, why);
}

static void on_connect(uv_connect_t *req, int status)
{
    struct conn *c = container_of(req, struct conn, connect);

    if (c->state != CONN_DIALING || c->closing)
        return;
    if (status < 0)
        dial_failed(c, ERR_NO_SERVER, uv_strerror(status));
    else
        conn_begin(c);
}

bool conn_dial_next(struct conn *c)
{
    struct peer_links *l = c->links;
    const struct sockaddr *to;
    int rc;

    if (c->to_at == c->to_n || l->closing)
        return false;
    to = (const struct sockaddr *)&c->to[c->to_at++];
    address_text(to, c->address, sizeof(c->address));
    c->deadline_ms = links_now(l) + l->cfg.dial_ms;
    uv_tcp_init(l->cfg.loop, &c->tcp);
    c->open = true;
    rc = fault_here("peer_connect")
             ? UV_EMFILE
             : uv_tcp_connect(&c->connect, &c->tcp, to, on_connect);
    if (rc != 0)
        dial_failed(c, ERR_NO_SERVER, uv_strerror(rc));
    return true;
}

/* Keeps an address, if it may be dialed at all. */
static void dial_add(struct conn *c, const struct sockaddr *a, size_t n)
{
    if (c->links->cfg.security == PEER_SECURITY_PLAIN &&
        !address_is_loopback(a)) {
        c->why = ERR_DENIED;
        snprintf(c->words, sizeof(c->words),
                 "%.100s is no loopback address, and cluster.security is "
                 "plain; fix: set cluster.security to tls or psk",
                 c->dialed);
        return;
    }
    if (c->to_n < DIAL_TRIES && n <= sizeof(c->to[0]))
        memcpy(&c->to[c->to_n++], a, n);
}

static void dial_start(struct conn *c)
{
    c->state = CONN_DIALING;
    if (!conn_dial_next(c))
        conn_end(c, false, c->why, "%s", c->words);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *res)
{
    struct conn *c = container_of(req, struct conn, resolve);

    c->resolving = false;
    if (c->state == CONN_CLOSING) {
        uv_freeaddrinfo(res);
        conn_unref(c);
        return;
    }
    if (status < 0) {
        conn_end(c, false, ERR_NO_SERVER, "%.100s: %s", c->dialed,
                 uv_strerror(status));
        return;
    }
    for (struct addrinfo *a = res; a; a = a->ai_next)
        dial_add(c, a->ai_addr, a->ai_addrlen);
    uv_freeaddrinfo(res);
    dial_start(c);
}

/* "HOST:PORT" or "[V6]:PORT" in two; false: neither. */
static bool dial_split(const char *address, char host[ADDRESS_MAX],
                       char port[8], int *port_out)
{
    const char *colon = strrchr(address, ':');
    size_t n = colon ? (size_t)(colon - address) : 0;
    char *end;
    long v = colon ? strtol(colon + 1, &end, 10) : 0;

    if (!n || n >= ADDRESS_MAX || v < 1 || v > UINT16_MAX || *end)
        return false;
    if (address[0] == '[' && address[n - 1] == ']') {
        address++;
        n -= 2;
    }
    memcpy(host, address, n);
    host[n] = 0;
    snprintf(port, 8, "%ld", v);
    *port_out = (int)v;
    return n > 0;
}

void conn_dial(struct conn *c)
{
    static const struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                          .ai_flags = AI_NUMERICSERV};
    struct peer_links *l = c->links;
    char host[ADDRESS_MAX], port[8];
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    int number;

    c->why = ERR_NO_SERVER;
    c->deadline_ms = links_now(l) + l->cfg.dial_ms;
    if (!dial_split(c->dialed, host, port, &number)) {
        conn_end(c, false, ERR_BAD_REQUEST, "\"%s\" is not HOST:PORT",
                 c->dialed);
        return;
    }
    if (uv_ip4_addr(host, number, &v4) == 0) {
        dial_add(c, (const struct sockaddr *)&v4, sizeof(v4));
        dial_start(c);
    } else if (uv_ip6_addr(host, number, &v6) == 0) {
        dial_add(c, (const struct sockaddr *)&v6, sizeof(v6));
        dial_start(c);
    } else if (uv_getaddrinfo(l->cfg.loop, &c->resolve, on_resolved, host, port,
                              &hints) == 0) {
        c->resolving = true;
    } else {
        conn_end(c, false, ERR_NO_SERVER, "%s: its name cannot be resolved",
                 c->dialed);
    }
}
