/* SPDX-License-Identifier: Apache-2.0
 *
 * What was dropped lately, of slots whose blocks are being brought here: so
 * that a copy that another daemon gave just before is not stored after the
 * drop. The one that brings blocks asks when it stores one; others never do.
 *
 *     EVICT of a key             remembered by its hash, DROPS_S seconds
 *     EVICT by label or scope    remembered by it, as long
 *     EVICT of anything else,    for so long nothing of the namespace, or
 *     or too many of the above   nothing at all, is taken: RETRY
 *
 * A copy is asked for after LIST and stored within half of DROPS_S (puller.h),
 * and who drops asks all holders at about the same time: what is older than
 * DROPS_S cannot undo a drop.
 *
 * Four cells are looked at for a hash, so all is O(1). A hash that another one
 * equals in 64 bits is refused wrongly: a miss. Pure; the lane's thread. */
#ifndef SERVER_DROPS_H
#define SERVER_DROPS_H

#include "base/hash.h"
#include "store/store.h"

enum {
    DROPS_S = 30,
    DROPS_CELLS = 1 << 16,
    DROPS_WAYS = 4,
    DROPS_WIDE = 64,
};

struct drops_cell {
    uint64_t hash;
    uint64_t until_ns; /* 0: never used */
};

struct drops_wide {
    uint64_t until_ns;
    uint32_t ns;
    enum wire_select by; /* LABEL, SCOPE; NAMESPACE: everything of it */
    uint64_t labels[4];
    uint8_t scope[16];
};

struct drops {
    struct drops_cell *cells; /* NULL: nothing is ever brought here */
    struct drops_wide wide[DROPS_WIDE];
    uint64_t all_until_ns; /* nothing is taken before */
};

must_check enum err drops_init(struct drops *d);
void drops_fini(struct drops *d);
void drops_key(struct drops *d, const struct store_key *k, uint64_t now_ns);
/* labels: four, 0 none (LABEL); scope: 16 bytes (SCOPE). */
void drops_select(struct drops *d, uint32_t ns, enum wire_select by,
                  const uint64_t *labels, const uint8_t *scope,
                  uint64_t now_ns);
/* May a copy of this block be stored? OK, CANCELED (it was dropped), RETRY (not
 * known: later, with a copy that is asked for anew). */
must_check enum err drops_check(const struct drops *d,
                                const struct store_key *k,
                                const struct wire_attr *attr, uint64_t now_ns);

#endif
