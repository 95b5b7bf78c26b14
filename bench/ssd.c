/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon's disk layer alone (server/disk_open.h), beside fio: random reads
 * or writes of one file at sizes and depths, as a lane would do them. What it
 * gives is the most that a GET from the SSD can give.
 *
 *   file, filled once -> for each size and depth: rounds of (disk, fio)
 *
 * Both get the same file, size, depth, direct i/o and time, one after the
 * other, so that a device that slows down slows both. A round is one sample;
 * the medians are shown. Latency is from submit to done, for fio the sum of its
 * submission and completion latencies. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/units.h"
#include "bench/bench.h"
#include "server/disk_open.h"

enum { SSD_DEPTH_MAX = 64, SSD_LIST = 16, SSD_ROUNDS = 15 };

struct ssd_args {
    const char *path;
    uint64_t bytes;
    uint64_t sizes[SSD_LIST], depths[SSD_LIST];
    uint32_t size_n, depth_n, rounds;
    double seconds;
    enum disk_what what;
    enum config_engine engine;
    bool registered, with_fio;
};

struct ssd_sample {
    double mb_s, p50_us, p99_us;
};

struct ssd_run {
    const struct ssd_args *a;
    struct disk *disk;
    struct env env;
    struct metrics metrics;
    uint8_t *mem;
    int fd;
    uint64_t size, ends_ns, done_n;
    struct bench_lat lat;
};

struct ssd_io {
    struct disk_io io;
    struct span span;
    struct ssd_run *run;
};

/* ---- options */

static uint32_t list_of(const char *option, const char *text, bool bytes,
                        uint64_t out[SSD_LIST])
{
    char copy[256], *save, *word;
    uint32_t n = 0;

    snprintf(copy, sizeof copy, "%s", text);
    for (word = strtok_r(copy, ",", &save); word && n < SSD_LIST;
         word = strtok_r(NULL, ",", &save)) {
        out[n] = bytes ? bench_bytes(option, word) : strtoull(word, NULL, 10);
        if (out[n] == 0 || (!bytes && out[n] > SSD_DEPTH_MAX) ||
            (bytes && (out[n] % DISK_PAGE || out[n] > DISK_IO_BYTES)))
            bench_die("%s %s: sizes are pages up to 16MiB, depths up to %d",
                      option, word, SSD_DEPTH_MAX);
        n++;
    }
    return n;
}

static const char usage[] =
    "usage: pikv-bench ssd --path FILE [OPTIONS]\n\n"
    "  --path FILE        made with --bytes if it is not there; a block "
    "device\n"
    "                     is read as it is, --write destroys what it holds\n"
    "  --bytes SIZE       of a new file (1GiB): so much is written to it\n"
    "  --sizes LIST       (64KiB,256KiB,1MiB,4MiB,16MiB)\n"
    "  --depths LIST      (1,4,16)\n"
    "  --seconds S        of a round (2)\n"
    "  --rounds N         the median counts (3)\n"
    "  --write            random writes instead of reads\n"
    "  --engine NAME      auto, uring or sync\n"
    "  --registered       registered memory\n"
    "  --without-fio      no fio beside it\n";

static enum config_engine engine_of(const char *name)
{
    if (strcmp(name, "uring") == 0)
        return ENGINE_URING;
    if (strcmp(name, "sync") == 0)
        return ENGINE_SYNC;
    if (strcmp(name, "auto") != 0)
        bench_die("--engine %s: auto, uring or sync", name);
    return ENGINE_AUTO;
}

static void ssd_option(struct ssd_args *a, int c)
{
    switch (c) {
    case 'p':
        a->path = optarg;
        break;
    case 'b':
        a->bytes = bench_bytes("--bytes", optarg);
        break;
    case 'z':
        a->size_n = list_of("--sizes", optarg, true, a->sizes);
        break;
    case 'd':
        a->depth_n = list_of("--depths", optarg, false, a->depths);
        break;
    case 's':
        a->seconds = strtod(optarg, NULL);
        break;
    case 'r':
        a->rounds = (uint32_t)strtoul(optarg, NULL, 10);
        break;
    case 'w':
        a->what = DISK_WRITE;
        break;
    case 'e':
        a->engine = engine_of(optarg);
        break;
    case 'm':
        a->registered = true;
        break;
    case 'f':
        a->with_fio = false;
        break;
    default:
        fputs(usage, stdout);
        exit(c == 'h' ? 0 : 2);
    }
}

static void ssd_options(struct ssd_args *a, int argc, char **argv)
{
    static const struct option options[] = {
        {"path", 1, NULL, 'p'},       {"bytes", 1, NULL, 'b'},
        {"sizes", 1, NULL, 'z'},      {"depths", 1, NULL, 'd'},
        {"seconds", 1, NULL, 's'},    {"rounds", 1, NULL, 'r'},
        {"write", 0, NULL, 'w'},      {"engine", 1, NULL, 'e'},
        {"registered", 0, NULL, 'm'}, {"without-fio", 0, NULL, 'f'},
        {"help", 0, NULL, 'h'},       {NULL, 0, NULL, 0}};
    int c;

    *a = (struct ssd_args){.bytes = GIB(1),
                           .seconds = 2,
                           .rounds = 3,
                           .what = DISK_READ,
                           .with_fio = true};
    a->size_n = list_of("", "64KiB,256KiB,1MiB,4MiB,16MiB", true, a->sizes);
    a->depth_n = list_of("", "1,4,16", false, a->depths);
    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1)
        ssd_option(a, c);
    if (!a->path || optind != argc || a->seconds <= 0 || a->rounds == 0 ||
        a->rounds > SSD_ROUNDS)
        ssd_option(a, '?');
}

/* ---- the file */

/* A file is filled before it is measured: reads of what was never written do
 * not reach the device. */
static void ssd_fill(struct ssd_run *r)
{
    for (uint64_t off = 0; off < r->a->bytes; off += MIB(1)) {
        bench_fill(off, r->mem, MIB(1));
        if (pwrite(r->fd, r->mem, MIB(1), (off_t)off) != (ssize_t)MIB(1))
            bench_die("%s: cannot write: %s", r->a->path, strerror(errno));
    }
    if (fsync(r->fd) != 0)
        bench_die("%s: cannot sync: %s", r->a->path, strerror(errno));
}

static uint64_t ssd_open_file(struct ssd_run *r)
{
    off_t end;

    r->fd =
        open(r->a->path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, (mode_t)0600);
    if (r->fd < 0)
        bench_die("%s: cannot open with O_DIRECT: %s", r->a->path,
                  strerror(errno));
    end = lseek(r->fd, 0, SEEK_END);
    if (end > 0)
        return (uint64_t)end;
    ssd_fill(r);
    return r->a->bytes;
}

static void ssd_open(struct ssd_run *r)
{
    uint64_t mem_bytes = (uint64_t)SSD_DEPTH_MAX * DISK_IO_BYTES;
    struct errmsg m;
    struct span mem;
    struct disk_cfg cfg = {.engine = r->a->engine,
                           .dev_n = 1,
                           .env = &r->env,
                           .metrics = &r->metrics};

    r->mem = mmap(NULL, mem_bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (r->mem == MAP_FAILED)
        bench_die("out of memory");
    cfg.bytes[0] = ssd_open_file(r);
    cfg.fds[0] = r->fd;
    mem = (struct span){r->mem, mem_bytes};
    cfg.mems = &mem;
    cfg.mem_n = r->a->registered;
    if (disk_open(&r->disk, &cfg, &m) != OK)
        bench_die("%s", m.text);
    if (r->a->registered && (disk_register(r->disk, UINT64_MAX) ||
                             disk_registered_bytes(r->disk) != mem_bytes))
        bench_die("--registered: refused, raise the memlock limit");
}

/* ---- a round of ours */

static uint64_t ssd_clock(void *arg)
{
    (void)arg;
    return bench_now_ns();
}

static void ssd_start(struct ssd_io *t)
{
    struct ssd_run *r = t->run;
    uint64_t slots = r->disk->dev_bytes[0] / r->size;

    t->io.off = env_random(&r->env) % slots * r->size;
    disk_submit(r->disk, &t->io);
}

static void ssd_done(struct disk_io *io)
{
    struct ssd_io *t = container_of(io, struct ssd_io, io);
    struct ssd_run *r = t->run;
    uint64_t now = bench_now_ns();

    if (io->err != OK)
        bench_die("%s: i/o failed", r->a->path);
    bench_lat_add(&r->lat, now - io->began_ns);
    r->done_n++;
    if (now < r->ends_ns)
        ssd_start(t);
}

/* As a lane: works while there is work, then sleeps armed. */
static void ssd_loop(struct ssd_run *r)
{
    struct pollfd p = {.fd = disk_fd(r->disk), .events = POLLIN};

    while (r->disk->in_flight > 0) {
        if (r->disk->ops->progress(r->disk) || r->disk->in_flight == 0 ||
            !r->disk->ops->arm(r->disk))
            continue;
        if (poll(&p, 1, 10000) < 0 && errno != EINTR)
            bench_die("poll: %s", strerror(errno));
        r->disk->ops->awake(r->disk);
    }
}

static struct ssd_sample ssd_round(struct ssd_run *r, uint64_t size,
                                   uint64_t depth)
{
    struct ssd_io ios[SSD_DEPTH_MAX];
    uint64_t began = bench_now_ns();
    struct ssd_sample s;

    r->size = size;
    r->done_n = 0;
    r->ends_ns = began + (uint64_t)(r->a->seconds * 1e9);
    for (uint64_t i = 0; i < depth; i++) {
        ios[i] = (struct ssd_io){.run = r};
        ios[i].span = (struct span){r->mem + i * DISK_IO_BYTES, size};
        ios[i].io = (struct disk_io){.what = r->a->what,
                                     .len = size,
                                     .spans = &ios[i].span,
                                     .span_n = 1,
                                     .done = ssd_done};
        ssd_start(&ios[i]);
    }
    ssd_loop(r);
    s.mb_s = (double)(r->done_n * size) / 1e6 /
             ((double)(bench_now_ns() - began) / 1e9);
    s.p50_us = bench_lat_us(&r->lat, 0.5);
    s.p99_us = bench_lat_us(&r->lat, 0.99);
    bench_lat_free(&r->lat);
    return s;
}

/* ---- a round of fio */

static double fio_ns(json_t *job, const char *what, const char *percentile)
{
    json_t *lat = json_object_get(json_object_get(job, what), "lat_ns");

    return json_number_value(
        json_object_get(json_object_get(lat, "percentile"), percentile));
}

static struct ssd_sample fio_parse(FILE *f)
{
    struct ssd_sample s = {0};
    json_error_t error;
    json_t *root, *job;
    const char *what;
    int c;

    /* Notes may stand before the object. */
    while ((c = fgetc(f)) != EOF && c != '{')
        ;
    ungetc(c, f);
    root = json_loadf(f, JSON_DISABLE_EOF_CHECK, &error);
    job = json_array_get(json_object_get(root, "jobs"), 0);
    if (!job)
        bench_die("fio: no result: is it installed (make bench does it)?");
    what = json_integer_value(
               json_object_get(json_object_get(job, "read"), "io_bytes"))
               ? "read"
               : "write";
    s.mb_s = json_number_value(
                 json_object_get(json_object_get(job, what), "bw_bytes")) /
             1e6;
    s.p50_us = fio_ns(job, what, "50.000000") / 1000;
    s.p99_us = fio_ns(job, what, "99.000000") / 1000;
    json_decref(root);
    return s;
}

static struct ssd_sample fio_round(const struct ssd_run *r, uint64_t size,
                                   uint64_t depth)
{
    char command[1024];
    struct ssd_sample s;
    FILE *f;

    if (strchr(r->a->path, '\''))
        bench_die("--path: a quote in a path; use --without-fio");
    snprintf(
        command, sizeof command,
        "exec fio --name=ssd --filename='%s' --direct=1 "
        "--ioengine=io_uring --rw=%s --bs=%" PRIu64 " --iodepth=%" PRIu64
        " --size=%" PRIu64 " --runtime=%g --time_based --lat_percentiles=1 "
        "--randrepeat=0 --norandommap --fixedbufs=%d "
        "--output-format=json 2>/dev/null",
        r->a->path, r->a->what == DISK_READ ? "randread" : "randwrite", size,
        depth, r->disk->dev_bytes[0], r->a->seconds, r->a->registered);
    f = popen(command, "r");
    if (!f)
        bench_die("cannot start fio: %s", strerror(errno));
    s = fio_parse(f);
    pclose(f);
    return s;
}

/* ---- the table */

static int by_rate(const void *a, const void *b)
{
    const struct ssd_sample *x = a, *y = b;

    return (x->mb_s > y->mb_s) - (x->mb_s < y->mb_s);
}

static struct ssd_sample median(struct ssd_sample *s, uint32_t n)
{
    qsort(s, n, sizeof *s, by_rate);
    return s[n / 2];
}

static void ssd_row(struct ssd_run *r, uint64_t size, uint64_t depth)
{
    struct ssd_sample ours[SSD_ROUNDS], fios[SSD_ROUNDS], o, f;
    char text[32];

    for (uint32_t i = 0; i < r->a->rounds; i++) {
        ours[i] = ssd_round(r, size, depth);
        if (r->a->with_fio)
            fios[i] = fio_round(r, size, depth);
    }
    o = median(ours, r->a->rounds);
    printf("%-8s %5" PRIu64 "  %7.0f %8.0f %8.0f",
           units_print_bytes(size, text), depth, o.mb_s, o.p50_us, o.p99_us);
    if (r->a->with_fio) {
        f = median(fios, r->a->rounds);
        printf("  %7.0f %8.0f %8.0f  %5.2f %5.2f", f.mb_s, f.p50_us, f.p99_us,
               o.mb_s / f.mb_s, o.p99_us / f.p99_us);
    }
    putchar('\n');
    fflush(stdout);
}

int bench_ssd(int argc, char **argv)
{
    struct ssd_args a;
    struct ssd_run r = {.a = &a, .env = {.clock_ns = ssd_clock}};

    ssd_options(&a, argc, argv);
    r.env.rng[0] = 1;
    r.env.rng[1] = bench_now_ns();
    ssd_open(&r);
    printf("%s of %s, engine %s%s: MB/s and us\n",
           a.what == DISK_READ ? "random reads" : "random writes", a.path,
           r.disk->ops->name, a.registered ? ", registered" : "");
    printf("size     depth     disk      p50      p99%s\n",
           a.with_fio ? "      fio      p50      p99   rate   p99" : "");
    for (uint32_t i = 0; i < a.size_n; i++) {
        for (uint32_t j = 0; j < a.depth_n; j++)
            ssd_row(&r, a.sizes[i], a.depths[j]);
    }
    disk_close(r.disk);
    close(r.fd);
    return 0;
}
