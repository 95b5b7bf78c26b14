/* SPDX-License-Identifier: Apache-2.0
 *
 * pikv-bench lanes: the experiment behind the lanes. LOOKUPs of 128 random keys
 * in a catalog of a million blocks, three ways:
 *
 *   split     the client splits its batch by lane; each lane has a catalog and
 *             a ring from and to each client; nothing is shared
 *   striped   one catalog behind 64 locks; whoever has the batch serves it
 *   scatter   a lane takes the whole batch, posts the parts to the other lanes'
 *             mailboxes and gathers what they post back
 *
 * N threads; thread i is client i and lane i in turn, several batches in flight
 * each, so that nobody idles: what is measured is the CPU of a batch, not how
 * long sleepers take to wake. Every lookup finds its block and writes to its
 * record, as a use does. */
#include <getopt.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mailbox.h"
#include "bench/load.h"
#include "store/catalog.h"

enum { LANES = 8, KEYS = 128, FLIGHT = 8, STRIPES = 64, ROUNDS = 5 };
enum way { SPLIT, STRIPED_MUTEX, STRIPED_SPIN, SCATTER, WAYS };

static const char *const way_names[WAYS] = {
    "split by the client", "striped, 64 mutexes", "striped, 64 spinlocks",
    "scatter by mailbox"};

struct batch;

/* The keys of one lane. */
struct share {
    struct mail mail;
    struct batch *batch;
    uint32_t lane, n, found;
    struct hash128 keys[KEYS];
};

struct batch {
    uint32_t client, home, todo; /* todo: shares not yet back */
    struct share shares[LANES];
};

/* One writer, one reader. */
struct spsc {
    _Alignas(64) _Atomic uint32_t head;
    _Alignas(64) _Atomic uint32_t tail;
    _Alignas(64) void *item[64];
};

struct lane_thread {
    struct lanes *all;
    uint32_t idx;
    pthread_t thread;
    struct catalog catalog;
    struct mailbox mailbox;
    struct spsc requests[LANES], replies[LANES]; /* from client, to client */
    struct batch batches[FLIGHT];
    uint64_t seed, served, found;
    double cpu_s;
};

struct lanes {
    enum way way;
    uint32_t n, blocks;
    double seconds;
    struct catalog shared;
    pthread_mutex_t mutex[STRIPES];
    pthread_spinlock_t spin[STRIPES];
    atomic_bool stop;
    pthread_barrier_t start;
    struct lane_thread lane[LANES];
};

static struct hash128 hash_of(uint64_t id)
{
    uint64_t a = id * UINT64_C(0x9e3779b97f4a7c15) + 1;

    a = (a ^ (a >> 29)) * UINT64_C(0xbf58476d1ce4e5b9);
    return (struct hash128){.lo = a ^ (a >> 32),
                            .hi = a * UINT64_C(0x94d049bb133111eb)};
}

static uint32_t lane_of(struct hash128 h, uint32_t lanes)
{
    return (uint32_t)(h.hi >> 40) % lanes;
}

static bool look(struct catalog *c, struct hash128 h)
{
    uint32_t at = catalog_first(c, h);

    if (!at || c->entries[at].state != BLOCK_LIVE)
        return false;
    c->hots[c->entries[at].hot].hits++;
    return true;
}

/* ---- Rings ---- */

static bool spsc_push(struct spsc *r, void *item)
{
    uint32_t head = atomic_load_explicit(&r->head, memory_order_relaxed);

    if (head - atomic_load_explicit(&r->tail, memory_order_acquire) == 64)
        return false;
    r->item[head % 64] = item;
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
    return true;
}

static void *spsc_pop(struct spsc *r)
{
    uint32_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    void *item;

    if (atomic_load_explicit(&r->head, memory_order_acquire) == tail)
        return NULL;
    item = r->item[tail % 64];
    atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
    return item;
}

static void push(struct spsc *r, void *item)
{
    if (!spsc_push(r, item))
        bench_die("a ring is full"); /* holds more than is ever in flight */
}

/* ---- The client's half ---- */

static struct hash128 next_key(struct lane_thread *t)
{
    t->seed ^= t->seed << 13;
    t->seed ^= t->seed >> 7;
    t->seed ^= t->seed << 17;
    return hash_of(t->seed % t->all->blocks);
}

static void split(struct batch *b, const struct hash128 *keys, uint32_t lanes)
{
    for (uint32_t i = 0; i < KEYS; i++) {
        struct share *s = &b->shares[lane_of(keys[i], lanes)];

        s->keys[s->n++] = keys[i];
    }
}

static void batch_reset(struct lane_thread *t, struct batch *b)
{
    b->client = t->idx;
    b->todo = 0;
    for (uint32_t i = 0; i < LANES; i++) {
        b->shares[i].n = b->shares[i].found = 0;
        b->shares[i].lane = i;
        b->shares[i].batch = b;
    }
}

static void batch_issue(struct lane_thread *t, struct batch *b)
{
    struct hash128 keys[KEYS];
    struct lanes *all = t->all;

    batch_reset(t, b);
    for (uint32_t i = 0; i < KEYS; i++)
        keys[i] = next_key(t);
    if (all->way == SCATTER) { /* whole, to one lane */
        memcpy(b->shares[0].keys, keys, sizeof keys);
        push(&all->lane[t->idx].requests[t->idx], b);
        return;
    }
    split(b, keys, all->n);
    for (uint32_t i = 0; i < all->n; i++)
        b->todo += b->shares[i].n > 0;
    for (uint32_t i = 0; i < all->n; i++)
        if (b->shares[i].n)
            push(&all->lane[i].requests[t->idx], &b->shares[i]);
}

static void batch_done(struct lane_thread *t, struct batch *b)
{
    for (uint32_t i = 0; i < t->all->n; i++)
        t->found += b->shares[i].found;
    t->served++;
    if (!atomic_load_explicit(&t->all->stop, memory_order_relaxed))
        batch_issue(t, b);
}

/* ---- The lane's half ---- */

static void serve(struct lane_thread *t, struct share *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        s->found += look(&t->catalog, s->keys[i]);
}

static void post(struct lane_thread *to, struct share *s, mail_fn *fn)
{
    s->mail.fn = fn;
    while (mailbox_post(&to->mailbox, &s->mail))
        sched_yield();
}

static void share_back(struct mail *m, void *receiver)
{
    struct share *s = container_of(m, struct share, mail);
    struct lane_thread *t = receiver;

    if (--s->batch->todo == 0)
        push(&t->replies[s->batch->client], s->batch);
}

static void share_here(struct mail *m, void *receiver)
{
    struct share *s = container_of(m, struct share, mail);
    struct lane_thread *t = receiver;

    serve(t, s);
    post(&t->all->lane[s->batch->home], s, share_back);
}

static void scatter(struct lane_thread *t, struct batch *b)
{
    struct hash128 keys[KEYS];
    struct share *mine = &b->shares[t->idx];

    memcpy(keys, b->shares[0].keys, sizeof keys);
    split(b, keys, t->all->n);
    b->home = t->idx;
    b->todo = 1;
    for (uint32_t i = 0; i < t->all->n; i++)
        b->todo += i != t->idx && b->shares[i].n > 0;
    for (uint32_t i = 0; i < t->all->n; i++)
        if (i != t->idx && b->shares[i].n)
            post(&t->all->lane[i], &b->shares[i], share_here);
    serve(t, mine);
    share_back(&mine->mail, t);
}

static bool turn_split(struct lane_thread *t)
{
    bool worked = false;
    struct share *s;

    for (uint32_t c = 0; c < t->all->n; c++)
        while ((s = spsc_pop(&t->requests[c]))) {
            serve(t, s);
            push(&t->replies[c], s);
            worked = true;
        }
    for (uint32_t l = 0; l < t->all->n; l++)
        while ((s = spsc_pop(&t->all->lane[l].replies[t->idx]))) {
            worked = true;
            if (--s->batch->todo == 0)
                batch_done(t, s->batch);
        }
    return worked;
}

static bool turn_scatter(struct lane_thread *t)
{
    struct batch *b = spsc_pop(&t->requests[t->idx]);
    bool worked = b;

    if (b)
        scatter(t, b);
    worked |= mailbox_run(&t->mailbox, t, 64) > 0;
    while ((b = spsc_pop(&t->replies[t->idx]))) {
        worked = true;
        batch_done(t, b);
    }
    return worked;
}

static bool turn_striped(struct lane_thread *t)
{
    struct lanes *all = t->all;

    for (uint32_t i = 0; i < KEYS; i++) {
        struct hash128 h = next_key(t);
        uint32_t stripe = (uint32_t)(h.hi >> 20) % STRIPES;

        if (all->way == STRIPED_MUTEX)
            pthread_mutex_lock(&all->mutex[stripe]);
        else
            pthread_spin_lock(&all->spin[stripe]);
        t->found += look(&all->shared, h);
        if (all->way == STRIPED_MUTEX)
            pthread_mutex_unlock(&all->mutex[stripe]);
        else
            pthread_spin_unlock(&all->spin[stripe]);
    }
    t->served++;
    return true;
}

static bool turn(struct lane_thread *t)
{
    return t->all->way == SPLIT     ? turn_split(t)
           : t->all->way == SCATTER ? turn_scatter(t)
                                    : turn_striped(t);
}

/* What is in flight at the stop is forgotten: rings and mailboxes are made
 * anew for each run. */
static void *lane_main(void *arg)
{
    struct lane_thread *t = arg;
    struct lanes *all = t->all;
    struct timespec from, to;

    pthread_barrier_wait(&all->start);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    if (all->way == SPLIT || all->way == SCATTER)
        for (uint32_t i = 0; i < FLIGHT; i++)
            batch_issue(t, &t->batches[i]);
    while (!atomic_load_explicit(&all->stop, memory_order_relaxed))
        if (!turn(t))
            sched_yield();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    t->cpu_s = (double)(to.tv_sec - from.tv_sec) +
               (double)(to.tv_nsec - from.tv_nsec) / 1e9;
    return NULL;
}

/* ---- Runs ---- */

static void store_block(struct catalog *c, struct hash128 h)
{
    uint32_t at = catalog_new(c, h);

    if (!at || !catalog_hot_new(c, at))
        bench_die("the catalog is full");
    c->entries[at].state = BLOCK_LIVE;
}

static void run_way(struct lanes *all, enum way way, double *cpu_ns,
                    double *per_s)
{
    uint64_t served = 0, found = 0;
    double cpu = 0;

    all->way = way;
    atomic_store(&all->stop, false);
    pthread_barrier_init(&all->start, NULL, all->n + 1);
    for (uint32_t i = 0; i < all->n; i++) {
        struct lane_thread *t = &all->lane[i];

        memset(t->requests, 0, sizeof t->requests);
        memset(t->replies, 0, sizeof t->replies);
        mailbox_init(&t->mailbox, 4096, NULL, NULL);
        t->served = t->found = 0;
        if (pthread_create(&t->thread, NULL, lane_main, t))
            bench_die("cannot start a thread");
    }
    pthread_barrier_wait(&all->start);
    usleep((useconds_t)(all->seconds * 1e6));
    atomic_store(&all->stop, true);
    for (uint32_t i = 0; i < all->n; i++) {
        struct lane_thread *t = &all->lane[i];

        pthread_join(t->thread, NULL);
        served += t->served;
        found += t->found;
        cpu += t->cpu_s;
    }
    if (served == 0 || found < served * KEYS)
        bench_die("%s: %llu of %llu keys found", way_names[way],
                  (unsigned long long)found, (unsigned long long)served * KEYS);
    *cpu_ns = cpu / (double)served * 1e9;
    *per_s = (double)served / all->seconds;
}

static int double_order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void print_way(enum way way, double *cpu, double *rate)
{
    qsort(cpu, ROUNDS, sizeof *cpu, double_order);
    qsort(rate, ROUNDS, sizeof *rate, double_order);
    printf("%-22s CPU of a batch %7.0f ns (%.0f to %.0f)   %8.0f batches/s\n",
           way_names[way], cpu[ROUNDS / 2], cpu[0], cpu[ROUNDS - 1],
           rate[ROUNDS / 2]);
}

static void set_up(struct lanes *all)
{
    if (catalog_init(&all->shared, all->blocks + 1, all->blocks + 1))
        bench_die("out of memory");
    for (uint32_t i = 0; i < STRIPES; i++) {
        pthread_mutex_init(&all->mutex[i], NULL);
        pthread_spin_init(&all->spin[i], PTHREAD_PROCESS_PRIVATE);
    }
    for (uint32_t i = 0; i < all->n; i++) {
        all->lane[i].all = all;
        all->lane[i].idx = i;
        all->lane[i].seed = 88172645463325252u + i * 977;
        if (catalog_init(&all->lane[i].catalog, all->blocks + 1,
                         all->blocks + 1))
            bench_die("out of memory");
    }
    for (uint64_t id = 0; id < all->blocks; id++) {
        struct hash128 h = hash_of(id);

        store_block(&all->shared, h);
        store_block(&all->lane[lane_of(h, all->n)].catalog, h);
    }
}

int bench_lanes(int argc, char **argv)
{
    static struct lanes all = {.n = 4, .blocks = 1 << 20, .seconds = 1};
    double cpu[WAYS][ROUNDS], rate[WAYS][ROUNDS];
    static const struct option longs[] = {{"lanes", 1, 0, 'l'},
                                          {"blocks", 1, 0, 'b'},
                                          {"seconds", 1, 0, 's'},
                                          {0, 0, 0, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 'l')
            all.n = (uint32_t)strtoul(optarg, NULL, 10);
        else if (c == 'b')
            all.blocks = (uint32_t)strtoul(optarg, NULL, 10);
        else if (c == 's')
            all.seconds = strtod(optarg, NULL);
        else
            bench_die("usage: pikv-bench lanes [--lanes N] [--blocks N] "
                      "[--seconds S]");
    }
    if (all.n < 1 || all.n > LANES || all.blocks < KEYS || all.seconds <= 0)
        bench_die("lanes: --lanes is 1 to %d, --blocks at least %d", LANES,
                  KEYS);
    set_up(&all);
    printf("%u threads, %ld CPUs, %u blocks, batches of %d keys, median of "
           "%d rounds\n",
           all.n, sysconf(_SC_NPROCESSORS_ONLN), all.blocks, KEYS, ROUNDS);
    for (uint32_t round = 0; round < ROUNDS; round++)
        for (uint32_t w = 0; w < WAYS; w++)
            run_way(&all, (enum way)w, &cpu[w][round], &rate[w][round]);
    for (uint32_t w = 0; w < WAYS; w++)
        print_way((enum way)w, cpu[w], rate[w]);
    return 0;
}
