/* SPDX-License-Identifier: Apache-2.0
 *
 * Pins by block in a chained hash table, so that pinning again finds the pin in
 * O(1) however many a client holds; loans in their peer's list, oldest first,
 * since ids and ends of equal ttl grow together. Each has a timer. */
#include "server/pins.h"

#include <string.h>

enum { PIN_HEADS = 4096 };

struct pin {
    struct list by_block, by_peer;
    struct peer *peer;
    struct timer timer;
    uint32_t block;
    uint64_t bytes;
};

struct loan {
    struct list node;
    struct peer *peer;
    struct timer timer;
    uint32_t block;
    uint64_t id, bytes;
};

enum err pins_init(struct lane *l)
{
    uint32_t pins = (uint32_t)l->cfg->limits.pins_per_client;
    enum err e;

    l->pin_heads = mem_reserve(PIN_HEADS * sizeof *l->pin_heads);
    if (!l->pin_heads)
        return ERR_NO_MEMORY;
    for (uint32_t i = 0; i < PIN_HEADS; i++)
        list_init(&l->pin_heads[i]);
    /* Room for sixteen clients at their cap; beyond that PIN_LIMIT. */
    e = pool_init(&l->pins, pins * 16 + 1, sizeof(struct pin));
    if (e)
        return e;
    return pool_init(&l->loans, pins + 1, sizeof(struct loan));
}

void pins_fini(struct lane *l)
{
    pool_fini(&l->loans);
    pool_fini(&l->pins);
    mem_release(l->pin_heads, PIN_HEADS * sizeof *l->pin_heads);
    l->pin_heads = NULL;
}

static struct list *pin_head(const struct lane *l, uint32_t block)
{
    return &l->pin_heads[(block * UINT32_C(2654435761)) >> 20];
}
static_assert(PIN_HEADS == 1 << (32 - 20), "pin_head takes 12 bits");

static struct pin *pin_find(const struct peer *p, uint32_t block)
{
    struct list *head = pin_head(p->lane, block);

    LIST_FOREACH(n, head)
    {
        struct pin *pin = container_of(n, struct pin, by_block);

        if (pin->block == block && pin->peer == p)
            return pin;
    }
    return NULL;
}

static void pin_end(struct pin *pin)
{
    struct peer *p = pin->peer;
    struct lane *l = p->lane;

    timer_stop(&l->timers, &pin->timer);
    list_del(&pin->by_block);
    list_del(&pin->by_peer);
    p->pin_n--;
    p->pinned_bytes -= pin->bytes;
    store_unpin(l->store, pin->block);
    pool_put(&l->pins, pin);
}

static void pin_expired(struct timer *t)
{
    pin_end(container_of(t, struct pin, timer));
}

static uint64_t pin_due_ns(const struct lane *l, uint32_t ttl_ms)
{
    uint64_t max_us = l->cfg->limits.pin_ttl_us;
    uint64_t us = ttl_ms ? min_u64((uint64_t)ttl_ms * 1000, max_us) : max_us;

    return l->env.now_ns + us * NS_PER_US;
}

/* What the caps leave: a pin for this many bytes, or NULL. */
static struct pin *pin_take(struct peer *p, uint64_t bytes)
{
    const struct config *c = p->lane->cfg;

    if (p->pin_n >= c->limits.pins_per_client ||
        p->pinned_bytes + bytes > c->limits.pinned_per_client_bytes)
        return NULL;
    return pool_get(&p->lane->pins);
}

enum err pins_add(struct peer *p, uint32_t block, uint32_t ttl_ms)
{
    struct lane *l = p->lane;
    struct pin *pin = pin_find(p, block);
    uint64_t bytes = store_len(l->store, block);

    if (!pin) {
        pin = pin_take(p, bytes);
        if (!pin)
            return ERR_PIN_LIMIT;
        if (store_pin(l->store, block)) {
            pool_put(&l->pins, pin);
            return ERR_PIN_LIMIT;
        }
        memset(pin, 0, sizeof *pin);
        pin->peer = p;
        pin->block = block;
        pin->bytes = bytes;
        p->pin_n++;
        p->pinned_bytes += bytes;
        list_add_tail(pin_head(l, block), &pin->by_block);
        list_add_tail(&p->pins, &pin->by_peer);
    }
    timer_start(&l->timers, &pin->timer, pin_due_ns(l, ttl_ms), pin_expired);
    return OK;
}

enum err pins_remove(struct peer *p, uint32_t block)
{
    struct pin *pin = pin_find(p, block);

    if (!pin)
        return ERR_MISS;
    pin_end(pin);
    return OK;
}

void pins_drop_peer(struct peer *p)
{
    LIST_FOREACH_SAFE(n, &p->pins)
    pin_end(container_of(n, struct pin, by_peer));
}

static void loan_end(struct loan *loan)
{
    struct peer *p = loan->peer;
    struct lane *l = p->lane;

    timer_stop(&l->timers, &loan->timer);
    list_del(&loan->node);
    p->loan_bytes -= loan->bytes;
    metric_set(&l->metrics.loan_bytes, l->metrics.loan_bytes - loan->bytes);
    store_unref(l->store, loan->block);
    pool_put(&l->loans, loan);
}

/* The client learns it before the bytes may be reused. Older loans of the
 * connection are at least as old, so they are over as well. */
static void loan_expired(struct timer *t)
{
    struct loan *loan = container_of(t, struct loan, timer);
    struct peer *p = loan->peer;
    uint64_t id = loan->id;

    p->loans_ended = max_u64(p->loans_ended, id);
    p->tp->t->ops->loans_end(p->tp, p->loans_ended);
    LIST_FOREACH_SAFE(n, &p->loans)
    {
        struct loan *old = container_of(n, struct loan, node);

        if (old->id <= id)
            loan_end(old);
    }
}

bool loans_allowed(const struct peer *p, const struct registry_ns *ns)
{
    const struct tp_peer *tp = p->tp;

    if (!tp->t->ops->loans_end || ns->settings.loans == LOANS_OFF ||
        ns->pool == 0)
        return false;
    return ns->settings.loans == LOANS_ANY ||
           (tp->cred.uid != 0 && tp->cred.uid != p->lane->own_uid);
}

enum err loans_add(struct peer *p, uint32_t block, uint64_t cap,
                   uint64_t *id_out)
{
    struct lane *l = p->lane;
    uint64_t bytes = store_len(l->store, block);
    struct loan *loan;

    if (p->loan_bytes + bytes > cap)
        return ERR_PIN_LIMIT;
    loan = pool_get(&l->loans);
    if (!loan)
        return ERR_PIN_LIMIT;
    memset(loan, 0, sizeof *loan);
    loan->peer = p;
    loan->block = block;
    loan->bytes = bytes;
    loan->id = ++p->loan_ids;
    p->loan_bytes += bytes;
    metric_set(&l->metrics.loan_bytes, l->metrics.loan_bytes + bytes);
    store_ref(l->store, block);
    list_add_tail(&p->loans, &loan->node);
    timer_start(&l->timers, &loan->timer,
                l->env.now_ns + l->cfg->limits.loan_ttl_us * NS_PER_US,
                loan_expired);
    *id_out = loan->id;
    return OK;
}

enum err loans_release(struct peer *p, uint64_t id)
{
    if (id <= p->loans_ended)
        return ERR_STALE;
    LIST_FOREACH(n, &p->loans)
    {
        struct loan *loan = container_of(n, struct loan, node);

        if (loan->id == id) {
            loan_end(loan);
            return OK;
        }
    }
    return ERR_MISS;
}

void loans_drop_peer(struct peer *p)
{
    LIST_FOREACH_SAFE(n, &p->loans)
    loan_end(container_of(n, struct loan, node));
}
