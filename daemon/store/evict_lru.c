/* SPDX-License-Identifier: Apache-2.0
 *
 * Least recently used: one list in the order of the last use. Because a held
 * block keeps its place and is moved by its hits, a released parent stands
 * exactly where its last use put it; a chain goes leaf first, root last.
 *
 *      insert, hit --> newest <-> ... <-> oldest --> victim
 *
 * node.freq holds the chances left by priority, refilled at each use. State:
 * one list. O(1). Nothing fails. */
#include "store/evict_list.h"

enum { LRU_LIST = 1 };

static size_t lru_state_bytes(uint64_t pages_max)
{
    (void)pages_max;
    return sizeof(struct evict_list);
}

static void lru_init(struct evict *e)
{
    evict_list_init(e->state);
}

static void lru_insert(struct evict *e, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    n->queue = LRU_LIST;
    n->freq = evict_level(n);
    evict_list_push(e, e->state, id);
}

static void lru_hit(struct evict *e, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    n->freq = evict_level(n);
    evict_list_renew(e, e->state, e->state, id);
}

static void lru_release(struct evict *e, uint32_t id, bool cold)
{
    evict_list_release(e, e->state, id, cold);
}

static void lru_remove(struct evict *e, uint32_t id, enum evict_why why)
{
    (void)why;
    evict_list_drop(e, e->state, id);
}

static uint32_t lru_victim(struct evict *e)
{
    return evict_list_victim(e, e->state);
}

const struct evict_ops evict_lru = {
    .name = evict_lru_name,
    .doc = evict_lru_doc,
    .state_bytes = lru_state_bytes,
    .init = lru_init,
    .insert = lru_insert,
    .hit = lru_hit,
    .release = lru_release,
    .remove = lru_remove,
    .victim = lru_victim,
};
