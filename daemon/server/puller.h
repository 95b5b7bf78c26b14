/* SPDX-License-Identifier: Apache-2.0
 *
 * Brings blocks of other daemons here: a thread with libpikv handles to the
 * nodes it reads from and to its own daemon (shm), the way any client would.
 *
 *   control: puller_view(view) --> the slots with to == self   (MOVING in)
 *                                  the slots with from == self's home (REST)
 *                                  owner[1..2] == self: blocks with replicas
 *                                  and hot slots (COPIES)
 *     slot: QUEUED --> LISTING --> COPYING --> DONE --moved(slot)--> control
 *              ^           |           |
 *              +-- retry --+-----------+   a source that does not answer
 *
 *   lane: puller_want(key) after a miss in a slot with `from` set: the block is
 *         fetched from there and stored here; then want->done. At most one
 *         fetch of a key at a time; a source that is DOWN answers at once.
 *
 * Bytes a second are under cluster.move_rate; wants go before moves. A block
 * that is already here (EXISTS) is not fetched again. A drop while a slot
 * moves is remembered (puller_dropped): what was dropped here is not brought
 * back from the old home.
 *
 * Threads: view and stats from control, want and dropped from lanes (mailbox
 * both ways), the rest is the puller's own. */
#ifndef SERVER_PULLER_H
#define SERVER_PULLER_H

#include "base/mailbox.h"
#include "cluster/view.h"
#include "server/config.h"

struct puller;
struct lane;

struct puller_cfg {
    const struct config *cfg;
    char self_shm[NODE_ADDR_MAX]; /* "shm:PATH" of the own daemon */
    uint64_t host;
    /* Control thread's mail: a slot has all that its source has. */
    void (*moved)(void *arg, uint32_t slot, uint64_t epoch);
    void *arg;
};

struct puller_want {
    struct mail mail; /* to the puller, and back to the lane */
    struct lane *lane;
    uint16_t from; /* node index */
    uint32_t slot;
    char space[64]; /* namespace's name */
    uint16_t group;
    uint8_t cls, route_len;
    uint16_t key_len;
    uint8_t scope[16], route[32], key[1024];
    uint64_t deadline_ns;
    mail_fn *done; /* on the lane, with mail */
    enum err err;  /* OK: it is here now; MISS; TIMEOUT; NO_SERVER */
};

struct puller_stats {
    uint64_t blocks, bytes, exists, failed, wants, want_hits;
    uint32_t slots_left;
};

must_check enum err puller_open(const struct puller_cfg *cfg,
                                struct puller **out, struct errmsg *m);
void puller_close(struct puller *p); /* NULL ok; ends wants with CANCELED */
void puller_view(struct puller *p, const struct view *v, uint16_t self);
void puller_want(struct puller *p, struct puller_want *w);
void puller_stats(const struct puller *p, struct puller_stats *out);

#endif
