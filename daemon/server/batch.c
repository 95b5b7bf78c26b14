/* SPDX-License-Identifier: Apache-2.0
 *
 * Walking a checked batch (batch.h). Keys are parsed twice, once to check and
 * once to use: a pass over bytes in L1 is cheaper than keeping them. */
#include "server/batch.h"

#include "base/hash.h"
#include "server/layouts.h"
#include "server/owner.h"

static enum err walk_check_all(const struct op *op, const struct batch *b)
{
    struct batch copy = *b;
    struct key_ref ref;
    enum err e;

    do
        e = batch_next(&copy, &op->lane->limits, &ref);
    while (e == OK);
    return e == ERR_MISS ? OK : e;
}

/* Of operations that move bytes. */
static enum err walk_layout(struct op *op, uint32_t id)
{
    if (op->id != OP_GET && op->id != OP_PUT && op->id != OP_PUT_WRITE)
        return ERR_NO_LAYOUT;
    return layouts_take(op, id);
}

/* One batch of some: its slots are counted. */
static void walk_heat(struct op *op, const struct walk *w)
{
    struct lane *l = op->lane;
    struct batch copy = w->batch;
    struct key_ref ref;

    heat_again(&l->heat);
    if (op->id != OP_GET && op->id != OP_PUT && op->id != OP_LOOKUP)
        return;
    while (batch_next(&copy, &l->limits, &ref) == OK)
        heat_add(&l->heat,
                 hash_slot(w->ns->slot_seed, ref.route, ref.route_len),
                 op->id == OP_LOOKUP ? 0 : ref.rec.len);
}

enum err walk_begin_unchecked(struct op *op, struct walk *w)
{
    enum err e = batch_read(&op->msg, &op->lane->limits, &w->batch);

    w->idx = UINT32_MAX; /* the first key is 0 */
    w->bad = false;
    if (!e && w->batch.head.layout)
        e = walk_layout(op, w->batch.head.layout);
    if (!e)
        e = walk_resume(op, w);
    if (!e && heat_due(&op->lane->heat))
        walk_heat(op, w);
    return e;
}

enum err walk_begin(struct op *op, struct walk *w)
{
    enum err e = walk_begin_unchecked(op, w);

    return e ? e : walk_check_all(op, &w->batch);
}

/* The key at hand gets its hash anew: a request that takes any generation may
 * go on in another one than it took the key in. */
enum err walk_resume(struct op *op, struct walk *w)
{
    enum err e = lane_ns_find(op->lane, w->batch.head.ns,
                              w->batch.head.generation, &w->ns);

    if (!e && w->idx != UINT32_MAX && w->key.key_len)
        store_key_hash(op->lane->store, &w->key);
    return e;
}

bool walk_next(struct op *op, struct walk *w, enum err *e_out)
{
    struct lane *l = op->lane;
    const struct key_ref *ref = &w->ref;
    const uint8_t *record = w->batch.records.p;
    enum err e = batch_next(&w->batch, &l->limits, &w->ref);

    w->bad = e && e != ERR_MISS;
    if (e)
        return false;
    w->idx++;
    w->key = (struct store_key){
        .ns = w->ns->id,
        .group = ref->rec.group,
        .cls = ref->rec.cls,
        .route_len = ref->rec.route_len,
        .key_len = ref->rec.key_len,
        .scope = record + offsetof(struct wire_key, scope),
        .key = ref->key,
        .route = ref->route,
    };
    *e_out = OK;
    if (l->lanes > 1 &&
        hash_slot(w->ns->slot_seed, ref->route, ref->route_len) % l->lanes !=
            l->idx)
        *e_out = ERR_WRONG_NODE;
    if (ref->rec.key_len)
        store_key_hash(l->store, &w->key);
    return true;
}

void batch_skip(struct tp_peer *tp, const struct message *m,
                const struct frame_limits *lim, uint32_t from)
{
    struct batch b;

    if ((m->frame.op != OP_PUT && m->frame.op != OP_PUT_WRITE) || m->data ||
        batch_read(m, lim, &b))
        return;
    for (uint32_t i = from; i < b.head.key_n; i++)
        tp->t->ops->skip(tp, m->frame.req, i);
}

void result_of_block(struct op *op, uint32_t block, struct wire_result *r)
{
    const struct store *s = op->lane->store;

    r->version = store_version(s, block);
    r->len = store_len(s, block);
    if (store_where(s, block) == WHERE_MEMORY)
        r->crc = store_crc(s, block);
    r->state = STATE_HIT;
}

void promote_block(struct op *op, uint32_t block, const struct store_key *k)
{
    enum err e = store_load(op->lane->store, block, k, LOAD_PROMOTE, NULL);

    MUST(!e || e == ERR_BUSY);
}

enum err miss_of(struct op *op, enum store_found why)
{
    struct metrics *m = &op->lane->metrics;

    switch (why) {
    case FOUND_PENDING:
        return ERR_PENDING;
    case FOUND_MISS_EVICTED:
        metric_add(&m->get_miss_evicted, 1);
        break;
    case FOUND_MISS_EXPIRED:
        metric_add(&m->get_miss_expired, 1);
        break;
    case FOUND_MISS_NOT_ADMITTED:
        metric_add(&m->get_miss_not_admitted, 1);
        break;
    case FOUND_MISS_LATE:
        metric_add(&m->get_miss_late, 1);
        break;
    case FOUND_MISS_DROPPED:
        metric_add(&m->get_miss_dropped, 1);
        break;
    case FOUND_MISS_CORRUPT:
        metric_add(&m->get_miss_corrupt, 1);
        break;
    case FOUND_MISS_MOVED:
        metric_add(&m->get_miss_moved, 1);
        break;
    case FOUND_MISS_NEVER:
    case FOUND_HIT:
        metric_add(&m->get_miss_never, 1);
        break;
    }
    return ERR_MISS;
}
