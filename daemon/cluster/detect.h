/* SPDX-License-Identifier: Apache-2.0
 *
 * The failure detector: what the leader makes of beats and of their absence.
 *
 *     beat --heard--> FINE --suspect--> SUSPECT --down--> verdict DOWN
 *                      ^  \--3 reporters in 5 s--> PROBATION (10 s)
 *                      +---- beat of a DOWN node, steady --> verdict UP
 *                                        DOWN for `removed` --> verdict REMOVED
 *
 * A verdict is said again every second until the view shows it; the caller
 * proposes it. SUSPECT and PROBATION are marks of this leader only: such a node
 * is given nothing new.
 *
 * It does not believe itself blindly (Lifeguard's idea):
 *  1. A tick that comes late means that this process slept: the time is not
 *     held against the others, they are as silent as they were before.
 *  2. When more than half of the serving members went silent, the leader's own
 *     network is the likelier culprit: verdict SELF (leadership should go to
 *     another), and nobody is DOWN until the silence has lasted three times as
 *     long as usual.
 *  3. A node that flaps is UP again only after it was steady for 1, 2, 4 ... 30
 *     seconds; five quiet minutes forgive.
 *
 * Pure. Control thread of the leader; made anew by each new leader, which first
 * supposes that everybody was heard just now. */
#ifndef CLUSTER_DETECT_H
#define CLUSTER_DETECT_H

#include "cluster/view.h"

enum {
    DETECT_REPORTERS = 3,
    DETECT_REPORT_MS = 5000,
    DETECT_PROBATION_MS = 10000,
    DETECT_LATE_MS = 400,   /* between two ticks: this process slept */
    DETECT_AGAIN_MS = 1000, /* a verdict is said again */
    DETECT_FORGIVE_MS = 300000,
    DETECT_STEADY_MAX_MS = 30000,
};

enum detect_kind {
    DETECT_SUSPECT,   /* mark set */
    DETECT_CLEAR,     /* mark gone */
    DETECT_PROBATION, /* mark set: many cannot reach it */
    DETECT_DOWN,      /* propose */
    DETECT_UP,        /* propose: JOINING or DOWN, and heard */
    DETECT_REMOVED,   /* propose */
    DETECT_SELF,      /* this leader should not be one */
};

struct detect_verdict {
    enum detect_kind kind;
    uint16_t node;
    uint64_t silent_ms;
};

struct detect_node {
    uint64_t heard_ms;  /* the last beat */
    uint64_t steady_ms; /* beats without a gap since */
    uint64_t down_ms;   /* seen DOWN since */
    uint64_t asked_ms;  /* last verdict */
    uint64_t flap_ms;   /* went DOWN last */
    uint64_t probation_ms; /* until */
    uint64_t reported_ms[DETECT_REPORTERS];
    uint16_t reporter[DETECT_REPORTERS];
    uint8_t flaps, was;
    bool known, heard, suspect;
};

struct detect_cfg {
    uint32_t suspect_ms, down_ms, removed_ms;
};

struct detect {
    struct detect_cfg cfg;
    struct detect_node *nodes; /* NODES_MAX */
    uint64_t start_ms, tick_ms;
    uint64_t hold_ms; /* more than half are silent since; 0: no */
    uint64_t late;    /* ticks that were */
    uint32_t suspects;
};

must_check enum err detect_init(struct detect *d, const struct detect_cfg *cfg,
                                uint64_t now_ms);
void detect_fini(struct detect *d);
void detect_heard(struct detect *d, uint16_t node, uint64_t now_ms);
/* by cannot reach node. */
void detect_report(struct detect *d, uint16_t by, uint16_t node,
                   uint64_t now_ms);
/* At least every 100 ms. At most max verdicts; what does not fit comes with
 * the next tick. */
uint32_t detect_tick(struct detect *d, const struct view *v, uint16_t self,
                     uint64_t now_ms, struct detect_verdict *out,
                     uint32_t max);
/* Suspect or on probation: is to be given nothing new. */
bool detect_marked(const struct detect *d, uint16_t node, uint64_t now_ms);

#endif
