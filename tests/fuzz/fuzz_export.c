/* SPDX-License-Identifier: Apache-2.0
 *
 * What `pikvctl import` believes of a file. The first byte is a set of
 * switches: 1 sets the checksums of head, records and end right before they are
 * read, so that the fuzzer gets behind them; 2 gives the bytes in small pieces.
 * What was accepted is written again and must come back the same. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "client/ctl/block_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FIX = 1, PIECES = 2 };

struct source {
    const uint8_t *p;
    size_t n, at;
};

static ssize_t source_read(void *arg, void *to, size_t n)
{
    struct source *s = arg;

    n = n < s->n - s->at ? n : s->n - s->at;
    if (n)
        memcpy(to, s->p + s->at, n);
    s->at += n;
    return (ssize_t)n;
}

/* ---- checksums as they should be ---- */

static void fix_head(uint8_t *p, size_t n)
{
    struct bf_head h;
    size_t end;

    memcpy(&h, p, sizeof(h));
    h.crc = 0;
    end = sizeof(h) + (h.json_len < n - sizeof(h) ? h.json_len : 0);
    memcpy(p, &h, sizeof(h));
    h.crc = crc32c(0, p, end);
    memcpy(p, &h, sizeof(h));
}

/* Bytes of the record, its names and its bytes; 0: no more. */
static size_t fix_rec(uint8_t *p, size_t n, uint32_t *all)
{
    struct bf_rec r;
    size_t names, whole;

    memcpy(&r, p, sizeof(r));
    names = bf_rec_bytes(&r);
    if (names > n || r.len > n - names)
        return 0;
    whole = names + r.len;
    r.bytes_crc = crc32c(0, p + names, r.len);
    r.crc = 0;
    memcpy(p, &r, sizeof(r));
    r.crc = crc32c(0, p, names);
    memcpy(p, &r, sizeof(r));
    *all = crc32c(*all, &r.crc, sizeof(r.crc));
    return whole;
}

static void fix_end(uint8_t *p, uint64_t blocks, uint64_t bytes, uint32_t all)
{
    struct bf_end e;

    memcpy(&e, p, sizeof(e));
    e.blocks = blocks;
    e.bytes = bytes;
    e.all_crc = all;
    e.crc = 0;
    e.crc = crc32c(0, &e, sizeof(e));
    memcpy(p, &e, sizeof(e));
}

static void fix(uint8_t *p, size_t n)
{
    struct bf_head h;
    uint64_t blocks = 0, bytes = 0;
    uint32_t all;
    size_t at;

    if (n < sizeof(h))
        return;
    fix_head(p, n);
    memcpy(&h, p, sizeof(h));
    all = crc32c(0, &h.crc, sizeof(h.crc));
    at = sizeof(h) + (size_t)h.json_len;
    while (at < n && n - at >= BF_REC) {
        struct bf_rec r;
        size_t took;

        memcpy(&r, p + at, sizeof(r));
        if (memcmp(p + at, "TAIL", 4) == 0) {
            fix_end(p + at, blocks, bytes, all);
            return;
        }
        took = fix_rec(p + at, n - at, &all);
        if (!took)
            return;
        at += took;
        blocks++;
        bytes += r.len;
    }
}

/* ---- there and back ---- */

static void put_is_sane(const struct bf_reader *r)
{
    struct pikv_put put;

    bf_put(&r->rec, r->names, &put);
    MUST(put.key.key.len >= 1 && put.key.key.len <= BF_KEY_MAX);
    MUST(put.key.route.len <= BF_ROUTE_MAX && put.parent.len <= BF_KEY_MAX);
    MUST(put.key.cls <= 2 && put.key.group < BF_GROUPS);
    MUST((const uint8_t *)put.parent.p + put.parent.len <=
         r->names + BF_NAMES_MAX);
}

static void space_again(const struct bf_space *s)
{
    char why[BF_WHY];
    const char *a, *b;
    struct bf_space again;
    json_t *json = bf_space_json(&s->d, "fuzz");

    MUST(json);
    MUST(bf_space_read(&again, json, why));
    MUST(!bf_space_differs(&s->d, &again.d, &a, &b));
    MUST(again.d.group_n == s->d.group_n);
    bf_space_fini(&again);
}

static enum bf_next take_bytes(struct bf_reader *r, size_t most)
{
    uint8_t piece[4096];
    enum bf_next got = BF_BLOCK;

    while (r->left && got == BF_BLOCK)
        got = bf_bytes(r, piece, r->left < most ? r->left : most);
    return got;
}

static void read_all(struct source *s, size_t most)
{
    struct bf_reader *r = malloc(sizeof(*r));
    struct bf_writer w = {0};
    struct bf_space space;
    enum bf_next got;

    MUST(r);
    if (bf_open(r, source_read, s, &space) != BF_BLOCK) {
        MUST(r->why[0]);
        free(r);
        return;
    }
    space_again(&space);
    w.all_crc = r->all_crc;
    while ((got = bf_next(r)) == BF_BLOCK) {
        uint8_t again[sizeof(struct bf_rec) + BF_NAMES_MAX];
        struct bf_rec rec = r->rec;

        put_is_sane(r);
        memcpy(again, &rec, sizeof(rec));
        memcpy(again + sizeof(rec), r->names, BF_NAMES_MAX);
        bf_seal(&w, (struct bf_rec *)(void *)again);
        MUST(memcmp(again, &rec, sizeof(rec)) == 0);
        got = take_bytes(r, most);
        if (got != BF_BLOCK)
            break;
    }
    MUST(got != BF_ERROR);
    MUST(got != BF_BAD || r->why[0]);
    MUST(got != BF_OVER || (w.blocks == r->end.blocks && s->at == s->n));
    bf_space_fini(&space);
    free(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t what = size ? data[0] : 0;
    size_t n = size ? size - 1 : 0;
    uint8_t *copy = malloc(n + 1); /* of its own: overruns are seen */
    struct source s = {copy, n, 0};

    MUST(copy);
    if (n)
        memcpy(copy, data + 1, n);
    if (what & FIX)
        fix(copy, n);
    read_all(&s, what & PIECES ? 7 : 4096);
    free(copy);
    return 0;
}
