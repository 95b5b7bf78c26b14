/* SPDX-License-Identifier: Apache-2.0
 *
 * What the daemon has once, owned by the control thread: the namespace
 * registry, the running configuration, the list of lanes. Lanes ask by mail
 * and get the answer by mail; a changed namespace is sent to all lanes and the
 * asker is answered when every lane has it, so that a client never meets a lane
 * that does not know what another lane told it.
 *
 * Pure: time and persistence come through struct control_shell, which main.c
 * or the simulator fills. Messages are in ctl_mail.h. */
#ifndef SERVER_CONTROL_H
#define SERVER_CONTROL_H

#include "base/mailbox.h"
#include "server/config.h"
#include "server/ctl_mail.h"
#include "server/registry.h"

struct lane;
struct view;

struct control_shell {
    /* Makes the registry durable before OPEN or a bump is answered; ERR_IO
     * fails the call and changes nothing. NULL: no state_dir. */
    enum err (*save)(void *arg, const char *text, size_t len);
    /* SIGHUP, RELOAD: loads and checks a new configuration; NULL in tests. */
    enum err (*reload)(void *arg, struct config *out, struct errmsg *m);
    uint64_t (*random)(void *arg);
    void *arg;
    uint64_t wall_us; /* at boot: where generations start (registry.h) */
};

/* The daemon's part in a cluster (cluster_loop.h); each of these answers the
 * call, now or later. NULL: a single node. */
struct control_cluster {
    /* CTL_CLUSTER */
    void (*ask)(void *arg, struct ctl_call *call);
    /* The namespace of a CTL_NAMESPACE call is to be flushed on all nodes:
     * ends with control_flushed. */
    void (*flush)(void *arg, const char *name, struct ctl_call *call);
    /* The configuration was read again: certificates may be new. */
    void (*reloaded)(void *arg);
    /* Loads of experts, of a namespace's model (FEEDBACK). */
    enum err (*feedback)(void *arg, const struct registry_ns *ns,
                         const Pikv__Feedback *m);
    void *arg;
};

struct control {
    const struct config *cfg; /* the running one, given to lanes by mail */
    struct config *owned;     /* cfg if a reload made it, else NULL */
    struct mailbox mailbox;
    struct registry registry;
    struct lane *const *lanes;
    uint32_t lane_n;
    /* What is counted beside the lanes: of the door for Redis clients; NULL
     * none. Its writer is another thread, one for each counter. */
    const struct metrics *beside;
    struct control_shell shell;
    uint64_t boot; /* random id of this run */
    struct view *view; /* of the cluster, given to lanes by mail; NULL none */
    uint16_t self_node;
    struct control_cluster cluster;
    bool *settled; /* [id]: all lanes have the registry's copy */
    struct ctl_job *jobs;
    uint32_t free[CTL_JOBS], free_n; /* jobs to be had */
};

/* lanes[] may be filled later, before the first turn. */
must_check enum err control_init(struct control *c, const struct config *cfg,
                                 struct lane *const *lanes, uint32_t lane_n,
                                 const struct control_shell *shell);
/* No job is under way (control_idle) and no lane runs any more. */
void control_fini(struct control *c);
/* Tells every lane of every namespace of the registry, directly: before the
 * first turn, where blocks of them are recovered. */
must_check enum err control_tell_lanes(struct control *c);
/* Runs mail; true if there was some. */
bool control_turn(struct control *c);
/* Reads the configuration again. Keys that a running daemon can change are
 * applied everywhere or, on an error, none is; the others are named in report
 * (may be NULL) and stay as they were. */
must_check enum err control_reload(struct control *c, struct ctl_reload *report,
                                   struct errmsg *m);

/* Gives all lanes a newer view, malloc'ed and initialised, which becomes
 * control's; freed when every lane has its successor. self: this node's index
 * or NODE_NONE. BUSY: no job is free, the view is still the caller's. */
must_check enum err control_view(struct control *c, struct view *v,
                                 uint16_t self);

/* Obeys the flushes that a view tells of and that were not yet, before lanes
 * get it: BUSY or IO, try again later. */
must_check enum err control_flushes(struct control *c, const struct view *v);
/* The cluster has counted the flush that a call asked for: goes on with it. */
void control_flushed(struct control *c, struct ctl_call *call, enum err e,
                     uint64_t count);
/* Answers a call of CTL_CLUSTER. */
void control_answer(struct ctl_call *call, enum err e);

/* A question to all lanes (ctl_mail.h): get a job, fill its inputs, done and
 * arg, send it. done runs on this thread from a later control_turn, when all
 * lanes have acked, and ends with control_job_end or another send. NULL: all
 * are under way. */
struct ctl_job *control_job(struct control *c);
void control_job_send(struct ctl_job *job, mail_fn *lane_fn,
                      void (*done)(struct ctl_job *job));
void control_job_end(struct ctl_job *job);
/* No question is under way. */
bool control_idle(const struct control *c);

#endif
