/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server rpc store base proto */
#include "server/files.h"

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
    snprintf(dir, sizeof(dir), "/tmp/pikvd-test.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    config_defaults(&cfg);
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

/* ---- files */

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

/* ---- configuration */

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
    ck_assert_msg(
        files_config(&cfg, in_dir("pikvd.json"), env, &ignored, &msg) == OK,
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
    ck_assert_int_eq(
        files_config(&cfg, in_dir("pikvd.json"), no_env, &ignored, &msg),
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

/* ---- lock */

START_TEST(a_second_lock_is_refused_and_names_the_first_one)
{
    char want[64];
    int fd, other;

    in_dir("lock");
    ck_assert_int_eq(files_lock(path, &fd, &msg), OK);
    ck_assert_int_eq(files_lock(path, &other, &msg), ERR_BUSY);
    snprintf(want, sizeof(want),
             "another pikvd (pid %ld) uses it; fix:", (long)getpid());
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

/* ---- clocks and random */

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
    suite_add_tcase(s, t);
    return s;
}
