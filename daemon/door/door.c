/* SPDX-License-Identifier: Apache-2.0
 *
 * The door's thread: a libuv loop of its own.
 *
 *   connect  until libpikv is connected and the namespace open: again and again
 *            every CONNECT_MS; nobody is served before, so it may block
 *   accept   the listening socket
 *   events   libpikv's completions
 *   tick     slow connections; accepting again
 *   later    those that wait for a moment
 *   wake     from the main thread: drain, stop
 *
 * What one connection gives back another may wait for. That is never handed
 * over inside the call that gave it back: each turn of the loop ends with
 * door_settle, which runs those who can go on. */
#include "door/door.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/log.h"
#include "door/impl.h"
#include "server/files.h"
#include "server/listen.h"

enum {
    CONNECT_MS = 1000,
    BACKLOG = 128,
    ACCEPTS_MAX = 16, /* a turn */
    DRAINS_MAX = 64,  /* completions taken at a time */
    TICKS = 4,        /* looks within listen.resp.slow */
    TICK_MS_MAX = 500,
    GUESS_MIN = 4096,
    PASSWORD_FILE_MAX = 4096,
};

uint64_t door_now_ms(const struct door *d)
{
    return uv_now(&d->uv);
}

/* ---- Who waits for whom ---- */

bool door_take(struct conn *c, uint64_t bytes, struct room *out)
{
    struct door *d = c->door;

    if (!list_empty(&d->waiting) && d->turn != c)
        return false;
    if (!space_take(&d->space, bytes, out))
        return false;
    c->room_until_ms = 0;
    return true;
}

void door_give(struct door *d, struct room *r)
{
    if (!r->n)
        return;
    space_give(&d->space, r);
    d->freed = true;
}

static bool settle_ready(struct door *d)
{
    struct list *n = list_pop(&d->ready);

    if (!n)
        return false;
    conn_run(container_of(n, struct conn, wait_node));
    return true;
}

/* The first of those who wait for memory; false: it goes on waiting. */
static bool settle_waiting(struct door *d)
{
    struct list *n;
    struct conn *c;

    if (!d->freed)
        return false;
    d->freed = false;
    n = list_pop(&d->waiting);
    if (!n)
        return false;
    c = container_of(n, struct conn, wait_node);
    c->wait = WAIT_NOTHING;
    d->turn = c;
    conn_run(c);
    d->turn = NULL;
    if (list_empty(&d->waiting) || d->waiting.next != &c->wait_node)
        d->freed = true; /* there may be enough for the next one too */
    return true;
}

void door_settle(struct door *d)
{
    while (settle_ready(d) || settle_waiting(d))
        ;
}

/* ---- Events ---- */

static void on_events(uv_poll_t *h, int status, int events)
{
    struct door *d = h->data;
    struct pikv_completion done[DRAINS_MAX];
    int n;

    (void)status;
    (void)events;
    do {
        n = pikv_drain(d->kv, done, DRAINS_MAX);
        for (int i = 0; i < n; i++)
            conn_called(done[i].user, &done[i]);
    } while (n == DRAINS_MAX);
    door_settle(d);
}

static void on_later(uv_timer_t *h)
{
    struct door *d = h->data;
    struct list now, *n;

    list_init(&now);
    while ((n = list_pop(&d->laters)))
        list_add_tail(&now, n);
    while ((n = list_pop(&now))) {
        struct conn *c = container_of(n, struct conn, wait_node);

        c->wait = WAIT_NOTHING;
        conn_run(c);
    }
    door_settle(d);
    if (list_empty(&d->laters))
        uv_timer_stop(h);
}

void door_later(struct door *d)
{
    if (!uv_is_active((uv_handle_t *)&d->later))
        uv_timer_start(&d->later, on_later, DOOR_LATER_MS, DOOR_LATER_MS);
}

static void on_accept(uv_poll_t *h, int status, int events);

static void on_tick(uv_timer_t *h)
{
    struct door *d = h->data;
    uint64_t now_ms = door_now_ms(d);

    LIST_FOREACH_SAFE(n, &d->conns)
    conn_tick(container_of(n, struct conn, node), now_ms);
    door_settle(d);
    if (d->deaf && !__atomic_load_n(&d->draining, __ATOMIC_RELAXED)) {
        d->deaf = false;
        MUST(uv_poll_start(&d->accept, UV_READABLE, on_accept) == 0);
    }
}

static void refuse(struct door *d, int fd)
{
    static const char text[] = "-ERR max number of clients reached\r\n";

    metric_add(&d->metrics->resp_refused, 1);
    (void)!write(fd, text, sizeof(text) - 1);
    close(fd);
}

/* Without descriptors or memory for another one the socket stays readable: it
 * is looked at again in the next tick, not in every turn. */
static void accept_failed(struct door *d)
{
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
        return;
    LOG(LOG_WARN, "resp_accept_failed", "error=%s", LOG_STR(strerror(errno)));
    uv_poll_stop(&d->accept);
    d->deaf = true;
}

static void on_accept(uv_poll_t *h, int status, int events)
{
    struct door *d = h->data;

    (void)status;
    (void)events;
    for (int i = 0; i < ACCEPTS_MAX; i++) {
        int fd =
            accept4(d->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
            accept_failed(d);
            return;
        }
        if (d->conn_n >= d->cfg.listen.resp.clients)
            refuse(d, fd);
        else
            conn_open(d, fd);
    }
}

/* ---- Connecting to the lanes ---- */

int door_open_namespace(struct door *d)
{
    struct pikv_namespace ns = {.name = d->cfg.listen.resp.namespace,
                                .create = true};
    uint32_t id;
    int e = pikv_namespace_open(d->kv, &ns, &id, NULL);

    if (!e) /* a name keeps its number within a handle */
        __atomic_store_n(&d->ns, id, __ATOMIC_RELAXED);
    return e;
}

static void on_opening(uv_work_t *w)
{
    (void)door_open_namespace(w->data);
}

static void on_opened(uv_work_t *w, int status)
{
    struct door *d = w->data;

    (void)status;
    d->is_opening = false;
}

bool door_stale(struct door *d, int status)
{
    if (status != PIKV_STALE_GENERATION && status != PIKV_NO_NAMESPACE)
        return false;
    if (!d->is_opening) {
        LOG(LOG_INFO, "resp_namespace_again", "why=%s",
            pikv_error_name(status));
        d->is_opening = true;
        d->opening.data = d;
        MUST(uv_queue_work(&d->uv, &d->opening, on_opening, on_opened) == 0);
    }
    return true;
}

static int connect_open(struct door *d)
{
    const struct config *c = &d->cfg;
    char address[CONFIG_STRING + 8];
    struct pikv_options o = {
        .address = address,
        .engine = "pikvd listen.resp",
        .connect_ms = CONNECT_MS,
        .inflight_max = (uint32_t)c->listen.resp.clients + 1,
    };
    int e;

    snprintf(address, sizeof(address), "shm:%s", c->listen.shm.path);
    e = pikv_open(&o, &d->kv);
    if (!e)
        e = door_open_namespace(d);
    if (!e)
        e = pikv_info(d->kv, &d->info);
    if (!e)
        e = pikv_mem_alloc(d->kv, c->listen.resp.memory_bytes, &d->memory);
    if (!e)
        e = space_init(&d->space, d->memory, c->listen.resp.memory_bytes);
    return e;
}

static void connect_undo(struct door *d)
{
    space_fini(&d->space);
    pikv_close(d->kv);
    d->kv = NULL;
}

static void on_connect(uv_timer_t *h)
{
    struct door *d = h->data;
    int e = connect_open(d);

    if (e) {
        LOG(LOG_WARN, "resp_not_serving", "error=%s why=%s", pikv_error_name(e),
            LOG_STR(pikv_last_error()));
        connect_undo(d);
        uv_timer_start(h, on_connect, CONNECT_MS, 0);
        return;
    }
    MUST(uv_poll_init(&d->uv, &d->events, pikv_event_fd(d->kv)) == 0);
    d->events.data = d;
    MUST(uv_poll_init(&d->uv, &d->accept, d->listen_fd) == 0);
    d->accept.data = d;
    d->serving = true;
    MUST(uv_poll_start(&d->events, UV_READABLE, on_events) == 0);
    MUST(uv_poll_start(&d->accept, UV_READABLE, on_accept) == 0);
    LOG(LOG_INFO, "resp_serving", "host=%s port=%" PRIu64 " namespace=%s",
        d->cfg.listen.resp.host, d->cfg.listen.resp.port,
        LOG_STR(d->cfg.listen.resp.namespace));
}

/* ---- The thread ---- */

static void close_handle(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (!uv_is_closing(h))
        uv_close(h, NULL);
}

static void on_wake(uv_async_t *h)
{
    struct door *d = h->data;

    uv_timer_stop(&d->connect);
    if (d->serving)
        uv_poll_stop(&d->accept);
    if (__atomic_load_n(&d->stop, __ATOMIC_RELAXED)) {
        uv_stop(&d->uv);
        return;
    }
    LIST_FOREACH_SAFE(n, &d->conns)
    conn_run(container_of(n, struct conn, node));
    door_settle(d);
}

/* libpikv first: after it nobody touches a connection's memory. A question on
 * the worker has a deadline; the loop ends when it is answered. */
static void door_end(struct door *d)
{
    struct list *n;

    while ((n = d->conns.next) != &d->conns)
        conn_close(container_of(n, struct conn, node));
    while (d->ask.busy || d->is_opening)
        uv_run(&d->uv, UV_RUN_ONCE);
    if (d->kv && d->serving)
        uv_poll_stop(&d->events);
    pikv_close(d->kv);
    d->kv = NULL;
    LIST_FOREACH(m, &d->dead)
    container_of(m, struct conn, node)->wait = WAIT_NOTHING;
    uv_walk(&d->uv, close_handle, NULL);
    uv_run(&d->uv, UV_RUN_DEFAULT);
    while ((n = d->dead.next) != &d->dead)
        conn_free(container_of(n, struct conn, node));
}

static void *door_main(void *arg)
{
    struct door *d = arg;

    uv_run(&d->uv, UV_RUN_DEFAULT);
    door_end(d);
    return NULL;
}

/* ---- Life ---- */

static enum err read_password(struct door *d, struct errmsg *m)
{
    const char *path = d->cfg.listen.resp.password_file;
    char *text;
    size_t len;
    enum err e;

    if (!path[0])
        return OK;
    e = files_read(path, PASSWORD_FILE_MAX, &text, &len, m);
    if (e)
        return errmsg_wrap(m, e, "listen.resp.password_file");
    len = strcspn(text, "\r\n");
    if (len && len < sizeof(d->password)) {
        memcpy(d->password, text, len);
        d->password_len = (uint32_t)len;
    }
    free(text);
    if (!d->password_len)
        return errmsg_set(m, ERR_CONFIG,
                          "listen.resp.password_file: %s: the first line is no "
                          "password; allowed: 1 to %d bytes",
                          path, DOOR_PASSWORD - 1);
    return OK;
}

static void set_limits(struct door *d)
{
    const struct config *c = &d->cfg;

    d->limits = (struct resp_limits){
        .args_max = (uint32_t)c->listen.resp.arguments,
        .arg_max = DOOR_ARG_MAX,
        .inline_max = DOOR_IN_MIN,
        .value_max = c->listen.resp.value_bytes,
        .value_error = "Protocol error: invalid bulk length, longer than "
                       "listen.resp.value",
    };
    /* As Redis has it: who is not known yet costs little. */
    d->limits_before = d->limits;
    d->limits_before.args_max = 10;
    d->limits_before.value_max = DOOR_ARG_MAX;
    d->limits_before.value_error =
        "Protocol error: unauthenticated bulk length";
    d->guess = GUESS_MIN;
}

static void init_lists(struct door *d)
{
    struct list *const all[] = {&d->conns,  &d->dead,   &d->waiting,
                                &d->askers, &d->laters, &d->ready};

    for (size_t i = 0; i < countof(all); i++)
        list_init(all[i]);
    for (size_t i = 0; i < DOOR_LOCKS; i++)
        list_init(&d->locks[i]);
}

static int open_loop(struct door *d)
{
    uint64_t slow_ms = d->cfg.listen.resp.slow_us / 1000;
    uint64_t tick_ms = min_u64(max_u64(slow_ms / TICKS, 1), TICK_MS_MAX);
    int rc = uv_loop_init(&d->uv);

    if (rc)
        return rc;
    rc = uv_async_init(&d->uv, &d->wake, on_wake);
    if (rc) {
        MUST(uv_loop_close(&d->uv) == 0);
        return rc;
    }
    /* Timers cannot fail. */
    uv_timer_init(&d->uv, &d->connect);
    uv_timer_init(&d->uv, &d->tick);
    uv_timer_init(&d->uv, &d->later);
    d->wake.data = d->connect.data = d->tick.data = d->later.data = d;
    uv_timer_start(&d->connect, on_connect, 0, 0);
    uv_timer_start(&d->tick, on_tick, tick_ms, tick_ms);
    return 0;
}

/* The thread takes no signal: the control loop does. */
static int start_thread(struct door *d)
{
    sigset_t all, old;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    rc = fault_here("door_thread")
             ? EAGAIN
             : pthread_create(&d->thread, NULL, door_main, d);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc == 0)
        (void)pthread_setname_np(d->thread, "resp");
    return rc;
}

static enum err door_start(struct door *d, struct errmsg *m)
{
    int rc = open_loop(d);

    if (rc)
        return errmsg_set(m, ERR_IO, "listen.resp: cannot make its loop: %s",
                          uv_strerror(rc));
    rc = start_thread(d);
    if (rc == 0)
        return OK;
    door_end(d);
    MUST(uv_loop_close(&d->uv) == 0);
    return errmsg_set(m, ERR_IO, "listen.resp: cannot start its thread: %s",
                      strerror(rc));
}

static void door_free(struct door *d)
{
    if (d->listen_fd >= 0)
        close(d->listen_fd);
    ask_fini(&d->ask);
    space_fini(&d->space);
    free(d);
}

enum err door_open(struct door **out, const struct config *cfg,
                   struct metrics *metrics, struct errmsg *m)
{
    struct door *d = fault_here("door_open") ? NULL : calloc(1, sizeof(*d));
    enum err e;

    if (!d)
        return errmsg_set(m, ERR_NO_MEMORY, "listen.resp: no memory");
    d->cfg = *cfg;
    d->metrics = metrics;
    d->listen_fd = -1;
    init_lists(d);
    e = read_password(d, m);
    set_limits(d);
    if (!e)
        e = listen_tcp("listen.resp", cfg->listen.resp.host,
                       cfg->listen.resp.port, BACKLOG, &d->listen_fd, m);
    if (!e)
        e = door_start(d, m);
    if (e)
        door_free(d);
    else
        *out = d;
    return e;
}

void door_drain(struct door *d)
{
    if (!d)
        return;
    __atomic_store_n(&d->draining, true, __ATOMIC_RELAXED);
    MUST(uv_async_send(&d->wake) == 0);
}

void door_close(struct door *d)
{
    if (!d)
        return;
    __atomic_store_n(&d->stop, true, __ATOMIC_RELAXED);
    MUST(uv_async_send(&d->wake) == 0);
    pthread_join(d->thread, NULL);
    MUST(uv_loop_close(&d->uv) == 0);
    door_free(d);
}
