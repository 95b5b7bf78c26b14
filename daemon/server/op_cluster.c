/* SPDX-License-Identifier: Apache-2.0
 *
 * CLUSTER: what an operator sees of the cluster and does with it.
 *
 *   ASK -> (mail to control, which asks the node's part in the cluster, which
 *           may have to ask the leader) -> ANSWER
 *
 * Whoever may connect may look; changes (ClusterRequest.What that is not one of
 * the looking ones) are for those who may say RELOAD. The reply is packed by
 * control into room of this op's arena. The op does not watch its deadline:
 * control always answers, CANCELED at a stop. */
#include <string.h>

#include "server/ctl_mail.h"
#include "server/peer.h"

enum { ASK, ANSWER };

struct cluster_op {
    struct ctl_call call;
    struct op *op;
};

static bool cluster_looks(Pikv__ClusterRequest__What what)
{
    return what == PIKV__CLUSTER_REQUEST__WHAT__STATUS ||
           what == PIKV__CLUSTER_REQUEST__WHAT__NODES ||
           what == PIKV__CLUSTER_REQUEST__WHAT__SLOTS ||
           what == PIKV__CLUSTER_REQUEST__WHAT__EVENTS ||
           what == PIKV__CLUSTER_REQUEST__WHAT__PLAN ||
           what == PIKV__CLUSTER_REQUEST__WHAT__COORD ||
           what == PIKV__CLUSTER_REQUEST__WHAT__EXPERTS ||
           what == PIKV__CLUSTER_REQUEST__WHAT__EXPERTS_PLAN;
}

static void cluster_answered(struct mail *m, void *lane)
{
    struct cluster_op *co =
        container_of(ctl_call_of(m), struct cluster_op, call);

    (void)lane;
    op_done_one(co->op);
}

static enum err cluster_ask(struct op *op)
{
    struct cluster_op *co = arena_zalloc(&op->arena, sizeof *co);
    const Pikv__ClusterRequest *m =
        op_unpack(op, &pikv__cluster_request__descriptor);
    uint64_t room = min_u64(op->lane->limits.message_bytes, OP_MSG_BYTES / 2);

    MUST(co);
    if (!m)
        return ERR_BAD_REQUEST;
    if (!cluster_looks(m->what) && !op_operator(op))
        return ERR_DENIED;
    op->body = co;
    co->op = op;
    co->call.lane = op->lane;
    co->call.what = CTL_CLUSTER;
    co->call.request = m;
    co->call.reply_cap = (uint32_t)(room - WIRE_RECORD);
    co->call.reply = arena_alloc(&op->arena, co->call.reply_cap);
    MUST(co->call.reply);
    co->call.done = cluster_answered;
    op->pending = 1;
    op_goto(op, ANSWER);
    ctl_call_post(&co->call);
    return OK;
}

/* An error has words and nothing else. */
static void cluster_answer(struct op *op, struct cluster_op *co)
{
    struct ctl_call *call = &co->call;
    Pikv__ClusterReply rep;

    if (call->err || !call->reply_n) {
        pikv__cluster_reply__init(&rep);
        rep.error = call->msg.text;
        op_reply_msg(op, call->err, &rep);
        return;
    }
    op->send.frame.env_len = call->reply_n;
    op->send.body = call->reply;
    op_reply(op, OK);
}

static void cluster_tick(struct op *op)
{
    enum err e = OK;

    if (op->state == ASK)
        e = cluster_ask(op);
    else if (op->pending == 0)
        cluster_answer(op, op->body);
    if (e)
        op_reply(op, e);
}

const struct op_machine cluster_machine = {
    cluster_tick, {{"ASK", NEXT(ANSWER)}, {"ANSWER", 0}}};
