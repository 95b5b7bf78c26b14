/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages of the segment log, made and checked.
 *
 *   seal   the caller's fields + magic + crc of the whole page, the crc field
 *          itself counted as zero
 *   read   magic, store and generation first: not ours if they differ (MISS),
 *          ours and damaged if only one of them does; then the crc (else
 *          CORRUPT), then what the page says of itself (else CORRUPT)
 *
 * Invariants: 1. No byte is used as a length before it was compared with what
 * is left of the page. 2. seg_group_read accepts only headers whose records
 * fill the bytes in use exactly, so that seg_group_next needs no error. 3. An
 * absent scope and an all-zero one are the same, and so are attributes.
 *
 * Pages may lie anywhere: fields are copied in and out, never pointed at. Any
 * thread; nothing is kept, nothing fails but by its answer. */
#include "store/seg_format.h"

#include <string.h>

enum { SCOPE_BYTES = 16 };

#define SUPER_FLAGS ((uint32_t)SEG_CLEAN | SEG_RETIRED)

static const uint8_t zeros[SEG_PAGE];

static uint32_t page_crc(const uint8_t *page, size_t at)
{
    uint32_t crc = crc32c(0, page, at);

    crc = crc32c(crc, zeros, sizeof(crc));
    at += sizeof(crc);
    return crc32c(crc, page + at, SEG_PAGE - at);
}

static bool is_zero(const void *p, size_t n)
{
    return memcmp(p, zeros, n) == 0;
}

bool seg_meta_rich(const struct seg_meta *m)
{
    return m->parent_len > 0 ||
           (m->attr && !is_zero(m->attr, sizeof(*m->attr)));
}

/* ---- superblock and head page */

void seg_super_seal(struct seg_super *s)
{
    s->magic = SEG_MAGIC_SUPER;
    s->crc = 0;
    s->crc = crc32c(crc32c(0, s, sizeof(*s)), zeros, SEG_PAGE - sizeof(*s));
}

static bool super_sane(const struct seg_super *s)
{
    return s->segment_bytes >= SEG_BYTES_MIN &&
           s->segment_bytes <= SEG_BYTES_MAX &&
           s->segment_bytes % SEG_PAGE == 0 && s->segments > 0 &&
           s->bytes / SEG_PAGE <= UINT32_MAX && s->bytes >= SEG_DATA &&
           (s->bytes - SEG_DATA) / s->segment_bytes >= s->segments &&
           s->seq > 0 && s->next_generation > 0 &&
           memchr(s->writer, 0, sizeof(s->writer)) &&
           (s->check_generation == 0 || (s->check_segment < s->segments &&
                                         s->check_segments <= s->segments));
}

enum err seg_super_read(const void *page, struct seg_super *out)
{
    struct seg_super s;

    memcpy(&s, page, sizeof(s));
    if (s.magic != SEG_MAGIC_SUPER)
        return ERR_MISS;
    if (s.crc != page_crc(page, offsetof(struct seg_super, crc)))
        return ERR_CORRUPT;
    /* These stay where they are in every version: the words that refuse a
     * newer store are made of them. */
    if (s.major != SEG_MAJOR || (s.flags & ~SUPER_FLAGS)) {
        s.writer[sizeof(s.writer) - 1] = 0;
        *out = s;
        return ERR_UNSUPPORTED;
    }
    if (!super_sane(&s))
        return ERR_CORRUPT;
    *out = s;
    return OK;
}

void seg_head_seal(struct seg_head *h, void *page)
{
    h->magic = SEG_MAGIC_HEAD;
    h->crc = 0;
    memset(page, 0, SEG_PAGE);
    memcpy(page, h, sizeof(*h));
    h->crc = page_crc(page, offsetof(struct seg_head, crc));
    memcpy(page, h, sizeof(*h));
}

enum err seg_head_read(const void *page, const uint8_t uuid[16],
                       uint32_t segment, struct seg_head *out)
{
    const size_t crc_at = offsetof(struct seg_head, crc);
    struct seg_head h;
    bool is_head, is_ours;

    memcpy(&h, page, sizeof(h));
    is_head = h.magic == SEG_MAGIC_HEAD;
    is_ours = memcmp(h.uuid, uuid, sizeof(h.uuid)) == 0;
    /* A whole head page of another store is nobody's damage. */
    if (!is_ours && (!is_head || h.crc == page_crc(page, crc_at)))
        return ERR_MISS;
    if (!is_head || !is_ours || h.segment != segment || h.generation == 0 ||
        (h.kind != SEG_LOG && h.kind != SEG_CHECKPOINT && h.kind != SEG_TOMBS))
        h.kind = 0;
    if (!h.kind || h.crc != page_crc(page, crc_at)) {
        *out = (struct seg_head){.generation =
                                     h.kind == SEG_LOG ? h.generation : 0};
        return ERR_CORRUPT;
    }
    *out = h;
    return OK;
}

/* ---- group headers */

static void group_load(const void *page, struct seg_group *g)
{
    memcpy(g, page, sizeof(*g));
}

static void group_store(void *page, const struct seg_group *g)
{
    memcpy(page, g, sizeof(*g));
}

void seg_group_begin(void *page, enum seg_group_kind kind)
{
    struct seg_group g = {.kind = (uint16_t)kind, .bytes = sizeof(g)};

    memset(page, 0, SEG_PAGE);
    group_store(page, &g);
}

uint32_t seg_group_count(const void *page)
{
    struct seg_group g;

    group_load(page, &g);
    return g.record_n;
}

/* Bytes that a record takes in the header. */
static size_t record_size(const struct seg_record *r)
{
    size_t n = sizeof(*r) + r->key_len + r->route_len + r->parent_len;

    if (r->flags & SEG_HAS_SCOPE)
        n += SCOPE_BYTES;
    if (r->flags & SEG_HAS_ATTR)
        n += sizeof(struct wire_attr);
    return align_up(n, 8);
}

static uint8_t *append(uint8_t *to, const void *from, size_t n)
{
    if (n)
        memcpy(to, from, n);
    return to + n;
}

static void record_of(const struct seg_meta *m, struct seg_record *r)
{
    bool scope = m->key.scope && !is_zero(m->key.scope, SCOPE_BYTES);
    bool attr = m->attr && !is_zero(m->attr, sizeof(*m->attr));

    *r = (struct seg_record){
        .hash = m->key.hash,
        .version = m->version,
        .ns_generation = m->ns_generation,
        .ns = m->key.ns,
        .len = m->len,
        .crc = m->crc,
        .stored_len = m->len,
        .stored_crc = m->crc,
        .born_s = m->born_s,
        .expires_s = m->expires_s,
        .group = m->key.group,
        .key_len = m->key.key_len,
        .parent_len = m->parent_len,
        .cls = m->key.cls,
        .route_len = m->key.route_len,
        .flags =
            (uint8_t)((scope ? SEG_HAS_SCOPE : 0) | (attr ? SEG_HAS_ATTR : 0)),
    };
    r->bytes = (uint16_t)record_size(r);
}

bool seg_group_add(void *page, const struct seg_meta *m)
{
    struct seg_record r;
    struct seg_group g;
    uint8_t *to = page;

    MUST(m->key.key_len > 0 && m->key.key_len <= WIRE_KEY_MAX);
    MUST(m->key.route_len <= WIRE_ROUTE_MAX && m->parent_len <= WIRE_KEY_MAX);
    MUST(m->len > 0);
    group_load(page, &g);
    MUST(g.kind == SEG_GROUP_RECORDS);
    record_of(m, &r);
    if (g.record_n == SEG_RECORDS || r.bytes > SEG_PAGE - g.bytes)
        return false;
    to = append(to + g.bytes, &r, sizeof(r));
    if (r.flags & SEG_HAS_SCOPE)
        to = append(to, m->key.scope, SCOPE_BYTES);
    if (r.flags & SEG_HAS_ATTR)
        to = append(to, m->attr, sizeof(*m->attr));
    to = append(to, m->key.key, r.key_len);
    to = append(to, m->key.route, r.route_len);
    append(to, m->parent, r.parent_len);
    g.bytes = (uint16_t)(g.bytes + r.bytes);
    g.record_n++;
    group_store(page, &g);
    return true;
}

bool seg_group_add_tomb(void *page, const struct seg_tomb *t)
{
    struct seg_group g;

    group_load(page, &g);
    MUST(g.kind == SEG_GROUP_TOMBS);
    if (sizeof(*t) > (size_t)(SEG_PAGE - g.bytes))
        return false;
    append((uint8_t *)page + g.bytes, t, sizeof(*t));
    g.bytes = (uint16_t)(g.bytes + sizeof(*t));
    g.record_n++;
    group_store(page, &g);
    return true;
}

void seg_group_seal(void *page, const uint8_t uuid[16], uint64_t generation,
                    uint32_t at_page, uint32_t seq, uint32_t record_pages)
{
    struct seg_group g;

    group_load(page, &g);
    MUST(g.record_n > 0 && (g.kind == SEG_GROUP_TOMBS) == (record_pages == 0));
    g.magic = SEG_MAGIC_GROUP;
    g.generation = generation;
    memcpy(g.uuid, uuid, sizeof(g.uuid));
    g.page = at_page;
    g.seq = seq;
    g.pages = 1 + g.record_n * record_pages;
    g.record_pages = record_pages;
    g.crc = 0;
    group_store(page, &g);
    g.crc = page_crc(page, offsetof(struct seg_group, crc));
    group_store(page, &g);
}

/* The record at *at of the page, which has bytes in use. */
static bool record_sane(const uint8_t *page, size_t bytes, size_t *at,
                        uint32_t record_pages)
{
    struct seg_record r;

    if (sizeof(r) > bytes - *at)
        return false;
    memcpy(&r, page + *at, sizeof(r));
    if (r.key_len == 0 || r.key_len > WIRE_KEY_MAX ||
        r.route_len > WIRE_ROUTE_MAX || r.parent_len > WIRE_KEY_MAX ||
        (r.flags & ~(SEG_HAS_SCOPE | SEG_HAS_ATTR)) ||
        r.bytes != record_size(&r) || r.bytes > bytes - *at)
        return false;
    /* No codec is known yet: the bytes lie here as they were given. */
    if (r.codec != 0 || r.len == 0 || r.len != r.stored_len ||
        r.crc != r.stored_crc || seg_pages(r.stored_len) != record_pages)
        return false;
    *at += r.bytes;
    return true;
}

static bool group_sane(const uint8_t *page, const struct seg_group *g)
{
    size_t at = sizeof(*g);

    if (g->bytes < sizeof(*g) || g->bytes > SEG_PAGE || g->record_n == 0)
        return false;
    if (g->kind == SEG_GROUP_TOMBS)
        return g->pages == 1 && g->record_pages == 0 &&
               g->bytes == at + g->record_n * sizeof(struct seg_tomb);
    if (g->kind != SEG_GROUP_RECORDS || g->record_n > SEG_RECORDS ||
        g->record_pages == 0 ||
        g->pages != 1 + (uint64_t)g->record_n * g->record_pages)
        return false;
    for (uint32_t i = 0; i < g->record_n; i++)
        if (!record_sane(page, g->bytes, &at, g->record_pages))
            return false;
    return at == g->bytes;
}

enum err seg_group_read(const void *page, const uint8_t uuid[16],
                        uint64_t generation, uint32_t at_page, uint32_t seq,
                        struct seg_group *out)
{
    struct seg_group g;
    uint32_t same;
    bool whole;

    group_load(page, &g);
    if (!generation)
        generation = g.generation;
    same = (uint32_t)(g.magic == SEG_MAGIC_GROUP) +
           (uint32_t)(g.generation == generation) +
           (uint32_t)(memcmp(g.uuid, uuid, sizeof(g.uuid)) == 0);
    if (same < 2)
        return ERR_MISS;
    whole = g.crc == page_crc(page, offsetof(struct seg_group, crc));
    if (same < 3)
        return whole ? ERR_MISS : ERR_CORRUPT;
    if (!whole || g.page != at_page || (seq != UINT32_MAX && g.seq != seq) ||
        g.generation == 0 || !group_sane(page, &g))
        return ERR_CORRUPT;
    *out = g;
    return OK;
}

void seg_group_next(const void *page, uint32_t *cursor, struct seg_meta *m)
{
    const uint8_t *p = page;
    struct seg_record r;

    if (*cursor == 0)
        *cursor = sizeof(struct seg_group);
    p += *cursor;
    memcpy(&r, p, sizeof(r));
    *cursor += r.bytes;
    p += sizeof(r);
    *m = (struct seg_meta){
        .key = {.ns = r.ns,
                .group = r.group,
                .cls = r.cls,
                .route_len = r.route_len,
                .key_len = r.key_len,
                .scope = zeros,
                .hash = r.hash},
        .version = r.version,
        .ns_generation = r.ns_generation,
        .len = r.len,
        .crc = r.crc,
        .born_s = r.born_s,
        .expires_s = r.expires_s,
        .parent_len = r.parent_len,
    };
    if (r.flags & SEG_HAS_SCOPE) {
        m->key.scope = p;
        p += SCOPE_BYTES;
    }
    if (r.flags & SEG_HAS_ATTR) {
        memcpy(&m->attr_copy, p, sizeof(m->attr_copy));
        m->attr = &m->attr_copy;
        p += sizeof(m->attr_copy);
    }
    m->key.key = p;
    m->key.route = p + r.key_len;
    m->parent = r.parent_len ? p + r.key_len + r.route_len : NULL;
}

void seg_group_next_tomb(const void *page, uint32_t *cursor, struct seg_tomb *t)
{
    if (*cursor == 0)
        *cursor = sizeof(struct seg_group);
    memcpy(t, (const uint8_t *)page + *cursor, sizeof(*t));
    *cursor += (uint32_t)sizeof(*t);
}

/* ---- checkpoint pages */

static_assert(sizeof(struct seg_check_page) +
                      SEG_CHECK_RECORDS * sizeof(struct seg_check) <=
                  SEG_PAGE,
              "one page");

void seg_check_seal(void *page, uint64_t generation, uint32_t at_page,
                    uint32_t record_n)
{
    struct seg_check_page c = {
        .magic = SEG_MAGIC_CHECK,
        .generation = generation,
        .page = at_page,
        .record_n = (uint16_t)record_n,
    };

    MUST(record_n <= SEG_CHECK_RECORDS);
    memcpy(page, &c, sizeof(c));
    c.crc = page_crc(page, offsetof(struct seg_check_page, crc));
    memcpy(page, &c, sizeof(c));
}

enum err seg_check_read(const void *page, uint64_t generation, uint32_t at_page,
                        uint32_t *record_n_out)
{
    struct seg_check_page c;

    memcpy(&c, page, sizeof(c));
    if (c.magic != SEG_MAGIC_CHECK || c.generation != generation)
        return ERR_MISS;
    if (c.crc != page_crc(page, offsetof(struct seg_check_page, crc)) ||
        c.page != at_page || c.record_n > SEG_CHECK_RECORDS)
        return ERR_CORRUPT;
    *record_n_out = c.record_n;
    return OK;
}
