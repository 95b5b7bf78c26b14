/* SPDX-License-Identifier: Apache-2.0
 *
 * Keeps UCX's tcp from aborting the daemon when a client dies while bytes are
 * sent to it. Two places in libuct (1.13.1, and still in its main branch) do
 * not survive that send() fails before recv() does, and abort by assertion (a
 * build without assertions completes a request twice):
 *
 *   uct_tcp_ep_sendv()           a zero-copy send that had to wait is completed
 *                                by the purge of the endpoint and once more
 *   uct_tcp_ep_handle_put_ack()  an acknowledgement read in the same go as the
 *                                failed send finds nothing to acknowledge
 *
 * The first is certain when a client dies with requests unread in the socket
 * while pieces wait for room in it (test_transport_ucx_bad, KILL_PUSH_UNREAD).
 * tests/e2e/rndv_kill met each once in 600 kills in the middle of rendezvous;
 * with this file neither in 600.
 *
 * Both need the failed send. libuct calls libucs to send, so the daemon defines
 * the two functions itself, calls libucs's, and turns an error of a dead
 * connection into "no progress": the kernel reports the same socket as readable
 * (and hung up), recv() gives the error or the end on UCX's next poll, and that
 * way of ending an endpoint is sound.
 *
 * An executable's own symbols come before those of libraries; the linker makes
 * them visible because libucs, on the same command line, defines them too.
 * ucx_sock_check() says if that worked. libpikv must not do this to its host
 * process and does not contain this file. */
#include <dlfcn.h>
#include <string.h>
#include <sys/uio.h>
#include <ucs/sys/sock.h>

#include "base/base.h"
#include "rpc/transport_ucx_int.h"

typedef ucs_status_t send_fn(int fd, const void *data, size_t *length_p);
typedef ucs_status_t sendv_fn(int fd, struct iovec *iov, size_t iov_cnt,
                              size_t *length_p);

/* The function of that name behind ours, looked up once by whoever comes first;
 * lanes that come at the same time find the same. */
static void *symbol_next(void **cache, const char *name)
{
    void *p = __atomic_load_n(cache, __ATOMIC_RELAXED);

    if (!p) {
        p = dlsym(RTLD_NEXT, name);
        MUST(p); /* libucs is a library of ours */
        __atomic_store_n(cache, p, __ATOMIC_RELAXED);
    }
    return p;
}

static ucs_status_t send_status(ucs_status_t s, size_t *length_p)
{
    if (s == UCS_OK || s == UCS_ERR_NO_PROGRESS)
        return s;
    *length_p = 0;
    return UCS_ERR_NO_PROGRESS;
}

__attribute__((visibility("default"))) ucs_status_t
ucs_socket_send_nb(int fd, const void *data, size_t *length_p)
{
    static void *cache;
    void *p = symbol_next(&cache, "ucs_socket_send_nb");
    send_fn *next;

    memcpy(&next, &p, sizeof(next)); /* as POSIX has it */
    return send_status(next(fd, data, length_p), length_p);
}

__attribute__((visibility("default"))) ucs_status_t
ucs_socket_sendv_nb(int fd, struct iovec *iov, size_t iov_cnt, size_t *length_p)
{
    static void *cache;
    void *p = symbol_next(&cache, "ucs_socket_sendv_nb");
    sendv_fn *next;

    memcpy(&next, &p, sizeof(next));
    return send_status(next(fd, iov, iov_cnt, length_p), length_p);
}

bool ucx_sock_check(void)
{
    sendv_fn *own = ucs_socket_sendv_nb;
    void *seen = dlsym(RTLD_DEFAULT, "ucs_socket_sendv_nb");

    return memcmp(&own, &seen, sizeof(own)) == 0;
}
