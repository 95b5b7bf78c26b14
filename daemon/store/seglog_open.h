/* SPDX-License-Identifier: Apache-2.0
 *
 * What opening and closing a segment log keep; for seglog_open.c,
 * seglog_scan.c and seglog_close.c alone. One struct per log, made at
 * seglog_new: the log is opened before it writes and closed after it. */
#ifndef STORE_SEGLOG_OPEN_H
#define STORE_SEGLOG_OPEN_H

#include "store/seglog_impl.h"

enum {
    OPEN_SCANNERS = 64,     /* pages read at once */
    OPEN_SEEK = 4,          /* pages of a scanner that seeks */
    OPEN_BUF = 1 << 20,     /* their pages; then pieces of a checkpoint */
    OPEN_PIECE = 128 << 10, /* of the checkpoint, read at once */
};

enum open_step {
    OPEN_IDLE,
    OPEN_SUPERS, /* both superblocks are being read */
    OPEN_BLANK,  /* is there anything at all? */
    OPEN_HEADS,  /* head page of each segment */
    OPEN_CHECK,  /* the checkpoint */
    OPEN_SCAN,   /* group headers of each segment */
    OPEN_WIPE,   /* heads that could not be believed are written */
    OPEN_SUPER,  /* the superblock of this life */
    OPEN_ENDED,  /* to be told by the next tick */
};

enum close_step {
    CLOSE_NONE,
    CLOSE_DRAIN,
    CLOSE_FILL, /* the checkpoint */
    CLOSE_FLUSH,
    CLOSE_SUPER,
    CLOSE_ENDED,
};

/* A walker over the pages of one segment, one read at a time. */
struct open_scanner {
    struct log_io io;
    uint8_t *page; /* of OPEN_BUF: OPEN_SEEK, or OPEN_PIECE of a checkpoint */
    uint32_t segment, at; /* at: page on the device */
    uint32_t n;           /* pages being read */
    uint32_t seq;         /* of the next header at least */
    uint64_t generation;  /* of the headers to be believed; 0 any */
    uint64_t claim;       /* what a damaged head page says that to be */
    bool seek;            /* behind a damaged header */
};
static_assert(OPEN_SCANNERS * OPEN_SEEK * SEG_PAGE <= OPEN_BUF, "fits");

struct log_open {
    struct seglog *g;
    enum open_step step;
    enum seglog_open_how how;
    uint8_t uuid[16];
    uint8_t *buf;
    struct open_scanner scan[OPEN_SCANNERS];
    uint32_t busy;  /* scanners with a read in flight */
    uint32_t next;  /* segment to be looked at next */
    uint64_t off;   /* how far the device is blank; page of a checkpoint */
    uint32_t *free; /* with bad heads; those of a checkpoint */
    uint32_t free_n;
    bool second;    /* format: superblock A is written */
    bool check_bad; /* the checkpoint cannot be used */
    uint64_t check_n;
    uint64_t generation; /* to be used next when the superblock was written */
    uint64_t began_ns;
    enum err err; /* how it ended */
    struct errmsg msg;

    enum close_step close;
    bool checkpoint, waiting; /* an io of the close is in flight */
    bool more;                /* host.check_next has more */
    uint32_t fill_at;         /* page where buf will be written */
    struct log_io close_io;
};

/* ---- seglog_scan.c: each ends by setting the next step and g->kick */
void seglog_scan_heads(struct seglog *g);
void seglog_scan_check(struct seglog *g);
void seglog_scan_groups(struct seglog *g);
/* Instead of it, when the checkpoint was good. */
void seglog_scan_none(struct seglog *g);
/* Can the checkpoint that the superblock names be read? After the heads. */
bool seglog_scan_has_check(struct seglog *g);
void seglog_scan_wipe(struct seglog *g);

#endif
