/* SPDX-License-Identifier: Apache-2.0
 *
 * Registered client memory, and the copies between it and extents.
 *
 *   memfd with F_SEAL_SHRINK   mapped once, copied directly (SHM_VIA_MAP)
 *   memfd of huge pages        mapped, copied by the kernel (SHM_VIA_SELF): a
 *                              hole without a free huge page is EFAULT, not a
 *                              signal
 *   any other regular file     pread, pwrite (SHM_VIA_FD): a client that
 *                              truncates it gets ERR_MEM_FAULT
 *
 * Invariants
 *  1. Nothing a client does to its memory ends in a signal here, nor in a wait:
 *     only regular files are taken, and none of FUSE, whose server may be the
 *     client itself.
 *  2. An id (generation of the slot, slot) never comes again in the life of a
 *     connection, so a transfer whose memory is unregistered under it finds
 *     nothing rather than another memory.
 *  3. All segments of a transfer are checked before its first byte moves; a
 *     segment is found again by its id at each slice.
 *  4. Before each piece, and once more after the last of a pull, the client's
 *     cancel word is read: bytes that the caller may be changing are never
 *     reported as stored.
 *  5. The crc is of the bytes in the extent. The client's memory, which may
 *     change at any time, is read once.
 *
 *  6. A step is bounded in time, not only in bytes: each piece has a cost.
 *
 * Called by the lane's thread: register and unregister from operations, steps
 * from progress(). */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <string.h>
#include <unistd.h>

#include "base/copy.h"
#include "base/fault.h"
#include "base/hash.h"
#include "rpc/transport_shm_int.h"

enum {
    SHM_PIECE = 256 << 10, /* between two looks at the cancel word; stays in L2
                              between pread and crc */
    SHM_PAGE = 4096,
    SHM_COST_MAP =
        256, /* what a piece counts in the budget beside its bytes, */
    SHM_COST_CALL = 4096, /* so that a client of tiny segments pays for them */
    SHM_FUSE_MAGIC = 0x65735546,
};

/* ---- Ids ---- */

/* Slots of a peer, rounded up to a power of two, so that id & mask = slot. */
static uint32_t shm_mem_mask(const struct shm *s)
{
    uint32_t n = 1;

    while (n < s->cfg.memories_per_peer)
        n *= 2;
    return n - 1;
}

static struct shm_mem *shm_mem_find(const struct shm_peer *p, uint32_t id)
{
    uint32_t slot = id & shm_mem_mask(p->s);
    struct shm_mem *m = &p->mems[slot];

    return id != 0 && slot < p->mem_top && m->id == id ? m : NULL;
}

/* A free slot with an id that was never used; NULL if there is none. */
static struct shm_mem *shm_mem_slot(struct shm_peer *p, uint32_t *id_out)
{
    uint32_t mask = shm_mem_mask(p->s);

    for (uint32_t i = 0; i < p->s->cfg.memories_per_peer; i++) {
        struct shm_mem *m = &p->mems[i];

        if (i == p->mem_top) {
            *m = (struct shm_mem){.fd = -1};
            p->mem_top++;
        }
        if (m->id != 0 || m->gen >= UINT32_MAX / (mask + 1) - 1)
            continue;
        *id_out = (m->gen + 1) * (mask + 1) + i;
        return m;
    }
    return NULL;
}

/* ---- Registering ---- */

/* May these bytes be read, and written if writable, without waiting? */
static enum err shm_mem_check(int fd, uint64_t end, bool writable,
                              struct statfs *fs)
{
    int flags = fcntl(fd, F_GETFL);
    struct stat st;

    if (flags < 0 || fault_here("shm_fstat") || fstat(fd, &st) < 0 ||
        !S_ISREG(st.st_mode) || (flags & O_PATH))
        return ERR_BAD_REQUEST;
    if (fstatfs(fd, fs) < 0 || fs->f_type == SHM_FUSE_MAGIC ||
        (flags & O_ACCMODE) == O_WRONLY)
        return ERR_DENIED;
    if (writable && ((flags & O_ACCMODE) != O_RDWR || (flags & O_APPEND)))
        return ERR_DENIED;
    return end > (uint64_t)st.st_size ? ERR_MEM_FAULT : OK;
}

/* Maps m's range. Huge pages are not reserved: the client has them already, or
 * the kernel says so at the copy. */
static enum err shm_mem_map(struct shm_mem *m, int fd, uint64_t page)
{
    uint64_t pad = m->off & (page - 1);
    int prot = m->writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *at = MAP_FAILED;

    m->map_bytes = align_up(m->len + pad, page);
    if (!fault_here("shm_mmap"))
        at = mmap(NULL, m->map_bytes, prot, MAP_SHARED | MAP_NORESERVE, fd,
                  (off_t)(m->off - pad));
    else
        errno = ENOMEM;
    if (at == MAP_FAILED)
        return errno == EPERM || errno == EACCES ? ERR_DENIED : ERR_NO_MEMORY;
    m->map = at;
    m->p = m->map + pad;
    return OK;
}

static enum shm_via shm_mem_choose(int fd, const struct statfs *fs)
{
    int seals = fcntl(fd, F_GET_SEALS);

    if (fs->f_type == HUGETLBFS_MAGIC)
        return SHM_VIA_SELF;
    return seals >= 0 && (seals & F_SEAL_SHRINK) ? SHM_VIA_MAP : SHM_VIA_FD;
}

enum err shm_mem_register(struct shm_peer *p, int fd, uint64_t off,
                          uint64_t len, bool writable, uint32_t *id_out,
                          bool *mapped_out)
{
    struct shm_mem m = {.fd = -1, .writable = writable, .off = off, .len = len};
    struct shm_mem *slot = NULL;
    uint64_t end;
    uint32_t id = 0;
    struct statfs fs;
    enum err e;

    if (len == 0 || __builtin_add_overflow(off, len, &end) || end > INT64_MAX)
        return ERR_BAD_REQUEST;
    e = shm_mem_check(fd, end, writable, &fs);
    if (e)
        return e;
    if (len <= p->s->cfg.registered_bytes_per_peer - p->registered_bytes)
        slot = shm_mem_slot(p, &id);
    if (!slot)
        return ERR_BUSY;
    m.via = shm_mem_choose(fd, &fs);
    if (m.via != SHM_VIA_FD)
        e = shm_mem_map(
            &m, fd, m.via == SHM_VIA_SELF ? (uint64_t)fs.f_bsize : SHM_PAGE);
    if (e)
        return e;
    if (m.via == SHM_VIA_FD)
        m.fd = fd;
    else
        close(fd);
    m.id = id;
    m.gen = slot->gen + 1;
    *slot = m;
    p->mem_n++;
    p->registered_bytes += len;
    *id_out = id;
    *mapped_out = m.via == SHM_VIA_MAP;
    return OK;
}

static void shm_mem_drop(struct shm_peer *p, struct shm_mem *m)
{
    if (m->map)
        MUST(munmap(m->map, m->map_bytes) == 0);
    if (m->fd >= 0)
        close(m->fd);
    p->registered_bytes -= m->len;
    p->mem_n--;
    *m = (struct shm_mem){.fd = -1, .gen = m->gen};
}

enum err shm_mem_unregister(struct shm_peer *p, uint32_t id)
{
    struct shm_mem *m = shm_mem_find(p, id);

    if (!m)
        return ERR_NO_MEM;
    shm_mem_drop(p, m);
    return OK;
}

enum err shm_mem_bytes(const struct shm_peer *p, uint32_t id, uint64_t *out)
{
    const struct shm_mem *m = shm_mem_find(p, id);

    if (!m)
        return ERR_NO_MEM;
    *out = m->len;
    return OK;
}

void shm_mem_drop_all(struct shm_peer *p)
{
    for (uint32_t i = 0; i < p->mem_top; i++)
        if (p->mems[i].id)
            shm_mem_drop(p, &p->mems[i]);
    p->mem_top = 0;
}

/* ---- Copies by the kernel ---- */

/* n bytes at off of the registered range, to or from p; all or ERR_MEM_FAULT.
 * push: extent -> client. */
static enum err shm_kernel_copy(const struct shm_mem *m, uint64_t off,
                                uint8_t *p, uint64_t n, bool push)
{
    struct iovec own = {p, n}, other = {m->p + off, n};
    off_t at = (off_t)(m->off + off);
    ssize_t got = -1;

    errno = EIO;
    if (fault_here("shm_kernel_copy"))
        return ERR_MEM_FAULT;
    switch (m->via) {
    case SHM_VIA_FD:
        got = push ? pwrite(m->fd, p, n, at) : pread(m->fd, p, n, at);
        break;
    case SHM_VIA_SELF:
        got = push ? process_vm_writev(getpid(), &own, 1, &other, 1, 0)
                   : process_vm_readv(getpid(), &own, 1, &other, 1, 0);
        break;
    case SHM_VIA_MAP:
        break;
    }
    return got == (ssize_t)n ? OK : ERR_MEM_FAULT;
}

/* n bytes between the client's memory at off and the extent at p. */
static enum err shm_piece(const struct shm_mem *m, uint64_t off, uint8_t *p,
                          uint64_t n, struct tp_xfer *x)
{
    enum err e = OK;

    if (m->via == SHM_VIA_MAP) {
        if (x->is_push && x->len < COPY_STREAM_MIN)
            memcpy(m->p + off, p, n); /* its reader is waiting for it */
        else if (x->is_push)
            copy_stream(m->p + off, p, n);
        else if (x->want_crc)
            x->crc = copy_crc(p, m->p + off, n, x->crc);
        else
            copy_stream(p, m->p + off, n);
        return OK;
    }
    e = shm_kernel_copy(m, off, p, n, x->is_push);
    if (!e && x->want_crc && !x->is_push)
        x->crc = crc32c(x->crc, p, n);
    return e;
}

/* ---- Transfers ---- */

/* Segment i, or with a layout the rest of the piece at tp_pos. */
static struct wire_seg shm_seg(const struct tp_xfer *x, uint32_t i)
{
    struct wire_seg g = {0};

    if (x->layout) {
        g.mem = x->layout->mem;
        g.len = layout_piece(x->layout, x->layout_base,
                             x->layout_pos + x->tp_pos, &g.off);
        return g;
    }
    memcpy(&g, x->segs + (size_t)i * sizeof(g), sizeof(g));
    return g;
}

static bool shm_xfer_given_up(const struct shm_peer *p, const struct tp_xfer *x)
{
    return __atomic_load_n(&p->sh->cancel[x->req % RING_CANCELS],
                           __ATOMIC_ACQUIRE) == x->req;
}

/* All its blocks lie in the memory (layout.h); is that still there? */
static enum err shm_xfer_check_layout(const struct shm_peer *p,
                                      const struct tp_xfer *x)
{
    const struct shm_mem *m = shm_mem_find(p, x->layout->mem);

    if (!m)
        return ERR_NO_MEM;
    return x->is_push && !m->writable ? ERR_DENIED : OK;
}

/* Are all segments memory of this client, and is there room for x->len? */
static enum err shm_xfer_check(const struct shm_peer *p,
                               const struct tp_xfer *x)
{
    uint64_t room = 0;

    if (x->layout)
        return shm_xfer_check_layout(p, x);
    for (uint32_t i = 0; i < x->seg_n; i++) {
        struct wire_seg g = shm_seg(x, i);
        const struct shm_mem *m = shm_mem_find(p, g.mem);

        if (!m)
            return ERR_NO_MEM;
        if (g.off > m->len || g.len > m->len - g.off ||
            __builtin_add_overflow(room, g.len, &room))
            return ERR_BAD_REQUEST;
        if (x->is_push && !m->writable)
            return ERR_DENIED;
    }
    return room < x->len ? ERR_BAD_REQUEST : OK;
}

/* One contiguous piece, of no bytes if it only steps over the end of a segment
 * or span. */
static enum err shm_xfer_piece(struct shm_peer *p, struct tp_xfer *x,
                               uint64_t *budget)
{
    struct shm_cursor *c = &p->cur;
    struct wire_seg g = shm_seg(x, c->seg);
    const struct span *to = &x->spans[c->span];
    uint64_t n = min_u64(min_u64(g.len - c->seg_off, to->len - c->span_off),
                         min_u64(x->len - x->tp_pos, SHM_PIECE));
    const struct shm_mem *m = shm_mem_find(p, g.mem);
    uint64_t cost;
    enum err e;

    if (!m)
        return ERR_NO_MEM;
    e = n ? shm_piece(m, g.off + c->seg_off, to->p + c->span_off, n, x) : OK;
    if (e)
        return e;
    c->seg_off += x->layout ? 0 : n; /* a layout's piece begins at tp_pos */
    c->span_off += n;
    if (c->seg_off == g.len) {
        c->seg++;
        c->seg_off = 0;
    }
    if (c->span_off == to->len) {
        c->span++;
        c->span_off = 0;
    }
    x->tp_pos += n;
    x->moved = x->tp_pos;
    cost = n + (m->via == SHM_VIA_MAP ? SHM_COST_MAP : SHM_COST_CALL);
    *budget -= min_u64(cost, *budget);
    return OK;
}

enum err shm_xfer_step(struct shm_peer *p, struct tp_xfer *x, uint64_t *budget,
                       bool *done_out)
{
    enum err e = OK;

    if (!p->cur.begun) {
        p->cur = (struct shm_cursor){.begun = true};
        e = shm_xfer_check(p, x);
    }
    while (!e && *budget > 0 && x->tp_pos < x->len) {
        if (shm_xfer_given_up(p, x))
            return ERR_CANCELED;
        e = shm_xfer_piece(p, x, budget);
    }
    if (e)
        return e;
    *done_out = x->tp_pos == x->len;
    /* The copy's loads are done before this one: x86 keeps loads in order. */
    if (*done_out && !x->is_push && shm_xfer_given_up(p, x))
        return ERR_CANCELED;
    return OK;
}
