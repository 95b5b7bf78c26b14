/* SPDX-License-Identifier: Apache-2.0
 *
 * Links between daemons (peer_link.h; peer_link_impl.h has the map of files):
 * the listener, the two timers, limits, and what the user calls.
 *
 *   tick    while there are connections, or one waits to be accepted:
 *           deadlines, silence, "still here"
 *   later   at once, from the loop: the ends that the user is to hear of
 *
 * 1. A connection has a place in slots; a link's id is the place and a number
 *    that is never used again, so that an old id finds nothing.
 * 2. Places: cfg.links_max for all, cfg.pending_max for those that were
 *    accepted and are not UP, half of these for one address.
 * 3. libuv holds a connection back until it is accepted: one that has no memory
 *    is accepted by a later tick (stalled).
 *
 * Memory is malloc, on the control thread. What cannot be had ends a
 * connection, never the daemon. */
#include "server/peer_link_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "server/listen.h"

enum { TICK_MS = 50, BACKLOG = 128 };

uint64_t links_now(const struct peer_links *l)
{
    return uv_now(l->cfg.loop);
}

/* ---- The end of all ---- */

static void links_free(struct peer_links *l)
{
    peer_tls_unref(l->tls);
    free(l->ca);
    free(l->cert);
    free(l->key);
    free(l->psk_file);
    free(l->read_buf);
    free(l->slots);
    free(l);
}

static void links_unref(struct peer_links *l)
{
    void (*closed)(void *arg) = l->closed;
    void *arg = l->closed_arg;

    if (!l->closing || l->handles || !list_empty(&l->conns))
        return;
    links_free(l);
    if (closed)
        closed(arg);
}

static void on_handle_closed(uv_handle_t *h)
{
    struct peer_links *l = h->data;

    l->handles--;
    links_unref(l);
}

/* ---- Connections' places ---- */

static void on_tick(uv_timer_t *h);

struct conn *conn_new(struct peer_links *l, bool ours)
{
    struct conn *c;

    if (l->closing || l->conn_n == l->slot_n || fault_here("peer_conn"))
        return NULL;
    c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    while (l->slots[l->slot_next])
        l->slot_next = (l->slot_next + 1) % l->slot_n;
    c->slot = l->slot_next;
    l->slots[c->slot] = c;
    c->links = l;
    c->ours = ours;
    c->deadline_ms = UINT64_MAX;
    list_init(&c->ended_node);
    list_add_tail(&l->conns, &c->node);
    l->pending_n += !ours;
    if (l->conn_n++ == 0)
        uv_timer_start(&l->tick, on_tick, TICK_MS, TICK_MS);
    return c;
}

static void conn_free(struct conn *c)
{
    struct peer_links *l = c->links;

    list_del(&c->node);
    list_del(&c->ended_node);
    l->slots[c->slot] = NULL;
    l->pending_n -= !c->ours && !c->id;
    if (--l->conn_n == 0 && !l->stalled)
        uv_timer_stop(&l->tick);
    peer_session_free(c->tls);
    bytes_fini(&c->in);
    bytes_fini(&c->out);
    bytes_fini(&c->flight);
    bytes_fini(&c->hello);
    free(c);
    if (l->closing && l->conn_n == 0)
        uv_close((uv_handle_t *)&l->tick, on_handle_closed);
}

void conn_unref(struct conn *c)
{
    bool told = c->told || c->links->closing;

    if (c->state == CONN_CLOSING && told && !c->telling && !c->open &&
        !c->resolving)
        conn_free(c);
}

/* ---- Ends, as the user hears of them ---- */

void conn_tell(struct conn *c)
{
    struct peer_links *l = c->links;
    char name[NAME_MAX_LEN];

    list_del(&c->ended_node);
    l->stats.up -= c->id != 0;
    c->told = c->telling = true;
    l->cfg.down(l->cfg.arg, c->id, c->ours ? c->dialed : NULL, c->why,
                c->words);
    c->telling = false;
    memcpy(name, c->name, sizeof(name));
    conn_unref(c);
    conn_promote(l, name);
}

/* Those that end meanwhile are the next turn's. */
static void on_later(uv_timer_t *h)
{
    struct peer_links *l = h->data;
    uint32_t n = 0;

    LIST_FOREACH(e, &l->ended)
    n++;
    while (n-- && !l->closing && !list_empty(&l->ended))
        conn_tell(container_of(l->ended.next, struct conn, ended_node));
    if (!l->closing && !list_empty(&l->ended))
        uv_timer_start(&l->later, on_later, 0, 0);
}

void links_tell_later(struct peer_links *l, struct conn *c)
{
    if (!c->ours && !c->id) {
        c->told = true; /* a stranger: nobody knew of it */
        return;
    }
    if (l->closing)
        return;
    list_add_tail(&l->ended, &c->ended_node);
    uv_timer_start(&l->later, on_later, 0, 0);
}

/* ---- Accepting ---- */

static uint32_t pending_of(const struct peer_links *l, const char *address)
{
    uint32_t n = 0;

    LIST_FOREACH(i, &l->conns)
    {
        const struct conn *c = container_of(i, struct conn, node);

        n += !c->ours && !c->id && strcmp(c->address, address) == 0;
    }
    return n;
}

static void conn_accepted(struct conn *c)
{
    struct peer_links *l = c->links;
    struct sockaddr_storage from = {0};
    int n = sizeof(from);

    (void)uv_tcp_getpeername(&c->tcp, (struct sockaddr *)&from, &n);
    address_text((const struct sockaddr *)&from, c->address,
                 sizeof(c->address));
    l->stats.accepted++;
    if (l->pending_n > l->cfg.pending_max ||
        pending_of(l, c->address) > (l->cfg.pending_max + 1) / 2)
        conn_end(c, false, ERR_BUSY, "too many that have not said hello");
    else
        conn_begin(c);
}

static void links_accept(struct peer_links *l)
{
    struct conn *c = conn_new(l, false);

    l->stalled = c == NULL;
    if (!c) {
        uv_timer_start(&l->tick, on_tick, TICK_MS, TICK_MS);
        return;
    }
    uv_tcp_init(l->cfg.loop, &c->tcp);
    c->open = true;
    c->state = CONN_SECURING;
    if (uv_accept((uv_stream_t *)&l->listener, (uv_stream_t *)&c->tcp) == 0)
        conn_accepted(c);
    else
        conn_end(c, false, ERR_IO, "it was gone before it was accepted");
}

static void on_connection(uv_stream_t *h, int status)
{
    if (status < 0)
        LOG(LOG_WARN, "peer_accept_failed", "why=%s",
            LOG_STR(uv_strerror(status)));
    else
        links_accept(h->data);
}

/* ---- Time ---- */

static void conn_late(struct conn *c)
{
    switch (c->state) {
    case CONN_RESOLVING:
    case CONN_DIALING:
        conn_dial_late(c);
        break;
    case CONN_SECURING:
    case CONN_GREETING:
        conn_end(c, false, ERR_TIMEOUT, "no hello of it within %u ms",
                 c->links->cfg.handshake_ms);
        break;
    case CONN_SPARE:
        conn_end_bye(c, ERR_EXISTS, "another link with %s stays", c->name);
        break;
    case CONN_CLOSING:
        peer_conn_close(c);
        break;
    case CONN_UP: /* has no deadline */
        break;
    }
}

static void conn_tick(struct conn *c, uint64_t now)
{
    uint32_t idle_ms = c->links->cfg.idle_ms;

    if (now >= c->deadline_ms)
        conn_late(c);
    else if (c->state != CONN_UP)
        return;
    else if (now - c->heard_ms >= idle_ms)
        conn_end_bye(c, ERR_TIMEOUT, "nothing heard for %u ms", idle_ms);
    else if (now - c->said_ms >= idle_ms / 3)
        conn_send(c, KIND_HERE, NULL, 0);
}

static void on_tick(uv_timer_t *h)
{
    struct peer_links *l = h->data;
    uint64_t now = links_now(l);

    LIST_FOREACH_SAFE(n, &l->conns)
    conn_tick(container_of(n, struct conn, node), now);
    if (l->stalled && !l->closing)
        links_accept(l);
}

/* ---- What users call ---- */

static struct conn *conn_find(struct peer_links *l, uint64_t link)
{
    uint32_t slot = link & 0xffff;
    struct conn *c = slot < l->slot_n ? l->slots[slot] : NULL;

    return c && link && c->id == link && c->state == CONN_UP ? c : NULL;
}

void peer_links_dial(struct peer_links *l, const char *address)
{
    struct conn *c;

    LIST_FOREACH(n, &l->conns)
    {
        c = container_of(n, struct conn, node);
        if (c->state != CONN_CLOSING && strcmp(c->dialed, address) == 0)
            return;
    }
    uv_update_time(l->cfg.loop);
    c = strlen(address) < ADDRESS_MAX ? conn_new(l, true) : NULL;
    if (!c) /* no memory or no place: the user dials again, or does not */
        return;
    memcpy(c->dialed, address, strlen(address) + 1);
    l->stats.dialed++;
    if (l->conn_n - l->pending_n > l->cfg.links_max)
        conn_end(c, false, ERR_LIMIT, "no place for another link (at most %u)",
                 l->cfg.links_max);
    else
        conn_dial(c);
}

void peer_links_send(struct peer_links *l, uint64_t link, uint16_t kind,
                     const uint8_t *msg, size_t n)
{
    struct conn *c = conn_find(l, link);

    MUST(n <= l->cfg.frame_max && kind != KIND_HERE);
    if (c)
        conn_send(c, kind, msg, n);
}

void peer_links_hang_up(struct peer_links *l, uint64_t link, const char *why)
{
    struct conn *c = conn_find(l, link);

    if (c)
        conn_end_bye(c, ERR_PEER_GONE, "%s", why);
}

void peer_links_stats(const struct peer_links *l, struct peer_links_stats *out)
{
    *out = l->stats;
}

uint16_t peer_links_port(const struct peer_links *l)
{
    struct sockaddr_storage a = {0};
    int n = sizeof(a);

    if (uv_tcp_getsockname(&l->listener, (struct sockaddr *)&a, &n) != 0)
        return 0;
    return address_port((const struct sockaddr *)&a);
}

enum err peer_links_reload(struct peer_links *l, struct errmsg *m)
{
    struct peer_tls *t = NULL;
    enum err e = OK;

    if (l->cfg.security != PEER_SECURITY_PLAIN)
        e = peer_tls_open(&l->cfg, &t, m);
    if (!e) {
        peer_tls_unref(l->tls);
        l->tls = t;
    }
    return e;
}

void peer_links_close(struct peer_links *l, void (*closed)(void *arg),
                      void *arg)
{
    if (!l)
        return;
    MUST(!l->closing);
    l->closing = true;
    l->closed = closed;
    l->closed_arg = arg;
    uv_close((uv_handle_t *)&l->listener, on_handle_closed);
    uv_close((uv_handle_t *)&l->later, on_handle_closed);
    if (l->conn_n == 0)
        uv_close((uv_handle_t *)&l->tick, on_handle_closed);
    LIST_FOREACH_SAFE(n, &l->conns)
    {
        struct conn *c = container_of(n, struct conn, node);

        if (c->state == CONN_CLOSING) {
            c->deadline_ms =
                min_u64(c->deadline_ms, links_now(l) + LINGER_CLOSE_MS);
            conn_unref(c);
        } else {
            conn_end_bye(c, ERR_DRAINING, "%s is shutting down", l->self);
        }
    }
}

/* ---- Opening ---- */

static void cfg_defaults(struct peer_links_cfg *c)
{
    c->frame_max = c->frame_max ? c->frame_max : PEER_MSG_BYTES;
    c->handshake_ms = c->handshake_ms ? c->handshake_ms : 2000;
    c->dial_ms = c->dial_ms ? c->dial_ms : 1000;
    c->idle_ms = c->idle_ms ? c->idle_ms : 10000;
    c->queue_max = c->queue_max ? c->queue_max : 16 << 20;
    c->links_max = c->links_max ? c->links_max : 4096;
    c->pending_max = c->pending_max ? c->pending_max : 64;
}

static char *path_copy(const char *s)
{
    return strdup(s ? s : "");
}

/* cfg's words are the caller's: copies are ours. */
static struct peer_links *links_new(const struct peer_links_cfg *cfg)
{
    struct peer_links *l =
        fault_here("peer_links") ? NULL : calloc(1, sizeof(*l));

    if (!l)
        return NULL;
    l->cfg = *cfg;
    cfg_defaults(&l->cfg);
    snprintf(l->self, sizeof(l->self), "%s", cfg->self);
    snprintf(l->host, sizeof(l->host), "%s", cfg->host);
    l->cfg.self = l->self;
    l->cfg.host = l->host;
    l->cfg.ca = l->ca = path_copy(cfg->ca);
    l->cfg.cert = l->cert = path_copy(cfg->cert);
    l->cfg.key = l->key = path_copy(cfg->key);
    l->cfg.psk_file = l->psk_file = path_copy(cfg->psk_file);
    list_init(&l->conns);
    list_init(&l->ended);
    l->slot_n = l->cfg.links_max + 2 * l->cfg.pending_max;
    l->slots = calloc(l->slot_n, sizeof(struct conn *));
    l->read_buf = malloc(READ_BYTES);
    if (l->ca && l->cert && l->key && l->psk_file && l->slots && l->read_buf)
        return l;
    links_free(l);
    return NULL;
}

static enum err plain_check(const struct peer_links *l, int fd,
                            struct errmsg *m)
{
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof(a);

    if (l->cfg.security != PEER_SECURITY_PLAIN ||
        (getsockname(fd, (struct sockaddr *)&a, &n) == 0 &&
         address_is_loopback((const struct sockaddr *)&a)))
        return OK;
    return errmsg_set(m, ERR_CONFIG,
                      "cluster.security: is plain, and cluster.host %s is no "
                      "loopback address; fix: set cluster.security to tls or "
                      "psk, or cluster.host to 127.0.0.1",
                      l->host);
}

/* From here on handles are open, and only peer_links_close ends l. */
static enum err links_start(struct peer_links *l, int fd, struct errmsg *m)
{
    int rc;

    uv_timer_init(l->cfg.loop, &l->tick);
    uv_timer_init(l->cfg.loop, &l->later);
    uv_tcp_init(l->cfg.loop, &l->listener);
    l->tick.data = l->later.data = l->listener.data = l;
    l->handles = 3;
    rc = fault_here("peer_listen") ? UV_ENOMEM : uv_tcp_open(&l->listener, fd);
    if (rc != 0)
        close(fd);
    else
        rc = uv_listen((uv_stream_t *)&l->listener, BACKLOG, on_connection);
    if (rc == 0)
        return OK;
    peer_links_close(l, NULL, NULL);
    return errmsg_set(m, ERR_IO, "cluster.port: cannot listen: %s",
                      uv_strerror(rc));
}

enum err peer_links_open(const struct peer_links_cfg *cfg,
                         struct peer_links **out, struct errmsg *m)
{
    struct peer_links *l = links_new(cfg);
    enum err e = OK;
    int fd = -1;

    MUST(cfg->loop && cfg->hello && cfg->check && cfg->up && cfg->message &&
         cfg->down);
    if (!l)
        return errmsg_set(m, ERR_NO_MEMORY, "cluster: no memory for links");
    if (l->slot_n > UINT16_MAX)
        e = errmsg_set(m, ERR_LIMIT, "cluster: too many links");
    if (!e)
        e = peer_links_reload(l, m);
    if (!e)
        e = listen_tcp("cluster", l->host, l->cfg.port, BACKLOG, &fd, m);
    if (!e)
        e = plain_check(l, fd, m);
    if (!e) {
        e = links_start(l, fd, m);
        *out = e ? *out : l;
        return e;
    }
    if (fd >= 0)
        close(fd);
    links_free(l);
    return e;
}
