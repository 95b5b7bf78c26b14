/* SPDX-License-Identifier: Apache-2.0
 *
 * Processes of the simulated cluster: start with what the disk holds, crash,
 * and the state of all of them at a glance. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/csim.h"

void csim_peer(char *out, size_t cap, uint32_t node)
{
    snprintf(out, cap, "n%u:1", node);
}

uint32_t csim_of_peer(const struct csim *s, const char *peer)
{
    unsigned long n = peer[0] == 'n' ? strtoul(peer + 1, NULL, 10) : UINT32_MAX;

    return n < s->node_n ? (uint32_t)n : UINT32_MAX;
}

static void on_wake(void *arg)
{
    struct csim_node *n = arg;
    struct csim *s = n->sim;

    if (n->dirty || !n->up)
        return;
    n->dirty = true;
    s->dirty[s->dirty_n++] = n->at;
}

static void node_cfg(struct csim *s, struct csim_node *n,
                     struct cluster_cfg *cfg)
{
    struct node *me = &cfg->self;

    *cfg = (struct cluster_cfg){
        .id = "sim",
        .voter = n->voter,
        .voter_n = s->cfg.voters,
        .provider = "raft",
        .move_slots = s->cfg.move_slots,
        .seed = csim_random(s),
        .last = n->last ? &n->last->v : NULL,
        .pool = &s->pool,
        .wake = on_wake,
        .wake_arg = n,
        .recover = n->recover,
        .log_generation = n->log_generation,
    };
    memcpy(cfg->voters, s->voters, sizeof(s->voters));
    cfg->times.removed = s->cfg.removed_ms;
    cfg->propose_ms = s->cfg.propose_ms;
    snprintf(me->name, sizeof(me->name), "n%u", n->at);
    csim_peer(me->peer, sizeof(me->peer), n->at);
    snprintf(me->zone, sizeof(me->zone), "z%u", n->at % 3);
    snprintf(me->rack, sizeof(me->rack), "r%u", n->at % 9);
    me->uuid = n->uuid;
    me->incarnation = n->incarnation;
    me->weight = 1024;
    me->lane_n = 2;
    me->host = n->at;
    if (n->voter)
        cfg->io = raft_mem_boot(&s->raft, n->at);
}

void csim_boot(struct csim *s, struct csim_node *n)
{
    static struct cluster_cfg cfg;
    struct errmsg m;
    enum err e;

    n->sim = s;
    n->incarnation++;
    n->life++;
    n->fatal = n->dirty = n->leads = false;
    n->up = true;
    n->pause_us = 0;
    node_cfg(s, n, &cfg);
    n->dirty = true;
    e = cluster_open(&cfg, csim_clock_ms(s, n), &n->c, &m);
    if (e != OK)
        fprintf(stderr, "n%u: %s\n", n->at, m.text);
    MUST(e == OK);
    csim_drain(s, n);
    n->dirty = false;
    csim_at(s, s->now_us + csim_chance(s, CSIM_TICK_US),
            (struct csim_event){
                .kind = CSIM_TICK, .node = n->at, .a = n->life});
    if (s->cfg.verbose)
        printf("%9.3f n%u starts, incarnation %u\n", (double)s->now_us / 1e6,
               n->at, n->incarnation);
}

static void on_closed(void *arg)
{
    *(bool *)arg = true;
}

void csim_crash(struct csim *s, struct csim_node *n, bool resets)
{
    bool closed = false;
    struct cluster *c = n->c;

    if (!n->up)
        return;
    if (s->cfg.verbose)
        printf("%9.3f n%u ends\n", (double)s->now_us / 1e6, n->at);
    n->up = n->leads = n->moving = false;
    n->raft_tick = NULL;
    n->c = NULL;
    csim_links_of(s, n->at, resets);
    if (n->voter)
        raft_mem_crash(&s->raft, n->at);
    cluster_close(c, on_closed, &closed);
    MUST(closed);
    shared_view_unref(n->view);
    n->view = NULL;
    n->move_n = 0;
}

struct csim_node *csim_leader(struct csim *s)
{
    struct csim_node *best = NULL;
    uint64_t term = 0;

    for (uint32_t i = 0; i < s->cfg.voters; i++) {
        struct csim_node *n = &s->nodes[i];
        uint64_t t;

        if (n->up && cluster_leads(n->c, &t) && t >= term) {
            best = n;
            term = t;
        }
    }
    return best;
}
