/* SPDX-License-Identifier: Apache-2.0
 *
 * The handshake of the same-host transport, shared by transport_shm.c and
 * libpikv. A SOCK_SEQPACKET unix socket:
 *
 *   client connects
 *   daemon -> client   struct shm_welcome + 3 fds: ring memfd (sealed against
 *                      shrink and grow), request eventfd, reply wake fd
 *   then               HELLO and all other messages go through the rings
 *   either way         a message that carries an fd (MEM_REGISTER request,
 *                      LOAN_ATTACH reply) is one packet on the socket instead,
 *                      with that fd, at most SHM_PACKET_MAX bytes
 *   end                closing the socket ends the connection; the kernel does
 *                      it for a killed process, so death is seen at once
 *
 * The client rings the request eventfd (ring.h). The reply wake fd is the
 * reading end of a pipe: readable when the daemon rang, to be read empty (8
 * bytes per ring, non-blocking). A pipe, because each end has its own flags: on
 * a shared eventfd a client could take O_NONBLOCK away and make the daemon's
 * write wait for ever. Who waits for room in a ring is rung on the same fd as
 * for messages: after its pops a reader asks ring_must_tell. */
#ifndef RPC_SHM_WIRE_H
#define RPC_SHM_WIRE_H

#include <stdint.h>

enum {
    SHM_WELCOME_MAGIC = 0x31534b50, /* "PKS1" */
    SHM_WELCOME_FDS = 3,
    SHM_PACKET_MAX = 65536,
};

struct shm_welcome {
    uint32_t magic;
    uint32_t version;    /* WIRE_VERSION */
    uint32_t ring_bytes; /* of each ring */
    uint32_t status;     /* 0, or -enum err (no fds then): BUSY, DRAINING */
    uint64_t map_bytes;  /* of the memfd */
};

#endif
