/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening a voter, and its state machine (coord_raft.h; the essay, with how a
 * cluster starts, is at the top of coord_raft.c).
 *
 *   raft_init --> bootstrap if the disk is empty --> raft_start (load: restore,
 *   apply) --> what the guard must know of it
 *
 * If it fails behind raft_init the io is closed by libraft, which may take
 * until its loop has turned; coord_open has said so by then. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "cluster/coord_raft.h"

enum { INSTALL_TIMEOUT_MS = 5000 };

/* ---- The state machine --------------------------------------------------- */

static void *answer_of(const struct coord_raft *c, uint64_t index)
{
    LIST_FOREACH(l, &c->waiting)
    {
        struct raft_proposal *p = container_of(l, struct raft_proposal, in);

        if (p->req.index == index)
            return p->answer;
    }
    return NULL;
}

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *buf,
                     void **result)
{
    struct coord_raft *c = fsm->data;
    uint64_t index = c->raft.last_applied + 1;
    uint32_t n = 0;

    *result = NULL;
    if (buf->len >= COORD_HEAD)
        memcpy(&n, buf->base, sizeof n);
    /* The same on all voters, so all leave it out. */
    if (buf->len < COORD_HEAD || n > buf->len - COORD_HEAD) {
        LOG(LOG_ERROR, "raft_command", "index=%llu bytes=%zu malformed",
            (unsigned long long)index, buf->len);
        return 0;
    }
    c->coord.ev.apply(
        c->coord.ev.arg, index, (const uint8_t *)buf->base + COORD_HEAD, n,
        c->raft.state == RAFT_LEADER ? answer_of(c, index) : NULL);
    return 0;
}

/* BUSY: libraft asks again after the next command. */
static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer **bufs,
                        unsigned *n_bufs)
{
    struct coord_raft *c = fsm->data;
    struct raft_buffer *b;
    uint8_t *p;
    size_t n;

    if (c->raft.configuration_uncommitted_index && !c->guard.off)
        return RAFT_BUSY;
    if (c->coord.ev.snapshot(c->coord.ev.arg, &p, &n) != OK)
        return RAFT_BUSY;
    b = raft_malloc(sizeof *b);
    *b = (struct raft_buffer){b ? raft_malloc(n + 1) : NULL, n};
    if (n > COORD_SNAPSHOT_MAX || !b || !b->base) {
        LOG(LOG_ERROR, "raft_snapshot", "bytes=%zu not taken", n);
        raft_free(b ? b->base : NULL);
        raft_free(b);
        free(p);
        return RAFT_BUSY;
    }
    memcpy(b->base, p, n);
    free(p);
    *bufs = b;
    *n_bufs = 1;
    return 0;
}

static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    struct coord_raft *c = fsm->data;
    enum err e = c->coord.ev.restore(c->coord.ev.arg, c->guard.snapshot_index,
                                     buf->base, buf->len);

    if (e != OK) {
        raft_guard_fail(&c->guard, "restore");
        return RAFT_CORRUPT;
    }
    raft_free(buf->base);
    return 0;
}

/* ---- Open ---------------------------------------------------------------- */

static int voter_order(const void *a, const void *b)
{
    const struct coord_voter *x = a, *y = b;

    return x->id < y->id ? -1 : x->id > y->id;
}

/* The log gets an entry that makes this voter its only one. */
static int raft_alone(struct coord_raft *c, const struct coord_cfg *cfg)
{
    struct raft_configuration conf;
    bool ok = false;
    int rv;

    raft_configuration_init(&conf);
    for (uint32_t i = 0; i < cfg->voter_n && !ok; i++)
        ok = cfg->voters[i].id == cfg->self &&
             coord_raft_server(&conf, &cfg->voters[i], RAFT_VOTER);
    rv = ok ? raft_recover(&c->raft, &conf) : RAFT_BADID;
    raft_configuration_close(&conf);
    return rv;
}

static enum err raft_first(struct coord_raft *c, const struct coord_cfg *cfg,
                           struct errmsg *m)
{
    struct raft_configuration conf;
    struct coord_voter v[COORD_VOTERS_MAX];
    bool mine = false, ok = true;
    int rv;

    memcpy(v, cfg->voters, cfg->voter_n * sizeof *v);
    qsort(v, cfg->voter_n, sizeof *v, voter_order);
    raft_configuration_init(&conf);
    for (uint32_t i = 0; i < cfg->voter_n && ok; i++) {
        mine |= v[i].id == cfg->self;
        ok = v[i].id && coord_raft_server(&conf, &v[i], RAFT_VOTER);
    }
    rv = ok && mine ? raft_bootstrap(&c->raft, &conf) : 0;
    if (rv == RAFT_CANTBOOTSTRAP && cfg->recover)
        rv = raft_alone(c, cfg);
    raft_configuration_close(&conf);
    if (!ok)
        return errmsg_set(m, ERR_CONFIG, "a voter is listed twice");
    if (rv && rv != RAFT_CANTBOOTSTRAP)
        return errmsg_set(m, ERR_IO, "raft: first write: %s",
                          raft_strerror(rv));
    return OK;
}

static void raft_settings(struct raft *r, const struct coord_cfg *cfg)
{
    raft_set_election_timeout(r, cfg->election_ms ? cfg->election_ms : 1000);
    raft_set_heartbeat_timeout(r, cfg->heartbeat_ms ? cfg->heartbeat_ms : 100);
    raft_set_install_snapshot_timeout(r, INSTALL_TIMEOUT_MS);
    raft_set_snapshot_threshold(r, cfg->snapshot_after ? cfg->snapshot_after
                                                       : 1024);
    raft_set_snapshot_trailing(
        r, cfg->snapshot_trailing ? cfg->snapshot_trailing : 128);
    raft_set_pre_vote(r, true);
}

static enum err raft_begin(struct coord_raft *c, const struct coord_cfg *cfg,
                           struct errmsg *m)
{
    enum err e = raft_first(c, cfg, m);
    int rv;

    if (e != OK)
        return e;
    raft_settings(&c->raft, cfg);
    raft_guard_enter(&c->guard);
    rv = raft_start(&c->raft);
    if (rv)
        e = errmsg_set(m, ERR_IO, "raft: %s (%s)", raft_strerror(rv),
                       cfg->io->errmsg);
    else if (raft_guard_started(&c->guard) != OK)
        e = errmsg_set(m, ERR_IO, "raft: cannot begin");
    raft_guard_leave(&c->guard);
    return e;
}

static void raft_init_parts(struct coord_raft *c, const struct coord_cfg *cfg,
                            const struct coord_events *ev)
{
    const struct raft_guard_events guard_ev = {
        .send = coord_raft_send,
        .after = coord_raft_after,
        .idle = coord_raft_idle,
        .fatal = coord_raft_fatal,
        .arg = c,
    };

    c->coord = (struct coord){&coord_raft_ops, *ev};
    c->fsm = (struct raft_fsm){
        .version = 2,
        .data = c,
        .apply = fsm_apply,
        .snapshot = fsm_snapshot,
        .restore = fsm_restore,
    };
    list_init(&c->waiting);
    list_init(&c->finished);
    raft_guard_init(&c->guard, &c->raft, cfg->io, &guard_ev, cfg->unguarded);
}

enum err coord_raft_open(const struct coord_cfg *cfg,
                         const struct coord_events *ev, struct coord **out,
                         struct errmsg *m)
{
    struct coord_raft *c;
    enum err e;
    int rv;

    if (!cfg->self || cfg->voter_n > COORD_VOTERS_MAX)
        return errmsg_set(m, ERR_CONFIG, "%u voters, at most %d", cfg->voter_n,
                          COORD_VOTERS_MAX);
    c = fault_here("coord_open") ? NULL : calloc(1, sizeof *c);
    if (!c)
        return errmsg_set(m, ERR_NO_MEMORY, "no memory");
    raft_init_parts(c, cfg, ev);
    rv = raft_init(&c->raft, cfg->io, &c->fsm, cfg->self, "self");
    if (rv) {
        e = errmsg_set(m, ERR_IO, "raft: %s (%s)", raft_strerror(rv),
                       cfg->io->errmsg);
        raft_guard_fini(&c->guard);
        free(c);
        return e;
    }
    e = raft_begin(c, cfg, m);
    if (e != OK) {
        c->closing = true;
        coord_raft_close_begin(c);
        return e;
    }
    c->opened = true;
    *out = &c->coord;
    return OK;
}
