/* SPDX-License-Identifier: Apache-2.0
 *
 * config check, dump, schema: pikvd itself is run, because it alone knows its
 * settings. Its output and exit status are the verb's. Where it is looked for:
 * $PIKVD, beside pikvctl, in ../sbin from there, in PATH. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/ctl.h"

static bool take(char *path, size_t n, const char *dir, size_t dir_n,
                 const char *name)
{
    int len = snprintf(path, n, "%.*s%s", (int)dir_n, dir, name);

    return len > 0 && (size_t)len < n && access(path, X_OK) == 0;
}

static bool find_beside(char *path, size_t n)
{
    char self[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    if (len <= 0)
        return false;
    self[len] = '\0';
    slash = strrchr(self, '/');
    len = slash - self;
    return take(path, n, self, (size_t)len, "/pikvd") ||
           take(path, n, self, (size_t)len, "/../sbin/pikvd");
}

static bool find_in_path(char *path, size_t n)
{
    const char *at = getenv("PATH");

    while (at && *at) {
        size_t len = strcspn(at, ":");

        if (len && take(path, n, at, len, "/pikvd"))
            return true;
        at += len + (at[len] == ':');
    }
    return take(path, n, "/usr/local/sbin", 15, "/pikvd") ||
           take(path, n, "/usr/sbin", 9, "/pikvd");
}

bool config_find_pikvd(char *path, size_t n)
{
    const char *named = getenv("PIKVD");

    if (named && *named)
        return take(path, n, named, strlen(named), "");
    return find_beside(path, n) || find_in_path(path, n);
}

static int run_pikvd(char *const *argv)
{
    char path[PATH_MAX];

    if (!config_find_pikvd(path, sizeof(path)))
        return ctl_fail(CTL_ERROR, "config: no pikvd beside pikvctl, in $PIKVD "
                                   "or in PATH; set PIKVD to its path");
    fflush(stdout);
    execv(path, argv);
    return ctl_fail(CTL_ERROR, "%s: %s", path, strerror(errno));
}

static char word_pikvd[] = "pikvd", word_config[] = "--config",
            word_check[] = "--check-config", word_dump[] = "--dump-config",
            word_schema[] = "--print-schema";

int verb_config_check(struct ctl *c)
{
    char *argv[] = {word_pikvd, word_check, word_config, c->args[0], NULL};

    return run_pikvd(argv);
}

int verb_config_dump(struct ctl *c)
{
    char *argv[] = {word_pikvd, word_dump, c->arg_n ? word_config : NULL,
                    c->arg_n ? c->args[0] : NULL, NULL};

    return run_pikvd(argv);
}

int verb_config_schema(struct ctl *c)
{
    char *argv[] = {word_pikvd, word_schema, NULL};

    (void)c;
    return run_pikvd(argv);
}
