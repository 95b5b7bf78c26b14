/* SPDX-License-Identifier: Apache-2.0
 *
 * Boot memory. A pool is one reservation:
 *
 *     | item 0 | item 1 | ... | item n-1 | pad | free stack of n indices |
 *                 ^ fresh: items from here on were never handed out
 *
 *  1. free_n counts the stack and the fresh items: free_n = stack + n - fresh.
 *  2. The stack is used before fresh items: the hot ones stay in cache, and
 *     pages behind fresh are never touched, so they cost nothing.
 *  3. In debug builds an item put back is filled with 0xdb (its first bytes
 *     only: enough to trip a reader of a freed struct). */
#include "base/mem.h"

#include <string.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif
#include <sys/mman.h>

#include "base/fault.h"

enum { MEM_ALIGN = 16, POISON = 0xdb, POISON_MAX = 256 };

void *mem_reserve(size_t bytes)
{
    void *p;

    if (bytes == 0 || fault_here("mem_reserve"))
        return NULL;
    p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void mem_release(void *p, size_t bytes)
{
    if (p)
        MUST(munmap(p, bytes) == 0);
}

/* Aligns the address, not the offset: the caller's buffer may be odd. */
void *arena_alloc(struct arena *a, size_t n)
{
    uintptr_t at = (uintptr_t)a->p + a->used;
    size_t pad = (size_t)(-at & (MEM_ALIGN - 1));

    if (pad > a->cap - a->used || n > a->cap - a->used - pad)
        return NULL;
    a->used += pad + n;
    return a->p + a->used - n;
}

void *arena_zalloc(struct arena *a, size_t n)
{
    void *p = arena_alloc(a, n);

    return p ? memset(p, 0, n) : NULL;
}

static size_t pool_bytes(uint32_t n, size_t item_bytes)
{
    return n * item_bytes + n * sizeof(uint32_t);
}

/* Items that are not handed out cannot be touched under AddressSanitizer: a
 * pool would otherwise hide a use after pool_put. */
#ifdef __SANITIZE_ADDRESS__
#define pool_hide(p, n) __asan_poison_memory_region(p, n)
#define pool_show(p, n) __asan_unpoison_memory_region(p, n)
#else
#define pool_hide(p, n) ((void)0)
#define pool_show(p, n) ((void)0)
#endif

enum err pool_init(struct pool *p, uint32_t n, size_t item_bytes)
{
    size_t item = (size_t)align_up(item_bytes, MEM_ALIGN);
    uint8_t *at;

    MUST(n > 0 && item_bytes > 0 && item <= UINT32_MAX);
    at = mem_reserve(pool_bytes(n, item));
    if (!at)
        return ERR_NO_MEMORY;
    *p = (struct pool){
        .items = at,
        .free = (uint32_t *)(void *)(at + n * item),
        .n = n,
        .free_n = n,
        .item_bytes = (uint32_t)item,
    };
    return OK;
}

void pool_fini(struct pool *p)
{
    MUST(p->free_n == p->n);
    if (p->items)
        pool_show(p->items, (size_t)p->n * p->item_bytes);
    if (p->items)
        mem_release(p->items, pool_bytes(p->n, p->item_bytes));
    *p = (struct pool){0};
}

static uint32_t pool_stacked(const struct pool *p)
{
    return p->free_n - (p->n - p->fresh);
}

void *pool_get(struct pool *p)
{
    uint32_t stacked = pool_stacked(p);
    uint32_t idx;

    if (p->free_n == 0 || fault_here("pool_get"))
        return NULL;
    idx = stacked > 0 ? p->free[stacked - 1] : p->fresh++;
    p->free_n--;
    pool_show(pool_at(p, idx), p->item_bytes);
    return pool_at(p, idx);
}

void pool_put(struct pool *p, void *item)
{
    uint32_t idx = pool_idx(p, item);

    MUST(p->free_n < p->n);
    MUST(idx < p->fresh);
#ifdef PIKV_DEBUG
    memset(item, POISON, min_u64(p->item_bytes, POISON_MAX));
#endif
    pool_hide(item, p->item_bytes);
    p->free[pool_stacked(p)] = idx;
    p->free_n++;
}

uint32_t pool_idx(const struct pool *p, const void *item)
{
    uintptr_t off = (uintptr_t)item - (uintptr_t)p->items;

    MUST(off < (uintptr_t)p->n * p->item_bytes);
    MUST(off % p->item_bytes == 0);
    return (uint32_t)(off / p->item_bytes);
}

void *pool_at(const struct pool *p, uint32_t idx)
{
    MUST(idx < p->n);
    return p->items + (size_t)idx * p->item_bytes;
}
