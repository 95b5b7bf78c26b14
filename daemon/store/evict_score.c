/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampled scores: see evict_score.h for the layout and how to add one.
 *
 * Invariants: ids[0..n) are the known blocks that are neither parked nor in
 * spill; ids[i] has node.prev = i. The array has pages_max places, enough for
 * blocks of a page or more; blocks that own no page (length 0) may be more,
 * and those beyond the array wait in spill, whose oldest is the first victim.
 * The array is reserved address space that is touched as far as it is used:
 * 4 bytes a block.
 *
 * A victim costs K draws and K scores. The draws are made first and their
 * nodes fetched ahead, so that the cache misses overlap. Random numbers come
 * from env: same seed, same victims. Nothing fails. */
#include "store/evict_score.h"

#include "store/evict_list.h"

enum { SCORE_POOL = 1, SCORE_SPILL, SCORE_OWN_ALIGN = 64 };

struct evict_pool {
    struct evict_list spill;
    uint32_t n;
    uint32_t ids[];
};

static size_t score_own_bytes(const struct evict_score *s)
{
    return align_up(s->bytes, SCORE_OWN_ALIGN);
}

size_t evict_score_bytes(const struct evict_score *s, uint64_t pages_max)
{
    return score_own_bytes(s) + sizeof(struct evict_pool) +
           (size_t)pages_max * sizeof(uint32_t);
}

static struct evict_pool *pool_of(const struct evict *e)
{
    char *p = e->state;

    return (struct evict_pool *)(void *)(p + score_own_bytes(e->ops->score));
}

static void pool_add(struct evict *e, uint32_t id)
{
    struct evict_pool *p = pool_of(e);
    struct evict_node *n = evict_node_at(&e->host, id);

    if (p->n == e->host.pages_max) {
        n->queue = SCORE_SPILL;
        evict_list_push(e, &p->spill, id);
        return;
    }
    n->queue = SCORE_POOL;
    n->prev = p->n;
    p->ids[p->n++] = id;
}

static void pool_del(struct evict *e, uint32_t id)
{
    struct evict_pool *p = pool_of(e);
    const struct evict_node *n = evict_node_at(&e->host, id);
    uint32_t last;

    if (n->queue == SCORE_SPILL) {
        evict_list_del(e, &p->spill, id);
        return;
    }
    last = p->ids[--p->n];
    p->ids[n->prev] = last;
    evict_node_at(&e->host, last)->prev = n->prev;
}

void evict_score_init(struct evict *e)
{
    const struct evict_score *s = e->ops->score;

    evict_list_init(&pool_of(e)->spill);
    if (s->init)
        s->init(e->state);
}

void evict_score_insert(struct evict *e, uint32_t id)
{
    pool_add(e, id);
}

static void score_unpark(struct evict *e, uint32_t id)
{
    evict_list_del(e, &e->parked, id);
    pool_add(e, id);
}

void evict_score_hit(struct evict *e, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    if (e->ops->score->used)
        e->ops->score->used(e, e->state, n);
    if (n->freq < UINT8_MAX)
        n->freq++;
}

/* A block's place says nothing, its stamp all: cold or not, it is the same. */
void evict_score_release(struct evict *e, uint32_t id, bool cold)
{
    (void)cold;
    if (evict_node_at(&e->host, id)->held == EVICT_PARKED)
        score_unpark(e, id);
}

void evict_score_remove(struct evict *e, uint32_t id, enum evict_why why)
{
    const struct evict_node *n = evict_node_at(&e->host, id);

    if (why == EVICT_PRESSURE && e->ops->score->evicted)
        e->ops->score->evicted(e, e->state, n);
    if (n->held == EVICT_PARKED)
        evict_list_del(e, &e->parked, id);
    else
        pool_del(e, id);
}

/* Draws up to EVICT_SAMPLES ids; at least one if the pool has any. */
static uint32_t score_draw(struct evict *e, uint32_t ids_out[EVICT_SAMPLES])
{
    struct evict_pool *p = pool_of(e);
    uint64_t random = 0;

    if (p->n <= EVICT_SAMPLES) {
        for (uint32_t i = 0; i < p->n; i++)
            ids_out[i] = p->ids[i];
        return p->n;
    }
    for (uint32_t i = 0; i < EVICT_SAMPLES; i++) {
        random = i % 2 ? random >> 32 : env_random(e->host.env);
        ids_out[i] = p->ids[(random & UINT32_MAX) * p->n >> 32];
        __builtin_prefetch(evict_node_at(&e->host, ids_out[i]));
    }
    return EVICT_SAMPLES;
}

static uint64_t score_of(const struct evict *e, const struct evict_node *n)
{
    const struct evict_score *s = e->ops->score;
    uint64_t score = s->score(e, e->state, n);
    int shift = 2 * evict_level(n);

    return score > UINT64_MAX >> shift ? UINT64_MAX : score << shift;
}

/* The lowest score among the MEMBERs drawn; parks the HELD ones. A block that
 * was drawn twice and parked the first time is passed over. */
static uint32_t score_pick(struct evict *e, const uint32_t *ids, uint32_t count)
{
    uint32_t best = EVICT_NONE;
    uint64_t lowest = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct evict_node *n = evict_node_at(&e->host, ids[i]);
        uint64_t score;

        if (n->held == EVICT_HELD) {
            pool_del(e, ids[i]);
            evict_list_push(e, &e->parked, ids[i]);
            n->held = EVICT_PARKED;
        }
        if (n->held != EVICT_MEMBER)
            continue;
        score = score_of(e, n);
        if (best == EVICT_NONE || score < lowest) {
            best = ids[i];
            lowest = score;
        }
    }
    return best;
}

uint32_t evict_score_victim(struct evict *e)
{
    uint32_t ids[EVICT_SAMPLES], count;
    uint32_t id = evict_list_oldest(e, &pool_of(e)->spill);

    while (id == EVICT_NONE && (count = score_draw(e, ids)) > 0)
        id = score_pick(e, ids, count);
    return id;
}
