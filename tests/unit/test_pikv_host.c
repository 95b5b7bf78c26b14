/* SPDX-License-Identifier: Apache-2.0 */
/* LAYERS: client rpc base proto */
/* What libpikv must not do to the process that it lives in, and what that
 * process may do to it: fork, many threads, signals. */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "client/pikv.h"
#include "tests/lib/fake_pikvd.h"

extern char **environ;

enum { RESTORER = 0x04000000 /* libc adds it to whatever is set */ };

static struct fake *fake;
static struct pikv *kv;
static uint32_t ns;

static void begin(uint32_t lanes, struct pikv_options o)
{
    struct pikv_namespace d = {.name = "test", .create = true};

    fake = fake_start(lanes);
    o.address = fake_address(fake);
    ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
    ck_assert_int_eq(pikv_namespace_open(kv, &d, &ns, NULL), PIKV_OK);
}

static struct pikv_key key_of(const char *s)
{
    return (struct pikv_key){.key = {s, strlen(s)}};
}

static int put(const char *key, const void *p, size_t n)
{
    struct pikv_put item = {.key = key_of(key), .data = {p, n}};
    struct pikv_result r;
    int e = pikv_put_sync(kv, ns, &item, 1, NULL, &r);

    return e ? e : r.status;
}

/* The words of the environment and every signal's handler. */
struct host {
    char env[1 << 16];
    struct sigaction handlers[65];
    sigset_t mask;
};

static void host_look(struct host *h)
{
    size_t at = 0;

    memset(h, 0, sizeof(*h));
    for (char **e = environ; *e && at < sizeof(h->env) - 1; e++)
        at += (size_t)snprintf(h->env + at, sizeof(h->env) - at, "%s\n", *e);
    for (int i = 1; i <= 64; i++)
        (void)sigaction(i, NULL, &h->handlers[i]);
    pthread_sigmask(SIG_SETMASK, NULL, &h->mask);
}

static void host_is_same(const struct host *a, const struct host *b)
{
    ck_assert_str_eq(a->env, b->env);
    for (int i = 1; i <= 64; i++) {
        ck_assert(a->handlers[i].sa_handler == b->handlers[i].sa_handler);
        ck_assert_int_eq(a->handlers[i].sa_flags & ~RESTORER,
                         b->handlers[i].sa_flags & ~RESTORER);
    }
    ck_assert_mem_eq(&a->mask, &b->mask, sizeof(a->mask));
}

START_TEST(environment_and_signal_handlers_stay_as_they_are)
{
    static struct host before, after;

    host_look(&before);
    begin(2, (struct pikv_options){0});
    ck_assert_int_eq(put("k", "x", 1), PIKV_OK);
    fake_set_mode(fake, FAKE_DIES);
    ck_assert_int_eq(put("k", "x", 1), PIKV_RETRY);
    host_look(&after);
    host_is_same(&before, &after);
    pikv_close(kv);
    fake_stop(fake);
    host_look(&after);
    host_is_same(&before, &after);
}
END_TEST

START_TEST(loading_ucx_leaves_the_host_alone)
{
    static struct host before, after;
    struct pikv_options o = {.address = "ucx:127.0.0.1:1", .connect_ms = 300};
    int e;

#ifdef __SANITIZE_THREAD__
    return; /* UCX patches madvise, which tsan's runtime does not survive */
#endif
    host_look(&before);
    e = pikv_open(&o, &kv);
    ck_assert(e == PIKV_NO_SERVER || e == PIKV_TIMEOUT ||
              e == PIKV_UNSUPPORTED);
    ck_assert_str_ne(pikv_last_error(), "");
    host_look(&after);
    host_is_same(&before, &after);
}
END_TEST

START_TEST(a_signal_is_taken_by_the_hosts_threads)
{
    sigset_t usr1, before;
    int sig;

    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    begin(1, (struct pikv_options){0});
    /* Blocked here, and by libpikv in its own: so it stays pending. */
    pthread_sigmask(SIG_BLOCK, &usr1, &before);
    fake_stop(fake); /* its threads would take the signal */
    kill(getpid(), SIGUSR1);
    sigpending(&before);
    ck_assert_int_eq(sigismember(&before, SIGUSR1), 1);
    ck_assert_int_eq(sigwait(&usr1, &sig), 0);
    ck_assert_int_eq(sig, SIGUSR1);
    pikv_close(kv);
}
END_TEST

/* In the child: every kind of call is refused, none hangs. */
static int child_calls(void)
{
    struct pikv_completion done;
    struct pikv_key k = key_of("k");
    struct pikv_info info;
    struct pikv_result r;
    uint64_t id;
    void *mem;

    if (put("k", "x", 1) != PIKV_FORKED)
        return 1;
    if (pikv_touch(kv, ns, &k, 1, NULL, &r, &id) != PIKV_FORKED)
        return 2;
    if (pikv_poll(kv, &done, 1) != PIKV_FORKED ||
        pikv_drain(kv, &done, 1) != PIKV_FORKED ||
        pikv_wait(kv, 1, &done) != PIKV_FORKED)
        return 3;
    if (pikv_mem_alloc(kv, 100, &mem) != PIKV_FORKED ||
        pikv_info(kv, &info) != PIKV_FORKED)
        return 4;
    pikv_close(kv);
    return 0;
}

START_TEST(after_fork_the_child_is_told_and_the_parent_goes_on)
{
    int status;
    pid_t pid;

    begin(2, (struct pikv_options){0});
    for (int i = 0; i < 5; i++) {
        pid = fork();
        if (pid == 0)
            _exit(child_calls());
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFEXITED(status));
        ck_assert_int_eq(WEXITSTATUS(status), 0);
        ck_assert_int_eq(put(i ? "k" : "j", "x", 1),
                         i > 1 ? PIKV_EXISTS : PIKV_OK);
    }
    pikv_close(kv);
    fake_stop(fake);
}
END_TEST

/* ---- threads ---- */

enum { THREADS = 8, ROUNDS = 60, LEN = 9000 };

struct worker {
    pthread_t thread;
    uint32_t idx;
    int failed;
};

/* Puts and gets its own keys, half with sync calls, half with waits. */
static void *worker_main(void *arg)
{
    struct worker *w = arg;
    uint8_t in[LEN], out[LEN];

    for (uint32_t i = 0; i < ROUNDS && !w->failed; i++) {
        char name[32];
        struct pikv_put p = {.key = {.key = {name, 0}}, .data = {in, LEN}};
        struct pikv_get g = {.key = {.key = {name, 0}}, .data = {out, LEN}};
        struct pikv_call call = {.deadline_us = 20000000, .verify = true};
        struct pikv_result r;
        uint64_t id;

        p.key.key.len = g.key.key.len =
            (size_t)snprintf(name, sizeof(name), "w%u-%u", w->idx, i);
        memset(in, (int)(w->idx * 16 + i), LEN);
        memset(out, 0, LEN);
        w->failed |= pikv_put_sync(kv, ns, &p, 1, &call, &r) || r.status;
        if (i % 2) {
            w->failed |= pikv_get_sync(kv, ns, &g, 1, &call, &r) || r.status;
        } else {
            w->failed |= pikv_get(kv, ns, &g, 1, &call, &r, &id) != 0;
            w->failed |= pikv_wait(kv, id, NULL) || r.status;
        }
        w->failed |= memcmp(in, out, LEN) != 0;
    }
    return NULL;
}

/* Drains what nobody should have left. */
static void *poller_main(void *arg)
{
    struct pikv_completion done;
    bool *stop = arg;
    intptr_t n = 0;

    while (!__atomic_load_n(stop, __ATOMIC_RELAXED))
        n += pikv_poll(kv, &done, 1);
    return (void *)n;
}

START_TEST(eight_threads_share_a_handle)
{
    struct worker w[THREADS] = {0};
    pthread_t poller;
    bool stop = false;
    void *stray;

    begin(3, (struct pikv_options){.no_progress_thread = _i == 1});
    if (_i == 2)
        pthread_create(&poller, NULL, poller_main, &stop);
    for (uint32_t i = 0; i < THREADS; i++) {
        w[i].idx = i;
        pthread_create(&w[i].thread, NULL, worker_main, &w[i]);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(w[i].thread, NULL);
        if (_i != 2)
            ck_assert_int_eq(w[i].failed, 0);
    }
    if (_i == 2) {
        __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
        pthread_join(poller, &stray);
    }
    pikv_close(kv);
    fake_stop(fake);
}
END_TEST

START_TEST(handles_open_and_close_without_leaving_descriptors)
{
    int first, last;

    begin(2, (struct pikv_options){0});
    pikv_close(kv);
    first = dup(0);
    for (int i = 0; i < 20; i++) {
        struct pikv_options o = {.address = fake_address(fake)};
        void *mem;

        ck_assert_int_eq(pikv_open(&o, &kv), PIKV_OK);
        ck_assert_int_eq(pikv_mem_alloc(kv, 100, &mem), PIKV_OK);
        pikv_close(kv);
    }
    fake_stop(fake);
    last = dup(0);
    ck_assert_int_le(last, first);
    close(first);
    close(last);
}
END_TEST

START_TEST(a_null_handle_is_closed)
{
    struct pikv_info info;

    ck_assert_int_eq(pikv_info(NULL, &info), PIKV_CLOSED);
    pikv_close(NULL);
}
END_TEST

START_TEST(errors_have_names_words_and_who_acts)
{
    ck_assert_str_eq(pikv_error_name(PIKV_MISS), "MISS");
    ck_assert_str_eq(pikv_error_name(PIKV_OK), "OK");
    ck_assert_str_ne(pikv_error_text(PIKV_BUSY), "");
    ck_assert_int_eq(pikv_error_who(PIKV_MISS), PIKV_WHO_NOBODY);
    ck_assert_int_eq(pikv_error_who(PIKV_BUSY), PIKV_WHO_RETRY);
    ck_assert_int_eq(pikv_error_who(PIKV_NO_SERVER), PIKV_WHO_OTHER);
    ck_assert_int_eq(pikv_error_who(PIKV_CORRUPT), PIKV_WHO_RETRY);
    ck_assert_int_eq(pikv_error_who(PIKV_MISMATCH), PIKV_WHO_GIVEUP);
}
END_TEST

Suite *suite(void);

Suite *suite(void)
{
    Suite *s = suite_create("pikv_host");
    TCase *t = tcase_create("host");

    tcase_set_timeout(t, 120);
    tcase_add_test(t, environment_and_signal_handlers_stay_as_they_are);
    tcase_add_test(t, loading_ucx_leaves_the_host_alone);
    tcase_add_test(t, a_signal_is_taken_by_the_hosts_threads);
    tcase_add_test(t, after_fork_the_child_is_told_and_the_parent_goes_on);
    tcase_add_loop_test(t, eight_threads_share_a_handle, 0, 3);
    tcase_add_test(t, handles_open_and_close_without_leaving_descriptors);
    tcase_add_test(t, a_null_handle_is_closed);
    tcase_add_test(t, errors_have_names_words_and_who_acts);
    suite_add_tcase(s, t);
    return s;
}
