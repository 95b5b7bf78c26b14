/* SPDX-License-Identifier: Apache-2.0
 *
 * What operators see of the cluster and do with it (CLUSTER).
 *
 *   looking     from what this node knows: its view, its own status; the
 *               figures of other nodes only where it leads
 *   changing    a command to the leader, answered when it is committed
 *   recovering  a mark in state_dir for the next start
 *
 * Long lists come in pieces: NODES from index `since` on, SLOTS from slot
 * `since` on, EVENTS after line `since`, as many as fit the call's room. Texts
 * and lists live in an arena that is freed when the reply is packed. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "rpc/msg.h"
#include "server/cluster_loop_impl.h"
#include "server/files.h"
#include "server/lane.h"
#include "server/op.h"

enum {
    ASK_ARENA = 4 << 20,
    ASK_NODE_BYTES = 96, /* packed, beside the node's own */
    ASK_ROW_BYTES = 48,
    ASK_LINE_BYTES = 32,
};

struct ask {
    struct cluster_loop *cl;
    struct ctl_call *call;
    const Pikv__ClusterRequest *m;
    const struct view *v;
    struct arena a;
    size_t room; /* of the reply, left */
    Pikv__ClusterReply rep;
};

/* ---- Answers ------------------------------------------------------------- */

void cluster_refuse(struct ctl_call *call, enum err e, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(call->msg.text, sizeof(call->msg.text), fmt, ap);
    va_end(ap);
    control_answer(call, e);
}

void cluster_reply(struct ctl_call *call, Pikv__ClusterReply *rep)
{
    size_t n = pikv__cluster_reply__get_packed_size(rep);

    if (n > call->reply_cap) {
        cluster_refuse(call, ERR_LIMIT, "the answer is longer than "
                                        "limits.message; ask for fewer rows");
        return;
    }
    call->reply_n = (uint32_t)pikv__cluster_reply__pack(rep, call->reply);
    control_answer(call, OK);
}

static const Pikv__ClusterRequest *request_of(const struct ctl_call *call)
{
    return call->request;
}

static uint32_t ask_max(const struct ask *k, uint32_t most)
{
    return k->m->max ? (uint32_t)min_u64(k->m->max, most) : most;
}

/* false: no room is left in the reply. */
static bool ask_takes(struct ask *k, size_t bytes)
{
    if (bytes > k->room)
        return false;
    k->room -= bytes;
    return true;
}

/* ---- Status -------------------------------------------------------------- */

static uint64_t redirects(const struct control *c)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < c->lane_n; i++)
        n += metric_get(&c->lanes[i]->metrics.redirects);
    return n;
}

static void status_voters(struct ask *k, const struct coord_status *st)
{
    k->rep.voters = arena_alloc(&k->a, countof(st->voters) * sizeof(char *));
    for (uint32_t i = 0; k->rep.voters && i < st->voter_n; i++) {
        char text[256];

        snprintf(text, sizeof(text), "%s=%s%s", st->voters[i].name,
                 st->voters[i].peer,
                 st->voters[i].id == st->leader ? " (leads)" : "");
        k->rep.voters[k->rep.n_voters] = msg_str(&k->a, text);
        k->rep.n_voters += k->rep.voters[k->rep.n_voters] != NULL;
    }
}

static char *status_text(struct ask *k)
{
    uint32_t n[NODE_REMOVED + 1] = {0}, none = 0;
    char text[256];

    for (uint32_t i = 0; i < k->v->node_n; i++)
        n[k->v->nodes[i].state]++;
    for (uint32_t s = 0; s < WIRE_SLOTS; s++)
        none += view_serving(k->v, s) == NODE_NONE;
    snprintf(text, sizeof(text),
             "%u up, %u joining, %u draining, %u down; %u slots that nobody "
             "serves",
             n[NODE_UP], n[NODE_JOINING], n[NODE_DRAINING], n[NODE_DOWN], none);
    return msg_str(&k->a, text);
}

static void ask_status(struct ask *k)
{
    const struct config *c = k->cl->conf;
    struct cluster_status st;

    cluster_status(k->cl->cluster, &st);
    k->rep.cluster = msg_str(&k->a, c->cluster.id);
    k->rep.self = msg_str(&k->a, c->node.name);
    k->rep.phase = msg_str(&k->a, cluster_phase_name(st.phase));
    k->rep.leader = msg_str(&k->a, st.leader);
    k->rep.provider = msg_str(
        &k->a, c->cluster.provider == PROVIDER_RAFT ? "raft" : "static");
    k->rep.term = st.coord.term;
    k->rep.commit = st.coord.commit;
    k->rep.applied = st.coord.applied;
    k->rep.cut_ms = st.cut_ms;
    k->rep.moves = st.moves;
    k->rep.leads = st.leads;
    k->rep.redirects = redirects(k->cl->cfg.control);
    k->rep.text = status_text(k);
    status_voters(k, &st.coord);
}

/* ---- Nodes --------------------------------------------------------------- */

struct tally {
    uint32_t slots, in, out;
};

static struct tally *nodes_tally(struct ask *k)
{
    struct tally *t = arena_zalloc(&k->a, (k->v->node_n + 1) * sizeof(*t));

    for (uint32_t s = 0; t && s < WIRE_SLOTS; s++) {
        const struct slot *slot = &k->v->slots[s];

        if (slot->owner[0] < k->v->node_n)
            t[slot->owner[0]].slots++;
        if (slot->to < k->v->node_n) {
            t[slot->to].in++;
            t[slot->owner[0] < k->v->node_n ? slot->owner[0] : k->v->node_n]
                .out++;
        }
    }
    return t;
}

static void node_load(struct ask *k, uint32_t i, Pikv__ClusterNode *to)
{
    struct cluster_load load;
    uint64_t age;

    if (!cluster_load_of(k->cl->cluster, (uint16_t)i, &load, &age))
        return;
    to->ops = load.ops;
    to->bytes = load.bytes;
    to->misses = load.misses;
    to->used_mib = load.used_mib;
    to->free_mib = load.free_mib;
    to->get_p95_us = load.get_p95_us;
    to->beat_age_ms = age;
    to->suspect = node_serves(&k->v->nodes[i]) &&
                  age * 1000 >= k->cl->conf->cluster.suspect_us;
}

static bool node_add(struct ask *k, uint32_t i, const struct tally *t)
{
    Pikv__ClusterNode *to = arena_alloc(&k->a, sizeof(*to));
    Pikv__ViewNode *node = view_node_msg(&k->a, &k->v->nodes[i], i);

    if (!to || !node ||
        !ask_takes(k, ASK_NODE_BYTES +
                          pikv__view_node__get_packed_size(node)))
        return false;
    pikv__cluster_node__init(to);
    to->node = node;
    to->slots = t[i].slots;
    to->moving_in = t[i].in;
    to->moving_out = t[i].out;
    node_load(k, i, to);
    k->rep.nodes[k->rep.n_nodes++] = to;
    return true;
}

static void ask_nodes(struct ask *k)
{
    struct tally *t = nodes_tally(k);
    uint32_t max = ask_max(k, k->v->node_n);

    k->rep.nodes =
        arena_alloc(&k->a, (k->v->node_n + 1) * sizeof(*k->rep.nodes));
    if (!t || !k->rep.nodes)
        return;
    for (uint64_t i = k->m->since; i < k->v->node_n && k->rep.n_nodes < max;
         i++)
        if (k->v->nodes[i].state != NODE_REMOVED &&
            !node_add(k, (uint32_t)i, t))
            return;
}

/* ---- Slots --------------------------------------------------------------- */

static bool slot_has(const struct slot *s, uint16_t node)
{
    for (uint32_t i = 0; i < VIEW_COPIES; i++)
        if (s->owner[i] == node)
            return true;
    return s->from == node || s->to == node;
}

static bool slot_add(struct ask *k, uint32_t slot)
{
    const struct slot *s = &k->v->slots[slot];
    Pikv__SlotRow *to = arena_alloc(&k->a, sizeof(*to));
    uint32_t *owners = arena_alloc(&k->a, VIEW_COPIES * sizeof(*owners));

    if (!to || !owners || !ask_takes(k, ASK_ROW_BYTES))
        return false;
    pikv__slot_row__init(to);
    to->slot = slot;
    to->owners = owners;
    for (uint32_t i = 0; i < VIEW_COPIES && s->owner[i] != NODE_NONE; i++)
        owners[to->n_owners++] = s->owner[i];
    to->from = s->from == NODE_NONE ? -1 : s->from;
    to->to = s->to == NODE_NONE ? -1 : s->to;
    to->heat = s->heat;
    k->rep.slots[k->rep.n_slots++] = to;
    return true;
}

static void ask_slots(struct ask *k)
{
    uint16_t node =
        k->m->node[0] ? view_find(k->v, k->m->node) : (uint16_t)NODE_NONE;
    uint32_t max = ask_max(k, WIRE_SLOTS);

    if (k->m->node[0] && node == NODE_NONE)
        return;
    k->rep.slots = arena_alloc(&k->a, WIRE_SLOTS * sizeof(*k->rep.slots));
    if (!k->rep.slots)
        return;
    for (uint64_t s = k->m->since; s < WIRE_SLOTS && k->rep.n_slots < max; s++)
        if ((node == NODE_NONE || slot_has(&k->v->slots[s], node)) &&
            !slot_add(k, (uint32_t)s))
            return;
}

/* ---- Events -------------------------------------------------------------- */

static void ask_events(struct ask *k)
{
    const struct cluster_loop *cl = k->cl;
    uint64_t first =
        cl->line_n > CLUSTER_EVENTS ? cl->line_n - CLUSTER_EVENTS : 0;
    uint32_t max = ask_max(k, CLUSTER_EVENTS);

    k->rep.events =
        arena_alloc(&k->a, CLUSTER_EVENTS * sizeof(*k->rep.events));
    for (uint64_t i = max_u64(first, k->m->since);
         k->rep.events && i < cl->line_n && k->rep.n_events < max; i++) {
        const struct cluster_line *l = &cl->lines[i % CLUSTER_EVENTS];
        Pikv__ClusterEvent *to = arena_alloc(&k->a, sizeof(*to));

        if (!to || !ask_takes(k, ASK_LINE_BYTES + strlen(l->text)))
            return;
        pikv__cluster_event__init(to);
        to->seq = l->seq;
        to->when_ms = l->when_ms;
        to->level = (uint32_t)l->level;
        to->text = msg_str(&k->a, l->text);
        k->rep.events[k->rep.n_events++] = to;
    }
}

/* ---- Looking ------------------------------------------------------------- */

typedef void ask_fn(struct ask *k);

static void ask_look(struct cluster_loop *cl, struct ctl_call *call, ask_fn *fn)
{
    struct ask k = {.cl = cl, .call = call, .m = request_of(call)};
    void *memory = malloc(ASK_ARENA);

    if (!memory) {
        control_answer(call, ERR_NO_MEMORY);
        return;
    }
    arena_init(&k.a, memory, ASK_ARENA);
    k.v = cluster_view(cl->cluster);
    k.room = call->reply_cap - call->reply_cap / 8; /* the rest: status */
    pikv__cluster_reply__init(&k.rep);
    k.rep.generation = k.v->generation;
    k.rep.epoch = k.v->epoch;
    fn(&k);
    cluster_reply(call, &k.rep);
    free(memory);
}

/* ---- Changing ------------------------------------------------------------ */

static void ask_state(struct cluster_loop *cl, struct ctl_call *call,
                      enum node_state state)
{
    const struct view *v = cluster_view(cl->cluster);
    const char *name = request_of(call)->node;
    uint16_t i = view_find(v, name);
    struct cmd cmd = {.kind = CMD_SET_STATE, .new_state = (uint8_t)state};

    if (i == NODE_NONE) {
        cluster_refuse(call, ERR_BAD_REQUEST,
                       "node: the view has no \"%.64s\"; `pikvctl cluster "
                       "nodes` shows those there are",
                       name);
        return;
    }
    cmd.index = i;
    cmd.incarnation = v->nodes[i].incarnation;
    cluster_loop_propose(cl, call, &cmd);
}

static void ask_transfer(struct cluster_loop *cl, struct ctl_call *call)
{
    struct cluster_event ev = {.kind = CLUSTER_TICK};
    struct cluster_status st;
    uint64_t ticket;
    enum err e;

    cluster_status(cl->cluster, &st);
    if (!st.leads) {
        cluster_refuse(call, ERR_BAD_REQUEST,
                       "this node does not lead; ask %s",
                       st.leader[0] ? st.leader : "another one");
        return;
    }
    ticket = cluster_loop_ticket(cl, call);
    e = cluster_transfer(cl->cluster, request_of(call)->node, ticket);
    if (e) {
        struct answer a = {.err = e};

        cl->calls = call->next; /* it is the first */
        cluster_answered(cl, call, &a);
        return;
    }
    cluster_loop_step(cl, &ev);
}

static void ask_recover(struct cluster_loop *cl, struct ctl_call *call)
{
    static const char text[] = "pikvctl coord recover\n";
    struct cluster_status st;
    struct answer a = {0};

    cluster_status(cl->cluster, &st);
    if (!st.voter) {
        cluster_refuse(call, ERR_BAD_REQUEST,
                       "this node is no voter: only one that has the log can "
                       "go on alone");
        return;
    }
    a.err = files_replace(cl->recover_path, text, sizeof(text) - 1, &a.msg);
    if (!a.err)
        LOG(LOG_WARN, "recover_asked", "path=%s", LOG_STR(cl->recover_path));
    cluster_answered(cl, call, &a);
}

static const char *answer_text(const struct cluster_loop *cl,
                               Pikv__ClusterRequest__What what, char *to,
                               size_t n)
{
    if (what == PIKV__CLUSTER_REQUEST__WHAT__RECOVER)
        snprintf(to, n,
                 "restart %.63s now: it goes on as the only voter, with a new "
                 "generation; then restart the others, they join it",
                 cl->conf->node.name);
    else
        to[0] = '\0';
    return to;
}

void cluster_answered(struct cluster_loop *cl, struct ctl_call *call,
                      const struct answer *a)
{
    Pikv__ClusterReply rep;
    char text[256];

    if (a->err) {
        cluster_refuse(call, a->err, "%s",
                       a->msg.text[0] ? a->msg.text : err_text(a->err));
        return;
    }
    pikv__cluster_reply__init(&rep);
    rep.epoch = a->value;
    answer_text(cl, request_of(call)->what, text, sizeof(text));
    rep.text = text;
    cluster_reply(call, &rep);
}

/* ---- All of it ----------------------------------------------------------- */

void cluster_ask(void *arg, struct ctl_call *call)
{
    struct cluster_loop *cl = arg;

    switch (request_of(call)->what) {
    case PIKV__CLUSTER_REQUEST__WHAT__STATUS:
    case PIKV__CLUSTER_REQUEST__WHAT__COORD:
        ask_look(cl, call, ask_status);
        return;
    case PIKV__CLUSTER_REQUEST__WHAT__NODES:
        ask_look(cl, call, ask_nodes);
        return;
    case PIKV__CLUSTER_REQUEST__WHAT__SLOTS:
        ask_look(cl, call, ask_slots);
        return;
    case PIKV__CLUSTER_REQUEST__WHAT__EVENTS:
        ask_look(cl, call, ask_events);
        return;
    case PIKV__CLUSTER_REQUEST__WHAT__DRAIN:
        ask_state(cl, call, NODE_DRAINING);
        return;
    case PIKV__CLUSTER_REQUEST__WHAT__UNDRAIN:
        ask_state(cl, call, NODE_UP);
        return;
    case PIKV__CLUSTER_REQUEST__WHAT__REMOVE:
        ask_state(cl, call, NODE_REMOVED);
        return;
    case PIKV__CLUSTER_REQUEST__WHAT__PLAN:
        cluster_plan(cl, call, false);
        return;
    case PIKV__CLUSTER_REQUEST__WHAT__APPLY:
        cluster_plan(cl, call, true);
        return;
    case PIKV__CLUSTER_REQUEST__WHAT__TRANSFER:
        ask_transfer(cl, call);
        return;
    case PIKV__CLUSTER_REQUEST__WHAT__RECOVER:
        ask_recover(cl, call);
        return;
    case PIKV__CLUSTER_REQUEST__WHAT__EXPERTS:
    case PIKV__CLUSTER_REQUEST__WHAT__EXPERTS_PLAN:
        cluster_experts(cl, call);
        return;
    case PIKV__CLUSTER_REQUEST__WHAT__EXPERTS_PLACE:
    case PIKV__CLUSTER_REQUEST__WHAT__VOTER_ADD:
    case PIKV__CLUSTER_REQUEST__WHAT__VOTER_REMOVE:
    case _PIKV__CLUSTER_REQUEST__WHAT_IS_INT_SIZE:
        break; /* also what a newer client asks for */
    }
    cluster_refuse(call, ERR_UNSUPPORTED, "this version does not know that");
}
