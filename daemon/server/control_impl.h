/* SPDX-License-Identifier: Apache-2.0
 *
 * What control.c and control_ns.c share. Control thread. */
#ifndef SERVER_CONTROL_IMPL_H
#define SERVER_CONTROL_IMPL_H

#include "server/control.h"

void control_open(struct control *c, struct ctl_call *call);
void control_namespace(struct control *c, struct ctl_call *call);

#endif
