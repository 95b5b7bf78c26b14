/* SPDX-License-Identifier: Apache-2.0
 *
 * PUT_BEGIN: make blocks that several writers fill (opens.h), or join them.
 *
 *              +-- memory freed --+
 *              v                  |
 *   START -> RESERVE -------------+
 *              |
 *              +-- no keys left, late, gone --> REPLY
 *
 *  state    on                    does                        next
 *  START    the request           checks all of it            RESERVE
 *  RESERVE  key stored            EXISTS                      RESERVE
 *           key OPEN, the same    joins, answers its token    RESERVE
 *           key OPEN, another     MISMATCH, or PENDING where  RESERVE
 *                                 a plain PUT stores it
 *           no slot, over the cap BUSY                        RESERVE
 *           no memory             sleeps                      RESERVE
 *           all keys, late, gone  BUSY for those without      REPLY
 *                                 memory
 *
 * What was begun stays open whether or not the answer arrives: a client that
 * asks again joins its own block. Two requests may wait for memory that each
 * other's open blocks hold; both end at their deadline. */
#include "server/batch.h"
#include "server/opens.h"
#include "server/owner.h"
#include "server/peer.h"

enum { START, RESERVE, REPLY };

struct begin {
    struct walk walk;
    struct op_results *r;
    bool again; /* walk stands on a key that found no memory */
};

/* 0 writers is 1. */
static uint32_t begin_writers(const struct begin *b)
{
    return (uint32_t)max_u64(b->walk.ref.rec.off, 1);
}

static void begin_answer(struct begin *b, const struct open *o)
{
    struct wire_result *r = &b->r->results[b->walk.idx];

    r->loan = o->token;
    r->len = o->len;
    r->state = STATE_PENDING;
}

/* Somebody stores this key now. */
static enum err begin_join(struct op *op, struct begin *b, uint32_t block)
{
    struct open *o = open_of_block(op->lane, block);
    enum err e;

    if (!o)
        return ERR_PENDING;
    if (o->len != b->walk.ref.rec.len || o->writers != begin_writers(b))
        return ERR_MISMATCH;
    e = open_join(o, op->peer);
    if (!e)
        begin_answer(b, o);
    return e;
}

static void begin_open(struct op *op, struct begin *b, uint32_t block)
{
    const struct key_ref *ref = &b->walk.ref;
    struct open_spec spec = {
        .ns = b->walk.ns->id,
        .generation = b->walk.ns->generation,
        .hash = b->walk.key.hash,
        .len = ref->rec.len,
        .writers = begin_writers(b),
        .open_ms = b->walk.batch.head.pin_ttl_ms,
    };
    struct open *o;

    if (ref->has_attr) {
        spec.pin_ttl_ms = ref->attr.pin_ttl_ms;
        spec.durable = ref->attr.flags & ATTR_DURABLE;
    }
    o = open_new(op->lane, block, &spec);
    MUST(open_join(o, op->peer) == OK); /* the first */
    begin_answer(b, o);
}

/* *wait_out: BUSY for want of memory, which may be freed. */
static enum err begin_make(struct op *op, struct begin *b, bool *wait_out)
{
    const struct key_ref *ref = &b->walk.ref;
    struct store *s = op->lane->store;
    enum store_found why;
    uint32_t block;
    enum err e;

    if (!opens_room(op->lane, ref->rec.len))
        return store_find(s, &b->walk.key, &why) ? ERR_EXISTS : ERR_BUSY;
    if (ref->has_attr && (ref->attr.flags & ATTR_DURABLE) &&
        op->lane->link.ssd.n == 0)
        return ERR_UNSUPPORTED; /* as PUT */
    e = store_reserve(s, &b->walk.key, ref->has_attr ? &ref->attr : NULL,
                      ref->parent, ref->rec.parent_len, ref->rec.len, &block);
    *wait_out = e == ERR_BUSY;
    if (!e)
        begin_open(op, b, block);
    return e;
}

static enum err begin_key(struct op *op, struct begin *b, bool *wait_out)
{
    uint32_t block;
    enum err e;

    if (b->walk.ref.rec.off > OPEN_WRITERS)
        return ERR_LIMIT;
    block = store_find_open(op->lane->store, &b->walk.key);
    if (block) /* begun here, whosever the slot is by now */
        return begin_join(op, b, block);
    e = owner_of_put(op, &b->walk.batch.head, &b->walk.key,
                     &b->r->results[b->walk.idx]);
    return e ? e : begin_make(op, b, wait_out);
}

/* true: all keys have their answer. */
static bool begin_reserve(struct op *op, struct begin *b)
{
    enum err e = OK;

    while (b->again || walk_next(op, &b->walk, &e)) {
        struct wire_result *r = &b->r->results[b->walk.idx];
        bool wait = false, was_again = b->again;

        b->again = false;
        e = owner_lane(op, r, e);
        if (op->late || op->gone)
            e = was_again ? ERR_BUSY : ERR_TIMEOUT;
        if (!e)
            e = begin_key(op, b, &wait);
        if (wait) {
            b->again = true;
            return false;
        }
        r->status = e;
    }
    return true;
}

static enum err begin_start(struct op *op)
{
    struct begin *b = arena_zalloc(&op->arena, sizeof *b);
    enum err e;

    MUST(b);
    op->body = b;
    e = walk_begin(op, &b->walk);
    if (!e)
        b->r = op_results_new(op, &b->walk.batch.head, b->walk.batch.left);
    return e;
}

static void put_begin_tick(struct op *op)
{
    struct begin *b = op->body;
    enum err e;

    for (;;) {
        switch (op->state) {
        case START:
            e = begin_start(op);
            if (e) {
                op_reply(op, e);
                return;
            }
            b = op->body;
            op_goto(op, RESERVE);
            break;
        case RESERVE:
            e = walk_resume(op, &b->walk);
            if (e) { /* flushed while we slept, and what was begun with it */
                op_reply(op, e);
                return;
            }
            if (!begin_reserve(op, b)) {
                lane_nudge_others(op->lane);
                op_wait_memory(op);
                return;
            }
            op_goto(op, REPLY);
            break;
        case REPLY:
            op_reply_batch(op, b->r, NULL, 0);
            return;
        }
    }
}

const struct op_machine put_begin_machine = {
    .tick = put_begin_tick,
    .states =
        {
            [START] = {"START", NEXT(RESERVE)},
            [RESERVE] = {"RESERVE", NEXT(REPLY)},
            [REPLY] = {"REPLY", 0},
        },
};
