/* SPDX-License-Identifier: Apache-2.0
 *
 * What the admin pages say; admin.c serves them. Control thread. */
#ifndef SERVER_ADMIN_PAGE_H
#define SERVER_ADMIN_PAGE_H

#include "server/admin.h"

/* What lanes answered. usage_n 0: they did not. */
struct admin_snapshot {
    struct ctl_usage *usage; /* [lane * usage_n + id - 1] */
    uint32_t usage_n;
    struct ctl_client (*clients)[CTL_CLIENTS_MAX]; /* [lane] */
    uint32_t *client_n;
};

void admin_page_metrics(const struct admin_cfg *cfg,
                        const struct admin_snapshot *s, bool openmetrics,
                        struct textbuf *out);
void admin_page_status(const struct admin_cfg *cfg,
                       const struct admin_snapshot *s, struct textbuf *out);
/* The checks, each a line if verbose; false if one that counts failed. live:
 * only whether lanes turn. */
bool admin_page_health(const struct admin_cfg *cfg, bool live, bool verbose,
                       struct textbuf *out);

#endif
