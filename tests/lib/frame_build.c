/* SPDX-License-Identifier: Apache-2.0
 *
 * See frame_build.h. */
#include "tests/lib/frame_build.h"

#include <string.h>

const struct frame_limits limits = {
    .message_bytes = 32 << 10,
    .batch_keys = 64,
    .inline_bytes = 8192,
    .block_bytes = 1 << 20,
};

struct build b;

void seal(void)
{
    frame_seal(&b.f, b.body, frame_body_len(&b.f));
}

void begin(enum wire_kind kind, uint16_t op)
{
    memset(&b, 0, sizeof(b));
    b.f.kind = (uint8_t)kind;
    b.f.op = op;
    b.f.req = 77;
    b.f.deadline_us = kind == WIRE_REQUEST ? 1000 : 0;
}

void append(const void *p, size_t n)
{
    memcpy(b.body + b.len, p, n);
    b.len += n;
}

void record(const void *p)
{
    append(p, WIRE_RECORD);
    b.f.record_n++;
}

void keys(const void *p, size_t n)
{
    append(p, n);
    b.f.keys_len += (uint32_t)n;
}

enum err parse(struct message *m)
{
    seal();
    return frame_read(&b.f, b.body, b.len, &limits, m);
}

const struct wire_batch head_two = {.ns = 3, .generation = 9, .key_n = 2};
const struct wire_key key_a = {
    .key_len = 5,
    .route_len = 1,
    .cls = CLASS_EXPERT,
    .group = 4,
    .flags = KEY_HAS_ATTR | KEY_CRC,
    .parent_len = 2,
    .seg_n = 2,
    .crc = 0x1234,
    .len = 3000,
};
const struct wire_key key_b = {.key_len = 4, .len = 64};
const struct wire_attr attr_a = {.page = 6, .priority = 200, .label2 = 42};
const struct wire_seg segs_a[2] = {{.mem = 1, .off = 10, .len = 1000},
                                    {.mem = 2, .off = 0, .len = 2000}};

void put_two(void)
{
    begin(WIRE_REQUEST, OP_PUT);
    record(&head_two);
    record(&key_a);
    record(&attr_a);
    record(&key_b);
    keys("alpha" "r" "pp", 8);
    keys(segs_a, sizeof(segs_a));
    keys("beta", 4);
}

enum err walk(uint32_t *n_out)
{
    struct message m;
    struct batch bt;
    struct key_ref k;
    enum err e = parse(&m);

    *n_out = 0;
    if (!e)
        e = batch_read(&m, &limits, &bt);
    while (!e && (e = batch_next(&bt, &limits, &k)) == OK)
        (*n_out)++;
    return e == ERR_MISS ? OK : e;
}

enum err walk_put(void)
{
    uint32_t n;

    return walk(&n);
}
