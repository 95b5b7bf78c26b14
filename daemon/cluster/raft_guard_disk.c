/* SPDX-License-Identifier: Apache-2.0
 *
 * The guard's half towards the disk: rules 6 and 7 of raft_guard.c, and what
 * must be known of loads and snapshots for rules 3, 8 and 9.
 *
 *   append --> queued --one at a time--> inner --done--> libraft
 *   snapshot_put ------------------------> |
 *                                          '--failed--> held --close--> libraft
 *
 *  1. writes and installs count what libraft believes to be under way: what is
 *     queued or held stays counted.
 *  2. After the first failure nothing is written any more: not what comes, not
 *     what is queued. raft_uv would go on, and leave a hole in its log.
 *  3. Everything is completed before the inner io closes. libraft is
 *     UNAVAILABLE then and only takes its memory back. */
#include <stdlib.h>

#include "base/fault.h"
#include "cluster/raft_guard.h"

/* In libraft from 0.17 on, which frees what 0.15.0 leaks at a close. */
int raft_version_number(void) __attribute__((weak));

struct guard_append {
    struct raft_io_append io;
    struct raft_guard *g;
    struct raft_io_append *req;
    raft_io_append_cb cb;
    raft_term term;
    const struct raft_entry *entries; /* libraft's, until the callback */
    unsigned n;
    struct list in; /* queued or held */
};

struct guard_put {
    struct raft_io_snapshot_put io;
    struct raft_guard *g;
    struct raft_io_snapshot_put *req;
    raft_io_snapshot_put_cb cb;
    const struct raft_snapshot *snapshot;
    bool install;
};

static void append_end(struct guard_append *a)
{
    struct raft_guard *g = a->g;

    g->writes--;
    g->done_term = a->term;
    a->cb(a->req, 0);
    g->done_term = 0;
    free(a);
}

static void append_done(struct raft_io_append *io, int status);

/* One at a time: what follows a write that failed must not be written. */
static void append_next(struct raft_guard *g)
{
    struct guard_append *a;

    while (!g->failed && (!g->writing || g->off) && !list_empty(&g->queued)) {
        a = container_of(list_pop(&g->queued), struct guard_append, in);
        g->writing = true;
        if (g->inner.append(g->io, &a->io, a->entries, a->n, append_done) == 0)
            continue;
        raft_guard_fail(g, "append");
        list_add_tail(&g->held, &a->in);
    }
}

static void timeout_now_late(struct raft_guard *g)
{
    struct raft_message m = g->timeout_now;

    if (!m.type || g->writes || g->installs)
        return;
    g->timeout_now.type = 0;
    g->recv(g->io, &m);
}

static void append_done(struct raft_io_append *io, int status)
{
    struct guard_append *a = container_of(io, struct guard_append, io);
    struct raft_guard *g = a->g;

    raft_guard_enter(g);
    g->writing = false;
    if (status && raft_guard_open(g))
        raft_guard_fail(g, "append");
    /* At a close libraft only takes its memory back, and only for status 0. */
    if (g->failed && raft_guard_open(g))
        list_add_tail(&g->held, &a->in);
    else
        append_end(a);
    if (raft_guard_open(g) && !g->failed) {
        append_next(g);
        timeout_now_late(g);
    }
    raft_guard_leave(g);
}

static int guard_append(struct raft_io *io, struct raft_io_append *req,
                        const struct raft_entry entries[], unsigned n,
                        raft_io_append_cb cb)
{
    struct raft_guard *g = raft_guard_of(io);
    struct guard_append *a =
        fault_here("raft_guard_append") ? NULL : calloc(1, sizeof *a);

    if (!a) {
        raft_guard_fail(g, "append: no memory");
        return RAFT_NOMEM;
    }
    *a = (struct guard_append){
        .g = g, .req = req, .cb = cb, .entries = entries, .n = n};
    a->term = g->r->current_term;
    list_add_tail(&g->queued, &a->in);
    g->writes++;
    raft_guard_prove(g, a->term);
    append_next(g);
    return 0;
}

/* libraft takes a refusal of these three badly: rule 6. */
static int guard_truncate(struct raft_io *io, raft_index index)
{
    struct raft_guard *g = raft_guard_of(io);

    if (!g->failed && g->inner.truncate(io, index))
        raft_guard_fail(g, "truncate");
    return 0;
}

static int guard_set_term(struct raft_io *io, raft_term term)
{
    struct raft_guard *g = raft_guard_of(io);

    if (!g->failed && g->inner.set_term(io, term))
        raft_guard_fail(g, "set term");
    return 0;
}

static int guard_set_vote(struct raft_io *io, raft_id id)
{
    struct raft_guard *g = raft_guard_of(io);

    if (!g->failed && g->inner.set_vote(io, id))
        raft_guard_fail(g, "set vote");
    return 0;
}

static void put_end(struct guard_put *p, int status)
{
    struct raft_guard *g = p->g;
    struct raft_buffer *bufs = p->install ? p->snapshot->bufs : NULL;

    if (p->install) {
        g->installs--;
        g->snapshot_index = p->snapshot->index;
    }
    p->cb(p->req, status);
    if (p->install && !raft_guard_open(g)) {
        if (!raft_version_number)
            raft_free(bufs);
    } else if (p->install && !g->off) {
        g->r->configuration_uncommitted_index = 0;
    }
    free(p);
}

static void put_done(struct raft_io_snapshot_put *io, int status)
{
    struct guard_put *p = container_of(io, struct guard_put, io);
    struct raft_guard *g = p->g;

    raft_guard_enter(g);
    if (status && raft_guard_open(g))
        raft_guard_fail(g, "snapshot");
    if (g->failed && raft_guard_open(g))
        g->put_held = p;
    else
        put_end(p, status);
    raft_guard_leave(g);
}

static int guard_snapshot_put(struct raft_io *io, unsigned trailing,
                              struct raft_io_snapshot_put *req,
                              const struct raft_snapshot *snapshot,
                              raft_io_snapshot_put_cb cb)
{
    struct raft_guard *g = raft_guard_of(io);
    struct guard_put *p =
        fault_here("raft_guard_put") ? NULL : calloc(1, sizeof *p);

    if (!p) {
        raft_guard_fail(g, "snapshot: no memory");
        return RAFT_NOMEM;
    }
    *p = (struct guard_put){.g = g, .req = req, .cb = cb, .snapshot = snapshot};
    p->install = trailing == 0;
    g->installs += p->install;
    if (p->install && g->install_term) {
        /* libraft's own memory, not const where it comes from. */
        ((struct raft_snapshot *)(uintptr_t)snapshot)->term = g->install_term;
    }
    if (!g->failed &&
        g->inner.snapshot_put(io, trailing, &p->io, snapshot, put_done))
        raft_guard_fail(g, "snapshot");
    if (g->failed)
        g->put_held = p;
    return 0;
}

/* The configuration that a loaded log ends with; false: none, or no memory. */
static bool loaded_conf(const struct raft_snapshot *snapshot,
                        const struct raft_entry *entries, size_t n,
                        struct raft_configuration *out)
{
    while (n--)
        if (entries[n].type == RAFT_CHANGE)
            return raft_conf_decode(entries[n].buf.base, entries[n].buf.len,
                                    out);
    return snapshot && raft_conf_copy(&snapshot->configuration, out);
}

/* Is this server the only voter? */
static bool conf_alone(const struct raft_configuration *conf, raft_id id)
{
    bool mine = false;

    for (unsigned i = 0; i < conf->n; i++) {
        if (conf->servers[i].role == RAFT_VOTER && conf->servers[i].id != id)
            return false;
        mine |= conf->servers[i].role == RAFT_VOTER;
    }
    return mine;
}

/* Rule 13. */
static void load_alone(struct raft_guard *g, const struct raft_snapshot *s,
                       const struct raft_entry *entries, size_t n,
                       raft_term *term, raft_id *vote)
{
    struct raft_configuration conf;

    raft_configuration_init(&conf);
    if (!g->off && loaded_conf(s, entries, n, &conf) &&
        conf_alone(&conf, g->r->id)) {
        (*term)++;
        *vote = g->r->id;
        if (g->inner.set_term(g->io, *term) || g->inner.set_vote(g->io, *vote))
            raft_guard_fail(g, "set term");
    }
    raft_configuration_close(&conf);
}

static int guard_load(struct raft_io *io, raft_term *term, raft_id *vote,
                      struct raft_snapshot **snapshot, raft_index *start,
                      struct raft_entry **entries, size_t *n)
{
    struct raft_guard *g = raft_guard_of(io);
    int rv = g->inner.load(io, term, vote, snapshot, start, entries, n);

    if (rv == 0 && *snapshot) {
        g->snapshot_index = (*snapshot)->index;
        g->conf_index = (*snapshot)->configuration_index;
        if (!raft_conf_copy(&(*snapshot)->configuration, &g->conf))
            raft_guard_fail(g, "configuration");
    }
    if (rv == 0)
        load_alone(g, *snapshot, *entries, *n, term, vote);
    return rv;
}

/* libraft is UNAVAILABLE already: it only takes its memory back. */
static void end_all(struct list *of)
{
    struct list *l;

    while ((l = list_pop(of)))
        append_end(container_of(l, struct guard_append, in));
}

/* libraft is UNAVAILABLE already: it only takes its memory back. */
static void guard_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct raft_guard *g = raft_guard_of(io);

    g->running = false;
    raft_guard_sends(g);
    end_all(&g->held);
    end_all(&g->queued);
    if (g->put_held)
        put_end(g->put_held, RAFT_CANCELED);
    g->put_held = NULL;
    g->inner.close(io, cb);
}

void raft_guard_disk(struct raft_guard *g)
{
    struct raft_io *io = g->io;

    io->close = guard_close;
    io->load = guard_load;
    io->set_term = guard_set_term;
    io->set_vote = guard_set_vote;
    io->append = guard_append;
    io->truncate = guard_truncate;
    io->snapshot_put = guard_snapshot_put;
}
