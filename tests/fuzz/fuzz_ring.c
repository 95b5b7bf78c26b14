/* SPDX-License-Identifier: Apache-2.0
 *
 * A hostile peer at both ends of a ring: the input is a program of writes to
 * shared memory, between pops and grants. Lengths and places handed out must
 * stay inside the ring, and a broken ring must stay broken. */
#include <string.h>

#include "rpc/ring.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CAP = 4096, BUF = 1024 };

static _Alignas(64) uint8_t mem[4096 + 2 * CAP];

static void step(struct ring *r, uint8_t what, uint16_t arg)
{
    static uint8_t buf[BUF];
    uint32_t len = 0;
    bool was_broken = r->broken;
    uint8_t *p;
    enum err e;

    switch (what % 5) {
    case 0:
        e = ring_pop(r, buf, BUF, &len);
        MUST(e != OK || (len <= BUF && len > 0));
        break;
    case 1:
        p = ring_grant(r, arg);
        MUST(!p || (p >= r->bytes && p + arg <= r->bytes + CAP));
        if (p) {
            memset(p, arg & 0xff, arg);
            ring_push(r, arg);
        }
        break;
    case 2:
        r->ctl->head = (uint64_t)(int64_t)(int16_t)arg;
        break;
    case 3:
        r->ctl->tail = (uint64_t)(int64_t)(int16_t)arg;
        break;
    case 4:
        memset(r->bytes + arg % (CAP / 4) * 4, what, 4);
        break;
    }
    MUST(!was_broken || r->broken);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ring_shared *sh = (struct ring_shared *)(void *)mem;
    struct ring req, rep;

    memset(mem, 0, sizeof(mem));
    ring_shared_init(sh, CAP);
    MUST(ring_attach(sh, sizeof(mem), &req, &rep) == OK);
    for (size_t i = 0; i + 3 <= size; i += 3) {
        uint16_t arg;

        memcpy(&arg, data + i + 1, 2);
        step(data[i] & 0x80 ? &rep : &req, data[i] & 0x7f, arg);
    }
    return 0;
}
