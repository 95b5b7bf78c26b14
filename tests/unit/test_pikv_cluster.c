/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client rpc base proto */
/* libpikv and several scripted daemons with a view: what goes to whom, and what
 * happens when the view is old or a node does not answer. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "tests/lib/fake_cluster.h"

static const struct pikv_options plain;

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 31 + seed + (i >> 8));
}

/* N keys in one call, N blocks of LEN bytes. */
enum { N = 240, LEN = 300 };
static uint8_t in[N][LEN], out[N][LEN];
static char names[N][16];
static struct pikv_result results[N];

static void put_all(void)
{
    struct pikv_put puts[N] = {0};

    for (uint32_t i = 0; i < N; i++) {
        snprintf(names[i], sizeof(names[i]), "key%u", i);
        fill(in[i], LEN, i);
        puts[i] =
            (struct pikv_put){.key = key_of(names[i]), .data = {in[i], LEN}};
    }
    ck_assert_int_eq(pikv_put_sync(kv, ns, puts, N, &patient, results), 0);
    for (uint32_t i = 0; i < N; i++)
        ck_assert_int_eq(results[i].status, PIKV_OK);
}

static int get_all(void)
{
    struct pikv_get gets[N] = {0};

    memset(out, 0, sizeof(out));
    for (uint32_t i = 0; i < N; i++)
        gets[i] =
            (struct pikv_get){.key = key_of(names[i]), .data = {out[i], LEN}};
    return pikv_get_sync(kv, ns, gets, N, &patient, results);
}

static void all_came(void)
{
    for (uint32_t i = 0; i < N; i++) {
        ck_assert_int_eq(results[i].status, PIKV_OK);
        ck_assert_mem_eq(in[i], out[i], LEN);
    }
}

START_TEST(a_batch_is_split_over_nodes_and_lanes_and_merged)
{
    struct pikv_info info;

    fakes_open(3, 1 + (uint32_t)_i, plain);
    ck_assert_int_eq(pikv_info(kv, &info), 0);
    ck_assert_uint_eq(info.nodes, 3);
    ck_assert_uint_eq(info.epoch, 1);
    put_all();
    for (uint32_t i = 0; i < 3; i++) {
        ck_assert_uint_gt(fake_stored(fakes[i]), N / 6);
        ck_assert_uint_eq(fake_redirects(fakes[i]), 0);
        ck_assert_uint_eq(fake_ns_opens(fakes[i]), 1);
    }
    ck_assert_uint_eq(fake_stored(fakes[0]) + fake_stored(fakes[1]) +
                          fake_stored(fakes[2]),
                      N);
    ck_assert_int_eq(get_all(), 0);
    all_came();
    cluster_end();
}
END_TEST

START_TEST(a_node_is_connected_and_the_namespace_opened_when_first_needed)
{
    uint8_t b[8] = "bytes";
    char k[16];
    uint32_t at = 0;

    fakes_open(3, 2, plain);
    ck_assert_uint_eq(fake_hellos(fakes[1]) + fake_hellos(fakes[2]), 0);
    ck_assert_int_eq(fakes_put(key_at(1, k, &at), b, sizeof(b)), PIKV_OK);
    ck_assert_uint_gt(fake_hellos(fakes[1]), 0);
    ck_assert_uint_eq(fake_ns_opens(fakes[1]), 1);
    ck_assert_uint_eq(fake_hellos(fakes[2]), 0);
    cluster_end();
}
END_TEST

START_TEST(a_view_comes_in_pieces)
{
    uint8_t b[8] = "bytes";
    char k[16];
    uint32_t at = 0;

    cluster_fakes(2, 1);
    view.piece_bytes = 5735;
    cluster_tell_all();
    for (uint32_t i = 0; i < 2; i++) {
        struct pikv_namespace d = {.name = "test", .create = true};
        struct pikv_options o = {.address = fake_address(fakes[0]),
                                 .connect_ms = 20000};

        ck_assert_int_eq(pikv_open(&o, &kv), 0);
        ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), 0);
        ck_assert_int_eq(fakes_put(key_at(1, k, &at), b, sizeof(b)), PIKV_OK);
        if (i == 0)
            pikv_close(kv);
    }
    ck_assert_uint_eq(fake_views(fakes[0]), 2 * 10);
    cluster_end();
}
END_TEST

START_TEST(an_old_view_costs_one_redirect)
{
    uint8_t b[8] = "bytes", c[8];
    struct pikv_result r;
    struct pikv_stats s;
    struct pikv_info info;
    char k[16];
    uint32_t at = 0;

    fakes_open(3, 1, plain);
    key_at(1, k, &at);
    view.rows[slot_of_key(k)].owner[0] = 2;
    view.rows[slot_of_key(k)].owner[1] = 0;
    view.rows[slot_of_key(k)].owner[2] = FAKE_NONE;
    view.epoch = 2;
    cluster_tell_all();
    ck_assert_int_eq(fakes_put(k, b, sizeof(b)), PIKV_OK);
    ck_assert_uint_eq(fake_redirects(fakes[1]), 1);
    ck_assert_uint_eq(fake_stored(fakes[2]), 1);
    ck_assert_int_eq(fakes_get(k, c, sizeof(c), &r), PIKV_OK);
    ck_assert_mem_eq(b, c, sizeof(b));
    ck_assert_uint_eq(fake_redirects(fakes[1]), 1);
    pikv_info(kv, &info);
    ck_assert_uint_eq(info.epoch, 2);
    pikv_stats(kv, &s);
    ck_assert_uint_eq(s.redirects, 1);
    cluster_end();
}
END_TEST

/* The node that sends away cannot tell the newer view: by the answer's word. */
START_TEST(who_is_named_by_the_redirect_is_asked_when_the_view_says_nothing_new)
{
    uint8_t b[8] = "bytes";
    char k[16];
    uint32_t at = 0, slot;

    fakes_open(3, 1, plain);
    slot = slot_of_key(key_at(1, k, &at));
    view.rows[slot].owner[0] = 2; /* told to node 1 and 2, epoch unchanged */
    view.rows[slot].owner[1] = 0;
    view.rows[slot].owner[2] = FAKE_NONE;
    cluster_tell(1);
    cluster_tell(2);
    ck_assert_int_eq(fakes_put(k, b, sizeof(b)), PIKV_OK);
    ck_assert_uint_eq(fake_stored(fakes[2]), 1);
    cluster_end();
}
END_TEST

START_TEST(a_second_redirect_is_the_callers)
{
    uint8_t b[8] = "bytes";
    char k[16];
    uint32_t at = 0, slot;

    fakes_open(3, 1, plain);
    slot = slot_of_key(key_at(1, k, &at));
    view.rows[slot].owner[1] = view.rows[slot].owner[2] = FAKE_NONE;
    view.rows[slot].owner[0] = 2;
    cluster_tell(1);
    view.rows[slot].owner[0] = 1;
    cluster_tell(2);
    ck_assert_int_eq(fakes_put(k, b, sizeof(b)), PIKV_RETRY);
    ck_assert_uint_eq(fake_redirects(fakes[1]), 1);
    ck_assert_uint_eq(fake_redirects(fakes[2]), 1);
    cluster_end();
}
END_TEST

START_TEST(a_batch_of_which_a_part_moved_is_whole)
{
    fakes_open(3, 2, plain);
    put_all();
    for (uint32_t slot = 0; slot < WIRE_SLOTS; slot += 5) {
        uint16_t first = view.rows[slot].owner[0];

        view.rows[slot].owner[0] = view.rows[slot].owner[1];
        view.rows[slot].owner[1] = first;
    }
    view.epoch = 2;
    cluster_tell_all();
    /* What moved is a miss at its new home, the rest is there. */
    ck_assert_int_eq(get_all(), 0);
    all_came(); /* the old home still has it: a hit is always served */
    cluster_end();
}
END_TEST

START_TEST(reads_go_to_the_next_owner_when_the_home_dies)
{
    uint8_t b[8] = "bytes", c[8];
    struct pikv_result r;
    struct pikv_stats s;
    char k[16];
    uint32_t at = 0;

    fakes_open(3, 1, plain);
    key_at(1, k, &at);
    ck_assert_int_eq(put_copies(k, b, sizeof(b), 2), PIKV_OK);
    ck_assert_uint_eq(fake_stored(fakes[1]), 1);
    ck_assert_uint_eq(fake_stored(fakes[2]), 1);
    fake_set_mode(fakes[1], FAKE_DIES); /* in the middle of the call */
    ck_assert_int_eq(fakes_get(k, c, sizeof(c), &r), PIKV_OK);
    ck_assert_mem_eq(b, c, sizeof(b));
    pikv_stats(kv, &s);
    ck_assert_uint_eq(s.failovers, 1);
    cluster_end();
}
END_TEST

static bool lanes_are_fewer(void)
{
    struct pikv_stats s;

    pikv_stats(kv, &s);
    return s.lanes_up < s.lanes;
}

static bool lanes_are_all(void)
{
    struct pikv_stats s;

    pikv_stats(kv, &s);
    return s.lanes_up == s.lanes;
}

START_TEST(a_node_that_is_down_costs_nothing_and_comes_back)
{
    uint8_t c[8];
    struct pikv_result r;
    char k[16];
    uint32_t at = 0;
    uint64_t t;

    fakes_open(2, 1, plain);
    for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++)
        view.rows[slot].owner[1] = FAKE_NONE;
    view.epoch = 2;
    cluster_tell_all();
    key_at(1, k, &at);
    ck_assert_int_eq(fakes_put(k, "1234567", 8), PIKV_OK);
    fake_set_down(fakes[1], true);
    ck_assert(comes(lanes_are_fewer));
    t = clock_ms();
    for (uint32_t i = 0; i < 20; i++)
        ck_assert_int_eq(fakes_get(k, c, sizeof(c), &r), PIKV_NO_SERVER);
    ck_assert_uint_lt(clock_ms() - t, 10000);
    fake_set_down(fakes[1], false);
    ck_assert(comes(lanes_are_all));
    ck_assert_int_eq(fakes_get(k, c, sizeof(c), &r), PIKV_OK);
    cluster_end();
}
END_TEST

START_TEST(the_stand_in_of_a_node_that_is_down_by_the_view_is_asked)
{
    uint8_t c[8];
    struct pikv_result r;
    char k[16];
    uint32_t at = 0;

    fakes_open(3, 1, plain);
    key_at(1, k, &at);
    view.nodes[1].state = "down";
    view.epoch = 2;
    cluster_tell_all();
    fake_set_down(fakes[1], true);
    ck_assert_int_eq(fakes_put(k, "1234567", 8), PIKV_OK);
    ck_assert_uint_eq(fake_stored(fakes[2]), 1);
    ck_assert_int_eq(fakes_get(k, c, sizeof(c), &r), PIKV_OK);
    cluster_end();
}
END_TEST

START_TEST(a_node_dies_in_a_batch_and_only_its_items_miss)
{
    uint32_t hit = 0, down = 0;

    fakes_open(3, 1, plain);
    put_all();
    fake_set_mode(fakes[1], FAKE_DIES);
    (void)get_all();
    for (uint32_t i = 0; i < N; i++) {
        bool is_hit = results[i].status == PIKV_OK;

        ck_assert(is_hit || results[i].status == PIKV_RETRY);
        ck_assert(!is_hit || memcmp(in[i], out[i], LEN) == 0);
        ck_assert_int_eq(is_hit,
                         view.rows[slot_of_key(names[i])].owner[0] != 1);
        hit += is_hit;
        down += !is_hit;
    }
    ck_assert_uint_gt(hit, N / 3);
    ck_assert_uint_gt(down, N / 6);
    cluster_end();
}
END_TEST

START_TEST(what_the_stand_in_took_is_found_when_the_home_is_back)
{
    uint8_t c[8];
    struct pikv_result r;
    char k[16], none[16];
    uint32_t at = 0;

    fakes_open(3, 1, plain);
    ck_assert_int_eq(fakes_get(key_at(1, none, &at), c, 8, &r), PIKV_MISS);
    view.nodes[1].state = "down";
    view.epoch = 2;
    cluster_tell_all();
    fake_set_down(fakes[1], true);
    ck_assert_int_eq(fakes_put(key_at(1, k, &at), "1234567", 8), PIKV_OK);
    ck_assert_uint_eq(fake_stored(fakes[2]), 1);
    view.nodes[1].state = "up";
    view.epoch = 3;
    cluster_tell_all();
    fake_set_down(fakes[1], false);
    ck_assert(comes(lanes_are_all));
    ck_assert_int_eq(fakes_get(k, c, sizeof(c), &r), PIKV_OK);
    ck_assert_int_eq(fakes_get(none, c, sizeof(c), &r), PIKV_MISS);
    cluster_end();
}
END_TEST

static uint32_t views_before;

static bool view_was_told(void)
{
    return fake_views(fakes[0]) > views_before;
}

START_TEST(an_older_view_is_never_taken)
{
    struct pikv_info info;
    uint8_t c[8];
    struct pikv_result r;
    char k[16];
    uint32_t at = 0;

    fakes_open(2, 1, plain);
    view.epoch = 3;
    cluster_tell_all();
    (void)fakes_get(key_at(1, k, &at), c, 8, &r); /* brings it */
    for (int i = 0; i < 1000; i++) {
        pikv_info(kv, &info);
        if (info.epoch == 3)
            break;
        usleep(10000);
    }
    ck_assert_uint_eq(info.epoch, 3);
    view.epoch = 2; /* a disk was put back */
    cluster_tell_all();
    views_before = fake_views(fakes[0]);
    fake_set_down(fakes[1], true); /* so it is asked for again and again */
    ck_assert(comes(view_was_told));
    usleep(50000);
    pikv_info(kv, &info);
    ck_assert_uint_eq(info.epoch, 3);
    cluster_end();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("pikv_cluster");
    TCase *t = tcase_create("cluster");

    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, a_batch_is_split_over_nodes_and_lanes_and_merged, 0,
                        3);
    tcase_add_test(
        t, a_node_is_connected_and_the_namespace_opened_when_first_needed);
    tcase_add_test(t, a_view_comes_in_pieces);
    tcase_add_test(t, an_old_view_costs_one_redirect);
    tcase_add_test(
        t,
        who_is_named_by_the_redirect_is_asked_when_the_view_says_nothing_new);
    tcase_add_test(t, a_second_redirect_is_the_callers);
    tcase_add_test(t, a_batch_of_which_a_part_moved_is_whole);
    tcase_add_test(t, reads_go_to_the_next_owner_when_the_home_dies);
    tcase_add_test(t, a_node_that_is_down_costs_nothing_and_comes_back);
    tcase_add_test(t, the_stand_in_of_a_node_that_is_down_by_the_view_is_asked);
    tcase_add_test(t, a_node_dies_in_a_batch_and_only_its_items_miss);
    tcase_add_test(t, what_the_stand_in_took_is_found_when_the_home_is_back);
    tcase_add_test(t, an_older_view_is_never_taken);
    suite_add_tcase(s, t);
    return s;
}
