/* SPDX-License-Identifier: Apache-2.0
 *
 * Block traffic over UCX: one context, one worker and one listener per lane.
 *
 *   lane i listens on port + i, so that a connection is born on the thread that
 *   serves it: handing connection requests from one listener to other workers
 *   works too, but needs a door between threads for every connection and ties
 *   the lanes' contexts together for nothing.
 *
 *        ucp_worker_progress()            the turn (progress)
 *   conn request --> t->due ---------------> opened()
 *   message      --> peer->mails ----------> message(), bad()
 *   PUT data     --> slot HELD or READY ---> copy, or start the rendezvous
 *   rendezvous   --> t->landed ------------> checksum --> t->ended --> done()
 *   send done    --> t->acked -------------> done(), next pieces
 *   peer died    --> t->due ---------------> cut: close by force, drop what is
 *                                            held, wait for UCX, closed()
 *
 * Invariants
 *  1. UCX's callbacks only queue. The lane is called from progress() alone, and
 *     never from inside a UCX call.
 *  2. Everything that UCX holds is counted in peer->ucx_n, everything that the
 *     lane waits for in peer->calls_n; closed() comes when both are 0.
 *  3. Descriptors held for a peer are counted and capped: UCX has no flow
 *     control, so a peer that sends beyond its credits is cut.
 *  4. Spans are given to UCX only by ucp_am_recv_data_nbx, and its callback
 *     comes after the socket is closed when a connection is cut: with
 *     endpoints made by a listener nothing is written later.
 *  5. A send to a dead client never fails before a read does
 *     (transport_ucx_sock.c): else UCX's tcp aborts.
 *  6. Only active messages: UCX 1.13 emulates RMA over tcp and aborts the
 *     survivor when a peer dies in it; posix and sysv wedge (UCX.md 4).
 *
 * Caller and thread: the lane's, or main's before the lane runs. UCX has its
 * own thread for connections; it touches nothing here.
 *
 * Failures: whatever UCX says about an endpoint means the same, the connection
 * is over. UCX codes end at ucx_err().
 *
 * Not here: authentication, encryption, registered client memory. Whoever can
 * reach a UCX port can write into this process; docs/OPERATING.md says so. */
#include "rpc/transport_ucx.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <ucs/config/global_opts.h>

#include "base/log.h"
#include "rpc/transport_ucx_int.h"

enum {
    UCX_POLLS = 4,     /* ucp_worker_progress calls per round, 1 MiB each */
    UCX_ROUNDS = 8,    /* rounds per turn */
    UCX_REPORTS = 256, /* completions told per round */
    UCX_ARMS = 3,
    UCX_CLOSE_TURNS = 1 << 20,
};

enum err ucx_err(ucs_status_t s)
{
    if (s == UCS_OK)
        return OK;
    if (s == UCS_ERR_NO_MEMORY)
        return ERR_NO_MEMORY;
    if (s == UCS_ERR_BUSY || s == UCS_ERR_NO_RESOURCE)
        return ERR_BUSY;
    if (s == UCS_ERR_MESSAGE_TRUNCATED)
        return ERR_BAD_REQUEST;
    return ERR_PEER_GONE;
}

/* ---- Environment --------------------------------------------------------- */

/* Transports that do not survive the death of a peer, and names that stand for
 * them. */
static bool tls_safe(const char *tls)
{
    static const char *const unsafe[] = {"all",  "shm",  "sm",   "posix",
                                         "sysv", "mm",   "self", "cma",
                                         "knem", "xpmem"};
    char list[256], *save = NULL;

    if (strlen(tls) >= sizeof(list) || strpbrk(tls, "^\\"))
        return false;
    memcpy(list, tls, strlen(tls) + 1);
    for (char *s = strtok_r(list, ", ", &save); s;
         s = strtok_r(NULL, ", ", &save)) {
        for (size_t i = 0; i < countof(unsafe); i++) {
            if (strcmp(s, unsafe[i]) == 0)
                return false;
        }
    }
    return tls[0] != '\0';
}

/* UCX reads its global options when the library is loaded, before main: those
 * that are still of use are set by hand. */
static enum err ucx_globals_set(struct errmsg *msg)
{
    static const char *const names[] = {"ASYNC_MAX_EVENTS",
                                        "WARN_UNUSED_ENV_VARS"};
    char var[64];

    for (size_t i = 0; i < countof(names); i++) {
        snprintf(var, sizeof(var), "UCX_%s", names[i]);
        if (ucs_global_opts_set_value(names[i], getenv(var)) != UCS_OK)
            return errmsg_set(msg, ERR_CONFIG, "%s=\"%s\" is not valid", var,
                              getenv(var));
    }
    return OK;
}

enum err transport_ucx_env(const struct transport_ucx_cfg *cfg,
                           struct errmsg *msg)
{
    /* must: the daemon does not survive without it; else the operator's own
     * setting stays. */
    static const struct {
        const char *name, *value;
        bool must;
    } vars[] = {
        {"UCX_PROTO_ENABLE", "n", true}, /* 1.13 asserts on CM endpoints */
        {"UCX_HANDLE_ERRORS", "none", true},
        {"UCX_WARN_UNUSED_ENV_VARS", "n", false},
        {"UCX_TCP_CM_REUSEADDR", "y", true}, /* or no bind after a crash */
        {"UCX_MAX_RNDV_RAILS", "1", false},
        {"UCX_ASYNC_MAX_EVENTS", "16384", false}, /* else 1,021 clients */
        {"UCX_KEEPALIVE_INTERVAL", "2s", false},
        {"UCX_TCP_KEEPIDLE", "2s", false},
        {"UCX_TCP_KEEPINTVL", "1s", false},
        {"UCX_TCP_KEEPCNT", "3", false},
    };

    if (!tls_safe(cfg->tls))
        return errmsg_set(msg, ERR_CONFIG,
                          "\"%s\" has a transport that wedges when a client "
                          "dies; allowed are network transports by name, such "
                          "as \"tcp\" or \"tcp,rc,ud\"",
                          cfg->tls);
    for (size_t i = 0; i < countof(vars); i++)
        setenv(vars[i].name, vars[i].value, vars[i].must);
    setenv("UCX_TLS", cfg->tls, 1);
    if (cfg->devices && cfg->devices[0])
        setenv("UCX_NET_DEVICES", cfg->devices, 1);
    if (cfg->port_range && cfg->port_range[0])
        setenv("UCX_TCP_PORT_RANGE", cfg->port_range, 1);
    return ucx_globals_set(msg);
}

/* ---- The turn ------------------------------------------------------------ */

void ucx_xfer_end(struct transport_ucx *t, struct tp_xfer *x, enum err e)
{
    x->tp = NULL;
    x->tp_pos = (uint64_t)(int64_t)e;
    list_add_tail(&t->ended, &x->node);
}

static void ucx_call_done(struct ucx_peer *p)
{
    MUST(p->calls_n > 0);
    p->calls_n--;
    if (p->state != UCX_OPEN)
        ucx_peer_due(p);
}

/* Tells the lane what ended. */
static bool ucx_report(struct transport_ucx *t)
{
    struct list *n;
    uint32_t left = UCX_REPORTS;

    while (left > 0 && (n = list_pop(&t->ended))) {
        struct tp_xfer *x = container_of(n, struct tp_xfer, node);

        left--;
        ucx_call_done(ucx_peer_of(x->peer));
        x->done(x, (enum err)(int64_t)x->tp_pos);
    }
    while (left > 0 && (n = list_pop(&t->unsent))) {
        struct tp_send *s = container_of(n, struct tp_send, node);

        left--;
        ucx_call_done(s->tp);
        s->done(s, ERR_PEER_GONE);
    }
    return left < UCX_REPORTS;
}

static unsigned ucx_poll(struct transport_ucx *t)
{
    unsigned n = 0, k;

    for (int i = 0; i < UCX_POLLS; i++) {
        k = ucp_worker_progress(t->worker);
        if (k == 0)
            break;
        n += k;
    }
    return n;
}

static bool ucx_round(struct transport_ucx *t)
{
    bool busy = ucx_poll(t) > 0;

    busy |= ucx_out_run(t);
    busy |= ucx_peers_visit(t);
    busy |= ucx_in_run(t);
    busy |= ucx_report(t);
    return busy;
}

static bool ucx_queued(const struct transport_ucx *t)
{
    return !list_empty(&t->due) || !list_empty(&t->ready) ||
           !list_empty(&t->landed) || !list_empty(&t->acked) ||
           !list_empty(&t->ended) || !list_empty(&t->unsent);
}

static bool ucx_progress(struct transport *tp)
{
    struct transport_ucx *t = container_of(tp, struct transport_ucx, base);

    MUST(t->magic == UCX_MAGIC);
    t->budget = t->cfg.slice_bytes;
    for (int i = 0; i < UCX_ROUNDS; i++) {
        if (!ucx_round(t))
            return false;
        if (t->budget == 0)
            return true;
    }
    return true;
}

/* What the polls here find is queued for the next turn. */
static bool ucx_arm(struct transport *tp)
{
    struct transport_ucx *t = container_of(tp, struct transport_ucx, base);

    for (int i = 0; i < UCX_ARMS; i++) {
        if (ucx_poll(t) > 0 && ucx_queued(t))
            return false;
        if (ucx_queued(t))
            return false;
        if (ucp_worker_arm(t->worker) == UCS_OK)
            return true;
    }
    return false;
}

static void ucx_awake(struct transport *tp)
{
    (void)tp; /* the descriptor is level triggered; progress disarms it */
}

/* ---- Calls that other files do not serve --------------------------------- */

static void ucx_cancel(struct tp_xfer *x)
{
    if (!x->tp)
        return; /* it has ended and is about to be reported */
    if (x->is_push)
        ucx_out_cancel(x);
    else
        ucx_in_cancel(x);
}

static const struct tp_ops ucx_ops = {
    .name = "ucx",
    .send = ucx_out_send,
    .pull = ucx_in_pull,
    .push = ucx_out_push,
    .skip = ucx_in_skip,
    .cancel = ucx_cancel,
    .close = ucx_peer_close,
    .progress = ucx_progress,
    .arm = ucx_arm,
    .awake = ucx_awake,
};

/* ---- Set-up -------------------------------------------------------------- */

static uint32_t hash_size(uint32_t n)
{
    uint32_t size = 64;

    while (size < n)
        size *= 2;
    return size;
}

static struct list *hash_new(uint32_t n)
{
    struct list *h = mem_reserve(n * sizeof(*h));

    for (uint32_t i = 0; h && i < n; i++)
        list_init(&h[i]);
    return h;
}

static enum err ucx_pools_init(struct transport_ucx *t)
{
    const struct transport_ucx_cfg *c = &t->cfg;
    enum err e = OK;

    t->stage_bytes = (size_t)(t->base.limits->message_bytes +
                              max_u64(c->inline_max, TP_PIECE_BYTES));
    t->eps_n = hash_size(c->peers_max);
    t->wants_n = hash_size(c->xfers_max + c->held_all);
    t->eps = hash_new(t->eps_n);
    t->wants = hash_new(t->wants_n);
    if (!t->eps || !t->wants)
        return ERR_NO_MEMORY;
    e = e ? e : pool_init(&t->peers, c->peers_max, sizeof(struct ucx_peer));
    e = e ? e : pool_init(&t->outs, c->sends_max, sizeof(struct ucx_out));
    e = e ? e : pool_init(&t->pushes, c->xfers_max, sizeof(struct ucx_push));
    e = e ? e
          : pool_init(&t->slots, c->xfers_max + c->held_all,
                      sizeof(struct ucx_slot));
    e = e ? e : pool_init(&t->mails, c->held_all, sizeof(struct ucx_mail));
    e = e ? e : pool_init(&t->stages, c->sends_max, t->stage_bytes);
    return e;
}

static void ucx_lists_init(struct transport_ucx *t)
{
    list_init(&t->all);
    list_init(&t->due);
    list_init(&t->starved);
    list_init(&t->ready);
    list_init(&t->landed);
    list_init(&t->acked);
    list_init(&t->ended);
    list_init(&t->unsent);
}

static enum err ucx_worker_open(struct transport_ucx *t, struct errmsg *msg)
{
    ucp_params_t p = {
        .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_NAME |
                      UCP_PARAM_FIELD_ESTIMATED_NUM_EPS,
        .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
        .estimated_num_eps = 1,
        .name = "pikvd",
    };
    ucp_worker_params_t w = {
        .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE |
                      UCP_WORKER_PARAM_FIELD_AM_ALIGNMENT,
        .thread_mode = UCS_THREAD_MODE_SINGLE,
        .am_alignment = 16, /* records are read in place */
    };
    ucp_config_t *config;
    ucs_status_t s;

    s = ucp_config_read(NULL, NULL, &config);
    if (s != UCS_OK)
        return errmsg_set(msg, ERR_CONFIG, "UCX settings: %s",
                          ucs_status_string(s));
    s = ucp_init(&p, config, &t->context);
    ucp_config_release(config);
    if (s != UCS_OK)
        return errmsg_set(
            msg, ERR_IO, "UCX start: %s (UCX_TLS=%s UCX_NET_DEVICES=%s)",
            ucs_status_string(s), getenv("UCX_TLS"), getenv("UCX_NET_DEVICES"));
    s = ucp_worker_create(t->context, &w, &t->worker);
    if (s == UCS_OK)
        s = ucp_worker_get_efd(t->worker, &t->efd);
    if (s != UCS_OK)
        return errmsg_set(msg, ERR_IO, "UCX worker: %s", ucs_status_string(s));
    return ucx_in_listen(t);
}

static uint16_t sockaddr_port(const struct sockaddr_storage *a)
{
    if (a->ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)(const void *)a)->sin6_port);
    return ntohs(((const struct sockaddr_in *)(const void *)a)->sin_port);
}

static enum err ucx_listener_open(struct transport_ucx *t, const char *host,
                                  struct errmsg *msg)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE,
                             .ai_socktype = SOCK_STREAM},
                    *ai = NULL;
    ucp_listener_params_t p = {
        .field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR |
                      UCP_LISTENER_PARAM_FIELD_CONN_HANDLER,
        .conn_handler = {ucx_peer_asks, t},
    };
    ucp_listener_attr_t a = {.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR};
    char port[8];
    ucs_status_t s;
    int rc;

    snprintf(port, sizeof(port), "%u", t->cfg.port);
    rc = getaddrinfo(host, port, &hints, &ai);
    if (rc)
        return errmsg_set(msg, ERR_CONFIG, "ucx address %s: %s", host,
                          gai_strerror(rc));
    p.sockaddr.addr = ai->ai_addr;
    p.sockaddr.addrlen = ai->ai_addrlen;
    s = ucp_listener_create(t->worker, &p, &t->listener);
    freeaddrinfo(ai);
    if (s == UCS_ERR_BUSY)
        return errmsg_set(msg, ERR_BUSY,
                          "ucx cannot listen on %s port %u: the port is in use "
                          "(another pikvd? lane i takes listen.ucx.port + i)",
                          host, t->cfg.port);
    if (s == UCS_OK)
        s = ucp_listener_query(t->listener, &a);
    if (s != UCS_OK)
        return errmsg_set(msg, ERR_IO, "ucx cannot listen on %s port %u: %s",
                          host, t->cfg.port, ucs_status_string(s));
    t->port = sockaddr_port(&a.sockaddr);
    return OK;
}

/* Accepts a half-opened transport. */
static void ucx_fini(struct transport_ucx *t)
{
    if (t->listener)
        ucp_listener_destroy(t->listener);
    if (t->worker)
        ucp_worker_destroy(t->worker);
    if (t->context)
        ucp_cleanup(t->context);
    pool_fini(&t->stages);
    pool_fini(&t->mails);
    pool_fini(&t->slots);
    pool_fini(&t->pushes);
    pool_fini(&t->outs);
    pool_fini(&t->peers);
    mem_release(t->wants, t->wants_n * sizeof(struct list));
    mem_release(t->eps, t->eps_n * sizeof(struct list));
    mem_release(t, sizeof(*t));
}

enum err transport_ucx_open(const struct transport_ucx_cfg *cfg,
                            const struct transport *from,
                            struct transport **out, struct errmsg *msg)
{
    struct transport_ucx *t = mem_reserve(sizeof(*t));
    enum err e;

    if (!t)
        return errmsg_set(msg, ERR_NO_MEMORY, "no memory for ucx");
    t->magic = UCX_MAGIC;
    t->base = *from;
    t->base.ops = &ucx_ops;
    t->cfg = *cfg;
    t->cfg.host = t->cfg.tls = t->cfg.devices = t->cfg.port_range = NULL;
    ucx_lists_init(t);
    e = ucx_pools_init(t);
    if (e)
        errmsg_set(msg, e, "no memory for ucx");
    if (!e)
        e = ucx_worker_open(t, msg);
    if (!e)
        e = ucx_listener_open(t, cfg->host, msg);
    if (e) {
        ucx_fini(t);
        return e;
    }
    if (!ucx_sock_check())
        LOG(LOG_WARN, "ucx_unguarded",
            "why=\"a dying client may abort the daemon: its symbols are not "
            "exported\"");
    LOG(LOG_INFO, "ucx_listen", "host=%s port=%u", LOG_STR(cfg->host), t->port);
    *out = &t->base;
    return OK;
}

int transport_ucx_fd(struct transport *tp)
{
    return container_of(tp, struct transport_ucx, base)->efd;
}

uint16_t transport_ucx_port(struct transport *tp)
{
    return container_of(tp, struct transport_ucx, base)->port;
}

void transport_ucx_close(struct transport *tp)
{
    struct transport_ucx *t = container_of(tp, struct transport_ucx, base);

    if (!tp)
        return;
    MUST(t->magic == UCX_MAGIC);
    ucx_peers_kill(t);
    ucp_listener_destroy(t->listener);
    t->listener = NULL;
    for (int i = 0; i < UCX_CLOSE_TURNS && !list_empty(&t->all); i++)
        ucx_progress(tp);
    /* A request that UCX never gives back would be a use after free later:
     * rather stop here and be restarted. */
    MUST(list_empty(&t->all));
    t->magic = 0;
    ucx_fini(t);
}
