/* SPDX-License-Identifier: Apache-2.0
 *
 * The few words every file uses. MUST() is for programmer errors only: it is
 * always compiled in, prints the condition and aborts, after the hook set with
 * must_hook_set() (the daemon dumps its flight ring there). Operating errors
 * are enum err (err.h), limits are ERR_BUSY. libpikv links base too and never
 * lets a peer's bytes reach a MUST. */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MUST(cond)                                                             \
    do {                                                                       \
        if (__builtin_expect(!(cond), 0))                                      \
            must_failed(#cond, __FILE__, __LINE__);                            \
    } while (0)

#ifdef PIKV_DEBUG
#define DEBUG_CHECK(cond) MUST(cond)
#else
#define DEBUG_CHECK(cond) ((void)0)
#endif

#define container_of(ptr, type, member)                                        \
    ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define countof(a) (sizeof(a) / sizeof((a)[0]))
#define must_check __attribute__((warn_unused_result))
#define printf_like(fmt, args) __attribute__((format(printf, fmt, args)))

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)
#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)
#define DEADLINE_NEVER UINT64_MAX

_Noreturn void must_failed(const char *cond, const char *file, int line);
void must_hook_set(void (*hook)(void));

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* a is a power of two. */
static inline uint64_t align_up(uint64_t n, uint64_t a)
{
    return (n + a - 1) & ~(a - 1);
}

#endif
