/* SPDX-License-Identifier: Apache-2.0
 *
 * msg_unpack of every message type over any bytes, in an arena of 64 KiB. The
 * first byte chooses the type. What unpacks must pack again, to at most the
 * bytes that came in when there were no unknown or doubled fields. */
#include <stdlib.h>
#include <string.h>

#include "rpc/msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const types[] = {
    &pikv__hello__descriptor,
    &pikv__hello_reply__descriptor,
    &pikv__open__descriptor,
    &pikv__open_reply__descriptor,
    &pikv__namespace_request__descriptor,
    &pikv__namespace_reply__descriptor,
    &pikv__mem_register__descriptor,
    &pikv__mem_register_reply__descriptor,
    &pikv__mem_unregister__descriptor,
    &pikv__layout_register__descriptor,
    &pikv__layout_reply__descriptor,
    &pikv__loan_attach__descriptor,
    &pikv__loan_attach_reply__descriptor,
    &pikv__feedback__descriptor,
    &pikv__session_open__descriptor,
    &pikv__session_open_reply__descriptor,
    &pikv__session_step__descriptor,
    &pikv__session_close__descriptor,
    &pikv__select__descriptor,
    &pikv__select_reply__descriptor,
    &pikv__gather__descriptor,
    &pikv__view_request__descriptor,
    &pikv__view_reply__descriptor,
    &pikv__cluster_request__descriptor,
    &pikv__cluster_reply__descriptor,
    &pikv__subscribe__descriptor,
    &pikv__event__descriptor,
    &pikv__stat_request__descriptor,
    &pikv__stat_reply__descriptor,
    &pikv__inspect_request__descriptor,
    &pikv__inspect_reply__descriptor,
    &pikv__explain_request__descriptor,
    &pikv__explain_reply__descriptor,
    &pikv__reload_reply__descriptor,
    &pikv__empty__descriptor,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static _Alignas(16) uint8_t room[64 << 10];
    static _Alignas(16) uint8_t out[256 << 10];
    struct arena a, b;
    size_t len = 0;
    uint8_t *copy;
    void *m;

    if (size == 0)
        return 0;
    copy = malloc(size - 1);
    memcpy(copy, data + 1, size - 1);
    arena_init(&a, room, sizeof(room));
    m = msg_unpack(types[data[0] % countof(types)], &a, copy, size - 1);
    MUST(a.used <= a.cap);
    free(copy); /* the message may not borrow from the bytes */
    arena_init(&b, out, sizeof(out));
    if (m && msg_pack(m, &b, &len))
        MUST(len <= b.used);
    return 0;
}
