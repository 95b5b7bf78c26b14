/* SPDX-License-Identifier: Apache-2.0
 *
 * PUT_COMMIT and PUT_ABORT: a writer is done with an open block (opens.h), or
 * gives it up.
 *
 *               +-- bytes arrived, or it ended --+
 *               v                                |
 *   START -> COMMIT -----------------------------+
 *               |
 *               +-> PERSIST -> REPLY
 *               |                ^
 *               +-- none durable +
 *
 *  state    on                    does                          next
 *  START    the request           checks all of it              COMMIT
 *  COMMIT   not the last writer   PENDING                       COMMIT
 *           last, bytes missing   PARTIAL; nothing is left      COMMIT
 *           last, bytes on their  sleeps                        COMMIT
 *           way
 *           last, whole           OK: visible                   COMMIT
 *           ended before          what it said then, or MISS    COMMIT
 *           late, gone            TIMEOUT for one that sleeps   COMMIT
 *           all keys              -                             PERSIST
 *  PERSIST  durable blocks        writes and flushes; what      REPLY
 *                                 cannot be stays in memory:
 *                                 NOT_DURABLE
 *
 * A commit is remembered before the op sleeps: it counts, even if its client is
 * told TIMEOUT. Said again it answers as it would have. The block is the
 * store's once it is visible: what follows (pin, SSD) finds it by key and
 * version, like anybody else. */
#include "server/batch.h"
#include "server/opens.h"
#include "server/peer.h"
#include "server/pins.h"

enum { START, COMMIT, PERSIST, REPLY };

/* A block to be made durable, with a ref. */
struct finish_sync {
    struct store_wait wait;
    struct op *op;
    struct open *open;
    uint64_t token;
    uint32_t block, idx;
};

static_assert(sizeof(struct finish_sync) <= OP_KEY_BYTES, "fits the arena");

struct finish {
    struct walk walk;
    struct op_results *r;
    bool again;   /* walk stands on a key whose bytes are on their way */
    enum err err; /* of the namespace, after a sleep */
    struct finish_sync *syncs;
    uint32_t sync_n, sync_begun;
};

/* ---- COMMIT -------------------------------------------------------------- */

/* It is visible, perhaps for a while already: what its attributes ask for. */
static void finish_visible(struct op *op, struct finish *f, struct open *o)
{
    struct store *s = op->lane->store;
    struct wire_result *r = &f->r->results[f->walk.idx];
    enum store_found why;
    uint32_t block;
    bool here;

    r->version = o->version;
    r->len = o->len;
    r->crc = o->crc;
    r->state = STATE_HIT;
    if (!o->pin_ttl_ms && !o->durable)
        return;
    block = store_find(s, &f->walk.key, &why);
    here = block && store_version(s, block) == o->version &&
           store_where(s, block) == WHERE_MEMORY;
    if (here && o->pin_ttl_ms && !op->gone &&
        !pins_add(op->peer, block, o->pin_ttl_ms))
        r->flags |= RESULT_PINNED;
    if (!o->durable || o->synced)
        return;
    r->status = ERR_NOT_DURABLE; /* until it is */
    if (!here)
        return;
    store_ref(s, block);
    f->syncs[f->sync_n++] = (struct finish_sync){.op = op,
                                                 .open = o,
                                                 .token = o->token,
                                                 .block = block,
                                                 .idx = f->walk.idx};
}

/* PENDING of one that is to be waited for: open_waits. */
static enum err finish_status(const struct open *o)
{
    switch (o->state) {
    case OPEN_OPEN:
        return ERR_PENDING;
    case OPEN_COMMITTED:
        return OK;
    case OPEN_PARTIAL:
        return ERR_PARTIAL;
    case OPEN_FREE:
    case OPEN_ABORTED:
    case OPEN_LOST:
        break;
    }
    return ERR_MISS;
}

/* false: it sleeps on this key. */
static bool finish_commit(struct op *op, struct finish *f)
{
    const struct wire_key *rec = &f->walk.ref.rec;
    struct wire_result *r = &f->r->results[f->walk.idx];
    struct open *o = open_find(op->lane, rec->token, &f->walk.key);

    r->status = o ? finish_status(o) : ERR_MISS;
    if (!o || (o->state == OPEN_OPEN && rec->off >= o->writers)) {
        r->status = o ? ERR_BAD_REQUEST : ERR_MISS;
        return true;
    }
    if (o->state == OPEN_OPEN) {
        if (!f->again)
            open_commit(o, op->peer, (uint32_t)rec->off);
        open_settle(o);
        if (open_waits(o) && !op->late && !op->gone) {
            open_wait(o, op);
            return false;
        }
        r->status = open_waits(o) ? ERR_TIMEOUT : finish_status(o);
    }
    if (o->state == OPEN_COMMITTED)
        finish_visible(op, f, o);
    return true;
}

/* true: all keys have their answer, but for PERSIST. */
static bool finish_commit_all(struct op *op, struct finish *f)
{
    enum err e = OK;

    while (f->again || walk_next(op, &f->walk, &e)) {
        if (e || f->err)
            f->r->results[f->walk.idx].status = e ? e : f->err;
        else if (!finish_commit(op, f)) {
            f->again = true;
            return false;
        }
        f->again = false;
    }
    return true;
}

/* ---- PERSIST ------------------------------------------------------------- */

static void finish_sync_end(struct finish *f, struct finish_sync *y, enum err e)
{
    if (!e)
        f->r->results[y->idx].status = OK;
    if (!e && y->open->token == y->token)
        y->open->synced = true;
    store_unref(y->op->lane->store, y->block);
}

static void finish_tick(struct op *op);

/* Ticks after each, so that one that found the queue full can begin. */
static void finish_synced(struct store_wait *w)
{
    struct finish_sync *y = container_of(w, struct finish_sync, wait);
    struct op *op = y->op;

    finish_sync_end(op->body, y, w->err);
    op->pending--;
    finish_tick(op);
}

/* Late or gone: nothing is waited for any more. */
static void finish_sync_cut(struct op *op, struct finish *f)
{
    for (uint32_t i = 0; i < f->sync_n; i++) {
        struct finish_sync *y = &f->syncs[i];

        if (i < f->sync_begun && !y->wait.pending)
            continue; /* has its answer */
        store_wait_cancel(op->lane->store, &y->wait);
        finish_sync_end(f, y, ERR_TIMEOUT);
    }
    op->pending = 0;
    f->sync_begun = f->sync_n;
}

/* true: all blocks are durable, or are known not to be. */
static bool finish_persist(struct op *op, struct finish *f)
{
    if (op->late || op->gone)
        finish_sync_cut(op, f);
    while (f->sync_begun < f->sync_n) {
        struct finish_sync *y = &f->syncs[f->sync_begun];
        enum err e;

        y->wait = (struct store_wait){.done = finish_synced};
        list_init(&y->wait.node);
        e = store_persist(op->lane->store, y->block, &y->wait);
        if (e == ERR_BUSY) {
            if (!op->pending) /* else the next one done ticks */
                op_wait_memory(op);
            return false;
        }
        f->sync_begun++;
        if (e)
            finish_sync_end(f, y, e);
        else
            op->pending++;
    }
    return op->pending == 0;
}

/* ---- The whole ----------------------------------------------------------- */

static enum err finish_start(struct op *op)
{
    struct finish *f = arena_zalloc(&op->arena, sizeof *f);
    enum err e;

    MUST(f);
    op->body = f;
    e = walk_begin(op, &f->walk);
    if (e)
        return e;
    f->r = op_results_new(op, &f->walk.batch.head, f->walk.batch.left);
    f->syncs = arena_alloc(&op->arena, f->walk.batch.left * sizeof *f->syncs);
    MUST(f->syncs);
    return OK;
}

static void finish_tick(struct op *op)
{
    struct finish *f = op->body;
    enum err e;

    for (;;) {
        switch (op->state) {
        case START:
            e = finish_start(op);
            if (e) {
                op_reply(op, e);
                return;
            }
            f = op->body;
            op_goto(op, COMMIT);
            break;
        case COMMIT:
            list_del(&op->wait); /* it has looked: the slot may be used again */
            /* Flushed while we slept: its open blocks went with it. */
            f->err = walk_resume(op, &f->walk);
            if (!finish_commit_all(op, f))
                return;
            op_goto(op, f->sync_n ? PERSIST : REPLY);
            break;
        case PERSIST:
            if (!finish_persist(op, f))
                return;
            op_goto(op, REPLY);
            break;
        case REPLY:
            op_reply_batch(op, f->r, NULL, 0);
            return;
        }
    }
}

/* ---- ABORT --------------------------------------------------------------- */

static void put_abort_tick(struct op *op)
{
    struct op_results *r;
    struct walk w;
    enum err e = walk_begin(op, &w);

    if (e) {
        op_reply(op, e);
        return;
    }
    r = op_results_new(op, &w.batch.head, w.batch.left);
    while (walk_next(op, &w, &e)) {
        struct open *o =
            e ? NULL : open_find(op->lane, w.ref.rec.token, &w.key);

        if (o && o->state == OPEN_OPEN)
            open_abort(o, OPEN_ABORTED);
        if (!e && (!o || o->state != OPEN_ABORTED))
            e = ERR_MISS;
        r->results[w.idx].status = e;
    }
    op_reply_batch(op, r, NULL, 0);
}

const struct op_machine put_commit_machine = {
    .tick = finish_tick,
    .states =
        {
            [START] = {"START", NEXT(COMMIT)},
            [COMMIT] = {"COMMIT", NEXT(PERSIST) | NEXT(REPLY)},
            [PERSIST] = {"PERSIST", NEXT(REPLY)},
            [REPLY] = {"REPLY", 0},
        },
};

const struct op_machine put_abort_machine = {put_abort_tick, {{"DO", 0}}};
