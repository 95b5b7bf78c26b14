/* SPDX-License-Identifier: Apache-2.0
 *
 * From an event to one line on stderr:
 *
 *   text     2026-01-31T12:00:00.000001Z warn pool_full peer=3
 *   journal  <4>pool_full peer=3
 *   json     {"ts":"...","level":"warn","event":"pool_full","peer":"3"}
 *
 *  1. A line is one write(2) and has no newline inside: what a peer puts into
 *     a value cannot forge a second line.
 *  2. A call site says at most SITE_MAX lines in a second of the wall clock;
 *     its next line tells how many were dropped. Without a clock nothing is
 *     dropped.
 *
 * Any thread; the mutex orders lines and guards the sites. Levels are checked
 * before it is taken. A line that does not fit is cut. A stderr that cannot be
 * written loses lines: there is nobody left to tell. */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SITE_MAX = 10, LINE_MAX_BYTES = 1024, STAMP_BYTES = 40 };

static struct {
    pthread_mutex_t mu;
    int level;
    enum log_format format;
    uint64_t (*wall_us)(void);
    void (*sink)(enum log_level, const char *, void *);
    void *sink_arg;
} logger = {.mu = PTHREAD_MUTEX_INITIALIZER, .level = LOG_INFO};

/* systemd names the device and inode of the stream it reads. */
static bool log_to_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    char mine[64];
    struct stat st;

    if (!stream || fstat(STDERR_FILENO, &st) != 0)
        return false;
    snprintf(mine, sizeof(mine), "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    return strcmp(stream, mine) == 0;
}

void log_setup(enum log_level level, enum log_format format)
{
    log_level_set(level);
    if (format == LOG_FORMAT_AUTO)
        format = log_to_journal() ? LOG_FORMAT_JOURNAL : LOG_FORMAT_TEXT;
    pthread_mutex_lock(&logger.mu);
    logger.format = format;
    pthread_mutex_unlock(&logger.mu);
}

void log_level_set(enum log_level level)
{
    __atomic_store_n(&logger.level, (int)level, __ATOMIC_RELAXED);
}

void log_clock_set(uint64_t (*wall_us)(void))
{
    pthread_mutex_lock(&logger.mu);
    logger.wall_us = wall_us;
    pthread_mutex_unlock(&logger.mu);
}

void log_sink_set(void (*sink)(enum log_level, const char *line, void *arg),
                  void *arg)
{
    pthread_mutex_lock(&logger.mu);
    logger.sink = sink;
    logger.sink_arg = arg;
    pthread_mutex_unlock(&logger.mu);
}

static const char *log_level_name(enum log_level level)
{
    switch (level) {
    case LOG_ERROR:
        return "error";
    case LOG_WARN:
        return "warn";
    case LOG_NOTICE:
        return "notice";
    case LOG_INFO:
        return "info";
    case LOG_DEBUG:
        return "debug";
    }
    return "?";
}

/* ---- A line under construction; what does not fit is dropped ---- */

struct line {
    char text[LINE_MAX_BYTES];
    size_t len;
};

static void line_char(struct line *l, char c)
{
    if (l->len < sizeof(l->text) - 2) /* room for a newline and the end */
        l->text[l->len++] = c;
}

static void line_text(struct line *l, const char *s)
{
    for (; *s; s++)
        line_char(l, *s);
}

/* One escape or nothing: half an escape would break the JSON. */
static void line_json_char(struct line *l, char c)
{
    char esc[8] = {c, '\0'};

    if (c == '"' || c == '\\')
        snprintf(esc, sizeof(esc), "\\%c", c);
    else if ((unsigned char)c < 0x20)
        snprintf(esc, sizeof(esc), "\\u%04x", (unsigned)(unsigned char)c);
    /* The reserve closes the string and the object. */
    if (l->len + strlen(esc) < sizeof(l->text) - 8)
        line_text(l, esc);
}

/* "key=value key=\"v v\"" as ,"key":"value",... : the next pair; returns the
 * rest. A word without '=' becomes a key with an empty value. */
static const char *line_json_pair(struct line *l, const char *s)
{
    bool quoted;

    if (l->len + 32 > sizeof(l->text))
        return "";
    line_text(l, ",\"");
    for (; *s && *s != '=' && *s != ' '; s++)
        line_json_char(l, *s);
    line_text(l, "\":\"");
    if (*s == '=')
        s++;
    quoted = *s == '"';
    if (quoted)
        s++;
    for (; *s && (quoted ? *s != '"' : *s != ' '); s++) {
        if (quoted && s[0] == '\\' && s[1])
            s++;
        line_json_char(l, *s);
    }
    line_char(l, '"');
    if (quoted && *s == '"')
        s++;
    return s;
}

static void line_json(struct line *l, const char *stamp, enum log_level level,
                      const char *event, const char *pairs)
{
    line_char(l, '{');
    if (*stamp) {
        line_text(l, "\"ts\":\"");
        line_text(l, stamp);
        line_text(l, "\",");
    }
    line_text(l, "\"level\":\"");
    line_text(l, log_level_name(level));
    line_text(l, "\",\"event\":\"");
    line_text(l, event);
    line_char(l, '"');
    while (*pairs) {
        if (*pairs == ' ')
            pairs++;
        else
            pairs = line_json_pair(l, pairs);
    }
    line_char(l, '}');
}

static void line_plain(struct line *l, const char *stamp, enum log_level level,
                       const char *event, const char *pairs)
{
    if (logger.format == LOG_FORMAT_JOURNAL && !logger.sink) {
        line_char(l, '<');
        line_char(l, (char)('0' + (int)level));
        line_char(l, '>');
    } else if (!logger.sink) {
        line_text(l, stamp);
        line_text(l, *stamp ? " " : "");
        line_text(l, log_level_name(level));
        line_char(l, ' ');
    }
    line_text(l, event);
    if (*pairs)
        line_char(l, ' ');
    for (; *pairs; pairs++)
        line_char(l, (unsigned char)*pairs < 0x20 ? ' ' : *pairs);
}

static void log_stamp(char stamp[STAMP_BYTES], uint64_t us)
{
    time_t s = (time_t)(us / 1000000);
    struct tm tm;
    size_t n;

    stamp[0] = '\0';
    if (us == 0 || !gmtime_r(&s, &tm))
        return;
    n = strftime(stamp, STAMP_BYTES, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(stamp + n, STAMP_BYTES - n, ".%06uZ", (unsigned)(us % 1000000));
}

/* May the site speak? Tells how many lines it lost in the window before. */
static bool log_allowed(struct log_site *site, uint64_t us,
                        uint32_t *dropped_out)
{
    *dropped_out = 0;
    if (us == 0)
        return true;
    if (site->window_s != us / 1000000) {
        *dropped_out = site->dropped;
        *site = (struct log_site){.window_s = us / 1000000};
    }
    if (site->n < SITE_MAX) {
        site->n++;
        return true;
    }
    site->dropped++;
    return false;
}

static void log_out(enum log_level level, const char *event, const char *pairs,
                    uint64_t us)
{
    struct line l = {.len = 0};
    char stamp[STAMP_BYTES];

    log_stamp(stamp, us);
    if (logger.format == LOG_FORMAT_JSON)
        line_json(&l, stamp, level, event, pairs);
    else
        line_plain(&l, stamp, level, event, pairs);
    if (logger.sink) {
        l.text[l.len] = '\0';
        logger.sink(level, l.text, logger.sink_arg);
        return;
    }
    l.text[l.len++] = '\n';
    if (write(STDERR_FILENO, l.text, l.len) < 0)
        return;
}

void log_write(struct log_site *site, enum log_level level, const char *event,
               const char *fmt, ...)
{
    char pairs[LINE_MAX_BYTES];
    uint32_t dropped;
    uint64_t us;
    size_t n;
    va_list ap;

    if ((int)level > __atomic_load_n(&logger.level, __ATOMIC_RELAXED))
        return;
    va_start(ap, fmt);
    vsnprintf(pairs, sizeof(pairs), fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&logger.mu);
    us = logger.wall_us ? logger.wall_us() : 0;
    if (log_allowed(site, us, &dropped)) {
        n = strlen(pairs);
        if (dropped)
            snprintf(pairs + n, sizeof(pairs) - n, "%sdropped=%u", n ? " " : "",
                     dropped);
        log_out(level, event, pairs, us);
    }
    pthread_mutex_unlock(&logger.mu);
}

const char *log_quote(char *buf, size_t cap, const char *s)
{
    size_t n = 0;

    MUST(cap >= 8);
    buf[n++] = '"';
    for (; *s && n < cap - 6; s++) {
        unsigned char c = (unsigned char)*s;

        if (c == '"' || c == '\\') {
            buf[n++] = '\\';
            buf[n++] = (char)c;
        } else if (c < 0x20 || c == 0x7f) {
            n += (size_t)snprintf(buf + n, cap - n, "\\\\x%02x", c);
        } else {
            buf[n++] = (char)c;
        }
    }
    buf[n++] = '"';
    buf[n] = '\0';
    return buf;
}
