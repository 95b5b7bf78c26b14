/* SPDX-License-Identifier: Apache-2.0
 *
 * One node's part in the cluster, without sockets, clocks or threads: events
 * go in, actions come out. server/cluster_loop.c drives it on the control
 * thread, tests/lib/csim*.c in the simulator.
 *
 *   boot --> SEEKING --hello of any node--> JOINING --our name in the view-->
 *            MEMBER <--> CUT (no leader answers; goes on serving)
 *              |
 *              +-- REMOVED by the operator: EXPELLED (serves nothing new)
 *
 *   a voter also runs coord (coord.h); the one that leads also
 *     detects   no beat 1.5 s: SUSPECT (its own mark), 3 s: proposes DOWN,
 *               10 min: REMOVED; a beat of a DOWN node: UP again (detect.h)
 *     places    new slots for what was REMOVED or drained, for the joined
 *               (place.h), replicas for the hot (balance.h): CMD_SLOTS, within
 *               the move budget
 *     spreads   each new view down the fan-out tree (fanout.h)
 *
 * A node hears of a newer epoch in every BeatReply and asks for the view that
 * it misses, so the tree may lose pushes. Nothing waits for consensus but what
 * changes the view. A view of an older generation, or of a smaller epoch of
 * the same one, is never taken back (a rolled-back disk, a replayed message).
 *
 * Links: the shell numbers them (link id, never reused); hello of both sides
 * was exchanged and checked by cluster_hello before LINK_UP is told. */
#ifndef CLUSTER_CLUSTER_H
#define CLUSTER_CLUSTER_H

#include "cluster/coord.h"
#include "cluster/state.h"

struct cluster;

struct cluster_times { /* ms; defaults of config.tbl cluster.* */
    uint32_t beat, suspect, down, removed, election, heartbeat;
};

struct cluster_cfg {
    char id[64]; /* the cluster's name: its hash is in every hello */
    struct node self; /* name, uuid, incarnation, zone, rack, addresses,
                       * weight */
    bool voter;
    struct coord_voter voters[VIEW_VOTERS_MAX]; /* seeds as well */
    uint32_t voter_n;
    const char *provider; /* "static", "raft" */
    struct node *members; /* static: the whole list, or NULL */
    uint32_t member_n;
    struct cluster_times times; /* 0: defaults */
    uint32_t fanout;            /* degree of the tree; 0: 16 */
    uint32_t move_slots;        /* slots under way at a time; 0: 1024 */
    uint32_t balance_pct;       /* moves of balancing: part of all slots in
                                 * thousandths a minute; 0: 20 (2 %) */
    bool no_balance;            /* no moves for load's sake, no hot copies */
    struct raft_io *io;         /* voters of raft */
    uint64_t seed;              /* of its choices (jitter, ids) */
    const struct view *last;    /* from disk, may be NULL; copied */
    uint32_t propose_ms;        /* a command's deadline; 0: 5000 */
    uint32_t log_generation; /* voters: cluster_log_generation of its last
                              * life, kept beside the log; 0: a new log */
    bool recover; /* `coord recover`: this voter alone goes on with its log,
                   * generation + 1; the others of it become watchers */
    struct view_pool *pool; /* simulators: nodes of one process share views */
    void (*wake)(void *arg); /* something came up, perhaps outside of a step
                              * (coord's disk): step a CLUSTER_TICK and take the
                              * actions soon, never from in here. Runs within
                              * steps as well, where it means nothing */
    void *wake_arg;
};

enum cluster_event_kind {
    CLUSTER_TICK,      /* at least every 50 ms */
    CLUSTER_LINK_UP,   /* link, hello, peer (what was dialed, or ""), and p, n:
                        * the bytes of the peer's Hello */
    CLUSTER_LINK_DOWN, /* link, or a dial (peer) that failed: link 0 */
    CLUSTER_MESSAGE,   /* link, kind, p, n */
    CLUSTER_LOAD,      /* load: this node's figures, about every 500 ms */
    CLUSTER_MOVED,     /* slot: everything of it was pulled (to == self), or
                        * pulled again after the hand-over (from) */
    CLUSTER_PROPOSE,   /* an operator's or client's command: cmd, ticket */
    CLUSTER_UNREACHABLE, /* slot: index of a node that this one, or a client of
                          * it, cannot reach */
};

/* Kinds of messages on a link, and what they carry (proto/peer.proto). */
enum peer_kind {
    PEER_HELLO = 1,
    PEER_BYE,
    PEER_BEAT,
    PEER_BEAT_REPLY,
    PEER_VIEW_PULL,
    PEER_VIEW_PUSH,
    PEER_PROPOSE,
    PEER_PROPOSED,
    PEER_RAFT,
    PEER_KINDS,
};

struct slot_load {
    uint32_t slot;
    uint64_t ops, bytes;
};

struct cluster_load {
    uint64_t ops, bytes, misses, used_mib, free_mib; /* a second */
    uint32_t get_p95_us;
    struct slot_load hot[64]; /* hottest first */
    uint32_t hot_n;
    struct expert_count { /* since the last event */
        uint64_t model;
        uint16_t layer, expert;
        uint64_t count;
    } *experts; /* borrowed */
    uint32_t expert_n;
};

struct cluster_event {
    enum cluster_event_kind kind;
    uint64_t link;
    char peer[NODE_ADDR_MAX];
    const struct node *hello; /* who it is: name, uuid, incarnation, addrs */
    uint16_t msg; /* enum peer_kind */
    const uint8_t *p;
    size_t n;
    const struct cluster_load *load;
    uint32_t slot;
    const struct cmd *cmd;
    uint64_t ticket; /* comes back in CLUSTER_ANSWERED */
    uint64_t epoch;  /* MOVED: of the view that the puller worked with */
};

enum cluster_action_kind {
    CLUSTER_DIAL,    /* peer: an address to have a link with */
    CLUSTER_SEND,    /* link, msg, p, n (valid until the next step) */
    CLUSTER_HANG_UP, /* link, why */
    CLUSTER_PUBLISH, /* view: a newer one; valid until the next step. To be
                      * given to the lanes, kept on disk, told to the puller */
    CLUSTER_ANSWERED, /* ticket, answer */
    CLUSTER_SAY,      /* level, text: a line for the log and `cluster events` */
    CLUSTER_FATAL,    /* text: this process must end (coord's disk) */
};

struct cluster_action {
    enum cluster_action_kind kind;
    uint64_t link;
    char peer[NODE_ADDR_MAX];
    uint16_t msg;
    const uint8_t *p;
    size_t n;
    const struct view *view;
    uint64_t ticket;
    struct answer answer;
    int level; /* enum log_level */
    char text[256];
};

enum cluster_phase {
    CLUSTER_SEEKING,
    CLUSTER_JOINING,
    CLUSTER_MEMBER,
    CLUSTER_CUT,
    CLUSTER_EXPELLED,
};

struct cluster_status {
    enum cluster_phase phase;
    uint16_t self;   /* index or NODE_NONE */
    char leader[NODE_NAME_MAX];
    uint64_t cut_ms; /* since the leader was last heard; 0: it is there */
    bool voter, leads;
    uint64_t suspects; /* how many, leader only */
    uint32_t moves;    /* slots with a `to` or a `from` */
    struct coord_status coord; /* voters */
    uint64_t redirects; /* kept by the shell */
};

must_check enum err cluster_open(const struct cluster_cfg *cfg, uint64_t now_ms,
                                 struct cluster **out, struct errmsg *m);
void cluster_close(struct cluster *c, void (*closed)(void *arg), void *arg);
/* One event. Then take the actions until there is none. */
void cluster_step(struct cluster *c, const struct cluster_event *ev,
                  uint64_t now_ms);
bool cluster_next(struct cluster *c, struct cluster_action *out);

/* What this node says first on a link, and the judgement of what a peer said:
 * OK and who it is, or why the link is refused (DENIED: another cluster, a name
 * that another machine has, an incarnation smaller than the view's, a differing
 * voter list while one of the two is no member yet; BAD_VERSION; BAD_REQUEST).
 * A peer of an older generation is let in as a watcher, so that it can learn:
 * its raft messages, views and commands are dropped. Pure; m says it for the
 * log and for Bye. */
void cluster_hello(const struct cluster *c, struct bytes *out);
must_check enum err cluster_hello_check(const struct cluster *c,
                                        const uint8_t *p, size_t n,
                                        struct node *who_out, struct errmsg *m);

const struct view *cluster_view(const struct cluster *c);
const struct state *cluster_state(const struct cluster *c); /* NULL: watcher */
void cluster_status(const struct cluster *c, struct cluster_status *out);
/* Of what this voter's log says, to be kept on disk beside it when it changes,
 * before the view is (PUBLISH); 0: nothing yet, or not a voter. A voter whose
 * log is of an older generation than its peers' is fenced (cluster_voter.c). */
uint32_t cluster_log_generation(const struct cluster *c);
/* Does this node lead, and in which term (else 0)? */
bool cluster_leads(const struct cluster *c, uint64_t *term_out);
/* Leader: the load it knows of a node; false: none. */
bool cluster_load_of(const struct cluster *c, uint16_t node,
                     struct cluster_load *out, uint64_t *age_ms_out);
/* Leader: counts of experts that all nodes reported since the last call, by
 * model, layer, expert; at most max. Returns how many. */
uint32_t cluster_experts_take(struct cluster *c, struct expert_count *out,
                              uint32_t max);
/* Operator's (voters, one at a time). */
must_check enum err cluster_transfer(struct cluster *c, const char *to,
                                     uint64_t ticket);
/* A member becomes a voter or ceases to be one. It runs a voter's coord already
 * (it is in its own cluster.voters), with an empty log if it is to begin. */
must_check enum err cluster_voter_set(struct cluster *c, const char *name,
                                      bool voter, uint64_t ticket);

#endif
