/* SPDX-License-Identifier: Apache-2.0
 *
 * A voter's part: coord orders commands, the state takes them.
 *
 *     coord --apply, restore--> state --end of the step--> the published view
 *     coord --role--> end of the step --> leader_begin, leader_end
 *
 * Callbacks of coord run inside coord's calls and only note; the step that is
 * under way, or the next one, acts.
 *
 * The fence. A peer or a view of a newer generation means that the operator
 * has recovered the cluster without this voter (`pikvctl coord recover`): its
 * log is of the past, it closes coord and goes on as a watcher. What only this
 * old majority had decided since is lost, as the operator was told. To vote
 * again it gets an empty raft directory and `pikvctl coord voter add`. What
 * generation a log is of cannot be seen before it is applied, which takes a
 * leader: so it is kept beside the log (cluster_log_generation). A new log has
 * none, and may pass through the old generations while it is filled. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"
#include "cluster/cluster_impl.h"

static void voter_applied(struct cluster *c)
{
    c->state_new = true;
    if (c->state->view.generation > c->log_generation &&
        c->state->view.generation >= cl_view(c)->generation)
        c->log_generation = c->state->view.generation;
}

static void voter_apply(void *arg, uint64_t index, const uint8_t *p, size_t n,
                        void *answer)
{
    struct cluster *c = arg;

    state_apply(c->state, index, p, n, answer);
    voter_applied(c);
    if (c->cfg.wake)
        c->cfg.wake(c->cfg.wake_arg);
}

static enum err voter_snapshot(void *arg, uint8_t **p_out, size_t *n_out)
{
    struct cluster *c = arg;
    struct bytes b = {0};

    state_encode(c->state, &b);
    if (b.bad) {
        bytes_fini(&b);
        return ERR_NO_MEMORY;
    }
    *p_out = b.p;
    *n_out = b.len;
    return OK;
}

static enum err voter_restore(void *arg, uint64_t index, const uint8_t *p,
                              size_t n)
{
    struct cluster *c = arg;
    enum err e = state_decode(c->state, p, n);

    (void)index;
    if (e == OK && c->state->view.cluster != c->cluster)
        e = ERR_CORRUPT;
    if (e == OK)
        voter_applied(c);
    return e;
}

static void voter_role(void *arg, enum coord_role role, uint64_t term)
{
    struct cluster *c = arg;

    c->role = role;
    c->role_term = term;
    c->role_new = true;
    if (c->cfg.wake)
        c->cfg.wake(c->cfg.wake_arg);
}

static const struct coord_voter *voter_of(const struct cluster *c, uint64_t id)
{
    for (uint32_t i = 0; i < c->cfg.voter_n; i++)
        if (c->cfg.voters[i].id == id)
            return &c->cfg.voters[i];
    return NULL;
}

/* A voter that was added later is a member: found by the hash of its name. */
static const struct node *voter_member(const struct cluster *c, uint64_t id)
{
    const struct view *v = cl_view(c);

    for (uint32_t i = 0; i < v->node_n; i++)
        if (v->nodes[i].state != NODE_REMOVED &&
            hash_64(0, v->nodes[i].name, strlen(v->nodes[i].name)) == id)
            return &v->nodes[i];
    return NULL;
}

static void voter_send(void *arg, uint64_t to, const uint8_t *p, size_t n)
{
    struct cluster *c = arg;
    const struct coord_voter *v = voter_of(c, to);
    const struct node *m = v ? NULL : voter_member(c, to);
    const char *name = v ? v->name : m ? m->name : "";
    struct cl_link *l = name[0] ? cl_link_named(c, name) : NULL;

    if (l)
        cl_act_send(c, l->id, PEER_RAFT, p, n);
    else if (name[0])
        cl_link_dial(c, v ? v->peer : m->peer);
}

static void voter_fatal(void *arg, const char *why)
{
    cl_act_fatal(arg, why);
}

bool cl_leads(const struct cluster *c)
{
    return c->lead != NULL;
}

enum err cl_voter_open(struct cluster *c, struct errmsg *m)
{
    struct coord_events ev = {
        voter_apply, voter_snapshot, voter_restore, voter_role,
        voter_send,  voter_fatal,    c,
    };
    struct coord_cfg cfg = {
        .provider = c->cfg.provider,
        .self = c->raft_id,
        .voters = c->cfg.voters,
        .voter_n = c->cfg.voter_n,
        .io = c->cfg.io,
        .election_ms = c->cfg.times.election,
        .heartbeat_ms = c->cfg.times.heartbeat,
        .recover = c->cfg.recover,
    };
    enum err e;

    if (!fault_here("cl_voter_open"))
        c->state = calloc(1, sizeof(*c->state));
    if (!c->state || state_init(c->state, c->cluster) != OK)
        return errmsg_set(m, ERR_NO_MEMORY, "cluster: out of memory");
    c->log_generation = c->cfg.log_generation;
    e = coord_open(&cfg, &ev, &c->coord, m);
    if (e == OK && c->view->v.generation > 1)
        cl_voter_fence(c, c->view->v.generation);
    return e;
}

static void voter_closed(void *arg)
{
    struct cluster *c = arg;

    c->voter_closed = true;
    if (c->closing)
        cl_voter_close(c);
}

void cl_voter_fence(struct cluster *c, uint32_t generation)
{
    struct coord *coord = c->coord;

    if (!coord || c->fenced || !c->log_generation ||
        generation <= c->log_generation)
        return;
    c->fenced = true;
    c->coord = NULL;
    cl_act_say(c, LOG_ERROR,
               "the cluster was recovered without this voter (generation %u, "
               "here %u): it goes on as a watcher; to vote again it needs an "
               "empty raft directory and `pikvctl coord voter add`",
               generation, c->log_generation);
    cl_leader_end(c);
    c->role = COORD_FOLLOWER;
    c->role_new = false;
    coord_close(coord, voter_closed, c);
}

/* The roles that coord told since. */
static void voter_roles(struct cluster *c)
{
    if (!c->role_new || c->closing)
        return;
    c->role_new = false;
    if (c->lead && (c->role != COORD_LEADER || c->lead->term != c->role_term))
        cl_leader_end(c);
    if (c->role == COORD_LEADER && !c->lead)
        cl_leader_begin(c, c->role_term);
    if (c->role != COORD_LEADER)
        c->beat_ms = 0;
}

/* `coord recover`: alone with the old log, this voter makes the generation. */
static void voter_recover(struct cluster *c)
{
    struct cmd cmd = {.kind = CMD_GENERATION, .voter_n = 1};

    if (!c->cfg.recover || c->recovered || !c->lead || c->self == NODE_NONE ||
        c->state_new)
        return;
    cmd.level = c->state->view.generation;
    cmd.voters[0] = c->self;
    c->recovered = cl_ask_duty(c, &cmd) == OK;
}

void cl_voter_tick(struct cluster *c)
{
    if (!c->state || c->closing)
        return;
    if (c->coord)
        voter_roles(c);
    if (c->state_new && c->coord)
        cl_view_from_state(c);
    cl_voter_fence(c, c->view->v.generation);
    voter_recover(c);
}

void cl_voter_receive(struct cluster *c, struct cl_link *l, const uint8_t *p,
                      size_t n)
{
    const struct coord_voter *v = NULL;
    uint64_t id = hash_64(0, l->name, strlen(l->name));

    if (!c->coord)
        return;
    if (l->generation < cl_view(c)->generation) {
        cl_act_hang_up(c, l->id, "an older generation: say hello again");
        return;
    }
    v = voter_of(c, id);
    if (v || voter_member(c, id))
        coord_receive(c->coord, id, p, n);
}

static void voter_free(struct cluster *c)
{
    void (*closed)(void *arg) = c->closed;
    void *arg = c->closed_arg;

    if (c->state)
        state_fini(c->state);
    free(c->state);
    cl_ask_fini(c);
    cl_act_fini(c);
    cl_view_fini(c);
    cl_static_fini(c);
    cl_experts_fini(c);
    free(c->links);
    free(c);
    if (closed)
        closed(arg);
}

/* Twice: to begin, and when coord is at rest. */
void cl_voter_close(struct cluster *c)
{
    struct coord *coord = c->coord;

    c->coord = NULL;
    if (coord)
        coord_close(coord, voter_closed, c);
    else if (!c->fenced || c->voter_closed)
        voter_free(c);
}
