/* SPDX-License-Identifier: Apache-2.0
 *
 * Somebody who knows a store by its events alone: a dictionary of block names,
 * changed as events say. What it then believes must be what the store's catalog
 * has: the same blocks, versions and tiers, and nothing else. */
#ifndef TESTS_FOLLOW_H
#define TESTS_FOLLOW_H

#include "store/events.h"
#include "store/store.h"

enum { FOLLOW_PLACES = 1 << 16 };

struct follow_block {
    struct hash128 hash;
    uint64_t version;
    uint32_t ns; /* 0: the place is free */
    uint8_t tier;
};

struct follow {
    struct follow_block *places;
    uint32_t n;
    uint64_t seq; /* wanted next */
    uint64_t told[EVENT_CLEARED + 1];
    uint64_t lost; /* times that events were overwritten before */
};

void follow_init(struct follow *f);
void follow_fini(struct follow *f);
/* Believes what the catalog has now, and all events so far to be known. */
void follow_list(struct follow *f, struct store *s);
/* Takes the events since the last time; lists anew if some were lost. */
void follow_take(struct follow *f, struct store *s);
/* Aborts with words unless what it believes is what the catalog has. */
void follow_check(const struct follow *f, struct store *s);

#endif
