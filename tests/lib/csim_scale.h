/* SPDX-License-Identifier: Apache-2.0
 *
 * One large simulated cluster for some minutes: how long a change takes to
 * reach everybody, how long a new leader takes, what leading costs. Prints the
 * figures; 0 if they are within the targets:
 *
 *     a change reaches 99 % of the nodes in 2 s
 *     a new leader after the old one's process died: 2.5 s (p99)
 *     a new leader after the old one fell silent: 5 s (p99)
 *
 * Every 20 s the leader is lost (by turns its process dies and its machine
 * falls silent), in between nodes come and go. */
#ifndef TESTS_CSIM_SCALE_H
#define TESTS_CSIM_SCALE_H

#include "base/base.h"

int csim_scale(uint64_t seed, uint32_t voters, uint32_t nodes,
               uint64_t minutes, bool verbose);

#endif
