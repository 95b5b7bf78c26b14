/* SPDX-License-Identifier: Apache-2.0
 *
 * What the checks of `doctor` share. A check says one thing: how it is, what
 * was found, why that matters to pikvd, and the command that mends it. */
#ifndef CTL_CTL_DOCTOR_H
#define CTL_CTL_DOCTOR_H

#include "client/ctl/ctl.h"

enum doctor_state { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL };

struct doctor {
    struct ctl *c;
    const char *check;       /* the one that runs */
    char pikvd[4096];        /* "": there is none on this machine */
    const char *config;      /* its file; NULL: built-in settings */
    json_t *settings;        /* what pikvd says is in effect; NULL: unknown */
    bool running;            /* one of this machine answers */
    char running_error[512]; /* why none does */
    json_t *rows;
    bool failed;
};

/* found is printf-like; fix is NULL where nothing is to be done. */
void doctor_say(struct doctor *d, enum doctor_state state, const char *why,
                const char *fix, const char *found, ...) printf_like(5, 6);

/* Settings by path, "listen.shm.path"; the default when pikvd was not there. */
const char *doctor_text(const struct doctor *d, const char *path,
                        const char *dflt);
uint64_t doctor_number(const struct doctor *d, const char *path, uint64_t dflt);
bool doctor_bool(const struct doctor *d, const char *path, bool dflt);
/* Bytes of the tier: dram.capacity, or what auto comes to. */
uint64_t doctor_dram_bytes(const struct doctor *d);
uint32_t doctor_lanes(const struct doctor *d);

/* The start of a file in buf, NUL-terminated; false if it cannot be read. */
bool doctor_read(const char *path, char *buf, size_t n);
/* The number behind a name, as in "MemAvailable:  123 kB"; dflt if none. */
uint64_t doctor_field(const char *text, const char *name, uint64_t dflt);
const char *doctor_bytes(uint64_t bytes, char *buf, size_t n);

/* ctl_doctor_node.c: the daemon and its addresses */
/* Fills d->settings from d->c's --config for another verb; or says why not. */
int doctor_settings(struct doctor *d);
void doctor_config(struct doctor *d);
void doctor_daemon(struct doctor *d);
void doctor_socket_dir(struct doctor *d);
void doctor_socket(struct doctor *d);
void doctor_admin_port(struct doctor *d);
void doctor_ucx_port(struct doctor *d);
/* ctl_doctor_memory.c */
void doctor_memory(struct doctor *d);
void doctor_cgroup(struct doctor *d);
void doctor_hugepages(struct doctor *d);
void doctor_thp(struct doctor *d);
void doctor_shm(struct doctor *d);
void doctor_memlock(struct doctor *d);
uint64_t doctor_available(void);
/* ctl_doctor_host.c */
void doctor_files(struct doctor *d);
void doctor_cpu(struct doctor *d);
void doctor_clock(struct doctor *d);
void doctor_io_uring(struct doctor *d);
void doctor_seccomp(struct doctor *d);
void doctor_ucx(struct doctor *d);
/* ctl_doctor_ssd.c */
void doctor_ssd_paths(struct doctor *d);
void doctor_ssd_state(struct doctor *d);

#endif
