/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes to checked messages and back: the one place where a peer's bytes are
 * parsed, by daemon and libpikv alike. Nothing here allocates, keeps state or
 * trusts a length. A message in memory is
 *
 *     struct wire_frame | records | keys | envelope | data
 *
 * frame_read checks magic, version, kind, op, sizes against the limits and
 * their sum against the bytes at hand, and the crc. batch_read then walks the
 * records of a BATCH op and hands out one struct key_ref per key. Both refuse
 * rather than guess: ERR_BAD_REQUEST, ERR_BAD_VERSION, ERR_LIMIT; an op id that
 * this version does not know is ERR_UNSUPPORTED (a newer peer may ask). */
#ifndef RPC_FRAME_H
#define RPC_FRAME_H

#include "base/err.h"
#include "base/slice.h"
#include "proto/wire.h"

struct frame_limits {
    uint32_t message_bytes; /* frame + records + keys + envelope */
    uint32_t batch_keys;
    uint64_t inline_bytes; /* data inside a message */
    uint64_t block_bytes;
};

/* A checked message; all pointers borrow the message's bytes. */
struct message {
    struct wire_frame frame;
    const uint8_t *records; /* 8-byte aligned if the message was */
    const uint8_t *keys;
    const uint8_t *env;
    const uint8_t *data; /* inline data; NULL if none */
};

/* body: everything behind the frame (UCX delivers them apart). The crc is over
 * frame and body without data. status is the error to answer; the frame's req
 * and op are set in *out even on error when magic and crc were right, so that
 * the error can be answered, else they are 0 and the connection must go. */
must_check enum err frame_read(const void *frame, const void *body,
                               size_t body_len, const struct frame_limits *lim,
                               struct message *out);

/* Fills magic, version, lengths' crc. body = records | keys | envelope. */
void frame_seal(struct wire_frame *f, const void *body, size_t body_len);

/* Bytes of records, keys and envelope of a frame. */
static inline uint64_t frame_body_len(const struct wire_frame *f)
{
    return (uint64_t)f->record_n * WIRE_RECORD + f->keys_len + f->env_len;
}

/* One key of a checked batch; pointers borrow the message. */
struct key_ref {
    struct wire_key rec;
    const uint8_t *key;
    const uint8_t *route;   /* route_len bytes; the key itself if none given */
    uint32_t route_len;
    const uint8_t *parent;  /* NULL if none */
    const uint8_t *segs;    /* seg_n packed wire_seg, read with seg_at */
    bool has_attr;
    struct wire_attr attr;  /* if has_attr */
};

struct batch {
    struct wire_batch head;
    const uint8_t *columns; /* head.cols wire_column records (LOOKUP) */
    struct slice records, keys; /* what batch_next has not taken yet */
    uint32_t left;
    uint16_t op;
};

/* Checks the head and the counts against the frame's. */
must_check enum err batch_read(const struct message *m,
                               const struct frame_limits *lim,
                               struct batch *out);
/* Takes the next key, checked (lengths, class, off + len without overflow,
 * block_bytes). ERR_MISS when all are taken: then the sections must have been
 * used up exactly, else ERR_BAD_REQUEST. */
must_check enum err batch_next(struct batch *b, const struct frame_limits *lim,
                               struct key_ref *out);
/* Replies: batch_read has checked that head.key_n results follow; each call
 * takes one, ERR_MISS when all are taken. keys is left for LOOKUP's bitmap. */
must_check enum err batch_next_result(struct batch *b, struct wire_result *out);
struct wire_seg seg_at(const struct key_ref *k, uint32_t i);

#endif
