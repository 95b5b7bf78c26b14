/* SPDX-License-Identifier: Apache-2.0
 *
 * PIN, UNPIN, TOUCH, LOAN_RELEASE: a word about each key, no bytes. One tick,
 * no sleep. They share the walk; each has its own line or two per key.
 *
 * Only a block in memory can be pinned. PIN of one on the SSD begins to bring
 * it there and answers BUSY: said again later it is pinned. */
#include "server/batch.h"
#include "server/owner.h"
#include "server/peer.h"
#include "server/pins.h"

static enum err pin_key(struct op *op, const struct walk *w, uint32_t block)
{
    struct store *s = op->lane->store;
    enum err e;

    if (store_where(s, block) != WHERE_MEMORY) {
        promote_block(op, block, &w->key);
        return ERR_BUSY;
    }
    e = pins_add(op->peer, block, w->batch.head.pin_ttl_ms);
    if (!e)
        store_use(s, block);
    return e;
}

static enum err unpin_key(struct op *op, const struct walk *w, uint32_t block)
{
    (void)w;
    return pins_remove(op->peer, block);
}

static enum err touch_key(struct op *op, const struct walk *w, uint32_t block)
{
    (void)w;
    store_use(op->lane->store, block);
    return OK;
}

typedef enum err key_fn(struct op *op, const struct walk *w, uint32_t block);

static void each_block(struct op *op, key_fn *fn)
{
    struct walk w;
    struct op_results *r;
    enum store_found why;
    uint32_t block;
    enum err e = walk_begin(op, &w);

    if (e) {
        op_reply(op, e);
        return;
    }
    r = op_results_new(op, &w.batch.head, w.batch.left);
    while (walk_next(op, &w, &e)) {
        struct wire_result *x = &r->results[w.idx];

        if (!e) {
            block = store_find(op->lane->store, &w.key, &why);
            if (block)
                result_of_block(op, block, x);
            e = block ? fn(op, &w, block)
                      : owner_missed(op, &w.batch.head, &w.key, why, x);
        } else {
            e = owner_lane(op, x, e);
        }
        if (!e && fn == pin_key)
            x->flags |= RESULT_PINNED;
        x->status = e;
    }
    op_reply_batch(op, r, NULL, 0);
}

static void pin_tick(struct op *op)
{
    each_block(op, pin_key);
}

static void unpin_tick(struct op *op)
{
    each_block(op, unpin_key);
}

static void touch_tick(struct op *op)
{
    each_block(op, touch_key);
}

/* Loans go by id, not by key: the block may have been dropped meanwhile. After
 * a flush the client cannot name the namespace any more; its loans end by ttl
 * or with the connection. */
static void loan_release_tick(struct op *op)
{
    struct walk w;
    struct op_results *r;
    enum err e = walk_begin(op, &w);

    if (e) {
        op_reply(op, e);
        return;
    }
    r = op_results_new(op, &w.batch.head, w.batch.left);
    while (walk_next(op, &w, &e))
        r->results[w.idx].status = loans_release(op->peer, w.ref.rec.token);
    op_reply_batch(op, r, NULL, 0);
}

const struct op_machine pin_machine = {pin_tick, {{"DO", 0}}};
const struct op_machine unpin_machine = {unpin_tick, {{"DO", 0}}};
const struct op_machine touch_machine = {touch_tick, {{"DO", 0}}};
const struct op_machine loan_release_machine = {loan_release_tick, {{"DO", 0}}};
