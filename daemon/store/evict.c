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
    evict_list_init(&e->idle);
    evict_list_init(&e->dead);
    ops->init(e);
}

/* The list of a hinted block; NULL if the policy has it. */
static struct evict_list *hint_list(struct evict *e, const struct evict_node *n)
{
    if (n->queue == EVICT_QUEUE_DEAD)
        return &e->dead;
    return n->queue == EVICT_QUEUE_IDLE ? &e->idle : NULL;
}

/* Takes a block out of wherever it is; a parked one is merely HELD after. */
static void hint_detach(struct evict *e, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);
    struct evict_list *l = hint_list(e, n);

    if (l)
        evict_list_drop(e, l, id);
    else
        e->ops->remove(e, id, EVICT_GONE);
    if (n->held == EVICT_PARKED)
        n->held = EVICT_HELD;
}

/* Gives a hinted block back to the policy, with the uses that it had. */
static void hint_clear(struct evict *e, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);
    uint8_t freq = n->freq;

    if (!hint_list(e, n))
        return;
    hint_detach(e, id);
    n->freq = 0;
    e->ops->insert(e, id);
    if (n->freq < freq)
        n->freq = freq;
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
    hint_clear(e, id);
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
    struct evict_list *hinted = hint_list(e, n);

    DEBUG_CHECK(n->queue != 0);
    DEBUG_CHECK(n->held != EVICT_MEMBER);
    evict_count(e, n, true, -1);
    if (!cold)
        n->stamp = e->clock;
    if (hinted)
        evict_list_release(e, hinted, id, cold);
    else
        e->ops->release(e, id, cold);
    n->held = EVICT_MEMBER;
    evict_count(e, n, false, 1);
}

void evict_remove(struct evict *e, uint32_t id, enum evict_why why)
{
    struct evict_node *n = evict_node_at(&e->host, id);
    struct evict_list *hinted = hint_list(e, n);

    DEBUG_CHECK(n->queue != 0);
    evict_count(e, n, n->held != EVICT_MEMBER, -1);
    if (hinted)
        evict_list_drop(e, hinted, id);
    else
        e->ops->remove(e, id, why);
    n->queue = 0;
    n->held = EVICT_MEMBER;
}

uint32_t evict_victim(struct evict *e)
{
    uint32_t id;

    if (e->members == 0)
        return EVICT_NONE;
    id = evict_list_oldest(e, &e->dead);
    if (id == EVICT_NONE)
        id = evict_list_oldest(e, &e->idle);
    if (id == EVICT_NONE)
        id = e->ops->victim(e);
    MUST(id != EVICT_NONE);
    return id;
}

/* With no member left these park whatever is still in its place. */
static void park_all(struct evict *e)
{
    uint32_t id = evict_list_oldest(e, &e->dead);

    MUST(id == EVICT_NONE);
    id = evict_list_oldest(e, &e->idle);
    MUST(id == EVICT_NONE);
    id = e->ops->victim(e);
    MUST(id == EVICT_NONE);
}

uint32_t evict_held_victim(struct evict *e,
                           bool (*may_go)(void *arg, uint32_t id), void *arg)
{
    if (e->members || !e->held)
        return EVICT_NONE;
    park_all(e);
    for (uint32_t i = 0; i < e->held && i < EVICT_PASS_MAX; i++) {
        uint32_t id = e->parked.oldest;

        if (may_go(arg, id))
            return id;
        evict_list_del(e, &e->parked, id);
        evict_list_push(e, &e->parked, id);
    }
    return EVICT_NONE;
}

static void hint_hot(struct evict *e, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    n->stamp = e->clock;
    if (hint_list(e, n)) {
        hint_clear(e, id);
        return;
    }
    e->ops->release(e, id, false);
    if (n->held == EVICT_PARKED)
        n->held = EVICT_HELD;
}

/* A block that has the hint already keeps its place among the hinted. */
static void hint_set(struct evict *e, uint32_t id, uint8_t queue)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    if (n->queue == queue)
        return;
    hint_detach(e, id);
    n->queue = queue;
    evict_list_push(e, hint_list(e, n), id);
}

void evict_hint(struct evict *e, uint32_t id, enum evict_hint hint)
{
    DEBUG_CHECK(evict_node_at(&e->host, id)->queue != 0);
    switch (hint) {
    case EVICT_HINT_NONE:
        hint_clear(e, id);
        break;
    case EVICT_HINT_IDLE:
        hint_set(e, id, EVICT_QUEUE_IDLE);
        break;
    case EVICT_HINT_DEAD:
        hint_set(e, id, EVICT_QUEUE_DEAD);
        break;
    case EVICT_HINT_HOT:
        hint_hot(e, id);
        break;
    }
}

void evict_resize(struct evict *e, uint64_t capacity_pages)
{
    e->capacity_pages = capacity_pages;
}

/* Takes a block out of from, which must not be parked there after; freq, which
 * an insert sets anew, carries the hint meanwhile. */
static void evict_switch_out(struct evict *from, struct evict_list *l,
                             uint32_t id)
{
    struct evict_node *n = evict_node_at(&from->host, id);
    enum evict_hint hint = EVICT_HINT_NONE;

    if (n->queue == EVICT_QUEUE_DEAD)
        hint = EVICT_HINT_DEAD;
    else if (n->queue == EVICT_QUEUE_IDLE)
        hint = EVICT_HINT_IDLE;
    evict_remove(from, id, EVICT_GONE);
    n->freq = (uint8_t)hint;
    evict_list_push(from, l, id);
}

/* Takes the oldest of both lists by last use into to. */
static void evict_switch_one(struct evict *to, struct evict_list *members,
                             struct evict_list *held)
{
    struct evict_list *from = members;
    struct evict_node *n, *h;
    enum evict_hint hint;
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
    hint = n->freq;
    evict_list_del(to, from, id);
    evict_insert(to, id);
    if (hint != EVICT_HINT_NONE)
        evict_hint(to, id, hint);
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
    while ((id = evict_victim(from)) != EVICT_NONE)
        evict_switch_out(from, &members, id);
    park_all(from);
    while ((id = from->parked.oldest) != EVICT_NONE)
        evict_switch_out(from, &held, id);
    MUST(from->held == 0);
    while (members.oldest != EVICT_NONE || held.oldest != EVICT_NONE)
        evict_switch_one(to, &members, &held);
    to->clock = from->clock;
}
