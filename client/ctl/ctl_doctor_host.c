/* SPDX-License-Identifier: Apache-2.0
 *
 * doctor: the kernel, the processor and libraries. */
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "client/ctl/ctl_doctor.h"

enum {
    FDS_PER_CLIENT = 6, /* socket, ring, two wake-ups, two memories */
    FDS_MORE = 128,
    CLOCK_2024_S = 1704067200,
};

void doctor_files(struct doctor *d)
{
    static const char why[] = "every connection holds several descriptors";
    uint64_t need = doctor_number(d, "limits.clients", 1024) * FDS_PER_CLIENT *
                        doctor_lanes(d) +
                    FDS_MORE;
    char fix[128];
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        r.rlim_cur = 0;
    snprintf(fix, sizeof(fix),
             "LimitNOFILE=1048576 (the unit has it), or: ulimit -n %" PRIu64,
             need);
    if (r.rlim_cur >= need)
        doctor_say(d, DOCTOR_OK, why, NULL,
                   "%" PRIu64 " in this shell, %" PRIu64 " for limits.clients",
                   (uint64_t)r.rlim_cur, need);
    else
        doctor_say(d, DOCTOR_WARN, why, fix,
                   "%" PRIu64
                   " in this shell, limits.clients may take %" PRIu64,
                   (uint64_t)r.rlim_cur, need);
}

void doctor_cpu(struct doctor *d)
{
    static const char why[] = "copies and checksums use vector instructions";
#if defined(__x86_64__)
    bool avx512 =
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
    bool avx2 = __builtin_cpu_supports("avx2");
    bool crc =
        __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");

    doctor_say(d, crc && avx2 ? DOCTOR_OK : DOCTOR_WARN, why,
               crc && avx2 ? NULL
                           : "in a virtual machine: give it the host's "
                             "processor model",
               "%s, %s",
               avx512 ? "avx512"
               : avx2 ? "avx2"
                      : "no avx2",
               crc ? "crc32c by hardware" : "no crc32c by hardware");
#else
    doctor_say(d, DOCTOR_OK, why, NULL,
               "not an x86-64 processor: the "
               "portable code is used");
#endif
}

void doctor_clock(struct doctor *d)
{
    static const char why[] =
        "generations of namespaces start at the date; every step reads the "
        "clock";
    char source[64] = "";
    struct timespec now;

    doctor_read("/sys/devices/system/clocksource/clocksource0/"
                "current_clocksource",
                source, sizeof(source));
    source[strcspn(source, "\n")] = '\0';
    clock_gettime(CLOCK_REALTIME, &now);
    if (now.tv_sec < CLOCK_2024_S)
        doctor_say(d, DOCTOR_FAIL, why, "timedatectl set-ntp true",
                   "the date is before 2024");
    else if (strcmp(source, "hpet") == 0 || strcmp(source, "acpi_pm") == 0)
        doctor_say(d, DOCTOR_WARN, why,
                   "boot with tsc=reliable if the processor's is",
                   "the clock source is %s, which is slow", source);
    else
        doctor_say(d, DOCTOR_OK, why, NULL, "clock source %s",
                   source[0] ? source : "unknown");
}

/* ---- the kernel ---- */

void doctor_io_uring(struct doctor *d)
{
    bool ssd = doctor_text(d, "ssd.paths", "")[0] != '\0';
    const char *engine = doctor_text(d, "ssd.engine", "auto");
    bool must = ssd && strcmp(engine, "uring") == 0;
    const char *why =
        ssd ? "SSDs are read and written by it; without it threads do, slower"
            : "a tier on SSD reads by it; DRAM alone does not need it";
    uint64_t params[32] = {0}; /* struct io_uring_params, 120 bytes */
    char text[32] = "";
    long fd = syscall(SYS_io_uring_setup, 1, params);
    int e = errno;

    if (fd >= 0) {
        close((int)fd);
        doctor_say(d, DOCTOR_OK, why, NULL, "works");
        return;
    }
    doctor_read("/proc/sys/kernel/io_uring_disabled", text, sizeof(text));
    if (text[0] == '1' || text[0] == '2')
        doctor_say(d, must ? DOCTOR_FAIL : DOCTOR_WARN, why,
                   "sysctl -w kernel.io_uring_disabled=0",
                   "kernel.io_uring_disabled is %c", text[0]);
    else
        doctor_say(d, must ? DOCTOR_FAIL : DOCTOR_WARN, why,
                   e == ENOSYS ? "a kernel from 5.10 on"
                               : "allow io_uring_setup in the seccomp filter "
                                 "of the container",
                   "io_uring_setup: %s", strerror(e));
}

void doctor_seccomp(struct doctor *d)
{
    static const char why[] =
        "pikvd and its clients share memory with memfd_create";
    static char text[8192];
    uint64_t mode;
    int fd = memfd_create("pikvctl-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int e = errno;

    doctor_read("/proc/self/status", text, sizeof(text));
    mode = doctor_field(text, "\nSeccomp:", 0);
    if (fd < 0) {
        doctor_say(d, DOCTOR_FAIL, why,
                   mode ? "allow memfd_create in the seccomp filter of the "
                          "container"
                        : "a kernel with CONFIG_MEMFD_CREATE",
                   "memfd_create: %s; seccomp mode %" PRIu64, strerror(e),
                   mode);
        return;
    }
    close(fd);
    doctor_say(d, DOCTOR_OK, why, NULL, "%s; memfd_create works",
               mode == 0   ? "no filter"
               : mode == 2 ? "a filter is on"
                           : "strict");
}

/* ---- UCX ---- */

void doctor_ucx(struct doctor *d)
{
    static const char why[] =
        "pikvd is linked with it, clients open it for ucx: addresses";
    void (*version)(unsigned *, unsigned *, unsigned *);
    unsigned v[3] = {0};
    void *lib;

    /* Loading it must not take over this process's signals. */
    setenv("UCX_HANDLE_ERRORS", "none", 0);
    lib = dlopen("libucp.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        doctor_say(d, d->pikvd[0] ? DOCTOR_FAIL : DOCTOR_WARN, why,
                   "apt-get install libucx0", "libucp.so.0 is not there");
        return;
    }
    *(void **)&version = dlsym(lib, "ucp_get_version");
    if (version)
        version(&v[0], &v[1], &v[2]);
    dlclose(lib);
    if (v[0] > 1 || (v[0] == 1 && v[1] >= 13))
        doctor_say(d, DOCTOR_OK, why, NULL, "version %u.%u.%u", v[0], v[1],
                   v[2]);
    else
        doctor_say(d, DOCTOR_WARN, why, "apt-get install libucx0",
                   "version %u.%u.%u, 1.13 or later is tested", v[0], v[1],
                   v[2]);
}
