/* SPDX-License-Identifier: Apache-2.0
 *
 * GET: read a batch of blocks, or ranges of them.
 *
 *   START -> FIND -> MOVE -> REPLY
 *              |     |  ^      ^
 *              |     +--+      |   a window of loads and of pushes at a time
 *              +---------------+   nothing to move
 *
 *  FIND   every key is looked up, its version and range checked. A block in
 *         memory is reffed: from here to the completion it is neither evicted
 *         nor moved. One on the SSD waits for its turn.
 *  MOVE   the two streams run side by side, each key on its own:
 *
 *           cold --store_load--> loading --done--> ready --push--> moving ->
 * end ^                     |                 ^
 *            +- could not be read -+                 +-- was in memory
 *
 *         A key's ref ends with its push, so a batch larger than memory streams
 *         through it. Without memory for the next load the op goes on when one
 *         of its own keys ends, or sleeps until memory is freed.
 *
 * A batch that fits a message (UCX, small blocks) is gathered into the reply
 * instead: each key is copied there as soon as it is in memory, and no ref is
 * kept. After the soft deadline what has not begun to move answers PARTIAL. At
 * the hard one loads and pushes under way are cancelled: TIMEOUT, or BUSY where
 * memory was short all the time.
 *
 * A loan (shm) takes the place of bytes: the block stays reffed until the
 * client gives it back (pins.h). Where no loan may be given the client's buffer
 * gets a copy, or DENIED if it gave none.
 *
 * A key that the slot's last home may have is asked for there first (wants.h);
 * when it has come it is found again, as a cold one.
 *
 * With BATCH_PARTS the client hears of its keys in order as they end (parts.h);
 * the reply waits until the event that is out has left.
 *
 * Pushes are counted in op->pending, loads are not: a tick may come while some
 * are under way, for the soft deadline's sake. The op ends when neither is. */
#include <string.h>

#include "server/op_get.h"
#include "server/peer.h"
#include "server/pins.h"

enum { START, FIND, MOVE, REPLY };

enum {
    GET_WINDOW = 32, /* pushes under way at a time */
    GET_LOADS = 64,  /* keys loading, or loaded and not yet moving */
};

/* ---- One key, from its block to its end ---------------------------------- */

void get_end_key(struct get *get, struct get_key *k, enum err e)
{
    struct wire_result *r = get_result(get, k);

    list_del(&k->node);
    r->status = e;
    if (e)
        r->moved = 0;
    get->bytes += r->flags & RESULT_LOAN ? 0 : r->moved;
    parts_set(get->parts, k->idx, false);
}

/* Ends a key whose block is reffed. */
static void get_unref(struct get *get, struct get_key *k, enum err e)
{
    struct store *s = get->op->lane->store;

    get_end_key(get, k, e);
    get->held -= k->cold;
    xfer_fini(&k->x);
    store_unref(s, k->x.block);
}

/* Ticks after each, not only the last: the window moves on. */
static void get_pushed(struct tp_xfer *x, enum err e)
{
    struct op *op = xfer_record(x, e);
    struct get_key *k =
        (struct get_key *)(void *)container_of(x, struct xfer, tp);
    struct get *get = op->body;

    op->pending--;
    get_result(get, k)->moved = k->len;
    get_unref(get, k, k->x.err);
    get_tick(op);
}

static bool get_lend(struct get *get, struct get_key *k, uint32_t block)
{
    struct lane *l = get->op->lane;
    struct peer *p = get->op->peer;
    struct wire_result *r = get_result(get, k);
    uint64_t off = store_pool_off(l->store, block);
    const struct registry_ns *ns;
    uint64_t cap;

    if (off == UINT64_MAX || lane_ns_find(l, get->walk.batch.head.ns, 0, &ns) ||
        !loans_allowed(p, ns))
        return false;
    cap = l->loan_pool_bytes[ns->pool] / 100 * l->cfg->limits.loan_share_pct;
    if (loans_add(p, block, cap, &r->loan))
        return false;
    r->flags |= RESULT_LOAN;
    r->loan_off = off;
    r->moved = r->len;
    return true;
}

/* A block in memory, reffed for this key: lent, or made ready to move. */
static void get_arrived(struct get *get, struct get_key *k, uint32_t block)
{
    struct op *op = get->op;
    struct metrics *m = &op->lane->metrics;
    struct wire_result *r = get_result(get, k);
    enum err e;

    if (k->waited) /* its crc was not known */
        result_of_block(op, block, r);
    r->tier = k->cold ? 1 : 0;
    metric_add(&m->get_hits, 1);
    metric_add(&m->get_ssd_hits, k->cold);
    k->x.block = block;
    if (k->loan && get_lend(get, k, block)) {
        get_unref(get, k, OK);
        return;
    }
    if (k->len == 0) {
        get_unref(get, k, k->loan ? ERR_DENIED : OK);
        return;
    }
    if (!xfer_init(&k->x, op, k->idx, block, k->off, k->len)) {
        k->x.block = block;
        get_unref(get, k, ERR_BUSY);
        return;
    }
    e = xfer_aim(&k->x, k->segs, k->seg_n, k->off);
    if (e) {
        get_unref(get, k, e);
        return;
    }
    k->x.tp.is_push = true;
    k->x.tp.done = get_pushed;
    list_add_tail(&get->ready, &k->node);
}

/* What the request asks of the block that was found, as far as it is known
 * without its bytes. */
enum err get_fits(struct get *get, struct get_key *k, uint32_t block,
                  uint64_t room)
{
    struct wire_result *r = get_result(get, k);

    result_of_block(get->op, block, r);
    if (k->version && k->version != r->version)
        return ERR_VERSION;
    if (k->off > r->len)
        return ERR_LIMIT;
    k->version = r->version;
    k->len = min_u64(room, r->len - k->off);
    return OK;
}

/* ---- FIND ---------------------------------------------------------------- */

/* The parts that only a cold key needs are set when it turns out to be one. */
void get_key_init(struct get *get, struct get_key *k)
{
    const struct key_ref *ref = &get->walk.ref;

    list_init(&k->node);
    k->idx = get->walk.idx;
    k->off = ref->rec.off;
    k->version = ref->rec.version;
    k->segs = ref->segs;
    k->seg_n = ref->rec.seg_n;
    k->loan = ref->rec.flags & KEY_LOAN;
    k->waited = k->cold = k->tried = k->asked = false;
    k->x.op = get->op;
    k->x.many = NULL;
    k->x.flying = false;
}

static enum err get_find_key(struct op *op, struct get *get)
{
    struct store *s = op->lane->store;
    struct get_key *k = &get->keys[get->n];
    enum store_found why;
    uint32_t block = store_find(s, &get->walk.key, &why);
    enum err e;

    if (!block)
        return get_want_key(op, get, why);
    get_key_init(get, k);
    e = get_fits(get, k, block, get->walk.ref.rec.len);
    if (e)
        return e;
    store_use(s, block);
    lane_accessed(op->lane, get->walk.key.hash, get_result(get, k)->len);
    if (store_where(s, block) != WHERE_MEMORY && (k->len || k->loan)) {
        k->key = get->walk.key;
        k->waited = true;
        list_add_tail(&get->cold, &k->node);
    } else if (k->len || k->loan) {
        store_ref(s, block);
        get_arrived(get, k, block);
    } else {
        metric_add(&op->lane->metrics.get_hits, 1);
        return OK;
    }
    get->n++;
    parts_set(get->parts, k->idx, !list_empty(&k->node));
    return (enum err)get_result(get, k)->status;
}

static void get_find(struct op *op, struct get *get)
{
    enum err e;

    while (walk_next(op, &get->walk, &e)) {
        struct wire_result *r = &get->r->results[get->walk.idx];

        r->status = e ? owner_lane(op, r, e) : get_find_key(op, get);
    }
}

/* Small batches travel inside the reply, where the transport can. */
static void get_gather(struct op *op, struct get *get)
{
    uint64_t bytes = 0;

    if (!list_empty(&get->wanted))
        return; /* nobody knows how long they are */
    if (get->parts && !list_empty(&get->cold))
        return; /* a reply would make the others wait for them */
    for (uint32_t i = 0; i < get->n; i++) {
        struct get_key *k = &get->keys[i];

        k->at = bytes;
        bytes += list_empty(&k->node) ? 0 : k->len;
    }
    if (bytes > 0 && bytes <= op->peer->tp->inline_max)
        get->inline_at = arena_alloc(&op->arena, bytes);
}

/* ---- MOVE ---------------------------------------------------------------- */

static void get_loaded(struct store_wait *w)
{
    struct get_key *k = container_of(w, struct get_key, load);
    struct op *op = k->x.op;
    struct get *get = op->body;

    list_del(&k->node);
    if (w->err) { /* found again, it says why it is not there */
        get->held--;
        k->cold = false;
        k->tried = true;
        list_add_head(&get->cold, &k->node);
    } else {
        get_arrived(get, k, w->block);
    }
    get_tick(op);
}

/* Finds the key again, for it may have come, gone or been replaced meanwhile,
 * and starts its load. BUSY: no memory, it stays first in the list. */
static enum err get_load_key(struct get *get, struct get_key *k)
{
    struct op *op = get->op;
    struct store *s = op->lane->store;
    const struct wire_batch *head = &get->walk.batch.head;
    const struct registry_ns *ns;
    enum store_found why = FOUND_MISS_NEVER;
    uint32_t block = 0;

    if (!lane_ns_find(op->lane, head->ns, head->generation, &ns)) {
        store_key_hash(s, &k->key);
        block = store_find(s, &k->key, &why);
    }
    if (!block) {
        get_end_key(get, k,
                    owner_missed(op, head, &k->key, why, get_result(get, k)));
        return OK;
    }
    if (k->asked && !get_came(get, k, block))
        return OK;
    if (store_version(s, block) != k->version) {
        get_end_key(get, k, ERR_MISS);
        return OK;
    }
    if (store_where(s, block) == WHERE_MEMORY) {
        list_del(&k->node);
        store_ref(s, block);
        get_arrived(get, k, block);
        return OK;
    }
    if (k->tried) {
        get_end_key(get, k, ERR_MISS);
        return OK;
    }
    k->load = (struct store_wait){.done = get_loaded};
    list_init(&k->load.node);
    if (store_load(s, block, &k->key, LOAD_DEMAND, &k->load))
        return ERR_BUSY;
    k->cold = true;
    get->held++;
    list_del(&k->node);
    list_add_tail(&get->loading, &k->node);
    return OK;
}

static void get_load(struct get *get)
{
    get->starved = false;
    while (!list_empty(&get->cold) && get->held < GET_LOADS && !get->starved) {
        struct list *n = get->cold.next;

        get->starved = get_load_key(get, container_of(n, struct get_key, node));
    }
}

/* Starts pushes up to the window; or copies what is ready. */
static void get_push(struct op *op, struct get *get)
{
    struct tp_peer *tp = op->peer->tp;
    struct list *n;

    while (op->pending < GET_WINDOW && (n = list_pop(&get->ready))) {
        struct get_key *k = container_of(n, struct get_key, node);

        if (get->inline_at) {
            uint8_t *to = get->inline_at + k->at;

            for (uint32_t i = 0; i < k->x.tp.span_n; i++) {
                memcpy(to, k->x.tp.spans[i].p, k->x.tp.spans[i].len);
                to += k->x.tp.spans[i].len;
            }
            get_result(get, k)->moved = k->len;
            get_unref(get, k, OK);
        } else {
            k->x.flying = true;
            op->pending++;
            tp->t->ops->push(tp, &k->x.tp);
        }
    }
}

/* No key begins to move any more; those that have not get this status. */
static void get_cut(struct get *get, enum err e)
{
    enum err cold = e == ERR_TIMEOUT && get->starved ? ERR_BUSY : e;

    LIST_FOREACH_SAFE(n, &get->cold)
    get_end_key(get, container_of(n, struct get_key, node), cold);
    LIST_FOREACH_SAFE(n, &get->wanted)
    {
        struct get_key *k = container_of(n, struct get_key, node);

        wants_leave(&k->want);
        get_end_key(get, k, e);
    }
    LIST_FOREACH_SAFE(n, &get->loading)
    {
        struct get_key *k = container_of(n, struct get_key, node);

        store_wait_cancel(get->op->lane->store, &k->load);
        get->held--;
        get_end_key(get, k, e);
    }
    LIST_FOREACH_SAFE(n, &get->ready)
    get_unref(get, container_of(n, struct get_key, node), e);
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

static bool get_moves(const struct op *op, const struct get *get)
{
    return op->pending || !list_empty(&get->cold) ||
           !list_empty(&get->loading) || !list_empty(&get->ready) ||
           !list_empty(&get->wanted);
}

/* Until a completion, freed memory, or the soft deadline. */
static void get_sleep(struct op *op, struct get *get)
{
    if (get->starved && op->pending == 0 && list_empty(&get->loading)) {
        lane_nudge_others(op->lane);
        op_wait_memory(op);
    } else if (get->soft_ns != DEADLINE_NEVER &&
               get->soft_ns > op->lane->env.now_ns) {
        op_again(op, get->soft_ns - op->lane->env.now_ns);
    }
}

/* ---- Start and end ------------------------------------------------------- */

/* The gathered bytes of keys that failed leave no hole. */
static void get_close_ranks(struct op *op, struct get *get)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < get->n; i++) {
        const struct get_key *k = &get->keys[i];
        const struct wire_result *r = get_result(get, k);

        if (r->moved == 0 || r->flags & RESULT_LOAN)
            continue;
        memmove(get->inline_at + bytes, get->inline_at + k->at, k->len);
        bytes += k->len;
    }
    get->inline_span = (struct span){get->inline_at, bytes};
    op->send.data = &get->inline_span;
    op->send.data_n = bytes > 0;
    op->send.frame.data_len = bytes;
}

static void get_count(struct op *op, struct get *get)
{
    struct metrics *m = &op->lane->metrics;

    if (get->inline_at)
        get_close_ranks(op, get);
    metric_add(&m->bytes_out, get->bytes);
    op->peer->bytes_out += get->bytes;
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
    get->op = op;
    list_init(&get->cold);
    list_init(&get->loading);
    list_init(&get->ready);
    list_init(&get->wanted);
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
    if ((head->flags & BATCH_PARTS) && (op->peer->features & FEATURE_PARTS))
        get->parts = parts_new(op, get->r, get->walk.batch.left);
    get->push_ns = env_fresh_ns(&op->lane->env);
    return OK;
}

void get_tick(struct op *op)
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
            get_gather(op, get);
            op_goto(op, get_moves(op, get) ? MOVE : REPLY);
            break;
        case MOVE:
            get_deadlines(op, get);
            get_load(get);
            get_push(op, get);
            if (get_moves(op, get)) {
                parts_tell(get->parts);
                get_sleep(op, get);
                return;
            }
            op_goto(op, REPLY);
            break;
        case REPLY:
            if (parts_out(get->parts))
                return;
            get_count(op, get);
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
            [FIND] = {"FIND", NEXT(MOVE) | NEXT(REPLY)},
            [MOVE] = {"MOVE", NEXT(REPLY)},
            [REPLY] = {"REPLY", 0},
        },
};
