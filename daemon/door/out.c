/* SPDX-License-Identifier: Apache-2.0
 *
 * Replies of a connection, in order: text in a buffer that grows and is given
 * back when it is empty, and values that lie in the registered memory, written
 * to the socket from there. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "base/fault.h"
#include "door/impl.h"

enum { TEXT_MIN = 4096, TEXT_KEEP = 64 << 10, IOVS = 64 };

static struct piece *piece_last(struct out *o)
{
    return o->n ? &o->pieces[(o->first + o->n - 1) % DOOR_PIECES] : NULL;
}

static struct piece *piece_add(struct out *o)
{
    MUST(o->n < DOOR_PIECES); /* out_full keeps room for what a step adds */
    return &o->pieces[(o->first + o->n++) % DOOR_PIECES];
}

static bool text_room(struct out *o, uint64_t n)
{
    uint64_t cap = o->cap ? o->cap : TEXT_MIN;
    uint8_t *text;

    if (n <= o->cap - o->end)
        return true;
    if (o->begin) {
        memmove(o->text, o->text + o->begin, o->end - o->begin);
        o->end -= o->begin;
        o->begin = 0;
    }
    while (cap - o->end < n)
        cap *= 2;
    if (cap > UINT32_MAX || fault_here("door_text"))
        return false;
    if (cap == o->cap)
        return true;
    text = realloc(o->text, cap);
    if (!text)
        return false;
    o->text = text;
    o->cap = (uint32_t)cap;
    return true;
}

void out_raw(struct conn *c, const void *p, uint64_t n)
{
    struct out *o = &c->out;
    struct piece *last = piece_last(o);

    if (o->broken || n == 0)
        return;
    if (!text_room(o, n)) {
        o->broken = true;
        return;
    }
    if (o->bytes == 0)
        c->out_ms = door_now_ms(c->door);
    memcpy(o->text + o->end, p, n);
    o->end += (uint32_t)n;
    o->bytes += n;
    if (last && !last->room.n)
        last->len += n;
    else
        *piece_add(o) = (struct piece){.len = n};
}

void out_text(struct conn *c, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    MUST(n >= 0 && (size_t)n < sizeof(text));
    out_raw(c, text, (uint64_t)n);
}

/* One line, whatever a client's words in it are. */
void out_error(struct conn *c, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    size_t n;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    n = strlen(text);
    for (size_t i = 0; i < n; i++)
        if (text[i] < ' ' || text[i] > '~')
            text[i] = '?';
    metric_add(&c->door->metrics->resp_errors, 1);
    out_raw(c, "-", 1);
    out_raw(c, text, n);
    out_raw(c, "\r\n", 2);
}

void out_code(struct conn *c, int code)
{
    if (code == PIKV_BUSY || code == PIKV_NO_SPACE || code == PIKV_NO_MEMORY)
        out_error(c, "OOM command not allowed now: %s: %s",
                  pikv_error_name(code), pikv_error_text(code));
    else
        out_error(c, "ERR %s: %s", pikv_error_name(code),
                  pikv_error_text(code));
}

void out_head(struct conn *c, char kind, uint64_t n)
{
    char text[24];
    uint32_t at = sizeof(text);

    text[--at] = '\n';
    text[--at] = '\r';
    do {
        text[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n);
    text[--at] = kind;
    out_raw(c, text + at, sizeof(text) - at);
}

void out_int(struct conn *c, int64_t v)
{
    if (v < 0)
        out_text(c, ":%lld\r\n", (long long)v);
    else
        out_head(c, ':', (uint64_t)v);
}

void out_nil(struct conn *c)
{
    if (c->resp3)
        out_raw(c, "_\r\n", 3);
    else
        out_raw(c, "$-1\r\n", 5);
}

void out_map(struct conn *c, uint64_t n)
{
    out_head(c, c->resp3 ? '%' : '*', c->resp3 ? n : 2 * n);
}

void out_bulk(struct conn *c, const void *p, uint64_t n)
{
    out_head(c, '$', n);
    out_raw(c, p, n);
    out_raw(c, "\r\n", 2);
}

void out_room(struct conn *c, struct room *room, uint64_t len)
{
    struct space *s = &c->door->space;

    if (len <= DOOR_COPY_MAX) {
        out_bulk(c, space_at(s, room), len);
        door_give(c->door, room);
        return;
    }
    out_head(c, '$', len);
    *piece_add(&c->out) = (struct piece){.len = len, .room = *room};
    space_trim(s, &piece_last(&c->out)->room, len);
    *room = (struct room){0};
    c->out.bytes += len;
    out_raw(c, "\r\n", 2);
}

/* A step adds at most three pieces an item, and a few bytes of text. */
bool out_full(const struct conn *c)
{
    return c->out.bytes > c->door->cfg.listen.resp.output_bytes ||
           c->out.n + 3 * DOOR_BATCH + 4 > DOOR_PIECES;
}

/* ---- Writing ---- */

static uint32_t out_iovs(const struct conn *c, struct iovec iov[IOVS])
{
    const struct out *o = &c->out;
    uint32_t n = o->n < IOVS ? o->n : IOVS, text = o->begin;

    for (uint32_t i = 0; i < n; i++) {
        const struct piece *p = &o->pieces[(o->first + i) % DOOR_PIECES];

        if (p->room.n) {
            iov[i].iov_base = space_at(&c->door->space, &p->room) + p->off;
            iov[i].iov_len = p->len - p->off;
        } else {
            iov[i].iov_base = o->text + text;
            iov[i].iov_len = p->len;
            text += (uint32_t)p->len;
        }
    }
    return n;
}

static void out_sent(struct conn *c, uint64_t n)
{
    struct out *o = &c->out;

    o->bytes -= n;
    while (n) {
        struct piece *p = &o->pieces[o->first];
        uint64_t part = min_u64(n, p->len - p->off);

        n -= part;
        if (p->room.n) {
            p->off += part;
        } else {
            p->len -= part;
            o->begin += (uint32_t)part;
        }
        if (p->off < p->len)
            break;
        if (p->room.n)
            door_give(c->door, &p->room);
        o->first = (o->first + 1) % DOOR_PIECES;
        o->n--;
    }
    if (o->begin == o->end)
        o->begin = o->end = 0;
    if (!o->bytes && o->cap > TEXT_KEEP) {
        free(o->text);
        o->text = NULL;
        o->cap = 0;
    }
}

bool out_flush(struct conn *c)
{
    struct iovec iov[IOVS];

    while (c->out.bytes && !c->out.broken) {
        uint32_t n = out_iovs(c, iov);
        ssize_t sent = writev(c->fd, iov, (int)n);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return errno == EAGAIN;
        c->out_ms = door_now_ms(c->door);
        metric_add(&c->door->metrics->resp_bytes_out, (uint64_t)sent);
        out_sent(c, (uint64_t)sent);
    }
    return !c->out.broken;
}

void out_fini(struct conn *c)
{
    struct out *o = &c->out;

    for (; o->n; o->n--, o->first = (o->first + 1) % DOOR_PIECES)
        if (o->pieces[o->first].room.n)
            door_give(c->door, &o->pieces[o->first].room);
    free(o->text);
    o->text = NULL;
}
