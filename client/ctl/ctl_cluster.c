/* SPDX-License-Identifier: Apache-2.0
 *
 * cluster, node, placement, coord: the cluster as the node that answers sees
 * it, and what operators do with it. Any node takes a change and brings it to
 * the leader; the loads of nodes are known to the leader alone.
 *
 * Long lists come in pieces, each asked for from where the last one ended. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/ctl/ctl.h"

typedef Pikv__ClusterRequest__What cluster_what;

static char no_text[] = "";

static void request_init(Pikv__ClusterRequest *m, cluster_what what, char *node)
{
    pikv__cluster_request__init(m);
    m->what = what;
    m->node = node ? node : no_text;
    m->model = no_text;
}

Pikv__ClusterReply *cluster_ask(struct ctl *c, const Pikv__ClusterRequest *m,
                                int *status_out)
{
    Pikv__ClusterReply *r;
    int code;

    *status_out = link_open(c);
    if (*status_out)
        return NULL;
    r = link_ask(c, "cluster", 0, &m->base, &pikv__cluster_reply__descriptor,
                 &code);
    if (!code)
        return r;
    if (r && r->error[0])
        *status_out = ctl_fail(ctl_status(code), "%s: %s", c->verb->name,
                               r->error);
    else
        *status_out = ctl_fail_code(code, "%s", c->verb->name);
    link_free(r);
    return NULL;
}

/* ---- cluster status, coord status ---- */

static json_t *texts(size_t n, char *const *list)
{
    json_t *a = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(a, out_text(list[i]));
    return a;
}

int verb_cluster_status(struct ctl *c)
{
    Pikv__ClusterRequest m;
    Pikv__ClusterReply *r;
    json_t *o = json_object();
    int s;

    request_init(&m, PIKV__CLUSTER_REQUEST__WHAT__STATUS, NULL);
    r = cluster_ask(c, &m, &s);
    if (!r) {
        json_decref(o);
        return s;
    }
    json_object_set_new(o, "cluster", out_text(r->cluster));
    json_object_set_new(o, "self", out_text(r->self));
    json_object_set_new(o, "phase", out_text(r->phase));
    json_object_set_new(o, "leader", out_text(r->leader));
    json_object_set_new(o, "no_leader_for_ms", out_u64(r->cut_ms));
    json_object_set_new(o, "generation", out_u64(r->generation));
    json_object_set_new(o, "epoch", out_u64(r->epoch));
    json_object_set_new(o, "nodes", out_text(r->text));
    json_object_set_new(o, "moving_slots", out_u64(r->moves));
    json_object_set_new(o, "redirects", out_u64(r->redirects));
    s = out_object(c, o);
    link_free(r);
    return s;
}

int verb_coord_status(struct ctl *c)
{
    Pikv__ClusterRequest m;
    Pikv__ClusterReply *r;
    json_t *o = json_object();
    int s;

    request_init(&m, PIKV__CLUSTER_REQUEST__WHAT__COORD, NULL);
    r = cluster_ask(c, &m, &s);
    if (!r) {
        json_decref(o);
        return s;
    }
    json_object_set_new(o, "provider", out_text(r->provider));
    json_object_set_new(o, "self", out_text(r->self));
    json_object_set_new(o, "leader", out_text(r->leader));
    json_object_set_new(o, "leads", json_boolean(r->leads));
    json_object_set_new(o, "voters", texts(r->n_voters, r->voters));
    json_object_set_new(o, "term", out_u64(r->term));
    json_object_set_new(o, "commit", out_u64(r->commit));
    json_object_set_new(o, "applied", out_u64(r->applied));
    json_object_set_new(o, "generation", out_u64(r->generation));
    s = out_object(c, o);
    link_free(r);
    return s;
}

/* ---- cluster nodes ---- */

static json_t *node_json(const Pikv__ClusterNode *n)
{
    const Pikv__ViewNode *v = n->node;
    json_t *o = json_object();

    json_object_set_new(o, "name", out_text(v->name));
    json_object_set_new(o, "index", out_u64(v->index));
    json_object_set_new(o, "state",
                        out_text(n->suspect ? "suspect" : v->state));
    json_object_set_new(o, "voter", json_boolean(v->voter));
    json_object_set_new(o, "zone", out_text(v->zone));
    json_object_set_new(o, "rack", out_text(v->rack));
    json_object_set_new(o, "weight_mib", out_u64(v->weight_mib));
    json_object_set_new(o, "slots", out_u64(n->slots));
    json_object_set_new(o, "moving_in", out_u64(n->moving_in));
    json_object_set_new(o, "moving_out", out_u64(n->moving_out));
    json_object_set_new(o, "ops", out_u64(n->ops));
    json_object_set_new(o, "bytes", out_u64(n->bytes));
    json_object_set_new(o, "misses", out_u64(n->misses));
    json_object_set_new(o, "used_mib", out_u64(n->used_mib));
    json_object_set_new(o, "free_mib", out_u64(n->free_mib));
    json_object_set_new(o, "get_p95_us", out_u64(n->get_p95_us));
    json_object_set_new(o, "beat_age_ms", out_u64(n->beat_age_ms));
    json_object_set_new(o, "peer", out_text(v->peer));
    json_object_set_new(o, "incarnation", out_u64(v->incarnation));
    json_object_set_new(o, "lanes", out_u64(v->n_lanes));
    if (v->n_lanes) {
        json_object_set_new(o, "shm", out_text(v->lanes[0]->shm));
        json_object_set_new(o, "ucx", out_text(v->lanes[0]->ucx));
    }
    return o;
}

/* All rows, piece by piece; NULL: the failure is said. */
static json_t *node_rows(struct ctl *c, int *status_out)
{
    json_t *rows = json_array();
    Pikv__ClusterRequest m;
    Pikv__ClusterReply *r;
    size_t n;

    request_init(&m, PIKV__CLUSTER_REQUEST__WHAT__NODES, NULL);
    do {
        r = cluster_ask(c, &m, status_out);
        if (!r) {
            json_decref(rows);
            return NULL;
        }
        n = r->n_nodes;
        for (size_t i = 0; i < n; i++) {
            json_array_append_new(rows, node_json(r->nodes[i]));
            m.since = r->nodes[i]->node->index + 1;
        }
        link_free(r);
    } while (n);
    return rows;
}

int verb_cluster_nodes(struct ctl *c)
{
    static const struct column columns[] = {
        {"name", false},    {"state", false},     {"voter", false},
        {"zone", false},    {"weight_mib", true}, {"slots", true},
        {"moving_in", true}, {"moving_out", true}, {"ops", true},
        {"bytes", true},    {"used_mib", true},   {"get_p95_us", true},
        {"beat_age_ms", true}, {"peer", false}};
    int s;
    json_t *rows = node_rows(c, &s);

    return rows ? out_rows(c, columns, countof(columns), rows) : s;
}

/* ---- cluster slots ---- */

static json_t *name_of(const json_t *nodes, int64_t index)
{
    size_t i;
    json_t *n;

    json_array_foreach(nodes, i, n)
    {
        if (json_integer_value(json_object_get(n, "index")) == index)
            return json_incref(json_object_get(n, "name"));
    }
    return out_text("");
}

static json_t *slot_json(const Pikv__SlotRow *r, const json_t *nodes)
{
    json_t *o = json_object(), *owners = json_array();

    for (size_t i = 0; i < r->n_owners; i++)
        json_array_append_new(owners, name_of(nodes, r->owners[i]));
    json_object_set_new(o, "slot", out_u64(r->slot));
    json_object_set_new(o, "owners", owners);
    json_object_set_new(o, "from", name_of(nodes, r->from));
    json_object_set_new(o, "to", name_of(nodes, r->to));
    json_object_set_new(o, "heat", out_u64(r->heat));
    return o;
}

int verb_cluster_slots(struct ctl *c)
{
    static const struct column columns[] = {{"slot", true},
                                            {"owners", false},
                                            {"from", false},
                                            {"to", false},
                                            {"heat", true}};
    uint64_t limit;
    json_t *rows = json_array(), *nodes;
    Pikv__ClusterRequest m;
    Pikv__ClusterReply *r;
    size_t n = 1;
    int s = opt_number(c, OPT_LIMIT, 1000, UINT32_MAX, &limit);

    nodes = s ? NULL : node_rows(c, &s);
    if (!nodes)
        return s;
    request_init(&m, PIKV__CLUSTER_REQUEST__WHAT__SLOTS,
                 c->arg_n ? c->args[0] : NULL);
    while (n && (!limit || json_array_size(rows) < limit)) {
        m.max = limit ? (uint32_t)(limit - json_array_size(rows)) : 0;
        r = cluster_ask(c, &m, &s);
        if (!r)
            return s;
        n = r->n_slots;
        for (size_t i = 0; i < n; i++) {
            json_array_append_new(rows, slot_json(r->slots[i], nodes));
            m.since = r->slots[i]->slot + 1;
        }
        link_free(r);
    }
    json_decref(nodes);
    return out_rows(c, columns, countof(columns), rows);
}

/* ---- cluster events ---- */

int verb_cluster_events(struct ctl *c)
{
    static const struct column columns[] = {
        {"seq", true}, {"when_ms", true}, {"level", false}, {"text", false}};
    static const char *const levels[] = {"", "", "", "error", "warn", "notice",
                                         "info", "debug"};
    json_t *rows = json_array();
    Pikv__ClusterRequest m;
    Pikv__ClusterReply *r;
    int s;

    request_init(&m, PIKV__CLUSTER_REQUEST__WHAT__EVENTS, NULL);
    r = cluster_ask(c, &m, &s);
    if (!r)
        return s;
    for (size_t i = 0; i < r->n_events; i++) {
        const Pikv__ClusterEvent *e = r->events[i];
        json_t *o = json_object();

        json_object_set_new(o, "seq", out_u64(e->seq));
        json_object_set_new(o, "when_ms", out_u64(e->when_ms));
        json_object_set_new(
            o, "level",
            out_text(e->level < countof(levels) ? levels[e->level] : ""));
        json_object_set_new(o, "text", out_text(e->text));
        json_array_append_new(rows, o);
    }
    link_free(r);
    return out_rows(c, columns, countof(columns), rows);
}

/* ---- changes ---- */

static int change(struct ctl *c, cluster_what what, char *node)
{
    Pikv__ClusterRequest m;
    Pikv__ClusterReply *r;
    json_t *o;
    int s;

    request_init(&m, what, node);
    r = cluster_ask(c, &m, &s);
    if (!r)
        return s;
    o = json_object();
    json_object_set_new(o, "epoch", out_u64(r->epoch));
    if (r->text[0])
        json_object_set_new(o, "text", out_text(r->text));
    link_free(r);
    return out_object(c, o);
}

int verb_node_drain(struct ctl *c)
{
    if (c->opt[OPT_DRY_RUN])
        return out_would(c, "move the slots of %s to others", c->args[0]);
    return change(c, PIKV__CLUSTER_REQUEST__WHAT__DRAIN, c->args[0]);
}

int verb_node_undrain(struct ctl *c)
{
    return change(c, PIKV__CLUSTER_REQUEST__WHAT__UNDRAIN, c->args[0]);
}

int verb_node_remove(struct ctl *c)
{
    int s;

    if (c->opt[OPT_DRY_RUN])
        return out_would(c, "give the slots of %s to others for good",
                         c->args[0]);
    s = ctl_confirm(c, "forget what only this node has, and remove",
                    "node remove");
    return s ? s : change(c, PIKV__CLUSTER_REQUEST__WHAT__REMOVE, c->args[0]);
}

int verb_coord_transfer(struct ctl *c)
{
    return change(c, PIKV__CLUSTER_REQUEST__WHAT__TRANSFER,
                  c->arg_n ? c->args[0] : NULL);
}

/* The name is said twice, by the operator and by the node that answers: this
 * must not be done at the wrong one. */
int verb_coord_recover(struct ctl *c)
{
    Pikv__ClusterRequest m;
    Pikv__ClusterReply *r;
    bool same;
    int s;

    request_init(&m, PIKV__CLUSTER_REQUEST__WHAT__STATUS, NULL);
    r = cluster_ask(c, &m, &s);
    if (!r)
        return s;
    same = strcmp(r->self, c->args[0]) == 0;
    if (!same)
        s = ctl_fail(CTL_USAGE,
                     "coord recover %s: %s answers; give --address of %s",
                     c->args[0], r->self, c->args[0]);
    link_free(r);
    if (!same)
        return s;
    s = ctl_confirm(c, "let the other voters be forgotten, and go on with",
                    "coord recover");
    return s ? s : change(c, PIKV__CLUSTER_REQUEST__WHAT__RECOVER, NULL);
}

/* ---- placement ---- */

/* How many slots each node has, and which share that is. */
int verb_placement_show(struct ctl *c)
{
    static const struct column columns[] = {
        {"name", false},     {"state", false},    {"weight_mib", true},
        {"slots", true},     {"share", true},     {"moving_in", true},
        {"moving_out", true}};
    int s;
    json_t *rows = node_rows(c, &s), *row;
    size_t i;

    if (!rows)
        return s;
    json_array_foreach(rows, i, row)
    {
        double slots =
            (double)json_integer_value(json_object_get(row, "slots"));

        json_object_set_new(row, "share", json_real(slots / 65536));
    }
    return out_rows(c, columns, countof(columns), rows);
}

int verb_placement_plan(struct ctl *c)
{
    Pikv__ClusterRequest m;
    Pikv__ClusterReply *r;
    json_t *o;
    int s;

    request_init(&m, PIKV__CLUSTER_REQUEST__WHAT__PLAN, NULL);
    r = cluster_ask(c, &m, &s);
    if (!r)
        return s;
    if (c->json) {
        o = json_object();
        json_object_set_new(o, "epoch", out_u64(r->epoch));
        json_object_set_new(o, "moves", out_u64(r->moves));
        json_object_set_new(o, "text", out_text(r->text));
        s = out_object(c, o);
    } else {
        fputs(r->text, stdout);
    }
    link_free(r);
    return s;
}

int verb_placement_apply(struct ctl *c)
{
    if (c->opt[OPT_DRY_RUN])
        return verb_placement_plan(c);
    return change(c, PIKV__CLUSTER_REQUEST__WHAT__APPLY, NULL);
}
