/* SPDX-License-Identifier: Apache-2.0
 *
 * libucp at run time: every function that conn_ucx.c calls, found by name in
 * the library that ucx_load() opens. libpikv never links UCX. The list is the
 * only place where a name stands; types come from UCX's header. */
#ifndef CLIENT_UCX_API_H
#define CLIENT_UCX_API_H

#include <ucp/api/ucp.h>

#include "base/base.h"

#define UCX_FUNCTIONS(F)                                                       \
    F(ucp_config_read)                                                         \
    F(ucp_config_modify)                                                       \
    F(ucp_config_release)                                                      \
    F(ucp_init_version)                                                        \
    F(ucp_cleanup)                                                             \
    F(ucp_worker_create)                                                       \
    F(ucp_worker_destroy)                                                      \
    F(ucp_worker_progress)                                                     \
    F(ucp_worker_get_efd)                                                      \
    F(ucp_worker_arm)                                                          \
    F(ucp_worker_set_am_recv_handler)                                          \
    F(ucp_ep_create)                                                           \
    F(ucp_ep_close_nbx)                                                        \
    F(ucp_am_send_nbx)                                                         \
    F(ucp_am_recv_data_nbx)                                                    \
    F(ucp_request_check_status)                                                \
    F(ucp_request_free)

struct ucx_api {
    void *lib;
#define UCX_MEMBER(name) __typeof__(name) *name;
    UCX_FUNCTIONS(UCX_MEMBER)
#undef UCX_MEMBER
};

/* false, with words in pikv_last_error: not there, or too old. The host's
 * signal handlers are as before when it returns. */
bool ucx_load(struct ucx_api *api);

#endif
