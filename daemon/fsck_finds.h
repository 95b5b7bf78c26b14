/* SPDX-License-Identifier: Apache-2.0
 *
 * The records and tombs that pikv-fsck met, in the order of the device, and
 * which of them count: of several records with one hash the one with the
 * highest version, unless a tomb of that version or a later one was met, as in
 * recovery. Grows; functions that allocate say whether they could. */
#ifndef FSCK_FINDS_H
#define FSCK_FINDS_H

#include "store/seg_format.h"

enum fate {
    FATE_LIVE,
    FATE_OLD,  /* another record of its hash counts */
    FATE_DEAD, /* dropped */
    FATE_N
};

struct found {
    struct hash128 hash;
    uint64_t version, generation;
    uint32_t page, len, crc;
    uint8_t fate; /* enum fate, after finds_decide */
    bool bad;     /* its payload was read and is not what was written */
};

struct finds {
    struct found *found;
    uint64_t n, cap;
    struct seg_tomb *tombs;
    uint64_t tomb_n, tomb_cap;
};

/* A new last one, or NULL; valid until the next call. */
struct found *finds_add(struct finds *f);
bool finds_add_tomb(struct finds *f, const struct seg_tomb *t);
bool finds_decide(struct finds *f); /* sorts the tombs */
void finds_free(struct finds *f);
const char *fate_name(uint8_t fate);

#endif
