/* SPDX-License-Identifier: Apache-2.0
 *
 * See ucx_host.h. */
#include "tests/lib/ucx_host.h"

#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/hash.h"

struct host host;
struct ucxc client;

uint8_t ucxh_byte_at(uint64_t seed, uint64_t i)
{
    return (uint8_t)((i + seed * 131) * 2654435761u >> 13);
}

/* Memory that lives as long as the test's process. */
static uint8_t *kept_new(uint64_t n)
{
    static uint8_t *kept[4096];
    static uint32_t kept_n;

    ck_assert_uint_lt(kept_n, countof(kept));
    return kept[kept_n++] = malloc(n);
}

uint8_t *ucxh_bytes_new(uint64_t seed, uint64_t n)
{
    uint8_t *p = kept_new(n + 1);

    for (uint64_t i = 0; i < n; i++)
        p[i] = ucxh_byte_at(seed, i);
    return p;
}

struct extent ucxh_extent_new(uint64_t len)
{
    struct extent e = {.all = kept_new(len + 2 * CANARY), .len = len};

    e.p = e.all + CANARY;
    memset(e.all, 0xc5, len + 2 * CANARY);
    return e;
}

static bool blank(const uint8_t *p, uint64_t n)
{
    return n == 0 || (p[0] == 0xc5 && memcmp(p, p + 1, n - 1) == 0);
}

void ucxh_extent_check(const struct extent *e)
{
    ck_assert(blank(e->all, CANARY));
    ck_assert(blank(e->p + e->len, CANARY));
}

static void extents_check(void)
{
    for (uint32_t i = 0; i < host.xfer_n; i++) {
        if (host.xfers[i].e.all)
            ucxh_extent_check(&host.xfers[i].e);
    }
}

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

uint16_t ucxh_free_port(void)
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

struct transport_ucx_cfg ucxh_config(void)
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
        .inline_max = WIRE_EAGER_MAX,
        .slice_bytes = 1 << 20,
    };
}

void ucxh_open(const struct transport_ucx_cfg *cfg)
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
        .inline_bytes = WIRE_EAGER_MAX,
        .block_bytes = 1 << 30,
    };
    ck_assert_int_eq(transport_ucx_env(cfg, &msg), OK);
    ck_assert_msg(transport_ucx_open(cfg, &from, &host.t, &msg) == OK, "%s",
                  msg.text);
}

bool ucxh_turn(void)
{
    return host.t->ops->progress(host.t);
}

void ucxh_start(void)
{
    struct transport_ucx_cfg cfg = ucxh_config();

    ucxh_open(&cfg);
    ucxc_open(&client, transport_ucx_port(host.t));
    PUMP(host.opened == 1);
}

/* All that the client sent before has arrived: messages keep their order. */
void ucxh_settle(void)
{
    uint32_t n = host.messages;

    ucxc_request(&client, 1000 + n, OP_PING, NULL, 0, 0);
    PUMP(host.messages == n + 1);
}

void ucxh_finish(void)
{
    if (client.worker)
        ucxc_close(&client);
    transport_ucx_close(host.t);
    extents_check();
    ck_assert_uint_eq(host.opened, host.closed);
    ck_assert_uint_eq(host.xfer_dones, host.xfer_n);
    ck_assert_uint_eq(host.send_dones, host.send_n);
}
static void on_xfer(struct tp_xfer *x, enum err e)
{
    struct xfer *t = container_of(x, struct xfer, x);

    ck_assert(!host.inside);
    t->dones++;
    t->err = e;
    host.xfer_dones++;
    ck_assert_uint_eq(t->dones, 1);
    ucxh_extent_check(&t->e);
}

/* A transfer over an extent cut into span_n spans; the last takes the rest. */
static struct xfer *xfer_new(uint64_t req, uint32_t idx, uint64_t len,
                             uint32_t span_n)
{
    struct xfer *t = &host.xfers[host.xfer_n++];
    uint64_t cut = span_n > 1 ? len / span_n | 1 : len, off = 0;

    ck_assert_uint_le(host.xfer_n, XFERS);
    *t = (struct xfer){.e = ucxh_extent_new(len)};
    for (uint32_t i = 0; i < span_n; i++) {
        uint64_t n = i + 1 == span_n ? len - off : min_u64(cut, len - off);

        t->spans[i] = (struct span){t->e.p + off, n};
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

struct xfer *ucxh_pull(uint64_t req, uint32_t idx, uint64_t len,
                       uint32_t span_n)
{
    struct xfer *t = xfer_new(req, idx, len, span_n);

    host.inside = true;
    host.t->ops->pull(host.peer, &t->x);
    host.inside = false;
    return t;
}

struct xfer *ucxh_push(uint64_t req, uint32_t idx, uint64_t len,
                       uint32_t span_n)
{
    struct xfer *t = xfer_new(req, idx, len, span_n);

    for (uint64_t i = 0; i < len; i++)
        t->e.p[i] = ucxh_byte_at(idx, i);
    t->x.is_push = true;
    host.inside = true;
    host.t->ops->push(host.peer, &t->x);
    host.inside = false;
    return t;
}

void ucxh_cancel(struct xfer *t)
{
    host.inside = true;
    host.t->ops->cancel(&t->x);
    host.inside = false;
}

void ucxh_skip(uint64_t req, uint32_t idx)
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

struct send *ucxh_reply(uint64_t req, const void *body, uint32_t env_len,
                        const struct span *data, uint32_t data_n)
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

void ucxh_pulled_well(const struct xfer *t, const uint8_t *want)
{
    ck_assert_int_eq(t->err, OK);
    ck_assert_uint_eq(t->x.moved, t->x.len);
    ck_assert_int_eq(memcmp(t->e.p, want, t->x.len), 0);
    ck_assert_uint_eq(t->x.crc, crc32c(0, want, t->x.len));
}

/* Nothing of the extent was written. */
void ucxh_untouched(const struct xfer *t)
{
    ck_assert(blank(t->e.p, t->e.len));
}
