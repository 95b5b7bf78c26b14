/* SPDX-License-Identifier: Apache-2.0
 *
 * The view: who is in the cluster and who owns which slot, at one epoch. Every
 * decision of "which node" is made by a function of this file, in daemons and
 * in the simulator alike; libpikv follows the same rules (client/view.c).
 *
 *     slot --> owner[0]  the home: serves reads and writes of the slot
 *              owner[1], owner[2]  next in order: they stand in for the ones
 *                        before them that are DOWN, and hold the replicas
 *              from      not NODE_NONE: the slot was handed over from there;
 *                        the home pulls from it what it does not have
 *              to        not NODE_NONE: the home streams the slot there; the
 *                        home serves until the hand-over (owner[0] := to)
 *              heat      extra replicas for reads because it is hot (0: none)
 *
 * A node index (u16) is given at the first join and never reused within a
 * cluster's generation; names are unique among nodes that are not REMOVED.
 *
 * Invariants
 *  1. The owners of a slot differ from each other; NODE_NONE fills the tail.
 *  2. An owner is a member that is not REMOVED and not JOINING.
 *  3. Of two views of one cluster generation the one with the larger epoch is
 *     the newer; equal epochs mean equal bytes (view_digest).
 *
 * A struct view is plain data: copied by view_copy, immutable once published.
 * Integers only: all builds compute the same. */
#ifndef CLUSTER_VIEW_H
#define CLUSTER_VIEW_H

#include "base/base.h"
#include "base/err.h"
#include "cluster/bytes.h"
#include "proto/wire.h"

enum {
    NODE_NONE = 0xffff,
    NODES_MAX = 4096,    /* indexes, REMOVED ones included */
    NODE_NAME_MAX = 64,  /* with the NUL; as node.name */
    NODE_ADDR_MAX = 128, /* with the NUL */
    NODE_LANES_MAX = 64,
    VIEW_COPIES = 3,
    VIEW_VOTERS_MAX = 7,
    VIEW_FLUSHES_MAX = 4096,
};

/*   JOINING --beats--> UP <--> DOWN --10 min, or by hand--> REMOVED
 *                      |  ^     |
 *                      v  |     v
 *                     DRAINING (owns until its slots have moved; places none)
 * SUSPECT is not replicated: it is the leader's own mark (detect.h). */
enum node_state {
    NODE_JOINING,
    NODE_UP,
    NODE_DRAINING,
    NODE_DOWN,
    NODE_REMOVED,
};
const char *node_state_name(enum node_state s);

struct node {
    char name[NODE_NAME_MAX];
    uint64_t uuid;        /* random, kept in state_dir: another machine with the
                           * same name is refused */
    uint32_t incarnation; /* +1 at every start, kept before the first beat */
    uint8_t state;        /* enum node_state */
    bool drained;         /* was DRAINING when it went DOWN: comes back so */
    bool voter;
    uint16_t lane_n; /* 1 to NODE_LANES_MAX */
    uint32_t weight; /* capacity in MiB of all tiers, at least 1 */
    uint32_t speaks; /* highest feature level that it knows */
    char zone[NODE_NAME_MAX], rack[NODE_NAME_MAX];
    char peer[NODE_ADDR_MAX]; /* HOST:PORT of its peer listener */
    char shm[NODE_ADDR_MAX];  /* "shm:PATH" of lane 0, i: PATH.i; "" none */
    char ucx[NODE_ADDR_MAX];  /* "ucx:HOST:PORT" of lane 0; lane i: PORT + i */
    uint64_t host;            /* equal on nodes of one machine: shm may work */
};

struct slot {
    uint16_t owner[VIEW_COPIES];
    uint16_t from, to;
    uint8_t heat;
    uint8_t spare;
};
static_assert(sizeof(struct slot) == 12, "768 KiB a view");

/* How often a namespace was flushed: a node that was away compares, and flushes
 * what it kept. */
struct view_flush {
    uint64_t name; /* hash_64(0, namespace) */
    uint64_t count;
};

struct view {
    uint64_t cluster;    /* hash of the cluster's id */
    uint32_t generation; /* +1 by `coord recover`: fences the old voters */
    uint64_t epoch;      /* 0: none yet */
    uint32_t node_n;     /* indexes in use */
    struct node *nodes;  /* NODES_MAX allocated lazily by view_room */
    struct slot *slots;  /* WIRE_SLOTS */
    uint32_t flush_n;
    struct view_flush *flushes;   /* in the order of their first flush */
    uint32_t node_cap, flush_cap; /* what is behind _n is zero */
};

/* An empty view with its slots allocated (all NODE_NONE). */
must_check enum err view_init(struct view *v);
void view_fini(struct view *v);
/* Makes to (initialised) equal to from. */
must_check enum err view_copy(struct view *to, const struct view *from);
/* Room for n nodes; NO_MEMORY, LIMIT. New ones are zero. node_n stays: it is
 * the caller who counts them in. */
must_check enum err view_room(struct view *v, uint32_t n);
must_check enum err view_flush_room(struct view *v, uint32_t n);
/* How often the namespace was flushed; 0: never. */
uint64_t view_flushes(const struct view *v, const char *ns);

/* Index of the member of that name that is not REMOVED, or NODE_NONE. */
uint16_t view_find(const struct view *v, const char *name);

/* May a node be given slots? UP only. Does it answer? UP or DRAINING. */
static inline bool node_places(const struct node *n)
{
    return n->state == NODE_UP;
}
static inline bool node_serves(const struct node *n)
{
    return n->state == NODE_UP || n->state == NODE_DRAINING;
}

/* Who serves a slot now: the first owner that answers, NODE_NONE if none. */
uint16_t view_serving(const struct view *v, uint32_t slot);
/* The copy-th (0 the first) answering owner: where replica number copy of a
 * block goes; NODE_NONE if there are not so many. */
uint16_t view_replica(const struct view *v, uint32_t slot, uint32_t copy);
/* Everybody who may hold blocks of the slot: owners, from, to, that are not
 * REMOVED. Returns how many (at most VIEW_COPIES + 2). */
uint32_t view_holders(const struct view *v, uint32_t slot,
                      uint16_t out[VIEW_COPIES + 2]);
/* May node serve writes of the slot: view_serving, or a replica of it. */
bool view_owns(const struct view *v, uint32_t slot, uint16_t node);

/* The invariants, as far as one view shows them; what does not hold, in words,
 * or NULL. Decoding accepts nothing else. states: of the node_n nodes. */
const char *view_node_wrong(const struct node *n);
const char *view_slot_wrong(const struct slot *s, const uint8_t *states,
                            uint32_t node_n);
const char *view_wrong(const struct view *v);

/* XXH3-64 over everything, in a fixed byte order. */
uint64_t view_digest(const struct view *v);

/* ---- bytes: the peers' and the disk's form (view_code.c) ----
 * Little-endian, versioned, with a crc; slots run-length coded by row. */
void view_encode(const struct view *v, struct bytes *out);
/* All or nothing: v is replaced only by a whole, valid view. BAD_REQUEST names
 * nothing: a stranger's bytes. */
must_check enum err view_decode(struct view *v, const uint8_t *p, size_t n);
/* The difference between two views of one generation (to is not older), and its
 * application, all or nothing and without a copy: delta.base_epoch must be v's.
 * What changed in a few nodes or slots takes well under 1 KiB. STALE_EPOCH:
 * another base, or another generation. */
void view_delta(const struct view *from, const struct view *to,
                struct bytes *out);
must_check enum err view_apply_delta(struct view *v, const uint8_t *p,
                                     size_t n);

#endif
