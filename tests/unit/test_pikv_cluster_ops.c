/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client rpc base proto */
/* Each operation of libpikv over several nodes: where it goes and how what
 * comes back is put together. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/lib/fake_cluster.h"
#include "tests/lib/fake_events.h"
#include "tests/lib/fake_parts.h"

static const struct pikv_options plain;
static uint8_t buf[64];
static char key[16];
static uint32_t at;

static int evict_keys(const char *k, bool demote, uint32_t *count_out)
{
    struct pikv_call call = patient;
    struct pikv_key one = key_of(k);
    struct pikv_completion done;
    struct pikv_result r;
    uint64_t id;

    call.demote = demote;
    ck_assert_int_eq(pikv_evict(kv, ns, PIKV_KEYS, &one, 1, 0, &call, &r, &id),
                     0);
    ck_assert_int_le(pikv_wait(kv, id, &done), 0);
    if (count_out)
        *count_out = done.count;
    return r.status;
}

static int evict_label(uint32_t *count_out)
{
    struct pikv_completion done;
    uint64_t id;

    ck_assert_int_eq(
        pikv_evict(kv, ns, PIKV_LABEL, NULL, 0, 9, &patient, NULL, &id), 0);
    pikv_wait(kv, id, &done);
    *count_out = done.count;
    return done.status;
}

/* ---- PUT with replicas ---- */

START_TEST(replicas_are_put_to_the_next_owners)
{
    struct fake_seen seen;

    fakes_open(4, 2, plain);
    key_at(1, key, &at);
    ck_assert_int_eq(put_copies(key, buf, 64, (uint8_t)_i), PIKV_OK);
    for (uint32_t i = 0; i < 4; i++)
        ck_assert_uint_eq(fake_stored(fakes[i]),
                          i >= 1 && i < 1 + max_u64((uint64_t)_i, 1));
    fake_seen(fakes[1], slot_of_key(key) % 2, &seen);
    ck_assert_uint_eq(seen.replicas, (uint32_t)_i);
    ck_assert_int_eq(put_copies(key, buf, 64, (uint8_t)_i), PIKV_EXISTS);
    cluster_end();
}
END_TEST

START_TEST(a_replica_that_cannot_be_made_is_counted_and_costs_nothing_else)
{
    struct pikv_stats s;

    fakes_open(3, 1, plain);
    key_at(1, key, &at);
    fake_set_mode(fakes[2], FAKE_DIES);
    ck_assert_int_eq(put_copies(key, buf, 64, 2), PIKV_OK);
    pikv_stats(kv, &s);
    ck_assert_uint_eq(s.copies_failed, 1);
    ck_assert_uint_eq(fake_stored(fakes[1]), 1);
    cluster_end();
}
END_TEST

START_TEST(a_replica_makes_good_a_home_that_died)
{
    struct pikv_result r;

    fakes_open(3, 1, plain);
    key_at(1, key, &at);
    fake_set_mode(fakes[1], FAKE_DIES);
    ck_assert_int_eq(put_copies(key, "value", 6, 2), PIKV_OK);
    ck_assert_uint_eq(fake_stored(fakes[2]), 1);
    ck_assert_int_eq(fakes_get(key, buf, sizeof(buf), &r), PIKV_OK);
    ck_assert_str_eq((char *)buf, "value");
    cluster_end();
}
END_TEST

/* ---- EVICT ---- */

START_TEST(a_drop_goes_to_all_who_may_hold_the_key)
{
    uint32_t count;

    fakes_open(5, 1, plain);
    key_at(1, key, &at);
    ck_assert_int_eq(put_copies(key, buf, 64, 3), PIKV_OK);
    view.rows[slot_of_key(key)].to = 0; /* moves there: some may be there */
    view.epoch = 2;
    cluster_tell_all();
    ck_assert_int_eq(evict_keys(key, false, &count), PIKV_OK);
    for (uint32_t i = 1; i < 4; i++)
        ck_assert_uint_eq(fake_evicted(fakes[i]), 1);
    ck_assert_uint_eq(fake_stored(fakes[1]) + fake_stored(fakes[2]) +
                          fake_stored(fakes[3]),
                      0);
    ck_assert_int_eq(evict_keys(key, false, NULL), PIKV_MISS);
    ck_assert_uint_eq(fake_requests(fakes[4], 0), 0);
    cluster_end();
}
END_TEST

START_TEST(a_holder_that_cannot_be_reached_makes_a_drop_not_durable)
{
    fakes_open(3, 1, plain);
    key_at(1, key, &at);
    ck_assert_int_eq(put_copies(key, buf, 64, 2), PIKV_OK);
    fake_set_mode(fakes[2], FAKE_DIES);
    ck_assert_int_eq(evict_keys(key, false, NULL), PIKV_NOT_DURABLE);
    ck_assert_uint_eq(fake_stored(fakes[1]), 0);
    fake_set_mode(fakes[0], FAKE_DIES);
    fake_set_mode(fakes[1], FAKE_DIES);
    ck_assert_int_ne(evict_keys(key, false, NULL), PIKV_NOT_DURABLE);
    cluster_end();
}
END_TEST

START_TEST(a_demotion_goes_to_who_serves_the_key)
{
    struct fake_seen seen;

    fakes_open(3, 1, plain);
    key_at(1, key, &at);
    ck_assert_int_eq(put_copies(key, buf, 64, 2), PIKV_OK);
    ck_assert_int_eq(evict_keys(key, true, NULL), PIKV_OK);
    fake_seen(fakes[1], 0, &seen);
    ck_assert_uint_eq(seen.batch_flags, BATCH_DEMOTE);
    fake_seen(fakes[2], 0, &seen);
    ck_assert_uint_eq(seen.batch_flags, 0);
    cluster_end();
}
END_TEST

START_TEST(a_selection_is_dropped_on_all_nodes)
{
    uint32_t count;

    fakes_open(3, 2, plain);
    ck_assert_int_eq(evict_label(&count), PIKV_OK);
    ck_assert_uint_eq(count, 6 * (1 + SELECT_LABEL)); /* what a fake says */
    view.nodes[2].state = "removed";
    view.epoch = 2;
    cluster_tell_all();
    key_at(1, key, &at);
    (void)fakes_put(key, buf, 1); /* brings the view */
    for (uint32_t i = 0; i < 100; i++) {
        struct pikv_info info;

        pikv_info(kv, &info);
        if (info.epoch == 2)
            break;
        usleep(10000);
    }
    ck_assert_int_eq(evict_label(&count), PIKV_OK);
    ck_assert_uint_eq(count, 4 * (1 + SELECT_LABEL));
    cluster_end();
}
END_TEST

START_TEST(a_selection_that_misses_a_node_is_not_durable)
{
    uint32_t count;

    fakes_open(3, 1, plain);
    fake_set_mode(fakes[1], FAKE_DIES);
    ck_assert_int_eq(evict_label(&count), PIKV_NOT_DURABLE);
    ck_assert_uint_eq(count, 2 * (1 + SELECT_LABEL));
    view.nodes[1].state = "down"; /* is not even asked */
    view.epoch = 2;
    cluster_tell_all();
    ck_assert_int_eq(evict_label(&count), PIKV_NOT_DURABLE);
    cluster_end();
}
END_TEST

/* ---- LOOKUP ---- */

START_TEST(a_matrix_of_columns_is_merged_over_nodes)
{
    enum { POS = 40, COLS = 2 };
    struct pikv_column rules[COLS] = {{.rule = 0}, {.rule = 1, .trailing = 2}};
    char names[POS * COLS][16];
    struct pikv_key keys[POS * COLS];
    struct pikv_result r[POS * COLS];
    struct pikv_completion done;
    uint8_t stops[POS / 8];
    uint64_t id;

    fakes_open(3, 2, plain);
    for (uint32_t i = 0; i < POS * COLS; i++) {
        snprintf(names[i], sizeof(names[i]), "c%u", i);
        keys[i] = key_of(names[i]);
        /* Column 1 has positions 28 and 29 only; column 0 up to 32. */
        if (i % COLS ? i / COLS == 28 || i / COLS == 29 : i / COLS < 33)
            ck_assert_int_eq(fakes_put(names[i], buf, 8), PIKV_OK);
    }
    ck_assert_int_eq(
        pikv_lookup(kv, ns, keys, POS, rules, COLS, stops, &patient, r, &id),
        0);
    ck_assert_int_eq(pikv_wait(kv, id, &done), PIKV_OK);
    ck_assert_uint_eq(done.prefix, 30);
    for (uint32_t p = 0; p < POS; p++)
        ck_assert_int_eq(stops[p / 8] >> (p % 8) & 1, p == 29);
    cluster_end();
}
END_TEST

/* ---- one block by several writers ---- */

static int finish(uint64_t token, bool abort)
{
    struct pikv_finish f = {.key = key_of(key), .token = token};
    struct pikv_result r;
    uint64_t id;
    int e = abort ? pikv_put_abort(kv, ns, &f, 1, &patient, &r, &id)
                  : pikv_put_commit(kv, ns, &f, 1, &patient, &r, &id);

    ck_assert_int_eq(e, 0);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), 0);
    return r.status;
}

START_TEST(an_open_block_stays_at_its_node_while_the_view_changes)
{
    struct pikv_begin b = {.len = 8};
    struct pikv_write w = {.data = {"1234567", 8}};
    struct pikv_result r;
    struct pikv_info info;
    uint64_t id;
    char other[16];

    fakes_open(3, 1, plain);
    b.block.key = w.key = key_of(key_at(1, key, &at));
    ck_assert_int_eq(pikv_put_begin(kv, ns, &b, 1, &patient, &r, &id), 0);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), 0);
    ck_assert_int_eq(r.status, PIKV_OK);
    w.token = r.token;
    for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++)
        if (view.rows[slot].owner[0] == 1)
            view.rows[slot].owner[0] = 0, view.rows[slot].owner[2] = 1;
    view.epoch = 2;
    cluster_tell_all();
    (void)fakes_put(key_at(2, other, &at), buf, 1);
    for (uint32_t i = 0; i < 500 && (pikv_info(kv, &info), info.epoch < 2); i++)
        usleep(10000);
    ck_assert_uint_eq(info.epoch, 2);
    ck_assert_int_eq(pikv_put_write(kv, ns, &w, 1, &patient, &r, &id), 0);
    ck_assert_int_eq(pikv_wait(kv, id, NULL), 0);
    ck_assert_int_eq(r.status, PIKV_OK);
    ck_assert_int_eq(finish(w.token, false), PIKV_OK);
    ck_assert_uint_eq(fake_stored(fakes[1]), 1);
    ck_assert_int_eq(finish(12345, true), PIKV_MISS); /* of nobody: by key */
    cluster_end();
}
END_TEST

/* ---- hot slots ---- */

static void make_hot(const char *k, uint8_t heat)
{
    view.rows[slot_of_key(k)].heat = heat;
    view.epoch++;
    cluster_tell_all();
}

START_TEST(reads_of_a_hot_slot_are_spread_over_those_that_have_it)
{
    uint32_t before[3], asked[3];
    struct pikv_result r;

    cluster_fakes(3, 1);
    key_at(1, key, &at);
    cluster_end();
    cluster_fakes(3, 1);
    make_hot(key, 2);
    {
        struct pikv_namespace d = {.name = "test", .create = true};
        struct pikv_options o = {.address = fake_address(fakes[0]),
                                 .connect_ms = 20000,
                                 .hedge = PIKV_HEDGE_NEVER};

        ck_assert_int_eq(pikv_open(&o, &kv), 0);
        ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), 0);
    }
    ck_assert_int_eq(put_copies(key, "hot", 4, 3), PIKV_OK);
    for (uint32_t i = 0; i < 3; i++)
        before[i] = fake_requests(fakes[i], 0);
    for (uint32_t i = 0; i < 300; i++)
        ck_assert_int_eq(fakes_get(key, buf, sizeof(buf), &r), PIKV_OK);
    for (uint32_t i = 0; i < 3; i++) {
        asked[i] = fake_requests(fakes[i], 0) - before[i];
        ck_assert_uint_gt(asked[i], 40);
    }
    ck_assert_uint_eq(asked[0] + asked[1] + asked[2], 300);
    cluster_end();
}
END_TEST

START_TEST(what_a_replica_does_not_have_is_asked_of_the_home)
{
    struct pikv_result r;
    struct pikv_stats s;

    cluster_fakes(3, 1);
    key_at(1, key, &at);
    cluster_end();
    fakes_open(3, 1, plain);
    make_hot(key, 2);
    (void)fakes_put(key, "home", 5);
    for (uint32_t i = 0; i < 60; i++)
        ck_assert_int_eq(fakes_get(key, buf, sizeof(buf), &r), PIKV_OK);
    key_at(1, key, &at);
    make_hot(key, 2);
    for (uint32_t i = 0; i < 60; i++)
        ck_assert_int_eq(fakes_get(key, buf, sizeof(buf), &r), PIKV_MISS);
    pikv_stats(kv, &s);
    ck_assert_uint_eq(s.failovers, 0);
    cluster_end();
}
END_TEST

/* ---- the rest ---- */

START_TEST(who_is_not_to_follow_a_view_does_not)
{
    struct pikv_info info;

    fakes_open(5, 1, (struct pikv_options){.no_view = true});
    pikv_info(kv, &info);
    ck_assert_uint_eq(info.nodes, 0);
    ck_assert_uint_eq(fake_views(fakes[0]), 0);
    ck_assert_int_eq(fakes_put(key_at(1, key, &at), buf, 8), PIKV_WRONG_NODE);
    cluster_end();
}
END_TEST

START_TEST(what_is_wanted_here_is_asked_of_the_node_that_was_opened)
{
    struct pikv_call call = patient;
    struct pikv_put item = {.data = {"here", 5}};
    struct pikv_result r;

    fakes_open(3, 2, plain);
    call.here = true;
    item.key = key_of(key_at(1, key, &at));
    ck_assert_int_eq(pikv_put_sync(kv, ns, &item, 1, &call, &r), 0);
    ck_assert_int_eq(r.status, PIKV_OK);
    ck_assert_uint_eq(fake_stored(fakes[0]), 1);
    cluster_end();
}
END_TEST

START_TEST(the_first_address_that_answers_is_taken)
{
    char list[400];

    cluster_fakes(2, 1);
    snprintf(list, sizeof(list), "shm:/nowhere/a.sock,shm:/nowhere/b.sock,%s",
             fake_address(fakes[1]));
    cluster_end();
    cluster_fakes(2, 1);
    snprintf(list, sizeof(list), "shm:/nowhere/a.sock,%s,shm:/nowhere/b.sock",
             fake_address(fakes[1]));
    {
        struct pikv_options o = {.address = list, .connect_ms = 20000};
        struct pikv_namespace d = {.name = "test", .create = true};

        ck_assert_int_eq(pikv_open(&o, &kv), 0);
        ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), 0);
        o.address = "shm:/nowhere/a.sock,shm:/nowhere/b.sock";
        struct pikv *none;
        ck_assert_int_eq(pikv_open(&o, &none), PIKV_NO_SERVER);
        ck_assert_ptr_nonnull(strstr(pikv_last_error(), "b.sock"));
    }
    ck_assert_int_eq(fakes_put(key_at(0, key, &at), buf, 8), PIKV_OK);
    ck_assert_uint_eq(fake_stored(fakes[0]), 1);
    cluster_end();
}
END_TEST

START_TEST(a_flush_reaches_all_nodes)
{
    fakes_open(3, 1, plain);
    ck_assert_int_eq(pikv_namespace_bump(kv, ns, &patient), PIKV_OK);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_uint_eq(fake_bumps(fakes[i]), 1);
    view.nodes[2].state = "down";
    view.epoch = 2;
    cluster_tell_all();
    (void)fakes_put(key_at(1, key, &at), buf, 8);
    cluster_end();
}
END_TEST

START_TEST(the_nodes_of_the_view_are_told)
{
    struct pikv_node n[3];

    fakes_open(3, 2, plain);
    ck_assert_int_eq(pikv_nodes(kv, n, 1), 3);
    ck_assert_int_eq(pikv_nodes(kv, n, 3), 3);
    ck_assert_str_eq(n[0].name, "node0");
    ck_assert_str_eq(n[2].state, "up");
    ck_assert_uint_eq(n[0].lanes_up, 2);
    ck_assert_str_eq(n[0].transport, "shm");
    ck_assert_uint_eq(n[1].lanes_up, 0);
    ck_assert_str_eq(n[1].transport, "");
    ck_assert_uint_eq(n[0].slots + n[1].slots + n[2].slots, WIRE_SLOTS);
    cluster_end();
}
END_TEST

START_TEST(a_key_is_explained_by_who_serves_it)
{
    struct pikv_explanation ex;
    struct pikv_key k;
    struct fake_seen seen;

    fakes_open(2, 1, plain);
    k = key_of(key_at(1, key, &at));
    ck_assert_int_eq(pikv_explain(kv, ns, &k, &patient, &ex), 0);
    ck_assert_str_eq(ex.reason, "late");
    fake_seen(fakes[1], 0, &seen);
    ck_assert_uint_eq(seen.explains, 1);
    cluster_end();
}
END_TEST

START_TEST(part_completions_wait_for_what_was_sent_away)
{
    enum { PARTS = 30 };
    static uint8_t out[PARTS][8];
    struct pikv_get gets[PARTS] = {0};
    struct pikv_result r[PARTS];
    struct pikv_call call = patient;
    struct pikv_completion done[PARTS + 1];
    char names[PARTS][16];
    uint32_t next = 0;
    uint64_t id;
    int n = 0;

    fakes_open(3, 1, plain);
    for (uint32_t i = 0; i < 3; i++)
        fake_set_tells(fakes[i], TELLS_EACH);
    for (uint32_t i = 0; i < PARTS; i++) {
        snprintf(names[i], sizeof(names[i]), "p%u", i);
        gets[i] =
            (struct pikv_get){.key = key_of(names[i]), .data = {out[i], 8}};
    }
    /* All slots go one node on; the handle does not know it. */
    for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++) {
        struct fake_row *row = &view.rows[slot];
        uint16_t first = row->owner[0];

        row->owner[0] = row->owner[1];
        row->owner[1] = row->owner[2];
        row->owner[2] = first;
    }
    {
        struct pikv *first = kv;
        struct pikv_options o = {.address = fake_address(fakes[0]),
                                 .connect_ms = 20000};
        struct pikv_namespace d = {.name = "test", .create = true};

        view.epoch = 2;
        cluster_tell_all();
        ck_assert_int_eq(pikv_open(&o, &kv), 0);
        ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), 0);
        for (uint32_t i = 0; i < PARTS; i++)
            ck_assert_int_eq(fakes_put(names[i], names[i], 3), PIKV_OK);
        pikv_close(kv);
        kv = first;
    }
    call.parts = true;
    ck_assert_int_eq(pikv_get(kv, ns, gets, PARTS, &call, r, &id), 0);
    while (n < PARTS + 1) {
        int got = pikv_poll(kv, done + n, PARTS + 1 - n);

        ck_assert_int_ge(got, 0);
        n += got;
    }
    for (int i = 0; i < PARTS; i++) {
        ck_assert(done[i].part);
        ck_assert_uint_eq(done[i].item, next++);
        ck_assert_int_eq(done[i].status, PIKV_OK);
    }
    for (uint32_t i = 0; i < PARTS; i++)
        ck_assert_mem_eq(out[i], names[i], 3);
    ck_assert(!done[PARTS].part);
    ck_assert_int_eq(done[PARTS].status, PIKV_OK);
    cluster_end();
}
END_TEST

START_TEST(registered_memory_is_known_to_each_node)
{
    struct pikv_get item;
    struct pikv_result r;
    uint32_t segs;
    void *p;

    fakes_open(3, 1, plain);
    ck_assert_int_eq(pikv_mem_alloc(kv, 1 << 20, &p), 0);
    for (uint32_t i = 0; i < 3; i++) {
        memset(p, (int)i + 1, 4096);
        ck_assert_int_eq(fakes_put(key_at(i, key, &at), p, 4096), PIKV_OK);
        memset(p, 0, 4096);
        segs = fake_segs(fakes[i]);
        item = (struct pikv_get){.key = key_of(key), .data = {p, 4096}};
        ck_assert_int_eq(pikv_get_sync(kv, ns, &item, 1, &patient, &r), 0);
        ck_assert_int_eq(r.status, PIKV_OK);
        ck_assert_uint_eq(fake_segs(fakes[i]), segs + 1);
        ck_assert_int_eq(((uint8_t *)p)[4095], (int)i + 1);
    }
    cluster_end();
}
END_TEST

START_TEST(loans_are_lent_by_each_node)
{
    struct pikv_get item;
    struct pikv_result r[3];

    fakes_open(3, 2, plain);
    for (uint32_t i = 0; i < 3; i++) {
        ck_assert_int_eq(fakes_put(key_at(i, key, &at), key, 16), PIKV_OK);
        item = (struct pikv_get){.key = key_of(key), .loan = true};
        ck_assert_int_eq(pikv_get_sync(kv, ns, &item, 1, &patient, &r[i]), 0);
        ck_assert_int_eq(r[i].status, PIKV_OK);
        ck_assert_ptr_nonnull(r[i].loan);
        ck_assert_str_eq(r[i].loan, key);
    }
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_int_eq(pikv_loan_release(kv, ns, &r[i]), PIKV_OK);
    cluster_end();
}
END_TEST

START_TEST(a_namespace_that_one_node_refuses_is_refused_there_only)
{
    struct pikv_result r;

    fakes_open(3, 1, plain);
    fake_set_refuses_open(fakes[1], PIKV_LIMIT);
    ck_assert_int_eq(fakes_get(key_at(1, key, &at), buf, 8, &r), PIKV_LIMIT);
    ck_assert_int_eq(fakes_get(key_at(2, key, &at), buf, 8, &r), PIKV_MISS);
    cluster_end();
}
END_TEST

START_TEST(events_of_all_nodes_come)
{
    struct pikv_events *ev;
    struct pikv_event e[8];
    uint64_t until = clock_ms() + 20000;
    bool seen[3] = {0};

    fakes_open(3, 1, plain);
    ck_assert_int_eq(pikv_events_open(kv, ns, NULL, &ev), 0);
    while (!(seen[0] && seen[1] && seen[2]) && clock_ms() < until) {
        int n = pikv_events_next(ev, e, 8, 100);

        ck_assert_int_ge(n, 0);
        for (int i = 0; i < n; i++)
            seen[e[i].node] = true;
        for (uint32_t i = 0; i < 3; i++)
            fake_event(fakes[i], 0, 0, "key");
    }
    ck_assert(seen[0] && seen[1] && seen[2]);
    pikv_events_close(ev);
    cluster_end();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("pikv_cluster_ops");
    TCase *t = tcase_create("ops");

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, replicas_are_put_to_the_next_owners, 0, 4);
    tcase_add_test(
        t, a_replica_that_cannot_be_made_is_counted_and_costs_nothing_else);
    tcase_add_test(t, a_replica_makes_good_a_home_that_died);
    tcase_add_test(t, a_drop_goes_to_all_who_may_hold_the_key);
    tcase_add_test(t, a_holder_that_cannot_be_reached_makes_a_drop_not_durable);
    tcase_add_test(t, a_demotion_goes_to_who_serves_the_key);
    tcase_add_test(t, a_selection_is_dropped_on_all_nodes);
    tcase_add_test(t, a_selection_that_misses_a_node_is_not_durable);
    tcase_add_test(t, a_matrix_of_columns_is_merged_over_nodes);
    tcase_add_test(t, an_open_block_stays_at_its_node_while_the_view_changes);
    tcase_add_test(t, reads_of_a_hot_slot_are_spread_over_those_that_have_it);
    tcase_add_test(t, what_a_replica_does_not_have_is_asked_of_the_home);
    tcase_add_test(t, who_is_not_to_follow_a_view_does_not);
    tcase_add_test(t, what_is_wanted_here_is_asked_of_the_node_that_was_opened);
    tcase_add_test(t, the_first_address_that_answers_is_taken);
    tcase_add_test(t, a_flush_reaches_all_nodes);
    tcase_add_test(t, the_nodes_of_the_view_are_told);
    tcase_add_test(t, a_key_is_explained_by_who_serves_it);
    tcase_add_test(t, part_completions_wait_for_what_was_sent_away);
    tcase_add_test(t, registered_memory_is_known_to_each_node);
    tcase_add_test(t, loans_are_lent_by_each_node);
    tcase_add_test(t, a_namespace_that_one_node_refuses_is_refused_there_only);
    tcase_add_test(t, events_of_all_nodes_come);
    suite_add_tcase(s, t);
    return s;
}
