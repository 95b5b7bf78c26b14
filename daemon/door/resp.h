/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands of Redis clients (RESP2) out of a buffer of bytes, however they were
 * cut. Pure: no socket, no memory of its own, same bytes same answers.
 *
 *     HEAD --"*n"--> LENGTH --"$len"--> BYTES --> LENGTH ... --> COMMAND
 *      |                |
 *      |                +-- longer than arg_max: VALUE --resp_value--> TAIL
 *      |                |                             \-resp_inside-> BYTES
 *      +--any other line: words of an inline command --> COMMAND
 *
 * The caller has a buffer that begins where a command begins and grows at its
 * end; it calls resp_next with all of it, again and again, and each byte is
 * looked at once. Arguments are named by their place in the buffer. Of one that
 * is longer than arg_max the caller is told before its bytes come, and has two
 * choices. resp_inside: it is an argument like others. Or it is a value, whose
 * bytes never enter the buffer: the caller takes them from where buf + at
 * points (what is there already, then from its socket), removes them, and says
 * resp_value; the line end follows at `at`.
 *
 * Invariants
 *  1. at never passes the length given, every argument lies below it.
 *  2. After BAD nothing more is parsed: the peer's bytes have lost their frame.
 *  3. MORE is answered only if bytes beyond the length given can change it; the
 *     caller bounds the buffer.
 *
 * Inline commands ("GET key\r\n") are for people with telnet: blanks separate,
 * "..." with \n \r \t \b \a \xHH \" \\ and '...' with \' group. They are
 * unescaped in place. */
#ifndef DOOR_RESP_H
#define DOOR_RESP_H

#include "base/base.h"

enum {
    RESP_OUTSIDE = UINT32_MAX, /* off of the argument that is a value */
    RESP_LINE_MAX = 64,        /* of "*n" and "$len", without the line end */
    RESP_TEXT = 96,
};

enum resp_got {
    RESP_MORE,    /* the command is not whole */
    RESP_COMMAND, /* args[0..n) of at bytes; n may be 0: nothing to do */
    RESP_VALUE,   /* argument n has len bytes and begins at `at` */
    RESP_BAD,     /* why says what is wrong, as Redis would */
};

struct resp_limits {
    uint32_t args_max;
    uint32_t arg_max;        /* of an argument that is not asked about */
    uint32_t inline_max;     /* of an inline command */
    uint64_t value_max;      /* of any argument */
    const char *value_error; /* why, for a longer one */
};

struct resp_arg {
    uint32_t off, len; /* in the buffer; off RESP_OUTSIDE: len is 0 */
};

enum resp_state {
    RESP_HEAD,
    RESP_LENGTH,
    RESP_BYTES,
    RESP_OUT,  /* VALUE was answered */
    RESP_TAIL, /* its line end */
    RESP_BROKEN,
};

struct resp {
    const struct resp_limits *limits;
    struct resp_arg *args; /* of the caller: limits->args_max of them */
    enum resp_state state;
    uint32_t n, want;
    uint32_t at;   /* bytes of the command that are done with */
    uint32_t seen; /* bytes behind at without a line end */
    uint64_t len;  /* of the argument under way */
    char why[RESP_TEXT];
};

/* Before each command. Keeps limits and args. */
void resp_begin(struct resp *r);
enum resp_got resp_next(struct resp *r, uint8_t *buf, size_t len);
/* The argument that VALUE told of has been taken out, or is to come inside. */
void resp_value(struct resp *r);
void resp_inside(struct resp *r);

/* Is the argument this word, in any case? */
bool resp_is(const void *arg, size_t len, const char *word);
/* A whole decimal number; resp_int's may begin with '-'. */
bool resp_int(const void *arg, size_t len, int64_t *out);
bool resp_u64(const void *arg, size_t len, uint64_t *out);
/* MATCH of SCAN: * ? [abc] [^a-z] and \ before any of them. Bounded time. */
bool resp_match(const uint8_t *pat, size_t pat_len, const uint8_t *s,
                size_t len);

#endif
