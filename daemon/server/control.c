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
 * In a cluster a bump is the whole cluster's: the voters count it first, then
 * every node that sees the count in its view bumps its own, this one too.
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
#include "base/hash.h"
#include "base/log.h"
#include "cluster/view.h"
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

static void call_answer(struct ctl_call *call, enum err e)
{
    call->err = e;
    call->mail.fn = call->done;
    MUST(mailbox_post(&call->lane->mailbox, &call->mail) == OK);
}

void control_answer(struct ctl_call *call, enum err e)
{
    call_answer(call, e);
}

static void call_add_ns(struct ctl_call *call, const struct registry_ns *ns)
{
    if (call->ns_n < call->ns_cap)
        call->ns[call->ns_n++] = (struct ctl_ns){.ns = *ns};
    call->ns_total++;
}

/* ---- Namespaces ---- */

/* Makes a draft durable, then true. */
static enum err ns_commit(struct control *c, const struct registry_ns *draft)
{
    struct textbuf text = {0};
    enum err e = OK;

    if (c->shell.save) {
        registry_text(&c->registry, draft, &text);
        e = text.bad || fault_here("ns_commit")
                ? ERR_NO_MEMORY
                : c->shell.save(c->shell.arg, text.text, text.len);
        free(text.text);
    }
    if (!e) {
        registry_put(&c->registry, draft);
        c->settled[draft->id] = false;
    }
    return e;
}

static void ns_job(struct control *c, struct ctl_job *job,
                   struct ctl_call *call, const struct registry_ns *ns,
                   void (*done)(struct ctl_job *))
{
    job->call = call;
    job->ns_copy = *ns;
    registry_ns_cfg(ns, c->lane_n, &job->store_copy);
    job->ns = &job->ns_copy;
    job->store = &job->store_copy;
    control_job_send(job, lane_ns_mail, done);
}

static void ns_acked(struct ctl_job *job)
{
    struct control *c = job->control;

    c->settled[job->ns->id] = job->err == OK;
    if (job->err && job->call)
        errmsg_set(&job->call->msg, job->err,
                   "a lane could not take the namespace: %s",
                   err_text(job->err));
}

/* How often the cluster has flushed it. */
static uint64_t view_flush_count(const struct view *v, const char *name)
{
    uint64_t hash = hash_64(0, name, strlen(name));

    for (uint32_t i = 0; v && i < v->flush_n; i++)
        if (v->flushes[i].name == hash)
            return v->flushes[i].count;
    return 0;
}

static void open_acked(struct ctl_job *job)
{
    struct ctl_call *call = job->call;
    enum err e = job->err;

    ns_acked(job);
    if (!e)
        call_add_ns(call, job->ns);
    control_job_end(job);
    call_answer(call, e);
}

static void call_open(struct control *c, struct ctl_call *call)
{
    struct ctl_job *job = control_job(c);
    struct registry_ns ns;
    enum err e = ERR_BUSY;

    if (!job) {
        call_answer(call, e);
        return;
    }
    e = registry_open(&c->registry, c->cfg, call->request, c->shell.random,
                      c->shell.arg, &ns, &call->created, &call->mismatch,
                      &call->msg);
    if (!e && call->created) {
        ns.flushes = view_flush_count(c->view, ns.name);
        e = ns_commit(c, &ns);
    }
    if (!e && call->created)
        LOG(LOG_NOTICE, "namespace_created", "name=%s id=%u policy=%s loans=%s",
            ns.name, ns.id, ns.settings.policy->name,
            registry_loans_name(ns.settings.loans));
    if (!e && !c->settled[ns.id]) {
        ns_job(c, job, call, &ns, open_acked);
        return;
    }
    if (!e)
        call_add_ns(call, &ns);
    control_job_end(job);
    call_answer(call, e);
}

static void usage_acked(struct ctl_job *job)
{
    struct control *c = job->control;
    struct ctl_call *call = job->call;

    for (uint32_t i = 0; i < call->ns_n; i++) {
        struct ctl_ns *to = &call->ns[i];

        for (uint32_t l = 0; l < c->lane_n; l++) {
            const struct ctl_usage *u =
                &job->usage[l * job->usage_n + to->ns.id - 1];

            to->usage.blocks += u->blocks;
            to->usage.bytes += u->bytes;
            to->usage.share_bytes += u->share_bytes;
            to->usage.ssd_blocks += u->ssd_blocks;
            to->usage.ssd_bytes += u->ssd_bytes;
        }
    }
    free(job->usage);
    control_job_end(job);
    call_answer(call, OK);
}

/* The registry's part of the answer, then the lanes'. */
static void call_describe(struct control *c, struct ctl_call *call,
                          struct ctl_job *job)
{
    const Pikv__NamespaceRequest *want = call->request;
    const struct registry *r = &c->registry;

    for (uint32_t i = 0; i < r->n; i++)
        if (!*want->name || strcmp(want->name, r->ns[i].name) == 0)
            call_add_ns(call, &r->ns[i]);
    job->call = call;
    job->usage_n = r->n;
    job->usage =
        fault_here("call_describe")
            ? NULL
            : calloc((size_t)max_u64(r->n, 1) * c->lane_n, sizeof(*job->usage));
    if (!job->usage) {
        control_job_end(job);
        call_answer(call, ERR_NO_MEMORY);
        return;
    }
    control_job_send(job, lane_usage_mail, usage_acked);
}

static void change_acked(struct ctl_job *job)
{
    struct ctl_call *call = job->call;
    enum err e = job->err;

    ns_acked(job);
    if (!e) {
        call_describe(job->control, call, job);
        return;
    }
    control_job_end(job);
    call_answer(call, e);
}

/* flush: the cluster's number of the bump that is asked for. */
static enum err change_draft(struct control *c, struct ctl_call *call,
                             uint64_t flush, struct registry_ns *draft)
{
    const Pikv__NamespaceRequest *want = call->request;
    const struct registry_ns *have = registry_find(&c->registry, want->name);
    enum err e = OK;

    if (!*want->name)
        return errmsg_set(&call->msg, ERR_BAD_REQUEST,
                          "name: empty; allowed: the name of a namespace");
    if (!have)
        return errmsg_set(&call->msg, ERR_NO_NAMESPACE,
                          "name: no such namespace");
    *draft = *have;
    if (want->change)
        e = registry_change(&c->registry, want->name, want->change, draft,
                            &call->msg);
    if (!e && flush > draft->flushes)
        registry_flush(&c->registry, draft, flush, draft);
    else if (!e && want->bump && !flush) /* else the view was faster */
        registry_bump(&c->registry, draft, draft);
    if (!e)
        e = ns_commit(c, draft);
    if (!e)
        LOG(LOG_NOTICE, want->bump ? "namespace_bumped" : "namespace_changed",
            "name=%s id=%u policy=%s share=%u", draft->name, draft->id,
            draft->settings.policy->name, draft->settings.share);
    return e;
}

static void call_namespace(struct control *c, struct ctl_call *call,
                           uint64_t flush)
{
    const Pikv__NamespaceRequest *want = call->request;
    struct ctl_job *job = control_job(c);
    struct registry_ns draft;
    enum err e = OK;

    if (!job) {
        call_answer(call, ERR_BUSY);
        return;
    }
    if (want->bump || want->change) {
        e = change_draft(c, call, flush, &draft);
        if (!e) {
            ns_job(c, job, call, &draft, change_acked);
            return;
        }
    } else if (*want->name && !registry_find(&c->registry, want->name)) {
        e = errmsg_set(&call->msg, ERR_NO_NAMESPACE, "name: no such namespace");
    }
    if (!e) {
        call_describe(c, call, job);
        return;
    }
    control_job_end(job);
    call_answer(call, e);
}

/* ---- Flushes of the cluster ---- */

static void call_bump(struct control *c, struct ctl_call *call)
{
    const Pikv__NamespaceRequest *want = call->request;

    if (want->bump && c->cluster.flush &&
        registry_find(&c->registry, want->name))
        c->cluster.flush(c->cluster.arg, want->name, call);
    else
        call_namespace(c, call, 0);
}

void control_flushed(struct control *c, struct ctl_call *call, enum err e,
                     uint64_t count)
{
    call->everywhere = !e;
    if (e)
        call_answer(call, e);
    else
        call_namespace(c, call, count);
}

static void flush_acked(struct ctl_job *job)
{
    ns_acked(job); /* a lane that could not: the next OPEN sends it again */
    control_job_end(job);
}

static enum err flush_ns(struct control *c, const struct registry_ns *ns,
                         uint64_t count)
{
    struct ctl_job *job = control_job(c);
    struct registry_ns draft;
    enum err e;

    if (!job)
        return ERR_BUSY;
    registry_flush(&c->registry, ns, count, &draft);
    e = ns_commit(c, &draft);
    if (e) {
        control_job_end(job);
        return e;
    }
    LOG(LOG_NOTICE, "namespace_flushed", "name=%s id=%u by=cluster",
        draft.name, draft.id);
    ns_job(c, job, NULL, &draft, flush_acked);
    return OK;
}

enum err control_flushes(struct control *c, const struct view *v)
{
    enum err e = OK;

    for (uint32_t i = 0; i < c->registry.n && !e; i++) {
        const struct registry_ns *ns = &c->registry.ns[i];
        uint64_t count = view_flush_count(v, ns->name);

        if (count > ns->flushes)
            e = flush_ns(c, ns, count);
    }
    return e;
}

/* ---- Reload ---- */

static void reload_acked(struct ctl_job *job)
{
    struct ctl_call *call = job->call;

    free(job->old);
    control_job_end(job);
    if (call)
        call_answer(call, OK);
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
    call_answer(call, OK);
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
    call_answer(call, e);
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
        call_answer(call, ERR_BUSY);
        return;
    }
    job->call = call;
    job->ssds = call->ssds;
    if (want->what != PIKV__SSD_REQUEST__WHAT__LIST)
        e = ssd_find(c, want->path, &job->ssd_dev, &call->msg);
    if (e) {
        control_job_end(job);
        call_answer(call, e);
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
    call_answer(call, e);
}

static void call_cluster(struct control *c, struct ctl_call *call)
{
    if (c->cluster.ask)
        c->cluster.ask(c->cluster.arg, call);
    else
        call_answer(call, errmsg_set(&call->msg, ERR_UNSUPPORTED,
                                     "a single node: cluster.enabled is "
                                     "false"));
}

static void call_run(struct mail *m, void *control)
{
    struct ctl_call *call = ctl_call_of(m);
    enum err e;

    switch (call->what) {
    case CTL_OPEN:
        call_open(control, call);
        return;
    case CTL_NAMESPACE:
        call_bump(control, call);
        return;
    case CTL_RELOAD:
        e = reload_begin(control, call, call->reload, &call->msg);
        if (e)
            call_answer(call, e);
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
