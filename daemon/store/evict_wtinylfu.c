/* SPDX-License-Identifier: Apache-2.0
 *
 * W-TinyLFU (Einziger, Friedman and Manes, ToS 2017): a small LRU window in
 * front of a segmented LRU that a block only enters by having been used more
 * often than the block that leaves for it.
 *
 *   new --> WINDOW (1 %) --oldest--> CANDIDATES --oldest--> more uses than
 *                                                          PROBATION's oldest?
 *                                      | yes                  | no
 *                                      v                      v
 *           PROTECTED (80 %) <--hit-- PROBATION             victim
 *               +------oldest---------> ^ |
 *                                         +--when it loses--> victim
 *
 * While the cache fills, what leaves the window is not a candidate: it goes to
 * PROBATION at once.
 *
 * Uses are those of the recent past, of blocks that are gone too: a count-min
 * sketch of 4-bit counters, four for each block, that is halved once in ten
 * accesses for each block of the cache. The halving is spread over the
 * accesses. Blocks count as 16 pages for the size of the sketch.
 *
 * node.freq holds the chances left by priority. State: four lists and half a
 * byte a page. Integers, nothing at random, nothing fails. */
#include "store/evict_list.h"

enum { WT_WINDOW = 1, WT_CANDIDATES, WT_PROBATION, WT_PROTECTED, WT_QUEUES };
enum {
    ROWS = 4,
    WORD_COUNTERS = 16,
    COUNT_MAX = 15,
    WORDS_MIN = 64,
    WORDS_MAX = 1 << 22,
    BLOCK_PAGES = 16,
    AGE_ACCESSES = 10, /* for each word between two halvings */
    WINDOW_PART = 100,
    PROTECTED_PCT = 80,
};

struct wtinylfu {
    struct evict_list list[WT_QUEUES];
    uint64_t pages[WT_QUEUES];
    uint32_t words, age_at; /* the next word to halve */
    uint32_t accesses;      /* since the last one was */
    uint64_t sketch[];
};

static uint32_t sketch_words(uint64_t pages_max)
{
    uint64_t n = pages_max / BLOCK_PAGES;

    return (uint32_t)min_u64(max_u64(n, WORDS_MIN), WORDS_MAX);
}

/* The word of a row, and where in it the counter begins. */
static uint64_t *sketch_at(struct wtinylfu *w, uint64_t hash, uint32_t row,
                           uint32_t *shift_out)
{
    uint64_t mix = (hash + row) * UINT64_C(0x9e3779b97f4a7c15);

    mix ^= mix >> 32;
    *shift_out = (uint32_t)(mix & (WORD_COUNTERS / ROWS - 1)) * 4 + row * 16;
    return &w->sketch[(mix >> 32) * w->words >> 32];
}

static uint32_t sketch_count(struct wtinylfu *w, uint64_t hash)
{
    uint64_t least = COUNT_MAX;

    for (uint32_t row = 0; row < ROWS; row++) {
        uint32_t shift;
        const uint64_t *word = sketch_at(w, hash, row, &shift);

        least = min_u64(least, *word >> shift & COUNT_MAX);
    }
    return (uint32_t)least;
}

static void sketch_add(struct wtinylfu *w, uint64_t hash)
{
    for (uint32_t row = 0; row < ROWS; row++) {
        uint32_t shift;
        uint64_t *word = sketch_at(w, hash, row, &shift);

        if ((*word >> shift & COUNT_MAX) < COUNT_MAX)
            *word += UINT64_C(1) << shift;
    }
    if (++w->accesses < AGE_ACCESSES)
        return;
    w->accesses = 0;
    w->sketch[w->age_at] =
        w->sketch[w->age_at] >> 1 & UINT64_C(0x7777777777777777);
    w->age_at = w->age_at + 1 < w->words ? w->age_at + 1 : 0;
}

static uint64_t wtinylfu_hash(const struct evict *e, uint32_t id)
{
    return e->host.hash(e->host.arg, id);
}

static size_t wtinylfu_state_bytes(uint64_t pages_max)
{
    return sizeof(struct wtinylfu) + sketch_words(pages_max) * sizeof(uint64_t);
}

static void wtinylfu_init(struct evict *e)
{
    struct wtinylfu *w = e->state;

    for (int q = WT_WINDOW; q < WT_QUEUES; q++)
        evict_list_init(&w->list[q]);
    w->words = sketch_words(e->host.pages_max);
}

static uint64_t window_pages(const struct evict *e)
{
    return e->capacity_pages / WINDOW_PART;
}

/* To the newest end of another list, held or not. */
static void wtinylfu_move(struct evict *e, uint32_t id, uint8_t to)
{
    struct wtinylfu *w = e->state;
    struct evict_node *n = evict_node_at(&e->host, id);

    evict_list_renew(e, &w->list[n->queue], &w->list[to], id);
    w->pages[n->queue] -= n->weight;
    w->pages[to] += n->weight;
    n->queue = to;
}

/* Held blocks are moved like others: their pages are as real. */
static void window_overflow(struct evict *e)
{
    struct wtinylfu *w = e->state;
    uint32_t id;

    for (uint32_t i = 0; i < EVICT_PASS_MAX; i++) {
        uint64_t all = e->member_pages + e->held_pages;
        uint8_t to = WT_CANDIDATES;

        id = w->list[WT_WINDOW].oldest;
        if (id == EVICT_NONE || w->pages[WT_WINDOW] <= window_pages(e))
            return;
        if (all + 2 * evict_node_at(&e->host, id)->weight <= e->capacity_pages)
            to = WT_PROBATION;
        wtinylfu_move(e, id, to);
    }
}

static void wtinylfu_insert(struct evict *e, uint32_t id)
{
    struct wtinylfu *w = e->state;
    struct evict_node *n = evict_node_at(&e->host, id);

    sketch_add(w, wtinylfu_hash(e, id));
    n->queue = WT_WINDOW;
    n->freq = evict_level(n);
    w->pages[WT_WINDOW] += n->weight;
    evict_list_push(e, &w->list[WT_WINDOW], id);
    window_overflow(e);
}

static void wtinylfu_hit(struct evict *e, uint32_t id)
{
    struct wtinylfu *w = e->state;
    struct evict_node *n = evict_node_at(&e->host, id);
    uint64_t max = (e->capacity_pages - window_pages(e)) * PROTECTED_PCT / 100;

    sketch_add(w, wtinylfu_hash(e, id));
    n->freq = evict_level(n);
    wtinylfu_move(e, id, n->queue == WT_WINDOW ? WT_WINDOW : WT_PROTECTED);
    /* What comes in is what must go out, however large the blocks are. */
    for (uint64_t out = 0; out < n->weight && w->pages[WT_PROTECTED] > max;) {
        uint32_t oldest = w->list[WT_PROTECTED].oldest;

        if (oldest == EVICT_NONE)
            break; /* all parked */
        out += evict_node_at(&e->host, oldest)->weight;
        wtinylfu_move(e, oldest, WT_PROBATION);
    }
}

static void wtinylfu_release(struct evict *e, uint32_t id, bool cold)
{
    struct wtinylfu *w = e->state;
    const struct evict_node *n = evict_node_at(&e->host, id);

    evict_list_release(e, &w->list[n->queue], id, cold);
}

static void wtinylfu_remove(struct evict *e, uint32_t id, enum evict_why why)
{
    struct wtinylfu *w = e->state;
    const struct evict_node *n = evict_node_at(&e->host, id);

    (void)why;
    evict_list_drop(e, &w->list[n->queue], id);
    w->pages[n->queue] -= n->weight;
}

/* Who has fewer recent uses goes; the candidate if neither. */
static uint32_t wtinylfu_victim(struct evict *e)
{
    struct wtinylfu *w = e->state;
    uint32_t id = evict_list_victim(e, &w->list[WT_CANDIDATES]);
    uint32_t old = evict_list_victim(e, &w->list[WT_PROBATION]);

    if (old == EVICT_NONE)
        old = evict_list_victim(e, &w->list[WT_PROTECTED]);
    if (id == EVICT_NONE && old == EVICT_NONE)
        return evict_list_victim(e, &w->list[WT_WINDOW]);
    if (id == EVICT_NONE || old == EVICT_NONE)
        return id == EVICT_NONE ? old : id;
    if (sketch_count(w, wtinylfu_hash(e, id)) <=
        sketch_count(w, wtinylfu_hash(e, old)))
        return id;
    wtinylfu_move(e, id, WT_PROBATION);
    return old;
}

const struct evict_ops evict_wtinylfu = {
    .name = evict_wtinylfu_name,
    .doc = evict_wtinylfu_doc,
    .state_bytes = wtinylfu_state_bytes,
    .init = wtinylfu_init,
    .insert = wtinylfu_insert,
    .hit = wtinylfu_hit,
    .release = wtinylfu_release,
    .remove = wtinylfu_remove,
    .victim = wtinylfu_victim,
};
