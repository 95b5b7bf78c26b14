/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a segment log, for the files seglog*.c and their tests alone.
 *
 *   seglog.c          new, free, submit, tick, states, answers, ios, the hang
 *                     watch, superblocks, info, check
 *   seglog_write.c    queues, groups, payload and header ios, flushes
 *   seglog_head.c     the segment being written and the one after it
 *   seglog_budget.c   the token bucket, map->binding, when writes are due
 *   seglog_reclaim.c  emptying the oldest segment; retiring
 *   seglog_open.c     open: superblocks, format, checkpoint, header scan
 *   seglog_close.c    close: drain, checkpoint, CLEAN superblock
 *   seglog_scrub.c    the background reader
 *
 * Control flow. Whoever changes what is to be done sets g->kick; seglog_tick
 * (and the end of every completion) runs the steps until nothing moves. Steps
 * never call done() or a host callback about a request themselves: requests go
 * to g->ended with seglog_end() and state changes are told by
 * seglog_deliver(), both outside any step, so nothing is re-entered.
 *
 * IOs. Every io of the log is a struct log_io, submitted by one of the three
 * functions below, which keep it in g->flying (oldest first: the hang watch
 * looks at the first). A failed WRITE or FLUSH of a log that is OPEN or
 * RETIRING enters READ_ONLY in the helper, before the io's own done runs;
 * in OPENING the io's done decides. */
#ifndef STORE_SEGLOG_IMPL_H
#define STORE_SEGLOG_IMPL_H

#include "base/mem.h"
#include "base/metrics.h"
#include "base/trace.h"
#include "store/seglog.h"

enum {
    LOG_GROUPS = 4,            /* in flight */
    LOG_IOS = 4,               /* payload ios in flight: best depth at 1 MiB */
    LOG_IO_BYTES = 1 << 20,    /* aimed at for a payload io */
    LOG_IO_BESIDE = 256 << 10, /* and while reads are under way: one of these */
    LOG_GENERATIONS = 1024,    /* promised by a superblock ahead of their use */
    LOG_RESERVE = 2, /* segments for re-insertion, see seglog_head.c */
    LOG_SCAN = 128,  /* queued requests looked at to fill a group */
    LOG_SEGMENTS_MIN = 8,
    LOG_BIND_MS = 200, /* a queue this late is binding */
    LOG_POLL_US = 500, /* between two looks at a segment's readers */
    RECLAIM_SEEK = 16, /* pages read at once behind a damaged header */
};
#define SEG_NONE UINT32_MAX

enum log_seg_state { SEG_FREE, SEG_HEAD, SEG_FULL, SEG_EMPTYING };

struct log_seg {
    /* Of its last life, 0 never used or not known; of a FREE one too: FREE
     * segments are reused in this order. */
    uint64_t generation;
    uint32_t used;   /* pages written, head page included; 0 FREE */
    uint8_t state;   /* enum log_seg_state */
    uint8_t kind;    /* enum seg_kind */
    uint16_t groups; /* in flight */
};

struct log_io {
    struct disk_io io; /* first: the disk gives it back */
    struct list node;  /* g->flying */
    struct seglog *g;
    void (*done)(struct log_io *io); /* io->io.err says how it went */
    void *arg;                       /* the user's */
    struct span span;                /* for those of one span */
};

/* A group from the moment its place is taken until its header is written. */
struct log_group {
    struct list node; /* g->groups in order of place, or g->groups_free */
    struct list reqs;
    enum seg_group_kind kind;
    uint32_t segment, page, pages, record_pages, n;
    uint64_t began_ns;
    uint8_t *header; /* a page */
    struct log_io header_io;
    struct list *at; /* payload cursor: request, its span, bytes of that */
    uint32_t at_span;
    uint64_t at_off, sent, payload_bytes;
    uint32_t ios; /* payload ios in flight */
    bool header_sent, header_busy, ended;
};

struct log_payload { /* one payload io */
    struct log_io io;
    struct log_group *group; /* NULL: not in use */
    struct span spans[DISK_IO_SPANS];
};

enum log_q { LOG_Q_TOMB, LOG_Q_DURABLE, LOG_Q_AGAIN, LOG_Q_PUT, LOG_Q_N };

enum log_next { NEXT_NONE, NEXT_FLUSH, NEXT_HEAD, NEXT_READY };

enum log_reclaim_step {
    RECLAIM_IDLE,
    RECLAIM_WIPE,  /* its head page is being overwritten */
    RECLAIM_WIPED, /* and flushed */
    RECLAIM_READ,  /* a header page is being read */
    RECLAIM_SHOWN, /* the lanes look at it */
    RECLAIM_NEXT,  /* the next page is to be read */
    RECLAIM_DRAIN, /* all shown; readers are still there */
    RECLAIM_FLUSH, /* before the discard */
    RECLAIM_DISCARD,
};

struct log_reclaim {
    enum log_reclaim_step step;
    uint32_t segment, page, seq;
    bool seek;      /* behind a damaged header */
    uint32_t pages; /* being read */
    uint8_t *buf;   /* RECLAIM_SEEK pages */
    struct seg_group group;
    struct seg_reclaim shown;
    uint64_t allowed, taken; /* re-insertion in this segment so far, bytes */
    uint64_t again_left;     /* of the header shown: the lanes take from it */
    uint64_t poll_ns;
    struct log_io io;
};

struct log_open;  /* seglog_open.c and seglog_close.c */
struct log_scrub; /* seglog_scrub.c */

struct seglog {
    struct seglog_cfg cfg;
    struct disk *disk;
    struct env *env;
    struct metrics *metrics;
    struct trace *trace;
    struct seg_map *map;
    struct seglog_host host;

    enum seglog_state state, told; /* told: what host.changed last heard */
    const char *why;               /* static text */
    bool opening;                  /* seglog_open until host.opened was told */
    bool closing;                  /* seglog_close was called */
    bool kick;                     /* something is to be done now */
    bool delivering;
    bool failed; /* a write or flush failed or hung: nothing is written */

    /* Format: valid from OPEN on (set by seglog_open.c with seglog_geometry).
     */
    struct seg_super super; /* what the next superblock will say */
    uint64_t segment_bytes;
    uint32_t segments, segment_pages;
    struct log_seg *segs; /* [segments], reserved for segs_cap */
    uint32_t segs_cap, free_n;
    uint64_t next_generation; /* to be used next */
    uint64_t generation_end;  /* the device says: none used from here on */

    /* Superblock writer. */
    uint32_t super_slot; /* where the next goes: 0 A, 1 B */
    bool super_busy;
    uint8_t *super_page;
    struct log_io super_io;
    uint64_t super_promise;
    void (*super_done)(struct seglog *g, enum err e);

    /* Segments being written. */
    uint32_t head;     /* SEG_NONE: none yet */
    uint32_t head_seq; /* of the next group in it */
    uint32_t next_segment;
    enum log_next next;
    uint8_t *next_page;
    struct log_io next_io;

    /* Requests and groups. */
    struct list queue[LOG_Q_N];
    uint64_t queued_bytes;             /* of PUTs in the queues */
    struct list flush_wait, flush_now; /* written; under the flush in flight */
    struct list ended;                 /* to be answered by seglog_deliver */
    struct log_group group[LOG_GROUPS];
    struct list groups, groups_free;
    struct log_payload payload[LOG_IOS];
    struct log_io flush_io;
    bool flushing;

    /* Budget. */
    int64_t tokens;
    uint64_t tokens_ns, tokens_carry;
    uint64_t tokens_need; /* what the group at the front waits for; 0 none */

    struct log_reclaim reclaim;

    struct list flying; /* log_io.node, in order of submission */
    uint32_t flying_n;  /* of them */
    uint64_t payload_bytes;
    uint64_t recovered_records, recovered_ms;
    bool from_checkpoint;
    uint64_t shown[5]; /* what this log added to the lane's gauges */

    struct log_open *open;   /* of seglog_open_new */
    struct log_scrub *scrub; /* of seglog_scrub_new; may stay NULL */
    uint8_t *pages;          /* page buffers of this struct, reserved */
};

/* ---- where things are */
static inline uint64_t seg_off(const struct seglog *g, uint32_t segment)
{
    return SEG_DATA + (uint64_t)segment * g->segment_bytes;
}

static inline uint32_t seg_first_page(const struct seglog *g, uint32_t segment)
{
    return (uint32_t)(seg_off(g, segment) / SEG_PAGE);
}

/* ---- seglog.c */
/* Sets segment_bytes, segments, segment_pages (whole segments within
 * cfg.bytes and what the superblock says) and the same in the map; all
 * segments FREE with generation 0. LIMIT: fewer than LOG_SEGMENTS_MIN, more
 * than segs_cap. */
must_check enum err seglog_geometry(struct seglog *g, uint64_t bytes,
                                    uint64_t segment_bytes);
/* Changes a segment's state; keeps free_n and the trace. */
void seglog_seg_set(struct seglog *g, uint32_t segment,
                    enum log_seg_state state);
/* Changes the state of the log, in the map too; host.changed is told later,
 * by seglog_deliver (READ_ONLY, FAILED, RETIRING, RETIRED only). why: static.
 */
void seglog_state_set(struct seglog *g, enum seglog_state state,
                      const char *why);
/* READ_ONLY or FAILED, from a state that is not worse: no write or flush is
 * submitted from now on; queued requests end with IO. */
void seglog_fail(struct seglog *g, enum seglog_state to, const char *why);
/* Ends a request: its done() runs at the next seglog_deliver. */
void seglog_end(struct seglog *g, struct seg_req *r, enum err e);
/* Runs what is outstanding of done() and host.changed. Not from within a
 * step. */
void seglog_deliver(struct seglog *g);
/* Sets what an io needs once; zeroes it before. */
void seglog_io_init(struct seglog *g, struct log_io *io,
                    void (*done)(struct log_io *io), void *arg);
/* READ, WRITE (charged), FLUSH and DISCARD of one buffer. off in bytes. */
void seglog_io(struct log_io *io, enum disk_what what, uint64_t off, void *buf,
               uint64_t len);
/* The caller filled in io->io.spans, span_n, off and len; not charged. */
void seglog_io_spans(struct log_io *io, enum disk_what what);
/* Writes g->super to the other slot than last time, then flushes, then
 * done(g, e), from a completion. Fills in seq, next_generation
 * (next_generation + LOG_GENERATIONS) and the seal; on OK generation_end has
 * moved. flags, check_*: as they stand in g->super. One at a time: MUST
 * !super_busy. */
void seglog_super_write(struct seglog *g,
                        void (*done)(struct seglog *g, enum err e));

/* ---- seglog_budget.c */
/* Counts bytes written to the device: tokens, super.written_bytes, metric. */
void seglog_charge(struct seglog *g, uint64_t bytes);
void seglog_budget_refill(struct seglog *g);
/* May a group of so many bytes that is not durable be written now? Else notes
 * what it waits for. */
bool seglog_budget_take(struct seglog *g, uint64_t bytes);
uint64_t seglog_budget_next_ns(const struct seglog *g);
void seglog_binding_tick(struct seglog *g);

/* ---- seglog_head.c */
void seglog_head_init(struct seglog *g);
/* A generation, or 0: none is promised on the device yet (a superblock write
 * is started, the caller tries again from a later step). */
uint64_t seglog_generation(struct seglog *g);
/* The FREE segment that is to be written next: the one whose former life is
 * the oldest. SEG_NONE: none is free. */
uint32_t seglog_free_oldest(const struct seglog *g);
/* Pages that may be taken in the head now; 0: wait. reserve: the request may
 * use the last LOG_RESERVE segments. Switches to the next segment when what
 * is left is less than pages. */
uint32_t seglog_head_room(struct seglog *g, uint32_t pages, bool reserve);
/* Prepares the next segment ahead of need. */
void seglog_head_tick(struct seglog *g);
/* No more writes here: the head becomes FULL, a prepared next FREE, once
 * nothing is in flight in them. true: there is neither any more. */
bool seglog_head_end(struct seglog *g);

/* ---- seglog_write.c */
void seglog_write_init(struct seglog *g);
void seglog_write_step(struct seglog *g); /* starts all that can be started */
/* Ends all that is queued or waits for a flush, and groups with no payload
 * io in flight. */
void seglog_write_abort(struct seglog *g, enum err e);
/* Ends what is queued and in no group. */
void seglog_write_refuse(struct seglog *g, enum err e);
/* Takes a request of a log that is OPEN into its queue. */
void seglog_write_queue(struct seglog *g, struct seg_req *r);
/* Nothing queued, in a group or waiting for a flush. */
bool seglog_write_idle(const struct seglog *g);
uint64_t seglog_write_next_ns(const struct seglog *g);
void seglog_write_check(const struct seglog *g);

/* ---- seglog_reclaim.c */
void seglog_reclaim_init(struct seglog *g);
bool seglog_reclaim_tick(struct seglog *g); /* true: there is more now */
uint64_t seglog_reclaim_next_ns(const struct seglog *g);

/* ---- seglog_open.c, seglog_close.c (helper B) */
/* Called by seglog_new and seglog_free: buffers for opening and closing. */
must_check enum err seglog_open_new(struct seglog *g);
void seglog_open_free(struct seglog *g); /* NULL g->open ok */
/* Called by every tick while g->opening, which seglog_open sets and whoever
 * tells host.opened clears. A hang may have made the state FAILED meanwhile.
 * true: there is more to do now. */
bool seglog_open_tick(struct seglog *g);
/* Called by every tick while g->closing. Until seglog_write_idle the writer
 * finishes what is queued, without linger and budget (what finds no segment
 * ends with BUSY); new requests are refused with BUSY. */
bool seglog_close_tick(struct seglog *g);

/* ---- seglog_scrub.c (helper B) */
must_check enum err seglog_scrub_new(struct seglog *g);
void seglog_scrub_free(struct seglog *g);
bool seglog_scrub_tick(struct seglog *g); /* OPEN and READ_ONLY */
uint64_t seglog_scrub_next_ns(const struct seglog *g);

#endif
