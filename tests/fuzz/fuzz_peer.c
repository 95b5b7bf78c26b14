/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as what a peer sends. The first byte says how the rest is read:
 * 0 as a stream of frames, in one piece and in pieces; else as a message of
 * that kind. Frames do not depend on how the bytes were cut; a message that is
 * taken keeps to its limits, and goes out again as it would come in. */
#include <stdlib.h>
#include <string.h>

#include "cluster/peer_msg.h"
#include "server/peer_link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FRAME_LIMIT = 4096 };

static void check_hello(const Peer__Hello *h)
{
    MUST(strlen(h->name) < NODE_NAME_MAX && strlen(h->zone) < NODE_NAME_MAX);
    MUST(!h->at || (strlen(h->at->peer) < NODE_ADDR_MAX &&
                    strlen(h->at->ucx) < NODE_ADDR_MAX));
}

static void check_beat(const Peer__Beat *b)
{
    MUST(b->n_moved_in <= PEER_MOVED_MAX);
    MUST(b->n_unreachable <= PEER_UNREACHABLE_MAX);
    if (!b->load)
        return;
    MUST(b->load->n_slots <= PEER_LOAD_SLOTS_MAX);
    MUST(b->load->n_experts <= PEER_LOAD_EXPERTS_MAX);
    for (size_t i = 0; i < b->load->n_experts; i++)
        MUST(b->load->experts[i]->n_counts <= PEER_EXPERT_COUNTS_MAX);
}

static void message(uint16_t kind, const uint8_t *p, size_t n)
{
    void *m = peer_msg_unpack(kind, p, n), *again;
    struct bytes b = {0};

    if (!m)
        return;
    MUST(n <= peer_msg_max(kind));
    if (kind == PEER_HELLO)
        check_hello(m);
    if (kind == PEER_BEAT)
        check_beat(m);
    if (kind == PEER_RAFT)
        MUST(((Peer__Raft *)m)->n_entries <= PEER_RAFT_ENTRIES_MAX);
    if (peer_msg_pack(kind, m, &b) == OK) { /* numbers may grow a little */
        again = peer_msg_unpack(kind, b.p, b.len);
        MUST(again);
        peer_msg_free(again);
    }
    bytes_fini(&b);
    peer_msg_free(m);
}

/* How many frames there are, and at which byte it ends or turns to nonsense. */
static size_t frames(const uint8_t *p, size_t n, size_t step, uint32_t *count,
                     bool *bad)
{
    size_t at = 0, have = 0;

    *count = 0;
    *bad = false;
    while (!*bad) {
        const uint8_t *msg;
        uint16_t kind;
        size_t len;
        long k =
            peer_frame_take(p + at, have - at, FRAME_LIMIT, &kind, &msg, &len);

        MUST(k <= (long)(have - at));
        if (k > 0) {
            MUST(len <= FRAME_LIMIT && msg + len == p + at + k);
            message(kind, msg, len);
            at += (size_t)k;
            ++*count;
        } else if (k < 0) {
            *bad = true;
        } else if (have == n) {
            break;
        } else {
            have += n - have < step ? n - have : step;
        }
    }
    return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t whole, cut;
    bool bad_whole, bad_cut;

    if (size == 0)
        return 0;
    if (data[0]) {
        message(data[0], data + 1, size - 1);
        return 0;
    }
    MUST(frames(data + 1, size - 1, SIZE_MAX, &whole, &bad_whole) ==
         frames(data + 1, size - 1, 1, &cut, &bad_cut));
    MUST(whole == cut && bad_whole == bad_cut);
    return 0;
}
