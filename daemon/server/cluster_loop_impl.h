/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of cluster_loop share:
 *   cluster_loop.c       open, close, timers, actions, calls that wait
 *   cluster_loop_links.c links to other daemons
 *   cluster_loop_views.c a view to the lanes, the puller, the disk
 *   cluster_loop_look.c  what the admin pages ask
 *   cluster_loop_boot.c  identity, addresses, what struct cluster is told
 *   cluster_loop_load.c  this node's figures, twice a second
 *   cluster_loop_ask.c   operators: what they see and change
 *   cluster_loop_plan.c  placement, for operators
 *   cluster_loop_experts.c  loads of experts, from engines and for operators
 */
#ifndef SERVER_CLUSTER_LOOP_IMPL_H
#define SERVER_CLUSTER_LOOP_IMPL_H

#include <pthread.h>
#include <uv.h>

#include "cluster/experts.h"
#include "pikv.pb-c.h"
#include "server/cluster_loop.h"
#include "server/heat.h"
#include "server/peer_link.h"
#include "server/puller.h"
#include "server/raft_disk.h"

enum {
    CLUSTER_EVENTS = 256, /* lines that are kept for operators */
    CLUSTER_LOAD_MS = 500,
    CLUSTER_PATH = CONFIG_STRING + 32,
};

struct cluster_line {
    uint64_t seq, when_ms;
    int level;
    char text[256];
};

/* Rates from counters, decayed. */
struct cluster_rates {
    uint64_t at_ms;
    uint64_t ops, bytes, misses; /* counters at at_ms */
    struct hist get;             /* likewise */
    struct heat_sum heat;
};

struct cluster_loop {
    struct cluster_loop_cfg cfg;
    const struct config *conf;
    struct cluster *cluster;
    struct peer_links *links;
    struct puller *puller;
    struct raft_disk disk; /* voters; else zeros */
    uint64_t host; /* of this machine, as told to others */
    uv_timer_t tick, load_timer;
    uv_async_t wake;
    uint32_t handles; /* that are not closed yet */
    bool links_closed, cluster_closed, closing, fatal_said;

    struct view *unsent; /* a view that found no job for the lanes */
    bool flushes_due, puller_told;
    struct cluster_load load; /* the last one told */
    struct cluster_rates rates;
    struct experts experts; /* leader: what all nodes said */
    uint64_t experts_ms;    /* they were decayed then */

    struct ctl_call *calls; /* that wait for an answer, by ticket */
    uint64_t tickets;

    struct cluster_line lines[CLUSTER_EVENTS];
    uint64_t line_n; /* ever; line i is lines[i % CLUSTER_EVENTS] */

    /* The view file: written by a worker, the newest view only. */
    uv_work_t write;
    struct bytes writing, to_write;
    bool write_busy;
    char view_path[CLUSTER_PATH], id_path[CLUSTER_PATH];
    char raft_path[CLUSTER_PATH], recover_path[CLUSTER_PATH];

    /* Slots that the puller has brought, from its thread. */
    pthread_mutex_t moved_mu;
    struct cluster_moved {
        uint32_t slot;
        uint64_t epoch;
    } *moved;
    uint32_t moved_n, moved_cap;
};

uint64_t cluster_now_ms(void);
/* One event in, the actions out. */
void cluster_loop_step(struct cluster_loop *cl, const struct cluster_event *ev);
/* A line for the log and for operators. */
void cluster_loop_say(struct cluster_loop *cl, int level, const char *text);
/* A command on its way, for a call of an op. */
void cluster_loop_propose(struct cluster_loop *cl, struct ctl_call *call,
                          struct cmd *cmd);
/* Remembers a call under a new ticket. */
uint64_t cluster_loop_ticket(struct cluster_loop *cl, struct ctl_call *call);

/* ---- cluster_loop_links.c ---- */

must_check enum err cluster_links_open(struct cluster_loop *cl,
                                       struct errmsg *m);
/* control_cluster.reloaded: new certificates and keys. */
void cluster_links_reloaded(void *arg);

/* ---- cluster_loop_views.c ---- */

void cluster_views_publish(struct cluster_loop *cl, const struct view *v);
/* What could not be sent yet. */
void cluster_views_send(struct cluster_loop *cl);
void cluster_view_drop(struct view *v); /* malloc'ed; NULL is fine */

/* ---- cluster_loop_boot.c ---- */

/* Paths, identity (durable), and what struct cluster is told; last: malloc'ed
 * or NULL, the caller's, likewise cfg->members. */
must_check enum err cluster_boot(struct cluster_loop *cl,
                                 struct cluster_cfg *cfg, struct view **last,
                                 struct errmsg *m);
/* The start succeeded: a `recover` that was asked for is done. */
void cluster_boot_done(struct cluster_loop *cl, const struct cluster_cfg *cfg);

/* ---- cluster_loop_load.c ---- */

must_check enum err cluster_load_init(struct cluster_loop *cl);
void cluster_load_fini(struct cluster_loop *cl);
/* Fills cl->load. */
void cluster_load_take(struct cluster_loop *cl);
/* Fills the metrics of the cluster. */
void cluster_load_count(struct cluster_loop *cl);

/* ---- cluster_loop_ask.c ---- */

/* Answers, or proposes and answers later. */
void cluster_ask(void *arg, struct ctl_call *call);
/* A command's answer, or CANCELED. */
void cluster_answered(struct cluster_loop *cl, struct ctl_call *call,
                      const struct answer *a);
/* Packs a reply into the call's room and answers it. */
void cluster_reply(struct ctl_call *call, Pikv__ClusterReply *rep);
void cluster_refuse(struct ctl_call *call, enum err e, const char *fmt, ...)
    printf_like(3, 4);

/* ---- cluster_loop_plan.c ---- */

void cluster_plan(struct cluster_loop *cl, struct ctl_call *call, bool apply);

/* ---- cluster_loop_experts.c ---- */

/* control_cluster.feedback */
enum err cluster_feedback(void *arg, const struct registry_ns *ns,
                          const Pikv__Feedback *m);
/* Takes over what beats brought to this node, if it leads. */
void cluster_experts_collect(struct cluster_loop *cl);
/* EXPERTS, EXPERTS_PLAN */
void cluster_experts(struct cluster_loop *cl, struct ctl_call *call);

#endif
