/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: rpc proto base */
#include "rpc/frame.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/* A message under construction: frame | records | keys | env | data. */
struct build {
    struct wire_frame f;
    _Alignas(8) uint8_t body[64 << 10];
    size_t len; /* of body, data included */
};

static const struct frame_limits limits = {
    .message_bytes = 32 << 10,
    .batch_keys = 64,
    .inline_bytes = 8192,
    .block_bytes = 1 << 20,
};

static struct build b;

static void seal(void)
{
    frame_seal(&b.f, b.body, frame_body_len(&b.f));
}

static void begin(enum wire_kind kind, uint16_t op)
{
    memset(&b, 0, sizeof(b));
    b.f.kind = (uint8_t)kind;
    b.f.op = op;
    b.f.req = 77;
    b.f.deadline_us = kind == WIRE_REQUEST ? 1000 : 0;
}

static void append(const void *p, size_t n)
{
    memcpy(b.body + b.len, p, n);
    b.len += n;
}

static void record(const void *p)
{
    append(p, WIRE_RECORD);
    b.f.record_n++;
}

static void keys(const void *p, size_t n)
{
    append(p, n);
    b.f.keys_len += (uint32_t)n;
}

static enum err parse(struct message *m)
{
    seal();
    return frame_read(&b.f, b.body, b.len, &limits, m);
}

/* A PUT of two keys: "alpha" with attributes, route "r", parent "pp" and two
 * segments; "beta" plain. */
static struct wire_batch head_two = {.ns = 3, .generation = 9, .key_n = 2};
static struct wire_key key_a = {
    .key_len = 5,
    .route_len = 1,
    .cls = CLASS_EXPERT,
    .group = 4,
    .flags = KEY_HAS_ATTR | KEY_CRC,
    .parent_len = 2,
    .seg_n = 2,
    .crc = 0x1234,
    .len = 3000,
};
static struct wire_key key_b = {.key_len = 4, .len = 64};
static struct wire_attr attr_a = {.page = 6, .priority = 200, .label2 = 42};
static struct wire_seg segs_a[2] = {{.mem = 1, .off = 10, .len = 1000},
                                    {.mem = 2, .off = 0, .len = 2000}};

static void put_two(void)
{
    begin(WIRE_REQUEST, OP_PUT);
    record(&head_two);
    record(&key_a);
    record(&attr_a);
    record(&key_b);
    keys("alpha" "r" "pp", 8);
    keys(segs_a, sizeof(segs_a));
    keys("beta", 4);
}

/* The first error of reading the whole batch, or OK. */
static enum err walk(uint32_t *n_out)
{
    struct message m;
    struct batch bt;
    struct key_ref k;
    enum err e = parse(&m);

    *n_out = 0;
    if (!e)
        e = batch_read(&m, &limits, &bt);
    while (!e && (e = batch_next(&bt, &limits, &k)) == OK)
        (*n_out)++;
    return e == ERR_MISS ? OK : e;
}

static enum err walk_put(void)
{
    uint32_t n;

    return walk(&n);
}

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
    tcase_add_test(t, batch_counts_must_agree);
    tcase_add_test(t, sections_must_be_used_up_exactly);
    tcase_add_test(t, keys_have_1_to_1024_bytes);
    tcase_add_test(t, ranges_do_not_overflow);
    tcase_add_test(t, segments_must_have_room_and_not_overflow);
    tcase_add_test(t, unknown_bits_and_reserved_bytes_are_ignored);
    tcase_add_test(t, unknown_enumeration_values_are_refused);
    tcase_add_test(t, lookup_is_a_matrix_with_columns);
    tcase_add_test(t, replies_hold_one_result_per_key);
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    return s;
}
