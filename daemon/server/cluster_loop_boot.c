/* SPDX-License-Identifier: Apache-2.0
 *
 * Who this node is and what it is told (cluster_loop.h): the identity of
 * state_dir, its addresses, the lists of the configuration.
 *
 *   cluster.json  {"format": 1, "cluster": "ID", "uuid": "hex",
 *                  "incarnation": N}
 *
 * The incarnation is made durable before the node says anything, so two starts
 * never share one, whatever happens in between. A file of another cluster is
 * an error: its blocks and its log are not this one's. The last view is a help
 * only: one that cannot be read is said and forgotten. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "server/cluster_loop_impl.h"
#include "server/files.h"
#include "server/lane.h"

enum { ID_FORMAT = 1, ID_BYTES = 4096, VIEW_BYTES = 16 << 20 };

/* ---- Identity ------------------------------------------------------------ */

struct identity {
    uint64_t uuid;
    uint32_t incarnation; /* of the last start; 0: none */
};

static enum err id_parse(json_t *o, const char *cluster, struct identity *out,
                         struct errmsg *m)
{
    const char *name = json_string_value(json_object_get(o, "cluster"));
    const char *uuid = json_string_value(json_object_get(o, "uuid"));
    json_int_t inc = json_integer_value(json_object_get(o, "incarnation"));
    json_int_t format = json_integer_value(json_object_get(o, "format"));

    if (format != ID_FORMAT || !name || !uuid || inc < 1 ||
        inc >= (json_int_t)UINT32_MAX)
        return errmsg_set(m, ERR_CONFIG, "not an identity of format %d",
                          ID_FORMAT);
    if (strcmp(name, cluster) != 0)
        return errmsg_set(m, ERR_CONFIG,
                          "this node belongs to cluster \"%.64s\"; fix: set "
                          "cluster.id to it, or give the node an empty "
                          "node.state_dir",
                          name);
    if (sscanf(uuid, "%16" SCNx64, &out->uuid) != 1 || !out->uuid)
        return errmsg_set(m, ERR_CONFIG, "uuid: not 16 hex digits");
    out->incarnation = (uint32_t)inc;
    return OK;
}

static enum err id_load(const char *path, const char *cluster,
                        struct identity *out, struct errmsg *m)
{
    char *text;
    size_t len;
    json_t *o;
    enum err e;

    if (access(path, F_OK) != 0 && errno == ENOENT) {
        do
            e = files_random(&out->uuid, sizeof(out->uuid));
        while (!e && !out->uuid);
        return e ? errmsg_set(m, e, "no random bytes") : OK;
    }
    e = files_read(path, ID_BYTES, &text, &len, m);
    if (e)
        return e;
    o = json_loadb(text, len, 0, NULL);
    e = id_parse(o, cluster, out, m);
    json_decref(o);
    free(text);
    return e ? errmsg_wrap(m, e, "%s", path) : OK;
}

static enum err id_next(struct cluster_loop *cl, struct identity *id,
                        struct errmsg *m)
{
    char text[256];
    int n;
    enum err e = id_load(cl->id_path, cl->conf->cluster.id, id, m);

    if (e)
        return e;
    id->incarnation++;
    n = snprintf(text, sizeof(text),
                 "{\"format\": %d, \"cluster\": \"%s\", \"uuid\": \"%016" PRIx64
                 "\", \"incarnation\": %u}\n",
                 ID_FORMAT, cl->conf->cluster.id, id->uuid, id->incarnation);
    return files_replace(cl->id_path, text, (size_t)n, m);
}

/* ---- Addresses ----------------------------------------------------------- */

/* The same for all daemons of a machine, another one for each boot of it. */
static uint64_t host_of_boot(void)
{
    struct errmsg m;
    char *text;
    size_t len;
    uint64_t host = 1;

    if (files_read("/proc/sys/kernel/random/boot_id", 128, &text, &len, &m))
        return 0;
    host = hash_64(0, text, len);
    free(text);
    return host ? host : 1;
}

static const struct config_node *listed(const struct config_nodes *l,
                                        const char *name)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (strcmp(l->node[i].name, name) == 0)
            return &l->node[i];
    return NULL;
}

static void self_peer(const struct config *c, const struct config_node *mine,
                      char to[NODE_ADDR_MAX])
{
    bool colons = strchr(c->cluster.host, ':');

    if (c->cluster.advertise.peer[0])
        snprintf(to, NODE_ADDR_MAX, "%.120s", c->cluster.advertise.peer);
    else if (mine)
        snprintf(to, NODE_ADDR_MAX, "%s", mine->peer);
    else
        snprintf(to, NODE_ADDR_MAX, colons ? "[%.110s]:%u" : "%.110s:%u",
                 c->cluster.host, (unsigned)c->cluster.port);
}

static uint32_t self_weight(const struct cluster_loop *cl)
{
    const struct lane *l = cl->cfg.control->lanes[0];
    uint64_t mib = (l->dram_bytes + l->ssd_bytes) / MIB(1);

    if (cl->conf->cluster.weight)
        mib = cl->conf->cluster.weight;
    return (uint32_t)min_u64(max_u64(mib, 1), UINT32_MAX);
}

static enum err self_node(struct cluster_loop *cl, const struct identity *id,
                          const struct config_nodes *all, struct node *n,
                          struct errmsg *m)
{
    const struct config *c = cl->conf;
    const struct lane *l = cl->cfg.control->lanes[0];

    if (!config_node_name(c->node.name))
        return errmsg_set(m, ERR_CONFIG,
                          "node.name: \"%s\", the host's name, is no name for "
                          "a node of a cluster; fix: set node.name to letters, "
                          "digits, dots, dashes, underscores",
                          c->node.name);
    snprintf(n->name, sizeof(n->name), "%.63s", c->node.name);
    n->uuid = id->uuid;
    n->incarnation = id->incarnation;
    n->lane_n = (uint16_t)l->lanes;
    n->weight = self_weight(cl);
    snprintf(n->zone, sizeof(n->zone), "%.63s", c->cluster.zone);
    snprintf(n->rack, sizeof(n->rack), "%.63s", c->cluster.rack);
    self_peer(c, listed(all, n->name), n->peer);
    snprintf(n->shm, sizeof(n->shm), "%s", l->addr_shm);
    snprintf(n->ucx, sizeof(n->ucx), "%s", l->addr_ucx);
    n->host = host_of_boot();
    return OK;
}

/* ---- Lists --------------------------------------------------------------- */

static void boot_voters(const struct config_nodes *l, struct cluster_cfg *cfg)
{
    for (uint32_t i = 0; i < l->n; i++) {
        struct coord_voter *v = &cfg->voters[cfg->voter_n++];

        v->id = hash_64(0, l->node[i].name, strlen(l->node[i].name));
        snprintf(v->name, sizeof(v->name), "%s", l->node[i].name);
        snprintf(v->peer, sizeof(v->peer), "%s", l->node[i].peer);
        cfg->voter |= strcmp(v->name, cfg->self.name) == 0;
    }
}

/* By the list, which all have: nodes with one host are on one machine. */
static uint64_t host_of_list(const char *peer)
{
    const char *colon = strrchr(peer, ':');

    return hash_64(1, peer, (size_t)(colon - peer)) | 1;
}

/* The list is the cluster. */
static enum err boot_members(const struct config_nodes *l,
                             struct cluster_cfg *cfg, struct errmsg *m)
{
    struct node *all = calloc(l->n, sizeof(*all));
    struct node *mine = NULL;

    cfg->members = all;
    if (!all)
        return errmsg_set(m, ERR_NO_MEMORY, "no memory for cluster.nodes");
    for (uint32_t i = 0; i < l->n; i++) {
        struct node *n = &all[cfg->member_n++];
        const struct config_node *from = &l->node[i];

        snprintf(n->name, sizeof(n->name), "%s", from->name);
        snprintf(n->peer, sizeof(n->peer), "%s", from->peer);
        snprintf(n->shm, sizeof(n->shm), "%s", from->shm);
        snprintf(n->ucx, sizeof(n->ucx), "%s", from->ucx);
        n->lane_n = (uint16_t)from->lanes;
        n->weight = 1;
        n->host = host_of_list(n->peer);
        n->state = NODE_UP;
        if (strcmp(n->name, cfg->self.name) == 0)
            mine = n;
    }
    if (!mine)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.nodes: this node, \"%s\", is not among "
                          "them; fix: add it, or set node.name",
                          cfg->self.name);
    if (mine->lane_n != cfg->self.lane_n)
        return errmsg_set(m, ERR_CONFIG,
                          "cluster.nodes: \"%s\" has lanes:%u, and %u here; "
                          "fix: set node.lanes and the list alike",
                          mine->name, mine->lane_n, cfg->self.lane_n);
    cfg->self.host = mine->host;
    return OK;
}

static enum err boot_lists(struct cluster_loop *cl, struct cluster_cfg *cfg,
                           const struct identity *id, struct errmsg *m)
{
    const struct config *c = cl->conf;
    bool raft = c->cluster.provider == PROVIDER_RAFT;
    struct config_nodes l;
    enum err e;

    e = config_nodes(raft ? c->cluster.voters : c->cluster.nodes, !raft, &l, m);
    if (!e)
        e = self_node(cl, id, &l, &cfg->self, m);
    if (e)
        return e;
    cfg->provider = raft ? "raft" : "static";
    if (!raft)
        return boot_members(&l, cfg, m);
    boot_voters(&l, cfg);
    cfg->self.voter = cfg->voter;
    return OK;
}

/* ---- The last view ------------------------------------------------------- */

static struct view *view_load(const char *path, const char *cluster)
{
    struct errmsg m = {""};
    struct view *v = NULL;
    char *text;
    size_t len;

    if (access(path, F_OK) != 0)
        return NULL;
    if (files_read(path, VIEW_BYTES, &text, &len, &m) == OK) {
        v = calloc(1, sizeof(*v));
        if (v && (view_init(v) || view_decode(v, (uint8_t *)text, len))) {
            view_fini(v);
            free(v);
            v = NULL;
        }
        free(text);
    }
    if (!v)
        LOG(LOG_WARN, "view_unusable", "path=%s error=%s", LOG_STR(path),
            LOG_STR(m.text[0] ? m.text : "not a view"));
    else
        LOG(LOG_INFO, "view_loaded", "cluster=%s epoch=%" PRIu64 " nodes=%u",
            cluster, v->epoch, v->node_n);
    return v;
}

/* ---- All of it ----------------------------------------------------------- */

static void boot_paths(struct cluster_loop *cl)
{
    const char *dir = cl->conf->node.state_dir;

    snprintf(cl->id_path, CLUSTER_PATH, "%s/cluster.json", dir);
    snprintf(cl->view_path, CLUSTER_PATH, "%s/cluster.view", dir);
    snprintf(cl->raft_path, CLUSTER_PATH, "%s/raft", dir);
    snprintf(cl->recover_path, CLUSTER_PATH, "%s/recover", dir);
}

static void boot_numbers(const struct config *c, struct cluster_cfg *cfg)
{
    cfg->times = (struct cluster_times){
        .beat = (uint32_t)(c->cluster.beat_us / 1000),
        .suspect = (uint32_t)(c->cluster.suspect_us / 1000),
        .down = (uint32_t)(c->cluster.down_us / 1000),
        .removed = (uint32_t)(c->cluster.removed_us / 1000),
        .election = (uint32_t)(c->cluster.election_us / 1000),
        .heartbeat = (uint32_t)(c->cluster.heartbeat_us / 1000),
    };
    cfg->move_slots = (uint32_t)c->cluster.move_slots;
    cfg->no_balance = !c->cluster.balance;
    snprintf(cfg->id, sizeof(cfg->id), "%.63s", c->cluster.id);
}

enum err cluster_boot(struct cluster_loop *cl, struct cluster_cfg *cfg,
                      struct view **last, struct errmsg *m)
{
    struct identity id = {0};
    enum err e;

    boot_paths(cl);
    boot_numbers(cl->conf, cfg);
    e = id_next(cl, &id, m);
    if (!e)
        e = boot_lists(cl, cfg, &id, m);
    if (!e && files_random(&cfg->seed, sizeof(cfg->seed)))
        e = errmsg_set(m, ERR_IO, "no random bytes");
    if (e)
        return e;
    cfg->recover = cfg->voter && access(cl->recover_path, F_OK) == 0;
    *last = view_load(cl->view_path, cfg->id);
    cfg->last = *last;
    LOG(LOG_NOTICE, "cluster_node",
        "cluster=%s node=%s incarnation=%u voter=%d peer=%s provider=%s",
        cfg->id, cfg->self.name, cfg->self.incarnation, cfg->voter,
        LOG_STR(cfg->self.peer), cfg->provider);
    return OK;
}

void cluster_boot_done(struct cluster_loop *cl, const struct cluster_cfg *cfg)
{
    if (!cfg->recover)
        return;
    if (unlink(cl->recover_path) != 0)
        LOG(LOG_WARN, "recover_stays", "path=%s error=%s",
            LOG_STR(cl->recover_path), strerror(errno));
    LOG(LOG_WARN, "cluster_recovered", "node=%s goes on alone",
        cfg->self.name);
}
