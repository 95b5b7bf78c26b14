/* SPDX-License-Identifier: Apache-2.0
 *
 * GET: read a batch of blocks, or ranges of them.
 *
 *   START -> FIND -> PUSH -> REPLY
 *              |      |  ^     ^
 *              |      +--+     |   a window of keys at a time
 *              +---------------+   nothing to push, or all of it inline
 *
 *  FIND   every key is looked up, its version and range checked, its block
 *         reffed: from here to the completion it is neither evicted nor moved.
 *  PUSH   the transport moves the bytes out. A batch that fits a message (UCX,
 *         small blocks) is gathered into the reply instead. After the soft
 *         deadline no further key is started: PARTIAL. At the hard one what is
 *         under way is cancelled: TIMEOUT.
 *
 * A loan (shm) takes the place of bytes: the block stays reffed until the
 * client gives it back (pins.h). Where no loan may be given the client's buffer
 * gets a copy, or DENIED if it gave none. */
#include <string.h>

#include "server/batch.h"
#include "server/peer.h"
#include "server/pins.h"
#include "server/xfer.h"

enum { START, FIND, PUSH, REPLY };

enum { GET_WINDOW = 32 }; /* pushes under way at a time */

struct get_key {
    struct xfer x; /* first: the push's completion leads here */
    uint32_t idx;
};

static_assert(sizeof(struct get_key) <= OP_KEY_BYTES, "fits the arena");

struct get {
    struct walk walk;
    struct op_results *r;
    struct get_key *keys; /* found and with bytes to move: n of them */
    uint32_t n, started;
    uint64_t bytes; /* of all of them */
    uint64_t soft_ns, push_ns;
    struct span inline_span;
};

static void get_tick(struct op *op);

/* Ticks after each, not only the last: the window moves on. */
static void get_pushed(struct tp_xfer *x, enum err e)
{
    struct op *op = xfer_record(x, e);

    op->pending--;
    get_tick(op);
}

static bool get_lend(struct op *op, const struct registry_ns *ns,
                     uint32_t block, struct wire_result *r)
{
    struct lane *l = op->lane;
    uint64_t off = store_pool_off(l->store, block);
    uint64_t cap =
        l->loan_pool_bytes[ns->pool] / 100 * l->cfg->limits.loan_share_pct;

    if (!loans_allowed(op->peer, ns) || off == UINT64_MAX ||
        loans_add(op->peer, block, cap, &r->loan))
        return false;
    r->flags |= RESULT_LOAN;
    r->loan_off = off;
    r->moved = r->len;
    return true;
}

static enum err get_found(struct op *op, struct get *get, uint32_t block,
                          struct wire_result *r)
{
    const struct wire_key *rec = &get->walk.ref.rec;
    struct get_key *k = &get->keys[get->n];
    uint64_t len;

    result_of_block(op, block, r);
    if (rec->version && rec->version != r->version)
        return ERR_VERSION;
    if (rec->off > r->len)
        return ERR_LIMIT;
    store_use(op->lane->store, block);
    metric_add(&op->lane->metrics.get_hits, 1);
    if ((rec->flags & KEY_LOAN) && get_lend(op, get->walk.ns, block, r))
        return OK;
    len = min_u64(rec->len, r->len - rec->off);
    if (len == 0)
        return rec->flags & KEY_LOAN ? ERR_DENIED : OK;
    store_ref(op->lane->store, block);
    if (!xfer_init(&k->x, op, get->walk.idx, block, rec->off, len)) {
        store_unref(op->lane->store, block);
        return ERR_BUSY;
    }
    k->idx = get->walk.idx;
    k->x.tp.is_push = true;
    k->x.tp.segs = get->walk.ref.segs;
    k->x.tp.seg_n = rec->seg_n;
    k->x.tp.done = get_pushed;
    get->bytes += len;
    get->n++;
    return OK;
}

static void get_find(struct op *op, struct get *get)
{
    struct store *s = op->lane->store;
    enum store_found why;
    uint32_t block;
    enum err e;

    while (walk_next(op, &get->walk, &e)) {
        struct wire_result *r = &get->r->results[get->walk.idx];

        if (!e) {
            block = store_find(s, &get->walk.key, &why);
            e = block ? get_found(op, get, block, r) : miss_of(op, why);
        }
        r->status = e;
    }
}

/* Small batches travel inside the reply, where the transport can: copied right
 * behind the results, so that one run of bytes is sent and no ref is kept. */
static bool get_gather(struct op *op, struct get *get)
{
    uint8_t *to;

    if (get->bytes > op->peer->tp->inline_max)
        return false;
    to = arena_alloc(&op->arena, get->bytes);
    if (!to)
        return false;
    get->inline_span = (struct span){to, get->bytes};
    op->send.data = &get->inline_span;
    op->send.data_n = 1;
    op->send.frame.data_len = get->bytes;
    for (uint32_t i = 0; i < get->n; i++) {
        const struct tp_xfer *x = &get->keys[i].x.tp;

        for (uint32_t j = 0; j < x->span_n; j++) {
            memcpy(to, x->spans[j].p, x->spans[j].len);
            to += x->spans[j].len;
        }
    }
    return true;
}

/* Starts pushes up to the window. */
static void get_push(struct op *op, struct get *get)
{
    struct tp_peer *tp = op->peer->tp;

    while (get->started < get->n && op->pending < GET_WINDOW) {
        struct xfer *x = &get->keys[get->started++].x;

        x->flying = true;
        op->pending++;
        tp->t->ops->push(tp, &x->tp);
    }
}

/* No key is started any more; those not started get this status. */
static void get_cut(struct get *get, enum err e)
{
    for (uint32_t i = get->started; i < get->n; i++)
        get->keys[i].x.err = e;
    get->started = get->n;
}

static void get_deadlines(struct op *op, struct get *get)
{
    if (op->gone) {
        get_cut(get, ERR_PEER_GONE);
    } else if (op->late) {
        get_cut(get, ERR_TIMEOUT);
        if (op->pending)
            xfer_cancel_all(&get->keys[0].x, get->n, sizeof *get->keys);
    } else if (op->lane->env.now_ns >= get->soft_ns) {
        get_cut(get, ERR_PARTIAL);
    }
}

static void get_end_keys(struct op *op, struct get *get)
{
    struct metrics *m = &op->lane->metrics;
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < get->n; i++) {
        struct get_key *k = &get->keys[i];
        struct wire_result *r = &get->r->results[k->idx];

        r->status = k->x.err;
        r->moved = r->status ? 0 : k->x.tp.len;
        bytes += r->moved;
        xfer_fini(&k->x);
        store_unref(op->lane->store, k->x.block);
    }
    metric_add(&m->bytes_out, bytes);
    op->peer->bytes_out += bytes;
    hist_add(&m->stage_push_seconds,
             env_fresh_ns(&op->lane->env) - get->push_ns);
}

static enum err get_start(struct op *op)
{
    struct get *get = arena_zalloc(&op->arena, sizeof *get);
    const struct wire_batch *head;
    enum err e;

    MUST(get);
    op->body = get;
    e = walk_begin(op, &get->walk);
    if (e)
        return e;
    head = &get->walk.batch.head;
    get->keys =
        arena_alloc(&op->arena, get->walk.batch.left * sizeof *get->keys);
    MUST(get->keys);
    get->r = op_results_new(op, head, get->walk.batch.left);
    get->soft_ns = head->soft_us ? op->begin_ns + head->soft_us * NS_PER_US
                                 : DEADLINE_NEVER;
    get->push_ns = env_fresh_ns(&op->lane->env);
    return OK;
}

static void get_tick(struct op *op)
{
    struct get *get = op->body;
    enum err e;

    for (;;) {
        switch (op->state) {
        case START:
            e = get_start(op);
            if (e) {
                op_reply(op, e);
                return;
            }
            get = op->body;
            op_goto(op, FIND);
            break;
        case FIND:
            get_find(op, get);
            op_goto(op, get->n && !get_gather(op, get) ? PUSH : REPLY);
            break;
        case PUSH:
            get_deadlines(op, get);
            get_push(op, get);
            if (op->pending)
                return;
            op_goto(op, REPLY);
            break;
        case REPLY:
            get_end_keys(op, get);
            op_reply_batch(op, get->r, NULL, 0);
            return;
        }
    }
}

const struct op_machine get_machine = {
    .tick = get_tick,
    .states =
        {
            [START] = {"START", NEXT(FIND)},
            [FIND] = {"FIND", NEXT(PUSH) | NEXT(REPLY)},
            [PUSH] = {"PUSH", NEXT(REPLY)},
            [REPLY] = {"REPLY", 0},
        },
};
