/* SPDX-License-Identifier: Apache-2.0
 *
 * A bounded ring of what happened to the blocks of a lane, told in order and
 * for as long as it has not been overwritten.
 *
 *   at[]   | seq 5 | seq 6 | seq 7 |        by seq mod at_n: offset in space
 *              |       |       `-------------.
 *   space  | 6 ...| 7 ....| (free) | (oldest) 5 .... | rest |
 *                         ^ end
 *
 * A record is 64 bytes, then scope and labels if there are any, key and parent
 * key, in multiples of 8. Records follow each other; one that does not fit
 * before the end of the space begins at 0. What lies where a new one comes is
 * forgotten, oldest first, so an event costs its bytes and nothing else: no
 * reader is known here, and none can hold anything.
 *
 * Invariants: 1. seq of events: 1, 2, 3, ... without a gap; those from first
 * to next - 1 are whole. 2. Records do not overlap. 3. next - first <= at_n.
 *
 * Owner and thread: the lane's store. Fails only in events_init. */
#ifndef STORE_EVENTS_H
#define STORE_EVENTS_H

#include "base/err.h"
#include "base/hash.h"

enum event_kind { /* as in the message Event */
                  EVENT_STORED,
                  EVENT_REMOVED,
                  EVENT_MOVED,
                  EVENT_CLEARED,
};

enum { EVENT_LABELS = 4, EVENTS_BYTES_MIN = 64 << 10 };

struct event {
    uint64_t seq; /* given by events_add */
    enum event_kind kind;
    uint32_t ns;
    struct hash128 hash;
    uint64_t len, version, when_ms;
    uint16_t group;
    uint8_t cls, tier;
    uint16_t key_len, parent_len; /* key_len 0: not known */
    uint32_t page, token_end, token_n;
    uint64_t labels[EVENT_LABELS];
    /* Of what events_get gives: in the ring, until the next events_add. */
    const uint8_t *scope; /* 16 bytes; NULL: none */
    const uint8_t *key, *parent;
};

struct events {
    uint8_t *space;
    uint32_t *at;
    uint32_t bytes, at_n; /* at_n: a power of two */
    uint32_t end;         /* where the last record ends */
    uint64_t first, next; /* seq */
};

/* bytes 0: none are kept. Address space, touched only as far as it is used. */
must_check enum err events_init(struct events *r, uint64_t bytes);
void events_fini(struct events *r);
void events_add(struct events *r, const struct event *e);
/* first <= seq < next */
void events_get(const struct events *r, uint64_t seq, struct event *out);
uint32_t events_ns(const struct events *r, uint64_t seq);

#endif
