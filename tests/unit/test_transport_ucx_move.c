/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: rpc base proto */
/*
 * The bytes of PUT and GET over the UCX transport, by every path that sizes and
 * spans choose. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "tests/lib/ucx_host.h"

Suite *suite(void);

static const uint64_t sizes[] = {
    1,         4 << 10,   56 << 10, (56 << 10) + 1, 64 << 10,
    511 << 10, 512 << 10, 1 << 20,  16 << 20,       (16 << 20) + 1,
};

/* ---- PUT ----------------------------------------------------------------- */

/* _i walks sizes, with the pull before or after the data, one or more spans. */
START_TEST(put_bytes_arrive_in_the_spans)
{
    uint64_t len = sizes[_i / 6];
    bool late = _i % 2 == 1;
    uint32_t span_n = (uint32_t[]){1, 2, 7}[_i / 2 % 3];
    uint8_t *b = ucxh_bytes_new(9, len);
    struct xfer *t;

    if (len < span_n)
        return;
    ucxh_start();
    t = late ? NULL : ucxh_pull(7, 3, len, span_n);
    ucxc_data(&client, 7, 3, b, len);
    if (late) {
        ucxh_settle();
        t = ucxh_pull(7, 3, len, span_n);
    }
    PUMP(t->dones && client.busy == 0);
    ucxh_pulled_well(t, b);
    ck_assert_uint_eq(client.sent, late ? 2 : 1);
    ucxh_finish();
}
END_TEST

START_TEST(a_batch_of_mixed_sizes_is_matched_by_index)
{
    uint8_t *b[40];
    struct xfer *t[40];

    ucxh_start();
    for (uint32_t i = 0; i < 40; i++) {
        b[i] = ucxh_bytes_new(i, sizes[i % 8]);
        ucxc_data(&client, 1 + i / 20, i % 20, b[i], sizes[i % 8]);
        if (i == 20) {
            ucxh_settle();
        }
    }
    for (uint32_t i = 40; i-- > 0;)
        t[i] = ucxh_pull(1 + i / 20, i % 20, sizes[i % 8], 1 + i % 3 % 2);
    PUMP(host.xfer_dones == 40);
    for (uint32_t i = 0; i < 40; i++)
        ucxh_pulled_well(t[i], b[i]);
    ucxh_finish();
}
END_TEST

START_TEST(data_longer_or_shorter_than_the_pull_is_refused)
{
    static uint8_t b[2 << 20];
    struct xfer *t[4];

    ucxh_start();
    ucxc_data(&client, 1, 0, b, 1000);
    ucxc_data(&client, 1, 1, b, 1000);
    ucxc_data(&client, 1, 2, b, 1 << 20);
    ucxc_data(&client, 1, 3, b, 1 << 20);
    t[0] = ucxh_pull(1, 0, 999, 1);
    t[1] = ucxh_pull(1, 1, 1001, 1);
    t[2] = ucxh_pull(1, 2, (1 << 20) - 1, 1);
    t[3] = ucxh_pull(1, 3, (1 << 20) + 1, 2);
    PUMP(host.xfer_dones == 4 && client.busy == 0);
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(t[i]->err, ERR_BAD_REQUEST);
        ck_assert_uint_eq(t[i]->x.moved, 0);
        ucxh_untouched(t[i]);
    }
    ck_assert_uint_eq(host.closed, 0);
    ucxh_finish();
}
END_TEST

/* _i: 0 skip before the data, 1 after; 2 and 3 the same with a rendezvous. */
START_TEST(skipped_bytes_are_dropped_and_the_sender_completes)
{
    uint64_t len = _i < 2 ? 5000 : 1 << 20;
    uint8_t *b = ucxh_bytes_new(1, len);
    struct xfer *t;

    ucxh_start();
    if (_i % 2 == 0)
        ucxh_skip(1, 0);
    ucxc_data(&client, 1, 0, b, len);
    ucxh_settle();
    if (_i % 2 == 1)
        ucxh_skip(1, 0);
    ucxh_settle();
    PUMP(client.busy == 0);
    ck_assert_uint_eq(client.unsent, 0);
    /* The index is free again, and the connection is well. */
    t = ucxh_pull(1, 0, len, 1);
    ucxc_data(&client, 1, 0, b, len);
    PUMP(t->dones);
    ucxh_pulled_well(t, b);
    ucxh_finish();
}
END_TEST

START_TEST(a_pull_canceled_before_its_data_ends_and_drops_the_data)
{
    uint64_t len = _i ? 1 << 20 : 5000;
    uint8_t *b = ucxh_bytes_new(1, len);
    struct xfer *t, *u;

    ucxh_start();
    t = ucxh_pull(1, 0, len, 1);
    ucxh_turn();
    ucxh_cancel(t);
    ucxh_cancel(t); /* saying it twice is harmless */
    PUMP(t->dones);
    ck_assert_int_eq(t->err, ERR_CANCELED);
    ucxc_data(&client, 1, 0, b, len);
    ucxh_settle();
    PUMP(client.busy == 0);
    ucxh_untouched(t);
    u = ucxh_pull(1, 0, len, 1);
    ucxc_data(&client, 1, 0, b, len);
    PUMP(u->dones);
    ucxh_pulled_well(u, b);
    ck_assert_uint_eq(host.closed, 0);
    ucxh_finish();
}
END_TEST

START_TEST(a_pull_canceled_after_its_data_ends_once)
{
    uint64_t len = _i ? 1 << 20 : 5000;
    uint8_t *b = ucxh_bytes_new(1, len);
    struct xfer *t;

    ucxh_start();
    ucxc_data(&client, 1, 0, b, len);
    ucxh_settle();
    t = ucxh_pull(1, 0, len, 1);
    ucxh_cancel(t);
    PUMP(t->dones && client.busy == 0);
    ck_assert_int_eq(t->err, ERR_CANCELED);
    ucxh_untouched(t);
    ck_assert_uint_eq(host.closed, 0);
    ucxh_finish();
}
END_TEST

/* The client stands still, so the rendezvous cannot end by itself. */
START_TEST(a_rendezvous_canceled_in_flight_costs_the_connection)
{
    uint32_t span_n = _i ? 3 : 1;
    uint8_t *b = ucxh_bytes_new(1, 1 << 20);
    struct xfer *t, *u;
    struct send *s;

    ucxh_start();
    ucxc_data(&client, 1, 0, b, 1 << 20);
    ucxc_data(&client, 1, 1, b, 1 << 20);
    ucxh_settle();
    t = ucxh_pull(1, 0, 1 << 20, span_n);
    u = ucxh_pull(2, 0, 1 << 20, span_n);
    for (int i = 0; i < 50; i++)
        ucxh_turn();
    ck_assert_uint_eq(t->dones, 0);
    ucxh_cancel(t);
    s = ucxh_reply(1, NULL, 0, NULL, 0);
    TURN(host.closed == 1);
    ck_assert_int_eq(t->err, ERR_CANCELED);
    ck_assert_int_eq(u->err, ERR_PEER_GONE);
    ck_assert_int_eq(s->err, ERR_PEER_GONE);
    memset(t->e.p, 0xc5, t->e.len);
    while (!client.failed || client.busy) {
        ucxh_turn();
        ucxc_progress(&client);
    }
    ucxh_untouched(t);
    ucxh_untouched(u);
    ucxh_finish();
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
    ucxh_start();
    e = ucxh_extent_new(len);
    client.keys[5] = (struct ucxc_key){.to = e.p, .room = len};
    t = ucxh_push(7, 5, len, span_n);
    PUMP(t->dones && client.keys[5].moved == len);
    ck_assert_int_eq(t->err, OK);
    ck_assert_uint_eq(t->x.moved, len);
    ck_assert_int_eq(memcmp(e.p, t->e.p, len), 0);
    ucxh_extent_check(&e);
    if (span_n == 1 && len <= WIRE_EAGER_MAX)
        ck_assert_uint_eq(client.keys[5].parts, 1);
    if (span_n == 1)
        ck_assert_uint_eq(client.keys[5].rndvs, len >= TP_RNDV_MIN);
    /* Small runs are gathered, not sent one by one. */
    if (len == 64 << 10)
        ck_assert_uint_le(client.keys[5].parts, 3);
    ucxh_finish();
}
END_TEST

START_TEST(many_pushes_share_the_window_and_all_arrive)
{
    struct extent e[32];

    ucxh_start();
    for (uint32_t i = 0; i < 32; i++) {
        uint64_t len = sizes[i % 8];

        e[i] = ucxh_extent_new(len);
        client.keys[i] = (struct ucxc_key){.to = e[i].p, .room = len};
        ucxh_push(7, i, len, 1);
    }
    PUMP(host.xfer_dones == 32 && client.busy == 0);
    for (uint32_t i = 0; i < 32; i++) {
        PUMP(client.keys[i].moved == sizes[i % 8]);
        ck_assert_int_eq(host.xfers[i].err, OK);
        ck_assert_int_eq(memcmp(e[i].p, host.xfers[i].e.p, e[i].len), 0);
        ucxh_extent_check(&e[i]);
    }
    ucxh_finish();
}
END_TEST

START_TEST(a_push_of_nothing_completes)
{
    struct xfer *t;

    ucxh_start();
    t = ucxh_push(7, 0, 0, 1);
    PUMP(t->dones);
    ck_assert_int_eq(t->err, OK);
    ucxh_finish();
}
END_TEST

START_TEST(a_push_canceled_before_it_began_costs_nothing)
{
    struct xfer *t;

    ucxh_start();
    t = ucxh_push(7, 0, 1 << 20, 1);
    ucxh_cancel(t);
    PUMP(t->dones);
    ck_assert_int_eq(t->err, ERR_CANCELED);
    ucxc_request(&client, 1, OP_PING, NULL, 0, 0);
    PUMP(host.messages == 1);
    ucxh_finish();
}
END_TEST

/* _i: rendezvous, or so many pieces that the socket is full. */
START_TEST(a_push_canceled_in_flight_costs_the_connection)
{
    struct xfer *t[60];
    uint32_t n = _i ? 60 : 1;

    ucxh_start();
    for (uint32_t i = 0; i < n; i++)
        t[i] = ucxh_push(7, i, _i ? 500 << 10 : 1 << 20, 1);
    for (int i = 0; i < 100; i++)
        ucxh_turn();
    ck_assert_uint_eq(t[n - 1]->dones, 0);
    for (uint32_t i = 0; i < n; i++) {
        client.keys[i].to = ucxh_bytes_new(0, 1 << 20);
        client.keys[i].room = 1 << 20;
        if (!t[i]->dones)
            ucxh_cancel(t[i]);
    }
    TURN(host.closed == 1);
    ck_assert_int_eq(t[n - 1]->err, ERR_CANCELED);
    while (!client.failed)
        ucxc_progress(&client);
    ucxh_finish();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("transport_ucx_move");
    TCase *c = tcase_create("ucx");

    tcase_set_timeout(c, 60);
    tcase_add_loop_test(c, put_bytes_arrive_in_the_spans, 0,
                        (int)(6 * countof(sizes)));
    tcase_add_test(c, a_batch_of_mixed_sizes_is_matched_by_index);
    tcase_add_test(c, data_longer_or_shorter_than_the_pull_is_refused);
    tcase_add_loop_test(c, skipped_bytes_are_dropped_and_the_sender_completes,
                        0, 4);
    tcase_add_loop_test(
        c, a_pull_canceled_before_its_data_ends_and_drops_the_data, 0, 2);
    tcase_add_loop_test(c, a_pull_canceled_after_its_data_ends_once, 0, 2);
    tcase_add_loop_test(c, a_rendezvous_canceled_in_flight_costs_the_connection,
                        0, 2);
    tcase_add_loop_test(c, get_bytes_arrive_at_the_client, 0,
                        (int)(3 * countof(sizes)));
    tcase_add_test(c, many_pushes_share_the_window_and_all_arrive);
    tcase_add_test(c, a_push_of_nothing_completes);
    tcase_add_test(c, a_push_canceled_before_it_began_costs_nothing);
    tcase_add_loop_test(c, a_push_canceled_in_flight_costs_the_connection, 0,
                        2);
    suite_add_tcase(s, c);
    return s;
}
