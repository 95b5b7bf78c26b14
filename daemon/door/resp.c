/* SPDX-License-Identifier: Apache-2.0
 *
 * The parser of resp.h, and what arguments mean: numbers, words, patterns. */
#include "door/resp.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

void resp_begin(struct resp *r)
{
    r->state = RESP_HEAD;
    r->n = r->want = r->at = r->seen = 0;
    r->len = 0;
}

void resp_value(struct resp *r)
{
    MUST(r->state == RESP_OUT && r->n < r->want);
    r->args[r->n].off = RESP_OUTSIDE;
    r->args[r->n++].len = 0;
    r->len = 0;
    r->state = RESP_TAIL;
}

void resp_inside(struct resp *r)
{
    MUST(r->state == RESP_OUT);
    r->state = RESP_BYTES;
}

static enum resp_got bad(struct resp *r, const char *why)
{
    snprintf(r->why, sizeof(r->why), "%s", why);
    r->state = RESP_BROKEN;
    return RESP_BAD;
}

/* ---- Lines ---- */

/* The line at r->at, without its end: length, or -1 if it is not whole. next:
 * where it is over. */
static int64_t line_find(struct resp *r, const uint8_t *buf, size_t len,
                         uint32_t *next_out)
{
    const uint8_t *from = buf + r->at + r->seen;
    const uint8_t *lf = memchr(from, '\n', len - r->at - r->seen);
    uint32_t n;

    if (!lf) {
        r->seen = (uint32_t)(len - r->at);
        return -1;
    }
    n = (uint32_t)(lf - buf) - r->at;
    *next_out = r->at + n + 1;
    r->seen = 0;
    return n > 0 && lf[-1] == '\r' ? n - 1 : n;
}

/* Of a line that is not whole one byte more may be its '\r'. */
static bool line_too_long(const struct resp *r, int64_t n, uint32_t max)
{
    return n > (int64_t)max || (n < 0 && r->seen > max + 1);
}

bool resp_u64(const void *arg, size_t len, uint64_t *out)
{
    const uint8_t *p = arg;
    uint64_t v = 0;

    if (len == 0 || len > 20)
        return false;
    for (size_t i = 0; i < len; i++) {
        uint8_t d = (uint8_t)(p[i] - '0');

        if (d > 9 || v > (UINT64_MAX - d) / 10)
            return false;
        v = v * 10 + d;
    }
    *out = v;
    return true;
}

bool resp_int(const void *arg, size_t len, int64_t *out)
{
    const uint8_t *p = arg;
    bool minus = len > 0 && p[0] == '-';
    uint64_t v;

    if (!resp_u64(p + minus, len - minus, &v) || v > INT64_MAX)
        return false;
    *out = minus ? -(int64_t)v : (int64_t)v;
    return true;
}

/* ---- Multibulk ---- */

static enum resp_got head_multi(struct resp *r, const uint8_t *line, size_t n)
{
    int64_t want;

    if (!resp_int(line + 1, n - 1, &want) ||
        want > (int64_t)r->limits->args_max)
        return bad(r, "Protocol error: invalid multibulk length");
    r->want = want > 0 ? (uint32_t)want : 0; /* less is nothing, in Redis */
    r->state = RESP_LENGTH;
    return r->want ? RESP_MORE : RESP_COMMAND;
}

static enum resp_got length_bulk(struct resp *r, const uint8_t *line, size_t n)
{
    uint64_t len;

    if (line[0] != '$') {
        snprintf(r->why, sizeof(r->why),
                 "Protocol error: expected '$', got '%c'",
                 isprint(line[0]) ? line[0] : '?');
        r->state = RESP_BROKEN;
        return RESP_BAD;
    }
    if (!resp_u64(line + 1, n - 1, &len))
        return bad(r, "Protocol error: invalid bulk length");
    r->len = len;
    r->state = len > r->limits->arg_max ? RESP_OUT : RESP_BYTES;
    if (len > r->limits->value_max)
        return bad(r, r->limits->value_error);
    return RESP_MORE;
}

/* "*n" or "$len" at r->at; MORE with r->at moved on: go on. */
static enum resp_got step_line(struct resp *r, uint8_t *buf, size_t len,
                               bool *on_out)
{
    uint32_t next = 0;
    const uint8_t *line = buf + r->at;
    int64_t n = line_find(r, buf, len, &next);

    *on_out = n >= 0;
    if (line_too_long(r, n, RESP_LINE_MAX))
        return bad(r, r->state == RESP_HEAD
                          ? "Protocol error: too big mbulk count string"
                          : "Protocol error: too big bulk count string");
    if (n < 0)
        return RESP_MORE;
    r->at = next;
    if (r->state == RESP_HEAD)
        return head_multi(r, line, (size_t)n);
    if (n == 0)
        return bad(r, "Protocol error: expected '$', got ' '");
    return length_bulk(r, line, (size_t)n);
}

static enum resp_got step_end(struct resp *r)
{
    r->state = RESP_LENGTH;
    return r->n == r->want ? RESP_COMMAND : RESP_MORE;
}

/* The bytes of an argument (none of a value) and their line end. */
static enum resp_got step_bytes(struct resp *r, const uint8_t *buf, size_t len,
                                bool *on_out)
{
    const uint8_t *end = buf + r->at + r->len;

    *on_out = len - r->at >= r->len + 2;
    if (!*on_out)
        return RESP_MORE;
    if (end[0] != '\r' || end[1] != '\n')
        return bad(r, "Protocol error: expected a line end after bulk");
    if (r->state == RESP_BYTES)
        r->args[r->n++] = (struct resp_arg){r->at, (uint32_t)r->len};
    r->at += (uint32_t)r->len + 2;
    return step_end(r);
}

/* ---- Inline ---- */

static int hex(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (uint8_t)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that an escape at p stands for; p is moved behind it. */
static uint8_t unescape(const uint8_t **p, const uint8_t *end)
{
    static const char from[] = "nrtba", to[] = "\n\r\t\b\a";
    const uint8_t *q = *p + 1;
    const char *at = strchr(from, *q);

    *p = q + 1;
    if (*q == 'x' && end - q >= 3 && hex(q[1]) >= 0 && hex(q[2]) >= 0) {
        *p = q + 3;
        return (uint8_t)(hex(q[1]) << 4 | hex(q[2]));
    }
    return at && *q ? (uint8_t)to[at - from] : *q;
}

/* A word in quotes, from behind the first to behind the last: its length, or
 * -1. Written over itself from `to` on. */
static int64_t word_quoted(uint8_t *to, const uint8_t **p, const uint8_t *end,
                           uint8_t quote)
{
    const uint8_t *q = *p, *begin = to;

    while (q < end && *q != quote) {
        bool escaped =
            *q == '\\' && end - q >= 2 && (quote == '"' || q[1] == '\'');

        *to++ = escaped ? unescape(&q, end) : *q++;
    }
    if (q == end || (q + 1 < end && !isspace(q[1])))
        return -1; /* nothing ends it, or something follows at once */
    *p = q + 1;
    return to - begin;
}

/* A word at *p; quotes begin only at its begin or behind plain bytes. */
static int64_t word_take(uint8_t *to, const uint8_t **p, const uint8_t *end)
{
    uint8_t *begin = to;

    while (*p < end && !isspace(**p)) {
        uint8_t c = *(*p)++;
        int64_t n;

        if (c != '"' && c != '\'') {
            *to++ = c;
            continue;
        }
        n = word_quoted(to, p, end, c);
        return n < 0 ? -1 : n + (to - begin);
    }
    return to - begin;
}

static enum resp_got step_inline(struct resp *r, uint8_t *buf, size_t len)
{
    uint32_t next = 0;
    uint8_t *line = buf + r->at;
    int64_t n = line_find(r, buf, len, &next);
    const uint8_t *p = line, *end = line + n;

    if (line_too_long(r, n, r->limits->inline_max))
        return bad(r, "Protocol error: too big inline request");
    if (n < 0)
        return RESP_MORE;
    for (;;) {
        uint8_t *to;
        int64_t word;

        while (p < end && isspace(*p))
            p++;
        if (p == end)
            break;
        if (r->n == r->limits->args_max)
            return bad(r, "Protocol error: too many words");
        to = buf + (p - buf);
        word = word_take(to, &p, end);
        if (word < 0)
            return bad(r, "Protocol error: unbalanced quotes in request");
        r->args[r->n++] =
            (struct resp_arg){(uint32_t)(to - buf), (uint32_t)word};
    }
    r->at = next;
    r->want = r->n;
    r->state = RESP_LENGTH;
    return RESP_COMMAND;
}

/* ---- The whole ---- */

enum resp_got resp_next(struct resp *r, uint8_t *buf, size_t len)
{
    enum resp_got got = RESP_MORE;
    bool on = true;

    MUST(len < UINT32_MAX && r->at <= len);
    while (on && got == RESP_MORE) {
        switch (r->state) {
        case RESP_HEAD:
            if (r->at == len)
                return RESP_MORE;
            if (buf[r->at] != '*')
                return step_inline(r, buf, len);
            got = step_line(r, buf, len, &on);
            break;
        case RESP_LENGTH:
            if (r->n == r->want)
                return RESP_COMMAND; /* asked again */
            got = step_line(r, buf, len, &on);
            break;
        case RESP_BYTES:
        case RESP_TAIL:
            got = step_bytes(r, buf, len, &on);
            break;
        case RESP_OUT:
            return RESP_VALUE;
        case RESP_BROKEN:
            return RESP_BAD;
        }
    }
    return got;
}

/* ---- Words and patterns ---- */

bool resp_is(const void *arg, size_t len, const char *word)
{
    const uint8_t *p = arg;

    for (size_t i = 0; i < len; i++)
        if (!word[i] || toupper(p[i]) != toupper((uint8_t)word[i]))
            return false;
    return word[len] == '\0';
}

/* The class at pat ("[...]"): does c belong to it? Its length in *used_out. */
static bool match_class(const uint8_t *pat, size_t len, uint8_t c,
                        size_t *used_out)
{
    size_t i = 1;
    bool not = len > 1 && pat[1] == '^', found = false;

    for (i += not ; i < len && pat[i] != ']'; i++) {
        uint8_t lo, hi;

        if (pat[i] == '\\' && i + 1 < len)
            i++;
        lo = hi = pat[i];
        if (i + 2 < len && pat[i + 1] == '-') {
            hi = pat[i + 2];
            i += 2;
        }
        found |= (c >= lo && c <= hi) || (c >= hi && c <= lo);
    }
    *used_out = i < len ? i + 1 : len;
    return found != not ;
}

/* Does one byte match what is at pat? How much of pat that was. */
static bool match_one(const uint8_t *pat, size_t len, uint8_t c,
                      size_t *used_out)
{
    if (pat[0] == '[')
        return match_class(pat, len, c, used_out);
    if (pat[0] == '\\' && len > 1) {
        *used_out = 2;
        return pat[1] == c;
    }
    *used_out = 1;
    return pat[0] == '?' || pat[0] == c;
}

/* Only the last star is ever tried again: no more than pat_len * len steps. */
bool resp_match(const uint8_t *pat, size_t pat_len, const uint8_t *s,
                size_t len)
{
    size_t p = 0, i = 0, star = SIZE_MAX, star_i = 0, used = 0;

    while (i < len) {
        if (p < pat_len && pat[p] == '*') {
            star = p++;
            star_i = i;
        } else if (p < pat_len &&
                   match_one(pat + p, pat_len - p, s[i], &used)) {
            p += used;
            i++;
        } else if (star != SIZE_MAX) {
            p = star + 1;
            i = ++star_i;
        } else {
            return false;
        }
    }
    while (p < pat_len && pat[p] == '*')
        p++;
    return p == pat_len;
}
