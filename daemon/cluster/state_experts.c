/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the experts are: an array sorted by (model, layer, expert, replica). A
 * command's rows are sorted and merged with it into the other array, which
 * takes its place only if everything fits; so a refusal leaves no trace. */
#include <stdlib.h>
#include <string.h>

#include "cluster/state_impl.h"

enum { TIER_CLEARED = 0xff, TIER_LAST = 2 };

int state_expert_order(const void *a, const void *b)
{
    const struct expert_place *x = a, *y = b;

    if (x->model != y->model)
        return x->model < y->model ? -1 : 1;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    if (x->expert != y->expert)
        return x->expert < y->expert ? -1 : 1;
    return (int)x->replica - (int)y->replica;
}

/* Equal rows are refused, but with words that are part of the state; so how
 * qsort leaves them may not count. */
static int row_order(const void *a, const void *b)
{
    const struct expert_place *x = a, *y = b;
    int order = state_expert_order(a, b);

    if (order)
        return order;
    return x->tier != y->tier ? (int)x->tier - (int)y->tier
                              : (int)x->node - (int)y->node;
}

static enum err check_row(struct work *w, const struct expert_place *p)
{
    const struct view *v = &w->s->view;

    if (p->tier == TIER_CLEARED)
        return OK;
    if (p->tier > TIER_LAST)
        return errmsg_set(w->m, ERR_BAD_REQUEST,
                          "layer %u expert %u: tier %u is none of 0 dram, "
                          "1 ssd, 2 hbm, 255 clear",
                          p->layer, p->expert, p->tier);
    if (p->node >= v->node_n || v->nodes[p->node].state == NODE_REMOVED ||
        v->nodes[p->node].state == NODE_JOINING)
        return errmsg_set(w->m, ERR_BAD_REQUEST,
                          "layer %u expert %u: node %u is not a member that "
                          "may hold it; plan anew with the view of epoch %llu",
                          p->layer, p->expert, p->node,
                          (unsigned long long)v->epoch);
    return OK;
}

static enum err check_rows(struct work *w)
{
    const struct expert_place *p = w->c->experts;

    for (uint32_t i = 0; i < w->c->expert_n; i++) {
        enum err e = check_row(w, &p[i]);

        if (e != OK)
            return e;
        if (i && state_expert_order(&p[i - 1], &p[i]) == 0)
            return errmsg_set(w->m, ERR_BAD_REQUEST,
                              "layer %u expert %u replica %u is in one command "
                              "twice; say it once",
                              p[i].layer, p[i].expert, p[i].replica);
    }
    return OK;
}

/* The placements with the rows in them; how many, or more than fit. */
static uint32_t merge(struct state *s, const struct cmd *c)
{
    uint32_t i = 0, j = 0, n = 0;

    while (i < s->expert_n || j < c->expert_n) {
        const struct expert_place *p;
        int order = i == s->expert_n ? 1
                    : j == c->expert_n
                        ? -1
                        : state_expert_order(&s->experts[i], &c->experts[j]);

        p = order < 0 ? &s->experts[i] : &c->experts[j];
        i += order <= 0;
        j += order >= 0;
        if (p->tier == TIER_CLEARED)
            continue;
        if (n == STATE_EXPERTS_MAX)
            return n + 1;
        s->experts_next[n++] = *p;
    }
    return n;
}

static uint32_t models(const struct expert_place *p, uint32_t n)
{
    uint32_t m = n > 0;

    for (uint32_t i = 1; i < n; i++)
        m += p[i].model != p[i - 1].model;
    return m;
}

enum err state_experts(struct work *w)
{
    struct state *s = w->s;
    struct expert_place *old = s->experts;
    enum err e;
    uint32_t n;

    /* The rows lie in the state's scratch. */
    if (w->c->expert_n)
        qsort(w->c->experts, w->c->expert_n, sizeof(*w->c->experts), row_order);
    e = check_rows(w);
    if (e != OK)
        return e;
    n = merge(s, w->c);
    if (n > STATE_EXPERTS_MAX)
        return errmsg_set(w->m, ERR_LIMIT,
                          "more than %d placed experts; clear those of models "
                          "that are no longer served",
                          STATE_EXPERTS_MAX);
    if (models(s->experts_next, n) > STATE_MODELS_MAX)
        return errmsg_set(w->m, ERR_LIMIT,
                          "experts of more than %d models; clear those of "
                          "models that are no longer served",
                          STATE_MODELS_MAX);
    s->experts = s->experts_next;
    s->experts_next = old;
    s->expert_n = n;
    return OK;
}

void state_experts_drop(struct state *s, uint16_t node)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < s->expert_n; i++)
        if (s->experts[i].node != node)
            s->experts[n++] = s->experts[i];
    s->expert_n = n;
}
