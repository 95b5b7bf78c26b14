/* SPDX-License-Identifier: Apache-2.0
 *
 * Assertions for hot loops. Each ck_assert of libcheck writes to a pipe, also
 * when it holds; these say something only when they do not. */
#ifndef TESTS_SURE_H
#define TESTS_SURE_H

#include <check.h>

#define SURE(cond) ((cond) ? (void)0 : ck_abort_msg("%s", #cond))
#define SURE_MSG(cond, ...) ((cond) ? (void)0 : ck_abort_msg(__VA_ARGS__))

#endif
