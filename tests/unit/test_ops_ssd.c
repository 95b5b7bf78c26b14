/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * GET, PUT and EVICT over memory and an SSD, one request at a time, against a
 * real lane, store and log; the disk is memory with a virtual clock. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"
#include "lib/node_ssd.h"

/* ---- GET */

START_TEST(a_get_from_the_ssd_gives_the_bytes_and_says_where_they_were)
{
    put_cold("k", 100000);
    ck_assert_int_eq(get_same("k", 100000), OK);
    ck_assert_uint_eq(n.reply.r[0].tier, 1);
    ck_assert_uint_eq(n.reply.r[0].moved, 100000);
    ck_assert_uint_eq(n.reply.r[0].crc, crc32c(0, buf[0], 100000));
    ck_assert_uint_eq(n.lane.metrics.get_ssd_hits, 1);
    ck_assert_uint_eq(n.lane.metrics.get_hits, 1);
    ck_assert_int_eq(get_same("k", 100000), OK);
    ck_assert_uint_eq(n.reply.r[0].tier, 0);
    ck_assert_uint_eq(n.lane.metrics.get_ssd_hits, 1);
}
END_TEST

START_TEST(hot_cold_and_missing_keys_of_a_batch_each_get_their_answer)
{
    const char *keys[] = {"hot", "cold", "never", "cold2"};
    struct node_batch b;

    put_cold("cold", 5000);
    put_cold("cold2", 9000);
    ck_assert_int_eq(put("hot", 7000), OK);
    batch_new(&b, &n, OP_GET);
    for (uint32_t i = 0; i < 4; i++)
        batch_key(&b, keys[i], (struct wire_key){.len = 10000}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_int_eq(n.reply.r[1].status, OK);
    ck_assert_int_eq(n.reply.r[2].status, ERR_MISS);
    ck_assert_int_eq(n.reply.r[3].status, OK);
    ck_assert_uint_eq(n.reply.r[0].tier, 0);
    ck_assert_uint_eq(n.reply.r[3].tier, 1);
    ck_assert(same(buf[0], "hot", 7000));
    ck_assert(same(buf[1], "cold", 5000));
    ck_assert(same(buf[3], "cold2", 9000));
}
END_TEST

/* The message carries the bytes: in key order, without those that failed. */
START_TEST(small_cold_blocks_ride_in_the_reply)
{
    const char *keys[] = {"cold", "never", "hot", "cold2"};
    struct node_batch b;

    put_cold("cold", 5000);
    put_cold("cold2", 3000);
    ck_assert_int_eq(put("hot", 2000), OK);
    p->tp.inline_max = 56 << 10;
    batch_new(&b, &n, OP_GET);
    for (uint32_t i = 0; i < 4; i++)
        batch_key(&b, keys[i], (struct wire_key){.len = 10000}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert(n.reply.there);
    ck_assert_uint_eq(n.reply.frame.data_len, 10000);
    ck_assert(same(n.reply.data, "cold", 5000));
    ck_assert(same(n.reply.data + 5000, "hot", 2000));
    ck_assert(same(n.reply.data + 7000, "cold2", 3000));
}
END_TEST

START_TEST(a_range_and_a_version_are_served_from_the_ssd)
{
    uint64_t version;
    struct node_batch b;

    put_cold("k", 50000);
    ck_assert_int_eq(key_op(OP_LOOKUP, 0, "k"), OK);
    version = n.reply.r[0].version;
    batch_new(&b, &n, OP_GET);
    batch_key(&b, "k", (struct wire_key){.len = 9, .version = version + 1},
              NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].status, ERR_VERSION);
    ck_assert_uint_eq(n.lane.metrics.ssd_loads, 0);
    fill(buf[1], "k", 50000);
    batch_new(&b, &n, OP_GET);
    batch_key(&b, "k",
              (struct wire_key){.len = 9, .off = 4000, .version = version},
              NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_uint_eq(n.reply.r[0].moved, 9);
    ck_assert_mem_eq(buf[0], buf[1] + 4000, 9);
}
END_TEST

START_TEST(a_batch_larger_than_memory_streams_through)
{
    struct node_batch b;
    char key[8];

    for (uint32_t i = 0; i < 40; i++) {
        snprintf(key, sizeof key, "k%u", i);
        ck_assert_int_eq(put(key, 900000), OK);
        node_sleep(&n, 20 * NS_PER_MS);
    }
    ck_assert_uint_gt(n.lane.metrics.cold_blocks, 10);
    batch_new(&b, &n, OP_GET);
    for (uint32_t i = 0; i < 40; i++) {
        snprintf(key, sizeof key, "k%u", i);
        batch_key(&b, key, (struct wire_key){.len = NODE_BUF}, NULL, NULL);
    }
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, 40 * NS_PER_MS);
    ck_assert(n.reply.there);
    for (uint32_t i = 0; i < 40; i++) {
        snprintf(key, sizeof key, "k%u", i);
        ck_assert_int_eq(n.reply.r[i].status, OK);
        ck_assert(same(buf[i], key, 900000));
    }
}
END_TEST

START_TEST(a_deadline_that_passes_during_a_load_answers_timeout)
{
    put_cold("k", 5000);
    n.disk.cfg.latency_ns = NS_PER_S;
    ck_assert_int_eq(get("k", 5000), 1);
    node_sleep(&n, 60 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, ERR_TIMEOUT);
    node_sleep(&n, 2 * NS_PER_S);
    n.disk.cfg.latency_ns = 0;
    ck_assert_int_eq(get_same("k", 5000), OK);
}
END_TEST

START_TEST(after_the_soft_deadline_what_is_cold_is_left_out)
{
    struct node_batch b;

    put_cold("cold", 5000);
    ck_assert_int_eq(put("hot", 5000), OK);
    n.disk.cfg.latency_ns = 20 * NS_PER_MS;
    batch_new(&b, &n, OP_GET);
    b.head.soft_us = 3000;
    batch_key(&b, "cold", (struct wire_key){.len = 5000}, NULL, NULL);
    batch_key(&b, "hot", (struct wire_key){.len = 5000}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert(!n.reply.there);
    node_sleep(&n, 4 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, ERR_PARTIAL);
    ck_assert_int_eq(n.reply.r[1].status, OK);
    node_sleep(&n, NS_PER_S);
}
END_TEST

START_TEST(a_client_that_goes_during_a_load_leaves_nothing_behind)
{
    struct node_peer *q = node_connect(&n, true);
    uint32_t block;

    put_cold("k", 5000);
    q->bytes[0] = buf[1];
    n.disk.cfg.latency_ns = NS_PER_S;
    ck_assert_int_eq(node_get(q, "k", 5000), 1);
    node_hangup(q);
    ck_assert(q->told);
    ck_assert_uint_eq(pool_used(&n.lane.ops), 0);
    node_free_peer(q);
    node_sleep(&n, 2 * NS_PER_S);
    n.disk.cfg.latency_ns = 0;
    ck_assert_int_eq(get_same("k", 5000), OK);
    (void)where("k", &block);
    ck_assert_uint_ne(block, 0);
}
END_TEST

START_TEST(two_who_want_the_same_cold_block_share_its_load)
{
    struct node_peer *q = node_connect(&n, true);

    put_cold("k", 5000);
    q->bytes[0] = buf[1];
    n.disk.cfg.latency_ns = NS_PER_MS;
    ck_assert_int_eq(get("k", 5000), 1);
    ck_assert_int_eq(node_get(q, "k", 5000), 1);
    node_sleep(&n, 10 * NS_PER_MS);
    ck_assert_uint_eq(n.lane.metrics.ssd_loads, 1);
    ck_assert(same(buf[0], "k", 5000));
    ck_assert(same(buf[1], "k", 5000));
    node_hangup(q);
    node_free_peer(q);
}
END_TEST

START_TEST(a_block_that_is_not_as_it_was_written_is_a_miss)
{
    put_cold("k", 5000);
    spoil();
    ck_assert_int_eq(get("k", 5000), ERR_MISS);
    ck_assert_uint_eq(n.lane.metrics.get_miss_corrupt, 1);
    ck_assert_int_eq(put("k", 5000), OK);
}
END_TEST

/* ---- PUT */

static const struct wire_attr durable = {.flags = ATTR_DURABLE};

START_TEST(a_durable_put_is_answered_when_it_is_flushed)
{
    uint64_t flushes = media->flushes;

    n.disk.cfg.latency_ns = NS_PER_MS;
    ck_assert_int_eq(put_attr("k", 5000, &durable, NULL), 1);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_uint_eq(n.reply.r[0].moved, 5000);
    ck_assert_uint_gt(media->flushes, flushes);
}
END_TEST

START_TEST(what_cannot_be_made_durable_says_so_and_stays_in_memory)
{
    n.disk.fault = (struct disk_mem_fault){.mask = MEM_WRITES | MEM_FLUSHES,
                                           .nth = 1,
                                           .forever = true,
                                           .err = ERR_IO};
    (void)put_attr("k", 5000, &durable, NULL);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, ERR_NOT_DURABLE);
    ck_assert_int_eq(get_same("k", 5000), OK);
    (void)put_attr("k", 5000, &durable, NULL);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert_int_eq(n.reply.r[0].status, ERR_NOT_DURABLE);
    ck_assert_int_eq(put("other", 5000), OK);
}
END_TEST

START_TEST(a_durable_put_of_a_stored_key_makes_that_durable)
{
    uint64_t flushes;

    ck_assert_int_eq(put("hot", 5000), OK);
    put_cold("cold", 5000);
    flushes = media->flushes;
    (void)put_attr("hot", 5000, &durable, NULL);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert_int_eq(n.reply.r[0].status, ERR_EXISTS);
    ck_assert_uint_gt(media->flushes, flushes);
    flushes = media->flushes;
    (void)put_attr("cold", 5000, &durable, NULL);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert_int_eq(n.reply.r[0].status, ERR_EXISTS);
    ck_assert_uint_gt(media->flushes, flushes);
}
END_TEST

START_TEST(a_client_that_goes_during_a_durable_put_leaves_nothing_behind)
{
    struct node_peer *q = node_connect(&n, true);
    struct node_batch b;

    q->bytes[0] = buf[1];
    n.disk.cfg.latency_ns = NS_PER_MS;
    batch_new(&b, &n, OP_PUT);
    batch_key(&b, "k", (struct wire_key){.len = 5000}, NULL, &durable);
    batch_send(&b, q, NULL, 0);
    node_hangup(q);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert_uint_eq(pool_used(&n.lane.ops), 0);
    node_free_peer(q);
}
END_TEST

/* ---- EVICT */

START_TEST(what_was_dropped_does_not_come_back_after_a_restart)
{
    for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
        put_cold("a", 5000);
        ck_assert_int_eq(put("b", 5000), OK);
        node_sleep(&n, 20 * NS_PER_MS);
        put_cold("c", 6000);
        ck_assert_int_eq(key_op(OP_EVICT, 0, "a"), OK);
        ck_assert_int_eq(key_op(OP_EVICT, 0, "b"), OK);
        ck_assert_int_eq(get("a", 5000), ERR_MISS);
        again(checkpoint);
        ck_assert_int_eq(get("a", 5000), ERR_MISS);
        ck_assert_int_eq(get("b", 5000), ERR_MISS);
        ck_assert_int_eq(get_same("c", 6000), OK);
        ck_assert_int_eq(key_op(OP_EVICT, 0, "c"), OK);
    }
}
END_TEST

START_TEST(a_drop_that_cannot_be_made_durable_says_so)
{
    put_cold("k", 5000);
    n.disk.fault = (struct disk_mem_fault){
        .mask = MEM_WRITES, .nth = 1, .forever = true, .err = ERR_IO};
    ck_assert_int_eq(key_op(OP_EVICT, 0, "k"), ERR_NOT_DURABLE);
    ck_assert_int_eq(get("k", 5000), ERR_MISS);
}
END_TEST

START_TEST(demoted_blocks_leave_memory_and_are_still_there)
{
    uint64_t before;

    ck_assert_int_eq(put("k", KIB(512)), OK);
    before = n.lane.metrics.block_bytes;
    ck_assert_int_eq(key_op(OP_EVICT, BATCH_DEMOTE, "k"), OK);
    ck_assert_uint_eq(n.reply.head.count, 1);
    ck_assert_uint_eq(n.lane.metrics.block_bytes, before - KIB(512));
    ck_assert_int_eq(key_op(OP_EVICT, BATCH_DEMOTE, "k"), OK);
    ck_assert_uint_eq(n.reply.head.count, 0);
    ck_assert_int_eq(get_same("k", KIB(512)), OK);
}
END_TEST

static void evict_by(enum wire_select by, const char *key, struct wire_key rec,
                     const struct wire_attr *attr, uint32_t count)
{
    struct node_batch b;

    batch_new(&b, &n, OP_EVICT);
    b.frame.deadline_us = 900000;
    b.head.select = (uint8_t)by;
    batch_key(&b, key, rec, NULL, attr);
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, 100 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.frame.status, OK);
    ck_assert_uint_eq(n.reply.head.count, count);
}

START_TEST(evict_by_pattern_meets_hot_and_cold_blocks)
{
    const char *keys[] = {"user/1/a", "user/1/b", "user/2/a", "model", "user/"};

    for (uint32_t i = 0; i < countof(keys); i++) {
        if (i % 2)
            ck_assert_int_eq(put(keys[i], 3000), OK);
        else
            put_cold(keys[i], 3000);
    }
    evict_by(SELECT_PATTERN, "user/?/*", (struct wire_key){0}, NULL, 3);
    ck_assert_int_eq(get("user/1/a", 3000), ERR_MISS);
    ck_assert_int_eq(get_same("user/", 3000), OK);
    ck_assert_int_eq(get_same("model", 3000), OK);
    evict_by(SELECT_PATTERN, "*", (struct wire_key){0}, NULL, 2);
}
END_TEST

START_TEST(evict_by_pattern_meets_more_cold_blocks_than_it_reads_at_a_time)
{
    char key[16];

    for (uint32_t i = 0; i < 60; i++) {
        snprintf(key, sizeof key, "%c/%u", i % 3 ? 'a' : 'b', i);
        put_cold(key, 1000);
    }
    n.disk.cfg.latency_ns = NS_PER_US * 100;
    evict_by(SELECT_PATTERN, "a/*", (struct wire_key){0}, NULL, 40);
    ck_assert_uint_eq(n.lane.metrics.cold_blocks, 20);
}
END_TEST

START_TEST(evict_by_label_meets_cold_blocks)
{
    const struct wire_attr seven = {.label1 = 7}, eight = {.label0 = 8};

    put_cold_attr("a", 3000, &seven, NULL);
    put_cold_attr("b", 3000, &eight, NULL);
    ck_assert_int_eq(put_attr("c", 3000, &seven, NULL), OK);
    evict_by(SELECT_LABEL, "", (struct wire_key){0}, &seven, 2);
    ck_assert_int_eq(get("a", 3000), ERR_MISS);
    ck_assert_int_eq(get_same("b", 3000), OK);
}
END_TEST

START_TEST(evict_by_chain_follows_cold_blocks)
{
    put_cold("root", 3000);
    put_cold_attr("child", 3000, NULL, "root");
    ck_assert_int_eq(put_attr("grandchild", 3000, NULL, "child"), OK);
    put_cold("other", 3000);
    evict_by(SELECT_CHAIN, "root", (struct wire_key){0}, NULL, 3);
    ck_assert_int_eq(get("child", 3000), ERR_MISS);
    ck_assert_int_eq(get_same("other", 3000), OK);
}
END_TEST

/* ---- Faults: of pools and checks (fault.h), then of the device */

static void scenario(void)
{
    const enum op_id ops[] = {OP_LOOKUP, OP_PREFETCH, OP_PIN, OP_UNPIN,
                              OP_EVICT};
    struct node_batch b;

    (void)put_attr("a", 3000, &durable, NULL);
    node_sleep(&n, 20 * NS_PER_MS); /* the bytes are read from buf[0] */
    (void)put_attr("b", 3000, NULL, "a");
    node_sleep(&n, 20 * NS_PER_MS);
    (void)key_op(OP_EVICT, BATCH_DEMOTE, "a");
    (void)key_op(OP_EVICT, BATCH_DEMOTE, "b");
    ck_assert_int_ne(get_same("a", 3000), ERR_CORRUPT);
    (void)key_op(OP_EVICT, BATCH_DEMOTE, "a");
    for (uint32_t i = 0; i < countof(ops); i++)
        (void)key_op(ops[i], BATCH_PROMOTE, "a");
    batch_new(&b, &n, OP_EVICT);
    b.head.select = SELECT_PATTERN;
    batch_key(&b, "*", (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, 100 * NS_PER_MS);
    ck_assert(n.reply.there);
}

static void still_well(void)
{
    node_sleep(&n, NS_PER_S);
    ck_assert(!p->closed);
    ck_assert_uint_eq(pool_used(&n.lane.ops), 0);
    store_check(n.lane.store);
    ck_assert_int_eq(key_op(OP_LOOKUP, 0, "after"), ERR_MISS);
    ck_assert_int_eq(put("after", 100), OK);
    ck_assert_int_eq(get_same("after", 100), OK);
    (void)key_op(OP_EVICT, 0, "after");
}

START_TEST(every_fault_is_survived)
{
    uint32_t i;

    for (i = 1; i < 1000; i++) {
        fault_arm(i);
        scenario();
        if (!fault_hit())
            break;
        fault_arm(0);
        still_well();
    }
    fault_arm(0);
    ck_assert_uint_gt(i, 10);
    ck_assert_uint_lt(i, 1000);
}
END_TEST

START_TEST(every_io_may_fail_and_memory_serves_on)
{
    for (uint32_t i = 1; i < 40; i++) {
        n.disk.fault = (struct disk_mem_fault){
            .mask = MEM_ALL, .nth = i, .forever = i % 2, .err = ERR_IO};
        scenario();
        still_well();
        n.disk.fault = (struct disk_mem_fault){0};
        again(false);
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ops_ssd");
    TCase *t = tcase_create("ops");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t,
                   a_get_from_the_ssd_gives_the_bytes_and_says_where_they_were);
    tcase_add_test(t,
                   hot_cold_and_missing_keys_of_a_batch_each_get_their_answer);
    tcase_add_test(t, small_cold_blocks_ride_in_the_reply);
    tcase_add_test(t, a_range_and_a_version_are_served_from_the_ssd);
    tcase_add_test(t, a_batch_larger_than_memory_streams_through);
    tcase_add_test(t, a_deadline_that_passes_during_a_load_answers_timeout);
    tcase_add_test(t, after_the_soft_deadline_what_is_cold_is_left_out);
    tcase_add_test(t, a_client_that_goes_during_a_load_leaves_nothing_behind);
    tcase_add_test(t, two_who_want_the_same_cold_block_share_its_load);
    tcase_add_test(t, a_block_that_is_not_as_it_was_written_is_a_miss);
    tcase_add_test(t, a_durable_put_is_answered_when_it_is_flushed);
    tcase_add_test(t, what_cannot_be_made_durable_says_so_and_stays_in_memory);
    tcase_add_test(t, a_durable_put_of_a_stored_key_makes_that_durable);
    tcase_add_test(
        t, a_client_that_goes_during_a_durable_put_leaves_nothing_behind);
    tcase_add_test(t, what_was_dropped_does_not_come_back_after_a_restart);
    tcase_add_test(t, a_drop_that_cannot_be_made_durable_says_so);
    tcase_add_test(t, demoted_blocks_leave_memory_and_are_still_there);
    tcase_add_test(t, evict_by_pattern_meets_hot_and_cold_blocks);
    tcase_add_test(
        t, evict_by_pattern_meets_more_cold_blocks_than_it_reads_at_a_time);
    tcase_add_test(t, evict_by_label_meets_cold_blocks);
    tcase_add_test(t, evict_by_chain_follows_cold_blocks);
    tcase_add_test(t, every_fault_is_survived);
    tcase_add_test(t, every_io_may_fail_and_memory_serves_on);
    suite_add_tcase(s, t);
    return s;
}
