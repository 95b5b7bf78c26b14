/* SPDX-License-Identifier: Apache-2.0
 *
 * The eviction contract. One policy instance orders the evictable blocks of
 * one namespace in one tier of one lane. The same object code runs in the
 * daemon, in the simulator and in `pikv-bench policy`.
 *
 * A block is named by a small id; its struct evict_node lies in an array of
 * the caller (any stride), so a policy allocates nothing per block. Only
 * evictable blocks are members of a policy's order:
 *
 *            insert             hold
 *   (absent) ------> MEMBER  <---------> HELD      victim() names a MEMBER and
 *      ^               |       release     |       does not remove it
 *      +---------------+-------------------+
 *                remove
 *
 * HELD blocks are pinned, in use, or parents of a resident block (leaves before
 * roots). Holding is lazy: a HELD block keeps its place, is counted as used by
 * hit() like any other, and is only parked (taken out of the order) when
 * victim() meets it. So a hold and a release with no victim() between change no
 * decision, each hold costs at most one parking, and victim() is O(1)
 * amortised.
 *   release(cold = true)   the place that its last use gave it; evicted next if
 *                          that place was reached while it was held. For blocks
 *                          whose last child or last ref went.
 *   release(cold = false)  as if used now, without counting a use. For the end
 *                          of a pin.
 *
 * Hints (evict_hint) are what a client says of a block, whatever the policy:
 *   DEAD   not used again (its session is closed): a victim before all others
 *   IDLE   not used soon: a victim when no DEAD one is left
 *   HOT    as if used now, without counting a use
 *   NONE   takes DEAD or IDLE back
 * DEAD and IDLE blocks leave the policy's order for a list in struct evict, in
 * the order in which they were hinted, held ones too (a held one is no victim
 * while it is held, and goes back to its list when released). A hit takes the
 * hint back. Then, or by NONE or HOT, the block enters the policy's order as a
 * new one, with its use count. What goes by a hint leaves no ghost: its going
 * says nothing about the policy.
 *
 * priority (PUT attribute) makes four levels, evict_level(): 0; 1-85; 86-170;
 * 171-255. The list policies pass a block of level n over n times since its
 * last use before it is a victim; scores are multiplied by 4^n. Nothing is
 * kept for ever by priority: that is what pins are for.
 *
 * Invariants: every id is in at most one policy; node.weight is at least 1 and
 * does not change while known; victim() returns EVICT_NONE only if there is no
 * MEMBER; what one victim() call may pass over by priority or use count is
 * bounded (EVICT_PASS_MAX). Decisions use integers only (determinism across
 * builds). Nothing here fails or allocates. Thread: one lane. */
#ifndef STORE_EVICT_H
#define STORE_EVICT_H

#include <assert.h>

#include "base/env.h"
#include "base/err.h"

#define EVICT_NONE UINT32_MAX

enum { EVICT_PASS_MAX = 256 };

struct evict_node {
    uint32_t prev, next; /* the policy's lists, or its place in an array */
    uint32_t weight;     /* 4 KiB pages */
    uint32_t stamp;      /* last use, in the policy's own count of accesses */
    uint8_t queue;       /* which list, or enum evict_hinted; 0 = unknown */
    uint8_t freq;        /* saturating use count, meaning is the policy's */
    uint8_t held;        /* enum evict_held, set by the functions below */
    uint8_t priority;    /* 0 normal to 255 keep longest (PUT attribute) */
};
static_assert(sizeof(struct evict_node) == 20, "part of the 80-byte record");

enum evict_held {
    EVICT_MEMBER, /* not held */
    EVICT_HELD,   /* held, still in its place */
    EVICT_PARKED, /* held, in evict.parked since victim() met it */
};

enum evict_hint {
    EVICT_HINT_NONE,
    EVICT_HINT_IDLE,
    EVICT_HINT_DEAD,
    EVICT_HINT_HOT,
};

/* node.queue of hinted blocks; a policy numbers its own below. */
enum evict_hinted {
    EVICT_QUEUE_IDLE = 254,
    EVICT_QUEUE_DEAD = 255,
};

/* Linked by node.prev (towards the newest) and node.next (to the oldest). */
struct evict_list {
    uint32_t newest, oldest; /* EVICT_NONE when empty */
};

/* What a policy sees of its caller. */
struct evict_host {
    struct evict_node *nodes; /* node of id 0 */
    size_t stride;
    uint32_t ids_max;
    uint64_t pages_max; /* as given to state_bytes; 0 = capacity at init */
    uint64_t (*hash)(void *arg, uint32_t id); /* for ghost entries */
    void *arg;
    struct env *env; /* random only */
};

enum evict_why {
    EVICT_PRESSURE, /* a victim: may be remembered as a ghost */
    EVICT_GONE,     /* dropped by a client, ttl, bump: forget it */
};

struct evict;
struct evict_score;

/* What a policy file implements. hit, release and remove see node.held as it
 * was before the call; a hold needs nothing from a policy. */
struct evict_ops {
    const char *name, *doc;
    /* Bytes of policy state for a tier of at most pages_max pages; from the
     * caller's boot memory. Ghost tables scale with it (16 B an entry). */
    size_t (*state_bytes)(uint64_t pages_max);
    void (*init)(struct evict *e);
    void (*insert)(struct evict *e, uint32_t id); /* MEMBER; new block */
    void (*hit)(struct evict *e, uint32_t id);    /* MEMBER or HELD */
    void (*release)(struct evict *e, uint32_t id, bool cold);
    void (*remove)(struct evict *e, uint32_t id, enum evict_why why);
    uint32_t (*victim)(struct evict *e); /* with no MEMBER: parks all HELD */
    const struct evict_score *score;     /* sampled-score policies, or NULL */
};

struct evict {
    const struct evict_ops *ops;
    struct evict_host host;
    uint64_t capacity_pages; /* live: the namespace's share now */
    uint64_t member_pages, held_pages;
    uint32_t members, held;
    uint32_t clock; /* accesses seen; wraps, ages are differences */
    struct evict_list parked;
    struct evict_list idle, dead; /* hinted */
    void *state;                  /* ops->state_bytes */
};

/* Every policy's ops, and its name and doc as the table gives them. */
#define POLICY(name, ops, doc)                                                 \
    extern const struct evict_ops ops;                                         \
    extern const char ops##_name[], ops##_doc[];
#include "store/evict.tbl"

/* By config string; NULL if unknown. evict_by_idx walks the table (evict.tbl),
 * NULL past its end. */
const struct evict_ops *evict_by_name(const char *name);
const struct evict_ops *evict_by_idx(uint32_t idx);

/* The caller uses these, not ops directly: they keep the counts, the held
 * flag and DEBUG_CHECK the edges of the diagram. state is zeroed memory of
 * ops->state_bytes(pages_max). */
void evict_init(struct evict *e, const struct evict_ops *ops,
                const struct evict_host *host, void *state,
                uint64_t capacity_pages);
void evict_insert(struct evict *e, uint32_t id);
void evict_hit(struct evict *e, uint32_t id);
void evict_hold(struct evict *e, uint32_t id);
void evict_release(struct evict *e, uint32_t id, bool cold);
void evict_remove(struct evict *e, uint32_t id, enum evict_why why);
uint32_t evict_victim(struct evict *e);
/* A HELD block that may go all the same, when there is no MEMBER: of those held
 * longest the first of which may_go says so. At most EVICT_PASS_MAX are asked;
 * the next call asks others. */
uint32_t evict_held_victim(struct evict *e,
                           bool (*may_go)(void *arg, uint32_t id), void *arg);
/* Of a block that is known, held or not. O(1). */
void evict_hint(struct evict *e, uint32_t id, enum evict_hint hint);
void evict_resize(struct evict *e, uint64_t capacity_pages);
/* Live switch: moves all blocks, held ones too, from one policy to another that
 * is empty and fresh from evict_init, oldest use first; stamps, hints and the
 * clock stay. from is empty after. Costs about two operations a block at once.
 */
void evict_switch(struct evict *from, struct evict *to);

static inline struct evict_node *evict_node_at(const struct evict_host *h,
                                               uint32_t id)
{
    return (struct evict_node *)(void *)((char *)h->nodes + h->stride * id);
}

static inline uint8_t evict_level(const struct evict_node *n)
{
    return (uint8_t)((n->priority + 84) / 85);
}

#endif
