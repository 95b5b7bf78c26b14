/* SPDX-License-Identifier: Apache-2.0
 *
 * sd_notify as its manual page describes it: AF_UNIX datagrams, "@" stands for
 * the NUL byte of an abstract address. Sends never block: a full queue is
 * ERR_IO and the next call says it again. Newlines in a status would start a
 * new variable and are replaced. */
#include "server/notify.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fault.h"
#include "server/files.h"

enum { NOTIFY_BYTES = 512 };

static bool address(const char *path, struct sockaddr_un *addr, socklen_t *len)
{
    size_t n = strlen(path);

    if ((path[0] != '/' && path[0] != '@') || n < 2 ||
        n >= sizeof(addr->sun_path))
        return false;
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(addr->sun_path, path, n);
    if (path[0] == '@')
        addr->sun_path[0] = '\0';
    /* An abstract name has no NUL at its end: the length says where it is. */
    *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n +
                       (path[0] == '/'));
    return true;
}

static uint64_t watchdog_of(const char *usec, const char *pid)
{
    if (!usec || (pid && strtol(pid, NULL, 10) != (long)getpid()))
        return 0;
    return strtoull(usec, NULL, 10);
}

enum err notify_open(struct notify *n, const char *path,
                     const char *watchdog_usec, const char *watchdog_pid,
                     struct errmsg *m)
{
    struct sockaddr_un addr;
    socklen_t len;
    int fd;

    *n = (struct notify){.fd = -1};
    if (!path || !*path)
        return OK;
    if (!address(path, &addr, &len))
        return errmsg_set(m, ERR_CONFIG,
                          "NOTIFY_SOCKET: \"%.200s\" is not an address; "
                          "allowed: /path or @name",
                          path);
    fd = fault_here("notify_socket")
             ? (errno = EMFILE, -1)
             : socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, len) != 0) {
        int error = errno;

        close(fd);
        fd = -1;
        errno = error;
    }
    if (fd < 0)
        return errmsg_set(m, ERR_IO, "NOTIFY_SOCKET: %.200s: %s", path,
                          strerror(errno));
    n->fd = fd;
    n->watchdog_us = watchdog_of(watchdog_usec, watchdog_pid);
    return OK;
}

void notify_close(struct notify *n)
{
    if (n->fd > 0)
        close(n->fd);
    *n = (struct notify){.fd = -1};
}

static enum err notify_send(struct notify *n, const char *text)
{
    ssize_t sent;

    /* 0 is stdin, never ours: a zeroed struct is silent. */
    if (n->fd <= 0)
        return OK;
    do
        sent = fault_here("notify_send")
                   ? (errno = ENOBUFS, -1)
                   : send(n->fd, text, strlen(text), MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? ERR_IO : OK;
}

static enum err send_status(struct notify *n, const char *head,
                            const char *status)
{
    char text[NOTIFY_BYTES];
    int at = snprintf(text, sizeof(text), "%sSTATUS=", head);

    snprintf(text + at, sizeof(text) - (size_t)at, "%s", status);
    for (char *p = text + at; *p; p++) {
        if (*p == '\n')
            *p = ' ';
    }
    return notify_send(n, text);
}

enum err notify_ready(struct notify *n, const char *status)
{
    return send_status(n, "READY=1\n", status);
}

enum err notify_reloading(struct notify *n)
{
    char text[64];

    snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
             files_mono_ns() / 1000);
    return notify_send(n, text);
}

enum err notify_stopping(struct notify *n, const char *status)
{
    return send_status(n, "STOPPING=1\n", status);
}

enum err notify_status(struct notify *n, const char *status)
{
    return send_status(n, "", status);
}

enum err notify_watchdog(struct notify *n)
{
    return notify_send(n, "WATCHDOG=1");
}

enum err notify_extend(struct notify *n, uint64_t more_us)
{
    char text[64];

    snprintf(text, sizeof(text), "EXTEND_TIMEOUT_USEC=%" PRIu64, more_us);
    return notify_send(n, text);
}
