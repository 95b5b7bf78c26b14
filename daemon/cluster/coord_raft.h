/* SPDX-License-Identifier: Apache-2.0
 *
 * The provider `raft` in two files: coord_raft.c proposes, changes and tells,
 * coord_raft_open.c opens, applies and restores. */
#ifndef CLUSTER_COORD_RAFT_H
#define CLUSTER_COORD_RAFT_H

#include "cluster/coord_impl.h"
#include "cluster/raft_guard.h"

enum {
    COORD_VOTERS_MAX = 7,
    COORD_HEAD = 8, /* bytes before a command on the log */
};

struct raft_proposal {
    struct raft_apply req;
    struct coord_raft *c;
    struct list in;
    coord_done_fn *done;
    void *arg, *answer;
    enum err result;
};

enum change_step { CHANGE_NONE, CHANGE_ADD, CHANGE_PROMOTE, CHANGE_REMOVE };

struct coord_raft {
    struct coord coord;
    struct raft raft;
    struct raft_fsm fsm;
    struct raft_guard guard;
    bool opened;
    enum coord_role role;
    uint64_t term;
    struct list waiting, finished; /* of raft_proposal */
    uint32_t proposals;

    struct {
        struct raft_change req;
        enum change_step step;
        bool ended; /* the step: result says how */
        enum err result;
        uint64_t id;
        coord_done_fn *done;
        void *arg;
    } change;
    struct {
        struct raft_transfer req;
        bool on, ended;
        enum err result;
        coord_done_fn *done;
        void *arg;
    } transfer;

    bool closing, close_begun;
    void (*closed)(void *arg);
    void *closed_arg;
};

/* coord_raft.c: what the guard tells. */
void coord_raft_send(void *arg, const struct raft_message *m);
void coord_raft_fatal(void *arg, const char *why);
void coord_raft_after(void *arg);
void coord_raft_idle(void *arg);
void coord_raft_close_begin(struct coord_raft *c);
/* "name peer" of a voter, as libraft keeps it; false: too long, or there. */
must_check bool coord_raft_server(struct raft_configuration *conf,
                                  const struct coord_voter *v, int role);
/* coord_raft_open.c */
enum err coord_raft_open(const struct coord_cfg *cfg,
                         const struct coord_events *ev, struct coord **out,
                         struct errmsg *m);

#endif
