/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * SSDs as files from start to stop, with the real disks: two lanes and two
 * SSDs; every fault of a start; memory registered by running lanes. */
#include "server/ssd_boot.h"

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "lib/ssd_dir.h"
#include "server/disk_open.h"
#include "server/loop.h"

enum { LANES = 2, ARENA_BYTES = 16 << 20 };

static char dir[200];
static struct config cfg;
static struct errmsg msg;
static struct arena_map arena;
static struct unit_pool pool, *pools[STORE_POOLS] = {&pool};
static struct control control;
static struct lane lanes[LANES], *list[LANES];
static uint32_t lane_n;
static struct ssd_boot ssd;
static struct notify silent;
static struct loop *loops[LANES];

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static uint64_t counting(void *arg)
{
    static uint64_t n;

    (void)arg;
    return ++n;
}

static void set_up(void)
{
    fault_arm(0);
    log_sink_set(quiet, NULL);
    config_defaults(&cfg);
    cfg.limits.ops_per_lane = cfg.limits.ops_per_client = 16;
    cfg.limits.clients = cfg.limits.unauthenticated = 4;
    cfg.ssd.segment_bytes = MIB(1);
    cfg.ssd.capacity_bytes = MIB(12);
    if (ssd_dir_new(dir))
        snprintf(cfg.ssd.paths, sizeof cfg.ssd.paths, "%s/a,%s/b", dir, dir);
}

static void tear_down(void)
{
    fault_arm(0);
    ssd_dir_free(dir);
}

static enum err start_lanes(void)
{
    enum err e = OK;

    for (uint32_t i = 0; i < LANES && !e; i++) {
        lanes[i] = (struct lane){.env.boot_us = 1};
        lanes[i].ssd_bytes = ssd_boot_bytes(&ssd);
        list[i] = &lanes[i];
        e = lane_init(&lanes[i], &cfg, i, LANES, pools, &control);
        lane_n += e == OK;
    }
    return e;
}

/* As main.c does. */
static enum err start(void)
{
    struct control_shell shell = {.random = counting, .wall_us = 1};
    struct ssd_boot_cfg bc = {&cfg, &control, &arena, 1, &silent};
    enum err e = files_arena_open(&cfg, ARENA_BYTES, &arena, &msg);

    ssd = (struct ssd_boot){0};
    lane_n = 0;
    if (!e)
        e = unit_pool_init(&pool, arena.p, arena.bytes, LANES);
    if (!e)
        e = control_init(&control, &cfg, list, LANES, &shell);
    if (!e)
        e = ssd_boot_paths(&ssd, &cfg, &msg);
    if (!e)
        e = start_lanes();
    if (!e)
        e = ssd_boot_start(&ssd, &bc, &msg);
    return e;
}

static void stop(void)
{
    ck_assert(ssd_boot_stop(&ssd, true, 5000000));
    while (lane_n > 0)
        lane_fini(&lanes[--lane_n]);
    if (control.jobs)
        control_fini(&control);
    unit_pool_fini(&pool);
    files_arena_close(&arena);
    arena = (struct arena_map){0};
    pool = (struct unit_pool){0};
}

static void all_open(void)
{
    for (uint32_t i = 0; i < ssd.node.n; i++)
        ck_assert_int_eq(seg_map_state(&ssd.node.devs[i].map), SEGLOG_OPEN);
}

START_TEST(ssds_are_made_closed_in_order_and_opened_again)
{
    if (!dir[0])
        return;
    for (int life = 0; life < 3; life++) {
        ck_assert_msg(start() == OK, "%s", msg.text);
        ck_assert_uint_eq(ssd.node.n, 2);
        all_open();
        stop();
    }
}
END_TEST

START_TEST(a_foreign_path_is_named_and_the_other_is_closed_in_order)
{
    char other[220];
    int fd;

    if (!dir[0])
        return;
    ck_assert_msg(start() == OK, "%s", msg.text);
    stop();
    snprintf(other, sizeof other, "%s/b", dir);
    fd = open(other, O_WRONLY | O_CLOEXEC);
    for (int at = 0; at < 2 << 20; at += 4096)
        ck_assert_int_eq(pwrite(fd, "not a store", 11, at), 11);
    close(fd);
    ck_assert_int_ne(start(), OK);
    ck_assert_ptr_nonnull(strstr(msg.text, other));
    stop();
}
END_TEST

/* Whatever fails, what was begun is undone: the next start finds all well. */
START_TEST(every_fault_of_a_start_is_undone)
{
    bool hit = true;
    uint32_t i;

    if (!dir[0])
        return;
    for (i = 1; hit && i < 2000; i++) {
        fault_arm(i);
        (void)start(); /* an SSD that fails alone does not fail it */
        hit = fault_hit();
        fault_arm(0);
        stop();
        ck_assert_msg(start() == OK, "fault %u: %s", i, msg.text);
        all_open();
        stop();
    }
    ck_assert_uint_gt(i, 20);
    ck_assert(!hit);
}
END_TEST

/* An SSD that fails while it is closed tells lanes that are about to go. */
START_TEST(every_fault_of_a_stop_is_survived)
{
    bool hit = true;
    uint32_t i;

    if (!dir[0])
        return;
    for (i = 1; hit && i < 2000; i++) {
        ck_assert_msg(start() == OK, "fault %u: %s", i, msg.text);
        all_open();
        fault_arm(i);
        stop();
        hit = fault_hit();
        fault_arm(0);
    }
    ck_assert_uint_gt(i, 4);
    ck_assert(!hit);
}
END_TEST

/* ---- Running */

static void run_loops(void)
{
    uint64_t seed[2] = {1, 2};

    for (uint32_t i = 0; i < LANES; i++) {
        ck_assert_int_eq(loop_new(&loops[i], &lanes[i], NULL, 0, seed, &msg),
                         OK);
        ck_assert_int_eq(loop_start(loops[i], &msg), OK);
    }
}

static void end_loops(void)
{
    for (uint32_t i = 0; i < LANES; i++)
        loop_stop(loops[i]);
    for (uint32_t i = 0; i < LANES; i++)
        loop_join(loops[i]);
    for (uint32_t i = 0; i < LANES; i++)
        loop_free(loops[i]);
}

static uint64_t registered(uint32_t lane)
{
    return metric_get(&lanes[lane].metrics.ssd_registered_bytes);
}

/* Not a measure of time: only a hang makes it fail. */
static void wait_registered(uint32_t lane)
{
    for (int i = 0; i < 20000 && registered(lane) < ARENA_BYTES; i++)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    ck_assert_uint_eq(registered(lane), ARENA_BYTES);
}

START_TEST(lanes_register_memory_once_it_was_touched)
{
    if (!dir[0])
        return;
    ck_assert_msg(start() == OK, "%s", msg.text);
    if (strcmp(ssd.node.devs[0].engine, "uring") != 0) {
        fprintf(stderr, "skipped: no io_uring\n");
        stop();
        return;
    }
    run_loops();
    ck_assert_uint_eq(registered(0), 0);
    for (uint32_t i = 0; i < LANES; i++)
        loop_memory_ready(loops[i]);
    for (uint32_t i = 0; i < LANES; i++)
        wait_registered(i);
    end_loops();
    stop();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ssd_boot");
    TCase *t = tcase_create("boot");

    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, ssds_are_made_closed_in_order_and_opened_again);
    tcase_add_test(t, a_foreign_path_is_named_and_the_other_is_closed_in_order);
    tcase_add_test(t, every_fault_of_a_start_is_undone);
    tcase_add_test(t, every_fault_of_a_stop_is_survived);
    tcase_add_test(t, lanes_register_memory_once_it_was_touched);
    suite_add_tcase(s, t);
    return s;
}
