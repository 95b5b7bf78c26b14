/* SPDX-License-Identifier: Apache-2.0
 * LAYERS: server rpc store base proto
 *
 * Requests and answers as large as the limits allow, and messages made to take
 * as much of an op's arena as they can: each ends in an answer. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lib/node.h"

static struct test_node n;
static struct node_peer *p;
static uint8_t *bytes;

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

/* The smallest messages and batches that a configuration may ask for. */
static void start(uint64_t batch_keys, uint64_t message_bytes)
{
    log_sink_set(quiet, NULL);
    node_config(&n, MIB(16));
    n.cfg.limits.batch_keys = batch_keys;
    n.cfg.limits.message_bytes = message_bytes;
    node_start(&n);
    p = node_connect(&n, true);
    ck_assert_ptr_nonnull(p);
    bytes = calloc(1, NODE_BUF);
    ck_assert_ptr_nonnull(bytes);
    for (uint32_t i = 0; i < NODE_KEYS; i++)
        p->bytes[i] = bytes;
}

static void stop(void)
{
    node_stop(&n);
    node_free_peer(p);
    free(bytes);
}

/* A request with fields that nobody knows: k of three bytes on the wire and
 * many times that when unpacked, and one of pad bytes. */
struct unknown {
    uint32_t k, pad;
};

static int with_unknown_fields(enum op_id op, ProtobufCMessage *m,
                               struct unknown u)
{
    static ProtobufCMessageUnknownField fields[8192];
    static uint8_t one[] = {1}, pad[16384];

    for (uint32_t i = 0; i < u.k; i++)
        fields[i] = (ProtobufCMessageUnknownField){
            1000, PROTOBUF_C_WIRE_TYPE_VARINT, 1, one};
    pad[0] = (uint8_t)(u.pad & 0x7f) | 0x80; /* its length, then its bytes */
    pad[1] = (uint8_t)(u.pad >> 7);
    fields[u.k] = (ProtobufCMessageUnknownField){
        1001, PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, u.pad + 2, pad};
    m->n_unknown_fields = u.k + 1;
    m->unknown_fields = fields;
    node_msg(p, op, m);
    ck_assert(n.reply.there);
    return n.reply.frame.status;
}

static int unknown_fields_to(uint32_t i, struct unknown k)
{
    Pikv__StatRequest st = PIKV__STAT_REQUEST__INIT;
    Pikv__InspectRequest in = PIKV__INSPECT_REQUEST__INIT;
    Pikv__NamespaceRequest ns = PIKV__NAMESPACE_REQUEST__INIT;
    Pikv__Open open = PIKV__OPEN__INIT;
    Pikv__Hello hello = PIKV__HELLO__INIT;
    Pikv__MemRegister mem = PIKV__MEM_REGISTER__INIT;
    char name[] = "test";

    in.what = PIKV__INSPECT_REQUEST__WHAT__CLIENTS;
    open.name = name;
    open.create = true;
    hello.version = WIRE_VERSION;
    switch (i) {
    case 0:
        return with_unknown_fields(OP_STAT, &st.base, k);
    case 1:
        return with_unknown_fields(OP_INSPECT, &in.base, k);
    case 2:
        return with_unknown_fields(OP_NAMESPACE, &ns.base, k);
    case 3:
        return with_unknown_fields(OP_OPEN, &open.base, k);
    case 4:
        return with_unknown_fields(OP_HELLO, &hello.base, k);
    default:
        return with_unknown_fields(OP_MEM_REGISTER, &mem.base, k);
    }
}

START_TEST(fields_that_nobody_knows_are_skipped_or_refused)
{
    int few, many;

    start(1, KIB(16));
    few = unknown_fields_to((uint32_t)_i, (struct unknown){100, 10});
    if (_i < 5)
        ck_assert_int_eq(few, OK);
    for (uint32_t k = 200; k < 5300; k += 97)
        for (uint32_t pad = 8; 3 * k + pad < 15900; pad += 700) {
            many = unknown_fields_to((uint32_t)_i, (struct unknown){k, pad});
            ck_assert(many == few || many == ERR_BAD_REQUEST);
        }
    ck_assert(!p->closed);
    stop();
}
END_TEST

static void name_of(char *to, size_t cap, uint32_t i, bool full)
{
    snprintf(to, cap, "namespace-%03u-", i);
    if (full)
        memset(to + strlen(to), 'x', cap - 1 - strlen(to));
    to[cap - 1] = '\0';
}

/* A namespace with all groups, and texts as long as they may be. */
static void open_large(uint32_t i, bool full)
{
    Pikv__Open m = PIKV__OPEN__INIT;
    Pikv__Fingerprint f = PIKV__FINGERPRINT__INIT;
    Pikv__Group groups[STORE_GROUPS], *list[STORE_GROUPS];
    char name[REGISTRY_NAME], text[REGISTRY_TEXT], word[REGISTRY_WORD];

    name_of(name, sizeof name, i, true);
    name_of(text, full ? sizeof text : 24, i, full);
    name_of(word, sizeof word, i, true);
    f.model = f.weights_version = f.tokenizer_hash = f.hash_seed = text;
    f.dtype = f.scale_format = f.parallel_layout = text;
    for (uint32_t g = 0; g < STORE_GROUPS; g++) {
        pikv__group__init(&groups[g]);
        groups[g].id = g;
        groups[g].layers = groups[g].kv_heads = UINT32_MAX;
        groups[g].head_dim = groups[g].tokens_per_block = UINT32_MAX;
        groups[g].block_bytes = MIB(1) + g;
        groups[g].kind = groups[g].dtype = groups[g].order = word;
        list[g] = &groups[g];
    }
    m.name = name;
    m.fingerprint = &f;
    m.n_groups = full ? STORE_GROUPS : 2;
    m.groups = list;
    m.create = true;
    node_msg(p, OP_OPEN, &m);
    ck_assert_int_eq(n.reply.frame.status, OK);
}

/* All of them at once: listed, or too large for a message; never an abort. */
START_TEST(as_many_namespaces_as_there_may_be_are_listed)
{
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    const Pikv__NamespaceReply *rep;
    static uint8_t mem[1 << 20];
    struct arena a;

    start(1, _i ? KIB(192) : KIB(16));
    for (uint32_t i = 0; i < n.cfg.namespaces.max; i++)
        open_large(i, !_i);
    node_msg(p, OP_NAMESPACE, &m);
    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.frame.status, _i ? OK : ERR_LIMIT);
    if (_i) {
        arena_init(&a, mem, sizeof mem);
        rep = msg_unpack(&pikv__namespace_reply__descriptor, &a, n.reply.env,
                         n.reply.frame.env_len);
        ck_assert_uint_eq(rep->n_namespaces, n.cfg.namespaces.max);
    }
    stop();
}
END_TEST

enum { LONG_KEYS = 300 };

static void put_long_keys(void)
{
    char key[WIRE_KEY_MAX + 1], parent[WIRE_KEY_MAX + 1];
    struct node_batch b;

    for (uint32_t i = 0; i < LONG_KEYS; i++) {
        name_of(parent, sizeof parent, i, true);
        name_of(key, sizeof key, i + 1, true);
        batch_new(&b, &n, OP_PUT);
        batch_key(&b, key, (struct wire_key){.len = 100}, parent, NULL);
        batch_send(&b, p, NULL, 0);
        ck_assert_int_eq(n.reply.r[0].status, OK);
    }
}

/* Every key is on some page, however small a message may be. */
START_TEST(pages_of_the_longest_keys_lose_none)
{
    Pikv__InspectRequest m = PIKV__INSPECT_REQUEST__INIT;
    const Pikv__InspectReply *rep;
    static bool seen[LONG_KEYS + 1];
    static uint8_t mem[1 << 20];
    uint32_t found = 0, pages = 0, i;
    struct arena a;

    start(1, _i ? KIB(192) : KIB(16));
    node_open(&n, p, "lru");
    put_long_keys();
    memset(seen, 0, sizeof seen);
    m.ns = n.ns;
    m.what = PIKV__INSPECT_REQUEST__WHAT__KEYS;
    do {
        node_msg(p, OP_INSPECT, &m);
        ck_assert_int_eq(n.reply.frame.status, OK);
        arena_init(&a, mem, sizeof mem);
        rep = msg_unpack(&pikv__inspect_reply__descriptor, &a, n.reply.env,
                         n.reply.frame.env_len);
        ck_assert_ptr_nonnull(rep);
        for (size_t k = 0; k < rep->n_blocks; k++) {
            ck_assert_uint_eq(rep->blocks[k]->key.len, WIRE_KEY_MAX);
            ck_assert_uint_eq(rep->blocks[k]->parent.len, WIRE_KEY_MAX);
            ck_assert_int_eq(sscanf((char *)rep->blocks[k]->key.data,
                                    "namespace-%u", &i),
                             1);
            ck_assert(!seen[i]);
            seen[i] = true;
            found++;
        }
        m.cursor = rep->next_cursor;
        ck_assert_uint_lt(++pages, LONG_KEYS);
    } while (m.cursor);
    ck_assert_uint_eq(found, LONG_KEYS);
    stop();
}
END_TEST

Suite *suite(void)
{
    Suite *s = suite_create("ops_limits");
    TCase *t = tcase_create("limits");

    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, fields_that_nobody_knows_are_skipped_or_refused, 0,
                        6);
    tcase_add_loop_test(t, as_many_namespaces_as_there_may_be_are_listed, 0, 2);
    tcase_add_loop_test(t, pages_of_the_longest_keys_lose_none, 0, 2);
    suite_add_tcase(s, t);
    return s;
}
