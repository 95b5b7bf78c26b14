/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory of the tiers as one file mapping (shell), so that it can be passed
 * on by descriptor and, later, outlive the process.
 *
 *   memfd        hugepages on    hugetlb pages, or an error that counts them
 *                hugepages auto  hugetlb pages, else 4 KiB with a wish for
 *                                transparent huge ones
 *                hugepages off   4 KiB
 *   hugetlbfs:D  a file without a name in D, which must be a hugetlbfs
 *   tmpfs:D      the same on a tmpfs, filled at once: a full tmpfs must refuse
 *                here and not kill the daemon with SIGBUS later
 *
 * 1. The mapping starts on a 2 MiB boundary.
 * 2. A memfd is sealed: its size cannot change under the mapping.
 * 3. Its mode is 0600: only the daemon's user can open it anew through /proc.
 * 4. What was got is said in words, so that a fallback is never silent. */
#include "server/files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/units.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define HUGE_PAGE MIB(2)

static enum err sys_fail(struct errmsg *m, const char *what, int error)
{
    return errmsg_set(m, ERR_IO, "dram.backing: cannot %s: %s", what,
                      strerror(error));
}

/* ---- how much */

static uint64_t meminfo_field(const char *text, const char *name)
{
    const char *line = strstr(text, name);
    uint64_t n;

    if (!line || sscanf(line + strlen(name), " %" SCNu64, &n) != 1)
        return 0;
    return n;
}

struct files_meminfo files_meminfo(const char *text)
{
    return (struct files_meminfo){
        .available_bytes = KIB(meminfo_field(text, "MemAvailable:")),
        .huge_page_bytes = KIB(meminfo_field(text, "Hugepagesize:")),
        .huge_free = meminfo_field(text, "HugePages_Free:"),
    };
}

/* One number from a file; dflt if there is none ("max", no file). */
static uint64_t read_number(const char *path, uint64_t dflt)
{
    struct errmsg unused;
    uint64_t n = dflt;
    char *text;
    size_t len;

    if (files_read(path, 4096, &text, &len, &unused) != OK)
        return dflt;
    if (sscanf(text, "%" SCNu64, &n) != 1)
        n = dflt;
    free(text);
    return n;
}

/* What the control group leaves; a container sees its own group at the root of
 * the mount, a service its path in /proc/self/cgroup. */
static uint64_t cgroup_left(const char *dir)
{
    char path[512];
    uint64_t max, used;

    snprintf(path, sizeof(path), "/sys/fs/cgroup%.300s/memory.max", dir);
    max = read_number(path, UINT64_MAX);
    snprintf(path, sizeof(path), "/sys/fs/cgroup%.300s/memory.current", dir);
    used = read_number(path, 0);
    return max == UINT64_MAX ? max : max - min_u64(used, max);
}

static uint64_t cgroup_available(void)
{
    struct errmsg unused;
    char *text, *at, *slash;
    uint64_t left = cgroup_left("");
    size_t len;

    if (files_read("/proc/self/cgroup", 65536, &text, &len, &unused) != OK)
        return left;
    at = strstr(text, "0::");
    if (at) {
        at += 3;
        at[strcspn(at, "\n")] = '\0';
        /* Every group on the way up binds. */
        while (at[0] == '/' && at[1]) {
            left = min_u64(left, cgroup_left(at));
            slash = strrchr(at, '/');
            *slash = '\0';
        }
    }
    free(text);
    return left;
}

struct files_meminfo files_memory(void)
{
    struct files_meminfo info = {0};
    struct errmsg unused;
    char *text;
    size_t len;

    if (files_read("/proc/meminfo", 65536, &text, &len, &unused) != OK)
        return info;
    info = files_meminfo(text);
    free(text);
    info.available_bytes = min_u64(info.available_bytes, cgroup_available());
    return info;
}

enum err files_dram_bytes(const struct config *c, uint64_t *bytes_out,
                          struct errmsg *m)
{
    struct files_meminfo info = files_memory();
    uint64_t want = c->dram.capacity_bytes, have = info.available_bytes;
    char want_text[32], have_text[32];

    if (want == 0)
        want = max_u64(have / 4, MIB(16));
    /* Huge pages are set aside: they are not part of what is available. */
    if (c->dram.hugepages != HUGEPAGES_OFF)
        have += info.huge_free * info.huge_page_bytes;
    /* A hugetlbfs has pages of its own, counted when it is opened. */
    if (have != 0 && want > have &&
        strncmp(c->dram.backing, "hugetlbfs:", 10) != 0)
        return errmsg_set(m, ERR_CONFIG,
                          "dram.capacity: %s is more than the %s of memory "
                          "available; fix: a smaller value, or \"auto\"",
                          units_print_bytes(want, want_text),
                          units_print_bytes(have & ~(MIB(1) - 1), have_text));
    *bytes_out = want & ~(HUGE_PAGE - 1);
    return OK;
}

/* ---- descriptors */

static enum err huge_missing(struct errmsg *m, uint64_t bytes, uint64_t page)
{
    struct files_meminfo info = files_memory();

    return errmsg_set(m, ERR_IO,
                      "dram.hugepages: %" PRIu64 " huge pages are needed, "
                      "%" PRIu64
                      " are free; fix: sysctl vm.nr_hugepages=%" PRIu64
                      ", or set dram.hugepages to \"auto\"",
                      bytes / page, info.huge_free, bytes / page);
}

static enum err memfd_open(struct arena_map *a, bool huge, struct errmsg *m)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, fd;

    if (huge)
        flags |= MFD_HUGETLB | MFD_HUGE_2MB;
    fd = fault_here("files_memfd") ? (errno = EMFILE, -1)
                                   : memfd_create("pikvd-dram", flags);
    if (fd < 0)
        return sys_fail(m, "create a memfd", errno);
    if (ftruncate(fd, (off_t)a->bytes) != 0 || fchmod(fd, 0600) != 0 ||
        fcntl(fd, F_ADD_SEALS, seals) != 0) {
        int error = errno;

        close(fd);
        return sys_fail(m, "size and seal a memfd", error);
    }
    a->fd = fd;
    a->page = huge ? HUGE_PAGE : 4096;
    return OK;
}

/* A file without a name on the file system at dir, which must be of a kind. */
static enum err dir_open(struct arena_map *a, const char *dir, long magic,
                         const char *kind, struct errmsg *m)
{
    struct statfs fs;
    char path[CONFIG_STRING + 32];
    int fd;

    if (statfs(dir, &fs) != 0)
        return errmsg_set(m, ERR_IO,
                          "dram.backing: %s: %s; fix: mount a %s there", dir,
                          strerror(errno), kind);
    if (fs.f_type != magic)
        return errmsg_set(m, ERR_IO,
                          "dram.backing: %s is not a %s; fix: mount one there, "
                          "or set dram.backing to \"memfd\"",
                          dir, kind);
    a->page = (uint64_t)fs.f_bsize;
    a->bytes = align_up(a->bytes, a->page);
    snprintf(path, sizeof(path), "%.*s/pikvd.XXXXXX", CONFIG_STRING, dir);
    fd = fault_here("files_mkstemp") ? (errno = EMFILE, -1)
                                     : mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return errmsg_set(m, ERR_IO,
                          "dram.backing: cannot create a file in %s: %s", dir,
                          strerror(errno));
    unlink(path);
    a->fd = fd;
    return OK;
}

static enum err hugetlbfs_open(struct arena_map *a, const char *dir,
                               struct errmsg *m)
{
    enum err e = dir_open(a, dir, HUGETLBFS_MAGIC, "hugetlbfs", m);

    if (e == OK && ftruncate(a->fd, (off_t)a->bytes) != 0)
        e = sys_fail(m, "size a file on hugetlbfs", errno);
    return e;
}

static enum err tmpfs_open(struct arena_map *a, const char *dir,
                           struct errmsg *m)
{
    enum err e = dir_open(a, dir, TMPFS_MAGIC, "tmpfs", m);
    int error;

    if (e != OK)
        return e;
    error = fault_here("files_fallocate")
                ? ENOSPC
                : posix_fallocate(a->fd, 0, (off_t)a->bytes);
    if (error == 0)
        return OK;
    return errmsg_set(m, ERR_IO,
                      "dram.backing: %s has no room for %" PRIu64
                      " MiB: %s; fix: mount -o remount,size=, or a smaller "
                      "dram.capacity",
                      dir, a->bytes >> 20, strerror(error));
}

/* ---- mapping */

/* Reserves too much address space, maps over an aligned part, gives back the
 * rest. */
static bool map_aligned(struct arena_map *a)
{
    uint64_t align = max_u64(HUGE_PAGE, a->page), room = a->bytes + align;
    uint8_t *p, *at;

    if (fault_here("files_mmap")) {
        errno = ENOMEM;
        return false;
    }
    p = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
             -1, 0);
    if (p == MAP_FAILED)
        return false;
    at = p + (align_up((uint64_t)(uintptr_t)p, align) - (uintptr_t)p);
    if (mmap(at, a->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
             a->fd, 0) == MAP_FAILED) {
        int error = errno;

        munmap(p, room);
        errno = error;
        return false;
    }
    if (at > p)
        munmap(p, (size_t)(at - p));
    munmap(at + a->bytes, room - a->bytes - (size_t)(at - p));
    a->p = at;
    return true;
}

/* Locks pages when they are touched: boot does not wait for all of them. */
static enum err map_lock(const struct arena_map *a, struct errmsg *m)
{
    struct rlimit lim = {0};
    char want[32], have[32];
    int rc = fault_here("files_mlock") ? (errno = ENOMEM, -1)
                                       : mlock2(a->p, a->bytes, MLOCK_ONFAULT);

    if (rc == 0)
        return OK;
    getrlimit(RLIMIT_MEMLOCK, &lim);
    return errmsg_set(m, ERR_IO,
                      "dram.lock: cannot lock %s: %s; the memlock limit is %s; "
                      "fix: LimitMEMLOCK=infinity in the unit (ulimit -l), or "
                      "set dram.lock to false",
                      units_print_bytes(a->bytes, want), strerror(errno),
                      lim.rlim_cur == RLIM_INFINITY
                          ? "infinity"
                          : units_print_bytes(lim.rlim_cur, have));
}

static enum err arena_map(const struct config *c, struct arena_map *a,
                          struct errmsg *m)
{
    enum err e = OK;

    if (!map_aligned(a)) {
        if (a->page > 4096 && errno == ENOMEM)
            return huge_missing(m, a->bytes, a->page);
        return sys_fail(m, "map the memory", errno);
    }
    if (a->page == 4096 && c->dram.hugepages != HUGEPAGES_OFF)
        madvise(a->p, a->bytes, MADV_HUGEPAGE); /* a wish, no more */
    madvise(a->p, a->bytes, MADV_DONTDUMP);
    if (c->dram.lock)
        e = map_lock(a, m);
    return e;
}

static enum err arena_memfd(const struct config *c, struct arena_map *a,
                            bool huge, struct errmsg *m)
{
    enum err e = memfd_open(a, huge, m);

    if (e == OK)
        e = arena_map(c, a, m);
    return e;
}

static void arena_describe(const struct config *c, struct arena_map *a,
                           bool fell_back)
{
    char bytes[32], page[32];

    snprintf(a->got, sizeof(a->got), "%s of %.40s, pages of %s%s%s",
             units_print_bytes(a->bytes, bytes), c->dram.backing,
             units_print_bytes(a->page, page),
             fell_back ? " (no huge pages free)" : "",
             c->dram.lock ? ", locked" : "");
}

enum err files_arena_open(const struct config *c, uint64_t bytes,
                          struct arena_map *out, struct errmsg *m)
{
    struct arena_map a = {.bytes = align_up(max_u64(bytes, 1), HUGE_PAGE),
                          .fd = -1};
    const char *backing = c->dram.backing;
    bool fell_back = false;
    enum err e;

    if (strncmp(backing, "hugetlbfs:", 10) == 0) {
        e = hugetlbfs_open(&a, backing + 10, m);
        if (e == OK)
            e = arena_map(c, &a, m);
    } else if (strncmp(backing, "tmpfs:", 6) == 0) {
        e = tmpfs_open(&a, backing + 6, m);
        if (e == OK)
            e = arena_map(c, &a, m);
    } else {
        e = arena_memfd(c, &a, c->dram.hugepages != HUGEPAGES_OFF, m);
        if (e != OK && c->dram.hugepages == HUGEPAGES_AUTO) {
            files_arena_close(&a);
            a.bytes = align_up(max_u64(bytes, 1), HUGE_PAGE);
            fell_back = true;
            e = arena_memfd(c, &a, false, m);
        }
    }
    if (e != OK) {
        files_arena_close(&a);
        return e;
    }
    arena_describe(c, &a, fell_back);
    *out = a;
    return OK;
}

/* A zeroed struct has no memory, and then its descriptor is not one. */
void files_arena_close(struct arena_map *a)
{
    if (a->p)
        munmap(a->p, a->bytes);
    if (a->fd > 0)
        close(a->fd);
    *a = (struct arena_map){.fd = -1};
}

void files_arena_prefault(const struct arena_map *a, uint64_t off,
                          uint64_t bytes)
{
    uint64_t page = min_u64(a->page, HUGE_PAGE);

    MUST(off <= a->bytes);
    bytes = min_u64(bytes, a->bytes - off);
    if (bytes == 0 || (!fault_here("files_populate") &&
                       madvise(a->p + off, bytes, MADV_POPULATE_WRITE) == 0))
        return;
    /* Older kernels: an atomic write of nothing leaves all bytes as they are,
     * whoever else writes them. */
    for (uint64_t i = 0; i < bytes; i += page)
        __atomic_fetch_or(a->p + off + i, 0, __ATOMIC_RELAXED);
}

enum err files_arena_share(const struct arena_map *a, int *fd_out,
                           struct errmsg *m)
{
    char path[40];
    int fd;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", a->fd);
    fd = fault_here("files_share") ? (errno = EMFILE, -1)
                                   : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errmsg_set(m, ERR_IO, "%s: cannot open for reading: %s", path,
                          strerror(errno));
    *fd_out = fd;
    return OK;
}
