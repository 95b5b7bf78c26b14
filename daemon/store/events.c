/* SPDX-License-Identifier: Apache-2.0
 *
 * See events.h. */
#include "store/events.h"

#include <string.h>

#include "base/mem.h"
#include "proto/wire.h"

enum { SCOPE_BYTES = 16, LABELS_BYTES = EVENT_LABELS * 8, GRAIN = 8 };

enum { HAS_SCOPE = 1, HAS_LABELS = 2 };

struct record {
    struct hash128 hash;
    uint64_t version, when_ms;
    uint32_t len, ns;
    uint32_t page, token_end, token_n;
    uint16_t key_len, parent_len, group;
    uint8_t kind, tier, cls, flags;
    uint8_t reserved[2];
};
static_assert(sizeof(struct record) == 64, "events.h says so");

enum {
    RECORD_MAX = sizeof(struct record) + SCOPE_BYTES + LABELS_BYTES +
                 2 * WIRE_KEY_MAX + GRAIN
};
static_assert(EVENTS_BYTES_MIN > 4 * RECORD_MAX, "the newest always fits");

static size_t at_bytes(const struct events *r)
{
    return (size_t)r->at_n * sizeof *r->at;
}

enum err events_init(struct events *r, uint64_t bytes)
{
    *r = (struct events){.first = 1, .next = 1};
    if (!bytes)
        return OK;
    MUST(bytes <= GIB(1));
    r->bytes = (uint32_t)align_up(max_u64(bytes, EVENTS_BYTES_MIN), GRAIN);
    r->at_n = 1;
    while (r->at_n < r->bytes / sizeof(struct record))
        r->at_n *= 2;
    r->space = mem_reserve(r->bytes);
    r->at = mem_reserve(at_bytes(r));
    if (r->space && r->at)
        return OK;
    events_fini(r);
    return ERR_NO_MEMORY;
}

void events_fini(struct events *r)
{
    mem_release(r->space, r->bytes);
    mem_release(r->at, at_bytes(r));
    *r = (struct events){0};
}

static struct record *record_at(const struct events *r, uint64_t seq)
{
    uint32_t off = r->at[seq & (r->at_n - 1)];

    return (struct record *)(void *)(r->space + off);
}

static uint8_t *tail(struct record *rec)
{
    return (uint8_t *)rec + sizeof *rec;
}

static uint32_t oldest(const struct events *r)
{
    return r->at[r->first & (r->at_n - 1)];
}

/* A place for n bytes behind the last record. */
static uint32_t place(struct events *r, uint32_t n)
{
    uint32_t off = r->end;

    if (off + n > r->bytes) {
        while (r->first < r->next && oldest(r) >= off)
            r->first++;
        off = 0;
    }
    while (r->first < r->next && oldest(r) >= off && oldest(r) < off + n)
        r->first++;
    r->end = off + n;
    return off;
}

static uint8_t *put(uint8_t *to, const void *from, size_t n)
{
    if (n)
        memcpy(to, from, n);
    return to + n;
}

static bool has_labels(const struct event *e)
{
    return (e->labels[0] | e->labels[1] | e->labels[2] | e->labels[3]) != 0;
}

void events_add(struct events *r, const struct event *e)
{
    uint32_t scope = e->scope ? SCOPE_BYTES : 0;
    uint32_t labels = has_labels(e) ? LABELS_BYTES : 0;
    uint32_t n = (uint32_t)align_up(sizeof(struct record) + scope + labels +
                                        e->key_len + e->parent_len,
                                    GRAIN);
    uint32_t off = place(r, n);
    struct record *rec = (struct record *)(void *)(r->space + off);
    uint8_t *to = tail(rec);

    *rec = (struct record){
        .hash = e->hash,
        .version = e->version,
        .when_ms = e->when_ms,
        .len = (uint32_t)e->len,
        .ns = e->ns,
        .page = e->page,
        .token_end = e->token_end,
        .token_n = e->token_n,
        .key_len = e->key_len,
        .parent_len = e->parent_len,
        .group = e->group,
        .kind = (uint8_t)e->kind,
        .tier = e->tier,
        .cls = e->cls,
        .flags = (uint8_t)((scope ? HAS_SCOPE : 0) | (labels ? HAS_LABELS : 0)),
    };
    to = put(to, e->labels, labels);
    to = put(to, e->scope, scope);
    to = put(to, e->key, e->key_len);
    put(to, e->parent, e->parent_len);
    r->at[r->next++ & (r->at_n - 1)] = off;
}

void events_get(const struct events *r, uint64_t seq, struct event *out)
{
    struct record *rec;
    const uint8_t *from;

    MUST(seq >= r->first && seq < r->next);
    rec = record_at(r, seq);
    from = tail(rec);
    *out = (struct event){
        .seq = seq,
        .kind = (enum event_kind)rec->kind,
        .ns = rec->ns,
        .hash = rec->hash,
        .len = rec->len,
        .version = rec->version,
        .when_ms = rec->when_ms,
        .group = rec->group,
        .cls = rec->cls,
        .tier = rec->tier,
        .key_len = rec->key_len,
        .parent_len = rec->parent_len,
        .page = rec->page,
        .token_end = rec->token_end,
        .token_n = rec->token_n,
    };
    if (rec->flags & HAS_LABELS) {
        memcpy(out->labels, from, LABELS_BYTES);
        from += LABELS_BYTES;
    }
    if (rec->flags & HAS_SCOPE) {
        out->scope = from;
        from += SCOPE_BYTES;
    }
    out->key = from;
    out->parent = from + rec->key_len;
}

uint32_t events_ns(const struct events *r, uint64_t seq)
{
    MUST(seq >= r->first && seq < r->next);
    return record_at(r, seq)->ns;
}
