/* SPDX-License-Identifier: Apache-2.0
 *
 * What recovery and pikv-fsck believe of a page. The first byte says what the
 * page is taken for; its magic and crc are set right, so that the fuzzer gets
 * behind them. Every byte that the parser hands out is read, and what was
 * accepted must go through the writer again and come back the same. */
#include <stdlib.h>
#include <string.h>

#include "store/seg_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t uuid[16] = "a store's uuid.";
static volatile uint8_t sink;

static void touch(const void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sink ^= ((const uint8_t *)p)[i];
}

static void fix(uint8_t *page, uint64_t magic, size_t crc_at)
{
    uint32_t crc = 0;

    memcpy(page, &magic, sizeof(magic));
    memcpy(page + crc_at, &crc, sizeof(crc));
    crc = crc32c(0, page, SEG_PAGE);
    memcpy(page + crc_at, &crc, sizeof(crc));
}

static void super_page(uint8_t *page)
{
    struct seg_super s;
    enum err e;

    fix(page, SEG_MAGIC_SUPER, offsetof(struct seg_super, crc));
    e = seg_super_read(page, &s);
    if (e == OK || e == ERR_UNSUPPORTED)
        touch(s.writer, strlen(s.writer));
    if (e == OK)
        MUST(SEG_DATA + s.segments * s.segment_bytes <= s.bytes);
}

static void records(const uint8_t *page, const struct seg_group *g)
{
    uint8_t again[SEG_PAGE];
    uint32_t at = 0, back = 0;
    struct seg_meta m, n;

    seg_group_begin(again, SEG_GROUP_RECORDS);
    for (uint32_t i = 0; i < g->record_n; i++) {
        seg_group_next(page, &at, &m);
        touch(m.key.key, m.key.key_len);
        touch(m.key.route, m.key.route_len);
        touch(m.key.scope, 16);
        touch(m.parent, m.parent_len);
        if (m.attr)
            touch(m.attr, sizeof(*m.attr));
        MUST(seg_group_add(again, &m));
        seg_group_next(again, &back, &n);
        MUST(m.version == n.version && m.len == n.len &&
             m.key.key_len == n.key.key_len &&
             memcmp(m.key.key, n.key.key, m.key.key_len) == 0 &&
             memcmp(m.key.scope, n.key.scope, 16) == 0 &&
             seg_meta_rich(&m) == seg_meta_rich(&n));
    }
    MUST(at == g->bytes);
}

static void group_page(uint8_t *page)
{
    struct seg_group g;
    uint32_t at = 0;

    memcpy(page + offsetof(struct seg_group, uuid), uuid, sizeof(uuid));
    fix(page, SEG_MAGIC_GROUP, offsetof(struct seg_group, crc));
    memcpy(&g, page, sizeof(g));
    if (seg_group_read(page, uuid, g.generation, g.page, g.seq, &g) != OK)
        return;
    if (g.kind == SEG_GROUP_RECORDS)
        records(page, &g);
    else
        for (uint32_t i = 0; i < g.record_n; i++) {
            struct seg_tomb t;

            seg_group_next_tomb(page, &at, &t);
            touch(&t, sizeof(t));
        }
}

static void check_page(uint8_t *page)
{
    struct seg_check_page c;
    uint32_t n = 0;

    fix(page, SEG_MAGIC_CHECK, offsetof(struct seg_check_page, crc));
    memcpy(&c, page, sizeof(c));
    if (seg_check_read(page, c.generation, c.page, &n) == OK)
        touch(page + sizeof(c), n * sizeof(struct seg_check));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *page = calloc(1, SEG_PAGE); /* of its own: overruns are seen */
    struct seg_head h;

    MUST(page);
    if (size > 1)
        memcpy(page, data + 1, size - 1 < SEG_PAGE ? size - 1 : SEG_PAGE);
    switch (size ? data[0] % 4 : 0) {
    case 0:
        group_page(page);
        break;
    case 1:
        super_page(page);
        break;
    case 2:
        check_page(page);
        break;
    case 3:
        memcpy(page + offsetof(struct seg_head, uuid), uuid, sizeof(uuid));
        fix(page, SEG_MAGIC_HEAD, offsetof(struct seg_head, crc));
        memcpy(&h, page, sizeof(h));
        if (seg_head_read(page, uuid, h.segment, &h) == OK)
            MUST(h.generation > 0);
        break;
    }
    free(page);
    return 0;
}
