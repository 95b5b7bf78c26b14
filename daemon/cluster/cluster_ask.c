/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands on their way.
 *
 *   CLUSTER_PROPOSE, a join --> ask --leader here--> coord --> answer
 *                                |  \-elsewhere: PROPOSE --> its coord
 *                                |                <-- PROPOSED
 *                                +-- every 300 ms again, with the same id
 *                                +-- deadline: NO_QUORUM
 *
 * An ask ends when somebody who applied the command says what came of it.
 * Everything else (no leader, not the leader any more, too busy, no answer) is
 * tried again: the id makes sure that it counts once. NO_QUORUM therefore
 * means "not known to have happened".
 *
 * Proposals are what this node's coord has: of its own asks, of peers, or of
 * the leader's duties, which nobody waits for: the duty looks again. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/cluster_impl.h"

static struct cl_ask *ask_of(struct list *n)
{
    return container_of(n, struct cl_ask, node);
}

static void ask_free(struct cluster *c, struct cl_ask *a)
{
    list_del(&a->node);
    bytes_fini(&a->cmd);
    free(a);
    c->ask_n--;
}

static struct cl_ask *ask_find(struct cluster *c, uint64_t id)
{
    LIST_FOREACH (n, &c->asks)
        if (ask_of(n)->id == id)
            return ask_of(n);
    return NULL;
}

static void ask_end(struct cluster *c, struct cl_ask *a,
                    const struct answer *answer)
{
    if (a->kind == CL_ASK_CLIENT)
        cl_act_answer(c, a->ticket, answer);
    else if (answer->err != OK && answer->err != ERR_NO_QUORUM)
        cl_seek_refused(c, answer);
    ask_free(c, a);
}

static bool is_answer(enum err e)
{
    return e != ERR_NO_QUORUM && e != ERR_WRONG_NODE && e != ERR_BUSY &&
           e != ERR_CANCELED;
}

/* What somebody said of it. */
static void ask_said(struct cluster *c, uint64_t id,
                     const struct answer *answer)
{
    struct cl_ask *a = ask_find(c, id);

    if (!a)
        return;
    a->busy = false;
    if (is_answer(answer->err))
        ask_end(c, a, answer);
    else
        a->next_ms = c->now_ms + CL_ASK_AGAIN_MS / 3;
}

/* ---- Proposals to this node's coord ---- */

static void proposal_free(struct cl_proposal *p)
{
    list_del(&p->node);
    p->c->proposal_n--;
    free(p);
}

static void said_to_peer(struct cluster *c, uint64_t link, uint64_t id,
                         const struct answer *a)
{
    Peer__Proposed m = PEER__PROPOSED__INIT;
    char why[sizeof(a->msg.text)];

    if (!cl_link_get(c, link))
        return;
    memcpy(why, a->msg.text, sizeof(why));
    m.id = id;
    m.err = (int32_t)a->err;
    m.value = a->value;
    m.why = why;
    m.epoch = cl_view(c)->epoch;
    cl_act_pack(c, link, PEER_PROPOSED, &m);
}

/* coord's: err is what became of the proposal, the answer what became of the
 * command. */
static void proposal_done(void *arg, enum err err, void *answer)
{
    struct cl_proposal *p = arg;
    struct cluster *c = p->c;

    (void)answer;
    if (err != OK)
        p->answer.err = err;
    switch (p->origin) {
    case CL_FROM_ASK:
        ask_said(c, p->id, &p->answer);
        break;
    case CL_FROM_PEER:
        said_to_peer(c, p->link, p->id, &p->answer);
        break;
    case CL_FROM_DUTY:
        cl_leader_done(c, p, p->answer.err);
        break;
    }
    proposal_free(p);
}

static enum err propose(struct cluster *c, const struct cl_proposal *like,
                        const uint8_t *cmd, size_t n)
{
    struct cl_proposal *p;
    enum err e;

    if (!c->coord || c->closing)
        return ERR_WRONG_NODE;
    p = fault_here("cl_propose") ? NULL : malloc(sizeof(*p));
    if (!p)
        return ERR_BUSY;
    *p = *like;
    p->c = c;
    list_init(&p->node);
    list_add_tail(&c->proposals, &p->node);
    c->proposal_n++;
    e = coord_propose(c->coord, cmd, n, proposal_done, p, &p->answer);
    if (e != OK)
        proposal_free(p);
    return e;
}

enum err cl_ask_duty(struct cluster *c, struct cmd *cmd)
{
    struct cl_proposal p = {.origin = CL_FROM_DUTY, .kind = cmd->kind};
    struct bytes b = {0};
    enum err e;

    cmd->id = cl_random(c) | 1;
    p.id = cmd->id;
    p.slots = cmd->kind == CMD_SLOTS;
    e = cmd_encode(cmd, &b);
    if (e == OK)
        e = b.bad ? ERR_NO_MEMORY : propose(c, &p, b.p, b.len);
    bytes_fini(&b);
    return e;
}

void cl_ask_propose(struct cluster *c, struct cl_link *l,
                    const Peer__Propose *m)
{
    struct cl_proposal p = {
        .origin = CL_FROM_PEER, .id = m->id, .link = l->id};
    struct answer no = {.err = ERR_WRONG_NODE};

    if (l->generation == cl_view(c)->generation && cl_leads(c))
        no.err = propose(c, &p, m->command.data, m->command.len);
    if (no.err != OK)
        said_to_peer(c, l->id, m->id, &no);
}

void cl_ask_proposed(struct cluster *c, const Peer__Proposed *m)
{
    struct answer a = {.err = (enum err)m->err, .value = m->value};
    size_t n = strnlen(m->why, sizeof(a.msg.text) - 1);

    memcpy(a.msg.text, m->why, n);
    ask_said(c, m->id, &a);
}

/* ---- This node's own ---- */

static void ask_try(struct cluster *c, struct cl_ask *a)
{
    struct cl_proposal p = {.origin = CL_FROM_ASK, .id = a->id};
    struct cl_link *l = cl_leads(c) ? NULL : cl_seek_leader(c);
    Peer__Propose m = PEER__PROPOSE__INIT;

    a->next_ms = c->now_ms + CL_ASK_AGAIN_MS;
    if (cl_leads(c)) {
        a->busy = propose(c, &p, a->cmd.p, a->cmd.len) == OK;
    } else if (l) {
        m.id = a->id;
        m.command.data = a->cmd.p;
        m.command.len = a->cmd.len;
        cl_act_pack(c, l->id, PEER_PROPOSE, &m);
    }
}

static struct cl_ask *ask_new(struct cluster *c, enum cl_ask_kind kind,
                              const struct cmd *cmd, enum err *err_out)
{
    struct cl_ask *a = NULL;
    struct cmd with = *cmd;

    *err_out = ERR_BUSY;
    if (c->ask_n < CL_ASKS_MAX)
        a = fault_here("cl_ask") ? NULL : calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    if (!with.id)
        with.id = cl_random(c) | 1;
    *err_out = cmd_encode(&with, &a->cmd);
    if (*err_out == OK && a->cmd.bad)
        *err_out = ERR_NO_MEMORY;
    if (*err_out != OK) {
        bytes_fini(&a->cmd);
        free(a);
        return NULL;
    }
    a->kind = kind;
    a->id = with.id;
    a->deadline_ms = c->now_ms + c->cfg.propose_ms;
    list_init(&a->node);
    list_add_tail(&c->asks, &a->node);
    c->ask_n++;
    return a;
}

void cl_ask_client(struct cluster *c, const struct cmd *cmd, uint64_t ticket)
{
    struct answer no = {0};
    struct cl_ask *a;

    if (c->is_static) {
        no.err = errmsg_set(&no.msg, ERR_UNSUPPORTED,
                            "the provider static has a fixed list of members "
                            "(cluster.members) and takes no commands; "
                            "cluster.provider raft does");
        cl_act_answer(c, ticket, &no);
        return;
    }
    a = ask_new(c, CL_ASK_CLIENT, cmd, &no.err);
    if (!a) {
        cl_act_answer(c, ticket, &no);
        return;
    }
    a->ticket = ticket;
    ask_try(c, a);
}

bool cl_ask_joining(const struct cluster *c)
{
    LIST_FOREACH (n, &c->asks)
        if (ask_of(n)->kind == CL_ASK_JOIN)
            return true;
    return false;
}

void cl_ask_join(struct cluster *c)
{
    struct cmd cmd = {.kind = CMD_JOIN, .node = c->cfg.self};
    enum err e;
    struct cl_ask *a;

    cmd.node.voter = c->cfg.voter && !c->fenced;
    a = ask_new(c, CL_ASK_JOIN, &cmd, &e);
    if (a)
        ask_try(c, a);
}

void cl_ask_again(struct cluster *c)
{
    LIST_FOREACH (n, &c->asks)
        ask_of(n)->next_ms = 0;
}

void cl_ask_tick(struct cluster *c)
{
    struct answer late = {.err = ERR_NO_QUORUM};

    LIST_FOREACH_SAFE (n, &c->asks) {
        struct cl_ask *a = ask_of(n);

        if (c->now_ms >= a->deadline_ms) {
            (void)errmsg_set(&late.msg, ERR_NO_QUORUM,
                             "no majority of the voters answered within %u "
                             "ms; it may still happen", c->cfg.propose_ms);
            ask_end(c, a, &late);
        } else if (!a->busy && c->now_ms >= a->next_ms) {
            ask_try(c, a);
        }
    }
}

/* After coord is closed: no proposal is under way. */
void cl_ask_fini(struct cluster *c)
{
    MUST(c->proposal_n == 0);
    LIST_FOREACH_SAFE (n, &c->asks)
        ask_free(c, ask_of(n));
}
