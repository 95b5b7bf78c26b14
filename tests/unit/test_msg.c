/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: rpc proto base */
#include "rpc/msg.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static _Alignas(16) uint8_t room[64 << 10];
static struct arena a;

static void setup(void)
{
    arena_init(&a, room, sizeof(room));
}

/* A packed HELLO, in the arena. */
static uint8_t *hello(size_t *len)
{
    Pikv__Hello h;

    pikv__hello__init(&h);
    h.version = 1;
    h.engine = msg_str(&a, "vllm 0.9");
    h.numa_node = -1;
    h.client = 0x1122334455667788;
    return msg_pack(&h.base, &a, len);
}

START_TEST(a_message_comes_back_as_it_was)
{
    size_t len = 0;
    uint8_t *p = hello(&len);
    Pikv__Hello *h = msg_unpack(&pikv__hello__descriptor, &a, p, len);

    ck_assert_ptr_nonnull(h);
    ck_assert_uint_eq(h->version, 1);
    ck_assert_str_eq(h->engine, "vllm 0.9");
    ck_assert_str_eq(h->model, "");
    ck_assert_int_eq(h->numa_node, -1);
    ck_assert_uint_eq(h->client, 0x1122334455667788);
}
END_TEST

START_TEST(an_empty_message_is_all_defaults)
{
    Pikv__Empty empty = PIKV__EMPTY__INIT;
    size_t len = 99;
    Pikv__Hello *h;

    ck_assert_ptr_nonnull(msg_pack(&empty.base, &a, &len));
    ck_assert_uint_eq(len, 0);
    h = msg_unpack(&pikv__hello__descriptor, &a, NULL, 0);
    ck_assert_ptr_nonnull(h);
    ck_assert_uint_eq(h->version, 0);
    ck_assert_str_eq(h->engine, "");
}
END_TEST

/* Field 15 (unknown to Hello) and a field with a number above any of ours. */
START_TEST(unknown_fields_are_skipped)
{
    static const uint8_t newer[] = {0x08, 1, 0x7a, 2, 'x', 'y',
                                    0xb8, 0x3e, 5, 0x28, 7};
    Pikv__Hello *h =
        msg_unpack(&pikv__hello__descriptor, &a, newer, sizeof(newer));

    ck_assert_ptr_nonnull(h);
    ck_assert_uint_eq(h->version, 1);
    ck_assert_uint_eq(h->dp_rank, 7);
}
END_TEST

START_TEST(truncation_at_every_byte_is_refused_or_a_shorter_message)
{
    size_t len = 0, refused = 0;
    uint8_t *p = hello(&len);

    for (size_t n = 0; n < len; n++) {
        size_t used = a.used;
        uint8_t *copy = malloc(n);

        memcpy(copy, p, n);
        refused += !msg_unpack(&pikv__hello__descriptor, &a, copy, n);
        a.used = used;
        free(copy);
    }
    /* Cuts between fields are legal messages: there are five fields. */
    ck_assert_uint_ge(refused, len - 5);
}
END_TEST

/* Whatever the arena's size, the answer is the message or NULL. */
START_TEST(a_full_arena_is_null_and_never_malloc)
{
    size_t len = 0, worked = 0;
    uint8_t *p = hello(&len);

    for (size_t cap = 0; cap < 512; cap++) {
        uint8_t small[512];
        struct arena s;
        Pikv__Hello *h;

        memset(small, 0xee, sizeof(small));
        arena_init(&s, small, cap);
        h = msg_unpack(&pikv__hello__descriptor, &s, p, len);
        ck_assert(!h || (uint8_t *)h >= small);
        ck_assert_uint_le(s.used, cap);
        for (size_t i = cap; i < sizeof(small); i++)
            ck_assert_uint_eq(small[i], 0xee);
        worked += h != NULL;
    }
    ck_assert_uint_gt(worked, 0);
    ck_assert_uint_lt(worked, 512);
}
END_TEST

/* 10,000 empty sub-messages in 20,000 bytes unpack to far more. */
START_TEST(an_amplifying_message_ends_at_the_ceiling)
{
    static uint8_t bomb[20000];

    for (size_t i = 0; i < sizeof(bomb); i += 2) {
        bomb[i] = 0x1a; /* Open.groups, length 0 */
        bomb[i + 1] = 0;
    }
    ck_assert_ptr_null(
        msg_unpack(&pikv__open__descriptor, &a, bomb, sizeof(bomb)));
    ck_assert_uint_le(a.used, a.cap);
    setup();
    ck_assert_ptr_nonnull(msg_unpack(&pikv__open__descriptor, &a, bomb, 200));
}
END_TEST

START_TEST(hostile_lengths_are_refused)
{
    static const uint8_t cases[][8] = {
        {0x1a, 0xff, 0xff, 0xff, 0xff, 0x0f}, /* string of 4 GiB */
        {0x1a, 0x7f, 'x'},                    /* longer than the rest */
        {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, /* endless varint */
        {0x00, 0x01},                         /* field 0 */
        {0x0f},                               /* wire type 7 */
    };
    static const size_t len[] = {6, 3, 8, 2, 1};

    ck_assert_ptr_null(msg_unpack(&pikv__hello__descriptor, &a, cases[_i],
                                  len[_i]));
}
END_TEST

START_TEST(packing_needs_room)
{
    Pikv__Hello h;
    struct arena s;
    size_t len = 7;

    pikv__hello__init(&h);
    h.client = UINT64_MAX;
    arena_init(&s, room, 4);
    ck_assert_ptr_null(msg_pack(&h.base, &s, &len));
    ck_assert_uint_eq(len, 7);
}
END_TEST

START_TEST(strings_are_copied)
{
    struct arena s;
    char text[] = "abc";
    char *p = msg_str(&a, text);

    text[0] = 'x';
    ck_assert_str_eq(p, "abc");
    ck_assert_str_eq(msg_str(&a, NULL), "");
    arena_init(&s, room, 3);
    ck_assert_ptr_null(msg_str(&s, "abc"));
}
END_TEST

Suite *suite(void);

Suite *suite(void)
{
    Suite *s = suite_create("msg");
    TCase *t = tcase_create("msg");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, a_message_comes_back_as_it_was);
    tcase_add_test(t, an_empty_message_is_all_defaults);
    tcase_add_test(t, unknown_fields_are_skipped);
    tcase_add_test(t, truncation_at_every_byte_is_refused_or_a_shorter_message);
    tcase_add_test(t, a_full_arena_is_null_and_never_malloc);
    tcase_add_test(t, an_amplifying_message_ends_at_the_ceiling);
    tcase_add_loop_test(t, hostile_lengths_are_refused, 0, 5);
    tcase_add_test(t, packing_needs_room);
    tcase_add_test(t, strings_are_copied);
    suite_add_tcase(s, t);
    return s;
}
