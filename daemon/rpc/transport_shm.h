/* SPDX-License-Identifier: Apache-2.0
 *
 * The same-host transport, the daemon's side: a unix socket for the handshake
 * and for file descriptors, two rings per connection for messages, and copies
 * between extents and memory that the client registered. What crosses the
 * socket is in shm_wire.h, the rings are ring.h, the contract transport.h.
 *
 * One per lane, used by the lane's thread only. The loop polls transport_shm_fd
 * for reading between arm() and awake(). */
#ifndef RPC_TRANSPORT_SHM_H
#define RPC_TRANSPORT_SHM_H

#include "rpc/transport.h"

struct transport_shm_cfg {
    const char *path;    /* of the socket; at most 107 bytes */
    uint32_t mode;       /* of the socket's file: who may connect */
    uint32_t ring_bytes; /* each ring; power of two, 4 KiB to 1 GiB */
    uint32_t peers_max;
    uint32_t memories_per_peer;
    uint64_t registered_bytes_per_peer;
    uint64_t copy_slice_bytes; /* per peer and turn */
};

/* base: events, lane, env, metrics, trace, limits; copied. Takes all memory but
 * the rings of connections. A socket file that a dead daemon left is replaced;
 * one that answers is refused: ERR_CONFIG, as are limits that do not fit. */
must_check enum err transport_shm_open(const struct transport_shm_cfg *cfg,
                                       const struct transport *base,
                                       struct transport **out,
                                       struct errmsg *m);
/* An epoll fd, readable when progress() has something new to look at. */
int transport_shm_fd(struct transport *t);
/* The live part of the configuration. */
void transport_shm_slice_set(struct transport *t, uint64_t copy_slice_bytes);
/* Ends what is left: completions (ERR_PEER_GONE) and closed() come from inside
 * this one call. Removes the socket's file if it is still ours. NULL is fine.
 */
void transport_shm_close(struct transport *t);

#endif
