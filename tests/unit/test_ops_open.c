/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * One block by several writers: begin, join, write, commit, and every answer
 * that a correct writer can get. How it ends otherwise: test_ops_open_end.c. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "lib/node_open.h"

static const uint64_t LEN = MIB(1) + 1000;

START_TEST(an_open_block_is_pending_to_everyone)
{
    struct node_peer *q = join();

    ck_assert_int_eq(open_block(p, "k", LEN, 2), OK);
    ck_assert_uint_ne(token(), 0);
    ck_assert_int_eq(state_of("k"), STATE_PENDING);
    ck_assert_int_eq(node_get(q, "k", LEN), ERR_PENDING);
    ck_assert_int_eq(node_put(q, "k", LEN), ERR_PENDING);
    ck_assert_uint_eq(n.lane.metrics.open_blocks, 1);
    ck_assert_uint_eq(n.lane.metrics.open_bytes, LEN);
    leave(q);
}
END_TEST

START_TEST(two_writers_make_one_block)
{
    struct node_peer *q = join();
    uint64_t t;

    ck_assert_int_eq(open_block(p, "k", LEN, 2), OK);
    t = token();
    ck_assert_int_eq(open_block(q, "k", LEN, 2), OK);
    ck_assert_uint_eq(token(), t);
    ck_assert_int_eq(write_at(q, "k", t, MIB(1), 1000), OK);
    ck_assert_uint_eq(n.reply.r[0].moved, 1000);
    ck_assert_int_eq(commit(q, "k", t, 1), ERR_PENDING);
    ck_assert_int_eq(state_of("k"), STATE_PENDING);
    ck_assert_int_eq(write_at(p, "k", t, 0, MIB(1)), OK);
    ck_assert_int_eq(state_of("k"), STATE_PENDING);
    ck_assert_int_eq(commit(p, "k", t, 0), OK);
    ck_assert_uint_eq(n.reply.r[0].crc, crc32c(0, whole, LEN));
    ck_assert_uint_eq(n.reply.r[0].len, LEN);
    ck_assert_uint_ne(n.reply.r[0].version, 0);
    ck_assert_int_eq(state_of("k"), STATE_HIT);
    ck_assert_int_eq(get_same("k", LEN), OK);
    ck_assert_uint_eq(n.reply.r[0].crc, crc32c(0, whole, LEN));
    ck_assert_uint_eq(n.lane.metrics.open_blocks, 0);
    ck_assert_uint_eq(n.lane.metrics.open_aborted, 0);
    ck_assert_uint_eq(n.lane.metrics.bytes_in, LEN);
    leave(q);
    ck_assert_int_eq(get_same("k", LEN), OK);
}
END_TEST

START_TEST(layer_by_layer_in_any_order)
{
    enum { LAYERS = 16, LAYER = 5000 };
    uint64_t t;

    ck_assert_int_eq(open_block(p, "k", LAYERS * LAYER, 1), OK);
    t = token();
    for (uint64_t i = 0; i < LAYERS; i++)
        ck_assert_int_eq(write_at(p, "k", t, i * 5 % LAYERS * LAYER, LAYER),
                         OK);
    ck_assert_int_eq(commit(p, "k", t, 0), OK);
    ck_assert_int_eq(get_same("k", LAYERS * LAYER), OK);
}
END_TEST

START_TEST(many_ranges_in_one_request)
{
    struct node_batch b;

    ck_assert_int_eq(open_block(p, "k", 4000, 1), OK);
    batch_new(&b, &n, OP_PUT_WRITE);
    for (uint64_t i = 0; i < 40; i++) {
        uint64_t off = (39 - i) * 100;

        memcpy(buf[i], whole + off, 100);
        batch_key(&b, "k",
                  (struct wire_key){.token = token(), .off = off, .len = 100},
                  NULL, NULL);
    }
    n.hold = true;
    batch_send(&b, p, NULL, 0);
    ck_assert(!n.reply.there);
    n.hold = false;
    node_let(p);
    for (uint32_t i = 0; i < 40; i++)
        ck_assert_int_eq(n.reply.r[i].status, OK);
    ck_assert_int_eq(commit(p, "k", token(), 0), OK);
    ck_assert_int_eq(get_same("k", 4000), OK);
}
END_TEST

/* A block that is in many extents, so that a range begins inside one. */
START_TEST(ranges_of_a_scattered_block)
{
    uint64_t len = MIB(3) + 777, t;
    char key[16];

    for (int i = 0; i < 64; i++) { /* fills memory with small blocks */
        snprintf(key, sizeof key, "s%d", i);
        ck_assert_int_eq(put(key, KIB(256)), OK);
    }
    ck_assert_int_eq(open_block(p, "k", len, 1), OK);
    t = token();
    ck_assert_int_eq(write_at(p, "k", t, 100001, len - 100001), OK);
    ck_assert_int_eq(write_at(p, "k", t, 0, 100001), OK);
    ck_assert_int_eq(commit(p, "k", t, 0), OK);
    ck_assert_int_eq(get_same("k", len), OK);
}
END_TEST

START_TEST(small_ranges_come_with_the_request)
{
    struct node_batch b;

    p->tp.inline_max = WIRE_EAGER_MAX;
    ck_assert_int_eq(open_block(p, "k", 300, 1), OK);
    batch_new(&b, &n, OP_PUT_WRITE);
    batch_key(&b, "k",
              (struct wire_key){.token = token(), .off = 0, .len = 100}, NULL,
              NULL);
    batch_key(&b, "k",
              (struct wire_key){.token = token() + 1, .off = 9, .len = 50},
              NULL, NULL);
    batch_key(&b, "k",
              (struct wire_key){.token = token(), .off = 100, .len = 200}, NULL,
              NULL);
    memcpy(buf[9], whole, 100);
    memcpy(buf[9] + 150, whole + 100, 200);
    batch_send(&b, p, buf[9], 350);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_int_eq(n.reply.r[1].status, ERR_MISS);
    ck_assert_int_eq(n.reply.r[2].status, OK);
    ck_assert_uint_eq(n.skips, 0);
    ck_assert_int_eq(commit(p, "k", token(), 0), OK);
    p->tp.inline_max = 0;
    ck_assert_int_eq(get_same("k", 300), OK);
    batch_new(&b, &n, OP_PUT_WRITE);
    batch_key(&b, "k", (struct wire_key){.token = 1, .len = 100}, NULL, NULL);
    batch_send(&b, p, buf[9], 99);
    ck_assert_int_eq(n.reply.frame.status, ERR_BAD_REQUEST);
}
END_TEST

START_TEST(announced_bytes_that_nobody_pulls_are_skipped)
{
    struct node_batch b;

    ck_assert_int_eq(open_block(p, "k", 300, 1), OK);
    batch_new(&b, &n, OP_PUT_WRITE);
    batch_key(&b, "k", (struct wire_key){.token = 1, .len = 100}, NULL, NULL);
    batch_key(&b, "k", (struct wire_key){.token = token(), .len = 100}, NULL,
              NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_uint_eq(n.skips, 1);
    n.lane.draining = true;
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.frame.status, ERR_DRAINING);
    ck_assert_uint_eq(n.skips, 3);
    n.lane.draining = false;
    b.head.generation += 7;
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.frame.status, ERR_STALE_GENERATION);
    ck_assert_uint_eq(n.skips, 5);
}
END_TEST

START_TEST(what_is_open_is_joined_only_as_it_is)
{
    struct node_peer *q = join();

    ck_assert_int_eq(open_block(p, "k", 1000, 2), OK);
    ck_assert_int_eq(open_block(q, "k", 1001, 2), ERR_MISMATCH);
    ck_assert_int_eq(open_block(q, "k", 1000, 3), ERR_MISMATCH);
    ck_assert_uint_eq(token(), 0);
    ck_assert_int_eq(open_block(q, "k", 1000, 2), OK);
    leave(q);
    nothing_is_left("k");
}
END_TEST

START_TEST(no_writers_is_one_and_64_are_the_most)
{
    ck_assert_int_eq(open_block(p, "k", 10, 0), OK);
    ck_assert_int_eq(open_block(p, "k", 10, 1), OK); /* the same */
    ck_assert_int_eq(commit(p, "k", token(), 1), ERR_BAD_REQUEST);
    ck_assert_int_eq(open_block(p, "many", 64, 65), ERR_LIMIT);
    ck_assert_int_eq(open_block(p, "many", 64, 64), OK);
    ck_assert_int_eq(commit(p, "many", token(), 64), ERR_BAD_REQUEST);
    ck_assert_int_eq(write_at(p, "many", token(), 0, 64), OK);
    for (uint32_t i = 0; i < 63; i++)
        ck_assert_int_eq(commit(p, "many", token(), 62 - i), ERR_PENDING);
    ck_assert_int_eq(commit(p, "many", token(), 63), OK);
    ck_assert_int_eq(get_same("many", 64), OK);
}
END_TEST

START_TEST(a_stored_key_and_one_being_put_are_not_opened)
{
    struct node_peer *q = join();

    ck_assert_int_eq(put("there", 100), OK);
    ck_assert_int_eq(open_block(p, "there", 100, 1), ERR_EXISTS);
    put_cold("cold", 100);
    ck_assert_int_eq(open_block(p, "cold", 100, 1), ERR_EXISTS);
    n.hold = true;
    ck_assert_int_eq(node_put(q, "k", 100), 1);
    ck_assert_int_eq(open_block(p, "k", 100, 1), ERR_PENDING);
    n.hold = false;
    node_let(q);
    ck_assert_int_eq(open_block(p, "k", 100, 1), ERR_EXISTS);
    leave(q);
}
END_TEST

START_TEST(a_range_is_written_once)
{
    struct node_peer *q = join();
    uint64_t t;

    ck_assert_int_eq(open_block(p, "k", 1000, 1), OK);
    t = token();
    ck_assert_int_eq(write_at(p, "k", t, 0, 500), OK);
    ck_assert_int_eq(write_at(p, "k", t, 0, 500), ERR_EXISTS);
    ck_assert_int_eq(write_at(p, "k", t, 100, 10), ERR_EXISTS);
    ck_assert_int_eq(write_at(p, "k", t, 499, 2), ERR_BAD_REQUEST);
    ck_assert_int_eq(write_at(p, "k", t, 900, 101), ERR_BAD_REQUEST);
    ck_assert_int_eq(write_at(p, "k", t, MIB(2), 1), ERR_BAD_REQUEST);
    n.hold = true;
    ck_assert_int_eq(write_at(p, "k", t, 500, 400), 1);
    ck_assert_int_eq(write_at(q, "k", t, 500, 400), ERR_PENDING);
    ck_assert_int_eq(write_at(q, "k", t, 600, 10), ERR_PENDING);
    ck_assert_int_eq(write_at(q, "k", t, 850, 150), ERR_BAD_REQUEST);
    n.hold = false;
    node_let(p);
    p->bytes[0] = buf[0];
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_int_eq(write_at(p, "k", t, 900, 100), OK);
    ck_assert_int_eq(commit(p, "k", t, 0), OK);
    ck_assert_int_eq(get_same("k", 1000), OK);
    leave(q);
    ck_assert_int_eq(get_same("k", 1000), OK);
}
END_TEST

START_TEST(bytes_that_differ_from_their_checksum_are_not_there)
{
    struct node_batch b;
    uint64_t t;

    ck_assert_int_eq(open_block(p, "k", 1000, 1), OK);
    t = token();
    for (int good = 0; good < 2; good++) {
        batch_new(&b, &n, OP_PUT_WRITE);
        batch_key(&b, "k",
                  (struct wire_key){.token = t,
                                    .len = 1000,
                                    .flags = KEY_CRC,
                                    .crc = crc32c(0, whole, 1000)},
                  NULL, NULL);
        memcpy(buf[0], whole, 1000);
        buf[0][7] ^= good ? 0 : 1;
        batch_send(&b, p, NULL, 0);
        ck_assert_int_eq(n.reply.r[0].status, good ? OK : ERR_CORRUPT);
    }
    ck_assert_uint_eq(n.lane.metrics.checksum_mismatches, 1);
    ck_assert_int_eq(commit(p, "k", t, 0), OK);
    ck_assert_int_eq(get_same("k", 1000), OK);
}
END_TEST

START_TEST(a_token_is_of_one_key)
{
    uint64_t t;

    ck_assert_int_eq(open_block(p, "a", 100, 1), OK);
    t = token();
    ck_assert_int_eq(open_block(p, "b", 100, 1), OK);
    ck_assert_int_eq(write_at(p, "b", t, 0, 100), ERR_MISS);
    ck_assert_int_eq(commit(p, "b", t, 0), ERR_MISS);
    ck_assert_int_eq(give_up(p, "b", t), ERR_MISS);
    ck_assert_int_eq(write_at(p, "a", 0, 0, 100), ERR_MISS);
    ck_assert_int_eq(write_at(p, "a", t ^ UINT64_C(1) << 40, 0, 100), ERR_MISS);
    ck_assert_int_eq(write_at(p, "a", t | 0xffff, 0, 100), ERR_MISS);
    ck_assert_uint_eq(n.lane.opens.live_n, 2);
}
END_TEST

START_TEST(a_commit_said_again_answers_the_same)
{
    struct node_peer *q = join();
    uint64_t t, version;

    ck_assert_int_eq(open_block(p, "k", 100, 2), OK);
    t = token();
    ck_assert_int_eq(write_at(p, "k", t, 0, 100), OK);
    ck_assert_int_eq(commit(p, "k", t, 0), ERR_PENDING);
    ck_assert_int_eq(commit(p, "k", t, 0), ERR_PENDING);
    ck_assert_int_eq(commit(q, "k", t, 1), OK);
    version = n.reply.r[0].version;
    for (uint32_t writer = 0; writer < 2; writer++) {
        ck_assert_int_eq(commit(q, "k", t, writer), OK);
        ck_assert_uint_eq(n.reply.r[0].version, version);
        ck_assert_uint_eq(n.reply.r[0].crc, crc32c(0, whole, 100));
    }
    ck_assert_int_eq(write_at(p, "k", t, 0, 100), ERR_MISS);
    ck_assert_int_eq(give_up(p, "k", t), ERR_MISS);
    ck_assert_int_eq(get_same("k", 100), OK);
    leave(q);
}
END_TEST

START_TEST(a_commit_waits_for_bytes_on_their_way)
{
    uint64_t t;

    ck_assert_int_eq(open_block(p, "k", 1000, 1), OK);
    t = token();
    n.hold = true;
    ck_assert_int_eq(write_at(p, "k", t, 0, 1000), 1);
    ck_assert_int_eq(commit(p, "k", t, 0), 1);
    ck_assert_int_eq(state_of("k"), STATE_PENDING);
    n.hold = false;
    node_let(p);
    p->bytes[0] = buf[0];
    ck_assert_int_eq(n.reply.frame.op, OP_PUT_COMMIT);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_int_eq(get_same("k", 1000), OK);
}
END_TEST

START_TEST(a_commit_counts_even_if_its_answer_came_too_late)
{
    struct node_peer *q = join();
    struct node_batch b;
    uint64_t t;

    ck_assert_int_eq(open_block(p, "k", 1000, 1), OK);
    t = token();
    n.hold = true;
    p->bytes[0] = whole;
    batch_new(&b, &n, OP_PUT_WRITE);
    b.frame.deadline_us = 1000000;
    batch_key(&b, "k", (struct wire_key){.token = t, .len = 1000}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(commit(q, "k", t, 0), 1);
    node_sleep(&n, 60 * NS_PER_MS);
    ck_assert_int_eq(n.reply.frame.op, OP_PUT_COMMIT);
    ck_assert_int_eq(n.reply.r[0].status, ERR_TIMEOUT);
    leave(q);
    n.hold = false;
    node_let(p);
    p->bytes[0] = buf[0];
    ck_assert_int_eq(get_same("k", 1000), OK);
    ck_assert_int_eq(commit(p, "k", t, 0), OK);
}
END_TEST

START_TEST(what_the_first_begin_says_is_kept_with_the_block)
{
    const struct wire_attr attr = {
        .label0 = 77, .token_n = 512, .priority = 9, .pin_ttl_ms = 1000};
    struct node_peer *q = join();
    struct store_info info;
    uint32_t block;
    uint64_t t;

    ck_assert_int_eq(open_attr(p, "k", 100, 2, 0, &attr), OK);
    t = token();
    ck_assert_int_eq(open_block(q, "k", 100, 2), OK); /* without any */
    ck_assert_int_eq(write_at(q, "k", t, 0, 100), OK);
    ck_assert_int_eq(commit(p, "k", t, 0), ERR_PENDING);
    ck_assert_int_eq(commit(q, "k", t, 1), OK);
    ck_assert(n.reply.r[0].flags & RESULT_PINNED);
    ck_assert_int_eq(where("k", &block), WHERE_MEMORY);
    store_info(n.lane.store, block, &info);
    ck_assert_uint_eq(info.attr.label0, 77);
    ck_assert_uint_eq(info.attr.token_n, 512);
    ck_assert_uint_eq(info.attr.priority, 9);
    ck_assert_uint_eq(info.pins, 1);
    leave(q); /* the pin goes with who committed last */
    store_info(n.lane.store, block, &info);
    ck_assert_uint_eq(info.pins, 0);
}
END_TEST

/* ---- the SSD */

static const struct wire_attr durable = {.flags = ATTR_DURABLE};

static int commit_durable(const char *key, uint64_t len)
{
    ck_assert_int_eq(open_attr(p, key, len, 1, 0, &durable), OK);
    ck_assert_int_eq(write_at(p, key, token(), 0, len), OK);
    (void)commit(p, key, token(), 0);
    node_sleep(&n, 40 * NS_PER_MS);
    ck_assert(n.reply.there);
    return n.reply.r[0].status;
}

START_TEST(a_durable_block_is_there_after_a_crash)
{
    uint64_t flushes = media->flushes;

    ck_assert_int_eq(commit_durable("k", 5000), OK);
    ck_assert_uint_gt(media->flushes, flushes);
    ck_assert_int_eq(commit(p, "k", token(), 0), OK); /* known: no flush */
    again(false);
    ck_assert_int_eq(get_same("k", 5000), OK);
}
END_TEST

START_TEST(others_are_written_behind)
{
    ck_assert_int_eq(open_block(p, "k", 5000, 1), OK);
    ck_assert_int_eq(write_at(p, "k", token(), 0, 5000), OK);
    ck_assert_int_eq(commit(p, "k", token(), 0), OK);
    again(true);
    ck_assert_int_eq(get_same("k", 5000), OK);
}
END_TEST

START_TEST(an_open_block_does_not_survive_a_restart)
{
    uint64_t t;

    ck_assert_int_eq(open_block(p, "k", 5000, 1), OK);
    t = token();
    ck_assert_int_eq(write_at(p, "k", t, 0, 5000), OK);
    again(true);
    ck_assert_int_eq(state_of("k"), STATE_MISS);
    ck_assert_int_eq(commit(p, "k", t, 0), ERR_MISS);
    /* the slot's next use: */
    ck_assert_int_eq(open_block(p, "other", 5000, 1), OK);
    ck_assert_int_eq(commit(p, "k", t, 0), ERR_MISS);
}
END_TEST

START_TEST(what_cannot_be_made_durable_says_so_and_is_in_memory)
{
    n.disk.fault = (struct disk_mem_fault){.mask = MEM_WRITES | MEM_FLUSHES,
                                           .nth = 1,
                                           .forever = true,
                                           .err = ERR_IO};
    ck_assert_int_eq(commit_durable("k", 5000), ERR_NOT_DURABLE);
    ck_assert_int_eq(get_same("k", 5000), OK);
}
END_TEST

START_TEST(a_durable_commit_is_answered_at_its_deadline)
{
    struct node_batch b;

    ck_assert_int_eq(open_attr(p, "k", 5000, 1, 0, &durable), OK);
    ck_assert_int_eq(write_at(p, "k", token(), 0, 5000), OK);
    n.disk.cfg.latency_ns = 5 * NS_PER_S;
    batch_new(&b, &n, OP_PUT_COMMIT);
    batch_key(&b, "k", (struct wire_key){.token = token()}, NULL, NULL);
    batch_key(&b, "k", (struct wire_key){.token = 5}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert(!n.reply.there);
    node_sleep(&n, 51 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, ERR_NOT_DURABLE);
    ck_assert_int_eq(n.reply.r[1].status, ERR_MISS);
    ck_assert_int_eq(get_same("k", 5000), OK);
    n.disk.cfg.latency_ns = 0;
    node_sleep(&n, 11 * NS_PER_S);
    (void)commit(p, "k", token(), 0); /* asks again: it is made durable */
    node_sleep(&n, 40 * NS_PER_MS);
    ck_assert_int_eq(n.reply.r[0].status, OK);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ops_open");
    TCase *t = tcase_create("ops_open");

    tcase_add_checked_fixture(t, open_up, open_down);
    tcase_add_test(t, an_open_block_is_pending_to_everyone);
    tcase_add_test(t, two_writers_make_one_block);
    tcase_add_test(t, layer_by_layer_in_any_order);
    tcase_add_test(t, many_ranges_in_one_request);
    tcase_add_test(t, ranges_of_a_scattered_block);
    tcase_add_test(t, small_ranges_come_with_the_request);
    tcase_add_test(t, announced_bytes_that_nobody_pulls_are_skipped);
    tcase_add_test(t, what_is_open_is_joined_only_as_it_is);
    tcase_add_test(t, no_writers_is_one_and_64_are_the_most);
    tcase_add_test(t, a_stored_key_and_one_being_put_are_not_opened);
    tcase_add_test(t, a_range_is_written_once);
    tcase_add_test(t, bytes_that_differ_from_their_checksum_are_not_there);
    tcase_add_test(t, a_token_is_of_one_key);
    tcase_add_test(t, a_commit_said_again_answers_the_same);
    tcase_add_test(t, a_commit_waits_for_bytes_on_their_way);
    tcase_add_test(t, a_commit_counts_even_if_its_answer_came_too_late);
    tcase_add_test(t, what_the_first_begin_says_is_kept_with_the_block);
    tcase_add_test(t, a_durable_block_is_there_after_a_crash);
    tcase_add_test(t, others_are_written_behind);
    tcase_add_test(t, an_open_block_does_not_survive_a_restart);
    tcase_add_test(t, what_cannot_be_made_durable_says_so_and_is_in_memory);
    tcase_add_test(t, a_durable_commit_is_answered_at_its_deadline);
    suite_add_tcase(s, t);
    return s;
}
