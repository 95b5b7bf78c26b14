/* SPDX-License-Identifier: Apache-2.0
 *
 * What several fakes (fake_pikvd.h) need to be a cluster: each is given a view
 * by the test, answers VIEW with it, in pieces if wanted, and sends away what
 * the view says is another's, as cluster/view.h and server/owner.h do. */
#ifndef TESTS_FAKE_VIEW_H
#define TESTS_FAKE_VIEW_H

#include "proto/wire.h"
#include "rpc/frame.h"
#include "tests/lib/fake_pikvd.h"

enum { FAKE_NODES = 8, FAKE_NONE = 0xffff };

struct fake_row {
    uint16_t owner[3], from, to;
    uint8_t heat, spare;
};

struct fake_view {
    uint64_t epoch; /* 0: no view */
    uint32_t generation, self, node_n;
    uint32_t piece_bytes; /* of slots in a reply; 0: what fits */
    struct {
        struct fake *at; /* NULL: nobody is there */
        const char *state;
        uint64_t host;
        const char *addr; /* in place of at's lane 0 */
    } nodes[FAKE_NODES];
    struct fake_row rows[WIRE_SLOTS];
    struct { /* by fake_set_view: where the nodes are */
        uint32_t lane_n;
        char shm[8][160];
    } where[FAKE_NODES];
};

/* Copied; the fake is node self of it. */
void fake_set_view(struct fake *f, const struct fake_view *v, uint32_t self);
/* How many pieces of a view were asked for. */
uint32_t fake_views(const struct fake *f);

/* ---- for fake_pikvd.c ---- */

struct lane;
struct fake_conn;

void fake_do_view(struct lane *l, struct fake_conn *c,
                  const struct message *msg);
/* What the view says of a key before it is stored, and after it was not found:
 * OK or WRONG_NODE with the owner. */
int fake_view_put(struct lane *l, const struct wire_batch *head,
                  const struct key_ref *k, struct wire_result *r);
int fake_view_miss(struct lane *l, const struct wire_batch *head,
                   const struct key_ref *k, struct wire_result *r);

#endif
