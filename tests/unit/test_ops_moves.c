/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * What a lane does for moving slots: LIST, wants of GET and LOOKUP, copies that
 * a drop went before, blocks of slots that have left. The view and the puller
 * are the test's. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "lib/node_ssd.h"
#include "server/moves.h"
#include "server/owner.h"
#include "server/puller.h"
#include "server/wants.h"

static struct moves moves;
static struct view view;
static struct puller_want *asked[WANTS_MAX];
static uint32_t asked_n;

static void want_one(void *arg, struct puller_want *w)
{
    (void)arg;
    ck_assert_uint_lt(asked_n, WANTS_MAX);
    asked[asked_n++] = w;
}

static void cluster_up(void)
{
    up();
    moves = (struct moves){.want = want_one};
    asked_n = 0;
    ck_assert_int_eq(view_init(&view), OK);
    ck_assert_int_eq(view_room(&view, 3), OK);
    view.node_n = 3;
    view.epoch = 7;
    for (uint32_t i = 0; i < 3; i++)
        view.nodes[i].state = NODE_UP;
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        view.slots[i].owner[0] = 1; /* this node */
    n.lane.moves = &moves;
    n.lane.view = &view;
    n.lane.epoch = view.epoch;
    n.lane.self_node = 1;
}

static void cluster_down(void)
{
    n.lane.view = NULL;
    n.lane.moves = NULL;
    down();
    view_fini(&view);
}

static void all_slots(struct slot s)
{
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        view.slots[i] = s;
}

static const struct slot from_0 = {
    {1, NODE_NONE, NODE_NONE}, 0, NODE_NONE, 0, 0};
static const struct slot mine = {
    {1, NODE_NONE, NODE_NONE}, NODE_NONE, NODE_NONE, 0, 0};

static void brings_all(void)
{
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        moves_set(moves.brings, i, true);
}

/* A PUT as the puller makes it. */
static int put_here_attr(const char *key, uint64_t len,
                         const struct wire_attr *attr)
{
    struct node_batch b;

    fill(buf[0], key, len);
    batch_new(&b, &n, OP_PUT);
    b.head.flags = BATCH_HERE;
    batch_key(&b, key, (struct wire_key){.len = len}, NULL, attr);
    batch_send(&b, p, NULL, 0);
    return n.reply.there ? n.reply.r[0].status : 1;
}

static int put_here(const char *key, uint64_t len)
{
    return put_here_attr(key, len, NULL);
}

/* ---- LIST */

static uint32_t slot_of(const char *key)
{
    return hash_slot(n.lane.ns[n.ns].slot_seed, key, strlen(key));
}

static const Pikv__ListReply *list_ask(Pikv__ListRequest *m)
{
    node_msg(p, OP_LIST, m);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.frame.status, OK);
    return unpack(&pikv__list_reply__descriptor);
}

static const Pikv__ListReply *list(const uint64_t *slots, uint64_t cursor,
                                   uint32_t max, uint32_t replicas_min)
{
    Pikv__ListRequest m = PIKV__LIST_REQUEST__INIT;

    m.cursor = cursor;
    m.max = max;
    m.replicas_min = replicas_min;
    m.slots.data = (uint8_t *)(uintptr_t)slots;
    m.slots.len = WIRE_SLOTS / 8;
    return list_ask(&m);
}

static uint64_t every[MOVES_WORDS], some[MOVES_WORDS];

static const Pikv__ListBlock *listed(const Pikv__ListReply *r, const char *key)
{
    for (size_t s = 0; s < r->n_spaces; s++)
        for (size_t i = 0; i < r->spaces[s]->n_blocks; i++) {
            const Pikv__ListBlock *b = r->spaces[s]->blocks[i];

            if (b->key.len == strlen(key) &&
                memcmp(b->key.data, key, b->key.len) == 0)
                return b;
        }
    return NULL;
}

START_TEST(list_says_all_that_a_put_elsewhere_needs)
{
    const struct wire_attr attr = {.page = 3,
                                   .token_end = 48,
                                   .token_n = 16,
                                   .ttl_ms = 90000,
                                   .affinity = 5,
                                   .priority = 9,
                                   .replicas = 2,
                                   .flags = ATTR_CLIENT_COPY,
                                   .label1 = 77};
    const Pikv__ListReply *r;
    const Pikv__ListBlock *b;

    memset(every, 0xff, sizeof every);
    ck_assert_int_eq(put("up", 3000), OK);
    ck_assert_int_eq(put_attr("warm", 3000, &attr, "up"), OK);
    put_cold_attr("cold", 4000, &attr, "up");
    r = list(every, 0, 0, 0);
    ck_assert_uint_eq(r->next_cursor, 0);
    ck_assert_uint_eq(r->epoch, 7);
    ck_assert_uint_eq(r->n_spaces, 1);
    ck_assert_str_eq(r->spaces[0]->name, "test");
    ck_assert_str_eq(r->spaces[0]->open->name, "test");
    ck_assert(r->spaces[0]->open->create);
    ck_assert_str_eq(r->spaces[0]->open->settings->policy, "lru");
    ck_assert_uint_eq(r->spaces[0]->n_blocks, 3);
    for (uint32_t i = 0; i < 2; i++) {
        b = listed(r, i ? "cold" : "warm");
        ck_assert_ptr_nonnull(b);
        ck_assert_uint_eq(b->len, i ? 4000 : 3000);
        ck_assert_uint_eq(b->tier, i);
        ck_assert_uint_eq(b->page, 3);
        ck_assert_uint_eq(b->token_end, 48);
        ck_assert_uint_eq(b->token_n, 16);
        ck_assert_uint_eq(b->affinity, 5);
        ck_assert_uint_eq(b->priority, 9);
        ck_assert_uint_eq(b->replicas, 2);
        ck_assert_uint_eq(b->flags, ATTR_CLIENT_COPY);
        ck_assert_uint_eq(b->n_labels, 2);
        ck_assert_uint_eq(b->labels[1], 77);
        ck_assert_uint_gt(b->ttl_left_ms, 80000);
        ck_assert_uint_le(b->ttl_left_ms, 90000);
        ck_assert_uint_eq(b->parent.len, 2);
        ck_assert_uint_eq(b->slot, slot_of(i ? "cold" : "warm"));
    }
    r = list(every, 0, 0, 2);
    ck_assert_uint_eq(r->spaces[0]->n_blocks, 2);
    ck_assert_ptr_null(listed(r, "up"));
}
END_TEST

START_TEST(list_names_the_blocks_of_the_wanted_slots_page_by_page)
{
    char key[16];
    uint32_t want = 0, got = 0, pages = 0;
    uint64_t cursor = 0;

    memset(some, 0, sizeof some);
    for (uint32_t i = 0; i < 60; i++) {
        snprintf(key, sizeof key, "k%u", i);
        if (i % 3)
            put_cold(key, 3000);
        else
            ck_assert_int_eq(put(key, 3000), OK);
        if (i % 2 == 0) {
            some[slot_of(key) / 64] |= UINT64_C(1) << slot_of(key) % 64;
            want++;
        }
    }
    do {
        const Pikv__ListReply *r = list(some, cursor, 7, 0);
        size_t blocks = r->n_spaces ? r->spaces[0]->n_blocks : 0;

        ck_assert_uint_le(blocks, 7);
        for (size_t i = 0; i < blocks; i++) {
            const Pikv__ListBlock *b = r->spaces[0]->blocks[i];

            ck_assert(some[b->slot / 64] >> b->slot % 64 & 1);
        }
        got += (uint32_t)blocks;
        cursor = r->next_cursor;
        pages++;
    } while (cursor);
    ck_assert_uint_eq(got, want);
    ck_assert_uint_ge(pages, want / 7);
}
END_TEST

START_TEST(list_finds_slots_after_a_restart_from_checkpoint_and_scan)
{
    Pikv__ListRequest m = PIKV__LIST_REQUEST__INIT;

    put_cold("k", 3000);
    for (int i = 0; i < 2; i++) {
        again(i == 0);
        m.slot = slot_of("k");
        ck_assert_ptr_nonnull(listed(list_ask(&m), "k"));
        m.slot = (slot_of("k") + 1) % WIRE_SLOTS;
        ck_assert_ptr_null(listed(list_ask(&m), "k"));
    }
}
END_TEST

START_TEST(list_answers_for_single_keys)
{
    Pikv__ListRequest m = PIKV__LIST_REQUEST__INIT;
    Pikv__ListKey keys[3], *all[3];
    static const char *const names[3] = {"warm", "cold", "none"};
    char space[] = "test", other[] = "other";
    const Pikv__ListReply *r;

    ck_assert_int_eq(put("warm", 3000), OK);
    ck_assert_int_eq(put("more", 3000), OK);
    put_cold("cold", 3000);
    for (uint32_t i = 0; i < 3; i++) {
        pikv__list_key__init(&keys[i]);
        keys[i].key.data = (uint8_t *)(uintptr_t)names[i];
        keys[i].key.len = 4;
        all[i] = &keys[i];
    }
    m.space = space;
    m.keys = all;
    m.n_keys = 3;
    r = list_ask(&m);
    ck_assert_uint_eq(r->n_spaces, 1);
    ck_assert_uint_eq(r->spaces[0]->n_blocks, 2);
    ck_assert_ptr_nonnull(listed(r, "warm"));
    ck_assert_ptr_nonnull(listed(r, "cold"));
    m.space = other;
    ck_assert_uint_eq(list_ask(&m)->n_spaces, 0);
}
END_TEST

static int list_status(Pikv__ListRequest *m)
{
    node_msg(p, OP_LIST, m);
    return n.reply.frame.status;
}

START_TEST(list_is_for_the_daemons_own_user)
{
    Pikv__ListRequest m = PIKV__LIST_REQUEST__INIT;
    Pikv__ListKey bad = PIKV__LIST_KEY__INIT, *all[1] = {&bad};
    uint8_t bytes[100] = {0};

    p->tp.cred = (struct tp_cred){.pid = 5, .uid = n.lane.own_uid + 1};
    ck_assert_int_eq(list_status(&m), ERR_DENIED);
    p->tp.cred.uid = n.lane.own_uid;
    ck_assert_int_eq(list_status(&m), OK);
    m.slot = WIRE_SLOTS;
    ck_assert_int_eq(list_status(&m), ERR_BAD_REQUEST);
    m.slots.data = bytes;
    m.slots.len = sizeof bytes;
    ck_assert_int_eq(list_status(&m), ERR_BAD_REQUEST);
    m.keys = all;
    m.n_keys = 1;
    ck_assert_int_eq(list_status(&m), ERR_BAD_REQUEST);
}
END_TEST

/* ---- wants */

static void answer(struct puller_want *w, enum err e)
{
    w->err = e;
    w->mail.fn = w->done;
    list_init(&w->mail.node);
    ck_assert_int_eq(mailbox_post(&n.lane.mailbox, &w->mail), OK);
    node_settle(&n);
}

START_TEST(a_get_waits_for_what_the_last_home_has)
{
    all_slots(from_0);
    ck_assert_int_eq(get("k", 3000), 1); /* no answer yet */
    ck_assert_uint_eq(asked_n, 1);
    ck_assert_uint_eq(asked[0]->from, 0);
    ck_assert_str_eq(asked[0]->space, "test");
    ck_assert_uint_eq(asked[0]->key_len, 1);
    ck_assert_int_eq(asked[0]->key[0], 'k');
    ck_assert_uint_eq(asked[0]->slot, slot_of("k"));
    ck_assert_int_eq(put_here("k", 3000), OK);
    memset(buf[0], 0, 3000);
    n.reply.there = false;
    answer(asked[0], OK);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_uint_eq(n.reply.r[0].moved, 3000);
    ck_assert(same(buf[0], "k", 3000));
    ck_assert_uint_eq(n.lane.metrics.pull_hits, 1);
}
END_TEST

START_TEST(a_get_of_what_nobody_has_is_a_miss)
{
    all_slots(from_0);
    ck_assert_int_eq(get("k", 3000), 1);
    answer(asked[0], ERR_MISS);
    ck_assert_int_eq(n.reply.r[0].status, ERR_MISS);
    /* Here once more, it is asked for once more. */
    ck_assert_int_eq(get("k", 3000), 1);
    ck_assert_uint_eq(asked_n, 2);
    answer(asked[1], ERR_NO_SERVER);
    ck_assert_int_eq(n.reply.r[0].status, ERR_MISS);
    /* Without a last home, or one that answers, nothing is asked. */
    view.nodes[0].state = NODE_DOWN;
    ck_assert_int_eq(get("k", 3000), ERR_MISS);
    view.nodes[0].state = NODE_UP;
    all_slots(mine);
    ck_assert_int_eq(get("k", 3000), ERR_MISS);
    ck_assert_uint_eq(asked_n, 2);
}
END_TEST

START_TEST(a_key_is_asked_for_once_and_its_deadline_is_a_miss)
{
    struct node_batch b;

    all_slots(from_0);
    ck_assert_int_eq(put("here", 3000), OK);
    batch_new(&b, &n, OP_GET);
    batch_key(&b, "k", (struct wire_key){.len = 3000}, NULL, NULL);
    batch_key(&b, "here", (struct wire_key){.len = 3000}, NULL, NULL);
    batch_key(&b, "k", (struct wire_key){.len = 3000}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_uint_eq(asked_n, 1);
    ck_assert(!n.reply.there);
    node_sleep(&n, 100 * NS_PER_MS); /* the request's time is over */
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.r[0].status, ERR_TIMEOUT);
    ck_assert_int_eq(n.reply.r[1].status, OK);
    ck_assert_int_eq(n.reply.r[2].status, ERR_TIMEOUT);
    answer(asked[0], OK); /* nobody waits any more */
}
END_TEST

START_TEST(a_client_that_goes_away_leaves_its_wants)
{
    struct node_peer *q = node_connect(&n, true);
    struct node_batch b;

    all_slots(from_0);
    batch_new(&b, &n, OP_GET);
    batch_key(&b, "k", (struct wire_key){.len = 3000}, NULL, NULL);
    batch_send(&b, q, NULL, 0);
    ck_assert_uint_eq(asked_n, 1);
    node_hangup(q);
    answer(asked[0], OK);
    node_free_peer(q);
}
END_TEST

START_TEST(a_lookup_begins_to_bring_what_it_misses)
{
    all_slots(from_0);
    ck_assert_int_eq(key_op(OP_LOOKUP, 0, "k"), ERR_MISS);
    ck_assert_uint_eq(asked_n, 1);
    ck_assert_int_eq(put_here("k", 3000), OK);
    answer(asked[0], OK);
    ck_assert_int_eq(key_op(OP_LOOKUP, 0, "k"), OK);
    ck_assert_int_eq(key_op(OP_LOOKUP, BATCH_HERE, "l"), ERR_MISS);
    ck_assert_uint_eq(asked_n, 1);
}
END_TEST

START_TEST(without_room_for_another_want_it_is_a_miss)
{
    char key[16];

    all_slots(from_0);
    for (uint32_t i = 0; i < WANTS_MAX; i++) {
        snprintf(key, sizeof key, "k%u", i);
        ck_assert_int_eq(key_op(OP_LOOKUP, 0, key), ERR_MISS);
    }
    ck_assert_int_eq(get("more", 3000), ERR_MISS);
    ck_assert_uint_eq(asked_n, WANTS_MAX);
    for (uint32_t i = 0; i < WANTS_MAX; i++)
        answer(asked[i], ERR_MISS);
}
END_TEST

/* ---- drops */

START_TEST(a_copy_does_not_come_after_its_drop)
{
    all_slots(from_0);
    brings_all();
    ck_assert_int_eq(put_here("k", 3000), OK);
    ck_assert_int_eq(key_op(OP_EVICT, 0, "k"), OK);
    ck_assert_int_eq(put_here("k", 3000), ERR_CANCELED);
    ck_assert_int_eq(key_op(OP_EVICT, 0, "never"), ERR_MISS);
    ck_assert_int_eq(put_here("never", 3000), ERR_CANCELED);
    ck_assert_int_eq(put_here("other", 3000), OK);
    /* A client stores it anew: that is no copy of before. */
    ck_assert_int_eq(put("k", 3000), OK);
    /* And nothing is asked for that was dropped here. */
    ck_assert_int_eq(key_op(OP_EVICT, 0, "k"), OK);
    ck_assert_int_eq(get("k", 3000), ERR_MISS);
    ck_assert_uint_eq(asked_n, 0);
    node_sleep(&n, DROPS_S * NS_PER_S + 1);
    ck_assert_int_eq(put_here("k", 3000), OK);
}
END_TEST

START_TEST(a_copy_whose_drop_comes_while_its_bytes_do_is_given_up)
{
    struct node_batch b;

    brings_all();
    n.hold = true;
    batch_new(&b, &n, OP_PUT);
    b.head.flags = BATCH_HERE;
    batch_key(&b, "k", (struct wire_key){.len = 3000}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert(!n.reply.there);
    ck_assert_int_eq(key_op(OP_EVICT, 0, "k"), ERR_PENDING);
    node_let(p);
    node_settle(&n);
    n.hold = false;
    ck_assert_int_eq(n.reply.r[0].status, ERR_CANCELED);
    ck_assert_int_eq(get("k", 3000), ERR_MISS);
}
END_TEST

START_TEST(a_drop_by_label_stops_copies_that_carry_it)
{
    const struct wire_attr in = {.label2 = 5}, out = {.label2 = 6};
    struct node_batch b;

    brings_all();
    batch_new(&b, &n, OP_EVICT);
    b.head.select = SELECT_LABEL;
    batch_key(&b, "", (struct wire_key){0}, NULL,
              &(struct wire_attr){.label0 = 5});
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert_int_eq(n.reply.frame.status, OK);
    ck_assert_int_eq(put_here_attr("k", 3000, &in), ERR_CANCELED);
    ck_assert_int_eq(put_here_attr("l", 3000, &out), OK);
    ck_assert_int_eq(put_here("m", 3000), OK);
    /* What cannot be asked of a copy stops them all for a while. */
    batch_new(&b, &n, OP_EVICT);
    b.head.select = SELECT_NAMESPACE;
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert_int_eq(put_here("o", 3000), ERR_RETRY);
    ck_assert_int_eq(put("o", 3000), OK);
    node_sleep(&n, DROPS_S * NS_PER_S + 1);
    ck_assert_int_eq(put_here("q", 3000), OK);
}
END_TEST

START_TEST(nothing_is_remembered_where_nothing_comes)
{
    ck_assert_int_eq(key_op(OP_EVICT, 0, "k"), ERR_MISS);
    ck_assert_int_eq(put_here("k", 3000), OK);
}
END_TEST

START_TEST(a_drop_by_an_older_view_has_to_be_said_again)
{
    struct node_batch b;

    all_slots((struct slot){{1, 2, NODE_NONE}, NODE_NONE, NODE_NONE, 0, 0});
    ck_assert_int_eq(put("k", 3000), OK);
    batch_new(&b, &n, OP_EVICT);
    b.head.epoch = 6;
    batch_key(&b, "k", (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].status, ERR_STALE_EPOCH);
    ck_assert_uint_eq(n.reply.head.epoch, 7);
    ck_assert_int_eq(get("k", 3000), ERR_MISS); /* here it is done */
    ck_assert_int_eq(put("k", 3000), OK);
    b.head.epoch = 7;
    batch_new(&b, &n, OP_EVICT);
    b.head.epoch = 7;
    batch_key(&b, "k", (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].status, OK);
}
END_TEST

/* ---- what has left */

static void sweep(void)
{
    moves.sweep++;
    node_sleep(&n, 2 * NS_PER_S);
}

START_TEST(blocks_of_slots_that_left_are_dropped_and_say_so)
{
    char key[16];
    uint32_t block;

    put_cold("cold", 3000);
    ck_assert_int_eq(put("stays", 3000), OK);
    for (uint32_t i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "k%u", i);
        ck_assert_int_eq(put(key, 3000), OK);
    }
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        if (i != slot_of("stays")) {
            moves_set(moves.leaves, i, true);
            view.slots[i].owner[0] = 2;
        }
    sweep();
    ck_assert_uint_ge(n.lane.metrics.moved_blocks, 200);
    ck_assert_int_eq(where("stays", &block), WHERE_MEMORY);
    ck_assert_uint_ne(block, 0);
    (void)where("cold", &block);
    ck_assert_uint_eq(block, 0);
    n.lane.view = NULL;
    ck_assert_int_eq(get("cold", 3000), ERR_MISS);
    ck_assert_uint_eq(n.lane.metrics.get_miss_moved, 1);
}
END_TEST

START_TEST(a_slot_that_came_back_keeps_its_blocks)
{
    ck_assert_int_eq(put("k", 3000), OK);
    moves_set(moves.leaves, slot_of("k"), true); /* the puller is behind */
    sweep();
    ck_assert_int_eq(get("k", 3000), OK);
    view.slots[slot_of("k")].owner[0] = 2;
    view.slots[slot_of("k")].to = 1;
    sweep();
    ck_assert_int_eq(get("k", 3000), OK);
    view.slots[slot_of("k")].to = NODE_NONE;
    sweep();
    ck_assert_int_eq(get("k", 3000), ERR_WRONG_NODE);
}
END_TEST

START_TEST(of_a_slot_that_is_hot_no_more_the_copies_stay)
{
    const struct wire_attr two = {.replicas = 2};

    ck_assert_int_eq(put("one", 3000), OK);
    ck_assert_int_eq(put_attr("two", 3000, &two, NULL), OK);
    all_slots((struct slot){{2, 1, NODE_NONE}, NODE_NONE, NODE_NONE, 0, 0});
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        moves_set(moves.cools, i, true);
    sweep();
    ck_assert_int_eq(get("two", 3000), OK);
    ck_assert_int_eq(get("one", 3000), ERR_WRONG_NODE);
}
END_TEST

/* ---- the view's rules */

static struct moves_need need(struct slot s, uint16_t self)
{
    view.slots[5] = s;
    return moves_need(&view, 5, self);
}

START_TEST(the_view_says_what_is_needed_from_whom)
{
    struct slot s = {{0, 1, 2}, NODE_NONE, NODE_NONE, 0, 0};
    struct moves_need m = need(s, 1);

    ck_assert(m.why == MOVES_COPY && m.source == 0 && m.copies_min == 2);
    m = need(s, 2);
    ck_assert(m.why == MOVES_COPY && m.source == 0 && m.copies_min == 3);
    m = need(s, 0); /* who has just become the home asks the copies */
    ck_assert(m.why == MOVES_COPY && m.source == 1 && m.copies_min == 2);
    s.heat = 1;
    ck_assert_uint_eq(need(s, 1).copies_min, 1);
    ck_assert_uint_eq(need(s, 2).copies_min, 3);
    view.nodes[0].state = NODE_DOWN; /* 1 stands in for it */
    ck_assert(need(s, 1).why == MOVES_NOTHING);
    ck_assert_uint_eq(need(s, 2).source, 1);
    view.nodes[0].state = NODE_UP;
    s = (struct slot){{0, NODE_NONE, NODE_NONE}, NODE_NONE, 2, 0, 0};
    m = need(s, 2);
    ck_assert(m.why == MOVES_IN && m.source == 0 && m.copies_min == 1);
    ck_assert(need(s, 1).why == MOVES_NOTHING);
    s = (struct slot){{2, NODE_NONE, NODE_NONE}, 0, NODE_NONE, 0, 0};
    m = need(s, 2);
    ck_assert(m.why == MOVES_REST && m.source == 0);
    view.nodes[0].state = NODE_DOWN;
    ck_assert(need(s, 2).why == MOVES_NOTHING);
    ck_assert(need(s, NODE_NONE).why == MOVES_NOTHING);
    ck_assert(moves_holds(&view, 5, 0) && moves_holds(&view, 5, 2));
    ck_assert(!moves_holds(&view, 5, 1) && moves_holds(&view, 5, NODE_NONE));
}
END_TEST

/* ---- drops.h by itself */

START_TEST(too_many_drops_stop_all_copies_for_a_while)
{
    struct drops d;
    struct store_key k = {.ns = 1, .scope = (const uint8_t[16]){0}};
    uint64_t now = NS_PER_S;

    ck_assert_int_eq(drops_init(&d), OK);
    for (uint32_t i = 1; i <= DROPS_WAYS; i++) {
        k.hash = (struct hash128){i, 9};
        drops_key(&d, &k, now);
        ck_assert_int_eq(drops_check(&d, &k, NULL, now), ERR_CANCELED);
    }
    k.hash.lo = 1000;
    ck_assert_int_eq(drops_check(&d, &k, NULL, now), OK);
    drops_key(&d, &k, now); /* one of the others is forgotten */
    k.hash.lo = 1001;
    ck_assert_int_eq(drops_check(&d, &k, NULL, now), ERR_RETRY);
    ck_assert_int_eq(drops_check(&d, &k, NULL, now + DROPS_S * NS_PER_S + 1),
                     OK);
    now += 2 * DROPS_S * NS_PER_S;
    for (uint64_t i = 1; i <= DROPS_WIDE + 1; i++) {
        ck_assert_int_eq(drops_check(&d, &k, NULL, now), OK);
        drops_select(&d, 1, SELECT_LABEL, (const uint64_t[4]){i}, NULL, now);
        drops_select(&d, 1, SELECT_LABEL, (const uint64_t[4]){i}, NULL, now);
    }
    ck_assert_int_eq(drops_check(&d, &k, NULL, now), ERR_RETRY);
    drops_fini(&d);
}
END_TEST

START_TEST(a_drop_by_scope_stops_copies_in_it)
{
    static const uint8_t a[16] = {1}, b[16] = {2};
    struct store_key k = {.ns = 1, .scope = a};
    struct drops d;

    ck_assert_int_eq(drops_init(&d), OK);
    drops_select(&d, 1, SELECT_SCOPE, NULL, a, NS_PER_S);
    ck_assert_int_eq(drops_check(&d, &k, NULL, NS_PER_S), ERR_CANCELED);
    k.ns = 2;
    ck_assert_int_eq(drops_check(&d, &k, NULL, NS_PER_S), OK);
    k.ns = 1;
    k.scope = b;
    ck_assert_int_eq(drops_check(&d, &k, NULL, NS_PER_S), OK);
    drops_fini(&d);
    ck_assert_int_eq(drops_check(&d, &k, NULL, NS_PER_S), OK);
    drops_key(&d, &k, NS_PER_S); /* nothing is ever brought there */
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ops_moves");
    TCase *t = tcase_create("ops"), *u = tcase_create("rules");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, cluster_up, cluster_down);
    tcase_add_test(t, list_says_all_that_a_put_elsewhere_needs);
    tcase_add_test(t, list_names_the_blocks_of_the_wanted_slots_page_by_page);
    tcase_add_test(t,
                   list_finds_slots_after_a_restart_from_checkpoint_and_scan);
    tcase_add_test(t, list_answers_for_single_keys);
    tcase_add_test(t, list_is_for_the_daemons_own_user);
    tcase_add_test(t, a_get_waits_for_what_the_last_home_has);
    tcase_add_test(t, a_get_of_what_nobody_has_is_a_miss);
    tcase_add_test(t, a_key_is_asked_for_once_and_its_deadline_is_a_miss);
    tcase_add_test(t, a_client_that_goes_away_leaves_its_wants);
    tcase_add_test(t, a_lookup_begins_to_bring_what_it_misses);
    tcase_add_test(t, without_room_for_another_want_it_is_a_miss);
    tcase_add_test(t, a_copy_does_not_come_after_its_drop);
    tcase_add_test(t, a_copy_whose_drop_comes_while_its_bytes_do_is_given_up);
    tcase_add_test(t, a_drop_by_label_stops_copies_that_carry_it);
    tcase_add_test(t, nothing_is_remembered_where_nothing_comes);
    tcase_add_test(t, a_drop_by_an_older_view_has_to_be_said_again);
    tcase_add_test(t, blocks_of_slots_that_left_are_dropped_and_say_so);
    tcase_add_test(t, a_slot_that_came_back_keeps_its_blocks);
    tcase_add_test(t, of_a_slot_that_is_hot_no_more_the_copies_stay);
    tcase_add_test(t, the_view_says_what_is_needed_from_whom);
    suite_add_tcase(s, t);
    tcase_add_test(u, too_many_drops_stop_all_copies_for_a_while);
    tcase_add_test(u, a_drop_by_scope_stops_copies_in_it);
    suite_add_tcase(s, u);
    return s;
}
