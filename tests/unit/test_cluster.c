/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: cluster base proto */
#include "cluster/cluster.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/peer_msg.h"
#include "lib/csim.h"

/* Whole clusters without faults but those that a test makes (lib/csim.h), and
 * single nodes that are spoken to by hand. */
static struct csim *sim;

static void form(uint32_t voters, uint32_t nodes, uint32_t removed_ms)
{
    struct csim_cfg cfg = {
        .seed = 5,
        .voters = voters,
        .nodes = nodes,
        .latency_us = 500,
        .removed_ms = removed_ms,
        .propose_ms = 3000,
        .move_slots = 8192,
        .check = 1, /* every view that was pushed is compared */
    };

    sim = calloc(1, sizeof(*sim));
    ck_assert_ptr_nonnull(sim);
    csim_init(sim, &cfg);
}

static void run(uint64_t ms)
{
    csim_run(sim, sim->now_us / 1000 + ms);
}

static void formed(uint32_t voters, uint32_t nodes, uint32_t removed_ms)
{
    form(voters, nodes, removed_ms);
    run(6000);
    ck_assert_ptr_null(csim_unsettled(sim));
}

static void teardown(void)
{
    if (!sim)
        return;
    ck_assert_ptr_null(sim->broken);
    ck_assert_uint_eq(sim->pool.differed, 0);
    csim_fini(sim);
    free(sim);
    sim = NULL;
}

static const struct view *lead_view(void)
{
    struct csim_node *lead = csim_leader(sim);

    ck_assert_ptr_nonnull(lead);
    return &lead->view->v;
}

static const struct node *member(uint32_t at)
{
    char name[16];
    uint16_t i;

    snprintf(name, sizeof(name), "n%u", at);
    i = view_find(lead_view(), name);
    return i == NODE_NONE ? NULL : &lead_view()->nodes[i];
}

static uint16_t index_of(uint32_t at)
{
    return (uint16_t)(member(at) - lead_view()->nodes);
}

static enum cluster_phase phase(uint32_t at)
{
    struct cluster_status st;

    cluster_status(sim->nodes[at].c, &st);
    return st.phase;
}

static uint32_t homes(uint16_t index)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        n += lead_view()->slots[i].owner[0] == index;
    return n;
}

/* Proposes at a node and waits for the answer. */
static struct answer ask(uint32_t at, struct cmd *cmd)
{
    struct cluster_event ev = {
        .kind = CLUSTER_PROPOSE, .cmd = cmd, .ticket = 77};
    uint64_t before = sim->answers;

    csim_step(sim, &sim->nodes[at], &ev);
    for (uint32_t i = 0; i < 500 && sim->answers == before; i++)
        run(10);
    ck_assert_uint_eq(sim->answers, before + 1);
    return sim->answer;
}

static enum err set_state(uint32_t by, uint32_t at, enum node_state state)
{
    struct cmd cmd = {.kind = CMD_SET_STATE,
                      .index = index_of(at),
                      .incarnation = member(at)->incarnation,
                      .new_state = (uint8_t)state};

    return ask(by, &cmd).err;
}

/* ---- Forming ---- */

START_TEST(voters_and_watchers_become_one_cluster)
{
    formed(3, 5, 0);
    for (uint32_t i = 0; i < 8; i++) {
        ck_assert_int_eq(phase(i), CLUSTER_MEMBER);
        ck_assert_int_eq(member(i)->state, NODE_UP);
        ck_assert_uint_ge(homes(index_of(i)), WIRE_SLOTS / 8 * 95 / 100);
        ck_assert_uint_le(homes(index_of(i)), WIRE_SLOTS / 8 * 105 / 100);
        ck_assert_int_eq(cluster_state(sim->nodes[i].c) != NULL, i < 3);
    }
    ck_assert_ptr_null(csim_wrong(sim));
}
END_TEST

START_TEST(one_voter_alone_is_a_cluster)
{
    formed(1, 0, 0);
    ck_assert_uint_eq(homes(0), WIRE_SLOTS);
}
END_TEST

START_TEST(who_joins_later_gets_its_share_by_moves)
{
    form(3, 2, 0);
    sim->nodes[4].gone = true;
    run(6000);
    sim->nodes[4].gone = false;
    csim_boot(sim, &sim->nodes[4]);
    run(60000);
    ck_assert_uint_ge(homes(index_of(4)), WIRE_SLOTS / 5 * 94 / 100);
    ck_assert_uint_gt(sim->stats.moves, WIRE_SLOTS / 5);
    ck_assert_ptr_null(csim_wrong(sim));
}
END_TEST

/* ---- Commands ---- */

START_TEST(a_command_of_a_watcher_is_answered)
{
    struct cmd cmd = {.kind = CMD_FLUSH, .name = "chat"};
    struct answer a;

    formed(3, 2, 0);
    a = ask(4, &cmd);
    ck_assert_int_eq(a.err, OK);
    ck_assert_uint_eq(a.value, 1);
    run(500);
    for (uint32_t i = 0; i < 5; i++)
        ck_assert_uint_eq(view_flushes(&sim->nodes[i].view->v, "chat"), 1);
}
END_TEST

START_TEST(the_same_command_said_twice_counts_once)
{
    struct cmd cmd = {.kind = CMD_FLUSH, .name = "chat", .id = 99};

    formed(3, 2, 0);
    ck_assert_uint_eq(ask(4, &cmd).value, 1);
    ck_assert_uint_eq(ask(3, &cmd).value, 1);
    cmd.id = 100;
    ck_assert_uint_eq(ask(3, &cmd).value, 2);
}
END_TEST

START_TEST(a_refusal_reaches_who_asked_with_its_words)
{
    struct cmd cmd = {.kind = CMD_SET_STATE, .index = 4000};
    struct answer a;

    formed(3, 2, 0);
    a = ask(4, &cmd);
    ck_assert_int_eq(a.err, ERR_BAD_REQUEST);
    ck_assert(strstr(a.msg.text, "4000"));
}
END_TEST

START_TEST(without_a_majority_commands_end_with_no_quorum_and_reads_go_on)
{
    struct cmd cmd = {.kind = CMD_FLUSH, .name = "chat"};
    uint64_t epoch;

    formed(3, 2, 0);
    epoch = lead_view()->epoch;
    csim_crash(sim, &sim->nodes[0], true);
    csim_crash(sim, &sim->nodes[1], true);
    run(4000);
    ck_assert_int_eq(ask(4, &cmd).err, ERR_NO_QUORUM);
    ck_assert_int_eq(phase(4), CLUSTER_CUT);
    ck_assert_uint_ge(cluster_view(sim->nodes[4].c)->epoch, epoch);
    csim_heal(sim);
    run(4000);
    ck_assert_int_eq(phase(4), CLUSTER_MEMBER);
    ck_assert_int_eq(ask(4, &cmd).err, OK);
}
END_TEST

START_TEST(leadership_can_be_handed_over)
{
    struct csim_node *lead;
    uint64_t answers;
    char to[16];

    formed(3, 0, 0);
    lead = csim_leader(sim);
    answers = sim->answers;
    snprintf(to, sizeof(to), "n%u", (lead->at + 1) % 3);
    ck_assert_int_eq(cluster_transfer(lead->c, "nobody", 5), ERR_MISS);
    ck_assert_int_eq(cluster_transfer(sim->nodes[(lead->at + 2) % 3].c, to, 5),
                     ERR_WRONG_NODE);
    ck_assert_int_eq(cluster_transfer(lead->c, to, 5), OK);
    run(3000);
    ck_assert_uint_eq(sim->answers, answers + 1);
    ck_assert_int_eq(sim->answer.err, OK);
    ck_assert_uint_eq(csim_leader(sim)->at, (lead->at + 1) % 3);
}
END_TEST

/* ---- Losses ---- */

START_TEST(a_dead_node_is_down_in_time_and_up_again_when_it_is_back)
{
    uint64_t gone, at = 0;

    formed(3, 3, 0);
    gone = sim->now_us;
    csim_crash(sim, &sim->nodes[5], true);
    while (!at && sim->now_us < gone + 10000000) {
        run(50);
        if (member(5)->state == NODE_DOWN)
            at = sim->now_us - gone;
    }
    ck_assert_uint_ge(at, 2500000);
    ck_assert_uint_le(at, 4000000);
    ck_assert_uint_gt(homes(index_of(5)), 0); /* it comes back warm */
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        ck_assert_uint_ne(view_serving(lead_view(), i), index_of(5));
    csim_boot(sim, &sim->nodes[5]);
    run(2000);
    ck_assert_int_eq(member(5)->state, NODE_UP);
    ck_assert_uint_eq(member(5)->incarnation, 2);
}
END_TEST

START_TEST(who_is_away_too_long_is_removed_and_its_slots_move)
{
    uint16_t old;

    formed(3, 3, 6000);
    old = index_of(5);
    csim_crash(sim, &sim->nodes[5], true);
    run(14000);
    ck_assert_ptr_null(member(5));
    ck_assert_uint_eq(homes(old), 0);
    ck_assert_int_eq(lead_view()->nodes[old].state, NODE_REMOVED);
    csim_boot(sim, &sim->nodes[5]);
    run(4000);
    ck_assert_ptr_nonnull(member(5));
    ck_assert_uint_ne(index_of(5), old);
    ck_assert_int_eq(member(5)->state, NODE_UP);
}
END_TEST

START_TEST(a_drained_node_loses_its_slots_and_may_be_removed)
{
    uint16_t index;

    formed(3, 3, 0);
    index = index_of(5);
    ck_assert_int_eq(set_state(4, 5, NODE_REMOVED), ERR_DENIED);
    ck_assert_int_eq(set_state(4, 5, NODE_DRAINING), OK);
    run(30000);
    ck_assert_uint_eq(homes(index), 0);
    ck_assert_int_eq(set_state(4, 5, NODE_REMOVED), OK);
    run(2000);
    ck_assert_int_eq(phase(5), CLUSTER_EXPELLED);
    run(20000);
    ck_assert_ptr_null(member(5)); /* it does not come back by itself */
}
END_TEST

START_TEST(a_new_leader_takes_over_and_marks_nobody_down_but_the_old_one)
{
    struct csim_node *old;

    formed(5, 5, 0);
    old = csim_leader(sim);
    csim_crash(sim, old, true);
    run(3000);
    ck_assert_ptr_nonnull(csim_leader(sim));
    ck_assert_ptr_ne(csim_leader(sim), old);
    run(6000);
    for (uint32_t i = 0; i < 10; i++)
        ck_assert_int_eq(member(i)->state,
                         i == old->at ? NODE_DOWN : NODE_UP);
}
END_TEST

START_TEST(a_paused_leader_marks_nobody_down_when_it_wakes)
{
    formed(1, 6, 0); /* the only voter: it leads before and after */
    csim_pause(sim, &sim->nodes[0], 20000000);
    run(21000);
    ck_assert_int_eq(phase(3), CLUSTER_MEMBER);
    for (uint32_t k = 0; k < 100; k++) {
        run(50);
        for (uint32_t i = 0; i < 7; i++)
            ck_assert_int_eq(member(i)->state, NODE_UP);
    }
}
END_TEST

START_TEST(a_leader_that_is_cut_off_marks_nobody_down)
{
    formed(1, 6, 0);
    for (uint32_t i = 1; i < 7; i++)
        sim->cut[i * sim->node_n] = true; /* it hears nobody */
    run(7000);
    for (uint32_t i = 0; i < 7; i++)
        ck_assert_int_eq(member(i)->state, NODE_UP);
    csim_heal(sim);
    run(5000);
    ck_assert_ptr_null(csim_unsettled(sim));
}
END_TEST

START_TEST(recover_begins_a_generation_that_the_others_follow)
{
    struct cmd cmd = {.kind = CMD_FLUSH, .name = "chat"};

    formed(3, 2, 0);
    ck_assert_int_eq(ask(4, &cmd).err, OK);
    for (uint32_t i = 0; i < 3; i++)
        csim_crash(sim, &sim->nodes[i], true);
    run(1000);
    sim->nodes[1].recover = true;
    csim_boot(sim, &sim->nodes[1]);
    sim->nodes[1].recover = false;
    run(8000);
    ck_assert_ptr_eq(csim_leader(sim), &sim->nodes[1]);
    ck_assert_uint_eq(lead_view()->generation, 2);
    ck_assert_uint_eq(sim->nodes[4].view->v.generation, 2);
    ck_assert_uint_eq(view_flushes(lead_view(), "chat"), 1);
    /* The others of the old majority come back: watchers now. */
    csim_boot(sim, &sim->nodes[0]);
    csim_boot(sim, &sim->nodes[2]);
    run(8000);
    ck_assert_ptr_eq(csim_leader(sim), &sim->nodes[1]);
    for (uint32_t i = 0; i < 5; i++) {
        ck_assert_uint_eq(sim->nodes[i].view->v.generation, 2);
        ck_assert_int_eq(phase(i), CLUSTER_MEMBER);
        ck_assert_int_eq(cluster_state(sim->nodes[i].c) != NULL, i == 1);
    }
    ck_assert_int_eq(ask(0, &cmd).err, OK);
    /* With an empty log it may vote again. */
    csim_crash(sim, &sim->nodes[0], true);
    raft_mem_wipe(&sim->raft, 0);
    sim->nodes[0].log_generation = 0;
    csim_boot(sim, &sim->nodes[0]);
    run(3000);
    ck_assert_int_eq(cluster_voter_set(sim->nodes[1].c, "nobody", true, 7),
                     ERR_MISS);
    ck_assert_int_eq(cluster_voter_set(sim->nodes[1].c, "n0", true, 7), OK);
    run(8000);
    ck_assert_int_eq(sim->answer.err, OK);
    ck_assert(member(0)->voter);
    ck_assert_ptr_nonnull(cluster_state(sim->nodes[0].c));
    ck_assert_uint_eq(cluster_state(sim->nodes[0].c)->view.generation, 2);
    ck_assert_int_eq(ask(0, &cmd).err, OK);
}
END_TEST

/* ---- Refused ---- */

static void cfg_of(struct cluster_cfg *cfg, const char *name)
{
    *cfg = (struct cluster_cfg){.id = "c", .provider = "raft", .voter_n = 3};
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(cfg->voters[i].name, sizeof(cfg->voters[i].name), "v%u", i);
        snprintf(cfg->voters[i].peer, sizeof(cfg->voters[i].peer), "v%u:1", i);
    }
    snprintf(cfg->self.name, sizeof(cfg->self.name), "%s", name);
    snprintf(cfg->self.peer, sizeof(cfg->self.peer), "%s:1", name);
    cfg->self.uuid = 7;
    cfg->self.incarnation = 1;
    cfg->self.lane_n = 1;
    cfg->self.weight = 1;
}

static struct cluster *opened(const struct cluster_cfg *cfg)
{
    struct cluster *c;
    struct errmsg m;

    ck_assert_int_eq(cluster_open(cfg, 1000, &c, &m), OK);
    return c;
}

static void refused(const struct cluster_cfg *cfg, const char *words)
{
    struct cluster *c;
    struct errmsg m;

    ck_assert_int_eq(cluster_open(cfg, 1000, &c, &m), ERR_CONFIG);
    ck_assert_msg(strstr(m.text, words), "%s", m.text);
}

START_TEST(a_configuration_that_cannot_work_is_refused_by_its_key)
{
    struct cluster_cfg cfg;
    struct view other;

    cfg_of(&cfg, "w");
    cfg.voter_n = 2;
    refused(&cfg, "cluster.voters: 2 is an even number");
    cfg.voter_n = 0;
    refused(&cfg, "cluster.voters: 0 are listed");
    cfg_of(&cfg, "w");
    cfg.voters[2] = cfg.voters[0];
    refused(&cfg, "cluster.voters: v0 at v0:1 is listed twice");
    cfg_of(&cfg, "w");
    snprintf(cfg.voters[2].peer, sizeof(cfg.voters[2].peer), "v1:1");
    refused(&cfg, "listed twice");
    cfg_of(&cfg, "w");
    cfg.voter = true;
    refused(&cfg, "cluster.voters: this node, w,");
    cfg_of(&cfg, "v1");
    refused(&cfg, "cluster.voters: v1 is listed");
    cfg_of(&cfg, "w");
    cfg.provider = "paxos";
    refused(&cfg, "cluster.provider");
    cfg.provider = "static";
    refused(&cfg, "cluster.members");
    cfg_of(&cfg, "w");
    cfg.id[0] = '\0';
    refused(&cfg, "cluster.id");
    cfg_of(&cfg, "");
    refused(&cfg, "node.name");
    cfg_of(&cfg, "w");
    ck_assert_int_eq(view_init(&other), OK);
    other.cluster = 1;
    other.epoch = 4;
    cfg.last = &other;
    refused(&cfg, "cluster.id: this node's state_dir");
    view_fini(&other);
}
END_TEST

/* A view in which w has been a member, at its second start. */
static void known(struct cluster_cfg *cfg, struct view *v, const char *me)
{
    struct cluster *c;

    cfg_of(cfg, "w");
    c = opened(cfg);
    ck_assert_int_eq(view_init(v), OK);
    ck_assert_int_eq(view_room(v, 1), OK);
    v->cluster = cluster_view(c)->cluster;
    v->generation = 3;
    v->epoch = 50;
    v->node_n = 1;
    v->nodes[0] = cfg->self;
    v->nodes[0].incarnation = 2;
    v->nodes[0].state = NODE_UP;
    cluster_close(c, NULL, NULL);
    cfg_of(cfg, me);
    cfg->last = v;
}

static enum err says(const struct cluster *to, const struct cluster_cfg *who,
                     struct errmsg *m)
{
    struct cluster *c = opened(who);
    struct bytes b = {0};
    struct node n;
    enum err e;

    cluster_hello(c, &b);
    e = cluster_hello_check(to, b.p, b.len, &n, m);
    if (e == OK)
        ck_assert_str_eq(n.name, who->self.name);
    bytes_fini(&b);
    cluster_close(c, NULL, NULL);
    return e;
}

START_TEST(a_hello_that_does_not_belong_here_is_refused_with_the_reason)
{
    struct cluster_cfg cfg, who;
    struct cluster *c;
    struct errmsg m;
    struct view v;

    known(&cfg, &v, "x");
    c = opened(&cfg);
    cfg_of(&who, "w");
    who.self.incarnation = 3;
    ck_assert_int_eq(says(c, &who, &m), OK);
    who.self.incarnation = 1;
    ck_assert_int_eq(says(c, &who, &m), ERR_DENIED);
    ck_assert(strstr(m.text, "rolled back"));
    who.self.incarnation = 3;
    who.self.uuid = 8;
    ck_assert_int_eq(says(c, &who, &m), ERR_DENIED);
    ck_assert(strstr(m.text, "another machine"));
    cfg_of(&who, "x");
    ck_assert_int_eq(says(c, &who, &m), ERR_DENIED);
    ck_assert(strstr(m.text, "own name"));
    cfg_of(&who, "y");
    snprintf(who.id, sizeof(who.id), "d");
    ck_assert_int_eq(says(c, &who, &m), ERR_DENIED);
    ck_assert(strstr(m.text, "another cluster"));
    cfg_of(&who, "y");
    snprintf(who.voters[1].name, sizeof(who.voters[1].name), "q");
    ck_assert_int_eq(says(c, &who, &m), ERR_DENIED);
    ck_assert(strstr(m.text, "cluster.voters"));
    cfg_of(&who, "y");
    who.self.lane_n = 0;
    ck_assert_int_eq(says(c, &who, &m), ERR_BAD_REQUEST);
    cluster_close(c, NULL, NULL);
    view_fini(&v);
}
END_TEST

START_TEST(another_version_and_garbage_are_refused)
{
    struct cluster_cfg cfg;
    struct cluster *c;
    Peer__Hello h = PEER__HELLO__INIT;
    struct bytes b = {0};
    struct errmsg m;
    struct node n;

    cfg_of(&cfg, "x");
    c = opened(&cfg);
    h.version = 2;
    ck_assert_int_eq(peer_msg_pack(PEER_HELLO, &h, &b), OK);
    ck_assert_int_eq(cluster_hello_check(c, b.p, b.len, &n, &m),
                     ERR_BAD_VERSION);
    for (size_t i = 0; i < b.len; i++)
        ck_assert_int_ne(cluster_hello_check(c, b.p, i, &n, &m), OK);
    ck_assert_int_eq(cluster_hello_check(c, (const uint8_t *)"\xff\xff", 2, &n,
                                         &m),
                     ERR_BAD_REQUEST);
    bytes_fini(&b);
    cluster_close(c, NULL, NULL);
}
END_TEST

/* ---- Messages by hand ---- */

static void up(struct cluster *c, uint64_t link, const char *name)
{
    struct cluster_cfg cfg;
    struct cluster_event ev = {
        .kind = CLUSTER_LINK_UP, .link = link, .hello = &cfg.self};

    cfg_of(&cfg, name);
    cfg.self.uuid = 100 + link;
    cluster_step(c, &ev, 1000);
}

static bool next(struct cluster *c, enum cluster_action_kind kind,
                 struct cluster_action *out)
{
    while (cluster_next(c, out))
        if (out->kind == kind)
            return true;
    return false;
}

static void tell(struct cluster *c, uint64_t link, uint16_t kind,
                 const void *pb)
{
    struct bytes b = {0};
    struct cluster_event ev = {
        .kind = CLUSTER_MESSAGE, .link = link, .msg = kind};

    ck_assert_int_eq(peer_msg_pack(kind, pb, &b), OK);
    ev.p = b.p;
    ev.n = b.len;
    cluster_step(c, &ev, 2000);
    bytes_fini(&b);
}

static void push(struct cluster *c, const struct view *v)
{
    Peer__ViewPush m = PEER__VIEW_PUSH__INIT;
    struct bytes b = {0};

    view_encode(v, &b);
    m.generation = v->generation;
    m.epoch = v->epoch;
    m.view.data = b.p;
    m.view.len = b.len;
    tell(c, 1, PEER_VIEW_PUSH, &m);
    bytes_fini(&b);
}

START_TEST(an_older_view_or_another_clusters_is_never_taken)
{
    struct cluster_cfg cfg;
    struct cluster_action a;
    struct cluster *c;
    struct view v;

    known(&cfg, &v, "x");
    c = opened(&cfg);
    up(c, 1, "v0");
    ck_assert(next(c, CLUSTER_PUBLISH, &a)); /* the last one, from disk */
    ck_assert_uint_eq(a.view->epoch, 50);
    v.epoch = 49;
    push(c, &v);
    v.generation = 2;
    v.epoch = 90;
    push(c, &v);
    v.generation = 3;
    v.epoch = 51;
    v.cluster++;
    push(c, &v);
    ck_assert(!next(c, CLUSTER_PUBLISH, &a));
    v.cluster--;
    push(c, &v);
    ck_assert(next(c, CLUSTER_PUBLISH, &a));
    ck_assert_uint_eq(a.view->epoch, 51);
    v.generation = 4;
    v.epoch = 7; /* a newer generation counts anew */
    push(c, &v);
    ck_assert(next(c, CLUSTER_PUBLISH, &a));
    ck_assert_uint_eq(cluster_view(c)->generation, 4);
    cluster_close(c, NULL, NULL);
    view_fini(&v);
}
END_TEST

START_TEST(a_malformed_message_ends_its_link)
{
    struct cluster_cfg cfg;
    struct cluster_action a;
    struct cluster *c;
    struct cluster_event ev = {.kind = CLUSTER_MESSAGE, .link = 1};

    cfg_of(&cfg, "x");
    c = opened(&cfg);
    up(c, 1, "v0");
    for (uint16_t kind = 0; kind <= PEER_KINDS; kind++) {
        ev.msg = kind;
        ev.p = (const uint8_t *)"\xff\xff\xff";
        ev.n = 3;
        cluster_step(c, &ev, 1000);
        ck_assert_int_eq(next(c, CLUSTER_HANG_UP, &a), kind != PEER_RAFT);
    }
    ev.link = 99; /* a link that is gone */
    cluster_step(c, &ev, 1000);
    ck_assert(!next(c, CLUSTER_HANG_UP, &a));
    cluster_close(c, NULL, NULL);
}
END_TEST

START_TEST(a_node_follows_the_name_of_the_leader)
{
    struct cluster_event tick = {.kind = CLUSTER_TICK};
    Peer__BeatReply r = PEER__BEAT_REPLY__INIT;
    struct cluster_cfg cfg;
    struct cluster_action a;
    struct cluster *c;

    cfg_of(&cfg, "x");
    c = opened(&cfg);
    cluster_step(c, &tick, 2000);
    ck_assert(next(c, CLUSTER_DIAL, &a)); /* a voter */
    up(c, 1, "v0");
    ck_assert(next(c, CLUSTER_SEND, &a));
    ck_assert_int_eq(a.msg, PEER_BEAT);
    r.leader = (char[]){"v2"};
    r.leader_at = (char[]){"v2:1"};
    r.generation = 1;
    tell(c, 1, PEER_BEAT_REPLY, &r);
    ck_assert(next(c, CLUSTER_DIAL, &a));
    ck_assert_str_eq(a.peer, "v2:1");
    cluster_close(c, NULL, NULL);
}
END_TEST

/* ---- static ---- */

static struct cluster *fixed[3];

static void static_open(int i)
{
    static struct node members[3];
    struct cluster_cfg cfg;

    for (int k = 0; k < 3; k++) { /* each lists them in another order */
        char name[8];

        snprintf(name, sizeof(name), "s%d", (k + i) % 3);
        cfg_of(&cfg, name);
        members[k] = cfg.self;
    }
    cfg_of(&cfg, (char[]){'s', (char)('0' + i), 0});
    cfg.provider = "static";
    cfg.voter_n = 0;
    cfg.members = members;
    cfg.member_n = 3;
    cfg.self.uuid = 40 + (uint64_t)i;
    fixed[i] = opened(&cfg);
}

/* Link 10 * (i + 1) + k is i's to k. What is said goes to the other end. */
static void static_link(int i, int k)
{
    struct cluster_cfg cfg;
    struct cluster_event ev = {.kind = CLUSTER_LINK_UP,
                               .link = (uint64_t)(10 * (i + 1) + k),
                               .hello = &cfg.self};

    cfg_of(&cfg, (char[]){'s', (char)('0' + k), 0});
    cfg.self.uuid = 40 + (uint64_t)k;
    cluster_step(fixed[i], &ev, 1000);
}

static void static_run(uint64_t from_ms, uint64_t to_ms, int dead)
{
    struct cluster_event tick = {.kind = CLUSTER_TICK};
    struct cluster_action a;

    for (uint64_t t = from_ms; t < to_ms; t += 50) {
        for (int i = 0; i < 3; i++) {
            if (i == dead)
                continue;
            cluster_step(fixed[i], &tick, t);
            while (cluster_next(fixed[i], &a)) {
                int k = (int)(a.link % 10);
                struct cluster_event ev = {
                    .kind = CLUSTER_MESSAGE,
                    .link = (uint64_t)(10 * (k + 1) + i),
                    .msg = a.msg,
                    .p = a.p,
                    .n = a.n,
                };

                if (a.kind == CLUSTER_SEND && k != dead)
                    cluster_step(fixed[k], &ev, t);
            }
        }
    }
}

START_TEST(a_static_list_makes_the_same_view_everywhere)
{
    for (int i = 0; i < 3; i++)
        static_open(i);
    ck_assert_uint_eq(cluster_view(fixed[0])->epoch, 1);
    for (int i = 1; i < 3; i++)
        ck_assert_uint_eq(view_digest(cluster_view(fixed[0])),
                          view_digest(cluster_view(fixed[i])));
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        ck_assert_uint_lt(view_serving(cluster_view(fixed[0]), i), 3);
    for (int i = 0; i < 3; i++)
        cluster_close(fixed[i], NULL, NULL);
}
END_TEST

START_TEST(a_static_node_skips_who_is_silent_and_moves_nothing)
{
    static struct slot before[WIRE_SLOTS];
    const struct view *v;

    for (int i = 0; i < 3; i++)
        static_open(i);
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++)
            if (i != k)
                static_link(i, k);
    static_run(1000, 10000, -1);
    v = cluster_view(fixed[0]);
    ck_assert_uint_eq(v->epoch, 1);
    memcpy(before, v->slots, sizeof(before));
    static_run(10000, 15000, 1);
    v = cluster_view(fixed[0]);
    ck_assert_int_eq(v->nodes[1].state, NODE_DOWN);
    ck_assert_int_eq(v->nodes[2].state, NODE_UP);
    ck_assert_uint_eq(v->epoch, 2);
    ck_assert_mem_eq(before, v->slots, sizeof(before));
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        ck_assert_uint_ne(view_serving(v, i), 1);
    static_run(15000, 18000, -1);
    ck_assert_int_eq(cluster_view(fixed[0])->nodes[1].state, NODE_UP);
    for (int i = 0; i < 3; i++)
        cluster_close(fixed[i], NULL, NULL);
}
END_TEST

START_TEST(a_static_cluster_takes_no_commands)
{
    struct cmd cmd = {.kind = CMD_FLUSH, .name = "x"};
    struct cluster_event ev = {
        .kind = CLUSTER_PROPOSE, .cmd = &cmd, .ticket = 3};
    struct cluster_action a;

    static_open(0);
    cluster_step(fixed[0], &ev, 1000);
    ck_assert(next(fixed[0], CLUSTER_ANSWERED, &a));
    ck_assert_uint_eq(a.ticket, 3);
    ck_assert_int_eq(a.answer.err, ERR_UNSUPPORTED);
    ck_assert(strstr(a.answer.msg.text, "cluster.members"));
    cluster_close(fixed[0], NULL, NULL);
}
END_TEST

/* ---- Load, memory ---- */

START_TEST(load_and_counts_of_experts_reach_the_leader)
{
    struct expert_count e[] = {
        {9, 1, 3, 10}, {9, 1, 5, 1}, {9, 1, 3, 5}, {8, 0, 0, 2}};
    struct cluster_load l = {.ops = 1234,
                             .hot = {{.slot = 5, .ops = 7}},
                             .hot_n = 1,
                             .experts = e,
                             .expert_n = 4};
    struct cluster_event ev = {.kind = CLUSTER_LOAD, .load = &l};
    struct expert_count out[8];
    struct cluster_load got;
    uint64_t age;

    formed(3, 2, 0);
    csim_step(sim, &sim->nodes[4], &ev);
    run(1500);
    ck_assert(cluster_load_of(csim_leader(sim)->c, index_of(4), &got, &age));
    ck_assert_uint_eq(got.ops, 1234);
    ck_assert_uint_eq(got.hot[0].slot, 5);
    ck_assert_uint_le(age, 700);
    ck_assert(!cluster_load_of(sim->nodes[4].c, index_of(4), &got, &age));
    ck_assert_uint_eq(cluster_experts_take(csim_leader(sim)->c, out, 8), 3);
    ck_assert_uint_eq(out[0].model, 8);
    ck_assert_uint_eq(out[1].expert, 3);
    ck_assert_uint_eq(out[1].count, 15);
    ck_assert_uint_eq(cluster_experts_take(csim_leader(sim)->c, out, 8), 0);
}
END_TEST

START_TEST(opening_survives_every_failed_allocation)
{
    struct cluster_cfg cfg;
    struct errmsg m;

    for (uint32_t i = 1;; i++) {
        struct cluster *c;
        enum err e;
        bool hit;

        cfg_of(&cfg, "x");
        fault_arm(i);
        e = cluster_open(&cfg, 1000, &c, &m);
        hit = fault_hit();
        fault_arm(0);
        ck_assert_int_eq(e, hit ? ERR_NO_MEMORY : OK);
        if (!hit) {
            cluster_close(c, NULL, NULL);
            break;
        }
    }
}
END_TEST

/* The nth allocation of a running cluster fails, wherever that is: nothing
 * breaks, and the cluster is in order soon after. */
START_TEST(a_running_cluster_survives_failed_allocations)
{
    formed(3, 2, 0);
    for (uint32_t i = 1; i < 120; i++) {
        struct cmd cmd = {.kind = CMD_FLUSH, .name = "x"};
        struct cluster_event ev = {
            .kind = CLUSTER_PROPOSE, .cmd = &cmd, .ticket = i};

        fault_arm(i);
        csim_step(sim, &sim->nodes[i % 5], &ev);
        run(300);
        fault_arm(0);
    }
    /* Who ended because libraft had no memory is started again. */
    csim_heal(sim);
    run(8000);
    ck_assert_msg(!csim_unsettled(sim), "%s", csim_unsettled(sim));
    ck_assert_ptr_null(csim_wrong(sim));
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("cluster");
    TCase *t = tcase_create("cluster");

    tcase_add_checked_fixture(t, NULL, teardown);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, voters_and_watchers_become_one_cluster);
    tcase_add_test(t, one_voter_alone_is_a_cluster);
    tcase_add_test(t, who_joins_later_gets_its_share_by_moves);
    tcase_add_test(t, a_command_of_a_watcher_is_answered);
    tcase_add_test(t, the_same_command_said_twice_counts_once);
    tcase_add_test(t, a_refusal_reaches_who_asked_with_its_words);
    tcase_add_test(
        t, without_a_majority_commands_end_with_no_quorum_and_reads_go_on);
    tcase_add_test(t, leadership_can_be_handed_over);
    tcase_add_test(
        t, a_dead_node_is_down_in_time_and_up_again_when_it_is_back);
    tcase_add_test(t, who_is_away_too_long_is_removed_and_its_slots_move);
    tcase_add_test(t, a_drained_node_loses_its_slots_and_may_be_removed);
    tcase_add_test(
        t, a_new_leader_takes_over_and_marks_nobody_down_but_the_old_one);
    tcase_add_test(t, a_paused_leader_marks_nobody_down_when_it_wakes);
    tcase_add_test(t, a_leader_that_is_cut_off_marks_nobody_down);
    tcase_add_test(t, recover_begins_a_generation_that_the_others_follow);
    tcase_add_test(t, a_configuration_that_cannot_work_is_refused_by_its_key);
    tcase_add_test(
        t, a_hello_that_does_not_belong_here_is_refused_with_the_reason);
    tcase_add_test(t, another_version_and_garbage_are_refused);
    tcase_add_test(t, an_older_view_or_another_clusters_is_never_taken);
    tcase_add_test(t, a_malformed_message_ends_its_link);
    tcase_add_test(t, a_node_follows_the_name_of_the_leader);
    tcase_add_test(t, a_static_list_makes_the_same_view_everywhere);
    tcase_add_test(t, a_static_node_skips_who_is_silent_and_moves_nothing);
    tcase_add_test(t, a_static_cluster_takes_no_commands);
    tcase_add_test(t, load_and_counts_of_experts_reach_the_leader);
    tcase_add_test(t, opening_survives_every_failed_allocation);
    tcase_add_test(t, a_running_cluster_survives_failed_allocations);
    suite_add_tcase(s, t);
    return s;
}
