/* SPDX-License-Identifier: Apache-2.0
 *
 * kill -9 of either side in the middle of a rendezvous batch, many times.
 *
 *     rndv_kill [runs [seed]]        default 100 runs of each case
 *
 * A run is two processes: a server (transport_ucx) and a client, moving blocks
 * of 1 MiB by rendezvous, 32 at any time: where one ends, the next begins. One
 * of them, the survivor, kills the other when k blocks are done (k is drawn).
 * Then it must find that
 *
 *   1. everything it began completes, once, and the connection is closed;
 *   2. nothing is written into its buffers after that (they are filled with
 *      a pattern and looked at again after more traffic), nor ever into the
 *      pages around them;
 *   3. it does not abort; a server serves the next client.
 *
 * Cases: PUT and GET x client or server killed, PUT also into extents of three
 * runs. Prints one line per case; exit status 1 if any run failed. */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "rpc/transport_ucx.h"
#include "tests/lib/ucx_client.h"

enum {
    BLOCKS = 32,
    BLOCK = 1 << 20,
    PAGE = 4096,
    PATTERN = 0x5a,
    CANARY = 0xc5,
    LATE_MS = 30, /* how long to look for late writes */
    STUCK_S = 20,
};

struct report { /* shared with the parent */
    uint32_t done_before, done_ok, done_err, fault;
    uint64_t told_us;
};

struct run {
    bool get, kill_server, crc;
    uint32_t spans, k, steps;
    struct report *r;
};

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Ends the survivor with a word: the parent counts it as failed. */
_Noreturn static void failed(const char *what)
{
    fprintf(stderr, "FAILED: %s\n", what);
    _exit(2);
}

/* ---- Buffers between canary pages ---------------------------------------- */

static uint8_t *block[BLOCKS];

static void blocks_init(uint8_t fill)
{
    for (int i = 0; i < BLOCKS; i++) {
        uint8_t *p = mmap(NULL, BLOCK + 2 * PAGE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        MUST(p != MAP_FAILED);
        memset(p, CANARY, BLOCK + 2 * PAGE);
        block[i] = p + PAGE;
        memset(block[i], fill, BLOCK);
    }
}

static bool all_are(const uint8_t *p, size_t n, uint8_t v)
{
    return p[0] == v && memcmp(p, p + 1, n - 1) == 0;
}

static void canaries_check(void)
{
    for (int i = 0; i < BLOCKS; i++) {
        if (!all_are(block[i] - PAGE, PAGE, CANARY) ||
            !all_are(block[i] + BLOCK, PAGE, CANARY))
            failed("written outside a buffer");
    }
}

static void blocks_fill(void)
{
    for (int i = 0; i < BLOCKS; i++)
        memset(block[i], PATTERN, BLOCK);
}

static void blocks_check(void)
{
    for (int i = 0; i < BLOCKS; i++) {
        if (!all_are(block[i], BLOCK, PATTERN))
            failed("written after completion");
    }
    canaries_check();
}

/* ---- The server ---------------------------------------------------------- */

static struct server {
    struct transport *t;
    struct tp_peer *peer;
    struct tp_xfer x[BLOCKS];
    struct span spans[BLOCKS][3];
    bool active[BLOCKS];
    uint32_t active_n, done_n, ok_n, closed, opened;
    bool begun, ending; /* ending: the victim is dead */
    pid_t victim;       /* killed when run->k blocks are done; 0: nobody */
    const struct run *run;
} server;

static enum err on_opened(void *lane, struct tp_peer *p)
{
    (void)lane;
    server.peer = p;
    server.opened++;
    return OK;
}

/* At once, or after a gift of the CPU or two. */
static void victim_kill(void)
{
    for (uint32_t i = 0; i < server.run->steps; i++)
        sched_yield();
    server.run->r->done_before = server.done_n;
    kill(server.victim, SIGKILL);
    server.victim = 0;
    server.ending = true;
}

static void block_begin(struct tp_xfer *x)
{
    server.active[x->idx] = true;
    server.active_n++;
    if (x->is_push)
        server.t->ops->push(x->peer, x);
    else
        server.t->ops->pull(x->peer, x);
}

static void on_done(struct tp_xfer *x, enum err e)
{
    if (!server.active[x->idx])
        failed("completed twice");
    server.active[x->idx] = false;
    server.active_n--;
    server.done_n++;
    server.ok_n += e == OK;
    if (e == OK && x->moved != BLOCK)
        failed("OK, but not all was moved");
    if (server.victim && server.done_n == server.run->k)
        victim_kill();
    if (server.ending)
        return;
    x->req++;
    block_begin(x);
}

/* The first message starts the batch. */
static void on_message(void *lane, struct tp_peer *p, const struct message *m,
                       int fd)
{
    uint64_t cut[4] = {0, 300001, 700003, BLOCK};

    (void)lane, (void)fd;
    if (server.begun)
        return;
    server.begun = true;
    for (uint32_t i = 0; i < BLOCKS; i++) {
        uint32_t n = server.run->spans;

        for (uint32_t k = 0; k < 3; k++)
            server.spans[i][k] =
                n == 1 ? (struct span){block[i], BLOCK}
                       : (struct span){block[i] + cut[k], cut[k + 1] - cut[k]};
        server.x[i] = (struct tp_xfer){
            .peer = p,
            .req = m->frame.req,
            .idx = i,
            .spans = server.spans[i],
            .span_n = n,
            .is_push = server.run->get,
            .want_crc = server.run->crc,
            .len = BLOCK,
            .done = on_done,
        };
        block_begin(&server.x[i]);
    }
}

static void on_bad(void *lane, struct tp_peer *p, const struct message *m,
                   enum err e)
{
    (void)lane, (void)p, (void)m, (void)e;
    failed("bad message");
}

static void on_closed(void *lane, struct tp_peer *p)
{
    (void)lane, (void)p;
    server.closed++;
}

static const struct tp_events events = {
    .opened = on_opened,
    .message = on_message,
    .bad = on_bad,
    .closed = on_closed,
};

static void server_open(const struct run *run, int port_fd)
{
    static struct metrics metrics;
    static struct trace trace;
    static struct env env;
    static const struct frame_limits limits = {
        .message_bytes = 1 << 20,
        .batch_keys = 4096,
        .inline_bytes = 1 << 16,
        .block_bytes = 1 << 30,
    };
    struct transport_ucx_cfg cfg = {
        .host = "127.0.0.1",
        .tls = "tcp",
        .devices = "lo",
        .peers_max = 16,
        .sends_max = 1024,
        .xfers_max = 256,
        .held_max = 256,
        .held_bytes = 16 << 20,
        .held_all = 1024,
        .inline_max = WIRE_EAGER_MAX,
        .slice_bytes = 1 << 20,
    };
    struct transport from = {.events = &events,
                             .lane = &server,
                             .env = &env,
                             .metrics = &metrics,
                             .trace = &trace,
                             .limits = &limits};
    struct errmsg msg;
    uint16_t port;

    server.run = run;
    if (transport_ucx_env(&cfg, &msg) ||
        transport_ucx_open(&cfg, &from, &server.t, &msg))
        failed(msg.text);
    port = transport_ucx_port(server.t);
    MUST(write(port_fd, &port, sizeof(port)) == sizeof(port));
}

static void server_turn(void)
{
    server.t->ops->progress(server.t);
}

_Noreturn static void server_doomed(const struct run *run, int port_fd)
{
    server_open(run, port_fd);
    for (;;)
        server_turn();
}

static void stuck_check(uint64_t since_us)
{
    if (now_us() - since_us > (uint64_t)STUCK_S * 1000000)
        failed("stuck");
}

static void server_next_client(void)
{
    struct ucxc *c = calloc(1, sizeof(*c));
    uint32_t opened = server.opened, closed = server.closed;
    uint64_t t0 = now_us();

    ucxc_open(c, transport_ucx_port(server.t));
    ucxc_request(c, 9, OP_PING, NULL, 0, 0);
    while (server.opened == opened || c->busy) {
        server_turn();
        ucxc_progress(c);
        stuck_check(t0);
    }
    ucxc_close(c);
    while (server.closed == closed) {
        server_turn();
        stuck_check(t0);
    }
}

static void late_wait(void (*turn)(void))
{
    for (uint64_t t0 = now_us(); now_us() - t0 < LATE_MS * 1000;)
        turn();
}

static void server_survives(const struct run *run, pid_t victim, int port_fd)
{
    uint64_t t0 = now_us();

    server.victim = victim;
    server_open(run, port_fd);
    while (!server.begun || (run->k > 0 && server.victim)) {
        server_turn();
        stuck_check(t0);
    }
    if (server.victim)
        victim_kill();
    t0 = now_us();
    while (!server.closed) {
        server_turn();
        stuck_check(t0);
    }
    run->r->told_us = now_us() - t0;
    if (server.active_n > 0)
        failed("closed before all was completed");
    run->r->done_ok = server.ok_n;
    run->r->done_err = server.done_n - server.ok_n;
    canaries_check();
    blocks_fill();
    server_next_client();
    late_wait(server_turn);
    transport_ucx_close(server.t); /* checks that all pools are full */
    blocks_check();
}

/* ---- The client ---------------------------------------------------------- */

static struct ucxc client;

static void client_turn(void)
{
    ucxc_progress(&client);
}

static void client_begin(const struct run *run, int port_fd)
{
    uint16_t port;

    MUST(read(port_fd, &port, sizeof(port)) == sizeof(port));
    setenv("UCX_TLS", "tcp", 1);
    setenv("UCX_NET_DEVICES", "lo", 1);
    ucxc_open(&client, port);
    for (uint32_t i = 0; i < BLOCKS; i++)
        client.keys[i] = (struct ucxc_key){.to = block[i], .room = BLOCK};
    ucxc_request(&client, 1, run->get ? OP_GET : OP_PUT, NULL, 0, 0);
}

/* PUT: keeps BLOCKS blocks on their way. (The request was sent as well.) */
static void client_feed(const struct run *run)
{
    static uint32_t n;

    for (; !run->get && n < client.sent + BLOCKS - 1; n++)
        ucxc_data(&client, 1 + n / BLOCKS, n % BLOCKS, block[n % BLOCKS],
                  BLOCK);
}

_Noreturn static void client_doomed(const struct run *run, int port_fd)
{
    client_begin(run, port_fd);
    for (;;) {
        client_feed(run);
        client_turn();
    }
}

static uint32_t client_done(const struct run *run)
{
    uint32_t n = 0;

    if (!run->get) /* the request is one of them */
        return client.sent ? client.sent - 1 : 0;
    for (int i = 0; i < BLOCKS; i++)
        n += (uint32_t)(client.keys[i].moved / BLOCK);
    return n;
}

static void client_survives(const struct run *run, pid_t victim, int port_fd)
{
    uint64_t t0 = now_us();

    client_begin(run, port_fd);
    while (client_done(run) < run->k || client.sent == 0) {
        client_feed(run);
        client_turn();
        stuck_check(t0);
    }
    for (uint32_t i = 0; i < run->steps; i++)
        sched_yield();
    run->r->done_before = client_done(run);
    kill(victim, SIGKILL);
    t0 = now_us();
    while (!client.failed || client.busy) {
        client_turn();
        stuck_check(t0);
    }
    run->r->told_us = now_us() - t0;
    run->r->done_ok = client_done(run);
    run->r->done_err = client.unsent;
    for (int i = 0; i < BLOCKS; i++)
        run->r->done_err += client.keys[i].errors;
    canaries_check();
    blocks_fill();
    late_wait(client_turn);
    ucxc_close(&client);
    blocks_check();
}

/* ---- Runs ---------------------------------------------------------------- */

/* true: the survivor ended well. */
static bool run_one(const struct run *run)
{
    int port[2], status = 0;
    pid_t victim, survivor;

    MUST(pipe(port) == 0);
    victim = fork();
    if (victim == 0) {
        blocks_init(1);
        if (run->kill_server)
            server_doomed(run, port[1]);
        client_doomed(run, port[0]);
    }
    survivor = fork();
    if (survivor == 0) {
        blocks_init(2);
        if (run->kill_server)
            client_survives(run, victim, port[0]);
        else
            server_survives(run, victim, port[1]);
        _exit(0);
    }
    waitpid(survivor, &status, 0);
    kill(victim, SIGKILL);
    waitpid(victim, NULL, 0);
    close(port[0]);
    close(port[1]);
    if (WIFSIGNALED(status))
        fprintf(stderr, "FAILED: survivor died of signal %d\n",
                WTERMSIG(status));
    return status == 0;
}

static int cmp_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static uint32_t run_case(struct run *run, uint32_t runs)
{
    uint64_t *told = calloc(runs, sizeof(*told));
    uint32_t bad = 0, middle = 0;
    uint64_t ok = 0, err = 0;

    for (uint32_t i = 0; i < runs; i++) {
        *run->r = (struct report){0};
        run->k = (uint32_t)random() % (3 * BLOCKS);
        run->steps = (uint32_t)random() % 3;
        run->crc = random() % 2;
        bad += !run_one(run);
        middle += run->r->done_err > 0;
        ok += run->r->done_ok;
        err += run->r->done_err;
        told[i] = run->r->told_us;
    }
    qsort(told, runs, sizeof(*told), cmp_u64);
    printf("%s, %s killed, %u run%s per block: %u runs, %u in the middle, "
           "%u failed; blocks moved %lu, ended with an error %lu; "
           "all over after p50 %.1f ms, max %.1f ms\n",
           run->get ? "GET" : "PUT", run->kill_server ? "server" : "client",
           run->spans, run->spans > 1 ? "s" : "", runs, middle, bad,
           (unsigned long)ok, (unsigned long)err, (double)told[runs / 2] / 1e3,
           (double)told[runs - 1] / 1e3);
    fflush(stdout);
    free(told);
    return bad;
}

int main(int argc, char **argv)
{
    uint32_t runs = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 100,
             bad = 0;
    struct run run = {0};

    srandom(argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 1);
    run.r = mmap(NULL, sizeof(*run.r), PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(run.r != MAP_FAILED && runs > 0);
    for (int i = 0; i < 6; i++) {
        run.get = i % 2;
        run.kill_server = i / 2 % 2;
        run.spans = i < 4 ? 1 : 3;
        if (i >= 4) { /* PUT in three runs: client, then server killed */
            run.get = false;
            run.kill_server = i == 5;
        }
        bad += run_case(&run, runs);
    }
    printf("%u failed\n", bad);
    return bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
