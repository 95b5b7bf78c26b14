/* SPDX-License-Identifier: Apache-2.0
 *
 * The service manager's notify protocol (sd_notify) without libsystemd: one
 * datagram of VARIABLE=value lines to the socket in $NOTIFY_SOCKET. Shell;
 * control thread. Without that variable every call does nothing, so that pikvd
 * runs the same from a shell. A failed send is only reported: a service manager
 * that does not listen is no reason to stop serving.
 *
 * WATCHDOG=1 is the caller's promise that every lane ticked since the last. */
#ifndef SERVER_NOTIFY_H
#define SERVER_NOTIFY_H

#include "base/err.h"

struct notify {
    int fd;               /* connected datagram socket, -1: nobody to tell */
    uint64_t watchdog_us; /* $WATCHDOG_USEC for this pid, 0: none */
};

/* path: the value of NOTIFY_SOCKET ("/..." or "@abstract"), NULL or "": none.
 * watchdog_usec, watchdog_pid: the texts of those variables, or NULL.
 * ERR_CONFIG: not an address; ERR_IO: no socket there. n is usable (silent) in
 * any case. */
must_check enum err notify_open(struct notify *n, const char *path,
                                const char *watchdog_usec,
                                const char *watchdog_pid, struct errmsg *m);
void notify_close(struct notify *n); /* accepts zeros */

enum err notify_ready(struct notify *n, const char *status);
/* Then READY again when the reload is done, whatever it came to. */
enum err notify_reloading(struct notify *n);
enum err notify_stopping(struct notify *n, const char *status);
enum err notify_status(struct notify *n, const char *status);
enum err notify_watchdog(struct notify *n);
/* Start or stop may take this much longer from now. */
enum err notify_extend(struct notify *n, uint64_t more_us);

#endif
