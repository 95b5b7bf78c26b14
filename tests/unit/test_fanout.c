/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: cluster base */
#include "cluster/fanout.h"

#include <check.h>
#include <string.h>

static struct view v;

static void setup(void)
{
    ck_assert_int_eq(view_init(&v), OK);
}

static void teardown(void)
{
    view_fini(&v);
}

static void members(uint32_t n)
{
    ck_assert_int_eq(view_room(&v, n), OK);
    v.node_n = n;
    for (uint32_t i = 0; i < n; i++)
        v.nodes[i].state = NODE_UP;
}

/* Hands the view on as everybody would; got[i] times to node i. Returns how
 * many steps the last one was away from the root. */
static uint32_t spread(uint16_t root, uint32_t degree, uint32_t *got)
{
    static uint16_t queue[2 * NODES_MAX];
    static uint32_t depth[NODES_MAX];
    static uint16_t child[NODES_MAX];
    uint32_t n = 0, last = 0;

    memset(got, 0, NODES_MAX * sizeof(*got));
    memset(depth, 0, sizeof(depth));
    queue[n++] = root;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k =
            fanout_children(&v, queue[i], queue[i] == root, degree, child);

        ck_assert_uint_le(k, 8 * degree);
        for (uint32_t j = 0; j < k; j++) {
            ck_assert_uint_ne(child[j], queue[i]);
            if (child[j] == root)
                continue; /* it has it already */
            ck_assert(node_serves(&v.nodes[child[j]]));
            got[child[j]]++;
            depth[child[j]] = depth[queue[i]] + 1;
            last = depth[child[j]] > last ? depth[child[j]] : last;
            queue[n++] = child[j];
            ck_assert_uint_lt(n, 2 * NODES_MAX);
        }
    }
    return last;
}

static const uint32_t sizes[] = {1, 2, 3, 16, 17, 18, 272, 273, 1000, 4096};

START_TEST(everybody_gets_it_once_at_every_size_epoch_and_root)
{
    static uint32_t got[NODES_MAX];
    uint32_t n = sizes[_i];

    members(n);
    for (uint32_t k = 0; k < 12; k++) {
        uint16_t root = (uint16_t)(k * 37 % n);

        v.epoch = 100 + k;
        spread(root, 16, got);
        for (uint32_t i = 0; i < n; i++)
            ck_assert_uint_eq(got[i], i != root);
    }
}
END_TEST

START_TEST(a_thousand_are_reached_in_three_steps)
{
    static uint32_t got[NODES_MAX];

    members(1000);
    for (v.epoch = 1; v.epoch <= FANOUT_TURNS; v.epoch++)
        ck_assert_uint_le(spread(7, 16, got), 4);
}
END_TEST

START_TEST(who_does_not_serve_gets_nothing)
{
    static uint32_t got[NODES_MAX];
    static const uint8_t states[] = {NODE_DOWN, NODE_JOINING, NODE_REMOVED};

    members(300);
    for (uint32_t i = 0; i < 300; i += 4)
        v.nodes[i].state = states[i / 4 % 3];
    v.nodes[5].state = NODE_DRAINING;
    spread(2, 16, got);
    for (uint32_t i = 0; i < 300; i++)
        ck_assert_uint_eq(got[i], i != 2 && i % 4 != 0);
}
END_TEST

/* Are a and b the same, but for few? */
static uint32_t shared(const uint16_t *a, uint32_t an, const uint16_t *b,
                       uint32_t bn)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < an; i++)
        for (uint32_t k = 0; k < bn; k++)
            n += a[i] == b[k];
    return n;
}

START_TEST(the_tree_turns_with_the_epoch)
{
    uint16_t a[NODES_MAX], b[NODES_MAX];
    uint32_t an, bn;

    members(400);
    v.epoch = 8;
    an = fanout_children(&v, NODE_NONE, true, 16, a);
    for (v.epoch = 9; v.epoch < 12; v.epoch++) {
        bn = fanout_children(&v, NODE_NONE, true, 16, b);
        ck_assert_uint_le(shared(a, an, b, bn), 8);
    }
    bn = fanout_children(&v, NODE_NONE, true, 16, b);
    ck_assert_uint_eq(an, bn);
    ck_assert_mem_eq(a, b, an * sizeof(*a));
}
END_TEST

START_TEST(who_comes_or_goes_changes_its_own_links_only)
{
    uint16_t a[NODES_MAX], b[NODES_MAX];
    uint32_t changed = 0;

    members(600);
    for (uint32_t i = 0; i < 600; i++) {
        uint32_t an, bn;

        v.node_n = 600;
        v.nodes[77].state = NODE_UP;
        an = fanout_children(&v, (uint16_t)i, false, 16, a);
        v.node_n = 599;
        v.nodes[77].state = NODE_DOWN;
        bn = fanout_children(&v, (uint16_t)i, false, 16, b);
        changed += i != 77 && shared(a, an, b, bn) + 2 < an + bn - shared(
                                                              a, an, b, bn);
    }
    ck_assert_uint_le(changed, 2);
}
END_TEST

START_TEST(nobody_has_children_in_an_empty_view)
{
    uint16_t a[NODES_MAX];

    ck_assert_uint_eq(fanout_children(&v, 0, true, 16, a), 0);
    ck_assert_uint_eq(fanout_children(&v, NODE_NONE, false, 16, a), 0);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("fanout");
    TCase *t = tcase_create("fanout");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(
        t, everybody_gets_it_once_at_every_size_epoch_and_root, 0,
        countof(sizes));
    tcase_add_test(t, a_thousand_are_reached_in_three_steps);
    tcase_add_test(t, who_does_not_serve_gets_nothing);
    tcase_add_test(t, the_tree_turns_with_the_epoch);
    tcase_add_test(t, who_comes_or_goes_changes_its_own_links_only);
    tcase_add_test(t, nobody_has_children_in_an_empty_view);
    suite_add_tcase(s, t);
    return s;
}
