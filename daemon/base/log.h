/* SPDX-License-Identifier: Apache-2.0
 *
 * One line per event: "event key=value ...". To stderr with a <N> priority
 * prefix when the journal reads it, else with a timestamp; JSON lines by
 * config. Rate limited per call site (10 per second, then a count). Thread
 * safe. Values with spaces are quoted by LOG_STR. libpikv never logs. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/base.h"

enum log_level {
    LOG_ERROR = 3,
    LOG_WARN = 4,
    LOG_NOTICE = 5,
    LOG_INFO = 6,
    LOG_DEBUG = 7
};
enum log_format {
    LOG_FORMAT_AUTO,
    LOG_FORMAT_TEXT,
    LOG_FORMAT_JOURNAL,
    LOG_FORMAT_JSON
};

struct log_site {
    uint64_t window_s;
    uint32_t n, dropped;
};

void log_setup(enum log_level level, enum log_format format);
void log_level_set(enum log_level level); /* any time, any thread */
/* The wall clock for stamps; set by the shell, else lines carry no stamp. */
void log_clock_set(uint64_t (*wall_us)(void));
/* A simulator or test takes the lines instead of stderr. NULL restores. */
void log_sink_set(void (*sink)(enum log_level, const char *line, void *arg),
                  void *arg);
void log_write(struct log_site *site, enum log_level level, const char *event,
               const char *fmt, ...) printf_like(4, 5);

/* s as one value: quoted if it has spaces, control characters escaped, cut at
 * the size of buf. Returns buf. */
const char *log_quote(char *buf, size_t cap, const char *s);
#define LOG_STR(s) log_quote((char[256]){0}, 256, (s))

#define LOG(level, event, ...)                                                 \
    do {                                                                       \
        static struct log_site log_site_;                                      \
        log_write(&log_site_, level, event, __VA_ARGS__);                      \
    } while (0)

#endif
