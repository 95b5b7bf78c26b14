/* SPDX-License-Identifier: Apache-2.0
 *
 * Server processes of a comparison, and the plain reference server (rivals.h).
 * Children die with their parent, whatever happens to it. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/rivals.h"

enum { START_MS = 20000, STOP_MS = 15000, BIG_MAPPING = 16 << 20 };

bool rival_own_network(void)
{
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    bool ok;
    FILE *f;
    int fd;

    if (unshare(CLONE_NEWNET))
        return false;
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ok = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &lo) == 0;
    if (fd >= 0)
        close(fd);
    if (!ok)
        bench_die("no loopback in a network of our own: %s", strerror(errno));
    f = fopen(RIVAL_CONGESTION, "w");
    if (f) {
        fputs("reno\n", f);
        fclose(f);
    }
    return true;
}

static int listen_at(const char *address, uint16_t *port_out)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in;
    int fd = socket(address ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int bad;

    if (address)
        snprintf(un.sun_path, sizeof un.sun_path, "%s", address);
    bad = address ? bind(fd, (struct sockaddr *)&un, sizeof un)
                  : bind(fd, (struct sockaddr *)&in, sizeof in);
    if (bad || listen(fd, 64))
        bench_die("cannot listen on %s: %s", address ? address : "127.0.0.1",
                  strerror(errno));
    if (!address && getsockname(fd, (struct sockaddr *)&in, &len) == 0)
        *port_out = ntohs(in.sin_port);
    return fd;
}

uint16_t rival_free_port(void)
{
    uint16_t port = 0;
    int fd = listen_at(NULL, &port);

    close(fd);
    return port;
}

static pid_t fork_child(const struct rival_place *at)
{
    pid_t parent = getpid(), pid = fork();
    char path[256];
    int fd;

    if (pid < 0)
        bench_die("cannot fork: %s", strerror(errno));
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    snprintf(path, sizeof path, "%s/%s.log", at->dir, at->name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
        _exit(1);
    return 0;
}

void rival_spawn(struct rival *r, const struct rival_place *at,
                 char *const argv[])
{
    r->pid = fork_child(at);
    if (r->pid == 0) {
        execvp(argv[0], argv);
        perror(argv[0]);
        _exit(127);
    }
}

void rival_wait_log(const struct rival_place *at, const char *word)
{
    char path[256], line[512];

    snprintf(path, sizeof path, "%s/%s.log", at->dir, at->name);
    for (int ms = 0; ms < START_MS; ms += 20) {
        FILE *f = fopen(path, "r");
        bool found = false;

        while (f && !found && fgets(line, sizeof line, f))
            found = strstr(line, word);
        if (f)
            fclose(f);
        if (found)
            return;
        usleep(20000);
    }
    bench_die("%s has not said %s", at->name, word);
}

static void show_log(const struct rival_place *at)
{
    char path[256], line[512];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s.log", at->dir, at->name);
    f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        fputs(line, stderr);
    if (f)
        fclose(f);
}

static bool accepts(const char *address)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port =
                                 htons((uint16_t)strtoul(address, NULL, 10))};
    bool local = address[0] == '/';
    int fd = socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int bad;

    snprintf(un.sun_path, sizeof un.sun_path, "%s", address);
    bad = local ? connect(fd, (struct sockaddr *)&un, sizeof un)
                : connect(fd, (struct sockaddr *)&in, sizeof in);
    bad = bad && errno != EPROTOTYPE; /* another type of socket, but there */
    close(fd);
    return !bad;
}

void rival_wait(const struct rival *r, const struct rival_place *at,
                const char *address)
{
    for (int ms = 0; ms < START_MS; ms += 20) {
        if (waitpid(r->pid, NULL, WNOHANG) == r->pid)
            break;
        if (accepts(address))
            return;
        usleep(20000);
    }
    show_log(at);
    bench_die("%s does not answer at %s", at->name, address);
}

void rival_stop(struct rival *r)
{
    if (r->pid <= 0)
        return;
    kill(r->pid, SIGTERM);
    for (int ms = 0; ms < STOP_MS; ms += 10) {
        if (waitpid(r->pid, NULL, WNOHANG) == r->pid) {
            r->pid = 0;
            return;
        }
        usleep(10000);
    }
    kill(r->pid, SIGKILL);
    waitpid(r->pid, NULL, 0);
    r->pid = 0;
}

void rival_place_cpu(pid_t pid, bool with_client)
{
    long n = sysconf(_SC_NPROCESSORS_CONF);
    char path[64];
    struct dirent *d;
    cpu_set_t set;
    DIR *dir;

    if (pid <= 0 || n < 2 || n > CPU_SETSIZE)
        return;
    CPU_ZERO(&set);
    for (size_t i = with_client ? 0 : 1; i < (size_t)n; i++)
        CPU_SET(i, &set);
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    dir = opendir(path);
    while (dir && (d = readdir(dir)))
        if (d->d_name[0] != '.')
            (void)sched_setaffinity((pid_t)strtoul(d->d_name, NULL, 10),
                                    sizeof set, &set);
    if (dir)
        closedir(dir);
}

void rival_place_client(bool alone)
{
    long n = sysconf(_SC_NPROCESSORS_CONF);
    cpu_set_t set;

    if (n < 2 || n > CPU_SETSIZE)
        return;
    CPU_ZERO(&set);
    for (size_t i = 0; i < (alone ? 1 : (size_t)n); i++)
        CPU_SET(i, &set);
    (void)sched_setaffinity(0, sizeof set, &set); /* or where it was */
}

uint64_t rival_rss_beyond(pid_t pid, uint64_t *tiers_out)
{
    char path[64], line[512];
    unsigned long from, to, kib;
    uint64_t beyond = 0, tiers = 0;
    bool tier = false;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%d/smaps", pid);
    f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            tier = to - from >= BIG_MAPPING && strstr(line, "memfd:");
        else if (sscanf(line, "Rss: %lu kB", &kib) == 1)
            *(tier ? &tiers : &beyond) += (uint64_t)kib * 1024;
    }
    if (f)
        fclose(f);
    *tiers_out = tiers;
    return beyond;
}

/* ---- The plain server ---- */

static uint8_t *plain_arena;
static uint64_t plain_bytes;

static bool move(int fd, struct iovec *v, int n, bool out)
{
    while (n) {
        ssize_t k = out ? writev(fd, v, n) : readv(fd, v, n);

        if (k <= 0)
            return false;
        for (; n && (size_t)k >= v->iov_len; v++, n--)
            k -= (ssize_t)v->iov_len;
        if (n) {
            v->iov_base = (uint8_t *)v->iov_base + k;
            v->iov_len -= (size_t)k;
        }
    }
    return true;
}

static void *plain_serve(void *arg)
{
    int fd = (int)(intptr_t)arg, one = 1;
    struct rival_plain_head h;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (;;) {
        struct iovec v[2] = {{&h, sizeof h}};
        uint8_t *block;
        bool get;

        if (!move(fd, v, 1, false) || h.len > plain_bytes)
            break;
        get = h.op == LOAD_GET;
        block = plain_arena + h.id * h.len % (plain_bytes / h.len * h.len);
        v[0] = (struct iovec){block, h.len};
        if (!get && !move(fd, v, 1, false))
            break;
        v[0] = (struct iovec){&h, sizeof h};
        v[1] = (struct iovec){block, h.len};
        if (!move(fd, v, get ? 2 : 1, true))
            break;
    }
    close(fd);
    return NULL;
}

static void *plain_accept(void *arg)
{
    int listener = (int)(intptr_t)arg;

    for (;;) {
        int fd = accept(listener, NULL, NULL);
        pthread_t t;

        if (fd >= 0 &&
            pthread_create(&t, NULL, plain_serve, (void *)(intptr_t)fd) == 0)
            pthread_detach(t);
    }
    return NULL;
}

void rival_plain_start(struct rival *r, const struct rival_place *at,
                       uint64_t arena_bytes)
{
    uint16_t port = 0;
    int tcp = listen_at(NULL, &port), local;
    pthread_t t;

    snprintf(r->port, sizeof r->port, "%u", port);
    snprintf(r->path, sizeof r->path, "%s/%s.sock", at->dir, at->name);
    local = listen_at(r->path, NULL);
    r->pid = fork_child(at);
    if (r->pid) {
        close(tcp);
        close(local);
        return;
    }
    signal(SIGPIPE, SIG_IGN);
    plain_arena = load_mem(arena_bytes);
    plain_bytes = arena_bytes;
    if (pthread_create(&t, NULL, plain_accept, (void *)(intptr_t)tcp))
        _exit(1);
    plain_accept((void *)(intptr_t)local);
    _exit(0);
}
