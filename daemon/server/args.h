/* SPDX-License-Identifier: Apache-2.0
 *
 * What pikvd was asked to do. Main thread, before anything else. */
#ifndef SERVER_ARGS_H
#define SERVER_ARGS_H

#include "server/config.h"

enum { ARGS_SETS_MAX = 256 };

enum args_mode {
    ARGS_SERVE,
    ARGS_CHECK_CONFIG,
    ARGS_DUMP_CONFIG,
    ARGS_PRINT_SCHEMA,
    ARGS_EXPLAIN,
};

struct args {
    enum args_mode mode;
    const char *config;              /* NULL: built-in settings */
    const char *topic;               /* ARGS_EXPLAIN */
    const char *sets[ARGS_SETS_MAX]; /* "key=value" */
    uint32_t set_n;
};

extern const char args_version[];

/* Fills zeroed args; -1 to go on, else the exit status (help, version, or a
 * usage error that has been printed). */
int args_parse(struct args *args, int argc, char **argv);
/* The configuration that they, the environment and files make, checked. */
must_check enum err args_config(const struct args *args, struct config *c,
                                struct errmsg *m);
/* What a daemon runs with: the same with this host filled in. */
must_check enum err args_config_here(const struct args *args, struct config *c,
                                     struct errmsg *m);
/* Prints what is wrong; EX_USAGE. */
int args_usage(const char *why, const char *what);

#endif
