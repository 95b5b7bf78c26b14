/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client rpc base proto */
/* Memory that is registered by its address alone: which file is behind it, and
 * that the daemon reads and writes just these bytes. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "client/handle.h"
#include "tests/lib/fake_pikvd.h"

enum { PAGE = 4096, BYTES = 8 * PAGE };

static const struct pikv_call patient = {.deadline_us = 20000000};

static struct fake *fake;
static struct pikv *kv;
static uint32_t ns;
static char dir[64], path[128];

static void begin(void)
{
    struct pikv_namespace d = {.name = "test", .create = true};
    struct pikv_options o = {0};

    fake = fake_start(2);
    o.address = fake_address(fake);
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), PIKV_OK);
    snprintf(dir, sizeof(dir), "/tmp/pikv mem.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/a pool of blocks", dir);
}

static void end(void)
{
    pikv_close(kv);
    fake_stop(fake);
    (void)unlink(path);
    ck_assert_int_eq(rmdir(dir), 0);
}

static int file_new(void)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, BYTES), 0);
    return fd;
}

static uint8_t *map_fd(int fd, int prot, int flags)
{
    void *p = mmap(NULL, BYTES, prot, flags, fd, 0);

    ck_assert_ptr_ne(p, MAP_FAILED);
    return p;
}

static uint8_t *map_shared(int fd)
{
    return map_fd(fd, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(i * 31 + seed + (i >> 8));
}

/* No staging is used: the daemon was told where these bytes are. */
static void move(uint8_t *p, size_t n, const char *key, bool is_put)
{
    struct pikv_key k = {.key = {key, strlen(key)}};
    struct pikv_put put = {.key = k, .data = {p, n}};
    struct pikv_get get = {.key = k, .data = {p, n}};
    struct pikv_completion done;
    struct pikv_stats stats;
    struct pikv_result r;
    uint64_t id;

    fake_set_mode(fake, FAKE_HOLDS);
    if (is_put)
        ck_assert_int_eq(pikv_put(kv, ns, &put, 1, &patient, &r, &id), PIKV_OK);
    else
        ck_assert_int_eq(pikv_get(kv, ns, &get, 1, &patient, &r, &id), PIKV_OK);
    ck_assert_int_eq(pikv_stats(kv, &stats), PIKV_OK);
    ck_assert_uint_eq(stats.staging_bytes, 0);
    ck_assert_uint_eq(stats.inflight, 1);
    fake_set_mode(fake, FAKE_SERVES);
    ck_assert_int_eq(pikv_wait(kv, id, &done), PIKV_OK);
    ck_assert_int_eq(r.status, PIKV_OK);
    ck_assert_uint_eq(r.moved, is_put ? 0 : n);
}

/* p..p+n goes to the daemon and comes back; around it nothing changes. */
static void round_trip(uint8_t *p, size_t n, const char *key)
{
    uint8_t *want = malloc(n);

    fill(want, n, (uint32_t)n);
    memcpy(p, want, n);
    move(p, n, key, true);
    memset(p, 0, n);
    move(p, n, key, false);
    ck_assert_mem_eq(p, want, n);
    free(want);
}

static uint64_t registered(void)
{
    struct pikv_stats stats;

    ck_assert_int_eq(pikv_stats(kv, &stats), PIKV_OK);
    return stats.registered_bytes;
}

START_TEST(a_memfd_is_found_by_its_address)
{
    int fd = memfd_create("pool", MFD_CLOEXEC);
    uint8_t *p;

    begin();
    ck_assert_int_eq(ftruncate(fd, BYTES), 0);
    p = map_shared(fd);
    ck_assert_int_eq(pikv_mem_register(kv, p, BYTES), PIKV_OK);
    ck_assert_uint_eq(registered(), BYTES);
    round_trip(p, BYTES, "k");
    ck_assert_int_eq(pikv_mem_unregister(kv, p), PIKV_OK);
    ck_assert_uint_eq(registered(), 0);
    munmap(p, BYTES);
    close(fd);
    end();
}
END_TEST

START_TEST(a_file_whose_path_has_spaces_is_opened_again)
{
    uint8_t *p;
    int fd;

    begin();
    fd = file_new();
    p = map_shared(fd);
    close(fd);
    ck_assert_int_eq(pikv_mem_register(kv, p, BYTES), PIKV_OK);
    round_trip(p, BYTES, "k");
    munmap(p, BYTES);
    end();
}
END_TEST

START_TEST(a_deleted_file_is_found_by_its_descriptor)
{
    uint8_t *p;
    int fd;

    begin();
    fd = file_new();
    p = map_shared(fd);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(pikv_mem_register(kv, p, BYTES), PIKV_OK);
    round_trip(p, BYTES, "k");
    close(fd);
    munmap(p, BYTES);
    end();
}
END_TEST

/* Only privileges help here; another file is never taken for it. */
START_TEST(a_file_replaced_by_one_of_its_name_is_not_mistaken)
{
    uint8_t *p;
    int fd, e;

    begin();
    fd = file_new();
    p = map_shared(fd);
    close(fd);
    ck_assert_int_eq(unlink(path), 0);
    close(file_new());
    e = pikv_mem_register(kv, p, BYTES);
    ck_assert(e == PIKV_OK || e == PIKV_UNSUPPORTED);
    if (!e)
        round_trip(p, BYTES, "k");
    munmap(p, BYTES);
    end();
}
END_TEST

START_TEST(a_descriptor_that_cannot_write_is_passed_over)
{
    uint8_t *p;
    int fd, reads;

    begin();
    fd = file_new();
    p = map_shared(fd);
    reads = open(path, O_RDONLY | O_CLOEXEC);
    close(fd);
    ck_assert_int_eq(pikv_mem_register(kv, p, BYTES), PIKV_OK);
    round_trip(p, BYTES, "k");
    close(reads);
    munmap(p, BYTES);
    end();
}
END_TEST

START_TEST(a_part_of_a_map_at_any_address_is_registered)
{
    uint8_t *p, *part;
    int fd;

    begin();
    fd = file_new();
    p = map_shared(fd);
    part = p + PAGE + 77;
    ck_assert_int_eq(pikv_mem_register(kv, part, 2 * PAGE + 9), PIKV_OK);
    memset(p, 0xee, BYTES);
    round_trip(part, 2 * PAGE + 9, "k");
    for (size_t i = 0; i < BYTES; i++)
        if (p + i < part || p + i >= part + 2 * PAGE + 9)
            ck_assert_uint_eq(p[i], 0xee);
    close(fd);
    munmap(p, BYTES);
    end();
}
END_TEST

START_TEST(neighbouring_maps_of_one_file_are_one_memory)
{
    uint8_t *p;
    int fd;

    begin();
    fd = file_new();
    p = map_shared(fd);
    ck_assert_int_eq(madvise(p + 2 * PAGE, PAGE, MADV_DONTFORK), 0);
    ck_assert_int_eq(pikv_mem_register(kv, p + 5, BYTES - 5), PIKV_OK);
    round_trip(p + 5, BYTES - 5, "k");
    close(fd);
    munmap(p, BYTES);
    end();
}
END_TEST

START_TEST(neighbours_that_are_not_one_file_are_refused)
{
    int fd, other = memfd_create("other", MFD_CLOEXEC);
    uint8_t *p;

    begin();
    fd = file_new();
    ck_assert_int_eq(ftruncate(other, BYTES), 0);
    p = map_shared(fd);
    ck_assert_ptr_eq(mmap(p + PAGE, PAGE, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_FIXED, other, PAGE),
                     p + PAGE);
    ck_assert_int_eq(pikv_mem_register(kv, p, BYTES), PIKV_UNSUPPORTED);
    ck_assert_int_eq(pikv_mem_register(kv, p + PAGE, PAGE), PIKV_OK);
    /* The same file, but not in a row. */
    ck_assert_ptr_eq(mmap(p + PAGE, PAGE, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_FIXED, fd, 3 * PAGE),
                     p + PAGE);
    ck_assert_int_eq(pikv_mem_register(kv, p, BYTES), PIKV_UNSUPPORTED);
    close(fd);
    close(other);
    munmap(p, BYTES);
    end();
}
END_TEST

START_TEST(memory_that_is_not_a_files_is_refused)
{
    uint8_t *heap = malloc(BYTES), *p, *reads;
    int fd;

    begin();
    fd = file_new();
    p = map_fd(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    reads = map_fd(fd, PROT_READ, MAP_SHARED);
    ck_assert_int_eq(pikv_mem_register(kv, heap, BYTES), PIKV_UNSUPPORTED);
    ck_assert_int_eq(pikv_mem_register(kv, p, BYTES), PIKV_UNSUPPORTED);
    ck_assert_int_eq(pikv_mem_register(kv, reads, BYTES), PIKV_UNSUPPORTED);
    munmap(p, BYTES);
    munmap(reads, BYTES);
    ck_assert_int_eq(pikv_mem_register(kv, reads, BYTES), PIKV_BAD_REQUEST);
    ck_assert_int_eq(pikv_mem_register(kv, heap, 0), PIKV_BAD_REQUEST);
    ck_assert_int_eq(pikv_mem_register(kv, NULL, 1), PIKV_BAD_REQUEST);
    ck_assert_int_eq(pikv_mem_register(kv, heap, SIZE_MAX), PIKV_BAD_REQUEST);
    ck_assert_int_eq(pikv_mem_register(NULL, heap, 1), PIKV_CLOSED);
    ck_assert_uint_eq(registered(), 0);
    close(fd);
    free(heap);
    end();
}
END_TEST

static int descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* By descriptor, by path, and refused. */
START_TEST(only_one_descriptor_is_kept)
{
    int fd, fds;
    uint8_t *p;

    begin();
    fd = file_new();
    p = map_shared(fd);
    for (int closed = 0; closed < 2; closed++) {
        if (closed)
            close(fd);
        fds = descriptors();
        ck_assert_int_eq(pikv_mem_register(kv, p, BYTES), PIKV_OK);
        ck_assert_int_eq(descriptors(), fds + 1);
        ck_assert_int_eq(pikv_mem_unregister(kv, p), PIKV_OK);
        ck_assert_int_eq(descriptors(), fds);
        ck_assert_int_eq(pikv_mem_register(kv, &fds, 1), PIKV_UNSUPPORTED);
        ck_assert_int_eq(descriptors(), fds);
    }
    munmap(p, BYTES);
    end();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("pikv_mem");
    TCase *t = tcase_create("register by address");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_memfd_is_found_by_its_address);
    tcase_add_test(t, a_file_whose_path_has_spaces_is_opened_again);
    tcase_add_test(t, a_deleted_file_is_found_by_its_descriptor);
    tcase_add_test(t, a_file_replaced_by_one_of_its_name_is_not_mistaken);
    tcase_add_test(t, a_descriptor_that_cannot_write_is_passed_over);
    tcase_add_test(t, a_part_of_a_map_at_any_address_is_registered);
    tcase_add_test(t, neighbouring_maps_of_one_file_are_one_memory);
    tcase_add_test(t, neighbours_that_are_not_one_file_are_refused);
    tcase_add_test(t, memory_that_is_not_a_files_is_refused);
    tcase_add_test(t, only_one_descriptor_is_kept);
    suite_add_tcase(s, t);
    return s;
}
