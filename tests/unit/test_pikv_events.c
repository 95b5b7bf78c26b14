/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client rpc base proto */
/* Subscriptions of libpikv against a scripted daemon: order, resuming, loss,
 * restarts, and what closing does with polls that are under way. */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "client/pikv.h"
#include "tests/lib/fake_events.h"
#include "tests/lib/fake_pikvd.h"

enum { LONG_MS = 20000, EVENTS = 64 };

static struct fake *fake;
static struct pikv *kv;
static uint32_t ns;
static struct pikv_events *ev;
static struct pikv_event got[EVENTS];

static void begin_with(uint32_t lanes, struct pikv_options o)
{
    struct pikv_namespace d = {.name = "test", .create = true};

    fake = fake_start(lanes);
    o.address = fake_address(fake);
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), PIKV_OK);
}

static void begin(uint32_t lanes)
{
    begin_with(lanes, (struct pikv_options){0});
}

static void end(void)
{
    pikv_events_close(ev);
    pikv_close(kv);
    fake_stop(fake);
}

static void await_asleep(uint32_t lane, uint32_t n)
{
    for (int i = 0; i < 10000 && fake_polls_asleep(fake, lane) != n; i++)
        usleep(1000);
    ck_assert_uint_eq(fake_polls_asleep(fake, lane), n);
}

static int next(int max)
{
    return pikv_events_next(ev, got, max, LONG_MS);
}

static bool key_is(const struct pikv_event *e, const char *key)
{
    return e->key.len == strlen(key) &&
           (!e->key.len || !memcmp(e->key.p, key, e->key.len));
}

/* The next event is this one. */
static void expect(enum pikv_event_kind kind, uint64_t seq, const char *key)
{
    ck_assert_int_eq(next(1), 1);
    ck_assert_int_eq(got[0].kind, kind);
    ck_assert_uint_eq(got[0].seq, seq);
    ck_assert(key_is(&got[0], key));
}

static void open_from(uint64_t from)
{
    uint64_t all[8];

    for (uint32_t i = 0; i < countof(all); i++)
        all[i] = from;
    ck_assert_int_eq(pikv_events_open(kv, ns, all, &ev), PIKV_OK);
}

START_TEST(what_the_ring_has_is_told_in_order_and_what_comes_after)
{
    begin(1);
    fake_event(fake, 0, 0, "a");
    fake_event(fake, 0, 1, "b");
    open_from(1);
    expect(PIKV_EVENT_STORED, 1, "a");
    ck_assert_uint_eq(got[0].version, 10);
    ck_assert_uint_eq(got[0].boot, 1000);
    ck_assert_uint_eq(got[0].lane, 0);
    expect(PIKV_EVENT_REMOVED, 2, "b");
    fake_event(fake, 0, 2, "c");
    fake_event(fake, 0, 3, "");
    expect(PIKV_EVENT_MOVED, 3, "c");
    expect(PIKV_EVENT_CLEARED, 4, "");
    ck_assert_int_eq(pikv_events_next(ev, got, EVENTS, 20), 0);
    end();
}
END_TEST

/* The position is fetched at once: what happens after open is told, however
 * late the caller asks. */
START_TEST(from_now_on_begins_when_it_is_opened)
{
    begin(1);
    fake_event(fake, 0, 0, "before");
    ck_assert_int_eq(pikv_events_open(kv, ns, NULL, &ev), PIKV_OK);
    ck_assert_int_eq(pikv_events_next(ev, got, 1, 0), 0);
    for (int i = 0; i < 10000 && fake_polls(fake, 0) < 1; i++)
        usleep(1000);
    ck_assert_int_eq(pikv_events_next(ev, got, 1, 20), 0);
    await_asleep(0, 1);
    fake_event(fake, 0, 0, "after");
    expect(PIKV_EVENT_STORED, 2, "after");
    end();
}
END_TEST

START_TEST(a_position_goes_on_where_it_was)
{
    begin(1);
    fake_event(fake, 0, 0, "a");
    fake_event(fake, 0, 0, "b");
    fake_event(fake, 0, 0, "c");
    open_from(3);
    expect(PIKV_EVENT_STORED, 3, "c");
    end();
}
END_TEST

START_TEST(lanes_are_each_in_order)
{
    uint64_t seen[4] = {0};
    uint32_t n = 0;

    begin(4);
    for (uint32_t i = 0; i < 20; i++)
        for (uint32_t lane = 0; lane < 4; lane++)
            fake_event(fake, lane, 0, "k");
    open_from(1);
    while (n < 80) {
        int more = next(7);

        ck_assert_int_gt(more, 0);
        for (int i = 0; i < more; i++)
            ck_assert_uint_eq(got[i].seq, ++seen[got[i].lane]);
        n += (uint32_t)more;
    }
    end();
}
END_TEST

/* What a call gave is still good after others of the lane have come. */
START_TEST(pointers_are_good_until_the_next_call)
{
    begin(1);
    fake_events_set(fake, 0, 0, false, 2);
    for (uint32_t i = 0; i < 6; i++)
        fake_event(fake, 0, 0, i % 2 ? "odd" : "even");
    open_from(1);
    ck_assert_int_eq(next(EVENTS), 2);
    await_asleep(0, 0);
    usleep(5000); /* the next reply has come, or comes */
    ck_assert(key_is(&got[0], "even"));
    ck_assert(key_is(&got[1], "odd"));
    expect(PIKV_EVENT_STORED, 3, "even");
    ck_assert_int_eq(next(EVENTS), 1);
    ck_assert(key_is(&got[0], "odd"));
    end();
}
END_TEST

/* A caller that does not take events is not asked for on the daemon. */
START_TEST(a_lane_is_asked_again_only_when_its_answer_was_taken)
{
    uint32_t polls;

    begin(1);
    fake_events_set(fake, 0, 0, false, 3);
    for (uint32_t i = 0; i < 10; i++)
        fake_event(fake, 0, 0, "k");
    open_from(1);
    expect(PIKV_EVENT_STORED, 1, "k");
    for (int i = 0; i < 10000 && fake_polls(fake, 0) < 2; i++)
        usleep(1000);
    usleep(20000); /* the answer is here */
    expect(PIKV_EVENT_STORED, 2, "k");
    usleep(20000);
    polls = fake_polls(fake, 0);
    ck_assert_uint_eq(polls, 2); /* the one being taken, and one that waits */
    for (uint64_t i = 3; i <= 10; i++)
        expect(PIKV_EVENT_STORED, i, "k");
    end();
}
END_TEST

START_TEST(what_was_overwritten_is_told_once)
{
    begin(1);
    for (uint32_t i = 0; i < 10; i++)
        fake_event(fake, 0, 0, "k");
    fake_events_lose(fake, 0, 6);
    open_from(3);
    expect(PIKV_EVENT_LOST, 3, "");
    ck_assert_uint_eq(got[0].count, 4);
    expect(PIKV_EVENT_STORED, 7, "k");
    end();
}
END_TEST

START_TEST(a_restart_is_told_with_the_new_boot_and_then_all_it_has)
{
    begin(2);
    open_from(1);
    fake_event(fake, 0, 0, "a");
    expect(PIKV_EVENT_STORED, 1, "a");
    await_asleep(0, 1);
    fake_restart(fake);
    for (int i = 0; i < 2; i++) {
        expect(PIKV_EVENT_LOST, 1, "");
        ck_assert_uint_eq(got[0].count, 0);
        ck_assert_uint_eq(got[0].boot, 1001);
    }
    fake_event(fake, 0, 0, "b");
    expect(PIKV_EVENT_STORED, 1, "b");
    ck_assert_uint_eq(got[0].boot, 1001);
    end();
}
END_TEST

/* What came of the old run is told as of the old run. */
START_TEST(events_of_before_a_restart_are_told_first)
{
    struct pikv_info info = {0};

    begin(1);
    for (uint32_t i = 0; i < 3; i++)
        fake_event(fake, 0, 0, "old");
    open_from(1);
    expect(PIKV_EVENT_STORED, 1, "old");
    fake_restart(fake);
    for (int i = 0; i < 10000 && info.boot != 1001; i++) {
        usleep(1000);
        ck_assert_int_eq(pikv_info(kv, &info), PIKV_OK);
    }
    for (uint64_t i = 2; i <= 3; i++) {
        expect(PIKV_EVENT_STORED, i, "old");
        ck_assert_uint_eq(got[0].boot, 1000);
    }
    expect(PIKV_EVENT_LOST, 1, "");
    ck_assert_uint_eq(got[0].boot, 1001);
    end();
}
END_TEST

START_TEST(a_connection_that_ends_loses_nothing)
{
    begin(1);
    open_from(1);
    await_asleep(0, 1);
    fake_set_mode(fake, FAKE_DIES);
    fake_event(fake, 0, 0, "a"); /* answers the first; the next poll dies */
    expect(PIKV_EVENT_STORED, 1, "a");
    fake_event(fake, 0, 0, "b");
    ck_assert_int_eq(pikv_events_next(ev, got, 1, 100), 0);
    fake_set_mode(fake, FAKE_SERVES);
    expect(PIKV_EVENT_STORED, 2, "b");
    ck_assert_uint_eq(got[0].boot, 1000);
    end();
}
END_TEST

START_TEST(a_daemon_that_is_busy_is_asked_again)
{
    begin(1);
    fake_set_mode(fake, FAKE_REFUSES);
    open_from(1);
    ck_assert_int_eq(pikv_events_next(ev, got, 1, 50), 0);
    fake_event(fake, 0, 0, "a");
    fake_set_mode(fake, FAKE_SERVES);
    expect(PIKV_EVENT_STORED, 1, "a");
    end();
}
END_TEST

START_TEST(a_daemon_without_events_says_so)
{
    begin(1);
    fake_events_set(fake, 0, PIKV_UNSUPPORTED, false, 0);
    open_from(1);
    ck_assert_int_eq(next(1), PIKV_UNSUPPORTED);
    ck_assert_int_eq(next(1), PIKV_UNSUPPORTED);
    end();
}
END_TEST

START_TEST(nonsense_is_an_error_or_ends_the_connection)
{
    begin(1);
    fake_set_mode(fake, FAKE_GARBLES);
    open_from(1);
    ck_assert_int_eq(pikv_events_next(ev, got, 1, 50), 0);
    fake_set_mode(fake, FAKE_SERVES);
    fake_event(fake, 0, 0, "a");
    expect(PIKV_EVENT_STORED, 1, "a");
    fake_events_set(fake, 0, 0, true, 0);
    ck_assert_int_eq(next(1), PIKV_BAD_REQUEST);
    end();
}
END_TEST

START_TEST(closing_ends_the_polls_at_the_daemon)
{
    begin(2);
    for (uint32_t i = 0; i < 200; i++) {
        open_from(1);
        if (i % 3 == 0)
            (void)pikv_events_next(ev, got, 1, 0);
        pikv_events_close(ev);
    }
    ev = NULL;
    await_asleep(0, 0);
    await_asleep(1, 0);
    end();
}
END_TEST

/* The answer comes when nobody is there for it; and the handle may end with
 * polls of a subscription that is closed. */
START_TEST(an_answer_after_the_close_is_dropped)
{
    begin(1);
    fake_set_mode(fake, FAKE_HOLDS);
    open_from(1);
    (void)pikv_events_next(ev, got, 1, 10);
    pikv_events_close(ev);
    fake_event(fake, 0, 0, "a");
    fake_set_mode(fake, FAKE_SERVES);
    await_asleep(0, 0);
    fake_set_mode(fake, FAKE_HOLDS);
    open_from(1);
    (void)pikv_events_next(ev, got, 1, 10);
    pikv_events_close(ev);
    ev = NULL;
    end();
}
END_TEST

START_TEST(two_subscriptions_do_not_know_each_other)
{
    struct pikv_events *other;

    begin(1);
    fake_event(fake, 0, 0, "a");
    open_from(1);
    other = ev;
    open_from(1);
    expect(PIKV_EVENT_STORED, 1, "a");
    await_asleep(0, 1);
    ck_assert_int_eq(pikv_events_next(other, got, 1, LONG_MS), 1);
    await_asleep(0, 2);
    fake_event(fake, 0, 0, "b");
    expect(PIKV_EVENT_STORED, 2, "b");
    ck_assert_int_eq(pikv_events_next(other, got, 1, LONG_MS), 1);
    pikv_events_close(other);
    await_asleep(0, 1);
    end();
}
END_TEST

START_TEST(it_works_without_a_thread)
{
    begin_with(2, (struct pikv_options){.no_progress_thread = true});
    fake_event(fake, 1, 0, "a");
    open_from(1);
    expect(PIKV_EVENT_STORED, 1, "a");
    ck_assert_uint_eq(got[0].lane, 1);
    ck_assert_int_eq(pikv_events_next(ev, got, 1, 30), 0);
    end();
}
END_TEST

static void *put_for_long(void *arg)
{
    char byte = 1;

    (void)arg;
    for (uint32_t i = 0; i < 300; i++) {
        struct pikv_put item = {.data = {&byte, 1}};
        struct pikv_result r;
        char key[16];

        item.key.key = (struct pikv_bytes){
            key, (size_t)snprintf(key, sizeof(key), "k%u", i)};
        if (pikv_put_sync(kv, ns, &item, 1, NULL, &r))
            return (void *)1;
        fake_event(fake, 0, 0, key);
        if (i >= 200)
            usleep(100);
    }
    return NULL;
}

START_TEST(other_threads_go_on_meanwhile)
{
    pthread_t t;
    void *failed;
    uint64_t seq = 0;

    begin(1);
    open_from(1);
    ck_assert_int_eq(pthread_create(&t, NULL, put_for_long, NULL), 0);
    while (seq < 250) {
        int n = next(EVENTS);

        ck_assert_int_gt(n, 0);
        for (int i = 0; i < n; i++)
            ck_assert_uint_eq(got[i].seq, ++seq);
    }
    pthread_join(t, &failed);
    ck_assert_ptr_null(failed);
    end();
}
END_TEST

START_TEST(after_fork_the_child_is_told)
{
    int status = 0;
    pid_t pid;

    begin(1);
    fake_event(fake, 0, 0, "a");
    open_from(1);
    pid = fork();
    if (pid == 0) {
        struct pikv_events *more;
        bool ok = pikv_events_next(ev, got, 1, 0) == PIKV_FORKED &&
                  pikv_events_open(kv, ns, NULL, &more) == PIKV_FORKED;

        pikv_events_close(ev);
        _exit(ok ? 0 : 1);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    expect(PIKV_EVENT_STORED, 1, "a");
    end();
}
END_TEST

START_TEST(what_is_wrong_is_refused)
{
    struct pikv_events *more[17];

    begin(1);
    ck_assert_int_eq(pikv_events_open(kv, 200, NULL, &ev), PIKV_NO_NAMESPACE);
    ck_assert_int_eq(pikv_events_open(NULL, ns, NULL, &ev), PIKV_CLOSED);
    open_from(1);
    ck_assert_int_eq(pikv_events_next(ev, got, 0, 0), PIKV_BAD_REQUEST);
    for (uint32_t i = 0; i < countof(more); i++)
        ck_assert_int_eq(pikv_events_open(kv, ns, NULL, &more[i]),
                         i < 15 ? PIKV_OK : PIKV_LIMIT);
    for (uint32_t i = 0; i < 15; i++)
        pikv_events_close(more[i]);
    end();
    pikv_events_close(NULL);
}
END_TEST

/* A daemon that allows little in flight: polls leave some of it to others. */
START_TEST(polls_take_a_part_of_the_credit)
{
    struct pikv_namespace d = {.name = "test", .create = true};
    struct pikv_events *more[8];
    struct pikv_options o = {0};
    char byte = 1;
    struct pikv_put item = {.key = {.key = {"k", 1}}, .data = {&byte, 1}};
    struct pikv_result r;

    fake = fake_start(1);
    fake_set_credits(fake, 6, 0);
    o.address = fake_address(fake);
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), PIKV_OK);
    for (uint32_t i = 0; i < countof(more); i++) {
        open_from(1);
        more[i] = ev;
        (void)pikv_events_next(ev, got, 1, 10);
    }
    await_asleep(0, 3);
    ck_assert_int_eq(pikv_put_sync(kv, ns, &item, 1, NULL, &r), PIKV_OK);
    for (uint32_t i = 0; i < countof(more); i++)
        pikv_events_close(more[i]);
    ev = NULL;
    await_asleep(0, 0);
    end();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("pikv_events");
    TCase *t = tcase_create("subscriptions");

    tcase_add_test(t, what_the_ring_has_is_told_in_order_and_what_comes_after);
    tcase_add_test(t, from_now_on_begins_when_it_is_opened);
    tcase_add_test(t, a_position_goes_on_where_it_was);
    tcase_add_test(t, lanes_are_each_in_order);
    tcase_add_test(t, pointers_are_good_until_the_next_call);
    tcase_add_test(t, a_lane_is_asked_again_only_when_its_answer_was_taken);
    tcase_add_test(t, what_was_overwritten_is_told_once);
    tcase_add_test(t, a_restart_is_told_with_the_new_boot_and_then_all_it_has);
    tcase_add_test(t, events_of_before_a_restart_are_told_first);
    tcase_add_test(t, a_connection_that_ends_loses_nothing);
    tcase_add_test(t, a_daemon_that_is_busy_is_asked_again);
    tcase_add_test(t, a_daemon_without_events_says_so);
    tcase_add_test(t, nonsense_is_an_error_or_ends_the_connection);
    tcase_add_test(t, closing_ends_the_polls_at_the_daemon);
    tcase_add_test(t, an_answer_after_the_close_is_dropped);
    tcase_add_test(t, two_subscriptions_do_not_know_each_other);
    tcase_add_test(t, it_works_without_a_thread);
    tcase_add_test(t, other_threads_go_on_meanwhile);
    tcase_add_test(t, after_fork_the_child_is_told);
    tcase_add_test(t, what_is_wrong_is_refused);
    tcase_add_test(t, polls_take_a_part_of_the_credit);
    suite_add_tcase(s, t);
    return s;
}
