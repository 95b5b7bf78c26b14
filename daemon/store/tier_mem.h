/* SPDX-License-Identifier: Apache-2.0
 *
 * The DRAM tier of one lane over one unit pool: the tier contract on top of a
 * slab. Addressable: bytes are copied by the caller into its spans. */
#ifndef STORE_TIER_MEM_H
#define STORE_TIER_MEM_H

#include "store/slab.h"

struct tier_mem {
    struct tier tier; /* first: the contract's object */
    struct slab slab;
    uint32_t stamp; /* age given to fresh units; the store moves it on */
};

extern const struct tier_ops tier_mem_ops;

must_check enum err tier_mem_init(struct tier_mem *t, struct unit_pool *pool,
                                  uint32_t lane);
void tier_mem_fini(struct tier_mem *t);

#endif
