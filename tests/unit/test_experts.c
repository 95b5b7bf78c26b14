/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: cluster base
 *
 * Loads and plans of experts (cluster/experts.h). Plans are compared with an
 * independent reference (tests/lib/eplb_reference.py, exact fractions) and with
 * the example in the README of DeepSeek's EPLB. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/experts.h"

static struct experts x;
static struct errmsg m;

static void setup(void)
{
    x = (struct experts){.table = NULL};
}

static void teardown(void)
{
    experts_fini(&x);
    experts_fini(&x);
}

/* ---- plans */

START_TEST(the_published_example_comes_out)
{
    const uint64_t weight[24] = {90, 132, 40,  61,  104, 165, 39,  4,
                                 73, 56,  183, 86,  20,  107, 104, 64,
                                 19, 197, 187, 157, 172, 86,  16,  27};
    const uint16_t want[32] = {5, 6, 5, 7,  8, 4, 3,  4, 10, 9, 10,
                               2, 0, 1, 11, 1, 7, 10, 6, 8,  6, 11,
                               8, 9, 2, 4,  5, 1, 5,  0, 3,  1};
    const struct experts_shape s = {2, 12, 16, 4, 2, 8};
    uint16_t map[32];

    ck_assert_int_eq(experts_plan(&s, weight, map, &m), OK);
    for (uint32_t i = 0; i < 32; i++)
        ck_assert_uint_eq(map[i], want[i]);
}
END_TEST

/* Rows of tests/lib/eplb_reference.py: a shape and FNV-1a of the map. */
static const struct {
    struct experts_shape s;
    uint64_t digest;
} golden[] = {
    {{2, 12, 16, 4, 2, 8}, UINT64_C(0xd3a140bb5dc346ad)},
    {{3, 64, 80, 8, 4, 16}, UINT64_C(0x9222263a484eb676)},
    {{2, 256, 288, 8, 4, 32}, UINT64_C(0x462ec4d207cea368)},
    {{2, 60, 72, 3, 2, 8}, UINT64_C(0x51c5588a5e2aaf53)},
    {{2, 16, 16, 4, 2, 4}, UINT64_C(0x366c2cfc0e87c8a5)},
    {{1, 8, 8, 8, 8, 8}, UINT64_C(0xa4dc49e2b28ecb7d)},
    {{2, 8, 64, 1, 1, 8}, UINT64_C(0x24eebf5cffa5182b)},
};

/* As weights() there. */
static void weights(uint64_t *w, uint32_t n)
{
    uint64_t seed = 1;

    for (uint32_t i = 0; i < n; i++) {
        seed = seed * UINT64_C(6364136223846793005) +
               UINT64_C(1442695040888963407);
        w[i] = (seed >> 52) * (seed >> 52) / 1000;
    }
}

START_TEST(plans_equal_the_reference)
{
    static uint64_t w[EXPERTS_MAX];
    static uint16_t map[EXPERTS_MAX];

    for (uint32_t g = 0; g < countof(golden); g++) {
        const struct experts_shape *s = &golden[g].s;
        uint64_t h = UINT64_C(0xcbf29ce484222325);

        weights(w, s->layers * s->experts);
        ck_assert_int_eq(experts_plan(s, w, map, &m), OK);
        for (uint32_t i = 0; i < s->layers * s->slots; i++)
            h = (h ^ map[i]) * UINT64_C(0x100000001b3);
        ck_assert_msg(h == golden[g].digest, "case %u", g);
    }
}
END_TEST

START_TEST(every_expert_has_a_slot_and_every_slot_an_expert)
{
    const struct experts_shape s = {1, 256, 320, 8, 4, 32};
    static uint64_t w[256];
    uint16_t map[320];
    uint32_t n[256] = {0};

    weights(w, 256);
    ck_assert_int_eq(experts_plan(&s, w, map, &m), OK);
    for (uint32_t i = 0; i < 320; i++)
        n[map[i]]++;
    for (uint32_t e = 0; e < 256; e++)
        ck_assert_uint_ge(n[e], 1);
}
END_TEST

/* Synthetic: expert k is used as k^-1.2. With an identity placement the GPU of
 * the first experts has most of the load. */
START_TEST(synthetic_zipf_1_2_experts_end_within_1_2)
{
    const struct experts_shape s = {1, 256, 320, 1, 1, 8};
    const struct experts_shape flat = {1, 256, 256, 1, 1, 8};
    static uint64_t w[256];
    uint16_t map[320], identity[256];
    uint32_t before, after;

    for (uint32_t e = 0; e < 256; e++) {
        w[e] = (uint64_t)(1e9 * pow(e + 1.0, -1.2));
        identity[e] = (uint16_t)e;
    }
    before = experts_skew(&flat, w, identity, 0, false);
    ck_assert_int_eq(experts_plan(&s, w, map, &m), OK);
    after = experts_skew(&s, w, map, 0, false);
    ck_assert_msg(before >= 2000 && after <= 1150, "%u -> %u", before, after);
}
END_TEST

START_TEST(huge_and_zero_weights_are_planned)
{
    const struct experts_shape s = {2, 4, 8, 2, 2, 4};
    const uint64_t w[8] = {UINT64_MAX, UINT64_MAX, 1, 0};
    uint16_t map[16];

    ck_assert_int_eq(experts_plan(&s, w, map, &m), OK);
    for (uint32_t i = 0; i < 16; i++)
        ck_assert_uint_lt(map[i], 4);
    ck_assert_uint_eq(experts_skew(&s, w, map, 1, true), 1000);
}
END_TEST

START_TEST(shapes_that_cannot_be_are_named)
{
    static const struct {
        struct experts_shape s;
        const char *word;
    } bad[] = {
        {{0, 8, 8, 1, 1, 1}, "layers"},
        {{1, 0, 8, 1, 1, 1}, "experts"},
        {{1, EXPERTS_MAX + 1, 8, 1, 1, 1}, "experts"},
        {{1, 8, 0, 1, 1, 1}, "redundant"},
        {{1, 8, 4, 1, 1, 1}, "4 slots"},
        {{1, 8, 8, 0, 1, 1}, "groups"},
        {{1, 8, 8, 3, 1, 1}, "groups"},
        {{1, 8, 8, 1, 0, 1}, "nodes"},
        {{1, 8, 8, 1, 2, 1}, "gpus by nodes"},
        {{1, 8, 9, 1, 1, 2}, "by gpus"},
    };
    uint64_t w[8] = {0};
    uint16_t map[16];

    for (uint32_t i = 0; i < countof(bad); i++) {
        ck_assert_int_eq(experts_plan(&bad[i].s, w, map, &m), ERR_CONFIG);
        ck_assert_msg(strstr(m.text, bad[i].word) != NULL, "%s: %s",
                      bad[i].word, m.text);
    }
}
END_TEST

START_TEST(placements_name_each_expert_once_on_a_node)
{
    const struct experts_shape s = {1, 4, 8, 1, 1, 4};
    const uint16_t map[8] = {0, 1, 0, 2, 3, 0, 0, 1};
    const struct experts_shape two = {1, 4, 8, 1, 2, 4};
    const uint16_t nodes[2] = {17, 5};
    struct expert_place out[8];
    uint32_t n = 0;

    ck_assert_int_eq(experts_place(&s, map, 9, nodes, 0, out, 8, &n), OK);
    ck_assert_uint_eq(n, 4);
    ck_assert_int_eq(experts_place(&two, map, 9, nodes, 1, out, 8, &n), OK);
    ck_assert_uint_eq(n, 6);
    for (uint32_t i = 0; i < n; i++) {
        ck_assert_uint_eq(out[i].model, 9);
        ck_assert_uint_eq(out[i].tier, 1);
        ck_assert_uint_eq(out[i].node, i < 3 ? 17 : 5);
        ck_assert_uint_eq(out[i].replica,
                          i >= 3 && (out[i].expert == 0 || out[i].expert == 1));
    }
    ck_assert_int_eq(experts_place(&two, map, 9, nodes, 1, out, 5, &n),
                     ERR_LIMIT);
}
END_TEST

START_TEST(without_memory_there_is_no_plan)
{
    const struct experts_shape s = {1, 4, 8, 1, 1, 4};
    const uint64_t w[4] = {1, 2, 3, 4};
    uint16_t map[8];

    fault_arm(1);
    ck_assert_int_eq(experts_plan(&s, w, map, &m), ERR_NO_MEMORY);
    fault_arm(1);
    ck_assert_int_eq(experts_feed(&x, 1, 1, 1, 1), ERR_NO_MEMORY);
    fault_arm(0);
}
END_TEST

/* ---- loads */

START_TEST(loads_add_up_and_fade)
{
    struct expert_load e[4];
    uint64_t w[6];
    uint32_t layers, n;

    ck_assert_int_eq(experts_feed(&x, 7, 1, 2, 100), OK);
    ck_assert_int_eq(experts_feed(&x, 7, 1, 2, 60), OK);
    ck_assert_int_eq(experts_feed(&x, 7, 0, 1, 16), OK);
    ck_assert_int_eq(experts_feed(&x, 8, 5, 5, 1), OK);
    ck_assert_int_eq(experts_feed(&x, 8, 5, 5, 0), OK);
    ck_assert_uint_eq(experts_list(&x, 7, e, 4), 2);
    ck_assert_uint_eq(e[0].load, 16 << 16);
    ck_assert_uint_eq(e[1].load, 160 << 16);
    ck_assert_uint_eq(e[1].expert, 2);
    ck_assert_uint_eq(experts_list(&x, 0, e, 2), 3);
    experts_decay(&x);
    ck_assert_uint_eq(experts_list(&x, 7, e, 4), 2);
    ck_assert_uint_eq(e[1].load, 150 << 16);
    experts_size(&x, 7, &layers, &n);
    ck_assert_uint_eq(layers, 2);
    ck_assert_uint_eq(n, 3);
    experts_weights(&x, 7, 2, 3, w);
    ck_assert_uint_eq(w[1], 15 << 16);
    ck_assert_uint_eq(w[5], 150 << 16);
    ck_assert_uint_eq(w[0] + w[2] + w[3] + w[4], 0);
    for (int i = 0; i < 400; i++)
        experts_decay(&x);
    ck_assert_uint_eq(experts_list(&x, 0, e, 4), 0);
    experts_size(&x, 7, &layers, &n);
    ck_assert_uint_eq(layers, 0);
}
END_TEST

START_TEST(what_cannot_be_is_refused)
{
    ck_assert_int_eq(experts_feed(&x, 0, 1, 1, 1), ERR_BAD_REQUEST);
    ck_assert_int_eq(experts_feed(&x, 1, EXPERTS_LAYERS_MAX, 1, 1),
                     ERR_BAD_REQUEST);
    ck_assert_int_eq(experts_feed(&x, 1, 1, EXPERTS_MAX, 1), ERR_BAD_REQUEST);
}
END_TEST

/* Faded entries make room; too many living ones are refused. */
START_TEST(the_table_is_bounded_and_cleans_itself)
{
    uint32_t n = 0;
    enum err e = OK;

    for (uint64_t model = 1; model < 400; model++) {
        for (uint16_t i = 0; i < 100; i++)
            ck_assert_int_eq(experts_feed(&x, model, i, i, 1), OK);
        for (int i = 0; i < 100; i++)
            experts_decay(&x);
    }
    ck_assert_uint_le(x.cap, 1024);
    for (uint64_t model = 1; e == OK; model++) {
        for (uint16_t i = 0; i < EXPERTS_MAX && e == OK; i++, n++)
            e = experts_feed(&x, model, 1, i, 1);
    }
    ck_assert_int_eq(e, ERR_LIMIT);
    ck_assert_uint_eq(n, EXPERTS_KNOWN_MAX + 1);
    ck_assert_uint_eq(experts_list(&x, 0, NULL, 0), EXPERTS_KNOWN_MAX);
    ck_assert_int_eq(experts_feed(&x, 1, 1, 1, 1), OK); /* known already */
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("experts");
    TCase *t = tcase_create("experts");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, the_published_example_comes_out);
    tcase_add_test(t, plans_equal_the_reference);
    tcase_add_test(t, every_expert_has_a_slot_and_every_slot_an_expert);
    tcase_add_test(t, synthetic_zipf_1_2_experts_end_within_1_2);
    tcase_add_test(t, huge_and_zero_weights_are_planned);
    tcase_add_test(t, shapes_that_cannot_be_are_named);
    tcase_add_test(t, placements_name_each_expert_once_on_a_node);
    tcase_add_test(t, without_memory_there_is_no_plan);
    tcase_add_test(t, loads_add_up_and_fade);
    tcase_add_test(t, what_cannot_be_is_refused);
    tcase_add_test(t, the_table_is_bounded_and_cleans_itself);
    suite_add_tcase(s, t);
    return s;
}
