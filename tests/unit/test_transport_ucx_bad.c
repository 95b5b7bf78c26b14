/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: rpc base proto */
/*
 * What goes wrong around the UCX transport: clients that send nonsense, leave
 * too much lying or are killed, calls that fail. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "tests/lib/ucx_host.h"

Suite *suite(void);

/* ---- Nonsense ------------------------------------------------------------ */

enum {
    EAGER = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER,
    RNDV = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_RNDV,
    NONSENSE_MESSAGES = 9,
    NONSENSE_DATA = 6,
};

/* A good request of 10 bytes, spoilt in the way of row i. */
static void nonsense_message(int i)
{
    static const struct {
        uint32_t magic, crc; /* added */
        size_t header, body;
        unsigned mode;
    } rows[NONSENSE_MESSAGES] = {
        {0, 0, 0, 10, EAGER},   /* no header */
        {0, 0, 63, 10, EAGER},  /* too short */
        {0, 0, 128, 10, EAGER}, /* too long */
        {1, 0, 64, 10, EAGER},  /* wrong magic */
        {0, 1, 64, 10, EAGER},  /* wrong crc */
        {0, 0, 64, 9, EAGER},   /* shorter than it says */
        {0, 0, 64, 11, EAGER},  /* longer than it says */
        {0, 0, 64, 10, RNDV},   /* by rendezvous */
        {0, 0, 64, 10, EAGER},  /* a reply */
    };
    static uint8_t body[16];
    struct {
        struct wire_frame f;
        uint8_t more[64];
    } h = {.f = {.kind = i == 8 ? WIRE_REPLY : WIRE_REQUEST,
                 .op = OP_PING,
                 .req = 1,
                 .env_len = 10,
                 .deadline_us = 5}};

    frame_seal(&h.f, body, 10);
    h.f.magic += rows[i].magic;
    h.f.crc += rows[i].crc;
    ucxc_raw(&client, &h, rows[i].header, body, rows[i].body, rows[i].mode);
}

static void nonsense_data(int i)
{
    static const struct {
        uint64_t off;
        uint32_t idx, crc; /* crc: added */
        size_t bytes;      /* 1,000 are announced */
        unsigned mode, times;
    } rows[NONSENSE_DATA] = {
        {0, 0, 0, 1001, EAGER, 1},      /* longer than it says */
        {0, 0, 0, 100000, RNDV, 1},     /* the same by rendezvous */
        {1, 0, 0, 1000, EAGER, 1},      /* with an offset */
        {0, 0, 1, 1000, EAGER, 1},      /* with a damaged header */
        {0, 0, 0, 1000, EAGER, 2},      /* the same bytes twice */
        {0, 1 << 20, 0, 1000, RNDV, 1}, /* index beyond any batch */
    };
    static uint8_t b[100000];
    struct wire_frame f = {.kind = WIRE_DATA,
                           .op = OP_PUT,
                           .req = 1,
                           .data_len = 1000,
                           .data_off = rows[i].off,
                           .data_idx = rows[i].idx};

    frame_seal(&f, NULL, 0);
    f.crc += rows[i].crc;
    for (unsigned k = 0; k < rows[i].times; k++)
        ucxc_raw(&client, &f, sizeof(f), b, rows[i].bytes, rows[i].mode);
}

START_TEST(nonsense_closes_its_connection_and_no_other)
{
    static struct ucxc good;

    ucxh_start();
    ucxc_open(&good, transport_ucx_port(host.t));
    PUMP(host.opened == 2 || (ucxc_progress(&good), false));
    if (_i < NONSENSE_MESSAGES)
        nonsense_message(_i);
    else
        nonsense_data(_i - NONSENSE_MESSAGES);
    PUMP(host.closed == 1);
    ck_assert_uint_eq(host.bads, 1);
    ck_assert_int_ne(host.bad_err, OK);
    PUMP(client.failed && client.busy == 0);
    ucxc_request(&good, 1, OP_PING, NULL, 0, 0);
    PUMP(host.messages == 1 || (ucxc_progress(&good), false));
    ucxc_close(&good);
    ucxh_finish();
}
END_TEST

START_TEST(a_message_without_a_sender_is_counted_and_dropped)
{
    struct wire_frame f = {
        .kind = WIRE_REQUEST, .op = OP_PING, .req = 1, .deadline_us = 5};

    ucxh_start();
    frame_seal(&f, NULL, 0);
    ucxc_raw(&client, &f, 64, NULL, 0, UCP_AM_SEND_FLAG_EAGER);
    PUMP(metric_get(&host.metrics->frames_bad) == 1);
    ck_assert_uint_eq(host.messages, 0);
    ucxh_finish();
}
END_TEST

/* _i: rendezvous, eager by bytes, skips never served. */
START_TEST(a_peer_that_leaves_too_much_lying_is_cut)
{
    uint8_t *b = ucxh_bytes_new(0, 1 << 20);

    ucxh_start();
    for (uint32_t i = 0; i < 200 && !host.closed && !client.failed; i++) {
        if (_i == 0)
            ucxc_data(&client, 1, i, b, 1 << 20);
        else if (_i == 1)
            ucxc_raw(&client, &(struct wire_frame){0}, 0, NULL, 0,
                     UCP_AM_SEND_FLAG_EAGER); /* dropped, not counted */
        if (_i == 1)
            ucxc_data(&client, 1, i, b, WIRE_EAGER_MAX);
        if (_i == 2 && host.peer)
            ucxh_skip(1, i);
        ucxh_turn();
        ucxc_progress(&client);
    }
    PUMP(host.closed == 1);
    ck_assert_uint_eq(host.messages, 0);
    PUMP(client.failed);
    ucxh_finish();
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
    KILL_PUSH_UNREAD, /* pieces wait for the socket, requests in it */
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
            ucxc_data(&client, 1, i, b, WIRE_EAGER_MAX);
        if (ph == KILL_HELD_RNDV || ph == KILL_PULL_RNDV || ph == KILL_PULL_IOV)
            ucxc_data(&client, 1, i, b, 1 << 20);
    }
    for (int i = 0; i < 1000; i++)
        ucxc_progress(&client);
    MUST(write(said_fd, "x", 1) == 1);
    MUST(read(port_fd, &port, 1) == 1);
    for (uint32_t i = 0; i < 8 && ph == KILL_PUSH_UNREAD; i++)
        ucxc_request(&client, i + 2, OP_PING, b, 1000, 0);
    MUST(write(said_fd, "x", 1) == 1);
    for (;;)
        pause();
}

static void kill_prepare(enum phase ph)
{
    static uint8_t body[100000];

    for (uint32_t i = 0; i < 16; i++) {
        if (ph == KILL_PULL_WAITING)
            ucxh_pull(1, i, i % 2 ? 1 << 20 : 5000, 1);
        if (ph == KILL_PULL_RNDV || ph == KILL_PULL_IOV)
            ucxh_pull(1, i, 1 << 20, ph == KILL_PULL_IOV ? 5 : 1);
        if (ph == KILL_PUSH_PIECES || ph == KILL_PUSH_UNREAD)
            ucxh_push(1, i, 500 << 10, 1 + i % 2);
        if (ph == KILL_PUSH_RNDV)
            ucxh_push(1, i, 1 << 20, 1);
        if (ph == KILL_SENDS)
            ucxh_reply(1, body, 100000, NULL, 0);
    }
    for (int i = 0; i < 200; i++)
        ucxh_turn();
}

START_TEST(a_killed_client_ends_all_that_was_its_own)
{
    enum phase ph = (enum phase)_i;
    struct transport_ucx_cfg cfg = ucxh_config();
    int port[2], said[2];
    uint16_t p;
    pid_t child;
    char c;

    ck_assert(pipe(port) == 0 && pipe(said) == 0);
    child = fork();
    if (child == 0)
        doomed(ph, port[0], said[1]);
    close(said[1]);
    ucxh_open(&cfg);
    p = transport_ucx_port(host.t);
    ck_assert_int_eq(write(port[1], &p, sizeof(p)), sizeof(p));
    TURN(host.messages >= 1);
    ck_assert_int_eq(read(said[0], &c, 1), 1);
    for (int i = 0; i < 200; i++)
        ucxh_turn();
    kill_prepare(ph);
    if (host.xfer_n && ph != KILL_PUSH_PIECES && ph != KILL_PUSH_UNREAD)
        ck_assert_uint_eq(host.xfer_dones, 0);
    ck_assert_int_eq(write(port[1], "x", 1), 1);
    ck_assert_int_eq(read(said[0], &c, 1), 1);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    TURN(host.closed == 1);
    for (uint32_t i = 0; i < host.xfer_n; i++) {
        ck_assert_uint_eq(host.xfers[i].dones, 1);
        if (!host.xfers[i].x.is_push)
            ucxh_untouched(&host.xfers[i]);
    }
    if (host.xfer_n)
        ck_assert_int_eq(host.xfers[host.xfer_n - 1].err, ERR_PEER_GONE);
    /* The next client is served. */
    ucxc_open(&client, p);
    PUMP(host.opened == 2);
    ucxc_request(&client, 1, OP_PING, NULL, 0, 0);
    host.messages = 0;
    PUMP(host.messages == 1);
    ucxh_finish();
}
END_TEST

/* ---- Pools that are empty, calls that fail ------------------------------- */

/* Everything once: small and large, both ways, one span and many. */
static void do_some_of_all(const uint8_t *b)
{
    static uint8_t body[100];
    static struct span inline_data;

    inline_data = (struct span){(uint8_t *)(uintptr_t)b, 1000};
    ucxc_request(&client, 1, OP_PUT, b, 100, 1000);
    ucxc_data(&client, 1, 0, b, 5000);
    ucxc_data(&client, 1, 1, b, 1 << 20);
    ucxh_pull(1, 0, 5000, 1);
    ucxh_pull(1, 1, 1 << 20, 2);
    ucxh_push(1, 2, 1 << 20, 1);
    ucxh_push(1, 3, 200 << 10, 30);
    ucxh_reply(1, body, 100, &inline_data, 1);
    PUMP(!host.peer ||
         (host.xfer_dones == 4 && host.send_dones == 1 && host.messages == 1));
    if (host.peer)
        host.t->ops->close(host.peer, true);
}

/* The i-th fallible call fails, for all i: everything still completes once,
 * nothing leaks, and the next client is served. */
START_TEST(every_failing_call_is_survived)
{
    static uint8_t to[1 << 20];
    uint8_t *b = ucxh_bytes_new(0, 1 << 20);
    struct transport_ucx_cfg cfg = ucxh_config();
    uint32_t opened;
    bool hit = true;

    ucxh_open(&cfg);
    for (uint32_t nth = 1; hit; nth++) {
        opened = host.opened;
        host.messages = 0;
        fault_arm(nth);
        ucxc_open(&client, transport_ucx_port(host.t));
        for (uint32_t i = 0; i < 4; i++)
            client.keys[i] = (struct ucxc_key){.to = to, .room = 1 << 20};
        PUMP(client.failed || host.opened > opened);
        if (host.peer)
            do_some_of_all(b);
        hit = fault_hit();
        fault_arm(0);
        PUMP(host.closed == host.opened);
        ck_assert_uint_eq(host.xfer_dones, host.xfer_n);
        ck_assert_uint_eq(host.send_dones, host.send_n);
        ucxc_close(&client);
        host.xfer_n = host.xfer_dones = host.send_n = host.send_dones = 0;
    }
    ucxh_finish();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("transport_ucx_bad");
    TCase *c = tcase_create("ucx");

    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, nonsense_closes_its_connection_and_no_other, 0,
                        NONSENSE_MESSAGES + NONSENSE_DATA);
    tcase_add_test(c, a_message_without_a_sender_is_counted_and_dropped);
    tcase_add_loop_test(c, a_peer_that_leaves_too_much_lying_is_cut, 0, 3);
    tcase_add_loop_test(c, a_killed_client_ends_all_that_was_its_own, 0,
                        KILL_PHASES);
    tcase_add_test(c, every_failing_call_is_survived);
    suite_add_tcase(s, c);
    return s;
}
