/* SPDX-License-Identifier: Apache-2.0
 *
 * HELLO and PING. HELLO is the first request of every connection; until it is
 * answered nothing else is. It tells the client what it may have in flight and
 * where the other lanes are; it may come again and then only answers. */
#include <stdio.h>
#include <string.h>

#include "server/control.h"
#include "server/peer.h"

static void hello_who(struct peer *p, const Pikv__Hello *h)
{
    snprintf(p->engine, sizeof p->engine, "%s", h->engine);
    snprintf(p->model, sizeof p->model, "%s", h->model);
    p->client = h->client;
    /* The kernel's word counts more than the client's, where there is one. */
    p->pid = p->tp->cred.pid ? p->tp->cred.pid : h->pid;
    p->features = h->features & PEER_FEATURES;
}

static bool hello_lanes(struct op *op, Pikv__HelloReply *rep)
{
    const struct control *c = op->lane->control;

    rep->n_lanes = op->lane->lanes;
    rep->lanes = arena_alloc(&op->arena, rep->n_lanes * sizeof *rep->lanes);
    for (size_t i = 0; rep->lanes && i < rep->n_lanes; i++) {
        Pikv__Lane *lane = arena_alloc(&op->arena, sizeof *lane);

        if (!lane)
            return false;
        pikv__lane__init(lane);
        lane->shm = c->lanes[i]->addr_shm;
        lane->ucx = c->lanes[i]->addr_ucx;
        lane->numa_node = -1;
        rep->lanes[i] = lane;
    }
    return rep->lanes;
}

static void hello_tick(struct op *op)
{
    const struct lane *l = op->lane;
    const struct config *c = l->cfg;
    Pikv__HelloReply rep = PIKV__HELLO_REPLY__INIT;
    const Pikv__Hello *h = op_unpack(op, &pikv__hello__descriptor);
    char server[] = "pikvd " PIKV_VERSION;

    if (!h) {
        op_reply(op, ERR_BAD_REQUEST);
        return;
    }
    if (h->version != WIRE_VERSION) {
        op_reply(op, ERR_BAD_VERSION);
        return;
    }
    hello_who(op->peer, h);
    rep.version = WIRE_VERSION;
    rep.features = op->peer->features;
    rep.server = server;
    rep.boot = l->control->boot;
    rep.lane = l->idx;
    rep.credit_ops = (uint32_t)c->limits.ops_per_client;
    rep.credit_bytes = c->limits.bytes_per_client_bytes;
    rep.credit_rndv = (uint32_t)c->limits.rndv_per_client;
    rep.batch_keys_max = l->limits.batch_keys;
    rep.message_bytes_max = l->limits.message_bytes;
    rep.block_bytes_max = l->limits.block_bytes;
    rep.pin_ttl_ms_max = (uint32_t)(c->limits.pin_ttl_us / 1000);
    rep.epoch = l->epoch;
    rep.ring_bytes = (uint32_t)c->listen.shm.ring_bytes;
    if (!hello_lanes(op, &rep)) {
        op_reply(op, ERR_LIMIT);
        return;
    }
    peer_greeted(op->peer);
    op_reply_msg(op, OK, &rep);
}

static void ping_tick(struct op *op)
{
    Pikv__Empty rep = PIKV__EMPTY__INIT;

    op_reply_msg(op, OK, &rep);
}

const struct op_machine hello_machine = {hello_tick, {{"DO", 0}}};
const struct op_machine ping_machine = {ping_tick, {{"DO", 0}}};
