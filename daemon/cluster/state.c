/* SPDX-License-Identifier: Apache-2.0
 *
 * The state's room, its memory of commands, its digest. All arrays have their
 * largest size from the start, so that applying never asks for memory; pages
 * that are not used are never touched.
 *
 *   seen[]   a ring: the newest STATE_DEDUPE ids with their answers, refusals
 *            with their words; id 0 is an unused place */
#include "cluster/state.h"

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/hash.h"
#include "cluster/state_impl.h"

enum { SCRATCH = CMD_EXPERTS_MAX * sizeof(struct expert_place) };
static_assert(SCRATCH >= CMD_SLOTS_MAX * sizeof(struct slot_row), "the larger");

static void *room(size_t n, size_t item)
{
    return fault_here("state_room") ? NULL : calloc(n, item);
}

enum err state_init(struct state *s, uint64_t cluster)
{
    enum err e;

    memset(s, 0, sizeof(*s));
    e = view_init(&s->view);
    if (e == OK)
        e = view_room(&s->view, NODES_MAX);
    if (e == OK)
        e = view_flush_room(&s->view, STATE_FLUSHES_MAX);
    if (e == OK) {
        s->experts = room(STATE_EXPERTS_MAX, sizeof(*s->experts));
        s->experts_next = room(STATE_EXPERTS_MAX, sizeof(*s->experts));
        s->flushes = room(STATE_FLUSHES_MAX, sizeof(*s->flushes));
        s->slot_epoch = room(WIRE_SLOTS, sizeof(*s->slot_epoch));
        s->seen_why = room(STATE_DEDUPE, sizeof(*s->seen_why));
        if (!s->experts || !s->experts_next || !s->flushes || !s->slot_epoch ||
            !s->seen_why || !bytes_grow(&s->scratch, SCRATCH))
            e = ERR_NO_MEMORY;
    }
    if (e != OK) {
        state_fini(s);
        return e;
    }
    s->view.cluster = cluster;
    s->view.generation = 1;
    return OK;
}

void state_fini(struct state *s)
{
    view_fini(&s->view);
    free(s->experts);
    free(s->experts_next);
    free(s->flushes);
    free(s->slot_epoch);
    free(s->seen_why);
    bytes_fini(&s->scratch);
    memset(s, 0, sizeof(*s));
}

/* ---- Commands seen ---- */

bool state_seen(const struct state *s, uint64_t id, struct answer *a)
{
    for (uint32_t i = 0; i < STATE_DEDUPE; i++) {
        if (s->seen[i].id != id)
            continue;
        a->err = (enum err)s->seen[i].err;
        a->value = s->seen[i].value;
        memcpy(a->msg.text, s->seen_why[i], sizeof(s->seen_why[i]));
        return true;
    }
    return false;
}

void state_see(struct state *s, uint64_t id, const struct answer *a)
{
    uint32_t i = s->seen_next;

    s->seen[i].id = id;
    s->seen[i].value = a->value;
    s->seen[i].err = a->err;
    memset(s->seen_why[i], 0, sizeof(s->seen_why[i]));
    memcpy(s->seen_why[i], a->msg.text,
           strnlen(a->msg.text, sizeof(s->seen_why[i]) - 1));
    s->seen_next = (i + 1) % STATE_DEDUPE;
}

/* ---- Digest ---- */

static uint64_t digest_seen(const struct state *s, uint64_t h)
{
    for (uint32_t i = 0; i < STATE_DEDUPE; i++) {
        const uint64_t w[] = {s->seen[i].id, s->seen[i].value,
                              (uint64_t)(int64_t)s->seen[i].err};

        h = hash_64(h, w, sizeof(w));
        if (w[0] && w[2])
            h = hash_64(h, s->seen_why[i], strlen(s->seen_why[i]));
    }
    return h;
}

/* The structs hashed as memory have no padding, and texts are filled up with
 * zeros where they come in. */
uint64_t state_digest(const struct state *s)
{
    const uint64_t head[] = {
        view_digest(&s->view), s->feature_level, s->expert_n,
        s->tenant_n,           s->flush_n,       s->applied,
        s->seen_next};
    uint64_t h = hash_64(0, head, sizeof(head));

    static_assert(sizeof(struct tenant) == 112, "no padding");
    static_assert(sizeof(struct flush) == 72, "no padding");
    h = hash_64(h, s->experts, s->expert_n * sizeof(*s->experts));
    h = hash_64(h, s->tenants, s->tenant_n * sizeof(*s->tenants));
    h = hash_64(h, s->flushes, s->flush_n * sizeof(*s->flushes));
    h = hash_64(h, s->slot_epoch, WIRE_SLOTS * sizeof(*s->slot_epoch));
    return digest_seen(s, h);
}
