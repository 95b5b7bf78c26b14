/* SPDX-License-Identifier: Apache-2.0
 *
 * The UCX provider of transport.h: block traffic over fabrics and tcp, by
 * active messages only. What travels is described in transport.h ("How the
 * bytes move"); transport_ucx.c holds the essay on how it is done.
 *
 * For a client of this transport:
 *   id 1  client -> server, id 2  server -> client
 *   header    one wire_frame, 64 bytes, on every message
 *   flags     UCP_AM_SEND_FLAG_REPLY always (without it the server cannot know
 *             the sender and drops the message); requests and replies always
 *             UCP_AM_SEND_FLAG_EAGER
 *   GET data  any message of kind DATA may have a data_off other than 0, a
 *             rendezvous too: a block in several extents comes run by run */
#ifndef RPC_TRANSPORT_UCX_H
#define RPC_TRANSPORT_UCX_H

#include "rpc/transport.h"

enum { UCX_AM_REQUEST = 1, UCX_AM_REPLY = 2 };

/* Strings are borrowed until the call returns. */
struct transport_ucx_cfg {
    const char *host; /* address to bind */
    uint16_t port;    /* of this lane; 0: any (tests) */
    /* For transport_ucx_env only. */
    const char *tls;        /* "tcp" or "tcp,rc,ud" */
    const char *devices;    /* "" or NULL: all */
    const char *port_range; /* "first-last" of data connections, or NULL */
    /* Limits of one lane. */
    uint32_t peers_max;
    uint32_t sends_max;   /* UCX sends in flight: replies, pieces */
    uint32_t xfers_max;   /* pulls and pushes not completed */
    uint32_t held_max;    /* per peer: messages and data not asked for yet */
    uint64_t held_bytes;  /* per peer: bytes of those */
    uint32_t held_all;    /* sum of held over all peers */
    uint64_t inline_max;  /* bytes of block data in one message */
    uint64_t slice_bytes; /* bytes copied or checksummed per progress() */
};

/* Puts what UCX reads at start-up into the environment: once, in main, before
 * the first thread and the first open. ERR_CONFIG for a transport that cannot
 * survive the death of a peer. */
must_check enum err transport_ucx_env(const struct transport_ucx_cfg *cfg,
                                      struct errmsg *msg);

/* Context, worker and listener of one lane. from: events, lane, env, metrics,
 * trace, limits (ops is filled in). The calling thread owns the result, or the
 * thread that it is handed to before its first use. */
must_check enum err transport_ucx_open(const struct transport_ucx_cfg *cfg,
                                       const struct transport *from,
                                       struct transport **out,
                                       struct errmsg *msg);
/* Readable when there may be work; valid until close. */
int transport_ucx_fd(struct transport *t);
/* Where it listens (for port 0). */
uint16_t transport_ucx_port(struct transport *t);
/* Cuts the peers that are left (their events come from here), stops listening
 * and frees all. t may be NULL. */
void transport_ucx_close(struct transport *t);

#endif
