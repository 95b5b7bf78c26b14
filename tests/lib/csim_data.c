/* SPDX-License-Identifier: Apache-2.0
 *
 * The data of the simulated cluster: the rules that lanes, pullers and libpikv
 * follow, on a model of 512 keys.
 *
 *   GET   a hit is always served; a miss looks at the view: WRONG_NODE, or a
 *         pull from slot.from, or a miss
 *   PUT   needs view_owns; the same key again: EXISTS
 *   EVICT goes to all holders
 *   move  the target copies what the home has, says so; after the hand-over it
 *         copies once more, from a source whose view is at least as new as the
 *         hand-over (else that source may still take writes), says so again
 *   drop  a second after the view has a node not among the holders
 *   flush a node drops what was written before a count that its view shows,
 *         and takes none of it from others
 *
 * Values are unique: a read that gives another key's value, or one from before
 * a flush that the node knew, is broken. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "lib/csim.h"

enum { GRACE_US = 1000000, MOVER_US = 100000, TRIES = 3 };

void csim_data_init(struct csim *s)
{
    for (uint32_t i = 0; i < CSIM_KEYS; i++) {
        s->keys[i].slot = (uint32_t)hash_64(7, &i, sizeof(i)) % WIRE_SLOTS;
        s->keys[i].space = i % CSIM_SPACES;
    }
    for (uint32_t i = 0; i < s->cfg.clients && i < CSIM_CLIENTS; i++)
        csim_at(s, 2000000 + csim_chance(s, 100000),
                (struct csim_event){.kind = CSIM_CALL, .node = i});
}

static struct csim_content *content(struct csim *s, struct csim_node *n,
                                    uint32_t key)
{
    struct csim_content *c = &n->data[key];

    if (c->drop_us && c->drop_us <= s->now_us)
        *c = (struct csim_content){0};
    return c;
}

/* ---- What a new view means to a node ---- */

static void space_name(char *out, size_t cap, uint32_t space)
{
    snprintf(out, cap, "space%u", space);
}

static void flush_known(struct csim_node *n, const struct view *v)
{
    for (uint32_t i = 0; i < CSIM_SPACES; i++) {
        char name[16];
        uint64_t count;

        space_name(name, sizeof(name), i);
        count = view_flushes(v, name);
        if (count > n->flush[i])
            n->flush[i] = (uint32_t)count;
    }
}

static bool holds(const struct view *v, uint32_t slot, uint16_t self)
{
    uint16_t at[VIEW_COPIES + 2];
    uint32_t n = view_holders(v, slot, at);

    for (uint32_t i = 0; i < n; i++)
        if (at[i] == self)
            return true;
    return false;
}

static void review_data(struct csim *s, struct csim_node *n,
                        const struct view *v, uint16_t self)
{
    for (uint32_t k = 0; k < CSIM_KEYS; k++) {
        struct csim_content *c = content(s, n, k);

        if (!c->value)
            continue;
        if (c->flush < n->flush[s->keys[k].space])
            *c = (struct csim_content){0};
        else if (self == NODE_NONE || holds(v, s->keys[k].slot, self))
            c->drop_us = 0;
        else if (!c->drop_us)
            c->drop_us = s->now_us + GRACE_US;
    }
}

/* All slots that move in this view: found once for all nodes. */
static void moving_find(struct csim *s, const struct view *v)
{
    if (s->moving.epoch == v->epoch && s->moving.generation == v->generation)
        return;
    s->moving.epoch = v->epoch;
    s->moving.generation = v->generation;
    s->moving.n = 0;
    for (uint32_t i = 0; i < WIRE_SLOTS; i++)
        if (v->slots[i].to != NODE_NONE || v->slots[i].from != NODE_NONE)
            s->moving.slots[s->moving.n++] = i;
}

static uint8_t stage_of(const struct slot *s, uint16_t self)
{
    if (self == NODE_NONE)
        return 0;
    if (s->to == self)
        return 1;
    return s->owner[0] == self && s->from != NODE_NONE ? 2 : 0;
}

/* The puller's list: what it has done of a stage that goes on stays done. */
static void review_moves(struct csim *s, struct csim_node *n,
                         const struct view *v, uint16_t self)
{
    struct csim_move *old = n->moves, *m = NULL;
    uint32_t k = 0, count = 0;

    moving_find(s, v);
    for (uint32_t i = 0; i < s->moving.n; i++) {
        uint32_t slot = s->moving.slots[i];
        uint8_t stage = stage_of(&v->slots[slot], self);

        if (!stage)
            continue;
        if (!m)
            m = malloc(WIRE_SLOTS * sizeof(*m));
        MUST(m);
        while (k < n->move_n && old[k].slot < slot)
            k++;
        if (k < n->move_n && old[k].slot == slot && old[k].stage == stage)
            m[count++] = old[k];
        else
            m[count++] = (struct csim_move){slot, stage, false, v->epoch};
    }
    free(old);
    n->moves = m ? realloc(m, count * sizeof(*m)) : NULL;
    n->move_n = count;
    if (count && !n->moving) {
        n->moving = true;
        csim_at(s, s->now_us + csim_chance(s, MOVER_US),
                (struct csim_event){
                    .kind = CSIM_MOVER, .node = n->at, .a = n->life});
    }
}

static uint16_t index_of(struct csim_node *n, const struct view *v)
{
    char name[16];

    if (n->index >= v->node_n || v->nodes[n->index].uuid != n->uuid ||
        v->nodes[n->index].state == NODE_REMOVED) {
        snprintf(name, sizeof(name), "n%u", n->at);
        n->index = view_find(v, name);
    }
    if (n->index != NODE_NONE && v->nodes[n->index].uuid != n->uuid)
        n->index = NODE_NONE;
    return n->index;
}

void csim_published(struct csim *s, struct csim_node *n, const struct view *v)
{
    struct shared_view *s_v = container_of(
        (struct view *)(uintptr_t)v, struct shared_view, v);
    uint16_t self;

    if (n->last && (n->last->v.generation > v->generation ||
                    (n->last->v.generation == v->generation &&
                     n->last->v.epoch > v->epoch)))
        s->broken = "a view went back";
    csim_mix(s, v->epoch, n->at);
    s->stats.epochs++;
    shared_view_unref(n->view);
    n->view = shared_view_ref(s_v);
    shared_view_unref(n->last);
    n->last = shared_view_ref(s_v);
    self = index_of(n, v);
    flush_known(n, v);
    if (s->cfg.clients)
        review_data(s, n, v, self);
    review_moves(s, n, v, self);
    if (s->on_publish)
        s->on_publish(s, n);
}

/* ---- The puller ---- */

static struct csim_node *node_of(struct csim *s, const struct view *v,
                                 uint16_t index)
{
    uint32_t at;

    if (index >= v->node_n)
        return NULL;
    at = csim_of_peer(s, v->nodes[index].peer);
    return at < s->node_n ? &s->nodes[at] : NULL;
}

static bool talk(const struct csim *s, const struct csim_node *a,
                 const struct csim_node *b)
{
    return b && b->up && b->pause_us <= s->now_us &&
           !s->cut[a->at * s->node_n + b->at] &&
           !s->cut[b->at * s->node_n + a->at];
}

static void copy_key(struct csim *s, struct csim_node *to,
                     struct csim_node *from, uint32_t key)
{
    struct csim_content *c = content(s, from, key);

    if (!c->value || content(s, to, key)->value ||
        c->flush < to->flush[s->keys[key].space])
        return;
    to->data[key] = (struct csim_content){c->value, 0, c->flush};
}

static bool copy_slot(struct csim *s, struct csim_node *n,
                      const struct csim_move *m)
{
    const struct view *v = &n->view->v;
    const struct slot *sl = &v->slots[m->slot];
    uint16_t home = m->stage == 1 ? view_serving(v, m->slot) : sl->from;
    struct csim_node *from = node_of(s, v, home);

    if (from == n)
        return true;
    if (!talk(s, n, from) || !from->view)
        return false;
    if (m->stage == 2 && from->view->v.generation == v->generation &&
        from->view->v.epoch < m->epoch)
        return false;
    for (uint32_t k = 0; k < CSIM_KEYS; k++)
        if (s->keys[k].slot == m->slot)
            copy_key(s, n, from, k);
    return true;
}

void csim_mover(struct csim *s, const struct csim_event *e)
{
    struct csim_node *n = &s->nodes[e->node];
    uint32_t left = 0;

    if (!n->up || n->life != e->a)
        return;
    for (uint32_t i = 0; i < n->move_n && n->pause_us <= s->now_us; i++) {
        struct cluster_event ev = {.kind = CLUSTER_MOVED};

        if (n->moves[i].done)
            continue;
        if (!copy_slot(s, n, &n->moves[i])) {
            left++;
            continue;
        }
        n->moves[i].done = true;
        s->stats.moves++;
        ev.slot = n->moves[i].slot;
        ev.epoch = n->view->v.epoch;
        csim_step(s, n, &ev);
    }
    n->moving = n->move_n > 0;
    if (n->moving)
        csim_at(s, s->now_us + MOVER_US, *e);
}

/* ---- Clients ---- */

static void take_view(struct csim *s, struct csim_client *c,
                      const struct csim_node *n)
{
    (void)s;
    if (!n->view || (c->view &&
                     c->view->v.generation == n->view->v.generation &&
                     c->view->v.epoch >= n->view->v.epoch))
        return;
    shared_view_unref(c->view);
    c->view = shared_view_ref(n->view);
}

/* Any node that answers gives its view. */
static void refresh(struct csim *s, struct csim_client *c)
{
    struct csim_node *n = &s->nodes[csim_chance(s, s->node_n)];

    if (n->up && n->pause_us <= s->now_us)
        take_view(s, c, n);
}

static void check_read(struct csim *s, const struct csim_node *n, uint32_t key)
{
    const struct csim_content *c = &n->data[key];
    const struct csim_key *k = &s->keys[key];

    if (c->value % CSIM_KEYS != key || c->value < k->first ||
        c->value > k->last)
        s->broken = "a read gave what was not written under its key";
    if (c->flush < n->flush[k->space])
        s->broken = "a read gave what its node knew to be flushed";
}

enum reply { REPLY_OK, REPLY_MISS, REPLY_WRONG };

static enum reply node_get(struct csim *s, struct csim_node *n, uint32_t key)
{
    const struct view *v = &n->view->v;
    uint32_t slot = s->keys[key].slot;
    uint16_t home;
    struct csim_node *from;

    if (!content(s, n, key)->value) {
        home = view_serving(v, slot);
        if (node_of(s, v, home) != n)
            return REPLY_WRONG;
        from = node_of(s, v, v->slots[slot].from);
        if (!talk(s, n, from))
            return REPLY_MISS;
        s->stats.pulls++;
        copy_key(s, n, from, key);
    }
    if (!content(s, n, key)->value)
        return REPLY_MISS;
    check_read(s, n, key);
    return REPLY_OK;
}

static enum reply node_put(struct csim *s, struct csim_node *n, uint32_t key)
{
    const struct view *v = &n->view->v;
    uint32_t slot = s->keys[key].slot;
    bool owner = false;

    for (uint32_t i = 0; i < VIEW_COPIES; i++) {
        uint16_t o = v->slots[slot].owner[i];

        owner = owner || (node_of(s, v, o) == n && view_owns(v, slot, o));
    }
    if (!owner)
        return REPLY_WRONG;
    if (content(s, n, key)->value)
        return REPLY_OK;
    s->value += CSIM_KEYS;
    s->keys[key].last = s->value + key;
    if (!s->keys[key].first)
        s->keys[key].first = s->keys[key].last;
    n->data[key] = (struct csim_content){s->keys[key].last, 0,
                                         n->flush[s->keys[key].space]};
    /* Who does not know of a flush yet stores what it will then drop. */
    s->keys[key].stored =
        !s->flushing && n->flush[s->keys[key].space] ==
                            s->flushed[s->keys[key].space];
    return REPLY_OK;
}

static void evict(struct csim *s, struct csim_client *c, uint32_t key)
{
    uint16_t at[VIEW_COPIES + 2];
    uint32_t n = view_holders(&c->view->v, s->keys[key].slot, at);

    for (uint32_t i = 0; i < n; i++) {
        struct csim_node *to = node_of(s, &c->view->v, at[i]);

        if (to && to->up && to->pause_us <= s->now_us)
            to->data[key] = (struct csim_content){0};
    }
    s->keys[key].stored = false;
}

static void note(struct csim *s, uint32_t key, bool write, enum reply r)
{
    if (write) {
        s->stats.writes++;
        return;
    }
    s->stats.reads++;
    s->stats.hits += r == REPLY_OK;
    s->stats.misses += r == REPLY_MISS;
    if (r == REPLY_MISS && s->keys[key].stored) {
        s->stats.lost++;
        s->keys[key].stored = false;
    }
}

static void call_once(struct csim *s, struct csim_client *c, uint32_t key,
                      bool write)
{
    for (uint32_t i = 0; i < TRIES; i++) {
        uint16_t to = view_serving(&c->view->v, s->keys[key].slot);
        struct csim_node *n = node_of(s, &c->view->v, to);
        enum reply r;

        if (!n || !n->up || n->pause_us > s->now_us || !n->view) {
            s->stats.no_answer++;
            refresh(s, c);
            return;
        }
        r = write ? node_put(s, n, key) : node_get(s, n, key);
        if (r != REPLY_WRONG) {
            note(s, key, write, r);
            return;
        }
        s->stats.redirects++;
        take_view(s, c, n);
    }
}

void csim_call(struct csim *s, const struct csim_event *e)
{
    struct csim_client *c = &s->clients[e->node];
    uint32_t key = csim_chance(s, CSIM_KEYS), what = csim_chance(s, 32);
    uint64_t every = s->cfg.call_us ? s->cfg.call_us : 20000;

    if (!c->view || csim_chance(s, 64) == 0)
        refresh(s, c);
    if (c->view && what == 0)
        evict(s, c, key);
    else if (c->view)
        call_once(s, c, key, what < 12);
    csim_at(s, s->now_us + every / 2 + csim_chance(s, (uint32_t)every), *e);
}

/* ---- Commands ---- */

static void ask(struct csim *s, struct csim_node *n, struct cmd *cmd,
                uint64_t id, uint32_t space)
{
    struct cluster_event ev = {
        .kind = CLUSTER_PROPOSE, .cmd = cmd, .ticket = ++s->ticket};
    struct csim_asked *a = &s->asked[s->ticket % countof(s->asked)];

    *a = (struct csim_asked){s->ticket, id, n->at, cmd->kind, space};
    s->stats.commands++;
    csim_step(s, n, &ev);
}

static void flushed(struct csim *s, uint32_t space, uint64_t count)
{
    if (count > s->flushed[space])
        s->flushed[space] = (uint32_t)count;
    for (uint32_t k = 0; k < CSIM_KEYS; k++)
        if (s->keys[k].space == space)
            s->keys[k].stored = false;
}

static void ask_state(struct csim *s, struct csim_node *n)
{
    const struct view *v = &n->view->v;
    struct cmd cmd = {.kind = CMD_SET_STATE};
    uint32_t i = s->undrain ? s->undrain - 1
                            : csim_chance(s, v->node_n ? v->node_n : 1);

    if (i >= v->node_n)
        return;
    cmd.index = (uint16_t)i;
    cmd.incarnation = v->nodes[i].incarnation;
    cmd.new_state = s->undrain ? NODE_UP : NODE_DRAINING;
    cmd.flag = s->undrain != 0;
    s->undrain = s->undrain ? 0 : i + 1;
    ask(s, n, &cmd, 0, 0);
}

void csim_command(struct csim *s)
{
    struct csim_node *n = &s->nodes[csim_chance(s, s->node_n)];
    struct cmd cmd = {.kind = CMD_TENANT};
    uint32_t what = csim_chance(s, 16);

    csim_at(s, s->now_us + 200000 + csim_chance(s, 600000),
            (struct csim_event){.kind = CSIM_COMMAND});
    if (!n->up || n->pause_us > s->now_us || !n->view || !s->cfg.commands)
        return;
    if (what == 0 && s->cfg.drains && !s->healed) {
        ask_state(s, n);
    } else if (what < 4) {
        cmd.kind = CMD_FLUSH;
        what = csim_chance(s, CSIM_SPACES);
        space_name(cmd.name, sizeof(cmd.name), what);
        flushed(s, what, 0);
        s->flushing++;
        ask(s, n, &cmd, 0, what);
    } else if (s->tenants_asked < CSIM_TENANTS) {
        cmd.tenant.id = ++s->tenants_asked;
        snprintf(cmd.tenant.name, sizeof(cmd.tenant.name), "t%u",
                 s->tenants_asked);
        ask(s, n, &cmd, cmd.tenant.id, 0);
    }
}

void csim_answered(struct csim *s, struct csim_node *n,
                   const struct cluster_action *a)
{
    struct csim_asked *q = &s->asked[a->ticket % countof(s->asked)];

    csim_mix(s, a->ticket, (uint64_t)(int64_t)a->answer.err);
    s->answer = a->answer;
    s->answers++;
    if (q->ticket != a->ticket || q->node != n->at)
        return;
    q->ticket = 0;
    if (q->kind == CMD_FLUSH) { /* it may have happened */
        s->flushing--;
        flushed(s, q->space, a->answer.err == OK ? a->answer.value : 0);
    }
    s->stats.no_quorum += a->answer.err == ERR_NO_QUORUM;
    if (a->answer.err != OK)
        return;
    s->stats.acked++;
    if (q->kind == CMD_TENANT)
        s->tenants[s->tenant_n++] = q->id;
}
