/* SPDX-License-Identifier: Apache-2.0
 *
 * Deciding about namespaces: what may be opened, what differs, what a changed
 * setting may be. Every decision is a function of the registry, the request
 * and the configuration; see registry.h for the draft that it fills. The text
 * form is in registry_text.c.
 *
 * What comes from a client is checked field by field before it is compared, so
 * that a hostile name is refused by its own name and not by what it happens to
 * collide with. */
#include "server/registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"

enum err registry_init(struct registry *r, const struct config *cfg,
                       uint64_t wall_us)
{
    uint32_t max = (uint32_t)cfg->namespaces.max;
    struct registry_ns *ns = NULL;

    if (!fault_here("registry_init"))
        ns = calloc(max, sizeof(*ns));
    if (!ns)
        return ERR_NO_MEMORY;
    *r = (struct registry){
        .ns = ns,
        .max = max,
        .loan_pools = cfg->dram.loan_capacity_bytes > 0
                          ? (uint32_t)cfg->dram.loan_namespaces
                          : 0,
        .ssd = cfg->ssd.paths[0] != '\0',
        .cluster = cfg->cluster.enabled
                       ? hash_64(0, cfg->cluster.id, strlen(cfg->cluster.id))
                       : 0,
        .next_generation = max_u64(wall_us, 1),
    };
    MUST(r->loan_pools < STORE_POOLS);
    return OK;
}

void registry_fini(struct registry *r)
{
    free(r->ns);
    *r = (struct registry){0};
}

const struct registry_ns *registry_find(const struct registry *r,
                                        const char *name)
{
    for (uint32_t i = 0; i < r->n; i++)
        if (strcmp(r->ns[i].name, name) == 0)
            return &r->ns[i];
    return NULL;
}

const struct registry_ns *registry_find_id(const struct registry *r,
                                           uint32_t id)
{
    return id > 0 && id <= r->n ? &r->ns[id - 1] : NULL;
}

const struct registry_fp_field registry_fp_fields[] = {
#define FIELD(member)                                                          \
    {                                                                          \
#member, offsetof(struct registry_fingerprint, member),                \
            offsetof(Pikv__Fingerprint, member)                                \
    }
    FIELD(model),           FIELD(weights_version), FIELD(tokenizer_hash),
    FIELD(hash_seed),       FIELD(dtype),           FIELD(scale_format),
    FIELD(parallel_layout), {NULL, 0, 0},
#undef FIELD
};

/* ---- Text fields ---- */

/* Copies a text of printable ASCII; first is the least byte allowed. */
static enum err take_text(char *to, size_t cap, const char *from, char first,
                          const char *field, struct errmsg *m)
{
    size_t n = from ? strlen(from) : 0;

    if (n >= cap)
        return errmsg_set(m, ERR_LIMIT, "%s: %zu bytes; allowed: up to %zu",
                          field, n, cap - 1);
    for (size_t i = 0; i < n; i++)
        if (from[i] < first || from[i] > '~' || from[i] == '"' ||
            from[i] == '\\')
            return errmsg_set(m, ERR_BAD_REQUEST,
                              "%s: byte 0x%02x at %zu; allowed: printable "
                              "ASCII without%s quotes and backslashes",
                              field, (unsigned char)from[i], i,
                              first > ' ' ? " spaces," : "");
    memset(to, 0, cap);
    if (n)
        memcpy(to, from, n);
    return OK;
}

static enum err take_name(char to[REGISTRY_NAME], const char *from,
                          struct errmsg *m)
{
    if (!from || !*from)
        return errmsg_set(m, ERR_BAD_REQUEST,
                          "name: empty; allowed: 1 to %d bytes",
                          REGISTRY_NAME - 1);
    return take_text(to, REGISTRY_NAME, from, '!', "name", m);
}

static enum err take_fingerprint(struct registry_fingerprint *to,
                                 const Pikv__Fingerprint *from,
                                 struct errmsg *m)
{
    enum err e;

    const struct registry_fp_field *f;

    memset(to, 0, sizeof(*to));
    if (!from)
        return OK;
    for (f = registry_fp_fields; f->name; f++) {
        const char *text =
            *(char *const *)(const void *)((const char *)from + f->wire_off);

        e = take_text((char *)to + f->off, REGISTRY_TEXT, text, ' ', f->name,
                      m);
        if (e)
            return errmsg_wrap(m, e, "fingerprint");
    }
    return OK;
}

/* ---- Groups ---- */

static enum err take_group(struct registry_group *to, const Pikv__Group *from,
                           uint64_t block_max, struct errmsg *m)
{
    enum err e;

    if (from->id >= STORE_GROUPS)
        return errmsg_set(m, ERR_LIMIT, "id: %u; allowed: 0 to %d", from->id,
                          STORE_GROUPS - 1);
    if (from->block_bytes > block_max)
        return errmsg_set(m, ERR_LIMIT,
                          "block_bytes: %llu; allowed: up to %llu",
                          (unsigned long long)from->block_bytes,
                          (unsigned long long)block_max);
    *to = (struct registry_group){
        .id = from->id,
        .layers = from->layers,
        .kv_heads = from->kv_heads,
        .head_dim = from->head_dim,
        .tokens_per_block = from->tokens_per_block,
        .block_bytes = from->block_bytes,
    };
    e = take_text(to->kind, REGISTRY_WORD, from->kind, ' ', "kind", m);
    if (!e)
        e = take_text(to->dtype, REGISTRY_WORD, from->dtype, ' ', "dtype", m);
    if (!e)
        e = take_text(to->order, REGISTRY_WORD, from->order, ' ', "order", m);
    return e;
}

static enum err take_groups(struct registry_ns *to, const Pikv__Open *from,
                            uint64_t block_max, struct errmsg *m)
{
    enum err e;

    to->group_n = 0;
    if (from->n_groups > STORE_GROUPS)
        return errmsg_set(m, ERR_LIMIT, "groups: %zu; allowed: up to %d",
                          from->n_groups, STORE_GROUPS);
    for (uint32_t i = 0; i < from->n_groups; i++) {
        e = take_group(&to->groups[i], from->groups[i], block_max, m);
        if (e)
            return errmsg_wrap(m, e, "groups[%u]", i);
        for (uint32_t j = 0; j < i; j++)
            if (to->groups[j].id == to->groups[i].id)
                return errmsg_set(m, ERR_BAD_REQUEST,
                                  "groups[%u]: id: %u is also groups[%u]'s", i,
                                  to->groups[i].id, j);
    }
    to->group_n = (uint32_t)from->n_groups;
    return OK;
}

/* ---- Settings ---- */

const char *registry_loans_name(enum config_loans loans)
{
    switch (loans) {
    case LOANS_OFF:
        return "off";
    case LOANS_ON:
        return "on";
    case LOANS_ANY:
        return "any";
    }
    return "?";
}

static enum err take_policy(const struct evict_ops **to, const char *name,
                            struct errmsg *m)
{
    const struct evict_ops *ops = evict_by_name(name);
    char all[128] = "";
    size_t n = 0;

    if (ops) {
        *to = ops;
        return OK;
    }
    for (uint32_t i = 0; (ops = evict_by_idx(i)) && n < sizeof(all); i++)
        n += (size_t)snprintf(all + n, sizeof(all) - n, "%s%s", i ? ", " : "",
                              ops->name);
    return errmsg_set(m, ERR_BAD_REQUEST, "settings.policy: %.32s; allowed: %s",
                      name, all);
}

static enum err take_loans(enum config_loans *to, const char *name,
                           struct errmsg *m)
{
    for (enum config_loans l = LOANS_OFF; l <= LOANS_ANY; l++) {
        if (strcmp(name, registry_loans_name(l)) == 0) {
            *to = l;
            return OK;
        }
    }
    return errmsg_set(m, ERR_BAD_REQUEST,
                      "settings.loans: %.32s; allowed: off, on, any", name);
}

const char *registry_dram_name(enum config_tiering dram)
{
    switch (dram) {
    case TIERING_CACHE:
        return "cache";
    case TIERING_WRITE_BUFFER:
        return "write_buffer";
    }
    return "?";
}

static enum err take_dram(enum config_tiering *to, const char *name, bool ssd,
                          struct errmsg *m)
{
    if (strcmp(name, registry_dram_name(TIERING_WRITE_BUFFER)) == 0 && !ssd)
        return errmsg_set(m, ERR_UNSUPPORTED,
                          "settings.dram: write_buffer, but ssd.paths is "
                          "empty");
    for (enum config_tiering t = TIERING_CACHE; t <= TIERING_WRITE_BUFFER;
         t++) {
        if (strcmp(name, registry_dram_name(t)) == 0) {
            *to = t;
            return OK;
        }
    }
    return errmsg_set(m, ERR_BAD_REQUEST,
                      "settings.dram: %.32s; allowed: cache, write_buffer",
                      name);
}

/* The setting that later versions give more values. */
static enum err take_codec(const char *name, struct errmsg *m)
{
    if (*name && strcmp(name, "none") != 0)
        return errmsg_set(m, ERR_UNSUPPORTED,
                          "settings.codec: %.32s; allowed: none", name);
    return OK;
}

/* Lays what is given over what is there. */
static enum err take_settings(struct registry_settings *to,
                              const Pikv__Settings *from, bool ssd,
                              struct errmsg *m)
{
    enum err e = OK;

    if (!from)
        return OK;
    if (from->share > REGISTRY_SHARE_MAX)
        return errmsg_set(m, ERR_LIMIT, "settings.share: %u; allowed: 1 to %d",
                          from->share, REGISTRY_SHARE_MAX);
    if (from->quota_bytes > GIB(65536) && from->quota_bytes != UINT64_MAX)
        return errmsg_set(m, ERR_LIMIT,
                          "settings.quota_bytes: %llu; allowed: up to 64 TiB",
                          (unsigned long long)from->quota_bytes);
    e = take_codec(from->codec, m);
    if (!e && *from->policy)
        e = take_policy(&to->policy, from->policy, m);
    if (!e && *from->loans)
        e = take_loans(&to->loans, from->loans, m);
    if (!e && *from->dram)
        e = take_dram(&to->dram, from->dram, ssd, m);
    if (e)
        return e;
    if (from->share)
        to->share = from->share;
    if (from->quota_bytes)
        to->quota_bytes =
            from->quota_bytes == UINT64_MAX ? 0 : from->quota_bytes;
    if (from->ttl_ms)
        to->ttl_ms = from->ttl_ms == UINT32_MAX ? 0 : from->ttl_ms;
    return OK;
}

static void default_settings(struct registry_settings *s,
                             const struct config *cfg)
{
    const struct config_row *row = config_find("namespaces.policy");
    uint64_t ttl_ms = cfg->namespaces.ttl_us / 1000;

    MUST(row && cfg->namespaces.policy < row->word_n);
    *s = (struct registry_settings){
        .policy = evict_by_name(row->words[cfg->namespaces.policy]),
        .share = (uint32_t)min_u64(cfg->namespaces.share, REGISTRY_SHARE_MAX),
        .loans = (enum config_loans)cfg->namespaces.loans,
        .ttl_ms = (uint32_t)min_u64(ttl_ms, UINT32_MAX - 1),
        .quota_bytes = cfg->namespaces.quota_bytes,
        .dram = (enum config_tiering)cfg->namespaces.dram,
    };
    MUST(s->policy);
}

/* ---- Comparing ---- */

static enum err mismatch_text(struct registry_mismatch *mm, const char *field,
                              const char *have, const char *want)
{
    snprintf(mm->field, sizeof(mm->field), "%s", field);
    snprintf(mm->have, sizeof(mm->have), "%s", have);
    snprintf(mm->want, sizeof(mm->want), "%s", want);
    return ERR_MISMATCH;
}

static enum err mismatch_u64(struct registry_mismatch *mm, const char *field,
                             uint64_t have, uint64_t want)
{
    char h[24], w[24];

    snprintf(h, sizeof(h), "%llu", (unsigned long long)have);
    snprintf(w, sizeof(w), "%llu", (unsigned long long)want);
    return mismatch_text(mm, field, h, w);
}

static enum err compare_fingerprint(const struct registry_fingerprint *have,
                                    const struct registry_fingerprint *want,
                                    struct registry_mismatch *mm)
{
    const struct registry_fp_field *f;

    for (f = registry_fp_fields; f->name; f++) {
        const char *h = registry_fp_text(have, f);
        const char *w = registry_fp_text(want, f);

        if (strcmp(h, w) != 0)
            return mismatch_text(mm, f->name, h, w);
    }
    return OK;
}

static enum err compare_group(const struct registry_group *have,
                              const struct registry_group *want,
                              struct registry_mismatch *mm)
{
    const struct {
        const char *name;
        uint64_t have, want;
    } numbers[] = {
        {"id", have->id, want->id},
        {"layers", have->layers, want->layers},
        {"kv_heads", have->kv_heads, want->kv_heads},
        {"head_dim", have->head_dim, want->head_dim},
        {"tokens_per_block", have->tokens_per_block, want->tokens_per_block},
        {"block_bytes", have->block_bytes, want->block_bytes},
    };

    if (strcmp(have->kind, want->kind) != 0)
        return mismatch_text(mm, "kind", have->kind, want->kind);
    if (strcmp(have->dtype, want->dtype) != 0)
        return mismatch_text(mm, "dtype", have->dtype, want->dtype);
    if (strcmp(have->order, want->order) != 0)
        return mismatch_text(mm, "order", have->order, want->order);
    for (size_t i = 0; i < countof(numbers); i++)
        if (numbers[i].have != numbers[i].want)
            return mismatch_u64(mm, numbers[i].name, numbers[i].have,
                                numbers[i].want);
    return OK;
}

static enum err compare_groups(const struct registry_ns *have,
                               const struct registry_ns *want,
                               struct registry_mismatch *mm)
{
    if (have->group_n != want->group_n)
        return mismatch_u64(mm, "groups", have->group_n, want->group_n);
    for (uint32_t i = 0; i < have->group_n; i++) {
        enum err e = compare_group(&have->groups[i], &want->groups[i], mm);
        char field[sizeof(mm->field)];

        if (e) {
            snprintf(field, sizeof(field), "groups[%u].%.40s", i, mm->field);
            memcpy(mm->field, field, sizeof(field));
            return e;
        }
    }
    return OK;
}

/* ---- Open ---- */

/* The loan pool for a new namespace: the first that nobody has. */
static enum err open_pool(const struct registry *r, struct registry_ns *draft,
                          struct errmsg *m)
{
    uint32_t used = 0;

    draft->pool = 0;
    if (draft->settings.loans == LOANS_OFF)
        return OK;
    if (r->loan_pools == 0)
        return errmsg_set(m, ERR_UNSUPPORTED,
                          "settings.loans: %s, but dram.loan_capacity is 0",
                          registry_loans_name(draft->settings.loans));
    for (uint32_t i = 0; i < r->n; i++)
        used |= 1u << r->ns[i].pool;
    for (uint32_t pool = 1; pool <= r->loan_pools; pool++) {
        if (!(used & 1u << pool)) {
            draft->pool = pool;
            return OK;
        }
    }
    return errmsg_set(m, ERR_UNSUPPORTED,
                      "settings.loans: %u namespaces have loans already "
                      "(dram.loan_namespaces)",
                      r->loan_pools);
}

static enum err open_new(const struct registry *r, const struct config *cfg,
                         const Pikv__Open *want, struct registry_ns *draft,
                         struct errmsg *m)
{
    enum err e;

    if (!want->create)
        return errmsg_set(m, ERR_NO_NAMESPACE, "name: no namespace %s",
                          draft->name);
    if (!cfg->namespaces.create)
        return errmsg_set(m, ERR_DENIED,
                          "name: no namespace %s, and namespaces.create is "
                          "false",
                          draft->name);
    if (r->n == r->max)
        return errmsg_set(m, ERR_LIMIT,
                          "name: there are %u namespaces already "
                          "(namespaces.max)",
                          r->n);
    default_settings(&draft->settings, cfg);
    e = take_settings(&draft->settings, want->settings, r->ssd, m);
    if (e)
        return e;
    draft->id = r->n + 1;
    draft->generation = r->next_generation;
    return open_pool(r, draft, m);
}

static enum err open_known(const struct registry_ns *have,
                           const Pikv__Open *want, struct registry_ns *draft,
                           struct registry_mismatch *mm)
{
    enum err e = OK;

    if (want->fingerprint || want->create)
        e = compare_fingerprint(&have->fingerprint, &draft->fingerprint, mm);
    if (!e && want->n_groups)
        e = compare_groups(have, draft, mm);
    if (!e)
        *draft = *have;
    return e;
}

static void draft_secrets(const struct registry *r, struct registry_ns *draft,
                          uint64_t (*random)(void *), void *arg)
{
    for (size_t i = 0; i < sizeof(draft->salt); i += sizeof(uint64_t)) {
        uint64_t v = random(arg);

        memcpy(draft->salt + i, &v, sizeof(v));
    }
    draft->slot_seed =
        r->cluster ? registry_seed(r, draft->name) : random(arg);
}

enum err registry_open(const struct registry *r, const struct config *cfg,
                       const Pikv__Open *want, uint64_t (*random)(void *),
                       void *arg, struct registry_ns *draft_out,
                       bool *created_out, struct registry_mismatch *mismatch,
                       struct errmsg *m)
{
    const struct registry_ns *have;
    struct registry_ns draft = {0};
    enum err e;

    e = take_name(draft.name, want->name, m);
    if (!e)
        e = take_fingerprint(&draft.fingerprint, want->fingerprint, m);
    if (!e)
        e = take_groups(&draft, want, cfg->limits.block_bytes, m);
    if (e)
        return e;
    have = registry_find(r, draft.name);
    if (have)
        e = open_known(have, want, &draft, mismatch);
    else
        e = open_new(r, cfg, want, &draft, m);
    if (e == ERR_MISMATCH)
        return errmsg_set(m, e,
                          "%s: the namespace has \"%s\", asked for \"%s\"",
                          mismatch->field, mismatch->have, mismatch->want);
    if (e)
        return e;
    if (!have)
        draft_secrets(r, &draft, random, arg);
    *draft_out = draft;
    *created_out = !have;
    return OK;
}

/* ---- Change ---- */

enum err registry_change(const struct registry *r, const char *name,
                         const Pikv__Settings *want,
                         struct registry_ns *draft_out, struct errmsg *m)
{
    const struct registry_ns *have = registry_find(r, name);
    struct registry_ns draft;
    enum err e;

    if (!have)
        return errmsg_set(m, ERR_NO_NAMESPACE, "name: no such namespace");
    draft = *have;
    e = take_settings(&draft.settings, want, r->ssd, m);
    if (e)
        return e;
    /* Its blocks lie in the shared memory, which must never be lent. */
    if (draft.settings.loans != LOANS_OFF && draft.pool == 0 &&
        draft.settings.loans != have->settings.loans)
        return errmsg_set(m, ERR_UNSUPPORTED,
                          "settings.loans: %s was made without loans; make a "
                          "new namespace with them",
                          have->name);
    *draft_out = draft;
    return OK;
}

void registry_bump(const struct registry *r, const struct registry_ns *ns,
                   struct registry_ns *draft_out)
{
    MUST(ns->id > 0 && ns->id <= r->n);
    *draft_out = *ns;
    draft_out->generation = r->next_generation;
}

void registry_put(struct registry *r, const struct registry_ns *draft)
{
    MUST(draft->id > 0 && draft->id <= r->n + 1);
    MUST(draft->id <= r->max);
    MUST(draft->generation <= r->next_generation);
    if (draft->id > r->n)
        r->n = draft->id;
    if (draft->generation == r->next_generation)
        r->next_generation++;
    r->ns[draft->id - 1] = *draft;
}
