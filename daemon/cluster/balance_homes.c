/* SPDX-License-Identifier: Apache-2.0
 *
 * Homes by co-access (balance.h, topology): what is wanted together should lie
 * together. Greedy first (the item with the most co-access, to the place that
 * is nearest to those of its partners that have one already), then better
 * places and swaps while the sum falls, at most PASSES times over all items.
 *
 * O(pairs * places) for the greedy part, O(items^2 * partners / places) for a
 * pass: for hundreds of experts or hot slots, not for all slots. */
#include <stdlib.h>

#include "base/fault.h"
#include "cluster/balance.h"

enum { PASSES = 8 };

struct homes {
    const struct balance_pair *pairs;
    uint32_t pair_n, items, places, cap;
    const uint32_t *dist;
    uint16_t *home;
    uint32_t *room;         /* of places */
    uint32_t *first, *with; /* pairs of item i: with[first[i] .. first[i+1]) */
    struct homes_rank {
        uint32_t item;
        uint64_t count;
    } * rank;
};

uint64_t balance_cost(const struct balance_pair *pairs, uint32_t pair_n,
                      const uint16_t *home, const uint32_t *dist,
                      uint32_t places)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < pair_n; i++)
        sum +=
            pairs[i].count * dist[home[pairs[i].a] * places + home[pairs[i].b]];
    return sum;
}

static int rank_order(const void *a, const void *b)
{
    const struct homes_rank *x = a, *y = b;

    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return (x->item > y->item) - (x->item < y->item);
}

/* What the item's pairs cost with it at a place; partners without a home do
 * not count. */
static uint64_t homes_cost(const struct homes *h, uint32_t item, uint32_t place)
{
    uint64_t sum = 0;

    for (uint32_t i = h->first[item]; i < h->first[item + 1]; i++) {
        const struct balance_pair *p = &h->pairs[h->with[i]];
        uint32_t other = p->a == item ? p->b : p->a;

        if (h->home[other] != NODE_NONE && other != item)
            sum += p->count * h->dist[place * h->places + h->home[other]];
    }
    return sum;
}

static void homes_index(struct homes *h)
{
    for (uint32_t i = 0; i < h->items; i++)
        h->rank[i] = (struct homes_rank){.item = i};
    for (uint32_t i = 0; i < h->pair_n; i++) {
        h->first[h->pairs[i].a + 1]++;
        h->first[h->pairs[i].b + 1]++;
        h->rank[h->pairs[i].a].count += h->pairs[i].count;
        h->rank[h->pairs[i].b].count += h->pairs[i].count;
    }
    for (uint32_t i = 0; i < h->items; i++)
        h->first[i + 1] += h->first[i];
    for (uint32_t i = h->pair_n; i-- > 0;) {
        h->with[--h->first[h->pairs[i].a + 1]] = i;
        h->with[--h->first[h->pairs[i].b + 1]] = i;
    }
    /* Filled from its end, each part now begins one entry late. */
    for (uint32_t i = 0; i < h->items; i++)
        h->first[i] = h->first[i + 1];
    h->first[h->items] = 2 * h->pair_n;
    qsort(h->rank, h->items, sizeof(*h->rank), rank_order);
}

static void homes_greedy(struct homes *h)
{
    for (uint32_t r = 0; r < h->items; r++) {
        uint32_t item = h->rank[r].item, best = 0;
        uint64_t best_cost = UINT64_MAX;

        for (uint32_t p = 0; p < h->places; p++) {
            uint64_t cost = homes_cost(h, item, p);

            if (h->room[p] > 0 &&
                (cost < best_cost ||
                 (cost == best_cost && h->room[p] > h->room[best]))) {
                best = p;
                best_cost = cost;
            }
        }
        h->home[item] = (uint16_t)best;
        h->room[best]--;
    }
}

/* Two items change places if that costs less. */
static bool homes_swap(struct homes *h, uint32_t a, uint32_t b)
{
    uint16_t at = h->home[a], to = h->home[b];
    uint64_t was = homes_cost(h, a, at) + homes_cost(h, b, to), is;

    h->home[a] = to;
    h->home[b] = at;
    is = homes_cost(h, a, to) + homes_cost(h, b, at);
    if (is < was)
        return true;
    h->home[a] = at;
    h->home[b] = to;
    return false;
}

static bool homes_improve(struct homes *h, uint32_t item)
{
    uint64_t was = homes_cost(h, item, h->home[item]);

    for (uint32_t p = 0; p < h->places; p++) {
        if (p == h->home[item] || homes_cost(h, item, p) >= was)
            continue;
        if (h->room[p] > 0) {
            h->room[h->home[item]]++;
            h->room[p]--;
            h->home[item] = (uint16_t)p;
            return true;
        }
        for (uint32_t other = 0; other < h->items; other++) {
            if (h->home[other] == p && homes_swap(h, item, other))
                return true;
        }
    }
    return false;
}

static void homes_better(struct homes *h)
{
    bool some = true;

    for (uint32_t pass = 0; pass < PASSES && some; pass++) {
        some = false;
        for (uint32_t i = 0; i < h->items; i++)
            some |= homes_improve(h, i);
    }
}

enum err balance_homes(const struct balance_pair *pairs, uint32_t pair_n,
                       uint32_t items, const uint32_t *dist, uint32_t places,
                       uint32_t cap, uint16_t *home_out)
{
    struct homes h = {pairs,    pair_n, items, places, cap, dist,
                      home_out, NULL,   NULL,  NULL,   NULL};
    enum err e = ERR_NO_MEMORY;

    if ((uint64_t)cap * places < items || places >= NODE_NONE)
        return ERR_LIMIT;
    for (uint32_t i = 0; i < pair_n; i++) {
        if (pairs[i].a >= items || pairs[i].b >= items)
            return ERR_BAD_REQUEST;
    }
    h.room = calloc(places + 1u, sizeof(*h.room));
    h.first = calloc(items + 2u, sizeof(*h.first));
    h.with = calloc(2u * pair_n + 1u, sizeof(*h.with));
    h.rank = calloc(items + 1u, sizeof(*h.rank));
    if (h.room && h.first && h.with && h.rank && !fault_here("homes")) {
        for (uint32_t p = 0; p < places; p++)
            h.room[p] = cap;
        for (uint32_t i = 0; i < items; i++)
            home_out[i] = NODE_NONE;
        homes_index(&h);
        homes_greedy(&h);
        homes_better(&h);
        e = OK;
    }
    free(h.room);
    free(h.first);
    free(h.with);
    free(h.rank);
    return e;
}
