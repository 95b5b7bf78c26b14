/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: cluster base */
#include "cluster/state.h"

#include "lib/state_say.h"

/* Refused with these words, and nothing but the memory of it changes. */
static void refuses(struct state *s, struct cmd c, enum err e,
                    const char *words)
{
    uint64_t view = view_digest(&s->view);
    uint32_t experts = s->expert_n, tenants = s->tenant_n;
    uint32_t level = s->feature_level, flushes = s->flush_n;

    ck_assert_int_eq(say(s, c), e);
    ck_assert_msg(strstr(ans.msg.text, words), "\"%s\" does not say \"%s\"",
                  ans.msg.text, words);
    ck_assert_uint_eq(ans.value, s->view.epoch);
    ck_assert_uint_eq(view_digest(&s->view), view);
    ck_assert_uint_eq(s->expert_n, experts);
    ck_assert_uint_eq(s->tenant_n, tenants);
    ck_assert_uint_eq(s->feature_level, level);
    ck_assert_uint_eq(s->flush_n, flushes);
}

static enum node_state state_of(const struct state *s, uint32_t i)
{
    return (enum node_state)s->view.nodes[i].state;
}

/* ---- JOIN ---- */

START_TEST(a_new_name_gets_the_next_index_and_joins)
{
    struct state s;

    begin(&s, 0);
    ck_assert_uint_eq(s.view.epoch, 0);
    ck_assert_uint_eq(s.view.generation, 1);
    for (uint32_t i = 0; i < 3; i++) {
        struct cmd c = join(i, 1);

        c.node.state = NODE_UP; /* is not its to say */
        c.node.drained = true;
        ck_assert_int_eq(say(&s, c), OK);
        ck_assert_uint_eq(ans.value, i);
        ck_assert_uint_eq(s.view.epoch, s.applied);
        ck_assert_int_eq(state_of(&s, i), NODE_JOINING);
        ck_assert(!s.view.nodes[i].drained);
    }
    ck_assert_uint_eq(s.view.node_n, 3);
    ck_assert_str_eq(s.view.nodes[2].peer, "10.0.0.2:7070");
    state_fini(&s);
}
END_TEST

START_TEST(a_larger_incarnation_updates_the_member)
{
    struct state s;
    struct cmd c = join(1, 2);

    begin(&s, 2);
    strcpy(c.node.peer, "10.9.9.9:7070");
    c.node.weight = 5000;
    c.node.voter = true; /* the voters decide that */
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert_uint_eq(ans.value, 1);
    ck_assert_uint_eq(s.view.node_n, 2);
    ck_assert_str_eq(s.view.nodes[1].peer, "10.9.9.9:7070");
    ck_assert_uint_eq(s.view.nodes[1].weight, 5000);
    ck_assert(!s.view.nodes[1].voter);
    ck_assert_uint_eq(s.view.nodes[1].incarnation, 2);
    ck_assert_int_eq(state_of(&s, 1), NODE_UP);
    ck_assert_uint_eq(s.view.epoch, s.applied);
    state_fini(&s);
}
END_TEST

START_TEST(a_restarted_node_comes_back_as_what_it_was)
{
    struct state s;

    begin(&s, 2);
    ck_assert_int_eq(say(&s, become(&s, 0, NODE_DOWN)), OK);
    ck_assert_int_eq(say(&s, join(0, 2)), OK);
    ck_assert_int_eq(state_of(&s, 0), NODE_UP);
    ck_assert_int_eq(say(&s, become(&s, 0, NODE_DRAINING)), OK);
    ck_assert_int_eq(say(&s, become(&s, 0, NODE_DOWN)), OK);
    ck_assert(s.view.nodes[0].drained);
    ck_assert_int_eq(say(&s, join(0, 3)), OK);
    ck_assert_int_eq(state_of(&s, 0), NODE_DRAINING);
    ck_assert(!s.view.nodes[0].drained);
    ck_assert_int_eq(say(&s, join(0, 4)), OK); /* before it was seen DOWN */
    ck_assert_int_eq(state_of(&s, 0), NODE_DRAINING);
    ck_assert_int_eq(say(&s, join(2, 1)), OK);
    ck_assert_int_eq(say(&s, join(2, 2)), OK);
    ck_assert_int_eq(state_of(&s, 2), NODE_JOINING);
    state_fini(&s);
}
END_TEST

START_TEST(the_same_incarnation_again_changes_nothing)
{
    struct state s;
    uint64_t before;

    begin(&s, 2);
    ck_assert_int_eq(say(&s, become(&s, 1, NODE_DOWN)), OK);
    before = view_digest(&s.view);
    ck_assert_int_eq(say(&s, join(1, 1)), OK);
    ck_assert_uint_eq(ans.value, 1);
    ck_assert_uint_eq(view_digest(&s.view), before);
    state_fini(&s);
}
END_TEST

START_TEST(a_join_that_is_not_its_own_is_refused)
{
    struct state s;
    struct cmd c;

    begin(&s, 2);
    c = join(1, 2);
    c.node.uuid = 999;
    refuses(&s, c, ERR_DENIED,
            "pikvctl node remove n1 first, or give this node its own "
            "node.name");
    c = join(1, 5);
    ck_assert_int_eq(say(&s, c), OK);
    refuses(&s, join(1, 4), ERR_STALE,
            "incarnation 4 but was seen with 5: its state_dir was rolled back");
    c = join(1, 5);
    strcpy(c.node.peer, "10.0.0.99:7070");
    refuses(&s, c, ERR_DENIED, "a copied state_dir");
    c = join(1, 5);
    c.node.host = 4;
    refuses(&s, c, ERR_DENIED, "a copied state_dir");
    c = join(7, 1);
    c.node.uuid = 101;
    refuses(&s, c, ERR_DENIED, "n7 has the identity of the member n1");
    state_fini(&s);
}
END_TEST

START_TEST(a_removed_name_is_free_again)
{
    struct state s;
    struct cmd c;

    begin(&s, 2);
    ck_assert_int_eq(say(&s, become(&s, 1, NODE_DOWN)), OK);
    ck_assert_int_eq(say(&s, become(&s, 1, NODE_REMOVED)), OK);
    c = join(1, 1);
    c.node.uuid = 999;
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert_uint_eq(ans.value, 2);
    ck_assert_uint_eq(view_find(&s.view, "n1"), 2);
    ck_assert_ptr_null(view_wrong(&s.view));
    state_fini(&s);
}
END_TEST

/* A node of a static list is not known by its uuid before it comes. */
START_TEST(a_member_without_uuid_takes_the_one_that_comes)
{
    struct state s;
    struct cmd c = join(0, 0);

    begin(&s, 0);
    c.node.uuid = 0;
    ck_assert_int_eq(say(&s, c), OK);
    c = join(1, 0);
    c.node.uuid = 0;
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert_uint_eq(ans.value, 1);
    ck_assert_int_eq(say(&s, join(1, 1)), OK);
    ck_assert_uint_eq(s.view.nodes[1].uuid, 101);
    c = join(1, 2);
    c.node.uuid = 0;
    refuses(&s, c, ERR_DENIED, "another machine");
    state_fini(&s);
}
END_TEST

START_TEST(nodes_beyond_the_limits_are_refused)
{
    struct state s;
    struct cmd c;

    begin(&s, 0);
    for (uint32_t i = 0; i < NODES_MAX; i++)
        ck_assert_int_eq(say(&s, join(i, 1)), OK);
    refuses(&s, join(NODES_MAX, 1), ERR_LIMIT, "all 4096 node indexes");
    ck_assert_int_eq(say(&s, join(7, 2)), OK);
    state_fini(&s);

    begin(&s, 0);
    for (uint32_t i = 0; i < 3000; i++) {
        c = join(i, 1);
        memset(c.node.shm, 's', NODE_ADDR_MAX - 1);
        memset(c.node.ucx, 'u', NODE_ADDR_MAX - 1);
        memset(c.node.zone, 'z', NODE_NAME_MAX - 1);
        if (say(&s, c) != OK)
            break;
    }
    ck_assert_uint_lt(s.view.node_n, 3000);
    refuses(&s, c, ERR_LIMIT, "limited to 1 MiB");
    /* Those that are in may grow, until they may not. */
    for (uint32_t i = 0; i < 10; i++) {
        c = join(i, 2);
        memset(c.node.shm, 's', NODE_ADDR_MAX - 1);
        memset(c.node.ucx, 'u', NODE_ADDR_MAX - 1);
        memset(c.node.peer, 'p', NODE_ADDR_MAX - 1);
        memset(c.node.zone, 'z', NODE_NAME_MAX - 1);
        memset(c.node.rack, 'r', NODE_NAME_MAX - 1);
        if (say(&s, c) != OK)
            break;
    }
    refuses(&s, c, ERR_LIMIT, "limited to 1 MiB");
    c = join(0, 3);
    ck_assert_int_eq(say(&s, c), OK);
    state_fini(&s);
}
END_TEST

START_TEST(more_than_seven_voters_are_refused)
{
    struct state s;
    struct cmd c;

    begin(&s, 0);
    for (uint32_t i = 0; i < 8; i++) {
        c = join(i, 1);
        c.node.voter = true;
        if (i < 7)
            ck_assert_int_eq(say(&s, c), OK);
    }
    refuses(&s, c, ERR_LIMIT, "there are 7 voters already");
    c.node.voter = false;
    ck_assert_int_eq(say(&s, c), OK);
    c = (struct cmd){.kind = CMD_VOTER, .index = 7, .flag = true};
    refuses(&s, c, ERR_LIMIT, "there are 7 voters already");
    state_fini(&s);
}
END_TEST

/* ---- SET_STATE ---- */

/* Makes node 1 (never the one in the way) of that state. */
static void in_state(struct state *s, enum node_state of, bool drained)
{
    begin(s, 1);
    ck_assert_int_eq(say(s, join(1, 1)), OK);
    if (of == NODE_JOINING)
        return;
    ck_assert_int_eq(say(s, become(s, 1, NODE_UP)), OK);
    if (of == NODE_DRAINING || drained)
        ck_assert_int_eq(say(s, become(s, 1, NODE_DRAINING)), OK);
    if (of == NODE_DOWN || of == NODE_REMOVED)
        ck_assert_int_eq(say(s, become(s, 1, NODE_DOWN)), OK);
    if (of == NODE_REMOVED)
        ck_assert_int_eq(say(s, become(s, 1, NODE_REMOVED)), OK);
    ck_assert_int_eq(state_of(s, 1), of);
}

START_TEST(states_change_as_the_diagram_says)
{
    static const struct {
        enum node_state from, to;
        bool drained;
        enum node_state then;
        bool then_drained;
        const char *no; /* or the words */
    } t[] = {
        {NODE_JOINING, NODE_UP, 0, NODE_UP, 0, NULL},
        {NODE_JOINING, NODE_DRAINING, 0, 0, 0, "wait until it is UP"},
        {NODE_JOINING, NODE_DOWN, 0, NODE_DOWN, 0, NULL},
        {NODE_JOINING, NODE_REMOVED, 0, NODE_REMOVED, 0, NULL},
        {NODE_JOINING, NODE_JOINING, 0, NODE_JOINING, 0, NULL},
        {NODE_UP, NODE_JOINING, 0, 0, 0, "only a new node joins"},
        {NODE_UP, NODE_UP, 0, NODE_UP, 0, NULL},
        {NODE_UP, NODE_DRAINING, 0, NODE_DRAINING, 0, NULL},
        {NODE_UP, NODE_DOWN, 0, NODE_DOWN, 0, NULL},
        {NODE_UP, NODE_REMOVED, 0, 0, 0, "pikvctl node drain it first"},
        {NODE_DRAINING, NODE_JOINING, 0, 0, 0, "only a new node joins"},
        {NODE_DRAINING, NODE_UP, 0, NODE_UP, 0, NULL},
        {NODE_DRAINING, NODE_DRAINING, 0, NODE_DRAINING, 0, NULL},
        {NODE_DRAINING, NODE_DOWN, 0, NODE_DOWN, 1, NULL},
        {NODE_DRAINING, NODE_REMOVED, 0, NODE_REMOVED, 0, NULL},
        {NODE_DOWN, NODE_JOINING, 0, 0, 0, "only a new node joins"},
        {NODE_DOWN, NODE_UP, 0, NODE_UP, 0, NULL},
        {NODE_DOWN, NODE_UP, 1, NODE_DRAINING, 0, NULL},
        {NODE_DOWN, NODE_DRAINING, 0, NODE_DOWN, 1, NULL},
        {NODE_DOWN, NODE_DRAINING, 1, NODE_DOWN, 1, NULL},
        {NODE_DOWN, NODE_DOWN, 1, NODE_DOWN, 1, NULL},
        {NODE_DOWN, NODE_REMOVED, 1, NODE_REMOVED, 0, NULL},
        {NODE_REMOVED, NODE_UP, 0, 0, 0, "joins as a new member"},
        {NODE_REMOVED, NODE_DRAINING, 0, 0, 0, "joins as a new member"},
        {NODE_REMOVED, NODE_DOWN, 0, 0, 0, "joins as a new member"},
        {NODE_REMOVED, NODE_REMOVED, 0, NODE_REMOVED, 0, NULL},
    };

    for (size_t i = 0; i < countof(t); i++) {
        struct state s;
        uint64_t epoch;
        bool same;

        in_state(&s, t[i].from, t[i].drained);
        epoch = s.view.epoch;
        same = t[i].from == t[i].then && t[i].drained == t[i].then_drained;
        if (t[i].no) {
            refuses(&s, become(&s, 1, t[i].to), ERR_DENIED, t[i].no);
        } else {
            ck_assert_int_eq(say(&s, become(&s, 1, t[i].to)), OK);
            ck_assert_int_eq(state_of(&s, 1), t[i].then);
            ck_assert_int_eq(s.view.nodes[1].drained, t[i].then_drained);
            ck_assert_uint_eq(s.view.epoch, same ? epoch : s.applied);
            ck_assert_uint_eq(ans.value, s.view.epoch);
        }
        state_fini(&s);
    }
}
END_TEST

START_TEST(an_operator_undrains_a_node_that_is_down)
{
    struct state s;
    struct cmd c;

    in_state(&s, NODE_JOINING, false);
    c = become(&s, 1, NODE_UP);
    c.flag = true;
    refuses(&s, c, ERR_DENIED, "wait until it is UP by itself");
    state_fini(&s);
    in_state(&s, NODE_DOWN, true);
    c = become(&s, 1, NODE_UP);
    c.flag = true;
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert_int_eq(state_of(&s, 1), NODE_DOWN);
    ck_assert(!s.view.nodes[1].drained);
    ck_assert_int_eq(say(&s, become(&s, 1, NODE_UP)), OK);
    ck_assert_int_eq(state_of(&s, 1), NODE_UP);
    state_fini(&s);
}
END_TEST

START_TEST(what_is_said_of_an_older_incarnation_is_stale)
{
    struct state s;
    struct cmd c;

    begin(&s, 2);
    c = become(&s, 1, NODE_DOWN);
    ck_assert_int_eq(say(&s, join(1, 2)), OK);
    refuses(&s, c, ERR_STALE, "n1 is at incarnation 2, this is about 1");
    c = become(&s, 1, NODE_DOWN);
    c.index = 2;
    refuses(&s, c, ERR_BAD_REQUEST, "there is no node 2");
    c.index = NONE;
    refuses(&s, c, ERR_BAD_REQUEST, "there is no node 65535");
    state_fini(&s);
}
END_TEST

START_TEST(a_removed_node_leaves_its_slots)
{
    static const struct {
        struct slot was, is;
    } t[] = {
        {{{1, 0, 2}, NONE, NONE, 3, 0}, {{0, 2, NONE}, NONE, NONE, 3, 0}},
        {{{0, 1, 2}, NONE, NONE, 0, 0}, {{0, 2, NONE}, NONE, NONE, 0, 0}},
        {{{0, 2, 1}, 1, 3, 0, 0}, {{0, 2, NONE}, NONE, 3, 0, 0}},
        {{{0, 2, 3}, 3, 1, 0, 0}, {{0, 2, 3}, 3, NONE, 0, 0}},
        {{{1, 0, 2}, 0, 2, 0, 0}, {{0, 2, NONE}, NONE, 2, 0, 0}},
        {{{1, 2, NONE}, 0, 2, 0, 0}, {{2, NONE, NONE}, 0, NONE, 0, 0}},
        /* Whoever has its blocks, or some of them, has the slot. */
        {{{1, NONE, NONE}, 0, 2, 0, 0}, {{0, NONE, NONE}, NONE, 2, 0, 0}},
        {{{1, NONE, NONE}, NONE, 2, 0, 0}, {{2, NONE, NONE}, NONE, NONE, 0, 0}},
        {{{1, NONE, NONE}, NONE, NONE, 0, 0},
         {{NONE, NONE, NONE}, NONE, NONE, 0, 0}},
        {{{0, 2, 3}, NONE, NONE, 0, 0}, {{0, 2, 3}, NONE, NONE, 0, 0}},
    };
    struct slot_row rows[countof(t)];
    struct state s;

    begin(&s, 4);
    for (uint32_t i = 0; i < countof(t); i++)
        rows[i] = (struct slot_row){(uint16_t)(i * 6000), t[i].was};
    ck_assert_int_eq(say(&s, slots(&s, rows, countof(t))), OK);
    ck_assert_int_eq(
        say(&s, (struct cmd){.kind = CMD_VOTER, .index = 1, .flag = true}), OK);
    ck_assert_int_eq(say(&s, become(&s, 1, NODE_DOWN)), OK);
    ck_assert_int_eq(say(&s, become(&s, 1, NODE_REMOVED)), OK);
    for (uint32_t i = 0; i < countof(t); i++)
        ck_assert_mem_eq(&s.view.slots[i * 6000], &t[i].is,
                         sizeof(struct slot));
    ck_assert(!s.view.nodes[1].voter);
    ck_assert_ptr_null(view_wrong(&s.view));
    /* That was a change of the slots, which plans must have seen. */
    rows[0] = row(0, 0, NONE, NONE);
    rows[1] = row(9 * 6000, 0, NONE, NONE);
    {
        struct cmd c = slots(&s, rows, 1);

        c.base_epoch--;
        refuses(&s, c, ERR_STALE_EPOCH, "slot 0 was changed");
        c.rows = &rows[1];
        ck_assert_int_eq(say(&s, c), OK);
    }
    state_fini(&s);
}
END_TEST

/* ---- SLOTS ---- */

START_TEST(rows_set_slots_and_the_epoch)
{
    struct slot_row r[2] = {row(5, 0, 1, NONE), row(65535, 1, 0, 2)};
    struct state s;
    uint64_t epoch;

    begin(&s, 3);
    r[0].to.to = 2;
    r[1].to.heat = 7;
    ck_assert_int_eq(say(&s, slots(&s, r, 2)), OK);
    epoch = s.view.epoch;
    ck_assert_uint_eq(epoch, s.applied);
    ck_assert_uint_eq(ans.value, epoch);
    ck_assert_mem_eq(&s.view.slots[5], &r[0].to, sizeof(r[0].to));
    ck_assert_mem_eq(&s.view.slots[65535], &r[1].to, sizeof(r[1].to));
    ck_assert_int_eq(say(&s, slots(&s, r, 2)), OK); /* as they are */
    ck_assert_uint_eq(s.view.epoch, epoch);
    ck_assert_int_eq(say(&s, slots(&s, NULL, 0)), OK);
    ck_assert_uint_eq(s.view.epoch, epoch);
    state_fini(&s);
}
END_TEST

START_TEST(a_plan_that_missed_a_change_of_its_slots_is_refused)
{
    struct slot_row a = row(5, 0, NONE, NONE), b = row(6, 1, NONE, NONE);
    struct cmd old;
    struct state s;

    begin(&s, 3);
    old = slots(&s, &b, 1);
    ck_assert_int_eq(say(&s, slots(&s, &a, 1)), OK);
    ck_assert_int_eq(say(&s, old), OK); /* another slot */
    old.rows = &a;
    a.to.owner[0] = 2;
    refuses(&s, old, ERR_STALE_EPOCH, "slot 5 was changed in epoch");
    ck_assert_int_eq(say(&s, slots(&s, &a, 1)), OK);
    state_fini(&s);
}
END_TEST

START_TEST(a_row_that_breaks_the_rules_refuses_all)
{
    struct slot_row r[2] = {row(5, 0, 1, NONE), row(6, 0, 0, NONE)};
    struct state s;

    begin(&s, 3);
    ck_assert_int_eq(say(&s, join(3, 1)), OK);
    refuses(&s, slots(&s, r, 2), ERR_BAD_REQUEST, "slot 6: a node owns it");
    r[1] = row(6, 3, NONE, NONE);
    refuses(&s, slots(&s, r, 2), ERR_BAD_REQUEST, "slot 6: an owner is not");
    r[1] = row(6, 4, NONE, NONE);
    refuses(&s, slots(&s, r, 2), ERR_BAD_REQUEST, "slot 6: an owner is not");
    r[1] = row(6, 0, NONE, 1);
    refuses(&s, slots(&s, r, 2), ERR_BAD_REQUEST, "gap");
    r[1] = row(6, 0, NONE, NONE);
    r[1].to.to = 0;
    refuses(&s, slots(&s, r, 2), ERR_BAD_REQUEST, "`to`");
    r[1] = row(6, 0, NONE, NONE);
    r[1].to.from = 3;
    refuses(&s, slots(&s, r, 2), ERR_BAD_REQUEST, "`from`");
    r[1] = row(5, 0, NONE, NONE);
    refuses(&s, slots(&s, r, 2), ERR_BAD_REQUEST, "slot 5 is in one command");
    ck_assert_int_eq(say(&s, become(&s, 2, NODE_DOWN)), OK);
    r[1] = row(6, 2, 0, NONE); /* DOWN owns on */
    ck_assert_int_eq(say(&s, slots(&s, r, 2)), OK);
    ck_assert_int_eq(say(&s, become(&s, 2, NODE_REMOVED)), OK);
    refuses(&s, slots(&s, r, 2), ERR_BAD_REQUEST, "slot 6: an owner is not");
    state_fini(&s);
}
END_TEST

/* ---- EXPERTS ---- */

START_TEST(experts_are_placed_moved_and_cleared)
{
    struct expert_place p[] = {place(2, 1, 0, 0), place(1, 9, 1, 1),
                               place(1, 9, 0, 0)};
    struct state s;
    uint64_t epoch;

    begin(&s, 2);
    epoch = s.view.epoch;
    ck_assert_int_eq(say(&s, experts(p, 3)), OK);
    ck_assert_uint_eq(ans.value, epoch); /* not the view's business */
    ck_assert_uint_eq(s.expert_n, 3);
    ck_assert_uint_eq(s.experts[0].replica, 0);
    ck_assert_uint_eq(s.experts[1].replica, 1);
    ck_assert_uint_eq(s.experts[2].model, 2);
    p[0] = place(1, 9, 1, 0);
    p[0].tier = 2;
    p[1] = place(2, 1, 0, NONE);
    p[1].tier = 0xff;
    p[2] = place(7, 7, 7, 0); /* clearing what is not there */
    p[2].tier = 0xff;
    ck_assert_int_eq(say(&s, experts(p, 3)), OK);
    ck_assert_uint_eq(s.expert_n, 2);
    ck_assert_uint_eq(s.experts[1].node, 0);
    ck_assert_uint_eq(s.experts[1].tier, 2);
    state_fini(&s);
}
END_TEST

START_TEST(a_removed_node_has_no_experts)
{
    struct expert_place p[] = {place(1, 1, 0, 0), place(1, 2, 0, 1),
                               place(1, 3, 0, 0)};
    struct state s;

    begin(&s, 2);
    ck_assert_int_eq(say(&s, experts(p, 3)), OK);
    ck_assert_int_eq(say(&s, become(&s, 1, NODE_DOWN)), OK);
    ck_assert_uint_eq(s.expert_n, 3);
    ck_assert_int_eq(say(&s, become(&s, 1, NODE_REMOVED)), OK);
    ck_assert_uint_eq(s.expert_n, 2);
    ck_assert_uint_eq(s.experts[1].expert, 3);
    refuses(&s, experts(p, 3), ERR_BAD_REQUEST, "node 1 is not a member");
    state_fini(&s);
}
END_TEST

START_TEST(experts_that_break_the_rules_are_refused)
{
    struct expert_place p[] = {place(1, 1, 0, 0), place(1, 1, 0, 1)};
    struct state s;

    begin(&s, 2);
    refuses(&s, experts(p, 2), ERR_BAD_REQUEST, "say it once");
    p[1] = place(1, 2, 0, 2);
    refuses(&s, experts(p, 2), ERR_BAD_REQUEST, "node 2 is not a member");
    p[1] = place(1, 2, 0, 1);
    p[1].tier = 3;
    refuses(&s, experts(p, 2), ERR_BAD_REQUEST, "tier 3 is none of");
    /* The words are part of the state: no sorting may change them. */
    p[0] = p[1];
    p[0].tier = 4;
    refuses(&s, experts(p, 2), ERR_BAD_REQUEST, "tier 3 is none of");
    p[0].tier = 3;
    p[1].tier = 4;
    refuses(&s, experts(p, 2), ERR_BAD_REQUEST, "tier 3 is none of");
    state_fini(&s);
}
END_TEST

START_TEST(experts_beyond_the_limits_are_refused)
{
    static struct expert_place p[CMD_EXPERTS_MAX];
    struct state s;
    uint32_t n;

    begin(&s, 1);
    for (n = 0; n < STATE_EXPERTS_MAX;) {
        uint32_t k = 0;

        for (; k < CMD_EXPERTS_MAX && n < STATE_EXPERTS_MAX; k++, n++)
            p[k] = place(n / 64, n % 64, 0, 0);
        ck_assert_int_eq(say(&s, experts(p, k)), OK);
    }
    ck_assert_uint_eq(s.expert_n, STATE_EXPERTS_MAX);
    p[0] = place(1, 65, 0, 0);
    refuses(&s, experts(p, 1), ERR_LIMIT, "more than 65536 placed experts");
    p[1] = place(1, 1, 0, 0);
    p[1].tier = 0xff;
    ck_assert_int_eq(say(&s, experts(p, 2)), OK); /* one for another */
    p[0] = place(1, 2, 0, 0);
    p[0].tier = 0xff;
    p[1] = place(5000, 1, 0, 0);
    refuses(&s, experts(p, 2), ERR_LIMIT, "more than 1024 models");
    state_fini(&s);
}
END_TEST

/* ---- Tenants, flushes, features, generations, voters ---- */

START_TEST(tenants_are_set_and_removed)
{
    struct cmd a = tenant(1, "red"), b = tenant(2, "blue");
    struct state s;
    char name[16];

    begin(&s, 0);
    ck_assert_int_eq(say(&s, a), OK);
    ck_assert_int_eq(say(&s, b), OK);
    a.tenant.quota_bytes = 5;
    ck_assert_int_eq(say(&s, a), OK);
    ck_assert_uint_eq(s.tenant_n, 2);
    ck_assert_uint_eq(s.tenants[0].quota_bytes, 5);
    refuses(&s, tenant(3, "red"), ERR_DENIED, "the tenant red has the id 1");
    refuses(&s, tenant(0, "x"), ERR_BAD_REQUEST, "not 0");
    refuses(&s, tenant(3, ""), ERR_BAD_REQUEST, "a name");
    a.flag = true;
    ck_assert_int_eq(say(&s, a), OK);
    ck_assert_uint_eq(s.tenant_n, 1);
    ck_assert_str_eq(s.tenants[0].name, "blue");
    refuses(&s, a, ERR_MISS, "there is no tenant 1");
    for (uint32_t i = 1; i < STATE_TENANTS_MAX; i++) {
        snprintf(name, sizeof(name), "t%u", i);
        ck_assert_int_eq(say(&s, tenant(100 + i, name)), OK);
    }
    refuses(&s, tenant(9, "more"), ERR_LIMIT, "256 tenants");
    ck_assert_int_eq(say(&s, tenant(150, "else")), OK);
    ck_assert_uint_eq(s.view.epoch, 0);
    state_fini(&s);
}
END_TEST

START_TEST(flushes_are_counted_in_the_view)
{
    struct state s;
    char name[16];

    begin(&s, 0);
    ck_assert_int_eq(say(&s, flush("kv")), OK);
    ck_assert_uint_eq(ans.value, 1);
    ck_assert_int_eq(say(&s, flush("other")), OK);
    ck_assert_int_eq(say(&s, flush("kv")), OK);
    ck_assert_uint_eq(ans.value, 2);
    ck_assert_uint_eq(s.view.epoch, s.applied);
    ck_assert_uint_eq(view_flushes(&s.view, "kv"), 2);
    ck_assert_uint_eq(view_flushes(&s.view, "other"), 1);
    ck_assert_uint_eq(view_flushes(&s.view, "never"), 0);
    refuses(&s, flush(""), ERR_BAD_REQUEST, "a namespace has a name");
    for (uint32_t i = 2; i < STATE_FLUSHES_MAX; i++) {
        snprintf(name, sizeof(name), "ns%u", i);
        ck_assert_int_eq(say(&s, flush(name)), OK);
    }
    refuses(&s, flush("more"), ERR_LIMIT, "4096 namespaces");
    ck_assert_int_eq(say(&s, flush("kv")), OK);
    ck_assert_uint_eq(ans.value, 3);
    state_fini(&s);
}
END_TEST

START_TEST(the_feature_level_goes_up_with_the_slowest_node)
{
    struct cmd c = {.kind = CMD_FEATURE, .level = 2}, j;
    struct state s;

    begin(&s, 0);
    for (uint32_t i = 0; i < 2; i++) {
        j = join(i, 1);
        j.node.speaks = 2 + i;
        ck_assert_int_eq(say(&s, j), OK);
    }
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert_uint_eq(s.feature_level, 2);
    ck_assert_int_eq(say(&s, c), OK);
    c.level = 1;
    refuses(&s, c, ERR_DENIED, "only goes up");
    c.level = 3;
    refuses(&s, c, ERR_DENIED, "n0 speaks feature level 2 at most");
    j = join(5, 1);
    j.node.speaks = 1;
    refuses(&s, j, ERR_BAD_VERSION, "n5 speaks feature level 1, the cluster");
    ck_assert_int_eq(say(&s, become(&s, 0, NODE_REMOVED)), OK);
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert_uint_eq(s.feature_level, 3);
    state_fini(&s);
}
END_TEST

START_TEST(a_recovery_starts_a_generation_with_its_voters)
{
    struct cmd c = {.kind = CMD_GENERATION, .voters = {1, 2, 3}, .voter_n = 3};
    struct state s;
    struct cmd v = {.kind = CMD_VOTER, .index = 0, .flag = true};

    begin(&s, 4);
    ck_assert_int_eq(say(&s, v), OK);
    c.level = 1;
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert_uint_eq(s.view.generation, 2);
    ck_assert_uint_eq(s.view.epoch, s.applied);
    ck_assert(!s.view.nodes[0].voter);
    ck_assert(s.view.nodes[1].voter && s.view.nodes[3].voter);
    refuses(&s, c, ERR_STALE, "planned on generation 1 but it is 2");
    c.level = 0;
    c.voter_n = 2;
    refuses(&s, c, ERR_BAD_REQUEST, "2 voters: an even number");
    c.voter_n = 0;
    refuses(&s, c, ERR_BAD_REQUEST, "0 voters: an even number");
    c.voter_n = 3;
    c.voters[2] = 1;
    refuses(&s, c, ERR_BAD_REQUEST, "voter n1 is listed twice");
    c.voters[2] = 4;
    refuses(&s, c, ERR_BAD_REQUEST, "voter 4 is no member");
    c.voter_n = 1;
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert_uint_eq(s.view.generation, 3);
    state_fini(&s);
}
END_TEST

START_TEST(voters_come_and_go_but_never_all)
{
    struct cmd c = {.kind = CMD_VOTER, .index = 1, .flag = true};
    struct state s;

    begin(&s, 3);
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert(s.view.nodes[1].voter);
    ck_assert_int_eq(say(&s, c), OK);
    c.flag = false;
    refuses(&s, c, ERR_DENIED, "n1 is the last voter");
    c.index = 3;
    refuses(&s, c, ERR_BAD_REQUEST, "there is no node 3");
    c.index = 0;
    c.flag = true;
    ck_assert_int_eq(say(&s, c), OK);
    c.index = 1;
    c.flag = false;
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert(!s.view.nodes[1].voter);
    ck_assert_int_eq(say(&s, become(&s, 2, NODE_DOWN)), OK);
    ck_assert_int_eq(say(&s, become(&s, 2, NODE_REMOVED)), OK);
    c.index = 2;
    c.flag = true;
    refuses(&s, c, ERR_DENIED, "n2 was removed");
    state_fini(&s);
}
END_TEST

/* ---- Said twice, and malformed ---- */

START_TEST(a_command_said_twice_answers_the_same_and_does_nothing)
{
    struct cmd c = flush("kv"), no = join(0, 1);
    struct errmsg words;
    struct state s;
    uint64_t before;

    begin(&s, 2);
    c.id = 5;
    no.id = 6;
    no.node.uuid = 9;
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert_int_eq(say(&s, no), ERR_DENIED);
    words = ans.msg;
    ck_assert_int_eq(say(&s, flush("kv")), OK);
    ck_assert_uint_eq(ans.value, 2);
    before = view_digest(&s.view);
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert_uint_eq(ans.value, 1);
    ck_assert_int_eq(say(&s, no), ERR_DENIED);
    ck_assert_str_eq(ans.msg.text, words.text);
    ck_assert_uint_eq(view_digest(&s.view), before);
    state_fini(&s);
}
END_TEST

START_TEST(the_last_1024_commands_are_remembered)
{
    struct cmd c = flush("kv");
    struct state s;

    begin(&s, 0);
    for (uint64_t id = 1; id <= STATE_DEDUPE + 1; id++) {
        c.id = id;
        ck_assert_int_eq(say(&s, c), OK);
        ck_assert_uint_eq(ans.value, id);
    }
    c.id = 2; /* the oldest that is remembered */
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert_uint_eq(ans.value, 2);
    c.id = 1;
    ck_assert_int_eq(say(&s, c), OK);
    ck_assert_uint_eq(ans.value, STATE_DEDUPE + 2);
    state_fini(&s);
}
END_TEST

START_TEST(malformed_bytes_change_nothing)
{
    static const uint8_t bad[] = "these are no command";
    struct state s;
    uint64_t view, seen;

    begin(&s, 2);
    view = view_digest(&s.view);
    seen = s.seen_next;
    state_apply(&s, 100, bad, sizeof(bad), &ans);
    ck_assert_int_eq(ans.err, ERR_BAD_REQUEST);
    ck_assert_ptr_nonnull(strstr(ans.msg.text, "the same pikvd"));
    ck_assert_uint_eq(ans.value, s.view.epoch);
    state_apply(&s, 101, NULL, 0, NULL);
    ck_assert_uint_eq(view_digest(&s.view), view);
    ck_assert_uint_eq(s.seen_next, seen);
    ck_assert_uint_eq(s.applied, 101);
    state_fini(&s);
}
END_TEST

static void start(void)
{
    seed = UINT64_C(0x9e3779b97f4a7c15);
}

static TCase *cases(Suite *s, const char *name)
{
    TCase *t = tcase_create(name);

    tcase_set_timeout(t, 120);
    tcase_add_checked_fixture(t, start, NULL);
    suite_add_tcase(s, t);
    return t;
}

Suite *suite(void)
{
    Suite *s = suite_create("state");
    TCase *t = cases(s, "members");

    tcase_add_test(t, a_new_name_gets_the_next_index_and_joins);
    tcase_add_test(t, a_larger_incarnation_updates_the_member);
    tcase_add_test(t, a_restarted_node_comes_back_as_what_it_was);
    tcase_add_test(t, the_same_incarnation_again_changes_nothing);
    tcase_add_test(t, a_join_that_is_not_its_own_is_refused);
    tcase_add_test(t, a_removed_name_is_free_again);
    tcase_add_test(t, a_member_without_uuid_takes_the_one_that_comes);
    tcase_add_test(t, nodes_beyond_the_limits_are_refused);
    tcase_add_test(t, more_than_seven_voters_are_refused);
    tcase_add_test(t, states_change_as_the_diagram_says);
    tcase_add_test(t, an_operator_undrains_a_node_that_is_down);
    tcase_add_test(t, what_is_said_of_an_older_incarnation_is_stale);
    tcase_add_test(t, a_removed_node_leaves_its_slots);
    t = cases(s, "kinds");
    tcase_add_test(t, rows_set_slots_and_the_epoch);
    tcase_add_test(t, a_plan_that_missed_a_change_of_its_slots_is_refused);
    tcase_add_test(t, a_row_that_breaks_the_rules_refuses_all);
    tcase_add_test(t, experts_are_placed_moved_and_cleared);
    tcase_add_test(t, a_removed_node_has_no_experts);
    tcase_add_test(t, experts_that_break_the_rules_are_refused);
    tcase_add_test(t, experts_beyond_the_limits_are_refused);
    tcase_add_test(t, tenants_are_set_and_removed);
    tcase_add_test(t, flushes_are_counted_in_the_view);
    tcase_add_test(t, the_feature_level_goes_up_with_the_slowest_node);
    tcase_add_test(t, a_recovery_starts_a_generation_with_its_voters);
    tcase_add_test(t, voters_come_and_go_but_never_all);
    tcase_add_test(t, a_command_said_twice_answers_the_same_and_does_nothing);
    tcase_add_test(t, the_last_1024_commands_are_remembered);
    tcase_add_test(t, malformed_bytes_change_nothing);
    return s;
}
