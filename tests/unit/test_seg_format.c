/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
#include "store/seg_format.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t uuid[16] = "a store's uuid.";
static uint8_t page[SEG_PAGE];
static uint8_t text[WIRE_KEY_MAX];

static void setup(void)
{
    memset(page, 0xee, sizeof(page));
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (uint8_t)(i * 7 + 1);
}

static struct seg_meta meta(uint32_t n)
{
    return (struct seg_meta){
        .key = {.ns = 3,
                .group = 2,
                .cls = CLASS_EXPERT,
                .key_len = (uint16_t)(1 + n),
                .key = text,
                .hash = {n * 11 + 1, n * 13 + 2}},
        .version = 100 + n,
        .ns_generation = 9,
        .len = 4096 + n,
        .crc = 77 + n,
        .born_s = 5,
        .expires_s = n,
    };
}

static void seal(uint32_t record_pages)
{
    seg_group_seal(page, uuid, 42, 1000, 6, record_pages);
}

static enum err parse(struct seg_group *out)
{
    return seg_group_read(page, uuid, 42, 1000, 6, out);
}

/* Makes the crc right again after a test has changed the page. */
static void reseal(size_t crc_at)
{
    uint32_t crc = 0;

    memcpy(page + crc_at, &crc, 4);
    crc = crc32c(0, page, SEG_PAGE);
    memcpy(page + crc_at, &crc, 4);
}

static void set16(size_t at, uint32_t v)
{
    uint16_t x = (uint16_t)v;

    memcpy(page + at, &x, 2);
}

static void set32(size_t at, uint32_t v)
{
    memcpy(page + at, &v, 4);
}

/* Every byte that is changed, in three ways, is noticed by read(). */
static void flip_all(enum err (*read)(void))
{
    static const uint8_t how[] = {1, 0x80, 0xff};

    ck_assert_int_eq(read(), OK);
    for (size_t i = 0; i < SEG_PAGE; i++)
        for (size_t k = 0; k < sizeof(how); k++) {
            page[i] ^= how[k];
            ck_assert_msg(read() != OK, "byte %zu ^ %x", i, how[k]);
            page[i] ^= how[k];
        }
    ck_assert_int_eq(read(), OK);
}

/* ---- superblock */

static void super_page(void)
{
    struct seg_super s = {
        .major = SEG_MAJOR,
        .minor = SEG_MINOR,
        .seq = 3,
        .bytes = MIB(10),
        .segment_bytes = MIB(1),
        .segments = 8,
        .flags = SEG_CLEAN,
        .next_generation = 12,
        .writer = "pikvd 0.1.0",
    };

    memcpy(s.uuid, uuid, 16);
    seg_super_seal(&s);
    memset(page, 0, sizeof(page));
    memcpy(page, &s, sizeof(s));
}

static enum err super_read(void)
{
    struct seg_super s;

    return seg_super_read(page, &s);
}

START_TEST(superblock_comes_back_as_it_was)
{
    struct seg_super s;

    super_page();
    ck_assert_int_eq(seg_super_read(page, &s), OK);
    ck_assert_mem_eq(&s, page, sizeof(s));
    ck_assert_str_eq(s.writer, "pikvd 0.1.0");
}
END_TEST

START_TEST(every_byte_of_a_superblock_counts)
{
    super_page();
    flip_all(super_read);
}
END_TEST

START_TEST(blank_page_is_no_superblock)
{
    memset(page, 0, sizeof(page));
    ck_assert_int_eq(super_read(), ERR_MISS);
}
END_TEST

static enum err super_with(size_t at, uint64_t v, size_t n)
{
    super_page();
    memcpy(page + at, &v, n);
    reseal(offsetof(struct seg_super, crc));
    return super_read();
}

#define SUPER(field, v)                                                        \
    super_with(offsetof(struct seg_super, field), v,                           \
               sizeof(((struct seg_super *)0)->field))

START_TEST(another_major_is_unsupported_but_named)
{
    struct seg_super s;

    ck_assert_int_eq(SUPER(major, 2), ERR_UNSUPPORTED);
    ck_assert_int_eq(seg_super_read(page, &s), ERR_UNSUPPORTED);
    ck_assert_uint_eq(s.major, 2);
    ck_assert_str_eq(s.writer, "pikvd 0.1.0");
    ck_assert_int_eq(SUPER(major, 0), ERR_UNSUPPORTED);
    ck_assert_int_eq(SUPER(flags, 4), ERR_UNSUPPORTED);
    ck_assert_int_eq(SUPER(minor, 7), OK);
}
END_TEST

START_TEST(superblock_that_contradicts_itself_is_corrupt)
{
    ck_assert_int_eq(SUPER(segment_bytes, MIB(1)), OK);
    ck_assert_int_eq(SUPER(segment_bytes, 0), ERR_CORRUPT);
    ck_assert_int_eq(SUPER(segment_bytes, MIB(1) - 4096), ERR_CORRUPT);
    ck_assert_int_eq(SUPER(segment_bytes, MIB(1) + 1), ERR_CORRUPT);
    ck_assert_int_eq(SUPER(segment_bytes, GIB(2)), ERR_CORRUPT);
    ck_assert_int_eq(SUPER(segments, 0), ERR_CORRUPT);
    ck_assert_int_eq(SUPER(segments, 9), ERR_CORRUPT);
    ck_assert_int_eq(SUPER(bytes, MIB(1)), ERR_CORRUPT);
    ck_assert_int_eq(SUPER(bytes, UINT64_MAX), ERR_CORRUPT);
    ck_assert_int_eq(SUPER(seq, 0), ERR_CORRUPT);
    ck_assert_int_eq(SUPER(next_generation, 0), ERR_CORRUPT);
    super_page();
    page[offsetof(struct seg_super, check_generation)] = 1;
    page[offsetof(struct seg_super, check_segment)] = 8;
    reseal(offsetof(struct seg_super, crc));
    ck_assert_int_eq(super_read(), ERR_CORRUPT);
    super_page();
    memset(page + offsetof(struct seg_super, writer), 'x', 64);
    reseal(offsetof(struct seg_super, crc));
    ck_assert_int_eq(super_read(), ERR_CORRUPT);
}
END_TEST

/* ---- head of a segment */

static void head_page(void)
{
    struct seg_head h = {.generation = 42, .segment = 5, .kind = SEG_LOG};

    memcpy(h.uuid, uuid, 16);
    seg_head_seal(&h, page);
}

static enum err head_read(void)
{
    struct seg_head h;

    return seg_head_read(page, uuid, 5, &h);
}

START_TEST(head_says_where_it_belongs)
{
    struct seg_head h;

    head_page();
    ck_assert_int_eq(seg_head_read(page, uuid, 5, &h), OK);
    ck_assert_uint_eq(h.generation, 42);
    ck_assert_uint_eq(h.kind, SEG_LOG);
    ck_assert_int_eq(seg_head_read(page, uuid, 6, &h), ERR_CORRUPT);
    ck_assert_int_eq(
        seg_head_read(page, (const uint8_t *)"another store...", 5, &h),
        ERR_MISS);
    set32(offsetof(struct seg_head, kind), 3);
    reseal(offsetof(struct seg_head, crc));
    ck_assert_int_eq(head_read(), ERR_CORRUPT);
}
END_TEST

START_TEST(every_byte_of_a_head_counts)
{
    head_page();
    flip_all(head_read);
}
END_TEST

/* ---- groups */

START_TEST(records_come_back_as_they_were)
{
    struct wire_attr attr = {.page = 4, .ttl_ms = 7, .label0 = 9};
    struct seg_meta m[3] = {meta(0), meta(1), meta(2)}, got;
    struct seg_group g;
    uint32_t at = 0;

    m[0].len = 8192; /* all of a group take as many pages */
    m[0].key.scope = text + 100;
    m[1].attr = &attr;
    m[1].key.route = text + 50;
    m[1].key.route_len = WIRE_ROUTE_MAX;
    m[2].parent = text + 200;
    m[2].parent_len = 17;
    seg_group_begin(page, SEG_GROUP_RECORDS);
    for (int i = 0; i < 3; i++)
        ck_assert(seg_group_add(page, &m[i]));
    ck_assert_uint_eq(seg_group_count(page), 3);
    seal(2);
    ck_assert_int_eq(parse(&g), OK);
    ck_assert_uint_eq(g.record_n, 3);
    ck_assert_uint_eq(g.pages, 7);
    for (uint32_t i = 0; i < 3; i++) {
        static const uint8_t no_scope[16];

        seg_group_next(page, &at, &got);
        ck_assert_uint_eq(got.key.hash.lo, m[i].key.hash.lo);
        ck_assert_uint_eq(got.key.hash.hi, m[i].key.hash.hi);
        ck_assert_uint_eq(got.key.ns, 3);
        ck_assert_uint_eq(got.key.group, 2);
        ck_assert_uint_eq(got.key.cls, CLASS_EXPERT);
        ck_assert_uint_eq(got.version, 100 + i);
        ck_assert_uint_eq(got.ns_generation, 9);
        ck_assert_uint_eq(got.len, m[i].len);
        ck_assert_uint_eq(got.crc, 77 + i);
        ck_assert_uint_eq(got.born_s, 5);
        ck_assert_uint_eq(got.expires_s, i);
        ck_assert_uint_eq(got.key.key_len, 1 + i);
        ck_assert_mem_eq(got.key.key, text, 1 + i);
        ck_assert_mem_eq(got.key.scope, i ? no_scope : text + 100, 16);
        ck_assert_uint_eq(got.key.route_len, m[i].key.route_len);
        ck_assert_mem_eq(got.key.route, text + 50, m[i].key.route_len);
        ck_assert_uint_eq(got.parent_len, m[i].parent_len);
        ck_assert(!got.parent == !m[i].parent);
        ck_assert(!got.attr == !m[i].attr);
        ck_assert(seg_meta_rich(&got) == (i > 0));
    }
    ck_assert_mem_eq(got.parent, text + 200, 17);
    ck_assert_uint_eq(at, g.bytes);
}
END_TEST

START_TEST(attributes_of_zeros_are_none)
{
    struct wire_attr attr = {0};
    struct seg_meta m = meta(0), got;
    struct seg_group g;
    uint32_t at = 0;

    m.attr = &attr;
    ck_assert(!seg_meta_rich(&m));
    seg_group_begin(page, SEG_GROUP_RECORDS);
    ck_assert(seg_group_add(page, &m));
    seal(1);
    ck_assert_int_eq(parse(&g), OK);
    seg_group_next(page, &at, &got);
    ck_assert_ptr_null(got.attr);
    attr.label3 = 1;
    ck_assert(seg_meta_rich(&m));
}
END_TEST

START_TEST(a_group_takes_so_many_records_and_no_more)
{
    struct seg_meta m = meta(0);
    struct seg_group g;
    uint32_t n = 0;

    seg_group_begin(page, SEG_GROUP_RECORDS);
    while (seg_group_add(page, &m))
        n++;
    ck_assert_uint_eq(n, SEG_RECORDS);
    ck_assert_uint_eq(seg_group_count(page), n);
    seal(1);
    ck_assert_int_eq(parse(&g), OK);
}
END_TEST

START_TEST(the_largest_record_fits_and_a_second_does_not)
{
    struct wire_attr attr = {.page = 1};
    struct seg_meta m = meta(0), got;
    struct seg_group g;
    uint32_t at = 0;

    m.key.key_len = WIRE_KEY_MAX;
    m.key.scope = text + 1;
    m.key.route = text;
    m.key.route_len = WIRE_ROUTE_MAX;
    m.parent = text;
    m.parent_len = WIRE_KEY_MAX;
    m.attr = &attr;
    seg_group_begin(page, SEG_GROUP_RECORDS);
    ck_assert(seg_group_add(page, &m));
    ck_assert(!seg_group_add(page, &m));
    seal(1);
    ck_assert_int_eq(parse(&g), OK);
    seg_group_next(page, &at, &got);
    ck_assert_mem_eq(got.key.key, text, WIRE_KEY_MAX);
    ck_assert_mem_eq(got.parent, text, WIRE_KEY_MAX);
    ck_assert_mem_eq(got.key.scope, text + 1, 16);
}
END_TEST

START_TEST(tombs_come_back_as_they_were)
{
    struct seg_group g;
    struct seg_tomb t;
    uint32_t n = 0, at = 0;

    seg_group_begin(page, SEG_GROUP_TOMBS);
    for (t = (struct seg_tomb){{1, 2}, 3, 4, 5, 0};
         seg_group_add_tomb(page, &t); n++)
        t.version++;
    ck_assert_uint_eq(n, (SEG_PAGE - 64) / 40);
    seal(0);
    ck_assert_int_eq(parse(&g), OK);
    ck_assert_uint_eq(g.kind, SEG_GROUP_TOMBS);
    ck_assert_uint_eq(g.pages, 1);
    for (uint32_t i = 0; i < n; i++) {
        seg_group_next_tomb(page, &at, &t);
        ck_assert_uint_eq(t.version, 3 + i);
        ck_assert_uint_eq(t.hash.hi, 2);
        ck_assert_uint_eq(t.ns_generation, 4);
        ck_assert_uint_eq(t.ns, 5);
    }
}
END_TEST

static enum err group_read(void)
{
    struct seg_group g;

    return parse(&g);
}

static void group_page(void)
{
    struct seg_meta m = meta(0);

    m.parent = text;
    m.parent_len = 5;
    seg_group_begin(page, SEG_GROUP_RECORDS);
    ck_assert(seg_group_add(page, &m));
    ck_assert(seg_group_add(page, &m));
    seal(1);
}

START_TEST(every_byte_of_a_group_header_counts)
{
    struct seg_tomb t = {{1, 2}, 3, 4, 5, 0};

    group_page();
    flip_all(group_read);
    seg_group_begin(page, SEG_GROUP_TOMBS);
    ck_assert(seg_group_add_tomb(page, &t));
    seal(0);
    flip_all(group_read);
}
END_TEST

START_TEST(a_header_is_believed_only_where_it_belongs)
{
    struct seg_group g;

    group_page();
    ck_assert_int_eq(seg_group_read(page, uuid, 42, 1000, UINT32_MAX, &g), OK);
    ck_assert_int_eq(seg_group_read(page, uuid, 41, 1000, 6, &g), ERR_MISS);
    ck_assert_int_eq(seg_group_read(page, uuid, 43, 1000, 6, &g), ERR_MISS);
    ck_assert_int_eq(seg_group_read(page, uuid, 42, 1001, 6, &g), ERR_CORRUPT);
    ck_assert_int_eq(seg_group_read(page, uuid, 42, 1000, 7, &g), ERR_CORRUPT);
    ck_assert_int_eq(seg_group_read(page, (const uint8_t *)"0123456789abcdef",
                                    42, 1000, 6, &g),
                     ERR_MISS);
}
END_TEST

/* A well-sealed header with one field that lies. */
static enum err lie(bool record, size_t at, size_t n, uint32_t v)
{
    group_page();
    at += record ? sizeof(struct seg_group) : 0;
    if (n == 1)
        page[at] = (uint8_t)v;
    else if (n == 2)
        set16(at, v);
    else
        set32(at, v);
    reseal(offsetof(struct seg_group, crc));
    return group_read();
}

#define GROUP(field, v)                                                        \
    lie(false, offsetof(struct seg_group, field),                              \
        sizeof(((struct seg_group *)0)->field), v)
#define RECORD_(field, v)                                                      \
    lie(true, offsetof(struct seg_record, field),                              \
        sizeof(((struct seg_record *)0)->field), v)

START_TEST(hostile_lengths_of_a_group_are_refused)
{
    static const uint32_t values[] = {
        0, 1, 2, 3, 31, 32, 33, 63, 64, 80, 4095, 4096, 65535, UINT32_MAX};
    struct seg_group g;

    ck_assert_int_eq(GROUP(record_n, 2), OK);
    group_page();
    ck_assert_int_eq(parse(&g), OK);
    for (size_t i = 0; i < countof(values); i++) {
        uint32_t v = values[i];

        if (v != g.pages)
            ck_assert_int_eq(GROUP(pages, v), ERR_CORRUPT);
        if (v != g.record_pages)
            ck_assert_int_eq(GROUP(record_pages, v), ERR_CORRUPT);
        if (v != g.record_n)
            ck_assert_int_eq(GROUP(record_n, v), ERR_CORRUPT);
        if ((uint16_t)v != g.bytes)
            ck_assert_int_eq(GROUP(bytes, v), ERR_CORRUPT);
        if (v != g.kind)
            ck_assert_int_eq(GROUP(kind, v), ERR_CORRUPT);
    }
}
END_TEST

START_TEST(hostile_lengths_of_a_record_are_refused)
{
    static const uint32_t values[] = {0,    8,    63,   79,    80,    81,  88,
                                      1023, 1025, 4000, 65528, 65535, 255, 3};

    ck_assert_int_eq(RECORD_(key_len, 1), OK);
    for (size_t i = 0; i < countof(values); i++) {
        uint32_t v = values[i];

        if (v != 88) /* what it is */
            ck_assert_int_eq(RECORD_(bytes, v), ERR_CORRUPT);
        if (v != 3) /* as long as it fits the padding, it is as good */
            ck_assert_int_eq(RECORD_(key_len, v), ERR_CORRUPT);
        if (v != 0 && v != 3)
            ck_assert_int_eq(RECORD_(parent_len, v), ERR_CORRUPT);
        if (v > 2 && v != 3)
            ck_assert_int_eq(RECORD_(route_len, v ? 33 : 0), ERR_CORRUPT);
        ck_assert_int_eq(RECORD_(len, v), ERR_CORRUPT);
        ck_assert_int_eq(RECORD_(stored_len, v), ERR_CORRUPT);
        ck_assert_int_eq(RECORD_(stored_crc, v), ERR_CORRUPT);
    }
    ck_assert_int_eq(RECORD_(flags, 1), ERR_CORRUPT);
    ck_assert_int_eq(RECORD_(flags, 2), ERR_CORRUPT);
    ck_assert_int_eq(RECORD_(flags, 4), ERR_CORRUPT);
    ck_assert_int_eq(RECORD_(codec, 1), ERR_CORRUPT);
}
END_TEST

START_TEST(a_record_of_another_size_class_is_refused)
{
    group_page();
    set32(64 + offsetof(struct seg_record, len), 4097);
    set32(64 + offsetof(struct seg_record, stored_len), 4097);
    reseal(offsetof(struct seg_group, crc));
    ck_assert_int_eq(group_read(), ERR_CORRUPT);
}
END_TEST

START_TEST(the_header_of_a_payload_can_be_computed)
{
    struct seg_place p = {.page = 1000 + 1 + 3 * 5, .tag = seg_tag(6, 3)};

    ck_assert_uint_eq(seg_dev(p.tag), 6);
    ck_assert_uint_eq(seg_idx(p.tag), 3);
    ck_assert_uint_eq(seg_pages(1), 1);
    ck_assert_uint_eq(seg_pages(4096), 1);
    ck_assert_uint_eq(seg_pages(4097), 2);
    ck_assert_uint_eq(seg_header_page(p, 5 * 4096 - 1), 1000);
}
END_TEST

/* ---- checkpoint */

static enum err check_page_read(void)
{
    uint32_t n;

    return seg_check_read(page, 42, 1000, &n);
}

START_TEST(checkpoint_pages_are_checked)
{
    uint32_t n = 0;

    memset(page, 0, sizeof(page));
    seg_check_seal(page, 42, 1000, SEG_CHECK_RECORDS);
    ck_assert_int_eq(seg_check_read(page, 42, 1000, &n), OK);
    ck_assert_uint_eq(n, SEG_CHECK_RECORDS);
    ck_assert_int_eq(seg_check_read(page, 41, 1000, &n), ERR_MISS);
    ck_assert_int_eq(seg_check_read(page, 42, 1001, &n), ERR_CORRUPT);
    flip_all(check_page_read);
    set16(offsetof(struct seg_check_page, record_n), SEG_CHECK_RECORDS + 1);
    reseal(offsetof(struct seg_check_page, crc));
    ck_assert_int_eq(check_page_read(), ERR_CORRUPT);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("seg_format");
    TCase *t = tcase_create("pages");

    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, superblock_comes_back_as_it_was);
    tcase_add_test(t, every_byte_of_a_superblock_counts);
    tcase_add_test(t, blank_page_is_no_superblock);
    tcase_add_test(t, another_major_is_unsupported_but_named);
    tcase_add_test(t, superblock_that_contradicts_itself_is_corrupt);
    tcase_add_test(t, head_says_where_it_belongs);
    tcase_add_test(t, every_byte_of_a_head_counts);
    tcase_add_test(t, records_come_back_as_they_were);
    tcase_add_test(t, attributes_of_zeros_are_none);
    tcase_add_test(t, a_group_takes_so_many_records_and_no_more);
    tcase_add_test(t, the_largest_record_fits_and_a_second_does_not);
    tcase_add_test(t, tombs_come_back_as_they_were);
    tcase_add_test(t, every_byte_of_a_group_header_counts);
    tcase_add_test(t, a_header_is_believed_only_where_it_belongs);
    tcase_add_test(t, hostile_lengths_of_a_group_are_refused);
    tcase_add_test(t, hostile_lengths_of_a_record_are_refused);
    tcase_add_test(t, a_record_of_another_size_class_is_refused);
    tcase_add_test(t, the_header_of_a_payload_can_be_computed);
    tcase_add_test(t, checkpoint_pages_are_checked);
    suite_add_tcase(s, t);
    return s;
}
