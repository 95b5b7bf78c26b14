/* SPDX-License-Identifier: Apache-2.0
 *
 * Records of an exported file: sealing them and reading them back. The reader
 * takes one record after the other,
 *
 *     bf_open -> bf_next -> BF_BLOCK -> bf_bytes ... -> bf_next -> ... BF_OVER
 *
 * and needs no memory that grows with what the file claims: names have a
 * largest length, bytes are taken in pieces of the caller's choice. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "client/ctl/block_file.h"

enum { MAGIC_BLOCK = 0x4b434c42, MAGIC_END = 0x4c494154 };
enum { CLASSES = 3 };

static const uint8_t magic[8] = {'P', 'I', 'K', 'V', 'B', 'L', 'K', 'S'};

static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

/* ---- checksums ---- */

static uint32_t head_crc(const struct bf_head *head, const void *json)
{
    struct bf_head h = *head;

    h.crc = 0;
    return crc32c(crc32c(0, &h, sizeof(h)), json, h.json_len);
}

size_t bf_rec_bytes(const struct bf_rec *rec)
{
    return sizeof(*rec) + rec->key_len + rec->route_len + rec->parent_len;
}

static uint32_t rec_crc(const struct bf_rec *rec, const void *names)
{
    struct bf_rec r = *rec;

    r.crc = 0;
    return crc32c(crc32c(0, &r, sizeof(r)), names,
                  bf_rec_bytes(rec) - sizeof(r));
}

static uint32_t end_crc(const struct bf_end *end)
{
    struct bf_end e = *end;

    e.crc = 0;
    return crc32c(0, &e, sizeof(e));
}

/* ---- writing ---- */

uint8_t *bf_begin(struct bf_writer *w, const json_t *space, size_t *n_out)
{
    char *text = json_dumps(space, JSON_INDENT(1));
    size_t n = text ? strlen(text) : 0;
    struct bf_head h = {.version = BF_VERSION, .json_len = (uint32_t)n};
    uint8_t *out = NULL;

    *w = (struct bf_writer){0};
    if (text && n <= BF_JSON_MAX)
        out = malloc(sizeof(h) + n);
    if (out) {
        memcpy(h.magic, magic, sizeof(magic));
        h.crc = head_crc(&h, text);
        w->all_crc = crc32c(0, &h.crc, sizeof(h.crc));
        memcpy(out, &h, sizeof(h));
        memcpy(out + sizeof(h), text, n);
        *n_out = sizeof(h) + n;
    }
    free(text);
    return out;
}

void bf_seal(struct bf_writer *w, struct bf_rec *rec)
{
    rec->magic = MAGIC_BLOCK;
    rec->crc = rec_crc(rec, rec + 1);
    w->all_crc = crc32c(w->all_crc, &rec->crc, sizeof(rec->crc));
    w->blocks++;
    w->bytes += rec->len;
}

void bf_finish(struct bf_writer *w, struct bf_end *out)
{
    *out = (struct bf_end){
        .magic = MAGIC_END,
        .blocks = w->blocks,
        .bytes = w->bytes,
        .lost = w->lost,
        .all_crc = w->all_crc,
    };
    out->crc = end_crc(out);
}

/* ---- reading ---- */

static enum bf_next bad(struct bf_reader *r, const char *fmt, ...)
    printf_like(2, 3);

static enum bf_next bad(struct bf_reader *r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(r->why, sizeof(r->why), fmt, ap);
    va_end(ap);
    return BF_BAD;
}

/* BF_BLOCK: all n bytes are there. */
static enum bf_next take(struct bf_reader *r, void *to, size_t n)
{
    ssize_t got = r->read(r->arg, to, n);

    if (got < 0)
        return BF_ERROR;
    r->at += (uint64_t)got;
    if ((size_t)got == n)
        return BF_BLOCK;
    return bad(r, "it was cut after %llu bytes", (unsigned long long)r->at);
}

static enum bf_next head_check(struct bf_reader *r, const struct bf_head *h)
{
    if (memcmp(h->magic, magic, sizeof(magic)) != 0)
        return bad(r, "not a file of pikvctl export");
    if (h->version != BF_VERSION)
        return bad(r, "its version is %u, this pikvctl reads %u", h->version,
                   BF_VERSION);
    if (h->json_len > BF_JSON_MAX ||
        !all_zero(h->reserved, sizeof(h->reserved)))
        return bad(r, "its head is damaged");
    return BF_BLOCK;
}

static enum bf_next head_read(struct bf_reader *r, const struct bf_head *h,
                              char *text, struct bf_space *space)
{
    struct bf_space s;
    json_error_t e;
    json_t *json;
    enum bf_next got = take(r, text, h->json_len);

    if (got != BF_BLOCK)
        return got;
    if (head_crc(h, text) != h->crc)
        return bad(r, "its head is damaged");
    json = json_loadb(text, h->json_len, JSON_REJECT_DUPLICATES, &e);
    if (!json)
        return bad(r, "its head: %.100s", e.text);
    if (!bf_space_read(&s, json, r->why))
        return BF_BAD;
    *space = s;
    space->d.groups = space->groups;
    r->all_crc = crc32c(0, &h->crc, sizeof(h->crc));
    return BF_BLOCK;
}

enum bf_next bf_open(struct bf_reader *r, bf_read_fn *read, void *arg,
                     struct bf_space *space)
{
    struct bf_head h;
    enum bf_next got;
    char *text;

    *r = (struct bf_reader){.read = read, .arg = arg};
    got = take(r, &h, sizeof(h));
    if (got == BF_BAD && r->at < sizeof(magic))
        return bad(r, "not a file of pikvctl export");
    if (got == BF_BLOCK)
        got = head_check(r, &h);
    if (got != BF_BLOCK)
        return got;
    text = malloc(h.json_len + 1);
    if (!text)
        return bad(r, "no memory for its head");
    got = head_read(r, &h, text, space);
    free(text);
    return got;
}

static enum bf_next damaged(struct bf_reader *r)
{
    return bad(r, "record %llu, before byte %llu, is damaged",
               (unsigned long long)r->blocks + 1, (unsigned long long)r->at);
}

static enum bf_next end_read(struct bf_reader *r)
{
    uint8_t more;
    ssize_t got;

    memcpy(&r->end, &r->rec, sizeof(r->end));
    if (end_crc(&r->end) != r->end.crc ||
        !all_zero(r->end.reserved, sizeof(r->end.reserved)))
        return damaged(r);
    if (r->end.blocks != r->blocks || r->end.bytes != r->bytes ||
        r->end.all_crc != r->all_crc)
        return bad(r,
                   "it has %llu blocks, its end tells of %llu: some are "
                   "missing, doubled or not its own",
                   (unsigned long long)r->blocks,
                   (unsigned long long)r->end.blocks);
    got = r->read(r->arg, &more, 1);
    if (got == 0)
        return BF_OVER;
    return got < 0 ? BF_ERROR
                   : bad(r, "there are bytes after its end, at %llu",
                         (unsigned long long)r->at);
}

static bool rec_fits(const struct bf_rec *rec)
{
    return rec->key_len >= 1 && rec->key_len <= BF_KEY_MAX &&
           rec->parent_len <= BF_KEY_MAX && rec->route_len <= BF_ROUTE_MAX &&
           rec->cls < CLASSES && rec->scoped <= 1 && rec->reserved == 0 &&
           rec->group < BF_GROUPS && rec->len <= INT64_MAX &&
           (rec->scoped || all_zero(rec->scope, sizeof(rec->scope)));
}

enum bf_next bf_next(struct bf_reader *r)
{
    enum bf_next got;

    MUST(r->left == 0);
    got = take(r, &r->rec, sizeof(r->rec));
    if (got != BF_BLOCK)
        return got;
    if (r->rec.magic == MAGIC_END)
        return end_read(r);
    if (r->rec.magic != MAGIC_BLOCK || !rec_fits(&r->rec))
        return damaged(r);
    got = take(r, r->names, bf_rec_bytes(&r->rec) - sizeof(r->rec));
    if (got != BF_BLOCK)
        return got;
    if (rec_crc(&r->rec, r->names) != r->rec.crc ||
        r->bytes > UINT64_MAX - r->rec.len)
        return damaged(r);
    r->all_crc = crc32c(r->all_crc, &r->rec.crc, sizeof(r->rec.crc));
    r->blocks++;
    r->bytes += r->rec.len;
    r->left = r->rec.len;
    r->bytes_crc = 0;
    if (r->left == 0 && r->rec.bytes_crc != 0)
        return damaged(r);
    return BF_BLOCK;
}

enum bf_next bf_bytes(struct bf_reader *r, void *to, size_t n)
{
    enum bf_next got;

    MUST(n <= r->left);
    got = take(r, to, n);
    if (got != BF_BLOCK)
        return got;
    r->bytes_crc = crc32c(r->bytes_crc, to, n);
    r->left -= n;
    if (r->left == 0 && r->bytes_crc != r->rec.bytes_crc)
        return bad(r, "the bytes of block %llu, before byte %llu, are damaged",
                   (unsigned long long)r->blocks, (unsigned long long)r->at);
    return BF_BLOCK;
}

void bf_put(const struct bf_rec *rec, const uint8_t *names,
            struct pikv_put *out)
{
    *out = (struct pikv_put){
        .key = {.key = {names, rec->key_len},
                .route = {names + rec->key_len, rec->route_len},
                .scope = rec->scoped ? rec->scope : NULL,
                .group = rec->group,
                .cls = rec->cls},
        .parent = {names + rec->key_len + rec->route_len, rec->parent_len},
        .page = rec->page,
        .token_end = rec->token_end,
        .token_n = rec->token_n,
        .ttl_ms = rec->ttl_ms,
        .affinity = rec->affinity,
        .priority = rec->priority,
    };
    memcpy(out->labels, rec->labels, sizeof(out->labels));
}
