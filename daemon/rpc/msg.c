/* SPDX-License-Identifier: Apache-2.0
 *
 * protobuf-c over an arena (msg.h). protobuf-c takes an allocator per call, so
 * a message lives and dies with the arena of its op: nothing is freed one by
 * one, and an arena that is full ends the unpacking with NULL. Used by the
 * lanes for requests and by libpikv for replies; keeps no state. It checks
 * wire types and lengths, not meanings: that is the operation's work. */
#include "rpc/msg.h"

#include <string.h>

static void *msg_alloc(void *arena, size_t n)
{
    return arena_alloc(arena, n);
}

/* The arena is freed as a whole. */
static void msg_free(void *arena, void *p)
{
    (void)arena;
    (void)p;
}

void *msg_unpack(const ProtobufCMessageDescriptor *d, struct arena *a,
                 const void *p, size_t len)
{
    ProtobufCAllocator alloc = {msg_alloc, msg_free, a};

    return protobuf_c_message_unpack(d, &alloc, len, p);
}

void *msg_pack(const void *msg, struct arena *a, size_t *len_out)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    uint8_t *p = arena_alloc(a, len);

    if (!p)
        return NULL;
    *len_out = protobuf_c_message_pack(msg, p);
    return p;
}

char *msg_str(struct arena *a, const char *s)
{
    size_t n = (s ? strlen(s) : 0) + 1;
    char *p = arena_alloc(a, n);

    return p ? memcpy(p, s ? s : "", n) : NULL;
}
