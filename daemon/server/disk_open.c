/* SPDX-License-Identifier: Apache-2.0
 *
 * The choice of an engine, and what engines share.
 *
 *   submit -> disk_take -> queue --take--> engine --disk_stepped--> disk_end
 *                |                           ^          | not all of it
 *                | past the end              +----------+
 *                v
 *             refused, told by the next progress()
 *
 * disk_pos of an io is how far it came: bytes of a transfer, steps of a
 * DISCARD. An engine owns an io from take to disk_end. */
#include "server/disk_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"

static const char *const what_names[] = {[DISK_READ] = "read",
                                         [DISK_WRITE] = "write",
                                         [DISK_FLUSH] = "flush",
                                         [DISK_DISCARD] = "discard"};

/* ---- Life ---- */

void disk_shell_init(struct disk_shell *s, const struct disk_cfg *cfg,
                     uint32_t depth)
{
    s->base.dev_n = cfg->dev_n;
    s->env = cfg->env;
    s->queues.n = 2 * cfg->dev_n;
    s->queues.depth = depth;
    for (uint32_t i = 0; i < s->queues.n; i++)
        list_init(&s->queues.of[i].waiting);
    list_init(&s->refused);
    for (uint32_t i = 0; i < cfg->dev_n; i++) {
        struct stat st;

        s->base.dev_bytes[i] = cfg->bytes[i];
        s->fds[i] = cfg->fds[i];
        s->is_block[i] = fstat(cfg->fds[i], &st) == 0 && S_ISBLK(st.st_mode);
    }
}

static enum err open_failed(struct errmsg *m, enum err e, int error)
{
    if (e == ERR_NO_MEMORY)
        return errmsg_set(m, e, "ssd: no memory for the queues of a lane");
    return errmsg_set(m, e,
                      "ssd: cannot set up asynchronous i/o: %s; fix: raise the "
                      "limits of open files, tasks and locked memory "
                      "(LimitNOFILE, TasksMax, LimitMEMLOCK)",
                      strerror(error));
}

static enum err open_uring(struct disk_shell **out, const struct disk_cfg *cfg,
                           struct errmsg *m)
{
    int error = 0;
    enum err e = disk_uring_new(out, cfg, &error);

    if (e == OK || e == ERR_NO_MEMORY)
        return e == OK ? OK : open_failed(m, e, error);
    if (cfg->engine == ENGINE_URING)
        return errmsg_set(m, e,
                          "ssd.engine: io_uring cannot be had: %s; fix: allow "
                          "it (sysctl kernel.io_uring_disabled=0, the seccomp "
                          "profile of the container), or set ssd.engine to "
                          "\"auto\"",
                          strerror(error));
    LOG(LOG_WARN, "ssd_fallback", "engine=sync error=%s",
        LOG_STR(strerror(error)));
    return e;
}

enum err disk_open(struct disk **out, const struct disk_cfg *cfg,
                   struct errmsg *m)
{
    struct disk_shell *s = NULL;
    enum err e = ERR_UNSUPPORTED;
    int error = 0;

    MUST(cfg->dev_n > 0 && cfg->dev_n <= DISK_DEVS && cfg->mem_n <= DISK_MEMS);
    if (cfg->engine != ENGINE_SYNC)
        e = open_uring(&s, cfg, m);
    if (e != OK && e != ERR_NO_MEMORY && cfg->engine != ENGINE_URING) {
        metric_set(&cfg->metrics->ssd_fallback, cfg->engine == ENGINE_AUTO);
        e = disk_sync_new(&s, cfg, &error);
        if (e != OK)
            return open_failed(m, e, error);
    }
    if (e == OK)
        *out = &s->base;
    return e;
}

void disk_close(struct disk *d)
{
    if (!d)
        return;
    MUST(d->in_flight == 0);
    disk_shell_of(d)->close(disk_shell_of(d));
}

int disk_fd(struct disk *d)
{
    return disk_shell_of(d)->fd;
}

bool disk_register(struct disk *d, uint64_t bytes)
{
    struct disk_shell *s = disk_shell_of(d);
    uint64_t before = s->registered_bytes;

    if (!s->register_step)
        return false;
    do {
        if (!s->register_step(s))
            return false;
    } while (s->registered_bytes - before < bytes);
    return true;
}

uint64_t disk_registered_bytes(struct disk *d)
{
    return disk_shell_of(d)->registered_bytes;
}

/* ---- Ios ---- */

static bool io_moves(const struct disk_io *io)
{
    return io->what == DISK_READ || io->what == DISK_WRITE;
}

static void io_check(const struct disk_shell *s, const struct disk_io *io)
{
    uint64_t sum = 0;

    MUST(io->dev < s->base.dev_n);
    MUST(io->off % DISK_PAGE == 0 && io->len % DISK_PAGE == 0);
    MUST((io->len == 0) == (io->what == DISK_FLUSH));
    if (!io_moves(io))
        return;
    MUST(io->len <= DISK_IO_BYTES);
    MUST(io->span_n > 0 && io->span_n <= DISK_IO_SPANS);
    for (uint32_t i = 0; i < io->span_n; i++) {
        DEBUG_CHECK(io->spans[i].len % DISK_PAGE == 0);
        DEBUG_CHECK((uintptr_t)io->spans[i].p % DISK_PAGE == 0);
        sum += io->spans[i].len;
    }
    MUST(sum == io->len);
}

bool disk_take(struct disk_shell *s, struct disk_io *io)
{
    uint64_t bytes = s->base.dev_bytes[io->dev % DISK_DEVS];

    io_check(s, io);
    io->began_ns = env_fresh_ns(s->env);
    io->disk_pos = 0;
    s->base.in_flight++;
    if (io->off <= bytes && io->len <= bytes - io->off)
        return true;
    list_add_tail(&s->refused, &io->node);
    return false;
}

void disk_end(struct disk_shell *s, struct disk_io *io, enum err e)
{
    MUST(s->base.in_flight > 0);
    s->base.in_flight--;
    io->err = e;
    io->done(io);
}

/* Only those that were there: one that done() submits waits for its turn. */
void disk_end_refused(struct disk_shell *s)
{
    struct list now, *n;

    list_init(&now);
    while ((n = list_pop(&s->refused)) != NULL)
        list_add_tail(&now, n);
    while ((n = list_pop(&now)) != NULL)
        disk_end(s, container_of(n, struct disk_io, node), ERR_IO);
}

/* ---- Queues ---- */

static struct disk_queue *queue_of(struct disk_queues *q,
                                   const struct disk_io *io)
{
    return &q->of[2 * io->dev + (io->what != DISK_READ)];
}

/* A DISCARD moves nothing, whatever its length. */
static uint64_t queue_bytes(const struct disk_io *io)
{
    return io_moves(io) ? io->len : 0;
}

void disk_queue_put(struct disk_queues *q, struct disk_io *io)
{
    struct disk_queue *of = queue_of(q, io);

    if (io->what == DISK_FLUSH)
        list_add_head(&of->waiting, &io->node);
    else
        list_add_tail(&of->waiting, &io->node);
}

static struct disk_io *queue_next(const struct disk_queue *of, uint32_t depth)
{
    struct disk_io *io;

    if (list_empty(&of->waiting) || of->running >= depth)
        return NULL;
    io = container_of(of->waiting.next, struct disk_io, node);
    if (of->bytes > 0 && of->bytes + queue_bytes(io) > DISK_WINDOW_BYTES)
        return NULL;
    return io;
}

bool disk_queue_ready(const struct disk_queues *q)
{
    for (uint32_t i = 0; i < q->n; i++) {
        if (queue_next(&q->of[i], q->depth))
            return true;
    }
    return false;
}

/* In turn, so that no device and no direction starves another. */
struct disk_io *disk_queue_take(struct disk_queues *q)
{
    for (uint32_t i = 0; i < q->n; i++) {
        struct disk_queue *of = &q->of[q->next];
        struct disk_io *io = queue_next(of, q->depth);

        q->next = (q->next + 1) % q->n;
        if (!io)
            continue;
        list_del(&io->node);
        of->running++;
        of->bytes += queue_bytes(io);
        return io;
    }
    return NULL;
}

void disk_queue_end(struct disk_queues *q, const struct disk_io *io)
{
    struct disk_queue *of = queue_of(q, io);

    MUST(of->running > 0);
    of->running--;
    of->bytes -= queue_bytes(io);
}

/* ---- Steps ---- */

uint32_t disk_iov(const struct disk_io *io, bool cut,
                  struct iovec iov[DISK_IO_SPANS])
{
    uint64_t skip = io->disk_pos, left = io->len - io->disk_pos;
    uint32_t n = 0;

    if (cut && left > DISK_PAGE)
        left = left / 2 / DISK_PAGE * DISK_PAGE;
    for (uint32_t i = 0; i < io->span_n && left > 0; i++) {
        uint64_t from = min_u64(skip, io->spans[i].len);
        uint64_t len = min_u64(io->spans[i].len - from, left);
        uint8_t *p = io->spans[i].p + from;

        skip -= from;
        left -= len;
        if (len == 0)
            continue;
        if (n > 0 && (uint8_t *)iov[n - 1].iov_base + iov[n - 1].iov_len == p)
            iov[n - 1].iov_len += len;
        else
            iov[n++] = (struct iovec){p, len};
    }
    return n;
}

int disk_discard_mode(const struct disk_io *io)
{
    return io->disk_pos == 0 ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
                             : FALLOC_FL_KEEP_SIZE;
}

static bool discard_stepped(struct disk_io *io, bool is_block, int64_t res,
                            enum err *err_out)
{
    *err_out = OK;
    if (io->disk_pos++ > 0)
        *err_out = res == 0 ? OK : res == -ENOSPC ? ERR_NO_SPACE : ERR_IO;
    else if (res == 0)
        return is_block;
    else if (res != -EOPNOTSUPP && res != -ENOSYS && res != -EINVAL &&
             res != -EPERM && res != -ENODEV)
        *err_out = ERR_IO;
    return true;
}

static void io_failed(const struct disk_io *io, int64_t res)
{
    LOG(LOG_WARN, "ssd_io_failed",
        "dev=%u what=%s offset=%" PRIu64 " bytes=%" PRIu64 " error=%s", io->dev,
        what_names[io->what], io->off, io->len,
        LOG_STR(res < 0 ? strerror((int)-res) : "end of device"));
}

bool disk_stepped(struct disk_io *io, bool is_block, int64_t res,
                  enum err *err_out)
{
    enum err e = OK;
    bool over = true;

    if (res == -EINTR || res == -EAGAIN)
        return false;
    if (io->what == DISK_DISCARD) {
        over = discard_stepped(io, is_block, res, &e);
    } else if (res < 0) {
        e = res == -ENOSPC || res == -EDQUOT ? ERR_NO_SPACE : ERR_IO;
    } else if (io_moves(io)) {
        io->disk_pos += (uint64_t)res;
        over = res == 0 || io->disk_pos == io->len;
        e = res == 0 ? ERR_IO : OK;
    }
    if (e != OK)
        io_failed(io, res);
    *err_out = e;
    return over;
}
