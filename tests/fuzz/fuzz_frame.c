/* SPDX-License-Identifier: Apache-2.0
 *
 * frame_read, batch_read and batch_next over any bytes. The input is a frame
 * and what follows it; its magic and crc are set right, so that the fuzzer gets
 * behind them. Every byte that the parser hands out is read. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "rpc/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct frame_limits limits = {
    .message_bytes = 192 << 10,
    .batch_keys = 1024,
    .inline_bytes = 64 << 10,
    .block_bytes = 1 << 30,
};

static volatile uint8_t sink;

static void touch(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sink ^= p[i];
}

static void touch_key(const struct key_ref *k)
{
    uint64_t sum = 0;

    MUST(k->rec.key_len <= WIRE_KEY_MAX);
    MUST(k->rec.off + k->rec.len >= k->rec.off);
    touch(k->key, k->rec.key_len);
    touch(k->route, k->route_len);
    if (k->parent)
        touch(k->parent, k->rec.parent_len);
    for (uint32_t i = 0; i < k->rec.seg_n; i++)
        sum += seg_at(k, i).len;
    MUST(k->rec.seg_n == 0 || sum >= k->rec.len);
}

static void walk(const struct message *m)
{
    struct wire_result r;
    struct batch b;
    struct key_ref k;

    touch(m->keys, m->frame.keys_len);
    touch(m->env, m->frame.env_len);
    if (batch_read(m, &limits, &b) != OK)
        return;
    MUST(b.head.key_n <= limits.batch_keys);
    if (b.columns)
        touch(b.columns, (size_t)b.head.cols * WIRE_RECORD);
    if (m->frame.kind == WIRE_REPLY) {
        while (batch_next_result(&b, &r) == OK)
            sink ^= r.state;
        return;
    }
    while (batch_next(&b, &limits, &k) == OK)
        touch_key(&k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_frame f;
    struct message m;
    size_t len = size - sizeof(f);
    uint8_t *body;

    if (size < sizeof(f))
        return 0;
    body = malloc(len); /* of its own, so that an overrun is seen */
    memcpy(&f, data, sizeof(f));
    if (len)
        memcpy(body, data + sizeof(f), len);
    f.magic = WIRE_MAGIC;
    f.crc = crc32c(0, &f, offsetof(struct wire_frame, crc));
    if (frame_body_len(&f) <= len && frame_body_len(&f) > 0)
        f.crc = crc32c(f.crc, body, frame_body_len(&f));
    if (frame_read(&f, body, len, &limits, &m) == OK)
        walk(&m);
    free(body);
    return 0;
}
