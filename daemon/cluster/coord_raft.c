/* SPDX-License-Identifier: Apache-2.0
 *
 * The provider `raft`: libraft behind raft_guard, for the voters.
 *
 *   coord_propose --> raft_apply --+                  +--> ev.apply
 *   coord_receive --> unpack ----> guard <-> libraft -+--> ev.restore, snapshot
 *   io's ticks, completions -----> guard              +--> guard --> pack -->
 *                                    |                              ev.send
 *                                    '--after--> roles, dones, next steps
 *
 * A proposal:  waiting (in libraft) --committed, applied, or leadership lost-->
 * finished --after--> done. A change of voters: ADD --committed--> PROMOTE
 * (libraft lets it catch up) --committed--> done; or REMOVE --> done.
 *
 * Invariants:
 *  1. Every proposal taken is done exactly once, never inside its propose.
 *  2. index of ev.apply is one more than what libraft has applied; barriers and
 *     changes of voters take indexes that are never applied.
 *  3. While a change of voters is not committed no snapshot is taken: libraft
 *     0.15.0 would write the change into it (raft_guard.c, rule 8).
 *  4. A command on the log is: u32 length, u32 0, bytes, zeros to a multiple of
 *     8, which raft_uv wants.
 *
 * Bootstrapping. On the first start of a cluster every configured voter whose
 * disk is empty writes the same entry 1: the configured voters, in the order of
 * their ids. So that it is the same they must be configured alike: daemons
 * compare a hash of the list before they speak (Hello.voters). Who is not in
 * its own list writes nothing, and waits until a leader has added it. A voter
 * that lost its disk must not come back under its old name: it would have
 * forgotten its votes and what it acknowledged. It is removed, and a voter with
 * another name (another id) added. A crash between the two writes of a
 * bootstrap is mended by raft_disk.c.
 *
 * Fails: the disk, or libraft itself: ev.fatal once, then nothing is sent or
 * applied any more; the process closes and ends. Not for hostile voters: a
 * voter with the right key may lie. One thread. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "cluster/coord_raft.h"

static struct coord_raft *raft_of(struct coord *c)
{
    return container_of(c, struct coord_raft, coord);
}

static enum err raft_err(const struct coord_raft *c, int rv)
{
    switch (rv) {
    case 0:
        return OK;
    case RAFT_NOMEM:
        return ERR_NO_MEMORY;
    case RAFT_NOTLEADER:
    case RAFT_LEADERSHIPLOST:
    case RAFT_NOCONNECTION:
        return c->closing ? ERR_CANCELED : ERR_NO_QUORUM;
    case RAFT_SHUTDOWN:
    case RAFT_CANCELED:
        return ERR_CANCELED;
    case RAFT_BUSY:
    case RAFT_CANTCHANGE:
        return ERR_BUSY;
    case RAFT_BADID:
    case RAFT_NOTFOUND:
    case RAFT_BADROLE:
    case RAFT_DUPLICATEID:
    case RAFT_DUPLICATEADDRESS:
        return ERR_BAD_REQUEST;
    default:
        return ERR_IO;
    }
}

/* ---- The guard's events -------------------------------------------------- */

void coord_raft_send(void *arg, const struct raft_message *m)
{
    struct coord_raft *c = arg;
    struct bytes b = {0};

    if (coord_raft_pack(c->raft.id, m, &b) == OK)
        c->coord.ev.send(c->coord.ev.arg, m->server_id, b.p, b.len);
    else
        LOG(LOG_WARN, "raft_send", "kind=%u not sent", m->type);
    bytes_fini(&b);
}

void coord_raft_fatal(void *arg, const char *why)
{
    struct coord_raft *c = arg;

    if (c->opened)
        c->coord.ev.fatal(c->coord.ev.arg, why);
}

static void raft_finish(struct coord_raft *c)
{
    struct list *l;

    while ((l = list_pop(&c->finished))) {
        struct raft_proposal *p = container_of(l, struct raft_proposal, in);

        c->proposals--;
        p->done(p->arg, p->result, p->answer);
        free(p);
    }
}

static void change_ended(struct raft_change *req, int status)
{
    struct coord_raft *c = req->data;

    c->change.ended = true;
    c->change.result = raft_err(c, status);
}

static void change_done(struct coord_raft *c, enum err e)
{
    coord_done_fn *done = c->change.done;

    c->change.step = CHANGE_NONE;
    c->change.ended = false;
    done(c->change.arg, e, NULL);
}

static void change_next(struct coord_raft *c)
{
    enum err e = c->change.result;

    if (e == OK && c->change.step == CHANGE_ADD && !c->closing) {
        if (!raft_guard_settled(&c->guard))
            return; /* again at the next turn: a snapshot is under way */
        c->change.ended = false;
        c->change.step = CHANGE_PROMOTE;
        e = raft_err(c, raft_assign(&c->raft, &c->change.req, c->change.id,
                                    RAFT_VOTER, change_ended));
        if (e == OK)
            return;
    }
    change_done(c, e);
}

static void transfer_ended(struct raft_transfer *req)
{
    struct coord_raft *c = req->data;
    raft_id leader;
    const char *address;

    raft_leader(&c->raft, &leader, &address);
    c->transfer.ended = true;
    c->transfer.result = c->closing          ? ERR_CANCELED
                         : leader == req->id ? OK
                                             : ERR_TIMEOUT;
}

static void raft_tell_role(struct coord_raft *c)
{
    static const enum coord_role roles[] = {
        [RAFT_UNAVAILABLE] = COORD_FOLLOWER,
        [RAFT_FOLLOWER] = COORD_FOLLOWER,
        [RAFT_CANDIDATE] = COORD_CANDIDATE,
        [RAFT_LEADER] = COORD_LEADER,
    };
    enum coord_role role = roles[raft_state(&c->raft)];

    if (role == c->role && c->raft.current_term == c->term)
        return;
    c->role = role;
    c->term = c->raft.current_term;
    c->coord.ev.role(c->coord.ev.arg, role, c->term);
}

void coord_raft_after(void *arg)
{
    struct coord_raft *c = arg;

    if (!c->opened)
        return;
    raft_tell_role(c);
    raft_finish(c);
    /* A step whose leader is gone never ends by itself between two steps. */
    if (c->change.ended && c->change.result == OK &&
        c->raft.state != RAFT_LEADER && c->change.step == CHANGE_ADD)
        c->change.result = ERR_NO_QUORUM;
    if (c->change.step && c->change.ended)
        change_next(c);
    if (c->transfer.on && c->transfer.ended) {
        c->transfer.on = false;
        c->transfer.done(c->transfer.arg, c->transfer.result, NULL);
    }
}

bool coord_raft_server(struct raft_configuration *conf,
                       const struct coord_voter *v, int role)
{
    char address[RAFT_CONF_ADDRESS];
    struct slice_out o = {.p = (uint8_t *)address, .cap = sizeof address};

    (void)slice_put(&o, v->name, strnlen(v->name, sizeof v->name));
    (void)slice_put(&o, " ", 1);
    (void)slice_put(&o, v->peer, strnlen(v->peer, sizeof v->peer));
    (void)slice_put(&o, "", 1);
    return !o.bad && raft_configuration_add(conf, v->id, address, role) == 0;
}

/* ---- Close --------------------------------------------------------------- */

static void raft_closed(struct raft *r)
{
    struct coord_raft *c = container_of(r, struct coord_raft, raft);
    void (*closed)(void *arg) = c->closed;
    void *arg = c->closed_arg;

    raft_finish(c);
    if (c->change.step)
        change_done(c, ERR_CANCELED);
    if (c->transfer.on)
        c->transfer.done(c->transfer.arg, ERR_CANCELED, NULL);
    raft_guard_fini(&c->guard);
    free(c);
    if (closed)
        closed(arg);
}

void coord_raft_close_begin(struct coord_raft *c)
{
    struct raft *r = &c->raft;

    c->close_begun = true;
    c->guard.running = false;
    c->guard.depth++; /* completions of the disk no longer lead to anything */
    raft_close(r, raft_closed);
}

void coord_raft_idle(void *arg)
{
    struct coord_raft *c = arg;

    if (c->closing && !c->close_begun)
        coord_raft_close_begin(c);
}

static void raft_ops_close(struct coord *coord, void (*closed)(void *arg),
                           void *arg)
{
    struct coord_raft *c = raft_of(coord);

    c->closing = true;
    c->closed = closed;
    c->closed_arg = arg;
    if (!c->guard.depth)
        coord_raft_close_begin(c);
}

/* ---- Calls --------------------------------------------------------------- */

/* Why this node cannot decide now, or OK. */
static enum err raft_may(const struct coord_raft *c)
{
    raft_id leader;
    const char *address;
    struct raft *r = c->guard.r;

    if (c->closing)
        return ERR_CANCELED;
    if (c->guard.failed)
        return ERR_IO;
    if (r->state == RAFT_LEADER)
        return r->transfer ? ERR_BUSY : OK;
    raft_leader(r, &leader, &address);
    return leader && leader != r->id ? ERR_WRONG_NODE : ERR_NO_QUORUM;
}

static void apply_done(struct raft_apply *req, int status, void *result)
{
    struct raft_proposal *p = container_of(req, struct raft_proposal, req);

    (void)result;
    p->result = raft_err(p->c, status);
    list_del(&p->in);
    list_add_tail(&p->c->finished, &p->in);
}

static enum err raft_submit(struct coord_raft *c, struct raft_proposal *p,
                            const uint8_t *bytes, size_t n)
{
    uint32_t len = (uint32_t)n;
    struct raft_buffer b = {.len = align_up(COORD_HEAD + n, 8)};
    enum err e;
    int rv;

    b.base = raft_calloc(1, b.len);
    if (!b.base)
        return ERR_NO_MEMORY;
    memcpy(b.base, &len, sizeof len);
    if (n)
        memcpy((uint8_t *)b.base + COORD_HEAD, bytes, n);
    list_add_tail(&c->waiting, &p->in);
    raft_guard_enter(&c->guard);
    rv = raft_apply(&c->raft, &p->req, &b, 1, apply_done);
    if (rv) {
        raft_free(b.base);
        list_del(&p->in);
    } else {
        c->proposals++;
    }
    e = raft_err(c, rv);
    raft_guard_leave(&c->guard); /* c may be gone behind it */
    return e;
}

static enum err raft_propose(struct coord *coord, const uint8_t *bytes,
                             size_t n, coord_done_fn *done, void *arg,
                             void *answer)
{
    struct coord_raft *c = raft_of(coord);
    enum err e = raft_may(c);
    struct raft_proposal *p;

    if (e != OK)
        return e;
    if (c->proposals >= COORD_PROPOSALS)
        return ERR_BUSY;
    p = fault_here("coord_propose") ? NULL : calloc(1, sizeof *p);
    if (!p)
        return ERR_NO_MEMORY;
    *p = (struct raft_proposal){
        .c = c, .done = done, .arg = arg, .answer = answer};
    e = raft_submit(c, p, bytes, n);
    if (e != OK)
        free(p);
    return e;
}

static void raft_receive(struct coord *coord, uint64_t from, const uint8_t *p,
                         size_t n)
{
    struct coord_raft *c = raft_of(coord);
    struct raft_message m;

    if (!c->closing && coord_raft_unpack(from, p, n, &m))
        raft_guard_receive(&c->guard, &m);
}

/* The io has a clock. */
static void raft_tick(struct coord *coord, uint64_t now_ms)
{
    (void)coord;
    (void)now_ms;
}

static void voter_text(struct coord_voter *v, const struct raft_server *s)
{
    const char *space = strchr(s->address, ' ');
    size_t n = space ? (size_t)(space - s->address) : strlen(s->address);

    v->id = s->id;
    if (n >= sizeof v->name)
        n = sizeof v->name - 1;
    memcpy(v->name, s->address, n);
    if (space)
        strncpy(v->peer, space + 1, sizeof v->peer - 1);
}

static void raft_status(const struct coord *coord, struct coord_status *out)
{
    const struct coord_raft *c =
        (const void *)((const char *)coord -
                       offsetof(struct coord_raft, coord));
    struct raft *r = c->guard.r;
    raft_id leader = 0;
    const char *address;

    raft_leader(r, &leader, &address);
    out->role = r->state == RAFT_LEADER      ? COORD_LEADER
                : r->state == RAFT_CANDIDATE ? COORD_CANDIDATE
                                             : COORD_FOLLOWER;
    out->leader = leader;
    out->term = r->current_term;
    out->commit = r->commit_index;
    out->applied = r->last_applied;
    out->last = raft_log_last(r);
    out->guarded = c->guard.guarded;
    for (unsigned i = 0; i < r->configuration.n; i++)
        if (r->configuration.servers[i].role == RAFT_VOTER &&
            out->voter_n < countof(out->voters))
            voter_text(&out->voters[out->voter_n++],
                       &r->configuration.servers[i]);
}

static enum err raft_ops_transfer(struct coord *coord, uint64_t to,
                                  coord_done_fn *done, void *arg)
{
    struct coord_raft *c = raft_of(coord);
    enum err e = raft_may(c);

    if (e != OK)
        return e;
    if (c->transfer.on || c->change.step)
        return ERR_BUSY;
    c->transfer.ended = false;
    c->transfer.done = done;
    c->transfer.arg = arg;
    c->transfer.req = (struct raft_transfer){.data = c};
    raft_guard_enter(&c->guard);
    e = raft_err(c,
                 raft_transfer(&c->raft, &c->transfer.req, to, transfer_ended));
    c->transfer.on = e == OK;
    raft_guard_leave(&c->guard);
    return e;
}

/* Voters change one at a time, on a settled leader. */
static enum err change_may(const struct coord_raft *c)
{
    enum err e = raft_may(c);

    if (e != OK)
        return e;
    return c->change.step || !raft_guard_settled(&c->guard) ? ERR_BUSY : OK;
}

static void change_set(struct coord_raft *c, enum change_step step, uint64_t id,
                       coord_done_fn *done, void *arg)
{
    c->change.step = step;
    c->change.ended = false;
    c->change.id = id;
    c->change.done = done;
    c->change.arg = arg;
    c->change.req = (struct raft_change){.data = c};
}

static enum err change_begun(struct coord_raft *c, int rv)
{
    enum err e = raft_err(c, rv);

    if (rv)
        c->change.step = CHANGE_NONE;
    raft_guard_leave(&c->guard);
    return e;
}

static const struct raft_server *server_of(const struct coord_raft *c,
                                           uint64_t id)
{
    const struct raft_configuration *conf = &c->raft.configuration;

    for (unsigned i = 0; i < conf->n; i++)
        if (conf->servers[i].id == id)
            return &conf->servers[i];
    return NULL;
}

static enum err raft_voter_add(struct coord *coord, const struct coord_voter *v,
                               coord_done_fn *done, void *arg)
{
    struct coord_raft *c = raft_of(coord);
    const struct raft_server *there = server_of(c, v->id);
    enum err e = change_may(c);
    struct raft_configuration conf;
    bool ok;
    int rv;

    if (e != OK)
        return e;
    if (there && there->role == RAFT_VOTER)
        return ERR_EXISTS;
    if (c->raft.configuration.n >= COORD_VOTERS_MAX && !there)
        return ERR_LIMIT;
    raft_configuration_init(&conf);
    ok = v->id && coord_raft_server(&conf, v, RAFT_VOTER);
    change_set(c, there ? CHANGE_PROMOTE : CHANGE_ADD, v->id, done, arg);
    raft_guard_enter(&c->guard);
    if (!ok)
        rv = RAFT_BADID;
    else if (there)
        rv = raft_assign(&c->raft, &c->change.req, v->id, RAFT_VOTER,
                         change_ended);
    else
        rv = raft_add(&c->raft, &c->change.req, v->id, conf.servers[0].address,
                      change_ended);
    e = change_begun(c, rv);
    raft_configuration_close(&conf);
    return e;
}

/* A leader would go on without counting itself: it hands over first. */
static enum err raft_voter_remove(struct coord *coord, uint64_t id,
                                  coord_done_fn *done, void *arg)
{
    struct coord_raft *c = raft_of(coord);
    enum err e = change_may(c);

    if (e != OK)
        return e;
    if (id == c->raft.id)
        return ERR_UNSUPPORTED;
    change_set(c, CHANGE_REMOVE, id, done, arg);
    raft_guard_enter(&c->guard);
    return change_begun(
        c, raft_remove(&c->raft, &c->change.req, id, change_ended));
}

const struct coord_ops coord_raft_ops = {
    .name = "raft",
    .open = coord_raft_open,
    .close = raft_ops_close,
    .propose = raft_propose,
    .receive = raft_receive,
    .tick = raft_tick,
    .status = raft_status,
    .transfer = raft_ops_transfer,
    .voter_add = raft_voter_add,
    .voter_remove = raft_voter_remove,
};
