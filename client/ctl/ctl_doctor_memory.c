/* SPDX-License-Identifier: Apache-2.0
 *
 * doctor: is there memory for the tier, and of which kind. Limits are those of
 * this shell; the systemd unit sets its own, which the fixes name. */
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/vfs.h>

#include "client/ctl/ctl_doctor.h"

#define HUGE_DIR "/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define THP_FILE "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

enum { WORDS = 4096, BYTES_TEXT = 32 };

static uint64_t file_number(const char *path, uint64_t dflt)
{
    char text[64];

    return doctor_read(path, text, sizeof(text)) ? doctor_field(text, "", dflt)
                                                 : dflt;
}

uint64_t doctor_available(void)
{
    char text[WORDS];

    if (!doctor_read("/proc/meminfo", text, sizeof(text)))
        return 0;
    return doctor_field(text, "MemAvailable:", 0) << 10;
}

static uint64_t huge_free_bytes(void)
{
    return file_number(HUGE_DIR "free_hugepages", 0) * MIB(2);
}

void doctor_memory(struct doctor *d)
{
    static const char why[] = "pikvd takes dram.capacity at boot";
    uint64_t have = doctor_available(), want = doctor_dram_bytes(d);
    char have_text[BYTES_TEXT], want_text[BYTES_TEXT], fix[96];

    if (strcmp(doctor_text(d, "dram.hugepages", "auto"), "off") != 0)
        have += huge_free_bytes();
    doctor_bytes(have, have_text, sizeof(have_text));
    doctor_bytes(want, want_text, sizeof(want_text));
    snprintf(fix, sizeof(fix), "\"dram\": {\"capacity\": \"%" PRIu64 "MiB\"}",
             (have >> 20) / 4 * 3);
    if (d->running || want <= have)
        doctor_say(d, DOCTOR_OK, why, NULL, "%s available, tier of %s%s",
                   have_text, want_text,
                   d->running ? ", a daemon has its memory" : "");
    else
        doctor_say(d, DOCTOR_FAIL, why, fix, "%s available, tier of %s",
                   have_text, want_text);
}

/* The tightest memory.max on the way up from this process's group. */
static uint64_t cgroup_max(void)
{
    char text[WORDS], path[WORDS + 64], *at, *slash;
    uint64_t max = file_number("/sys/fs/cgroup/memory.max", UINT64_MAX);

    if (!doctor_read("/proc/self/cgroup", text, sizeof(text)))
        return max;
    at = strstr(text, "0::");
    if (!at)
        return min_u64(
            max, file_number("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                             UINT64_MAX));
    at += 3;
    at[strcspn(at, "\n")] = '\0';
    while (at[0] == '/' && at[1]) {
        snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", at);
        max = min_u64(max, file_number(path, UINT64_MAX));
        slash = strrchr(at, '/');
        *slash = '\0';
    }
    return max;
}

void doctor_cgroup(struct doctor *d)
{
    static const char why[] = "beyond it the kernel kills the daemon";
    uint64_t max = cgroup_max(), want = doctor_dram_bytes(d);
    char max_text[BYTES_TEXT], want_text[BYTES_TEXT];

    doctor_bytes(max, max_text, sizeof(max_text));
    doctor_bytes(want, want_text, sizeof(want_text));
    if (max >= UINT64_C(1) << 60)
        doctor_say(d, DOCTOR_OK, why, NULL, "no memory limit");
    else if (want <= max)
        doctor_say(d, DOCTOR_OK, why, NULL, "limit of %s, tier of %s", max_text,
                   want_text);
    else
        doctor_say(d, DOCTOR_FAIL, why,
                   "systemctl edit pikvd: MemoryMax= the tier plus 4G; in a "
                   "container raise its limit; or lower dram.capacity",
                   "limit of %s, tier of %s", max_text, want_text);
}

/* ---- pages ---- */

void doctor_hugepages(struct doctor *d)
{
    static const char why[] = "with 2 MiB pages copies miss the TLB less";
    const char *mode = doctor_text(d, "dram.hugepages", "auto");
    uint64_t all = file_number(HUGE_DIR "nr_hugepages", 0);
    uint64_t have = file_number(HUGE_DIR "free_hugepages", 0);
    uint64_t want = (doctor_dram_bytes(d) + MIB(2) - 1) / MIB(2);
    bool enough = have >= want || (d->running && all >= want);
    enum doctor_state state = DOCTOR_OK;
    char fix[64];

    snprintf(fix, sizeof(fix), "sysctl -w vm.nr_hugepages=%" PRIu64,
             want + all - have);
    if (strcmp(mode, "on") == 0 && !enough)
        state = DOCTOR_FAIL;
    else if (strcmp(mode, "auto") == 0 && !enough)
        state = DOCTOR_WARN;
    doctor_say(d, state, why, state == DOCTOR_OK ? NULL : fix,
               "%" PRIu64 " of 2 MiB, %" PRIu64 " free, the tier takes %" PRIu64
               "; dram.hugepages is %s",
               all, have, want, mode);
}

void doctor_thp(struct doctor *d)
{
    static const char why[] =
        "without set-aside huge pages the kernel may still give some";
    char text[256], *word, *end;
    bool needed = strcmp(doctor_text(d, "dram.hugepages", "auto"), "auto") == 0;

    if (!doctor_read(THP_FILE, text, sizeof(text)) ||
        !(word = strchr(text, '[')) || !(end = strchr(word, ']'))) {
        doctor_say(d, needed ? DOCTOR_WARN : DOCTOR_OK, why, NULL,
                   "this kernel has no transparent huge pages for shared "
                   "memory");
        return;
    }
    *end = '\0';
    word++;
    if (!needed || strcmp(word, "always") == 0 || strcmp(word, "advise") == 0 ||
        strcmp(word, "within_size") == 0)
        doctor_say(d, DOCTOR_OK, why, NULL, "shared memory: %s", word);
    else
        doctor_say(d, DOCTOR_WARN, why, "echo advise > " THP_FILE,
                   "shared memory: %s", word);
}

/* ---- /dev/shm ---- */

static void shm_backing(struct doctor *d, const char *dir)
{
    static const char why[] = "dram.backing puts the tier there";
    struct statfs fs;
    uint64_t have, want = doctor_dram_bytes(d);
    char have_text[BYTES_TEXT], want_text[BYTES_TEXT], fix[400];

    if (statfs(dir, &fs) != 0) {
        doctor_say(d, DOCTOR_FAIL, why, "mount it, or dram.backing memfd",
                   "%s is not there", dir);
        return;
    }
    have = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
    doctor_bytes(have, have_text, sizeof(have_text));
    doctor_bytes(want, want_text, sizeof(want_text));
    snprintf(fix, sizeof(fix), "mount -o remount,size=%" PRIu64 "M %s",
             (want >> 20) + 64, dir);
    if (d->running || have >= want)
        doctor_say(d, DOCTOR_OK, why, NULL, "%s has %s free, tier of %s", dir,
                   have_text, want_text);
    else
        doctor_say(d, DOCTOR_FAIL, why, fix, "%s has %s free, tier of %s", dir,
                   have_text, want_text);
}

void doctor_shm(struct doctor *d)
{
    static const char why[] = "engines keep the memory they register there";
    const char *backing = doctor_text(d, "dram.backing", "memfd");
    char size[BYTES_TEXT], left[BYTES_TEXT];
    struct statfs fs;
    uint64_t bytes;

    if (strncmp(backing, "tmpfs:", 6) == 0) {
        shm_backing(d, backing + 6);
        return;
    }
    if (statfs("/dev/shm", &fs) != 0 || fs.f_type != TMPFS_MAGIC) {
        doctor_say(d, DOCTOR_WARN, why, "mount -t tmpfs tmpfs /dev/shm",
                   "/dev/shm is not a tmpfs");
        return;
    }
    bytes = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize;
    doctor_bytes(bytes, size, sizeof(size));
    doctor_bytes((uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize, left,
                 sizeof(left));
    if (bytes && bytes < GIB(1))
        doctor_say(d, DOCTOR_WARN, why,
                   "mount -o remount,size=50% /dev/shm; for a container "
                   "--shm-size",
                   "%s in all, %s free", size, left);
    else
        doctor_say(d, DOCTOR_OK, why, NULL, "%s in all, %s free", size, left);
}

/* ---- memlock ---- */

void doctor_memlock(struct doctor *d)
{
    static const char why[] =
        "dram.lock and RDMA devices need memory that is locked";
    static const char fix[] =
        "LimitMEMLOCK=infinity (the unit has it), or: ulimit -l unlimited";
    const char *tls = doctor_text(d, "listen.ucx.transports", "tcp");
    bool lock = doctor_bool(d, "dram.lock", false);
    bool rdma =
        doctor_bool(d, "listen.ucx.enabled", false) && strcmp(tls, "tcp") != 0;
    uint64_t want = doctor_dram_bytes(d);
    enum doctor_state state = DOCTOR_OK;
    char text[BYTES_TEXT];
    struct rlimit r;

    if (getrlimit(RLIMIT_MEMLOCK, &r) != 0)
        r.rlim_cur = 0;
    if (r.rlim_cur == RLIM_INFINITY) {
        doctor_say(d, DOCTOR_OK, why, NULL, "unlimited");
        return;
    }
    if (r.rlim_cur < want)
        state = lock ? DOCTOR_FAIL : rdma ? DOCTOR_WARN : DOCTOR_OK;
    doctor_say(d, state, why, state == DOCTOR_OK ? NULL : fix,
               "limit of %s in this shell; dram.lock is %s",
               doctor_bytes(r.rlim_cur, text, sizeof(text)),
               lock ? "on" : "off");
}
