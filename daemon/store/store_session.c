/* SPDX-License-Identifier: Apache-2.0
 *
 * What clients say of their sessions (FEEDBACK): all blocks in memory that
 * carry the label become worth less (idle), nothing (closed) or as if used now
 * (open). Finding them is a walk over the hot records, one for all changes that
 * wait, a part in each tick: the table holds how many records each change has
 * still to see. Of one label the last word counts, for a new change takes the
 * old one's place. A full table forgets the oldest change: hints may be lost.
 *
 * Blocks put after the change are not touched by it. Thread: the lane. */
#include "store/store_impl.h"

enum { TICK_SESSION = 512 };

static enum evict_hint hint_of(enum store_session state)
{
    switch (state) {
    case SESSION_OPEN:
        return EVICT_HINT_HOT;
    case SESSION_IDLE:
        return EVICT_HINT_IDLE;
    case SESSION_CLOSED:
        return EVICT_HINT_DEAD;
    }
    return EVICT_HINT_NONE;
}

static void change_del(struct store *s, uint32_t i)
{
    s->session_n--;
    for (; i < s->session_n; i++)
        s->sessions[i] = s->sessions[i + 1];
}

void store_session(struct store *s, uint32_t ns, uint64_t label,
                   enum store_session state)
{
    uint32_t slot = ns <= s->cfg.namespaces_max ? s->ns_of[ns] : 0, i;

    if (!slot || !label)
        return;
    for (i = 0; i < s->session_n; i++)
        if (s->sessions[i].slot == slot && s->sessions[i].label == label)
            break;
    if (i == SESSIONS)
        i = 0;
    if (i < s->session_n)
        change_del(s, i);
    s->sessions[s->session_n++] =
        (struct session_change){.slot = slot,
                                .state = state,
                                .label = label,
                                .left = s->cat.hot_hi - 1};
}

static bool has_label(const struct wire_attr *a, uint64_t label)
{
    return a->label0 == label || a->label1 == label || a->label2 == label ||
           a->label3 == label;
}

/* Applies to one hot record the changes that have not seen it. */
static void look(struct store *s, uint32_t hot)
{
    const struct hot *h = hot_at(s, hot);
    const struct entry *e = entry_at(s, h->entry);
    struct keys_view v;

    if (!h->entry || e->state != BLOCK_LIVE)
        return;
    keys_view(&s->keys, h->key, &v);
    for (uint32_t i = 0; i < s->session_n; i++) {
        const struct session_change *c = &s->sessions[i];

        if (c->slot == e->ns && has_label(&v.attr, c->label))
            evict_hint(&ns_at(s, e)->evict, hot, hint_of(c->state));
    }
}

bool session_tick(struct store *s)
{
    for (uint32_t i = 0; i < TICK_SESSION && s->session_n; i++) {
        if (s->session_hand >= s->cat.hot_hi)
            s->session_hand = 1;
        if (s->session_hand < s->cat.hot_hi)
            look(s, s->session_hand++);
        for (uint32_t c = s->session_n; c-- > 0;)
            if (s->sessions[c].left <= 1)
                change_del(s, c);
            else
                s->sessions[c].left--;
    }
    return s->session_n != 0;
}
