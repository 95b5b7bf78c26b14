/* SPDX-License-Identifier: Apache-2.0
 *
 * Links of several daemons on one loop (peer_fix.h). A timer of a millisecond
 * keeps the loop turning, so that raw sockets are looked at. */
#include "lib/peer_fix.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "lib/certs.h"

enum { HANG_TURNS = 5000, PIPES = 8 };

uv_loop_t pfix_loop;
char pfix_dir[128];
char pfix_log[65536];

static struct pnode nodes[PFIX_NODES];
static uint32_t node_n;
static struct ppipe *pipes[PIPES];
static enum peer_security security;
static uv_timer_t turner;
static bool turner_closed;

/* ---- The fixture ---- */

static void on_turn(uv_timer_t *t)
{
    (void)t;
}

static void on_line(enum log_level level, const char *line, void *arg)
{
    size_t used = strlen(pfix_log);

    (void)level;
    (void)arg;
    snprintf(pfix_log + used, sizeof(pfix_log) - used, "%s\n", line);
}

const char *pfix_path(const char *name)
{
    static char paths[8][256];
    static uint32_t next;
    char *p = paths[next++ % 8];

    snprintf(p, 256, "%s/%s", pfix_dir, name);
    return p;
}

void pfix_write(const char *name, const char *text, unsigned mode)
{
    const char *path = pfix_path(name);
    FILE *f = fopen(path, "w");

    ck_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
    ck_assert_int_eq(chmod(path, mode), 0);
}

void pfix_open(enum peer_security how)
{
    const char *tmp = getenv("TMPDIR");

    signal(SIGPIPE, SIG_IGN);
    snprintf(pfix_dir, sizeof(pfix_dir), "%s/peer-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert(mkdtemp(pfix_dir));
    security = how;
    node_n = 0;
    pfix_log[0] = 0;
    memset(pipes, 0, sizeof(pipes));
    log_sink_set(on_line, NULL);
    ck_assert_int_eq(uv_loop_init(&pfix_loop), 0);
    uv_timer_init(&pfix_loop, &turner);
    uv_timer_start(&turner, on_turn, 1, 1);
    turner_closed = false;
    if (how == PEER_SECURITY_TLS)
        certs_ca(pfix_dir, "ca");
    pfix_write("psk",
               "00112233445566778899aabbccddeeff"
               "00112233445566778899aabbccddee01\n",
               0600);
}

static void on_turner_closed(uv_handle_t *h)
{
    (void)h;
    turner_closed = true;
}

void pfix_close(void)
{
    char cmd[160];

    for (uint32_t i = 0; i < node_n; i++)
        if (nodes[i].links)
            pnode_close(&nodes[i]);
    for (uint32_t i = 0; i < node_n; i++)
        PFIX_UNTIL(nodes[i].closed || !nodes[i].links);
    uv_close((uv_handle_t *)&turner, on_turner_closed);
    while (uv_run(&pfix_loop, UV_RUN_DEFAULT))
        ;
    ck_assert(turner_closed);
    ck_assert_int_eq(uv_loop_close(&pfix_loop), 0);
    log_sink_set(NULL, NULL);
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", pfix_dir);
    ck_assert_int_eq(system(cmd), 0);
}

static void ppipe_turn(struct ppipe *p);

/* What hangs says most by how it ended before. */
static void pfix_abort(void)
{
    for (uint32_t i = 0; i < node_n; i++)
        fprintf(stderr, "%s: live %u ups %u downs %u fails %u: %s\n",
                nodes[i].name, nodes[i].live, nodes[i].ups, nodes[i].downs,
                nodes[i].fails, nodes[i].words);
    ck_abort_msg("it hangs; logged:\n%s", pfix_log);
}

bool pfix_turn(void)
{
    static uint32_t turns;

    uv_run(&pfix_loop, UV_RUN_ONCE);
    for (uint32_t i = 0; i < PIPES; i++)
        if (pipes[i])
            ppipe_turn(pipes[i]);
    if (++turns == HANG_TURNS)
        pfix_abort();
    return true;
}

void pfix_wait(uint32_t ms)
{
    uint64_t until = uv_now(&pfix_loop) + ms;

    PFIX_UNTIL(uv_now(&pfix_loop) >= until);
}

uint32_t pfix_log_n(const char *text)
{
    uint32_t n = 0;

    for (const char *p = pfix_log; (p = strstr(p, text)); p++)
        n++;
    return n;
}

/* ---- Nodes ---- */

static void on_hello(void *arg, uint8_t **p_out, size_t *n_out)
{
    struct pnode *n = arg;
    Peer__Hello h = PEER__HELLO__INIT;
    struct bytes b = {0};

    h.name = n->name;
    h.version = 1;
    if (peer_msg_pack(PEER_HELLO, &h, &b) != OK)
        return; /* a fault of the test */
    *p_out = b.p;
    *n_out = b.len;
}

static enum err on_check(void *arg, const uint8_t *p, size_t len,
                         char name_out[64], struct errmsg *m)
{
    struct pnode *n = arg;
    Peer__Hello *h = peer_msg_unpack(PEER_HELLO, p, len);

    n->checks++;
    if (!h)
        return errmsg_set(m, ERR_BAD_REQUEST, "a malformed hello");
    snprintf(name_out, 64, "%s", h->name);
    peer_msg_free(h);
    if (n->refuse)
        return errmsg_set(m, n->refuse, "another cluster");
    return OK;
}

static void on_up(void *arg, uint64_t link, const char *name,
                  const char *dialed, const uint8_t *hello, size_t len)
{
    struct pnode *n = arg;
    Peer__Hello *h = peer_msg_unpack(PEER_HELLO, hello, len);

    if (h) /* NULL: a fault of the test */
        ck_assert_str_eq(h->name, name);
    peer_msg_free(h);
    n->ups++;
    n->live++;
    n->link = link;
    n->dialed = dialed != NULL;
    snprintf(n->peer, sizeof(n->peer), "%s", name);
    if (n->on_up)
        n->on_up(n, link);
}

static void on_message(void *arg, uint64_t link, uint16_t kind,
                       const uint8_t *p, size_t len)
{
    struct pnode *n = arg;

    n->messages++;
    n->bytes += len;
    n->kind = kind;
    n->first = len ? p[0] : 0;
    if (n->on_message)
        n->on_message(n, link);
}

static void on_down(void *arg, uint64_t link, const char *dialed, enum err e,
                    const char *why)
{
    struct pnode *n = arg;

    ck_assert(link || dialed);
    n->why = e;
    snprintf(n->words, sizeof(n->words), "%s", why);
    if (link) {
        n->downs++;
        n->live--;
        if (link == n->link)
            n->link = 0;
    } else {
        n->fails++;
    }
    if (n->on_down)
        n->on_down(n, link);
}

struct pnode *pnode_new(const char *name)
{
    static char paths[PFIX_NODES][3][256];
    struct pnode *n = &nodes[node_n];
    char(*path)[256] = paths[node_n++];

    ck_assert(node_n <= PFIX_NODES);
    memset(n, 0, sizeof(*n));
    snprintf(n->name, sizeof(n->name), "%s", name);
    if (security == PEER_SECURITY_TLS)
        certs_node(pfix_dir, "ca", name, name, 0, 365);
    snprintf(path[0], 256, "%s/ca.crt", pfix_dir);
    snprintf(path[1], 256, "%s/%s.crt", pfix_dir, name);
    snprintf(path[2], 256, "%s/%s.key", pfix_dir, name);
    n->cfg = (struct peer_links_cfg){
        .loop = &pfix_loop,
        .self = n->name,
        .host = "127.0.0.1",
        .security = security,
        .ca = path[0],
        .cert = path[1],
        .key = path[2],
        .handshake_ms = 20000, /* where a test is about time it says less */
        .dial_ms = 20000,
        .idle_ms = 30000,
        .hello = on_hello,
        .check = on_check,
        .up = on_up,
        .message = on_message,
        .down = on_down,
        .arg = n,
    };
    return n;
}

enum err pnode_start(struct pnode *n)
{
    enum err e;

    if (!n->cfg.psk_file)
        n->cfg.psk_file = pfix_path("psk");
    e = peer_links_open(&n->cfg, &n->links, &n->m);
    if (!e)
        snprintf(n->address, sizeof(n->address), "127.0.0.1:%u",
                 peer_links_port(n->links));
    return e;
}

struct pnode *pnode_open(const char *name)
{
    struct pnode *n = pnode_new(name);
    enum err e = pnode_start(n);

    ck_assert_msg(e == OK, "%s: %s", name, n->m.text);
    return n;
}

static void on_closed(void *arg)
{
    struct pnode *n = arg;

    n->closed = true;
    n->links = NULL;
}

void pnode_close(struct pnode *n)
{
    peer_links_close(n->links, on_closed, n);
    n->live = 0;
    n->link = 0;
}

void pnode_dial(struct pnode *n, const struct pnode *to)
{
    peer_links_dial(n->links, to->address);
}

struct peer_links_stats pnode_stats(const struct pnode *n)
{
    struct peer_links_stats s;

    peer_links_stats(n->links, &s);
    return s;
}

size_t pfix_hello(const char *name, uint8_t *to, size_t cap)
{
    struct pnode n;
    uint8_t *p;
    size_t len;
    uint32_t all;
    uint16_t kind = PEER_HELLO, flags = 0;

    snprintf(n.name, sizeof(n.name), "%s", name);
    on_hello(&n, &p, &len);
    ck_assert(len + 8 <= cap);
    all = (uint32_t)len + 4;
    memcpy(to, &all, 4);
    memcpy(to + 4, &kind, 2);
    memcpy(to + 6, &flags, 2);
    memcpy(to + 8, p, len);
    free(p);
    return len + 8;
}

/* ---- Raw sockets ---- */

static struct sockaddr_in loopback(const char *host, uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};

    inet_pton(AF_INET, host ? host : "127.0.0.1", &a.sin_addr);
    return a;
}

static int tcp(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    ck_assert_int_ge(fd, 0);
    return fd;
}

int raw_connect(const struct pnode *to, const char *from)
{
    struct sockaddr_in a = loopback(NULL, peer_links_port(to->links)),
                       me = loopback(from, 0);
    int fd = tcp();

    ck_assert_int_eq(bind(fd, (struct sockaddr *)&me, sizeof(me)), 0);
    ck_assert(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 ||
              errno == EINPROGRESS);
    return fd;
}

void raw_send(int fd, const void *p, size_t n)
{
    const uint8_t *at = p;

    while (n) {
        ssize_t k = send(fd, at, n, MSG_NOSIGNAL);

        if (k > 0) {
            at += k;
            n -= (size_t)k;
        } else if (errno == EAGAIN || errno == EINPROGRESS ||
                   errno == ENOTCONN) {
            pfix_turn();
        } else {
            return; /* it hung up: the caller sees that by reading */
        }
    }
}

size_t raw_until_closed(int fd, uint8_t *to, size_t cap)
{
    size_t n = 0;

    for (;;) {
        uint8_t spill[4096];
        ssize_t k = n < cap ? recv(fd, to + n, cap - n, 0)
                            : recv(fd, spill, sizeof(spill), 0);

        if (k == 0 || (k < 0 && errno != EAGAIN))
            break;
        if (k > 0)
            n += n < cap ? (size_t)k : 0;
        pfix_turn();
    }
    close(fd);
    return n;
}

/* ---- Pipes ---- */

void ppipe_open(struct ppipe *p, const struct pnode *to)
{
    struct sockaddr_in a = loopback(NULL, 0);
    socklen_t n = sizeof(a);

    *p = (struct ppipe){
        .listener = tcp(), .in = -1, .out = -1, .to = to, .pass = SIZE_MAX};
    ck_assert_int_eq(bind(p->listener, (struct sockaddr *)&a, sizeof(a)), 0);
    ck_assert_int_eq(listen(p->listener, 8), 0);
    ck_assert_int_eq(getsockname(p->listener, (struct sockaddr *)&a, &n), 0);
    snprintf(p->address, sizeof(p->address), "127.0.0.1:%u", ntohs(a.sin_port));
    for (uint32_t i = 0; i < PIPES; i++) {
        if (!pipes[i]) {
            pipes[i] = p;
            return;
        }
    }
    ck_abort_msg("too many pipes");
}

void ppipe_cut(struct ppipe *p)
{
    if (p->in >= 0)
        close(p->in);
    if (p->out >= 0)
        close(p->out);
    p->in = p->out = -1;
}

void ppipe_close(struct ppipe *p)
{
    ppipe_cut(p);
    close(p->listener);
    free(p->seen);
    for (uint32_t i = 0; i < PIPES; i++)
        if (pipes[i] == p)
            pipes[i] = NULL;
}

static void ppipe_keep(struct ppipe *p, const uint8_t *b, size_t n)
{
    if (p->seen_n + n > p->seen_cap) {
        p->seen_cap = 2 * (p->seen_n + n);
        p->seen = realloc(p->seen, p->seen_cap);
        ck_assert(p->seen);
    }
    memcpy(p->seen + p->seen_n, b, n);
    p->seen_n += n;
}

/* false: the side that was read has ended. */
static bool ppipe_move(struct ppipe *p, int from, int to, bool there)
{
    uint8_t b[65536];
    ssize_t k = recv(from, b, sizeof(b), 0);
    size_t n = k > 0 ? (size_t)k : 0;
    bool cut = there && n >= p->pass;

    if (k == 0 || (k < 0 && errno != EAGAIN && errno != ENOTCONN))
        return false;
    if (there) {
        ppipe_keep(p, b, n);
        n = cut ? p->pass : n;
        p->pass -= p->pass == SIZE_MAX ? 0 : n;
    }
    for (size_t at = 0; at < n;) {
        ssize_t w = send(to, b + at, n - at, MSG_NOSIGNAL);

        if (w < 0 && errno != EAGAIN)
            return false;
        if (w > 0)
            at += (size_t)w;
        else
            uv_run(&pfix_loop, UV_RUN_NOWAIT);
    }
    return !cut;
}

static void ppipe_turn(struct ppipe *p)
{
    struct sockaddr_in a;

    if (p->held)
        return;
    if (p->in < 0) {
        p->in = accept4(p->listener, NULL, NULL, SOCK_NONBLOCK);
        if (p->in < 0)
            return;
        a = loopback(NULL, peer_links_port(p->to->links));
        p->out = tcp();
        ck_assert(connect(p->out, (struct sockaddr *)&a, sizeof(a)) == 0 ||
                  errno == EINPROGRESS);
    }
    if (!ppipe_move(p, p->in, p->out, true) ||
        !ppipe_move(p, p->out, p->in, false))
        ppipe_cut(p);
}
