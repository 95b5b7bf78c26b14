/* SPDX-License-Identifier: Apache-2.0
 *
 * What makes Debian's libraft 0.15.0 a safe Raft: one decorator of its raft_io,
 * public header only. The rules, each with what happens without it, are at the
 * top of raft_guard.c; tests/sim/raft_fuzz.c shows that they are needed and
 * that they suffice.
 *
 *              struct raft  (libraft)
 *                | v-table of raft_io, replaced in place
 *             raft_guard ---- send ----> the owner's own wire (coord_raft.c)
 *                | what it replaced    <---- raft_guard_receive
 *             raft_uv or raft_mem: the disk and the clock only
 *
 * Every entry into libraft lies between raft_guard_enter and raft_guard_leave
 * (the guard does so itself for ticks, messages and completions). Completions
 * of sends, the barrier of a new leader and the owner's `after` run when the
 * outermost leaves: libraft's own stack is empty then. One thread. */
#ifndef CLUSTER_RAFT_GUARD_H
#define CLUSTER_RAFT_GUARD_H

#include <raft.h>

#include "base/err.h"
#include "base/list.h"

enum {
    RAFT_CONF_SERVERS = 16,  /* in a configuration of a peer */
    RAFT_CONF_ADDRESS = 200, /* bytes of an address, with its NUL */
};

struct raft_guard_events {
    /* To m->server_id; borrowed. */
    void (*send)(void *arg, const struct raft_message *m);
    /* libraft is at rest; what is called here may enter it again. */
    void (*after)(void *arg);
    /* The last that runs when the outermost leaves: may close. */
    void (*idle)(void *arg);
    /* Once, before `after`: the disk failed, or libraft gave up. Nothing is
     * sent or believed any more; the owner closes. */
    void (*fatal)(void *arg, const char *why);
    void *arg;
};

struct raft_guard_sent {
    struct raft_io_send *req;
    raft_io_send_cb cb;
};

struct raft_guard {
    struct raft *r;
    struct raft_io *io, inner; /* decorated; what it was */
    raft_io_recv_cb recv;
    raft_io_tick_cb tick;
    struct raft_guard_events ev;
    bool off;                            /* tests: all is passed on as it is */
    bool failed, told, started, running; /* running: not yet closed */
    uint32_t depth;
    char why[RAFT_ERRMSG_BUF_SIZE];

    raft_term barrier_term; /* rule 1 */
    raft_index barrier;
    raft_term match_term; /* rule 3 */
    raft_index match, pending;
    raft_term taking_term;
    bool taking;         /* in a message that proves `pending`, if accepted */
    raft_term done_term; /* rule 4: of the append that completes now */
    uint32_t writes, installs;       /* rule 7: under way */
    struct raft_message timeout_now; /* type 0: none */

    struct raft_configuration conf; /* rule 8: the committed one */
    raft_index conf_index;
    raft_index snapshot_index; /* of the snapshot that is restored next */
    raft_term install_term;    /* rule 9: 0, or the real term */

    struct raft_guard_sent *sent;
    uint32_t sent_n, sent_cap;
    bool writing;       /* the inner io has an append */
    struct list queued; /* of guard_append: for when it is done */
    struct list held;   /* writes that failed: not completed before the end */
    struct guard_put *put_held;
    uint64_t guarded; /* messages dropped, clamped or put off */
};

/* Replaces the functions of io; r is about to be given to raft_init with it.
 * ev is copied. */
void raft_guard_init(struct raft_guard *g, struct raft *r, struct raft_io *io,
                     const struct raft_guard_events *ev, bool off);
/* After raft_start returned 0. NO_MEMORY: raft_close it. */
must_check enum err raft_guard_started(struct raft_guard *g);
void raft_guard_fini(struct raft_guard *g); /* after raft_close's callback */

void raft_guard_enter(struct raft_guard *g);
void raft_guard_leave(struct raft_guard *g);
/* Takes over the memory that m points to, as libraft's recv does. */
void raft_guard_receive(struct raft_guard *g, struct raft_message *m);
/* A leader with an entry of its own term committed, no change of voters and no
 * snapshot under way: the only time to change voters. */
bool raft_guard_settled(const struct raft_guard *g);

/* Between the guard's files. */
struct raft_guard *raft_guard_of(struct raft_io *io);
bool raft_guard_open(const struct raft_guard *g);
void raft_guard_fail(struct raft_guard *g, const char *what);
void raft_guard_prove(struct raft_guard *g, raft_term term);
void raft_guard_sends(struct raft_guard *g);
void raft_guard_disk(struct raft_guard *g);

/* raft_guard_conf.c: what libraft keeps to itself. */

/* Frees what a message owns. */
void raft_message_discard(struct raft_message *m);
/* A configuration as libraft encodes it; false: malformed, or beyond limits.
 * out is empty before, and stays so on false. */
must_check bool raft_conf_decode(const void *p, size_t n,
                                 struct raft_configuration *out);
must_check bool raft_conf_copy(const struct raft_configuration *from,
                               struct raft_configuration *out);
/* The log in memory: NULL if the entry is not there; 0 if its term is not
 * known. */
const struct raft_entry *raft_log_entry(const struct raft *r, raft_index i);
raft_term raft_log_term(const struct raft *r, raft_index i);
raft_index raft_log_last(const struct raft *r);
/* Remembers the committed configuration; false: no memory. */
must_check bool raft_guard_conf_note(struct raft_guard *g);
/* Sets what the log below `end` says: the last change in it, or the committed
 * configuration. */
must_check bool raft_guard_conf_set(struct raft_guard *g, raft_index end);

#endif
