/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * What is said and done about blocks on an SSD without moving them to a client:
 * LOOKUP, PREFETCH, PIN, EXPLAIN, INSPECT, SIZE, FEEDBACK, SSD; and restarts.
 */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "lib/node_ssd.h"

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

static void put_many(uint32_t from, uint32_t to, uint64_t pause_ns)
{
    char key[8];

    for (uint32_t i = from; i < to; i++) {
        snprintf(key, sizeof key, "k%u", i);
        ck_assert_int_eq(put(key, 900000), OK);
        node_sleep(&n, pause_ns);
    }
}

START_TEST(explain_says_that_the_write_budget_kept_a_block_out)
{
    again_budget(true, "1MiB/s");
    put_many(0, 40, NS_PER_MS);
    ck_assert_str_eq(explain("k12")->reason, "not_admitted");
    ck_assert_uint_gt(n.lane.metrics.ssd_deferred_blocks, 0);
}
END_TEST

START_TEST(explain_says_that_a_block_left_the_ssd_too)
{
    put_many(0, 90, 20 * NS_PER_MS);
    ck_assert_str_eq(explain("k0")->reason, "evicted");
    ck_assert_str_eq(explain("k60")->reason, "here");
    ck_assert_uint_gt(n.lane.metrics.ssd_reclaimed_segments, 0);
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
    char key[16];

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

Suite *suite(void)
{
    Suite *s = suite_create("ops_ssd_look");
    TCase *t = tcase_create("ops");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t, a_lookup_says_the_tier_and_how_long_it_takes);
    tcase_add_test(t, a_lookup_that_promotes_brings_the_hits_to_memory);
    tcase_add_test(t, a_cold_block_is_pinned_once_it_has_come);
    tcase_add_test(t, a_prefetch_begins_what_its_cap_allows_and_does_not_wait);
    tcase_add_test(t, explain_says_where_a_block_is_or_what_became_of_it);
    tcase_add_test(t,
                   explain_says_that_a_block_was_evicted_before_it_was_written);
    tcase_add_test(t, explain_says_that_the_write_budget_kept_a_block_out);
    tcase_add_test(t, explain_says_that_a_block_left_the_ssd_too);
    tcase_add_test(t, inspect_reads_what_a_cold_block_is_from_its_record);
    tcase_add_test(t, ssd_lists_retires_and_replaces);
    tcase_add_test(t, size_answers_a_curve_that_only_rises);
    tcase_add_test(t, feedback_takes_the_state_of_a_session_and_nothing_else);
    tcase_add_test(t, everything_on_the_ssd_is_back_after_a_restart);
    tcase_add_test(t, nothing_from_before_a_bump_comes_back);
    tcase_add_test(t,
                   blocks_of_a_write_buffer_leave_memory_once_they_are_written);
    suite_add_tcase(s, t);
    return s;
}
