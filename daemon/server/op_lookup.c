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
 * With a pin ttl every hit is pinned and counts as used, so that what is here
 * now is still here at the GET. A pin over the cap leaves the cell a HIT
 * without RESULT_PINNED. */
#include <string.h>

#include "server/batch.h"
#include "server/peer.h"
#include "server/pins.h"

struct lookup {
    struct walk walk;
    struct op_results *r;
    uint32_t cols, positions;
    uint32_t *run; /* per column: hits in a row up to this position */
};

static void lookup_hit(struct op *op, struct lookup *lk, uint32_t block,
                       struct wire_result *r)
{
    uint32_t ttl = lk->walk.batch.head.pin_ttl_ms;

    result_of_block(op, block, r);
    metric_add(&op->lane->metrics.lookup_hits, 1);
    if (ttl == 0)
        return;
    store_use(op->lane->store, block);
    if (!pins_add(op->peer, block, ttl))
        r->flags |= RESULT_PINNED;
}

static void lookup_cells(struct op *op, struct lookup *lk)
{
    enum store_found why;
    uint32_t block;
    enum err e;

    while (walk_next(op, &lk->walk, &e)) {
        struct wire_result *r = &lk->r->results[lk->walk.idx];

        r->status = e;
        if (e)
            continue;
        block = store_find(op->lane->store, &lk->walk.key, &why);
        if (block) {
            lookup_hit(op, lk, block, r);
            continue;
        }
        r->status = miss_of(op, why);
        r->state = r->status == ERR_PENDING ? STATE_PENDING : STATE_MISS;
        metric_add(&op->lane->metrics.lookup_misses, 1);
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
    enum err e = walk_begin(op, &lk.walk);

    if (e) {
        op_reply(op, e);
        return;
    }
    n = lk.walk.batch.left;
    lk.cols = lk.walk.batch.head.cols;
    lk.positions = n / lk.cols;
    lk.run = arena_zalloc(&op->arena, lk.cols * sizeof *lk.run);
    lk.r = op_results_new(op, &lk.walk.batch.head, n);
    stops_len = (lk.positions + 7) / 8;
    stops = arena_zalloc(&op->arena, stops_len);
    MUST(lk.run && stops && stops == (uint8_t *)&lk.r->results[n]);
    lookup_cells(op, &lk);
    lookup_stops(&lk, stops);
    op_reply_batch(op, lk.r, stops, stops_len);
}

const struct op_machine lookup_machine = {lookup_tick, {{"DO", 0}}};
