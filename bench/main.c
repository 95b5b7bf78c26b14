/* SPDX-License-Identifier: Apache-2.0
 *
 * pikv-bench: measures pikvd. One subcommand per file; the rivals are in
 * compare*.c. Numbers that are kept stand in docs/BENCHMARKS.md. */
#include <stdio.h>
#include <string.h>

#include "bench/bench.h"

static const struct {
    const char *name;
    int (*main)(int argc, char **argv);
    const char *doc;
} commands[] = {
    {"load", bench_load, "put and get at a depth, sizes and batches given"},
    {"replay", bench_replay, "replay a conversation trace, verify every byte"},
    {"hot", bench_hot, "one prefix and a few experts that all want"},
    {"rival-replay", bench_rival_replay, "the same against Redis or memcached"},
    {"policy", bench_policy, "hit ratios of the eviction policies on a trace"},
    {"size", bench_size, "hit ratios by size of memory, from a trace"},
    {"compare", bench_compare, "against Redis, memcached, sockets and memcpy"},
    {"ssd", bench_ssd, "the daemon's disk layer beside fio"},
    {"layers", bench_layers, "parts of a GET, and layouts, beside plain calls"},
    {"place", bench_place, "placement and balance of slots, computed"},
    {"lanes", bench_lanes, "lanes with and without sharing: CPU of a LOOKUP"},
};

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "--help";

    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(name, commands[i].name) == 0)
            return commands[i].main(argc - 1, argv + 1);
    puts("usage: pikv-bench COMMAND [OPTIONS]   (COMMAND --help tells more)\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        printf("  %-12s %s\n", commands[i].name, commands[i].doc);
    return strcmp(name, "--help") == 0 ? 0 : 2;
}
