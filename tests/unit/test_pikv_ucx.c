/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client rpc base proto */
/* libpikv over UCX (tcp on 127.0.0.1) against a small server on the daemon's
 * own transport, in a process of its own that can be stopped and killed. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/pikv.h"
#include "pikv.pb-c.h"
#include "rpc/transport_ucx.h"

/* ---- the server, in a child ---- */

struct block {
    struct block *next;
    uint32_t key_len;
    uint8_t key[64];
    struct span span;
};

/* A request under way: what it waits for and its reply. */
struct work {
    struct tp_send send;
    struct tp_peer *peer;
    uint32_t pending, n;
    struct wire_batch *head;
    struct wire_result *results;
    struct span *spans;
    uint8_t env[1024];
};

static struct block *blocks;
static uint16_t port;

static const struct frame_limits limits = {
    .message_bytes = 256 << 10,
    .batch_keys = 1024,
    .inline_bytes = WIRE_EAGER_MAX,
    .block_bytes = 1 << 30,
};

static struct block *block_find(const struct key_ref *k)
{
    struct block *b = blocks;

    while (b && (b->key_len != k->rec.key_len ||
                 memcmp(b->key, k->key, b->key_len) != 0))
        b = b->next;
    return b;
}

static void work_sent(struct tp_send *s, enum err e)
{
    struct work *w = container_of(s, struct work, send);

    (void)e;
    free(w->head);
    free(w->spans);
    free(w);
}

static void work_reply(struct work *w)
{
    w->send.body = w->head ? (const void *)w->head : w->env;
    w->send.fd = -1;
    w->send.done = work_sent;
    frame_seal(&w->send.frame, w->send.body,
               (size_t)frame_body_len(&w->send.frame));
    w->peer->t->ops->send(w->peer, &w->send);
}

/* The bytes of one key of it. */
struct moving {
    struct tp_xfer x;
    struct work *w;
    uint32_t i;
};

static void moved(struct tp_xfer *x, enum err e)
{
    struct moving *m = container_of(x, struct moving, x);
    struct work *w = m->w;

    w->results[m->i].status = e;
    free(m);
    if (--w->pending == 0)
        work_reply(w);
}

static void work_move(struct work *w, uint32_t i, struct block *b, bool push,
                      uint64_t len)
{
    struct moving *m = calloc(1, sizeof(*m));

    w->spans[i] = (struct span){b->span.p, len};
    m->w = w;
    m->i = i;
    m->x = (struct tp_xfer){.peer = w->peer,
                            .req = w->send.frame.req,
                            .idx = i,
                            .spans = &w->spans[i],
                            .span_n = 1,
                            .is_push = push,
                            .len = len,
                            .done = moved};
    w->pending++;
    if (push)
        w->peer->t->ops->push(w->peer, &m->x);
    else
        w->peer->t->ops->pull(w->peer, &m->x);
}

static void do_put(struct work *w, const struct message *m, struct batch *b)
{
    const uint8_t *data = m->data;
    struct key_ref k;

    for (uint32_t i = 0; batch_next(b, &limits, &k) == OK; i++) {
        struct block *block;

        if (block_find(&k)) {
            w->results[i].status = ERR_EXISTS;
            if (!data)
                w->peer->t->ops->skip(w->peer, m->frame.req, i);
            continue;
        }
        block = calloc(1, sizeof(*block));
        block->key_len = k.rec.key_len;
        memcpy(block->key, k.key, k.rec.key_len);
        block->span = (struct span){malloc(k.rec.len), k.rec.len};
        block->next = blocks;
        blocks = block;
        if (data)
            memcpy(block->span.p, data, k.rec.len);
        else
            work_move(w, i, block, false, k.rec.len);
        data = data ? data + k.rec.len : NULL;
    }
}

static void do_get(struct work *w, struct batch b)
{
    struct batch again = b;
    uint64_t total = 0;
    struct key_ref k;

    while (batch_next(&again, &limits, &k) == OK) {
        struct block *block = block_find(&k);

        total += block ? min_u64(block->span.len, k.rec.len) : 0;
    }
    for (uint32_t i = 0; batch_next(&b, &limits, &k) == OK; i++) {
        struct block *block = block_find(&k);
        uint64_t len = block ? min_u64(block->span.len, k.rec.len) : 0;

        w->results[i].status = block ? OK : ERR_MISS;
        w->results[i].len = block ? block->span.len : 0;
        w->results[i].moved = len;
        if (len && total > WIRE_EAGER_MAX) {
            work_move(w, i, block, true, len);
        } else if (len) {
            w->spans[w->send.data_n++] = (struct span){block->span.p, len};
            w->send.data = w->spans;
            w->send.frame.data_len += len;
        }
    }
}

static void do_batch(struct work *w, const struct message *m)
{
    struct batch b;

    if (batch_read(m, &limits, &b))
        abort();
    w->n = b.left;
    w->head = calloc(1 + w->n, WIRE_RECORD);
    w->results = (struct wire_result *)(void *)(w->head + 1);
    w->spans = calloc(w->n, sizeof(*w->spans));
    *w->head = b.head;
    w->send.frame.record_n = 1 + w->n;
    w->pending = 1;
    if (m->frame.op == OP_PUT)
        do_put(w, m, &b);
    else if (m->frame.op == OP_GET)
        do_get(w, b);
    if (--w->pending == 0)
        work_reply(w);
}

static void do_hello(struct work *w)
{
    Pikv__HelloReply m;
    Pikv__Lane lane, *list[1] = {&lane};
    char addr[64], none[] = "", name[] = "ucx test";

    pikv__hello_reply__init(&m);
    pikv__lane__init(&lane);
    snprintf(addr, sizeof(addr), "ucx:0.0.0.0:%u", port);
    lane.ucx = addr;
    lane.shm = none;
    m.server = name;
    m.lanes = list;
    m.n_lanes = 1;
    m.credit_ops = 64;
    m.boot = 5;
    m.message_bytes_max = 256 << 10;
    m.batch_keys_max = 1024;
    w->send.frame.env_len = (uint32_t)pikv__hello_reply__pack(&m, w->env);
}

static void do_open(struct work *w)
{
    Pikv__OpenReply m;

    pikv__open_reply__init(&m);
    m.id = 3;
    m.generation = 1;
    w->send.frame.env_len = (uint32_t)pikv__open_reply__pack(&m, w->env);
}

static void on_message(void *lane, struct tp_peer *p, const struct message *m,
                       int fd)
{
    struct work *w = calloc(1, sizeof(*w));

    (void)lane;
    (void)fd;
    w->peer = p;
    w->send.frame = (struct wire_frame){
        .kind = WIRE_REPLY, .op = m->frame.op, .req = m->frame.req};
    if (m->frame.record_n) {
        do_batch(w, m);
        return;
    }
    if (m->frame.op == OP_HELLO)
        do_hello(w);
    else if (m->frame.op == OP_OPEN)
        do_open(w);
    work_reply(w);
}

static enum err on_opened(void *lane, struct tp_peer *p)
{
    p->session = lane;
    return OK;
}

static void on_bad(void *lane, struct tp_peer *p, const struct message *m,
                   enum err e)
{
    (void)lane;
    (void)p;
    (void)m;
    (void)e;
    abort(); /* libpikv sends nothing that the transport refuses */
}

static void on_closed(void *lane, struct tp_peer *p)
{
    (void)lane;
    (void)p;
}

static const struct tp_events events = {on_opened, on_message, on_bad,
                                        on_closed};

static void server_main(int told)
{
    static struct env env;
    static struct metrics metrics;
    static struct trace trace;
    struct transport from = {.events = &events,
                             .lane = &env,
                             .env = &env,
                             .metrics = &metrics,
                             .trace = &trace,
                             .limits = &limits};
    struct transport_ucx_cfg cfg = {.host = "127.0.0.1",
                                    .tls = "tcp",
                                    .devices = "lo",
                                    .peers_max = 16,
                                    .sends_max = 256,
                                    .xfers_max = 512,
                                    .held_max = 512,
                                    .held_bytes = 64 << 20,
                                    .held_all = 512,
                                    .inline_max = WIRE_EAGER_MAX,
                                    .slice_bytes = 1 << 20};
    struct transport *t;
    struct errmsg msg;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (transport_ucx_env(&cfg, &msg) ||
        transport_ucx_open(&cfg, &from, &t, &msg))
        abort();
    port = transport_ucx_port(t);
    if (write(told, &port, sizeof(port)) != sizeof(port))
        abort();
    for (;;)
        if (!t->ops->progress(t))
            usleep(20);
}

/* ---- the tests ---- */

static struct pikv *kv;
static uint32_t ns;
static pid_t server;

static void begin(void)
{
    struct pikv_options o = {.connect_ms = 20000};
    struct pikv_namespace d = {.name = "t"};
    char addr[64];
    int told[2];

    ck_assert_int_eq(pipe(told), 0);
    server = fork();
    if (server == 0)
        server_main(told[1]);
    ck_assert_int_eq(read(told[0], &port, sizeof(port)), sizeof(port));
    close(told[0]);
    close(told[1]);
    snprintf(addr, sizeof(addr), "ucx:127.0.0.1:%u", port);
    o.address = addr;
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
    ck_assert_int_eq(
        pikv_namespace_open(kv, &d, &ns,
                            &(struct pikv_call){.deadline_us = 20000000}),
        PIKV_OK);
}

static void end(void)
{
    pikv_close(kv);
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
}

static const struct pikv_call patient = {.deadline_us = 20000000};

static uint8_t *bytes_new(size_t n, uint32_t seed)
{
    uint8_t *p = malloc(n + 1);

    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 13 + seed + (i >> 9));
    return p;
}

static int put_run(const char *key, const uint8_t *p, size_t n)
{
    struct pikv_put item = {.key.key = {key, strlen(key)}, .data = {p, n}};
    struct pikv_result r;
    int e = pikv_put_sync(kv, ns, &item, 1, &patient, &r);

    return e ? e : r.status;
}

static int get_run(const char *key, uint8_t *p, size_t n,
                   const struct pikv_call *call)
{
    struct pikv_get item = {.key.key = {key, strlen(key)}, .data = {p, n}};
    struct pikv_result r;
    int e = pikv_get_sync(kv, ns, &item, 1, call, &r);

    return e ? e : r.status;
}

static const size_t sizes[] = {
    1,      4096,      WIRE_EAGER_MAX, WIRE_EAGER_MAX + 1,
    200000, 512 << 10, 3 << 20,        (3 << 20) + 7,
};

START_TEST(blocks_of_every_size_go_there_and_back)
{
    size_t n = sizes[_i];
    uint8_t *in = bytes_new(n, 1), *out = bytes_new(n, 2);

    begin();
    ck_assert_int_eq(put_run("k", in, n), PIKV_OK);
    ck_assert_int_eq(put_run("k", in, n), PIKV_EXISTS);
    ck_assert_int_eq(get_run("k", out, n, &patient), PIKV_OK);
    ck_assert_int_eq(memcmp(in, out, n), 0);
    ck_assert_int_eq(get_run("none", out, n, &patient), PIKV_MISS);
    end();
    free(in);
    free(out);
}
END_TEST

START_TEST(lists_are_gathered_and_scattered)
{
    size_t n = sizes[_i], a = n / 3, b = n / 2;
    uint8_t *in = bytes_new(n, 1), *out = bytes_new(n, 2);
    struct pikv_bytes from[2] = {{in, a}, {in + a, n - a}};
    struct pikv_buf to[3] = {{out, b}, {out + b, 0}, {out + b, n - b}};
    struct pikv_put p = {.key.key = {"k", 1}, .iov = from, .iov_n = 2};
    struct pikv_get g = {.key.key = {"k", 1}, .iov = to, .iov_n = 3};
    struct pikv_result r;

    begin();
    ck_assert_int_eq(pikv_put_sync(kv, ns, &p, 1, &patient, &r), PIKV_OK);
    ck_assert_int_eq(r.status, PIKV_OK);
    ck_assert_int_eq(pikv_get_sync(kv, ns, &g, 1, &patient, &r), PIKV_OK);
    ck_assert_int_eq(memcmp(in, out, n), 0);
    end();
    free(in);
    free(out);
}
END_TEST

START_TEST(a_batch_of_mixed_sizes_keeps_its_order)
{
    enum { N = 24, LEN = 300000 };
    struct pikv_put puts[N] = {0};
    struct pikv_get gets[N] = {0};
    struct pikv_result r[N];
    uint8_t *in = bytes_new(LEN + N, 1), *out = bytes_new((size_t)N * LEN, 2);
    char names[N][8];

    begin();
    for (uint32_t i = 0; i < N; i++) {
        size_t n = i % 3 == 0 ? 100 : i % 3 == 1 ? 70000 : LEN;

        snprintf(names[i], sizeof(names[i]), "k%u", i);
        puts[i].key.key = gets[i].key.key =
            (struct pikv_bytes){names[i], strlen(names[i])};
        puts[i].data = (struct pikv_bytes){in + i, n};
        gets[i].data = (struct pikv_buf){out + (size_t)i * LEN, n};
    }
    ck_assert_int_eq(pikv_put_sync(kv, ns, puts, N, &patient, r), PIKV_OK);
    ck_assert_int_eq(pikv_get_sync(kv, ns, gets, N, &patient, r), PIKV_OK);
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_int_eq(r[i].status, PIKV_OK);
        ck_assert_int_eq(memcmp(gets[i].data.p, in + i, gets[i].data.len), 0);
    }
    end();
    free(in);
    free(out);
}
END_TEST

START_TEST(a_stopped_server_costs_one_deadline_and_writes_nothing_later)
{
    enum { LEN = 8 << 20 };
    struct pikv_get g = {.key.key = {"k", 1}};
    struct pikv_call call = {.deadline_us = 60000};
    uint8_t *in = bytes_new(LEN, 1), *out = bytes_new(LEN, 2);
    uint8_t *copy = malloc(LEN);
    struct pikv_result r;
    uint64_t id;
    int e;

    begin();
    ck_assert_int_eq(put_run("k", in, LEN), PIKV_OK);
    g.data = (struct pikv_buf){out, LEN};
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(pikv_get(kv, ns, &g, 1, &call, &r, &id), PIKV_OK);
        usleep((useconds_t)i * 200);
        kill(server, SIGSTOP);
        e = pikv_wait(kv, id, NULL);
        ck_assert(e == PIKV_OK || e == PIKV_TIMEOUT);
        memcpy(copy, out, LEN);
        kill(server, SIGCONT);
        do /* the connection comes back, and with it what was late */
            e = put_run("other", in, 100);
        while (e == PIKV_NO_SERVER || e == PIKV_RETRY);
        ck_assert_int_eq(memcmp(copy, out, LEN), 0);
    }
    ck_assert_int_eq(get_run("k", out, LEN, &patient), PIKV_OK);
    ck_assert_int_eq(memcmp(in, out, LEN), 0);
    end();
    free(in);
    free(out);
    free(copy);
}
END_TEST

START_TEST(a_killed_server_ends_all_calls_soon)
{
    enum { LEN = 4 << 20, N = 6 };
    uint8_t *in = bytes_new(LEN, 1), *out = malloc((size_t)N * LEN);
    struct pikv_get g[N] = {0};
    struct pikv_result r[N];
    uint64_t id[N];

    begin();
    ck_assert_int_eq(put_run("k", in, LEN), PIKV_OK);
    for (uint32_t i = 0; i < N; i++) {
        g[i].key.key = (struct pikv_bytes){"k", 1};
        g[i].data = (struct pikv_buf){out + (size_t)i * LEN, LEN};
        ck_assert_int_eq(pikv_get(kv, ns, &g[i], 1, &patient, &r[i], &id[i]),
                         PIKV_OK);
    }
    kill(server, SIGKILL);
    for (uint32_t i = 0; i < N; i++) {
        int e = pikv_wait(kv, id[i], NULL);

        ck_assert(e == PIKV_OK || e == PIKV_RETRY);
    }
    while (get_run("k", out, LEN, &patient) != PIKV_NO_SERVER)
        ;
    end();
    free(in);
    free(out);
}
END_TEST

START_TEST(close_with_a_rendezvous_in_flight_ends)
{
    enum { LEN = 8 << 20 };
    struct pikv_get g = {.key.key = {"k", 1}};
    uint8_t *in = bytes_new(LEN, 1), *out = malloc(LEN);
    struct pikv_result r;
    uint64_t id;

    begin();
    ck_assert_int_eq(put_run("k", in, LEN), PIKV_OK);
    g.data = (struct pikv_buf){out, LEN};
    ck_assert_int_eq(pikv_get(kv, ns, &g, 1, &patient, &r, &id), PIKV_OK);
    usleep((useconds_t)_i * 300);
    kill(server, SIGSTOP);
    pikv_close(kv);
    memset(out, 0, LEN); /* ours again */
    free(out);
    kv = NULL;
    end();
    free(in);
}
END_TEST

Suite *suite(void);

Suite *suite(void)
{
    Suite *s = suite_create("pikv_ucx");
    TCase *t = tcase_create("ucx");
    int n = (int)countof(sizes);

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, blocks_of_every_size_go_there_and_back, 0, n);
    tcase_add_loop_test(t, lists_are_gathered_and_scattered, 0, n);
    tcase_add_test(t, a_batch_of_mixed_sizes_keeps_its_order);
    tcase_add_test(
        t, a_stopped_server_costs_one_deadline_and_writes_nothing_later);
    tcase_add_test(t, a_killed_server_ends_all_calls_soon);
    tcase_add_loop_test(t, close_with_a_rendezvous_in_flight_ends, 0, 6);
    suite_add_tcase(s, t);
    return s;
}
