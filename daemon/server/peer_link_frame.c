/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames of a link (peer_link.h), from bytes and to bytes. Pure.
 *
 *     0      4      6       8
 *     | len  | kind | flags | message ...   len counts from kind on
 *
 * A length is judged as soon as its four bytes are there, so that nobody waits
 * for, or makes room for, a frame that would be refused. */
#include "server/peer_link_impl.h"

#include <string.h>

long peer_frame_take(const uint8_t *p, size_t n, uint32_t frame_max,
                     uint16_t *kind_out, const uint8_t **msg_out,
                     size_t *len_out)
{
    struct slice s = slice_of(p, n);
    uint32_t len;
    uint16_t kind, flags;

    if (!slice_copy(&s, &len, sizeof(len)))
        return 0;
    if (len < FRAME_HEAD - sizeof(len) ||
        len - (FRAME_HEAD - sizeof(len)) > frame_max)
        return -1;
    if (!slice_copy(&s, &kind, sizeof(kind)) ||
        !slice_copy(&s, &flags, sizeof(flags)))
        return 0;
    if (flags)
        return -1;
    len -= (uint32_t)(FRAME_HEAD - sizeof(len));
    if (s.len < len)
        return 0;
    *kind_out = kind;
    *msg_out = s.p;
    *len_out = len;
    return (long)(FRAME_HEAD + len);
}

void peer_frame_head(uint8_t to[FRAME_HEAD], uint16_t kind, size_t n)
{
    struct slice_out o = {to, 0, FRAME_HEAD, false};
    uint32_t len = (uint32_t)(FRAME_HEAD - sizeof(len) + n);
    uint16_t flags = 0;

    slice_put(&o, &len, sizeof(len));
    slice_put(&o, &kind, sizeof(kind));
    slice_put(&o, &flags, sizeof(flags));
}
