/* SPDX-License-Identifier: Apache-2.0
 *
 * Decayed load of nodes and slots, the picture that a tick makes of it, and
 * when to act. What is done then is in balance_rules.c.
 *
 * A node keeps the BALANCE_TRACKED slots that it reported as hottest lately;
 * one that it reports no more fades, as if it had no load. What a node reports
 * beyond its tracked slots stays with the node ("rest"), as nobody knows which
 * slots it is of. As a node's load and its slots' loads decay by the same
 * factor, the rest does not change when a slot moves. */
#include "cluster/balance.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/balance_impl.h"

enum {
    DECAY_SHIFT = 4,
    BYTES_SHIFT = 16, /* bytes that cost what an operation costs */
    FADED = 1 << 10,  /* Q16: a slot with less is forgotten */
    START_CV = 150,   /* thousandths */
    STOP_CV = 80,
    STOP_MAX = 1100,
    PER_MILLE = 20,
    UNDER_WAY = 64,
    IDLE_COST = 50,
    BUCKET_MS = 10000,
    KNOWN = 1 << 14, /* weight of five reports */
    WINDOW = 7,      /* buckets that any 60 s lie in */
};
#define COST_MAX (UINT64_C(1) << 32)

/* ---- what is known ---- */

enum err balance_init(struct balance *b, const struct balance_cfg *cfg)
{
    *b = (struct balance){.cfg = *cfg};
    b->cfg.per_mille = cfg->per_mille ? cfg->per_mille : PER_MILLE;
    b->cfg.under_way = cfg->under_way ? cfg->under_way : UNDER_WAY;
    b->cfg.idle_cost = cfg->idle_cost ? cfg->idle_cost : IDLE_COST;
    if (!fault_here("balance_init"))
        b->nodes = calloc(NODES_MAX, sizeof(*b->nodes));
    return b->nodes ? OK : ERR_NO_MEMORY;
}

void balance_fini(struct balance *b)
{
    for (uint32_t i = 0; b->nodes && i < NODES_MAX; i++)
        free(b->nodes[i].tracked);
    free(b->nodes);
    *b = (struct balance){.nodes = NULL};
}

void balance_forget(struct balance *b, uint16_t node)
{
    if (node >= NODES_MAX)
        return;
    free(b->nodes[node].tracked);
    b->nodes[node] = (struct balance_node){.load = 0};
}

/* Q16, and its part of one report. */
static uint64_t feed_part(uint64_t ops, uint64_t bytes, uint64_t misses)
{
    uint64_t cost = min_u64(ops, COST_MAX) + (bytes >> BYTES_SHIFT) +
                    min_u64(misses, COST_MAX);

    return (min_u64(cost, COST_MAX) << 16) >> DECAY_SHIFT;
}

static uint64_t feed_decayed(uint64_t load)
{
    return load - (load >> DECAY_SHIFT);
}

/* The slot's entry; of a full table the coldest gives way to a hotter one. */
static struct balance_tracked *feed_find(struct balance_node *n, uint32_t slot,
                                         uint64_t part)
{
    struct balance_tracked *least = &n->tracked[0];

    for (uint32_t i = 0; i < n->tracked_n; i++) {
        struct balance_tracked *t = &n->tracked[i];

        if (t->slot == slot)
            return t;
        if (t->load < least->load)
            least = t;
    }
    if (n->tracked_n < BALANCE_TRACKED)
        least = &n->tracked[n->tracked_n++];
    else if (least->load >= part)
        return NULL;
    *least = (struct balance_tracked){.slot = slot};
    return least;
}

static void feed_fade(struct balance_node *n)
{
    for (uint32_t i = 0; i < n->tracked_n;) {
        struct balance_tracked *t = &n->tracked[i];

        t->load = feed_decayed(t->load);
        if (t->load < FADED)
            *t = n->tracked[--n->tracked_n];
        else
            i++;
    }
}

enum err balance_feed(struct balance *b, uint16_t node, uint64_t ops,
                      uint64_t bytes, uint64_t misses,
                      const struct balance_slot *hot, uint32_t n)
{
    struct balance_node *x;

    if (node >= NODES_MAX)
        return ERR_BAD_REQUEST;
    x = &b->nodes[node];
    if (!x->tracked && !fault_here("balance_feed"))
        x->tracked = calloc(BALANCE_TRACKED, sizeof(*x->tracked));
    if (!x->tracked)
        return ERR_NO_MEMORY;
    feed_fade(x);
    x->load = feed_decayed(x->load) + feed_part(ops, bytes, misses);
    x->weight += ((1 << 16) - x->weight + 15) >> DECAY_SHIFT;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t part = feed_part(hot[i].ops, hot[i].bytes, 0);
        struct balance_tracked *t = NULL;

        if (hot[i].slot < WIRE_SLOTS)
            t = feed_find(x, hot[i].slot, part);
        if (t)
            t->load += part;
    }
    return OK;
}

/* ---- the picture ---- */

static int hot_by_slot(const void *a, const void *b)
{
    const struct balance_hot *x = a, *y = b;

    return (x->slot > y->slot) - (x->slot < y->slot);
}

/* As if the average was made of reports only. */
static uint64_t load_whole(const struct balance_node *x, uint64_t load)
{
    return x->weight ? (uint64_t)(((unsigned __int128)load << 16) / x->weight)
                     : 0;
}

/* All nodes' tracked slots, a slot once, and each node's rest. */
static void open_hot(struct balance_work *w, const struct balance *b)
{
    uint32_t n = 0, out = 0;

    for (uint32_t i = 0; i < w->place.n; i++) {
        const struct balance_node *x = &b->nodes[i];
        uint64_t known = 0, all;

        if (!work_serves(&w->place, (uint16_t)i))
            continue; /* others serve its slots, and report them */
        if (x->weight < KNOWN && work_places(&w->place, (uint16_t)i))
            w->known = false;
        for (uint32_t k = 0; k < x->tracked_n; k++) {
            w->hot[n] = (struct balance_hot){
                .slot = x->tracked[k].slot,
                .load = load_whole(x, x->tracked[k].load),
            };
            known += w->hot[n++].load;
        }
        all = load_whole(x, x->load);
        w->load[i] = all > known ? all - known : 0;
    }
    if (n)
        qsort(w->hot, n, sizeof(*w->hot), hot_by_slot);
    for (uint32_t i = 0; i < n; i++) {
        if (out && w->hot[out - 1].slot == w->hot[i].slot)
            w->hot[out - 1].load += w->hot[i].load;
        else
            w->hot[out++] = w->hot[i];
    }
    w->hot_n = out;
}

uint32_t balance_replicas(const struct balance_work *w, const struct slot *t,
                          uint16_t out[VIEW_COPIES])
{
    const struct place_work *p = &w->place;
    uint16_t home = work_places(p, t->to) ? t->to : t->owner[0];
    uint32_t n = 0;

    if (work_serves(p, home))
        out[n++] = home;
    for (uint32_t k = 1; k < VIEW_COPIES; k++) {
        if ((n == 0 || k <= t->heat) && work_serves(p, t->owner[k]) &&
            t->owner[k] != home)
            out[n++] = t->owner[k];
    }
    return n;
}

static void open_spread(struct balance_work *w, const struct slot *t,
                        uint64_t load, bool add)
{
    uint16_t nodes[VIEW_COPIES];
    uint32_t n = balance_replicas(w, t, nodes);

    for (uint32_t i = 0; i < n; i++) {
        if (add)
            w->load[nodes[i]] += load / n;
        else
            w->load[nodes[i]] -= load / n;
    }
}

void balance_row(struct balance_work *w, struct balance_hot *h,
                 const struct slot *t)
{
    const struct slot *old = &w->v->slots[h->slot];

    open_spread(w, old, h->load, false);
    open_spread(w, t, h->load, true);
    work_count(&w->place, old, -1);
    work_count(&w->place, t, 1);
    h->touched = true;
    w->rows[w->n++] = (struct slot_row){.slot = (uint16_t)h->slot, .to = *t};
}

/* Not under way, and nothing that placement has yet to mend. */
bool balance_quiet(const struct balance_work *w, const struct slot *t)
{
    for (uint32_t k = 0; k < VIEW_COPIES; k++) {
        if (t->owner[k] != NODE_NONE && !work_member(&w->place, t->owner[k]))
            return false;
    }
    return t->owner[0] != NODE_NONE && t->to == NODE_NONE &&
           t->from == NODE_NONE;
}

/* The total by weight, over the nodes that are UP. */
static void open_fair(struct balance_work *w)
{
    uint64_t weights = 0, total = 0;

    for (uint16_t i = 0; i < w->place.n; i++) {
        total += w->load[i];
        if (!work_places(&w->place, i))
            continue;
        weights += w->place.sites[i].weight;
        w->up_n++;
    }
    for (uint16_t i = 0; i < w->place.n; i++) {
        if (work_places(&w->place, i))
            w->fair[i] = (uint64_t)((unsigned __int128)total *
                                    w->place.sites[i].weight / weights);
    }
    w->fair_mean = w->up_n ? total / w->up_n : 0;
}

enum err balance_open(struct balance_work *w, const struct balance *b,
                      const struct view *v)
{
    size_t n = v->node_n ? v->node_n : 1, hot = 1;
    enum err e;

    *w = (struct balance_work){.v = v, .known = true};
    e = work_init(&w->place, v);
    if (e != OK)
        return e;
    for (uint32_t i = 0; i < v->node_n; i++)
        hot += b->nodes[i].tracked_n;
    w->hot = calloc(hot, sizeof(*w->hot));
    w->load = calloc(n, sizeof(*w->load));
    w->fair = calloc(n, sizeof(*w->fair));
    w->spent = calloc(n, sizeof(*w->spent));
    if (!w->hot || !w->load || !w->fair || !w->spent) {
        balance_close(w);
        return ERR_NO_MEMORY;
    }
    open_hot(w, b);
    for (uint32_t i = 0; i < w->hot_n; i++) {
        const struct slot *t = &v->slots[w->hot[i].slot];

        open_spread(w, t, w->hot[i].load, true);
        w->hot[i].touched = !balance_quiet(w, t);
    }
    open_fair(w);
    return OK;
}

void balance_close(struct balance_work *w)
{
    work_fini(&w->place);
    free(w->hot);
    free(w->load);
    free(w->fair);
    free(w->spent);
}

uint64_t balance_relative(const struct balance_work *w, uint16_t node,
                          uint64_t load)
{
    return load * BALANCE_ONE / (w->fair[node] ? w->fair[node] : 1);
}

enum err balance_loads(const struct balance *b, const struct view *v,
                       struct balance_load *out)
{
    struct balance_work w;
    enum err e = balance_open(&w, b, v);

    if (e != OK)
        return e;
    for (uint32_t i = 0; i < v->node_n; i++)
        out[i] = (struct balance_load){w.load[i], w.fair[i]};
    balance_close(&w);
    return OK;
}

/* ---- when ---- */

static uint64_t square_root(uint64_t x)
{
    uint64_t r = 0;

    for (uint64_t bit = UINT64_C(1) << 31; bit; bit >>= 1) {
        if ((r + bit) * (r + bit) <= x)
            r += bit;
    }
    return r;
}

/* CV and maximum of the relative loads, in thousandths. */
static void tick_measure(struct balance *b, const struct balance_work *w)
{
    uint64_t squares = 0, most = 0;

    for (uint16_t i = 0; i < w->place.n; i++) {
        uint64_t x, off;

        if (!work_places(&w->place, i))
            continue;
        x = min_u64(balance_relative(w, i, w->load[i]), 1 << 24);
        off = x > BALANCE_ONE ? x - BALANCE_ONE : BALANCE_ONE - x;
        squares += off * off;
        most = max_u64(most, x);
    }
    b->cv_permille =
        w->up_n
            ? (uint32_t)(square_root(squares / w->up_n) * 1000 / BALANCE_ONE)
            : 0;
    b->max_permille = (uint32_t)(most * 1000 / BALANCE_ONE);
}

static void tick_decide(struct balance *b, const struct balance_work *w)
{
    tick_measure(b, w);
    if (w->up_n < 2 || !w->known ||
        w->fair_mean < (uint64_t)b->cfg.idle_cost << 16)
        b->acting = false;
    else if (b->cv_permille >= START_CV)
        b->acting = true;
    else if (b->cv_permille < STOP_CV && b->max_permille <= STOP_MAX)
        b->acting = false;
}

/* How many slots may still be moved now. */
static uint32_t tick_budget(struct balance *b, uint64_t now_ms)
{
    uint64_t bucket = now_ms / BUCKET_MS;
    uint32_t limit = WIRE_SLOTS * b->cfg.per_mille / 1000, used = 0;

    for (uint32_t i = 0; b->bucket_of < bucket && i < BALANCE_BUCKETS; i++)
        b->used[++b->bucket_of % BALANCE_BUCKETS] = 0;
    b->bucket_of = max_u64(b->bucket_of, bucket);
    for (uint32_t i = 0; i < WINDOW && i <= b->bucket_of; i++)
        used += b->used[(b->bucket_of - i) % BALANCE_BUCKETS];
    return used < limit ? limit - used : 0;
}

enum err balance_tick(struct balance *b, const struct view *v, uint64_t now_ms,
                      struct slot_row *rows, uint32_t max, uint32_t *n_out)
{
    struct balance_work w;
    enum err e = balance_open(&w, b, v);
    uint32_t budget;

    if (e != OK)
        return e;
    w.b = b;
    w.rows = rows;
    w.max = max;
    w.budget = budget = tick_budget(b, now_ms);
    w.moves = b->cfg.under_way > w.place.under_way
                  ? b->cfg.under_way - w.place.under_way
                  : 0;
    tick_decide(b, &w);
    if (w.known)
        balance_cool(&w);
    if (b->acting) {
        balance_heat(&w);
        balance_move(&w);
    }
    b->used[b->bucket_of % BALANCE_BUCKETS] += budget - w.budget;
    *n_out = w.n;
    balance_close(&w);
    return OK;
}
