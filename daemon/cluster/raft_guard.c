/* SPDX-License-Identifier: Apache-2.0
 *
 * The rules that libraft 0.15.0 needs around it. What its raft_io reports and
 * what it sends is changed or dropped, as a bad network might; a fixed libraft
 * does not notice. Where its memory is changed (rules 8, 9 and 11) it is
 * through the fields of the public struct raft. Debian builds it without its
 * asserts: what breaks an assumption there goes on with broken memory.
 *
 *  1. A leader counts no replies before a barrier of its own term is on its
 *     disk: then only entries of its term are ever committed by counting. Else
 *     Raft's figure 8: an entry committed here is overwritten there.
 *  2. A follower learns of commits only up to the last entry of the message
 *     that tells it. Else it applies its own stale suffix.
 *  3. A follower acknowledges no more than what this term's leader has proven
 *     to match, or what is committed. Else stale suffixes count as copies.
 *  4. A write that ends in another term than it began is not acknowledged.
 *  5. The wire is ours (coord_raft_msg.c), with limits; what libraft takes for
 *     granted of messages and peers may break is dropped here (guard_sane).
 *  6. The disk never says no: a write that fails is held until the close, all
 *     traffic and all writing stops, the owner is told and ends the process.
 *     libraft's own handling goes on as leader, or frees what is not its own,
 *     and raft_uv writes what was behind the failed write.
 *  7. Order: while a write is under way nothing is cut off and no snapshot is
 *     installed; while a write or an installation is, no election is started.
 *     Else entries are counted as stored twice, a second entry of the same term
 *     and index breaks the reference counts, and a configuration on its way is
 *     never adopted.
 *  8. A configuration that is cut off is replaced by the right one, also after
 *     a restart, and is in no snapshot (coord_raft_open.c). Else libraft
 * follows a null pointer, or goes on with voters that were never agreed on.
 *  9. A snapshot replaces an entry that contradicts it, whatever its term. Else
 *     the follower says that it has it all and never catches up.
 * 10. A message that begins before our log is cut to what is behind our
 *     snapshot. Else it is refused for ever: the leader only ever goes back,
 *     down to a snapshot that is older than ours. From index 1 on, it would
 *     even be appended in the wrong place.
 * 11. A server votes whatever its own configuration says of it, and if it is no
 *     voter there it still forgets a leader that is silent. Else one that does
 *     not know yet that it became a voter withholds the vote without which
 *     nobody can tell it.
 * 12. A refused pre-vote says the term of who refuses. Else a candidate whose
 *     term is behind asks in vain for ever, and if only it has all entries
 *     nobody ever leads.
 * 13. The only voter leads in a new term after every start. Else it gives out
 *     an index and term again that it had sent to a server that is joining,
 *     before a crash, without having written it.
 *
 * Off, only what the wire needs and rule 6 remain: tests show what then
 * happens. */
#include "cluster/raft_guard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"

struct raft_guard *raft_guard_of(struct raft_io *io)
{
    struct raft *r = io->data;

    return r->data;
}

bool raft_guard_open(const struct raft_guard *g)
{
    return g->r->state != RAFT_UNAVAILABLE;
}

void raft_guard_fail(struct raft_guard *g, const char *what)
{
    if (!g->failed && raft_guard_open(g))
        snprintf(g->why, sizeof g->why, "%s: %.200s", what, g->io->errmsg);
    g->failed = true;
}

/* ---- Leaving libraft ----------------------------------------------------- */

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
void raft_guard_sends(struct raft_guard *g)
{
    for (uint32_t i = 0; i < g->sent_n; i++)
        if (g->sent[i].cb)
            g->sent[i].cb(g->sent[i].req, 0);
    g->sent_n = 0;
}

static void guard_settle(struct raft_guard *g)
{
    guard_barrier(g);
    raft_guard_sends(g);
    if (!g->started || g->off)
        return;
    if (g->installs == 0 && !raft_guard_conf_note(g))
        raft_guard_fail(g, "configuration");
}

void raft_guard_enter(struct raft_guard *g)
{
    g->depth++;
}

static void guard_turn(struct raft_guard *g)
{
    guard_settle(g);
    if (g->started && !raft_guard_open(g) && !g->failed) {
        snprintf(g->why, sizeof g->why, "libraft: %.200s", raft_errmsg(g->r));
        g->failed = true;
    }
    if (g->failed && !g->told) {
        g->told = true;
        g->ev.fatal(g->ev.arg, g->why);
    }
    g->ev.after(g->ev.arg);
}

void raft_guard_leave(struct raft_guard *g)
{
    if (g->depth == 1 && g->running) {
        do {
            guard_turn(g);
        } while (g->sent_n);
        g->depth = 0;
        g->ev.idle(g->ev.arg);
        return;
    }
    g->depth--;
}

/* ---- What comes in ------------------------------------------------------- */

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

/* Rule 10: what begins before our log begins behind our snapshot, since all
 * leaders have what is in it. */
static void guard_trim(struct raft_guard *g, struct raft_append_entries *a)
{
    const struct raft *r = g->r;
    raft_index snapshot = r->log.snapshot.last_index;
    raft_index k = snapshot - a->prev_log_index;

    if (a->term < r->current_term || a->prev_log_index >= r->log.offset ||
        a->prev_log_index >= snapshot || g->installs)
        return;
    g->guarded++;
    a->prev_log_index = snapshot;
    a->prev_log_term = r->log.snapshot.last_term;
    if (k < a->n_entries) {
        a->n_entries -= (unsigned)k;
        memmove(a->entries, a->entries + k, a->n_entries * sizeof *a->entries);
    } else if (a->n_entries) {
        raft_free(a->entries[0].batch);
        raft_free(a->entries);
        a->entries = NULL;
        a->n_entries = 0;
    }
}

/* Rules 2, 7, 8 and 10; false: drop it. */
static bool guard_entries(struct raft_guard *g, struct raft_append_entries *a)
{
    struct raft *r = g->r;
    raft_index end, cut;
    raft_term prev;

    guard_trim(g, a);
    end = a->prev_log_index + a->n_entries;
    cut = conflict_of(r, a);
    prev = raft_log_term(r, a->prev_log_index);
    if (a->prev_log_index < r->log.offset && !prev && a->n_entries)
        return false;
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
        raft_guard_fail(g, "configuration");
        return false;
    }
    return true;
}

/* Rules 5, 7 and 9. */
static bool guard_install(struct raft_guard *g, struct raft_install_snapshot *s)
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

/* What an honest peer never sends and libraft takes for granted. */
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
    if (!raft_guard_open(g) || g->failed || !guard_sane(g, m))
        return false;
    if (g->off)
        return true;
    switch (m->type) {
    case RAFT_IO_APPEND_ENTRIES:
        g->taking_term = m->append_entries.term;
        return g->taking = guard_entries(g, &m->append_entries);
    case RAFT_IO_INSTALL_SNAPSHOT:
        g->taking_term = m->install_snapshot.term;
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

/* This server in its own configuration, or NULL. */
static struct raft_server *guard_self(struct raft *r)
{
    for (unsigned i = 0; i < r->configuration.n; i++)
        if (r->configuration.servers[i].id == r->id)
            return &r->configuration.servers[i];
    return NULL;
}

/* Rule 11. Who asks counts only the voters that it knows. */
static void guard_vote(struct raft_guard *g, struct raft_message *m)
{
    struct raft *r = g->r;
    struct raft_server *self = guard_self(r);
    int role = self ? self->role : 0;

    if (r->state == RAFT_FOLLOWER && role != RAFT_VOTER &&
        g->io->time(g->io) - r->election_timer_start >= r->election_timeout)
        r->follower_state.current_leader.id = 0;
    if (self)
        self->role = RAFT_VOTER;
    g->recv(g->io, m);
    if (self)
        self->role = role;
}

void raft_guard_receive(struct raft_guard *g, struct raft_message *m)
{
    raft_guard_enter(g);
    g->taking = false;
    if (guard_incoming(g, m)) {
        if (m->type == RAFT_IO_REQUEST_VOTE && !g->off)
            guard_vote(g, m);
        else
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
    struct raft_guard *g = raft_guard_of(io);
    bool wait =
        !g->off && (g->writes || g->installs) && g->r->state == RAFT_FOLLOWER;

    raft_guard_enter(g);
    if (!wait && !g->failed)
        g->tick(io);
    raft_guard_leave(g);
}

/* A uv or test io delivers nothing by itself: messages come by
 * raft_guard_receive. */
static int guard_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick,
                       raft_io_recv_cb recv)
{
    struct raft_guard *g = raft_guard_of(io);

    g->tick = tick;
    g->recv = recv;
    return g->inner.start(io, msecs, guard_tick, recv);
}

/* ---- What goes out ------------------------------------------------------- */

/* Rule 3. */
void raft_guard_prove(struct raft_guard *g, raft_term term)
{
    if (!g->taking || g->taking_term != term)
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
        raft_guard_prove(g, a->term);
    if (g->match_term == a->term && g->match > most)
        most = g->match;
    if (a->last_log_index > most) {
        a->last_log_index = most;
        g->guarded++;
    }
    return true;
}

/* Rule 12. */
static void guard_vote_result(const struct raft_guard *g,
                              struct raft_request_vote_result *v)
{
    if (v->pre_vote == raft_tribool_true && !v->vote_granted &&
        v->term < g->r->current_term)
        v->term = g->r->current_term;
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
    struct raft_guard *g = raft_guard_of(io);
    struct raft_message copy = *m;

    if (fault_here("raft_guard_send") || !sent_push(g, req, cb))
        return RAFT_NOMEM;
    if (g->failed || !raft_guard_open(g))
        return 0;
    if (m->type == RAFT_IO_REQUEST_VOTE_RESULT && !g->off)
        guard_vote_result(g, &copy.request_vote_result);
    if (m->type != RAFT_IO_APPEND_ENTRIES_RESULT ||
        guard_outgoing(g, &copy.append_entries_result))
        g->ev.send(g->ev.arg, &copy);
    else
        g->guarded++;
    return 0;
}

/* ---- From outside -------------------------------------------------------- */

void raft_guard_init(struct raft_guard *g, struct raft *r, struct raft_io *io,
                     const struct raft_guard_events *ev, bool off)
{
    *g = (struct raft_guard){.r = r, .io = io, .inner = *io, .ev = *ev};
    g->off = off;
    g->running = true;
    list_init(&g->queued);
    list_init(&g->held);
    raft_configuration_init(&g->conf);
    r->data = g;
    io->start = guard_start;
    io->send = guard_send;
    raft_guard_disk(g);
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
