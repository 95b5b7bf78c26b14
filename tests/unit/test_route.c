/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: client rpc base proto
 *
 * Routers (client/pikv.h): the formulas against independent ones, locality and
 * evenness (PIKV.md, checklist rows 1 and 2), and what they refuse. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/pikv.h"

#define EXPECT(cond)                                                           \
    do {                                                                       \
        if (!(cond))                                                           \
            ck_abort_msg("%s", #cond);                                         \
    } while (0)

/* PiKV's shard, without the operators that route.c uses: xor by addition,
 * remainders by subtraction. */
static uint32_t shard_plain(uint32_t t, uint32_t e, uint32_t page,
                            uint32_t n_tok, uint32_t n_exp)
{
    uint32_t p = (t - t % page) / page, a = p, c = e;

    while (a >= n_tok)
        a -= n_tok * (a / n_tok);
    while (c >= n_exp)
        c -= n_exp * (c / n_exp);
    return a + c - 2 * (a & c);
}

static struct pikv_route paper(uint32_t t, uint32_t e, uint32_t page,
                               uint32_t n_tok, uint32_t n_exp)
{
    return (struct pikv_route){.token = t,
                               .affinity = e,
                               .page_tokens = page,
                               .n_tok = n_tok,
                               .n_exp = n_exp};
}

START_TEST(a_million_shards_equal_the_formula)
{
    const uint32_t sizes[][3] = {{64, 64, 16}, {1, 128, 8}, {16, 100, 6}};
    uint32_t n = 0;

    for (uint32_t k = 0; k < 3; k++) {
        for (uint32_t t = 0; t < 20000; t++) {
            for (uint32_t e = 0; e < 17; e++, n++) {
                struct pikv_route in =
                    paper(t * 7, e, sizes[k][0], sizes[k][1], sizes[k][2]);

                EXPECT(pikv_route_shard(&in) ==
                       (int)shard_plain(t * 7, e, sizes[k][0], sizes[k][1],
                                        sizes[k][2]));
            }
        }
    }
    ck_assert_uint_ge(n, 1000000);
}
END_TEST

START_TEST(shards_are_even_for_powers_of_two)
{
    static uint32_t load[64];
    uint32_t most = 0, n = 0;

    for (uint32_t t = 0; t < 65536; t++) {
        for (uint32_t e = 0; e < 16; e++, n++) {
            struct pikv_route in = paper(t, e, 64, 64, 16);

            load[pikv_route_shard(&in)]++;
        }
    }
    for (uint32_t i = 0; i < 64; i++)
        most = load[i] > most ? load[i] : most;
    ck_assert_uint_ge(n, 1000000);
    ck_assert_uint_le(most * 64 * UINT64_C(100), n * UINT64_C(101));
}
END_TEST

static uint32_t changes(uint32_t page, uint32_t *shards_out)
{
    bool seen[64] = {false};
    uint32_t n = 0;
    int last = -1;

    *shards_out = 0;
    for (uint32_t t = 0; t < 512; t++) {
        struct pikv_route in = paper(t, 5, page, 64, 16);
        int shard = pikv_route_shard(&in);

        n += last >= 0 && shard != last;
        *shards_out += !seen[shard];
        seen[shard] = true;
        last = shard;
    }
    return n;
}

START_TEST(pages_of_64_touch_8_shards_and_tokens_change_511_times)
{
    uint32_t shards;

    ck_assert_uint_eq(changes(64, &shards), 7);
    ck_assert_uint_le(shards, 8);
    ck_assert_uint_eq(changes(256, &shards), 1);
    ck_assert_uint_eq(changes(1, &shards), 511);
    ck_assert_uint_eq(shards, 64);
}
END_TEST

START_TEST(paper_keeps_affinities_apart_and_paper_xor_mixes_them)
{
    struct pikv_route a = paper(0, 1, 64, 16, 16);
    struct pikv_route b = paper(192, 2, 64, 16, 16); /* 0 ^ 1 == 3 ^ 2 */
    uint8_t x[PIKV_ROUTE_MAX], y[PIKV_ROUTE_MAX];

    ck_assert_int_eq(pikv_route_paper_xor(&a, x), 5);
    ck_assert_int_eq(pikv_route_paper_xor(&b, y), 5);
    ck_assert_int_eq(memcmp(x, y, 5), 0);
    ck_assert_int_eq(memcmp(x, "X\1\0\0\0", 5), 0);
    ck_assert_int_eq(pikv_route_paper(&a, x), 13);
    ck_assert_int_eq(pikv_route_paper(&b, y), 13);
    ck_assert_int_ne(memcmp(x, y, 13), 0);
    ck_assert_int_eq(memcmp(x, "P\1\0\0\0\0\0\0\0\1\0\0\0", 13), 0);
}
END_TEST

START_TEST(prefix_takes_the_key_at_its_depth)
{
    const struct pikv_bytes chain[4] = {
        {"b0", 2}, {"b1.", 3}, {"b2..", 4}, {"b3...", 5}};
    struct pikv_route in = {.chain = chain, .depth = 2};
    uint8_t out[PIKV_ROUTE_MAX];

    in.chain_n = 1;
    ck_assert_int_eq(pikv_route_prefix(&in, out), 2);
    ck_assert_int_eq(memcmp(out, "b0", 2), 0);
    for (in.chain_n = 2; in.chain_n <= 4; in.chain_n++) {
        ck_assert_int_eq(pikv_route_prefix(&in, out), 3);
        ck_assert_int_eq(memcmp(out, "b1.", 3), 0);
    }
    in.chain_n = 4;
    in.depth = 100;
    ck_assert_int_eq(pikv_route_prefix(&in, out), 5);
}
END_TEST

START_TEST(prefix_makes_long_keys_short_and_keeps_them_apart)
{
    char a[200], b[200];
    struct pikv_bytes chain = {a, sizeof(a)};
    struct pikv_route in = {.chain = &chain, .chain_n = 1, .depth = 1};
    uint8_t x[PIKV_ROUTE_MAX], y[PIKV_ROUTE_MAX];

    memset(a, 'k', sizeof(a));
    memcpy(b, a, sizeof(b));
    b[199] = 'l';
    ck_assert_int_eq(pikv_route_prefix(&in, x), 16);
    chain.p = b;
    ck_assert_int_eq(pikv_route_prefix(&in, y), 16);
    ck_assert_int_ne(memcmp(x, y, 8), 0);
    ck_assert_int_ne(memcmp(x + 8, y + 8, 8), 0);
    chain.len = PIKV_ROUTE_MAX;
    ck_assert_int_eq(pikv_route_prefix(&in, x), PIKV_ROUTE_MAX);
}
END_TEST

START_TEST(affinity_is_all_of_an_affinity_route)
{
    struct pikv_route in = {.affinity = UINT64_C(0x0102030405060708)};
    uint8_t out[PIKV_ROUTE_MAX];

    ck_assert_int_eq(pikv_route_affinity(&in, out), 9);
    ck_assert_int_eq(memcmp(out, "A\10\7\6\5\4\3\2\1", 9), 0);
    ck_assert_int_eq(pikv_route_hash(&in, out), 0);
}
END_TEST

START_TEST(what_is_missing_is_refused)
{
    const struct pikv_bytes empty = {"", 0};
    uint8_t out[PIKV_ROUTE_MAX];
    struct pikv_route in = paper(1, 1, 64, 0, 16);

    ck_assert_int_eq(pikv_route_paper(&in, out), PIKV_BAD_REQUEST);
    in = paper(1, 1, 64, 16, 0);
    ck_assert_int_eq(pikv_route_paper_xor(&in, out), PIKV_BAD_REQUEST);
    in.n_exp = PIKV_ROUTE_SHARDS + 1u;
    ck_assert_int_eq(pikv_route_shard(&in), PIKV_BAD_REQUEST);
    in = (struct pikv_route){.depth = 1};
    ck_assert_int_eq(pikv_route_prefix(&in, out), PIKV_BAD_REQUEST);
    in = (struct pikv_route){.chain = &empty, .chain_n = 1};
    ck_assert_int_eq(pikv_route_prefix(&in, out), PIKV_BAD_REQUEST);
    in.depth = 1;
    ck_assert_int_eq(pikv_route_prefix(&in, out), PIKV_BAD_REQUEST);
}
END_TEST

START_TEST(routers_are_found_by_name)
{
    const char *names[] = {"hash", "prefix", "paper", "paper_xor", "affinity"};

    for (uint32_t i = 0; i < 5; i++) {
        ck_assert_str_eq(pikv_router_at(i)->name, names[i]);
        ck_assert_ptr_eq(pikv_router_find(names[i]), pikv_router_at(i));
    }
    ck_assert_ptr_null(pikv_router_at(5));
    ck_assert_ptr_null(pikv_router_find("nearest"));
    ck_assert_ptr_null(pikv_router_find(NULL));
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("route");
    TCase *t = tcase_create("route");

    tcase_add_test(t, a_million_shards_equal_the_formula);
    tcase_add_test(t, shards_are_even_for_powers_of_two);
    tcase_add_test(t, pages_of_64_touch_8_shards_and_tokens_change_511_times);
    tcase_add_test(t, paper_keeps_affinities_apart_and_paper_xor_mixes_them);
    tcase_add_test(t, prefix_takes_the_key_at_its_depth);
    tcase_add_test(t, prefix_makes_long_keys_short_and_keeps_them_apart);
    tcase_add_test(t, affinity_is_all_of_an_affinity_route);
    tcase_add_test(t, what_is_missing_is_refused);
    tcase_add_test(t, routers_are_found_by_name);
    suite_add_tcase(s, t);
    return s;
}
