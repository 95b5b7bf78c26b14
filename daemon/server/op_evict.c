/* SPDX-License-Identifier: Apache-2.0
 *
 * EVICT: drop blocks, or take them out of memory (demote).
 *
 *   START -> KEYS ----------------> DRAIN -> REPLY   by key
 *       |-> ROOTS -> WALK -> ENDS ----^              by chain
 *       \------------^  |                            by label, scope, pattern,
 *                    +--+                            namespace
 *                  a bounded part of the catalog each turn
 *
 *  ROOTS  the blocks whose descendants go are reffed, so that the chain stays
 *         linked; those on the SSD are brought to memory for it.
 *  WALK   looks at every block of the lane once, so its cost is the lane's
 *         size, not the answer's; requests in between are served as usual.
 *         Blocks stored while it runs may or may not be met. What a block on
 *         the SSD has beside its place (key, scope, labels) is read from its
 *         record, a few at a time. Then at every open block (opens.h).
 *  ENDS   the roots themselves go last.
 *  DRAIN  a dropped block is not found any more at once; its bytes go when the
 *         last reader is done. One that is on the SSD, or on its way there,
 *         must not come back after a restart: the answer waits until that is
 *         durable. NOT_DURABLE: it could not be made so. TIMEOUT: it is not
 *         known to be, and the SSD goes on with it.
 *
 * Each of KEYS, ROOTS, WALK and ENDS can find the store's queues full; it then
 * stands where it is and tries again. */
#include <string.h>

#include "server/batch.h"
#include "server/opens.h"
#include "server/peer.h"

enum { START, KEYS, ROOTS, WALK, ENDS, DRAIN, REPLY };

enum {
    EVICT_WALK_BUDGET = 2048, /* places looked at in a turn */
    EVICT_CHAIN_BUDGET = 256, /* a chain has to be followed up from each */
    EVICT_STEPS = 1 << 20,    /* of matching a pattern, in a turn */
    EVICT_ROOTS = 64,
    EVICT_PEEKS = 8, /* records being read */
    EVICT_RETRY_US = 100,
};

struct evict_op;

struct evict_peek {
    struct store_peek peek;
    struct evict_op *ev;
    uint64_t cursor; /* where the walk met it */
    bool busy;
};

struct evict_op {
    struct walk walk;
    struct op_results *r;
    struct op *op;
    uint64_t cursor, back; /* back: go on from there, UINT64_MAX: no */
    bool walked, again;    /* again: the key or place at hand once more */
    uint32_t open_at;      /* slot of the open blocks, after the walk */
    bool seen;             /* these too */
    enum err err;          /* the whole request's */
    uint64_t steps;
    struct store_wait drops; /* all that is not durable yet */
    struct store_wait load;  /* of a root */
    bool loading;
    struct evict_peek peeks[EVICT_PEEKS];
    uint32_t peek_n;
    bool cut;           /* something was not waited for */
    uint64_t labels[4]; /* LABEL: any of the nonzero ones */
    uint8_t scope[16];  /* SCOPE */
    const uint8_t *pattern;
    uint32_t pattern_len;
    uint32_t roots[EVICT_ROOTS], root_n; /* CHAIN: reffed blocks */
};

/* ---- One block ----------------------------------------------------------- */

/* BUSY: nothing was done. */
static enum err evict_block(struct evict_op *ev, uint32_t block)
{
    struct store *s = ev->op->lane->store;
    enum err e;

    if (!(ev->walk.batch.head.flags & BATCH_DEMOTE)) {
        e = store_drop_durable(s, block, &ev->drops);
        if (e)
            return e;
    } else if (store_where(s, block) == WHERE_MEMORY) {
        store_demote(s, block);
    } else {
        return OK;
    }
    ev->r->head.count++;
    return OK;
}

/* One that several writers fill is given up. It was no block yet: it is not
 * counted, and OK would promise that what had this key before stays away. */
static bool evict_open(struct evict_op *ev, struct open *o)
{
    if (!o || ev->walk.batch.head.flags & BATCH_DEMOTE)
        return false;
    open_abort(o, OPEN_LOST);
    return true;
}

/* Of all drops so far; more may follow. */
static void evict_dropped(struct store_wait *w)
{
    struct evict_op *ev = container_of(w, struct evict_op, drops);

    if (ev->op->state == DRAIN)
        op_wake(ev->op);
}

/* Does the whole text match? * stands for any bytes, ? for one. */
static bool evict_matches(const uint8_t *pat, uint32_t pat_n,
                          const uint8_t *text, uint32_t text_n)
{
    uint32_t p = 0, t = 0, star = UINT32_MAX, from = 0;

    while (t < text_n) {
        if (p < pat_n && pat[p] == '*') {
            star = p++;
            from = t;
        } else if (p < pat_n && (pat[p] == '?' || pat[p] == text[t])) {
            p++;
            t++;
        } else if (star != UINT32_MAX) {
            p = star + 1;
            t = ++from;
        } else {
            return false;
        }
    }
    while (p < pat_n && pat[p] == '*')
        p++;
    return p == pat_n;
}

static bool evict_has_label(const struct evict_op *ev,
                            const struct wire_attr *a)
{
    for (uint32_t i = 0; i < countof(ev->labels); i++)
        if (ev->labels[i] &&
            (a->label0 == ev->labels[i] || a->label1 == ev->labels[i] ||
             a->label2 == ev->labels[i] || a->label3 == ev->labels[i]))
            return true;
    return false;
}

static bool evict_is_root(const struct evict_op *ev, uint32_t block)
{
    for (uint32_t i = 0; i < ev->root_n; i++)
        if (block == ev->roots[i])
            return true;
    return false;
}

static enum wire_select evict_select(const struct evict_op *ev)
{
    return (enum wire_select)ev->walk.batch.head.select;
}

/* info: with key and attributes where they are asked for. */
static bool evict_wants(struct evict_op *ev, uint32_t block,
                        const struct store_info *info)
{
    const struct store *s = ev->op->lane->store;

    switch (evict_select(ev)) {
    case SELECT_NAMESPACE:
        return true;
    case SELECT_SCOPE:
        return memcmp(info->key.scope, ev->scope, sizeof ev->scope) == 0;
    case SELECT_LABEL:
        return evict_has_label(ev, &info->attr);
    case SELECT_PATTERN:
        ev->steps += (uint64_t)info->key.key_len * ev->pattern_len;
        return evict_matches(ev->pattern, ev->pattern_len, info->key.key,
                             info->key.key_len);
    case SELECT_CHAIN: /* the roots themselves go at the end */
        return store_descends(s, block, ev->roots, ev->root_n) &&
               !evict_is_root(ev, block);
    case SELECT_KEYS:
        break;
    }
    return false;
}

/* ---- KEYS ---------------------------------------------------------------- */

static enum err evict_key(struct op *op, struct evict_op *ev)
{
    struct store *s = op->lane->store;
    enum store_found why;
    uint32_t block = store_find(s, &ev->walk.key, &why);

    moves_dropped(op->lane, &ev->walk.batch.head, &ev->walk.key);
    if (block)
        return evict_block(ev, block);
    if (why == FOUND_PENDING &&
        evict_open(
            ev, open_of_block(ev->op->lane, store_find_open(s, &ev->walk.key))))
        return ERR_MISS;
    return miss_of(op, why);
}

/* true: all keys have their answer. */
static bool evict_keys(struct op *op, struct evict_op *ev)
{
    enum err e = OK;

    while (ev->again || walk_next(op, &ev->walk, &e)) {
        if (!e)
            e = evict_key(op, ev);
        ev->again = e == ERR_BUSY && !op->late && !op->gone;
        if (ev->again)
            return false;
        if ((!e || e == ERR_MISS || e == ERR_PENDING) &&
            moves_stale(op->lane, &ev->walk.batch.head, &ev->walk.key))
            e = ERR_STALE_EPOCH; /* done here; others may have it too */
        ev->r->results[ev->walk.idx].status = e;
    }
    return true;
}

/* ---- ROOTS --------------------------------------------------------------- */

static void evict_root_add(struct evict_op *ev, uint32_t block)
{
    ev->roots[ev->root_n++] = block;
}

static void evict_root_loaded(struct store_wait *w)
{
    struct evict_op *ev = container_of(w, struct evict_op, load);
    struct wire_result *r = &ev->r->results[ev->walk.idx];
    enum store_found why;

    ev->loading = false;
    if (!w->err)
        evict_root_add(ev, w->block);
    else if (store_find(ev->op->lane->store, &ev->walk.key, &why))
        r->status = ERR_MISS; /* another block by now */
    else
        r->status = miss_of(ev->op, why);
    op_wake(ev->op);
}

static enum err evict_take_root(struct op *op, struct evict_op *ev)
{
    struct store *s = op->lane->store;
    enum store_found why;
    uint32_t block = store_find(s, &ev->walk.key, &why);
    enum err e;

    if (!block)
        return miss_of(op, why);
    if (ev->root_n == EVICT_ROOTS)
        return ERR_LIMIT;
    if (store_where(s, block) == WHERE_MEMORY) {
        store_ref(s, block);
        evict_root_add(ev, block);
        return OK;
    }
    ev->load = (struct store_wait){.done = evict_root_loaded};
    list_init(&ev->load.node);
    e = store_load(s, block, &ev->walk.key, LOAD_DEMAND, &ev->load);
    ev->loading = e == OK;
    return e;
}

/* true: all roots are here, or there is no need for them any more. */
static bool evict_take_roots(struct op *op, struct evict_op *ev)
{
    enum err e = OK;

    if (ev->err || op->late || op->gone) {
        if (ev->loading)
            store_wait_cancel(op->lane->store, &ev->load);
        ev->loading = false;
        return true;
    }
    while (!ev->loading && (ev->again || walk_next(op, &ev->walk, &e))) {
        if (!e)
            e = evict_take_root(op, ev);
        ev->again = e == ERR_BUSY;
        if (ev->again) {
            op_wait_memory(op);
            return false;
        }
        ev->r->results[ev->walk.idx].status = e;
    }
    return !ev->loading;
}

/* true: they are gone and no ref is left. */
static bool evict_end_roots(struct op *op, struct evict_op *ev)
{
    struct store *s = op->lane->store;
    bool keep = ev->err || op->late || op->gone;
    struct store_info info;

    while (ev->root_n > 0) {
        uint32_t block = ev->roots[ev->root_n - 1];

        store_info(s, block, &info);
        if (!keep && info.found == FOUND_HIT &&
            evict_block(ev, block) == ERR_BUSY)
            return false;
        store_unref(s, block);
        ev->root_n--;
    }
    return true;
}

/* ---- WALK ---------------------------------------------------------------- */

static void evict_peeked(struct store_peek *peek)
{
    struct evict_peek *p = container_of(peek, struct evict_peek, peek);
    struct evict_op *ev = p->ev;

    p->busy = false;
    ev->peek_n--;
    if (!peek->err && !ev->err && evict_wants(ev, peek->block, &peek->info) &&
        evict_block(ev, peek->block) == ERR_BUSY)
        ev->back = min_u64(ev->back, p->cursor); /* met again later */
    if (ev->op->state == DRAIN ||
        (ev->op->state == WALK && (ev->again || ev->walked)))
        op_wake(ev->op);
}

/* BUSY: no record can be read now. */
static enum err evict_peek(struct evict_op *ev, uint32_t block)
{
    struct evict_peek *p = ev->peeks;
    enum err e;

    if (ev->peek_n == EVICT_PEEKS)
        return ERR_BUSY;
    while (p->busy)
        p++;
    *p = (struct evict_peek){.ev = ev, .cursor = ev->cursor, .busy = true};
    p->peek.done = evict_peeked;
    e = store_peek(ev->op->lane->store, block, &p->peek);
    p->busy = e == OK;
    ev->peek_n += e == OK;
    return e;
}

/* Late or gone: nothing is waited for any more. */
static void evict_cut(struct evict_op *ev)
{
    struct store *s = ev->op->lane->store;

    ev->cut |= ev->drops.pending || ev->peek_n;
    store_wait_cancel(s, &ev->drops);
    for (struct evict_peek *p = ev->peeks; p < ev->peeks + EVICT_PEEKS; p++) {
        if (p->busy)
            store_peek_cancel(s, &p->peek);
        p->busy = false;
    }
    ev->peek_n = 0;
}

/* Is what a block is selected by in its record only? */
static bool evict_must_peek(const struct evict_op *ev, uint32_t block)
{
    enum wire_select by = evict_select(ev);

    return (by == SELECT_SCOPE || by == SELECT_LABEL || by == SELECT_PATTERN) &&
           store_where(ev->op->lane->store, block) != WHERE_MEMORY;
}

static void evict_visit(struct store *s, uint32_t block, void *arg)
{
    struct evict_op *ev = arg;
    struct store_info info;

    store_info(s, block, &info);
    if (info.key.ns != ev->walk.ns->id || info.found != FOUND_HIT)
        return;
    if (evict_must_peek(ev, block))
        ev->again = evict_peek(ev, block) == ERR_BUSY;
    else if (evict_wants(ev, block, &info))
        ev->again = evict_block(ev, block) == ERR_BUSY;
}

/* One place at a time, so that it can stand still. true when the whole catalog
 * was seen. */
static bool evict_walk(struct op *op, struct evict_op *ev, uint32_t budget)
{
    if (ev->back != UINT64_MAX) {
        ev->cursor = min_u64(ev->cursor, ev->back);
        if (ev->walked)
            ev->cursor = ev->back;
        ev->walked = false;
        ev->back = UINT64_MAX;
    }
    ev->steps = 0;
    while (!ev->walked && budget-- > 0 && ev->steps < EVICT_STEPS) {
        uint64_t next;

        ev->again = false;
        next = store_walk(op->lane->store, ev->cursor, 1, evict_visit, ev);
        if (ev->again)
            return false;
        ev->cursor = next;
        ev->walked = next == 0;
    }
    return ev->walked && ev->peek_n == 0 && ev->back == UINT64_MAX;
}

/* The walk meets visible blocks only: then the open ones. true: all seen. */
static bool evict_opens(struct evict_op *ev, uint32_t budget)
{
    struct opens *t = &ev->op->lane->opens;

    for (; t->live_n && ev->open_at < t->n; ev->open_at++) {
        struct open *o = &t->all[ev->open_at];
        struct store_info info;

        if (budget-- == 0 || ev->steps >= EVICT_STEPS)
            return false;
        if (o->state != OPEN_OPEN || o->ns != ev->walk.ns->id)
            continue;
        store_info(ev->op->lane->store, o->block, &info);
        if (evict_wants(ev, o->block, &info))
            (void)evict_open(ev, o);
    }
    ev->seen = true;
    return true;
}

/* ---- The whole ----------------------------------------------------------- */

/* The one key record carries what to select by. */
static enum err evict_take_selector(struct op *op, struct evict_op *ev)
{
    struct walk w = ev->walk;
    enum err e;

    if (!walk_next(op, &w, &e))
        return ERR_BAD_REQUEST;
    memcpy(ev->scope, w.ref.rec.scope, sizeof ev->scope);
    if (w.ref.has_attr)
        memcpy(ev->labels, &w.ref.attr.label0, sizeof ev->labels);
    ev->pattern = w.ref.key;
    ev->pattern_len = w.ref.rec.key_len;
    return OK;
}

static enum err evict_start(struct op *op, uint8_t *next_out)
{
    struct evict_op *ev = arena_zalloc(&op->arena, sizeof *ev);
    const struct wire_batch *head;
    enum err e;

    MUST(ev);
    op->body = ev;
    ev->op = op;
    ev->back = UINT64_MAX;
    ev->drops.done = evict_dropped;
    list_init(&ev->drops.node);
    e = walk_begin(op, &ev->walk);
    if (e)
        return e;
    head = &ev->walk.batch.head;
    if (head->flags & BATCH_DEMOTE && op->lane->link.ssd.n == 0)
        return ERR_UNSUPPORTED; /* there is no next tier */
    ev->r = op_results_new(op, head, ev->walk.batch.left);
    *next_out = WALK;
    switch (head->select) {
    case SELECT_NAMESPACE:
        return OK;
    case SELECT_KEYS:
        *next_out = KEYS;
        return OK;
    case SELECT_CHAIN:
        *next_out = ROOTS;
        return OK;
    case SELECT_LABEL:
    case SELECT_SCOPE:
    case SELECT_PATTERN:
        return evict_take_selector(op, ev);
    default: /* a number from the wire, not an enum of ours */
        return ERR_UNSUPPORTED;
    }
}

/* One state; false: it sleeps. A flush ends what is under way. */
static bool evict_step(struct op *op, struct evict_op *ev)
{
    uint32_t n = evict_select(ev) == SELECT_CHAIN ? EVICT_CHAIN_BUDGET
                                                  : EVICT_WALK_BUDGET;
    bool over;

    if (!ev->err)
        ev->err = walk_resume(op, &ev->walk);
    over = ev->err || op->late || op->gone;
    switch (op->state) {
    case KEYS:
        if (!ev->err && !evict_keys(op, ev)) {
            op_again(op, EVICT_RETRY_US * NS_PER_US);
            return false;
        }
        op_goto(op, DRAIN);
        return true;
    case ROOTS:
        if (!evict_take_roots(op, ev))
            return false;
        op_goto(op, WALK);
        return true;
    case WALK:
        if (!over && (!evict_walk(op, ev, n) || !evict_opens(ev, n))) {
            op_again(op,
                     ev->again || ev->walked ? EVICT_RETRY_US * NS_PER_US : 0);
            return false;
        }
        op_goto(op, ENDS);
        return true;
    case ENDS:
        if (!evict_end_roots(op, ev)) {
            op_again(op, EVICT_RETRY_US * NS_PER_US);
            return false;
        }
        op_goto(op, DRAIN);
        return true;
    }
    return true;
}

static enum err evict_status(const struct op *op, const struct evict_op *ev)
{
    if (ev->err)
        return ev->err;
    if (ev->cut || (op->late && !ev->seen && evict_select(ev) != SELECT_KEYS))
        return ERR_TIMEOUT;
    return ev->drops.err ? ERR_NOT_DURABLE : OK;
}

static void evict_tick(struct op *op)
{
    struct evict_op *ev = op->body;
    uint8_t next;
    enum err e;

    for (;;) {
        switch (op->state) {
        case START:
            e = evict_start(op, &next);
            if (e) {
                op_reply(op, e);
                return;
            }
            ev = op->body;
            moves_dropped_by(op->lane, &ev->walk.batch.head, ev->labels,
                             ev->scope);
            op_goto(op, next);
            break;
        case KEYS:
        case ROOTS:
        case WALK:
        case ENDS:
            if (!evict_step(op, ev))
                return;
            break;
        case DRAIN:
            if (op->late || op->gone)
                evict_cut(ev);
            if (ev->drops.pending || ev->peek_n)
                return;
            op_goto(op, REPLY);
            break;
        case REPLY:
            e = evict_status(op, ev);
            if (e)
                op_reply(op, e);
            else
                op_reply_batch(op, ev->r, NULL, 0);
            return;
        }
    }
}

const struct op_machine evict_machine = {
    .tick = evict_tick,
    .states =
        {
            [START] = {"START", NEXT(KEYS) | NEXT(ROOTS) | NEXT(WALK)},
            [KEYS] = {"KEYS", NEXT(DRAIN)},
            [ROOTS] = {"ROOTS", NEXT(WALK)},
            [WALK] = {"WALK", NEXT(ENDS)},
            [ENDS] = {"ENDS", NEXT(DRAIN)},
            [DRAIN] = {"DRAIN", NEXT(REPLY)},
            [REPLY] = {"REPLY", 0},
        },
};
