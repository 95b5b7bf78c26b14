/* SPDX-License-Identifier: Apache-2.0
 *
 * See fake_events.h. */
#include "tests/lib/fake_events.h"

#include <string.h>
#include <time.h>

#include "pikv.pb-c.h"
#include "rpc/frame.h"
#include "tests/lib/fake_pikvd.h"

static uint64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t first_of(const struct fake_feed *f)
{
    return f->first ? f->first : 1;
}

void feed_ask(struct fake_feed *f, uint32_t conn, const struct message *m)
{
    Pikv__Subscribe *s =
        pikv__subscribe__unpack(NULL, m->frame.env_len, m->env);
    struct feed_poll *p = &f->polls[f->poll_n++];

    MUST(s && s->ns >= 7 && s->generation == 0 && f->poll_n < FEED_POLLS);
    for (uint32_t i = 0; i + 1 < f->poll_n; i++)
        if (f->polls[i].conn == conn && f->polls[i].id == s->id)
            f->polls[i].until_ns = 0;
    f->asked++;
    *p = (struct feed_poll){.conn = conn, .frame = m->frame, .id = s->id};
    p->from = s->from_seq ? s->from_seq : (uint64_t)f->n + 1;
    p->until_ns = clock_ns() + s->wait_ms * NS_PER_MS;
    pikv__subscribe__free_unpacked(s, NULL);
}

static bool ripe(const struct fake_feed *f, const struct feed_poll *p)
{
    return f->status || f->empty || p->from < first_of(f) ||
           p->from != (uint64_t)f->n + 1 || clock_ns() >= p->until_ns;
}

static uint32_t pack(const struct fake_feed *f, uint64_t boot, uint64_t from,
                     uint8_t env[FEED_ENV])
{
    Pikv__SubscribeReply r = PIKV__SUBSCRIBE_REPLY__INIT;
    Pikv__Event events[FEED_EVENTS], *list[FEED_EVENTS];
    uint64_t seq = from;

    if (from < first_of(f) || from > (uint64_t)f->n + 1) {
        r.lost_from = from;
        r.lost_count = from < first_of(f) ? first_of(f) - from : 0;
        seq = first_of(f);
    }
    for (; seq <= f->n && (!f->most || r.n_events < f->most); seq++) {
        Pikv__Event *e = list[r.n_events] = &events[r.n_events];
        char *key = (char *)(uintptr_t)f->told[seq - 1].key;

        pikv__event__init(e);
        e->seq = seq;
        e->kind = f->told[seq - 1].kind;
        e->key = (ProtobufCBinaryData){strlen(key), (uint8_t *)key};
        e->version = seq * 10;
        r.n_events++;
    }
    r.events = list;
    r.next_seq = f->empty ? 0 : seq;
    if (f->empty)
        r.n_events = 0;
    r.boot = boot;
    MUST(pikv__subscribe_reply__get_packed_size(&r) <= FEED_ENV);
    return (uint32_t)pikv__subscribe_reply__pack(&r, env);
}

uint32_t feed_answer(struct fake_feed *f, uint64_t boot, struct feed_poll *out)
{
    for (uint32_t i = 0; i < f->poll_n; i++) {
        if (!ripe(f, &f->polls[i]))
            continue;
        *out = f->polls[i];
        f->polls[i] = f->polls[--f->poll_n];
        return pack(f, boot, out->from, f->env);
    }
    return 0;
}

/* ---- the test's side */

static struct fake_feed *feed_lock(struct fake *f, uint32_t lane,
                                   pthread_mutex_t **mu_out)
{
    struct fake_feed *feed = fake_feed(f, lane, mu_out);

    pthread_mutex_lock(*mu_out);
    return feed;
}

void fake_event(struct fake *f, uint32_t lane, uint32_t kind, const char *key)
{
    pthread_mutex_t *mu;
    struct fake_feed *feed = feed_lock(f, lane, &mu);

    MUST(feed->n < FEED_EVENTS && strlen(key) < sizeof feed->told[0].key);
    feed->told[feed->n].kind = kind;
    strcpy(feed->told[feed->n++].key, key);
    pthread_mutex_unlock(mu);
}

void fake_events_lose(struct fake *f, uint32_t lane, uint64_t seq)
{
    pthread_mutex_t *mu;

    feed_lock(f, lane, &mu)->first = seq + 1;
    pthread_mutex_unlock(mu);
}

void fake_events_set(struct fake *f, uint32_t lane, int status, bool empty,
                     uint32_t most)
{
    pthread_mutex_t *mu;
    struct fake_feed *feed = feed_lock(f, lane, &mu);

    feed->status = status;
    feed->empty = empty;
    feed->most = most;
    pthread_mutex_unlock(mu);
}

uint32_t fake_polls(struct fake *f, uint32_t lane)
{
    pthread_mutex_t *mu;
    uint32_t n = feed_lock(f, lane, &mu)->asked;

    pthread_mutex_unlock(mu);
    return n;
}

uint32_t fake_polls_asleep(struct fake *f, uint32_t lane)
{
    pthread_mutex_t *mu;
    uint32_t n = feed_lock(f, lane, &mu)->poll_n;

    pthread_mutex_unlock(mu);
    return n;
}
