/* SPDX-License-Identifier: Apache-2.0
 *
 * One member, or a list that never changes: no messages, no disk. This node
 * alone is the order; the nodes of a static list agree because each starts from
 * the same commands.
 *
 *   propose --> queue (at most COORD_PROPOSALS) --tick--> apply, done
 *
 * Invariants: an index is given once, from 1 on; a command is applied before
 * its done; done never runs inside a propose. Always leader, in term 1. Voters
 * cannot be changed: UNSUPPORTED. Nothing is kept over a restart: whoever needs
 * more takes `raft` with one voter. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/list.h"
#include "cluster/coord_impl.h"

struct static_command {
    struct list in;
    coord_done_fn *done;
    void *arg, *answer;
    size_t n;
    uint8_t bytes[];
};

struct coord_static {
    struct coord coord;
    struct list queue;
    uint32_t queued;
    uint64_t self, applied;
    uint32_t voter_n;
    struct coord_voter voters[7];
    bool told, ticking, closing;
    void (*closed)(void *arg);
    void *closed_arg;
};

static struct coord_static *static_of(struct coord *c)
{
    return container_of(c, struct coord_static, coord);
}

static enum err static_open(const struct coord_cfg *cfg,
                            const struct coord_events *ev, struct coord **out,
                            struct errmsg *m)
{
    struct coord_static *s =
        fault_here("coord_open") ? NULL : calloc(1, sizeof *s);

    if (!s)
        return errmsg_set(m, ERR_NO_MEMORY, "no memory");
    s->coord = (struct coord){&coord_static_ops, *ev};
    s->self = cfg->self;
    s->voter_n = cfg->voter_n < countof(s->voters)
                     ? cfg->voter_n
                     : (uint32_t)countof(s->voters);
    if (s->voter_n)
        memcpy(s->voters, cfg->voters, s->voter_n * sizeof *s->voters);
    list_init(&s->queue);
    *out = &s->coord;
    return OK;
}

static void static_end(struct coord_static *s)
{
    void (*closed)(void *arg) = s->closed;
    void *arg = s->closed_arg;
    struct list *l;

    while ((l = list_pop(&s->queue))) {
        struct static_command *k = container_of(l, struct static_command, in);

        k->done(k->arg, ERR_CANCELED, k->answer);
        free(k);
    }
    free(s);
    if (closed)
        closed(arg);
}

static void static_close(struct coord *c, void (*closed)(void *arg), void *arg)
{
    struct coord_static *s = static_of(c);

    s->closing = true;
    s->closed = closed;
    s->closed_arg = arg;
    if (!s->ticking)
        static_end(s);
}

static enum err static_propose(struct coord *c, const uint8_t *p, size_t n,
                               coord_done_fn *done, void *arg, void *answer)
{
    struct coord_static *s = static_of(c);
    struct static_command *k;

    if (s->closing)
        return ERR_CANCELED;
    if (s->queued >= COORD_PROPOSALS)
        return ERR_BUSY;
    k = fault_here("coord_propose") ? NULL : malloc(sizeof *k + n);
    if (!k)
        return ERR_NO_MEMORY;
    *k = (struct static_command){
        .done = done, .arg = arg, .answer = answer, .n = n};
    if (n)
        memcpy(k->bytes, p, n);
    list_add_tail(&s->queue, &k->in);
    s->queued++;
    return OK;
}

static void static_receive(struct coord *c, uint64_t from, const uint8_t *p,
                           size_t n)
{
    (void)c;
    (void)from;
    (void)p;
    (void)n;
}

/* What is proposed meanwhile waits for the next tick. */
static void static_tick(struct coord *c, uint64_t now_ms)
{
    struct coord_static *s = static_of(c);
    uint32_t n = s->queued;

    (void)now_ms;
    s->ticking = true;
    if (!s->told)
        c->ev.role(c->ev.arg, COORD_LEADER, 1);
    s->told = true;
    for (; n && !s->closing; n--) {
        struct static_command *k =
            container_of(list_pop(&s->queue), struct static_command, in);

        s->queued--;
        c->ev.apply(c->ev.arg, ++s->applied, k->bytes, k->n, k->answer);
        k->done(k->arg, OK, k->answer);
        free(k);
    }
    s->ticking = false;
    if (s->closing)
        static_end(s);
}

static void static_status(const struct coord *c, struct coord_status *out)
{
    const struct coord_static *s =
        (const void *)((const char *)c - offsetof(struct coord_static, coord));

    out->role = COORD_LEADER;
    out->term = 1;
    out->leader = s->self;
    out->commit = out->applied = s->applied;
    out->last = s->applied + s->queued;
    out->voter_n = s->voter_n;
    memcpy(out->voters, s->voters, sizeof out->voters);
}

static enum err static_transfer(struct coord *c, uint64_t to,
                                coord_done_fn *done, void *arg)
{
    (void)c;
    (void)to;
    (void)done;
    (void)arg;
    return ERR_UNSUPPORTED;
}

static enum err static_voter_add(struct coord *c, const struct coord_voter *v,
                                 coord_done_fn *done, void *arg)
{
    (void)v;
    return static_transfer(c, 0, done, arg);
}

static enum err static_voter_remove(struct coord *c, uint64_t id,
                                    coord_done_fn *done, void *arg)
{
    return static_transfer(c, id, done, arg);
}

const struct coord_ops coord_static_ops = {
    .name = "static",
    .open = static_open,
    .close = static_close,
    .propose = static_propose,
    .receive = static_receive,
    .tick = static_tick,
    .status = static_status,
    .transfer = static_transfer,
    .voter_add = static_voter_add,
    .voter_remove = static_voter_remove,
};
