/* SPDX-License-Identifier: Apache-2.0
 *
 * See fake_cluster.h. */
#include "tests/lib/fake_cluster.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "base/hash.h"

enum { COMES_MS = 20000, RUN = 16 };

struct fake *fakes[FAKE_NODES];
struct fake_view view;
struct pikv *kv;
uint32_t ns;
const struct pikv_call patient = {.deadline_us = 20000000};

void cluster_tell(uint32_t node)
{
    fake_set_view(fakes[node], &view, node);
}

void cluster_tell_all(void)
{
    for (uint32_t i = 0; i < FAKE_NODES; i++)
        if (fakes[i])
            cluster_tell(i);
}

void cluster_fakes(uint32_t n, uint32_t lanes)
{
    memset(&view, 0, sizeof(view));
    view.epoch = view.generation = 1;
    view.node_n = n;
    for (uint32_t i = 0; i < n; i++) {
        fakes[i] = fake_start(lanes);
        view.nodes[i].at = fakes[i];
        view.nodes[i].state = "up";
        view.nodes[i].host = 77;
    }
    for (uint32_t slot = 0; slot < WIRE_SLOTS; slot++) {
        struct fake_row *row = &view.rows[slot];

        row->from = row->to = FAKE_NONE;
        for (uint32_t k = 0; k < 3; k++)
            row->owner[k] =
                (uint16_t)(k < n ? (slot / RUN + k) % n : FAKE_NONE);
    }
    cluster_tell_all();
}

void fakes_open(uint32_t n, uint32_t lanes, struct pikv_options o)
{
    struct pikv_namespace d = {.name = "test", .create = true};

    cluster_fakes(n, lanes);
    if (!o.address)
        o.address = fake_address(fakes[0]);
    o.connect_ms = 20000;
    MUST(pikv_open(&o, &kv) == PIKV_OK);
    MUST(pikv_namespace_open(kv, &d, &ns, NULL) == PIKV_OK);
}

void cluster_end(void)
{
    pikv_close(kv);
    for (uint32_t i = 0; i < FAKE_NODES; i++) {
        if (fakes[i])
            fake_stop(fakes[i]);
        fakes[i] = NULL;
    }
}

struct pikv_key key_of(const char *s)
{
    return (struct pikv_key){.key = {s, strlen(s)}};
}

uint32_t slot_of_key(const char *s)
{
    return hash_slot(99, s, strlen(s));
}

const char *key_at(uint32_t node, char out[16], uint32_t *at)
{
    do
        snprintf(out, 16, "k%u", (*at)++);
    while (view.rows[slot_of_key(out)].owner[0] != node);
    return out;
}

int put_copies(const char *key, const void *p, size_t n, uint8_t replicas)
{
    struct pikv_put item = {
        .key = key_of(key), .data = {p, n}, .replicas = replicas};
    struct pikv_result r;
    int e = pikv_put_sync(kv, ns, &item, 1, &patient, &r);

    return e ? e : r.status;
}

int fakes_put(const char *key, const void *p, size_t n)
{
    return put_copies(key, p, n, 0);
}

int get_within(const char *key, void *p, size_t n, uint32_t us,
               struct pikv_result *r)
{
    struct pikv_get item = {.key = key_of(key), .data = {p, n}};
    struct pikv_call call = {.deadline_us = us};
    int e = pikv_get_sync(kv, ns, &item, 1, &call, r);

    return e ? e : r->status;
}

int fakes_get(const char *key, void *p, size_t n, struct pikv_result *r)
{
    return get_within(key, p, n, patient.deadline_us, r);
}

uint64_t clock_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

bool comes(bool (*is)(void))
{
    uint64_t until = clock_ms() + COMES_MS;

    while (clock_ms() < until) {
        if (is())
            return true;
        usleep(1000);
    }
    return is();
}
