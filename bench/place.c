/* SPDX-License-Identifier: Apache-2.0
 *
 * `pikv-bench place`: what placement and balancing give, computed with the
 * daemon's own code (daemon/cluster/place.h, balance.h) and no daemon.
 *
 *   default        for 2 to 1,000 nodes: how even, what moves when one is lost
 *                  or joins, how long it takes
 *   --trace FILE   a conversation trace on N nodes by each router: nodes that
 *                  a request touches, load of the nodes before and after
 *                  balancing, slots moved (place_trace.c)
 *
 * Nothing is stored: a reference to a block is one operation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/bench.h"
#include "bench/place.h"

enum { ROWS = CMD_SLOTS_MAX, ZONES = 4, RACKS = 10 };

/* ---- a view driven by hand ---- */

bool place_view(struct view *v, uint32_t nodes)
{
    *v = (struct view){.cluster = 42, .node_n = nodes};
    v->nodes = calloc(NODES_MAX, sizeof(*v->nodes));
    v->slots = calloc(WIRE_SLOTS, sizeof(*v->slots));
    for (uint32_t i = 0; v->nodes && i < NODES_MAX; i++) {
        struct node *n = &v->nodes[i];

        n->state = NODE_UP;
        n->weight = 1000;
        snprintf(n->name, sizeof(n->name), "node%u", i);
        if (nodes > ZONES * 2) {
            snprintf(n->zone, sizeof(n->zone), "z%u", i % ZONES);
            snprintf(n->rack, sizeof(n->rack), "r%u", i / ZONES % RACKS);
        }
    }
    return v->nodes && v->slots && place_compute(v, v->slots) == OK;
}

void place_view_free(struct view *v)
{
    free(v->nodes);
    free(v->slots);
}

void place_moves_end(struct view *v)
{
    struct slot_row row;

    for (uint32_t s = 0; s < WIRE_SLOTS; s++) {
        if (place_hand_over(v, s, &row))
            v->slots[s] = row.to;
        if (place_release(v, s, &row))
            v->slots[s] = row.to;
    }
}

/* Asks and applies until nothing is left to do. */
static bool place_settle(struct view *v)
{
    const struct place_cfg cfg = {.under_way = ROWS, .copies = ROWS};
    static struct slot_row rows[ROWS];
    uint32_t n = 0;

    do {
        if (place_next(v, &cfg, rows, ROWS, &n) != OK)
            return false;
        for (uint32_t i = 0; i < n; i++)
            v->slots[rows[i].slot] = rows[i].to;
        place_moves_end(v);
    } while (n);
    return true;
}

/* ---- the table ---- */

struct place_result {
    double low, high; /* of homes, beside the share */
    double compute_ms, next_ms, lost, joined;
};

static void place_even(const struct view *v, double *low, double *high)
{
    static struct place_load load[NODES_MAX];

    place_loads(v, load);
    *low = 1e9;
    *high = 0;
    for (uint32_t i = 0; i < v->node_n; i++) {
        double x = load[i].homes * 16.0 / (double)load[i].share_x16;

        if (v->nodes[i].state != NODE_UP)
            continue;
        *low = x < *low ? x : *low;
        *high = x > *high ? x : *high;
    }
}

/* Homes that are not as in before, as a part of one node's share. */
static double place_moved(const struct view *v, const struct slot *before,
                          uint32_t nodes)
{
    uint32_t n = 0;

    for (uint32_t s = 0; s < WIRE_SLOTS; s++)
        n += v->slots[s].owner[0] != before[s].owner[0];
    return (double)n * nodes / WIRE_SLOTS;
}

/* Of this process's CPU: the machine may be busy. */
static double ms_since(clock_t start)
{
    return (double)(clock() - start) * 1e3 / (double)CLOCKS_PER_SEC;
}

static bool place_run(uint32_t nodes, struct place_result *r)
{
    const struct place_cfg cfg = {.under_way = 0};
    static struct slot before[WIRE_SLOTS];
    static struct slot_row rows[ROWS];
    clock_t start = clock();
    struct view v;
    uint32_t n;
    bool good = place_view(&v, nodes);

    r->compute_ms = ms_since(start);
    start = clock();
    good = good && place_next(&v, &cfg, rows, ROWS, &n) == OK;
    r->next_ms = ms_since(start);
    if (good) {
        place_even(&v, &r->low, &r->high);
        memcpy(before, v.slots, sizeof(before));
        v.node_n++;
        good = place_settle(&v);
        r->joined = place_moved(&v, before, nodes + 1);
        memcpy(before, v.slots, sizeof(before));
        v.nodes[nodes / 2].state = NODE_REMOVED;
        good = good && place_settle(&v);
        r->lost = place_moved(&v, before, nodes + 1);
    }
    place_view_free(&v);
    return good;
}

static int place_table(void)
{
    const uint32_t sizes[] = {2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1000};

    printf("65,536 slots. homes: fewest and most of a node / its share. moved:"
           "\nhomes that changed when a node joined, then one was lost, / "
           "(slots / nodes)\n\n%6s %8s %8s %8s %8s %10s %10s\n",
           "nodes", "fewest", "most", "joined", "lost", "compute ms",
           "look ms");
    for (uint32_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        struct place_result r;

        if (!place_run(sizes[i], &r)) {
            fprintf(stderr, "pikv-bench place: out of memory\n");
            return 1;
        }
        printf("%6u %8.3f %8.3f %8.3f %8.3f %10.1f %10.2f\n", sizes[i], r.low,
               r.high, r.joined, r.lost, r.compute_ms, r.next_ms);
    }
    return 0;
}

static int place_usage(const char *why, const char *what)
{
    fprintf(stderr,
            "pikv-bench place: %s%s\n"
            "usage: pikv-bench place [--trace FILE [--nodes N]]\n"
            "  FILE: jsonl or jsonl.gz in the Mooncake format\n"
            "  N: 2 to 64, default 8\n",
            why, what);
    return 2;
}

int bench_place(int argc, char **argv)
{
    const char *trace = NULL;
    unsigned long nodes = 8;

    for (int i = 1; i < argc; i++) {
        char *end = NULL;

        if (i + 1 == argc)
            return place_usage("unknown, or a value is missing: ", argv[i]);
        if (strcmp(argv[i], "--trace") == 0)
            trace = argv[i + 1];
        else if (strcmp(argv[i], "--nodes") == 0)
            nodes = strtoul(argv[i + 1], &end, 10);
        else
            return place_usage("unknown: ", argv[i]);
        if ((end && *end) || nodes < 2 || nodes > PLACE_NODES_MAX)
            return place_usage("not a value of it: ", argv[i]);
        i++;
    }
    return trace ? bench_place_trace(trace, (uint32_t)nodes) : place_table();
}
