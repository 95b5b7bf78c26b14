/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes to a sequence of operations on a lane, checked against a dictionary:
 * each step takes four bytes (what, key, length or flag, more) and is one
 * request of one of two connections. The oracle knows which bytes a key may
 * have; store_check verifies the store's invariants at the end. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "lib/node.h"

enum { KEYS = 16, STEPS_MAX = 512 };

struct world {
    struct test_node n;
    struct node_peer *p[2];
    uint8_t fill[KEYS]; /* what the key's bytes are, if stored */
    uint64_t len[KEYS]; /* 0: not stored, or unknown (evicted) */
    uint64_t puts;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void quiet(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static void key_name(uint32_t key, char name[16])
{
    memcpy(name, "key-a", 6);
    name[4] = (char)('a' + key);
}

static struct node_peer *connection(struct world *w, uint32_t i)
{
    if (w->p[i] && w->p[i]->told) {
        free(w->p[i]->bytes[0]);
        free(w->p[i]);
        w->p[i] = NULL;
    }
    if (!w->p[i]) {
        w->p[i] = node_connect(&w->n, true);
        MUST(w->p[i]);
        w->p[i]->bytes[0] = malloc(NODE_BUF);
        MUST(w->p[i]->bytes[0]);
    }
    return w->p[i];
}

static void do_put(struct world *w, struct node_peer *p, uint32_t key,
                   uint64_t len)
{
    uint8_t fill = (uint8_t)++w->puts;
    char name[16];
    int s;

    key_name(key, name);
    memset(p->bytes[0], fill, len);
    s = node_put(p, name, len);
    MUST(s == OK || s == ERR_EXISTS || s == ERR_BUSY || s == ERR_NO_SPACE);
    MUST(s != ERR_EXISTS || w->len[key]);
    if (s == OK) {
        w->fill[key] = fill;
        w->len[key] = len;
    }
}

static void do_get(struct world *w, struct node_peer *p, uint32_t key,
                   uint64_t room)
{
    const struct wire_result *r = &w->n.reply.r[0];
    char name[16];
    int s;

    key_name(key, name);
    s = node_get(p, name, room);
    MUST(s == OK || s == ERR_MISS);
    if (s)
        return;
    MUST(w->len[key] == r->len);
    MUST(r->moved == min_u64(room, r->len));
    for (uint64_t i = 0; i < r->moved; i++)
        MUST(p->bytes[0][i] == w->fill[key]);
}

static void do_batch(struct world *w, struct node_peer *p, enum op_id op,
                     uint32_t key, uint8_t flag)
{
    struct wire_attr attr = {.label0 = flag};
    struct node_batch b;
    char name[16], parent[16];

    key_name(key, name);
    key_name((key + 1) % KEYS, parent);
    batch_new(&b, &w->n, op);
    b.head.pin_ttl_ms = flag;
    if (op == OP_EVICT)
        b.head.select = flag % 6;
    if (op == OP_LOOKUP)
        batch_column(&b, flag % 3, flag);
    batch_key(&b, name, (struct wire_key){.len = flag},
              flag & 1 ? parent : NULL, flag & 2 ? &attr : NULL);
    batch_send(&b, p, NULL, 0);
    MUST(w->n.reply.there);
}

static void step(struct world *w, const uint8_t s[4])
{
    struct node_peer *p = connection(w, s[0] >> 7);
    uint32_t key = s[1] % KEYS;
    uint64_t len = 1 + ((uint64_t)s[2] << (s[3] % 14));
    Pikv__NamespaceRequest m = PIKV__NAMESPACE_REQUEST__INIT;
    char name[] = "test";

    switch (s[0] % 12) {
    case 0:
    case 1:
    case 2:
        do_put(w, p, key, min_u64(len, NODE_BUF));
        break;
    case 3:
    case 4:
        do_get(w, p, key, len);
        break;
    case 5:
        do_batch(w, p, OP_LOOKUP, key, s[2]);
        break;
    case 6:
        do_batch(w, p, OP_PIN, key, s[2]);
        break;
    case 7:
        do_batch(w, p, OP_UNPIN, key, s[2]);
        break;
    case 8:
        do_batch(w, p, OP_EVICT, key, s[2]);
        break;
    case 9:
        node_sleep(&w->n, (uint64_t)s[2] * NS_PER_MS);
        break;
    case 10:
        node_hangup(p);
        break;
    default:
        m.name = name;
        m.bump = true;
        node_msg(p, OP_NAMESPACE, &m);
        node_open(&w->n, p, "lru");
        memset(w->len, 0, sizeof w->len);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world *w = calloc(1, sizeof *w);

    MUST(w);
    log_sink_set(quiet, NULL);
    node_config(&w->n, MIB(8));
    node_start(&w->n);
    node_open(&w->n, connection(w, 0), "arc");
    for (size_t i = 0; i + 4 <= size && i < 4 * STEPS_MAX; i += 4)
        step(w, data + i);
    node_stop(&w->n);
    node_forget(&w->n);
    for (uint32_t i = 0; i < 2; i++) {
        if (!w->p[i])
            continue;
        free(w->p[i]->bytes[0]);
        free(w->p[i]);
    }
    free(w);
    return 0;
}
