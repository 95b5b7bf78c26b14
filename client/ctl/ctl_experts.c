/* SPDX-License-Identifier: Apache-2.0
 *
 * experts load, plan, export: what engines said of how much each expert is
 * used, and where replicas of them should be. The leader has the loads: it is
 * the node to ask.
 *
 *   plan    the shape it is for, and how even each layer's GPUs are
 *   export  the map, in the form that SGLang's --init-expert-location reads */
#include <stdio.h>
#include <string.h>

#include "client/ctl/ctl.h"

static char no_text[] = "", copy_of_model[32];

static int number32(const struct ctl *c, enum ctl_opt opt, uint32_t *out)
{
    uint64_t n;
    int s = opt_number(c, opt, 0, 65536, &n);

    *out = s ? 0 : (uint32_t)n;
    return s;
}

static int request(const struct ctl *c, Pikv__ClusterRequest *m,
                   Pikv__ClusterRequest__What what)
{
    const char *model = c->opt[OPT_MODEL];
    int s;

    pikv__cluster_request__init(m);
    m->what = what;
    m->node = no_text;
    snprintf(copy_of_model, sizeof(copy_of_model), "%s", model ? model : "");
    m->model = copy_of_model;
    s = number32(c, OPT_GPUS, &m->gpus);
    s = s ? s : number32(c, OPT_NODES, &m->nodes);
    s = s ? s : number32(c, OPT_REDUNDANT, &m->redundant);
    return s ? s : number32(c, OPT_GROUPS, &m->groups);
}

static json_t *row_json(const Pikv__ExpertRow *r)
{
    json_t *o = json_object(), *nodes = json_array();

    for (size_t i = 0; i < r->n_nodes; i++)
        json_array_append_new(nodes, out_u64(r->nodes[i]));
    json_object_set_new(o, "model", out_hex64(r->model));
    json_object_set_new(o, "layer", out_u64(r->layer));
    json_object_set_new(o, "expert", out_u64(r->expert));
    json_object_set_new(o, "load", out_u64(r->load));
    json_object_set_new(o, "nodes", nodes);
    return o;
}

int verb_experts_load(struct ctl *c)
{
    static const struct column columns[] = {{"model", false},
                                            {"layer", true},
                                            {"expert", true},
                                            {"load", true},
                                            {"nodes", false}};
    json_t *rows = json_array();
    Pikv__ClusterRequest m;
    Pikv__ClusterReply *r;
    size_t n;
    int s = request(c, &m, PIKV__CLUSTER_REQUEST__WHAT__EXPERTS);

    do {
        r = s ? NULL : cluster_ask(c, &m, &s);
        if (!r) {
            json_decref(rows);
            return s;
        }
        n = r->n_experts;
        m.since += n;
        for (size_t i = 0; i < n; i++)
            json_array_append_new(rows, row_json(r->experts[i]));
        link_free(r);
    } while (n);
    return out_rows(c, columns, countof(columns), rows);
}

/* The plan as the daemon tells it; NULL: the failure is said. */
static json_t *plan(struct ctl *c, int *status_out)
{
    Pikv__ClusterRequest m;
    Pikv__ClusterReply *r;
    json_t *o;

    *status_out = request(c, &m, PIKV__CLUSTER_REQUEST__WHAT__EXPERTS_PLAN);
    r = *status_out ? NULL : cluster_ask(c, &m, status_out);
    if (!r)
        return NULL;
    o = json_loads(r->text, 0, NULL);
    link_free(r);
    if (!o)
        *status_out = ctl_fail(CTL_ERROR, "%s: the answer is no JSON",
                               c->verb->name);
    return o;
}

int verb_experts_plan(struct ctl *c)
{
    int s;
    json_t *o = plan(c, &s);

    if (!o)
        return s;
    if (!c->json)
        json_object_del(o, "physical_to_logical_map");
    return out_object(c, o);
}

int verb_experts_export(struct ctl *c)
{
    const char *form = c->opt[OPT_FORMAT] ? c->opt[OPT_FORMAT] : "sglang";
    json_t *o, *map;
    int s;

    if (strcmp(form, "sglang") != 0)
        return ctl_fail(CTL_USAGE, "experts export: --format %s; sglang is "
                                   "known",
                        form);
    o = plan(c, &s);
    if (!o)
        return s;
    map = json_object();
    json_object_set(map, "physical_to_logical_map",
                    json_object_get(o, "physical_to_logical_map"));
    json_decref(o);
    s = json_dumpf(map, stdout, 0) == 0 ? CTL_OK : CTL_ERROR;
    putchar('\n');
    json_decref(map);
    return s;
}
