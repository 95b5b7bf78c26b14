/* SPDX-License-Identifier: Apache-2.0
 *
 * The layouts that a connection has registered (LAYOUT), base/layout.h says
 * what one is. They are the connection's: no other knows them, they end with
 * it.
 *
 *     layouts_add --> in the peer's list --forget, peer gone--> last ref -->
 * pool |                                     ^
 *                          +-- layouts_take: an op that names it -+
 *
 * An op keeps the layout that it names until it ends, so that transfers may
 * read it at any time. Ids never come again in the life of a connection. The
 * memory that a layout lies in may be unregistered before it: its transfers
 * find no memory then (NO_MEM). Thread: the lane. */
#ifndef SERVER_LAYOUTS_H
#define SERVER_LAYOUTS_H

#include "base/layout.h"
#include "pikv.pb-c.h"
#include "server/lane.h"

struct op;
struct peer;

/* A longer table does not fit: LIMIT, and libpikv expands by itself. */
enum { LAYOUT_TABLE = 1 << 16 };

struct held_layout {
    struct list node; /* peer->layouts */
    uint32_t id, refs;
    struct layout l;
    uint64_t table[LAYOUT_TABLE];
};

must_check enum err layouts_init(struct lane *l);
void layouts_fini(struct lane *l);
/* BAD_REQUEST, LIMIT, NO_MEM; BUSY: the connection has as many as it may, or
 * the lane has no room. UNSUPPORTED: no memory is registered here. */
must_check enum err layouts_add(struct peer *p, const Pikv__LayoutRegister *m,
                                uint32_t *id_out);
must_check enum err layouts_forget(struct peer *p, uint32_t id);
void layouts_drop_peer(struct peer *p);
/* Finds what the request names for op, which has it until layouts_give. */
must_check enum err layouts_take(struct op *op, uint32_t id);
void layouts_give(struct op *op); /* none: does nothing */

#endif
