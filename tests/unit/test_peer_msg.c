/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: cluster base proto
 *
 * Limits of peers' messages: what is within passes, one more does not, and few
 * bytes never cost much memory. */
#include <check.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "cluster/peer_msg.h"

static struct bytes out;

static void setup(void)
{
    out = (struct bytes){0};
}

static void teardown(void)
{
    bytes_fini(&out);
}

static bool takes(uint16_t kind, const void *p, size_t n)
{
    void *m = peer_msg_unpack(kind, p, n);

    peer_msg_free(m);
    return m != NULL;
}

START_TEST(a_full_beat_comes_back_as_it_was)
{
    Peer__Beat b = PEER__BEAT__INIT, *got;
    Peer__Load load = PEER__LOAD__INIT;
    Peer__SlotLoad slots[PEER_LOAD_SLOTS_MAX], *sp[PEER_LOAD_SLOTS_MAX];
    Peer__ExpertCount e = PEER__EXPERT_COUNT__INIT, *ep[PEER_LOAD_EXPERTS_MAX];
    static uint64_t counts[PEER_EXPERT_COUNTS_MAX];
    static uint32_t moved[PEER_MOVED_MAX];

    for (uint32_t i = 0; i < countof(slots); i++) {
        peer__slot_load__init(&slots[i]);
        slots[i].slot = i;
        slots[i].ops = UINT64_MAX;
        sp[i] = &slots[i];
    }
    memset(counts, 0xff, sizeof(counts));
    e.counts = counts;
    e.n_counts = countof(counts);
    for (uint32_t i = 0; i < countof(ep); i++)
        ep[i] = &e;
    for (uint32_t i = 0; i < countof(moved); i++)
        moved[i] = i * 16;
    load.slots = sp;
    load.n_slots = countof(sp);
    load.experts = ep;
    load.n_experts = countof(ep);
    b.load = &load;
    b.moved_in = moved;
    b.n_moved_in = countof(moved);
    b.seq = 7;
    ck_assert_int_eq(peer_msg_pack(PEER_BEAT, &b, &out), OK);
    got = peer_msg_unpack(PEER_BEAT, out.p, out.len);
    ck_assert_ptr_nonnull(got);
    ck_assert_uint_eq(got->seq, 7);
    ck_assert_uint_eq(got->moved_in[PEER_MOVED_MAX - 1],
                      (PEER_MOVED_MAX - 1) * 16);
    ck_assert_uint_eq(got->load->n_experts, PEER_LOAD_EXPERTS_MAX);
    peer_msg_free(got);
    b.n_moved_in++; /* of a list one more */
    ck_assert_int_eq(peer_msg_pack(PEER_BEAT, &b, &out), ERR_LIMIT);
}
END_TEST

START_TEST(the_largest_raft_message_is_taken_and_a_larger_one_is_not)
{
    static uint8_t data[PEER_MSG_BYTES];
    static Peer__RaftEntry entries[PEER_RAFT_ENTRIES_MAX + 1];
    static Peer__RaftEntry *ep[PEER_RAFT_ENTRIES_MAX + 1];
    Peer__Raft r = PEER__RAFT__INIT;

    for (uint32_t i = 0; i < countof(ep); i++) {
        peer__raft_entry__init(&entries[i]);
        entries[i].term = UINT64_MAX;
        ep[i] = &entries[i];
    }
    r.entries = ep;
    r.n_entries = PEER_RAFT_ENTRIES_MAX;
    r.snapshot.data = data;
    r.snapshot.len = sizeof(data) - 64 * PEER_RAFT_ENTRIES_MAX;
    ck_assert_int_eq(peer_msg_pack(PEER_RAFT, &r, &out), OK);
    ck_assert(takes(PEER_RAFT, out.p, out.len));
    out.len = 0;
    r.n_entries++;
    ck_assert_int_eq(peer_msg_pack(PEER_RAFT, &r, &out), ERR_LIMIT);
    r.n_entries = 0;
    r.snapshot.len = sizeof(data);
    ck_assert_int_eq(peer_msg_pack(PEER_RAFT, &r, &out), ERR_LIMIT);
    ck_assert_uint_eq(out.len, 0);
}
END_TEST

START_TEST(a_text_has_its_length_and_no_nul)
{
    char name[NODE_NAME_MAX + 1];
    Peer__Hello h = PEER__HELLO__INIT;

    memset(name, 'n', sizeof(name));
    name[NODE_NAME_MAX - 1] = 0;
    h.name = name;
    ck_assert_int_eq(peer_msg_pack(PEER_HELLO, &h, &out), OK);
    ck_assert(takes(PEER_HELLO, out.p, out.len));
    out.p[out.len - 3] = 0;
    ck_assert(!takes(PEER_HELLO, out.p, out.len));
    name[NODE_NAME_MAX - 1] = 'n';
    name[NODE_NAME_MAX] = 0;
    ck_assert_int_eq(peer_msg_pack(PEER_HELLO, &h, &out), ERR_LIMIT);
}
END_TEST

/* Rows of two bytes, as many as fit: refused before anything is allocated. */
START_TEST(many_small_rows_cost_nothing)
{
    static uint8_t p[PEER_MSG_BYTES];
    struct mallinfo2 before, after;

    for (size_t i = 0; i < sizeof(p); i += 2)
        p[i] = 10 << 3 | 2; /* Raft.entries, empty */
    before = mallinfo2();
    ck_assert(!takes(PEER_RAFT, p, sizeof(p)));
    after = mallinfo2();
    ck_assert_uint_le(after.arena + after.hblkhd,
                      before.arena + before.hblkhd + 65536);
    ck_assert(takes(PEER_RAFT, p, 2 * PEER_RAFT_ENTRIES_MAX));
    ck_assert(!takes(PEER_RAFT, p, 2 * PEER_RAFT_ENTRIES_MAX + 2));
}
END_TEST

START_TEST(malformed_messages_are_refused)
{
    static const struct {
        uint16_t kind;
        uint8_t n, p[12];
    } bad[] = {
        {PEER_HELLO, 1, {0x08}},             /* a number without bytes */
        {PEER_HELLO, 2, {0x00, 0x00}},       /* field 0 */
        {PEER_HELLO, 2, {0x2a, 0x05}},       /* longer than what is left */
        {PEER_HELLO, 2, {0x28, 0x01}},       /* a text as a number */
        {PEER_HELLO, 2, {0x0a, 0x00}},       /* a number as bytes */
        {PEER_HELLO, 4, {0x08, 1, 0x08, 1}}, /* twice */
        {PEER_HELLO, 4, {0x5a, 0, 0x5a, 0}}, /* a message twice */
        {PEER_HELLO, 1, {0x0b}},             /* a group */
        {PEER_HELLO, 7, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}}, /* a tag */
        {PEER_HELLO,
         12,
         {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
          1}},                                 /* a number of 11 bytes */
        {PEER_BEAT, 5, {0x2a, 3, 0x3a, 5, 8}}, /* within within */
        {0, 0, {0}},                           /* no such kind */
        {PEER_KINDS, 0, {0}},
        {UINT16_MAX, 0, {0}},
    };

    for (size_t i = 0; i < countof(bad); i++)
        ck_assert_msg(!takes(bad[i].kind, bad[i].p, bad[i].n), "row %zu", i);
    for (uint16_t kind = PEER_HELLO; kind < PEER_KINDS; kind++) {
        ck_assert(takes(kind, NULL, 0));
        ck_assert_uint_gt(peer_msg_max(kind), 0);
        ck_assert_uint_le(peer_msg_max(kind), PEER_MSG_BYTES);
    }
}
END_TEST

START_TEST(a_few_unknown_fields_of_a_newer_peer_are_ignored)
{
    uint8_t p[256];

    for (size_t i = 0; i < 64; i++)
        memcpy(p + 3 * i, (const uint8_t[]){0xa0, 0x06, 0x05}, 3);
    ck_assert(takes(PEER_BYE, p, 3 * 32));
    ck_assert(!takes(PEER_BYE, p, 3 * 33));
}
END_TEST

/* A field of peer.proto without a limit would not pass at all: each text, byte
 * string and list has one, and nothing nests for ever. */
static void descend(const ProtobufCMessageDescriptor *d, int depth)
{
    ck_assert_int_lt(depth, 4);
    ck_assert_uint_le(d->n_fields, 32);
    for (unsigned i = 0; i < d->n_fields; i++)
        if (d->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
            descend(d->fields[i].descriptor, depth + 1);
}

START_TEST(messages_nest_three_deep_at_most)
{
    descend(&peer__hello__descriptor, 1);
    descend(&peer__beat__descriptor, 1);
    descend(&peer__raft__descriptor, 1);
}
END_TEST

START_TEST(without_memory_there_is_no_message_and_no_leak)
{
    static const uint8_t p[] = {0x2a, 3, 'a', 'b', 'c', 0x5a, 3, 0x0a, 1, 'p'};
    bool hit = true;

    for (uint32_t i = 1; hit; i++) {
        Peer__Hello *h;

        fault_arm(i);
        h = peer_msg_unpack(PEER_HELLO, p, sizeof(p));
        hit = fault_hit();
        fault_arm(0);
        ck_assert(hit == (h == NULL));
        peer_msg_free(h);
    }
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("peer_msg");
    TCase *t = tcase_create("limits");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_full_beat_comes_back_as_it_was);
    tcase_add_test(t,
                   the_largest_raft_message_is_taken_and_a_larger_one_is_not);
    tcase_add_test(t, a_text_has_its_length_and_no_nul);
    tcase_add_test(t, many_small_rows_cost_nothing);
    tcase_add_test(t, malformed_messages_are_refused);
    tcase_add_test(t, a_few_unknown_fields_of_a_newer_peer_are_ignored);
    tcase_add_test(t, messages_nest_three_deep_at_most);
    tcase_add_test(t, without_memory_there_is_no_message_and_no_leak);
    suite_add_tcase(s, t);
    return s;
}
