/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
#include "store/store.h"

#include <check.h>

#include "base/fault.h"
#include "tests/lib/sfix.h"

static struct sfix f;

START_TEST(a_bump_hides_all_blocks_at_once_and_the_tick_reclaims_them)
{
    struct store_ns_cfg ns = sfix_ns(1, 2, NULL);
    uint64_t before, old, bytes, share, blocks;
    uint32_t held;

    sfix_open(&f, 32, NULL);
    for (uint64_t i = 0; i < 5000; i++)
        ck_assert_int_eq(sfix_put_num(&f, 1, i, 4096), OK);
    held = sfix_find_num(&f, 1, 17);
    old = store_version(f.s, held);
    store_ref(f.s, held);
    before = f.trace.n;
    ck_assert_int_eq(store_ns_set(f.s, &ns), OK);
    ck_assert_uint_eq(f.trace.n, before); /* touched no block */
    ck_assert_int_eq(store_ns_check(f.s, 1, 1), ERR_STALE_GENERATION);
    ck_assert_int_eq(store_ns_check(f.s, 1, 2), OK);
    ck_assert_int_eq(store_ns_check(f.s, 1, 0), OK);
    ck_assert_int_eq(store_ns_check(f.s, 2, 0), ERR_NO_NAMESPACE);
    for (uint64_t i = 0; i < 5000; i++)
        ck_assert_uint_eq(sfix_find_num(&f, 1, i), 0);
    store_ns_usage(f.s, 1, &blocks, &bytes, &share);
    ck_assert_uint_eq(blocks, 0);
    ck_assert_int_eq(sfix_put_num(&f, 1, 17, 4096), OK);
    ck_assert_uint_gt(store_version(f.s, sfix_find_num(&f, 1, 17)), old);
    ck_assert(store_tick(f.s));
    sfix_settle(&f);
    ck_assert_uint_eq(f.metrics.blocks, 2); /* the new, the one in use */
    store_check(f.s);
    store_unref(f.s, held);
    sfix_settle(&f);
    ck_assert_uint_eq(f.metrics.blocks, 1);
    ck_assert_uint_eq(f.metrics.evicted_blocks, 0);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(many_bumps_in_a_row_do_not_run_out_of_slots)
{
    sfix_open(&f, 4, NULL);
    for (uint64_t g = 2; g < 500; g++) {
        struct store_ns_cfg ns = sfix_ns(1, g, NULL);

        ck_assert_int_eq(sfix_put_num(&f, 1, 1, 4096), OK);
        ck_assert_int_eq(store_ns_set(f.s, &ns), OK);
        ck_assert_uint_eq(sfix_find_num(&f, 1, 1), 0);
    }
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

/* Namespace 2 is far over its share, the old generation of 1 is small. */
START_TEST(blocks_of_old_generations_go_first_under_pressure)
{
    struct store_ns_cfg two = sfix_ns(2, 1, NULL), three = sfix_ns(3, 1, NULL);
    struct store_ns_cfg bump = sfix_ns(1, 2, NULL);

    sfix_open(&f, 8, NULL);
    three.share = 1000;
    ck_assert_int_eq(store_ns_set(f.s, &two), OK);
    ck_assert_int_eq(store_ns_set(f.s, &three), OK);
    ck_assert_int_eq(sfix_put_num(&f, 3, 0, 2 << 20), OK);
    for (uint64_t i = 0; i < 6; i++)
        ck_assert_int_eq(sfix_put_num(&f, 2, i, 2 << 20), OK);
    ck_assert_int_eq(sfix_put_num(&f, 1, 0, 2 << 20), OK);
    ck_assert_int_eq(store_ns_set(f.s, &bump), OK);
    ck_assert_int_eq(sfix_put_num(&f, 3, 1, 2 << 20), OK);
    for (uint64_t i = 0; i < 6; i++)
        ck_assert_uint_ne(sfix_find_num(&f, 2, i), 0);
    ck_assert_uint_eq(f.metrics.evicted_blocks, 0);
    ck_assert_uint_eq(f.metrics.dropped_blocks, 1);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(the_namespace_most_over_its_share_gives_way)
{
    struct store_ns_cfg one = sfix_ns(1, 1, NULL), two = sfix_ns(2, 1, NULL);
    uint64_t blocks, bytes, share;

    sfix_open(&f, 40, NULL);
    one.share = 3;
    ck_assert_int_eq(store_ns_set(f.s, &one), OK);
    ck_assert_int_eq(store_ns_set(f.s, &two), OK);
    for (uint64_t i = 0; i < 40; i++)
        ck_assert_int_eq(sfix_put_num(&f, 2, i, 2 << 20), OK);
    store_ns_usage(f.s, 2, &blocks, &bytes, &share);
    ck_assert_uint_eq(blocks, 40); /* alone it may have all */
    for (uint64_t i = 0; i < 200; i++) {
        ck_assert_int_eq(sfix_put_num(&f, 1, i, 2 << 20), OK);
        ck_assert_int_eq(sfix_put_num(&f, 2, 1000 + i, 2 << 20), OK);
    }
    store_ns_usage(f.s, 1, &blocks, &bytes, &share);
    ck_assert_uint_eq(share, 30u << 21);
    ck_assert_uint_ge(blocks, 29);
    ck_assert_uint_le(blocks, 31);
    store_ns_usage(f.s, 2, &blocks, &bytes, &share);
    ck_assert_uint_eq(share, 10u << 21);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(a_quota_is_kept_by_evicting_the_namespaces_own_blocks)
{
    struct store_ns_cfg one = sfix_ns(1, 1, NULL), two = sfix_ns(2, 1, NULL);
    uint64_t blocks, bytes, share;

    sfix_open(&f, 40, NULL);
    one.quota_bytes = 10 << 20;
    ck_assert_int_eq(store_ns_set(f.s, &one), OK);
    ck_assert_int_eq(store_ns_set(f.s, &two), OK);
    ck_assert_int_eq(sfix_put_num(&f, 2, 0, 1 << 20), OK);
    for (uint64_t i = 0; i < 50; i++)
        ck_assert_int_eq(sfix_put_num(&f, 1, i, 1 << 20), OK);
    store_ns_usage(f.s, 1, &blocks, &bytes, &share);
    ck_assert_uint_eq(blocks, 10);
    ck_assert_uint_ne(sfix_find_num(&f, 2, 0), 0);
    ck_assert_int_eq(sfix_put_num(&f, 1, 99, 11 << 20), ERR_NO_SPACE);
    for (uint64_t i = 40; i < 50; i++)
        store_ref(f.s, sfix_find_num(&f, 1, i));
    ck_assert_int_eq(sfix_put_num(&f, 1, 99, 1 << 20), ERR_BUSY);
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(a_policy_is_switched_live_without_losing_a_block)
{
    const struct evict_ops *p;
    uint64_t next = 0;

    sfix_open(&f, 8, NULL);
    for (; next < 100; next++)
        ck_assert_int_eq(sfix_put_num(&f, 1, next, KIB(128)), OK);
    ck_assert_int_eq(store_pin(f.s, sfix_find_num(&f, 1, 50)), OK);
    for (uint32_t i = 0; i < 40; i++) {
        struct store_ns_cfg ns = sfix_ns(1, 1, NULL);
        uint64_t blocks = f.metrics.blocks;

        p = evict_by_idx(i % 4);
        ns.policy = p ? p : evict_by_idx(0);
        ck_assert_int_eq(store_ns_set(f.s, &ns), OK);
        ck_assert_uint_eq(f.metrics.blocks, blocks);
        store_check(f.s);
        for (uint64_t n = 0; n < 30; n++, next++) {
            uint32_t b = sfix_find_num(&f, 1, next - 1 - n % 7);

            if (b)
                store_use(f.s, b);
            ck_assert_int_eq(sfix_put_num(&f, 1, next, KIB(128)), OK);
        }
        ck_assert_uint_ne(sfix_find_num(&f, 1, 50), 0);
    }
    store_check(f.s);
    sfix_close(&f);
}
END_TEST

START_TEST(versions_do_not_repeat_after_a_restart)
{
    uint64_t v;

    sfix_open(&f, 4, NULL);
    for (uint64_t i = 0; i < 1000; i++)
        ck_assert_int_eq(sfix_put_num(&f, 1, i, 4096), OK);
    v = store_version(f.s, sfix_find_num(&f, 1, 999));
    sfix_close(&f);
    sfix_init(&f, 4);
    f.env.boot_us += 1000000;
    ck_assert_int_eq(sfix_start(&f), OK);
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);
    ck_assert_int_eq(store_ns_set(f.s, &ns), OK);
    ck_assert_int_eq(sfix_put_num(&f, 1, 999, 4096), OK);
    ck_assert_uint_gt(store_version(f.s, sfix_find_num(&f, 1, 999)), v);
    sfix_close(&f);
}
END_TEST

#ifdef PIKV_FAULTS
/* Everything a lane does, with whatever errors come. */
static void scenario(void)
{
    struct store_ns_cfg bump = sfix_ns(1, 2, evict_by_name("arc"));
    uint32_t b;

    if (sfix_start(&f))
        return;
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);
    if (store_ns_set(f.s, &ns))
        return;
    sfix_put(&f, 1, "a", NULL, 5 << 20);
    sfix_put(&f, 1, "b", "a", 300000);
    for (uint64_t i = 0; i < 600; i++)
        sfix_put_num(&f, 1, i, 4096 + 100 * i);
    store_check(f.s);
    b = sfix_find(&f, 1, "b");
    if (b)
        store_drop(f.s, b);
    sfix_put(&f, 1, "big", NULL, 5 << 20);
    store_check(f.s);
    ns.policy = evict_by_name("s3fifo");
    if (store_ns_set(f.s, &ns) == OK)
        sfix_put(&f, 1, "c", NULL, 70000);
    if (store_ns_set(f.s, &bump) == OK)
        ck_assert_uint_eq(sfix_find(&f, 1, "c"), 0);
    sfix_settle(&f);
    store_check(f.s);
}

START_TEST(every_fault_leaves_a_whole_store)
{
    uint32_t n = 0;

    for (uint32_t i = 1;; i += i < 100 ? 1 : 17) {
        bool hit;

        fault_arm(0);
        sfix_init(&f, 8);
        fault_arm(i);
        scenario();
        hit = fault_hit();
        fault_arm(0);
        sfix_close(&f);
        if (!hit)
            break;
        n++;
    }
    ck_assert_uint_gt(n, 100);
}
END_TEST

START_TEST(faults_that_do_not_end_leave_a_whole_store)
{
    for (uint32_t i = 1; i < 300; i += 7) {
        sfix_init(&f, 8);
        fault_arm_forever(i);
        scenario();
        fault_arm(0);
        sfix_close(&f);
    }
}
END_TEST
#endif

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("store_ns");
    TCase *t = tcase_create("namespaces");

    tcase_set_timeout(t, 120);
    tcase_add_test(t,
                   a_bump_hides_all_blocks_at_once_and_the_tick_reclaims_them);
    tcase_add_test(t, many_bumps_in_a_row_do_not_run_out_of_slots);
    tcase_add_test(t, blocks_of_old_generations_go_first_under_pressure);
    tcase_add_test(t, the_namespace_most_over_its_share_gives_way);
    tcase_add_test(t, a_quota_is_kept_by_evicting_the_namespaces_own_blocks);
    tcase_add_test(t, a_policy_is_switched_live_without_losing_a_block);
    tcase_add_test(t, versions_do_not_repeat_after_a_restart);
#ifdef PIKV_FAULTS
    tcase_add_test(t, every_fault_leaves_a_whole_store);
    tcase_add_test(t, faults_that_do_not_end_leave_a_whole_store);
#endif
    suite_add_tcase(s, t);
    return s;
}
