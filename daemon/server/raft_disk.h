/* SPDX-License-Identifier: Apache-2.0
 *
 * The disk of a voter: libraft's raft_uv on the daemon's own loop, in a
 * directory of its own, with a transport that never connects. Gives the
 * raft_io that coord_cfg.io wants; its timer is the clock of elections.
 *
 *   raft_disk_open --> io --> coord_open ... coord_close --closed-->
 *   raft_disk_close        (closed: all of it is at rest; then close at once)
 *
 * The loop must turn between coord_close and closed. If coord_open fails the io
 * may still be closing: raft_disk_failed waits for it. One thread, the loop's.
 *
 * Takes about 24 MiB of disk: three segments of 8 MiB, two of them ahead. Where
 * the file system has no O_DIRECT (tmpfs) raft_uv does without. */
#ifndef SERVER_RAFT_DISK_H
#define SERVER_RAFT_DISK_H

#include <raft.h>
#include <raft/uv.h>

#include "base/err.h"

struct raft_disk {
    struct raft_io io;
    struct raft_uv_transport transport;
    void (*uv_close)(struct raft_io *io, raft_io_close_cb cb);
    raft_io_close_cb closed; /* raft_uv's, given on once */
    uv_loop_t *loop;
    uv_idle_t rest;
    uint32_t turns;
    bool open, closing, resting;
    bool at_rest; /* closed by libraft, or never taken up */
};

/* dir is made if it is not there (0700). CONFIG: not a directory, or not to be
 * written; IO. */
must_check enum err raft_disk_open(struct raft_disk *d, uv_loop_t *loop,
                                   const char *dir, struct errmsg *m);
/* At rest; accepts zeros. */
void raft_disk_close(struct raft_disk *d);
/* After a coord_open that failed: turns the loop until d is at rest. */
void raft_disk_failed(struct raft_disk *d, uv_loop_t *loop);

#endif
