/* SPDX-License-Identifier: Apache-2.0
 *
 * What of a namespace others go by: its slots and flushes in a cluster, and
 * what a lane's store is told. */
#include <string.h>

#include "base/hash.h"
#include "server/registry.h"

uint64_t registry_seed(const struct registry *r, const char *name)
{
    return hash_64(r->cluster, name, strlen(name));
}

uint32_t registry_reseed(struct registry *r)
{
    uint32_t n = 0;

    for (uint32_t i = 0; r->cluster && i < r->n; i++) {
        uint64_t seed = registry_seed(r, r->ns[i].name);

        if (r->ns[i].slot_seed == seed)
            continue;
        r->ns[i].slot_seed = seed;
        r->ns[i].generation = r->next_generation++;
        n++;
    }
    return n;
}

void registry_flush(const struct registry *r, const struct registry_ns *ns,
                    uint64_t count, struct registry_ns *draft_out)
{
    registry_bump(r, ns, draft_out);
    draft_out->flushes = count;
}

/* A quota below one byte a lane would read as none. */
void registry_ns_cfg(const struct registry_ns *ns, uint32_t lanes,
                     struct store_ns_cfg *out)
{
    uint64_t quota = ns->settings.quota_bytes;

    *out = (struct store_ns_cfg){
        .id = ns->id,
        .generation = ns->generation,
        .slot_seed = ns->slot_seed,
        .policy = ns->settings.policy,
        .share = ns->settings.share,
        .quota_bytes = quota ? max_u64(quota / lanes, 1) : 0,
        .pool = ns->pool,
        .ttl_ms = ns->settings.ttl_ms,
        .write_buffer = ns->settings.dram == TIERING_WRITE_BUFFER,
    };
    memcpy(out->salt, ns->salt, sizeof(out->salt));
    for (uint32_t i = 0; i < ns->group_n; i++)
        out->block_bytes[ns->groups[i].id] = ns->groups[i].block_bytes;
}
