/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * Operations over memory and an SSD, one request at a time, against a real
 * lane, store and log; the disk is memory with a virtual clock. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "lib/node.h"

#define SSD_BYTES MIB(64)

static struct node n;
static struct node_peer *p;
static struct mem_media *media;
static uint8_t *buf[NODE_KEYS];
static uint8_t unpacked[1 << 17];
static struct arena box;

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static void greet(void)
{
    p = node_connect(&n, true);
    ck_assert_ptr_nonnull(p);
    for (uint32_t i = 0; i < NODE_KEYS; i++)
        p->bytes[i] = buf[i];
    node_open(&n, p, "lru");
    ck_assert_uint_ne(n.ns, 0);
}

static void up_of(uint64_t ssd_bytes)
{
    log_sink_set(quiet, NULL);
    for (uint32_t i = 0; i < NODE_KEYS; i++) {
        buf[i] = calloc(1, NODE_BUF);
        ck_assert_ptr_nonnull(buf[i]);
    }
    media = mem_media_new(1, ssd_bytes, false);
    node_config(&n, MIB(16));
    n.media = media;
}

static void up(void)
{
    up_of(SSD_BYTES);
    node_start(&n);
    greet();
}

static void down(void)
{
    node_stop(&n);
    node_free_peer(p);
    node_forget(&n);
    mem_media_free(media);
    for (uint32_t i = 0; i < NODE_KEYS; i++)
        free(buf[i]);
}

/* Another life of the daemon on the same SSD, after an orderly stop. */
static void again(bool checkpoint)
{
    n.cfg.ssd.checkpoint = checkpoint;
    node_stop(&n);
    node_free_peer(p);
    node_again(&n, media);
    node_start(&n);
    greet();
}

/* ---- requests */

static void fill(uint8_t *to, const char *key, uint64_t len)
{
    uint64_t h = crc32c(0, key, strlen(key));

    for (uint64_t i = 0; i < len; i++)
        to[i] = (uint8_t)(h + i * 7 + i / 251);
}

static bool same(const uint8_t *at, const char *key, uint64_t len)
{
    uint64_t h = crc32c(0, key, strlen(key));

    for (uint64_t i = 0; i < len; i++)
        if (at[i] != (uint8_t)(h + i * 7 + i / 251))
            return false;
    return true;
}

static int put_attr(const char *key, uint64_t len, const struct wire_attr *attr,
                    const char *parent)
{
    struct node_batch b;

    fill(buf[0], key, len);
    batch_new(&b, &n, OP_PUT);
    batch_key(&b, key, (struct wire_key){.len = len}, parent, attr);
    batch_send(&b, p, NULL, 0);
    return n.reply.there ? n.reply.r[0].status : 1;
}

static int put(const char *key, uint64_t len)
{
    return put_attr(key, len, NULL, NULL);
}

static int get(const char *key, uint64_t len)
{
    memset(buf[0], 0, len);
    return node_get(p, key, len);
}

static int get_same(const char *key, uint64_t len)
{
    int e = get(key, len);

    return e ? e : same(buf[0], key, len) ? OK : ERR_CORRUPT;
}

static int key_op(enum op_id op, uint32_t flags, const char *key)
{
    struct node_batch b;

    batch_new(&b, &n, op);
    b.head.flags = flags;
    if (op == OP_LOOKUP)
        batch_column(&b, RULE_ALL, 0);
    batch_key(&b, key, (struct wire_key){.key_len = 1}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert(n.reply.there);
    return n.reply.frame.status ? n.reply.frame.status : n.reply.r[0].status;
}

static enum store_where where(const char *key, uint32_t *block_out)
{
    static const uint8_t no_scope[16];
    struct store_key k = {.ns = n.ns,
                          .key = (const uint8_t *)key,
                          .key_len = (uint16_t)strlen(key),
                          .scope = no_scope};
    enum store_found why;

    store_key_hash(n.lane.store, &k);
    *block_out = store_find(n.lane.store, &k, &why);
    return *block_out ? store_where(n.lane.store, *block_out) : WHERE_MEMORY;
}

/* Stored, written to the SSD, and out of memory. */
static void put_cold_attr(const char *key, uint64_t len,
                          const struct wire_attr *attr, const char *parent)
{
    uint32_t block;

    ck_assert_int_eq(put_attr(key, len, attr, parent), OK);
    ck_assert_int_eq(key_op(OP_EVICT, BATCH_DEMOTE, key), OK);
    ck_assert_int_eq(where(key, &block), WHERE_SSD);
}

static void put_cold(const char *key, uint64_t len)
{
    put_cold_attr(key, len, NULL, NULL);
}

static const void *unpack(const void *descriptor)
{
    const void *m;

    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.frame.status, OK);
    arena_init(&box, unpacked, sizeof unpacked);
    m = msg_unpack(descriptor, &box, n.reply.env, n.reply.frame.env_len);
    ck_assert_ptr_nonnull(m);
    return m;
}

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

/* Every byte of the image but the superblocks and heads is another one. */
static void spoil(void)
{
    for (uint64_t i = MIB(2) + 2 * DISK_PAGE; i < MIB(3); i++)
        media->image[0][i] ^= 1;
}

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
    n.disk.fault = (struct disk_mem_fault){
        .mask = MEM_WRITES | MEM_FLUSHES, .nth = 1, .forever = true,
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

START_TEST(an_evict_that_is_late_ends_when_what_it_began_has_ended)
{
    struct node_batch b;

    put_cold("a", 3000);
    put_cold("b", 3000);
    n.disk.cfg.latency_ns = NS_PER_S;
    batch_new(&b, &n, OP_EVICT);
    b.head.select = SELECT_PATTERN;
    batch_key(&b, "*", (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, 100 * NS_PER_MS);
    ck_assert(!n.reply.there);
    node_sleep(&n, 5 * NS_PER_S);
    ck_assert(n.reply.there);
}
END_TEST

/* ---- LOOKUP, PREFETCH, PIN */

START_TEST(a_lookup_says_the_tier_and_how_long_it_takes)
{
    ck_assert_int_eq(put("hot", 3000), OK);
    put_cold("cold", 3000);
    ck_assert_int_eq(get("cold", 3000), OK); /* a load to measure */
    ck_assert_int_eq(key_op(OP_EVICT, BATCH_DEMOTE, "cold"), OK);
    ck_assert_int_eq(key_op(OP_LOOKUP, 0, "hot"), OK);
    ck_assert_uint_eq(n.reply.r[0].tier, 0);
    ck_assert_uint_eq(n.reply.r[0].eta_us, 0);
    ck_assert_int_eq(key_op(OP_LOOKUP, 0, "cold"), OK);
    ck_assert_uint_eq(n.reply.r[0].tier, 1);
    ck_assert_uint_eq(n.reply.r[0].state, STATE_HIT);
    ck_assert_uint_gt(n.reply.r[0].eta_us, 0);
    ck_assert_uint_eq(n.reply.head.prefix, 1);
}
END_TEST

START_TEST(a_lookup_that_promotes_brings_the_hits_to_memory)
{
    uint32_t block;

    put_cold("k", 3000);
    ck_assert_int_eq(key_op(OP_LOOKUP, 0, "k"), OK);
    ck_assert_int_eq(where("k", &block), WHERE_SSD);
    ck_assert_int_eq(key_op(OP_LOOKUP, BATCH_PROMOTE, "k"), OK);
    ck_assert_int_eq(where("k", &block), WHERE_MEMORY);
}
END_TEST

static uint32_t lookup_pin(const char *key)
{
    struct node_batch b;

    batch_new(&b, &n, OP_LOOKUP);
    b.head.pin_ttl_ms = 1000;
    batch_column(&b, RULE_ALL, 0);
    batch_key(&b, key, (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    return n.reply.r[0].flags & RESULT_PINNED;
}

START_TEST(a_cold_block_is_pinned_once_it_has_come)
{
    put_cold("k", 3000);
    ck_assert_uint_eq(lookup_pin("k"), 0);
    ck_assert_uint_eq(lookup_pin("k"), RESULT_PINNED);
    put_cold("l", 3000);
    ck_assert_int_eq(key_op(OP_PIN, 0, "l"), ERR_BUSY);
    ck_assert_int_eq(key_op(OP_PIN, 0, "l"), OK);
}
END_TEST

START_TEST(a_prefetch_begins_what_its_cap_allows_and_does_not_wait)
{
    struct node_batch b;
    uint32_t block;

    put_cold("a", 900000);
    put_cold("b", 900000);
    ck_assert_int_eq(put("hot", 3000), OK);
    n.disk.cfg.latency_ns = NS_PER_MS;
    batch_new(&b, &n, OP_PREFETCH);
    b.head.count = 1; /* MiB */
    batch_key(&b, "hot", (struct wire_key){0}, NULL, NULL);
    batch_key(&b, "a", (struct wire_key){0}, NULL, NULL);
    batch_key(&b, "b", (struct wire_key){0}, NULL, NULL);
    batch_key(&b, "never", (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_int_eq(n.reply.r[1].status, OK);
    ck_assert_int_eq(n.reply.r[2].status, ERR_PARTIAL);
    ck_assert_int_eq(n.reply.r[3].status, ERR_MISS);
    ck_assert_uint_eq(n.reply.head.count, 1);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert_int_eq(where("a", &block), WHERE_MEMORY);
    ck_assert_int_eq(where("b", &block), WHERE_SSD);
    ck_assert_uint_eq(n.lane.metrics.prefetched_blocks, 1);
}
END_TEST

/* ---- EXPLAIN, INSPECT, SSD, SIZE, FEEDBACK */

static const Pikv__ExplainReply *explain(const char *key)
{
    Pikv__ExplainRequest m = PIKV__EXPLAIN_REQUEST__INIT;
    uint8_t bytes[64];

    memcpy(bytes, key, strlen(key));
    m.ns = n.ns;
    m.key.data = bytes;
    m.key.len = strlen(key);
    node_msg(p, OP_EXPLAIN, &m);
    return unpack(&pikv__explain_reply__descriptor);
}

START_TEST(explain_says_where_a_block_is_or_what_became_of_it)
{
    const struct wire_attr brief = {.ttl_ms = 1000};

    ck_assert_str_eq(explain("never")->reason, "never_seen");
    ck_assert_int_eq(put("hot", 3000), OK);
    ck_assert_str_eq(explain("hot")->reason, "here");
    ck_assert_str_eq(explain("hot")->tier, "dram");
    put_cold("cold", 3000);
    ck_assert_str_eq(explain("cold")->reason, "here");
    ck_assert_str_eq(explain("cold")->tier, "ssd");
    ck_assert_int_eq(key_op(OP_EVICT, 0, "cold"), OK);
    node_sleep(&n, 5 * NS_PER_S);
    ck_assert_str_eq(explain("cold")->reason, "dropped");
    ck_assert_uint_ge(explain("cold")->when_ms, 5000);
    ck_assert_int_eq(put_attr("brief", 3000, &brief, NULL), OK);
    node_sleep(&n, 5 * NS_PER_S);
    ck_assert_str_eq(explain("brief")->reason, "expired");
    put_cold("bad", 3000);
    spoil();
    ck_assert_int_eq(get("bad", 3000), ERR_MISS);
    ck_assert_str_eq(explain("bad")->reason, "corrupt");
    ck_assert_uint_gt(strlen(explain("bad")->advice), 0);
}
END_TEST

START_TEST(explain_says_that_a_block_was_evicted_before_it_was_written)
{
    char key[8];

    n.disk.cfg.latency_ns = 100 * NS_PER_S;
    for (uint32_t i = 0; i < 24; i++) {
        snprintf(key, sizeof key, "k%u", i);
        ck_assert_int_eq(put(key, 900000), OK);
    }
    ck_assert_str_eq(explain("k8")->reason, "late");
}
END_TEST

static const Pikv__InspectReply *inspect(uint32_t what, const char *key,
                                         uint64_t cursor)
{
    Pikv__InspectRequest m = PIKV__INSPECT_REQUEST__INIT;
    uint8_t bytes[64];

    memcpy(bytes, key, strlen(key));
    m.ns = n.ns;
    m.what = (Pikv__InspectRequest__What)what;
    m.key.data = bytes;
    m.key.len = strlen(key);
    m.cursor = cursor;
    node_msg(p, OP_INSPECT, &m);
    node_sleep(&n, 20 * NS_PER_MS);
    return unpack(&pikv__inspect_reply__descriptor);
}

START_TEST(inspect_reads_what_a_cold_block_is_from_its_record)
{
    const struct wire_attr attr = {.page = 5, .label2 = 9};
    const Pikv__InspectReply *rep;
    uint32_t cold = 0, seen = 0;
    uint64_t cursor = 0;
    char key[8];

    put_cold_attr("k", 3000, &attr, "parent");
    rep = inspect(PIKV__INSPECT_REQUEST__WHAT__KEY, "k", 0);
    ck_assert_uint_eq(rep->n_blocks, 1);
    ck_assert_str_eq(rep->blocks[0]->state, "COLD");
    ck_assert_str_eq(rep->blocks[0]->tier, "ssd");
    ck_assert_uint_eq(rep->blocks[0]->page, 5);
    ck_assert_uint_eq(rep->blocks[0]->labels[0], 9);
    ck_assert_mem_eq(rep->blocks[0]->parent.data, "parent", 6);
    for (uint32_t i = 0; i < 30; i++) {
        snprintf(key, sizeof key, "k%u", i);
        if (i % 2)
            put_cold(key, 1000);
        else
            ck_assert_int_eq(put(key, 1000), OK);
    }
    n.disk.cfg.latency_ns = 100 * NS_PER_US;
    do {
        rep = inspect(PIKV__INSPECT_REQUEST__WHAT__KEYS, "", cursor);
        for (uint32_t i = 0; i < rep->n_blocks; i++) {
            seen++;
            cold += strcmp(rep->blocks[i]->state, "COLD") == 0;
            ck_assert_uint_ge(rep->blocks[i]->key.len, 1);
            ck_assert_int_eq(rep->blocks[i]->key.data[0], 'k');
        }
        cursor = rep->next_cursor;
    } while (cursor);
    ck_assert_uint_eq(seen, 31);
    ck_assert_uint_eq(cold, 16);
}
END_TEST

static const Pikv__SsdReply *ssd(uint32_t what, char *path, int status)
{
    Pikv__SsdRequest m = PIKV__SSD_REQUEST__INIT;

    m.what = (Pikv__SsdRequest__What)what;
    m.path = path;
    node_msg(p, OP_SSD, &m);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.frame.status, status);
    return status == OK ? unpack(&pikv__ssd_reply__descriptor) : NULL;
}

START_TEST(ssd_lists_retires_and_replaces)
{
    char path[] = "/ssd0", other[] = "/other", none[] = "";
    const Pikv__SsdReply *rep;

    put_cold("k", 3000);
    rep = ssd(PIKV__SSD_REQUEST__WHAT__LIST, none, OK);
    ck_assert_uint_eq(rep->n_ssds, 1);
    ck_assert_str_eq(rep->ssds[0]->path, "/ssd0");
    ck_assert_str_eq(rep->ssds[0]->state, "open");
    ck_assert_uint_ge(rep->ssds[0]->written_bytes, 3000);
    ssd(PIKV__SSD_REQUEST__WHAT__RETIRE, path, ERR_DENIED);
    p->tp.cred.pid = 1; /* the kernel vouches for uid 0 */
    ssd(PIKV__SSD_REQUEST__WHAT__RETIRE, other, ERR_BAD_REQUEST);
    ssd(PIKV__SSD_REQUEST__WHAT__REPLACE, path, ERR_BAD_REQUEST);
    ssd(PIKV__SSD_REQUEST__WHAT__RETIRE, path, OK);
    node_sleep(&n, NS_PER_S);
    rep = ssd(PIKV__SSD_REQUEST__WHAT__LIST, none, OK);
    ck_assert_str_eq(rep->ssds[0]->state, "retired");
    ck_assert_int_eq(put("hot", 3000), OK);
    ck_assert_int_eq(get("hot", 3000), OK);
    ck_assert_int_eq(get("k", 3000), ERR_MISS);
    ssd(PIKV__SSD_REQUEST__WHAT__REPLACE, path, OK);
    rep = ssd(PIKV__SSD_REQUEST__WHAT__LIST, none, OK);
    ck_assert_str_eq(rep->ssds[0]->state, "open");
    put_cold("k", 3000);
    ck_assert_int_eq(get_same("k", 3000), OK);
}
END_TEST

START_TEST(size_answers_a_curve_that_only_rises)
{
    Pikv__SizeRequest m = PIKV__SIZE_REQUEST__INIT;
    const Pikv__SizeReply *rep;
    char key[8];

    for (uint32_t i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "k%u", i % 50);
        if (get(key, 1000))
            ck_assert_int_eq(put(key, 1000), OK);
    }
    node_msg(p, OP_SIZE, &m);
    rep = unpack(&pikv__size_reply__descriptor);
    ck_assert_uint_eq(rep->accesses, 200);
    ck_assert_uint_eq(rep->dram_bytes, MIB(16));
    ck_assert_uint_eq(rep->ssd_bytes, SSD_BYTES);
    for (uint32_t i = 1; i < rep->n_points; i++) {
        ck_assert_uint_gt(rep->points[i]->bytes, rep->points[i - 1]->bytes);
        ck_assert_double_ge(rep->points[i]->hit_ratio,
                            rep->points[i - 1]->hit_ratio);
    }
    ck_assert_double_gt(rep->points[rep->n_points - 1]->hit_ratio, 0.7);
}
END_TEST

START_TEST(feedback_takes_the_state_of_a_session_and_nothing_else)
{
    char open[] = "open", idle[] = "idle", closed[] = "closed", odd[] = "odd";
    char *states[] = {open, idle, closed};
    Pikv__Feedback m = PIKV__FEEDBACK__INIT;
    uint8_t query[] = {1};

    m.ns = n.ns;
    m.session = 7;
    for (uint32_t i = 0; i < countof(states); i++) {
        m.session_state = states[i];
        node_msg(p, OP_FEEDBACK, &m);
        ck_assert_int_eq(n.reply.frame.status, OK);
    }
    m.session_state = odd;
    node_msg(p, OP_FEEDBACK, &m);
    ck_assert_int_eq(n.reply.frame.status, ERR_BAD_REQUEST);
    m.session_state = open;
    m.queries.data = query;
    m.queries.len = 1;
    node_msg(p, OP_FEEDBACK, &m);
    ck_assert_int_eq(n.reply.frame.status, ERR_UNSUPPORTED);
}
END_TEST

/* ---- Restart, settings */

START_TEST(everything_on_the_ssd_is_back_after_a_restart)
{
    char key[8];

    for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
        for (uint32_t i = 0; i < 20; i++) {
            snprintf(key, sizeof key, "%d/%u", checkpoint, i);
            ck_assert_int_eq(put(key, 5000 + i), OK);
        }
        node_sleep(&n, 50 * NS_PER_MS);
        again(checkpoint);
        for (uint32_t i = 0; i < 20; i++) {
            snprintf(key, sizeof key, "%d/%u", checkpoint, i);
            ck_assert_int_eq(get_same(key, 5000 + i), OK);
            ck_assert_uint_eq(n.reply.r[0].tier, 1);
        }
    }
}
END_TEST

START_TEST(nothing_from_before_a_bump_comes_back)
{
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    char name[] = "test";

    put_cold("k", 3000);
    m.name = name;
    m.bump = true;
    node_msg(p, OP_NAMESPACE, &m);
    ck_assert_int_eq(n.reply.frame.status, OK);
    node_open(&n, p, "lru");
    ck_assert_int_eq(get("k", 3000), ERR_MISS);
    again(false);
    ck_assert_int_eq(get("k", 3000), ERR_MISS);
    ck_assert_uint_eq(n.lane.metrics.ssd_blocks, 0);
}
END_TEST

START_TEST(blocks_of_a_write_buffer_leave_memory_once_they_are_written)
{
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    Pikv__Settings set = PIKV__SETTINGS__INIT;
    char name[] = "test", how[] = "write_buffer";
    uint32_t block;

    m.name = name;
    m.change = &set;
    set.dram = how;
    node_msg(p, OP_NAMESPACE, &m);
    ck_assert_int_eq(n.reply.frame.status, OK);
    ck_assert_int_eq(put("k", 3000), OK);
    node_sleep(&n, 50 * NS_PER_MS);
    ck_assert_int_eq(where("k", &block), WHERE_SSD);
    ck_assert_int_eq(get_same("k", 3000), OK);
    again(true);
    ck_assert_int_eq(put("l", 3000), OK);
    node_sleep(&n, 50 * NS_PER_MS);
    ck_assert_int_eq(where("l", &block), WHERE_SSD);
}
END_TEST

static void add_rest(TCase *t)
{
    tcase_add_test(t, a_lookup_says_the_tier_and_how_long_it_takes);
    tcase_add_test(t, a_lookup_that_promotes_brings_the_hits_to_memory);
    tcase_add_test(t, a_cold_block_is_pinned_once_it_has_come);
    tcase_add_test(t, a_prefetch_begins_what_its_cap_allows_and_does_not_wait);
    tcase_add_test(t, explain_says_where_a_block_is_or_what_became_of_it);
    tcase_add_test(
        t, explain_says_that_a_block_was_evicted_before_it_was_written);
    tcase_add_test(t, inspect_reads_what_a_cold_block_is_from_its_record);
    tcase_add_test(t, ssd_lists_retires_and_replaces);
    tcase_add_test(t, size_answers_a_curve_that_only_rises);
    tcase_add_test(t, feedback_takes_the_state_of_a_session_and_nothing_else);
    tcase_add_test(t, everything_on_the_ssd_is_back_after_a_restart);
    tcase_add_test(t, nothing_from_before_a_bump_comes_back);
    tcase_add_test(t,
                   blocks_of_a_write_buffer_leave_memory_once_they_are_written);
}

Suite *suite(void)
{
    Suite *s = suite_create("ops_ssd");
    TCase *t = tcase_create("ops");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(
        t, a_get_from_the_ssd_gives_the_bytes_and_says_where_they_were);
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
    tcase_add_test(t,
                   an_evict_that_is_late_ends_when_what_it_began_has_ended);
    add_rest(t);
    suite_add_tcase(s, t);
    return s;
}
