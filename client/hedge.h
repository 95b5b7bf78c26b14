/* SPDX-License-Identifier: Apache-2.0
 *
 * GETs asked of a second node (hedge.c). With kv->mu. */
#ifndef CLIENT_HEDGE_H
#define CLIENT_HEDGE_H

#include "client/spread.h"

/* A GET has begun: when it is to be hedged. */
void hedge_arm(struct pikv *kv, struct call *c);
/* That time has come. */
void hedge_due(struct pikv *kv, struct call *c, uint64_t now);
/* A GET has ended: what it took. */
void hedge_took(struct pikv *kv, const struct call *c);
/* All that a twin asked for has come, or its answer says that it will not. */
void hedge_came(struct pikv *kv, struct part *twin);
/* A part ends, its results are filled in: its twin goes, or goes on for it
 * (true). */
bool hedge_first_ended(struct pikv *kv, struct part *first);
/* A twin ends without having come. */
void hedge_failed(struct part *twin);

#endif
