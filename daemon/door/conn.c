/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection of the door: bytes in, one command after the other, bytes out.
 *
 *     conn_read: socket --> in buffer, or the value's memory
 *     conn_work: parse, run, until something has to be waited for
 *     out_flush: replies --> socket
 *
 * The socket is read only while nothing is waited for, and written as soon as
 * there is something. Interest in reading is given up only when bytes come at
 * the wrong time, since telling libuv costs two system calls.
 *
 * The end: a protocol error, QUIT, the client's end, or a drain makes it
 * `ending`: nothing more is read, replies go out; then the write side is shut
 * and what the client still sends is dropped, for at most LINGER_MS, so that no
 * reset takes the last reply away. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "door/impl.h"

enum {
    LINGER_MS = 1000,
    READS_MAX = 8,   /* of one connection, before others get theirs */
    READ_MIN = 4096, /* a read with less room is not worth it */
    KEEPALIVE_S = 60,
};

struct pikv_bytes conn_arg(const struct conn *c, uint32_t i)
{
    const struct resp_arg *a = &c->resp.args[i];

    MUST(i < c->resp.n && a->off != RESP_OUTSIDE);
    return (struct pikv_bytes){c->in + c->in_begin + a->off, a->len};
}

bool conn_arg_is(const struct conn *c, uint32_t i, const char *word)
{
    struct pikv_bytes a = conn_arg(c, i);

    return resp_is(a.p, a.len, word);
}

struct pikv_call conn_call(struct conn *c)
{
    return (struct pikv_call){
        .deadline_us = (uint32_t)c->door->cfg.listen.resp.deadline_us,
        .user = c,
    };
}

static uint64_t deadline_ms(const struct conn *c)
{
    return c->door->cfg.listen.resp.deadline_us / 1000;
}

bool conn_wait(struct conn *c, enum conn_wait what)
{
    struct door *d = c->door;

    MUST(c->wait == WAIT_NOTHING);
    c->wait = what;
    switch (what) {
    case WAIT_NOTHING:
    case WAIT_CALL:
    case WAIT_OUT:
    case WAIT_LOCK: /* its queue is the lock's */
        break;
    case WAIT_ROOM:
        if (!c->room_until_ms)
            c->room_until_ms = door_now_ms(d) + deadline_ms(c);
        if (d->turn == c)
            list_add_head(&d->waiting, &c->wait_node);
        else
            list_add_tail(&d->waiting, &c->wait_node);
        break;
    case WAIT_LATER:
        list_add_tail(&d->laters, &c->wait_node);
        door_later(d);
        break;
    case WAIT_ASK:
        list_add_tail(&d->askers, &c->wait_node);
        break;
    }
    return false;
}

/* ---- Commands ---- */

static enum resp_got conn_parse(struct conn *c)
{
    while (!c->have) {
        enum resp_got got =
            resp_next(&c->resp, c->in + c->in_begin, c->in_end - c->in_begin);

        if (got != RESP_COMMAND)
            return got;
        c->have = true;
        if (c->resp.n == 0) {
            conn_consume(c);
            continue;
        }
        c->cmd = cmd_find(c);
    }
    return RESP_COMMAND;
}

bool conn_next_is(struct conn *c, cmd_fn *run)
{
    return conn_parse(c) == RESP_COMMAND && c->cmd && c->cmd->run == run &&
           c->resp.n >= c->cmd->args_min &&
           (!c->cmd->args_max || c->resp.n <= c->cmd->args_max);
}

void conn_consume(struct conn *c)
{
    c->in_begin += c->resp.at;
    c->have = c->has_value = false;
    c->cmd = NULL;
    c->arg = 0;
    resp_begin(&c->resp);
}

/* ---- The value of a SET, outside the buffer ---- */

static void value_arrived(struct conn *c, uint64_t n)
{
    c->value_got += n;
    c->in_value = c->value_got < c->value_len;
    if (!c->in_value)
        resp_value(&c->resp);
}

/* What of it is in the buffer goes where the rest will. */
static void value_begin(struct conn *c)
{
    struct door *d = c->door;
    const struct resp *r = &c->resp;
    uint32_t at = c->in_begin + r->at;
    uint32_t there = (uint32_t)min_u64(c->in_end - at, r->len);

    if (r->n != 2 || !conn_arg_is(c, 0, "set")) {
        if (r->at + r->len < d->cfg.listen.resp.command_bytes) {
            resp_inside(&c->resp);
            return;
        }
        out_error(c, "ERR Protocol error: too big command");
        c->ending = true;
        return;
    }
    if (!door_take(c, r->len, &c->value)) {
        conn_wait(c, WAIT_ROOM);
        return;
    }
    c->has_value = true;
    c->value_len = r->len;
    c->value_got = 0;
    memcpy(space_at(&d->space, &c->value), c->in + at, there);
    memmove(c->in + at, c->in + at + there, c->in_end - at - there);
    c->in_end -= there;
    value_arrived(c, there);
}

/* ---- Running ---- */

static void conn_dispatch(struct conn *c)
{
    metric_add(&c->door->metrics->resp_commands, 1);
    if (!cmd_allowed(c, c->cmd)) {
        door_give(c->door, &c->value);
        conn_consume(c);
        return;
    }
    c->sum = 0;
    c->failed = 0;
    c->run = c->cmd->run;
}

/* false: more bytes are needed. */
static bool conn_step(struct conn *c)
{
    switch (conn_parse(c)) {
    case RESP_MORE:
        c->ending |= c->eof;
        return false;
    case RESP_BAD:
        out_error(c, "ERR %s", c->resp.why);
        c->ending = true;
        break;
    case RESP_VALUE:
        value_begin(c);
        break;
    case RESP_COMMAND:
        conn_dispatch(c);
        break;
    }
    return true;
}

static void conn_work(struct conn *c)
{
    while (c->wait == WAIT_NOTHING && !c->ending) {
        if (out_full(c)) {
            conn_wait(c, WAIT_OUT);
        } else if (c->run) {
            if (c->run(c))
                c->run = NULL;
        } else if (__atomic_load_n(&c->door->draining, __ATOMIC_RELAXED)) {
            c->ending = true;
        } else if (c->in_value) {
            c->ending |= c->eof;
            return;
        } else if (!conn_step(c)) {
            return;
        }
    }
}

static void conn_arm(struct conn *c);

static void conn_linger(struct conn *c)
{
    if (c->eof || shutdown(c->fd, SHUT_WR) != 0) {
        conn_close(c);
        return;
    }
    c->linger = true;
    c->since_ms = door_now_ms(c->door);
}

void conn_run(struct conn *c)
{
    bool more;

    c->in_ms = door_now_ms(c->door); /* it may have been kept till now */
    do {
        conn_work(c);
        if (!out_flush(c)) {
            conn_close(c);
            return;
        }
        more = c->wait == WAIT_OUT && !out_full(c);
        if (more)
            c->wait = WAIT_NOTHING;
    } while (more);
    if (c->ending && !c->out.bytes && !c->linger)
        conn_linger(c);
    if (!c->dead)
        conn_arm(c);
}

/* Frees it when neither libuv nor libpikv uses it any more. */
static void conn_reap(struct conn *c)
{
    if (c->closed && c->wait != WAIT_CALL)
        conn_free(c);
}

void conn_called(struct conn *c, const struct pikv_completion *done)
{
    MUST(c->wait == WAIT_CALL);
    c->wait = WAIT_NOTHING;
    if (c->dead) {
        conn_reap(c);
        return;
    }
    c->done(c, done);
    conn_run(c);
}

/* ---- Reading ---- */

static bool conn_reads(const struct conn *c)
{
    return c->linger || (!c->ending && !c->eof && c->wait == WAIT_NOTHING);
}

/* Room behind what is there; false: the command is longer than it may be. */
static bool in_room(struct conn *c)
{
    uint64_t max = c->door->cfg.listen.resp.command_bytes;
    uint64_t cap;
    uint8_t *in;

    if (c->in_begin == c->in_end)
        c->in_begin = c->in_end = 0;
    if (c->in_begin && c->in_cap - c->in_end < READ_MIN) {
        memmove(c->in, c->in + c->in_begin, c->in_end - c->in_begin);
        c->in_end -= c->in_begin;
        c->in_begin = 0;
    }
    if (c->in_end == 0 && c->in_cap > DOOR_IN_MIN)
        cap = DOOR_IN_MIN;
    else if (c->in_cap - c->in_end < READ_MIN && c->in_cap < max)
        cap = min_u64(c->in_cap * UINT64_C(2), max);
    else
        return c->in_end < c->in_cap;
    in = fault_here("door_in") ? NULL : realloc(c->in, cap);
    if (!in)
        return c->in_end < c->in_cap;
    c->in = in;
    c->in_cap = (uint32_t)cap;
    return true;
}

static ssize_t read_some(struct conn *c)
{
    struct iovec iov[2];
    uint64_t rest = c->in_value ? c->value_len - c->value_got : 0, part;
    uint32_t n = 0;
    ssize_t got;

    if (c->in_value)
        iov[n++] = (struct iovec){
            space_at(&c->door->space, &c->value) + c->value_got, rest};
    iov[n++] = (struct iovec){c->in + c->in_end, c->in_cap - c->in_end};
    got = readv(c->fd, iov, (int)n);
    if (got <= 0)
        return got;
    metric_add(&c->door->metrics->resp_bytes_in, (uint64_t)got);
    part = min_u64(rest, (uint64_t)got);
    c->in_end += (uint32_t)((uint64_t)got - part);
    if (c->in_value)
        value_arrived(c, part);
    return got;
}

static bool read_once(struct conn *c)
{
    ssize_t got;

    if (c->linger)
        c->in_begin = c->in_end = 0; /* dropped */
    if (!in_room(c)) {
        out_error(c, "ERR Protocol error: too big command");
        c->ending = true;
        conn_run(c);
        return false;
    }
    got = read_some(c);
    if (got < 0 && errno != EAGAIN && errno != EINTR)
        conn_close(c);
    if (got < 0)
        return false;
    if (got == 0)
        c->eof = true;
    if (c->linger && c->eof)
        conn_close(c);
    else if (!c->linger)
        conn_run(c);
    return got >= READ_MIN;
}

static void conn_read(struct conn *c)
{
    for (int i = 0; i < READS_MAX && !c->dead && conn_reads(c); i++)
        if (!read_once(c))
            return;
}

/* ---- libuv ---- */

static void on_poll(uv_poll_t *h, int status, int events)
{
    struct conn *c = h->data;
    struct door *d = c->door;

    if (status < 0)
        conn_close(c);
    if (!c->dead && events & UV_WRITABLE)
        conn_run(c);
    if (!c->dead && events & UV_READABLE && conn_reads(c)) {
        conn_read(c);
    } else if (!c->dead && events & UV_READABLE) {
        c->armed &= ~UV_READABLE;
        uv_poll_start(&c->poll, c->armed, on_poll);
    }
    door_settle(d);
}

static void conn_arm(struct conn *c)
{
    int want = c->out.bytes ? UV_WRITABLE : 0;

    if (conn_reads(c) || (c->armed & UV_READABLE && !c->ending && !c->eof))
        want |= UV_READABLE;
    if (want == c->armed)
        return;
    c->armed = want;
    uv_poll_start(&c->poll, want, on_poll); /* 0 stops it */
}

static void on_closed(uv_handle_t *h)
{
    struct conn *c = h->data;
    struct door *d = c->door;

    c->closed = true;
    conn_reap(c);
    door_settle(d);
}

void conn_close(struct conn *c)
{
    struct door *d = c->door;

    if (c->dead)
        return;
    c->dead = true;
    list_del(&c->wait_node);
    d->freed |= c->wait == WAIT_ROOM; /* those behind it may need less */
    if (c->wait != WAIT_CALL)
        c->wait = WAIT_NOTHING;
    if (d->ask.conn == c)
        d->ask.conn = NULL;
    uv_close((uv_handle_t *)&c->poll, on_closed);
    close(c->fd);
    list_del(&c->node);
    list_add_tail(&d->dead, &c->node);
    metric_set(&d->metrics->resp_clients, --d->conn_n);
}

static void conn_delete(struct conn *c)
{
    free(c->resp.args);
    free(c->in);
    free(c);
}

void conn_free(struct conn *c)
{
    list_del(&c->node);
    door_give(c->door, &c->value);
    data_release(c);
    out_fini(c);
    conn_delete(c);
}

static struct conn *conn_new(struct door *d)
{
    struct conn *c = fault_here("door_conn") ? NULL : calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->in = malloc(DOOR_IN_MIN);
    c->in_cap = DOOR_IN_MIN;
    c->resp.args = calloc(d->cfg.listen.resp.arguments, sizeof(*c->resp.args));
    if (c->in && c->resp.args)
        return c;
    conn_delete(c);
    return NULL;
}

static void tcp_options(int fd)
{
    int on = 1, idle = KEEPALIVE_S, every = KEEPALIVE_S / 3, times = 3;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &times, sizeof(times));
}

void conn_open(struct door *d, int fd)
{
    struct conn *c = conn_new(d);

    if (!c || uv_poll_init(&d->uv, &c->poll, fd) != 0) {
        LOG(LOG_WARN, "resp_client_refused", "error=%s", "no memory");
        if (c)
            conn_delete(c);
        close(fd);
        return;
    }
    tcp_options(fd);
    c->poll.data = c;
    c->door = d;
    c->fd = fd;
    c->id = ++d->conn_id;
    c->authenticated = !d->password_len;
    c->resp.limits = c->authenticated ? &d->limits : &d->limits_before;
    c->in_ms = c->out_ms = c->since_ms = door_now_ms(d);
    resp_begin(&c->resp);
    list_init(&c->wait_node);
    list_add_tail(&d->conns, &c->node);
    metric_set(&d->metrics->resp_clients, ++d->conn_n);
    conn_arm(c);
}

/* ---- Time ---- */

static const char *conn_slow(const struct conn *c, uint64_t now_ms)
{
    uint64_t slow_ms = c->door->cfg.listen.resp.slow_us / 1000;

    if (c->linger)
        return now_ms - c->since_ms >= LINGER_MS ? "" : NULL;
    if (c->out.bytes && now_ms - c->out_ms >= slow_ms)
        return "does not read its replies";
    if (c->wait != WAIT_NOTHING || c->out.bytes)
        return NULL;
    if ((c->in_value || c->in_begin < c->in_end) &&
        now_ms - c->in_ms >= slow_ms)
        return "does not end its command";
    if (!c->authenticated && now_ms - c->since_ms >= slow_ms)
        return "does not say its password";
    return NULL;
}

static void conn_no_room(struct conn *c)
{
    list_del(&c->wait_node);
    c->wait = WAIT_NOTHING;
    c->room_until_ms = 0;
    c->door->freed = true; /* those behind it may need less */
    if (c->run) {
        data_no_room(c);
    } else { /* a value that there is no place for */
        out_code(c, PIKV_BUSY);
        c->ending = true;
    }
    conn_run(c);
}

void conn_tick(struct conn *c, uint64_t now_ms)
{
    const char *why = conn_slow(c, now_ms);

    if (!why && c->wait == WAIT_ROOM && now_ms >= c->room_until_ms)
        conn_no_room(c);
    if (!why)
        return;
    if (why[0]) {
        LOG(LOG_INFO, "resp_client_closed", "id=%llu why=%s",
            (unsigned long long)c->id, LOG_STR(why));
        metric_add(&c->door->metrics->resp_closed_slow, 1);
    }
    conn_close(c);
}
