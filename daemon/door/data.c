/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands that read and drop: GET and MGET, EXISTS, STRLEN, DEL and UNLINK.
 *
 * GET does not know how long the block is. It offers as much room as blocks
 * needed lately (door->guess); the answer tells the whole length, and one that
 * did not fit is read again into room that is known to do. In the namespace of
 * an engine nearly all blocks have one size, so that the first try does it:
 * one trip to the lane, where LOOKUP and GET would be two.
 *
 *   fill    keys of this command, then of the GETs and MGETs that follow it in
 *           the buffer, up to DOOR_BATCH
 *   submit  room for as many of them as there is; at least for the first
 *   done    replies in order, up to the first that did not fit
 *
 * A batch whose first key finds no memory gives back what it has and waits, up
 * to the deadline: what it waits for may be in the hands of clients that take
 * their time. */
#include <string.h>

#include "door/impl.h"

enum { GET_TRIES = 8, GUESS_SHARE = 16 };

bool data_key_ok(struct conn *c, struct pikv_bytes key)
{
    if (key.len && key.len <= DOOR_KEY_MAX)
        return true;
    out_error(c, "ERR a key has 1 to %d bytes, not %zu", DOOR_KEY_MAX, key.len);
    return false;
}

void data_release(struct conn *c)
{
    struct batch *b = &c->batch;

    set_unlock(c);
    for (uint32_t i = 0; i < b->n; i++)
        door_give(c->door, &b->items[i].room);
    b->n = b->at = 0;
}

/* ---- GET, MGET ---- */

/* The largest of the last DOOR_GUESSES to 2 * DOOR_GUESSES lengths, up to a
 * share of the memory: many GETs offer that much at a time. */
static void guess_learn(struct door *d, uint64_t len)
{
    len = min_u64(len, d->cfg.listen.resp.memory_bytes / GUESS_SHARE);
    d->guess_max = max_u64(d->guess_max, len);
    d->guess = max_u64(d->guess, len);
    if (++d->guess_n < DOOR_GUESSES)
        return;
    d->guess = d->guess_max;
    d->guess_max = 0;
    d->guess_n = 0;
}

/* All keys of a command, before the first has a reply: an error is the reply
 * to the whole. */
static bool get_keys_ok(struct conn *c)
{
    for (uint32_t i = 1; i < c->resp.n; i++)
        if (!data_key_ok(c, conn_arg(c, i)))
            return false;
    return true;
}

static bool get_is_many(const struct conn *c)
{
    return c->cmd->args_max == 0;
}

/* Items of the command that is parsed; consumes it with its last one. */
static void get_fill_one(struct conn *c)
{
    struct batch *b = &c->batch;

    if (c->arg == 0) {
        c->arg = 1;
        if (!get_keys_ok(c)) {
            conn_consume(c);
            return;
        }
    }
    for (; c->arg < c->resp.n && b->n < DOOR_BATCH; c->arg++, b->n++) {
        struct pikv_bytes k = conn_arg(c, c->arg);

        b->items[b->n] = (struct item){
            .key = k.p,
            .key_len = (uint32_t)k.len,
            .head = c->arg == 1 && get_is_many(c) ? c->resp.n : 0,
        };
    }
    if (c->arg == c->resp.n)
        conn_consume(c);
}

/* A bad command among those that follow has its error in its turn: it ends the
 * run. */
static bool get_follows(struct conn *c)
{
    if (c->batch.n == DOOR_BATCH || !conn_next_is(c, data_get))
        return false;
    for (uint32_t i = 1; i < c->resp.n; i++)
        if (conn_arg(c, i).len - 1 >= DOOR_KEY_MAX)
            return false;
    return true;
}

static void get_fill(struct conn *c)
{
    struct batch *b = &c->batch;

    b->tries = 0;
    get_fill_one(c);
    while (b->n && !c->have && get_follows(c)) {
        metric_add(&c->door->metrics->resp_commands, 1);
        get_fill_one(c);
    }
}

static void get_item(struct conn *c, struct pikv_get *g, struct item *it)
{
    *g = (struct pikv_get){
        .key.key = {it->key, it->key_len},
        .data = {space_at(&c->door->space, &it->room), room_bytes(&it->room)},
    };
}

/* What is being set is not there yet, what was flushed no more. */
static bool get_misses(struct conn *c, int status)
{
    return status == PIKV_MISS || status == PIKV_PENDING ||
           status == PIKV_CORRUPT || door_stale(c->door, status);
}

/* One item's reply, or false: it did not fit. */
static bool get_reply(struct conn *c, struct item *it,
                      const struct pikv_result *r)
{
    struct door *d = c->door;

    if (r->status == PIKV_OK && r->moved < r->len &&
        r->len <= d->cfg.listen.resp.value_bytes &&
        c->batch.tries < GET_TRIES) {
        it->len = r->len;
        return false;
    }
    if (it->head)
        out_head(c, '*', it->head - 1);
    if (r->status == PIKV_OK && r->moved < r->len)
        out_error(c,
                  "ERR the value of %llu bytes is longer than "
                  "listen.resp.value",
                  (unsigned long long)r->len);
    else if (r->status == PIKV_OK)
        out_room(c, &it->room, r->len);
    else if (get_misses(c, r->status))
        out_nil(c);
    else
        out_code(c, r->status);
    if (r->status == PIKV_OK)
        guess_learn(d, r->len);
    door_give(d, &it->room);
    return true;
}

static void get_done(struct conn *c, const struct pikv_completion *done)
{
    struct batch *b = &c->batch;
    uint32_t i = 0;

    (void)done; /* items have their own status */
    while (i < b->m && get_reply(c, &b->items[b->at], &b->results[i])) {
        b->at++;
        i++;
    }
    b->tries = i ? 0 : b->tries + 1;
    if (i < b->m)
        guess_learn(c->door, b->results[i].len);
    for (uint32_t k = b->at; i < b->m; i++, k++)
        door_give(c->door, &b->items[k].room);
}

/* Room for items from b->at on; how many have some. */
static uint32_t get_rooms(struct conn *c)
{
    struct door *d = c->door;
    struct batch *b = &c->batch;
    uint64_t sum = 0, max = d->cfg.listen.resp.memory_bytes / 8;
    uint32_t m = 0;

    for (uint32_t i = b->at; i < b->n; i++, m++) {
        struct item *it = &b->items[i];
        uint64_t want = max_u64(it->len, d->guess);

        sum += want;
        if ((m && sum > max) || !door_take(c, want, &it->room))
            break;
    }
    return m;
}

/* All that were to be read, or would have been, have this error. */
static void get_fail(struct conn *c, uint32_t m, int status)
{
    struct batch *b = &c->batch;

    b->m = m;
    for (uint32_t i = 0; i < m; i++)
        b->results[i] = (struct pikv_result){.status = status};
    get_done(c, NULL);
}

void data_no_room(struct conn *c)
{
    get_fail(c, c->batch.n - c->batch.at, PIKV_BUSY);
}

static bool get_submit(struct conn *c)
{
    struct batch *b = &c->batch;
    struct pikv_call call = conn_call(c);
    uint64_t id;
    int e;

    b->m = get_rooms(c);
    if (!b->m)
        return conn_wait(c, WAIT_ROOM);
    for (uint32_t i = 0; i < b->m; i++)
        get_item(c, &b->gets[i], &b->items[b->at + i]);
    c->done = get_done;
    e = pikv_get(c->door->kv, c->door->ns, b->gets, b->m, &call, b->results,
                 &id);
    if (e == PIKV_OK)
        return conn_wait(c, WAIT_CALL);
    for (uint32_t i = 0; i < b->m; i++)
        door_give(c->door, &b->items[b->at + i].room);
    if (e == PIKV_BUSY)
        return conn_wait(c, WAIT_LATER);
    get_fail(c, b->m, e);
    return true;
}

bool data_get(struct conn *c)
{
    struct batch *b = &c->batch;
    bool first = b->n == 0;

    if (b->at == b->n) {
        b->n = b->at = 0;
        if (!first && c->arg == 0)
            return true; /* no command is half done */
        get_fill(c);
        if (b->n == 0)
            return true;
    }
    return get_submit(c) && data_get(c);
}

/* ---- EXISTS, STRLEN, DEL ---- */

/* The next keys of the command; 0: there are none. */
static uint32_t keys_fill(struct conn *c)
{
    struct batch *b = &c->batch;

    b->m = 0;
    if (c->arg == 0)
        c->arg = 1;
    for (; c->arg < c->resp.n && b->m < DOOR_BATCH; c->arg++)
        b->keys[b->m++] = (struct pikv_key){.key = conn_arg(c, c->arg)};
    return b->m;
}

static bool keys_end(struct conn *c)
{
    if (c->failed)
        out_code(c, c->failed);
    else
        out_int(c, (int64_t)c->sum);
    conn_consume(c);
    return true;
}

static void lookup_done(struct conn *c, const struct pikv_completion *done)
{
    bool is_len = c->run == data_strlen;

    (void)done;
    for (uint32_t i = 0; i < c->batch.m; i++) {
        const struct pikv_result *r = &c->batch.results[i];

        if (r->status != PIKV_OK && !get_misses(c, r->status) && !c->failed)
            c->failed = r->status;
        if (r->status == PIKV_OK && r->state == 2)
            c->sum += is_len ? r->len : 1;
    }
}

/* After a flush there may be blocks that the door has not seen: they go, too,
 * when the namespace is open again. */
static void del_done(struct conn *c, const struct pikv_completion *done)
{
    struct batch *b = &c->batch;

    c->sum += done->count;
    b->again = door_stale(c->door, done->status);
    if (b->again)
        c->arg -= b->m;
    else if (done->status != PIKV_OK && done->status != PIKV_NOT_DURABLE)
        c->failed = done->status;
}

/* Before its first call. */
static void keys_begin(struct conn *c)
{
    const struct door *d = c->door;

    c->batch.again = false;
    c->until_ms = door_now_ms(d) + d->cfg.listen.resp.deadline_us / 1000;
}

static bool keys_do(struct conn *c, bool drop)
{
    struct door *d = c->door;
    struct batch *b = &c->batch;
    struct pikv_call call = conn_call(c);
    uint32_t was = c->arg;
    uint64_t id;
    int e;

    if (c->arg == 0 && !get_keys_ok(c)) {
        conn_consume(c);
        return true;
    }
    if (c->arg == 0)
        keys_begin(c);
    if (b->again && door_now_ms(d) < c->until_ms) {
        b->again = false;
        return conn_wait(c, WAIT_LATER);
    }
    if (b->again)
        c->failed = PIKV_TIMEOUT;
    if (c->failed || !keys_fill(c))
        return keys_end(c);
    c->done = drop ? del_done : lookup_done;
    e = drop ? pikv_evict(d->kv, d->ns, PIKV_KEYS, b->keys, b->m, 0, &call,
                          b->results, &id)
             : pikv_lookup(d->kv, d->ns, b->keys, b->m, NULL, 1, NULL, &call,
                           b->results, &id);
    if (e == PIKV_OK)
        return conn_wait(c, WAIT_CALL);
    c->arg = was;
    if (e == PIKV_BUSY)
        return conn_wait(c, WAIT_LATER);
    c->failed = e;
    return keys_end(c);
}

bool data_exists(struct conn *c)
{
    return keys_do(c, false);
}

bool data_strlen(struct conn *c)
{
    return keys_do(c, false);
}

bool data_del(struct conn *c)
{
    return keys_do(c, true);
}
