/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client cluster rpc base proto */
/* libpikv's view against the daemons': the same rules over the same rows, and
 * what a VIEW reply of a stranger may say. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "client/view.h"
#include "cluster/view.h"

enum { ROUNDS = 300, LOOKS = 400 };

static uint64_t dice;

static uint32_t roll(uint32_t n)
{
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return (uint32_t)(dice >> 11) % n;
}

/* Any rows at all, those that no leader would make with them. */
static void random_view(struct view *v, uint32_t nodes)
{
    ck_assert_int_eq(view_room(v, nodes), OK);
    for (uint32_t i = 0; i < nodes; i++)
        v->nodes[i].state = (uint8_t)roll(NODE_REMOVED + 1);
    for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++) {
        struct slot *s = &v->slots[slot];

        for (uint32_t k = 0; k < VIEW_COPIES; k++)
            s->owner[k] =
                (uint16_t)(roll(5) ? roll(nodes) : (uint32_t)NODE_NONE);
        s->from = (uint16_t)(roll(3) ? (uint32_t)NODE_NONE : roll(nodes));
        s->to = (uint16_t)(roll(3) ? (uint32_t)NODE_NONE : roll(nodes));
        s->heat = (uint8_t)roll(3);
    }
}

static void same_view(const struct view *v, struct cview *c)
{
    static_assert(sizeof(struct slot) == sizeof(struct cslot) &&
                      offsetof(struct slot, heat) ==
                          offsetof(struct cslot, heat),
                  "one row");
    c->node_n = v->node_n;
    c->nodes = calloc(v->node_n, sizeof(*c->nodes));
    for (uint32_t i = 0; i < v->node_n; i++)
        c->nodes[i].state = v->nodes[i].state;
    c->slots = malloc(WIRE_SLOTS * sizeof(*c->slots));
    memcpy(c->slots, v->slots, WIRE_SLOTS * sizeof(*c->slots));
}

START_TEST(both_views_ask_the_same_node)
{
    static_assert((int)NODE_NONE == (int)NO_NODE &&
                      (int)NODE_JOINING == (int)CNODE_JOINING &&
                      (int)NODE_UP == (int)CNODE_UP &&
                      (int)NODE_DRAINING == (int)CNODE_DRAINING &&
                      (int)NODE_DOWN == (int)CNODE_DOWN &&
                      (int)NODE_REMOVED == (int)CNODE_REMOVED,
                  "the same numbers");
    dice = 88172645463325252ULL;
    for (uint32_t round = 0; round < ROUNDS / 10; round++) {
        struct view v;
        struct cview c = {0};

        ck_assert_int_eq(view_init(&v), OK);
        random_view(&v, 1 + roll(12));
        same_view(&v, &c);
        for (uint32_t i = 0; i < LOOKS * 10; i++) {
            uint32_t slot = roll(WIRE_SLOTS), n;
            uint16_t a[VIEW_COPIES + 2], b[CVIEW_COPIES + 2];

            ck_assert_uint_eq(view_serving(&v, slot), cview_serving(&c, slot));
            for (uint32_t k = 0; k < VIEW_COPIES + 1; k++)
                ck_assert_uint_eq(view_replica(&v, slot, k),
                                  cview_replica(&c, slot, k));
            n = view_holders(&v, slot, a);
            ck_assert_uint_eq(n, cview_holders(&c, slot, b));
            ck_assert_mem_eq(a, b, n * sizeof(*a));
        }
        view_fini(&v);
        cview_fini(&c);
    }
}
END_TEST

/* ---- VIEW replies ---- */

struct piece {
    uint64_t epoch, offset, slots_bytes;
    uint32_t generation, next_node, node_n, first;
    const uint8_t *slots;
    size_t len;
};

static Pikv__ViewReply *reply_of(const struct piece *p)
{
    Pikv__ViewReply m = PIKV__VIEW_REPLY__INIT;
    Pikv__ViewNode nodes[8], *list[8];
    char up[] = "up", none[] = "";
    uint8_t *env;
    Pikv__ViewReply *out;

    for (uint32_t i = 0; i < p->node_n; i++) {
        pikv__view_node__init(&nodes[i]);
        nodes[i].index = p->first + i;
        nodes[i].name = nodes[i].zone = nodes[i].peer = nodes[i].rack = none;
        nodes[i].state = up;
        list[i] = &nodes[i];
    }
    m.epoch = p->epoch;
    m.generation = p->generation;
    m.offset = p->offset;
    m.slots_bytes = p->slots_bytes;
    m.next_node = p->next_node;
    m.n_nodes = p->node_n;
    m.nodes = list;
    m.slots = (ProtobufCBinaryData){p->len, (uint8_t *)(uintptr_t)p->slots};
    env = malloc(pikv__view_reply__get_packed_size(&m) + 1);
    out = pikv__view_reply__unpack(NULL, pikv__view_reply__pack(&m, env), env);
    free(env);
    return out;
}

/* Two runs: node 0 has the first 100 slots, node 1 the others. */
static void two_runs(uint8_t out[28])
{
    struct cslot row = {{0, NO_NODE, NO_NODE}, NO_NODE, NO_NODE, 0, 0};
    uint16_t n = 99;

    memcpy(out, &n, 2);
    memcpy(out + 2, &row, 12);
    n = (uint16_t)(WIRE_SLOTS - 100 - 1);
    row.owner[0] = 1;
    memcpy(out + 14, &n, 2);
    memcpy(out + 16, &row, 12);
}

START_TEST(a_view_is_put_together_from_pieces_of_nodes_and_slots)
{
    uint8_t code[28];
    struct cview v = {0};
    struct piece p = {.epoch = 7, .generation = 2, .node_n = 1, .next_node = 1};

    two_runs(code);
    ck_assert_int_eq(cview_piece(&v, reply_of(&p)), OK);
    ck_assert_uint_eq(v.next_node, 1);
    p = (struct piece){.epoch = 7,
                       .generation = 2,
                       .node_n = 1,
                       .first = 1,
                       .slots = code,
                       .len = 14,
                       .slots_bytes = 28};
    ck_assert_int_eq(cview_piece(&v, reply_of(&p)), OK);
    ck_assert_uint_eq(v.code_n, 14);
    p = (struct piece){.epoch = 7,
                       .generation = 2,
                       .offset = 14,
                       .slots = code + 14,
                       .len = 14,
                       .slots_bytes = 28};
    ck_assert_int_eq(cview_piece(&v, reply_of(&p)), ERR_MISS);
    ck_assert_int_eq(cview_whole(&v), OK);
    ck_assert_uint_eq(v.epoch, 7);
    ck_assert_uint_eq(v.node_n, 2);
    ck_assert_uint_eq(cview_serving(&v, 99), 0);
    ck_assert_uint_eq(cview_serving(&v, 100), 1);
    ck_assert_uint_eq(cview_serving(&v, WIRE_SLOTS - 1), 1);
    cview_fini(&v);
}
END_TEST

START_TEST(a_view_that_moves_on_meanwhile_begins_anew)
{
    uint8_t code[28];
    struct cview v = {0};
    struct piece p = {.epoch = 7, .generation = 2, .node_n = 1, .next_node = 1};

    two_runs(code);
    ck_assert_int_eq(cview_piece(&v, reply_of(&p)), OK);
    p = (struct piece){.epoch = 8,
                       .generation = 2,
                       .node_n = 2,
                       .slots = code,
                       .len = 28,
                       .slots_bytes = 28};
    ck_assert_int_eq(cview_piece(&v, reply_of(&p)), ERR_MISS);
    ck_assert_int_eq(cview_whole(&v), OK);
    ck_assert_uint_eq(v.epoch, 8);
    cview_fini(&v);
}
END_TEST

START_TEST(a_reply_without_anything_is_nothing_newer)
{
    struct cview v = {0};
    struct piece p = {.epoch = 7, .generation = 2};

    ck_assert_int_eq(cview_piece(&v, reply_of(&p)), ERR_MISS);
    ck_assert_uint_eq(v.reply_n, 0);
    cview_fini(&v);
}
END_TEST

START_TEST(nonsense_is_refused)
{
    uint8_t code[28], bad[28];
    struct piece whole = {.epoch = 7,
                          .generation = 2,
                          .node_n = 2,
                          .slots = code,
                          .len = 28,
                          .slots_bytes = 28};
    struct piece p;
    struct cview v = {0};

    two_runs(code);
    p = whole;
    p.slots_bytes = UINT64_MAX;
    ck_assert_int_eq(cview_piece(&v, reply_of(&p)), ERR_LIMIT);
    cview_fini(&v);
    p = whole;
    p.slots_bytes = 20; /* less than it brings */
    ck_assert_int_eq(cview_piece(&v, reply_of(&p)), ERR_BAD_REQUEST);
    cview_fini(&v);
    p = whole;
    p.offset = 14; /* not the next byte */
    ck_assert_int_eq(cview_piece(&v, reply_of(&p)), ERR_BAD_REQUEST);
    cview_fini(&v);
    p = whole;
    p.first = UINT32_MAX - 1; /* no such index */
    ck_assert_int_eq(cview_piece(&v, reply_of(&p)), ERR_MISS);
    ck_assert_int_eq(cview_whole(&v), ERR_LIMIT);
    cview_fini(&v);
    for (uint32_t i = 0; i < 4; i++) {
        uint16_t n = i == 0 ? 100 : i == 1 ? 98 : 99;

        memcpy(bad, code, sizeof(bad));
        memcpy(bad, &n, 2); /* more, fewer slots than there are */
        p = whole;
        p.slots = bad;
        if (i == 2)
            p.len = p.slots_bytes = 27; /* half a run */
        if (i == 3)
            p.epoch = 0;
        ck_assert_int_eq(cview_piece(&v, reply_of(&p)), ERR_MISS);
        ck_assert_int_eq(cview_whole(&v), ERR_BAD_REQUEST);
        cview_fini(&v);
    }
}
END_TEST

START_TEST(rows_that_name_nobody_are_served_by_nobody)
{
    uint8_t code[28];
    struct cview v = {0};
    struct piece p = {.epoch = 7,
                      .generation = 2,
                      .node_n = 1,
                      .slots = code,
                      .len = 28,
                      .slots_bytes = 28};
    uint16_t out[CVIEW_COPIES + 2];

    two_runs(code); /* names node 1, of which nobody has told */
    ck_assert_int_eq(cview_piece(&v, reply_of(&p)), ERR_MISS);
    ck_assert_int_eq(cview_whole(&v), OK);
    ck_assert_uint_eq(cview_serving(&v, 5), 0);
    ck_assert_uint_eq(cview_serving(&v, 500), NO_NODE);
    ck_assert_uint_eq(cview_holders(&v, 500, out), 0);
    cview_fini(&v);
}
END_TEST

/* Bytes turned at random: no crash, and what is taken is whole. */
START_TEST(broken_replies_are_taken_whole_or_not_at_all)
{
    uint8_t code[28];
    struct piece p = {.epoch = 7,
                      .generation = 2,
                      .node_n = 2,
                      .slots = code,
                      .len = 28,
                      .slots_bytes = 28};
    uint8_t env[512], broken[512];
    Pikv__ViewReply *m;
    size_t n;

    two_runs(code);
    m = reply_of(&p);
    n = pikv__view_reply__pack(m, env);
    pikv__view_reply__free_unpacked(m, NULL);
    dice = 12345;
    for (uint32_t i = 0; i < 3000; i++) {
        struct cview v = {0};
        size_t len = roll(4) ? n : roll((uint32_t)n);

        memcpy(broken, env, n);
        for (uint32_t k = roll(4); k; k--)
            broken[roll((uint32_t)n)] ^= (uint8_t)(1 << roll(8));
        m = pikv__view_reply__unpack(NULL, len, broken);
        if (m && cview_piece(&v, m) == ERR_MISS && v.reply_n &&
            cview_whole(&v) == OK)
            for (uint32_t slot = 0; slot < WIRE_SLOTS; slot += 997)
                ck_assert(cview_serving(&v, slot) == NO_NODE ||
                          cview_serving(&v, slot) < v.node_n);
        cview_fini(&v);
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("pikv_view");
    TCase *t = tcase_create("view");

    tcase_set_timeout(t, 120);
    tcase_add_test(t, both_views_ask_the_same_node);
    tcase_add_test(t, a_view_is_put_together_from_pieces_of_nodes_and_slots);
    tcase_add_test(t, a_view_that_moves_on_meanwhile_begins_anew);
    tcase_add_test(t, a_reply_without_anything_is_nothing_newer);
    tcase_add_test(t, nonsense_is_refused);
    tcase_add_test(t, rows_that_name_nobody_are_served_by_nobody);
    tcase_add_test(t, broken_replies_are_taken_whole_or_not_at_all);
    suite_add_tcase(s, t);
    return s;
}
