/* SPDX-License-Identifier: Apache-2.0
 *
 * Events in, actions out (cluster_loop.h).
 *
 *   open   identity -> disk of the voters -> struct cluster -> links -> puller
 *          -> timers; the last view is in the lanes' mailboxes
 *   step   cluster_step, then every action; a callback of a link, a timer, a
 *          call of an op is one step each, and none runs within another
 *   close  puller, links, struct cluster, handles; the loop turns until all
 *          have said so. */
#include "server/cluster_loop_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "server/files.h"
#include "server/lane.h"

enum { TICK_MAX_MS = 50, TICK_MIN_MS = 5, CLOSE_MAX_MS = 10000 };

uint64_t cluster_now_ms(void)
{
    return files_mono_ns() / NS_PER_MS;
}

/* ---- Lines for people ---------------------------------------------------- */

void cluster_loop_say(struct cluster_loop *cl, int level, const char *text)
{
    struct cluster_line *l = &cl->lines[cl->line_n % CLUSTER_EVENTS];

    LOG((enum log_level)level, "cluster", "said=%s", LOG_STR(text));
    l->seq = ++cl->line_n;
    l->when_ms = files_wall_us() / 1000;
    l->level = level;
    snprintf(l->text, sizeof(l->text), "%s", text);
}

/* ---- Calls that wait ----------------------------------------------------- */

uint64_t cluster_loop_ticket(struct cluster_loop *cl, struct ctl_call *call)
{
    call->ticket = ++cl->tickets;
    call->next = cl->calls;
    cl->calls = call;
    return call->ticket;
}

static struct ctl_call *call_take(struct cluster_loop *cl, uint64_t ticket)
{
    for (struct ctl_call **at = &cl->calls; *at; at = &(*at)->next) {
        struct ctl_call *call = *at;

        if (call->ticket == ticket) {
            *at = call->next;
            return call;
        }
    }
    return NULL;
}

/* Of a namespace's flush, or of an operator's command. */
static void call_end(struct cluster_loop *cl, struct ctl_call *call,
                     const struct answer *a)
{
    if (call->what == CTL_CLUSTER) {
        cluster_answered(cl, call, a);
        return;
    }
    if (a->err)
        errmsg_set(&call->msg, a->err, "nothing was flushed: %s",
                   a->msg.text[0] ? a->msg.text : err_text(a->err));
    control_flushed(cl->cfg.control, call, a->err, a->value);
}

static void calls_end(struct cluster_loop *cl, enum err e)
{
    struct answer a = {.err = e};
    struct ctl_call *call;

    while ((call = cl->calls)) {
        cl->calls = call->next;
        call_end(cl, call, &a);
    }
}

void cluster_loop_propose(struct cluster_loop *cl, struct ctl_call *call,
                          struct cmd *cmd)
{
    struct cluster_event ev = {.kind = CLUSTER_PROPOSE, .cmd = cmd};
    struct cluster_status st;

    cluster_status(cl->cluster, &st);
    if (st.phase == CLUSTER_CUT || st.phase == CLUSTER_SEEKING) {
        struct answer no = {.err = ERR_NO_QUORUM};

        errmsg_set(&no.msg, no.err,
                   "no leader answers this node; nothing was changed");
        call_end(cl, call, &no);
        return;
    }
    while (!cmd->id)
        cmd->id = cl->cfg.control->shell.random(cl->cfg.control->shell.arg);
    ev.ticket = cluster_loop_ticket(cl, call);
    cluster_loop_step(cl, &ev);
}

static void on_flush(void *arg, const char *name, struct ctl_call *call)
{
    struct cluster_loop *cl = arg;
    struct cmd cmd = {.kind = CMD_FLUSH};

    if (cl->closing) {
        control_flushed(cl->cfg.control, call, ERR_DRAINING, 0);
        return;
    }
    snprintf(cmd.name, sizeof(cmd.name), "%s", name);
    cluster_loop_propose(cl, call, &cmd);
}

static void on_ask(void *arg, struct ctl_call *call)
{
    struct cluster_loop *cl = arg;

    if (cl->closing)
        control_answer(call, ERR_DRAINING);
    else
        cluster_ask(cl, call);
}

/* ---- Actions ------------------------------------------------------------- */

static void act_fatal(struct cluster_loop *cl, const char *why)
{
    if (cl->fatal_said)
        return;
    cl->fatal_said = true;
    LOG(LOG_ERROR, "cluster_fatal", "why=%s", LOG_STR(why));
    cl->cfg.fatal(cl->cfg.arg);
}

static void act_answered(struct cluster_loop *cl,
                         const struct cluster_action *a)
{
    struct ctl_call *call = call_take(cl, a->ticket);

    if (call)
        call_end(cl, call, &a->answer);
}

static void act(struct cluster_loop *cl, const struct cluster_action *a)
{
    switch (a->kind) {
    case CLUSTER_DIAL:
        peer_links_dial(cl->links, a->peer);
        return;
    case CLUSTER_SEND:
        if (a->msg == PEER_BEAT)
            metric_add(&cl->cfg.metrics->cluster_beats, 1);
        peer_links_send(cl->links, a->link, a->msg, a->p, a->n);
        return;
    case CLUSTER_HANG_UP:
        peer_links_hang_up(cl->links, a->link, a->text);
        return;
    case CLUSTER_PUBLISH:
        cluster_views_publish(cl, a->view);
        return;
    case CLUSTER_ANSWERED:
        act_answered(cl, a);
        return;
    case CLUSTER_SAY:
        cluster_loop_say(cl, a->level, a->text);
        return;
    case CLUSTER_FATAL:
        act_fatal(cl, a->text);
        return;
    }
}

static void take_actions(struct cluster_loop *cl)
{
    struct cluster_action a;

    while (cluster_next(cl->cluster, &a))
        act(cl, &a);
}

void cluster_loop_step(struct cluster_loop *cl, const struct cluster_event *ev)
{
    cluster_step(cl->cluster, ev, cluster_now_ms());
    take_actions(cl);
}

/* ---- Slots that the puller has brought ----------------------------------- */

static void on_wake(uv_async_t *h);

/* Any thread. */
static void on_moved(void *arg, uint32_t slot, uint64_t epoch)
{
    struct cluster_loop *cl = arg;

    pthread_mutex_lock(&cl->moved_mu);
    if (cl->moved_n == cl->moved_cap) {
        uint32_t cap = cl->moved_cap ? 2 * cl->moved_cap : 64;
        void *p = realloc(cl->moved, cap * sizeof(*cl->moved));

        if (p) {
            cl->moved = p;
            cl->moved_cap = cap;
        }
    }
    if (cl->moved_n < cl->moved_cap)
        cl->moved[cl->moved_n++] = (struct cluster_moved){slot, epoch};
    pthread_mutex_unlock(&cl->moved_mu);
    uv_async_send(&cl->wake);
}

static bool moved_take(struct cluster_loop *cl, struct cluster_moved *out)
{
    bool there;

    pthread_mutex_lock(&cl->moved_mu);
    there = cl->moved_n > 0;
    if (there)
        *out = cl->moved[--cl->moved_n];
    pthread_mutex_unlock(&cl->moved_mu);
    return there;
}

/* What was brought by a view that is no more may be the other half of a move:
 * the puller says it again by the new one. */
static void take_moved(struct cluster_loop *cl)
{
    struct cluster_moved moved;

    while (moved_take(cl, &moved)) {
        struct cluster_event ev = {.kind = CLUSTER_MOVED, .slot = moved.slot};

        if (moved.epoch == cluster_view(cl->cluster)->epoch)
            cluster_loop_step(cl, &ev);
    }
}

static enum err open_puller(struct cluster_loop *cl, struct errmsg *m)
{
    const struct control *c = cl->cfg.control;
    struct puller_cfg cfg = {.cfg = cl->conf, .moved = on_moved, .arg = cl};
    enum err e;

    snprintf(cfg.self_shm, sizeof(cfg.self_shm), "%s", c->lanes[0]->addr_shm);
    cfg.host = cl->host;
    e = puller_open(&cfg, &cl->puller, m);
    if (e)
        return e;
    for (uint32_t i = 0; i < c->lane_n; i++)
        c->lanes[i]->moves = puller_moves(cl->puller);
    return OK;
}

/* ---- Timers -------------------------------------------------------------- */

static void on_wake(uv_async_t *h)
{
    struct cluster_loop *cl = h->data;

    if (cl->closing || !cl->cluster)
        return;
    take_actions(cl);
    take_moved(cl);
}

static void wake_soon(void *arg)
{
    struct cluster_loop *cl = arg;

    uv_async_send(&cl->wake);
}

static void on_tick(uv_timer_t *h)
{
    struct cluster_loop *cl = h->data;
    struct cluster_event ev = {.kind = CLUSTER_TICK};

    cluster_loop_step(cl, &ev);
    cluster_views_send(cl);
}

static void on_load(uv_timer_t *h)
{
    struct cluster_loop *cl = h->data;
    struct cluster_event ev = {.kind = CLUSTER_LOAD, .load = &cl->load};

    cluster_load_take(cl);
    cluster_loop_step(cl, &ev);
    cluster_experts_collect(cl);
    cluster_load_count(cl);
}

static uint64_t tick_ms(const struct config *c)
{
    uint64_t least = min_u64(c->cluster.heartbeat_us, c->cluster.beat_us);

    return min_u64(max_u64(least / 2000, TICK_MIN_MS), TICK_MAX_MS);
}

static enum err open_handles(struct cluster_loop *cl, struct errmsg *m)
{
    int rc = uv_async_init(cl->cfg.uv, &cl->wake, on_wake);

    if (rc)
        return errmsg_set(m, ERR_IO, "the cluster's handles: %s",
                          uv_strerror(rc));
    MUST(uv_timer_init(cl->cfg.uv, &cl->tick) == 0);
    MUST(uv_timer_init(cl->cfg.uv, &cl->load_timer) == 0);
    cl->wake.data = cl->tick.data = cl->load_timer.data = cl;
    cl->handles = 3;
    return OK;
}

static void start_timers(struct cluster_loop *cl)
{
    uint64_t ms = tick_ms(cl->conf);

    uv_timer_start(&cl->tick, on_tick, 0, ms);
    uv_timer_start(&cl->load_timer, on_load, CLUSTER_LOAD_MS, CLUSTER_LOAD_MS);
}

/* ---- Life ---------------------------------------------------------------- */

static enum err open_cluster(struct cluster_loop *cl, struct errmsg *m)
{
    struct cluster_cfg cfg = {.wake = wake_soon, .wake_arg = cl};
    struct view *last = NULL;
    enum err e = cluster_boot(cl, &cfg, &last, m);

    cl->host = cfg.self.host;
    if (!e && cfg.voter) {
        e = raft_disk_open(&cl->disk, cl->cfg.uv, cl->raft_path, m);
        cfg.io = &cl->disk.io;
    }
    if (!e)
        e = cluster_open(&cfg, cluster_now_ms(), &cl->cluster, m);
    if (!e)
        cluster_boot_done(cl, &cfg);
    cluster_view_drop(last);
    free(cfg.members);
    return e;
}

enum err cluster_loop_open(struct cluster_loop **out,
                           const struct cluster_loop_cfg *cfg, struct errmsg *m)
{
    struct cluster_loop *cl =
        fault_here("cluster_loop_open") ? NULL : calloc(1, sizeof(*cl));
    enum err e;

    if (!cl)
        return errmsg_set(m, ERR_NO_MEMORY, "no memory for the cluster");
    cl->cfg = *cfg;
    cl->conf = cfg->control->cfg;
    pthread_mutex_init(&cl->moved_mu, NULL);
    e = open_handles(cl, m);
    if (!e && cluster_load_init(cl))
        e = errmsg_set(m, ERR_NO_MEMORY, "no memory for the slots' heat");
    e = e ? e : open_cluster(cl, m);
    e = e ? e : cluster_links_open(cl, m);
    e = e ? e : open_puller(cl, m);
    if (e) {
        cluster_loop_close(cl);
        return e;
    }
    cfg->control->cluster =
        (struct control_cluster){.ask = on_ask, .arg = cl};
    cfg->control->cluster.feedback = cluster_feedback;
    cfg->control->cluster.reloaded = cluster_links_reloaded;
    if (cl->conf->cluster.provider != PROVIDER_STATIC) /* nobody counts there */
        cfg->control->cluster.flush = on_flush;
    take_actions(cl); /* the last view */
    start_timers(cl);
    *out = cl;
    return OK;
}

void cluster_loop_drain(struct cluster_loop *cl)
{
    struct cluster_status st;

    if (!cl)
        return;
    calls_end(cl, ERR_DRAINING);
    cluster_status(cl->cluster, &st);
    if (st.leads && cluster_transfer(cl->cluster, "", 0) == OK)
        take_actions(cl);
}

static void handle_closed(uv_handle_t *h)
{
    struct cluster_loop *cl = h->data;

    cl->handles--;
}

static void links_closed(void *arg)
{
    ((struct cluster_loop *)arg)->links_closed = true;
}

static void cluster_closed(void *arg)
{
    ((struct cluster_loop *)arg)->cluster_closed = true;
}

static bool all_closed(const struct cluster_loop *cl)
{
    return cl->links_closed && cl->cluster_closed && !cl->handles &&
           !cl->write_busy;
}

static void close_parts(struct cluster_loop *cl)
{
    struct control *c = cl->cfg.control;

    for (uint32_t i = 0; i < c->lane_n; i++)
        c->lanes[i]->moves = NULL;
    puller_close(cl->puller);
    if (cl->links)
        peer_links_close(cl->links, links_closed, cl);
    else
        links_closed(cl);
    if (cl->cluster)
        cluster_close(cl->cluster, cluster_closed, cl);
    else
        cluster_closed(cl);
    if (!cl->cluster && cl->disk.open)
        raft_disk_failed(&cl->disk, cl->cfg.uv);
    if (cl->handles) {
        uv_close((uv_handle_t *)&cl->wake, handle_closed);
        uv_close((uv_handle_t *)&cl->tick, handle_closed);
        uv_close((uv_handle_t *)&cl->load_timer, handle_closed);
    }
}

void cluster_loop_close(struct cluster_loop *cl)
{
    uint64_t begin = cluster_now_ms();

    if (!cl)
        return;
    calls_end(cl, ERR_CANCELED);
    cl->closing = true;
    cl->cfg.control->cluster = (struct control_cluster){0};
    close_parts(cl);
    while (!all_closed(cl) && cluster_now_ms() - begin < CLOSE_MAX_MS)
        uv_run(cl->cfg.uv, UV_RUN_ONCE);
    if (!all_closed(cl)) { /* a disk that does not come to rest */
        LOG(LOG_ERROR, "cluster_stuck", "after_ms=%d", CLOSE_MAX_MS);
        return;
    }
    raft_disk_close(&cl->disk);
    cluster_load_fini(cl);
    experts_fini(&cl->experts);
    cluster_view_drop(cl->unsent);
    bytes_fini(&cl->writing);
    bytes_fini(&cl->to_write);
    free(cl->moved);
    pthread_mutex_destroy(&cl->moved_mu);
    free(cl);
}
