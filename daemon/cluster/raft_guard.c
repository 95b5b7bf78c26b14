/* SPDX-License-Identifier: Apache-2.0
 *
 * The rules that libraft 0.15.0 needs around it. What its raft_io reports and
 * what it sends is changed or dropped, as a bad network might; a fixed libraft
 * does not notice. Where its memory is changed (rules 7 to 9) it is through the
 * fields of the public struct raft.
 *
 *  1. A leader counts no replies before a barrier of its own term is on its
 *     disk: then only entries of its term are ever committed by counting. Else
 *     Raft's figure 8: an entry committed here is overwritten there.
 *  2. A follower learns of commits only up to the last entry of the message
 *     that tells it. Else it applies its own stale suffix.
 *  3. A follower acknowledges no more than what this term's leader has proven
 *     to match, or what is committed. Else stale suffixes count as copies.
 *  4. A write that ends in another term than it began is not acknowledged.
 *  5. The wire is ours (coord_raft_msg.c), with limits; what would run into an
 *     assert of libraft is dropped here (guard_sane).
 *  6. The disk never says no: a write that fails is held until the close, all
 *     traffic stops, the owner is told and ends the process. libraft's own
 *     handling goes on as leader, or frees what is not its own.
 *  7. Order: while a write is under way nothing is cut off and no snapshot is
 *     installed; while a write or an installation is, no election is started.
 *     Else entries are counted as stored twice, a second entry of the same term
 *     and index aborts, and a configuration on its way is never adopted.
 *  8. A configuration that is cut off is replaced by the right one, also after
 *     a restart, and is in no snapshot (raft_guard_settled, coord_raft.c). Else
 *     libraft aborts, or goes on with voters that were never agreed on.
 *  9. A snapshot replaces an entry that contradicts it, whatever its term. Else
 *     the follower says that it has it all and never catches up.
 *
 * Off, only what the wire needs and rule 6 remain: tests show what then
 * happens. */
#include "cluster/raft_guard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* In libraft from 0.17 on, which frees what 0.15.0 leaks at a close. */
int raft_version_number(void) __attribute__((weak));

struct guard_append {
    struct raft_io_append io;
    struct raft_guard *g;
    struct raft_io_append *req;
    raft_io_append_cb cb;
    raft_term term;
    struct list in_held;
};

struct guard_put {
    struct raft_io_snapshot_put io;
    struct raft_guard *g;
    struct raft_io_snapshot_put *req;
    raft_io_snapshot_put_cb cb;
    const struct raft_snapshot *snapshot;
    bool install;
};

static struct raft_guard *guard_of(struct raft_io *io)
{
    struct raft *r = io->data;

    return r->data;
}

static bool guard_open(const struct raft_guard *g)
{
    return g->r->state != RAFT_UNAVAILABLE;
}

static void guard_fail(struct raft_guard *g, const char *what)
{
    if (!g->failed && guard_open(g))
        snprintf(g->why, sizeof g->why, "%s: %s", what, g->io->errmsg);
    g->failed = true;
}

/* ---- Leaving libraft ------------------------------------------------------ */

static void barrier_done(struct raft_barrier *b, int status)
{
    (void)status;
    free(b);
}

/* Rule 1. A leader that cannot submit it yet is asked again at every turn. */
static void guard_barrier(struct raft_guard *g)
{
    struct raft *r = g->r;
    struct raft_barrier *b;

    if (g->off || r->state != RAFT_LEADER || g->failed ||
        g->barrier_term == r->current_term)
        return;
    b = calloc(1, sizeof *b);
    if (b && raft_barrier(r, b, barrier_done) == 0) {
        g->barrier_term = r->current_term;
        g->barrier = b->index;
    } else {
        free(b);
    }
}

/* Completing a send may free what libraft still reads when it sends: hence not
 * before. */
static void guard_complete_sends(struct raft_guard *g)
{
    for (uint32_t i = 0; i < g->sent_n; i++)
        if (g->sent[i].cb)
            g->sent[i].cb(g->sent[i].req, 0);
    g->sent_n = 0;
}

static void guard_settle(struct raft_guard *g)
{
    guard_barrier(g);
    guard_complete_sends(g);
    if (!g->started || g->off)
        return;
    if (g->installs == 0 && !raft_guard_conf_note(g))
        guard_fail(g, "configuration");
}

void raft_guard_enter(struct raft_guard *g)
{
    g->depth++;
}

void raft_guard_leave(struct raft_guard *g)
{
    if (g->depth == 1 && g->running) {
        guard_settle(g);
        if (g->started && !guard_open(g) && !g->failed) {
            snprintf(g->why, sizeof g->why, "libraft: %s", raft_errmsg(g->r));
            g->failed = true;
        }
        if (g->failed && !g->told) {
            g->told = true;
            g->ev.fatal(g->ev.arg, g->why);
        }
        g->ev.after(g->ev.arg);
    }
    g->depth--;
}

/* ---- What comes in -------------------------------------------------------- */

/* The first index of a message whose entry contradicts ours, or 0. */
static raft_index conflict_of(const struct raft *r,
                              const struct raft_append_entries *a)
{
    for (unsigned i = 0; i < a->n_entries; i++) {
        raft_index at = a->prev_log_index + 1 + i;
        raft_term t = raft_log_term(r, at);

        if (t && t != a->entries[i].term)
            return at;
    }
    return 0;
}

/* Rules 2, 5, 7 and 8; false: drop it. */
static bool guard_entries(struct raft_guard *g, struct raft_append_entries *a)
{
    struct raft *r = g->r;
    raft_index end = a->prev_log_index + a->n_entries;
    raft_index cut = conflict_of(r, a);
    raft_term prev = raft_log_term(r, a->prev_log_index);

    if (a->prev_log_index < r->log.offset && !prev && a->n_entries)
        return false; /* an old one: it would be appended in the wrong place */
    if (cut && (g->writes || cut <= r->commit_index))
        return false;
    if (a->leader_commit > end) {
        a->leader_commit = end;
        g->guarded++;
    }
    g->pending = end;
    if (cut && cut <= r->configuration_uncommitted_index &&
        a->term >= r->current_term &&
        (!a->prev_log_index || prev == a->prev_log_term) &&
        !raft_guard_conf_set(g, cut)) {
        guard_fail(g, "configuration");
        return false;
    }
    return true;
}

/* Rules 5, 7 and 9. */
static bool guard_install(struct raft_guard *g,
                          struct raft_install_snapshot *s)
{
    struct raft *r = g->r;
    raft_term have = raft_log_term(r, s->last_index);

    if (g->writes || g->installs)
        return false;
    g->pending = s->last_index;
    g->install_term = 0;
    if (s->last_index <= r->commit_index)
        return s->last_index <= r->log.snapshot.last_index ||
               have == s->last_term;
    if (have > s->last_term && s->term >= r->current_term) {
        g->install_term = s->last_term;
        s->last_term = have + 1;
        g->guarded++;
    }
    return true;
}

static bool guard_result(struct raft_guard *g,
                         const struct raft_append_entries_result *a)
{
    const struct raft *r = g->r;

    return r->state != RAFT_LEADER || a->rejected ||
           a->term != r->current_term ||
           (g->barrier_term == a->term && r->last_stored >= g->barrier);
}

/* What an honest peer never sends and libraft asserts on. */
static bool guard_sane(const struct raft_guard *g, const struct raft_message *m)
{
    const struct raft *r = g->r;
    bool leads = r->state == RAFT_LEADER;

    switch (m->type) {
    case RAFT_IO_APPEND_ENTRIES:
        return !leads || m->append_entries.term != r->current_term;
    case RAFT_IO_INSTALL_SNAPSHOT:
        return !leads || m->install_snapshot.term != r->current_term;
    case RAFT_IO_REQUEST_VOTE_RESULT:
        return !m->request_vote_result.vote_granted ||
               m->request_vote_result.term <= r->current_term + 1;
    default:
        return true;
    }
}

/* May change m; false: it must not reach libraft. */
static bool guard_incoming(struct raft_guard *g, struct raft_message *m)
{
    if (!guard_open(g) || g->failed || !guard_sane(g, m))
        return false;
    if (g->off)
        return true;
    switch (m->type) {
    case RAFT_IO_APPEND_ENTRIES:
        return g->taking = guard_entries(g, &m->append_entries);
    case RAFT_IO_INSTALL_SNAPSHOT:
        return g->taking = guard_install(g, &m->install_snapshot);
    case RAFT_IO_APPEND_ENTRIES_RESULT:
        return guard_result(g, &m->append_entries_result);
    case RAFT_IO_TIMEOUT_NOW:
        if (!g->writes && !g->installs)
            return true;
        g->timeout_now = *m;
        return false;
    default:
        return true;
    }
}

void raft_guard_receive(struct raft_guard *g, struct raft_message *m)
{
    raft_guard_enter(g);
    g->taking = false;
    if (guard_incoming(g, m)) {
        g->recv(g->io, m);
        if (g->install_term && g->installs)
            g->r->log.snapshot.last_term = g->install_term;
        g->install_term = 0;
    } else {
        g->guarded++;
        raft_message_discard(m);
    }
    g->taking = false;
    raft_guard_leave(g);
}

/* Rule 7: an election waits for what is on its way to the disk. */
static void guard_tick(struct raft_io *io)
{
    struct raft_guard *g = guard_of(io);
    bool wait = !g->off && (g->writes || g->installs) &&
                g->r->state == RAFT_FOLLOWER;

    raft_guard_enter(g);
    if (!wait && !g->failed)
        g->tick(io);
    raft_guard_leave(g);
}

/* A uv or test io delivers nothing by itself: messages come by
 * raft_guard_receive. */
static int guard_start(struct raft_io *io, unsigned msecs,
                       raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    struct raft_guard *g = guard_of(io);

    g->tick = tick;
    g->recv = recv;
    return g->inner.start(io, msecs, guard_tick, recv);
}

/* ---- What goes out -------------------------------------------------------- */

/* Rule 3. */
static void guard_prove(struct raft_guard *g, raft_term term)
{
    if (!g->taking)
        return;
    if (g->match_term != term)
        g->match = 0;
    g->match_term = term;
    if (g->pending > g->match)
        g->match = g->pending;
}

/* Rules 3 and 4; false: not sent. */
static bool guard_outgoing(struct raft_guard *g,
                           struct raft_append_entries_result *a)
{
    raft_index most = g->r->commit_index;

    if (g->off || a->rejected)
        return true;
    if (g->done_term && g->done_term != a->term)
        return false;
    if (!g->done_term)
        guard_prove(g, a->term);
    if (g->match_term == a->term && g->match > most)
        most = g->match;
    if (a->last_log_index > most) {
        a->last_log_index = most;
        g->guarded++;
    }
    return true;
}

static bool sent_push(struct raft_guard *g, struct raft_io_send *req,
                      raft_io_send_cb cb)
{
    if (g->sent_n == g->sent_cap) {
        uint32_t cap = g->sent_cap ? 2 * g->sent_cap : 16;
        void *p = realloc(g->sent, cap * sizeof *g->sent);

        if (!p)
            return false;
        g->sent = p;
        g->sent_cap = cap;
    }
    g->sent[g->sent_n++] = (struct raft_guard_sent){req, cb};
    return true;
}

static int guard_send(struct raft_io *io, struct raft_io_send *req,
                      const struct raft_message *m, raft_io_send_cb cb)
{
    struct raft_guard *g = guard_of(io);
    struct raft_message copy = *m;

    if (!sent_push(g, req, cb))
        return RAFT_NOMEM;
    if (g->failed || !guard_open(g))
        return 0;
    if (m->type != RAFT_IO_APPEND_ENTRIES_RESULT ||
        guard_outgoing(g, &copy.append_entries_result))
        g->ev.send(g->ev.arg, &copy);
    else
        g->guarded++;
    return 0;
}

/* ---- The disk ------------------------------------------------------------- */

static void append_end(struct guard_append *a, int status)
{
    struct raft_guard *g = a->g;

    g->writes--;
    g->done_term = a->term;
    a->cb(a->req, status);
    g->done_term = 0;
    free(a);
}

static void append_done(struct raft_io_append *io, int status)
{
    struct guard_append *a = container_of(io, struct guard_append, io);
    struct raft_guard *g = a->g;

    raft_guard_enter(g);
    if (status && guard_open(g))
        guard_fail(g, "append");
    /* At a close libraft only gives the memory back, and only for status 0. */
    if (g->failed && guard_open(g))
        list_add_tail(&g->held, &a->in_held);
    else
        append_end(a, 0);
    if (!g->writes && g->timeout_now.type && !g->failed && guard_open(g)) {
        struct raft_message m = g->timeout_now;

        g->timeout_now.type = 0;
        g->recv(g->io, &m);
    }
    raft_guard_leave(g);
}

static int guard_append(struct raft_io *io, struct raft_io_append *req,
                        const struct raft_entry entries[], unsigned n,
                        raft_io_append_cb cb)
{
    struct raft_guard *g = guard_of(io);
    struct guard_append *a = calloc(1, sizeof *a);

    if (!a) {
        guard_fail(g, "append: no memory");
        return RAFT_NOMEM;
    }
    *a = (struct guard_append){.g = g, .req = req, .cb = cb};
    a->term = g->r->current_term;
    list_init(&a->in_held);
    g->writes++;
    guard_prove(g, a->term);
    if (!g->failed && g->inner.append(io, &a->io, entries, n, append_done))
        guard_fail(g, "append");
    if (g->failed)
        list_add_tail(&g->held, &a->in_held);
    return 0;
}

/* libraft takes a refusal of these three badly: rule 6. */
static int guard_truncate(struct raft_io *io, raft_index index)
{
    struct raft_guard *g = guard_of(io);

    if (!g->failed && g->inner.truncate(io, index))
        guard_fail(g, "truncate");
    return 0;
}

static int guard_set_term(struct raft_io *io, raft_term term)
{
    struct raft_guard *g = guard_of(io);

    if (!g->failed && g->inner.set_term(io, term))
        guard_fail(g, "set term");
    return 0;
}

static int guard_set_vote(struct raft_io *io, raft_id id)
{
    struct raft_guard *g = guard_of(io);

    if (!g->failed && g->inner.set_vote(io, id))
        guard_fail(g, "set vote");
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
    if (p->install && !guard_open(g)) {
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
    if (status && guard_open(g))
        guard_fail(g, "snapshot");
    if (g->failed && guard_open(g))
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
    struct raft_guard *g = guard_of(io);
    struct guard_put *p = calloc(1, sizeof *p);

    if (!p) {
        guard_fail(g, "snapshot: no memory");
        return RAFT_NOMEM;
    }
    *p = (struct guard_put){.g = g, .req = req, .cb = cb, .snapshot = snapshot};
    p->install = trailing == 0;
    g->installs += p->install;
    if (p->install && g->install_term) {
        struct raft_snapshot *mine = container_of(
            &snapshot->index, struct raft_snapshot, index);

        mine->term = g->install_term;
    }
    if (!g->failed && g->inner.snapshot_put(io, trailing, &p->io, snapshot,
                                            put_done))
        guard_fail(g, "snapshot");
    if (g->failed)
        g->put_held = p;
    return 0;
}

static int guard_load(struct raft_io *io, raft_term *term, raft_id *vote,
                      struct raft_snapshot **snapshot, raft_index *start,
                      struct raft_entry **entries, size_t *n)
{
    struct raft_guard *g = guard_of(io);
    int rv = g->inner.load(io, term, vote, snapshot, start, entries, n);

    if (rv == 0 && *snapshot) {
        g->snapshot_index = (*snapshot)->index;
        g->conf_index = (*snapshot)->configuration_index;
        if (!raft_conf_copy(&(*snapshot)->configuration, &g->conf))
            guard_fail(g, "configuration");
    }
    return rv;
}

/* libraft is UNAVAILABLE already: it only takes its memory back. */
static void guard_close(struct raft_io *io, raft_io_close_cb cb)
{
    struct raft_guard *g = guard_of(io);
    struct list *l;

    g->running = false;
    guard_complete_sends(g);
    while ((l = list_pop(&g->held)))
        append_end(container_of(l, struct guard_append, in_held), 0);
    if (g->put_held)
        put_end(g->put_held, RAFT_CANCELED);
    g->put_held = NULL;
    g->inner.close(io, cb);
}

/* ---- From outside --------------------------------------------------------- */

void raft_guard_init(struct raft_guard *g, struct raft *r, struct raft_io *io,
                     const struct raft_guard_events *ev, bool off)
{
    *g = (struct raft_guard){.r = r, .io = io, .inner = *io, .ev = *ev};
    g->off = off;
    g->running = true;
    list_init(&g->held);
    raft_configuration_init(&g->conf);
    r->data = g;
    io->close = guard_close;
    io->load = guard_load;
    io->start = guard_start;
    io->set_term = guard_set_term;
    io->set_vote = guard_set_vote;
    io->send = guard_send;
    io->append = guard_append;
    io->truncate = guard_truncate;
    io->snapshot_put = guard_snapshot_put;
}

enum err raft_guard_started(struct raft_guard *g)
{
    struct raft *r = g->r;
    const struct raft_entry *first = raft_log_entry(r, 1);
    raft_index uncommitted;
    bool ok = !g->failed;

    g->started = true;
    if (g->off)
        return OK;
    if (!g->conf_index && first && first->type == RAFT_CHANGE) {
        ok = ok && raft_conf_decode(first->buf.base, first->buf.len, &g->conf);
        g->conf_index = 1;
    }
    /* What is committed for sure, then what follows it. */
    ok = ok && raft_guard_conf_set(g, r->commit_index + 1);
    uncommitted = r->configuration_uncommitted_index;
    if (ok && uncommitted) {
        r->configuration_uncommitted_index = 0;
        r->configuration_index = uncommitted;
        ok = raft_guard_conf_note(g);
    }
    ok = ok && raft_guard_conf_set(g, raft_log_last(r) + 1);
    return ok ? OK : ERR_NO_MEMORY;
}

void raft_guard_fini(struct raft_guard *g)
{
    raft_configuration_close(&g->conf);
    free(g->sent);
    g->sent = NULL;
}

bool raft_guard_settled(const struct raft_guard *g)
{
    const struct raft *r = g->r;

    return r->state == RAFT_LEADER &&
           (g->off || (g->barrier_term == r->current_term &&
                       r->commit_index >= g->barrier)) &&
           !r->configuration_uncommitted_index && !r->snapshot.put.data;
}
