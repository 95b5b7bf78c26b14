/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: rpc proto base */
#include <check.h>
#include <string.h>

#include "tests/lib/frame_build.h"

START_TEST(batch_counts_must_agree)
{
    struct wire_batch h = head_two;

    put_two();
    ck_assert_int_eq(walk_put(), OK);
    for (uint32_t n = 0; n < 6; n++) {
        h.key_n = n;
        memcpy(b.body, &h, 64);
        ck_assert_int_eq(walk_put(), n == 2 ? OK : ERR_BAD_REQUEST);
    }
    h.key_n = limits.batch_keys + 1;
    memcpy(b.body, &h, 64);
    ck_assert_int_eq(walk_put(), ERR_LIMIT);
    h = head_two;
    h.cols = 1;
    memcpy(b.body, &h, 64);
    ck_assert_int_eq(walk_put(), OK);
    h.cols = 2;
    memcpy(b.body, &h, 64);
    ck_assert_int_eq(walk_put(), ERR_BAD_REQUEST);

    begin(WIRE_REQUEST, OP_PUT);
    ck_assert_int_eq(walk_put(), ERR_BAD_REQUEST);
}
END_TEST

START_TEST(sections_must_be_used_up_exactly)
{
    put_two();
    keys("x", 1);
    ck_assert_int_eq(walk_put(), ERR_BAD_REQUEST);
    put_two();
    b.f.keys_len--;
    b.len--;
    ck_assert_int_eq(walk_put(), ERR_BAD_REQUEST);
    put_two(); /* a record too many, within what attributes may take */
    memmove(b.body + 5 * 64, b.body + 4 * 64, b.f.keys_len);
    b.f.record_n = 5;
    b.len += 64;
    ck_assert_int_eq(walk_put(), ERR_BAD_REQUEST);
}
END_TEST

/* A batch of one key made of these records. */
static enum err one_key(uint16_t op, const struct wire_batch *h,
                        const struct wire_key *k, const struct wire_attr *a,
                        const void *bytes, size_t n)
{
    begin(WIRE_REQUEST, op);
    record(h);
    record(k);
    if (a)
        record(a);
    keys(bytes, n);
    return walk_put();
}

START_TEST(keys_have_1_to_1024_bytes)
{
    static const uint8_t bytes[4096];
    struct wire_batch h = {.key_n = 1};
    struct wire_key k = {.key_len = 1, .len = 1};

    ck_assert_int_eq(one_key(OP_PUT, &h, &k, NULL, bytes, 1), OK);
    k.key_len = 1024;
    ck_assert_int_eq(one_key(OP_PUT, &h, &k, NULL, bytes, 1024), OK);
    k.key_len = 1025;
    ck_assert_int_eq(one_key(OP_PUT, &h, &k, NULL, bytes, 1025), ERR_LIMIT);
    k.key_len = 0;
    ck_assert_int_eq(one_key(OP_PUT, &h, &k, NULL, bytes, 0), ERR_BAD_REQUEST);
    ck_assert_int_eq(one_key(OP_EVICT, &h, &k, NULL, bytes, 0),
                     ERR_BAD_REQUEST);
    h.select = SELECT_SCOPE;
    ck_assert_int_eq(one_key(OP_EVICT, &h, &k, NULL, bytes, 0), OK);
    h.select = 0;
    k = (struct wire_key){.key_len = 1, .route_len = 32, .parent_len = 1024};
    ck_assert_int_eq(one_key(OP_GET, &h, &k, NULL, bytes, 1057), OK);
    k.route_len = 33;
    ck_assert_int_eq(one_key(OP_GET, &h, &k, NULL, bytes, 1058), ERR_LIMIT);
    k.route_len = 32;
    k.parent_len = 1025;
    ck_assert_int_eq(one_key(OP_GET, &h, &k, NULL, bytes, 1058), ERR_LIMIT);
}
END_TEST

START_TEST(ranges_do_not_overflow)
{
    struct wire_batch h = {.key_n = 1};
    struct wire_key k = {.key_len = 1, .off = UINT64_MAX, .len = 1};

    ck_assert_int_eq(one_key(OP_GET, &h, &k, NULL, "k", 1), ERR_BAD_REQUEST);
    k.off = UINT64_MAX - 1;
    ck_assert_int_eq(one_key(OP_GET, &h, &k, NULL, "k", 1), OK);
    k.off = 0;
    k.len = 0;
    ck_assert_int_eq(one_key(OP_GET, &h, &k, NULL, "k", 1), OK);
    ck_assert_int_eq(one_key(OP_PUT, &h, &k, NULL, "k", 1), ERR_BAD_REQUEST);
    k.len = limits.block_bytes;
    ck_assert_int_eq(one_key(OP_PUT, &h, &k, NULL, "k", 1), OK);
    k.len++;
    ck_assert_int_eq(one_key(OP_PUT, &h, &k, NULL, "k", 1), ERR_LIMIT);
    k.off = 1;
    k.len--;
    ck_assert_int_eq(one_key(OP_PUT_WRITE, &h, &k, NULL, "k", 1), ERR_LIMIT);
    k.off = 64; /* of PUT_BEGIN: writers */
    ck_assert_int_eq(one_key(OP_PUT_BEGIN, &h, &k, NULL, "k", 1), OK);
    k.len++;
    ck_assert_int_eq(one_key(OP_PUT_BEGIN, &h, &k, NULL, "k", 1), ERR_LIMIT);
    k.len = 0;
    ck_assert_int_eq(one_key(OP_PUT_BEGIN, &h, &k, NULL, "k", 1),
                     ERR_BAD_REQUEST);
    ck_assert_int_eq(one_key(OP_PUT_WRITE, &h, &k, NULL, "k", 1),
                     ERR_BAD_REQUEST);
    ck_assert_int_eq(one_key(OP_PUT_COMMIT, &h, &k, NULL, "k", 1), OK);
}
END_TEST

START_TEST(segments_must_have_room_and_not_overflow)
{
    struct wire_batch h = {.key_n = 1};
    struct wire_key k = {.key_len = 1, .seg_n = 2, .len = 30};
    uint8_t bytes[1 + 48] = {'k'};
    struct wire_seg s[2] = {{1, 0, 0, 10}, {1, 0, 0, 20}};

    memcpy(bytes + 1, s, 48);
    ck_assert_int_eq(one_key(OP_GET, &h, &k, NULL, bytes, 49), OK);
    k.len = 31;
    ck_assert_int_eq(one_key(OP_GET, &h, &k, NULL, bytes, 49),
                     ERR_BAD_REQUEST);
    ck_assert_int_eq(one_key(OP_GET, &h, &k, NULL, bytes, 25),
                     ERR_BAD_REQUEST);
    k.len = 1;
    s[1].len = UINT64_MAX;
    memcpy(bytes + 1, s, 48);
    ck_assert_int_eq(one_key(OP_GET, &h, &k, NULL, bytes, 49),
                     ERR_BAD_REQUEST);
    s[1] = (struct wire_seg){1, 0, UINT64_MAX, 2};
    memcpy(bytes + 1, s, 48);
    ck_assert_int_eq(one_key(OP_GET, &h, &k, NULL, bytes, 49),
                     ERR_BAD_REQUEST);
}
END_TEST

START_TEST(unknown_bits_and_reserved_bytes_are_ignored)
{
    struct wire_batch h = {.key_n = 1, .flags = 0xffffff00};
    struct wire_key k = {.key_len = 1, .flags = 0xfff0, .len = 1};
    struct wire_attr a = {.flags = 0xff};
    struct wire_column c = {
        .reserved0 = 1, .reserved1 = 2, .reserved2 = {9}};

    ck_assert_int_eq(one_key(OP_PUT, &h, &k, NULL, "k", 1), OK);
    k.flags |= KEY_HAS_ATTR;
    ck_assert_int_eq(one_key(OP_PUT, &h, &k, &a, "k", 1), OK);
    a.place = 3;
    ck_assert_int_eq(one_key(OP_PUT, &h, &k, &a, "k", 1), ERR_BAD_REQUEST);

    begin(WIRE_REQUEST, OP_LOOKUP);
    b.f.flags = 0xfffffffe;
    h.cols = 1;
    k.flags = 0xfff0;
    record(&h);
    record(&c);
    record(&k);
    keys("k", 1);
    ck_assert_int_eq(walk_put(), OK);
}
END_TEST

START_TEST(unknown_enumeration_values_are_refused)
{
    struct wire_batch h = {.key_n = 1, .accept = 2};
    struct wire_key k = {.key_len = 1};

    ck_assert_int_eq(one_key(OP_GET, &h, &k, NULL, "k", 1), ERR_BAD_REQUEST);
    h = (struct wire_batch){.key_n = 1, .select = 6};
    ck_assert_int_eq(one_key(OP_EVICT, &h, &k, NULL, "k", 1), ERR_BAD_REQUEST);
    h.select = 0;
    k.cls = 3;
    ck_assert_int_eq(one_key(OP_EVICT, &h, &k, NULL, "k", 1), ERR_BAD_REQUEST);
    k.cls = 2;
    ck_assert_int_eq(one_key(OP_EVICT, &h, &k, NULL, "k", 1), OK);
}
END_TEST

START_TEST(lookup_is_a_matrix_with_columns)
{
    struct wire_batch h = {.key_n = 4, .cols = 2};
    struct wire_key k = {.key_len = 1};
    struct wire_column c = {.rule = RULE_TRAILING, .trailing = 7};
    struct message m;
    struct batch bt;
    uint32_t n;

    begin(WIRE_REQUEST, OP_LOOKUP);
    record(&h);
    record(&c);
    record(&c);
    for (int i = 0; i < 4; i++)
        record(&k);
    keys("abcd", 4);
    ck_assert_int_eq(walk(&n), OK);
    ck_assert_uint_eq(n, 4);
    ck_assert_int_eq(parse(&m), OK);
    ck_assert_int_eq(batch_read(&m, &limits, &bt), OK);
    ck_assert_mem_eq(bt.columns + 64, &c, 64);
    c.rule = 3;
    memcpy(b.body + 128, &c, 64);
    ck_assert_int_eq(walk(&n), ERR_BAD_REQUEST);
    h.cols = 3;
    memcpy(b.body, &h, 64);
    ck_assert_int_eq(walk(&n), ERR_BAD_REQUEST);
    h.cols = 0;
    memcpy(b.body, &h, 64);
    ck_assert_int_eq(walk(&n), ERR_BAD_REQUEST);
}
END_TEST

START_TEST(replies_hold_one_result_per_key)
{
    struct wire_batch h = {.key_n = 2};
    struct wire_result r = {.status = ERR_MISS, .moved = 5}, got;
    struct message m;
    struct batch bt;

    begin(WIRE_REPLY, OP_GET);
    record(&h);
    record(&r);
    record(&r);
    ck_assert_int_eq(parse(&m), OK);
    ck_assert_int_eq(batch_read(&m, &limits, &bt), OK);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(batch_next_result(&bt, &got), OK);
        ck_assert_mem_eq(&got, &r, sizeof(r));
    }
    ck_assert_int_eq(batch_next_result(&bt, &got), ERR_MISS);
    h.key_n = 3;
    memcpy(b.body, &h, 64);
    ck_assert_int_eq(parse(&m), OK);
    ck_assert_int_eq(batch_read(&m, &limits, &bt), ERR_BAD_REQUEST);
    b.f.status = 1;
    ck_assert_int_eq(parse(&m), ERR_BAD_REQUEST);
}
END_TEST

Suite *suite(void);

Suite *suite(void)
{
    Suite *s = suite_create("frame_batch");
    TCase *t = tcase_create("frame_batch");

    tcase_add_test(t, batch_counts_must_agree);
    tcase_add_test(t, sections_must_be_used_up_exactly);
    tcase_add_test(t, keys_have_1_to_1024_bytes);
    tcase_add_test(t, ranges_do_not_overflow);
    tcase_add_test(t, segments_must_have_room_and_not_overflow);
    tcase_add_test(t, unknown_bits_and_reserved_bytes_are_ignored);
    tcase_add_test(t, unknown_enumeration_values_are_refused);
    tcase_add_test(t, lookup_is_a_matrix_with_columns);
    tcase_add_test(t, replies_hold_one_result_per_key);
    suite_add_tcase(s, t);
    return s;
}
