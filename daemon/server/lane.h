/* SPDX-License-Identifier: Apache-2.0
 *
 * One data lane: its store, peers, ops in flight, timers, mailbox. Share
 * nothing: every member belongs to the lane's thread except the mailbox and
 * the metrics (read by others). The shell (loop.c) or the simulator drives it:
 *
 *     lane_turn()      until it says there is nothing to do
 *     lane_next_ns()   sleep until then, a wake-up, or transport readiness
 *
 * Nothing in here or below it reads a clock or blocks. */
#ifndef SERVER_LANE_H
#define SERVER_LANE_H

#include "base/env.h"
#include "base/mailbox.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "base/timer.h"
#include "base/trace.h"
#include "cluster/view.h"
#include "rpc/transport.h"
#include "server/config.h"
#include "server/heat.h"
#include "server/moves.h"
#include "server/opens.h"
#include "server/registry.h"
#include "server/ssd_link.h"
#include "store/mrc.h"
#include "store/store.h"

struct control;

enum {
    LANE_MAGIC = 0x4c414e45,
    LANE_TRANSPORTS = 2,
    LANE_SIZES = 4, /* times what there is: the largest that SIZE answers */
};

/* Wakes another lane that holds more memory than its part (unit_pool.h). */
struct lane_nudge {
    struct mail mail;
    uint32_t posted; /* atomic: the mail is the receiver's */
};

struct lane {
    uint32_t magic;
    uint32_t idx, lanes;
    const struct config *cfg; /* immutable; swapped by mail on reload */
    struct env env;
    struct metrics metrics;
    struct trace trace;
    struct timers timers;
    struct mailbox mailbox;
    struct control *control; /* post only */
    struct store *store;
    struct ssd_link link; /* the SSDs; .ssd.n 0: none */
    struct mrc mrc;       /* what another size would bring (op_size.c) */
    uint64_t mrc_fade_ns; /* when its counts are halved */
    uint64_t dram_bytes;  /* of the shared pool */
    struct frame_limits limits;

    struct transport *transports[LANE_TRANSPORTS]; /* set by the shell */
    uint32_t transport_n;

    struct pool ops, peers, pins, loans, refusals, layouts;
    struct opens opens;
    struct pool spans; /* arrays of STORE_SPANS_MAX, for split blocks */
    size_t op_arena_bytes;
    struct list peer_list;
    struct list *pin_heads;   /* pins by block, pins.c */
    struct list mem_waiters;  /* ops that wait for memory (BUSY reserve) */
    uint64_t mem_freed_seen;  /* store_freed() when they last tried */
    struct list *event_waits; /* by namespace id: ops that wait for an event */
    uint32_t event_sleepers;  /* how many these are */
    uint64_t events_told;     /* they were told of all events before it */
    struct registry_ns *ns;   /* by namespace id; .id 0: not known here */
    const struct view *view;  /* control's; NULL: a single node, or none yet */
    uint64_t epoch;           /* of view, else 0 */
    uint16_t self_node;       /* this node's index in view, or NODE_NONE */
    struct heat heat;         /* of slots (heat.h) */
    struct lane_moves mv;     /* moves.h */
    struct wants wants;       /* wants.h */
    uint32_t ns_max;
    uint32_t peer_n, peer_ids, peers_unauthenticated;
    struct lane_nudge nudges[UNIT_LANES_MAX];
    uint64_t nudge_ns; /* others are not nudged again before */
    bool draining;
    bool viewless; /* in a cluster, and its view has not come: no blocks yet */
    bool closing;   /* no op is left or will come: nothing new is begun */
    uint64_t ticks; /* turns done, atomic: the watchdog reads it */

    /* Set by the shell before lane_init. */
    uint64_t ssd_bytes; /* of all SSDs; 0: none */
    /* Set by the shell before the first turn. */
    struct moves *moves; /* the puller's; NULL: nothing moves here */
    int loan_fds[STORE_POOLS]; /* read-only memfds of the loan pools, or -1 */
    uint64_t loan_pool_bytes[STORE_POOLS];
    uint32_t own_uid;
    char addr_shm[128], addr_ucx[128]; /* what HELLO tells clients; "" none */
};

/* pools[]: see store.h. The lane keeps cfg and control. */
must_check enum err lane_init(struct lane *l, const struct config *cfg,
                              uint32_t idx, uint32_t lanes,
                              struct unit_pool *const pools[STORE_POOLS],
                              struct control *control);
void lane_fini(struct lane *l);

extern const struct tp_events lane_events; /* for every transport of a lane */

/* One bounded turn: mail, transports, timers, store upkeep. env.now_ns must be
 * fresh. true: there is more to do now. */
bool lane_turn(struct lane *l);
/* When a turn is due by itself; DEADLINE_NEVER if only events matter. */
uint64_t lane_next_ns(const struct lane *l);
/* Stops accepting work; ops in flight go on. lane_drained: none are left. */
void lane_drain(struct lane *l);
bool lane_drained(const struct lane *l);
/* Tells the lane of a namespace, or of a changed one; control's mail does it,
 * or the boot before the first turn. */
must_check enum err lane_ns_set(struct lane *l, const struct registry_ns *ns,
                                const struct store_ns_cfg *cfg);
/* The namespace a request names, at the generation it knows; OK or the error
 * to answer. ns_out is valid until the next turn. */
must_check enum err lane_ns_find(const struct lane *l, uint32_t id,
                                 uint64_t generation,
                                 const struct registry_ns **ns_out);
/* A GET found this key, or a PUT stored it because it was not here. */
void lane_accessed(struct lane *l, struct hash128 hash, uint64_t len);
/* Tells the ops that wait for events what this turn brought (op_subscribe.c).
 */
void lane_wake_events(struct lane *l);
/* Asks the lanes that hold more memory than their part to give some back; at
 * most once a millisecond, since waiting ops try again as often. */
void lane_nudge_others(struct lane *l);

/* Counters of all lanes, and of what control has beside them, added to *to. */
void lanes_metrics(const struct control *c, struct metrics *to);

#endif
