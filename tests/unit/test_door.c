/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: door pikv server rpc store base proto */
/* The door with its thread, between real sockets and a scripted pikvd: what it
 * answers when the lanes do not, and that it ends at any moment. */
#include "door/door.h"

#include <arpa/inet.h>
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fault.h"
#include "lib/fake_pikvd.h"

enum { ANSWER_S = 20 };

static struct fake *fake;
static struct config cfg;
static struct metrics counts;
static struct door *door;
static struct errmsg msg;

static uint16_t free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    close(fd);
    return ntohs(a.sin_port);
}

static void set(const char *key, const char *fmt, unsigned long long v)
{
    char arg[300];

    snprintf(arg, sizeof(arg), fmt, key, v);
    ck_assert_msg(config_set_arg(&cfg, arg, &msg) == OK, "%s", msg.text);
}

static void setup(void)
{
    fake = fake_start(2);
    config_defaults(&cfg);
    snprintf(cfg.listen.shm.path, sizeof(cfg.listen.shm.path), "%s",
             fake_address(fake) + strlen("shm:"));
    cfg.listen.resp.enabled = true;
    cfg.listen.resp.port = free_port();
    set("listen.resp.memory", "%s=%lluMiB", 4);
    set("listen.resp.value", "%s=%lluMiB", 2);
    set("listen.resp.deadline", "%s=%llums", 100);
    memset(&counts, 0, sizeof(counts));
    ck_assert_msg(door_open(&door, &cfg, &counts, &msg) == OK, "%s", msg.text);
}

static void teardown(void)
{
    door_close(door);
    door = NULL;
    fake_stop(fake);
}

static int dial(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)cfg.listen.resp.port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = ANSWER_S};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL),
                     (ssize_t)strlen(text));
}

/* Reads as much as is wanted and compares. */
static void hears(int fd, const char *want)
{
    char got[512] = "";
    size_t n = 0;

    ck_assert_uint_lt(strlen(want), sizeof(got));
    while (n < strlen(want)) {
        ssize_t part = recv(fd, got + n, strlen(want) - n, 0);

        ck_assert_msg(part > 0, "after \"%s\" instead of \"%s\"", got, want);
        n += (size_t)part;
    }
    ck_assert_str_eq(got, want);
}

static void hears_end(int fd)
{
    char c;

    ck_assert_int_le(recv(fd, &c, 1, 0), 0);
    close(fd);
}

START_TEST(bytes_go_in_and_come_out)
{
    int fd = dial();

    say(fd, "SET a 1\r\nGET a\r\nSET b 22\r\nGET b\r\nEXISTS a b c\r\n");
    hears(fd, "+OK\r\n$1\r\n1\r\n+OK\r\n$2\r\n22\r\n:2\r\n");
    say(fd, "SET a 3 NX\r\nMSET x 1 y 2\r\nMGET x z y\r\n");
    hears(fd, "$-1\r\n+OK\r\n*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n2\r\n");
    close(fd);
}
END_TEST

static void *many(void *arg)
{
    char text[64], want[64];
    int fd = dial(), i = *(int *)arg;

    for (int n = 0; n < 200; n++) {
        snprintf(text, sizeof(text), "SET k%d-%d %d\r\nGET k%d-%d\r\nPING\r\n",
                 i, n, 1000 + n, i, n);
        snprintf(want, sizeof(want), "+OK\r\n$4\r\n%d\r\n+PONG\r\n", 1000 + n);
        say(fd, text);
        hears(fd, want);
    }
    close(fd);
    return NULL;
}

START_TEST(connections_do_not_meet)
{
    pthread_t t[4];
    int id[4];

    for (int i = 0; i < 4; i++) {
        id[i] = i;
        ck_assert_int_eq(pthread_create(&t[i], NULL, many, &id[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    ck_assert_uint_eq(metric_get(&counts.resp_commands), 4 * 200 * 3);
    ck_assert_uint_eq(metric_get(&counts.resp_errors), 0);
}
END_TEST

START_TEST(lanes_that_are_full_are_oom)
{
    int fd = dial();

    say(fd, "PING\r\n");
    hears(fd, "+PONG\r\n");
    fake_set_mode(fake, FAKE_REFUSES);
    say(fd, "SET a 1\r\nGET a\r\nDEL a\r\nPING\r\n");
    hears(fd, "-OOM command not allowed now: BUSY: a limit is reached (ops, "
              "bytes, pool); try again later\r\n"
              "-OOM command not allowed now: BUSY: a limit is reached (ops, "
              "bytes, pool); try again later\r\n"
              "-OOM command not allowed now: BUSY: a limit is reached (ops, "
              "bytes, pool); try again later\r\n+PONG\r\n");
    close(fd);
}
END_TEST

START_TEST(lanes_that_do_not_answer_time_out)
{
    int fd = dial();

    say(fd, "SET a 1\r\n");
    hears(fd, "+OK\r\n");
    fake_set_mode(fake, FAKE_HOLDS);
    say(fd, "GET a\r\nSET a 2\r\nEXISTS a\r\nMGET a b c\r\n");
    hears(fd, "-ERR TIMEOUT: the deadline passed\r\n"
              "-ERR TIMEOUT: the deadline passed\r\n"
              "-ERR TIMEOUT: the deadline passed\r\n"
              "*3\r\n-ERR TIMEOUT: the deadline passed\r\n");
    fake_set_mode(fake, FAKE_SERVES);
    close(fd);
}
END_TEST

START_TEST(lanes_that_die_are_an_error_and_come_back)
{
    int fd = dial();
    char got[4] = "";

    say(fd, "SET a 1\r\n");
    hears(fd, "+OK\r\n");
    fake_set_mode(fake, FAKE_DIES);
    say(fd, "GET a\r\n");
    ck_assert_int_eq(recv(fd, got, 1, 0), 1);
    ck_assert_str_eq(got, "-");
    close(fd);
    fake_set_mode(fake, FAKE_SERVES);
    for (int i = 0; got[0] != '$'; i++) {
        ck_assert_int_lt(i, 10000);
        fd = dial();
        say(fd, "GET a\r\n");
        ck_assert_int_eq(recv(fd, got, 1, 0), 1);
        close(fd);
    }
}
END_TEST

/* The same door anew, with other settings. */
static void change(const char *key, const char *fmt, unsigned long long v)
{
    set(key, fmt, v);
    door_close(door);
    memset(&counts, 0, sizeof(counts));
    ck_assert_msg(door_open(&door, &cfg, &counts, &msg) == OK, "%s", msg.text);
}

/* Begins a SET; the door has read it, and taken memory if there was some. */
static void say_half(int fd, uint32_t bytes)
{
    uint64_t before = metric_get(&counts.resp_bytes_in);
    char text[64];

    snprintf(text, sizeof(text), "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%u\r\n",
             bytes);
    say(fd, text);
    while (metric_get(&counts.resp_bytes_in) < before + strlen(text))
        usleep(1000);
}

static const char oom[] = "-OOM command not allowed now: BUSY: a limit is "
                          "reached (ops, bytes, pool); try again later\r\n";

START_TEST(who_waits_too_long_for_memory_is_told)
{
    int a = dial(), b = dial(), c = dial(), e = dial();

    say_half(a, 2 << 20);
    say_half(b, 2 << 20);
    say(c, "MGET a b\r\nGET a\r\nPING\r\n");
    hears(c, "*2\r\n");
    for (int i = 0; i < 3; i++)
        hears(c, oom);
    hears(c, "+PONG\r\n");
    say_half(e, 2 << 20);
    hears(e, oom);
    hears_end(e);
    close(a);
    say(c, "SET a 1\r\nGET a\r\n");
    hears(c, "+OK\r\n$1\r\n1\r\n");
    close(b);
    close(c);
}
END_TEST

START_TEST(the_next_gets_memory_when_the_first_that_waits_dies)
{
    struct linger reset = {.l_onoff = 1};
    uint64_t before;
    int a, b, c, e;

    set("listen.resp.slow", "%s=%llus", 3600);
    change("listen.resp.deadline", "%s=%llus", 60);
    a = dial();
    b = dial();
    c = dial();
    e = dial();
    say_half(a, 2 << 20);
    say_half(b, 1 << 20);
    say_half(c, 2 << 20);
    before = metric_get(&counts.resp_bytes_in);
    say(e, "GET a\r\n");
    while (metric_get(&counts.resp_bytes_in) == before)
        usleep(1000);
    setsockopt(c, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    close(c);
    hears(e, "$-1\r\n");
    close(a);
    close(b);
    close(e);
}
END_TEST

/* What a client sends behind a command is not read while that lasts. */
START_TEST(a_client_is_not_slow_while_the_door_is)
{
    int fd;

    set("listen.resp.slow", "%s=%llums", 1200);
    change("listen.resp.deadline", "%s=%llums", 1500);
    fd = dial();
    say(fd, "PING\r\n");
    hears(fd, "+PONG\r\n");
    fake_set_mode(fake, FAKE_HOLDS);
    say(fd, "GET a\r\nPI");
    hears(fd, "-ERR TIMEOUT: the deadline passed\r\n");
    usleep(600000);
    say(fd, "NG\r\n");
    hears(fd, "+PONG\r\n");
    fake_set_mode(fake, FAKE_SERVES);
    close(fd);
}
END_TEST

START_TEST(it_ends_while_lanes_hold_its_calls)
{
    int a = dial(), b = dial(), idle = dial();

    say(a, "PING\r\n");
    hears(a, "+PONG\r\n");
    fake_set_mode(fake, FAKE_HOLDS);
    say(a, "SET k 1\r\nSET k 2\r\n");
    say(b, "SET k 3\r\nGET k\r\nSCAN 0\r\n");
    while (fake_held(fake) == 0)
        usleep(1000);
    door_close(door);
    door = NULL;
    hears_end(a);
    hears_end(b);
    hears_end(idle);
}
END_TEST

START_TEST(a_drain_ends_commands_and_then_connections)
{
    int a = dial(), idle = dial();

    say(a, "SET k 1\r\n");
    say(idle, "PING\r\n");
    hears(a, "+OK\r\n");
    hears(idle, "+PONG\r\n");
    fake_set_mode(fake, FAKE_HOLDS);
    say(a, "GET k\r\n");
    while (fake_held(fake) == 0)
        usleep(1000);
    door_drain(door);
    hears_end(idle);
    fake_set_mode(fake, FAKE_SERVES);
    hears(a, "$1\r\n1\r\n");
    hears_end(a);
}
END_TEST

START_TEST(it_ends_before_it_ever_served)
{
    struct door *other;

    fake_stop(fake);
    fake = fake_start(1);
    cfg.listen.resp.port = free_port();
    ck_assert_int_eq(door_open(&other, &cfg, &counts, &msg), OK);
    door_drain(other);
    door_close(other);
}
END_TEST

START_TEST(what_fails_at_the_start_leaves_nothing)
{
    struct door *other = NULL;
    uint32_t i;

    cfg.listen.resp.port = free_port();
    for (i = 1;; i++) {
        fault_arm(i);
        if (door_open(&other, &cfg, &counts, &msg) == OK)
            break;
        ck_assert(fault_hit());
        ck_assert_ptr_nonnull(strstr(msg.text, "listen.resp"));
    }
    fault_arm(0);
    ck_assert_uint_gt(i, 2);
    door_close(other);
    cfg.listen.resp.port = 0;
    snprintf(cfg.listen.resp.password_file,
             sizeof(cfg.listen.resp.password_file), "/dev/null");
    ck_assert_int_ne(door_open(&other, &cfg, &counts, &msg), OK);
    door_close(NULL);
    door_drain(NULL);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("door");
    TCase *t = tcase_create("door");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, bytes_go_in_and_come_out);
    tcase_add_test(t, connections_do_not_meet);
    tcase_add_test(t, lanes_that_are_full_are_oom);
    tcase_add_test(t, lanes_that_do_not_answer_time_out);
    tcase_add_test(t, lanes_that_die_are_an_error_and_come_back);
    tcase_add_test(t, who_waits_too_long_for_memory_is_told);
    tcase_add_test(t, the_next_gets_memory_when_the_first_that_waits_dies);
    tcase_add_test(t, a_client_is_not_slow_while_the_door_is);
    tcase_add_test(t, it_ends_while_lanes_hold_its_calls);
    tcase_add_test(t, a_drain_ends_commands_and_then_connections);
    tcase_add_test(t, it_ends_before_it_ever_served);
    tcase_add_test(t, what_fails_at_the_start_leaves_nothing);
    suite_add_tcase(s, t);
    return s;
}
