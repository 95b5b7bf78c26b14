/* SPDX-License-Identifier: Apache-2.0
 *
 * The registry's file (files_registry.h); its text is registry_text.c's. */
#include "server/files_registry.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "server/files.h"

enum { REGISTRY_BYTES_MAX = 64 << 20 };

enum err files_registry_save(const char *path, const char *text, size_t len)
{
    struct errmsg m;
    enum err e = files_replace(path, text, len, &m);

    if (e)
        LOG(LOG_ERROR, "registry_not_saved", "error=%s", LOG_STR(m.text));
    return e;
}

/* A node that joins a cluster: slots are the cluster's from now on. */
static enum err reseed(struct registry *r, const char *path, struct errmsg *m)
{
    struct textbuf text = {0};
    uint32_t n = registry_reseed(r);
    enum err e = OK;

    if (n == 0)
        return OK;
    LOG(LOG_NOTICE, "namespaces_reseeded",
        "n=%u, blocks stored before are not found again", n);
    registry_text(r, NULL, &text);
    if (text.bad || files_registry_save(path, text.text, text.len))
        e = errmsg_set(m, ERR_IO, "%s: cannot be written", path);
    free(text.text);
    return e;
}

enum err files_registry_load(struct registry *r, const char *path,
                             struct errmsg *m)
{
    char *text;
    size_t len;
    enum err e;

    if (access(path, F_OK) != 0 && errno == ENOENT)
        return OK;
    e = files_read(path, REGISTRY_BYTES_MAX, &text, &len, m);
    if (e)
        return e;
    e = registry_load(r, text, len, m);
    free(text);
    if (e) {
        errmsg_wrap(m, e, "%s", path);
        len = strlen(m->text);
        snprintf(m->text + len, sizeof(m->text) - len,
                 "; fix: mend it, or move it away and namespaces start anew");
        return e;
    }
    LOG(LOG_INFO, "registry_loaded", "namespaces=%u", r->n);
    return reseed(r, path, m);
}
