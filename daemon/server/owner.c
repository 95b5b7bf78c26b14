/* SPDX-License-Identifier: Apache-2.0
 *
 * The view's answers for one key (owner.h). */
#include "server/owner.h"

#include "base/hash.h"
#include "server/batch.h"

uint32_t owner_slot(const struct registry_ns *ns, const struct store_key *k)
{
    return hash_slot(ns->slot_seed, k->route_len ? k->route : k->key,
                     k->route_len ? k->route_len : k->key_len);
}

/* Does the view say nothing about this request? */
static bool owner_unasked(const struct lane *l, const struct wire_batch *head)
{
    return !l->view || head->flags & BATCH_HERE || head->epoch > l->epoch;
}

static uint32_t owner_slot_of(const struct lane *l,
                              const struct wire_batch *head,
                              const struct store_key *k)
{
    return owner_slot(&l->ns[head->ns], k);
}

/* The slot's last home, if its blocks may still be there and it answers. */
static uint16_t owner_from(const struct lane *l, uint32_t slot)
{
    const struct view *v = l->view;
    uint16_t from = v->slots[slot].from;

    return from < v->node_n && from != l->self_node &&
                   node_serves(&v->nodes[from])
               ? from
               : NODE_NONE;
}

enum owner_miss owner_of_miss(const struct lane *l,
                              const struct wire_batch *head,
                              const struct store_key *k, struct owner_at *at)
{
    uint16_t node;

    *at = (struct owner_at){.node = NODE_NONE};
    if (owner_unasked(l, head))
        return OWNER_MISS;
    at->slot = owner_slot_of(l, head, k);
    node = view_serving(l->view, at->slot);
    if (node != l->self_node && node != NODE_NONE) {
        at->node = node;
        return OWNER_ELSEWHERE;
    }
    if (node == l->self_node)
        at->node = owner_from(l, at->slot);
    return at->node == NODE_NONE ? OWNER_MISS : OWNER_PULL;
}

static enum err owner_redirect(struct op *op, uint16_t node,
                               struct wire_result *r)
{
    metric_add(&op->lane->metrics.redirects, 1);
    r->owner = node;
    return ERR_WRONG_NODE;
}

enum err owner_of_put(struct op *op, const struct wire_batch *head,
                      const struct store_key *k, struct wire_result *r)
{
    const struct lane *l = op->lane;
    uint16_t node;
    uint32_t slot;

    if (owner_unasked(l, head))
        return OK;
    slot = owner_slot_of(l, head, k);
    if (view_owns(l->view, slot, l->self_node))
        return OK;
    node = view_serving(l->view, slot);
    return node == NODE_NONE ? OK : owner_redirect(op, node, r);
}

enum err owner_missed(struct op *op, const struct wire_batch *head,
                      const struct store_key *k, enum store_found why,
                      struct wire_result *r)
{
    struct owner_at at;

    if (why != FOUND_PENDING &&
        owner_of_miss(op->lane, head, k, &at) == OWNER_ELSEWHERE)
        return owner_redirect(op, at.node, r);
    return miss_of(op, why);
}

enum err owner_lane(const struct op *op, struct wire_result *r, enum err e)
{
    if (e == ERR_WRONG_NODE && op->lane->view)
        r->owner = op->lane->self_node;
    return e;
}
