/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * Part completions of a GET: events in the order of the batch, none twice, none
 * after the reply, and nothing left behind whoever goes away. */
#include <check.h>
#include <string.h>

#include "lib/node_ssd.h"

static char keys[][4] = {"k0", "k1", "k2", "k3", "k4", "k5"};

enum { N = 6, LEN = 5000 };

/* A GET of key_n keys, parts asked for or not. */
static void get_begin(struct node_batch *b, uint32_t key_n, bool parts)
{
    batch_new(b, &n, OP_GET);
    b->head.flags = parts ? BATCH_PARTS : 0;
    for (uint32_t i = 0; i < key_n; i++)
        batch_key(b, keys[i], (struct wire_key){.len = LEN}, NULL, NULL);
}

static void put_all(uint32_t except)
{
    for (uint32_t i = 0; i < N; i++) {
        fill(buf[0], keys[i], LEN);
        if (i != except)
            ck_assert_int_eq(node_put(p, keys[i], LEN), OK);
    }
}

static void told_are(uint32_t frames, uint32_t told)
{
    ck_assert(!n.events.bad);
    ck_assert_uint_eq(n.events.n, frames);
    ck_assert_uint_eq(n.events.told, told);
}

START_TEST(keys_are_told_in_order_whatever_order_they_end_in)
{
    struct node_batch b;

    put_all(N);
    n.hold = true;
    get_begin(&b, N, true);
    batch_send(&b, p, NULL, 0);
    told_are(0, 0);
    node_let_one(p, 1);
    node_let_one(p, 4);
    told_are(0, 0);
    node_let_one(p, 0);
    told_are(1, 2);
    node_let_one(p, 3);
    told_are(1, 2);
    node_let_one(p, 2);
    told_are(2, 5);
    ck_assert(!n.reply.there);
    node_let_one(p, 5); /* the reply tells the last */
    told_are(2, 5);
    ck_assert(n.reply.there);
    ck_assert_mem_eq(n.events.r, n.reply.r, 5 * sizeof *n.reply.r);
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_int_eq(n.reply.r[i].status, OK);
        ck_assert_uint_eq(n.reply.r[i].moved, LEN);
    }
}
END_TEST

START_TEST(a_miss_is_told_in_its_turn)
{
    struct node_batch b;

    put_all(0);
    n.hold = true;
    get_begin(&b, 3, true);
    batch_send(&b, p, NULL, 0);
    told_are(1, 1);
    ck_assert_int_eq(n.events.r[0].status, ERR_MISS);
    node_let_one(p, 1);
    told_are(2, 2);
    ck_assert_int_eq(n.events.r[1].status, OK);
    node_let(p);
    ck_assert(n.reply.there);
}
END_TEST

START_TEST(who_did_not_ask_or_does_not_know_gets_none)
{
    struct node_batch b;

    put_all(N);
    n.hold = true;
    for (int i = 0; i < 2; i++) {
        peer_of(&p->tp)->features = i ? 0 : PEER_FEATURES;
        get_begin(&b, 3, i);
        batch_send(&b, p, NULL, 0);
        node_let_one(p, 0);
        told_are(0, 0);
        node_let(p);
        ck_assert(n.reply.there);
        told_are(0, 0);
    }
}
END_TEST

START_TEST(the_reply_waits_for_the_event_that_is_out)
{
    struct node_batch b;

    put_all(N);
    n.hold = n.hold_sends = true;
    get_begin(&b, 2, true);
    batch_send(&b, p, NULL, 0);
    node_let_one(p, 0);
    ck_assert_uint_eq(peer_of(&p->tp)->unread_n, 1);
    node_let_one(p, 1); /* done, but for the event */
    ck_assert_uint_eq(peer_of(&p->tp)->unread_n, 1);
    node_sleep(&n, 2 * NS_PER_S); /* its deadline changes nothing */
    ck_assert_uint_eq(pool_used(&n.lane.ops), 1);
    /* Who never reads is closed, and the op with it. */
    node_sleep(&n, n.cfg.limits.slow_reader_us * NS_PER_US + NS_PER_S);
    ck_assert(p->told);
    ck_assert_uint_eq(pool_used(&n.lane.ops), 0);
    n.hold_sends = false;
}
END_TEST

START_TEST(a_peer_that_goes_leaves_nothing)
{
    struct node_peer *q = node_connect(&n, true);
    struct node_batch b;

    put_all(N);
    q->bytes[0] = q->bytes[1] = q->bytes[2] = buf[0];
    n.hold = true;
    get_begin(&b, 3, true);
    batch_send(&b, q, NULL, 0);
    node_let_one(q, 0);
    told_are(1, 1);
    node_hangup(q);
    ck_assert(q->told);
    ck_assert_uint_eq(pool_used(&n.lane.ops), 0);
    node_free_peer(q);
}
END_TEST

START_TEST(a_deadline_tells_nothing_more)
{
    struct node_batch b;

    put_all(N);
    n.hold = true;
    get_begin(&b, 4, true);
    b.frame.deadline_us = 20000;
    batch_send(&b, p, NULL, 0);
    node_let_one(p, 0);
    told_are(1, 1);
    node_sleep(&n, 30 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    for (uint32_t i = 1; i < 4; i++)
        ck_assert_int_eq(n.reply.r[i].status, ERR_TIMEOUT);
    ck_assert(!n.events.bad);
}
END_TEST

/* Not gathered into one reply: the first is there long before the others. */
START_TEST(a_key_in_memory_does_not_wait_for_one_on_the_ssd)
{
    struct node_batch b;

    put_cold("k1", LEN);
    fill(buf[0], "k0", LEN);
    ck_assert_int_eq(node_put(p, "k0", LEN), OK);
    n.disk.cfg.latency_ns = NS_PER_MS;
    p->tp.inline_max = 56 << 10;
    get_begin(&b, 2, true);
    batch_send(&b, p, NULL, 0);
    told_are(1, 1);
    ck_assert(!n.reply.there);
    node_sleep(&n, 100 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[1].status, OK);
    ck_assert_uint_eq(n.reply.r[1].tier, 1);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ops_parts");
    TCase *t = tcase_create("parts");

    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t, keys_are_told_in_order_whatever_order_they_end_in);
    tcase_add_test(t, a_miss_is_told_in_its_turn);
    tcase_add_test(t, who_did_not_ask_or_does_not_know_gets_none);
    tcase_add_test(t, the_reply_waits_for_the_event_that_is_out);
    tcase_add_test(t, a_peer_that_goes_leaves_nothing);
    tcase_add_test(t, a_deadline_tells_nothing_more);
    tcase_add_test(t, a_key_in_memory_does_not_wait_for_one_on_the_ssd);
    suite_add_tcase(s, t);
    return s;
}
