/* SPDX-License-Identifier: Apache-2.0
 *
 * The SSDs at the start and the end of the process (shell; main thread).
 *
 *   ssd_boot_paths   opens and locks the paths: their size decides about tables
 *   [lanes are made]
 *   ssd_boot_start   disks, namespaces, logs; recovers to the end, then returns
 *   [loops run]
 *   ssd_boot_stop    checkpoint, CLEAN superblocks, closes everything
 *
 * While start and stop run no lane has a thread: all lanes and their disks are
 * turned here, so logs and stores see each other directly.
 *
 * What is wrong with a path or what is on it (in use, foreign, newer, damaged
 * superblocks) fails the start: a person must look. A device that does not read
 * or write is no reason not to serve: the daemon starts without it, the log and
 * /readyz say so. */
#ifndef SERVER_SSD_BOOT_H
#define SERVER_SSD_BOOT_H

#include "server/control.h"
#include "server/files.h"
#include "server/files_ssd.h"
#include "server/lane.h"
#include "server/notify.h"

struct ssd_boot {
    struct files_ssds files;
    struct ssd_node node; /* n 0: no SSD */
    struct disk *disks[UNIT_LANES_MAX];
};

must_check enum err ssd_boot_paths(struct ssd_boot *b, const struct config *c,
                                   struct errmsg *m);
uint64_t ssd_boot_bytes(const struct ssd_boot *b);

struct ssd_boot_cfg {
    const struct config *cfg;
    struct control *control;        /* its registry and its lanes */
    const struct arena_map *arenas; /* where blocks lie: pinned for the disks */
    uint32_t arena_n;
    struct notify *notify; /* told that it takes longer */
};
/* Nothing without SSDs. */
must_check enum err ssd_boot_start(struct ssd_boot *b,
                                   const struct ssd_boot_cfg *cfg,
                                   struct errmsg *m);
/* Takes at most timeout_us and a little. false: a device hangs, and memory that
 * it may still write to must not be given back. Accepts zeros and whatever a
 * failed start left. */
bool ssd_boot_stop(struct ssd_boot *b, bool checkpoint, uint64_t timeout_us);

#endif
