/* SPDX-License-Identifier: Apache-2.0
 *
 * The part of the eviction contract that all policies share: the table, the
 * counts, the held flag, and the live switch. See evict.h for the states.
 *
 * A wrapper checks its edge of the diagram first, then lets the policy act on
 * the node as it was, then moves the flag and the counts. The stamp is set
 * before the policy sees the access, so that a policy can use it; hit() alone
 * runs before, because the age at the hit is what it learns from.
 *
 * Called by the store of one lane and by the policy simulator. Nothing fails:
 * a wrong edge is a bug of the caller (DEBUG_CHECK). It does not decide when
 * to evict, or whose namespace: that is the store's. */
#include "store/evict.h"

#include <string.h>

#include "store/evict_list.h"

#define POLICY(name, ops, doc)                                                 \
    const char ops##_name[] = #name;                                           \
    const char ops##_doc[] = doc;
#include "store/evict.tbl"

static const struct evict_ops *const policies[] = {
#define POLICY(name, ops, doc) &ops,
#include "store/evict.tbl"
};

const struct evict_ops *evict_by_idx(uint32_t idx)
{
    return idx < countof(policies) ? policies[idx] : NULL;
}

const struct evict_ops *evict_by_name(const char *name)
{
    for (uint32_t i = 0; i < countof(policies); i++) {
        if (strcmp(policies[i]->name, name) == 0)
            return policies[i];
    }
    return NULL;
}

void evict_init(struct evict *e, const struct evict_ops *ops,
                const struct evict_host *host, void *state,
                uint64_t capacity_pages)
{
    *e = (struct evict){
        .ops = ops,
        .host = *host,
        .capacity_pages = capacity_pages,
        .state = state,
    };
    if (!e->host.pages_max)
        e->host.pages_max = capacity_pages;
    evict_list_init(&e->parked);
    ops->init(e);
}

static void evict_count(struct evict *e, const struct evict_node *n,
                        bool is_held, int by)
{
    uint32_t *blocks = is_held ? &e->held : &e->members;
    uint64_t *pages = is_held ? &e->held_pages : &e->member_pages;

    *blocks += (uint32_t)by;
    *pages += (uint64_t)by * n->weight;
}

void evict_insert(struct evict *e, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    DEBUG_CHECK(id < e->host.ids_max);
    DEBUG_CHECK(n->queue == 0);
    DEBUG_CHECK(n->weight > 0);
    n->stamp = ++e->clock;
    n->held = EVICT_MEMBER;
    n->freq = 0;
    e->ops->insert(e, id);
    DEBUG_CHECK(n->queue != 0);
    evict_count(e, n, false, 1);
}

void evict_hit(struct evict *e, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    DEBUG_CHECK(n->queue != 0);
    e->clock++;
    e->ops->hit(e, id);
    n->stamp = e->clock;
}

void evict_hold(struct evict *e, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    DEBUG_CHECK(n->queue != 0);
    DEBUG_CHECK(n->held == EVICT_MEMBER);
    evict_count(e, n, false, -1);
    n->held = EVICT_HELD;
    evict_count(e, n, true, 1);
}

void evict_release(struct evict *e, uint32_t id, bool cold)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    DEBUG_CHECK(n->queue != 0);
    DEBUG_CHECK(n->held != EVICT_MEMBER);
    evict_count(e, n, true, -1);
    if (!cold)
        n->stamp = e->clock;
    e->ops->release(e, id, cold);
    n->held = EVICT_MEMBER;
    evict_count(e, n, false, 1);
}

void evict_remove(struct evict *e, uint32_t id, enum evict_why why)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    DEBUG_CHECK(n->queue != 0);
    evict_count(e, n, n->held != EVICT_MEMBER, -1);
    e->ops->remove(e, id, why);
    n->queue = 0;
    n->held = EVICT_MEMBER;
}

uint32_t evict_victim(struct evict *e)
{
    uint32_t id;

    if (e->members == 0)
        return EVICT_NONE;
    id = e->ops->victim(e);
    MUST(id != EVICT_NONE);
    return id;
}

void evict_resize(struct evict *e, uint64_t capacity_pages)
{
    e->capacity_pages = capacity_pages;
}

/* Takes the oldest of both lists by last use into to. */
static void evict_switch_one(struct evict *to, struct evict_list *members,
                             struct evict_list *held)
{
    struct evict_list *from = members;
    struct evict_node *n, *h;
    uint32_t id, stamp;

    if (members->oldest == EVICT_NONE) {
        from = held;
    } else if (held->oldest != EVICT_NONE) {
        n = evict_node_at(&to->host, members->oldest);
        h = evict_node_at(&to->host, held->oldest);
        /* A held block goes first when it is as old: parents before leaves. */
        if ((int32_t)(h->stamp - n->stamp) <= 0)
            from = held;
    }
    id = from->oldest;
    n = evict_node_at(&to->host, id);
    stamp = n->stamp;
    evict_list_del(to, from, id);
    evict_insert(to, id);
    n->stamp = stamp;
    if (from == held)
        evict_hold(to, id);
}

void evict_switch(struct evict *from, struct evict *to)
{
    struct evict_list members, held;
    uint32_t id;

    DEBUG_CHECK(to->members + to->held == 0);
    evict_list_init(&members);
    evict_list_init(&held);
    while ((id = evict_victim(from)) != EVICT_NONE) {
        evict_remove(from, id, EVICT_GONE);
        evict_list_push(from, &members, id);
    }
    id = from->ops->victim(from); /* parks whatever is still in its place */
    MUST(id == EVICT_NONE);
    while ((id = from->parked.oldest) != EVICT_NONE) {
        evict_remove(from, id, EVICT_GONE);
        evict_list_push(from, &held, id);
    }
    MUST(from->held == 0);
    while (members.oldest != EVICT_NONE || held.oldest != EVICT_NONE)
        evict_switch_one(to, &members, &held);
    to->clock = from->clock;
}
