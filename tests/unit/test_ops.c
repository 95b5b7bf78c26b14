/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * Every operation, one request at a time, against a real lane and store. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"
#include "base/log.h"
#include "lib/node.h"

static struct test_node n;
static struct node_peer *p;
static uint8_t *buf[NODE_KEYS];

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static void up(void)
{
    log_sink_set(quiet, NULL);
    node_config(&n, MIB(16));
    node_start(&n);
    p = node_connect(&n, true);
    ck_assert_ptr_nonnull(p);
    for (uint32_t i = 0; i < NODE_KEYS; i++) {
        buf[i] = malloc(NODE_BUF);
        ck_assert_ptr_nonnull(buf[i]);
        memset(buf[i], (int)i + 1, NODE_BUF);
        p->bytes[i] = buf[i];
    }
    node_open(&n, p, "lru");
    ck_assert_uint_ne(n.ns, 0);
}

static void down(void)
{
    node_stop(&n);
    node_free_peer(p);
    for (uint32_t i = 0; i < NODE_KEYS; i++)
        free(buf[i]);
}

START_TEST(nothing_is_answered_before_hello)
{
    struct node_peer *q = node_connect(&n, false);

    ck_assert_int_eq(node_put(q, "k", 100), ERR_DENIED);
    node_hangup(q);
    node_free_peer(q);
}
END_TEST

START_TEST(a_connection_that_never_says_hello_is_closed)
{
    struct node_peer *q = node_connect(&n, false);

    node_sleep(&n, n.cfg.limits.handshake_us * NS_PER_US + 1);
    ck_assert(q->told);
    node_free_peer(q);
}
END_TEST

START_TEST(hello_of_another_version_is_refused)
{
    Pikv__Hello m = PIKV__HELLO__INIT;

    m.version = WIRE_VERSION + 1;
    node_msg(p, OP_HELLO, &m);
    ck_assert_int_eq(n.reply.frame.status, ERR_BAD_VERSION);
}
END_TEST

/* N and N-1: a newer client sends fields, feature bits and flags that this
 * version does not know. They are skipped, and the reply says which bits both
 * understand. */
START_TEST(what_a_newer_client_adds_is_skipped)
{
    Pikv__Hello m = PIKV__HELLO__INIT;
    uint8_t unknown[] = {0xc2, 0x3e, 3, 'n', 'e', 'w'}; /* field 1000, bytes */
    ProtobufCMessageUnknownField field = {
        1000, PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, 4, unknown + 2};
    const Pikv__HelloReply *rep;
    struct node_batch b;
    uint8_t mem[4096];
    struct arena a;

    m.version = WIRE_VERSION;
    m.features = UINT64_MAX;
    m.base.n_unknown_fields = 1;
    m.base.unknown_fields = &field;
    node_msg(p, OP_HELLO, &m);
    ck_assert_int_eq(n.reply.frame.status, OK);
    arena_init(&a, mem, sizeof mem);
    rep = msg_unpack(&pikv__hello_reply__descriptor, &a, n.reply.env,
                     n.reply.frame.env_len);
    ck_assert_ptr_nonnull(rep);
    ck_assert_uint_eq(rep->features, PEER_FEATURES);
    batch_new(&b, &n, OP_PUT);
    b.head.flags = 0xffffff00;
    b.frame.flags = 0xffffff00;
    batch_key(&b, "k", (struct wire_key){.len = 10, .flags = 0xff00}, NULL,
              NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].status, OK);
}
END_TEST

START_TEST(operations_laid_out_for_later_say_so)
{
    Pikv__Empty m = PIKV__EMPTY__INIT;

    node_msg(p, OP_SELECT, &m);
    ck_assert_int_eq(n.reply.frame.status, ERR_UNSUPPORTED);
}
END_TEST

START_TEST(put_then_get_gives_the_bytes_crc_and_length)
{
    ck_assert_int_eq(node_put(p, "k", 5000), OK);
    ck_assert_uint_eq(n.reply.r[0].crc, crc32c(0, buf[0], 5000));
    memset(buf[0], 0, NODE_BUF);
    ck_assert_int_eq(node_get(p, "k", NODE_BUF), OK);
    ck_assert_uint_eq(n.reply.r[0].len, 5000);
    ck_assert_uint_eq(n.reply.r[0].moved, 5000);
    ck_assert_uint_eq(n.reply.r[0].crc, crc32c(0, buf[0], 5000));
    ck_assert_int_eq(buf[0][4999], 1);
    ck_assert_int_eq(buf[0][5000], 0);
}
END_TEST

START_TEST(a_durable_put_is_refused_where_nothing_is_durable)
{
    struct node_batch b;
    struct wire_attr attr = {.flags = ATTR_DURABLE};

    batch_new(&b, &n, OP_PUT);
    batch_key(&b, "k", (struct wire_key){.len = 10}, NULL, &attr);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].status, ERR_UNSUPPORTED);
    ck_assert_int_eq(node_get(p, "k", 10), ERR_MISS);
}
END_TEST

START_TEST(a_key_is_put_once)
{
    ck_assert_int_eq(node_put(p, "k", 100), OK);
    ck_assert_int_eq(node_put(p, "k", 100), ERR_EXISTS);
    ck_assert_uint_eq(n.lane.metrics.put_exists, 1);
}
END_TEST

START_TEST(a_key_being_put_is_pending_to_everyone)
{
    struct node_peer *q = node_connect(&n, true);

    q->bytes[0] = buf[1];
    n.hold = true;
    ck_assert_int_eq(node_put(p, "k", 100), 1);
    ck_assert_int_eq(node_put(q, "k", 100), ERR_PENDING);
    ck_assert_int_eq(node_get(q, "k", 100), ERR_PENDING);
    n.hold = false;
    node_let(p);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_int_eq(node_get(q, "k", 100), OK);
    node_hangup(q);
    node_free_peer(q);
}
END_TEST

START_TEST(a_half_done_put_leaves_nothing_when_its_client_goes)
{
    struct node_peer *q = node_connect(&n, true);

    q->bytes[0] = buf[0];
    n.hold = true;
    ck_assert_int_eq(node_put(q, "k", MIB(1)), 1);
    node_hangup(q);
    n.hold = false;
    ck_assert(q->told);
    node_free_peer(q);
    ck_assert_uint_eq(n.lane.metrics.block_bytes, 0);
    ck_assert_int_eq(node_put(p, "k", 100), OK);
}
END_TEST

START_TEST(a_put_whose_bytes_never_come_times_out_and_leaves_nothing)
{
    n.hold = true;
    ck_assert_int_eq(node_put(p, "k", MIB(1)), 1);
    node_sleep(&n, NS_PER_S);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, ERR_TIMEOUT);
    n.hold = false;
    ck_assert_int_eq(node_get(p, "k", 100), ERR_MISS);
}
END_TEST

START_TEST(a_wrong_checksum_stores_nothing)
{
    struct node_batch b;

    batch_new(&b, &n, OP_PUT);
    batch_key(&b, "bad",
              (struct wire_key){.len = 64, .flags = KEY_CRC, .crc = 1}, NULL,
              NULL);
    batch_key(&b, "good",
              (struct wire_key){
                  .len = 64, .flags = KEY_CRC, .crc = crc32c(0, buf[1], 64)},
              NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].status, ERR_CORRUPT);
    ck_assert_int_eq(n.reply.r[1].status, OK);
    ck_assert_uint_eq(n.lane.metrics.checksum_mismatches, 1);
    ck_assert_int_eq(node_get(p, "bad", 64), ERR_MISS);
}
END_TEST

START_TEST(inline_data_is_stored_and_small_gets_come_back_inline)
{
    struct node_batch b;
    uint8_t data[300];

    p->tp.inline_max = WIRE_EAGER_MAX;
    memset(data, 7, sizeof data);
    batch_new(&b, &n, OP_PUT);
    batch_key(&b, "a", (struct wire_key){.len = 100}, NULL, NULL);
    batch_key(&b, "b", (struct wire_key){.len = 200}, NULL, NULL);
    data[100] = 8;
    batch_send(&b, p, data, sizeof data);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_int_eq(n.reply.r[1].status, OK);
    ck_assert_int_eq(node_get(p, "b", 1000), OK);
    ck_assert_uint_eq(n.reply.frame.data_len, 200);
    ck_assert_int_eq(n.reply.data[0], 8);
    ck_assert_int_eq(n.reply.data[1], 7);
}
END_TEST

START_TEST(inline_data_of_another_length_is_refused_whole)
{
    struct node_batch b;
    uint8_t data[300] = {0};

    batch_new(&b, &n, OP_PUT);
    batch_key(&b, "a", (struct wire_key){.len = 100}, NULL, NULL);
    batch_send(&b, p, data, 99);
    ck_assert_int_eq(n.reply.frame.status, ERR_BAD_REQUEST);
}
END_TEST

START_TEST(a_malformed_last_key_leaves_the_first_undone)
{
    struct node_batch b;

    batch_new(&b, &n, OP_PUT);
    batch_key(&b, "a", (struct wire_key){.len = 100}, NULL, NULL);
    batch_key(&b, "b", (struct wire_key){.len = 0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.frame.status, ERR_BAD_REQUEST);
    ck_assert_int_eq(node_get(p, "a", 100), ERR_MISS);
}
END_TEST

START_TEST(ranges_are_cut_to_the_block_and_checked)
{
    struct node_batch b;

    for (int i = 0; i < 100; i++)
        buf[0][i] = (uint8_t)i;
    ck_assert_int_eq(node_put(p, "k", 100), OK);
    batch_new(&b, &n, OP_GET);
    batch_key(&b, "k", (struct wire_key){.off = 90, .len = 50}, NULL, NULL);
    batch_key(&b, "k", (struct wire_key){.off = 100, .len = 50}, NULL, NULL);
    batch_key(&b, "k", (struct wire_key){.off = 101, .len = 50}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_uint_eq(n.reply.r[0].moved, 10);
    ck_assert_int_eq(buf[0][0], 90);
    ck_assert_int_eq(n.reply.r[1].status, OK);
    ck_assert_uint_eq(n.reply.r[1].moved, 0);
    ck_assert_int_eq(n.reply.r[2].status, ERR_LIMIT);
}
END_TEST

START_TEST(if_version_pins_the_read_to_one_put)
{
    struct node_batch b;
    uint64_t first;

    ck_assert_int_eq(node_put(p, "k", 100), OK);
    first = n.reply.r[0].version;
    batch_new(&b, &n, OP_EVICT);
    batch_key(&b, "k", (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(node_put(p, "k", 100), OK);
    ck_assert_uint_ne(n.reply.r[0].version, first);
    batch_new(&b, &n, OP_GET);
    batch_key(&b, "k", (struct wire_key){.len = 9, .version = first}, NULL,
              NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].status, ERR_VERSION);
}
END_TEST

START_TEST(a_soft_deadline_answers_what_is_ready)
{
    struct node_batch b;
    char key[16];

    for (int i = 0; i < 40; i++) {
        snprintf(key, sizeof key, "k%d", i);
        ck_assert_int_eq(node_put(p, key, 100), OK);
    }
    batch_new(&b, &n, OP_GET);
    b.head.soft_us = 1000;
    for (int i = 0; i < 40; i++) {
        snprintf(key, sizeof key, "k%d", i);
        batch_key(&b, key, (struct wire_key){.len = 100}, NULL, NULL);
    }
    n.hold = true;
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, 2 * NS_PER_MS);
    ck_assert(!n.reply.there);
    n.hold = false;
    node_let(p);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_int_eq(n.reply.r[31].status, OK);
    ck_assert_int_eq(n.reply.r[32].status, ERR_PARTIAL);
    ck_assert_uint_eq(n.reply.r[32].moved, 0);
    ck_assert_uint_eq(n.reply.r[32].len, 100);
}
END_TEST

START_TEST(a_get_under_way_keeps_its_block_from_eviction)
{
    char key[16];

    ck_assert_int_eq(node_put(p, "kept", MIB(2)), OK);
    n.hold = true;
    ck_assert_int_eq(node_get(p, "kept", MIB(2)), 1);
    n.hold = false;
    for (int i = 0; i < 20; i++) {
        struct node_peer *q = node_connect(&n, true);

        snprintf(key, sizeof key, "fill%d", i);
        q->bytes[0] = buf[5];
        ck_assert_int_eq(node_put(q, key, MIB(2)), OK);
        node_hangup(q);
        node_free_peer(q);
    }
    memset(buf[0], 0xee, MIB(2));
    node_let(p);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_int_eq(buf[0][MIB(2) - 1], 1);
}
END_TEST

START_TEST(a_put_waits_for_memory_in_use_and_then_goes_on)
{
    struct node_peer *q = node_connect(&n, true);
    struct node_batch b;
    char key[16];

    for (int i = 0; i < 8; i++) { /* all 16 MiB */
        snprintf(key, sizeof key, "k%d", i);
        ck_assert_int_eq(node_put(p, key, MIB(2)), OK);
    }
    batch_new(&b, &n, OP_GET);
    for (int i = 0; i < 8; i++) {
        snprintf(key, sizeof key, "k%d", i);
        batch_key(&b, key, (struct wire_key){.len = MIB(2)}, NULL, NULL);
    }
    n.hold = true;
    batch_send(&b, p, NULL, 0);
    n.hold = false;
    q->bytes[0] = buf[0];
    ck_assert_int_eq(node_put(q, "more", MIB(2)), 1);
    node_let(p); /* the readers end; the PUT finds room */
    node_sleep(&n, 2 * NS_PER_MS);
    ck_assert_int_eq(n.reply.frame.op, OP_PUT);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    node_hangup(q);
    node_free_peer(q);
}
END_TEST

START_TEST(a_put_that_finds_no_memory_by_its_deadline_is_busy)
{
    struct node_peer *q = node_connect(&n, true);
    struct node_batch b;
    char key[16];

    batch_new(&b, &n, OP_GET);
    b.frame.deadline_us = 10000000;
    for (int i = 0; i < 8; i++) {
        snprintf(key, sizeof key, "k%d", i);
        ck_assert_int_eq(node_put(p, key, MIB(2)), OK);
        batch_key(&b, key, (struct wire_key){.len = MIB(2)}, NULL, NULL);
    }
    n.hold = true; /* readers that hold all of it */
    batch_send(&b, p, NULL, 0);
    q->bytes[0] = buf[0];
    ck_assert_int_eq(node_put(q, "more", MIB(2)), 1);
    node_sleep(&n, 100 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, ERR_BUSY);
    n.hold = false;
    node_let(p);
    node_hangup(q);
    node_free_peer(q);
}
END_TEST

START_TEST(a_batch_larger_than_memory_goes_through_in_parts)
{
    struct node_batch b;
    char key[16];

    batch_new(&b, &n, OP_PUT);
    for (int i = 0; i < 12; i++) {
        snprintf(key, sizeof key, "k%d", i);
        batch_key(&b, key, (struct wire_key){.len = MIB(2)}, NULL, NULL);
    }
    batch_send(&b, p, NULL, 0);
    for (int i = 0; i < 12; i++)
        ck_assert_int_eq(n.reply.r[i].status, OK);
}
END_TEST

START_TEST(lookup_tells_prefix_and_stops_by_column_rules)
{
    static const char *const stored[] = {"a0", "a1", "a2", "a4", "b2"};
    struct node_batch b;
    char key[16];

    for (size_t i = 0; i < countof(stored); i++)
        ck_assert_int_eq(node_put(p, stored[i], 10), OK);
    batch_new(&b, &n, OP_LOOKUP);
    batch_column(&b, RULE_ALL, 0);
    batch_column(&b, RULE_TRAILING, 1);
    for (int i = 0; i < 5; i++) {
        snprintf(key, sizeof key, "a%d", i);
        batch_key(&b, key, (struct wire_key){0}, NULL, NULL);
        snprintf(key, sizeof key, "b%d", i);
        batch_key(&b, key, (struct wire_key){0}, NULL, NULL);
    }
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.frame.status, OK);
    ck_assert_uint_eq(n.reply.head.prefix, 3); /* a0-a2 and b2 */
    ck_assert_uint_eq(n.reply.frame.keys_len, 1);
    ck_assert_int_eq(n.reply.keys[0], 1 << 2);
    ck_assert_int_eq(n.reply.r[0].state, STATE_HIT);
    ck_assert_int_eq(n.reply.r[1].state, STATE_MISS);
    ck_assert_int_eq(n.reply.r[8].state, STATE_HIT);
}
END_TEST

START_TEST(lookup_pins_its_hits_and_the_pin_ends)
{
    struct node_batch b;

    ck_assert_int_eq(node_put(p, "k", 4096), OK);
    batch_new(&b, &n, OP_LOOKUP);
    batch_column(&b, RULE_ALL, 0);
    b.head.pin_ttl_ms = 100;
    batch_key(&b, "k", (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].flags, RESULT_PINNED);
    ck_assert_uint_eq(store_pinned_bytes(n.lane.store), 4096);
    node_sleep(&n, 101 * NS_PER_MS);
    ck_assert_uint_eq(store_pinned_bytes(n.lane.store), 0);
}
END_TEST

static int pin(struct node_peer *q, enum op_id op, const char *key)
{
    struct node_batch b;

    batch_new(&b, &n, op);
    batch_key(&b, key, (struct wire_key){0}, NULL, NULL);
    batch_send(&b, q, NULL, 0);
    return n.reply.r[0].status;
}

START_TEST(pins_are_capped_and_end_with_the_connection)
{
    struct node_peer *q = node_connect(&n, true);
    char key[16];

    for (int i = 0; i < 17; i++) {
        snprintf(key, sizeof key, "k%d", i);
        ck_assert_int_eq(node_put(p, key, 100), OK);
        ck_assert_int_eq(pin(q, OP_PIN, key), i < 16 ? OK : ERR_PIN_LIMIT);
    }
    ck_assert_int_eq(pin(q, OP_PIN, "k0"), OK); /* again: no second pin */
    ck_assert_int_eq(pin(p, OP_UNPIN, "k0"), ERR_MISS); /* not his */
    ck_assert_int_eq(pin(q, OP_UNPIN, "k0"), OK);
    ck_assert_int_eq(pin(q, OP_PIN, "k16"), OK);
    ck_assert_int_eq(pin(q, OP_PIN, "none"), ERR_MISS);
    node_hangup(q);
    node_free_peer(q);
    ck_assert_uint_eq(store_pinned_bytes(n.lane.store), 0);
}
END_TEST

static uint32_t evict(enum wire_select by, const char *key, uint64_t label,
                      uint8_t scope)
{
    struct node_batch b;
    struct wire_attr attr = {.label0 = label};
    struct wire_key rec = {.scope = {scope}};

    batch_new(&b, &n, OP_EVICT);
    b.head.select = (uint8_t)by;
    batch_key(&b, key, rec, NULL, label ? &attr : NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.frame.status, OK);
    return n.reply.head.count;
}

static void put_attr(const char *key, const char *parent, uint64_t label,
                     uint8_t scope)
{
    struct node_batch b;
    struct wire_attr attr = {.label2 = label};

    batch_new(&b, &n, OP_PUT);
    batch_key(&b, key, (struct wire_key){.len = 10, .scope = {scope}}, parent,
              &attr);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].status, OK);
}

START_TEST(evict_by_key_chain_label_scope_namespace)
{
    put_attr("r", NULL, 1, 0);
    put_attr("r.1", "r", 1, 0);
    put_attr("r.1.1", "r.1", 2, 0);
    put_attr("r.2", "r", 2, 0);
    put_attr("s", NULL, 3, 9);
    put_attr("t", NULL, 3, 0);
    ck_assert_uint_eq(evict(SELECT_CHAIN, "r.1", 0, 0), 2);
    ck_assert_int_eq(node_get(p, "r.1.1", 10), ERR_MISS);
    ck_assert_int_eq(node_get(p, "r", 10), OK);
    ck_assert_uint_eq(evict(SELECT_LABEL, "x", 2, 0), 1);
    ck_assert_int_eq(node_get(p, "r.2", 10), ERR_MISS);
    ck_assert_uint_eq(evict(SELECT_SCOPE, "x", 0, 9), 1);
    ck_assert_uint_eq(evict(SELECT_KEYS, "t", 0, 0), 1);
    ck_assert_uint_eq(evict(SELECT_NAMESPACE, "x", 0, 0), 1);
    ck_assert_uint_eq(n.lane.metrics.blocks, 0);
}
END_TEST

START_TEST(a_bump_makes_everything_before_it_unreachable)
{
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    char name[] = "test";
    uint64_t old = n.generation;

    ck_assert_int_eq(node_put(p, "k", 100), OK);
    m.name = name;
    m.bump = true;
    node_msg(p, OP_NAMESPACE, &m);
    ck_assert_int_eq(n.reply.frame.status, OK);
    ck_assert_int_eq(node_get(p, "k", 100), ERR_STALE_GENERATION);
    node_open(&n, p, "lru");
    ck_assert_uint_gt(n.generation, old);
    ck_assert_int_eq(node_get(p, "k", 100), ERR_MISS);
    ck_assert_int_eq(node_put(p, "k", 100), OK);
}
END_TEST

START_TEST(a_bump_ends_a_put_that_waits)
{
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    char name[] = "test";

    n.hold = true;
    ck_assert_int_eq(node_put(p, "k", 100), 1);
    m.name = name;
    m.bump = true;
    n.hold = false;
    node_msg(p, OP_NAMESPACE, &m);
    node_let(p); /* commits in the old generation, or fails: never visible */
    node_open(&n, p, "lru");
    ck_assert_int_eq(node_get(p, "k", 100), ERR_MISS);
}
END_TEST

START_TEST(unknown_namespaces_are_refused)
{
    n.ns += 7;
    ck_assert_int_eq(node_put(p, "k", 1), ERR_NO_NAMESPACE);
}
END_TEST

START_TEST(more_requests_than_credits_are_busy)
{
    n.cfg.limits.ops_per_client = 2;
    n.hold = true;
    ck_assert_int_eq(node_put(p, "a", 10), 1);
    ck_assert_int_eq(node_put(p, "b", 10), 1);
    ck_assert_int_eq(node_put(p, "c", 10), ERR_BUSY);
    ck_assert_uint_eq(n.lane.metrics.busy_refusals, 1);
    n.hold = false;
    node_let(p);
    ck_assert_int_eq(node_put(p, "c", 10), OK);
}
END_TEST

/* Over UCX the bytes follow the request: every key is pulled or skipped, or
 * the transport would hold them until the connection ends. */
START_TEST(bytes_nobody_pulls_are_skipped)
{
    struct node_batch b;
    uint32_t ns = n.ns;

    n.ns += 7; /* fails as a whole */
    batch_new(&b, &n, OP_PUT);
    batch_key(&b, "a", (struct wire_key){.len = 10}, NULL, NULL);
    batch_key(&b, "b", (struct wire_key){.len = 10}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.frame.status, ERR_NO_NAMESPACE);
    ck_assert_uint_eq(n.skips, 2);
    n.ns = ns;
    ck_assert_int_eq(node_put(p, "a", 10), OK);
    ck_assert_uint_eq(n.skips, 2);
    ck_assert_int_eq(node_put(p, "a", 10), ERR_EXISTS);
    ck_assert_uint_eq(n.skips, 3);
    n.lane.draining = true; /* refused before it gets an op */
    ck_assert_int_eq(node_put(p, "c", 10), ERR_DRAINING);
    ck_assert_uint_eq(n.skips, 4);
    n.lane.draining = false;
}
END_TEST

START_TEST(a_client_that_does_not_read_is_closed)
{
    struct node_peer *q = node_connect(&n, true);

    n.hold_sends = true;
    q->bytes[0] = buf[0];
    ck_assert_int_eq(node_put(q, "k", 10), 1);
    node_sleep(&n, n.cfg.limits.slow_reader_us * NS_PER_US + 1);
    ck_assert(q->told);
    ck_assert_uint_eq(n.lane.metrics.peers_closed_slow, 1);
    n.hold_sends = false;
    node_free_peer(q);
}
END_TEST

START_TEST(blocks_with_a_ttl_expire)
{
    struct node_batch b;
    struct wire_attr attr = {.ttl_ms = 2000};

    batch_new(&b, &n, OP_PUT);
    batch_key(&b, "k", (struct wire_key){.len = 10}, NULL, &attr);
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, NS_PER_S);
    ck_assert_int_eq(node_get(p, "k", 10), OK);
    node_sleep(&n, 3 * NS_PER_S);
    ck_assert_int_eq(node_get(p, "k", 10), ERR_MISS);
}
END_TEST

START_TEST(inspect_and_stat_tell_what_is_there)
{
    Pikv__InspectRequest m = PIKV__INSPECT_REQUEST__INIT;
    Pikv__StatRequest s = PIKV__STAT_REQUEST__INIT;
    const Pikv__InspectReply *rep;
    const Pikv__StatReply *st;
    uint8_t mem[1 << 16], key[] = "r.1";
    char prefix[] = "put_stored";
    struct arena a;

    put_attr("r", NULL, 1, 0);
    put_attr("r.1", "r", 5, 0);
    m.ns = n.ns;
    m.key.data = key;
    m.key.len = 3;
    node_msg(p, OP_INSPECT, &m);
    ck_assert_int_eq(n.reply.frame.status, OK);
    arena_init(&a, mem, sizeof mem);
    rep = msg_unpack(&pikv__inspect_reply__descriptor, &a, n.reply.env,
                     n.reply.frame.env_len);
    ck_assert_uint_eq(rep->n_blocks, 1);
    ck_assert_uint_eq(rep->blocks[0]->labels[0], 5);
    ck_assert_mem_eq(rep->blocks[0]->parent.data, "r", 1);
    ck_assert_str_eq(rep->blocks[0]->state, "LIVE");
    m.what = PIKV__INSPECT_REQUEST__WHAT__KEYS;
    node_msg(p, OP_INSPECT, &m);
    rep = msg_unpack(&pikv__inspect_reply__descriptor, &a, n.reply.env,
                     n.reply.frame.env_len);
    ck_assert_uint_eq(rep->n_blocks, 2);
    ck_assert_uint_eq(rep->next_cursor, 0);
    s.prefix = prefix;
    node_msg(p, OP_STAT, &s);
    st = msg_unpack(&pikv__stat_reply__descriptor, &a, n.reply.env,
                    n.reply.frame.env_len);
    ck_assert_uint_eq(st->n_items, 1);
    ck_assert_uint_eq(st->items[0]->value, 2);
}
END_TEST

START_TEST(reload_is_for_the_daemons_user_only)
{
    Pikv__Empty m = PIKV__EMPTY__INIT;

    n.lane.own_uid = 1000;
    node_msg(p, OP_RELOAD, &m); /* a network: nobody vouches for uid 0 */
    ck_assert_int_eq(n.reply.frame.status, ERR_DENIED);
    p->tp.cred = (struct tp_cred){.pid = 1, .uid = 1001};
    node_msg(p, OP_RELOAD, &m);
    ck_assert_int_eq(n.reply.frame.status, ERR_DENIED);
    p->tp.cred.uid = 1000;
    node_msg(p, OP_RELOAD, &m);
    ck_assert_int_ne(n.reply.frame.status, ERR_DENIED);
}
END_TEST

/* The n-th fallible leaf fails, for all n: every answer is typed, and when the
 * fault is over the same request succeeds and nothing was lost. */
static void fault_scenario(void)
{
    struct node_batch b;

    (void)node_put(p, "fault", KIB(64));
    (void)node_get(p, "fault", KIB(64));
    batch_new(&b, &n, OP_LOOKUP);
    batch_column(&b, RULE_ALL, 0);
    b.head.pin_ttl_ms = 10;
    batch_key(&b, "fault", (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    (void)pin(p, OP_EVICT, "fault");
}

START_TEST(every_fault_is_survived)
{
    uint32_t i;

    for (i = 1; i < 1000; i++) {
        fault_arm(i);
        fault_scenario();
        if (!fault_hit())
            break;
        fault_arm(0);
        node_sleep(&n, NS_PER_S);
        ck_assert(!p->closed);
        ck_assert_uint_eq(pool_used(&n.lane.ops), 0);
        store_check(n.lane.store);
        ck_assert_int_eq(node_put(p, "after", 100), OK);
        ck_assert_uint_eq(evict(SELECT_KEYS, "after", 0, 0), 1);
    }
    fault_arm(0);
    ck_assert_uint_gt(i, 2); /* some faults did fire */
    ck_assert_uint_lt(i, 1000);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ops");
    TCase *t = tcase_create("ops");

    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t, nothing_is_answered_before_hello);
    tcase_add_test(t, a_connection_that_never_says_hello_is_closed);
    tcase_add_test(t, hello_of_another_version_is_refused);
    tcase_add_test(t, what_a_newer_client_adds_is_skipped);
    tcase_add_test(t, operations_laid_out_for_later_say_so);
    tcase_add_test(t, put_then_get_gives_the_bytes_crc_and_length);
    tcase_add_test(t, a_durable_put_is_refused_where_nothing_is_durable);
    tcase_add_test(t, a_key_is_put_once);
    tcase_add_test(t, a_key_being_put_is_pending_to_everyone);
    tcase_add_test(t, a_half_done_put_leaves_nothing_when_its_client_goes);
    tcase_add_test(t,
                   a_put_whose_bytes_never_come_times_out_and_leaves_nothing);
    tcase_add_test(t, a_wrong_checksum_stores_nothing);
    tcase_add_test(t, inline_data_is_stored_and_small_gets_come_back_inline);
    tcase_add_test(t, inline_data_of_another_length_is_refused_whole);
    tcase_add_test(t, a_malformed_last_key_leaves_the_first_undone);
    tcase_add_test(t, ranges_are_cut_to_the_block_and_checked);
    tcase_add_test(t, if_version_pins_the_read_to_one_put);
    tcase_add_test(t, a_soft_deadline_answers_what_is_ready);
    tcase_add_test(t, a_get_under_way_keeps_its_block_from_eviction);
    tcase_add_test(t, a_put_waits_for_memory_in_use_and_then_goes_on);
    tcase_add_test(t, a_put_that_finds_no_memory_by_its_deadline_is_busy);
    tcase_add_test(t, a_batch_larger_than_memory_goes_through_in_parts);
    tcase_add_test(t, lookup_tells_prefix_and_stops_by_column_rules);
    tcase_add_test(t, lookup_pins_its_hits_and_the_pin_ends);
    tcase_add_test(t, pins_are_capped_and_end_with_the_connection);
    tcase_add_test(t, evict_by_key_chain_label_scope_namespace);
    tcase_add_test(t, a_bump_makes_everything_before_it_unreachable);
    tcase_add_test(t, a_bump_ends_a_put_that_waits);
    tcase_add_test(t, unknown_namespaces_are_refused);
    tcase_add_test(t, more_requests_than_credits_are_busy);
    tcase_add_test(t, bytes_nobody_pulls_are_skipped);
    tcase_add_test(t, a_client_that_does_not_read_is_closed);
    tcase_add_test(t, blocks_with_a_ttl_expire);
    tcase_add_test(t, inspect_and_stat_tell_what_is_there);
    tcase_add_test(t, reload_is_for_the_daemons_user_only);
    tcase_add_test(t, every_fault_is_survived);
    suite_add_tcase(s, t);
    return s;
}
