/* SPDX-License-Identifier: Apache-2.0
 *
 * MEM_REGISTER, MEM_UNREGISTER, LOAN_ATTACH: memory that both sides of a
 * same-host connection see. The transport owns registered memories and checks
 * every use of them; here is only the request. */
#include "server/peer.h"
#include "server/pins.h"

static void mem_register_tick(struct op *op)
{
    const Pikv__MemRegister *m = op_unpack(op, &pikv__mem_register__descriptor);
    Pikv__MemRegisterReply rep = PIKV__MEM_REGISTER_REPLY__INIT;
    const struct tp_ops *tp = op->peer->tp->t->ops;
    bool mapped;
    enum err e;

    if (!m || op->fd < 0) {
        op_reply(op, ERR_BAD_REQUEST);
        return;
    }
    if (!tp->mem_register || (m->kind != PIKV__MEM_REGISTER__KIND__MEMFD &&
                              m->kind != PIKV__MEM_REGISTER__KIND__FILE)) {
        op_reply(op, ERR_UNSUPPORTED);
        return;
    }
    e = tp->mem_register(op->peer->tp, op->fd, m->offset, m->length,
                         m->writable, &rep.id, &mapped);
    if (e) {
        op_reply(op, e);
        return;
    }
    op->fd = -1; /* taken */
    op->peer->memories++;
    rep.mapped = mapped;
    op_reply_msg(op, OK, &rep);
}

static enum err mem_forget(struct peer *p, uint32_t id)
{
    enum err e = p->tp->t->ops->mem_unregister(p->tp, id);

    if (!e)
        p->memories--;
    return e;
}

static void mem_unregister_tick(struct op *op)
{
    const Pikv__MemUnregister *m =
        op_unpack(op, &pikv__mem_unregister__descriptor);
    const struct tp_ops *tp = op->peer->tp->t->ops;

    if (!m)
        op_reply(op, ERR_BAD_REQUEST);
    else if (!tp->mem_unregister)
        op_reply(op, ERR_UNSUPPORTED);
    else
        op_reply(op, mem_forget(op->peer, m->id));
}

static void loan_attach_tick(struct op *op)
{
    const Pikv__LoanAttach *m = op_unpack(op, &pikv__loan_attach__descriptor);
    Pikv__LoanAttachReply rep = PIKV__LOAN_ATTACH_REPLY__INIT;
    const struct lane *l = op->lane;
    const struct registry_ns *ns;
    enum err e = m ? lane_ns_find(l, m->ns, 0, &ns) : ERR_BAD_REQUEST;

    if (!e && (!op->peer->tp->t->ops->loans_end || ns->pool == 0 ||
               l->loan_fds[ns->pool] < 0))
        e = ERR_UNSUPPORTED;
    if (!e && !loans_allowed(op->peer, ns))
        e = ERR_DENIED;
    if (e) {
        op_reply(op, e);
        return;
    }
    rep.bytes = l->loan_pool_bytes[ns->pool];
    rep.cap_bytes = rep.bytes / 100 * l->cfg->limits.loan_share_pct;
    rep.ttl_ms = (uint32_t)(l->cfg->limits.loan_ttl_us / 1000);
    op->send.fd = l->loan_fds[ns->pool];
    op_reply_msg(op, OK, &rep);
}

const struct op_machine mem_register_machine = {mem_register_tick, {{"DO", 0}}};
const struct op_machine mem_unregister_machine = {mem_unregister_tick,
                                                  {{"DO", 0}}};
const struct op_machine loan_attach_machine = {loan_attach_tick, {{"DO", 0}}};
