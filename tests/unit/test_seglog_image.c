/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto
 *
 * Damaged images and other people's: whatever lies on the device, an open ends
 * with a log that serves only what was put, or is refused with words.
 * IMAGES=n: images with random damage. FLIPS=1: every byte of every metadata
 * page is flipped. CUTS=1: a closed image, too, is cut at every sector. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/logrig.h"
#include "tests/lib/sure.h"

static struct rig writer;

/* ---- one good image, damaged and put right again */

static uint8_t *base; /* the good one */

struct range {
    uint64_t off, len;
};
static struct range hurt[64];
static uint32_t hurt_n;

static uint8_t *hurt_at(uint64_t off, uint64_t len)
{
    MUST(hurt_n < countof(hurt) && off + len <= RIG_BYTES);
    hurt[hurt_n++] = (struct range){off, len};
    return rig_scratch->image[0] + off;
}

static void heal(void)
{
    while (hurt_n > 0) {
        hurt_n--;
        rig_page_back(base, hurt[hurt_n].off, hurt[hurt_n].len);
    }
    rig_meta_back(base);
}

/* Blocks, some dropped, over most of the device; closed in order or not. */
static void make_base(bool close)
{
    struct mem_media *m = mem_media_new(1, RIG_BYTES, true);

    rig_begin(&writer, m);
    rig_work(&writer, &(struct rig_work){90, 90000, 20, 25, 8});
    rig_go(&writer, UINT32_MAX);
    if (close)
        rig_finish(&writer, true);
    base = malloc(RIG_BYTES);
    MUST(base);
    memcpy(base, m->image[0], RIG_BYTES);
    rig_page_back(base, 0, RIG_BYTES);
    rig_fini(&writer);
    mem_media_free(m);
}

static uint32_t served, refused;

/* Whatever happened to it: it opens or is refused with words, and what it
 * reports is what was put (the callbacks look). */
static void check_damaged(const char *what, uint64_t at)
{
    static struct rig r;

    rig_init(&r, rig_scratch, 0);
    rig_open(&r, SEGLOG_OPEN_OR_FORMAT);
    if (r.err == OK) {
        seglog_check(r.g);
        for (uint32_t k = 0; k < RIG_KEYS; k++)
            served += rig_alive(&r, k) && rig_intact(&r, k);
    } else {
        SURE_MSG(r.err == ERR_CORRUPT || r.err == ERR_CONFIG, "%s %lu: %d %s",
                 what, at, r.err, r.msg.text);
        SURE_MSG(memcmp(rig_scratch->image[0], base, SEG_PAGE) &&
                     memcmp(rig_scratch->image[0] + SEG_SUPER_B,
                            base + SEG_SUPER_B, SEG_PAGE),
                 "%s %lu: refused with a good superblock", what, at);
        SURE(r.msg.text[0]);
        refused++;
    }
    rig_images++;
    rig_fini(&r);
}

static void damage_end(void)
{
    printf("%lu images, %u refused, %u blocks served\n", rig_images, refused,
           served);
    SURE(served >= rig_images / 100);
    free(base);
    base = NULL;
    served = refused = 0;
}

static void cut_run(bool close, uint32_t stride)
{
    make_base(close);
    for (uint64_t cut = RIG_BYTES - 512; cut > 0; cut -= 512) {
        memset(rig_scratch->image[0] + cut, 0, 512);
        if (cut / 512 % stride)
            continue;
        check_damaged("cut", cut);
        for (uint64_t off = 0; off < cut; off += SEG_PAGE)
            if (off == 0 || off == SEG_SUPER_B ||
                (off >= SEG_DATA && (off - SEG_DATA) % RIG_SEGMENT == 0))
                rig_page_back(base, off, min_u64(SEG_PAGE, cut - off));
        if (cut % RIG_SEGMENT < SEG_PAGE)
            memset(rig_scratch->image[0] + cut, 0,
                   SEG_PAGE - cut % SEG_PAGE); /* a head was written */
    }
    SURE(rig_images >= RIG_BYTES / 512 / stride - 1);
    damage_end();
}

START_TEST(an_image_cut_at_any_sector_opens)
{
    cut_run(false, 1);
}
END_TEST

START_TEST(a_closed_image_cut_at_any_sector_opens)
{
    cut_run(true, rig_setting("CUTS", 7, 41));
}
END_TEST

static bool is_meta(uint64_t off)
{
    static const uint64_t magics[] = {SEG_MAGIC_SUPER, SEG_MAGIC_HEAD,
                                      SEG_MAGIC_GROUP, SEG_MAGIC_CHECK};

    for (size_t i = 0; i < countof(magics); i++)
        if (memcmp(base + off, &magics[i], 8) == 0)
            return true;
    return false;
}

static void flip_run(bool close)
{
    uint64_t step = rig_setting("FLIPS", 97, 499);

    make_base(close);
    for (uint64_t page = 0; page < RIG_BYTES; page += SEG_PAGE)
        for (uint64_t i = is_meta(page) ? chance((uint32_t)step)
                                        : SEG_PAGE * (chance(61) > 0);
             i < SEG_PAGE; i += is_meta(page) ? step : 997) {
            *hurt_at(page + i, 1) ^= (uint8_t)(1 << chance(8));
            check_damaged("flip", page + i);
            heal();
        }
    SURE(refused == 0);
    damage_end();
}

START_TEST(an_image_with_a_byte_flipped_opens)
{
    flip_run(false);
}
END_TEST

START_TEST(a_closed_image_with_a_byte_flipped_opens)
{
    flip_run(true);
}
END_TEST

static uint64_t sector(void)
{
    /* Half of them where it hurts most. */
    for (uint32_t n = 0; chance(2) && n < 100; n++) {
        uint64_t page = (uint64_t)chance(RIG_BYTES / SEG_PAGE) * SEG_PAGE;

        if (is_meta(page))
            return page + 512 * (uint64_t)chance(8);
    }
    return (uint64_t)chance(RIG_BYTES / 512) * 512;
}

static void damage_once(void)
{
    uint64_t len = 512 * (uint64_t)(1 + chance(16)), a = sector(), b = sector(),
             to = (uint64_t)chance(RIG_SEGMENTS);
    uint8_t *p, *q, t[SEG_PAGE];

    len = min_u64(len, RIG_BYTES - max_u64(a, b));
    switch (chance(5)) {
    case 0: /* lost */
        memset(hurt_at(a, len), 0, len);
        break;
    case 1: /* noise */
        p = hurt_at(a, len);
        for (uint64_t i = 0; i < len; i++)
            p[i] = (uint8_t)chance(256);
        break;
    case 2: /* two changed places */
        p = hurt_at(a, 512);
        q = hurt_at(b, 512);
        memcpy(t, p, 512);
        memmove(p, q, 512);
        memcpy(q, t, 512);
        break;
    case 3: /* written to the wrong place */
        memcpy(hurt_at(b, len), base + a, len);
        break;
    case 4: /* a page written to its place in another segment */
        a &= ~(uint64_t)(SEG_PAGE - 1);
        b = SEG_DATA + to * RIG_SEGMENT + a % RIG_SEGMENT;
        memcpy(hurt_at(b, SEG_PAGE), base + a, SEG_PAGE);
        break;
    }
}

static void random_run(bool close, uint32_t n)
{
    make_base(close);
    for (uint32_t i = 0; i < n; i++) {
        rig_rng = i + 1000;
        for (uint32_t k = 1 + chance(20); k > 0; k--)
            damage_once();
        check_damaged("seed", i);
        heal();
        if (i % 256 == 0)
            SURE(memcmp(rig_scratch->image[0], base, RIG_BYTES) == 0);
    }
    damage_end();
}

START_TEST(images_with_sectors_lost_or_swapped_open)
{
    random_run(false, rig_setting("IMAGES", 2000, 300) / 2);
}
END_TEST

START_TEST(closed_images_with_sectors_lost_or_swapped_open)
{
    random_run(true, rig_setting("IMAGES", 2000, 300) / 2);
}
END_TEST

/* ---- other stores */

static struct rig reader;

static void reopen(uint32_t lanes)
{
    reader.lanes = lanes;
    rig_init(&reader, rig_scratch, 0);
    rig_open(&reader, SEGLOG_OPEN_OR_FORMAT);
}

static uint32_t living(void)
{
    uint32_t n = 0;

    for (uint32_t k = 0; k < RIG_KEYS; k++)
        n += rig_alive(&reader, k);
    return n;
}

static uint32_t placed(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < rig_put_n; i++)
        n += rig_puts[i].placed && rig_last[rig_puts[i].k] == i + 1 &&
             rig_asked[rig_puts[i].k] <= i;
    return n;
}

START_TEST(a_checkpoint_says_what_a_scan_would)
{
    uint64_t by_check[RIG_KEYS];
    uint32_t checks;

    make_base(true);
    reopen(1);
    SURE(reader.err == OK);
    SURE(reader.g->from_checkpoint);
    SURE(reader.records == 0);
    checks = reader.checks;
    SURE(checks > 5);
    SURE(checks == placed());
    memcpy(by_check, reader.found, sizeof(by_check));
    rig_fini(&reader);
    /* The open has made it unclean: now the same by a scan. */
    reopen(1);
    SURE(reader.err == OK);
    SURE(!reader.g->from_checkpoint);
    for (uint32_t k = 0; k < RIG_KEYS; k++)
        SURE((rig_alive(&reader, k) ? reader.found[k] : 0) == by_check[k]);
    rig_fini(&reader);
    damage_end();
}
END_TEST

START_TEST(a_checkpoint_of_others_or_with_a_bad_page_is_not_used)
{
    uint64_t page = 0;

    make_base(true);
    served = 1;
    reopen(2);
    SURE(reader.err == OK);
    SURE(!reader.g->from_checkpoint);
    SURE(reader.checks == 0);
    SURE(living() == placed());
    rig_fini(&reader);
    heal();
    for (uint64_t off = SEG_DATA; off < RIG_BYTES; off += SEG_PAGE) {
        uint64_t magic;

        memcpy(&magic, base + off, 8);
        if (magic == SEG_MAGIC_CHECK)
            page = off;
    }
    SURE(page > 0);
    rig_scratch->image[0][page + 100] ^= 1;
    reopen(1);
    SURE(reader.err == OK);
    SURE(!reader.g->from_checkpoint);
    SURE((metric_get(&reader.metrics.ssd_corrupt)) > 0);
    SURE(living() == placed());
    rig_fini(&reader);
    damage_end();
}
END_TEST

START_TEST(after_a_scan_no_segment_is_appended_to)
{
    make_base(false);
    served = 1;
    reopen(1);
    SURE(reader.err == OK);
    SURE(reader.g->head == SEG_NONE);
    for (uint32_t i = 0; i < RIG_SEGMENTS; i++)
        SURE(reader.g->segs[i].state == SEG_FREE ||
             reader.g->segs[i].state == SEG_FULL);
    rig_fini(&reader);
    damage_end();
}
END_TEST

/* ---- what damage costs */

/* Records of the log by a scan. */
static uint32_t records_of(void)
{
    uint32_t n;

    reopen(1);
    SURE(reader.err == OK);
    seglog_check(reader.g);
    n = reader.records;
    rig_fini(&reader);
    return n;
}

/* The record count of the header at this page of the base; 0: none is. */
static uint32_t header_records(uint64_t off, uint64_t next)
{
    struct seg_group g;

    memcpy(&g, base + off, sizeof(g));
    return g.magic == SEG_MAGIC_GROUP && g.generation < next &&
                   g.page == off / SEG_PAGE && g.kind == SEG_GROUP_RECORDS
               ? g.record_n
               : 0;
}

START_TEST(a_damaged_header_costs_its_own_group)
{
    uint32_t all, headers = 0, dearer = 0;

    make_base(false);
    served = 1;
    all = records_of();
    heal();
    for (uint64_t off = SEG_DATA; off < RIG_BYTES; off += SEG_PAGE) {
        uint32_t n = header_records(off, UINT64_MAX), left;

        if (!n)
            continue;
        *hurt_at(off + 8 * (uint64_t)chance(512), 1) ^= 4;
        left = records_of();
        heal();
        /* Of an earlier life: nothing. */
        SURE_MSG(left == all || left + n == all, "page %lu: %u of %u, %u left",
                 off / SEG_PAGE, n, all, left);
        headers++;
        dearer += left < all;
    }
    ck_assert_uint_gt(headers, 20);
    ck_assert_uint_gt(dearer, 20);
    damage_end();
}
END_TEST

static void dropped_stay_dropped(const char *what)
{
    reopen(1);
    SURE(reader.err == OK);
    for (uint32_t k = 0; k < RIG_KEYS; k++)
        SURE_MSG(!rig_alive(&reader, k) || reader.found[k] > rig_dead[k],
                 "%s: key %u came back", what, k);
    seglog_check(reader.g);
    rig_fini(&reader);
}

/* Then also the records behind it are not believed again, whatever the old
 * page says when it can be read another time. */
START_TEST(a_head_page_that_is_lost_takes_no_tomb_with_it)
{
    uint32_t all, tombs = 0, fewer = 0;

    make_base(_i);
    served = 1;
    all = records_of();
    heal();
    for (uint32_t i = 0; i < RIG_SEGMENTS; i++) {
        uint64_t off = SEG_DATA + (uint64_t)i * RIG_SEGMENT;
        struct seg_head h;

        if (seg_head_read(base + off, rig_uuid, i, &h) || h.kind != SEG_LOG)
            continue;
        *hurt_at(off + 2000, 1) ^= 1; /* it names its generation still */
        if (!_i)
            SURE(records_of() == all);
        dropped_stay_dropped("damaged");
        heal();
        *hurt_at(off + 24, 1) ^= 1;
        dropped_stay_dropped("first");
        tombs +=
            seg_head_read(rig_scratch->image[0] + off, rig_uuid, i, &h) == OK &&
            h.kind == SEG_TOMBS;
        dropped_stay_dropped("second");
        fewer += records_of() < all;
        heal();
    }
    ck_assert_uint_gt(tombs, 0);
    ck_assert_uint_ge(fewer, _i ? 0 : tombs / 2);
    damage_end();
}
END_TEST

START_TEST(a_lost_superblock_takes_no_promise_with_it)
{
    struct seg_super s[2];
    uint64_t newest;

    make_base(false);
    served = 1;
    (void)records_of(); /* this life promises more than the first */
    for (uint32_t i = 0; i < 2; i++)
        SURE(seg_super_read(rig_scratch->image[0] + i * SEG_SUPER_B, &s[i]) ==
             OK);
    newest = max_u64(s[0].next_generation, s[1].next_generation);
    ck_assert_uint_ne(s[0].next_generation, s[1].next_generation);
    *hurt_at((s[0].seq > s[1].seq ? 0 : SEG_SUPER_B) + 100, 1) ^= 1;
    reopen(1);
    ck_assert_int_eq(reader.err, OK);
    ck_assert_uint_ge(reader.g->next_generation, newest);
    rig_fini(&reader);
    damage_end();
}
END_TEST

START_TEST(bytes_written_before_a_crash_are_counted_by_segments)
{
    struct mem_media *m = mem_media_new(1, RIG_BYTES, true);
    uint64_t before, after;

    rig_begin(&writer, m);
    rig_work(&writer, &(struct rig_work){200, 220000, 20, 30, 12});
    rig_go(&writer, UINT32_MAX);
    before = m->written_bytes[0];
    ck_assert_uint_gt(before, RIG_BYTES / 2 * 3);
    rig_page_back(m->image[0], 0, RIG_BYTES);
    rig_fini(&writer);
    mem_media_free(m);
    reopen(1);
    ck_assert_int_eq(reader.err, OK);
    after = reader.g->super.written_bytes;
    ck_assert_uint_ge(after + 2 * RIG_SEGMENT, before);
    ck_assert_uint_le(after, before + before / 5);
    rig_fini(&reader);
}
END_TEST

static void refuse(enum err e, const char *words)
{
    uint8_t *before = malloc(RIG_BYTES);

    MUST(before);
    memcpy(before, rig_scratch->image[0], RIG_BYTES);
    reopen(1);
    SURE(reader.err == e);
    SURE_MSG(strstr(reader.msg.text, words) != NULL, "%s", reader.msg.text);
    SURE(strstr(reader.msg.text, "fix:") != NULL);
    SURE(memcmp(rig_scratch->image[0], before, RIG_BYTES) == 0);
    SURE(reader.g->state == SEGLOG_CLOSED);
    rig_fini(&reader);
    free(before);
}

static void change_super(uint64_t off, void (*change)(struct seg_super *s))
{
    struct seg_super s;

    memcpy(&s, rig_scratch->image[0] + off, sizeof(s));
    change(&s);
    seg_super_seal(&s);
    memcpy(rig_scratch->image[0] + off, &s, sizeof(s));
}

static void newer_major(struct seg_super *s)
{
    s->major = 2;
    s->minor = 3;
    strcpy(s->writer, "pikvd 9.8");
}

static void retire(struct seg_super *s)
{
    s->flags = SEG_RETIRED;
    s->seq += 10;
}

static void grow(struct seg_super *s)
{
    s->bytes += MIB(1);
}

START_TEST(a_newer_format_is_refused_by_name)
{
    make_base(true);
    served = 1;
    change_super(0, newer_major);
    refuse(ERR_UNSUPPORTED, "written by pikvd 9.8 with format 2.3, this pikvd "
                            "reads up to 1.x");
    heal();
    change_super(SEG_SUPER_B, newer_major);
    refuse(ERR_UNSUPPORTED, "pikvd 9.8");
    damage_end();
}
END_TEST

START_TEST(somebody_elses_bytes_are_not_touched)
{
    rig_scratch->image[0][SEG_DATA - 1] = 1;
    refuse(ERR_CONFIG, "not a pikvd store");
    rig_scratch->image[0][SEG_DATA - 1] = 0;
    rig_scratch->image[0][3] = 7;
    refuse(ERR_CONFIG, "byte 3 is 7");
}
END_TEST

START_TEST(two_damaged_superblocks_are_refused)
{
    make_base(false);
    served = 1;
    rig_scratch->image[0][20] ^= 1;
    rig_scratch->image[0][SEG_SUPER_B + 90] ^= 1;
    refuse(ERR_CORRUPT, "superblocks are both damaged");
    damage_end();
}
END_TEST

START_TEST(a_device_that_became_smaller_is_refused)
{
    make_base(false);
    served = 1;
    change_super(0, grow);
    change_super(SEG_SUPER_B, grow);
    refuse(ERR_CONFIG, "formatted with 11MiB, now the device is 10MiB");
    damage_end();
}
END_TEST

START_TEST(a_retired_store_stays_retired_until_it_is_formatted)
{
    make_base(false);
    served = 1;
    change_super(0, retire);
    reopen(1);
    SURE(reader.err == OK);
    SURE(reader.g->state == SEGLOG_RETIRED);
    SURE(reader.records == 0);
    rig_fini(&reader);
    rig_init(&reader, rig_scratch, 0);
    rig_open(&reader, SEGLOG_FORMAT);
    SURE(reader.err == OK);
    SURE(reader.g->state == SEGLOG_OPEN);
    SURE(reader.g->free_n == RIG_SEGMENTS);
    rig_fini(&reader);
    reopen(1);
    SURE(reader.err == OK);
    SURE(reader.records == 0);
    rig_fini(&reader);
    damage_end();
}
END_TEST

START_TEST(a_blank_device_becomes_a_store_and_stays_one)
{
    struct seg_super s;

    reopen(1);
    SURE(reader.err == OK);
    SURE(reader.g->state == SEGLOG_OPEN);
    for (uint64_t off = 0; off <= SEG_SUPER_B; off += SEG_SUPER_B) {
        SURE((seg_super_read(rig_scratch->image[0] + off, &s)) == OK);
        SURE(memcmp(s.uuid, rig_uuid, 16) == 0);
        ck_assert_str_eq(s.writer, "pikvd test");
        SURE(s.segments == RIG_SEGMENTS);
        SURE(s.flags == 0);
    }
    rig_fini(&reader);
    reopen(1);
    SURE(reader.err == OK);
    SURE(reader.records == 0);
    rig_fini(&reader);
}
END_TEST

START_TEST(errors_of_the_device_end_the_open)
{
    for (uint32_t mask = MEM_READS; mask <= MEM_FLUSHES; mask <<= 1)
        for (uint32_t nth = 1;; nth++) {
            bool hit;

            if (!base)
                make_base(true);
            rig_init(&reader, rig_scratch, 0);
            reader.disk.fault = (struct disk_mem_fault){
                .mask = mask, .nth = nth, .err = ERR_IO};
            rig_open(&reader, SEGLOG_OPEN_OR_FORMAT);
            hit = reader.disk.fault.hits > 0;
            if (reader.err != OK) {
                SURE(reader.err == ERR_IO);
                SURE(reader.msg.text[0]);
                SURE(reader.g->state == SEGLOG_FAILED);
            }
            /* Reads may fail one by one; a write of it must not. */
            SURE(mask == MEM_READS || !hit || reader.err == ERR_IO ||
                 reader.g->state == SEGLOG_OPEN);
            seglog_check(reader.g);
            rig_fini(&reader);
            heal();
            if (!hit)
                break;
        }
    served = 1;
    damage_end();
}
END_TEST

START_TEST(a_hanging_device_fails_the_open)
{
    rig_init(&reader, rig_scratch, 0);
    reader.disk.fault = (struct disk_mem_fault){
        .mask = MEM_ALL, .nth = 1, .forever = true, .hang = true};
    rig_open(&reader, SEGLOG_OPEN_OR_FORMAT);
    SURE(reader.err == ERR_IO);
    SURE(reader.g->state == SEGLOG_FAILED);
    disk_mem_unhang(&reader.disk);
    while (rig_pump(&reader))
        ;
    rig_fini(&reader);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("seglog_image");
    TCase *t = tcase_create("images");

    tcase_add_checked_fixture(t, rig_setup, rig_teardown);
    tcase_set_timeout(t, 3600);
    tcase_add_test(t, a_blank_device_becomes_a_store_and_stays_one);
    tcase_add_test(t, a_checkpoint_says_what_a_scan_would);
    tcase_add_test(t, a_checkpoint_of_others_or_with_a_bad_page_is_not_used);
    tcase_add_test(t, after_a_scan_no_segment_is_appended_to);
    tcase_add_test(t, a_newer_format_is_refused_by_name);
    tcase_add_test(t, somebody_elses_bytes_are_not_touched);
    tcase_add_test(t, two_damaged_superblocks_are_refused);
    tcase_add_test(t, a_device_that_became_smaller_is_refused);
    tcase_add_test(t, a_retired_store_stays_retired_until_it_is_formatted);
    tcase_add_test(t, errors_of_the_device_end_the_open);
    tcase_add_test(t, a_hanging_device_fails_the_open);
    tcase_add_test(t, a_damaged_header_costs_its_own_group);
    tcase_add_loop_test(t, a_head_page_that_is_lost_takes_no_tomb_with_it, 0,
                        2);
    tcase_add_test(t, a_lost_superblock_takes_no_promise_with_it);
    tcase_add_test(t, bytes_written_before_a_crash_are_counted_by_segments);
    tcase_add_test(t, an_image_cut_at_any_sector_opens);
    tcase_add_test(t, a_closed_image_cut_at_any_sector_opens);
    tcase_add_test(t, an_image_with_a_byte_flipped_opens);
    tcase_add_test(t, a_closed_image_with_a_byte_flipped_opens);
    tcase_add_test(t, images_with_sectors_lost_or_swapped_open);
    tcase_add_test(t, closed_images_with_sectors_lost_or_swapped_open);
    suite_add_tcase(s, t);
    return s;
}
