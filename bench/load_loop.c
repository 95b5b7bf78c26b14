/* SPDX-License-Identifier: Apache-2.0
 *
 * The closed loop (load.h). Making and checking bytes is outside the latencies
 * but inside the run, the same for all drivers: LOAD_STAMP bytes a block, or
 * all of them with verify. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "bench/load.h"

struct run {
    struct load_conn *c;
    const struct load_shape *s;
    struct load_result *out;
    uint64_t issued, end_ns;
    uint32_t flying;
};

void *load_mem(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (p == MAP_FAILED)
        bench_die("no memory for %zu bytes", bytes);
    return p;
}

double load_cpu_s(int pid)
{
    struct timespec t;
    clockid_t clock;

    if (pid <= 0 || clock_getcpuclockid(pid, &clock) ||
        clock_gettime(clock, &t))
        return 0;
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double thread_cpu_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void load_key(uint64_t id, char key[LOAD_KEY])
{
    static const char digits[16] = "0123456789abcdef";

    memcpy(key, "block:", 6);
    for (int i = LOAD_KEY - 1; i >= 6; i--, id >>= 4)
        key[i] = digits[id & 15];
}

struct load_conn *load_open(const struct load_target *t, uint32_t client)
{
    struct load_conn *c = t->driver->open(t);

    if (!c)
        return NULL;
    c->driver = t->driver;
    c->data_bytes = t->data_bytes;
    c->spin = t->idle == LOAD_SPIN;
    c->seed = 88172645463325252u + client * UINT64_C(0x9e3779b97f4a7c15);
    c->fresh = (uint64_t)(client + 1) << 36;
    c->reqs = calloc(LOAD_DEPTH_MAX, sizeof *c->reqs);
    if (!c->reqs)
        bench_die("out of memory");
    for (uint32_t i = 0; i < LOAD_DEPTH_MAX; i++) {
        c->reqs[i].conn = c;
        c->reqs[i].slot = i;
    }
    return c;
}

void load_close(struct load_conn *c)
{
    if (!c)
        return;
    free(c->reqs);
    c->driver->close(c);
}

static uint64_t draw(struct load_conn *c)
{
    c->seed ^= c->seed << 13;
    c->seed ^= c->seed >> 7;
    c->seed ^= c->seed << 17;
    return c->seed;
}

/* LOOKUP asks for consecutive ids, as a sequence's blocks are; GET and PUT for
 * any, so that the arena is cold. */
static void choose(struct run *run, struct load_req *r)
{
    const struct load_shape *s = run->s;
    struct load_conn *c = run->c;
    uint64_t first = draw(c) % s->keys;

    for (uint32_t i = 0; i < r->n; i++) {
        if (s->in_order)
            r->ids[i] = run->issued + i;
        else if (r->op == LOAD_LOOKUP)
            r->ids[i] =
                (first + i) % s->keys + (s->miss ? UINT64_C(1) << 50 : 0);
        else if (r->op == LOAD_PUT && !c->driver->overwrites)
            r->ids[i] = c->fresh++;
        else
            r->ids[i] = draw(c) % s->keys;
        load_key(r->ids[i], r->keys[i]);
    }
}

static void issue(struct run *run, struct load_req *r)
{
    const struct load_shape *s = run->s;
    uint64_t made = s->verify || s->size < LOAD_STAMP ? s->size : LOAD_STAMP;

    r->op = s->op != LOAD_MIXED ? s->op
            : draw(run->c) & 1  ? LOAD_PUT
                                : LOAD_GET;
    r->n = s->batch;
    if (s->count && s->count - run->issued < r->n)
        r->n = (uint32_t)(s->count - run->issued);
    r->size = s->size;
    r->data = run->c->data + r->slot * s->batch * s->size;
    choose(run, r);
    if (r->op == LOAD_PUT)
        for (uint32_t i = 0; i < r->n; i++)
            bench_fill(r->ids[i], r->data + i * s->size, made);
    if (r->op == LOAD_GET)
        for (uint32_t i = 0; i < r->n; i++)
            r->at[i] = r->data + i * s->size;
    run->issued += r->n;
    run->flying++;
    r->begun_ns = bench_now_ns();
    run->c->driver->submit(run->c, r);
}

static uint64_t touch_lines(const uint8_t *p, uint64_t n)
{
    uint64_t sum = 0;

    for (uint64_t i = 0; i < n; i += 64)
        sum += *(const volatile uint64_t *)(p + i);
    return sum;
}

/* What came back. Touching counts into the latency: it is what the user of a
 * block does. */
static void account(struct run *run, struct load_req *r)
{
    const struct load_shape *s = run->s;
    struct load_result *out = run->out;
    uint64_t check = s->verify || s->size < LOAD_STAMP ? s->size : LOAD_STAMP;

    if (s->touch && r->served == r->n)
        for (uint32_t i = 0; i < r->n; i++)
            (void)touch_lines(r->at[i], s->size);
    if (s->op != LOAD_MIXED || r->op == LOAD_GET)
        bench_lat_add(&out->lat, bench_now_ns() - r->begun_ns);
    out->calls++;
    out->items += r->n;
    out->failed += r->n - r->served;
    if (r->op != LOAD_LOOKUP)
        out->bytes += r->served * s->size;
    if (r->op == LOAD_GET && r->served == r->n)
        for (uint32_t i = 0; i < r->n; i++)
            out->wrong += !bench_verify(r->ids[i], r->at[i], check);
    if (run->c->driver->release)
        run->c->driver->release(run->c, r);
}

static bool over(const struct run *run)
{
    return run->s->count ? run->issued >= run->s->count
                         : bench_now_ns() >= run->end_ns;
}

void load_run(struct load_conn *c, const struct load_shape *s,
              struct load_result *out)
{
    struct run run = {.c = c, .s = s, .out = out};
    struct load_req *done[LOAD_DEPTH_MAX];
    struct bench_lat lat = out->lat;
    uint64_t begun = bench_now_ns();
    double cpu = thread_cpu_s();

    if (s->op != LOAD_LOOKUP && s->depth * s->batch * s->size > c->data_bytes)
        bench_die("a depth of %u batches of %u blocks needs more data memory",
                  s->depth, s->batch);
    lat.n = lat.count = 0;
    lat.stride = 1;
    *out = (struct load_result){.lat = lat};
    run.end_ns = begun + (uint64_t)(s->seconds * 1e9);
    for (uint32_t i = 0; i < s->depth && !(i && over(&run)); i++)
        issue(&run, &c->reqs[i]);
    while (run.flying) {
        uint32_t n = c->driver->poll(c, done, LOAD_DEPTH_MAX);

        for (uint32_t i = 0; i < n; i++) {
            account(&run, done[i]);
            run.flying--;
            if (!over(&run))
                issue(&run, done[i]);
        }
        if (n == 0 && c->spin)
            __builtin_ia32_pause();
    }
    out->seconds = (double)(bench_now_ns() - begun) / 1e9;
    out->cpu_s = thread_cpu_s() - cpu;
}

struct many {
    struct load_conn *c;
    const struct load_shape *s;
    struct load_result out;
    pthread_barrier_t *start;
    pthread_t thread;
};

static void *many_main(void *arg)
{
    struct many *m = arg;

    pthread_barrier_wait(m->start);
    load_run(m->c, m->s, &m->out);
    return NULL;
}

static void add_result(struct load_result *out, struct load_result *one)
{
    out->calls += one->calls;
    out->items += one->items;
    out->bytes += one->bytes;
    out->failed += one->failed;
    out->wrong += one->wrong;
    out->cpu_s += one->cpu_s;
    if (one->seconds > out->seconds)
        out->seconds = one->seconds;
    bench_lat_join(&out->lat, &one->lat);
    bench_lat_free(&one->lat);
}

void load_run_many(struct load_conn **conns, uint32_t n,
                   const struct load_shape *s, struct load_result *out)
{
    struct many *m = calloc(n, sizeof *m);
    struct bench_lat lat = out->lat;
    pthread_barrier_t start;

    if (!m || pthread_barrier_init(&start, NULL, n))
        bench_die("out of memory");
    lat.n = lat.count = 0;
    lat.stride = 1;
    *out = (struct load_result){.lat = lat};
    for (uint32_t i = 0; i < n; i++) {
        m[i] = (struct many){.c = conns[i], .s = s, .start = &start};
        if (pthread_create(&m[i].thread, NULL, many_main, &m[i]))
            bench_die("cannot start a thread");
    }
    for (uint32_t i = 0; i < n; i++) {
        pthread_join(m[i].thread, NULL);
        add_result(out, &m[i].out);
    }
    pthread_barrier_destroy(&start);
    free(m);
}
