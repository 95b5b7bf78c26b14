/* SPDX-License-Identifier: Apache-2.0
 *
 * The file of `pikvctl export`: the blocks of a namespace with everything that
 * a PUT of them needs. docs/EXPORT.md is its description.
 *
 *     | head | JSON | block, its names, its bytes | ... | end |
 *
 * Two halves that share the records: a writer that fills buffers, and a reader
 * that takes bytes from a source and believes none of them. Neither touches a
 * file or a daemon; both run in a fuzz target. One thread per object.
 *
 *   1. Every record has a checksum of itself and its names; every block one of
 *      its bytes.
 *   2. The end has the counts and a checksum over all records before it, so a
 *      file that was cut, or from which a block is missing, is noticed.
 *   3. What the reader hands out was checked before: lengths, classes, text.
 *      The bytes of a block are checked with their last piece.
 *   4. Numbers are little-endian; reserved bytes are 0 and refused otherwise,
 *      since a later version gives them a meaning. */
#ifndef CTL_BLOCK_FILE_H
#define CTL_BLOCK_FILE_H

#include <assert.h>
#include <jansson.h>

#include "base/base.h"
#include "client/pikv.h"

enum {
    BF_VERSION = 1,
    BF_HEAD = 32,        /* bytes of the head */
    BF_REC = 104,        /* bytes of a block's record, and of the end */
    BF_JSON_MAX = 65536, /* bytes of the head's JSON */
    BF_KEY_MAX = 1024,
    BF_ROUTE_MAX = 32,
    BF_NAMES_MAX = 2 * BF_KEY_MAX + BF_ROUTE_MAX,
    BF_GROUPS = 16,
    BF_WHY = 200,
};

struct bf_head {
    uint8_t magic[8]; /* "PIKVBLKS" */
    uint32_t version;
    uint32_t json_len;
    uint8_t reserved[12];
    uint32_t crc; /* of the head with crc 0, then of the JSON */
};

struct bf_rec {
    uint32_t magic; /* "BLCK" */
    uint32_t crc;   /* of the record with crc 0, then of the names */
    uint64_t len;   /* of the bytes */
    uint32_t bytes_crc;
    uint16_t key_len, parent_len; /* names: key, route, parent */
    uint8_t route_len, cls, priority, scoped;
    uint16_t group, reserved;
    uint8_t scope[16];
    uint32_t page, token_end, token_n, ttl_ms;
    uint64_t affinity;
    uint64_t labels[4];
};

struct bf_end {
    uint32_t magic; /* "TAIL" */
    uint32_t crc;   /* of the end with crc 0 */
    uint64_t blocks, bytes;
    uint64_t lost;    /* left the daemon between being listed and being read */
    uint32_t all_crc; /* of the crcs of the head and of all blocks' records */
    uint8_t reserved[BF_REC - 36];
};

static_assert(sizeof(struct bf_head) == BF_HEAD, "no padding");
static_assert(sizeof(struct bf_rec) == BF_REC, "no padding");
static_assert(sizeof(struct bf_end) == BF_REC, "as long as a block's record");

/* The namespace of a file. d points into json. */
struct bf_space {
    json_t *json;
    struct pikv_namespace d;
    struct pikv_group groups[BF_GROUPS];
};

/* Makes the JSON of d; server is who tells. NULL: no memory, or text that is
 * not UTF-8. */
json_t *bf_space_json(const struct pikv_namespace *d, const char *server);
/* Reads it; takes json in any case. false: why says what is wrong. Groups and
 * texts are checked for form only: the daemon judges them. */
bool bf_space_read(struct bf_space *s, json_t *json, char why[BF_WHY]);
void bf_space_fini(struct bf_space *s);
/* The first field of the fingerprint in which two namespaces differ, or NULL;
 * NULL and "" are the same text. */
const char *bf_space_differs(const struct pikv_namespace *a,
                             const struct pikv_namespace *b, const char **a_out,
                             const char **b_out);

/* ---- writing ---- */

struct bf_writer {
    uint64_t blocks, bytes, lost;
    uint32_t all_crc;
};

/* The head and JSON of a file, malloc'ed; NULL: no memory or longer than
 * BF_JSON_MAX. */
uint8_t *bf_begin(struct bf_writer *w, const json_t *space, size_t *n_out);
/* Completes a record whose fields but magic and crc are set; its names follow
 * it in memory, its bytes are to follow it in the file. */
void bf_seal(struct bf_writer *w, struct bf_rec *rec);
size_t bf_rec_bytes(const struct bf_rec *rec); /* with its names */
void bf_finish(struct bf_writer *w, struct bf_end *out);

/* ---- reading ---- */

/* Reads n bytes to `to`; fewer only at the end; -1: errno. */
typedef ssize_t bf_read_fn(void *arg, void *to, size_t n);

enum bf_next {
    BF_BLOCK, /* a block follows: take all its bytes before the next */
    BF_OVER,  /* the end, and nothing after it */
    BF_BAD,   /* not such a file, cut or damaged: why */
    BF_ERROR, /* the source cannot be read: errno */
};

struct bf_reader {
    bf_read_fn *read;
    void *arg;
    uint64_t at;            /* in the file */
    uint64_t left;          /* of the block's bytes */
    uint64_t blocks, bytes; /* met so far */
    uint32_t bytes_crc, all_crc;
    struct bf_rec rec;
    uint8_t names[BF_NAMES_MAX];
    struct bf_end end;
    char why[BF_WHY];
};

/* The head. On BF_BLOCK, which is success, space is to be freed with
 * bf_space_fini; otherwise it is left as it was. */
enum bf_next bf_open(struct bf_reader *r, bf_read_fn *read, void *arg,
                     struct bf_space *space);
/* The next record: r->rec and r->names, or r->end. */
enum bf_next bf_next(struct bf_reader *r);
/* The next n of the block's r->left bytes; BF_BLOCK is success. */
enum bf_next bf_bytes(struct bf_reader *r, void *to, size_t n);
/* What a PUT wants; borrows r->names. Data and crc32c are not set. */
void bf_put(const struct bf_rec *rec, const uint8_t *names,
            struct pikv_put *out);

#endif
