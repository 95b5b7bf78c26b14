/* SPDX-License-Identifier: Apache-2.0
 *
 * See fake_parts.h. */
#include "tests/lib/fake_parts.h"

#include <string.h>

#include "rpc/frame.h"

/* Which results event number step tells; false: there is none. */
static bool event_range(enum fake_tells how, uint32_t step, uint32_t n,
                        uint32_t *first, uint32_t *count)
{
    uint32_t half = (n + 1) / 2;

    *first = step;
    *count = 1;
    switch (how) {
    case TELLS_NOT:
    case TELLS_N:
        return false;
    case TELLS_EACH:
    case TELLS_LATE:
    case TELLS_PUT:
    case TELLS_LIES:
        return step < n;
    case TELLS_ALL:
        *count = n;
        return step == 0;
    case TELLS_HALF:
    case TELLS_DIES:
    case TELLS_HOLDS:
    case TELLS_REFUSES:
        return step < half;
    case TELLS_TWICE:
        *first = step / 2;
        return step < 2 * n;
    case TELLS_GAP:
        *first = step + 1;
        return step + 1 < n;
    case TELLS_MORE:
        *count = n + 1;
        return step == 0;
    case TELLS_NOBODY:
        *count = 0;
        return step == 0;
    }
    return false;
}

uint32_t parts_event_make(enum fake_tells how, uint32_t step,
                          const struct wire_frame *req,
                          const struct wire_result *r, uint32_t n, uint8_t *out)
{
    uint8_t *body = out + sizeof(struct wire_frame);
    struct wire_frame f = {.kind = WIRE_EVENT, .op = req->op, .req = req->req};
    struct wire_result w = {0};
    uint32_t first, count;

    if (!event_range(how, step, n, &first, &count))
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        if (first + i < n)
            w = r[first + i];
        if (how == TELLS_LIES)
            w.moved = UINT64_MAX;
        memcpy(body + (size_t)i * sizeof(w), &w, sizeof(w));
    }
    if (how == TELLS_PUT)
        f.op = OP_PUT;
    f.record_n = count;
    f.data_idx = first;
    frame_seal(&f, body, (size_t)frame_body_len(&f));
    memcpy(out, &f, sizeof(f));
    return (uint32_t)(sizeof(f) + frame_body_len(&f));
}
