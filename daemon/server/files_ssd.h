/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening the paths of ssd.paths (shell): for boot, it blocks.
 *
 *   regular file  made and its space reserved; a smaller one grows
 *   block device  as it is; one that is mounted or in use elsewhere is refused
 *
 * 1. What is opened is locked (flock) until it is closed, and the kernel drops
 *    the lock with the process: one pikvd or pikv-fsck at a time.
 * 2. A file's space is reserved: a write to it does not meet a full file
 *    system. A file that was made here and could not be finished is removed.
 * 3. Nothing that was there is written to; what is inside is not looked at.
 *
 * Every failure names the setting, the path and what to do. ERR_IO, or
 * ERR_BUSY when another process has it. */
#ifndef SERVER_FILES_SSD_H
#define SERVER_FILES_SSD_H

#include "base/err.h"
#include "server/config.h"
#include "store/disk.h"

struct files_ssd_cfg {
    const char *path;
    uint64_t capacity; /* bytes; 0: what is there */
    uint64_t segment;  /* bytes; the path must hold 8 of them */
};

struct files_ssd {
    int fd;         /* O_DIRECT */
    uint64_t bytes; /* to use: whole pages, at most 2^32 - 1 of them */
    bool is_block;
    bool created;
    uint64_t dev, ino; /* who it is: of a block device its number and 0 */
    char path[CONFIG_STRING];
};

must_check enum err files_ssd_open(struct files_ssd *out,
                                   const struct files_ssd_cfg *cfg,
                                   struct errmsg *m);
void files_ssd_close(struct files_ssd *s); /* accepts zeros */

/* All paths of a configuration; none is left open after an error. Two paths of
 * one file are refused. */
struct files_ssds {
    struct files_ssd of[DISK_DEVS];
    uint32_t n;
};
must_check enum err files_ssds_open(struct files_ssds *out,
                                    const struct config *c, struct errmsg *m);
void files_ssds_close(struct files_ssds *s); /* accepts zeros */

/* A random one, for a store that is formatted. */
must_check enum err files_uuid(uint8_t uuid_out[16], struct errmsg *m);

#endif
