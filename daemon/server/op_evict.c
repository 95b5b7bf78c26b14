/* SPDX-License-Identifier: Apache-2.0
 *
 * EVICT: drop blocks.
 *
 *   START -> KEYS -> REPLY        by key
 *        \-> WALK -> REPLY        by chain, label, scope, namespace
 *            |  ^
 *            +--+ a bounded part of the catalog each turn
 *
 * A walk looks at every block of the lane once, so its cost is the lane's size,
 * not the answer's; requests in between are served as usual. Blocks stored
 * while it runs may or may not be met. A dropped block is not found any more at
 * once; its bytes go when the last reader is done. */
#include <string.h>

#include "server/batch.h"
#include "server/peer.h"

enum { START, KEYS, WALK, REPLY };

/* Places looked at in a turn; a chain has to be followed up from each. */
enum { EVICT_WALK_BUDGET = 2048, EVICT_CHAIN_BUDGET = 256, EVICT_ROOTS = 64 };

struct evict_op {
    struct walk walk;
    struct op_results *r;
    struct op *op;
    uint64_t cursor;
    uint64_t labels[4];                  /* LABEL: any of the nonzero ones */
    uint8_t scope[16];                   /* SCOPE */
    uint32_t roots[EVICT_ROOTS], root_n; /* CHAIN: reffed blocks */
};

static void evict_drop(struct evict_op *ev, uint32_t block)
{
    store_drop(ev->op->lane->store, block);
    ev->r->head.count++;
}

static void evict_keys(struct op *op, struct evict_op *ev)
{
    enum store_found why;
    uint32_t block;
    enum err e;

    while (walk_next(op, &ev->walk, &e)) {
        if (!e) {
            block = store_find(op->lane->store, &ev->walk.key, &why);
            if (block)
                evict_drop(ev, block);
            else
                e = miss_of(op, why);
        }
        ev->r->results[ev->walk.idx].status = e;
    }
}

/* CHAIN: the blocks whose descendants go; they themselves go at the end. */
static void evict_take_roots(struct op *op, struct evict_op *ev)
{
    enum store_found why;
    uint32_t block;
    enum err e;

    while (walk_next(op, &ev->walk, &e)) {
        block = e ? 0 : store_find(op->lane->store, &ev->walk.key, &why);
        if (!e && !block)
            e = miss_of(op, why);
        if (!e && ev->root_n == EVICT_ROOTS)
            e = ERR_LIMIT;
        if (!e) {
            store_ref(op->lane->store, block);
            ev->roots[ev->root_n++] = block;
        }
        ev->r->results[ev->walk.idx].status = e;
    }
}

static bool evict_is_root(const struct evict_op *ev, uint32_t block)
{
    for (uint32_t i = 0; i < ev->root_n; i++)
        if (block == ev->roots[i])
            return true;
    return false;
}

static bool evict_wants(const struct evict_op *ev, uint32_t block,
                        const struct store_info *info)
{
    const struct store *s = ev->op->lane->store;
    const struct wire_attr *a = &info->attr;

    switch ((enum wire_select)ev->walk.batch.head.select) {
    case SELECT_NAMESPACE:
        return true;
    case SELECT_SCOPE:
        return memcmp(info->key.scope, ev->scope, sizeof ev->scope) == 0;
    case SELECT_LABEL:
        for (uint32_t i = 0; i < countof(ev->labels); i++)
            if (ev->labels[i] &&
                (a->label0 == ev->labels[i] || a->label1 == ev->labels[i] ||
                 a->label2 == ev->labels[i] || a->label3 == ev->labels[i]))
                return true;
        return false;
    case SELECT_CHAIN: /* the roots themselves go at the end */
        return store_descends(s, block, ev->roots, ev->root_n) &&
               !evict_is_root(ev, block);
    case SELECT_KEYS:
    case SELECT_PATTERN:
        break;
    }
    return false;
}

static void evict_visit(struct store *s, uint32_t block, void *arg)
{
    struct evict_op *ev = arg;
    struct store_info info;

    store_info(s, block, &info);
    if (info.key.ns == ev->walk.ns->id && info.found == FOUND_HIT &&
        evict_wants(ev, block, &info))
        evict_drop(ev, block);
}

/* true when the whole catalog was seen. */
static bool evict_walk(struct op *op, struct evict_op *ev)
{
    uint32_t budget = ev->walk.batch.head.select == SELECT_CHAIN
                          ? EVICT_CHAIN_BUDGET
                          : EVICT_WALK_BUDGET;

    ev->cursor =
        store_walk(op->lane->store, ev->cursor, budget, evict_visit, ev);
    return ev->cursor == 0;
}

static void evict_end_roots(struct op *op, struct evict_op *ev)
{
    struct store_info info;

    for (uint32_t i = 0; i < ev->root_n; i++) {
        store_info(op->lane->store, ev->roots[i], &info);
        if (info.found == FOUND_HIT)
            evict_drop(ev, ev->roots[i]);
        store_unref(op->lane->store, ev->roots[i]);
    }
    ev->root_n = 0;
}

static enum err evict_start(struct op *op)
{
    struct evict_op *ev = arena_zalloc(&op->arena, sizeof *ev);
    struct walk w;
    enum err e;

    MUST(ev);
    op->body = ev;
    ev->op = op;
    e = walk_begin(op, &ev->walk);
    if (e)
        return e;
    if (ev->walk.batch.head.flags & BATCH_DEMOTE)
        return ERR_UNSUPPORTED; /* there is no next tier yet */
    ev->r = op_results_new(op, &ev->walk.batch.head, ev->walk.batch.left);
    switch (ev->walk.batch.head.select) {
    case SELECT_KEYS:
    case SELECT_NAMESPACE:
        return OK;
    case SELECT_CHAIN:
        evict_take_roots(op, ev);
        return OK;
    case SELECT_LABEL:
    case SELECT_SCOPE:
        w = ev->walk; /* the one key record carries what to select by */
        if (!walk_next(op, &w, &e))
            return ERR_BAD_REQUEST;
        memcpy(ev->scope, w.ref.rec.scope, sizeof ev->scope);
        if (w.ref.has_attr)
            memcpy(ev->labels, &w.ref.attr.label0, sizeof ev->labels);
        return OK;
    default: /* a number from the wire, not an enum of ours */
        return ERR_UNSUPPORTED;
    }
}

static void evict_tick(struct op *op)
{
    struct evict_op *ev = op->body;
    enum err e;

    for (;;) {
        switch (op->state) {
        case START:
            e = evict_start(op);
            if (e) {
                op_reply(op, e);
                return;
            }
            ev = op->body;
            op_goto(op,
                    ev->walk.batch.head.select == SELECT_KEYS ? KEYS : WALK);
            break;
        case KEYS:
            evict_keys(op, ev);
            op_goto(op, REPLY);
            break;
        case WALK:
            e = walk_resume(op, &ev->walk); /* a flush ends the walk */
            if (!e && !op->late && !op->gone && !evict_walk(op, ev)) {
                op_again(op, 0);
                return;
            }
            evict_end_roots(op, ev);
            if (e || op->late) {
                op_reply(op, e ? e : ERR_TIMEOUT);
                return;
            }
            op_goto(op, REPLY);
            break;
        case REPLY:
            op_reply_batch(op, ev->r, NULL, 0);
            return;
        }
    }
}

const struct op_machine evict_machine = {
    .tick = evict_tick,
    .states =
        {
            [START] = {"START", NEXT(KEYS) | NEXT(WALK)},
            [KEYS] = {"KEYS", NEXT(REPLY)},
            [WALK] = {"WALK", NEXT(REPLY)},
            [REPLY] = {"REPLY", 0},
        },
};
