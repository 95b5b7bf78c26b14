/* SPDX-License-Identifier: Apache-2.0
 *
 * Start and stop of the SSDs (ssd_boot.h): one loop over all lanes that turns
 * their mail, disks and logs, and sleeps in poll() until a disk has something.
 *
 * Recovery is bounded by the size of the SSDs only; the service manager is told
 * every EXTEND_S that it goes on. */
#include "server/ssd_boot.h"

#include <inttypes.h>
#include <poll.h>
#include <string.h>

#include "base/log.h"
#include "base/units.h"
#include "server/disk_open.h"

enum { WAIT_MS = 10, MAIL_PER_TURN = 64, EXTEND_S = 5, EXTEND_MORE_S = 30 };

/* ---- Turning all lanes --------------------------------------------------- */

static uint64_t boot_clock_ns(void *arg)
{
    (void)arg;
    return files_mono_ns();
}

static struct lane *lane_at(const struct ssd_boot *b, uint32_t i)
{
    return b->node.lanes[i];
}

static void boot_clock(struct lane *l)
{
    l->env.clock_ns = boot_clock_ns;
    l->env.now_ns = files_mono_ns();
    l->env.wall_s = files_wall_us() / 1000000;
}

/* true: there is more to do now. */
static bool boot_turn(const struct ssd_boot *b)
{
    bool more = false;

    for (uint32_t i = 0; i < b->node.lane_n; i++) {
        struct lane *l = lane_at(b, i);

        boot_clock(l);
        more |= mailbox_run(&l->mailbox, l, MAIL_PER_TURN) > 0;
        if (b->disks[i])
            more |= ssd_link_turn(&l->link);
    }
    return more;
}

static void boot_awake(const struct ssd_boot *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (b->disks[i])
            b->disks[i]->ops->awake(b->disks[i]);
}

/* Until a disk has something, or WAIT_MS: logs have clocks too. */
static void boot_wait(const struct ssd_boot *b)
{
    struct pollfd fds[UNIT_LANES_MAX];
    nfds_t n = 0;

    for (uint32_t i = 0; i < b->node.lane_n; i++) {
        struct disk *d = b->disks[i];

        if (!d)
            continue;
        if (!d->ops->arm(d)) {
            boot_awake(b, i);
            return;
        }
        fds[n++] = (struct pollfd){.fd = disk_fd(d), .events = POLLIN};
    }
    (void)poll(fds, n, WAIT_MS);
    boot_awake(b, b->node.lane_n);
}

static struct ssd_log *log_at(const struct ssd_boot *b, uint32_t dev)
{
    return &lane_at(b, ssd_owner(&b->node, dev))->link.logs[dev];
}

/* ---- Start --------------------------------------------------------------- */

enum err ssd_boot_paths(struct ssd_boot *b, const struct config *c,
                        struct errmsg *m)
{
    enum err e;

    if (!c->ssd.paths[0])
        return OK;
    e = files_ssds_open(&b->files, c, m);
    for (uint32_t i = 0; !e && i < b->files.n; i++) {
        struct ssd_dev *d = &b->node.devs[i];

        memcpy(d->path, b->files.of[i].path, sizeof(d->path));
        d->bytes = b->files.of[i].bytes;
        d->is_file = !b->files.of[i].is_block;
        d->why = "";
    }
    return e;
}

uint64_t ssd_boot_bytes(const struct ssd_boot *b)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < b->files.n; i++)
        bytes += b->files.of[i].bytes;
    return bytes;
}

/* Blocks of a namespace that a lane does not know are not recovered. */
static enum err start_namespaces(const struct ssd_boot_cfg *cfg,
                                 struct errmsg *m)
{
    enum err e = control_tell_lanes(cfg->control);

    return e ? errmsg_set(m, e, "the namespaces do not fit: %s", err_text(e))
             : OK;
}

static enum err start_disk(struct ssd_boot *b, const struct ssd_boot_cfg *cfg,
                           uint32_t i, struct errmsg *m)
{
    struct lane *l = lane_at(b, i);
    struct span mems[STORE_POOLS];
    struct disk_cfg dc = {
        .engine = (enum config_engine)cfg->cfg->ssd.engine,
        .dev_n = b->files.n,
        .mems = mems,
        .mem_n = cfg->arena_n,
        .env = &l->env,
        .metrics = &l->metrics,
    };
    enum err e;

    boot_clock(l); /* logs measure from their first io on */
    for (uint32_t d = 0; d < b->files.n; d++) {
        dc.fds[d] = b->files.of[d].fd;
        dc.bytes[d] = b->files.of[d].bytes;
    }
    for (uint32_t a = 0; a < cfg->arena_n; a++)
        mems[a] = (struct span){cfg->arenas[a].p, cfg->arenas[a].bytes};
    e = disk_open(&b->disks[i], &dc, m);
    if (e)
        return e;
    if (i > 0) /* gauges of lanes are added up */
        metric_set(&l->metrics.ssd_fallback, 0);
    e = ssd_link_init(&l->link, l, &b->node, b->disks[i]);
    return e ? errmsg_set(m, e, "lane %u: no memory for the SSD tier", i) : OK;
}

static enum err start_logs(struct ssd_boot *b, struct errmsg *m)
{
    enum err e = OK;

    for (uint32_t d = 0; d < b->node.n && !e; d++) {
        uint8_t uuid[16];

        e = files_uuid(uuid, m);
        if (!e)
            e = ssd_link_open(&lane_at(b, ssd_owner(&b->node, d))->link, d,
                              SEGLOG_OPEN_OR_FORMAT, uuid, m);
    }
    return e;
}

static bool all_opened(const struct ssd_boot *b)
{
    for (uint32_t d = 0; d < b->node.n; d++)
        if (log_at(b, d)->log && !log_at(b, d)->opened)
            return false;
    return true;
}

static void start_recover(struct ssd_boot *b, struct notify *notify)
{
    uint64_t told_ns = 0;

    while (!all_opened(b)) {
        uint64_t now = files_mono_ns();

        if (now - told_ns >= EXTEND_S * NS_PER_S) {
            told_ns = now;
            (void)notify_extend(notify, EXTEND_MORE_S * UINT64_C(1000000));
            (void)notify_status(notify, "recovering the SSD tier");
        }
        if (!boot_turn(b))
            boot_wait(b);
    }
    for (uint32_t i = 0; i < b->node.lane_n; i++)
        store_adopted(lane_at(b, i)->store);
}

/* ERR_IO: the device, not what is on it. */
static enum err start_judge(struct ssd_boot *b, uint32_t dev, struct errmsg *m)
{
    const struct ssd_log *g = log_at(b, dev);
    struct ssd_dev *d = &b->node.devs[dev];
    struct seglog_info i;
    char size[32];

    seglog_info(g->log, &i);
    if (g->err == ERR_IO) {
        if (!*d->why)
            d->why = "it could not be opened";
        LOG(LOG_ERROR, "ssd_not_opened", "ssd=%s error=%s", LOG_STR(d->path),
            LOG_STR(g->msg.text));
        return OK;
    }
    if (g->err)
        return errmsg_set(m, g->err, "ssd.paths: %s: %s", d->path, g->msg.text);
    LOG(LOG_INFO, "ssd_opened",
        "ssd=%s engine=%s bytes=%s records=%" PRIu64 " ms=%" PRIu64
        " from_checkpoint=%d",
        LOG_STR(d->path), d->engine, units_print_bytes(i.bytes, size),
        i.recovered_records, i.recovered_ms, i.from_checkpoint);
    return OK;
}

enum err ssd_boot_start(struct ssd_boot *b, const struct ssd_boot_cfg *cfg,
                        struct errmsg *m)
{
    enum err e;

    if (!b->files.n)
        return OK;
    b->node.n = b->files.n;
    b->node.lanes = cfg->control->lanes;
    b->node.lane_n = cfg->control->lane_n;
    e = start_namespaces(cfg, m);
    for (uint32_t i = 0; i < b->node.lane_n && !e; i++)
        e = start_disk(b, cfg, i, m);
    for (uint32_t d = 0; d < b->node.n && !e; d++)
        b->node.devs[d].engine = b->disks[0]->ops->name;
    if (!e)
        e = start_logs(b, m);
    if (e)
        return e;
    start_recover(b, cfg->notify);
    for (uint32_t d = 0; d < b->node.n && !e; d++)
        e = start_judge(b, d, m);
    return e;
}

/* ---- Stop ---------------------------------------------------------------- */

static bool all_closed(const struct ssd_boot *b)
{
    for (uint32_t i = 0; i < b->node.lane_n; i++)
        if (b->disks[i] && (!ssd_link_closed(&lane_at(b, i)->link) ||
                            !ssd_link_quiet(&lane_at(b, i)->link)))
            return false;
    return true;
}

/* Turns until it is so, or until end_ns. */
static bool stop_turn(const struct ssd_boot *b, uint64_t end_ns,
                      bool (*is)(const struct ssd_boot *))
{
    while (!is(b)) {
        if (files_mono_ns() >= end_ns)
            return false;
        if (!boot_turn(b))
            boot_wait(b);
    }
    return true;
}

static bool stop_logs(struct ssd_boot *b, bool checkpoint, uint64_t timeout_us)
{
    uint64_t end_ns = files_mono_ns() + timeout_us * NS_PER_US;

    if (!stop_turn(b, end_ns, all_opened)) /* a start that failed */
        return false;
    for (uint32_t i = 0; i < b->node.lane_n; i++) {
        lane_at(b, i)->closing = true;
        if (b->disks[i])
            ssd_link_close(&lane_at(b, i)->link, checkpoint);
    }
    return stop_turn(b, end_ns, all_closed);
}

/* What lanes were told at the end and nobody waits for: a lane that goes must
 * have an empty mailbox. */
static void stop_mail(const struct ssd_boot *b)
{
    bool more = true;

    while (more) {
        more = false;
        for (uint32_t i = 0; i < b->node.lane_n; i++)
            more |= mailbox_run(&lane_at(b, i)->mailbox, lane_at(b, i),
                                MAIL_PER_TURN) > 0;
    }
}

bool ssd_boot_stop(struct ssd_boot *b, bool checkpoint, uint64_t timeout_us)
{
    if (b->node.n && !stop_logs(b, checkpoint, timeout_us)) {
        LOG(LOG_ERROR, "ssd_stop_timeout", "after_ms=%" PRIu64,
            timeout_us / 1000);
        for (uint32_t i = 0; i < b->node.lane_n; i++)
            if (b->disks[i] && b->disks[i]->in_flight)
                return false;
    }
    stop_mail(b);
    for (uint32_t d = 0; d < b->node.n; d++) {
        const struct ssd_log *g = log_at(b, d);

        if (g->log)
            LOG(LOG_INFO, "ssd_closed", "ssd=%s status=%s",
                LOG_STR(b->node.devs[d].path), err_name(g->err));
    }
    for (uint32_t i = 0; i < b->node.lane_n; i++)
        disk_close(b->disks[i]);
    files_ssds_close(&b->files);
    return true;
}
