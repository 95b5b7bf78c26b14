/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: rpc base proto */
/*
 * The UCX transport over tcp on 127.0.0.1: a server (the transport with a lane
 * of this file's making) and the client of tests/lib/ucx_client.h, in one
 * process and one thread, or with the client in a forked process that is killed
 * while it stands still in the middle of something.
 *
 * Nothing is timed: pump() turns both ends until a condition holds, and a test
 * that never gets there ends by Check's timeout.
 *
 * Extents lie between canary pages that are checked at each completion and
 * again at the end. transport_ucx_close() checks that all pools are full. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/hash.h"
#include "rpc/transport_ucx.h"
#include "tests/lib/ucx_client.h"

Suite *suite(void);

enum { CANARY = 4096, XFERS = 64, SENDS = 64, MESSAGE = 1 << 20 };

/* ---- The lane under the transport ---------------------------------------- */

struct extent {
    uint8_t *all, *p;
    uint64_t len;
};

struct xfer {
    struct tp_xfer x;
    struct tp_span spans[64];
    struct extent e;
    uint32_t dones;
    enum err err;
};

struct send {
    struct tp_send s;
    uint32_t dones;
    enum err err;
};

struct host {
    struct transport *t;
    struct metrics *metrics;
    struct trace *trace;
    struct env env;
    struct frame_limits limits;
    struct tp_peer *peer; /* the last one opened */
    uint32_t opened, closed, messages, bads;
    enum err refuse, bad_err;
    struct wire_frame frame; /* of the last message */
    uint8_t *body;
    uint64_t body_len;
    bool inside; /* a call of ours into the transport runs */
    struct xfer xfers[XFERS];
    uint32_t xfer_n, xfer_dones;
    struct send sends[SENDS];
    uint32_t send_n, send_dones;
};

static struct host host;
static struct ucxc client;

static enum err on_opened(void *lane, struct tp_peer *p)
{
    struct host *h = lane;

    ck_assert(!h->inside);
    if (h->refuse)
        return h->refuse;
    h->peer = p;
    p->session = h;
    h->opened++;
    return OK;
}

static void on_message(void *lane, struct tp_peer *p, const struct message *m,
                       int fd)
{
    struct host *h = lane;

    ck_assert(!h->inside);
    ck_assert_ptr_eq(p->session, h);
    ck_assert_int_eq(fd, -1);
    h->frame = m->frame;
    h->body_len = m->frame.env_len + m->frame.data_len;
    ck_assert_uint_le(h->body_len, MESSAGE);
    memcpy(h->body, m->env, m->frame.env_len);
    if (m->frame.data_len)
        memcpy(h->body + m->frame.env_len, m->data, m->frame.data_len);
    h->messages++;
}

static void on_bad(void *lane, struct tp_peer *p, const struct message *m,
                   enum err e)
{
    struct host *h = lane;

    (void)m;
    ck_assert(!h->inside);
    h->bads++;
    h->bad_err = e;
    p->t->ops->close(p, true);
}

static void on_closed(void *lane, struct tp_peer *p)
{
    struct host *h = lane;

    ck_assert(!h->inside);
    for (uint32_t i = 0; i < h->xfer_n; i++)
        ck_assert(h->xfers[i].x.peer != p || h->xfers[i].dones == 1);
    if (p == h->peer)
        h->peer = NULL;
    h->closed++;
}

static const struct tp_events events = {
    .opened = on_opened,
    .message = on_message,
    .bad = on_bad,
    .closed = on_closed,
};

static uint16_t free_port(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    ck_assert_int_eq(bind(fd, (void *)&sa, n), 0);
    ck_assert_int_eq(getsockname(fd, (void *)&sa, &n), 0);
    close(fd);
    return ntohs(sa.sin_port);
}

static struct transport_ucx_cfg config(void)
{
    return (struct transport_ucx_cfg){
        .host = "127.0.0.1",
        .tls = "tcp",
        .devices = "lo",
        .peers_max = 4,
        .sends_max = 256,
        .xfers_max = 128,
        .held_max = 48,
        .held_bytes = 8 << 20,
        .held_all = 128,
        .inline_max = TP_EAGER_MAX,
        .slice_bytes = 1 << 20,
    };
}

static void host_open(const struct transport_ucx_cfg *cfg)
{
    struct transport from = {
        .events = &events,
        .lane = &host,
        .env = &host.env,
        .limits = &host.limits,
    };
    struct errmsg msg;

    host.metrics = calloc(1, sizeof(*host.metrics));
    host.trace = calloc(1, sizeof(*host.trace));
    host.body = malloc(MESSAGE);
    from.metrics = host.metrics;
    from.trace = host.trace;
    host.limits = (struct frame_limits){
        .message_bytes = 256 << 10,
        .batch_keys = 4096,
        .inline_bytes = TP_EAGER_MAX,
        .block_bytes = 1 << 30,
    };
    ck_assert_int_eq(transport_ucx_env(cfg, &msg), OK);
    ck_assert_msg(transport_ucx_open(cfg, &from, &host.t, &msg) == OK, "%s",
                  msg.text);
}

static bool host_turn(void)
{
    return host.t->ops->progress(host.t);
}

#define PUMP(cond)                                                             \
    while (!(cond)) {                                                          \
        host_turn();                                                           \
        ucxc_progress(&client);                                                \
    }
#define TURN(cond)                                                             \
    while (!(cond))                                                            \
    host_turn()

static void start(void)
{
    struct transport_ucx_cfg cfg = config();

    host_open(&cfg);
    ucxc_open(&client, transport_ucx_port(host.t));
    PUMP(host.opened == 1);
}

static void extents_check(void);

static void finish(void)
{
    if (client.worker)
        ucxc_close(&client);
    transport_ucx_close(host.t);
    extents_check();
    ck_assert_uint_eq(host.opened, host.closed);
    ck_assert_uint_eq(host.xfer_dones, host.xfer_n);
    ck_assert_uint_eq(host.send_dones, host.send_n);
}

/* ---- Bytes --------------------------------------------------------------- */

static uint8_t byte_at(uint64_t seed, uint64_t i)
{
    return (uint8_t)((i + seed * 131) * 2654435761u >> 13);
}

static uint8_t *bytes_new(uint64_t seed, uint64_t n)
{
    uint8_t *p = malloc(n + 1);

    for (uint64_t i = 0; i < n; i++)
        p[i] = byte_at(seed, i);
    return p;
}

static struct extent extent_new(uint64_t len)
{
    struct extent e = {.all = malloc(len + 2 * CANARY), .len = len};

    e.p = e.all + CANARY;
    memset(e.all, 0xc5, len + 2 * CANARY);
    return e;
}

static void extent_check(const struct extent *e)
{
    for (uint64_t i = 0; i < CANARY; i++) {
        ck_assert_uint_eq(e->all[i], 0xc5);
        ck_assert_uint_eq(e->p[e->len + i], 0xc5);
    }
}

static void extents_check(void)
{
    for (uint32_t i = 0; i < host.xfer_n; i++) {
        if (host.xfers[i].e.all)
            extent_check(&host.xfers[i].e);
    }
}

static void on_xfer(struct tp_xfer *x, enum err e)
{
    struct xfer *t = container_of(x, struct xfer, x);

    ck_assert(!host.inside);
    t->dones++;
    t->err = e;
    host.xfer_dones++;
    ck_assert_uint_eq(t->dones, 1);
    extent_check(&t->e);
}

/* A transfer over an extent cut into span_n spans; the last takes the rest. */
static struct xfer *xfer_new(uint64_t req, uint32_t idx, uint64_t len,
                             uint32_t span_n)
{
    struct xfer *t = &host.xfers[host.xfer_n++];
    uint64_t cut = span_n > 1 ? len / span_n | 1 : len, off = 0;

    ck_assert_uint_le(host.xfer_n, XFERS);
    *t = (struct xfer){.e = extent_new(len)};
    for (uint32_t i = 0; i < span_n; i++) {
        uint64_t n = i + 1 == span_n ? len - off : min_u64(cut, len - off);

        t->spans[i] = (struct tp_span){t->e.p + off, n};
        off += n;
    }
    t->x = (struct tp_xfer){
        .peer = host.peer,
        .req = req,
        .idx = idx,
        .spans = t->spans,
        .span_n = span_n,
        .want_crc = true,
        .len = len,
        .done = on_xfer,
    };
    return t;
}

static struct xfer *pull(uint64_t req, uint32_t idx, uint64_t len,
                         uint32_t span_n)
{
    struct xfer *t = xfer_new(req, idx, len, span_n);

    host.inside = true;
    host.t->ops->pull(host.peer, &t->x);
    host.inside = false;
    return t;
}

static struct xfer *push(uint64_t req, uint32_t idx, uint64_t len,
                         uint32_t span_n)
{
    struct xfer *t = xfer_new(req, idx, len, span_n);

    for (uint64_t i = 0; i < len; i++)
        t->e.p[i] = byte_at(idx, i);
    t->x.is_push = true;
    host.inside = true;
    host.t->ops->push(host.peer, &t->x);
    host.inside = false;
    return t;
}

static void cancel(struct xfer *t)
{
    host.inside = true;
    host.t->ops->cancel(&t->x);
    host.inside = false;
}

static void skip(uint64_t req, uint32_t idx)
{
    host.inside = true;
    host.t->ops->skip(host.peer, req, idx);
    host.inside = false;
}

static void on_send(struct tp_send *s, enum err e)
{
    struct send *t = container_of(s, struct send, s);

    ck_assert(!host.inside);
    t->dones++;
    t->err = e;
    ck_assert_uint_eq(t->dones, 1);
    host.send_dones++;
}

static struct send *reply(uint64_t req, const void *body, uint32_t env_len,
                          const struct tp_span *data, uint32_t data_n)
{
    struct send *t = &host.sends[host.send_n++];

    ck_assert_uint_le(host.send_n, SENDS);
    *t = (struct send){
        .s = {.frame = {.kind = WIRE_REPLY,
                        .op = OP_PING,
                        .req = req,
                        .env_len = env_len},
              .body = body,
              .data = data,
              .data_n = data_n,
              .fd = -1,
              .done = on_send},
    };
    for (uint32_t i = 0; i < data_n; i++)
        t->s.frame.data_len += data[i].len;
    frame_seal(&t->s.frame, body, env_len);
    host.inside = true;
    host.t->ops->send(host.peer, &t->s);
    host.inside = false;
    return t;
}

static void pulled_well(const struct xfer *t, const uint8_t *want)
{
    ck_assert_int_eq(t->err, OK);
    ck_assert_uint_eq(t->x.moved, t->x.len);
    ck_assert_int_eq(memcmp(t->e.p, want, t->x.len), 0);
    ck_assert_uint_eq(t->x.crc, crc32c(0, want, t->x.len));
}

/* Nothing of the extent was written. */
static void untouched(const struct xfer *t)
{
    for (uint64_t i = 0; i < t->e.len; i++)
        ck_assert_uint_eq(t->e.p[i], 0xc5);
}

static const uint64_t sizes[] = {
    1,         4 << 10,   56 << 10, (56 << 10) + 1, 64 << 10,
    511 << 10, 512 << 10, 1 << 20,  16 << 20,       (16 << 20) + 1,
};

/* ---- Messages ------------------------------------------------------------ */

START_TEST(a_request_and_its_reply_arrive_whole)
{
    const uint64_t len[] = {0, 1, 100, 8000, 60000, 200000};
    uint8_t *b = bytes_new(3, 200000);
    struct send *s;

    start();
    ck_assert_uint_eq(host.peer->inline_max, TP_EAGER_MAX);
    ck_assert(strncmp(host.peer->cred.addr, "127.0.0.1:", 10) == 0);
    for (uint32_t i = 0; i < countof(len); i++) {
        ucxc_request(&client, i + 1, OP_PING, b, (uint32_t)len[i], 0);
        PUMP(host.messages == i + 1);
        ck_assert_uint_eq(host.frame.req, i + 1);
        ck_assert_uint_eq(host.body_len, len[i]);
        ck_assert_int_eq(memcmp(host.body, b, len[i]), 0);
        s = reply(i + 1, b, (uint32_t)min_u64(len[i], 120000), NULL, 0);
        PUMP(client.replies == i + 1 && s->dones);
        ck_assert_int_eq(s->err, OK);
        ck_assert_uint_eq(client.body_len, min_u64(len[i], 120000));
        ck_assert_int_eq(memcmp(client.body, b, client.body_len), 0);
    }
    finish();
}
END_TEST

START_TEST(inline_data_travels_with_the_message_both_ways)
{
    uint8_t *b = bytes_new(3, 100 + TP_EAGER_MAX);
    struct tp_span spans[3] = {{b + 100, 1}, {b + 101, 4096}, {NULL, 0}};

    spans[2] = (struct tp_span){b + 101 + 4096, TP_EAGER_MAX - 4097};
    start();
    ucxc_request(&client, 1, OP_PUT, b, 100, TP_EAGER_MAX);
    PUMP(host.messages == 1);
    ck_assert_uint_eq(host.frame.data_len, TP_EAGER_MAX);
    ck_assert_int_eq(memcmp(host.body, b, 100 + TP_EAGER_MAX), 0);
    reply(1, b, 100, spans, 3);
    PUMP(client.replies == 1 && host.send_dones == 1);
    ck_assert_uint_eq(client.body_len, 100 + TP_EAGER_MAX);
    ck_assert_int_eq(memcmp(client.body, b, client.body_len), 0);
    finish();
}
END_TEST

START_TEST(a_held_peer_is_not_heard_until_it_is_let_go)
{
    start();
    host.t->ops->hold(host.peer, true);
    ucxc_request(&client, 1, OP_PING, NULL, 0, 0);
    ucxc_request(&client, 2, OP_PING, NULL, 0, 0);
    PUMP(client.busy == 0);
    for (int i = 0; i < 100; i++) {
        host_turn();
        ucxc_progress(&client);
    }
    ck_assert_uint_eq(host.messages, 0);
    host.t->ops->hold(host.peer, false);
    PUMP(host.messages == 2);
    ck_assert_uint_eq(host.frame.req, 2);
    finish();
}
END_TEST

START_TEST(a_reply_waits_for_room_and_is_not_lost)
{
    struct transport_ucx_cfg cfg = config();
    static uint8_t body[1000];

    cfg.sends_max = 2;
    host_open(&cfg);
    ucxc_open(&client, transport_ucx_port(host.t));
    PUMP(host.opened == 1);
    for (uint32_t i = 0; i < 40; i++)
        reply(i + 1, body, 1000, NULL, 0);
    PUMP(client.replies == 40 && host.send_dones == 40);
    ck_assert_uint_eq(client.reply.req, 40);
    finish();
}
END_TEST

START_TEST(the_fd_wakes_and_arm_refuses_to_sleep_on_work)
{
    fd_set fds;
    struct timeval tv = {.tv_sec = 20};
    int fd;

    start();
    fd = transport_ucx_fd(host.t);
    PUMP(host.t->ops->arm(host.t));
    FD_ZERO(&fds);
    FD_SET(fd, &fds);
    ucxc_request(&client, 1, OP_PING, NULL, 0, 0);
    while (client.busy)
        ucxc_progress(&client);
    ck_assert_int_eq(select(fd + 1, &fds, NULL, NULL, &tv), 1);
    host.t->ops->awake(host.t);
    while (host.messages == 0) {
        if (!host.t->ops->arm(host.t))
            host_turn();
    }
    finish();
}
END_TEST

/* ---- PUT ----------------------------------------------------------------- */

/* _i walks sizes, with the pull before or after the data, one or more spans. */
START_TEST(put_bytes_arrive_in_the_spans)
{
    uint64_t len = sizes[_i / 6];
    bool late = _i % 2 == 1;
    uint32_t span_n = (uint32_t[]){1, 2, 7}[_i / 2 % 3];
    uint8_t *b = bytes_new(9, len);
    struct xfer *t;

    if (len < span_n)
        return;
    start();
    t = late ? NULL : pull(7, 3, len, span_n);
    ucxc_data(&client, 7, 3, b, len);
    if (late) {
        for (int i = 0; i < 50; i++) {
            host_turn();
            ucxc_progress(&client);
        }
        t = pull(7, 3, len, span_n);
    }
    PUMP(t->dones && client.busy == 0);
    pulled_well(t, b);
    ck_assert_uint_eq(client.sent, 1);
    finish();
}
END_TEST

START_TEST(a_batch_of_mixed_sizes_is_matched_by_index)
{
    uint8_t *b[40];
    struct xfer *t[40];

    start();
    for (uint32_t i = 0; i < 40; i++) {
        b[i] = bytes_new(i, sizes[i % 8]);
        ucxc_data(&client, 1 + i / 20, i % 20, b[i], sizes[i % 8]);
        if (i == 20) {
            for (int k = 0; k < 100; k++) {
                host_turn();
                ucxc_progress(&client);
            }
        }
    }
    for (uint32_t i = 40; i-- > 0;)
        t[i] = pull(1 + i / 20, i % 20, sizes[i % 8], 1 + i % 3 % 2);
    PUMP(host.xfer_dones == 40);
    for (uint32_t i = 0; i < 40; i++)
        pulled_well(t[i], b[i]);
    finish();
}
END_TEST

START_TEST(data_longer_or_shorter_than_the_pull_is_refused)
{
    static uint8_t b[2 << 20];
    struct xfer *t[4];

    start();
    ucxc_data(&client, 1, 0, b, 1000);
    ucxc_data(&client, 1, 1, b, 1000);
    ucxc_data(&client, 1, 2, b, 1 << 20);
    ucxc_data(&client, 1, 3, b, 1 << 20);
    t[0] = pull(1, 0, 999, 1);
    t[1] = pull(1, 1, 1001, 1);
    t[2] = pull(1, 2, (1 << 20) - 1, 1);
    t[3] = pull(1, 3, (1 << 20) + 1, 2);
    PUMP(host.xfer_dones == 4 && client.busy == 0);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(t[i]->err, ERR_BAD_REQUEST);
        ck_assert_uint_eq(t[i]->x.moved, 0);
        untouched(t[i]);
    }
    ck_assert_uint_eq(host.closed, 0);
    finish();
}
END_TEST

/* _i: 0 skip before the data, 1 after; 2 and 3 the same with a rendezvous. */
START_TEST(skipped_bytes_are_dropped_and_the_sender_completes)
{
    uint64_t len = _i < 2 ? 5000 : 1 << 20;
    uint8_t *b = bytes_new(1, len);
    struct xfer *t;

    start();
    if (_i % 2 == 0)
        skip(1, 0);
    ucxc_data(&client, 1, 0, b, len);
    for (int i = 0; i < 50; i++) {
        host_turn();
        ucxc_progress(&client);
    }
    if (_i % 2 == 1)
        skip(1, 0);
    PUMP(client.busy == 0);
    ck_assert_uint_eq(client.sent, 1);
    /* The index is free again, and the connection is well. */
    t = pull(1, 0, len, 1);
    ucxc_data(&client, 1, 0, b, len);
    PUMP(t->dones);
    pulled_well(t, b);
    finish();
}
END_TEST

START_TEST(a_pull_canceled_before_its_data_ends_and_drops_the_data)
{
    uint64_t len = _i ? 1 << 20 : 5000;
    uint8_t *b = bytes_new(1, len);
    struct xfer *t, *u;

    start();
    t = pull(1, 0, len, 1);
    host_turn();
    cancel(t);
    cancel(t); /* saying it twice is harmless */
    PUMP(t->dones);
    ck_assert_int_eq(t->err, ERR_CANCELED);
    ucxc_data(&client, 1, 0, b, len);
    PUMP(client.busy == 0);
    untouched(t);
    u = pull(1, 0, len, 1);
    ucxc_data(&client, 1, 0, b, len);
    PUMP(u->dones);
    pulled_well(u, b);
    ck_assert_uint_eq(host.closed, 0);
    finish();
}
END_TEST

START_TEST(a_pull_canceled_after_its_data_ends_once)
{
    uint64_t len = _i ? 1 << 20 : 5000;
    uint8_t *b = bytes_new(1, len);
    struct xfer *t;

    start();
    ucxc_data(&client, 1, 0, b, len);
    for (int i = 0; i < 50; i++) {
        host_turn();
        ucxc_progress(&client);
    }
    t = pull(1, 0, len, 1);
    cancel(t);
    PUMP(t->dones && client.busy == 0);
    ck_assert_int_eq(t->err, ERR_CANCELED);
    untouched(t);
    ck_assert_uint_eq(host.closed, 0);
    finish();
}
END_TEST

/* The client stands still, so the rendezvous cannot end by itself. */
START_TEST(a_rendezvous_canceled_in_flight_costs_the_connection)
{
    uint32_t span_n = _i ? 3 : 1;
    uint8_t *b = bytes_new(1, 1 << 20);
    struct xfer *t, *u;
    struct send *s;

    start();
    ucxc_data(&client, 1, 0, b, 1 << 20);
    ucxc_data(&client, 1, 1, b, 1 << 20);
    for (int i = 0; i < 50; i++) {
        host_turn();
        ucxc_progress(&client);
    }
    t = pull(1, 0, 1 << 20, span_n);
    u = pull(2, 0, 1 << 20, span_n);
    for (int i = 0; i < 50; i++)
        host_turn();
    ck_assert_uint_eq(t->dones, 0);
    cancel(t);
    s = reply(1, NULL, 0, NULL, 0);
    TURN(host.closed == 1);
    ck_assert_int_eq(t->err, ERR_CANCELED);
    ck_assert_int_eq(u->err, ERR_PEER_GONE);
    ck_assert_int_eq(s->err, ERR_PEER_GONE);
    memset(t->e.p, 0xc5, t->e.len);
    while (!client.failed || client.busy) {
        host_turn();
        ucxc_progress(&client);
    }
    untouched(t);
    untouched(u);
    finish();
}
END_TEST

/* ---- GET ----------------------------------------------------------------- */

START_TEST(get_bytes_arrive_at_the_client)
{
    uint64_t len = sizes[_i / 3];
    uint32_t span_n = (uint32_t[]){1, 2, 40}[_i % 3];
    struct extent e;
    struct xfer *t;

    if (len < 2 * span_n)
        span_n = 1;
    start();
    e = extent_new(len);
    client.keys[5] = (struct ucxc_key){.to = e.p, .room = len};
    t = push(7, 5, len, span_n);
    PUMP(t->dones && client.keys[5].moved == len);
    ck_assert_int_eq(t->err, OK);
    ck_assert_uint_eq(t->x.moved, len);
    ck_assert_int_eq(memcmp(e.p, t->e.p, len), 0);
    extent_check(&e);
    if (span_n == 1 && len <= TP_EAGER_MAX)
        ck_assert_uint_eq(client.keys[5].parts, 1);
    if (span_n == 1)
        ck_assert_uint_eq(client.keys[5].rndvs, len >= TP_RNDV_MIN);
    /* Small runs are gathered, not sent one by one. */
    if (len == 64 << 10)
        ck_assert_uint_le(client.keys[5].parts, 3);
    finish();
}
END_TEST

START_TEST(many_pushes_share_the_window_and_all_arrive)
{
    struct extent e[32];

    start();
    for (uint32_t i = 0; i < 32; i++) {
        uint64_t len = sizes[i % 8];

        e[i] = extent_new(len);
        client.keys[i] = (struct ucxc_key){.to = e[i].p, .room = len};
        push(7, i, len, 1);
    }
    PUMP(host.xfer_dones == 32 && client.busy == 0);
    for (uint32_t i = 0; i < 32; i++) {
        PUMP(client.keys[i].moved == sizes[i % 8]);
        ck_assert_int_eq(host.xfers[i].err, OK);
        ck_assert_int_eq(memcmp(e[i].p, host.xfers[i].e.p, e[i].len), 0);
        extent_check(&e[i]);
    }
    finish();
}
END_TEST

START_TEST(a_push_of_nothing_completes)
{
    struct xfer *t;

    start();
    t = push(7, 0, 0, 1);
    PUMP(t->dones);
    ck_assert_int_eq(t->err, OK);
    finish();
}
END_TEST

START_TEST(a_push_canceled_before_it_began_costs_nothing)
{
    struct xfer *t;

    start();
    t = push(7, 0, 1 << 20, 1);
    cancel(t);
    PUMP(t->dones);
    ck_assert_int_eq(t->err, ERR_CANCELED);
    ucxc_request(&client, 1, OP_PING, NULL, 0, 0);
    PUMP(host.messages == 1);
    finish();
}
END_TEST

/* _i: rendezvous, or so many pieces that the socket is full. */
START_TEST(a_push_canceled_in_flight_costs_the_connection)
{
    struct xfer *t[60];
    uint32_t n = _i ? 60 : 1;

    start();
    for (uint32_t i = 0; i < n; i++)
        t[i] = push(7, i, _i ? 500 << 10 : 1 << 20, 1);
    for (int i = 0; i < 100; i++)
        host_turn();
    ck_assert_uint_eq(t[n - 1]->dones, 0);
    for (uint32_t i = 0; i < n; i++) {
        client.keys[i].to = malloc(1 << 20);
        client.keys[i].room = 1 << 20;
        if (!t[i]->dones)
            cancel(t[i]);
    }
    TURN(host.closed == 1);
    ck_assert_int_eq(t[n - 1]->err, ERR_CANCELED);
    while (!client.failed)
        ucxc_progress(&client);
    finish();
}
END_TEST

/* ---- Ends ---------------------------------------------------------------- */

START_TEST(an_orderly_close_lets_what_was_begun_arrive)
{
    static uint8_t body[1000];
    uint8_t *b = bytes_new(0, 1 << 20);
    struct xfer *put, *get;

    start();
    client.keys[0] = (struct ucxc_key){.to = malloc(1 << 20), .room = 1 << 20};
    ucxc_data(&client, 1, 9, b, 1 << 20);
    put = pull(1, 9, 1 << 20, 1);
    get = push(2, 0, 1 << 20, 1);
    reply(3, body, 1000, NULL, 0);
    host.t->ops->close(host.peer, false);
    PUMP(host.closed == 1);
    pulled_well(put, b);
    ck_assert_int_eq(get->err, OK);
    ck_assert_int_eq(host.sends[0].err, OK);
    PUMP(client.failed);
    ck_assert_uint_eq(client.replies, 1);
    ck_assert_int_eq(memcmp(client.keys[0].to, b, 1 << 20), 0);
    finish();
}
END_TEST

START_TEST(a_close_at_once_ends_everything)
{
    static uint8_t body[1000];
    uint8_t *b = bytes_new(0, 1 << 20);

    start();
    for (uint32_t i = 0; i < 8; i++) {
        ucxc_data(&client, 1, i, b, i % 2 ? 1 << 20 : 3000);
        if (i < 4)
            pull(1, i, i % 2 ? 1 << 20 : 3000, 1);
        push(2, i, i % 2 ? 1 << 20 : 3000, 1);
        reply(3, body, 1000, NULL, 0);
    }
    pull(1, 20, 1 << 20, 1);
    if (_i) {
        for (int i = 0; i < 20; i++)
            host_turn();
    }
    if (_i == 2)
        host.t->ops->close(host.peer, false);
    host.t->ops->close(host.peer, true);
    TURN(host.closed == 1);
    ck_assert_uint_eq(host.xfer_dones, host.xfer_n);
    ck_assert_uint_eq(host.send_dones, host.send_n);
    for (uint32_t i = 0; i < 8; i++)
        client.keys[i] =
            (struct ucxc_key){.to = malloc(1 << 20), .room = 1 << 20};
    while (!client.failed)
        ucxc_progress(&client);
    finish();
}
END_TEST

START_TEST(closing_the_transport_closes_its_peers)
{
    uint8_t *b = bytes_new(0, 1 << 20);

    start();
    ucxc_data(&client, 1, 0, b, 1 << 20);
    ucxc_data(&client, 1, 1, b, 1 << 20);
    for (int i = 0; i < 50; i++) {
        host_turn();
        ucxc_progress(&client);
    }
    pull(1, 0, 1 << 20, 1);
    pull(1, 7, 1 << 20, 1);
    host_turn();
    transport_ucx_close(host.t);
    ck_assert_uint_eq(host.closed, 1);
    ck_assert_uint_eq(host.xfer_dones, 2);
    ucxc_close(&client);
}
END_TEST

START_TEST(calls_on_a_closing_peer_end_with_peer_gone)
{
    struct tp_peer *p;

    start();
    p = host.peer;
    host.t->ops->close(p, true);
    pull(1, 0, 1000, 1);
    push(1, 0, 1000, 1);
    reply(1, NULL, 0, NULL, 0);
    skip(1, 1);
    TURN(host.closed == 1);
    ck_assert_int_eq(host.xfers[0].err, ERR_PEER_GONE);
    ck_assert_int_eq(host.xfers[1].err, ERR_PEER_GONE);
    ck_assert_int_eq(host.sends[0].err, ERR_PEER_GONE);
    finish();
}
END_TEST

START_TEST(a_refused_client_is_rejected_and_the_next_is_served)
{
    struct transport_ucx_cfg cfg = config();

    host_open(&cfg);
    host.refuse = ERR_BUSY;
    ucxc_open(&client, transport_ucx_port(host.t));
    PUMP(client.failed);
    ck_assert_uint_eq(host.opened, 0);
    ucxc_close(&client);
    host.refuse = OK;
    ucxc_open(&client, transport_ucx_port(host.t));
    PUMP(host.opened == 1);
    finish();
}
END_TEST

START_TEST(more_clients_than_peers_max_are_rejected)
{
    struct transport_ucx_cfg cfg = config();
    static struct ucxc more;

    cfg.peers_max = 1;
    host_open(&cfg);
    ucxc_open(&client, transport_ucx_port(host.t));
    PUMP(host.opened == 1);
    ucxc_open(&more, transport_ucx_port(host.t));
    PUMP(more.failed || (ucxc_progress(&more), false));
    ck_assert_uint_eq(host.opened, 1);
    ucxc_close(&more);
    ucxc_request(&client, 1, OP_PING, NULL, 0, 0);
    PUMP(host.messages == 1);
    finish();
}
END_TEST

/* ---- Nonsense ------------------------------------------------------------ */

static void send_nonsense(int i)
{
    static uint8_t b[100000];
    struct wire_frame f = {.kind = WIRE_REQUEST,
                           .op = OP_PING,
                           .req = 1,
                           .env_len = 10,
                           .deadline_us = 5};
    unsigned eager = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER;
    unsigned rndv = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_RNDV;
    struct wire_frame d = {.kind = WIRE_DATA,
                           .op = OP_PUT,
                           .req = 1,
                           .data_len = 1000};

    frame_seal(&f, b, 10);
    frame_seal(&d, NULL, 0);
    switch (i) {
    case 0: /* no header */
        ucxc_raw(&client, "", 0, b, 10, eager);
        break;
    case 1: /* too short */
        ucxc_raw(&client, &f, 63, b, 10, eager);
        break;
    case 2: /* too long */
        ucxc_raw(&client, b, 128, b, 10, eager);
        break;
    case 3: /* wrong magic */
        f.magic++;
        ucxc_raw(&client, &f, 64, b, 10, eager);
        break;
    case 4: /* wrong crc */
        f.crc++;
        ucxc_raw(&client, &f, 64, b, 10, eager);
        break;
    case 5: /* shorter than it says */
        ucxc_raw(&client, &f, 64, b, 9, eager);
        break;
    case 6: /* longer than it says */
        ucxc_raw(&client, &f, 64, b, 11, eager);
        break;
    case 7: /* a request by rendezvous */
        ucxc_raw(&client, &f, 64, b, 10, rndv);
        break;
    case 8: /* a reply */
        f.kind = WIRE_REPLY;
        frame_seal(&f, b, 10);
        ucxc_raw(&client, &f, 64, b, 10, eager);
        break;
    case 9: /* data longer than it says */
        ucxc_raw(&client, &d, 64, b, 1001, eager);
        break;
    case 10: /* the same by rendezvous */
        ucxc_raw(&client, &d, 64, b, 100000, rndv);
        break;
    case 11: /* data with an offset */
        d.data_off = 1;
        frame_seal(&d, NULL, 0);
        ucxc_raw(&client, &d, 64, b, 1000, eager);
        break;
    case 12: /* data with a damaged header */
        d.data_idx = 7;
        ucxc_raw(&client, &d, 64, b, 1000, eager);
        break;
    case 13: /* the same bytes twice */
        ucxc_raw(&client, &d, 64, b, 1000, eager);
        ucxc_raw(&client, &d, 64, b, 1000, eager);
        break;
    case 14: /* index beyond any batch */
        d.data_idx = 1 << 20;
        frame_seal(&d, NULL, 0);
        ucxc_raw(&client, &d, 64, b, 1000, rndv);
        break;
    }
}

START_TEST(nonsense_closes_its_connection_and_no_other)
{
    static struct ucxc good;

    start();
    ucxc_open(&good, transport_ucx_port(host.t));
    PUMP(host.opened == 2 || (ucxc_progress(&good), false));
    send_nonsense(_i);
    PUMP(host.closed == 1);
    ck_assert_uint_eq(host.bads, 1);
    ck_assert_int_ne(host.bad_err, OK);
    PUMP(client.failed && client.busy == 0);
    ucxc_request(&good, 1, OP_PING, NULL, 0, 0);
    PUMP(host.messages == 1 || (ucxc_progress(&good), false));
    ucxc_close(&good);
    finish();
}
END_TEST

START_TEST(a_message_without_a_sender_is_counted_and_dropped)
{
    struct wire_frame f = {
        .kind = WIRE_REQUEST, .op = OP_PING, .req = 1, .deadline_us = 5};

    start();
    frame_seal(&f, NULL, 0);
    ucxc_raw(&client, &f, 64, NULL, 0, UCP_AM_SEND_FLAG_EAGER);
    PUMP(metric_get(&host.metrics->frames_bad) == 1);
    ck_assert_uint_eq(host.messages, 0);
    finish();
}
END_TEST

/* _i: rendezvous, eager by bytes, messages while held, skips never served. */
START_TEST(a_peer_that_leaves_too_much_lying_is_cut)
{
    uint8_t *b = bytes_new(0, 1 << 20);

    start();
    if (_i == 2)
        host.t->ops->hold(host.peer, true);
    for (uint32_t i = 0; i < 200 && !host.closed && !client.failed; i++) {
        if (_i == 0)
            ucxc_data(&client, 1, i, b, 1 << 20);
        else if (_i == 1)
            ucxc_raw(&client,
                     &(struct wire_frame){0}, 0, NULL, 0,
                     UCP_AM_SEND_FLAG_EAGER); /* dropped, not counted */
        if (_i == 1)
            ucxc_data(&client, 1, i, b, TP_EAGER_MAX);
        if (_i == 2)
            ucxc_request(&client, i + 1, OP_PING, b, 5000, 0);
        if (_i == 3 && host.peer)
            skip(1, i);
        host_turn();
        ucxc_progress(&client);
    }
    PUMP(host.closed == 1);
    ck_assert_uint_eq(host.messages, 0);
    PUMP(client.failed);
    finish();
}
END_TEST

/* ---- Set-up -------------------------------------------------------------- */

START_TEST(a_port_in_use_is_a_clear_message)
{
    struct transport_ucx_cfg cfg = config();
    struct transport *second;
    struct errmsg msg;

    cfg.port = free_port();
    host_open(&cfg);
    ck_assert_uint_eq(transport_ucx_port(host.t), cfg.port);
    ck_assert_int_eq(transport_ucx_open(&cfg, host.t, &second, &msg), ERR_IO);
    ck_assert_ptr_nonnull(strstr(msg.text, "in use"));
    finish();
}
END_TEST

START_TEST(an_address_that_is_not_ours_is_a_clear_message)
{
    struct transport_ucx_cfg cfg = config();
    struct transport *second;
    struct errmsg msg;

    host_open(&cfg);
    cfg.host = "192.0.2.1";
    ck_assert_int_ne(transport_ucx_open(&cfg, host.t, &second, &msg), OK);
    ck_assert_ptr_nonnull(strstr(msg.text, "192.0.2.1"));
    cfg.host = "no such host";
    ck_assert_int_eq(transport_ucx_open(&cfg, host.t, &second, &msg),
                     ERR_CONFIG);
    finish();
}
END_TEST

START_TEST(transports_that_wedge_are_refused)
{
    static const char *const bad[] = {"",    "all",      "posix", "tcp,sysv",
                                      "shm", "^tcp",     "tcp,cma",
                                      "sm,tcp", "tcp, self"};
    struct transport_ucx_cfg cfg = config();
    struct errmsg msg;

    for (size_t i = 0; i < countof(bad); i++) {
        cfg.tls = bad[i];
        ck_assert_int_eq(transport_ucx_env(&cfg, &msg), ERR_CONFIG);
    }
    cfg.tls = "tcp,rc,ud";
    ck_assert_int_eq(transport_ucx_env(&cfg, &msg), OK);
    ck_assert_str_eq(getenv("UCX_TLS"), "tcp,rc,ud");
    ck_assert_str_eq(getenv("UCX_HANDLE_ERRORS"), "none");
}
END_TEST

/* ---- A client is killed while it stands still ---------------------------- */

enum phase {
    KILL_IDLE,
    KILL_MESSAGES,
    KILL_HELD_EAGER,
    KILL_HELD_RNDV,
    KILL_PULL_WAITING,
    KILL_PULL_RNDV,
    KILL_PULL_IOV,
    KILL_PUSH_PIECES,
    KILL_PUSH_RNDV,
    KILL_SENDS,
    KILL_PHASES,
};

/* The child: does its part of the phase, says so, and stands still. */
_Noreturn static void doomed(enum phase ph, int port_fd, int said_fd)
{
    static uint8_t b[1 << 20];
    uint16_t port;

    MUST(read(port_fd, &port, sizeof(port)) == sizeof(port));
    ucxc_open(&client, port);
    ucxc_request(&client, 1, OP_PING, NULL, 0, 0);
    while (client.busy)
        ucxc_progress(&client);
    for (uint32_t i = 0; i < 16; i++) {
        if (ph == KILL_MESSAGES)
            ucxc_request(&client, i + 2, OP_PING, b, 1000, 0);
        if (ph == KILL_HELD_EAGER)
            ucxc_data(&client, 1, i, b, TP_EAGER_MAX);
        if (ph == KILL_HELD_RNDV || ph == KILL_PULL_RNDV ||
            ph == KILL_PULL_IOV)
            ucxc_data(&client, 1, i, b, 1 << 20);
    }
    for (int i = 0; i < 1000; i++)
        ucxc_progress(&client);
    MUST(write(said_fd, "x", 1) == 1);
    for (;;)
        pause();
}

static void kill_prepare(enum phase ph)
{
    static uint8_t body[100000];

    for (uint32_t i = 0; i < 16; i++) {
        if (ph == KILL_PULL_WAITING)
            pull(1, i, i % 2 ? 1 << 20 : 5000, 1);
        if (ph == KILL_PULL_RNDV || ph == KILL_PULL_IOV)
            pull(1, i, 1 << 20, ph == KILL_PULL_IOV ? 5 : 1);
        if (ph == KILL_PUSH_PIECES)
            push(1, i, 500 << 10, 1 + i % 2);
        if (ph == KILL_PUSH_RNDV)
            push(1, i, 1 << 20, 1);
        if (ph == KILL_SENDS)
            reply(1, body, 100000, NULL, 0);
    }
    for (int i = 0; i < 200; i++)
        host_turn();
}

START_TEST(a_killed_client_ends_all_that_was_its_own)
{
    enum phase ph = (enum phase)_i;
    struct transport_ucx_cfg cfg = config();
    int port[2], said[2];
    uint16_t p;
    pid_t child;
    char c;

    ck_assert(pipe(port) == 0 && pipe(said) == 0);
    child = fork();
    if (child == 0)
        doomed(ph, port[0], said[1]);
    close(said[1]);
    host_open(&cfg);
    p = transport_ucx_port(host.t);
    ck_assert_int_eq(write(port[1], &p, sizeof(p)), sizeof(p));
    TURN(host.messages >= 1);
    ck_assert_int_eq(read(said[0], &c, 1), 1);
    for (int i = 0; i < 200; i++)
        host_turn();
    kill_prepare(ph);
    if (host.xfer_n && ph != KILL_PUSH_PIECES)
        ck_assert_uint_eq(host.xfer_dones, 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    TURN(host.closed == 1);
    for (uint32_t i = 0; i < host.xfer_n; i++) {
        ck_assert_uint_eq(host.xfers[i].dones, 1);
        if (!host.xfers[i].x.is_push)
            untouched(&host.xfers[i]);
    }
    if (host.xfer_n)
        ck_assert_int_eq(host.xfers[host.xfer_n - 1].err, ERR_PEER_GONE);
    /* The next client is served. */
    ucxc_open(&client, p);
    PUMP(host.opened == 2);
    ucxc_request(&client, 1, OP_PING, NULL, 0, 0);
    host.messages = 0;
    PUMP(host.messages == 1);
    finish();
}
END_TEST

/* ---- Pools that are empty, calls that fail ------------------------------- */

/* One PUT and one GET of each kind, with the i-th fallible call failing, for
 * all i: everything still completes once and nothing leaks. */
START_TEST(every_failing_call_is_survived)
{
    static uint8_t body[100];
    uint8_t *b = bytes_new(0, 1 << 20);
    struct transport_ucx_cfg cfg = config();
    struct tp_span inline_data = {b, 1000};
    uint32_t opened, dones;
    bool hit = true;

    host_open(&cfg);
    for (uint32_t nth = 1; hit; nth++) {
        host.xfer_n = host.xfer_dones = host.send_n = host.send_dones = 0;
        opened = host.opened;
        fault_arm(nth);
        ucxc_open(&client, transport_ucx_port(host.t));
        for (uint32_t i = 0; i < 4; i++)
            client.keys[i] =
                (struct ucxc_key){.to = malloc(1 << 20), .room = 1 << 20};
        PUMP(client.failed || host.opened > opened);
        if (host.peer) {
            ucxc_request(&client, 1, OP_PUT, b, 100, 1000);
            ucxc_data(&client, 1, 0, b, 5000);
            ucxc_data(&client, 1, 1, b, 1 << 20);
            pull(1, 0, 5000, 1);
            pull(1, 1, 1 << 20, 2);
            push(1, 2, 1 << 20, 1);
            push(1, 3, 200 << 10, 30);
            reply(1, body, 100, &inline_data, 1);
            dones = 0;
            while (host.peer && dones < 2000) {
                host_turn();
                ucxc_progress(&client);
                if (host.xfer_dones >= 4 && host.send_dones == 1)
                    break;
                /* What waits for bytes that were refused is canceled. */
                if (++dones > 1000) {
                    for (uint32_t i = 0; i < 2; i++)
                        if (host.peer && !host.xfers[i].dones)
                            cancel(&host.xfers[i]);
                }
            }
            if (host.peer)
                host.t->ops->close(host.peer, true);
        }
        hit = fault_hit();
        fault_arm(0);
        PUMP(host.closed == host.opened);
        ck_assert_uint_eq(host.xfer_dones, host.xfer_n);
        ck_assert_uint_eq(host.send_dones, host.send_n);
        for (uint32_t i = 0; i < 4; i++)
            free(client.keys[i].to);
        for (uint32_t i = 0; i < host.xfer_n; i++)
            free(host.xfers[i].e.all);
        host.xfer_n = host.xfer_dones = 0;
        ucxc_close(&client);
    }
    finish();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("transport_ucx");
    TCase *c = tcase_create("ucx");

    tcase_set_timeout(c, 60);
    tcase_add_test(c, a_request_and_its_reply_arrive_whole);
    tcase_add_test(c, inline_data_travels_with_the_message_both_ways);
    tcase_add_test(c, a_held_peer_is_not_heard_until_it_is_let_go);
    tcase_add_test(c, a_reply_waits_for_room_and_is_not_lost);
    tcase_add_test(c, the_fd_wakes_and_arm_refuses_to_sleep_on_work);
    tcase_add_loop_test(c, put_bytes_arrive_in_the_spans, 0,
                        6 * countof(sizes));
    tcase_add_test(c, a_batch_of_mixed_sizes_is_matched_by_index);
    tcase_add_test(c, data_longer_or_shorter_than_the_pull_is_refused);
    tcase_add_loop_test(c, skipped_bytes_are_dropped_and_the_sender_completes,
                        0, 4);
    tcase_add_loop_test(
        c, a_pull_canceled_before_its_data_ends_and_drops_the_data, 0, 2);
    tcase_add_loop_test(c, a_pull_canceled_after_its_data_ends_once, 0, 2);
    tcase_add_loop_test(
        c, a_rendezvous_canceled_in_flight_costs_the_connection, 0, 2);
    tcase_add_loop_test(c, get_bytes_arrive_at_the_client, 0,
                        3 * countof(sizes));
    tcase_add_test(c, many_pushes_share_the_window_and_all_arrive);
    tcase_add_test(c, a_push_of_nothing_completes);
    tcase_add_test(c, a_push_canceled_before_it_began_costs_nothing);
    tcase_add_loop_test(c, a_push_canceled_in_flight_costs_the_connection, 0,
                        2);
    tcase_add_test(c, an_orderly_close_lets_what_was_begun_arrive);
    tcase_add_loop_test(c, a_close_at_once_ends_everything, 0, 3);
    tcase_add_test(c, closing_the_transport_closes_its_peers);
    tcase_add_test(c, calls_on_a_closing_peer_end_with_peer_gone);
    tcase_add_test(c, a_refused_client_is_rejected_and_the_next_is_served);
    tcase_add_test(c, more_clients_than_peers_max_are_rejected);
    tcase_add_loop_test(c, nonsense_closes_its_connection_and_no_other, 0, 15);
    tcase_add_test(c, a_message_without_a_sender_is_counted_and_dropped);
    tcase_add_loop_test(c, a_peer_that_leaves_too_much_lying_is_cut, 0, 4);
    tcase_add_test(c, a_port_in_use_is_a_clear_message);
    tcase_add_test(c, an_address_that_is_not_ours_is_a_clear_message);
    tcase_add_test(c, transports_that_wedge_are_refused);
    tcase_add_loop_test(c, a_killed_client_ends_all_that_was_its_own, 0,
                        KILL_PHASES);
    tcase_add_test(c, every_failing_call_is_survived);
    suite_add_tcase(s, c);
    return s;
}
