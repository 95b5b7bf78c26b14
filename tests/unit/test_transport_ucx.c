/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: rpc base proto */
/*
 * The UCX transport over tcp on 127.0.0.1: messages, set-up, the ends of
 * connections that nobody kills. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "tests/lib/ucx_host.h"

Suite *suite(void);

/* ---- Messages ------------------------------------------------------------ */

START_TEST(a_request_and_its_reply_arrive_whole)
{
    const uint64_t len[] = {0, 1, 100, 8000, 60000, 200000};
    uint8_t *b = ucxh_bytes_new(3, 200000);
    struct send *s;

    ucxh_start();
    ck_assert_uint_eq(host.peer->inline_max, WIRE_EAGER_MAX);
    ck_assert(strncmp(host.peer->cred.addr, "127.0.0.1:", 10) == 0);
    for (uint32_t i = 0; i < countof(len); i++) {
        ucxc_request(&client, i + 1, OP_PING, b, (uint32_t)len[i], 0);
        PUMP(host.messages == i + 1);
        ck_assert_uint_eq(host.frame.req, i + 1);
        ck_assert_uint_eq(host.body_len, len[i]);
        ck_assert_int_eq(memcmp(host.body, b, len[i]), 0);
        s = ucxh_reply(i + 1, b, (uint32_t)min_u64(len[i], 120000), NULL, 0);
        PUMP(client.replies == i + 1 && s->dones);
        ck_assert_int_eq(s->err, OK);
        ck_assert_uint_eq(client.body_len, min_u64(len[i], 120000));
        ck_assert_int_eq(memcmp(client.body, b, client.body_len), 0);
    }
    ucxh_finish();
}
END_TEST

START_TEST(inline_data_travels_with_the_message_both_ways)
{
    uint8_t *b = ucxh_bytes_new(3, 100 + WIRE_EAGER_MAX);
    struct span spans[3] = {{b + 100, 1}, {b + 101, 4096}, {NULL, 0}};

    spans[2] = (struct span){b + 101 + 4096, WIRE_EAGER_MAX - 4097};
    ucxh_start();
    ucxc_request(&client, 1, OP_PUT, b, 100, WIRE_EAGER_MAX);
    PUMP(host.messages == 1);
    ck_assert_uint_eq(host.frame.data_len, WIRE_EAGER_MAX);
    ck_assert_int_eq(memcmp(host.body, b, 100 + WIRE_EAGER_MAX), 0);
    ucxh_reply(1, b, 100, spans, 3);
    PUMP(client.replies == 1 && host.send_dones == 1);
    ck_assert_uint_eq(client.body_len, 100 + WIRE_EAGER_MAX);
    ck_assert_int_eq(memcmp(client.body, b, client.body_len), 0);
    ucxh_finish();
}
END_TEST

START_TEST(a_reply_waits_for_room_and_is_not_lost)
{
    struct transport_ucx_cfg cfg = ucxh_config();
    static uint8_t body[1000];

    cfg.sends_max = 2;
    ucxh_open(&cfg);
    ucxc_open(&client, transport_ucx_port(host.t));
    PUMP(host.opened == 1);
    for (uint32_t i = 0; i < 40; i++)
        ucxh_reply(i + 1, body, 1000, NULL, 0);
    PUMP(client.replies == 40 && host.send_dones == 40);
    ck_assert_uint_eq(client.reply.req, 40);
    ucxh_finish();
}
END_TEST

START_TEST(the_fd_wakes_and_arm_refuses_to_sleep_on_work)
{
    fd_set fds;
    struct timeval tv = {.tv_sec = 20};
    int fd;

    ucxh_start();
    fd = transport_ucx_fd(host.t);
    ucxc_request(&client, 1, OP_PING, NULL, 0, 0);
    PUMP(host.messages == 1); /* connected for good */
    PUMP(host.t->ops->arm(host.t));
    FD_ZERO(&fds);
    FD_SET(fd, &fds);
    ucxc_request(&client, 2, OP_PING, NULL, 0, 0);
    while (client.busy)
        ucxc_progress(&client);
    ck_assert_int_eq(select(fd + 1, &fds, NULL, NULL, &tv), 1);
    host.t->ops->awake(host.t);
    while (host.messages == 1) {
        if (!host.t->ops->arm(host.t))
            ucxh_turn();
    }
    ucxh_finish();
}
END_TEST

/* ---- Ends ---------------------------------------------------------------- */

START_TEST(an_orderly_close_lets_what_was_begun_arrive)
{
    static uint8_t body[1000];
    uint8_t *b = ucxh_bytes_new(0, 1 << 20);
    struct xfer *put, *get;

    ucxh_start();
    client.keys[0] =
        (struct ucxc_key){.to = ucxh_bytes_new(0, 1 << 20), .room = 1 << 20};
    ucxc_data(&client, 1, 9, b, 1 << 20);
    put = ucxh_pull(1, 9, 1 << 20, 1);
    get = ucxh_push(2, 0, 1 << 20, 1);
    ucxh_reply(3, body, 1000, NULL, 0);
    host.t->ops->close(host.peer, false);
    PUMP(host.closed == 1);
    ucxh_pulled_well(put, b);
    ck_assert_int_eq(get->err, OK);
    ck_assert_int_eq(host.sends[0].err, OK);
    PUMP(client.failed);
    ck_assert_uint_eq(client.replies, 1);
    ck_assert_int_eq(memcmp(client.keys[0].to, b, 1 << 20), 0);
    ucxh_finish();
}
END_TEST

START_TEST(a_close_at_once_ends_everything)
{
    static uint8_t body[1000];
    uint8_t *b = ucxh_bytes_new(0, 1 << 20);

    ucxh_start();
    for (uint32_t i = 0; i < 8; i++) {
        ucxc_data(&client, 1, i, b, i % 2 ? 1 << 20 : 3000);
        if (i < 4)
            ucxh_pull(1, i, i % 2 ? 1 << 20 : 3000, 1);
        ucxh_push(2, i, i % 2 ? 1 << 20 : 3000, 1);
        ucxh_reply(3, body, 1000, NULL, 0);
    }
    ucxh_pull(1, 20, 1 << 20, 1);
    if (_i) {
        for (int i = 0; i < 20; i++)
            ucxh_turn();
    }
    if (_i == 2)
        host.t->ops->close(host.peer, false);
    host.t->ops->close(host.peer, true);
    TURN(host.closed == 1);
    ck_assert_uint_eq(host.xfer_dones, host.xfer_n);
    ck_assert_uint_eq(host.send_dones, host.send_n);
    for (uint32_t i = 0; i < 8; i++)
        client.keys[i] = (struct ucxc_key){.to = ucxh_bytes_new(0, 1 << 20),
                                           .room = 1 << 20};
    while (!client.failed)
        ucxc_progress(&client);
    ucxh_finish();
}
END_TEST

START_TEST(closing_the_transport_closes_its_peers)
{
    uint8_t *b = ucxh_bytes_new(0, 1 << 20);

    ucxh_start();
    ucxc_data(&client, 1, 0, b, 1 << 20);
    ucxc_data(&client, 1, 1, b, 1 << 20);
    ucxh_settle();
    ucxh_pull(1, 0, 1 << 20, 1);
    ucxh_pull(1, 7, 1 << 20, 1);
    ucxh_turn();
    transport_ucx_close(host.t);
    ck_assert_uint_eq(host.closed, 1);
    ck_assert_uint_eq(host.xfer_dones, 2);
    ucxc_close(&client);
}
END_TEST

START_TEST(calls_on_a_closing_peer_end_with_peer_gone)
{
    struct tp_peer *p;

    ucxh_start();
    p = host.peer;
    host.t->ops->close(p, true);
    ucxh_pull(1, 0, 1000, 1);
    ucxh_push(1, 0, 1000, 1);
    ucxh_reply(1, NULL, 0, NULL, 0);
    ucxh_skip(1, 1);
    TURN(host.closed == 1);
    ck_assert_int_eq(host.xfers[0].err, ERR_PEER_GONE);
    ck_assert_int_eq(host.xfers[1].err, ERR_PEER_GONE);
    ck_assert_int_eq(host.sends[0].err, ERR_PEER_GONE);
    ucxh_finish();
}
END_TEST

START_TEST(a_refused_client_is_rejected_and_the_next_is_served)
{
    struct transport_ucx_cfg cfg = ucxh_config();

    ucxh_open(&cfg);
    host.refuse = ERR_BUSY;
    ucxc_open(&client, transport_ucx_port(host.t));
    PUMP(client.failed);
    ck_assert_uint_eq(host.opened, 0);
    ucxc_close(&client);
    host.refuse = OK;
    ucxc_open(&client, transport_ucx_port(host.t));
    PUMP(host.opened == 1);
    ucxh_finish();
}
END_TEST

START_TEST(more_clients_than_peers_max_are_rejected)
{
    struct transport_ucx_cfg cfg = ucxh_config();
    static struct ucxc more;

    cfg.peers_max = 1;
    ucxh_open(&cfg);
    ucxc_open(&client, transport_ucx_port(host.t));
    PUMP(host.opened == 1);
    ucxc_open(&more, transport_ucx_port(host.t));
    PUMP(more.failed || (ucxc_progress(&more), false));
    ck_assert_uint_eq(host.opened, 1);
    ucxc_close(&more);
    ucxc_request(&client, 1, OP_PING, NULL, 0, 0);
    PUMP(host.messages == 1);
    ucxh_finish();
}
END_TEST

/* ---- Set-up -------------------------------------------------------------- */

START_TEST(a_port_in_use_is_a_clear_message)
{
    struct transport_ucx_cfg cfg = ucxh_config();
    struct transport *second;
    struct errmsg msg;

    cfg.port = ucxh_free_port();
    ucxh_open(&cfg);
    ck_assert_uint_eq(transport_ucx_port(host.t), cfg.port);
    ck_assert_int_eq(transport_ucx_open(&cfg, host.t, &second, &msg), ERR_BUSY);
    ck_assert_ptr_nonnull(strstr(msg.text, "in use"));
    ucxh_finish();
}
END_TEST

START_TEST(an_address_that_is_not_ours_is_a_clear_message)
{
    struct transport_ucx_cfg cfg = ucxh_config();
    struct transport *second;
    struct errmsg msg;

    ucxh_open(&cfg);
    cfg.host = "192.0.2.1";
    ck_assert_int_ne(transport_ucx_open(&cfg, host.t, &second, &msg), OK);
    ck_assert_ptr_nonnull(strstr(msg.text, "192.0.2.1"));
    cfg.host = "no such host";
    ck_assert_int_eq(transport_ucx_open(&cfg, host.t, &second, &msg),
                     ERR_CONFIG);
    ucxh_finish();
}
END_TEST

START_TEST(transports_that_wedge_are_refused)
{
    static const char *const bad[] = {"",         "all",    "posix",
                                      "tcp,sysv", "shm",    "^tcp",
                                      "tcp,cma",  "sm,tcp", "tcp, self"};
    struct transport_ucx_cfg cfg = ucxh_config();
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

Suite *suite(void)
{
    Suite *s = suite_create("transport_ucx");
    TCase *c = tcase_create("ucx");

    tcase_set_timeout(c, 60);
    tcase_add_test(c, a_request_and_its_reply_arrive_whole);
    tcase_add_test(c, inline_data_travels_with_the_message_both_ways);
    tcase_add_test(c, a_reply_waits_for_room_and_is_not_lost);
    tcase_add_test(c, the_fd_wakes_and_arm_refuses_to_sleep_on_work);
    tcase_add_test(c, an_orderly_close_lets_what_was_begun_arrive);
    tcase_add_loop_test(c, a_close_at_once_ends_everything, 0, 3);
    tcase_add_test(c, closing_the_transport_closes_its_peers);
    tcase_add_test(c, calls_on_a_closing_peer_end_with_peer_gone);
    tcase_add_test(c, a_refused_client_is_rejected_and_the_next_is_served);
    tcase_add_test(c, more_clients_than_peers_max_are_rejected);
    tcase_add_test(c, a_port_in_use_is_a_clear_message);
    tcase_add_test(c, an_address_that_is_not_ours_is_a_clear_message);
    tcase_add_test(c, transports_that_wedge_are_refused);
    suite_add_tcase(s, c);
    return s;
}
