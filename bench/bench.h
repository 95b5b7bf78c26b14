/* SPDX-License-Identifier: Apache-2.0
 *
 * What the subcommands of pikv-bench share: values whose every byte can be
 * verified, latencies, CPU of another process, and options. */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One main per subcommand: argv[0] is its name. Exit status. */
int bench_load(int argc, char **argv);
int bench_replay(int argc, char **argv);
int bench_rival_replay(int argc, char **argv);
int bench_policy(int argc, char **argv);
int bench_size(int argc, char **argv);
int bench_compare(int argc, char **argv);
int bench_layers(int argc, char **argv);
int bench_lanes(int argc, char **argv);
int bench_ssd(int argc, char **argv);
int bench_place(int argc, char **argv);
int bench_hot(int argc, char **argv);

/* A value is an arithmetic sequence of 64-bit words made from its id, so that
 * two ids share no word at the same place, and a word out of place shows. Fast
 * enough to check every byte. len is a multiple of 8. */
void bench_fill(uint64_t id, void *p, size_t len);
bool bench_verify(uint64_t id, const void *p, size_t len);

/* Latencies in ns: exact values up to a cap, then every other one is kept. */
struct bench_lat {
    uint32_t *us_x16; /* sixteenths of a microsecond */
    size_t n, cap;
    uint64_t count, stride;
};
void bench_lat_add(struct bench_lat *l, uint64_t ns);
/* Adds what from has; exact while neither dropped any. */
void bench_lat_join(struct bench_lat *l, const struct bench_lat *from);
double bench_lat_us(struct bench_lat *l, double quantile); /* sorts */
void bench_lat_free(struct bench_lat *l);

uint64_t bench_now_ns(void);
/* User and system seconds of a process so far; 0 if it cannot be read. */
double bench_cpu_s(int pid);
/* "64KiB" or exits with a message naming the option. */
uint64_t bench_bytes(const char *option, const char *text);
_Noreturn void bench_die(const char *fmt, ...)
    __attribute__((format(printf, 1, 2)));

#endif
