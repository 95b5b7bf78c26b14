/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "store/mover_impl.h"
#include "tests/lib/ssd_fake.h"

static struct fake_ssd x;

static void open_ssd(uint32_t devs)
{
    fssd_dones = 0;
    fssd_open(&x, 8, devs, NULL);
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

static void hang_reads(void)
{
    x.disk.fault = (struct disk_mem_fault){
        .mask = MEM_READS, .nth = 1, .forever = true, .hang = true};
}

static void unhang(void)
{
    x.disk.fault = (struct disk_mem_fault){0};
    disk_mem_unhang(&x.disk);
}

static void turns(int n)
{
    for (int i = 0; i < n; i++)
        fssd_turn(&x);
}

static void pass_ms(uint32_t ms)
{
    x.f.env.now_ns += ms * NS_PER_MS;
    fssd_turn(&x);
}

static uint32_t peeks;
static enum err peek_err;

static void peeked(struct store_peek *p)
{
    peeks++;
    peek_err = p->err;
}

/* ---- nobody waits any more */

START_TEST(a_persist_that_is_cancelled_goes_on_without_its_owner)
{
    struct store_wait w = {.done = fssd_done}, other = {.done = fssd_done};
    uint32_t b;

    open_ssd(1);
    x.hold = true;
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    store_ref(x.f.s, b = find("a"));
    ck_assert_int_eq(store_persist(x.f.s, b, &w), OK);
    ck_assert_int_eq(store_persist(x.f.s, b, &other), OK);
    store_wait_cancel(x.f.s, &w);
    ck_assert_uint_eq(w.pending, 0);
    store_wait_cancel(x.f.s, &w); /* nothing */
    store_unref(x.f.s, b);
    store_check(x.f.s);
    memset(&w, 0xff, sizeof w); /* its memory is the owner's again */
    x.hold = false;
    fssd_run(&x);
    ck_assert_uint_eq(fssd_dones, 1);
    ck_assert_int_eq(other.err, OK);
    ck_assert(store_on_ssd(x.f.s, b));
    done();
}
END_TEST

START_TEST(a_wait_for_several_tombs_ends_with_one_cancel)
{
    struct store_wait w = {.done = fssd_done};

    open_ssd(1);
    fssd_put_cold(&x, "a", NULL, 5000);
    fssd_put_cold(&x, "b", NULL, 5000);
    ck_assert_int_eq(store_drop_durable(x.f.s, find("a"), &w), OK);
    ck_assert_int_eq(store_drop_durable(x.f.s, find("b"), &w), OK);
    ck_assert_uint_eq(w.pending, 2);
    store_wait_cancel(x.f.s, &w);
    ck_assert_uint_eq(w.pending, 0);
    fssd_run(&x);
    ck_assert_uint_eq(x.tombs, 2);
    ck_assert_uint_eq(fssd_dones, 0);
    done();
}
END_TEST

START_TEST(a_load_that_is_cancelled_in_any_phase_leaves_others_alone)
{
    struct store_wait w[3];

    open_ssd(1);
    fssd_put_cold(&x, "a", NULL, 5000);
    ck_assert_int_eq(fssd_load(&x, "a", &w[0]), OK);
    store_wait_cancel(x.f.s, &w[0]); /* nothing was read for nobody */
    ck_assert_int_eq(store_where(x.f.s, find("a")), WHERE_SSD);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(fssd_load(&x, "a", &w[i]), OK);
    store_wait_cancel(x.f.s, &w[1]);
    store_tick(x.f.s); /* it flies */
    store_wait_cancel(x.f.s, &w[0]);
    fssd_run(&x);
    ck_assert_uint_eq(fssd_dones, 1);
    ck_assert_int_eq(w[2].err, OK);
    store_unref(x.f.s, w[2].block);
    done();
}
END_TEST

START_TEST(a_peek_that_is_cancelled_is_not_told)
{
    struct store_peek p[2] = {{.done = peeked}, {.done = peeked}};

    open_ssd(1);
    peeks = 0;
    fssd_put_cold(&x, "a", NULL, 5000);
    ck_assert_int_eq(store_peek(x.f.s, find("a"), &p[0]), OK);
    ck_assert_int_eq(store_peek(x.f.s, find("a"), &p[1]), OK);
    store_peek_cancel(x.f.s, &p[0]);
    store_peek_cancel(x.f.s, &p[0]); /* nothing */
    fssd_run(&x);
    ck_assert_uint_eq(peeks, 1);
    ck_assert_int_eq(peek_err, OK);
    store_peek_cancel(x.f.s, &p[1]); /* it was told */
    ck_assert_int_eq(store_peek(x.f.s, find("a"), &p[0]), OK);
    store_peek_cancel(x.f.s, &p[0]);
    fssd_run(&x);
    ck_assert_uint_eq(peeks, 1);
    done();
}
END_TEST

/* ---- a peek and what became of its block */

static void peek_begin(struct store_peek *p, const char *name)
{
    *p = (struct store_peek){.done = peeked};
    peeks = 0;
    ck_assert_int_eq(store_peek(x.f.s, find(name), p), OK);
}

START_TEST(a_peek_of_a_block_that_went_meanwhile_is_a_miss)
{
    struct store_peek p;
    uint32_t b;

    open_ssd(1);
    b = fssd_put_cold(&x, "a", NULL, 5000);
    peek_begin(&p, "a");
    store_drop(x.f.s, b);
    fssd_run(&x);
    ck_assert_uint_eq(peeks, 1);
    ck_assert_int_eq(peek_err, ERR_MISS);
    /* Its id is another block's. */
    b = fssd_put_cold(&x, "a", NULL, 5000);
    peek_begin(&p, "a");
    store_drop(x.f.s, b);
    ck_assert_int_eq(fssd_put(&x, "other", NULL, NULL, 100), OK);
    ck_assert_uint_eq(find("other"), b);
    fssd_run(&x);
    ck_assert_int_eq(peek_err, ERR_MISS);
    /* Or the same key's, put again. */
    b = fssd_put_cold(&x, "a", NULL, 5000);
    peek_begin(&p, "a");
    store_drop(x.f.s, b);
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 100), OK);
    fssd_run(&x);
    ck_assert_int_eq(peek_err, ERR_MISS);
    done();
}
END_TEST

START_TEST(a_peek_of_a_block_that_came_to_memory_meanwhile_is_good)
{
    struct store_peek p;

    open_ssd(1);
    fssd_put_cold(&x, "a", NULL, 5000);
    peek_begin(&p, "a");
    ck_assert_int_eq(fssd_get(&x, "a"), OK);
    fssd_run(&x);
    ck_assert_uint_eq(peeks, 1);
    ck_assert_int_eq(peek_err, OK);
    done();
}
END_TEST

START_TEST(a_peek_into_an_old_generation_is_a_miss)
{
    struct store_ns_cfg ns = sfix_ns(1, 2, NULL);
    struct store_peek p;

    open_ssd(1);
    fssd_put_cold(&x, "a", NULL, 5000);
    peek_begin(&p, "a");
    ck_assert_int_eq(store_ns_set(x.f.s, &ns), OK);
    fssd_run(&x);
    ck_assert_int_eq(peek_err, ERR_MISS);
    done();
}
END_TEST

/* ---- devices that do not answer */

START_TEST(a_read_that_hangs_makes_its_device_suspect_in_time)
{
    struct store_wait w;
    uint64_t at;

    open_ssd(2);
    x.maps[0].hang_ns = x.maps[1].hang_ns = 100 * NS_PER_MS;
    ck_assert_uint_eq(store_next_ns(x.f.s), DEADLINE_NEVER);
    fssd_put_cold(&x, "a", NULL, 5000);
    hang_reads();
    ck_assert_int_eq(fssd_load(&x, "a", &w), OK);
    at = x.f.env.now_ns;
    store_tick(x.f.s);
    ck_assert_uint_eq(store_next_ns(x.f.s), at + 100 * NS_PER_MS);
    pass_ms(99);
    ck_assert_uint_eq(x.maps[0].suspect + x.maps[1].suspect, 0);
    pass_ms(1);
    ck_assert_uint_eq(x.maps[0].suspect + x.maps[1].suspect, 1);
    ck_assert_uint_eq(store_next_ns(x.f.s), DEADLINE_NEVER);
    turns(5);
    ck_assert_uint_eq(x.flushes, 1); /* so that the owner wakes, once */
    ck_assert_uint_eq(fssd_dones, 0);
    unhang();
    fssd_run(&x);
    ck_assert_uint_eq(fssd_dones, 1);
    if (!w.err)
        store_unref(x.f.s, w.block);
    done();
}
END_TEST

START_TEST(nothing_hangs_where_the_log_allows_any_time)
{
    struct store_peek p;

    open_ssd(1);
    fssd_put_cold(&x, "a", NULL, 5000);
    hang_reads();
    peek_begin(&p, "a");
    ck_assert_uint_eq(store_next_ns(x.f.s), DEADLINE_NEVER);
    pass_ms(1000000);
    ck_assert_uint_eq(x.maps[0].suspect, 0);
    unhang();
    done();
}
END_TEST

START_TEST(all_who_wait_for_a_device_that_failed_are_told_at_once)
{
    struct store_wait drop = {.done = fssd_done}, put = {.done = fssd_done};
    struct store_wait load;
    struct store_peek p;
    uint32_t b;

    open_ssd(1);
    fssd_put_cold(&x, "a", NULL, 5000);
    fssd_put_cold(&x, "b", NULL, 5000);
    fssd_put_cold(&x, "c", NULL, 5000);
    x.hold = true;
    hang_reads();
    ck_assert_int_eq(fssd_put(&x, "w", NULL, NULL, 5000), OK);
    store_ref(x.f.s, b = find("w"));
    ck_assert_int_eq(store_persist(x.f.s, b, &put), OK);
    ck_assert_int_eq(store_drop_durable(x.f.s, find("a"), &drop), OK);
    peek_begin(&p, "b");
    ck_assert_int_eq(fssd_load(&x, "c", &load), OK);
    turns(10);
    ck_assert_uint_eq(fssd_dones + peeks, 0);
    x.maps[0].state = SEGLOG_FAILED;
    store_tick(x.f.s);
    ck_assert_uint_eq(fssd_dones, 3);
    ck_assert_int_eq(put.err, ERR_NOT_DURABLE);
    ck_assert_int_eq(drop.err, ERR_NOT_DURABLE);
    ck_assert_int_eq(load.err, ERR_MISS);
    ck_assert_uint_eq(peeks, 1);
    ck_assert_int_eq(peek_err, ERR_MISS);
    store_unref(x.f.s, b);
    /* Memory under the ios stays where it is until the disk gives it back. */
    ck_assert_uint_eq(hot_of(x.f.s, b)->refs, 1);
    ck_assert(!store_ssd_idle(x.f.s));
    store_check(x.f.s);
    x.hold = false;
    x.fail = x.fail_order = ERR_IO;
    unhang();
    fssd_run(&x);
    ck_assert(store_ssd_idle(x.f.s));
    ck_assert_uint_eq(fssd_dones, 3);
    ck_assert_uint_eq(peeks, 1);
    done();
}
END_TEST

static struct store_wait chain[3];

/* As an op that ends does: it lets go of all that it still waits for. */
static void chain_done(struct store_wait *w)
{
    (void)w;
    fssd_dones++;
    for (int i = 0; i < 3; i++)
        store_wait_cancel(x.f.s, &chain[i]);
}

START_TEST(who_is_told_that_a_device_failed_may_cancel_the_rest)
{
    static const char *const names[] = {"a", "b", "c"};

    open_ssd(1);
    for (int i = 0; i < 3; i++)
        fssd_put_cold(&x, names[i], NULL, 5000);
    x.hold = true;
    for (int i = 0; i < 3; i++) {
        chain[i] = (struct store_wait){.done = chain_done};
        ck_assert_int_eq(store_drop_durable(x.f.s, find(names[i]), &chain[i]),
                         OK);
    }
    x.maps[0].state = SEGLOG_FAILED;
    store_tick(x.f.s);
    ck_assert_uint_eq(fssd_dones, 1);
    x.hold = false;
    done();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("mover_ends");
    TCase *t = tcase_create("mover_ends");

    tcase_add_test(t, a_persist_that_is_cancelled_goes_on_without_its_owner);
    tcase_add_test(t, a_wait_for_several_tombs_ends_with_one_cancel);
    tcase_add_test(t,
                   a_load_that_is_cancelled_in_any_phase_leaves_others_alone);
    tcase_add_test(t, a_peek_that_is_cancelled_is_not_told);
    tcase_add_test(t, a_peek_of_a_block_that_went_meanwhile_is_a_miss);
    tcase_add_test(t, a_peek_of_a_block_that_came_to_memory_meanwhile_is_good);
    tcase_add_test(t, a_peek_into_an_old_generation_is_a_miss);
    tcase_add_test(t, a_read_that_hangs_makes_its_device_suspect_in_time);
    tcase_add_test(t, nothing_hangs_where_the_log_allows_any_time);
    tcase_add_test(t, all_who_wait_for_a_device_that_failed_are_told_at_once);
    tcase_add_test(t, who_is_told_that_a_device_failed_may_cancel_the_rest);
    suite_add_tcase(s, t);
    return s;
}
