/* SPDX-License-Identifier: Apache-2.0
 *
 * The countdown behind fault_here(). Thread-local: a test arms only the thread
 * that it runs on, and lanes under test count alone. */
#include "base/fault.h"

#ifdef PIKV_FAULTS

struct fault {
    uint32_t left; /* calls until the one that fails; 0 disarmed */
    bool forever, hit;
    const char *point;
};

static _Thread_local struct fault fault;

bool fault_here(const char *point)
{
    struct fault *f = &fault;

    if (f->left == 0)
        return false;
    if (f->left > 1) {
        f->left--;
        return false;
    }
    if (!f->hit)
        f->point = point;
    f->hit = true;
    if (!f->forever)
        f->left = 0;
    return true;
}

void fault_arm(uint32_t nth)
{
    fault = (struct fault){.left = nth};
}

void fault_arm_forever(uint32_t nth)
{
    fault = (struct fault){.left = nth, .forever = true};
}

bool fault_hit(void)
{
    return fault.hit;
}

const char *fault_point(void)
{
    return fault.point ? fault.point : "";
}

#else

/* ISO C wants a translation unit to hold something. */
typedef int fault_none;

#endif
