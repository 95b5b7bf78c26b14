/* SPDX-License-Identifier: Apache-2.0
 *
 * The segment log of one SSD: the write head, the budget and the reclaim. One
 * lane owns it; other lanes send it requests by mail and read payloads
 * themselves (struct seg_map). It knows segments, groups and places, no
 * catalog: what a record is worth it asks the lanes.
 *
 *            open                    writes fail, flush fails
 *   CLOSED ---------> OPENING --> OPEN ------------------------> READ_ONLY
 *      ^                 |         |  \                             |
 *      |    bad store    v   retire|   \ reads fail, hangs          v
 *      +------------- FAILED <-----|----+----------------------- FAILED
 *      |                           v
 *      +------ close ---------- RETIRING --empty--> RETIRED
 *
 *   segment: FREE --opened for writing--> HEAD --full--> FULL --reclaim-->
 *            EMPTYING --all lanes answered, no reader--> FREE
 *
 * Writing. Requests queue; a group takes those of one payload size and is
 * closed when it is full (SEG_RECORDS, group_bytes, its header page), when its
 * first record has waited for linger_ns, or at once for durable records and
 * tombs. Its payloads are written straight from the spans, then, when they and
 * the header before have completed, its header. Then done(): the place is
 * good, the payload may be read. Nothing here waits for a FLUSH but durable
 * requests and tombs, and the first write to a segment.
 *
 * Budget. A token bucket over all bytes written to the device. Groups of
 * requests that are not durable wait for tokens; everything else makes debt
 * that they wait for. map->binding says that they wait.
 *
 * Reclaim. When few segments are free the oldest FULL one is read header by
 * header, each header is shown to every lane (host.reclaim), and when all have
 * answered and no reader is left the segment is FREE. FIFO order is what makes
 * tombs safe: a tomb is younger than what it kills.
 *
 * Invariants: 1. A place given by done() stays readable until its segment's
 * header was shown to the lane and its readers are gone. 2. free + head + full
 * + emptying = all. 3. Generations only grow and never repeat. 4. No write
 * after the first failed one (READ_ONLY), no flush after a failed flush.
 *
 * Everything asynchronous ends in a later progress() of the disk or a tick,
 * never inside the call. Allocates in seglog_new only. */
#ifndef STORE_SEGLOG_H
#define STORE_SEGLOG_H

#include "base/mailbox.h"
#include "store/seg_format.h"

enum seglog_state {
    SEGLOG_CLOSED,
    SEGLOG_OPENING,
    SEGLOG_OPEN,
    SEGLOG_READ_ONLY,
    SEGLOG_FAILED,
    SEGLOG_RETIRING,
    SEGLOG_RETIRED,
};

/* What all lanes may read of a log, without asking: atomics, written by the
 * owner. Made by the caller, filled in by seglog_new and seglog_open. */
struct seg_map {
    uint32_t dev;
    uint32_t state;   /* enum seglog_state */
    uint32_t binding; /* 1: the budget or the write queue is exhausted */
    uint32_t segments, segment_pages, data_page;
    uint32_t *readers; /* per segment: payload reads under way, any lane */
    /* A lane sets 1 when a read of its own is older than hang_ns, and sees to
     * it that the owner ticks: FAILED. */
    uint32_t suspect;
    uint64_t hang_ns; /* of seglog_cfg; 0: none hangs */
};

static inline uint32_t seg_map_segment(const struct seg_map *m, uint32_t page)
{
    return (page - m->data_page) / m->segment_pages;
}

/* A lane begins a read of this page after it saw the place in its catalog, and
 * ends it after the completion. Between the two the segment is not reused. */
static inline void seg_read_begin(struct seg_map *m, uint32_t page)
{
    __atomic_add_fetch(&m->readers[seg_map_segment(m, page)], 1,
                       __ATOMIC_ACQ_REL);
}

static inline void seg_read_end(struct seg_map *m, uint32_t page)
{
    __atomic_sub_fetch(&m->readers[seg_map_segment(m, page)], 1,
                       __ATOMIC_ACQ_REL);
}

static inline enum seglog_state seg_map_state(const struct seg_map *m)
{
    return (enum seglog_state)__atomic_load_n(&m->state, __ATOMIC_ACQUIRE);
}

static inline bool seg_map_readable(const struct seg_map *m)
{
    enum seglog_state s = seg_map_state(m);

    return s == SEGLOG_OPEN || s == SEGLOG_READ_ONLY || s == SEGLOG_RETIRING;
}

static inline bool seg_map_writable(const struct seg_map *m)
{
    return seg_map_state(m) == SEGLOG_OPEN;
}

/* ---- requests: any lane -> owner -> the same lane */
enum seg_req_what {
    SEG_REQ_PUT,   /* write a block; done: place is set */
    SEG_REQ_TOMB,  /* make a drop durable: done after a FLUSH */
    SEG_REQ_FLUSH, /* everything done before is durable */
};

/* The requester's until done; meta, what it borrows and the spans stay
 * unchanged until then (the requester holds a ref on the block). Spans are
 * whole pages; the requester zeroed what lies behind len. */
struct seg_req {
    struct mail mail; /* the carrier's (server), between lanes */
    struct list node; /* the log's, as is queued_ns */
    uint64_t queued_ns;
    enum seg_req_what what;
    uint32_t dev, lane;
    bool durable; /* PUT: done after a FLUSH */
    bool again;   /* PUT: re-insertion, counted apart */
    struct seg_meta meta;
    const struct span *spans;
    uint32_t span_n;
    struct seg_tomb tomb;
    struct seg_place place; /* out */
    /* OK. Not stored: IO; BUSY: the device went away; MISS: a tomb of it came
     * while it was queued; LIMIT: larger than a segment. */
    enum err err;
    void (*done)(struct seg_req *r); /* requester's thread, never inside */
    /* The carrier's, while it is between lanes: the requester's done. */
    void (*home)(struct seg_req *r);
    void *carrier;
};

/* ---- what the log asks of whoever owns it */

/* One header page of a segment that is to be emptied, shown to all lanes. The
 * carrier answers with seglog_reclaimed when every lane has looked; the page
 * stays as it is until then. */
struct seg_reclaim {
    uint32_t dev, segment;
    const void *page;     /* a checked header of kind RECORDS */
    uint32_t first_page;  /* of the first payload */
    uint64_t again_bytes; /* re-insertion allowed for this header, all lanes */
    /* What is left of again_bytes: lanes take from it with seg_again_take. What
     * is not taken is added to the next header's, so that a block larger than
     * its own header's part can be taken along too. */
    uint64_t *again_left;
};

/* Any lane, until it has answered. false: not so much is left. */
static inline bool seg_again_take(const struct seg_reclaim *r, uint64_t bytes)
{
    uint64_t left = __atomic_load_n(r->again_left, __ATOMIC_RELAXED);

    do {
        if (left < bytes)
            return false;
    } while (!__atomic_compare_exchange_n(r->again_left, &left, left - bytes,
                                          true, __ATOMIC_RELAXED,
                                          __ATOMIC_RELAXED));
    return true;
}

struct seglog;

struct seglog_host {
    void *arg;
    /* Opening, in log order: records that were found (by scan), or entries of
     * the checkpoint; and tombs. A tomb kills what was and what will be found
     * with its hash and a version up to its own. */
    void (*record)(void *arg, const struct seg_meta *m, struct seg_place p);
    void (*check)(void *arg, const struct seg_check *c);
    void (*tomb)(void *arg, const struct seg_tomb *t);
    /* Opening ended. Not OK: state is FAILED or CLOSED and m says why. */
    void (*opened)(void *arg, enum err e, const struct errmsg *m);
    void (*reclaim)(void *arg, const struct seg_reclaim *r);
    /* Closing: gives the next entry of the checkpoint; false at the end. */
    bool (*check_next)(void *arg, struct seg_check *out);
    void (*closed)(void *arg, enum err e);
    /* READ_ONLY, FAILED, RETIRING or RETIRED was entered, told from a tick or
     * a completion; why is static text. */
    void (*changed)(void *arg, enum seglog_state to, const char *why);
};

struct seglog_cfg {
    uint32_t dev;
    uint32_t lanes;         /* a checkpoint of another number is not used */
    uint64_t bytes;         /* of the device to use; whole segments are used */
    uint64_t segment_bytes; /* at format; an existing store keeps its own */
    uint64_t group_bytes;   /* of a group at most (16 MiB) */
    uint64_t linger_ns;     /* (5 ms) */
    uint64_t write_rate;    /* bytes per second; 0: no budget */
    uint64_t write_burst;   /* bytes of the bucket */
    uint32_t again_pct;     /* of a segment's bytes re-inserted at most (10) */
    uint64_t scrub_rate;    /* bytes per second; 0: none */
    uint64_t hang_ns;       /* an io older than this: FAILED (10 s) */
    bool discard;
    const char *writer; /* for the superblock: "pikvd 0.1.0" */
};

/* cfg is copied; disk, env, metrics, trace and map are kept. bytes of cfg
 * below 8 segments: LIMIT. */
must_check enum err seglog_new(struct seglog **out,
                               const struct seglog_cfg *cfg, struct disk *disk,
                               struct env *env, struct metrics *metrics,
                               struct trace *trace, struct seg_map *map,
                               const struct seglog_host *host);
void seglog_free(struct seglog *g); /* NULL ok; no io may be in flight */

/* How an open treats what it finds. */
enum seglog_open_how {
    SEGLOG_OPEN_OR_FORMAT, /* blank (first 2 MiB zero): format; ours: recover;
                              anything else: refuse (foreign) */
    SEGLOG_FORMAT,         /* whatever was there is lost */
};
/* A uuid for a store that is formatted. Ends in host.opened. Afterwards the
 * superblock on the device says not CLEAN. */
void seglog_open(struct seglog *g, enum seglog_open_how how,
                 const uint8_t uuid[16]);
/* Owner lane. Any state: what cannot be done is answered with IO or BUSY. */
void seglog_submit(struct seglog *g, struct seg_req *r);
void seglog_reclaimed(struct seglog *g);
/* Linger, budget, reclaim, scrub, hangs. Bounded; true if there is more now. */
bool seglog_tick(struct seglog *g);
uint64_t seglog_next_ns(const struct seglog *g); /* DEADLINE_NEVER mostly */
/* Stops taking writes, finishes what is under way, writes the checkpoint (if
 * it fits the free segments) and a CLEAN superblock; ends in host.closed. */
void seglog_close(struct seglog *g, bool checkpoint);
bool seglog_idle(const struct seglog *g); /* no io in flight, none queued */
void seglog_retire(struct seglog *g);     /* OPEN -> RETIRING */

struct seglog_info {
    enum seglog_state state;
    const char *why; /* of READ_ONLY and FAILED, else "" */
    uint8_t uuid[16];
    /* written: to the device since its format. Not closed in order: what came
     * after the last superblock is added by segments, at the next open (within
     * a segment and the headers, wipes and superblocks of that time). */
    uint64_t bytes, segment_bytes, written_bytes, payload_bytes;
    uint32_t segments, free_segments;
    uint64_t queued, tokens;
    uint64_t recovered_records, recovered_ms;
    bool from_checkpoint;
};
void seglog_info(const struct seglog *g, struct seglog_info *out);
void seglog_check(const struct seglog *g); /* MUSTs the invariants */

#endif
