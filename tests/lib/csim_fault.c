/* SPDX-License-Identifier: Apache-2.0
 *
 * What goes wrong in a simulated cluster, and the end of it. */
#include <stdio.h>
#include <string.h>

#include "lib/csim.h"

static void raft_asleep(struct raft_io *io)
{
    (void)io;
}

/* Nothing of the node runs for so long, its raft's ticks included. */
void csim_pause(struct csim *s, struct csim_node *n, uint64_t us)
{
    struct raft_mem_node *r;

    if (!n->up || n->pause_us > s->now_us)
        return;
    n->pause_us = s->now_us + us;
    s->stats.pauses++;
    if (!n->voter || s->raft.node[n->at].tick == raft_asleep)
        return;
    r = &s->raft.node[n->at];
    n->raft_tick = r->tick;
    r->tick = raft_asleep;
    csim_at(s, n->pause_us, (struct csim_event){.kind = CSIM_WAKE,
                                                .node = n->at,
                                                .a = n->life});
}

void csim_awake(struct csim *s, struct csim_node *n, uint64_t life)
{
    if (n->up && n->life == life && n->raft_tick) {
        s->raft.node[n->at].tick = n->raft_tick;
        n->raft_tick = NULL;
    }
}

static void say(struct csim *s, const char *what, uint32_t a, uint32_t b)
{
    if (s->cfg.verbose)
        printf("%9.3f fault: %s %u %u\n", (double)s->now_us / 1e6, what, a, b);
}

static void cut(struct csim *s, uint32_t a, uint32_t b, bool there, bool back)
{
    s->cut[a * s->node_n + b] = there;
    s->cut[b * s->node_n + a] = back;
}

static void uncut(struct csim *s)
{
    memset(s->cut, 0, (size_t)s->node_n * s->node_n * sizeof(*s->cut));
}

/* Everybody is in one of k groups. */
static void fault_groups(struct csim *s, uint32_t k)
{
    uint32_t in[4096];

    s->stats.cuts++;
    for (uint32_t i = 0; i < s->node_n; i++)
        in[i] = csim_chance(s, k);
    for (uint32_t a = 0; a < s->node_n; a++)
        for (uint32_t b = 0; b < a; b++)
            cut(s, a, b, in[a] != in[b], in[a] != in[b]);
    say(s, "groups", k, 0);
}

/* One node, in one direction or both. */
static void fault_alone(struct csim *s, uint32_t node, uint32_t how)
{
    s->stats.cuts++;
    say(s, "alone", node, how);
    for (uint32_t i = 0; i < s->node_n; i++)
        if (i != node)
            cut(s, node, i, how != 1, how != 2);
}

static void fault_crash(struct csim *s)
{
    struct csim_node *n = &s->nodes[csim_chance(s, s->node_n)];
    bool resets = csim_chance(s, 3) > 0;

    if (!n->up)
        return;
    say(s, "crash", n->at, resets);
    s->stats.crashes++;
    csim_crash(s, n, resets);
    if (csim_chance(s, 2))
        memset(n->data, 0, sizeof(n->data)); /* it had no SSD */
    /* Sometimes the disk comes back as it was a while ago; the operator puts
     * it right when the faults end. */
    if (!n->voter && n->incarnation > 1 && !n->true_incarnation &&
        csim_chance(s, 12) == 0) {
        n->true_incarnation = n->incarnation;
        n->incarnation -= 2;
        shared_view_unref(n->last);
        n->last = NULL;
    }
    csim_at(s, s->now_us + 300000 + csim_chance(s, 6000000),
            (struct csim_event){.kind = CSIM_BOOT, .node = n->at});
}

static void fault_link(struct csim *s)
{
    for (uint32_t i = 0; i < 40; i++) {
        struct csim_link *l = &s->links[csim_chance(s, s->link_cap)];

        if (!l->id)
            continue;
        say(s, "link", l->node[0], l->node[1]);
        csim_break(s, l, csim_chance(s, 3) > 0, csim_chance(s, 3) > 0);
        return;
    }
}

static uint32_t leader_or_any(struct csim *s)
{
    struct csim_node *n = csim_leader(s);

    return n ? n->at : csim_chance(s, s->cfg.voters);
}

/* Figure 8 of the Raft paper: leaders come and go between two commits. */
static void fault_fig8(struct csim *s)
{
    uint32_t k = csim_chance(s, 10), l = leader_or_any(s);

    if (k < 2)
        uncut(s);
    else if (k < 7)
        fault_groups(s, 2);
    else if (k < 8)
        fault_alone(s, l, 0);
    else if (s->nodes[l].up && s->nodes[l].voter) {
        s->stats.crashes++;
        csim_crash(s, &s->nodes[l], true);
        csim_at(s, s->now_us + 100000 + csim_chance(s, 3000000),
                (struct csim_event){.kind = CSIM_BOOT, .node = l});
    }
    csim_at(s, s->now_us + (csim_chance(s, 3) ? 200000 + csim_chance(s, 2500000)
                                              : 5000 + csim_chance(s, 120000)),
            (struct csim_event){.kind = CSIM_FAULT});
}

static void fault_any(struct csim *s)
{
    switch (csim_chance(s, 12)) {
    case 0:
        fault_groups(s, 2);
        break;
    case 1:
        fault_groups(s, 3);
        break;
    case 2:
        fault_alone(s, leader_or_any(s), csim_chance(s, 3));
        break;
    case 3:
        fault_alone(s, csim_chance(s, s->node_n), csim_chance(s, 3));
        break;
    case 4:
        csim_pause(s, &s->nodes[csim_chance(s, s->node_n)],
                   200000 + csim_chance(s, 5000000));
        break;
    case 5:
        csim_pause(s, &s->nodes[leader_or_any(s)],
                   200000 + csim_chance(s, 5000000));
        break;
    case 6:
    case 7:
        fault_crash(s);
        break;
    case 8:
        s->slow_us = csim_chance(s, 2) ? csim_chance(s, 300000) : 0;
        break;
    case 9:
        for (uint32_t i = 0; i < 8; i++)
            fault_link(s);
        break;
    default: /* flapping: what is cut heals soon */
        uncut(s);
        break;
    }
}

void csim_fault(struct csim *s)
{
    if (s->healed)
        return;
    if (s->cfg.fig8) {
        fault_fig8(s);
        return;
    }
    fault_any(s);
    csim_at(s, s->now_us + 100000 + csim_chance(s, 1000000),
            (struct csim_event){.kind = CSIM_FAULT});
}

void csim_heal(struct csim *s)
{
    s->healed = true;
    s->slow_us = 0;
    uncut(s);
    raft_mem_heal(&s->raft);
    for (uint32_t i = 0; i < s->node_n; i++) {
        struct csim_node *n = &s->nodes[i];

        if (n->true_incarnation > n->incarnation && !n->gone) {
            csim_crash(s, n, true);
            n->incarnation = n->true_incarnation;
        }
        n->true_incarnation = 0;
        if (n->up && n->pause_us > s->now_us) {
            n->pause_us = s->now_us;
            csim_awake(s, n, n->life);
        }
        if (!n->up && !n->gone)
            csim_boot(s, n);
    }
}
