/* SPDX-License-Identifier: Apache-2.0
 *
 * Between coord.c and its providers: a provider is a struct that starts with a
 * struct coord, and a row of coord_ops. */
#ifndef CLUSTER_COORD_IMPL_H
#define CLUSTER_COORD_IMPL_H

#include "cluster/bytes.h"
#include "cluster/coord.h"

enum {
    /* Of a command: several fit in a message. */
    COORD_COMMAND_MAX = COORD_MESSAGE_MAX / 4,
    /* Of a snapshot: it fits with what is around it. */
    COORD_SNAPSHOT_MAX = COORD_MESSAGE_MAX - 65536,
};

struct coord {
    const struct coord_ops *ops;
    struct coord_events ev;
};

struct coord_ops {
    const char *name;
    enum err (*open)(const struct coord_cfg *cfg, const struct coord_events *ev,
                     struct coord **out, struct errmsg *m);
    void (*close)(struct coord *c, void (*closed)(void *arg), void *arg);
    enum err (*propose)(struct coord *c, const uint8_t *p, size_t n,
                        coord_done_fn *done, void *arg, void *answer);
    void (*receive)(struct coord *c, uint64_t from, const uint8_t *p, size_t n);
    void (*tick)(struct coord *c, uint64_t now_ms);
    void (*status)(const struct coord *c, struct coord_status *out);
    enum err (*transfer)(struct coord *c, uint64_t to, coord_done_fn *done,
                         void *arg);
    enum err (*voter_add)(struct coord *c, const struct coord_voter *v,
                          coord_done_fn *done, void *arg);
    enum err (*voter_remove)(struct coord *c, uint64_t id, coord_done_fn *done,
                             void *arg);
};

extern const struct coord_ops coord_static_ops, coord_raft_ops;

struct raft_message;

/* coord_raft_msg.c. Appends m as a Peer__Raft; LIMIT: it does not fit. Entries
 * that do not fit are left out, the follower asks for them again. */
must_check enum err coord_raft_pack(uint64_t from, const struct raft_message *m,
                                    struct bytes *out);
/* m owns memory of raft_malloc; false: it is not a message that an honest peer
 * sends, m is untouched. */
must_check bool coord_raft_unpack(uint64_t from, const uint8_t *p, size_t n,
                                  struct raft_message *m);

#endif
