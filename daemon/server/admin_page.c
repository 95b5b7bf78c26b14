/* SPDX-License-Identifier: Apache-2.0
 *
 * The text of the admin pages. Counters come from metrics.tbl through
 * metrics_prometheus(); what is here is what no lane counts: the build, the
 * process, namespaces, clients.
 *
 * Names a peer chose (engine) are escaped; names of namespaces are plain by
 * registry.h. Label budget: one series a namespace for three families, and at
 * most CLIENT_SERIES_MAX clients. */
#include "server/admin_page.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/copy.h"
#include "server/admin_cluster.h"
#include "server/args.h"
#include "server/lane.h"

enum { CLIENT_SERIES_MAX = 100, TRANSPORTS_MAX = 4 };

/* ---- This process, from /proc ---- */

struct proc {
    uint64_t cpu_us, start_s, virtual_bytes, resident_bytes;
    uint64_t fds, fds_max, threads;
};

static uint64_t proc_boot_s(void)
{
    char *text, *at;
    size_t len;
    struct errmsg m;
    uint64_t s = 0;

    if (files_read("/proc/stat", 1 << 20, &text, &len, &m))
        return 0;
    at = strstr(text, "\nbtime ");
    if (at)
        s = strtoull(at + strlen("\nbtime "), NULL, 10);
    free(text);
    return s;
}

/* Fields behind the name, which may hold anything but ends at the last ')'. */
static void proc_stat(struct proc *p)
{
    uint64_t hz = (uint64_t)sysconf(_SC_CLK_TCK), start = 0;
    char *text, *at;
    size_t len;
    struct errmsg m;

    if (files_read("/proc/self/stat", 4096, &text, &len, &m))
        return;
    at = strrchr(text, ')');
    if (at && sscanf(at + 1,
                     " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u "
                     "%*d %*d %*d %*d %" SCNu64 " %*d %" SCNu64 " %" SCNu64,
                     &p->threads, &start, &p->virtual_bytes) == 3)
        p->start_s = proc_boot_s() + start / hz;
    free(text);
}

static void proc_memory(struct proc *p)
{
    char *text;
    size_t len;
    struct errmsg m;
    uint64_t pages;

    if (files_read("/proc/self/statm", 4096, &text, &len, &m))
        return;
    if (sscanf(text, "%*u %" SCNu64, &pages) == 1)
        p->resident_bytes = pages * (uint64_t)sysconf(_SC_PAGESIZE);
    free(text);
}

static void proc_read(struct proc *p)
{
    struct rusage ru;
    struct rlimit fds;
    struct files_list list;
    struct errmsg m;

    *p = (struct proc){0};
    proc_stat(p);
    proc_memory(p);
    if (getrusage(RUSAGE_SELF, &ru) == 0)
        p->cpu_us =
            (uint64_t)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000 +
            (uint64_t)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec);
    if (getrlimit(RLIMIT_NOFILE, &fds) == 0)
        p->fds_max = fds.rlim_cur;
    if (files_list_new(&list, "/proc/self/fd", "", &m) == OK) {
        p->fds = list.n;
        files_list_free(&list);
    }
}

/* ---- Metrics ---- */

struct page {
    const struct admin_cfg *cfg;
    const struct admin_snapshot *s;
    bool openmetrics;
    struct textbuf *out;
};

/* OpenMetrics names a counter's family without _total. */
static void family(const struct page *p, const char *name, const char *type,
                   const char *doc)
{
    const char *total =
        strcmp(type, "counter") == 0 && !p->openmetrics ? "_total" : "";

    textbuf_add(p->out, "# HELP %s%s %s\n# TYPE %s%s %s\n", name, total, doc,
                name, total, type);
}

static void gauge(const struct page *p, const char *name, const char *doc,
                  uint64_t value)
{
    family(p, name, "gauge", doc);
    textbuf_add(p->out, "%s %" PRIu64 "\n", name, value);
}

static void page_build(const struct page *p)
{
    family(p, "pikvd_build_info", "gauge", "version of the daemon, always 1");
    textbuf_add(p->out, "pikvd_build_info{version=\"%s\",copy=\"%s\"} 1\n",
                args_version, copy_kind());
    gauge(p, "pikvd_lanes", "data threads", p->cfg->control->lane_n);
    gauge(p, "pikvd_draining", "1 while the daemon stops",
          loop_control_draining(p->cfg->loop));
    gauge(p, "pikvd_memory_prefaulted_bytes",
          "bytes of the tiers touched since boot",
          loop_control_prefaulted(p->cfg->loop));
}

static void page_process(const struct page *p)
{
    struct proc proc;

    proc_read(&proc);
    family(p, "process_cpu_seconds", "counter",
           "user and system CPU time spent");
    textbuf_add(p->out, "process_cpu_seconds_total %" PRIu64 ".%06" PRIu64 "\n",
                proc.cpu_us / 1000000, proc.cpu_us % 1000000);
    gauge(p, "process_start_time_seconds", "start of the process, Unix time",
          proc.start_s);
    gauge(p, "process_virtual_memory_bytes", "address space",
          proc.virtual_bytes);
    gauge(p, "process_resident_memory_bytes", "resident memory",
          proc.resident_bytes);
    gauge(p, "process_open_fds", "open file descriptors", proc.fds);
    gauge(p, "process_max_fds", "limit of open file descriptors", proc.fds_max);
    gauge(p, "process_threads", "threads", proc.threads);
}

static struct ctl_usage usage_of(const struct page *p, uint32_t id)
{
    struct ctl_usage sum = {0};

    for (uint32_t l = 0; l < p->cfg->control->lane_n; l++) {
        const struct ctl_usage *u = &p->s->usage[l * p->s->usage_n + id - 1];

        sum.blocks += u->blocks;
        sum.bytes += u->bytes;
        sum.share_bytes += u->share_bytes;
        sum.ssd_blocks += u->ssd_blocks;
        sum.ssd_bytes += u->ssd_bytes;
    }
    return sum;
}

/* part: which member of struct ctl_usage. */
static void page_namespace_family(const struct page *p, const char *name,
                                  const char *doc, size_t part)
{
    const struct registry *r = &p->cfg->control->registry;

    family(p, name, "gauge", doc);
    for (uint32_t id = 1; id <= p->s->usage_n; id++) {
        struct ctl_usage sum = usage_of(p, id);

        textbuf_add(
            p->out, "%s{namespace=\"%s\"} %" PRIu64 "\n", name,
            registry_find_id(r, id)->name,
            *(const uint64_t *)(const void *)((const char *)&sum + part));
    }
}

static void page_namespaces(const struct page *p)
{
    gauge(p, "pikvd_namespaces", "namespaces that exist",
          p->cfg->control->registry.n);
    page_namespace_family(p, "pikvd_namespace_blocks",
                          "blocks resident, by namespace",
                          offsetof(struct ctl_usage, blocks));
    page_namespace_family(p, "pikvd_namespace_bytes",
                          "bytes of resident blocks, by namespace",
                          offsetof(struct ctl_usage, bytes));
    page_namespace_family(p, "pikvd_namespace_ssd_bytes",
                          "bytes of blocks on the SSDs, by namespace",
                          offsetof(struct ctl_usage, ssd_bytes));
    page_namespace_family(p, "pikvd_namespace_share_bytes",
                          "bytes of the tier that are its share now",
                          offsetof(struct ctl_usage, share_bytes));
}

static void label_text(struct textbuf *out, const char *s)
{
    for (; *s; s++) {
        if (*s == '\\' || *s == '"')
            textbuf_add(out, "\\%c", *s);
        else if ((unsigned char)*s >= 0x20 && (unsigned char)*s < 0x7f)
            textbuf_add(out, "%c", *s);
        else
            textbuf_add(out, "?");
    }
}

/* Connections by transport: lanes tell of CTL_CLIENTS_MAX each. */
static void page_transports(const struct page *p)
{
    const char *names[TRANSPORTS_MAX];
    uint32_t counts[TRANSPORTS_MAX] = {0}, n = 0, t;

    family(p, "pikvd_connections", "gauge",
           "connections by transport, up to 64 of each lane");
    for (uint32_t l = 0; p->s->client_n && l < p->cfg->control->lane_n; l++) {
        for (uint32_t i = 0; i < p->s->client_n[l]; i++) {
            const char *name = p->s->clients[l][i].transport;

            for (t = 0; t < n && strcmp(names[t], name) != 0; t++)
                ;
            if (t == TRANSPORTS_MAX)
                continue;
            if (t == n)
                names[n++] = name;
            counts[t]++;
        }
    }
    for (t = 0; t < n; t++)
        textbuf_add(p->out, "pikvd_connections{transport=\"%s\"} %u\n",
                    names[t], counts[t]);
}

/* A handle has one connection to a lane, so (client, lane) is one series; one
 * that has two is shown once. */
static bool client_shown(const struct page *p, uint32_t l, uint32_t i)
{
    for (uint32_t j = 0; j < i; j++)
        if (p->s->clients[l][j].info.client == p->s->clients[l][i].info.client)
            return true;
    return false;
}

static void page_clients(const struct page *p)
{
    uint32_t shown = 0;

    family(p, "pikvd_client_info", "gauge",
           "transport of each connection, always 1");
    for (uint32_t l = 0; p->s->client_n && l < p->cfg->control->lane_n; l++) {
        for (uint32_t i = 0; i < p->s->client_n[l]; i++) {
            const struct ctl_client *c = &p->s->clients[l][i];

            if (shown == CLIENT_SERIES_MAX)
                return;
            if (client_shown(p, l, i))
                continue;
            textbuf_add(p->out,
                        "pikvd_client_info{client=\"%016" PRIx64
                        "\",lane=\"%u\",transport=\"%s\",pid=\"%u\","
                        "engine=\"",
                        c->info.client, l, c->transport, c->info.pid);
            label_text(p->out, c->engine);
            textbuf_add(p->out, "\"} 1\n");
            shown++;
        }
    }
}

void admin_page_metrics(const struct admin_cfg *cfg,
                        const struct admin_snapshot *s, bool openmetrics,
                        struct textbuf *out)
{
    static struct metrics sum; /* large; this thread's only */
    struct page page = {cfg, s, openmetrics, out};

    sum = (struct metrics){0};
    lanes_metrics(cfg->control, &sum);
    page_build(&page);
    page_process(&page);
    page_namespaces(&page);
    page_transports(&page);
    page_clients(&page);
    metrics_prometheus(&sum, openmetrics, out);
    if (openmetrics)
        textbuf_add(out, "# EOF\n");
}

/* ---- Health ---- */

struct health {
    struct textbuf *out;
    bool verbose, ok, degraded;
};

static void check(struct health *h, bool ok, const char *name, const char *text)
{
    h->ok &= ok;
    if (h->verbose)
        textbuf_add(h->out, "[%c]%s %s%s%s\n", ok ? '+' : '-', name,
                    ok ? "ok" : "failed", *text ? ": " : "", text);
}

static void check_lanes(struct health *h, const struct admin_cfg *cfg)
{
    for (uint32_t i = 0; i < cfg->control->lane_n; i++) {
        char name[32];

        snprintf(name, sizeof(name), "lane-%u", i);
        check(h, loop_control_alive(cfg->loop, i), name, "");
    }
}

/* A device that is out of service does not make the daemon unready: it serves
 * from memory and the others. The check says so all the same. */
static void check_ssd(struct health *h, const struct ssd_dev *d)
{
    enum seglog_state state = seg_map_state(&d->map);
    const char *why = __atomic_load_n(&d->why, __ATOMIC_ACQUIRE);

    if (h->verbose)
        textbuf_add(h->out, "[%c]ssd %s: %s: %s%s%s, %s\n",
                    state == SEGLOG_OPEN ? '+' : '!',
                    state == SEGLOG_OPEN ? "ok" : "degraded", d->path,
                    ssd_state_name(state), *why ? ": " : "", why, d->engine);
}

/* Degraded: nothing in the view changes now, what is here is served. */
static void check_cluster(struct health *h, const struct admin_cfg *cfg)
{
    char text[256];
    enum admin_state s = admin_cluster_state(cfg, text, sizeof(text));

    if (s != ADMIN_DEGRADED)
        check(h, s == ADMIN_OK, "cluster", text);
    else if (h->verbose)
        textbuf_add(h->out, "[!]cluster degraded: %s\n", text);
    h->degraded = s == ADMIN_DEGRADED;
}

static void check_ready(struct health *h, const struct admin_cfg *cfg)
{
    const struct config *c = cfg->control->cfg;
    char text[CONFIG_STRING + 40];

    if (c->listen.shm.enabled)
        check(h, true, "shm", c->listen.shm.path);
    if (c->listen.ucx.enabled) {
        snprintf(text, sizeof(text), "%s:%" PRIu64, c->listen.ucx.host,
                 c->listen.ucx.port);
        check(h, true, "ucx", text);
    }
    for (uint32_t i = 0; i < cfg->arena_n; i++) {
        snprintf(text, sizeof(text), "%s", cfg->arenas[i].got);
        check(h, true, i ? "loan-memory" : "memory", text);
    }
    for (uint32_t i = 0; cfg->ssd && i < cfg->ssd->n; i++)
        check_ssd(h, &cfg->ssd->devs[i]);
    if (cfg->cluster)
        check_cluster(h, cfg);
    check(h, !loop_control_draining(cfg->loop), "not-draining", "");
}

bool admin_page_health(const struct admin_cfg *cfg, bool live, bool verbose,
                       struct textbuf *out)
{
    struct health h = {out, verbose, true, false};

    check_lanes(&h, cfg);
    if (!live)
        check_ready(&h, cfg);
    if (verbose)
        textbuf_add(out, "%s check %s\n", live ? "livez" : "readyz",
                    h.ok ? "passed" : "failed");
    else
        textbuf_add(out, "%s\n",
                    !h.ok        ? "failed"
                    : h.degraded ? "ok, degraded"
                                 : "ok");
    return h.ok;
}

/* ---- Status ----
 * jansson answers NULL for no memory and passes NULL on, so one check at the
 * end is enough. */

static json_t *number(uint64_t n)
{
    return json_integer((json_int_t)min_u64(n, INT64_MAX));
}

static json_t *status_lanes(const struct page *p)
{
    json_t *a = json_array();

    for (uint32_t i = 0; i < p->cfg->control->lane_n; i++) {
        const struct lane *l = p->cfg->control->lanes[i];
        const struct metrics *m = &l->metrics;

        json_array_append_new(
            a, json_pack("{s:i, s:b, s:o, s:o, s:o, s:o, s:s, s:s}", "lane",
                         (int)i, "alive", loop_control_alive(p->cfg->loop, i),
                         "blocks", number(metric_get(&m->blocks)), "bytes",
                         number(metric_get(&m->block_bytes)), "connections",
                         number(metric_get(&m->peers)), "requests_in_flight",
                         number(metric_get(&m->ops_inflight)), "shm",
                         l->addr_shm, "ucx", l->addr_ucx));
    }
    return a;
}

static json_t *status_tiers(const struct page *p)
{
    json_t *a = json_array();

    for (uint32_t i = 0; i < p->cfg->arena_n; i++)
        json_array_append_new(
            a, json_pack("{s:s, s:i, s:o, s:s}", "tier", "dram", "pool", (int)i,
                         "capacity_bytes", number(p->cfg->arenas[i].bytes),
                         "memory", p->cfg->arenas[i].got));
    for (uint32_t i = 0; p->cfg->ssd && i < p->cfg->ssd->n; i++) {
        const struct ssd_dev *d = &p->cfg->ssd->devs[i];

        json_array_append_new(
            a,
            json_pack(
                "{s:s, s:s, s:s, s:s, s:o, s:s, s:b}", "tier", "ssd", "path",
                d->path, "state", ssd_state_name(seg_map_state(&d->map)), "why",
                __atomic_load_n(&d->why, __ATOMIC_ACQUIRE), "capacity_bytes",
                number(d->bytes), "engine", d->engine, "binding",
                __atomic_load_n(&d->map.binding, __ATOMIC_RELAXED) != 0));
    }
    return a;
}

static json_t *status_namespace(const struct page *p, uint32_t id)
{
    const struct registry_ns *ns =
        registry_find_id(&p->cfg->control->registry, id);
    json_t *o =
        json_pack("{s:s, s:i, s:o, s:s, s:s, s:i, s:o, s:i}", "name", ns->name,
                  "id", (int)id, "generation", number(ns->generation), "policy",
                  ns->settings.policy->name, "loans",
                  registry_loans_name(ns->settings.loans), "share",
                  (int)ns->settings.share, "quota_bytes",
                  number(ns->settings.quota_bytes), "groups", (int)ns->group_n);
    struct ctl_usage u;

    if (id > p->s->usage_n)
        return o;
    u = usage_of(p, id);
    json_object_set_new(o, "blocks", number(u.blocks));
    json_object_set_new(o, "bytes", number(u.bytes));
    json_object_set_new(o, "share_bytes", number(u.share_bytes));
    json_object_set_new(o, "ssd_blocks", number(u.ssd_blocks));
    json_object_set_new(o, "ssd_bytes", number(u.ssd_bytes));
    return o;
}

static json_t *status_namespaces(const struct page *p)
{
    json_t *a = json_array();

    for (uint32_t id = 1; id <= p->cfg->control->registry.n; id++)
        json_array_append_new(a, status_namespace(p, id));
    return a;
}

static json_t *text_of(const char *s)
{
    json_t *text = json_string(s);

    return text ? text : json_string("?"); /* not UTF-8 */
}

static json_t *status_client(uint32_t lane, const struct ctl_client *c)
{
    const Pikv__ClientInfo *i = &c->info;
    char id[20];

    snprintf(id, sizeof(id), "%016" PRIx64, i->client);
    return json_pack(
        "{s:s, s:i, s:s, s:o, s:i, s:i, s:o, s:o, s:o, s:o, s:o, s:i, s:o}",
        "client", id, "lane", (int)lane, "transport", c->transport, "engine",
        text_of(c->engine), "pid", (int)i->pid, "uid", (int)i->uid, "ops",
        number(i->ops), "bytes_in", number(i->bytes_in), "bytes_out",
        number(i->bytes_out), "pinned_bytes", number(i->pinned_bytes),
        "loan_bytes", number(i->loan_bytes), "inflight", (int)i->inflight,
        "connected_ms", number(i->connected_ms));
}

static json_t *status_clients(const struct page *p)
{
    json_t *a = json_array();

    for (uint32_t l = 0; p->s->client_n && l < p->cfg->control->lane_n; l++)
        for (uint32_t i = 0; i < p->s->client_n[l]; i++)
            json_array_append_new(a, status_client(l, &p->s->clients[l][i]));
    return a;
}

/* Every key that is not at its default: its value and who set it. */
static json_t *status_config(const struct page *p)
{
    static struct config defaults; /* large; this thread's only */
    const struct config *c = p->cfg->control->cfg;
    const struct config_row *rows[CONFIG_ROWS];
    json_t *o = json_object();
    uint32_t n;

    config_defaults(&defaults);
    n = config_diff(&defaults, c, rows);
    for (uint32_t i = 0; i < n; i++) {
        char value[CONFIG_VALUE_TEXT];

        json_object_set_new(o, rows[i]->path,
                            json_pack("{s:s, s:s}", "value",
                                      config_value(c, rows[i], value), "origin",
                                      config_origin(c, rows[i])));
    }
    return o;
}

void admin_page_status(const struct admin_cfg *cfg,
                       const struct admin_snapshot *s, struct textbuf *out)
{
    const struct config *c = cfg->control->cfg;
    struct page page = {cfg, s, false, out};
    char boot[20];
    json_t *root;
    char *text;

    snprintf(boot, sizeof(boot), "%016" PRIx64, cfg->control->boot);
    root = json_pack("{s:s, s:s, s:s, s:o, s:b, s:b, s:o, s:o, s:o, s:o, s:o}",
                     "version", args_version, "node", c->node.name, "boot",
                     boot, "uptime_s", number(loop_control_uptime_s(cfg->loop)),
                     "draining", loop_control_draining(cfg->loop),
                     "lanes_answered", s->usage != NULL, "lanes",
                     status_lanes(&page), "tiers", status_tiers(&page),
                     "namespaces", status_namespaces(&page), "clients",
                     status_clients(&page), "config", status_config(&page));
    if (root && cfg->cluster)
        json_object_set_new(root, "cluster", admin_cluster_json(cfg));
    text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    if (text)
        textbuf_add(out, "%s\n", text);
    else
        out->bad = true;
    free(text);
}
