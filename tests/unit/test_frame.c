/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: rpc proto base */
#include "rpc/frame.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "tests/lib/frame_build.h"

START_TEST(golden_bytes_of_version_1)
{
    static const uint8_t golden[64] = {
        'P', 'I', 'K', 'V', 1, 1, 11, 0, 8, 7, 6, 5, 4, 3, 2, 1,
        1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0xc3, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x3b, 0x8f, 0x3e,
    };
    uint8_t body[67];

    memset(body, 0xab, sizeof(body));
    begin(WIRE_REQUEST, OP_GET);
    b.f.req = 0x0102030405060708;
    b.f.record_n = 1;
    b.f.keys_len = 3;
    b.f.flags = FRAME_SPINS;
    b.f.deadline_us = 50000;
    frame_seal(&b.f, body, sizeof(body));
    ck_assert_mem_eq(&b.f, golden, 60);
    ck_assert_uint_eq(b.f.crc, crc32c(crc32c(0, golden, 60), body, 67));
    ck_assert_mem_eq(&b.f, golden, 64);
}
END_TEST

START_TEST(a_message_comes_back_as_it_was)
{
    struct message m;
    struct batch bt;
    struct key_ref k;

    put_two();
    ck_assert_int_eq(parse(&m), OK);
    ck_assert_uint_eq(m.frame.req, 77);
    ck_assert_ptr_null(m.data);
    ck_assert_int_eq(batch_read(&m, &limits, &bt), OK);
    ck_assert_uint_eq(bt.head.ns, 3);
    ck_assert_uint_eq(bt.head.generation, 9);
    ck_assert_ptr_null(bt.columns);

    ck_assert_int_eq(batch_next(&bt, &limits, &k), OK);
    ck_assert_mem_eq(&k.rec, &key_a, sizeof(key_a));
    ck_assert_mem_eq(k.key, "alpha", 5);
    ck_assert_uint_eq(k.route_len, 1);
    ck_assert_mem_eq(k.route, "r", 1);
    ck_assert_mem_eq(k.parent, "pp", 2);
    ck_assert(k.has_attr);
    ck_assert_mem_eq(&k.attr, &attr_a, sizeof(attr_a));
    for (uint32_t i = 0; i < 2; i++) {
        struct wire_seg s = seg_at(&k, i);

        ck_assert_mem_eq(&s, &segs_a[i], sizeof(s));
    }

    ck_assert_int_eq(batch_next(&bt, &limits, &k), OK);
    ck_assert_mem_eq(k.key, "beta", 4);
    ck_assert_ptr_eq(k.route, k.key);
    ck_assert_uint_eq(k.route_len, 4);
    ck_assert_ptr_null(k.parent);
    ck_assert(!k.has_attr);
    ck_assert_int_eq(batch_next(&bt, &limits, &k), ERR_MISS);
}
END_TEST

START_TEST(envelope_and_data_lie_behind_the_keys)
{
    struct message m;

    begin(WIRE_REQUEST, OP_PUT);
    record(&head_two);
    keys("kk", 2);
    append("env", 3);
    b.f.env_len = 3;
    append("data!", 5);
    b.f.data_len = 5;
    ck_assert_int_eq(parse(&m), OK);
    ck_assert_mem_eq(m.keys, "kk", 2);
    ck_assert_mem_eq(m.env, "env", 3);
    ck_assert_mem_eq(m.data, "data!", 5);
    m.data = NULL;
    b.body[b.len - 1] ^= 1; /* data is not under the frame's crc */
    ck_assert_int_eq(frame_read(&b.f, b.body, b.len, &limits, &m), OK);
}
END_TEST

START_TEST(an_empty_body_needs_no_pointer)
{
    struct message m;

    begin(WIRE_REQUEST, OP_PING);
    seal();
    ck_assert_int_eq(frame_read(&b.f, NULL, 0, &limits, &m), OK);
    ck_assert_ptr_nonnull(m.records);
    ck_assert_ptr_null(m.data);
}
END_TEST

/* One wrong frame field per row; the error, and whether it can be answered. */
static const struct {
    const char *what;
    size_t off, len;
    uint64_t value;
    enum err e;
    bool answer;
} bad_fields[] = {
    {"magic", 0, 4, 0x564b4951, ERR_BAD_REQUEST, false},
    {"version 0", 4, 1, 0, ERR_BAD_VERSION, true},
    {"version 2", 4, 1, 2, ERR_BAD_VERSION, true},
    {"kind 0", 5, 1, 0, ERR_BAD_REQUEST, true},
    {"kind 5", 5, 1, 5, ERR_BAD_REQUEST, true},
    {"op 0", 6, 2, 0, ERR_BAD_REQUEST, true},
    {"op unknown", 6, 2, OP_N, ERR_UNSUPPORTED, true},
    {"op 65535", 6, 2, 65535, ERR_UNSUPPORTED, true},
    {"req 0", 8, 8, 0, ERR_BAD_REQUEST, true},
    {"record_n more than there are", 16, 4, 5, ERR_BAD_REQUEST, false},
    {"record_n huge", 16, 4, UINT32_MAX, ERR_BAD_REQUEST, false},
    {"keys_len more", 20, 4, 61, ERR_BAD_REQUEST, false},
    {"keys_len less", 20, 4, 59, ERR_BAD_REQUEST, false},
    {"env_len more", 24, 4, 1, ERR_BAD_REQUEST, false},
    {"env_len huge", 24, 4, UINT32_MAX, ERR_BAD_REQUEST, false},
    {"data_len without data", 32, 8, 1, ERR_BAD_REQUEST, false},
    {"data_len huge", 32, 8, UINT64_MAX, ERR_BAD_REQUEST, false},
    {"deadline 0", 40, 4, 0, ERR_BAD_REQUEST, true},
};

START_TEST(each_bad_field_has_its_error)
{
    struct message m;

    put_two();
    memcpy((uint8_t *)&b.f + bad_fields[_i].off, &bad_fields[_i].value,
           bad_fields[_i].len);
    if (frame_body_len(&b.f) <= sizeof(b.body)) {
        uint32_t magic = b.f.magic, version = b.f.version;

        frame_seal(&b.f, b.body, frame_body_len(&b.f));
        if (bad_fields[_i].off == 0)
            b.f.magic = magic;
        if (bad_fields[_i].off == 4)
            b.f.version = (uint8_t)version;
        b.f.crc = crc32c(crc32c(0, &b.f, 60), b.body, frame_body_len(&b.f));
    }
    ck_assert_int_eq(frame_read(&b.f, b.body, b.len, &limits, &m),
                     bad_fields[_i].e);
    ck_assert_uint_eq(m.frame.req,
                      bad_fields[_i].answer && bad_fields[_i].off != 8 ? 77
                                                                       : 0);
    ck_assert_ptr_null(m.records);
}
END_TEST

START_TEST(sizes_beyond_the_limits_are_refused)
{
    struct frame_limits l = limits;
    struct message m;

    put_two();
    seal();
    l.message_bytes = (uint32_t)(64 + b.len);
    ck_assert_int_eq(frame_read(&b.f, b.body, b.len, &l, &m), OK);
    l.message_bytes--;
    ck_assert_int_eq(frame_read(&b.f, b.body, b.len, &l, &m), ERR_LIMIT);
    ck_assert_uint_eq(m.frame.req, 77);

    append("12345", 5);
    b.f.data_len = 5;
    seal();
    l = limits;
    l.inline_bytes = 5;
    ck_assert_int_eq(frame_read(&b.f, b.body, b.len, &l, &m), OK);
    l.inline_bytes = 4;
    ck_assert_int_eq(frame_read(&b.f, b.body, b.len, &l, &m), ERR_LIMIT);
}
END_TEST

START_TEST(msg_operations_have_no_records)
{
    struct message m;

    begin(WIRE_REQUEST, OP_HELLO);
    append("e", 1);
    b.f.env_len = 1;
    ck_assert_int_eq(parse(&m), OK);
    begin(WIRE_REQUEST, OP_HELLO);
    record(&head_two);
    ck_assert_int_eq(parse(&m), ERR_BAD_REQUEST);
    begin(WIRE_REQUEST, OP_HELLO);
    keys("k", 1);
    ck_assert_int_eq(parse(&m), ERR_BAD_REQUEST);
}
END_TEST

START_TEST(data_messages_come_with_their_bytes_or_before_them)
{
    struct message m;

    begin(WIRE_DATA, OP_PUT);
    append("0123456789", 10);
    b.f.data_len = 10;
    b.f.data_off = limits.block_bytes - 10;
    b.f.data_idx = 63;
    ck_assert_int_eq(parse(&m), OK);
    ck_assert_mem_eq(m.data, "0123456789", 10);
    ck_assert_int_eq(frame_read(&b.f, NULL, 0, &limits, &m), OK);
    ck_assert_ptr_null(m.data);
    ck_assert_int_eq(frame_read(&b.f, b.body, 9, &limits, &m),
                     ERR_BAD_REQUEST);
    b.f.data_off++;
    ck_assert_int_eq(parse(&m), ERR_LIMIT);
    b.f.data_off = UINT64_MAX;
    ck_assert_int_eq(parse(&m), ERR_LIMIT);
    b.f.data_off = 0;
    b.f.data_idx = 64;
    ck_assert_int_eq(parse(&m), ERR_LIMIT);
    b.f.data_idx = 0;
    b.f.record_n = 0;
    b.f.keys_len = 1;
    b.f.data_len = 9;
    ck_assert_int_eq(parse(&m), ERR_BAD_REQUEST);
}
END_TEST

START_TEST(truncation_at_every_byte_is_refused)
{
    struct message m;

    put_two();
    seal();
    for (size_t n = 0; n < b.len; n++) {
        uint8_t *copy = malloc(n); /* so that an overrun is seen */

        memcpy(copy, b.body, n);
        ck_assert_int_eq(frame_read(&b.f, copy, n, &limits, &m),
                         ERR_BAD_REQUEST);
        ck_assert_uint_eq(m.frame.req, 0);
        free(copy);
    }
    ck_assert_int_eq(frame_read(&b.f, b.body, b.len + 1, &limits, &m),
                     ERR_BAD_REQUEST);
}
END_TEST

START_TEST(every_flipped_bit_is_refused)
{
    struct message m;

    put_two();
    seal();
    for (size_t bit = 0; bit < 8 * (64 + b.len); bit++) {
        uint8_t *at = bit < 512 ? (uint8_t *)&b.f + bit / 8
                                : b.body + bit / 8 - 64;

        *at ^= (uint8_t)(1 << bit % 8);
        ck_assert_int_ne(frame_read(&b.f, b.body, b.len, &limits, &m), OK);
        ck_assert_uint_eq(m.frame.req, 0);
        *at ^= (uint8_t)(1 << bit % 8);
    }
    ck_assert_int_eq(frame_read(&b.f, b.body, b.len, &limits, &m), OK);
}
END_TEST

static uint64_t rnd_state = 0x9e3779b97f4a7c15;

static uint32_t rnd(uint32_t n)
{
    rnd_state = rnd_state * 6364136223846793005 + 1442695040888963407;
    return (uint32_t)(rnd_state >> 33) % n;
}

/* Messages with a right magic and crc, so that all of the parser is reached:
 * random records, or a good batch with a few bytes changed. Whatever the parser
 * says, it stays inside the buffers (ASan). */
static void random_message(void)
{
    if (rnd(2)) {
        begin(WIRE_REQUEST, (uint16_t)(1 + rnd(OP_N)));
        for (size_t j = 0; j < 320; j++)
            b.body[j] = (uint8_t)(rnd(4) ? rnd(6) : rnd(256));
        b.f.record_n = rnd(6);
        b.f.keys_len = rnd(40);
        b.len = frame_body_len(&b.f);
    } else {
        put_two();
        for (uint32_t j = rnd(4); j > 0; j--)
            b.body[rnd((uint32_t)b.len)] = (uint8_t)rnd(256);
    }
    if (rnd(4) == 0)
        ((uint8_t *)&b.f)[rnd(64)] = (uint8_t)rnd(256);
}

START_TEST(a_hundred_thousand_random_messages_are_survived)
{
    struct message m;
    uint32_t n, accepted = 0, refused = 0;

    for (int i = 0; i < 100000; i++) {
        bool good;

        random_message();
        if (frame_body_len(&b.f) > sizeof(b.body)) {
            ck_assert_int_ne(frame_read(&b.f, b.body, b.len, &limits, &m), OK);
            continue;
        }
        good = walk(&n) == OK;
        accepted += good;
        refused += !good;
    }
    ck_assert_uint_gt(accepted, 1000);
    ck_assert_uint_gt(refused, 1000);
}
END_TEST

Suite *suite(void);

Suite *suite(void)
{
    Suite *s = suite_create("frame");
    TCase *t = tcase_create("frame");

    tcase_add_test(t, golden_bytes_of_version_1);
    tcase_add_test(t, a_message_comes_back_as_it_was);
    tcase_add_test(t, envelope_and_data_lie_behind_the_keys);
    tcase_add_test(t, an_empty_body_needs_no_pointer);
    tcase_add_loop_test(t, each_bad_field_has_its_error, 0,
                        (int)countof(bad_fields));
    tcase_add_test(t, sizes_beyond_the_limits_are_refused);
    tcase_add_test(t, msg_operations_have_no_records);
    tcase_add_test(t, data_messages_come_with_their_bytes_or_before_them);
    tcase_add_test(t, truncation_at_every_byte_is_refused);
    tcase_add_test(t, every_flipped_bit_is_refused);
    tcase_add_test(t, a_hundred_thousand_random_messages_are_survived);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    return s;
}
