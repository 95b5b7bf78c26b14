/* SPDX-License-Identifier: Apache-2.0
 *
 * PUT_WRITE: ranges of open blocks (opens.h), from the client into the extents.
 *
 *   START -> CLAIM -> PULL -> SETTLE -> REPLY
 *              |                          ^
 *              +-- nothing to move -------+
 *
 *  state   on                     does                          next
 *  START   the request            checks all of it              CLAIM
 *  CLAIM   each key               finds the open block by its   PULL
 *                                 token, takes the range for
 *                                 itself and a ref on the block;
 *                                 refusals are answered here
 *  PULL    bytes are there        -                             SETTLE
 *          late, gone             cancels the pulls, waits      PULL
 *  SETTLE  each range             good: written, with its       REPLY
 *                                 crc32c; else it may be
 *                                 written again. MISS: the block
 *                                 was given up meanwhile
 *
 * The op's ref keeps the extents until the transport has let go of them,
 * whatever became of the open block: late bytes meet memory that nobody else
 * has. The last bytes of a block that all have committed make it visible. */
#include <string.h>

#include "server/batch.h"
#include "server/opens.h"
#include "server/peer.h"
#include "server/xfer.h"

enum { START, CLAIM, PULL, SETTLE, REPLY };

struct write_key {
    struct xfer x; /* first: the pull's completion leads here */
    struct open *open;
    uint64_t token, off; /* token: is it still that use of the slot? */
    uint32_t idx, crc;
    bool has_crc;
};

static_assert(sizeof(struct write_key) <= OP_KEY_BYTES, "fits the arena");

struct write {
    struct walk walk;
    struct op_results *r;
    struct write_key *keys; /* claimed: n of them */
    uint32_t n;
    uint64_t data_off; /* inline data: where the next key's bytes start */
    uint64_t pull_ns;
};

static void write_pulled(struct tp_xfer *x, enum err e)
{
    op_done_one(xfer_record(x, e));
}

static enum err write_claim(struct op *op, struct write *w, struct open **o_out)
{
    const struct wire_key *rec = &w->walk.ref.rec;
    struct open *o = open_find(op->lane, rec->token, &w->walk.key);
    enum err e;

    if (!o || o->state != OPEN_OPEN)
        return ERR_MISS;
    if (rec->off + rec->len > o->len)
        return ERR_BAD_REQUEST;
    e = runs_claim(&o->runs, rec->off, rec->len);
    if (e)
        return e;
    e = open_join(o, op->peer);
    if (e)
        runs_drop(&o->runs, rec->off);
    *o_out = o;
    return e;
}

static enum err write_key(struct op *op, struct write *w)
{
    const struct key_ref *ref = &w->walk.ref;
    struct write_key *k = &w->keys[w->n];
    struct open *o;
    enum err e = write_claim(op, w, &o);

    if (e)
        return e;
    memset(k, 0, sizeof *k);
    if (!xfer_init(&k->x, op, w->walk.idx, o->block, ref->rec.off,
                   ref->rec.len))
        e = ERR_BUSY; /* no span array is left */
    if (!e)
        e = xfer_aim(&k->x, ref->segs, ref->rec.seg_n, ref->rec.off);
    if (e) {
        xfer_fini(&k->x);
        runs_drop(&o->runs, ref->rec.off);
        return e;
    }
    store_ref(op->lane->store, o->block);
    k->open = o;
    k->token = o->token;
    k->off = ref->rec.off;
    k->idx = w->walk.idx;
    k->crc = ref->rec.crc;
    k->has_crc = ref->rec.flags & KEY_CRC;
    k->x.tp.want_crc = true;
    k->x.tp.done = write_pulled;
    if (op->msg.data)
        xfer_copy_in(&k->x, op->msg.data + w->data_off - ref->rec.len);
    w->n++;
    return OK;
}

static void write_claim_all(struct op *op, struct write *w)
{
    struct tp_peer *tp = op->peer->tp;
    enum err e;

    while (walk_next(op, &w->walk, &e)) {
        w->data_off += w->walk.ref.rec.len;
        if (!e)
            e = write_key(op, w);
        if (!e)
            continue;
        w->r->results[w->walk.idx].status = e;
        if (tp && !op->msg.data) /* inline bytes have come already */
            tp->t->ops->skip(tp, op->msg.frame.req, w->walk.idx);
    }
}

static void write_pull(struct op *op, struct write *w)
{
    struct tp_peer *tp = op->peer->tp;

    w->pull_ns = env_fresh_ns(&op->lane->env);
    if (op->msg.data) /* copied when it was claimed */
        return;
    op->pending += w->n; /* all counted before the first is started */
    for (uint32_t i = 0; i < w->n; i++) {
        w->keys[i].x.flying = true;
        tp->t->ops->pull(tp, &w->keys[i].x.tp);
    }
}

static void write_settle_key(struct op *op, struct write *w,
                             struct write_key *k)
{
    struct metrics *m = &op->lane->metrics;
    struct wire_result *r = &w->r->results[k->idx];
    struct open *o = k->open;
    bool here = o->state == OPEN_OPEN && o->token == k->token;

    r->status = k->x.err;
    if (!r->status && k->has_crc && k->x.tp.crc != k->crc) {
        metric_add(&m->checksum_mismatches, 1);
        r->status = ERR_CORRUPT;
    }
    if (!r->status && !here)
        r->status = ERR_MISS;
    xfer_fini(&k->x);
    if (!r->status) {
        runs_done(&o->runs, k->off, k->x.tp.crc);
        r->moved = k->x.tp.len;
        r->len = o->len;
        r->crc = k->x.tp.crc;
        r->state = STATE_PENDING;
        metric_add(&m->bytes_in, r->moved);
        op->peer->bytes_in += r->moved;
    } else if (here) {
        runs_drop(&o->runs, k->off);
    }
    if (here)
        open_settle(o);
    store_unref(op->lane->store, k->x.block);
}

static void write_settle(struct op *op, struct write *w)
{
    hist_add(&op->lane->metrics.stage_pull_seconds,
             env_fresh_ns(&op->lane->env) - w->pull_ns);
    for (uint32_t i = 0; i < w->n; i++)
        write_settle_key(op, w, &w->keys[i]);
}

static enum err write_start(struct op *op)
{
    struct write *w = arena_zalloc(&op->arena, sizeof *w);
    enum err e;

    MUST(w);
    op->body = w;
    e = walk_begin(op, &w->walk);
    if (!e && op->msg.data && op->msg.frame.data_len != op->bytes)
        e = ERR_BAD_REQUEST; /* inline data is exactly the ranges' bytes */
    if (e)
        return e;
    w->r = op_results_new(op, &w->walk.batch.head, w->walk.batch.left);
    w->keys = arena_alloc(&op->arena, w->walk.batch.left * sizeof *w->keys);
    MUST(w->keys);
    return OK;
}

static void put_write_tick(struct op *op)
{
    struct write *w = op->body;
    enum err e;

    for (;;) {
        switch (op->state) {
        case START:
            e = write_start(op);
            if (e) {
                batch_skip(op->peer->tp, &op->msg, &op->lane->limits, 0);
                op_reply(op, e);
                return;
            }
            w = op->body;
            op_goto(op, CLAIM);
            break;
        case CLAIM:
            write_claim_all(op, w);
            op_goto(op, w->n ? PULL : REPLY);
            if (w->n)
                write_pull(op, w);
            break;
        case PULL:
            if (op->pending) {
                if (op->late) /* what is cancelled completes soon */
                    xfer_cancel_all(&w->keys[0].x, w->n, sizeof *w->keys);
                return;
            }
            op_goto(op, SETTLE);
            break;
        case SETTLE:
            write_settle(op, w);
            op_goto(op, REPLY);
            break;
        case REPLY:
            op_reply_batch(op, w->r, NULL, 0);
            return;
        }
    }
}

const struct op_machine put_write_machine = {
    .tick = put_write_tick,
    .states =
        {
            [START] = {"START", NEXT(CLAIM)},
            [CLAIM] = {"CLAIM", NEXT(PULL) | NEXT(REPLY)},
            [PULL] = {"PULL", NEXT(SETTLE)},
            [SETTLE] = {"SETTLE", NEXT(REPLY)},
            [REPLY] = {"REPLY", 0},
        },
};
