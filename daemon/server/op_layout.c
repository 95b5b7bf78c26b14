/* SPDX-License-Identifier: Apache-2.0
 *
 * LAYOUT: registers a layout, or forgets one (layouts.h has them, base/layout.h
 * says which are good). Its table may be longer than what other operations may
 * unpack: it has the arena but for the answer. */
#include "server/layouts.h"
#include "server/peer.h"

enum { ANSWER_BYTES = 4096 };

static void layout_tick(struct op *op)
{
    Pikv__LayoutReply rep = PIKV__LAYOUT_REPLY__INIT;
    struct arena a = op->arena;
    const Pikv__LayoutRegister *m;
    enum err e;

    a.cap -= ANSWER_BYTES;
    m = msg_unpack(&pikv__layout_register__descriptor, &a, op->msg.env,
                   op->msg.frame.env_len);
    op->arena.used = a.used;
    if (!m)
        e = ERR_BAD_REQUEST;
    else if (m->forget)
        e = layouts_forget(op->peer, m->forget);
    else
        e = layouts_add(op->peer, m, &rep.id);
    if (e)
        op_reply(op, e);
    else
        op_reply_msg(op, OK, &rep);
}

const struct op_machine layout_machine = {layout_tick, {{"DO", 0}}};
