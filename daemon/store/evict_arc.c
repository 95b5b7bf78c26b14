/* SPDX-License-Identifier: Apache-2.0
 *
 * ARC (Megiddo and Modha, FAST 2003) with weights in pages: T1 holds blocks
 * used once, T2 blocks used again, B1 and B2 remember what each let go, and
 * the target p of T1 moves towards the list whose memory is asked for.
 *
 *   new ------------> T1 --victim--> B1 --comes again: p grows----+
 *                      | hit                                      v
 *                      +-----------> T2 --victim--> B2            T2
 *                                     ^              |
 *                                     +--------------+ comes again: p shrinks
 *
 * With c = capacity_pages: |T1| + |B1| <= c and |T1| + |T2| + |B1| + |B2| <= 2c
 * after each insert (as far as the resident blocks allow). T1 and T2 count
 * held blocks. A victim is named before it is known what comes next, so p has
 * not yet moved for it (in the paper it has): one decision late.
 *
 * Unlike the paper's, T1 keeps a tenth of the pages whatever p says. Blocks
 * here are stored first and read later, not brought in by a read: when all
 * older ones have been read (T2) and p is 0, each new block would be the next
 * victim and never live until its first read.
 *
 * node.freq holds the chances left by priority. State: two lists, and two
 * ghost lists with an entry for each 16 pages. Nothing fails. */
#include "store/evict_ghost.h"
#include "store/evict_list.h"

enum { ARC_T1 = 1, ARC_T2, ARC_QUEUES };
enum { ARC_T1_PART = 10 }; /* T1 has at least c / 10 */

struct arc {
    struct evict_list list[ARC_QUEUES];
    uint64_t pages[ARC_QUEUES];
    struct evict_ghost ghost[ARC_QUEUES]; /* B1 and B2 */
    uint64_t target;                      /* p: pages that T1 should have */
};

static size_t arc_state_bytes(uint64_t pages_max)
{
    return sizeof(struct arc) +
           2 * evict_ghost_bytes(evict_ghost_entries(pages_max));
}

static void arc_init(struct evict *e)
{
    struct arc *a = e->state;
    uint32_t entries = evict_ghost_entries(e->host.pages_max);
    char *mem = (char *)(a + 1);

    for (int q = ARC_T1; q <= ARC_T2; q++) {
        evict_list_init(&a->list[q]);
        evict_ghost_init(&a->ghost[q], mem, entries);
        mem += evict_ghost_bytes(entries);
    }
}

/* A block of weight w came again that list q (T1 or T2) had let go. */
static void arc_adapt(struct evict *e, int q, uint64_t w)
{
    struct arc *a = e->state;
    uint64_t mine = a->ghost[q].pages;
    uint64_t other = a->ghost[ARC_T1 + ARC_T2 - q].pages;
    uint64_t by = mine >= other ? w : w * other / mine;

    if (q == ARC_T1)
        a->target = min_u64(a->target + by, e->capacity_pages);
    else
        a->target -= min_u64(by, a->target);
}

static void arc_trim(struct evict *e)
{
    struct arc *a = e->state;
    uint64_t c = e->capacity_pages, t1 = a->pages[ARC_T1];
    uint64_t all = t1 + a->pages[ARC_T2];

    evict_ghost_trim(&a->ghost[ARC_T1], c - min_u64(t1, c));
    all += a->ghost[ARC_T1].pages;
    evict_ghost_trim(&a->ghost[ARC_T2], 2 * c - min_u64(all, 2 * c));
}

static void arc_insert(struct evict *e, uint32_t id)
{
    struct arc *a = e->state;
    struct evict_node *n = evict_node_at(&e->host, id);
    uint64_t hash = e->host.hash(e->host.arg, id);

    n->queue = ARC_T1;
    n->freq = evict_level(n);
    for (int q = ARC_T1; q <= ARC_T2; q++) {
        if (!evict_ghost_has(&a->ghost[q], hash))
            continue;
        arc_adapt(e, q, n->weight);
        evict_ghost_take(&a->ghost[q], hash);
        n->queue = ARC_T2;
    }
    a->pages[n->queue] += n->weight;
    evict_list_push(e, &a->list[n->queue], id);
    arc_trim(e);
}

static void arc_hit(struct evict *e, uint32_t id)
{
    struct arc *a = e->state;
    struct evict_node *n = evict_node_at(&e->host, id);

    evict_list_renew(e, &a->list[n->queue], &a->list[ARC_T2], id);
    a->pages[n->queue] -= n->weight;
    a->pages[ARC_T2] += n->weight;
    n->queue = ARC_T2;
    n->freq = evict_level(n);
}

static void arc_release(struct evict *e, uint32_t id, bool cold)
{
    struct arc *a = e->state;
    const struct evict_node *n = evict_node_at(&e->host, id);

    evict_list_release(e, &a->list[n->queue], id, cold);
}

static void arc_remove(struct evict *e, uint32_t id, enum evict_why why)
{
    struct arc *a = e->state;
    const struct evict_node *n = evict_node_at(&e->host, id);

    evict_list_drop(e, &a->list[n->queue], id);
    a->pages[n->queue] -= n->weight;
    if (why == EVICT_PRESSURE)
        evict_ghost_add(&a->ghost[n->queue], e->host.hash(e->host.arg, id),
                        n->weight);
}

static uint32_t arc_victim(struct evict *e)
{
    struct arc *a = e->state;
    uint64_t c = e->capacity_pages;
    uint64_t target = min_u64(max_u64(a->target, c / ARC_T1_PART), c);
    int q = a->pages[ARC_T1] > target ? ARC_T1 : ARC_T2;
    uint32_t id = evict_list_victim(e, &a->list[q]);

    if (id == EVICT_NONE)
        id = evict_list_victim(e, &a->list[ARC_T1 + ARC_T2 - q]);
    return id;
}

const struct evict_ops evict_arc = {
    .name = evict_arc_name,
    .doc = evict_arc_doc,
    .state_bytes = arc_state_bytes,
    .init = arc_init,
    .insert = arc_insert,
    .hit = arc_hit,
    .release = arc_release,
    .remove = arc_remove,
    .victim = arc_victim,
};
