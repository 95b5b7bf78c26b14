/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server cluster rpc store base proto
 *
 * A node of a cluster answers single operations: what it has, what others have
 * by its view, the view itself, and what it asks of its part in the cluster. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"
#include "base/log.h"
#include "lib/node.h"
#include "server/owner.h"

enum { SELF = 1, OTHER = 2, THIRD = 0, EPOCH = 7 };

static struct test_node n;
static struct node_peer *p;
static uint8_t *buf[NODE_KEYS];
static struct view view;
static struct ctl_call *asked;
static char flushed[64];

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static void member(uint32_t i, const char *name, enum node_state state)
{
    struct node *m = &view.nodes[i];

    snprintf(m->name, sizeof(m->name), "%s", name);
    snprintf(m->peer, sizeof(m->peer), "%s:7441", name);
    snprintf(m->shm, sizeof(m->shm), "shm:/run/%s.sock", name);
    snprintf(m->ucx, sizeof(m->ucx), "ucx:%s:7430", name);
    m->state = (uint8_t)state;
    m->lane_n = 2;
    m->weight = 100;
    m->host = 5;
}

/* All slots are SELF's, then OTHER's. */
static void view_make(void)
{
    ck_assert_int_eq(view_init(&view), OK);
    ck_assert_int_eq(view_room(&view, 3), OK);
    view.node_n = 3;
    view.epoch = EPOCH;
    view.generation = 1;
    view.cluster = 99;
    member(THIRD, "third", NODE_UP);
    member(SELF, "self", NODE_UP);
    member(OTHER, "other", NODE_UP);
    for (uint32_t s = 0; s < WIRE_SLOTS; s++)
        view.slots[s] = (struct slot){
            .owner = {SELF, OTHER, NODE_NONE}, .from = NODE_NONE,
            .to = NODE_NONE};
}

static void view_take(void)
{
    n.lane.view = &view;
    n.lane.epoch = view.epoch;
    n.lane.self_node = SELF;
}

static void up(void)
{
    log_sink_set(quiet, NULL);
    node_config(&n, MIB(16));
    node_start(&n);
    p = node_connect(&n, true);
    ck_assert_ptr_nonnull(p);
    for (uint32_t i = 0; i < NODE_KEYS; i++) {
        buf[i] = calloc(1, NODE_BUF);
        ck_assert_ptr_nonnull(buf[i]);
        p->bytes[i] = buf[i];
    }
    node_open(&n, p, "lru");
    ck_assert_uint_ne(n.ns, 0);
    view_make();
    asked = NULL;
    flushed[0] = '\0';
}

static void down(void)
{
    n.lane.view = NULL;
    node_stop(&n);
    node_free_peer(p);
    for (uint32_t i = 0; i < NODE_KEYS; i++)
        free(buf[i]);
    view_fini(&view);
}

static uint32_t slot_of(const char *key)
{
    struct store_key k = {.key = (const uint8_t *)key,
                          .key_len = (uint16_t)strlen(key)};

    return owner_slot(&n.lane.ns[n.ns], &k);
}

static struct slot *slot(const char *key)
{
    return &view.slots[slot_of(key)];
}

static int one(enum op_id op, const char *key, uint32_t flags, uint64_t epoch)
{
    struct node_batch b;

    batch_new(&b, &n, op);
    b.head.flags = flags;
    b.head.epoch = epoch;
    batch_key(&b, key, (struct wire_key){.len = 100}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.frame.status, OK);
    return n.reply.r[0].status;
}

/* ---- Owners -------------------------------------------------------------- */

START_TEST(without_a_view_nobody_is_sent_elsewhere)
{
    ck_assert_int_eq(one(OP_PUT, "k", 0, 0), OK);
    ck_assert_int_eq(one(OP_GET, "k", 0, 0), OK);
    ck_assert_int_eq(one(OP_GET, "none", 0, 0), ERR_MISS);
    ck_assert_uint_eq(n.reply.head.epoch, 0);
}
END_TEST

START_TEST(until_the_first_view_blocks_wait_and_questions_do_not)
{
    Pikv__StatRequest m = PIKV__STAT_REQUEST__INIT;

    n.lane.viewless = true;
    ck_assert_int_eq(node_get(p, "k", 100), ERR_BUSY);
    ck_assert_int_eq(node_put(p, "k", 100), ERR_BUSY);
    node_msg(p, OP_STAT, &m);
    ck_assert_int_eq(n.reply.frame.status, OK);
    view_take();
    n.lane.viewless = false;
    ck_assert_int_eq(node_put(p, "k", 100), OK);
}
END_TEST

START_TEST(a_hit_is_served_whoever_owns_its_slot)
{
    ck_assert_int_eq(one(OP_PUT, "k", 0, 0), OK);
    view_take();
    slot("k")->owner[0] = OTHER;
    slot("k")->owner[1] = NODE_NONE;
    ck_assert_int_eq(one(OP_GET, "k", 0, 0), OK);
    ck_assert_int_eq(one(OP_TOUCH, "k", 0, 0), OK);
    ck_assert_uint_eq(n.reply.head.epoch, EPOCH);
    ck_assert_uint_eq(n.lane.metrics.redirects, 0);
}
END_TEST

START_TEST(a_miss_of_anothers_slot_says_whose_it_is)
{
    static const enum op_id ops[] = {OP_GET, OP_PIN, OP_TOUCH, OP_PREFETCH};

    view_take();
    slot("k")->owner[0] = OTHER;
    slot("k")->owner[1] = SELF;
    for (uint32_t i = 0; i < countof(ops); i++) {
        ck_assert_int_eq(one(ops[i], "k", 0, 0), ERR_WRONG_NODE);
        ck_assert_uint_eq(n.reply.r[0].owner, OTHER);
    }
    ck_assert_uint_eq(n.lane.metrics.redirects, countof(ops));
    ck_assert_int_eq(one(OP_GET, "mine", 0, 0), ERR_MISS);
}
END_TEST

START_TEST(lookup_says_of_each_cell_whose_it_is)
{
    struct node_batch b;

    ck_assert_int_eq(one(OP_PUT, "here", 0, 0), OK);
    view_take();
    slot("there")->owner[0] = OTHER;
    batch_new(&b, &n, OP_LOOKUP);
    batch_column(&b, RULE_ALL, 0);
    batch_key(&b, "here", (struct wire_key){0}, NULL, NULL);
    batch_key(&b, "there", (struct wire_key){0}, NULL, NULL);
    batch_key(&b, "nowhere", (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert_int_eq(n.reply.r[0].status, OK);
    ck_assert_int_eq(n.reply.r[1].status, ERR_WRONG_NODE);
    ck_assert_uint_eq(n.reply.r[1].owner, OTHER);
    ck_assert_uint_eq(n.reply.r[1].state, STATE_MISS);
    ck_assert_int_eq(n.reply.r[2].status, ERR_MISS);
    ck_assert_uint_eq(n.reply.head.prefix, 1);
}
END_TEST

START_TEST(a_put_goes_to_owners_only)
{
    view_take();
    slot("k")->owner[0] = OTHER;
    slot("k")->owner[1] = NODE_NONE;
    ck_assert_int_eq(one(OP_PUT, "k", 0, 0), ERR_WRONG_NODE);
    ck_assert_uint_eq(n.reply.r[0].owner, OTHER);
    ck_assert_uint_eq(n.skips, 1);
    ck_assert_int_eq(one(OP_PUT_BEGIN, "k", 0, 0), ERR_WRONG_NODE);
    ck_assert_uint_eq(n.reply.r[0].owner, OTHER);
    slot("k")->owner[1] = SELF; /* a replica of it */
    ck_assert_int_eq(one(OP_PUT, "k", 0, 0), OK);
}
END_TEST

START_TEST(who_stands_in_for_a_node_that_is_down_serves)
{
    view_take();
    slot("k")->owner[0] = OTHER;
    slot("k")->owner[1] = SELF;
    view.nodes[OTHER].state = NODE_DOWN;
    ck_assert_int_eq(one(OP_PUT, "k", 0, 0), OK);
    ck_assert_int_eq(one(OP_GET, "k", 0, 0), OK);
    slot("gone")->owner[0] = OTHER;
    slot("gone")->owner[1] = SELF;
    ck_assert_int_eq(one(OP_GET, "gone", 0, 0), ERR_MISS);
}
END_TEST

START_TEST(a_slot_that_nobody_serves_is_served_here)
{
    view_take();
    slot("k")->owner[0] = OTHER;
    slot("k")->owner[1] = NODE_NONE;
    view.nodes[OTHER].state = NODE_DOWN;
    ck_assert_int_eq(one(OP_GET, "k", 0, 0), ERR_MISS);
    ck_assert_int_eq(one(OP_PUT, "k", 0, 0), OK);
}
END_TEST

START_TEST(here_means_here)
{
    view_take();
    slot("k")->owner[0] = OTHER;
    slot("k")->owner[1] = NODE_NONE;
    ck_assert_int_eq(one(OP_GET, "k", BATCH_HERE, 0), ERR_MISS);
}
END_TEST

START_TEST(who_knows_a_newer_view_is_believed)
{
    view_take();
    slot("k")->owner[0] = OTHER;
    slot("k")->owner[1] = NODE_NONE;
    ck_assert_int_eq(one(OP_PUT, "k", 0, EPOCH), ERR_WRONG_NODE);
    ck_assert_int_eq(one(OP_GET, "k", 0, EPOCH + 1), ERR_MISS);
    ck_assert_int_eq(one(OP_PUT, "k", 0, EPOCH + 1), OK);
}
END_TEST

START_TEST(a_drop_is_done_wherever_it_is_asked_for)
{
    ck_assert_int_eq(one(OP_PUT, "k", 0, 0), OK);
    view_take();
    slot("k")->owner[0] = OTHER;
    ck_assert_int_eq(one(OP_EVICT, "k", 0, EPOCH), OK);
    ck_assert_int_eq(one(OP_GET, "k", BATCH_HERE, 0), ERR_MISS);
}
END_TEST

START_TEST(a_slot_with_a_last_home_may_be_there)
{
    struct wire_batch head = {.ns = n.ns};
    struct store_key k = {.ns = n.ns, .key = (const uint8_t *)"k",
                          .key_len = 1};
    struct owner_at at;

    view_take();
    slot("k")->from = OTHER;
    ck_assert_int_eq(owner_of_miss(&n.lane, &head, &k, &at), OWNER_PULL);
    ck_assert_uint_eq(at.node, OTHER);
    ck_assert_uint_eq(at.slot, slot_of("k"));
    view.nodes[OTHER].state = NODE_DOWN;
    ck_assert_int_eq(owner_of_miss(&n.lane, &head, &k, &at), OWNER_MISS);
    view.nodes[OTHER].state = NODE_UP;
    head.flags = BATCH_HERE;
    ck_assert_int_eq(owner_of_miss(&n.lane, &head, &k, &at), OWNER_MISS);
    head.flags = 0;
    slot("k")->owner[0] = THIRD;
    ck_assert_int_eq(owner_of_miss(&n.lane, &head, &k, &at),
                     OWNER_ELSEWHERE);
    ck_assert_uint_eq(at.node, THIRD);
}
END_TEST

START_TEST(a_key_of_another_lane_is_this_nodes)
{
    char key[16];
    uint32_t i = 0;

    n.lane.lanes = 2;
    view_take();
    do
        snprintf(key, sizeof(key), "k%u", i++);
    while (slot_of(key) % 2 == 0);
    ck_assert_int_eq(one(OP_GET, key, 0, 0), ERR_WRONG_NODE);
    ck_assert_uint_eq(n.reply.r[0].owner, SELF);
    ck_assert_int_eq(one(OP_PUT, key, 0, 0), ERR_WRONG_NODE);
    ck_assert_uint_eq(n.reply.r[0].owner, SELF);
    n.lane.lanes = 1;
}
END_TEST

/* ---- VIEW ---------------------------------------------------------------- */

static uint8_t scratch[1 << 20];

static const Pikv__ViewReply *ask_view(const Pikv__ViewRequest *m)
{
    struct arena a;
    const Pikv__ViewReply *rep;

    node_msg(p, OP_VIEW, m);
    ck_assert_int_eq(n.reply.frame.status, OK);
    arena_init(&a, scratch, sizeof(scratch));
    rep = msg_unpack(&pikv__view_reply__descriptor, &a, n.reply.env,
                     n.reply.frame.env_len);
    ck_assert_ptr_nonnull(rep);
    return rep;
}

START_TEST(a_single_node_has_no_view)
{
    Pikv__ViewRequest m = PIKV__VIEW_REQUEST__INIT;
    const Pikv__ViewReply *rep = ask_view(&m);

    ck_assert_uint_eq(rep->epoch, 0);
    ck_assert_uint_eq(rep->n_nodes, 0);
    ck_assert_uint_eq(rep->slots.len, 0);
}
END_TEST

START_TEST(the_view_has_members_with_addresses_and_all_slots)
{
    Pikv__ViewRequest m = PIKV__VIEW_REQUEST__INIT;
    const Pikv__ViewReply *rep;
    struct slot row;
    uint16_t run;

    view.slots[10].owner[0] = OTHER;
    view.nodes[THIRD].state = NODE_REMOVED;
    view_take();
    rep = ask_view(&m);
    ck_assert_uint_eq(rep->epoch, EPOCH);
    ck_assert_uint_eq(rep->generation, 1);
    ck_assert_uint_eq(rep->cluster, 99);
    ck_assert_uint_eq(rep->self, SELF);
    ck_assert_uint_eq(rep->next_node, 0);
    ck_assert_uint_eq(rep->n_nodes, 2);
    ck_assert_uint_eq(rep->nodes[0]->index, SELF);
    ck_assert_str_eq(rep->nodes[0]->state, "up");
    ck_assert_uint_eq(rep->nodes[1]->index, OTHER);
    ck_assert_uint_eq(rep->nodes[1]->n_lanes, 2);
    ck_assert_str_eq(rep->nodes[1]->lanes[0]->shm, "shm:/run/other.sock");
    ck_assert_str_eq(rep->nodes[1]->lanes[1]->shm, "shm:/run/other.sock.1");
    ck_assert_str_eq(rep->nodes[1]->lanes[1]->ucx, "ucx:other:7431");
    ck_assert_uint_eq(rep->slots_bytes, 3 * 14);
    ck_assert_uint_eq(rep->slots.len, 3 * 14);
    memcpy(&run, rep->slots.data, sizeof(run));
    ck_assert_uint_eq(run, 9);
    memcpy(&run, rep->slots.data + 14, sizeof(run));
    memcpy(&row, rep->slots.data + 16, sizeof(row));
    ck_assert_uint_eq(run, 0);
    ck_assert_uint_eq(row.owner[0], OTHER);
}
END_TEST

START_TEST(who_has_the_newest_view_is_told_no_more)
{
    Pikv__ViewRequest m = PIKV__VIEW_REQUEST__INIT;
    const Pikv__ViewReply *rep;

    view_take();
    m.have_epoch = EPOCH;
    m.have_generation = 1;
    rep = ask_view(&m);
    ck_assert_uint_eq(rep->epoch, EPOCH);
    ck_assert_uint_eq(rep->n_nodes, 0);
    ck_assert_uint_eq(rep->slots.len, 0);
    m.have_generation = 2; /* of a cluster that is no more */
    ck_assert_uint_gt(ask_view(&m)->slots.len, 0);
}
END_TEST

/* Puts pieces together until all are there; returns how many there were. */
static uint32_t view_in_pieces(uint8_t *slots, uint64_t *len, uint32_t *nodes)
{
    Pikv__ViewRequest m = PIKV__VIEW_REQUEST__INIT;
    const Pikv__ViewReply *rep;
    uint32_t pieces = 0;

    *len = 0;
    *nodes = 0;
    do {
        m.offset = *len;
        rep = ask_view(&m);
        *nodes += (uint32_t)rep->n_nodes;
        if (rep->slots.len) {
            ck_assert_uint_eq(rep->offset, *len);
            memcpy(slots + *len, rep->slots.data, rep->slots.len);
        }
        *len += rep->slots.len;
        m.have_epoch = rep->epoch;
        m.have_generation = rep->generation;
        m.first_node = rep->next_node;
        ck_assert_uint_lt(++pieces, 100);
    } while (m.first_node || *len < rep->slots_bytes);
    return pieces;
}

START_TEST(a_view_that_fits_no_message_comes_in_pieces)
{
    static uint8_t slots[1 << 20];
    uint32_t nodes, at = 0;
    uint64_t len;

    for (uint32_t s = 0; s < WIRE_SLOTS; s++)
        view.slots[s].owner[0] = s % 2 ? SELF : OTHER;
    ck_assert_int_eq(view_room(&view, 600), OK);
    for (uint32_t i = view.node_n; i < 600; i++)
        member(i, "a-node-with-a-name-of-some-length", NODE_UP);
    view.node_n = 600;
    view_take();
    ck_assert_uint_gt(view_in_pieces(slots, &len, &nodes), 6);
    ck_assert_uint_eq(nodes, 600);
    ck_assert_uint_eq(len, WIRE_SLOTS * 14);
    for (uint64_t i = 0; i < len; i += 14, at++)
        ck_assert_mem_eq(slots + i + 2, &view.slots[at],
                         sizeof(struct slot));
}
END_TEST

START_TEST(a_view_that_changed_between_pieces_is_told_anew)
{
    Pikv__ViewRequest m = PIKV__VIEW_REQUEST__INIT;
    const Pikv__ViewReply *rep;

    view_take();
    m.have_epoch = EPOCH - 1;
    m.have_generation = 1;
    m.offset = 14;
    rep = ask_view(&m);
    ck_assert_uint_eq(rep->epoch, EPOCH);
    ck_assert_uint_eq(rep->offset, 0);
    ck_assert_uint_eq(rep->n_nodes, 3);
}
END_TEST

START_TEST(hello_says_the_epoch)
{
    Pikv__Hello m = PIKV__HELLO__INIT;
    const Pikv__HelloReply *rep;
    struct arena a;

    view_take();
    m.version = WIRE_VERSION;
    m.features = FEATURE_VIEW;
    node_msg(p, OP_HELLO, &m);
    arena_init(&a, scratch, sizeof(scratch));
    rep = msg_unpack(&pikv__hello_reply__descriptor, &a, n.reply.env,
                     n.reply.frame.env_len);
    ck_assert_ptr_nonnull(rep);
    ck_assert_uint_eq(rep->epoch, EPOCH);
    ck_assert_uint_eq(rep->features, FEATURE_VIEW);
}
END_TEST

/* ---- CLUSTER, FEEDBACK, flushes ------------------------------------------ */

static void on_ask(void *arg, struct ctl_call *call)
{
    (void)arg;
    asked = call;
}

static void on_flush(void *arg, const char *name, struct ctl_call *call)
{
    (void)arg;
    snprintf(flushed, sizeof(flushed), "%s", name);
    asked = call;
}

static uint64_t counted;
static enum err on_feedback(void *arg, const struct registry_ns *ns,
                            const Pikv__Feedback *m)
{
    (void)arg;
    ck_assert_str_eq(ns->name, "test");
    counted += m->experts[0]->counts[0];
    return OK;
}

static void join(void)
{
    n.control.cluster = (struct control_cluster){
        .ask = on_ask, .flush = on_flush, .feedback = on_feedback};
}

static const Pikv__ClusterReply *cluster_reply_of(void)
{
    const Pikv__ClusterReply *rep;
    struct arena a;

    ck_assert(n.reply.there);
    arena_init(&a, scratch, sizeof(scratch));
    rep = msg_unpack(&pikv__cluster_reply__descriptor, &a, n.reply.env,
                     n.reply.frame.env_len);
    ck_assert_ptr_nonnull(rep);
    return rep;
}

START_TEST(a_single_node_knows_no_cluster)
{
    Pikv__ClusterRequest m = PIKV__CLUSTER_REQUEST__INIT;

    node_msg(p, OP_CLUSTER, &m);
    ck_assert_int_eq(n.reply.frame.status, ERR_UNSUPPORTED);
    ck_assert_str_eq(cluster_reply_of()->error,
                     "a single node: cluster.enabled is false");
}
END_TEST

START_TEST(a_question_waits_for_its_answer)
{
    Pikv__ClusterRequest m = PIKV__CLUSTER_REQUEST__INIT;
    Pikv__ClusterReply rep;
    char text[] = "all well";

    join();
    node_msg(p, OP_CLUSTER, &m);
    ck_assert(!n.reply.there);
    ck_assert_ptr_nonnull(asked);
    pikv__cluster_reply__init(&rep);
    rep.text = text;
    asked->reply_n =
        (uint32_t)pikv__cluster_reply__pack(&rep, asked->reply);
    ck_assert_uint_lt(asked->reply_n, asked->reply_cap);
    control_answer(asked, OK);
    node_settle(&n);
    ck_assert_int_eq(n.reply.frame.status, OK);
    ck_assert_str_eq(cluster_reply_of()->text, "all well");
}
END_TEST

START_TEST(a_refusal_has_words)
{
    Pikv__ClusterRequest m = PIKV__CLUSTER_REQUEST__INIT;

    join();
    node_msg(p, OP_CLUSTER, &m);
    control_answer(asked, errmsg_set(&asked->msg, ERR_NO_QUORUM,
                                     "no leader for 5 s"));
    node_settle(&n);
    ck_assert_int_eq(n.reply.frame.status, ERR_NO_QUORUM);
    ck_assert_str_eq(cluster_reply_of()->error, "no leader for 5 s");
}
END_TEST

START_TEST(changes_are_for_operators)
{
    Pikv__ClusterRequest m = PIKV__CLUSTER_REQUEST__INIT;

    join();
    p->tp.cred.pid = 7;
    p->tp.cred.uid = n.lane.own_uid + 1;
    for (int what = 0; what <= PIKV__CLUSTER_REQUEST__WHAT__EXPERTS_PLACE;
         what++) {
        bool looks = what <= PIKV__CLUSTER_REQUEST__WHAT__EVENTS ||
                     what == PIKV__CLUSTER_REQUEST__WHAT__PLAN ||
                     what == PIKV__CLUSTER_REQUEST__WHAT__COORD ||
                     what == PIKV__CLUSTER_REQUEST__WHAT__EXPERTS ||
                     what == PIKV__CLUSTER_REQUEST__WHAT__EXPERTS_PLAN;

        m.what = (Pikv__ClusterRequest__What)what;
        asked = NULL;
        node_msg(p, OP_CLUSTER, &m);
        ck_assert_int_eq(asked != NULL, looks);
        if (asked) {
            control_answer(asked, ERR_CANCELED);
            node_settle(&n);
        } else {
            ck_assert_int_eq(n.reply.frame.status, ERR_DENIED);
        }
    }
}
END_TEST

static void bump(void)
{
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    static char name[] = "test";

    m.name = name;
    m.bump = true;
    node_msg(p, OP_NAMESPACE, &m);
}

static const struct registry_ns *known(void)
{
    return registry_find(&n.control.registry, "test");
}

START_TEST(a_bump_in_a_cluster_is_counted_by_it_first)
{
    uint64_t before = known()->generation;

    join();
    bump();
    ck_assert(!n.reply.there);
    ck_assert_str_eq(flushed, "test");
    ck_assert_uint_eq(known()->generation, before);
    control_flushed(&n.control, asked, OK, 3);
    node_settle(&n);
    ck_assert_int_eq(n.reply.frame.status, OK);
    ck_assert_uint_gt(known()->generation, before);
    ck_assert_uint_eq(known()->flushes, 3);
}
END_TEST

START_TEST(a_bump_that_the_view_brought_first_is_not_done_twice)
{
    struct view_flush f = {hash_64(0, "test", 4), 3};
    uint64_t after;

    join();
    bump();
    view.flushes = &f;
    view.flush_n = 1;
    ck_assert_int_eq(control_flushes(&n.control, &view), OK);
    node_settle(&n);
    after = known()->generation;
    control_flushed(&n.control, asked, OK, 3);
    node_settle(&n);
    view.flushes = NULL;
    view.flush_n = 0;
    ck_assert_int_eq(n.reply.frame.status, OK);
    ck_assert_uint_eq(known()->generation, after);
    ck_assert_uint_eq(n.lane.ns[n.ns].generation, after);
}
END_TEST

START_TEST(a_bump_that_nobody_counted_changes_nothing)
{
    uint64_t before = known()->generation;

    join();
    bump();
    control_flushed(&n.control, asked, ERR_NO_QUORUM, 0);
    node_settle(&n);
    ck_assert_int_eq(n.reply.frame.status, ERR_NO_QUORUM);
    ck_assert_uint_eq(known()->generation, before);
}
END_TEST

START_TEST(loads_of_experts_go_to_the_cluster)
{
    uint64_t counts[] = {5, 6};
    Pikv__ExpertLoad load = PIKV__EXPERT_LOAD__INIT, *loads[] = {&load};
    Pikv__Feedback m = PIKV__FEEDBACK__INIT;

    load.counts = counts;
    load.n_counts = 2;
    m.ns = n.ns;
    m.experts = loads;
    m.n_experts = 1;
    node_msg(p, OP_FEEDBACK, &m);
    ck_assert_int_eq(n.reply.frame.status, ERR_UNSUPPORTED);
    join();
    counted = 0;
    node_msg(p, OP_FEEDBACK, &m);
    ck_assert_int_eq(n.reply.frame.status, OK);
    ck_assert_uint_eq(counted, 5);
}
END_TEST

static void add_owner(Suite *s)
{
    TCase *t = tcase_create("owner");

    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t, without_a_view_nobody_is_sent_elsewhere);
    tcase_add_test(t, until_the_first_view_blocks_wait_and_questions_do_not);
    tcase_add_test(t, a_hit_is_served_whoever_owns_its_slot);
    tcase_add_test(t, a_miss_of_anothers_slot_says_whose_it_is);
    tcase_add_test(t, lookup_says_of_each_cell_whose_it_is);
    tcase_add_test(t, a_put_goes_to_owners_only);
    tcase_add_test(t, who_stands_in_for_a_node_that_is_down_serves);
    tcase_add_test(t, a_slot_that_nobody_serves_is_served_here);
    tcase_add_test(t, here_means_here);
    tcase_add_test(t, who_knows_a_newer_view_is_believed);
    tcase_add_test(t, a_drop_is_done_wherever_it_is_asked_for);
    tcase_add_test(t, a_slot_with_a_last_home_may_be_there);
    tcase_add_test(t, a_key_of_another_lane_is_this_nodes);
    suite_add_tcase(s, t);
}

static void add_view(Suite *s)
{
    TCase *t = tcase_create("view");

    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t, a_single_node_has_no_view);
    tcase_add_test(t, the_view_has_members_with_addresses_and_all_slots);
    tcase_add_test(t, who_has_the_newest_view_is_told_no_more);
    tcase_add_test(t, a_view_that_fits_no_message_comes_in_pieces);
    tcase_add_test(t, a_view_that_changed_between_pieces_is_told_anew);
    tcase_add_test(t, hello_says_the_epoch);
    suite_add_tcase(s, t);
}

Suite *suite(void)
{
    Suite *s = suite_create("ops_cluster");
    TCase *t = tcase_create("cluster");

    add_owner(s);
    add_view(s);
    tcase_add_checked_fixture(t, up, down);
    tcase_add_test(t, a_single_node_knows_no_cluster);
    tcase_add_test(t, a_question_waits_for_its_answer);
    tcase_add_test(t, a_refusal_has_words);
    tcase_add_test(t, changes_are_for_operators);
    tcase_add_test(t, a_bump_in_a_cluster_is_counted_by_it_first);
    tcase_add_test(t, a_bump_that_the_view_brought_first_is_not_done_twice);
    tcase_add_test(t, a_bump_that_nobody_counted_changes_nothing);
    tcase_add_test(t, loads_of_experts_go_to_the_cluster);
    suite_add_tcase(s, t);
    return s;
}
