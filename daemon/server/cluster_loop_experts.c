/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads of experts: from engines to the leader, and there to operators.
 *
 *   FEEDBACK -> control -> struct cluster ... beats ... -> the leader's
 *   struct cluster -> experts.h, decayed by the minute -> `pikvctl experts`
 *
 * A plan is made when it is asked for, by the leader, whose loads they are. It
 * goes out as a JSON text: what was planned for, how even it is, and the map as
 * SGLang reads it. A map that does not fit a reply is refused. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "cluster/experts.h"
#include "server/cluster_loop_impl.h"

enum {
    EXPERTS_TAKE = 512,
    EXPERTS_DECAY_MS = 60000,
    EXPERTS_ROW_BYTES = 64, /* of a reply */
};

/* ---- To the leader ------------------------------------------------------- */

/* What loads are kept under: the namespace's model and weights. */
static uint64_t model_of(const struct registry_ns *ns)
{
    const struct registry_fingerprint *f = &ns->fingerprint;

    return hash_64(hash_64(0, f->model, strlen(f->model)), f->weights_version,
                   strlen(f->weights_version));
}

static enum err feedback_count(const Pikv__Feedback *m, size_t *n_out)
{
    *n_out = 0;
    for (size_t i = 0; i < m->n_experts; i++) {
        const Pikv__ExpertLoad *l = m->experts[i];

        if (l->layer >= EXPERTS_LAYERS_MAX || l->n_counts > EXPERTS_MAX)
            return ERR_LIMIT;
        *n_out += l->n_counts;
    }
    return OK;
}

static uint32_t feedback_rows(const Pikv__Feedback *m, uint64_t model,
                              struct expert_count *rows)
{
    uint32_t n = 0;

    for (size_t i = 0; i < m->n_experts; i++) {
        const Pikv__ExpertLoad *l = m->experts[i];

        for (size_t x = 0; x < l->n_counts; x++)
            if (l->counts[x])
                rows[n++] = (struct expert_count){model, (uint16_t)l->layer,
                                                  (uint16_t)x, l->counts[x]};
    }
    return n;
}

enum err cluster_feedback(void *arg, const struct registry_ns *ns,
                          const Pikv__Feedback *m)
{
    struct cluster_loop *cl = arg;
    struct cluster_load load = cl->load;
    struct cluster_event ev = {.kind = CLUSTER_LOAD, .load = &load};
    size_t n;
    enum err e = feedback_count(m, &n);

    if (e || n == 0)
        return e;
    load.experts = calloc(n, sizeof(*load.experts));
    if (!load.experts)
        return ERR_NO_MEMORY;
    load.expert_n = feedback_rows(m, model_of(ns), load.experts);
    cluster_loop_step(cl, &ev);
    free(load.experts);
    return OK;
}

/* ---- At the leader ------------------------------------------------------- */

void cluster_experts_collect(struct cluster_loop *cl)
{
    struct expert_count rows[EXPERTS_TAKE];
    uint64_t now = cluster_now_ms();
    uint32_t n;

    while ((n = cluster_experts_take(cl->cluster, rows, countof(rows))))
        for (uint32_t i = 0; i < n; i++) /* beyond its bound: not counted */
            (void)!experts_feed(&cl->experts, rows[i].model, rows[i].layer,
                                rows[i].expert, rows[i].count);
    if (now - cl->experts_ms < EXPERTS_DECAY_MS)
        return;
    cl->experts_ms = now;
    experts_decay(&cl->experts);
}

/* ---- Operators ----------------------------------------------------------- */

/* Where it is placed. */
static void expert_nodes(const struct state *s, Pikv__ExpertRow *row,
                         uint32_t *nodes)
{
    row->nodes = nodes;
    for (uint32_t i = 0; s && i < s->expert_n; i++) {
        const struct expert_place *p = &s->experts[i];

        if (p->model == row->model && p->layer == row->layer &&
            p->expert == row->expert && row->n_nodes < VIEW_COPIES)
            nodes[row->n_nodes++] = p->node;
    }
}

struct experts_look {
    Pikv__ClusterReply rep;
    Pikv__ExpertRow *rows, **list;
    struct expert_load *loads;
    uint32_t *nodes; /* VIEW_COPIES of each row */
};

/* From row `since` on, as many as fit. */
static void look_rows(struct experts_look *k, struct cluster_loop *cl,
                      const Pikv__ClusterRequest *m, uint32_t max)
{
    uint64_t model = strtoull(m->model, NULL, 16);
    uint32_t n = experts_list(&cl->experts, model, k->loads, EXPERTS_KNOWN_MAX);

    k->rep.experts = k->list;
    for (uint64_t i = m->since; i < n && k->rep.n_experts < max; i++) {
        size_t at = k->rep.n_experts++;
        Pikv__ExpertRow *row = k->list[at] = &k->rows[at];

        pikv__expert_row__init(row);
        row->model = k->loads[i].model;
        row->layer = k->loads[i].layer;
        row->expert = k->loads[i].expert;
        row->load = k->loads[i].load >> 16;
        expert_nodes(cluster_state(cl->cluster), row,
                     k->nodes + at * VIEW_COPIES);
    }
}

static void experts_look(struct cluster_loop *cl, struct ctl_call *call)
{
    const Pikv__ClusterRequest *m = call->request;
    uint32_t max = call->reply_cap / EXPERTS_ROW_BYTES;
    struct experts_look k = {0};

    if (m->max)
        max = (uint32_t)min_u64(max, m->max);
    pikv__cluster_reply__init(&k.rep);
    k.rows = calloc(max, sizeof(*k.rows));
    k.list = calloc(max, sizeof(*k.list));
    k.nodes = calloc((size_t)max * VIEW_COPIES, sizeof(*k.nodes));
    k.loads = calloc(EXPERTS_KNOWN_MAX, sizeof(*k.loads));
    if (k.rows && k.list && k.nodes && k.loads) {
        look_rows(&k, cl, m, max);
        cluster_reply(call, &k.rep);
    } else {
        control_answer(call, ERR_NO_MEMORY);
    }
    free(k.rows);
    free(k.list);
    free(k.nodes);
    free(k.loads);
}

/* ---- Plans --------------------------------------------------------------- */

static void plan_json(const struct experts_shape *s, uint64_t model,
                      const uint64_t *weight, const uint16_t *map,
                      struct textbuf *out)
{
    textbuf_add(out,
                "{\"model\": \"%016" PRIx64 "\", \"layers\": %u, "
                "\"experts\": %u, \"slots\": %u, \"groups\": %u, "
                "\"nodes\": %u, \"gpus\": %u, \"skew_permille\": [",
                model, s->layers, s->experts, s->slots, s->groups, s->nodes,
                s->gpus);
    for (uint32_t l = 0; l < s->layers; l++)
        textbuf_add(out, "%s%u", l ? ", " : "",
                    experts_skew(s, weight, map, l, false));
    textbuf_add(out, "], \"physical_to_logical_map\": [");
    for (uint32_t l = 0; l < s->layers; l++) {
        textbuf_add(out, l ? ",\n [" : "\n [");
        for (uint32_t i = 0; i < s->slots; i++)
            textbuf_add(out, "%s%u", i ? ", " : "", map[l * s->slots + i]);
        textbuf_add(out, "]");
    }
    textbuf_add(out, "]}\n");
}

static enum err plan_shape(const struct cluster_loop *cl,
                           const Pikv__ClusterRequest *m, uint64_t model,
                           struct experts_shape *s, struct errmsg *why)
{
    *s = (struct experts_shape){.groups = m->groups ? m->groups : 1,
                                .nodes = m->nodes ? m->nodes : 1,
                                .gpus = m->gpus ? m->gpus : 1};
    experts_size(&cl->experts, model, &s->layers, &s->experts);
    if (!s->layers)
        return errmsg_set(why, ERR_BAD_REQUEST,
                          "model: nothing was reported of that one; `pikvctl "
                          "experts load` shows what was");
    s->slots = s->experts + m->redundant;
    return experts_shape_check(s, why);
}

static enum err plan_make(struct cluster_loop *cl, struct ctl_call *call,
                          struct textbuf *out)
{
    const Pikv__ClusterRequest *m = call->request;
    uint64_t model = strtoull(m->model, NULL, 16), *weight;
    struct experts_shape s;
    uint16_t *map;
    enum err e = plan_shape(cl, m, model, &s, &call->msg);

    if (e)
        return e;
    weight = calloc((size_t)s.layers * s.experts, sizeof(*weight));
    map = calloc((size_t)s.layers * s.slots, sizeof(*map));
    e = weight && map ? OK : ERR_NO_MEMORY;
    if (!e) {
        experts_weights(&cl->experts, model, s.layers, s.experts, weight);
        e = experts_plan(&s, weight, map, &call->msg);
    }
    if (!e)
        plan_json(&s, model, weight, map, out);
    free(weight);
    free(map);
    return !e && out->bad ? ERR_NO_MEMORY : e;
}

static void experts_answer_plan(struct cluster_loop *cl, struct ctl_call *call)
{
    struct textbuf out = {0};
    Pikv__ClusterReply rep;
    enum err e = plan_make(cl, call, &out);

    if (e) {
        control_answer(call, e);
    } else {
        pikv__cluster_reply__init(&rep);
        rep.text = out.text;
        cluster_reply(call, &rep);
    }
    free(out.text);
}

void cluster_experts(struct cluster_loop *cl, struct ctl_call *call)
{
    const Pikv__ClusterRequest *m = call->request;
    struct cluster_status st;

    cluster_status(cl->cluster, &st);
    if (!st.leads)
        cluster_refuse(call, ERR_BAD_REQUEST,
                       "loads of experts are with the leader; ask %s",
                       st.leader[0] ? st.leader : "it when there is one");
    else if (m->what == PIKV__CLUSTER_REQUEST__WHAT__EXPERTS)
        experts_look(cl, call);
    else
        experts_answer_plan(cl, call);
}
