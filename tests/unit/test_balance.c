/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: cluster base
 *
 * The balancer (cluster/balance.h) against a synthetic load: each slot has a
 * rate, nodes report what the view sends them, rows are applied and moves end
 * after some seconds, as in a cluster. No trace here: `pikv-bench place` plays
 * the real one. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/balance.h"

enum {
    NODES = 8,
    ROWS = 2048,
    REPORT = 64, /* slots in a beat */
    BEAT_MS = 500,
    TICK_MS = 5000,
    MINUTES_MAX = 60,
};

#define EXPECT(cond)                                                           \
    do {                                                                       \
        if (!(cond))                                                           \
            ck_abort_msg("%s", #cond);                                         \
    } while (0)

struct bed {
    struct view v;
    struct balance b;
    uint64_t rate[WIRE_SLOTS]; /* operations a second */
    uint64_t now_ms, rng;
    struct slot_row rows[ROWS];
    uint32_t moved_at[MINUTES_MAX * 60]; /* by second */
    uint32_t rows_n;
};

static struct bed *b;

static uint64_t chance(void)
{
    b->rng = b->rng * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return b->rng >> 33;
}

static void nodes_make(uint32_t n)
{
    b->v.node_n = n;
    for (uint32_t i = 0; i < n; i++) {
        struct node *x = &b->v.nodes[i];

        *x = (struct node){.state = NODE_UP, .weight = 1000, .lane_n = 1};
        snprintf(x->name, sizeof(x->name), "n%u", i);
        snprintf(x->zone, sizeof(x->zone), "z%u", i % 2);
    }
    ck_assert_int_eq(place_compute(&b->v, b->v.slots), OK);
}

static void setup(void)
{
    const struct balance_cfg cfg = {.per_mille = 0};

    b = calloc(1, sizeof(*b));
    b->v.nodes = calloc(NODES_MAX, sizeof(*b->v.nodes));
    b->v.slots = calloc(WIRE_SLOTS, sizeof(*b->v.slots));
    b->rng = 7;
    ck_assert_int_eq(balance_init(&b->b, &cfg), OK);
    nodes_make(NODES);
}

static void teardown(void)
{
    balance_fini(&b->b);
    balance_fini(&b->b);
    free(b->v.nodes);
    free(b->v.slots);
    free(b);
}

/* Rates by rank^-1.2, the ranks dealt out by chance; the sum is about total. */
static void zipf(uint64_t total)
{
    static uint32_t order[WIRE_SLOTS];
    double sum = 0, p;

    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        order[i] = i;
    for (uint32_t i = WIRE_SLOTS - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(chance() % (i + 1)), t = order[i];

        order[i] = order[j];
        order[j] = t;
    }
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < WIRE_SLOTS; i++) {
            p = pow(i + 1.0, -1.2);
            if (pass == 0)
                sum += p;
            else
                b->rate[order[i]] = (uint64_t)((double)total * p / sum);
        }
    }
}

static void even(uint64_t each)
{
    for (uint32_t s = 0; s < WIRE_SLOTS; s++)
        b->rate[s] = each;
}

/* What node gets of a slot's rate: readers take any of owner[0 .. heat]. */
static uint64_t part(uint32_t s, uint16_t node)
{
    const struct slot *t = &b->v.slots[s];

    for (uint32_t k = 0; k <= t->heat; k++) {
        if (t->owner[k] == node)
            return b->rate[s] / (t->heat + 1u);
    }
    return 0;
}

static void load_of(uint64_t *load)
{
    memset(load, 0, b->v.node_n * sizeof(*load));
    for (uint32_t s = 0; s < WIRE_SLOTS; s++) {
        const struct slot *t = &b->v.slots[s];

        for (uint32_t k = 0; k <= t->heat; k++)
            load[t->owner[k]] += b->rate[s] / (t->heat + 1u);
    }
}

/* max / mean in thousandths. */
static uint32_t skew(void)
{
    uint64_t load[NODES_MAX], most = 0, sum = 0;

    load_of(load);
    for (uint32_t i = 0; i < b->v.node_n; i++) {
        most = max_u64(most, load[i]);
        sum += load[i];
    }
    return (uint32_t)(most * 1000 * b->v.node_n / sum);
}

static int by_ops(const void *x, const void *y)
{
    const struct balance_slot *p = x, *q = y;

    if (p->ops != q->ops)
        return p->ops < q->ops ? 1 : -1;
    return (p->slot > q->slot) - (p->slot < q->slot);
}

static void beats(void)
{
    static struct balance_slot all[WIRE_SLOTS];

    for (uint16_t i = 0; i < b->v.node_n; i++) {
        uint64_t sum = 0;
        uint32_t n = 0;

        if (!node_serves(&b->v.nodes[i]))
            continue;
        for (uint32_t s = 0; s < WIRE_SLOTS; s++) {
            uint64_t ops = part(s, i);

            sum += ops;
            if (ops > 20)
                all[n++] = (struct balance_slot){.slot = s, .ops = ops};
        }
        qsort(all, n, sizeof(*all), by_ops);
        ck_assert_int_eq(
            balance_feed(&b->b, i, sum, 0, 0, all, n < REPORT ? n : REPORT),
            OK);
    }
}

static uint32_t tick(void)
{
    uint32_t n = 0;

    ck_assert_int_eq(balance_tick(&b->b, &b->v, b->now_ms, b->rows, ROWS, &n),
                     OK);
    for (uint32_t i = 0; i < n; i++) {
        struct slot *t = &b->v.slots[b->rows[i].slot];

        EXPECT(b->rows[i].to.owner[0] == t->owner[0]);
        EXPECT(b->rows[i].to.heat < VIEW_COPIES);
        if (b->rows[i].to.heat >= t->heat)
            b->moved_at[b->now_ms / 1000]++;
        *t = b->rows[i].to;
    }
    b->rows_n += n;
    return n;
}

static void moves_end(void)
{
    struct slot_row row;

    for (uint32_t s = 0; s < WIRE_SLOTS; s++) {
        if (place_hand_over(&b->v, s, &row))
            b->v.slots[s] = row.to;
        if (place_release(&b->v, s, &row))
            b->v.slots[s] = row.to;
    }
}

static void run(uint32_t seconds)
{
    for (uint64_t end = b->now_ms + seconds * UINT64_C(1000); b->now_ms < end;
         b->now_ms += BEAT_MS) {
        beats();
        if (b->now_ms % TICK_MS == 0)
            tick();
        if (b->now_ms % TICK_MS == 3000)
            moves_end();
    }
}

/* The most slots that a minute saw moved. */
static uint32_t moved_most(void)
{
    uint32_t most = 0;

    for (uint32_t from = 0; from + 60 <= countof(b->moved_at); from++) {
        uint32_t sum = 0;

        for (uint32_t i = 0; i < 60; i++)
            sum += b->moved_at[from + i];
        most = (uint32_t)max_u64(most, sum);
    }
    return most;
}

static uint32_t heated(void)
{
    uint32_t n = 0;

    for (uint32_t s = 0; s < WIRE_SLOTS; s++)
        n += b->v.slots[s].heat > 0;
    return n;
}

/* ---- when */

START_TEST(an_even_load_moves_nothing)
{
    even(50);
    run(60);
    ck_assert_uint_eq(b->rows_n, 0);
    ck_assert(!b->b.acting);
    ck_assert_uint_lt(b->b.cv_permille, 50);
}
END_TEST

/* One node with 1 + x of the mean: CV is about x * 0.378 with 8 nodes. */
static void lift(uint16_t node, uint32_t percent)
{
    even(100);
    for (uint32_t s = 0, n = 0; s < WIRE_SLOTS; s++) {
        if (b->v.slots[s].owner[0] == node && n < 60) {
            b->rate[s] += (uint64_t)8192 * percent / 60;
            n++;
        }
    }
}

START_TEST(it_begins_at_cv_015_and_not_below)
{
    lift(3, 30);
    run(30);
    ck_assert_uint_gt(b->b.cv_permille, 80);
    ck_assert_uint_lt(b->b.cv_permille, 150);
    ck_assert_uint_eq(b->rows_n, 0);
    lift(3, 60);
    run(30);
    ck_assert_uint_gt(b->rows_n, 0);
}
END_TEST

START_TEST(once_begun_it_goes_on_until_it_is_even)
{
    lift(3, 60);
    run(120);
    ck_assert(!b->b.acting);
    ck_assert_uint_lt(b->b.cv_permille, 80);
    ck_assert_uint_le(skew(), 1100);
    b->rows_n = 0;
    run(60);
    ck_assert_uint_eq(b->rows_n, 0);
}
END_TEST

START_TEST(an_idle_cluster_is_left_alone)
{
    even(0);
    b->rate[5] = 100;
    run(60);
    ck_assert_uint_eq(b->rows_n, 0);
}
END_TEST

/* ---- what */

START_TEST(synthetic_zipf_1_2_on_8_nodes_ends_within_1_2)
{
    uint32_t before;

    zipf(1000000);
    before = skew();
    run(240);
    ck_assert_msg(before >= 2000, "before: %u", before);
    ck_assert_msg(skew() <= 1200, "after: %u", skew());
    ck_assert_uint_le(moved_most(), WIRE_SLOTS * 2 / 100);
}
END_TEST

START_TEST(placement_does_not_undo_what_balancing_did)
{
    const struct place_cfg cfg = {.under_way = 0};
    uint32_t n = 0;

    zipf(1000000);
    run(240);
    moves_end();
    ck_assert_int_eq(place_next(&b->v, &cfg, b->rows, ROWS, &n), OK);
    for (uint32_t i = 0; i < n; i++)
        EXPECT(b->rows[i].to.to == NODE_NONE);
}
END_TEST

START_TEST(a_hot_slot_gets_replicas_and_loses_them_when_cold)
{
    uint32_t readers = 0;

    even(20);
    b->rate[4711] = 600000;
    run(60);
    ck_assert_uint_eq(b->v.slots[4711].heat, 2);
    ck_assert_uint_eq(heated(), 1);
    for (uint16_t i = 0; i < NODES; i++)
        readers += part(4711, i) > 0;
    ck_assert_uint_eq(readers, 3);
    b->rate[4711] = 20;
    run(120);
    ck_assert_uint_eq(heated(), 0);
    ck_assert_uint_eq(b->b.cools, 2);
}
END_TEST

START_TEST(replicas_vanish_in_a_cluster_that_went_idle)
{
    b->v.slots[9].heat = 2;
    b->v.slots[10].heat = 1;
    even(0);
    run(60);
    ck_assert_uint_eq(heated(), 0);
}
END_TEST

START_TEST(a_slot_under_way_is_left_alone)
{
    even(20);
    b->rate[4711] = 600000;
    b->v.slots[4711].from = b->v.slots[4711].owner[0] == 0 ? 1 : 0;
    for (int i = 0; i < 40; i++)
        beats();
    tick();
    ck_assert_uint_eq(b->v.slots[4711].heat, 0);
    b->v.slots[4711].from = NODE_NONE;
    tick();
    ck_assert_uint_eq(b->v.slots[4711].heat, 1);
}
END_TEST

/* Placement mends it first: the voters would refuse such a row. */
START_TEST(a_slot_with_an_owner_that_is_gone_is_left_alone)
{
    even(20);
    b->rate[4711] = 600000;
    b->v.slots[4711].heat = 0;
    for (int i = 0; i < 40; i++)
        beats();
    b->v.nodes[b->v.slots[4711].owner[2]].state = NODE_REMOVED;
    tick();
    ck_assert_uint_eq(b->v.slots[4711].heat, 0);
}
END_TEST

START_TEST(no_minute_sees_more_than_the_budget)
{
    const struct balance_cfg cfg = {.per_mille = 1, .under_way = 1000};

    balance_fini(&b->b);
    ck_assert_int_eq(balance_init(&b->b, &cfg), OK);
    zipf(1000000);
    run(150);
    ck_assert_uint_le(moved_most(), WIRE_SLOTS / 1000);
    ck_assert_uint_ge(moved_most(), WIRE_SLOTS / 1000 / 2);
}
END_TEST

START_TEST(no_more_than_the_given_number_is_under_way)
{
    const struct balance_cfg cfg = {.under_way = 3};
    static struct place_load load[NODES_MAX];

    balance_fini(&b->b);
    ck_assert_int_eq(balance_init(&b->b, &cfg), OK);
    zipf(1000000);
    for (int i = 0; i < 30; i++) {
        beats();
        tick();
        EXPECT(place_loads(&b->v, load) <= 3);
    }
    ck_assert_uint_eq(place_loads(&b->v, load), 3);
}
END_TEST

START_TEST(who_drains_or_is_down_is_given_nothing)
{
    b->v.nodes[2].state = NODE_DRAINING;
    b->v.nodes[5].state = NODE_DOWN;
    zipf(1000000);
    for (int i = 0; i < 40; i++) {
        beats();
        uint32_t n = 0;

        ck_assert_int_eq(
            balance_tick(&b->b, &b->v, b->now_ms, b->rows, ROWS, &n), OK);
        for (uint32_t k = 0; k < n; k++) {
            const struct slot *old = &b->v.slots[b->rows[k].slot],
                              *t = &b->rows[k].to;

            EXPECT(t->to != 2 && t->to != 5);
            for (uint32_t j = old->heat + 1u; j <= t->heat; j++)
                EXPECT(t->owner[j] != 2 && t->owner[j] != 5);
        }
    }
}
END_TEST

START_TEST(a_node_that_is_forgotten_counts_no_more)
{
    struct balance_load load[NODES];

    even(20);
    beats();
    ck_assert_int_eq(balance_loads(&b->b, &b->v, load), OK);
    ck_assert_uint_gt(load[1].load, 0);
    balance_forget(&b->b, 1);
    balance_forget(&b->b, NODE_NONE);
    ck_assert_int_eq(balance_loads(&b->b, &b->v, load), OK);
    ck_assert_uint_eq(load[1].load, 0);
    ck_assert_int_eq(balance_feed(&b->b, NODE_NONE, 1, 1, 1, NULL, 0),
                     ERR_BAD_REQUEST);
}
END_TEST

/* A new leader knows nothing yet: it must not take heat for cold. */
START_TEST(nothing_is_done_before_all_have_reported)
{
    const struct balance_cfg cfg = {.per_mille = 0};

    zipf(1000000);
    run(60);
    ck_assert_uint_gt(heated(), 0);
    balance_fini(&b->b);
    ck_assert_int_eq(balance_init(&b->b, &cfg), OK);
    moves_end();
    for (int i = 0; i < 4; i++) {
        beats();
        ck_assert_uint_eq(tick(), 0);
    }
    zipf(1000000);
    for (int i = 0; i < 30; i++)
        beats();
    balance_forget(&b->b, 3);
    ck_assert_uint_eq(tick(), 0);
    for (int i = 0; i < 5; i++)
        beats();
    ck_assert_uint_gt(tick(), 0);
}
END_TEST

START_TEST(loads_are_whole_from_the_first_report_on)
{
    struct balance_load load[NODES];

    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(balance_feed(&b->b, 0, 1000, 0, 0, NULL, 0), OK);
        ck_assert_int_eq(balance_loads(&b->b, &b->v, load), OK);
        ck_assert_uint_ge(load[0].load, (uint64_t)999 << 16);
        ck_assert_uint_le(load[0].load, (uint64_t)1001 << 16);
    }
}
END_TEST

START_TEST(bytes_and_misses_are_load_too)
{
    struct balance_load load[NODES];

    for (int i = 0; i < 200; i++) {
        ck_assert_int_eq(balance_feed(&b->b, 0, 100, 0, 0, NULL, 0), OK);
        ck_assert_int_eq(balance_feed(&b->b, 1, 0, 100 << 16, 0, NULL, 0), OK);
        ck_assert_int_eq(balance_feed(&b->b, 2, 0, 0, 100, NULL, 0), OK);
    }
    ck_assert_int_eq(balance_loads(&b->b, &b->v, load), OK);
    for (int i = 0; i < 3; i++) {
        ck_assert_uint_ge(load[i].load, 99 << 16);
        ck_assert_uint_le(load[i].load, 100 << 16);
    }
}
END_TEST

/* Of nodes that are equally empty the one near the partner. */
START_TEST(slots_wanted_together_come_together)
{
    struct balance_pair pair = {.a = 100, .b = 200, .count = 10};
    uint32_t n = 0, found = 0;

    memset(b->v.slots, 0xff, WIRE_SLOTS * sizeof(*b->v.slots));
    for (uint32_t s = 0; s < WIRE_SLOTS; s++) {
        b->v.slots[s].owner[0] = (uint16_t)(s % NODES);
        b->v.slots[s].heat = b->v.slots[s].spare = 0;
    }
    even(0);
    for (uint32_t i = 0; i < NODES * 4; i++)
        b->rate[i] = 250;
    for (uint32_t s = 100; s < 103; s++) {
        b->v.slots[s].owner[0] = 0;
        b->rate[s] = 450;
    }
    b->v.slots[200].owner[0] = 6;
    b->b.pairs = &pair;
    b->b.pair_n = 1;
    for (int i = 0; i < 80; i++)
        beats();
    ck_assert_int_eq(balance_tick(&b->b, &b->v, 0, b->rows, ROWS, &n), OK);
    for (uint32_t i = 0; i < n; i++) {
        if (b->rows[i].slot != 100)
            continue;
        ck_assert_uint_eq(b->rows[i].to.to, 6);
        found++;
    }
    ck_assert_uint_eq(found, 1);
}
END_TEST

START_TEST(without_memory_nothing_is_said)
{
    const struct balance_cfg cfg = {.per_mille = 0};
    struct balance other;
    uint32_t n = 77;

    fault_arm(1);
    ck_assert_int_eq(balance_init(&other, &cfg), ERR_NO_MEMORY);
    fault_arm(1);
    ck_assert_int_eq(balance_feed(&b->b, 1, 1, 1, 1, NULL, 0), ERR_NO_MEMORY);
    fault_arm(1);
    ck_assert_int_eq(balance_tick(&b->b, &b->v, 0, b->rows, ROWS, &n),
                     ERR_NO_MEMORY);
    ck_assert_uint_eq(n, 77);
    fault_arm(0);
    balance_fini(&other);
}
END_TEST

/* ---- topology */

enum { ITEMS = 64, PLACES = 8 };

static void ring(uint32_t *dist)
{
    for (uint32_t i = 0; i < PLACES; i++) {
        for (uint32_t j = 0; j < PLACES; j++) {
            uint32_t d = i > j ? i - j : j - i;

            dist[i * PLACES + j] = d < PLACES - d ? d : PLACES - d;
        }
    }
}

static void mesh(uint32_t *dist) /* 4 x 2 */
{
    for (uint32_t i = 0; i < PLACES; i++) {
        for (uint32_t j = 0; j < PLACES; j++)
            dist[i * PLACES + j] = (uint32_t)(abs((int)(i % 4) - (int)(j % 4)) +
                                              abs((int)(i / 4) - (int)(j / 4)));
    }
}

/* Items of a group of 8 are wanted together often, others rarely. */
static uint32_t groups(struct balance_pair *pairs)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < ITEMS; i++) {
        for (uint32_t j = i + 1; j < ITEMS; j++)
            pairs[n++] = (struct balance_pair){
                .a = i,
                .b = j,
                .count = (i * 5 % 8 == j * 5 % 8 ? 100 : 1) + chance() % 10};
    }
    return n;
}

START_TEST(homes_by_co_access_cost_less_than_round_robin)
{
    static struct balance_pair pairs[ITEMS * ITEMS];
    uint32_t dist[PLACES * PLACES], room[PLACES], n = groups(pairs);
    uint16_t home[ITEMS], rr[ITEMS];
    uint64_t cost, was;

    for (int m = 0; m < 2; m++) {
        if (m)
            mesh(dist);
        else
            ring(dist);
        for (uint32_t i = 0; i < ITEMS; i++)
            rr[i] = (uint16_t)(i / (ITEMS / PLACES));
        was = balance_cost(pairs, n, rr, dist, PLACES);
        ck_assert_int_eq(balance_homes(pairs, n, ITEMS, dist, PLACES, 8, home),
                         OK);
        cost = balance_cost(pairs, n, home, dist, PLACES);
        ck_assert_msg(cost * 10 < was * 6, "%lu of %lu", cost, was);
        memset(room, 0, sizeof(room));
        for (uint32_t i = 0; i < ITEMS; i++)
            EXPECT(++room[home[i]] <= 8);
    }
}
END_TEST

/* All ways to put 6 items on 3 places, two each. */
static uint64_t cost_least(const struct balance_pair *pairs, uint32_t n,
                           const uint32_t *dist)
{
    uint64_t least = UINT64_MAX;

    for (uint32_t code = 0; code < 729; code++) {
        uint16_t home[6];
        uint32_t room[3] = {0}, x = code, ok = 1;

        for (uint32_t i = 0; i < 6; i++, x /= 3) {
            home[i] = (uint16_t)(x % 3);
            ok &= ++room[x % 3] <= 2;
        }
        if (ok)
            least = min_u64(least, balance_cost(pairs, n, home, dist, 3));
    }
    return least;
}

START_TEST(homes_of_few_items_are_near_the_best_there_are)
{
    const uint32_t dist[9] = {0, 1, 4, 1, 0, 2, 4, 2, 0};
    uint64_t sum = 0, least = 0;

    for (int round = 0; round < 50; round++) {
        struct balance_pair pairs[15];
        uint16_t home[6];
        uint32_t n = 0;

        for (uint32_t i = 0; i < 6; i++) {
            for (uint32_t j = i + 1; j < 6; j++)
                pairs[n++] = (struct balance_pair){i, j, chance() % 50};
        }
        ck_assert_int_eq(balance_homes(pairs, n, 6, dist, 3, 2, home), OK);
        sum += balance_cost(pairs, n, home, dist, 3);
        least += cost_least(pairs, n, dist);
    }
    ck_assert_msg(sum * 100 <= least * 105, "%lu, best %lu", sum, least);
}
END_TEST

START_TEST(homes_refuse_what_cannot_be)
{
    struct balance_pair pair = {.a = 0, .b = 9, .count = 1};
    const uint32_t dist[1] = {0};
    uint16_t home[4];

    ck_assert_int_eq(balance_homes(NULL, 0, 4, dist, 1, 3, home), ERR_LIMIT);
    ck_assert_int_eq(balance_homes(&pair, 1, 4, dist, 1, 4, home),
                     ERR_BAD_REQUEST);
    fault_arm(1);
    ck_assert_int_eq(balance_homes(NULL, 0, 4, dist, 1, 4, home),
                     ERR_NO_MEMORY);
    fault_arm(0);
    ck_assert_int_eq(balance_homes(NULL, 0, 4, dist, 1, 4, home), OK);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("balance");
    TCase *t = tcase_create("balance");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, an_even_load_moves_nothing);
    tcase_add_test(t, it_begins_at_cv_015_and_not_below);
    tcase_add_test(t, once_begun_it_goes_on_until_it_is_even);
    tcase_add_test(t, an_idle_cluster_is_left_alone);
    tcase_add_test(t, synthetic_zipf_1_2_on_8_nodes_ends_within_1_2);
    tcase_add_test(t, placement_does_not_undo_what_balancing_did);
    tcase_add_test(t, a_hot_slot_gets_replicas_and_loses_them_when_cold);
    tcase_add_test(t, replicas_vanish_in_a_cluster_that_went_idle);
    tcase_add_test(t, a_slot_under_way_is_left_alone);
    tcase_add_test(t, a_slot_with_an_owner_that_is_gone_is_left_alone);
    tcase_add_test(t, no_minute_sees_more_than_the_budget);
    tcase_add_test(t, no_more_than_the_given_number_is_under_way);
    tcase_add_test(t, who_drains_or_is_down_is_given_nothing);
    tcase_add_test(t, a_node_that_is_forgotten_counts_no_more);
    tcase_add_test(t, nothing_is_done_before_all_have_reported);
    tcase_add_test(t, loads_are_whole_from_the_first_report_on);
    tcase_add_test(t, bytes_and_misses_are_load_too);
    tcase_add_test(t, slots_wanted_together_come_together);
    tcase_add_test(t, without_memory_nothing_is_said);
    tcase_add_test(t, homes_by_co_access_cost_less_than_round_robin);
    tcase_add_test(t, homes_of_few_items_are_near_the_best_there_are);
    tcase_add_test(t, homes_refuse_what_cannot_be);
    suite_add_tcase(s, t);
    return s;
}
