/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
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

/* n blocks of one group, COLD. */
static void cold_group(uint32_t n, uint64_t len, const struct wire_attr *attr)
{
    for (uint32_t i = 0; i < n; i++)
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, attr, len), OK);
    fssd_run(&x);
    for (uint32_t i = 0; i < n; i++)
        store_demote(x.f.s, find(numbered(i)));
    ck_assert_uint_eq(x.f.metrics.cold_blocks, n);
}

static void fail_disk(uint32_t mask, uint32_t nth, bool forever, bool hang)
{
    x.disk.fault = (struct disk_mem_fault){.mask = mask,
                                           .nth = nth,
                                           .forever = forever,
                                           .hang = hang,
                                           .err = ERR_IO};
}

/* ---- loads */

START_TEST(all_who_wait_for_a_block_share_one_load)
{
    struct store_wait w[3];
    uint32_t b;

    open_ssd(8);
    b = fssd_put_cold(&x, "a", NULL, 100000);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_int_eq(fssd_load(&x, "a", &w[i]), OK);
    ck_assert_int_eq(where("a"), WHERE_LOADING);
    ck_assert_uint_eq(fssd_dones, 0);
    store_check(x.f.s);
    fssd_run(&x);
    ck_assert_uint_eq(fssd_dones, 3);
    ck_assert_uint_eq(x.f.metrics.ssd_loads, 1);
    ck_assert_uint_eq(x.f.metrics.ssd_loads_joined, 2);
    ck_assert_uint_eq(x.f.metrics.ssd_reads, 1);
    for (uint32_t i = 0; i < 3; i++) {
        ck_assert_int_eq(w[i].err, OK);
        ck_assert_uint_eq(w[i].block, b);
        ck_assert(fssd_same(&x, b));
        store_unref(x.f.s, b);
    }
    done();
}
END_TEST

START_TEST(nothing_is_read_for_nobody)
{
    struct store_wait w[2];

    open_ssd(8);
    fssd_put_cold(&x, "a", NULL, 100000);
    ck_assert_int_eq(fssd_load(&x, "a", &w[0]), OK);
    ck_assert_int_eq(fssd_load(&x, "a", &w[1]), OK);
    store_wait_cancel(x.f.s, &w[0]);
    ck_assert_int_eq(where("a"), WHERE_LOADING);
    store_wait_cancel(x.f.s, &w[1]);
    store_wait_cancel(x.f.s, &w[1]); /* harmless */
    ck_assert_int_eq(where("a"), WHERE_SSD);
    store_check(x.f.s);
    fssd_run(&x);
    ck_assert_uint_eq(x.f.metrics.ssd_reads, 0);
    ck_assert_uint_eq(fssd_dones, 0);
    ck_assert_int_eq(fssd_get(&x, "a"), OK);
    done();
}
END_TEST

START_TEST(a_load_under_way_goes_on_when_its_waiter_left)
{
    struct store_wait w;

    open_ssd(8);
    fssd_put_cold(&x, "a", NULL, 100000);
    ck_assert_int_eq(fssd_load(&x, "a", &w), OK);
    fssd_turn(&x);
    store_wait_cancel(x.f.s, &w);
    fssd_run(&x);
    ck_assert_uint_eq(fssd_dones, 0);
    ck_assert_int_eq(where("a"), WHERE_MEMORY);
    done();
}
END_TEST

START_TEST(prefetch_waits_for_nobody_and_yields_to_demand)
{
    struct store_key k;
    struct store_wait w;

    open_ssd(8);
    fssd_put_cold(&x, "a", NULL, 100000);
    k = sfix_key(&x.f, 1, "a");
    ck_assert_int_eq(store_load(x.f.s, find("a"), &k, LOAD_PREFETCH, NULL), OK);
    ck_assert_int_eq(store_load(x.f.s, find("a"), &k, LOAD_PREFETCH, NULL), OK);
    ck_assert_int_eq(fssd_load(&x, "a", &w), OK);
    ck_assert(!list_empty(&x.f.s->mover->fresh[LOAD_DEMAND]));
    store_wait_cancel(x.f.s, &w);
    fssd_run(&x);
    ck_assert_int_eq(where("a"), WHERE_MEMORY);
    ck_assert_uint_eq(x.f.metrics.prefetched_blocks, 1);
    done();
}
END_TEST

START_TEST(neighbours_are_read_at_once)
{
    struct store_wait w[20];

    open_ssd(8);
    cold_group(20, KIB(64), NULL);
    for (uint32_t i = 20; i-- > 0;)
        ck_assert_int_eq(fssd_load(&x, numbered(i), &w[i]), OK);
    fssd_run(&x);
    ck_assert_uint_eq(x.f.metrics.ssd_reads, 1);
    ck_assert_uint_eq(x.f.metrics.ssd_loads, 20);
    for (uint32_t i = 0; i < 20; i++) {
        ck_assert_int_eq(w[i].err, OK);
        ck_assert(fssd_same(&x, w[i].block));
        store_unref(x.f.s, w[i].block);
    }
    done();
}
END_TEST

START_TEST(rich_blocks_of_a_group_share_its_header_page)
{
    struct wire_attr attr = {.label0 = 5, .priority = 9};
    struct store_wait w[20];
    struct store_info info;

    open_ssd(8);
    cold_group(20, KIB(4), &attr);
    for (uint32_t i = 0; i < 20; i++)
        ck_assert_int_eq(fssd_load(&x, numbered(i), &w[i]), OK);
    store_check(x.f.s);
    fssd_run(&x);
    /* The header lies before the first payload: all in one. */
    ck_assert_uint_eq(x.f.metrics.ssd_reads, 1);
    for (uint32_t i = 0; i < 20; i++) {
        ck_assert_int_eq(w[i].err, OK);
        store_info(x.f.s, w[i].block, &info);
        ck_assert_uint_eq(info.attr.label0, 5);
        ck_assert_uint_eq(hot_of(x.f.s, w[i].block)->node.priority, 9);
        store_unref(x.f.s, w[i].block);
    }
    done();
}
END_TEST

START_TEST(parents_and_attributes_come_back_with_the_block)
{
    struct wire_attr attr = {.page = 3, .label2 = 11};
    struct store_info info;

    open_ssd(8);
    ck_assert_int_eq(fssd_put(&x, "a", "its parent", &attr, 5000), OK);
    fssd_run(&x);
    store_demote(x.f.s, find("a"));
    ck_assert_int_eq(fssd_get(&x, "a"), OK);
    store_info(x.f.s, find("a"), &info);
    ck_assert_uint_eq(info.parent_len, 10);
    ck_assert_mem_eq(info.parent, "its parent", 10);
    ck_assert_uint_eq(info.attr.page, 3);
    ck_assert_uint_eq(info.attr.label2, 11);
    ck_assert_mem_eq(info.key.key, "a", 1);
    done();
}
END_TEST

START_TEST(a_block_longer_than_an_io_is_read_in_several)
{
    open_ssd(40);
    x.maps[0].segment_pages = 1 << 14;
    x.ssd.write_window = MIB(64);
    fssd_put_cold(&x, "big", NULL, MIB(20) + 5);
    ck_assert_int_eq(fssd_get(&x, "big"), OK);
    ck_assert_uint_eq(x.f.metrics.ssd_reads, 2);
    done();
}
END_TEST

START_TEST(a_block_of_more_extents_than_an_io_has_spans_is_read_in_several)
{
    struct store_info info;

    open_ssd(8);
    x.maps[0].segment_pages = 1 << 14;
    for (uint32_t i = 0; i < 8 * 512; i++) {
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, NULL, 4096), OK);
        if (i % 2)
            ck_assert_int_eq(store_pin(x.f.s, find(numbered(i))), OK);
    }
    fssd_run(&x);
    fssd_put_cold(&x, "big", NULL, MIB(3));
    ck_assert_int_eq(fssd_get(&x, "big"), OK);
    store_info(x.f.s, find("big"), &info);
    ck_assert_uint_gt(info.extents, DISK_IO_SPANS);
    ck_assert_uint_eq(x.f.metrics.ssd_reads, 2);
    done();
}
END_TEST

START_TEST(loads_are_busy_beyond_their_window_and_go_on_later)
{
    struct store_wait w[3];
    struct store_key k;
    uint64_t freed;

    open_ssd(8);
    x.ssd.load_window = KIB(256);
    cold_group(3, KIB(128), NULL);
    ck_assert_int_eq(fssd_load(&x, "n0", &w[0]), OK);
    k = sfix_key(&x.f, 1, "n1");
    ck_assert_int_eq(store_load(x.f.s, find("n1"), &k, LOAD_PREFETCH, NULL),
                     ERR_BUSY); /* half of it is for demand */
    ck_assert_int_eq(fssd_load(&x, "n1", &w[1]), OK);
    freed = store_freed(x.f.s);
    ck_assert_int_eq(fssd_load(&x, "n2", &w[2]), ERR_BUSY);
    ck_assert_uint_eq(w[2].pending, 0);
    ck_assert_uint_eq(store_freed(x.f.s), freed);
    fssd_run(&x);
    ck_assert_uint_ne(store_freed(x.f.s), freed);
    ck_assert_int_eq(fssd_load(&x, "n2", &w[2]), OK);
    fssd_run(&x);
    for (uint32_t i = 0; i < 3; i++)
        store_unref(x.f.s, w[i].block);
    done();
}
END_TEST

START_TEST(a_load_that_finds_no_memory_is_busy_and_changes_nothing)
{
    struct store_wait w;
    uint64_t freed;
    uint32_t a, b;

    open_ssd(1);
    fssd_put_cold(&x, "cold", NULL, MIB(1));
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, MIB(1)), OK);
    ck_assert_int_eq(fssd_put(&x, "b", NULL, NULL, MIB(1)), OK);
    fssd_run(&x);
    store_ref(x.f.s, a = find("a"));
    store_ref(x.f.s, b = find("b"));
    freed = store_freed(x.f.s);
    ck_assert_int_eq(fssd_load(&x, "cold", &w), ERR_BUSY);
    ck_assert_uint_eq(store_freed(x.f.s), freed);
    ck_assert_int_eq(where("cold"), WHERE_SSD);
    store_check(x.f.s);
    store_unref(x.f.s, a);
    store_unref(x.f.s, b);
    ck_assert_int_eq(fssd_get(&x, "cold"), OK);
    done();
}
END_TEST

START_TEST(eta_follows_what_was_measured)
{
    struct store_wait w;
    uint32_t guess;

    open_ssd(8);
    fssd_put_cold(&x, "a", NULL, 100000);
    fssd_put_cold(&x, "b", NULL, 100000);
    guess = store_eta_us(x.f.s, find("a"));
    ck_assert_uint_gt(guess, 100);
    ck_assert_int_eq(fssd_get(&x, "a"), OK);
    ck_assert_uint_eq(store_eta_us(x.f.s, find("a")), 0);
    ck_assert_uint_ge(store_eta_us(x.f.s, find("b")), 50);
    ck_assert_uint_le(store_eta_us(x.f.s, find("b")), 100);
    ck_assert_int_eq(fssd_load(&x, "b", &w), OK);
    ck_assert_uint_ge(store_eta_us(x.f.s, find("b")), 1);
    fssd_run(&x);
    store_unref(x.f.s, w.block);
    ck_assert_uint_eq(x.f.metrics.ssd_read_seconds.n, 2);
    done();
}
END_TEST

/* ---- what cannot be read */

START_TEST(a_payload_that_differs_is_a_miss_for_all_and_does_not_come_back)
{
    struct store_wait w[2];

    open_ssd(8);
    fssd_payload(&x, fssd_put_cold(&x, "a", NULL, 100000))[77777] ^= 1;
    ck_assert_int_eq(fssd_load(&x, "a", &w[0]), OK);
    ck_assert_int_eq(fssd_load(&x, "a", &w[1]), OK);
    fssd_run(&x);
    ck_assert_uint_eq(fssd_dones, 2);
    ck_assert_int_eq(w[0].err, ERR_MISS);
    ck_assert_int_eq(w[1].err, ERR_MISS);
    ck_assert_int_eq(why("a"), FOUND_MISS_CORRUPT);
    ck_assert_uint_eq(x.f.metrics.ssd_corrupt, 1);
    ck_assert_uint_eq(x.f.metrics.ssd_loads, 0);
    ck_assert_uint_eq(x.tombs, 1);
    ck_assert_uint_eq(x.f.s->cat.entry_n, 0);
    ck_assert_uint_eq(unit_pool_free(&x.f.pool), 8);
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 100), OK);
    fssd_run(&x);
    done();
}
END_TEST

START_TEST(a_header_that_differs_is_a_miss)
{
    struct wire_attr attr = {.label0 = 5};

    open_ssd(8);
    cold_group(1, 5000, &attr);
    fssd_header(&x, find("n0"))[100] ^= 1;
    ck_assert_int_eq(fssd_get(&x, "n0"), ERR_MISS);
    ck_assert_int_eq(why("n0"), FOUND_MISS_CORRUPT);
    done();
}
END_TEST

START_TEST(another_key_with_the_same_hash_is_a_miss_and_leaves_it)
{
    struct wire_attr attr = {.label0 = 5};
    struct store_wait w = {.done = fssd_done};
    struct store_key k;

    open_ssd(8);
    cold_group(1, 5000, &attr);
    k = sfix_key(&x.f, 1, "another");
    k.hash = sfix_key(&x.f, 1, "n0").hash;
    ck_assert_int_eq(store_load(x.f.s, find("n0"), &k, LOAD_DEMAND, &w), OK);
    fssd_run(&x);
    ck_assert_int_eq(w.err, ERR_MISS);
    ck_assert_int_eq(fssd_get(&x, "n0"), OK);
    done();
}
END_TEST

START_TEST(a_merged_read_that_fails_is_repeated_part_by_part)
{
    struct store_wait w[8];

    open_ssd(8);
    cold_group(8, KIB(64), NULL);
    for (uint32_t i = 0; i < 8; i++)
        ck_assert_int_eq(fssd_load(&x, numbered(i), &w[i]), OK);
    fail_disk(MEM_READS, 1, false, false);
    fssd_run(&x);
    ck_assert_uint_eq(x.f.metrics.ssd_read_errors, 1);
    ck_assert_uint_eq(x.f.metrics.ssd_reads, 1 + 8);
    for (uint32_t i = 0; i < 8; i++) {
        ck_assert_int_eq(w[i].err, OK);
        ck_assert(fssd_same(&x, w[i].block));
        store_unref(x.f.s, w[i].block);
        store_demote(x.f.s, w[i].block);
    }
    for (uint32_t i = 0; i < 8; i++)
        ck_assert_int_eq(fssd_load(&x, numbered(i), &w[i]), OK);
    fail_disk(MEM_READS, 1, true, false);
    fssd_run(&x);
    for (uint32_t i = 0; i < 8; i++)
        ck_assert_int_eq(w[i].err, ERR_MISS);
    ck_assert_uint_eq(x.f.s->cat.entry_n, 0);
    done();
}
END_TEST

START_TEST(a_read_error_is_a_miss)
{
    open_ssd(8);
    fssd_put_cold(&x, "a", NULL, 5000);
    fail_disk(MEM_READS, 1, false, false);
    ck_assert_int_eq(fssd_get(&x, "a"), ERR_MISS);
    ck_assert_int_eq(why("a"), FOUND_MISS_CORRUPT);
    ck_assert_uint_eq(x.f.metrics.ssd_read_errors, 1);
    done();
}
END_TEST

START_TEST(without_a_device_a_load_misses_at_once)
{
    struct store_wait w;

    open_ssd(8);
    fssd_put_cold(&x, "a", NULL, 5000);
    x.maps[0].state = SEGLOG_FAILED;
    ck_assert_int_eq(fssd_load(&x, "a", &w), OK);
    ck_assert_uint_eq(w.pending, 1);
    store_tick(x.f.s);
    ck_assert_int_eq(w.err, ERR_MISS);
    ck_assert_uint_eq(x.f.metrics.ssd_reads, 0);
    ck_assert_int_eq(fssd_load(&x, "a", &w), OK);
    store_wait_cancel(x.f.s, &w);
    store_tick(x.f.s);
    ck_assert_uint_eq(fssd_dones, 1);
    done();
}
END_TEST

START_TEST(a_hanging_device_is_not_waited_for_and_keeps_only_memory)
{
    struct store_wait w[3];

    open_ssd(8);
    fssd_put_cold(&x, "a", NULL, 5000);
    fssd_put_cold(&x, "b", NULL, 5000);
    fail_disk(MEM_READS, 1, true, true);
    ck_assert_int_eq(fssd_load(&x, "a", &w[0]), OK);
    for (int i = 0; i < 50; i++)
        fssd_turn(&x);
    ck_assert_int_eq(fssd_load(&x, "b", &w[1]), OK); /* not submitted yet */
    x.maps[0].state = SEGLOG_FAILED;
    store_tick(x.f.s);
    ck_assert_uint_eq(fssd_dones, 2);
    ck_assert_int_eq(w[0].err, ERR_MISS);
    ck_assert_int_eq(w[1].err, ERR_MISS);
    ck_assert_int_eq(why("a"), FOUND_MISS_CORRUPT);
    ck_assert_uint_lt(unit_pool_free(&x.f.pool), 8);
    ck_assert(!store_ssd_idle(x.f.s));
    store_check(x.f.s);
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    disk_mem_unhang(&x.disk);
    fssd_run(&x);
    ck_assert_uint_eq(fssd_dones, 2);
    ck_assert(store_ssd_idle(x.f.s));
    ck_assert_uint_eq(x.readers[0][0], 0);
    done();
}
END_TEST

START_TEST(a_block_dropped_while_it_is_loaded_is_a_miss)
{
    struct store_wait w;

    open_ssd(8);
    fssd_put_cold(&x, "a", NULL, 5000);
    ck_assert_int_eq(fssd_load(&x, "a", &w), OK);
    fssd_turn(&x);
    store_drop(x.f.s, find("a"));
    ck_assert_int_eq(why("a"), FOUND_MISS_DROPPED);
    store_check(x.f.s);
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 77), OK);
    fssd_run(&x);
    ck_assert_int_eq(w.err, ERR_MISS);
    ck_assert_uint_eq(store_len(x.f.s, find("a")), 77);
    done();
}
END_TEST

START_TEST(a_namespace_bumped_while_it_is_loaded_gives_nothing)
{
    struct store_ns_cfg ns = sfix_ns(1, 2, NULL);
    struct store_wait w;

    open_ssd(8);
    fssd_put_cold(&x, "a", NULL, 5000);
    ck_assert_int_eq(fssd_load(&x, "a", &w), OK);
    ck_assert_int_eq(store_ns_set(x.f.s, &ns), OK);
    fssd_run(&x);
    ck_assert_int_eq(w.err, ERR_MISS);
    ck_assert_uint_eq(x.f.s->cat.entry_n, 0);
    done();
}
END_TEST

/* ---- peek */

static uint32_t peeks;
static enum err peek_err;

static void peeked(struct store_peek *p)
{
    peeks++;
    peek_err = p->err;
    if (p->err)
        return;
    ck_assert_uint_eq(p->info.key.key_len, 1);
    ck_assert_mem_eq(p->info.key.key, "a", 1);
    ck_assert_uint_eq(p->info.attr.label0, 5);
    ck_assert_uint_eq(p->info.parent_len, 2);
    ck_assert_uint_eq(p->info.len, 5000);
}

START_TEST(a_peek_tells_what_the_record_says)
{
    struct wire_attr attr = {.label0 = 5};
    struct store_peek p = {.done = peeked}, many[MOVER_PEEKS + 1];
    struct store_wait w;

    open_ssd(8);
    peeks = 0;
    ck_assert_int_eq(fssd_put(&x, "a", "up", &attr, 5000), OK);
    fssd_run(&x);
    store_demote(x.f.s, find("a"));
    ck_assert_int_eq(store_peek(x.f.s, find("a"), &p), OK);
    ck_assert_uint_eq(peeks, 0);
    fssd_run(&x);
    ck_assert_uint_eq(peeks, 1);
    ck_assert_int_eq(peek_err, OK);
    ck_assert_int_eq(where("a"), WHERE_SSD);
    /* A few at a time, beside a load of the same block. */
    ck_assert_int_eq(fssd_load(&x, "a", &w), OK);
    for (uint32_t i = 0; i < MOVER_PEEKS; i++) {
        many[i] = p;
        ck_assert_int_eq(store_peek(x.f.s, find("a"), &many[i]), OK);
    }
    ck_assert_int_eq(store_peek(x.f.s, find("a"), &p), ERR_BUSY);
    fssd_run(&x);
    ck_assert_uint_eq(peeks, 1 + MOVER_PEEKS);
    ck_assert_int_eq(w.err, OK);
    store_unref(x.f.s, w.block);
    store_demote(x.f.s, find("a"));
    fssd_header(&x, find("a"))[9] ^= 4;
    ck_assert_int_eq(store_peek(x.f.s, find("a"), &p), OK);
    fssd_run(&x);
    ck_assert_int_eq(peek_err, ERR_MISS);
    done();
}
END_TEST

/* ---- everything at once */

enum { NAMES = 200, WAITS = 16 };

static struct store_wait waits[WAITS];
static uint32_t gets;

static uint32_t rnd(uint32_t n)
{
    return (uint32_t)(env_random(&x.f.env) % n);
}

/* Whoever was given a ref compares the bytes and lets go. */
static bool reap(void)
{
    bool waiting = false;

    for (uint32_t i = 0; i < WAITS; i++) {
        struct store_wait *w = &waits[i];

        waiting |= w->pending;
        if (w->pending || !w->block)
            continue;
        if (!w->err) {
            ck_assert(fssd_same(&x, w->block));
            store_unref(x.f.s, w->block);
        }
        w->block = 0;
    }
    return waiting;
}

static void some_load(const char *name, uint32_t b)
{
    struct store_wait *w = &waits[rnd(WAITS)];

    if (w->pending || store_where(x.f.s, b) == WHERE_MEMORY)
        return;
    store_use(x.f.s, b);
    gets += fssd_load(&x, name, w) == OK;
}

static void some_put(const char *name)
{
    char up[16];

    snprintf(up, sizeof up, "n%u", rnd(NAMES));
    ck_assert_int_ne(fssd_put(&x, name, up, NULL, 1 + rnd(200000)), ERR_EXISTS);
}

static void some_step(void)
{
    const char *name = numbered(rnd(NAMES));
    uint32_t b = find(name), what = rnd(12);

    if (what < 4 && !b)
        some_put(name);
    else if (what >= 4 && what < 7 && b)
        some_load(name, b);
    else if (what == 7 && b && rnd(4) == 0)
        ck_assert_int_ne(store_drop_durable(x.f.s, b, NULL), ERR_INTERNAL);
    else if (what == 8 && b)
        store_demote(x.f.s, b);
    else if (what == 9)
        x.maps[rnd(2)].binding = rnd(2);
    else if (what == 10 && rnd(8) == 0)
        fssd_reclaim(&x, rnd(2), rnd(8), MIB(1));
    else if (what == 11)
        fssd_turn(&x);
}

START_TEST(a_random_life_keeps_every_invariant)
{
    fssd_open(&x, 6, 2, evict_by_idx((uint32_t)_i));
    memset(waits, 0, sizeof waits);
    gets = 0;
    for (int step = 0; step < 8000; step++) {
        some_step();
        reap();
        if (step % 16 == 0)
            store_check(x.f.s);
        if (x.next_page[0] > 28000 || x.next_page[1] > 28000)
            break;
    }
    for (int i = 0; reap() && i < 1000; i++)
        fssd_turn(&x);
    ck_assert_uint_gt(gets, 100);
    fssd_run(&x);
    ck_assert_uint_eq(x.f.metrics.ssd_corrupt, 0);
    for (uint32_t i = 0; i < FAKE_SEGMENTS; i++)
        ck_assert_uint_eq(x.readers[0][i] + x.readers[1][i], 0);
    done();
}
END_TEST

#ifdef PIKV_FAULTS
/* One of everything; each step may fail, none may break anything. */
static void life(void)
{
    struct wire_attr attr = {.label0 = 5};
    struct store_peek p = {.done = peeked};
    struct store_wait w = {.done = fssd_done}, l = {0};
    uint32_t b, segment;

    if (fssd_put(&x, "a", "up", &attr, 5000))
        return;
    b = find("a");
    store_ref(x.f.s, b);
    if (!store_persist(x.f.s, b, &w))
        fssd_run(&x);
    ck_assert_uint_eq(w.pending, 0);
    store_unref(x.f.s, b);
    fssd_run(&x);
    store_demote(x.f.s, b);
    store_check(x.f.s);
    if (!(b = find("a")))
        return;
    if (store_where(x.f.s, b) == WHERE_SSD) {
        if (!store_peek(x.f.s, b, &p))
            fssd_run(&x);
        if (!fssd_load(&x, "a", &l))
            fssd_run(&x);
        ck_assert_uint_eq(l.pending, 0);
        if (l.block && !l.err)
            store_unref(x.f.s, b);
    }
    store_check(x.f.s);
    if (!(b = find("a")))
        return;
    store_demote(x.f.s, b);
    if (store_where(x.f.s, b) == WHERE_SSD) {
        segment = fssd_segment_of(&x, b);
        store_use(x.f.s, b);
        fssd_reclaim(&x, 0, segment, GIB(1));
        fssd_run(&x);
    }
    store_check(x.f.s);
    if ((b = find("a")) && !store_drop_durable(x.f.s, b, &w))
        fssd_run(&x);
    ck_assert_uint_eq(w.pending, 0);
}

START_TEST(whatever_fails_nothing_breaks)
{
    for (uint32_t forever = 0; forever < 2; forever++)
        for (uint32_t i = 1;; i++) {
            bool hit;

            open_ssd(4);
            peek_err = OK;
            if (forever)
                fault_arm_forever(i);
            else
                fault_arm(i);
            life();
            hit = fault_hit();
            fault_arm(0);
            fssd_run(&x);
            done();
            if (!hit)
                break;
            ck_assert_uint_lt(i, 200);
        }
}
END_TEST
#endif

Suite *suite(void)
{
    Suite *s = suite_create("mover");
    TCase *t = tcase_create("mover");
    int policies = 0;

    while (evict_by_idx((uint32_t)policies))
        policies++;
    tcase_set_timeout(t, 300);
    tcase_add_test(t, all_who_wait_for_a_block_share_one_load);
    tcase_add_test(t, nothing_is_read_for_nobody);
    tcase_add_test(t, a_load_under_way_goes_on_when_its_waiter_left);
    tcase_add_test(t, prefetch_waits_for_nobody_and_yields_to_demand);
    tcase_add_test(t, neighbours_are_read_at_once);
    tcase_add_test(t, rich_blocks_of_a_group_share_its_header_page);
    tcase_add_test(t, parents_and_attributes_come_back_with_the_block);
    tcase_add_test(t, a_block_longer_than_an_io_is_read_in_several);
    tcase_add_test(
        t, a_block_of_more_extents_than_an_io_has_spans_is_read_in_several);
    tcase_add_test(t, loads_are_busy_beyond_their_window_and_go_on_later);
    tcase_add_test(t, a_load_that_finds_no_memory_is_busy_and_changes_nothing);
    tcase_add_test(t, eta_follows_what_was_measured);
    tcase_add_test(
        t, a_payload_that_differs_is_a_miss_for_all_and_does_not_come_back);
    tcase_add_test(t, a_header_that_differs_is_a_miss);
    tcase_add_test(t, another_key_with_the_same_hash_is_a_miss_and_leaves_it);
    tcase_add_test(t, a_merged_read_that_fails_is_repeated_part_by_part);
    tcase_add_test(t, a_read_error_is_a_miss);
    tcase_add_test(t, without_a_device_a_load_misses_at_once);
    tcase_add_test(t, a_hanging_device_is_not_waited_for_and_keeps_only_memory);
    tcase_add_test(t, a_block_dropped_while_it_is_loaded_is_a_miss);
    tcase_add_test(t, a_namespace_bumped_while_it_is_loaded_gives_nothing);
    tcase_add_test(t, a_peek_tells_what_the_record_says);
    tcase_add_loop_test(t, a_random_life_keeps_every_invariant, 0, policies);
#ifdef PIKV_FAULTS
    tcase_add_test(t, whatever_fails_nothing_breaks);
#endif
    suite_add_tcase(s, t);
    return s;
}
