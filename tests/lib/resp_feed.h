/* SPDX-License-Identifier: Apache-2.0
 *
 * Feeds bytes to door/resp.h the way the door does, in pieces of any size, and
 * writes down what comes out: "[|SET|k|v]" for a command, "{bytes}" for a
 * value in its place, "!why" for the end. The first long argument of a command
 * is a value, others come inside. */
#ifndef TESTS_RESP_FEED_H
#define TESTS_RESP_FEED_H

#include "door/resp.h"

enum { FEED_ARGS = 64, FEED_BUF = 8192, FEED_LOG = 1 << 16 };

struct resp_feed {
    struct resp_limits limits;
    struct resp resp;
    struct resp_arg args[FEED_ARGS];
    uint8_t buf[FEED_BUF];
    size_t len;
    uint8_t value[FEED_BUF]; /* of the command under way */
    uint64_t value_len, value_got;
    bool has_value, in_value, ended;
    char log[FEED_LOG];
    size_t log_len;
    uint32_t commands;
};

/* arg_max 16, value_max 4096, args FEED_ARGS, inline 64. */
void resp_feed_init(struct resp_feed *f);
/* Stops at what is bad, and where the buffer is full ("!full"). */
void resp_feed(struct resp_feed *f, const void *p, size_t n);

#endif
