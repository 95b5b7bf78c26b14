/* SPDX-License-Identifier: Apache-2.0
 *
 * The registry's file: loaded at boot, replaced before a change is answered. */
#ifndef SERVER_FILES_REGISTRY_H
#define SERVER_FILES_REGISTRY_H

#include "server/registry.h"

/* A file that is not there is an empty registry. In a cluster namespaces that
 * were made without it get its slots (registry_reseed), which is saved. CONFIG
 * says what is wrong and what to do; IO. */
must_check enum err files_registry_load(struct registry *r, const char *path,
                                        struct errmsg *m);
/* IO, which is logged. */
must_check enum err files_registry_save(const char *path, const char *text,
                                        size_t len);

#endif
