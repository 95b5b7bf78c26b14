/* SPDX-License-Identifier: Apache-2.0
 *
 * Spans and completions of block bytes under way (xfer.h). A cancelled xfer
 * reports ERR_TIMEOUT: the deadline is the only reason to cancel one. */
#include "server/xfer.h"

#include <string.h>

#include "base/copy.h"
#include "server/layouts.h"
#include "server/peer.h"

bool xfer_init(struct xfer *x, struct op *op, uint32_t idx, uint32_t block,
               uint64_t off, uint64_t len)
{
    const struct store *s = op->lane->store;
    struct span *spans = x->few;
    uint32_t n = store_span_count(s, block);

    memset(x, 0, sizeof *x);
    if (n > XFER_SPANS) {
        x->many = pool_get(&op->lane->spans);
        if (!x->many)
            return false;
        spans = x->many;
    }
    x->op = op;
    x->block = block;
    x->tp.peer = op->peer->tp;
    x->tp.req = op->msg.frame.req;
    x->tp.idx = idx;
    x->tp.spans = spans;
    x->tp.span_n = store_spans(s, block, off, len, spans,
                               n > XFER_SPANS ? STORE_SPANS_MAX : XFER_SPANS);
    x->tp.len = len;
    return true;
}

enum err xfer_aim(struct xfer *x, const uint8_t *segs, uint32_t seg_n,
                  uint64_t off)
{
    const struct layout *l = x->op->layout ? &x->op->layout->l : NULL;
    struct wire_seg g;

    x->tp.segs = segs;
    x->tp.seg_n = seg_n;
    if (!l)
        return OK;
    if (seg_n != 1)
        return ERR_BAD_REQUEST;
    memcpy(&g, segs, sizeof g);
    if (g.mem || g.off >= l->block_n || off > l->bytes ||
        x->tp.len > l->bytes - off)
        return ERR_BAD_REQUEST;
    x->tp.layout = l;
    x->tp.layout_base = layout_base(l, (uint32_t)g.off);
    x->tp.layout_pos = off;
    return OK;
}

void xfer_fini(struct xfer *x)
{
    if (x->many)
        pool_put(&x->op->lane->spans, x->many);
    x->many = NULL;
}

void xfer_copy_in(struct xfer *x, const uint8_t *from)
{
    uint32_t crc = 0;

    for (uint32_t i = 0; i < x->tp.span_n; i++) {
        const struct span *s = &x->tp.spans[i];

        crc = copy_crc(s->p, from, s->len, crc);
        from += s->len;
    }
    x->tp.crc = crc;
}

struct op *xfer_record(struct tp_xfer *tp, enum err e)
{
    struct xfer *x = container_of(tp, struct xfer, tp);

    x->flying = false;
    x->err = e == ERR_CANCELED ? ERR_TIMEOUT : e;
    return x->op;
}

void xfer_cancel_all(struct xfer *first, uint32_t n, size_t stride)
{
    char *p = (char *)first;

    for (uint32_t i = 0; i < n; i++, p += stride) {
        struct xfer *x = (struct xfer *)(void *)p;

        if (x->flying)
            x->tp.peer->t->ops->cancel(&x->tp);
    }
}
