/* SPDX-License-Identifier: Apache-2.0
 *
 * A past for simulated clusters: one that formed and placed its slots without
 * faults, kept as what would be on the disks. Runs that begin there cost a
 * quarter of those that begin with nothing. */
#include <stdlib.h>
#include <string.h>

#include "lib/csim.h"

enum { SETTLE_MS = 20000 };

/* Entry 1 of a voter's log is the configuration. */
static void past_disk(struct csim_past *p, const struct csim *s, uint32_t at)
{
    const struct raft_mem_disk *d = &s->raft.node[at].disk;

    MUST(d->first == 1 && d->n > 1 && d->entries[0].type == RAFT_CHANGE);
    p->conf_n = d->entries[0].n;
    p->conf = malloc(p->conf_n);
    MUST(p->conf);
    memcpy(p->conf, d->entries[0].data, p->conf_n);
    p->term = d->term;
    p->index = d->n;
    p->index_term = d->entries[d->n - 1].term;
}

void csim_past_make(struct csim_past *p, const struct csim_cfg *like)
{
    struct csim_cfg cfg = *like;
    struct csim *s = calloc(1, sizeof(*s));
    struct csim_node *lead;

    MUST(s);
    *p = (struct csim_past){0};
    cfg.seed = 1;
    cfg.faults = cfg.fig8 = cfg.commands = cfg.verbose = false;
    cfg.clients = 0;
    cfg.past = NULL;
    csim_init(s, &cfg);
    csim_run(s, SETTLE_MS);
    MUST(!csim_unsettled(s) && !csim_wrong(s));
    lead = csim_leader(s);
    state_encode(cluster_state(lead->c), &p->state);
    MUST(!p->state.bad);
    past_disk(p, s, lead->at);
    p->view = shared_view_new(&lead->view->v);
    MUST(p->view && p->view->v.epoch == cluster_state(lead->c)->view.epoch);
    p->node_n = s->node_n;
    csim_fini(s);
    free(s);
}

void csim_past_give(const struct csim_past *p, struct csim *s)
{
    struct shared_view *v = shared_view_new(&p->view->v);

    MUST(v && p->node_n == s->node_n);
    view_pool_add(&s->pool, v);
    for (uint32_t i = 0; i < s->node_n; i++) {
        s->nodes[i].last = shared_view_ref(v);
        s->nodes[i].incarnation = 1;
    }
    shared_view_unref(v);
    for (uint32_t i = 0; i < s->cfg.voters; i++) {
        struct raft_mem_disk *d = &s->raft.node[i].disk;
        struct raft_mem_snapshot *to = &d->snapshot;

        d->term = p->term;
        d->first = p->index + 1;
        *to = (struct raft_mem_snapshot){.index = p->index,
                                         .conf_index = 1,
                                         .term = p->index_term,
                                         .conf = malloc(p->conf_n),
                                         .conf_n = p->conf_n,
                                         .data = malloc(p->state.len),
                                         .n = p->state.len};
        MUST(to->conf && to->data);
        memcpy(to->conf, p->conf, p->conf_n);
        memcpy(to->data, p->state.p, p->state.len);
    }
}

void csim_past_free(struct csim_past *p)
{
    free(p->conf);
    bytes_fini(&p->state);
    shared_view_unref(p->view);
}
