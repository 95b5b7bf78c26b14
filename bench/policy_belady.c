/* SPDX-License-Identifier: Apache-2.0
 *
 * Belady's bound: a cache of blocks that knows each block's next use and is
 * free to refuse one. After each request those go whose next use is latest. No
 * policy of the daemon can pass it. */
#include <stdlib.h>

#include "bench/policy_sim.h"

/* The resident blocks by next use, the latest first: a heap with stale entries
 * (a used block is pushed again), recognised by next[] having moved on. Of
 * blocks used again by the same request the deepest is the latest, as in a
 * chain evicted leaf first. */
struct later {
    uint64_t when; /* request << 32 | place in it */
    uint32_t id;
};

struct belady {
    const struct bench_trace *t;
    uint64_t *after; /* of each reference: when its block comes again */
    uint64_t *next;  /* of each block: the same, now */
    bool *resident;
    struct later *heap; /* at most one entry for each reference */
    uint32_t heap_n;
};

static void later_push(struct belady *b, struct later x)
{
    uint32_t i = b->heap_n++;

    while (i > 0 && b->heap[(i - 1) / 2].when < x.when) {
        b->heap[i] = b->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    b->heap[i] = x;
}

static struct later later_pop(struct belady *b)
{
    struct later top = b->heap[0], last = b->heap[--b->heap_n];
    uint32_t i = 0, c;

    while ((c = 2 * i + 1) < b->heap_n) {
        if (c + 1 < b->heap_n && b->heap[c + 1].when > b->heap[c].when)
            c++;
        if (b->heap[c].when <= last.when)
            break;
        b->heap[i] = b->heap[c];
        i = c;
    }
    b->heap[i] = last;
    return top;
}

static void belady_prepare(struct belady *b)
{
    const struct bench_trace *t = b->t;

    for (uint32_t id = 0; id < t->blocks; id++)
        b->next[id] = UINT64_MAX;
    for (uint32_t r = t->requests_n; r-- > 0;) {
        const struct bench_request *q = &t->requests[r];

        for (uint32_t i = 0; i < q->n; i++) {
            uint32_t id = t->ids[q->first + i];

            b->after[q->first + i] = b->next[id];
            b->next[id] = (uint64_t)r << 32 | i;
        }
    }
}

static uint64_t belady_hits(struct belady *b, uint64_t capacity)
{
    const struct bench_trace *t = b->t;
    uint64_t hits = 0, used = 0;

    for (uint32_t r = 0; r < t->requests_n; r++) {
        const struct bench_request *q = &t->requests[r];
        uint32_t n = 0;

        while (n < q->n && b->resident[t->ids[q->first + n]])
            n++;
        hits += n;
        for (uint32_t i = 0; i < q->n; i++) {
            uint32_t id = t->ids[q->first + i];

            used += !b->resident[id];
            b->resident[id] = true;
            b->next[id] = b->after[q->first + i];
            later_push(b, (struct later){b->next[id], id});
        }
        while (used > capacity) {
            struct later x = later_pop(b);

            if (!b->resident[x.id] || b->next[x.id] != x.when)
                continue;
            b->resident[x.id] = false;
            used--;
        }
    }
    return hits;
}

bool belady_run(const struct bench_trace *t, uint64_t blocks,
                uint64_t *hits_out)
{
    struct belady b = {.t = t};
    bool ok = false;

    b.after = calloc(t->ids_n, sizeof(*b.after));
    b.heap = calloc(t->ids_n, sizeof(*b.heap));
    b.next = calloc(t->blocks, sizeof(*b.next));
    b.resident = calloc(t->blocks, sizeof(*b.resident));
    if (b.after && b.heap && b.next && b.resident) {
        belady_prepare(&b);
        *hits_out = belady_hits(&b, blocks);
        ok = true;
    }
    free(b.after);
    free(b.heap);
    free(b.next);
    free(b.resident);
    return ok;
}
