/* SPDX-License-Identifier: Apache-2.0
 *
 * Who moves the bytes, and how completions get out.
 *
 *     THREAD   the progress thread sleeps on all descriptors with the rings
 *              armed, until the next deadline; wakes, progresses, sleeps
 *     CALLERS  somebody spins in pikv_poll: the rings are not armed, so the
 *              daemon rings nothing, and the thread only looks every ASIDE_MS
 *              whether the polling went on
 *
 * After STREAK polls without the thread having worked the handle goes over to
 * CALLERS; a blocking wait or an ASIDE_MS without a poll brings it back. The
 * thread is told of a new call only if that is due before it would wake by
 * itself; it lingers for LINGER_MS after the last call, so that a busy handle
 * never pays for telling it.
 *
 * The eventfd is written when the done queue becomes non-empty and nobody
 * takes it at once, and read when it is emptied. With kv->mu unless said. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "client/call.h"
#include "client/nodes.h"
#include "client/spread.h"

enum {
    ASIDE_MS = 2,
    STREAK = 16,
    LINGER_MS = 3,
    ACTIVE_MS = 100,
    SOCKET_LOOK_US = 500,
    WAIT_SPIN_US = 20,
    WAIT_MS_MAX = 50,
    IDLE_S = 3600,
};

uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

void progress_kick(struct pikv *kv)
{
    uint64_t one = 1;

    kv->thread_wakes_ns = 0;
    /* A full counter means that it is readable already. */
    (void)!write(kv->wake_fd, &one, sizeof(one));
}

void progress_event(struct pikv *kv)
{
    bool waiting = !list_empty(&kv->done) || !list_empty(&kv->telling);
    uint64_t n = 1;

    if (waiting == kv->event_set)
        return;
    kv->event_set = waiting;
    if (waiting)
        (void)!write(kv->event_fd, &n, sizeof(n));
    else
        (void)!read(kv->event_fd, &n, sizeof(n));
}

/* Copies what is staged for callers, without the lock. */
static bool progress_land(struct pikv *kv)
{
    struct list *l = list_pop(&kv->landing);

    if (!l)
        return false;
    parts_progress(kv, container_of(l, struct part, node));
    return true;
}

/* Where there is a view. */
static bool progress_nodes(struct pikv *kv, uint64_t now)
{
    if (now >= kv->nodes->due_ns)
        nodes_tick(kv, now);
    if (!kv->stirred && list_empty(&kv->rerouted))
        return false;
    spread_run(kv);
    return true;
}

bool progress_once(struct pikv *kv, uint64_t now)
{
    bool more = false;
    bool look = kv->look || now - kv->socket_ns > SOCKET_LOOK_US * NS_PER_US;

    kv->now_ns = now;
    if (look) {
        kv->socket_ns = now;
        kv->look = false;
    }
    for (uint32_t i = 0; i < kv->line_n; i++) {
        struct conn *c = kv->conns[i];

        if (c->state != CONN_UP)
            conn_tick(c, now);
        more |= c->ops->progress(c, look);
        if (!list_empty(&c->backlog))
            conn_run_backlog(c);
    }
    if (kv->nodes)
        more |= progress_nodes(kv, now);
    more |= progress_land(kv);
    if (now >= kv->due_ns)
        (void)call_expire(kv, now);
    return more;
}

/* When something is due by itself. */
static uint64_t progress_due(struct pikv *kv, uint64_t now)
{
    uint64_t due = kv->due_ns;

    for (uint32_t i = 0; i < kv->line_n; i++) {
        const struct conn *c = kv->conns[i];

        if (c->state == CONN_DOWN)
            due = min_u64(due, max_u64(c->retry_ns, now + NS_PER_MS));
        else if (c->state != CONN_UP)
            due = min_u64(due, c->setup_due_ns);
    }
    if (kv->nodes)
        due = min_u64(due, kv->nodes->due_ns);
    if (now - kv->active_ns < ACTIVE_MS * NS_PER_MS)
        due = min_u64(due, now + LINGER_MS * NS_PER_MS);
    return min_u64(due, now + IDLE_S * NS_PER_S);
}

static bool progress_arm(struct pikv *kv)
{
    bool quiet = true;

    for (uint32_t i = 0; i < kv->line_n; i++)
        quiet &= kv->conns[i]->ops->arm(kv->conns[i]);
    return quiet;
}

static void progress_awake(struct pikv *kv)
{
    for (uint32_t i = 0; i < kv->line_n; i++)
        kv->conns[i]->ops->awake(kv->conns[i]);
}

/* Sleeps without the lock on everything that can happen, until due. */
static void progress_sleep(struct pikv *kv, uint64_t due, uint64_t now)
{
    struct pollfd fds[LINES_MAX * CONN_FDS + 1];
    uint64_t ns = due > now ? due - now : 0, n;
    struct timespec t = {(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
    nfds_t fd_n = 1;

    if (!progress_arm(kv)) {
        progress_awake(kv);
        return;
    }
    fds[0] = (struct pollfd){.fd = kv->wake_fd, .events = POLLIN};
    for (uint32_t i = 0; i < kv->line_n; i++)
        fd_n += (nfds_t)kv->conns[i]->ops->fds(kv->conns[i], fds + fd_n);
    pthread_mutex_unlock(&kv->mu);
    (void)ppoll(fds, fd_n, &t, NULL);
    if (fds[0].revents)
        (void)!read(kv->wake_fd, &n, sizeof(n));
    pthread_mutex_lock(&kv->mu);
    kv->look = true;
    if (!kv->callers_poll)
        progress_awake(kv);
}

void progress_nap(struct pikv *kv, uint64_t until, uint64_t now)
{
    until = min_u64(until, progress_due(kv, now));
    progress_sleep(kv, min_u64(until, now + NS_PER_MS), now);
}

/* Somebody polls: look only whether that went on. */
static void thread_aside(struct pikv *kv)
{
    struct pollfd wake = {.fd = kv->wake_fd, .events = POLLIN};
    uint32_t seen = kv->polls;
    uint64_t n;

    pthread_mutex_unlock(&kv->mu);
    if (poll(&wake, 1, ASIDE_MS) > 0)
        (void)!read(kv->wake_fd, &n, sizeof(n));
    pthread_mutex_lock(&kv->mu);
    if (kv->polls == seen)
        kv->callers_poll = false;
}

static void *thread_main(void *arg)
{
    struct pikv *kv = arg;

    pthread_mutex_lock(&kv->mu);
    while (!kv->stop) {
        uint64_t now = now_ns();
        bool more;

        if (kv->callers_poll) {
            thread_aside(kv);
            continue;
        }
        more = progress_once(kv, now);
        progress_event(kv);
        kv->streak = 0;
        if (more) {
            pthread_mutex_unlock(&kv->mu);
            pthread_mutex_lock(&kv->mu);
            continue;
        }
        kv->thread_wakes_ns = progress_due(kv, now);
        progress_sleep(kv, kv->thread_wakes_ns, now);
        kv->thread_wakes_ns = 0;
    }
    pthread_mutex_unlock(&kv->mu);
    return NULL;
}

/* The thread takes no signal: the host's handlers run in the host's threads. */
int progress_start(struct pikv *kv, bool thread)
{
    sigset_t all, before;
    int e = 0;

    if (!thread) {
        kv->callers_poll = true;
        return OK;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    e = pthread_create(&kv->thread, NULL, thread_main, kv);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e)
        return ERR_NO_MEMORY;
    (void)pthread_setname_np(kv->thread, "pikv");
    kv->has_thread = true;
    return OK;
}

/* Without kv->mu. */
void progress_stop(struct pikv *kv)
{
    if (!kv->has_thread)
        return;
    pthread_mutex_lock(&kv->mu);
    kv->stop = true;
    progress_kick(kv);
    pthread_mutex_unlock(&kv->mu);
    pthread_join(kv->thread, NULL);
    kv->has_thread = false;
}

void progress_submitted(struct pikv *kv, uint64_t now)
{
    kv->active_ns = now;
    if (!kv->has_thread || kv->callers_poll || kv->thread_wakes_ns == 0)
        return;
    if (kv->due_ns < kv->thread_wakes_ns || kv->ucx)
        progress_kick(kv);
}

static void wait_for_thread(struct pikv *kv, uint64_t now, uint64_t most)
{
    uint64_t until = min_u64(most, now + WAIT_MS_MAX * NS_PER_MS);
    struct timespec t = {(time_t)(until / NS_PER_S), (long)(until % NS_PER_S)};

    if (kv->callers_poll) {
        kv->callers_poll = false;
        progress_kick(kv);
    }
    (void)pthread_cond_timedwait(&kv->cond, &kv->mu, &t);
}

void progress_wait_until(struct pikv *kv, const bool *done, uint64_t until)
{
    uint64_t start = now_ns(), now = start;

    for (; !*done && now < until; now = now_ns()) {
        bool more = progress_once(kv, now);

        if (*done || more)
            continue;
        if (now - start < WAIT_SPIN_US * NS_PER_US) {
            pthread_mutex_unlock(&kv->mu);
            __builtin_ia32_pause();
            pthread_mutex_lock(&kv->mu);
        } else if (kv->has_thread) {
            wait_for_thread(kv, now, until);
        } else {
            progress_nap(kv, until, now);
        }
    }
}

void progress_wait(struct pikv *kv, const bool *done)
{
    progress_wait_until(kv, done, DEADLINE_NEVER);
}

/* ---- completions ---- */

static void completion_take(struct pikv *kv, struct call *c,
                            struct pikv_completion *out)
{
    *out = (struct pikv_completion){
        .id = c->id,
        .user = c->user,
        .status = c->status,
        .n = c->n,
        .prefix = c->prefix,
        .count = c->count,
        .results = c->results,
    };
    call_give(kv, c);
}

int progress_wait_call(struct pikv *kv, struct call *c,
                       struct pikv_completion *out)
{
    struct pikv_completion mine;

    /* A call that is done already is in the queue: taken out by call_give. */
    c->waited = true;
    list_del(&c->tell_node); /* nor are its parts told any more */
    progress_wait(kv, &c->done);
    completion_take(kv, c, &mine);
    if (out)
        *out = mine;
    return mine.status;
}

static int completions_take(struct pikv *kv, struct pikv_completion *out,
                            int max)
{
    int n = 0;

    while (n < max && parts_take(kv, &out[n]))
        n++;
    while (n < max && !list_empty(&kv->done))
        completion_take(kv, container_of(kv->done.next, struct call, node),
                        &out[n++]);
    progress_event(kv);
    return n;
}

int pikv_event_fd(struct pikv *kv)
{
    int e = handle_check(kv);

    return e ? e : kv->event_fd;
}

int pikv_drain(struct pikv *kv, struct pikv_completion *out, int max)
{
    int n = handle_check(kv);

    if (n)
        return n;
    pthread_mutex_lock(&kv->mu);
    n = completions_take(kv, out, max);
    pthread_mutex_unlock(&kv->mu);
    return n;
}

int pikv_poll(struct pikv *kv, struct pikv_completion *out, int max)
{
    int n = handle_check(kv);

    if (n)
        return n;
    pthread_mutex_lock(&kv->mu);
    kv->polls++;
    if (!kv->callers_poll && ++kv->streak >= STREAK) {
        kv->callers_poll = true;
        progress_awake(kv);
        progress_kick(kv);
    }
    (void)progress_once(kv, now_ns());
    n = completions_take(kv, out, max);
    pthread_mutex_unlock(&kv->mu);
    return n;
}

int pikv_wait(struct pikv *kv, uint64_t id, struct pikv_completion *out)
{
    uint32_t slot = (uint32_t)(id & 0xffff);
    int e = handle_check(kv);
    struct call *c;

    if (e)
        return e;
    pthread_mutex_lock(&kv->mu);
    c = slot < kv->call_cap ? kv->calls[slot] : NULL;
    if (!c || c->id != id || c->waited)
        e = ERR_BAD_REQUEST;
    else
        e = progress_wait_call(kv, c, out);
    progress_event(kv);
    pthread_mutex_unlock(&kv->mu);
    return e;
}
