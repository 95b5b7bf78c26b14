/* SPDX-License-Identifier: Apache-2.0
 *
 * The limits of same-host transports: a copy between a cold arena and the
 * client's memory, in the client's own thread, as drivers of the load loop.
 * copy_crc is what a store must do at least that checks what it stores. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/copy.h"
#include "bench/rivals.h"

struct copy_conn {
    struct load_conn base;
    uint8_t *arena;
    size_t arena_bytes;
    uint32_t sum; /* keeps the compiler from dropping the crc */
    struct load_req *queue[LOAD_DEPTH_MAX];
    uint32_t n;
};

static struct load_conn *copy_open(const struct load_target *t)
{
    struct copy_conn *c = calloc(1, sizeof *c);

    if (!c)
        bench_die("out of memory");
    c->arena = t->arena;
    c->arena_bytes = t->arena_bytes;
    c->base.data = load_mem(t->data_bytes);
    return &c->base;
}

static void copy_close(struct load_conn *base)
{
    munmap(base->data, base->data_bytes);
    free(base);
}

static void copy_one(struct copy_conn *c, void *to, const void *from, size_t n)
{
    if (c->base.driver == &micro_memcpy)
        memcpy(to, from, n);
    else if (c->base.driver == &micro_nt)
        copy_stream(to, from, n);
    else
        c->sum ^= copy_crc(to, from, n, 0);
}

static void copy_submit(struct load_conn *base, struct load_req *r)
{
    struct copy_conn *c = (struct copy_conn *)(void *)base;

    for (uint32_t i = 0; i < r->n; i++) {
        uint8_t *block = c->arena + r->ids[i] * r->size % c->arena_bytes;
        uint8_t *mine = r->data + i * r->size;

        copy_one(c, r->op == LOAD_PUT ? block : mine,
                 r->op == LOAD_PUT ? mine : block, r->size);
    }
    r->served = r->n;
    c->queue[c->n++] = r;
}

static uint32_t copy_poll(struct load_conn *base, struct load_req **done,
                          uint32_t max)
{
    struct copy_conn *c = (struct copy_conn *)(void *)base;
    uint32_t n = c->n < max ? c->n : max;

    memcpy(done, c->queue, n * sizeof *done);
    memmove(c->queue, c->queue + n, (c->n - n) * sizeof *done);
    c->n -= n;
    return n;
}

const struct load_driver micro_memcpy = {
    "memcpy", true, copy_open, copy_close, copy_submit, copy_poll, NULL};
const struct load_driver micro_nt = {
    "NT copy", true, copy_open, copy_close, copy_submit, copy_poll, NULL};
const struct load_driver micro_crc = {
    "copy+crc", true, copy_open, copy_close, copy_submit, copy_poll, NULL};
