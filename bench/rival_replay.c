/* SPDX-License-Identifier: Apache-2.0
 *
 * pikv-bench rival-replay: the trace of `replay` against Redis or memcached,
 * with the same blocks, the same checks and the same JSON. Neither can say how
 * long a prefix it has, so a request is
 *
 *   get its blocks, 32 at a time, until one is missing -> set the rest
 *
 * One thread and one connection for each request at a time; block bytes are
 * read straight into the client's buffer. What came after the first miss of a
 * batch is moved, as any client of such a store would, and does not count. */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/trace.h"

enum { BATCH = 32, KEY_BYTES = 24, LINE = 4096 };

struct options {
    const char *kind, *address, *trace, *json;
    uint64_t block_bytes, from, limit;
    uint32_t depth;
    int pid;
    bool redis;
};

struct shared {
    struct options opt;
    struct bench_trace trace;
    uint64_t next; /* atomic: the request to take */
};

struct worker {
    struct shared *s;
    pthread_t thread;
    int fd;
    uint8_t *data; /* BATCH blocks */
    bool here[BATCH];
    char in[LINE];
    size_t in_at, in_n;
    struct bench_lat lat[2]; /* GET, PUT */
    uint64_t requests, refs, hits, bytes_get, bytes_put, verify_errors;
};

/* ---- One connection ---- */

static int dial(const char *path)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
    if (connect(fd, (struct sockaddr *)&un, sizeof un))
        bench_die("cannot connect to %s: %s", path, strerror(errno));
    return fd;
}

static void write_all(struct worker *w, struct iovec *v, int n)
{
    while (n) {
        ssize_t k = writev(w->fd, v, n);

        if (k <= 0)
            bench_die("writing to %s: %s", w->s->opt.kind, strerror(errno));
        for (; n && (size_t)k >= v->iov_len; v++, n--)
            k -= (ssize_t)v->iov_len;
        if (n) {
            v->iov_base = (uint8_t *)v->iov_base + k;
            v->iov_len -= (size_t)k;
        }
    }
}

static size_t read_more(struct worker *w, void *to, size_t n)
{
    ssize_t k = read(w->fd, to, n);

    if (k <= 0)
        bench_die("reading from %s: %s", w->s->opt.kind,
                  k ? strerror(errno) : "it closed the connection");
    return (size_t)k;
}

/* The next line without its end; valid until the next call. */
static char *read_line(struct worker *w)
{
    for (;;) {
        char *from = w->in + w->in_at;
        char *end = memchr(from, '\n', w->in_n - w->in_at);

        if (end) {
            w->in_at = (size_t)(end + 1 - w->in);
            end[end > from && end[-1] == '\r' ? -1 : 0] = '\0';
            return from;
        }
        memmove(w->in, from, w->in_n - w->in_at);
        w->in_n -= w->in_at;
        w->in_at = 0;
        if (w->in_n == LINE)
            bench_die("%s sent a line too long", w->s->opt.kind);
        w->in_n += read_more(w, w->in + w->in_n, LINE - w->in_n);
    }
}

static void read_bytes(struct worker *w, uint8_t *to, size_t n)
{
    size_t have = w->in_n - w->in_at, take = have < n ? have : n;

    memcpy(to, w->in + w->in_at, take);
    w->in_at += take;
    for (; take < n;)
        take += read_more(w, to + take, n - take);
    read_line(w); /* the \r\n behind them */
}

/* ---- Requests ---- */

struct text {
    char bytes[BATCH * 96];
    size_t len;
};

static void __attribute__((format(printf, 2, 3)))
say(struct text *t, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(t->bytes + t->len, sizeof t->bytes - t->len, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof t->bytes - t->len)
        bench_die("a request is too long");
    t->len += (size_t)n;
}

static int key_print(struct worker *w, uint32_t id, char key[KEY_BYTES])
{
    return snprintf(key, KEY_BYTES, "conv:%llu",
                    (unsigned long long)w->s->trace.names[id]);
}

static void ask_get(struct worker *w, const uint32_t *ids, uint32_t n)
{
    bool redis = w->s->opt.redis;
    struct text t = {.len = 0};
    char key[KEY_BYTES];
    struct iovec v;

    if (redis)
        say(&t, "*%u\r\n$4\r\nMGET\r\n", n + 1);
    else
        say(&t, "get");
    for (uint32_t i = 0; i < n; i++) {
        int k = key_print(w, ids[i], key);

        if (redis)
            say(&t, "$%d\r\n%s\r\n", k, key);
        else
            say(&t, " %s", key);
    }
    if (!redis)
        say(&t, "\r\n");
    v = (struct iovec){t.bytes, t.len};
    write_all(w, &v, 1);
}

static void take_redis(struct worker *w, uint32_t n)
{
    uint64_t size = w->s->opt.block_bytes;

    if (read_line(w)[0] != '*')
        bench_die("redis did not answer MGET");
    for (uint32_t i = 0; i < n; i++) {
        long long len = strtoll(read_line(w) + 1, NULL, 10);

        w->here[i] = len >= 0;
        if (len >= 0)
            read_bytes(w, w->data + i * size, size);
    }
}

/* What is there comes in the order asked, what is not is left out. */
static void take_memcached(struct worker *w, const uint32_t *ids, uint32_t n)
{
    char key[KEY_BYTES];
    uint32_t i = 0;
    char *line;

    while (strncmp(line = read_line(w), "VALUE ", 6) == 0) {
        for (; i < n; i++) {
            int k = key_print(w, ids[i], key);

            if (strncmp(line + 6, key, (size_t)k) == 0 && line[6 + k] == ' ')
                break;
        }
        if (i == n)
            bench_die("memcached answered what was not asked: %.40s", line);
        w->here[i] = true;
        read_bytes(w, w->data + i * w->s->opt.block_bytes,
                   w->s->opt.block_bytes);
        i++;
    }
    if (strcmp(line, "END") != 0)
        bench_die("memcached answered: %.60s", line);
}

/* Blocks of the batch that are there before the first that is not. */
static uint32_t get_batch(struct worker *w, const uint32_t *ids, uint32_t n)
{
    uint64_t size = w->s->opt.block_bytes, begun = bench_now_ns();
    uint32_t hit = 0;

    memset(w->here, 0, sizeof w->here);
    ask_get(w, ids, n);
    if (w->s->opt.redis)
        take_redis(w, n);
    else
        take_memcached(w, ids, n);
    bench_lat_add(&w->lat[0], bench_now_ns() - begun);
    for (; hit < n && w->here[hit]; hit++) {
        w->bytes_get += size;
        if (!bench_verify(ids[hit], w->data + hit * size, size))
            w->verify_errors++;
    }
    return hit;
}

static void put_batch(struct worker *w, const uint32_t *ids, uint32_t n)
{
    uint64_t size = w->s->opt.block_bytes, begun;
    struct text t = {.len = 0};
    struct iovec v[3 * BATCH];
    static char end[] = "\r\n";
    char key[KEY_BYTES];

    for (uint32_t i = 0; i < n; i++) {
        int k = key_print(w, ids[i], key);
        size_t from = t.len;

        if (w->s->opt.redis)
            say(&t, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%llu\r\n", k, key,
                (unsigned long long)size);
        else
            say(&t, "set %s 0 0 %llu\r\n", key, (unsigned long long)size);
        bench_fill(ids[i], w->data + i * size, size);
        v[3 * i] = (struct iovec){t.bytes + from, t.len - from};
        v[3 * i + 1] = (struct iovec){w->data + i * size, size};
        v[3 * i + 2] = (struct iovec){end, 2};
    }
    begun = bench_now_ns(); /* making the bytes is not the store's time */
    write_all(w, v, (int)(3 * n));
    for (uint32_t i = 0; i < n; i++) {
        const char *line = read_line(w);

        if (strcmp(line, "+OK") == 0 || strcmp(line, "STORED") == 0)
            w->bytes_put += size;
        else if (!strstr(line, "memory"))
            bench_die("%s answered: %.60s", w->s->opt.kind, line);
    }
    bench_lat_add(&w->lat[1], bench_now_ns() - begun);
}

static void serve(struct worker *w, const struct bench_request *req)
{
    const uint32_t *ids = w->s->trace.ids + req->first;
    uint32_t at = 0, n, hit;

    do {
        n = req->n - at < BATCH ? req->n - at : BATCH;
        hit = n ? get_batch(w, ids + at, n) : 0;
        at += hit;
    } while (hit == n && at < req->n);
    w->hits += at;
    for (; at < req->n; at += n) {
        n = req->n - at < BATCH ? req->n - at : BATCH;
        put_batch(w, ids + at, n);
    }
    w->refs += req->n;
    w->requests++;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    uint64_t i;

    while ((i = __atomic_fetch_add(&w->s->next, 1, __ATOMIC_RELAXED)) <
           w->s->opt.limit)
        serve(w, &w->s->trace.requests[i]);
    return NULL;
}

/* ---- The whole ---- */

static void usage(void)
{
    puts("usage: pikv-bench rival-replay --kind redis|memcached --address PATH "
         "--trace FILE\n"
         "         [--block SIZE] [--from N] [--limit N] [--depth N] [--pid N] "
         "[--json FILE]");
}

static void parse(struct options *o, int argc, char **argv)
{
    static const struct option longs[] = {
        {"kind", 1, 0, 'k'},  {"address", 1, 0, 'a'},
        {"trace", 1, 0, 't'}, {"block", 1, 0, 'b'},
        {"from", 1, 0, 'f'},  {"limit", 1, 0, 'l'},
        {"depth", 1, 0, 'd'}, {"pid", 1, 0, 'P'},
        {"json", 1, 0, 'j'},  {"help", 0, 0, 'h'},
        {0, 0, 0, 0}};
    int c;

    *o =
        (struct options){.block_bytes = 65536, .depth = 4, .limit = UINT64_MAX};
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'k':
            o->kind = optarg;
            break;
        case 'a':
            o->address = optarg;
            break;
        case 't':
            o->trace = optarg;
            break;
        case 'b':
            o->block_bytes = bench_bytes("--block", optarg);
            break;
        case 'f':
            o->from = strtoull(optarg, NULL, 0);
            break;
        case 'l':
            o->limit = strtoull(optarg, NULL, 0);
            break;
        case 'd':
            o->depth = (uint32_t)strtoul(optarg, NULL, 0);
            break;
        case 'P':
            o->pid = (int)strtoul(optarg, NULL, 10);
            break;
        case 'j':
            o->json = optarg;
            break;
        case 'h':
            usage();
            exit(0);
        default:
            usage();
            exit(2);
        }
    }
    if (!o->kind || !o->address || !o->trace || o->depth < 1 || o->depth > 64 ||
        o->block_bytes % 8) {
        usage();
        exit(2);
    }
    o->redis = strcmp(o->kind, "redis") == 0;
    if (!o->redis && strcmp(o->kind, "memcached") != 0)
        bench_die("rival-replay: --kind is redis or memcached");
}

static void report(struct shared *s, struct worker *sum, double wall_s,
                   double cpu_s)
{
    FILE *f = s->opt.json ? fopen(s->opt.json, "w") : stdout;

    if (!f)
        bench_die("--json %s: %s", s->opt.json, strerror(errno));
    fprintf(f,
            "{\"requests\": %llu, \"refs\": %llu, \"hits\": %llu, "
            "\"bytes_get\": %llu, \"bytes_put\": %llu, \"wall_s\": %.3f, "
            "\"cpu_s\": %.3f, \"verify_errors\": %llu, "
            "\"GET_p50_us\": %.1f, \"GET_p99_us\": %.1f, "
            "\"PUT_p50_us\": %.1f, \"PUT_p99_us\": %.1f}\n",
            (unsigned long long)sum->requests, (unsigned long long)sum->refs,
            (unsigned long long)sum->hits, (unsigned long long)sum->bytes_get,
            (unsigned long long)sum->bytes_put, wall_s, cpu_s,
            (unsigned long long)sum->verify_errors,
            bench_lat_us(&sum->lat[0], 0.5), bench_lat_us(&sum->lat[0], 0.99),
            bench_lat_us(&sum->lat[1], 0.5), bench_lat_us(&sum->lat[1], 0.99));
    if (f != stdout && fclose(f))
        bench_die("--json %s: %s", s->opt.json, strerror(errno));
}

static void add(struct worker *sum, const struct worker *w)
{
    sum->requests += w->requests;
    sum->refs += w->refs;
    sum->hits += w->hits;
    sum->bytes_get += w->bytes_get;
    sum->bytes_put += w->bytes_put;
    sum->verify_errors += w->verify_errors;
    for (int i = 0; i < 2; i++)
        bench_lat_join(&sum->lat[i], &w->lat[i]);
}

int bench_rival_replay(int argc, char **argv)
{
    struct shared s = {0};
    struct worker *workers, sum = {0};
    struct errmsg m = {""};
    uint64_t begun;
    double cpu_s;

    parse(&s.opt, argc, argv);
    if (bench_trace_load(s.opt.trace, &s.trace, &m))
        bench_die("%s", m.text);
    if (s.opt.from > s.trace.requests_n)
        bench_die("rival-replay: --from is beyond the trace");
    if (s.opt.limit > s.trace.requests_n - s.opt.from)
        s.opt.limit = s.trace.requests_n - s.opt.from;
    s.next = s.opt.from;
    s.opt.limit += s.opt.from;
    workers = calloc(s.opt.depth, sizeof *workers);
    for (uint32_t i = 0; workers && i < s.opt.depth; i++) {
        workers[i].s = &s;
        workers[i].fd = dial(s.opt.address);
        workers[i].data = malloc(BATCH * s.opt.block_bytes);
        if (!workers[i].data)
            bench_die("out of memory");
    }
    if (!workers)
        bench_die("out of memory");
    begun = bench_now_ns();
    cpu_s = bench_cpu_s(s.opt.pid);
    for (uint32_t i = 0; i < s.opt.depth; i++)
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
            bench_die("no thread");
    for (uint32_t i = 0; i < s.opt.depth; i++) {
        pthread_join(workers[i].thread, NULL);
        add(&sum, &workers[i]);
    }
    report(&s, &sum, (double)(bench_now_ns() - begun) / 1e9,
           bench_cpu_s(s.opt.pid) - cpu_s);
    bench_trace_free(&s.trace);
    return sum.verify_errors != 0;
}
