/* SPDX-License-Identifier: Apache-2.0
 *
 * A libpikv client for tests that kill, stop or crowd it.
 *
 *     e2e_client ADDRESS OP [key=value ...]
 *       OP     put get lookup pin loan evict open mem mix
 *       rounds=N   stop after N rounds that came through (0: never)
 *       size=N     bytes of a block        keys=N    keys that are shared
 *       batch=N    items of a call         ms=N      deadline of a call
 *       seed=N     what is drawn
 *
 * A round is one call of OP, with the puts it needs before. Every byte read is
 * checked against its key; so is every loan that is released with OK. Wrong
 * bytes end the program with status 3.
 *
 * stdout, a line each: "up" after the first round that came through, at the end
 * "done rounds=N busy=N other=N" where other counts answers that no round
 * should see. It reads nothing and leaves nothing behind. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/pikv.h"

enum { BATCH_MAX = 64, KEY_BYTES = 24, TRIES_MAX = 1000 };

struct client {
    struct pikv *kv;
    uint32_t ns;
    const char *address, *op;
    uint64_t rounds, size, keys, batch, ms, seed;
    uint64_t came, busy, other;
    uint8_t *buf; /* registered: batch x size */
    uint64_t ids[BATCH_MAX];
    char names[BATCH_MAX][KEY_BYTES];
    struct pikv_result results[BATCH_MAX];
};

static void die(const char *what, int e)
{
    fprintf(stderr, "%s: %s: %s\n", what, pikv_error_name(e),
            pikv_last_error());
    exit(2);
}

static uint64_t draw(struct client *c)
{
    c->seed ^= c->seed << 13;
    c->seed ^= c->seed >> 7;
    c->seed ^= c->seed << 17;
    return c->seed;
}

/* The bytes of a block follow from its key alone. */
static void fill(uint8_t *p, uint64_t n, uint64_t id)
{
    uint64_t v = id * UINT64_C(0x9e3779b97f4a7c15);

    for (uint64_t i = 0; i + 8 <= n; i += 8, v += 0x10001)
        memcpy(p + i, &v, 8);
    memset(p + n / 8 * 8, (int)(id & 0xff), n % 8);
}

static void check(const uint8_t *p, uint64_t n, uint64_t id)
{
    uint64_t v = id * UINT64_C(0x9e3779b97f4a7c15), got;

    for (uint64_t i = 0; i + 8 <= n; i += 8, v += 0x10001) {
        memcpy(&got, p + i, 8);
        if (got != v) {
            printf("wrong bytes of key %" PRIu64 " at %" PRIu64 "\n", id, i);
            exit(3);
        }
    }
}

static uint8_t *block(struct client *c, uint64_t i)
{
    return c->buf + i * c->size;
}

static struct pikv_key key_of(const struct client *c, uint64_t i)
{
    return (struct pikv_key){.key = {c->names[i], strlen(c->names[i])}};
}

/* Different keys in a batch: a run of ids from a drawn start. */
static void draw_keys(struct client *c)
{
    uint64_t first = draw(c);

    for (uint64_t i = 0; i < c->batch; i++) {
        c->ids[i] = (first + i) % c->keys + 1;
        snprintf(c->names[i], KEY_BYTES, "k%" PRIu64, c->ids[i]);
    }
}

/* A final answer? BUSY and its like are counted and are none. */
static bool settled(struct client *c, int status)
{
    if (status == PIKV_OK || status == PIKV_EXISTS || status == PIKV_MISS)
        return true;
    if (status == PIKV_BUSY || status == PIKV_PENDING ||
        status == PIKV_PIN_LIMIT || status == PIKV_STALE)
        c->busy++;
    else
        c->other++;
    return false;
}

static bool settled_all(struct client *c, int status)
{
    bool ok = settled(c, status);

    for (uint64_t i = 0; ok && i < c->batch; i++)
        ok = settled(c, c->results[i].status);
    return ok;
}

static struct pikv_call call_of(const struct client *c)
{
    return (struct pikv_call){.deadline_us = (uint32_t)c->ms * 1000};
}

static bool do_put(struct client *c)
{
    struct pikv_put items[BATCH_MAX];
    struct pikv_call call = call_of(c);

    for (uint64_t i = 0; i < c->batch; i++) {
        fill(block(c, i), c->size, c->ids[i]);
        items[i] = (struct pikv_put){.key = key_of(c, i),
                                     .data = {block(c, i), c->size}};
    }
    return settled_all(c, pikv_put_sync(c->kv, c->ns, items,
                                        (uint32_t)c->batch, &call,
                                        c->results));
}

static bool do_get(struct client *c, bool loan)
{
    struct pikv_get items[BATCH_MAX];
    struct pikv_call call = call_of(c);
    bool ok;

    memset(c->buf, 0, c->batch * c->size);
    for (uint64_t i = 0; i < c->batch; i++)
        items[i] = (struct pikv_get){.key = key_of(c, i),
                                     .data = {block(c, i), c->size},
                                     .loan = loan};
    ok = settled_all(c, pikv_get_sync(c->kv, c->ns, items, (uint32_t)c->batch,
                                      &call, c->results));
    for (uint64_t i = 0; i < c->batch; i++) {
        const struct pikv_result *r = &c->results[i];
        uint64_t n = r->len < c->size ? r->len : c->size;

        if (r->status != PIKV_OK)
            continue;
        if (!r->loan)
            check(block(c, i), r->moved, c->ids[i]);
        else if (memcpy(block(c, i), r->loan, n),
                 pikv_loan_release(c->kv, c->ns, r) == PIKV_OK)
            check(block(c, i), n, c->ids[i]);
    }
    return ok;
}

static bool wait_all(struct client *c, int e, uint64_t id)
{
    return settled_all(c, e ? e : pikv_wait(c->kv, id, NULL));
}

static bool do_keys(struct client *c, const char *op)
{
    struct pikv_key keys[BATCH_MAX];
    struct pikv_call call = call_of(c);
    uint32_t n = (uint32_t)c->batch;
    uint64_t id = 0;
    int e;

    call.pin_ttl_ms = 60000;
    for (uint64_t i = 0; i < c->batch; i++)
        keys[i] = key_of(c, i);
    if (strcmp(op, "pin") == 0)
        e = pikv_pin(c->kv, c->ns, keys, n, &call, c->results, &id);
    else if (strcmp(op, "evict") == 0)
        e = pikv_evict(c->kv, c->ns, PIKV_KEYS, keys, n, 0, &call, c->results,
                       &id);
    else
        e = pikv_lookup(c->kv, c->ns, keys, n, NULL, 1, NULL, &call,
                        c->results, &id);
    return wait_all(c, e, id);
}

static bool do_mem(struct client *c)
{
    void *p;
    int e = pikv_mem_alloc(c->kv, 1 << 20, &p);

    if (!e)
        pikv_mem_free(c->kv, p);
    return settled(c, e);
}

static bool do_open(struct client *c)
{
    struct pikv_options o = {.address = c->address, .engine = "e2e"};
    struct pikv *kv;
    int e = pikv_open(&o, &kv);

    if (!e)
        pikv_close(kv);
    return settled(c, e);
}

static bool do_op(struct client *c, const char *op)
{
    if (strcmp(op, "put") == 0)
        return do_put(c);
    if (strcmp(op, "get") == 0 || strcmp(op, "loan") == 0)
        return do_get(c, op[0] == 'l');
    if (strcmp(op, "mem") == 0)
        return do_mem(c);
    if (strcmp(op, "open") == 0)
        return do_open(c);
    return do_keys(c, op);
}

static bool round_once(struct client *c)
{
    static const char *const mix[] = {"put", "get",  "lookup", "pin",
                                      "put", "loan", "evict",  "get"};
    const char *op = c->op;

    draw_keys(c);
    if (strcmp(op, "mix") == 0)
        op = mix[draw(c) % 8];
    /* What is to be found must be there now and then. */
    if (strcmp(op, "put") != 0 && draw(c) % 8 == 0 && !do_put(c))
        return false;
    return do_op(c, op);
}

static void options(struct client *c, int argc, char **argv)
{
    const struct {
        const char *name;
        uint64_t *to;
    } all[] = {
        {"rounds=", &c->rounds}, {"size=", &c->size}, {"keys=", &c->keys},
        {"batch=", &c->batch},   {"ms=", &c->ms},     {"seed=", &c->seed},
    };

    for (int i = 3; i < argc; i++)
        for (size_t j = 0; j < sizeof(all) / sizeof(all[0]); j++)
            if (strncmp(argv[i], all[j].name, strlen(all[j].name)) == 0)
                *all[j].to = strtoull(argv[i] + strlen(all[j].name), NULL, 10);
    if (c->batch > BATCH_MAX || c->seed == 0) {
        fprintf(stderr, "batch is at most %d, seed not 0\n", BATCH_MAX);
        exit(64);
    }
}

/* A crowded server answers BUSY to these as well. */
static bool once_more(int e)
{
    return e == PIKV_BUSY && usleep(1000) == 0;
}

static void set_up(struct client *c)
{
    struct pikv_options o = {.address = c->address, .engine = "e2e",
                             .connect_ms = 20000};
    struct pikv_namespace d = {.name = "e2e", .create = true, .loans = "any"};
    struct pikv_call call = {.deadline_us = 20000000};
    void *p;
    int e;

    do
        e = pikv_open(&o, &c->kv);
    while (once_more(e));
    if (e)
        die("open", e);
    do {
        e = pikv_namespace_open(c->kv, &d, &c->ns, &call);
        if (e == PIKV_UNSUPPORTED && d.loans) {
            d.loans = NULL; /* no memory for them: copies do */
            e = PIKV_BUSY;
        }
    } while (once_more(e));
    if (e)
        die("namespace", e);
    do
        e = pikv_mem_alloc(c->kv, c->batch * c->size, &p);
    while (once_more(e));
    if (e)
        die("memory", e);
    c->buf = p;
}

int main(int argc, char **argv)
{
    struct client c = {.size = 65536, .keys = 64, .batch = 1, .ms = 20000,
                       .seed = 1};

    if (argc < 3)
        return 64;
    c.address = argv[1];
    c.op = argv[2];
    options(&c, argc, argv);
    set_up(&c);
    while (c.rounds == 0 || c.came < c.rounds) {
        if (!round_once(&c))
            usleep(200);
        else if (c.came++ == 0 && puts("up") >= 0)
            fflush(stdout);
        if (c.other > TRIES_MAX)
            break;
    }
    printf("done rounds=%" PRIu64 " busy=%" PRIu64 " other=%" PRIu64 "\n",
           c.came, c.busy, c.other);
    pikv_close(c.kv);
    return c.rounds && c.came < c.rounds;
}
