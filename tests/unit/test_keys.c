/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
#include "store/keys.h"

#include <check.h>
#include <string.h>

#include "base/fault.h"

static struct keys k;
static uint8_t text[4096];

static struct store_key key_of(uint16_t len, uint16_t at)
{
    return (struct store_key){.key = text + at, .key_len = len};
}

static void text_fill(void)
{
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)(i * 31 + i / 251);
}

START_TEST(what_was_put_comes_back_for_all_lengths)
{
    static const uint8_t scope[16] = {1};
    struct wire_attr attr = {.page = 5};
    struct keys_view v;

    text_fill();
    ck_assert_int_eq(keys_init(&k, 5000), OK);
    for (uint16_t len = 1; len <= WIRE_KEY_MAX; len++) {
        struct store_key key = key_of(len, 3);
        bool full = len % 2;
        uint32_t ref;

        key.group = len;
        key.cls = (uint8_t)(len % 3);
        key.scope = full ? scope : NULL;
        key.route = full ? text + 9 : NULL;
        key.route_len = full ? WIRE_ROUTE_MAX : 0;
        ref = keys_new(&k, &key, full ? &attr : NULL, text + 77, len);
        ck_assert_uint_ne(ref, 0);
        ck_assert(keys_same(&k, ref, &key));
        keys_view(&k, ref, &v);
        ck_assert_uint_eq(v.key.key_len, len);
        ck_assert_mem_eq(v.key.key, text + 3, len);
        ck_assert_uint_eq(v.key.group, len);
        ck_assert_uint_eq(v.key.cls, len % 3);
        ck_assert_uint_eq(v.key.scope[0], full);
        ck_assert_uint_eq(v.attr.page, full ? 5 : 0);
        ck_assert_uint_eq(v.key.route_len, key.route_len);
        if (full)
            ck_assert_mem_eq(v.key.route, text + 9, WIRE_ROUTE_MAX);
        ck_assert_uint_eq(v.parent_len, len);
        ck_assert_mem_eq(v.parent, text + 77, len);
        if (len % 3 == 0)
            keys_del(&k, ref);
    }
    keys_fini(&k);
}
END_TEST

START_TEST(other_bytes_group_or_scope_are_not_the_same)
{
    static const uint8_t scope[16] = {0, 0, 1};
    struct store_key a = key_of(20, 0), b = a;
    uint32_t ref;

    text_fill();
    ck_assert_int_eq(keys_init(&k, 10), OK);
    ref = keys_new(&k, &a, NULL, NULL, 0);
    ck_assert(keys_same(&k, ref, &b));
    b.group = 1;
    ck_assert(!keys_same(&k, ref, &b));
    b = a;
    b.scope = scope;
    ck_assert(!keys_same(&k, ref, &b));
    b = key_of(20, 1);
    ck_assert(!keys_same(&k, ref, &b));
    b = key_of(19, 0);
    ck_assert(!keys_same(&k, ref, &b));
    keys_fini(&k);
}
END_TEST

START_TEST(cells_are_small_and_used_again)
{
    struct store_key key = key_of(32, 0);
    uint64_t hi;
    uint32_t ref;

    ck_assert_int_eq(keys_init(&k, 100000), OK);
    ref = keys_new(&k, &key, NULL, NULL, 0);
    ck_assert_uint_eq(k.used, 48); /* 10 + 32 */
    hi = k.hi;
    for (int i = 0; i < 1000; i++) {
        keys_del(&k, ref);
        ck_assert_uint_eq(keys_new(&k, &key, NULL, NULL, 0), ref);
    }
    ck_assert_uint_eq(k.hi, hi);
    keys_del(&k, ref);
    ck_assert_uint_eq(k.used, 0);
    keys_fini(&k);
}
END_TEST

START_TEST(a_used_up_space_serves_from_larger_cells_then_refuses)
{
    struct store_key large = key_of(1000, 0), small = key_of(10, 0);
    uint32_t refs[64], n = 0, ref;

    text_fill();
    ck_assert_int_eq(keys_init(&k, 4), OK);
    while ((ref = keys_new(&k, &large, NULL, NULL, 0)) != 0)
        refs[n++] = ref;
    while (keys_new(&k, &small, NULL, NULL, 0))
        ;
    keys_del(&k, refs[0]);
    ref = keys_new(&k, &small, NULL, NULL, 0);
    ck_assert_uint_eq(ref, refs[0]);
    ck_assert(keys_same(&k, ref, &small));
    ck_assert_uint_eq(keys_new(&k, &small, NULL, NULL, 0), 0);
    keys_del(&k, ref);
    ck_assert_uint_eq(keys_new(&k, &large, NULL, NULL, 0), ref);
    ck_assert(keys_same(&k, refs[1], &large));
    keys_fini(&k);
}
END_TEST

#ifdef PIKV_FAULTS
START_TEST(no_memory_is_an_error)
{
    struct store_key key = key_of(10, 0);

    fault_arm(1);
    ck_assert_int_eq(keys_init(&k, 4), ERR_NO_MEMORY);
    keys_fini(&k);
    ck_assert_int_eq(keys_init(&k, 4), OK);
    fault_arm(1);
    ck_assert_uint_eq(keys_new(&k, &key, NULL, NULL, 0), 0);
    ck_assert_uint_eq(k.used, 0);
    keys_fini(&k);
}
END_TEST
#endif

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("keys");
    TCase *t = tcase_create("keys");

    tcase_add_test(t, what_was_put_comes_back_for_all_lengths);
    tcase_add_test(t, other_bytes_group_or_scope_are_not_the_same);
    tcase_add_test(t, cells_are_small_and_used_again);
    tcase_add_test(t, a_used_up_space_serves_from_larger_cells_then_refuses);
#ifdef PIKV_FAULTS
    tcase_add_test(t, no_memory_is_an_error);
#endif
    suite_add_tcase(s, t);
    return s;
}
