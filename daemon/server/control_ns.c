/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls of lanes about namespaces: opened, described, changed, flushed
 * (control.c has the rules).
 *
 *   OPEN     registry_open -> [save, put] -> lane_ns_mail to all -> answer
 *   change, bump   save, put -> lane_ns_mail to all -> describe
 *   describe       lane_usage_mail to all -> answer
 *
 * In a cluster a bump is the whole cluster's: the voters count it first, then
 * every node that sees the count in its view bumps its own, this one too. The
 * number of the last flush that was obeyed is kept with the namespace, so that
 * a node that was away flushes when it is back. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"
#include "base/log.h"
#include "cluster/view.h"
#include "server/control.h"
#include "server/control_impl.h"
#include "server/lane.h"

static void call_add_ns(struct ctl_call *call, const struct registry_ns *ns)
{
    if (call->ns_n < call->ns_cap)
        call->ns[call->ns_n++] = (struct ctl_ns){.ns = *ns};
    call->ns_total++;
}


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
    control_answer(call, e);
}

void control_open(struct control *c, struct ctl_call *call)
{
    struct ctl_job *job = control_job(c);
    struct registry_ns ns;
    enum err e = ERR_BUSY;

    if (!job) {
        control_answer(call, e);
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
    control_answer(call, e);
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
    control_answer(call, OK);
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
        control_answer(call, ERR_NO_MEMORY);
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
    control_answer(call, e);
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
        control_answer(call, ERR_BUSY);
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
    control_answer(call, e);
}

/* ---- Flushes of the cluster ---- */

void control_namespace(struct control *c, struct ctl_call *call)
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
        control_answer(call, e);
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
