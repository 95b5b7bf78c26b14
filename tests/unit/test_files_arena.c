/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server rpc store base proto */
#include "server/files.h"

#include <check.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fault.h"

static struct errmsg msg;
static struct config cfg;

static void setup(void)
{
    fault_arm(0);
    config_defaults(&cfg);
    cfg.dram.hugepages = HUGEPAGES_OFF;
    msg.text[0] = '\0';
}

static void teardown(void)
{
    fault_arm(0);
}

static void backing_set(const char *backing)
{
    snprintf(cfg.dram.backing, sizeof(cfg.dram.backing), "%s", backing);
}

static uint32_t open_fds(void)
{
    uint32_t n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* ---- memory */

START_TEST(meminfo_is_read_by_name)
{
    struct files_meminfo i =
        files_meminfo("MemTotal: 10 kB\nMemAvailable:   2048 kB\n"
                      "HugePages_Free:       3\nHugepagesize:       2048 kB\n");

    ck_assert_uint_eq(i.available_bytes, MIB(2));
    ck_assert_uint_eq(i.huge_free, 3);
    ck_assert_uint_eq(i.huge_page_bytes, MIB(2));
    ck_assert_uint_eq(files_meminfo("").available_bytes, 0);
    ck_assert_uint_gt(files_memory().available_bytes, 0);
}
END_TEST

START_TEST(capacity_auto_is_a_quarter_in_whole_units)
{
    uint64_t bytes = 0;

    ck_assert_int_eq(files_dram_bytes(&cfg, &bytes, &msg), OK);
    ck_assert_uint_gt(bytes, 0);
    ck_assert_uint_eq(bytes % MIB(2), 0);
    cfg.dram.capacity_bytes = MIB(65) + 1;
    ck_assert_int_eq(files_dram_bytes(&cfg, &bytes, &msg), OK);
    ck_assert_uint_eq(bytes, MIB(64));
}
END_TEST

START_TEST(more_than_the_machine_has_is_refused_by_name)
{
    uint64_t bytes;

    cfg.dram.capacity_bytes = GIB(4096);
    ck_assert_int_eq(files_dram_bytes(&cfg, &bytes, &msg), ERR_CONFIG);
    ck_assert_ptr_nonnull(
        strstr(msg.text, "dram.capacity: 4TiB is more than the "));
    ck_assert_ptr_nonnull(strstr(msg.text, "fix: a smaller value"));
}
END_TEST

static void expect_usable(const struct arena_map *a, uint64_t bytes)
{
    ck_assert_uint_eq(a->bytes, bytes);
    ck_assert_uint_eq((uintptr_t)a->p % MIB(2), 0);
    ck_assert_uint_eq(a->p[0], 0);
    a->p[0] = 1;
    a->p[bytes - 1] = 2;
}

START_TEST(a_memfd_is_aligned_sealed_private_and_says_what_it_is)
{
    struct arena_map a;
    struct stat st;

    ck_assert_msg(files_arena_open(&cfg, MIB(5), &a, &msg) == OK, "%s",
                  msg.text);
    expect_usable(&a, MIB(6));
    ck_assert_str_eq(a.got, "6MiB of memfd, pages of 4KiB");
    ck_assert_int_eq(ftruncate(a.fd, 0), -1);
    ck_assert_int_eq(ftruncate(a.fd, (off_t)MIB(8)), -1);
    ck_assert_int_eq(fstat(a.fd, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0600);
    files_arena_close(&a);
    files_arena_close(&a);
    ck_assert_ptr_null(a.p);
}
END_TEST

START_TEST(hugepages_auto_takes_what_there_is_and_says_so)
{
    struct arena_map a;

    cfg.dram.hugepages = HUGEPAGES_AUTO;
    ck_assert_msg(files_arena_open(&cfg, MIB(4), &a, &msg) == OK, "%s",
                  msg.text);
    expect_usable(&a, MIB(4));
    if (a.page == 4096)
        ck_assert_str_eq(a.got, "4MiB of memfd, pages of 4KiB (no huge pages "
                                "free)");
    else
        ck_assert_str_eq(a.got, "4MiB of memfd, pages of 2MiB");
    files_arena_close(&a);
}
END_TEST

START_TEST(hugepages_on_without_enough_of_them_counts_them)
{
    struct arena_map a;
    uint64_t pages = files_memory().huge_free + 1;
    char want[200];

    cfg.dram.hugepages = HUGEPAGES_ON;
    ck_assert_int_eq(files_arena_open(&cfg, pages * MIB(2), &a, &msg), ERR_IO);
    snprintf(want, sizeof(want),
             "dram.hugepages: %" PRIu64 " huge pages are needed, %" PRIu64
             " are free; fix: sysctl vm.nr_hugepages=%" PRIu64,
             pages, pages - 1, pages);
    ck_assert_msg(strstr(msg.text, want) != NULL, "%s", msg.text);
}
END_TEST

START_TEST(a_tmpfs_backing_is_filled_and_a_full_one_refused)
{
    struct arena_map a;
    struct stat st;

    backing_set("tmpfs:/dev/shm");
    ck_assert_msg(files_arena_open(&cfg, MIB(4), &a, &msg) == OK, "%s",
                  msg.text);
    expect_usable(&a, MIB(4));
    ck_assert_int_eq(fstat(a.fd, &st), 0);
    ck_assert_int_eq(st.st_blocks, MIB(4) / 512);
    ck_assert_uint_eq(st.st_nlink, 0);
    files_arena_close(&a);
    ck_assert_int_eq(files_arena_open(&cfg, GIB(65536), &a, &msg), ERR_IO);
    ck_assert_ptr_nonnull(strstr(msg.text, "dram.backing: /dev/shm has no room "
                                           "for 67108864 MiB"));
}
END_TEST

START_TEST(a_backing_of_the_wrong_kind_is_refused)
{
    struct arena_map a;

    backing_set("tmpfs:/proc");
    ck_assert_int_eq(files_arena_open(&cfg, MIB(4), &a, &msg), ERR_IO);
    ck_assert_str_eq(msg.text,
                     "dram.backing: /proc is not a tmpfs; fix: mount one "
                     "there, or set dram.backing to \"memfd\"");
    backing_set("hugetlbfs:/dev/shm");
    ck_assert_int_eq(files_arena_open(&cfg, MIB(4), &a, &msg), ERR_IO);
    ck_assert_ptr_nonnull(strstr(msg.text, "/dev/shm is not a hugetlbfs"));
    backing_set("hugetlbfs:/none");
    ck_assert_int_eq(files_arena_open(&cfg, MIB(4), &a, &msg), ERR_IO);
    ck_assert_ptr_nonnull(strstr(msg.text, "fix: mount a hugetlbfs there"));
}
END_TEST

START_TEST(a_lock_beyond_memlock_names_the_limit_and_the_fix)
{
    struct arena_map a;

    cfg.dram.lock = true;
    fault_arm(3); /* files_memfd, files_mmap, files_mlock */
    ck_assert_int_eq(files_arena_open(&cfg, MIB(4), &a, &msg), ERR_IO);
    ck_assert_str_eq(fault_point(), "files_mlock");
    ck_assert_ptr_nonnull(strstr(msg.text, "dram.lock: cannot lock 4MiB: "));
    ck_assert_ptr_nonnull(strstr(msg.text, "the memlock limit is "));
    ck_assert_ptr_nonnull(strstr(msg.text, "fix: LimitMEMLOCK=infinity"));
}
END_TEST

START_TEST(opening_survives_every_fault_without_a_leak)
{
    static const char *const backings[] = {"memfd", "tmpfs:/dev/shm"};
    struct arena_map a;
    uint32_t fds = open_fds(), n;

    backing_set(backings[_i]);
    for (n = 1;; n++) {
        enum err e;

        fault_arm(n);
        e = files_arena_open(&cfg, MIB(4), &a, &msg);
        if (!fault_hit())
            break;
        ck_assert_int_eq(e, ERR_IO);
        ck_assert_uint_eq(open_fds(), fds);
        ck_assert_uint_gt(strlen(msg.text), 10);
    }
    ck_assert_uint_gt(n, 2);
    files_arena_close(&a);
    ck_assert_uint_eq(open_fds(), fds);
}
END_TEST

START_TEST(prefault_makes_resident_and_keeps_the_bytes)
{
    struct arena_map a;
    unsigned char in_core[MIB(4) / 4096];

    ck_assert_int_eq(files_arena_open(&cfg, MIB(4), &a, &msg), OK);
    memset(a.p + 8192, 0x5a, 4096);
    if (_i == 1)
        fault_arm(1); /* an older kernel */
    files_arena_prefault(&a, 0, MIB(2));
    files_arena_prefault(&a, MIB(2), MIB(100));
    files_arena_prefault(&a, MIB(4), MIB(2));
    for (uint32_t i = 0; i < 4096; i++)
        ck_assert_uint_eq(a.p[8192 + i], 0x5a);
    ck_assert_uint_eq(a.p[MIB(4) - 1], 0);
    ck_assert_int_eq(mincore(a.p, MIB(4), in_core), 0);
    for (uint32_t i = 0; i < sizeof(in_core); i++)
        ck_assert_uint_eq(in_core[i] & 1, 1);
    files_arena_close(&a);
}
END_TEST

START_TEST(a_shared_descriptor_reads_the_same_bytes_and_cannot_write)
{
    struct arena_map a;
    uint8_t *p;
    int fd;

    ck_assert_int_eq(files_arena_open(&cfg, MIB(2), &a, &msg), OK);
    fault_arm(1);
    ck_assert_int_eq(files_arena_share(&a, &fd, &msg), ERR_IO);
    fault_arm(0);
    ck_assert_int_eq(files_arena_share(&a, &fd, &msg), OK);
    a.p[77] = 7;
    ck_assert(mmap(NULL, MIB(2), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) ==
              MAP_FAILED);
    p = mmap(NULL, MIB(2), PROT_READ, MAP_SHARED, fd, 0);
    ck_assert(p != MAP_FAILED);
    ck_assert_uint_eq(p[77], 7);
    ck_assert_int_eq(write(fd, "x", 1), -1);
    munmap(p, MIB(2));
    close(fd);
    files_arena_close(&a);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("files_arena");
    TCase *t = tcase_create("files_arena");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, meminfo_is_read_by_name);
    tcase_add_test(t, capacity_auto_is_a_quarter_in_whole_units);
    tcase_add_test(t, more_than_the_machine_has_is_refused_by_name);
    tcase_add_test(t, a_memfd_is_aligned_sealed_private_and_says_what_it_is);
    tcase_add_test(t, hugepages_auto_takes_what_there_is_and_says_so);
    tcase_add_test(t, hugepages_on_without_enough_of_them_counts_them);
    tcase_add_test(t, a_tmpfs_backing_is_filled_and_a_full_one_refused);
    tcase_add_test(t, a_backing_of_the_wrong_kind_is_refused);
    tcase_add_test(t, a_lock_beyond_memlock_names_the_limit_and_the_fix);
    tcase_add_loop_test(t, opening_survives_every_fault_without_a_leak, 0, 2);
    tcase_add_loop_test(t, prefault_makes_resident_and_keeps_the_bytes, 0, 2);
    tcase_add_test(t,
                   a_shared_descriptor_reads_the_same_bytes_and_cannot_write);
    suite_add_tcase(s, t);
    return s;
}
