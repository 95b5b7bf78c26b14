/* SPDX-License-Identifier: Apache-2.0
 *
 * The mover: the only code that copies between tiers. It belongs to a store
 * and is seen by it alone; the server sees store.h.
 *
 *   write-behind   LIVE block --seg_req--> its log; then the entry has a place
 *   load           a place --disk_io--> fresh extents, crc checked; then LIVE
 *   unload         a LIVE block with a place loses its DRAM: no byte moves
 *   peek           a header page --disk_io--> what a record says
 *
 * Class order: demand > prefetch > promotion > re-insertion and write-behind.
 *
 * Write-behind. Committed blocks queue in a ring of (entry, version). While no
 * log's budget binds all are written; when it binds, only those whose reuse is
 * predicted: used since they came, or known to have been wanted before (the
 * ghost memory). The others are deferred: a later use queues them again. The
 * bytes under way are bounded (write_window), so refs for writing never hold
 * more than that.
 *
 * Loads. A block being loaded has a hot record, extents and state LOADING; one
 * load serves everyone who waits for the block. The lane reads through its own
 * ring under seg_read_begin. Where the record is rich (attributes, parent) its
 * header page is read along; otherwise the caller's key is what it says. */
#ifndef STORE_MOVER_H
#define STORE_MOVER_H

#include "store/seglog.h"

/* All SSDs as one lane sees them; made by the server (or a test), given to
 * store_ssd_set, kept until store_free. */
struct ssd {
    struct disk *disk; /* the lane's own ring */
    uint32_t n;
    struct seg_map *maps[DISK_DEVS];
    uint32_t lane, lanes;
    /* Hands a request to the owner of its device; done comes back on this
     * lane's thread, never inside. */
    void (*submit)(struct ssd *ssd, struct seg_req *r);
    void *arg;
    uint64_t write_window; /* bytes of PUT requests under way at most */
    uint64_t load_window;  /* bytes of loads under way at most */
    bool second_touch;     /* a first read from SSD does not stay in DRAM */
};

#endif
