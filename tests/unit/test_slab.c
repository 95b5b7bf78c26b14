/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
#include "store/slab.h"

#include <check.h>
#include <signal.h>

#include "base/fault.h"
#include "base/mem.h"

static struct unit_pool pool;
static struct slab s;

static void open_slab(uint32_t units)
{
    /* Addresses are only computed, never used. */
    uint8_t *base = (uint8_t *)(uintptr_t)UNIT_BYTES;
    uint64_t bytes = (uint64_t)units * UNIT_BYTES;

    ck_assert_int_eq(unit_pool_init(&pool, base, bytes, 1), OK);
    ck_assert_int_eq(slab_init(&s, &pool, 0), OK);
}

static void close_slab(void)
{
    slab_check(&s);
    slab_fini(&s);
    ck_assert_uint_eq(unit_pool_free(&pool), pool.units);
    unit_pool_fini(&pool);
}

static enum err take(struct tier_place *p, uint64_t len, enum tier_how how)
{
    tier_place_init(p);
    return slab_grow(&s, p, len, 7, 1, how);
}

START_TEST(no_length_wastes_more_than_an_eighth)
{
    open_slab(40);
    for (uint64_t len = KIB(32); len < MIB(5); len += 4093) {
        struct tier_place p;

        ck_assert_int_eq(take(&p, len, TIER_FIT), OK);
        ck_assert_uint_ge(p.bytes, len);
        ck_assert_uint_le(p.bytes - len, len / 8);
        ck_assert_uint_le(p.extents, len / UNIT_BYTES + 4);
        ck_assert_uint_eq(slab_free(&s, p.head), p.bytes);
        ck_assert_uint_eq(s.held, 0);
    }
    close_slab();
}
END_TEST

START_TEST(common_classes_leave_little_at_the_end_of_a_unit)
{
    open_slab(1);
    for (uint32_t c = 1; c < s.cls_n; c++) {
        uint64_t used = (uint64_t)s.cls[c].slots * s.cls[c].slot_bytes;

        ck_assert_uint_ge(used, UNIT_BYTES - UNIT_BYTES / 15);
        ck_assert_uint_eq(s.cls[c].slot_bytes % 4096, 0);
    }
    close_slab();
}
END_TEST

START_TEST(a_registered_size_has_no_waste)
{
    static const uint64_t sizes[] = {4097,   20000,   98304,   163840,
                                     655360, 5000000, 1300000, 16 << 20};

    open_slab(40);
    for (size_t i = 0; i < countof(sizes); i++)
        slab_exact(&s, sizes[i]);
    for (size_t i = 0; i < countof(sizes); i++) {
        struct tier_place p;

        ck_assert_int_eq(take(&p, sizes[i], TIER_FIT), OK);
        ck_assert_uint_lt(p.bytes - sizes[i], 64);
        slab_free(&s, p.head);
    }
    close_slab();
}
END_TEST

START_TEST(more_sizes_than_exact_classes_are_served_by_the_common)
{
    struct tier_place p;

    open_slab(4);
    for (uint64_t i = 0; i < 200; i++)
        slab_exact(&s, 5000 + 64 * i);
    ck_assert_uint_eq(s.exact_n, SLAB_EXACT);
    slab_exact(&s, 0);
    slab_exact(&s, 100);
    ck_assert_int_eq(take(&p, 5000 + 64 * 150, TIER_FIT), OK);
    slab_free(&s, p.head);
    close_slab();
}
END_TEST

START_TEST(a_full_pool_says_busy_and_keeps_what_it_got)
{
    struct tier_place p, q;

    open_slab(4);
    ck_assert_int_eq(take(&p, MIB(4), TIER_FIT), OK);
    ck_assert_int_eq(take(&q, MIB(6), TIER_FIT), ERR_BUSY);
    ck_assert_uint_eq(q.bytes, MIB(4));
    slab_free(&s, p.head);
    ck_assert_int_eq(slab_grow(&s, &q, MIB(6), 7, 1, TIER_FIT), OK);
    ck_assert_uint_eq(q.extents, 3);
    slab_free(&s, q.head);
    close_slab();
}
END_TEST

START_TEST(an_empty_unit_goes_back_at_once)
{
    struct tier_place p, q;

    open_slab(4);
    ck_assert_int_eq(take(&p, 4096, TIER_FIT), OK);
    ck_assert_int_eq(take(&q, 4096, TIER_FIT), OK);
    ck_assert_uint_eq(s.held, 1);
    slab_free(&s, p.head);
    ck_assert_uint_eq(unit_pool_free(&pool), 3);
    slab_free(&s, q.head);
    ck_assert_uint_eq(unit_pool_free(&pool), 4);
    close_slab();
}
END_TEST

/* Two units of 64 KiB, every second slot free. */
static void comb(struct tier_place *p)
{
    for (int i = 0; i < 64; i++)
        ck_assert_int_eq(take(&p[i], KIB(64), TIER_FIT), OK);
    for (int i = 0; i < 64; i += 2)
        slab_free(&s, p[i].head);
}

START_TEST(neat_takes_few_fitting_extents_and_scatter_all_there_is)
{
    struct tier_place p[64], q;

    open_slab(2);
    comb(p);
    ck_assert_int_eq(take(&q, KIB(256), TIER_FIT), ERR_BUSY);
    ck_assert_int_eq(take(&q, 4096, TIER_NEAT), ERR_BUSY); /* 60 KiB waste */
    ck_assert_uint_eq(q.extents, 0);
    ck_assert_int_eq(take(&q, KIB(256), TIER_NEAT), OK);
    ck_assert_uint_eq(q.extents, 4);
    ck_assert_uint_eq(q.bytes, KIB(256));
    slab_check(&s);
    slab_free(&s, q.head);
    ck_assert_int_eq(take(&q, MIB(2), TIER_NEAT), ERR_BUSY); /* 32 extents */
    ck_assert_int_eq(take(&q, MIB(2) + 1, TIER_SCATTER), ERR_BUSY);
    ck_assert_uint_eq(q.extents, 0);
    ck_assert_int_eq(take(&q, MIB(2), TIER_SCATTER), OK);
    ck_assert_uint_eq(q.extents, 32);
    ck_assert_uint_eq(s.free_bytes, 0);
    close_slab();
}
END_TEST

START_TEST(neighbouring_free_slots_make_one_extent)
{
    struct tier_place p[32], q;
    struct span spans[4];

    open_slab(1);
    for (int i = 0; i < 32; i++)
        ck_assert_int_eq(take(&p[i], KIB(64), TIER_FIT), OK);
    for (int i = 3; i < 27; i++)
        slab_free(&s, p[i].head);
    ck_assert_int_eq(take(&q, KIB(64) * 20 - 1, TIER_SCATTER), OK);
    ck_assert_uint_eq(q.extents, 1);
    ck_assert_uint_eq(slab_spans(&s, q.head, 100, 1000, spans, 4), 1);
    ck_assert_ptr_eq(spans[0].p, pool.base + KIB(64) * 3 + 100);
    slab_check(&s);
    slab_free(&s, q.head);
    close_slab();
}
END_TEST

START_TEST(the_emptiest_then_coldest_unit_is_named)
{
    struct tier_place p[3], cold, hot;
    uint32_t owners[SLAB_SLOTS];

    open_slab(5);
    for (int i = 0; i < 3; i++) {
        tier_place_init(&p[i]);
        ck_assert_int_eq(
            slab_grow(&s, &p[i], MIB(1), 10 + (uint32_t)i, 5, TIER_FIT), OK);
    }
    tier_place_init(&hot);
    tier_place_init(&cold);
    ck_assert_int_eq(slab_grow(&s, &hot, KIB(4), 20, 90, TIER_FIT), OK);
    ck_assert_int_eq(slab_grow(&s, &cold, KIB(64), 21, 6, TIER_FIT), OK);
    ck_assert_uint_eq(slab_cold(&s, 0, 100), slab_unit_of(cold.head));
    ck_assert_uint_eq(slab_owners(&s, slab_unit_of(cold.head), owners), 1);
    ck_assert_uint_eq(owners[0], 21);
    slab_free(&s, cold.head);
    ck_assert_uint_eq(slab_cold(&s, 0, 100), slab_unit_of(hot.head));
    slab_free(&s, hot.head);
    ck_assert_uint_eq(slab_cold(&s, 0, 100), slab_unit_of(p[2].head));
    ck_assert_uint_eq(slab_owners(&s, slab_unit_of(p[0].head), owners), 2);
    ck_assert_uint_eq(slab_cold(&s, s.units[0].cls, 100), UNIT_NONE);
    close_slab();
}
END_TEST

START_TEST(bookkeeping_is_small_for_large_slots)
{
    struct tier_place p;

    open_slab(64);
    for (int i = 0; i < 64 * 32; i++)
        ck_assert_int_eq(take(&p, KIB(64), TIER_FIT), OK);
    ck_assert_uint_le(sizeof(struct slab_rec), 12);
    ck_assert_uint_le(sizeof(struct slab_unit), 88);
    ck_assert_uint_eq(s.rec_hi, 64 * 32);
    close_slab();
}
END_TEST

START_TEST(random_lengths_and_orders_keep_the_books)
{
    static struct tier_place live[400];
    struct env env = {.rng = {3, 4}};
    uint32_t n = 0;

    open_slab(48);
    slab_exact(&s, 123456);
    for (int i = 0; i < 40000; i++) {
        uint64_t top = KIB(4) << env_random(&env) % 11;
        uint64_t len = top + env_random(&env) % top;
        enum tier_how how = (enum tier_how)(env_random(&env) % 3);

        if (n < 400 && env_random(&env) % 5 < 3) {
            enum err e = take(&live[n], len, how);

            if (e && how == TIER_FIT)
                slab_free(&s, live[n].head);
            n += e == OK;
        } else if (n) {
            uint32_t k = (uint32_t)(env_random(&env) % n);

            ck_assert_uint_eq(slab_free(&s, live[k].head), live[k].bytes);
            live[k] = live[--n];
        }
        if (i % 64 == 0)
            slab_check(&s);
    }
    while (n)
        slab_free(&s, live[--n].head);
    ck_assert_uint_eq(s.held, 0);
    ck_assert_uint_eq(s.used_bytes, 0);
    ck_assert_uint_le(s.rec_hi, pool.units * 1024);
    close_slab();
}
END_TEST

START_TEST(a_place_freed_twice_aborts)
{
    struct tier_place p, q;

    open_slab(1);
    ck_assert_int_eq(take(&p, 4096, TIER_FIT), OK);
    ck_assert_int_eq(take(&q, 4096, TIER_FIT), OK);
    slab_free(&s, p.head);
    slab_free(&s, p.head);
}
END_TEST

#ifdef PIKV_FAULTS
START_TEST(no_memory_and_no_unit_are_errors)
{
    struct tier_place p;

    open_slab(2);
    fault_arm(1);
    ck_assert_int_eq(take(&p, 4096, TIER_FIT), ERR_BUSY);
    ck_assert_int_eq(take(&p, 4096, TIER_FIT), OK);
    close_slab();
    for (uint32_t i = 1; i <= 2; i++) {
        ck_assert_int_eq(unit_pool_init(&pool, NULL, MIB(4), 1), OK);
        fault_arm(i);
        ck_assert_int_eq(slab_init(&s, &pool, 0), ERR_NO_MEMORY);
        slab_fini(&s);
        unit_pool_fini(&pool);
    }
}
END_TEST
#endif

Suite *suite(void);
Suite *suite(void)
{
    Suite *su = suite_create("slab");
    TCase *t = tcase_create("slab");

    tcase_set_timeout(t, 120);
    tcase_add_test(t, no_length_wastes_more_than_an_eighth);
    tcase_add_test(t, common_classes_leave_little_at_the_end_of_a_unit);
    tcase_add_test(t, a_registered_size_has_no_waste);
    tcase_add_test(t, more_sizes_than_exact_classes_are_served_by_the_common);
    tcase_add_test(t, a_full_pool_says_busy_and_keeps_what_it_got);
    tcase_add_test(t, an_empty_unit_goes_back_at_once);
    tcase_add_test(t, neat_takes_few_fitting_extents_and_scatter_all_there_is);
    tcase_add_test(t, neighbouring_free_slots_make_one_extent);
    tcase_add_test(t, the_emptiest_then_coldest_unit_is_named);
    tcase_add_test(t, bookkeeping_is_small_for_large_slots);
    tcase_add_test(t, random_lengths_and_orders_keep_the_books);
    tcase_add_test_raise_signal(t, a_place_freed_twice_aborts, SIGABRT);
#ifdef PIKV_FAULTS
    tcase_add_test(t, no_memory_and_no_unit_are_errors);
#endif
    suite_add_tcase(su, t);
    return su;
}
