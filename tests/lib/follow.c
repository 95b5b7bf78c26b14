/* SPDX-License-Identifier: Apache-2.0
 *
 * See follow.h. A table with linear probing; what follows a place that becomes
 * free is put in anew. */
#include "tests/lib/follow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void follow_init(struct follow *f)
{
    *f = (struct follow){.seq = 1};
    f->places = calloc(FOLLOW_PLACES, sizeof *f->places);
    MUST(f->places);
}

void follow_fini(struct follow *f)
{
    free(f->places);
    *f = (struct follow){0};
}

static uint32_t home(struct hash128 h)
{
    return (uint32_t)(h.lo ^ h.hi) & (FOLLOW_PLACES - 1);
}

static struct follow_block *place(const struct follow *f, uint32_t ns,
                                  struct hash128 h)
{
    uint32_t i = home(h);

    while (f->places[i].ns &&
           (f->places[i].ns != ns || f->places[i].hash.lo != h.lo ||
            f->places[i].hash.hi != h.hi))
        i = (i + 1) & (FOLLOW_PLACES - 1);
    return &f->places[i];
}

static void add(struct follow *f, struct follow_block b)
{
    MUST(f->n < FOLLOW_PLACES / 2);
    *place(f, b.ns, b.hash) = b;
    f->n++;
}

static void del(struct follow *f, struct follow_block *p)
{
    uint32_t i = (uint32_t)(p - f->places);

    p->ns = 0;
    f->n--;
    for (i = (i + 1) & (FOLLOW_PLACES - 1); f->places[i].ns;
         i = (i + 1) & (FOLLOW_PLACES - 1)) {
        struct follow_block b = f->places[i];

        f->places[i].ns = 0;
        *place(f, b.ns, b.hash) = b;
    }
}

static void del_ns(struct follow *f, uint32_t ns)
{
    struct follow_block *old = f->places;

    f->places = calloc(FOLLOW_PLACES, sizeof *f->places);
    MUST(f->places);
    f->n = 0;
    for (uint32_t i = 0; i < FOLLOW_PLACES; i++)
        if (old[i].ns && old[i].ns != ns)
            add(f, old[i]);
    free(old);
}

static uint8_t tier_of(const struct store *s, uint32_t block)
{
    return store_where(s, block) == WHERE_MEMORY ? 0 : 1;
}

static void list_one(struct store *s, uint32_t block, void *arg)
{
    struct store_info i;

    store_info(s, block, &i);
    add(arg, (struct follow_block){i.key.hash, i.version, i.key.ns,
                                   tier_of(s, block)});
}

void follow_list(struct follow *f, struct store *s)
{
    memset(f->places, 0, FOLLOW_PLACES * sizeof *f->places);
    f->n = 0;
    MUST(store_walk(s, 0, UINT32_MAX, list_one, f) == 0);
    f->seq = store_events_next(s);
}

/* An event must fit what was told before it. */
static void take(struct follow *f, const struct event *e)
{
    struct follow_block *p = place(f, e->ns, e->hash);

    f->told[e->kind]++;
    switch (e->kind) {
    case EVENT_STORED:
        MUST(!p->ns);
        MUST(e->key_len > 0);
        add(f, (struct follow_block){e->hash, e->version, e->ns, e->tier});
        break;
    case EVENT_REMOVED:
        MUST(p->ns && p->version == e->version && p->tier == e->tier);
        del(f, p);
        break;
    case EVENT_MOVED:
        MUST(p->ns && p->version == e->version && p->tier != e->tier);
        p->tier = e->tier;
        break;
    case EVENT_CLEARED:
        del_ns(f, e->ns);
        break;
    }
}

void follow_take(struct follow *f, struct store *s)
{
    struct event e;

    if (f->seq < store_events_first(s)) {
        f->lost++;
        follow_list(f, s);
    }
    for (; f->seq < store_events_next(s); f->seq++) {
        store_event(s, f->seq, &e);
        MUST(e.seq == f->seq && e.ns == store_event_ns(s, f->seq));
        take(f, &e);
    }
}

struct check {
    const struct follow *f;
    uint32_t n;
};

static void check_one(struct store *s, uint32_t block, void *arg)
{
    struct check *c = arg;
    struct store_info i;
    const struct follow_block *p;

    store_info(s, block, &i);
    p = place(c->f, i.key.ns, i.key.hash);
    if (!p->ns || p->version != i.version || p->tier != tier_of(s, block)) {
        fprintf(stderr,
                "follow: block %016llx version %llu tier %u is in the catalog; "
                "told: %s version %llu tier %u\n",
                (unsigned long long)i.key.hash.lo,
                (unsigned long long)i.version, tier_of(s, block),
                p->ns ? "stored" : "nothing", (unsigned long long)p->version,
                p->tier);
        MUST(false);
    }
    c->n++;
}

void follow_check(const struct follow *f, struct store *s)
{
    struct check c = {.f = f};

    MUST(f->seq == store_events_next(s));
    MUST(store_walk(s, 0, UINT32_MAX, check_one, &c) == 0);
    if (c.n != f->n)
        fprintf(stderr, "follow: %u blocks are told, the catalog has %u\n",
                f->n, c.n);
    MUST(c.n == f->n);
}
