/* SPDX-License-Identifier: Apache-2.0
 *
 * Hashes and checksums.
 *  - crc32c (Castagnoli, reflected, init and final xor all ones): block and
 *    frame checksums; isa-l.
 *  - key hash: XXH3-128 with a per-namespace-generation secret, over group,
 *    scope and key bytes. Not a proof of identity: the catalog also compares
 *    the key bytes.
 *  - slot: XXH3-64 of the route with the namespace's public slot seed. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include "base/base.h"

/* crc of the concatenation: crc32c(crc32c(0, a), b). */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);
/* crc of the concatenation of two parts from their crcs; n2 = bytes of the
 * second (GF(2) matrix method of zlib's crc32_combine). */
uint32_t crc32c_combine(uint32_t crc1, uint32_t crc2, uint64_t n2);

struct hash128 {
    uint64_t lo, hi;
};

enum { HASH_SECRET_BYTES = 192 };

struct hash_secret {
    uint8_t bytes[HASH_SECRET_BYTES];
};

/* Derives a secret from a salt and a generation (XXH3_generateSecret). */
void hash_secret_make(struct hash_secret *s, const uint8_t salt[32],
                      uint64_t generation);
struct hash128 hash_key(const struct hash_secret *s, uint16_t group,
                        const uint8_t scope[16], const void *key,
                        size_t key_len);
uint64_t hash_64(uint64_t seed, const void *p, size_t n);
/* 0 to WIRE_SLOTS - 1. */
uint32_t hash_slot(uint64_t slot_seed, const void *route, size_t n);

#endif
