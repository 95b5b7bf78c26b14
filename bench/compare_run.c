/* SPDX-License-Identifier: Apache-2.0
 *
 * One block size of a comparison: start, fill, ask, stop (compare.c). All
 * variants of a question take turns, so that noise meets all alike. Every
 * variant's bytes are checked in full once, and in part in every run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/compare.h"

enum { DATA_MAX = 64 << 20, BATCH = 32, BATCH_SIZE_MAX = 1 << 20 };
#define BIT(v) (1u << (v))
#define ALL COMPARE_ALL

const char *const compare_names[VARIANTS] = {
    "pikvd shm", "pikvd loan",     "pikvd ucx/tcp", "redis unix",
    "redis tcp", "memcached unix", "memcached tcp", "plain unix",
    "plain tcp", "memcpy",         "NT copy",       "copy+crc"};

static const char *const server_names[SERVERS] = {
    "pikvd", "redis", "memcached-unix", "memcached-tcp", "plain"};

static enum server server_of(enum variant v)
{
    static const enum server of[VARIANTS] = {
        S_PIKVD,  S_PIKVD, S_PIKVD, S_REDIS, S_REDIS, S_MC_UNIX,
        S_MC_TCP, S_PLAIN, S_PLAIN, SERVERS, SERVERS, SERVERS};

    return of[v];
}

/* ---- Servers ---- */

static struct rival_place place_of(const struct compare *c, enum server s)
{
    return (struct rival_place){c->dir, server_names[s]};
}

static void start_pikvd(struct compare *c)
{
    struct rival *r = &c->servers[S_PIKVD];
    struct rival_place at = place_of(c, S_PIKVD);
    char path[160], capacity[64], loans[64], port[64];
    uint64_t bytes = c->res.arena + c->res.arena / 4;
    char *argv[] = {strdup(c->pikvd),
                    "--set",
                    path,
                    "--set",
                    capacity,
                    "--set",
                    loans,
                    "--set",
                    "dram.loan_namespaces=1",
                    "--set",
                    "listen.admin.enabled=false",
                    "--set",
                    port,
                    "--set",
                    "listen.ucx.enabled=true",
                    "--set",
                    "listen.ucx.devices=lo",
                    NULL};

    snprintf(r->path, sizeof r->path, "%s/pikvd.sock", c->dir);
    snprintf(r->port, sizeof r->port, "%u", rival_free_port());
    snprintf(path, sizeof path, "listen.shm.path=%s", r->path);
    snprintf(port, sizeof port, "listen.ucx.port=%s", r->port);
    snprintf(capacity, sizeof capacity, "dram.capacity=%llu",
             (unsigned long long)bytes);
    snprintf(loans, sizeof loans, "dram.loan_capacity=%llu",
             (unsigned long long)bytes);
    rival_spawn(r, &at, argv);
    rival_wait(r, &at, r->path);
    rival_wait_log(&at, "memory_ready"); /* its pages are touched */
    free(argv[0]);
}

static void start_redis(struct compare *c)
{
    struct rival *r = &c->servers[S_REDIS];
    struct rival_place at = place_of(c, S_REDIS);
    char dir[160];
    char *argv[] = {
        "redis-server", "--port", r->port,  "--bind", "127.0.0.1",
        "--unixsocket", r->path,  "--save", "",       "--appendonly",
        "no",           "--dir",  dir,      NULL};

    snprintf(dir, sizeof dir, "%s", c->dir);
    snprintf(r->path, sizeof r->path, "%s/redis.sock", c->dir);
    snprintf(r->port, sizeof r->port, "%u", rival_free_port());
    rival_spawn(r, &at, argv);
    rival_wait(r, &at, r->path);
}

static void start_memcached(struct compare *c, enum server s)
{
    struct rival *r = &c->servers[s];
    struct rival_place at = place_of(c, s);
    bool local = s == S_MC_UNIX;
    char mib[24];
    char *argv[] = {"memcached",
                    "-u",
                    "root",
                    "-I",
                    "64m",
                    "-m",
                    mib,
                    "-U",
                    "0",
                    local ? "-s" : "-p",
                    local ? r->path : r->port,
                    local ? NULL : "-l",
                    "127.0.0.1",
                    NULL};

    snprintf(mib, sizeof mib, "%llu",
             (unsigned long long)(c->res.arena >> 19) + 256);
    snprintf(r->path, sizeof r->path, "%s/memcached.sock", c->dir);
    snprintf(r->port, sizeof r->port, "%u", rival_free_port());
    rival_spawn(r, &at, argv);
    rival_wait(r, &at, local ? r->path : r->port);
}

static void servers_start(struct compare *c)
{
    struct rival_place at = place_of(c, S_PLAIN);

    start_pikvd(c);
    start_redis(c);
    start_memcached(c, S_MC_UNIX);
    start_memcached(c, S_MC_TCP);
    rival_plain_start(&c->servers[S_PLAIN], &at, c->res.arena);
}

static void servers_stop(struct compare *c)
{
    for (uint32_t i = 0; i < SERVERS; i++) {
        rival_stop(&c->servers[i]);
        if (c->servers[i].path[0])
            unlink(c->servers[i].path);
    }
}

/* ---- Connections ---- */

static void aim(struct compare *c, uint64_t size)
{
    static const struct load_driver *const drivers[VARIANTS] = {
        &load_pikv,   &load_pikv,       &load_pikv,       &rival_redis,
        &rival_redis, &rival_memcached, &rival_memcached, &rival_plain,
        &rival_plain, &micro_memcpy,    &micro_nt,        &micro_crc};
    uint64_t most = 16 * BATCH * size;

    for (uint32_t v = 0; v < VARIANTS; v++) {
        enum server s = server_of((enum variant)v);
        const struct rival *r = s < SERVERS ? &c->servers[s] : NULL;
        bool tcp =
            v == V_UCX || v == V_REDIS_TCP || v == V_MC_TCP || v == V_PLAIN_TCP;

        if (r && s == S_PIKVD)
            snprintf(c->addresses[v], sizeof c->addresses[v],
                     tcp ? "ucx:127.0.0.1:%s" : "shm:%s",
                     tcp ? r->port : r->path);
        else if (r)
            snprintf(c->addresses[v], sizeof c->addresses[v], "%s",
                     tcp ? r->port : r->path);
        c->targets[v] = (struct load_target){
            .driver = drivers[v],
            .address = c->addresses[v],
            .space = c->spaces[v == V_LOAN],
            .size = size,
            .data_bytes = most < DATA_MAX ? most : DATA_MAX,
            .loan = v == V_LOAN,
            .idle = LOAD_SPIN,
            .arena = c->arena,
            .arena_bytes = c->res.arena};
        if (c->targets[v].data_bytes < 16 * size)
            c->targets[v].data_bytes = 16 * size;
    }
}

static void connect_all(struct compare *c)
{
    for (uint32_t v = 0; v < VARIANTS; v++) {
        if (!(c->usable & BIT(v)))
            continue;
        c->conns[v] = load_open(&c->targets[v], v * COMPARE_CLIENTS);
        if (c->conns[v])
            continue;
        c->usable &= ~BIT(v);
        snprintf(c->res.absent, sizeof c->res.absent,
                 "%s (the library has no such transport)", compare_names[v]);
    }
}

static void close_all(struct compare *c)
{
    for (uint32_t v = 0; v < VARIANTS; v++) {
        load_close(c->conns[v]);
        c->conns[v] = NULL;
    }
}

/* ---- Measuring ---- */

struct cpu {
    double busy_s, steal_s, own_s, server_s;
    uint64_t at_ns;
};

static struct cpu cpu_now(int server)
{
    unsigned long long user = 0, nice = 0, sys = 0, irq = 0, soft = 0,
                       steal = 0;
    double tick = (double)sysconf(_SC_CLK_TCK);
    struct cpu out = {.own_s = load_cpu_s(getpid()),
                      .server_s = load_cpu_s(server),
                      .at_ns = bench_now_ns()};
    FILE *f = fopen("/proc/stat", "r");

    if (f && fscanf(f, "cpu %llu %llu %llu %*u %*u %llu %llu %llu", &user,
                    &nice, &sys, &irq, &soft, &steal) == 6) {
        out.busy_s = (double)(user + nice + sys + irq + soft) / tick;
        out.steal_s = (double)steal / tick;
    }
    if (f)
        fclose(f);
    return out;
}

static void note_noise(struct results *r, const struct cpu *a,
                       const struct cpu *b)
{
    double wall = (double)(b->at_ns - a->at_ns) / 1e9;
    double others = b->busy_s - a->busy_s - (b->own_s - a->own_s) -
                    (b->server_s - a->server_s);

    r->steal_s += b->steal_s - a->steal_s;
    r->wall_s += wall;
    others = others > 0 && wall > 0.02 ? others / wall : 0;
    r->others[r->others_n++ % COMPARE_CELLS] = others;
    if (others > r->others_worst)
        r->others_worst = others;
}

static struct cell *cell_for(struct results *r, const struct load_shape *s,
                             uint32_t clients, enum variant v)
{
    struct cell *cell = results_find(r, s, clients, v);

    if (cell)
        return cell;
    if (r->n == COMPARE_CELLS)
        bench_die("too many questions");
    cell = &r->cells[r->n++];
    cell->shape = *s;
    cell->variant = v;
    cell->clients = clients;
    return cell;
}

static void measure(struct compare *c, const struct load_shape *s,
                    struct load_conn **conns, uint32_t clients, enum variant v)
{
    enum server server = server_of(v);
    int pid = server < SERVERS ? c->servers[server].pid : 0;
    struct cell *cell = cell_for(&c->res, s, clients, v);
    struct load_result *r = &c->scratch;
    struct cpu before = cpu_now(pid), after;
    uint32_t i = cell->rounds++;

    if (clients == 1)
        load_run(conns[0], s, r);
    else
        load_run_many(conns, clients, s, r);
    after = cpu_now(pid);
    note_noise(&c->res, &before, &after);
    cell->value[M_GBPS][i] = (double)r->bytes / r->seconds / 1e9;
    cell->value[M_P50][i] = bench_lat_us(&r->lat, 0.5);
    cell->value[M_P99][i] = bench_lat_us(&r->lat, 0.99);
    cell->value[M_PER_S][i] = (double)r->items / r->seconds;
    cell->server_cpu_s += after.server_s - before.server_s;
    cell->client_cpu_s += r->cpu_s;
    cell->items += r->items;
    cell->bytes += r->bytes;
    cell->failed += r->failed;
    cell->wrong += r->wrong;
    c->res.failed += r->failed;
    c->res.wrong += r->wrong;
}

static void place(struct compare *c, bool one_client)
{
    for (uint32_t i = 0; i < SERVERS; i++)
        rival_place_cpu(c->servers[i].pid, !one_client);
    rival_place_client(one_client);
}

static void ask(struct compare *c, struct load_shape s, uint32_t variants)
{
    s.keys = c->res.arena / s.size;
    s.seconds = c->res.seconds_each;
    place(c, true);
    for (uint32_t round = 0; round < c->res.rounds; round++)
        for (uint32_t v = 0; v < VARIANTS; v++)
            if (variants & c->usable & BIT(v))
                measure(c, &s, &c->conns[v], 1, (enum variant)v);
    place(c, false);
}

static void ask_many(struct compare *c, struct load_shape s, uint32_t variants)
{
    struct load_conn *conns[VARIANTS][COMPARE_CLIENTS] = {0};
    uint32_t with = variants & c->usable;
    uint32_t first = s.op == LOAD_PUT ? 2000 : 1000; /* no id twice */

    s.keys = c->res.arena / s.size;
    s.seconds = c->res.seconds_each;
    for (uint32_t v = 0; v < VARIANTS; v++) {
        struct load_target t = c->targets[v];

        t.idle = t.driver == &load_pikv ? LOAD_WAIT : LOAD_SLEEP;
        t.data_bytes = s.depth * s.size;
        for (uint32_t i = 0; i < COMPARE_CLIENTS && with & BIT(v); i++)
            conns[v][i] = load_open(&t, first + v * COMPARE_CLIENTS + i);
    }
    for (uint32_t round = 0; round < c->res.rounds; round++)
        for (uint32_t v = 0; v < VARIANTS; v++)
            if (with & BIT(v))
                measure(c, &s, conns[v], COMPARE_CLIENTS, (enum variant)v);
    for (uint32_t v = 0; v < VARIANTS; v++)
        for (uint32_t i = 0; i < COMPARE_CLIENTS; i++)
            load_close(conns[v][i]);
}

/* ---- The plan ---- */

static void fill_and_check(struct compare *c, uint64_t size)
{
    uint32_t fillers = BIT(V_SHM) | BIT(V_LOAN) | BIT(V_REDIS_UNIX) |
                       BIT(V_MC_UNIX) | BIT(V_MC_TCP) | BIT(V_PLAIN_UNIX) |
                       BIT(V_MEMCPY);
    struct load_shape put = {.op = LOAD_PUT,
                             .size = size,
                             .depth = 4,
                             .batch = 1,
                             .keys = c->res.arena / size,
                             .in_order = true,
                             .verify = true};
    struct load_shape get = put;

    put.count = put.keys;
    get.op = LOAD_GET;
    get.in_order = false;
    get.count = put.keys < 256 ? put.keys : 256;
    for (uint32_t v = 0; v < VARIANTS; v++) {
        struct load_result *r = &c->scratch;

        if (!(c->usable & BIT(v)))
            continue;
        if (fillers & BIT(v)) {
            load_run(c->conns[v], &put, r);
            if (r->failed)
                bench_die("%s: %llu of %llu blocks were not stored",
                          compare_names[v], (unsigned long long)r->failed,
                          (unsigned long long)r->items);
        }
        load_run(c->conns[v], &get, r);
        if (r->failed || r->wrong)
            bench_die("%s: %llu blocks missing, %llu with wrong bytes",
                      compare_names[v], (unsigned long long)r->failed,
                      (unsigned long long)r->wrong);
    }
}

static void ask_gets_or_puts(struct compare *c, enum load_op op, uint64_t size)
{
    uint32_t with = op == LOAD_PUT ? ALL & ~BIT(V_LOAN) : ALL;
    struct load_shape s = {.op = op, .size = size, .batch = 1};
    uint32_t deep = (uint32_t)(DATA_MAX / (BATCH * size));

    for (s.depth = 1; s.depth <= 16; s.depth += 15)
        ask(c, s, with);
    if (size > BATCH_SIZE_MAX)
        return;
    s.batch = BATCH;
    s.depth = 1;
    ask(c, s, with);
    s.depth = deep < 16 ? deep : 16;
    if (s.depth > 1 && !c->res.quick)
        ask(c, s, with);
}

static void ask_special(struct compare *c, uint64_t size)
{
    struct load_shape touch = {
        .op = LOAD_GET, .size = size, .depth = 16, .batch = 1, .touch = true};
    struct load_shape lookup = {
        .op = LOAD_LOOKUP, .size = size, .depth = 1, .batch = COMPARE_LOOKUP};

    if (size >= 65536)
        ask(c, touch, BIT(V_SHM) | BIT(V_LOAN));
    touch.depth = 1;
    if (size >= 65536)
        ask(c, touch, BIT(V_SHM) | BIT(V_LOAN));
    if (size != 65536)
        return;
    ask(c, lookup, BIT(V_SHM) | BIT(V_UCX));
    lookup.miss = true;
    ask(c, lookup, BIT(V_SHM) | BIT(V_UCX));
}

static void ask_clients(struct compare *c, enum load_op op, uint64_t size)
{
    struct load_shape s = {
        .op = op, .size = size, .batch = 1, .depth = COMPARE_CLIENT_DEPTH};

    if (size == 65536 || size == 1 << 20)
        ask_many(c, s,
                 BIT(V_SHM) | BIT(V_UCX) | BIT(V_REDIS_UNIX) |
                     BIT(V_REDIS_TCP) | BIT(V_MC_UNIX) | BIT(V_MC_TCP));
}

static void measure_memory(struct compare *c, uint64_t size)
{
    struct memory *m = &c->res.memory[c->res.memory_n++];

    /* The arena is stored twice: in the shared pool and in the loan pool. */
    *m = (struct memory){.size = size, .blocks = 2 * (c->res.arena / size)};
    m->beyond = rival_rss_beyond(c->servers[S_PIKVD].pid, &m->tiers);
}

void compare_size(struct compare *c, uint64_t size)
{
    fprintf(stderr, "compare: blocks of %llu KiB: start, fill, check",
            (unsigned long long)size >> 10);
    snprintf(c->spaces[0], sizeof c->spaces[0], "bench");
    snprintf(c->spaces[1], sizeof c->spaces[1], "bench-loan");
    servers_start(c);
    aim(c, size);
    connect_all(c);
    fill_and_check(c, size);
    measure_memory(c, size);
    fprintf(stderr, ", GET");
    ask_gets_or_puts(c, LOAD_GET, size);
    ask_special(c, size);
    fprintf(stderr, ", clients");
    ask_clients(c, LOAD_GET, size);
    fprintf(stderr, ", PUT");
    ask_gets_or_puts(c, LOAD_PUT, size);
    ask_clients(c, LOAD_PUT, size);
    fprintf(stderr, "\n");
    close_all(c);
    servers_stop(c);
}
