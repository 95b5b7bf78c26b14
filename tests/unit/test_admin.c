/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server store rpc base proto
 *
 * The admin pages over a real loopback socket: the control loop runs in the
 * test's thread, a script with a raw HTTP client in another. The script ends
 * the loop with SIGTERM. */
#include <arpa/inet.h>
#include <check.h>
#include <jansson.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "server/admin.h"
#include "server/control.h"
#include "server/lane.h"
#include "server/loop_control.h"

enum { LANES = 2, POOL_BYTES = 16 << 20, ANSWERS = 24 };

static struct config cfg;
static struct unit_pool pool;
static struct unit_pool *pools[STORE_POOLS];
static void *memory;
static struct control control;
static struct lane *lanes[LANES];
static struct loop *loops[LANES];
static struct loop_control *loop;
static struct admin *admin;
static struct arena_map arena = {.got = "test memory", .fd = -1};
static struct notify silent = {.fd = -1};
static struct errmsg msg;

static char *answers[ANSWERS]; /* of the script, read when it has ended */
static int answer_n;

static uint64_t counting(void *arg)
{
    static uint64_t n;

    (void)arg;
    return ++n;
}

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static struct sockaddr_in address(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

/* A port that was free a moment ago; the socket, bound, in *fd_out. */
static uint16_t bound_port(int *fd_out)
{
    struct sockaddr_in a = address(0);
    socklen_t n = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, n), 0);
    ck_assert_int_eq(listen(fd, 1), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    *fd_out = fd;
    return ntohs(a.sin_port);
}

static struct ssd_node ssds; /* n 0 but in one test */

static enum err open_admin(void)
{
    struct admin_cfg c = {.control = &control,
                          .loop = loop,
                          .arenas = &arena,
                          .arena_n = 1,
                          .ssd = &ssds};

    return admin_open(&admin, &c, &msg);
}

static void set_up_lanes(void)
{
    memory = mem_reserve(POOL_BYTES);
    ck_assert_int_eq(unit_pool_init(&pool, memory, POOL_BYTES, LANES), OK);
    pools[0] = &pool;
    for (uint32_t i = 0; i < LANES; i++) {
        uint64_t seed[2] = {i, 2};

        lanes[i] = calloc(1, sizeof(*lanes[i]));
        ck_assert_int_eq(lane_init(lanes[i], &cfg, i, LANES, pools, &control),
                         OK);
        ck_assert_int_eq(loop_new(&loops[i], lanes[i], NULL, 0, seed, &msg),
                         OK);
    }
}

static void set_up(void)
{
    struct control_shell shell = {.random = counting, .wall_us = 1};
    struct loop_control_cfg c = {
        .control = &control, .loops = loops, .notify = &silent};
    int fd;

    log_sink_set(quiet, NULL);
    config_defaults(&cfg);
    cfg.limits.ops_per_lane = cfg.limits.ops_per_client = 16;
    cfg.limits.clients = cfg.limits.unauthenticated = 4;
    cfg.listen.admin.port = bound_port(&fd);
    close(fd);
    ck_assert_int_eq(control_init(&control, &cfg, lanes, LANES, &shell), OK);
    set_up_lanes();
    ck_assert_int_eq(loop_control_open(&loop, &c, &msg), OK);
    for (uint32_t i = 0; i < LANES; i++)
        ck_assert_int_eq(loop_start(loops[i], &msg), OK);
    ck_assert_msg(open_admin() == OK, "%s", msg.text);
    answer_n = 0;
}

static void tear_down(void)
{
    ck_assert(loop_control_stop(loop));
    admin_close(admin);
    for (uint32_t i = 0; i < LANES; i++) {
        loop_join(loops[i]);
        loop_free(loops[i]);
    }
    loop_control_close(loop);
    for (uint32_t i = 0; i < LANES; i++) {
        lane_fini(lanes[i]);
        free(lanes[i]);
    }
    control_fini(&control);
    unit_pool_fini(&pool);
    mem_release(memory, POOL_BYTES);
    for (int i = 0; i < answer_n; i++)
        free(answers[i]);
    log_sink_set(NULL, NULL);
}

/* ---- The script's side ---- */

static int dial(void)
{
    struct sockaddr_in a = address((uint16_t)cfg.listen.admin.port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0)
        abort();
    return fd;
}

/* Sends bytes and reads until the server closes. */
static void ask_raw(const char *raw, size_t len)
{
    size_t n = 0, cap = 1 << 20;
    char *text = calloc(1, cap);
    int fd = dial();
    ssize_t got;

    while (len > 0 && (got = send(fd, raw, len, MSG_NOSIGNAL)) > 0) {
        raw += got;
        len -= (size_t)got;
    }
    while (n < cap - 1 && (got = recv(fd, text + n, cap - 1 - n, 0)) > 0)
        n += (size_t)got;
    close(fd);
    answers[answer_n++] = text;
}

/* What is no request is not answered until it times out: hang up instead. */
static void say(const char *raw, size_t len)
{
    int fd = dial();

    if (send(fd, raw, len, MSG_NOSIGNAL) < 0)
        abort();
    close(fd);
}

static void ask(const char *method, const char *path, const char *header)
{
    char raw[512];

    snprintf(raw, sizeof(raw),
             "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n",
             method, path, header);
    ask_raw(raw, strlen(raw));
}

static void *script_main(void *script)
{
    ((void (*)(void))script)();
    kill(getpid(), SIGTERM);
    return NULL;
}

static void run(void (*script)(void))
{
    pthread_t thread;

    /* C has no conversion between the two kinds of pointers; POSIX has. */
    pthread_create(&thread, NULL, script_main, *(void **)(void *)&script);
    ck_assert(loop_control_run(loop));
    pthread_join(thread, NULL);
}

static void has(int i, const char *text)
{
    ck_assert_int_lt(i, answer_n);
    ck_assert_msg(strstr(answers[i], text), "%d lacks %s:\n%.2000s", i, text,
                  answers[i]);
}

static const char *body(int i)
{
    const char *at = strstr(answers[i], "\r\n\r\n");

    ck_assert_ptr_nonnull(at);
    return at + 4;
}

/* ---- Tests ---- */

static void script_pages(void)
{
    ask("GET", "/metrics", "");
    ask("GET", "/metrics", "Accept: application/openmetrics-text\r\n");
    ask("GET", "/livez", "");
    ask("GET", "/readyz?verbose", "");
    ask("GET", "/healthz", "");
    ask("GET", "/api/v1/status", "");
}

START_TEST(pages_say_what_there_is)
{
    json_t *status;

    run(script_pages);
    has(0, "HTTP/1.1 200");
    has(0, "text/plain; version=0.0.4");
    has(0, "pikvd_build_info{version=");
    has(0, "# TYPE pikvd_bytes_in_total counter");
    has(0, "\nprocess_open_fds ");
    has(0, "\npikvd_lanes 2\n");
    ck_assert_ptr_null(strstr(answers[0], "# EOF"));
    has(1, "application/openmetrics-text; version=1.0.0");
    has(1, "# TYPE pikvd_bytes_in counter");
    has(1, "\n# EOF\n");
    has(2, "HTTP/1.1 200");
    has(3, "[+]lane-1 ok");
    has(3, "[+]memory ok: test memory");
    has(3, "[+]not-draining ok");
    has(4, "\r\n\r\nok\n");
    has(5, "application/json");
    status = json_loads(body(5), JSON_REJECT_DUPLICATES, NULL);
    ck_assert_ptr_nonnull(status);
    ck_assert_uint_eq(json_array_size(json_object_get(status, "lanes")), 2);
    ck_assert(json_is_true(json_object_get(status, "lanes_answered")));
    json_decref(status);
}
END_TEST

static void script_ssd(void)
{
    ask("GET", "/readyz?verbose", "");
    ask("GET", "/api/v1/status", "");
}

START_TEST(an_ssd_out_of_service_is_named_and_the_daemon_stays_ready)
{
    json_t *status, *tiers;

    ssds.n = 2;
    for (uint32_t i = 0; i < ssds.n; i++) {
        ssds.devs[i].engine = "sync";
        ssds.devs[i].why = i ? "a write failed" : "";
        ssds.devs[i].map.state = i ? SEGLOG_READ_ONLY : SEGLOG_OPEN;
        snprintf(ssds.devs[i].path, sizeof(ssds.devs[i].path), "/dev/x%u", i);
    }
    run(script_ssd);
    ssds.n = 0;
    has(0, "HTTP/1.1 200");
    has(0, "[+]ssd ok: /dev/x0: open, sync\n");
    has(0, "[!]ssd degraded: /dev/x1: read_only: a write failed, sync\n");
    has(0, "readyz check passed");
    status = json_loads(body(1), JSON_REJECT_DUPLICATES, NULL);
    tiers = json_object_get(status, "tiers");
    ck_assert_uint_eq(json_array_size(tiers), 3);
    ck_assert_str_eq(
        json_string_value(json_object_get(json_array_get(tiers, 2), "state")),
        "read_only");
    json_decref(status);
}
END_TEST

static void script_refused(void)
{
    ask("GET", "/", "");
    ask("GET", "/metrics/", "");
    ask("GET", "/../etc/passwd", "");
    ask("POST", "/metrics", "Content-Length: 0\r\n");
    ask("DELETE", "/livez", "");
    ask("HEAD", "/livez", "");
    say("\0\1\2\r\n\r\n", 7);
    say("GET\r\n\r\n", 7);
    say("GET /metrics HTTP/1.1\r\nHost", 27);
    ask("GET", "/livez", "");
}

START_TEST(what_is_not_a_page_is_refused)
{
    run(script_refused);
    has(0, "HTTP/1.1 404");
    has(0, "/api/v1/status");
    has(1, "HTTP/1.1 404");
    has(2, "HTTP/1.1 404");
    has(3, "HTTP/1.1 405");
    has(3, "Allow: GET, HEAD");
    has(4, "HTTP/1.1 405");
    has(5, "HTTP/1.1 200");
    ck_assert_str_eq(body(5), "");
    has(6, "HTTP/1.1 200");
}
END_TEST

static void script_large(void)
{
    size_t n = 66 + 65000;
    char *raw = malloc(n);

    memset(raw, 'a', n);
    memcpy(raw, "GET /", 5);
    ask_raw(raw, n);
    memcpy(raw, "GET /livez HTTP/1.1\r\nX: ", 24);
    ask_raw(raw, n);
    memset(raw, 'a', n);
    memcpy(raw,
           "POST /livez HTTP/1.1\r\nConnection: close\r\n"
           "Content-Length: 65000\r\n\r\n",
           66);
    ask_raw(raw, 66 + 65000);
    free(raw);
    ask("GET", "/livez", "");
}

START_TEST(requests_beyond_the_limit_end_and_the_next_is_served)
{
    run(script_large);
    ck_assert_ptr_null(strstr(answers[0], "HTTP/1.1 200"));
    ck_assert_ptr_null(strstr(answers[1], "HTTP/1.1 200"));
    ck_assert_ptr_null(strstr(answers[2], "HTTP/1.1 200"));
    has(3, "HTTP/1.1 200");
}
END_TEST

static void script_crowd(void)
{
    int fds[ADMIN_CONNECTIONS + 4];

    for (size_t i = 0; i < countof(fds); i++)
        fds[i] = dial();
    for (size_t i = 0; i < countof(fds); i++)
        close(fds[i]);
    for (int i = 0; i < 4; i++)
        ask("GET", "/readyz", "");
}

START_TEST(idle_connections_do_not_shut_others_out_for_long)
{
    run(script_crowd);
    has(3, "HTTP/1.1 200");
}
END_TEST

/* Holds a lane until the script lets it go. */
struct stopper {
    struct mail mail;
    sem_t reached, go;
};

static struct stopper stopper;

static void stopper_run(struct mail *m, void *lane)
{
    (void)m;
    (void)lane;
    sem_post(&stopper.reached);
    sem_wait(&stopper.go);
}

static void script_late(void)
{
    stopper.mail.fn = stopper_run;
    if (mailbox_post(&lanes[1]->mailbox, &stopper.mail))
        abort();
    sem_wait(&stopper.reached);
    ask("GET", "/api/v1/status", "");
    ask("GET", "/metrics", "");
    sem_post(&stopper.go);
    ask("GET", "/api/v1/status", "");
}

START_TEST(a_lane_that_does_not_answer_is_left_out)
{
    sem_init(&stopper.reached, 0, 0);
    sem_init(&stopper.go, 0, 0);
    run(script_late);
    has(0, "\"lanes_answered\": false");
    has(1, "pikvd_lanes 2");
    has(2, "\"lanes_answered\": true");
}
END_TEST

/* Asks again until the answer is this one; only a hang ends it otherwise. */
static void ask_until(const char *path, const char *text)
{
    for (int i = 0; i < 400; i++) {
        ask("GET", path, "");
        if (strstr(answers[answer_n - 1], text))
            return;
        free(answers[--answer_n]);
        usleep(50000);
    }
    answers[answer_n++] = strdup("never");
}

static void script_stuck(void)
{
    stopper.mail.fn = stopper_run;
    if (mailbox_post(&lanes[1]->mailbox, &stopper.mail))
        abort();
    sem_wait(&stopper.reached);
    ask_until("/livez?verbose", "HTTP/1.1 503");
    ask("GET", "/readyz", "");
    sem_post(&stopper.go);
    ask_until("/livez", "HTTP/1.1 200");
}

START_TEST(a_lane_that_does_not_turn_fails_livez)
{
    sem_init(&stopper.reached, 0, 0);
    sem_init(&stopper.go, 0, 0);
    run(script_stuck);
    has(0, "[+]lane-0 ok");
    has(0, "[-]lane-1 failed");
    has(0, "livez check failed");
    has(1, "HTTP/1.1 503");
    has(2, "\r\n\r\nok\n");
}
END_TEST

static void script_namespaces(void)
{
    ask("GET", "/metrics", "");
    ask("GET", "/api/v1/status", "");
}

START_TEST(namespaces_are_shown_by_name)
{
    Pikv__Open open = PIKV__OPEN__INIT;
    struct registry_mismatch mm;
    struct registry_ns ns;
    char name[] = "llama-70b";
    bool created;

    open.name = name;
    open.create = true;
    ck_assert_int_eq(registry_open(&control.registry, &cfg, &open, counting,
                                   NULL, &ns, &created, &mm, &msg),
                     OK);
    registry_put(&control.registry, &ns);
    run(script_namespaces);
    has(0, "pikvd_namespace_blocks{namespace=\"llama-70b\"} 0");
    has(0, "pikvd_namespaces 1");
    has(1, "\"llama-70b\"");
}
END_TEST

static void script_hang_up(void)
{
    int fds[8];
    static const char get[] = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

    for (int i = 0; i < 8; i++) {
        fds[i] = dial();
        if (send(fds[i], get, sizeof(get) - 1, MSG_NOSIGNAL) < 0)
            abort();
    }
    for (int i = 0; i < 8; i++)
        close(fds[i]);
    ask("GET", "/metrics", "");
}

START_TEST(clients_that_hang_up_while_waiting_are_forgotten)
{
    run(script_hang_up);
    has(0, "pikvd_build_info");
}
END_TEST

START_TEST(a_port_in_use_is_said_so)
{
    struct admin *mine = admin;
    int fd;

    cfg.listen.admin.port = bound_port(&fd);
    ck_assert_int_eq(open_admin(), ERR_BUSY);
    ck_assert_ptr_nonnull(strstr(msg.text, "listen.admin"));
    ck_assert_ptr_nonnull(strstr(msg.text, "fix:"));
    close(fd);
    snprintf(cfg.listen.admin.host, sizeof(cfg.listen.admin.host),
             "no.such.host");
    ck_assert_int_eq(open_admin(), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(msg.text, "no.such.host"));
    snprintf(cfg.listen.admin.host, sizeof(cfg.listen.admin.host), "192.0.2.1");
    ck_assert_int_eq(open_admin(), ERR_IO);
    snprintf(cfg.listen.admin.host, sizeof(cfg.listen.admin.host), "localhost");
    fault_arm(1);
    ck_assert_int_eq(open_admin(), ERR_IO);
    ck_assert(fault_hit());
    fault_arm(0);
    admin = mine;
    admin_close(NULL);
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("admin");
    TCase *t = tcase_create("admin");

    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, pages_say_what_there_is);
    tcase_add_test(t, what_is_not_a_page_is_refused);
    tcase_add_test(t,
                   an_ssd_out_of_service_is_named_and_the_daemon_stays_ready);
    tcase_add_test(t, requests_beyond_the_limit_end_and_the_next_is_served);
    tcase_add_test(t, idle_connections_do_not_shut_others_out_for_long);
    tcase_add_test(t, a_lane_that_does_not_answer_is_left_out);
    tcase_add_test(t, a_lane_that_does_not_turn_fails_livez);
    tcase_add_test(t, namespaces_are_shown_by_name);
    tcase_add_test(t, clients_that_hang_up_while_waiting_are_forgotten);
    tcase_add_test(t, a_port_in_use_is_said_so);
    suite_add_tcase(s, t);
    return s;
}
