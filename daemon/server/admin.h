/* SPDX-License-Identifier: Apache-2.0
 *
 * HTTP for operators, on the control thread's loop (shell). Read-only:
 *
 *   /metrics          Prometheus text 0.0.4, or OpenMetrics 1.0 by Accept
 *   /livez            200 while every lane turns
 *   /readyz, /healthz 200 while it serves; ?verbose lists the named checks
 *   /api/v1/status    what there is, as JSON
 *
 * No authentication: it binds loopback unless listen.admin.insecure says
 * otherwise. A page needs no lock and stops no lane: counters are read where
 * they are, and what only a lane knows is asked by mail; a lane that does not
 * answer within ADMIN_WAIT_MS is left out and the page says so. */
#ifndef SERVER_ADMIN_H
#define SERVER_ADMIN_H

#include "server/control.h"
#include "server/files.h"
#include "server/loop_control.h"

enum {
    ADMIN_CONNECTIONS = 16,
    ADMIN_MEMORY = 16 << 10, /* bytes of a request and its headers */
    ADMIN_IDLE_S = 10,       /* a connection that says nothing */
    ADMIN_WAIT_MS = 500,
};

struct admin;

struct admin_cfg {
    struct control *control;
    struct loop_control *loop;
    const struct arena_map *arenas; /* [0]: the shared pool */
    uint32_t arena_n;
    const struct ssd_node *ssd; /* or NULL; n 0: none */
    const struct cluster_loop *cluster; /* NULL: a single node */
};

/* Listens at listen.admin. ERR_BUSY: the port is taken. */
must_check enum err admin_open(struct admin **out, const struct admin_cfg *cfg,
                               struct errmsg *m);
/* Before loop_control_close, which lets it finish. NULL is fine. */
void admin_close(struct admin *a);

#endif
