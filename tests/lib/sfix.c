/* SPDX-License-Identifier: Apache-2.0
 *
 * See sfix.h. */
#include "tests/lib/sfix.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

void sfix_init(struct sfix *f, uint32_t units)
{
    uint64_t bytes = (uint64_t)units * UNIT_BYTES;

    memset(f, 0, sizeof *f);
    f->env = (struct env){.now_ns = NS_PER_S,
                          .wall_s = 1000,
                          .boot_us = 1000000000,
                          .rng = {1, 2}};
    f->mem = mem_reserve(bytes);
    MUST(f->mem);
    MUST(unit_pool_init(&f->pool, f->mem, bytes, 1) == OK);
    f->cfg = (struct store_cfg){.lane = 0,
                                .lanes = 1,
                                .namespaces_max = 8,
                                .pinned_bytes_max = bytes,
                                .block_bytes_max = GIB(1),
                                .blocks_max = 1 << 20,
                                .ghosts = 4096};
}

enum err sfix_start(struct sfix *f)
{
    struct unit_pool *pools[STORE_POOLS] = {&f->pool};

    return store_new(&f->s, &f->cfg, pools, &f->env, &f->metrics, &f->trace);
}

void sfix_open(struct sfix *f, uint32_t units, const struct evict_ops *policy)
{
    struct store_ns_cfg ns = sfix_ns(1, 1, policy);

    sfix_init(f, units);
    MUST(sfix_start(f) == OK);
    MUST(store_ns_set(f->s, &ns) == OK);
}

void sfix_close(struct sfix *f)
{
    uint64_t bytes = (uint64_t)f->pool.units * UNIT_BYTES;

    store_free(f->s);
    MUST(unit_pool_free(&f->pool) == f->pool.units);
    unit_pool_fini(&f->pool);
    mem_release(f->mem, bytes);
}

struct store_ns_cfg sfix_ns(uint32_t id, uint64_t generation,
                            const struct evict_ops *policy)
{
    return (struct store_ns_cfg){.id = id,
                                 .generation = generation,
                                 .policy =
                                     policy ? policy : evict_by_name("lru"),
                                 .share = 1};
}

struct store_key sfix_key(struct sfix *f, uint32_t ns, const char *name)
{
    struct store_key k = {.ns = ns,
                          .key_len = (uint16_t)strlen(name),
                          .key = (const uint8_t *)name};

    store_key_hash(f->s, &k);
    return k;
}

struct store_key sfix_num(struct sfix *f, uint32_t ns, uint64_t n, char buf[32])
{
    snprintf(buf, 32, "key-%llu", (unsigned long long)n);
    return sfix_key(f, ns, buf);
}

/* First and last 8 bytes of every extent. */
static uint32_t marks(struct sfix *f, uint32_t block, uint8_t *at[])
{
    static struct span spans[STORE_SPANS_MAX];
    uint64_t len = store_len(f->s, block);
    uint32_t n = store_spans(f->s, block, 0, len, spans, STORE_SPANS_MAX);
    uint32_t m = 0;

    for (uint32_t i = 0; i < n; i++) {
        if (spans[i].len < 8)
            continue;
        at[m++] = spans[i].p;
        if (spans[i].len >= 16)
            at[m++] = spans[i].p + spans[i].len - 8;
    }
    return m;
}

void sfix_write(struct sfix *f, uint32_t block, uint64_t tag)
{
    static uint8_t *at[2 * STORE_SPANS_MAX];
    uint32_t n = marks(f, block, at);

    for (uint32_t i = 0; i < n; i++)
        memcpy(at[i], &tag, sizeof tag);
}

bool sfix_same(struct sfix *f, uint32_t block, uint64_t tag)
{
    static uint8_t *at[2 * STORE_SPANS_MAX];
    uint32_t n = marks(f, block, at);

    for (uint32_t i = 0; i < n; i++)
        if (memcmp(at[i], &tag, sizeof tag) != 0)
            return false;
    return true;
}

static enum err put(struct sfix *f, const struct store_key *k,
                    const char *parent, uint64_t len)
{
    uint32_t b = 0;
    enum err e =
        store_reserve(f->s, k, NULL, (const uint8_t *)parent,
                      (uint16_t)(parent ? strlen(parent) : 0), len, &b);

    if (e)
        return e;
    sfix_write(f, b, k->hash.lo);
    store_commit(f->s, b, 0);
    store_unref(f->s, b);
    return OK;
}

enum err sfix_put(struct sfix *f, uint32_t ns, const char *name,
                  const char *parent, uint64_t len)
{
    struct store_key k = sfix_key(f, ns, name);

    return put(f, &k, parent, len);
}

enum err sfix_put_num(struct sfix *f, uint32_t ns, uint64_t n, uint64_t len)
{
    char buf[32];
    struct store_key k = sfix_num(f, ns, n, buf);

    return put(f, &k, NULL, len);
}

uint32_t sfix_find(struct sfix *f, uint32_t ns, const char *name)
{
    struct store_key k = sfix_key(f, ns, name);
    enum store_found why;

    return store_find(f->s, &k, &why);
}

uint32_t sfix_find_num(struct sfix *f, uint32_t ns, uint64_t n)
{
    char buf[32];
    struct store_key k = sfix_num(f, ns, n, buf);
    enum store_found why;

    return store_find(f->s, &k, &why);
}

enum store_found sfix_why(struct sfix *f, uint32_t ns, const char *name)
{
    struct store_key k = sfix_key(f, ns, name);
    enum store_found why;

    store_find(f->s, &k, &why);
    return why;
}

void sfix_settle(struct sfix *f)
{
    for (int i = 0; store_tick(f->s); i++)
        MUST(i < 1000000);
}
