/* SPDX-License-Identifier: Apache-2.0
 *
 * What the admin pages say of the cluster. Control thread. */
#ifndef SERVER_ADMIN_CLUSTER_H
#define SERVER_ADMIN_CLUSTER_H

#include <jansson.h>

#include "server/admin.h"

enum admin_state { ADMIN_OK, ADMIN_DEGRADED, ADMIN_NOT_READY };

/* In words why; text holds n bytes. Not ready: no view yet, expelled, or no
 * leader where cluster.ready_without_quorum is false. */
enum admin_state admin_cluster_state(const struct admin_cfg *cfg, char *text,
                                     size_t n);
/* Part of /api/v1/status. */
json_t *admin_cluster_json(const struct admin_cfg *cfg);

#endif
