/* SPDX-License-Identifier: Apache-2.0
 *
 * The control thread's loop (shell; the main thread): runs control's mail,
 * takes signals, tells the service manager how it goes, touches the tiers'
 * memory in the background, and leads the orderly stop:
 *
 *   RUNNING --SIGTERM, SIGINT--> DRAINING --all idle, timeout, second signal-->
 *   STOPPING --all lanes ended, control idle--> ENDED
 *
 *   SIGHUP   control_reload, whole or not at all
 *   SIGPIPE  ignored (main.c)
 *
 * A lane that does not end within LOOP_STUCK_MS of being told so makes run
 * return with ENDED not reached: main leaves at once, without tearing down what
 * that lane may still use. */
#ifndef SERVER_LOOP_CONTROL_H
#define SERVER_LOOP_CONTROL_H

#include "server/control.h"
#include "server/files.h"
#include "server/loop.h"
#include "server/notify.h"

struct uv_loop_s;
struct loop_control;

enum { LOOP_STUCK_MS = 10000 };

struct loop_control_cfg {
    struct control *control;
    struct loop *const *loops; /* one per lane of control, or NULL */
    struct notify *notify;
    const struct arena_map *arenas; /* to prefault; NULL or 0: none */
    uint32_t arena_n;
    void (*on_drain)(void *arg); /* an orderly stop begins; or NULL */
    void *arg;
};

must_check enum err loop_control_open(struct loop_control **out,
                                      const struct loop_control_cfg *cfg,
                                      struct errmsg *m);
/* From READY to the end; true if every lane ended. */
bool loop_control_run(struct loop_control *lc);
/* Cuts and ends the loops that were started, for a start that failed half way;
 * after run it only says how that ended. */
bool loop_control_stop(struct loop_control *lc);
void loop_control_close(struct loop_control *lc); /* NULL is fine */

/* What others on this thread may ask. */
struct uv_loop_s *loop_control_uv(struct loop_control *lc);
bool loop_control_draining(const struct loop_control *lc);
/* Has this lane turned in the last three looks (about three seconds)? */
bool loop_control_alive(const struct loop_control *lc, uint32_t lane);
uint64_t loop_control_prefaulted(const struct loop_control *lc);
uint64_t loop_control_uptime_s(const struct loop_control *lc);

#endif
