/* SPDX-License-Identifier: Apache-2.0
 *
 * The door for Redis clients (shell): commands of RESP2 over TCP, for one
 * namespace. It is a client of its own daemon: libpikv over the daemon's own
 * socket, on a thread of its own, so that no lane knows of it.
 *
 *     socket --> parser (resp.h) --> command (cmd.c) --> libpikv --> lanes
 *        ^                              |                   |
 *        +------- replies, in order <---+------ bytes <-----+
 *
 * Values longer than DOOR_ARG_MAX pass through one registered memory
 * (listen.resp.memory): from the socket into it, from it by the lane into the
 * block, and back the same way. Nothing blocks in the loop: questions that
 * libpikv only answers to who waits (SCAN, DBSIZE, TTL, INFO) go to a worker
 * thread, one at a time.
 *
 * Semantics beside those of Redis
 *  - A block is never changed. SET of a key that is there drops the old block
 *    and puts the new one: a reader in between sees old, nothing, or new, never
 *    a mix. SETs of one key through the door follow one another.
 *  - A value may be gone at any time, that is what a cache is: nil.
 *  - A value has at least one byte, a key 1 to 1024.
 *
 * Limits are rows of config.tbl, listen.resp. Main thread calls these; the
 * door's thread does the rest. */
#ifndef DOOR_DOOR_H
#define DOOR_DOOR_H

#include "server/config.h"

struct door;

/* Binds the port and starts the thread, which connects to the lanes when they
 * serve; clients wait in the backlog until then. metrics: the door's thread
 * alone writes to it. ERR_BUSY: the port is taken. */
must_check enum err door_open(struct door **out, const struct config *cfg,
                              struct metrics *metrics, struct errmsg *m);
/* No new connections; those there are end with their current command. NULL is
 * fine. */
void door_drain(struct door *d);
/* Ends what is left, and the thread. NULL is fine. */
void door_close(struct door *d);

#endif
