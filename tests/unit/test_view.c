/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: cluster base */
#include "cluster/view.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"

enum { CRC = 4 };

static uint64_t seed;

static uint32_t chance(uint32_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed >> 11) % n);
}

static struct node *add(struct view *v, enum node_state state)
{
    struct node *n;

    ck_assert_int_eq(view_room(v, v->node_n + 1), OK);
    n = &v->nodes[v->node_n];
    snprintf(n->name, sizeof(n->name), "node-%u", v->node_n);
    snprintf(n->peer, sizeof(n->peer), "10.0.0.%u:7070", v->node_n);
    snprintf(n->zone, sizeof(n->zone), "zone-%u", v->node_n % 3);
    n->uuid = 1000 + v->node_n++;
    n->incarnation = 1;
    n->state = (uint8_t)state;
    n->lane_n = 2;
    n->weight = 4096;
    return n;
}

static void up(struct view *v, uint32_t n)
{
    ck_assert_int_eq(view_init(v), OK);
    v->cluster = 77;
    v->generation = 3;
    v->epoch = 10;
    while (v->node_n < n)
        add(v, NODE_UP);
}

static void own(struct view *v, uint32_t slot, uint16_t a, uint16_t b,
                uint16_t c)
{
    v->slots[slot] =
        (struct slot){.owner = {a, b, c}, .from = NODE_NONE, .to = NODE_NONE};
}

/* Any node that may hold a slot, not a, b or c. */
static uint16_t another(const struct view *v, uint32_t a, uint32_t b,
                        uint32_t c)
{
    for (;;) {
        uint32_t i = chance(v->node_n);

        if (i != a && i != b && i != c && v->nodes[i].state != NODE_REMOVED &&
            v->nodes[i].state != NODE_JOINING)
            return (uint16_t)i;
    }
}

static void random_slot(struct view *v, uint32_t i)
{
    struct slot *s = &v->slots[i];
    uint32_t n = chance(4);

    own(v, i, NODE_NONE, NODE_NONE, NODE_NONE);
    for (uint32_t k = 0; k < n; k++)
        s->owner[k] = another(v, s->owner[0], s->owner[1], s->owner[2]);
    if (n && chance(10) == 0)
        s->from = another(v, s->owner[0], NODE_NONE, NODE_NONE);
    if (n && chance(10) == 0)
        s->to = another(v, s->owner[0], NODE_NONE, NODE_NONE);
    if (chance(10) == 0)
        s->heat = (uint8_t)chance(256);
}

static void spread(struct view *v)
{
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        own(v, i, another(v, NODE_NONE, NODE_NONE, NODE_NONE), NODE_NONE,
            NODE_NONE);
    for (uint32_t i = 0; i < WIRE_SLOTS; i++) {
        uint16_t *o = v->slots[i].owner;

        o[1] = another(v, o[0], NODE_NONE, NODE_NONE);
        o[2] = another(v, o[0], o[1], NODE_NONE);
    }
}

static void flushed(struct view *v, uint64_t name, uint64_t count)
{
    ck_assert_int_eq(view_flush_room(v, v->flush_n + 1), OK);
    v->flushes[v->flush_n++] = (struct view_flush){name, count};
}

static void check_equal(const struct view *a, const struct view *b)
{
    ck_assert_uint_eq(a->cluster, b->cluster);
    ck_assert_uint_eq(a->generation, b->generation);
    ck_assert_uint_eq(a->epoch, b->epoch);
    ck_assert_uint_eq(a->node_n, b->node_n);
    ck_assert_uint_eq(a->flush_n, b->flush_n);
    ck_assert_mem_eq(a->slots, b->slots, WIRE_SLOTS * sizeof(*a->slots));
    ck_assert_uint_eq(view_digest(a), view_digest(b));
}

static void seal(struct bytes *b)
{
    uint32_t crc = crc32c(0, b->p, b->len - CRC);

    memcpy(b->p + b->len - CRC, &crc, sizeof(crc));
}

/* ---- Who ---- */

START_TEST(the_first_owner_that_answers_serves)
{
    struct view v;

    up(&v, 4);
    own(&v, 7, 2, 0, 3);
    ck_assert_uint_eq(view_serving(&v, 7), 2);
    v.nodes[2].state = NODE_DOWN;
    ck_assert_uint_eq(view_serving(&v, 7), 0);
    v.nodes[0].state = NODE_DRAINING;
    ck_assert_uint_eq(view_serving(&v, 7), 0);
    v.nodes[0].state = NODE_DOWN;
    ck_assert_uint_eq(view_serving(&v, 7), 3);
    v.nodes[3].state = NODE_DOWN;
    ck_assert_uint_eq(view_serving(&v, 7), NODE_NONE);
    ck_assert_uint_eq(view_serving(&v, 8), NODE_NONE);
    view_fini(&v);
}
END_TEST

START_TEST(replicas_go_to_the_owners_that_answer_in_order)
{
    struct view v;

    up(&v, 4);
    own(&v, 7, 2, 0, 3);
    ck_assert_uint_eq(view_replica(&v, 7, 0), 2);
    ck_assert_uint_eq(view_replica(&v, 7, 1), 0);
    ck_assert_uint_eq(view_replica(&v, 7, 2), 3);
    ck_assert_uint_eq(view_replica(&v, 7, 3), NODE_NONE);
    v.nodes[0].state = NODE_DOWN;
    ck_assert_uint_eq(view_replica(&v, 7, 1), 3);
    ck_assert_uint_eq(view_replica(&v, 7, 2), NODE_NONE);
    view_fini(&v);
}
END_TEST

START_TEST(holders_are_all_who_may_have_blocks_each_once)
{
    uint16_t h[VIEW_COPIES + 2];
    struct view v;

    up(&v, 6);
    own(&v, 7, 2, 0, 3);
    v.slots[7].from = 0;
    v.slots[7].to = 5;
    ck_assert_uint_eq(view_holders(&v, 7, h), 4);
    ck_assert_uint_eq(h[0], 2);
    ck_assert_uint_eq(h[1], 0);
    ck_assert_uint_eq(h[2], 3);
    ck_assert_uint_eq(h[3], 5);
    v.nodes[0].state = NODE_DOWN; /* comes back warm */
    ck_assert_uint_eq(view_holders(&v, 7, h), 4);
    v.nodes[0].state = NODE_REMOVED;
    ck_assert_uint_eq(view_holders(&v, 7, h), 3);
    ck_assert_uint_eq(view_holders(&v, 8, h), 0);
    view_fini(&v);
}
END_TEST

START_TEST(owners_that_answer_take_writes)
{
    struct view v;

    up(&v, 4);
    own(&v, 7, 2, 0, NODE_NONE);
    v.slots[7].to = 3;
    ck_assert(view_owns(&v, 7, 2));
    ck_assert(view_owns(&v, 7, 0));
    ck_assert(!view_owns(&v, 7, 1));
    ck_assert(!view_owns(&v, 7, 3));
    ck_assert(!view_owns(&v, 7, NODE_NONE));
    ck_assert(!view_owns(&v, 8, NODE_NONE));
    v.nodes[2].state = NODE_DOWN;
    ck_assert(!view_owns(&v, 7, 2));
    view_fini(&v);
}
END_TEST

START_TEST(a_name_is_found_among_those_not_removed)
{
    struct view v;

    up(&v, 3);
    ck_assert_uint_eq(view_find(&v, "node-1"), 1);
    ck_assert_uint_eq(view_find(&v, "node-9"), NODE_NONE);
    v.nodes[1].state = NODE_REMOVED;
    ck_assert_uint_eq(view_find(&v, "node-1"), NODE_NONE);
    strcpy(add(&v, NODE_JOINING)->name, "node-1");
    ck_assert_uint_eq(view_find(&v, "node-1"), 3);
    view_fini(&v);
}
END_TEST

START_TEST(flush_counts_are_found_by_name)
{
    struct view v;

    up(&v, 1);
    flushed(&v, hash_64(0, "kv", 2), 5);
    ck_assert_uint_eq(view_flushes(&v, "kv"), 5);
    ck_assert_uint_eq(view_flushes(&v, "kw"), 0);
    view_fini(&v);
}
END_TEST

START_TEST(states_have_names)
{
    ck_assert_str_eq(node_state_name(NODE_JOINING), "JOINING");
    ck_assert_str_eq(node_state_name(NODE_UP), "UP");
    ck_assert_str_eq(node_state_name(NODE_DRAINING), "DRAINING");
    ck_assert_str_eq(node_state_name(NODE_DOWN), "DOWN");
    ck_assert_str_eq(node_state_name(NODE_REMOVED), "REMOVED");
    ck_assert_str_eq(node_state_name((enum node_state)9), "UNKNOWN");
}
END_TEST

/* ---- Memory ---- */

START_TEST(a_copy_is_equal_and_its_own)
{
    struct view a, b;

    up(&a, 5);
    spread(&a);
    flushed(&a, 1, 2);
    up(&b, 0);
    ck_assert_int_eq(view_copy(&b, &a), OK);
    check_equal(&a, &b);
    a.nodes[0].incarnation++;
    ck_assert_uint_ne(view_digest(&a), view_digest(&b));
    view_fini(&a);
    view_fini(&b);
}
END_TEST

START_TEST(a_copy_of_fewer_leaves_nothing_of_the_others)
{
    struct view a, b;

    up(&a, 2);
    up(&b, 7);
    flushed(&b, 1, 2);
    ck_assert_int_eq(view_copy(&b, &a), OK);
    check_equal(&a, &b);
    for (uint32_t i = 2; i < b.node_cap; i++)
        ck_assert_int_eq(b.nodes[i].name[0], 0);
    ck_assert_uint_eq(b.flushes[0].count, 0);
    view_fini(&a);
    view_fini(&b);
}
END_TEST

START_TEST(there_is_room_up_to_the_limits)
{
    struct view v;

    up(&v, 3);
    ck_assert_int_eq(view_room(&v, NODES_MAX), OK);
    ck_assert_uint_eq(v.node_n, 3);
    ck_assert_str_eq(v.nodes[2].name, "node-2");
    ck_assert_int_eq(v.nodes[NODES_MAX - 1].name[0], 0);
    ck_assert_int_eq(view_room(&v, NODES_MAX + 1), ERR_LIMIT);
    ck_assert_int_eq(view_flush_room(&v, VIEW_FLUSHES_MAX), OK);
    ck_assert_int_eq(view_flush_room(&v, VIEW_FLUSHES_MAX + 1), ERR_LIMIT);
    view_fini(&v);
    view_fini(&v); /* zeros */
}
END_TEST

/* ---- Digest ---- */

#define CHANGES(what)                                                          \
    do {                                                                       \
        uint64_t before = view_digest(&v);                                     \
        what;                                                                  \
        ck_assert_uint_ne(view_digest(&v), before);                            \
    } while (0)

START_TEST(every_member_counts_in_the_digest)
{
    struct node *n;
    struct view v;

    up(&v, 2);
    n = &v.nodes[1];
    CHANGES(v.cluster++);
    CHANGES(v.generation++);
    CHANGES(v.epoch++);
    CHANGES(n->name[0] = 'm');
    CHANGES(n->uuid++);
    CHANGES(n->incarnation++);
    CHANGES(n->state = NODE_DOWN);
    CHANGES(n->drained = true);
    CHANGES(n->voter = true);
    CHANGES(n->lane_n++);
    CHANGES(n->weight++);
    CHANGES(n->speaks++);
    CHANGES(n->zone[0] = 'y');
    CHANGES(n->rack[0] = 'r');
    CHANGES(n->peer[0] = 'p');
    CHANGES(n->shm[0] = 's');
    CHANGES(n->ucx[0] = 'u');
    CHANGES(n->host++);
    CHANGES(add(&v, NODE_UP));
    CHANGES(v.slots[WIRE_SLOTS - 1].owner[2] = 1);
    CHANGES(v.slots[0].from = 1);
    CHANGES(v.slots[0].to = 1);
    CHANGES(v.slots[0].heat = 1);
    CHANGES(flushed(&v, 1, 1));
    CHANGES(v.flushes[0].count++);
    view_fini(&v);
}
END_TEST

/* What is behind the NUL of a text, and in holes of the struct, does not. */
START_TEST(only_members_count_in_the_digest)
{
    struct view a, b;

    up(&a, 1);
    up(&b, 0);
    ck_assert_int_eq(view_room(&b, 1), OK);
    memset(&b.nodes[0], 0xff, sizeof(b.nodes[0]));
    add(&b, NODE_UP);
    b.nodes[0].drained = b.nodes[0].voter = false;
    b.nodes[0].speaks = 0;
    b.nodes[0].host = 0;
    b.nodes[0].rack[0] = b.nodes[0].shm[0] = b.nodes[0].ucx[0] = 0;
    ck_assert_uint_eq(view_digest(&a), view_digest(&b));
    view_fini(&a);
    view_fini(&b);
}
END_TEST

/* Voters of different builds compare digests: the number may never change. */
START_TEST(the_digest_is_the_same_in_every_build)
{
    struct view v;

    up(&v, 2);
    own(&v, 1, 0, 1, NODE_NONE);
    ck_assert_uint_eq(view_digest(&v), UINT64_C(0x9ba259d7a45ec8d2));
    view_fini(&v);
}
END_TEST

/* ---- Bytes ---- */

static void round_trip(const struct view *v)
{
    struct bytes b = {0};
    struct view to;

    up(&to, 2); /* what it was is gone */
    view_encode(v, &b);
    ck_assert(!b.bad);
    ck_assert_int_eq(view_decode(&to, b.p, b.len), OK);
    check_equal(v, &to);
    ck_assert_ptr_null(view_wrong(&to));
    view_fini(&to);
    bytes_fini(&b);
}

START_TEST(a_view_comes_back_from_its_bytes)
{
    struct view v;

    up(&v, 0);
    round_trip(&v);
    view_fini(&v);
    up(&v, 9);
    v.nodes[3].drained = true;
    v.nodes[3].state = NODE_DOWN;
    v.nodes[4].voter = true;
    v.nodes[5].speaks = 2;
    v.nodes[6].state = NODE_REMOVED;
    v.nodes[7].state = NODE_JOINING;
    strcpy(v.nodes[0].shm, "shm:/run/pikvd/0");
    strcpy(v.nodes[0].ucx, "ucx:10.0.0.1:7071");
    strcpy(v.nodes[0].rack, "r1");
    v.nodes[0].host = 5;
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        random_slot(&v, i);
    flushed(&v, 1, 2);
    flushed(&v, 3, 4);
    round_trip(&v);
    view_fini(&v);
}
END_TEST

START_TEST(the_most_nodes_come_back)
{
    struct view v;

    up(&v, NODES_MAX);
    for (uint32_t i = 0; i < NODES_MAX; i++) {
        memset(v.nodes[i].peer, 'p', NODE_ADDR_MAX - 1);
        memset(v.nodes[i].rack, 'r', NODE_NAME_MAX - 1);
    }
    while (v.flush_n < VIEW_FLUSHES_MAX)
        flushed(&v, v.flush_n, 1);
    spread(&v);
    round_trip(&v);
    view_fini(&v);
}
END_TEST

static size_t encoded(const struct view *v)
{
    struct bytes b = {0};
    size_t n;

    view_encode(v, &b);
    n = b.len;
    bytes_fini(&b);
    return n;
}

START_TEST(a_view_is_as_small_as_its_runs)
{
    struct view v;

    up(&v, 16);
    ck_assert_uint_lt(encoded(&v), 2048);
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        own(&v, i, (uint16_t)(i / 4096), 15 - (uint16_t)(i / 4096), NODE_NONE);
    ck_assert_uint_lt(encoded(&v), 2048);
    for (uint32_t i = 0; i < 100; i++)
        own(&v, i, (uint16_t)(i % 16), NODE_NONE, NODE_NONE);
    ck_assert_uint_lt(encoded(&v), 3072);
    spread(&v);
    ck_assert_uint_le(encoded(&v), 400 << 10);
    view_fini(&v);
}
END_TEST

static size_t delta(const struct view *from, const struct view *to,
                    struct bytes *b)
{
    b->len = 0;
    view_delta(from, to, b);
    ck_assert(!b->bad);
    return b->len;
}

START_TEST(a_delta_of_little_is_small)
{
    struct bytes b = {0};
    struct view v, w;

    up(&v, 16);
    spread(&v);
    up(&w, 0);
    ck_assert_int_eq(view_copy(&w, &v), OK);
    ck_assert_uint_lt(delta(&v, &w, &b), 100);
    for (uint32_t i = 0; i < 8; i++)
        w.slots[8191 * i].to =
            another(&w, w.slots[8191 * i].owner[0], NODE_NONE, NODE_NONE);
    w.nodes[3].state = NODE_DOWN;
    w.epoch++;
    ck_assert_uint_lt(delta(&v, &w, &b), 400);
    ck_assert_int_eq(view_apply_delta(&v, b.p, b.len), OK);
    check_equal(&v, &w);
    bytes_fini(&b);
    view_fini(&v);
    view_fini(&w);
}
END_TEST

static void clear_node(struct view *v, uint16_t node)
{
    for (uint32_t i = 0; i < WIRE_SLOTS; i++) {
        struct slot *s = &v->slots[i];

        if (s->owner[0] == node || s->owner[1] == node || s->owner[2] == node ||
            s->from == node || s->to == node)
            own(v, i, NODE_NONE, NODE_NONE, NODE_NONE);
    }
}

static void change(struct view *v)
{
    uint32_t slots = chance(3) ? chance(20) : chance(WIRE_SLOTS);
    uint32_t at = chance(WIRE_SLOTS);
    uint16_t gone = (uint16_t)chance(v->node_n);

    while (v->node_n < 4 || chance(3) == 0)
        add(v, chance(2) ? NODE_UP : NODE_DOWN);
    if (v->node_n > 12 && chance(2)) {
        clear_node(v, gone);
        v->nodes[gone].state = NODE_REMOVED;
    } else {
        v->nodes[chance(v->node_n)].incarnation++;
    }
    for (uint32_t i = 0; i < slots; i++)
        random_slot(v, chance(2) ? (at + i) % WIRE_SLOTS : chance(WIRE_SLOTS));
    if (chance(2))
        flushed(v, seed, 1);
    if (v->flush_n && chance(2))
        v->flushes[chance(v->flush_n)].count++;
    v->epoch += 1 + chance(100);
}

START_TEST(a_delta_between_any_two_makes_the_second_of_the_first)
{
    struct bytes b = {0};
    struct view v, w, x;

    up(&v, 6);
    up(&w, 0);
    up(&x, 0);
    for (int round = 0; round < 60; round++) {
        ck_assert_int_eq(view_copy(&w, &v), OK);
        for (uint32_t n = 1 + chance(3); n; n--)
            change(&w);
        ck_assert_ptr_null(view_wrong(&w));
        delta(&v, &w, &b);
        ck_assert_int_eq(view_copy(&x, &v), OK);
        ck_assert_int_eq(view_apply_delta(&x, b.p, b.len), OK);
        check_equal(&x, &w);
        ck_assert_int_eq(view_copy(&v, &w), OK);
    }
    bytes_fini(&b);
    view_fini(&v);
    view_fini(&w);
    view_fini(&x);
}
END_TEST

static void refused(struct view *v, struct bytes *b, enum err e)
{
    uint64_t before = view_digest(v);

    ck_assert_int_eq(view_apply_delta(v, b->p, b->len), e);
    ck_assert_uint_eq(view_digest(v), before);
}

START_TEST(a_delta_of_another_base_changes_nothing)
{
    struct bytes b = {0};
    struct view v, w;

    up(&v, 4);
    up(&w, 5);
    w.epoch = 12;
    delta(&v, &w, &b);
    v.epoch = 9;
    refused(&v, &b, ERR_STALE_EPOCH);
    v.epoch = 10;
    v.generation++;
    refused(&v, &b, ERR_STALE_EPOCH);
    v.generation--;
    v.cluster++;
    refused(&v, &b, ERR_BAD_REQUEST);
    v.cluster--;
    ck_assert_int_eq(view_apply_delta(&v, b.p, b.len), OK);
    refused(&v, &b, ERR_STALE_EPOCH); /* twice */
    bytes_fini(&b);
    view_fini(&v);
    view_fini(&w);
}
END_TEST

START_TEST(whole_and_delta_are_not_taken_for_each_other)
{
    struct bytes b = {0};
    struct view v, w;

    up(&v, 4);
    up(&w, 5);
    v.epoch = 0;
    view_encode(&w, &b);
    refused(&v, &b, ERR_BAD_REQUEST);
    delta(&v, &w, &b);
    ck_assert_int_eq(view_decode(&v, b.p, b.len), ERR_BAD_REQUEST);
    bytes_fini(&b);
    view_fini(&v);
    view_fini(&w);
}
END_TEST

/* ---- What is refused ---- */

static void wrong(struct view *v, const char *why)
{
    struct bytes b = {0};
    struct view to;

    ck_assert_ptr_nonnull(view_wrong(v));
    ck_assert_ptr_nonnull(strstr(view_wrong(v), why));
    up(&to, 1);
    view_encode(v, &b);
    ck_assert_int_eq(view_decode(&to, b.p, b.len), ERR_BAD_REQUEST);
    ck_assert_uint_eq(to.node_n, 1);
    b.len = 0;
    to.node_n = 0;
    view_delta(&to, v, &b);
    refused(&to, &b, ERR_BAD_REQUEST);
    view_fini(&to);
    bytes_fini(&b);
}

START_TEST(a_slot_that_breaks_the_rules_is_refused)
{
    static const struct slot slots[] = {
        {{3, NODE_NONE, NODE_NONE}, NODE_NONE, NODE_NONE, 0, 0},
        {{4, NODE_NONE, NODE_NONE}, NODE_NONE, NODE_NONE, 0, 0},
        {{5, NODE_NONE, NODE_NONE}, NODE_NONE, NODE_NONE, 0, 0},
        {{0, NODE_NONE, 1}, NODE_NONE, NODE_NONE, 0, 0},
        {{NODE_NONE, 0, NODE_NONE}, NODE_NONE, NODE_NONE, 0, 0},
        {{0, 0, NODE_NONE}, NODE_NONE, NODE_NONE, 0, 0},
        {{0, 1, 0}, NODE_NONE, NODE_NONE, 0, 0},
        {{0, 1, 1}, NODE_NONE, NODE_NONE, 0, 0},
        {{0, NODE_NONE, NODE_NONE}, 0, NODE_NONE, 0, 0},
        {{0, NODE_NONE, NODE_NONE}, 3, NODE_NONE, 0, 0},
        {{0, NODE_NONE, NODE_NONE}, NODE_NONE, 0, 0, 0},
        {{0, NODE_NONE, NODE_NONE}, NODE_NONE, 4, 0, 0},
        {{NODE_NONE, NODE_NONE, NODE_NONE}, 1, NODE_NONE, 0, 0},
        {{NODE_NONE, NODE_NONE, NODE_NONE}, NODE_NONE, 1, 0, 0},
        {{0, 1, 2}, NODE_NONE, NODE_NONE, 0, 1},
    };
    static const char *const why[] = {
        "member", "member", "member", "gap",    "gap",
        "twice",  "twice",  "twice",  "`from`", "`from`",
        "`to`",   "`to`",   "moves",  "moves",  "spare",
    };
    struct view v;

    up(&v, 3);
    add(&v, NODE_JOINING);
    add(&v, NODE_REMOVED);
    ck_assert_ptr_null(view_wrong(&v));
    for (size_t i = 0; i < countof(slots); i++) {
        v.slots[40000] = slots[i];
        wrong(&v, why[i]);
        v.slots[40001] = slots[i]; /* as a run */
        wrong(&v, why[i]);
        own(&v, 40001, NODE_NONE, NODE_NONE, NODE_NONE);
    }
    view_fini(&v);
}
END_TEST

START_TEST(a_node_that_breaks_the_rules_is_refused)
{
    struct view v;

    up(&v, 3);
    v.nodes[1].name[0] = 0;
    wrong(&v, "name");
    strcpy(v.nodes[1].name, "node-0");
    wrong(&v, "one name");
    v.nodes[1].state = NODE_REMOVED;
    ck_assert_ptr_null(view_wrong(&v));
    v.nodes[1].state = 5;
    wrong(&v, "state");
    v.nodes[1].state = NODE_REMOVED;
    v.nodes[2].lane_n = 0;
    wrong(&v, "lanes");
    v.nodes[2].lane_n = NODE_LANES_MAX + 1;
    wrong(&v, "lanes");
    v.nodes[2].lane_n = NODE_LANES_MAX;
    v.nodes[2].weight = 0;
    wrong(&v, "weight");
    view_fini(&v);
}
END_TEST

/* The slots of who left are not in the delta: they would point at nobody. */
START_TEST(a_delta_may_not_remove_an_owner)
{
    struct bytes b = {0};
    struct view v, w;

    up(&v, 4);
    spread(&v);
    up(&w, 0);
    ck_assert_int_eq(view_copy(&w, &v), OK);
    w.nodes[2].state = NODE_REMOVED;
    w.epoch++;
    delta(&v, &w, &b);
    refused(&v, &b, ERR_BAD_REQUEST);
    clear_node(&w, 2);
    delta(&v, &w, &b);
    ck_assert_int_eq(view_apply_delta(&v, b.p, b.len), OK);
    check_equal(&v, &w);
    bytes_fini(&b);
    view_fini(&v);
    view_fini(&w);
}
END_TEST

START_TEST(a_delta_may_not_name_a_second_node_alike)
{
    struct bytes b = {0};
    struct view v, w;

    up(&v, 4);
    up(&w, 5);
    strcpy(w.nodes[4].name, "node-1");
    delta(&v, &w, &b);
    refused(&v, &b, ERR_BAD_REQUEST);
    w.nodes[1].state = NODE_REMOVED;
    delta(&v, &w, &b);
    ck_assert_int_eq(view_apply_delta(&v, b.p, b.len), OK);
    bytes_fini(&b);
    view_fini(&v);
    view_fini(&w);
}
END_TEST

START_TEST(cut_or_longer_bytes_are_refused)
{
    struct bytes b = {0}, cut = {0};
    struct view v, to;
    uint64_t before;

    up(&v, 4);
    for (uint32_t i = 0; i < 40; i++)
        random_slot(&v, i);
    flushed(&v, 1, 1);
    view_encode(&v, &b);
    up(&to, 1);
    before = view_digest(&to);
    for (size_t n = 0; n < b.len; n++)
        ck_assert_int_eq(view_decode(&to, b.p, n), ERR_BAD_REQUEST);
    b.len -= CRC; /* and with the right crc */
    for (size_t n = 0; n < b.len; n++) {
        cut.len = 0;
        bytes_put(&cut, b.p, n);
        bytes_seal(&cut, 0);
        ck_assert_int_eq(view_decode(&to, cut.p, cut.len), ERR_BAD_REQUEST);
    }
    bytes_put_u8(&b, 0);
    bytes_seal(&b, 0);
    ck_assert_int_eq(view_decode(&to, b.p, b.len), ERR_BAD_REQUEST);
    ck_assert_uint_eq(view_digest(&to), before);
    bytes_fini(&b);
    bytes_fini(&cut);
    view_fini(&v);
    view_fini(&to);
}
END_TEST

START_TEST(a_later_version_is_named_as_such)
{
    struct bytes b = {0};
    struct view v;

    up(&v, 1);
    view_encode(&v, &b);
    b.p[4]++;
    ck_assert_int_eq(view_decode(&v, b.p, b.len), ERR_BAD_REQUEST);
    seal(&b);
    ck_assert_int_eq(view_decode(&v, b.p, b.len), ERR_BAD_VERSION);
    bytes_fini(&b);
    view_fini(&v);
}
END_TEST

/* Any byte changed: refused, or a view that keeps the rules. */
START_TEST(changed_bytes_never_make_a_wrong_view)
{
    struct bytes b = {0}, d = {0};
    struct view v, w, to;
    size_t at;

    up(&v, 3);
    up(&w, 4);
    w.epoch++;
    for (uint32_t i = 0; i < 30; i++) {
        random_slot(&v, i * 2);
        random_slot(&w, i * 3);
    }
    flushed(&w, 1, 1);
    view_encode(&w, &b);
    delta(&v, &w, &d);
    up(&to, 0);
    for (int i = 0; i < 3000; i++) {
        struct bytes *x = i & 1 ? &d : &b;
        uint8_t was;

        at = chance((uint32_t)x->len - CRC);
        was = x->p[at];
        x->p[at] ^= (uint8_t)(1u << chance(8));
        seal(x);
        if (x == &d)
            ck_assert_int_eq(view_copy(&to, &v), OK);
        if ((x == &d ? view_apply_delta(&to, d.p, d.len)
                     : view_decode(&to, b.p, b.len)) == OK)
            ck_assert_ptr_null(view_wrong(&to));
        else if (x == &d)
            ck_assert_uint_eq(view_digest(&to), view_digest(&v));
        x->p[at] = was;
    }
    bytes_fini(&b);
    bytes_fini(&d);
    view_fini(&v);
    view_fini(&w);
    view_fini(&to);
}
END_TEST

/* A few bytes cannot make it reserve much: the count is larger than what
 * follows could hold. */
START_TEST(a_count_without_its_bytes_is_refused)
{
    struct bytes b = {0};
    struct view v;
    uint32_t many = NODES_MAX;

    up(&v, 0);
    view_encode(&v, &b);
    memcpy(b.p + 36, &many, sizeof(many));
    memcpy(b.p + 40, &many, sizeof(many));
    seal(&b);
    fault_arm_forever(2); /* after the slots, the draft */
    ck_assert_int_eq(view_decode(&v, b.p, b.len), ERR_NO_MEMORY);
    fault_arm_forever(3);
    ck_assert_int_eq(view_decode(&v, b.p, b.len), ERR_BAD_REQUEST);
    ck_assert(!fault_hit());
    fault_arm(0);
    bytes_fini(&b);
    view_fini(&v);
}
END_TEST

/* ---- No memory ---- */

static enum err all(struct view *v, const struct view *from)
{
    struct bytes b = {0}, d = {0};
    struct view x = {0};
    enum err e = view_init(&x);

    if (e == OK)
        e = view_copy(&x, v);
    if (e == OK) {
        view_encode(from, &b);
        view_delta(v, from, &d);
        e = b.bad || d.bad ? ERR_NO_MEMORY : view_decode(&x, b.p, b.len);
    }
    if (e == OK) {
        ck_assert_uint_eq(view_digest(&x), view_digest(from));
        e = view_apply_delta(v, d.p, d.len);
    }
    view_fini(&x);
    bytes_fini(&b);
    bytes_fini(&d);
    return e;
}

START_TEST(without_memory_nothing_changes)
{
    struct view v, from;
    uint64_t before;
    uint32_t i;

    up(&v, 3);
    up(&from, 20);
    spread(&from);
    flushed(&from, 1, 1);
    from.epoch++;
    before = view_digest(&v);
    for (i = 1;; i++) {
        enum err e;

        fault_arm(i);
        e = all(&v, &from);
        if (!fault_hit())
            break;
        ck_assert_int_eq(e, ERR_NO_MEMORY);
        ck_assert_uint_eq(view_digest(&v), before);
    }
    fault_arm(0);
    ck_assert_uint_gt(i, 10);
    check_equal(&v, &from);
    view_fini(&v);
    view_fini(&from);
}
END_TEST

static void start(void)
{
    seed = UINT64_C(0x9e3779b97f4a7c15);
}

static TCase *cases(Suite *s, const char *name)
{
    TCase *t = tcase_create(name);

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, start, NULL);
    suite_add_tcase(s, t);
    return t;
}

Suite *suite(void)
{
    Suite *s = suite_create("view");
    TCase *t = cases(s, "who");

    tcase_add_test(t, the_first_owner_that_answers_serves);
    tcase_add_test(t, replicas_go_to_the_owners_that_answer_in_order);
    tcase_add_test(t, holders_are_all_who_may_have_blocks_each_once);
    tcase_add_test(t, owners_that_answer_take_writes);
    tcase_add_test(t, a_name_is_found_among_those_not_removed);
    tcase_add_test(t, flush_counts_are_found_by_name);
    tcase_add_test(t, states_have_names);
    tcase_add_test(t, a_copy_is_equal_and_its_own);
    tcase_add_test(t, a_copy_of_fewer_leaves_nothing_of_the_others);
    tcase_add_test(t, there_is_room_up_to_the_limits);
    tcase_add_test(t, every_member_counts_in_the_digest);
    tcase_add_test(t, only_members_count_in_the_digest);
    tcase_add_test(t, the_digest_is_the_same_in_every_build);
    t = cases(s, "bytes");
    tcase_add_test(t, a_view_comes_back_from_its_bytes);
    tcase_add_test(t, the_most_nodes_come_back);
    tcase_add_test(t, a_view_is_as_small_as_its_runs);
    tcase_add_test(t, a_delta_of_little_is_small);
    tcase_add_test(t, a_delta_between_any_two_makes_the_second_of_the_first);
    tcase_add_test(t, a_delta_of_another_base_changes_nothing);
    tcase_add_test(t, whole_and_delta_are_not_taken_for_each_other);
    t = cases(s, "refused");
    tcase_add_test(t, a_slot_that_breaks_the_rules_is_refused);
    tcase_add_test(t, a_node_that_breaks_the_rules_is_refused);
    tcase_add_test(t, a_delta_may_not_remove_an_owner);
    tcase_add_test(t, a_delta_may_not_name_a_second_node_alike);
    tcase_add_test(t, cut_or_longer_bytes_are_refused);
    tcase_add_test(t, a_later_version_is_named_as_such);
    tcase_add_test(t, changed_bytes_never_make_a_wrong_view);
    tcase_add_test(t, a_count_without_its_bytes_is_refused);
    tcase_add_test(t, without_memory_nothing_changes);
    return s;
}
