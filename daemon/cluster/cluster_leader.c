/* SPDX-License-Identifier: Apache-2.0
 *
 * The leader's duties but for slots: beats come in, the detector looks at them,
 * what it finds is proposed.
 *
 *     beat --> detect, balance, slots that have arrived --> BeatReply
 *     tick --> verdicts --CMD_SET_STATE--> everybody's view
 *
 * What a leader knows beyond the state is gone with its leadership, and comes
 * back to the next one with the beats. Duties are proposed without waiting: if
 * one does not come to pass, the verdict is found again.
 *
 * A leader that suspects itself (detect.h 2) offers leadership to another, once
 * a minute at most. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"
#include "cluster/cluster_impl.h"

enum { VERDICTS = 64 };

static bool lead_alloc(struct cl_lead *d)
{
    if (fault_here("cl_lead"))
        return false;
    d->loads = calloc(NODES_MAX, sizeof(struct cl_load *));
    d->beat_inc = calloc(NODES_MAX, sizeof(*d->beat_inc));
    d->ready = calloc(CL_READY_MAX, sizeof(*d->ready));
    d->rows = calloc(CMD_SLOTS_MAX, sizeof(*d->rows));
    return d->loads && d->beat_inc && d->ready && d->rows;
}

static void lead_free(struct cl_lead *d)
{
    for (uint32_t i = 0; d->loads && i < NODES_MAX; i++)
        free(d->loads[i]);
    free(d->loads);
    free(d->beat_inc);
    free(d->ready);
    free(d->rows);
    detect_fini(&d->detect);
    balance_fini(&d->balance);
    shared_view_unref(d->spread);
    free(d);
}

void cl_leader_begin(struct cluster *c, uint64_t term)
{
    struct detect_cfg dc = {c->cfg.times.suspect, c->cfg.times.down,
                            c->cfg.times.removed};
    struct balance_cfg bc = {.per_mille = c->cfg.balance_pct,
                             .under_way = c->cfg.move_slots};
    struct cl_lead *d = calloc(1, sizeof(*d));

    if (!d || !lead_alloc(d) || detect_init(&d->detect, &dc, c->now_ms) != OK ||
        balance_init(&d->balance, &bc) != OK) {
        if (d)
            lead_free(d);
        cl_act_say(c, LOG_ERROR, "no memory to lead the cluster with");
        return;
    }
    d->term = term;
    d->since_ms = d->joined_ms = c->now_ms;
    d->moves_ms = c->now_ms + CL_MOVES_MS;
    d->balance_ms = c->now_ms + CL_BALANCE_MS;
    d->spread = shared_view_ref(c->view);
    c->lead = d;
    cl_act_say(c, LOG_NOTICE, "this node leads the cluster, term %llu",
               (unsigned long long)term);
    cl_seek_tick(c);
    cl_ask_again(c);
}

void cl_leader_end(struct cluster *c)
{
    if (!c->lead)
        return;
    lead_free(c->lead);
    c->lead = NULL;
    c->leader[0] = '\0';
    cl_act_say(c, LOG_NOTICE, "this node does not lead the cluster any more");
}

/* ---- States ---- */

static void propose_state(struct cluster *c, uint16_t node, uint8_t state)
{
    struct cmd cmd = {
        .kind = CMD_SET_STATE,
        .index = node,
        .new_state = state,
        .incarnation = c->state->view.nodes[node].incarnation,
    };

    /* Refused or lost: the detector says it again. */
    (void)(cl_ask_duty(c, &cmd) == OK);
}

static void transfer_done(void *arg, enum err err, void *answer)
{
    struct cl_proposal *p = arg;

    (void)err;
    (void)answer;
    list_del(&p->node);
    p->c->proposal_n--;
    free(p);
}

static void offer_leadership(struct cluster *c)
{
    struct cl_lead *d = c->lead;
    struct cl_proposal *p;

    if (d->transfer_ms && c->now_ms - d->transfer_ms < CL_TRANSFER_MS)
        return;
    d->transfer_ms = c->now_ms;
    cl_act_say(c, LOG_WARN, "more than half of the members are silent: this "
                            "leader doubts itself and offers leadership");
    p = calloc(1, sizeof(*p));
    if (!p)
        return;
    p->c = c;
    list_init(&p->node);
    list_add_tail(&c->proposals, &p->node);
    c->proposal_n++;
    if (coord_transfer(c->coord, 0, transfer_done, p) != OK)
        transfer_done(p, ERR_BUSY, NULL);
}

static void leader_verdict(struct cluster *c, const struct detect_verdict *v)
{
    const struct node *n = &c->state->view.nodes[v->node];
    unsigned long long ms = v->silent_ms;

    switch (v->kind) {
    case DETECT_SUSPECT:
        cl_act_say(c, LOG_INFO, "%s is suspect: silent for %llu ms", n->name,
                   ms);
        break;
    case DETECT_CLEAR:
        cl_act_say(c, LOG_INFO, "%s is heard again", n->name);
        break;
    case DETECT_PROBATION:
        cl_act_say(c, LOG_WARN, "%s is on probation: several nodes cannot "
                                "reach it", n->name);
        break;
    case DETECT_DOWN:
        cl_act_say(c, LOG_WARN, "%s is DOWN: silent for %llu ms", n->name, ms);
        propose_state(c, v->node, NODE_DOWN);
        break;
    case DETECT_UP:
        cl_act_say(c, LOG_NOTICE, "%s is UP", n->name);
        propose_state(c, v->node, NODE_UP);
        break;
    case DETECT_REMOVED:
        cl_act_say(c, LOG_WARN, "%s is REMOVED: DOWN for %u ms", n->name,
                   c->cfg.times.removed);
        propose_state(c, v->node, NODE_REMOVED);
        break;
    case DETECT_SELF:
        offer_leadership(c);
        break;
    }
}

void cl_leader_tick(struct cluster *c)
{
    struct detect_verdict v[VERDICTS];
    const struct view *state = &c->state->view;
    struct cl_lead *d = c->lead;
    uint16_t self = view_find(state, c->cfg.self.name);
    uint32_t n;

    n = detect_tick(&d->detect, state, self, c->now_ms, v, VERDICTS);
    /* The leader hears itself by leading. */
    if (self != NODE_NONE)
        detect_heard(&d->detect, self, c->now_ms);
    for (uint32_t i = 0; i < n && c->lead == d; i++)
        leader_verdict(c, &v[i]);
    if (c->lead == d)
        cl_moves_tick(c);
    if (c->lead == d)
        cl_view_spread(c);
}

void cl_leader_done(struct cluster *c, const struct cl_proposal *p,
                    enum err err)
{
    if (p->slots && c->lead) {
        c->lead->slots_busy = false;
        if (err != OK)
            c->lead->slots_epoch = 0;
    }
    if (err == OK || err == ERR_STALE_EPOCH || err == ERR_STALE ||
        !p->answer.msg.text[0] ||
        (c->said_ms && c->now_ms - c->said_ms < CL_REFUSED_MS))
        return;
    c->said_ms = c->now_ms;
    cl_act_say(c, LOG_WARN, "refused: %s", p->answer.msg.text);
}

/* ---- Beats ---- */

static void beat_load(struct cluster *c, uint16_t node, const Peer__Load *m)
{
    struct balance_slot hot[PEER_LOAD_SLOTS_MAX];
    struct cl_load **at = &c->lead->loads[node];
    struct cluster_load *l;
    uint32_t n = (uint32_t)min_u64(m->n_slots, countof(hot));

    if (!*at)
        *at = fault_here("beat_load") ? NULL : calloc(1, sizeof(**at));
    if (!*at)
        return;
    (*at)->known = true;
    (*at)->at_ms = c->now_ms;
    l = &(*at)->load;
    *l = (struct cluster_load){
        .ops = m->ops,
        .bytes = m->bytes,
        .misses = m->misses,
        .used_mib = m->used_mib,
        .free_mib = m->free_mib,
        .get_p95_us = m->get_p95_us,
        .hot_n = n,
    };
    for (uint32_t i = 0; i < n; i++) {
        hot[i] = (struct balance_slot){m->slots[i]->slot % WIRE_SLOTS,
                                       m->slots[i]->ops, m->slots[i]->bytes};
        l->hot[i] = (struct slot_load){hot[i].slot, hot[i].ops, hot[i].bytes};
    }
    /* No memory: as if the beat was lost. */
    (void)(balance_feed(&c->lead->balance, node, m->ops, m->bytes, m->misses,
                        hot, n) == OK);
}

/* On a link that has a newer sibling a beat counts if it is later than what the
 * sibling brought: then the sibling is half-open. */
static bool beat_late(struct cluster *c, const struct cl_link *l, uint64_t seq)
{
    for (uint32_t i = 0; i < c->link_n; i++)
        if (c->links[i].node == l->node && c->links[i].beat_seq >= seq)
            return true;
    return false;
}

/* Is it of the node's present life, and later than what was heard of it? */
static bool beat_counts(struct cluster *c, struct cl_link *l,
                        const Peer__Beat *b)
{
    const struct view *v = &c->state->view;
    struct cl_lead *d = c->lead;
    uint16_t node = l->node;

    if (node >= v->node_n || v->nodes[node].uuid != l->uuid ||
        v->nodes[node].incarnation != b->incarnation)
        return false;
    if (l->incarnation != b->incarnation || b->seq <= l->beat_seq ||
        (l->old && beat_late(c, l, b->seq)))
        return false;
    if (d->beat_inc[node] != b->incarnation)
        balance_forget(&d->balance, node);
    d->beat_inc[node] = b->incarnation;
    l->beat_seq = b->seq;
    return true;
}

void cl_leader_beat(struct cluster *c, struct cl_link *l, const Peer__Beat *b)
{
    const struct view *v = &c->state->view;
    uint16_t node = l->node;

    if (b->generation > v->generation) {
        l->generation = b->generation;
        cl_voter_fence(c, b->generation);
        cl_view_ask(c, l);
        return;
    }
    if (beat_counts(c, l, b)) {
        detect_heard(&c->lead->detect, node, c->now_ms);
        if (b->load) {
            beat_load(c, node, b->load);
            cl_experts_heard(c, b->load);
        }
        for (size_t i = 0; i < b->n_unreachable; i++)
            if (b->unreachable[i] < v->node_n)
                detect_report(&c->lead->detect, node,
                              (uint16_t)b->unreachable[i], c->now_ms);
        for (size_t i = 0; i < b->n_moved_in; i++)
            if (b->generation == v->generation)
                cl_moves_ready(c, node, b->moved_in[i], b->epoch);
    }
    cl_seek_answer_beat(c, l, b);
}

bool cluster_load_of(const struct cluster *c, uint16_t node,
                     struct cluster_load *out, uint64_t *age_ms_out)
{
    const struct cl_load *l;

    if (c->lead && node == c->self && c->load_known) {
        *out = c->load;
        *age_ms_out = 0;
        return true;
    }
    l = c->lead && node < NODES_MAX ? c->lead->loads[node] : NULL;
    if (!l || !l->known)
        return false;
    *out = l->load;
    *age_ms_out = c->now_ms - l->at_ms;
    return true;
}

/* ---- Operator's ---- */

static void operator_free(struct cl_proposal *p)
{
    list_del(&p->node);
    p->c->proposal_n--;
    free(p->then);
    free(p);
}

/* coord is done: say so, and put it into the view. */
static void operator_done(void *arg, enum err err, void *answer)
{
    struct cl_proposal *p = arg;
    struct answer a = {.err = err, .value = cl_view(p->c)->epoch};

    (void)answer;
    if (err == OK && p->then)
        a.err = cl_ask_duty(p->c, p->then);
    cl_act_answer(p->c, p->link, &a);
    operator_free(p);
}

static struct cl_proposal *operator_new(struct cluster *c, uint64_t ticket)
{
    struct cl_proposal *p =
        fault_here("cl_operator") ? NULL : calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->c = c;
    p->link = ticket;
    list_init(&p->node);
    list_add_tail(&c->proposals, &p->node);
    c->proposal_n++;
    return p;
}

enum err cluster_transfer(struct cluster *c, const char *to, uint64_t ticket)
{
    struct cl_proposal *p;
    uint64_t id = 0;
    enum err e;

    for (uint32_t i = 0; to && to[0] && i < c->cfg.voter_n && !id; i++)
        if (strcmp(c->cfg.voters[i].name, to) == 0)
            id = c->cfg.voters[i].id;
    if (to && to[0] && !id)
        return ERR_MISS;
    if (!c->lead || !c->coord)
        return ERR_WRONG_NODE;
    p = operator_new(c, ticket);
    if (!p)
        return ERR_NO_MEMORY;
    e = coord_transfer(c->coord, id, operator_done, p);
    if (e != OK)
        operator_free(p);
    return e;
}

enum err cluster_voter_set(struct cluster *c, const char *name, bool voter,
                           uint64_t ticket)
{
    uint16_t i = view_find(cl_view(c), name);
    struct coord_voter v = {.id = hash_64(0, name, strlen(name))};
    struct cl_proposal *p;
    enum err e;

    if (i == NODE_NONE)
        return ERR_MISS;
    if (!c->lead || !c->coord)
        return ERR_WRONG_NODE;
    p = operator_new(c, ticket);
    if (!p)
        return ERR_NO_MEMORY;
    memcpy(v.name, cl_view(c)->nodes[i].name, sizeof(v.name));
    memcpy(v.peer, cl_view(c)->nodes[i].peer, sizeof(v.peer));
    p->then = calloc(1, sizeof(*p->then));
    e = ERR_NO_MEMORY;
    if (p->then) {
        p->then->kind = CMD_VOTER;
        p->then->index = i;
        p->then->flag = voter;
        e = voter ? coord_voter_add(c->coord, &v, operator_done, p)
                  : coord_voter_remove(c->coord, v.id, operator_done, p);
    }
    if (e != OK)
        operator_free(p);
    return e;
}
