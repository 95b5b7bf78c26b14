/* SPDX-License-Identifier: Apache-2.0
 *
 * See shm_client.h. Everything is non-blocking. */
#include "tests/lib/shm_client.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "rpc/frame.h"

bool shm_client_connect(struct shm_client *c, const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    memset(c, 0, sizeof(*c));
    c->ring_fd = c->req_fd = c->wake_fd = -1;
    memcpy(a.sun_path, path, strlen(path) + 1);
    c->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return connect(c->sock, (struct sockaddr *)&a, sizeof(a)) == 0;
}

/* A packet of at most cap bytes and n descriptors (-1 where none came). */
static ssize_t recv_fds(int sock, void *p, size_t cap, int *fds, size_t n)
{
    char ctl[CMSG_SPACE(8 * sizeof(int))];
    struct iovec iov = {p, cap};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = ctl,
                       .msg_controllen = sizeof(ctl)};
    ssize_t got = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
    struct cmsghdr *h = got >= 0 ? CMSG_FIRSTHDR(&m) : NULL;

    for (size_t i = 0; i < n; i++)
        fds[i] = -1;
    if (h && h->cmsg_type == SCM_RIGHTS)
        memcpy(fds, CMSG_DATA(h), h->cmsg_len - CMSG_LEN(0));
    return got;
}

enum err shm_client_welcome(struct shm_client *c)
{
    int fds[SHM_WELCOME_FDS];
    ssize_t n = recv_fds(c->sock, &c->welcome, sizeof(c->welcome), fds,
                         SHM_WELCOME_FDS);

    if (n < 0)
        return errno == EAGAIN ? ERR_MISS : ERR_PEER_GONE;
    if (n != (ssize_t)sizeof(c->welcome))
        return ERR_PEER_GONE;
    if (c->welcome.status)
        return (enum err) - (int)c->welcome.status;
    c->ring_fd = fds[0];
    c->req_fd = fds[1];
    c->wake_fd = fds[2];
    c->sh = mmap(NULL, c->welcome.map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
                 c->ring_fd, 0);
    if (c->sh == MAP_FAILED)
        return ERR_NO_MEMORY;
    return ring_attach(c->sh, c->welcome.map_bytes, &c->req, &c->rep);
}

void shm_client_close(struct shm_client *c)
{
    if (c->sh)
        munmap(c->sh, c->welcome.map_bytes);
    close(c->sock);
    if (c->ring_fd >= 0)
        close(c->ring_fd);
    if (c->req_fd >= 0)
        close(c->req_fd);
    if (c->wake_fd >= 0)
        close(c->wake_fd);
    c->sh = NULL;
    c->sock = c->ring_fd = c->req_fd = c->wake_fd = -1;
}

static struct wire_frame request(uint16_t op, uint64_t req, uint32_t env_len)
{
    return (struct wire_frame){.kind = WIRE_REQUEST,
                               .op = op,
                               .req = req,
                               .env_len = env_len,
                               .deadline_us = 1000000};
}

bool shm_client_send(struct shm_client *c, uint16_t op, uint64_t req,
                     const void *env, uint32_t env_len)
{
    struct wire_frame f = request(op, req, env_len);
    uint8_t *p = ring_grant(&c->req, (uint32_t)sizeof(f) + env_len);

    if (!p)
        return false;
    frame_seal(&f, env, env_len);
    memcpy(p, &f, sizeof(f));
    if (env_len)
        memcpy(p + sizeof(f), env, env_len);
    ring_push(&c->req, (uint32_t)sizeof(f) + env_len);
    return true;
}

bool shm_client_packet(struct shm_client *c, uint16_t op, uint64_t req,
                       const int *fds, uint32_t fd_n)
{
    struct wire_frame f = request(op, req, 0);
    char ctl[CMSG_SPACE(8 * sizeof(int))] = {0};
    struct iovec iov = {&f, sizeof(f)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

    frame_seal(&f, NULL, 0);
    if (fd_n) {
        struct cmsghdr *h;

        m.msg_control = ctl;
        m.msg_controllen = CMSG_SPACE(fd_n * sizeof(int));
        h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(fd_n * sizeof(int));
        memcpy(CMSG_DATA(h), fds, fd_n * sizeof(int));
    }
    return sendmsg(c->sock, &m, MSG_NOSIGNAL) == (ssize_t)sizeof(f);
}

enum err shm_client_recv(struct shm_client *c, struct wire_frame *f)
{
    uint32_t len = 0;
    enum err e = ring_pop(&c->rep, c->buf, sizeof(c->buf), &len);

    if (ring_must_tell(&c->rep)) {
        uint64_t one = 1;

        if (write(c->req_fd, &one, sizeof(one)) < 0)
            return ERR_IO;
    }
    if (e)
        return e;
    if (len < sizeof(*f))
        return ERR_BAD_REQUEST;
    memcpy(f, c->buf, sizeof(*f));
    memmove(c->buf, c->buf + sizeof(*f), len - sizeof(*f));
    return OK;
}

enum err shm_client_recv_packet(struct shm_client *c, struct wire_frame *f,
                                int *fd_out)
{
    ssize_t n = recv_fds(c->sock, c->buf, sizeof(c->buf), fd_out, 1);

    if (n < 0)
        return errno == EAGAIN ? ERR_MISS : ERR_PEER_GONE;
    if (n < (ssize_t)sizeof(*f))
        return ERR_PEER_GONE;
    memcpy(f, c->buf, sizeof(*f));
    return OK;
}

bool shm_client_rung(struct shm_client *c)
{
    uint64_t one[64];

    return read(c->wake_fd, one, sizeof(one)) > 0;
}

void shm_client_ring(struct shm_client *c)
{
    uint64_t one = 1;

    if (ring_must_wake(&c->req) && write(c->req_fd, &one, sizeof(one)) < 0)
        return;
}

bool shm_client_eof(struct shm_client *c)
{
    char b;

    return recv(c->sock, &b, 1, MSG_PEEK) == 0;
}
