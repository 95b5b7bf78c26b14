/* SPDX-License-Identifier: Apache-2.0
 *
 * What conn_ucx.c (messages and bytes) and conn_ucx_open.c (the worker,
 * endpoints) share. The invariants are conn_ucx.c's. With kv->mu. */
#ifndef CLIENT_CONN_UCX_H
#define CLIENT_CONN_UCX_H

#include <sys/socket.h>

#include "client/conn.h"
#include "client/ucx_api.h"

enum { AM_REQUEST = 1, AM_REPLY = 2 };

struct ucx {
    struct ucx_api api;
    ucp_context_h context;
    ucp_worker_h worker;
    int efd;
    bool copies;       /* invariant 6 */
    struct conn *head; /* the first connection: arms the worker for all */
};

struct ucx_conn {
    ucp_ep_h ep;
    void *closing; /* the close request */
    bool hang, failed;
    uint32_t pending; /* UCX requests of this connection */
    struct sockaddr_storage addr;
    socklen_t addr_len;
    char resolved[ADDR_MAX]; /* what addr was made of */
};

static inline struct ucx_conn *ucx_conn_of(const struct conn *c)
{
    return c->tp;
}

/* conn_ucx_open.c: rows of the table. */
enum err ucx_dial(struct conn *c);
void ucx_hang_up(struct conn *c);
bool ucx_quiet(struct conn *c);
/* Goes on with the closing that ucx_hang_up asked for. */
void ucx_close_ep(struct conn *c);
/* conn_ucx.c: every message and piece of data comes in here. */
ucs_status_t ucx_arrives(void *arg, const void *header, size_t header_len,
                         void *data, size_t len,
                         const ucp_am_recv_param_t *param);

#endif
