/* SPDX-License-Identifier: Apache-2.0
 *
 * See fake_pikvd.h. Deliberately simple: one lock for everything but the rings,
 * malloc where the daemon has pools, a linear search for a catalog. */
#include "tests/lib/fake_impl.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "base/hash.h"
#include "rpc/frame.h"
#include "rpc/ring.h"
#include "rpc/shm_wire.h"
#include "tests/lib/fake_events.h"
#include "tests/lib/fake_parts.h"
#include "tests/lib/fake_open.h"

static const struct frame_limits limits = {
    .message_bytes = RING_BYTES / 2,
    .batch_keys = 4096,
    .block_bytes = GIB(1),
};

/* ---- replies ---- */

static void conn_end(struct fake *f, struct fake_conn *c)
{
    if (c->sock < 0)
        return;
    for (uint32_t i = 0; i < RING_CANCELS; i++)
        f->given_up += c->sh->cancel[i] != 0;
    close(c->sock);
    close(c->req_fd);
    close(c->rep_fd);
    munmap(c->sh, ring_map_bytes(RING_BYTES));
    for (uint32_t i = 0; i < c->mem_n; i++)
        if (c->mems[i].p)
            munmap(c->mems[i].p - c->mems[i].pad,
                   c->mems[i].len + c->mems[i].pad);
    memset(c, 0, sizeof(*c));
    c->sock = -1;
}

static void put_ring(struct fake_conn *c, const void *msg, uint32_t len)
{
    uint64_t one = 1;
    void *to;

    while (!(to = ring_grant(&c->rep, len)))
        usleep(100);
    memcpy(to, msg, len);
    ring_push(&c->rep, len);
    if (ring_must_wake(&c->rep))
        (void)!write(c->rep_fd, &one, sizeof(one));
}

void fake_reply(struct fake_conn *c, const struct wire_frame *req, int status,
                const void *body, uint32_t record_n, uint32_t env_len)
{
    size_t len = (size_t)record_n * WIRE_RECORD + env_len;
    uint8_t *msg = malloc(sizeof(struct wire_frame) + len + 1);
    struct wire_frame f = {.kind = WIRE_REPLY,
                           .op = req->op,
                           .req = req->req,
                           .status = status,
                           .record_n = record_n,
                           .env_len = env_len};

    if (len)
        memcpy(msg + sizeof(f), body, len);
    frame_seal(&f, msg + sizeof(f), len);
    memcpy(msg, &f, sizeof(f));
    put_ring(c, msg, (uint32_t)(sizeof(f) + len));
    free(msg);
}

/* As one packet on the socket, with an fd. */
void fake_reply_fd(struct fake_conn *c, const struct wire_frame *req,
                   const void *env, uint32_t env_len, int fd)
{
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    uint8_t msg[512];
    struct wire_frame f = {
        .kind = WIRE_REPLY, .op = req->op, .req = req->req, .env_len = env_len};
    struct iovec iov = {msg, sizeof(f) + env_len};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control)};

    frame_seal(&f, env, env_len);
    memcpy(msg, &f, sizeof(f));
    memcpy(msg + sizeof(f), env, env_len);
    control.h.cmsg_level = SOL_SOCKET;
    control.h.cmsg_type = SCM_RIGHTS;
    control.h.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.h), &fd, sizeof(int));
    (void)sendmsg(c->sock, &m, MSG_NOSIGNAL);
}

/* ---- BATCH operations ---- */

static struct block *find(struct lane *l, const struct key_ref *k)
{
    struct block *b = l->f->blocks;

    while (b && (b->lane != l->idx || b->key_len != k->rec.key_len ||
                 memcmp(b->key, k->key, b->key_len) != 0))
        b = b->next;
    return b;
}

/* Copies between a block and the client's segments; false: given up, or the
 * segments do not lie in registered memory. */
static bool move(struct fake_conn *c, uint64_t req, const struct key_ref *k,
                 uint8_t *bytes, uint64_t len, bool to_client)
{
    for (uint32_t i = 0; i < k->rec.seg_n && len; i++) {
        struct wire_seg s = seg_at(k, i);
        uint64_t n = min_u64(s.len, len);
        const struct mem *m = &c->mems[s.mem % MEMS];

        if (__atomic_load_n(&c->sh->cancel[req % RING_CANCELS],
                            __ATOMIC_ACQUIRE) == req)
            return false;
        if (s.mem >= c->mem_n || !m->p || s.off + n > m->len)
            return false;
        memcpy(to_client ? m->p + s.off : bytes,
               to_client ? bytes : m->p + s.off, n);
        bytes += n;
        len -= n;
    }
    return len == 0;
}

/* Stored from here on, with these bytes. */
static void block_add(struct lane *l, const struct key_ref *k, uint8_t *bytes,
                      uint64_t len, struct wire_result *r)
{
    struct block *b = calloc(1, sizeof(*b));
    struct fake *f = l->f;

    b->bytes = bytes;
    b->len = r->len = len;
    b->lane = l->idx;
    b->key_len = k->rec.key_len;
    memcpy(b->key, k->key, b->key_len);
    b->crc = r->crc = crc32c(0, b->bytes, b->len);
    b->version = r->version = ++f->versions;
    b->next = f->blocks;
    f->blocks = b;
    f->stored++;
}

static void do_put(struct lane *l, struct fake_conn *c, uint64_t req,
                   const struct key_ref *k, struct wire_result *r)
{
    uint8_t *bytes;

    if (find(l, k)) {
        r->status = ERR_EXISTS;
        return;
    }
    if (k->has_attr)
        l->seen.replicas = k->attr.replicas;
    if (k->has_attr && (k->attr.flags & ATTR_DURABLE))
        r->status = l->f->durable;
    if (r->status == ERR_UNSUPPORTED)
        return;
    bytes = malloc(k->rec.len + 1);
    if (move(c, req, k, bytes, k->rec.len, false)) {
        block_add(l, k, bytes, k->rec.len, r);
        return;
    }
    r->status = ERR_MEM_FAULT;
    free(bytes);
}

static void do_begin(struct lane *l, const struct key_ref *k,
                     struct wire_result *r)
{
    l->seen.writers = k->rec.off;
    l->seen.token_n = k->attr.token_n;
    l->seen.parent_len = k->rec.parent_len;
    if (find(l, k))
        r->status = ERR_EXISTS;
    else
        fake_open_begin(&l->f->opens, l->idx, k, r);
}

static void do_write(struct lane *l, struct fake_conn *c, uint64_t req,
                     const struct key_ref *k, struct wire_result *r)
{
    uint8_t *at = fake_open_at(&l->f->opens, l->idx, k, r);

    if (at && !move(c, req, k, at, k->rec.len, false))
        r->status = ERR_MEM_FAULT;
    else if (at)
        fake_open_written(k, at, r);
}

static void do_commit(struct lane *l, const struct key_ref *k,
                      struct wire_result *r)
{
    uint64_t len;
    uint8_t *bytes = fake_open_commit(&l->f->opens, l->idx, k, r, &len);

    if (bytes)
        block_add(l, k, bytes, len, r);
}

static void do_loan(struct lane *l, struct fake_conn *c, struct block *b,
                    struct wire_result *r)
{
    memcpy(l->loan + l->loan_used, b->bytes, b->len);
    r->flags |= RESULT_LOAN;
    r->loan_off = l->loan_used;
    r->loan = ++c->loans;
    l->loan_used += align_up(b->len, 64);
}

static void do_get(struct lane *l, struct fake_conn *c, uint64_t req,
                   const struct key_ref *k, struct wire_result *r)
{
    struct block *b = find(l, k);
    uint64_t n;

    r->status = b ? OK : ERR_MISS;
    if (!b)
        return;
    r->len = b->len;
    r->crc = b->crc;
    r->version = b->version;
    if ((k->rec.flags & KEY_LOAN) && l->loan) {
        do_loan(l, c, b, r);
        return;
    }
    n = k->rec.off < b->len ? min_u64(k->rec.len, b->len - k->rec.off) : 0;
    if (l->mode == FAKE_FLIPS)
        b->bytes[0] ^= 1;
    if (!move(c, req, k, b->bytes + k->rec.off, n, true))
        r->status = ERR_CANCELED;
    else
        r->moved = l->mode == FAKE_LIES ? k->rec.len + 1 : n;
    if (l->mode == FAKE_LENDS) {
        r->flags |= RESULT_LOAN;
        r->moved = MIB(256);
    }
}

static void do_lookup(struct lane *l, const struct key_ref *k,
                      struct wire_result *r)
{
    bool there = find(l, k) != NULL;

    r->state = there ? STATE_HIT : STATE_MISS;
    if (there && fake_is_cold(k->key, k->rec.key_len)) {
        r->tier = 1;
        r->eta_us = 250;
    }
}

static void do_prefetch(struct lane *l, const struct key_ref *k,
                        struct wire_result *r, struct wire_batch *head)
{
    bool there = find(l, k) != NULL,
         cold = fake_is_cold(k->key, k->rec.key_len);

    r->status = there ? OK : ERR_MISS;
    if (there && cold) {
        r->tier = 1;
        r->eta_us = 250;
        head->count++;
    }
}

/* Only nodes of a cluster let go of what is dropped. */
static int do_evict(struct lane *l, const struct key_ref *k,
                    const struct wire_batch *head)
{
    struct block *b = find(l, k);

    if (!b || !b->key_len)
        return ERR_MISS;
    if (l->f->view && !(head->flags & BATCH_DEMOTE)) {
        b->key_len = 0; /* is found no more */
        l->f->evicted++;
        l->f->stored--;
    }
    return OK;
}

static void do_key(struct lane *l, struct fake_conn *c, const struct message *m,
                   const struct key_ref *k, struct wire_result *r,
                   struct wire_batch *head)
{
    l->f->segs += k->rec.seg_n;
    if (head->select == SELECT_PATTERN)
        snprintf(l->seen.pattern, sizeof(l->seen.pattern), "%.*s",
                 (int)k->rec.key_len, (const char *)k->key);
    if (m->frame.op == OP_PUT || m->frame.op == OP_PUT_BEGIN) {
        r->status = fake_view_put(l, head, k, r);
        if (r->status)
            return;
    }
    if (m->frame.op == OP_PUT)
        do_put(l, c, m->frame.req, k, r);
    else if (m->frame.op == OP_PUT_BEGIN)
        do_begin(l, k, r);
    else if (m->frame.op == OP_PUT_WRITE)
        do_write(l, c, m->frame.req, k, r);
    else if (m->frame.op == OP_PUT_COMMIT)
        do_commit(l, k, r);
    else if (m->frame.op == OP_PUT_ABORT)
        fake_open_abort(&l->f->opens, l->idx, k, r);
    else if (m->frame.op == OP_GET)
        do_get(l, c, m->frame.req, k, r);
    else if (m->frame.op == OP_LOOKUP)
        do_lookup(l, k, r);
    else if (m->frame.op == OP_PREFETCH)
        do_prefetch(l, k, r, head);
    else if (m->frame.op == OP_EVICT)
        r->status = do_evict(l, k, head);
    else if (m->frame.op == OP_PIN || m->frame.op == OP_TOUCH)
        r->status = !l->f->view || find(l, k) ? OK : ERR_MISS;
    if (m->frame.op != OP_EVICT &&
        (r->status == ERR_MISS ||
         (m->frame.op == OP_LOOKUP && r->state == STATE_MISS))) {
        int e = fake_view_miss(l, head, k, r);

        r->status = e ? e : r->status;
    }
}

static void look_head(struct lane *l, uint16_t op, const struct wire_batch *h)
{
    if (op == OP_PREFETCH) {
        l->seen.cap_mib = h->count;
        l->seen.soft_us = h->soft_us;
        l->seen.prefetches++;
    } else if (op == OP_PUT_BEGIN) {
        l->seen.open_ms = h->pin_ttl_ms;
    } else if (op == OP_EVICT) {
        l->seen.batch_flags = h->flags;
        l->seen.select = h->select;
    }
}

static void tell(struct fake_conn *c, enum fake_tells how,
                 const struct message *m, const struct wire_batch *head,
                 uint32_t n)
{
    const struct wire_result *r =
        (const struct wire_result *)(const void *)(head + 1);
    uint8_t *msg = malloc((n + 3) * (size_t)WIRE_RECORD);
    uint32_t len;

    for (uint32_t i = 0; (len = parts_event_make(how, i, &m->frame, r, n, msg));
         i++)
        put_ring(c, msg, len);
    free(msg);
}

/* The events before a reply. false: there is no reply to come. */
static bool do_tell(struct lane *l, struct fake_conn *c,
                    const struct message *m, const struct wire_batch *head,
                    uint32_t n)
{
    enum fake_tells how = l->f->tells;

    if (how == TELLS_LATE)
        return true;
    tell(c, how, m, head, n);
    if (how == TELLS_DIES)
        conn_end(l->f, c);
    if (how == TELLS_REFUSES)
        fake_reply(c, &m->frame, ERR_BUSY, NULL, 0, 0);
    return how != TELLS_DIES && how != TELLS_HOLDS && how != TELLS_REFUSES;
}

static void do_batch(struct lane *l, struct fake_conn *c,
                     const struct message *m)
{
    enum fake_mode mode = l->mode;
    struct wire_batch *head;
    struct wire_result *r;
    struct key_ref k;
    struct batch b;
    uint32_t n;

    if (batch_read(m, &limits, &b)) {
        fake_reply(c, &m->frame, ERR_BAD_REQUEST, NULL, 0, 0);
        return;
    }
    n = 1 + b.left;
    head = calloc(n, WIRE_RECORD);
    r = (struct wire_result *)(void *)(head + 1);
    *head = b.head;
    l->seen.epoch = b.head.epoch;
    if (l->f->view && b.head.ns != l->f->ns_id) {
        fake_reply(c, &m->frame, ERR_NO_NAMESPACE, NULL, 0, 0);
        free(head);
        return;
    }
    if (m->frame.op == OP_EVICT)
        head->count = 1 + b.head.select;
    look_head(l, m->frame.op, &b.head);
    if (m->frame.op == OP_PREFETCH)
        head->count = 0;
    while (batch_next(&b, &limits, &k) == OK)
        do_key(l, c, m, &k, r++, head);
    if (l->f->view)
        head->epoch = l->f->view->epoch;
    if (mode == FAKE_BOASTS)
        head->count = b.head.key_n + 1;
    if (mode == FAKE_CUTS)
        n--;
    if (m->frame.op != OP_GET || do_tell(l, c, m, head, n - 1))
        fake_reply(c, &m->frame, 0, head, n, 0);
    if (m->frame.op == OP_GET && l->f->tells == TELLS_LATE)
        tell(c, TELLS_LATE, m, head, n - 1);
    if (mode == FAKE_DOUBLES) {
        struct wire_frame other = m->frame;

        fake_reply(c, &m->frame, 0, head, n, 0);
        other.req += RING_CANCELS * 1000;
        fake_reply(c, &other, 0, head, n, 0);
    }
    free(head);
}

/* ---- the lane ---- */

static void hold(struct lane *l, struct fake_conn *c, const void *msg,
                 uint32_t len)
{
    struct held *h = &l->held[l->held_n++];

    MUST(l->held_n < HELD);
    h->conn = (uint32_t)(c - l->conns);
    h->len = len;
    h->msg = malloc(len);
    memcpy(h->msg, msg, len);
    if (l->held_n > l->f->in_flight_max)
        l->f->in_flight_max = l->held_n;
}

/* What the mode does to a data request; true: that was all. */
static bool misbehave(struct lane *l, struct fake_conn *c,
                      const struct message *m, const void *msg, uint32_t len)
{
    uint8_t junk[300];

    switch (l->mode) {
    case FAKE_HOLDS:
        hold(l, c, msg, len);
        return true;
    case FAKE_GARBLES:
        memset(junk, 0xa5, sizeof(junk));
        put_ring(c, junk, sizeof(junk));
        return true;
    case FAKE_DIES:
        conn_end(l->f, c);
        return true;
    case FAKE_REFUSES:
        fake_reply(c, &m->frame, ERR_BUSY, NULL, 0, 0);
        return true;
    case FAKE_SERVES:
    case FAKE_DOUBLES:
    case FAKE_CUTS:
    case FAKE_FLIPS:
    case FAKE_LIES:
    case FAKE_LENDS:
    case FAKE_BOASTS:
    case FAKE_DEAF:
        break;
    }
    return false;
}

/* Takes fd over. */
static void handle(struct lane *l, struct fake_conn *c, const uint8_t *msg,
                   uint32_t len, int fd)
{
    const uint8_t *body = msg + sizeof(struct wire_frame);
    struct message m;

    if (frame_read(msg, body, len - sizeof(struct wire_frame), &limits, &m)) {
        conn_end(l->f, c);
        m.frame.op = 0;
    }
    if (fd >= 0 && m.frame.op != OP_MEM_REGISTER)
        close(fd);
    if (c->sock < 0)
        return;
    if (l->mode == FAKE_DEAF) {
        if (fd >= 0 && m.frame.op == OP_MEM_REGISTER)
            close(fd);
        return;
    }
    l->f->pings += m.frame.op == OP_PING;
    l->f->spins |= (m.frame.flags & FRAME_SPINS) != 0;
    if (m.frame.op == OP_HELLO) {
        fake_do_hello(l, c, &m.frame);
    } else if (m.frame.op == OP_OPEN) {
        fake_do_open(l, c, &m);
    } else if (m.frame.op == OP_MEM_REGISTER && fd >= 0) {
        fake_do_register(c, &m, fd);
    } else if (m.frame.op == OP_LOAN_ATTACH) {
        fake_do_attach(l, c, &m);
    } else if (m.frame.op == OP_VIEW && l->f->view) {
        fake_do_view(l, c, &m);
    } else if (m.frame.op == OP_NAMESPACE) {
        fake_do_namespace(l, c, &m);
    } else if (m.frame.op == OP_FEEDBACK) {
        fake_do_feedback(l, c, &m);
    } else if (m.frame.op == OP_EXPLAIN) {
        if (!misbehave(l, c, &m, msg, len))
            fake_do_explain(l, c, &m);
    } else if (m.frame.op == OP_SUBSCRIBE) {
        if (!misbehave(l, c, &m, msg, len))
            feed_ask(&l->feed, (uint32_t)(c - l->conns), &m);
    } else if (m.frame.record_n) {
        l->requests++;
        if (!misbehave(l, c, &m, msg, len))
            do_batch(l, c, &m);
    } else {
        fake_reply(c, &m.frame, 0, NULL, 0, 0);
    }
}

static void run_held(struct lane *l)
{
    uint32_t n = l->held_n;

    if (l->mode == FAKE_HOLDS)
        return;
    l->held_n = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct fake_conn *c = &l->conns[l->held[i].conn];

        if (c->sock >= 0)
            handle(l, c, l->held[i].msg, l->held[i].len, -1);
        free(l->held[i].msg);
    }
}

static void welcome_up(struct lane *l)
{
    int sock = accept4(l->listen, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    int mem = memfd_create("ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(3 * sizeof(int))];
    } control = {0};
    struct shm_welcome w = {SHM_WELCOME_MAGIC, WIRE_VERSION, RING_BYTES, 0,
                            ring_map_bytes(RING_BYTES)};
    struct iovec iov = {&w, sizeof(w)};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control)};
    struct fake_conn *c = l->conns;
    int fds[3], ends[2];

    while (c->sock >= 0)
        MUST(++c < l->conns + CONNS);
    (void)!ftruncate(mem, (off_t)w.map_bytes);
    fcntl(mem, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    c->sh = mmap(NULL, w.map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0);
    ring_shared_init(c->sh, RING_BYTES);
    MUST(ring_attach(c->sh, w.map_bytes, &c->req, &c->rep) == OK);
    fds[0] = mem;
    fds[1] = c->req_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->f->pipe) {
        MUST(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
        close(ends[0]);
        fds[1] = ends[1];
    }
    fds[2] = c->rep_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    c->sock = sock;
    control.h.cmsg_level = SOL_SOCKET;
    control.h.cmsg_type = SCM_RIGHTS;
    control.h.cmsg_len = CMSG_LEN(sizeof(fds));
    memcpy(CMSG_DATA(&control.h), fds, sizeof(fds));
    (void)sendmsg(sock, &m, MSG_NOSIGNAL);
    if (l->f->pipe)
        close(ends[1]);
    close(mem);
}

static void welcome(struct lane *l)
{
    if (l->f->down) {
        close(accept4(l->listen, NULL, NULL, SOCK_CLOEXEC));
        return;
    }
    welcome_up(l);
}

/* One packet with an fd; false: none, or the connection ended. */
static bool packet(struct lane *l, struct fake_conn *c)
{
    union {
        struct cmsghdr h;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    uint8_t buf[4096];
    struct iovec iov = {buf, sizeof(buf)};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof(control)};
    ssize_t len = recvmsg(c->sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *h = len > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    int fd = -1;

    if (len == 0)
        conn_end(l->f, c);
    if (len <= 0)
        return false;
    if (h)
        memcpy(&fd, CMSG_DATA(h), sizeof(fd));
    handle(l, c, buf, (uint32_t)len, fd);
    return c->sock >= 0;
}

static void serve(struct lane *l, struct fake_conn *c)
{
    static __thread uint8_t buf[RING_BYTES];
    uint64_t n;
    uint32_t len;

    (void)!read(c->req_fd, &n, sizeof(n));
    while (packet(l, c))
        ;
    while (c->sock >= 0 && ring_pop(&c->req, buf, sizeof(buf), &len) == OK)
        handle(l, c, buf, len, -1);
}

static void drop_blocks(struct fake *f)
{
    while (f->blocks) {
        struct block *b = f->blocks;

        f->blocks = b->next;
        free(b->bytes);
        free(b);
    }
    fake_open_drop_all(&f->opens);
    f->stored = 0;
}

static void end_loans(const struct lane *l, struct fake_conn *c)
{
    if (c->sock >= 0 && l->f->loans_end)
        __atomic_store_n(&c->sh->loan_epoch, c->loans, __ATOMIC_RELEASE);
}

static void lane_turn(struct lane *l)
{
    struct feed_poll p;
    uint32_t len;

    if (l->restarts != l->f->restarts) {
        l->restarts = l->f->restarts;
        if (!l->f->down)
            l->feed.n = l->feed.poll_n = 0;
        for (uint32_t i = 0; i < CONNS; i++)
            conn_end(l->f, &l->conns[i]);
    }
    for (uint32_t i = 0; i < CONNS; i++) {
        struct fake_conn *c = &l->conns[i];

        end_loans(l, c); /* before an answer says that the lane has seen it */
        if (c->sock >= 0)
            serve(l, c);
        end_loans(l, c);
    }
    run_held(l);
    while ((len = feed_answer(&l->feed, l->f->boot, &p)))
        if (l->conns[p.conn].sock >= 0)
            fake_reply(&l->conns[p.conn], &p.frame, l->feed.status, l->feed.env,
                       0, len);
}

static void *lane_main(void *arg)
{
    struct lane *l = arg;
    struct pollfd fds[2 * CONNS + 1];

    pthread_mutex_lock(&l->f->mu);
    while (!l->f->stop) {
        nfds_t n = 1;

        lane_turn(l);
        fds[0] = (struct pollfd){l->listen, POLLIN, 0};
        for (uint32_t i = 0; i < CONNS; i++) {
            struct fake_conn *c = &l->conns[i];

            if (c->sock < 0)
                continue;
            (void)ring_sleep(&c->req);
            fds[n++] = (struct pollfd){c->sock, POLLIN, 0};
            fds[n++] = (struct pollfd){c->req_fd, POLLIN, 0};
        }
        pthread_mutex_unlock(&l->f->mu);
        (void)poll(fds, n, 1);
        /* The test's thread first: a busy lane would shut it out for ever
         * where there is one core. */
        while (__atomic_load_n(&l->f->wanted, __ATOMIC_ACQUIRE))
            usleep(100);
        pthread_mutex_lock(&l->f->mu);
        if (fds[0].revents)
            welcome(l);
    }
    for (uint32_t i = 0; i < CONNS; i++)
        conn_end(l->f, &l->conns[i]);
    pthread_mutex_unlock(&l->f->mu);
    return NULL;
}

/* ---- the test's side ---- */

static void lane_start(struct fake *f, uint32_t i)
{
    struct lane *l = &f->lanes[i];
    struct sockaddr_un at = {.sun_family = AF_UNIX};

    l->f = f;
    l->idx = i;
    l->loan_fd = -1;
    for (uint32_t k = 0; k < CONNS; k++)
        l->conns[k].sock = -1;
    snprintf(l->path, sizeof(l->path), "%s/%u.sock", f->dir, i);
    strcpy(at.sun_path, l->path);
    l->listen =
        socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    MUST(bind(l->listen, (const struct sockaddr *)&at, sizeof(at)) == 0);
    MUST(listen(l->listen, 64) == 0);
}

struct fake *fake_start(uint32_t lanes)
{
    struct fake *f = calloc(1, sizeof(*f));

    pthread_mutex_init(&f->mu, NULL);
    f->lane_n = lanes;
    f->boot = 1000;
    f->ns_id = 7;
    f->generation = 1;
    f->credit_ops = 64;
    f->credit_bytes = MIB(256);
    f->durable = ERR_UNSUPPORTED;
    strcpy(f->dir, "/tmp/fake_pikvd.XXXXXX");
    MUST(mkdtemp(f->dir) != NULL);
    for (uint32_t i = 0; i < lanes; i++)
        lane_start(f, i);
    snprintf(f->address, sizeof(f->address), "shm:%s", f->lanes[0].path);
    for (uint32_t i = 0; i < lanes; i++)
        MUST(!pthread_create(&f->lanes[i].thread, NULL, lane_main,
                             &f->lanes[i]));
    return f;
}

void fake_stop(struct fake *f)
{
    pthread_mutex_lock(&f->mu);
    f->stop = true;
    pthread_mutex_unlock(&f->mu);
    for (uint32_t i = 0; i < f->lane_n; i++) {
        struct lane *l = &f->lanes[i];

        pthread_join(l->thread, NULL);
        close(l->listen);
        unlink(l->path);
        for (uint32_t k = 0; k < l->held_n; k++)
            free(l->held[k].msg);
        if (l->loan) {
            munmap(l->loan, LOAN_BYTES);
            close(l->loan_fd);
        }
    }
    rmdir(f->dir);
    free(f->view);
    drop_blocks(f);
    free(f);
}

const char *fake_address(const struct fake *f)
{
    return f->address;
}

#define LOCKED(stmt)                                                           \
    do {                                                                       \
        __atomic_fetch_add(&f->wanted, 1, __ATOMIC_RELEASE);                   \
        pthread_mutex_lock(&f->mu);                                            \
        __atomic_fetch_sub(&f->wanted, 1, __ATOMIC_RELEASE);                   \
        stmt;                                                                  \
        pthread_mutex_unlock(&f->mu);                                          \
    } while (0)

void fake_set_mode(struct fake *f, enum fake_mode mode)
{
    for (uint32_t i = 0; i < f->lane_n; i++)
        fake_set_lane_mode(f, i, mode);
}

void fake_set_lane_mode(struct fake *f, uint32_t lane, enum fake_mode mode)
{
    LOCKED(f->lanes[lane].mode = mode);
}

void fake_set_tells(struct fake *f, enum fake_tells how)
{
    LOCKED(f->tells = how);
}

void fake_set_durable(struct fake *f, int status)
{
    LOCKED(f->durable = status);
}

void fake_set_refuses_open(struct fake *f, int status)
{
    LOCKED(f->refuses_open = status);
}

void fake_set_pipe(struct fake *f)
{
    LOCKED(f->pipe = true);
}

void fake_set_credits(struct fake *f, uint32_t ops, uint64_t bytes)
{
    LOCKED(f->credit_ops = ops; f->credit_bytes = bytes);
}

void fake_restart(struct fake *f)
{
    LOCKED(f->restarts++; f->boot++; drop_blocks(f));
}

void fake_set_down(struct fake *f, bool down)
{
    LOCKED(f->down = down; f->restarts += down);
}

struct fake_feed *fake_feed(struct fake *f, uint32_t lane, pthread_mutex_t **mu)
{
    *mu = &f->mu;
    return &f->lanes[lane].feed;
}

void fake_loans_end(struct fake *f)
{
    LOCKED(f->loans_end++);
}

/* Reads under the lock; the pointer's target is not changed. */
static uint32_t look(const struct fake *f, const uint32_t *field)
{
    pthread_mutex_t *mu = (pthread_mutex_t *)(uintptr_t)&f->mu;
    uint32_t v;

    pthread_mutex_lock(mu);
    v = *field;
    pthread_mutex_unlock(mu);
    return v;
}

uint32_t fake_requests(const struct fake *f, uint32_t lane)
{
    return look(f, &f->lanes[lane].requests);
}

void fake_seen(const struct fake *f, uint32_t lane, struct fake_seen *out)
{
    pthread_mutex_t *mu = (pthread_mutex_t *)(uintptr_t)&f->mu;

    pthread_mutex_lock(mu);
    *out = f->lanes[lane].seen;
    pthread_mutex_unlock(mu);
}

uint32_t fake_held(const struct fake *f)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < f->lane_n; i++)
        n += look(f, &f->lanes[i].held_n);
    return n;
}

uint32_t fake_hellos(const struct fake *f)
{
    return look(f, &f->hellos);
}

uint32_t fake_ns_opens(const struct fake *f)
{
    return look(f, &f->ns_opens);
}

uint32_t fake_redirects(const struct fake *f)
{
    return look(f, &f->redirects);
}

uint32_t fake_pings(const struct fake *f)
{
    return look(f, &f->pings);
}

uint32_t fake_evicted(const struct fake *f)
{
    return look(f, &f->evicted);
}

uint32_t fake_bumps(const struct fake *f)
{
    return look(f, &f->bumps);
}

uint32_t fake_views(const struct fake *f)
{
    return look(f, &f->views);
}

uint32_t fake_given_up(const struct fake *f)
{
    return look(f, &f->given_up);
}

uint32_t fake_segs(const struct fake *f)
{
    return look(f, &f->segs);
}

uint32_t fake_stored(const struct fake *f)
{
    return look(f, &f->stored);
}

uint32_t fake_in_flight_max(const struct fake *f)
{
    return look(f, &f->in_flight_max);
}

bool fake_spins_seen(const struct fake *f)
{
    return look(f, &f->spins) != 0;
}
