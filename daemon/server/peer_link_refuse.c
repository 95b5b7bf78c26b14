/* SPDX-License-Identifier: Apache-2.0
 *
 * The log of strangers: one line per address and minute, however often it
 * comes. What came in between is counted, and told by the next line. More
 * addresses than REFUSALS at a time take each other's place, the longest
 * silent first; then the log's own limit per site holds. */
#include "server/peer_link_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

/* The address's place, or the one to be taken for it. */
static struct refusal *refusal_of(struct peer_links *l, const char *address)
{
    struct refusal *oldest = &l->refusals[0];

    for (uint32_t i = 0; i < REFUSALS; i++) {
        struct refusal *r = &l->refusals[i];

        if (strcmp(r->address, address) == 0)
            return r;
        if (!r->address[0] || (oldest->address[0] && r->at_ms < oldest->at_ms))
            oldest = r;
    }
    *oldest = (struct refusal){0};
    return oldest;
}

void refuse_log(struct peer_links *l, const char *address, const char *why)
{
    struct refusal *r = refusal_of(l, address);
    uint64_t now = links_now(l);

    l->stats.refused++;
    if (r->address[0] && now - r->at_ms < REFUSAL_MS) {
        r->n++;
        return;
    }
    LOG(LOG_WARN, "peer_refused", "address=%s why=%s more=%" PRIu64, address,
        LOG_STR(why), r->n);
    snprintf(r->address, sizeof(r->address), "%s", address);
    r->at_ms = now;
    r->n = 0;
}
