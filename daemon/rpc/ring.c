/* SPDX-License-Identifier: Apache-2.0
 *
 * The rings of ring.h. One function per verb; no system call, no allocation.
 *
 *   0          tail & (cap-1)      head & (cap-1)          cap
 *   |   free   | len 0 message pad | ...  |   free   | SKIP |
 *
 * Invariants
 *  1. head and tail grow only, by multiples of RING_ALIGN, and
 *     head - tail <= cap. An index from the peer that breaks this breaks the
 *     ring: it gives nothing more.
 *  2. A record takes at most half the ring, so that an empty ring has room for
 *     it wherever the head stands.
 *  3. The producer publishes a skip only together with the record behind it.
 *  4. The own index is kept privately and only written to shared memory; of
 *     the peer's index a checked private copy is used until it runs out.
 *
 * Called by the lane's thread (daemon) and by the one thread that holds the
 * connection (libpikv). Sleeping needs no fence: producer and consumer both
 * exchange the asleep word, exchanges of one word are totally ordered, so
 * either the producer sees the 1 or the consumer's look at head after its
 * exchange sees the record. The full word works the same way round; a reader
 * that stays awake may miss it once and sees it the next time it asks. */
#include "rpc/ring.h"

#include <assert.h>
#include <string.h>

enum {
    RING_PAGE = 4096,
    RING_HEADER = 8, /* u32 length, u32 zero */
    RING_VERSION = 1,
    RING_BYTES_MIN = 4096,
    RING_BYTES_MAX = 1 << 30,
};

static_assert(sizeof(struct ring_shared) <= RING_PAGE, "the rings start there");

static uint64_t ring_record_bytes(uint32_t len)
{
    return align_up((uint64_t)len + RING_HEADER, RING_ALIGN);
}

static bool ring_bytes_ok(uint32_t n)
{
    return n >= RING_BYTES_MIN && n <= RING_BYTES_MAX && (n & (n - 1)) == 0;
}

size_t ring_map_bytes(uint32_t ring_bytes)
{
    return RING_PAGE + 2 * (size_t)ring_bytes;
}

uint32_t ring_message_max(uint32_t ring_bytes)
{
    return ring_bytes / 2 - RING_HEADER;
}

void ring_shared_init(struct ring_shared *sh, uint32_t ring_bytes)
{
    MUST(ring_bytes_ok(ring_bytes));
    sh->magic = RING_SHARED_MAGIC;
    sh->version = RING_VERSION;
    sh->ring_bytes = ring_bytes;
}

enum err ring_attach(struct ring_shared *sh, size_t map_bytes,
                     struct ring *req_out, struct ring *rep_out)
{
    uint8_t *base = (uint8_t *)sh;
    uint32_t n;

    if (map_bytes < RING_PAGE || sh->magic != RING_SHARED_MAGIC ||
        sh->version != RING_VERSION)
        return ERR_BAD_REQUEST;
    n = __atomic_load_n(&sh->ring_bytes, __ATOMIC_RELAXED);
    if (!ring_bytes_ok(n) || ring_map_bytes(n) > map_bytes)
        return ERR_BAD_REQUEST;
    *req_out =
        (struct ring){.ctl = &sh->req, .bytes = base + RING_PAGE, .cap = n};
    *rep_out =
        (struct ring){.ctl = &sh->rep, .bytes = base + RING_PAGE + n, .cap = n};
    return OK;
}

/* Takes the consumer's tail over; false, and broken, if it lies. */
static bool ring_see_tail(struct ring *r)
{
    uint64_t tail = __atomic_load_n(&r->ctl->tail, __ATOMIC_ACQUIRE);

    if (tail % RING_ALIGN != 0 || tail - r->tail > r->head - r->tail) {
        r->broken = true;
        return false;
    }
    r->tail = tail;
    return true;
}

/* Bytes to leave out before a record of need bytes at the head. */
static uint64_t ring_skip(const struct ring *r, uint64_t need)
{
    uint32_t pos = (uint32_t)r->head & (r->cap - 1);

    return pos + need > r->cap ? r->cap - pos : 0;
}

static bool ring_fits(const struct ring *r, uint64_t need)
{
    return r->head - r->tail + ring_skip(r, need) + need <= r->cap;
}

void *ring_grant(struct ring *r, uint32_t len)
{
    uint64_t need = ring_record_bytes(len), skip;
    uint32_t pos = (uint32_t)r->head & (r->cap - 1);

    if (len == 0 || len > ring_message_max(r->cap) || r->broken)
        return NULL;
    if (!ring_fits(r, need) && (!ring_see_tail(r) || !ring_fits(r, need)))
        return NULL;
    skip = ring_skip(r, need);
    if (skip) {
        *(uint32_t *)(void *)(r->bytes + pos) = (uint32_t)RING_SKIP;
        r->head += skip;
        pos = 0;
    }
    return r->bytes + pos + RING_HEADER;
}

void ring_push(struct ring *r, uint32_t len)
{
    uint32_t pos = (uint32_t)r->head & (r->cap - 1);
    uint32_t *header = (uint32_t *)(void *)(r->bytes + pos);

    header[0] = len;
    header[1] = 0;
    r->head += ring_record_bytes(len);
    __atomic_store_n(&r->ctl->head, r->head, __ATOMIC_RELEASE);
}

bool ring_must_wake(struct ring *r)
{
    return __atomic_exchange_n(&r->ctl->asleep, 0, __ATOMIC_ACQ_REL) != 0;
}

bool ring_wait_room(struct ring *r, uint32_t len)
{
    if (r->broken)
        return false;
    (void)__atomic_exchange_n(&r->ctl->full, 1, __ATOMIC_ACQ_REL);
    return ring_see_tail(r) && !ring_fits(r, ring_record_bytes(len));
}

/* Takes the producer's head over; false, and broken, if it lies. */
static bool ring_see_head(struct ring *r)
{
    uint64_t head = __atomic_load_n(&r->ctl->head, __ATOMIC_ACQUIRE);

    if (head % RING_ALIGN != 0 || head - r->tail > r->cap ||
        head - r->tail < r->head - r->tail) {
        r->broken = true;
        return false;
    }
    r->head = head;
    return true;
}

static enum err ring_lies(struct ring *r, enum err e)
{
    r->broken = true;
    return e;
}

static void ring_release(struct ring *r, uint64_t n)
{
    r->tail += n;
    __atomic_store_n(&r->ctl->tail, r->tail, __ATOMIC_RELEASE);
}

/* The length word of the record at the tail, read once. */
static uint32_t ring_peek(const struct ring *r, uint32_t pos)
{
    return __atomic_load_n((const uint32_t *)(const void *)(r->bytes + pos),
                           __ATOMIC_RELAXED);
}

enum err ring_pop(struct ring *r, void *buf, uint32_t cap, uint32_t *len_out)
{
    uint32_t pos = (uint32_t)r->tail & (r->cap - 1), len;
    uint64_t skip = 0, need;

    if (r->broken)
        return ERR_BAD_REQUEST;
    if (r->head == r->tail) {
        if (!ring_see_head(r))
            return ERR_BAD_REQUEST;
        if (r->head == r->tail)
            return ERR_MISS;
    }
    len = ring_peek(r, pos);
    if (len == (uint32_t)RING_SKIP) {
        skip = r->cap - pos;
        if (pos == 0 || r->head - r->tail <= skip)
            return ring_lies(r, ERR_BAD_REQUEST);
        pos = 0;
        len = ring_peek(r, 0);
    }
    need = ring_record_bytes(len);
    if (len == 0 || len > ring_message_max(r->cap) || pos + need > r->cap ||
        skip + need > r->head - r->tail)
        return ring_lies(r, ERR_BAD_REQUEST);
    if (len > cap)
        return ring_lies(r, ERR_LIMIT);
    memcpy(buf, r->bytes + pos + RING_HEADER, len);
    ring_release(r, skip + need);
    *len_out = len;
    return OK;
}

bool ring_empty(struct ring *r)
{
    if (r->broken)
        return true;
    if (r->head != r->tail)
        return false;
    return __atomic_load_n(&r->ctl->head, __ATOMIC_ACQUIRE) == r->tail;
}

bool ring_must_tell(struct ring *r)
{
    if (__atomic_load_n(&r->ctl->full, __ATOMIC_RELAXED) == 0)
        return false;
    return __atomic_exchange_n(&r->ctl->full, 0, __ATOMIC_ACQ_REL) != 0;
}

bool ring_sleep(struct ring *r)
{
    (void)__atomic_exchange_n(&r->ctl->asleep, 1, __ATOMIC_ACQ_REL);
    if (ring_empty(r) &&
        __atomic_fetch_or(&r->ctl->full, 0, __ATOMIC_ACQ_REL) == 0)
        return true;
    ring_awake(r);
    return false;
}

void ring_awake(struct ring *r)
{
    (void)__atomic_exchange_n(&r->ctl->asleep, 0, __ATOMIC_ACQ_REL);
}
