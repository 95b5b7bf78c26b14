/* SPDX-License-Identifier: Apache-2.0
 *
 * Brings blocks of other daemons here: a thread with libpikv handles to the
 * nodes it reads from and to its own daemon (shm), the way any client would.
 *
 *   control: puller_view(view) --> the slots with to == self      IN
 *                                  home == self, with a `from`    REST
 *                                  owner[k] == self: blocks with more than k
 *                                  copies; all of them if it is hot  COPY
 *
 *     slot: DUE --> BUSY: listed, copied --> DONE --moved(slot)--> control
 *            ^        |
 *            +--------+ a source that does not answer, or has an older view
 *
 *   lane: a want (wants.h) after a miss in a slot with a `from`: the block is
 *         fetched from there and stored here; then want->done. A source that
 *         is DOWN answers at once.
 *
 * Bytes a second are under cluster.move_rate; wants go before moves. A block
 * that is already here is not fetched again. A drop while blocks of its slot
 * may come here is remembered by the lane (moves.h, drops.h): a copy that was
 * asked for before is refused, and that is all of DROPS_S long before the copy
 * could be late: PULLER_DEADLINE_MS bounds each step of it.
 *
 * Flushes. A view that says that a namespace was flushed ends what is under
 * way; a source is listed again when it says to have that view itself (LIST's
 * epoch), for only then its own blocks of before are gone.
 *
 * Threads: view and stats from control, wants from lanes (mailbox both ways),
 * the rest is the puller's own; questions that libpikv answers only to who
 * waits go to worker threads.
 *
 *   puller.c       life, the thread, its tick
 *   puller_slots.c what the view asks for; moves.h's words
 *   puller_link.c  handles: to open and close them, namespaces, workers
 *   puller_pass.c  the walk through one source's lanes: LIST, page by page
 *   puller_copy.c  hauls: LOOKUP here, GET there, PUT here
 *   puller_want.c  wants of lanes */
#ifndef SERVER_PULLER_H
#define SERVER_PULLER_H

#include "base/mailbox.h"
#include "cluster/view.h"
#include "server/config.h"
#include "server/moves.h"

struct puller;
struct lane;

enum {
    PULLER_NAME = 128,         /* a namespace's, with its NUL */
    PULLER_DEADLINE_MS = 5000, /* of a GET or PUT of a haul */
};

struct puller_cfg {
    const struct config *cfg;
    char self_shm[NODE_ADDR_MAX]; /* "shm:PATH" of the own daemon */
    uint64_t host;
    /* Any thread (the puller's): a slot has all that its source has; epoch: of
     * the view it was listed by. Said again with each view in which the slot
     * still comes here. */
    void (*moved)(void *arg, uint32_t slot, uint64_t epoch);
    void *arg;
};

struct puller_want {
    struct mail mail; /* to the puller, and back to the lane */
    struct lane *lane;
    uint16_t from; /* node index */
    uint32_t slot;
    char space[PULLER_NAME];
    uint16_t group;
    uint8_t cls, route_len;
    uint16_t key_len;
    uint8_t scope[16], route[WIRE_ROUTE_MAX], key[WIRE_KEY_MAX];
    uint64_t deadline_ns;
    mail_fn *done; /* on the lane, with mail */
    enum err err;  /* OK: it is here now; MISS; TIMEOUT; NO_SERVER */
    void *own;     /* the puller's */
};

struct puller_stats {
    uint64_t blocks, bytes; /* brought */
    uint64_t exists;        /* listed, and here already */
    uint64_t failed, refused;
    uint64_t wants, want_hits;
    uint64_t passes;
    uint32_t slots_left; /* IN and REST that are not done */
};

must_check enum err puller_open(const struct puller_cfg *cfg,
                                struct puller **out, struct errmsg *m);
/* When the lanes have ended. NULL ok. */
void puller_close(struct puller *p);
/* What lanes read; give it to each (lane.moves) before its first turn. */
struct moves *puller_moves(struct puller *p);
/* Control: a newer view, copied. To be called before the lanes have it, and
 * after what it says of flushes was begun. */
void puller_view(struct puller *p, const struct view *v, uint16_t self);
/* A lane that is not drained before its wants are back. */
void puller_want(struct puller *p, struct puller_want *w);
void puller_stats(const struct puller *p, struct puller_stats *out);

#endif
