/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls of lanes, answered one at a time, and jobs for all lanes.
 *
 *   OPEN       registry_open -> [save, put] -> lane_ns_mail to all -> answer
 *   NAMESPACE  [change, bump -> save, put -> lane_ns_mail to all]
 *              -> lane_usage_mail to all -> answer
 *   RELOAD     load, check -> lane_config_mail to all -> answer
 *   SSD        [retire, or forget and then replace] -> info -> answer
 *   CLUSTER, FEEDBACK  asked of the cluster's shell, which answers
 *
 * Invariants
 *  1. Every call is answered once.
 *  2. A namespace is durable before a lane hears of it, and settled (all lanes
 *     have it) before a call that named it is answered OK. One that some lane
 *     could not take is sent again by the next OPEN.
 *  3. Mail to a lane arrives in the order it was sent, so the last copy wins.
 *  4. A configuration, and a view of the cluster, is freed when every lane has
 *     acked its successor.
 *
 * A full pool of jobs answers BUSY. Namespaces read from the file at boot are
 * not sent: their first OPEN does it, so what nobody uses costs lanes nothing;
 * with an SSD tier they are, for the sake of their blocks there.
 *
 * Thread: control. Only ctl_call_post and ctl_ack run on lanes. */
#include "server/control.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "cluster/view.h"
#include "server/control_impl.h"
#include "server/lane.h"

enum { CONTROL_MAIL_PER_TURN = 64 };

/* ---- Jobs ---- */

struct ctl_job *control_job(struct control *c)
{
    struct ctl_job *job;

    if (c->free_n == 0 || fault_here("control_job"))
        return NULL;
    job = &c->jobs[c->free[--c->free_n]];
    *job = (struct ctl_job){.control = c};
    return job;
}

void control_job_end(struct ctl_job *job)
{
    struct control *c = job->control;

    MUST(job->left == 0);
    MUST(c->free_n < CTL_JOBS);
    c->free[c->free_n++] = (uint32_t)(job - c->jobs);
}

bool control_idle(const struct control *c)
{
    return c->free_n == CTL_JOBS;
}

static void job_acked(struct mail *m, void *control)
{
    struct ctl_job *job = ctl_ask_of(m)->job;

    MUST(job->control == control);
    MUST(job->left > 0);
    if (--job->left > 0)
        return;
    job->err = OK;
    for (uint32_t i = 0; i < job->control->lane_n && !job->err; i++)
        job->err = job->asks[i].err;
    job->done(job);
}

void control_job_send(struct ctl_job *job, mail_fn *lane_fn,
                      void (*done)(struct ctl_job *))
{
    struct control *c = job->control;

    MUST(job->left == 0);
    job->done = done;
    job->left = c->lane_n;
    for (uint32_t i = 0; i < c->lane_n; i++) {
        job->asks[i] = (struct ctl_ask){
            .mail.fn = lane_fn, .job = job, .lane = i, .err = OK};
        MUST(mailbox_post(&c->lanes[i]->mailbox, &job->asks[i].mail) == OK);
    }
}

void ctl_ack(struct ctl_ask *ask, enum err e)
{
    ask->err = e;
    ask->mail.fn = job_acked;
    MUST(mailbox_post(&ask->job->control->mailbox, &ask->mail) == OK);
}

/* ---- Answers ---- */

void control_answer(struct ctl_call *call, enum err e)
{
    call->err = e;
    call->mail.fn = call->done;
    MUST(mailbox_post(&call->lane->mailbox, &call->mail) == OK);
}

/* ---- Reload ---- */

static void reload_acked(struct ctl_job *job)
{
    struct ctl_call *call = job->call;

    free(job->old);
    control_job_end(job);
    if (call)
        control_answer(call, OK);
}

/* Sorts the keys that differ by what can be done about them. */
static void reload_report(const struct config *old, const struct config *fresh,
                          struct ctl_reload *report)
{
    const struct config_row *rows[CONFIG_ROWS];
    uint32_t n = config_diff(old, fresh, rows);

    *report = (struct ctl_reload){0};
    for (uint32_t i = 0; i < n; i++) {
        switch (rows[i]->class) {
        case CONFIG_LIVE:
        case CONFIG_DRAIN:
            report->changed[report->changed_n++] = rows[i];
            break;
        case CONFIG_RESTART:
            report->restart[report->restart_n++] = rows[i];
            break;
        }
    }
}

/* What the daemon runs with after the reload, checked: the new values of keys
 * that can change, the old of the rest. */
static enum err reload_load(struct control *c, struct config *next,
                            struct ctl_reload *report, struct errmsg *m)
{
    struct config *fresh;
    enum err e;

    if (!c->shell.reload)
        return errmsg_set(m, ERR_UNSUPPORTED, "there is nothing to load from");
    fresh = fault_here("reload_load") ? NULL : malloc(sizeof(*fresh));
    if (!fresh)
        return errmsg_set(m, ERR_NO_MEMORY, "no memory for a configuration");
    e = c->shell.reload(c->shell.arg, fresh, m);
    if (!e) {
        reload_report(c->cfg, fresh, report);
        *next = *c->cfg;
        config_take(next, fresh, CONFIG_LIVE);
        config_take(next, fresh, CONFIG_DRAIN);
        e = config_check(next, m);
        if (e)
            errmsg_wrap(m, e, "with the keys that need a restart as they are");
    }
    free(fresh);
    return e;
}

static void reload_log(const struct ctl_reload *report)
{
    LOG(LOG_NOTICE, "reloaded", "changed=%u needs_restart=%u",
        report->changed_n, report->restart_n);
    for (uint32_t i = 0; i < report->changed_n; i++)
        LOG(LOG_INFO, "reload_changed", "key=%s", report->changed[i]->path);
    for (uint32_t i = 0; i < report->restart_n; i++)
        LOG(LOG_WARN, "reload_needs_restart", "key=%s",
            report->restart[i]->path);
}

/* call: whom to answer when all lanes have it, or NULL. */
static enum err reload_begin(struct control *c, struct ctl_call *call,
                             struct ctl_reload *report, struct errmsg *m)
{
    struct ctl_job *job = control_job(c);
    struct config *next = malloc(sizeof(*next));
    enum err e = ERR_NO_MEMORY;

    if (!job)
        e = errmsg_set(m, ERR_BUSY, "other changes are under way");
    else if (next)
        e = reload_load(c, next, report, m);
    if (e) {
        LOG(LOG_ERROR, "reload_failed", "error=%s", LOG_STR(m->text));
        free(next);
        if (job)
            control_job_end(job);
        return e;
    }
    reload_log(report);
    job->old = c->owned;
    job->call = call;
    job->cfg = c->cfg = c->owned = next;
    log_setup((enum log_level)next->log.level,
              (enum log_format)next->log.format);
    control_job_send(job, lane_config_mail, reload_acked);
    if (c->cluster.reloaded)
        c->cluster.reloaded(c->cluster.arg);
    return OK;
}

enum err control_reload(struct control *c, struct ctl_reload *report,
                        struct errmsg *m)
{
    struct ctl_reload own;

    return reload_begin(c, NULL, report ? report : &own, m);
}

/* ---- The cluster's view ---- */

static void view_free(struct view *v)
{
    if (v)
        view_fini(v);
    free(v);
}

static void view_acked(struct ctl_job *job)
{
    view_free(job->old_view);
    control_job_end(job);
}

enum err control_view(struct control *c, struct view *v, uint16_t self)
{
    struct ctl_job *job = control_job(c);

    if (!job)
        return ERR_BUSY;
    job->old_view = c->view;
    job->view = c->view = v;
    job->self_node = c->self_node = self;
    control_job_send(job, lane_view_mail, view_acked);
    return OK;
}

/* ---- SSDs ---- */

static void ssd_end(struct ctl_job *job)
{
    struct ctl_call *call = job->call;

    control_job_end(job);
    control_answer(call, OK);
}

/* What was asked for is done, or failed; the list of all comes along. */
static void ssd_done(struct ctl_job *job)
{
    struct ctl_call *call = job->call;
    enum err e = job->err;

    if (!e) {
        control_job_send(job, lane_ssd_info_mail, ssd_end);
        return;
    }
    errmsg_set(&call->msg, e, "path: %s; see `pikvctl ssd list` and the log",
               e == ERR_BAD_REQUEST ? "not in this state" : err_text(e));
    control_job_end(job);
    control_answer(call, e);
}

static void ssd_forgotten(struct ctl_job *job)
{
    if (!job->err)
        control_job_send(job, lane_ssd_replace_mail, ssd_done);
    else
        ssd_done(job);
}

static enum err ssd_find(const struct control *c, const char *path,
                         uint32_t *dev_out, struct errmsg *m)
{
    const struct ssd_node *node = c->lanes[0]->link.node;

    for (uint32_t i = 0; node && i < node->n; i++) {
        if (strcmp(node->devs[i].path, path) == 0) {
            *dev_out = i;
            return OK;
        }
    }
    return errmsg_set(m, ERR_BAD_REQUEST, "path: not one of ssd.paths");
}

static void call_ssd(struct control *c, struct ctl_call *call)
{
    const Pikv__SsdRequest *want = call->request;
    struct ctl_job *job = control_job(c);
    enum err e = OK;

    if (!job) {
        control_answer(call, ERR_BUSY);
        return;
    }
    job->call = call;
    job->ssds = call->ssds;
    if (want->what != PIKV__SSD_REQUEST__WHAT__LIST)
        e = ssd_find(c, want->path, &job->ssd_dev, &call->msg);
    if (e) {
        control_job_end(job);
        control_answer(call, e);
    } else if (want->what == PIKV__SSD_REQUEST__WHAT__RETIRE) {
        control_job_send(job, lane_ssd_retire_mail, ssd_done);
    } else if (want->what == PIKV__SSD_REQUEST__WHAT__REPLACE) {
        for (uint32_t i = 0; i < sizeof(job->ssd_uuid); i++)
            job->ssd_uuid[i] = (uint8_t)c->shell.random(c->shell.arg);
        control_job_send(job, lane_ssd_forget_mail, ssd_forgotten);
    } else {
        control_job_send(job, lane_ssd_info_mail, ssd_end);
    }
}

/* ---- Calls ---- */

static void call_feedback(struct control *c, struct ctl_call *call)
{
    const Pikv__Feedback *m = call->request;
    const struct registry_ns *ns = registry_find_id(&c->registry, m->ns);
    enum err e = ERR_UNSUPPORTED;

    if (!ns)
        e = ERR_NO_NAMESPACE;
    else if (c->cluster.feedback)
        e = c->cluster.feedback(c->cluster.arg, ns, m);
    control_answer(call, e);
}

static void call_cluster(struct control *c, struct ctl_call *call)
{
    if (c->cluster.ask)
        c->cluster.ask(c->cluster.arg, call);
    else
        control_answer(call, errmsg_set(&call->msg, ERR_UNSUPPORTED,
                                     "a single node: cluster.enabled is "
                                     "false"));
}

static void call_run(struct mail *m, void *control)
{
    struct ctl_call *call = ctl_call_of(m);
    enum err e;

    switch (call->what) {
    case CTL_OPEN:
        control_open(control, call);
        return;
    case CTL_NAMESPACE:
        control_namespace(control, call);
        return;
    case CTL_RELOAD:
        e = reload_begin(control, call, call->reload, &call->msg);
        if (e)
            control_answer(call, e);
        return;
    case CTL_SSD:
        call_ssd(control, call);
        return;
    case CTL_CLUSTER:
        call_cluster(control, call);
        return;
    case CTL_FEEDBACK:
        call_feedback(control, call);
        return;
    }
}

void ctl_call_post(struct ctl_call *call)
{
    MUST(call->done);
    call->mail.fn = call_run;
    call->msg.text[0] = '\0';
    call->mismatch = (struct registry_mismatch){0};
    call->created = call->everywhere = false;
    call->ns_n = call->ns_total = call->reply_n = 0;
    MUST(mailbox_post(&call->lane->control->mailbox, &call->mail) == OK);
}

/* ---- Life ---- */

enum err control_init(struct control *c, const struct config *cfg,
                      struct lane *const *lanes, uint32_t lane_n,
                      const struct control_shell *shell)
{
    enum err e;

    MUST(lane_n > 0 && lane_n <= UNIT_LANES_MAX);
    *c = (struct control){
        .cfg = cfg, .lanes = lanes, .lane_n = lane_n, .shell = *shell};
    mailbox_init(&c->mailbox,
                 CTL_MAIL_CONTROL(lane_n, cfg->limits.ops_per_lane), NULL,
                 NULL);
    c->boot = shell->random(shell->arg);
    while (c->free_n < CTL_JOBS) {
        c->free[c->free_n] = CTL_JOBS - 1 - c->free_n;
        c->free_n++;
    }
    e = registry_init(&c->registry, cfg, shell->wall_us);
    if (!e && !fault_here("control_init")) {
        c->jobs = calloc(CTL_JOBS, sizeof(*c->jobs));
        c->settled = calloc(cfg->namespaces.max + 1, sizeof(*c->settled));
    }
    if (!e && (!c->jobs || !c->settled))
        e = ERR_NO_MEMORY;
    if (e)
        control_fini(c);
    return e;
}

void control_fini(struct control *c)
{
    MUST(!c->jobs || control_idle(c));
    registry_fini(&c->registry);
    free(c->jobs);
    free(c->settled);
    free(c->owned);
    view_free(c->view);
    mailbox_fini(&c->mailbox);
    *c = (struct control){0};
}

enum err control_tell_lanes(struct control *c)
{
    struct store_ns_cfg cfg;
    enum err e = OK;

    for (uint32_t i = 0; i < c->registry.n && !e; i++) {
        const struct registry_ns *ns = &c->registry.ns[i];

        registry_ns_cfg(ns, c->lane_n, &cfg);
        for (uint32_t l = 0; l < c->lane_n && !e; l++)
            e = lane_ns_set(c->lanes[l], ns, &cfg);
        c->settled[ns->id] = e == OK;
    }
    return e;
}

bool control_turn(struct control *c)
{
    return mailbox_run(&c->mailbox, c, CONTROL_MAIL_PER_TURN) > 0;
}
