/* SPDX-License-Identifier: Apache-2.0
 *
 * GET of keys that are not here but, by the view, may be at the slot's last
 * home: they are asked for there (wants.h), and go on as cold keys when they
 * have come.
 *
 *     miss --wants_ask--> wanted --done--> cold --found again--> as any other
 *                            |
 *                            +-- not there, no time left --> MISS
 *
 * A key that was dropped here lately is not asked for. Thread: the lane. */
#include "server/op_get.h"
#include "server/owner.h"

static void get_wanted(struct want_wait *w, enum err e)
{
    struct get_key *k = container_of(w, struct get_key, want);
    struct op *op = k->x.op;
    struct get *get = op->body;

    list_del(&k->node);
    if (e)
        get_end_key(get, k, miss_of(op, FOUND_MISS_NEVER));
    else
        list_add_tail(&get->cold, &k->node);
    get_tick(op);
}

/* Not here. If it may be brought, it is waited for, until a quarter of the
 * request's time is left. */
enum err get_want_key(struct op *op, struct get *get, enum store_found why)
{
    const struct wire_batch *head = &get->walk.batch.head;
    struct get_key *k = &get->keys[get->n];
    uint64_t us =
        min_u64(op->msg.frame.deadline_us, op->lane->cfg->limits.deadline_us);
    struct owner_at at;

    if (why == FOUND_PENDING || why == FOUND_MISS_DROPPED ||
        owner_of_miss(op->lane, head, &get->walk.key, &at) != OWNER_PULL)
        return owner_missed(op, head, &get->walk.key, why,
                            &get->r->results[get->walk.idx]);
    get_key_init(get, k);
    k->key = get->walk.key;
    k->len = get->walk.ref.rec.len;
    k->want.done = get_wanted;
    list_init(&k->want.node);
    if (wants_ask(op->lane, &at, &k->key, op->begin_ns + us * 750, &k->want))
        return miss_of(op, why);
    k->waited = k->asked = true;
    list_add_tail(&get->wanted, &k->node);
    get->n++;
    parts_set(get->parts, k->idx, true);
    return OK;
}

bool get_came(struct get *get, struct get_key *k, uint32_t block)
{
    enum err e = get_fits(get, k, block, k->len);

    k->asked = false;
    if (!e) {
        store_use(get->op->lane->store, block);
        lane_accessed(get->op->lane, k->key.hash, get_result(get, k)->len);
    }
    if (!e && (k->len || k->loan))
        return true;
    if (!e)
        metric_add(&get->op->lane->metrics.get_hits, 1);
    get_end_key(get, k, e);
    return false;
}
