/* SPDX-License-Identifier: Apache-2.0
 *
 * Countdown fault injection: fault_here("slab_alloc") at a fallible leaf is
 * false unless a test armed it. Compiled to false without PIKV_FAULTS (release
 * builds). Tests: for (i = 1; ; i++) { fault_arm(i); run; if (!fault_hit())
 * break; check invariants; }. Thread-local, so that a test arms only itself. */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

#include "base/base.h"

#ifdef PIKV_FAULTS
bool fault_here(const char *point);
void fault_arm(uint32_t nth); /* fail the nth call from now; 0 disarms */
void fault_arm_forever(uint32_t nth); /* and every one after it */
bool fault_hit(void);         /* did the armed fault fire? */
const char *fault_point(void); /* the name that fired, or "" */
#else
static inline bool fault_here(const char *point)
{
    (void)point;
    return false;
}
#endif

#endif
