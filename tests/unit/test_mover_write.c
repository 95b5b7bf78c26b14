/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "store/mover_impl.h"
#include "tests/lib/ssd_fake.h"

static struct fake_ssd x;

static void open_ssd(uint32_t units)
{
    fssd_dones = 0;
    fssd_open(&x, units, 1, NULL);
}

static void done(void)
{
    store_check(x.f.s);
    fssd_close(&x);
}

static uint32_t find(const char *name)
{
    return sfix_find(&x.f, 1, name);
}

static enum store_where where(const char *name)
{
    return store_where(x.f.s, find(name));
}

static enum store_found why(const char *name)
{
    return sfix_why(&x.f, 1, name);
}

static const char *numbered(uint32_t n)
{
    static char name[16];

    snprintf(name, sizeof name, "n%u", n);
    return name;
}

/* ---- admission */

START_TEST(while_the_budget_binds_only_what_is_used_is_written)
{
    open_ssd(8);
    ck_assert_int_eq(fssd_put(&x, "known", NULL, NULL, MIB(1)), OK);
    x.maps[0].binding = 1;
    fssd_run(&x);
    ck_assert_uint_eq(x.f.metrics.ssd_deferred_blocks, 1);
    ck_assert(!store_on_ssd(x.f.s, find("known")));
    store_use(x.f.s, find("known")); /* a later use brings it back */
    fssd_run(&x);
    ck_assert(store_on_ssd(x.f.s, find("known")));
    /* What it does not take is not admitted when it leaves memory. */
    for (uint32_t i = 0; i < 20; i++) {
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, NULL, MIB(1)), OK);
        fssd_run(&x);
    }
    ck_assert_int_eq(why("n0"), FOUND_MISS_NOT_ADMITTED);
    ck_assert_uint_eq(x.puts, 1);
    /* Wanted again: its reuse is predicted. */
    ck_assert_int_eq(fssd_put(&x, "n0", NULL, NULL, MIB(1)), OK);
    fssd_run(&x);
    ck_assert(store_on_ssd(x.f.s, find("n0")));
    done();
}
END_TEST

START_TEST(what_is_under_way_stays_within_the_window)
{
    open_ssd(16);
    x.ssd.write_window = MIB(3);
    x.hold = true;
    for (uint32_t i = 0; i < 16; i++)
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, NULL, MIB(1)), OK);
    for (int i = 0; i < 20; i++)
        fssd_turn(&x);
    ck_assert_uint_eq(x.f.s->mover->write_bytes, MIB(3));
    x.hold = false;
    fssd_run(&x);
    ck_assert_uint_eq(x.puts, 16);
    /* One block longer than the window goes alone. */
    x.ssd.write_window = KIB(4);
    fssd_put_written(&x, "long", NULL, MIB(1));
    done();
}
END_TEST

START_TEST(a_block_too_long_for_a_segment_stays_in_memory)
{
    open_ssd(8);
    ck_assert_int_eq(fssd_put(&x, "long", NULL, NULL, MIB(3)), OK);
    ck_assert_int_eq(fssd_put(&x, "empty", NULL, NULL, 0), OK);
    fssd_run(&x);
    ck_assert_uint_eq(x.puts, 0);
    store_demote(x.f.s, find("long"));
    fssd_run(&x);
    ck_assert_int_eq(where("long"), WHERE_MEMORY);
    done();
}
END_TEST

START_TEST(a_key_goes_to_the_same_device_every_time)
{
    uint32_t on[3] = {0};

    fssd_open(&x, 8, 3, NULL);
    for (uint32_t i = 0; i < 60; i++) {
        uint32_t b = fssd_put_cold(&x, numbered(i), NULL, 4096);
        uint32_t dev = seg_dev(fssd_place(&x, b).tag);

        on[dev]++;
        store_drop(x.f.s, b);
        b = fssd_put_cold(&x, numbered(i), NULL, 4096);
        ck_assert_uint_eq(seg_dev(fssd_place(&x, b).tag), dev);
    }
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_uint_gt(on[i], 5);
    /* One that cannot be written is passed over. */
    x.maps[1].state = SEGLOG_READ_ONLY;
    for (uint32_t i = 100; i < 130; i++)
        ck_assert_uint_ne(
            seg_dev(
                fssd_place(&x, fssd_put_cold(&x, numbered(i), NULL, 4096)).tag),
            1);
    for (uint32_t i = 0; i < 60; i++)
        ck_assert_int_eq(fssd_get(&x, numbered(i)), OK);
    done();
}
END_TEST

START_TEST(a_failed_write_leaves_the_block_in_memory)
{
    open_ssd(8);
    x.fail = ERR_IO;
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    fssd_run(&x);
    ck_assert_int_eq(where("a"), WHERE_MEMORY);
    ck_assert(!store_on_ssd(x.f.s, find("a")));
    store_check(x.f.s);
    x.fail = OK;
    fssd_run(&x);
    ck_assert_uint_eq(x.puts, 0);
    store_use(x.f.s, find("a"));
    fssd_run(&x);
    ck_assert_uint_eq(x.puts, 1);
    done();
}
END_TEST

START_TEST(while_the_budget_binds_children_of_unwritten_parents_wait)
{
    open_ssd(8);
    x.maps[0].binding = 1;
    ck_assert_int_eq(fssd_put(&x, "up", NULL, NULL, 5000), OK);
    ck_assert_int_eq(fssd_put(&x, "child", "up", NULL, 5000), OK);
    ck_assert_int_eq(fssd_put(&x, "grandchild", "child", NULL, 5000), OK);
    store_use(x.f.s, find("child"));
    store_use(x.f.s, find("grandchild"));
    fssd_run(&x);
    ck_assert_uint_eq(x.puts, 0);
    /* As a GET of all of them does. */
    store_use(x.f.s, find("up"));
    store_use(x.f.s, find("child"));
    store_use(x.f.s, find("grandchild"));
    fssd_run(&x);
    ck_assert_uint_eq(x.puts, 3);
    done();
}
END_TEST

START_TEST(a_parent_that_was_dropped_keeps_its_children_off_a_scarce_ssd)
{
    open_ssd(8);
    x.maps[0].binding = 1;
    ck_assert_int_eq(fssd_put(&x, "up", NULL, NULL, 5000), OK);
    ck_assert_int_eq(fssd_put(&x, "child", "up", NULL, 5000), OK);
    store_drop(x.f.s, find("up"));
    store_use(x.f.s, find("child"));
    fssd_run(&x);
    ck_assert_uint_eq(x.puts, 0);
    x.maps[0].binding = 0;
    store_use(x.f.s, find("child"));
    fssd_run(&x);
    ck_assert_uint_eq(x.puts, 1);
    done();
}
END_TEST

START_TEST(a_block_dropped_before_or_while_it_is_written_gets_no_place)
{
    open_ssd(8);
    x.hold = true;
    ck_assert_int_eq(fssd_put(&x, "queued", NULL, NULL, 5000), OK);
    store_drop(x.f.s, find("queued"));
    ck_assert_int_eq(fssd_put(&x, "sent", NULL, NULL, 5000), OK);
    fssd_turn(&x);
    store_drop(x.f.s, find("sent"));
    store_check(x.f.s);
    ck_assert_int_eq(fssd_put(&x, "sent", NULL, NULL, 7000), OK);
    x.hold = false;
    fssd_run(&x);
    ck_assert_uint_eq(x.puts, 2);
    ck_assert_uint_eq(x.f.metrics.ssd_blocks, 1);
    ck_assert_uint_eq(store_len(x.f.s, find("sent")), 7000);
    done();
}
END_TEST

/* ---- durability */

static enum err persist(const char *name)
{
    struct store_wait w = {.done = fssd_done};
    uint32_t b = find(name);
    enum err e;

    store_ref(x.f.s, b);
    e = store_persist(x.f.s, b, &w);
    if (!e) {
        ck_assert_uint_eq(w.pending, 1);
        fssd_run(&x);
        ck_assert_uint_eq(w.pending, 0);
        e = w.err;
    }
    store_unref(x.f.s, b);
    return e;
}

START_TEST(persist_writes_now_whatever_the_budget)
{
    open_ssd(8);
    x.maps[0].binding = 1;
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    ck_assert_int_eq(persist("a"), OK);
    ck_assert_uint_eq(x.puts, 1);
    ck_assert_uint_eq(x.flushes, 0); /* the request itself was durable */
    ck_assert_int_eq(persist("a"), OK);
    ck_assert_uint_eq(x.puts, 1);
    ck_assert_uint_eq(x.flushes, 1);
    done();
}
END_TEST

START_TEST(persist_of_a_block_being_written_flushes_after_it)
{
    struct store_wait w[2] = {{.done = fssd_done}, {.done = fssd_done}};
    uint32_t b;

    open_ssd(8);
    x.hold = true;
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    fssd_turn(&x);
    store_ref(x.f.s, b = find("a"));
    ck_assert_int_eq(store_persist(x.f.s, b, &w[0]), OK);
    ck_assert_int_eq(store_persist(x.f.s, b, &w[1]), OK);
    store_check(x.f.s);
    x.hold = false;
    fssd_run(&x);
    ck_assert_uint_eq(fssd_dones, 2);
    ck_assert_uint_eq(x.puts, 1);
    ck_assert_uint_eq(x.flushes, 2);
    store_unref(x.f.s, b);
    done();
}
END_TEST

START_TEST(what_cannot_be_made_durable_says_so)
{
    open_ssd(8);
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    x.fail = ERR_IO;
    ck_assert_int_eq(persist("a"), ERR_NOT_DURABLE);
    x.fail = OK;
    ck_assert_int_eq(persist("a"), OK);
    x.fail_order = ERR_IO;
    ck_assert_int_eq(persist("a"), ERR_NOT_DURABLE);
    x.fail_order = OK;
    x.maps[0].state = SEGLOG_READ_ONLY;
    ck_assert_int_eq(fssd_put(&x, "b", NULL, NULL, 5000), OK);
    ck_assert_int_eq(persist("b"), ERR_NOT_DURABLE);
    ck_assert_int_eq(fssd_put(&x, "long", NULL, NULL, MIB(3)), OK);
    ck_assert_int_eq(persist("long"), ERR_NOT_DURABLE);
    done();
}
END_TEST

START_TEST(without_an_ssd_nothing_is_durable_and_drops_are_plain)
{
    struct store_wait w = {.done = fssd_done};
    uint32_t b;

    sfix_open(&x.f, 4, NULL);
    ck_assert_int_eq(sfix_put(&x.f, 1, "a", NULL, 5000), OK);
    b = find("a");
    ck_assert_int_eq(store_persist(x.f.s, b, &w), ERR_UNSUPPORTED);
    store_demote(x.f.s, b);
    ck_assert_int_eq(where("a"), WHERE_MEMORY);
    ck_assert(!store_on_ssd(x.f.s, b));
    ck_assert_uint_eq(store_eta_us(x.f.s, b), 0);
    ck_assert(store_ssd_idle(x.f.s));
    store_ssd_lost(x.f.s, 0);
    ck_assert_int_eq(store_drop_durable(x.f.s, b, &w), OK);
    ck_assert_uint_eq(w.pending, 0);
    ck_assert_uint_eq(find("a"), 0);
    store_check(x.f.s);
    sfix_close(&x.f);
}
END_TEST

START_TEST(a_drop_waits_for_its_tomb_where_there_may_be_a_record)
{
    struct store_wait w = {.done = fssd_done};
    uint64_t version;
    uint32_t segment;

    open_ssd(8);
    x.hold = true;
    ck_assert_int_eq(fssd_put(&x, "memory", NULL, NULL, 5000), OK);
    ck_assert_int_eq(store_drop_durable(x.f.s, find("memory"), &w), OK);
    ck_assert_uint_eq(w.pending, 0); /* never sent */
    x.hold = false;
    fssd_put_cold(&x, "cold", NULL, 5000);
    version = store_version(x.f.s, find("cold"));
    ck_assert_int_eq(store_drop_durable(x.f.s, find("cold"), &w), OK);
    ck_assert_uint_eq(find("cold"), 0);
    fssd_put_written(&x, "live", NULL, 5000);
    ck_assert_int_eq(store_drop_durable(x.f.s, find("live"), &w), OK);
    ck_assert_uint_ge(w.pending, 1); /* one wait for several drops */
    ck_assert_int_eq(x.last_tomb.version == version, true);
    /* The place has gone, the record may be there still. */
    fssd_put_written(&x, "was", NULL, 5000);
    segment = fssd_segment_of(&x, find("was"));
    fssd_reclaim(&x, 0, segment, 0);
    ck_assert(!store_on_ssd(x.f.s, find("was")));
    ck_assert_int_eq(store_drop_durable(x.f.s, find("was"), NULL), OK);
    fssd_run(&x);
    ck_assert_uint_eq(w.pending, 0);
    ck_assert_int_eq(w.err, OK);
    ck_assert_uint_eq(x.tombs, 3);
    x.hold = true;
    ck_assert_int_eq(fssd_put(&x, "sent", NULL, NULL, 5000), OK);
    fssd_turn(&x);
    ck_assert_int_eq(store_drop_durable(x.f.s, find("sent"), &w), OK);
    ck_assert_uint_eq(w.pending, 1);
    x.fail_order = ERR_IO;
    x.hold = false;
    fssd_run(&x);
    ck_assert_int_eq(w.err, ERR_NOT_DURABLE);
    done();
}
END_TEST

START_TEST(after_a_lost_tomb_no_drop_is_told_to_be_durable)
{
    struct store_wait w = {.done = fssd_done};

    open_ssd(8);
    fssd_put_written(&x, "a", NULL, 5000);
    x.fail_order = ERR_IO;
    ck_assert_int_eq(store_drop_durable(x.f.s, find("a"), NULL), OK);
    fssd_run(&x);
    x.fail_order = OK;
    x.hold = true; /* the next "a" is in memory only */
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    ck_assert_int_eq(store_drop_durable(x.f.s, find("a"), &w), OK);
    ck_assert_uint_eq(w.pending, 1);
    ck_assert_uint_eq(find("a"), 0);
    x.hold = false;
    fssd_run(&x);
    ck_assert_uint_eq(w.pending, 0);
    ck_assert_int_eq(w.err, ERR_NOT_DURABLE);
    done();
}
END_TEST

START_TEST(too_many_tombs_are_busy_and_drop_nothing)
{
    uint32_t n = 0;

    open_ssd(16);
    for (uint32_t i = 0; i <= MOVER_REQS; i++)
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, NULL, 4096), OK);
    fssd_run(&x);
    x.hold = true;
    while (n <= MOVER_REQS &&
           store_drop_durable(x.f.s, find(numbered(n)), NULL) == OK)
        n++;
    ck_assert_uint_eq(n, MOVER_REQS);
    ck_assert_uint_ne(find(numbered(n)), 0);
    x.hold = false;
    fssd_run(&x);
    ck_assert_uint_eq(x.tombs, MOVER_REQS);
    done();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("mover_write");
    TCase *t = tcase_create("mover_write");

    tcase_set_timeout(t, 120);
    tcase_add_test(t, while_the_budget_binds_only_what_is_used_is_written);
    tcase_add_test(t,
                   while_the_budget_binds_children_of_unwritten_parents_wait);
    tcase_add_test(
        t, a_parent_that_was_dropped_keeps_its_children_off_a_scarce_ssd);
    tcase_add_test(t, what_is_under_way_stays_within_the_window);
    tcase_add_test(t, a_block_too_long_for_a_segment_stays_in_memory);
    tcase_add_test(t, a_key_goes_to_the_same_device_every_time);
    tcase_add_test(t, a_failed_write_leaves_the_block_in_memory);
    tcase_add_test(t,
                   a_block_dropped_before_or_while_it_is_written_gets_no_place);
    tcase_add_test(t, persist_writes_now_whatever_the_budget);
    tcase_add_test(t, persist_of_a_block_being_written_flushes_after_it);
    tcase_add_test(t, what_cannot_be_made_durable_says_so);
    tcase_add_test(t, without_an_ssd_nothing_is_durable_and_drops_are_plain);
    tcase_add_test(t, a_drop_waits_for_its_tomb_where_there_may_be_a_record);
    tcase_add_test(t, after_a_lost_tomb_no_drop_is_told_to_be_durable);
    tcase_add_test(t, too_many_tombs_are_busy_and_drop_nothing);
    suite_add_tcase(s, t);
    return s;
}
