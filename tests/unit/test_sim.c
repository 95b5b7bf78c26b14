/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base */
/* What the simulator judges with: its oracle and its disks. An oracle that
 * forgets accuses the daemon, one that believes all lets it lie. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "lib/disk_mem.h"
#include "lib/model.h"

/* ---- the oracle */

enum { KEY = 3, LEN = 5000, MANY = 1000 };

static struct model model;

static void model_down(void)
{
    model_fini(&model);
}

/* The whole of this PUT's bytes is answered under a version. */
static void answer(uint64_t id, uint64_t version, uint32_t crc)
{
    static uint8_t bytes[LEN];
    struct model_seen seen = {.key = KEY,
                              .crc = crc,
                              .generation = 1,
                              .version = version,
                              .len = LEN,
                              .begun_ns = 100};

    model_fill(id, 0, bytes, LEN);
    model_check(&model, &seen, 0, bytes, LEN);
}

START_TEST(a_block_is_known_whatever_was_put_since)
{
    uint32_t crc, other;
    uint64_t id = model_put_begin(&model, KEY, 1, LEN, &crc);

    model_put_committed(&model, KEY, id, 7);
    for (int i = 0; i < MANY; i++) /* their answers are lost */
        (void)model_put_begin(&model, KEY, 1, LEN, &other);
    answer(id, 7, crc);
    ck_assert_uint_eq(model.checked_gets, 1);
}
END_TEST

START_TEST(refused_puts_cost_no_memory)
{
    uint32_t crc;

    for (int i = 0; i < MANY; i++)
        model_put_refused(&model, KEY,
                          model_put_begin(&model, KEY, 1, LEN, &crc));
    ck_assert_uint_eq(model.keys[KEY].put_n, 1);
}
END_TEST

START_TEST(a_refused_put_explains_nothing)
{
    uint32_t crc;
    uint64_t id = model_put_begin(&model, KEY, 1, LEN, &crc);

    model_put_refused(&model, KEY, id);
    answer(id, 7, crc);
}
END_TEST

START_TEST(a_dropped_put_explains_no_later_call)
{
    uint32_t crc;
    uint64_t id = model_put_begin(&model, KEY, 1, LEN, &crc);

    model_put_committed(&model, KEY, id, 7);
    model_drop_begin(&model, KEY, 1);
    model_drop_done(&model, KEY, 1, true, 100);
    answer(id, 7, crc);
}
END_TEST

START_TEST(bytes_of_one_put_are_not_those_of_another)
{
    uint32_t crc, other;
    uint64_t id = model_put_begin(&model, KEY, 1, LEN, &crc);
    uint64_t next = model_put_begin(&model, KEY, 1, LEN, &other);

    ck_assert_uint_ne(id, next);
    answer(next, 7, crc);
}
END_TEST

/* ---- the disks */

static struct env env;
static struct mem_media *media;
static struct disk_mem disk;
static struct disk_io ios[2];
static struct span spans[2];
static uint32_t ended;

static void io_ended(struct disk_io *io)
{
    (void)io;
    ended++;
}

static void disk_up(void)
{
    struct disk_mem_cfg cfg = {.env = &env, .latency_ns = 10};

    env = (struct env){0};
    media = mem_media_new(1, MIB(1), true);
    disk_mem_init(&disk, media, &cfg);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(
            posix_memalign((void **)&spans[i].p, DISK_PAGE, DISK_PAGE), 0);
    ended = 0;
}

static void disk_down(void)
{
    disk_mem_fini(&disk);
    mem_media_free(media);
    for (int i = 0; i < 2; i++)
        free(spans[i].p);
}

static void submit(int i, enum disk_what what)
{
    memset(spans[i].p, 1, DISK_PAGE);
    spans[i].len = DISK_PAGE;
    ios[i] = (struct disk_io){.what = what,
                              .off = DISK_PAGE,
                              .len = DISK_PAGE,
                              .spans = &spans[i],
                              .span_n = 1,
                              .done = io_ended};
    disk_submit(&disk.disk, &ios[i]);
}

static void progress(void)
{
    env.now_ns += 1000;
    (void)disk.disk.ops->progress(&disk.disk);
}

/* A READ fails: from here on nobody knows what lies where. */
static void hurt(void)
{
    disk.fault = (struct disk_mem_fault){.mask = MEM_READS, .nth = 1};
    submit(0, DISK_READ);
    progress();
    ck_assert_int_eq(ios[0].err, ERR_IO);
    ended = 0;
}

START_TEST(a_sound_media_is_not_written_where_it_is_read)
{
    submit(0, DISK_READ);
    submit(1, DISK_WRITE);
}
END_TEST

START_TEST(a_sound_media_is_not_read_where_it_is_written)
{
    submit(0, DISK_WRITE);
    submit(1, DISK_READ);
}
END_TEST

START_TEST(a_hurt_media_is_written_once_at_a_time)
{
    hurt();
    submit(0, DISK_WRITE);
    submit(1, DISK_WRITE);
}
END_TEST

START_TEST(where_a_header_was_lost_old_places_may_be_read)
{
    hurt();
    submit(0, DISK_WRITE);
    submit(1, DISK_READ);
    progress();
    ck_assert_uint_eq(ended, 2);
}
END_TEST

START_TEST(a_crash_heals_nothing)
{
    struct mem_media *left;

    hurt();
    left = mem_media_crash(media, MEM_CRASH_POWER, 0, 1);
    ck_assert(left->hurt);
    mem_media_free(left);
}
END_TEST

Suite *suite(void);

Suite *suite(void)
{
    Suite *s = suite_create("sim");
    TCase *t = tcase_create("oracle");

    tcase_add_checked_fixture(t, NULL, model_down);
    tcase_add_test(t, a_block_is_known_whatever_was_put_since);
    tcase_add_test(t, refused_puts_cost_no_memory);
    tcase_add_test_raise_signal(t, a_refused_put_explains_nothing, SIGABRT);
    tcase_add_test_raise_signal(t, a_dropped_put_explains_no_later_call,
                                SIGABRT);
    tcase_add_test_raise_signal(t, bytes_of_one_put_are_not_those_of_another,
                                SIGABRT);
    suite_add_tcase(s, t);
    t = tcase_create("disk");
    tcase_add_checked_fixture(t, disk_up, disk_down);
    tcase_add_test_raise_signal(
        t, a_sound_media_is_not_written_where_it_is_read, SIGABRT);
    tcase_add_test_raise_signal(
        t, a_sound_media_is_not_read_where_it_is_written, SIGABRT);
    tcase_add_test_raise_signal(t, a_hurt_media_is_written_once_at_a_time,
                                SIGABRT);
    tcase_add_test(t, where_a_header_was_lost_old_places_may_be_read);
    tcase_add_test(t, a_crash_heals_nothing);
    suite_add_tcase(s, t);
    return s;
}
