/* SPDX-License-Identifier: Apache-2.0
 *
 * What the simulated node tells of its blocks. Beside each lane somebody stands
 * who knows its store by its events alone (follow.h), taken after every turn:
 * what it believes is what the catalog has, whatever happened. And clients poll
 * (SUBSCRIBE) from anywhere, with any wait, and look at what comes. */
#include <string.h>

#include "lib/sim.h"
#include "rpc/msg.h"

void sim_events_start(struct sim *s)
{
    for (uint32_t i = 0; i < s->lane_n; i++) {
        follow_init(&s->follows[i]);
        follow_list(&s->follows[i], s->lanes[i]->store);
    }
}

void sim_events_stop(struct sim *s)
{
    for (uint32_t i = 0; i < s->lane_n; i++)
        follow_fini(&s->follows[i]);
}

void sim_events_take(struct sim *s, uint32_t lane)
{
    struct follow *f = &s->follows[lane];

    follow_take(f, s->lanes[lane]->store);
    for (uint32_t k = 0; k < countof(s->told); k++) {
        s->told[k] += f->told[k];
        f->told[k] = 0;
    }
}

void sim_events_check(struct sim *s)
{
    for (uint32_t i = 0; i < s->lane_n; i++)
        follow_check(&s->follows[i], s->lanes[i]->store);
}

/* ---- polls */

uint64_t sim_events_ask(struct sim *s, uint32_t lane, Pikv__Subscribe *m)
{
    const struct store *st = s->lanes[lane]->store;
    uint64_t span = store_events_next(st) - store_events_first(st) + 1;

    pikv__subscribe__init(m);
    m->ns = s->ns_id;
    m->wait_ms = (uint32_t)sim_random(s, 4) * 20;
    m->max = sim_random(s, 2) ? 0 : 1 + (uint32_t)sim_random(s, 20);
    m->id = sim_random(s, 2) ? 0 : 1 + sim_random(s, 3);
    if (sim_random(s, 3)) /* where somebody would be who reads on */
        m->from_seq = store_events_next(st) - sim_random(s, min_u64(span, 20));
    else if (sim_random(s, 2)) /* anywhere, also beyond both ends */
        m->from_seq = sim_random(s, store_events_next(st) + 10);
    return m->from_seq;
}

void sim_events_answered(struct sim *s, uint64_t from, const struct message *m)
{
    static uint8_t buf[1 << 20];
    const Pikv__SubscribeReply *r;
    uint64_t seq = from;
    struct arena a;

    arena_init(&a, buf, sizeof buf);
    r = msg_unpack(&pikv__subscribe_reply__descriptor, &a, m->env,
                   m->frame.env_len);
    MUST(r && r->boot == s->control.boot);
    MUST(!r->lost_from || r->lost_from == from);
    if (r->lost_from)
        seq = r->lost_count ? from + r->lost_count : 1;
    for (size_t i = 0; i < r->n_events; i++) {
        const Pikv__Event *e = r->events[i];

        MUST(e->seq >= seq && e->seq < r->next_seq);
        MUST(e->kind <= EVENT_CLEARED);
        MUST(e->kind == EVENT_CLEARED || e->hash.len == 16);
        MUST(!e->key.len || !memcmp(e->key.data, "key-", 4));
        seq = e->seq + 1;
    }
    MUST(r->next_seq >= seq);
    s->polled += r->n_events;
    s->polls_lost += r->lost_from != 0;
}
