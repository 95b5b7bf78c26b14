/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: store base proto */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "store/store_impl.h"
#include "tests/lib/ssd_fake.h"

static struct fake_ssd x;

static void open_ssd(uint32_t units)
{
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

/* Enough others to push everything idle out of a pool of so many units. */
static void flood(uint32_t from, uint32_t n)
{
    for (uint32_t i = from; i < from + n; i++) {
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, NULL, MIB(1)), OK);
        fssd_run(&x);
    }
}

/* ---- the way out and back */

START_TEST(what_left_memory_comes_back_whole)
{
    static const uint64_t lens[] = {1,      4095,          4096,   4097,
                                    100000, (1 << 20) + 1, 777777, 1 << 20};
    struct store_info info;
    uint32_t b;

    open_ssd(8);
    for (uint32_t i = 0; i < countof(lens); i++)
        b = fssd_put_cold(&x, numbered(i), NULL, lens[i]);
    store_check(x.f.s);
    ck_assert_uint_eq(x.f.metrics.cold_blocks, countof(lens));
    ck_assert_uint_eq(x.f.metrics.unloaded_blocks, countof(lens));
    ck_assert_uint_eq(x.f.metrics.blocks, 0);
    ck_assert_uint_eq(unit_pool_free(&x.f.pool), 8);
    store_info(x.f.s, b, &info);
    ck_assert_uint_eq(info.len, 1 << 20);
    ck_assert_uint_eq(info.tier, TIER_SSD);
    ck_assert_uint_eq(info.key.key_len, 0);
    ck_assert_uint_eq(info.version, store_version(x.f.s, b));
    ck_assert_uint_eq(info.crc, store_crc(x.f.s, b));
    for (uint32_t i = 0; i < countof(lens); i++) {
        ck_assert_int_eq(fssd_get(&x, numbered(i)), OK);
        ck_assert_int_eq(where(numbered(i)), WHERE_MEMORY);
        store_check(x.f.s);
    }
    ck_assert_uint_eq(x.f.metrics.ssd_loads, countof(lens));
    ck_assert_uint_eq(x.f.metrics.cold_blocks, 0);
    done();
}
END_TEST

START_TEST(pressure_unloads_what_is_written_and_writes_no_byte_again)
{
    open_ssd(4);
    flood(0, 40);
    ck_assert_uint_eq(x.puts, 40);
    ck_assert_uint_eq(x.f.metrics.evicted_blocks, 0);
    ck_assert_uint_ge(x.f.metrics.unloaded_blocks, 32);
    for (uint32_t i = 0; i < 40; i++)
        ck_assert_int_eq(fssd_get(&x, numbered(i)), OK);
    fssd_run(&x);
    ck_assert_uint_eq(x.puts, 40);
    done();
}
END_TEST

START_TEST(eviction_does_not_wait_for_writes)
{
    open_ssd(4);
    x.hold = true;
    for (uint32_t i = 0; i < 40; i++)
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, NULL, MIB(1)), OK);
    ck_assert_uint_eq(x.f.metrics.evicted_blocks, 32);
    ck_assert_uint_eq(x.f.metrics.ssd_lost_blocks, 32);
    ck_assert_int_eq(why("n0"), FOUND_MISS_LATE);
    x.hold = false;
    fssd_run(&x);
    ck_assert_int_eq(why("n0"), FOUND_MISS_LATE);
    ck_assert_uint_ne(find("n39"), 0);
    done();
}
END_TEST

START_TEST(a_cold_key_exists_and_a_put_of_it_says_so)
{
    open_ssd(8);
    fssd_put_cold(&x, "a", NULL, 5000);
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), ERR_EXISTS);
    ck_assert_int_eq(why("a"), FOUND_HIT);
    done();
}
END_TEST

START_TEST(a_block_in_use_is_not_unloaded_until_it_is_free)
{
    uint32_t b;

    open_ssd(8);
    fssd_put_written(&x, "a", NULL, 5000);
    b = find("a");
    store_ref(x.f.s, b);
    ck_assert_int_eq(store_pin(x.f.s, b), OK);
    store_demote(x.f.s, b);
    ck_assert_int_eq(where("a"), WHERE_MEMORY);
    store_unref(x.f.s, b);
    ck_assert_int_eq(where("a"), WHERE_MEMORY);
    store_check(x.f.s);
    store_unpin(x.f.s, b);
    ck_assert_int_eq(where("a"), WHERE_SSD);
    done();
}
END_TEST

START_TEST(a_use_takes_a_demotion_back)
{
    uint32_t b;

    open_ssd(8);
    fssd_put_written(&x, "a", NULL, 5000);
    b = find("a");
    store_ref(x.f.s, b);
    store_demote(x.f.s, b);
    store_use(x.f.s, b);
    store_unref(x.f.s, b);
    ck_assert_int_eq(where("a"), WHERE_MEMORY);
    done();
}
END_TEST

START_TEST(demotion_writes_first_what_is_not_written)
{
    open_ssd(8);
    x.maps[0].binding = 1; /* demotion asks for it all the same */
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    fssd_run(&x);
    ck_assert(!store_on_ssd(x.f.s, find("a")));
    store_demote(x.f.s, find("a"));
    ck_assert_int_eq(where("a"), WHERE_MEMORY);
    fssd_run(&x);
    ck_assert_int_eq(where("a"), WHERE_SSD);
    ck_assert_int_eq(fssd_get(&x, "a"), OK);
    done();
}
END_TEST

/* ---- who goes, who stays */

START_TEST(parents_are_unloaded_and_stay_above_their_children)
{
    uint32_t root, leaf;

    open_ssd(8);
    fssd_put_written(&x, "root", NULL, 5000);
    fssd_put_written(&x, "mid", "root", 5000);
    fssd_put_written(&x, "leaf", "mid", 5000);
    root = find("root");
    leaf = find("leaf");
    store_demote(x.f.s, root);
    ck_assert_int_eq(where("root"), WHERE_SSD);
    store_check(x.f.s);
    store_demote(x.f.s, find("mid"));
    store_demote(x.f.s, leaf);
    store_check(x.f.s);
    ck_assert(store_descends(x.f.s, leaf, &root, 1));
    ck_assert_int_eq(fssd_get(&x, "mid"), OK);
    ck_assert(store_descends(x.f.s, leaf, &root, 1));
    store_check(x.f.s);
    store_drop(x.f.s, find("mid"));
    store_check(x.f.s);
    ck_assert(store_descends(x.f.s, leaf, &root, 1));
    store_drop(x.f.s, root);
    store_check(x.f.s);
    ck_assert_int_eq(fssd_put(&x, "mid", NULL, NULL, 6000), OK);
    root = find("mid");
    ck_assert(store_descends(x.f.s, leaf, &root, 1));
    store_drop(x.f.s, leaf);
    store_drop(x.f.s, find("mid"));
    fssd_run(&x);
    ck_assert_uint_eq(x.f.s->cat.entry_n, 0);
    done();
}
END_TEST

START_TEST(a_child_of_a_cold_parent_is_linked_to_it)
{
    uint32_t up;

    open_ssd(8);
    up = fssd_put_cold(&x, "up", NULL, 5000);
    ck_assert_int_eq(fssd_put(&x, "down", "up", NULL, 5000), OK);
    ck_assert(store_descends(x.f.s, find("down"), &up, 1));
    store_check(x.f.s);
    ck_assert_int_eq(fssd_get(&x, "up"), OK);
    store_check(x.f.s);
    done();
}
END_TEST

START_TEST(parents_that_are_not_on_the_ssd_give_way_when_nothing_else_can)
{
    uint32_t root;

    open_ssd(2);
    fssd_put_written(&x, "first", NULL, MIB(1));
    x.maps[0].binding = 1;
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, NULL, MIB(1)), OK);
    fssd_run(&x);
    x.maps[0].binding = 0;
    /* Each gets a COLD child; they themselves were not admitted. */
    for (uint32_t i = 0; i < 3; i++) {
        char child[16];

        snprintf(child, sizeof child, "c%u", i);
        fssd_put_cold(&x, child, numbered(i), 4096);
    }
    ck_assert_int_eq(where("first"), WHERE_SSD);
    root = find("n0");
    ck_assert_uint_ne(root, 0);
    store_check(x.f.s);
    for (uint32_t i = 10; i < 12; i++) {
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, NULL, MIB(1)), OK);
        store_ref(x.f.s, find(numbered(i)));
    }
    store_check(x.f.s);
    for (uint32_t i = 10; i < 12; i++)
        store_unref(x.f.s, find(numbered(i)));
    ck_assert_uint_eq(find("n0"), 0);
    ck_assert_int_eq(why("n0"), FOUND_MISS_NOT_ADMITTED);
    ck_assert_uint_ne(find("c0"), 0);
    fssd_run(&x);
    done();
}
END_TEST

START_TEST(the_sweep_for_a_ttl_does_not_run_in_every_turn)
{
    struct wire_attr attr = {.ttl_ms = 5000};
    uint32_t at, moved = 0;

    open_ssd(8);
    for (uint32_t i = 0; i < 100; i++)
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, &attr, 100), OK);
    fssd_run(&x);
    for (uint32_t i = 0; i < 50; i++)
        store_demote(x.f.s, find(numbered(i)));
    for (uint32_t i = 0; i < 300; i++) { /* of 10 us */
        at = x.f.s->cold_sweep;
        fssd_turn(&x);
        moved += x.f.s->cold_sweep != at ||
                 x.f.s->cold_due_ns == x.f.env.now_ns + NS_PER_MS;
    }
    ck_assert_uint_ge(moved, 3);
    ck_assert_uint_le(moved, 4);
    done();
}
END_TEST

START_TEST(a_cold_block_of_nothing_special_touches_nothing_beside_its_entry)
{
    struct cold mark = {7, 7};
    uint32_t b;

    open_ssd(8);
    fssd_put_written(&x, "a", NULL, 5000);
    b = find("a");
    x.f.s->cat.colds[b] = mark;
    store_demote(x.f.s, b);
    ck_assert_int_eq(where("a"), WHERE_SSD);
    ck_assert_mem_eq(&x.f.s->cat.colds[b], &mark, sizeof mark);
    ck_assert_int_eq(fssd_get(&x, "a"), OK);
    ck_assert_mem_eq(&x.f.s->cat.colds[b], &mark, sizeof mark);
    done();
}
END_TEST

START_TEST(cold_blocks_expire_when_asked_for_and_by_themselves)
{
    struct wire_attr attr = {.ttl_ms = 5000};

    open_ssd(8);
    for (uint32_t i = 0; i < 3; i++) {
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, &attr, 5000), OK);
        fssd_run(&x);
        store_demote(x.f.s, find(numbered(i)));
    }
    ck_assert_int_eq(fssd_get(&x, "n2"), OK); /* in memory: the same ttl */
    x.f.env.wall_s += 4;
    fssd_run(&x);
    ck_assert_uint_eq(x.f.metrics.cold_blocks, 2);
    store_check(x.f.s);
    x.f.env.wall_s += 2;
    ck_assert_int_eq(why("n0"), FOUND_MISS_EXPIRED);
    ck_assert_int_eq(fssd_put(&x, "n0", NULL, NULL, 100), OK);
    x.f.env.now_ns += COLD_PACE_MS * NS_PER_MS;
    fssd_turn(&x);
    ck_assert_uint_eq(x.f.metrics.cold_blocks, 0);
    ck_assert_int_eq(why("n1"), FOUND_MISS_EXPIRED);
    ck_assert_int_eq(why("n2"), FOUND_MISS_EXPIRED);
    fssd_run(&x);
    done();
}
END_TEST

START_TEST(a_bump_sweeps_cold_blocks_away_in_parts)
{
    struct store_ns_cfg ns = sfix_ns(1, 2, NULL);

    open_ssd(8);
    for (uint32_t i = 0; i < 2000; i++) {
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, NULL, 4096), OK);
        if (i % 500 == 499) {
            fssd_run(&x);
            for (uint32_t k = i - 499; k <= i; k++)
                store_demote(x.f.s, find(numbered(k)));
        }
    }
    ck_assert_uint_eq(x.f.metrics.cold_blocks, 2000);
    ck_assert_int_eq(store_ns_set(x.f.s, &ns), OK);
    ck_assert_int_eq(why("n0"), FOUND_MISS_NEVER);
    store_check(x.f.s);
    ck_assert(store_tick(x.f.s));
    ck_assert_uint_ge(x.f.metrics.cold_blocks, 2000 - TICK_COLD);
    for (int i = 0; store_tick(x.f.s); i++)
        ck_assert_int_lt(i, 10);
    ck_assert_uint_eq(x.f.metrics.cold_blocks, 0);
    ck_assert_uint_eq(x.f.s->cat.entry_n, 0);
    ck_assert_uint_eq(x.f.s->condemned_n, 0);
    done();
}
END_TEST

START_TEST(cold_blocks_make_way_for_new_entries_the_used_ones_last)
{
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);
    uint32_t kept = 0;

    fssd_init(&x, 8, 1);
    x.f.cfg.blocks_max = 16;
    x.f.cfg.ssd_blocks_max = 16;
    ck_assert_int_eq(fssd_start(&x), OK);
    ck_assert_int_eq(store_ns_set(x.f.s, &ns), OK);
    for (uint32_t i = 0; i < 32; i++)
        fssd_put_cold(&x, numbered(i), NULL, 4096);
    for (uint32_t i = 0; i < 8; i++)
        store_use(x.f.s, find(numbered(i)));
    for (uint32_t i = 100; i < 116; i++)
        fssd_put_cold(&x, numbered(i), NULL, 4096);
    for (uint32_t i = 0; i < 8; i++)
        kept += find(numbered(i)) != 0;
    ck_assert_uint_eq(kept, 8);
    ck_assert_uint_eq(x.f.metrics.ssd_evicted_blocks, 16);
    ck_assert_int_eq(why("n20"), FOUND_MISS_EVICTED);
    /* More blocks in memory than hot records: they leave it. */
    for (uint32_t i = 200; i < 232; i++) {
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, NULL, 4096), OK);
        fssd_run(&x);
        store_check(x.f.s);
    }
    done();
}
END_TEST

struct walked {
    uint32_t n;
    bool drop;
};

static void walk_one(struct store *s, uint32_t block, void *arg)
{
    struct walked *w = arg;
    struct store_info info;

    store_info(s, block, &info);
    ck_assert_int_eq(info.found, FOUND_HIT);
    w->n++;
    if (w->drop)
        store_drop(s, block);
}

START_TEST(a_walk_meets_cold_blocks_too)
{
    struct walked w = {0};

    open_ssd(8);
    for (uint32_t i = 0; i < 10; i++)
        fssd_put_cold(&x, numbered(i), NULL, 4096);
    fssd_put_written(&x, "live", NULL, 4096);
    ck_assert_uint_eq(store_walk(x.f.s, 0, 1000, walk_one, &w), 0);
    ck_assert_uint_eq(w.n, 11);
    w = (struct walked){.drop = true};
    store_walk(x.f.s, 0, 1000, walk_one, &w);
    ck_assert_uint_eq(w.n, 11);
    ck_assert_uint_eq(x.f.s->cat.entry_n, 0);
    ck_assert_int_eq(why("n3"), FOUND_MISS_DROPPED);
    done();
}
END_TEST

START_TEST(a_namespace_used_for_writing_leaves_memory_when_written)
{
    struct store_ns_cfg ns = sfix_ns(1, 1, NULL);

    open_ssd(8);
    ns.write_buffer = true;
    ck_assert_int_eq(store_ns_set(x.f.s, &ns), OK);
    ck_assert_int_eq(fssd_put(&x, "a", NULL, NULL, 5000), OK);
    ck_assert_int_eq(where("a"), WHERE_MEMORY);
    fssd_run(&x);
    ck_assert_int_eq(where("a"), WHERE_SSD);
    ck_assert_int_eq(fssd_get(&x, "a"), OK);
    ck_assert_int_eq(fssd_get(&x, "a"), OK);
    ck_assert_int_eq(where("a"), WHERE_SSD);
    done();
}
END_TEST

START_TEST(the_second_read_from_the_ssd_stays_in_memory)
{
    open_ssd(8);
    x.ssd.second_touch = true;
    fssd_put_cold(&x, "a", NULL, 5000);
    ck_assert_int_eq(fssd_get(&x, "a"), OK);
    ck_assert_int_eq(where("a"), WHERE_SSD);
    ck_assert_int_eq(fssd_get(&x, "a"), OK);
    ck_assert_int_eq(where("a"), WHERE_MEMORY);
    done();
}
END_TEST

START_TEST(usage_of_a_namespace_is_memory_and_ssd_apart)
{
    uint64_t blocks, bytes, share;

    open_ssd(8);
    fssd_put_cold(&x, "cold", NULL, 5000);
    fssd_put_written(&x, "both", NULL, 7000);
    store_ns_usage(x.f.s, 1, &blocks, &bytes, &share);
    ck_assert_uint_eq(blocks, 1);
    ck_assert_uint_eq(bytes, 7000);
    ck_assert_uint_gt(share, 0);
    store_ns_ssd_usage(x.f.s, 1, &blocks, &bytes);
    ck_assert_uint_eq(blocks, 2);
    ck_assert_uint_eq(bytes, 12000);
    store_demote(x.f.s, find("both"));
    store_ns_usage(x.f.s, 1, &blocks, &bytes, &share);
    ck_assert_uint_eq(blocks, 0);
    ck_assert_uint_eq(share, 0); /* no claim on memory */
    done();
}
END_TEST

START_TEST(a_ghost_says_why_and_how_long_ago)
{
    struct store_key k;
    uint64_t ago;

    open_ssd(8);
    fssd_put_cold(&x, "a", NULL, 5000);
    store_drop(x.f.s, find("a"));
    x.f.env.now_ns += 7 * NS_PER_S;
    k = sfix_key(&x.f, 1, "a");
    ck_assert_int_eq(store_ghost(x.f.s, &k, &ago), FOUND_MISS_DROPPED);
    ck_assert_uint_eq(ago, 7000);
    k = sfix_key(&x.f, 1, "b");
    ck_assert_int_eq(store_ghost(x.f.s, &k, &ago), FOUND_MISS_NEVER);
    ck_assert_uint_eq(ago, 0);
    done();
}
END_TEST

/* ---- devices that go */

START_TEST(what_was_on_a_lost_device_is_forgotten_in_parts)
{
    uint32_t b;

    open_ssd(8);
    fssd_put_cold(&x, "a", NULL, 5000);
    fssd_put_cold(&x, "b", "a", 5000);
    fssd_put_written(&x, "live", NULL, 5000);
    x.maps[0].state = SEGLOG_FAILED;
    store_ssd_lost(x.f.s, 0);
    ck_assert_int_eq(why("a"), FOUND_MISS_CORRUPT);
    ck_assert(!store_on_ssd(x.f.s, find("live")));
    store_check(x.f.s);
    for (int i = 0; store_tick(x.f.s); i++)
        ck_assert_int_lt(i, 10);
    ck_assert_uint_eq(x.f.metrics.cold_blocks, 0);
    ck_assert_uint_eq(x.f.metrics.ssd_blocks, 0);
    b = find("live");
    ck_assert_uint_ne(b, 0);
    store_check(x.f.s);
    /* Replaced: what is in memory is written again. */
    x.maps[0].state = SEGLOG_OPEN;
    store_use(x.f.s, b);
    fssd_run(&x);
    ck_assert(store_on_ssd(x.f.s, b));
    done();
}
END_TEST

START_TEST(a_block_whose_device_failed_is_evicted_like_any_other)
{
    open_ssd(4);
    fssd_put_written(&x, "a", NULL, MIB(1));
    x.maps[0].state = SEGLOG_FAILED;
    for (uint32_t i = 0; i < 10; i++)
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, NULL, MIB(1)), OK);
    ck_assert_uint_eq(find("a"), 0);
    ck_assert_int_eq(why("a"), FOUND_MISS_EVICTED);
    store_check(x.f.s);
    fssd_run(&x);
    done();
}
END_TEST

/* ---- reclaim */

START_TEST(reclaim_lets_go_of_what_was_not_used)
{
    uint32_t b;

    open_ssd(8);
    b = fssd_put_cold(&x, "cold", NULL, 5000);
    uint32_t segment = fssd_segment_of(&x, b);
    fssd_put_written(&x, "live", NULL, 5000);
    ck_assert_uint_eq(fssd_segment_of(&x, find("live")), segment);
    ck_assert_uint_eq(fssd_reclaim(&x, 0, segment, GIB(1)), 0);
    ck_assert_int_eq(why("cold"), FOUND_MISS_EVICTED);
    ck_assert_uint_ne(find("live"), 0);
    ck_assert(!store_on_ssd(x.f.s, find("live")));
    store_check(x.f.s);
    ck_assert_uint_eq(x.f.metrics.ssd_evicted_blocks, 1);
    fssd_run(&x);
    ck_assert_uint_eq(x.agains, 0);
    /* Its next use brings it back. */
    store_use(x.f.s, find("live"));
    fssd_run(&x);
    ck_assert(store_on_ssd(x.f.s, find("live")));
    done();
}
END_TEST

START_TEST(reclaim_takes_along_what_was_used_and_parents)
{
    uint32_t segment;

    open_ssd(8);
    segment = fssd_segment_of(&x, fssd_put_cold(&x, "hot", NULL, 5000));
    fssd_put_cold(&x, "up", NULL, 5000);
    fssd_put_written(&x, "live", NULL, 5000);
    x.next_page[0] += FAKE_SEGMENT_PAGES; /* the child: in another segment */
    fssd_put_cold(&x, "down", "up", 5000);
    store_use(x.f.s, find("hot"));
    store_use(x.f.s, find("live"));
    ck_assert_uint_eq(fssd_reclaim(&x, 0, segment, GIB(1)), 15000);
    store_check(x.f.s);
    ck_assert_int_eq(where("hot"), WHERE_LOADING);
    ck_assert_uint_ne(x.readers[0][segment], 0);
    fssd_run(&x);
    ck_assert_uint_eq(x.readers[0][segment], 0);
    ck_assert_uint_eq(x.agains, 3);
    ck_assert_int_eq(where("hot"), WHERE_SSD);
    ck_assert_int_eq(where("up"), WHERE_SSD);
    ck_assert_int_eq(where("live"), WHERE_MEMORY);
    ck_assert_uint_ne(fssd_segment_of(&x, find("hot")), segment);
    ck_assert_int_eq(fssd_get(&x, "hot"), OK);
    ck_assert_int_eq(fssd_get(&x, "up"), OK);
    /* Once is not for ever: it must be used again. */
    ck_assert_uint_eq(entry_at(x.f.s, find("up"))->heat, 1);
    done();
}
END_TEST

START_TEST(reclaim_takes_along_no_more_than_it_may)
{
    uint32_t segment = 0;

    open_ssd(8);
    for (uint32_t i = 0; i < 10; i++)
        segment =
            fssd_segment_of(&x, fssd_put_cold(&x, numbered(i), NULL, 4096));
    for (uint32_t i = 0; i < 10; i++)
        store_use(x.f.s, find(numbered(i)));
    ck_assert_uint_eq(fssd_reclaim(&x, 0, segment, 3 * 4096 + 100), 3 * 4096);
    ck_assert_uint_eq(x.f.metrics.ssd_evicted_blocks, 7);
    fssd_run(&x);
    ck_assert_uint_eq(x.f.metrics.cold_blocks, 3);
    done();
}
END_TEST

START_TEST(a_block_reclaimed_while_it_is_loaded_is_served_and_written_again)
{
    struct store_wait w;
    uint32_t b, segment;

    open_ssd(8);
    b = fssd_put_cold(&x, "a", NULL, 5000);
    segment = fssd_segment_of(&x, b);
    ck_assert_int_eq(fssd_load(&x, "a", &w), OK);
    ck_assert_uint_eq(fssd_reclaim(&x, 0, segment, GIB(1)), 5000);
    store_check(x.f.s);
    fssd_run(&x);
    ck_assert_int_eq(w.err, OK);
    ck_assert(fssd_same(&x, b));
    store_unref(x.f.s, b);
    ck_assert(store_on_ssd(x.f.s, b));
    ck_assert_uint_eq(x.agains, 1);
    done();
}
END_TEST

/* ---- recovery */

START_TEST(a_restart_finds_what_was_written)
{
    uint64_t version;
    uint32_t up;

    open_ssd(8);
    fssd_put_written(&x, "up", NULL, 100000);
    fssd_put_written(&x, "down", "up", 5000);
    ck_assert_int_eq(fssd_put(&x, "alone", NULL, NULL, 4096), OK);
    fssd_run(&x);
    version = store_version(x.f.s, find("down"));
    fssd_restart(&x);
    ck_assert_uint_eq(find("up"), 0);
    fssd_adopt(&x);
    store_check(x.f.s);
    ck_assert_uint_eq(x.f.metrics.ssd_recovered_blocks, 3);
    up = find("up");
    ck_assert(store_descends(x.f.s, find("down"), &up, 1));
    ck_assert_uint_eq(store_version(x.f.s, find("down")), version);
    ck_assert_int_eq(fssd_get(&x, "up"), OK);
    ck_assert_int_eq(fssd_get(&x, "down"), OK);
    ck_assert_int_eq(fssd_get(&x, "alone"), OK);
    /* A version from before is not given to other bytes. */
    ck_assert_int_eq(fssd_put(&x, "new", NULL, NULL, 1), OK);
    ck_assert_uint_gt(store_version(x.f.s, find("new")), version);
    done();
}
END_TEST

static struct seg_meta meta(const char *name, uint64_t version)
{
    struct seg_meta m = {.key = sfix_key(&x.f, 1, name),
                         .version = version,
                         .ns_generation = 1,
                         .len = 4096};

    return m;
}

static bool adopt(const char *name, uint64_t version, uint32_t page)
{
    struct seg_meta m = meta(name, version);
    struct seg_place p = {page, 0};

    return store_adopt(x.f.s, &m, &p);
}

static void tomb(const char *name, uint64_t version)
{
    struct seg_tomb t = {.hash = sfix_key(&x.f, 1, name).hash,
                         .version = version,
                         .ns_generation = 1,
                         .ns = 1};

    store_adopt_tomb(x.f.s, &t);
}

START_TEST(of_several_records_the_highest_version_stays)
{
    open_ssd(8);
    ck_assert(adopt("a", 5, 1000));
    ck_assert(adopt("a", 7, 2000));
    ck_assert(adopt("a", 6, 3000));
    ck_assert(adopt("b", 9, 1010));
    ck_assert(adopt("b", 9, 2010)); /* written again: the later place */
    store_adopted(x.f.s);
    ck_assert_uint_eq(store_version(x.f.s, find("a")), 7);
    ck_assert_uint_eq(fssd_place(&x, find("a")).page, 2000);
    ck_assert_uint_eq(fssd_place(&x, find("b")).page, 2010);
    ck_assert_uint_eq(x.f.metrics.ssd_blocks, 2);
    done();
}
END_TEST

START_TEST(a_tomb_kills_what_came_before_it_and_what_comes_after)
{
    open_ssd(8);
    ck_assert(adopt("a", 5, 1000));
    tomb("a", 5);
    tomb("b", 8);
    ck_assert(adopt("b", 8, 1010));
    ck_assert(adopt("b", 9, 1020));
    ck_assert(adopt("b", 7, 1030));
    tomb("c", 3);
    ck_assert(adopt("c", 4, 1040));
    tomb("c", 2);
    store_adopted(x.f.s);
    ck_assert_uint_eq(find("a"), 0);
    ck_assert_uint_eq(store_version(x.f.s, find("b")), 9);
    ck_assert_uint_eq(store_version(x.f.s, find("c")), 4);
    done();
}
END_TEST

START_TEST(records_of_other_generations_are_not_known)
{
    struct seg_place p = {1000, 0};
    struct seg_meta m;

    open_ssd(8);
    m = meta("a", 5);
    m.ns_generation = 2;
    ck_assert(!store_adopt(x.f.s, &m, &p));
    m = meta("a", 5);
    m.key.ns = 7;
    ck_assert(!store_adopt(x.f.s, &m, &p));
    m = meta("a", 5);
    m.expires_s = (uint32_t)x.f.env.wall_s;
    ck_assert(store_adopt(x.f.s, &m, &p)); /* known, but its time is over */
    store_adopted(x.f.s);
    ck_assert_uint_eq(x.f.s->cat.entry_n, 0);
    done();
}
END_TEST

START_TEST(parents_that_would_make_a_ring_are_not_linked)
{
    static const char *const up[] = {"c", "a", "b", "c", "self"};
    static const char *const name[] = {"a", "b", "c", "d", "self"};

    open_ssd(8);
    for (uint32_t i = 0; i < countof(name); i++) {
        struct seg_meta m = meta(name[i], 5 + i);
        struct seg_place p = {1000 + i, 0};

        m.parent = (const uint8_t *)up[i];
        m.parent_len = (uint16_t)strlen(up[i]);
        ck_assert(store_adopt(x.f.s, &m, &p));
    }
    store_adopted(x.f.s);
    store_check(x.f.s);
    for (uint32_t i = 0; i < countof(name); i++)
        store_drop(x.f.s, find(name[i]));
    ck_assert_uint_eq(x.f.s->cat.entry_n, 0);
    done();
}
END_TEST

START_TEST(a_checkpoint_says_all_that_recovery_needs)
{
    static struct seg_check all[16];
    struct wire_attr attr = {.ttl_ms = 100000, .label0 = 3};
    uint64_t cursor = 0;
    uint32_t n = 0, up;

    open_ssd(8);
    fssd_put_cold(&x, "up", NULL, 5000);
    fssd_put_written(&x, "down", "up", 5000);
    ck_assert_int_eq(fssd_put(&x, "ttl", NULL, &attr, 5000), OK);
    fssd_run(&x);
    store_demote(x.f.s, find("ttl"));
    store_use(x.f.s, find("ttl"));
    x.hold = true;
    ck_assert_int_eq(fssd_put(&x, "memory", NULL, NULL, 5000), OK);
    while (store_check_next(x.f.s, 0, &cursor, &all[n]))
        n++;
    ck_assert_uint_eq(n, 3);
    cursor = 0;
    ck_assert(!store_check_next(x.f.s, 1, &cursor, &all[n]));
    x.hold = false;
    fssd_run(&x);
    fssd_restart(&x);
    for (uint32_t i = n; i-- > 0;)
        ck_assert(store_adopt_check(x.f.s, &all[i]));
    store_adopted(x.f.s);
    store_check(x.f.s);
    up = find("up");
    ck_assert(store_descends(x.f.s, find("down"), &up, 1));
    ck_assert_uint_eq(entry_at(x.f.s, find("ttl"))->heat, 1);
    ck_assert_int_eq(fssd_get(&x, "up"), OK);
    ck_assert_int_eq(fssd_get(&x, "down"), OK);
    ck_assert_int_eq(fssd_get(&x, "ttl"), OK);
    x.f.env.wall_s += 101;
    ck_assert_int_eq(why("ttl"), FOUND_MISS_EXPIRED);
    done();
}
END_TEST

/* ---- sessions */

START_TEST(blocks_of_a_closed_session_go_first)
{
    struct wire_attr attr = {.label1 = 77};

    open_ssd(4);
    for (uint32_t i = 0; i < 4; i++) {
        ck_assert_int_eq(fssd_put(&x, numbered(i), NULL, NULL, MIB(1)), OK);
        ck_assert_int_eq(fssd_put(&x, numbered(10 + i), NULL, &attr, MIB(1)),
                         OK);
    }
    fssd_run(&x);
    store_session(x.f.s, 1, 77, SESSION_CLOSED);
    for (int i = 0; store_tick(x.f.s); i++)
        ck_assert_int_lt(i, 10);
    for (uint32_t i = 0; i < 4; i++)
        ck_assert_int_eq(fssd_put(&x, numbered(20 + i), NULL, NULL, MIB(1)),
                         OK);
    for (uint32_t i = 0; i < 4; i++) {
        ck_assert_int_eq(where(numbered(i)), WHERE_MEMORY);
        ck_assert_int_eq(where(numbered(10 + i)), WHERE_SSD);
    }
    fssd_run(&x);
    done();
}
END_TEST

START_TEST(more_session_changes_than_fit_forget_the_oldest)
{
    open_ssd(4);
    fssd_put_written(&x, "a", NULL, 5000);
    for (uint32_t i = 0; i < 3 * SESSIONS; i++)
        store_session(x.f.s, 1, 1 + i % (2 * SESSIONS), SESSION_IDLE);
    ck_assert_uint_eq(x.f.s->session_n, SESSIONS);
    store_session(x.f.s, 9, 5, SESSION_IDLE);
    store_session(x.f.s, 1, 0, SESSION_IDLE);
    for (int i = 0; store_tick(x.f.s); i++)
        ck_assert_int_lt(i, 10);
    done();
}
END_TEST

#ifdef PIKV_FAULTS
START_TEST(no_memory_at_set_up_leaves_nothing)
{
    for (uint32_t i = 1;; i++) {
        enum err e;

        fssd_init(&x, 4, 1);
        fault_arm(i);
        e = fssd_start(&x);
        if (!fault_hit()) {
            ck_assert_int_eq(e, OK);
            fault_arm(0);
            fssd_close(&x);
            break;
        }
        fault_arm(0);
        ck_assert_int_eq(e, ERR_NO_MEMORY);
        fssd_close(&x);
    }
}
END_TEST

START_TEST(a_tomb_that_is_not_kept_costs_blocks_and_brings_none_back)
{
    open_ssd(8);
    ck_assert(adopt("old", 4, 1000));
    fault_arm(1);
    tomb("a", 5);
    ck_assert(fault_hit());
    ck_assert(adopt("a", 5, 1010));
    ck_assert(adopt("new", 6, 1020));
    store_adopted(x.f.s);
    ck_assert_uint_eq(find("a"), 0);
    ck_assert_uint_eq(find("old"), 0);
    ck_assert_uint_ne(find("new"), 0);
    done();
}
END_TEST
#endif

Suite *suite(void)
{
    Suite *s = suite_create("store_ssd");
    TCase *t = tcase_create("store_ssd");

    tcase_set_timeout(t, 120);
    tcase_add_test(t, what_left_memory_comes_back_whole);
    tcase_add_test(t,
                   pressure_unloads_what_is_written_and_writes_no_byte_again);
    tcase_add_test(t, eviction_does_not_wait_for_writes);
    tcase_add_test(t, a_cold_key_exists_and_a_put_of_it_says_so);
    tcase_add_test(t, a_block_in_use_is_not_unloaded_until_it_is_free);
    tcase_add_test(t, a_use_takes_a_demotion_back);
    tcase_add_test(t, demotion_writes_first_what_is_not_written);
    tcase_add_test(t, parents_are_unloaded_and_stay_above_their_children);
    tcase_add_test(t, a_child_of_a_cold_parent_is_linked_to_it);
    tcase_add_test(
        t, parents_that_are_not_on_the_ssd_give_way_when_nothing_else_can);
    tcase_add_test(t, the_sweep_for_a_ttl_does_not_run_in_every_turn);
    tcase_add_test(
        t, a_cold_block_of_nothing_special_touches_nothing_beside_its_entry);
    tcase_add_test(t, cold_blocks_expire_when_asked_for_and_by_themselves);
    tcase_add_test(t, a_bump_sweeps_cold_blocks_away_in_parts);
    tcase_add_test(t, cold_blocks_make_way_for_new_entries_the_used_ones_last);
    tcase_add_test(t, a_walk_meets_cold_blocks_too);
    tcase_add_test(t, a_namespace_used_for_writing_leaves_memory_when_written);
    tcase_add_test(t, the_second_read_from_the_ssd_stays_in_memory);
    tcase_add_test(t, usage_of_a_namespace_is_memory_and_ssd_apart);
    tcase_add_test(t, a_ghost_says_why_and_how_long_ago);
    tcase_add_test(t, what_was_on_a_lost_device_is_forgotten_in_parts);
    tcase_add_test(t, a_block_whose_device_failed_is_evicted_like_any_other);
    tcase_add_test(t, reclaim_lets_go_of_what_was_not_used);
    tcase_add_test(t, reclaim_takes_along_what_was_used_and_parents);
    tcase_add_test(t, reclaim_takes_along_no_more_than_it_may);
    tcase_add_test(
        t, a_block_reclaimed_while_it_is_loaded_is_served_and_written_again);
    tcase_add_test(t, a_restart_finds_what_was_written);
    tcase_add_test(t, of_several_records_the_highest_version_stays);
    tcase_add_test(t, a_tomb_kills_what_came_before_it_and_what_comes_after);
    tcase_add_test(t, records_of_other_generations_are_not_known);
    tcase_add_test(t, parents_that_would_make_a_ring_are_not_linked);
    tcase_add_test(t, a_checkpoint_says_all_that_recovery_needs);
    tcase_add_test(t, blocks_of_a_closed_session_go_first);
    tcase_add_test(t, more_session_changes_than_fit_forget_the_oldest);
#ifdef PIKV_FAULTS
    tcase_add_test(t, no_memory_at_set_up_leaves_nothing);
    tcase_add_test(t,
                   a_tomb_that_is_not_kept_costs_blocks_and_brings_none_back);
#endif
    suite_add_tcase(s, t);
    return s;
}
