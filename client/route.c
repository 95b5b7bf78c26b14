/* SPDX-License-Identifier: Apache-2.0
 *
 * Routers: functions that make routes (pikv.h has the formulas). Pure; no
 * handle. A route is bytes that the server hashes, so what counts is only that
 * equal things have equal bytes: each router begins its bytes with a letter of
 * its own, but for prefix, whose routes are keys as the default's are. */
#include <string.h>

#include "base/hash.h"
#include "client/pikv.h"

static uint32_t put_le(uint8_t *out, uint64_t x, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        out[i] = (uint8_t)(x >> 8 * i);
    return bytes;
}

uint64_t pikv_route_page(const struct pikv_route *in)
{
    return in->page_tokens ? in->token / in->page_tokens : in->token;
}

int pikv_route_shard(const struct pikv_route *in)
{
    uint64_t page = pikv_route_page(in);

    if (in->n_tok == 0 || in->n_exp == 0 || in->n_tok > PIKV_ROUTE_SHARDS ||
        in->n_exp > PIKV_ROUTE_SHARDS)
        return PIKV_BAD_REQUEST;
    return (int)((page % in->n_tok) ^ (in->affinity % in->n_exp));
}

int pikv_route_hash(const struct pikv_route *in, uint8_t out[PIKV_ROUTE_MAX])
{
    (void)in;
    (void)out;
    return 0;
}

int pikv_route_prefix(const struct pikv_route *in, uint8_t out[PIKV_ROUTE_MAX])
{
    const struct pikv_bytes *key;

    if (in->depth == 0 || in->chain_n == 0 || !in->chain)
        return PIKV_BAD_REQUEST;
    key = &in->chain[(in->chain_n < in->depth ? in->chain_n : in->depth) - 1];
    if (key->len == 0 || !key->p)
        return PIKV_BAD_REQUEST;
    if (key->len <= PIKV_ROUTE_MAX) {
        memcpy(out, key->p, key->len);
        return (int)key->len;
    }
    put_le(out, hash_64(0, key->p, key->len), 8);
    put_le(out + 8, hash_64(1, key->p, key->len), 8);
    return 16;
}

int pikv_route_paper(const struct pikv_route *in, uint8_t out[PIKV_ROUTE_MAX])
{
    int shard = pikv_route_shard(in);

    if (shard < 0)
        return shard;
    out[0] = 'P';
    put_le(out + 1, in->affinity, 8);
    put_le(out + 9, (uint64_t)shard, 4);
    return 13;
}

int pikv_route_paper_xor(const struct pikv_route *in,
                         uint8_t out[PIKV_ROUTE_MAX])
{
    int shard = pikv_route_shard(in);

    if (shard < 0)
        return shard;
    out[0] = 'X';
    put_le(out + 1, (uint64_t)shard, 4);
    return 5;
}

int pikv_route_affinity(const struct pikv_route *in,
                        uint8_t out[PIKV_ROUTE_MAX])
{
    out[0] = 'A';
    put_le(out + 1, in->affinity, 8);
    return 9;
}

const struct pikv_router *pikv_router_at(uint32_t i)
{
    static const struct pikv_router routers[] = {
        {"hash", "the key", pikv_route_hash},
        {"prefix", "the key of the sequence's block min(position, depth - 1)",
         pikv_route_prefix},
        {"paper", "(affinity, (page mod n_tok) xor (affinity mod n_exp))",
         pikv_route_paper},
        {"paper_xor", "(page mod n_tok) xor (affinity mod n_exp)",
         pikv_route_paper_xor},
        {"affinity", "affinity", pikv_route_affinity},
    };

    return i < countof(routers) ? &routers[i] : NULL;
}

const struct pikv_router *pikv_router_find(const char *name)
{
    const struct pikv_router *r;

    for (uint32_t i = 0; (r = pikv_router_at(i)); i++) {
        if (name && strcmp(r->name, name) == 0)
            return r;
    }
    return NULL;
}
