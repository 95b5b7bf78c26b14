/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a view (first byte even) or as a delta to a view (odd). Magic,
 * version and crc are set right, so that the fuzzer gets behind them. What is
 * accepted keeps the rules of views and comes back from its own bytes; what is
 * refused changes nothing. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "cluster/view.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct view base, got, again;

static void node(struct view *v, const char *name)
{
    struct node *n;

    MUST(view_room(v, v->node_n + 1) == OK);
    n = &v->nodes[v->node_n++];
    memcpy(n->name, name, strlen(name));
    n->uuid = v->node_n;
    n->state = NODE_UP;
    n->lane_n = 1;
    n->weight = 1;
}

/* Four nodes, slots 0 to 63 theirs, one namespace flushed. */
static void start(void)
{
    if (base.slots)
        return;
    MUST(view_init(&base) == OK && view_init(&got) == OK &&
         view_init(&again) == OK);
    node(&base, "a");
    node(&base, "b");
    node(&base, "c");
    node(&base, "d");
    for (uint16_t i = 0; i < 64; i++) {
        base.slots[i].owner[0] = i % 4;
        base.slots[i].owner[1] = (i + 1u) % 4;
    }
    MUST(view_flush_room(&base, 1) == OK);
    base.flushes[base.flush_n++] = (struct view_flush){1, 1};
    base.generation = 1;
    base.epoch = 5;
}

static void whole(const struct bytes *in)
{
    struct bytes b = {0};

    if (view_decode(&got, in->p, in->len) != OK)
        return;
    MUST(!view_wrong(&got));
    view_encode(&got, &b);
    MUST(!b.bad && view_decode(&again, b.p, b.len) == OK);
    MUST(view_digest(&got) == view_digest(&again));
    bytes_fini(&b);
}

static void delta(const struct bytes *in)
{
    struct bytes b = {0};

    MUST(view_copy(&got, &base) == OK);
    if (view_apply_delta(&got, in->p, in->len) != OK) {
        MUST(view_digest(&got) == view_digest(&base));
        return;
    }
    MUST(!view_wrong(&got));
    view_delta(&base, &got, &b);
    MUST(view_copy(&again, &base) == OK);
    MUST(!b.bad && view_apply_delta(&again, b.p, b.len) == OK);
    MUST(view_digest(&got) == view_digest(&again));
    bytes_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t head[] = {'P', 'K', 'V', 'V', 1, 0};
    struct bytes b = {0};

    start();
    if (size < 1 + sizeof(head))
        return 0;
    bytes_put(&b, head, sizeof(head));
    bytes_put(&b, data + 1 + sizeof(head), size - 1 - sizeof(head));
    bytes_seal(&b, 0);
    if (data[0] & 1)
        delta(&b);
    else
        whole(&b);
    bytes_fini(&b);
    return 0;
}
