/* SPDX-License-Identifier: Apache-2.0
 *
 * What the store tells (events.h). A block is found by store_find from STORED
 * on until REMOVED or the namespace's CLEARED; MOVED says which tier has it.
 *
 *   commit            STORED   dram
 *   LIVE -> COLD      MOVED    ssd
 *   LOADING -> LIVE   MOVED    dram
 *   found -> GONE     REMOVED  the tier that had it last: evicted, dropped,
 *                              expired, unreadable, its SSD lost or reclaimed
 *   new generation    CLEARED  once, for all its blocks
 *
 * Not told: OPEN and its end (never found), COLD <-> LOADING (on the SSD all
 * along), a copy that is written to the SSD or forgotten there while the block
 * is in memory, blocks of old generations, what recovery does. */
#include "store/store_impl.h"

#include <string.h>

static uint64_t wall_ms(const struct store *s)
{
    return s->env->wall_s * 1000 + s->env->wall_ms;
}

/* The key's bytes lie in memory, unless the block is COLD, or LOADING and only
 * just begun. */
static void key_fill(const struct store *s, const struct entry *e,
                     struct event *out)
{
    static const uint8_t no_scope[16];
    const struct hot *h = entry_hot(e) ? hot_at(s, e->hot) : NULL;
    struct keys_view v;

    if (!h || !h->key)
        return;
    keys_view(&s->keys, h->key, &v);
    out->group = v.key.group;
    out->cls = v.key.cls;
    out->key = v.key.key;
    out->key_len = v.key.key_len;
    out->parent = v.parent;
    out->parent_len = v.parent_len;
    if (memcmp(v.key.scope, no_scope, sizeof no_scope) != 0)
        out->scope = v.key.scope;
    out->page = v.attr.page;
    out->token_end = v.attr.token_end;
    out->token_n = v.attr.token_n;
    out->labels[0] = v.attr.label0;
    out->labels[1] = v.attr.label1;
    out->labels[2] = v.attr.label2;
    out->labels[3] = v.attr.label3;
}

static void tell(struct store *s, uint32_t block, enum event_kind kind,
                 uint8_t tier)
{
    const struct entry *e = entry_at(s, block);
    const struct store_ns *n = ns_at(s, e);
    struct event ev = {.kind = kind,
                       .ns = n->cfg.id,
                       .hash = e->hash,
                       .len = e->len,
                       .version = e->version,
                       .when_ms = wall_ms(s),
                       .tier = tier};

    if (!s->events.bytes || n->condemned || s->adopt)
        return;
    key_fill(s, e, &ev);
    events_add(&s->events, &ev);
    metric_add(&s->metrics->events, 1);
}

void event_stored(struct store *s, uint32_t block)
{
    tell(s, block, EVENT_STORED, hot_of(s, block)->tier);
}

void event_removed(struct store *s, uint32_t block)
{
    const struct entry *e = entry_at(s, block);

    if (e->state == BLOCK_LIVE)
        tell(s, block, EVENT_REMOVED, hot_of(s, block)->tier);
    else if (e->state == BLOCK_COLD || e->state == BLOCK_LOADING)
        tell(s, block, EVENT_REMOVED, TIER_SSD);
}

void event_moved(struct store *s, uint32_t block, uint8_t tier)
{
    tell(s, block, EVENT_MOVED, tier);
}

void event_cleared(struct store *s, uint32_t ns, uint64_t generation)
{
    struct event ev = {.kind = EVENT_CLEARED,
                       .ns = ns,
                       .version = generation,
                       .when_ms = wall_ms(s)};

    if (!s->events.bytes)
        return;
    events_add(&s->events, &ev);
    metric_add(&s->metrics->events, 1);
}

/* ---- the contract */

bool store_events_on(const struct store *s)
{
    return s->events.bytes != 0;
}

uint64_t store_events_first(const struct store *s)
{
    return s->events.first;
}

uint64_t store_events_next(const struct store *s)
{
    return s->events.next;
}

void store_event(const struct store *s, uint64_t seq, struct event *out)
{
    events_get(&s->events, seq, out);
}

uint32_t store_event_ns(const struct store *s, uint64_t seq)
{
    return events_ns(&s->events, seq);
}
