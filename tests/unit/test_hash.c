/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: base */
#include "base/hash.h"

#include <check.h>
#include <signal.h>
#include <string.h>

#include "base/mem.h"
#include "proto/wire.h"

START_TEST(crc32c_known_vectors)
{
    uint8_t buf[32];

    ck_assert_uint_eq(crc32c(0, "123456789", 9), 0xe3069283);
    ck_assert_uint_eq(crc32c(0, "", 0), 0);
    /* RFC 3720 B.4 */
    memset(buf, 0, sizeof(buf));
    ck_assert_uint_eq(crc32c(0, buf, sizeof(buf)), 0x8a9136aa);
    memset(buf, 0xff, sizeof(buf));
    ck_assert_uint_eq(crc32c(0, buf, sizeof(buf)), 0x62a8ab43);
    for (uint8_t i = 0; i < sizeof(buf); i++)
        buf[i] = i;
    ck_assert_uint_eq(crc32c(0, buf, sizeof(buf)), 0x46dd794e);
}
END_TEST

START_TEST(crc32c_continues_over_any_cut)
{
    const char *text = "the bytes of one PUT, whole, or a miss";
    size_t n = strlen(text);

    for (size_t cut = 0; cut <= n; cut++)
        ck_assert_uint_eq(crc32c(crc32c(0, text, cut), text + cut, n - cut),
                          crc32c(0, text, n));
}
END_TEST

START_TEST(crc32c_combines_over_any_cut)
{
    uint8_t buf[1000];
    uint32_t whole;

    for (size_t i = 0; i < sizeof(buf); i++)
        buf[i] = (uint8_t)(i * 7 + i / 256);
    whole = crc32c(0, buf, sizeof(buf));
    for (size_t cut = 0; cut <= sizeof(buf); cut++)
        ck_assert_uint_eq(
            crc32c_combine(crc32c(0, buf, cut),
                           crc32c(0, buf + cut, sizeof(buf) - cut),
                           sizeof(buf) - cut),
            whole);
}
END_TEST

/* Zero pages are never written, so this costs address space only. */
START_TEST(crc32c_counts_beyond_int_max)
{
    size_t n = (size_t)GIB(2) + 4097;
    uint8_t *p = mem_reserve(n);
    uint32_t whole, parts = 0;

    ck_assert_ptr_nonnull(p);
    p[n - 1] = 1;
    whole = crc32c(0, p, n);
    for (size_t off = 0; off < n; off += MIB(256))
        parts = crc32c(parts, p + off, (size_t)min_u64(MIB(256), n - off));
    ck_assert_uint_eq(whole, parts);
    ck_assert_uint_eq(whole, crc32c_combine(crc32c(0, p, GIB(2)),
                                            crc32c(0, p + GIB(2), 4097), 4097));
    mem_release(p, n);
}
END_TEST

static const uint8_t salt[32] = "one namespace's salt";
static const uint8_t no_scope[16];

static bool same(struct hash128 a, struct hash128 b)
{
    return a.lo == b.lo && a.hi == b.hi;
}

START_TEST(key_hash_depends_on_every_part)
{
    struct hash_secret s, next;
    uint8_t scope[16] = {1};
    struct hash128 h;

    hash_secret_make(&s, salt, 1);
    hash_secret_make(&next, salt, 2);
    h = hash_key(&s, 3, no_scope, "key", 3);
    ck_assert(same(h, hash_key(&s, 3, no_scope, "key", 3)));
    ck_assert(!same(h, hash_key(&s, 4, no_scope, "key", 3)));
    ck_assert(!same(h, hash_key(&s, 3, scope, "key", 3)));
    ck_assert(!same(h, hash_key(&s, 3, no_scope, "kez", 3)));
    ck_assert(!same(h, hash_key(&s, 3, no_scope, "key", 2)));
    ck_assert(!same(h, hash_key(&next, 3, no_scope, "key", 3)));
}
END_TEST

START_TEST(key_hash_takes_the_longest_key_and_none)
{
    static uint8_t key[WIRE_KEY_MAX];
    struct hash_secret s;
    struct hash128 h;

    hash_secret_make(&s, salt, 1);
    h = hash_key(&s, 0, no_scope, key, sizeof(key));
    key[sizeof(key) - 1] = 1;
    ck_assert(!same(h, hash_key(&s, 0, no_scope, key, sizeof(key))));
    ck_assert(!same(h, hash_key(&s, 0, no_scope, NULL, 0)));
}
END_TEST

START_TEST(key_longer_than_the_wire_allows_aborts)
{
    static uint8_t key[WIRE_KEY_MAX + 1];
    struct hash_secret s;

    hash_secret_make(&s, salt, 1);
    hash_key(&s, 0, no_scope, key, sizeof(key));
}
END_TEST

/* Placement outlives a process: the numbers may never change. */
START_TEST(slots_are_the_same_in_every_build)
{
    ck_assert_uint_eq(hash_64(0, "", 0), UINT64_C(0x2d06800538d394c2));
    ck_assert_uint_eq(hash_slot(0, "", 0), 0x94c2);
}
END_TEST

START_TEST(slots_spread_routes)
{
    uint32_t hit[16] = {0};

    for (uint32_t i = 0; i < 16000; i++) {
        uint32_t slot = hash_slot(42, &i, sizeof(i));

        ck_assert_uint_lt(slot, WIRE_SLOTS);
        hit[slot * 16 / WIRE_SLOTS]++;
    }
    for (int i = 0; i < 16; i++)
        ck_assert(hit[i] > 800 && hit[i] < 1200);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("hash");
    TCase *t = tcase_create("hash");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, crc32c_known_vectors);
    tcase_add_test(t, crc32c_continues_over_any_cut);
    tcase_add_test(t, crc32c_combines_over_any_cut);
    tcase_add_test(t, crc32c_counts_beyond_int_max);
    tcase_add_test(t, key_hash_depends_on_every_part);
    tcase_add_test(t, key_hash_takes_the_longest_key_and_none);
    tcase_add_test_raise_signal(t, key_longer_than_the_wire_allows_aborts,
                                SIGABRT);
    tcase_add_test(t, slots_are_the_same_in_every_build);
    tcase_add_test(t, slots_spread_routes);
    suite_add_tcase(s, t);
    return s;
}
