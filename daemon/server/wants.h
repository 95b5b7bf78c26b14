/* SPDX-License-Identifier: Apache-2.0
 *
 * Keys that are not here and that the slot's last home may have: each is asked
 * for once, however many requests want it.
 *
 *     op --wants_ask--> want --puller--> fetched and stored here, or not
 *      ^                  |
 *      +---- done(err) ---+   to all who wait; the block is found again by key
 *
 * A request may leave before; the want goes on. OK says that it was stored,
 * not that it is here still. Done is never called inside wants_ask. Thread: the
 * lane. Room for WANTS_MAX; more are BUSY, which is a miss. */
#ifndef SERVER_WANTS_H
#define SERVER_WANTS_H

#include "server/owner.h"

enum { WANTS_MAX = 256 };

struct want;

struct want_wait {
    struct list node; /* of the want's; alone: none */
    void (*done)(struct want_wait *w, enum err e);
};

must_check enum err wants_init(struct lane *l);
void wants_fini(struct lane *l);
/* at: where owner_of_miss said PULL. w NULL: nobody waits. OK: done will come,
 * at deadline_ns or a moment after it at the latest. BUSY: no room;
 * UNSUPPORTED: nobody fetches anything here. */
must_check enum err wants_ask(struct lane *l, const struct owner_at *at,
                              const struct store_key *k, uint64_t deadline_ns,
                              struct want_wait *w);
/* Done will not come. Nothing if it came, or was never asked (a zeroed node is
 * not allowed: list_init it). */
void wants_leave(struct want_wait *w);

#endif
