/* SPDX-License-Identifier: Apache-2.0
 *
 * SSD paths to descriptors (files_ssd.h).
 *
 *   stat -> open O_DIRECT -> flock -> file system, sector size -> size -> grow
 *
 * Identity (device and inode) is compared before opening: the second name of a
 * file would meet the first one's lock and look like another process.
 *
 * Who holds a lock is read from /proc/locks; where that is not to be had the
 * message says "unknown". A block device is opened with O_EXCL, which the
 * kernel refuses while it is mounted or belongs to a RAID or a volume group. */
#include "server/files_ssd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/units.h"
#include "server/files.h"

enum { SEGMENTS_MIN = 8, LOCK_TRIES = 500, LOCK_PAUSE_US = 10000 };

#define SSD_HEAD_BYTES MIB(2) /* before the first segment */
#define SSD_BYTES_MAX (UINT64_C(0xffffffff) * DISK_PAGE)
#define RAMFS 0x858458f6L

static enum err ssd_fail(const struct files_ssd *s, struct errmsg *m,
                         const char *what, const char *fix)
{
    return errmsg_set(m, ERR_IO, "ssd.paths: %s: %s; fix: %s", s->path, what,
                      fix);
}

/* "3.5GiB" for people: whole MiB, rounded up. */
static char *about(uint64_t bytes, char text[32])
{
    return units_print_bytes(align_up(bytes, MIB(1)), text);
}

/* ---- opening */

static enum err open_refused(const struct files_ssd *s, int error,
                             struct errmsg *m)
{
    switch (error) {
    case ENOENT:
        return ssd_fail(s, m, "there is no such file or directory",
                        "create the directory it lies in, or name another "
                        "path");
    case EEXIST:
        return ssd_fail(s, m, "is a link to nowhere",
                        "remove it, or name another path");
    case EISDIR:
        return ssd_fail(s, m, "is a directory",
                        "name a file in it, or a block device");
    case EROFS:
        return ssd_fail(s, m, "the file system is read-only",
                        "mount -o remount,rw, or name a path on another one");
    case EACCES:
    case EPERM:
        return ssd_fail(s, m, "is read-only for the daemon's user",
                        "chown it to that user (a device: by a udev rule), "
                        "and ReadWritePaths= or DeviceAllow= in the unit");
    case EINVAL:
        return ssd_fail(s, m, "its file system has no O_DIRECT",
                        "name a file on ext4 or xfs, or a block device");
    case EBUSY:
        errmsg_set(m, ERR_BUSY,
                   "ssd.paths: %s: the device is mounted or in use; fix: "
                   "umount it, or stop who uses it (lsblk, fuser -v)",
                   s->path);
        return ERR_BUSY;
    default:
        return ssd_fail(s, m, strerror(error),
                        "name a file on ext4 or xfs, or a block device");
    }
}

/* Memory has no O_DIRECT worth the name, and forgets. */
static enum err refuse_memory(const struct files_ssd *s, struct errmsg *m)
{
    char dir[CONFIG_STRING];
    char *slash;
    struct statfs fs;

    snprintf(dir, sizeof(dir), "%s", s->path);
    if (statfs(dir, &fs) != 0) {
        slash = strrchr(dir, '/');
        slash[slash == dir] = '\0';
        if (statfs(dir, &fs) != 0)
            return open_refused(s, errno, m);
    }
    if (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS ||
        fs.f_type == HUGETLBFS_MAGIC)
        return ssd_fail(s, m, "lies in memory (tmpfs), not on an SSD",
                        "name a file on ext4 or xfs, or a block device");
    return OK;
}

static void ssd_identify(struct files_ssd *s, const struct stat *st)
{
    s->dev = s->is_block ? st->st_rdev : st->st_dev;
    s->ino = s->is_block ? 0 : st->st_ino;
}

/* What the path names now; OK with created set when nothing is there. */
static enum err ssd_stat(struct files_ssd *s, struct errmsg *m)
{
    struct stat st;

    if (stat(s->path, &st) != 0) {
        if (errno != ENOENT)
            return open_refused(s, errno, m);
        s->created = true;
        return refuse_memory(s, m);
    }
    if (S_ISDIR(st.st_mode))
        return open_refused(s, EISDIR, m);
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return ssd_fail(s, m, "is neither a file nor a block device",
                        "name one of these");
    s->is_block = S_ISBLK(st.st_mode);
    ssd_identify(s, &st);
    return s->is_block ? OK : refuse_memory(s, m);
}

static enum err ssd_open(struct files_ssd *s, struct errmsg *m)
{
    int flags = O_RDWR | O_DIRECT | O_CLOEXEC;
    struct stat st;

    if (s->created)
        flags |= O_CREAT | O_EXCL;
    else if (s->is_block)
        flags |= O_EXCL;
    s->fd = fault_here("files_ssd_open") ? (errno = EMFILE, -1)
                                         : open(s->path, flags, 0600);
    if (s->fd < 0) {
        s->created = false;
        return open_refused(s, errno, m);
    }
    if (fstat(s->fd, &st) != 0)
        return open_refused(s, errno, m);
    ssd_identify(s, &st);
    return OK;
}

/* ---- locking */

/* Who has a flock on this file: "1: FLOCK ADVISORY WRITE pid maj:min:inode". */
static long lock_holder(const struct stat *st)
{
    unsigned major, minor;
    unsigned long ino;
    long pid, found = 0;
    struct errmsg unused;
    char *text, *line, *rest;
    size_t len;

    if (files_read("/proc/locks", 1 << 20, &text, &len, &unused) != OK)
        return 0;
    for (line = text; line && found == 0; line = rest) {
        rest = strchr(line, '\n');
        if (rest)
            *rest++ = '\0';
        if (sscanf(line, "%*d: FLOCK %*s %*s %ld %x:%x:%lu", &pid, &major,
                   &minor, &ino) == 4 &&
            ino == st->st_ino && makedev(major, minor) == st->st_dev)
            found = pid;
    }
    free(text);
    return found;
}

/* A killed daemon's io_uring keeps its files, and their lock, for some
 * milliseconds after the process is gone: that is waited for. */
static bool lock_try(const struct files_ssd *s, long *holder_out)
{
    struct stat st;

    for (int i = 0; i < LOCK_TRIES; i++) {
        if (flock(s->fd, LOCK_EX | LOCK_NB) == 0)
            return true;
        *holder_out = fstat(s->fd, &st) == 0 ? lock_holder(&st) : 0;
        if (*holder_out > 0 && kill((pid_t)*holder_out, 0) == 0)
            return false;
        usleep(LOCK_PAUSE_US);
    }
    return false;
}

static enum err ssd_lock(const struct files_ssd *s, struct errmsg *m)
{
    char who[24] = "unknown";
    long pid = 0;

    if (!fault_here("files_ssd_flock") && lock_try(s, &pid))
        return OK;
    if (pid > 0)
        snprintf(who, sizeof(who), "%ld", pid);
    return errmsg_set(m, ERR_BUSY,
                      "ssd.paths: %s: in use by another pikvd or pikv-fsck "
                      "(pid %s); fix: stop that one, or name another path",
                      s->path, who);
}

/* ---- size */

static enum err device_size(struct files_ssd *s,
                            const struct files_ssd_cfg *cfg, struct errmsg *m)
{
    uint64_t bytes = 0;
    int sector = 0;
    char have[32], want[32];

    if (ioctl(s->fd, BLKGETSIZE64, &bytes) != 0 ||
        ioctl(s->fd, BLKSSZGET, &sector) != 0)
        return open_refused(s, errno, m);
    if (sector > DISK_PAGE)
        return ssd_fail(s, m, "has sectors of more than 4096 bytes",
                        "format the drive with 512 or 4096 (nvme format)");
    if (cfg->capacity > bytes)
        return errmsg_set(m, ERR_IO,
                          "ssd.capacity: %s of %s, which has %s; fix: a "
                          "smaller value, or \"auto\"",
                          units_print_bytes(cfg->capacity, want), s->path,
                          units_print_bytes(bytes, have));
    s->bytes = cfg->capacity ? cfg->capacity : bytes;
    return OK;
}

static enum err no_space(const struct files_ssd *s, uint64_t need,
                         uint64_t have, struct errmsg *m)
{
    char need_text[32], have_text[32];

    return errmsg_set(m, ERR_IO,
                      "ssd.paths: %s: %s more are needed, its file system has "
                      "%s free; fix: free space there, or a smaller "
                      "ssd.capacity",
                      s->path, about(need, need_text),
                      units_print_bytes(have & ~(MIB(1) - 1), have_text));
}

/* Reserves the whole file, holes included. */
static enum err file_reserve(struct files_ssd *s, uint64_t bytes,
                             const struct stat *st, struct errmsg *m)
{
    uint64_t used = (uint64_t)st->st_blocks * 512, free_bytes;
    struct statvfs fs;
    int error = 0;

    if (fstatvfs(s->fd, &fs) != 0)
        return open_refused(s, errno, m);
    free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (bytes > used && bytes - used > free_bytes)
        return no_space(s, bytes - used, free_bytes, m);
    if (fault_here("files_ssd_fallocate"))
        error = ENOSPC;
    else if (fallocate(s->fd, 0, 0, (off_t)bytes) != 0)
        error = errno;
    if (error == ENOSPC || error == EDQUOT)
        return no_space(s, bytes - min_u64(used, bytes), free_bytes, m);
    if (error == EOPNOTSUPP)
        return ssd_fail(s, m, "its file system cannot reserve space",
                        "name a file on ext4 or xfs, or a block device");
    return error ? open_refused(s, error, m) : OK;
}

static enum err file_size(struct files_ssd *s, const struct files_ssd_cfg *cfg,
                          struct errmsg *m)
{
    uint64_t bytes, have;
    struct stat st;
    enum err e;

    if (fstat(s->fd, &st) != 0)
        return open_refused(s, errno, m);
    have = (uint64_t)st.st_size;
    bytes = max_u64(have, cfg->capacity / DISK_PAGE * DISK_PAGE);
    if (bytes == 0)
        return ssd_fail(s, m,
                        "is not there or empty, and \"auto\" takes the "
                        "size of what is there",
                        "set ssd.capacity to a size");
    if (bytes > have || (uint64_t)st.st_blocks * 512 < have) {
        e = file_reserve(s, bytes, &st, m);
        if (e != OK) {
            /* What was empty stays so: it is told apart by its size. */
            if (have == 0 && ftruncate(s->fd, 0) != 0)
                return open_refused(s, errno, m);
            return e;
        }
    }
    s->bytes = bytes;
    return OK;
}

static enum err ssd_size(struct files_ssd *s, const struct files_ssd_cfg *cfg,
                         struct errmsg *m)
{
    uint64_t least = SSD_HEAD_BYTES + SEGMENTS_MIN * cfg->segment;
    enum err e = s->is_block ? device_size(s, cfg, m) : file_size(s, cfg, m);
    char have[32], need[32];

    if (e != OK)
        return e;
    s->bytes = min_u64(s->bytes / DISK_PAGE * DISK_PAGE, SSD_BYTES_MAX);
    if (s->bytes >= least)
        return OK;
    return errmsg_set(m, ERR_IO,
                      "ssd.paths: %s: %s are too small for %d segments of "
                      "ssd.segment, which take %s; fix: a larger one, or a "
                      "smaller ssd.segment",
                      s->path, units_print_bytes(s->bytes, have), SEGMENTS_MIN,
                      units_print_bytes(least, need));
}

/* ---- one path */

static enum err ssd_open_all(struct files_ssd *s,
                             const struct files_ssd_cfg *cfg,
                             const struct files_ssds *others, struct errmsg *m)
{
    enum err e = ssd_stat(s, m);

    for (uint32_t i = 0; e == OK && others && i < others->n; i++) {
        if (others->of[i].dev == s->dev && others->of[i].ino == s->ino)
            e = errmsg_set(m, ERR_IO,
                           "ssd.paths: %.200s and %.200s are the same SSD; "
                           "fix: name it once",
                           others->of[i].path, s->path);
    }
    if (e == OK)
        e = ssd_open(s, m);
    if (e == OK)
        e = ssd_lock(s, m);
    if (e == OK)
        e = ssd_size(s, cfg, m);
    return e;
}

static enum err ssd_open_checked(struct files_ssd *out,
                                 const struct files_ssd_cfg *cfg,
                                 const struct files_ssds *others,
                                 struct errmsg *m)
{
    struct files_ssd s = {.fd = -1};
    enum err e;

    if (snprintf(s.path, sizeof(s.path), "%s", cfg->path) >=
        (int)sizeof(s.path))
        return errmsg_set(m, ERR_IO,
                          "ssd.paths: a path is too long; fix: a "
                          "shorter one (a link)");
    e = ssd_open_all(&s, cfg, others, m);
    if (e == OK) {
        *out = s;
        return OK;
    }
    if (s.created)
        unlink(s.path);
    files_ssd_close(&s);
    return e;
}

enum err files_ssd_open(struct files_ssd *out, const struct files_ssd_cfg *cfg,
                        struct errmsg *m)
{
    return ssd_open_checked(out, cfg, NULL, m);
}

/* A zeroed struct has no descriptor: 0 is never one of ours. The lock is given
 * up by name: a ring that ends takes a while to let go of the file. */
void files_ssd_close(struct files_ssd *s)
{
    if (s->fd > 0) {
        (void)flock(s->fd, LOCK_UN);
        close(s->fd);
    }
    *s = (struct files_ssd){.fd = -1};
}

/* ---- all of them */

enum err files_ssds_open(struct files_ssds *out, const struct config *c,
                         struct errmsg *m)
{
    struct files_ssds ssds = {0};
    struct config_ssd_paths paths;
    enum err e = OK;

    static_assert((int)CONFIG_SSDS == (int)DISK_DEVS, "one device per path");
    if (!config_ssd_paths(c->ssd.paths, &paths))
        return errmsg_set(m, ERR_CONFIG, "ssd.paths: \"%.100s\" is not a list",
                          c->ssd.paths);
    for (uint32_t i = 0; i < paths.n && e == OK; i++) {
        struct files_ssd_cfg cfg = {.path = paths.path[i],
                                    .capacity = c->ssd.capacity_bytes,
                                    .segment = c->ssd.segment_bytes};

        e = ssd_open_checked(&ssds.of[i], &cfg, &ssds, m);
        ssds.n += e == OK;
    }
    if (e != OK) {
        files_ssds_close(&ssds);
        return e;
    }
    *out = ssds;
    return OK;
}

void files_ssds_close(struct files_ssds *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        files_ssd_close(&s->of[i]);
    s->n = 0;
}

/* Version 4: 122 random bits. */
enum err files_uuid(uint8_t uuid_out[16], struct errmsg *m)
{
    uint8_t uuid[16];

    if (files_random(uuid, sizeof(uuid)) != OK)
        return errmsg_set(m, ERR_IO, "ssd: the kernel gives no random bytes");
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
    memcpy(uuid_out, uuid, sizeof(uuid));
    return OK;
}
