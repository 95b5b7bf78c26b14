/* SPDX-License-Identifier: Apache-2.0
 *
 * The bytes of one block under way between its extents and the client: a
 * transport's tp_xfer, the block it belongs to, and room for its spans. Used by
 * PUT and GET alike. A block in one or two extents needs no more than this
 * struct; a split one borrows an array from the lane.
 *
 * The op holds a ref on the block from before xfer_init until after the
 * completion, whatever it says: late bytes only ever meet memory that is still
 * this block's. */
#ifndef SERVER_XFER_H
#define SERVER_XFER_H

#include "server/op.h"

enum { XFER_SPANS = 2 };

struct xfer {
    struct tp_xfer tp;
    struct op *op;
    uint32_t block;
    enum err err; /* of the completion */
    bool flying;  /* given to the transport and not completed */
    struct span few[XFER_SPANS];
    struct span *many; /* from lane->spans, or NULL */
};

/* Fills in the spans of [off, off + len) of the block. false: the lane has no
 * span array left for a split block. */
bool xfer_init(struct xfer *x, struct op *op, uint32_t idx, uint32_t block,
               uint64_t off, uint64_t len);
void xfer_fini(struct xfer *x);
/* Where in the client's memory, of a block's bytes from off on: the segments of
 * its key, or, if the op names a layout, the block of it that they name. After
 * xfer_init. BAD_REQUEST: no such block or range. */
must_check enum err xfer_aim(struct xfer *x, const uint8_t *segs,
                             uint32_t seg_n, uint64_t off);
/* The bytes came with the request: copies them in and sets the crc. */
void xfer_copy_in(struct xfer *x, const uint8_t *from);
/* The transport's completion: records it; returns the op to go on with. */
struct op *xfer_record(struct tp_xfer *tp, enum err e);
/* Cancels those of n xfers, stride bytes apart, that are under way. */
void xfer_cancel_all(struct xfer *first, uint32_t n, size_t stride);

#endif
