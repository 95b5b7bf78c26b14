/* SPDX-License-Identifier: Apache-2.0
 *
 * Shell around raft_uv (raft_disk.h). What is done beside it:
 *
 *  1. A first start that was cut off between raft_uv's two writes leaves a
 *     term and no entry: it could neither be bootstrapped nor vote. A directory
 *     in which metadata says term 1, no vote, and nothing else was written is
 *     made empty again; nothing was promised to anybody in it.
 *  2. raft_uv says that it is closed while the file of its last segment is
 *     still closing, and then once more. Only the first is passed on, and only
 *     when the loop has turned REST_TURNS times: by then its handles are gone.
 *  3. No transport: messages go over peer links (server/peer_link.h).
 *
 * Whatever raft_uv cannot read (a torn snapshot, a hole) makes coord_open fail;
 * it removes by itself what a crash leaves behind (auto-recovery). */
#include "server/raft_disk.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { REST_TURNS = 4 };

/* ---- The transport that is none ------------------------------------------ */

static int none_init(struct raft_uv_transport *t, raft_id id,
                     const char *address)
{
    (void)t;
    (void)id;
    (void)address;
    return 0;
}

static int none_listen(struct raft_uv_transport *t, raft_uv_accept_cb cb)
{
    (void)t;
    (void)cb;
    return 0;
}

static int none_connect(struct raft_uv_transport *t,
                        struct raft_uv_connect *req, raft_id id,
                        const char *address, raft_uv_connect_cb cb)
{
    (void)t;
    (void)req;
    (void)id;
    (void)address;
    (void)cb;
    return RAFT_NOCONNECTION;
}

static void none_close(struct raft_uv_transport *t,
                       raft_uv_transport_close_cb cb)
{
    cb(t);
}

/* ---- The directory ------------------------------------------------------- */

struct metadata { /* raft_uv's, little-endian */
    uint64_t format, version, term, vote;
};

static bool metadata_fresh(const char *dir, const char *name)
{
    struct metadata md = {0};
    char path[PATH_MAX];
    FILE *f;
    bool ok;

    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return false;
    f = fopen(path, "rb");
    if (!f)
        return errno == ENOENT;
    ok = fread(&md, 1, sizeof md, f) == sizeof md && md.term <= 1 && !md.vote;
    fclose(f);
    return ok;
}

/* Is there a metadata file, and nothing that was ever promised? */
static bool dir_half_begun(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    bool any = false, other = false;

    if (!d)
        return false;
    while ((e = readdir(d))) {
        if (strcmp(e->d_name, "metadata1") == 0 ||
            strcmp(e->d_name, "metadata2") == 0)
            any = true;
        else if (e->d_name[0] != '.' && strncmp(e->d_name, "tmp-", 4) != 0)
            other = true;
    }
    closedir(d);
    return any && !other && metadata_fresh(dir, "metadata1") &&
           metadata_fresh(dir, "metadata2");
}

static void dir_unbegin(const char *dir)
{
    char path[PATH_MAX];

    for (int i = 1; i <= 2; i++)
        if (snprintf(path, sizeof path, "%s/metadata%d", dir, i) <
            (int)sizeof path)
            (void)unlink(path);
}

static enum err dir_make(const char *dir, struct errmsg *m)
{
    struct stat st;

    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return errmsg_set(m, ERR_CONFIG, "%s: %s", dir, strerror(errno));
    if (stat(dir, &st) != 0 || !S_ISDIR(st.st_mode))
        return errmsg_set(m, ERR_CONFIG, "%s: not a directory", dir);
    if (access(dir, W_OK | X_OK) != 0)
        return errmsg_set(m, ERR_CONFIG, "%s: %s", dir, strerror(errno));
    return OK;
}

/* ---- Open and close ------------------------------------------------------ */

static struct raft_disk *disk_of(struct raft_io *io)
{
    return container_of(io, struct raft_disk, io);
}

static void rest_closed(uv_handle_t *handle)
{
    struct raft_disk *d =
        container_of((uv_idle_t *)handle, struct raft_disk, rest);

    d->at_rest = true;
    d->closed(&d->io);
}

static void rest_turn(uv_idle_t *idle)
{
    struct raft_disk *d = container_of(idle, struct raft_disk, rest);

    if (--d->turns == 0)
        uv_close((uv_handle_t *)idle, rest_closed);
}

static void disk_closed(struct raft_io *io)
{
    struct raft_disk *d = disk_of(io);

    if (d->resting)
        return;
    d->resting = true;
    d->turns = REST_TURNS;
    (void)uv_idle_init(d->loop, &d->rest);
    (void)uv_idle_start(&d->rest, rest_turn);
}

static void disk_io_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct raft_disk *d = disk_of(io);

    d->closing = true;
    d->at_rest = false;
    d->resting = false;
    d->closed = cb;
    d->uv_close(io, disk_closed);
}

enum err raft_disk_open(struct raft_disk *d, uv_loop_t *loop, const char *dir,
                        struct errmsg *m)
{
    enum err e = dir_make(dir, m);
    int rv;

    *d = (struct raft_disk){.loop = loop, .at_rest = true};
    if (e != OK)
        return e;
    if (dir_half_begun(dir))
        dir_unbegin(dir);
    d->transport = (struct raft_uv_transport){
        .init = none_init,
        .listen = none_listen,
        .connect = none_connect,
        .close = none_close,
    };
    rv = raft_uv_init(&d->io, loop, dir, &d->transport);
    if (rv)
        return errmsg_set(m, rv == RAFT_NAMETOOLONG ? ERR_CONFIG : ERR_IO,
                          "%s: %s", dir, raft_strerror(rv));
    d->uv_close = d->io.close;
    d->io.close = disk_io_close;
    d->open = true;
    return OK;
}

void raft_disk_close(struct raft_disk *d)
{
    if (d->open)
        raft_uv_close(&d->io);
    d->open = false;
}

void raft_disk_failed(struct raft_disk *d, uv_loop_t *loop)
{
    while (d->closing && !d->at_rest && uv_run(loop, UV_RUN_ONCE))
        ;
    raft_disk_close(d);
}
