/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server rpc store base proto */
/* The disk contract, the same tests for every engine. */
#include "server/disk_open.h"

#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "lib/disk_mem.h"
#include "lib/ssd_dir.h"

enum { FILE_BYTES = 96 << 20, MEM_BYTES = 128 << 20, IOS = 256 };

struct test_io {
    struct disk_io io;
    struct span spans[DISK_IO_SPANS];
    uint32_t told;
};

/* The first FILE_ENGINES are the daemon's, the last is the tests' own. */
static const char *const engines[] = {"uring", "sync", "memory"};
enum { FILE_ENGINES = 2, MEMORY = 2 };

static char dir[200];
static int fds[2];
static uint8_t *mem;
static struct span mem_span;
static struct env env;
static struct metrics metrics;
static struct errmsg msg;
static struct disk *disk;
static struct disk_mem memory;
static struct mem_media *media;
static struct test_io ios[IOS];
static uint32_t told, log_lines;
static bool inside; /* a call into the disk that must not complete anything */

static uint64_t clock_ns(void *arg)
{
    uint64_t *n = arg;

    return ++*n;
}

static void count_line(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
    log_lines++;
}

static int make_file(const char *name)
{
    char path[240];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(posix_fallocate(fd, 0, FILE_BYTES), 0);
    return fd;
}

static void setup(void)
{
    static uint64_t ticks;

    fault_arm(0);
    log_sink_set(count_line, NULL);
    env = (struct env){.clock_ns = clock_ns, .arg = &ticks};
    memset(&metrics, 0, sizeof(metrics));
    memset(ios, 0, sizeof(ios));
    told = log_lines = 0;
    disk = NULL;
    mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(mem, MAP_FAILED);
    mem_span = (struct span){mem, MEM_BYTES / 2};
    fds[0] = fds[1] = -1;
    if (!ssd_dir_new(dir))
        return;
    fds[0] = make_file("a");
    fds[1] = make_file("b");
}

static void teardown(void)
{
    fault_arm(0);
    if (media)
        disk_mem_fini(&memory);
    else
        disk_close(disk);
    mem_media_free(media);
    media = NULL;
    close(fds[0]);
    close(fds[1]);
    ssd_dir_free(dir);
    log_sink_set(NULL, NULL);
}

static struct disk_cfg cfg_of(int engine)
{
    return (struct disk_cfg){.engine = engine == 0 ? ENGINE_URING : ENGINE_SYNC,
                             .dev_n = 2,
                             .fds = {fds[0], fds[1]},
                             .bytes = {FILE_BYTES, FILE_BYTES},
                             .env = &env,
                             .metrics = &metrics};
}

static bool open_memory(void)
{
    struct disk_mem_cfg cfg = {
        .env = &env, .latency_ns = 10, .spread_ns = 10, .seed = 1};

    cfg.shuffle = true;
    media = mem_media_new(2, FILE_BYTES, false);
    disk_mem_init(&memory, media, &cfg);
    disk = &memory.disk;
    return true;
}

/* false: the machine does not have what the test needs. */
static bool open_disk(int engine)
{
    struct disk_cfg cfg = cfg_of(engine);

    if (engine == MEMORY)
        return open_memory();
    if (fds[0] < 0)
        return false;
    if (disk_open(&disk, &cfg, &msg) == OK)
        return true;
    fprintf(stderr, "skipped: %s\n", msg.text);
    ck_assert_int_eq(engine, 0);
    return false;
}

static void done(struct disk_io *io)
{
    struct test_io *t = container_of(io, struct test_io, io);

    ck_assert(!inside);
    t->told++;
    told++;
}

static void submit(struct test_io *t)
{
    t->io.done = done;
    inside = true;
    disk_submit(disk, &t->io);
    inside = false;
}

/* Sleeps as a lane does: armed, on the descriptor. */
static void run_until(uint32_t n)
{
    struct pollfd p = {.fd = media ? -1 : disk_fd(disk), .events = POLLIN};
    bool more;

    while (told < n) {
        env.now_ns += media != NULL;
        while (disk->ops->progress(disk))
            ;
        if (media)
            continue;
        inside = true;
        more = told >= n || !disk->ops->arm(disk);
        inside = false;
        if (more)
            continue;
        ck_assert_int_eq(poll(&p, 1, 20000), 1);
        disk->ops->awake(disk);
    }
}

static struct test_io *io_of(uint32_t i, enum disk_what what, uint64_t off,
                             uint8_t *p, uint64_t len)
{
    struct test_io *t = &ios[i];

    *t = (struct test_io){.io = {.what = what, .off = off, .len = len}};
    t->spans[0] = (struct span){p, len};
    t->io.spans = t->spans;
    t->io.span_n = 1;
    return t;
}

static enum err do_io(enum disk_what what, uint64_t off, uint8_t *p,
                      uint64_t len)
{
    struct test_io *t = io_of(0, what, off, p, len);
    uint32_t before = told;

    submit(t);
    run_until(before + 1);
    ck_assert_uint_eq(t->told, 1);
    return t->io.err;
}

static void fill(uint8_t *p, uint64_t len, uint64_t seed)
{
    for (uint64_t i = 0; i + 8 <= len; i += 8) {
        uint64_t v = (seed + i) * UINT64_C(0x9e3779b97f4a7c15);

        memcpy(p + i, &v, 8);
    }
}

static bool is_filled(const uint8_t *p, uint64_t len, uint64_t seed)
{
    for (uint64_t i = 0; i + 8 <= len; i += 8) {
        uint64_t v = (seed + i) * UINT64_C(0x9e3779b97f4a7c15);

        if (memcmp(p + i, &v, 8) != 0)
            return false;
    }
    return true;
}

START_TEST(what_was_written_is_read_back_at_every_size)
{
    if (!open_disk(_i))
        return;
    ck_assert_str_eq(disk->ops->name, engines[_i]);
    for (uint64_t len = DISK_PAGE; len <= DISK_IO_BYTES; len *= 2) {
        uint8_t *back = mem + DISK_IO_BYTES;

        fill(mem, len, len);
        ck_assert_int_eq(do_io(DISK_WRITE, len, mem, len), OK);
        memset(back, 0, len + DISK_PAGE);
        ck_assert_int_eq(do_io(DISK_READ, len, back, len), OK);
        ck_assert(is_filled(back, len, len));
        ck_assert_uint_eq(back[len], 0);
        ck_assert_uint_gt(ios[0].io.began_ns, 0);
    }
    ck_assert_uint_eq(disk->in_flight, 0);
}
END_TEST

/* Backwards in memory with a gap between any two; spans may have any order. */
static void scatter(struct test_io *t, uint8_t *p, uint32_t n, uint64_t page_n)
{
    for (uint32_t i = 0; i < n; i++)
        t->spans[i] =
            (struct span){p + (uint64_t)(n - 1 - i) * (page_n + 1) * DISK_PAGE,
                          page_n * DISK_PAGE};
    t->io.span_n = n;
    t->io.len = n * page_n * DISK_PAGE;
}

static void check_scattered(uint32_t n, uint64_t page_n)
{
    uint8_t *gather = mem + MEM_BYTES / 2;
    uint64_t len = n * page_n * DISK_PAGE;
    struct test_io *t = io_of(0, DISK_WRITE, 0, mem, 0);
    uint32_t before = told;

    scatter(t, mem, n, page_n);
    for (uint32_t i = 0; i < n; i++)
        fill(t->spans[i].p, t->spans[i].len, i);
    submit(t);
    run_until(before + 1);
    ck_assert_int_eq(t->io.err, OK);
    memset(gather, 0xff, len);
    ck_assert_int_eq(do_io(DISK_READ, 0, gather, len), OK);
    for (uint32_t i = 0; i < n; i++)
        ck_assert(
            is_filled(gather + i * page_n * DISK_PAGE, page_n * DISK_PAGE, i));
    memset(mem, 0, MEM_BYTES / 2);
    t = io_of(0, DISK_READ, 0, mem, 0);
    scatter(t, mem, n, page_n);
    submit(t);
    run_until(before + 3);
    for (uint32_t i = 0; i < n; i++) {
        ck_assert(is_filled(t->spans[i].p, t->spans[i].len, i));
        ck_assert_uint_eq(t->spans[i].p[t->spans[i].len], 0);
    }
}

START_TEST(spans_are_gathered_and_scattered_in_their_order)
{
    if (!open_disk(_i))
        return;
    check_scattered(2, 1);
    check_scattered(DISK_IO_SPANS, 1);
    check_scattered(DISK_IO_SPANS, 8);
    check_scattered(3, 511);
}
END_TEST

START_TEST(neighbouring_spans_are_one_transfer)
{
    struct test_io *t;

    if (!open_disk(_i))
        return;
    fill(mem, MIB(1), 3);
    t = io_of(0, DISK_WRITE, 0, mem, 0);
    for (uint32_t i = 0; i < 256; i++)
        t->spans[i] = (struct span){mem + i * DISK_PAGE, DISK_PAGE};
    t->io.span_n = 256;
    t->io.len = MIB(1);
    submit(t);
    run_until(1);
    ck_assert_int_eq(do_io(DISK_READ, 0, mem + MIB(1), MIB(1)), OK);
    ck_assert(is_filled(mem + MIB(1), MIB(1), 3));
}
END_TEST

/* Arms ever later points until one of this name fires; what the io came to. */
static enum err do_io_with(const char *point, enum disk_what what, uint64_t off,
                           uint8_t *p, uint64_t len)
{
    for (uint32_t i = 1; i < 10; i++) {
        enum err e;
        bool hit;

        fault_arm(i);
        e = do_io(what, off, p, len);
        hit = fault_hit() && strcmp(fault_point(), point) == 0;
        fault_arm(0);
        if (hit)
            return e;
    }
    ck_abort_msg("%s was not met", point);
    return OK;
}

START_TEST(a_short_transfer_is_continued)
{
    if (!open_disk(_i))
        return;
    fill(mem, MIB(1), 9);
    ck_assert_int_eq(do_io_with("disk_short", DISK_WRITE, 0, mem, MIB(1)), OK);
    memset(mem, 0, MIB(1));
    ck_assert_int_eq(do_io_with("disk_short", DISK_READ, 0, mem, MIB(1)), OK);
    ck_assert(is_filled(mem, MIB(1), 9));
}
END_TEST

START_TEST(a_failed_io_is_told_once_and_the_next_one_works)
{
    if (!open_disk(_i))
        return;
    ck_assert_int_eq(do_io_with("disk_io", DISK_WRITE, 0, mem, DISK_PAGE),
                     ERR_IO);
    ck_assert_uint_ge(log_lines, 1);
    ck_assert_int_eq(do_io(DISK_WRITE, 0, mem, DISK_PAGE), OK);
}
END_TEST

START_TEST(what_the_kernel_does_not_take_is_offered_again)
{
    if (!open_disk(0))
        return;
    ck_assert_int_eq(do_io_with("disk_enter", DISK_READ, 0, mem, DISK_PAGE),
                     OK);
}
END_TEST

START_TEST(many_in_flight_all_end_once)
{
    if (!open_disk(_i))
        return;
    for (uint32_t i = 0; i < IOS; i++) {
        struct test_io *t;
        uint64_t at = (uint64_t)i * KIB(64);

        fill(mem + at, KIB(64), i);
        t = io_of(i, DISK_WRITE, at, mem + at, KIB(64));
        t->io.dev = i % 2;
        submit(t);
    }
    ck_assert_uint_eq(disk->in_flight, IOS);
    run_until(IOS);
    memset(mem, 0, IOS * KIB(64));
    for (uint32_t i = 0; i < IOS; i++) {
        uint64_t at = (uint64_t)i * KIB(64);

        ck_assert_uint_eq(ios[i].told, 1);
        ck_assert_int_eq(ios[i].io.err, OK);
        io_of(i, DISK_READ, at, mem + at, KIB(64))->io.dev = i % 2;
        submit(&ios[i]);
    }
    run_until(2 * IOS);
    for (uint32_t i = 0; i < IOS; i++) {
        ck_assert_uint_eq(ios[i].told, 1);
        ck_assert(is_filled(mem + (uint64_t)i * KIB(64), KIB(64), i));
    }
    ck_assert_uint_eq(disk->in_flight, 0);
}
END_TEST

START_TEST(more_bytes_than_the_window_all_get_their_turn)
{
    if (!open_disk(_i))
        return;
    for (uint32_t i = 0; i < 12; i++) {
        uint64_t at = (i % 2 * 3 + i / 4) * MIB(16);

        io_of(i, i % 2 ? DISK_READ : DISK_WRITE, at,
              mem + (i % 2 ? 1 + i / 2 : 0) * MIB(16), MIB(16));
        ios[i].io.dev = i / 2 % 2;
        submit(&ios[i]);
    }
    run_until(12);
    for (uint32_t i = 0; i < 12; i++)
        ck_assert_int_eq(ios[i].io.err, OK);
}
END_TEST

START_TEST(past_the_end_is_an_error_and_writes_nothing)
{
    struct stat before, after;

    if (!open_disk(_i))
        return;
    ck_assert_int_eq(fstat(fds[0], &before), 0);
    ck_assert_int_eq(do_io(DISK_WRITE, FILE_BYTES, mem, DISK_PAGE), ERR_IO);
    ck_assert_int_eq(do_io(DISK_READ, FILE_BYTES - DISK_PAGE, mem, KIB(8)),
                     ERR_IO);
    ck_assert_int_eq(do_io(DISK_READ, UINT64_MAX - KIB(8) + 1, mem, KIB(8)),
                     ERR_IO);
    ck_assert_int_eq(fstat(fds[0], &after), 0);
    ck_assert_int_eq(before.st_size, after.st_size);
}
END_TEST

START_TEST(a_device_shorter_than_it_said_is_an_error)
{
    if (!open_disk(_i))
        return;
    ck_assert_int_eq(ftruncate(fds[0], MIB(1) + DISK_PAGE), 0);
    ck_assert_int_eq(do_io(DISK_READ, MIB(1), mem, KIB(64)), ERR_IO);
    ck_assert_int_eq(do_io(DISK_READ, MIB(2), mem, KIB(64)), ERR_IO);
    ck_assert_int_eq(do_io(DISK_READ, MIB(1), mem, DISK_PAGE), OK);
    ck_assert_uint_ge(log_lines, 2);
}
END_TEST

START_TEST(a_descriptor_that_cannot_be_written_is_an_error)
{
    char path[240];

    if (fds[0] < 0)
        return;
    close(fds[0]);
    snprintf(path, sizeof(path), "%s/a", dir);
    fds[0] = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    ck_assert_int_ge(fds[0], 0);
    if (!open_disk(_i))
        return;
    ck_assert_int_eq(do_io(DISK_WRITE, 0, mem, DISK_PAGE), ERR_IO);
    ck_assert_int_eq(do_io(DISK_READ, 0, mem, DISK_PAGE), OK);
}
END_TEST

START_TEST(a_flush_goes_ahead_of_waiting_writes_and_ends_ok)
{
    if (!open_disk(_i))
        return;
    for (uint32_t i = 0; i < 64; i++)
        submit(io_of(i, DISK_WRITE, i * KIB(64), mem, KIB(64)));
    ios[64] = (struct test_io){.io = {.what = DISK_FLUSH}};
    submit(&ios[64]);
    run_until(65);
    ck_assert_int_eq(ios[64].io.err, OK);
}
END_TEST

START_TEST(a_discard_keeps_the_space_and_leaves_the_rest)
{
    struct stat before, after;

    if (!open_disk(_i))
        return;
    fill(mem, MIB(4), 1);
    ck_assert_int_eq(do_io(DISK_WRITE, 0, mem, MIB(4)), OK);
    ck_assert_int_eq(fstat(fds[0], &before), 0);
    ios[0] = (struct test_io){
        .io = {.what = DISK_DISCARD, .off = MIB(1), .len = MIB(2)}};
    submit(&ios[0]);
    run_until(2);
    ck_assert_int_eq(ios[0].io.err, OK);
    ck_assert_int_eq(fstat(fds[0], &after), 0);
    ck_assert_int_eq(before.st_size, after.st_size);
    ck_assert_int_ge(after.st_blocks, before.st_blocks);
    ck_assert_int_eq(do_io(DISK_READ, 0, mem + MIB(4), MIB(4)), OK);
    ck_assert(is_filled(mem + MIB(4), MIB(1), 1));
    ck_assert(is_filled(mem + MIB(7), MIB(1), 1 + MIB(3)));
}
END_TEST

/* Writes and reads a MiB that starts there. */
static void check_at(uint8_t *p)
{
    fill(p, MIB(1), 5);
    ck_assert_int_eq(do_io(DISK_WRITE, MIB(1), p, MIB(1)), OK);
    memset(p, 0, MIB(1));
    ck_assert_int_eq(do_io(DISK_READ, MIB(1), p, MIB(1)), OK);
    ck_assert(is_filled(p, MIB(1), 5));
}

START_TEST(registered_memory_reads_and_writes_the_same)
{
    struct disk_cfg cfg = cfg_of(_i);
    struct span two[] = {{mem + MIB(80), MIB(8)}, {mem, MIB(72)}};
    bool uring = _i == 0;

    cfg.mems = two;
    cfg.mem_n = 2;
    if (fds[0] < 0 || disk_open(&disk, &cfg, &msg) != OK)
        return;
    check_at(mem);
    ck_assert(disk_register(disk, 1) == uring);
    if (uring && disk_registered_bytes(disk) == 0) {
        fputs("skipped: memory cannot be registered\n", stderr);
        return;
    }
    /* In pieces of DISK_MEM_STEP, range by range. */
    ck_assert_uint_eq(disk_registered_bytes(disk), uring ? MIB(8) : 0);
    check_at(mem);
    check_at(mem + MIB(80));
    ck_assert(!disk_register(disk, UINT64_MAX));
    ck_assert_uint_eq(disk_registered_bytes(disk), uring ? MIB(80) : 0);
    ck_assert(!disk_register(disk, UINT64_MAX));
    /* Within, across the border of two pieces and of what is registered, and
     * outside. */
    check_at(mem + MIB(2));
    check_at(mem + DISK_MEM_STEP - KIB(512));
    check_at(mem + MIB(72) - KIB(4));
    check_at(mem + MIB(76));
    check_at(mem + MIB(88) - MIB(1));
}
END_TEST

START_TEST(memory_that_is_refused_is_told_once_and_all_goes_on)
{
    struct disk_cfg cfg = cfg_of(0);

    cfg.mems = &mem_span;
    cfg.mem_n = 1;
    if (fds[0] < 0 || disk_open(&disk, &cfg, &msg) != OK)
        return;
    fault_arm(1);
    ck_assert(!disk_register(disk, UINT64_MAX));
    ck_assert_str_eq(fault_point(), "disk_mem_register");
    fault_arm(0);
    ck_assert_uint_eq(log_lines, 1);
    ck_assert(!disk_register(disk, UINT64_MAX));
    ck_assert_uint_eq(disk_registered_bytes(disk), 0);
    ck_assert_uint_eq(log_lines, 1);
    check_at(mem);
}
END_TEST

/* A completion that submits: the next one comes from a later progress(). */
static uint32_t chain_left;

static void chain(struct disk_io *io)
{
    ck_assert(!inside);
    told++;
    if (chain_left-- == 0)
        return;
    inside = true;
    disk_submit(disk, io);
    inside = false;
}

START_TEST(a_completion_may_submit_again)
{
    struct test_io *t;

    if (!open_disk(_i))
        return;
    chain_left = 20;
    t = io_of(0, DISK_READ, 0, mem, DISK_PAGE);
    t->io.done = chain;
    disk_submit(disk, &t->io);
    run_until(21);
    ck_assert_uint_eq(disk->in_flight, 0);
    if (_i == MEMORY) /* there, past the end is a programmer's error */
        return;
    chain_left = 20;
    t->io.off = FILE_BYTES; /* refused without the device: the same rule */
    disk_submit(disk, &t->io);
    run_until(42);
    ck_assert_int_eq(t->io.err, ERR_IO);
}
END_TEST

START_TEST(an_idle_disk_can_be_armed_and_has_nothing_to_say)
{
    struct pollfd p;

    if (!open_disk(_i))
        return;
    ck_assert(!disk->ops->progress(disk));
    ck_assert(disk->ops->arm(disk));
    p = (struct pollfd){.fd = disk_fd(disk), .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, 0), 0);
    disk->ops->awake(disk);
    ck_assert_int_eq(do_io(DISK_READ, 0, mem, DISK_PAGE), OK);
    ck_assert(disk->ops->arm(disk));
    ck_assert_int_eq(poll(&p, 1, 0), 0);
    disk->ops->awake(disk);
}
END_TEST

START_TEST(every_failing_step_of_open_is_told_and_leaves_nothing)
{
    struct disk_cfg cfg = cfg_of(_i);
    uint32_t n;

    if (fds[0] < 0)
        return;
    cfg.mems = &mem_span;
    cfg.mem_n = 1;
    for (n = 1;; n++) {
        enum err e;
        bool hit;

        disk = NULL;
        msg.text[0] = '\0';
        fault_arm(n);
        e = disk_open(&disk, &cfg, &msg);
        hit = fault_hit();
        fault_arm(0);
        if (e == OK) {
            ck_assert_int_eq(do_io(DISK_READ, 0, mem, DISK_PAGE), OK);
            disk_close(disk);
        } else {
            ck_assert_ptr_null(disk);
            ck_assert(msg.text[0] != '\0');
        }
        disk = NULL;
        if (!hit)
            break;
    }
    ck_assert_uint_gt(n, 3);
}
END_TEST

START_TEST(without_io_uring_threads_take_over_and_it_is_told)
{
    struct disk_cfg cfg = cfg_of(0);

    if (fds[0] < 0)
        return;
    cfg.engine = ENGINE_AUTO;
    fault_arm(3); /* after both allocations: setting up the ring */
    ck_assert_int_eq(disk_open(&disk, &cfg, &msg), OK);
    ck_assert_str_eq(fault_point(), "disk_uring_init");
    fault_arm(0);
    ck_assert_str_eq(disk->ops->name, "sync");
    ck_assert_uint_eq(metrics.ssd_fallback, 1);
    ck_assert_uint_eq(log_lines, 1);
    ck_assert_int_eq(do_io(DISK_READ, 0, mem, DISK_PAGE), OK);
}
END_TEST

START_TEST(without_io_uring_a_configured_uring_is_an_error)
{
    struct disk_cfg cfg = cfg_of(0);

    if (fds[0] < 0)
        return;
    fault_arm(3);
    ck_assert_int_eq(disk_open(&disk, &cfg, &msg), ERR_IO);
    fault_arm(0);
    ck_assert_ptr_null(disk);
    ck_assert_ptr_nonnull(strstr(msg.text, "ssd.engine"));
    ck_assert_ptr_nonnull(strstr(msg.text, "Operation not permitted"));
}
END_TEST

static void *other_thread(void *arg)
{
    (void)do_io(DISK_READ, 0, mem, DISK_PAGE);
    return arg;
}

START_TEST(a_disk_opened_here_may_be_used_by_another_thread)
{
    pthread_t thread;

    if (!open_disk(_i))
        return;
    ck_assert_int_eq(do_io(DISK_WRITE, 0, mem, DISK_PAGE), OK);
    ck_assert_int_eq(pthread_create(&thread, NULL, other_thread, NULL), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(ios[0].io.err, OK);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("disk");
    TCase *t = tcase_create("contract");
    int n = (int)countof(engines), files = FILE_ENGINES;

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, what_was_written_is_read_back_at_every_size, 0, n);
    tcase_add_loop_test(t, spans_are_gathered_and_scattered_in_their_order, 0,
                        n);
    tcase_add_loop_test(t, neighbouring_spans_are_one_transfer, 0, n);
    tcase_add_loop_test(t, a_short_transfer_is_continued, 0, files);
    tcase_add_loop_test(t, a_failed_io_is_told_once_and_the_next_one_works, 0,
                        files);
    tcase_add_test(t, what_the_kernel_does_not_take_is_offered_again);
    tcase_add_loop_test(t, many_in_flight_all_end_once, 0, n);
    tcase_add_loop_test(t, more_bytes_than_the_window_all_get_their_turn, 0, n);
    tcase_add_loop_test(t, past_the_end_is_an_error_and_writes_nothing, 0,
                        files);
    tcase_add_loop_test(t, a_device_shorter_than_it_said_is_an_error, 0, files);
    tcase_add_loop_test(t, a_descriptor_that_cannot_be_written_is_an_error, 0,
                        files);
    tcase_add_loop_test(t, a_flush_goes_ahead_of_waiting_writes_and_ends_ok, 0,
                        n);
    tcase_add_loop_test(t, a_discard_keeps_the_space_and_leaves_the_rest, 0,
                        files);
    tcase_add_loop_test(t, registered_memory_reads_and_writes_the_same, 0,
                        files);
    tcase_add_test(t, memory_that_is_refused_is_told_once_and_all_goes_on);
    tcase_add_loop_test(t, a_completion_may_submit_again, 0, n);
    tcase_add_loop_test(t, an_idle_disk_can_be_armed_and_has_nothing_to_say, 0,
                        files);
    tcase_add_loop_test(t, a_disk_opened_here_may_be_used_by_another_thread, 0,
                        files);
    tcase_add_loop_test(
        t, every_failing_step_of_open_is_told_and_leaves_nothing, 0, n);
    tcase_add_test(t, without_io_uring_threads_take_over_and_it_is_told);
    tcase_add_test(t, without_io_uring_a_configured_uring_is_an_error);
    suite_add_tcase(s, t);
    return s;
}
