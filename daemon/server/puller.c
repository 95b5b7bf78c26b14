/* SPDX-License-Identifier: Apache-2.0
 *
 * The puller's life, its thread and its workers (puller.h).
 *
 *     mail, completions ---> what they allow to go on ---> poll
 *       ^                                                   |
 *       +------- wake_fd, the handles' eventfds, 20 ms -----+
 *
 * The own daemon is connected when something is to be brought, so the puller
 * may be opened before its lanes serve; it tries again and again. */
#include "server/puller.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "server/files.h"
#include "server/puller_impl.h"

enum {
    PULLER_MAIL = 1 << 17,
    PULLER_MAIL_TURN = 1024,
    PULLER_TICK_MS = 20,
    PULLER_DRAINS = 64,
    PULLER_FDS = 64, /* polled; of further links only the tick knows */
};

uint64_t puller_now_ns(void)
{
    return files_mono_ns();
}

static void puller_wake(void *arg)
{
    struct puller *p = arg;
    uint64_t one = 1;

    (void)!write(p->wake_fd, &one, sizeof one);
}

/* ---- workers ---- */

void puller_job(struct puller *p, struct job *j, mail_fn *done)
{
    j->p = p;
    j->mail.fn = done;
    list_init(&j->mail.node);
    pthread_mutex_lock(&p->mu);
    list_add_tail(&p->jobs, &j->node);
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->mu);
}

static struct job *job_take(struct puller *p)
{
    struct list *n;

    pthread_mutex_lock(&p->mu);
    while (!(n = list_pop(&p->jobs)) && !p->stop)
        pthread_cond_wait(&p->cond, &p->mu);
    pthread_mutex_unlock(&p->mu);
    return n ? container_of(n, struct job, node) : NULL;
}

static void *worker_main(void *arg)
{
    struct puller *p = arg;
    struct job *j;

    while ((j = job_take(p))) {
        j->run(j);
        MUST(mailbox_post(&p->mailbox, &j->mail) == OK);
    }
    return NULL;
}

/* ---- the view, from control ---- */

struct view_mail {
    struct mail mail;
    struct view view;
    uint16_t self;
};

static void view_taken(struct mail *m, void *arg)
{
    struct view_mail *v = container_of(m, struct view_mail, mail);

    slots_view(arg, &v->view, v->self);
    view_fini(&v->view);
    free(v);
}

void puller_view(struct puller *p, const struct view *v, uint16_t self)
{
    struct view_mail *m = calloc(1, sizeof *m);

    if (!m || view_init(&m->view) || view_copy(&m->view, v)) {
        if (m)
            view_fini(&m->view);
        free(m);
        LOG(LOG_ERROR, "puller_no_memory", "what=view");
        return; /* the next one says it all */
    }
    m->mail.fn = view_taken;
    list_init(&m->mail.node);
    m->self = self;
    MUST(mailbox_post(&p->mailbox, &m->mail) == OK);
}

void puller_want(struct puller *p, struct puller_want *w)
{
    w->mail.fn = want_take;
    list_init(&w->mail.node);
    MUST(mailbox_post(&p->mailbox, &w->mail) == OK);
}

struct moves *puller_moves(struct puller *p)
{
    return &p->moves;
}

void puller_stats(const struct puller *p, struct puller_stats *out)
{
    const uint64_t *from = (const uint64_t *)&p->stats;
    uint64_t *to = (uint64_t *)out;

    *out = (struct puller_stats){0};
    for (size_t i = 0; i < offsetof(struct puller_stats, slots_left) / 8; i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
    out->slots_left = __atomic_load_n(&p->stats.slots_left, __ATOMIC_RELAXED);
}

/* ---- the thread ---- */

static void drain_link(struct puller *p, struct link *l)
{
    struct pikv_completion done[PULLER_DRAINS];
    int n;

    if (l->state != LINK_OPEN)
        return;
    do {
        n = pikv_drain(l->kv, done, PULLER_DRAINS);
        for (int i = 0; i < n; i++)
            haul_completion(p, &done[i]);
    } while (n == PULLER_DRAINS);
}

static void puller_poll(struct puller *p)
{
    struct pollfd fds[PULLER_FDS] = {{.fd = p->wake_fd, .events = POLLIN}};
    nfds_t n = 1;
    uint64_t word;

    if (p->own.state == LINK_OPEN)
        fds[n++] =
            (struct pollfd){.fd = pikv_event_fd(p->own.kv), .events = POLLIN};
    LIST_FOREACH(x, &p->links)
    {
        const struct link *l = container_of(x, struct link, node);

        if (l->state == LINK_OPEN && n < PULLER_FDS)
            fds[n++] =
                (struct pollfd){.fd = pikv_event_fd(l->kv), .events = POLLIN};
    }
    (void)poll(fds, n,
               p->pass.active || !list_empty(&p->pulls) ? PULLER_TICK_MS
                                                        : PULLER_LOOK_MS);
    if (fds[0].revents)
        (void)!read(p->wake_fd, &word, sizeof word);
}

static void puller_turn(struct puller *p)
{
    p->now_ns = puller_now_ns();
    while (mailbox_run(&p->mailbox, p, PULLER_MAIL_TURN) == PULLER_MAIL_TURN)
        ;
    drain_link(p, &p->own);
    LIST_FOREACH(n, &p->links)
    drain_link(p, container_of(n, struct link, node));
    if (p->now_ns >= p->second_ns) {
        p->second_ns = p->now_ns + NS_PER_S;
        slots_tick(p);
        link_tick(p);
    }
    want_tick(p);
    haul_tick(p);
    pass_tick(p);
}

static bool puller_stopping(struct puller *p)
{
    bool stop;

    pthread_mutex_lock(&p->mu);
    stop = p->stop;
    pthread_mutex_unlock(&p->mu);
    return stop;
}

static void *puller_main(void *arg)
{
    struct puller *p = arg;

    while (!puller_stopping(p)) {
        puller_turn(p);
        puller_poll(p);
    }
    return NULL;
}

/* ---- life ---- */

/* The thread takes no signal: the control loop does. */
static int thread_start(pthread_t *t, void *(*fn)(void *), void *arg,
                        const char *name)
{
    sigset_t all, old;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    rc =
        fault_here("puller_thread") ? EAGAIN : pthread_create(t, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc == 0)
        (void)pthread_setname_np(*t, name);
    return rc;
}

static int start(struct puller *p)
{
    int rc = thread_start(&p->thread, puller_main, p, "puller");

    p->started = rc == 0;
    while (rc == 0 && p->worker_n < PULLER_WORKERS) {
        rc = thread_start(&p->workers[p->worker_n], worker_main, p, "pull-ask");
        p->worker_n += rc == 0;
    }
    return rc;
}

static void init(struct puller *p, const struct puller_cfg *cfg)
{
    p->cfg = *cfg;
    p->self = NODE_NONE;
    p->moves.want = (void (*)(void *, struct puller_want *))puller_want;
    p->moves.arg = p;
    p->mem_fd = -1;
    list_init(&p->links);
    list_init(&p->jobs);
    list_init(&p->pulls);
    pthread_mutex_init(&p->mu, NULL);
    pthread_cond_init(&p->cond, NULL);
    for (uint32_t i = 0; i < PULLER_HAULS; i++)
        p->hauls[i].p = p;
    for (uint32_t i = 0; i < PULLER_BIGS; i++)
        p->bigs[i].fd = -1;
}

enum err puller_open(const struct puller_cfg *cfg, struct puller **out,
                     struct errmsg *m)
{
    struct puller *p = fault_here("puller_open") ? NULL : calloc(1, sizeof *p);
    enum err e = ERR_NO_MEMORY;
    int rc;

    if (!p)
        return errmsg_set(m, e, "cluster: no memory to bring blocks here");
    init(p, cfg);
    p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    mailbox_init(&p->mailbox, PULLER_MAIL, puller_wake, p);
    e = p->wake_fd < 0 ? ERR_NO_MEMORY : link_init(p, &p->own, NODE_NONE);
    if (!e)
        e = view_init(&p->view);
    if (e) {
        puller_close(p);
        return errmsg_set(m, e, "cluster: no memory to bring blocks here");
    }
    rc = start(p);
    if (rc) {
        puller_close(p);
        return errmsg_set(m, ERR_IO, "cluster: cannot start a thread: %s",
                          strerror(rc));
    }
    *out = p;
    return OK;
}

/* Workers end when no job is left; what they still post is run, so that it is
 * freed. */
static void stop(struct puller *p)
{
    pthread_mutex_lock(&p->mu);
    p->stop = true;
    pthread_cond_broadcast(&p->cond);
    pthread_mutex_unlock(&p->mu);
    puller_wake(p);
    if (p->started)
        pthread_join(p->thread, NULL);
    for (uint32_t i = 0; i < p->worker_n; i++)
        pthread_join(p->workers[i], NULL);
    while (mailbox_run(&p->mailbox, p, PULLER_MAIL_TURN))
        ;
}

void puller_close(struct puller *p)
{
    if (!p)
        return;
    stop(p);
    want_end_all(p, ERR_CANCELED);
    link_close_all(p);
    copy_memory_free(p);
    hauls_forget(p);
    for (uint32_t i = 0; i < p->pass.page_n; i++)
        page_unref(p->pass.pages[i]);
    view_fini(&p->view);
    mailbox_fini(&p->mailbox);
    if (p->wake_fd >= 0)
        close(p->wake_fd);
    pthread_cond_destroy(&p->cond);
    pthread_mutex_destroy(&p->mu);
    free(p);
}
