/* SPDX-License-Identifier: Apache-2.0
 *
 * kill -9 of pikvd under a libpikv that moves bytes over UCX, many times.
 *
 *     e2e_pikv_kill PIKVD [runs [seed]]       default 50 runs of each case
 *
 * A run is a daemon of its own and a host process with a libpikv handle, that
 * keeps calls of one block in flight and ends the daemon when k of them are
 * done (k is drawn), then submits more, for it does not know. Drawn as well:
 *
 *   KILLED   at once
 *   STOPPED  for a moment before, so that it dies with unread bytes
 *   DEAF     the host does not poll meanwhile: when it looks again there are
 *            bytes to read and sends that wait, and the sends fail first
 *
 * The host must live: everything that was submitted completes once, no buffer
 * is written after that, and the handle closes.
 *
 * The program holds nothing of the daemon's, transport_ucx_sock.c least of all:
 * the host is as any user's. Cases: PUT, GET and both x 1 MiB (rendezvous) and
 * 48 KiB (eager). Prints one line per case; exit status 1 if any run failed. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "client/pikv.h"

enum {

    SLOTS = 256,
    LATE_MS = 20,
    PATTERN = 0x5a,
    KEY_BYTES = 32,
    STOP_TURNS = 1000,
    DEAF_US = 2000
};

static const struct pikv_call patient = {.deadline_us = 20000000};

enum what { PUT, GET, BOTH, WHATS };
enum end { KILLED, STOPPED, DEAF, ENDS };

struct run {
    const char *pikvd;
    enum what what;
    size_t block;
    uint32_t k;
    uint32_t depth, slots; /* calls in flight; those after the end, too */
    enum end end;
    uint32_t *middle; /* calls that ended with an error, for the parent */
};

struct slot {
    uint8_t *p;
    char name[KEY_BYTES];
    struct pikv_put put;
    struct pikv_get get;
    struct pikv_result result;
    bool busy;
};

static struct slot slots[SLOTS];
static struct pikv *kv;
static uint32_t ns, serial;

_Noreturn static void failed(const char *what, int e)
{
    fprintf(stderr, "FAILED: %s: %s %s\n", what, pikv_error_name(e),
            pikv_last_error());
    _exit(2);
}

/* A port that nobody has now. */
static uint16_t port_free(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t n = sizeof(a);

    if (bind(fd, (void *)&a, n) || getsockname(fd, (void *)&a, &n))
        failed("no port", 0);
    close(fd);
    return ntohs(a.sin_port);
}

static pid_t pikvd_start(const struct run *run, uint16_t port)
{
    char set[64], path[64];
    pid_t pid = fork();

    if (pid)
        return pid;
    snprintf(set, sizeof(set), "listen.ucx.port=%u", port);
    snprintf(path, sizeof(path), "listen.shm.path=/tmp/pikv_kill.%u", port);
    dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
    execl(run->pikvd, "pikvd", "--set", "listen.ucx.enabled=true", "--set", set,
          "--set", path, "--set", "listen.admin.enabled=false", "--set",
          "node.lanes=1", "--set", "limits.ops_per_client=256", "--set",
          "dram.capacity=192MiB", "--set", "dram.prefault=false", (char *)NULL);
    _exit(127);
}

static void host_connect(uint16_t port)
{
    struct pikv_options o = {.connect_ms = 500, .no_progress_thread = true};
    struct pikv_namespace d = {.name = "t", .create = true};
    char addr[64];
    int e = PIKV_NO_SERVER;

    snprintf(addr, sizeof(addr), "ucx:127.0.0.1:%u", port);
    o.address = addr;
    for (int i = 0; e && i < 100; i++) {
        e = pikv_open(&o, &kv);
        if (e)
            usleep(20000);
    }
    if (e)
        failed("open", e);
    e = pikv_namespace_open(kv, &d, &ns, &patient);
    if (e)
        failed("namespace", e);
}

static int slot_begin(const struct run *run, struct slot *s)
{
    bool is_put =
        run->what == PUT || (run->what == BOTH && (s - slots) % 2 == 0);
    uint64_t id;

    s->busy = true;
    snprintf(s->name, sizeof(s->name), "%c%u", is_put ? 'p' : 'g',
             is_put ? ++serial : (uint32_t)(s - slots));
    if (is_put) {
        s->put = (struct pikv_put){
            .key.key = {s->name, strlen(s->name)},
            .data = {s->p, run->block},
        };
        return pikv_put(kv, ns, &s->put, 1,
                        &(struct pikv_call){20000000, .user = s}, &s->result,
                        &id);
    }
    s->get = (struct pikv_get){
        .key.key = {s->name, strlen(s->name)},
        .data = {s->p, run->block},
    };
    return pikv_get(kv, ns, &s->get, 1,
                    &(struct pikv_call){20000000, .user = s}, &s->result, &id);
}

static void blocks_put(const struct run *run)
{
    for (uint32_t i = 0; i < run->depth; i++) {
        struct pikv_result r;
        char name[KEY_BYTES];
        int e;

        snprintf(name, sizeof(name), "g%u", i);
        e = pikv_put_sync(kv, ns,
                          &(struct pikv_put){.key.key = {name, strlen(name)},
                                             .data = {slots[i].p, run->block}},
                          1, &patient, &r);
        if (e || r.status)
            failed(name, e ? e : r.status);
    }
}

/* Takes what has completed; begins it again while the daemon lives. */
static uint32_t host_turn(const struct run *run, bool again, uint32_t *errors)
{
    struct pikv_completion done[SLOTS];
    int n = pikv_poll(kv, done, SLOTS);

    for (int i = 0; i < n; i++) {
        struct slot *s = done[i].user;

        if (!s->busy)
            failed("completed twice", 0);
        s->busy = false;
        *errors += done[i].status != PIKV_OK;
        if (again && slot_begin(run, s))
            failed("submit", 0);
    }
    return n > 0 ? (uint32_t)n : 0;
}

static void buffers_watch(const struct run *run)
{
    for (uint32_t i = 0; i < run->slots; i++)
        memset(slots[i].p, PATTERN, run->block);
    for (uint32_t i = 0; i < LATE_MS; i++) {
        struct pikv_completion none;

        usleep(1000);
        if (pikv_poll(kv, &none, 1))
            failed("completed twice", 0);
    }
    for (uint32_t i = 0; i < run->slots; i++)
        if (slots[i].p[0] != PATTERN ||
            memcmp(slots[i].p, slots[i].p + 1, run->block - 1) != 0)
            failed("written after its completion", 0);
}

/* Submits what is left; returns how many were taken. */
static uint32_t slots_begin(const struct run *run)
{
    uint32_t n = 0;

    for (uint32_t i = run->depth; i < run->slots; i++)
        n += slot_begin(run, &slots[i]) == PIKV_OK;
    return n;
}

/* Ends the daemon; returns how many calls are in flight after it. */
static uint32_t victim_end(const struct run *run, pid_t victim,
                           uint32_t *errors)
{
    uint32_t n = run->depth;

    switch (run->end) {
    case DEAF:
        usleep(DEAF_US);
        kill(victim, SIGSTOP);
        n += slots_begin(run);
        kill(victim, SIGKILL);
        usleep(DEAF_US);
        return n;
    case STOPPED:
        kill(victim, SIGSTOP);
        for (uint32_t i = 0; i < STOP_TURNS; i++)
            n -= host_turn(run, false, errors);
        break;
    case KILLED:
    case ENDS:
        break;
    }
    kill(victim, SIGKILL);
    return n + slots_begin(run);
}

_Noreturn static void host_main(const struct run *run, pid_t victim,
                                uint16_t port)
{
    uint32_t done = 0, errors = 0, left;

    for (uint32_t i = 0; i < run->slots; i++) {
        slots[i].p = malloc(run->block);
        memset(slots[i].p, (int)i, run->block);
    }
    host_connect(port);
    blocks_put(run);
    for (uint32_t i = 0; i < run->depth; i++)
        if (slot_begin(run, &slots[i]))
            failed("submit", 0);
    while (done < run->k)
        done += host_turn(run, true, &errors);
    if (errors)
        failed("an error before the kill", 0);
    left = victim_end(run, victim, &errors);
    while (left > 0)
        left -= host_turn(run, false, &errors);
    *run->middle = errors;
    buffers_watch(run);
    pikv_close(kv);
    _exit(0);
}

/* true: the host lives. */
static bool run_one(const struct run *run)
{
    uint16_t port = port_free();
    pid_t victim = pikvd_start(run, port), host = fork();
    char path[64];
    int status = 0;

    if (host == 0) {
        alarm(40);
        host_main(run, victim, port);
    }
    waitpid(host, &status, 0);
    kill(victim, SIGKILL);
    waitpid(victim, NULL, 0);
    snprintf(path, sizeof(path), "/tmp/pikv_kill.%u", port);
    unlink(path);
    if (WIFSIGNALED(status))
        fprintf(stderr, "FAILED: host died of signal %d\n", WTERMSIG(status));
    return status == 0;
}

static uint32_t run_case(struct run *run, uint32_t runs)
{
    static const char *const names[] = {"PUT", "GET", "PUT and GET"};
    uint32_t bad = 0, middle = 0;

    for (uint32_t i = 0; i < runs; i++) {
        *run->middle = 0;
        run->k = (uint32_t)random() % (3 * run->depth);
        run->end = (enum end)(random() % ENDS);
        bad += !run_one(run);
        middle += *run->middle > 0;
    }
    printf("%s, %zu KiB: %u runs, %u in the middle, %u failed\n",
           names[run->what], run->block >> 10, runs, middle, bad);
    fflush(stdout);
    return bad;
}

int main(int argc, char **argv)
{
    uint32_t runs = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 50;
    struct run run = {.pikvd = argv[1]};
    uint32_t bad = 0;

    if (argc < 2) {
        fprintf(stderr, "usage: e2e_pikv_kill PIKVD [runs [seed]]\n");
        return 2;
    }
    srandom(argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 1);
    run.middle = mmap(NULL, sizeof(*run.middle), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (run.middle == MAP_FAILED)
        return 2;
    for (int i = 0; i < 2 * WHATS; i++) {
        run.what = (enum what)(i % WHATS);
        run.block = i < WHATS ? 1 << 20 : 48 << 10;
        run.depth = i < WHATS ? 32 : 64;
        run.slots = i < WHATS ? 64 : SLOTS;
        bad += run_case(&run, runs);
    }
    printf("%u failed\n", bad);
    return bad ? EXIT_FAILURE : EXIT_SUCCESS;
}
