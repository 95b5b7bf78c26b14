/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * Requests that sleep while the world changes under them, and replies that
 * nobody reads. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lib/node.h"

static struct test_node n;
static struct node_peer *p;
static uint8_t *bytes;

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static struct node_peer *client(bool hello)
{
    struct node_peer *q = node_connect(&n, hello);

    ck_assert_ptr_nonnull(q);
    for (uint32_t i = 0; i < NODE_KEYS; i++)
        q->bytes[i] = bytes;
    return q;
}

static void up(void)
{
    log_sink_set(quiet, NULL);
    node_config(&n, MIB(16));
    n.cfg.dram.pin_limit_pct = 100;
    node_start(&n);
    bytes = calloc(1, NODE_BUF);
    ck_assert_ptr_nonnull(bytes);
    p = client(true);
    node_open(&n, p, "lru");
}

static void down(void)
{
    node_stop(&n);
    node_free_peer(p);
    free(bytes);
}

static void bump(void)
{
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    char name[] = "test";

    m.name = name;
    m.bump = true;
    node_msg(p, OP_NAMESPACE, &m);
    ck_assert_int_eq(n.reply.frame.status, OK);
}

/* Generation 0 means any: the block belongs to the one in which it is stored,
 * although its key was first looked at in the one before. */
START_TEST(a_put_of_any_generation_goes_on_after_a_bump)
{
    struct wire_attr attr = {.pin_ttl_ms = 20};
    struct node_batch b;

    for (char key[] = "a"; key[0] <= 'd'; key[0]++) {
        uint64_t len = key[0] == 'd' ? MIB(3) : MIB(4);

        batch_new(&b, &n, OP_PUT);
        batch_key(&b, key, (struct wire_key){.len = len}, NULL, &attr);
        batch_send(&b, p, NULL, 0);
        ck_assert_int_eq(n.reply.r[0].flags, RESULT_PINNED);
    }
    n.generation = 0;
    ck_assert_int_eq(node_put(p, "k", MIB(2)), 1); /* all is pinned */
    bump();
    n.reply.there = false;
    node_sleep(&n, 30 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_int_eq(node_get(p, "k", MIB(2)), OK);
}
END_TEST

/* The watch on a reader covers what it was answered before its HELLO. */
START_TEST(replies_unread_since_before_hello_are_watched)
{
    struct node_peer *q = client(false);
    Pikv__Hello m = PIKV__HELLO__INIT;

    m.version = WIRE_VERSION;
    n.hold_sends = true;
    ck_assert_int_eq(node_get(q, "k", 1), 1); /* DENIED, if it read it */
    node_msg(q, OP_HELLO, &m);
    node_sleep(&n, n.cfg.limits.slow_reader_us * NS_PER_US + 1);
    ck_assert(q->told);
    n.hold_sends = false;
    node_free_peer(q);
}
END_TEST

/* Whoever does not read refusals is closed before others lack them. */
START_TEST(one_client_cannot_take_all_refusals)
{
    struct node_peer *q = client(true);
    uint32_t least = n.lane.refusals.n;

    n.hold_sends = true;
    for (uint32_t i = 0; i < 2 * n.lane.refusals.n && !q->closed; i++) {
        (void)node_get(q, "k", 1); /* the first ones get ops, then BUSY */
        least = (uint32_t)min_u64(least, n.lane.refusals.free_n);
    }
    ck_assert(q->closed);
    ck_assert_uint_ge(least, n.lane.refusals.n / 2);
    n.hold_sends = false;
    node_settle(&n);
    ck_assert(q->told);
    node_free_peer(q);
    ck_assert_int_eq(node_get(p, "k", 1), ERR_MISS);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ops_waits");
    TCase *t = tcase_create("waits");

    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t, a_put_of_any_generation_goes_on_after_a_bump);
    tcase_add_test(t, replies_unread_since_before_hello_are_watched);
    tcase_add_test(t, one_client_cannot_take_all_refusals);
    suite_add_tcase(s, t);
    return s;
}
