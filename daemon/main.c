/* SPDX-License-Identifier: Apache-2.0
 *
 * pikvd: arguments, then the daemon from the bottom up, then down again.
 *
 *   host      clock of the log, locks, service manager
 *   memory    one arena per pool: DRAM, and one per loan namespace
 *   control   configuration, namespaces
 *   lanes     stores and sessions; no threads yet
 *   links     transports: from here on clients may connect
 *   loops     one thread per lane
 *   admin     HTTP on the control loop
 *   run       this thread is the control thread until a signal
 *
 * set_up() is this list, tear_down() the same in reverse; each part accepts
 * zeros, so a failed start undoes exactly what was done.
 *
 * Whatever stops a start is one line on stderr that names the setting and the
 * fix, and an exit status of sysexits.h: 64 usage, 78 configuration, 69
 * something is in use, 71 the system refused, 70 a lane did not end. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <libgen.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/copy.h"
#include "base/log.h"
#include "base/units.h"
#include "rpc/transport_shm.h"
#include "rpc/transport_ucx.h"
#include "server/admin.h"
#include "server/control.h"
#include "server/explain.h"
#include "server/files.h"
#include "server/lane.h"
#include "server/loop.h"
#include "server/loop_control.h"
#include "server/notify.h"

#ifndef PIKV_VERSION
#define PIKV_VERSION "0"
#endif

enum { SETS_MAX = 256, LANES_AUTO_MAX = 4 };

enum mode { SERVE, CHECK_CONFIG, DUMP_CONFIG, PRINT_SCHEMA, EXPLAIN };

struct options {
    enum mode mode;
    const char *config; /* NULL: defaults */
    const char *topic;
    const char *sets[SETS_MAX];
    uint32_t set_n;
};

struct daemon {
    struct options opt;
    struct config cfg; /* at boot; control owns what comes after */
    struct notify notify;
    int locks[2]; /* fd + 1, so that 0 is none */
    struct arena_map arenas[STORE_POOLS];
    uint32_t arena_n;
    struct unit_pool pools[STORE_POOLS];
    struct unit_pool *pool_list[STORE_POOLS];
    int loan_fds[STORE_POOLS]; /* fd + 1 */
    struct control control;
    struct lane *lanes[UNIT_LANES_MAX];
    uint32_t lane_n;
    struct loop *loops[UNIT_LANES_MAX];
    struct loop_control *loop;
    struct admin *admin;
    char registry_path[300];
};

static struct daemon the_daemon; /* one a process: the crash hook needs it */

/* ---- Configuration ---- */

static enum err load_config(const struct options *opt, struct config *c,
                            struct errmsg *m)
{
    struct errmsg ignored = {""};
    enum err e = files_config(c, opt->config, environ, &ignored, m);

    for (uint32_t i = 0; i < opt->set_n && !e; i++)
        e = config_set_arg(c, opt->sets[i], m);
    if (!e)
        e = config_check(c, m);
    if (!e && ignored.text[0])
        LOG(LOG_WARN, "environment_ignored", "names=%s", LOG_STR(ignored.text));
    return e;
}

static enum err shell_reload(void *arg, struct config *out, struct errmsg *m)
{
    const struct daemon *d = arg;

    return load_config(&d->opt, out, m);
}

/* ---- Host ---- */

static void crash_hook(void)
{
    for (uint32_t i = 0; i < the_daemon.lane_n; i++)
        if (the_daemon.lanes[i])
            trace_dump(&the_daemon.lanes[i]->trace, STDERR_FILENO);
}

static enum err take_lock(struct daemon *d, uint32_t i, const char *path,
                          struct errmsg *m)
{
    int fd;
    enum err e = files_lock(path, &fd, m);

    if (!e)
        d->locks[i] = fd + 1;
    return e;
}

static enum err check_dir(const char *key, const char *file, struct errmsg *m)
{
    char path[300];
    const char *dir;
    enum err e;

    snprintf(path, sizeof(path), "%s", file);
    dir = dirname(path);
    e = files_dir_check(key, dir, m);
    if (e && geteuid() != 0 && strcmp(dir, "/run/pikvd") == 0) {
        size_t n = strlen(m->text);

        snprintf(m->text + n, sizeof(m->text) - n,
                 "; as an ordinary user: --set "
                 "listen.shm.path=${XDG_RUNTIME_DIR:-/tmp}/pikvd.sock");
    }
    return e;
}

static enum err host_locks(struct daemon *d, struct errmsg *m)
{
    const struct config *c = &d->cfg;
    char path[300];
    enum err e = OK;

    if (c->listen.shm.enabled) {
        e = check_dir("listen.shm.path", c->listen.shm.path, m);
        snprintf(path, sizeof(path), "%s.lock", c->listen.shm.path);
        if (!e)
            e = take_lock(d, 0, path, m);
    }
    if (!e && c->node.state_dir[0]) {
        e = files_dir_check("node.state_dir", c->node.state_dir, m);
        snprintf(path, sizeof(path), "%s/lock", c->node.state_dir);
        if (!e)
            e = take_lock(d, 1, path, m);
    }
    return e;
}

static enum err set_up_host(struct daemon *d, struct errmsg *m)
{
    struct errmsg why = {""};
    struct sigaction ignore = {.sa_handler = SIG_IGN};

    if (!d->cfg.node.name[0] &&
        gethostname(d->cfg.node.name, sizeof(d->cfg.node.name) - 1) != 0)
        snprintf(d->cfg.node.name, sizeof(d->cfg.node.name), "pikvd");
    log_setup((enum log_level)d->cfg.log.level,
              (enum log_format)d->cfg.log.format);
    sigaction(SIGPIPE, &ignore, NULL);
    must_hook_set(crash_hook);
    if (notify_open(&d->notify, getenv("NOTIFY_SOCKET"),
                    getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"), &why))
        LOG(LOG_WARN, "notify_unusable", "error=%s", LOG_STR(why.text));
    return host_locks(d, m);
}

static void tear_down_host(struct daemon *d)
{
    for (uint32_t i = 0; i < countof(d->locks); i++)
        if (d->locks[i])
            close(d->locks[i] - 1);
    notify_close(&d->notify);
}

/* ---- Memory ---- */

static enum err add_pool(struct daemon *d, uint64_t bytes, struct errmsg *m)
{
    uint32_t i = d->arena_n;
    enum err e = files_arena_open(&d->cfg, bytes, &d->arenas[i], m);

    if (e)
        return e;
    d->arena_n++;
    e = unit_pool_init(&d->pools[i], d->arenas[i].p, d->arenas[i].bytes,
                       d->lane_n);
    if (e)
        return errmsg_set(m, e, "dram: no memory for the pool's tables");
    d->pool_list[i] = &d->pools[i];
    LOG(LOG_INFO, "memory", "pool=%u bytes=%" PRIu64 " as=%s", i,
        d->arenas[i].bytes, LOG_STR(d->arenas[i].got));
    return OK;
}

static enum err set_up_memory(struct daemon *d, struct errmsg *m)
{
    const struct config *c = &d->cfg;
    uint64_t bytes, loan = c->dram.loan_capacity_bytes;
    enum err e = files_dram_bytes(c, &bytes, m);

    if (!e)
        e = add_pool(d, bytes, m);
    for (uint32_t i = 1; i <= c->dram.loan_namespaces && loan && !e; i++) {
        int fd;

        e = add_pool(d, align_up(loan, UNIT_BYTES), m);
        if (!e)
            e = files_arena_share(&d->arenas[i], &fd, m);
        if (!e)
            d->loan_fds[i] = fd + 1;
    }
    return e;
}

static void tear_down_memory(struct daemon *d)
{
    for (uint32_t i = d->arena_n; i-- > 0;) {
        if (d->loan_fds[i])
            close(d->loan_fds[i] - 1);
        unit_pool_fini(&d->pools[i]);
        files_arena_close(&d->arenas[i]);
    }
}

/* ---- Control ---- */

static enum err shell_save(void *arg, const char *text, size_t len)
{
    const struct daemon *d = arg;
    struct errmsg m;
    enum err e = files_replace(d->registry_path, text, len, &m);

    if (e)
        LOG(LOG_ERROR, "registry_not_saved", "error=%s", LOG_STR(m.text));
    return e;
}

static uint64_t shell_random(void *arg)
{
    uint64_t v;

    (void)arg;
    MUST(files_random(&v, sizeof(v)) == OK);
    return v;
}

static enum err load_registry(struct daemon *d, struct errmsg *m)
{
    char *text;
    size_t len;
    enum err e;

    if (access(d->registry_path, F_OK) != 0 && errno == ENOENT)
        return OK;
    e = files_read(d->registry_path, 64 << 20, &text, &len, m);
    if (e)
        return e;
    e = registry_load(&d->control.registry, text, len, m);
    free(text);
    if (e)
        return errmsg_wrap(m, e,
                           "%s: fix it, or move it away and all namespaces "
                           "start anew",
                           d->registry_path);
    LOG(LOG_INFO, "registry_loaded", "namespaces=%u", d->control.registry.n);
    return OK;
}

static enum err set_up_control(struct daemon *d, struct errmsg *m)
{
    bool keeps = d->cfg.node.state_dir[0] != '\0';
    struct control_shell shell = {
        .save = keeps ? shell_save : NULL,
        .reload = shell_reload,
        .random = shell_random,
        .arg = d,
        .wall_s = files_wall_us() / 1000000,
    };

    if (control_init(&d->control, &d->cfg, d->lanes, d->lane_n, &shell))
        return errmsg_set(m, ERR_NO_MEMORY,
                          "no memory for namespaces.max = %" PRIu64,
                          d->cfg.namespaces.max);
    snprintf(d->registry_path, sizeof(d->registry_path), "%s/namespaces.json",
             d->cfg.node.state_dir);
    return keeps ? load_registry(d, m) : OK;
}

static void tear_down_control(struct daemon *d)
{
    control_fini(&d->control);
}

/* ---- Lanes ---- */

static uint32_t count_lanes(const struct config *c)
{
    cpu_set_t cpus;
    uint32_t n;

    if (c->node.lanes)
        return (uint32_t)c->node.lanes;
    n = sched_getaffinity(0, sizeof(cpus), &cpus) == 0
            ? (uint32_t)CPU_COUNT(&cpus) / 2
            : 1;
    n = n < LANES_AUTO_MAX ? n : LANES_AUTO_MAX;
    return n ? n : 1;
}

/* Lane 0 listens where the configuration says, the others beside it. */
static void lane_addresses(struct lane *l, const struct config *c)
{
    if (c->listen.shm.enabled && l->idx == 0)
        snprintf(l->addr_shm, sizeof(l->addr_shm), "shm:%.120s",
                 c->listen.shm.path);
    else if (c->listen.shm.enabled)
        snprintf(l->addr_shm, sizeof(l->addr_shm), "shm:%.110s.%u",
                 c->listen.shm.path, l->idx);
    if (c->listen.ucx.enabled)
        snprintf(l->addr_ucx, sizeof(l->addr_ucx), "ucx:%.110s:%u",
                 c->listen.ucx.host, (unsigned)c->listen.ucx.port + l->idx);
}

static enum err add_lane(struct daemon *d, uint32_t i, struct errmsg *m)
{
    struct lane *l = calloc(1, sizeof(*l));

    if (!l || lane_init(l, &d->cfg, i, d->lane_n, d->pool_list, &d->control)) {
        free(l);
        return errmsg_set(m, ERR_NO_MEMORY,
                          "lane %u: no memory for its tables; fix: lower "
                          "limits.ops_per_lane or limits.clients",
                          i);
    }
    d->lanes[i] = l;
    l->own_uid = geteuid();
    for (uint32_t p = 0; p < d->arena_n; p++) {
        l->loan_fds[p] = d->loan_fds[p] - 1;
        l->loan_pool_bytes[p] = d->loan_fds[p] ? d->arenas[p].bytes : 0;
    }
    lane_addresses(l, &d->cfg);
    return OK;
}

static enum err set_up_lanes(struct daemon *d, struct errmsg *m)
{
    enum err e = OK;

    for (uint32_t i = 0; i < d->lane_n && !e; i++)
        e = add_lane(d, i, m);
    return e;
}

static void tear_down_lanes(struct daemon *d)
{
    for (uint32_t i = d->lane_n; i-- > 0;) {
        struct lane *l = d->lanes[i];

        d->lanes[i] = NULL;
        if (l)
            lane_fini(l);
        free(l);
    }
}

/* ---- Links and loops ---- */

static void shm_config(struct transport *t, const struct config *c)
{
    transport_shm_slice_set(t, c->loop.copy_slice_bytes);
}

static enum err open_shm(const struct config *c, const struct transport *base,
                         struct loop_transport *out, struct errmsg *m)
{
    const struct lane *l = base->lane;
    struct transport_shm_cfg cfg = {
        .path = l->addr_shm + strlen("shm:"),
        .mode = (uint32_t)c->listen.shm.mode,
        .ring_bytes = (uint32_t)c->listen.shm.ring_bytes,
        .peers_max = (uint32_t)c->limits.clients,
        .memories_per_peer = (uint32_t)c->limits.memories_per_client,
        .registered_bytes_per_peer = c->limits.registered_per_client_bytes,
        .copy_slice_bytes = c->loop.copy_slice_bytes,
    };
    enum err e = transport_shm_open(&cfg, base, &out->t, m);

    if (e)
        return e;
    out->fd = transport_shm_fd(out->t);
    out->close = transport_shm_close;
    out->config = shm_config;
    return OK;
}

static struct transport_ucx_cfg ucx_cfg(const struct config *c, uint32_t lane)
{
    uint64_t held = c->limits.rndv_per_client + c->limits.ops_per_client;

    return (struct transport_ucx_cfg){
        .host = c->listen.ucx.host,
        .port = (uint16_t)(c->listen.ucx.port + lane),
        .tls = c->listen.ucx.transports,
        .devices = c->listen.ucx.devices,
        .port_range = c->listen.ucx.port_range,
        .peers_max = (uint32_t)c->limits.clients,
        .sends_max = 2 * (uint32_t)c->limits.ops_per_lane,
        .xfers_max = 16 * (uint32_t)c->limits.ops_per_lane,
        .held_max = (uint32_t)held,
        .held_bytes = c->limits.bytes_per_client_bytes,
        .held_all = (uint32_t)min_u64(held * c->limits.clients, 16384),
        .inline_max = TP_EAGER_MAX,
        .slice_bytes = c->loop.copy_slice_bytes,
    };
}

static enum err open_ucx(const struct config *c, const struct transport *base,
                         struct loop_transport *out, struct errmsg *m)
{
    const struct lane *l = base->lane;
    struct transport_ucx_cfg cfg = ucx_cfg(c, l->idx);
    enum err e = transport_ucx_open(&cfg, base, &out->t, m);

    if (e)
        return e;
    out->fd = transport_ucx_fd(out->t);
    out->close = transport_ucx_close;
    return OK;
}

static enum err add_loop(struct daemon *d, struct lane *l, struct errmsg *m)
{
    struct transport base = {.events = &lane_events,
                             .lane = l,
                             .env = &l->env,
                             .metrics = &l->metrics,
                             .trace = &l->trace,
                             .limits = &l->limits};
    struct loop_transport tps[LANE_TRANSPORTS] = {{0}};
    uint64_t seed[2] = {shell_random(NULL), shell_random(NULL)};
    uint32_t n = 0;
    enum err e = OK;

    if (d->cfg.listen.shm.enabled) {
        e = open_shm(&d->cfg, &base, &tps[n], m);
        n += e == OK;
    }
    if (!e && d->cfg.listen.ucx.enabled) {
        e = open_ucx(&d->cfg, &base, &tps[n], m);
        n += e == OK;
    }
    if (!e)
        e = loop_new(&d->loops[l->idx], l, tps, n, seed, m);
    while (e && n-- > 0)
        tps[n].close(tps[n].t);
    return e;
}

static enum err set_up_links(struct daemon *d, struct errmsg *m)
{
    struct transport_ucx_cfg cfg = ucx_cfg(&d->cfg, 0);
    enum err e = OK;

    if (d->cfg.listen.ucx.enabled)
        e = transport_ucx_env(&cfg, m);
    for (uint32_t i = 0; i < d->lane_n && !e; i++)
        e = add_loop(d, d->lanes[i], m);
    return e;
}

static void tear_down_links(struct daemon *d)
{
    for (uint32_t i = d->lane_n; i-- > 0;) {
        loop_free(d->loops[i]);
        d->loops[i] = NULL;
    }
}

/* Lane threads take no signals: the control loop does. */
static enum err set_up_loops(struct daemon *d, struct errmsg *m)
{
    struct loop_control_cfg cfg = {
        .control = &d->control,
        .loops = d->loops,
        .notify = &d->notify,
        .arenas = d->arenas,
        .arena_n = d->cfg.dram.prefault ? d->arena_n : 0,
    };
    sigset_t all, old;
    enum err e = loop_control_open(&d->loop, &cfg, m);

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    for (uint32_t i = 0; i < d->lane_n && !e; i++)
        e = loop_start(d->loops[i], m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return e;
}

static void tear_down_loops(struct daemon *d)
{
    for (uint32_t i = 0; i < d->lane_n; i++)
        if (d->loops[i])
            loop_stop(d->loops[i]);
    for (uint32_t i = 0; i < d->lane_n; i++)
        if (d->loops[i])
            loop_join(d->loops[i]);
    while (d->loop && control_turn(&d->control))
        ;
    loop_control_close(d->loop);
}

/* ---- Admin ---- */

static enum err set_up_admin(struct daemon *d, struct errmsg *m)
{
    struct admin_cfg cfg = {.control = &d->control,
                            .loop = d->loop,
                            .arenas = d->arenas,
                            .arena_n = d->arena_n};

    return d->cfg.listen.admin.enabled ? admin_open(&d->admin, &cfg, m) : OK;
}

static void tear_down_admin(struct daemon *d)
{
    admin_close(d->admin);
}

/* ---- The daemon ---- */

static enum err set_up(struct daemon *d, struct errmsg *m)
{
    enum err e;

    d->lane_n = count_lanes(&d->cfg);
    e = set_up_host(d, m);
    e = e ? e : set_up_memory(d, m);
    e = e ? e : set_up_control(d, m);
    e = e ? e : set_up_lanes(d, m);
    e = e ? e : set_up_links(d, m);
    e = e ? e : set_up_loops(d, m);
    e = e ? e : set_up_admin(d, m);
    return e;
}

static void tear_down(struct daemon *d)
{
    tear_down_admin(d);
    tear_down_loops(d);
    tear_down_links(d);
    tear_down_lanes(d);
    tear_down_control(d);
    tear_down_memory(d);
    tear_down_host(d);
}

static int exit_status(enum err e)
{
    if (e == ERR_CONFIG || e == ERR_LIMIT || e == ERR_UNSUPPORTED)
        return EX_CONFIG;
    if (e == ERR_BUSY)
        return EX_UNAVAILABLE;
    return EX_OSERR;
}

static int fail(enum err e, const struct errmsg *m)
{
    fprintf(stderr, "pikvd: %s\n", m->text[0] ? m->text : err_text(e));
    return exit_status(e);
}

static void log_start(const struct daemon *d)
{
    char dram[32];

    LOG(LOG_NOTICE, "started",
        "version=%s node=%s lanes=%u dram=%s shm=%s ucx=%s admin=%s copy=%s "
        "config=%s",
        PIKV_VERSION, LOG_STR(d->cfg.node.name), d->lane_n,
        units_print_bytes(d->arenas[0].bytes, dram),
        d->cfg.listen.shm.enabled ? d->cfg.listen.shm.path : "off",
        d->cfg.listen.ucx.enabled ? d->cfg.listen.ucx.host : "off",
        d->cfg.listen.admin.enabled ? d->cfg.listen.admin.host : "off",
        copy_kind(), d->opt.config ? d->opt.config : "defaults");
}

static int serve(struct daemon *d)
{
    struct errmsg m = {""};
    enum err e = set_up(d, &m);

    if (e) {
        tear_down(d);
        return fail(e, &m);
    }
    log_start(d);
    if (!loop_control_run(d->loop))
        _exit(EX_SOFTWARE); /* a lane may still use what would be freed */
    tear_down(d);
    LOG(LOG_NOTICE, "stopped", "status=0");
    return EX_OK;
}

/* ---- Arguments ---- */

static const char help_text[] =
    "pikvd: a KV-cache server for LLM inference\n"
    "\n"
    "  --config FILE    read settings from FILE, then from conf.d/*.json\n"
    "                   beside it (default: built-in settings)\n"
    "  --set KEY=VALUE  one setting, over all others; may be repeated\n"
    "  --check-config   check the settings and exit: 0 or 78\n"
    "  --dump-config    print the settings in effect and who set them\n"
    "  --print-schema   print the JSON Schema of a configuration file\n"
    "  --explain TOPIC  print reference: " EXPLAIN_TOPICS "\n"
    "  --version, --help\n";

static int usage(const char *why, const char *what)
{
    fprintf(stderr, "pikvd: %s%s; pikvd --help lists what there is\n", why,
            what);
    return EX_USAGE;
}

/* -1 to go on, else the exit status. */
static int parse(struct options *opt, int argc, char **argv)
{
    static const struct option longs[] = {
        {"config", required_argument, NULL, 'c'},
        {"set", required_argument, NULL, 's'},
        {"check-config", no_argument, NULL, 'C'},
        {"dump-config", no_argument, NULL, 'D'},
        {"print-schema", no_argument, NULL, 'S'},
        {"explain", required_argument, NULL, 'E'},
        {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "c:h", longs, NULL)) != -1) {
        if (c == 'c')
            opt->config = optarg;
        else if (c == 's' && opt->set_n == SETS_MAX)
            return usage("too many --set", "");
        else if (c == 's')
            opt->sets[opt->set_n++] = optarg;
        else if (c == 'C')
            opt->mode = CHECK_CONFIG;
        else if (c == 'D')
            opt->mode = DUMP_CONFIG;
        else if (c == 'S')
            opt->mode = PRINT_SCHEMA;
        else if (c == 'E')
            opt->mode = EXPLAIN, opt->topic = optarg;
        else if (c == 'V')
            return puts("pikvd " PIKV_VERSION) < 0;
        else if (c == 'h')
            return fputs(help_text, stdout) < 0;
        else
            return EX_USAGE;
    }
    if (optind < argc)
        return usage("not an option: ", argv[optind]);
    return -1;
}

static int print_text(struct textbuf *t)
{
    int rc = t->bad || fwrite(t->text, 1, t->len, stdout) != t->len ||
                     fflush(stdout) != 0
                 ? EX_OSERR
                 : EX_OK;

    free(t->text);
    return rc;
}

static int run_mode(struct daemon *d)
{
    struct textbuf out = {0};
    struct errmsg m = {""};
    enum err e;

    if (d->opt.mode == PRINT_SCHEMA) {
        config_schema(&out);
        return print_text(&out);
    }
    if (d->opt.mode == EXPLAIN) {
        if (!explain(d->opt.topic, &out))
            return usage("nothing to explain about ", d->opt.topic);
        return print_text(&out);
    }
    e = load_config(&d->opt, &d->cfg, &m);
    if (e)
        return fail(e, &m);
    if (d->opt.mode == DUMP_CONFIG) {
        config_dump(&d->cfg, CONFIG_DUMP_ORIGINS, &out);
        return print_text(&out);
    }
    return d->opt.mode == CHECK_CONFIG ? EX_OK : serve(d);
}

int main(int argc, char **argv)
{
    int rc = parse(&the_daemon.opt, argc, argv);

    log_clock_set(files_wall_us);
    return rc >= 0 ? rc : run_mode(&the_daemon);
}
