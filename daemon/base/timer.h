/* SPDX-License-Identifier: Apache-2.0
 *
 * Timers of one lane: a binary heap ordered by (due, start sequence), so that
 * equal deadlines fire in the order they were started (determinism). The
 * struct is embedded in its owner; no allocation after init. */
#ifndef BASE_TIMER_H
#define BASE_TIMER_H

#include "base/err.h"

struct timer;
typedef void timer_fn(struct timer *t);

struct timer {
    uint64_t due_ns, seq;
    timer_fn *fn;
    uint32_t idx; /* place in the heap + 1; 0 = not running */
};

struct timers {
    struct timer **heap;
    uint32_t n, cap;
    uint64_t seq;
};

must_check enum err timers_init(struct timers *ts, uint32_t cap);
void timers_fini(struct timers *ts);
/* Starts or restarts. MUSTs that cap is not exceeded: owners are pooled. */
void timer_start(struct timers *ts, struct timer *t, uint64_t due_ns,
                 timer_fn *fn);
void timer_stop(struct timers *ts, struct timer *t); /* idempotent */
/* Runs what is due at now; returns how many. A timer is stopped before its fn
 * runs, so fn may start it again or free its owner. */
uint32_t timers_run(struct timers *ts, uint64_t now_ns);
uint64_t timers_next(const struct timers *ts); /* DEADLINE_NEVER if none */

#endif
