/* SPDX-License-Identifier: Apache-2.0
 *
 * The node's part in its cluster, on the control thread's loop (shell): gives
 * cluster/ its events and does what it says.
 *
 *     links (peer_link.h) --hello, messages--> struct cluster --> SEND, DIAL
 *     timers ------------tick, load figures-->        |
 *     lanes' ops --CTL_CLUSTER, flushes------>        |
 *     puller --slots that are here----------->        +--PUBLISH--> lanes,
 *     disk of the voters (raft_disk.h) <----->                puller, view file
 *
 * What it keeps in node.state_dir:
 *     cluster.json   who this node is: uuid, and its incarnation, which is one
 *                    more at every start, durable before anybody hears of it
 *     cluster.view   the last view, so that a node that starts without a leader
 *                    serves what is its
 *     raft/          the voters' log
 *     recover        `pikvctl coord recover` was said: the next start goes on
 *                    alone, as a new generation
 *
 * Opened before the lanes' threads start, so that a lane has the last view
 * before its first request; closed when they have ended. A failure of the
 * voters' disk ends the process (cfg.fatal). */
#ifndef SERVER_CLUSTER_LOOP_H
#define SERVER_CLUSTER_LOOP_H

#include "cluster/cluster.h"
#include "server/control.h"

struct cluster_loop;
struct uv_loop_s;

struct cluster_loop_cfg {
    struct control *control;
    struct uv_loop_s *uv;
    struct metrics *metrics; /* the counters beside the lanes */
    /* The process must end, and not as if all were well. */
    void (*fatal)(void *arg);
    void *arg;
};

/* CONFIG, BUSY (an address), IO: in words. */
must_check enum err cluster_loop_open(struct cluster_loop **out,
                                      const struct cluster_loop_cfg *cfg,
                                      struct errmsg *m);
/* An orderly stop begins: who leads offers that to another, calls that wait for
 * the cluster are answered. NULL is fine. */
void cluster_loop_drain(struct cluster_loop *cl);
/* Runs the loop until everything of it is closed. NULL is fine. */
void cluster_loop_close(struct cluster_loop *cl);

/* For /readyz and the status page. */
void cluster_loop_status(const struct cluster_loop *cl,
                         struct cluster_status *out);
const char *cluster_phase_name(enum cluster_phase p);
const struct view *cluster_loop_view(const struct cluster_loop *cl);

#endif
