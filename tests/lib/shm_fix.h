/* SPDX-License-Identifier: Apache-2.0
 *
 * A lane that only writes down what the shm transport tells it, with a socket
 * in a directory of its own, and clients (shm_client.h) in the same thread. A
 * test acts for one side, then runs the other with fix_run(). */
#ifndef TESTS_SHM_FIX_H
#define TESTS_SHM_FIX_H

#include "rpc/transport_shm.h"
#include "tests/lib/shm_client.h"

enum { FIX_PEERS = 48, FIX_CLIENTS = 48, FIX_SENDS = 4096 };

struct fix_peer {
    struct tp_peer *tp; /* NULL after closed() */
    uint32_t messages, bads, closes;
    struct wire_frame last; /* of the last message */
    uint8_t env[256];
    int fd; /* that came with it */
    enum err bad;
};

struct fix_xfer {
    struct tp_xfer x;
    struct fix_peer *p;
    uint32_t dones;
    enum err e;
    uint32_t order; /* 1: it was the first to complete */
};

struct fix_send {
    struct tp_send s;
    struct fix_peer *p;
    uint32_t dones;
    enum err e;
};

struct fix {
    struct transport *t;
    struct transport_shm_cfg cfg;
    struct transport base;
    struct frame_limits limits;
    struct env env;
    struct metrics metrics;
    struct errmsg msg;
    char dir[64], path[100];
    struct fix_peer peers[FIX_PEERS];
    uint32_t peer_n, completions;
    enum err refuse; /* opened() answers this */
    bool echo;       /* every message is answered */
    bool in_call;    /* a call into the transport is running */
    struct shm_client c[FIX_CLIENTS];
    struct fix_send sends[FIX_SENDS];
    uint32_t send_n;
};

extern struct fix fix;

void fix_setup(void);    /* opens the transport with small limits */
void fix_teardown(void); /* checks that everything ended once, no fd is left */
enum err fix_open(void);
/* Turns until nothing is left to do (or 100 with nothing but waiting). */
void fix_run(void);
/* Connects client i and returns the lane's view of it. */
struct fix_peer *fix_connect(uint32_t i);
/* Sends a reply with env_len bytes of value fill. */
struct fix_send *fix_send(struct fix_peer *p, uint64_t req, uint32_t env_len,
                          int fd);
/* Starts a pull or push of x->x as prepared. */
void fix_xfer(struct fix_peer *p, struct fix_xfer *x, bool push);
void fix_close(struct fix_peer *p, bool at_once);
uint32_t fix_fds(void); /* open descriptors of this process */

#endif
