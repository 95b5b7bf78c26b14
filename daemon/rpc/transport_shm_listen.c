/* SPDX-License-Identifier: Apache-2.0
 *
 * The unix socket: its file, accepting, and the handshake of shm_wire.h.
 *
 * The file. A daemon that was killed leaves its socket's file behind; one that
 * lives answers a connect. Looking, unlinking and binding are done under a lock
 * on the directory (flock, released at once), so that two daemons that start
 * together cannot remove each other's. The file is only removed at the end if
 * it is still the one that was made here.
 *
 * A connection: accept, credentials, rings, events->opened, welcome. Whoever is
 * refused gets a welcome with the error and no descriptors. When the process
 * runs out of descriptors, a spare one is given up to accept and close: else
 * the listener would stay readable and the lane would spin.
 *
 * Called by the lane's thread from open, close and progress(). Descriptors are
 * all close-on-exec; writes to sockets never raise SIGPIPE. */
#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/fault.h"
#include "rpc/transport_shm_int.h"

enum {
    SHM_BACKLOG = 128,
    SHM_ACCEPTS = 4, /* per turn */
    SHM_LOCK_TRIES = 100,
    SHM_LOCK_WAIT_NS = 10 * 1000 * 1000,
};

/* ---- The socket's file ---- */

/* An fd of the directory of path, locked; -1 and m if it cannot be had. */
static int shm_dir_lock(const char *path, struct errmsg *m)
{
    const char *slash = strrchr(path, '/');
    char dir[108] = ".";
    int fd;

    if (slash == path)
        memcpy(dir, "/", 2);
    else if (slash)
        *(char *)mempcpy(dir, path, (size_t)(slash - path)) = '\0';
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; fd >= 0; i++) {
        struct timespec wait = {0, SHM_LOCK_WAIT_NS};

        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return fd;
        if (errno != EWOULDBLOCK || i == SHM_LOCK_TRIES) {
            close(fd);
            fd = -1;
            break;
        }
        nanosleep(&wait, NULL);
    }
    errmsg_set(m, ERR_CONFIG, "socket %s: directory %s: %s", path, dir,
               strerror(errno));
    return -1;
}

/* Nobody answers at addr: OK, and its file, if any, is gone. */
static enum err shm_path_clear(const struct sockaddr_un *addr, struct errmsg *m)
{
    const char *path = addr->sun_path;
    int fd, r, why;
    struct stat st;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? OK
                               : errmsg_set(m, ERR_CONFIG, "socket %s: %s",
                                            path, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return errmsg_set(m, ERR_CONFIG,
                          "socket %s: a file that is not a socket is there",
                          path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return errmsg_set(m, ERR_IO, "socket: %s", strerror(errno));
    r = connect(fd, (const struct sockaddr *)addr, sizeof(*addr));
    why = errno;
    close(fd);
    if (r == 0 || why != ECONNREFUSED)
        return errmsg_set(m, ERR_CONFIG,
                          "socket %s: in use by another process (%s)", path,
                          r == 0 ? "it answers" : strerror(why));
    if (unlink(path) < 0 && errno != ENOENT)
        return errmsg_set(m, ERR_CONFIG,
                          "socket %s: left by a dead daemon, "
                          "cannot be removed: %s",
                          path, strerror(errno));
    return OK;
}

static enum err shm_bind(struct shm *s, const struct sockaddr_un *addr,
                         struct errmsg *m)
{
    const char *path = addr->sun_path;
    struct stat st;

    if (!fault_here("shm_socket"))
        s->listen_fd =
            socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listen_fd < 0)
        return errmsg_set(m, ERR_IO, "socket %s: no descriptor", path);
    if (bind(s->listen_fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
        return errmsg_set(m, ERR_CONFIG, "socket %s: cannot be made: %s", path,
                          strerror(errno));
    if (stat(path, &st) < 0)
        return errmsg_set(m, ERR_IO, "socket %s: %s", path, strerror(errno));
    s->ino = st.st_ino;
    s->dev = st.st_dev;
    /* Nobody can connect before listen, so the mode is right in time. */
    if (chmod(path, s->cfg.mode) < 0 || fault_here("shm_bind") ||
        listen(s->listen_fd, SHM_BACKLOG) < 0)
        return errmsg_set(m, ERR_IO, "socket %s: %s", path, strerror(errno));
    return OK;
}

enum err shm_listen(struct shm *s, struct errmsg *m)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = SHM_EV_LISTEN};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    enum err e;
    int dir;

    memcpy(addr.sun_path, s->path, strlen(s->path));
    dir = shm_dir_lock(s->path, m);
    if (dir < 0)
        return ERR_CONFIG;
    e = shm_path_clear(&addr, m);
    if (!e)
        e = shm_bind(s, &addr, m);
    close(dir);
    if (!e && epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->listen_fd, &ev) < 0)
        e = errmsg_set(m, ERR_IO, "socket %s: %s", s->path, strerror(errno));
    return e;
}

void shm_unlisten(struct shm *s)
{
    struct stat st;

    if (s->ino && stat(s->path, &st) == 0 && st.st_ino == s->ino &&
        st.st_dev == s->dev)
        unlink(s->path);
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    s->listen_fd = -1;
    s->ino = 0;
}

/* ---- The handshake ---- */

/* One packet with fd_n descriptors; false if the client cannot take it now,
 * which at its first packet means that it is gone. */
static bool shm_welcome_send(int sock, const struct shm_welcome *w,
                             const int *fds, uint32_t fd_n)
{
    union {
        struct cmsghdr h;
        char bytes[CMSG_SPACE(sizeof(int) * SHM_WELCOME_FDS)];
    } ctl = {0};
    struct iovec iov = {(void *)(uintptr_t)w, sizeof(*w)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fault_here("shm_welcome"))
        return false;
    if (fd_n > 0) {
        msg.msg_control = ctl.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_n);
        ctl.h.cmsg_level = SOL_SOCKET;
        ctl.h.cmsg_type = SCM_RIGHTS;
        ctl.h.cmsg_len = CMSG_LEN(sizeof(int) * fd_n);
        memcpy(CMSG_DATA(&ctl.h), fds, sizeof(int) * fd_n);
    }
    return sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) ==
           (ssize_t)sizeof(*w);
}

static void shm_refuse(int sock, enum err e)
{
    struct shm_welcome w = {
        .magic = SHM_WELCOME_MAGIC,
        .version = WIRE_VERSION,
        .status = (uint32_t)-e,
    };

    (void)shm_welcome_send(sock, &w, NULL, 0);
    close(sock);
}

/* The memory of both rings; the fd to pass in *fd_out. */
static enum err shm_rings_make(struct shm_peer *p, int *fd_out)
{
    size_t bytes = ring_map_bytes(p->s->cfg.ring_bytes);
    int fd = -1;
    void *at = MAP_FAILED;

    if (!fault_here("shm_memfd"))
        fd = memfd_create("pikvd-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return ERR_BUSY;
    if (ftruncate(fd, (off_t)bytes) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        close(fd);
        return ERR_NO_MEMORY;
    }
    p->sh = at;
    ring_shared_init(p->sh, p->s->cfg.ring_bytes);
    MUST(ring_attach(p->sh, bytes, &p->req, &p->rep) == OK);
    *fd_out = fd;
    return OK;
}

static bool shm_watch(struct shm_peer *p, int fd, uint32_t events,
                      uint32_t what)
{
    struct epoll_event ev = {.events = events | EPOLLET,
                             .data.u64 = (uint64_t)p->idx << 2 | what};

    return !fault_here("shm_epoll") &&
           epoll_ctl(p->s->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0;
}

/* Rings, wake-ups and epoll of a new peer; the client's descriptors in fds. */
static enum err shm_peer_equip(struct shm_peer *p, int fds[SHM_WELCOME_FDS])
{
    int pipe_fds[2];
    enum err e = shm_rings_make(p, &fds[0]);

    if (e)
        return e;
    p->req_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    fds[1] = p->req_fd;
    if (fault_here("shm_pipe") || pipe2(pipe_fds, O_NONBLOCK | O_CLOEXEC) < 0)
        return ERR_BUSY;
    fds[2] = p->wake_client_fd = pipe_fds[0];
    p->wake_fd = pipe_fds[1];
    if (p->req_fd < 0 ||
        !shm_watch(p, p->sock, EPOLLIN | EPOLLOUT | EPOLLRDHUP, SHM_EV_SOCK) ||
        !shm_watch(p, p->req_fd, EPOLLIN, SHM_EV_RING))
        return ERR_BUSY;
    return OK;
}

static void shm_peer_init(struct shm *s, struct shm_peer *p, int sock)
{
    struct ucred cred = {0};
    socklen_t len = sizeof(cred);

    *p = (struct shm_peer){.s = s,
                           .sock = sock,
                           .req_fd = -1,
                           .wake_fd = -1,
                           .wake_client_fd = -1};
    p->idx = pool_idx(&s->peers, p);
    p->mems = s->mems + (size_t)p->idx * s->cfg.memories_per_peer;
    p->tp.t = &s->t;
    list_init(&p->node);
    list_init(&p->sends);
    list_init(&p->xfers);
    list_init(&p->canceled);
    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0) {
        p->tp.cred.uid = cred.uid;
        p->tp.cred.gid = cred.gid;
        p->tp.cred.pid = (uint32_t)cred.pid;
    } else {
        p->tp.cred.uid = p->tp.cred.gid = UINT32_MAX;
    }
}

/* From here on the lane knows the peer: a client that cannot be welcomed any
 * more ends like any other, by closed(). */
static void shm_peer_welcome(struct shm_peer *p, const int fds[SHM_WELCOME_FDS])
{
    struct shm_welcome w = {
        .magic = SHM_WELCOME_MAGIC,
        .version = WIRE_VERSION,
        .ring_bytes = p->s->cfg.ring_bytes,
        .map_bytes = ring_map_bytes(p->s->cfg.ring_bytes),
    };

    p->dead = !shm_welcome_send(p->sock, &w, fds, SHM_WELCOME_FDS);
    shm_heat(p);
}

static void shm_peer_open(struct shm *s, int sock)
{
    struct shm_peer *p = pool_get(&s->peers);
    int fds[SHM_WELCOME_FDS] = {-1, -1, -1};
    enum err e;

    if (!p) {
        shm_refuse(sock, ERR_BUSY);
        return;
    }
    shm_peer_init(s, p, sock);
    e = shm_peer_equip(p, fds);
    if (!e)
        e = s->t.events->opened(s->t.lane, &p->tp);
    if (e) {
        p->sock = -1;
        shm_refuse(sock, e);
        shm_peer_free(p);
    } else {
        shm_peer_welcome(p, fds);
    }
    if (fds[0] >= 0)
        close(fds[0]);
}

/* No descriptors left: gives one up for long enough to turn a client away.
 * false if there was none: accept says EMFILE before it looks. */
static bool shm_accept_spare(struct shm *s)
{
    int fd, why;

    if (s->spare_fd >= 0)
        close(s->spare_fd);
    fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    why = errno;
    if (fd >= 0)
        shm_refuse(fd, ERR_BUSY);
    s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd >= 0 || why != EAGAIN;
}

void shm_accept(struct shm *s)
{
    for (int i = 0; i < SHM_ACCEPTS && s->accept_ready; i++) {
        int fd =
            accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd >= 0)
            shm_peer_open(s, fd);
        else if (errno == EMFILE || errno == ENFILE)
            s->accept_ready = shm_accept_spare(s);
        else
            s->accept_ready = errno != EAGAIN;
    }
}
