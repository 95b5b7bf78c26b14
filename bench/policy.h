/* SPDX-License-Identifier: Apache-2.0
 *
 * `pikv-bench policy`: hit ratios of every eviction policy on a trace. */
#ifndef BENCH_POLICY_H
#define BENCH_POLICY_H

/* argv[0] is "policy". Returns the exit status: 0, 1 failed, 2 usage. */
int bench_policy(int argc, char **argv);

#endif
