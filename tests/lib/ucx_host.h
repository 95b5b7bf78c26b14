/* SPDX-License-Identifier: Apache-2.0
 *
 * A server for tests of the UCX transport: the transport with a lane that
 * writes down what it is told, and one client (ucx_client.h) in the same
 * process and thread. Nothing is timed: PUMP() turns both ends until a
 * condition holds, and a test that never gets there ends by Check's timeout.
 *
 * Extents lie between canary pages that are checked at each completion and
 * again at the end; ucxh_finish() closes the transport, which checks that all
 * its pools are full, and that everything begun was told once. */
#ifndef TESTS_LIB_UCX_HOST_H
#define TESTS_LIB_UCX_HOST_H

#include "rpc/transport_ucx.h"
#include "tests/lib/ucx_client.h"

enum { CANARY = 4096, XFERS = 64, SENDS = 64, MESSAGE = 1 << 20 };

struct extent {
    uint8_t *all, *p;
    uint64_t len;
};

struct xfer {
    struct tp_xfer x;
    struct span spans[64];
    struct extent e;
    uint32_t dones;
    enum err err;
};

struct send {
    struct tp_send s;
    uint32_t dones;
    enum err err;
};

struct host {
    struct transport *t;
    struct metrics *metrics;
    struct trace *trace;
    struct env env;
    struct frame_limits limits;
    struct tp_peer *peer; /* the last one opened */
    uint32_t opened, closed, messages, bads;
    enum err refuse, bad_err;
    struct wire_frame frame; /* of the last message */
    uint8_t *body;
    uint64_t body_len;
    bool inside; /* a call of ours into the transport runs */
    struct xfer xfers[XFERS];
    uint32_t xfer_n, xfer_dones;
    struct send sends[SENDS];
    uint32_t send_n, send_dones;
};

extern struct host host;
extern struct ucxc client;

#define PUMP(cond)                                                             \
    while (!(cond)) {                                                          \
        ucxh_turn();                                                           \
        ucxc_progress(&client);                                                \
    }
#define TURN(cond)                                                             \
    while (!(cond))                                                            \
    ucxh_turn()

uint16_t ucxh_free_port(void);
/* What open needs, with small limits. */
struct transport_ucx_cfg ucxh_config(void);
void ucxh_open(const struct transport_ucx_cfg *cfg);
bool ucxh_turn(void);
/* Both ends, connected. */
void ucxh_start(void);
/* All that the client sent before has arrived: messages keep their order. */
void ucxh_settle(void);
void ucxh_finish(void);
/* A fixed pattern per seed. */
uint8_t ucxh_byte_at(uint64_t seed, uint64_t i);
uint8_t *ucxh_bytes_new(uint64_t seed, uint64_t n);
struct extent ucxh_extent_new(uint64_t len);
void ucxh_extent_check(const struct extent *e);
/* The lane's calls on host.peer. A push sends the pattern of its idx. */
struct xfer *ucxh_pull(uint64_t req, uint32_t idx, uint64_t len,
                       uint32_t span_n);
struct xfer *ucxh_push(uint64_t req, uint32_t idx, uint64_t len,
                       uint32_t span_n);
void ucxh_cancel(struct xfer *t);
void ucxh_skip(uint64_t req, uint32_t idx);
struct send *ucxh_reply(uint64_t req, const void *body, uint32_t env_len,
                        const struct span *data, uint32_t data_n);
/* The pull ended OK with these bytes; nothing was written at all. */
void ucxh_pulled_well(const struct xfer *t, const uint8_t *want);
void ucxh_untouched(const struct xfer *t);

#endif
