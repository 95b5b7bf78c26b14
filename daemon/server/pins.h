/* SPDX-License-Identifier: Apache-2.0
 *
 * Pins and loans: what a client holds of the store beyond a request.
 *
 *  pin   a promise not to move or evict, with a ttl. One per (client, block):
 *        pinning again moves the ttl. Capped per connection in number and bytes
 *        and over all by store_pin.
 *  loan  a block that a same-host client reads in place. Taken back after its
 *        ttl: first the client is told (loans_end), then the bytes may go.
 *
 * Both end with the connection. Owner and thread: the lane. */
#ifndef SERVER_PINS_H
#define SERVER_PINS_H

#include "server/peer.h"

must_check enum err pins_init(struct lane *l);
void pins_fini(struct lane *l);
/* PIN_LIMIT when a cap is reached. ttl 0 is cut to the longest allowed. */
must_check enum err pins_add(struct peer *p, uint32_t block, uint32_t ttl_ms);
/* MISS if this client has no pin on the block. */
must_check enum err pins_remove(struct peer *p, uint32_t block);
void pins_drop_peer(struct peer *p);

/* May this client read blocks of the namespace in place? Whoever could reopen
 * the memfd for writing through /proc (root, the daemon's own user) may not,
 * unless the namespace says `any`. */
bool loans_allowed(const struct peer *p, const struct registry_ns *ns);
/* Refs the block; the id goes to the client. PIN_LIMIT: the client's cap. */
must_check enum err loans_add(struct peer *p, uint32_t block, uint64_t cap,
                              uint64_t *id_out);
/* STALE if it was taken back meanwhile. */
must_check enum err loans_release(struct peer *p, uint64_t id);
void loans_drop_peer(struct peer *p);

#endif
