/* SPDX-License-Identifier: Apache-2.0
 *
 * A store on an SSD or in a file, read without a daemon and never written:
 * pikv-fsck's eyes. It believes what recovery (store/seglog_open.c) believes,
 * and says more about what it does not believe.
 *
 * image_open takes the lock that a running pikvd holds. image_walk goes through
 * the segments once and tells what it meets, in the order of the device. Where
 * both superblocks are lost, image_open looks for the head page of a segment
 * and takes store and segment size from there.
 *
 * Boot-time program: plain calls, one thread; allocates. */
#ifndef FSCK_IMAGE_H
#define FSCK_IMAGE_H

#include "store/seg_format.h"

struct image {
    int fd;
    uint64_t bytes;         /* of the file or device */
    struct seg_super super; /* the one that counts; guessed: uuid and sizes */
    enum err super_err[2];
    uint64_t super_seq[2];
    bool guessed;
    uint8_t *page, *buf; /* SEG_PAGE; IMAGE_BUF */
};
enum { IMAGE_BUF = 1 << 20 };

/* CONFIG: not a store, or in use; UNSUPPORTED: a newer one; IO. m says it. */
must_check enum err image_open(struct image *im, const char *path,
                               struct errmsg *m);
void image_close(struct image *im);

/* One block as a header tells it. m is borrowed for the call. */
struct image_record {
    uint32_t segment, page; /* page: of the payload */
    uint64_t generation;    /* of the segment */
    const struct seg_meta *m;
};

struct image_visitor {
    void *arg;
    void (*head)(void *arg, uint32_t segment, enum err e,
                 const struct seg_head *h);
    void (*group)(void *arg, uint32_t segment, const struct seg_group *g);
    void (*record)(void *arg, const struct image_record *r);
    void (*tomb)(void *arg, uint32_t segment, const struct seg_tomb *t);
    /* Something is not as it was written, or cannot be read. */
    void (*problem)(void *arg, uint32_t segment, uint32_t page,
                    const char *what);
};

/* segment UINT32_MAX: all. Every function of v but arg may be NULL. */
void image_walk(struct image *im, uint32_t segment,
                const struct image_visitor *v);
/* The checkpoint of a CLEAN store: its entries, or what is wrong with it.
 * Every page must be there. */
void image_checkpoint(struct image *im, const struct image_visitor *v,
                      uint64_t *entries_out);
/* Reads a payload and compares; to may be -1 or a descriptor that gets the
 * bytes. OK, CORRUPT, IO. */
must_check enum err image_payload(struct image *im, uint32_t page, uint64_t len,
                                  uint32_t crc, int to);

#endif
