/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole pikvd without its shell, under a virtual clock, in one thread: the
 * control, the lanes, their stores and operations are the daemon's own object
 * code. Around them: a network that delays, cuts, doubles and drops, clients
 * that talk the wire and misbehave, and an oracle (model.h).
 *
 *   world events (clients, network)      lanes
 *        |  sim_at(ns, fn)                 |  lane_turn() until idle
 *        +-----------> next in time <------+  lane_next_ns()
 *
 * One seed decides everything: equal seeds give equal trace hashes, on every
 * build. Memory of the simulator itself is malloc'ed. */
#ifndef TESTS_SIM_H
#define TESTS_SIM_H

#include "base/env.h"
#include "base/timer.h"
#include "lib/model.h"
#include "server/control.h"
#include "server/lane.h"

enum { SIM_LANES_MAX = 4, SIM_CLIENTS = 24 };

struct sim;
struct sim_client;
struct sim_peer;

typedef void sim_fn(struct sim *s, void *arg);

struct sim_cfg {
    uint64_t seed;
    uint64_t steps; /* client calls in all */
    uint32_t lanes; /* 1 to SIM_LANES_MAX */
    uint64_t dram_bytes;
    uint32_t fault_pct; /* of network actions that go wrong; 0: none */
    const char *policy;
    bool verbose;
};

/* One lane's simulated transport: what waits to be told by progress(). */
struct sim_net {
    struct transport t;
    struct sim *sim;
    struct list inbox; /* struct sim_item */
    struct list peers;
    bool inline_data; /* like UCX: small blocks travel in messages */
};

struct sim {
    struct sim_cfg cfg;
    struct env rng; /* of the world; lanes have their own */
    uint64_t now_ns;
    struct timers world;
    struct config config;
    struct control control;
    struct lane *lanes[SIM_LANES_MAX];
    bool lane_more[SIM_LANES_MAX]; /* what its last turn said */
    struct sim_net nets[SIM_LANES_MAX];
    struct unit_pool pool;
    void *memory;
    struct model *model;
    struct sim_client *clients[SIM_CLIENTS];
    uint64_t calls_begun, calls_done, calls_lost;
    bool stopping; /* no new calls, no new faults */
    /* The namespaces as clients know them. */
    uint32_t ns_id;
    uint64_t slot_seed;
    uint64_t statuses[64]; /* results seen, by -code */
    uint64_t gets_ok, puts_ok;
};

void sim_init(struct sim *s, const struct sim_cfg *cfg);
void sim_fini(struct sim *s);
/* Runs until the calls are done and everything is at rest; checks every
 * invariant on the way. Returns the trace hash. */
uint64_t sim_run(struct sim *s);
/* Runs fn at a time, in world order. */
void sim_at(struct sim *s, uint64_t due_ns, sim_fn *fn, void *arg);

static inline uint64_t sim_random(struct sim *s, uint64_t n)
{
    return env_random(&s->rng) % n;
}

/* A network action goes wrong now? */
static inline bool sim_fault(struct sim *s)
{
    return !s->stopping && sim_random(s, 1000) < s->cfg.fault_pct * 10;
}

/* ---- sim_net.c */
void sim_net_init(struct sim_net *n, struct sim *s, struct lane *l);
void sim_net_fini(struct sim_net *n);
/* A client connects to this lane; NULL: refused. Then messages: copied. */
struct sim_peer *sim_connect(struct sim_net *n, struct sim_client *c);
void sim_send(struct sim_peer *p, const struct wire_frame *f, const void *body,
              size_t body_len, const uint8_t *data);
/* The client goes away (killed, or reconnects). */
void sim_hangup(struct sim_peer *p);
void sim_net_hangup_all(struct sim_net *n);

/* ---- sim_client.c */
struct sim_client *sim_client_new(struct sim *s, uint32_t idx, uint32_t lane);
void sim_client_free(struct sim_client *c);
void sim_client_start(struct sim_client *c);
/* From the network. */
void sim_client_reply(struct sim_client *c, const struct message *m);
void sim_client_closed(struct sim_client *c);
/* Where the bytes of (req, idx) lie at the client; NULL: it forgot the call. */
uint8_t *sim_client_buffer(struct sim_client *c, uint64_t req, uint32_t idx,
                           uint64_t *len_out);
bool sim_client_idle(const struct sim_client *c);

#endif
