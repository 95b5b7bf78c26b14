/* SPDX-License-Identifier: Apache-2.0
 *
 * A node with an SSD and short ways to ask it something (node_ssd.h). */
#include "lib/node_ssd.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"

struct test_node n;
struct node_peer *p;
struct mem_media *media;
uint8_t *buf[NODE_KEYS];
static uint8_t unpacked[1 << 17];
static struct arena box;

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static void greet(void)
{
    p = node_connect(&n, true);
    ck_assert_ptr_nonnull(p);
    for (uint32_t i = 0; i < NODE_KEYS; i++)
        p->bytes[i] = buf[i];
    node_open(&n, p, "lru");
    ck_assert_uint_ne(n.ns, 0);
}

void up(void)
{
    log_sink_set(quiet, NULL);
    for (uint32_t i = 0; i < NODE_KEYS; i++) {
        buf[i] = calloc(1, NODE_BUF);
        ck_assert_ptr_nonnull(buf[i]);
    }
    media = mem_media_new(1, SSD_BYTES, false);
    node_config(&n, MIB(16));
    n.media = media;
    node_start(&n);
    greet();
}

void down(void)
{
    node_stop(&n);
    node_free_peer(p);
    node_forget(&n);
    mem_media_free(media);
    for (uint32_t i = 0; i < NODE_KEYS; i++)
        free(buf[i]);
}

void again_budget(bool checkpoint, const char *budget)
{
    n.cfg.ssd.checkpoint = checkpoint;
    node_stop(&n);
    node_free_peer(p);
    node_again(&n, media);
    snprintf(n.cfg.ssd.write_budget, sizeof n.cfg.ssd.write_budget, "%s",
             budget);
    node_start(&n);
    greet();
}

void again(bool checkpoint)
{
    again_budget(checkpoint, "off");
}

void fill(uint8_t *to, const char *key, uint64_t len)
{
    uint64_t h = crc32c(0, key, strlen(key));

    for (uint64_t i = 0; i < len; i++)
        to[i] = (uint8_t)(h + i * 7 + i / 251);
}

bool same(const uint8_t *at, const char *key, uint64_t len)
{
    uint64_t h = crc32c(0, key, strlen(key));

    for (uint64_t i = 0; i < len; i++)
        if (at[i] != (uint8_t)(h + i * 7 + i / 251))
            return false;
    return true;
}

int put_attr(const char *key, uint64_t len, const struct wire_attr *attr,
             const char *parent)
{
    struct node_batch b;

    fill(buf[0], key, len);
    batch_new(&b, &n, OP_PUT);
    batch_key(&b, key, (struct wire_key){.len = len}, parent, attr);
    batch_send(&b, p, NULL, 0);
    return n.reply.there ? n.reply.r[0].status : 1;
}

int put(const char *key, uint64_t len)
{
    return put_attr(key, len, NULL, NULL);
}

int get(const char *key, uint64_t len)
{
    memset(buf[0], 0, len);
    return node_get(p, key, len);
}

int get_same(const char *key, uint64_t len)
{
    int e = get(key, len);

    return e ? e : same(buf[0], key, len) ? OK : ERR_CORRUPT;
}

int key_op(enum op_id op, uint32_t flags, const char *key)
{
    struct node_batch b;

    batch_new(&b, &n, op);
    b.head.flags = flags;
    if (op == OP_LOOKUP)
        batch_column(&b, RULE_ALL, 0);
    batch_key(&b, key, (struct wire_key){.key_len = 1}, NULL, NULL);
    batch_send(&b, p, NULL, 0);
    node_sleep(&n, 20 * NS_PER_MS);
    ck_assert(n.reply.there);
    return n.reply.frame.status ? n.reply.frame.status : n.reply.r[0].status;
}

enum store_where where(const char *key, uint32_t *block_out)
{
    static const uint8_t no_scope[16];
    struct store_key k = {.ns = n.ns,
                          .key = (const uint8_t *)key,
                          .key_len = (uint16_t)strlen(key),
                          .scope = no_scope};
    enum store_found why;

    store_key_hash(n.lane.store, &k);
    *block_out = store_find(n.lane.store, &k, &why);
    return *block_out ? store_where(n.lane.store, *block_out) : WHERE_MEMORY;
}

void put_cold_attr(const char *key, uint64_t len, const struct wire_attr *attr,
                   const char *parent)
{
    uint32_t block;

    ck_assert_int_eq(put_attr(key, len, attr, parent), OK);
    ck_assert_int_eq(key_op(OP_EVICT, BATCH_DEMOTE, key), OK);
    ck_assert_int_eq(where(key, &block), WHERE_SSD);
}

void put_cold(const char *key, uint64_t len)
{
    put_cold_attr(key, len, NULL, NULL);
}

const void *unpack(const void *descriptor)
{
    const void *m;

    ck_assert(n.reply.there);
    ck_assert_int_eq(n.reply.frame.status, OK);
    arena_init(&box, unpacked, sizeof unpacked);
    m = msg_unpack(descriptor, &box, n.reply.env, n.reply.frame.env_len);
    ck_assert_ptr_nonnull(m);
    return m;
}

void spoil(void)
{
    for (uint64_t i = MIB(2) + 2 * DISK_PAGE; i < MIB(3); i++)
        media->image[0][i] ^= 1;
}
