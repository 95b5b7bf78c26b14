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

/* After how many calls something happens next: after a part of what a life
 * has, on average. */
static uint64_t sim_some_calls(struct sim *s)
{
    return s->calls_begun + 1 +
           sim_random(s, 2 * s->cfg.steps / (s->cfg.restarts + 1));
}

void sim_init(struct sim *s, const struct sim_cfg *cfg)
{
    memset(s, 0, sizeof *s);
    s->cfg = *cfg;
    s->lane_n = cfg->lanes;
    s->hash = cfg->seed;
    s->rng.rng[0] = cfg->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    s->rng.rng[1] = cfg->seed ^ UINT64_C(0xd1b54a32d192ed03);
    for (int i = 0; i < 8; i++)
        (void)env_random(&s->rng);
    s->now_ns = NS_PER_S;
    MUST(timers_init(&s->world, SIM_WORLD_EVENTS) == OK);
    s->model = calloc(1, sizeof *s->model);
    MUST(s->model);
    if (cfg->ssds)
        s->media = mem_media_new(cfg->ssds, cfg->ssd_bytes, true);
    sim_node_start(s);
    s->restart_at = cfg->restarts ? sim_some_calls(s) : UINT64_MAX;
    s->fault_at = cfg->disk_fault ? sim_some_calls(s) : UINT64_MAX;
    for (uint32_t i = 0; i < SIM_CLIENTS; i++)
        s->clients[i] = sim_client_new(s, i);
}

void sim_fini(struct sim *s)
{
    for (uint32_t i = 0; i < SIM_CLIENTS; i++)
        sim_client_free(s->clients[i]);
    sim_node_stop(s);
    mem_media_free(s->media);
    timers_fini(&s->world);
    free(s->registry);
    model_fini(s->model);
    free(s->model);
}

/* What would wake a lane that sleeps, or keeps it from sleeping. */
static bool sim_lane_is_due(const struct sim *s, uint32_t i)
{
    const struct lane *l = s->lanes[i];

    return s->lane_more[i] || l->mailbox.n > 0 ||
           !list_empty(&s->nets[i].inbox) || lane_next_ns(l) <= s->now_ns ||
           sim_node_disk_ns(s, i) <= s->now_ns;
}

static void sim_lane_turn(struct sim *s, uint32_t i)
{
    struct lane *l = s->lanes[i];

    l->env.now_ns = s->now_ns;
    l->env.wall_s = 1700000000 + s->now_ns / NS_PER_S;
    s->lane_more[i] = lane_turn(l);
    sim_events_take(s, i);
}

/* All lanes and the control run until nothing is left to do at this instant. A
 * lane turns only if something woke it, so that a wake-up that is forgotten
 * shows, or now and then for nothing; in any order, one sometimes more often
 * than the others. */
void sim_settle(struct sim *s)
{
    bool more = true;

    for (uint32_t n = 0; more; n++) {
        uint32_t first = (uint32_t)sim_random(s, s->lane_n);

        MUST(n < SIM_TURNS_MAX);
        more = control_turn(&s->control);
        for (uint32_t k = 0; k < s->lane_n; k++) {
            uint32_t i = (first + k) % s->lane_n;
            uint64_t spins = sim_random(s, 8) ? 0 : sim_random(s, 4);

            if (sim_lane_is_due(s, i))
                sim_lane_turn(s, i);
            while (spins-- > 0)
                sim_lane_turn(s, i);
        }
        for (uint32_t i = 0; i < s->lane_n; i++)
            more |= sim_lane_is_due(s, i);
        more |= s->control.mailbox.n > 0;
    }
}

static uint64_t sim_next_ns(const struct sim *s)
{
    uint64_t next = timers_next(&s->world);

    for (uint32_t i = 0; i < s->lane_n; i++)
        next = min_u64(
            next, min_u64(lane_next_ns(s->lanes[i]), sim_node_disk_ns(s, i)));
    return next;
}

static bool sim_clients_idle(const struct sim *s)
{
    for (uint32_t i = 0; i < SIM_CLIENTS; i++)
        if (!sim_client_idle(s->clients[i]))
            return false;
    return true;
}

static void sim_check_bounds(struct sim *s)
{
    sim_events_check(s);
    for (uint32_t i = 0; i < s->lane_n; i++) {
        const struct lane *l = s->lanes[i];

        MUST(pool_used(&l->ops) <= s->config.limits.ops_per_lane);
        LIST_FOREACH(n, &l->peer_list)
        {
            struct peer *p = container_of(n, struct peer, node);

            MUST(p->op_n <= s->config.limits.ops_per_client);
            MUST(p->pin_n <= s->config.limits.pins_per_client);
        }
        store_check(l->store);
        opens_check(l);
    }
}

void sim_check_rest(const struct sim *s)
{
    for (uint32_t i = 0; i < s->lane_n; i++) {
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

void sim_pass(struct sim *s, bool (*until)(const struct sim *s))
{
    sim_settle(s);
    while (!until(s)) {
        uint64_t next = sim_next_ns(s);

        MUST(next != DEADLINE_NEVER); /* waited for, and nothing will come */
        s->now_ns = max_u64(next, s->now_ns);
        (void)timers_run(&s->world, s->now_ns);
        sim_settle(s);
    }
}

/* What does not come from the clients: the node's end, and its SSDs'. */
static void sim_fate(struct sim *s)
{
    if (s->calls_begun >= s->fault_at) {
        s->fault_at = s->cfg.disk_fault == SIM_DISK_FLIP
                          ? s->calls_begun + 1 + sim_random(s, 50)
                          : UINT64_MAX;
        sim_node_fault(s);
    }
    if (s->calls_begun >= s->restart_at) {
        sim_node_restart(s);
        s->restart_at =
            s->lives <= s->cfg.restarts ? sim_some_calls(s) : UINT64_MAX;
        s->fault_at = s->cfg.disk_fault ? sim_some_calls(s) : UINT64_MAX;
    }
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
        if (!s->stopping)
            sim_fate(s);
        next = sim_next_ns(s);
        MUST(next != DEADLINE_NEVER); /* a call is out and nothing will come */
        s->now_ns = max_u64(next, s->now_ns);
        (void)timers_run(&s->world, s->now_ns);
    }
}

static bool sim_is_over(const struct sim *s)
{
    for (uint32_t i = 0; i < s->lane_n; i++)
        if (s->lanes[i]->opens.live_n)
            return false;
    return timers_next(&s->world) == DEADLINE_NEVER && sim_node_is_quiet(s);
}

static void sim_count_block(struct store *s, uint32_t block, void *arg)
{
    *(uint64_t *)arg += store_where(s, block) != WHERE_SSD;
}

/* Every block in memory is visible: none stayed open. */
static void sim_check_open(struct sim *s)
{
    for (uint32_t i = 0; i < s->lane_n; i++) {
        struct store *st = s->lanes[i]->store;
        uint64_t seen = 0, blocks, bytes, share;

        (void)store_walk(st, 0, UINT32_MAX, sim_count_block, &seen);
        store_ns_usage(st, s->ns_id, &blocks, &bytes, &share);
        MUST(s->lanes[i]->opens.bytes == 0);
        MUST(blocks == seen);
    }
}

uint64_t sim_run(struct sim *s)
{
    sim_work(s);
    for (uint32_t i = 0; i < s->lane_n; i++)
        sim_net_hangup_all(&s->nets[i]);
    sim_node_unhang(s);
    sim_pass(s, sim_is_over);
    sim_check_rest(s);
    sim_check_open(s);
    sim_events_check(s);
    return sim_node_hash(s);
}
