/* SPDX-License-Identifier: Apache-2.0
 *
 * See resp_feed.h. */
#include "lib/resp_feed.h"

#include <string.h>

void resp_feed_init(struct resp_feed *f)
{
    memset(f, 0, sizeof(*f));
    f->limits = (struct resp_limits){.args_max = FEED_ARGS,
                                     .arg_max = 16,
                                     .inline_max = 64,
                                     .value_max = 4096,
                                     .value_error = "too long"};
    f->resp.limits = &f->limits;
    f->resp.args = f->args;
    resp_begin(&f->resp);
}

static void say(struct resp_feed *f, const void *p, size_t n)
{
    if (n > FEED_LOG - 1 - f->log_len)
        n = FEED_LOG - 1 - f->log_len;
    memcpy(f->log + f->log_len, p, n);
    f->log_len += n;
}

static void say_arg(struct resp_feed *f, const struct resp_arg *a)
{
    say(f, "|", 1);
    if (a->off == RESP_OUTSIDE) {
        MUST(a->len == 0 && f->value_got == f->value_len);
        say(f, "{", 1);
        say(f, f->value, f->value_len);
        say(f, "}", 1);
        return;
    }
    MUST((uint64_t)a->off + a->len <= f->resp.at);
    say(f, f->buf + a->off, a->len);
}

static void command(struct resp_feed *f)
{
    struct resp *r = &f->resp;

    MUST(r->n <= r->limits->args_max && r->at <= f->len);
    say(f, "[", 1);
    for (uint32_t i = 0; i < r->n; i++)
        say_arg(f, &r->args[i]);
    say(f, "]", 1);
    f->commands++;
    f->has_value = false;
    memmove(f->buf, f->buf + r->at, f->len - r->at);
    f->len -= r->at;
    resp_begin(r);
}

static void ended(struct resp_feed *f, const char *why)
{
    f->ended = true;
    say(f, "!", 1);
    say(f, why, strlen(why));
}

/* Bytes of the value: how many were taken. */
static size_t value(struct resp_feed *f, const uint8_t *p, size_t n)
{
    size_t part = (size_t)min_u64(n, f->value_len - f->value_got);

    memcpy(f->value + f->value_got, p, part);
    f->value_got += part;
    f->in_value = f->value_got < f->value_len;
    if (!f->in_value)
        resp_value(&f->resp);
    return part;
}

static void value_begin(struct resp_feed *f)
{
    size_t at = f->resp.at, part;

    if (f->has_value) {
        resp_inside(&f->resp);
        return;
    }
    f->has_value = true;
    MUST(f->resp.len <= f->limits.value_max && f->resp.len > 16);
    f->value_len = f->resp.len;
    f->value_got = 0;
    f->in_value = true;
    part = value(f, f->buf + at, f->len - at);
    memmove(f->buf + at, f->buf + at + part, f->len - at - part);
    f->len -= part;
}

static bool step(struct resp_feed *f)
{
    enum resp_got got = resp_next(&f->resp, f->buf, f->len), again;

    /* Asked again it says the same. */
    again = resp_next(&f->resp, f->buf, f->len);
    MUST(got == again);
    switch (got) {
    case RESP_MORE:
        return false;
    case RESP_COMMAND:
        command(f);
        return true;
    case RESP_VALUE:
        value_begin(f);
        return !f->in_value;
    case RESP_BAD:
        ended(f, f->resp.why);
        return false;
    }
    return false;
}

void resp_feed(struct resp_feed *f, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;

    while (n && !f->ended) {
        size_t part;

        if (f->in_value) {
            part = value(f, p, n);
        } else {
            part = (size_t)min_u64(n, FEED_BUF - f->len);
            memcpy(f->buf + f->len, p, part);
            f->len += part;
        }
        p += part;
        n -= part;
        if (f->in_value)
            continue;
        while (step(f))
            ;
        if (!f->ended && !f->in_value && f->len == FEED_BUF)
            ended(f, "full");
    }
}
