/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: rpc proto base */
#include "rpc/transport_shm.h"

#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/shm_fix.h"

/* ---- Messages ---- */

START_TEST(messages_go_both_ways)
{
    struct fix_peer *p = fix_connect(0);
    struct shm_client *c = &fix.c[0];
    struct wire_frame f;

    ck_assert(shm_client_send(c, OP_PING, 5, "hello", 5));
    fix_run();
    ck_assert_uint_eq(p->messages, 1);
    ck_assert_uint_eq(p->last.req, 5);
    ck_assert_mem_eq(p->env, "hello", 5);
    ck_assert_int_eq(p->fd, -1);
    fix_send(p, 5, 100, -1);
    ck_assert_int_eq(shm_client_recv(c, &f), ERR_MISS);
    fix_run();
    ck_assert_int_eq(shm_client_recv(c, &f), OK);
    ck_assert_uint_eq(f.req, 5);
    ck_assert_uint_eq(f.env_len, 100);
    ck_assert_int_eq(fix.sends[0].e, OK);
}
END_TEST

START_TEST(nobody_awake_is_rung)
{
    struct shm_client *c = &fix.c[0];

    fix.echo = true;
    fix_connect(0);
    for (uint32_t i = 1; i < 100; i++) {
        struct wire_frame f;

        ck_assert(shm_client_send(c, OP_PING, i, NULL, 0));
        ck_assert(!ring_must_wake(&c->req));
        ck_assert(fix.t->ops->progress(fix.t));
        ck_assert_int_eq(shm_client_recv(c, &f), OK);
        ck_assert_uint_eq(f.req, i);
        ck_assert(!shm_client_rung(c));
    }
}
END_TEST

static bool readable(int fd)
{
    struct pollfd p = {fd, POLLIN, 0};

    return poll(&p, 1, 0) == 1;
}

START_TEST(both_sleep_and_wake_each_other)
{
    struct fix_peer *p = fix_connect(0);
    struct shm_client *c = &fix.c[0];
    struct wire_frame f;

    fix.echo = true;
    for (uint32_t i = 1; i < 20; i++) {
        fix_run();
        ck_assert(fix.t->ops->arm(fix.t));
        ck_assert(!readable(transport_shm_fd(fix.t)));
        ck_assert(ring_sleep(&c->rep));
        ck_assert(shm_client_send(c, OP_PING, i, NULL, 0));
        shm_client_ring(c);
        ck_assert(readable(transport_shm_fd(fix.t)));
        fix.t->ops->awake(fix.t);
        fix.t->ops->progress(fix.t);
        ck_assert_uint_eq(p->messages, i);
        ck_assert(shm_client_rung(c));
        ck_assert_int_eq(shm_client_recv(c, &f), OK);
    }
}
END_TEST

START_TEST(it_does_not_sleep_over_work)
{
    struct fix_peer *p = fix_connect(0);
    struct shm_client *c = &fix.c[0];

    fix_run();
    ck_assert(shm_client_send(c, OP_PING, 1, NULL, 0));
    ck_assert(!fix.t->ops->arm(fix.t)); /* a message */
    ck_assert(!ring_must_wake(&c->req));
    fix_run();
    fix_send(p, 1, 0, -1);
    ck_assert(!fix.t->ops->arm(fix.t)); /* a send */
    fix_run();
    fix_close(p, true);
    ck_assert(!fix.t->ops->arm(fix.t)); /* an end */
    fix_run();
    ck_assert(fix.t->ops->arm(fix.t));
    ck_assert(shm_client_connect(&fix.c[1], fix.path));
    ck_assert(readable(transport_shm_fd(fix.t))); /* a connection */
}
END_TEST

START_TEST(many_peers_cool_down_and_come_back)
{
    enum { N = 40 };

    fix.echo = true;
    for (uint32_t i = 0; i < N; i++)
        fix_connect(i);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5000; i++)
            fix.t->ops->progress(fix.t);
        ck_assert(round == 0 || fix.t->ops->arm(fix.t));
        for (uint32_t i = 0; i < N; i++) {
            ck_assert(shm_client_send(&fix.c[i], OP_PING, 1, NULL, 0));
            shm_client_ring(&fix.c[i]);
        }
        if (round > 0)
            fix.t->ops->awake(fix.t);
        fix_run();
        for (uint32_t i = 0; i < N; i++) {
            struct wire_frame f;

            ck_assert_int_eq(shm_client_recv(&fix.c[i], &f), OK);
        }
    }
}
END_TEST

START_TEST(a_full_reply_ring_keeps_order_and_needs_no_polling)
{
    enum { N = 200 };
    struct fix_peer *p = fix_connect(0);
    struct shm_client *c = &fix.c[0];
    struct wire_frame f;
    uint64_t got = 0;

    for (uint32_t i = 0; i < N; i++)
        fix_send(p, i + 1, 1000, -1);
    fix_run();
    ck_assert_uint_eq(fix.sends[0].dones, 1);
    ck_assert_uint_eq(fix.sends[N - 1].dones, 0);
    while (got < N) {
        bool slept = fix.t->ops->arm(fix.t);

        while (shm_client_recv(c, &f) == OK)
            ck_assert_uint_eq(f.req, ++got);
        ck_assert(!slept || got == N || readable(transport_shm_fd(fix.t)));
        fix.t->ops->awake(fix.t);
        fix_run();
    }
    ck_assert_uint_eq(fix.sends[N - 1].dones, 1);
}
END_TEST

START_TEST(a_client_that_never_looks_at_its_bell_blocks_nobody)
{
    struct fix_peer *p = fix_connect(0);
    struct shm_client *c = &fix.c[0];
    struct wire_frame f;

    /* Its end of the bell is its own: it may as well be a blocking one. */
    ck_assert_int_eq(fcntl(c->wake_fd, F_SETFL, 0), 0);
    for (uint32_t i = 0; i < 20000; i++) {
        fix.send_n = 0;
        __atomic_store_n(&c->rep.ctl->asleep, 1, __ATOMIC_SEQ_CST);
        fix_send(p, 1, 0, -1);
        fix.t->ops->progress(fix.t);
        ck_assert_int_eq(shm_client_recv(c, &f), OK);
    }
    /* Nor does one that closed it, or the socket with it. */
    close(c->wake_fd);
    c->wake_fd = -1;
    __atomic_store_n(&c->rep.ctl->asleep, 1, __ATOMIC_SEQ_CST);
    fix_send(p, 1, 0, -1);
    fix_run();
    ck_assert_int_eq(shm_client_recv(c, &f), OK);
}
END_TEST

START_TEST(messages_too_large_to_send_end_with_limit)
{
    struct fix_peer *p = fix_connect(0);

    fix_send(p, 1, 16 << 10, -1);
    fix_run();
    ck_assert_int_eq(fix.sends[0].e, ERR_LIMIT);
}
END_TEST

/* ---- Descriptors ---- */

START_TEST(a_descriptor_arrives_with_its_message_and_no_other)
{
    struct fix_peer *p = fix_connect(0);
    struct shm_client *c = &fix.c[0];
    uint32_t fds = fix_fds();
    int six[6] = {0, 0, 0, 0, 0, 0};

    ck_assert(shm_client_packet(c, OP_MEM_REGISTER, 1, six, 1));
    fix_run();
    ck_assert_int_ge(p->fd, 0);
    ck_assert_uint_eq(fix_fds(), fds + 1);
    ck_assert(shm_client_packet(c, OP_MEM_REGISTER, 2, six, 6));
    fix_run();
    ck_assert_uint_eq(p->messages, 2);
    ck_assert_uint_eq(fix_fds(), fds + 1); /* the first went, one came */
    ck_assert(shm_client_packet(c, OP_PING, 3, six, 3));
    fix_run();
    ck_assert_uint_eq(p->messages, 3);
    ck_assert_int_eq(p->fd, -1);
    ck_assert_uint_eq(fix_fds(), fds);
}
END_TEST

START_TEST(a_reply_can_carry_a_descriptor)
{
    struct fix_peer *p = fix_connect(0);
    struct wire_frame f;
    int fd = -1, null = open("/dev/null", O_RDONLY);

    fix_send(p, 1, 8, -1);
    fix_send(p, 2, 8, null);
    fix_send(p, 3, 8, -1);
    fix_send(p, 4, SHM_PACKET_MAX, null);
    fix_run();
    ck_assert_int_eq(shm_client_recv_packet(&fix.c[0], &f, &fd), OK);
    ck_assert_uint_eq(f.req, 2);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(shm_client_recv(&fix.c[0], &f), OK);
    ck_assert_int_eq(shm_client_recv(&fix.c[0], &f), OK);
    ck_assert_uint_eq(f.req, 3);
    ck_assert_int_eq(fix.sends[3].e, ERR_LIMIT);
    close(fd);
    close(null);
}
END_TEST

START_TEST(a_full_socket_holds_the_queue_until_it_is_read)
{
    enum { N = 600 };
    struct fix_peer *p = fix_connect(0);
    int fd, null = open("/dev/null", O_RDONLY);
    struct wire_frame f;
    uint64_t got = 0;

    for (uint32_t i = 0; i < N; i++)
        fix_send(p, i + 1, 4000, null);
    fix_run();
    ck_assert_uint_eq(fix.sends[N - 1].dones, 0);
    ck_assert(fix.t->ops->arm(fix.t));
    fix.t->ops->awake(fix.t);
    for (int i = 0; i < 10000 && got < N; i++) {
        while (shm_client_recv_packet(&fix.c[0], &f, &fd) == OK) {
            ck_assert_uint_eq(f.req, ++got);
            close(fd);
        }
        fix_run();
    }
    ck_assert_uint_eq(got, N);
    close(null);
}
END_TEST

/* ---- Ends ---- */

START_TEST(the_end_of_a_client_completes_its_sends_once)
{
    struct fix_peer *p = fix_connect(0);

    for (uint32_t i = 0; i < 100; i++)
        fix_send(p, 1, 4000, -1);
    fix_run();
    shm_client_close(&fix.c[0]);
    fix_run();
    ck_assert_uint_eq(p->closes, 1);
    ck_assert_int_eq(fix.sends[0].e, OK);
    ck_assert_int_eq(fix.sends[99].e, ERR_PEER_GONE);
}
END_TEST

START_TEST(an_orderly_close_lets_replies_through)
{
    struct fix_peer *p = fix_connect(0);
    struct wire_frame f;

    fix_send(p, 9, 8, -1);
    fix_close(p, false);
    ck_assert_uint_eq(p->closes, 0);
    fix_run();
    ck_assert_uint_eq(p->closes, 1);
    ck_assert(shm_client_eof(&fix.c[0]));
    ck_assert_int_eq(shm_client_recv(&fix.c[0], &f), OK);
    ck_assert_uint_eq(f.req, 9);
}
END_TEST

START_TEST(a_close_at_once_cuts_sends)
{
    struct fix_peer *p = fix_connect(0);

    fix_send(p, 9, 8, -1);
    fix_close(p, true);
    fix_close(p, false);
    fix_run();
    ck_assert_uint_eq(p->closes, 1);
    ck_assert_int_eq(fix.sends[0].e, ERR_PEER_GONE);
}
END_TEST

/* With a right crc (1, 3) the request is answered and the stream goes on. */
START_TEST(malformed_messages_end_at_most_their_connection)
{
    struct fix_peer *p = fix_connect(0), *good = fix_connect(1);
    struct shm_client *c = &fix.c[0];
    struct wire_frame f = {.kind = WIRE_REQUEST, .op = OP_PING, .req = 4};
    uint32_t len = _i == 0 ? 10 : sizeof(f);
    bool goes_on = _i == 1 || _i == 3;
    uint8_t *to = ring_grant(&c->req, len);

    f.deadline_us = _i != 3; /* 3: right crc, deadline 0: is answered */
    if (_i == 1)
        f.kind = WIRE_REPLY;
    frame_seal(&f, NULL, 0);
    f.crc ^= _i == 2;
    memcpy(to, &f, len);
    if (_i == 4)
        __atomic_store_n(&c->req.ctl->head, 1 << 20, __ATOMIC_RELEASE);
    else
        ring_push(&c->req, len);
    ck_assert(_i == 4 || shm_client_send(c, OP_PING, 5, NULL, 0));
    fix_run();
    ck_assert_uint_eq(p->bads, 1);
    ck_assert_int_eq(p->bad, ERR_BAD_REQUEST);
    ck_assert_uint_eq(p->messages, goes_on);
    ck_assert_uint_eq(p->closes, !goes_on);
    ck_assert_int_eq(shm_client_recv(c, &f), goes_on ? OK : ERR_MISS);
    ck_assert(shm_client_send(&fix.c[1], OP_PING, 1, NULL, 0));
    fix_run();
    ck_assert_uint_eq(good->messages, 1);
}
END_TEST

START_TEST(a_client_that_scribbles_over_the_reply_ring_is_closed)
{
    struct fix_peer *p = fix_connect(0);

    for (uint32_t i = 0; i < 100; i++)
        fix_send(p, 1, 1000, -1);
    fix_run();
    __atomic_store_n(&fix.c[0].rep.ctl->tail, 7, __ATOMIC_RELEASE);
    fix_run();
    ck_assert_uint_eq(p->closes, 1);
    ck_assert_int_eq(fix.sends[99].e, ERR_PEER_GONE);
}
END_TEST

START_TEST(packets_that_are_no_messages_end_the_connection)
{
    struct fix_peer *p = fix_connect(0);
    static uint8_t big[SHM_PACKET_MAX + 1];
    size_t n = _i == 0 ? 3 : _i == 1 ? sizeof(big) : 64;

    ck_assert_int_eq(send(fix.c[0].sock, big, n, 0), (ssize_t)n);
    fix_run();
    ck_assert_uint_eq(p->bads, 1);
    ck_assert_uint_eq(p->closes, 1);
}
END_TEST

START_TEST(loans_end_is_seen_by_the_client_and_never_goes_back)
{
    struct fix_peer *p = fix_connect(0);

    fix.t->ops->loans_end(p->tp, 7);
    ck_assert_uint_eq(fix.c[0].sh->loan_epoch, 7);
    fix.c[0].sh->loan_epoch = 0; /* the client's own loss */
    fix.t->ops->loans_end(p->tp, 5);
    ck_assert_uint_eq(fix.c[0].sh->loan_epoch, 0);
    fix.t->ops->loans_end(p->tp, 8);
    ck_assert_uint_eq(fix.c[0].sh->loan_epoch, 8);
}
END_TEST

START_TEST(connections_leave_no_descriptors_behind)
{
    uint32_t fds = fix_fds();

    for (int i = 0; i < 40; i++) {
        struct fix_peer *p = fix_connect(0);

        if (i % 2)
            fix_close(p, true);
        fix_run();
        shm_client_close(&fix.c[0]);
        fix_run();
        ck_assert_uint_eq(p->closes, 1);
    }
    ck_assert_uint_eq(fix_fds(), fds);
}
END_TEST

Suite *suite(void);

static void add_messages(TCase *t)
{
    tcase_add_test(t, messages_go_both_ways);
    tcase_add_test(t, nobody_awake_is_rung);
    tcase_add_test(t, both_sleep_and_wake_each_other);
    tcase_add_test(t, it_does_not_sleep_over_work);
    tcase_add_test(t, many_peers_cool_down_and_come_back);
    tcase_add_test(t, a_full_reply_ring_keeps_order_and_needs_no_polling);
    tcase_add_test(t, a_client_that_never_looks_at_its_bell_blocks_nobody);
    tcase_add_test(t, messages_too_large_to_send_end_with_limit);
    tcase_add_test(t, a_descriptor_arrives_with_its_message_and_no_other);
    tcase_add_test(t, a_reply_can_carry_a_descriptor);
    tcase_add_test(t, a_full_socket_holds_the_queue_until_it_is_read);
}

static void add_ends(TCase *t)
{
    tcase_add_test(t, the_end_of_a_client_completes_its_sends_once);
    tcase_add_test(t, an_orderly_close_lets_replies_through);
    tcase_add_test(t, a_close_at_once_cuts_sends);
    tcase_add_loop_test(t, malformed_messages_end_at_most_their_connection,
                        0, 5);
    tcase_add_test(t, a_client_that_scribbles_over_the_reply_ring_is_closed);
    tcase_add_loop_test(t, packets_that_are_no_messages_end_the_connection, 0,
                        3);
    tcase_add_test(t, loans_end_is_seen_by_the_client_and_never_goes_back);
    tcase_add_test(t, connections_leave_no_descriptors_behind);
}

Suite *suite(void)
{
    Suite *s = suite_create("transport_shm");
    TCase *t = tcase_create("transport_shm");

    tcase_add_checked_fixture(t, fix_setup, fix_teardown);
    add_messages(t);
    add_ends(t);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    return s;
}
