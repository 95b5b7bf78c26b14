/* SPDX-License-Identifier: Apache-2.0
 *
 * Files, locks, clocks and random bytes of the daemon (shell). The durable
 * replace is
 *
 *     write PATH.tmp -> fsync it -> rename over PATH -> fsync the directory
 *
 * 1. PATH is never open for writing, so it is never half written.
 * 2. OK is answered only after the directory entry itself is on the disk.
 * 3. A failure before the rename removes PATH.tmp and leaves PATH alone. After
 *    the rename PATH holds the new bytes, but maybe not after a power cut; the
 *    caller is told ERR_IO and must not rely on either.
 * 4. fsync is never tried again on the same descriptor: the kernel may have
 *    dropped the pages that it failed to write. */
#include "server/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"

enum { PATH_BYTES = 4096, READ_STEP = 64 << 10, CONF_FILES_MAX = 256 };

/* What a person can do about an errno; "" when the words say it all. */
static const char *fix_of(int error)
{
    switch (error) {
    case ENOENT:
        return "; fix: create it, or name another path";
    case EACCES:
    case EPERM:
        return "; fix: give the daemon's user access (chown, chmod)";
    case ENOSPC:
    case EDQUOT:
        return "; fix: free space on that file system";
    case EROFS:
        return "; fix: name a path on a writable file system";
    case EMFILE:
    case ENFILE:
        return "; fix: raise the limit of open files (LimitNOFILE, ulimit -n)";
    default:
        return "";
    }
}

static enum err fail(struct errmsg *m, const char *path, const char *doing,
                     int error)
{
    return errmsg_set(m, ERR_IO, "%s: cannot %s: %s%s", path, doing,
                      strerror(error), fix_of(error));
}

static int open_again(const char *path, int flags, mode_t mode)
{
    int fd;

    if (fault_here("files_open")) {
        errno = EMFILE;
        return -1;
    }
    do
        fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* ---- reading */

/* Room for one more step and a NUL. */
static bool read_grow(char **text, size_t *cap, size_t len)
{
    char *more;

    if (len + READ_STEP < *cap)
        return true;
    more = fault_here("files_read_grow")
               ? NULL
               : realloc(*text, *cap + *cap + READ_STEP + 1);
    if (!more)
        return false;
    *text = more;
    *cap = *cap + *cap + READ_STEP + 1;
    return true;
}

static enum err read_all(int fd, const char *path, size_t max, char **text_out,
                         size_t *len_out, struct errmsg *m)
{
    size_t cap = 0, len = 0;
    char *text = NULL;
    ssize_t n = 1;

    while (n > 0 && len <= max) {
        if (!read_grow(&text, &cap, len)) {
            free(text);
            return errmsg_set(m, ERR_NO_MEMORY, "%s: out of memory", path);
        }
        do
            n = fault_here("files_read") ? (errno = EIO, -1)
                                         : read(fd, text + len, READ_STEP);
        while (n < 0 && errno == EINTR);
        if (n > 0)
            len += (size_t)n;
    }
    if (n < 0) {
        free(text);
        return fail(m, path, "read", errno);
    }
    if (len > max) {
        free(text);
        return errmsg_set(m, ERR_LIMIT, "%s: longer than %zu bytes", path, max);
    }
    text[len] = '\0';
    *text_out = text;
    *len_out = len;
    return OK;
}

enum err files_read(const char *path, size_t max, char **text_out,
                    size_t *len_out, struct errmsg *m)
{
    int fd = open_again(path, O_RDONLY, 0);
    enum err e;

    if (fd < 0)
        return fail(m, path, "open", errno);
    e = read_all(fd, path, max, text_out, len_out, m);
    close(fd);
    return e;
}

/* ---- directories */

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), s = strlen(suffix);

    return n > s && strcmp(name + n - s, suffix) == 0 && name[0] != '.';
}

static enum err list_add(struct files_list *l, const char *dir,
                         const char *name, struct errmsg *m)
{
    if (l->n == CONF_FILES_MAX)
        return errmsg_set(m, ERR_LIMIT, "%s: more than %d files", dir,
                          CONF_FILES_MAX);
    l->names[l->n] = fault_here("files_list_add") ? NULL : strdup(name);
    if (!l->names[l->n])
        return errmsg_set(m, ERR_NO_MEMORY, "%s: out of memory", dir);
    l->n++;
    return OK;
}

static enum err list_fill(struct files_list *l, DIR *d, const char *dir,
                          const char *suffix, struct errmsg *m)
{
    enum err e = OK;

    for (struct dirent *it = readdir(d); it && e == OK; it = readdir(d)) {
        if (ends_with(it->d_name, suffix))
            e = list_add(l, dir, it->d_name, m);
    }
    return e;
}

enum err files_list_new(struct files_list *list, const char *dir,
                        const char *suffix, struct errmsg *m)
{
    struct files_list l = {0};
    DIR *d =
        fault_here("files_opendir") ? (errno = EMFILE, NULL) : opendir(dir);
    enum err e;

    if (!d && (errno == ENOENT || errno == ENOTDIR)) {
        *list = l;
        return OK;
    }
    if (!d)
        return fail(m, dir, "list", errno);
    l.names = fault_here("files_list_new")
                  ? NULL
                  : calloc(CONF_FILES_MAX, sizeof(*l.names));
    e = l.names ? list_fill(&l, d, dir, suffix, m)
                : errmsg_set(m, ERR_NO_MEMORY, "%s: out of memory", dir);
    closedir(d);
    if (e != OK) {
        files_list_free(&l);
        return e;
    }
    qsort(l.names, l.n, sizeof(*l.names), by_bytes);
    *list = l;
    return OK;
}

void files_list_free(struct files_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->names[i]);
    free(list->names);
    *list = (struct files_list){0};
}

enum err files_dir_check(const char *key, const char *dir, struct errmsg *m)
{
    struct stat st;
    char name[PATH_BYTES];

    snprintf(name, sizeof(name), "%s: %s", key, dir);
    if (stat(dir, &st) != 0)
        return fail(m, name, "use", errno);
    if (!S_ISDIR(st.st_mode))
        return fail(m, name, "use", ENOTDIR);
    if (access(dir, W_OK | X_OK) != 0)
        return fail(m, name, "write there", errno);
    return OK;
}

/* ---- configuration */

static enum err config_file(struct config *c, const char *path,
                            struct errmsg *m)
{
    char *text;
    size_t len;
    enum err e = files_read(path, CONFIG_TEXT_MAX, &text, &len, m);

    if (e != OK)
        return e;
    e = config_load_text(c, path, text, len, m);
    free(text);
    return e;
}

static enum err config_dir(struct config *c, const char *dir, struct errmsg *m)
{
    struct files_list l;
    char path[PATH_BYTES + NAME_MAX + 2];
    enum err e = files_list_new(&l, dir, ".json", m);

    if (e != OK)
        return e;
    for (size_t i = 0; i < l.n && e == OK; i++) {
        snprintf(path, sizeof(path), "%s/%.*s", dir, NAME_MAX, l.names[i]);
        e = config_file(c, path, m);
    }
    files_list_free(&l);
    return e;
}

enum err files_config(struct config *c, const char *path,
                      char *const *environ_list, struct errmsg *ignored,
                      struct errmsg *m)
{
    struct config fresh;
    char dir[PATH_BYTES];
    const char *slash;
    enum err e = OK;

    config_defaults(&fresh);
    if (path) {
        slash = strrchr(path, '/');
        snprintf(dir, sizeof(dir), "%.*sconf.d",
                 slash ? (int)min_u64((uint64_t)(slash + 1 - path), 4000) : 0,
                 path);
        e = config_file(&fresh, path, m);
        if (e == OK)
            e = config_dir(&fresh, dir, m);
    }
    if (e == OK)
        e = config_load_env(&fresh, environ_list, ignored, m);
    if (e == OK)
        *c = fresh;
    return e;
}

/* ---- durable replace */

static bool write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t w =
            fault_here("files_write") ? (errno = ENOSPC, -1) : write(fd, p, n);

        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return false;
        p += w;
        n -= (size_t)w;
    }
    return true;
}

static bool sync_fd(int fd)
{
    if (fault_here("files_fsync")) {
        errno = EIO;
        return false;
    }
    return fsync(fd) == 0;
}

static enum err replace_write(const char *tmp, const void *text, size_t len,
                              struct errmsg *m)
{
    int fd = open_again(tmp, O_WRONLY | O_CREAT | O_TRUNC, 0600), error = 0;

    if (fd < 0)
        return fail(m, tmp, "create", errno);
    if (!write_all(fd, text, len) || !sync_fd(fd))
        error = errno;
    if (close(fd) != 0 && !error)
        error = errno;
    return error ? fail(m, tmp, "write", error) : OK;
}

static enum err sync_dir_of(const char *path, struct errmsg *m)
{
    char dir[PATH_BYTES];
    const char *slash = strrchr(path, '/');
    int fd, error = 0;

    if (!slash)
        snprintf(dir, sizeof(dir), ".");
    else
        snprintf(dir, sizeof(dir), "%.*s", (int)(slash + 1 - path), path);
    fd = open_again(dir, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fail(m, dir, "open", errno);
    if (!sync_fd(fd))
        error = errno;
    close(fd);
    return error ? fail(m, dir, "sync", error) : OK;
}

enum err files_replace(const char *path, const void *text, size_t len,
                       struct errmsg *m)
{
    char tmp[PATH_BYTES];
    int n = snprintf(tmp, sizeof(tmp), "%s.tmp", path);
    enum err e;

    if (n < 0 || n >= (int)sizeof(tmp))
        return errmsg_set(m, ERR_LIMIT, "%.100s...: the path is too long",
                          path);
    e = replace_write(tmp, text, len, m);
    if (e == OK) {
        int rc =
            fault_here("files_rename") ? (errno = EIO, -1) : rename(tmp, path);

        if (rc != 0)
            e = fail(m, path, "replace", errno);
    }
    if (e != OK) {
        unlink(tmp);
        return e;
    }
    return sync_dir_of(path, m);
}

/* ---- lock */

static enum err lock_taken(int fd, const char *path, struct errmsg *m)
{
    char pid[24] = "";
    ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);

    pid[n > 0 ? n : 0] = '\0';
    pid[strcspn(pid, "\n")] = '\0';
    return errmsg_set(m, ERR_BUSY,
                      "%s: another pikvd (pid %s) uses it; fix: stop that one, "
                      "or give this one another listen.shm.path and "
                      "node.state_dir",
                      path, pid[0] ? pid : "unknown");
}

/* The file stays when the lock ends: removing it would let two daemons lock
 * two files of one name. */
enum err files_lock(const char *path, int *fd_out, struct errmsg *m)
{
    int fd = open_again(path, O_RDWR | O_CREAT, 0600), n;
    char pid[24];
    enum err e = OK;

    if (fd < 0)
        return fail(m, path, "open", errno);
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        e = errno == EWOULDBLOCK ? lock_taken(fd, path, m)
                                 : fail(m, path, "lock", errno);
    } else {
        n = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
        if (ftruncate(fd, 0) != 0 || !write_all(fd, pid, (size_t)n))
            e = fail(m, path, "write", errno);
    }
    if (e != OK) {
        close(fd);
        return e;
    }
    *fd_out = fd;
    return OK;
}

/* ---- clocks and random bytes */

static struct timespec clock_read(clockid_t id)
{
    struct timespec t;

    MUST(clock_gettime(id, &t) == 0);
    return t;
}

uint64_t files_mono_ns(void)
{
    struct timespec t = clock_read(CLOCK_MONOTONIC);

    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t files_wall_us(void)
{
    struct timespec t = clock_read(CLOCK_REALTIME);

    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

enum err files_random(void *buf, size_t n)
{
    uint8_t *p = buf;

    while (n > 0) {
        ssize_t got =
            fault_here("files_random") ? (errno = EIO, -1) : getrandom(p, n, 0);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ERR_IO;
        p += got;
        n -= (size_t)got;
    }
    return OK;
}

uint32_t files_lanes(const struct config *c)
{
    cpu_set_t cpus;
    uint32_t n;

    if (c->node.lanes)
        return (uint32_t)c->node.lanes;
    n = sched_getaffinity(0, sizeof(cpus), &cpus) == 0
            ? (uint32_t)CPU_COUNT(&cpus) / 2
            : 1;
    n = n < FILES_LANES_AUTO ? n : FILES_LANES_AUTO;
    return n ? n : 1;
}
