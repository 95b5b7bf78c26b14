/* SPDX-License-Identifier: Apache-2.0
 *
 * The contract of a coordination provider: it puts commands into one order that
 * all of its members agree on. What the commands mean is state.h's business.
 *
 *   propose(bytes) ----> provider ----> apply(index, bytes) on every voter,
 *        ^                               in the same order, each exactly once
 *        +---- done(err, answer) ----     since the last snapshot it restored
 *
 * Providers (coord_table, by name; one conformance suite, test_coord.c):
 *   static   one member, or a list that never changes: this node alone is the
 *            order; every node of a static list starts from the same commands
 *   raft     libraft behind raft_guard.h; voters only
 *   (etcd may follow: nothing here supposes that the order is made in-process)
 *
 * Sans I/O: messages of other voters come in by coord_receive and leave by
 * ev.send; time by coord_tick; the disk is behind raft_io (server/raft_disk.c;
 * in tests tests/lib/raft_mem.c). Callbacks may run inside the call that leads
 * to them, except done of a propose, which never runs inside that propose.
 *
 * Errors of a propose: NO_QUORUM (no leader, or leadership was lost before it
 * was known to be committed: it may still happen, say it again with the same
 * id), WRONG_NODE (another leads: coord_leader), BUSY (too many under way),
 * LIMIT, IO (the disk failed; the process should end: ev.fatal). */
#ifndef CLUSTER_COORD_H
#define CLUSTER_COORD_H

#include "base/err.h"

struct coord;
struct raft_io;

enum { COORD_PROPOSALS = 256, COORD_MESSAGE_MAX = 4 << 20 };

enum coord_role { COORD_FOLLOWER, COORD_CANDIDATE, COORD_LEADER };

struct coord_events {
    /* The next command. answer is for whoever proposed it here. */
    void (*apply)(void *arg, uint64_t index, const uint8_t *p, size_t n,
                  void *answer);
    /* A snapshot of all that was applied; malloc'ed, the provider frees it. */
    enum err (*snapshot)(void *arg, uint8_t **p_out, size_t *n_out);
    enum err (*restore)(void *arg, uint64_t index, const uint8_t *p, size_t n);
    void (*role)(void *arg, enum coord_role role, uint64_t term);
    /* To the voter with that id; may be lost. */
    void (*send)(void *arg, uint64_t to, const uint8_t *p, size_t n);
    /* The provider cannot go on (disk, or what must never happen). */
    void (*fatal)(void *arg, const char *why);
    void *arg;
};

struct coord_voter {
    uint64_t id;     /* hash_64(0, name): stable, not 0 */
    char name[64];
    char peer[128];
};

struct coord_cfg {
    const char *provider; /* "static", "raft" */
    uint64_t self;        /* id; of a voter */
    const struct coord_voter *voters; /* the first configuration */
    uint32_t voter_n;
    struct raft_io *io;       /* raft: the disk and clock, not started; the
                               * provider wraps it and closes it */
    uint32_t election_ms;     /* 0: 1000 */
    uint32_t heartbeat_ms;    /* 0: 100 */
    uint32_t snapshot_after;  /* entries; 0: 1024 */
    uint32_t snapshot_trailing; /* 0: 128 */
    bool recover;   /* the log goes on with self as its only voter, whatever it
                     * says (raft_recover): `pikvctl coord recover` */
    bool unguarded; /* tests only: shows that the guard is needed */
};

struct coord_status {
    const char *provider;
    enum coord_role role;
    uint64_t term, leader, commit, applied, last; /* leader: id, 0 unknown */
    uint32_t voter_n;
    struct coord_voter voters[7];
    uint64_t guarded; /* messages that the guard dropped or clamped */
};

/* Done once; err OK: committed and applied here, answer filled by ev.apply. */
typedef void coord_done_fn(void *arg, enum err err, void *answer);

/* Loads what the disk has (restore and apply run) and takes part. */
must_check enum err coord_open(const struct coord_cfg *cfg,
                               const struct coord_events *ev,
                               struct coord **out, struct errmsg *m);
/* Ends: proposals under way are done with CANCELED; closed runs when the disk
 * is at rest (may be at once), after which nothing of it runs any more. */
void coord_close(struct coord *c, void (*closed)(void *arg), void *arg);
/* p is copied. answer: handed to ev.apply on this node. */
must_check enum err coord_propose(struct coord *c, const uint8_t *p, size_t n,
                                  coord_done_fn *done, void *arg, void *answer);
void coord_receive(struct coord *c, uint64_t from, const uint8_t *p, size_t n);
/* Moves time on, for providers whose io has no clock of its own. */
void coord_tick(struct coord *c, uint64_t now_ms);
enum coord_role coord_role(const struct coord *c);
uint64_t coord_leader(const struct coord *c); /* 0 unknown */
void coord_status(const struct coord *c, struct coord_status *out);
/* Operator's: leadership to another voter (0: any); voters one at a time,
 * refused with BUSY while a change or a snapshot is under way. */
must_check enum err coord_transfer(struct coord *c, uint64_t to,
                                   coord_done_fn *done, void *arg);
must_check enum err coord_voter_add(struct coord *c,
                                    const struct coord_voter *v,
                                    coord_done_fn *done, void *arg);
must_check enum err coord_voter_remove(struct coord *c, uint64_t id,
                                       coord_done_fn *done, void *arg);

#endif
