/* SPDX-License-Identifier: Apache-2.0
 *
 * The disk on io_uring (shell): one ring per lane, for all devices.
 *
 *   waiting in a queue --pump--> slot + entry of the ring --enter--> kernel
 *          ^                        ^                                   |
 *          |                        | short, again                      |
 *        submit()                   +------------- reap <---------------+
 *                                                   | whole, or failed
 *                                                   v
 *                                                done()
 *
 *  1. There are as many entries in the submission ring as slots, and a slot has
 *     one entry at most: an entry is always to be had, and completions never
 *     overflow.
 *  2. Where the kernel can, completions do not interrupt the lane's thread
 *     (COOP_TASKRUN): they are collected when it enters the kernel or, by the
 *     flag that is looked at here, when it asks. Not DEFER_TASKRUN and not
 *     SINGLE_ISSUER: boot uses the ring from another thread than the lane's.
 *  3. The descriptor of the ring itself is what the loop polls. It is readable
 *     while a completion waits, so awake() has nothing to undo.
 *  4. Entries that the kernel did not take (EAGAIN: no memory) stay in the ring
 *     and are offered again by every progress().
 *
 * A transfer within one piece of registered memory goes as READ_FIXED or
 * WRITE_FIXED, whose pages are pinned already. DISCARD is an asynchronous
 * fallocate for files and for devices. */
#include <errno.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/units.h"
#include "server/disk_impl.h"

enum {
    /* Completions told by one progress(). One: its block is checked and on its
     * way, and new reads are sent, before the next one is looked at. */
    URING_REAP = 1,
    URING_TRIES = 1000, /* of a step that the kernel wants again */
    URING_MEMS = 16384, /* pieces that the kernel registers at most */
};

struct uring_slot {
    struct disk_io *io;
    struct uring_slot *next; /* free ones */
    uint32_t tries;
    struct iovec iov[DISK_IO_SPANS];
};

struct uring_mem {
    uint8_t *p;
    uint64_t len;
    uint32_t first; /* number of its first piece */
};

struct disk_uring {
    struct disk_shell shell;
    struct io_uring ring;
    struct uring_slot *slots, *free;
    struct uring_mem mems[DISK_MEMS];
    uint32_t mem_n, pieces; /* DISK_MEM_STEP each, but the last of a range */
    uint32_t registered;    /* the first so many of them */
};

static struct disk_uring *uring_of(struct disk *d)
{
    return container_of(disk_shell_of(d), struct disk_uring, shell);
}

/* ---- Starting ---- */

/* The number of the registered piece that holds all of it, or -1. */
static int uring_mem_find(const struct disk_uring *u, const struct iovec *v)
{
    for (uint32_t i = 0; i < u->mem_n; i++) {
        const struct uring_mem *mem = &u->mems[i];
        uint64_t off = (uint64_t)((uint8_t *)v->iov_base - mem->p);
        uint64_t piece = mem->first + off / DISK_MEM_STEP;

        if ((uint8_t *)v->iov_base < mem->p || off >= mem->len)
            continue;
        if (v->iov_len > mem->len - off || piece >= u->registered ||
            off / DISK_MEM_STEP != (off + v->iov_len - 1) / DISK_MEM_STEP)
            return -1;
        return (int)piece;
    }
    return -1;
}

static void uring_prep_move(struct disk_uring *u, struct uring_slot *s,
                            struct io_uring_sqe *sqe)
{
    const struct disk_io *io = s->io;
    uint64_t off = io->off + io->disk_pos;
    uint32_t n = disk_iov(io, fault_here("disk_short"), s->iov);
    int mem = n == 1 ? uring_mem_find(u, &s->iov[0]) : -1;
    unsigned len = (unsigned)s->iov[0].iov_len;

    if (io->what == DISK_READ && mem >= 0)
        io_uring_prep_read_fixed(sqe, (int)io->dev, s->iov[0].iov_base, len,
                                 off, mem);
    else if (io->what == DISK_READ)
        io_uring_prep_readv(sqe, (int)io->dev, s->iov, n, off);
    else if (mem >= 0)
        io_uring_prep_write_fixed(sqe, (int)io->dev, s->iov[0].iov_base, len,
                                  off, mem);
    else
        io_uring_prep_writev(sqe, (int)io->dev, s->iov, n, off);
}

static void uring_prep(struct disk_uring *u, struct uring_slot *s)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    const struct disk_io *io = s->io;

    MUST(sqe);
    switch (io->what) {
    case DISK_READ:
    case DISK_WRITE:
        uring_prep_move(u, s, sqe);
        break;
    case DISK_FLUSH:
        io_uring_prep_fsync(sqe, (int)io->dev, IORING_FSYNC_DATASYNC);
        break;
    case DISK_DISCARD:
        io_uring_prep_fallocate(sqe, (int)io->dev, disk_discard_mode(io),
                                (off_t)io->off, (off_t)io->len);
        break;
    }
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, s);
}

static void uring_pump(struct disk_uring *u)
{
    struct disk_io *io;

    while ((io = disk_queue_take(&u->shell.queues)) != NULL) {
        struct uring_slot *s = u->free;

        MUST(s);
        u->free = s->next;
        s->io = io;
        s->tries = 0;
        uring_prep(u, s);
    }
    if (io_uring_sq_ready(&u->ring) == 0 || fault_here("disk_enter"))
        return;
    (void)io_uring_submit(&u->ring); /* what it did not take stays ready */
}

/* ---- Ending ---- */

static void uring_slot_end(struct disk_uring *u, struct uring_slot *s,
                           int64_t res)
{
    struct disk_io *io = s->io;
    bool is_block = u->shell.is_block[io->dev];
    enum err e = ERR_IO;

    if (fault_here("disk_io"))
        res = -EIO;
    if (!disk_stepped(io, is_block, res, &e) && ++s->tries < URING_TRIES) {
        uring_prep(u, s);
        return;
    }
    s->next = u->free;
    u->free = s;
    disk_queue_end(&u->shell.queues, io);
    disk_end(&u->shell, io, e);
}

/* Peeking also makes the kernel hand over what it holds back. */
static void uring_reap(struct disk_uring *u)
{
    struct io_uring_cqe *cqes[URING_REAP];
    uint32_t n = io_uring_peek_batch_cqe(&u->ring, cqes, URING_REAP);
    int64_t res[URING_REAP];
    struct uring_slot *slots[URING_REAP];

    for (uint32_t i = 0; i < n; i++) {
        slots[i] = io_uring_cqe_get_data(cqes[i]);
        res[i] = cqes[i]->res;
    }
    io_uring_cq_advance(&u->ring, n);
    for (uint32_t i = 0; i < n; i++)
        uring_slot_end(u, slots[i], res[i]);
}

static bool uring_has_completions(const struct disk_uring *u)
{
    unsigned flags = IO_URING_READ_ONCE(*u->ring.sq.kflags);

    return io_uring_cq_ready(&u->ring) > 0 ||
           (flags & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN)) != 0;
}

/* ---- The contract ---- */

static void uring_submit(struct disk *d, struct disk_io *io)
{
    struct disk_uring *u = uring_of(d);

    if (disk_take(&u->shell, io))
        disk_queue_put(&u->shell.queues, io);
}

static bool uring_progress(struct disk *d)
{
    struct disk_uring *u = uring_of(d);

    if (d->in_flight == 0)
        return false;
    disk_end_refused(&u->shell);
    uring_reap(u);
    uring_pump(u);
    return !list_empty(&u->shell.refused) || uring_has_completions(u);
}

static bool uring_arm(struct disk *d)
{
    struct disk_uring *u = uring_of(d);

    return list_empty(&u->shell.refused) && io_uring_sq_ready(&u->ring) == 0 &&
           !disk_queue_ready(&u->shell.queues) && !uring_has_completions(u);
}

static void uring_awake(struct disk *d)
{
    (void)d;
}

static const struct disk_ops uring_ops = {.name = "uring",
                                          .submit = uring_submit,
                                          .progress = uring_progress,
                                          .arm = uring_arm,
                                          .awake = uring_awake};

/* ---- Life ---- */

static void uring_close(struct disk_shell *s)
{
    struct disk_uring *u = container_of(s, struct disk_uring, shell);

    io_uring_queue_exit(&u->ring);
    free(u->slots);
    free(u);
}

/* 0 or an errno, negative as liburing gives it. */
static int uring_ring_init(struct disk_uring *u, uint32_t entries)
{
    struct io_uring_params p = {.flags = IORING_SETUP_COOP_TASKRUN |
                                         IORING_SETUP_TASKRUN_FLAG};
    int rc;

    if (fault_here("disk_uring_init"))
        return -EPERM;
    rc = fault_here("disk_uring_coop")
             ? -EINVAL
             : io_uring_queue_init_params(entries, &u->ring, &p);
    if (rc == -EINVAL) { /* before Linux 5.19 */
        memset(&p, 0, sizeof(p));
        rc = io_uring_queue_init_params(entries, &u->ring, &p);
    }
    return rc;
}

/* ---- Registered memory ---- */

static void uring_mem_refused(struct disk_uring *u, int rc)
{
    static bool said; /* by the first lane for all */

    u->pieces = u->registered;
    if (__atomic_exchange_n(&said, true, __ATOMIC_RELAXED))
        return;
    LOG(LOG_NOTICE, "ssd_memory_not_registered", "error=%s fix=%s",
        LOG_STR(strerror(-rc)), LOG_STR("LimitMEMLOCK=infinity"));
}

/* Numbers for all pieces; none is registered yet. */
static void uring_mems_init(struct disk_uring *u, const struct disk_cfg *cfg)
{
    int rc;

    for (uint32_t i = 0; i < cfg->mem_n; i++) {
        const struct span *from = &cfg->mems[i];

        u->mems[i] = (struct uring_mem){from->p, from->len, u->pieces};
        u->pieces +=
            (uint32_t)((from->len + DISK_MEM_STEP - 1) / DISK_MEM_STEP);
    }
    u->mem_n = cfg->mem_n;
    if (u->pieces == 0)
        return;
    u->pieces = (uint32_t)min_u64(u->pieces, URING_MEMS);
    rc = fault_here("disk_mem_sparse")
             ? -ENOMEM
             : io_uring_register_buffers_sparse(&u->ring, u->pieces);
    if (rc != 0)
        uring_mem_refused(u, rc);
}

static struct iovec uring_piece(const struct disk_uring *u, uint32_t piece)
{
    uint32_t i = u->mem_n - 1;
    uint64_t off;

    while (u->mems[i].first > piece)
        i--;
    off = (uint64_t)(piece - u->mems[i].first) * DISK_MEM_STEP;
    return (struct iovec){u->mems[i].p + off,
                          min_u64(u->mems[i].len - off, DISK_MEM_STEP)};
}

static bool uring_register_step(struct disk_shell *s)
{
    struct disk_uring *u = container_of(s, struct disk_uring, shell);
    struct iovec iov;
    __u64 tag = 0;
    int rc;

    if (u->registered == u->pieces)
        return false;
    iov = uring_piece(u, u->registered);
    rc = fault_here("disk_mem_register")
             ? -ENOMEM
             : io_uring_register_buffers_update_tag(&u->ring, u->registered,
                                                    &iov, &tag, 1);
    if (rc < 0) {
        uring_mem_refused(u, rc);
        return false;
    }
    u->registered++;
    s->registered_bytes += iov.iov_len;
    return u->registered < u->pieces;
}

/* The ring with its files, whole or not at all; 0 or a negative errno. */
static int uring_open(struct disk_uring *u, const struct disk_cfg *cfg,
                      uint32_t entries)
{
    int rc = uring_ring_init(u, entries);

    if (rc != 0)
        return rc;
    rc = fault_here("disk_files")
             ? -ENOMEM
             : io_uring_register_files(&u->ring, cfg->fds, cfg->dev_n);
    if (rc != 0)
        io_uring_queue_exit(&u->ring);
    return rc;
}

/* With its slots, all free; NULL without memory. */
static struct disk_uring *uring_alloc(uint32_t slot_n)
{
    struct disk_uring *u =
        fault_here("disk_uring_calloc") ? NULL : calloc(1, sizeof(*u));

    if (!u)
        return NULL;
    u->slots = fault_here("disk_slots_calloc")
                   ? NULL
                   : calloc(slot_n, sizeof(*u->slots));
    if (!u->slots) {
        free(u);
        return NULL;
    }
    for (uint32_t i = 0; i < slot_n; i++) {
        u->slots[i].next = u->free;
        u->free = &u->slots[i];
    }
    return u;
}

enum err disk_uring_new(struct disk_shell **out, const struct disk_cfg *cfg,
                        int *error_out)
{
    uint32_t slot_n = 2 * cfg->dev_n * DISK_DEPTH;
    struct disk_uring *u = uring_alloc(slot_n);
    int rc;

    if (!u)
        return ERR_NO_MEMORY;
    rc = uring_open(u, cfg, slot_n);
    if (rc != 0) {
        free(u->slots);
        free(u);
        *error_out = -rc;
        return ERR_IO;
    }
    disk_shell_init(&u->shell, cfg, DISK_DEPTH);
    u->shell.base.ops = &uring_ops;
    u->shell.fd = u->ring.ring_fd;
    u->shell.close = uring_close;
    u->shell.register_step = uring_register_step;
    uring_mems_init(u, cfg);
    *out = &u->shell;
    return OK;
}
