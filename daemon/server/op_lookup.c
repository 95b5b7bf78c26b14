/* SPDX-License-Identifier: Apache-2.0
 *
 * LOOKUP: which of a matrix of keys are here, and how much of the sequence can
 * be restored. One tick, no sleep.
 *
 *   keys     positions x columns, row by row; a column is a member of a
 *            position: a rank, a group, K or V
 *   stop     the sequence can be restored up to and including position p if
 *            every column holds: rule ALL, hits at 0..p; TRAILING n, hits at
 *            the n positions that end with p (fewer at the start); OPTIONAL,
 *            anything
 *   answer   a result per cell, the longest restorable prefix in positions,
 *            and a bitmap of all stops behind the results
 *
 * A hit on the SSD says tier 1 and how long reading it would take now, so that
 * a client may rather recompute it. BATCH_PROMOTE begins to bring such hits to
 * memory, as far as there is room; nobody waits for them.
 *
 * With a pin ttl every hit counts as used, and those in memory are pinned, so
 * that what is here now is still here at the GET. Those on the SSD are begun to
 * be brought to memory and stay without RESULT_PINNED, as do those over the
 * cap: a later LOOKUP pins them once they have come. */
#include <string.h>

#include "server/batch.h"
#include "server/owner.h"
#include "server/peer.h"
#include "server/pins.h"
#include "server/wants.h"

enum { LOOKUP_GROUP = 64, LOOKUP_WANT_MS = 1000 };

struct lookup {
    struct walk walk;
    struct op_results *r;
    struct store_key *keys;
    uint32_t cols, positions;
    uint32_t *run; /* per column: hits in a row up to this position */
};

static void lookup_hit(struct op *op, const struct lookup *lk,
                       const struct store_key *key, uint32_t block,
                       struct wire_result *r)
{
    const struct wire_batch *head = &lk->walk.batch.head;
    struct store *s = op->lane->store;
    bool cold = store_where(s, block) != WHERE_MEMORY;

    result_of_block(op, block, r);
    metric_add(&op->lane->metrics.lookup_hits, 1);
    if (cold) {
        r->tier = 1;
        r->eta_us = store_eta_us(s, block);
    }
    if (head->pin_ttl_ms)
        store_use(s, block);
    if (cold && (head->pin_ttl_ms || head->flags & BATCH_PROMOTE))
        promote_block(op, block, key);
    else if (!cold && head->pin_ttl_ms &&
             !pins_add(op->peer, block, head->pin_ttl_ms))
        r->flags |= RESULT_PINNED;
}

/* Takes all keys, so that nothing is done for a malformed batch. A key of
 * another lane has its answer here. */
static enum err lookup_take_keys(struct op *op, struct lookup *lk)
{
    enum err e;

    while (walk_next(op, &lk->walk, &e)) {
        struct wire_result *r = &lk->r->results[lk->walk.idx];

        lk->keys[lk->walk.idx] = lk->walk.key;
        r->status = e ? owner_lane(op, r, e) : OK;
    }
    return lk->walk.bad ? ERR_BAD_REQUEST : OK;
}

/* What the slot's last home may have begins to come here; nobody waits: it is a
 * miss now, and a hit for who asks again. */
static void lookup_want(struct op *op, const struct lookup *lk,
                        const struct store_key *key, enum store_found why)
{
    struct owner_at at;

    if (why == FOUND_PENDING || why == FOUND_MISS_DROPPED ||
        !op->lane->moves ||
        owner_of_miss(op->lane, &lk->walk.batch.head, key, &at) != OWNER_PULL)
        return;
    (void)!wants_ask(op->lane, &at, key,
                     op->lane->env.now_ns + LOOKUP_WANT_MS * NS_PER_MS, NULL);
}

static void lookup_cell(struct op *op, struct lookup *lk, uint32_t i)
{
    struct wire_result *r = &lk->r->results[i];
    enum store_found why;
    uint32_t block;

    if (r->status)
        return;
    block = store_find(op->lane->store, &lk->keys[i], &why);
    if (block) {
        lookup_hit(op, lk, &lk->keys[i], block, r);
        return;
    }
    lookup_want(op, lk, &lk->keys[i], why);
    r->status =
        owner_missed(op, &lk->walk.batch.head, &lk->keys[i], why, r);
    r->state = r->status == ERR_PENDING ? STATE_PENDING : STATE_MISS;
    metric_add(&op->lane->metrics.lookup_misses, r->status != ERR_WRONG_NODE);
}

/* A cold find is a chase through four cache misses. A group of keys makes each
 * step together, so that the misses overlap. */
static void lookup_cells(struct op *op, struct lookup *lk, uint32_t n)
{
    for (uint32_t from = 0; from < n; from += LOOKUP_GROUP) {
        uint32_t to = (uint32_t)min_u64(n, from + LOOKUP_GROUP);

        for (uint32_t step = 0; step < STORE_PREFETCH_STEPS; step++)
            for (uint32_t i = from; i < to; i++)
                store_prefetch(op->lane->store, &lk->keys[i], step);
        for (uint32_t i = from; i < to; i++)
            lookup_cell(op, lk, i);
    }
}

static struct wire_column lookup_column(const struct lookup *lk, uint32_t c)
{
    struct wire_column col;

    memcpy(&col, lk->walk.batch.columns + c * WIRE_RECORD, sizeof col);
    return col;
}

/* Is position p a stop, given the runs that end at it? */
static bool lookup_is_stop(const struct lookup *lk, uint32_t p)
{
    for (uint32_t c = 0; c < lk->cols; c++) {
        struct wire_column col = lookup_column(lk, c);
        uint32_t need = p + 1;

        if (col.rule == RULE_OPTIONAL)
            continue;
        if (col.rule == RULE_TRAILING)
            need = (uint32_t)min_u64(col.trailing, need);
        if (lk->run[c] < need)
            return false;
    }
    return true;
}

static void lookup_stops(struct lookup *lk, uint8_t *stops)
{
    for (uint32_t p = 0; p < lk->positions; p++) {
        const struct wire_result *row = &lk->r->results[p * lk->cols];

        for (uint32_t c = 0; c < lk->cols; c++)
            lk->run[c] = row[c].state == STATE_HIT ? lk->run[c] + 1 : 0;
        if (lookup_is_stop(lk, p)) {
            stops[p / 8] |= (uint8_t)(1u << (p % 8));
            lk->r->head.prefix = p + 1;
        }
    }
}

static void lookup_tick(struct op *op)
{
    struct lookup lk = {0};
    uint32_t stops_len;
    uint8_t *stops;
    uint32_t n;
    enum err e = walk_begin_unchecked(op, &lk.walk);

    if (e) {
        op_reply(op, e);
        return;
    }
    n = lk.walk.batch.left;
    lk.cols = lk.walk.batch.head.cols;
    lk.positions = n / lk.cols;
    lk.run = arena_zalloc(&op->arena, lk.cols * sizeof *lk.run);
    lk.keys = arena_alloc(&op->arena, n * sizeof *lk.keys);
    MUST(lk.keys);
    lk.r = op_results_new(op, &lk.walk.batch.head, n);
    stops_len = (lk.positions + 7) / 8;
    stops = arena_zalloc(&op->arena, stops_len);
    MUST(lk.run && stops && stops == (uint8_t *)&lk.r->results[n]);
    e = lookup_take_keys(op, &lk);
    if (e) {
        op_reply(op, e);
        return;
    }
    lookup_cells(op, &lk, n);
    lookup_stops(&lk, stops);
    op_reply_batch(op, lk.r, stops, stops_len);
}

const struct op_machine lookup_machine = {lookup_tick, {{"DO", 0}}};
