/* SPDX-License-Identifier: Apache-2.0
 *
 * top: what the daemon does now, once a second.
 *
 *     counters now and an interval ago -> one JSON object -> JSON or a screen
 *
 * Live on a terminal it draws over the screen until interrupted and survives a
 * restart of the daemon; with --batch, -o json or into a pipe it prints one
 * sample after the other and ends when the daemon does. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "client/ctl/ctl.h"

enum { SCREEN_ROWS = 24, MIN_INTERVAL_US = 10000 };

struct top {
    struct ctl *c;
    json_t *before; /* counters */
    double before_s;
    uint64_t count, interval_us;
    bool live;
    uint32_t rows_left; /* lines the screen still has */
};

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* ---- a sample ---- */

static uint64_t counter(const json_t *stat, const char *name)
{
    return top_counter(stat, name);
}

static double rate(const struct top *t, const json_t *now, const char *name,
                   double dt)
{
    return top_rate(t->before, now, name, dt);
}

/* hits / (hits + misses) of the interval; null without any. */
static json_t *ratio(double hits, double misses)
{
    return hits + misses > 0 ? json_real(hits / (hits + misses)) : json_null();
}

static json_t *op_rates(const struct top *t, const json_t *now, double dt)
{
    json_t *o = json_object(), *value;
    const char *name;

    json_object_foreach(t->before, name, value)
    {
        double r =
            strncmp(name, "requests.", 9) == 0 ? rate(t, now, name, dt) : 0;

        if (r > 0)
            json_object_set_new(o, name + 9, json_real(r));
    }
    return o;
}

static const char *const misses[] = {
    "get_miss_never",   "get_miss_expired",      "get_miss_evicted",
    "get_miss_dropped", "get_miss_not_admitted", "get_miss_late",
    "get_miss_corrupt"};

static void add_rates(json_t *o, const struct top *t, const json_t *now,
                      double dt)
{
    double lookup_miss = rate(t, now, "lookup_misses", dt), miss = 0;

    for (size_t i = 0; i < countof(misses); i++)
        miss += rate(t, now, misses[i], dt);

    /* The reasons count both operations; GET's are what LOOKUP's leave. */
    json_object_set_new(o, "get_hit_ratio",
                        ratio(rate(t, now, "get_hits", dt),
                              miss > lookup_miss ? miss - lookup_miss : 0));
    json_object_set_new(o, "lookup_hit_ratio",
                        ratio(rate(t, now, "lookup_hits", dt), lookup_miss));
    json_object_set_new(o, "requests_s", op_rates(t, now, dt));
    json_object_set_new(o, "gb_in_s",
                        json_real(rate(t, now, "bytes_in", dt) / 1e9));
    json_object_set_new(o, "gb_out_s",
                        json_real(rate(t, now, "bytes_out", dt) / 1e9));
    json_object_set_new(o, "evicted_s",
                        json_real(rate(t, now, "evicted_blocks", dt)));
    json_object_set_new(o, "busy_s",
                        json_real(rate(t, now, "busy_refusals", dt)));
}

static const char *const gauges[] = {"blocks",          "block_bytes",
                                     "extent_bytes",    "dram_capacity_bytes",
                                     "dram_unit_bytes", "pinned_bytes",
                                     "loan_bytes",      "peers",
                                     "ops_inflight",    "eviction_age_seconds"};

static int top_namespaces(struct ctl *c, json_t **out)
{
    Pikv__NamespaceReply *m;
    int s = link_describe(c, "", &m);

    if (s)
        return s;
    *out = json_array();
    for (size_t i = 0; i < m->n_namespaces; i++) {
        const Pikv__NamespaceInfo *n = m->namespaces[i];
        json_t *o = json_object();

        json_object_set_new(o, "name", out_text(n->name));
        json_object_set_new(o, "blocks", out_u64(n->blocks));
        json_object_set_new(o, "bytes", out_u64(n->bytes));
        json_object_set_new(o, "share_bytes", out_u64(n->share_bytes));
        json_object_set_new(o, "policy",
                            out_text(n->settings ? n->settings->policy : ""));
        json_array_append_new(*out, o);
    }
    link_free(m);
    return CTL_OK;
}

/* The first sample has nothing to compare with: *out is NULL then. */
static int take_sample(struct top *t, json_t **out)
{
    json_t *now, *o, *clients, *namespaces;
    double at;
    int s = look_stat(t->c, "", &now);

    *out = NULL;
    if (s)
        return s;
    at = link_now_s();
    if (t->before) {
        s = look_clients(t->c, &clients);
        if (!s && (s = top_namespaces(t->c, &namespaces)))
            json_decref(clients);
        if (s) {
            json_decref(now);
            return s;
        }
        o = json_object();
        json_object_set_new(o, "server", out_text(t->c->info.server));
        json_object_set_new(o, "lanes", out_u64(t->c->info.lanes));
        json_object_set_new(o, "interval_s", json_real(at - t->before_s));
        for (size_t i = 0; i < countof(gauges); i++)
            json_object_set_new(o, gauges[i], out_u64(counter(now, gauges[i])));
        add_rates(o, t, now, at - t->before_s);
        json_object_set_new(o, "tiers",
                            top_tiers(t->before, now, at - t->before_s));
        json_object_set_new(o, "clients", clients);
        json_object_set_new(o, "namespaces", namespaces);
        *out = o;
    }
    json_decref(t->before);
    t->before = now;
    t->before_s = at;
    return CTL_OK;
}

/* ---- a screen ---- */

static bool line(struct top *t, const char *fmt, ...) printf_like(2, 3);

/* false: the screen is full. */
static bool line(struct top *t, const char *fmt, ...)
{
    va_list ap;

    if (t->live && t->rows_left == 0)
        return false;
    t->rows_left--;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    fputs(t->live ? "\033[K\n" : "\n", stdout);
    return true;
}

static const char *member_bytes(const json_t *o, const char *name, char *buf,
                                size_t n)
{
    return top_human(counter(o, name), buf, n);
}

static const char *percent(const json_t *v, char *buf, size_t n)
{
    if (json_is_real(v))
        snprintf(buf, n, "%.1f%%", 100 * json_real_value(v));
    else
        snprintf(buf, n, "-");
    return buf;
}

static double member_real(const json_t *o, const char *name)
{
    return json_real_value(json_object_get(o, name));
}

static void draw_head(struct top *t, const json_t *o)
{
    char a[24], b[24], c[24], ops[400] = "";
    const char *name;
    json_t *v;

    line(t, "%s  %s  lanes %llu  connections %llu  in flight %llu",
         json_string_value(json_object_get(o, "server")), t->c->info.transport,
         (unsigned long long)counter(o, "lanes"),
         (unsigned long long)counter(o, "peers"),
         (unsigned long long)counter(o, "ops_inflight"));
    line(t, "evicted   %.0f/s  age %llus", member_real(o, "evicted_s"),
         (unsigned long long)counter(o, "eviction_age_seconds"));
    line(t, "hits      get %s  lookup %s",
         percent(json_object_get(o, "get_hit_ratio"), a, sizeof(a)),
         percent(json_object_get(o, "lookup_hit_ratio"), b, sizeof(b)));
    line(t, "GB/s      in %.3f  out %.3f", member_real(o, "gb_in_s"),
         member_real(o, "gb_out_s"));
    json_object_foreach(json_object_get(o, "requests_s"), name, v)
    {
        size_t at = strlen(ops);

        snprintf(ops + at, sizeof(ops) - at, "%s%s %.0f", at ? "  " : "", name,
                 json_real_value(v));
    }
    line(t, "ops/s     %s", ops[0] ? ops : "-");
    line(t, "held      pinned %s  lent %s  busy/s %.0f",
         member_bytes(o, "pinned_bytes", a, sizeof(a)),
         member_bytes(o, "loan_bytes", c, sizeof(c)), member_real(o, "busy_s"));
}

static void draw_tiers(struct top *t, const json_t *list)
{
    char text[200];
    size_t i;
    json_t *o;

    if (line(t, "%s", ""))
        line(t, "%s", top_tier_line(NULL, text, sizeof(text)));
    json_array_foreach(list, i, o)
        line(t, "%s", top_tier_line(o, text, sizeof(text)));
}

static void draw_namespaces(struct top *t, const json_t *list)
{
    char a[24], b[24], name[24], policy[16];
    size_t i;
    json_t *o;

    if (line(t, "%s", ""))
        line(t, "%-20s %-8s %10s %10s %10s", "NAMESPACE", "POLICY", "BLOCKS",
             "BYTES", "SHARE");
    json_array_foreach(list, i, o)
    {
        if (!line(
                t, "%-20s %-8s %10llu %10s %10s",
                out_cell(json_object_get(o, "name"), name, sizeof(name)),
                out_cell(json_object_get(o, "policy"), policy, sizeof(policy)),
                (unsigned long long)counter(o, "blocks"),
                member_bytes(o, "bytes", a, sizeof(a)),
                member_bytes(o, "share_bytes", b, sizeof(b))))
            return;
    }
}

static void draw_clients(struct top *t, const json_t *list)
{
    char a[24], b[24], c[24], name[24];
    size_t i;
    json_t *o;

    if (line(t, "%s", ""))
        line(t, "%-20s %-5s %8s %10s %10s %10s %10s", "CLIENT", "VIA", "PID",
             "OPS", "IN", "OUT", "PINNED");
    json_array_foreach(list, i, o)
    {
        if (!line(t, "%-20s %-5s %8llu %10llu %10s %10s %10s",
                  out_cell(json_object_get(o, "engine"), name, sizeof(name)),
                  json_string_value(json_object_get(o, "transport")),
                  (unsigned long long)counter(o, "pid"),
                  (unsigned long long)counter(o, "ops"),
                  member_bytes(o, "bytes_in", a, sizeof(a)),
                  member_bytes(o, "bytes_out", b, sizeof(b)),
                  member_bytes(o, "pinned_bytes", c, sizeof(c))))
            return;
    }
}

static uint32_t screen_rows(void)
{
    struct winsize w;

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) != 0 || w.ws_row < 2)
        return SCREEN_ROWS;
    return w.ws_row - 1u;
}

static void draw(struct top *t, const json_t *o)
{
    t->rows_left = t->live ? screen_rows() : UINT32_MAX;
    if (t->live)
        fputs("\033[H", stdout);
    draw_head(t, o);
    draw_tiers(t, json_object_get(o, "tiers"));
    draw_namespaces(t, json_object_get(o, "namespaces"));
    draw_clients(t, json_object_get(o, "clients"));
    fputs(t->live ? "\033[J" : "\n", stdout);
}

/* ---- the loop ---- */

static void nap(const struct top *t)
{
    struct timespec left = {
        .tv_sec = (time_t)(t->interval_us / 1000000),
        .tv_nsec = (long)(t->interval_us % 1000000 * 1000),
    };

    if (!interrupted)
        nanosleep(&left, NULL);
}

static void show(struct top *t, const json_t *o)
{
    if (t->c->json) {
        json_dumpf(o, stdout, JSON_COMPACT);
        putchar('\n');
    } else {
        draw(t, o);
    }
    fflush(stdout);
}

static int run(struct top *t)
{
    uint64_t shown = 0;
    int s = CTL_OK;

    while (!interrupted && !ferror(stdout) && shown < t->count) {
        json_t *o = NULL;

        if (t->live && s)
            fputs("\033[H\033[J", stdout); /* the reason comes below */
        s = take_sample(t, &o);
        if (s && !t->live)
            return s;
        if (s) {
            link_close(t->c);
            json_decref(t->before);
            t->before = NULL;
        }
        if (o) {
            show(t, o);
            json_decref(o);
            shown++;
        }
        if (shown < t->count)
            nap(t);
    }
    return CTL_OK;
}

int verb_top(struct ctl *c)
{
    struct sigaction act = {.sa_handler = on_signal};
    struct top t = {.c = c};
    int s = opt_number(c, OPT_COUNT, UINT64_MAX, UINT64_MAX, &t.count);

    s = s ? s : opt_us(c, OPT_INTERVAL, 1000000, &t.interval_us);
    if (!s && (t.interval_us < MIN_INTERVAL_US || t.count == 0))
        s = ctl_fail(CTL_USAGE, "top: an interval from 10ms on, and a count "
                                "from 1 on");
    s = s ? s : link_open(c);
    if (s)
        return s;
    t.live = !c->json && !c->opt[OPT_BATCH] && isatty(STDOUT_FILENO);
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    if (t.live)
        fputs("\033[?1049h\033[?25l\033[H\033[J", stdout);
    s = run(&t);
    if (t.live)
        fputs("\033[?25h\033[?1049l", stdout);
    json_decref(t.before);
    return s;
}
