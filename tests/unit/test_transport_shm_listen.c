/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: rpc proto base */
#include "rpc/transport_shm.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fault.h"
#include "tests/lib/shm_fix.h"

/* ---- The socket's file ---- */

/* Opens a second transport as cfg says; it must fail with these words. */
static void refused(const struct transport_shm_cfg *cfg, enum err e,
                    const char *words)
{
    struct transport *t = NULL;
    uint32_t fds = fix_fds();
    struct errmsg m = {{0}};

    ck_assert_int_eq(transport_shm_open(cfg, &fix.base, &t, &m), e);
    ck_assert_ptr_null(t);
    ck_assert_msg(strstr(m.text, words), "%s", m.text);
    ck_assert_uint_eq(fix_fds(), fds);
}

START_TEST(a_configuration_that_cannot_work_is_refused_in_words)
{
    struct transport_shm_cfg c = fix.cfg;
    char longer[200];

    c.ring_bytes = 3 << 12;
    refused(&c, ERR_CONFIG, "powers of two");
    c.ring_bytes = 2048;
    refused(&c, ERR_CONFIG, "powers of two");
    c.ring_bytes = 16 << 10;
    refused(&c, ERR_CONFIG, "too small for messages of 8192");
    c = fix.cfg;
    c.copy_slice_bytes = 0;
    refused(&c, ERR_CONFIG, "at least 1");
    c = fix.cfg;
    memset(longer, 'x', sizeof(longer));
    longer[108] = '\0';
    c.path = longer;
    refused(&c, ERR_CONFIG, "longer than 107 bytes");
    c.path = "/nonexistent/pikvd.sock";
    refused(&c, ERR_CONFIG, "No such file");
}
END_TEST

START_TEST(a_socket_that_answers_is_not_taken_over)
{
    struct stat st;

    refused(&fix.cfg, ERR_CONFIG, "in use by another process");
    ck_assert_int_eq(stat(fix.path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0600);
    fix_run(); /* who looked has gone again */
    fix_connect(0);
}
END_TEST

START_TEST(a_socket_of_a_dead_daemon_is_replaced)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    transport_shm_close(fix.t);
    fix.t = NULL;
    memcpy(a.sun_path, fix.path, strlen(fix.path));
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    close(fd); /* as a killed daemon does: the file stays */
    fix.cfg.mode = 0666;
    ck_assert_msg(fix_open() == OK, "%s", fix.msg.text);
    fix_connect(0);
}
END_TEST

START_TEST(a_file_that_is_not_a_socket_is_left_alone)
{
    int fd;

    transport_shm_close(fix.t);
    fix.t = NULL;
    fd = open(fix.path, O_CREAT | O_RDWR, 0600);
    refused(&fix.cfg, ERR_CONFIG, "not a socket");
    ck_assert_int_eq(unlink(fix.path), 0);
    close(fd);
}
END_TEST

START_TEST(the_file_is_removed_only_if_it_is_ours)
{
    int fd;

    ck_assert_int_eq(unlink(fix.path), 0);
    fd = open(fix.path, O_CREAT | O_RDWR, 0600);
    close(fd);
    transport_shm_close(fix.t);
    fix.t = NULL;
    ck_assert_int_eq(unlink(fix.path), 0);
}
END_TEST

/* ---- Handshake ---- */

START_TEST(the_welcome_brings_sealed_rings_and_the_lane_knows_who)
{
    struct fix_peer *p = fix_connect(0);
    struct shm_client *c = &fix.c[0];

    ck_assert_uint_eq(c->welcome.magic, SHM_WELCOME_MAGIC);
    ck_assert_uint_eq(c->welcome.version, WIRE_VERSION);
    ck_assert_uint_eq(c->welcome.ring_bytes, fix.cfg.ring_bytes);
    ck_assert_int_eq(ftruncate(c->ring_fd, 0), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(ftruncate(c->ring_fd, 1 << 30), -1);
    ck_assert_uint_eq(p->tp->cred.pid, (uint32_t)getpid());
    ck_assert_uint_eq(p->tp->cred.uid, getuid());
    ck_assert_uint_eq(p->tp->inline_max, 0);
    ck_assert_ptr_eq(p->tp->t, fix.t);
}
END_TEST

START_TEST(a_refused_client_is_told_why)
{
    fix.refuse = ERR_DRAINING;
    ck_assert(shm_client_connect(&fix.c[0], fix.path));
    fix_run();
    ck_assert_int_eq(shm_client_welcome(&fix.c[0]), ERR_DRAINING);
    ck_assert(shm_client_eof(&fix.c[0]));
    ck_assert_uint_eq(fix.peer_n, 0);
}
END_TEST

START_TEST(one_client_too_many_is_told_busy)
{
    transport_shm_close(fix.t);
    fix.cfg.peers_max = 1;
    ck_assert_int_eq(fix_open(), OK);
    fix_connect(0);
    ck_assert(shm_client_connect(&fix.c[1], fix.path));
    fix_run();
    ck_assert_int_eq(shm_client_welcome(&fix.c[1]), ERR_BUSY);
    shm_client_close(&fix.c[0]);
    fix_run();
    shm_client_close(&fix.c[1]);
    fix_connect(1); /* the place is free again */
}
END_TEST

START_TEST(a_client_that_leaves_before_its_welcome_is_nothing_special)
{
    ck_assert(shm_client_connect(&fix.c[0], fix.path));
    shm_client_close(&fix.c[0]);
    fix_run();
    ck_assert_uint_le(fix.peer_n, 1);
}
END_TEST

START_TEST(without_descriptors_clients_are_turned_away_and_the_lane_idles)
{
    struct rlimit old, lim;
    int idle = 0;

    ck_assert(shm_client_connect(&fix.c[0], fix.path));
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
    lim = old;
    /* No new number may be used; the spare one is below. */
    lim.rlim_cur = (rlim_t)fix.c[0].sock + 1;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &lim), 0);
    for (int i = 0; i < 1000 && idle < 100; i++)
        idle = fix.t->ops->progress(fix.t) ? 0 : idle + 1;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
    ck_assert_int_eq(idle, 100);
    ck_assert_int_eq(shm_client_welcome(&fix.c[0]), ERR_BUSY);
    shm_client_close(&fix.c[0]);
    fix_connect(0);
}
END_TEST

#ifdef PIKV_FAULTS
START_TEST(each_failure_at_open_undoes_the_rest)
{
    uint32_t fds, n;

    transport_shm_close(fix.t);
    fix.t = NULL;
    fds = fix_fds();
    for (n = 1;; n++) {
        enum err e;

        fault_arm(n);
        e = fix_open();
        fault_arm(0);
        if (!e)
            break;
        ck_assert_ptr_null(fix.t);
        ck_assert_str_ne(fix.msg.text, "");
        ck_assert_uint_eq(fix_fds(), fds);
        ck_assert_int_ne(access(fix.path, F_OK), 0);
    }
    ck_assert_uint_gt(n, 5);
}
END_TEST

START_TEST(each_failure_at_connect_costs_only_that_client)
{
    uint32_t fds = fix_fds(), n;
    bool hit = true;

    for (n = 1; hit; n++) {
        ck_assert(shm_client_connect(&fix.c[0], fix.path));
        fault_arm(n);
        fix_run();
        hit = fault_hit();
        fault_arm(0);
        ck_assert_int_eq(shm_client_welcome(&fix.c[0]) != OK, hit);
        shm_client_close(&fix.c[0]);
        fix_run();
        ck_assert_uint_eq(fix_fds(), fds);
    }
    ck_assert_uint_gt(n, 5);
    fix_connect(0);
}
END_TEST
#endif

Suite *suite(void);

Suite *suite(void)
{
    Suite *s = suite_create("transport_shm_listen");
    TCase *t = tcase_create("transport_shm_listen");

    tcase_add_checked_fixture(t, fix_setup, fix_teardown);
    tcase_add_test(t, a_configuration_that_cannot_work_is_refused_in_words);
    tcase_add_test(t, a_socket_that_answers_is_not_taken_over);
    tcase_add_test(t, a_socket_of_a_dead_daemon_is_replaced);
    tcase_add_test(t, a_file_that_is_not_a_socket_is_left_alone);
    tcase_add_test(t, the_file_is_removed_only_if_it_is_ours);
    tcase_add_test(t, the_welcome_brings_sealed_rings_and_the_lane_knows_who);
    tcase_add_test(t, a_refused_client_is_told_why);
    tcase_add_test(t, one_client_too_many_is_told_busy);
    tcase_add_test(t,
                   a_client_that_leaves_before_its_welcome_is_nothing_special);
    tcase_add_test(
        t, without_descriptors_clients_are_turned_away_and_the_lane_idles);
#ifdef PIKV_FAULTS
    tcase_add_test(t, each_failure_at_open_undoes_the_rest);
    tcase_add_test(t, each_failure_at_connect_costs_only_that_client);
#endif
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    return s;
}
