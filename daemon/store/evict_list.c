/* SPDX-License-Identifier: Apache-2.0
 *
 * Lists by id: see evict_list.h for the picture.
 *
 * Invariants: a node is in one list at most; node.queue of the policy's nodes
 * tells which, unless node.held is EVICT_PARKED. Parking happens at most once
 * per hold, which is what makes finding a victim O(1) amortised.
 *
 * Called by the list policies and by evict.c, on the lane. Nothing fails. */
#include "store/evict_list.h"

void evict_list_push(struct evict *e, struct evict_list *l, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    n->prev = EVICT_NONE;
    n->next = l->newest;
    if (l->newest == EVICT_NONE)
        l->oldest = id;
    else
        evict_node_at(&e->host, l->newest)->prev = id;
    l->newest = id;
}

void evict_list_push_oldest(struct evict *e, struct evict_list *l, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    n->next = EVICT_NONE;
    n->prev = l->oldest;
    if (l->oldest == EVICT_NONE)
        l->newest = id;
    else
        evict_node_at(&e->host, l->oldest)->next = id;
    l->oldest = id;
}

void evict_list_del(struct evict *e, struct evict_list *l, uint32_t id)
{
    const struct evict_node *n = evict_node_at(&e->host, id);

    if (n->prev == EVICT_NONE)
        l->newest = n->next;
    else
        evict_node_at(&e->host, n->prev)->next = n->next;
    if (n->next == EVICT_NONE)
        l->oldest = n->prev;
    else
        evict_node_at(&e->host, n->next)->prev = n->prev;
}

void evict_list_drop(struct evict *e, struct evict_list *l, uint32_t id)
{
    const struct evict_node *n = evict_node_at(&e->host, id);

    evict_list_del(e, n->held == EVICT_PARKED ? &e->parked : l, id);
}

void evict_list_renew(struct evict *e, struct evict_list *from,
                      struct evict_list *to, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    evict_list_drop(e, from, id);
    evict_list_push(e, to, id);
    if (n->held == EVICT_PARKED)
        n->held = EVICT_HELD;
}

void evict_list_release(struct evict *e, struct evict_list *l, uint32_t id,
                        bool cold)
{
    const struct evict_node *n = evict_node_at(&e->host, id);

    if (!cold) {
        evict_list_renew(e, l, l, id);
    } else if (n->held == EVICT_PARKED) {
        evict_list_del(e, &e->parked, id);
        evict_list_push_oldest(e, l, id);
    }
}

uint32_t evict_list_oldest(struct evict *e, struct evict_list *l)
{
    uint32_t id;

    while ((id = l->oldest) != EVICT_NONE) {
        struct evict_node *n = evict_node_at(&e->host, id);

        if (n->held == EVICT_MEMBER)
            break;
        evict_list_del(e, l, id);
        evict_list_push(e, &e->parked, id);
        n->held = EVICT_PARKED;
    }
    return id;
}

uint32_t evict_list_victim(struct evict *e, struct evict_list *l)
{
    uint32_t id = evict_list_oldest(e, l);

    for (uint32_t i = 0; i < EVICT_PASS_MAX && id != EVICT_NONE; i++) {
        struct evict_node *n = evict_node_at(&e->host, id);

        if (n->freq == 0)
            break;
        n->freq--;
        evict_list_renew(e, l, l, id);
        id = evict_list_oldest(e, l);
    }
    return id;
}
