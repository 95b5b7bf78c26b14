/* SPDX-License-Identifier: Apache-2.0
 *
 * A segment log over a disk in memory, for tests: virtual time, one lane, a
 * host that remembers what it was told, blocks whose bytes follow from their
 * number. logfix_run moves the clock to what happens next. */
#ifndef TESTS_LOGFIX_H
#define TESTS_LOGFIX_H

#include "store/seglog_impl.h"
#include "tests/lib/disk_mem.h"

enum { LOGFIX_SHOWN = 1 << 16, LOGFIX_TOLD = 8 };

struct logreq {
    struct seg_req r;
    struct logfix *fix;
    uint64_t n; /* its number: key, hash and bytes follow from it */
    uint32_t span_n;
    bool busy; /* submitted and not ended */
    uint32_t dones;
    uint64_t generation; /* of its segment when it was written */
    uint64_t ended_tick; /* media->ticks when done() ran */
    uint64_t ended_ns;
    char key[24];
    uint8_t *mem;
    uint64_t mem_bytes;
    struct span *spans;
    struct list node;
};

struct logfix {
    struct env env;
    struct metrics metrics;
    struct trace trace;
    struct mem_media *media;
    struct disk_mem d;
    struct seg_map map;
    struct seglog_cfg cfg;
    struct seglog *g;
    struct list reqs; /* all that were made */
    /* What the host was told. */
    bool opened, closed;
    enum err opened_err, closed_err;
    struct errmsg msg;
    enum seglog_state told[LOGFIX_TOLD];
    uint32_t told_n;
    /* Reclaim: hold: the test answers. take: of again_bytes, per cent. */
    bool hold;
    uint32_t take_pct;
    const struct seg_reclaim *held;
    uint32_t shown_segment[LOGFIX_SHOWN], shown_page[LOGFIX_SHOWN];
    uint64_t shown_again[LOGFIX_SHOWN], shown_bytes[LOGFIX_SHOWN];
    uint32_t shown_n;
    bool check; /* seglog_check at every turn */
    void (*record)(struct logfix *f, const struct seg_meta *m,
                   struct seg_place p);
    void (*tomb)(struct logfix *f, const struct seg_tomb *t);
    void (*ended)(struct logfix *f, struct logreq *q);
};

/* Defaults: 16 segments of 1 MiB, no budget, linger 5 ms, latency 50 us.
 * Change f->cfg and f->d.cfg before logfix_open. */
void logfix_init(struct logfix *f, uint32_t segments, uint64_t segment_bytes,
                 bool record);
/* The same over a media that is there. */
void logfix_on(struct logfix *f, struct mem_media *m, uint64_t segment_bytes);
void logfix_open(struct logfix *f, enum seglog_open_how how);
/* Drops what is in flight: the process died. The media stays. */
void logfix_kill(struct logfix *f);
/* Ends all, the media too; the log must be idle. */
void logfix_close(struct logfix *f);

bool logfix_turn(struct logfix *f); /* no time passes; true: more now */
/* Turns until nothing happens any more, or this time has come. */
void logfix_run(struct logfix *f, uint64_t until_ns);
void logfix_settle(struct logfix *f); /* logfix_run without end */

struct logreq *logfix_make(struct logfix *f, enum seg_req_what what, uint64_t n,
                           uint64_t version, uint32_t len);
void logfix_submit(struct logfix *f, struct logreq *q);
struct logreq *logfix_put(struct logfix *f, uint64_t n, uint32_t len);
struct logreq *logfix_durable(struct logfix *f, uint64_t n, uint32_t len);
struct logreq *logfix_tomb(struct logfix *f, uint64_t n);
/* Frees the memory of a request that has ended. */
void logfix_forget(struct logreq *q);
/* Are the block's bytes and record on the device where its place says? */
bool logfix_is_there(struct logfix *f, const struct logreq *q);

#endif
