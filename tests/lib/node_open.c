/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests of several writers (node_open.h). */
#include "lib/node_open.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

uint8_t *whole;
static uint64_t last_token;

void open_up(void)
{
    up();
    whole = calloc(1, NODE_BUF);
    ck_assert_ptr_nonnull(whole);
}

void open_down(void)
{
    down();
    free(whole);
}

void open_again(uint32_t clients)
{
    node_stop(&n);
    node_free_peer(p);
    node_again(&n, media);
    n.cfg.limits.clients = clients;
    node_start(&n);
    p = join();
    node_open(&n, p, "lru");
}

struct node_peer *join(void)
{
    struct node_peer *q = node_connect(&n, true);

    ck_assert_ptr_nonnull(q);
    for (uint32_t i = 0; i < NODE_KEYS; i++)
        q->bytes[i] = buf[i];
    return q;
}

void leave(struct node_peer *q)
{
    node_hangup(q);
    node_free_peer(q);
}

static int status(void)
{
    if (!n.reply.there)
        return 1;
    return n.reply.frame.status ? n.reply.frame.status : n.reply.r[0].status;
}

int open_attr(struct node_peer *q, const char *key, uint64_t len,
              uint32_t writers, uint32_t open_ms, const struct wire_attr *attr)
{
    struct node_batch b;

    fill(whole, key, min_u64(len, NODE_BUF));
    batch_new(&b, &n, OP_PUT_BEGIN);
    b.head.pin_ttl_ms = open_ms;
    batch_key(&b, key, (struct wire_key){.len = len, .off = writers}, NULL,
              attr);
    batch_send(&b, q, NULL, 0);
    last_token = n.reply.there ? n.reply.r[0].loan : 0;
    return status();
}

int open_block(struct node_peer *q, const char *key, uint64_t len,
               uint32_t writers)
{
    return open_attr(q, key, len, writers, 0, NULL);
}

uint64_t token(void)
{
    return last_token;
}

int write_at(struct node_peer *q, const char *key, uint64_t tok, uint64_t off,
             uint64_t len)
{
    struct node_batch b;

    q->bytes[0] = whole + off;
    batch_new(&b, &n, OP_PUT_WRITE);
    batch_key(&b, key, (struct wire_key){.token = tok, .off = off, .len = len},
              NULL, NULL);
    batch_send(&b, q, NULL, 0);
    if (n.reply.there)
        q->bytes[0] = buf[0];
    return status();
}

static int finish(enum op_id op, struct node_peer *q, const char *key,
                  uint64_t tok, uint32_t writer)
{
    struct node_batch b;

    batch_new(&b, &n, op);
    batch_key(&b, key, (struct wire_key){.token = tok, .off = writer}, NULL,
              NULL);
    batch_send(&b, q, NULL, 0);
    return status();
}

int commit(struct node_peer *q, const char *key, uint64_t tok, uint32_t writer)
{
    return finish(OP_PUT_COMMIT, q, key, tok, writer);
}

int give_up(struct node_peer *q, const char *key, uint64_t tok)
{
    return finish(OP_PUT_ABORT, q, key, tok, 0);
}

int state_of(const char *key)
{
    struct node_batch b;

    batch_new(&b, &n, OP_LOOKUP);
    batch_column(&b, RULE_ALL, 0);
    batch_key(&b, key, (struct wire_key){0}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    ck_assert(n.reply.there);
    return n.reply.r[0].state;
}

void nothing_is_left(const char *key)
{
    ck_assert_uint_eq(n.lane.opens.live_n, 0);
    ck_assert_uint_eq(n.lane.opens.bytes, 0);
    ck_assert_uint_eq(n.lane.metrics.block_bytes, 0);
    ck_assert_uint_eq(n.lane.metrics.extent_bytes, 0);
    ck_assert_int_eq(state_of(key), STATE_MISS);
    store_check(n.lane.store);
    opens_check(&n.lane);
}
