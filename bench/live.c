/* SPDX-License-Identifier: Apache-2.0
 *
 * Lines of a run that is watched (live.h). */
#include "bench/live.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { LIVE_EVERY_NS = 200000000 };

static volatile sig_atomic_t told_to_end;

static void on_signal(int signum)
{
    (void)signum;
    told_to_end = 1;
}

void live_begin(struct live *l, bool watched)
{
    struct sigaction a = {.sa_handler = on_signal};

    memset(l, 0, sizeof *l);
    l->begun_ns = bench_now_ns();
    if (watched) {
        (void)sigaction(SIGTERM, &a, NULL);
        (void)sigaction(SIGINT, &a, NULL);
    }
}

bool live_ended(void)
{
    return told_to_end != 0;
}

void live_item(struct live *l, int status)
{
    if (status == PIKV_OK || status == PIKV_MISS || status == PIKV_EXISTS ||
        status == PIKV_PENDING)
        return;
    if (status < 0 && status > -LIVE_ERRORS)
        l->errors[-status]++;
    else
        l->errors[-PIKV_INTERNAL]++;
}

void live_call(struct live *l, uint64_t ns)
{
    if (ns > l->slowest_ns)
        l->slowest_ns = ns;
}

static void tell_errors(const struct live *l)
{
    const char *comma = "";

    for (int i = 0; i < LIVE_ERRORS; i++) {
        if (l->errors[i]) {
            printf("%s\"%s\": %llu", comma, pikv_error_name(-i),
                   (unsigned long long)l->errors[i]);
            comma = ", ";
        }
    }
}

void live_tell(struct live *l, struct pikv *kv, const struct live_counts *c,
               bool at_once)
{
    uint64_t now = bench_now_ns();
    struct pikv_stats s = {0};

    if (!at_once && now - l->told_ns < LIVE_EVERY_NS)
        return;
    l->told_ns = now;
    (void)pikv_stats(kv, &s);
    printf("{\"s\": %.2f, \"requests\": %llu, \"refs\": %llu, "
           "\"could\": %llu, \"hits\": %llu, \"wrong\": %llu, \"bytes\": %llu, "
           "\"slowest_ms\": %.2f, "
           "\"redirects\": %llu, \"failovers\": %llu, \"open\": %u, "
           "\"errors\": {",
           (double)(now - l->begun_ns) / 1e9, (unsigned long long)c->requests,
           (unsigned long long)c->refs, (unsigned long long)c->could,
           (unsigned long long)c->hits, (unsigned long long)c->wrong,
           (unsigned long long)c->bytes, (double)l->slowest_ns / 1e6,
           (unsigned long long)s.redirects, (unsigned long long)s.failovers,
           s.breaker_open);
    tell_errors(l);
    printf("}}\n");
    (void)fflush(stdout);
    l->slowest_ns = 0;
}
