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
 * writer rings the eventfd only when it swaps asleep from 1 to 0. */
#ifndef RPC_RING_H
#define RPC_RING_H

#include "base/err.h"

enum { RING_ALIGN = 64, RING_SKIP = -1 };

struct ring_ctl {
    _Alignas(64) uint64_t head;  /* written by the producer */
    _Alignas(64) uint64_t tail;  /* written by the consumer */
    _Alignas(64) uint32_t asleep; /* the consumer sleeps on its eventfd */
};

enum { RING_SHARED_MAGIC = 0x4b505348 };

struct ring_shared {
    uint32_t magic, version;
    uint32_t ring_bytes, reserved;
    struct ring_ctl req, rep;
    /* Loans: moved on by the daemon when it takes loans back; a release is OK
     * only if it did not move past the loan since (see loan ids). */
    _Alignas(64) uint64_t loan_epoch;
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

/* Consumer: copies the next message to buf; its length in *len_out. ERR_MISS:
 * empty. ERR_BAD_REQUEST: the ring lies, broken from now on. ERR_LIMIT: longer
 * than cap, broken as well. */
must_check enum err ring_pop(struct ring *r, void *buf, uint32_t cap,
                             uint32_t *len_out);
bool ring_empty(struct ring *r);
/* Announce sleep; false if messages arrived meanwhile: do not sleep. */
bool ring_sleep(struct ring *r);
void ring_awake(struct ring *r);

#endif
