/* SPDX-License-Identifier: Apache-2.0
 *
 * Names and words of the codes in errors.tbl, and the message buffer of cold
 * paths. Switches, not arrays: codes come from the wire and from callers, so
 * any int must be answered. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *err_name(int code)
{
    switch (code) {
    case OK:
        return "OK";
#define ERR(name, code, who, text)                                             \
    case code:                                                                 \
        return #name;
#include "proto/errors.tbl"
    }
    return "UNKNOWN";
}

const char *err_text(int code)
{
    switch (code) {
    case OK:
        return "done";
#define ERR(name, code, who, text)                                             \
    case code:                                                                 \
        return text;
#include "proto/errors.tbl"
    }
    return "a code this version does not know";
}

/* A code from a newer peer is nothing a program can act on. */
enum err_who err_who(int code)
{
    switch (code) {
    case OK:
        return WHO_NOBODY;
#define ERR(name, code, who, text)                                             \
    case code:                                                                 \
        return WHO_##who;
#include "proto/errors.tbl"
    }
    return WHO_GIVEUP;
}

const char *err_who_text(enum err_who who)
{
    switch (who) {
    case WHO_NOBODY:
        return "nobody: a normal answer";
    case WHO_RETRY:
        return "retry: the same call later";
    case WHO_OTHER:
        return "other: another node or a fresh view";
    case WHO_GIVEUP:
        return "give up: a person must act";
    }
    return "unknown";
}

enum err errmsg_set(struct errmsg *m, enum err e, const char *fmt, ...)
{
    va_list ap;

    if (!m)
        return e;
    va_start(ap, fmt);
    vsnprintf(m->text, sizeof(m->text), fmt, ap);
    va_end(ap);
    return e;
}

/* What does not fit is cut from the end: the prefix is worth more. */
enum err errmsg_wrap(struct errmsg *m, enum err e, const char *fmt, ...)
{
    struct errmsg old;
    size_t used, n;
    va_list ap;

    if (!m)
        return e;
    old = *m;
    va_start(ap, fmt);
    vsnprintf(m->text, sizeof(m->text) - 2, fmt, ap);
    va_end(ap);
    used = strlen(m->text);
    memcpy(m->text + used, ": ", 3);
    used += 2;
    n = min_u64(strlen(old.text), sizeof(m->text) - 1 - used);
    memcpy(m->text + used, old.text, n);
    m->text[used + n] = '\0';
    return e;
}
