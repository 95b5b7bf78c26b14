/* SPDX-License-Identifier: Apache-2.0
 *
 * The mail between lanes and control, both ways.
 *
 *   op (lane)  --- struct ctl_call ---> control      "open this namespace"
 *                                          |  struct ctl_job, one ctl_ask each
 *                        lane 0 <----------+----------> lane n   lane_*_mail()
 *                           \------- ctl_ack() ---------/
 *   op (lane)  <--- the same ctl_call ---  control    when all lanes acked
 *
 * Owners: a ctl_call is embedded in the asking op's state and stays until its
 * done runs; control always answers. A ctl_job is control's, from a pool; what
 * it points to lasts until the last lane acked, so a lane copies what it keeps.
 *
 * Room: every sender has a bounded number of messages under way, so posts
 * never fail when the mailboxes hold
 *   control  CTL_MAIL_CONTROL(lanes, ops_per_lane)
 *   a lane   ops_per_lane + CTL_JOBS, beside what lanes send each other */
#ifndef SERVER_CTL_MAIL_H
#define SERVER_CTL_MAIL_H

#include "base/mailbox.h"
#include "server/registry.h"
#include "store/seglog.h"

struct lane;
struct control;
struct view;

enum {
    CTL_JOBS = 32,        /* questions to all lanes at the same time */
    CTL_CLIENTS_MAX = 64, /* clients a lane tells of in one answer */
};

#define CTL_MAIL_CONTROL(lanes, ops_per_lane)                                  \
    ((uint32_t)(lanes) * ((uint32_t)(ops_per_lane) + CTL_JOBS))

enum ctl_what {
    CTL_OPEN,      /* request: const Pikv__Open * */
    CTL_NAMESPACE, /* request: const Pikv__NamespaceRequest * */
    CTL_RELOAD,    /* request: NULL */
    CTL_SSD,       /* request: const Pikv__SsdRequest * */
    CTL_CLUSTER,   /* request: const Pikv__ClusterRequest * */
    CTL_FEEDBACK,  /* request: const Pikv__Feedback *: loads of experts */
};

struct ctl_usage {
    uint64_t blocks, bytes, share_bytes; /* in memory */
    uint64_t ssd_blocks, ssd_bytes;      /* with a place on an SSD */
};

struct ctl_ssd { /* one SSD of an answer, by number */
    struct seglog_info info;
    struct errmsg msg; /* why it could not be opened, or "" */
};

struct ctl_ns { /* one namespace of an answer */
    struct registry_ns ns;
    struct ctl_usage usage; /* of all lanes; zeros after OPEN */
};

struct ctl_reload { /* rows of the static table */
    uint32_t changed_n, restart_n;
    const struct config_row *changed[CONFIG_ROWS]; /* applied everywhere */
    const struct config_row *restart[CONFIG_ROWS]; /* need a restart */
};

struct ctl_call {
    struct mail mail;  /* ctl_call_post sets it up */
    struct lane *lane; /* who asks */
    enum ctl_what what;
    const void *request; /* the op's, unchanged until the answer */
    mail_fn *done;       /* run by the lane with mail; container_of leads to
                            the call */
    struct ctl_ns *ns;   /* the op's: room for the answer */
    uint32_t ns_cap;     /* OPEN: 1; NAMESPACE: 1 or as many as fit */
    struct ctl_reload *reload; /* CTL_RELOAD: the op's */
    struct ctl_ssd *ssds;      /* CTL_SSD: the op's, DISK_DEVS of them */
    uint8_t *reply;            /* CTL_CLUSTER: the op's, of reply_cap bytes */
    uint32_t reply_cap;
    /* The answer: */
    enum err err;
    struct errmsg msg; /* "" or which field and what is allowed */
    bool created;      /* OPEN */
    struct registry_mismatch mismatch; /* OPEN: err = ERR_MISMATCH */
    uint32_t ns_n;                     /* namespaces given; more are left out */
    uint32_t ns_total;
    bool everywhere;  /* NAMESPACE: the bump is all nodes' */
    uint32_t reply_n; /* CTL_CLUSTER: a packed Pikv__ClusterReply */
    /* Control's, while the call waits for the cluster: */
    struct ctl_call *next;
    uint64_t ticket;
};

/* Lane's thread: sends the call. The op fills lane, what, request, done, and
 * the room for the answer. */
void ctl_call_post(struct ctl_call *call);

struct ctl_job;

struct ctl_client {        /* what `clients` shows of one connection */
    Pikv__ClientInfo info; /* strings point to the two below */
    char transport[8], engine[64];
};

/* A job as one lane sees it. */
struct ctl_ask {
    struct mail mail;
    struct ctl_job *job;
    uint32_t lane; /* index */
    enum err err;  /* set by ctl_ack */
};

/* What is asked of every lane. Which members are set depends on the lane
 * function that it is sent to:
 *   lane_ns_mail      ns, store: know this namespace so from now on
 *   lane_config_mail  cfg: use this configuration; drop the pointer to the old
 *   lane_view_mail    view, self_node: the cluster's view from now on; drop the
 *                     pointer to the old
 *   lane_usage_mail   usage[lane * usage_n ...]: fill for ids 1..usage_n
 *   lane_clients_mail clients[lane]: fill up to CTL_CLIENTS_MAX, client_n[lane]
 *   lane_ping_mail    nothing: the lane is alive
 *   lane_drain_mail   nothing: stop taking new work (lane_drain)
 *   lane_ssd_info_mail     ssds[]: fill those whose logs the lane owns
 *   lane_ssd_retire_mail   ssd_dev: its owner begins to empty it
 *   lane_ssd_forget_mail   ssd_dev: everything on it is gone
 *   lane_ssd_replace_mail  ssd_dev, ssd_uuid: its owner formats it anew */
struct ctl_job {
    struct control *control;
    const struct registry_ns *ns;
    const struct store_ns_cfg *store;
    const struct config *cfg;
    const struct view *view;
    uint16_t self_node;
    struct ctl_usage *usage;
    uint32_t usage_n;
    struct ctl_client (*clients)[CTL_CLIENTS_MAX];
    uint32_t *client_n;
    struct ctl_ssd *ssds;
    uint32_t ssd_dev;
    uint8_t ssd_uuid[16];
    /* Control's own: */
    uint32_t left; /* lanes that have not acked */
    enum err err;  /* the first that was not OK, by lane */
    struct ctl_call *call;
    void (*done)(struct ctl_job *job); /* control's thread, all acked */
    void *arg;
    struct registry_ns ns_copy;
    struct store_ns_cfg store_copy;
    struct config *old; /* freed when no lane uses it */
    struct view *old_view; /* likewise */
    struct ctl_ask asks[UNIT_LANES_MAX];
};

static inline struct ctl_ask *ctl_ask_of(struct mail *m)
{
    return container_of(m, struct ctl_ask, mail);
}

static inline struct ctl_call *ctl_call_of(struct mail *m)
{
    return container_of(m, struct ctl_call, mail);
}

/* The lane's side: run on the lane with its struct lane. Each ends with
 * ctl_ack(), once, in the same call or later. */
void lane_ns_mail(struct mail *m, void *lane);
void lane_config_mail(struct mail *m, void *lane);
void lane_view_mail(struct mail *m, void *lane);
void lane_usage_mail(struct mail *m, void *lane);
void lane_clients_mail(struct mail *m, void *lane);
void lane_ping_mail(struct mail *m, void *lane);
void lane_drain_mail(struct mail *m, void *lane);
void lane_ssd_info_mail(struct mail *m, void *lane);
void lane_ssd_retire_mail(struct mail *m, void *lane);
void lane_ssd_forget_mail(struct mail *m, void *lane);
void lane_ssd_replace_mail(struct mail *m, void *lane);
/* Lane's thread: the answer to control. The ask is control's from here on. */
void ctl_ack(struct ctl_ask *ask, enum err e);

#endif
