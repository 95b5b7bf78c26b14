/* SPDX-License-Identifier: Apache-2.0
 *
 * Bulk copies, the crc taken on the way. Three kinds, chosen at run time:
 *
 *     source --load--> register --fold--> 256 or 64 bytes --crc32c--> value
 *                         |
 *                         +--non-temporal store--> destination
 *
 *  1. The checksum is of the bytes that were stored: a source may be memory
 *     that another process writes at this moment, so each byte is read exactly
 *     once, and both consumers take it from the register (bulk) or from a
 *     chunk on the stack (ends, small copies, the plain kind).
 *  2. Non-temporal stores go to 64-byte aligned destinations only; what is
 *     before and behind goes by memcpy.
 *  3. sfence before the return: what is published after it is seen with the
 *     bytes.
 *  4. All kinds give the same bytes and the same crc.
 *
 * Folding: a message may be shortened from the front by multiplying its first
 * 16 bytes by x^distance and adding them to bytes further on; its crc stays the
 * same. So the bulk is folded into as many bytes as fit in registers, and only
 * those go through crc32c(). One pass costs no more than the copy alone, where
 * crc and copy after each other cost the sum: docs/BENCHMARKS.md. */
#include "base/copy.h"

#include <immintrin.h>
#include <string.h>

#include "base/hash.h"

/* With the crc on the way, streaming wins from 4 KiB on: measured twice as fast
 * as memcpy and crc for cold 4 KiB blocks. */
enum { LINE = 64, BATCH = 256, CHUNK = 4096, AHEAD = 2048, CRC_NT_MIN = 4096 };

/* to is aligned to LINE, n a multiple of BATCH. */
typedef void stream_fn(uint8_t *to, const uint8_t *from, size_t n);
typedef uint32_t stream_crc_fn(uint8_t *to, const uint8_t *from, size_t n,
                               uint32_t crc);

/* The crc of what bytes hold after folding a message into them; the first
 * crc went in with the first load, so neither inversion is left to do at the
 * front. */
static uint32_t folded_crc(const void *bytes, size_t n)
{
    return crc32c(~UINT32_C(0), bytes, n);
}

/* ---- AVX-512 with VPCLMULQDQ: four registers of 64 bytes ---- */

#define AVX512 __attribute__((target("avx512f,vpclmulqdq")))

AVX512 static void stream_avx512(uint8_t *to, const uint8_t *from, size_t n)
{
    for (size_t i = 0; i < n; i += LINE)
        _mm512_stream_si512((void *)(to + i), _mm512_loadu_si512(from + i));
}

/* The one read of a line. The empty asm keeps the compiler from reading it
 * again in place of keeping it. */
AVX512 static inline __m512i pass_avx512(uint8_t *to, const uint8_t *from)
{
    __m512i v = _mm512_loadu_si512(from);

    __asm__("" : "+v"(v));
    _mm512_stream_si512((void *)to, v);
    return v;
}

AVX512 static inline __m512i fold_avx512(__m512i acc, __m512i next)
{
    /* x^(2048 - 32) and x^(2048 + 32) modulo the polynomial, reflected and
     * shifted left once: 256 bytes on. */
    const __m512i k =
        _mm512_broadcast_i32x4(_mm_set_epi64x(0xb9e02b86, 0xdcb17aa4));

    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(acc, k, 0x00),
                                     _mm512_clmulepi64_epi128(acc, k, 0x11),
                                     next, 0x96);
}

/* Four chains, because one fold takes longer than one load. */
AVX512 static uint32_t stream_crc_avx512(uint8_t *to, const uint8_t *from,
                                         size_t n, uint32_t crc)
{
    __m512i start = _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)~crc));
    __m512i a = _mm512_xor_si512(pass_avx512(to, from), start);
    __m512i b = pass_avx512(to + 64, from + 64);
    __m512i c = pass_avx512(to + 128, from + 128);
    __m512i d = pass_avx512(to + 192, from + 192);
    __m512i rest[4];

    for (size_t i = BATCH; i < n; i += BATCH) {
        a = fold_avx512(a, pass_avx512(to + i, from + i));
        b = fold_avx512(b, pass_avx512(to + i + 64, from + i + 64));
        c = fold_avx512(c, pass_avx512(to + i + 128, from + i + 128));
        d = fold_avx512(d, pass_avx512(to + i + 192, from + i + 192));
    }
    rest[0] = a;
    rest[1] = b;
    rest[2] = c;
    rest[3] = d;
    return folded_crc(rest, sizeof(rest));
}

/* ---- AVX2 with PCLMULQDQ: four registers of 16 bytes ---- */

#define AVX2 __attribute__((target("avx2,pclmul")))

AVX2 static void stream_avx2(uint8_t *to, const uint8_t *from, size_t n)
{
    for (size_t i = 0; i < n; i += LINE) {
        __m256i a = _mm256_loadu_si256((const void *)(from + i));
        __m256i b = _mm256_loadu_si256((const void *)(from + i + 32));

        _mm256_stream_si256((void *)(to + i), a);
        _mm256_stream_si256((void *)(to + i + 32), b);
    }
}

AVX2 static inline __m256i pass_avx2(uint8_t *to, const uint8_t *from)
{
    __m256i v = _mm256_loadu_si256((const void *)from);

    __asm__("" : "+x"(v));
    _mm256_stream_si256((void *)to, v);
    return v;
}

AVX2 static inline __m128i fold_avx2(__m128i acc, __m128i next)
{
    /* x^(512 - 32) and x^(512 + 32), as above: 64 bytes on. */
    const __m128i k = _mm_set_epi64x(0x9e4addf8, 0x740eef02);

    return _mm_xor_si128(next,
                         _mm_xor_si128(_mm_clmulepi64_si128(acc, k, 0x00),
                                       _mm_clmulepi64_si128(acc, k, 0x11)));
}

AVX2 static uint32_t stream_crc_avx2(uint8_t *to, const uint8_t *from, size_t n,
                                     uint32_t crc)
{
    __m256i low = pass_avx2(to, from), high = pass_avx2(to + 32, from + 32);
    __m128i a = _mm_xor_si128(_mm256_castsi256_si128(low),
                              _mm_cvtsi32_si128((int)~crc));
    __m128i b = _mm256_extracti128_si256(low, 1);
    __m128i c = _mm256_castsi256_si128(high);
    __m128i d = _mm256_extracti128_si256(high, 1);
    __m128i rest[4];

    for (size_t i = LINE; i < n; i += LINE) {
        __builtin_prefetch(from + i + AHEAD);
        low = pass_avx2(to + i, from + i);
        high = pass_avx2(to + i + 32, from + i + 32);
        a = fold_avx2(a, _mm256_castsi256_si128(low));
        b = fold_avx2(b, _mm256_extracti128_si256(low, 1));
        c = fold_avx2(c, _mm256_castsi256_si128(high));
        d = fold_avx2(d, _mm256_extracti128_si256(high, 1));
    }
    rest[0] = a;
    rest[1] = b;
    rest[2] = c;
    rest[3] = d;
    return folded_crc(rest, sizeof(rest));
}

/* ---- Plain ---- */

static void stream_plain(uint8_t *to, const uint8_t *from, size_t n)
{
    memcpy(to, from, n);
}

/* Any n, any alignment, through a chunk that stays in L1. The empty asm keeps
 * the compiler from reading the source again in place of the chunk. */
static uint32_t stream_crc_plain(uint8_t *to, const uint8_t *from, size_t n,
                                 uint32_t crc)
{
    uint8_t chunk[CHUNK];

    while (n > 0) {
        size_t m = (size_t)min_u64(n, CHUNK);

        memcpy(chunk, from, m);
        __asm__ volatile("" : : "r"(chunk) : "memory");
        crc = crc32c(crc, chunk, m);
        memcpy(to, chunk, m);
        to += m;
        from += m;
        n -= m;
    }
    return crc;
}

/* ---- Choice ---- */

enum kind_id { KIND_AVX512, KIND_AVX2, KIND_PLAIN };

static const struct kind {
    enum kind_id id;
    const char *name;
    stream_fn *stream;
    stream_crc_fn *stream_crc;
} kinds[] = {
    {KIND_AVX512, "avx512", stream_avx512, stream_crc_avx512},
    {KIND_AVX2, "avx2", stream_avx2, stream_crc_avx2},
    {KIND_PLAIN, "plain", stream_plain, stream_crc_plain},
};

static const struct kind *kind_now;

static bool kind_works(const struct kind *k)
{
    switch (k->id) {
    case KIND_AVX512:
        return __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("vpclmulqdq");
    case KIND_AVX2:
        return __builtin_cpu_supports("avx2") &&
               __builtin_cpu_supports("pclmul");
    case KIND_PLAIN:
        return true;
    }
    return false;
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

/* ---- The two copies ---- */

/* Bytes until p is aligned to a line. */
static size_t head_bytes(const uint8_t *p)
{
    return (size_t)(-(uintptr_t)p & (LINE - 1));
}

void copy_stream(void *to_v, const void *from_v, size_t n)
{
    const uint8_t *from = from_v;
    uint8_t *to = to_v;
    size_t head, body;

    if (n < LINE + BATCH) {
        if (n)
            memcpy(to, from, n);
        return;
    }
    head = head_bytes(to);
    body = (n - head) & ~(size_t)(BATCH - 1);
    memcpy(to, from, head);
    kind_get()->stream(to + head, from + head, body);
    memcpy(to + head + body, from + head + body, n - head - body);
    _mm_sfence();
}

uint32_t copy_crc(void *to_v, const void *from_v, size_t n, uint32_t crc)
{
    const uint8_t *from = from_v;
    uint8_t *to = to_v;
    size_t head, body;

    if (n < CRC_NT_MIN)
        return stream_crc_plain(to, from, n, crc);
    head = head_bytes(to);
    body = (n - head) & ~(size_t)(BATCH - 1);
    crc = stream_crc_plain(to, from, head, crc);
    crc = kind_get()->stream_crc(to + head, from + head, body, crc);
    crc = stream_crc_plain(to + head + body, from + head + body,
                           n - head - body, crc);
    _mm_sfence();
    return crc;
}
