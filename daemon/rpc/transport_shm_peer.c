/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection of the shm transport, from its welcome to its end.
 *
 *     OPEN --close()--> closing --nothing left to send--> end --> freed
 *      |                   |                               ^
 *      +-- socket closed, ring lies, close(at once) = dead-+
 *
 * A turn, in this order, each step bounded:
 *
 *   packets    messages with a descriptor, from the socket
 *   messages   out of the request ring into the lane's scratch buffer, checked,
 *              handed to the lane; what it starts is queued here
 *   transfers  copies until the budget is used up, oldest first; replies that
 *              their completions queue leave at once
 *   sends      into the reply ring, or as packets; the client is rung once
 *
 * Invariants
 *  1. Queues are emptied only in a turn (or in the end), never inside a call of
 *     the lane: completions come from progress().
 *  2. A peer is freed only by its own turn, after closed(): the callbacks of
 *     another peer's turn find it whole.
 *  3. A message is copied out of shared memory before a byte of it is looked
 *     at; the client may go on writing there.
 *  4. Descriptors that come with a message are closed, handed to the lane, or
 *     refused; none stays behind.
 *
 * When the reply ring or the socket is full, the queue waits, in order; how
 * long is the lane's decision (slow reader). */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fault.h"
#include "rpc/transport_shm_int.h"

enum {
    SHM_MESSAGES = 16, /* per turn */
    SHM_PACKETS = 4,
    SHM_FDS_MAX = 4,       /* taken off a packet; the kernel drops the others */
    SHM_XFER_COST = 256,   /* what an empty transfer takes off the budget */
    SHM_COOL_TURNS = 1024, /* idle turns until a peer need not be polled */
};

static bool shm_reading(const struct shm_peer *p)
{
    return !p->closing && !p->dead;
}

/* ---- Messages in ---- */

/* Malformed. With a right crc the lane answers by request id and the stream
 * goes on; else nobody can say where the next message starts. */
static void shm_bad(struct shm_peer *p, const struct message *m, enum err e)
{
    p->s->t.events->bad(p->s->t.lane, &p->tp, m, e);
    if (m->frame.req == 0)
        p->closing = true;
}

/* The message in the scratch buffer. A descriptor is passed on only with the
 * operation that takes one. */
static void shm_deliver(struct shm_peer *p, uint32_t len, int fd)
{
    struct shm *s = p->s;
    struct message m = {0};
    enum err e = ERR_BAD_REQUEST;

    if (len >= sizeof(struct wire_frame))
        e = frame_read(s->scratch, s->scratch + sizeof(struct wire_frame),
                       len - sizeof(struct wire_frame), s->t.limits, &m);
    if (!e && (m.frame.kind != WIRE_REQUEST || m.frame.data_len > 0))
        e = ERR_BAD_REQUEST;
    if (fd >= 0 && (e || m.frame.op != OP_MEM_REGISTER)) {
        close(fd);
        fd = -1;
    }
    if (e)
        shm_bad(p, &m, e);
    else
        s->t.events->message(s->t.lane, &p->tp, &m, fd);
}

static void shm_ring_client(struct shm_peer *p)
{
    static const uint64_t one = 1;

    /* Full: then it is readable already. Closed: its end is on its way. */
    if (write(p->wake_fd, &one, sizeof(one)) < 0)
        return;
}

/* true if messages were taken. */
static bool shm_read_ring(struct shm_peer *p)
{
    struct shm *s = p->s;
    uint32_t len = 0;
    int n = 0;

    while (n < SHM_MESSAGES && shm_reading(p)) {
        enum err e = ring_pop(&p->req, s->scratch, s->scratch_bytes, &len);

        if (e == ERR_MISS)
            break;
        if (e)
            shm_bad(p, &(struct message){0}, e);
        else
            shm_deliver(p, len, -1);
        n++;
    }
    if (ring_must_tell(&p->req))
        shm_ring_client(p);
    return n > 0;
}

/* The first descriptor of a packet, or -1; all others are closed. */
static int shm_packet_fd(struct msghdr *msg)
{
    int fds[SHM_FDS_MAX], first = -1;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        memcpy(fds, CMSG_DATA(c), min_u64(n, SHM_FDS_MAX) * sizeof(int));
        for (size_t i = 0; i < n && i < SHM_FDS_MAX; i++) {
            if (first < 0)
                first = fds[i];
            else
                close(fds[i]);
        }
    }
    return first;
}

/* ERR_MISS: none there. ERR_PEER_GONE: the client closed. */
static enum err shm_packet_read(struct shm_peer *p, uint32_t *len_out,
                                int *fd_out)
{
    union {
        struct cmsghdr h;
        char bytes[CMSG_SPACE(sizeof(int) * SHM_FDS_MAX)];
    } ctl;
    struct iovec iov = {p->s->scratch, p->s->scratch_bytes};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = ctl.bytes,
                         .msg_controllen = sizeof(ctl)};
    ssize_t n = recvmsg(p->sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int fd;

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? ERR_MISS : ERR_PEER_GONE;
    fd = shm_packet_fd(&msg);
    if (n == 0 || n > SHM_PACKET_MAX || (msg.msg_flags & MSG_TRUNC)) {
        if (fd >= 0)
            close(fd);
        return n == 0 ? ERR_PEER_GONE : ERR_LIMIT;
    }
    *len_out = (uint32_t)n;
    *fd_out = fd;
    return OK;
}

static bool shm_read_packets(struct shm_peer *p)
{
    uint32_t len = 0;
    int fd = -1;

    for (int i = 0; i < SHM_PACKETS && p->sock_ready && shm_reading(p); i++) {
        enum err e = shm_packet_read(p, &len, &fd);

        if (e == ERR_MISS)
            p->sock_ready = false;
        else if (e == ERR_PEER_GONE)
            p->dead = true;
        else if (e)
            shm_bad(p, &(struct message){0}, e);
        else
            shm_deliver(p, len, fd);
    }
    return p->sock_ready;
}

/* ---- Messages out ---- */

static uint64_t shm_send_len(const struct tp_send *s)
{
    return sizeof(s->frame) + frame_body_len(&s->frame);
}

/* One packet with the descriptor. ERR_BUSY: the socket is full. */
static enum err shm_send_packet(struct shm_peer *p, const struct tp_send *s)
{
    union {
        struct cmsghdr h;
        char bytes[CMSG_SPACE(sizeof(int))];
    } ctl = {.h = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec iov[2] = {
        {(void *)(uintptr_t)&s->frame, sizeof(s->frame)},
        {(void *)(uintptr_t)s->body, (size_t)frame_body_len(&s->frame)},
    };
    struct msghdr msg = {.msg_iov = iov,
                         .msg_iovlen = 2,
                         .msg_control = ctl.bytes,
                         .msg_controllen = sizeof(ctl)};

    if (shm_send_len(s) > SHM_PACKET_MAX)
        return ERR_LIMIT;
    memcpy(CMSG_DATA(&ctl.h), &s->fd, sizeof(int));
    if (sendmsg(p->sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
        return OK;
    return errno == EAGAIN || errno == EINTR ? ERR_BUSY : ERR_PEER_GONE;
}

static enum err shm_send_ring(struct shm_peer *p, const struct tp_send *s)
{
    uint64_t len = shm_send_len(s);
    uint8_t *to;

    if (len > ring_message_max(p->rep.cap))
        return ERR_LIMIT;
    to = ring_grant(&p->rep, (uint32_t)len);
    if (!to)
        return p->rep.broken ? ERR_PEER_GONE : ERR_BUSY;
    memcpy(to, &s->frame, sizeof(s->frame));
    if (len > sizeof(s->frame))
        memcpy(to + sizeof(s->frame), s->body, len - sizeof(s->frame));
    ring_push(&p->rep, (uint32_t)len);
    p->wake = true;
    return OK;
}

/* Sends what there is room for and rings the client if it sleeps. */
static void shm_flush(struct shm_peer *p)
{
    while (!list_empty(&p->sends) && !p->dead) {
        struct tp_send *s = container_of(p->sends.next, struct tp_send, node);
        enum err e = s->fd >= 0 ? shm_send_packet(p, s) : shm_send_ring(p, s);

        if (e == ERR_BUSY) {
            p->sock_full = s->fd >= 0;
            break;
        }
        p->dead |= e == ERR_PEER_GONE;
        list_del(&s->node);
        s->done(s, e);
    }
    if (p->wake && ring_must_wake(&p->rep))
        shm_ring_client(p);
    p->wake = false;
}

/* ---- Transfers ---- */

static void shm_run_canceled(struct shm_peer *p)
{
    struct list *n;

    while ((n = list_pop(&p->canceled))) {
        struct tp_xfer *x = container_of(n, struct tp_xfer, node);

        x->done(x, ERR_CANCELED);
    }
}

static bool shm_run_xfers(struct shm_peer *p)
{
    uint64_t budget = p->s->cfg.copy_slice_bytes;
    bool any = !list_empty(&p->xfers);

    while (!list_empty(&p->xfers) && budget > 0 && !p->dead) {
        struct tp_xfer *x = container_of(p->xfers.next, struct tp_xfer, node);
        bool done = false;
        enum err e = shm_xfer_step(p, x, &budget, &done);

        if (!e && !done)
            break;
        budget -= min_u64(budget, SHM_XFER_COST);
        p->cur.begun = false;
        list_del(&x->node);
        x->done(x, e);
        if (!list_empty(&p->sends))
            shm_flush(p);
    }
    return any;
}

/* ---- Turn, sleep, end ---- */

static bool shm_idle(const struct shm_peer *p)
{
    return list_empty(&p->sends) && list_empty(&p->xfers) &&
           list_empty(&p->canceled);
}

bool shm_peer_turn(struct shm_peer *p)
{
    bool busy = !list_empty(&p->canceled) || !list_empty(&p->sends);

    shm_run_canceled(p);
    busy |= p->sock_ready && shm_reading(p) && shm_read_packets(p);
    busy |= shm_reading(p) && shm_read_ring(p);
    busy |= shm_run_xfers(p);
    shm_flush(p);
    if (p->dead || (p->closing && shm_idle(p))) {
        shm_peer_end(p);
        return true;
    }
    if (busy)
        p->idle_turns = 0;
    else if (++p->idle_turns > SHM_COOL_TURNS && p->s->hot_n > SHM_POLL_PEERS &&
             shm_peer_sleep(p))
        shm_cool(p);
    return busy;
}

bool shm_peer_sleep(struct shm_peer *p)
{
    const struct tp_send *s = container_of(p->sends.next, struct tp_send, node);

    if (p->dead || !list_empty(&p->xfers) || !list_empty(&p->canceled) ||
        (p->closing && shm_idle(p)))
        return false;
    if (shm_reading(p) && (p->sock_ready || !ring_sleep(&p->req)))
        return false;
    if (list_empty(&p->sends))
        return true;
    if (s->fd >= 0)
        return p->sock_full;
    return ring_wait_room(&p->rep, (uint32_t)shm_send_len(s));
}

/* Completes everything, also what the completions start, then says goodbye. */
void shm_peer_end(struct shm_peer *p)
{
    struct list *n;

    p->dead = true;
    while (!shm_idle(p)) {
        shm_run_canceled(p);
        while ((n = list_pop(&p->xfers))) {
            struct tp_xfer *x = container_of(n, struct tp_xfer, node);

            x->done(x, ERR_PEER_GONE);
        }
        while ((n = list_pop(&p->sends))) {
            struct tp_send *s = container_of(n, struct tp_send, node);

            s->done(s, ERR_PEER_GONE);
        }
    }
    p->s->t.events->closed(p->s->t.lane, &p->tp);
    shm_peer_free(p);
}

static void shm_unwatch(struct shm_peer *p, int fd)
{
    if (fd < 0)
        return;
    /* The client holds the eventfd, too: closing ours would not end events. */
    (void)epoll_ctl(p->s->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    close(fd);
}

void shm_peer_free(struct shm_peer *p)
{
    struct shm *s = p->s;

    list_del(&p->node);
    if (p->hot)
        s->hot_n--;
    shm_mem_drop_all(p);
    shm_unwatch(p, p->sock);
    shm_unwatch(p, p->req_fd);
    if (p->wake_fd >= 0)
        close(p->wake_fd);
    if (p->wake_client_fd >= 0)
        close(p->wake_client_fd);
    if (p->sh)
        MUST(munmap(p->sh, ring_map_bytes(s->cfg.ring_bytes)) == 0);
    pool_put(&s->peers, p);
}
