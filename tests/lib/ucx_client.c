/* SPDX-License-Identifier: Apache-2.0
 *
 * See ucx_client.h. The header of a message must live until UCX is done with
 * it (1.13 keeps the pointer), so each message carries a copy. */
#include "tests/lib/ucx_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/frame.h"
#include "rpc/transport_ucx.h"

struct flight {
    struct ucxc *c;
    struct ucxc_key *key;
    uint64_t len;
    uint8_t header[256];
};

static struct flight *flight_new(struct ucxc *c)
{
    struct flight *f = calloc(1, sizeof(*f));

    MUST(f);
    f->c = c;
    c->busy++;
    return f;
}

static void flight_free(struct flight *f)
{
    f->c->busy--;
    free(f);
}

static void sent(void *request, ucs_status_t s, void *arg)
{
    struct flight *f = arg;

    if (request)
        ucp_request_free(request);
    if (s == UCS_OK)
        f->c->sent++;
    else
        f->c->unsent++;
    flight_free(f);
}

static void received(void *request, ucs_status_t s, size_t len, void *arg)
{
    struct flight *f = arg;

    (void)len;
    if (request)
        ucp_request_free(request);
    if (s == UCS_OK)
        f->key->moved += f->len;
    else
        f->key->errors++;
    flight_free(f);
}

static void receive(struct ucxc *c, struct ucxc_key *k, void *data, void *to,
                    size_t len)
{
    struct flight *f = flight_new(c);
    ucp_request_param_t q = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                        UCP_OP_ATTR_FIELD_USER_DATA |
                        UCP_OP_ATTR_FLAG_NO_IMM_CMPL,
        .cb.recv_am = received,
        .user_data = f,
    };
    ucs_status_ptr_t r;

    f->key = k;
    f->len = len;
    r = ucp_am_recv_data_nbx(c->worker, data, to, len, &q);
    if (!UCS_PTR_IS_PTR(r))
        received(NULL, UCS_PTR_STATUS(r), len, f);
}

static ucs_status_t arrived(void *arg, const void *header, size_t header_len,
                            void *data, size_t len,
                            const ucp_am_recv_param_t *param)
{
    struct ucxc *c = arg;
    struct wire_frame f;
    struct ucxc_key *k;

    MUST(header_len == sizeof(f));
    memcpy(&f, header, sizeof(f));
    MUST(f.magic == WIRE_MAGIC);
    if (f.kind != WIRE_DATA) {
        MUST(len <= sizeof(c->body));
        c->reply = f;
        memcpy(c->body, data, len);
        c->body_len = len;
        c->replies++;
        return UCS_OK;
    }
    MUST(f.data_idx < UCXC_KEYS && f.data_len == len);
    k = &c->keys[f.data_idx];
    MUST(f.data_off + len <= k->room);
    k->parts++;
    if (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) {
        k->rndvs++;
        receive(c, k, data, k->to + f.data_off, len);
    } else {
        memcpy(k->to + f.data_off, data, len);
        k->moved += len;
    }
    return UCS_OK;
}

static void ended(void *arg, ucp_ep_h ep, ucs_status_t s)
{
    struct ucxc *c = arg;

    (void)ep, (void)s;
    c->failed = true;
}

void ucxc_open(struct ucxc *c, uint16_t port)
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    ucp_params_t p = {
        .field_mask = UCP_PARAM_FIELD_FEATURES,
        .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
    };
    ucp_worker_params_t w = {
        .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
        .thread_mode = UCS_THREAD_MODE_SINGLE,
    };
    ucp_am_handler_param_t a = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID |
                      UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = UCX_AM_REPLY,
        .cb = arrived,
        .arg = c,
    };
    ucp_ep_params_t e = {
        .field_mask = UCP_EP_PARAM_FIELD_FLAGS | UCP_EP_PARAM_FIELD_SOCK_ADDR |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER |
                      UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE,
        .flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER,
        .sockaddr = {(struct sockaddr *)(void *)&sa, sizeof(sa)},
        .err_handler = {ended, c},
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
    };

    memset(c, 0, sizeof(*c));
    MUST(ucp_init(&p, NULL, &c->context) == UCS_OK);
    MUST(ucp_worker_create(c->context, &w, &c->worker) == UCS_OK);
    MUST(ucp_worker_set_am_recv_handler(c->worker, &a) == UCS_OK);
    MUST(ucp_ep_create(c->worker, &e, &c->ep) == UCS_OK);
}

void ucxc_close(struct ucxc *c)
{
    ucp_request_param_t q = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
        .flags = UCP_EP_CLOSE_FLAG_FORCE,
    };

    ucs_status_ptr_t r = ucp_ep_close_nbx(c->ep, &q);

    while (UCS_PTR_IS_PTR(r) && ucp_request_check_status(r) == UCS_INPROGRESS)
        ucp_worker_progress(c->worker);
    if (UCS_PTR_IS_PTR(r))
        ucp_request_free(r);
    while (c->busy > 0)
        ucp_worker_progress(c->worker);
    ucp_worker_destroy(c->worker);
    ucp_cleanup(c->context);
    memset(c, 0, sizeof(*c));
}

unsigned ucxc_progress(struct ucxc *c)
{
    return ucp_worker_progress(c->worker);
}

void ucxc_raw(struct ucxc *c, const void *header, size_t header_len,
              const void *p, size_t n, unsigned flags)
{
    struct flight *f = flight_new(c);
    ucp_request_param_t q = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK |
                        UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS,
        .flags = flags,
        .cb.send = sent,
        .user_data = f,
    };
    ucs_status_ptr_t r;

    MUST(header_len <= sizeof(f->header));
    memcpy(f->header, header, header_len);
    r = ucp_am_send_nbx(c->ep, UCX_AM_REQUEST, f->header, header_len, p, n, &q);
    if (!UCS_PTR_IS_PTR(r))
        sent(NULL, UCS_PTR_STATUS(r), f);
}

void ucxc_request(struct ucxc *c, uint64_t req, uint16_t op, const void *p,
                  uint32_t env_len, uint64_t data_len)
{
    struct wire_frame f = {
        .kind = WIRE_REQUEST,
        .op = op,
        .req = req,
        .env_len = env_len,
        .data_len = data_len,
        .deadline_us = 1000000,
    };

    frame_seal(&f, p, env_len);
    ucxc_raw(c, &f, sizeof(f), p, env_len + (size_t)data_len,
             UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER);
}

void ucxc_data(struct ucxc *c, uint64_t req, uint32_t idx, const void *p,
               uint64_t len)
{
    struct wire_frame f = {
        .kind = WIRE_DATA,
        .op = OP_PUT,
        .req = req,
        .data_len = len,
        .data_idx = idx,
    };

    frame_seal(&f, NULL, 0);
    ucxc_raw(c, &f, sizeof(f), p, len,
             UCP_AM_SEND_FLAG_REPLY |
                 (len > WIRE_EAGER_MAX ? UCP_AM_SEND_FLAG_RNDV
                                       : UCP_AM_SEND_FLAG_EAGER));
}
