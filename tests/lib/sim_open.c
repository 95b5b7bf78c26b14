/* SPDX-License-Identifier: Apache-2.0
 *
 * Simulated writers of one block (sim_client.h). A draft is a block that any
 * client of its lane may begin, write a piece of, commit or give up, in any
 * order and more than once, while others are killed in the middle of it:
 *
 *     free -> begun by somebody -> told a token -> over -> free
 *                 ^    |                  |
 *                 +----+ not answered     +-- committed, PARTIAL, given up,
 *                                             another token, too old
 *
 * Every piece holds the model's bytes of one PUT, so whatever becomes visible
 * under the key must be all of it: a block shown before it is whole is seen by
 * the first GET or LOOKUP. One that was given up, or that answered PARTIAL, may
 * never be answered again: it is refused in the model. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "lib/sim_client.h"

enum { DRAFT_AGE_MS = 400, DRAFT_PIECES = 6 };

/* ---- drafts */

static void draft_check_age(struct sim *s, struct sim_draft *d)
{
    if (s->now_ns - d->begun_ns > DRAFT_AGE_MS * NS_PER_MS)
        d->over = true;
}

static bool draft_of_key(const struct sim *s, uint32_t key)
{
    for (uint32_t i = 0; i < SIM_DRAFTS; i++)
        if (s->drafts[i].put && s->drafts[i].key == key)
            return true;
    return false;
}

/* Lengths are not used twice, so that nobody joins a draft of before. */
static uint64_t draft_len(struct sim *s)
{
    uint64_t unit = sim_random(s, 4) ? KIB(8) : KIB(256);

    return unit * (1 + sim_random(s, 6)) + s->model->ids % 4096 + 1;
}

static struct sim_draft *draft_new(struct sim_client *c, struct sim_draft *d)
{
    struct sim *s = c->s;
    uint32_t key = sim_key_own(c);

    if (draft_of_key(s, key))
        return NULL;
    *d = (struct sim_draft){
        .len = draft_len(s),
        .generation = c->generation,
        .key = key,
        .lane = c->lane,
        .writers = 1 + (uint32_t)sim_random(s, 3),
        .pieces = 1 + (uint32_t)sim_random(s, DRAFT_PIECES),
        .durable = sim_random(s, 4) == 0,
        .begun_ns = s->now_ns,
    };
    d->put = model_put_begin(s->model, key, d->generation, d->len, &d->crc);
    return d;
}

/* One of this lane and generation that goes on, or a new one. */
static struct sim_draft *draft_pick(struct sim_client *c)
{
    struct sim *s = c->s;
    uint32_t first = (uint32_t)sim_random(s, SIM_DRAFTS);
    struct sim_draft *free_ = NULL;

    for (uint32_t i = 0; i < SIM_DRAFTS; i++) {
        struct sim_draft *d = &s->drafts[(first + i) % SIM_DRAFTS];

        if (d->put && !d->over)
            draft_check_age(s, d);
        if (d->over)
            d->put = 0;
        if (!d->put)
            free_ = d;
        else if (!d->over && d->lane == c->lane &&
                 d->generation == c->generation)
            return d;
    }
    return free_ ? draft_new(c, free_) : NULL;
}

/* ---- requests */

static void step_begin(struct sim_builder *b, struct sim *s,
                       const struct sim_draft *d)
{
    struct wire_attr attr = {.label0 = 1 + sim_random(s, 3), .token_n = 512};
    struct wire_key rec = {.len = d->len, .off = d->writers};

    attr.flags = d->durable ? ATTR_DURABLE : 0;
    b->head.pin_ttl_ms = sim_random(s, 2) ? 0 : (uint32_t)sim_random(s, 300);
    sim_build_key(b, rec, d->key, true, &attr);
}

/* One of n that is not in the set, if a few tries find it. */
static uint32_t step_other(struct sim *s, uint64_t set, uint32_t n)
{
    uint32_t i = (uint32_t)sim_random(s, n);

    for (uint32_t k = 0; k < 3 && set >> i & 1; k++)
        i = (uint32_t)sim_random(s, n);
    return i;
}

/* A piece, or now and then some other range. */
static void step_range(struct sim *s, const struct sim_draft *d,
                       uint64_t *off_out, uint64_t *len_out)
{
    uint64_t each = d->len / d->pieces;
    uint64_t i = step_other(s, d->there, d->pieces);

    *off_out = i * each;
    *len_out = i + 1 == d->pieces ? d->len - *off_out : each;
    if (sim_random(s, 20) == 0) {
        *off_out = sim_random(s, d->len);
        *len_out = 1 + sim_random(s, d->len - *off_out);
    }
}

static void step_write(struct sim_builder *b, struct sim_client *c,
                       const struct sim_draft *d)
{
    struct sim_call *call = b->call;
    struct sim *s = c->s;
    uint32_t n = 1 + (uint32_t)sim_random(s, 3);
    uint64_t total = 0, at = 0;
    uint8_t *data = NULL;

    for (uint32_t i = 0; i < n; i++) {
        struct wire_key rec = {.token = d->token, .flags = KEY_CRC};

        step_range(s, d, &rec.off, &rec.len);
        call->off[i] = rec.off;
        call->len[i] = rec.len;
        call->buf[i] = malloc(rec.len);
        MUST(call->buf[i]);
        model_fill(d->put, rec.off, call->buf[i], rec.len);
        rec.crc = crc32c(0, call->buf[i], rec.len);
        if (sim_random(s, 50) == 0) /* the bytes change under way */
            call->buf[i][sim_random(s, rec.len)] ^= 1;
        total += rec.len;
        sim_build_key(b, rec, d->key, false, NULL);
    }
    if (s->nets[c->lane].inline_data && total <= WIRE_EAGER_MAX) {
        data = malloc(total);
        MUST(data);
        for (uint32_t i = 0; i < n; at += call->len[i++])
            memcpy(data + at, call->buf[i], call->len[i]);
    }
    sim_build_send(b, c, data, data ? total : 0);
    free(data);
}

static uint32_t step_op(struct sim *s, const struct sim_draft *d)
{
    uint64_t pick = sim_random(s, 100);
    bool whole = d->there + 1 == UINT64_C(1) << d->pieces;

    if (!d->token || pick < 10)
        return OP_PUT_BEGIN;
    if (pick < 12)
        return OP_PUT_ABORT;
    if (pick < 16)
        return OP_PUT_COMMIT;
    return whole ? OP_PUT_COMMIT : OP_PUT_WRITE;
}

void sim_open_step(struct sim_client *c)
{
    struct sim *s = c->s;
    struct sim_draft *d = draft_pick(c);
    struct sim_builder b;
    struct sim_call *call;
    uint32_t op;

    if (!d)
        return;
    op = step_op(s, d);
    call = sim_call_begin(c, op);
    if (!call)
        return;
    call->draft = (uint32_t)(d - s->drafts);
    call->draft_put = d->put;
    sim_build_begin(&b, c, call);
    if (op == OP_PUT_WRITE) {
        step_write(&b, c, d);
        return;
    }
    if (op == OP_PUT_BEGIN) {
        step_begin(&b, s, d);
    } else {
        struct wire_key rec = {.token = d->token,
                               .off = step_other(s, d->committed, d->writers)};

        call->off[0] = rec.off;
        sim_build_key(&b, rec, d->key, false, NULL);
    }
    sim_build_send(&b, c, NULL, 0);
}

/* ---- answers */

static void begin_answered(struct sim *s, struct sim_draft *d,
                           const struct wire_result *r)
{
    (void)s;
    if (r->status == ERR_BUSY || r->status == ERR_TIMEOUT)
        return; /* once more, perhaps */
    if (r->status || (d->token && d->token != r->loan))
        d->over = true;
    else
        d->token = r->loan;
}

static void write_answered(struct sim_draft *d, const struct sim_call *call,
                           const struct wire_result *r, uint32_t i)
{
    uint64_t each = d->len / d->pieces;

    if (r->status == ERR_MISS)
        d->over = true;
    if ((r->status == OK || r->status == ERR_EXISTS) &&
        call->off[i] % each == 0 && call->len[i] >= each)
        d->there |= UINT64_C(1) << call->off[i] / each;
}

static void commit_answered(struct sim *s, struct sim_draft *d,
                            const struct sim_call *call,
                            const struct wire_result *r)
{
    switch (r->status) {
    case OK:
    case ERR_NOT_DURABLE:
        MUST(r->crc == d->crc && r->len == d->len);
        model_put_committed(s->model, d->key, d->put, r->version);
        if (d->durable && r->status == OK)
            model_put_durable(s->model, d->key, d->put);
        s->puts_ok++;
        s->drafts_ok++;
        break;
    case ERR_PARTIAL:
        model_put_refused(s->model, d->key, d->put);
        s->drafts_partial++;
        break;
    case ERR_PENDING:
        d->committed |= UINT64_C(1) << call->off[0];
        return;
    case ERR_MISS: /* perhaps it was committed, and nobody was told */
        break;
    default:
        return;
    }
    d->over = true;
}

/* The draft may be another one by now: then nothing is learned. */
void sim_open_answered(struct sim_client *c, struct sim_call *call,
                       const struct wire_result *r, uint32_t i)
{
    struct sim *s = c->s;
    struct sim_draft *d = &s->drafts[call->draft];

    if (d->put != call->draft_put)
        return;
    switch (call->op) {
    case OP_PUT_BEGIN:
        begin_answered(s, d, r);
        break;
    case OP_PUT_WRITE:
        write_answered(d, call, r, i);
        break;
    case OP_PUT_COMMIT:
        commit_answered(s, d, call, r);
        break;
    case OP_PUT_ABORT:
        if (r->status == OK) {
            model_put_refused(s->model, d->key, d->put);
            s->drafts_given_up++;
        }
        d->over = true;
        break;
    }
}

void sim_open_restarted(struct sim *s)
{
    for (uint32_t i = 0; i < SIM_DRAFTS; i++)
        s->drafts[i].over = true;
}
