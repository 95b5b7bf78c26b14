/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulated cluster's clock: one heap of events by time and order, with the
 * voters' disks (raft_mem) stepped in between, and the node cores' actions
 * carried out after every step. */
#include "lib/csim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/env.h"
#include "base/hash.h"

uint64_t csim_random(struct csim *s)
{
    struct env e = {.rng = {s->rng[0], s->rng[1]}};
    uint64_t r = env_random(&e);

    s->rng[0] = e.rng[0];
    s->rng[1] = e.rng[1];
    return r;
}

uint32_t csim_chance(struct csim *s, uint32_t n)
{
    return (uint32_t)((csim_random(s) >> 20) % n);
}

void csim_mix(struct csim *s, uint64_t a, uint64_t b)
{
    s->hash ^= a + UINT64_C(0x9e3779b97f4a7c15) + (s->hash << 6);
    s->hash *= UINT64_C(0xff51afd7ed558ccd);
    s->hash ^= (s->hash >> 29) + b;
}

/* ---- The heap ---- */

static bool earlier(const struct csim_event *a, const struct csim_event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

void csim_at(struct csim *s, uint64_t at_us, struct csim_event e)
{
    uint32_t i = s->heap_n++;

    if (s->heap_n > s->heap_cap) {
        s->heap_cap = s->heap_cap ? 2 * s->heap_cap : 256;
        s->heap = realloc(s->heap, s->heap_cap * sizeof(*s->heap));
        MUST(s->heap);
    }
    e.at_us = at_us < s->now_us ? s->now_us : at_us;
    e.order = s->order++;
    while (i && earlier(&e, &s->heap[(i - 1) / 2])) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = e;
}

static struct csim_event heap_pop(struct csim *s)
{
    struct csim_event first = s->heap[0], last = s->heap[--s->heap_n];
    uint32_t i = 0;

    for (;;) {
        uint32_t k = 2 * i + 1;

        if (k >= s->heap_n)
            break;
        if (k + 1 < s->heap_n && earlier(&s->heap[k + 1], &s->heap[k]))
            k++;
        if (!earlier(&s->heap[k], &last))
            break;
        s->heap[i] = s->heap[k];
        i = k;
    }
    s->heap[i] = last;
    return first;
}

/* ---- One node's step ---- */

uint64_t csim_clock_ms(const struct csim *s, const struct csim_node *n)
{
    int64_t ms = (int64_t)(s->now_us / 1000);

    return n->clock_ms + (uint64_t)(ms + ms * n->ppm / 1000000);
}

static void act(struct csim *s, struct csim_node *n,
                const struct cluster_action *a)
{
    switch (a->kind) {
    case CLUSTER_DIAL:
        csim_dial(s, n->at, a->peer);
        break;
    case CLUSTER_SEND:
        csim_send(s, n->at, a);
        break;
    case CLUSTER_HANG_UP: {
        struct csim_link *l = csim_link(s, a->link);

        if (l)
            csim_break(s, l, true, true);
        break;
    }
    case CLUSTER_PUBLISH:
        csim_published(s, n, a->view);
        break;
    case CLUSTER_ANSWERED:
        csim_answered(s, n, a);
        break;
    case CLUSTER_SAY:
        if (s->cfg.verbose)
            printf("%9.3f n%u: %s\n", (double)s->now_us / 1e6, n->at, a->text);
        break;
    case CLUSTER_FATAL:
        n->fatal = true;
        break;
    }
}

void csim_drain(struct csim *s, struct csim_node *n)
{
    static struct cluster_action a;

    while (n->c && cluster_next(n->c, &a))
        act(s, n, &a);
}

static uint64_t real_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

void csim_step(struct csim *s, struct csim_node *n,
               const struct cluster_event *ev)
{
    bool was = n->dirty, timed = s->timed && n->leads;
    uint64_t term, begin = timed ? real_ns() : 0;

    if (!n->c)
        return;
    n->dirty = true; /* no wake from inside */
    n->steps++;
    cluster_step(n->c, ev, csim_clock_ms(s, n));
    if (timed)
        s->leader_ns += real_ns() - begin;
    csim_drain(s, n);
    if (n->voter) {
        n->leads = cluster_leads(n->c, &term);
        if (cluster_log_generation(n->c))
            n->log_generation = cluster_log_generation(n->c);
    }
    n->dirty = was;
}

/* coord did something behind a step's back. */
static void wake(struct csim *s)
{
    struct cluster_event tick = {.kind = CLUSTER_TICK};

    for (uint32_t i = 0; i < s->dirty_n; i++) {
        struct csim_node *n = &s->nodes[s->dirty[i]];

        n->dirty = false;
        if (n->c && n->pause_us <= s->now_us)
            csim_step(s, n, &tick);
    }
    s->dirty_n = 0;
}

static void on_tick(struct csim *s, const struct csim_event *e)
{
    struct cluster_event tick = {.kind = CLUSTER_TICK};
    struct csim_node *n = &s->nodes[e->node];

    if (!n->up || n->life != e->a)
        return;
    if (n->pause_us <= s->now_us)
        csim_step(s, n, &tick);
    if (n->fatal)
        csim_crash(s, n, true);
    else
        csim_at(s, max_u64(s->now_us + CSIM_TICK_US, n->pause_us), *e);
}

static void dispatch(struct csim *s, const struct csim_event *e)
{
    switch ((enum csim_kind)e->kind) {
    case CSIM_TICK:
        on_tick(s, e);
        return;
    case CSIM_PUMP:
        csim_pump(s, e);
        return;
    case CSIM_DIALED:
        csim_dialed(s, e);
        return;
    case CSIM_LINK_ENDS:
        csim_end(s, e);
        return;
    case CSIM_FAULT:
        csim_fault(s);
        return;
    case CSIM_CALL:
        csim_call(s, e);
        return;
    case CSIM_MOVER:
        csim_mover(s, e);
        return;
    case CSIM_BOOT:
        if (!s->nodes[e->node].up && !s->nodes[e->node].gone)
            csim_boot(s, &s->nodes[e->node]);
        return;
    case CSIM_COMMAND:
        csim_command(s);
        return;
    case CSIM_WATCH:
        csim_idle(s);
        return;
    case CSIM_WAKE:
        csim_awake(s, &s->nodes[e->node], e->a);
        return;
    }
}

/* The voters' disks and raft's ticks up to a time. */
static void run_raft(struct csim *s, uint64_t until_us)
{
    while (raft_mem_step(&s->raft, until_us / 1000)) {
        if (s->raft.now_ms * 1000 > s->now_us)
            s->now_us = s->raft.now_ms * 1000;
        wake(s);
    }
}

void csim_run(struct csim *s, uint64_t until_ms)
{
    uint64_t until = until_ms * 1000;

    for (;;) {
        uint64_t next = s->heap_n ? s->heap[0].at_us : until;
        struct csim_event e;

        run_raft(s, min_u64(next, until));
        if (!s->heap_n || s->heap[0].at_us > until)
            break;
        e = heap_pop(s);
        s->now_us = max_u64(s->now_us, e.at_us);
        csim_mix(s, e.at_us, e.kind * UINT64_C(4096) + e.node);
        dispatch(s, &e);
        wake(s);
    }
    s->now_us = max_u64(s->now_us, until);
}

/* ---- Begin and end ---- */

static void raft_nothing(void *arg, uint32_t to, uint32_t from,
                         const uint8_t *p, size_t n)
{
    (void)arg;
    (void)to;
    (void)from;
    (void)p;
    (void)n;
    MUST(!"raft messages travel on links");
}

static void init_nodes(struct csim *s)
{
    for (uint32_t i = 0; i < s->node_n; i++) {
        struct csim_node *n = &s->nodes[i];

        n->at = i;
        n->voter = i < s->cfg.voters;
        n->uuid = UINT64_C(0x1000001) * (i + 1);
        n->clock_ms = 1000 + csim_chance(s, 1000000);
        if (s->cfg.faults)
            n->ppm = (int32_t)csim_chance(s, 2001) - 1000;
    }
    for (uint32_t i = 0; i < s->cfg.voters; i++) {
        struct coord_voter *v = &s->voters[i];

        snprintf(v->name, sizeof(v->name), "n%u", i);
        csim_peer(v->peer, sizeof(v->peer), i);
    }
}

void csim_init(struct csim *s, const struct csim_cfg *cfg)
{
    *s = (struct csim){.cfg = *cfg, .link_id = 1};
    s->rng[0] = cfg->seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    s->rng[1] = cfg->seed ^ UINT64_C(0xd1b54a32d192ed03);
    for (uint32_t i = 0; i < 16; i++)
        csim_random(s);
    s->node_n = cfg->voters + cfg->nodes;
    s->link_cap = 256;
    while (s->link_cap < 32 * s->node_n)
        s->link_cap *= 2;
    s->nodes = calloc(s->node_n, sizeof(*s->nodes));
    s->links = calloc(s->link_cap, sizeof(*s->links));
    s->cut = calloc((size_t)s->node_n * s->node_n, sizeof(*s->cut));
    s->dirty = calloc(s->node_n, sizeof(*s->dirty));
    s->moving.slots = calloc(WIRE_SLOTS, sizeof(*s->moving.slots));
    MUST(s->nodes && s->links && s->cut && s->dirty && s->moving.slots);
    s->pool.check = cfg->check ? cfg->check : 256;
    raft_mem_init(&s->raft, cfg->seed, raft_nothing, s);
    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++)
        s->raft.node[i].disk_ms = 1 + csim_chance(s, cfg->faults ? 20 : 3);
    init_nodes(s);
    csim_data_init(s);
    if (cfg->past)
        csim_past_give(cfg->past, s);
    for (uint32_t i = 0; i < s->node_n; i++)
        csim_at(s, 1000 * csim_chance(s, cfg->start_ms ? cfg->start_ms : 300),
                (struct csim_event){.kind = CSIM_BOOT, .node = i});
    csim_at(s, 1000000, (struct csim_event){.kind = CSIM_WATCH});
    csim_at(s, 3000000, (struct csim_event){.kind = CSIM_COMMAND});
    if (cfg->faults)
        csim_at(s, 2500000, (struct csim_event){.kind = CSIM_FAULT});
}

void csim_fini(struct csim *s)
{
    s->healed = true;
    for (uint32_t i = 0; i < s->node_n; i++) {
        csim_crash(s, &s->nodes[i], false);
        shared_view_unref(s->nodes[i].last);
        free(s->nodes[i].moves);
    }
    for (uint32_t i = 0; i < CSIM_CLIENTS; i++)
        shared_view_unref(s->clients[i].view);
    csim_net_fini(s);
    raft_mem_fini(&s->raft);
    free(s->heap);
    free(s->nodes);
    free(s->links);
    free(s->cut);
    free(s->dirty);
    free(s->moving.slots);
    MUST(s->pool.n == 0);
}
