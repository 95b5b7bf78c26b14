/* SPDX-License-Identifier: Apache-2.0
 *
 * A command meets the state.
 *
 *   bytes --cmd_decode--> seen before? --no--> its kind's function --> answer
 *              |               |yes                  |                   |
 *         BAD_REQUEST     the same answer     all of it or nothing   remembered
 *
 * A kind's function checks everything first and then cannot fail, so that what
 * is refused leaves no trace. It may look at nothing but the state and the
 * command: no clock, no chance, no addresses. */
#include <string.h>

#include "base/hash.h"
#include "cluster/state_impl.h"

/* ---- Slots ---- */

static enum err slot_check(struct work *w, const struct slot_row *r,
                           const uint8_t *states)
{
    const struct view *v = &w->s->view;
    const char *why;

    if (w->s->slot_epoch[r->slot] > w->c->base_epoch)
        return errmsg_set(
            w->m, ERR_STALE_EPOCH,
            "slot %u was changed in epoch %llu, after epoch %llu on which this "
            "was planned; plan anew",
            r->slot, (unsigned long long)w->s->slot_epoch[r->slot],
            (unsigned long long)w->c->base_epoch);
    why = view_slot_wrong(&r->to, states, v->node_n);
    if (why)
        return errmsg_set(w->m, ERR_BAD_REQUEST,
                          "slot %u: %s; plan anew with the view of epoch %llu",
                          r->slot, why, (unsigned long long)v->epoch);
    return OK;
}

static enum err slots_check(struct work *w)
{
    const struct view *v = &w->s->view;
    uint8_t states[NODES_MAX], told[WIRE_SLOTS / 8] = {0};

    for (uint32_t i = 0; i < v->node_n; i++)
        states[i] = v->nodes[i].state;
    for (uint32_t i = 0; i < w->c->row_n; i++) {
        const struct slot_row *r = &w->c->rows[i];
        uint8_t bit = (uint8_t)(1u << (r->slot & 7));
        enum err e = slot_check(w, r, states);

        if (e != OK)
            return e;
        if (told[r->slot >> 3] & bit)
            return errmsg_set(w->m, ERR_BAD_REQUEST,
                              "slot %u is in one command twice; say it once",
                              r->slot);
        told[r->slot >> 3] |= bit;
    }
    return OK;
}

static enum err set_slots(struct work *w)
{
    enum err e = slots_check(w);

    if (e != OK)
        return e;
    for (uint32_t i = 0; i < w->c->row_n; i++) {
        const struct slot_row *r = &w->c->rows[i];
        struct slot *s = &w->s->view.slots[r->slot];

        if (memcmp(s, &r->to, sizeof(*s)) == 0)
            continue;
        *s = r->to;
        w->s->slot_epoch[r->slot] = w->index;
        w->changed = true;
    }
    return OK;
}

/* ---- Tenants, flushes, features ---- */

static enum err tenant_remove(struct work *w, uint32_t i)
{
    struct state *s = w->s;

    if (i == s->tenant_n)
        return errmsg_set(w->m, ERR_MISS, "there is no tenant %llu",
                          (unsigned long long)w->c->tenant.id);
    s->tenant_n--;
    memmove(&s->tenants[i], &s->tenants[i + 1],
            (s->tenant_n - i) * sizeof(s->tenants[0]));
    memset(&s->tenants[s->tenant_n], 0, sizeof(s->tenants[0]));
    return OK;
}

static enum err tenant_check(struct work *w)
{
    const struct tenant *t = &w->c->tenant;
    const struct state *s = w->s;

    if (t->id == 0 || !t->name[0])
        return errmsg_set(w->m, ERR_BAD_REQUEST,
                          "a tenant has a name and an id that is not 0");
    for (uint32_t i = 0; i < s->tenant_n; i++)
        if (s->tenants[i].id != t->id &&
            strcmp(s->tenants[i].name, t->name) == 0)
            return errmsg_set(w->m, ERR_DENIED,
                              "the tenant %s has the id %llu; remove that one "
                              "first, or choose another name",
                              t->name, (unsigned long long)s->tenants[i].id);
    return OK;
}

static enum err set_tenant(struct work *w)
{
    struct state *s = w->s;
    uint32_t i = 0;
    enum err e;

    while (i < s->tenant_n && s->tenants[i].id != w->c->tenant.id)
        i++;
    if (w->c->flag)
        return tenant_remove(w, i);
    e = tenant_check(w);
    if (e != OK)
        return e;
    if (i == STATE_TENANTS_MAX)
        return errmsg_set(w->m, ERR_LIMIT,
                          "there are %d tenants already; remove one first",
                          STATE_TENANTS_MAX);
    s->tenants[i] = w->c->tenant;
    s->tenant_n += i == s->tenant_n;
    return OK;
}

static enum err flush(struct work *w)
{
    struct state *s = w->s;
    const char *name = w->c->name;
    uint32_t i = 0;

    if (!name[0])
        return errmsg_set(w->m, ERR_BAD_REQUEST, "a namespace has a name");
    while (i < s->flush_n && strcmp(s->flushes[i].name, name) != 0)
        i++;
    if (i == STATE_FLUSHES_MAX)
        return errmsg_set(w->m, ERR_LIMIT,
                          "%d namespaces were flushed, which is as many as the "
                          "cluster remembers; use fewer names",
                          STATE_FLUSHES_MAX);
    if (i == s->flush_n) {
        memcpy(s->flushes[i].name, name, sizeof(s->flushes[i].name));
        s->view.flushes[i].name = hash_64(0, name, strlen(name));
        s->view.flush_n = ++s->flush_n;
    }
    w->value = ++s->flushes[i].count;
    s->view.flushes[i].count = w->value;
    w->changed = true;
    return OK;
}

static enum err feature(struct work *w)
{
    struct state *s = w->s;
    uint32_t level = w->c->level;

    if (level < s->feature_level)
        return errmsg_set(w->m, ERR_DENIED,
                          "the feature level is %u and only goes up; %u is "
                          "less",
                          s->feature_level, level);
    for (uint32_t i = 0; i < s->view.node_n; i++) {
        const struct node *n = &s->view.nodes[i];

        if (n->state != NODE_REMOVED && n->speaks < level)
            return errmsg_set(w->m, ERR_DENIED,
                              "%s speaks feature level %u at most; install a "
                              "newer pikvd there first",
                              n->name, n->speaks);
    }
    s->feature_level = level;
    return OK;
}

/* ---- The command ---- */

static enum err run(struct work *w)
{
    switch (w->c->kind) {
    case CMD_JOIN:
        return state_join(w);
    case CMD_SET_STATE:
        return state_set_state(w);
    case CMD_SLOTS:
        return set_slots(w);
    case CMD_EXPERTS:
        return state_experts(w);
    case CMD_TENANT:
        return set_tenant(w);
    case CMD_FLUSH:
        return flush(w);
    case CMD_FEATURE:
        return feature(w);
    case CMD_GENERATION:
        return state_generation(w);
    case CMD_VOTER:
        return state_voter(w);
    }
    MUST(false); /* cmd_decode lets no other kind through */
    return ERR_INTERNAL;
}

static void apply(struct state *s, uint64_t index, const struct cmd *c,
                  struct answer *a)
{
    struct work w = {.s = s, .c = c, .index = index, .m = &a->msg};

    a->err = run(&w);
    if (w.changed)
        s->view.epoch = index;
    if (a->err == OK && (c->kind == CMD_JOIN || c->kind == CMD_FLUSH))
        a->value = w.value;
    else
        a->value = s->view.epoch;
    state_see(s, c->id, a);
}

void state_apply(struct state *s, uint64_t index, const uint8_t *p, size_t n,
                 struct answer *answer)
{
    struct answer here, *a = answer ? answer : &here;
    struct cmd c;

    MUST(index > s->applied);
    s->applied = index;
    memset(a, 0, sizeof(*a));
    if (cmd_decode(&c, p, n, &s->scratch) != OK) {
        a->value = s->view.epoch;
        a->err = errmsg_set(&a->msg, ERR_BAD_REQUEST,
                            "not a command that this version knows; install "
                            "the same pikvd on all voters");
        return;
    }
    if (!state_seen(s, c.id, a))
        apply(s, index, &c, a);
}
