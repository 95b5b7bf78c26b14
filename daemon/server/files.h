/* SPDX-License-Identifier: Apache-2.0
 *
 * The daemon's files, memory mappings, clocks and random bytes (shell). All of
 * it is for boot, reload, the registry and shutdown: it blocks and is never
 * called on a lane.
 *
 * Every failure says which path or setting, what the system said, and what to
 * do about it. ERR_IO unless noted; nothing is left half done. */
#ifndef SERVER_FILES_H
#define SERVER_FILES_H

#include "base/err.h"
#include "server/config.h"

/* ---- files */
/* The whole file with a NUL behind it; free() it. ERR_LIMIT: above max. */
must_check enum err files_read(const char *path, size_t max, char **text_out,
                               size_t *len_out, struct errmsg *m);
/* Replaces the file so that after a crash at any moment it holds either the old
 * or the new bytes, whole; durable when this returns. */
must_check enum err files_replace(const char *path, const void *text,
                                  size_t len, struct errmsg *m);

/* Names in a directory that end in suffix, sorted by byte order; a directory
 * that is not there has none. */
struct files_list {
    char **names;
    size_t n;
};
must_check enum err files_list_new(struct files_list *list, const char *dir,
                                   const char *suffix, struct errmsg *m);
void files_list_free(struct files_list *list);

/* Defaults, then the file at path, then every conf.d/x.json beside it, then
 * the variables. path NULL: no file. Not checked yet (config_check): --set may
 * come after. ignored: see config_load_env. */
must_check enum err files_config(struct config *c, const char *path,
                                 char *const *environ_list,
                                 struct errmsg *ignored, struct errmsg *m);

/* A directory that exists and can be written, for the setting named key. */
must_check enum err files_dir_check(const char *key, const char *dir,
                                    struct errmsg *m);
/* Takes a lock file for the life of the process (or until close of the fd): one
 * daemon per socket and state directory. ERR_BUSY names the pid that has it. */
must_check enum err files_lock(const char *path, int *fd_out, struct errmsg *m);

/* ---- clocks and random bytes */
uint64_t files_mono_ns(void);
uint64_t files_wall_us(void);
must_check enum err files_random(void *buf, size_t n);

/* node.lanes; auto: half of the processors that this process may use, at least
 * 1 and at most FILES_LANES_AUTO. */
enum { FILES_LANES_AUTO = 4 };
uint32_t files_lanes(const struct config *c);

/* ---- memory */
struct arena_map {
    uint8_t *p;     /* 2 MiB aligned; NULL when closed */
    uint64_t bytes; /* mapped: asked for, rounded up to pages */
    int fd;         /* sealed against resizing where it is a memfd */
    uint64_t page;  /* bytes of a page that the kernel promised */
    char got[120];  /* what it is, in words: for the log and /readyz */
};

struct files_meminfo {
    uint64_t available_bytes; /* huge pages set aside are not in it */
    uint64_t huge_page_bytes, huge_free;
};
/* From the text of /proc/meminfo; 0 for what it does not say. */
struct files_meminfo files_meminfo(const char *text);
/* Of this process: less is available where a control group says so. */
struct files_meminfo files_memory(void);
/* dram.capacity in whole 2 MiB units; "auto" resolved. ERR_CONFIG: more than
 * the machine has. */
must_check enum err files_dram_bytes(const struct config *c,
                                     uint64_t *bytes_out, struct errmsg *m);
/* One mapping by dram.backing, dram.hugepages and dram.lock. */
must_check enum err files_arena_open(const struct config *c, uint64_t bytes,
                                     struct arena_map *out, struct errmsg *m);
void files_arena_close(struct arena_map *a); /* accepts zeros */
/* Makes [off, off + bytes) resident without changing it, also while others
 * write there. Any thread; the caller chooses the chunk. */
void files_arena_prefault(const struct arena_map *a, uint64_t off,
                          uint64_t bytes);
/* A descriptor of the same memory that can only be read (loans); the
 * caller's. */
must_check enum err files_arena_share(const struct arena_map *a, int *fd_out,
                                      struct errmsg *m);

#endif
