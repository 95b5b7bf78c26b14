/* SPDX-License-Identifier: Apache-2.0
 *
 * Handles of the control thread's loop, each with one small job:
 *
 *   async     control's mailbox has mail
 *   signals   stop, reload
 *   look      every LOOK_MS: did each lane turn? WATCHDOG=1 only if all did
 *   status    every STATUS_MS: one line for systemctl status
 *   stop      while stopping, every STOP_MS: how far are the lanes?
 *   work      one slice of memory being touched on a worker thread
 *
 * A lane with nothing to do sleeps, so each look also sends it a ping, which
 * makes it turn. A lane that did not turn for LOOKS_MISSED looks in a row is
 * stuck: on a machine that is merely busy one look says little. */
#include "server/loop_control.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#include "base/fault.h"
#include "base/log.h"
#include "base/units.h"

enum {
    LOOK_MS = 1000,
    LOOKS_MISSED = 3,
    STATUS_MS = 5000,
    STOP_MS = 5,
    PREFAULT_SLICE = 32 << 20,
    MAIL_TURNS = 16, /* of control, before other handles get theirs */
};

enum stage { RUNNING, DRAINING, STOPPING, ENDED, STUCK };

struct loop_control {
    struct loop_control_cfg cfg;
    uv_loop_t uv;
    uv_async_t mail;
    uv_signal_t term, intr, hup;
    uv_timer_t look, status, stop;
    uv_work_t work;
    bool working;
    uint32_t arena; /* next to touch */
    uint64_t off;   /* in it */
    uint64_t prefaulted_bytes;
    enum stage stage;
    uint64_t begin_ns, stage_ns;
    uint64_t ticks[UNIT_LANES_MAX];
    uint32_t missed[UNIT_LANES_MAX]; /* looks in a row without a turn */
    bool pinging;
};

/* ---- Mail ---- */

static void loop_wake(void *arg)
{
    struct loop_control *lc = arg;

    MUST(uv_async_send(&lc->mail) == 0);
}

static void on_mail(uv_async_t *h)
{
    struct loop_control *lc = h->data;

    for (int i = 0; i < MAIL_TURNS; i++)
        if (!control_turn(lc->cfg.control))
            return;
    loop_wake(lc);
}

/* ---- Looking after lanes ---- */

static void ping_acked(struct ctl_job *job)
{
    struct loop_control *lc = job->arg;

    lc->pinging = false;
    control_job_end(job);
}

static void look_ping(struct loop_control *lc)
{
    struct ctl_job *job;

    if (lc->pinging)
        return;
    job = control_job(lc->cfg.control);
    if (!job)
        return;
    job->arg = lc;
    lc->pinging = true;
    control_job_send(job, lane_ping_mail, ping_acked);
}

static bool look_lane(struct loop_control *lc, uint32_t i)
{
    const struct lane *l = lc->cfg.control->lanes[i];
    uint64_t ticks = __atomic_load_n(&l->ticks, __ATOMIC_RELAXED);

    lc->missed[i] = ticks == lc->ticks[i] ? lc->missed[i] + 1 : 0;
    lc->ticks[i] = ticks;
    if (lc->missed[i] == LOOKS_MISSED)
        LOG(LOG_ERROR, "lane_stuck", "lane=%u turns=%" PRIu64, i, ticks);
    return lc->missed[i] == 0;
}

static void on_look(uv_timer_t *h)
{
    struct loop_control *lc = h->data;
    bool all = true;

    if (lc->stage != RUNNING && lc->stage != DRAINING)
        return; /* no question may be out at the end of the stop */
    for (uint32_t i = 0; i < lc->cfg.control->lane_n; i++)
        all &= look_lane(lc, i);
    if (all)
        (void)notify_watchdog(lc->cfg.notify);
    look_ping(lc);
}

static void on_status(uv_timer_t *h)
{
    static struct metrics sum; /* large; this thread's only */
    struct loop_control *lc = h->data;
    char text[256], used[32], all[32];

    if (lc->stage != RUNNING)
        return;
    sum = (struct metrics){0};
    lanes_metrics(lc->cfg.control, &sum);
    snprintf(text, sizeof(text),
             "serving %" PRIu64 " connections, %" PRIu64
             " blocks, %s of %s DRAM",
             sum.peers, sum.blocks, units_print_bytes(sum.block_bytes, used),
             units_print_bytes(sum.dram_capacity_bytes, all));
    (void)notify_status(lc->cfg.notify, text);
}

/* ---- Touching memory: one slice at a time, so that a stop waits for one ----
 */

static const struct arena_map *prefault_arena(const struct loop_control *lc)
{
    return &lc->cfg.arenas[lc->arena];
}

static void prefault_slice(uv_work_t *w)
{
    const struct loop_control *lc = w->data;
    const struct arena_map *a = prefault_arena(lc);

    files_arena_prefault(a, lc->off,
                         min_u64(PREFAULT_SLICE, a->bytes - lc->off));
}

static void prefault_next(struct loop_control *lc);

static void prefault_done(uv_work_t *w, int status)
{
    struct loop_control *lc = w->data;
    const struct arena_map *a = prefault_arena(lc);
    uint64_t n = min_u64(PREFAULT_SLICE, a->bytes - lc->off);

    lc->working = false;
    if (status)
        return;
    lc->prefaulted_bytes += n;
    lc->off += n;
    if (lc->off == a->bytes) {
        lc->arena++;
        lc->off = 0;
    }
    prefault_next(lc);
}

static void prefault_next(struct loop_control *lc)
{
    uint64_t ms = (uv_now(&lc->uv) * NS_PER_MS - lc->begin_ns) / NS_PER_MS;

    if (lc->stage != RUNNING || !lc->cfg.arena_n)
        return; /* what may stay untouched is not registered either */
    if (lc->arena == lc->cfg.arena_n) {
        LOG(LOG_INFO, "memory_ready", "bytes=%" PRIu64 " ms=%" PRIu64,
            lc->prefaulted_bytes, ms);
        for (uint32_t i = 0; i < lc->cfg.control->lane_n; i++)
            loop_memory_ready(lc->cfg.loops[i]);
        return;
    }
    lc->work.data = lc;
    lc->working =
        uv_queue_work(&lc->uv, &lc->work, prefault_slice, prefault_done) == 0;
}

/* ---- Stop ---- */

static void stop_goto(struct loop_control *lc, enum stage stage)
{
    lc->stage = stage;
    lc->stage_ns = files_mono_ns();
}

static bool stop_all(const struct loop_control *lc,
                     bool (*is)(const struct loop *))
{
    for (uint32_t i = 0; i < lc->cfg.control->lane_n; i++)
        if (lc->cfg.loops[i] && !is(lc->cfg.loops[i]))
            return false;
    return true;
}

/* Cuts what still runs. */
static void stop_cut(struct loop_control *lc)
{
    stop_goto(lc, STOPPING);
    for (uint32_t i = 0; i < lc->cfg.control->lane_n; i++)
        if (lc->cfg.loops[i])
            loop_stop(lc->cfg.loops[i]);
}

static void stop_end(struct loop_control *lc, enum stage stage)
{
    stop_goto(lc, stage);
    uv_stop(&lc->uv);
}

static void on_stop_timer(uv_timer_t *h)
{
    struct loop_control *lc = h->data;
    uint64_t waited_ns = files_mono_ns() - lc->stage_ns;
    uint64_t timeout_us = lc->cfg.control->cfg->drain.timeout_us;

    switch (lc->stage) {
    case RUNNING:
    case ENDED:
    case STUCK:
        return;
    case DRAINING:
        if (stop_all(lc, loop_drained)) {
            stop_cut(lc);
        } else if (waited_ns >= timeout_us * NS_PER_US) {
            LOG(LOG_WARN, "drain_timeout", "after_ms=%" PRIu64,
                waited_ns / NS_PER_MS);
            stop_cut(lc);
        }
        return;
    case STOPPING:
        if (stop_all(lc, loop_done) && control_idle(lc->cfg.control) &&
            !lc->working) {
            stop_end(lc, ENDED);
        } else if (waited_ns >= LOOP_STUCK_MS * NS_PER_MS) {
            LOG(LOG_ERROR, "stop_stuck", "after_ms=%" PRIu64,
                waited_ns / NS_PER_MS);
            stop_end(lc, STUCK);
        }
        return;
    }
}

static void drain_acked(struct ctl_job *job)
{
    control_job_end(job);
}

static void stop_begin(struct loop_control *lc, const char *signal_name)
{
    struct ctl_job *job = control_job(lc->cfg.control);

    LOG(LOG_NOTICE, "stopping", "signal=%s", signal_name);
    (void)notify_stopping(lc->cfg.notify, "waiting for requests in flight");
    stop_goto(lc, DRAINING);
    if (lc->cfg.on_drain)
        lc->cfg.on_drain(lc->cfg.arg);
    uv_timer_start(&lc->stop, on_stop_timer, 0, STOP_MS);
    if (job)
        control_job_send(job, lane_drain_mail, drain_acked);
    else
        stop_cut(lc);
}

static void on_stop_signal(uv_signal_t *h, int signum)
{
    struct loop_control *lc = h->data;
    const char *name = signum == SIGTERM ? "SIGTERM" : "SIGINT";

    if (lc->stage == RUNNING)
        stop_begin(lc, name);
    else if (lc->stage == DRAINING)
        stop_cut(lc);
}

/* ---- Reload ---- */

static void on_hup(uv_signal_t *h, int signum)
{
    struct loop_control *lc = h->data;
    struct errmsg m = {""};
    enum err e;

    (void)signum;
    if (lc->stage != RUNNING)
        return;
    (void)notify_reloading(lc->cfg.notify);
    e = control_reload(lc->cfg.control, NULL, &m);
    (void)notify_ready(lc->cfg.notify,
                       e ? "reload failed, see the log" : "reloaded");
}

/* ---- Life ---- */

static int open_signal(struct loop_control *lc, uv_signal_t *h, uv_signal_cb cb,
                       int signum)
{
    int rc = uv_signal_init(&lc->uv, h);

    h->data = lc;
    return rc ? rc : uv_signal_start(h, cb, signum);
}

static int open_timer(struct loop_control *lc, uv_timer_t *h, uv_timer_cb cb,
                      uint64_t ms)
{
    int rc = uv_timer_init(&lc->uv, h);

    h->data = lc;
    return rc || !cb ? rc : uv_timer_start(h, cb, ms, ms);
}

static int open_handles(struct loop_control *lc)
{
    int rc = uv_async_init(&lc->uv, &lc->mail, on_mail);

    lc->mail.data = lc;
    if (!rc)
        rc = open_signal(lc, &lc->term, on_stop_signal, SIGTERM);
    if (!rc)
        rc = open_signal(lc, &lc->intr, on_stop_signal, SIGINT);
    if (!rc)
        rc = open_signal(lc, &lc->hup, on_hup, SIGHUP);
    if (!rc)
        rc = open_timer(lc, &lc->look, on_look, LOOK_MS);
    if (!rc)
        rc = open_timer(lc, &lc->status, on_status, STATUS_MS);
    if (!rc)
        rc = open_timer(lc, &lc->stop, NULL, 0);
    return rc;
}

static void close_handle(uv_handle_t *h, void *arg)
{
    (void)arg;
    if (!uv_is_closing(h))
        uv_close(h, NULL);
}

static void close_loop(struct loop_control *lc)
{
    uv_walk(&lc->uv, close_handle, NULL);
    uv_run(&lc->uv, UV_RUN_DEFAULT);
    MUST(uv_loop_close(&lc->uv) == 0);
}

enum err loop_control_open(struct loop_control **out,
                           const struct loop_control_cfg *cfg, struct errmsg *m)
{
    struct loop_control *lc;
    int rc;

    lc = fault_here("loop_control_open") ? NULL : calloc(1, sizeof(*lc));
    if (!lc)
        return errmsg_set(m, ERR_NO_MEMORY, "no memory for the control loop");
    lc->cfg = *cfg;
    rc = uv_loop_init(&lc->uv);
    if (!rc) {
        rc = open_handles(lc);
        if (rc)
            close_loop(lc);
    }
    if (rc) {
        free(lc);
        return errmsg_set(m, ERR_IO, "cannot make the control loop: %s",
                          uv_strerror(rc));
    }
    cfg->control->mailbox.wake = loop_wake;
    cfg->control->mailbox.wake_arg = lc;
    *out = lc;
    return OK;
}

bool loop_control_run(struct loop_control *lc)
{
    uv_update_time(&lc->uv);
    lc->begin_ns = files_mono_ns();
    (void)notify_ready(lc->cfg.notify, "serving");
    prefault_next(lc);
    uv_run(&lc->uv, UV_RUN_DEFAULT);
    return lc->stage == ENDED;
}

bool loop_control_stop(struct loop_control *lc)
{
    if (lc->stage != RUNNING)
        return lc->stage == ENDED;
    stop_cut(lc);
    uv_timer_start(&lc->stop, on_stop_timer, 0, STOP_MS);
    uv_run(&lc->uv, UV_RUN_DEFAULT);
    return lc->stage == ENDED;
}

void loop_control_close(struct loop_control *lc)
{
    if (!lc)
        return;
    lc->cfg.control->mailbox.wake = NULL;
    close_loop(lc);
    free(lc);
}

struct uv_loop_s *loop_control_uv(struct loop_control *lc)
{
    return &lc->uv;
}

bool loop_control_draining(const struct loop_control *lc)
{
    return lc->stage != RUNNING;
}

bool loop_control_alive(const struct loop_control *lc, uint32_t lane)
{
    return lc->missed[lane] < LOOKS_MISSED;
}

uint64_t loop_control_prefaulted(const struct loop_control *lc)
{
    return lc->prefaulted_bytes;
}

uint64_t loop_control_uptime_s(const struct loop_control *lc)
{
    return lc->begin_ns ? (files_mono_ns() - lc->begin_ns) / NS_PER_S : 0;
}
