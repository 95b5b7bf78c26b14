/* SPDX-License-Identifier: Apache-2.0
 *
 * pikvd: arguments, then the daemon from the bottom up, then down again.
 *
 *   host      clock of the log, locks, service manager
 *   memory    one arena per pool: DRAM, and one per loan namespace
 *   control   configuration, namespaces
 *   paths     of the SSDs: opened and locked
 *   lanes     stores and sessions; no threads yet
 *   ssd       disks, logs; what lies on the SSDs is found again
 *   links     transports: from here on clients may connect
 *   loop      the control thread's
 *   cluster   links to other daemons; the last view is with the lanes
 *   loops     one thread per lane
 *   admin     HTTP on the control loop
 *   door      for Redis clients, on a thread of its own; a client of the lanes
 *   run       this thread is the control thread until a signal
 *
 * set_up() is this list, tear_down() the same in reverse; each part accepts
 * zeros, so a failed start undoes exactly what was done.
 *
 * Whatever stops a start is one line on stderr that names the setting and the
 * fix, and an exit status of sysexits.h: 64 usage, 78 configuration, 69
 * something is in use, 71 the system refused, 70 a lane did not end, or the
 * voters' disk failed. */
#include <inttypes.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/copy.h"
#include "base/log.h"
#include "base/units.h"
#include "door/door.h"
#include "server/admin.h"
#include "server/args.h"
#include "server/cluster_loop.h"
#include "server/control.h"
#include "server/explain.h"
#include "server/files.h"
#include "server/files_registry.h"
#include "server/lane.h"
#include "server/loop.h"
#include "server/loop_control.h"
#include "server/loop_links.h"
#include "server/notify.h"
#include "server/ssd_boot.h"

enum { MAIN_PATH = CONFIG_STRING + 32 };

struct daemon {
    struct args args;
    struct config cfg; /* at boot; control owns what comes after */
    struct notify notify;
    int locks[2]; /* fd + 1, so that 0 is none */
    struct arena_map arenas[STORE_POOLS];
    uint32_t arena_n;
    struct unit_pool pools[STORE_POOLS];
    struct unit_pool *pool_list[STORE_POOLS];
    int loan_fds[STORE_POOLS]; /* fd + 1 */
    struct control control;
    struct ssd_boot ssd;
    struct lane *lanes[UNIT_LANES_MAX];
    uint32_t lane_n;
    struct loop *loops[UNIT_LANES_MAX];
    struct loop_control *loop;
    struct cluster_loop *cluster;
    bool fatal; /* it must end, and not with 0 */
    struct admin *admin;
    struct door *door;
    struct metrics beside; /* what the door and the cluster count */
    char registry_path[MAIN_PATH];
};

static struct daemon the_daemon; /* one a process: the crash hook needs it */

/* ---- Configuration ---- */

static enum err shell_reload(void *arg, struct config *out, struct errmsg *m)
{
    const struct daemon *d = arg;

    return args_config_here(&d->args, out, m);
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

/* Behind what the decider said. */
static void add_fix(struct errmsg *m, const char *text)
{
    size_t n = strlen(m->text);

    snprintf(m->text + n, sizeof(m->text) - n, "; %s", text);
}

static enum err check_dir(const char *key, const char *file, struct errmsg *m)
{
    char path[MAIN_PATH];
    const char *dir;
    enum err e;

    snprintf(path, sizeof(path), "%s", file);
    dir = dirname(path);
    e = files_dir_check(key, dir, m);
    if (e && geteuid() != 0 && strcmp(dir, "/run/pikvd") == 0)
        add_fix(m, "as an ordinary user: --set "
                   "listen.shm.path=${XDG_RUNTIME_DIR:-/tmp}/pikvd.sock");
    return e;
}

static enum err host_locks(struct daemon *d, struct errmsg *m)
{
    const struct config *c = &d->cfg;
    char path[MAIN_PATH];
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

    return files_registry_save(d->registry_path, text, len);
}

static uint64_t shell_random(void *arg)
{
    uint64_t v;

    (void)arg;
    MUST(files_random(&v, sizeof(v)) == OK);
    return v;
}

static enum err set_up_control(struct daemon *d, struct errmsg *m)
{
    bool keeps = d->cfg.node.state_dir[0] != '\0';
    struct control_shell shell = {
        .save = keeps ? shell_save : NULL,
        .reload = shell_reload,
        .random = shell_random,
        .arg = d,
        .wall_us = files_wall_us(),
    };

    if (control_init(&d->control, &d->cfg, d->lanes, d->lane_n, &shell))
        return errmsg_set(m, ERR_NO_MEMORY,
                          "no memory for namespaces.max = %" PRIu64,
                          d->cfg.namespaces.max);
    snprintf(d->registry_path, sizeof(d->registry_path), "%s/namespaces.json",
             d->cfg.node.state_dir);
    d->control.beside = &d->beside;
    return keeps ? files_registry_load(&d->control.registry, d->registry_path,
                                       m)
                 : OK;
}

static void tear_down_control(struct daemon *d)
{
    control_fini(&d->control);
}

/* ---- Lanes ---- */

static enum err add_lane(struct daemon *d, uint32_t i, struct errmsg *m)
{
    struct lane *l = calloc(1, sizeof(*l));

    if (l) { /* versions start at the wall clock (store_new) */
        l->env.boot_us = files_wall_us();
        l->ssd_bytes = ssd_boot_bytes(&d->ssd);
    }
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
    loop_links_address(&d->cfg, l);
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

/* ---- SSDs ---- */

static enum err set_up_ssd(struct daemon *d, struct errmsg *m)
{
    struct ssd_boot_cfg cfg = {&d->cfg, &d->control, d->arenas, d->arena_n,
                               &d->notify};

    return ssd_boot_start(&d->ssd, &cfg, m);
}

static void tear_down_ssd(struct daemon *d)
{
    if (!ssd_boot_stop(&d->ssd, d->cfg.ssd.checkpoint,
                       max_u64(d->cfg.drain.timeout_us, 1000000)))
        _exit(EX_SOFTWARE); /* it may still write to what would be freed */
}

/* ---- Links and loops ---- */

static enum err add_loop(struct daemon *d, struct lane *l, struct errmsg *m)
{
    struct loop_transport tps[LANE_TRANSPORTS];
    uint64_t seed[2] = {shell_random(NULL), shell_random(NULL)};
    uint32_t n;
    enum err e = loop_links_open(&d->cfg, l, tps, &n, m);

    if (e)
        return e;
    e = loop_new(&d->loops[l->idx], l, tps, n, seed, m);
    while (e && n-- > 0)
        tps[n].close(tps[n].t);
    return e;
}

static enum err set_up_links(struct daemon *d, struct errmsg *m)
{
    enum err e = loop_links_env(&d->cfg, m);

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
    loop_control_close(d->loop); /* loops wake it until they are gone */
}

static void on_drain(void *arg)
{
    const struct daemon *d = arg;

    door_drain(d->door);
    cluster_loop_drain(d->cluster);
}

static enum err set_up_loop(struct daemon *d, struct errmsg *m)
{
    struct loop_control_cfg cfg = {
        .control = &d->control,
        .loops = d->loops,
        .notify = &d->notify,
        .arenas = d->arenas,
        .arena_n = d->cfg.dram.prefault ? d->arena_n : 0,
        .on_drain = on_drain,
        .arg = d,
    };

    return loop_control_open(&d->loop, &cfg, m);
}

/* Lane threads take no signals: the control loop does. */
static enum err set_up_loops(struct daemon *d, struct errmsg *m)
{
    sigset_t all, old;
    enum err e = OK;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    for (uint32_t i = 0; i < d->lane_n && !e; i++)
        e = loop_start(d->loops[i], m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return e;
}

static void tear_down_loops(struct daemon *d)
{
    if (d->loop && !loop_control_stop(d->loop))
        _exit(EX_SOFTWARE); /* a lane may still use what would be freed */
    for (uint32_t i = 0; i < d->lane_n; i++)
        if (d->loops[i])
            loop_join(d->loops[i]);
}

/* ---- Cluster ---- */

static void cluster_fatal(void *arg)
{
    struct daemon *d = arg;

    d->fatal = true;
    kill(getpid(), SIGTERM);
}

static enum err set_up_cluster(struct daemon *d, struct errmsg *m)
{
    struct cluster_loop_cfg cfg = {&d->control, loop_control_uv(d->loop),
                                   &d->beside, cluster_fatal, d};

    return d->cfg.cluster.enabled ? cluster_loop_open(&d->cluster, &cfg, m)
                                  : OK;
}

static void tear_down_cluster(struct daemon *d)
{
    cluster_loop_close(d->cluster);
}

/* ---- Admin ---- */

static enum err set_up_admin(struct daemon *d, struct errmsg *m)
{
    struct admin_cfg cfg = {.control = &d->control,
                            .loop = d->loop,
                            .arenas = d->arenas,
                            .arena_n = d->arena_n,
                            .cluster = d->cluster,
                            .ssd = &d->ssd.node};

    return d->cfg.listen.admin.enabled ? admin_open(&d->admin, &cfg, m) : OK;
}

static void tear_down_admin(struct daemon *d)
{
    admin_close(d->admin);
}

/* ---- Door ---- */

static enum err set_up_door(struct daemon *d, struct errmsg *m)
{
    return d->cfg.listen.resp.enabled
               ? door_open(&d->door, &d->cfg, &d->beside, m)
               : OK;
}

/* ---- The daemon ---- */

static enum err set_up(struct daemon *d, struct errmsg *m)
{
    enum err e;

    d->lane_n = files_lanes(&d->cfg);
    e = set_up_host(d, m);
    e = e ? e : set_up_memory(d, m);
    e = e ? e : set_up_control(d, m);
    e = e ? e : ssd_boot_paths(&d->ssd, &d->cfg, m);
    e = e ? e : set_up_lanes(d, m);
    e = e ? e : set_up_ssd(d, m);
    e = e ? e : set_up_links(d, m);
    e = e ? e : set_up_loop(d, m);
    e = e ? e : set_up_cluster(d, m);
    e = e ? e : set_up_loops(d, m);
    e = e ? e : set_up_admin(d, m);
    e = e ? e : set_up_door(d, m);
    return e;
}

static void tear_down(struct daemon *d)
{
    door_close(d->door);
    tear_down_loops(d);
    tear_down_admin(d);
    tear_down_cluster(d);
    tear_down_links(d);
    tear_down_ssd(d);
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
        "version=%s node=%s lanes=%u dram=%s shm=%s ucx=%s admin=%s resp=%s "
        "copy=%s config=%s",
        args_version, LOG_STR(d->cfg.node.name), d->lane_n,
        units_print_bytes(d->arenas[0].bytes, dram),
        d->cfg.listen.shm.enabled ? d->cfg.listen.shm.path : "off",
        d->cfg.listen.ucx.enabled ? d->cfg.listen.ucx.host : "off",
        d->cfg.listen.admin.enabled ? d->cfg.listen.admin.host : "off",
        d->cfg.listen.resp.enabled ? d->cfg.listen.resp.host : "off",
        copy_kind(), d->args.config ? d->args.config : "defaults");
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
    loop_control_run(d->loop);
    tear_down(d);
    LOG(LOG_NOTICE, "stopped", "status=%d", d->fatal ? EX_SOFTWARE : EX_OK);
    return d->fatal ? EX_SOFTWARE : EX_OK;
}

/* ---- What to do ---- */

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

    if (d->args.mode == ARGS_PRINT_SCHEMA) {
        config_schema(&out);
        return print_text(&out);
    }
    if (d->args.mode == ARGS_EXPLAIN) {
        if (!explain(d->args.topic, &out))
            return args_usage("nothing to explain about ", d->args.topic);
        return print_text(&out);
    }
    e = d->args.mode == ARGS_SERVE ? args_config_here(&d->args, &d->cfg, &m)
                                   : args_config(&d->args, &d->cfg, &m);
    if (e)
        return fail(e, &m);
    if (d->args.mode == ARGS_DUMP_CONFIG) {
        config_dump(&d->cfg, CONFIG_DUMP_ORIGINS, &out);
        return print_text(&out);
    }
    return d->args.mode == ARGS_CHECK_CONFIG ? EX_OK : serve(d);
}

int main(int argc, char **argv)
{
    int rc = args_parse(&the_daemon.args, argc, argv);

    log_clock_set(files_wall_us);
    return rc >= 0 ? rc : run_mode(&the_daemon);
}
