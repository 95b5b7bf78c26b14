/* SPDX-License-Identifier: Apache-2.0
 *
 * A store over memory of its own for tests: no clock, no threads. sfix_put
 * writes the block's name into every extent, sfix_same reads it back, so that
 * two blocks in one place do not go unseen. */
#ifndef TESTS_SFIX_H
#define TESTS_SFIX_H

#include "store/store.h"

struct sfix {
    struct env env;
    struct metrics metrics;
    struct trace trace;
    struct unit_pool pool;
    uint8_t *mem;
    struct store_cfg cfg;
    struct store *s;
};

/* A pool of so many units and a store with namespace 1, generation 1. */
void sfix_open(struct sfix *f, uint32_t units, const struct evict_ops *policy);
/* The same in two steps, for another cfg. */
void sfix_init(struct sfix *f, uint32_t units);
enum err sfix_start(struct sfix *f);
void sfix_close(struct sfix *f); /* MUSTs that all units came back */

struct store_ns_cfg sfix_ns(uint32_t id, uint64_t generation,
                            const struct evict_ops *policy);
/* key = the bytes of a string, hash set. */
struct store_key sfix_key(struct sfix *f, uint32_t ns, const char *name);
struct store_key sfix_num(struct sfix *f, uint32_t ns, uint64_t n,
                          char buf[32]);

/* Reserve, write, commit, unref; parent may be NULL. */
enum err sfix_put(struct sfix *f, uint32_t ns, const char *name,
                  const char *parent, uint64_t len);
enum err sfix_put_num(struct sfix *f, uint32_t ns, uint64_t n, uint64_t len);
uint32_t sfix_find(struct sfix *f, uint32_t ns, const char *name);
uint32_t sfix_find_num(struct sfix *f, uint32_t ns, uint64_t n);
enum store_found sfix_why(struct sfix *f, uint32_t ns, const char *name);
void sfix_write(struct sfix *f, uint32_t block, uint64_t tag);
bool sfix_same(struct sfix *f, uint32_t block, uint64_t tag);
/* Ticks until there is nothing more to do. */
void sfix_settle(struct sfix *f);

#endif
