/* SPDX-License-Identifier: Apache-2.0
 *
 * Cells of key bytes in size classes over reserved space; see keys.h. */
#include "store/keys.h"

#include <string.h>

#include "base/fault.h"
#include "base/mem.h"

enum { CELL_SCOPE = 1, CELL_ATTR = 2, SCOPE_BYTES = 16 };

/* In memory as in the picture; a free cell's first word links the list. */
struct cell {
    uint16_t key_len, parent_len, group;
    uint8_t route_len, cls, size, flags;
    uint8_t bytes[];
};
static_assert(offsetof(struct cell, bytes) == 10, "keys.h draws it");

static const uint8_t no_scope[SCOPE_BYTES];

static uint32_t size_class(size_t bytes)
{
    size_t n = align_up(bytes, KEYS_GRAIN);

    return (uint32_t)(n <= 256 ? n / 16 : 16 + (n - 256 + 63) / 64);
}

static uint64_t class_bytes(uint32_t cls)
{
    return cls <= 16 ? cls * 16u : 256 + (cls - 16) * 64u;
}

static struct cell *cell_at(const struct keys *k, uint32_t ref)
{
    return (struct cell *)(void *)(k->space + (uint64_t)ref * KEYS_GRAIN);
}

enum err keys_init(struct keys *k, uint32_t cells)
{
    uint64_t most = (uint64_t)UINT32_MAX * KEYS_GRAIN;

    *k = (struct keys){0};
    k->bytes = min_u64(((uint64_t)cells + 1) * KEYS_CELL_MAX, most);
    k->space = mem_reserve(k->bytes);
    if (!k->space) {
        *k = (struct keys){0};
        return ERR_NO_MEMORY;
    }
    k->hi = KEYS_GRAIN; /* reference 0 is none */
    return OK;
}

void keys_fini(struct keys *k)
{
    if (k->space)
        mem_release(k->space, k->bytes);
    *k = (struct keys){0};
}

static uint32_t list_take(struct keys *k, uint32_t cls)
{
    uint32_t ref = k->free[cls];

    if (ref)
        memcpy(&k->free[cls], cell_at(k, ref), sizeof ref);
    return ref;
}

static uint32_t cell_take(struct keys *k, uint32_t *cls)
{
    uint32_t ref = list_take(k, *cls);

    if (!ref && k->hi + class_bytes(*cls) <= k->bytes) {
        ref = (uint32_t)(k->hi / KEYS_GRAIN);
        k->hi += class_bytes(*cls);
    }
    while (!ref && ++*cls < KEYS_CLASSES)
        ref = list_take(k, *cls);
    return ref;
}

static bool scoped(const struct store_key *key)
{
    return key->scope && memcmp(key->scope, no_scope, SCOPE_BYTES) != 0;
}

static uint8_t *put(uint8_t *to, const void *from, size_t n)
{
    if (n)
        memcpy(to, from, n);
    return to + n;
}

uint32_t keys_new(struct keys *k, const struct store_key *key,
                  const struct wire_attr *attr, const uint8_t *parent,
                  uint16_t parent_len)
{
    size_t scope = scoped(key) ? SCOPE_BYTES : 0;
    size_t attr_n = attr ? sizeof *attr : 0;
    uint32_t cls, ref;
    struct cell *c;
    uint8_t *at;

    MUST(key->key_len <= WIRE_KEY_MAX && parent_len <= WIRE_KEY_MAX);
    MUST(key->route_len <= WIRE_ROUTE_MAX);
    cls = size_class(offsetof(struct cell, bytes) + scope + attr_n +
                     key->key_len + key->route_len + parent_len);
    if (fault_here("keys_new") || !(ref = cell_take(k, &cls)))
        return 0;
    k->used += class_bytes(cls);
    c = cell_at(k, ref);
    *c = (struct cell){
        .key_len = key->key_len,
        .parent_len = parent_len,
        .group = key->group,
        .route_len = key->route_len,
        .cls = key->cls,
        .size = (uint8_t)cls,
        .flags = (uint8_t)((scope ? CELL_SCOPE : 0) | (attr ? CELL_ATTR : 0))};
    at = put(c->bytes, key->scope, scope);
    at = put(at, attr, attr_n);
    at = put(at, key->key, key->key_len);
    at = put(at, key->route, key->route_len);
    put(at, parent, parent_len);
    return ref;
}

void keys_del(struct keys *k, uint32_t ref)
{
    struct cell *c = cell_at(k, ref);
    uint32_t cls = c->size;

    MUST(ref && cls && cls < KEYS_CLASSES);
    k->used -= class_bytes(cls);
    *c = (struct cell){0};
    memcpy(c, &k->free[cls], sizeof ref);
    k->free[cls] = ref;
}

static size_t key_off(const struct cell *c)
{
    return (c->flags & CELL_SCOPE ? SCOPE_BYTES : 0u) +
           (c->flags & CELL_ATTR ? sizeof(struct wire_attr) : 0u);
}

bool keys_same(const struct keys *k, uint32_t ref, const struct store_key *key)
{
    const struct cell *c = cell_at(k, ref);
    const uint8_t *scope = c->flags & CELL_SCOPE ? c->bytes : no_scope;

    return c->key_len == key->key_len && c->group == key->group &&
           memcmp(c->bytes + key_off(c), key->key, key->key_len) == 0 &&
           memcmp(scope, key->scope ? key->scope : no_scope, SCOPE_BYTES) == 0;
}

void keys_view(const struct keys *k, uint32_t ref, struct keys_view *out)
{
    const struct cell *c = cell_at(k, ref);
    const uint8_t *key = c->bytes + key_off(c);

    *out = (struct keys_view){0};
    out->key = (struct store_key){
        .group = c->group,
        .cls = c->cls,
        .route_len = c->route_len,
        .key_len = c->key_len,
        .scope = c->flags & CELL_SCOPE ? c->bytes : no_scope,
        .key = key,
        .route = key + c->key_len,
    };
    out->parent = key + c->key_len + c->route_len;
    out->parent_len = c->parent_len;
    if (c->flags & CELL_ATTR)
        memcpy(&out->attr, key - sizeof out->attr, sizeof out->attr);
}
