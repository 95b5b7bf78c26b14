/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads libucp without touching the host process. Loading UCX 1.13 installs
 * handlers for fatal signals and may print warnings; the usual cure, its
 * environment, is not ours to change. So: the handlers of all signals are read
 * before and put back after, and the log level is lowered through UCX's own
 * function, unless the host had UCX loaded or set a level already. The library
 * is never closed again: UCX keeps threads and atexit work in it. */
#include "client/ucx_api.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "client/handle.h"

enum { SIGNALS = 64 };

static bool handler_differs(const struct sigaction *a,
                            const struct sigaction *b)
{
    return a->sa_handler != b->sa_handler || a->sa_flags != b->sa_flags;
}

/* dlopen with the handlers put back. Two threads that load at once both put
 * back what the first one found or what the other has put back. */
static void *load_quietly(const char *name)
{
    struct sigaction before[SIGNALS + 1], after;
    bool known[SIGNALS + 1];
    void *lib;

    for (int i = 1; i <= SIGNALS; i++)
        known[i] = sigaction(i, NULL, &before[i]) == 0;
    lib = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    for (int i = 1; i <= SIGNALS; i++)
        if (known[i] && sigaction(i, NULL, &after) == 0 &&
            handler_differs(&before[i], &after))
            (void)sigaction(i, &before[i], NULL);
    return lib;
}

static void load_silent(void)
{
    void *lib = dlopen("libucs.so.0", RTLD_NOW | RTLD_NOLOAD);
    ucs_status_t (*set)(const char *, const char *);
    void *sym = lib ? dlsym(lib, "ucs_global_opts_set_value") : NULL;

    memcpy(&set, &sym, sizeof(set));
    if (sym && !getenv("UCX_LOG_LEVEL"))
        (void)set("LOG_LEVEL", "fatal");
}

bool ucx_load(struct ucx_api *api)
{
    void *was = dlopen("libucp.so.0", RTLD_NOW | RTLD_NOLOAD);
    void *sym;

    api->lib = was ? was : load_quietly("libucp.so.0");
    if (!api->lib) {
        const char *why = dlerror();

        (void)last_error_set(ERR_UNSUPPORTED, "UCX: %s",
                             why ? why : "libucp.so.0 cannot be loaded");
        return false;
    }
    if (!was)
        load_silent();
#define UCX_FIND(name)                                                         \
    sym = dlsym(api->lib, #name);                                              \
    if (!sym) {                                                                \
        (void)last_error_set(ERR_UNSUPPORTED, "UCX: no " #name);               \
        return false;                                                          \
    }                                                                          \
    memcpy(&api->name, &sym, sizeof(sym));
    UCX_FUNCTIONS(UCX_FIND)
#undef UCX_FIND
    return true;
}
