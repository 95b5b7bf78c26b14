/* SPDX-License-Identifier: Apache-2.0
 *
 * PREFETCH: bring blocks from the SSD to memory before they are asked for.
 *
 *   START -> BEGIN -> REPLY
 *            |  ^
 *            +--+  no room for a load: until memory is freed
 *
 * BEGIN takes the keys in the order they are wanted. A key that is in memory,
 * on its way there, or whose load was begun answers OK; the reply does not wait
 * for bytes, and head.count says how many loads were begun. Loads of this kind
 * come after those that a GET waits for.
 *
 * The request may cap the bytes to bring (head.count, MiB) and say when the
 * plan is stale (soft_us): keys beyond the cap, and keys without room by then,
 * answer PARTIAL. Without soft_us nothing waits for room. */
#include "server/batch.h"
#include "server/owner.h"
#include "server/peer.h"

enum { START, BEGIN, REPLY };

struct prefetch {
    struct walk walk;
    struct op_results *r;
    uint64_t soft_ns;
    uint64_t left_bytes; /* of the cap */
    bool again;          /* walk stands on a key that found no room */
};

static enum err prefetch_key(struct op *op, struct prefetch *pf)
{
    struct store *s = op->lane->store;
    struct wire_result *r = &pf->r->results[pf->walk.idx];
    enum store_found why;
    uint32_t block = store_find(s, &pf->walk.key, &why);
    enum err e;

    if (!block)
        return owner_missed(op, &pf->walk.batch.head, &pf->walk.key, why, r);
    result_of_block(op, block, r);
    if (store_where(s, block) == WHERE_MEMORY)
        return OK;
    r->tier = 1;
    r->eta_us = store_eta_us(s, block);
    if (store_where(s, block) == WHERE_LOADING)
        return OK;
    if (r->len > pf->left_bytes)
        return ERR_PARTIAL;
    e = store_load(s, block, &pf->walk.key, LOAD_PREFETCH, NULL);
    if (e)
        return e;
    pf->left_bytes -= r->len;
    pf->r->head.count++;
    return OK;
}

/* true: all keys have their answer. */
static bool prefetch_begin(struct op *op, struct prefetch *pf)
{
    bool stale = op->late || op->gone || op->lane->env.now_ns >= pf->soft_ns;
    enum err e = OK;

    while (pf->again || walk_next(op, &pf->walk, &e)) {
        if (!e)
            e = prefetch_key(op, pf);
        else
            e = owner_lane(op, &pf->r->results[pf->walk.idx], e);
        pf->again = e == ERR_BUSY && !stale;
        if (pf->again)
            return false;
        pf->r->results[pf->walk.idx].status = e == ERR_BUSY ? ERR_PARTIAL : e;
    }
    return true;
}

static enum err prefetch_start(struct op *op)
{
    struct prefetch *pf = arena_zalloc(&op->arena, sizeof *pf);
    const struct wire_batch *head;
    enum err e;

    MUST(pf);
    op->body = pf;
    e = walk_begin(op, &pf->walk);
    if (e)
        return e;
    head = &pf->walk.batch.head;
    pf->r = op_results_new(op, head, pf->walk.batch.left);
    pf->soft_ns = op->begin_ns + head->soft_us * NS_PER_US;
    pf->left_bytes = head->count ? MIB(head->count) : UINT64_MAX;
    return OK;
}

static void prefetch_tick(struct op *op)
{
    struct prefetch *pf = op->body;
    enum err e;

    for (;;) {
        switch (op->state) {
        case START:
            e = prefetch_start(op);
            if (e) {
                op_reply(op, e);
                return;
            }
            pf = op->body;
            op_goto(op, BEGIN);
            break;
        case BEGIN:
            e = walk_resume(op, &pf->walk);
            if (e) {
                op_reply(op, e);
                return;
            }
            if (!prefetch_begin(op, pf)) {
                op_wait_memory(op);
                return;
            }
            op_goto(op, REPLY);
            break;
        case REPLY:
            op_reply_batch(op, pf->r, NULL, 0);
            return;
        }
    }
}

const struct op_machine prefetch_machine = {
    .tick = prefetch_tick,
    .states =
        {
            [START] = {"START", NEXT(BEGIN)},
            [BEGIN] = {"BEGIN", NEXT(REPLY)},
            [REPLY] = {"REPLY", 0},
        },
};
