/* SPDX-License-Identifier: Apache-2.0
 *
 * The shm transport as a whole: set-up, the turn over all peers, sleeping, and
 * the calls of the contract, which only queue (transport.h, rule 1).
 *
 *     listener, sockets, request eventfds --> one epoll fd --> the lane's loop
 *
 *     hot peers    rings looked at in every turn, without a system call
 *     cold peers   asleep is set in their request ring; epoll brings them back
 *
 * A system call per turn would cost more than an idle turn, so epoll is asked
 * only after a sleep, every SHM_POLL_TURNS turns, and every SHM_POLL_NS. Up to
 * SHM_POLL_PEERS peers stay hot; beyond that, idle ones cool down.
 *
 * Sockets and eventfds are watched edge-triggered: flags in the peer remember
 * what is ready, and an eventfd need never be read.
 *
 * Thread: the lane's. What fails at open is said in words; what fails later
 * costs at most the one connection. */
#include "rpc/transport_shm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/fault.h"
#include "rpc/transport_shm_int.h"

enum {
    SHM_POLL_TURNS = 32,
    SHM_POLL_NS = 50 * 1000,
    SHM_EVENTS = 64, /* per epoll_wait; the rest comes with the next */
};

/* ---- Hot and cold ---- */

static void shm_list(struct shm_peer *p, struct list *to)
{
    list_del(&p->node);
    list_add_tail(to, &p->node);
}

void shm_heat(struct shm_peer *p)
{
    if (p->hot)
        return;
    p->hot = true;
    p->s->hot_n++;
    p->idle_turns = 0;
    shm_list(p, &p->s->hot);
    ring_awake(&p->req);
}

void shm_cool(struct shm_peer *p)
{
    p->hot = false;
    p->s->hot_n--;
    shm_list(p, &p->s->cold);
}

static struct shm_peer *shm_at(struct list *n)
{
    return container_of(n, struct shm_peer, node);
}

/* ---- The turn ---- */

static void shm_event(struct shm *s, const struct epoll_event *ev)
{
    uint32_t what = (uint32_t)ev->data.u64 & 3;
    struct shm_peer *p;

    if (what == SHM_EV_LISTEN) {
        s->accept_ready = true;
        return;
    }
    p = pool_at(&s->peers, (uint32_t)(ev->data.u64 >> 2));
    if (what == SHM_EV_SOCK) {
        p->dead |= (ev->events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR)) != 0;
        p->sock_ready |= (ev->events & EPOLLIN) != 0;
        p->sock_full &= (ev->events & EPOLLOUT) == 0;
    }
    shm_heat(p);
}

/* Peers are freed by turns only, so the events of one epoll_wait are of peers
 * that are there. */
static void shm_poll(struct shm *s)
{
    struct epoll_event ev[SHM_EVENTS];
    int n = epoll_wait(s->epoll_fd, ev, SHM_EVENTS, 0);

    for (int i = 0; i < n; i++)
        shm_event(s, &ev[i]);
    s->poll_due = n == SHM_EVENTS;
    s->turns = 0;
    s->polled_ns = s->t.env->now_ns;
}

static bool shm_progress(struct transport *t)
{
    struct shm *s = shm_of(t);
    bool more;

    if (s->poll_due || ++s->turns >= SHM_POLL_TURNS ||
        s->t.env->now_ns - s->polled_ns >= SHM_POLL_NS)
        shm_poll(s);
    if (s->accept_ready)
        shm_accept(s);
    more = s->poll_due || s->accept_ready;
    /* Each peer that is hot now gets one turn; who was first will be last. */
    for (uint32_t n = s->hot_n; n > 0 && !list_empty(&s->hot); n--) {
        struct shm_peer *p = shm_at(s->hot.next);

        shm_list(p, &s->hot);
        more |= shm_peer_turn(p);
    }
    return more;
}

static void shm_awake(struct transport *t)
{
    struct shm *s = shm_of(t);

    LIST_FOREACH(n, &s->hot)
    ring_awake(&shm_at(n)->req);
    s->poll_due = true;
}

static bool shm_arm(struct transport *t)
{
    struct shm *s = shm_of(t);

    if (s->accept_ready || s->poll_due)
        return false;
    LIST_FOREACH(n, &s->hot)
    {
        if (!shm_peer_sleep(shm_at(n))) {
            shm_awake(t);
            return false;
        }
    }
    while (s->hot_n > SHM_POLL_PEERS)
        shm_cool(shm_at(s->hot.next));
    return true;
}

/* ---- The calls of the contract ---- */

static void shm_send(struct tp_peer *tp, struct tp_send *s)
{
    struct shm_peer *p = shm_peer_of(tp);

    MUST(s->data_n == 0);
    list_add_tail(&p->sends, &s->node);
    shm_heat(p);
}

static void shm_xfer(struct tp_peer *tp, struct tp_xfer *x, bool push)
{
    struct shm_peer *p = shm_peer_of(tp);

    x->peer = tp;
    x->is_push = push;
    x->crc = 0;
    x->tp_pos = 0;
    x->moved = 0;
    list_add_tail(&p->xfers, &x->node);
    shm_heat(p);
}

static void shm_pull(struct tp_peer *tp, struct tp_xfer *x)
{
    shm_xfer(tp, x, false);
}

static void shm_push(struct tp_peer *tp, struct tp_xfer *x)
{
    shm_xfer(tp, x, true);
}

/* Nothing is under way that was not asked for. */
static void shm_skip(struct tp_peer *tp, uint64_t req, uint32_t idx)
{
    (void)tp;
    (void)req;
    (void)idx;
}

static void shm_cancel(struct tp_xfer *x)
{
    struct shm_peer *p = shm_peer_of(x->peer);

    if (p->xfers.next == &x->node)
        p->cur.begun = false;
    list_del(&x->node);
    list_add_tail(&p->canceled, &x->node);
    shm_heat(p);
}

static enum err shm_register(struct tp_peer *tp, int fd, uint64_t off,
                             uint64_t len, bool writable, uint32_t *id_out,
                             bool *mapped_out)
{
    return shm_mem_register(shm_peer_of(tp), fd, off, len, writable, id_out,
                            mapped_out);
}

static enum err shm_unregister(struct tp_peer *tp, uint32_t id)
{
    return shm_mem_unregister(shm_peer_of(tp), id);
}

static enum err shm_mem_size(struct tp_peer *tp, uint32_t id, uint64_t *out)
{
    return shm_mem_bytes(shm_peer_of(tp), id, out);
}

/* A full barrier: what the lane does to the lent bytes comes after. */
static void shm_loans_end(struct tp_peer *tp, uint64_t up_to)
{
    struct shm_peer *p = shm_peer_of(tp);

    if (up_to <= p->loan_epoch)
        return;
    p->loan_epoch = up_to;
    __atomic_store_n(&p->sh->loan_epoch, up_to, __ATOMIC_SEQ_CST);
}

static void shm_close(struct tp_peer *tp, bool at_once)
{
    struct shm_peer *p = shm_peer_of(tp);

    p->closing = true;
    p->dead |= at_once;
    shm_heat(p);
}

static const struct tp_ops shm_ops = {
    .name = "shm",
    .send = shm_send,
    .pull = shm_pull,
    .push = shm_push,
    .skip = shm_skip,
    .cancel = shm_cancel,
    .mem_register = shm_register,
    .mem_unregister = shm_unregister,
    .mem_bytes = shm_mem_size,
    .loans_end = shm_loans_end,
    .close = shm_close,
    .progress = shm_progress,
    .arm = shm_arm,
    .awake = shm_awake,
};

/* ---- Open and close ---- */

static enum err shm_cfg_check(const struct transport_shm_cfg *cfg,
                              const struct frame_limits *lim, struct errmsg *m)
{
    uint32_t ring = cfg->ring_bytes;

    if (strlen(cfg->path) > SHM_PATH_MAX)
        return errmsg_set(m, ERR_CONFIG, "socket %s: longer than %d bytes",
                          cfg->path, SHM_PATH_MAX);
    if (ring < KIB(4) || ring > GIB(1) || (ring & (ring - 1)))
        return errmsg_set(m, ERR_CONFIG,
                          "ring of %u bytes: allowed: powers of two from 4 KiB "
                          "to 1 GiB",
                          ring);
    if (lim->message_bytes > ring_message_max(ring))
        return errmsg_set(m, ERR_CONFIG,
                          "ring of %u bytes: too small for messages of %u "
                          "bytes; allowed: up to %u",
                          ring, lim->message_bytes, ring_message_max(ring));
    if (cfg->peers_max == 0 || cfg->memories_per_peer == 0 ||
        cfg->copy_slice_bytes == 0)
        return errmsg_set(m, ERR_CONFIG,
                          "clients, memories and copy_slice "
                          "must be at least 1");
    return OK;
}

static enum err shm_memory(struct shm *s)
{
    uint64_t n = (uint64_t)s->cfg.peers_max * s->cfg.memories_per_peer;

    s->scratch_bytes =
        (uint32_t)max_u64(s->t.limits->message_bytes, SHM_PACKET_MAX);
    s->scratch = mem_reserve(s->scratch_bytes);
    s->mems_bytes = n * sizeof(struct shm_mem);
    s->mems = mem_reserve(s->mems_bytes);
    if (!s->scratch || !s->mems)
        return ERR_NO_MEMORY;
    return pool_init(&s->peers, s->cfg.peers_max, sizeof(struct shm_peer));
}

enum err transport_shm_open(const struct transport_shm_cfg *cfg,
                            const struct transport *base,
                            struct transport **out, struct errmsg *m)
{
    enum err e = shm_cfg_check(cfg, base->limits, m);
    struct shm *s;

    if (e)
        return e;
    s = mem_reserve(sizeof(*s));
    if (!s)
        return errmsg_set(m, ERR_NO_MEMORY, "socket %s: no memory", cfg->path);
    s->t = *base;
    s->t.ops = &shm_ops;
    s->cfg = *cfg;
    s->listen_fd = s->epoll_fd = s->spare_fd = -1;
    s->poll_due = true;
    list_init(&s->hot);
    list_init(&s->cold);
    memcpy(s->path, cfg->path, strlen(cfg->path));
    s->cfg.path = s->path;
    e = shm_memory(s);
    if (e)
        errmsg_set(m, e, "socket %s: no memory", s->path);
    if (!e && !fault_here("shm_epoll_create"))
        s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!e && s->epoll_fd < 0)
        e = errmsg_set(m, ERR_IO, "socket %s: no descriptor left", s->path);
    if (!e) {
        s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        e = shm_listen(s, m);
    }
    if (e)
        transport_shm_close(&s->t);
    else
        *out = &s->t;
    return e;
}

int transport_shm_fd(struct transport *t)
{
    return shm_of(t)->epoll_fd;
}

void transport_shm_slice_set(struct transport *t, uint64_t copy_slice_bytes)
{
    shm_of(t)->cfg.copy_slice_bytes = copy_slice_bytes;
}

void transport_shm_close(struct transport *t)
{
    struct shm *s = t ? shm_of(t) : NULL;

    if (!s)
        return;
    while (!list_empty(&s->hot))
        shm_peer_end(shm_at(s->hot.next));
    while (!list_empty(&s->cold))
        shm_peer_end(shm_at(s->cold.next));
    shm_unlisten(s);
    if (s->epoll_fd >= 0)
        close(s->epoll_fd);
    if (s->spare_fd >= 0)
        close(s->spare_fd);
    pool_fini(&s->peers);
    mem_release(s->mems, s->mems_bytes);
    mem_release(s->scratch, s->scratch_bytes);
    mem_release(s, sizeof(*s));
}
