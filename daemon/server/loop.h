/* SPDX-License-Identifier: Apache-2.0
 *
 * A lane's thread (shell): turns the lane until it is idle, looks for work a
 * little longer, arms its transports and sleeps in libuv until an fd, mail or
 * the clock wakes it.
 *
 *     loop_new -> loop_start -> loop_stop ... loop_done -> loop_join -> free
 *                    |              |            |
 *                    v              v            v
 *                 [work, sleep]  transports   last op
 *                                closed       ended
 *
 * loop_new takes the lane and its transports over: nobody else touches them
 * until loop_join has returned. All functions are for one thread, main's. */
#ifndef SERVER_LOOP_H
#define SERVER_LOOP_H

#include "server/lane.h"

struct loop;

struct loop_transport {
    struct transport *t;
    int fd; /* readable when progress() has something to do */
    void (*close)(struct transport *t);
    /* The lane has another configuration, or its first; may be NULL. */
    void (*config)(struct transport *t, const struct config *cfg);
};

/* Fills the lane's env (clocks; rng seeded from random), mailbox wake-up and
 * transports. On an error the transports stay the caller's. */
must_check enum err loop_new(struct loop **out, struct lane *lane,
                             const struct loop_transport *transports,
                             uint32_t n, const uint64_t random[2],
                             struct errmsg *m);
must_check enum err loop_start(struct loop *lp, struct errmsg *m);
/* The tiers' memory was touched: the lane registers it with its disk, a piece
 * at a time when it has nothing to do. NULL is fine. */
void loop_memory_ready(struct loop *lp);
/* Cuts what is left: transports close, ops end, for which control must still
 * answer their calls. Then the lane only answers mail. */
void loop_stop(struct loop *lp);
/* The lane takes no new work and has none in flight. */
bool loop_drained(const struct loop *lp);
/* Stopped and the last op has ended, or never started. */
bool loop_done(const struct loop *lp);
/* Ends the thread; before it, loop_stop. Waits until the lane is done. No mail
 * that is to be answered is sent to the lane from here on. */
void loop_join(struct loop *lp);
/* Never started, or joined. NULL is fine. Closes transports that are open. */
void loop_free(struct loop *lp);

#endif
