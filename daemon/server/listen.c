/* SPDX-License-Identifier: Apache-2.0
 *
 * The one way to a listening TCP socket (listen.h). */
#include "server/listen.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static enum err listen_fail(const char *name, const char *host, uint64_t port,
                            const char *doing, struct errmsg *m)
{
    int error = errno;
    bool taken = error == EADDRINUSE;

    return errmsg_set(m, taken ? ERR_BUSY : ERR_IO,
                      "%s: cannot %s %s port %" PRIu64 ": %s; fix: %s %s%s",
                      name, doing, host, port, strerror(error),
                      taken ? "stop what uses the port, or set" : "set", name,
                      taken ? ".port" : ".host to an address of this machine");
}

/* No name service at boot: addresses, and the one name that is always here. */
static enum err listen_address(const char *name, const char *host,
                               uint64_t port, struct addrinfo **out,
                               struct errmsg *m)
{
    struct addrinfo hints = {.ai_flags =
                                 AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
                             .ai_socktype = SOCK_STREAM};
    char service[8];
    int rc;

    if (strcmp(host, "localhost") == 0)
        host = "127.0.0.1";
    snprintf(service, sizeof(service), "%u", (unsigned)(uint16_t)port);
    rc = getaddrinfo(host, service, &hints, out);
    if (rc)
        return errmsg_set(m, ERR_CONFIG,
                          "%s.host: \"%s\": %s; allowed: an IPv4 or "
                          "IPv6 address or localhost",
                          name, host, gai_strerror(rc));
    return OK;
}

enum err listen_tcp(const char *name, const char *host, uint64_t port,
                    int backlog, int *fd_out, struct errmsg *m)
{
    struct addrinfo *to = NULL;
    enum err e = listen_address(name, host, port, &to, m);
    int fd, on = 1;

    if (e)
        return e;
    fd = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0)
        e = listen_fail(name, host, port, "make a socket for", m);
    else if (bind(fd, to->ai_addr, to->ai_addrlen) != 0)
        e = listen_fail(name, host, port, "bind", m);
    else if (listen(fd, backlog) != 0)
        e = listen_fail(name, host, port, "listen at", m);
    freeaddrinfo(to);
    if (!e)
        *fd_out = fd;
    else if (fd >= 0)
        close(fd);
    return e;
}
