/* SPDX-License-Identifier: Apache-2.0
 *
 * protobuf-c envelopes with limits. protobuf-c itself has none: the length is
 * checked first (frame_read), unpacking allocates from an arena with a ceiling,
 * so a hostile message ends in ERR_LIMIT and never in malloc. */
#ifndef RPC_MSG_H
#define RPC_MSG_H

#include "base/mem.h"
#include "pikv.pb-c.h"

/* The message in the arena, freed with it. NULL if malformed or too large. */
void *msg_unpack(const ProtobufCMessageDescriptor *d, struct arena *a,
                 const void *p, size_t len);
/* Packs into the arena; returns the bytes, *len_out set. NULL when full. */
void *msg_pack(const void *msg, struct arena *a, size_t *len_out);
/* A copy of a C string in the arena, "" for NULL; NULL when full. */
char *msg_str(struct arena *a, const char *s);

#endif
