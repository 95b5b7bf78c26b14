/* SPDX-License-Identifier: Apache-2.0
 *
 * FEEDBACK: what an engine knows and the store cannot see.
 *
 *   DO -> (experts: mail to control, which counts) -> ANSWER
 *
 * The state of a session (open, idle, closed): blocks of this lane that were
 * put with the session's id as a label are worth more or less from now on. A
 * client tells every lane.
 *
 * Loads of experts, in a cluster: how many tokens each expert of a layer got
 * since the last message. They go to the leader with the node's figures, for
 * placement (`pikvctl experts`). A client tells one lane.
 *
 * A message that asks for more than this version does (attention mass, queries;
 * experts on a single node) answers UNSUPPORTED whole. The op does not watch
 * its deadline: control always answers. */
#include <string.h>

#include "server/ctl_mail.h"
#include "server/peer.h"

enum { DO, ANSWER };

struct feedback {
    struct ctl_call call;
    struct op *op;
};

static enum err feedback_state(const char *name, enum store_session *out)
{
    static const char *const names[] = {
        [SESSION_OPEN] = "open",
        [SESSION_IDLE] = "idle",
        [SESSION_CLOSED] = "closed",
    };

    for (uint32_t i = 0; i < countof(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum store_session)i;
            return OK;
        }
    }
    return ERR_BAD_REQUEST;
}

static enum err feedback_do(struct op *op, const Pikv__Feedback *m)
{
    const struct registry_ns *ns;
    enum store_session state;
    enum err e = lane_ns_find(op->lane, m->ns, 0, &ns);

    if (!e && (m->n_mass || m->queries.len))
        e = ERR_UNSUPPORTED;
    if (!e && m->n_experts && !m->session)
        return OK;
    if (!e && m->session == 0) /* the label of nobody */
        e = ERR_BAD_REQUEST;
    if (!e)
        e = feedback_state(m->session_state, &state);
    if (!e)
        store_session(op->lane->store, ns->id, m->session, state);
    return e;
}

static void feedback_counted(struct mail *m, void *lane)
{
    struct feedback *f = container_of(ctl_call_of(m), struct feedback, call);

    (void)lane;
    op_done_one(f->op);
}

static void feedback_count(struct op *op, const Pikv__Feedback *m)
{
    struct feedback *f = arena_zalloc(&op->arena, sizeof *f);

    MUST(f);
    op->body = f;
    f->op = op;
    f->call.lane = op->lane;
    f->call.what = CTL_FEEDBACK;
    f->call.request = m;
    f->call.done = feedback_counted;
    op->pending = 1;
    op_goto(op, ANSWER);
    ctl_call_post(&f->call);
}

static void feedback_tick(struct op *op)
{
    const struct feedback *f = op->body;
    const Pikv__Feedback *m;
    enum err e = ERR_BAD_REQUEST;

    if (op->state == ANSWER) {
        if (op->pending == 0)
            op_reply(op, f->call.err);
        return;
    }
    m = op_unpack(op, &pikv__feedback__descriptor);
    if (m)
        e = feedback_do(op, m);
    if (!e && m->n_experts)
        feedback_count(op, m);
    else
        op_reply(op, e);
}

const struct op_machine feedback_machine = {
    feedback_tick, {{"DO", NEXT(ANSWER)}, {"ANSWER", 0}}};
