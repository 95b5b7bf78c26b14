/* SPDX-License-Identifier: Apache-2.0
 *
 * What the two engines share (disk_open.c): queues, spans to iovecs, what an
 * errno means. */
#ifndef SERVER_DISK_IMPL_H
#define SERVER_DISK_IMPL_H

#include <sys/uio.h>

#include "server/disk_open.h"

/* Ios of a device and direction. */
struct disk_queue {
    struct list waiting;
    uint32_t running;
    uint64_t bytes; /* of the running ones */
};

struct disk_queues {
    struct disk_queue of[2 * DISK_DEVS];
    uint32_t n, next, depth;
};

struct disk_shell {
    struct disk base;
    int fd;
    uint64_t registered_bytes;
    struct env *env;
    int fds[DISK_DEVS];
    bool is_block[DISK_DEVS];
    struct disk_queues queues;
    struct list refused; /* past the end: told by progress() */
    void (*close)(struct disk_shell *s);
    bool (*register_step)(struct disk_shell *s); /* or NULL */
};

static inline struct disk_shell *disk_shell_of(struct disk *d)
{
    return container_of(d, struct disk_shell, base);
}

/* Each makes a whole engine or leaves nothing. The errno is in error_out. */
must_check enum err disk_uring_new(struct disk_shell **out,
                                   const struct disk_cfg *cfg, int *error_out);
must_check enum err disk_sync_new(struct disk_shell **out,
                                  const struct disk_cfg *cfg, int *error_out);

void disk_shell_init(struct disk_shell *s, const struct disk_cfg *cfg,
                     uint32_t depth);
/* The first half of submit: false if the io was refused. */
bool disk_take(struct disk_shell *s, struct disk_io *io);
void disk_end(struct disk_shell *s, struct disk_io *io, enum err e);
void disk_end_refused(struct disk_shell *s);

void disk_queue_put(struct disk_queues *q, struct disk_io *io);
/* The next io that may start, or NULL; disk_queue_end makes room again. */
struct disk_io *disk_queue_take(struct disk_queues *q);
bool disk_queue_ready(const struct disk_queues *q); /* is there such a one? */
void disk_queue_end(struct disk_queues *q, const struct disk_io *io);

/* What is left of an io, spans that lie side by side joined. Returns how many
 * entries. cut: stop half-way, as a kernel may. */
uint32_t disk_iov(const struct disk_io *io, bool cut,
                  struct iovec iov[DISK_IO_SPANS]);
/* What a step of an io came to: res as system calls in the kernel give it.
 * true: it is over, with *err_out; false: go on from disk_pos. */
bool disk_stepped(struct disk_io *io, bool is_block, int64_t res,
                  enum err *err_out);
/* The mode of fallocate for this step of a DISCARD. */
int disk_discard_mode(const struct disk_io *io);

#endif
