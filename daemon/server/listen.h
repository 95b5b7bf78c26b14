/* SPDX-License-Identifier: Apache-2.0
 *
 * Listening TCP sockets (shell): of admin and of the door for Redis clients.
 * Main thread, at boot. */
#ifndef SERVER_LISTEN_H
#define SERVER_LISTEN_H

#include "base/err.h"

/* Binds and listens, without blocking. name: "listen.admin", of the settings
 * that messages tell of. host: an address or "localhost", no name service.
 * ERR_BUSY: the port is taken; ERR_CONFIG: host is no address. */
must_check enum err listen_tcp(const char *name, const char *host,
                               uint64_t port, int backlog, int *fd_out,
                               struct errmsg *m);

#endif
