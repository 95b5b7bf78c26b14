/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: cluster base */
#include "cluster/detect.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"

/* A detector over n nodes that are all UP; node 0 leads. Times of the daemon's
 * defaults: 1.5 s, 3 s, 10 min. */
static struct detect d;
static struct view v;
static uint64_t now;
static struct detect_verdict said[64];
static uint32_t said_n;

static const struct detect_cfg cfg = {1500, 3000, 600000};

static void setup_n(uint32_t n)
{
    now = 1000000;
    ck_assert_int_eq(view_init(&v), OK);
    ck_assert_int_eq(view_room(&v, n), OK);
    v.node_n = n;
    for (uint32_t i = 0; i < n; i++) {
        snprintf(v.nodes[i].name, sizeof(v.nodes[i].name), "n%u", i);
        v.nodes[i].state = NODE_UP;
    }
    ck_assert_int_eq(detect_init(&d, &cfg, now), OK);
}

static void setup(void)
{
    setup_n(10);
}

static void teardown(void)
{
    detect_fini(&d);
    view_fini(&v);
}

static void tick(void)
{
    said_n = detect_tick(&d, &v, 0, now, said, 64);
}

static uint32_t count(enum detect_kind kind)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < said_n; i++)
        n += said[i].kind == kind;
    return n;
}

/* Time goes by in ticks of 50 ms, with beats of all but the silent ones (bits),
 * until a verdict of that kind; returns after how many ms, 0: never. */
static uint64_t run(uint64_t ms, uint32_t silent, enum detect_kind until)
{
    uint64_t begin = now;

    while (now < begin + ms) {
        now += 50;
        for (uint32_t i = 1; i < v.node_n && now % 500 == 0; i++)
            if (!(silent >> i & 1))
                detect_heard(&d, (uint16_t)i, now);
        tick();
        if (count(until))
            return now - begin;
    }
    return 0;
}

/* As the voters would: what was proposed is in the view. */
static void commit(void)
{
    for (uint32_t i = 0; i < said_n; i++) {
        if (said[i].kind == DETECT_DOWN)
            v.nodes[said[i].node].state = NODE_DOWN;
        if (said[i].kind == DETECT_UP)
            v.nodes[said[i].node].state = NODE_UP;
    }
}

START_TEST(nobody_is_said_to_be_anything_while_all_beat)
{
    for (uint32_t i = 0; i < 200; i++) {
        run(50, 0, DETECT_DOWN);
        ck_assert_uint_eq(said_n, 0);
    }
}
END_TEST

START_TEST(a_silent_node_is_suspect_then_down)
{
    uint64_t a = run(5000, 1 << 3, DETECT_SUSPECT);

    ck_assert_uint_ge(a, 1500);
    ck_assert_uint_le(a, 2000);
    ck_assert_uint_eq(said[0].node, 3);
    ck_assert(detect_marked(&d, 3, now));
    ck_assert(!detect_marked(&d, 4, now));
    ck_assert_uint_eq(d.suspects, 1);
    a += run(5000, 1 << 3, DETECT_DOWN);
    ck_assert_uint_ge(a, 3000);
    ck_assert_uint_le(a, 3550);
    ck_assert_uint_eq(said[0].node, 3);
}
END_TEST

START_TEST(a_beat_clears_suspicion)
{
    run(5000, 1 << 3, DETECT_SUSPECT);
    ck_assert_uint_gt(run(1000, 0, DETECT_CLEAR), 0);
    ck_assert(!detect_marked(&d, 3, now));
    ck_assert_uint_eq(run(5000, 0, DETECT_DOWN), 0);
}
END_TEST

START_TEST(a_verdict_is_said_again_each_second_until_the_view_shows_it)
{
    uint64_t again;

    ck_assert_uint_gt(run(5000, 1 << 3, DETECT_DOWN), 0);
    again = run(5000, 1 << 3, DETECT_DOWN);
    ck_assert_uint_ge(again, DETECT_AGAIN_MS);
    ck_assert_uint_le(again, DETECT_AGAIN_MS + 50);
    commit();
    ck_assert_uint_eq(run(5000, 1 << 3, DETECT_DOWN), 0);
}
END_TEST

START_TEST(a_down_node_that_beats_is_up_at_once_the_first_time)
{
    run(5000, 1 << 3, DETECT_DOWN);
    commit();
    run(2000, 1 << 3, DETECT_UP);
    ck_assert_uint_le(run(2000, 0, DETECT_UP), 500);
    ck_assert_uint_eq(said[said_n - 1].node, 3);
}
END_TEST

START_TEST(a_flapping_node_must_be_steady_longer_each_time)
{
    uint64_t took[5];

    for (uint32_t i = 0; i < 5; i++) {
        ck_assert_uint_gt(run(6000, 1 << 3, DETECT_DOWN), 0);
        commit();
        run(1000, 1 << 3, DETECT_UP);
        took[i] = run(40000, 0, DETECT_UP);
        ck_assert_uint_gt(took[i], 0);
        commit();
    }
    ck_assert_uint_le(took[0], 500);
    for (uint32_t i = 1; i < 5; i++)
        ck_assert_uint_ge(took[i], 1000u << (i - 1));
}
END_TEST

START_TEST(a_down_node_that_never_beats_to_this_leader_stays_down)
{
    v.nodes[3].state = NODE_DOWN;
    ck_assert_uint_eq(run(20000, 1 << 3, DETECT_UP), 0);
}
END_TEST

START_TEST(a_joining_node_is_up_when_it_beats)
{
    v.nodes[3].state = NODE_JOINING;
    ck_assert_uint_eq(run(2000, 1 << 3, DETECT_UP), 0);
    ck_assert_uint_gt(run(2000, 0, DETECT_UP), 0);
    ck_assert_uint_eq(said[0].node, 3);
}
END_TEST

START_TEST(ten_minutes_down_is_removed)
{
    run(5000, 1 << 3, DETECT_DOWN);
    commit();
    ck_assert_uint_eq(run(599000, 1 << 3, DETECT_REMOVED), 0);
    ck_assert_uint_gt(run(5000, 1 << 3, DETECT_REMOVED), 0);
    ck_assert_uint_eq(said[0].node, 3);
}
END_TEST

START_TEST(a_leader_that_slept_holds_it_against_nobody)
{
    run(2000, 0, DETECT_DOWN);
    now += 20000; /* SIGSTOP */
    tick();
    ck_assert_uint_eq(count(DETECT_DOWN) + count(DETECT_SUSPECT), 0);
    ck_assert_uint_eq(d.late, 1);
    ck_assert_uint_eq(run(5000, 0, DETECT_DOWN), 0);
    /* Who is silent from then on is found as ever. */
    ck_assert_uint_le(run(5000, 1 << 3, DETECT_DOWN), 3550);
}
END_TEST

START_TEST(half_of_all_silent_at_once_makes_the_leader_doubt_itself)
{
    uint64_t ms = run(5000, 0x3f << 1, DETECT_SELF);

    ck_assert_uint_ge(ms, 1500);
    ck_assert_uint_le(ms, 2000);
    ms += run(20000, 0x3f << 1, DETECT_DOWN);
    ck_assert_uint_ge(ms, 9000);
    ck_assert_uint_le(ms, 9550);
    ck_assert_uint_eq(count(DETECT_DOWN), 6);
}
END_TEST

START_TEST(silence_of_many_that_ends_marks_nobody_down)
{
    ck_assert_uint_gt(run(5000, 0x3ff, DETECT_SELF), 0);
    ck_assert_uint_eq(run(5000, 0x3ff, DETECT_DOWN), 0);
    ck_assert_uint_eq(run(20000, 0, DETECT_DOWN), 0);
    ck_assert_uint_eq(d.hold_ms, 0);
}
END_TEST

START_TEST(less_than_half_is_believed)
{
    uint64_t ms = run(5000, 0xf << 1, DETECT_DOWN);

    ck_assert_uint_ge(ms, 3000);
    ck_assert_uint_le(ms, 3550);
    ck_assert_uint_eq(count(DETECT_SELF), 0);
}
END_TEST

START_TEST(three_reporters_in_five_seconds_put_a_node_on_probation)
{
    detect_report(&d, 1, 5, now);
    detect_report(&d, 1, 5, now + 10);
    detect_report(&d, 2, 5, now + 20);
    ck_assert(!detect_marked(&d, 5, now + 20));
    detect_report(&d, 3, 5, now + 30);
    ck_assert(detect_marked(&d, 5, now + 30));
    ck_assert(!detect_marked(&d, 5, now + 30 + DETECT_PROBATION_MS));
}
END_TEST

START_TEST(reports_that_are_far_apart_or_of_itself_do_not_count)
{
    detect_report(&d, 1, 5, now);
    detect_report(&d, 5, 5, now);
    detect_report(&d, 2, 5, now + 3000);
    detect_report(&d, 3, 5, now + 6000);
    ck_assert(!detect_marked(&d, 5, now + 6000));
    detect_report(&d, 3, NODE_NONE, now);
    detect_heard(&d, NODE_NONE, now);
}
END_TEST

START_TEST(verdicts_that_do_not_fit_come_with_the_next_tick)
{
    uint32_t all = 0;

    for (uint32_t i = 1; i <= 4; i++)
        v.nodes[i].state = NODE_JOINING;
    for (uint32_t i = 1; i <= 4; i++)
        detect_heard(&d, (uint16_t)i, now);
    for (uint32_t i = 0; i < 4; i++) {
        now += 50;
        all += detect_tick(&d, &v, 0, now, said, 2);
        v.nodes[said[0].node].state = NODE_UP;
    }
    ck_assert_uint_eq(all, 4);
}
END_TEST

START_TEST(no_memory_is_an_error)
{
    struct detect other;

    fault_arm(1);
    ck_assert_int_eq(detect_init(&other, &cfg, 0), ERR_NO_MEMORY);
    ck_assert(fault_hit());
    fault_arm(0);
    detect_fini(&other);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("detect");
    TCase *t = tcase_create("detect");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, nobody_is_said_to_be_anything_while_all_beat);
    tcase_add_test(t, a_silent_node_is_suspect_then_down);
    tcase_add_test(t, a_beat_clears_suspicion);
    tcase_add_test(
        t, a_verdict_is_said_again_each_second_until_the_view_shows_it);
    tcase_add_test(t, a_down_node_that_beats_is_up_at_once_the_first_time);
    tcase_add_test(t, a_flapping_node_must_be_steady_longer_each_time);
    tcase_add_test(t, a_down_node_that_never_beats_to_this_leader_stays_down);
    tcase_add_test(t, a_joining_node_is_up_when_it_beats);
    tcase_add_test(t, ten_minutes_down_is_removed);
    tcase_add_test(t, a_leader_that_slept_holds_it_against_nobody);
    tcase_add_test(t, half_of_all_silent_at_once_makes_the_leader_doubt_itself);
    tcase_add_test(t, silence_of_many_that_ends_marks_nobody_down);
    tcase_add_test(t, less_than_half_is_believed);
    tcase_add_test(t, three_reporters_in_five_seconds_put_a_node_on_probation);
    tcase_add_test(t, reports_that_are_far_apart_or_of_itself_do_not_count);
    tcase_add_test(t, verdicts_that_do_not_fit_come_with_the_next_tick);
    tcase_add_test(t, no_memory_is_an_error);
    suite_add_tcase(s, t);
    return s;
}
