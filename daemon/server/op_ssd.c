/* SPDX-License-Identifier: Apache-2.0
 *
 * SSD: what an operator sees of the SSDs and does with them.
 *
 *   ASK -> (mail to control, which asks the owner lanes) -> ANSWER
 *
 *   LIST     all of them
 *   RETIRE   one is emptied: what is worth it moves to the others, then nothing
 *            of it is used; the answer does not wait for that
 *   REPLACE  one that is retired or has failed is formatted and used again
 *
 * RETIRE and REPLACE are for those who may say RELOAD. The op does not watch
 * its deadline: control always answers. */
#include <string.h>

#include "server/ctl_mail.h"
#include "server/peer.h"

enum { ASK, ANSWER };

struct ssd_op {
    struct ctl_call call;
    struct op *op;
    struct ctl_ssd ssds[DISK_DEVS];
    Pikv__SsdReply rep;
    Pikv__SsdInfo infos[DISK_DEVS], *list[DISK_DEVS];
};
static_assert(sizeof(struct ssd_op) <= OP_MSG_BYTES / 2, "fits the arena");

static void ssd_answered(struct mail *m, void *lane)
{
    struct ssd_op *so = container_of(ctl_call_of(m), struct ssd_op, call);

    (void)lane;
    op_done_one(so->op);
}

static enum err ssd_ask(struct op *op)
{
    struct ssd_op *so = arena_zalloc(&op->arena, sizeof *so);
    const Pikv__SsdRequest *m = op_unpack(op, &pikv__ssd_request__descriptor);

    MUST(so);
    if (!m)
        return ERR_BAD_REQUEST;
    if (m->what != PIKV__SSD_REQUEST__WHAT__LIST && !op_operator(op))
        return ERR_DENIED;
    op->body = so;
    so->op = op;
    so->call.lane = op->lane;
    so->call.what = CTL_SSD;
    so->call.request = m;
    so->call.ssds = so->ssds;
    so->call.done = ssd_answered;
    op->pending = 1;
    op_goto(op, ANSWER);
    ctl_call_post(&so->call);
    return OK;
}

static void ssd_msg(struct op *op, uint32_t dev, const struct ctl_ssd *from,
                    Pikv__SsdInfo *to)
{
    const struct ssd_node *node = op->lane->link.node;
    const struct ssd_dev *d = &node->devs[dev];
    const struct seglog_info *i = &from->info;
    bool none = from->msg.text[0] == '\0';

    pikv__ssd_info__init(to);
    to->path = msg_str(&op->arena, d->path);
    to->state = msg_str(&op->arena, ssd_state_name(i->state));
    to->why = msg_str(&op->arena, none ? i->why : from->msg.text);
    to->engine = msg_str(&op->arena, d->engine);
    to->uuid.data = arena_alloc(&op->arena, sizeof i->uuid);
    MUST(to->path && to->state && to->why && to->engine && to->uuid.data);
    memcpy(to->uuid.data, i->uuid, sizeof i->uuid);
    to->uuid.len = sizeof i->uuid;
    to->bytes = i->bytes;
    to->segment_bytes = i->segment_bytes;
    to->segments = i->segments;
    to->free_segments = i->free_segments;
    to->written_bytes = i->written_bytes;
    to->payload_bytes = i->payload_bytes;
    MUST(config_ssd_budget(op->lane->cfg->ssd.write_budget, d->bytes,
                           &to->write_rate));
    to->binding = __atomic_load_n(&d->map.binding, __ATOMIC_RELAXED) != 0;
    to->queued_bytes = i->queued;
    to->recovered_records = i->recovered_records;
    to->recovered_ms = i->recovered_ms;
    to->from_checkpoint = i->from_checkpoint;
    to->lane = ssd_owner(node, dev);
}

static void ssd_answer(struct op *op, struct ssd_op *so)
{
    pikv__ssd_reply__init(&so->rep);
    so->rep.error = so->call.msg.text;
    so->rep.n_ssds = so->call.err ? 0 : op->lane->link.ssd.n;
    so->rep.ssds = so->list;
    for (uint32_t i = 0; i < so->rep.n_ssds; i++) {
        so->list[i] = &so->infos[i];
        ssd_msg(op, i, &so->ssds[i], &so->infos[i]);
    }
    op_reply_msg(op, so->call.err, &so->rep);
}

static void ssd_tick(struct op *op)
{
    enum err e = OK;

    if (op->state == ASK)
        e = ssd_ask(op);
    else if (op->pending == 0)
        ssd_answer(op, op->body);
    if (e)
        op_reply(op, e);
}

const struct op_machine ssd_machine = {ssd_tick,
                                       {{"ASK", NEXT(ANSWER)}, {"ANSWER", 0}}};
