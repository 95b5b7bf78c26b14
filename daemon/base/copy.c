/* SPDX-License-Identifier: Apache-2.0
 *
 * Three copies of one idea, chosen at run time:
 *
 *     source --load--> CHUNK in L1 --crc--> value
 *                          |
 *                          +--non-temporal store--> destination
 *
 *  1. The checksum is of the bytes that were stored: a source may be memory
 *     that another process writes at this moment, so it is read exactly once,
 *     into a chunk on the stack, and both consumers take the chunk.
 *  2. The next chunk is prefetched while this one is checksummed.
 *  3. Non-temporal stores go to 64-byte aligned destinations only; what is
 *     before and behind goes by memcpy.
 *  4. sfence before the return: what is published after it is seen with the
 *     bytes.
 *  5. All kinds give the same bytes and the same crc. */
#include "base/copy.h"

#include <immintrin.h>
#include <string.h>

#include "base/hash.h"

enum { LINE = 64, CHUNK = 4096 };

/* n is a multiple of LINE, to is aligned to LINE. */
typedef void copy_stream_fn(uint8_t *to, const uint8_t *from, size_t n);

__attribute__((target("avx512f"))) static void
stream_avx512(uint8_t *to, const uint8_t *from, size_t n)
{
    for (size_t i = 0; i < n; i += LINE)
        _mm512_stream_si512((void *)(to + i), _mm512_loadu_si512(from + i));
}

__attribute__((target("avx2"))) static void
stream_avx2(uint8_t *to, const uint8_t *from, size_t n)
{
    for (size_t i = 0; i < n; i += LINE) {
        __m256i a = _mm256_loadu_si256((const void *)(from + i));
        __m256i b = _mm256_loadu_si256((const void *)(from + i + 32));

        _mm256_stream_si256((void *)(to + i), a);
        _mm256_stream_si256((void *)(to + i + 32), b);
    }
}

static void stream_plain(uint8_t *to, const uint8_t *from, size_t n)
{
    memcpy(to, from, n);
}

static const struct kind {
    const char *name;
    copy_stream_fn *stream;
} kinds[] = {
    {"avx512", stream_avx512},
    {"avx2", stream_avx2},
    {"plain", stream_plain},
};

enum { KIND_AVX512, KIND_AVX2, KIND_PLAIN };

static const struct kind *kind_now;

static bool kind_works(const struct kind *k)
{
    switch (k - kinds) {
    case KIND_AVX512:
        return __builtin_cpu_supports("avx512f");
    case KIND_AVX2:
        return __builtin_cpu_supports("avx2");
    }
    return true;
}

/* Threads that come here together find the same answer. */
static const struct kind *kind_get(void)
{
    const struct kind *k = __atomic_load_n(&kind_now, __ATOMIC_RELAXED);

    if (k)
        return k;
    for (k = kinds; !kind_works(k);)
        k++;
    __atomic_store_n(&kind_now, k, __ATOMIC_RELAXED);
    return k;
}

const char *copy_kind(void)
{
    return kind_get()->name;
}

bool copy_force(const char *kind)
{
    for (size_t i = 0; i < countof(kinds); i++) {
        if (strcmp(kinds[i].name, kind) != 0 || !kind_works(&kinds[i]))
            continue;
        __atomic_store_n(&kind_now, &kinds[i], __ATOMIC_RELAXED);
        return true;
    }
    return false;
}

/* Bytes until to is aligned, at most n. */
static size_t copy_head(const uint8_t *to, size_t n)
{
    return (size_t)min_u64(-(uintptr_t)to & (LINE - 1), n);
}

void copy_bytes(void *to_v, const void *from_v, size_t n)
{
    const struct kind *k = kind_get();
    const uint8_t *from = from_v;
    uint8_t *to = to_v;
    size_t head, body;

    if (n < COPY_NT_MIN) {
        if (n)
            memcpy(to, from, n);
        return;
    }
    head = copy_head(to, n);
    body = (n - head) & ~(size_t)(LINE - 1);
    memcpy(to, from, head);
    k->stream(to + head, from + head, body);
    memcpy(to + head + body, from + head + body, n - head - body);
    _mm_sfence();
}

/* Through the chunk, because the source may change under us. The empty asm
 * keeps the compiler from reading the source again in place of the chunk. */
static uint32_t crc_chunk(uint8_t *chunk, const uint8_t *from, size_t n,
                          uint32_t crc)
{
    memcpy(chunk, from, n);
    __asm__ volatile("" : : "r"(chunk) : "memory");
    return crc32c(crc, chunk, n);
}

static void prefetch(const uint8_t *from, size_t n)
{
    for (size_t i = 0; i < n; i += LINE)
        __builtin_prefetch(from + i, 0, 0);
}

uint32_t copy_crc(void *to_v, const void *from_v, size_t n, uint32_t crc)
{
    uint8_t chunk[CHUNK] __attribute__((aligned(LINE)));
    const struct kind *k = kind_get();
    bool stream = n >= COPY_NT_MIN;
    const uint8_t *from = from_v;
    uint8_t *to = to_v;
    size_t m = stream ? copy_head(to, n) : 0;

    if (m == 0)
        m = (size_t)min_u64(n, CHUNK);
    while (n > 0) {
        crc = crc_chunk(chunk, from, m, crc);
        from += m;
        n -= m;
        prefetch(from, (size_t)min_u64(n, CHUNK));
        if (stream && m == CHUNK)
            k->stream(to, chunk, m);
        else
            memcpy(to, chunk, m);
        to += m;
        m = (size_t)min_u64(n, CHUNK);
    }
    if (stream)
        _mm_sfence();
    return crc;
}
