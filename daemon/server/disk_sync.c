/* SPDX-License-Identifier: Apache-2.0
 *
 * The disk on preadv, pwritev and fdatasync in a few threads (shell): where
 * io_uring is not allowed. The same queues as the ring's, behind one mutex.
 *
 *   submit --> queues --take, a worker--> system calls --> ended --> done()
 *              \_________________ lock ________________________/   progress()
 *
 *  1. A worker owns an io between taking it and putting it into `ended`, both
 *     under the lock; the lane does before and after.
 *  2. The eventfd is written only when the lane is armed: a busy lane costs no
 *     system call per io.
 *  3. One device that hangs keeps SYNC_DEPTH / devices threads of each
 *     direction: with two devices and more the others go on.
 *
 * Fault points are the lane's: they are asked at submit and carried out by the
 * worker (io->disk says which). */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fault.h"
#include "server/disk_impl.h"

enum {
    SYNC_THREADS = 8,
    SYNC_DEPTH = 6, /* of a device and direction, all devices together */
    SYNC_TELL = 64, /* completions told by one progress() */
    SYNC_TRIES = 1000,
};

struct disk_sync {
    struct disk_shell shell;
    pthread_t threads[SYNC_THREADS];
    uint32_t thread_n;
    pthread_mutex_t lock;
    pthread_cond_t work; /* something to take, or quit */
    /* Under the lock, with shell.queues: */
    struct list ended;
    bool armed, quit;
};

/* What io->disk points at. */
static const char inject_error, inject_short;

static struct disk_sync *sync_of(struct disk *d)
{
    return container_of(disk_shell_of(d), struct disk_sync, shell);
}

/* ---- Workers ---- */

/* One system call's worth; bytes, 0, or a negative errno. */
static int64_t sync_step(const struct disk_sync *y, const struct disk_io *io,
                         bool cut)
{
    struct iovec iov[DISK_IO_SPANS];
    off_t off = (off_t)(io->off + io->disk_pos);
    int fd = y->shell.fds[io->dev];
    int64_t rc = -1;

    switch (io->what) {
    case DISK_READ:
        rc = preadv(fd, iov, (int)disk_iov(io, cut, iov), off);
        break;
    case DISK_WRITE:
        rc = pwritev(fd, iov, (int)disk_iov(io, cut, iov), off);
        break;
    case DISK_FLUSH:
        rc = fdatasync(fd);
        break;
    case DISK_DISCARD:
        rc = fallocate(fd, disk_discard_mode(io), (off_t)io->off,
                       (off_t)io->len);
        break;
    }
    return rc < 0 ? -errno : rc;
}

static void sync_do(const struct disk_sync *y, struct disk_io *io)
{
    bool cut = io->disk == &inject_short, over = false;
    bool is_block = y->shell.is_block[io->dev];
    enum err e = ERR_IO;

    for (uint32_t i = 0; i < SYNC_TRIES && !over; i++) {
        int64_t res = io->disk == &inject_error ? -EIO : sync_step(y, io, cut);

        over = disk_stepped(io, is_block, res, &e);
        cut = false;
    }
    io->err = over ? e : ERR_IO;
}

static void sync_ended(struct disk_sync *y, struct disk_io *io)
{
    uint64_t one = 1;

    disk_queue_end(&y->shell.queues, io);
    list_add_tail(&y->ended, &io->node);
    /* Room for several may have come; this worker takes the first. */
    if (disk_queue_ready(&y->shell.queues))
        pthread_cond_signal(&y->work);
    if (!y->armed)
        return;
    y->armed = false;
    MUST(write(y->shell.fd, &one, sizeof(one)) == sizeof(one));
}

static void *sync_worker(void *arg)
{
    struct disk_sync *y = arg;
    struct disk_io *io;

    pthread_setname_np(pthread_self(), "pikvd-ssd");
    pthread_mutex_lock(&y->lock);
    while (!y->quit) {
        io = disk_queue_take(&y->shell.queues);
        if (!io) {
            pthread_cond_wait(&y->work, &y->lock);
            continue;
        }
        pthread_mutex_unlock(&y->lock);
        sync_do(y, io);
        pthread_mutex_lock(&y->lock);
        sync_ended(y, io);
    }
    pthread_mutex_unlock(&y->lock);
    return NULL;
}

/* ---- The contract ---- */

static void *sync_inject(void)
{
    const char *what = NULL;

    if (fault_here("disk_io"))
        what = &inject_error;
    else if (fault_here("disk_short"))
        what = &inject_short;
    return (void *)(uintptr_t)what;
}

static void sync_submit(struct disk *d, struct disk_io *io)
{
    struct disk_sync *y = sync_of(d);

    if (!disk_take(&y->shell, io))
        return;
    io->disk = sync_inject();
    pthread_mutex_lock(&y->lock);
    disk_queue_put(&y->shell.queues, io);
    pthread_cond_signal(&y->work);
    pthread_mutex_unlock(&y->lock);
}

static bool sync_progress(struct disk *d)
{
    struct disk_sync *y = sync_of(d);
    struct list now, *n;
    bool more;

    if (d->in_flight == 0)
        return false;
    disk_end_refused(&y->shell);
    list_init(&now);
    pthread_mutex_lock(&y->lock);
    for (uint32_t i = 0; i < SYNC_TELL && !list_empty(&y->ended); i++)
        list_add_tail(&now, list_pop(&y->ended));
    more = !list_empty(&y->ended);
    pthread_mutex_unlock(&y->lock);
    while ((n = list_pop(&now)) != NULL) {
        struct disk_io *io = container_of(n, struct disk_io, node);

        disk_end(&y->shell, io, io->err);
    }
    return more || !list_empty(&y->shell.refused);
}

static bool sync_arm(struct disk *d)
{
    struct disk_sync *y = sync_of(d);
    bool armed;

    if (!list_empty(&y->shell.refused))
        return false;
    pthread_mutex_lock(&y->lock);
    armed = y->armed = list_empty(&y->ended);
    pthread_mutex_unlock(&y->lock);
    return armed;
}

static void sync_awake(struct disk *d)
{
    struct disk_sync *y = sync_of(d);
    uint64_t count;

    pthread_mutex_lock(&y->lock);
    y->armed = false;
    pthread_mutex_unlock(&y->lock);
    MUST(read(y->shell.fd, &count, sizeof(count)) > 0 || errno == EAGAIN);
}

static const struct disk_ops sync_ops = {.name = "sync",
                                         .submit = sync_submit,
                                         .progress = sync_progress,
                                         .arm = sync_arm,
                                         .awake = sync_awake};

/* ---- Life ---- */

static void sync_close(struct disk_shell *s)
{
    struct disk_sync *y = container_of(s, struct disk_sync, shell);

    pthread_mutex_lock(&y->lock);
    y->quit = true;
    pthread_cond_broadcast(&y->work);
    pthread_mutex_unlock(&y->lock);
    for (uint32_t i = 0; i < y->thread_n; i++)
        MUST(pthread_join(y->threads[i], NULL) == 0);
    pthread_cond_destroy(&y->work);
    pthread_mutex_destroy(&y->lock);
    close(s->fd);
    free(y);
}

/* Signals are the control thread's. 0 or an errno. */
static int sync_start(struct disk_sync *y)
{
    sigset_t all, before;
    int rc = 0;

    sigfillset(&all);
    MUST(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    while (y->thread_n < SYNC_THREADS && rc == 0) {
        rc = fault_here("disk_thread")
                 ? EAGAIN
                 : pthread_create(&y->threads[y->thread_n], NULL, sync_worker,
                                  y);
        y->thread_n += rc == 0;
    }
    MUST(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    return rc;
}

enum err disk_sync_new(struct disk_shell **out, const struct disk_cfg *cfg,
                       int *error_out)
{
    uint32_t depth = SYNC_DEPTH / cfg->dev_n;
    struct disk_sync *y =
        fault_here("disk_sync_calloc") ? NULL : calloc(1, sizeof(*y));
    int rc;

    if (!y)
        return ERR_NO_MEMORY;
    disk_shell_init(&y->shell, cfg, depth > 2 ? depth : 2);
    y->shell.base.ops = &sync_ops;
    y->shell.close = sync_close;
    list_init(&y->ended);
    y->shell.fd = fault_here("disk_eventfd")
                      ? (errno = EMFILE, -1)
                      : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (y->shell.fd < 0) {
        *error_out = errno;
        free(y);
        return ERR_IO;
    }
    MUST(pthread_mutex_init(&y->lock, NULL) == 0);
    MUST(pthread_cond_init(&y->work, NULL) == 0);
    rc = sync_start(y);
    if (rc != 0) {
        *error_out = rc;
        sync_close(&y->shell);
        return ERR_IO;
    }
    *out = &y->shell;
    return OK;
}
