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
#include "rpc/transport.h"
#include "server/config.h"
#include "store/store.h"

struct control;

enum { LANE_MAGIC = 0x4c414e45, LANE_TRANSPORTS = 2 };

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
    struct frame_limits limits;

    struct transport *transports[LANE_TRANSPORTS]; /* set by the shell */
    uint32_t transport_n;

    struct pool ops, peers, pins, loans;
    struct list peer_list;
    struct list mem_waiters;  /* ops that wait for memory (BUSY reserve) */
    uint64_t mem_freed_seen;  /* store_freed() when they last tried */
    struct list ns_list;      /* namespaces known here, server/ns.h */
    uint32_t peer_ids, peers_unauthenticated;
    bool draining;
    uint64_t ticks; /* turns done: the watchdog reads it */
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

#endif
