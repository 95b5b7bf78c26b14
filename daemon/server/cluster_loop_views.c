/* SPDX-License-Identifier: Apache-2.0
 *
 * A published view on its way: to the lanes, the puller, the disk.
 *
 * A view that finds no job for the lanes waits for the next tick, and a newer
 * one takes its place. Views are written to disk by a worker of the loop, one
 * at a time, the newest only: a crash loses the last moment's view and nothing
 * else, since the node asks for a newer one anyway. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "server/cluster_loop_impl.h"
#include "server/files.h"

/* ---- The view file ------------------------------------------------------- */

static void write_next(struct cluster_loop *cl);

static void write_work(uv_work_t *w)
{
    struct cluster_loop *cl = w->data;
    struct errmsg m = {""};

    if (files_replace(cl->view_path, cl->writing.p, cl->writing.len, &m))
        LOG(LOG_WARN, "view_not_saved", "error=%s", LOG_STR(m.text));
}

static void write_done(uv_work_t *w, int status)
{
    struct cluster_loop *cl = w->data;

    (void)status;
    cl->write_busy = false;
    bytes_fini(&cl->writing);
    write_next(cl);
}

static void write_next(struct cluster_loop *cl)
{
    if (cl->write_busy || !cl->to_write.len)
        return;
    cl->writing = cl->to_write;
    cl->to_write = (struct bytes){0};
    cl->write.data = cl;
    cl->write_busy = uv_queue_work(cl->cfg.uv, &cl->write, write_work,
                                   write_done) == 0;
    if (!cl->write_busy)
        bytes_fini(&cl->writing);
}

static void write_view(struct cluster_loop *cl, const struct view *v)
{
    bytes_fini(&cl->to_write);
    view_encode(v, &cl->to_write);
    if (cl->to_write.bad)
        bytes_fini(&cl->to_write);
    write_next(cl);
}

/* ---- Views to the lanes -------------------------------------------------- */

void cluster_view_drop(struct view *v)
{
    if (v)
        view_fini(v);
    free(v);
}

static struct view *view_dup(const struct view *from)
{
    struct view *v = calloc(1, sizeof(*v));

    if (v && (view_init(v) || view_copy(v, from))) {
        cluster_view_drop(v);
        v = NULL;
    }
    return v;
}

static uint16_t self_of(const struct cluster_loop *cl)
{
    struct cluster_status st;

    cluster_status(cl->cluster, &st);
    return st.self;
}

/* Flushes first, then the puller, then the lanes: what was flushed is not
 * brought back, and a lane finds the puller knowing what it knows. A registry
 * that cannot be written does not keep a view from the lanes. */
void cluster_views_send(struct cluster_loop *cl)
{
    struct control *c = cl->cfg.control;
    const struct view *v = cl->unsent ? cl->unsent : c->view;
    enum err e = OK;

    if (cl->unsent || cl->flushes_due)
        e = control_flushes(c, v);
    cl->flushes_due = e != OK;
    if (!cl->unsent || e == ERR_BUSY)
        return;
    if (cl->puller && !cl->puller_told)
        puller_view(cl->puller, v, self_of(cl));
    cl->puller_told = true;
    if (control_view(c, cl->unsent, self_of(cl)) == OK)
        cl->unsent = NULL;
}

void cluster_views_publish(struct cluster_loop *cl, const struct view *v)
{
    struct view *copy = view_dup(v);

    if (!copy) {
        LOG(LOG_ERROR, "view_lost", "epoch=%" PRIu64 " error=no memory",
            v->epoch);
        return;
    }
    cluster_view_drop(cl->unsent);
    cl->unsent = copy;
    cl->puller_told = false;
    cluster_views_send(cl);
    write_view(cl, v);
}
