/* SPDX-License-Identifier: Apache-2.0
 *
 * doctor: where the SSD tier is to lie, and how a running daemon's SSDs are.
 * One line per path and per SSD. */
#include <errno.h>
#include <libgen.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "client/ctl/ctl_doctor.h"

enum { PATH_BYTES = 512, BYTES_TEXT = 32 };

/* Not all of them are in linux/magic.h. */
#define FS_XFS 0x58465342
#define FS_ZFS 0x2fc12fc1
#define FS_RAM 0x858458f6

static const struct {
    long type;
    const char *name;
    enum doctor_state state;
    const char *fix; /* what is wrong with it is said with it */
} systems[] = {
    {EXT4_SUPER_MAGIC, "ext4", DOCTOR_OK, NULL},
    {FS_XFS, "xfs", DOCTOR_OK, NULL},
    {TMPFS_MAGIC, "tmpfs, which is memory", DOCTOR_FAIL,
     "a path on a disk, or a block device"},
    {FS_RAM, "ramfs, which is memory", DOCTOR_FAIL,
     "a path on a disk, or a block device"},
    {OVERLAYFS_SUPER_MAGIC, "overlayfs, which may copy and count twice",
     DOCTOR_WARN, "a volume of ext4 or xfs in the container"},
    {NFS_SUPER_MAGIC, "nfs, whose flush is a network's", DOCTOR_WARN,
     "a local disk"},
    {BTRFS_SUPER_MAGIC, "btrfs, which copies on write", DOCTOR_WARN,
     "chattr +C of the directory before the file is made, or ext4 or xfs"},
    {FS_ZFS, "zfs, which copies on write", DOCTOR_WARN,
     "ext4, xfs or a block device"},
};

static const char why_paths[] = "the SSD tier lies there";

static void say_space(struct doctor *d, const char *path, const char *name,
                      uint64_t have, uint64_t want)
{
    char have_text[BYTES_TEXT], want_text[BYTES_TEXT];

    doctor_bytes(have, have_text, sizeof(have_text));
    doctor_bytes(want, want_text, sizeof(want_text));
    if (want <= have)
        doctor_say(d, DOCTOR_OK, why_paths, NULL, "%s on %s, %s to be had",
                   path, name, have_text);
    else
        doctor_say(d, DOCTOR_FAIL, why_paths,
                   "lower ssd.capacity, or make room",
                   "%s on %s: %s to be had, ssd.capacity is %s", path, name,
                   have_text, want_text);
}

/* A file, or the directory where it will be made. */
static void check_file(struct doctor *d, const char *path, const char *at,
                       uint64_t has)
{
    uint64_t want = doctor_number(d, "ssd.capacity", 0), have;
    const char *name = "another file system";
    struct statfs fs;

    if (statfs(at, &fs) != 0) {
        doctor_say(d, DOCTOR_FAIL, why_paths, "mkdir -p, or another path",
                   "%s: %s", path, strerror(errno));
        return;
    }
    if (access(at, W_OK) != 0) {
        doctor_say(d, d->running ? DOCTOR_OK : DOCTOR_WARN, why_paths,
                   d->running ? NULL : "chown it to the daemon's user",
                   "%s is not writable for you", path);
        return;
    }
    for (size_t i = 0; i < countof(systems); i++) {
        if (systems[i].type != (long)fs.f_type)
            continue;
        name = systems[i].name;
        if (systems[i].state != DOCTOR_OK) {
            doctor_say(d, systems[i].state, why_paths, systems[i].fix,
                       "%s is on %s", path, name);
            return;
        }
    }
    have = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize + has;
    say_space(d, path, name, have, want);
}

static void check_path(struct doctor *d, const char *path)
{
    char copy[PATH_BYTES];
    struct stat st;

    snprintf(copy, sizeof(copy), "%s", path);
    if (stat(path, &st) != 0 && errno != ENOENT)
        doctor_say(d, DOCTOR_FAIL, why_paths, "chmod the directories above it",
                   "%s: %s", path, strerror(errno));
    else if (access(path, F_OK) != 0)
        check_file(d, path, dirname(copy), 0);
    else if (S_ISREG(st.st_mode))
        check_file(d, path, path, (uint64_t)st.st_blocks * 512);
    else if (S_ISBLK(st.st_mode))
        doctor_say(d, DOCTOR_OK, why_paths, NULL, "%s is a block device", path);
    else
        doctor_say(d, DOCTOR_FAIL, why_paths, "a file or a block device",
                   "%s is neither a file nor a block device", path);
}

void doctor_ssd_paths(struct doctor *d)
{
    const char *at = doctor_text(d, "ssd.paths", "");
    char path[PATH_BYTES];

    if (!*at)
        doctor_say(d, DOCTOR_OK, why_paths, NULL,
                   "ssd.paths is empty: memory only");
    while (*at) {
        size_t n = strcspn(at, ",");

        snprintf(path, sizeof(path), "%.*s", (int)n, at);
        check_path(d, path);
        at += n + (at[n] == ',');
    }
}

/* ---- of a running daemon ---- */

static void say_ssd(struct doctor *d, const Pikv__SsdInfo *i)
{
    static const char why[] = "what is not open takes no blocks";
    bool down =
        strcmp(i->state, "failed") == 0 || strcmp(i->state, "read_only") == 0;
    bool open = strcmp(i->state, "open") == 0;

    if (down)
        doctor_say(d, DOCTOR_FAIL, why,
                   "look at its log and SMART data; pikvctl ssd replace",
                   "%s is %s: %s", i->path, i->state, i->why);
    else if (open && strcmp(i->engine, "sync") == 0)
        doctor_say(d, DOCTOR_WARN, why, "see io_uring above",
                   "%s is open, served by pread and pwrite in threads",
                   i->path);
    else
        doctor_say(d, open ? DOCTOR_OK : DOCTOR_WARN, why,
                   open ? NULL : "pikvctl ssd list shows how far it is",
                   "%s is %s%s", i->path, i->state,
                   i->binding ? ", its write budget is used up" : "");
}

void doctor_ssd_state(struct doctor *d)
{
    static const char why[] = "a daemon goes on without its SSDs";
    Pikv__SsdRequest m;
    Pikv__SsdReply *r = NULL;
    int code = PIKV_NO_SERVER;

    pikv__ssd_request__init(&m);
    if (d->running && link_open(d->c) == CTL_OK)
        r = link_ask(d->c, "ssd", 0, &m.base, &pikv__ssd_reply__descriptor,
                     &code);
    link_close(d->c);
    if (!d->running)
        doctor_say(d, DOCTOR_OK, why, NULL, "no daemon of this machine asked");
    else if (code)
        doctor_say(d, code == PIKV_DENIED ? DOCTOR_OK : DOCTOR_WARN, why,
                   code == PIKV_DENIED ? NULL : "pikvctl ssd list", "%s",
                   pikv_error_text(code));
    else if (r->n_ssds == 0)
        doctor_say(d, DOCTOR_OK, why, NULL, "it has none");
    for (size_t i = 0; !code && i < r->n_ssds; i++)
        say_ssd(d, r->ssds[i]);
    link_free(r);
}
