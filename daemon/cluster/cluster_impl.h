/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the node core share (cluster.h says what it does):
 *
 *   cluster.c         open, close, events in, the tick, status
 *   cluster_check.c   configuration, hello of both sides
 *   cluster_act.c     actions out: a queue and the bytes they send
 *   cluster_link.c    links, dials
 *   cluster_seek.c    who leads, beats, joining, CUT
 *   cluster_view.c    the published view: taking, pushing on, pulling
 *   cluster_since.c   deltas for who was away
 *   cluster_ask.c     commands on their way to the leader and back
 *   cluster_voter.c   coord: apply, snapshots, roles, the fence
 *   cluster_leader.c  beats in, the detector, states
 *   cluster_experts.c counts of experts
 *   cluster_moves.c   slots: first placement, moves, hand-over, balance
 *   cluster_static.c  the provider `static`
 *
 * Every function runs on the control thread. Names of functions begin with
 * their file's duty: act_, link_, seek_, view_, ask_, voter_, leader_, moves_,
 * static_ - with cl_ in front, because they are global. */
#ifndef CLUSTER_IMPL_H
#define CLUSTER_IMPL_H

#include "base/list.h"
#include "base/log.h"
#include "cluster/balance.h"
#include "cluster/cluster.h"
#include "cluster/detect.h"
#include "cluster/fanout.h"
#include "cluster/peer_msg.h"
#include "cluster/view_pool.h"

enum {
    CL_DIALS = 64,         /* addresses dialed of late */
    CL_DIAL_AGAIN_MS = 700,
    CL_SPREAD_MS = 40,     /* at most one push in this time */
    CL_ASKS_MAX = 256,
    CL_READY_MAX = 8192,
    CL_SEEK_MS = 200,      /* between beats when no leader answers */
    CL_PULL_AGAIN_MS = 300,
    CL_ANSWER_MS = 200,    /* the same answer for all who ask in this time */
    CL_PUBLISH_MS = 20,    /* changes in this time are published at once */
    CL_PULL_LATE_MS = 150, /* a push had its time */
    CL_PUSH_FRESH_MS = 2000, /* a push is owed to a link that comes up */
    CL_TRANSFER_MS = 60000,
    CL_ASK_AGAIN_MS = 300,
    CL_REFUSED_MS = 30000, /* a refused join is asked again */
    CL_MOVES_MS = 100,
    CL_PLACE_MS = 300,     /* between two looks at the placement */
    CL_BALANCE_MS = 3000,
    CL_QUIET_MS = 300,     /* nobody joined for so long: first placement */
    CL_FIRST_MS = 2000,    /* ... or the first joined so long ago */
    CL_EXPERTS_MAX = 4096, /* counted experts of a node between two beats */
    CL_EXPERTS_HEARD_MAX = 1 << 16,
};

/* An action in the queue; its bytes and text are in acts.bytes. */
struct cl_act {
    enum cluster_action_kind kind;
    uint16_t msg;
    int level;
    uint64_t link, ticket;
    size_t at, n;
    struct answer *answer; /* owned */
};

struct cl_acts {
    struct cl_act *ring;
    uint32_t first, n, cap;
    struct bytes bytes;    /* begins anew at a step that finds no actions */
    struct answer *taken;  /* of the action last given out */
    bool publish;          /* comes before all others */
};

struct cl_link {
    uint64_t id;
    char name[NODE_NAME_MAX];
    char dialed[NODE_ADDR_MAX]; /* "" if the peer dialed */
    uint16_t node;              /* index in the view, or NODE_NONE */
    uint32_t generation, incarnation;
    uint64_t uuid;
    uint64_t heard_ms;
    uint64_t pulled_ms; /* last VIEW_PULL sent */
    bool old;           /* that node has a newer link */
    uint64_t beat_seq;  /* leader: the last beat on it */
};

struct cl_dial {
    uint64_t hash, at_ms;
};

enum cl_ask_kind { CL_ASK_CLIENT, CL_ASK_JOIN };

/* A command of this node's, until it is answered. */
struct cl_ask {
    struct list node;
    enum cl_ask_kind kind;
    uint64_t id, ticket, deadline_ms, next_ms;
    bool busy; /* coord has it */
    struct bytes cmd;
};

enum cl_origin { CL_FROM_ASK, CL_FROM_PEER, CL_FROM_DUTY };

/* A command that this leader's coord has. */
struct cl_proposal {
    struct list node;
    struct cluster *c;
    enum cl_origin origin;
    uint64_t id, link;
    bool slots; /* duty: rows of slots, one at a time */
    struct cmd *then; /* operator's: to be proposed after it; owned */
    enum cmd_kind kind;
    struct answer answer;
};

struct cl_load { /* of one node, at the leader */
    bool known;
    uint64_t at_ms;
    struct cluster_load load;
};

struct cl_ready {
    uint16_t slot, node;
    uint64_t epoch;
};

/* A slot that comes here: pulled to be taken over (slot.to is this node), then
 * once more for what came late (REST, after the hand-over). */
struct cl_moved {
    uint16_t slot;
    bool rest, told;
    uint64_t since; /* epoch that began this stage */
};

struct cl_lead { /* only while this node leads */
    uint64_t term, since_ms;
    struct detect detect;
    struct balance balance;
    struct cl_load **loads;   /* NODES_MAX */
    struct cl_ready *ready;   /* who has which slot whole */
    uint32_t ready_n;
    uint32_t *beat_inc;       /* NODES_MAX: incarnation last heard */
    bool slots_busy;
    uint64_t again_ms;          /* but then it may want the same again */
    uint32_t joined_n;
    uint64_t slots_epoch;     /* place_next had nothing at this epoch */
    uint64_t place_ms, moves_ms, balance_ms, joined_ms, first_ms, spread_ms;
    uint64_t transfer_ms;     /* leadership was last offered away */
    bool transferring;
    struct shared_view *spread; /* what was pushed last */
    struct slot_row *rows;      /* CMD_SLOTS_MAX */
};

struct cl_since { /* epochs of changes, as seen here */
    uint64_t first; /* nothing is known of what was before */
    uint64_t nodes[NODES_MAX], born[NODES_MAX];
    uint64_t flushes[VIEW_FLUSHES_MAX], flush_born[VIEW_FLUSHES_MAX];
};

struct cl_answered { /* the last answer to a VIEW_PULL */
    uint32_t generation;
    uint64_t epoch, base, at_ms;
    struct bytes bytes;
};

struct cl_experts { /* sorted */
    struct expert_count *rows;
    uint32_t n, cap;
};

struct cl_peer { /* static: what this node finds of another */
    uint64_t heard_ms;
    bool heard;
};

struct cluster {
    struct cluster_cfg cfg;
    bool is_static, closing, voter_closed;
    uint64_t cluster, raft_id, voters_hash;
    uint64_t now_ms, rng[2];
    struct cl_acts acts;

    struct cl_link *links; /* by id, ascending */
    uint32_t link_n, link_cap;
    struct cl_dial dials[CL_DIALS];

    /* who leads, as far as this node knows */
    char leader[NODE_NAME_MAX], leader_at[NODE_ADDR_MAX];
    uint64_t leader_term, leader_heard_ms, leader_asked_ms, leader_known_ms;
    uint64_t beat_ms, seq;
    uint32_t voter_next;
    uint64_t refused_ms;   /* a join was refused then */
    char refused[512];
    uint64_t newer_link, newer_ms; /* somebody had a newer view then */
    bool expelled, joined; /* joined: our incarnation was in a view */
    uint64_t said_ms;      /* a refusal of a duty was said then */
    enum cluster_phase phase;

    struct shared_view *view;          /* never NULL */
    uint16_t self;
    struct cl_since *since;            /* voters */
    struct cl_answered answered;
    struct bytes push;                 /* the last PEER_VIEW_PUSH handed on */
    uint64_t push_epoch, push_ms;
    struct cl_moved *moved;            /* to be told in beats, if told */
    uint32_t moved_n, moved_cap;
    uint16_t unreachable[64];
    uint32_t unreachable_n;
    struct cluster_load load;
    bool load_known;
    struct cl_experts counted, heard; /* not told yet; told to this leader */

    struct list asks;
    uint32_t ask_n;

    /* voters */
    struct state *state;
    struct coord *coord;
    struct coord_status status;        /* scratch */
    enum coord_role role;
    uint64_t publish_ms;               /* not before */
    bool state_new;                    /* applied since the last publication */
    bool role_new;
    uint64_t role_term;
    bool fenced;                       /* a newer generation: a watcher now */
    uint32_t log_generation;           /* 0: the log is new */
    bool recovered;
    struct list proposals;
    uint32_t proposal_n;
    struct cl_lead *lead;
    void (*closed)(void *arg);
    void *closed_arg;

    struct cl_peer *peers;             /* static; cfg.member_n */
    struct node *members;
};

/* ---- cluster_act.c ---- */
void cl_act_begin(struct cluster *c);
void cl_act_send(struct cluster *c, uint64_t link, uint16_t msg, const void *p,
                 size_t n);
/* Packs and sends; what does not fit the peer's limits is not sent. */
void cl_act_pack(struct cluster *c, uint64_t link, uint16_t msg,
                 const void *pb);
/* The same bytes to one more link: at, n of an earlier action. */
void cl_act_dial(struct cluster *c, const char *peer);
void cl_act_hang_up(struct cluster *c, uint64_t link, const char *why);
void cl_act_answer(struct cluster *c, uint64_t ticket,
                   const struct answer *answer);
void cl_act_say(struct cluster *c, int level, const char *fmt, ...)
    printf_like(3, 4);
void cl_act_fatal(struct cluster *c, const char *why);
void cl_act_fini(struct cluster *c);

/* ---- cluster_check.c ---- */
must_check enum err cl_check_cfg(const struct cluster_cfg *cfg,
                                 struct errmsg *m);
uint64_t cl_voters_hash(const struct cluster_cfg *cfg);
/* Hello's generation, epoch; false: nonsense. */
bool cl_hello_of(const uint8_t *p, size_t n, struct node *who_out,
                 uint32_t *generation_out);

/* ---- cluster_link.c ---- */
struct cl_link *cl_link_get(struct cluster *c, uint64_t id);
struct cl_link *cl_link_named(struct cluster *c, const char *name);
struct cl_link *cl_link_node(struct cluster *c, uint16_t node);
void cl_link_up(struct cluster *c, const struct cluster_event *ev);
void cl_link_down(struct cluster *c, const struct cluster_event *ev);
void cl_link_drop(struct cluster *c, uint64_t id);
/* The view is another than old: which member is behind each link? */
void cl_link_names(struct cluster *c, const struct view *old);
/* Wants a link to that address, not too often. */
void cl_link_dial(struct cluster *c, const char *peer);

/* ---- cluster_seek.c ---- */
void cl_seek_tick(struct cluster *c);
void cl_seek_reply(struct cluster *c, struct cl_link *l,
                   const Peer__BeatReply *m);
void cl_seek_link_up(struct cluster *c, struct cl_link *l);
void cl_seek_link_down(struct cluster *c, const char *name);
void cl_seek_view(struct cluster *c);
struct cl_link *cl_seek_leader(struct cluster *c);
void cl_seek_refused(struct cluster *c, const struct answer *a);
/* Packs this node's beat for a link. */
void cl_seek_beat(struct cluster *c, struct cl_link *l);
void cl_seek_answer_beat(struct cluster *c, struct cl_link *l,
                         const Peer__Beat *b);

/* ---- cluster_view.c ---- */
/* Publishes s (takes the reference) unless what is there is as new. */
bool cl_view_take(struct cluster *c, struct shared_view *s);
void cl_view_from_state(struct cluster *c);
void cl_view_push(struct cluster *c, struct cl_link *l,
                  const Peer__ViewPush *m);
void cl_view_pull(struct cluster *c, struct cl_link *l,
                  const Peer__ViewPull *m);
void cl_view_ask(struct cluster *c, struct cl_link *l);
void cl_view_link_up(struct cluster *c, struct cl_link *l);
void cl_view_spread(struct cluster *c); /* leader */
void cl_view_moved(struct cluster *c, uint32_t slot, uint64_t epoch);
void cl_view_fini(struct cluster *c);

/* ---- cluster_since.c ---- */
void cl_since_note(struct cluster *c, const struct view *old,
                   const struct view *v);
/* The bytes for who has that epoch: a delta to it, or all (base 0). */
const struct cl_answered *cl_since(struct cluster *c, uint32_t generation,
                                   uint64_t since);
void cl_since_fini(struct cluster *c);

/* ---- cluster_ask.c ---- */
void cl_ask_client(struct cluster *c, const struct cmd *cmd, uint64_t ticket);
void cl_ask_join(struct cluster *c);
bool cl_ask_joining(const struct cluster *c);
void cl_ask_tick(struct cluster *c);
void cl_ask_again(struct cluster *c); /* there is a (new) leader */
void cl_ask_propose(struct cluster *c, struct cl_link *l,
                    const Peer__Propose *m);
void cl_ask_proposed(struct cluster *c, const Peer__Proposed *m);
/* A command of the leader's own. */
must_check enum err cl_ask_duty(struct cluster *c, struct cmd *cmd);
void cl_ask_fini(struct cluster *c);

/* ---- cluster_voter.c ---- */
must_check enum err cl_voter_open(struct cluster *c, struct errmsg *m);
void cl_voter_tick(struct cluster *c);
void cl_voter_receive(struct cluster *c, struct cl_link *l, const uint8_t *p,
                      size_t n);
/* A peer of that generation: this voter is of the past. */
void cl_voter_fence(struct cluster *c, uint32_t generation);
void cl_voter_close(struct cluster *c);
bool cl_leads(const struct cluster *c);

/* ---- cluster_leader.c ---- */
void cl_leader_begin(struct cluster *c, uint64_t term);
void cl_leader_end(struct cluster *c);
void cl_leader_tick(struct cluster *c);
void cl_leader_beat(struct cluster *c, struct cl_link *l, const Peer__Beat *b);
void cl_leader_done(struct cluster *c, const struct cl_proposal *p,
                    enum err err);

/* ---- cluster_moves.c ---- */
void cl_moves_tick(struct cluster *c);
void cl_moves_ready(struct cluster *c, uint16_t node, uint32_t slot,
                    uint64_t epoch);
uint32_t cl_moves_under_way(const struct view *v);

/* ---- cluster_experts.c ---- */
void cl_experts_count(struct cluster *c, const struct cluster_load *l);
void cl_experts_pack(struct cluster *c, Peer__Load *m);
void cl_experts_sent(struct cluster *c, Peer__Load *m, bool to_leader);
void cl_experts_heard(struct cluster *c, const Peer__Load *m);
void cl_experts_fini(struct cluster *c);

/* ---- cluster_static.c ---- */
must_check enum err cl_static_open(struct cluster *c, struct errmsg *m);
void cl_static_tick(struct cluster *c);
void cl_static_beat(struct cluster *c, struct cl_link *l);
void cl_static_fini(struct cluster *c);

static inline const struct view *cl_view(const struct cluster *c)
{
    return &c->view->v;
}

uint64_t cl_random(struct cluster *c);

#endif
