/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * Operations over an SSD that hangs: each is answered when its deadline passes,
 * ends when its client goes, and leaves nothing behind when the SSD goes on. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "lib/node_ssd.h"

static const struct wire_attr durable = {.flags = ATTR_DURABLE};

/* For longer than any deadline here, and shorter than a log waits for an io. */
static void hang(void)
{
    n.disk.cfg.latency_ns = 5 * NS_PER_S;
}

/* What hung goes on, and the node serves as before. */
static void go_on(void)
{
    n.disk.cfg.latency_ns = 0;
    node_sleep(&n, 11 * NS_PER_S);
    ck_assert_uint_eq(pool_used(&n.lane.ops), 0);
    store_check(n.lane.store);
    put_cold("after", 3000);
    ck_assert_int_eq(get_same("after", 3000), OK);
}

/* Sends, and lets no more than the deadline and a timer's tick pass. */
static void answered_in_time(struct node_batch *b, uint32_t deadline_us)
{
    b->frame.deadline_us = deadline_us;
    batch_send(b, p, NULL, 0);
    ck_assert(!n.reply.there);
    node_sleep(&n, (deadline_us + 1000) * NS_PER_US);
    ck_assert(n.reply.there);
}

START_TEST(a_durable_put_is_answered_at_its_deadline)
{
    struct node_batch b;

    hang();
    batch_new(&b, &n, OP_PUT);
    for (uint32_t i = 0; i < 3; i++) {
        char key[] = {(char)('a' + i), 0};

        fill(buf[i], key, 5000);
        batch_key(&b, key, (struct wire_key){.len = 5000}, NULL, &durable);
    }
    answered_in_time(&b, 30000);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_int_eq(n.reply.r[i].status, ERR_NOT_DURABLE);
    ck_assert_int_eq(get_same("a", 5000), OK);
    ck_assert_int_eq(get_same("c", 5000), OK);
    go_on();
}
END_TEST

START_TEST(a_durable_put_of_a_cold_key_does_not_wait_longer_for_its_load)
{
    struct node_batch b;

    put_cold("cold", 5000);
    hang();
    batch_new(&b, &n, OP_PUT);
    batch_key(&b, "cold", (struct wire_key){.len = 5000}, NULL, &durable);
    batch_key(&b, "new", (struct wire_key){.len = 4000}, NULL, NULL);
    fill(buf[1], "new", 4000);
    answered_in_time(&b, 30000);
    ck_assert_int_eq(n.reply.r[0].status, ERR_NOT_DURABLE);
    ck_assert_int_eq(n.reply.r[1].status, OK); /* its bytes were there */
    go_on();
    ck_assert_int_eq(get_same("cold", 5000), OK);
}
END_TEST

/* The others of a batch do not wait for a load to become visible. */
START_TEST(a_new_key_is_visible_while_another_one_of_its_batch_is_loaded)
{
    struct node_batch b;
    uint32_t block;

    put_cold("cold", 5000);
    hang();
    batch_new(&b, &n, OP_PUT);
    batch_key(&b, "cold", (struct wire_key){.len = 5000}, NULL, &durable);
    batch_key(&b, "new", (struct wire_key){.len = 4000}, NULL, NULL);
    fill(buf[1], "new", 4000);
    batch_send(&b, p, NULL, 0);
    ck_assert(!n.reply.there);
    (void)where("new", &block);
    ck_assert_uint_ne(block, 0);
    node_sleep(&n, NS_PER_S);
    go_on();
}
END_TEST

START_TEST(an_evict_is_answered_at_its_deadline_and_what_it_dropped_is_gone)
{
    struct node_batch b;

    put_cold("k", 5000);
    hang();
    batch_new(&b, &n, OP_EVICT);
    batch_key(&b, "k", (struct wire_key){0}, NULL, NULL);
    answered_in_time(&b, 20000);
    ck_assert_int_eq(n.reply.frame.status, ERR_TIMEOUT);
    ck_assert_int_eq(get("k", 5000), ERR_MISS);
    go_on();
    again(true); /* the tomb was written all the same */
    ck_assert_int_eq(get("k", 5000), ERR_MISS);
}
END_TEST

START_TEST(an_evict_by_pattern_does_not_wait_longer_for_records)
{
    struct node_batch b;

    put_cold("a", 3000);
    put_cold("b", 3000);
    hang();
    batch_new(&b, &n, OP_EVICT);
    b.head.select = SELECT_PATTERN;
    batch_key(&b, "*", (struct wire_key){0}, NULL, NULL);
    answered_in_time(&b, 20000);
    ck_assert_int_eq(n.reply.frame.status, ERR_TIMEOUT);
    go_on();
    ck_assert_int_eq(get_same("a", 3000), OK);
}
END_TEST

static void inspect(uint32_t deadline_ms)
{
    Pikv__InspectRequest m = PIKV__INSPECT_REQUEST__INIT;

    m.what = PIKV__INSPECT_REQUEST__WHAT__KEYS;
    m.ns = n.ns;
    n.reply.there = false;
    node_msg(p, OP_INSPECT, &m);
    ck_assert(!n.reply.there);
    node_sleep(&n, deadline_ms * NS_PER_MS);
    ck_assert(n.reply.there);
}

/* Pages begin with what was stored first; one that ends early says where the
 * next one begins. */
START_TEST(inspect_gives_what_it_has_at_its_deadline)
{
    const Pikv__InspectReply *rep;
    uint64_t cursor;

    ck_assert_int_eq(put("hot", 3000), OK);
    put_cold("a", 3000);
    ck_assert_int_eq(put("hot2", 3000), OK);
    hang();
    inspect(1001);
    rep = unpack(&pikv__inspect_reply__descriptor);
    ck_assert_uint_eq(rep->n_blocks, 1);
    ck_assert_mem_eq(rep->blocks[0]->key.data, "hot", 3);
    cursor = rep->next_cursor;
    ck_assert_uint_ne(cursor, 0);
    go_on();
}
END_TEST

START_TEST(inspect_without_anything_to_give_says_timeout)
{
    put_cold("a", 3000);
    ck_assert_int_eq(put("hot", 3000), OK);
    hang();
    inspect(1001);
    ck_assert_int_eq(n.reply.frame.status, ERR_TIMEOUT);
    go_on();
}
END_TEST

START_TEST(a_get_is_answered_at_its_deadline)
{
    struct node_batch b;

    put_cold("cold", 5000);
    ck_assert_int_eq(put("hot", 5000), OK);
    hang();
    batch_new(&b, &n, OP_GET);
    batch_key(&b, "cold", (struct wire_key){.len = 5000}, NULL, NULL);
    batch_key(&b, "hot", (struct wire_key){.len = 5000}, NULL, NULL);
    answered_in_time(&b, 20000);
    ck_assert_int_eq(n.reply.r[0].status, ERR_TIMEOUT);
    ck_assert_int_eq(n.reply.r[1].status, OK);
    go_on();
    ck_assert_int_eq(get_same("cold", 5000), OK);
}
END_TEST

/* ---- A client that goes */

/* Its op ends with it, whatever the SSD does. */
static void goes(struct node_batch *b)
{
    struct node_peer *q = node_connect(&n, true);

    for (uint32_t i = 0; i < NODE_KEYS; i++)
        q->bytes[i] = buf[i];
    b->frame.deadline_us = 10000000;
    batch_send(b, q, NULL, 0);
    ck_assert(!n.reply.there);
    ck_assert_uint_eq(pool_used(&n.lane.ops), 1);
    node_hangup(q);
    ck_assert(q->told);
    ck_assert_uint_eq(pool_used(&n.lane.ops), 0);
    node_free_peer(q);
    go_on();
}

START_TEST(a_client_that_goes_takes_its_durable_put_along)
{
    struct node_batch b;

    hang();
    batch_new(&b, &n, OP_PUT);
    batch_key(&b, "k", (struct wire_key){.len = 5000}, NULL, &durable);
    goes(&b);
}
END_TEST

START_TEST(a_client_that_goes_takes_its_evict_along)
{
    struct node_batch b;

    put_cold("k", 5000);
    hang();
    batch_new(&b, &n, OP_EVICT);
    batch_key(&b, "k", (struct wire_key){0}, NULL, NULL);
    goes(&b);
}
END_TEST

START_TEST(a_client_that_goes_takes_its_evict_by_pattern_along)
{
    struct node_batch b;

    put_cold("k", 5000);
    hang();
    batch_new(&b, &n, OP_EVICT);
    b.head.select = SELECT_PATTERN;
    batch_key(&b, "*", (struct wire_key){0}, NULL, NULL);
    goes(&b);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ops_hang");
    TCase *t = tcase_create("hang");

    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t, a_durable_put_is_answered_at_its_deadline);
    tcase_add_test(
        t, a_durable_put_of_a_cold_key_does_not_wait_longer_for_its_load);
    tcase_add_test(
        t, a_new_key_is_visible_while_another_one_of_its_batch_is_loaded);
    tcase_add_test(
        t, an_evict_is_answered_at_its_deadline_and_what_it_dropped_is_gone);
    tcase_add_test(t, an_evict_by_pattern_does_not_wait_longer_for_records);
    tcase_add_test(t, inspect_gives_what_it_has_at_its_deadline);
    tcase_add_test(t, inspect_without_anything_to_give_says_timeout);
    tcase_add_test(t, a_get_is_answered_at_its_deadline);
    tcase_add_test(t, a_client_that_goes_takes_its_durable_put_along);
    tcase_add_test(t, a_client_that_goes_takes_its_evict_along);
    tcase_add_test(t, a_client_that_goes_takes_its_evict_by_pattern_along);
    suite_add_tcase(s, t);
    return s;
}
