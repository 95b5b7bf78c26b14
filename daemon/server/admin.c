/* SPDX-License-Identifier: Apache-2.0
 *
 * libmicrohttpd without threads of its own: its epoll fd is polled by the
 * control loop, its timeouts are a timer there.
 *
 *   request --> answer at once            health, errors
 *           \-> suspend, ask the lanes --> all answered, or ADMIN_WAIT_MS
 *                                     \-> resume, answer with what there is
 *
 * 1. At most one question to the lanes is out; requests that come meanwhile
 *    wait for its answer.
 * 2. The memory that lanes write to belongs to the question until all have
 *    acked, however late; the pages read the last complete answer only.
 * 3. Nothing is kept of a request but which page it wants.
 *
 * Limits: connections, bytes of a request, idle time (admin.h). Only GET and
 * HEAD; a body is refused. A request that cannot be answered for lack of
 * memory ends its connection. */
#include "server/admin.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/fault.h"
#include "base/log.h"
#include "server/admin_page.h"
#include "server/listen.h"

enum page { PAGE_METRICS, PAGE_STATUS, PAGE_LIVE, PAGE_READY, PAGE_NONE };

struct request {
    struct list node; /* admin->waiting, or alone */
    struct MHD_Connection *connection;
    enum page page;
    bool asked;
};

struct admin {
    struct admin_cfg cfg;
    struct MHD_Daemon *mhd;
    uv_poll_t poll;
    uv_timer_t timer; /* MHD's */
    uv_timer_t wait;  /* the deadline of a question */
    uint32_t handles; /* open ones: the last closed frees */
    struct list waiting;
    struct admin_snapshot now;    /* the last answer */
    struct admin_snapshot coming; /* lanes are writing it */
    bool asking;
};

static void admin_run(struct admin *a);

/* ---- Asking the lanes ---- */

static void snapshot_free(struct admin_snapshot *s)
{
    free(s->usage);
    free(s->clients);
    free(s->client_n);
    *s = (struct admin_snapshot){0};
}

static bool snapshot_new(struct admin_snapshot *s, const struct control *c)
{
    size_t lanes = c->lane_n;

    s->usage_n = c->registry.n;
    s->usage = calloc(max_u64(s->usage_n, 1) * lanes, sizeof(*s->usage));
    s->clients = calloc(lanes, sizeof(*s->clients));
    s->client_n = calloc(lanes, sizeof(*s->client_n));
    if (s->usage && s->clients && s->client_n && !fault_here("snapshot_new"))
        return true;
    snapshot_free(s);
    return false;
}

/* Lets those who wait have what there is. */
static void wait_end(struct admin *a)
{
    struct list *n;

    uv_timer_stop(&a->wait);
    while ((n = list_pop(&a->waiting)))
        MHD_resume_connection(
            container_of(n, struct request, node)->connection);
}

static void ask_done(struct ctl_job *job)
{
    struct admin *a = job->arg;

    control_job_end(job);
    snapshot_free(&a->now);
    a->now = a->coming;
    a->coming = (struct admin_snapshot){0};
    a->asking = false;
    wait_end(a);
    admin_run(a);
}

static void ask_clients(struct ctl_job *job)
{
    control_job_send(job, lane_clients_mail, ask_done);
}

/* false: no answer is to be had; pages do without. */
static bool ask_begin(struct admin *a)
{
    struct ctl_job *job;

    if (a->asking)
        return true;
    if (loop_control_draining(a->cfg.loop))
        return false;
    job = control_job(a->cfg.control);
    if (!job)
        return false;
    if (!snapshot_new(&a->coming, a->cfg.control)) {
        control_job_end(job);
        return false;
    }
    job->arg = a;
    job->usage = a->coming.usage;
    job->usage_n = a->coming.usage_n;
    job->clients = a->coming.clients;
    job->client_n = a->coming.client_n;
    a->asking = true;
    control_job_send(job, lane_usage_mail, ask_clients);
    return true;
}

/* The old answer would look like a new one: late lanes leave the page bare. */
static void on_wait(uv_timer_t *h)
{
    struct admin *a = h->data;

    LOG(LOG_WARN, "admin_lanes_late", "after_ms=%d", ADMIN_WAIT_MS);
    snapshot_free(&a->now);
    wait_end(a);
    admin_run(a);
}

static bool request_wait(struct admin *a, struct request *r)
{
    if (!ask_begin(a)) {
        snapshot_free(&a->now);
        return false;
    }
    if (!uv_is_active((const uv_handle_t *)&a->wait))
        uv_timer_start(&a->wait, on_wait, ADMIN_WAIT_MS, 0);
    list_add_tail(&a->waiting, &r->node);
    MHD_suspend_connection(r->connection);
    return true;
}

/* ---- Answering ---- */

static enum MHD_Result reply(struct MHD_Connection *c, unsigned status,
                             const char *type, struct textbuf *text)
{
    struct MHD_Response *r;
    enum MHD_Result ok;

    if (text->bad)
        return MHD_NO;
    r = MHD_create_response_from_buffer(text->len, text->text,
                                        MHD_RESPMEM_MUST_FREE);
    if (!r) {
        free(text->text);
        return MHD_NO;
    }
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    ok = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return ok;
}

static enum MHD_Result reply_text(struct MHD_Connection *c, unsigned status,
                                  const char *text)
{
    struct textbuf out = {0};

    textbuf_add(&out, "%s\n", text);
    return reply(c, status, "text/plain; charset=utf-8", &out);
}

static enum MHD_Result reply_metrics(struct admin *a, struct MHD_Connection *c)
{
    const char *accept =
        MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_ACCEPT);
    bool om = accept && strstr(accept, "application/openmetrics-text");
    struct textbuf out = {0};

    admin_page_metrics(&a->cfg, &a->now, om, &out);
    return reply(c, MHD_HTTP_OK,
                 om ? "application/openmetrics-text; version=1.0.0; "
                      "charset=utf-8"
                    : "text/plain; version=0.0.4; charset=utf-8",
                 &out);
}

static enum MHD_Result reply_status(struct admin *a, struct MHD_Connection *c)
{
    struct textbuf out = {0};

    admin_page_status(&a->cfg, &a->now, &out);
    return reply(c, MHD_HTTP_OK, "application/json", &out);
}

/* ?verbose has no value, which this version of MHD tells by its key alone. */
static enum MHD_Result is_verbose(void *cls, enum MHD_ValueKind kind,
                                  const char *key, const char *value)
{
    (void)kind;
    (void)value;
    if (strcmp(key, "verbose") == 0)
        *(bool *)cls = true;
    return MHD_YES;
}

static enum MHD_Result reply_health(struct admin *a, struct MHD_Connection *c,
                                    bool live)
{
    struct textbuf out = {0};
    bool verbose = false, ok;

    MHD_get_connection_values(c, MHD_GET_ARGUMENT_KIND, is_verbose, &verbose);
    ok = admin_page_health(&a->cfg, live, verbose, &out);
    return reply(c, ok ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE,
                 "text/plain; charset=utf-8", &out);
}

static enum page page_of(const char *url)
{
    static const struct {
        const char *url;
        enum page page;
    } pages[] = {
        {"/metrics", PAGE_METRICS}, {"/api/v1/status", PAGE_STATUS},
        {"/livez", PAGE_LIVE},      {"/readyz", PAGE_READY},
        {"/healthz", PAGE_READY},
    };

    for (size_t i = 0; i < countof(pages); i++)
        if (strcmp(url, pages[i].url) == 0)
            return pages[i].page;
    return PAGE_NONE;
}

static enum MHD_Result request_answer(struct admin *a, struct request *r)
{
    switch (r->page) {
    case PAGE_METRICS:
        return reply_metrics(a, r->connection);
    case PAGE_STATUS:
        return reply_status(a, r->connection);
    case PAGE_LIVE:
        return reply_health(a, r->connection, true);
    case PAGE_READY:
        return reply_health(a, r->connection, false);
    case PAGE_NONE:
        break;
    }
    return reply_text(r->connection, MHD_HTTP_NOT_FOUND,
                      "not found; there are /metrics, /livez, /readyz, "
                      "/healthz and /api/v1/status");
}

/* MHD calls this once with the headers, again when the request is complete,
 * and again after a resume. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection,
                                  const char *url, const char *method,
                                  const char *version, const char *upload,
                                  size_t *upload_n, void **state)
{
    struct admin *a = cls;
    struct request *r = *state;

    (void)version;
    (void)upload;
    if (!r) {
        r = calloc(1, sizeof(*r));
        if (!r)
            return MHD_NO;
        list_init(&r->node);
        r->connection = connection;
        r->page = page_of(url);
        *state = r;
        return MHD_YES;
    }
    if (*upload_n > 0) { /* read and dropped; the answer is below */
        *upload_n = 0;
        r->page = PAGE_NONE;
        return MHD_YES;
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 &&
        strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return reply_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED,
                          "only GET and HEAD");
    if ((r->page == PAGE_METRICS || r->page == PAGE_STATUS) && !r->asked) {
        r->asked = true;
        if (request_wait(a, r))
            return MHD_YES;
    }
    return request_answer(a, r);
}

static void on_request_end(void *cls, struct MHD_Connection *connection,
                           void **state, enum MHD_RequestTerminationCode code)
{
    struct request *r = *state;

    (void)cls;
    (void)connection;
    (void)code;
    if (!r)
        return;
    list_del(&r->node);
    free(r);
    *state = NULL;
}

/* ---- libuv and MHD ---- */

static void on_timer(uv_timer_t *h)
{
    admin_run(h->data);
}

static void on_poll(uv_poll_t *h, int status, int events)
{
    (void)status;
    (void)events;
    admin_run(h->data);
}

static unsigned connections(const struct admin *a)
{
    return MHD_get_daemon_info(a->mhd, MHD_DAEMON_INFO_CURRENT_CONNECTIONS)
        ->num_connections;
}

/* At its limit MHD takes the listening socket out of its epoll set, and puts it
 * back at the begin of the run after the one that ended a connection: no event
 * would bring that run about. */
static void admin_run(struct admin *a)
{
    MHD_UNSIGNED_LONG_LONG ms;
    unsigned before;

    do {
        before = connections(a);
        MHD_run(a->mhd);
    } while (connections(a) < before);
    if (MHD_get_timeout(a->mhd, &ms) == MHD_YES)
        uv_timer_start(&a->timer, on_timer, ms, 0);
    else
        uv_timer_stop(&a->timer);
}

static void mhd_log(void *arg, const char *fmt, va_list ap)
{
    char text[256];

    (void)arg;
    vsnprintf(text, sizeof(text), fmt, ap);
    text[strcspn(text, "\n")] = '\0';
    LOG(LOG_DEBUG, "admin_http", "text=%s", LOG_STR(text));
}

/* ---- Life ---- */

static void on_closed(uv_handle_t *h)
{
    struct admin *a = h->data;

    if (--a->handles == 0) {
        snapshot_free(&a->now);
        free(a);
    }
}

static void add_handle(struct admin *a, uv_handle_t *h)
{
    h->data = a;
    a->handles++;
}

static enum err admin_start(struct admin *a, int fd, struct errmsg *m)
{
    uv_loop_t *uv = loop_control_uv(a->cfg.loop);
    const union MHD_DaemonInfo *info;

    if (!fault_here("admin_start"))
        a->mhd = MHD_start_daemon(
            MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0,
            NULL, NULL, on_request, a, MHD_OPTION_EXTERNAL_LOGGER, mhd_log,
            NULL, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
            (unsigned)ADMIN_CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
            (size_t)ADMIN_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT,
            (unsigned)ADMIN_IDLE_S, MHD_OPTION_NOTIFY_COMPLETED, on_request_end,
            NULL, MHD_OPTION_END);
    if (!a->mhd) {
        close(fd);
        return errmsg_set(m, ERR_IO, "listen.admin: cannot start HTTP");
    }
    info = MHD_get_daemon_info(a->mhd, MHD_DAEMON_INFO_EPOLL_FD);
    MUST(info);
    /* None of these can fail for a fresh epoll descriptor. */
    MUST(uv_poll_init(uv, &a->poll, info->epoll_fd) == 0);
    add_handle(a, (uv_handle_t *)&a->poll);
    MUST(uv_timer_init(uv, &a->timer) == 0);
    add_handle(a, (uv_handle_t *)&a->timer);
    MUST(uv_timer_init(uv, &a->wait) == 0);
    add_handle(a, (uv_handle_t *)&a->wait);
    MUST(uv_poll_start(&a->poll, UV_READABLE, on_poll) == 0);
    return OK;
}

enum err admin_open(struct admin **out, const struct admin_cfg *cfg,
                    struct errmsg *m)
{
    struct admin *a;
    int fd = -1;
    const struct config *c = cfg->control->cfg;
    enum err e = listen_tcp("listen.admin", c->listen.admin.host,
                            c->listen.admin.port, ADMIN_CONNECTIONS, &fd, m);

    if (e)
        return e;
    a = calloc(1, sizeof(*a));
    if (!a) {
        close(fd);
        return errmsg_set(m, ERR_NO_MEMORY, "listen.admin: no memory");
    }
    a->cfg = *cfg;
    list_init(&a->waiting);
    e = admin_start(a, fd, m);
    if (e)
        free(a);
    else
        *out = a;
    return e;
}

void admin_close(struct admin *a)
{
    if (!a)
        return;
    MUST(!a->asking); /* control is idle by now */
    wait_end(a);
    uv_poll_stop(&a->poll);
    MHD_stop_daemon(a->mhd);
    uv_close((uv_handle_t *)&a->poll, on_closed);
    uv_close((uv_handle_t *)&a->timer, on_closed);
    uv_close((uv_handle_t *)&a->wait, on_closed);
}
