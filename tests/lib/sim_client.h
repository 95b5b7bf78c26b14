/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of simulated clients (sim.h), for sim_client.c and sim_open.c. */
#ifndef TESTS_SIM_CLIENT_H
#define TESTS_SIM_CLIENT_H

#include "base/slice.h"
#include "lib/sim.h"

enum sim_state { SIM_AWAY, SIM_HELLO, SIM_OPEN, SIM_BUSY };

enum { SIM_CALLS = 4, SIM_BATCH = 12, SIM_CHAIN = 16, SIM_BODY = 16384 };

struct sim_call {
    uint64_t req; /* 0: free */
    uint64_t generation, begun_ns;
    uint32_t n, op, cols;
    uint32_t key[SIM_BATCH];
    uint64_t put[SIM_BATCH], off[SIM_BATCH], len[SIM_BATCH];
    bool durable[SIM_BATCH]; /* PUT: must be found from the answer on */
    bool drops, drops_any;   /* EVICT: of its keys; of what it selects; bump */
    uint64_t number;         /* of all clients' calls */
    uint32_t draft;          /* of a block by several writers: which, */
    uint64_t draft_put;      /* and what it holds */
    bool parts;              /* GET: told of its keys as they end, so far: */
    uint32_t told;
    struct wire_result told_r[SIM_BATCH];
    uint32_t told_crc[SIM_BATCH]; /* of the bytes at that time */
    uint8_t *buf[SIM_BATCH];
    uint8_t bytes[SIM_BODY]; /* records and keys */
    struct wire_frame frame;
};

struct sim_client {
    struct sim *s;
    uint32_t idx, lane;
    enum sim_state state;
    struct sim_peer *peer;
    uint64_t reqs, generation;
    struct sim_call calls[SIM_CALLS];
    bool started;
};

struct sim_builder {
    struct sim_call *call;
    struct wire_batch head;
    struct slice_out records, keys;
    uint8_t rec_buf[SIM_BODY / 2], key_buf[SIM_BODY / 2];
};

/* A batch for call: keys, then it is sent. */
void sim_build_begin(struct sim_builder *b, struct sim_client *c,
                     struct sim_call *call);
void sim_build_key(struct sim_builder *b, struct wire_key rec, uint32_t key,
                   bool chained, const struct wire_attr *attr);
void sim_build_send(struct sim_builder *b, struct sim_client *c,
                    const uint8_t *data, uint64_t data_len);
/* A key of this client's lane, low numbers more often. */
uint32_t sim_key_own(struct sim_client *c);
/* NULL: no call is to be had. */
struct sim_call *sim_call_begin(struct sim_client *c, uint32_t op);

/* ---- sim_open.c: blocks by several writers */
static inline bool sim_is_open_op(uint32_t op)
{
    return op >= OP_PUT_BEGIN && op <= OP_PUT_ABORT;
}

/* The next step of one of them. */
void sim_open_step(struct sim_client *c);
/* An item of PUT_BEGIN, PUT_WRITE, PUT_COMMIT or PUT_ABORT was answered. */
void sim_open_answered(struct sim_client *c, struct sim_call *call,
                       const struct wire_result *r, uint32_t i);
/* The node started anew: its tokens are nobody's. */
void sim_open_restarted(struct sim *s);

#endif
