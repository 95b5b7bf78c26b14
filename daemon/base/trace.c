/* SPDX-License-Identifier: Apache-2.0
 *
 * The flight ring. Event n lies at ring[n % TRACE_N]; the last TRACE_N are
 * kept. The hash runs over every event ever but not over ns, so two builds
 * that take another time for the same decisions have the same hash. */
#include "base/trace.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

static_assert(sizeof(struct trace_event) == 32, "two per cache line");

static uint64_t trace_mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ (h >> 29);
}

void trace_add(struct trace *t, uint64_t now_ns, enum trace_id id, uint32_t op,
               uint64_t a, uint64_t b)
{
    t->ring[t->n++ % TRACE_N] = (struct trace_event){
        .ns = now_ns, .id = (uint32_t)id, .op = op, .a = a, .b = b};
    if (!t->hashing)
        return;
    t->hash = trace_mix(t->hash, (uint64_t)id << 32 | op);
    t->hash = trace_mix(t->hash, a);
    t->hash = trace_mix(t->hash, b);
}

const char *trace_name(uint32_t id)
{
    static const char *const names[] = {
#define EVENT(NAME, a, b) #NAME,
#include "base/trace.tbl"
    };

    return id < countof(names) ? names[id] : "UNKNOWN";
}

/* ---- Dump: no stdio, it may run inside a signal handler ---- */

static char *dump_text(char *p, const char *s)
{
    size_t n = strlen(s);

    memcpy(p, s, n);
    return p + n;
}

static char *dump_dec(char *p, uint64_t v)
{
    char digits[20];
    size_t n = 0;

    do
        digits[n++] = (char)('0' + v % 10);
    while (v /= 10);
    while (n > 0)
        *p++ = digits[--n];
    return p;
}

static char *dump_hex(char *p, uint64_t v)
{
    for (int shift = 60; shift >= 0; shift -= 4)
        *p++ = "0123456789abcdef"[(v >> shift) & 15];
    return p;
}

static void dump_event(const struct trace_event *e, int fd)
{
    char line[160]; /* 20 + 10 + 32 digits, a name, the words between */
    char *p = line;

    p = dump_dec(p, e->ns);
    p = dump_text(p, " ");
    p = dump_text(p, trace_name(e->id));
    p = dump_text(p, " op=");
    p = dump_dec(p, e->op);
    p = dump_text(p, " a=");
    p = dump_hex(p, e->a);
    p = dump_text(p, " b=");
    p = dump_hex(p, e->b);
    p = dump_text(p, "\n");
    if (write(fd, line, (size_t)(p - line)) < 0)
        return;
}

void trace_dump(const struct trace *t, int fd)
{
    uint64_t i = t->n > TRACE_N ? t->n - TRACE_N : 0;

    for (; i < t->n; i++)
        dump_event(&t->ring[i % TRACE_N], fd);
}
