/* SPDX-License-Identifier: Apache-2.0
 *
 * Where tests of the SSD tier put their files (ssd_dir.h). */
#include "lib/ssd_dir.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/vfs.h>
#include <unistd.h>

static bool ssd_dir_try(const char *parent, char dir[200])
{
    char file[220], whole[PATH_MAX];
    struct statfs fs;
    int fd;

    if (!parent || statfs(parent, &fs) != 0 || fs.f_type == TMPFS_MAGIC ||
        !realpath(parent, whole))
        return false;
    snprintf(dir, 200, "%.150s/pikvd-ssd.XXXXXX", whole);
    if (!mkdtemp(dir))
        return false;
    snprintf(file, sizeof(file), "%s/probe", dir);
    fd = open(file, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    unlink(file);
    if (fd >= 0) {
        close(fd);
        return true;
    }
    rmdir(dir);
    return false;
}

bool ssd_dir_new(char dir[200])
{
    const char *parents[] = {getenv("TMPDIR"), "out", "/tmp"};

    for (unsigned i = 0; i < sizeof(parents) / sizeof(*parents); i++) {
        if (ssd_dir_try(parents[i], dir))
            return true;
    }
    dir[0] = '\0';
    fputs("skipped: no file system with O_DIRECT in $TMPDIR, out or /tmp\n",
          stderr);
    return false;
}

void ssd_dir_free(const char *dir)
{
    char cmd[240];

    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    if (dir[0] && system(cmd) != 0)
        fprintf(stderr, "%s: cannot be removed\n", dir);
}
