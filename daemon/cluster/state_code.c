/* SPDX-License-Identifier: Apache-2.0
 *
 * The state as a snapshot.
 *
 *   u32 magic  u16 version  u16 0  u64 applied  u32 feature level
 *   u32 n, n bytes: the view (view_code.c)
 *   slot epochs: pairs of varints (run of equal ones, applied - epoch)
 *   u32 n placed experts, by model: u64 model, u32 n, n times
 *       u16 layer  u16 expert  u8 replica  u8 tier  u16 node
 *   u32 n tenants   u32 n names of flushed namespaces (counts: the view)
 *   u16 n commands seen  u16 next place; u64 id  u64 value  i32 err  words
 *   u32 crc32c of all before
 *
 * A restored state is the same state, to the last command that it remembers:
 * voters that restored and voters that did not answer alike. Reading builds a
 * second state and swaps it in when everything held. */
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"
#include "cluster/state_impl.h"

enum {
    STATE_MAGIC = 0x53564b50, /* "PKVS" */
    STATE_VERSION = 1,
    MODEL_BYTES = 12,
    EXPERT_BYTES = 8,
    TENANT_BYTES = 49, /* at least: without its name */
    SEEN_BYTES = 21,
};

/* ---- Varints: 7 bits a byte, the last one without the high bit ---- */

static void put_varint(struct bytes *b, uint64_t v)
{
    for (; v > 0x7f; v >>= 7)
        bytes_put_u8(b, (uint8_t)(v | 0x80));
    bytes_put_u8(b, (uint8_t)v);
}

static uint64_t get_varint(struct slice *s)
{
    uint64_t v = 0;

    for (uint32_t shift = 0; shift < 64; shift += 7) {
        uint8_t byte = bytes_get_u8(s);

        v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return v;
    }
    s->bad = true;
    return 0;
}

/* ---- Writing ---- */

static void put_epochs(const struct state *s, struct bytes *b)
{
    uint32_t n;

    for (uint32_t i = 0; i < WIRE_SLOTS; i += n) {
        n = 1;
        while (i + n < WIRE_SLOTS && s->slot_epoch[i + n] == s->slot_epoch[i])
            n++;
        put_varint(b, n);
        put_varint(b, s->applied - s->slot_epoch[i]);
    }
}

static void put_experts(const struct state *s, struct bytes *b)
{
    uint32_t n;

    bytes_put_u32(b, s->expert_n);
    for (uint32_t i = 0; i < s->expert_n; i += n) {
        const struct expert_place *p = &s->experts[i];

        n = 1;
        while (i + n < s->expert_n && p[n].model == p->model)
            n++;
        bytes_put_u64(b, p->model);
        bytes_put_u32(b, n);
        for (uint32_t k = 0; k < n; k++) {
            bytes_put_u16(b, p[k].layer);
            bytes_put_u16(b, p[k].expert);
            bytes_put_u8(b, p[k].replica);
            bytes_put_u8(b, p[k].tier);
            bytes_put_u16(b, p[k].node);
        }
    }
}

static void put_tenants(const struct state *s, struct bytes *b)
{
    bytes_put_u32(b, s->tenant_n);
    for (uint32_t i = 0; i < s->tenant_n; i++) {
        const struct tenant *t = &s->tenants[i];

        bytes_put_u64(b, t->id);
        bytes_put_u64(b, t->quota_bytes);
        bytes_put(b, t->key_hash, sizeof(t->key_hash));
        bytes_put_text(b, t->name);
    }
}

static void put_flushes(const struct state *s, struct bytes *b)
{
    bytes_put_u32(b, s->flush_n);
    for (uint32_t i = 0; i < s->flush_n; i++)
        bytes_put_text(b, s->flushes[i].name);
}

/* Places are taken in turn, so that those in use come first. */
static void put_seen(const struct state *s, struct bytes *b)
{
    bool all = s->seen[STATE_DEDUPE - 1].id;
    uint32_t n = all ? STATE_DEDUPE : s->seen_next;

    bytes_put_u16(b, (uint16_t)n);
    bytes_put_u16(b, (uint16_t)s->seen_next);
    for (uint32_t i = 0; i < n; i++) {
        bytes_put_u64(b, s->seen[i].id);
        bytes_put_u64(b, s->seen[i].value);
        bytes_put_u32(b, (uint32_t)s->seen[i].err);
        bytes_put_text(b, s->seen_why[i]);
    }
}

static void put_view(const struct state *s, struct bytes *b)
{
    size_t at = b->len;
    uint32_t n;

    bytes_put_u32(b, 0);
    view_encode(&s->view, b);
    if (b->bad)
        return;
    n = (uint32_t)(b->len - at - sizeof(n));
    memcpy(b->p + at, &n, sizeof(n));
}

void state_encode(const struct state *s, struct bytes *out)
{
    size_t start = out->len;

    bytes_put_u32(out, STATE_MAGIC);
    bytes_put_u16(out, STATE_VERSION);
    bytes_put_u16(out, 0);
    bytes_put_u64(out, s->applied);
    bytes_put_u32(out, s->feature_level);
    put_view(s, out);
    put_epochs(s, out);
    put_experts(s, out);
    put_tenants(s, out);
    put_flushes(s, out);
    put_seen(s, out);
    bytes_seal(out, start);
    DEBUG_CHECK(out->bad || out->len - start <= STATE_BYTES_MAX);
}

/* ---- Reading ---- */

static enum err get_view(struct slice *in, struct state *s)
{
    uint32_t n = bytes_get_u32(in);
    const uint8_t *p = slice_take(in, n);
    enum err e = p ? view_decode(&s->view, p, n) : ERR_BAD_REQUEST;

    if (e == OK &&
        (s->view.epoch > s->applied ||
         state_node_bytes(&s->view, NODE_NONE) > STATE_NODE_BYTES_MAX))
        e = ERR_BAD_REQUEST;
    if (e == OK)
        e = view_room(&s->view, NODES_MAX);
    if (e == OK)
        e = view_flush_room(&s->view, STATE_FLUSHES_MAX);
    return e;
}

static void get_epochs(struct slice *in, struct state *s)
{
    uint32_t at = 0;

    while (!in->bad && at < WIRE_SLOTS) {
        uint64_t n = get_varint(in), age = get_varint(in);

        if (n == 0 || n > WIRE_SLOTS - at || age > s->applied) {
            in->bad = true;
            return;
        }
        while (n--)
            s->slot_epoch[at++] = s->applied - age;
    }
}

static bool expert_fits(const struct state *s, uint32_t i)
{
    const struct expert_place *p = &s->experts[i];

    return p->tier <= 2 && p->node < s->view.node_n &&
           s->view.nodes[p->node].state != NODE_REMOVED &&
           (i == 0 || state_expert_order(p - 1, p) < 0);
}

static void get_model(struct slice *in, struct state *s, uint32_t *at,
                      uint32_t total)
{
    uint64_t model = bytes_get_u64(in);
    uint32_t n = bytes_get_u32(in);

    if (n == 0 || n > total - *at || n > in->len / EXPERT_BYTES)
        in->bad = true;
    while (!in->bad && n--) {
        struct expert_place *p = &s->experts[*at];

        p->model = model;
        p->layer = bytes_get_u16(in);
        p->expert = bytes_get_u16(in);
        p->replica = bytes_get_u8(in);
        p->tier = bytes_get_u8(in);
        p->node = bytes_get_u16(in);
        if (!expert_fits(s, *at))
            in->bad = true;
        ++*at;
    }
}

static void get_experts(struct slice *in, struct state *s)
{
    uint32_t n = bytes_get_u32(in), models = 0;

    if (n > STATE_EXPERTS_MAX)
        in->bad = true;
    while (!in->bad && s->expert_n < n) {
        get_model(in, s, &s->expert_n, n);
        if (++models > STATE_MODELS_MAX)
            in->bad = true;
    }
}

static void get_tenants(struct slice *in, struct state *s)
{
    uint32_t n = bytes_get_u32(in);

    if (n > STATE_TENANTS_MAX || n > in->len / TENANT_BYTES)
        in->bad = true;
    for (; !in->bad && s->tenant_n < n; s->tenant_n++) {
        struct tenant *t = &s->tenants[s->tenant_n];

        t->id = bytes_get_u64(in);
        t->quota_bytes = bytes_get_u64(in);
        slice_copy(in, t->key_hash, sizeof(t->key_hash));
        bytes_get_text(in, t->name, sizeof(t->name));
        if (t->id == 0)
            in->bad = true;
    }
}

static void get_flushes(struct slice *in, struct state *s)
{
    const struct view *v = &s->view;
    uint32_t n = bytes_get_u32(in);

    if (n != v->flush_n)
        in->bad = true;
    for (; !in->bad && s->flush_n < n; s->flush_n++) {
        struct flush *f = &s->flushes[s->flush_n];

        bytes_get_text(in, f->name, sizeof(f->name));
        f->count = v->flushes[s->flush_n].count;
        if (hash_64(0, f->name, strlen(f->name)) != v->flushes[s->flush_n].name)
            in->bad = true;
    }
}

static void get_seen(struct slice *in, struct state *s)
{
    uint32_t n = bytes_get_u16(in);

    s->seen_next = bytes_get_u16(in);
    if (n > STATE_DEDUPE || s->seen_next >= STATE_DEDUPE ||
        (n < STATE_DEDUPE && n != s->seen_next) || n > in->len / SEEN_BYTES)
        in->bad = true;
    for (uint32_t i = 0; !in->bad && i < n; i++) {
        s->seen[i].id = bytes_get_u64(in);
        s->seen[i].value = bytes_get_u64(in);
        s->seen[i].err = (int32_t)bytes_get_u32(in);
        bytes_get_text(in, s->seen_why[i], sizeof(s->seen_why[i]));
        if (s->seen[i].id == 0 || s->seen[i].err > 0)
            in->bad = true;
    }
}

/* into is a fresh state. */
static enum err read_all(struct state *into, const uint8_t *p, size_t n)
{
    struct slice in;
    uint32_t magic;
    uint16_t version;
    enum err e;

    if (n > STATE_BYTES_MAX || !bytes_unseal(&in, p, n))
        return ERR_BAD_REQUEST;
    magic = bytes_get_u32(&in);
    version = bytes_get_u16(&in);
    if (bytes_get_u16(&in) || magic != STATE_MAGIC)
        return ERR_BAD_REQUEST;
    if (version != STATE_VERSION)
        return ERR_BAD_VERSION;
    into->applied = bytes_get_u64(&in);
    into->feature_level = bytes_get_u32(&in);
    e = get_view(&in, into);
    if (e != OK)
        return e;
    get_epochs(&in, into);
    get_experts(&in, into);
    get_tenants(&in, into);
    get_flushes(&in, into);
    get_seen(&in, into);
    return bytes_end(&in) ? OK : ERR_BAD_REQUEST;
}

enum err state_decode(struct state *s, const uint8_t *p, size_t n)
{
    struct state *t = fault_here("state_decode") ? NULL : malloc(sizeof(*t));
    enum err e = t ? state_init(t, 0) : ERR_NO_MEMORY;

    if (e == OK) {
        e = read_all(t, p, n);
        if (e == OK) {
            state_fini(s);
            memcpy(s, t, sizeof(*s));
        } else {
            state_fini(t);
        }
    }
    free(t);
    return e;
}
