/* SPDX-License-Identifier: Apache-2.0
 *
 * Checksums by isa-l, hashes by xxhash; what is ours is the combining of two
 * crcs and what goes into a key's hash. xxhash is compiled in: a key's hash
 * must not wait for a call through the PLT, and XXH3_generateSecret is not a
 * part of the shared library's stable interface. */
#include "base/hash.h"

#include <isa-l/crc.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "proto/wire.h"

enum {
    CRC_POLY = (int)0x82f63b78, /* Castagnoli, reflected */
    CRC_CHUNK = 1 << 30,        /* isa-l counts in int */
};

static_assert(HASH_SECRET_BYTES >= XXH3_SECRET_SIZE_MIN, "xxhash refuses less");

/* isa-l does neither the initial nor the final inversion. It takes a pointer
 * to unsigned char but only reads. */
/* isa-l 2.30 returns from its AVX-512 crc with dirty upper halves of the vector
 * registers, and every SSE instruction after that, memcpy's included, runs
 * many times slower (128-key LOOKUP: 58 us with, 17 us without). */
static void avx_clean(void)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx"))
        __asm__ volatile("vzeroupper" ::: "memory");
#endif
}

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
    uintptr_t at = (uintptr_t)p;

    crc = ~crc;
    while (n > 0) {
        size_t m = (size_t)min_u64(n, CRC_CHUNK);

        crc = crc32_iscsi((unsigned char *)at, (int)m, crc);
        at += m;
        n -= m;
    }
    avx_clean();
    return ~crc;
}

/* ---- Combining ----
 * Appending n2 bytes multiplies the first crc by x^(8 n2) modulo the
 * polynomial; the second crc is then added. Bit 31 of a reflected polynomial
 * is x^0. */

static uint32_t crc_multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;

    for (uint32_t bit = UINT32_C(1) << 31; bit; bit >>= 1) {
        if (a & bit)
            product ^= b;
        b = (b & 1) ? (b >> 1) ^ (uint32_t)CRC_POLY : b >> 1;
    }
    return product;
}

uint32_t crc32c_combine(uint32_t crc1, uint32_t crc2, uint64_t n2)
{
    uint32_t power = UINT32_C(1) << 23; /* x^8: one byte */

    for (; n2; n2 >>= 1) {
        if (n2 & 1)
            crc1 = crc_multiply(power, crc1);
        power = crc_multiply(power, power);
    }
    return crc1 ^ crc2;
}

/* ---- Hashes ---- */

void hash_secret_make(struct hash_secret *s, const uint8_t salt[32],
                      uint64_t generation)
{
    uint8_t seed[32 + sizeof(generation)];

    memcpy(seed, salt, 32);
    memcpy(seed + 32, &generation, sizeof(generation));
    MUST(XXH3_generateSecret(s->bytes, sizeof(s->bytes), seed, sizeof(seed)) ==
         XXH_OK);
}

/* Group and scope have fixed length, so that no two keys give the same bytes
 * with another split. */
struct hash128 hash_key(const struct hash_secret *s, uint16_t group,
                        const uint8_t scope[16], const void *key,
                        size_t key_len)
{
    uint8_t buf[sizeof(group) + 16 + WIRE_KEY_MAX];
    XXH128_hash_t h;

    MUST(key_len <= WIRE_KEY_MAX);
    memcpy(buf, &group, sizeof(group));
    memcpy(buf + sizeof(group), scope, 16);
    if (key_len)
        memcpy(buf + sizeof(group) + 16, key, key_len);
    h = XXH3_128bits_withSecret(buf, sizeof(group) + 16 + key_len, s->bytes,
                                sizeof(s->bytes));
    return (struct hash128){.lo = h.low64, .hi = h.high64};
}

uint64_t hash_64(uint64_t seed, const void *p, size_t n)
{
    return XXH3_64bits_withSeed(p, n, seed);
}

uint32_t hash_slot(uint64_t slot_seed, const void *route, size_t n)
{
    return (uint32_t)(hash_64(slot_seed, route, n) % WIRE_SLOTS);
}
