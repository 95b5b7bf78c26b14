/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens the disk of a lane (store/disk.h) over descriptors that all lanes
 * share: io_uring, or pread and pwrite in threads where io_uring is not to be
 * had or not wanted.
 *
 *   disk_open -> submit, progress, arm, awake (store/disk.h) -> disk_close
 *
 * 1. At most DISK_DEPTH ios and DISK_WINDOW_BYTES of a device and direction are
 *    with the kernel, one at least; the rest waits here in order. Reads and
 *    writes of a device, and devices, do not wait for each other. A FLUSH goes
 *    ahead of waiting writes.
 * 2. An io past the end of its device ends with IO and touches nothing.
 * 3. DISCARD is a wish: where it is not supported it ends with OK. A file gets
 *    its space reserved again, so that a later write does not meet NO_SPACE;
 *    when that fails, so does the DISCARD.
 *
 * Thread: open and close anywhere, one thread at a time; between them the
 * owner's. It may change hands while nothing is in flight. Allocates in open
 * only. A disk with an io that hangs cannot be closed. */
#ifndef SERVER_DISK_OPEN_H
#define SERVER_DISK_OPEN_H

#include "base/metrics.h"
#include "server/config.h"
#include "store/disk.h"

enum {
    DISK_DEPTH = 32,              /* ios of a device and direction under way */
    DISK_WINDOW_BYTES = 32 << 20, /* and bytes of them, beyond the first */
    DISK_MEMS = 32,               /* ranges of memory that may be registered */
    DISK_MEM_STEP = 64 << 20,     /* bytes registered as one piece */
};

struct disk_cfg {
    enum config_engine engine;
    uint32_t dev_n;
    int fds[DISK_DEVS]; /* stay the caller's; open until disk_close */
    uint64_t bytes[DISK_DEVS];
    /* Where most spans lie: disk_register pins them and registers them with
     * the kernel, which saves doing so for each io. */
    const struct span *mems;
    uint32_t mem_n;
    struct env *env;
    struct metrics *metrics;
};

must_check enum err disk_open(struct disk **out, const struct disk_cfg *cfg,
                              struct errmsg *m);
void disk_close(struct disk *d); /* NULL ok; nothing may be in flight */
/* Readable when an armed disk has something to do. */
int disk_fd(struct disk *d);
/* Registers up to so many bytes more of cfg.mems, in order; true while some
 * are left. About 50 ms per GiB of 4 KiB pages that are resident, and the time
 * to make them so for those that are not: boot may do all at once, a lane goes
 * step by step after its memory was touched. When the kernel refuses, the disk
 * goes on with what it has, and it is said once. Owner's thread. */
bool disk_register(struct disk *d, uint64_t bytes);
uint64_t disk_registered_bytes(struct disk *d);

#endif
