/* SPDX-License-Identifier: Apache-2.0
 *
 * SIZE: what share of the accesses would another size of the cache serve? One
 * tick, no sleep.
 *
 * Of this lane: sizes are this lane's part, and a client adds the lanes up. An
 * access is a GET that found its key, or a PUT that stored one: who looks
 * before it computes stores what it missed. The curve is of all namespaces
 * together, since they share the tiers (store/mrc.h says how it is estimated).
 */
#include "server/peer.h"

enum { SIZE_POINTS = 32 };

struct size_op {
    Pikv__SizeReply rep;
    Pikv__SizePoint points[SIZE_POINTS], *list[SIZE_POINTS];
    struct mrc_point sizes[SIZE_POINTS];
};

/* Eighths and quarters of what there is, then multiples: memory first, then
 * memory and SSD together. Ascending, at most SIZE_POINTS. */
static uint32_t size_points(const struct lane *l, struct mrc_point *to)
{
    static const uint32_t sixteenths[] = {2,  4,  8,  12, 16, 20,
                                          24, 32, 40, 48, 56, 64};
    uint64_t both = (l->dram_bytes + l->ssd_bytes) / l->lanes;
    uint64_t dram = l->dram_bytes / l->lanes, last = 0;
    uint32_t n = 0;

    for (uint32_t i = 0; i < countof(sixteenths); i++)
        to[n++].bytes = dram / 16 * sixteenths[i];
    last = to[n - 1].bytes;
    for (uint32_t i = 0; i < countof(sixteenths) && l->ssd_bytes; i++)
        if (both / 16 * sixteenths[i] > last)
            to[n++].bytes = both / 16 * sixteenths[i];
    return n;
}

static enum err size_do(struct op *op, const Pikv__SizeRequest *m,
                        struct size_op *so)
{
    const struct lane *l = op->lane;
    uint32_t n;

    if (m->ns != 0)
        return ERR_UNSUPPORTED;
    pikv__size_reply__init(&so->rep);
    n = size_points(l, so->sizes);
    mrc_curve(&l->mrc, so->sizes, n);
    for (uint32_t i = 0; i < n; i++) {
        const struct mrc_point *p = &so->sizes[i];

        so->list[i] = &so->points[i];
        pikv__size_point__init(&so->points[i]);
        so->points[i].bytes = p->bytes;
        so->points[i].hit_ratio =
            p->accesses ? (double)p->hits / (double)p->accesses : 0;
    }
    so->rep.n_points = n;
    so->rep.points = so->list;
    so->rep.accesses = l->mrc.accesses;
    so->rep.sampled = l->mrc.sampled / 256;
    so->rep.dram_bytes = l->dram_bytes;
    so->rep.ssd_bytes = l->ssd_bytes;
    so->rep.lanes = l->lanes;
    return OK;
}

static void size_tick(struct op *op)
{
    const Pikv__SizeRequest *m = op_unpack(op, &pikv__size_request__descriptor);
    struct size_op *so = arena_zalloc(&op->arena, sizeof *so);
    enum err e = ERR_BAD_REQUEST;

    MUST(so);
    if (m)
        e = size_do(op, m, so);
    if (e)
        op_reply(op, e);
    else
        op_reply_msg(op, OK, &so->rep);
}

const struct op_machine size_machine = {size_tick, {{"DO", 0}}};
