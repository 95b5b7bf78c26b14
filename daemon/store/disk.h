/* SPDX-License-Identifier: Apache-2.0
 *
 * The disk contract: whole pages of numbered devices, asynchronously. The
 * store's only way to an SSD. Providers: server/disk_uring.c (io_uring),
 * server/disk_sync.c (pread and pwrite in threads), tests/lib/disk_mem.c
 * (memory with a virtual clock, faults and crashes).
 *
 * Rules
 *  1. No completion is delivered inside submit(); they come from progress().
 *  2. Each io completes exactly once. After it the disk touches neither the
 *     struct nor the spans. There is no cancel: memory under an io stays put.
 *  3. OK means all of len moved; short transfers are continued inside. Any
 *     failure is ERR_IO (NO_SPACE for ENOSPC); nothing is known then of what
 *     was written.
 *  4. ios in flight are not ordered. A write is durable after a FLUSH that was
 *     submitted after its completion completed OK. A failed FLUSH is final:
 *     nobody repeats it (fsyncgate).
 *  5. READ fills exactly the spans; WRITE does not change them meanwhile:
 *     neither may the caller.
 *
 * Thread: the lane that owns the struct disk. Devices are shared by number
 * among the disks of all lanes. */
#ifndef STORE_DISK_H
#define STORE_DISK_H

#include "base/env.h"
#include "base/err.h"
#include "base/list.h"
#include "base/span.h"

enum {
    DISK_PAGE = 4096,     /* unit of offsets, lengths and memory alignment */
    DISK_DEVS = 8,        /* devices of a node at most */
    DISK_IO_SPANS = 512,  /* spans of one io at most */
    DISK_IO_BYTES = 16 << 20, /* bytes of one io at most */
};

enum disk_what { DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD };

struct disk_io {
    struct list node; /* the disk's, while in flight */
    enum disk_what what;
    uint32_t dev;
    uint64_t off, len; /* multiples of DISK_PAGE; FLUSH: 0 */
    const struct span *spans; /* page-aligned, lengths whole pages, sum len */
    uint32_t span_n;
    enum err err;      /* set before done: OK, IO, NO_SPACE */
    uint64_t began_ns; /* set by submit: env_fresh_ns */
    void (*done)(struct disk_io *io);
    uint64_t disk_pos; /* the disk's */
    void *disk;        /* the disk's */
};

struct disk;

struct disk_ops {
    const char *name; /* "uring", "sync", "memory" */
    void (*submit)(struct disk *d, struct disk_io *io);
    /* Starts what was submitted, delivers completions; a bounded amount. true:
     * call again soon. */
    bool (*progress)(struct disk *d);
    /* The lane is about to sleep. false: do not, there is something. */
    bool (*arm)(struct disk *d);
    void (*awake)(struct disk *d);
};

struct disk {
    const struct disk_ops *ops;
    uint32_t dev_n;
    uint64_t dev_bytes[DISK_DEVS];
    uint32_t in_flight;
};

static inline void disk_submit(struct disk *d, struct disk_io *io)
{
    d->ops->submit(d, io);
}

#endif
