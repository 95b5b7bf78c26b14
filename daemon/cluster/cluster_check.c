/* SPDX-License-Identifier: Apache-2.0
 *
 * What is refused before anything happens: a configuration that cannot work,
 * and a peer that does not belong here. Each refusal says which key or which
 * property, and what to do.
 *
 * A peer of an older generation is let in, as a watcher: it must learn of the
 * newer one. Its raft messages and its views are dropped (cluster.c). A peer of
 * a newer generation makes this node the one of the past. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "cluster/cluster_impl.h"

enum { HELLO_VERSION = 1 };

/* ---- Configuration ---- */

static enum err check_voters(const struct cluster_cfg *cfg, struct errmsg *m)
{
    const struct coord_voter *v = cfg->voters;

    if (cfg->voter_n < 1 || cfg->voter_n > VIEW_VOTERS_MAX)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.voters: %u are listed; list 1, 3, 5 or 7",
                          cfg->voter_n);
    if (cfg->voter_n % 2 == 0)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.voters: %u is an even number, which "
                          "tolerates no more losses than %u; list %u or %u",
                          cfg->voter_n, cfg->voter_n - 1, cfg->voter_n - 1,
                          cfg->voter_n + 1);
    for (uint32_t i = 0; i < cfg->voter_n; i++) {
        if (!v[i].name[0] || !v[i].peer[0])
            return errmsg_set(m, ERR_CONFIG,
                              "cluster.voters: entry %u lacks its name or its "
                              "address", i + 1);
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(v[i].name, v[k].name) == 0 ||
                strcmp(v[i].peer, v[k].peer) == 0)
                return errmsg_set(m, ERR_CONFIG,
                                  "cluster.voters: %s at %s is listed twice "
                                  "(entries %u and %u)",
                                  v[i].name, v[i].peer, k + 1, i + 1);
    }
    return OK;
}

static bool is_listed(const struct cluster_cfg *cfg)
{
    for (uint32_t i = 0; i < cfg->voter_n; i++)
        if (strcmp(cfg->voters[i].name, cfg->self.name) == 0)
            return true;
    return false;
}

static enum err check_members(const struct cluster_cfg *cfg, struct errmsg *m)
{
    bool self = false;

    if (cfg->member_n < 1 || cfg->member_n > NODES_MAX || !cfg->members)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.members: the provider static needs the "
                          "whole list of nodes (1 to %d)", NODES_MAX);
    for (uint32_t i = 0; i < cfg->member_n; i++) {
        const struct node *n = &cfg->members[i];

        self = self || strcmp(n->name, cfg->self.name) == 0;
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(n->name, cfg->members[k].name) == 0 ||
                (n->peer[0] && strcmp(n->peer, cfg->members[k].peer) == 0))
                return errmsg_set(m, ERR_CONFIG,
                                  "cluster.members: %s at %s is listed twice "
                                  "(entries %u and %u)",
                                  n->name, n->peer, k + 1, i + 1);
    }
    if (!self)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.members: this node, %s (node.name), is not "
                          "listed", cfg->self.name);
    return OK;
}

enum err cl_check_cfg(const struct cluster_cfg *cfg, struct errmsg *m)
{
    bool is_static = strcmp(cfg->provider, "static") == 0;

    if (!cfg->id[0])
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.id: empty; all nodes need the same text");
    if (!cfg->self.name[0])
        return errmsg_set(m, ERR_CONFIG, "node.name: empty");
    if (!is_static && strcmp(cfg->provider, "raft") != 0)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.provider: %s; known are static and raft",
                          cfg->provider);
    if (is_static)
        return check_members(cfg, m);
    if (cfg->voter != is_listed(cfg))
        return errmsg_set(m, ERR_CONFIG,
                          cfg->voter ? "cluster.voters: this node, %s, is to "
                                       "be a voter and is not listed"
                                     : "cluster.voters: %s is listed, and this "
                                       "node is not to be a voter",
                          cfg->self.name);
    return check_voters(cfg, m);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

uint64_t cl_voters_hash(const struct cluster_cfg *cfg)
{
    const char *names[VIEW_VOTERS_MAX];
    uint64_t h = 0;

    for (uint32_t i = 0; i < cfg->voter_n; i++)
        names[i] = cfg->voters[i].name;
    qsort(names, cfg->voter_n, sizeof(*names), by_name);
    for (uint32_t i = 0; i < cfg->voter_n; i++)
        h = hash_64(h, names[i], strlen(names[i]) + 1);
    return h;
}

/* ---- Hello ---- */

void cluster_hello(const struct cluster *c, struct bytes *out)
{
    Peer__Hello m = PEER__HELLO__INIT;
    Peer__Address at = PEER__ADDRESS__INIT;
    struct node n = c->cfg.self;

    at.peer = n.peer;
    at.shm = n.shm;
    at.ucx = n.ucx;
    at.lanes = n.lane_n;
    at.host = n.host;
    m.version = HELLO_VERSION;
    m.cluster = c->cluster;
    m.generation = cl_view(c)->generation;
    m.name = n.name;
    m.uuid = n.uuid;
    m.incarnation = n.incarnation;
    m.zone = n.zone;
    m.rack = n.rack;
    m.weight = n.weight;
    m.at = &at;
    m.epoch = cl_view(c)->epoch;
    m.voter = c->cfg.voter && !c->fenced;
    m.raft_id = c->raft_id;
    m.voters = c->voters_hash;
    if (peer_msg_pack(PEER_HELLO, &m, out) != OK)
        out->bad = true;
}

static void hello_node(const Peer__Hello *m, struct node *out)
{
    *out = (struct node){
        .uuid = m->uuid,
        .incarnation = m->incarnation,
        .voter = m->voter,
        .weight = m->weight,
        .state = NODE_JOINING,
    };
    snprintf(out->name, sizeof(out->name), "%s", m->name);
    snprintf(out->zone, sizeof(out->zone), "%s", m->zone);
    snprintf(out->rack, sizeof(out->rack), "%s", m->rack);
    if (!m->at)
        return;
    snprintf(out->peer, sizeof(out->peer), "%s", m->at->peer);
    snprintf(out->shm, sizeof(out->shm), "%s", m->at->shm);
    snprintf(out->ucx, sizeof(out->ucx), "%s", m->at->ucx);
    out->lane_n = (uint16_t)min_u64(m->at->lanes, NODE_LANES_MAX + 1);
    out->host = m->at->host;
}

bool cl_hello_of(const uint8_t *p, size_t n, struct node *who_out,
                 uint32_t *generation_out)
{
    Peer__Hello *m = peer_msg_unpack(PEER_HELLO, p, n);

    if (!m)
        return false;
    hello_node(m, who_out);
    *generation_out = m->generation;
    peer_msg_free(m);
    return true;
}

/* Does what it says of itself agree with the view? */
static enum err check_member(const struct cluster *c, const Peer__Hello *m,
                             struct errmsg *msg)
{
    const struct view *v = cl_view(c);
    uint16_t i = view_find(v, m->name);

    if (strcmp(m->name, c->cfg.self.name) == 0)
        return errmsg_set(msg, ERR_DENIED,
                          "it says that it is %s, which is this node's own "
                          "name: give one of them another node.name", m->name);
    if (i == NODE_NONE)
        return OK;
    if (v->nodes[i].uuid && v->nodes[i].uuid != m->uuid)
        return errmsg_set(msg, ERR_DENIED,
                          "the name %s belongs to another machine; choose "
                          "another node.name, or remove the old one: pikvctl "
                          "node remove %s", m->name, m->name);
    if (m->incarnation < v->nodes[i].incarnation)
        return errmsg_set(msg, ERR_DENIED,
                          "%s starts for the %uth time, but the cluster has "
                          "seen its start number %u: its state_dir was rolled "
                          "back to an old copy; remove it and join anew: "
                          "pikvctl node remove %s",
                          m->name, m->incarnation, v->nodes[i].incarnation,
                          m->name);
    return OK;
}

static enum err check_hello(const struct cluster *c, const Peer__Hello *m,
                            struct errmsg *msg)
{
    if (m->version != HELLO_VERSION)
        return errmsg_set(msg, ERR_BAD_VERSION,
                          "peer protocol version %u, this daemon speaks %d",
                          m->version, HELLO_VERSION);
    if (m->cluster != c->cluster)
        return errmsg_set(msg, ERR_DENIED,
                          "another cluster's id (cluster.id differs from %s)",
                          c->cfg.id);
    if (!m->name[0] || !m->at || !m->at->peer[0] || m->at->lanes < 1 ||
        m->at->lanes > NODE_LANES_MAX || m->weight < 1)
        return errmsg_set(msg, ERR_BAD_REQUEST,
                          "hello lacks a name, an address, lanes or a weight");
    if (m->voters != c->voters_hash &&
        (m->epoch == 0 || cl_view(c)->epoch == 0))
        return errmsg_set(msg, ERR_DENIED,
                          "cluster.voters of %s differs from that of %s: all "
                          "nodes need the same list", m->name,
                          c->cfg.self.name);
    return check_member(c, m, msg);
}

enum err cluster_hello_check(const struct cluster *c, const uint8_t *p,
                             size_t n, struct node *who_out, struct errmsg *m)
{
    Peer__Hello *h = peer_msg_unpack(PEER_HELLO, p, n);
    enum err e;

    if (!h)
        return errmsg_set(m, ERR_BAD_REQUEST, "malformed hello");
    e = check_hello(c, h, m);
    if (e == OK)
        hello_node(h, who_out);
    peer_msg_free(h);
    return e;
}
