/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
#include "store/catalog.h"

#include <check.h>
#include <signal.h>

#include "base/fault.h"

static struct catalog c;

/* splitmix64 */
static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static struct hash128 hash_of(uint64_t n)
{
    return (struct hash128){mix(n), mix(~n)};
}

static uint32_t add(struct hash128 h)
{
    uint32_t at = catalog_new(&c, h);

    if (at)
        c.entries[at].state = BLOCK_LIVE;
    return at;
}

START_TEST(records_have_the_promised_sizes)
{
    ck_assert_uint_eq(sizeof(struct entry), 48);
    ck_assert_uint_eq(sizeof(struct hot), 80);
}
END_TEST

START_TEST(everything_added_is_found_while_buckets_split)
{
    enum { N = 20000 };
    static uint32_t at[N];
    uint64_t longest = 0;

    ck_assert_int_eq(catalog_init(&c, N, N), OK);
    for (uint32_t i = 0; i < N; i++) {
        at[i] = add(hash_of(i));
        ck_assert_uint_ne(at[i], 0);
        for (uint32_t k = i > 50 ? i - 50 : 0; k <= i; k++)
            ck_assert_uint_eq(catalog_first(&c, hash_of(k)), at[k]);
        if (i % 1000 == 0)
            catalog_check(&c);
    }
    ck_assert_uint_eq(add(hash_of(N)), 0); /* full */
    ck_assert_uint_eq(c.bucket_n, N);      /* one per growth */
    for (uint32_t b = 0; b < c.bucket_n; b++) {
        uint64_t n = 0;

        for (uint32_t e = c.buckets[b]; e; e = c.entries[e].next)
            n++;
        longest = max_u64(longest, n);
    }
    ck_assert_uint_le(longest, 16);
    for (uint32_t i = 0; i < N; i += 2)
        catalog_del(&c, at[i]);
    for (uint32_t i = 0; i < N; i++)
        ck_assert_uint_eq(catalog_first(&c, hash_of(i)), i % 2 ? at[i] : 0);
    catalog_check(&c);
    ck_assert_uint_eq(c.entry_n, N / 2);
    catalog_fini(&c);
}
END_TEST

START_TEST(equal_hashes_are_all_in_the_chain)
{
    struct hash128 h = {5, 6};
    uint32_t a, b;

    ck_assert_int_eq(catalog_init(&c, 100, 100), OK);
    a = add(h);
    add((struct hash128){5, 7});
    b = add(h);
    ck_assert_uint_eq(catalog_first(&c, h), b);
    ck_assert_uint_eq(catalog_next(&c, b, h), a);
    ck_assert_uint_eq(catalog_next(&c, a, h), 0);
    catalog_fini(&c);
}
END_TEST

START_TEST(an_entry_outlives_its_hot_record)
{
    uint32_t e, h;

    ck_assert_int_eq(catalog_init(&c, 10, 10), OK);
    e = add(hash_of(1));
    h = catalog_hot_new(&c, e);
    ck_assert_uint_eq(c.entries[e].hot, h);
    ck_assert_uint_eq(c.hots[h].entry, e);
    catalog_check(&c);
    catalog_hot_del(&c, h);
    ck_assert_uint_eq(c.entries[e].hot, 0);
    ck_assert_uint_eq(catalog_first(&c, hash_of(1)), e);
    ck_assert_uint_eq(catalog_hot_new(&c, e), h); /* the warm one again */
    catalog_check(&c);
    catalog_fini(&c);
}
END_TEST

START_TEST(memory_is_touched_only_as_far_as_used)
{
    ck_assert_int_eq(catalog_init(&c, 100 << 20, 100 << 20), OK);
    ck_assert_uint_lt(catalog_bytes(&c), 4096);
    for (uint32_t i = 0; i < 1000; i++)
        catalog_hot_new(&c, add(hash_of(i)));
    ck_assert_uint_le(catalog_bytes(&c), 1001 * (48 + 80 + 4));
    catalog_fini(&c);
}
END_TEST

START_TEST(an_entry_with_a_hot_record_may_not_go)
{
    uint32_t e;

    ck_assert_int_eq(catalog_init(&c, 10, 10), OK);
    e = add(hash_of(1));
    catalog_hot_new(&c, e);
    catalog_del(&c, e);
}
END_TEST

#ifdef PIKV_FAULTS
START_TEST(no_memory_is_an_error)
{
    for (uint32_t i = 1; i <= 4; i++) {
        fault_arm(i);
        ck_assert_int_eq(catalog_init(&c, 10, 10), ERR_NO_MEMORY);
        catalog_fini(&c);
    }
    ck_assert_int_eq(catalog_init(&c, 10, 10), OK);
    fault_arm(1);
    ck_assert_uint_eq(catalog_new(&c, hash_of(1)), 0);
    catalog_check(&c);
    catalog_fini(&c);
}
END_TEST
#endif

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("catalog");
    TCase *t = tcase_create("catalog");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, records_have_the_promised_sizes);
    tcase_add_test(t, everything_added_is_found_while_buckets_split);
    tcase_add_test(t, equal_hashes_are_all_in_the_chain);
    tcase_add_test(t, an_entry_outlives_its_hot_record);
    tcase_add_test(t, memory_is_touched_only_as_far_as_used);
    tcase_add_test_raise_signal(t, an_entry_with_a_hot_record_may_not_go,
                                SIGABRT);
#ifdef PIKV_FAULTS
    tcase_add_test(t, no_memory_is_an_error);
#endif
    suite_add_tcase(s, t);
    return s;
}
