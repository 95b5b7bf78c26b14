/* SPDX-License-Identifier: Apache-2.0
 *
 * One client for Redis, memcached and the plain server, as fast as sockets
 * allow: requests are pipelined, block bytes go straight between the client's
 * memory and the socket, replies have a known layout and are read with as few
 * calls as possible (all that are due, in one readv), and what was read is
 * compared with what had to come.
 *
 *   submit  appends to the write list
 *   poll    writes the list, reads into the slices of the requests in flight
 *
 * Redis: GET, MGET, SET, MSET. memcached: get, several keys at once, set. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench/rivals.h"

enum {
    TEXT_MAX = LOAD_BATCH_MAX * 72 + 64,
    SLICES = 2 * LOAD_BATCH_MAX + 2,
    IOV_ONCE = 256,
    SILENCE_MS = 20000,
};

struct net_req {
    struct load_req *req;
    struct iovec write[SLICES], read[SLICES];
    uint32_t write_n, read_n, read_at;
    uint32_t sent_len, want_len;
    char sent[TEXT_MAX]; /* what is written beside block bytes */
    char want[TEXT_MAX]; /* what must be read beside block bytes */
    char got[TEXT_MAX];
};

struct net_conn {
    struct load_conn base;
    int fd;
    uint32_t head, tail; /* requests in flight: ring[head .. tail) */
    uint32_t unsent;     /* the first not yet written */
    struct net_req *ring[LOAD_DEPTH_MAX];
    struct net_req reqs[LOAD_DEPTH_MAX];
};

static struct net_conn *net_of(struct load_conn *c)
{
    return (struct net_conn *)(void *)c;
}

static int net_connect(const char *address)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port =
                                 htons((uint16_t)strtoul(address, NULL, 10))};
    bool local = address[0] == '/';
    int fd = socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1, bad;

    snprintf(un.sun_path, sizeof un.sun_path, "%s", address);
    bad = local ? connect(fd, (struct sockaddr *)&un, sizeof un)
                : connect(fd, (struct sockaddr *)&in, sizeof in);
    if (bad)
        bench_die("cannot connect to %s: %s", address, strerror(errno));
    if (!local)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static struct load_conn *net_open(const struct load_target *t)
{
    struct net_conn *c = calloc(1, sizeof *c);

    if (!c)
        bench_die("out of memory");
    c->fd = net_connect(t->address);
    c->base.data = load_mem(t->data_bytes);
    return &c->base;
}

static void net_close(struct load_conn *base)
{
    struct net_conn *c = net_of(base);

    close(c->fd);
    munmap(base->data, base->data_bytes);
    free(c);
}

/* ---- Making requests ---- */

static void __attribute__((format(printf, 3, 4)))
say(struct net_req *q, bool reply, const char *fmt, ...)
{
    uint32_t *len = reply ? &q->want_len : &q->sent_len;
    struct iovec *v = reply ? &q->read[q->read_n++] : &q->write[q->write_n++];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf((reply ? q->want : q->sent) + *len, TEXT_MAX - *len, fmt, ap);
    va_end(ap);
    if (n < 0 || *len + (uint32_t)n >= TEXT_MAX)
        bench_die("a request is too long");
    *v = (struct iovec){(reply ? q->got : q->sent) + *len, (size_t)n};
    *len += (uint32_t)n;
}

static void bytes(struct net_req *q, bool reply, uint32_t i)
{
    struct iovec *v = reply ? &q->read[q->read_n++] : &q->write[q->write_n++];

    *v = (struct iovec){q->req->data + i * q->req->size, q->req->size};
}

static void make_redis(struct net_req *q)
{
    const struct load_req *r = q->req;
    size_t len = r->size;
    bool many = r->n > 1;

    if (r->op == LOAD_PUT) {
        for (uint32_t i = 0; i < r->n; i++) {
            if (i == 0)
                say(q, false, "*%u\r\n%s", 1 + 2 * r->n,
                    many ? "$4\r\nMSET\r\n" : "$3\r\nSET\r\n");
            say(q, false, "%s$%d\r\n%.*s\r\n$%zu\r\n", i ? "\r\n" : "",
                LOAD_KEY, LOAD_KEY, r->keys[i], len);
            bytes(q, false, i);
        }
        say(q, false, "\r\n");
        say(q, true, "+OK\r\n");
        return;
    }
    say(q, false, "*%u\r\n%s", 1 + r->n,
        many ? "$4\r\nMGET\r\n" : "$3\r\nGET\r\n");
    if (many)
        say(q, true, "*%u\r\n", r->n);
    for (uint32_t i = 0; i < r->n; i++) {
        say(q, false, "$%d\r\n%.*s\r\n", LOAD_KEY, LOAD_KEY, r->keys[i]);
        say(q, true, "%s$%zu\r\n", i ? "\r\n" : "", len);
        bytes(q, true, i);
    }
    say(q, true, "\r\n");
}

static void make_memcached(struct net_req *q)
{
    const struct load_req *r = q->req;
    size_t len = r->size;

    for (uint32_t i = 0; i < r->n; i++) {
        if (r->op == LOAD_PUT) {
            say(q, false, "%sset %.*s 0 0 %zu\r\n", i ? "\r\n" : "", LOAD_KEY,
                r->keys[i], len);
            bytes(q, false, i);
            say(q, true, "STORED\r\n");
        } else {
            say(q, false, "%s%.*s", i ? " " : "get ", LOAD_KEY, r->keys[i]);
            say(q, true, "%sVALUE %.*s 0 %zu\r\n", i ? "\r\n" : "", LOAD_KEY,
                r->keys[i], len);
            bytes(q, true, i);
        }
    }
    say(q, false, "\r\n");
    if (r->op == LOAD_GET)
        say(q, true, "\r\nEND\r\n");
}

static void make_plain(struct net_req *q)
{
    const struct load_req *r = q->req;

    for (uint32_t i = 0; i < r->n; i++) {
        struct rival_plain_head h = {r->op, (uint32_t)r->size, r->ids[i]};

        memcpy(q->sent + q->sent_len, &h, sizeof h);
        memcpy(q->want + q->want_len, &h, sizeof h);
        q->write[q->write_n++] =
            (struct iovec){q->sent + q->sent_len, sizeof h};
        q->read[q->read_n++] = (struct iovec){q->got + q->want_len, sizeof h};
        q->sent_len += (uint32_t)sizeof h;
        q->want_len += (uint32_t)sizeof h;
        bytes(q, r->op == LOAD_GET, i);
    }
}

static void net_submit(struct load_conn *base, struct load_req *r)
{
    struct net_conn *c = net_of(base);
    struct net_req *q = &c->reqs[r->slot];

    q->req = r;
    q->write_n = q->read_n = q->read_at = q->sent_len = q->want_len = 0;
    if (base->driver == &rival_redis)
        make_redis(q);
    else if (base->driver == &rival_memcached)
        make_memcached(q);
    else
        make_plain(q);
    c->ring[c->tail++ % LOAD_DEPTH_MAX] = q;
}

/* ---- Moving bytes ---- */

static void write_all(struct net_conn *c, struct iovec *v, uint32_t n)
{
    while (n) {
        ssize_t k = writev(c->fd, v, (int)n);

        if (k <= 0)
            bench_die("writing to a rival: %s", strerror(errno));
        for (; n && (size_t)k >= v->iov_len; v++, n--)
            k -= (ssize_t)v->iov_len;
        if (n) {
            v->iov_base = (uint8_t *)v->iov_base + k;
            v->iov_len -= (size_t)k;
        }
    }
}

static void write_due(struct net_conn *c)
{
    struct iovec v[IOV_ONCE];
    uint32_t n = 0;

    for (; c->unsent != c->tail; c->unsent++) {
        struct net_req *q = c->ring[c->unsent % LOAD_DEPTH_MAX];

        for (uint32_t i = 0; i < q->write_n; i++) {
            v[n++] = q->write[i];
            if (n == IOV_ONCE) {
                write_all(c, v, n);
                n = 0;
            }
        }
    }
    write_all(c, v, n);
}

/* The reply bytes that are still to come, in order. */
static uint32_t slices_due(struct net_conn *c, struct iovec v[IOV_ONCE])
{
    uint32_t n = 0;

    for (uint32_t i = c->head; i != c->tail; i++) {
        struct net_req *q = c->ring[i % LOAD_DEPTH_MAX];

        for (uint32_t k = q->read_at; k < q->read_n && n < IOV_ONCE; k++)
            v[n++] = q->read[k];
    }
    return n;
}

static ssize_t read_some(struct net_conn *c)
{
    struct iovec v[IOV_ONCE];
    struct msghdr m = {.msg_iov = v};
    ssize_t k;

    m.msg_iovlen = slices_due(c, v);
    k = recvmsg(c->fd, &m, MSG_DONTWAIT);
    if (k < 0 && errno == EAGAIN && !c->base.spin) {
        struct pollfd p = {.fd = c->fd, .events = POLLIN};

        if (poll(&p, 1, SILENCE_MS) == 0)
            bench_die("a rival is silent; it wanted: %.60s",
                      c->ring[c->head % LOAD_DEPTH_MAX]->got);
        k = recvmsg(c->fd, &m, MSG_DONTWAIT);
    }
    if (k == 0 || (k < 0 && errno != EAGAIN))
        bench_die("reading from a rival: %s",
                  k ? strerror(errno) : "it closed the connection");
    return k;
}

/* Marks k bytes of the replies as read. */
static void advance(struct net_conn *c, size_t k)
{
    for (uint32_t i = c->head; k; i++) {
        struct net_req *q = c->ring[i % LOAD_DEPTH_MAX];

        while (k && q->read_at < q->read_n) {
            struct iovec *v = &q->read[q->read_at];
            size_t n = k < v->iov_len ? k : v->iov_len;

            v->iov_base = (uint8_t *)v->iov_base + n;
            v->iov_len -= n;
            k -= n;
            q->read_at += v->iov_len == 0;
        }
    }
}

static uint32_t net_poll(struct load_conn *base, struct load_req **done,
                         uint32_t max)
{
    struct net_conn *c = net_of(base);
    uint32_t n = 0;
    ssize_t k;

    write_due(c);
    k = read_some(c);
    if (k > 0)
        advance(c, (size_t)k);
    while (n < max && c->head != c->tail) {
        struct net_req *q = c->ring[c->head % LOAD_DEPTH_MAX];

        if (q->read_at < q->read_n)
            break;
        if (memcmp(q->got, q->want, q->want_len) != 0)
            bench_die("a rival answered: %.60s", q->got);
        q->req->served = q->req->n;
        done[n++] = q->req;
        c->head++;
    }
    return n;
}

const struct load_driver rival_redis = {
    "redis", true, net_open, net_close, net_submit, net_poll, NULL};
const struct load_driver rival_memcached = {
    "memcached", true, net_open, net_close, net_submit, net_poll, NULL};
const struct load_driver rival_plain = {
    "plain sockets", true, net_open, net_close, net_submit, net_poll, NULL};
