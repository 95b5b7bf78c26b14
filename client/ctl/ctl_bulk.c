/* SPDX-License-Identifier: Apache-2.0
 *
 * What export and import share: the memory of their batches, the namespace with
 * everything that makes it, and which answers are only a
 * matter of time. TIMEOUT is none of them: BULK_DEADLINE_US is long. */
#include <string.h>
#include <time.h>

#include "client/ctl/ctl_export.h"

enum { TRIES = 8, FIRST_WAIT_MS = 10, ALIGN = 64 };

uint8_t *bulk_room(struct ctl *c, struct bulk_mem *m, uint64_t n)
{
    uint64_t want = (n + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
    uint8_t *p;

    if (m->used == 0 && want > m->cap) {
        void *addr = NULL;

        bulk_free(c, m);
        want = max_u64(want, BULK_BYTES);
        if (pikv_mem_alloc(c->kv, want, &addr) != PIKV_OK)
            return NULL;
        m->p = addr;
        m->cap = want;
    }
    if (want > m->cap - m->used)
        return NULL;
    p = m->p + m->used;
    m->used += want;
    return p;
}

void bulk_free(struct ctl *c, struct bulk_mem *m)
{
    if (m->p)
        pikv_mem_free(c->kv, m->p);
    *m = (struct bulk_mem){0};
}

static void wait_ms(uint32_t ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

    nanosleep(&t, NULL);
}

bool bulk_again(int status, uint32_t *tries)
{
    bool pass =
        status == PIKV_BUSY || status == PIKV_RETRY || status == PIKV_PENDING;

    if (!pass || *tries == TRIES)
        return false;
    wait_ms((uint32_t)FIRST_WAIT_MS << (*tries)++);
    return true;
}

void bulk_deadline(struct ctl *c)
{
    if (!c->call.deadline_us)
        c->call.deadline_us = BULK_DEADLINE_US;
}

/* ---- the namespace ---- */

static void space_settings(struct pikv_namespace *d, const Pikv__Settings *s)
{
    if (!s)
        return;
    d->policy = s->policy;
    d->loans = s->loans;
    d->dram = s->dram;
    d->share = s->share;
    d->ttl_ms = s->ttl_ms;
    d->quota_bytes = s->quota_bytes;
}

static void space_fingerprint(struct pikv_namespace *d,
                              const Pikv__Fingerprint *f)
{
    if (!f)
        return;
    d->model = f->model;
    d->weights_version = f->weights_version;
    d->tokenizer_hash = f->tokenizer_hash;
    d->hash_seed = f->hash_seed;
    d->dtype = f->dtype;
    d->scale_format = f->scale_format;
    d->parallel_layout = f->parallel_layout;
}

static void space_take(struct bulk_space *out, const Pikv__NamespaceInfo *i)
{
    out->d.name = i->name;
    space_fingerprint(&out->d, i->fingerprint);
    space_settings(&out->d, i->settings);
    out->d.groups = out->groups;
    out->d.group_n = (uint32_t)min_u64(i->n_groups, BF_GROUPS);
    for (uint32_t n = 0; n < out->d.group_n; n++) {
        const Pikv__Group *g = i->groups[n];

        out->groups[n] = (struct pikv_group){
            .id = g->id,
            .kind = g->kind,
            .layers = g->layers,
            .kv_heads = g->kv_heads,
            .head_dim = g->head_dim,
            .tokens_per_block = g->tokens_per_block,
            .dtype = g->dtype,
            .order = g->order,
            .block_bytes = g->block_bytes,
        };
    }
}

int bulk_space_find(struct ctl *c, struct bulk_space *out, int *code_out)
{
    int s;

    *out = (struct bulk_space){0};
    s = link_find(c, link_namespace_name(c), code_out, &out->m);
    if (!s && !*code_out && out->m->n_namespaces != 1)
        *code_out = PIKV_NO_NAMESPACE;
    if (s || *code_out)
        bulk_space_fini(out);
    else
        space_take(out, out->m->namespaces[0]);
    return s;
}

void bulk_space_fini(struct bulk_space *s)
{
    link_free(s->m);
    *s = (struct bulk_space){0};
}
