/* SPDX-License-Identifier: Apache-2.0
 *
 * A world of voters in memory: one virtual clock, one seed, disks that outlive
 * their nodes, and a network between them. For whatever speaks through raft_io
 * and sends bytes (coord.h).
 *
 *   node --raft_io--> disk: set_term, set_vote at once; append, truncate and
 *                     installed snapshots in one queue, in order; own snapshots
 *                     and loads of one beside it
 *   node --bytes----> net: latency, loss, links cut in one direction
 *
 * The disk is what libraft 0.15's raft_uv does, no more friendly: a write that
 * was not completed is lost at a crash or not, in order; a failing write leaves
 * nothing. Its own raft_fixture corrupts memory once there are snapshots.
 *
 * raft_mem_step gives the next event and moves the clock to it. Everything is
 * by the seed: the same calls give the same events. */
#ifndef LIB_RAFT_MEM_H
#define LIB_RAFT_MEM_H

#include <raft.h>

#include "base/base.h"
#include "base/list.h"

enum { RAFT_MEM_NODES = 8 };

struct raft_mem_snapshot {
    raft_index index, conf_index; /* 0: none */
    raft_term term;
    void *conf; /* encoded */
    size_t conf_n;
    void *data;
    size_t n;
};

struct raft_mem_entry {
    raft_term term;
    unsigned short type;
    uint32_t n;
    void *data;
};

/* What survives. */
struct raft_mem_disk {
    raft_term term;
    raft_id vote;
    raft_index first; /* index of entries[0] */
    struct raft_mem_entry *entries;
    uint32_t n, cap;
    struct raft_mem_snapshot snapshot;
};

struct raft_mem;

struct raft_mem_node {
    struct raft_mem *world;
    uint32_t at;
    bool up; /* between raft_mem_boot and raft_mem_crash */
    struct raft_io io;
    struct raft_mem_disk disk;
    struct list queue; /* of raft_mem_op, in order of submission */
    uint64_t queue_ms; /* when the last of the queue ends */
    raft_index next_index;
    raft_io_tick_cb tick;
    uint32_t tick_ms;
    uint32_t life; /* events of earlier lives are void */
    /* Knobs. */
    uint32_t disk_ms, net_ms; /* at most; each takes 1 to that */
    bool steady;              /* exactly that */
    int32_t fail_in;     /* the write that fails: 0 the next; below: none */
    uint32_t timeout_ms; /* what random gives; 0: by chance */
    bool cut[RAFT_MEM_NODES]; /* nothing of this node gets there */
    uint32_t loss_pct;
    bool forgetful; /* a crash loses all that is under way, not by chance */
};

typedef void raft_mem_deliver_fn(void *arg, uint32_t to, uint32_t from,
                                 const uint8_t *p, size_t n);

struct raft_mem_event;

struct raft_mem {
    uint64_t now_ms, seed, order;
    uint64_t trace; /* hash of all events so far */
    struct raft_mem_node node[RAFT_MEM_NODES];
    struct raft_mem_event *heap; /* by time, then by order */
    uint32_t heap_n, heap_cap;
    raft_mem_deliver_fn *deliver;
    void *arg;
};

void raft_mem_init(struct raft_mem *w, uint64_t seed,
                   raft_mem_deliver_fn *deliver, void *arg);
void raft_mem_fini(struct raft_mem *w); /* all nodes are down */
uint32_t raft_mem_chance(struct raft_mem *w, uint32_t n); /* 0 to n - 1 */

/* A fresh raft_io on the node's disk. */
struct raft_io *raft_mem_boot(struct raft_mem *w, uint32_t node);
/* The node stops here: what was under way is on its disk or not, by chance.
 * The owner closes its raft afterwards, whose callbacks then run. */
void raft_mem_crash(struct raft_mem *w, uint32_t node);
/* As a stop in order: all that was submitted is written. */
void raft_mem_stop(struct raft_mem *w, uint32_t node);
void raft_mem_wipe(struct raft_mem *w, uint32_t node); /* a new disk */

void raft_mem_send(struct raft_mem *w, uint32_t from, uint32_t to,
                   const uint8_t *p, size_t n);
void raft_mem_cut(struct raft_mem *w, uint32_t a, uint32_t b, bool cut);
void raft_mem_heal(struct raft_mem *w); /* no cuts, no loss, no faults */

/* The next event by end_ms; false: none, the clock is at end_ms. */
bool raft_mem_step(struct raft_mem *w, uint64_t end_ms);
void raft_mem_run(struct raft_mem *w, uint64_t ms);

#endif
