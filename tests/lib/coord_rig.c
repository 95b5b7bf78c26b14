/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/coord_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

struct rig_state {
    uint64_t last, chain, n;
};

static uint64_t id_of(uint32_t node)
{
    return 101 + node;
}

static uint64_t chained(uint64_t chain, uint64_t index, uint64_t value)
{
    uint64_t v[3] = {chain, index, value};

    return hash_64(7, v, sizeof v);
}

/* ---- The state machine --------------------------------------------------- */

static void rig_record(struct rig *r, uint64_t index, uint64_t value,
                       uint64_t chain)
{
    if (!r->chain_at[index]) {
        r->chain_at[index] = chain;
        r->value_at[index] = value;
        if (r->index_of[value] && r->index_of[value] != index)
            r->found |= RIG_TWICE;
        r->index_of[value] = index;
    } else if (r->chain_at[index] != chain) {
        r->found |= RIG_DIVERGED;
    }
}

static void on_apply(void *arg, uint64_t index, const uint8_t *p, size_t n,
                     void *answer)
{
    struct rig_node *d = arg;
    uint64_t value;

    MUST(n == sizeof value && index < RIG_INDEXES);
    memcpy(&value, p, sizeof value);
    MUST(value && value < RIG_VALUES);
    if (index <= d->last)
        d->rig->found |= RIG_TWICE;
    d->chain = chained(d->chain, index, value);
    d->last = index;
    d->n++;
    rig_record(d->rig, index, value, d->chain);
    if (answer)
        *(uint64_t *)answer = index;
}

static enum err on_snapshot(void *arg, uint8_t **p_out, size_t *n_out)
{
    struct rig_node *d = arg;
    struct rig_state s = {d->last, d->chain, d->n};
    size_t n = sizeof s + d->rig->snapshot_bytes;
    uint8_t *p = calloc(1, n);

    MUST(p);
    memcpy(p, &s, sizeof s);
    *p_out = p;
    *n_out = n;
    return OK;
}

static enum err on_restore(void *arg, uint64_t index, const uint8_t *p,
                           size_t n)
{
    struct rig_node *d = arg;
    struct rig_state s;

    if (n < sizeof s)
        return ERR_CORRUPT;
    memcpy(&s, p, sizeof s);
    d->last = s.last;
    d->chain = s.chain;
    d->n = s.n;
    d->restored++;
    MUST(s.last < RIG_INDEXES);
    if (s.last > index || (s.last && d->rig->chain_at[s.last] != s.chain))
        d->rig->found |= RIG_DIVERGED;
    return OK;
}

static void on_role(void *arg, enum coord_role role, uint64_t term)
{
    struct rig_node *d = arg;
    struct rig *r = d->rig;

    d->role = role;
    if (role != COORD_LEADER || term >= RIG_TERMS || !r->cfg.io)
        return;
    if (r->leader_of[term] && r->leader_of[term] != d->at + 1)
        r->found |= RIG_TWO_LEADERS;
    r->leader_of[term] = d->at + 1;
}

static void on_send(void *arg, uint64_t to, const uint8_t *p, size_t n)
{
    struct rig_node *d = arg;

    if (to > 100 && to <= 100 + RAFT_MEM_NODES)
        raft_mem_send(&d->rig->w, d->at, (uint32_t)(to - 101), p, n);
}

static void on_fatal(void *arg, const char *why)
{
    struct rig_node *d = arg;

    (void)why;
    d->ended = true;
    if (!d->faulty)
        d->rig->found |= RIG_UNAVAILABLE;
}

static void on_deliver(void *arg, uint32_t to, uint32_t from, const uint8_t *p,
                       size_t n)
{
    struct rig *r = arg;

    if (r->node[to].c && !r->node[to].ended)
        coord_receive(r->node[to].c, id_of(from), p, n);
}

/* ---- Nodes --------------------------------------------------------------- */

static void *table(size_t n, size_t size)
{
    void *p = calloc(n, size);

    MUST(p);
    return p;
}

void crig_init(struct rig *r, uint64_t seed, uint32_t voters,
               const struct coord_cfg *cfg)
{
    *r = (struct rig){.voter_n = voters, .cfg = *cfg};
    raft_mem_init(&r->w, seed, on_deliver, r);
    r->value_at = table(RIG_INDEXES, sizeof *r->value_at);
    r->chain_at = table(RIG_INDEXES, sizeof *r->chain_at);
    r->index_of = table(RIG_VALUES, sizeof *r->index_of);
    r->state_of = table(RIG_VALUES, sizeof *r->state_of);
    r->leader_of = table(RIG_TERMS, sizeof *r->leader_of);
    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++) {
        r->node[i].rig = r;
        r->node[i].at = i;
        r->voters[i].id = id_of(i);
        snprintf(r->voters[i].name, sizeof r->voters[i].name, "n%u", i);
        snprintf(r->voters[i].peer, sizeof r->voters[i].peer, "10.0.0.%u:1", i);
    }
}

void crig_boot(struct rig *r, uint32_t node)
{
    struct rig_node *d = &r->node[node];
    const struct coord_events ev = {
        .apply = on_apply,
        .snapshot = on_snapshot,
        .restore = on_restore,
        .role = on_role,
        .send = on_send,
        .fatal = on_fatal,
        .arg = d,
    };
    struct errmsg m;

    MUST(!d->c);
    d->last = d->chain = d->n = 0;
    d->ended = d->faulty = false;
    d->role = COORD_FOLLOWER;
    r->cfg.self = id_of(node);
    r->cfg.voters = r->voters;
    r->cfg.voter_n = r->voter_n;
    r->cfg.io = strcmp(r->cfg.provider, "raft") == 0
                    ? raft_mem_boot(&r->w, node)
                    : NULL;
    if (coord_open(&r->cfg, &ev, &d->c, &m) != OK) {
        r->found |= RIG_UNAVAILABLE;
        r->w.node[node].up = false;
    }
}

void crig_boot_all(struct rig *r)
{
    for (uint32_t i = 0; i < r->voter_n; i++)
        if (!r->node[i].c)
            crig_boot(r, i);
}

static void on_closed(void *arg)
{
    struct rig_node *d = arg;

    d->rig->closes++;
    d->c = NULL;
}

static void rig_down(struct rig *r, uint32_t node)
{
    struct rig_node *d = &r->node[node];

    coord_close(d->c, on_closed, d);
    MUST(!d->c);
    d->role = COORD_FOLLOWER;
}

void crig_crash(struct rig *r, uint32_t node)
{
    if (!r->node[node].c)
        return;
    if (r->cfg.io)
        raft_mem_crash(&r->w, node);
    rig_down(r, node);
}

void crig_stop(struct rig *r, uint32_t node)
{
    if (!r->node[node].c)
        return;
    if (r->cfg.io)
        raft_mem_stop(&r->w, node);
    rig_down(r, node);
}

void crig_fini(struct rig *r)
{
    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++)
        crig_stop(r, i);
    raft_mem_fini(&r->w);
    free(r->value_at);
    free(r->chain_at);
    free(r->index_of);
    free(r->state_of);
    free(r->leader_of);
}

bool crig_step(struct rig *r, uint64_t end_ms)
{
    bool more = raft_mem_step(&r->w, end_ms);

    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++)
        if (r->node[i].c && r->node[i].ended)
            crig_crash(r, i);
    return more;
}

void crig_run(struct rig *r, uint64_t ms)
{
    uint64_t end = r->w.now_ms + ms;

    if (!r->cfg.io)
        for (uint32_t i = 0; i < RAFT_MEM_NODES; i++)
            if (r->node[i].c)
                coord_tick(r->node[i].c, end);
    while (crig_step(r, end))
        ;
}

uint64_t crig_commit(struct rig *r, uint32_t node)
{
    struct coord_status s;

    if (!r->node[node].c)
        return 0;
    coord_status(r->node[node].c, &s);
    return s.commit;
}

/* ---- Proposals ----------------------------------------------------------- */

struct rig_answer {
    uint64_t index;
    struct rig *r;
    uint64_t value;
};

static void on_done(void *arg, enum err e, void *answer)
{
    struct rig_answer *a = arg;
    struct rig *r = a->r;

    if (r->proposing || r->state_of[a->value] != VALUE_WAITS)
        r->found |= RIG_TWICE;
    r->state_of[a->value] = e == OK ? VALUE_ACKED : VALUE_FAILED;
    if (e == OK) {
        r->acked++;
        if (answer != a || a->index != r->index_of[a->value] || !a->index)
            r->found |= RIG_LOST;
    } else {
        r->unknown++;
    }
    free(a);
}

enum err crig_try(struct rig *r, uint32_t node, uint64_t *value_out)
{
    struct rig_answer *a = table(1, sizeof *a);
    uint64_t value = r->values + 1;
    enum err e;

    MUST(value < RIG_VALUES);
    a->r = r;
    a->value = value;
    r->state_of[value] = VALUE_WAITS;
    r->proposing = true;
    e = coord_propose(r->node[node].c, (const uint8_t *)&value, sizeof value,
                      on_done, a, a);
    r->proposing = false;
    if (e == OK) {
        r->values = value;
        *value_out = value;
        return OK;
    }
    r->refused++;
    r->state_of[value] = VALUE_NONE;
    free(a);
    return e;
}

uint64_t crig_propose(struct rig *r, uint32_t node)
{
    uint64_t value = 0;

    if (!r->node[node].c || crig_try(r, node, &value) != OK)
        return 0;
    return value;
}

int crig_leader(struct rig *r)
{
    uint64_t term = 0;
    int at = -1;

    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++) {
        struct coord_status s;

        if (!r->node[i].c || r->node[i].ended)
            continue;
        coord_status(r->node[i].c, &s);
        if (s.role == COORD_LEADER && s.term >= term) {
            term = s.term;
            at = (int)i;
        }
    }
    return at;
}

int crig_elect(struct rig *r, uint64_t ms)
{
    uint64_t end = r->w.now_ms + ms;

    while (crig_leader(r) < 0 && crig_step(r, end))
        ;
    return crig_leader(r);
}

void crig_groups(struct rig *r, const uint32_t *masks, uint32_t n)
{
    for (uint32_t a = 0; a < RAFT_MEM_NODES; a++)
        for (uint32_t b = 0; b < a; b++) {
            bool together = false;

            for (uint32_t i = 0; i < n; i++)
                together |= (masks[i] >> a & 1) && (masks[i] >> b & 1);
            raft_mem_cut(&r->w, a, b, !together);
        }
}

static void on_changed(void *arg, enum err e, void *answer)
{
    struct rig *r = arg;

    (void)answer;
    r->change_done = true;
    r->change_err = e;
}

bool crig_add(struct rig *r, uint32_t on, uint32_t node)
{
    if (!r->node[on].c)
        return false;
    r->change_done = false;
    return coord_voter_add(r->node[on].c, &r->voters[node], on_changed, r) ==
           OK;
}

bool crig_remove(struct rig *r, uint32_t on, uint32_t node)
{
    if (!r->node[on].c)
        return false;
    r->change_done = false;
    return coord_voter_remove(r->node[on].c, id_of(node), on_changed, r) == OK;
}

/* ---- In the end ---------------------------------------------------------- */

static void rig_check_end(struct rig *r, uint32_t leader)
{
    const struct rig_node *l = &r->node[leader];
    struct coord_status s;

    coord_status(l->c, &s);
    for (uint32_t i = 0; i < s.voter_n; i++) {
        const struct rig_node *d = &r->node[s.voters[i].id - 101];

        if (!d->c || d->last != l->last || d->chain != l->chain)
            r->found |= RIG_STUCK;
    }
    for (uint64_t v = 1; v <= r->values; v++) {
        if (r->state_of[v] == VALUE_WAITS)
            r->found |= RIG_STUCK;
        if (r->state_of[v] == VALUE_ACKED &&
            (!r->index_of[v] || r->index_of[v] > l->last))
            r->found |= RIG_LOST;
    }
}

void crig_settle(struct rig *r, uint64_t ms)
{
    uint64_t value = 0;
    int leader;

    raft_mem_heal(&r->w);
    crig_run(r, 500); /* a fault that is under way still ends its node */
    for (uint32_t i = 0; i < RAFT_MEM_NODES; i++) {
        r->w.node[i].timeout_ms = 0;
        if (!r->node[i].c && (i < r->voter_n || r->w.node[i].disk.term))
            crig_boot(r, i);
    }
    crig_run(r, ms);
    leader = crig_leader(r);
    if (leader >= 0)
        value = crig_propose(r, (uint32_t)leader);
    crig_run(r, 5000);
    if (!value || r->state_of[value] != VALUE_ACKED)
        r->found |= RIG_STUCK;
    leader = crig_leader(r);
    if (leader >= 0)
        rig_check_end(r, (uint32_t)leader);
    else
        r->found |= RIG_STUCK;
}

const char *crig_found(unsigned found, char *buf, size_t cap)
{
    static const char *const names[] = {"diverged",    "twice",       "lost",
                                        "two leaders", "unavailable", "stuck"};
    size_t n = 0;

    buf[0] = 0;
    for (size_t i = 0; i < countof(names); i++)
        if (found >> i & 1 && n < cap)
            n += (size_t)snprintf(buf + n, cap - n, "%s%s", n ? ", " : "",
                                  names[i]);
    return buf;
}
