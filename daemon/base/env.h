/* SPDX-License-Identifier: Apache-2.0
 *
 * Every source of nondeterminism, injectable. server/loop.c fills it with the
 * real clocks and getrandom; the simulator with a virtual clock and a seeded
 * generator. One per lane; not shared between threads. */
#ifndef BASE_ENV_H
#define BASE_ENV_H

#include "base/base.h"

struct env {
    uint64_t now_ns;  /* monotonic, refreshed by the loop at each turn */
    uint64_t boot_us; /* wall clock at boot: where versions start */
    uint64_t wall_s;  /* wall clock, for ttl across restarts */
    uint32_t wall_ms; /* of that second, for the time of events */
    uint64_t rng[2];  /* xoroshiro128+ state, seeded by the shell */
    uint64_t (*clock_ns)(void *arg); /* a fresh reading, for long work */
    void *arg;
};

/* Now, not the turn's beginning; in the simulator they are the same. */
static inline uint64_t env_fresh_ns(const struct env *e)
{
    return e->clock_ns ? e->clock_ns(e->arg) : e->now_ns;
}

static inline uint64_t env_random(struct env *e)
{
    uint64_t a = e->rng[0], b = e->rng[1], sum = a + b;

    b ^= a;
    e->rng[0] = ((a << 24) | (a >> 40)) ^ b ^ (b << 16);
    e->rng[1] = (b << 37) | (b >> 27);
    return sum;
}

#endif
