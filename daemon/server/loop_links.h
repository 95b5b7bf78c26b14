/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens a lane's transports as the configuration says (shell). Main thread,
 * before the lane's loop starts. */
#ifndef SERVER_LOOP_LINKS_H
#define SERVER_LOOP_LINKS_H

#include "server/loop.h"

/* What UCX reads from the environment: once, before any thread. */
must_check enum err loop_links_env(const struct config *c, struct errmsg *m);
/* lane->addr_*: what HELLO tells clients. */
void loop_links_address(const struct config *c, struct lane *l);
/* All that are enabled, or none. */
must_check enum err loop_links_open(const struct config *c, struct lane *l,
                                    struct loop_transport out[LANE_TRANSPORTS],
                                    uint32_t *n_out, struct errmsg *m);

#endif
