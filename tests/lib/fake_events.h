/* SPDX-License-Identifier: Apache-2.0
 *
 * The events of one lane of the scripted pikvd: what a test says has happened,
 * and the polls that wait for it. Without a lock: the lane has one. */
#ifndef TESTS_FAKE_EVENTS_H
#define TESTS_FAKE_EVENTS_H

#include "base/base.h"
#include "proto/wire.h"

enum { FEED_EVENTS = 512, FEED_POLLS = 256, FEED_ENV = 1 << 16 };

struct feed_poll {
    uint32_t conn;
    struct wire_frame frame;
    uint64_t from, id, until_ns;
};

struct fake_feed {
    struct {
        uint32_t kind;
        char key[32];
    } told[FEED_EVENTS]; /* by seq - 1 */
    uint32_t n;
    uint64_t first; /* those before are lost; 0 as 1 */
    struct feed_poll polls[FEED_POLLS];
    uint32_t poll_n;       /* asleep */
    uint32_t asked;        /* since the start */
    uint32_t most;         /* events in a reply; 0: all */
    int status;            /* of every poll */
    bool empty;            /* replies without a word */
    uint8_t env[FEED_ENV]; /* the last reply */
};

struct fake;
struct message;

/* ---- the test's side */

/* Something happened to a block of this lane (a kind of message Event). */
void fake_event(struct fake *f, uint32_t lane, uint32_t kind, const char *key);
/* Those up to seq are overwritten. */
void fake_events_lose(struct fake *f, uint32_t lane, uint64_t seq);
/* How polls are answered from now on: status, as nonsense, with at most so many
 * events. */
void fake_events_set(struct fake *f, uint32_t lane, int status, bool empty,
                     uint32_t most);
uint32_t fake_polls(struct fake *f, uint32_t lane);        /* since the start */
uint32_t fake_polls_asleep(struct fake *f, uint32_t lane); /* now */

/* ---- the lane's side */

/* A request came; it is answered when feed_answer says so. */
void feed_ask(struct fake_feed *f, uint32_t conn, const struct message *m);
/* One that can be answered now, and the length of the reply in env; 0: none. */
uint32_t feed_answer(struct fake_feed *f, uint64_t boot, struct feed_poll *out);

#endif
