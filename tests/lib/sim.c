/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulated world's clock and its node (sim.h). */
#include "lib/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/peer.h"

enum {
    SIM_WORLD_EVENTS = 1 << 16,
    SIM_TURNS_MAX = 100000, /* a lane that never comes to rest is a bug */
};

struct sim_event {
    struct timer timer;
    struct sim *sim;
    sim_fn *fn;
    void *arg;
};

static void sim_event_due(struct timer *t)
{
    struct sim_event *e = container_of(t, struct sim_event, timer);
    struct sim *s = e->sim;
    sim_fn *fn = e->fn;
    void *arg = e->arg;

    free(e);
    fn(s, arg);
}

void sim_at(struct sim *s, uint64_t due_ns, sim_fn *fn, void *arg)
{
    struct sim_event *e = calloc(1, sizeof *e);

    MUST(e);
    e->sim = s;
    e->fn = fn;
    e->arg = arg;
    timer_start(&s->world, &e->timer, due_ns, sim_event_due);
}

static uint64_t sim_control_random(void *arg)
{
    struct sim *s = arg;

    return env_random(&s->rng);
}

static void sim_config(struct sim *s)
{
    struct config *c = &s->config;

    config_defaults(c);
    c->dram.capacity_bytes = s->cfg.dram_bytes;
    c->limits.ops_per_lane = 64;
    c->limits.ops_per_client = 16;
    c->limits.pins_per_client = 64;
    c->limits.pinned_per_client_bytes = MIB(2);
    c->limits.pin_ttl_us = 500000;
    c->limits.slow_reader_us = 200000;
    c->limits.clients = 64;
    c->limits.batch_keys = 64;
}

static void sim_lane(struct sim *s, uint32_t i)
{
    struct unit_pool *pools[STORE_POOLS] = {&s->pool};
    struct lane *l = calloc(1, sizeof *l);

    MUST(l);
    l->env.now_ns = s->now_ns;
    l->env.wall_s = 1700000000;
    l->env.rng[0] = env_random(&s->rng) | 1;
    l->env.rng[1] = env_random(&s->rng);
    l->trace.hashing = true;
    MUST(lane_init(l, &s->config, i, s->cfg.lanes, pools, &s->control) == OK);
    s->lanes[i] = l;
    sim_net_init(&s->nets[i], s, l);
    l->transports[0] = &s->nets[i].t;
    l->transport_n = 1;
}

void sim_init(struct sim *s, const struct sim_cfg *cfg)
{
    struct control_shell shell = {.random = sim_control_random, .arg = s};

    memset(s, 0, sizeof *s);
    s->cfg = *cfg;
    s->rng.rng[0] = cfg->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    s->rng.rng[1] = cfg->seed ^ UINT64_C(0xd1b54a32d192ed03);
    for (int i = 0; i < 8; i++)
        (void)env_random(&s->rng);
    s->now_ns = NS_PER_S;
    MUST(timers_init(&s->world, SIM_WORLD_EVENTS) == OK);
    s->model = calloc(1, sizeof *s->model);
    s->memory = mem_reserve(cfg->dram_bytes);
    MUST(s->model && s->memory);
    MUST(unit_pool_init(&s->pool, s->memory, cfg->dram_bytes, cfg->lanes) ==
         OK);
    sim_config(s);
    shell.wall_us = 1700000000;
    MUST(control_init(&s->control, &s->config, s->lanes, cfg->lanes, &shell) ==
         OK);
    for (uint32_t i = 0; i < cfg->lanes; i++)
        sim_lane(s, i);
    for (uint32_t i = 0; i < SIM_CLIENTS; i++)
        s->clients[i] = sim_client_new(s, i, i % cfg->lanes);
}

void sim_fini(struct sim *s)
{
    for (uint32_t i = 0; i < SIM_CLIENTS; i++)
        sim_client_free(s->clients[i]);
    for (uint32_t i = 0; i < s->cfg.lanes; i++) {
        sim_net_fini(&s->nets[i]);
        lane_fini(s->lanes[i]);
        free(s->lanes[i]);
    }
    control_fini(&s->control);
    unit_pool_fini(&s->pool);
    mem_release(s->memory, s->cfg.dram_bytes);
    timers_fini(&s->world);
    free(s->model);
}

/* What would wake a lane that sleeps, or keeps it from sleeping. */
static bool sim_lane_is_due(const struct sim *s, uint32_t i)
{
    const struct lane *l = s->lanes[i];

    return s->lane_more[i] || l->mailbox.n > 0 ||
           !list_empty(&s->nets[i].inbox) || lane_next_ns(l) <= s->now_ns;
}

static void sim_lane_turn(struct sim *s, uint32_t i)
{
    struct lane *l = s->lanes[i];

    l->env.now_ns = s->now_ns;
    l->env.wall_s = 1700000000 + s->now_ns / NS_PER_S;
    s->lane_more[i] = lane_turn(l);
}

/* All lanes and the control run until nothing is left to do at this instant. A
 * lane turns only if something woke it, so that a wake-up that is forgotten
 * shows, or now and then for nothing; in any order, one sometimes more often
 * than the others. */
static void sim_settle(struct sim *s)
{
    bool more = true;

    for (uint32_t n = 0; more; n++) {
        uint32_t first = (uint32_t)sim_random(s, s->cfg.lanes);

        MUST(n < SIM_TURNS_MAX);
        more = control_turn(&s->control);
        for (uint32_t k = 0; k < s->cfg.lanes; k++) {
            uint32_t i = (first + k) % s->cfg.lanes;
            uint64_t spins = sim_random(s, 8) ? 0 : sim_random(s, 4);

            if (sim_lane_is_due(s, i))
                sim_lane_turn(s, i);
            while (spins-- > 0)
                sim_lane_turn(s, i);
        }
        for (uint32_t i = 0; i < s->cfg.lanes; i++)
            more |= sim_lane_is_due(s, i);
        more |= s->control.mailbox.n > 0;
    }
}

static uint64_t sim_next_ns(const struct sim *s)
{
    uint64_t next = timers_next(&s->world);

    for (uint32_t i = 0; i < s->cfg.lanes; i++)
        next = min_u64(next, lane_next_ns(s->lanes[i]));
    return next;
}

static bool sim_clients_idle(const struct sim *s)
{
    for (uint32_t i = 0; i < SIM_CLIENTS; i++)
        if (!sim_client_idle(s->clients[i]))
            return false;
    return true;
}

static void sim_check_bounds(const struct sim *s)
{
    for (uint32_t i = 0; i < s->cfg.lanes; i++) {
        const struct lane *l = s->lanes[i];

        MUST(pool_used(&l->ops) <= s->config.limits.ops_per_lane);
        LIST_FOREACH(n, &l->peer_list)
        {
            struct peer *p = container_of(n, struct peer, node);

            MUST(p->op_n <= s->config.limits.ops_per_client);
            MUST(p->pin_n <= s->config.limits.pins_per_client);
        }
        store_check(l->store);
    }
}

/* At rest: every pool is full again, nothing is pinned or reffed. */
static void sim_check_rest(const struct sim *s)
{
    for (uint32_t i = 0; i < s->cfg.lanes; i++) {
        const struct lane *l = s->lanes[i];

        MUST(pool_used(&l->ops) == 0);
        MUST(pool_used(&l->peers) == 0);
        MUST(pool_used(&l->pins) == 0);
        MUST(pool_used(&l->loans) == 0);
        MUST(pool_used(&l->refusals) == 0);
        MUST(pool_used(&l->spans) == 0);
        MUST(store_pinned_bytes(l->store) == 0);
        MUST(list_empty(&l->mem_waiters));
        store_check(l->store);
    }
}

static uint64_t sim_hash(const struct sim *s)
{
    uint64_t h = s->cfg.seed;

    for (uint32_t i = 0; i < s->cfg.lanes; i++)
        h = hash_64(h, &s->lanes[i]->trace.hash, sizeof(uint64_t));
    return h;
}

/* Calls until enough were made and all are answered or given up. */
static void sim_work(struct sim *s)
{
    uint64_t checks = 0, next;

    for (uint32_t i = 0; i < SIM_CLIENTS; i++)
        sim_client_start(s->clients[i]);
    for (;;) {
        sim_settle(s);
        if (++checks % 512 == 0)
            sim_check_bounds(s);
        s->stopping = s->calls_begun >= s->cfg.steps;
        if (s->stopping && sim_clients_idle(s))
            return;
        next = sim_next_ns(s);
        MUST(next != DEADLINE_NEVER); /* a call is out and nothing will come */
        s->now_ns = max_u64(next, s->now_ns);
        (void)timers_run(&s->world, s->now_ns);
    }
}

uint64_t sim_run(struct sim *s)
{
    uint64_t next;

    sim_work(s);
    for (uint32_t i = 0; i < s->cfg.lanes; i++)
        sim_net_hangup_all(&s->nets[i]);
    while ((next = sim_next_ns(s)) != DEADLINE_NEVER) {
        s->now_ns = max_u64(next, s->now_ns);
        (void)timers_run(&s->world, s->now_ns);
        sim_settle(s);
    }
    sim_settle(s);
    sim_check_rest(s);
    return sim_hash(s);
}
