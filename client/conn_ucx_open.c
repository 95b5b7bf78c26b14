/* SPDX-License-Identifier: Apache-2.0
 *
 * UCX for a handle: the context and worker that its connections share, and the
 * endpoint of each, dialled and closed. What is said over it is conn_ucx.c's,
 * the invariants too.
 *
 *     ucx_open   environment and settings -> context -> worker -> handler
 *     ucx_dial   address -> endpoint; it is connected by the first message
 *     hang up    a flag; ucx_progress closes, because callbacks must not
 *
 * Settings that the environment does not give: every transport but shared
 * memory (not crash-safe in 1.13), one rail, and copies (invariant 6). UCX's
 * own threads are made with all signals blocked.
 *
 * A host name is looked up once, when the connection is first made, and again
 * when the view gives the node another address. */
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "client/conn_ucx.h"

/* ---- the handle's half ---- */

static void open_setting(const struct ucx *u, ucp_config_t *cfg,
                         const char *key, const char *env, const char *value)
{
    if (!getenv(env))
        (void)u->api.ucp_config_modify(cfg, key, value);
}

static int open_context(struct ucx *u)
{
    ucp_params_t p = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                      .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
    ucp_worker_params_t w = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                             .thread_mode = UCS_THREAD_MODE_SERIALIZED};
    ucp_config_t *cfg;
    ucs_status_t s = u->api.ucp_config_read(NULL, NULL, &cfg);

    if (s != UCS_OK)
        return ERR_UNSUPPORTED;
    open_setting(u, cfg, "TLS", "UCX_TLS", "^sm,self");
    open_setting(u, cfg, "MAX_RNDV_RAILS", "UCX_MAX_RNDV_RAILS", "1");
    open_setting(u, cfg, "MEMTYPE_CACHE", "UCX_MEMTYPE_CACHE", "n");
    u->copies = !getenv("UCX_ZCOPY_THRESH");
    open_setting(u, cfg, "ZCOPY_THRESH", "UCX_ZCOPY_THRESH", "inf");
    s = u->api.ucp_init_version(UCP_API_MAJOR, UCP_API_MINOR, &p, cfg,
                                &u->context);
    u->api.ucp_config_release(cfg);
    if (s != UCS_OK)
        return ERR_UNSUPPORTED;
    if (u->api.ucp_worker_create(u->context, &w, &u->worker) != UCS_OK)
        return ERR_UNSUPPORTED;
    if (u->api.ucp_worker_get_efd(u->worker, &u->efd) != UCS_OK)
        return ERR_UNSUPPORTED;
    return OK;
}

static int open_handler(struct pikv *kv)
{
    struct ucx *u = kv->ucx;
    ucp_am_handler_param_t a = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID |
                      UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = AM_REPLY,
        .cb = ucx_arrives,
        .arg = kv,
    };

    return u->api.ucp_worker_set_am_recv_handler(u->worker, &a) == UCS_OK
               ? OK
               : ERR_UNSUPPORTED;
}

int ucx_open(struct pikv *kv)
{
    struct ucx *u = calloc(1, sizeof(*u));
    sigset_t all, before;
    int e = ERR_UNSUPPORTED;

    if (!u)
        return ERR_NO_MEMORY;
    kv->ucx = u;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (ucx_load(&u->api))
        e = open_context(u);
    if (!e)
        e = open_handler(kv);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return e;
}

void ucx_close(struct pikv *kv)
{
    struct ucx *u = kv->ucx;

    if (!u)
        return;
    if (u->worker)
        u->api.ucp_worker_destroy(u->worker);
    if (u->context)
        u->api.ucp_cleanup(u->context);
    free(u);
    kv->ucx = NULL;
}

/* ---- dial, hang up ---- */

/* "ucx:HOST:PORT", HOST may be [v6]. */
static int dial_resolve(struct conn *c)
{
    struct ucx_conn *u = ucx_conn_of(c);
    struct addrinfo want = {.ai_socktype = SOCK_STREAM}, *found;
    const char *host = c->addr + 4, *port = strrchr(host, ':');
    char name[ADDR_MAX];
    size_t n;

    if (strncmp(c->addr, "ucx:", 4) != 0 || !port)
        return ERR_NO_SERVER;
    n = (size_t)(port - host);
    if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
        host++;
        n -= 2;
    }
    memcpy(name, host, n);
    name[n] = '\0';
    if (getaddrinfo(name, port + 1, &want, &found))
        return ERR_NO_SERVER;
    memcpy(&u->addr, found->ai_addr, found->ai_addrlen);
    u->addr_len = found->ai_addrlen;
    memcpy(u->resolved, c->addr, sizeof(u->resolved));
    freeaddrinfo(found);
    return OK;
}

static void ep_failed(void *arg, ucp_ep_h ep, ucs_status_t status)
{
    struct ucx_conn *u = ucx_conn_of(arg);

    (void)status;
    if (u->ep == ep)
        u->failed = true;
}

enum err ucx_dial(struct conn *c)
{
    struct ucx *x = c->kv->ucx;
    struct ucx_conn *u = ucx_conn_of(c);
    ucp_ep_params_t p = {
        .field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER |
                      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
        .flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER,
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {ep_failed, c},
    };
    int e = OK;

    if (!u) {
        u = c->tp = calloc(1, sizeof(*u));
        if (!u)
            return ERR_NO_MEMORY;
    }
    u->hang = u->failed = false;
    if (!x->head)
        x->head = c;
    if (!u->addr_len || strcmp(u->resolved, c->addr) != 0)
        e = dial_resolve(c);
    if (e)
        return e;
    p.sockaddr.addr = (const struct sockaddr *)&u->addr;
    p.sockaddr.addrlen = u->addr_len;
    c->limits.message_bytes = MIB(1);
    if (x->api.ucp_ep_create(x->worker, &p, &u->ep) == UCS_OK)
        return OK;
    u->ep = NULL;
    return ERR_NO_SERVER;
}

void ucx_hang_up(struct conn *c)
{
    if (c->tp)
        ucx_conn_of(c)->hang = true;
}

void ucx_close_ep(struct conn *c)
{
    struct ucx *x = c->kv->ucx;
    struct ucx_conn *u = ucx_conn_of(c);
    ucp_request_param_t p = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                             .flags = UCP_EP_CLOSE_FLAG_FORCE};

    if (!u->closing) {
        ucs_status_ptr_t r = x->api.ucp_ep_close_nbx(u->ep, &p);

        if (UCS_PTR_IS_PTR(r))
            u->closing = r;
        else
            u->ep = NULL;
    } else if (x->api.ucp_request_check_status(u->closing) != UCS_INPROGRESS) {
        x->api.ucp_request_free(u->closing);
        u->closing = NULL;
        u->ep = NULL;
    }
}

bool ucx_quiet(struct conn *c)
{
    const struct ucx_conn *u = c->tp;

    return !u || (!u->ep && u->pending == 0);
}
