/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server rpc store base proto */
#include "server/files.h"

#include <check.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"

static char dir[64], path[128];
static struct errmsg msg;
static struct config cfg;

static const char *in_dir(const char *name)
{
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static void setup(void)
{
    fault_arm(0);
    strcpy(dir, "/tmp/pikvd-test.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    config_defaults(&cfg);
    cfg.dram.hugepages = HUGEPAGES_OFF;
    msg.text[0] = '\0';
}

static void teardown(void)
{
    char cmd[100];

    fault_arm(0);
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    ck_assert_int_eq(system(cmd), 0);
}

static void write_file(const char *name, const char *text)
{
    FILE *f = fopen(in_dir(name), "w");

    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

static uint32_t open_fds(void)
{
    uint32_t n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void expect_file(const char *name, const char *want)
{
    char *text;
    size_t len;

    ck_assert_msg(files_read(in_dir(name), 1 << 20, &text, &len, &msg) == OK,
                  "%s", msg.text);
    ck_assert_str_eq(text, want);
    ck_assert_uint_eq(len, strlen(want));
    free(text);
}

/* ---- files ---------------------------------------------------------------- */

START_TEST(a_file_is_read_whole_up_to_the_limit)
{
    char *text;
    size_t len;

    write_file("a", "hello");
    expect_file("a", "hello");
    ck_assert_int_eq(files_read(in_dir("a"), 5, &text, &len, &msg), OK);
    free(text);
    ck_assert_int_eq(files_read(in_dir("a"), 4, &text, &len, &msg), ERR_LIMIT);
    ck_assert_ptr_nonnull(strstr(msg.text, "/a: longer than 4 bytes"));
}
END_TEST

START_TEST(a_large_file_is_read_whole)
{
    size_t n = 300000, len;
    char *bytes = malloc(n + 1), *text;

    for (size_t i = 0; i < n; i++)
        bytes[i] = (char)('a' + i % 26);
    bytes[n] = '\0';
    write_file("big", bytes);
    ck_assert_int_eq(files_read(in_dir("big"), n, &text, &len, &msg), OK);
    ck_assert_uint_eq(len, n);
    ck_assert_str_eq(text, bytes);
    free(text);
    free(bytes);
}
END_TEST

START_TEST(a_missing_file_says_the_path_the_reason_and_the_fix)
{
    char *text, want[300];
    size_t len;

    ck_assert_int_eq(files_read(in_dir("none"), 10, &text, &len, &msg), ERR_IO);
    snprintf(want, sizeof(want),
             "%s/none: cannot open: No such file or directory; fix: create it, "
             "or name another path",
             dir);
    ck_assert_str_eq(msg.text, want);
    ck_assert_int_eq(files_read(dir, 10, &text, &len, &msg), ERR_IO);
    ck_assert_ptr_nonnull(strstr(msg.text, "cannot read: Is a directory"));
}
END_TEST

START_TEST(reading_survives_every_fault_without_a_leak)
{
    uint32_t fds, n;
    char *text;
    size_t len;

    write_file("a", "hello");
    in_dir("a");
    fds = open_fds();
    for (n = 1;; n++) {
        enum err e;

        fault_arm(n);
        e = files_read(path, 10, &text, &len, &msg);
        if (!fault_hit())
            break;
        ck_assert_int_ne(e, OK);
        ck_assert_uint_eq(open_fds(), fds);
    }
    ck_assert_uint_gt(n, 3);
    free(text);
}
END_TEST

START_TEST(a_replaced_file_holds_the_old_or_the_new_bytes_after_any_fault)
{
    uint32_t fds, n;

    write_file("r", "old");
    in_dir("r");
    fds = open_fds();
    for (n = 1;; n++) {
        struct stat st;
        const char *point;
        enum err e;

        write_file("r", "old");
        fault_arm(n);
        e = files_replace(path, "new!", 4, &msg);
        if (!fault_hit()) {
            fault_arm(0);
            ck_assert_int_eq(e, OK);
            break;
        }
        point = fault_point();
        fault_arm(0);
        ck_assert_int_eq(e, ERR_IO);
        ck_assert_uint_eq(open_fds(), fds);
        ck_assert_int_eq(stat(in_dir("r.tmp"), &st), -1);
        /* Only the last two, the directory's, come after the rename. */
        expect_file("r", n <= 4 ? "old" : "new!");
        ck_assert_msg(n > 4 || strcmp(point, "files_rename") == 0 || n < 4,
                      "%s", point);
    }
    expect_file("r", "new!");
    ck_assert_uint_eq(n, 7);
}
END_TEST

START_TEST(replacing_in_a_directory_that_is_not_there_says_so)
{
    ck_assert_int_eq(files_replace(in_dir("no/r"), "x", 1, &msg), ERR_IO);
    ck_assert_ptr_nonnull(strstr(
        msg.text, "no/r.tmp: cannot create: No such file or directory; fix:"));
}
END_TEST

START_TEST(a_list_is_sorted_filtered_and_may_be_empty)
{
    struct files_list l;

    write_file("20-b.json", "");
    write_file("10-a.json", "");
    write_file("B.json", "");
    write_file(".hidden.json", "");
    write_file("x.json.bak", "");
    ck_assert_int_eq(files_list_new(&l, dir, ".json", &msg), OK);
    ck_assert_uint_eq(l.n, 3);
    ck_assert_str_eq(l.names[0], "10-a.json");
    ck_assert_str_eq(l.names[1], "20-b.json");
    ck_assert_str_eq(l.names[2], "B.json");
    files_list_free(&l);
    ck_assert_int_eq(files_list_new(&l, in_dir("none"), ".json", &msg), OK);
    ck_assert_uint_eq(l.n, 0);
    files_list_free(&l);
}
END_TEST

START_TEST(a_list_survives_every_fault_without_a_leak)
{
    struct files_list l;
    uint32_t fds, n;

    write_file("a.json", "");
    write_file("b.json", "");
    fds = open_fds();
    for (n = 1;; n++) {
        enum err e;

        fault_arm(n);
        e = files_list_new(&l, dir, ".json", &msg);
        if (!fault_hit())
            break;
        ck_assert_int_ne(e, OK);
        ck_assert_uint_eq(open_fds(), fds);
    }
    ck_assert_uint_eq(n, 5);
    files_list_free(&l);
}
END_TEST

/* ---- configuration -------------------------------------------------------- */

static char *const no_env[] = {NULL};

START_TEST(conf_d_is_merged_in_order_and_variables_win)
{
    char var[] = "PIKVD_LOOP_SPIN=7us";
    char *env[] = {var, NULL};
    struct errmsg ignored;

    write_file("pikvd.json", "{\"log\": {\"level\": \"warn\"}, \"loop\": "
                             "{\"spin\": \"1us\"}}");
    ck_assert_int_eq(mkdir(in_dir("conf.d"), 0700), 0);
    write_file("conf.d/20.json", "{\"log\": {\"level\": \"debug\"}}");
    write_file("conf.d/10.json", "{\"log\": {\"level\": \"error\"}, \"node\": "
                                 "{\"name\": \"n1\"}}");
    write_file("conf.d/30.json.off", "{");
    ck_assert_msg(files_config(&cfg, in_dir("pikvd.json"), env, &ignored,
                               &msg) == OK,
                  "%s", msg.text);
    ck_assert_uint_eq(cfg.log.level, LOG_DEBUG);
    ck_assert_str_eq(cfg.node.name, "n1");
    ck_assert_uint_eq(cfg.loop.spin_us, 7);
    in_dir("conf.d/20.json:1:19");
    ck_assert_str_eq(config_origin(&cfg, config_find("log.level")), path);
}
END_TEST

START_TEST(an_error_in_conf_d_names_that_file_and_changes_nothing)
{
    struct errmsg ignored;
    struct config before = cfg;

    write_file("pikvd.json", "{\"log\": {\"level\": \"warn\"}}");
    ck_assert_int_eq(mkdir(in_dir("conf.d"), 0700), 0);
    write_file("conf.d/a.json", "{\"log\": {\"lewel\": 1}}");
    ck_assert_int_eq(files_config(&cfg, in_dir("pikvd.json"), no_env, &ignored,
                                  &msg),
                     ERR_CONFIG);
    in_dir("conf.d/a.json:1:10: log.lewel: no such setting; nearest: "
           "log.level");
    ck_assert_str_eq(msg.text, path);
    ck_assert_mem_eq(&cfg, &before, sizeof(cfg));
}
END_TEST

START_TEST(loading_survives_every_fault_and_changes_nothing)
{
    struct config before = cfg;
    struct errmsg ignored;
    uint32_t n;

    write_file("pikvd.json", "{\"log\": {\"level\": \"warn\"}}");
    ck_assert_int_eq(mkdir(in_dir("conf.d"), 0700), 0);
    write_file("conf.d/a.json", "{\"node\": {\"name\": \"x\"}}");
    in_dir("pikvd.json");
    for (n = 1;; n++) {
        enum err e;

        fault_arm(n);
        e = files_config(&cfg, path, no_env, &ignored, &msg);
        if (!fault_hit())
            break;
        ck_assert_int_ne(e, OK);
        ck_assert_mem_eq(&cfg, &before, sizeof(cfg));
    }
    ck_assert_uint_gt(n, 8);
    ck_assert_str_eq(cfg.node.name, "x");
}
END_TEST

START_TEST(without_a_file_the_defaults_and_variables_count)
{
    struct config plain;
    struct errmsg ignored;
    const struct config_row *keys[CONFIG_ROWS];

    config_defaults(&plain);
    ck_assert_int_eq(files_config(&cfg, NULL, no_env, &ignored, &msg), OK);
    ck_assert_uint_eq(config_diff(&cfg, &plain, keys), 0);
    ck_assert_str_eq(ignored.text, "");
}
END_TEST

START_TEST(a_directory_for_a_setting_must_be_there)
{
    char want[300];

    ck_assert_int_eq(files_dir_check("node.state_dir", dir, &msg), OK);
    ck_assert_int_eq(files_dir_check("node.state_dir", in_dir("none"), &msg),
                     ERR_IO);
    snprintf(want, sizeof(want),
             "node.state_dir: %s/none: cannot use: No such file or directory; "
             "fix: create it, or name another path",
             dir);
    ck_assert_str_eq(msg.text, want);
    write_file("f", "");
    ck_assert_int_eq(files_dir_check("node.state_dir", in_dir("f"), &msg),
                     ERR_IO);
    ck_assert_ptr_nonnull(strstr(msg.text, "Not a directory"));
}
END_TEST

/* ---- lock ----------------------------------------------------------------- */

START_TEST(a_second_lock_is_refused_and_names_the_first_one)
{
    char want[64];
    int fd, other;

    in_dir("lock");
    ck_assert_int_eq(files_lock(path, &fd, &msg), OK);
    ck_assert_int_eq(files_lock(path, &other, &msg), ERR_BUSY);
    snprintf(want, sizeof(want), "another pikvd (pid %ld) uses it; fix:",
             (long)getpid());
    ck_assert_ptr_nonnull(strstr(msg.text, want));
    close(fd);
    ck_assert_int_eq(files_lock(path, &fd, &msg), OK);
    close(fd);
}
END_TEST

START_TEST(a_lock_ends_with_its_process)
{
    int fd, status, ready[2];
    pid_t pid;
    char byte;

    in_dir("lock");
    ck_assert_int_eq(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        /* Killed while it holds the lock. */
        if (files_lock(path, &fd, &msg) == OK && write(ready[1], "", 1) == 1)
            pause();
        _exit(1);
    }
    ck_assert_int_eq((int)read(ready[0], &byte, 1), 1);
    ck_assert_int_eq(files_lock(path, &fd, &msg), ERR_BUSY);
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(files_lock(path, &fd, &msg), OK);
    close(fd);
    close(ready[0]);
    close(ready[1]);
}
END_TEST

START_TEST(a_lock_survives_every_fault_without_a_leak)
{
    uint32_t fds, n;
    int fd = -1;

    in_dir("lock");
    fds = open_fds();
    for (n = 1;; n++) {
        enum err e;

        fault_arm(n);
        e = files_lock(path, &fd, &msg);
        if (!fault_hit())
            break;
        ck_assert_int_eq(e, ERR_IO);
        ck_assert_uint_eq(open_fds(), fds);
    }
    ck_assert_uint_eq(n, 3);
    close(fd);
}
END_TEST

/* ---- clocks and random ---------------------------------------------------- */

START_TEST(clocks_go_forward_and_random_bytes_differ)
{
    uint64_t a = files_mono_ns(), b = files_mono_ns();
    uint8_t x[32] = {0}, y[32] = {0};

    ck_assert_uint_ge(b, a);
    ck_assert_uint_gt(files_wall_us(), UINT64_C(1600000000000000));
    ck_assert_int_eq(files_random(x, sizeof(x)), OK);
    ck_assert_int_eq(files_random(y, sizeof(y)), OK);
    ck_assert_mem_ne(x, y, sizeof(x));
    fault_arm(1);
    ck_assert_int_eq(files_random(x, sizeof(x)), ERR_IO);
}
END_TEST

/* ---- memory --------------------------------------------------------------- */

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

    cfg.dram.capacity_bytes = GIB(65536);
    ck_assert_int_eq(files_dram_bytes(&cfg, &bytes, &msg), ERR_CONFIG);
    ck_assert_ptr_nonnull(
        strstr(msg.text, "dram.capacity: 64TiB is more than the "));
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

    strcpy(cfg.dram.backing, "tmpfs:/dev/shm");
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

    strcpy(cfg.dram.backing, "tmpfs:/proc");
    ck_assert_int_eq(files_arena_open(&cfg, MIB(4), &a, &msg), ERR_IO);
    ck_assert_str_eq(msg.text,
                     "dram.backing: /proc is not a tmpfs; fix: mount one "
                     "there, or set dram.backing to \"memfd\"");
    strcpy(cfg.dram.backing, "hugetlbfs:/dev/shm");
    ck_assert_int_eq(files_arena_open(&cfg, MIB(4), &a, &msg), ERR_IO);
    ck_assert_ptr_nonnull(strstr(msg.text, "/dev/shm is not a hugetlbfs"));
    strcpy(cfg.dram.backing, "hugetlbfs:/none");
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

    strcpy(cfg.dram.backing, backings[_i]);
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
    Suite *s = suite_create("files");
    TCase *t = tcase_create("files");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_file_is_read_whole_up_to_the_limit);
    tcase_add_test(t, a_large_file_is_read_whole);
    tcase_add_test(t, a_missing_file_says_the_path_the_reason_and_the_fix);
    tcase_add_test(t, reading_survives_every_fault_without_a_leak);
    tcase_add_test(
        t, a_replaced_file_holds_the_old_or_the_new_bytes_after_any_fault);
    tcase_add_test(t, replacing_in_a_directory_that_is_not_there_says_so);
    tcase_add_test(t, a_list_is_sorted_filtered_and_may_be_empty);
    tcase_add_test(t, a_list_survives_every_fault_without_a_leak);
    tcase_add_test(t, conf_d_is_merged_in_order_and_variables_win);
    tcase_add_test(t, an_error_in_conf_d_names_that_file_and_changes_nothing);
    tcase_add_test(t, loading_survives_every_fault_and_changes_nothing);
    tcase_add_test(t, without_a_file_the_defaults_and_variables_count);
    tcase_add_test(t, a_directory_for_a_setting_must_be_there);
    tcase_add_test(t, a_second_lock_is_refused_and_names_the_first_one);
    tcase_add_test(t, a_lock_ends_with_its_process);
    tcase_add_test(t, a_lock_survives_every_fault_without_a_leak);
    tcase_add_test(t, clocks_go_forward_and_random_bytes_differ);
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
    tcase_add_test(
        t, a_shared_descriptor_reads_the_same_bytes_and_cannot_write);
    suite_add_tcase(s, t);
    return s;
}
