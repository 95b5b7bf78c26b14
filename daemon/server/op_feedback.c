/* SPDX-License-Identifier: Apache-2.0
 *
 * FEEDBACK: what an engine knows and the store cannot see. One tick, no sleep.
 *
 * The state of a session (open, idle, closed): blocks of this lane that were
 * put with the session's id as a label are worth more or less from now on. A
 * client tells every lane. A message that asks for more than this version does
 * (attention mass, expert load, queries) answers UNSUPPORTED whole. */
#include <string.h>

#include "server/peer.h"

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

    if (!e && (m->n_mass || m->n_experts || m->queries.len))
        e = ERR_UNSUPPORTED;
    if (!e && m->session == 0) /* the label of nobody */
        e = ERR_BAD_REQUEST;
    if (!e)
        e = feedback_state(m->session_state, &state);
    if (!e)
        store_session(op->lane->store, ns->id, m->session, state);
    return e;
}

static void feedback_tick(struct op *op)
{
    const Pikv__Feedback *m = op_unpack(op, &pikv__feedback__descriptor);

    op_reply(op, m ? feedback_do(op, m) : ERR_BAD_REQUEST);
}

const struct op_machine feedback_machine = {feedback_tick, {{"DO", 0}}};
