/* SPDX-License-Identifier: Apache-2.0
 *
 * A store over memory of its own for tests: no clock, no threads. fix_put
 * writes the block's name into every extent, fix_same reads it back, so that
 * two blocks in one place do not go unseen. */
#ifndef TESTS_STORE_FIX_H
#define TESTS_STORE_FIX_H

#include "store/store.h"

struct fix {
    struct env env;
    struct metrics metrics;
    struct trace trace;
    struct unit_pool pool;
    uint8_t *mem;
    struct store_cfg cfg;
    struct store *s;
};

/* A pool of so many units and a store with namespace 1, generation 1. */
void fix_open(struct fix *f, uint32_t units, const struct evict_ops *policy);
/* The same in two steps, for another cfg. */
void fix_init(struct fix *f, uint32_t units);
enum err fix_start(struct fix *f);
void fix_close(struct fix *f); /* MUSTs that all units came back */

struct store_ns_cfg fix_ns(uint32_t id, uint64_t generation,
                           const struct evict_ops *policy);
/* key = the bytes of a string, hash set. */
struct store_key fix_key(struct fix *f, uint32_t ns, const char *name);
struct store_key fix_num(struct fix *f, uint32_t ns, uint64_t n, char buf[32]);

/* Reserve, write, commit, unref; parent may be NULL. */
enum err fix_put(struct fix *f, uint32_t ns, const char *name,
                 const char *parent, uint64_t len);
enum err fix_put_num(struct fix *f, uint32_t ns, uint64_t n, uint64_t len);
uint32_t fix_find(struct fix *f, uint32_t ns, const char *name);
uint32_t fix_find_num(struct fix *f, uint32_t ns, uint64_t n);
enum store_found fix_why(struct fix *f, uint32_t ns, const char *name);
void fix_write(struct fix *f, uint32_t block, uint64_t tag);
bool fix_same(struct fix *f, uint32_t block, uint64_t tag);
/* Ticks until there is nothing more to do. */
void fix_settle(struct fix *f);

#endif
