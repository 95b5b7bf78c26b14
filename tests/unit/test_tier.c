/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
/* The tier contract over every tier there is: a new tier adds a maker to the
 * table and nothing else. */
#include <check.h>
#include <string.h>

#include "base/mem.h"
#include "store/tier_mem.h"

enum { UNITS = 16 };

struct maker {
    const char *name;
    struct tier *(*open)(void);
    void (*close)(void);
};

/* ---- dram */

static struct unit_pool pool;
static struct tier_mem mem;
static uint8_t *bytes;

static struct tier *dram_open(void)
{
    bytes = mem_reserve((size_t)UNITS * UNIT_BYTES);
    MUST(bytes);
    MUST(unit_pool_init(&pool, bytes, (uint64_t)UNITS * UNIT_BYTES, 1) == OK);
    MUST(tier_mem_init(&mem, &pool, 0) == OK);
    return &mem.tier;
}

static void dram_close(void)
{
    tier_mem_fini(&mem);
    tier_mem_fini(&mem); /* accepts a zeroed object */
    unit_pool_fini(&pool);
    mem_release(bytes, (size_t)UNITS * UNIT_BYTES);
}

static const struct maker makers[] = {{"dram", dram_open, dram_close}};

/* ---- the contract */

static enum err reserve(struct tier *t, struct tier_place *p, uint64_t len)
{
    tier_place_init(p);
    return t->ops->reserve(t, p, len, 1, TIER_FIT);
}

START_TEST(it_has_a_name_and_either_spans_or_start)
{
    struct tier *t = makers[_i].open();

    ck_assert_str_eq(t->ops->name, makers[_i].name);
    ck_assert(t->ops->addressable == (t->ops->spans != NULL));
    ck_assert(t->ops->addressable == (t->ops->start == NULL));
    makers[_i].close();
}
END_TEST

START_TEST(used_counts_what_is_reserved_and_goes_back_to_zero)
{
    struct tier *t = makers[_i].open();
    struct tier_place p[10];
    uint64_t sum = 0;

    ck_assert_uint_ge(t->ops->capacity(t), (uint64_t)UNITS * UNIT_BYTES);
    for (uint64_t i = 0; i < 10; i++) {
        ck_assert_int_eq(reserve(t, &p[i], 5000 + i * 100000), OK);
        ck_assert_uint_ge(p[i].bytes, 5000 + i * 100000);
        sum += p[i].bytes;
        ck_assert_uint_eq(t->ops->used(t), sum);
    }
    for (int i = 0; i < 10; i++)
        ck_assert_uint_eq(t->ops->release(t, p[i].head), p[i].bytes);
    ck_assert_uint_eq(t->ops->used(t), 0);
    makers[_i].close();
}
END_TEST

START_TEST(a_reserve_that_was_busy_goes_on_where_it_stopped)
{
    struct tier *t = makers[_i].open();
    uint64_t half = t->ops->capacity(t) / 2;
    struct tier_place p, q;
    uint64_t got;

    ck_assert_int_eq(reserve(t, &p, half), OK);
    ck_assert_int_eq(reserve(t, &q, half + UNIT_BYTES), ERR_BUSY);
    got = q.bytes;
    ck_assert_uint_gt(got, 0);
    t->ops->release(t, p.head);
    ck_assert_int_eq(t->ops->reserve(t, &q, half + UNIT_BYTES, 1, TIER_FIT),
                     OK);
    ck_assert_uint_gt(q.bytes, got);
    t->ops->release(t, q.head);
    ck_assert_uint_eq(t->ops->used(t), 0);
    makers[_i].close();
}
END_TEST

START_TEST(places_hold_their_own_bytes)
{
    struct tier *t = makers[_i].open();
    struct tier_place p[10];
    struct span spans[64];

    if (!t->ops->addressable) {
        makers[_i].close();
        return;
    }
    for (uint64_t i = 0; i < 10; i++) {
        uint64_t len = 4096 + i * 77777;
        uint32_t n;

        ck_assert_int_eq(reserve(t, &p[i], len), OK);
        n = t->ops->spans(t, p[i].head, 0, len, spans, 64);
        for (uint32_t k = 0; k < n; k++)
            memset(spans[k].p, (int)i + 1, spans[k].len);
    }
    for (uint64_t i = 0; i < 10; i++) {
        uint64_t off = i * 1000, len = 3000 + i * 70000 - off, sum = 0;
        uint32_t n = t->ops->spans(t, p[i].head, off, len, spans, 64);

        for (uint32_t k = 0; k < n; k++) {
            sum += spans[k].len;
            ck_assert_uint_eq(spans[k].p[0], i + 1);
            ck_assert(memcmp(spans[k].p, spans[k].p + 1, spans[k].len - 1) ==
                      0);
        }
        ck_assert_uint_eq(sum, len);
    }
    makers[_i].close();
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("tier");
    TCase *t = tcase_create("contract");
    int n = countof(makers);

    tcase_add_loop_test(t, it_has_a_name_and_either_spans_or_start, 0, n);
    tcase_add_loop_test(t, used_counts_what_is_reserved_and_goes_back_to_zero,
                        0, n);
    tcase_add_loop_test(t, a_reserve_that_was_busy_goes_on_where_it_stopped, 0,
                        n);
    tcase_add_loop_test(t, places_hold_their_own_bytes, 0, n);
    suite_add_tcase(s, t);
    return s;
}
