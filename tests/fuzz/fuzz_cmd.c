/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as commands, or as a snapshot of the state. The first byte's two
 * low bits say what follows:
 *
 *   0  commands, each u16 length and bytes, to a cluster of four nodes; with
 *      bit 2 set the view is checked after each of them, which is slow
 *   1  the same, and the state comes back from its snapshot
 *   2, 3  a snapshot
 *
 * Magic numbers and crcs are set right, so that the fuzzer gets behind them.
 * The view keeps its rules, whatever is applied; what is refused changes no
 * view; a command that is understood is understood again from its own bytes. */
#include <string.h>

#include "base/hash.h"
#include "cluster/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bytes in, out, scratch;

static void say(struct state *s, const struct cmd *c)
{
    struct answer a;

    out.len = 0;
    MUST(cmd_encode(c, &out) == OK);
    state_apply(s, s->applied + 1, out.p, out.len, &a);
    MUST(a.err == OK);
}

/* Four nodes; three UP, one of them votes, slot 0 has two owners. */
static void start(struct state *s)
{
    struct slot_row row = {0, {{0, 1, NODE_NONE}, NODE_NONE, NODE_NONE, 0, 0}};
    struct cmd slots = {.kind = CMD_SLOTS,
                        .id = 1001,
                        .base_epoch = 99,
                        .rows = &row,
                        .row_n = 1};

    MUST(state_init(s, 77) == OK);
    for (uint16_t i = 0; i < 4; i++) {
        struct cmd c = {.kind = CMD_JOIN, .id = 1002u + i};

        c.node.name[0] = (char)('a' + i);
        c.node.uuid = i + 1u;
        c.node.incarnation = c.node.lane_n = 1;
        c.node.weight = 1;
        c.node.voter = i == 0;
        say(s, &c);
        c = (struct cmd){.kind = CMD_SET_STATE,
                         .id = 2000u + i,
                         .index = i,
                         .incarnation = 1,
                         .new_state = NODE_UP};
        if (i < 3)
            say(s, &c);
    }
    say(s, &slots);
}

static void snapshot(const struct state *s)
{
    struct state t = {0};

    out.len = 0;
    state_encode(s, &out);
    MUST(!out.bad && out.len <= STATE_BYTES_MAX);
    MUST(state_decode(&t, out.p, out.len) == OK);
    MUST(state_digest(s) == state_digest(&t));
    state_fini(&t);
}

static void command(struct state *s, const uint8_t *p, size_t n, bool each)
{
    uint64_t epoch = s->view.epoch;
    uint64_t digest = each ? view_digest(&s->view) : 0;
    struct answer a;
    struct cmd c;

    in.len = 0;
    bytes_put(&in, p, n);
    bytes_seal(&in, 0);
    if (cmd_decode(&c, in.p, in.len, &scratch) == OK) {
        out.len = 0;
        MUST(cmd_encode(&c, &out) == OK);
        MUST(cmd_decode(&c, out.p, out.len, &scratch) == OK);
    }
    state_apply(s, s->applied + 1, in.p, in.len, &a);
    MUST(a.err == OK || a.msg.text[0]);
    if (s->view.epoch != epoch)
        MUST(a.err == OK && !(each && view_wrong(&s->view)));
    else if (each)
        MUST(view_digest(&s->view) == digest);
}

static void commands(const uint8_t *p, size_t n, bool snap, bool each)
{
    struct slice s = slice_of(p, n);
    struct state st;

    start(&st);
    while (s.len > 2) {
        size_t len = min_u64(bytes_get_u16(&s), s.len);

        command(&st, slice_take(&s, len), len, each);
    }
    if (snap)
        snapshot(&st);
    state_fini(&st);
}

/* The view within has a crc of its own: 20 bytes of header, u32 length. */
static void restore(const uint8_t *p, size_t n)
{
    static const uint8_t state[] = {'P', 'K', 'V', 'S', 1, 0};
    static const uint8_t view[] = {'P', 'K', 'V', 'V', 1, 0};
    struct state s = {0};
    uint32_t len, crc;

    if (n < 24 + sizeof(view))
        return;
    in.len = 0;
    bytes_put(&in, p, n);
    memcpy(in.p, state, sizeof(state));
    memcpy(in.p + 24, view, sizeof(view));
    memcpy(&len, p + 20, sizeof(len));
    if (len > sizeof(view) + sizeof(crc) && len <= n - 24) {
        crc = crc32c(0, in.p + 24, len - sizeof(crc));
        memcpy(in.p + 24 + len - sizeof(crc), &crc, sizeof(crc));
    }
    bytes_seal(&in, 0);
    if (state_decode(&s, in.p, in.len) == OK) {
        MUST(!view_wrong(&s.view));
        snapshot(&s);
    }
    state_fini(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] & 2)
        restore(data + 1, size - 1);
    else
        commands(data + 1, size - 1, data[0] & 1, data[0] & 4);
    return 0;
}
