/* SPDX-License-Identifier: Apache-2.0
 *
 * SET and MSET. A block is never changed, so a key that is there is dropped
 * and put anew:
 *
 *     OPEN --put--> OK, or an error -----------------> DONE
 *      ^ ^   \----> EXISTS, with NX -----------------> DONE (nil)
 *      | |    \---> EXISTS --> DROP --evict--+
 *      | +------------------------------------+
 *      +--PENDING, a moment later: another client of the namespace puts it;
 *         or the namespace was flushed, and is being opened again
 *
 * While a key is being set through the door it is locked: the next SETs of it
 * wait, so that they do not drop each other's blocks half way and the last one
 * wins. When the key is free, all the plain SETs that wait are concurrent: any
 * order of them is right, so only the last one is stored, and the others ride
 * along: they would be replaced before anybody could look. If it fails they go
 * on waiting. A run of SETs that
 * were sent together goes as one batch; a key that is locked ends the run
 * before it, so that only a batch of one key, which holds nothing, ever waits
 * for a lock.
 *
 * The deadline is that of the whole command, over all its tries. */
#include <string.h>

#include "door/impl.h"

/* A longer life is cut to this: any value may go before its time. */
static const int64_t TTL_MAX_MS = UINT32_MAX;

/* ---- Locks ---- */

static void item_end(struct item *it, int status)
{
    it->state = ITEM_DONE;
    it->status = status;
}

static struct list *lock_bucket(struct door *d, uint64_t hash)
{
    return &d->locks[hash % DOOR_LOCKS];
}

static struct item *lock_find(struct door *d, const struct item *it)
{
    struct list *bucket = lock_bucket(d, it->lock.hash);

    LIST_FOREACH(n, bucket)
    {
        struct item *other = container_of(n, struct item, lock.node);

        if (other->lock.hash == it->lock.hash &&
            other->key_len == it->key_len &&
            memcmp(other->key, it->key, it->key_len) == 0)
            return other;
    }
    return NULL;
}

/* The item that has the key, or NULL: it is this item's now. */
static struct item *lock_take(struct door *d, struct item *it)
{
    struct item *other;

    it->lock.hash = hash_64(0, it->key, it->key_len);
    list_init(&it->lock.node);
    list_init(&it->lock.waiters);
    list_init(&it->lock.riders);
    other = lock_find(d, it);
    if (!other)
        list_add_tail(lock_bucket(d, it->lock.hash), &it->lock.node);
    return other;
}

static struct conn *waiter(struct list *n)
{
    return container_of(n, struct conn, wait_node);
}

static void wake(struct door *d, struct conn *c)
{
    list_del(&c->wait_node);
    c->wait = WAIT_NOTHING;
    list_add_tail(&d->ready, &c->wait_node);
}

/* The key goes to the last of the plain SETs that wait; those before it ride
 * along, others go on waiting. */
static void lock_pass(struct door *d, struct list *waiters)
{
    struct list riders, *n = waiters->next;
    struct conn *c = waiter(n);
    struct item *next;

    list_init(&riders);
    while (n->next != waiters && !c->batch.items[0].nx &&
           !waiter(n->next)->batch.items[0].nx) {
        n = n->next;
        list_del(&c->wait_node);
        list_add_tail(&riders, &c->wait_node);
        c = waiter(n);
    }
    wake(d, c);
    next = &c->batch.items[0];
    MUST(!lock_take(d, next));
    c->batch.locked = 1;
    while ((n = list_pop(&riders)))
        list_add_tail(&next->lock.riders, n);
    while ((n = list_pop(waiters)))
        list_add_tail(&next->lock.waiters, n);
}

static void lock_give(struct door *d, struct item *it)
{
    struct list *n;

    list_del(&it->lock.node);
    while ((n = it->lock.riders.prev) != &it->lock.riders) {
        list_del(n);
        if (it->state == ITEM_DONE && it->status == PIKV_OK) {
            item_end(&waiter(n)->batch.items[0], PIKV_OK);
            wake(d, waiter(n));
        } else { /* what was wrong with this one need not be with those */
            list_add_head(&it->lock.waiters, n);
        }
    }
    if (!list_empty(&it->lock.waiters))
        lock_pass(d, &it->lock.waiters);
}

void set_unlock(struct conn *c)
{
    struct batch *b = &c->batch;

    for (uint32_t i = 0; i < b->locked; i++)
        lock_give(c->door, &b->items[i]);
    b->locked = 0;
}

/* ---- What a SET says ---- */

/* EX, PX and NX behind key and value. Says what is wrong. */
static bool set_options(struct conn *c, struct item *it)
{
    for (uint32_t i = 3; i < c->resp.n; i++) {
        bool ex = conn_arg_is(c, i, "ex");
        struct pikv_bytes n;
        int64_t ttl;

        if (conn_arg_is(c, i, "nx")) {
            it->nx = true;
            continue;
        }
        if (!ex && !conn_arg_is(c, i, "px")) {
            out_error(c, "ERR syntax error: pikvd knows EX, PX and NX of SET");
            return false;
        }
        if (it->ttl_ms || ++i == c->resp.n) {
            out_error(c, "ERR syntax error");
            return false;
        }
        n = conn_arg(c, i);
        if (!resp_int(n.p, n.len, &ttl)) {
            out_error(c, "ERR value is not an integer or out of range");
            return false;
        }
        if (ttl <= 0) {
            out_error(c, "ERR invalid expire time in 'set' command");
            return false;
        }
        if (ttl > TTL_MAX_MS / (ex ? 1000 : 1))
            it->ttl_ms = (uint32_t)TTL_MAX_MS;
        else
            it->ttl_ms = (uint32_t)(ex ? ttl * 1000 : ttl);
    }
    return true;
}

/* The item of key and value at arguments i and i + 1. */
static bool set_item(struct conn *c, uint32_t i, struct item *it)
{
    struct pikv_bytes key = conn_arg(c, i), v = {NULL, 0};

    *it = (struct item){.key = key.p, .key_len = (uint32_t)key.len};
    if (!data_key_ok(c, key))
        return false;
    if (!c->has_value)
        v = conn_arg(c, i + 1);
    it->data = v.p;
    it->len = c->has_value ? c->value_len : v.len;
    if (it->len)
        return true;
    out_error(c, "ERR a value has at least one byte here");
    return false;
}

/* A SET that follows and can go along. What is wrong with another is said in
 * its turn. */
static bool set_follows(struct conn *c)
{
    return c->batch.n < DOOR_BATCH && conn_next_is(c, set_one) &&
           c->resp.n == 3 && !c->has_value &&
           conn_arg(c, 1).len - 1 < DOOR_KEY_MAX && conn_arg(c, 2).len;
}

/* ---- Filling a batch ---- */

static void set_begin(struct conn *c)
{
    struct batch *b = &c->batch;

    b->n = b->locked = 0;
    b->dropping = b->again = b->filled = false;
    c->until_ms =
        door_now_ms(c->door) + c->door->cfg.listen.resp.deadline_us / 1000;
}

/* The next item is in place: is its key free? The first one waits for it. */
static bool set_lock(struct conn *c)
{
    struct batch *b = &c->batch;
    struct item *other = lock_take(c->door, &b->items[b->n]);

    if (!other) {
        b->locked = ++b->n;
        return true;
    }
    if (b->n)
        return false;
    b->n = 1;
    conn_wait(c, WAIT_LOCK);
    list_add_tail(&other->lock.waiters, &c->wait_node);
    return false;
}

/* The SETs that follow, as far as they go along. */
static void set_fill_run(struct conn *c)
{
    struct batch *b = &c->batch;

    while (set_follows(c)) {
        MUST(set_item(c, 1, &b->items[b->n]));
        if (!set_lock(c))
            return; /* it stays the next command */
        metric_add(&c->door->metrics->resp_commands, 1);
        conn_consume(c);
    }
}

/* false: the command was wrong and has its answer. */
static bool set_fill(struct conn *c)
{
    struct item *it = &c->batch.items[0];
    bool ok;

    set_begin(c);
    ok = set_item(c, 1, it) && set_options(c, it);
    if (ok)
        it->room = c->value;
    else
        door_give(c->door, &c->value);
    c->value = (struct room){0};
    conn_consume(c);
    return ok;
}

/* ---- Put, drop, put ---- */

static void set_put(struct conn *c, struct pikv_put *p, const struct item *it)
{
    *p = (struct pikv_put){
        .key.key = {it->key, it->key_len},
        .data = {it->room.n ? space_at(&c->door->space, &it->room) : it->data,
                 it->len},
        .ttl_ms = it->ttl_ms,
    };
}

static enum item_state set_again(struct batch *b)
{
    b->again = true;
    return ITEM_OPEN;
}

static void set_done(struct conn *c, const struct pikv_completion *done)
{
    struct batch *b = &c->batch;

    for (uint32_t i = 0; i < b->m; i++) {
        struct item *it = &b->items[b->idx[i]];
        int status = b->dropping ? done->status : b->results[i].status;

        if (b->dropping && (status == PIKV_OK || status == PIKV_NOT_DURABLE))
            it->state = ITEM_OPEN;
        else if (!b->dropping && status == PIKV_EXISTS && !it->nx)
            it->state = ITEM_DROP;
        else if (!door_stale(c->door, status) &&
                 (b->dropping || status != PIKV_PENDING))
            item_end(it, status);
        else
            it->state = set_again(b);
    }
}

/* The items in a state, as the call's; how many. */
static uint32_t set_pick(struct conn *c, enum item_state state)
{
    struct batch *b = &c->batch;

    b->m = 0;
    for (uint32_t i = 0; i < b->n; i++)
        if (b->items[i].state == state)
            b->idx[b->m++] = i;
    return b->m;
}

static void set_fail(struct conn *c, int status)
{
    for (uint32_t i = 0; i < c->batch.n; i++)
        if (c->batch.items[i].state != ITEM_DONE)
            item_end(&c->batch.items[i], status);
}

static int set_submit(struct conn *c)
{
    struct door *d = c->door;
    struct batch *b = &c->batch;
    struct pikv_call call = conn_call(c);
    uint64_t id;

    c->done = set_done;
    for (uint32_t i = 0; i < b->m; i++) {
        const struct item *it = &b->items[b->idx[i]];

        if (b->dropping)
            b->keys[i] = (struct pikv_key){.key = {it->key, it->key_len}};
        else
            set_put(c, &b->puts[i], it);
    }
    if (b->dropping)
        return pikv_evict(d->kv, d->ns, PIKV_KEYS, b->keys, b->m, 0, &call,
                          b->results, &id);
    return pikv_put(d->kv, d->ns, b->puts, b->m, &call, b->results, &id);
}

/* true: all are done; else it waits. */
static bool set_turn(struct conn *c)
{
    struct batch *b = &c->batch;
    int e;

    b->dropping = set_pick(c, ITEM_DROP) > 0;
    if (!b->dropping && !set_pick(c, ITEM_OPEN))
        return true;
    if (door_now_ms(c->door) >= c->until_ms) {
        set_fail(c, PIKV_TIMEOUT);
        return true;
    }
    if (b->again && !b->dropping) { /* another writer needs a moment */
        b->again = false;
        return conn_wait(c, WAIT_LATER);
    }
    e = set_submit(c);
    if (e == PIKV_OK)
        return conn_wait(c, WAIT_CALL);
    if (e == PIKV_BUSY)
        return conn_wait(c, WAIT_LATER);
    set_fail(c, e);
    return true;
}

static void set_end(struct conn *c)
{
    struct batch *b = &c->batch;

    set_unlock(c);
    for (uint32_t i = 0; i < b->n; i++)
        door_give(c->door, &b->items[i].room);
    b->n = 0;
}

/* ---- The commands ---- */

static void set_reply(struct conn *c, const struct item *it)
{
    if (it->status == PIKV_OK)
        out_raw(c, "+OK\r\n", 5);
    else if (it->status == PIKV_EXISTS)
        out_nil(c);
    else
        out_code(c, it->status);
}

bool set_one(struct conn *c)
{
    struct batch *b = &c->batch;

    if (!b->n) {
        if (!set_fill(c))
            return true;
        if (!set_lock(c))
            return false;
    }
    if (!b->filled)
        set_fill_run(c);
    b->filled = true;
    if (!set_turn(c))
        return false;
    for (uint32_t i = 0; i < b->n; i++)
        set_reply(c, &b->items[i]);
    set_end(c);
    return true;
}

static bool many_ok(struct conn *c)
{
    struct item it;

    if (c->resp.n % 2 == 0) {
        out_error(c, "ERR wrong number of arguments for 'mset' command");
        return false;
    }
    for (uint32_t i = 1; i < c->resp.n; i += 2)
        if (!set_item(c, i, &it))
            return false;
    return true;
}

static void many_fill(struct conn *c)
{
    struct batch *b = &c->batch;
    bool on = true;

    set_begin(c);
    while (on && c->arg < c->resp.n && b->n < DOOR_BATCH) {
        MUST(set_item(c, c->arg, &b->items[b->n]));
        on = set_lock(c);
        if (on || c->wait == WAIT_LOCK)
            c->arg += 2;
    }
}

static bool many_end(struct conn *c)
{
    if (c->failed)
        out_code(c, c->failed);
    else
        out_raw(c, "+OK\r\n", 5);
    conn_consume(c);
    return true;
}

bool set_many(struct conn *c)
{
    struct batch *b = &c->batch;

    if (c->arg == 0) {
        if (!many_ok(c)) {
            conn_consume(c);
            return true;
        }
        c->arg = 1;
    }
    while (b->n || (c->arg < c->resp.n && !c->failed)) {
        if (!b->n)
            many_fill(c);
        if (c->wait != WAIT_NOTHING || !set_turn(c))
            return false;
        for (uint32_t i = 0; i < b->n; i++)
            if (b->items[i].status && !c->failed)
                c->failed = b->items[i].status;
        set_end(c);
    }
    return many_end(c);
}
