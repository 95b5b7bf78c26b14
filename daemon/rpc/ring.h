/* SPDX-License-Identifier: Apache-2.0
 *
 * Single-producer single-consumer byte ring in shared memory, both directions
 * of one shm connection in one sealed memfd made by the daemon:
 *
 *   page 0     struct ring_shared: header, two struct ring_ctl, loan epoch
 *   then       request ring bytes, reply ring bytes (ring_bytes each)
 *
 * A record is u32 length, u32 zero, then the message, padded to 64 bytes; a
 * record never wraps: a length of RING_SKIP sends the reader to the start.
 * head and tail count bytes ever written and read, so full and empty differ.
 * The peer may write anything into the shared memory at any time: the reader
 * copies a record out before looking at it, and validates length and indices
 * against its own private copy of them. A ring that lies is broken for good
 * (ERR_BAD_REQUEST); the connection is closed.
 *
 * Sleeping: a reader sets asleep, re-checks, then waits on its eventfd; the
 * writer rings the eventfd only when it swaps asleep from 1 to 0.
 * Full: a writer that lacks room sets full, re-checks, then waits on its own
 * eventfd; the reader asks ring_must_tell after its pops and rings that. */
#ifndef RPC_RING_H
#define RPC_RING_H

#include "base/err.h"

enum { RING_ALIGN = 64, RING_SKIP = -1 };

struct ring_ctl {
    _Alignas(64) uint64_t head;  /* written by the producer */
    _Alignas(64) uint64_t tail;  /* written by the consumer */
    _Alignas(64) uint32_t asleep; /* the consumer sleeps on its eventfd */
    _Alignas(64) uint32_t full; /* the producer waits for room on its eventfd */
};

enum { RING_SHARED_MAGIC = 0x4b505348, RING_CANCELS = 256 };

struct ring_shared {
    uint32_t magic, version;
    uint32_t ring_bytes, reserved;
    struct ring_ctl req, rep;
    /* Loans: moved on by the daemon when it takes loans back; a release is OK
     * only if it did not move past the loan since (see loan ids). */
    _Alignas(64) uint64_t loan_epoch;
    /* Requests that the client has given up, written by the client only: req
     * is given up when cancel[req % RING_CANCELS] == req. The client picks its
     * request ids so that two requests the daemon may still know never share a
     * word. The daemon loads it (acquire) before it touches registered client
     * memory for the request, at each slice of a copy, and once more after the
     * last slice of a pull (PUT): a pull found given up completes with
     * ERR_CANCELED, so bytes that the caller may have changed meanwhile are
     * never committed. This holds for a daemon that was stopped (SIGSTOP) past
     * the deadline, too: relative deadlines cannot say that. What remains: a
     * daemon stopped inside the copy of one slice ends that slice. */
    _Alignas(64) uint64_t cancel[RING_CANCELS];
};

/* One end's private view. */
struct ring {
    struct ring_ctl *ctl; /* shared */
    uint8_t *bytes;       /* shared */
    uint32_t cap;         /* power of two */
    uint64_t head, tail;  /* private copies: the own one is the truth */
    bool broken;
};

size_t ring_map_bytes(uint32_t ring_bytes); /* of the whole memfd */
/* The longest message: its record takes half a ring. */
uint32_t ring_message_max(uint32_t ring_bytes);
/* Sets up both rings over fresh zeroed memory (daemon). */
void ring_shared_init(struct ring_shared *sh, uint32_t ring_bytes);
/* The rings of mapped memory; ERR_BAD_REQUEST if the header is not ours or the
 * size does not fit map_bytes (client). */
must_check enum err ring_attach(struct ring_shared *sh, size_t map_bytes,
                                struct ring *req_out, struct ring *rep_out);

/* Producer: room for one message of len bytes, or NULL (full or too large);
 * then ring_push makes it visible. At most one grant at a time. */
void *ring_grant(struct ring *r, uint32_t len);
void ring_push(struct ring *r, uint32_t len);
/* true if the consumer must be woken (its asleep flag was taken). */
bool ring_must_wake(struct ring *r);
/* Announce that room for len bytes is awaited; false if there is room by now
 * (or the ring is broken): try again instead of waiting. */
bool ring_wait_room(struct ring *r, uint32_t len);

/* Consumer: copies the next message to buf; its length in *len_out. ERR_MISS:
 * empty. ERR_BAD_REQUEST: the ring lies, broken from now on. ERR_LIMIT: longer
 * than cap, broken as well. */
must_check enum err ring_pop(struct ring *r, void *buf, uint32_t cap,
                             uint32_t *len_out);
bool ring_empty(struct ring *r);
/* To be asked after each run of pops, also an empty one: true if the producer
 * waits for room and its eventfd must be rung. */
bool ring_must_tell(struct ring *r);
/* Announce sleep; false if messages arrived meanwhile or the producer waits for
 * room (ring_must_tell): do not sleep. */
bool ring_sleep(struct ring *r);
void ring_awake(struct ring *r);

#endif
