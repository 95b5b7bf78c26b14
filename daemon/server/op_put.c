/* SPDX-License-Identifier: Apache-2.0
 *
 * PUT: store a batch of blocks.
 *
 *            +----------------- keys left -----------------+
 *            |                     +-- none is durable ----+
 *            v                     |                       |
 *   START -> RESERVE -> PULL -> COMMIT -> PERSIST ---------+--> REPLY
 *              |  ^                         ^ |            ^
 *              |  +- memory freed           | +- memory freed
 *              |                            |
 *              +-- only EXISTS, durable ----+
 *              +-- nothing to do, late, gone --------------+
 *
 *  RESERVE  for each key an OPEN block with fresh extents. EXISTS, PENDING and
 *           refusals are answered here, before any byte moves. When memory is
 *           short, what is reserved so far goes on first: once committed it can
 *           be evicted for the rest. With nothing reserved the op sleeps until
 *           memory is freed.
 *  PULL     the transport moves the bytes into the extents and computes the
 *           crc32c of what it stored.
 *  COMMIT   length and checksum are right: the block becomes visible, all at
 *           once. Otherwise it is aborted and leaves nothing behind.
 *  PERSIST  durable blocks are written to the SSD and flushed; what cannot be
 *           stays in memory and answers NOT_DURABLE, and so does a durable key
 *           that is stored already and cannot be made so.
 *
 * Every reserved block is committed or aborted in COMMIT, on every path: late
 * and gone only cancel the pulls and pass through it. Blocks that wait for the
 * SSD, to be read or to be made durable, keep their refs until the store says
 * so, or until late or gone: then the op waits no longer, and the store goes on
 * without it. So an SSD that hangs holds no PUT beyond its deadline. */
#include <string.h>

#include "server/batch.h"
#include "server/owner.h"
#include "server/peer.h"
#include "server/pins.h"
#include "server/xfer.h"

enum { START, RESERVE, PULL, COMMIT, PERSIST, REPLY };

struct put_key {
    struct xfer x; /* first: the pull's completion leads here */
    uint32_t idx;  /* place in the batch */
    uint32_t crc, pin_ttl_ms;
    bool has_crc, durable;
    struct hash128 hash;
};

/* A block to be made durable, with a ref. */
struct put_sync {
    struct store_wait wait;
    struct op *op;
    uint32_t block, idx;
};

static_assert(sizeof(struct put_key) + sizeof(struct put_sync) <= OP_KEY_BYTES,
              "fits the arena");

struct put {
    struct walk walk;
    struct op_results *r;
    struct put_key *keys; /* reserved and not yet committed: n of them */
    uint32_t n;
    struct put_sync *syncs; /* visible and not yet durable: sync_n of them */
    uint32_t sync_n, sync_begun;
    uint32_t loads;    /* of them on their way to memory */
    bool again;        /* walk stands on a key that found no memory */
    bool starved;      /* some key did */
    uint64_t data_off; /* inline data: where the next key's bytes start */
    uint64_t pull_ns;
};

static void put_tick(struct op *op);

static void put_pulled(struct tp_xfer *x, enum err e)
{
    op_done_one(xfer_record(x, e));
}

static struct put_sync *put_sync_add(struct put *put, struct op *op,
                                     uint32_t block, uint32_t idx)
{
    struct put_sync *y = &put->syncs[put->sync_n++];

    *y = (struct put_sync){.op = op, .block = block, .idx = idx};
    list_init(&y->wait.node);
    return y;
}

static void put_loaded(struct store_wait *w)
{
    struct put_sync *y = container_of(w, struct put_sync, wait);
    struct put *put = y->op->body;

    y->block = w->err ? 0 : w->block;
    if (--put->loads == 0 && y->op->state == PERSIST)
        put_tick(y->op);
}

/* The key is stored already, maybe by a PUT that could not make it durable, or
 * did not want to. One on the SSD alone is brought to memory first, so that it
 * stays while it is flushed. BUSY: no memory for that. */
static enum err put_exists(struct op *op, struct put *put)
{
    struct store *s = op->lane->store;
    enum store_found why;
    uint32_t block = store_find(s, &put->walk.key, &why);
    struct put_sync *y;

    if (!block)
        return ERR_EXISTS;
    y = put_sync_add(put, op, block, put->walk.idx);
    if (store_where(s, block) == WHERE_MEMORY) {
        store_ref(s, block);
        return ERR_EXISTS;
    }
    y->block = 0;
    y->wait.done = put_loaded;
    if (store_load(s, block, &put->walk.key, LOAD_DEMAND, &y->wait)) {
        put->sync_n--;
        return ERR_BUSY;
    }
    put->loads++;
    return ERR_EXISTS;
}

static enum err put_reserve_key(struct op *op, struct put *put)
{
    const struct key_ref *ref = &put->walk.ref;
    struct put_key *k = &put->keys[put->n];
    bool durable = ref->has_attr && (ref->attr.flags & ATTR_DURABLE);
    uint32_t block;
    enum err e = owner_of_put(op, &put->walk.batch.head, &put->walk.key,
                              &put->r->results[put->walk.idx]);

    if (!e && put->walk.batch.head.flags & BATCH_HERE)
        e = moves_check(op->lane, &put->walk.key,
                        ref->has_attr ? &ref->attr : NULL);
    if (e)
        return e;
    /* Memory keeps nothing: a promise that cannot be kept is not given. */
    if (durable && op->lane->link.ssd.n == 0)
        return ERR_UNSUPPORTED;
    e = store_reserve(op->lane->store, &put->walk.key,
                      ref->has_attr ? &ref->attr : NULL, ref->parent,
                      ref->rec.parent_len, ref->rec.len, &block);
    if (e == ERR_EXISTS && durable)
        e = put_exists(op, put);
    if (e)
        return e;
    memset(k, 0, sizeof *k);
    k->idx = put->walk.idx;
    k->crc = ref->rec.crc;
    k->has_crc = ref->rec.flags & KEY_CRC;
    k->durable = durable;
    k->hash = put->walk.key.hash;
    k->pin_ttl_ms = ref->has_attr ? ref->attr.pin_ttl_ms : 0;
    if (!xfer_init(&k->x, op, k->idx, block, 0, ref->rec.len)) {
        store_abort(op->lane->store, block);
        return ERR_BUSY; /* no span array left: as if memory were short */
    }
    e = xfer_aim(&k->x, ref->segs, ref->rec.seg_n, 0);
    if (e) {
        xfer_fini(&k->x);
        store_abort(op->lane->store, block);
        return e;
    }
    k->x.tp.want_crc = true;
    k->x.tp.done = put_pulled;
    if (op->msg.data)
        xfer_copy_in(&k->x, op->msg.data + put->data_off - ref->rec.len);
    put->n++;
    return OK;
}

/* A key that takes no bytes: its answer is final and its data is not wanted. */
static void put_answer(struct op *op, struct put *put, enum err e)
{
    struct peer *p = op->peer;

    put->r->results[put->walk.idx].status = e;
    if (p->tp && !op->msg.data) /* inline bytes have come already */
        p->tp->t->ops->skip(p->tp, op->msg.frame.req, put->walk.idx);
}

/* Why no further key is started; OK to go on. A deadline that passed while the
 * op waited for memory says so: BUSY. */
static enum err put_ended(const struct op *op, const struct put *put)
{
    if (op->gone)
        return ERR_PEER_GONE;
    if (op->late)
        return put->starved ? ERR_BUSY : ERR_TIMEOUT;
    return OK;
}

/* Reserves until the keys or the memory end. true: all keys were taken. */
static bool put_reserve(struct op *op, struct put *put)
{
    enum err e, ended;

    for (;;) {
        if (put->again)
            e = OK;
        else if (!walk_next(op, &put->walk, &e))
            return true;
        else {
            put->data_off += put->walk.ref.rec.len;
            if (e)
                e = owner_lane(op, &put->r->results[put->walk.idx], e);
        }
        put->again = false;
        ended = put_ended(op, put);
        if (!e && !ended)
            e = put_reserve_key(op, put);
        if (e == ERR_BUSY && !ended) {
            put->again = put->starved = true;
            return false;
        }
        if (e || ended)
            put_answer(op, put, e ? e : ended);
    }
}

static void put_pull(struct op *op, struct put *put)
{
    struct tp_peer *tp = op->peer->tp;

    put->pull_ns = env_fresh_ns(&op->lane->env);
    if (op->msg.data) /* copied when it was reserved */
        return;
    op->pending += put->n; /* all counted before the first is started */
    for (uint32_t i = 0; i < put->n; i++) {
        put->keys[i].x.flying = true;
        tp->t->ops->pull(tp, &put->keys[i].x.tp);
    }
}

/* It may have been dropped while its bytes came. */
static enum err put_check_moved(struct op *op, uint32_t block)
{
    struct store_info i;

    store_info(op->lane->store, block, &i);
    return moves_check(op->lane, &i.key, &i.attr);
}

static void put_commit_key(struct op *op, struct put *put, struct put_key *k)
{
    struct store *s = op->lane->store;
    struct wire_result *r = &put->r->results[k->idx];
    struct metrics *m = &op->lane->metrics;

    r->status = k->x.err;
    if (!r->status && k->has_crc && k->x.tp.crc != k->crc) {
        metric_add(&m->checksum_mismatches, 1);
        r->status = ERR_CORRUPT;
    }
    if (!r->status && put->walk.batch.head.flags & BATCH_HERE)
        r->status = put_check_moved(op, k->x.block);
    xfer_fini(&k->x);
    if (r->status) {
        store_abort(s, k->x.block);
        return;
    }
    store_commit(s, k->x.block, k->x.tp.crc);
    lane_accessed(op->lane, k->hash, k->x.tp.len);
    metric_add(&m->bytes_in, k->x.tp.len);
    op->peer->bytes_in += k->x.tp.len;
    result_of_block(op, k->x.block, r);
    r->moved = k->x.tp.len;
    if (k->pin_ttl_ms && !op->gone &&
        !pins_add(op->peer, k->x.block, k->pin_ttl_ms))
        r->flags |= RESULT_PINNED;
    if (k->durable)
        put_sync_add(put, op, k->x.block, k->idx);
    else
        store_unref(s, k->x.block);
}

static void put_commit(struct op *op, struct put *put)
{
    hist_add(&op->lane->metrics.stage_pull_seconds,
             env_fresh_ns(&op->lane->env) - put->pull_ns);
    for (uint32_t i = 0; i < put->n; i++)
        put_commit_key(op, put, &put->keys[i]);
    put->n = 0;
}

/* ---- PERSIST ------------------------------------------------------------- */

static void put_sync_end(struct put *put, struct put_sync *y, enum err e)
{
    if (e) /* EXISTS or OK, and not durable */
        put->r->results[y->idx].status = ERR_NOT_DURABLE;
    if (y->block)
        store_unref(y->op->lane->store, y->block);
}

/* Ticks after each, so that one that found the queue full can begin. */
static void put_synced(struct store_wait *w)
{
    struct put_sync *y = container_of(w, struct put_sync, wait);
    struct op *op = y->op;

    put_sync_end(op->body, y, w->err);
    op->pending--;
    put_tick(op);
}

/* Late or gone: nothing is waited for any more. */
static void put_sync_cut(struct op *op, struct put *put)
{
    for (uint32_t i = 0; i < put->sync_n; i++) {
        struct put_sync *y = &put->syncs[i];

        if (i < put->sync_begun && !y->wait.pending)
            continue; /* has its answer */
        store_wait_cancel(op->lane->store, &y->wait);
        put_sync_end(put, y, ERR_TIMEOUT);
    }
    op->pending = put->loads = 0;
    put->sync_begun = put->sync_n;
}

/* Begins what the store has room for. */
static void put_sync_begin(struct op *op, struct put *put)
{
    while (put->sync_begun < put->sync_n) {
        struct put_sync *y = &put->syncs[put->sync_begun];
        enum err e = ERR_MISS; /* could not be read */

        y->wait = (struct store_wait){.done = put_synced};
        list_init(&y->wait.node);
        if (y->block)
            e = store_persist(op->lane->store, y->block, &y->wait);
        if (e == ERR_BUSY)
            return;
        put->sync_begun++;
        if (e)
            put_sync_end(put, y, e);
        else
            op->pending++;
    }
}

/* true: all blocks are durable, or are known not to be. */
static bool put_persist(struct op *op, struct put *put)
{
    if (put_ended(op, put))
        put_sync_cut(op, put);
    if (put->loads)
        return false;
    put_sync_begin(op, put);
    if (op->pending)
        return false;
    if (put->sync_begun < put->sync_n) {
        op_wait_memory(op);
        return false;
    }
    put->sync_n = put->sync_begun = 0;
    return true;
}

/* ---- The whole ----------------------------------------------------------- */

static enum err put_start(struct op *op)
{
    struct put *put = arena_zalloc(&op->arena, sizeof *put);
    enum err e;

    MUST(put);
    op->body = put;
    e = walk_begin(op, &put->walk);
    if (!e && op->msg.data && op->msg.frame.data_len != op->bytes)
        e = ERR_BAD_REQUEST; /* inline data is exactly the blocks' bytes */
    if (e)
        return e;
    put->r = op_results_new(op, &put->walk.batch.head, put->walk.batch.left);
    put->keys =
        arena_alloc(&op->arena, put->walk.batch.left * sizeof *put->keys);
    put->syncs =
        arena_alloc(&op->arena, put->walk.batch.left * sizeof *put->syncs);
    MUST(put->keys && put->syncs);
    return OK;
}

/* The whole request fails; keys from `from` on have no answer of their own. */
static void put_fail(struct op *op, uint32_t from, enum err e)
{
    if (op->peer->tp)
        batch_skip(op->peer->tp, &op->msg, &op->lane->limits, from);
    op_reply(op, e);
}

static void put_tick(struct op *op)
{
    struct put *put = op->body;
    bool all;
    enum err e;

    for (;;) {
        switch (op->state) {
        case START:
            e = put_start(op);
            if (e) {
                put_fail(op, 0, e);
                return;
            }
            put = op->body;
            op_goto(op, RESERVE);
            break;
        case RESERVE:
            e = walk_resume(op, &put->walk);
            if (e) { /* flushed while we slept */
                put_fail(op, put->walk.idx + !put->again, e);
                return;
            }
            all = put_reserve(op, put);
            if (put->n == 0 && put->sync_n == 0 && !all) {
                lane_nudge_others(op->lane);
                op_wait_memory(op);
                return;
            }
            op_goto(op, put->n ? PULL : put->sync_n ? PERSIST : REPLY);
            if (op->state == PULL)
                put_pull(op, put);
            break;
        case PULL:
            if (op->pending) {
                if (op->late) /* what is cancelled completes soon */
                    xfer_cancel_all(&put->keys[0].x, put->n, sizeof *put->keys);
                return;
            }
            op_goto(op, COMMIT);
            break;
        case COMMIT:
            put_commit(op, put);
            op_goto(op, put->sync_n ? PERSIST : RESERVE);
            break;
        case PERSIST:
            if (!put_persist(op, put))
                return;
            op_goto(op, RESERVE);
            break;
        case REPLY:
            op_reply_batch(op, put->r, NULL, 0);
            return;
        }
    }
}

const struct op_machine put_machine = {
    .tick = put_tick,
    .states =
        {
            [START] = {"START", NEXT(RESERVE)},
            [RESERVE] = {"RESERVE", NEXT(PULL) | NEXT(PERSIST) | NEXT(REPLY)},
            [PULL] = {"PULL", NEXT(COMMIT)},
            [COMMIT] = {"COMMIT", NEXT(PERSIST) | NEXT(RESERVE)},
            [PERSIST] = {"PERSIST", NEXT(RESERVE)},
            [REPLY] = {"REPLY", 0},
        },
};
