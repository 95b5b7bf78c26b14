/* SPDX-License-Identifier: Apache-2.0
 *
 * The copy of a request that may be sent again (spread.h): the items and all
 * that they point to but the caller's buffers, in one run of memory that the
 * call keeps for the next time. The same walk counts the bytes, with no base,
 * and then copies them. */
#include <stdlib.h>
#include <string.h>

#include "client/spread.h"

enum { COPY_ALIGN = 8 };

struct copier {
    uint8_t *base; /* NULL: only counts */
    size_t at;
};

static void *copy(struct copier *k, const void *p, size_t n)
{
    size_t at = (size_t)align_up(k->at, COPY_ALIGN);

    k->at = at + n;
    if (!k->base)
        return NULL;
    if (n)
        memcpy(k->base + at, p, n);
    return k->base + at;
}

/* to: the item's own copy, or NULL while counting. */
static void copy_bytes(struct copier *k, const struct pikv_bytes *from,
                       struct pikv_bytes *to)
{
    void *p = copy(k, from->p, from->len);

    if (to)
        to->p = p;
}

static void copy_key(struct copier *k, const struct pikv_key *from,
                     struct pikv_key *to)
{
    copy_bytes(k, &from->key, to ? &to->key : NULL);
    copy_bytes(k, &from->route, to ? &to->route : NULL);
    if (from->scope) {
        void *p = copy(k, from->scope, sizeof(((struct wire_key *)0)->scope));

        if (to)
            to->scope = p;
    }
}

static void copy_crc(struct copier *k, const uint32_t *from,
                     const uint32_t **to)
{
    const uint32_t *p = from ? copy(k, from, sizeof(*from)) : NULL;

    if (to && from)
        *to = p;
}

static void copy_put(struct copier *k, const struct pikv_put *from,
                     struct pikv_put *to)
{
    const void *iov = copy(k, from->iov, from->iov_n * sizeof(*from->iov));

    copy_bytes(k, &from->parent, to ? &to->parent : NULL);
    copy_crc(k, from->crc32c, to ? &to->crc32c : NULL);
    if (to && from->iov_n)
        to->iov = iov;
}

static void copy_get(struct copier *k, const struct pikv_get *from,
                     struct pikv_get *to)
{
    const void *iov = copy(k, from->iov, from->iov_n * sizeof(*from->iov));

    if (to && from->iov_n)
        to->iov = iov;
}

static void copy_write(struct copier *k, const struct pikv_write *from,
                       struct pikv_write *to)
{
    const void *iov = copy(k, from->iov, from->iov_n * sizeof(*from->iov));

    copy_crc(k, from->crc32c, to ? &to->crc32c : NULL);
    if (to && from->iov_n)
        to->iov = iov;
}

/* Each kind of item begins with its key. */
static void copy_item(struct copier *k, const struct request *r, uint32_t i,
                      void *to)
{
    copy_key(k, request_key(r, i), to);
    if (r->puts)
        copy_put(k, &r->puts[i], to);
    else if (r->begins)
        copy_put(k, &r->begins[i].block, to);
    else if (r->gets)
        copy_get(k, &r->gets[i], to);
    else if (r->writes)
        copy_write(k, &r->writes[i], to);
}

/* A selection by scope or pattern has one key that is not an item. */
static uint32_t copy_item_n(const struct request *r)
{
    return r->n ? r->n : r->items ? 1 : 0;
}

static void copy_request(struct copier *k, const struct request *r,
                         struct request *to)
{
    uint32_t n = copy_item_n(r);
    uint8_t *items = copy(k, r->items, n * r->stride);
    const void *columns = NULL;

    for (uint32_t i = 0; i < n; i++)
        copy_item(k, r, i, k->base ? items + i * r->stride : NULL);
    if (r->columns)
        columns = copy(k, r->columns, r->cols * sizeof(*r->columns));
    if (!k->base)
        return;
    *to = *r;
    to->items = r->items ? items : NULL;
    to->columns = columns;
    to->puts = r->puts ? to->items : NULL;
    to->gets = r->gets ? to->items : NULL;
    to->begins = r->begins ? to->items : NULL;
    to->writes = r->writes ? to->items : NULL;
    to->finishes = r->finishes ? to->items : NULL;
}

static bool copy_room(struct spread *s, size_t n)
{
    uint8_t *p;

    if (n <= s->bytes_cap)
        return true;
    p = realloc(s->bytes, n);
    if (!p)
        return false;
    s->bytes = p;
    s->bytes_cap = n;
    return true;
}

int spread_begin(struct request **r, struct call *c)
{
    struct spread *s = c->spread ? c->spread : calloc(1, sizeof(*s));
    struct copier k = {0};

    if (!s)
        return ERR_NO_MEMORY;
    c->spread = s;
    list_init(&s->node);
    copy_request(&k, *r, NULL);
    if (!copy_room(s, k.at + 1) || !part_room((void **)&s->trips, &s->trips_cap,
                                              (*r)->n, sizeof(*s->trips)))
        return ERR_NO_MEMORY;
    k = (struct copier){.base = s->bytes};
    copy_request(&k, *r, &s->r);
    if ((*r)->call) {
        s->call = *(*r)->call;
        s->r.call = &s->call;
    }
    s->c = c;
    s->leg_n = s->reached = s->missed = 0;
    s->missed_why = OK;
    s->held = false;
    for (uint32_t i = 0; i < s->r.n; i++)
        s->trips[i] = (struct trip){
            .slot = build_slot(s->r.space, request_key(&s->r, i)),
            .node = NO_NODE,
            .to = NO_NODE,
            .hint = NO_NODE,
        };
    c->spreads = true;
    *r = &s->r;
    return OK;
}

void spread_end(struct call *c)
{
    if (c->spreads)
        list_del(&c->spread->node);
    c->spreads = false;
}

void spread_free(struct spread *s)
{
    if (!s)
        return;
    free(s->bytes);
    free(s->trips);
    free(s->legs);
    free(s);
}
