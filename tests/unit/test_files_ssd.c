/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server rpc store base proto */
#include "server/files_ssd.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fault.h"
#include "lib/ssd_dir.h"

static char dir[200], path[300], other[300];
static struct errmsg msg;
static struct files_ssd ssd;
static struct files_ssds ssds;
static struct config cfg;

static void setup(void)
{
    fault_arm(0);
    ssd = (struct files_ssd){0};
    ssds = (struct files_ssds){0};
    msg.text[0] = '\0';
    config_defaults(&cfg);
    if (ssd_dir_new(dir)) {
        snprintf(path, sizeof(path), "%s/store", dir);
        snprintf(other, sizeof(other), "%s/other", dir);
    }
}

static void teardown(void)
{
    fault_arm(0);
    files_ssd_close(&ssd);
    files_ssds_close(&ssds);
    ssd_dir_free(dir);
}

static enum err open_at(const char *at, uint64_t capacity)
{
    struct files_ssd_cfg c = {
        .path = at, .capacity = capacity, .segment = MIB(1)};

    return files_ssd_open(&ssd, &c, &msg);
}

static void expect(enum err e, enum err want, const char *words,
                   const char *fix)
{
    ck_assert_int_eq(e, want);
    ck_assert_msg(strstr(msg.text, words) != NULL, "%s", msg.text);
    ck_assert_msg(strstr(msg.text, fix) != NULL, "%s", msg.text);
    ck_assert_msg(strncmp(msg.text, "ssd.", 4) == 0, "%s", msg.text);
}

static void make(const char *at, uint64_t bytes)
{
    int fd = open(at, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)bytes), 0);
    close(fd);
}

static struct stat stat_of(const char *at)
{
    struct stat st = {0};

    if (stat(at, &st) != 0)
        ck_assert_int_eq(errno, ENOENT);
    return st;
}

/* ---- what works */

START_TEST(a_new_file_is_made_with_its_space_reserved)
{
    struct stat st;

    if (!dir[0])
        return;
    ck_assert_msg(open_at(path, MIB(16) + 100) == OK, "%s", msg.text);
    st = stat_of(path);
    ck_assert_int_eq(st.st_size, MIB(16));
    ck_assert_int_ge(st.st_blocks * 512, MIB(16));
    ck_assert_uint_eq(st.st_mode & 0777, 0600);
    ck_assert_uint_eq(ssd.bytes, MIB(16));
    ck_assert(ssd.created && !ssd.is_block);
    ck_assert_int_ne(fcntl(ssd.fd, F_GETFL) & O_DIRECT, 0);
    ck_assert_int_ne(fcntl(ssd.fd, F_GETFD) & FD_CLOEXEC, 0);
}
END_TEST

START_TEST(a_file_that_is_there_keeps_its_size_and_its_bytes)
{
    char back[5] = "";
    int fd;

    if (!dir[0])
        return;
    make(path, MIB(32) + 4097);
    fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert_int_eq(pwrite(fd, "mine", 4, MIB(20)), 4);
    close(fd);
    ck_assert_msg(open_at(path, MIB(16)) == OK, "%s", msg.text);
    ck_assert_uint_eq(ssd.bytes, MIB(32) + 4096);
    ck_assert(!ssd.created);
    /* It was sparse: now its space is reserved. */
    ck_assert_int_ge(stat_of(path).st_blocks * 512, MIB(32));
    files_ssd_close(&ssd);
    ck_assert_msg(open_at(path, 0) == OK, "%s", msg.text);
    ck_assert_uint_eq(ssd.bytes, MIB(32) + 4096);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(pread(fd, back, 4, MIB(20)), 4);
    ck_assert_str_eq(back, "mine");
    close(fd);
}
END_TEST

START_TEST(a_smaller_or_empty_file_grows_to_the_capacity)
{
    if (!dir[0])
        return;
    make(path, 0);
    ck_assert_msg(open_at(path, MIB(12)) == OK, "%s", msg.text);
    ck_assert_uint_eq(ssd.bytes, MIB(12));
    ck_assert(!ssd.created);
    files_ssd_close(&ssd);
    ck_assert_msg(open_at(path, MIB(20)) == OK, "%s", msg.text);
    ck_assert_uint_eq(ssd.bytes, MIB(20));
}
END_TEST

START_TEST(a_link_is_followed)
{
    if (!dir[0])
        return;
    make(path, MIB(12));
    ck_assert_int_eq(symlink(path, other), 0);
    ck_assert_msg(open_at(other, 0) == OK, "%s", msg.text);
    ck_assert_uint_eq(ssd.ino, stat_of(path).st_ino);
    files_ssd_close(&ssd);
    unlink(path);
    expect(open_at(other, MIB(16)), ERR_IO, "is a link to nowhere",
           "fix: remove it");
}
END_TEST

/* A loop device over a file, gone with its last descriptor; -1: cannot. */
static int loop_device(uint64_t bytes, uint32_t sector, char name[40])
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), n, fd, file;
    struct loop_config c = {.block_size = sector,
                            .info = {.lo_flags = LO_FLAGS_AUTOCLEAR}};

    make(path, bytes);
    file = open(path, O_RDWR | O_CLOEXEC);
    n = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
    snprintf(name, 40, "/dev/loop%d", n);
    fd = n < 0 ? -1 : open(name, O_RDWR | O_CLOEXEC);
    c.fd = (uint32_t)file;
    if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &c) != 0) {
        close(fd);
        fd = -1;
    }
    if (control >= 0)
        close(control);
    close(file);
    if (fd < 0)
        fputs("skipped: cannot make a loop device\n", stderr);
    return fd;
}

START_TEST(a_block_device_is_taken_as_it_is_or_in_part)
{
    char name[40];
    int fd, mounted;

    if (!dir[0] || (fd = loop_device(MIB(20) + 512, 512, name)) < 0)
        return;
    ck_assert_msg(open_at(name, 0) == OK, "%s", msg.text);
    ck_assert(ssd.is_block && !ssd.created);
    ck_assert_uint_eq(ssd.bytes, MIB(20));
    ck_assert_int_eq(flock(fd, LOCK_EX | LOCK_NB), -1);
    files_ssd_close(&ssd);
    ck_assert_msg(open_at(name, MIB(12)) == OK, "%s", msg.text);
    ck_assert_uint_eq(ssd.bytes, MIB(12));
    files_ssd_close(&ssd);
    expect(open_at(name, MIB(64)), ERR_IO, "ssd.capacity: 64MiB of /dev/loop",
           "fix: a smaller value");
    /* Claimed, as a mount or a RAID does it. */
    mounted = open(name, O_RDWR | O_EXCL | O_CLOEXEC);
    ck_assert_int_ge(mounted, 0);
    expect(open_at(name, 0), ERR_BUSY, "the device is mounted or in use",
           "fix: umount it");
    close(mounted);
    snprintf(cfg.ssd.paths, sizeof(cfg.ssd.paths), "%s,%s", name, other);
    ck_assert_int_eq(symlink(name, other), 0);
    cfg.ssd.segment_bytes = MIB(1);
    expect(files_ssds_open(&ssds, &cfg, &msg), ERR_IO, "are the same SSD",
           "fix: name it once");
    close(fd);
}
END_TEST

START_TEST(a_device_too_small_is_refused)
{
    char name[40];
    int fd;

    if (!dir[0] || (fd = loop_device(MIB(4), 4096, name)) < 0)
        return;
    expect(open_at(name, 0), ERR_IO, "4MiB are too small for 8 segments",
           "fix: a larger one");
    close(fd);
}
END_TEST

START_TEST(a_device_with_large_sectors_is_refused)
{
    char name[40];
    int fd;

    if (!dir[0] || (fd = loop_device(MIB(32), 8192, name)) < 0)
        return;
    expect(open_at(name, 0), ERR_IO, "has sectors of more than 4096 bytes",
           "fix: format the drive");
    close(fd);
}
END_TEST

/* ---- what is refused */

START_TEST(a_tmpfs_is_refused)
{
    struct statvfs fs;

    if (statvfs("/dev/shm", &fs) != 0 || access("/dev/shm", W_OK) != 0) {
        fputs("skipped: no /dev/shm\n", stderr);
        return;
    }
    expect(open_at("/dev/shm/pikvd-test-ssd", MIB(16)), ERR_IO,
           "/dev/shm/pikvd-test-ssd: lies in memory (tmpfs)",
           "fix: name a file on ext4 or xfs");
    ck_assert_uint_eq(stat_of("/dev/shm/pikvd-test-ssd").st_ino, 0);
    make("/dev/shm/pikvd-test-ssd", MIB(16));
    expect(open_at("/dev/shm/pikvd-test-ssd", 0), ERR_IO, "lies in memory",
           "fix: name a file");
    unlink("/dev/shm/pikvd-test-ssd");
}
END_TEST

START_TEST(too_little_space_is_told_with_what_is_needed_and_there)
{
    if (!dir[0])
        return;
    expect(open_at(path, UINT64_C(1) << 50), ERR_IO, "1024TiB more are needed",
           "fix: free space there, or a smaller ssd.capacity");
    ck_assert_uint_eq(stat_of(path).st_ino, 0);
    make(path, 0);
    expect(open_at(path, UINT64_C(1) << 50), ERR_IO, "free",
           "smaller ssd.capacity");
    ck_assert_int_eq(stat_of(path).st_size, 0);
}
END_TEST

START_TEST(a_new_file_without_a_size_is_refused)
{
    if (!dir[0])
        return;
    expect(open_at(path, 0), ERR_IO, "not there or empty",
           "set ssd.capacity to a size");
    ck_assert_uint_eq(stat_of(path).st_ino, 0);
}
END_TEST

START_TEST(a_store_for_less_than_eight_segments_is_refused)
{
    if (!dir[0])
        return;
    expect(open_at(path, MIB(9)), ERR_IO,
           "9MiB are too small for 8 segments of ssd.segment, which take 10MiB",
           "smaller ssd.segment");
    ck_assert_uint_eq(stat_of(path).st_ino, 0);
    ck_assert_int_eq(open_at(path, MIB(10)), OK);
}
END_TEST

START_TEST(a_directory_a_device_that_is_none_and_nowhere_are_refused)
{
    if (!dir[0])
        return;
    expect(open_at(dir, MIB(16)), ERR_IO, "is a directory", "fix: name a file");
    expect(open_at("/dev/null", MIB(16)), ERR_IO,
           "neither a file nor a block device", "fix: name one");
    snprintf(path, sizeof(path), "%s/no/where", dir);
    expect(open_at(path, MIB(16)), ERR_IO, "no such file or directory",
           "create the directory");
}
END_TEST

START_TEST(a_file_that_may_not_be_written_is_refused)
{
    if (!dir[0])
        return;
    make(path, MIB(16));
    ck_assert_int_eq(chmod(path, 0444), 0);
    ck_assert_int_eq(chmod(dir, 0755), 0);
    if (geteuid() == 0 && seteuid(65534) != 0) {
        fputs("skipped: cannot be another user\n", stderr);
        return;
    }
    expect(open_at(path, 0), ERR_IO, "read-only for the daemon's user",
           "fix: chown it");
    expect(open_at(other, MIB(16)), ERR_IO, "read-only for the daemon's user",
           "fix: chown it");
    ck_assert_int_eq(seteuid(getuid()), 0);
}
END_TEST

START_TEST(a_read_only_file_system_is_refused)
{
    if (!dir[0])
        return;
    make(path, MIB(16));
    /* In this test's process only. */
    if (unshare(CLONE_NEWNS) != 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount(dir, dir, NULL, MS_BIND, NULL) != 0 ||
        mount(NULL, dir, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) != 0) {
        fputs("skipped: cannot mount\n", stderr);
        return;
    }
    expect(open_at(path, 0), ERR_IO, "the file system is read-only",
           "remount,rw");
    ck_assert_int_eq(umount2(dir, MNT_DETACH), 0);
}
END_TEST

START_TEST(a_path_in_use_is_refused_and_names_the_process)
{
    char pid[40], c = 0;
    int up[2], down[2];
    pid_t child;

    if (!dir[0])
        return;
    make(path, MIB(16));
    ck_assert_int_eq(pipe(up), 0);
    ck_assert_int_eq(pipe(down), 0);
    child = fork();
    if (child == 0) {
        c = open_at(path, 0) == OK;
        (void)!write(up[1], &c, 1);
        (void)!read(down[0], &c, 1);
        _exit(0);
    }
    ck_assert_int_eq(read(up[0], &c, 1), 1);
    ck_assert_int_eq(c, 1);
    snprintf(pid, sizeof(pid), "(pid %ld)", (long)child);
    if (access("/proc/locks", R_OK) != 0)
        snprintf(pid, sizeof(pid), "(pid unknown)");
    expect(open_at(path, 0), ERR_BUSY, "in use by another pikvd or pikv-fsck",
           pid);
    expect(open_at(path, 0), ERR_BUSY, path, "fix: stop that one");
    ck_assert_int_eq(write(down[1], &c, 1), 1);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    /* The lock went with the process. */
    ck_assert_msg(open_at(path, 0) == OK, "%s", msg.text);
}
END_TEST

START_TEST(two_names_of_one_file_are_refused)
{
    if (!dir[0])
        return;
    make(path, MIB(16));
    ck_assert_int_eq(link(path, other), 0);
    snprintf(cfg.ssd.paths, sizeof(cfg.ssd.paths), "%.200s,%.200s", path,
             other);
    cfg.ssd.segment_bytes = MIB(1);
    expect(files_ssds_open(&ssds, &cfg, &msg), ERR_IO, "are the same SSD",
           "fix: name it once");
    ck_assert_uint_eq(ssds.n, 0);
    /* The first one's lock is not left behind. */
    ck_assert_int_eq(open_at(path, 0), OK);
}
END_TEST

START_TEST(all_paths_are_opened_or_none)
{
    if (!dir[0])
        return;
    cfg.ssd.segment_bytes = MIB(1);
    cfg.ssd.capacity_bytes = MIB(16);
    snprintf(cfg.ssd.paths, sizeof(cfg.ssd.paths), "%.200s, %.200s", path,
             other);
    ck_assert_msg(files_ssds_open(&ssds, &cfg, &msg) == OK, "%s", msg.text);
    ck_assert_uint_eq(ssds.n, 2);
    ck_assert_str_eq(ssds.of[1].path, other);
    files_ssds_close(&ssds);
    unlink(other);
    ck_assert_int_eq(mkdir(other, 0700), 0);
    expect(files_ssds_open(&ssds, &cfg, &msg), ERR_IO, "is a directory", other);
    ck_assert_uint_eq(ssds.n, 0);
    ck_assert_int_eq(open_at(path, 0), OK);
}
END_TEST

START_TEST(every_failing_step_is_told_and_leaves_no_new_file)
{
    uint32_t n;

    if (!dir[0])
        return;
    for (n = 1;; n++) {
        enum err e;
        bool hit;

        msg.text[0] = '\0';
        fault_arm(n);
        e = open_at(path, MIB(16));
        hit = fault_hit();
        fault_arm(0);
        files_ssd_close(&ssd);
        if (!hit) {
            ck_assert_int_eq(e, OK);
            break;
        }
        ck_assert_int_ne(e, OK);
        ck_assert(msg.text[0] != '\0');
        ck_assert_uint_eq(stat_of(path).st_ino, 0);
    }
    ck_assert_uint_gt(n, 3);
}
END_TEST

START_TEST(uuids_are_random_and_marked_as_such)
{
    uint8_t a[16] = {0}, b[16] = {0};

    ck_assert_int_eq(files_uuid(a, &msg), OK);
    ck_assert_int_eq(files_uuid(b, &msg), OK);
    ck_assert_int_ne(memcmp(a, b, 16), 0);
    ck_assert_uint_eq(a[6] >> 4, 4);
    ck_assert_uint_eq(a[8] >> 6, 2);
    fault_arm(1);
    ck_assert_int_eq(files_uuid(b, &msg), ERR_IO);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("files_ssd");
    TCase *t = tcase_create("files_ssd");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_new_file_is_made_with_its_space_reserved);
    tcase_add_test(t, a_file_that_is_there_keeps_its_size_and_its_bytes);
    tcase_add_test(t, a_smaller_or_empty_file_grows_to_the_capacity);
    tcase_add_test(t, a_link_is_followed);
    tcase_add_test(t, a_block_device_is_taken_as_it_is_or_in_part);
    tcase_add_test(t, a_device_too_small_is_refused);
    tcase_add_test(t, a_device_with_large_sectors_is_refused);
    tcase_add_test(t, a_tmpfs_is_refused);
    tcase_add_test(t, too_little_space_is_told_with_what_is_needed_and_there);
    tcase_add_test(t, a_new_file_without_a_size_is_refused);
    tcase_add_test(t, a_store_for_less_than_eight_segments_is_refused);
    tcase_add_test(t,
                   a_directory_a_device_that_is_none_and_nowhere_are_refused);
    tcase_add_test(t, a_file_that_may_not_be_written_is_refused);
    tcase_add_test(t, a_read_only_file_system_is_refused);
    tcase_add_test(t, a_path_in_use_is_refused_and_names_the_process);
    tcase_add_test(t, two_names_of_one_file_are_refused);
    tcase_add_test(t, all_paths_are_opened_or_none);
    tcase_add_test(t, every_failing_step_is_told_and_leaves_no_new_file);
    tcase_add_test(t, uuids_are_random_and_marked_as_such);
    suite_add_tcase(s, t);
    return s;
}
