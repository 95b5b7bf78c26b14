/* SPDX-License-Identifier: Apache-2.0
 *
 * A run of addressable bytes: what a block is made of, what a transport moves.
 */
#ifndef BASE_SPAN_H
#define BASE_SPAN_H

#include "base/base.h"

struct span {
    uint8_t *p;
    uint64_t len;
};

#endif
