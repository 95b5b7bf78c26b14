/* SPDX-License-Identifier: Apache-2.0
 *
 * Links of the simulated cluster. A message waits in its direction's queue
 * until it is due and the direction is not cut; what is behind it waits too. A
 * link that breaks loses what is under way; each end learns of it, or does not
 * (half-open), until it has heard nothing for ten seconds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/csim.h"

enum { QUEUE_MAX = 4000, DIAL_TIMEOUT_US = 1000000, STALL_US = 20000 };

struct csim_link *csim_link(struct csim *s, uint64_t id)
{
    struct csim_link *l = &s->links[id % s->link_cap];

    return id && l->id == id ? l : NULL;
}

static uint64_t latency(struct csim *s)
{
    uint64_t us = s->cfg.latency_us / 2 + csim_chance(s, s->cfg.latency_us);

    /* A lost segment costs a retransmission. */
    if (s->cfg.faults && !s->healed && csim_chance(s, 200) == 0)
        us += 200000;
    return us + s->slow_us;
}

static bool reaches(const struct csim *s, uint32_t from, uint32_t to)
{
    return !s->cut[from * s->node_n + to];
}

static void way_clear(struct csim_way *w)
{
    struct csim_msg *m = w->head;

    while (m) {
        struct csim_msg *next = m->next;

        free(m);
        m = next;
    }
    w->head = NULL;
    w->tail = &w->head;
    w->queued = 0;
    w->dead = true;
}

static void link_free(struct csim *s, struct csim_link *l)
{
    if (l->end[0] || l->end[1] || !l->id)
        return;
    way_clear(&l->way[0]);
    way_clear(&l->way[1]);
    l->id = 0;
    s->link_n--;
}

/* ---- Coming up ---- */

void csim_dial(struct csim *s, uint32_t from, const char *peer)
{
    uint32_t to = csim_of_peer(s, peer);

    MUST(to < s->node_n && to != from);
    s->stats.dials++;
    for (uint32_t i = 0; i < s->link_cap; i++) {
        const struct csim_link *l = &s->links[i];

        if (l->id && l->node[0] == from && l->node[1] == to && l->end[0])
            return;
    }
    csim_at(s, s->now_us + 2 * latency(s),
            (struct csim_event){.kind = CSIM_DIALED,
                                .node = from,
                                .other = to,
                                .a = s->nodes[from].life});
}

static void dial_failed(struct csim *s, struct csim_node *n, uint32_t to)
{
    struct cluster_event ev = {.kind = CLUSTER_LINK_DOWN};

    csim_peer(ev.peer, sizeof(ev.peer), to);
    csim_step(s, n, &ev);
}

static struct csim_link *link_new(struct csim *s, uint32_t a, uint32_t b)
{
    struct csim_link *l;

    MUST(s->link_n < s->link_cap / 2);
    while (s->links[s->link_id % s->link_cap].id)
        s->link_id++;
    l = &s->links[s->link_id % s->link_cap];
    *l = (struct csim_link){
        .id = s->link_id++,
        .node = {a, b},
        .end = {true, true},
        .heard_us = {s->now_us, s->now_us},
    };
    l->way[0].tail = &l->way[0].head;
    l->way[1].tail = &l->way[1].head;
    s->link_n++;
    return l;
}

static void link_up(struct csim *s, struct csim_node *n, uint64_t id,
                    const struct bytes *hello, uint32_t dialed)
{
    struct cluster_event ev = {
        .kind = CLUSTER_LINK_UP, .link = id, .p = hello->p, .n = hello->len};

    if (dialed < s->node_n)
        csim_peer(ev.peer, sizeof(ev.peer), dialed);
    csim_step(s, n, &ev);
}

void csim_dialed(struct csim *s, const struct csim_event *e)
{
    struct csim_node *a = &s->nodes[e->node], *b = &s->nodes[e->other];
    struct bytes ha = {0}, hb = {0};
    struct node who;
    struct errmsg m;
    bool late = !reaches(s, a->at, b->at) || !reaches(s, b->at, a->at) ||
                b->pause_us > s->now_us;
    uint64_t id;

    if (!a->up || a->life != e->a)
        return;
    if (late && !e->p) {
        struct csim_event again = *e;

        again.p = s; /* it came to nothing */
        csim_at(s, s->now_us + DIAL_TIMEOUT_US, again);
        return;
    }
    if (!b->up || late) {
        dial_failed(s, a, b->at);
        return;
    }
    cluster_hello(a->c, &ha);
    cluster_hello(b->c, &hb);
    if (cluster_hello_check(b->c, ha.p, ha.len, &who, &m) != OK ||
        cluster_hello_check(a->c, hb.p, hb.len, &who, &m) != OK) {
        s->stats.refused++;
        if (s->cfg.verbose)
            printf("%9.3f n%u-n%u refused: %s\n", (double)s->now_us / 1e6,
                   a->at, b->at, m.text);
        dial_failed(s, a, b->at);
    } else {
        id = link_new(s, a->at, b->at)->id;
        link_up(s, b, id, &ha, s->node_n);
        if (csim_link(s, id))
            link_up(s, a, id, &hb, b->at);
    }
    bytes_fini(&ha);
    bytes_fini(&hb);
}

/* ---- Messages ---- */

static void count(struct csim *s, const struct csim_node *n,
                  const struct cluster_action *a)
{
    s->stats.messages++;
    s->stats.bytes += a->n;
    if (n->leads) {
        s->stats.leader_messages++;
        s->stats.leader_bytes += a->n;
    }
    if (a->msg == PEER_VIEW_PUSH) {
        s->stats.views_sent++;
        s->stats.view_bytes += a->n;
    }
}

void csim_send(struct csim *s, uint32_t from, const struct cluster_action *a)
{
    struct csim_link *l = csim_link(s, a->link);
    struct csim_way *w;
    struct csim_msg *m;
    uint32_t side;

    if (!l)
        return;
    side = l->node[0] != from;
    w = &l->way[side];
    if (!l->end[side] || w->dead)
        return;
    count(s, &s->nodes[from], a);
    if (w->queued == QUEUE_MAX) {
        csim_break(s, l, true, true);
        return;
    }
    m = malloc(sizeof(*m) + a->n);
    MUST(m);
    m->next = NULL;
    m->due_us = w->last_us = max_u64(s->now_us + latency(s), w->last_us);
    m->kind = a->msg;
    m->n = a->n;
    memcpy(m->p, a->p, a->n);
    *w->tail = m;
    w->tail = &m->next;
    w->queued++;
    if (!w->pumping) {
        w->pumping = true;
        csim_at(s, m->due_us, (struct csim_event){.kind = CSIM_PUMP,
                                                  .node = from,
                                                  .other = side,
                                                  .a = l->id});
    }
}

static void deliver(struct csim *s, struct csim_link *l, uint32_t side,
                    struct csim_msg *m)
{
    struct csim_node *to = &s->nodes[l->node[!side]];
    struct cluster_event ev = {.kind = CLUSTER_MESSAGE,
                               .link = l->id,
                               .msg = m->kind,
                               .p = m->p,
                               .n = m->n};

    l->heard_us[!side] = s->now_us;
    if (to->leads) {
        s->stats.leader_messages++;
        s->stats.leader_bytes += m->n;
    }
    csim_step(s, to, &ev);
}

void csim_pump(struct csim *s, const struct csim_event *e)
{
    struct csim_link *l = csim_link(s, e->a);
    struct csim_way *w = l ? &l->way[e->other] : NULL;
    struct csim_node *to = l ? &s->nodes[l->node[!e->other]] : NULL;
    struct csim_msg *m;

    if (!l)
        return;
    w->pumping = false;
    m = w->head;
    if (!m)
        return;
    if (reaches(s, l->node[e->other], to->at) && to->pause_us <= s->now_us) {
        w->head = m->next;
        if (!w->head)
            w->tail = &w->head;
        w->queued--;
        if (l->end[!e->other])
            deliver(s, l, e->other, m);
        free(m);
        l = csim_link(s, e->a); /* it may be gone now */
        w = l ? &l->way[e->other] : NULL;
        if (!l || !w->head || w->pumping)
            return;
        w->pumping = true;
        csim_at(s, w->head->due_us, *e);
        return;
    }
    w->pumping = true;
    csim_at(s, max_u64(s->now_us + STALL_US, to->pause_us), *e);
}

/* ---- Going down ---- */

void csim_break(struct csim *s, struct csim_link *l, bool tell0, bool tell1)
{
    way_clear(&l->way[0]);
    way_clear(&l->way[1]);
    for (uint32_t i = 0; i < 2; i++)
        if (l->end[i] && (i ? tell1 : tell0))
            csim_at(s, s->now_us + latency(s),
                    (struct csim_event){.kind = CSIM_LINK_ENDS,
                                        .node = l->node[i],
                                        .other = i,
                                        .a = l->id});
}

void csim_end(struct csim *s, const struct csim_event *e)
{
    struct csim_link *l = csim_link(s, e->a);
    struct cluster_event ev = {.kind = CLUSTER_LINK_DOWN, .link = e->a};
    struct csim_node *n = &s->nodes[e->node];

    if (!l || !l->end[e->other])
        return;
    if (n->pause_us > s->now_us) {
        csim_at(s, n->pause_us, *e);
        return;
    }
    l->end[e->other] = false;
    way_clear(&l->way[0]);
    way_clear(&l->way[1]);
    link_free(s, l);
    csim_step(s, n, &ev);
}

/* The node's process is gone: its ends are, the others hear of it if resets. */
void csim_links_of(struct csim *s, uint32_t node, bool resets)
{
    for (uint32_t i = 0; i < s->link_cap; i++) {
        struct csim_link *l = &s->links[i];

        if (!l->id || (l->node[0] != node && l->node[1] != node))
            continue;
        l->end[l->node[0] != node] = false;
        csim_break(s, l, resets, resets);
        link_free(s, l);
    }
}

/* What the shell does with links on which nothing comes. */
void csim_idle(struct csim *s)
{
    for (uint32_t i = 0; i < s->link_cap; i++) {
        struct csim_link *l = &s->links[i];

        for (uint32_t k = 0; l->id && k < 2; k++)
            if (l->end[k] && s->now_us - l->heard_us[k] > CSIM_LINKS_IDLE_US)
                csim_break(s, l, true, true);
    }
    csim_at(s, s->now_us + 1000000, (struct csim_event){.kind = CSIM_WATCH});
}

void csim_net_fini(struct csim *s)
{
    for (uint32_t i = 0; i < s->link_cap; i++) {
        struct csim_link *l = &s->links[i];

        if (!l->id)
            continue;
        l->end[0] = l->end[1] = false;
        link_free(s, l);
    }
}
