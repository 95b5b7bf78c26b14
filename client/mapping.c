/* SPDX-License-Identifier: Apache-2.0
 *
 * The file behind memory that somebody else mapped, so that it can be
 * registered (region.c): from /proc/self/maps, then a descriptor of that file.
 *
 *     addr..addr+len --maps--> device, inode, offset, path
 *         1. a descriptor that this process has open on it
 *         2. its path, if that still is this file
 *         3. /proc/self/map_files, which asks for privileges
 *
 *  1. The range may be several neighbouring maps of one file, offsets in a row
 *     (mprotect and madvise cut maps up).
 *  2. Device and inode decide, names only lead to candidates. On overlayfs and
 *     btrfs stat tells others than the map does: there a candidate of the right
 *     name is mapped for a moment and looked up in the maps itself.
 *  3. The host keeps what it has: descriptors are duplicated, a path is opened
 *     only if it cannot block.
 *
 * Shared, readable and writable or UNSUPPORTED: a private map's bytes are not
 * the file's. No handle is needed, nor its lock; may take as long as the list
 * of maps and descriptors. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "client/handle.h"

/* One line of maps. */
struct map {
    uintptr_t begin, end;
    uint64_t off, ino;
    unsigned major, minor;
    char perms[5];
    char path[4200];
};

static bool map_read(const char *line, struct map *m)
{
    unsigned long begin, end, off, ino;
    int at = 0;

    if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu %n", &begin, &end, m->perms,
               &off, &m->major, &m->minor, &ino, &at) < 7)
        return false;
    m->begin = begin;
    m->end = end;
    m->off = off;
    m->ino = ino;
    snprintf(m->path, sizeof(m->path), "%s", line + at);
    m->path[strcspn(m->path, "\n")] = '\0';
    return true;
}

static bool map_is_shared(const struct map *m)
{
    return m->perms[0] == 'r' && m->perms[1] == 'w' && m->perms[3] == 's' &&
           m->ino != 0;
}

static bool map_goes_on(const struct map *first, const struct map *m)
{
    return m->major == first->major && m->minor == first->minor &&
           m->ino == first->ino &&
           m->off - first->off == m->begin - first->begin;
}

/* The first map of at..end into out; all of them must be as one. */
static int map_find(uintptr_t at, uintptr_t end, struct map *out)
{
    FILE *f = fopen("/proc/self/maps", "re");
    int e = ERR_BAD_REQUEST; /* until all is mapped */
    struct map m;
    char *line = NULL;
    size_t cap = 0;
    bool any = false;

    if (!f)
        return ERR_UNSUPPORTED;
    while (e == ERR_BAD_REQUEST && getline(&line, &cap, f) > 0) {
        if (!map_read(line, &m) || m.end <= at)
            continue;
        if (m.begin > at)
            break;
        if (!map_is_shared(&m) || (any && !map_goes_on(out, &m)))
            e = ERR_UNSUPPORTED;
        else if (m.end >= end)
            e = OK;
        if (!any)
            *out = m;
        any = true;
        at = m.end;
    }
    free(line);
    fclose(f);
    return e;
}

/* ---- is it this file? ---- */

/* What maps says of the candidate itself (invariant 2). */
static bool file_shows(int fd, const struct map *m)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *p = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct map own;
    bool same;

    if (p == MAP_FAILED)
        return false;
    same = !map_find((uintptr_t)p, (uintptr_t)p + page, &own) &&
           own.major == m->major && own.minor == m->minor && own.ino == m->ino;
    munmap(p, page);
    return same;
}

static bool file_is(int fd, const struct map *m, bool named)
{
    int flags = fcntl(fd, F_GETFL);
    struct stat st;

    if (flags < 0 || (flags & O_ACCMODE) != O_RDWR ||
        (flags & (O_APPEND | O_PATH)) || fstat(fd, &st) || !S_ISREG(st.st_mode))
        return false;
    if (st.st_ino == m->ino && major(st.st_dev) == m->major &&
        minor(st.st_dev) == m->minor)
        return true;
    return named && file_shows(fd, m);
}

/* ---- candidates ---- */

static int file_by_fd(const struct map *m)
{
    DIR *d = opendir("/proc/self/fd");
    const struct dirent *e;
    int found = -1;

    while (d && found < 0 && (e = readdir(d))) {
        char name[sizeof(m->path)];
        int fd = (int)strtol(e->d_name, NULL, 10);
        ssize_t n;

        if (e->d_name[0] == '.' || fd == dirfd(d))
            continue;
        n = readlinkat(dirfd(d), e->d_name, name, sizeof(name) - 1);
        name[n > 0 ? n : 0] = '\0';
        if (file_is(fd, m, strcmp(name, m->path) == 0))
            found = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        /* Another thread may have closed it and opened another meanwhile. */
        if (found >= 0 && !file_is(found, m, true)) {
            close(found);
            found = -1;
        }
    }
    if (d)
        closedir(d);
    return found;
}

static int file_open(const char *path, const struct map *m)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd >= 0 && !file_is(fd, m, true)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static int file_by_path(const struct map *m)
{
    struct stat st;

    /* Looked at before it is opened: opening a device may do something. */
    if (m->path[0] != '/' || stat(m->path, &st) || !S_ISREG(st.st_mode))
        return -1;
    return file_open(m->path, m);
}

static int file_by_map(const struct map *m)
{
    char path[80];

    snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx",
             (unsigned long)m->begin, (unsigned long)m->end);
    return file_open(path, m);
}

int mapping_find(const void *addr, uint64_t len, int *fd_out, uint64_t *off_out)
{
    uintptr_t at = (uintptr_t)addr, end;
    struct map m;
    int fd, e;

    if (__builtin_add_overflow(at, len, &end))
        return ERR_BAD_REQUEST;
    e = map_find(at, end, &m);
    if (e)
        return e;
    fd = file_by_fd(&m);
    if (fd < 0)
        fd = file_by_path(&m);
    if (fd < 0)
        fd = file_by_map(&m);
    if (fd < 0)
        return ERR_UNSUPPORTED;
    *fd_out = fd;
    *off_out = m.off + (at - m.begin);
    return OK;
}
