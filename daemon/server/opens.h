/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks that several writers fill (PUT_BEGIN, PUT_WRITE, PUT_COMMIT,
 * PUT_ABORT): who is at it, which bytes are there, who has committed.
 *
 *                open_new             all committed, nothing under way
 *     (free) -------------> OPEN ---------+-----------> COMMITTED
 *        ^                   |            | bytes missing
 *        |                   |            +-----------> PARTIAL
 *        |                   +-- PUT_ABORT -----------> ABORTED
 *        |                   +-- a writer's connection -> LOST
 *        |                       ended, time, EVICT, flush  |
 *        +---- the oldest end is forgotten for a new block --+
 *
 * A slot that has ended keeps its token and how it ended until it is needed
 * again, so that an answer that was lost can be asked for once more. A token
 * names one use of one slot in one life of the daemon.
 *
 * Invariants
 *  1. An OPEN slot holds the block's reservation: its one ref. A PUT_WRITE
 *     holds another while bytes move, so what arrives after the end of the slot
 *     meets memory that is still the block's.
 *  2. Everybody who began or wrote is a member until the connection ends. One
 *     that goes with something not committed takes the block with it.
 *  3. OPEN is over at its time, whatever the writers do.
 *  4. Only open_settle makes a block visible, and only when it is whole.
 *
 * Open blocks cannot be evicted: their number and bytes are capped. Owner and
 * thread: the lane. Nothing is allocated after opens_init. */
#ifndef SERVER_OPENS_H
#define SERVER_OPENS_H

#include "base/hash.h"
#include "base/list.h"
#include "base/timer.h"
#include "store/runs.h"
#include "store/store.h"

struct lane;
struct op;
struct peer;

enum {
    OPEN_WRITERS = 64, /* bits of open.committed */
    OPEN_MEMBERS = 64,
    OPEN_HEADS = 256,
    OPEN_SLOT_BITS = 16, /* of a token: the slot */
};

enum open_state {
    OPEN_FREE, /* never used */
    OPEN_OPEN,
    OPEN_COMMITTED,
    OPEN_PARTIAL,
    OPEN_ABORTED,
    OPEN_LOST,
};

struct open_member {
    struct peer *peer;
    bool done; /* has committed all that it began or wrote */
};

struct open {
    struct list node; /* opens.live, or opens.ended */
    struct list same; /* opens.heads, by block */
    struct lane *lane;
    enum open_state state;
    uint64_t token, len;
    uint64_t committed; /* a bit per writer */
    uint32_t writers, ns, block;
    uint32_t pin_ttl_ms;
    bool durable; /* is to be */
    bool synced;  /* and is */
    uint64_t generation;
    struct hash128 hash;
    struct timer timer;
    struct list waiters; /* PUT_COMMITs, by op.wait, until they have looked */
    uint64_t version;    /* COMMITTED */
    uint32_t crc;
    uint32_t member_n;
    struct open_member members[OPEN_MEMBERS];
    struct runs runs;
};

struct opens {
    struct open *all; /* n */
    uint32_t n, live_n;
    uint64_t bytes; /* of OPEN ones */
    uint64_t seed, serial;
    struct list live, ended; /* ended: the oldest first */
    struct list heads[OPEN_HEADS];
};

must_check enum err opens_init(struct lane *l);
void opens_fini(struct lane *l);

/* What PUT_BEGIN says of a block. */
struct open_spec {
    uint32_t ns, writers, open_ms, pin_ttl_ms;
    uint64_t generation, len;
    struct hash128 hash;
    bool durable;
};

/* Is there a slot, whose last end nobody is about to look at, and do the bytes
 * fit under the cap? */
bool opens_room(const struct lane *l, uint64_t len);
/* Takes the reservation of a block over, and with it the ref. There is room. */
struct open *open_new(struct lane *l, uint32_t block,
                      const struct open_spec *spec);
/* The slot of an OPEN block, or NULL: a plain PUT's. */
struct open *open_of_block(struct lane *l, uint32_t block);
/* The slot that a token names, in any state, if it is of this key; or NULL. */
struct open *open_find(struct lane *l, uint64_t token,
                       const struct store_key *k);
/* Makes p a member that has something to commit. LIMIT: too many members. */
must_check enum err open_join(struct open *o, struct peer *p);
/* Writer number `writer` has written all, says p. */
void open_commit(struct open *o, struct peer *p, uint32_t writer);
/* Ends it if all have committed and no bytes are under way. To be called after
 * whatever may bring that about. */
void open_settle(struct open *o);
/* All have committed; some bytes are still on their way. */
bool open_waits(const struct open *o);
/* The op's tick runs again when the slot has ended. */
void open_wait(struct open *o, struct op *op);
/* OPEN -> ABORTED or LOST: nothing is left but how it ended. */
void open_abort(struct open *o, enum open_state end);

/* The connection ended. */
void opens_peer_gone(struct peer *p);
/* The namespace has this generation now: what is of another one ends. */
void opens_flush(struct lane *l, uint32_t ns, uint64_t generation);
/* MUSTs the invariants above: tests and the simulator. */
void opens_check(const struct lane *l);

#endif
