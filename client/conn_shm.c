/* SPDX-License-Identifier: Apache-2.0
 *
 * Same-host connection: the handshake of shm_wire.h, then two rings.
 *
 *     dial      unix SOCK_SEQPACKET, connected without blocking
 *     welcome   ring memfd + 2 eventfds over the socket; sealed, mapped
 *     then      messages through the rings; those with an fd through the socket
 *     end       socket readable with 0 bytes, an error, or a ring that lies
 *
 *  1. Nothing of the daemon's memory is trusted: ring.c copies a message out
 *     before it is looked at, the memfd must be sealed against shrinking.
 *  2. At a deadline, a request that names the caller's memory gets its cancel
 *     word set (ring.h); after GRACE_MS without a reply (a stopped daemon) the
 *     call ends: the daemon looks at the word before each slice it copies. Its
 *     slot stays taken, so the word stays. What can still happen is said in
 *     pikv.h: a daemon stopped within a slice ends that slice later.
 *  3. The mapping is not passed on to children (MADV_DONTFORK).
 * With kv->mu. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/conn.h"
#include "rpc/shm_wire.h"

enum { POP_MAX = 64, STATUS_MAX = 1000 };

struct shm {
    int sock, req_fd, rep_fd;
    struct ring_shared *sh;
    size_t map_bytes;
    struct ring req, rep;
    bool armed;
    uint8_t *rx; /* one message, copied out of the ring */
    uint32_t rx_cap;
};

static struct shm *shm_of(const struct conn *c)
{
    return c->tp;
}

static void shm_close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* The daemon shall not touch the caller's memory for it any more (ring.h). */
static void shm_cancel(struct shm *s, const struct part *p)
{
    __atomic_store_n(&s->sh->cancel[p->req % RING_CANCELS], p->req,
                     __ATOMIC_SEQ_CST);
}

/* What is in flight ends here: a daemon that lives, and sees the end a moment
 * later, must not store what the caller or another call writes meanwhile. */
static void shm_cancel_all(struct conn *c)
{
    struct shm *s = shm_of(c);

    for (uint32_t i = 0; s->sh && i < CONN_SLOTS; i++)
        if (c->slots[i])
            shm_cancel(s, c->slots[i]);
}

static void shm_hang_up(struct conn *c)
{
    struct shm *s = shm_of(c);

    if (!s)
        return;
    shm_cancel_all(c);
    /* Ends it for the daemon too when a forked child still holds the socket. */
    if (s->sock >= 0)
        (void)shutdown(s->sock, SHUT_RDWR);
    shm_close_fd(&s->sock);
    shm_close_fd(&s->req_fd);
    shm_close_fd(&s->rep_fd);
    if (s->sh)
        munmap(s->sh, s->map_bytes);
    s->sh = NULL;
    free(s->rx);
    s->rx = NULL;
}

static enum err shm_address(const char *addr, struct sockaddr_un *out)
{
    const char *path = strncmp(addr, "shm:", 4) == 0 ? addr + 4 : "";
    size_t n = strlen(path);

    if (n == 0 || n >= sizeof(out->sun_path))
        return ERR_NO_SERVER;
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(out->sun_path, path, n);
    return OK;
}

static enum err shm_dial(struct conn *c)
{
    struct shm *s = shm_of(c);
    struct sockaddr_un at;
    enum err e = shm_address(c->addr, &at);

    if (e)
        return e;
    if (!s) {
        s = calloc(1, sizeof(*s));
        if (!s)
            return ERR_NO_MEMORY;
        c->tp = s;
    }
    *s = (struct shm){.sock = -1, .req_fd = -1, .rep_fd = -1};
    s->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->sock < 0)
        return ERR_NO_MEMORY;
    if (connect(s->sock, (const struct sockaddr *)&at, sizeof(at)) == 0)
        return OK;
    if (errno == EAGAIN)
        return ERR_BUSY; /* the daemon has not yet accepted others */
    return errno == EACCES || errno == EPERM ? ERR_DENIED : ERR_NO_SERVER;
}

/* ---- the socket ---- */

/* One packet with up to n fds; returns its length, 0 end, -1 nothing yet. */
static ssize_t shm_recv(struct shm *s, void *buf, size_t cap, int *fds, int n)
{
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(8 * sizeof(int))];
    } control;
    struct iovec iov = {buf, cap};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control)};
    ssize_t len = recvmsg(s->sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int got = 0;

    for (int i = 0; i < n; i++)
        fds[i] = -1;
    if (len < 0)
        return errno == EAGAIN || errno == EINTR ? -1 : 0;
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
        size_t k = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < k; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(int));
            if (got < n)
                fds[got++] = fd;
            else
                close(fd);
        }
    }
    return len;
}

static int shm_map(struct conn *c, const struct shm_welcome *w, int mem)
{
    struct shm *s = shm_of(c);
    int seals = fcntl(mem, F_GET_SEALS);
    struct stat st;
    void *p;

    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(mem, &st) ||
        w->map_bytes > (uint64_t)st.st_size || w->map_bytes > GIB(4))
        return ERR_BAD_REQUEST;
    p = mmap(NULL, w->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0);
    if (p == MAP_FAILED)
        return ERR_NO_MEMORY;
    s->sh = p;
    s->map_bytes = w->map_bytes;
    (void)madvise(p, s->map_bytes, MADV_DONTFORK);
    if (ring_attach(s->sh, s->map_bytes, &s->req, &s->rep))
        return ERR_BAD_REQUEST;
    s->rx_cap = ring_message_max(s->rep.cap);
    s->rx = malloc(s->rx_cap);
    c->limits.message_bytes = ring_message_max(s->req.cap);
    return s->rx ? OK : ERR_NO_MEMORY;
}

/* Writing into a pipe or a socket could raise SIGPIPE in the host. */
static bool shm_is_event(int fd)
{
    struct stat st;

    return fd >= 0 && fstat(fd, &st) == 0 && !S_ISFIFO(st.st_mode) &&
           !S_ISSOCK(st.st_mode);
}

static int shm_check_welcome(const struct shm_welcome *w, ssize_t len)
{
    if (len < (ssize_t)sizeof(*w) || w->magic != SHM_WELCOME_MAGIC)
        return ERR_NO_SERVER;
    if (w->status)
        return w->status < STATUS_MAX ? -(int)w->status : ERR_NO_SERVER;
    return w->version == WIRE_VERSION ? OK : ERR_BAD_VERSION;
}

static void shm_welcome(struct conn *c)
{
    struct shm *s = shm_of(c);
    struct shm_welcome w = {0};
    int fds[SHM_WELCOME_FDS], status;
    ssize_t len = shm_recv(s, &w, sizeof(w), fds, SHM_WELCOME_FDS);

    if (len < 0)
        return;
    status = shm_check_welcome(&w, len);
    if (!status && (fds[SHM_WELCOME_FDS - 1] < 0 || !shm_is_event(fds[1])))
        status = ERR_NO_SERVER;
    if (!status)
        status = shm_map(c, &w, fds[0]);
    shm_close_fd(&fds[0]);
    s->req_fd = fds[1];
    s->rep_fd = fds[2];
    if (status) {
        conn_down(c, status);
        return;
    }
    (void)fcntl(s->req_fd, F_SETFL, O_NONBLOCK);
    (void)fcntl(s->rep_fd, F_SETFL, O_NONBLOCK);
    conn_connected(c);
}

/* Replies with an fd, and the end. */
static void shm_socket(struct conn *c)
{
    struct shm *s = shm_of(c);
    static const size_t frame = sizeof(struct wire_frame);

    for (int i = 0; i < POP_MAX && c->state > CONN_DIALING; i++) {
        _Alignas(16) uint8_t buf[4096];
        int fd;
        ssize_t len = shm_recv(s, buf, sizeof(buf), &fd, 1);

        if (len < 0)
            return;
        if (len < (ssize_t)frame) {
            shm_close_fd(&fd);
            conn_down(c, len ? ERR_BAD_REQUEST : ERR_NO_SERVER);
            return;
        }
        conn_message(c, buf, buf + frame, (size_t)len - frame, fd);
    }
}

/* A message that carries an fd, as one packet. */
static enum err shm_send_fd(struct shm *s, const struct part *p)
{
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {p->msg, p->msg_len};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control)};

    control.h.cmsg_level = SOL_SOCKET;
    control.h.cmsg_type = SCM_RIGHTS;
    control.h.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.h), &p->fd, sizeof(int));
    if (sendmsg(s->sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return OK;
    if (errno == EAGAIN || errno == EINTR || errno == ETOOMANYREFS)
        return ERR_BUSY;
    return ERR_NO_SERVER;
}

/* ---- the rings ---- */

static void *shm_grant(struct conn *c, uint32_t len)
{
    return ring_grant(&shm_of(c)->req, len);
}

static void shm_push(struct conn *c, uint32_t len)
{
    struct shm *s = shm_of(c);
    uint64_t one = 1;

    ring_push(&s->req, len);
    if (ring_must_wake(&s->req))
        (void)!write(s->req_fd, &one, sizeof(one));
}

static enum err shm_send(struct conn *c, struct part *p)
{
    struct shm *s = shm_of(c);
    void *to;

    if (p->fd >= 0)
        return shm_send_fd(s, p);
    to = ring_grant(&s->req, p->msg_len);
    if (!to)
        return s->req.broken || p->msg_len > ring_message_max(s->req.cap)
                   ? ERR_BAD_REQUEST
                   : ERR_BUSY;
    memcpy(to, p->msg, p->msg_len);
    shm_push(c, p->msg_len);
    return OK;
}

static bool shm_give_up(struct conn *c, struct part *p, bool last)
{
    struct shm *s = shm_of(c);

    if (!p->direct)
        return true;
    if (!last && s->sh)
        shm_cancel(s, p);
    return last;
}

static bool shm_leave(struct conn *c, struct part *p)
{
    struct shm *s = shm_of(c);

    if (p->direct && s->sh)
        shm_cancel(s, p);
    return !p->direct;
}

static bool shm_complete(struct conn *c, struct part *p)
{
    (void)c;
    (void)p;
    return true;
}

static bool shm_progress(struct conn *c, bool look)
{
    struct shm *s = shm_of(c);
    uint64_t n;
    uint32_t len;
    enum err e = OK;
    int i;

    if (c->state == CONN_DOWN)
        return false;
    /* While somebody sleeps on it, the descriptor is what wakes them: the
     * daemon has rung and does not ring again before they have looked. */
    if (look && c->state != CONN_DIALING && !s->armed)
        (void)!read(s->rep_fd, &n, sizeof(n));
    for (i = 0; i < POP_MAX && c->state > CONN_DIALING; i++) {
        e = ring_pop(&s->rep, s->rx, s->rx_cap, &len);
        if (e == ERR_MISS)
            break;
        if (e || len < sizeof(struct wire_frame)) {
            conn_down(c, ERR_BAD_REQUEST);
            return true;
        }
        conn_message(c, s->rx, s->rx + sizeof(struct wire_frame),
                     len - sizeof(struct wire_frame), -1);
    }
    /* After the rings: replies that were written before the end count. */
    if (i == POP_MAX)
        c->kv->look = true;
    else if (look && c->state == CONN_DIALING)
        shm_welcome(c);
    else if (look && c->state > CONN_DIALING)
        shm_socket(c);
    return i == POP_MAX;
}

static uint64_t shm_loan_epoch(struct conn *c)
{
    return __atomic_load_n(&shm_of(c)->sh->loan_epoch, __ATOMIC_ACQUIRE);
}

static bool shm_arm(struct conn *c)
{
    struct shm *s = shm_of(c);

    if (c->state <= CONN_DIALING)
        return true;
    s->armed = true;
    return ring_sleep(&s->rep);
}

static void shm_awake(struct conn *c)
{
    struct shm *s = shm_of(c);

    if (c->state <= CONN_DIALING || !s->armed)
        return;
    s->armed = false;
    ring_awake(&s->rep);
}

static int shm_fds(struct conn *c, struct pollfd *out)
{
    struct shm *s = shm_of(c);

    if (c->state == CONN_DOWN)
        return 0;
    out[0] = (struct pollfd){.fd = s->sock, .events = POLLIN};
    if (c->state == CONN_DIALING)
        return 1;
    out[1] = (struct pollfd){.fd = s->rep_fd, .events = POLLIN};
    return 2;
}

static bool shm_quiet(struct conn *c)
{
    (void)c;
    return true;
}

const struct conn_ops conn_shm = {
    .name = "shm",
    .registers = true,
    .dial = shm_dial,
    .grant = shm_grant,
    .push = shm_push,
    .send = shm_send,
    .give_up = shm_give_up,
    .leave = shm_leave,
    .complete = shm_complete,
    .progress = shm_progress,
    .loan_epoch = shm_loan_epoch,
    .arm = shm_arm,
    .awake = shm_awake,
    .fds = shm_fds,
    .hang_up = shm_hang_up,
    .quiet = shm_quiet,
};
