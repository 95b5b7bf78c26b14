/* SPDX-License-Identifier: Apache-2.0
 *
 * The client's side of the shm transport, reduced to what tests need: no
 * thread, no waiting; a test runs the daemon's side between the calls. It can
 * also misbehave in ways that libpikv never would, by writing to .sh. */
#ifndef TESTS_SHM_CLIENT_H
#define TESTS_SHM_CLIENT_H

#include "proto/wire.h"
#include "rpc/ring.h"
#include "rpc/shm_wire.h"

struct shm_client {
    int sock, ring_fd, req_fd, wake_fd;
    struct shm_welcome welcome;
    struct ring_shared *sh;
    struct ring req, rep;
    uint8_t buf[SHM_PACKET_MAX];
};

/* connect() to path; false with errno. */
bool shm_client_connect(struct shm_client *c, const char *path);
/* Takes the welcome and maps the rings. ERR_MISS: it did not come yet. The
 * status of a refusal; ERR_PEER_GONE: closed without a word. */
enum err shm_client_welcome(struct shm_client *c);
void shm_client_close(struct shm_client *c);
/* A sealed frame of op and req with env into the ring; false: full. */
bool shm_client_send(struct shm_client *c, uint16_t op, uint64_t req,
                     const void *env, uint32_t env_len);
/* The same as a packet with fd_n descriptors. */
bool shm_client_packet(struct shm_client *c, uint16_t op, uint64_t req,
                       const int *fds, uint32_t fd_n);
/* The next reply; frame in *f, the rest in buf. ERR_MISS: none. */
enum err shm_client_recv(struct shm_client *c, struct wire_frame *f);
/* The same from the socket, with a descriptor or -1. */
enum err shm_client_recv_packet(struct shm_client *c, struct wire_frame *f,
                                int *fd_out);
/* Was the client rung since the last call? */
bool shm_client_rung(struct shm_client *c);
/* Rings the daemon if it sleeps. */
void shm_client_ring(struct shm_client *c);
/* Has the daemon closed? */
bool shm_client_eof(struct shm_client *c);

#endif
