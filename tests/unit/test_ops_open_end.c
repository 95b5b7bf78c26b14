/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * Blocks by several writers that do not come about: bytes missing, given up, a
 * writer gone, out of time, flushed, evicted; and their limits. After each of
 * them nothing is left. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "lib/node_open.h"

enum { LEN = 100000 };

/* A block with its first half there. */
static uint64_t half(struct node_peer *q, uint32_t writers)
{
    uint64_t t;

    ck_assert_int_eq(open_block(q, "k", LEN, writers), OK);
    t = token();
    ck_assert_int_eq(write_at(q, "k", t, 0, LEN / 2), OK);
    return t;
}

/* Ended, and no way leads back to it. */
static void ended(uint64_t t)
{
    nothing_is_left("k");
    ck_assert_int_eq(write_at(p, "k", t, LEN / 2, LEN / 2), ERR_MISS);
    ck_assert_int_eq(commit(p, "k", t, 0), ERR_MISS);
    ck_assert_uint_eq(n.lane.metrics.open_aborted, 1);
    ck_assert_int_eq(put("k", 100), OK);
}

START_TEST(a_last_commit_without_all_bytes_is_partial)
{
    uint64_t t = half(p, 2);

    ck_assert_int_eq(write_at(p, "k", t, LEN / 2 + 1, 10), OK);
    ck_assert_int_eq(commit(p, "k", t, 0), ERR_PENDING);
    ck_assert_int_eq(commit(p, "k", t, 1), ERR_PARTIAL);
    ck_assert_int_eq(commit(p, "k", t, 1), ERR_PARTIAL);
    ck_assert_int_eq(commit(p, "k", t, 0), ERR_PARTIAL);
    ck_assert_int_eq(write_at(p, "k", t, LEN / 2, 1), ERR_MISS);
    ck_assert_int_eq(give_up(p, "k", t), ERR_MISS);
    nothing_is_left("k");
}
END_TEST

START_TEST(a_commit_before_bytes_that_do_not_come_is_partial)
{
    uint64_t t = half(p, 1);

    n.hold = true;
    ck_assert_int_eq(write_at(p, "k", t, LEN / 2, LEN / 2), 1);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert_int_eq(commit(p, "k", t, 0), 1);
    node_sleep(&n, 45 * NS_PER_MS); /* the write's deadline, not this one's */
    n.hold = false;
    ck_assert_int_eq(n.reply.frame.op, OP_PUT_COMMIT);
    ck_assert_int_eq(n.reply.r[0].status, ERR_PARTIAL);
    p->bytes[0] = buf[0];
    nothing_is_left("k");
}
END_TEST

START_TEST(any_writer_may_give_up)
{
    struct node_peer *q = join();
    uint64_t t = half(p, 2);

    ck_assert_int_eq(open_block(q, "k", LEN, 2), OK);
    ck_assert_int_eq(give_up(q, "k", t), OK);
    ck_assert_int_eq(give_up(q, "k", t), OK); /* said again */
    ended(t);
    leave(q);
}
END_TEST

START_TEST(a_writer_that_goes_takes_the_block_with_it)
{
    struct node_peer *q = join();
    uint64_t t = half(p, 2);

    ck_assert_int_eq(open_block(q, "k", LEN, 2), OK);
    ck_assert_int_eq(commit(p, "k", t, 0), ERR_PENDING);
    leave(q);
    ended(t);
}
END_TEST

/* It has the token from somebody else. */
START_TEST(who_wrote_is_a_writer)
{
    struct node_peer *q = join();
    uint64_t t = half(p, 2);

    ck_assert_int_eq(write_at(q, "k", t, LEN / 2, LEN / 2), OK);
    leave(q);
    ended(t);
}
END_TEST

START_TEST(who_has_committed_may_go)
{
    struct node_peer *q = join();
    uint64_t t;

    ck_assert_int_eq(open_block(q, "k", LEN, 2), OK);
    ck_assert_int_eq(open_block(p, "k", LEN, 2), OK);
    t = token();
    ck_assert_int_eq(write_at(q, "k", t, 0, LEN / 2), OK);
    ck_assert_int_eq(commit(q, "k", t, 1), ERR_PENDING);
    leave(q);
    ck_assert_int_eq(state_of("k"), STATE_PENDING);
    ck_assert_int_eq(write_at(p, "k", t, LEN / 2, LEN / 2), OK);
    ck_assert_int_eq(commit(p, "k", t, 0), OK);
    ck_assert_int_eq(get_same("k", LEN), OK);
}
END_TEST

/* Two writers behind one connection: one of them has not committed. */
START_TEST(who_writes_on_after_a_commit_is_not_done)
{
    struct node_peer *q = join();
    uint64_t t = half(q, 2);

    ck_assert_int_eq(commit(q, "k", t, 0), ERR_PENDING);
    ck_assert_int_eq(write_at(q, "k", t, LEN / 2, 10), OK);
    leave(q);
    ended(t);
}
END_TEST

START_TEST(nothing_stays_open_for_longer_than_it_said)
{
    uint64_t t;

    ck_assert_int_eq(open_attr(p, "k", LEN, 1, 200, NULL), OK);
    t = token();
    node_sleep(&n, 190 * NS_PER_MS);
    ck_assert_int_eq(write_at(p, "k", t, 0, 10), OK);
    node_sleep(&n, 11 * NS_PER_MS);
    ended(t);
}
END_TEST

START_TEST(nor_for_longer_than_the_server_lets_it)
{
    uint64_t limit = n.cfg.limits.open_time_us * NS_PER_US;

    for (uint32_t ms = 0; ms <= 3600000; ms += 3600000) {
        ck_assert_int_eq(open_attr(p, "k", LEN, 1, ms, NULL), OK);
        node_sleep(&n, limit - NS_PER_MS);
        ck_assert_int_eq(state_of("k"), STATE_PENDING);
        node_sleep(&n, 2 * NS_PER_MS);
        nothing_is_left("k");
    }
}
END_TEST

START_TEST(a_flush_ends_what_is_open)
{
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    uint64_t t = half(p, 1);
    char name[] = "test";

    m.name = name;
    m.bump = true;
    n.hold = true;
    ck_assert_int_eq(write_at(p, "k", t, LEN / 2, LEN / 2), 1);
    n.hold = false;
    node_msg(p, OP_NAMESPACE, &m);
    ck_assert_int_eq(n.reply.frame.status, OK);
    ck_assert_uint_eq(n.lane.opens.live_n, 0);
    ck_assert_uint_gt(n.lane.metrics.extent_bytes, 0); /* bytes on their way */
    node_let(p);
    ck_assert_int_eq(n.reply.r[0].status, ERR_MISS);
    p->bytes[0] = buf[0];
    node_open(&n, p, "lru");
    ended(t);
}
END_TEST

/* Any generation will do for this client: its old token does not. */
START_TEST(a_token_is_of_one_generation)
{
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    uint64_t t = half(p, 1);
    char name[] = "test";

    m.name = name;
    m.bump = true;
    node_msg(p, OP_NAMESPACE, &m);
    n.generation = 0;
    ck_assert_int_eq(write_at(p, "k", t, LEN / 2, LEN / 2), ERR_MISS);
    ck_assert_int_eq(commit(p, "k", t, 0), ERR_MISS);
    nothing_is_left("k");
}
END_TEST

START_TEST(a_commit_that_waits_hears_of_a_flush)
{
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    uint64_t t = half(p, 1);
    struct node_peer *q = join();
    char name[] = "test";

    n.hold = true;
    ck_assert_int_eq(write_at(p, "k", t, LEN / 2, LEN / 2), 1);
    ck_assert_int_eq(commit(q, "k", t, 0), 1);
    m.name = name;
    m.bump = true;
    node_msg(q, OP_NAMESPACE, &m);
    ck_assert_int_eq(n.reply.frame.op, OP_NAMESPACE);
    ck_assert_uint_eq(n.replies, 7); /* HELLO twice, OPEN, BEGIN, WRITE */
    n.hold = false;
    node_let(p);
    p->bytes[0] = buf[0];
    leave(q);
    node_open(&n, p, "lru");
    nothing_is_left("k");
}
END_TEST

static int evict(enum wire_select select, const char *key, uint32_t flags)
{
    struct node_batch b;

    batch_new(&b, &n, OP_EVICT);
    b.head.select = (uint8_t)select;
    b.head.flags = flags;
    if (select != SELECT_NAMESPACE)
        batch_key(&b, key, (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, 5 * NS_PER_MS);
    ck_assert(n.reply.there);
    return (int)n.reply.head.count;
}

START_TEST(an_evict_of_the_key_ends_it)
{
    uint64_t t = half(p, 1);

    ck_assert_int_eq(evict(SELECT_KEYS, "k", BATCH_DEMOTE), 0);
    ck_assert_int_eq(n.reply.r[0].status, ERR_PENDING);
    ck_assert_int_eq(state_of("k"), STATE_PENDING);
    ck_assert_int_eq(evict(SELECT_KEYS, "k", 0), 0);
    ck_assert_int_eq(n.reply.r[0].status, ERR_MISS); /* it was no block */
    ended(t);
}
END_TEST

START_TEST(an_evict_of_what_it_is_among_ends_it)
{
    uint64_t t = half(p, 1);

    ck_assert_int_eq(evict(SELECT_PATTERN, "x*", 0), 0);
    ck_assert_int_eq(state_of("k"), STATE_PENDING);
    ck_assert_int_eq(evict(SELECT_PATTERN, "k*", 0), 0);
    ended(t);
    ck_assert_int_eq(evict(SELECT_KEYS, "k", 0), 1);
    (void)half(p, 1);
    ck_assert_int_eq(evict(SELECT_NAMESPACE, NULL, BATCH_DEMOTE), 0);
    ck_assert_int_eq(evict(SELECT_NAMESPACE, NULL, 0), 0);
    nothing_is_left("k");
}
END_TEST

/* Matching costs length times length: no turn may do it for all of them. */
START_TEST(an_evict_of_many_takes_many_turns)
{
    enum { MANY = 12 };
    char key[WIRE_KEY_MAX + 1], pattern[WIRE_KEY_MAX + 1];
    uint64_t turns;

    memset(key, 'a', WIRE_KEY_MAX);
    memset(pattern, '?', WIRE_KEY_MAX - 1);
    pattern[WIRE_KEY_MAX - 1] = '*';
    key[WIRE_KEY_MAX] = pattern[WIRE_KEY_MAX] = 0;
    for (uint32_t i = 0; i < MANY; i++) {
        key[0] = (char)('a' + i);
        ck_assert_int_eq(open_block(p, key, 100, 1), OK);
    }
    turns = n.lane.metrics.loop_turns;
    ck_assert_int_eq(evict(SELECT_PATTERN, pattern, 0), 0);
    ck_assert_int_eq(n.reply.frame.status, OK);
    ck_assert_uint_gt(n.lane.metrics.loop_turns - turns, MANY);
    nothing_is_left(key);
}
END_TEST

START_TEST(an_evict_of_many_that_is_late_says_so)
{
    struct node_batch b;
    char key[WIRE_KEY_MAX + 1];

    memset(key, 'a', WIRE_KEY_MAX);
    key[WIRE_KEY_MAX] = 0;
    for (uint32_t i = 0; i < 12; i++) {
        key[0] = (char)('a' + i);
        ck_assert_int_eq(open_block(p, key, 100, 1), OK);
    }
    memset(key, '?', WIRE_KEY_MAX);
    batch_new(&b, &n, OP_EVICT);
    b.head.select = SELECT_PATTERN;
    b.frame.deadline_us = 350;
    batch_key(&b, key, (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, NS_PER_MS);
    ck_assert_int_eq(n.reply.frame.status, ERR_TIMEOUT);
    ck_assert_uint_gt(n.lane.opens.live_n, 0);
    ck_assert_uint_lt(n.lane.opens.live_n, 12);
}
END_TEST

START_TEST(bytes_on_their_way_keep_the_memory_until_they_are_there)
{
    struct node_peer *q = join();
    uint64_t t = half(p, 1);

    n.hold = true;
    ck_assert_int_eq(write_at(p, "k", t, LEN / 2, LEN / 2), 1);
    ck_assert_int_eq(give_up(q, "k", t), OK);
    ck_assert_uint_eq(n.lane.opens.live_n, 0);
    ck_assert_int_eq(state_of("k"), STATE_MISS);
    ck_assert_uint_ge(n.lane.metrics.extent_bytes, LEN);
    ck_assert_int_eq(open_block(q, "k", LEN, 1), OK); /* a new one, elsewhere */
    ck_assert_uint_ne(token(), t);
    n.hold = false;
    node_let(p);
    p->bytes[0] = buf[0];
    ck_assert_int_eq(n.reply.r[0].status, ERR_MISS);
    ck_assert_int_eq(commit(q, "k", token(), 0), ERR_PARTIAL); /* none of it */
    nothing_is_left("k");
    leave(q);
}
END_TEST

START_TEST(a_range_whose_bytes_did_not_come_may_be_written_again)
{
    uint64_t t = half(p, 1);

    n.hold = true;
    ck_assert_int_eq(write_at(p, "k", t, LEN / 2, LEN / 2), 1);
    node_sleep(&n, 100 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, ERR_TIMEOUT);
    n.hold = false;
    ck_assert_int_eq(write_at(p, "k", t, LEN / 2, LEN / 2), OK);
    ck_assert_int_eq(commit(p, "k", t, 0), OK);
    ck_assert_int_eq(get_same("k", LEN), OK);
}
END_TEST

START_TEST(a_writer_that_goes_in_the_middle_of_its_bytes_leaves_nothing)
{
    struct node_peer *q = join();
    uint64_t t;

    ck_assert_int_eq(open_block(q, "k", LEN, 1), OK);
    t = token();
    n.hold = true;
    ck_assert_int_eq(write_at(q, "k", t, 0, LEN), 1);
    ck_assert_int_eq(commit(q, "k", t, 0), 1);
    leave(q);
    n.hold = false;
    ck_assert_int_eq(commit(p, "k", t, 0), ERR_PARTIAL);
    nothing_is_left("k");
}
END_TEST

/* ---- limits */

static char *name_of(uint32_t i)
{
    static char text[16];

    snprintf(text, sizeof text, "b%u", i);
    return text;
}

START_TEST(open_blocks_are_counted)
{
    uint32_t i = 0;

    n.lane.opens.n = 3; /* as if limits.open_blocks were */
    n.cfg.limits.open_share_pct = 90;
    while (i < 3)
        ck_assert_int_eq(open_block(p, name_of(i++), 100, 1), OK);
    ck_assert_int_eq(open_block(p, name_of(3), 100, 1), ERR_BUSY);
    ck_assert_int_eq(open_block(p, name_of(1), 100, 1), OK); /* joins */
    ck_assert_int_eq(put("there", 100), OK);
    ck_assert_int_eq(open_block(p, "there", 100, 1), ERR_EXISTS);
    ck_assert_int_eq(give_up(p, name_of(1), token()), ERR_MISS); /* no token */
    ck_assert_int_eq(open_block(p, name_of(1), 100, 1), OK);
    ck_assert_int_eq(give_up(p, name_of(1), token()), OK);
    ck_assert_int_eq(open_block(p, name_of(3), 100, 1), OK);
}
END_TEST

/* A commit that waited looks a moment later how its block ended. */
START_TEST(an_end_that_somebody_waits_for_is_not_forgotten)
{
    struct opens *all = &n.lane.opens;
    struct node_peer *q = join();
    struct tp_xfer *x;
    uint64_t t;

    all->n = 1; /* as if limits.open_blocks were */
    list_init(&all->ended);
    list_add_tail(&all->ended, &all->all[0].node);
    ck_assert_int_eq(open_block(p, "k", 100, 1), OK);
    t = token();
    n.hold = true;
    ck_assert_int_eq(write_at(p, "k", t, 0, 100), 1);
    ck_assert_int_eq(commit(q, "k", t, 0), 1);
    x = container_of(list_pop(&p->xfers), struct tp_xfer, node);
    x->done(x, OK);
    (void)open_block(p, "other", 100, 1);
    ck_assert_uint_eq(n.lane.metrics.results[-ERR_BUSY], 1);
    ck_assert_int_eq(n.reply.frame.op, OP_PUT_COMMIT);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    p->bytes[0] = buf[0];
    n.hold = false;
    ck_assert_int_eq(open_block(p, "other", 100, 1), OK);
    leave(q);
}
END_TEST

START_TEST(their_bytes_are_a_part_of_the_tier)
{
    ck_assert_int_eq(open_block(p, name_of(0), MIB(2), 1), OK);
    ck_assert_int_eq(open_block(p, name_of(1), MIB(1), 1), OK);
    ck_assert_int_eq(open_block(p, name_of(2), MIB(1), 1), ERR_BUSY);
    ck_assert_int_eq(open_block(p, name_of(2), KIB(900), 1), OK);
    ck_assert_int_eq(commit(p, name_of(2), token(), 0), ERR_PARTIAL);
    ck_assert_uint_eq(n.lane.metrics.open_bytes, MIB(3));
}
END_TEST

START_TEST(one_larger_than_that_part_is_stored_alone)
{
    ck_assert_int_eq(open_block(p, name_of(0), MIB(12), 1), OK);
    ck_assert_int_eq(open_block(p, name_of(1), 10, 1), ERR_BUSY);
    ck_assert_int_eq(give_up(p, name_of(0), token()), ERR_MISS);
    ck_assert_int_eq(open_block(p, name_of(0), MIB(12), 1), OK);
    ck_assert_int_eq(give_up(p, name_of(0), token()), OK);
    ck_assert_int_eq(open_block(p, name_of(1), 10, 1), OK);
    ck_assert_int_eq(give_up(p, name_of(1), token()), OK);
    ck_assert_int_eq(open_block(p, name_of(0), MIB(17), 1), ERR_NO_SPACE);
}
END_TEST

/* All memory is being read. */
static void fill_and_hold(uint32_t deadline_us)
{
    struct node_batch b;

    batch_new(&b, &n, OP_GET);
    b.frame.deadline_us = deadline_us;
    for (uint32_t i = 0; i < 8; i++) {
        ck_assert_int_eq(put(name_of(i), MIB(2)), OK);
        batch_key(&b, name_of(i), (struct wire_key){.len = MIB(2)}, NULL, NULL);
    }
    node_sleep(&n, 100 * NS_PER_MS); /* and written behind */
    n.hold = true;
    batch_send(&b, p, NULL, 0);
    ck_assert(!n.reply.there);
}

START_TEST(a_begin_waits_for_memory)
{
    struct node_peer *q = join();

    fill_and_hold(10000000);
    ck_assert_int_eq(open_block(q, "k", LEN, 1), 1);
    n.hold = false;
    node_let(p);
    node_sleep(&n, 2 * NS_PER_MS);
    ck_assert_uint_eq(n.lane.opens.live_n, 1);
    ck_assert_int_eq(open_block(q, "k", LEN, 1), OK); /* what is its token? */
    ck_assert_int_eq(write_at(q, "k", token(), 0, LEN), OK);
    leave(q);
    ck_assert_int_eq(state_of("k"), STATE_MISS);
}
END_TEST

START_TEST(a_begin_that_finds_none_by_its_deadline_is_busy)
{
    struct node_peer *q = join();

    fill_and_hold(10000000);
    ck_assert_int_eq(open_block(q, "k", LEN, 1), 1);
    node_sleep(&n, 60 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, ERR_BUSY);
    ck_assert_int_eq(open_block(q, "k", LEN, 1), 1);
    leave(q); /* while it waits */
    n.hold = false;
    node_let(p);
    ck_assert_uint_eq(n.lane.opens.live_n, 0);
}
END_TEST

START_TEST(more_connections_than_a_block_may_have_are_refused)
{
    struct node_peer *q[OPEN_MEMBERS];
    uint64_t t;

    open_again(80);
    t = half(p, 64);
    for (uint32_t i = 0; i + 1 < OPEN_MEMBERS; i++) {
        q[i] = join();
        ck_assert_int_eq(open_block(q[i], "k", LEN, 64), OK);
    }
    q[63] = join();
    ck_assert_int_eq(open_block(q[63], "k", LEN, 64), ERR_LIMIT);
    ck_assert_int_eq(write_at(q[63], "k", t, LEN / 2, 10), ERR_LIMIT);
    ck_assert_int_eq(write_at(q[0], "k", t, LEN / 2, 10), OK);
    leave(q[63]);
    ck_assert_uint_eq(n.lane.opens.live_n, 1);
    leave(q[5]);
    ended(t);
    for (uint32_t i = 0; i < 63; i++)
        if (i != 5)
            leave(q[i]);
}
END_TEST

START_TEST(more_ranges_than_are_kept_are_refused)
{
    struct node_batch b;
    uint64_t t;

    ck_assert_int_eq(open_block(p, "k", LEN, 1), OK);
    t = token();
    for (uint32_t i = 0; i < RUNS_MAX / 32; i++) {
        batch_new(&b, &n, OP_PUT_WRITE);
        for (uint32_t k = 0; k < 32; k++)
            batch_key(&b, "k",
                      (struct wire_key){
                          .token = t, .off = 2 * (32 * i + k), .len = 1},
                      NULL, NULL);
        batch_send(&b, p, NULL, 0);
        ck_assert_int_eq(n.reply.r[31].status, OK);
    }
    ck_assert_int_eq(write_at(p, "k", t, LEN - 1, 1), ERR_LIMIT);
    ck_assert_int_eq(give_up(p, "k", t), OK);
    nothing_is_left("k");
}
END_TEST

START_TEST(malformed_requests_are_refused_whole)
{
    struct node_batch b;
    uint64_t t;

    ck_assert_int_eq(open_block(p, "huge", GIB(1) + 1, 1), ERR_LIMIT);
    ck_assert_int_eq(open_block(p, "huge", GIB(1), 2), ERR_NO_SPACE);
    t = half(p, 1);
    ck_assert_int_eq(open_block(p, "zero", 0, 1), ERR_BAD_REQUEST);
    ck_assert_int_eq(write_at(p, "k", t, 0, 0), ERR_BAD_REQUEST);
    batch_new(&b, &n, OP_PUT_COMMIT);
    batch_key(&b, "k", (struct wire_key){.token = t}, NULL, NULL);
    batch_key(&b, "", (struct wire_key){.token = t}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.frame.status, ERR_BAD_REQUEST);
    ck_assert_uint_eq(n.lane.opens.live_n, 1);
}
END_TEST

/* ---- faults */

static void fault_scenario(void)
{
    struct node_peer *q = node_connect(&n, true);
    uint64_t t;

    if (!q)
        return;
    q->bytes[0] = buf[0];
    (void)open_block(p, "fault", LEN, 2);
    t = token();
    (void)open_block(q, "fault", LEN, 2);
    (void)write_at(p, "fault", t, 0, LEN / 2);
    (void)write_at(q, "fault", t, LEN / 2, LEN / 2);
    (void)commit(q, "fault", t, 0);
    (void)commit(p, "fault", t, 1);
    (void)get("fault", LEN);
    (void)evict(SELECT_KEYS, "fault", 0);
    leave(q);
}

START_TEST(every_fault_is_survived)
{
    uint32_t i;

    for (i = 1; i < 1000; i++) {
        fault_arm(i);
        fault_scenario();
        if (!fault_hit())
            break;
        fault_arm(0);
        node_sleep(&n, NS_PER_S);
        ck_assert(!p->closed);
        ck_assert_uint_eq(pool_used(&n.lane.ops), 0);
        (void)evict(SELECT_KEYS, "fault", 0);
        nothing_is_left("fault");
    }
    fault_arm(0);
    ck_assert_uint_gt(i, 5); /* some faults did fire */
    ck_assert_uint_lt(i, 1000);
    fault_scenario();
    nothing_is_left("fault");
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ops_open_end");
    TCase *t = tcase_create("ends"), *l = tcase_create("limits");

    tcase_add_checked_fixture(t, open_up, open_down);
    tcase_add_checked_fixture(l, open_up, open_down);
    tcase_add_test(t, a_last_commit_without_all_bytes_is_partial);
    tcase_add_test(t, a_commit_before_bytes_that_do_not_come_is_partial);
    tcase_add_test(t, any_writer_may_give_up);
    tcase_add_test(t, a_writer_that_goes_takes_the_block_with_it);
    tcase_add_test(t, who_wrote_is_a_writer);
    tcase_add_test(t, who_has_committed_may_go);
    tcase_add_test(t, who_writes_on_after_a_commit_is_not_done);
    tcase_add_test(t, nothing_stays_open_for_longer_than_it_said);
    tcase_add_test(t, nor_for_longer_than_the_server_lets_it);
    tcase_add_test(t, a_flush_ends_what_is_open);
    tcase_add_test(t, a_token_is_of_one_generation);
    tcase_add_test(t, a_commit_that_waits_hears_of_a_flush);
    tcase_add_test(t, an_evict_of_the_key_ends_it);
    tcase_add_test(t, an_evict_of_what_it_is_among_ends_it);
    tcase_add_test(t, an_evict_of_many_takes_many_turns);
    tcase_add_test(t, an_evict_of_many_that_is_late_says_so);
    tcase_add_test(t, bytes_on_their_way_keep_the_memory_until_they_are_there);
    tcase_add_test(t, a_range_whose_bytes_did_not_come_may_be_written_again);
    tcase_add_test(
        t, a_writer_that_goes_in_the_middle_of_its_bytes_leaves_nothing);
    tcase_add_test(l, open_blocks_are_counted);
    tcase_add_test(l, an_end_that_somebody_waits_for_is_not_forgotten);
    tcase_add_test(l, their_bytes_are_a_part_of_the_tier);
    tcase_add_test(l, one_larger_than_that_part_is_stored_alone);
    tcase_add_test(l, a_begin_waits_for_memory);
    tcase_add_test(l, a_begin_that_finds_none_by_its_deadline_is_busy);
    tcase_add_test(l, more_connections_than_a_block_may_have_are_refused);
    tcase_add_test(l, more_ranges_than_are_kept_are_refused);
    tcase_add_test(l, malformed_requests_are_refused_whole);
    tcase_add_test(l, every_fault_is_survived);
    suite_add_tcase(s, t);
    suite_add_tcase(s, l);
    return s;
}
