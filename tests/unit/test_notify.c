/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: server rpc store base proto */
#include "server/notify.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fault.h"
#include "server/files.h"

/* The service manager's end: a bound datagram socket. */
static int manager = -1;
static char address[100], dir[40];
static struct errmsg msg;

static void manager_open(const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = strlen(name);

    memcpy(a.sun_path, name, n);
    if (name[0] == '@')
        a.sun_path[0] = '\0';
    manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    ck_assert_int_eq(
        bind(manager, (struct sockaddr *)&a,
             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)),
        0);
}

static void setup(void)
{
    fault_arm(0);
    snprintf(dir, sizeof(dir), "/tmp/pikvd-test.XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(address, sizeof(address), "%s/notify", dir);
}

static void teardown(void)
{
    close(manager);
    unlink(address);
    rmdir(dir);
}

static void expect(const char *want)
{
    char got[1024];
    ssize_t n = recv(manager, got, sizeof(got) - 1, 0);

    ck_assert_int_ge(n, 0);
    got[n] = '\0';
    ck_assert_str_eq(got, want);
}

START_TEST(each_message_is_one_datagram_as_the_manual_says)
{
    struct notify n;
    uint64_t before = files_mono_ns() / 1000, at = 0;
    char got[200];
    ssize_t len;

    manager_open(address);
    ck_assert_int_eq(notify_open(&n, address, NULL, NULL, &msg), OK);
    ck_assert_int_eq(notify_ready(&n, "serving 2 lanes"), OK);
    expect("READY=1\nSTATUS=serving 2 lanes");
    ck_assert_int_eq(notify_status(&n, "a\nREADY=0"), OK);
    expect("STATUS=a READY=0");
    ck_assert_int_eq(notify_watchdog(&n), OK);
    expect("WATCHDOG=1");
    ck_assert_int_eq(notify_extend(&n, 5000000), OK);
    expect("EXTEND_TIMEOUT_USEC=5000000");
    ck_assert_int_eq(notify_stopping(&n, "draining"), OK);
    expect("STOPPING=1\nSTATUS=draining");
    ck_assert_int_eq(notify_reloading(&n), OK);
    len = recv(manager, got, sizeof(got) - 1, 0);
    ck_assert_int_gt(len, 0);
    got[len] = '\0';
    ck_assert_int_eq(sscanf(got, "RELOADING=1\nMONOTONIC_USEC=%lu", &at), 1);
    ck_assert_uint_ge(at, before);
    ck_assert_uint_le(at, files_mono_ns() / 1000);
    notify_close(&n);
    notify_close(&n);
}
END_TEST

START_TEST(an_abstract_address_works_too)
{
    struct notify n;

    snprintf(address, sizeof(address), "@pikvd-test-%ld", (long)getpid());
    manager_open(address);
    ck_assert_int_eq(notify_open(&n, address, NULL, NULL, &msg), OK);
    ck_assert_int_eq(notify_watchdog(&n), OK);
    expect("WATCHDOG=1");
    notify_close(&n);
}
END_TEST

START_TEST(without_a_socket_every_call_is_silent)
{
    struct notify n, zero = {0};

    ck_assert_int_eq(notify_open(&n, NULL, "1000", NULL, &msg), OK);
    ck_assert_int_eq(notify_ready(&n, ""), OK);
    ck_assert_int_eq(notify_watchdog(&n), OK);
    ck_assert_uint_eq(n.watchdog_us, 0);
    notify_close(&n);
    ck_assert_int_eq(notify_open(&n, "", NULL, NULL, &msg), OK);
    ck_assert_int_eq(notify_watchdog(&zero), OK);
    notify_close(&zero);
}
END_TEST

START_TEST(a_bad_address_is_named_and_leaves_it_silent)
{
    struct notify n;
    char long_path[200];

    ck_assert_int_eq(notify_open(&n, "vsock:2:1", NULL, NULL, &msg),
                     ERR_CONFIG);
    ck_assert_str_eq(msg.text, "NOTIFY_SOCKET: \"vsock:2:1\" is not an "
                               "address; allowed: /path or @name");
    ck_assert_int_eq(notify_ready(&n, ""), OK);
    memset(long_path, '/', sizeof(long_path));
    long_path[108] = '\0';
    ck_assert_int_eq(notify_open(&n, long_path, NULL, NULL, &msg), ERR_CONFIG);
    ck_assert_int_eq(notify_open(&n, "/none/notify", NULL, NULL, &msg), ERR_IO);
    ck_assert_str_eq(msg.text,
                     "NOTIFY_SOCKET: /none/notify: No such file or directory");
    ck_assert_int_eq(notify_ready(&n, ""), OK);
}
END_TEST

START_TEST(the_watchdog_is_ours_only_with_our_pid)
{
    struct notify n;
    char pid[24];

    manager_open(address);
    snprintf(pid, sizeof(pid), "%ld", (long)getpid());
    ck_assert_int_eq(notify_open(&n, address, "20000000", pid, &msg), OK);
    ck_assert_uint_eq(n.watchdog_us, 20000000);
    notify_close(&n);
    ck_assert_int_eq(notify_open(&n, address, "20000000", NULL, &msg), OK);
    ck_assert_uint_eq(n.watchdog_us, 20000000);
    notify_close(&n);
    ck_assert_int_eq(notify_open(&n, address, "20000000", "1", &msg), OK);
    ck_assert_uint_eq(n.watchdog_us, 0);
    notify_close(&n);
}
END_TEST

START_TEST(a_manager_that_does_not_read_never_blocks_us)
{
    struct notify n;
    enum err e = OK;

    manager_open(address);
    ck_assert_int_eq(notify_open(&n, address, NULL, NULL, &msg), OK);
    for (uint32_t i = 0; i < 100000 && e == OK; i++)
        e = notify_watchdog(&n);
    ck_assert_int_eq(e, ERR_IO);
    expect("WATCHDOG=1");
    ck_assert_int_eq(notify_watchdog(&n), OK);
    notify_close(&n);
}
END_TEST

START_TEST(every_fault_is_an_error_and_the_next_call_works)
{
    struct notify n;

    manager_open(address);
    fault_arm(1);
    ck_assert_int_eq(notify_open(&n, address, NULL, NULL, &msg), ERR_IO);
    ck_assert_str_eq(fault_point(), "notify_socket");
    fault_arm(2);
    ck_assert_int_eq(notify_open(&n, address, NULL, NULL, &msg), OK);
    ck_assert_int_eq(notify_watchdog(&n), ERR_IO);
    ck_assert_int_eq(notify_watchdog(&n), OK);
    expect("WATCHDOG=1");
    notify_close(&n);
}
END_TEST

START_TEST(a_long_status_is_cut_and_still_sent)
{
    struct notify n;
    char status[2000], want[600];

    memset(status, 'x', sizeof(status));
    status[sizeof(status) - 1] = '\0';
    manager_open(address);
    ck_assert_int_eq(notify_open(&n, address, NULL, NULL, &msg), OK);
    ck_assert_int_eq(notify_status(&n, status), OK);
    snprintf(want, sizeof(want), "STATUS=%.504s", status);
    expect(want);
    notify_close(&n);
}
END_TEST

Suite *suite(void);
Suite *suite(void)
{
    Suite *s = suite_create("notify");
    TCase *t = tcase_create("notify");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, each_message_is_one_datagram_as_the_manual_says);
    tcase_add_test(t, an_abstract_address_works_too);
    tcase_add_test(t, without_a_socket_every_call_is_silent);
    tcase_add_test(t, a_bad_address_is_named_and_leaves_it_silent);
    tcase_add_test(t, the_watchdog_is_ours_only_with_our_pid);
    tcase_add_test(t, a_manager_that_does_not_read_never_blocks_us);
    tcase_add_test(t, every_fault_is_an_error_and_the_next_call_works);
    tcase_add_test(t, a_long_status_is_cut_and_still_sent);
    suite_add_tcase(s, t);
    return s;
}
