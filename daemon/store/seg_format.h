/* SPDX-License-Identifier: Apache-2.0
 *
 * What lies on an SSD: format 1. Little-endian, pages of 4096 bytes.
 *
 *   page 0          superblock A       written in turn; the valid one with the
 *   1 MiB           superblock B       greater seq counts
 *   2 MiB ...       segments, segment_bytes each
 *
 *   segment   | head page | group | group | ...  rest: whatever was there
 *   group     | header page | payload 0 | payload 1 | ...
 *             all payloads of a group take the same number of pages, so that
 *             the header of payload i lies 1 + i * record_pages before it
 *   header    seg_group, then for each record: seg_record | scope? | attr? |
 *             key | route | parent key, padded to 8 bytes
 *   A group of kind TOMBS has no payload: its header holds seg_tomb records.
 *
 * A segment's generation is taken from one counter of the store, never used
 * twice, and stands in every header in it: what an earlier life of the segment
 * left behind is never believed. A header is written after its payloads have
 * completed, and headers of a segment in order: a scan ends at the first page
 * where none of this life was ever written (MISS). A damaged one (CORRUPT, or
 * not to be read) costs its own group: the next page of this segment that is a
 * header of this life, belongs where it lies and has a greater seq is where the
 * scan goes on. It was written, whatever became of those before it.
 *
 * A segment whose head page cannot be believed may have been FREE: nobody knows
 * which of its records are still meant, unless the page, damaged as it is,
 * still names the generation of the headers behind it: one that was wiped would
 * not. Else its tombs are meant, they are always true: it becomes one of kind
 * TOMBS.
 *
 * A checkpoint is a run of segments of kind CHECKPOINT: head page, then pages
 * of struct seg_check, each page with its own crc; valid if the superblock is
 * CLEAN and names its first segment and generation.
 *
 * Every page has a crc32c of itself with the crc field zero, and says where it
 * belongs (store, segment, generation, page), so that a misdirected write is
 * found. Pure functions; nothing is allocated; parsing trusts no byte. */
#ifndef STORE_SEG_FORMAT_H
#define STORE_SEG_FORMAT_H

#include "proto/wire.h"
#include "store/disk.h"
#include "store/store.h"

#define SEG_MAGIC_SUPER UINT64_C(0x315245505553564b) /* "KVSUPER1" */
#define SEG_MAGIC_HEAD UINT64_C(0x3144414548474553)  /* "SEGHEAD1" */
#define SEG_MAGIC_GROUP UINT64_C(0x3150554f52474753) /* "SGGROUP1" */
#define SEG_MAGIC_CHECK UINT64_C(0x314b434548434753) /* "SGCHECK1" */

enum {
    SEG_MAJOR = 1, /* another one is not read */
    SEG_MINOR = 0, /* a greater one is read, if its flags are known */
    SEG_PAGE = DISK_PAGE,
    SEG_SUPER_B = 1 << 20, /* bytes */
    SEG_DATA = 2 << 20,    /* bytes: where segments begin */
    SEG_RECORDS = 32,      /* of a group at most */
    SEG_BYTES_MIN = 1 << 20,
    SEG_BYTES_MAX = 1 << 30,
};

enum seg_super_flag {
    SEG_CLEAN = 1,   /* closed in order; the checkpoint holds */
    SEG_RETIRED = 2, /* emptied by the operator: nothing to recover */
};

struct seg_super { /* one page */
    uint64_t magic;
    uint32_t major, minor;
    uint8_t uuid[16]; /* of the store: made at format */
    uint64_t seq;
    uint64_t bytes, segment_bytes; /* in use; fixed at format */
    uint32_t segments, flags;
    uint64_t next_generation;  /* greater than any used so far */
    uint64_t written_bytes;    /* to the device, since format */
    uint64_t check_generation; /* of the checkpoint's first segment; 0 none */
    uint32_t check_segment, check_segments;
    uint64_t check_records;
    uint32_t check_lanes, reserved0; /* lanes it was made by: others scan */
    uint64_t formatted_s;            /* wall clock */
    char writer[64];                 /* "pikvd 0.1.0", NUL-terminated */
    uint32_t crc, reserved;
};
static_assert(sizeof(struct seg_super) <= SEG_PAGE, "one page");

/* TOMBS: its records are not believed. No flip of one bit makes another. */
enum seg_kind { SEG_LOG = 1, SEG_CHECKPOINT = 2, SEG_TOMBS = 4 };

struct seg_head { /* first page of a segment */
    uint64_t magic;
    uint8_t uuid[16];
    uint64_t generation;
    uint32_t segment, kind;
    uint32_t crc, reserved;
};

enum seg_group_kind { SEG_GROUP_RECORDS = 1, SEG_GROUP_TOMBS = 2 };

struct seg_group { /* starts a header page */
    uint64_t magic;
    uint64_t generation; /* the segment's */
    uint8_t uuid[16];
    uint32_t page;         /* of this header, from the start of the device */
    uint32_t seq;          /* 0, 1, ... in the segment */
    uint32_t pages;        /* of the group, this header included */
    uint32_t record_pages; /* of each payload */
    uint16_t kind, record_n;
    uint16_t bytes; /* of the page in use */
    uint16_t reserved;
    uint32_t crc, reserved1;
};
static_assert(sizeof(struct seg_group) == 64, "laid out");

struct seg_record {
    struct hash128 hash;
    uint64_t version;
    uint64_t ns_generation;
    uint32_t ns;
    uint32_t len, crc;               /* raw bytes */
    uint32_t stored_len, stored_crc; /* as they lie here */
    uint32_t born_s;                 /* wall clock */
    uint32_t expires_s;              /* 0 never */
    uint16_t bytes;                  /* of this record in the header, padded */
    uint16_t group, key_len, parent_len;
    uint8_t cls, route_len, codec; /* codec 0: none */
    uint8_t flags;                 /* enum seg_record_flag */
    uint32_t reserved;
};
static_assert(sizeof(struct seg_record) == 80, "laid out");

enum seg_record_flag { SEG_HAS_SCOPE = 1, SEG_HAS_ATTR = 2 };

struct seg_tomb { /* kills records of this hash up to this version */
    struct hash128 hash;
    uint64_t version;
    uint64_t ns_generation;
    uint32_t ns, reserved;
};
static_assert(sizeof(struct seg_tomb) == 40, "laid out");

struct seg_check_page { /* starts a checkpoint page */
    uint64_t magic;
    uint64_t generation; /* of its segment */
    uint32_t page;
    uint16_t record_n, reserved;
    uint32_t crc, reserved1;
};

/* One block of the checkpoint: what its catalog entry needs. */
struct seg_check {
    struct hash128 hash, parent; /* parent: zeros if none */
    uint64_t version, ns_generation;
    uint32_t ns, len, crc, page; /* page: of the payload */
    uint32_t expires_s;
    uint16_t lane;     /* whose it was, of check_lanes */
    uint8_t tag, meta; /* see struct seg_place; has more than its key */
    uint8_t heat;
    uint8_t knows; /* enum seg_check_knows */
    uint16_t route; /* slot of its route (catalog.h) */
    uint8_t reserved[4];
};
static_assert(sizeof(struct seg_check) == 80, "laid out");
/* A checkpoint of a pikvd that did not know routes is not taken: the records
 * themselves are read, as without one. */
enum seg_check_knows { SEG_CHECK_ROUTE = 1 };
enum { SEG_CHECK_RECORDS = (SEG_PAGE - 32) / 80 };

/* Where a payload lies: its first page on its device, and in tag the device (3
 * bits) and its index in the group (5 bits). page 0 is nowhere. */
struct seg_place {
    uint32_t page;
    uint8_t tag;
};

static inline uint8_t seg_tag(uint32_t dev, uint32_t idx)
{
    return (uint8_t)(dev << 5 | idx);
}

static inline uint32_t seg_dev(uint8_t tag)
{
    return tag >> 5;
}

static inline uint32_t seg_idx(uint8_t tag)
{
    return tag & 31;
}

static inline uint32_t seg_pages(uint64_t bytes)
{
    return (uint32_t)((bytes + SEG_PAGE - 1) / SEG_PAGE);
}

/* The page of the header that describes the payload. */
static inline uint32_t seg_header_page(struct seg_place p, uint64_t stored_len)
{
    return p.page - 1 - seg_idx(p.tag) * seg_pages(stored_len);
}

/* A block as the log sees it; everything borrowed. */
struct seg_meta {
    struct store_key key; /* with hash and ns; scope NULL or 16 bytes */
    uint64_t version, ns_generation;
    uint32_t len, crc, born_s, expires_s;
    const struct wire_attr *attr; /* or NULL */
    struct wire_attr attr_copy;   /* where parsing puts it */
    const uint8_t *parent;
    uint16_t parent_len;
};

/* Has the record more to say than key, version and bytes? If not, a GET need
 * not read its header. */
bool seg_meta_rich(const struct seg_meta *m);

/* ---- pages: seal sets magic and crc, the caller everything else; read says
 * OK, MISS (not one of ours: blank, another magic or store) or CORRUPT. Of a
 * head page or header, where one of the words that tell ours from others' is
 * not right but the rest is, this is damage too: CORRUPT. */
void seg_super_seal(struct seg_super *s);
/* page: 4096 bytes. UNSUPPORTED: valid, but a major version we do not read;
 * out is filled all the same, for the message. */
must_check enum err seg_super_read(const void *page, struct seg_super *out);
void seg_head_seal(struct seg_head *h, void *page);
/* CORRUPT: out->generation is what the page says, if it otherwise says to be of
 * kind LOG, of this store and here; else 0. */
must_check enum err seg_head_read(const void *page, const uint8_t uuid[16],
                                  uint32_t segment, struct seg_head *out);

/* ---- group headers. The page is zeroed by seg_group_begin. */
void seg_group_begin(void *page, enum seg_group_kind kind);
/* Appends; false if it does not fit (count or bytes). All records of a group
 * take the same number of pages: the caller's duty. */
bool seg_group_add(void *page, const struct seg_meta *m);
bool seg_group_add_tomb(void *page, const struct seg_tomb *t);
uint32_t seg_group_count(const void *page);
/* Fills in where it belongs, sizes and the crc. */
void seg_group_seal(void *page, const uint8_t uuid[16], uint64_t generation,
                    uint32_t at_page, uint32_t seq, uint32_t record_pages);
/* Is this the header with this generation at this page? Checks every length in
 * it, so that the walk below cannot fail. seq UINT32_MAX: any. generation 0:
 * any
 * (*out has it). A whole header of another life is a MISS. */
must_check enum err seg_group_read(const void *page, const uint8_t uuid[16],
                                   uint64_t generation, uint32_t at_page,
                                   uint32_t seq, struct seg_group *out);
/* Record i of a checked page; cursor starts at 0. m borrows the page; its
 * key.hash is the recorded one. */
void seg_group_next(const void *page, uint32_t *cursor, struct seg_meta *m);
void seg_group_next_tomb(const void *page, uint32_t *cursor,
                         struct seg_tomb *t);

void seg_check_seal(void *page, uint64_t generation, uint32_t at_page,
                    uint32_t record_n);
must_check enum err seg_check_read(const void *page, uint64_t generation,
                                   uint32_t at_page, uint32_t *record_n_out);

#endif
