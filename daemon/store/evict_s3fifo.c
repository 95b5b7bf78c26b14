/* SPDX-License-Identifier: Apache-2.0
 *
 * S3-FIFO (Yang et al., SOSP 2023): a small queue filters blocks that are used
 * once, a main queue keeps the rest, a ghost list remembers what small let go.
 *
 *   new --------> SMALL (10 % of the pages) --freq <= 1--> victim, GHOST
 *                   | freq > 1                                |
 *                   v                                         | comes again
 *   MAIN (90 %) <---+-----------------------------------------+
 *     | freq > 0: freq - 1, newest again
 *     +--freq = 0--> victim
 *
 * Hits only count, up to 3; nothing moves on a hit. Sizes are pages and count
 * held blocks too: their bytes are as real. The ghost list covers as many
 * pages as main may have. Priority is a start value of freq. State: two lists
 * and a ghost entry for each 16 pages (evict_ghost.h). Nothing fails. */
#include "store/evict_ghost.h"
#include "store/evict_list.h"

enum { S3_SMALL = 1, S3_MAIN, S3_QUEUES };
enum { S3_FREQ_MAX = 3, S3_KEEP_ABOVE = 1 };

struct s3fifo {
    struct evict_list list[S3_QUEUES];
    uint64_t pages[S3_QUEUES];
    struct evict_ghost ghost;
};

static size_t s3fifo_state_bytes(uint64_t pages_max)
{
    return sizeof(struct s3fifo) +
           evict_ghost_bytes(evict_ghost_entries(pages_max));
}

static void s3fifo_init(struct evict *e)
{
    struct s3fifo *s = e->state;

    evict_list_init(&s->list[S3_SMALL]);
    evict_list_init(&s->list[S3_MAIN]);
    evict_ghost_init(&s->ghost, s + 1, evict_ghost_entries(e->host.pages_max));
}

static uint64_t s3fifo_small_pages(const struct evict *e)
{
    return e->capacity_pages / 10;
}

static void s3fifo_insert(struct evict *e, uint32_t id)
{
    struct s3fifo *s = e->state;
    struct evict_node *n = evict_node_at(&e->host, id);
    uint64_t hash = e->host.hash(e->host.arg, id);

    n->queue = evict_ghost_take(&s->ghost, hash) ? S3_MAIN : S3_SMALL;
    n->freq = evict_level(n);
    s->pages[n->queue] += n->weight;
    evict_list_push(e, &s->list[n->queue], id);
}

static void s3fifo_hit(struct evict *e, uint32_t id)
{
    struct evict_node *n = evict_node_at(&e->host, id);

    if (n->freq < S3_FREQ_MAX)
        n->freq++;
}

static void s3fifo_release(struct evict *e, uint32_t id, bool cold)
{
    struct s3fifo *s = e->state;
    const struct evict_node *n = evict_node_at(&e->host, id);

    evict_list_release(e, &s->list[n->queue], id, cold);
}

static void s3fifo_remove(struct evict *e, uint32_t id, enum evict_why why)
{
    struct s3fifo *s = e->state;
    const struct evict_node *n = evict_node_at(&e->host, id);

    evict_list_drop(e, &s->list[n->queue], id);
    s->pages[n->queue] -= n->weight;
    if (why != EVICT_PRESSURE || n->queue != S3_SMALL)
        return;
    evict_ghost_add(&s->ghost, e->host.hash(e->host.arg, id), n->weight);
    evict_ghost_trim(&s->ghost, e->capacity_pages - s3fifo_small_pages(e));
}

/* The oldest of small that was not used often; the others move to main, until
 * small is as small as it should be: then EVICT_NONE, it is main's turn. */
static uint32_t s3fifo_victim_small(struct evict *e)
{
    struct s3fifo *s = e->state;
    struct evict_list *small = &s->list[S3_SMALL];
    uint32_t id = evict_list_oldest(e, small);

    for (uint32_t i = 0; i < EVICT_PASS_MAX && id != EVICT_NONE; i++) {
        struct evict_node *n = evict_node_at(&e->host, id);

        if (n->freq <= S3_KEEP_ABOVE)
            break;
        n->freq = 0;
        n->queue = S3_MAIN;
        s->pages[S3_SMALL] -= n->weight;
        s->pages[S3_MAIN] += n->weight;
        evict_list_renew(e, small, &s->list[S3_MAIN], id);
        if (s->pages[S3_SMALL] <= s3fifo_small_pages(e))
            return EVICT_NONE;
        id = evict_list_oldest(e, small);
    }
    return id;
}

static uint32_t s3fifo_victim(struct evict *e)
{
    struct s3fifo *s = e->state;
    uint32_t id = EVICT_NONE;

    if (s->pages[S3_SMALL] > s3fifo_small_pages(e))
        id = s3fifo_victim_small(e);
    if (id == EVICT_NONE)
        id = evict_list_victim(e, &s->list[S3_MAIN]);
    if (id == EVICT_NONE)
        id = s3fifo_victim_small(e);
    if (id == EVICT_NONE)
        id = evict_list_victim(e, &s->list[S3_MAIN]);
    return id;
}

const struct evict_ops evict_s3fifo = {
    .name = evict_s3fifo_name,
    .doc = evict_s3fifo_doc,
    .state_bytes = s3fifo_state_bytes,
    .init = s3fifo_init,
    .insert = s3fifo_insert,
    .hit = s3fifo_hit,
    .release = s3fifo_release,
    .remove = s3fifo_remove,
    .victim = s3fifo_victim,
};
