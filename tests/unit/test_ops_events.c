/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * SUBSCRIBE against a real lane: answered at once, or later, or at its end, and
 * never in anybody's way. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "lib/node_ssd.h"
#include "store/events.h"

enum { WAIT_MS = 300 };

static Pikv__Subscribe ask(uint64_t from, uint32_t wait_ms)
{
    Pikv__Subscribe m = PIKV__SUBSCRIBE__INIT;

    m.ns = n.ns;
    m.from_seq = from;
    m.wait_ms = wait_ms;
    return m;
}

static void subscribe_by(struct node_peer *q, uint64_t from, uint32_t wait_ms)
{
    Pikv__Subscribe m = ask(from, wait_ms);

    node_msg(q, OP_SUBSCRIBE, &m);
}

static void subscribe(uint64_t from, uint32_t wait_ms)
{
    subscribe_by(p, from, wait_ms);
}

static const Pikv__SubscribeReply *answer(void)
{
    return unpack(&pikv__subscribe_reply__descriptor);
}

static bool is_key(const ProtobufCBinaryData *d, const char *key)
{
    return d->len == strlen(key) &&
           (!d->len || memcmp(d->data, key, d->len) == 0);
}

/* The one answer there was: one event of this kind and key. */
static const Pikv__Event *one(uint32_t kind, const char *key)
{
    const Pikv__SubscribeReply *r = answer();

    ck_assert_uint_eq(r->n_events, 1);
    ck_assert_uint_eq(r->events[0]->kind, kind);
    ck_assert(is_key(&r->events[0]->key, key));
    ck_assert_uint_eq(r->next_seq, r->events[0]->seq + 1);
    ck_assert_uint_eq(r->lost_from, 0);
    return r->events[0];
}

static void none(uint64_t next)
{
    const Pikv__SubscribeReply *r = answer();

    ck_assert_uint_eq(r->n_events, 0);
    ck_assert_uint_eq(r->lost_from, 0);
    ck_assert_uint_eq(r->next_seq, next);
}

/* The poll sleeps on. */
static void still_asleep(uint32_t sleepers)
{
    ck_assert_uint_eq(n.lane.event_sleepers, sleepers);
    ck_assert_uint_eq(n.lane.metrics.subscribers, sleepers);
}

/* A PUT's answer is one, the poll's that it woke another: both came. */
static void put_wakes(const char *key, uint32_t polls)
{
    uint32_t before = n.replies;

    (void)put(key, 5000);
    ck_assert_uint_eq(n.replies, before + 1 + polls);
}

START_TEST(events_that_are_there_are_answered_at_once)
{
    const Pikv__SubscribeReply *r;

    ck_assert_int_eq(put("a", 5000), OK);
    ck_assert_int_eq(
        put_attr("b", 7000,
                 &(struct wire_attr){
                     .page = 2, .token_end = 32, .token_n = 16, .label1 = 77},
                 "a"),
        OK);
    subscribe(1, WAIT_MS);
    r = answer();
    ck_assert_uint_eq(r->n_events, 2);
    ck_assert_uint_eq(r->next_seq, 3);
    ck_assert_uint_eq(r->boot, n.control.boot);
    ck_assert_uint_eq(r->events[0]->seq, 1);
    ck_assert(is_key(&r->events[0]->key, "a"));
    ck_assert_uint_eq(r->events[0]->len, 5000);
    ck_assert_uint_eq(r->events[0]->n_labels, 0);
    ck_assert_uint_eq(r->events[0]->hash.len, 16);
    ck_assert_uint_ge(r->events[0]->when_ms, UINT64_C(1700000001000));
    ck_assert(is_key(&r->events[1]->parent, "a"));
    ck_assert_uint_eq(r->events[1]->page, 2);
    ck_assert_uint_eq(r->events[1]->token_end, 32);
    ck_assert_uint_eq(r->events[1]->token_n, 16);
    ck_assert_uint_eq(r->events[1]->n_labels, 1);
    ck_assert_uint_eq(r->events[1]->labels[0], 77);
    subscribe(2, WAIT_MS);
    (void)one(EVENT_STORED, "b");
}
END_TEST

START_TEST(a_poll_sleeps_until_an_event_comes)
{
    subscribe(0, WAIT_MS);
    ck_assert(!n.reply.there);
    node_sleep(&n, 100 * NS_PER_MS);
    ck_assert(!n.reply.there);
    still_asleep(1);
    put_wakes("a", 1);
    still_asleep(0);
    (void)one(EVENT_STORED, "a");
}
END_TEST

START_TEST(a_poll_without_events_ends_with_its_wait)
{
    ck_assert_int_eq(put("a", 5000), OK);
    subscribe(0, WAIT_MS);
    node_sleep(&n, (WAIT_MS - 1) * NS_PER_MS);
    ck_assert(!n.reply.there);
    node_sleep(&n, 2 * NS_PER_MS);
    none(2);
    still_asleep(0);
    subscribe(2, 0); /* does not wait at all */
    none(2);
}
END_TEST

START_TEST(a_poll_ends_with_its_deadline_and_is_no_failure)
{
    subscribe(1, 100000); /* node_msg gives a second */
    node_sleep(&n, NS_PER_S + 1);
    none(1);
    ck_assert_uint_eq(n.lane.metrics.requests_failed[OP_SUBSCRIBE], 0);
}
END_TEST

START_TEST(events_of_other_namespaces_wake_nobody_and_cost_no_position)
{
    uint32_t mine = n.ns, before;
    Pikv__Open m = PIKV__OPEN__INIT;
    char name[] = "other";

    m.name = name;
    m.create = true;
    node_msg(p, OP_OPEN, &m);
    subscribe(0, WAIT_MS);
    before = n.replies;
    n.ns = mine + 1;
    n.generation = 0;
    for (uint32_t i = 0; i < 20; i++) {
        char key[8];

        snprintf(key, sizeof key, "o%u", i);
        ck_assert_int_eq(put(key, 5000), OK);
    }
    ck_assert_uint_eq(n.replies, before + 20);
    still_asleep(1);
    n.ns = mine;
    put_wakes("a", 1);
    ck_assert_uint_eq(one(EVENT_STORED, "a")->seq, 21);
    subscribe(1, WAIT_MS); /* and they are not told */
    (void)one(EVENT_STORED, "a");
}
END_TEST

START_TEST(removed_moved_and_cleared_come_as_they_happen)
{
    static const uint32_t kinds[] = {EVENT_STORED, EVENT_MOVED, EVENT_MOVED,
                                     EVENT_REMOVED, EVENT_CLEARED};
    static const uint32_t tiers[] = {0, 1, 0, 0, 0};
    Pikv__NamespaceRequest bump = PIKV__NAMESPACE_REQUEST__INIT;
    const Pikv__SubscribeReply *r;
    char name[] = "test";

    put_cold("a", 5000);
    ck_assert_int_eq(get_same("a", 5000), OK);
    ck_assert_int_eq(key_op(OP_EVICT, 0, "a"), OK);
    bump.name = name;
    bump.bump = true;
    node_msg(p, OP_NAMESPACE, &bump);
    subscribe(1, WAIT_MS);
    r = answer();
    ck_assert_uint_eq(r->n_events, countof(kinds));
    for (uint32_t i = 0; i < r->n_events; i++) {
        ck_assert_uint_eq(r->events[i]->kind, kinds[i]);
        ck_assert_uint_eq(r->events[i]->tier, tiers[i]);
    }
    ck_assert_uint_eq(r->events[4]->key.len, 0);
    ck_assert_uint_eq(r->events[4]->version, n.generation + 1);
}
END_TEST

/* A poll that names no generation outlives a bump, one that names the old one
 * is told of it and then refused. */
START_TEST(a_bump_wakes_and_ends_polls_of_the_old_generation)
{
    Pikv__NamespaceRequest bump = PIKV__NAMESPACE_REQUEST__INIT;
    Pikv__Subscribe m = ask(1, WAIT_MS);
    char name[] = "test";
    uint32_t before;

    m.generation = n.generation;
    node_msg(p, OP_SUBSCRIBE, &m);
    bump.name = name;
    bump.bump = true;
    before = n.replies;
    node_msg(p, OP_NAMESPACE, &bump);
    ck_assert_uint_eq(n.replies, before + 2);
    m.from_seq = 2;
    node_msg(p, OP_SUBSCRIBE, &m);
    ck_assert_int_eq(n.reply.frame.status, ERR_STALE_GENERATION);
    subscribe(1, WAIT_MS);
    (void)one(EVENT_CLEARED, "");
}
END_TEST

START_TEST(a_reply_holds_as_many_as_fit_and_the_next_goes_on)
{
    char key[1000];
    uint64_t next = 1;
    uint32_t polls = 0, seen = 0;

    for (uint32_t i = 0; i < 60; i++) {
        memset(key, 'k', sizeof key);
        snprintf(key + 990, 10, "%05u", i);
        ck_assert_int_eq(put(key, 4096), OK);
    }
    while (next < 61) {
        const Pikv__SubscribeReply *r;

        subscribe(next, WAIT_MS);
        ck_assert_uint_le(n.reply.frame.env_len, n.lane.limits.message_bytes);
        r = answer();
        ck_assert_uint_gt(r->n_events, 0);
        for (uint32_t i = 0; i < r->n_events; i++)
            ck_assert_uint_eq(r->events[i]->seq, ++seen);
        next = r->next_seq;
        polls++;
    }
    ck_assert_uint_eq(seen, 60);
    ck_assert_uint_gt(polls, 3);
}
END_TEST

START_TEST(max_is_kept)
{
    Pikv__Subscribe m = ask(1, WAIT_MS);
    const Pikv__SubscribeReply *r;

    for (char key[] = "a"; key[0] <= 'e'; key[0]++)
        ck_assert_int_eq(put(key, 4096), OK);
    m.max = 2;
    node_msg(p, OP_SUBSCRIBE, &m);
    r = answer();
    ck_assert_uint_eq(r->n_events, 2);
    ck_assert_uint_eq(r->next_seq, 3);
}
END_TEST

/* Every number as large as it can be. */
START_TEST(the_largest_events_fit_as_reckoned)
{
    struct store *s = n.lane.store;
    struct wire_attr attr;
    struct store_key k = {.ns = n.ns, .group = UINT16_MAX, .cls = 255};
    uint8_t key[WIRE_KEY_MAX], parent[WIRE_KEY_MAX], scope[16];
    const Pikv__SubscribeReply *r;

    memset(&attr, 0xff, sizeof attr);
    attr.ttl_ms = 0;
    memset(key, 0xff, sizeof key);
    memset(parent, 0xfe, sizeof parent);
    memset(scope, 0xff, sizeof scope);
    k.key = key;
    k.key_len = sizeof key;
    k.scope = scope;
    n.lane.env.wall_s = UINT32_MAX;
    for (uint32_t i = 0; i < 30; i++) {
        uint32_t b;

        key[0] = (uint8_t)i;
        store_key_hash(s, &k);
        ck_assert_int_eq(
            store_reserve(s, &k, &attr, parent, sizeof parent, 4096, &b), OK);
        store_commit(s, b, 0);
        store_unref(s, b);
    }
    subscribe(1, 0);
    r = answer();
    ck_assert_uint_ge(r->n_events, 5);
    ck_assert_uint_lt(r->n_events, 30);
    ck_assert_uint_eq(r->events[0]->n_labels, 4);
    ck_assert_uint_eq(r->events[0]->scope.len, 16);
}
END_TEST

/* Without time for the SSD, as key_op gives it. */
static int node_evict(const char *key)
{
    struct node_batch b;

    batch_new(&b, &n, OP_EVICT);
    batch_key(&b, key, (struct wire_key){.key_len = 1}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    for (int i = 0; i < 100 && !n.reply.there; i++)
        node_sleep(&n, 10 * NS_PER_US);
    return n.reply.there ? n.reply.r[0].status : 1;
}

START_TEST(what_was_overwritten_is_told_as_lost)
{
    const Pikv__SubscribeReply *r;
    uint64_t first;

    for (uint32_t i = 0; i < 600; i++) {
        ck_assert_int_eq(put("a", 4096), OK);
        ck_assert_int_eq(key_op(OP_EVICT, 0, "a"), OK);
    }
    first = store_events_first(n.lane.store);
    ck_assert_uint_gt(first, 10);
    subscribe(5, WAIT_MS);
    r = answer();
    ck_assert_uint_eq(r->lost_from, 5);
    ck_assert_uint_eq(r->lost_count, first - 5);
    ck_assert_uint_eq(n.lane.metrics.events_lost, first - 5);
    ck_assert_uint_gt(r->n_events, 0);
    ck_assert_uint_eq(r->events[0]->seq, first);
}
END_TEST

/* The ring was overrun several times while it slept, by another namespace. */
START_TEST(a_sleeper_loses_nothing_by_what_happens_elsewhere)
{
    Pikv__Open m = PIKV__OPEN__INIT;
    char name[] = "other";

    m.name = name;
    m.create = true;
    node_msg(p, OP_OPEN, &m);
    subscribe(0, 5 * WAIT_MS); /* cut to node_msg's second */
    n.ns++;
    n.generation = 0;
    for (uint32_t i = 0; i < 600; i++) {
        ck_assert_int_eq(put("a", 4096), OK);
        ck_assert_int_eq(node_evict("a"), OK);
    }
    ck_assert_uint_gt(store_events_first(n.lane.store), 10);
    still_asleep(1);
    node_sleep(&n, NS_PER_S);
    none(1201);
}
END_TEST

/* As a client asks that kept a position over a restart. */
START_TEST(a_position_of_another_run_is_told_as_lost)
{
    const Pikv__SubscribeReply *r;

    ck_assert_int_eq(put("a", 4096), OK);
    subscribe(1000, WAIT_MS);
    r = answer();
    ck_assert_uint_eq(r->lost_from, 1000);
    ck_assert_uint_eq(r->lost_count, 0);
    ck_assert_uint_eq(r->n_events, 1);
    ck_assert_uint_eq(r->next_seq, 2);
    ck_assert_uint_eq(n.lane.metrics.events_lost, 0);
    subscribe(3, WAIT_MS); /* one beyond */
    ck_assert_uint_eq(answer()->lost_from, 3);
}
END_TEST

/* More in one turn than the ring holds, of another namespace: nothing of ours
 * is lost that was looked at before. */
START_TEST(a_sleeper_that_one_turn_overran_is_told)
{
    struct store *s = n.lane.store;
    struct store_key k = {.ns = n.ns, .key = (const uint8_t *)"x"};
    static const uint8_t no_scope[16];
    const Pikv__SubscribeReply *r;

    subscribe(0, WAIT_MS);
    k.key_len = 1;
    k.scope = no_scope;
    for (uint32_t i = 0; i < 2000; i++) {
        uint32_t b;

        store_key_hash(s, &k);
        ck_assert_int_eq(store_reserve(s, &k, NULL, NULL, 0, 100, &b), OK);
        store_commit(s, b, 0);
        store_unref(s, b);
        store_drop(s, b);
    }
    ck_assert_uint_gt(store_events_first(s), 1);
    node_settle(&n);
    r = answer();
    ck_assert_uint_eq(r->lost_from, 1);
    ck_assert_uint_eq(r->lost_count, store_events_first(s) - 1);
    ck_assert_uint_eq(r->events[0]->seq, store_events_first(s));
}
END_TEST

START_TEST(many_wait_for_the_same_event)
{
    struct node_peer *q = node_connect(&n, true);

    ck_assert_ptr_nonnull(q);
    subscribe(0, WAIT_MS);
    subscribe(0, WAIT_MS);
    subscribe_by(q, 0, WAIT_MS);
    subscribe_by(q, 0, 2 * WAIT_MS);
    still_asleep(4);
    put_wakes("a", 4);
    still_asleep(0);
    node_hangup(q);
    node_free_peer(q);
}
END_TEST

START_TEST(only_a_part_of_the_ops_may_sleep)
{
    uint32_t most = n.lane.ops.n / 4;

    for (uint32_t i = 0; i < most; i++)
        subscribe(0, WAIT_MS);
    still_asleep(most);
    subscribe(0, WAIT_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.frame.status, ERR_BUSY);
    subscribe(0, 0); /* that does not wait is welcome */
    none(1);
    ck_assert_int_eq(put("a", 4096), OK);
    still_asleep(0);
}
END_TEST

START_TEST(a_poll_with_the_same_id_ends_the_one_before)
{
    struct node_peer *q = node_connect(&n, true);
    Pikv__Subscribe m = ask(1, WAIT_MS);
    uint32_t before;

    m.id = 9;
    node_msg(p, OP_SUBSCRIBE, &m);
    node_msg(q, OP_SUBSCRIBE, &m); /* another connection's */
    m.id = 10;
    node_msg(p, OP_SUBSCRIBE, &m);
    still_asleep(3);
    before = n.replies;
    m.id = 9;
    m.wait_ms = 0;
    node_msg(p, OP_SUBSCRIBE, &m);
    ck_assert_uint_eq(n.replies, before + 2);
    still_asleep(2);
    none(1);
    put_wakes("a", 2);
    node_hangup(q);
    node_free_peer(q);
}
END_TEST

START_TEST(a_client_that_goes_leaves_nothing)
{
    struct node_peer *q = node_connect(&n, true);
    uint32_t before;

    subscribe_by(q, 0, WAIT_MS);
    still_asleep(1);
    before = n.replies;
    node_hangup(q);
    still_asleep(0);
    ck_assert_uint_eq(pool_used(&n.lane.ops), 0);
    ck_assert_uint_eq(n.replies, before);
    node_free_peer(q);
    ck_assert_int_eq(put("a", 4096), OK);
}
END_TEST

/* Else a stop would wait for the longest poll. */
START_TEST(a_drain_ends_all_polls)
{
    subscribe(0, WAIT_MS);
    subscribe(1, WAIT_MS);
    still_asleep(2);
    lane_drain(&n.lane);
    node_settle(&n);
    still_asleep(0);
    none(1);
    ck_assert(lane_drained(&n.lane));
}
END_TEST

START_TEST(what_is_wrong_is_refused)
{
    Pikv__Subscribe m = ask(1, WAIT_MS);

    m.ns = 60;
    node_msg(p, OP_SUBSCRIBE, &m);
    ck_assert_int_eq(n.reply.frame.status, ERR_NO_NAMESPACE);
    m.ns = UINT32_MAX;
    node_msg(p, OP_SUBSCRIBE, &m);
    ck_assert_int_eq(n.reply.frame.status, ERR_NO_NAMESPACE);
    m = ask(1, WAIT_MS);
    m.generation = n.generation + 1;
    node_msg(p, OP_SUBSCRIBE, &m);
    ck_assert_int_eq(n.reply.frame.status, ERR_STALE_GENERATION);
    still_asleep(0);
}
END_TEST

/* A namespace whose events lie behind many of another's: looked at in parts. */
START_TEST(a_long_look_back_is_done_in_parts)
{
    struct store *s = n.lane.store;
    static const uint8_t no_scope[16];
    struct store_key k = {.ns = n.ns,
                          .key = (const uint8_t *)"x",
                          .key_len = 1,
                          .scope = no_scope};
    Pikv__Open m = PIKV__OPEN__INIT;
    char name[] = "other";

    m.name = name;
    m.create = true;
    node_msg(p, OP_OPEN, &m);
    for (uint32_t i = 0; i < 10000; i++) {
        uint32_t b;

        store_key_hash(s, &k);
        ck_assert_int_eq(store_reserve(s, &k, NULL, NULL, 0, 100, &b), OK);
        store_commit(s, b, 0);
        store_unref(s, b);
        store_drop(s, b);
    }
    ck_assert_uint_eq(store_events_first(s), 1);
    n.ns++;
    subscribe(1, 0); /* does not wait: what it looked at, and where to go on */
    none(4097);
    subscribe(1, WAIT_MS);
    node_sleep(&n, 10 * NS_PER_MS);
    still_asleep(1);
    node_sleep(&n, WAIT_MS * NS_PER_MS);
    none(20001);
}
END_TEST

START_TEST(inspect_names_the_block_as_events_do)
{
    Pikv__InspectRequest m = PIKV__INSPECT_REQUEST__INIT;
    const Pikv__InspectReply *r;
    uint8_t hash[16];

    put_cold("a", 5000);
    subscribe(1, 0);
    memcpy(hash, answer()->events[0]->hash.data, sizeof hash);
    m.ns = n.ns;
    m.what = PIKV__INSPECT_REQUEST__WHAT__KEYS;
    node_msg(p, OP_INSPECT, &m);
    node_sleep(&n, 10 * NS_PER_MS);
    r = unpack(&pikv__inspect_reply__descriptor);
    ck_assert_uint_eq(r->n_blocks, 1);
    ck_assert_uint_eq(r->blocks[0]->hash.len, sizeof hash);
    ck_assert_mem_eq(r->blocks[0]->hash.data, hash, sizeof hash);
}
END_TEST

static void up_with(uint64_t events, uint64_t message)
{
    up();
    node_stop(&n);
    node_free_peer(p);
    node_again(&n, media);
    n.cfg.limits.events_bytes = events;
    n.cfg.limits.message_bytes = message;
    node_start(&n);
    p = node_connect(&n, true);
    ck_assert_ptr_nonnull(p);
    for (uint32_t i = 0; i < NODE_KEYS; i++)
        p->bytes[i] = buf[i];
    node_open(&n, p, "lru");
}

static void up_small(void)
{
    up_with(EVENTS_BYTES_MIN, KIB(16));
}

static void up_off(void)
{
    up_with(0, KIB(192));
}

START_TEST(without_a_ring_it_is_not_supported)
{
    subscribe(1, WAIT_MS);
    ck_assert_int_eq(n.reply.frame.status, ERR_UNSUPPORTED);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ops_events");
    TCase *t = tcase_create("subscribe"), *small = tcase_create("small"),
          *off = tcase_create("off");

    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t, events_that_are_there_are_answered_at_once);
    tcase_add_test(t, a_poll_sleeps_until_an_event_comes);
    tcase_add_test(t, a_poll_without_events_ends_with_its_wait);
    tcase_add_test(t, a_poll_ends_with_its_deadline_and_is_no_failure);
    tcase_add_test(t,
                   events_of_other_namespaces_wake_nobody_and_cost_no_position);
    tcase_add_test(t, removed_moved_and_cleared_come_as_they_happen);
    tcase_add_test(t, a_bump_wakes_and_ends_polls_of_the_old_generation);
    tcase_add_test(t, max_is_kept);
    tcase_add_test(t, a_position_of_another_run_is_told_as_lost);
    tcase_add_test(t, many_wait_for_the_same_event);
    tcase_add_test(t, only_a_part_of_the_ops_may_sleep);
    tcase_add_test(t, a_poll_with_the_same_id_ends_the_one_before);
    tcase_add_test(t, a_client_that_goes_leaves_nothing);
    tcase_add_test(t, a_drain_ends_all_polls);
    tcase_add_test(t, what_is_wrong_is_refused);
    tcase_add_test(t, a_long_look_back_is_done_in_parts);
    tcase_add_test(t, inspect_names_the_block_as_events_do);
    suite_add_tcase(s, t);
    tcase_add_checked_fixture(small, up_small, down);
    tcase_add_test(small, a_reply_holds_as_many_as_fit_and_the_next_goes_on);
    tcase_add_test(small, the_largest_events_fit_as_reckoned);
    tcase_add_test(small, what_was_overwritten_is_told_as_lost);
    tcase_add_test(small, a_sleeper_loses_nothing_by_what_happens_elsewhere);
    tcase_add_test(small, a_sleeper_that_one_turn_overran_is_told);
    suite_add_tcase(s, small);
    tcase_add_checked_fixture(off, up_off, down);
    tcase_add_test(off, without_a_ring_it_is_not_supported);
    suite_add_tcase(s, off);
    return s;
}
