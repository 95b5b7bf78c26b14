/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into a pikvd with ssd.engine=sync: reads, writes and flushes of
 * files whose path contains $IO_FAULT_PATH go wrong as long as the control
 * file says so. The control file ($IO_FAULT_CONTROL, 4 words) is mapped here
 * and by the test, which stores a word to begin or end a fault:
 *
 *   word 0 reads, 1 writes, 2 flushes:  enum fault;  3: counts what was hit
 *
 * Built by the test itself (a program cannot be preloaded); everything else of
 * the process goes through untouched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum fault { NONE, EIO_, ENOSPC_, HANG, SHORT, SLOW, FLIP, GONE };
enum { READS, WRITES, FLUSHES, HITS, WORDS, PAGE = 4096 };

static volatile uint32_t *control;

static void setup(void)
{
    const char *path = getenv("IO_FAULT_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *p = MAP_FAILED;

    if (fd >= 0)
        p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (p != MAP_FAILED)
        control = p;
}

__attribute__((constructor)) static void begin(void)
{
    setup();
}

static int is_ours(int fd)
{
    const char *want = getenv("IO_FAULT_PATH");
    char link[64], path[4096];
    ssize_t n;

    if (!control || !want)
        return 0;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof(path) - 1);
    if (n < 0)
        return 0;
    path[n] = '\0';
    return strstr(path, want) != NULL;
}

/* What the call must do: 0 go on, else return -1 with errno set; HANG and SLOW
 * are waited for here. */
static enum fault meet(int fd, int kind)
{
    enum fault f;

    if (!control || control[kind] == NONE || !is_ours(fd))
        return NONE;
    f = (enum fault)control[kind];
    __atomic_add_fetch(&control[HITS], 1, __ATOMIC_RELAXED);
    while (control[kind] == HANG)
        usleep(10000);
    if (f == SLOW)
        usleep(20000);
    errno = f == ENOSPC_ ? ENOSPC : f == GONE ? ENODEV : EIO;
    return f == HANG || f == SLOW ? NONE : f;
}

static int fails(enum fault f)
{
    return f == EIO_ || f == ENOSPC_ || f == GONE;
}

static size_t shortened(enum fault f, size_t n)
{
    return f == SHORT && n > PAGE ? n / 2 / PAGE * PAGE : n;
}

/* A bit of every page. */
static void flip(enum fault f, void *p, size_t n)
{
    for (size_t i = PAGE / 2; f == FLIP && i < n; i += PAGE)
        ((uint8_t *)p)[i] ^= 1;
}

static ssize_t read_at(int fd, void *p, size_t n, off_t off)
{
    static ssize_t (*real)(int, void *, size_t, off_t);
    enum fault f = meet(fd, READS);
    ssize_t got;

    if (!real)
        real =
            (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread64");
    if (fails(f))
        return -1;
    got = real(fd, p, shortened(f, n), off);
    if (got > 0)
        flip(f, p, (size_t)got);
    return got;
}

static ssize_t write_at(int fd, const void *p, size_t n, off_t off)
{
    static ssize_t (*real)(int, const void *, size_t, off_t);
    enum fault f = meet(fd, WRITES);

    if (!real)
        real = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT,
                                                                   "pwrite64");
    return fails(f) ? -1 : real(fd, p, shortened(f, n), off);
}

static ssize_t readv_at(int fd, const struct iovec *v, int n, off_t off)
{
    static ssize_t (*real)(int, const struct iovec *, int, off_t);
    enum fault f = meet(fd, READS);
    ssize_t got;

    if (!real)
        real = (ssize_t(*)(int, const struct iovec *, int, off_t))dlsym(
            RTLD_NEXT, "preadv64");
    if (fails(f))
        return -1;
    got = real(fd, v, f == SHORT && n > 1 ? n / 2 : n, off);
    for (int i = 0; i < n && got > 0; i++)
        flip(f, v[i].iov_base, v[i].iov_len);
    return got;
}

static ssize_t writev_at(int fd, const struct iovec *v, int n, off_t off)
{
    static ssize_t (*real)(int, const struct iovec *, int, off_t);
    enum fault f = meet(fd, WRITES);

    if (!real)
        real = (ssize_t(*)(int, const struct iovec *, int, off_t))dlsym(
            RTLD_NEXT, "pwritev64");
    return fails(f) ? -1 : real(fd, v, f == SHORT && n > 1 ? n / 2 : n, off);
}

/* ---- the names of the C library */

ssize_t pread(int fd, void *p, size_t n, off_t off)
{
    return read_at(fd, p, n, off);
}

ssize_t pread64(int fd, void *p, size_t n, off_t off)
{
    return read_at(fd, p, n, off);
}

ssize_t __pread_chk(int fd, void *p, size_t n, off_t off, size_t room);
ssize_t __pread_chk(int fd, void *p, size_t n, off_t off, size_t room)
{
    return n > room ? (abort(), -1) : read_at(fd, p, n, off);
}

ssize_t __pread64_chk(int fd, void *p, size_t n, off_t off, size_t room);
ssize_t __pread64_chk(int fd, void *p, size_t n, off_t off, size_t room)
{
    return n > room ? (abort(), -1) : read_at(fd, p, n, off);
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t off)
{
    return write_at(fd, p, n, off);
}

ssize_t pwrite64(int fd, const void *p, size_t n, off_t off)
{
    return write_at(fd, p, n, off);
}

ssize_t preadv(int fd, const struct iovec *v, int n, off_t off)
{
    return readv_at(fd, v, n, off);
}

ssize_t preadv64(int fd, const struct iovec *v, int n, off_t off)
{
    return readv_at(fd, v, n, off);
}

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t off)
{
    return writev_at(fd, v, n, off);
}

ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t off)
{
    return writev_at(fd, v, n, off);
}

int fdatasync(int fd)
{
    static int (*real)(int);
    enum fault f = meet(fd, FLUSHES);

    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return fails(f) ? -1 : real(fd);
}

int fsync(int fd)
{
    static int (*real)(int);
    enum fault f = meet(fd, FLUSHES);

    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return fails(f) ? -1 : real(fd);
}
