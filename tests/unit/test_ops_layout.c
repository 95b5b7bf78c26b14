/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * LAYOUT, and batches that name one: what is registered is checked, what is
 * named is found, and a layout outlives whoever still moves bytes by it. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "lib/node.h"
#include "server/layouts.h"

enum { MEM = 1 << 16, PAGES = 8, SIZE = 512, LAYERS = 4 };

static struct test_node n;
static struct node_peer *p;

static struct node_peer *connect_with_memory(void)
{
    struct node_peer *q = node_connect(&n, true);

    ck_assert_ptr_nonnull(q);
    q->memory = calloc(1, MEM);
    q->memory_bytes = MEM;
    return q;
}

static void free_with_memory(struct node_peer *q)
{
    free(q->memory);
    node_free_peer(q);
}

static void up(void)
{
    node_config(&n, MIB(16));
    n.cfg.limits.layouts_per_client = 3;
    n.cfg.limits.layouts = 4;
    node_start(&n);
    p = connect_with_memory();
    node_open(&n, p, "lru");
}

static void down(void)
{
    node_stop(&n);
    ck_assert_uint_eq(pool_used(&n.lane.layouts), 0);
    free_with_memory(p);
}

/* A layer-first pool; changed by the test before it is registered. */
struct asked {
    Pikv__LayoutRegister m;
    Pikv__Run run, *runs[LAYOUT_RUNS + 1];
    uint64_t table[PAGES];
};

static void ask_init(struct asked *a)
{
    pikv__layout_register__init(&a->m);
    pikv__run__init(&a->run);
    a->run.len = SIZE;
    a->run.stride = PAGES * SIZE;
    a->run.n = LAYERS;
    for (uint32_t i = 0; i <= LAYOUT_RUNS; i++)
        a->runs[i] = &a->run;
    a->m.mem = 1;
    a->m.runs = a->runs;
    a->m.n_runs = 1;
    a->m.block_n = PAGES;
    a->m.block_stride = SIZE;
}

static int answer(uint32_t *id_out)
{
    uint8_t mem[4096];
    const Pikv__LayoutReply *m;
    struct arena a;

    if (n.reply.frame.status)
        return n.reply.frame.status;
    arena_init(&a, mem, sizeof mem);
    m = msg_unpack(&pikv__layout_reply__descriptor, &a, n.reply.env,
                   n.reply.frame.env_len);
    ck_assert_ptr_nonnull(m);
    *id_out = m->id;
    return OK;
}

static int ask(struct node_peer *q, const struct asked *a, uint32_t *id_out)
{
    node_msg(q, OP_LAYOUT, &a->m);
    return answer(id_out);
}

static uint32_t pool_layout(struct node_peer *q)
{
    struct asked a;
    uint32_t id = 0;

    ask_init(&a);
    ck_assert_int_eq(ask(q, &a, &id), OK);
    ck_assert_uint_ne(id, 0);
    return id;
}

static int forget(struct node_peer *q, uint32_t id)
{
    Pikv__LayoutRegister m = PIKV__LAYOUT_REGISTER__INIT;

    m.forget = id;
    node_msg(q, OP_LAYOUT, &m);
    return n.reply.frame.status;
}

/* One key of a batch by layout: block's bytes from off on. */
static int move(struct node_peer *q, enum op_id op, uint32_t layout,
                const char *key, uint32_t block, uint64_t off, uint64_t len)
{
    struct node_batch b;

    batch_new(&b, &n, op);
    b.head.layout = layout;
    batch_key(&b, key, (struct wire_key){.len = len, .off = off, .seg_n = 1},
              NULL, NULL);
    batch_seg(&b, 0, block, len);
    batch_send(&b, q, NULL, 0);
    if (!n.reply.there)
        return 1;
    return n.reply.frame.status ? n.reply.frame.status : n.reply.r[0].status;
}

static uint8_t *piece(struct node_peer *q, uint32_t page, uint32_t layer)
{
    return q->memory + (layer * PAGES + page) * SIZE;
}

START_TEST(a_block_is_gathered_and_scattered_by_its_number)
{
    uint32_t id = pool_layout(p);

    for (uint32_t i = 0; i < MEM; i++)
        p->memory[i] = (uint8_t)(i * 7 + i / SIZE);
    ck_assert_int_eq(move(p, OP_PUT, id, "k", 3, 0, LAYERS * SIZE), OK);
    for (uint32_t i = 0; i < LAYERS; i++)
        memset(piece(p, 5, i), 0, SIZE);
    ck_assert_int_eq(move(p, OP_GET, id, "k", 5, 0, LAYERS * SIZE), OK);
    for (uint32_t i = 0; i < LAYERS; i++)
        ck_assert_mem_eq(piece(p, 5, i), piece(p, 3, i), SIZE);
}
END_TEST

START_TEST(a_range_moves_alone)
{
    uint32_t id = pool_layout(p);

    memset(p->memory, 1, MEM);
    ck_assert_int_eq(move(p, OP_PUT, id, "k", 0, 0, LAYERS * SIZE), OK);
    memset(p->memory, 0, MEM);
    ck_assert_int_eq(move(p, OP_GET, id, "k", 7, SIZE + 100, SIZE), OK);
    ck_assert_uint_eq(n.reply.r[0].moved, SIZE);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        for (uint32_t i = 0; i < SIZE; i++)
            ck_assert_uint_eq(piece(p, 7, layer)[i],
                              (layer == 1 && i >= 100) ||
                                  (layer == 2 && i < 100));
}
END_TEST

START_TEST(names_of_nothing_are_refused)
{
    uint32_t id = pool_layout(p);
    struct node_batch b;

    ck_assert_int_eq(move(p, OP_PUT, id + 1, "k", 0, 0, 8), ERR_NO_LAYOUT);
    ck_assert_int_eq(move(p, OP_PUT, id, "k", PAGES, 0, 8), ERR_BAD_REQUEST);
    ck_assert_int_eq(move(p, OP_PUT, id, "k", 0, 0, LAYERS * SIZE + 1),
                     ERR_BAD_REQUEST);
    ck_assert_int_eq(move(p, OP_PUT, id, "k", 0, 0, LAYERS * SIZE), OK);
    ck_assert_int_eq(move(p, OP_GET, id, "k", PAGES, 0, 8), ERR_BAD_REQUEST);
    for (uint32_t i = 0; i < 3; i++) { /* no segment, two, of a memory */
        batch_new(&b, &n, OP_GET);
        b.head.layout = id;
        batch_key(&b, "k", (struct wire_key){.len = 8, .seg_n = (uint16_t)i},
                  NULL, NULL);
        for (uint32_t k = 0; k < i; k++)
            batch_seg(&b, i == 1, 0, 8);
        batch_send(&b, p, NULL, 0);
        ck_assert_int_eq(n.reply.r[0].status, ERR_BAD_REQUEST);
    }
    /* A block that is shorter than its layout's moves as far as it goes. */
    ck_assert_int_eq(move(p, OP_PUT, id, "short", 0, 0, SIZE), OK);
    ck_assert_int_eq(move(p, OP_GET, id, "short", 0, 0, LAYERS * SIZE), OK);
    ck_assert_uint_eq(n.reply.r[0].moved, SIZE);
}
END_TEST

START_TEST(other_operations_take_no_layout)
{
    static const enum op_id ops[] = {OP_LOOKUP, OP_PIN, OP_TOUCH, OP_PREFETCH};
    uint32_t id = pool_layout(p);
    struct node_batch b;

    for (uint32_t i = 0; i < countof(ops); i++) {
        batch_new(&b, &n, ops[i]);
        b.head.layout = id;
        if (ops[i] == OP_LOOKUP)
            batch_column(&b, RULE_ALL, 0);
        batch_key(&b, "k", (struct wire_key){0}, NULL, NULL);
        batch_send(&b, p, NULL, 0);
        ck_assert_int_eq(n.reply.frame.status, ERR_NO_LAYOUT);
    }
}
END_TEST

START_TEST(registrations_that_make_no_sense_are_refused)
{
    struct asked a;
    uint32_t id = 0;

    ask_init(&a);
    a.m.mem = 2;
    ck_assert_int_eq(ask(p, &a, &id), ERR_NO_MEM);
    ask_init(&a);
    a.m.n_runs = 0;
    ck_assert_int_eq(ask(p, &a, &id), ERR_BAD_REQUEST);
    a.m.n_runs = LAYOUT_RUNS + 1;
    ck_assert_int_eq(ask(p, &a, &id), ERR_LIMIT);
    ask_init(&a);
    a.m.block_n = UINT32_MAX;
    ck_assert_int_eq(ask(p, &a, &id), ERR_BAD_REQUEST);
    ask_init(&a);
    a.m.pool_off = UINT64_MAX;
    ck_assert_int_eq(ask(p, &a, &id), ERR_BAD_REQUEST);
    ask_init(&a);
    a.run.n = UINT32_MAX;
    ck_assert_int_eq(ask(p, &a, &id), ERR_LIMIT);
    ask_init(&a);
    a.m.table = a.table;
    a.m.n_table = PAGES - 1;
    ck_assert_int_eq(ask(p, &a, &id), ERR_BAD_REQUEST);
    a.m.n_table = PAGES;
    memset(a.table, 0, sizeof a.table);
    a.table[PAGES - 1] = MEM;
    ck_assert_int_eq(ask(p, &a, &id), ERR_BAD_REQUEST);
    ck_assert_uint_eq(id, 0);
    ck_assert_uint_eq(pool_used(&n.lane.layouts), 0);
    a.table[PAGES - 1] = 100;
    ck_assert_int_eq(ask(p, &a, &id), OK);
    p->memory[100] = 42;
    ck_assert_int_eq(move(p, OP_PUT, id, "t", PAGES - 1, 0, 8), OK);
    ck_assert_int_eq(move(p, OP_GET, id, "t", 0, 0, 8), OK);
    ck_assert_uint_eq(p->memory[0], 42);
}
END_TEST

START_TEST(a_message_that_is_none_is_refused)
{
    Pikv__Hello m = PIKV__HELLO__INIT;
    char bytes[] = "\xff\xff\xff\xff";

    m.engine = bytes; /* field 3 is a run there */
    node_msg(p, OP_LAYOUT, &m);
    ck_assert_int_eq(n.reply.frame.status, ERR_BAD_REQUEST);
}
END_TEST

START_TEST(a_connection_and_a_lane_have_so_many)
{
    struct node_peer *q = connect_with_memory();
    uint32_t id[3], other;
    struct asked a;

    ask_init(&a);
    for (uint32_t i = 0; i < 3; i++)
        id[i] = pool_layout(p);
    ck_assert_int_eq(ask(p, &a, &other), ERR_BUSY);
    other = pool_layout(q); /* the lane's fourth */
    ck_assert_int_eq(ask(q, &a, &other), ERR_BUSY);
    ck_assert_int_eq(forget(p, id[1]), OK);
    ck_assert_int_eq(forget(p, id[1]), ERR_NO_LAYOUT);
    ck_assert_int_eq(ask(p, &a, &other), OK);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_uint_ne(other, id[i]); /* ids do not come again */
    ck_assert_int_eq(move(p, OP_PUT, id[1], "k", 0, 0, 8), ERR_NO_LAYOUT);
    node_hangup(q);
    ck_assert_uint_eq(pool_used(&n.lane.layouts), 3);
    free_with_memory(q);
}
END_TEST

START_TEST(one_connection_does_not_name_anothers)
{
    struct node_peer *q = connect_with_memory();
    uint32_t id = pool_layout(p);

    ck_assert_int_eq(move(q, OP_PUT, id, "k", 0, 0, 8), ERR_NO_LAYOUT);
    node_hangup(q);
    free_with_memory(q);
}
END_TEST

START_TEST(a_layout_forgotten_under_a_transfer_stays_for_it)
{
    uint32_t id = pool_layout(p);

    memset(p->memory, 9, MEM);
    ck_assert_int_eq(move(p, OP_PUT, id, "k", 0, 0, LAYERS * SIZE), OK);
    memset(p->memory, 0, MEM);
    n.hold = true;
    ck_assert_int_eq(move(p, OP_GET, id, "k", 6, 0, LAYERS * SIZE), 1);
    ck_assert_int_eq(forget(p, id), OK);
    ck_assert_uint_eq(pool_used(&n.lane.layouts), 1);
    node_let(p);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_uint_eq(*piece(p, 6, LAYERS - 1), 9);
    ck_assert_uint_eq(pool_used(&n.lane.layouts), 0);
}
END_TEST

START_TEST(a_peer_that_goes_under_a_transfer_leaves_nothing)
{
    struct node_peer *q = connect_with_memory();
    uint32_t id = pool_layout(q);

    n.hold = true;
    ck_assert_int_eq(move(q, OP_PUT, id, "k", 0, 0, LAYERS * SIZE), 1);
    node_hangup(q);
    ck_assert_uint_eq(pool_used(&n.lane.layouts), 0);
    ck_assert_uint_eq(pool_used(&n.lane.ops), 0);
    free_with_memory(q);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ops_layout");
    TCase *t = tcase_create("layout");

    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t, a_block_is_gathered_and_scattered_by_its_number);
    tcase_add_test(t, a_range_moves_alone);
    tcase_add_test(t, names_of_nothing_are_refused);
    tcase_add_test(t, other_operations_take_no_layout);
    tcase_add_test(t, registrations_that_make_no_sense_are_refused);
    tcase_add_test(t, a_message_that_is_none_is_refused);
    tcase_add_test(t, a_connection_and_a_lane_have_so_many);
    tcase_add_test(t, one_connection_does_not_name_anothers);
    tcase_add_test(t, a_layout_forgotten_under_a_transfer_stays_for_it);
    tcase_add_test(t, a_peer_that_goes_under_a_transfer_leaves_nothing);
    suite_add_tcase(s, t);
    return s;
}
