/* SPDX-License-Identifier: Apache-2.0
 *
 * Flight ring: the last TRACE_N events of a lane, 32 bytes each, no formatting
 * on the hot path. Dumped when a MUST fails and by the admin page; the
 * simulator hashes the stream of events (same seed, same hash). Events are
 * rows of trace.tbl: EVENT(NAME, a meaning, b meaning). */
#ifndef BASE_TRACE_H
#define BASE_TRACE_H

#include "base/base.h"

enum trace_id {
#define EVENT(NAME, a, b) TRACE_##NAME,
#include "base/trace.tbl"
    TRACE_IDS
};

struct trace_event {
    uint64_t ns;
    uint32_t id;
    uint32_t op; /* op id or 0 */
    uint64_t a, b;
};

enum { TRACE_N = 8192 };

struct trace {
    struct trace_event ring[TRACE_N];
    uint64_t n;    /* events ever */
    uint64_t hash; /* running, over all events without ns if sim asks */
    bool hashing;
};

void trace_add(struct trace *t, uint64_t now_ns, enum trace_id id, uint32_t op,
               uint64_t a, uint64_t b);
/* Writes the ring as text lines to fd, oldest first. Async-signal-safe. */
void trace_dump(const struct trace *t, int fd);
const char *trace_name(uint32_t id);

#endif
