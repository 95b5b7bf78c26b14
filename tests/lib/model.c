/* SPDX-License-Identifier: Apache-2.0
 *
 * The oracle's dictionary (model.h). A key keeps all its PUTs but refused ones:
 * whatever is put later, the block of one may live on, and be answered. */
#include "lib/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/* splitmix64: any word of the bytes from its position. */
static uint64_t model_word(uint64_t id, uint64_t i)
{
    uint64_t z = id * UINT64_C(0x9e3779b97f4a7c15) + i;

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void model_fill(uint64_t id, uint64_t off, uint8_t *p, uint64_t len)
{
    for (uint64_t done = 0; done < len;) {
        uint64_t at = off + done;
        uint64_t word = model_word(id, at / 8);
        uint64_t n = min_u64(8 - at % 8, len - done);

        memcpy(p + done, (const uint8_t *)&word + at % 8, n);
        done += n;
    }
}

static uint32_t model_crc(uint64_t id, uint64_t len)
{
    uint8_t buf[4096];
    uint32_t crc = 0;

    for (uint64_t off = 0; off < len; off += sizeof buf) {
        uint64_t n = min_u64(sizeof buf, len - off);

        model_fill(id, off, buf, n);
        crc = crc32c(crc, buf, n);
    }
    return crc;
}

/* The place of one that nobody may be answered any more, or a new one. */
static struct model_put *model_slot(struct model_key *k)
{
    for (uint32_t i = 0; i < k->put_n; i++)
        if (k->puts[i].refused)
            return &k->puts[i];
    if (k->put_n == k->put_cap) {
        k->put_cap = k->put_cap ? 2 * k->put_cap : 16;
        k->puts = realloc(k->puts, k->put_cap * sizeof *k->puts);
        MUST(k->puts);
    }
    return &k->puts[k->put_n++];
}

void model_fini(struct model *m)
{
    for (uint32_t key = 0; key < MODEL_KEYS; key++)
        free(m->keys[key].puts);
    *m = (struct model){0};
}

uint64_t model_put_begin(struct model *m, uint32_t key, uint64_t generation,
                         uint64_t len, uint32_t *crc_out)
{
    struct model_key *k = &m->keys[key];
    struct model_put *p = model_slot(k);

    *p = (struct model_put){.id = ++m->ids,
                            .len = len,
                            .generation = generation,
                            .crc = model_crc(m->ids, len)};
    m->put_bytes += len;
    *crc_out = p->crc;
    return p->id;
}

static struct model_put *model_find(struct model *m, uint32_t key, uint64_t id)
{
    struct model_key *k = &m->keys[key];

    for (uint32_t i = 0; i < k->put_n; i++)
        if (k->puts[i].id == id)
            return &k->puts[i];
    return NULL;
}

void model_put_committed(struct model *m, uint32_t key, uint64_t id,
                         uint64_t version)
{
    struct model_put *p = model_find(m, key, id);

    if (!p)
        return;
    MUST(!p->refused);
    MUST(p->version == 0 || p->version == version);
    p->version = version;
}

void model_put_refused(struct model *m, uint32_t key, uint64_t id)
{
    struct model_put *p = model_find(m, key, id);

    if (p)
        p->refused = true;
}

static bool model_bytes_are(const struct model_put *put, uint64_t off,
                            const uint8_t *p, uint64_t n)
{
    uint8_t want[4096];

    for (uint64_t done = 0; done < n; done += sizeof want) {
        uint64_t part = min_u64(sizeof want, n - done);

        model_fill(put->id, off + done, want, part);
        if (memcmp(want, p + done, part) != 0)
            return false;
    }
    return true;
}

void model_put_durable(struct model *m, uint32_t key, uint64_t id)
{
    struct model_put *p = model_find(m, key, id);

    if (!p || p->drop_call || m->keys[key].drops || m->drops)
        return;
    p->durable = true;
    p->put_bytes = m->put_bytes;
}

void model_drop_begin(struct model *m, uint32_t key, uint64_t call)
{
    m->keys[key].drops++;
    for (uint32_t i = 0; i < m->keys[key].put_n; i++) {
        struct model_put *p = &m->keys[key].puts[i];

        p->durable = false;
        p->drop_call = p->version ? call : UINT64_MAX;
    }
}

void model_drop_done(struct model *m, uint32_t key, uint64_t call, bool dropped,
                     uint64_t now_ns)
{
    MUST(m->keys[key].drops > 0);
    m->keys[key].drops--;
    for (uint32_t i = 0; i < m->keys[key].put_n; i++) {
        struct model_put *p = &m->keys[key].puts[i];

        if (!dropped || p->drop_call != call || p->dropped_ns)
            continue;
        p->dropped_ns = now_ns;
        m->dropped++;
    }
}

void model_drop_any_begin(struct model *m)
{
    m->drops++;
    for (uint32_t key = 0; key < MODEL_KEYS; key++)
        for (uint32_t i = 0; i < m->keys[key].put_n; i++) {
            struct model_put *p = &m->keys[key].puts[i];

            p->durable = false;
            p->drop_call = p->drop_call ? p->drop_call : UINT64_MAX;
        }
}

void model_drop_any_done(struct model *m)
{
    MUST(m->drops > 0);
    m->drops--;
}

void model_restarted(struct model *m)
{
    m->drops = 0;
    for (uint32_t key = 0; key < MODEL_KEYS; key++)
        m->keys[key].drops = 0;
}

uint64_t model_must_have(struct model *m, uint32_t key, uint64_t far)
{
    for (uint32_t i = 0; i < m->keys[key].put_n; i++) {
        const struct model_put *p = &m->keys[key].puts[i];

        if (!p->durable || m->put_bytes - p->put_bytes > far)
            continue;
        m->checked_durable++;
        return p->version;
    }
    return 0;
}

static bool model_explains(const struct model_put *put,
                           const struct model_seen *seen)
{
    return !put->refused && put->generation == seen->generation &&
           put->len == seen->len && (seen->no_crc || put->crc == seen->crc) &&
           (!put->version || put->version == seen->version) &&
           (!put->dropped_ns || put->dropped_ns > seen->begun_ns);
}

void model_check(struct model *m, const struct model_seen *seen, uint64_t off,
                 const uint8_t *p, uint64_t n)
{
    m->checked_gets++;
    m->checked_bytes += p ? n : 0;
    for (uint32_t i = 0; i < m->keys[seen->key].put_n; i++) {
        struct model_put *put = &m->keys[seen->key].puts[i];

        if (!model_explains(put, seen) ||
            (p && !model_bytes_are(put, off, p, n)))
            continue;
        if (!seen->no_crc) /* which of two of one length it is, a crc says */
            put->version = seen->version; /* known from here on */
        return;
    }
    fprintf(stderr,
            "model: key %u generation %llu version %llu len %llu crc %08x "
            "off %llu n %llu: no PUT explains this answer\n",
            seen->key, (unsigned long long)seen->generation,
            (unsigned long long)seen->version, (unsigned long long)seen->len,
            seen->crc, (unsigned long long)off, (unsigned long long)n);
    for (uint32_t i = 0; i < m->keys[seen->key].put_n; i++) {
        const struct model_put *put = &m->keys[seen->key].puts[i];

        fprintf(stderr,
                "  put %llu generation %llu version %llu len %llu crc "
                "%08x%s dropped at %llu ns, asked at %llu ns\n",
                (unsigned long long)put->id,
                (unsigned long long)put->generation,
                (unsigned long long)put->version, (unsigned long long)put->len,
                put->crc, put->refused ? " refused" : "",
                (unsigned long long)put->dropped_ns,
                (unsigned long long)seen->begun_ns);
    }
    abort();
}
