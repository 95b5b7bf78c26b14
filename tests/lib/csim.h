/* SPDX-License-Identifier: Apache-2.0
 *
 * A cluster under a virtual clock: many node cores (cluster/cluster.h, the
 * daemon's own object code), the links between them, the voters' disks
 * (raft_mem.h), a model of the data on top, and clients. One thread.
 *
 *     events by time: csim_event heap     disks, raft ticks: raft_mem
 *              \______________________________/
 *                            |  the earlier first
 *                   csim_run --> cluster_step --> actions --> new events
 *
 * What goes wrong is what TCP lets through: messages on a link come in order or
 * not at all. A link stalls while its direction is cut, and breaks at one end,
 * at both, or at none (half-open) when its process dies. Nodes pause, crash and
 * come back with what their disk holds, which is sometimes an old copy. Their
 * clocks run at other speeds.
 *
 * Always checked (csim_check.c): a view is only ever replaced by a newer one; a
 * read gives only what was written under that key, and nothing from before a
 * flush its node knows of. After the faults are over: csim_settled.
 *
 * One seed decides everything; equal seeds give equal hashes in all builds. */
#ifndef TESTS_CSIM_H
#define TESTS_CSIM_H

#include "cluster/cluster.h"
#include "cluster/view_pool.h"
#include "lib/raft_mem.h"

enum {
    CSIM_VOTERS_MAX = 7,
    CSIM_KEYS = 512,
    CSIM_CLIENTS = 16,
    CSIM_TICK_US = 50000,
    CSIM_TENANTS = 200, /* acknowledged commands that are remembered */
    CSIM_LINKS_IDLE_US = 10000000,
    CSIM_SPACES = 2,
};

struct csim;

enum csim_kind {
    CSIM_TICK, /* node */
    CSIM_PUMP, /* link, direction: the next message is there */
    CSIM_DIALED,
    CSIM_LINK_ENDS, /* node, link: the end is told that it is broken */
    CSIM_FAULT,
    CSIM_CALL, /* a client's next step */
    CSIM_MOVER, /* node: its puller */
    CSIM_BOOT,
    CSIM_COMMAND,
    CSIM_WATCH,
    CSIM_WAKE, /* node: a voter's pause ends */
};

struct csim_event {
    uint64_t at_us, order;
    uint32_t kind, node, other;
    uint64_t a; /* link, address of what the kind needs, life of the node */
    void *p;
};

struct csim_msg {
    struct csim_msg *next;
    uint64_t due_us;
    uint16_t kind;
    size_t n;
    uint8_t p[];
};

struct csim_way { /* one direction of a link */
    struct csim_msg *head, **tail;
    uint64_t last_us;
    uint32_t queued;
    bool pumping, dead; /* dead: nothing comes out any more */
};

struct csim_link {
    uint64_t id; /* 0: free */
    uint32_t node[2], next; /* who dialed is 0 */
    bool end[2];            /* does this end think it is up? */
    uint64_t heard_us[2];
    struct csim_way way[2]; /* [0]: from node[0] to node[1] */
};

struct csim_content {
    uint64_t value;   /* 0: not here */
    uint64_t drop_us; /* not 0: gone from then on */
    uint32_t flush;   /* the space's count when it was written */
};

struct csim_move { /* a slot that comes to a node */
    uint32_t slot;
    uint8_t stage; /* 1: to be taken over, 2: taken over */
    bool done;
    uint64_t epoch; /* of the view that began the stage */
};

struct csim_node {
    struct csim *sim;
    struct cluster *c;
    uint32_t at;
    uint16_t index; /* in the view */
    bool up, voter, leads, dirty, fatal, moving;
    bool recover; /* its next life begins with `coord recover` */
    bool gone; /* for good: nobody starts it again */
    uint32_t life; /* of the process */
    uint64_t pause_us;
    raft_io_tick_cb raft_tick; /* while paused */
    int32_t ppm;
    uint64_t clock_ms; /* offset */
    /* disk */
    uint32_t incarnation;
    uint64_t uuid;
    struct shared_view *last;
    uint32_t log_generation;
    uint32_t true_incarnation; /* before a roll-back of the disk */
    /* process */
    struct shared_view *view; /* published */
    uint32_t flush[CSIM_SPACES];
    struct csim_content data[CSIM_KEYS];
    struct csim_move *moves; /* by slot */
    uint32_t move_n, move_cap;
    uint64_t steps, published_us;
};

struct csim_client {
    struct shared_view *view;
    uint32_t key, tries;
};

struct csim_key {
    uint32_t slot, space;
    uint64_t first, last; /* values ever written: all between are this key's */
    bool stored;          /* acknowledged, and not evicted or flushed since */
};

struct csim_asked {
    uint64_t ticket, id;
    uint32_t node, kind, space;
};

/* What was on the disks when a cluster was stopped. */
struct csim_past {
    struct bytes state;
    void *conf;
    size_t conf_n;
    uint64_t term, index, index_term;
    struct shared_view *view;
    uint32_t node_n;
};

struct csim_cfg {
    uint64_t seed;
    uint32_t voters, nodes, clients; /* the first `voters` nodes vote */
    uint32_t move_slots, removed_ms, propose_ms; /* 0: defaults */
    uint32_t latency_us, start_ms, call_us;
    uint32_t check; /* compare one in so many shared views; 0: 256 */
    bool faults, fig8, verbose;
    bool commands; /* tenants and flushes */
    bool drains;   /* and drains */
    const struct csim_past *past; /* NULL: a new cluster */
};

struct csim_stats {
    uint64_t reads, hits, misses, redirects, writes, no_answer, pulls;
    uint64_t commands, acked, no_quorum, moves, epochs, crashes, cuts, pauses;
    uint64_t messages, bytes, views_sent, view_bytes, dials, refused;
    uint64_t leader_messages, leader_bytes;
    uint64_t lost; /* acknowledged writes that a fault-free run missed */
};

struct csim {
    struct csim_cfg cfg;
    uint64_t now_us, order, hash, rng[2];
    struct csim_event *heap;
    uint32_t heap_n, heap_cap;
    struct raft_mem raft;
    struct csim_node *nodes;
    uint32_t node_n; /* cfg.voters + cfg.nodes */
    struct coord_voter voters[CSIM_VOTERS_MAX];
    struct csim_link *links; /* by id % link_cap */
    uint32_t link_cap, link_n;
    uint64_t link_id;
    bool *cut;            /* [from * node_n + to] */
    uint32_t *dirty;
    uint32_t dirty_n;
    struct view_pool pool;
    struct csim_client clients[CSIM_CLIENTS];
    struct csim_key keys[CSIM_KEYS];
    struct {
        uint32_t generation, n;
        uint64_t epoch;
        uint32_t *slots; /* with `to` or `from` */
    } moving;
    uint64_t tenants[CSIM_TENANTS];
    uint32_t tenant_n;
    uint32_t flushed[CSIM_SPACES]; /* largest acknowledged count */
    struct csim_asked asked[256];
    uint32_t tenants_asked, flushing;
    uint64_t ticket, value;
    bool healed;
    uint64_t slow_us; /* a slow network */
    bool timed;         /* measure the leaders' steps */
    uint64_t leader_ns; /* ... by the real clock */
    uint64_t mark; /* epoch that everybody must have */
    uint32_t undrain; /* this node + 1 is draining */
    struct csim_stats stats;
    struct answer answer; /* the last that a node gave */
    uint64_t answers;
    const char *broken; /* what must not happen and did */
    void (*on_publish)(struct csim *s, struct csim_node *n);
    void *arg;
};

void csim_init(struct csim *s, const struct csim_cfg *cfg);
void csim_fini(struct csim *s);
void csim_run(struct csim *s, uint64_t until_ms);
/* All faults end: links work, who is down is started. */
void csim_heal(struct csim *s);
/* From now on every node must have the leader's present view, or a newer one,
 * to be settled. */
void csim_mark(struct csim *s);
/* Why the cluster is not in order now, or NULL. */
const char *csim_unsettled(struct csim *s);
/* At the end: nothing acknowledged is lost, voters agree. NULL: so it is. */
const char *csim_wrong(struct csim *s);

/* csim_past.c */
void csim_past_make(struct csim_past *p, const struct csim_cfg *like);
void csim_past_give(const struct csim_past *p, struct csim *s);
void csim_past_free(struct csim_past *p);

/* csim.c */
uint64_t csim_random(struct csim *s);
uint32_t csim_chance(struct csim *s, uint32_t n); /* 0 to n - 1 */
void csim_at(struct csim *s, uint64_t at_us, struct csim_event e);
void csim_mix(struct csim *s, uint64_t a, uint64_t b);
void csim_step(struct csim *s, struct csim_node *n,
               const struct cluster_event *ev);
void csim_drain(struct csim *s, struct csim_node *n);
uint64_t csim_clock_ms(const struct csim *s, const struct csim_node *n);

/* csim_node.c */
void csim_boot(struct csim *s, struct csim_node *n);
void csim_crash(struct csim *s, struct csim_node *n, bool resets);
struct csim_node *csim_leader(struct csim *s);
uint32_t csim_of_peer(const struct csim *s, const char *peer);
void csim_peer(char *out, size_t cap, uint32_t node);

/* csim_net.c */
struct csim_link *csim_link(struct csim *s, uint64_t id);
void csim_dial(struct csim *s, uint32_t from, const char *peer);
void csim_dialed(struct csim *s, const struct csim_event *e);
void csim_send(struct csim *s, uint32_t from, const struct cluster_action *a);
void csim_pump(struct csim *s, const struct csim_event *e);
void csim_break(struct csim *s, struct csim_link *l, bool tell0, bool tell1);
void csim_end(struct csim *s, const struct csim_event *e);
void csim_links_of(struct csim *s, uint32_t node, bool resets);
void csim_idle(struct csim *s);
void csim_net_fini(struct csim *s);

/* csim_data.c */
void csim_data_init(struct csim *s);
void csim_published(struct csim *s, struct csim_node *n, const struct view *v);
void csim_call(struct csim *s, const struct csim_event *e);
void csim_mover(struct csim *s, const struct csim_event *e);
void csim_command(struct csim *s);
void csim_answered(struct csim *s, struct csim_node *n,
                   const struct cluster_action *a);

/* csim_fault.c */
void csim_fault(struct csim *s);
void csim_pause(struct csim *s, struct csim_node *n, uint64_t us);
void csim_awake(struct csim *s, struct csim_node *n, uint64_t life);

#endif
