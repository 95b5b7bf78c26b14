/* SPDX-License-Identifier: Apache-2.0
 *
 * Replies into results: each part writes the cells of its own items in the
 * caller's array, so merging needs no order. Then the bytes:
 *
 *     registered memory   are there already; crc checked if asked for
 *     staged              copied to the caller's runs, crc checked in passing
 *     inline (ucx)        copied out of the reply
 *     loan                a pointer into the lane's loan memory
 *
 * The prefix and stops of a LOOKUP are computed here from the merged cells,
 * however many lanes answered. */
#include <string.h>

#include "base/hash.h"
#include "client/spread.h"

/* ---- results ---- */

static void reply_loan(struct pikv *kv, struct part *p,
                       const struct wire_result *w, struct pikv_result *r)
{
    if (!(w->flags & RESULT_LOAN)) {
        if (p->ns < NAMESPACES_MAX && r->status == OK && r->moved == 0)
            r->status = kv->ns[p->ns].loans[p->conn->line].status;
        return;
    }
    r->moved = 0;
    r->loan = loan_bytes(kv, p, w->loan_off, w->len);
    r->loan_id = loan_id_public(p->conn, w->loan);
    if (!r->loan)
        r->status = ERR_STALE;
    else if (p->call->verify && crc32c(0, r->loan, r->len) != r->crc32c)
        r->status = ERR_CORRUPT;
}

static void dest_copy_in(struct part *p, struct dest *d, uint64_t off,
                         const uint8_t *from, uint64_t len)
{
    if (d->iov_n == 0) {
        memcpy(d->p + off, from, len);
        return;
    }
    for (uint32_t k = 0; k < d->iov_n && len; k++) {
        const struct pikv_buf *b = &p->iov[d->iov_first + k];
        uint64_t n = off < b->len ? min_u64(b->len - off, len) : 0;

        if (n)
            memcpy((uint8_t *)b->p + off, from, n);
        from += n;
        len -= n;
        off = n ? 0 : off - b->len;
    }
}

void reply_bytes(struct part *p, struct dest *d, uint64_t off,
                 const uint8_t *from, uint64_t len)
{
    if (p->aside)
        memcpy(p->aside + d->staged + off, from, len);
    else
        dest_copy_in(p, d, off, from, len);
    d->got += len;
}

bool reply_item(struct pikv *kv, struct part *p, uint32_t i,
                const struct wire_result *w, struct slice *data)
{
    struct pikv_result *r = part_result(p, i);
    bool moves = p->op == OP_GET;
    struct dest *d = moves ? &p->dests[i] : NULL;
    bool lent = moves && d->loan && (w->flags & RESULT_LOAN);

    if (w->status > 0 || (moves && w->moved > d->len && !lent))
        return false;
    *r = (struct pikv_result){
        .status = w->status,
        .state = w->state,
        .tier = w->tier,
        .pinned = (w->flags & RESULT_PINNED) != 0,
        .lossy = (w->flags & RESULT_LOSSY) != 0,
        .version = w->version,
        .len = w->len,
        .moved = w->moved,
        .crc32c = w->crc,
        .eta_us = w->eta_us,
        .token = p->op == OP_PUT_BEGIN ? w->loan : 0,
    };
    if (w->status == ERR_WRONG_NODE && p->call->spreads)
        spread_told(p->call, part_item(p, i), w->owner);
    if (moves && d->loan)
        reply_loan(kv, p, w, r);
    if (data->len && moves && w->moved && !lent) {
        const uint8_t *from = slice_take(data, w->moved);

        if (!from)
            return false;
        reply_bytes(p, d, 0, from, w->moved);
    }
    return true;
}

/* A key asked of every lane: the best answer counts. */
static void reply_item_anywhere(struct part *p, uint32_t i,
                                const struct wire_result *w)
{
    struct pikv_result *r = part_result(p, i);

    if (w->status == OK || r->status == ERR_MISS)
        r->status = w->status <= 0 ? w->status : ERR_INTERNAL;
}

bool reply_batch(struct pikv *kv, struct part *p, const struct message *m)
{
    struct call *c = p->call;
    struct slice data = slice_of(m->data, m->data ? m->frame.data_len : 0);
    struct wire_result w;
    struct batch b;

    if (m->frame.record_n == 0) {
        if (m->frame.status == OK || p->announced)
            return false;
        call_fail_items(p, m->frame.status);
        return true;
    }
    if (batch_read(m, &p->conn->limits, &b))
        return false;
    if (p->op == OP_PREFETCH && b.head.count > p->n)
        return false;
    c->count += b.head.count;
    if (kv->many && b.head.epoch > kv->nodes->view.epoch)
        nodes_want_view(kv, p->conn);
    if (b.head.key_n != p->n)
        return p->n == 0 || (p->op == OP_EVICT && b.head.key_n == 0);
    for (uint32_t i = 0; c->results && i < p->n; i++) {
        if (batch_next_result(&b, &w))
            return false;
        if (i < p->announced)
            continue; /* by an event: the caller may be reading it */
        if (c->everywhere)
            reply_item_anywhere(p, i, &w);
        else if (!reply_item(kv, p, i, &w, &data))
            return false;
    }
    return true;
}

/* ---- landing ---- */

bool reply_lands(const struct part *p)
{
    return p->op == OP_GET && p->call && p->call->results &&
           (p->staged_bytes || p->call->verify);
}

uint64_t reply_land_bytes(const struct part *p, uint32_t i)
{
    return reply_lands(p) ? part_result(p, i)->moved : 0;
}

static uint32_t dest_crc(const struct part *p, const struct dest *d,
                         uint64_t len)
{
    uint32_t crc = 0;

    if (d->iov_n == 0)
        return crc32c(0, d->p, len);
    for (uint32_t k = 0; k < d->iov_n && len; k++) {
        const struct pikv_buf *b = &p->iov[d->iov_first + k];
        uint64_t n = min_u64(b->len, len);

        crc = crc32c(crc, b->p, n);
        len -= n;
    }
    return crc;
}

void reply_land(struct pikv *kv, struct part *p, uint32_t i)
{
    struct pikv_result *r = part_result(p, i);
    struct dest *d = &p->dests[i];

    if (r->moved == 0 || r->loan)
        return;
    if (d->staged != DIRECT)
        dest_copy_in(p, d, 0, part_staging(kv, p) + d->staged, r->moved);
    if (p->call->verify && d->whole && r->moved == r->len && r->status == OK &&
        dest_crc(p, d, r->moved) != r->crc32c)
        r->status = ERR_CORRUPT;
}

/* ---- LOOKUP ---- */

static bool cell_hit(const struct call *c, uint32_t pos, uint32_t col)
{
    return c->results[(size_t)pos * c->cols + col].state == STATE_HIT;
}

/* run[col]: how many positions in a row, up to and including this one, hit. */
static bool lookup_stop(const struct call *c, uint32_t pos, const uint32_t *run)
{
    for (uint32_t col = 0; col < c->cols; col++) {
        const struct pikv_column *rule = &c->columns[col];
        uint32_t need = pos + 1;

        if (rule->rule == RULE_OPTIONAL)
            continue;
        if (rule->rule == RULE_TRAILING && rule->trailing < need)
            need = rule->trailing;
        if (run[col] < need)
            return false;
    }
    return true;
}

void reply_lookup(struct call *c)
{
    uint32_t positions = c->cols ? c->n / c->cols : 0;
    uint32_t run[COLS_MAX] = {0};

    if (c->stops)
        memset(c->stops, 0, (positions + 7) / 8);
    for (uint32_t pos = 0; pos < positions; pos++) {
        for (uint32_t col = 0; col < c->cols; col++)
            run[col] = cell_hit(c, pos, col) ? run[col] + 1 : 0;
        if (!lookup_stop(c, pos, run))
            continue;
        c->prefix = pos + 1;
        if (c->stops)
            c->stops[pos / 8] |= (uint8_t)(1 << (pos % 8));
    }
}
