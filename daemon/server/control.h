/* SPDX-License-Identifier: Apache-2.0
 *
 * What the daemon has once, owned by the control thread: the namespace
 * registry, the running configuration, the list of lanes. Lanes ask by mail
 * and get the answer by mail; a changed namespace is sent to all lanes and the
 * asker is answered when every lane has it, so that a client never meets a lane
 * that does not know what another lane told it.
 *
 * Pure: time and persistence come through struct control_shell, which main.c
 * or the simulator fills. */
#ifndef SERVER_CONTROL_H
#define SERVER_CONTROL_H

#include "base/mailbox.h"
#include "server/config.h"
#include "server/registry.h"

struct lane;

struct control_shell {
    /* Makes the registry durable before OPEN or a bump is answered; ERR_IO
     * fails the call and changes nothing. NULL: no state_dir. */
    enum err (*save)(void *arg, const char *text, size_t len);
    /* SIGHUP, RELOAD: loads and checks a new configuration; NULL in tests. */
    enum err (*reload)(void *arg, struct config *out, struct errmsg *m);
    uint64_t (*random)(void *arg);
    void *arg;
};

struct control {
    const struct config *cfg;
    struct mailbox mailbox;
    struct registry registry;
    struct lane *const *lanes;
    uint32_t lane_n;
    struct control_shell shell;
    uint64_t boot; /* random id of this run */
};

must_check enum err control_init(struct control *c, const struct config *cfg,
                                 struct lane *const *lanes, uint32_t lane_n,
                                 const struct control_shell *shell);
void control_fini(struct control *c);
/* Runs mail; true if there was some. */
bool control_turn(struct control *c);
/* Whole or not at all; the errmsg names what is wrong. changed and
 * needs_restart list paths. */
must_check enum err control_reload(struct control *c, struct errmsg *m);

#endif
