/* SPDX-License-Identifier: Apache-2.0
 *
 * The end of a MUST that did not hold. Written with write(2) only: the state
 * of the process is unknown, and it may be inside a signal handler. The hook
 * runs once, so that a MUST that fails inside it still ends in abort(). */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void (*must_hook)(void);

void must_hook_set(void (*hook)(void))
{
    __atomic_store_n(&must_hook, hook, __ATOMIC_RELEASE);
}

static void must_say(const char *text)
{
    /* Nothing can be done about a stderr that does not take it. */
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return;
}

static const char *must_line(int line, char buf[12])
{
    char *p = buf + 11;

    *p = '\0';
    do {
        *--p = (char)('0' + line % 10);
        line /= 10;
    } while (line > 0 && p > buf);
    return p;
}

void must_failed(const char *cond, const char *file, int line)
{
    void (*hook)(void) =
        __atomic_exchange_n(&must_hook, NULL, __ATOMIC_ACQ_REL);
    char buf[12];

    must_say("<2>must file=");
    must_say(file);
    must_say(":");
    must_say(must_line(line, buf));
    must_say(" failed=\"");
    must_say(cond);
    must_say("\"\n");
    if (hook)
        hook();
    abort();
}
