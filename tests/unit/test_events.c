/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
/* The ring of events alone: order, wrapping, what is forgotten. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "proto/wire.h"
#include "store/events.h"

static struct events r;
static uint8_t key[WIRE_KEY_MAX], parent[WIRE_KEY_MAX], scope[16];

static struct event event(uint64_t n, uint16_t key_len, uint16_t parent_len)
{
    for (uint32_t i = 0; i < key_len; i++)
        key[i] = (uint8_t)(n + i);
    for (uint32_t i = 0; i < parent_len; i++)
        parent[i] = (uint8_t)(n * 3 + i);
    memset(scope, (int)n, sizeof scope);
    return (struct event){.kind = (enum event_kind)(n % 4),
                          .ns = (uint32_t)(n % 3 + 1),
                          .hash = {n, ~n},
                          .len = n * 7,
                          .version = n << 32,
                          .when_ms = n + 5,
                          .group = (uint16_t)(n % 16),
                          .cls = (uint8_t)(n % 3),
                          .tier = (uint8_t)(n % 2),
                          .key_len = key_len,
                          .parent_len = parent_len,
                          .page = (uint32_t)n,
                          .token_end = (uint32_t)n + 1,
                          .token_n = (uint32_t)n + 2,
                          .labels = {n % 2 ? n : 0, 0, 0, n % 2 ? 9 : 0},
                          .scope = n % 5 ? NULL : scope,
                          .key = key,
                          .parent = parent};
}

static uint16_t some_len(uint64_t n, uint64_t salt)
{
    uint64_t x = (n + salt) * UINT64_C(0x9e3779b97f4a7c15) >> 40;

    return (uint16_t)(x % 8 ? x % 100 : x % (WIRE_KEY_MAX + 1));
}

/* The event with this seq must be what event(seq, ...) made. */
static void same(uint64_t n, uint16_t key_len, uint16_t parent_len)
{
    struct event want = event(n, key_len, parent_len), got;

    events_get(&r, n, &got);
    ck_assert_uint_eq(got.seq, n);
    ck_assert_int_eq(got.kind, want.kind);
    ck_assert_uint_eq(got.ns, want.ns);
    ck_assert_uint_eq(events_ns(&r, n), want.ns);
    ck_assert_uint_eq(got.hash.lo, want.hash.lo);
    ck_assert_uint_eq(got.hash.hi, want.hash.hi);
    ck_assert_uint_eq(got.len, want.len);
    ck_assert_uint_eq(got.version, want.version);
    ck_assert_uint_eq(got.when_ms, want.when_ms);
    ck_assert_uint_eq(got.group, want.group);
    ck_assert_uint_eq(got.cls, want.cls);
    ck_assert_uint_eq(got.tier, want.tier);
    ck_assert_uint_eq(got.page, want.page);
    ck_assert_uint_eq(got.token_end, want.token_end);
    ck_assert_uint_eq(got.token_n, want.token_n);
    ck_assert_mem_eq(got.labels, want.labels, sizeof got.labels);
    ck_assert(!got.scope == !want.scope);
    if (got.scope)
        ck_assert_mem_eq(got.scope, scope, sizeof scope);
    ck_assert_uint_eq(got.key_len, key_len);
    ck_assert_uint_eq(got.parent_len, parent_len);
    ck_assert(memcmp(got.key, key, key_len) == 0);
    ck_assert(memcmp(got.parent, parent, parent_len) == 0);
}

static void add(uint16_t key_len, uint16_t parent_len)
{
    struct event e = event(r.next, key_len, parent_len);

    events_add(&r, &e);
}

START_TEST(events_come_back_as_they_went_in)
{
    ck_assert_int_eq(events_init(&r, MIB(1)), OK);
    for (uint64_t n = 1; n <= 300; n++)
        add(some_len(n, 0), some_len(n, 7));
    ck_assert_uint_eq(r.first, 1);
    ck_assert_uint_eq(r.next, 301);
    for (uint64_t n = 1; n <= 300; n++)
        same(n, some_len(n, 0), some_len(n, 7));
    events_fini(&r);
}
END_TEST

/* Whatever the sizes: all that is said to be there is whole, and little of the
 * space lies idle. */
START_TEST(the_oldest_are_forgotten_and_no_other)
{
    uint64_t bytes = EVENTS_BYTES_MIN, least = UINT64_MAX;

    ck_assert_int_eq(events_init(&r, bytes), OK);
    for (uint64_t n = 1; n <= 20000; n++) {
        uint64_t held = 0;

        add(some_len(n, 0), some_len(n, 7));
        ck_assert_uint_eq(r.next, n + 1);
        ck_assert_uint_lt(r.first, r.next);
        if (n % 97)
            continue;
        for (uint64_t i = r.first; i < r.next; i++) {
            same(i, some_len(i, 0), some_len(i, 7));
            held += (uint64_t)64 + some_len(i, 0) + some_len(i, 7);
        }
        if (r.first > 1 && held < least)
            least = held;
    }
    ck_assert_uint_gt(r.first, 15000);
    ck_assert_uint_gt(least, bytes / 2);
    events_fini(&r);
}
END_TEST

START_TEST(the_largest_and_the_smallest_fit_the_smallest_ring)
{
    ck_assert_int_eq(events_init(&r, 1), OK);
    ck_assert_uint_eq(r.bytes, EVENTS_BYTES_MIN);
    for (uint64_t n = 1; n <= 500; n++) {
        add(WIRE_KEY_MAX, WIRE_KEY_MAX);
        same(n, WIRE_KEY_MAX, WIRE_KEY_MAX);
    }
    ck_assert_uint_ge(r.next - r.first, EVENTS_BYTES_MIN / 2300);
    for (uint64_t n = 501; n <= 5000; n++)
        add(0, 0);
    for (uint64_t i = r.first; i < r.next; i++)
        same(i, 0, 0);
    ck_assert_uint_ge(r.next - r.first, EVENTS_BYTES_MIN / 112);
    events_fini(&r);
}
END_TEST

START_TEST(a_ring_of_nothing_has_nothing)
{
    ck_assert_int_eq(events_init(&r, 0), OK);
    ck_assert_uint_eq(r.bytes, 0);
    ck_assert_uint_eq(r.first, 1);
    ck_assert_uint_eq(r.next, 1);
    events_fini(&r);
    events_fini(&r); /* zeroed */
}
END_TEST

START_TEST(no_memory_is_an_error_and_leaves_nothing)
{
    uint32_t i = 0;

    do {
        enum err e;

        fault_arm(++i);
        e = events_init(&r, MIB(1));
        ck_assert_int_eq(e, fault_hit() ? ERR_NO_MEMORY : OK);
        if (e)
            ck_assert_ptr_null(r.space);
        events_fini(&r);
    } while (fault_hit());
    fault_arm(0);
    ck_assert_uint_eq(i, 3);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("events");
    TCase *t = tcase_create("ring");

    tcase_add_test(t, events_come_back_as_they_went_in);
    tcase_add_test(t, the_oldest_are_forgotten_and_no_other);
    tcase_add_test(t, the_largest_and_the_smallest_fit_the_smallest_ring);
    tcase_add_test(t, a_ring_of_nothing_has_nothing);
    tcase_add_test(t, no_memory_is_an_error_and_leaves_nothing);
    suite_add_tcase(s, t);
    return s;
}
