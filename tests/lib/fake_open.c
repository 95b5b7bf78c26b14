/* SPDX-License-Identifier: Apache-2.0
 *
 * See fake_open.h. */
#include "tests/lib/fake_open.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

static struct fake_open *find(struct fake_opens *t, uint32_t lane,
                              const struct key_ref *k)
{
    for (struct fake_open *o = t->all; o < t->all + FAKE_OPENS; o++)
        if (o->token && o->lane == lane && o->key_len == k->rec.key_len &&
            memcmp(o->key, k->key, o->key_len) == 0)
            return o;
    return NULL;
}

static struct fake_open *find_token(struct fake_opens *t, uint32_t lane,
                                    const struct key_ref *k,
                                    struct wire_result *r)
{
    struct fake_open *o = find(t, lane, k);

    if (o && o->token != k->rec.token)
        o = NULL;
    r->status = o ? OK : ERR_MISS;
    return o;
}

void fake_open_begin(struct fake_opens *t, uint32_t lane,
                     const struct key_ref *k, struct wire_result *r)
{
    struct fake_open *o = find(t, lane, k);

    if (!o) {
        for (o = t->all; o->token; o++)
            MUST(o + 1 < t->all + FAKE_OPENS);
        *o = (struct fake_open){.token = ++t->tokens << 32,
                                .len = k->rec.len,
                                .lane = lane,
                                .writers = (uint32_t)max_u64(k->rec.off, 1),
                                .key_len = k->rec.key_len,
                                .bytes = malloc(k->rec.len)};
        memcpy(o->key, k->key, o->key_len);
    }
    r->loan = o->token;
}

uint8_t *fake_open_at(struct fake_opens *t, uint32_t lane,
                      const struct key_ref *k, struct wire_result *r)
{
    struct fake_open *o = find_token(t, lane, k, r);

    MUST(!o || k->rec.off + k->rec.len <= o->len);
    return o ? o->bytes + k->rec.off : NULL;
}

void fake_open_written(const struct key_ref *k, const uint8_t *at,
                       struct wire_result *r)
{
    r->crc = crc32c(0, at, k->rec.len);
    if ((k->rec.flags & KEY_CRC) && r->crc != k->rec.crc)
        r->status = ERR_CORRUPT;
    else
        r->moved = k->rec.len;
}

uint8_t *fake_open_commit(struct fake_opens *t, uint32_t lane,
                          const struct key_ref *k, struct wire_result *r,
                          uint64_t *len_out)
{
    struct fake_open *o = find_token(t, lane, k, r);

    if (!o)
        return NULL;
    o->committed |= UINT64_C(1) << k->rec.off;
    if (o->committed + 1 != UINT64_C(1) << o->writers) {
        r->status = ERR_PENDING;
        return NULL;
    }
    o->token = 0;
    *len_out = o->len;
    return o->bytes;
}

void fake_open_abort(struct fake_opens *t, uint32_t lane,
                     const struct key_ref *k, struct wire_result *r)
{
    struct fake_open *o = find_token(t, lane, k, r);

    if (!o)
        return;
    free(o->bytes);
    o->token = 0;
}

void fake_open_drop_all(struct fake_opens *t)
{
    for (struct fake_open *o = t->all; o < t->all + FAKE_OPENS; o++) {
        if (o->token)
            free(o->bytes);
        o->token = 0;
    }
}
