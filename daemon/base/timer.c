/* SPDX-License-Identifier: Apache-2.0
 *
 * A binary heap of pointers to timers.
 *
 *  1. heap[0] is the next to fire; a parent is never after its children.
 *  2. heap[i]->idx == i + 1 for every i < n; a timer outside has idx 0.
 *  3. (due_ns, seq) is unique, so the order is total and equal everywhere.
 *
 * start, stop and fire are O(log n); the lane that owns it is the only
 * caller. */
#include "base/timer.h"

#include "base/mem.h"

enum err timers_init(struct timers *ts, uint32_t cap)
{
    struct timer **heap = mem_reserve(cap * sizeof(*heap));

    if (!heap)
        return ERR_NO_MEMORY;
    *ts = (struct timers){.heap = heap, .cap = cap};
    return OK;
}

void timers_fini(struct timers *ts)
{
    for (uint32_t i = 0; i < ts->n; i++)
        ts->heap[i]->idx = 0;
    mem_release(ts->heap, ts->cap * sizeof(*ts->heap));
    *ts = (struct timers){0};
}

static bool timer_before(const struct timer *a, const struct timer *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->seq < b->seq;
}

static void timers_place(struct timers *ts, uint32_t i, struct timer *t)
{
    ts->heap[i] = t;
    t->idx = i + 1;
}

/* Moves the hole at i towards the root until t may fill it. */
static void timers_up(struct timers *ts, uint32_t i, struct timer *t)
{
    while (i > 0) {
        uint32_t parent = (i - 1) / 2;

        if (!timer_before(t, ts->heap[parent]))
            break;
        timers_place(ts, i, ts->heap[parent]);
        i = parent;
    }
    timers_place(ts, i, t);
}

/* Moves the hole at i towards the leaves until t may fill it. */
static void timers_down(struct timers *ts, uint32_t i, struct timer *t)
{
    for (;;) {
        uint32_t child = 2 * i + 1;

        if (child >= ts->n)
            break;
        if (child + 1 < ts->n &&
            timer_before(ts->heap[child + 1], ts->heap[child]))
            child++;
        if (!timer_before(ts->heap[child], t))
            break;
        timers_place(ts, i, ts->heap[child]);
        i = child;
    }
    timers_place(ts, i, t);
}

void timer_start(struct timers *ts, struct timer *t, uint64_t due_ns,
                 timer_fn *fn)
{
    timer_stop(ts, t);
    MUST(ts->n < ts->cap);
    t->due_ns = due_ns;
    t->seq = ts->seq++;
    t->fn = fn;
    timers_up(ts, ts->n++, t);
}

void timer_stop(struct timers *ts, struct timer *t)
{
    struct timer *last;
    uint32_t i;

    if (t->idx == 0)
        return;
    i = t->idx - 1;
    MUST(i < ts->n);
    MUST(ts->heap[i] == t);
    t->idx = 0;
    last = ts->heap[--ts->n];
    if (last == t)
        return;
    /* The last may belong above or below the hole: one of the two is idle. */
    if (timer_before(last, t))
        timers_up(ts, i, last);
    else
        timers_down(ts, i, last);
}

/* A timer started by an fn for now or earlier fires in the next call: one call
 * always ends. */
uint32_t timers_run(struct timers *ts, uint64_t now_ns)
{
    uint64_t seq_end = ts->seq;
    uint32_t ran = 0;

    while (ts->n > 0) {
        struct timer *t = ts->heap[0];

        if (t->due_ns > now_ns || t->seq >= seq_end)
            break;
        timer_stop(ts, t);
        t->fn(t);
        ran++;
    }
    return ran;
}

uint64_t timers_next(const struct timers *ts)
{
    return ts->n > 0 ? ts->heap[0]->due_ns : DEADLINE_NEVER;
}
