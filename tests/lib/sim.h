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
 * The node may have SSDs (disk_mem.h), and then it is killed and started anew
 * now and then (sim_node.c): what a new life knows comes from the media as the
 * crash left them and from the registry's text, nothing else.
 *
 * One seed decides everything: equal seeds give equal trace hashes, on every
 * build. Memory of the simulator itself is malloc'ed. */
#ifndef TESTS_SIM_H
#define TESTS_SIM_H

#include "base/env.h"
#include "base/timer.h"
#include "lib/disk_mem.h"
#include "lib/follow.h"
#include "lib/model.h"
#include "server/control.h"
#include "server/lane.h"

enum { SIM_LANES_MAX = 4, SIM_CLIENTS = 24, SIM_DRAFTS = 12 };

struct sim;
struct sim_client;
struct sim_peer;

typedef void sim_fn(struct sim *s, void *arg);

/* What goes wrong with the SSDs, once in each life of the node. */
enum sim_disk_fault {
    SIM_DISK_SOUND, /* only then must durable blocks be found */
    SIM_DISK_WRITE,
    SIM_DISK_READ,
    SIM_DISK_FLUSH,
    SIM_DISK_FULL,
    SIM_DISK_HANG,
    SIM_DISK_FLIP, /* bits of the image, again and again */
    SIM_DISK_FAULTS,
};

/* A block that several clients fill: the bytes of one PUT of the model. */
struct sim_draft {
    uint64_t put; /* 0: free */
    uint64_t len, generation;
    uint64_t token; /* 0: nobody was told */
    uint32_t key, lane, writers, pieces, crc;
    uint64_t there, committed; /* bits: pieces and writers, as answered */
    bool durable, over;
    uint64_t begun_ns;
};

struct sim_cfg {
    uint64_t seed;
    uint64_t steps; /* client calls in all */
    uint32_t lanes; /* 1 to SIM_LANES_MAX; at first */
    uint32_t ssds;  /* 0: none, and no restarts */
    uint32_t restarts;
    uint64_t ssd_bytes, segment_bytes;
    enum sim_disk_fault disk_fault;
    bool second_touch, write_buffer, budget;
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
    uint32_t lane_n; /* of this life */
    struct lane *lanes[SIM_LANES_MAX];
    bool lane_more[SIM_LANES_MAX]; /* what its last turn said */
    struct sim_net nets[SIM_LANES_MAX];
    struct unit_pool pool;
    void *memory;
    struct mem_media *media; /* the SSDs, all of them; NULL: none */
    struct disk_mem disks[SIM_LANES_MAX];
    struct ssd_node ssds;
    char *registry; /* as it was saved last; NULL: never */
    size_t registry_len;
    uint32_t lives;                /* of the node so far */
    bool down;                     /* nobody can connect */
    uint64_t hash;                 /* of the lives that ended */
    uint64_t restart_at, fault_at; /* calls begun */
    struct model *model;
    struct sim_client *clients[SIM_CLIENTS];
    uint64_t calls_begun, calls_done, calls_lost;
    bool stopping; /* no new calls, no new faults */
    /* The namespaces as clients know them. */
    uint32_t ns_id;
    uint64_t slot_seed;
    uint64_t statuses[64]; /* results seen, by -code */
    uint64_t gets_ok, gets_ssd, puts_ok, recovered, parts_told;
    struct follow follows[SIM_LANES_MAX];
    uint64_t told[EVENT_CLEARED + 1]; /* events by kind */
    uint64_t polled, polls_lost;      /* events in answers; answers with LOST */
    struct sim_draft drafts[SIM_DRAFTS];
    uint64_t drafts_ok, drafts_partial, drafts_given_up;
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

/* Turns until nothing is left to do at this instant. */
void sim_settle(struct sim *s);
/* Lets time pass until(s) is true. */
void sim_pass(struct sim *s, bool (*until)(const struct sim *s));
/* At rest: every pool is full again, nothing is pinned or reffed. */
void sim_check_rest(const struct sim *s);

/* ---- sim_node.c */
void sim_node_start(struct sim *s);
/* The node is at rest. */
void sim_node_stop(struct sim *s);
/* Ends the life of the node, in order or not, and begins the next. */
void sim_node_restart(struct sim *s);
/* A device begins to fail. */
void sim_node_fault(struct sim *s);
/* What hangs goes on, and nothing hangs any more. */
void sim_node_unhang(struct sim *s);
/* When a lane's disk has something to tell. */
uint64_t sim_node_disk_ns(const struct sim *s, uint32_t lane);
/* Of all that every life of the node did. */
uint64_t sim_node_hash(const struct sim *s);
/* Nobody is connected, no request and no io is under way. */
bool sim_node_is_quiet(const struct sim *s);

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

/* ---- sim_events.c */
/* With the life of a node: when its stores are filled, before they go. */
void sim_events_start(struct sim *s);
void sim_events_stop(struct sim *s);
void sim_events_take(struct sim *s, uint32_t lane); /* after each turn */
/* What events tell is what the catalogs have. */
void sim_events_check(struct sim *s);
/* Fills a poll of this lane; returns its from_seq. Then its answer. */
uint64_t sim_events_ask(struct sim *s, uint32_t lane, Pikv__Subscribe *m);
void sim_events_answered(struct sim *s, uint64_t from, const struct message *m);

/* ---- sim_client.c */
struct sim_client *sim_client_new(struct sim *s, uint32_t idx);
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
