/* SPDX-License-Identifier: Apache-2.0
 *
 * The cluster on the admin pages (admin_cluster.h).
 *
 *   phase      /readyz
 *   member     ok
 *   cut        degraded: what is here is served, nothing in the view changes;
 *              failed if ready_without_quorum is false
 *   seeking    failed without a view, else as cut
 *   joining    likewise
 *   expelled   failed: the operator removed it */
#include "server/admin_cluster.h"

#include <inttypes.h>
#include <stdio.h>

#include "server/cluster_loop.h"

static enum admin_state state_cut(const struct config *c)
{
    return c->cluster.ready_without_quorum ? ADMIN_DEGRADED : ADMIN_NOT_READY;
}

enum admin_state admin_cluster_state(const struct admin_cfg *cfg, char *text,
                                     size_t n)
{
    const struct config *c = cfg->control->cfg;
    const struct view *v = cluster_loop_view(cfg->cluster);
    struct cluster_status st;

    cluster_loop_status(cfg->cluster, &st);
    snprintf(text, n, "%s, epoch %" PRIu64 ", leader %s", c->cluster.id,
             v->epoch, st.leader[0] ? st.leader : "none");
    switch (st.phase) {
    case CLUSTER_MEMBER:
        return ADMIN_OK;
    case CLUSTER_CUT:
        snprintf(text, n,
                 "%s, epoch %" PRIu64 ", no leader for %" PRIu64 " s: serving "
                 "what is here",
                 c->cluster.id, v->epoch, st.cut_ms / 1000);
        return state_cut(c);
    case CLUSTER_SEEKING:
    case CLUSTER_JOINING:
        snprintf(text, n, "%s, %s", c->cluster.id,
                 cluster_phase_name(st.phase));
        return v->epoch ? state_cut(c) : ADMIN_NOT_READY;
    case CLUSTER_EXPELLED:
        snprintf(text, n, "%s: removed by the operator", c->cluster.id);
        return ADMIN_NOT_READY;
    }
    return ADMIN_NOT_READY;
}

static json_t *node_json(const struct node *n)
{
    json_t *o = json_object();

    json_object_set_new(o, "name", json_string(n->name));
    json_object_set_new(
        o, "state", json_string(node_state_name((enum node_state)n->state)));
    json_object_set_new(o, "zone", json_string(n->zone));
    json_object_set_new(o, "rack", json_string(n->rack));
    json_object_set_new(o, "peer", json_string(n->peer));
    json_object_set_new(o, "weight_mib", json_integer(n->weight));
    json_object_set_new(o, "incarnation", json_integer(n->incarnation));
    return o;
}

json_t *admin_cluster_json(const struct admin_cfg *cfg)
{
    const struct config *c = cfg->control->cfg;
    const struct view *v = cluster_loop_view(cfg->cluster);
    json_t *o = json_object(), *nodes = json_array();
    struct cluster_status st;

    cluster_loop_status(cfg->cluster, &st);
    json_object_set_new(o, "id", json_string(c->cluster.id));
    json_object_set_new(o, "phase", json_string(cluster_phase_name(st.phase)));
    json_object_set_new(o, "leader", json_string(st.leader));
    json_object_set_new(o, "leads", json_boolean(st.leads));
    json_object_set_new(o, "voter", json_boolean(st.voter));
    json_object_set_new(o, "generation", json_integer(v->generation));
    json_object_set_new(o, "epoch", json_integer((json_int_t)v->epoch));
    json_object_set_new(o, "cut_ms", json_integer((json_int_t)st.cut_ms));
    json_object_set_new(o, "moving_slots", json_integer(st.moves));
    for (uint32_t i = 0; i < v->node_n; i++)
        if (v->nodes[i].state != NODE_REMOVED)
            json_array_append_new(nodes, node_json(&v->nodes[i]));
    json_object_set_new(o, "nodes", nodes);
    return o;
}
