/* SPDX-License-Identifier: Apache-2.0
 *
 * Counts of experts (EXPERT_LOAD): from lanes by CLUSTER_LOAD to the leader in
 * beats, and to whoever plans there (cluster_experts_take).
 *
 *     counts since the last beat --Beat.load.experts--> counts since the last
 *     take
 *
 * Counts are added up by (model, layer, expert) in sorted arrays of bounded
 * size; what does not fit is not counted. A beat that is lost loses its counts:
 * they are a sample, not an account. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/cluster_impl.h"

static int expert_order(const struct expert_count *a,
                        const struct expert_count *b)
{
    if (a->model != b->model)
        return a->model < b->model ? -1 : 1;
    if (a->layer != b->layer)
        return a->layer < b->layer ? -1 : 1;
    return (a->expert > b->expert) - (a->expert < b->expert);
}

static void experts_add(struct cl_experts *t, uint32_t max,
                        const struct expert_count *e)
{
    uint32_t lo = 0, hi = t->n;

    while (lo < hi) {
        uint32_t mid = (lo + hi) / 2;

        if (expert_order(&t->rows[mid], e) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo < t->n && expert_order(&t->rows[lo], e) == 0) {
        t->rows[lo].count += e->count;
        return;
    }
    if (t->n == max)
        return;
    if (t->n == t->cap) {
        uint32_t cap = t->cap ? 2 * t->cap : 64;
        struct expert_count *p =
            fault_here("cl_experts") ? NULL
                                     : realloc(t->rows, cap * sizeof(*p));

        if (!p)
            return;
        t->rows = p;
        t->cap = cap;
    }
    memmove(&t->rows[lo + 1], &t->rows[lo], (t->n - lo) * sizeof(*t->rows));
    t->rows[lo] = *e;
    t->n++;
}

void cl_experts_count(struct cluster *c, const struct cluster_load *l)
{
    for (uint32_t i = 0; i < l->expert_n; i++)
        if (l->experts[i].expert < PEER_EXPERT_COUNTS_MAX)
            experts_add(c->lead ? &c->heard : &c->counted,
                        c->lead ? CL_EXPERTS_HEARD_MAX : CL_EXPERTS_MAX,
                        &l->experts[i]);
}

/* Rows from i on that are of the same layer. */
static uint32_t layer_rows(const struct cl_experts *t, uint32_t i)
{
    uint32_t n = 1;

    while (i + n < t->n && t->rows[i + n].model == t->rows[i].model &&
           t->rows[i + n].layer == t->rows[i].layer)
        n++;
    return n;
}

static Peer__ExpertCount *layer_pack(const struct expert_count *rows,
                                     uint32_t n)
{
    uint32_t counts = rows[n - 1].expert + 1u;
    Peer__ExpertCount *m = malloc(sizeof(*m) + counts * sizeof(uint64_t));

    if (!m)
        return NULL;
    peer__expert_count__init(m);
    m->model = rows[0].model;
    m->layer = rows[0].layer;
    m->counts = (uint64_t *)(void *)(m + 1);
    m->n_counts = counts;
    memset(m->counts, 0, counts * sizeof(uint64_t));
    for (uint32_t i = 0; i < n; i++)
        m->counts[rows[i].expert] = rows[i].count;
    return m;
}

/* The load's experts, to be given to cl_experts_sent after packing. */
void cl_experts_pack(struct cluster *c, Peer__Load *m)
{
    Peer__ExpertCount **at;
    uint32_t n = 0;

    if (!c->counted.n || !c->load_known || fault_here("cl_experts_pack"))
        return;
    at = calloc(PEER_LOAD_EXPERTS_MAX, sizeof(Peer__ExpertCount *));
    for (uint32_t i = 0; at && i < c->counted.n && n < PEER_LOAD_EXPERTS_MAX;) {
        uint32_t rows = layer_rows(&c->counted, i);

        at[n] = layer_pack(&c->counted.rows[i], rows);
        if (!at[n])
            break;
        n++;
        i += rows;
    }
    m->experts = at;
    m->n_experts = n;
}

void cl_experts_sent(struct cluster *c, Peer__Load *m, bool to_leader)
{
    if (!m->experts)
        return;
    for (size_t i = 0; i < m->n_experts; i++)
        free(m->experts[i]);
    free(m->experts);
    if (to_leader)
        c->counted.n = 0;
}

void cl_experts_heard(struct cluster *c, const Peer__Load *m)
{
    for (size_t i = 0; i < m->n_experts; i++) {
        const Peer__ExpertCount *e = m->experts[i];

        for (size_t k = 0; k < e->n_counts; k++) {
            struct expert_count row = {e->model, (uint16_t)e->layer,
                                       (uint16_t)k, e->counts[k]};

            if (row.count)
                experts_add(&c->heard, CL_EXPERTS_HEARD_MAX, &row);
        }
    }
}

uint32_t cluster_experts_take(struct cluster *c, struct expert_count *out,
                              uint32_t max)
{
    uint32_t n = c->heard.n < max ? c->heard.n : max;

    if (n)
        memcpy(out, c->heard.rows, n * sizeof(*out));
    c->heard.n = 0;
    return n;
}

void cl_experts_fini(struct cluster *c)
{
    free(c->counted.rows);
    free(c->heard.rows);
}
