/* SPDX-License-Identifier: Apache-2.0
 *
 * Voters over raft_mem with a state machine that notices everything: each
 * command is a number that is used once, and the rig knows what was applied at
 * each index by whoever came first.
 *
 * found (a bit each):
 *   DIVERGED     two nodes applied different commands at an index, or a
 *                snapshot is not of the sequence all others applied
 *   TWICE        a command was applied at two indexes; or done ran twice, or
 *                inside its propose
 *   LOST         an acknowledged command is not in the sequence in the end
 *   TWO_LEADERS  of one term
 *   UNAVAILABLE  a node ended for another reason than its disk
 *   STUCK        no progress although all is well
 */
#ifndef LIB_COORD_RIG_H
#define LIB_COORD_RIG_H

#include "cluster/coord.h"
#include "lib/raft_mem.h"

enum {
    RIG_DIVERGED = 1,
    RIG_TWICE = 2,
    RIG_LOST = 4,
    RIG_TWO_LEADERS = 8,
    RIG_UNAVAILABLE = 16,
    RIG_STUCK = 32,
    RIG_INDEXES = 1 << 16,
    RIG_VALUES = 1 << 14,
    RIG_TERMS = 1 << 12,
};

struct rig;

struct rig_node {
    struct rig *rig;
    uint32_t at;
    struct coord *c;         /* NULL: down */
    bool ended;              /* fatal was told: to be closed */
    bool faulty;             /* its disk was made to fail */
    uint64_t last, chain, n; /* the state machine */
    uint32_t restored;
    enum coord_role role;
};

struct rig {
    struct raft_mem w;
    struct rig_node node[RAFT_MEM_NODES];
    uint32_t voter_n; /* nodes 0 to voter_n - 1 are the first voters */
    struct coord_cfg cfg;
    struct coord_voter voters[RAFT_MEM_NODES];
    unsigned found;
    uint32_t snapshot_bytes;
    uint64_t values, acked, refused, unknown, closes;
    uint64_t static_ms; /* provider static: ticks */
    bool proposing;
    uint64_t *value_at, *chain_at; /* by index */
    uint64_t *index_of;            /* by value */
    uint8_t *state_of;             /* by value */
    uint32_t *leader_of;           /* by term: node + 1 */
    enum err change_err;
    bool change_done;
};

enum { VALUE_NONE, VALUE_WAITS, VALUE_ACKED, VALUE_FAILED };

void crig_init(struct rig *r, uint64_t seed, uint32_t voters,
               const struct coord_cfg *cfg);
void crig_fini(struct rig *r); /* stops all */
void crig_boot(struct rig *r, uint32_t node);
void crig_boot_all(struct rig *r);
void crig_crash(struct rig *r, uint32_t node);
void crig_stop(struct rig *r, uint32_t node);
void crig_run(struct rig *r, uint64_t ms);
/* One event; false: none by end_ms. Closes nodes that ended. */
bool crig_step(struct rig *r, uint64_t end_ms);
uint64_t crig_commit(struct rig *r, uint32_t node);
/* The next number on that node; its value, or 0 if it was refused. */
uint64_t crig_propose(struct rig *r, uint32_t node);
enum err crig_try(struct rig *r, uint32_t node, uint64_t *value_out);
int crig_leader(struct rig *r); /* of the highest term; -1 */
/* Runs until some node leads, at most ms. */
int crig_elect(struct rig *r, uint64_t ms);
/* Bit masks of nodes: they hear each other, nobody hears the rest. */
void crig_groups(struct rig *r, const uint32_t *masks, uint32_t n);
bool crig_add(struct rig *r, uint32_t on, uint32_t node);
bool crig_remove(struct rig *r, uint32_t on, uint32_t node);
/* All is well again: boots all, waits, and checks that they agree. */
void crig_settle(struct rig *r, uint64_t ms);
const char *crig_found(unsigned found, char *buf, size_t cap);

#endif
