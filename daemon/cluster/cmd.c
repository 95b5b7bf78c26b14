/* SPDX-License-Identifier: Apache-2.0
 *
 * Commands as bytes.
 *
 *   u8 version  u8 kind  u16 0  u64 id   members of the kind   u32 crc32c
 *
 * Decoding says yes only to what the limits of state.h allow and to nothing
 * that is longer than it tells; what a command means for the state it meets is
 * state_apply.c's business. */
#include <string.h>

#include "cluster/state.h"
#include "cluster/view_impl.h"

enum { CMD_VERSION = 1 };

static_assert(sizeof(struct slot_row) == 14, "rows are memory");
static_assert(sizeof(struct expert_place) == 16, "rows are memory");
static_assert(CMD_SLOTS_MAX * sizeof(struct slot_row) < CMD_BYTES_MAX, "fit");
static_assert(CMD_EXPERTS_MAX * sizeof(struct expert_place) + 64 <
                  CMD_BYTES_MAX,
              "fit");

/* ---- Writing ---- */

static void slots_put(struct bytes *b, const struct cmd *c)
{
    bytes_put_u64(b, c->base_epoch);
    bytes_put_u32(b, c->row_n);
    bytes_put(b, c->rows, c->row_n * sizeof(*c->rows));
}

static void experts_put(struct bytes *b, const struct cmd *c)
{
    bytes_put_u32(b, c->expert_n);
    bytes_put(b, c->experts, c->expert_n * sizeof(*c->experts));
}

static void tenant_put(struct bytes *b, const struct cmd *c)
{
    bytes_put_u8(b, c->flag);
    bytes_put_u64(b, c->tenant.id);
    bytes_put_u64(b, c->tenant.quota_bytes);
    bytes_put(b, c->tenant.key_hash, sizeof(c->tenant.key_hash));
    bytes_put_text(b, c->tenant.name);
}

static void generation_put(struct bytes *b, const struct cmd *c)
{
    bytes_put_u32(b, c->level);
    bytes_put_u8(b, (uint8_t)c->voter_n);
    bytes_put(b, c->voters, c->voter_n * sizeof(c->voters[0]));
}

static void members_put(struct bytes *b, const struct cmd *c)
{
    switch (c->kind) {
    case CMD_JOIN:
        bytes_put_node(b, &c->node);
        return;
    case CMD_SET_STATE:
        bytes_put_u16(b, c->index);
        bytes_put_u32(b, c->incarnation);
        bytes_put_u8(b, c->new_state);
        bytes_put_u8(b, c->flag);
        return;
    case CMD_SLOTS:
        slots_put(b, c);
        return;
    case CMD_EXPERTS:
        experts_put(b, c);
        return;
    case CMD_TENANT:
        tenant_put(b, c);
        return;
    case CMD_FLUSH:
        bytes_put_text(b, c->name);
        return;
    case CMD_FEATURE:
        bytes_put_u32(b, c->level);
        return;
    case CMD_GENERATION:
        generation_put(b, c);
        return;
    case CMD_VOTER:
        bytes_put_u16(b, c->index);
        bytes_put_u8(b, c->flag);
        return;
    }
    MUST(false); /* no kind of command */
}

enum err cmd_encode(const struct cmd *c, struct bytes *out)
{
    size_t start = out->len;

    if ((c->kind == CMD_SLOTS && c->row_n > CMD_SLOTS_MAX) ||
        (c->kind == CMD_EXPERTS && c->expert_n > CMD_EXPERTS_MAX) ||
        (c->kind == CMD_GENERATION && c->voter_n > VIEW_VOTERS_MAX))
        return ERR_LIMIT;
    bytes_put_u8(out, CMD_VERSION);
    bytes_put_u8(out, (uint8_t)c->kind);
    bytes_put_u16(out, 0);
    bytes_put_u64(out, c->id);
    members_put(out, c);
    bytes_seal(out, start);
    if (!out->bad)
        return OK;
    out->len = start;
    return ERR_NO_MEMORY;
}

/* ---- Reading ---- */

static bool get_flag(struct slice *s)
{
    uint8_t flag = bytes_get_u8(s);

    if (flag > 1)
        s->bad = true;
    return flag == 1;
}

/* n items into the scratch; NULL: no memory (scratch is bad), or s is. */
static void *get_items(struct slice *s, struct bytes *scratch, uint32_t n,
                       uint32_t most, size_t item)
{
    void *to = NULL;

    if (s->bad || n > most || n > s->len / item)
        s->bad = true;
    else
        to = bytes_grow(scratch, n * item);
    if (to)
        slice_copy(s, to, n * item);
    return to;
}

static void slots_get(struct slice *s, struct cmd *c, struct bytes *scratch)
{
    c->base_epoch = bytes_get_u64(s);
    c->row_n = bytes_get_u32(s);
    c->rows = get_items(s, scratch, c->row_n, CMD_SLOTS_MAX, sizeof(*c->rows));
}

static void experts_get(struct slice *s, struct cmd *c, struct bytes *scratch)
{
    c->expert_n = bytes_get_u32(s);
    c->experts = get_items(s, scratch, c->expert_n, CMD_EXPERTS_MAX,
                           sizeof(*c->experts));
}

static void tenant_get(struct slice *s, struct cmd *c)
{
    c->flag = get_flag(s);
    c->tenant.id = bytes_get_u64(s);
    c->tenant.quota_bytes = bytes_get_u64(s);
    slice_copy(s, c->tenant.key_hash, sizeof(c->tenant.key_hash));
    bytes_get_text(s, c->tenant.name, sizeof(c->tenant.name));
}

static void generation_get(struct slice *s, struct cmd *c)
{
    c->level = bytes_get_u32(s);
    c->voter_n = bytes_get_u8(s);
    if (c->voter_n > VIEW_VOTERS_MAX)
        s->bad = true;
    else
        slice_copy(s, c->voters, c->voter_n * sizeof(c->voters[0]));
}

static void set_state_get(struct slice *s, struct cmd *c)
{
    c->index = bytes_get_u16(s);
    c->incarnation = bytes_get_u32(s);
    c->new_state = bytes_get_u8(s);
    c->flag = get_flag(s);
    if (c->new_state > NODE_REMOVED)
        s->bad = true;
}

static void members_get(struct slice *s, struct cmd *c, struct bytes *scratch)
{
    switch (c->kind) {
    case CMD_JOIN:
        bytes_get_node(s, &c->node);
        return;
    case CMD_SET_STATE:
        set_state_get(s, c);
        return;
    case CMD_SLOTS:
        slots_get(s, c, scratch);
        return;
    case CMD_EXPERTS:
        experts_get(s, c, scratch);
        return;
    case CMD_TENANT:
        tenant_get(s, c);
        return;
    case CMD_FLUSH:
        bytes_get_text(s, c->name, sizeof(c->name));
        return;
    case CMD_FEATURE:
        c->level = bytes_get_u32(s);
        return;
    case CMD_GENERATION:
        generation_get(s, c);
        return;
    case CMD_VOTER:
        c->index = bytes_get_u16(s);
        c->flag = get_flag(s);
        return;
    }
    s->bad = true;
}

enum err cmd_decode(struct cmd *c, const uint8_t *p, size_t n,
                    struct bytes *scratch)
{
    struct cmd got = {0};
    struct slice s;
    uint8_t version;

    scratch->len = 0;
    scratch->bad = false;
    if (n > CMD_BYTES_MAX || !bytes_unseal(&s, p, n))
        return ERR_BAD_REQUEST;
    version = bytes_get_u8(&s);
    got.kind = (enum cmd_kind)bytes_get_u8(&s);
    if (bytes_get_u16(&s) || version != CMD_VERSION)
        return ERR_BAD_REQUEST;
    got.id = bytes_get_u64(&s);
    members_get(&s, &got, scratch);
    if (scratch->bad)
        return ERR_NO_MEMORY;
    if (!bytes_end(&s) || got.id == 0)
        return ERR_BAD_REQUEST;
    *c = got;
    return OK;
}
