/* SPDX-License-Identifier: Apache-2.0
 *
 * What pikvd is compared with: servers in processes of their own and one lean
 * pipelined client for all of them, plain copy loops, and the processes
 * themselves. Loopback and unix sockets only. */
#ifndef BENCH_RIVALS_H
#define BENCH_RIVALS_H

#include <sys/types.h>

#include "bench/load.h"

/* The client side. address: a port number or the path of a unix socket. */
extern const struct load_driver rival_redis, rival_memcached, rival_plain;
/* Copies between target.arena and the client's memory in the calling thread:
 * libc's memcpy, copy_stream, copy_crc. */
extern const struct load_driver micro_memcpy, micro_nt, micro_crc;

/* A server process. */
struct rival {
    pid_t pid;
    char port[8];   /* or "" */
    char path[112]; /* of its unix socket */
};

/* Where servers put sockets and logs; the name in logs. */
struct rival_place {
    const char *dir, *name;
};

#define RIVAL_CONGESTION "/proc/sys/net/ipv4/tcp_congestion_control"
/* Moves this process into a network namespace with nothing but a loopback
 * device, where tcp is reno: bbr paces, which is no way to measure loopback.
 * The host's network is not touched. False: we may not. */
bool rival_own_network(void);
uint16_t rival_free_port(void);
/* Starts argv as a child that dies with us; output goes to DIR/NAME.log. */
void rival_spawn(struct rival *r, const struct rival_place *at,
                 char *const argv[]);
/* The reference: a thread for each connection, GET and PUT of an arena. */
void rival_plain_start(struct rival *r, const struct rival_place *at,
                       uint64_t arena_bytes);
/* Until somebody accepts at address; ends the program if nobody does. */
void rival_wait(const struct rival *r, const struct rival_place *at,
                const char *address);
/* Until the log has a line with word. */
void rival_wait_log(const struct rival_place *at, const char *word);
void rival_stop(struct rival *r); /* SIGTERM, then waits; accepts zeros */
/* While one client spins, it has CPU 0 for itself and servers have the others:
 * a scheduler that puts both on one measures nothing but itself. */
void rival_place_cpu(pid_t pid, bool with_client);
void rival_place_client(bool alone); /* the calling thread */
/* Resident bytes beyond block memory: mappings of memfds of 16 MiB and more
 * are tiers and clients' memory. */
uint64_t rival_rss_beyond(pid_t pid, uint64_t *tiers_out);

/* Requests of the plain protocol; the reply of GET is this and the bytes. */
struct rival_plain_head {
    uint32_t op; /* enum load_op */
    uint32_t len;
    uint64_t id;
};

#endif
